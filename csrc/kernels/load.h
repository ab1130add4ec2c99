/* load: from stored logits to the numbers z the algorithms see, in the compute type.
 *
 *   z = x, or softcap * tanh(x / softcap); the exponent is (z - m) / T with m the row's maximum, which keeps a shared
 *   offset exact under a temperature too. */

typedef struct {
    int capped, probabilities, clipped;
    vec least, most, softcap, cap_bend, cap_inverse, cap_inverse_low, heat, heat_low, inverse_temperature;
} load_plan;

/* 1/d as a sum of two numbers: x * high + x * low is x / d but for one rounding. */
static inline vec inverse_high(double d) { return v(set)((real)(1 / d)); }
static inline vec inverse_low(double d) {
    const double high = (double)(real)(1 / d);
    return v(set)((real)(fma(-d, high, 1.0) / d));
}

static inline load_plan prepare_load(const xent_plan *plan) {
    const double cap = plan->softcap > 0 ? plan->softcap : 1;
    const load_plan p = {
        plan->softcap > 0,
        plan->probabilities,
        plan->clip > 0,
        v(set)((real)plan->clip),
        v(set)((real)(1 - plan->clip)),
        v(set)((real)cap),
        v(set)((real)(-2 / (cap * cap))),
        inverse_high(cap),
        inverse_low(cap),
        inverse_high(plan->temperature),
        inverse_low(plan->temperature),
        v(set)((real)(1 / plan->temperature)),
    };
    return p;
}

/* z and, for the gradient, dz/dx (of XENT_GIVEN its inverse). Infinities pass through the cap. */
static INLINE vec transformed(vec x, const load_plan *p, xent_transform transform, vec *slope) {
    if (transform == XENT_GIVEN && p->probabilities) {
        *slope = v(add)(x, v(set)(0)); /* -0 becomes +0 */
        if (!p->clipped)
            return v(log)(x);
        const vec inside = v(max)(p->least, v(select)(v(lt)(p->most, x), p->most, x));
        *slope = v(select)(v(but)(v(ne)(inside, x), v(ne)(x, x)), v(set)((real)INFINITY), x);
        return v(log)(inside);
    }
    if (transform != XENT_TRANSFORMED || !p->capped) {
        *slope = v(set)(1);
        return x;
    }
    const mask finite = v(lt)(v(abs)(x), v(set)((real)INFINITY));
    const v(tanh_parts) t = v(tanh)(v(fma)(x, p->cap_inverse, v(mul)(x, p->cap_inverse_low)));
    *slope = v(keep)(finite, t.slope);
    return v(select)(finite, v(mul)(p->softcap, t.value), x);
}

/* d2z/dx2 = -2 z / softcap^2 dz/dx. */
static INLINE vec bend_of(vec z, vec slope, const load_plan *p) {
    if (!p->capped)
        return v(set)(0);
    return v(keep)(v(ne)(slope, v(set)(0)), v(mul)(v(mul)(p->cap_bend, z), slope));
}

static INLINE vec load_logits(const char *x, int64_t i, int n, const load_plan *p, xent_transform transform, vec *slope) {
    const char *at = x + i * STORAGE_BYTES;
    return transformed(n == LANES ? stored(at) : stored_first(at, n, v(set)((real)-INFINITY)), p, transform, slope);
}

/* The argument of the exponential: t = z - m <= 0, divided by the temperature. */
static INLINE vec cooled(vec t, const load_plan *p, xent_transform transform) {
    if (transform != XENT_TRANSFORMED)
        return t;
    const mask masked = v(lt)(t, v(set)(-c(LARGEST)));
    return v(select)(masked, t, v(fma)(t, p->heat, v(mul)(t, p->heat_low)));
}

/* The second stream a_c of class weights and soft targets, in the compute type; +0 past the end. A teacher's logits are
 * stored like the row's own. */
typedef struct {
    const real *weight, *soft;
    const char *teacher;
    vec keep, add;
    vec teacher_max, teacher_share; /* known once the row has been reduced: a_c = exp((z' - max) / T) share */
} stream_source;

/* What goes with class indices, and what comes from an array beside the logits. */
static INLINE int may_be_indexed(xent_stream stream) { return stream <= XENT_WEIGHTS; }
static INLINE int is_weighted(xent_stream stream) { return stream == XENT_WEIGHTS || stream == XENT_SOFT; }

static INLINE vec load_reals(const real *from, int64_t i, int n) {
    return n == LANES ? v(load)(from + i) : v(load_first)(from + i, n, v(set)(0));
}

static INLINE vec load_stream(const stream_source *s, int64_t i, int n, xent_stream stream) {
    vec a = v(set)(1);
    if (s->weight)
        a = load_reals(s->weight, i, n);
    if (stream == XENT_SOFT) {
        const vec t = v(fma)(load_reals(s->soft, i, n), s->keep, s->add);
        a = s->weight ? v(mul)(t, a) : t;
    }
    return n == LANES ? a : v(keep)(v(first)(n), a);
}

/* exp(t), flushed to 0 below the smallest normal number. */
static INLINE vec flushed_exp(vec t) {
    const vec e = v(exp)(t);
    return v(keep)(v(nlt)(e, v(set)(c(TINY))), e);
}

/* Of a teacher's logits, its probabilities times `share`. */
static INLINE vec teacher_probability(vec z, const stream_source *s, const load_plan *p, xent_transform transform) {
    return v(mul)(flushed_exp(cooled(v(sub)(z, s->teacher_max), p, transform)), s->teacher_share);
}
