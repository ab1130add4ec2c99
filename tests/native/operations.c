/* Every operation of one header of csrc/simd over ordinary, special and random operands: a digest of the bits of each. What
 * is printed must not depend on the header, which is XENT_SIMD. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include XENT_SIMD

#include "../../benchmarks/native/pages.h"
#include "numbers.h"

enum { ROUNDS = 4000, ROOM = 16 * 9 * 8, UNTOUCHED = 0x55 };
static const format f32_format = {4, 23, 8}, f64_format = {8, 52, 11};

/* The end of the memory that may be touched. */
static char *fence(void) {
    const size_t page = page_bytes();
    char *pages = new_pages(2 * page);
    if (!pages || !close_pages(pages + page, page))
        exit(2);
    return pages + page;
}

/* Operands: a third of them special, a third of any bits, a third ordinary. */
static uint64_t operand(format f, uint64_t seed, uint64_t i) {
    const uint64_t random = mixed(seed, i), sign = random >> 60 & 1 ? sign_of(f) : 0, inf = infinity_of(f), one = one_of(f);
    const uint64_t least_normal = (uint64_t)1 << f.mantissa;
    const uint64_t specials[] = {0,       1,   least_normal - 1, least_normal, one, one + 1, one - 1,
                                 inf - 1, inf, inf + 1,          inf * 2};
    switch (random >> 32 & 3) {
    case 0:
        return sign | (specials[random % 11] & ~sign_of(f));
    case 1:
        return random >> (64 - 8 * f.bytes);
    default:
        return sign | power_of(f, (int)(random >> 40 & 15) - 8, random);
    }
}

static void print(const char *type, const char *name, uint64_t digest) {
    printf("%016" PRIx64 "  %s_%s\n", digest, type, name);
}

#define SHOW(P, NAME, RESULT)                                                                                               \
    {                                                                                                                       \
        uint64_t digest = 0;                                                                                                \
        for (uint64_t i = 0; i < ROUNDS; ++i) {                                                                             \
            const P##_vec a = P##_operands(1, i), b = P##_operands(2, i), c = P##_operands(3, i);                           \
            (void)a, (void)b, (void)c;                                                                                      \
            P##_real out[64];                                                                                               \
            P##_store(out, RESULT);                                                                                         \
            digest = digested_numbers(digest, P##_format, out, P##_lanes);                                                  \
        }                                                                                                                   \
        print(#P, NAME, digest);                                                                                            \
    }
#define SHOW_MASK(P, NAME, MASK) SHOW(P, NAME, P##_select(MASK, P##_set(1), P##_set(2)))

#define OPERATIONS(P)                                                                                                       \
    static P##_vec P##_operands(uint64_t seed, uint64_t i) {                                                                \
        P##_real in[P##_lanes];                                                                                             \
        for (int k = 0; k < P##_lanes; ++k)                                                                                 \
            put_bits(in + k, sizeof(P##_real), operand(P##_format, seed, i * P##_lanes + (uint64_t)k));                     \
        return P##_load(in);                                                                                                \
    }                                                                                                                       \
    /* Sums are never -0. */                                                                                                \
    static P##_vec P##_sum_so_far(P##_vec a) { return P##_add(a, P##_set(0)); }                                             \
    static P##_vec P##_positive(P##_vec a) {                                                                                \
        const P##_real least = sizeof(P##_real) == 8 ? (P##_real)0x1p-1022 : (P##_real)0x1p-126f;                           \
        const P##_vec size = P##_abs(a);                                                                                    \
        return P##_select(P##_but(P##_lt(size, P##_set((P##_real)INFINITY)), P##_lt(size, P##_set(least))), size,           \
                          P##_set(least));                                                                                  \
    }                                                                                                                       \
    static P##_vec P##_numbers(P##_vec a) { return P##_select(P##_eq(a, a), a, P##_set(3)); }                               \
    /* In [3/4, 5/4], or NaN. */                                                                                            \
    static P##_vec P##_about_one(P##_vec a) {                                                                               \
        const P##_vec off = P##_keep(P##_lt(P##_abs(a), P##_set((P##_real)0.25)), a);                                       \
        return P##_select(P##_eq(a, a), P##_add(P##_set(1), off), a);                                                       \
    }                                                                                                                       \
    /* -n as `power` and `scale` take it. */                                                                                \
    static P##_vec P##_exponent_of(uint64_t n) {                                                                            \
        const P##_real zero = sizeof(P##_real) == 8 ? (P##_real)0x1.80000000003ffp52 : (P##_real)0x1.8000fep23f;            \
        return P##_set(zero - (P##_real)n);                                                                                 \
    }                                                                                                                       \
                                                                                                                            \
    static void P##_in_memory(char *end) {                                                                                  \
        uint64_t loaded = 0, stored = 0, quads_loaded = 0, quads_stored = 0;                                                \
        _Alignas(64) char room[ROOM];                                                                                       \
        for (int n = 0; n <= P##_lanes; ++n)                                                                                \
            for (int shift = 0; shift < 4; ++shift) {                                                                       \
                char *at = end - n * (int)sizeof(P##_real) - shift;                                                         \
                P##_real out[P##_lanes];                                                                                    \
                memset(end - 128, UNTOUCHED, 128);                                                                          \
                P##_store(out, P##_operands(4, (uint64_t)n));                                                               \
                memcpy(at, out, (size_t)n * sizeof(P##_real));                                                              \
                P##_store(out, P##_load_first(at, n, P##_operands(5, (uint64_t)n)));                                        \
                loaded = digested_numbers(loaded, P##_format, out, P##_lanes);                                              \
                P##_store_first(at, n, P##_operands(6, (uint64_t)n));                                                       \
                for (int i = -128; i < 0; ++i)                                                                              \
                    stored = digested(stored, (unsigned char)end[i]);                                                       \
                memset(end - 128, UNTOUCHED, 128);                                                                          \
                P##_store(end - sizeof(P##_vec) - shift, P##_load(end - sizeof(P##_vec) - 2 * shift));                      \
                for (int i = -128; i < 0; ++i)                                                                              \
                    stored = digested(stored, (unsigned char)end[i]);                                                       \
            }                                                                                                               \
        for (uint64_t i = 0; i < ROUNDS; ++i) {                                                                             \
            /* Rows further apart than they are long, or closer: what one writes past its end, the next writes over. */     \
            const int64_t step = (int64_t)sizeof(P##_real) * (1 + (int64_t)(i % 9));                                        \
            P##_vec a[4];                                                                                                   \
            for (uint64_t k = 0; k < 4; ++k)                                                                                \
                a[k] = P##_operands(7, 4 * i + k);                                                                          \
            memset(room, UNTOUCHED, sizeof room);                                                                           \
            P##_store_quads(room, step, a);                                                                                 \
            quads_stored = digested_numbers(quads_stored, P##_format, room, ROOM / (int)sizeof(P##_real));                  \
            P##_load_quads(room, step, a);                                                                                  \
            for (int k = 0; k < 4; ++k) {                                                                                   \
                P##_stream(room, a[k]);                                                                                     \
                quads_loaded = digested_numbers(quads_loaded, P##_format, room, P##_lanes);                                 \
            }                                                                                                               \
        }                                                                                                                   \
        print(#P, "store_quads", quads_stored);                                                                             \
        print(#P, "load_quads, stream", quads_loaded);                                                                      \
        print(#P, "load_first", loaded);                                                                                    \
        print(#P, "store_first", stored);                                                                                   \
    }                                                                                                                       \
                                                                                                                            \
    static void P##_all(char *end) {                                                                                        \
        SHOW(P, "set", P##_set(P##_get(a)))                                                                                 \
        SHOW(P, "load", a)                                                                                                  \
        SHOW(P, "add", P##_add(a, b))                                                                                       \
        SHOW(P, "sub", P##_sub(a, b))                                                                                       \
        SHOW(P, "mul", P##_mul(a, b))                                                                                       \
        SHOW(P, "div", P##_div(a, b))                                                                                       \
        SHOW(P, "fma", P##_fma(a, b, c))                                                                                    \
        SHOW(P, "fnma", P##_fnma(a, b, c))                                                                                  \
        SHOW(P, "max", P##_max(a, b))                                                                                       \
        SHOW(P, "abs", P##_abs(a))                                                                                          \
        SHOW(P, "copysign", P##_copysign(a, b))                                                                             \
        SHOW_MASK(P, "lt", P##_lt(a, b))                                                                                    \
        SHOW_MASK(P, "nlt", P##_nlt(a, b))                                                                                  \
        SHOW_MASK(P, "eq", P##_eq(a, b))                                                                                    \
        SHOW_MASK(P, "ne", P##_ne(a, b))                                                                                    \
        SHOW_MASK(P, "both", P##_both(P##_lt(a, b), P##_nlt(b, c)))                                                         \
        SHOW_MASK(P, "but", P##_but(P##_lt(a, b), P##_nlt(b, c)))                                                           \
        SHOW_MASK(P, "first", P##_first((int)(i % (P##_lanes + 1))))                                                        \
        SHOW_MASK(P, "only", P##_only((int64_t)(i % (3 * P##_lanes)) - P##_lanes))                                          \
        SHOW_MASK(P, "only, far", P##_only((int64_t)mixed(9, i)))                                                           \
        SHOW(P, "any", P##_set(P##_any(P##_both(P##_only((int64_t)(i % 9)), P##_lt(a, b)))))                                \
        SHOW(P, "select", P##_select(P##_lt(a, b), b, c))                                                                   \
        SHOW(P, "keep", P##_keep(P##_lt(a, b), c))                                                                          \
        SHOW(P, "add_where", P##_add_where(P##_lt(a, b), P##_sum_so_far(c), b))                                             \
        SHOW(P, "power", P##_power(a))                                                                                      \
        SHOW(P, "scale", P##_scale(P##_about_one(a), P##_exponent_of(i % 120)))                                             \
        SHOW(P, "exponent", P##_exponent(P##_positive(a)))                                                                  \
        SHOW(P, "get", P##_set(P##_get(a)))                                                                                 \
        SHOW(P, "max_of", P##_set(P##_max_of(P##_numbers(a)) + 0))                                                          \
        uint64_t digest = 0;                                                                                                \
        for (uint64_t i = 0; i < ROUNDS; ++i) {                                                                             \
            P##_vec a[64 / P##_lanes];                                                                                      \
            for (uint64_t k = 0; k < 64 / P##_lanes; ++k) {                                                                 \
                const P##_vec b = P##_operands(10, i * 64 / P##_lanes + k);                                                 \
                a[k] = i % 2 ? b : P##_add(P##_set(1), P##_keep(P##_lt(P##_abs(b), P##_set(64)), b));                       \
            }                                                                                                               \
            const P##_real sum = P##_sum_tree(a);                                                                           \
            digest = digested_numbers(digest, P##_format, &sum, 1);                                                         \
        }                                                                                                                   \
        print(#P, "sum_tree", digest);                                                                                      \
        P##_in_memory(end);                                                                                                 \
    }
OPERATIONS(f32)
OPERATIONS(f64)

/* float16 and bfloat16: every number read; written, float32s on and beside the ties of either. */
#define HALF(H, MANTISSA, EXPONENT)                                                                                         \
    static void H##_all(char *end) {                                                                                        \
        const format half = {2, MANTISSA, EXPONENT};                                                                        \
        _Alignas(64) uint16_t h[16];                                                                                        \
        float out[16];                                                                                                      \
        uint64_t loaded = 0, stored = 0, in_part = 0;                                                                       \
        for (uint32_t i = 0; i < 0x10000; i += 16) {                                                                        \
            for (uint32_t k = 0; k < 16; ++k)                                                                               \
                h[k] = (uint16_t)(i + k);                                                                                   \
            const f32_vec a = H##_load(h);                                                                                  \
            f32_store(out, a);                                                                                              \
            loaded = digested_numbers(loaded, f32_format, out, 16);                                                         \
            for (uint32_t j = 0; j < 48; ++j) {                                                                             \
                uint32_t u[16];                                                                                             \
                for (uint32_t k = 0; k < 16; ++k)                                                                           \
                    u[k] = (i + k) << 16 | (((j / 3 << 12) + j % 3 - 1) & 0xffff);                                          \
                H##_store(h, f32_load(u));                                                                                  \
                stored = digested_numbers(stored, half, h, 16);                                                             \
            }                                                                                                               \
            H##_stream(h, f32_operands(11, i));                                                                             \
            stored = digested_numbers(stored, half, h, 16);                                                                 \
        }                                                                                                                   \
        for (int n = 0; n <= 16; ++n)                                                                                       \
            for (int shift = 0; shift < 2; ++shift) {                                                                       \
                char *at = end - 2 * n - shift;                                                                             \
                memset(end - 64, UNTOUCHED, 64);                                                                            \
                for (int k = 0; k < n; ++k)                                                                                 \
                    put_bits(at + 2 * k, 2, operand(half, 12, (uint64_t)(16 * n + k)));                                     \
                f32_store(out, H##_load_first(at, n, f32_operands(13, (uint64_t)n)));                                       \
                in_part = digested_numbers(in_part, f32_format, out, 16);                                                   \
                H##_store_first(at, n, f32_numbers(f32_operands(14, (uint64_t)n)));                                         \
                for (int i = -64; i < 0; ++i)                                                                               \
                    in_part = digested(in_part, (unsigned char)end[i]);                                                     \
            }                                                                                                               \
        print(#H, "load", loaded);                                                                                          \
        print(#H, "store", stored);                                                                                         \
        print(#H, "load_first, store_first", in_part);                                                                      \
    }
HALF(f16, 10, 5)
HALF(bf16, 7, 8)

int main(void) {
    char *end = fence();
    f32_all(end);
    f64_all(end);
    f16_all(end);
    bf16_all(end);
    uint64_t digest = 0;
    for (uint64_t i = 0; i < ROUNDS; ++i) {
        double out[16];
        f64_store(out, f32_widen_first(f32_operands(15, i)));
        f64_store(out + 8, f32_widen_last(f32_operands(15, i)));
        digest = digested_numbers(digest, f64_format, out, 16);
    }
    print("f32", "widen_first, widen_last", digest);
    return 0;
}
