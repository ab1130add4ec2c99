/* Products by an instruction for pairs of bfloat16 have the bits of those by fused multiply-adds, or are refused: on any
 * machine, as simd/scalar.h specifies the instruction, or by that of another header. Prints what differs. */
#ifndef XENT_SIMD
#define XENT_SPECIFIED_PAIRS
#define XENT_SIMD "../simd/scalar.h"
#endif

#include <stdio.h>
#include <stdlib.h>

#include "../../csrc/kernels/vector.h"

#include "../../csrc/dtype/f32.h"

#include "../../csrc/double_double.h"
#include "../../csrc/index.h"
#include "../../csrc/kernels/kernel.h"

typedef v(vec) vec;
typedef v(mask) mask;
typedef v(real) real;
enum { LANES = v(lanes) };

#include "../../csrc/kernels/stream.h"

#include "../../csrc/kernels/gather.h"

#include "../../csrc/call/product.h"

#include "../../csrc/kernels/product.h"

#include "../../csrc/kernels/pairs.h"

enum { MOST = 40 };

static uint32_t state = 2463534242u;

static uint32_t any(void) {
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* Numbers of any sign and mantissa, with exponents from `least` on; some are zero. */
static void fill(uint16_t *to, int64_t count, int least, int exponents) {
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t bits = any();
        to[i] =
            bits % 11 ? (uint16_t)((bits & 0x807f) | (uint32_t)(least + (int)(bits >> 16) % exponents) << 7) : bits & 0x8000;
    }
}

static uint16_t left[MOST * XENT_DEEP], right[MOST * XENT_DEEP];
static real strips[XENT_PACKED(MOST + TALL, TALL)], panels[XENT_PACKED(MOST + WIDE, WIDE)];
static real strip_pairs[XENT_PACKED(MOST + TALL, TALL)], panel_pairs[XENT_PACKED(MOST + WIDE, WIDE)];

/* How many products differ; -1 where a factor is refused. */
static int differing(int64_t rows, int64_t columns, int64_t depth) {
    static float found[MOST * MOST], expected[MOST * MOST];
    const xent_factor a = {(const char *)left, XENT_BF16, XENT_DEEP * 2, 2};
    const xent_factor b = {(const char *)right, XENT_BF16, XENT_DEEP * 2, 2};
    if (!pack_strip_pairs(strip_pairs, &a, rows, depth) || !pack_panel_pairs(panel_pairs, &b, columns, depth))
        return -1;
    pack_strips(strips, &a, rows, depth);
    pack_panels(panels, &b, columns, depth);
    for (int i = 0; i < MOST * MOST; ++i)
        found[i] = expected[i] = (float)i;
    for (int add = 0; add < 2; ++add) {
        multiply(strips, panels, depth, (char *)expected, MOST * 4, rows, columns, add);
        multiply_pairs(strip_pairs, panel_pairs, depth, (char *)found, MOST * 4, rows, columns, add);
    }
    int n = 0;
    for (int i = 0; i < MOST * MOST; ++i)
        n += memcmp(&found[i], &expected[i], sizeof(float)) != 0;
    return n;
}

static int failures;

static void expect(int condition, const char *what, int64_t rows, int64_t columns, int64_t depth) {
    if (!condition) {
        printf("%s: %d rows, %d columns, depth %d\n", what, (int)rows, (int)columns, (int)depth);
        ++failures;
    }
}

int main(void) {
    expect(multiplies_pairs(), "an instruction that rounds as specified is refused", 0, 0, 0);
    for (int k = 0; k < 400; ++k) {
        const int64_t rows = any() % MOST + 1, columns = any() % MOST + 1, depth = any() % XENT_DEEP + 1;
        /* The widest range, its smallest numbers, its largest, and neighbours whose sums cancel. */
        const int least[] = {72, 72, 180, 127}, exponents[] = {110, 2, 2, 3};
        fill(left, MOST * XENT_DEEP, least[k % 4], exponents[k % 4]);
        fill(right, MOST * XENT_DEEP, least[k % 4], exponents[k % 4]);
        expect(differing(rows, columns, depth) == 0, "bits differ", rows, columns, depth);
        /* One number next to the range, at either end, infinite, subnormal or NaN, of either factor. */
        const uint16_t outside[] = {0x23ff, 0x5b00, 0x7f80, 0x0001, 0x7fc0, 0xa3ff};
        uint16_t *const at =
            k % 2 ? &left[(rows - 1) * XENT_DEEP + depth - 1] : &right[(columns - 1) * XENT_DEEP + depth - 1];
        *at = outside[k % 6];
        expect(differing(rows, columns, depth) == -1, "a number outside the range is multiplied", rows, columns, depth);
        if (depth < XENT_DEEP) { /* beside what is multiplied it does not count */
            at[1] = *at;
            *at = 0;
            expect(differing(rows, columns, depth) == 0, "bits differ beside", rows, columns, depth);
        }
    }
    return failures > 0;
}
