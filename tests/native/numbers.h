/* Random operands, and digests of results. Both use integer arithmetic alone, so that they are the same bits wherever they
 * are compiled. */
#ifndef XENT_TESTS_NUMBERS_H
#define XENT_TESTS_NUMBERS_H

#include <stdint.h>
#include <string.h>

/* The i-th number of SplitMix64. */
static inline uint64_t mixed(uint64_t seed, uint64_t i) {
    uint64_t x = (seed << 32) + (i + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The parts of a floating-point format, as wide as `bytes`. */
typedef struct {
    int bytes, mantissa, exponent; /* and a sign */
} format;

static inline uint64_t infinity_of(format f) { return (((uint64_t)1 << f.exponent) - 1) << f.mantissa; }
static inline uint64_t sign_of(format f) { return (uint64_t)1 << (f.mantissa + f.exponent); }
static inline uint64_t one_of(format f) { return (((uint64_t)1 << (f.exponent - 1)) - 1) << f.mantissa; }

/* Bits of 2^scale (1 + a fraction of all bits). */
static inline uint64_t power_of(format f, int scale, uint64_t random) {
    const uint64_t fraction = random & (((uint64_t)1 << f.mantissa) - 1);
    return (uint64_t)((int64_t)one_of(f) + scale * ((int64_t)1 << f.mantissa)) | fraction;
}

static inline uint64_t bits_at(const void *p, int bytes) {
    uint64_t u = 0;
    uint32_t half;
    uint16_t quarter;
    if (bytes == 8)
        memcpy(&u, p, sizeof u);
    else if (bytes == 4) {
        memcpy(&half, p, sizeof half);
        u = half;
    } else if (bytes == 2) {
        memcpy(&quarter, p, sizeof quarter);
        u = quarter;
    } else
        u = *(const unsigned char *)p;
    return u;
}

static inline void put_bits(void *p, int bytes, uint64_t u) {
    const uint32_t half = (uint32_t)u;
    const uint16_t quarter = (uint16_t)u;
    const unsigned char byte = (unsigned char)u;
    memcpy(p,
           bytes == 8   ? (const void *)&u
           : bytes == 4 ? (const void *)&half
           : bytes == 2 ? (const void *)&quarter
                        : &byte,
           (size_t)bytes);
}

/* A digest of words, each of which affects all bits. */
static inline uint64_t digested(uint64_t digest, uint64_t word) {
    digest = (digest ^ word) * 0x9e3779b97f4a7c15u;
    return digest ^ (digest >> 29);
}

/* A digest of n numbers, in which all NaNs are equal. */
static inline uint64_t digested_numbers(uint64_t digest, format f, const void *from, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t u = bits_at((const char *)from + i * f.bytes, f.bytes);
        digest = digested(digest, (u & ~sign_of(f)) > infinity_of(f) ? infinity_of(f) + 1 : u);
    }
    return digest;
}

#endif
