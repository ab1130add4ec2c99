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

/* 0 in the place of what is below the smallest normal number. */
static INLINE vec flushed(vec a) { return v(keep)(v(nlt)(v(abs)(a), v(set)(c(TINY))), a); }

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
        r.first = flushed(g);
        return r;
    }
    const vec exponent = heated_exponent(t, p, transform), e = v(exp)(exponent);
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
        if (transform == XENT_CAPPED)
            h = v(fma)(v(mul)(h, slope), slope, v(mul)(g, bend_of(z, slope, p)));
        r.hess = flushed(h);
    }
    if (transform == XENT_CAPPED)
        g = v(mul)(g, slope);
    if (stream != XENT_NO_STREAM || transform == XENT_CAPPED || at_target)
        g = flushed(g);
    r.first = g;
    return r;
}

/* What is streamed is whole lines: half of one, beside numbers that are stored, took five times as long. */
typedef struct {
    int64_t begin, end;
} line_range;

/* Lines begin between numbers, not in one. */
static INLINE int meets_lines(const char *at) { return (uintptr_t)at % STORAGE_BYTES == 0; }

/* Numbers until the next line begins; 0, too, if none begins there. */
static INLINE int64_t before_line(const char *at) {
    return meets_lines(at) ? (int64_t)(-(uintptr_t)at % 64) / STORAGE_BYTES : 0;
}

/* Those of n numbers that fill lines, if they may be streamed; else 0..0. */
static INLINE line_range whole_lines(const char *at, int64_t n, int non_temporal) {
    const int64_t before = before_line(at), begin = before < n ? before : n;
    return non_temporal && meets_lines(at) ? (line_range){begin, begin + ((n - begin) & -(int64_t)(64 / STORAGE_BYTES))}
                                           : (line_range){0, 0};
}

/* Where what is streamed ends inside a line, and what comes next is not at hand, neither can stream it: it is asked for
 * before it is written, or the stores behind would wait for it (rows of 257 classes took a third longer). */
static INLINE void fetch_seam(const char *end) {
    if ((uintptr_t)end % 64 != 0)
        xent_prefetch(end);
}

/* Where rows lie next to each other, the line between two is put together of the end of one and the begin of the other,
 * and then streamed like the rest: one line that is stored cost as much as eight (1025 classes). */
typedef struct {
    _Alignas(64) char lines[2][64]; /* before a row, and behind it: by turns */
    int turn, joins;
    int64_t open; /* bytes of lines[turn] that the row before has left */
} seam;

/* Rows of 128 bytes have a whole line, wherever they begin. */
static INLINE int rows_join(const char *out, int64_t step, int64_t classes) {
    return step == classes * STORAGE_BYTES && step >= 128 && meets_lines(out);
}

/* Asks for the line in which row r ends, unless the next row will complete it; `last`: no next row is at hand. */
static INLINE void fetch_row_end(const xent_plan *plan, const char *out, int64_t step, int64_t r, int last) {
    if (plan->non_temporal && out && (last || !rows_join(out, step, plan->classes)))
        fetch_seam(out + r * step + plan->classes * STORAGE_BYTES);
}

/* Where number k of a row is written. */
static INLINE char *place_of(seam *s, char *row, int64_t k, const line_range *lines) {
    if (s->joins && k < lines->begin)
        return s->lines[s->turn] + (uintptr_t)row % 64 + k * STORAGE_BYTES;
    if (s->joins && k >= lines->end)
        return s->lines[!s->turn] + (k - lines->end) * STORAGE_BYTES;
    return row + k * STORAGE_BYTES;
}

/* After the row before has been left open: its end goes where it belongs. */
static INLINE void close_seam(seam *s, char *row) {
    if (s->open)
        memcpy(row - s->open, s->lines[s->turn], (size_t)s->open);
    s->open = 0;
}

static INLINE void pass_seam(seam *s, char *row, int64_t classes, const line_range *lines) {
    const int64_t begun = (int64_t)((uintptr_t)row % 64), first = lines->begin * STORAGE_BYTES;
    char *line = s->lines[s->turn];
    if (s->open)
        for (int64_t byte = 0; byte < 64; byte += (int64_t)sizeof(vec))
            v(stream)(row - begun + byte, v(load)(line + byte));
    else
        memcpy(row, line + begun, (size_t)first);
    s->open = (classes - lines->end) * STORAGE_BYTES;
    s->turn = !s->turn;
}

typedef struct {
    const char *x;
    char *out, *hess;
    const stream_source *a;
    vec max;
    int64_t target; /* -1: none */
    int non_temporal, hess_non_temporal;
    seam *out_seam, *hess_seam;
} row_memory;

static INLINE void row_store(char *at, int n, vec value, int non_temporal) {
    if (n < LANES)
        store_stored_first(at, n, value);
    else if (non_temporal)
        stream_stored(at, value);
    else
        store_stored(at, value);
}

/* `count` vectors of n classes each, from class k on. All are read before the first is written, which may be where the next
 * is read. */
static INLINE void apply_vectors(const row_memory *m, char *out, char *hess, int64_t k, int count, int n, int streams,
                                 const row_result *row, const load_plan *p, xent_stream stream, xent_transform transform,
                                 xent_form form, int at_target, int hessian) {
    vec z[XENT_SIDE_BY_SIDE], slope[XENT_SIDE_BY_SIDE], second[XENT_SIDE_BY_SIDE];
    applied r[XENT_SIDE_BY_SIDE];
    load_vectors(z, slope, second, m->x, m->a, k, count, n, p, stream, transform);
    for (int j = 0; j < count; ++j) {
        const vec a = stream == XENT_TEACHER ? teacher_probability(second[j], m->a, p, transform) : second[j];
        r[j] = apply_to(v(sub)(z[j], m->max), z[j], slope[j], a, v(only)(m->target - (k + j * LANES)), row, p, stream,
                        transform, form, at_target, hessian);
    }
    for (int j = 0; j < count; ++j) {
        const int64_t byte = j * LANES * STORAGE_BYTES;
        row_store(out + byte, n, r[j].first, streams);
        if (hessian)
            row_store(hess + byte, n, r[j].hess, streams && m->hess_non_temporal);
    }
}

/* A streaming store waits long for its place in memory, and a later load waits for it if their addresses agree in the last
 * 12 bits (measured: 2.7 times slower where `out` lies up to a few vectors behind the logits in that sense). From the last
 * class to the first they never do. */
static INLINE int runs_backward(const row_memory *m) {
    const uintptr_t behind = ((uintptr_t)m->out - (uintptr_t)m->x) % 4096;
    return m->non_temporal && behind > 0 && behind < 1024;
}

/* Whole vectors side by side; one at a time what is left at either end, and those around the target. Rows of an odd length
 * begin anywhere. */
static INLINE void apply_row(const row_memory *m, int64_t classes, const row_result *row, const load_plan *p,
                             xent_stream stream, xent_transform transform, xent_form form, int hessian) {
    enum { ABREAST = XENT_SIDE_BY_SIDE * LANES };
    const int backward = runs_backward(m);
    const line_range lines = whole_lines(m->out, classes, m->non_temporal);
    const int64_t begin = lines.begin, end = m->non_temporal ? lines.end : classes;
    int64_t n = (backward ? classes - begin : begin) & (LANES - 1);
    for (int64_t done = 0; done < classes;) {
        const int64_t left = classes - done, k = backward ? left - ABREAST : done;
        if (n == 0 && k >= begin && k + ABREAST <= end &&
            (!may_be_indexed(stream) || (uint64_t)(m->target - k) >= ABREAST)) {
            apply_vectors(m, m->out + k * STORAGE_BYTES, hessian ? m->hess + k * STORAGE_BYTES : NULL, k, XENT_SIDE_BY_SIDE,
                          LANES, m->non_temporal, row, p, stream, transform, form, 0, hessian);
            done += ABREAST;
            continue;
        }
        n = n ? n : lanes_left(left);
        const int64_t at = backward ? left - n : done;
        const int streams = m->non_temporal && at >= begin && at + n <= end;
        apply_vectors(m, place_of(m->out_seam, m->out, at, &lines),
                      hessian ? place_of(m->hess_seam, m->hess, at, &lines) : NULL, at, 1, (int)n, streams, row, p, stream,
                      transform, form, may_be_indexed(stream), hessian);
        done += n;
        n = 0;
    }
    if (m->out_seam->joins)
        pass_seam(m->out_seam, m->out, classes, &lines);
    if (hessian && m->hess_seam->joins)
        pass_seam(m->hess_seam, m->hess, classes, &lines);
}
