/* Random numbers of every kind, in every dtype. */
#include "inputs.h"

#include <math.h>
#include <string.h>

#include "index.h"

static double uniform(generator *g) { return (double)(draw(g) >> 11) * 0x1p-53; }

/* The bits of a float16. A float scaled by 2^-112 has the exponent field that its float16 has, subnormal or not. */
static uint16_t half_of(float x) {
    const float size = fabsf(x) * 0x1p-112f;
    uint32_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits >>= 13;
    return (uint16_t)((signbit(x) ? 0x8000 : 0) | (isnan(x) ? 0x7e00 : bits > 0x7c00 ? 0x7c00 : bits));
}

static void store_element(char *at, xent_dtype type, double x) {
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (type == XENT_F64) {
        memcpy(at, &x, 8);
    } else if (type == XENT_F32) {
        memcpy(at, &f, 4);
    } else if (type == XENT_BF16) {
        const uint16_t high = (uint16_t)(bits >> 16);
        memcpy(at, &high, 2);
    } else if (type == XENT_F16) {
        const uint16_t half = half_of(f);
        memcpy(at, &half, 2);
    } else {
        const int64_t i = (int64_t)x;
        const int32_t four = (int32_t)i;
        const int16_t two = (int16_t)i;
        const int8_t one = (int8_t)i;
        const int size = element_size(type);
        memcpy(at,
               size == 8   ? (const void *)&i
               : size == 4 ? (const void *)&four
               : size == 2 ? (const void *)&two
                           : (const void *)&one,
               (size_t)size);
    }
}

double load_element(const char *at, xent_dtype type) {
    if (type == XENT_F64) {
        double x;
        memcpy(&x, at, 8);
        return x;
    }
    if (type != XENT_F32 && type != XENT_F16 && type != XENT_BF16)
        return (double)xent_load_index(at, (int)type);
    uint32_t bits = 0;
    uint16_t two;
    float f;
    if (type == XENT_F32) {
        memcpy(&bits, at, 4);
    } else {
        memcpy(&two, at, 2);
        bits = type == XENT_BF16 ? (uint32_t)two << 16 : (uint32_t)(two & 0x7fff) << 13;
    }
    memcpy(&f, &bits, 4);
    if (type == XENT_F16) {
        f = (two & 0x7c00) == 0x7c00 ? (two & 0x3ff ? NAN : INFINITY) : f * 0x1p112f;
        f = two & 0x8000 ? -f : f;
    }
    return (double)f;
}

/* Which numbers an array may hold. */
typedef enum { LOGIT, PROBABILITY, LOGARITHM, FACTOR, SIGNED } domain;

static double number(generator *g, domain domain, input_kind kind) {
    static const double special[] = {-INFINITY, INFINITY, NAN,   0.0,    -0.0,     1,    -1,
                                     1e30,      -1e30,    1e-40, -1e-40, 0x1p-149, 1e300};
    double x = 4 * (uniform(g) + uniform(g) + uniform(g) + uniform(g) - 2);
    if (kind == TIED)
        x = floor(x);
    if (kind == WIDE_RANGE)
        x = ldexp(x, (int)pick(g, 200) - 100);
    if (kind == SPECIAL && pick(g, 16) == 0)
        x = special[pick(g, sizeof special / sizeof *special)];
    else if (kind == MASKED && pick(g, 3))
        x = domain == LOGIT || domain == LOGARITHM ? -INFINITY : 0;
    else if (domain == PROBABILITY)
        x = kind == HARD ? (double)(x > 0) : 1 / (1 + exp(-x));
    else if (domain == LOGARITHM)
        x = -fabs(x);
    else if (domain == FACTOR)
        x = kind == HARD ? (double)(x > 0) : fabs(x);
    return x;
}

/* An argument of a function of csrc/kernels/math.h, from its whole domain. */
static double argument(generator *g, xent_function function) {
    const int most = function == XENT_LOG || function == XENT_LOG1P ? 125 : 10;
    const double size = ldexp(1 + uniform(g), (int)pick(g, 150 + most) - 150);
    if (pick(g, 32) == 0)
        return PICK(g, 0, NAN, 0x1p-149, function == XENT_EXP ? -INFINITY : 1);
    return function == XENT_EXP     ? -size
           : function == XENT_LOG   ? size
           : function == XENT_LOG1P ? (size < 0.9 && pick(g, 2) ? -size : size)
           : pick(g, 2)             ? size
                                    : -size;
}

static domain domain_of(const task *t, role which) {
    const int given = t->operation->second == XENT_LOG_PROBS, element = t->operation->first;
    const int rows = t->operation->family == ROWS;
    if (which == UPSTREAM)
        return SIGNED;
    if (which != X && which != SECOND)
        return FACTOR;
    if (t->operation->family == REGION)
        return which == SECOND ? PROBABILITY : LOGIT;
    if (t->operation->family == DIVERGENCE)
        return LOGIT;
    if (rows)
        return which == SECOND         ? (t->plan.stream == XENT_SOFT ? PROBABILITY : LOGIT)
               : !given                ? LOGIT
               : t->plan.probabilities ? PROBABILITY
                                       : LOGARITHM;
    if (element == XENT_KL)
        return which == X || t->element_plan.log_target ? LOGARITHM : PROBABILITY;
    return which == SECOND || element <= XENT_BINARY_CLIPPED || element == XENT_OUTSIDE ? PROBABILITY : LOGIT;
}

static double value_of(const task *t, role which, generator *g) {
    if (t->operation->family == MATH)
        return argument(g, (xent_function)t->operation->first);
    if (t->arrays[which].type == XENT_U8 && which == X)
        return (double)pick(g, 256);
    if (which == INDEX && t->out_of_range && pick(g, 8) == 0) /* ignore_index, or any number */
        return (double)(pick(g, 2) ? t->plan.ignore : pick(g, 1 << 20) - (1 << 19));
    if (which == INDEX) {
        const int size = t->arrays[INDEX].size;
        return (double)(pick(g, t->plan.classes) % (size == 1 ? 100 : size == 2 ? 30000 : t->plan.classes));
    }
    return number(g, domain_of(t, which), t->input_kind);
}

void begin_sums(const array *sums) {
    for (int64_t i = 0; i < sums->rows; ++i)
        store_element(element_at(sums, i, 0), sums->type, 0.37 * (double)i);
}

void fill(task *t, generator *g) {
    enum { ENOUGH = 1 << 16 };
    for (int k = 0; k < INPUTS; ++k) {
        const array *a = &t->arrays[k];
        const int64_t n = a->rows * a->classes, some = n < ENOUGH ? n : ENOUGH;
        for (int64_t i = 0; i < some; ++i)
            store_element(a->at + i * a->size, a->type, value_of(t, (role)k, g));
        for (int64_t i = some; i < n; i += some)
            memcpy(a->at + i * a->size, a->at, (size_t)((n - i < some ? n - i : some) * a->size));
    }
    begin_sums(&t->arrays[SUMS]);
}
