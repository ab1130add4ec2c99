/* Compensated sums, and those of a call's blocks. */
#ifndef XENT_DOUBLE_DOUBLE_H
#define XENT_DOUBLE_DOUBLE_H

#include <math.h>
#include <stdint.h>

#include "fma.h"

/* A sum and the error of its additions (Knuth's two-sum): high + low is exact to twice the precision. */
typedef struct {
    double high, low;
} double_double;

static inline void dd_add(double_double *s, double x) {
    const double t = s->high + x, part = t - s->high;
    s->low += (s->high - (t - part)) + (x - part);
    s->high = t;
}

/* Adds another sum. */
static inline void dd_add_sum(double_double *s, double_double other) {
    dd_add(s, other.high);
    s->low += other.low;
}

static inline double dd_value(double_double s) { return isfinite(s.high) ? s.high + s.low : s.high; }

/* Sums are made of fixed blocks and added from the first to the last, so that no bit depends on who computed which. */
static inline double_double dd_total(const double_double *sums, int64_t n) {
    double_double total = {0, 0};
    for (int64_t i = 0; i < n; ++i)
        dd_add_sum(&total, sums[i]);
    return total;
}

/* The quotient of high + low, rounded but once more than exactly; of nothing there is no mean. */
static inline double dd_quotient(double_double s, double divisor) {
    const double q = dd_value(s) / divisor, left = xent_fma(-q, divisor, s.high) + s.low;
    return divisor == 0 ? NAN : isfinite(left) ? q + left / divisor : q;
}

#endif
