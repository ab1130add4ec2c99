/* load: from stored logits to the numbers z the algorithms see, in the compute type.
 *
 *   z = x, or softcap * tanh(x / softcap); the exponent is (z - m) / T with m the row's maximum, which keeps a shared
 *   offset exact under a temperature too. */

typedef struct {
    int probabilities, clipped;
    vec least, most;
    v(cap_scale) cap;
    vec cap_bend, heat, heat_low, coldest, inverse_temperature;
} load_plan;

/* 1/d as a sum of two numbers: x * high + x * low is x / d but for one rounding. */
static inline vec inverse_high(double d) { return v(set)((real)(1 / d)); }
static inline vec inverse_low(double d) {
    const double high = (double)(real)(1 / d);
    return v(set)((real)(fma(-d, high, 1.0) / d));
}

static inline load_plan prepare_load(const xent_plan *plan) {
    const double cap = plan->softcap > 0 ? plan->softcap : 1;
    const double cold = 2 * (double)c(EXP_LOWEST) * plan->temperature, lowest = -(double)c(LARGEST);
    const load_plan p = {
        plan->probabilities,
        plan->clip > 0,
        v(set)((real)plan->clip),
        v(set)((real)(1 - plan->clip)),
        {v(set)((real)cap), inverse_high(cap), inverse_low(cap)},
        v(set)((real)(-2 / (cap * cap))),
        inverse_high(plan->temperature),
        inverse_low(plan->temperature),
        v(set)((real)(cold > lowest ? cold : lowest)),
        v(set)((real)(1 / plan->temperature)),
    };
    return p;
}

/* The first n classes of a vector. */
static INLINE vec stored_up_to(const char *at, int n) {
    return n == LANES ? stored(at) : stored_first(at, n, v(set)((real)-INFINITY));
}

/* Of `count` stored numbers z, in place, and, for the gradient, dz/dx (of XENT_GIVEN its inverse). */
static INLINE void transform_all(vec *x, vec *slope, int count, const load_plan *p, xent_transform transform) {
    if (transform == XENT_CAPPED) {
        v(cap)(x, slope, count, &p->cap);
        return;
    }
    for (int j = 0; j < count; ++j) {
        slope[j] = v(set)(1);
        if (transform != XENT_GIVEN || !p->probabilities)
            continue;
        slope[j] = v(add)(x[j], v(set)(0)); /* -0 becomes +0 */
        if (p->clipped) {
            const vec inside = v(max)(p->least, v(select)(v(lt)(p->most, x[j]), p->most, x[j]));
            slope[j] = v(select)(v(but)(v(ne)(inside, x[j]), v(ne)(x[j], x[j])), v(set)((real)INFINITY), x[j]);
            x[j] = inside;
        }
        x[j] = v(log)(x[j]);
    }
}

static INLINE vec transformed(vec x, const load_plan *p, xent_transform transform, vec *slope) {
    transform_all(&x, slope, 1, p, transform);
    return x;
}

/* d2z/dx2 = -2 z / softcap^2 dz/dx, of XENT_CAPPED. */
static INLINE vec bend_of(vec z, vec slope, const load_plan *p) {
    return v(keep)(v(ne)(slope, v(set)(0)), v(mul)(v(mul)(p->cap_bend, z), slope));
}

/* t = z - m <= 0, divided by the temperature. */
static INLINE vec heated(vec t, const load_plan *p, xent_transform transform) {
    if (transform != XENT_HEATED && transform != XENT_CAPPED)
        return t;
    return v(fma)(t, p->heat, v(mul)(t, p->heat_low));
}

/* The same as the argument of an exponential: far below where any counts, -inf would only meet 0. */
static INLINE vec heated_exponent(vec t, const load_plan *p, xent_transform transform) {
    const int clamped = transform == XENT_HEATED || transform == XENT_CAPPED;
    return heated(clamped ? v(max)(p->coldest, t) : t, p, transform);
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

static INLINE int has_second_row(xent_stream stream) { return stream == XENT_SOFT || stream == XENT_TEACHER; }

/* Soft targets are stored in the compute type, a teacher's logits like the row's own. */
static INLINE int64_t second_bytes(xent_stream stream) {
    return stream == XENT_SOFT ? (int64_t)sizeof(real) : STORAGE_BYTES;
}

static INLINE const char *second_at(const stream_source *s, int64_t i, xent_stream stream) {
    return (stream == XENT_SOFT ? (const char *)s->soft : s->teacher) + i * second_bytes(stream);
}

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

static INLINE vec teacher_logits(const char *teacher, int64_t i, int n) {
    return stored_up_to(teacher + i * STORAGE_BYTES, n);
}

/* z, dz/dx and the second stream (of a teacher: z') of `count` vectors of n classes each, from class k on. */
static INLINE void load_vectors(vec *z, vec *slope, vec *second, const char *x, const stream_source *a, int64_t k, int count,
                                int n, const load_plan *p, xent_stream stream, xent_transform transform) {
    for (int j = 0; j < count; ++j, k += LANES) {
        z[j] = stored_up_to(x + k * STORAGE_BYTES, n);
        second[j] = stream == XENT_TEACHER ? teacher_logits(a->teacher, k, n)
                    : is_weighted(stream)  ? load_stream(a, k, n, stream)
                                           : z[j];
    }
    transform_all(z, slope, count, p, transform);
}

/* Of a teacher's logits, its probabilities times `share`. */
static INLINE vec teacher_probability(vec z, const stream_source *s, const load_plan *p, xent_transform transform) {
    return v(mul)(v(exp)(heated_exponent(v(sub)(z, s->teacher_max), p, transform)), s->teacher_share);
}
