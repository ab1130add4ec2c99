/* reduce: a row of logits (and of the second stream) → its sums.
 *
 * The order of summation is the same in every layout and part of the contract, because it is what makes the bits of a
 * result independent of threads, batch, layout and instruction set:
 *   - a block is 1,024 classes; in it, class i goes to virtual lane i % 64, each lane adds its up to 16 numbers from left
 *     to right, and the 64 lanes are summed by pairing neighbours (sum_tree in simd/);
 *   - a chunk is 16 blocks; block totals are added in f64, relative to the largest logit so far: when a block raises it,
 *     what was summed is multiplied by exp(old - new), in f64 too, so that C/1024 rescalings cost no accuracy in f32;
 *   - chunks, each relative to its own maximum, are merged from left to right relative to the row's maximum.
 * Classes equal to the maximum add 0 to `rest` and 1 to `hits`: log1p(rest + hits - 1) keeps what log(sum) would lose.
 *
 * The maximum starts at the lowest finite number, so that -inf never meets -inf: all--inf blocks, chunks and padding add
 * nothing, and a row of nothing but -inf ends with hits == 0. max(x, m) returns m when x is NaN; the NaN then enters
 * through z - m. So does +inf - +inf. */

/* exp(t) of a single f64 for t <= 0, flushed to 0 below the smallest normal. */
static inline double shrink(double t) {
    const f64_vec e = f64_exp(f64_set(t));
    return f64_get(f64_keep(f64_nlt(e, f64_set(f64_constant_TINY)), e));
}

enum { GROUPS = 64 / LANES };

static inline int lanes_left(int64_t left) { return left >= LANES ? LANES : left <= 0 ? 0 : (int)left; }

/* The cap is monotonic, so the maximum is taken of the stored logits and capped once. */
static INLINE real block_max(const char *x, int64_t n, const load_plan *p, xent_transform transform) {
    const vec lowest = v(set)(-c(LARGEST));
    vec m[4] = {lowest, lowest, lowest, lowest}, slope;
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int g = 0; g < 4; ++g)
            m[g] = v(max)(stored(x + (i + g * LANES) * STORAGE_BYTES), m[g]);
    for (; i < n; i += LANES)
        m[0] = v(max)(stored_first(x + i * STORAGE_BYTES, lanes_left(n - i), lowest), m[0]);
    const real max = v(max_of)(v(max)(v(max)(m[0], m[1]), v(max)(m[2], m[3]))) + 0; /* -0 becomes +0 */
    return transform == XENT_PLAIN ? max : v(get)(transformed(v(set)(max), p, transform, &slope));
}

typedef struct {
    vec rest[GROUPS], mass[GROUPS], moment[GROUPS], hits;
} block_sums;

static INLINE void add_group(block_sums *s, int g, const char *x, const stream_source *a, int64_t i, int n, vec max,
                             const load_plan *p, xent_stream stream, xent_transform transform, int holds_max) {
    vec slope;
    const vec t = v(sub)(load_logits(x, i, n, p, transform, &slope), max);
    const vec exponent = cooled(t, p, transform), e = v(exp_normal)(exponent);
    mask counts = v(nlt)(exponent, v(set)(c(EXP_LEAST)));
    if (holds_max) {
        const mask hit = v(eq)(t, v(set)(0));
        counts = v(but)(counts, hit);
        s->hits = v(add_where)(hit, s->hits, v(set)(1));
    }
    s->rest[g] = v(add_where)(counts, s->rest[g], e);
    if (stream != XENT_NO_STREAM) {
        const vec w = load_stream(a, i, n, stream);
        /* 0 * -inf is 0 here: a masked class without weight costs nothing. */
        s->moment[g] = v(select)(v(ne)(w, v(set)(0)), v(fma)(w, t, s->moment[g]), s->moment[g]);
        s->mass[g] = v(add)(s->mass[g], w);
    }
}

static INLINE void add_block(xent_chunk *chunk, const char *x, const stream_source *a, int64_t at, int64_t n,
                             const char *ahead, const load_plan *p, xent_stream stream, xent_transform transform,
                             int holds_max) {
    const vec max = v(set)((real)chunk->max);
    block_sums s;
    for (int g = 0; g < GROUPS; ++g)
        s.rest[g] = s.mass[g] = s.moment[g] = v(set)(0);
    s.hits = v(set)(0);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int line = 0; line < 64 * STORAGE_BYTES; line += 64)
            xent_prefetch(ahead + i * STORAGE_BYTES + line);
        for (int g = 0; g < GROUPS; ++g)
            add_group(&s, g, x, a, at + i + g * LANES, LANES, max, p, stream, transform, holds_max);
    }
    for (int g = 0; g < GROUPS && i < n; ++g, i += LANES)
        add_group(&s, g, x, a, at + i, lanes_left(n - i), max, p, stream, transform, holds_max);
    chunk->rest += (double)v(sum_tree)(s.rest);
    if (holds_max) {
        vec hits[GROUPS];
        for (int g = 0; g < GROUPS; ++g)
            hits[g] = g == 0 ? s.hits : v(set)(0);
        chunk->hits += (double)v(sum_tree)(hits);
    }
    if (stream != XENT_NO_STREAM) {
        chunk->mass += (double)v(sum_tree)(s.mass);
        chunk->moment += (double)v(sum_tree)(s.moment);
    }
}

/* Moves what a chunk has summed to a new maximum. */
static inline void rebase(xent_chunk *chunk, double max, double temperature) {
    const double step = chunk->max - max, sum = chunk->rest + chunk->hits;
    chunk->rest = sum != 0 ? sum * shrink(step / temperature) : 0;
    chunk->hits = 0;
    if (chunk->mass != 0)
        chunk->moment += chunk->mass * step;
    chunk->max = max;
}

/* `next` is where the bytes after the row's last will be read from: the start of the next row. */
static INLINE xent_chunk reduce_chunk(const char *x, const stream_source *a, int64_t begin, int64_t end, int64_t classes,
                                      const char *next, double temperature, const load_plan *p, xent_stream stream,
                                      xent_transform transform) {
    xent_chunk chunk = {-(double)c(LARGEST), 0, 0, 0, 0};
    for (int64_t at = begin; at < end; at += XENT_BLOCK) {
        const int64_t n = end - at < XENT_BLOCK ? end - at : XENT_BLOCK;
        const int64_t ahead = at + PREFETCH_BLOCKS * XENT_BLOCK;
        const char *prefetch = ahead < classes ? x + ahead * STORAGE_BYTES : next + (ahead - classes) * STORAGE_BYTES;
        const double m = (double)block_max(x + at * STORAGE_BYTES, n, p, transform);
        if (m > chunk.max)
            rebase(&chunk, m, temperature);
        if (m == chunk.max)
            add_block(&chunk, x, a, at, n, prefetch, p, stream, transform, 1);
        else
            add_block(&chunk, x, a, at, n, prefetch, p, stream, transform, 0);
    }
    return chunk;
}

/* s += x, the error of the addition kept in *low (Knuth's two-sum). */
static inline void add_exactly(double *s, double *low, double x) {
    const double t = *s + x, part = t - *s;
    *low += (*s - (t - part)) + (x - part);
    *s = t;
}

static inline xent_chunk merge_chunks(const xent_chunk *chunks, int64_t n, double temperature) {
    if (n == 1)
        return chunks[0];
    xent_chunk row = {-(double)c(LARGEST), 0, 0, 0, 0};
    double rest_low = 0, mass_low = 0, moment_low = 0;
    for (int64_t k = 0; k < n; ++k)
        row.max = chunks[k].max > row.max ? chunks[k].max : row.max;
    for (int64_t k = 0; k < n; ++k) {
        xent_chunk chunk = chunks[k];
        if (chunk.max < row.max)
            rebase(&chunk, row.max, temperature);
        row.hits += chunk.hits;
        add_exactly(&row.rest, &rest_low, chunk.rest);
        add_exactly(&row.mass, &mass_low, chunk.mass);
        add_exactly(&row.moment, &moment_low, chunk.moment);
    }
    row.rest += rest_low;
    row.mass += mass_low;
    row.moment = isfinite(row.moment) ? row.moment + moment_low : row.moment;
    return row;
}

static INLINE xent_chunk reduce_row(const char *x, const stream_source *a, const char *next, xent_chunk *chunks,
                                    const xent_plan *plan, const load_plan *p, xent_stream stream,
                                    xent_transform transform) {
    const int64_t n = XENT_ROWS_NEED_CHUNKS(plan->classes);
    for (int64_t k = 0; k < n; ++k) {
        const int64_t begin = k * XENT_CHUNK;
        const int64_t end = plan->classes - begin < XENT_CHUNK ? plan->classes : begin + XENT_CHUNK;
        chunks[k] = reduce_chunk(x, a, begin, end, plan->classes, next, plan->temperature, p, stream, transform);
    }
    return merge_chunks(chunks, n, plan->temperature);
}
