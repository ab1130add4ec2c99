/* reduce → head → apply, for as many rows as share vectors: lanes are rows. */

typedef enum { ALONG_CLASSES, STAGED_TILES, DIRECT_TILE } row_place;

/* What is known of a tile's rows, or of wide rows that share a head, once they are reduced. */
typedef struct {
    lane_rows own;
    row_terms terms; /* where rows differ in them */
    row_sums sums;
} reduced_rows;

static INLINE void reduce_lanes(reduced_rows *to, const tile_memory *tile, const xent_plan *plan, const xent_rows *rows,
                                int64_t r, int lanes, const stream_source *s, const load_plan *p, xent_stream stream,
                                xent_transform transform, row_place place) {
    const int in_tile = place == STAGED_TILES && plan->classes > 0;
    vec at_target = v(set)(0), slope;
    if (rows->index && !in_tile)
        at_target = logits_at(to->own.somewhere, plan, rows, r, lanes);
    to->sums = place == ALONG_CLASSES ? wide_reduce(plan, rows, r, lanes, to->own.counts, s, p, stream, transform)
                                      : tile_reduce(tile, s, plan, rows->chunks, p, stream, transform);
    if (!rows->index)
        return;
    if (in_tile)
        at_target = tile_at_targets(tile, plan->classes, &to->own);
    if (place == ALONG_CLASSES && rows->stage == XENT_HEAD)
        rows->chunks[0].at_target = (double)v(get)(at_target);
    if (place == ALONG_CLASSES && rows->stage == XENT_APPLY)
        at_target = v(set)((real)rows->chunks[0].at_target);
    find_gap(&to->sums, transformed(at_target, p, transform, &slope), p, transform);
}

static INLINE row_result head_lanes(const reduced_rows *of, const tile_memory *tile, const row_terms *terms,
                                    const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, const load_plan *p,
                                    xent_stream stream, xent_transform transform, row_place place) {
    const int indexed = rows->index != NULL, written = place != ALONG_CLASSES || rows->stage != XENT_APPLY;
    const vec infinity = v(set)((real)INFINITY);
    row_result result = transform == XENT_GIVEN ? given_head(&of->sums, terms, stream, indexed)
                                                : head(&of->sums, terms, plan, p, stream, indexed, rows->hess != NULL);
    if (plan->keep_infinite && v(any)(v(eq)(of->sums.max, infinity))) {
        const mask infinite = place == ALONG_CLASSES ? wide_infinite(plan, rows, r, lanes, of->sums.max)
                                                     : tile_infinite(tile, plan->classes, of->sums.max);
        result.log_sum = v(select)(infinite, v(set)(0), result.log_sum);
        result.lse = v(select)(infinite, of->sums.max, result.lse);
    }
    if (rows->lse && written)
        put_lanes(rows->lse + r * rows->lse_step, rows->lse_step, lanes, result.lse);
    if (rows->loss && written)
        put_lanes(rows->loss + r * rows->loss_step, rows->loss_step, lanes, v(keep)(of->own.counts, result.loss));
    return result;
}

static INLINE void apply_lanes(const reduced_rows *of, const row_result *result, const tile_memory *tile,
                               const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, stream_source s,
                               const load_plan *p, xent_stream stream, xent_transform transform, row_place place) {
    s.teacher_max = of->sums.teacher_max;
    s.teacher_share = result->teacher_share;
#define APPLY_LANES(S, T, FORM, HESSIAN)                                                                                    \
    if (place == ALONG_CLASSES)                                                                                             \
        wide_apply(plan, rows, r, lanes, &of->own, &of->sums, result, &s, p, S, T, FORM, HESSIAN);                          \
    else                                                                                                                    \
        tile_apply(tile, &s, plan, &of->own, of->sums.max, result, p, S, T, FORM, HESSIAN);
    if (stream == XENT_NO_STREAM && transform == XENT_PLAIN && plan->form == XENT_LOGARITHMS) {
        APPLY_LANES(XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS, 0)
    } else if (rows->hess && XENT_HAS_HESSIAN(stream, transform)) {
        APPLY_LANES(stream, transform, XENT_EXPONENTIALS, 1)
    } else {
        APPLY_LANES(stream, transform, XENT_EXPONENTIALS, 0)
    }
#undef APPLY_LANES
}

static INLINE tile_memory first_tile(const tile_memory *m, row_place place) {
    tile_memory tile = {.local = 0};
    if (place != ALONG_CLASSES)
        tile = *m;
    tile.local = place == STAGED_TILES;
    if (place == STAGED_TILES)
        tile.x_step = tile.soft_step = tile.out_step = tile.hess_step = sizeof(vec);
    return tile;
}

/* Rows r..r+n-1: staged tiles may be several, side by side in `m`; wide rows have none. All are reduced before the first
 * head: each head is a long chain, which other heads and rows that are applied hide (loss of 2 classes: 25 %). */
static INLINE void rows_in_lanes(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t n,
                                 const load_plan *p, xent_stream stream, xent_transform transform, row_place place) {
    const int differ = rows->weight || rows->upstream || plan->class_weight;
    const row_terms common = same_terms(differ ? (row_numbers){0} : read_row(plan, rows, r, 0));
    const stream_source s = {
        .weight = plan->class_weight, .keep = v(set)((real)plan->mix_keep), .add = v(set)((real)plan->mix_add)};
    const xent_stage stage = place == ALONG_CLASSES ? rows->stage : XENT_ALL_STAGES;
    reduced_rows reduced[MOST_TILES];
    tile_memory tile = first_tile(m, place);
    for (int64_t t = 0; t * LANES < n; ++t) {
        const int lanes = tile.lanes = lanes_left(n - t * LANES);
        read_rows(&reduced[t].own, &reduced[t].terms, plan, rows, r + t * LANES, lanes, differ);
        reduce_lanes(&reduced[t], &tile, plan, rows, r + t * LANES, lanes, &s, p, stream, transform, place);
        if (place == STAGED_TILES)
            next_tile(&tile, plan->classes);
    }
    if (stage == XENT_REDUCE)
        return;
    tile = first_tile(m, place);
    for (int64_t t = 0; t * LANES < n; ++t) {
        const int lanes = tile.lanes = lanes_left(n - t * LANES);
        const row_result result = head_lanes(&reduced[t], &tile, differ ? &reduced[t].terms : &common, plan, rows,
                                             r + t * LANES, lanes, p, stream, transform, place);
        if (plan->form != XENT_NO_OUTPUT && stage != XENT_HEAD)
            apply_lanes(&reduced[t], &result, &tile, plan, rows, r + t * LANES, lanes, s, p, stream, transform, place);
        if (place == STAGED_TILES)
            next_tile(&tile, plan->classes);
    }
}
