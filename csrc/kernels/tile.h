/* A tile: as many rows as a vector has lanes, one row in each lane, class after class. Narrow rows come here transposed,
 * and arrays whose class axis is not the last as they are. The order of summation is that of reduce.h. */

/* Class c of lane i lies at x + c * x_step + i * (size of an element); `local` tiles hold compute types, aligned. */
typedef struct {
    const char *x, *soft;
    char *out, *hess;
    int64_t x_step, soft_step, out_step, hess_step;
    int lanes; /* in use; the others are not touched in memory */
    int local, non_temporal;
} tile_memory;

static INLINE vec tile_load(const tile_memory *m, int64_t k) {
    const char *at = m->x + k * m->x_step;
    if (m->local)
        return v(load)(at);
    return m->lanes == LANES ? stored(at) : stored_first(at, m->lanes, v(set)(0));
}

/* Of a teacher, its logits. */
static INLINE vec tile_stream(const tile_memory *m, const stream_source *s, int64_t k, xent_stream stream) {
    if (stream == XENT_TEACHER) {
        const char *z = m->soft + k * m->soft_step;
        return m->local ? v(load)(z) : m->lanes == LANES ? stored(z) : stored_first(z, m->lanes, v(set)(0));
    }
    const vec weight = s->weight ? v(set)(s->weight[k]) : v(set)(1);
    if (stream == XENT_WEIGHTS)
        return weight;
    const char *at = m->soft + k * m->soft_step;
    const vec t = m->local || m->lanes == LANES ? v(load)(at) : v(load_first)(at, m->lanes, v(set)(0));
    const vec a = v(fma)(t, s->keep, s->add);
    return s->weight ? v(mul)(a, weight) : a;
}

static INLINE vec sum_lanes(vec *s, int64_t n) {
    for (; n > 1; n = (n + 1) / 2) {
        for (int64_t i = 0; i < n / 2; ++i)
            s[i] = v(add)(s[2 * i], s[2 * i + 1]);
        if (n % 2)
            s[n / 2] = s[n - 1];
    }
    return s[0];
}

/* Class k joins the sums of its virtual lane. */
static INLINE void tile_class(lane_sums *sums, const tile_memory *m, const stream_source *s, int64_t k, vec max,
                              vec teacher_max, const load_plan *p, xent_stream stream, xent_transform transform) {
    vec slope;
    const vec z = transformed(tile_load(m, k), p, transform, &slope);
    const vec a = is_weighted(stream) || stream == XENT_TEACHER ? tile_stream(m, s, k, stream) : z;
    add_class(sums, z, a, max, teacher_max, p, stream, transform, 1);
}

typedef struct {
    vec rest[64], mass[64], moment[64], teacher[64];
} virtual_sums;

static INLINE void put_lane(virtual_sums *to, int64_t i, const lane_sums *from, xent_stream stream) {
    to->rest[i] = from->rest;
    if (is_weighted(stream))
        to->mass[i] = from->mass;
    if (stream != XENT_NO_STREAM)
        to->moment[i] = from->moment;
    if (stream == XENT_TEACHER)
        to->teacher[i] = from->teacher_rest;
}

static INLINE vec sum_of_four(vec a, vec b, vec c, vec d) { return v(add)(v(add)(a, b), v(add)(c, d)); }

/* One block of up to 1,024 classes, relative to `max`. */
static INLINE lane_sums tile_block(const tile_memory *m, const stream_source *s, int64_t begin, int64_t n, vec max,
                                   vec teacher_max, const load_plan *p, xent_stream stream, xent_transform transform) {
    const vec zero = v(set)(0);
    const lane_sums nothing = {zero, zero, zero, zero, zero, zero};
    virtual_sums lanes;
    lane_sums sums = nothing;
    int64_t count = 0;
    if (n <= 64) { /* a class for each virtual lane: the first two levels of the tree stay in registers */
        for (int64_t i = 0; i < n; i += 4) {
            lane_sums four[4];
            for (int j = 0; j < 4; ++j) {
                four[j] = nothing;
                four[j].hits = j ? four[j - 1].hits : sums.hits;
                four[j].teacher_hits = j ? four[j - 1].teacher_hits : sums.teacher_hits;
                if (i + j < n)
                    tile_class(&four[j], m, s, begin + i + j, max, teacher_max, p, stream, transform);
            }
            const lane_sums sum = {
                sum_of_four(four[0].rest, four[1].rest, four[2].rest, four[3].rest),
                four[3].hits,
                sum_of_four(four[0].mass, four[1].mass, four[2].mass, four[3].mass),
                sum_of_four(four[0].moment, four[1].moment, four[2].moment, four[3].moment),
                sum_of_four(four[0].teacher_rest, four[1].teacher_rest, four[2].teacher_rest, four[3].teacher_rest),
                four[3].teacher_hits,
            };
            put_lane(&lanes, count++, &sum, stream);
            sums.hits = sum.hits;
            sums.teacher_hits = sum.teacher_hits;
        }
    } else {
        for (; count < 64; ++count)
            put_lane(&lanes, count, &nothing, stream);
        for (int64_t i = 0; i < n; ++i) {
            lane_sums lane = {lanes.rest[i % 64], sums.hits, zero, zero, zero, sums.teacher_hits};
            if (is_weighted(stream))
                lane.mass = lanes.mass[i % 64];
            if (stream != XENT_NO_STREAM)
                lane.moment = lanes.moment[i % 64];
            if (stream == XENT_TEACHER)
                lane.teacher_rest = lanes.teacher[i % 64];
            tile_class(&lane, m, s, begin + i, max, teacher_max, p, stream, transform);
            put_lane(&lanes, i % 64, &lane, stream);
            sums.hits = lane.hits;
            sums.teacher_hits = lane.teacher_hits;
        }
    }
    if (count == 0)
        return nothing;
    if (transform != XENT_GIVEN)
        sums.rest = sum_lanes(lanes.rest, count);
    if (is_weighted(stream))
        sums.mass = sum_lanes(lanes.mass, count);
    if (stream != XENT_NO_STREAM)
        sums.moment = sum_lanes(lanes.moment, count);
    if (stream == XENT_TEACHER)
        sums.teacher_rest = sum_lanes(lanes.teacher, count);
    return sums;
}

/* Columns far apart are fetched by nobody else: what the next tile reads of a class, and what this one will write. */
enum { FETCHED_AHEAD = 256 }; /* classes: more lines than that would push each other out of the cache */

static INLINE void prefetch_ahead(const tile_memory *m, int64_t k) {
    xent_prefetch(m->x + k * m->x_step + LANES * STORAGE_BYTES);
    if (m->out && !m->non_temporal)
        xent_prefetch(m->out + k * m->out_step);
    if (m->hess)
        xent_prefetch(m->hess + k * m->hess_step);
}

static INLINE vec tile_max(const tile_memory *m, int64_t begin, int64_t n, const load_plan *p, xent_transform transform) {
    vec max = v(set)(-c(LARGEST)), slope;
    if (transform == XENT_GIVEN)
        return v(set)(0);
    for (int64_t i = 0; i < n; ++i) {
        if (!m->local && n <= FETCHED_AHEAD)
            prefetch_ahead(m, begin + i);
        max = v(max)(tile_load(m, begin + i), max);
    }
    return transformed(v(add)(max, v(set)(0)), p, transform, &slope); /* -0 becomes +0 */
}

static INLINE vec teacher_tile_max(const tile_memory *m, int64_t begin, int64_t n) {
    vec max = v(set)(-c(LARGEST));
    for (int64_t i = 0; i < n; ++i)
        max = v(max)(tile_stream(m, NULL, begin + i, XENT_TEACHER), max);
    return v(add)(max, v(set)(0));
}

typedef struct {
    real at[LANES];
} lane_numbers;

static inline lane_numbers lanes_of(vec a) {
    lane_numbers n;
    v(store)(&n, a);
    return n;
}

/* Rows of more than one block: block totals go to each lane's chunk, in f64. */
static INLINE row_sums tile_reduce_blocks(const tile_memory *m, const stream_source *s, const xent_plan *plan,
                                          xent_chunk *chunks, const load_plan *p, xent_stream stream,
                                          xent_transform transform) {
    const int64_t n = XENT_ROWS_NEED_CHUNKS(plan->classes);
    for (int64_t k = 0; k < n; ++k) {
        xent_chunk chunk[LANES];
        for (int i = 0; i < LANES; ++i)
            chunk[i] = empty_chunk(transform);
        const int64_t end = plan->classes - k * XENT_CHUNK < XENT_CHUNK ? plan->classes : (k + 1) * XENT_CHUNK;
        for (int64_t at = k * XENT_CHUNK; at < end; at += XENT_BLOCK) {
            const int64_t classes = end - at < XENT_BLOCK ? end - at : XENT_BLOCK;
            lane_numbers max = lanes_of(tile_max(m, at, classes, p, transform));
            lane_numbers teacher_max = max;
            if (stream == XENT_TEACHER)
                teacher_max = lanes_of(teacher_tile_max(m, at, classes));
            for (int i = 0; i < LANES; ++i) {
                const double m = (double)max.at[i], teacher = (double)teacher_max.at[i];
                if (stream == XENT_TEACHER && (m > chunk[i].max || teacher > chunk[i].teacher_max))
                    rebase_both(&chunk[i], larger(m, chunk[i].max), larger(teacher, chunk[i].teacher_max),
                                plan->temperature);
                else if (m > chunk[i].max)
                    rebase(&chunk[i], (double)max.at[i], plan->temperature, stream);
                max.at[i] = (real)chunk[i].max;
                teacher_max.at[i] = (real)chunk[i].teacher_max;
            }
            const lane_sums sums = tile_block(m, s, at, classes, v(load)(&max), v(load)(&teacher_max), p, stream, transform);
            const lane_numbers rest = lanes_of(sums.rest), hits = lanes_of(sums.hits), mass = lanes_of(sums.mass),
                               moment = lanes_of(sums.moment), teacher_rest = lanes_of(sums.teacher_rest),
                               teacher_hits = lanes_of(sums.teacher_hits);
            for (int i = 0; i < LANES; ++i) {
                chunk[i].rest += (double)rest.at[i];
                chunk[i].teacher_rest += (double)teacher_rest.at[i];
                chunk[i].teacher_hits += (double)teacher_hits.at[i];
                chunk[i].hits += (double)hits.at[i];
                chunk[i].mass += (double)mass.at[i];
                chunk[i].moment += (double)moment.at[i];
            }
        }
        for (int i = 0; i < LANES; ++i)
            chunks[i * n + k] = chunk[i];
    }
    lane_numbers max, rest, hits, mass, moment, teacher_max, teacher_rest, teacher_hits;
    for (int i = 0; i < LANES; ++i) {
        const xent_chunk row = merge_chunks(chunks + i * n, n, plan->temperature, stream);
        max.at[i] = (real)row.max;
        rest.at[i] = (real)row.rest;
        hits.at[i] = (real)row.hits;
        mass.at[i] = (real)row.mass;
        moment.at[i] = (real)(row.moment / plan->temperature);
        teacher_max.at[i] = (real)row.teacher_max;
        teacher_rest.at[i] = (real)row.teacher_rest;
        teacher_hits.at[i] = (real)row.teacher_hits;
    }
    const row_sums r = {
        v(load)(&max),         v(load)(&rest),         v(load)(&hits),         v(load)(&mass), v(load)(&moment),
        v(load)(&teacher_max), v(load)(&teacher_rest), v(load)(&teacher_hits), v(set)(0),      v(first)(0)};
    return r;
}

/* Rows of one block: the f64 totals are the block's own, so nothing need be widened. */
static INLINE row_sums tile_reduce(const tile_memory *m, const stream_source *s, const xent_plan *plan, xent_chunk *chunks,
                                   const load_plan *p, xent_stream stream, xent_transform transform) {
    if (plan->classes > XENT_BLOCK && (transform != XENT_GIVEN || stream != XENT_NO_STREAM))
        return tile_reduce_blocks(m, s, plan, chunks, p, stream, transform);
    const vec max = tile_max(m, 0, plan->classes, p, transform), zero = v(set)(0);
    const vec teacher_max = stream == XENT_TEACHER ? teacher_tile_max(m, 0, plan->classes) : zero;
    lane_sums sums = {zero, zero, zero, zero, zero, zero};
    if (transform != XENT_GIVEN || stream != XENT_NO_STREAM)
        sums = tile_block(m, s, 0, plan->classes, max, teacher_max, p, stream, transform);
    row_sums r = {max,         sums.rest,         sums.hits,         sums.mass, sums.moment,
                  teacher_max, sums.teacher_rest, sums.teacher_hits, zero,      v(first)(0)};
    if (stream != XENT_NO_STREAM && transform == XENT_TRANSFORMED) {
        lane_numbers moment = lanes_of(sums.moment);
        for (int i = 0; i < LANES; ++i)
            moment.at[i] = (real)((double)moment.at[i] / plan->temperature);
        r.moment = v(load)(&moment);
    }
    return r;
}

/* What the lanes' rows bring: their terms, target and whether they count. */
typedef struct {
    row_terms terms;
    lane_numbers target; /* -1: none */
    vec at_target;       /* the logits there */
    mask counts;
    int all_count;
} tile_rows;

static INLINE void tile_read(tile_rows *t, const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r) {
    const vec zero = v(set)(0);
    int32_t target[LANES];
    lane_numbers logit;
    mask used = v(first)(m->lanes);
    for (int i = 0; i < LANES; ++i)
        target[i] = -1;
    if (rows->index) {
        read_targets(plan, rows, r, m->lanes, target);
        for (int i = 0; i < LANES; ++i)
            t->target.at[i] = (real)target[i];
        for (int i = 0; i < LANES; ++i) {
            const int64_t y = target[i] < 0 ? 0 : target[i];
            logit.at[i] = m->local       ? ((const real *)(m->x + y * m->x_step))[i]
                          : i < m->lanes ? stored_one(m->x + y * m->x_step + i * STORAGE_BYTES)
                                         : 0;
        }
        t->at_target = v(load)(&logit);
        t->counts = v(nlt)(v(load)(&t->target), zero);
    } else {
        t->at_target = zero;
        v(store)(&t->target, v(set)(-1));
        t->counts = used;
    }
    if (plan->no_row_counts)
        t->counts = v(lt)(zero, zero);
    if (!rows->weight && !rows->upstream && !plan->class_weight) {
        const row_numbers numbers = read_row(plan, rows, r, 0);
        t->terms = (row_terms){v(set)(numbers.hard),
                               v(set)(numbers.smooth),
                               v(set)(numbers.z),
                               v(set)(numbers.grad_hard),
                               v(set)(numbers.grad_smooth),
                               v(set)(numbers.grad_z),
                               v(set)(numbers.weight_of_target)};
    } else {
        lane_numbers of[7], counts;
        v(store)(&counts, v(keep)(t->counts, v(set)(1)));
        for (int i = 0; i < LANES; ++i) {
            const int counting = counts.at[i] != 0 && row_weight(rows, r + i) != 0;
            const row_numbers numbers = counting ? read_row(plan, rows, r + i, target[i]) : (row_numbers){0};
            counts.at[i] = (real)counting;
            of[0].at[i] = numbers.hard;
            of[1].at[i] = numbers.smooth;
            of[2].at[i] = numbers.z;
            of[3].at[i] = numbers.grad_hard;
            of[4].at[i] = numbers.grad_smooth;
            of[5].at[i] = numbers.grad_z;
            of[6].at[i] = numbers.weight_of_target;
        }
        t->counts = v(ne)(v(load)(&counts), zero);
        t->terms = (row_terms){v(load)(&of[0]), v(load)(&of[1]), v(load)(&of[2]), v(load)(&of[3]),
                               v(load)(&of[4]), v(load)(&of[5]), v(load)(&of[6])};
    }
    t->all_count = !v(any)(v(but)(used, t->counts));
}

static INLINE void tile_put(char *at, int64_t step, int lanes, vec value) {
    if (step == (int64_t)sizeof(real)) {
        if (lanes == LANES)
            v(store)(at, value);
        else
            v(store_first)(at, lanes, value);
        return;
    }
    const lane_numbers numbers = lanes_of(value);
    for (int i = 0; i < lanes; ++i)
        memcpy(at + i * step, &numbers.at[i], sizeof(real));
}

static INLINE void tile_store(const tile_memory *m, char *at, vec value, int non_temporal) {
    if (m->local)
        v(store)(at, value);
    else if (m->lanes != LANES)
        store_stored_first(at, m->lanes, value);
    else if (non_temporal)
        stream_stored(at, value);
    else
        store_stored(at, value);
}

static INLINE void tile_apply(const tile_memory *m, const stream_source *s, const xent_plan *plan, const tile_rows *rows,
                              vec max, const row_result *r, const load_plan *p, xent_stream stream, xent_transform transform,
                              xent_form form, int hessian) {
    const vec target = v(load)(&rows->target);
    for (int64_t k = 0; k < plan->classes; ++k) {
        vec slope;
        const vec z = transformed(tile_load(m, k), p, transform, &slope);
        const vec a = stream == XENT_TEACHER ? teacher_probability(tile_stream(m, s, k, stream), s, p, transform)
                      : is_weighted(stream)  ? tile_stream(m, s, k, stream)
                                             : z;
        applied out = apply_to(v(sub)(z, max), z, slope, a, v(eq)(target, v(set)((real)k)), r, p, stream, transform, form,
                               may_be_indexed(stream), hessian);
        if (!rows->all_count) {
            out.first = v(keep)(rows->counts, out.first);
            out.hess = v(keep)(rows->counts, out.hess);
        }
        tile_store(m, m->out + k * m->out_step, out.first, m->non_temporal);
        if (hessian)
            tile_store(m, m->hess + k * m->hess_step, out.hess, 0);
    }
}

/* Lanes whose row holds +inf but no NaN. */
static INLINE mask tile_infinite(const tile_memory *m, int64_t classes, vec max) {
    const vec zero = v(set)(0);
    vec bad = zero;
    for (int64_t k = 0; k < classes; ++k) {
        const vec z = tile_load(m, k);
        bad = v(select)(v(ne)(z, z), v(set)(1), bad);
    }
    return v(but)(v(eq)(max, v(set)((real)INFINITY)), v(ne)(bad, zero));
}

static INLINE void tile(const tile_memory *where, const xent_plan *plan, const xent_rows *rows, int64_t r,
                        const load_plan *p, xent_stream stream, xent_transform transform, int local) {
    tile_memory memory = *where;
    memory.local = local;
    const tile_memory *const m = &memory;
    stream_source s = {
        .weight = plan->class_weight, .keep = v(set)((real)plan->mix_keep), .add = v(set)((real)plan->mix_add)};
    const int indexed = rows->index != NULL;
    tile_rows own;
    tile_read(&own, m, plan, rows, r);
    row_sums sums = tile_reduce(m, &s, plan, rows->chunks, p, stream, transform);
    if (indexed) {
        vec slope;
        find_gap(&sums, transformed(own.at_target, p, transform, &slope), p, transform);
    }
    row_result result = transform == XENT_GIVEN ? given_head(&sums, &own.terms, stream, indexed)
                                                : head(&sums, &own.terms, plan, p, stream, indexed, m->hess != NULL);
    s.teacher_max = sums.teacher_max;
    s.teacher_share = result.teacher_share;
    if (plan->keep_infinite && v(any)(v(eq)(sums.max, v(set)((real)INFINITY)))) {
        const mask infinite = tile_infinite(m, plan->classes, sums.max);
        result.log_sum = v(select)(infinite, v(set)(0), result.log_sum);
        result.lse = v(select)(infinite, sums.max, result.lse);
    }
    if (rows->lse)
        tile_put(rows->lse + r * rows->lse_step, rows->lse_step, m->lanes, result.lse);
    if (rows->loss)
        tile_put(rows->loss + r * rows->loss_step, rows->loss_step, m->lanes, v(keep)(own.counts, result.loss));
    if (stream == XENT_NO_STREAM && transform == XENT_PLAIN && plan->form == XENT_LOGARITHMS)
        tile_apply(m, &s, plan, &own, sums.max, &result, p, XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS, 0);
    else if (m->hess && has_hessian(stream, transform))
        tile_apply(m, &s, plan, &own, sums.max, &result, p, stream, transform, XENT_EXPONENTIALS, 1);
    else if (plan->form == XENT_EXPONENTIALS)
        tile_apply(m, &s, plan, &own, sums.max, &result, p, stream, transform, XENT_EXPONENTIALS, 0);
}

typedef void tile_kernel(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r, const load_plan *p);

/* How the second stream is stored: soft targets in the compute type, a teacher's logits like the row's own. */
static inline int soft_in_compute_type(const xent_plan *plan) { return plan->stream == XENT_SOFT; }
static inline int has_second_row(const xent_plan *plan) { return plan->stream == XENT_SOFT || plan->stream == XENT_TEACHER; }

/* Narrow rows: classes contiguous and few. A few tiles at a time pass through a staging area, where they lie as in memory,
 * without gaps and in the compute type: what is transposed from and to it four classes at once may touch three numbers
 * past a row's end, and what leaves it leaves in whole vectors. */
enum { STAGED = 4 * LANES };

typedef struct {
    _Alignas(64) real at[STAGED * XENT_MOST_NARROW + LANES];
} staging;

typedef struct {
    const char *at;
    int64_t step;
} staged_rows;

static INLINE void stage(real *to, const char *from, int64_t n, int in_compute_type) {
    const int64_t size = in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES;
    for (int64_t i = 0; i < n; i += LANES) {
        const int left = lanes_left(n - i);
        const char *at = from + i * size;
        v(store)(to + i, in_compute_type ? load_reals((const real *)at, 0, left)
                         : left == LANES ? stored(at)
                                         : stored_first(at, left, v(set)(0)));
    }
}

/* `n` rows of `left`, there or in the staging area. */
static INLINE staged_rows stage_in(staging *to, const char *from, int64_t step, int64_t n, int64_t left, int64_t classes,
                                   int in_compute_type) {
    const int64_t size = in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES;
    const staged_rows staged = {(const char *)to->at, classes * (int64_t)sizeof(real)};
    if (step != classes * size)
        for (int64_t r = 0; r < n; ++r)
            stage(to->at + r * classes, from + r * step, classes, in_compute_type);
    else if ((in_compute_type || COMPUTED_AS_STORED) && n % LANES == 0 && (left - n) * classes >= 3)
        return (staged_rows){from, step};
    else
        stage(to->at, from, n * classes, in_compute_type);
    return staged;
}

static INLINE void stage_out(char *to, int64_t step, const staging *from, int64_t n, int64_t classes, int non_temporal) {
    const int whole = step == classes * STORAGE_BYTES;
    const int64_t rows = whole ? 1 : n, numbers = whole ? n * classes : classes;
    const int streams = whole && non_temporal && (uintptr_t)to % (uintptr_t)(LANES * STORAGE_BYTES) == 0;
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < numbers; i += LANES) {
            const vec a = v(load)(from->at + r * classes + i);
            char *at = to + r * step + i * STORAGE_BYTES;
            if (numbers - i < LANES)
                store_stored_first(at, lanes_left(numbers - i), a);
            else if (streams)
                stream_stored(at, a);
            else
                store_stored(at, a);
        }
}

static INLINE void transpose_in(vec *to, staged_rows from, int64_t r, int64_t classes) {
    for (int64_t k = 0; k < classes; k += 4)
        v(load_quads)(from.at + r * from.step + k * (int64_t)sizeof(real), from.step, to + k);
}

/* From the last class to the first and the first row to the last: what is written past a row's end is written over. */
static INLINE void transpose_out(staging *to, int64_t r, const vec *from, int64_t classes) {
    for (int64_t k = (classes - 1) & -4; k >= 0; k -= 4)
        v(store_quads)(to->at + r * classes + k, classes * (int64_t)sizeof(real), from + k);
}

static void narrow(const xent_plan *plan, const xent_rows *rows, tile_kernel *local) {
    const load_plan p = prepare_load(plan);
    const int64_t classes = plan->classes;
    vec x[XENT_MOST_NARROW], soft[XENT_MOST_NARROW], out[XENT_MOST_NARROW], hess[XENT_MOST_NARROW];
    staging staged_x, staged_soft, staged_out, staged_hess;
    tile_memory m = {(char *)x,
                     (char *)soft,
                     (char *)out,
                     rows->hess ? (char *)hess : NULL,
                     sizeof(vec),
                     sizeof(vec),
                     sizeof(vec),
                     sizeof(vec),
                     LANES,
                     1,
                     0};
    for (int64_t at = 0; at < rows->count; at += STAGED) {
        const int64_t left = rows->count - at, n = left < STAGED ? left : STAGED;
        const staged_rows logits =
            stage_in(&staged_x, rows->logits + at * rows->logits_step, rows->logits_step, n, left, classes, 0);
        staged_rows second = logits;
        if (has_second_row(plan))
            second = stage_in(&staged_soft, rows->soft + at * rows->soft_step, rows->soft_step, n, left, classes,
                              soft_in_compute_type(plan));
        for (int64_t r = 0; r < n; r += LANES) {
            m.lanes = lanes_left(n - r);
            transpose_in(x, logits, r, classes);
            if (has_second_row(plan))
                transpose_in(soft, second, r, classes);
            local(&m, plan, rows, at + r, &p);
            if (plan->form != XENT_NO_OUTPUT)
                transpose_out(&staged_out, r, out, classes);
            if (m.hess)
                transpose_out(&staged_hess, r, hess, classes);
        }
        if (plan->form != XENT_NO_OUTPUT)
            stage_out(rows->out + at * rows->out_step, rows->out_step, &staged_out, n, classes, plan->non_temporal);
        if (m.hess)
            stage_out(rows->hess + at * rows->hess_step, rows->hess_step, &staged_hess, n, classes, 0);
    }
}

/* Columns: the class axis is not the last; lanes are neighbours along the last. Few classes are brought in whole, several
 * tiles side by side: classes often lie a power of two apart, in lines that push each other out of the cache, so every
 * line is touched once each way. */
enum { SIDE = 4 };

static INLINE void columns_in(vec to[SIDE][XENT_MOST_NARROW], const char *from, int64_t step, int64_t lanes, int64_t classes,
                              int in_compute_type) {
    const int64_t tile_bytes = LANES * (in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES);
    for (int64_t k = 0; k < classes; ++k, from += step)
        for (int w = 0; w < SIDE; ++w) {
            const char *at = from + w * tile_bytes;
            const int n = lanes_left(lanes - w * LANES);
            if (n == LANES) {
                xent_prefetch(at + SIDE * tile_bytes);
                to[w][k] = in_compute_type ? v(load)(at) : stored(at);
            } else if (n) {
                to[w][k] = in_compute_type ? v(load_first)(at, n, v(set)(0)) : stored_first(at, n, v(set)(0));
            }
        }
}

static INLINE void columns_out(char *to, int64_t step, vec from[SIDE][XENT_MOST_NARROW], int64_t lanes, int64_t classes,
                               int non_temporal) {
    const int64_t tile_bytes = LANES * STORAGE_BYTES;
    non_temporal = non_temporal && step % tile_bytes == 0 && (uintptr_t)to % (uintptr_t)tile_bytes == 0;
    for (int64_t k = 0; k < classes; ++k, to += step)
        for (int w = 0; w < SIDE; ++w) {
            const int n = lanes_left(lanes - w * LANES);
            if (n == LANES && non_temporal)
                stream_stored(to + w * tile_bytes, from[w][k]);
            else if (n)
                store_stored_first(to + w * tile_bytes, n, from[w][k]);
        }
}

static void few_columns(const xent_plan *plan, const xent_rows *rows, tile_kernel *local) {
    const load_plan p = prepare_load(plan);
    vec x[SIDE][XENT_MOST_NARROW], soft[SIDE][XENT_MOST_NARROW], out[SIDE][XENT_MOST_NARROW], hess[SIDE][XENT_MOST_NARROW];
    for (int64_t r = 0; r < rows->count; r += SIDE * LANES) {
        const int64_t lanes = rows->count - r;
        columns_in(x, rows->logits + r * rows->logits_step, plan->logits_class_step, lanes, plan->classes, 0);
        if (has_second_row(plan))
            columns_in(soft, rows->soft + r * rows->soft_step, plan->soft_class_step, lanes, plan->classes,
                       soft_in_compute_type(plan));
        for (int w = 0; w < SIDE && w * LANES < lanes; ++w) {
            const tile_memory m = {(char *)x[w],
                                   (char *)soft[w],
                                   (char *)out[w],
                                   rows->hess ? (char *)hess[w] : NULL,
                                   sizeof(vec),
                                   sizeof(vec),
                                   sizeof(vec),
                                   sizeof(vec),
                                   lanes_left(lanes - w * LANES),
                                   1,
                                   0};
            local(&m, plan, rows, r + w * LANES, &p);
        }
        if (plan->form != XENT_NO_OUTPUT)
            columns_out(rows->out + r * rows->out_step, plan->out_class_step, out, lanes, plan->classes, plan->non_temporal);
        if (rows->hess)
            columns_out(rows->hess + r * rows->hess_step, plan->hess_class_step, hess, lanes, plan->classes, 0);
    }
}

/* Many classes are read where they lie. */
static void columns(const xent_plan *plan, const xent_rows *rows, tile_kernel *direct) {
    const load_plan p = prepare_load(plan);
    for (int64_t r = 0; r < rows->count; r += LANES) {
        char *out = rows->out ? rows->out + r * rows->out_step : NULL;
        const tile_memory m = {rows->logits + r * rows->logits_step,
                               rows->soft ? rows->soft + r * rows->soft_step : NULL,
                               out,
                               rows->hess ? rows->hess + r * rows->hess_step : NULL,
                               plan->logits_class_step,
                               plan->soft_class_step,
                               plan->out_class_step,
                               plan->hess_class_step,
                               lanes_left(rows->count - r),
                               0,
                               plan->non_temporal &&
                                   ((uintptr_t)out | (uintptr_t)plan->out_class_step) % (uintptr_t)(LANES * STORAGE_BYTES) ==
                                       0};
        direct(&m, plan, rows, r, &p);
    }
}
