/* AVX-512 (F, BW, DQ, VL): one register per vector. What each operation means is written in scalar.h. */
#ifndef XENT_SIMD_AVX512_H
#define XENT_SIMD_AVX512_H

#include <immintrin.h>
#include <stdint.h>

/* Algorithms are specialised for what they are called with: constants become registers, not tests. */
#define INLINE inline __attribute__((always_inline))
enum { XENT_SIDE_BY_SIDE = 4, XENT_PANEL_VECTORS = 4 };

#define XENT_VECTOR(P, REAL, VEC, MASK, N, PS, EPI, SI, MANTISSA, ONE_MINUS_SQRT_HALF, TWO_TO_MANTISSA, MAGIC_BITS, BIAS)   \
    enum { P##_lanes = N };                                                                                                 \
    typedef REAL P##_real;                                                                                                  \
    typedef VEC P##_vec;                                                                                                    \
    typedef MASK P##_mask;                                                                                                  \
    static inline VEC P##_set(REAL x) { return _mm512_set1_##PS(x); }                                                       \
    static inline VEC P##_load(const void *p) { return _mm512_loadu_##PS(p); }                                              \
    static inline void P##_store(void *p, VEC a) { _mm512_storeu_##PS(p, a); }                                              \
    static inline void P##_stream(void *p, VEC a) { _mm512_stream_##PS((REAL *)p, a); }                                     \
    static inline MASK P##_first(int n) { return (MASK)_bzhi_u32(~0u, (unsigned)n); }                                       \
    static inline MASK P##_only(int64_t n) { return n < 0 || n >= N ? (MASK)0 : (MASK)(1u << n); }                          \
    static inline VEC P##_load_first(const void *p, int n, VEC fill) {                                                      \
        return _mm512_mask_loadu_##PS(fill, P##_first(n), p);                                                               \
    }                                                                                                                       \
    static inline void P##_store_first(void *p, int n, VEC a) { _mm512_mask_storeu_##PS(p, P##_first(n), a); }              \
    static inline VEC P##_add(VEC a, VEC b) { return _mm512_add_##PS(a, b); }                                               \
    static inline VEC P##_sub(VEC a, VEC b) { return _mm512_sub_##PS(a, b); }                                               \
    static inline VEC P##_mul(VEC a, VEC b) { return _mm512_mul_##PS(a, b); }                                               \
    static inline VEC P##_div(VEC a, VEC b) { return _mm512_div_##PS(a, b); }                                               \
    static inline VEC P##_fma(VEC a, VEC b, VEC c) { return _mm512_fmadd_##PS(a, b, c); }                                   \
    static inline VEC P##_fnma(VEC a, VEC b, VEC c) { return _mm512_fnmadd_##PS(a, b, c); }                                 \
    static inline VEC P##_max(VEC a, VEC b) { return _mm512_max_##PS(a, b); }                                               \
    static inline VEC P##_abs(VEC a) { return _mm512_abs_##PS(a); }                                                         \
    static inline VEC P##_copysign(VEC a, VEC s) {                                                                          \
        const __m512i sign = _mm512_castps_si512(_mm512_castpd_ps(                                                          \
            _mm512_castsi512_pd(_mm512_slli_##EPI(_mm512_set1_##EPI(1), (unsigned)sizeof(REAL) * 8 - 1))));                 \
        return _mm512_castsi512_##PS(                                                                                       \
            _mm512_ternarylogic_epi32(sign, _mm512_cast##PS##_si512(a), _mm512_cast##PS##_si512(s), 0xac));                 \
    }                                                                                                                       \
    static inline MASK P##_lt(VEC a, VEC b) { return _mm512_cmp_##PS##_mask(a, b, _CMP_LT_OQ); }                            \
    static inline MASK P##_nlt(VEC a, VEC b) { return _mm512_cmp_##PS##_mask(a, b, _CMP_NLT_UQ); }                          \
    static inline MASK P##_eq(VEC a, VEC b) { return _mm512_cmp_##PS##_mask(a, b, _CMP_EQ_OQ); }                            \
    static inline MASK P##_ne(VEC a, VEC b) { return _mm512_cmp_##PS##_mask(a, b, _CMP_NEQ_UQ); }                           \
    static inline MASK P##_both(MASK a, MASK b) { return (MASK)(a & b); }                                                   \
    static inline MASK P##_but(MASK a, MASK b) { return (MASK)(a & ~b); }                                                   \
    static inline int P##_any(MASK m) { return m != 0; }                                                                    \
    static inline VEC P##_select(MASK m, VEC a, VEC b) { return _mm512_mask_mov_##PS(b, m, a); }                            \
    static inline VEC P##_keep(MASK m, VEC a) { return _mm512_maskz_mov_##PS(m, a); }                                       \
    static inline VEC P##_add_where(MASK m, VEC s, VEC a) { return _mm512_mask_add_##PS(s, m, s, a); }                      \
    static inline VEC P##_power(VEC y) {                                                                                    \
        return _mm512_castsi512_##PS(_mm512_slli_##EPI(_mm512_cast##PS##_si512(y), MANTISSA));                              \
    }                                                                                                                       \
    static inline VEC P##_scale(VEC a, VEC y) {                                                                             \
        return _mm512_scalef_##PS(a, _mm512_sub_##PS(y, _mm512_set1_##PS((REAL)1.5 * TWO_TO_MANTISSA + BIAS)));             \
    }                                                                                                                       \
    static inline VEC P##_exponent(VEC a) {                                                                                 \
        __m512i k = _mm512_srli_##EPI(_mm512_add_##EPI(_mm512_cast##PS##_si512(a), _mm512_set1_##EPI(ONE_MINUS_SQRT_HALF)), \
                                      MANTISSA);                                                                            \
        k = _mm512_or_si512(k, _mm512_set1_##EPI(MAGIC_BITS));                                                              \
        return _mm512_sub_##PS(_mm512_castsi512_##PS(k), _mm512_set1_##PS(TWO_TO_MANTISSA + BIAS));                         \
    }                                                                                                                       \
    static inline REAL P##_max_of(VEC a) { return _mm512_reduce_max_##PS(a); }

XENT_VECTOR(f32, float, __m512, __mmask16, 16, ps, epi32, i, 23, 0x3f800000 - 0x3f3504f3, 0x1p23f, 0x4b000000, 127.0f)
XENT_VECTOR(f64, double, __m512d, __mmask8, 8, pd, epi64, i, 52, 0x3ff0000000000000 - 0x3fe6a09e667f3bcd, 0x1p52,
            0x4330000000000000, 1023.0)
#undef XENT_VECTOR

#if __GNUC__ >= 10 || defined(__clang__)
#define XENT_PAIRS __attribute__((target("avx512bf16")))
static inline int f32_has_pairs(void) { return __builtin_cpu_supports("avx512bf16"); }
static inline XENT_PAIRS f32_vec f32_add_pairs(f32_vec sum, f32_vec a, f32_vec b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

static inline f64_vec f32_widen_first(f32_vec a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
static inline f64_vec f32_widen_last(f32_vec a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }

static inline float f32_get(f32_vec a) { return _mm512_cvtss_f32(a); }
static inline double f64_get(f64_vec a) { return _mm512_cvtsd_f64(a); }

/* Sums of neighbours: of a in the lower half of each 128 bits, of b in the upper. Addition commutes, so where a sum
 * is kept does not change its bits. */
static inline f32_vec f32_pair_sums(f32_vec a, f32_vec b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

static inline f64_vec f64_pair_sums(f64_vec a, f64_vec b) {
    return _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
}

static inline float f32_sum_tree(const f32_vec a[4]) {
    f32_vec s = f32_pair_sums(f32_pair_sums(a[0], a[1]), f32_pair_sums(a[2], a[3])); /* fours, by vector within 128 bits */
    s = _mm512_add_ps(s, _mm512_shuffle_f32x4(s, s, 0xb1));
    s = _mm512_add_ps(s, _mm512_shuffle_f32x4(s, s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    return f32_get(s);
}

static inline double f64_sum_tree(const f64_vec a[8]) {
    f64_vec s[4];
    for (int i = 0; i < 4; ++i) {
        s[i] = f64_pair_sums(a[2 * i], a[2 * i + 1]);
        s[i] = _mm512_add_pd(s[i], _mm512_shuffle_f64x2(s[i], s[i], 0xb1));
        s[i] = _mm512_add_pd(s[i], _mm512_shuffle_f64x2(s[i], s[i], 0x4e));
    }
    f64_vec low = f64_pair_sums(s[0], s[1]), high = f64_pair_sums(s[2], s[3]);
    low = f64_pair_sums(low, high);
    return f64_get(_mm512_add_pd(low, _mm512_permute_pd(low, 0x55)));
}

static inline __attribute__((always_inline)) void f32_transpose(f32_vec a[4]) { /* 4 x 4 within each 128 bits */
    const f32_vec b0 = _mm512_unpacklo_ps(a[0], a[1]), b1 = _mm512_unpackhi_ps(a[0], a[1]);
    const f32_vec b2 = _mm512_unpacklo_ps(a[2], a[3]), b3 = _mm512_unpackhi_ps(a[2], a[3]);
    a[0] = _mm512_shuffle_ps(b0, b2, 0x44);
    a[1] = _mm512_shuffle_ps(b0, b2, 0xee);
    a[2] = _mm512_shuffle_ps(b1, b3, 0x44);
    a[3] = _mm512_shuffle_ps(b1, b3, 0xee);
}

static inline __attribute__((always_inline)) void f64_transpose(f64_vec a[4]) { /* 4 x 4 within each 256 bits */
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const f64_vec b0 = _mm512_unpacklo_pd(a[0], a[1]), b1 = _mm512_unpackhi_pd(a[0], a[1]);
    const f64_vec b2 = _mm512_unpacklo_pd(a[2], a[3]), b3 = _mm512_unpackhi_pd(a[2], a[3]);
    a[0] = _mm512_permutex2var_pd(b0, low, b2);
    a[1] = _mm512_permutex2var_pd(b1, low, b3);
    a[2] = _mm512_permutex2var_pd(b0, high, b2);
    a[3] = _mm512_permutex2var_pd(b1, high, b3);
}

static inline __attribute__((always_inline)) void f32_load_quads(const void *p, int64_t step, f32_vec to[4]) {
    const char *row = p;
    for (int j = 0; j < 4; ++j, row += step) {
        f32_vec a = _mm512_castps128_ps512(_mm_loadu_ps((const float *)row));
        a = _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 4 * step)), 1);
        a = _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 8 * step)), 2);
        to[j] = _mm512_insertf32x4(a, _mm_loadu_ps((const float *)(row + 12 * step)), 3);
    }
    f32_transpose(to);
}

static inline __attribute__((always_inline)) void f32_store_quads(void *p, int64_t step, const f32_vec from[4]) {
    f32_vec a[4] = {from[0], from[1], from[2], from[3]};
    char *row = p;
    f32_transpose(a);
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm512_castps512_ps128(a[j]));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm512_extractf32x4_ps(a[j], 1));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm512_extractf32x4_ps(a[j], 2));
    for (int j = 0; j < 4; ++j, row += step)
        _mm_storeu_ps((float *)row, _mm512_extractf32x4_ps(a[j], 3));
}

static inline __attribute__((always_inline)) void f64_load_quads(const void *p, int64_t step, f64_vec to[4]) {
    const char *row = p;
    for (int j = 0; j < 4; ++j, row += step)
        to[j] = _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd((const double *)row)),
                                   _mm256_loadu_pd((const double *)(row + 4 * step)), 1);
    f64_transpose(to);
}

static inline __attribute__((always_inline)) void f64_store_quads(void *p, int64_t step, const f64_vec from[4]) {
    f64_vec a[4] = {from[0], from[1], from[2], from[3]};
    char *row = p;
    f64_transpose(a);
    for (int j = 0; j < 4; ++j, row += step)
        _mm256_storeu_pd((double *)row, _mm512_castpd512_pd256(a[j]));
    for (int j = 0; j < 4; ++j, row += step)
        _mm256_storeu_pd((double *)row, _mm512_extractf64x4_pd(a[j], 1));
}

/* float16 and bfloat16 as 16 numbers of 16 bits. */
static inline __m256i f16_bits(f32_vec a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline f32_vec f16_numbers(__m256i h) { return _mm512_cvtph_ps(h); }
static inline f32_vec bf16_numbers(__m256i h) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
/* In integers: vcvtneps2bf16 flushes subnormals. */
static inline __m256i bf16_bits(f32_vec a) {
    const __m512i u = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(
        _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), quiet), 16));
}

#define XENT_HALF(H)                                                                                                        \
    static inline f32_vec H##_load(const void *p) { return H##_numbers(_mm256_loadu_si256((const __m256i *)p)); }           \
    static inline f32_vec H##_load_first(const void *p, int n, f32_vec fill) {                                              \
        const __mmask16 m = f32_first(n);                                                                                   \
        return _mm512_mask_mov_ps(fill, m, H##_numbers(_mm256_maskz_loadu_epi16(m, p)));                                    \
    }                                                                                                                       \
    static inline void H##_store(void *p, f32_vec a) { _mm256_storeu_si256((__m256i *)p, H##_bits(a)); }                    \
    static inline void H##_stream(void *p, f32_vec a) { _mm256_stream_si256((__m256i *)p, H##_bits(a)); }                   \
    static inline void H##_store_first(void *p, int n, f32_vec a) { _mm256_mask_storeu_epi16(p, f32_first(n), H##_bits(a)); }
XENT_HALF(f16)
XENT_HALF(bf16)
#undef XENT_HALF

/* Macros: in a function of its own gcc finds a prefetch to be without effect and drops the call. */
#define xent_prefetch(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define xent_prefetch_early(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#endif
