/* apply, vectors along the classes: a row once more, now with its coefficients → what is stored.
 *
 *   gradient      p_coef exp(t) - a_coef a_c, target_grad at c = y; softmax is the gradient with p_coef = 1 / s
 *   Hessian       p (hess_coef (1 - p) + square p), target_hess at c = y
 *   entropy       p_coef exp(t) (t - center)
 *   distillation  p_coef exp(t) - a_c, two products alike, so that equal rows give zeros; for the teacher, with t' for t,
 *                 p_coef exp(t') (t' - t - center)
 *   log-probs     -a_coef a_c, target_grad at c = y; of probabilities divided by them
 *   log_softmax   t - log_sum
 *
 * A product exp(t) p_coef below the smallest normal number is 0: compared before the multiplication, so that no subnormal
 * is ever made. Capped logits pass the chain rule behind. Every element depends on its own class alone, so the order here is
 * free. */

typedef struct {
    vec first, hess;
} applied;

/* Of a teacher's logits, its probabilities times `share`. */
static INLINE vec teacher_probability(vec z, vec max, vec share, const transform_plan *p, xent_transform transform) {
    return v(mul)(v(exp)(exponent_of(v(sub)(z, max), p, transform)), share);
}

/* From t = z - m on, from its exponential, or from a probability as it is stored; `at` is true in the lane of the target. */
static INLINE applied apply_to(vec t, vec a, mask at, const lane_coefs *row, const transform_plan *p, xent_stream stream,
                               xent_transform transform, xent_form form, int at_target, int hessian) {
    const vec tiny = v(set)(c(TINY)), one = v(set)(1);
    applied r = {v(sub)(t, row->log_sum), one};
    if (form == XENT_LOGARITHMS)
        return r;
    if (form == XENT_OF_TEACHER) {
        const vec e = v(exp)(exponent_of(a, p, transform)), apart = over_temperature(v(sub)(a, t), p, transform);
        const vec g = v(keep)(v(nlt)(e, row->floor), v(mul)(v(mul)(e, row->p_coef), v(sub)(apart, row->center)));
        r.first = v(keep)(v(nlt)(v(abs)(g), row->least), g);
        return r;
    }
    if (transform == XENT_LOG_PROBS) {
        const vec w = v(mul)(row->a_coef, a);
        vec g = v(sub)(v(set)(0), w);
        if (p->probabilities)
            g = v(div)(g, inverse_slope(t, p));
        g = v(keep)(v(ne)(w, v(set)(0)), g);
        if (at_target)
            g = v(select)(at, row->target_grad, g);
        r.first = v(keep)(v(nlt)(v(abs)(g), row->least), g);
        return r;
    }
    const vec exponent = exponent_of(t, p, transform), e = transform == XENT_KEPT ? t : v(exp)(exponent);
    vec g = v(mul)(e, row->p_coef);
    if (stream == XENT_SELF)
        g = v(fma)(g, v(sub)(exponent, row->center), v(mul)(e, row->base));
    g = v(keep)(v(nlt)(e, row->floor), g);
    if (stream == XENT_TEACHER)
        g = v(sub)(g, a);
    else if (is_weighted(stream))
        g = v(fnma)(row->a_coef, a, g);
    if (at_target)
        g = v(select)(at, row->target_grad, g);
    if (hessian) {
        const vec share = v(keep)(v(nlt)(e, tiny), v(mul)(e, row->share));
        const vec one_minus_p = v(select)(v(eq)(t, v(set)(0)), row->one_minus_p, v(sub)(one, share));
        vec h = v(mul)(share, v(fma)(row->hess_coef, one_minus_p, v(mul)(row->square, share)));
        if (at_target)
            h = v(select)(at, row->target_hess, h);
        r.hess = v(keep)(v(nlt)(v(abs)(h), row->least), h);
    }
    if (stream != XENT_NO_STREAM || at_target)
        g = v(keep)(v(nlt)(v(abs)(g), row->least), g);
    r.first = g;
    return r;
}

/* A range of a row's classes, in the compute type: where it lies, or in the workspace. */
typedef struct {
    const char *z, *second;
    const real *weight;
    char *out, *hess; /* hess may be NULL */
    int64_t n;
    int64_t target; /* among these classes, or none of them */
    int streams, hess_streams, backward;
    vec max, teacher_max;
} wide_range;

static INLINE void store_range(char *at, int n, vec value, int streams) {
    if (n < LANES)
        v(store_first)(at, n, value);
    else if (streams)
        v(stream)(at, value);
    else
        v(store)(at, value);
}

/* `count` vectors of n classes each, from class k on. All are read before the first is written, which may be where the next
 * is read. */
static INLINE void apply_vectors(const wide_range *m, int64_t k, int count, int n, const lane_coefs *row,
                                 const target_mix *mix, const transform_plan *p, xent_stream stream,
                                 xent_transform transform, xent_form form, int at_target, int hessian) {
    const vec minus_max = v(sub)(v(set)((real)-0.0), m->max); /* of 0, -0, which leaves a logit -0 as it is */
    applied r[XENT_SIDE_BY_SIDE];
    for (int j = 0; j < count; ++j) {
        const int64_t i = k + j * LANES;
        const vec z = load_up_to(m->z + i * (int64_t)sizeof(real), n, (real)-INFINITY);
        vec a = v(set)(0);
        if (is_weighted(stream) || stream == XENT_TEACHER)
            a = load_second(m->second, m->weight, i, n, mix, stream);
        if (stream == XENT_TEACHER)
            a = form == XENT_OF_TEACHER ? v(sub)(a, m->teacher_max)
                                        : teacher_probability(a, m->teacher_max, row->teacher_share, p, transform);
        r[j] = apply_to(transform == XENT_LOG_PROBS ? z : v(add)(z, minus_max), a, v(only)(m->target - i), row, p, stream,
                        transform, form, at_target, hessian);
    }
    for (int j = 0; j < count; ++j) {
        const int64_t byte = (k + j * LANES) * (int64_t)sizeof(real);
        store_range(m->out + byte, n, r[j].first, m->streams);
        if (hessian)
            store_range(m->hess + byte, n, r[j].hess, m->hess_streams);
    }
}

static INLINE lane_coefs copied_coefs(const lane_coefs *c) {
    return (lane_coefs){copied(&c->log_sum),     copied(&c->p_coef),      copied(&c->floor),     copied(&c->a_coef),
                        copied(&c->target_grad), copied(&c->center),      copied(&c->base),      copied(&c->teacher_share),
                        copied(&c->share),       copied(&c->one_minus_p), copied(&c->hess_coef), copied(&c->square),
                        copied(&c->target_hess), copied(&c->least)};
}

/* Whole vectors side by side; one at a time what is left at the end, and those around the target. */
static INLINE void apply_range(const wide_range *range, const lane_coefs *coefs, const target_mix *mix,
                               const transform_plan *p, xent_stream stream, xent_transform transform, xent_form form,
                               int hessian) {
    enum { ABREAST = XENT_SIDE_BY_SIDE * LANES };
    /* Copies, which no store can change; a vector at a time, for what is stored in parts is slowly read as a whole. */
    const wide_range own = {range->z,        range->second,       range->weight,
                            range->out,      range->hess,         range->n,
                            range->target,   range->streams,      range->hess_streams,
                            range->backward, copied(&range->max), copied(&range->teacher_max)};
    const wide_range *const m = &own;
    const lane_coefs row_coefs = copied_coefs(coefs);
    const lane_coefs *const row = &row_coefs;
    for (int64_t done = 0; done < m->n;) {
        const int64_t left = m->n - done;
        int64_t k = m->backward ? left - ABREAST : done;
        if (left >= ABREAST && (!may_be_indexed(stream) || (uint64_t)(m->target - k) >= ABREAST)) {
            apply_vectors(m, k, XENT_SIDE_BY_SIDE, LANES, row, mix, p, stream, transform, form, 0, hessian);
            done += ABREAST;
            continue;
        }
        const int n = m->backward && left % LANES ? (int)(left % LANES) : lanes_left(left);
        k = m->backward ? left - n : done;
        apply_vectors(m, k, 1, n, row, mix, p, stream, transform, form, may_be_indexed(stream), hessian);
        done += n;
    }
}

typedef void apply_kernel(const wide_range *range, const lane_coefs *coefs, const target_mix *mix, const transform_plan *p);

#define XENT_DEFINE(S, T, FORM, HESSIAN)                                                                                    \
    static void apply_wide_##S##_##T##_##FORM##_##HESSIAN(const wide_range *range, const lane_coefs *coefs,                 \
                                                          const target_mix *mix, const transform_plan *p) {                 \
        apply_range(range, coefs, mix, p, S, T, FORM, HESSIAN);                                                             \
    }
XENT_APPLY_KERNELS(XENT_DEFINE)
#undef XENT_DEFINE

/* What the stores of a form and of a Hessian are numbered by in the tables of apply. */
enum { WITHOUT_HESSIAN, WITH_HESSIAN, LOG_SOFTMAX, TEACHER_GRADIENT, OUTPUTS };
#define OUTPUT_OF(form, hessian)                                                                                            \
    ((form) == XENT_LOGARITHMS ? LOG_SOFTMAX : (form) == XENT_OF_TEACHER ? TEACHER_GRADIENT : (hessian))

static apply_kernel *apply_wide_kernel(const xent_plan *plan, int hessian) {
#define XENT_ENTRY(S, T, FORM, HESSIAN) [S][T][OUTPUT_OF(FORM, HESSIAN)] = apply_wide_##S##_##T##_##FORM##_##HESSIAN,
    static apply_kernel *const kernels[XENT_STREAMS][XENT_TRANSFORMS][OUTPUTS] = {XENT_APPLY_KERNELS(XENT_ENTRY)};
#undef XENT_ENTRY
    return kernels[plan->stream][kernel_transform(plan->transform)][OUTPUT_OF(plan->form, hessian)];
}

/* A streaming store waits long for its place in memory, and a later load waits for it if their addresses agree in the last
 * 12 bits (measured: 2.7 times slower where `out` lies up to a few vectors behind the logits in that sense). From the last
 * class to the first they never do. */
static inline int runs_backward(const char *z, const char *out, int streams) {
    const uintptr_t behind = ((uintptr_t)out - (uintptr_t)z) % 4096;
    return streams && behind > 0 && behind < 1024;
}

/* One row on its way to memory. */
typedef struct {
    const block_reader *from;
    const wide_row *row;
    const lane_coefs *coefs;
    const target_mix *mix;
    apply_kernel *kernel;
    row_stream *out, *hess; /* hess may be NULL */
    vec *out_buffer, *hess_buffer;
    int64_t target;
    vec max, teacher_max;
} row_writer;

/* Whether the outputs of a row pass through the workspace. */
static inline int scatters(const block_reader *from) { return from->converts || is_capped(from->plan); }

/* n classes from class k on: written where they belong, or to the workspace and from there converted. */
static void write_range(const row_writer *w, int64_t k, int64_t n, int streams, int backward) {
    const block_reader *from = w->from;
    const xent_plan *plan = from->plan;
    const int in_place = !scatters(from), capped = is_capped(plan);
    char *const out = streams ? w->out->at + k * w->out->bytes : place_of(w->out, k);
    char *const hess = !w->hess ? NULL : streams ? w->hess->at + k * w->hess->bytes : place_of(w->hess, k);
    const int hess_streams = streams && ((uintptr_t)hess - (uintptr_t)out) % CACHE_LINE == 0;
    const int64_t vectors = (n + LANES - 1) / LANES;
    double unused;
    const char *z = read_stored(from, w->row->z, k, n, &unused);
    if (capped) {
        transform_block(from->z_buffer, from->slope_buffer, z, n, plan, from->transform);
        z = (const char *)from->z_buffer;
    }
    const wide_range range = {
        .z = z,
        .second = read_second(from, w->row->second, k, n),
        .weight = plan->class_weight ? (const real *)plan->class_weight + k : NULL,
        .out = in_place ? out : (char *)w->out_buffer,
        .hess = in_place || !hess ? hess : (char *)w->hess_buffer,
        .n = n,
        .target = w->target == ELSEWHERE ? ELSEWHERE : w->target - k,
        .streams = streams && in_place,
        .hess_streams = hess_streams && in_place,
        .backward = backward,
        .max = w->max,
        .teacher_max = w->teacher_max,
    };
    w->kernel(&range, w->coefs, w->mix, from->transform);
    if (in_place)
        return;
    if (capped)
        chain_rule(w->out_buffer, hess ? w->hess_buffer : NULL, from->z_buffer, from->slope_buffer, vectors,
                   from->transform);
    from->stored->scatter_run(out, (const real *)w->out_buffer, n, streams);
    if (hess)
        from->stored->scatter_run(hess, (const real *)w->hess_buffer, n, hess_streams);
}

/* A whole row: what fills cache lines, and what is left at either end. Through the workspace a few lines at a time, so that
 * what is streamed leaves among arithmetic. */
static void write_row(const row_writer *w, int64_t classes) {
    enum { AT_ONCE = 256 };
    const int streams = w->out->streams, backward = runs_backward(w->row->z, w->out->at, streams);
    const line_range lines = streams ? w->out->lines : (line_range){0, classes};
    if (lines.begin > 0)
        write_range(w, 0, lines.begin, 0, 0);
    const int64_t n = lines.end - lines.begin, step = scatters(w->from) || is_gathered(w->from) ? AT_ONCE : n;
    for (int64_t done = 0; done < n; done += step) {
        const int64_t count = n - done < step ? n - done : step;
        write_range(w, backward ? lines.end - done - count : lines.begin + done, count, streams, backward);
    }
    if (lines.end < classes)
        write_range(w, lines.end, classes - lines.end, 0, 0);
}
