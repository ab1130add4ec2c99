/* What the steps of a call share: sizes, sums of blocks, how work is divided. */
#ifndef XENT_CALL_H
#define XENT_CALL_H

#include <math.h>

#include "dispatch.h"
#include "operations.h"
#include "double_double.h"
#include "workspace.h"

/* The results of a call lie side by side. */
enum { RESULTS = offsetof(xent_call, bad_argument), END_OF_RESULTS = offsetof(xent_call, operation) };

static inline int64_t row_count(const xent_call *call) {
    int64_t n = 1;
    for (int d = 0; d < call->ndim; ++d)
        n *= call->shape[d];
    return n;
}

static inline int compute_bytes(const xent_call *call) { return xent_compute_bytes(call->dtype); }
static inline int storage_bytes(const xent_call *call) { return xent_storage_bytes(call->dtype); }
static inline int thread_count(const xent_call *call) { return xent_threads_for(call->threads); }

/* Of the whole vocabulary, of which the arrays may hold a shard. */
static inline int64_t num_classes(const xent_call *call) {
    return call->num_classes ? call->num_classes : call->class_offset + call->classes;
}

static inline int is_mean(const xent_call *call) {
    return call->reduction == XENT_MEAN || call->reduction == XENT_BATCH_MEAN;
}

static inline int has_coefficients(const xent_call *call) {
    return call->lse_coef.data || call->nll_coef.data || call->entropy_coef.data || call->smooth_coef.data;
}

/* The largest number that passes for a probability. What is clipped may be a rounding above 1, as a softmax of another
 * library leaves it. */
static inline double most_probability(const xent_call *call) {
    const double unit[] = {[XENT_F16] = 0x1p-10, [XENT_BF16] = 0x1p-7, [XENT_F32] = 0x1p-23, [XENT_F64] = 0x1p-52};
    return call->eps > 0 ? 1 + unit[call->dtype] : 1;
}

/* A power of two that the weights of elements are multiplied by, in a mean, and so is their sum: 1 unless that is so small
 * or large that products with them would leave the range of their type, or lose digits below it. Rows have their weights in
 * f64. */
static inline double weight_scale(const xent_call *call) {
    const double size = fabs(call->divisor);
    if (!is_elementwise(call) || call->reduction != XENT_MEAN || !(size > 0 && size < INFINITY) ||
        (size > 0x1p-60 && size < 0x1p60))
        return 1;
    const int most = compute_bytes(call) == 8 ? 1000 : 120;
    int exponent;
    frexp(size, &exponent);
    return ldexp(1, exponent < -most ? most : exponent > most ? -most : -exponent);
}

/* The call's block sums: two numbers for each block. Few of them have room on the stack. */
enum { FEW_BLOCKS = 16 };
static inline int64_t block_count(const xent_call *call) { return (row_count(call) + XENT_SUM_BLOCK - 1) / XENT_SUM_BLOCK; }
static inline double_double *block_sums(const xent_call *call) { return (double_double *)call->block_sums; }

/* How n items are divided: pieces large enough to hide the cost of taking one (64 KiB make a few microseconds), up to a
 * megabyte where every thread still gets several; they are multiples of `multiple` items. Waking a thread costs
 * microseconds, and milliseconds where the machine is busy: only for work of that size. */
typedef struct {
    int64_t count, grain;
    int threads;
} division;

static inline division divide(const xent_call *call, int64_t n, int64_t item_bytes, int64_t multiple) {
    const int threads = thread_count(call);
    const int64_t share = n / (8 * (int64_t)threads), least = LEAST_PIECE / item_bytes, most = MOST_PIECE / item_bytes;
    int64_t grain = share < least ? least : share > most ? most : share;
    grain = ((grain < 1 ? 1 : grain) + multiple - 1) / multiple * multiple;
    const int64_t pieces = (n + grain - 1) / grain;
    const double worth = (double)n * (double)item_bytes / WORTH_A_THREAD;
    const int useful = worth < 1 ? 1 : worth < threads ? (int)worth : threads;
    return (division){n, grain, pieces >= useful ? useful : pieces < 1 ? 1 : (int)pieces};
}

static inline xent_status in_parallel(const xent_call *call, const division *d, xent_task *task, void *context) {
    return xent_parallel(d->count, d->grain, d->threads, task, context, call->poll, call->poll_data) ? XENT_INTERRUPTED
                                                                                                     : XENT_OK;
}

/* Whether outputs of so many bytes are streamed past the cache. A last level of up to 64 MiB is a few cores' own; a larger
 * one is the whole socket's, far away and full of others' data: there, plain stores lose to streaming as soon as the output
 * outgrows the second level (measured on Granite Rapids: 36 % at 4 MiB a thread, 65 % at 50). */
static inline int use_streaming_stores(const xent_call *call, double bytes) {
    const double near = 64 << 20, last = (double)xent_cache(3), ours = (double)(4 << 20) * thread_count(call);
    return bytes > 0.5 * (last > near && ours < last ? ours : last);
}

/* rows.c: softmax losses and the softmax family. */
xent_status xent_prepare_rows(xent_call *call);
xent_status xent_compute_rows(const xent_call *call, xent_stages stages);

/* elementwise.c: elementwise losses. */
xent_status xent_prepare_elements(xent_call *call);
xent_status xent_compute_elements(const xent_call *call);

/* elementwise.c: the sum of an array of the compute type over the axes of the loss, by way of the call's block sums. */
xent_status xent_sum(const xent_call *call, const xent_array *array, double_double *sum);

#endif
