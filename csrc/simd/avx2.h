/* AVX2 + FMA: two registers per vector. What each operation means is written in scalar.h. */
#ifndef XENT_SIMD_AVX2_H
#define XENT_SIMD_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* Algorithms are specialised for what they are called with: constants become registers, not tests. */
#define INLINE inline __attribute__((always_inline))
enum { XENT_SIDE_BY_SIDE = 2, XENT_PANEL_VECTORS = 1 };

#define XENT_BOTH(P, F) ((P##_vec){F(lo), F(hi)})

#define XENT_VECTOR(P, REAL, R, N, PS, EPI, SET1I, MANTISSA, ONE_MINUS_SQRT_HALF, TWO_TO_MANTISSA, MAGIC_BITS, BIAS)        \
    enum { P##_lanes = N };                                                                                                 \
    typedef REAL P##_real;                                                                                                  \
    typedef struct {                                                                                                        \
        R lo, hi;                                                                                                           \
    } P##_vec;                                                                                                              \
    typedef struct {                                                                                                        \
        R lo, hi;                                                                                                           \
    } P##_mask;                                                                                                             \
    static inline P##_vec P##_set(REAL x) { return (P##_vec){_mm256_set1_##PS(x), _mm256_set1_##PS(x)}; }                   \
    static inline P##_vec P##_load(const void *p) {                                                                         \
        return (P##_vec){_mm256_loadu_##PS((const REAL *)p), _mm256_loadu_##PS((const REAL *)p + N / 2)};                   \
    }                                                                                                                       \
    static inline void P##_store(void *p, P##_vec a) {                                                                      \
        _mm256_storeu_##PS((REAL *)p, a.lo);                                                                                \
        _mm256_storeu_##PS((REAL *)p + N / 2, a.hi);                                                                        \
    }                                                                                                                       \
    static inline void P##_stream(void *p, P##_vec a) {                                                                     \
        _mm256_stream_##PS((REAL *)p, a.lo);                                                                                \
        _mm256_stream_##PS((REAL *)p + N / 2, a.hi);                                                                        \
    }                                                                                                                       \
    static inline P##_vec P##_add(P##_vec a, P##_vec b) {                                                                   \
        return (P##_vec){_mm256_add_##PS(a.lo, b.lo), _mm256_add_##PS(a.hi, b.hi)};                                         \
    }                                                                                                                       \
    static inline P##_vec P##_sub(P##_vec a, P##_vec b) {                                                                   \
        return (P##_vec){_mm256_sub_##PS(a.lo, b.lo), _mm256_sub_##PS(a.hi, b.hi)};                                         \
    }                                                                                                                       \
    static inline P##_vec P##_mul(P##_vec a, P##_vec b) {                                                                   \
        return (P##_vec){_mm256_mul_##PS(a.lo, b.lo), _mm256_mul_##PS(a.hi, b.hi)};                                         \
    }                                                                                                                       \
    static inline P##_vec P##_div(P##_vec a, P##_vec b) {                                                                   \
        return (P##_vec){_mm256_div_##PS(a.lo, b.lo), _mm256_div_##PS(a.hi, b.hi)};                                         \
    }                                                                                                                       \
    static inline P##_vec P##_fma(P##_vec a, P##_vec b, P##_vec c) {                                                        \
        return (P##_vec){_mm256_fmadd_##PS(a.lo, b.lo, c.lo), _mm256_fmadd_##PS(a.hi, b.hi, c.hi)};                         \
    }                                                                                                                       \
    static inline P##_vec P##_fnma(P##_vec a, P##_vec b, P##_vec c) {                                                       \
        return (P##_vec){_mm256_fnmadd_##PS(a.lo, b.lo, c.lo), _mm256_fnmadd_##PS(a.hi, b.hi, c.hi)};                       \
    }                                                                                                                       \
    static inline P##_vec P##_max(P##_vec a, P##_vec b) {                                                                   \
        return (P##_vec){_mm256_max_##PS(a.lo, b.lo), _mm256_max_##PS(a.hi, b.hi)};                                         \
    }                                                                                                                       \
    static inline P##_vec P##_abs(P##_vec a) {                                                                              \
        const R sign = _mm256_set1_##PS((REAL)-0.0);                                                                        \
        return (P##_vec){_mm256_andnot_##PS(sign, a.lo), _mm256_andnot_##PS(sign, a.hi)};                                   \
    }                                                                                                                       \
    static inline P##_vec P##_copysign(P##_vec a, P##_vec s) {                                                              \
        const R sign = _mm256_set1_##PS((REAL)-0.0);                                                                        \
        return (P##_vec){_mm256_or_##PS(_mm256_andnot_##PS(sign, a.lo), _mm256_and_##PS(sign, s.lo)),                       \
                         _mm256_or_##PS(_mm256_andnot_##PS(sign, a.hi), _mm256_and_##PS(sign, s.hi))};                      \
    }                                                                                                                       \
    XENT_COMPARE(P, lt, PS, _CMP_LT_OQ)                                                                                     \
    XENT_COMPARE(P, nlt, PS, _CMP_NLT_UQ)                                                                                   \
    XENT_COMPARE(P, eq, PS, _CMP_EQ_OQ)                                                                                     \
    XENT_COMPARE(P, ne, PS, _CMP_NEQ_UQ)                                                                                    \
    static inline P##_mask P##_both(P##_mask a, P##_mask b) {                                                               \
        return (P##_mask){_mm256_and_##PS(a.lo, b.lo), _mm256_and_##PS(a.hi, b.hi)};                                        \
    }                                                                                                                       \
    static inline P##_mask P##_but(P##_mask a, P##_mask b) {                                                                \
        return (P##_mask){_mm256_andnot_##PS(b.lo, a.lo), _mm256_andnot_##PS(b.hi, a.hi)};                                  \
    }                                                                                                                       \
    static inline int P##_any(P##_mask m) { return _mm256_movemask_##PS(_mm256_or_##PS(m.lo, m.hi)) != 0; }                 \
    static inline P##_vec P##_select(P##_mask m, P##_vec a, P##_vec b) {                                                    \
        return (P##_vec){_mm256_blendv_##PS(b.lo, a.lo, m.lo), _mm256_blendv_##PS(b.hi, a.hi, m.hi)};                       \
    }                                                                                                                       \
    static inline P##_vec P##_keep(P##_mask m, P##_vec a) {                                                                 \
        return (P##_vec){_mm256_and_##PS(m.lo, a.lo), _mm256_and_##PS(m.hi, a.hi)};                                         \
    }                                                                                                                       \
    /* Adding +0 in the other lanes is the same: no sum here is ever -0. */                                                 \
    static inline P##_vec P##_add_where(P##_mask m, P##_vec s, P##_vec a) { return P##_add(s, P##_keep(m, a)); }            \
    static inline P##_mask P##_first(int n) {                                                                               \
        const R iota = XENT_IOTA_##P, half = _mm256_set1_##PS(N / 2), count = _mm256_set1_##PS((REAL)n);                    \
        return (P##_mask){_mm256_cmp_##PS(iota, count, _CMP_LT_OQ),                                                         \
                          _mm256_cmp_##PS(_mm256_add_##PS(iota, half), count, _CMP_LT_OQ)};                                 \
    }                                                                                                                       \
    static inline P##_mask P##_only(int64_t n) {                                                                            \
        const R iota = XENT_IOTA_##P, half = _mm256_set1_##PS(N / 2);                                                       \
        const R lane = _mm256_set1_##PS(n < 0 || n >= N ? (REAL)-1 : (REAL)n);                                              \
        return (P##_mask){_mm256_cmp_##PS(iota, lane, _CMP_EQ_OQ),                                                          \
                          _mm256_cmp_##PS(_mm256_add_##PS(iota, half), lane, _CMP_EQ_OQ)};                                  \
    }                                                                                                                       \
    static inline P##_vec P##_load_first(const void *p, int n, P##_vec fill) {                                              \
        const P##_mask m = P##_first(n);                                                                                    \
        const P##_vec a = {_mm256_maskload_##PS((const REAL *)p, _mm256_cast##PS##_si256(m.lo)),                            \
                           _mm256_maskload_##PS((const REAL *)p + N / 2, _mm256_cast##PS##_si256(m.hi))};                   \
        return P##_select(m, a, fill);                                                                                      \
    }                                                                                                                       \
    static inline void P##_store_first(void *p, int n, P##_vec a) {                                                         \
        const P##_mask m = P##_first(n);                                                                                    \
        _mm256_maskstore_##PS((REAL *)p, _mm256_cast##PS##_si256(m.lo), a.lo);                                              \
        _mm256_maskstore_##PS((REAL *)p + N / 2, _mm256_cast##PS##_si256(m.hi), a.hi);                                      \
    }                                                                                                                       \
    static inline R P##_power_half(R y) {                                                                                   \
        return _mm256_castsi256_##PS(_mm256_slli_##EPI(_mm256_cast##PS##_si256(y), MANTISSA));                              \
    }                                                                                                                       \
    static inline P##_vec P##_power(P##_vec y) { return (P##_vec){P##_power_half(y.lo), P##_power_half(y.hi)}; }            \
    static inline P##_vec P##_scale(P##_vec a, P##_vec y) { return P##_mul(a, P##_power(y)); }                              \
    static inline R P##_exponent_half(R a) {                                                                                \
        __m256i k = _mm256_srli_##EPI(                                                                                      \
            _mm256_add_##EPI(_mm256_cast##PS##_si256(a), _mm256_set1_##SET1I(ONE_MINUS_SQRT_HALF)), MANTISSA);              \
        k = _mm256_or_si256(k, _mm256_set1_##SET1I(MAGIC_BITS));                                                            \
        return _mm256_sub_##PS(_mm256_castsi256_##PS(k), _mm256_set1_##PS(TWO_TO_MANTISSA + BIAS));                         \
    }                                                                                                                       \
    static inline P##_vec P##_exponent(P##_vec a) { return (P##_vec){P##_exponent_half(a.lo), P##_exponent_half(a.hi)}; }

#define XENT_COMPARE(P, NAME, PS, PREDICATE)                                                                                \
    static inline P##_mask P##_##NAME(P##_vec a, P##_vec b) {                                                               \
        return (P##_mask){_mm256_cmp_##PS(a.lo, b.lo, PREDICATE), _mm256_cmp_##PS(a.hi, b.hi, PREDICATE)};                  \
    }
#define XENT_IOTA_f32 _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)
#define XENT_IOTA_f64 _mm256_setr_pd(0, 1, 2, 3)

XENT_VECTOR(f32, float, __m256, 16, ps, epi32, epi32, 23, 0x3f800000 - 0x3f3504f3, 0x1p23f, 0x4b000000, 127.0f)
XENT_VECTOR(f64, double, __m256d, 8, pd, epi64, epi64x, 52, 0x3ff0000000000000 - 0x3fe6a09e667f3bcd, 0x1p52,
            0x4330000000000000, 1023.0)

#undef XENT_VECTOR
#undef XENT_COMPARE
#undef XENT_BOTH

static inline f64_vec f32_widen_half(__m256 a) {
    return (f64_vec){_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))};
}
static inline f64_vec f32_widen_first(f32_vec a) { return f32_widen_half(a.lo); }
static inline f64_vec f32_widen_last(f32_vec a) { return f32_widen_half(a.hi); }

static inline float f32_get(f32_vec a) { return _mm256_cvtss_f32(a.lo); }
static inline double f64_get(f64_vec a) { return _mm256_cvtsd_f64(a.lo); }

static inline float f32_max_of(f32_vec a) {
    __m256 m = _mm256_max_ps(a.lo, a.hi);
    m = _mm256_max_ps(m, _mm256_permute2f128_ps(m, m, 0x01));
    m = _mm256_max_ps(m, _mm256_permute_ps(m, 0x4e));
    m = _mm256_max_ps(m, _mm256_permute_ps(m, 0xb1));
    return _mm256_cvtss_f32(m);
}

static inline double f64_max_of(f64_vec a) {
    __m256d m = _mm256_max_pd(a.lo, a.hi);
    m = _mm256_max_pd(m, _mm256_permute2f128_pd(m, m, 0x01));
    m = _mm256_max_pd(m, _mm256_permute_pd(m, 0x5));
    return _mm256_cvtsd_f64(m);
}

/* Sums of neighbours: of a in the lower half of each 128 bits, of b in the upper. Addition commutes, so where a sum
 * is kept does not change its bits. */
static inline __m256 f32_pair_sums(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

static inline __m256d f64_pair_sums(__m256d a, __m256d b) {
    return _mm256_add_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
}

static inline float f32_sum_tree(const f32_vec a[4]) {
    __m256 lo = f32_pair_sums(f32_pair_sums(a[0].lo, a[1].lo), f32_pair_sums(a[2].lo, a[3].lo));
    __m256 hi = f32_pair_sums(f32_pair_sums(a[0].hi, a[1].hi), f32_pair_sums(a[2].hi, a[3].hi));
    /* Each 128 bits hold the sums of four lanes of vectors 0, 1, 2, 3. */
    __m128 s = _mm_add_ps(_mm_add_ps(_mm256_castps256_ps128(lo), _mm256_extractf128_ps(lo, 1)),
                          _mm_add_ps(_mm256_castps256_ps128(hi), _mm256_extractf128_ps(hi, 1)));
    s = _mm_add_ps(s, _mm_permute_ps(s, 0xb1));
    s = _mm_add_ps(s, _mm_permute_ps(s, 0x4e));
    return _mm_cvtss_f32(s);
}

static inline double f64_sum_tree(const f64_vec a[8]) {
    __m128d s[4];
    for (int i = 0; i < 4; ++i) {
        __m256d lo = f64_pair_sums(a[2 * i].lo, a[2 * i + 1].lo), hi = f64_pair_sums(a[2 * i].hi, a[2 * i + 1].hi);
        s[i] = _mm_add_pd(_mm_add_pd(_mm256_castpd256_pd128(lo), _mm256_extractf128_pd(lo, 1)),
                          _mm_add_pd(_mm256_castpd256_pd128(hi), _mm256_extractf128_pd(hi, 1)));
        s[i] = _mm_add_sd(s[i], _mm_unpackhi_pd(s[i], s[i]));
    }
    return (_mm_cvtsd_f64(s[0]) + _mm_cvtsd_f64(s[1])) + (_mm_cvtsd_f64(s[2]) + _mm_cvtsd_f64(s[3]));
}

static inline void f32_transpose(__m256 a[4]) { /* 4 x 4 within each 128 bits */
    const __m256 b0 = _mm256_unpacklo_ps(a[0], a[1]), b1 = _mm256_unpackhi_ps(a[0], a[1]);
    const __m256 b2 = _mm256_unpacklo_ps(a[2], a[3]), b3 = _mm256_unpackhi_ps(a[2], a[3]);
    a[0] = _mm256_shuffle_ps(b0, b2, 0x44);
    a[1] = _mm256_shuffle_ps(b0, b2, 0xee);
    a[2] = _mm256_shuffle_ps(b1, b3, 0x44);
    a[3] = _mm256_shuffle_ps(b1, b3, 0xee);
}

static inline void f64_transpose(__m256d a[4]) {
    const __m256d b0 = _mm256_unpacklo_pd(a[0], a[1]), b1 = _mm256_unpackhi_pd(a[0], a[1]);
    const __m256d b2 = _mm256_unpacklo_pd(a[2], a[3]), b3 = _mm256_unpackhi_pd(a[2], a[3]);
    a[0] = _mm256_permute2f128_pd(b0, b2, 0x20);
    a[1] = _mm256_permute2f128_pd(b1, b3, 0x20);
    a[2] = _mm256_permute2f128_pd(b0, b2, 0x31);
    a[3] = _mm256_permute2f128_pd(b1, b3, 0x31);
}

static inline void f32_load_quads(const void *p, int64_t step, f32_vec to[4]) {
    __m256 lo[4], hi[4];
    const char *row = p;
    for (int j = 0; j < 4; ++j, row += step) {
        lo[j] = _mm256_setr_m128(_mm_loadu_ps((const float *)row), _mm_loadu_ps((const float *)(row + 4 * step)));
        hi[j] =
            _mm256_setr_m128(_mm_loadu_ps((const float *)(row + 8 * step)), _mm_loadu_ps((const float *)(row + 12 * step)));
    }
    f32_transpose(lo);
    f32_transpose(hi);
    for (int j = 0; j < 4; ++j)
        to[j] = (f32_vec){lo[j], hi[j]};
}

static inline void f32_store_quads(void *p, int64_t step, const f32_vec from[4]) {
    __m256 lo[4] = {from[0].lo, from[1].lo, from[2].lo, from[3].lo},
           hi[4] = {from[0].hi, from[1].hi, from[2].hi, from[3].hi};
    char *row = p;
    f32_transpose(lo);
    f32_transpose(hi);
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm256_castps256_ps128(lo[j]));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm256_extractf128_ps(lo[j], 1));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm256_castps256_ps128(hi[j]));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm256_extractf128_ps(hi[j], 1));
}

static inline void f64_load_quads(const void *p, int64_t step, f64_vec to[4]) {
    __m256d lo[4], hi[4];
    const char *row = p;
    for (int j = 0; j < 4; ++j, row += step) {
        lo[j] = _mm256_loadu_pd((const double *)row);
        hi[j] = _mm256_loadu_pd((const double *)(row + 4 * step));
    }
    f64_transpose(lo);
    f64_transpose(hi);
    for (int j = 0; j < 4; ++j)
        to[j] = (f64_vec){lo[j], hi[j]};
}

static inline void f64_store_quads(void *p, int64_t step, const f64_vec from[4]) {
    __m256d lo[4] = {from[0].lo, from[1].lo, from[2].lo, from[3].lo};
    __m256d hi[4] = {from[0].hi, from[1].hi, from[2].hi, from[3].hi};
    char *row = p;
    f64_transpose(lo);
    f64_transpose(hi);
    for (int j = 0; j < 4; ++j, row += step)
        _mm256_storeu_pd((double *)row, lo[j]);
    for (int j = 0; j < 4; ++j, row += step)
        _mm256_storeu_pd((double *)row, hi[j]);
}

/* float16 and bfloat16 as 16 numbers of 16 bits. */
static inline __m256i f16_bits(f32_vec a) {
    return _mm256_setr_m128i(_mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                             _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline f32_vec f16_numbers(__m256i h) {
    return (f32_vec){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
static inline __m256 bf16_half(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
static inline f32_vec bf16_numbers(__m256i h) {
    return (f32_vec){bf16_half(_mm256_castsi256_si128(h)), bf16_half(_mm256_extracti128_si256(h, 1))};
}
static inline __m256i bf16_rounded(__m256 a) {
    const __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q))), 16);
}
static inline __m256i bf16_bits(f32_vec a) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(bf16_rounded(a.lo), bf16_rounded(a.hi)), 0xd8);
}

#define XENT_HALF(H)                                                                                                        \
    static inline f32_vec H##_load(const void *p) { return H##_numbers(_mm256_loadu_si256((const __m256i *)p)); }           \
    static inline f32_vec H##_load_first(const void *p, int n, f32_vec fill) {                                              \
        uint16_t h[16] = {0};                                                                                               \
        memcpy(h, p, (size_t)n * 2);                                                                                        \
        return f32_select(f32_first(n), H##_load(h), fill);                                                                 \
    }                                                                                                                       \
    static inline void H##_store(void *p, f32_vec a) { _mm256_storeu_si256((__m256i *)p, H##_bits(a)); }                    \
    static inline void H##_stream(void *p, f32_vec a) { _mm256_stream_si256((__m256i *)p, H##_bits(a)); }                   \
    static inline void H##_store_first(void *p, int n, f32_vec a) {                                                         \
        uint16_t h[16];                                                                                                     \
        H##_store(h, a);                                                                                                    \
        memcpy(p, h, (size_t)n * 2);                                                                                        \
    }
XENT_HALF(f16)
XENT_HALF(bf16)
#undef XENT_HALF

/* Macros: in a function of its own gcc finds a prefetch to be without effect and drops the call. */
#define xent_prefetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define xent_prefetch_early(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#endif
