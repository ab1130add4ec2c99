/* The written specification of every vector operation, in plain C: what each one returns, NaN, ties and rounding
 * included. Every other header of this folder implements the same names with the same bits.
 *
 * A vector is 16 floats (f32_vec) or 8 doubles (f64_vec) on every instruction set; a mask holds a truth value per lane.
 * Pointers need no alignment, except in `stream`. Nothing here may be contracted by the compiler: a fused multiply-add
 * is written as one. */
#ifndef XENT_SIMD_SCALAR_H
#define XENT_SIMD_SCALAR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../fma.h"

/* Vectors live in memory here: specialising the algorithms would multiply the code and gain nothing. */
#define INLINE

/* So many vectors are computed side by side: there are registers for them, and one alone would wait for its own results. */
enum { XENT_SIDE_BY_SIDE = 1, XENT_PANEL_VECTORS = 1 };

#define XENT_VECTOR(P, REAL, INT, UINT, N, MANTISSA, ONE, SQRT_HALF, TWO_TO_MANTISSA, BIAS, FMA)                            \
    enum { P##_lanes = N };                                                                                                 \
    typedef REAL P##_real;                                                                                                  \
    typedef struct {                                                                                                        \
        REAL at[N];                                                                                                         \
    } P##_vec;                                                                                                              \
    typedef struct {                                                                                                        \
        INT at[N];                                                                                                          \
    } P##_mask;                                                                                                             \
    static inline UINT P##_bits(REAL x) {                                                                                   \
        UINT u;                                                                                                             \
        memcpy(&u, &x, sizeof u);                                                                                           \
        return u;                                                                                                           \
    }                                                                                                                       \
    static inline REAL P##_from_bits(UINT u) {                                                                              \
        REAL x;                                                                                                             \
        memcpy(&x, &u, sizeof x);                                                                                           \
        return x;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_set(REAL x) {                                                                                 \
        P##_vec r;                                                                                                          \
        XENT_EACH(N) r.at[i] = x;                                                                                           \
        return r;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_load(const void *p) {                                                                         \
        P##_vec r;                                                                                                          \
        memcpy(&r, p, sizeof r);                                                                                            \
        return r;                                                                                                           \
    }                                                                                                                       \
    static inline void P##_store(void *p, P##_vec a) { memcpy(p, &a, sizeof a); }                                           \
    /* Non-temporal where the machine has it; p is aligned to the vector. */                                                \
    static inline void P##_stream(void *p, P##_vec a) { memcpy(p, &a, sizeof a); }                                          \
    /* Lanes 0..n-1 from memory, the others from `fill`; nothing past lane n-1 is touched. 0 <= n <= lanes. */              \
    static inline P##_vec P##_load_first(const void *p, int n, P##_vec fill) {                                              \
        memcpy(&fill, p, (size_t)n * sizeof(REAL));                                                                         \
        return fill;                                                                                                        \
    }                                                                                                                       \
    static inline void P##_store_first(void *p, int n, P##_vec a) { memcpy(p, &a, (size_t)n * sizeof(REAL)); }              \
    static inline P##_vec P##_add(P##_vec a, P##_vec b) {                                                                   \
        XENT_EACH(N) a.at[i] = a.at[i] + b.at[i];                                                                           \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_sub(P##_vec a, P##_vec b) {                                                                   \
        XENT_EACH(N) a.at[i] = a.at[i] - b.at[i];                                                                           \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_mul(P##_vec a, P##_vec b) {                                                                   \
        XENT_EACH(N) a.at[i] = a.at[i] * b.at[i];                                                                           \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_div(P##_vec a, P##_vec b) {                                                                   \
        XENT_EACH(N) a.at[i] = a.at[i] / b.at[i];                                                                           \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* a * b + c, rounded once; fnma: c - a * b. */                                                                         \
    static inline P##_vec P##_fma(P##_vec a, P##_vec b, P##_vec c) {                                                        \
        XENT_EACH(N) a.at[i] = FMA(a.at[i], b.at[i], c.at[i]);                                                              \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_fnma(P##_vec a, P##_vec b, P##_vec c) {                                                       \
        XENT_EACH(N) a.at[i] = FMA(-a.at[i], b.at[i], c.at[i]);                                                             \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* a if a > b, else b: a NaN on either side, and two zeros, give b. */                                                  \
    static inline P##_vec P##_max(P##_vec a, P##_vec b) {                                                                   \
        XENT_EACH(N) a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i];                                                       \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_vec P##_abs(P##_vec a) {                                                                              \
        XENT_EACH(N) a.at[i] = P##_from_bits(P##_bits(a.at[i]) << 1 >> 1);                                                  \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* |a| with the sign of s. */                                                                                           \
    static inline P##_vec P##_copysign(P##_vec a, P##_vec s) {                                                              \
        XENT_EACH(N)                                                                                                        \
        a.at[i] =                                                                                                           \
            P##_from_bits((P##_bits(a.at[i]) << 1 >> 1) | (P##_bits(s.at[i]) & (UINT)((UINT)1 << (sizeof(UINT) * 8 - 1)))); \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline P##_mask P##_lt(P##_vec a, P##_vec b) {                                                                   \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = a.at[i] < b.at[i];                                                                           \
        return m;                                                                                                           \
    }                                                                                                                       \
    /* Not less than: true for NaN. */                                                                                      \
    static inline P##_mask P##_nlt(P##_vec a, P##_vec b) {                                                                  \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = !(a.at[i] < b.at[i]);                                                                        \
        return m;                                                                                                           \
    }                                                                                                                       \
    static inline P##_mask P##_eq(P##_vec a, P##_vec b) {                                                                   \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = a.at[i] == b.at[i];                                                                          \
        return m;                                                                                                           \
    }                                                                                                                       \
    /* Not equal: true for NaN. */                                                                                          \
    static inline P##_mask P##_ne(P##_vec a, P##_vec b) {                                                                   \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = !(a.at[i] == b.at[i]);                                                                       \
        return m;                                                                                                           \
    }                                                                                                                       \
    static inline P##_mask P##_both(P##_mask a, P##_mask b) {                                                               \
        XENT_EACH(N) a.at[i] = a.at[i] & b.at[i];                                                                           \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* True in lanes 0..n-1. */                                                                                             \
    static inline P##_mask P##_first(int n) {                                                                               \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = i < n;                                                                                       \
        return m;                                                                                                           \
    }                                                                                                                       \
    /* True in lane n alone; in none when n is outside 0..lanes-1. */                                                       \
    static inline P##_mask P##_only(int64_t n) {                                                                            \
        P##_mask m;                                                                                                         \
        XENT_EACH(N) m.at[i] = i == n;                                                                                      \
        return m;                                                                                                           \
    }                                                                                                                       \
    /* a and not b. */                                                                                                      \
    static inline P##_mask P##_but(P##_mask a, P##_mask b) {                                                                \
        XENT_EACH(N) a.at[i] = a.at[i] & !b.at[i];                                                                          \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline int P##_any(P##_mask m) {                                                                                 \
        int any = 0;                                                                                                        \
        XENT_EACH(N) any |= m.at[i] != 0;                                                                                   \
        return any;                                                                                                         \
    }                                                                                                                       \
    static inline P##_vec P##_select(P##_mask m, P##_vec a, P##_vec b) {                                                    \
        XENT_EACH(N) a.at[i] = m.at[i] ? a.at[i] : b.at[i];                                                                 \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* a where the mask is true, +0 elsewhere. */                                                                           \
    static inline P##_vec P##_keep(P##_mask m, P##_vec a) {                                                                 \
        XENT_EACH(N) a.at[i] = m.at[i] ? a.at[i] : 0;                                                                       \
        return a;                                                                                                           \
    }                                                                                                                       \
    /* s + a where the mask is true, s elsewhere. */                                                                        \
    static inline P##_vec P##_add_where(P##_mask m, P##_vec s, P##_vec a) {                                                 \
        XENT_EACH(N) s.at[i] = m.at[i] ? s.at[i] + a.at[i] : s.at[i];                                                       \
        return s;                                                                                                           \
    }                                                                                                                       \
    /* 2^n, y being 1.5 * 2^MANTISSA + BIAS + n: the low bits of y as an exponent. */                                       \
    static inline P##_vec P##_power(P##_vec y) {                                                                            \
        XENT_EACH(N) y.at[i] = P##_from_bits(P##_bits(y.at[i]) << MANTISSA);                                                \
        return y;                                                                                                           \
    }                                                                                                                       \
    /* a * 2^n, where 2^n and the product are normal numbers; of a NaN, NaN. */                                             \
    static inline P##_vec P##_scale(P##_vec a, P##_vec y) { return P##_mul(a, P##_power(y)); }                              \
    /* k with a * 2^-k in [sqrt(1/2), sqrt(2)), for normal a > 0. */                                                        \
    static inline P##_vec P##_exponent(P##_vec a) {                                                                         \
        XENT_EACH(N) {                                                                                                      \
            UINT k = (P##_bits(a.at[i]) + (ONE - SQRT_HALF)) >> MANTISSA;                                                   \
            a.at[i] = P##_from_bits(k | P##_bits(TWO_TO_MANTISSA)) - (TWO_TO_MANTISSA + BIAS);                              \
        }                                                                                                                   \
        return a;                                                                                                           \
    }                                                                                                                       \
    static inline REAL P##_get(P##_vec a) { return a.at[0]; }                                                               \
    /* The largest lane; no lane is NaN. Which of two zeros comes back is not specified. */                                 \
    static inline REAL P##_max_of(P##_vec a) {                                                                              \
        REAL m = a.at[0];                                                                                                   \
        XENT_EACH(N) m = a.at[i] > m ? a.at[i] : m;                                                                         \
        return m;                                                                                                           \
    }                                                                                                                       \
    /* Four neighbours from each of as many rows as there are lanes, `step` bytes apart: lane i of to[k] is number k of     \
     * row i. Back again, row after row. */                                                                                 \
    static inline void P##_load_quads(const void *p, int64_t step, P##_vec to[4]) {                                         \
        XENT_EACH(N) {                                                                                                      \
            REAL row[4];                                                                                                    \
            memcpy(row, (const char *)p + i * step, sizeof row);                                                            \
            for (int k = 0; k < 4; ++k)                                                                                     \
                to[k].at[i] = row[k];                                                                                       \
        }                                                                                                                   \
    }                                                                                                                       \
    static inline void P##_store_quads(void *p, int64_t step, const P##_vec from[4]) {                                      \
        XENT_EACH(N) {                                                                                                      \
            const REAL row[4] = {from[0].at[i], from[1].at[i], from[2].at[i], from[3].at[i]};                               \
            memcpy((char *)p + i * step, row, sizeof row);                                                                  \
        }                                                                                                                   \
    }                                                                                                                       \
    /* The sum of 64 lanes, lane i of vector v being number v * lanes + i: neighbours are paired, 32 sums of two, then      \
     * 16 sums of four, and so on. */                                                                                       \
    static inline REAL P##_sum_tree(const P##_vec a[64 / N]) {                                                              \
        REAL s[64];                                                                                                         \
        memcpy(s, a, sizeof s);                                                                                             \
        for (int width = 32; width > 0; width /= 2)                                                                         \
            for (int i = 0; i < width; ++i)                                                                                 \
                s[i] = s[2 * i] + s[2 * i + 1];                                                                             \
        return s[0];                                                                                                        \
    }

#define XENT_EACH(N) for (int i = 0; i < (N); ++i)

XENT_VECTOR(f32, float, int32_t, uint32_t, 16, 23, 0x3f800000u, 0x3f3504f3u, 0x1p23f, 127.0f, xent_fmaf)
XENT_VECTOR(f64, double, int64_t, uint64_t, 8, 52, 0x3ff0000000000000u, 0x3fe6a09e667f3bcdu, 0x1p52, 1023.0, xent_fma)

/* The first eight floats, and the others, as doubles. */
static inline f64_vec f32_widen_first(f32_vec a) {
    f64_vec r;
    XENT_EACH(8) r.at[i] = (double)a.at[i];
    return r;
}
static inline f64_vec f32_widen_last(f32_vec a) {
    f64_vec r;
    XENT_EACH(8) r.at[i] = (double)a.at[i + 8];
    return r;
}

/* float16 and bfloat16, 16 numbers: read exactly, subnormals included; written rounded to nearest even, beyond the
 * largest number as infinity. `first`: lanes 0..n-1 only, the others from `fill`. */
static inline float xent_from_f16(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    if (rest >= 0x0f800000u) /* infinity, NaN */
        return f32_from_bits(sign | rest | 0x7f800000u);
    return f32_from_bits(sign | f32_bits(f32_from_bits(rest) * 0x1p112f));
}
static inline uint16_t xent_to_f16(float x) {
    const uint32_t u = f32_bits(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x1ff));
    if (rest >= 0x477ff000u) /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7c00);
    if (rest < 0x38800000u) /* subnormal: the addition rounds at 2^-24 */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(rest) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((rest + 0xfff + (rest >> 13 & 1) - 0x38000000u) >> 13));
}
static inline float xent_from_bf16(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }
static inline uint16_t xent_to_bf16(float x) {
    const uint32_t u = f32_bits(x);
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000u ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#define XENT_HALF(H)                                                                                                        \
    static inline f32_vec H##_load_first(const void *p, int n, f32_vec fill) {                                              \
        uint16_t h[16];                                                                                                     \
        memcpy(h, p, (size_t)n * 2);                                                                                        \
        for (int i = 0; i < n; ++i)                                                                                         \
            fill.at[i] = xent_from_##H(h[i]);                                                                               \
        return fill;                                                                                                        \
    }                                                                                                                       \
    static inline f32_vec H##_load(const void *p) { return H##_load_first(p, 16, f32_set(0)); }                             \
    static inline void H##_store_first(void *p, int n, f32_vec a) {                                                         \
        uint16_t h[16];                                                                                                     \
        for (int i = 0; i < n; ++i)                                                                                         \
            h[i] = xent_to_##H(a.at[i]);                                                                                    \
        memcpy(p, h, (size_t)n * 2);                                                                                        \
    }                                                                                                                       \
    static inline void H##_store(void *p, f32_vec a) { H##_store_first(p, 16, a); }                                         \
    static inline void H##_stream(void *p, f32_vec a) { H##_store_first(p, 16, a); }
XENT_HALF(f16)
XENT_HALF(bf16)
#undef XENT_HALF

/* A line of memory, of any address, is wanted soon in the first cache; or later, in the second. */
#define xent_prefetch(p) ((void)(p))
#define xent_prefetch_early(p) ((void)(p))

#undef XENT_EACH
#undef XENT_VECTOR

/* sum + a b of both numbers of bfloat16 that a lane holds, the upper first, rounded after each; subnormal numbers are taken
 * for zeros and become zeros. Where a processor has no instruction for it, fused multiply-adds of float32 are faster. */
#ifdef XENT_SPECIFIED_PAIRS
#define XENT_PAIRS
static inline int f32_has_pairs(void) { return 1; }
static inline float f32_flushed(float x) { return fabsf(x) < 0x1p-126f ? 0 : x; }
static inline float f32_add_product(float sum, uint32_t a, uint32_t b) {
    return f32_flushed(xent_fmaf(f32_flushed(f32_from_bits(a)), f32_flushed(f32_from_bits(b)), f32_flushed(sum)));
}
static inline f32_vec f32_add_pairs(f32_vec sum, f32_vec a, f32_vec b) {
    for (int i = 0; i < f32_lanes; ++i) {
        const uint32_t x = f32_bits(a.at[i]), y = f32_bits(b.at[i]);
        sum.at[i] = f32_add_product(f32_add_product(sum.at[i], x & 0xffff0000, y & 0xffff0000), x << 16, y << 16);
    }
    return sum;
}
#endif

#endif
