/* apply: the row once more, now with its coefficients → what is stored.
 *
 *   gradient      scale exp(t) - push a_c, at_target at c = y, times dz/dx; softmax is the gradient with pull = 1
 *   Hessian       p (bend (1 - p) + square p), hess_at_target at c = y, times (dz/dx)^2, plus gradient times d2z/dx2
 *   entropy       scale exp(t) (t - center)
 *   distillation  scale exp(t) - a_c, two products alike, so that equal rows give zeros
 *   given         -(push a_c) dz/dx, -at_target dz/dx at c = y
 *   log_softmax   t - log_sum
 *
 * A product exp(t) scale below the smallest normal number is 0: compared before the multiplication, so that no subnormal
 * is ever made. Every element depends on its own class alone, so the order here is free: whole cache lines are streamed
 * past the cache when the output outgrows it. */

typedef struct {
    vec first, hess;
} applied;

/* From t = z - m on; `at` is true in the lane of the target. */
static INLINE applied apply_to(vec t, vec z, vec slope, vec a, mask at, const row_result *row, const load_plan *p,
                               xent_stream stream, xent_transform transform, xent_form form, int at_target, int hessian) {
    const vec tiny = v(set)(c(TINY)), one = v(set)(1);
    applied r = {v(sub)(t, row->log_sum), one};
    if (form == XENT_LOGARITHMS)
        return r;
    if (transform == XENT_GIVEN) {
        const vec zero = v(set)(0);
        vec weight = stream != XENT_NO_STREAM ? v(mul)(row->push, a) : zero;
        if (at_target)
            weight = v(select)(at, row->at_target, weight);
        const vec g = v(keep)(v(ne)(weight, zero), v(sub)(zero, v(div)(weight, slope)));
        r.first = v(keep)(v(nlt)(v(abs)(g), tiny), g);
        return r;
    }
    const vec exponent = cooled(t, p, transform), e = v(exp)(exponent);
    vec g = v(mul)(e, row->scale);
    if (stream == XENT_OWN)
        g = v(mul)(g, v(sub)(exponent, row->center));
    g = v(keep)(v(nlt)(e, row->floor), g);
    if (stream == XENT_TEACHER)
        g = v(sub)(g, a);
    else if (is_weighted(stream))
        g = v(fnma)(row->push, a, g);
    if (at_target)
        g = v(select)(at, row->at_target, g);
    if (hessian) {
        const vec share = v(keep)(v(nlt)(e, tiny), v(mul)(e, row->share));
        const vec beside = v(select)(v(eq)(t, v(set)(0)), row->beside, v(sub)(one, share));
        vec h = v(mul)(share, v(fma)(row->bend, beside, v(mul)(row->square, share)));
        if (at_target)
            h = v(select)(at, row->hess_at_target, h);
        if (transform != XENT_PLAIN)
            h = v(fma)(v(mul)(h, slope), slope, v(mul)(g, bend_of(z, slope, p)));
        r.hess = v(keep)(v(nlt)(v(abs)(h), tiny), h);
    }
    if (transform != XENT_PLAIN)
        g = v(mul)(g, slope);
    if (stream != XENT_NO_STREAM || transform != XENT_PLAIN || at_target)
        g = v(keep)(v(nlt)(v(abs)(g), tiny), g);
    r.first = g;
    return r;
}

typedef struct {
    const char *x;
    char *out, *hess;
    const stream_source *a;
    vec max;
    int64_t target; /* -1: none */
    int non_temporal, hess_non_temporal;
} row_memory;

static INLINE applied apply_vector(const row_memory *m, int64_t i, int n, const row_result *row, const load_plan *p,
                                   xent_stream stream, xent_transform transform, xent_form form, int at_target,
                                   int hessian) {
    vec slope;
    const vec z = load_logits(m->x, i, n, p, transform, &slope);
    const vec a = stream == XENT_TEACHER ? teacher_probability(teacher_logits(m->a->teacher, i, n), m->a, p, transform)
                  : is_weighted(stream)  ? load_stream(m->a, i, n, stream)
                                         : z;
    return apply_to(v(sub)(z, m->max), z, slope, a, v(only)(m->target - i), row, p, stream, transform, form, at_target,
                    hessian);
}

/* A streaming store waits long for its place in memory, and a later load waits for it if their addresses agree in the last
 * 12 bits (measured: 2.7 times slower where `out` lies up to a few vectors behind the logits in that sense). From the last
 * class to the first they never do. */
static INLINE int runs_backward(const row_memory *m) {
    const uintptr_t behind = ((uintptr_t)m->out - (uintptr_t)m->x) % 4096;
    return m->non_temporal && behind > 0 && behind < 1024;
}

/* Whole vectors from i up to the last that fits before end; returns where it stopped. */
static INLINE int64_t apply_span(const row_memory *m, int64_t i, int64_t end, const row_result *row, const load_plan *p,
                                 xent_stream stream, xent_transform transform, xent_form form, int at_target, int hessian) {
    const int64_t n = end > i ? (end - i) / LANES : 0, step = runs_backward(m) ? -LANES : LANES;
    int64_t k = step < 0 ? i + (n - 1) * LANES : i;
    for (int64_t left = n; left > 0; --left, k += step) {
        const int64_t byte = k * STORAGE_BYTES;
        const applied r = apply_vector(m, k, LANES, row, p, stream, transform, form, at_target, hessian);
        if (m->non_temporal)
            stream_stored(m->out + byte, r.first);
        else
            store_stored(m->out + byte, r.first);
        if (hessian && m->hess_non_temporal)
            stream_stored(m->hess + byte, r.hess);
        else if (hessian)
            store_stored(m->hess + byte, r.hess);
    }
    return i + n * LANES;
}

static INLINE void apply_part(const row_memory *m, int64_t i, int n, const row_result *row, const load_plan *p,
                              xent_stream stream, xent_transform transform, xent_form form, int hessian) {
    const applied r = apply_vector(m, i, n, row, p, stream, transform, form, may_be_indexed(stream), hessian);
    store_stored_first(m->out + i * STORAGE_BYTES, n, r.first);
    if (hessian)
        store_stored_first(m->hess + i * STORAGE_BYTES, n, r.hess);
}

static INLINE void apply_row(const row_memory *m, int64_t classes, const row_result *row, const load_plan *p,
                             xent_stream stream, xent_transform transform, xent_form form, int hessian) {
    /* Streaming stores are aligned; rows of an odd length begin anywhere. */
    int64_t i = m->non_temporal ? (int64_t)(-(uintptr_t)m->out % (LANES * STORAGE_BYTES)) / STORAGE_BYTES : 0;
    i = i < classes ? i : classes;
    if (i)
        apply_part(m, 0, (int)i, row, p, stream, transform, form, hessian);
    if (may_be_indexed(stream) && m->target >= i) { /* up to the vector that holds the target, and that vector */
        i = apply_span(m, i, i + (m->target - i) / LANES * LANES, row, p, stream, transform, form, 0, hessian);
        i = apply_span(m, i, i + LANES <= classes ? i + LANES : i, row, p, stream, transform, form, 1, hessian);
    }
    i = apply_span(m, i, classes, row, p, stream, transform, form, 0, hessian);
    if (i < classes)
        apply_part(m, i, (int)(classes - i), row, p, stream, transform, form, hessian);
}
