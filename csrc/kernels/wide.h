/* Wide rows: classes contiguous, vectors along the classes, one row at a time while it is in the cache. */

#include "row.h"

static INLINE void put(char *at, vec value) {
    const real x = v(get)(value);
    memcpy(at, &x, sizeof x);
}

static INLINE void wide(const xent_plan *plan, const xent_rows *rows, xent_stream stream, xent_transform transform) {
    const load_plan p = prepare_load(plan);
    const int indexed = rows->index != NULL, squared = plan->z != 0;
    const int64_t out_bytes = plan->classes * STORAGE_BYTES;
    for (int64_t r = 0; r < rows->count; ++r) {
        const char *x = rows->logits + r * rows->logits_step;
        char *out = rows->out ? rows->out + r * rows->out_step : NULL;
        row_numbers numbers = {.target = -1};
        const int counts = read_row(&numbers, plan, rows, r);
        if (!counts) {
            write_nothing(rows, r, out, out_bytes);
            if (!rows->lse)
                continue;
        }
        const char *next = r + 1 < rows->count ? x + rows->logits_step : x;
        const stream_source a = {plan->class_weight, (const real *)(rows->soft + r * rows->soft_step),
                                 v(set)((real)plan->mix_keep), v(set)((real)plan->mix_add)};
        const xent_chunk row = reduce_row(x, &a, next, rows->chunks, plan, &p, stream, transform);

        row_sums sums = {v(set)((real)row.max), v(set)((real)row.rest), v(set)((real)row.hits), v(set)((real)row.mass),
                         v(set)((real)(row.moment / plan->temperature)), v(set)(0), v(first)(0)};
        if (indexed && counts) {
            vec slope;
            const vec z = load_logits(x, numbers.target, 1, &p, transform, &slope);
            const vec t = v(sub)(v(set)(v(get)(z)), sums.max);
            sums.gap = v(sub)(v(set)(0), cooled(t, &p, transform));
            sums.target_is_max = v(eq)(t, v(set)(0));
        }
        const row_terms terms = {
            v(set)(numbers.hard),      v(set)(numbers.smooth),      v(set)(numbers.z),
            v(set)(numbers.grad_hard), v(set)(numbers.grad_smooth), v(set)(numbers.grad_z),
            v(set)(numbers.weight_of_target),
        };
        row_result result = head(&sums, &terms, &p, stream, indexed, squared, plan->form != XENT_NO_OUTPUT);
        if (plan->keep_infinite && row.max == INFINITY && !has_nan(x, plan->classes)) {
            result.log_sum = v(set)(0);
            result.lse = sums.max;
        }
        if (rows->loss && counts)
            put(rows->loss + r * rows->loss_step, result.loss);
        if (rows->lse)
            put(rows->lse + r * rows->lse_step, result.lse);
        if (!out || !counts)
            continue;
        const row_apply apply = {sums.max,         result.scale, result.floor, result.push,
                                 indexed ? result.at_target : v(set)(0), result.log_sum, indexed ? numbers.target : -1};
        if (plan->form == XENT_LOGARITHMS)
            apply_row(out, x, &a, plan->classes, next, &apply, &p, XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS,
                      plan->non_temporal);
        else if (plan->non_temporal)
            apply_row(out, x, &a, plan->classes, next, &apply, &p, stream, transform, XENT_EXPONENTIALS, 1);
        else
            apply_row(out, x, &a, plan->classes, NULL, &apply, &p, stream, transform, XENT_EXPONENTIALS, 0);
    }
    if (plan->non_temporal)
        xent_stream_fence();
}

#define XENT_VARIANTS(USE)                                                                                                  \
    USE(XENT_NO_STREAM, XENT_PLAIN) USE(XENT_NO_STREAM, XENT_TEMPERED) USE(XENT_NO_STREAM, XENT_CAPPED)                     \
    USE(XENT_ONES, XENT_PLAIN) USE(XENT_ONES, XENT_TEMPERED) USE(XENT_ONES, XENT_CAPPED)                                    \
    USE(XENT_WEIGHTS, XENT_PLAIN) USE(XENT_WEIGHTS, XENT_TEMPERED) USE(XENT_WEIGHTS, XENT_CAPPED)                           \
    USE(XENT_SOFT, XENT_PLAIN) USE(XENT_SOFT, XENT_TEMPERED) USE(XENT_SOFT, XENT_CAPPED)                                    \
    USE(XENT_SOFT_MIXED, XENT_PLAIN) USE(XENT_SOFT_MIXED, XENT_TEMPERED) USE(XENT_SOFT_MIXED, XENT_CAPPED)

#define XENT_DEFINE(S, T)                                                                                                   \
    static void wide_##S##_##T(const xent_plan *plan, const xent_rows *rows) { wide(plan, rows, S, T); }
XENT_VARIANTS(XENT_DEFINE)

typedef void rows_kernel(const xent_plan *plan, const xent_rows *rows);

static void wide_rows(const xent_plan *plan, const xent_rows *rows) {
#define XENT_ENTRY(S, T) [S][T] = wide_##S##_##T,
    static rows_kernel *const variants[XENT_STREAMS][XENT_TRANSFORMS] = {XENT_VARIANTS(XENT_ENTRY)};
    variants[plan->stream][plan->transform](plan, rows);
}
