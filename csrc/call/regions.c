/* Losses of regions: the positions of each sample in pieces, whose sums are added from the first to the last: no bit depends
 * on threads or layout. */
#include "regions.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "call.h"

/* Positions that are summed together: whole groups of tiles of any number of classes. */
enum { PIECE_POSITIONS = 4096 };

typedef struct {
    const xent_region_call *call;
    const xent_kernels *kernels;
    xent_layout layout;
    int64_t pieces; /* of a sample */
    int non_temporal;
    double_double *sums; /* of every piece, or NULL: the gradient is computed */
    void **workspaces;
    _Atomic int64_t bad;
} region_work;

/* Steps along an axis of one element mean nothing. */
static int lies_so(const xent_region_call *call, const xent_region_array *a, int64_t bytes, xent_layout layout) {
    return !a->data ||
           (layout == XENT_NARROW ? a->class_step == bytes || call->classes == 1 : a->step == bytes || call->positions == 1);
}

static int all_lie_so(const xent_region_call *call, xent_layout layout) {
    const int stored = xent_storage_bytes(call->dtype), computed = xent_compute_bytes(call->dtype);
    return lies_so(call, &call->logits, stored, layout) && lies_so(call, &call->out, stored, layout) &&
           lies_so(call, &call->soft, computed, layout);
}

int xent_region_layout_supported(const xent_region_call *call) {
    return all_lie_so(call, XENT_COLUMNS) || all_lie_so(call, XENT_NARROW);
}

static const char *place(const xent_region_array *a, int64_t sample, int64_t position) {
    return a->data ? a->data + sample * a->sample_step + position * a->step : NULL;
}

static void note_bad(region_work *w, int64_t position) {
    int64_t first = atomic_load(&w->bad);
    while ((first < 0 || position < first) && !atomic_compare_exchange_weak(&w->bad, &first, position))
        continue;
}

static void compute_pieces(void *context, int64_t begin, int64_t end, int worker) {
    region_work *w = context;
    const xent_region_call *call = w->call;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / w->pieces, at = i % w->pieces * PIECE_POSITIONS, left = call->positions - at;
        const xent_region piece = {
            .dtype = call->dtype,
            .layout = w->layout,
            .classes = call->classes,
            .count = left < PIECE_POSITIONS ? left : PIECE_POSITIONS,
            .logits = place(&call->logits, sample, at),
            .index = place(&call->index, sample, at),
            .soft = place(&call->soft, sample, at),
            .logits_step = call->logits.step,
            .logits_class_step = call->logits.class_step,
            .soft_step = call->soft.step,
            .soft_class_step = call->soft.class_step,
            .index_step = call->index.step,
            .out_step = call->out.step,
            .out_class_step = call->out.class_step,
            .index_type = (int)call->index_type,
            .has_ignore = call->has_ignore,
            .ignore = call->ignore,
            .sums = w->sums ? w->sums + i * 3 * call->classes : NULL,
            .slope = w->sums ? NULL : call->slope + sample * 2 * call->classes,
            .out = (char *)place(&call->out, sample, at),
            .non_temporal = w->non_temporal,
            .workspace = w->workspaces[worker],
        };
        const int64_t bad = w->kernels->region(&piece);
        if (bad >= 0)
            note_bad(w, sample * call->positions + at + bad);
    }
}

/* A frame of its own for the list of workspaces. */
static __attribute__((noinline)) xent_status run_pieces(const xent_region_call *call, region_work *w) {
    /* What it takes to divide the work of any call. */
    const xent_call shared = {.threads = call->threads, .poll = call->poll};
    const int64_t positions = call->positions < PIECE_POSITIONS ? call->positions : PIECE_POSITIONS;
    const int64_t position_bytes = call->classes * xent_storage_bytes(call->dtype);
    if (call->samples == 0 || positions == 0)
        return XENT_OK;
    w->non_temporal =
        use_streaming_stores(&shared, (double)call->samples * (double)call->positions * (double)position_bytes);
    division d = divide(&shared, call->samples * w->pieces, positions * position_bytes, 1);
    void *workspaces[MOST_THREADS];
    w->workspaces = workspaces;
    d.threads = xent_take_workspaces(workspaces, d.threads, xent_region_space(call->classes));
    if (d.threads == 0)
        return XENT_NO_MEMORY;
    const xent_status status = in_parallel(&shared, &d, compute_pieces, w);
    xent_return_workspaces(workspaces, d.threads);
    return status;
}

static region_work work_of(const xent_region_call *call) {
    return (region_work){
        .call = call,
        .kernels = xent_kernels_for(call->dtype),
        .layout = all_lie_so(call, XENT_COLUMNS) ? XENT_COLUMNS : XENT_NARROW,
        .pieces = (call->positions + PIECE_POSITIONS - 1) / PIECE_POSITIONS,
        .bad = -1,
    };
}

xent_status xent_region_sums(xent_region_call *call) {
    region_work w = work_of(call);
    const int64_t of_piece = 3 * call->classes, count = call->samples * w.pieces * of_piece;
    if (!w.kernels)
        return XENT_BAD_ARGUMENT;
    w.sums = malloc((size_t)(count > 0 ? count : 1) * sizeof *w.sums);
    if (!w.sums)
        return XENT_NO_MEMORY;
    xent_status status = run_pieces(call, &w);
    if (status == XENT_OK && (call->bad_position = atomic_load(&w.bad)) >= 0)
        status = XENT_BAD_TARGET;
    for (int64_t sample = 0; status == XENT_OK && sample < call->samples; ++sample)
        for (int64_t k = 0; k < of_piece; ++k) {
            double_double total = {0, 0};
            for (int64_t i = 0; i < w.pieces; ++i)
                dd_add_sum(&total, w.sums[(sample * w.pieces + i) * of_piece + k]);
            call->sums[sample * of_piece + k] = dd_value(total);
        }
    free(w.sums);
    return status;
}

xent_status xent_region_gradient(xent_region_call *call) {
    region_work w = work_of(call);
    return w.kernels ? run_pieces(call, &w) : XENT_BAD_ARGUMENT;
}
