/* A tile: as many rows as a vector has lanes, one row in each lane, class after class. Narrow rows come here transposed;
 * arrays whose class axis is not the last come side by side if their classes are few, else as they lie. The order of
 * summation is that of reduce.h. */

/* Tiles that are reduced before the first is given its loss. */
enum { MOST_TILES = 16 };

/* What is read after local tiles: a line of it for each of their classes. */
typedef struct {
    const char *at;
    int64_t class_step, tile_step;
} fetch_ahead;

/* Class c of lane i lies at x + c * x_step + i * (size of an element); `local` tiles hold compute types, aligned. */
typedef struct {
    const char *x, *soft;
    char *out, *hess;
    int64_t x_step, soft_step, out_step, hess_step;
    fetch_ahead x_ahead, soft_ahead;
    int lanes; /* in use; the others are not touched in memory */
    int local, non_temporal;
} tile_memory;

static INLINE void look_ahead(tile_memory *m, int64_t tiles) {
    m->x_ahead.at += tiles * m->x_ahead.tile_step;
    if (m->soft_ahead.at)
        m->soft_ahead.at += tiles * m->soft_ahead.tile_step;
}

/* Staged tiles follow one another. */
static INLINE void next_tile(tile_memory *m, int64_t classes) {
    const int64_t bytes = classes * (int64_t)sizeof(vec);
    m->x += bytes;
    m->soft += bytes;
    m->out += bytes;
    if (m->hess)
        m->hess += bytes;
    look_ahead(m, 1);
}

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
    for (; n > 1; n = (n + 1) / 2)
        for (int64_t i = 0; i < n; i += 2)
            s[i / 2] = i + 1 < n ? v(add)(s[i], s[i + 1]) : s[i];
    return s[0];
}

typedef struct {
    vec rest, hits, mass, moment, teacher_rest, teacher_hits, apart;
} tile_sums;

typedef struct {
    vec rest[64], mass[64], moment[64], teacher_rest[64];
} virtual_lanes;

/* Class k joins virtual lane i and the sums of all. */
static INLINE void add_to_lane(virtual_lanes *lanes, int64_t i, tile_sums *all, const tile_memory *m, const stream_source *s,
                               int64_t k, int first, vec max, vec teacher_max, const load_plan *p, xent_stream stream,
                               xent_transform transform) {
    const lane_sums lane = {&lanes->rest[i], &lanes->mass[i],    &lanes->moment[i], &lanes->teacher_rest[i],
                            &all->hits,      &all->teacher_hits, &all->apart,       first};
    if (m->local)
        xent_prefetch(m->x_ahead.at + k * m->x_ahead.class_step);
    if (m->local && has_second_row(stream))
        xent_prefetch(m->soft_ahead.at + k * m->soft_ahead.class_step);
    vec slope;
    const vec z = transformed(tile_load(m, k), p, transform, &slope);
    const vec a = is_weighted(stream) || stream == XENT_TEACHER ? tile_stream(m, s, k, stream) : z;
    add_class(&lane, z, a, max, teacher_max, p, stream, transform, 1);
}

static INLINE void clear_lanes(virtual_lanes *lanes, int64_t n, xent_stream stream) {
    for (int64_t i = 0; i < n; ++i) {
        lanes->rest[i] = v(set)(0);
        if (is_weighted(stream))
            lanes->mass[i] = v(set)(0);
        if (stream != XENT_NO_STREAM)
            lanes->moment[i] = v(set)(0);
        if (stream == XENT_TEACHER)
            lanes->teacher_rest[i] = v(set)(0);
    }
}

/* n lanes of `from` become lane i. */
static INLINE void join_lanes(virtual_lanes *to, int64_t i, virtual_lanes *from, int64_t n, xent_stream stream,
                              xent_transform transform) {
    if (transform != XENT_GIVEN)
        to->rest[i] = sum_lanes(from->rest, n);
    if (is_weighted(stream))
        to->mass[i] = sum_lanes(from->mass, n);
    if (stream != XENT_NO_STREAM)
        to->moment[i] = sum_lanes(from->moment, n);
    if (stream == XENT_TEACHER)
        to->teacher_rest[i] = sum_lanes(from->teacher_rest, n);
}

/* `count` neighbouring virtual lanes side by side, as many as there are registers for: of class k and its neighbours `once`,
 * or of every 64th from there on, below `end`. They are joined before they are stored. */
static INLINE void add_lanes(virtual_lanes *lanes, int64_t i, int count, int once, tile_sums *all, const tile_memory *m,
                             const stream_source *s, int64_t k, int64_t end, vec max, vec teacher_max, const load_plan *p,
                             xent_stream stream, xent_transform transform) {
    virtual_lanes own;
    clear_lanes(&own, count, stream);
    do {
        for (int j = 0; j < count; ++j)
            add_to_lane(&own, j, all, m, s, k + j, once, max, teacher_max, p, stream, transform);
        k += 64;
    } while (!once && k + count <= end);
    for (int j = 0; !once && j < count - 1; ++j)
        if (k + j < end)
            add_to_lane(&own, j, all, m, s, k + j, 0, max, teacher_max, p, stream, transform);
    join_lanes(lanes, i, &own, count, stream, transform);
}

/* One block of up to 1,024 classes, relative to `max`. */
static INLINE tile_sums tile_block(const tile_memory *m, const stream_source *s, int64_t begin, int64_t n, vec max,
                                   vec teacher_max, const load_plan *p, xent_stream stream, xent_transform transform) {
    enum { ABREAST = XENT_SIDE_BY_SIDE };
    const vec zero = v(set)(0), most_hits = v(set)((real)n);
    const int64_t end = begin + n;
    virtual_lanes lanes;
    tile_sums sums = {zero, most_hits, zero, zero, zero, most_hits, zero};
    int64_t used = 0, k = begin;
    if (n > 64) {
        for (; used < 64 / ABREAST; ++used, k += ABREAST)
            add_lanes(&lanes, used, ABREAST, 0, &sums, m, s, k, end, max, teacher_max, p, stream, transform);
    } else {
        for (; k + ABREAST <= end; ++used, k += ABREAST)
            add_lanes(&lanes, used, ABREAST, 1, &sums, m, s, k, end, max, teacher_max, p, stream, transform);
        if (ABREAST > 1 && k < end) {
            virtual_lanes last;
            int64_t pairs = 0;
            if (end - k >= 2)
                add_lanes(&last, pairs++, 2, 1, &sums, m, s, k, end, max, teacher_max, p, stream, transform);
            if ((end - k) % 2)
                add_lanes(&last, pairs++, 1, 1, &sums, m, s, end - 1, end, max, teacher_max, p, stream, transform);
            join_lanes(&lanes, used++, &last, pairs, stream, transform);
        }
    }
    if (used == 0)
        return sums;
    join_lanes(&lanes, 0, &lanes, used, stream, transform);
    if (transform != XENT_GIVEN)
        sums.rest = lanes.rest[0];
    if (is_weighted(stream))
        sums.mass = lanes.mass[0];
    if (stream != XENT_NO_STREAM)
        sums.moment = lanes.moment[0];
    if (stream == XENT_TEACHER)
        sums.teacher_rest = lanes.teacher_rest[0];
    if (stream == XENT_TEACHER && v(any)(not_finite(sums.apart)))
        for (int64_t k = begin; k < begin + n; ++k)
            sums.moment = v(select)(masked_by_student(tile_load(m, k), tile_stream(m, s, k, stream)), v(set)((real)INFINITY),
                                    sums.moment);
    return sums;
}

/* To look through so few classes for a target is less work than to look one up for each lane. */
enum { LOOKED_THROUGH = 16 };

/* The logits of the targets, or of class 0, in a local tile: in memory their lines may have been pushed out already by each
 * other. */
static INLINE vec tile_at_targets(const tile_memory *m, int64_t classes, const lane_rows *own) {
    const vec index = v(load)(&own->index);
    if (classes > LOOKED_THROUGH) {
        lane_numbers logit;
        for (int i = 0; i < LANES; ++i)
            logit.at[i] = ((const real *)m->x)[own->somewhere[i] * LANES + i];
        return v(load)(&logit);
    }
    const vec one = v(set)(1);
    vec found = tile_load(m, 0), class = one;
    for (int64_t k = 1; k < classes; ++k, class = v(add)(class, one))
        found = v(select)(v(eq)(index, class), tile_load(m, k), found);
    return found;
}

/* Columns far apart are fetched by nobody else: what the next tile reads of a class, and what this one will write. */
enum {
    FAR_APART = 1024,   /* bytes */
    FETCHED_AHEAD = 256 /* classes: more lines than that would push each other out of the cache */
};

static INLINE void prefetch_ahead(const tile_memory *m, int64_t k) {
    xent_prefetch(m->x + k * m->x_step + LANES * STORAGE_BYTES);
    if (m->out && !m->non_temporal)
        xent_prefetch(m->out + k * m->out_step);
    if (m->hess)
        xent_prefetch(m->hess + k * m->hess_step);
}

static INLINE vec tile_load_ahead(const tile_memory *m, int64_t k, int64_t n) {
    if (!m->local && n <= FETCHED_AHEAD && m->x_step >= FAR_APART)
        prefetch_ahead(m, k);
    return tile_load(m, k);
}

static INLINE vec tile_max(const tile_memory *m, int64_t begin, int64_t n, const load_plan *p, xent_transform transform) {
    const vec lowest = v(set)(-c(LARGEST));
    vec max[4] = {lowest, lowest, lowest, lowest}, slope; /* none waits for another */
    int64_t i = 0;
    if (transform == XENT_GIVEN)
        return v(set)(0);
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; ++j)
            max[j] = v(max)(tile_load_ahead(m, begin + i + j, n), max[j]);
    for (; i < n; ++i)
        max[0] = v(max)(tile_load_ahead(m, begin + i, n), max[0]);
    max[0] = v(max)(v(max)(max[0], max[1]), v(max)(max[2], max[3]));
    return transformed(v(add)(max[0], v(set)(0)), p, transform, &slope); /* -0 becomes +0 */
}

static INLINE vec teacher_tile_max(const tile_memory *m, int64_t begin, int64_t n) {
    vec max = v(set)(-c(LARGEST));
    for (int64_t i = 0; i < n; ++i)
        max = v(max)(tile_stream(m, NULL, begin + i, XENT_TEACHER), max);
    return v(add)(max, v(set)(0));
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
            const tile_sums sums = tile_block(m, s, at, classes, v(load)(&max), v(load)(&teacher_max), p, stream, transform);
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
    if (!m->local && plan->classes > XENT_BLOCK && (transform != XENT_GIVEN || stream != XENT_NO_STREAM))
        return tile_reduce_blocks(m, s, plan, chunks, p, stream, transform);
    const vec max = tile_max(m, 0, plan->classes, p, transform), zero = v(set)(0);
    const vec teacher_max = stream == XENT_TEACHER ? teacher_tile_max(m, 0, plan->classes) : zero;
    tile_sums sums = {zero, zero, zero, zero, zero, zero, zero};
    if (transform != XENT_GIVEN || stream != XENT_NO_STREAM)
        sums = tile_block(m, s, 0, plan->classes, max, teacher_max, p, stream, transform);
    row_sums r = {max,         sums.rest,         sums.hits,         sums.mass, sums.moment,
                  teacher_max, sums.teacher_rest, sums.teacher_hits, zero,      v(first)(0)};
    if (stream != XENT_NO_STREAM && (transform == XENT_HEATED || transform == XENT_CAPPED)) {
        lane_numbers moment = lanes_of(sums.moment);
        for (int i = 0; i < LANES; ++i)
            moment.at[i] = (real)((double)moment.at[i] / plan->temperature);
        r.moment = v(load)(&moment);
    }
    return r;
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

/* What the targets' own place takes goes over what a tile's apply has written there: less work than to look for the target
 * in each class. */
static INLINE void put_in_tile(const tile_memory *m, char *at, int64_t step, int64_t classes, const lane_rows *rows,
                               vec at_target) {
    const vec value = v(keep)(rows->counts, flushed(at_target)), index = v(load)(&rows->index), one = v(set)(1);
    if (m->local && classes <= LOOKED_THROUGH) {
        vec class = v(set)(0);
        for (int64_t k = 0; k < classes; ++k, class = v(add)(class, one), at += step)
            v(store)(at, v(select)(v(eq)(index, class), value, v(load)(at)));
        return;
    }
    const lane_numbers numbers = lanes_of(value);
    for (int i = 0; i < LANES; ++i)
        if (rows->target[i] >= 0 && m->local)
            ((real *)(at + rows->target[i] * step))[i] = numbers.at[i];
        else if (rows->target[i] >= 0)
            store_stored_first(at + rows->target[i] * step + i * STORAGE_BYTES, 1, v(set)(numbers.at[i]));
}

static INLINE void apply_classes(const tile_memory *m, const stream_source *s, const xent_plan *plan, const lane_rows *rows,
                                 vec max, const row_result *r, const load_plan *p, xent_stream stream,
                                 xent_transform transform, xent_form form, int at_target, int hessian) {
    const vec target = v(load)(&rows->index), one = v(set)(1);
    vec slope, class = v(set)(0);
    for (int64_t k = 0; k < plan->classes; ++k, class = v(add)(class, one)) {
        const vec z = transformed(tile_load(m, k), p, transform, &slope);
        const vec a = stream == XENT_TEACHER ? teacher_probability(tile_stream(m, s, k, stream), s, p, transform)
                      : is_weighted(stream)  ? tile_stream(m, s, k, stream)
                                             : z;
        applied out =
            apply_to(v(sub)(z, max), z, slope, a, v(eq)(target, class), r, p, stream, transform, form, at_target, hessian);
        if (!rows->all_count) {
            out.first = v(keep)(rows->counts, out.first);
            out.hess = v(keep)(rows->counts, out.hess);
        }
        tile_store(m, m->out + k * m->out_step, out.first, m->non_temporal);
        if (hessian)
            tile_store(m, m->hess + k * m->hess_step, out.hess, 0);
    }
}

/* Under a cap the gradient at the target depends on its logit, too; and what was streamed is no longer in the cache. */
static INLINE void tile_apply(const tile_memory *m, const stream_source *s, const xent_plan *plan, const lane_rows *rows,
                              vec max, const row_result *r, const load_plan *p, xent_stream stream, xent_transform transform,
                              xent_form form, int hessian) {
    const int depends = transform == XENT_CAPPED || transform == XENT_GIVEN;
    if (!may_be_indexed(stream) || form == XENT_LOGARITHMS) {
        apply_classes(m, s, plan, rows, max, r, p, stream, transform, form, 0, hessian);
    } else if (depends || (!m->local && m->non_temporal)) {
        apply_classes(m, s, plan, rows, max, r, p, stream, transform, form, 1, hessian);
    } else {
        apply_classes(m, s, plan, rows, max, r, p, stream, transform, form, 0, hessian);
        put_in_tile(m, m->out, m->out_step, plan->classes, rows, r->at_target);
        if (hessian)
            put_in_tile(m, m->hess, m->hess_step, plan->classes, rows, r->hess_at_target);
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
