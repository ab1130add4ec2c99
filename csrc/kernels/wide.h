/* Wide rows: classes contiguous, vectors along the classes, one row at a time while it is in the cache. */

static INLINE void put(char *at, vec value) {
    const real x = v(get)(value);
    memcpy(at, &x, sizeof x);
}

static inline int has_nan(const char *x, int64_t classes) {
    const vec zero = v(set)(0);
    for (int64_t i = 0; i < classes; i += LANES) {
        const vec z = stored_first(x + i * STORAGE_BYTES, lanes_left(classes - i), zero);
        if (v(any)(v(ne)(z, z)))
            return 1;
    }
    return 0;
}

/* A row that does not count: nothing but zeros. Not before its log-sum-exp is known, for `out` may be the row itself. */
static inline void leave_out(const xent_plan *plan, const xent_rows *rows, int64_t r) {
    if (rows->loss)
        memset(rows->loss + r * rows->loss_step, 0, sizeof(real));
    if (rows->out)
        memset(rows->out + r * rows->out_step, 0, (size_t)plan->classes * STORAGE_BYTES);
    if (rows->hess)
        memset(rows->hess + r * rows->hess_step, 0, (size_t)plan->classes * STORAGE_BYTES);
}

static INLINE void wide(const xent_plan *plan, const xent_rows *rows, xent_stream stream, xent_transform transform) {
    const load_plan p = prepare_load(plan);
    const int indexed = rows->index != NULL;
    for (int64_t r = 0; r < rows->count; ++r) {
        const char *x = rows->logits + r * rows->logits_step;
        char *out = rows->out ? rows->out + r * rows->out_step : NULL;
        const int64_t target = indexed ? read_target(plan, rows, r) : -1;
        const int counts = row_counts(plan, rows, r, target);
        if (!counts && !rows->lse) {
            leave_out(plan, rows, r);
            continue;
        }
        const char *next = r + 1 < rows->count ? x + rows->logits_step : x;
        const char *second = rows->soft ? rows->soft + r * rows->soft_step : NULL;
        stream_source a = {.weight = plan->class_weight,
                           .soft = (const real *)second,
                           .teacher = second,
                           .keep = v(set)((real)plan->mix_keep),
                           .add = v(set)((real)plan->mix_add)};
        const xent_chunk row = reduce_row(x, &a, next, rows->chunks, plan, &p, stream, transform);

        row_sums sums = {v(set)((real)row.max),
                         v(set)((real)row.rest),
                         v(set)((real)row.hits),
                         v(set)((real)row.mass),
                         v(set)((real)(row.moment / plan->temperature)),
                         v(set)((real)row.teacher_max),
                         v(set)((real)row.teacher_rest),
                         v(set)((real)row.teacher_hits),
                         v(set)(0),
                         v(first)(0)};
        row_numbers numbers = {0};
        if (counts) {
            numbers = read_row(plan, rows, r, target);
            if (indexed) {
                vec slope;
                const vec z = transformed(v(set)(stored_one(x + target * STORAGE_BYTES)), &p, transform, &slope);
                find_gap(&sums, z, &p, transform);
            }
        }
        const row_terms terms = {
            v(set)(numbers.hard),
            v(set)(numbers.smooth),
            v(set)(numbers.z),
            v(set)(numbers.grad_hard),
            v(set)(numbers.grad_smooth),
            v(set)(numbers.grad_z),
            v(set)(numbers.weight_of_target),
        };
        row_result result = transform == XENT_GIVEN ? given_head(&sums, &terms, stream, indexed)
                                                    : head(&sums, &terms, plan, &p, stream, indexed, rows->hess != NULL);
        a.teacher_max = sums.teacher_max;
        a.teacher_share = result.teacher_share;
        if (plan->keep_infinite && row.max == INFINITY && !has_nan(x, plan->classes)) {
            result.log_sum = v(set)(0);
            result.lse = sums.max;
        }
        if (rows->lse)
            put(rows->lse + r * rows->lse_step, result.lse);
        if (!counts) {
            leave_out(plan, rows, r);
            continue;
        }
        if (rows->loss)
            put(rows->loss + r * rows->loss_step, result.loss);
        if (!out)
            continue;
        const row_memory m = {x,        out,    rows->hess ? rows->hess + r * rows->hess_step : NULL,     &a,
                              sums.max, target, plan->non_temporal && (uintptr_t)out % STORAGE_BYTES == 0};
        if (stream == XENT_NO_STREAM && transform == XENT_PLAIN && plan->form == XENT_LOGARITHMS)
            apply_row(&m, plan->classes, &result, &p, XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS, 0);
        else if (m.hess && XENT_HAS_HESSIAN(stream, transform))
            apply_row(&m, plan->classes, &result, &p, stream, transform, XENT_EXPONENTIALS, 1);
        else
            apply_row(&m, plan->classes, &result, &p, stream, transform, XENT_EXPONENTIALS, 0);
    }
}
