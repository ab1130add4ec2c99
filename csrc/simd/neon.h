/* NEON (AArch64): four registers per vector. What each operation means is written in scalar.h.
 *
 * FMAX and FMAXNM treat NaN and zeros in ways of their own, so `max` is a comparison and a selection. A streaming store is
 * a plain one: cores notice by themselves when whole lines are written. */
#ifndef XENT_SIMD_NEON_H
#define XENT_SIMD_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

/* Algorithms are specialised for what they are called with: constants become registers, not tests. */
#define INLINE inline __attribute__((always_inline))
enum { XENT_SIDE_BY_SIDE = 1, XENT_PANEL_VECTORS = 1 };

/* One register, from memory of any alignment; `first`: its lanes 0..n-1 alone, for any n. */
static inline float32x4_t f32_read(const uint8_t *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
static inline float64x2_t f64_read(const uint8_t *p) { return vreinterpretq_f64_u8(vld1q_u8(p)); }
static inline void f32_write(uint8_t *p, float32x4_t a) { vst1q_u8(p, vreinterpretq_u8_f32(a)); }
static inline void f64_write(uint8_t *p, float64x2_t a) { vst1q_u8(p, vreinterpretq_u8_f64(a)); }

static inline float32x4_t f32_read_first(const uint8_t *p, int n, float32x4_t fill) {
    float x;
    if (n >= 4)
        return f32_read(p);
    if (n >= 2)
        fill = vcombine_f32(vreinterpret_f32_u8(vld1_u8(p)), vget_high_f32(fill));
    if (n != 1 && n != 3)
        return fill;
    memcpy(&x, p + (n - 1) * 4, sizeof x);
    return n == 1 ? vsetq_lane_f32(x, fill, 0) : vsetq_lane_f32(x, fill, 2);
}
static inline float64x2_t f64_read_first(const uint8_t *p, int n, float64x2_t fill) {
    double x;
    if (n >= 2)
        return f64_read(p);
    if (n < 1)
        return fill;
    memcpy(&x, p, sizeof x);
    return vsetq_lane_f64(x, fill, 0);
}
static inline void f32_write_first(uint8_t *p, int n, float32x4_t a) {
    if (n >= 4) {
        f32_write(p, a);
        return;
    }
    if (n >= 2)
        vst1_u8(p, vreinterpret_u8_f32(vget_low_f32(a)));
    const float x = n == 1 ? vgetq_lane_f32(a, 0) : vgetq_lane_f32(a, 2);
    if (n == 1 || n == 3)
        memcpy(p + (n - 1) * 4, &x, sizeof x);
}
static inline void f64_write_first(uint8_t *p, int n, float64x2_t a) {
    const double x = vgetq_lane_f64(a, 0);
    if (n >= 2)
        f64_write(p, a);
    else if (n == 1)
        memcpy(p, &x, sizeof x);
}

static inline float f32_sum(float32x4_t a) { return vaddvq_f32(a); } /* of neighbours, then of these */
static inline double f64_sum(float64x2_t a) { return vaddvq_f64(a); }

static const float f32_iota[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const double f64_iota[] = {0, 1, 2, 3, 4, 5, 6, 7};

/* From an operation on registers to the one on vectors. */
#define XENT_LIFT_1(RESULT, NAME, A, OP)                                                                                    \
    static inline RESULT NAME(A a) { return (RESULT){{OP(a.at[0]), OP(a.at[1]), OP(a.at[2]), OP(a.at[3])}}; }
#define XENT_LIFT_2(RESULT, NAME, A, B, OP)                                                                                 \
    static inline RESULT NAME(A a, B b) {                                                                                   \
        return (RESULT){{OP(a.at[0], b.at[0]), OP(a.at[1], b.at[1]), OP(a.at[2], b.at[2]), OP(a.at[3], b.at[3])}};          \
    }
#define XENT_LIFT_3(RESULT, NAME, A, B, C, OP)                                                                              \
    static inline RESULT NAME(A a, B b, C c) {                                                                              \
        return (RESULT){{OP(a.at[0], b.at[0], c.at[0]), OP(a.at[1], b.at[1], c.at[1]), OP(a.at[2], b.at[2], c.at[2]),       \
                         OP(a.at[3], b.at[3], c.at[3])}};                                                                   \
    }

#define XENT_VECTOR(P, U, REAL, VEC, MASK, N, MANTISSA, ONE_MINUS_SQRT_HALF, TWO_TO_MANTISSA, MAGIC_BITS, BIAS)             \
    enum { P##_lanes = N };                                                                                                 \
    typedef REAL P##_real;                                                                                                  \
    typedef struct {                                                                                                        \
        VEC at[4];                                                                                                          \
    } P##_vec;                                                                                                              \
    typedef struct {                                                                                                        \
        MASK at[4];                                                                                                         \
    } P##_mask;                                                                                                             \
    static inline MASK P##_bits(VEC a) { return vreinterpretq_##U##_##P(a); }                                               \
    static inline VEC P##_from_bits(MASK a) { return vreinterpretq_##P##_##U(a); }                                          \
    static inline P##_vec P##_set(REAL x) {                                                                                 \
        const VEC a = vdupq_n_##P(x);                                                                                       \
        return (P##_vec){{a, a, a, a}};                                                                                     \
    }                                                                                                                       \
    static inline P##_vec P##_load(const void *from) {                                                                      \
        const uint8_t *p = from;                                                                                            \
        return (P##_vec){{P##_read(p), P##_read(p + 16), P##_read(p + 32), P##_read(p + 48)}};                              \
    }                                                                                                                       \
    static inline void P##_store(void *to, P##_vec a) {                                                                     \
        uint8_t *p = to;                                                                                                    \
        P##_write(p, a.at[0]);                                                                                              \
        P##_write(p + 16, a.at[1]);                                                                                         \
        P##_write(p + 32, a.at[2]);                                                                                         \
        P##_write(p + 48, a.at[3]);                                                                                         \
    }                                                                                                                       \
    static inline void P##_stream(void *to, P##_vec a) { P##_store(to, a); }                                                \
    static inline P##_vec P##_load_first(const void *from, int n, P##_vec fill) {                                           \
        const uint8_t *p = from;                                                                                            \
        return (P##_vec){{P##_read_first(p, n, fill.at[0]), P##_read_first(p + 16, n - N / 4, fill.at[1]),                  \
                          P##_read_first(p + 32, n - N / 2, fill.at[2]),                                                    \
                          P##_read_first(p + 48, n - N / 4 * 3, fill.at[3])}};                                              \
    }                                                                                                                       \
    static inline void P##_store_first(void *to, int n, P##_vec a) {                                                        \
        uint8_t *p = to;                                                                                                    \
        P##_write_first(p, n, a.at[0]);                                                                                     \
        P##_write_first(p + 16, n - N / 4, a.at[1]);                                                                        \
        P##_write_first(p + 32, n - N / 2, a.at[2]);                                                                        \
        P##_write_first(p + 48, n - N / 4 * 3, a.at[3]);                                                                    \
    }                                                                                                                       \
    static inline VEC P##_fma_1(VEC a, VEC b, VEC c) { return vfmaq_##P(c, a, b); }                                         \
    static inline VEC P##_fnma_1(VEC a, VEC b, VEC c) { return vfmsq_##P(c, a, b); }                                        \
    static inline VEC P##_max_1(VEC a, VEC b) { return vbslq_##P(vcgtq_##P(a, b), a, b); }                                  \
    static inline VEC P##_copysign_1(VEC a, VEC s) { return vbslq_##P(P##_bits(vdupq_n_##P((REAL)-0.0)), s, a); }           \
    XENT_LIFT_2(P##_vec, P##_add, P##_vec, P##_vec, vaddq_##P)                                                              \
    XENT_LIFT_2(P##_vec, P##_sub, P##_vec, P##_vec, vsubq_##P)                                                              \
    XENT_LIFT_2(P##_vec, P##_mul, P##_vec, P##_vec, vmulq_##P)                                                              \
    XENT_LIFT_2(P##_vec, P##_div, P##_vec, P##_vec, vdivq_##P)                                                              \
    XENT_LIFT_3(P##_vec, P##_fma, P##_vec, P##_vec, P##_vec, P##_fma_1)                                                     \
    XENT_LIFT_3(P##_vec, P##_fnma, P##_vec, P##_vec, P##_vec, P##_fnma_1)                                                   \
    XENT_LIFT_2(P##_vec, P##_max, P##_vec, P##_vec, P##_max_1)                                                              \
    XENT_LIFT_1(P##_vec, P##_abs, P##_vec, vabsq_##P)                                                                       \
    XENT_LIFT_2(P##_vec, P##_copysign, P##_vec, P##_vec, P##_copysign_1)                                                    \
    static inline MASK P##_nlt_1(VEC a, VEC b) { return ~vcltq_##P(a, b); }                                                 \
    static inline MASK P##_ne_1(VEC a, VEC b) { return ~vceqq_##P(a, b); }                                                  \
    XENT_LIFT_2(P##_mask, P##_lt, P##_vec, P##_vec, vcltq_##P)                                                              \
    XENT_LIFT_2(P##_mask, P##_nlt, P##_vec, P##_vec, P##_nlt_1)                                                             \
    XENT_LIFT_2(P##_mask, P##_eq, P##_vec, P##_vec, vceqq_##P)                                                              \
    XENT_LIFT_2(P##_mask, P##_ne, P##_vec, P##_vec, P##_ne_1)                                                               \
    XENT_LIFT_2(P##_mask, P##_both, P##_mask, P##_mask, vandq_##U)                                                          \
    XENT_LIFT_2(P##_mask, P##_but, P##_mask, P##_mask, vbicq_##U)                                                           \
    static inline P##_mask P##_first(int n) { return P##_lt(P##_load(P##_iota), P##_set((REAL)n)); }                        \
    static inline P##_mask P##_only(int64_t n) {                                                                            \
        return P##_eq(P##_load(P##_iota), P##_set(n < 0 || n >= N ? (REAL)-1 : (REAL)n));                                   \
    }                                                                                                                       \
    static inline int P##_any(P##_mask m) {                                                                                 \
        return vmaxvq_u8(vreinterpretq_u8_##U((m.at[0] | m.at[1]) | (m.at[2] | m.at[3]))) != 0;                             \
    }                                                                                                                       \
    static inline VEC P##_keep_1(MASK m, VEC a) { return P##_from_bits(m & P##_bits(a)); }                                  \
    XENT_LIFT_3(P##_vec, P##_select, P##_mask, P##_vec, P##_vec, vbslq_##P)                                                 \
    XENT_LIFT_2(P##_vec, P##_keep, P##_mask, P##_vec, P##_keep_1)                                                           \
    static inline P##_vec P##_add_where(P##_mask m, P##_vec s, P##_vec a) { return P##_select(m, P##_add(s, a), s); }       \
    static inline VEC P##_power_1(VEC y) { return P##_from_bits(vshlq_n_##U(P##_bits(y), MANTISSA)); }                      \
    static inline VEC P##_exponent_1(VEC a) {                                                                               \
        const MASK k = vshrq_n_##U(vaddq_##U(P##_bits(a), vdupq_n_##U(ONE_MINUS_SQRT_HALF)), MANTISSA);                     \
        return vsubq_##P(P##_from_bits(vorrq_##U(k, vdupq_n_##U(MAGIC_BITS))), vdupq_n_##P(TWO_TO_MANTISSA + BIAS));        \
    }                                                                                                                       \
    XENT_LIFT_1(P##_vec, P##_power, P##_vec, P##_power_1)                                                                   \
    static inline P##_vec P##_scale(P##_vec a, P##_vec y) { return P##_mul(a, P##_power(y)); }                              \
    XENT_LIFT_1(P##_vec, P##_exponent, P##_vec, P##_exponent_1)                                                             \
    static inline REAL P##_get(P##_vec a) { return vgetq_lane_##P(a.at[0], 0); }                                            \
    static inline REAL P##_max_of(P##_vec a) {                                                                              \
        return vmaxvq_##P(vmaxq_##P(vmaxq_##P(a.at[0], a.at[1]), vmaxq_##P(a.at[2], a.at[3])));                             \
    }                                                                                                                       \
    /* The sums of neighbours in order: of a, then of b. */                                                                 \
    static inline P##_vec P##_pair_sums(P##_vec a, P##_vec b) {                                                             \
        return (P##_vec){{vpaddq_##P(a.at[0], a.at[1]), vpaddq_##P(a.at[2], a.at[3]), vpaddq_##P(b.at[0], b.at[1]),         \
                          vpaddq_##P(b.at[2], b.at[3])}};                                                                   \
    }                                                                                                                       \
    static inline REAL P##_sum_lanes(P##_vec a) {                                                                           \
        return P##_sum(vpaddq_##P(vpaddq_##P(a.at[0], a.at[1]), vpaddq_##P(a.at[2], a.at[3])));                             \
    }

XENT_VECTOR(f32, u32, float, float32x4_t, uint32x4_t, 16, 23, 0x3f800000 - 0x3f3504f3, 0x1p23f, 0x4b000000, 127.0f)
XENT_VECTOR(f64, u64, double, float64x2_t, uint64x2_t, 8, 52, 0x3ff0000000000000 - 0x3fe6a09e667f3bcd, 0x1p52,
            0x4330000000000000, 1023.0)
#undef XENT_VECTOR
#undef XENT_LIFT_1
#undef XENT_LIFT_2
#undef XENT_LIFT_3

static inline f64_vec f32_widen_half(float32x4_t a, float32x4_t b) {
    return (f64_vec){
        {vcvt_f64_f32(vget_low_f32(a)), vcvt_high_f64_f32(a), vcvt_f64_f32(vget_low_f32(b)), vcvt_high_f64_f32(b)}};
}
static inline f64_vec f32_widen_first(f32_vec a) { return f32_widen_half(a.at[0], a.at[1]); }
static inline f64_vec f32_widen_last(f32_vec a) { return f32_widen_half(a.at[2], a.at[3]); }

static inline float f32_sum_tree(const f32_vec a[4]) {
    return f32_sum_lanes(f32_pair_sums(f32_pair_sums(a[0], a[1]), f32_pair_sums(a[2], a[3])));
}

static inline double f64_sum_tree(const f64_vec a[8]) {
    const f64_vec first = f64_pair_sums(f64_pair_sums(a[0], a[1]), f64_pair_sums(a[2], a[3]));
    const f64_vec last = f64_pair_sums(f64_pair_sums(a[4], a[5]), f64_pair_sums(a[6], a[7]));
    return f64_sum_lanes(f64_pair_sums(first, last));
}

static inline void f32_transpose(float32x4_t a[4]) {
    const float64x2_t b0 = vreinterpretq_f64_f32(vtrn1q_f32(a[0], a[1])), b1 = vreinterpretq_f64_f32(vtrn2q_f32(a[0], a[1]));
    const float64x2_t b2 = vreinterpretq_f64_f32(vtrn1q_f32(a[2], a[3])), b3 = vreinterpretq_f64_f32(vtrn2q_f32(a[2], a[3]));
    a[0] = vreinterpretq_f32_f64(vtrn1q_f64(b0, b2));
    a[1] = vreinterpretq_f32_f64(vtrn1q_f64(b1, b3));
    a[2] = vreinterpretq_f32_f64(vtrn2q_f64(b0, b2));
    a[3] = vreinterpretq_f32_f64(vtrn2q_f64(b1, b3));
}

static inline void f32_load_quads(const void *from, int64_t step, f32_vec to[4]) {
    const uint8_t *row = from;
    for (int q = 0; q < 4; ++q, row += 4 * step) {
        float32x4_t a[4] = {f32_read(row), f32_read(row + step), f32_read(row + 2 * step), f32_read(row + 3 * step)};
        f32_transpose(a);
        for (int k = 0; k < 4; ++k)
            to[k].at[q] = a[k];
    }
}

static inline void f32_store_quads(void *to, int64_t step, const f32_vec from[4]) {
    uint8_t *row = to;
    for (int q = 0; q < 4; ++q) {
        float32x4_t a[4] = {from[0].at[q], from[1].at[q], from[2].at[q], from[3].at[q]};
        f32_transpose(a);
        for (int j = 0; j < 4; ++j, row += step)
            f32_write(row, a[j]);
    }
}

static inline void f64_load_quads(const void *from, int64_t step, f64_vec to[4]) {
    const uint8_t *row = from;
    for (int q = 0; q < 4; ++q, row += 2 * step)
        for (int k = 0; k < 4; k += 2) {
            const float64x2_t a = f64_read(row + k * 8), b = f64_read(row + step + k * 8);
            to[k].at[q] = vtrn1q_f64(a, b);
            to[k + 1].at[q] = vtrn2q_f64(a, b);
        }
}

static inline void f64_store_quads(void *to, int64_t step, const f64_vec from[4]) {
    uint8_t *row = to;
    for (int q = 0; q < 4; ++q, row += 2 * step) {
        f64_write(row, vtrn1q_f64(from[0].at[q], from[1].at[q]));
        f64_write(row + 16, vtrn1q_f64(from[2].at[q], from[3].at[q]));
        f64_write(row + step, vtrn2q_f64(from[0].at[q], from[1].at[q]));
        f64_write(row + step + 16, vtrn2q_f64(from[2].at[q], from[3].at[q]));
    }
}

/* float16 and bfloat16, four numbers of 16 bits. */
static inline uint16x4_t f16_bits(float32x4_t a) { return vreinterpret_u16_f16(vcvt_f16_f32(a)); }
static inline float32x4_t f16_numbers(uint16x4_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(h)); }
static inline float32x4_t bf16_numbers(uint16x4_t h) { return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(h), 16)); }
/* In integers: BFCVT is not on every machine. */
static inline uint16x4_t bf16_bits(float32x4_t a) {
    const uint32x4_t u = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, vorrq_u32(u, vdupq_n_u32(0x400000))), 16);
}

#define XENT_HALF(H)                                                                                                        \
    static inline float32x4_t H##_read(const uint8_t *p) { return H##_numbers(vreinterpret_u16_u8(vld1_u8(p))); }           \
    static inline void H##_write(uint8_t *p, float32x4_t a) { vst1_u8(p, vreinterpret_u8_u16(H##_bits(a))); }               \
    static inline f32_vec H##_load(const void *from) {                                                                      \
        const uint8_t *p = from;                                                                                            \
        return (f32_vec){{H##_read(p), H##_read(p + 8), H##_read(p + 16), H##_read(p + 24)}};                               \
    }                                                                                                                       \
    static inline f32_vec H##_load_first(const void *p, int n, f32_vec fill) {                                              \
        uint16_t h[16] = {0};                                                                                               \
        memcpy(h, p, (size_t)n * 2);                                                                                        \
        return f32_select(f32_first(n), H##_load(h), fill);                                                                 \
    }                                                                                                                       \
    static inline void H##_store(void *to, f32_vec a) {                                                                     \
        uint8_t *p = to;                                                                                                    \
        H##_write(p, a.at[0]);                                                                                              \
        H##_write(p + 8, a.at[1]);                                                                                          \
        H##_write(p + 16, a.at[2]);                                                                                         \
        H##_write(p + 24, a.at[3]);                                                                                         \
    }                                                                                                                       \
    static inline void H##_stream(void *p, f32_vec a) { H##_store(p, a); }                                                  \
    static inline void H##_store_first(void *p, int n, f32_vec a) {                                                         \
        uint16_t h[16];                                                                                                     \
        H##_store(h, a);                                                                                                    \
        memcpy(p, h, (size_t)n * 2);                                                                                        \
    }
XENT_HALF(f16)
XENT_HALF(bf16)
#undef XENT_HALF

/* Macros: in a function of its own gcc finds a prefetch to be without effect and drops the call. */
#define xent_prefetch(p) __builtin_prefetch(p)
#define xent_prefetch_early(p) __builtin_prefetch(p, 0, 2)

#endif
