/* pairs: tiles of a product of bfloat16 where an instruction multiplies and adds the two numbers of each lane (AVX512-BF16,
 * twice as many a cycle as of float32). It adds the upper product first and rounds after each of the two, as fused
 * multiply-adds do. The earlier of two numbers along the inner axis is therefore the upper one, and bits are those of
 * product.h.
 *
 * But the instruction takes subnormal numbers for zeros. Numbers of 2^-55 and more, below 2^55, have products that are
 * multiples of 2^-124, and so are sums of these products, rounded or not: none is subnormal or infinite. What has other
 * numbers, zero aside, is left to product.h. */

#include <stdatomic.h>

/* Bits of 2^-55, and how many there are from those to the bits of 2^55. */
enum { LEAST_BITS = 0x2400, RANGE_OF_BITS = 0x3700 };

/* n pairs of up to 2 n numbers; whether all are zero or in the range. */
static INLINE int read_pairs(real *to, const char *from, int64_t numbers) {
    uint16_t bits[2 * RUN] = {0};
    uint32_t pairs[RUN];
    memcpy(bits, from, (size_t)numbers * sizeof *bits);
    unsigned outside = 0;
    for (int i = 0; i < 2 * RUN; ++i) {
        const uint16_t size = bits[i] & 0x7fff;
        outside |= (size != 0) & ((uint16_t)(size - LEAST_BITS) >= RANGE_OF_BITS);
    }
    memcpy(pairs, bits, sizeof pairs);
    for (int i = 0; i < RUN && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__; ++i)
        pairs[i] = pairs[i] << 16 | pairs[i] >> 16;
    memcpy(to, pairs, sizeof pairs);
    return !outside;
}

static INLINE int pack_pairs(real *to, int width, const xent_factor *f, int64_t count, int64_t depth) {
    _Alignas(64) real rows[LANES][RUN];
    for (int64_t first = 0; first < count; first += width)
        for (int w = 0; w < width; w += LANES) {
            const char *from = f->data + (first + w) * f->across;
            memset(rows, 0, sizeof rows);
            for (int64_t k = 0; k < depth; k += 2 * RUN) {
                const int64_t numbers = depth - k < 2 * RUN ? depth - k : 2 * RUN;
                for (int64_t i = 0; i < LANES && i < width - w && first + w + i < count; ++i)
                    if (!read_pairs(rows[i], from + i * f->across + k * f->along, numbers))
                        return 0;
                interleave(to + XENT_PACKED(first, width) + k / 2 * width + w, width, rows, (numbers + 1) / 2);
            }
        }
    return 1;
}

static int pack_strip_pairs(void *to, const xent_factor *f, int64_t count, int64_t depth) {
    return pack_pairs(to, TALL, f, count, depth);
}

static int pack_panel_pairs(void *to, const xent_factor *f, int64_t count, int64_t depth) {
    return pack_pairs(to, WIDE, f, count, depth);
}

static XENT_PAIRS void multiply_pairs(const void *strips, const void *panels, int64_t depth, char *out, int64_t step,
                                      int64_t rows, int64_t columns, int add) {
    for (int64_t i = 0; i < rows; i += TALL)
        for (int64_t j = 0; j < columns; j += WIDE) {
            const real *strip = (const real *)strips + XENT_PACKED(i, TALL);
            const real *panel = (const real *)panels + XENT_PACKED(j, WIDE);
            vec sums[TALL][SHEAF];
            for (int t = 0; t < TALL; ++t)
                for (int w = 0; w < SHEAF; ++w)
                    sums[t][w] = v(set)(0);
            for (int64_t k = 0; k < depth; k += 2, strip += TALL, panel += WIDE) {
                vec right[SHEAF];
                for (int w = 0; w < SHEAF; ++w)
                    right[w] = v(load)(panel + w * LANES);
#pragma GCC unroll 8
                for (int t = 0; t < TALL; ++t) {
                    const vec left = v(set)(strip[t]);
#pragma GCC unroll 8
                    for (int w = 0; w < SHEAF; ++w)
                        sums[t][w] = v(add_pairs)(sums[t][w], left, right[w]);
                }
            }
            store_tile(sums, out + i * step + j * (int64_t)sizeof(real), step, rows - i < TALL ? (int)(rows - i) : TALL,
                       columns - j, add);
        }
}

/* Whether the instruction is there and rounds as it is documented to: a chain of sums that cancel and do not, of numbers
 * with all their bits, finds any other rounding or order. */
static XENT_PAIRS int agrees_with_fma(void) {
    vec found = v(set)(0), expected = v(set)(0);
    uint32_t state = 1;
    for (int step = 0; step < 256; ++step) {
        _Alignas(64) real both[2][LANES], upper[2][LANES], lower[2][LANES];
        for (int side = 0; side < 2; ++side)
            for (int i = 0; i < LANES; ++i) {
                /* Signs, and eight exponents from 2^-4 on, with any mantissa. */
                uint32_t bits[3];
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5; /* Marsaglia's xorshift */
                bits[0] = (state & 0x83ff83ff) + 0x3d803d80;
                bits[1] = bits[0] & 0xffff0000;
                bits[2] = bits[0] << 16;
                memcpy(&both[side][i], &bits[0], sizeof(real));
                memcpy(&upper[side][i], &bits[1], sizeof(real));
                memcpy(&lower[side][i], &bits[2], sizeof(real));
            }
        found = v(add_pairs)(found, v(load)(both[0]), v(load)(both[1]));
        expected = v(fma)(v(load)(upper[0]), v(load)(upper[1]), expected);
        expected = v(fma)(v(load)(lower[0]), v(load)(lower[1]), expected);
    }
    return !v(any)(v(ne)(found, expected));
}

static int multiplies_pairs(void) {
    static atomic_int known; /* 0: not yet, else 1 or 2 */
    int found = atomic_load_explicit(&known, memory_order_relaxed);
    if (!found) {
        found = v(has_pairs)() && agrees_with_fma() ? 2 : 1;
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    return found == 2;
}
