/* Random numbers, the same on every machine: splitmix64. Without a generator every choice is the first one. */
#ifndef XENT_NATIVE_RANDOM_H
#define XENT_NATIVE_RANDOM_H

#include <stdint.h>

typedef struct {
    uint64_t state;
} generator;

static inline uint64_t draw(generator *g) {
    uint64_t z = g->state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* 0 <= result < n */
static inline int64_t pick(generator *g, int64_t n) { return g ? (int64_t)(draw(g) % (uint64_t)n) : 0; }

static inline double pick_number(generator *g, int n, const double *numbers) { return numbers[pick(g, n)]; }
#define PICK(g, ...) pick_number(g, sizeof((double[]){__VA_ARGS__}) / sizeof(double), (double[]){__VA_ARGS__})

#endif
