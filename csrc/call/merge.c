/* The sums of shards → those of the whole vocabulary. */
#include <math.h>

#include "call.h"

static int follows(const xent_sums *before, const xent_sums *s) {
    return s->class_begin == before->class_end && s->operation == before->operation && s->stream == before->stream &&
           s->temperature == before->temperature;
}

/* Whether the sums of row r are those of one call's shards. */
static int fit(const xent_sums *const *shards, int64_t count, int64_t r) {
    const xent_sums *first = &shards[0][r];
    int good = xent_traits((xent_operation)first->operation) != NULL && (uint64_t)first->stream < XENT_STREAMS &&
               first->temperature > 0;
    int targets = first->has_target != 0;
    for (int64_t k = 1; k < count && good; ++k) {
        targets += shards[k][r].has_target != 0;
        good = targets <= 1 && follows(&shards[k - 1][r], &shards[k][r]);
    }
    return good;
}

/* The shard that has the row's argmax: the first with NaN, or else with the largest logit. */
static const xent_sums *shard_of_argmax(const xent_sums *a, const xent_sums *b) {
    const int a_is_nan = isnan(a->sum_exp), b_is_nan = isnan(b->sum_exp);
    if (a_is_nan || b_is_nan)
        return a_is_nan && !(b_is_nan && isinf(a->max) && !isinf(b->max)) ? a : b;
    return a->max >= b->max ? a : b;
}

/* Neighbouring shards, as many as are merged at once: their sums are rounded once then. */
enum { AT_ONCE = 32 };

static xent_sums merge_row(const xent_sums *parts, int64_t n, const xent_kernels *kernels) {
    const xent_sums *target = parts, *largest = parts;
    xent_sums row = kernels->merge(parts, n, parts->temperature, (xent_stream)parts->stream);
    for (const xent_sums *part = parts + 1; part < parts + n; ++part) {
        target = part->has_target ? part : target;
        largest = shard_of_argmax(largest, part);
        row.num_classes = part->num_classes > row.num_classes ? part->num_classes : row.num_classes;
    }
    row.target_logit = target->target_logit;
    row.target_weight = target->target_weight;
    row.target_slope = target->target_slope;
    row.has_target = target->has_target;
    row.argmax = largest->argmax;
    row.class_end = parts[n - 1].class_end;
    return row;
}

xent_status xent_merge(xent_sums *merged, const xent_sums *const *shards, int64_t count, int64_t rows, int64_t *bad_row) {
    if (!merged || !shards || count < 1 || rows < 0)
        return XENT_BAD_ARGUMENT;
    for (int64_t k = 0; k < count; ++k)
        if (!shards[k])
            return XENT_BAD_ARGUMENT;
    const xent_kernels *f64 = xent_kernels_for(XENT_F64), *kernels = f64 ? f64 : xent_kernels_for(XENT_F32);
    for (int64_t r = 0; r < rows; ++r)
        if (!fit(shards, count, r)) {
            if (bad_row)
                *bad_row = r;
            return XENT_BAD_ARGUMENT;
        }
    for (int64_t r = 0; r < rows; ++r) {
        xent_sums parts[AT_ONCE];
        int64_t n = 0;
        for (int64_t k = 0; k < count; ++k) {
            if (n == AT_ONCE) {
                parts[0] = merge_row(parts, n, kernels);
                n = 1;
            }
            parts[n++] = shards[k][r];
        }
        merged[r] = merge_row(parts, n, kernels);
    }
    return XENT_OK;
}
