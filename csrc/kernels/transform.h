/* transform: what happens to logits between memory and the sums.
 *
 *   z = x, or softcap * tanh(x / softcap), or the logarithm of a probability; the exponent is (z - m) / T with m the row's
 *   maximum, which keeps a shared offset exact under a temperature too.
 *
 * The temperature is applied in the kernels. Soft cap and logarithm are applied to a gathered block before the kernels see
 * it (`transform_block`), and the cap's derivative to what the kernels have written (`chain_rule`), so that no kernel is
 * compiled for them. */

typedef struct {
    int probabilities, clipped;
    vec least, log_most; /* where probabilities are clipped, and the logarithm of 1 less it */
    v(cap_scale) cap;
    vec cap_curvature, inverse_t, inverse_t_low, coldest, inverse_temperature;
} transform_plan;

/* 1/d as a sum of two numbers: x * high + x * low is x / d but for one rounding. */
static inline vec inverse_high(double d) { return v(set)((real)(1 / d)); }
static inline vec inverse_low(double d) {
    const double high = (double)(real)(1 / d);
    return v(set)((real)(xent_fma(-d, high, 1.0) / d));
}

static transform_plan prepare_transform(const xent_plan *plan) {
    const double cap = plan->softcap > 0 ? plan->softcap : 1;
    const double cold = 2 * (double)c(EXP_LOWEST) * plan->temperature, lowest = -(double)c(LARGEST);
    return (transform_plan){
        .probabilities = plan->probabilities,
        .clipped = plan->clip > 0,
        .least = v(set)((real)plan->clip),
        .log_most = plan->clip > 0 ? v(log1p)(v(set)((real)-plan->clip)) : v(set)(0),
        .cap = {v(set)((real)cap), inverse_high(cap), inverse_low(cap)},
        .cap_curvature = v(set)((real)(-2 / (cap * cap))),
        .inverse_t = inverse_high(plan->temperature),
        .inverse_t_low = inverse_low(plan->temperature),
        .coldest = v(set)((real)(cold > lowest ? cold : lowest)),
        .inverse_temperature = v(set)((real)(1 / plan->temperature)),
    };
}

/* What the kernels are compiled for: a capped row has a temperature, be it 1. */
static inline xent_transform kernel_transform(xent_transform transform) {
    return transform == XENT_SOFTCAP ? XENT_TEMPERATURE : transform;
}

/* Whether logits become other numbers before the kernels see them. */
static inline int is_transformed(const xent_plan *plan) {
    return plan->transform == XENT_SOFTCAP || (plan->transform == XENT_LOG_PROBS && plan->probabilities);
}

static inline int is_capped(const xent_plan *plan) { return plan->transform == XENT_SOFTCAP; }

/* Where a probability, or what is left of 1, is less than it may be. 1 - eps itself would be rounded, to 1 even. */
typedef struct {
    mask low, high;
} clipped_lanes;

static INLINE clipped_lanes clipped(vec p, vec eps) {
    return (clipped_lanes){v(lt)(p, eps), v(lt)(v(sub)(v(set)(1), p), eps)};
}

/* The inverse of d(log p)/dp: p, or infinity where p is clipped. */
static INLINE vec inverse_slope(vec x, const transform_plan *p) {
    const vec infinity = v(set)((real)INFINITY);
    if (!p->clipped)
        return v(add)(x, v(set)(0)); /* -0 becomes +0 */
    const clipped_lanes at = clipped(x, p->least);
    return v(select)(at.low, infinity, v(select)(at.high, infinity, x));
}

static INLINE vec log_probability(vec x, const transform_plan *p) {
    if (!p->clipped)
        return v(log)(x);
    const clipped_lanes at = clipped(x, p->least);
    return v(select)(at.high, p->log_most, v(log)(v(select)(at.low, p->least, x)));
}

/* One vector of stored numbers → z, with dz/dx (of probabilities its inverse). */
static INLINE vec transform_vector(vec x, vec *slope, int capped, const transform_plan *p) {
    if (!capped) {
        *slope = inverse_slope(x, p);
        return log_probability(x, p);
    }
    v(cap)(&x, slope, 1, &p->cap);
    return x;
}

static INLINE void transform_vectors(vec *z, vec *slope, const char *x, int64_t n, int capped, const transform_plan *p) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int left = lanes_left(n - i);
        const char *at = x + i * (int64_t)sizeof(real);
        vec d;
        v(store)(&z[i / LANES],
                 transform_vector(left == LANES ? v(load)(at) : v(load_first)(at, left, v(set)(0)), &d, capped, p));
        if (slope)
            v(store)(&slope[i / LANES], d);
    }
}

/* n numbers x → z, in whole vectors, and under a cap dz/dx where it is wanted; z may be x. */
static NOINLINE void transform_block(vec *z, vec *slope, const char *x, int64_t n, const xent_plan *plan,
                                     const transform_plan *p) {
    if (!is_capped(plan))
        transform_vectors(z, NULL, x, n, 0, p);
    else
        transform_vectors(z, slope, x, n, 1, p);
}

/* One vector of logits that stand alone, those of the targets or the maxima of rows. */
static INLINE vec transformed(vec x, vec *slope, const xent_plan *plan, const transform_plan *p) {
    *slope = v(set)(1);
    return is_transformed(plan) ? transform_vector(x, slope, is_capped(plan), p) : x;
}

/* 0 in the place of what is below the smallest normal number. */
static INLINE vec flushed(vec a) { return v(keep)(v(nlt)(v(abs)(a), v(set)(c(TINY))), a); }

/* From derivatives with respect to z, n vectors of them, to those with respect to x under a cap, in place: g dz/dx, and
 * h (dz/dx)^2 + g d2z/dx2 with d2z/dx2 = -2 z / softcap^2 dz/dx. */
static NOINLINE void chain_rule(vec *g, vec *h, const vec *z, const vec *slope, int64_t n, const transform_plan *p) {
    const vec zero = v(set)(0);
    for (int64_t i = 0; i < n; ++i) {
        const vec d = slope[i];
        if (h) {
            const vec curvature = v(keep)(v(ne)(d, zero), v(mul)(v(mul)(p->cap_curvature, z[i]), d));
            h[i] = flushed(v(fma)(v(mul)(h[i], d), d, v(mul)(g[i], curvature)));
        }
        /* A gradient that overflows is none where the cap is flat; one that is NaN is. */
        const mask flat = v(both)(v(eq)(d, zero), v(eq)(g[i], g[i]));
        g[i] = flushed(v(select)(flat, zero, v(mul)(g[i], d)));
    }
}

/* t = z - m <= 0, divided by the temperature. */
static INLINE vec over_temperature(vec t, const transform_plan *p, xent_transform transform) {
    if (transform != XENT_TEMPERATURE)
        return t;
    return v(fma)(t, p->inverse_t, v(mul)(t, p->inverse_t_low));
}

/* The same as the argument of an exponential: far below where any counts, -inf would only meet 0. */
static INLINE vec exponent_of(vec t, const transform_plan *p, xent_transform transform) {
    return over_temperature(transform == XENT_TEMPERATURE ? v(max)(p->coldest, t) : t, p, transform);
}

/* What goes with class indices, and what comes from an array beside the logits. */
static INLINE int may_be_indexed(xent_stream stream) { return stream <= XENT_WEIGHTS || stream == XENT_SELF; }
static INLINE int is_weighted(xent_stream stream) { return stream == XENT_WEIGHTS || stream == XENT_SOFT; }
/* The streams of the row's own exponentials, and those that sum anything beside a moment. */
static INLINE int is_own(xent_stream stream) { return stream == XENT_SELF || stream == XENT_SQUARES; }
static INLINE int has_mass(xent_stream stream) { return is_weighted(stream) || stream == XENT_SQUARES; }
static INLINE int has_second_row(xent_stream stream) { return stream == XENT_SOFT || stream == XENT_TEACHER; }

/* The second stream a_c of class weights and soft targets: w_c, or w_c (keep t_c + add). */
typedef struct {
    vec keep, add;
} target_mix;

static INLINE vec mixed_target(vec t, const target_mix *mix) { return v(fma)(t, mix->keep, mix->add); }
