/* Numbers divided by the scale of a loss, in place, and looked at for infinities and NaN in the same pass over memory. Each
 * quotient is rounded once, to the type that it is stored in. */
#include <math.h>
#include <stdatomic.h>

#include "dispatch.h"
#include "simd/scalar.h"

typedef struct {
    char *data;
    xent_dtype dtype;
    double scale, factor; /* what a kernel divides or multiplies by */
    int multiplies, in_double;
    atomic_int not_finite;
} unscaling;

/* x / scale to 53 bits, the last of them 1 where some are lost: rounded to fewer, it is as if the quotient were exact. */
static double odd_quotient(double x, double scale) {
    const double q = x / scale, rest = xent_fma(-q, scale, x);
    if (!(fabs(q) < INFINITY) || rest == 0)
        return q;
    const uint64_t bits = f64_bits(q);
    return f64_from_bits(((rest < 0) == (x < 0) ? bits : bits - 1) | 1);
}

/* The same to the 24 bits of a float, of which a half type is made. */
static float odd_float(double x) {
    const float nearest = (float)x;
    if ((double)nearest == x || x != x)
        return nearest;
    const uint32_t bits = f32_bits(nearest);
    return f32_from_bits((fabs((double)nearest) > fabs(x) ? bits - 1 : bits) | 1);
}

/* Scales of more bits than a float has, or, for half types, than seven: then a quotient that is rounded to a float first may
 * end up on the other side of the middle between two halves. In double, one number after the other. */
static int unscale_in_double(xent_dtype dtype, char *data, int64_t count, double scale) {
    int all_finite = 1;
    for (int64_t i = 0; i < count; ++i) {
        float x;
        uint16_t half;
        if (dtype == XENT_F32)
            memcpy(&x, data + 4 * i, sizeof x);
        else {
            memcpy(&half, data + 2 * i, sizeof half);
            x = dtype == XENT_F16 ? xent_from_f16(half) : xent_from_bf16(half);
        }
        all_finite &= fabsf(x) < INFINITY;
        const double q = odd_quotient((double)x, scale);
        if (dtype == XENT_F32) {
            const float rounded = (float)q;
            memcpy(data + 4 * i, &rounded, sizeof rounded);
        } else {
            half = dtype == XENT_F16 ? xent_to_f16(odd_float(q)) : xent_to_bf16(odd_float(q));
            memcpy(data + 2 * i, &half, sizeof half);
        }
    }
    return all_finite;
}

static void unscale_piece(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    unscaling *u = context;
    char *const at = u->data + begin * xent_storage_bytes(u->dtype);
    const int all_finite = u->in_double
                               ? unscale_in_double(u->dtype, at, end - begin, u->scale)
                               : xent_kernels_for(u->dtype)->unscale(u->dtype, at, end - begin, u->factor, u->multiplies);
    if (!all_finite)
        atomic_store_explicit(&u->not_finite, 1, memory_order_relaxed);
}

xent_status xent_unscale(void *data, xent_dtype dtype, int64_t count, double scale, int threads, int *all_finite) {
    const double least = 0x1p-126, most = 0x1.fffffep127;
    if ((unsigned)dtype > XENT_BF16 || !xent_kernels_for(dtype) || count < 0 || !(scale >= least && scale <= most) ||
        threads < 0 || !all_finite || (count > 0 && !data) || (uintptr_t)data % (unsigned)xent_storage_bytes(dtype))
        return XENT_BAD_ARGUMENT;
    int exponent;
    const double mantissa = frexp(scale, &exponent), seven_bits = ldexp(mantissa, 7);
    unscaling u = {.data = data, .dtype = dtype, .scale = scale, .multiplies = mantissa == 0.5};
    u.factor = u.multiplies ? 1 / scale : scale;
    if (!u.multiplies && dtype != XENT_F64)
        u.in_double = dtype == XENT_F32 ? (double)(float)scale != scale : seven_bits != floor(seven_bits);
    const int64_t bytes = xent_storage_bytes(dtype), worth = count / WORTH_A_THREAD * bytes, grain = WORTH_A_THREAD / bytes;
    const int most_useful = xent_threads_for(threads), useful = worth < 1             ? 1
                                                                : worth < most_useful ? (int)worth
                                                                                      : most_useful;
    xent_parallel(count, grain < 1 ? 1 : grain, useful, unscale_piece, &u, NULL, NULL);
    *all_finite = !atomic_load_explicit(&u.not_finite, memory_order_relaxed);
    return XENT_OK;
}
