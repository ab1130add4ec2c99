/* Wide rows: classes contiguous, vectors along the classes, one row after the other; their sums then share the lanes of a
 * head. */

static inline int has_nan(const char *x, int64_t classes) {
    const vec zero = v(set)(0);
    for (int64_t i = 0; i < classes; i += LANES) {
        const vec z = stored_first(x + i * STORAGE_BYTES, lanes_left(classes - i), zero);
        if (v(any)(v(ne)(z, z)))
            return 1;
    }
    return 0;
}

/* Lanes whose row holds +inf but no NaN. */
static INLINE mask wide_infinite(const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, vec max) {
    lane_numbers infinite = lanes_of(max);
    for (int i = 0; i < lanes; ++i)
        if (infinite.at[i] == (real)INFINITY && has_nan(rows->logits + (r + i) * rows->logits_step, plan->classes))
            infinite.at[i] = 0;
    return v(eq)(v(load)(&infinite), v(set)((real)INFINITY));
}

/* The second stream of row r, from class k on. */
static INLINE stream_source second_row(stream_source a, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t k) {
    const char *second = rows->soft ? rows->soft + r * rows->soft_step + k * plan->soft_class_step : NULL;
    a.weight = a.weight ? a.weight + k : NULL;
    a.soft = (const real *)second;
    a.teacher = second;
    return a;
}

/* Rows that do not count are left out, unless their log-sum-exp is asked for. */
static INLINE row_sums wide_reduce(const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, mask counts,
                                   const stream_source *s, const load_plan *p, xent_stream stream,
                                   xent_transform transform) {
    lane_numbers max = {{0}}, rest = max, hits = max, mass = max, moment = max;
    lane_numbers teacher_max = max, teacher_rest = max, teacher_hits = max;
    const lane_numbers wanted = lanes_of(v(keep)(counts, v(set)(1)));
    known_max known = {NULL, 0};
    for (int i = 0; i < lanes; ++i) {
        if (wanted.at[i] == 0 && !rows->lse)
            continue;
        const char *x = rows->logits + (r + i) * rows->logits_step;
        const char *next = r + i + 1 < rows->count ? x + rows->logits_step : x;
        const stream_source a = second_row(*s, plan, rows, r + i, 0);
        fetch_row_end(plan, rows->out, rows->out_step, r + i, i + 1 == lanes);
        fetch_row_end(plan, rows->hess, rows->hess_step, r + i, i + 1 == lanes);
        if (rows->stage == XENT_ALL_STAGES || rows->stage == XENT_REDUCE)
            reduce_row(x, &a, rows->begin, rows->end, next, &known, rows->chunks, plan, p, stream, transform);
        if (rows->stage == XENT_REDUCE)
            continue;
        const int64_t chunks = rows->stage == XENT_APPLY ? 1 : XENT_ROWS_NEED_CHUNKS(plan->classes);
        const xent_chunk row = merge_chunks(rows->chunks, chunks, plan->temperature, stream);
        if (rows->stage == XENT_HEAD)
            rows->chunks[0] = row;
        max.at[i] = (real)row.max;
        rest.at[i] = (real)row.rest;
        hits.at[i] = (real)row.hits;
        mass.at[i] = (real)row.mass;
        moment.at[i] = (real)(row.moment / plan->temperature);
        teacher_max.at[i] = (real)row.teacher_max;
        teacher_rest.at[i] = (real)row.teacher_rest;
        teacher_hits.at[i] = (real)row.teacher_hits;
    }
    const row_sums sums = {
        v(load)(&max),         v(load)(&rest),         v(load)(&hits),         v(load)(&mass), v(load)(&moment),
        v(load)(&teacher_max), v(load)(&teacher_rest), v(load)(&teacher_hits), v(set)(0),      v(first)(0)};
    return sums;
}

/* One lane's number in every lane. */
static INLINE vec from_lane(const vec *a, int i) { return v(set)(((const real *)a)[i]); }

static INLINE row_result result_of(const row_result *all, int i) {
    return (row_result){
        from_lane(&all->loss, i),          from_lane(&all->lse, i),
        from_lane(&all->log_sum, i),       from_lane(&all->scale, i),
        from_lane(&all->floor, i),         from_lane(&all->push, i),
        from_lane(&all->at_target, i),     from_lane(&all->center, i),
        from_lane(&all->teacher_share, i), from_lane(&all->share, i),
        from_lane(&all->beside, i),        from_lane(&all->bend, i),
        from_lane(&all->square, i),        from_lane(&all->hess_at_target, i),
    };
}

static INLINE void wide_apply(const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, const lane_rows *own,
                              const row_sums *sums, const row_result *results, const stream_source *s, const load_plan *p,
                              xent_stream stream, xent_transform transform, xent_form form, int hessian) {
    const lane_numbers counting = lanes_of(v(keep)(own->counts, v(set)(1)));
    const int64_t begin = rows->begin, classes = rows->end - begin;
    const int in_step = ((uintptr_t)rows->hess - (uintptr_t)rows->out) % 64 == 0;
    seam out_seam = {.joins = lanes > 1 && plan->non_temporal && rows_join(rows->out, rows->out_step, classes)};
    seam hess_seam = {.joins = hessian && out_seam.joins && in_step && rows_join(rows->hess, rows->hess_step, classes)};
    for (int i = 0; i < lanes; ++i) {
        const char *x = rows->logits + (r + i) * rows->logits_step + begin * STORAGE_BYTES;
        char *out = rows->out + (r + i) * rows->out_step + begin * STORAGE_BYTES;
        char *hess = hessian ? rows->hess + (r + i) * rows->hess_step + begin * STORAGE_BYTES : NULL;
        if (counting.at[i] == 0) {
            close_seam(&out_seam, out);
            if (hessian)
                close_seam(&hess_seam, hess);
            memset(out, 0, (size_t)classes * STORAGE_BYTES);
            if (hessian)
                memset(hess, 0, (size_t)classes * STORAGE_BYTES);
            continue;
        }
        stream_source a = second_row(*s, plan, rows, r + i, begin);
        const row_result result = result_of(results, i);
        a.teacher_max = from_lane(&sums->teacher_max, i);
        a.teacher_share = result.teacher_share;
        const int64_t target = own->target[i] - begin;
        const int streams = plan->non_temporal && meets_lines(out);
        const row_memory m = {
            x,
            out,
            hess,
            &a,
            from_lane(&sums->max, i),
            target < classes ? target : -1,
            streams,
            streams && ((uintptr_t)hess - (uintptr_t)out) % 64 == 0,
            &out_seam,
            &hess_seam,
        };
        apply_row(&m, classes, &result, p, stream, transform, form, hessian);
    }
    close_seam(&out_seam, rows->out + (r + lanes) * rows->out_step);
    if (hessian)
        close_seam(&hess_seam, rows->hess + (r + lanes) * rows->hess_step);
}
