/* a * b + c, rounded once. The function of C is that, but MinGW's library rounds twice: there it is computed by integers,
 * unless the processor has the instruction. */
#ifndef XENT_FMA_H
#define XENT_FMA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(_WIN32) || defined(__FMA__) || defined(__aarch64__)
static inline float xent_fmaf(float a, float b, float c) { return fmaf(a, b, c); }
static inline double xent_fma(double a, double b, double c) { return fma(a, b, c); }
#else
/* A product of floats is exact in double. Its sum with c, rounded to the odd neighbour where it is not exact, has the bits
 * that rounding to float looks at. */
static inline float xent_fmaf(float a, float b, float c) {
    const double product = (double)a * b, sum = product + c;
    const double part = sum - product, error = (product - (sum - part)) + (c - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (isfinite(sum) && error != 0 && !(bits & 1)) {
        bits += (error > 0) == (sum > 0) ? 1 : -(uint64_t)1;
        double odd;
        memcpy(&odd, &bits, sizeof odd);
        return (float)odd;
    }
    return (float)sum;
}

typedef unsigned __int128 xent_u128;

/* |x| = the integer times 2^exponent. */
static inline xent_u128 xent_integer_of(double x, int *exponent) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int biased = (int)(bits >> 52 & 0x7ff), zeros = biased ? 0 : __builtin_clzll(bits << 1) - 10;
    *exponent = (biased ? biased : 1) - 1075 - zeros;
    return biased ? (bits & 0xfffffffffffff) | 1ull << 52 : (bits << 1 >> 1) << zeros;
}

/* Halved n times; the last bit stays set if one was lost. */
static inline xent_u128 xent_halved(xent_u128 x, int n) {
    return n <= 0 ? x : n > 127 ? x != 0 : x >> n | ((x & (((xent_u128)1 << n) - 1)) != 0);
}

static inline double xent_two_to(int n) {
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline double xent_fma(double a, double b, double c) {
    if (!isfinite(a) || !isfinite(b) || a == 0 || b == 0)
        return a * b + c;
    if (!isfinite(c) || c == 0)
        return c == 0 ? a * b : c;
    int ea, eb, ec;
    xent_u128 product = xent_integer_of(a, &ea), addend;
    product = product * xent_integer_of(b, &eb) << 20; /* 2^124 to 2^126 */
    addend = xent_integer_of(c, &ec) << 73;            /* 2^125 to 2^126 */
    const int ep = ea + eb - 20, behind = ep - (ec - 73);
    int e = behind > 0 ? ep : ec - 73;
    addend = xent_halved(addend, behind);
    product = xent_halved(product, -behind);
    const int negative = signbit(a) != signbit(b), differ = negative != (signbit(c) != 0);
    const int less = product < addend;
    xent_u128 sum = !differ ? product + addend : less ? addend - product : product - addend;
    if (sum == 0)
        return 0;
    const int bits =
        128 - ((uint64_t)(sum >> 64) ? __builtin_clzll((uint64_t)(sum >> 64)) : 64 + __builtin_clzll((uint64_t)sum));
    const int spare = bits - 53 > -1074 - e ? bits - 53 : -1074 - e; /* of the least bit that a double has here */
    if (spare > 0) {
        sum = xent_halved(sum, spare - 2 < 0 ? 0 : spare - 2); /* two bits more */
        const int more = spare < 2 ? spare : 2;
        const xent_u128 half = (xent_u128)1 << (more - 1), rest = sum & (2 * half - 1);
        sum = (sum >> more) + (rest > half || (rest == half && (sum >> more & 1)));
        e += spare;
    }
    const double size = (double)(uint64_t)sum * xent_two_to(e / 2) * xent_two_to(e - e / 2);
    return (less ? signbit(c) != 0 : negative) ? -size : size;
}
#endif

#endif
