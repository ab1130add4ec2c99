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

/* The largest logits of a block, so far: in several vectors, none of which waits for another. */
typedef struct {
    vec at[2];
} largest;

static INLINE largest no_largest(void) {
    const vec lowest = v(set)(-c(LARGEST));
    return (largest){{lowest, lowest}};
}

/* Of 64 classes. */
static INLINE void raise(largest *m, const char *x) {
    for (int g = 0; g < GROUPS; ++g)
        m->at[g % 2] = v(max)(stored(x + g * LANES * STORAGE_BYTES), m->at[g % 2]);
}

/* The maximum of n classes, those before class i being in `m`. The cap is monotonic, so it is taken of the stored logits
 * and capped once. */
static INLINE real block_max(largest m, const char *x, int64_t i, int64_t n, const load_plan *p, xent_transform transform) {
    const vec lowest = v(set)(-c(LARGEST));
    vec slope;
    for (; i + 64 <= n; i += 64)
        raise(&m, x + i * STORAGE_BYTES);
    for (; i < n; i += LANES)
        m.at[0] = v(max)(stored_first(x + i * STORAGE_BYTES, lanes_left(n - i), lowest), m.at[0]);
    const real max = v(max_of)(v(max)(m.at[0], m.at[1])) + 0; /* -0 becomes +0 */
    return transform == XENT_PLAIN ? max : v(get)(transformed(v(set)(max), p, transform, &slope));
}

/* Where the sums of one class in each lane are: of one virtual lane, then of all. */
typedef struct {
    vec *rest, *mass, *moment, *teacher_rest;
    vec *hits, *teacher_hits;
    vec *apart; /* sum of (z' - max') - (z - max): not finite if a class is masked */
    int first;  /* nothing is in the lane yet */
} lane_sums;

/* exp(t / T) of a row joins its sums, those equal to the maximum apart: of the hits, every class is one until it is found
 * to be less. `counts`: where exp(t) is no less than the smallest normal number. */
static INLINE vec add_exponential(vec t, vec *rest, vec *hits, int first, const load_plan *p, xent_transform transform,
                                  int holds_max, mask *counts) {
    const vec exponent = heated_exponent(t, p, transform);
    const vec e = v(exp_normal)(exponent);
    *counts = v(nlt)(exponent, v(set)(c(EXP_LEAST)));
    mask others = *counts;
    if (holds_max) {
        const mask less = v(ne)(t, v(set)(0));
        others = v(both)(others, less);
        *hits = v(add_where)(less, *hits, v(set)(-1));
    }
    *rest = first ? v(keep)(others, e) : v(add_where)(others, *rest, e);
    return e;
}

/* One class of each lane: z its logit, `a` its second stream (of a teacher: z'). */
static INLINE void add_class(const lane_sums *s, vec z, vec a, vec max, vec teacher_max, const load_plan *p,
                             xent_stream stream, xent_transform transform, int holds_max) {
    const vec zero = v(set)(0), t = transform == XENT_GIVEN ? z : v(sub)(z, max);
    mask counts;
    vec e = zero;
    if (transform != XENT_GIVEN)
        e = add_exponential(t, s->rest, s->hits, s->first, p, transform, holds_max, &counts);
    /* 0 * -inf is 0 here: a masked class without weight costs nothing. */
    if (is_weighted(stream)) {
        *s->moment = v(select)(v(ne)(a, zero), v(fma)(a, t, *s->moment), *s->moment);
        *s->mass = v(add)(*s->mass, a);
    } else if (stream == XENT_OWN) {
        *s->moment = v(select)(counts, v(fma)(e, t, *s->moment), *s->moment);
    } else if (stream == XENT_TEACHER) {
        const vec of_teacher = v(sub)(a, teacher_max);
        e = add_exponential(of_teacher, s->teacher_rest, s->teacher_hits, s->first, p, transform, holds_max, &counts);
        const vec apart = v(sub)(of_teacher, t);
        *s->moment = v(select)(counts, v(fma)(e, apart, *s->moment), *s->moment);
        *s->apart = v(add)(*s->apart, apart);
    }
}

/* A class that the student alone masks makes all infinite, however little the teacher gives it. */
static INLINE mask masked_by_student(vec z, vec teacher) {
    const vec lowest = v(set)(-c(LARGEST));
    return v(but)(v(lt)(z, lowest), v(lt)(teacher, lowest));
}

static INLINE mask not_finite(vec a) { return v(nlt)(v(abs)(a), v(set)((real)INFINITY)); }

typedef struct {
    vec rest[GROUPS], mass[GROUPS], moment[GROUPS], teacher_rest[GROUPS], hits, teacher_hits, apart;
} block_sums;

/* `count` groups from g on, of n classes each. */
static INLINE void add_groups(block_sums *s, int g, int count, const char *x, const stream_source *a, int64_t i, int n,
                              vec max, vec teacher_max, const load_plan *p, xent_stream stream, xent_transform transform,
                              int holds_max) {
    vec z[XENT_SIDE_BY_SIDE], slope[XENT_SIDE_BY_SIDE], second[XENT_SIDE_BY_SIDE];
    load_vectors(z, slope, second, x, a, i, count, n, p, stream, transform);
    for (int j = 0; j < count; ++j, ++g) {
        const lane_sums lane = {&s->rest[g], &s->mass[g],      &s->moment[g], &s->teacher_rest[g],
                                &s->hits,    &s->teacher_hits, &s->apart,     0};
        add_class(&lane, z[j], second[j], max, teacher_max, p, stream, transform, holds_max);
    }
}

/* Whole numbers: their order is free. */
static INLINE double count_hits(vec hits) {
    vec all[GROUPS];
    for (int g = 0; g < GROUPS; ++g)
        all[g] = g == 0 ? hits : v(set)(0);
    return (double)v(sum_tree)(all);
}

/* Meanwhile the largest of as many whole 64 classes at `next` are found: they cost no time here. */
static INLINE largest add_block(xent_chunk *chunk, const char *x, const stream_source *a, int64_t at, int64_t n,
                                const char *ahead, const char *second_ahead, const char *next, const load_plan *p,
                                xent_stream stream, xent_transform transform, int holds_max) {
    largest of_next = no_largest();
    const vec max = v(set)((real)chunk->max), teacher_max = v(set)((real)chunk->teacher_max);
    block_sums s;
    for (int g = 0; g < GROUPS; ++g)
        s.rest[g] = s.mass[g] = s.moment[g] = s.teacher_rest[g] = v(set)(0);
    s.hits = s.teacher_hits = v(set)((real)((n + LANES - 1) / LANES));
    s.apart = v(set)(0);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int line = 0; line < 64 * STORAGE_BYTES; line += 64)
            xent_prefetch_early(ahead + i * STORAGE_BYTES + line);
        if (has_second_row(stream))
            for (int line = 0; line < 64 * second_bytes(stream); line += 64)
                xent_prefetch_early(second_ahead + i * second_bytes(stream) + line);
        if (transform != XENT_GIVEN)
            raise(&of_next, next + i * STORAGE_BYTES);
        for (int g = 0; g < GROUPS; g += XENT_SIDE_BY_SIDE)
            add_groups(&s, g, XENT_SIDE_BY_SIDE, x, a, at + i + g * LANES, LANES, max, teacher_max, p, stream, transform,
                       holds_max);
    }
    for (int g = 0; g < GROUPS && i < n; ++g, i += LANES)
        add_groups(&s, g, 1, x, a, at + i, lanes_left(n - i), max, teacher_max, p, stream, transform, holds_max);
    if (transform != XENT_GIVEN)
        chunk->rest += (double)v(sum_tree)(s.rest);
    if (holds_max && transform != XENT_GIVEN)
        chunk->hits += count_hits(s.hits);
    if (is_weighted(stream))
        chunk->mass += (double)v(sum_tree)(s.mass);
    if (stream != XENT_NO_STREAM)
        chunk->moment += (double)v(sum_tree)(s.moment);
    if (stream == XENT_TEACHER) {
        chunk->teacher_rest += (double)v(sum_tree)(s.teacher_rest);
        if (holds_max)
            chunk->teacher_hits += count_hits(s.teacher_hits);
        if (v(any)(not_finite(s.apart)))
            for (i = 0; i < n; i += LANES) {
                const int lanes = lanes_left(n - i);
                const vec z = stored_up_to(x + (at + i) * STORAGE_BYTES, lanes);
                if (v(any)(masked_by_student(z, teacher_logits(a->teacher, at + i, lanes))))
                    chunk->moment += INFINITY;
            }
    }
    return of_next;
}

static inline double larger(double a, double b) { return a > b ? a : b; }

/* Moves what a chunk has summed to a new maximum. */
static inline void rebase(xent_chunk *chunk, double max, double temperature, xent_stream stream) {
    const double step = chunk->max - max, sum = chunk->rest + chunk->hits;
    const double f = sum != 0 ? shrink(step / temperature) : 0;
    if (stream == XENT_OWN)
        chunk->moment = f != 0 ? (chunk->moment + sum * step) * f : 0;
    chunk->rest = sum != 0 ? sum * f : 0;
    chunk->hits = 0;
    if (chunk->mass != 0)
        chunk->moment += chunk->mass * step;
    chunk->max = max;
}

/* The same with a teacher. Both steps enter the moment at once, so that of equal rows it stays 0, and what the teacher has
 * lost cannot make it infinite. */
static inline void rebase_both(xent_chunk *chunk, double max, double teacher_max, double temperature) {
    const double step = chunk->max - max, teacher_step = chunk->teacher_max - teacher_max;
    const double sum = chunk->teacher_rest + chunk->teacher_hits;
    const double f = sum != 0 ? shrink(teacher_step / temperature) : 0;
    if (!isinf(chunk->moment))
        chunk->moment = f != 0 ? (chunk->moment + sum * (teacher_step - step)) * f : 0;
    if (teacher_step < 0) {
        chunk->teacher_rest = sum != 0 ? sum * f : 0;
        chunk->teacher_hits = 0;
        chunk->teacher_max = teacher_max;
    }
    if (step < 0)
        rebase(chunk, max, temperature, XENT_TEACHER);
}

/* Nothing summed yet. Without a softmax nothing is relative to a maximum. */
static INLINE xent_chunk empty_chunk(xent_transform transform) {
    const double lowest = -(double)c(LARGEST);
    return (xent_chunk){transform == XENT_GIVEN ? 0 : lowest, 0, 0, 0, 0, lowest, 0, 0, 0};
}

/* The maximum of the block at an address: found while the block before it was summed. */
typedef struct {
    const char *at;
    double max;
} known_max;

/* `next` is where the bytes after the row's last will be read from: the start of the next row. */
static INLINE xent_chunk reduce_chunk(const char *x, const stream_source *a, int64_t begin, int64_t end, const char *next,
                                      known_max *known, const xent_plan *plan, const load_plan *p, xent_stream stream,
                                      xent_transform transform) {
    xent_chunk chunk = empty_chunk(transform);
    for (int64_t at = begin; at < end; at += XENT_BLOCK) {
        const int64_t n = end - at < XENT_BLOCK ? end - at : XENT_BLOCK;
        const int64_t soon = at + plan->fetch_ahead, after = soon - plan->classes;
        const char *ahead = after < 0 ? x + soon * STORAGE_BYTES : next + after * STORAGE_BYTES;
        const char *second_ahead = has_second_row(stream) ? second_at(a, soon, stream) : NULL;
        const char *block = x + at * STORAGE_BYTES;
        if (transform == XENT_GIVEN) {
            add_block(&chunk, x, a, at, n, ahead, second_ahead, block, p, stream, transform, 0);
            continue;
        }
        const double m = known->at == block ? known->max : (double)block_max(no_largest(), block, 0, n, p, transform);
        double of_teacher = 0;
        if (stream == XENT_TEACHER) {
            of_teacher = (double)block_max(no_largest(), a->teacher + at * STORAGE_BYTES, 0, n, p, XENT_PLAIN);
            if (m > chunk.max || of_teacher > chunk.teacher_max)
                rebase_both(&chunk, larger(m, chunk.max), larger(of_teacher, chunk.teacher_max), plan->temperature);
        } else if (m > chunk.max)
            rebase(&chunk, m, plan->temperature, stream);
        /* The block after this one, if it is no shorter. */
        const int64_t left = plan->classes - at - n, of_next = left ? left : plan->classes;
        const int64_t next_n = of_next < XENT_BLOCK ? of_next : XENT_BLOCK;
        const char *next_block = left ? block + n * STORAGE_BYTES : next;
        const char *beside = n <= next_n ? next_block : block;
        largest found;
        if (m == chunk.max || (stream == XENT_TEACHER && of_teacher == chunk.teacher_max))
            found = add_block(&chunk, x, a, at, n, ahead, second_ahead, beside, p, stream, transform, 1);
        else
            found = add_block(&chunk, x, a, at, n, ahead, second_ahead, beside, p, stream, transform, 0);
        if (beside == next_block)
            *known = (known_max){beside, (double)block_max(found, beside, n & ~(int64_t)63, next_n, p, transform)};
    }
    return chunk;
}

/* s += x, the error of the addition kept in *low (Knuth's two-sum). */
static inline void add_exactly(double *s, double *low, double x) {
    const double t = *s + x, part = t - *s;
    *low += (*s - (t - part)) + (x - part);
    *s = t;
}

static INLINE xent_chunk merge_chunks(const xent_chunk *chunks, int64_t n, double temperature, xent_stream stream) {
    if (n == 1)
        return chunks[0];
    xent_chunk row = empty_chunk(XENT_PLAIN);
    double rest_low = 0, mass_low = 0, moment_low = 0, teacher_low = 0;
    for (int64_t k = 0; k < n; ++k) {
        row.max = chunks[k].max > row.max ? chunks[k].max : row.max;
        row.teacher_max = chunks[k].teacher_max > row.teacher_max ? chunks[k].teacher_max : row.teacher_max;
    }
    for (int64_t k = 0; k < n; ++k) {
        xent_chunk chunk = chunks[k];
        if (stream == XENT_TEACHER)
            rebase_both(&chunk, row.max, row.teacher_max, temperature);
        else if (chunk.max < row.max)
            rebase(&chunk, row.max, temperature, stream);
        row.hits += chunk.hits;
        row.teacher_hits += chunk.teacher_hits;
        add_exactly(&row.rest, &rest_low, chunk.rest);
        add_exactly(&row.teacher_rest, &teacher_low, chunk.teacher_rest);
        add_exactly(&row.mass, &mass_low, chunk.mass);
        add_exactly(&row.moment, &moment_low, chunk.moment);
    }
    row.rest += rest_low;
    row.teacher_rest += teacher_low;
    row.mass += mass_low;
    row.moment = isfinite(row.moment) ? row.moment + moment_low : row.moment;
    return row;
}

/* Classes begin..end, from one chunk's first to another's last. */
static INLINE void reduce_row(const char *x, const stream_source *a, int64_t begin, int64_t end, const char *next,
                              known_max *known, xent_chunk *chunks, const xent_plan *plan, const load_plan *p,
                              xent_stream stream, xent_transform transform) {
    for (int64_t at = begin; at < end; at += XENT_CHUNK)
        chunks[at / XENT_CHUNK] = transform == XENT_GIVEN && stream == XENT_NO_STREAM
                                      ? empty_chunk(transform)
                                      : reduce_chunk(x, a, at, end - at < XENT_CHUNK ? end : at + XENT_CHUNK, next, known,
                                                     plan, p, stream, transform);
}
