/* What call.c and elementwise.c share: sizes, exact sums, and the handing over of elementwise losses. */
#ifndef XENT_CALL_H
#define XENT_CALL_H

#include <math.h>

#include "dispatch.h"

enum { MOST_AXES = 64 };

static inline int64_t row_count(const xent_call *call) {
    int64_t n = 1;
    for (int d = 0; d < call->ndim; ++d)
        n *= call->shape[d];
    return n;
}

static inline int compute_bytes(const xent_call *call) { return call->dtype == XENT_F64 ? 8 : 4; }
static inline int storage_bytes(const xent_call *call) {
    return call->dtype == XENT_F64 ? 8 : call->dtype == XENT_F32 ? 4 : 2;
}

static inline int thread_count(const xent_call *call) {
    return call->threads <= 0 ? xent_get_num_threads() : call->threads < MOST_THREADS ? call->threads : MOST_THREADS;
}

/* A sum and the error of its additions: (high + low) is exact to twice the precision. */
typedef struct {
    double high, low;
} exact;

static inline void add(exact *s, double x) {
    const double t = s->high + x, part = t - s->high;
    s->low += (s->high - (t - part)) + (x - part);
    s->high = t;
}

static inline double value(exact s) { return isfinite(s.high) ? s.high + s.low : s.high; }

/* The call's block sums: two numbers for each block. */
static inline int64_t block_count(const xent_call *call) { return (row_count(call) + XENT_SUM_BLOCK - 1) / XENT_SUM_BLOCK; }
static inline exact *sums_of(const xent_call *call) { return (exact *)call->block_sums; }

static inline exact add_blocks(const xent_call *call) {
    const exact *sums = sums_of(call);
    exact s = {0, 0};
    for (int64_t i = 0; i < block_count(call); ++i) {
        add(&s, sums[i].high);
        s.low += sums[i].low;
    }
    return s;
}

/* A task over n items, in pieces large enough to hide the cost of taking one (64 KiB make a few microseconds), up to a
 * megabyte where every thread still gets several; pieces are multiples of `multiple` items. Waking a thread costs
 * microseconds, and milliseconds where the machine is busy: only for work of that size. */
static inline int in_pieces(const xent_call *call, int64_t n, int64_t item_bytes, int64_t multiple, xent_task *task,
                            void *context) {
    const int threads = thread_count(call);
    const int64_t share = n / (8 * (int64_t)threads), least = LEAST_PIECE / item_bytes, most = MOST_PIECE / item_bytes;
    int64_t grain = share < least ? least : share > most ? most : share;
    grain = grain < 1 ? 1 : grain;
    const double worth = (double)n * (double)item_bytes / WORTH_A_THREAD;
    return xent_parallel(n, (grain + multiple - 1) / multiple * multiple,
                         worth < 1         ? 1
                         : worth < threads ? (int)worth
                                           : threads,
                         task, context, call->poll, call->poll_data);
}

/* Whether outputs of so many bytes are streamed past the cache. A last level of up to 64 MiB is a few cores' own; a larger
 * one is the whole socket's, far away and full of others' data: there, plain stores lose to streaming as soon as the output
 * outgrows the second level (measured on Granite Rapids: 36 % at 4 MiB a thread, 65 % at 50). */
static inline int outgrows_cache(const xent_call *call, double bytes) {
    const double near = 64 << 20, last = (double)xent_cache(3), ours = (double)(4 << 20) * thread_count(call);
    return bytes > 0.5 * (last > near && ours < last ? ours : last);
}

/* elementwise.c: whether a call is one of its own, and its steps. */
int xent_is_elementwise(const xent_call *call);
xent_status xent_prepare_elements(xent_call *call);
xent_status xent_compute_elements(const xent_call *call);

/* The sum of an array of the compute type over the axes of the loss, by way of the call's block sums. */
xent_status xent_sum(const xent_call *call, const xent_array *array, exact *sum);

#endif
