/* reduce → head → apply, for as many rows as share vectors: lanes are rows. */

typedef enum { ALONG_CLASSES, STAGED_TILES, DIRECT_TILE } row_place;

/* Rows r..r+n-1: staged tiles may be several, side by side in `m`; wide rows have none. */
static INLINE void rows_in_lanes(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t n,
                                 const load_plan *p, xent_stream stream, xent_transform transform, row_place place) {
    const int differ = rows->weight || rows->upstream || plan->class_weight, indexed = rows->index != NULL;
    const row_terms common = same_terms(differ ? (row_numbers){0} : read_row(plan, rows, r, 0));
    stream_source s = {
        .weight = plan->class_weight, .keep = v(set)((real)plan->mix_keep), .add = v(set)((real)plan->mix_add)};
    const int in_tile = place == STAGED_TILES && plan->classes > 0;
    const xent_stage stage = place == ALONG_CLASSES ? rows->stage : XENT_ALL_STAGES;
    tile_memory tile = {.local = 0};
    if (place != ALONG_CLASSES)
        tile = *m;
    tile.local = place == STAGED_TILES;

    for (const int64_t end = r + n; r < end; r += LANES) {
        const int lanes = tile.lanes = lanes_left(end - r);
        row_terms terms = common;
        lane_rows own;
        read_rows(&own, &terms, plan, rows, r, lanes, differ);
        vec at_target = v(set)(0);
        if (indexed && !in_tile)
            at_target = logits_at(own.somewhere, plan, rows, r, lanes);
        row_sums sums = place == ALONG_CLASSES ? wide_reduce(plan, rows, r, lanes, own.counts, &s, p, stream, transform)
                                               : tile_reduce(&tile, &s, plan, rows->chunks, p, stream, transform);
        if (stage == XENT_REDUCE)
            return;
        if (indexed) {
            vec slope;
            if (in_tile)
                at_target = tile_at_targets(&tile, plan->classes, &own);
            if (stage == XENT_HEAD)
                rows->chunks[0].at_target = (double)v(get)(at_target);
            if (stage == XENT_APPLY)
                at_target = v(set)((real)rows->chunks[0].at_target);
            find_gap(&sums, transformed(at_target, p, transform, &slope), p, transform);
        }
        row_result result = transform == XENT_GIVEN ? given_head(&sums, &terms, stream, indexed)
                                                    : head(&sums, &terms, plan, p, stream, indexed, rows->hess != NULL);
        if (plan->keep_infinite && v(any)(v(eq)(sums.max, v(set)((real)INFINITY)))) {
            const mask infinite = place == ALONG_CLASSES ? wide_infinite(plan, rows, r, lanes, sums.max)
                                                         : tile_infinite(&tile, plan->classes, sums.max);
            result.log_sum = v(select)(infinite, v(set)(0), result.log_sum);
            result.lse = v(select)(infinite, sums.max, result.lse);
        }
        if (rows->lse && stage != XENT_APPLY)
            put_lanes(rows->lse + r * rows->lse_step, rows->lse_step, lanes, result.lse);
        if (rows->loss && stage != XENT_APPLY)
            put_lanes(rows->loss + r * rows->loss_step, rows->loss_step, lanes, v(keep)(own.counts, result.loss));
        s.teacher_max = sums.teacher_max;
        s.teacher_share = result.teacher_share;
#define APPLY_ROWS(S, T, FORM, HESSIAN)                                                                                     \
    if (place == ALONG_CLASSES)                                                                                             \
        wide_apply(plan, rows, r, lanes, &own, &sums, &result, &s, p, S, T, FORM, HESSIAN);                                 \
    else                                                                                                                    \
        tile_apply(&tile, &s, plan, &own, sums.max, &result, p, S, T, FORM, HESSIAN);
        if (plan->form == XENT_NO_OUTPUT || stage == XENT_HEAD)
            ;
        else if (stream == XENT_NO_STREAM && transform == XENT_PLAIN && plan->form == XENT_LOGARITHMS) {
            APPLY_ROWS(XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS, 0)
        } else if (rows->hess && XENT_HAS_HESSIAN(stream, transform)) {
            APPLY_ROWS(stream, transform, XENT_EXPONENTIALS, 1)
        } else {
            APPLY_ROWS(stream, transform, XENT_EXPONENTIALS, 0)
        }
#undef APPLY_ROWS
        if (place == STAGED_TILES)
            next_tile(&tile, plan->classes);
    }
}
