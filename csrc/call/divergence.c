/* The Jensen-Shannon divergence: rows are divided among threads, each of which computes its own. */
#include "divergence.h"

#include "call.h"

typedef struct {
    const xent_divergence *call;
    const xent_kernels *kernels;
    int non_temporal;
    void **workspaces;
} divergence_work;

static void compute_rows(void *context, int64_t begin, int64_t end, int worker) {
    const divergence_work *w = context;
    w->kernels->divergence(w->call, begin, end, w->non_temporal, w->workspaces[worker]);
}

xent_status xent_jensen_shannon(const xent_divergence *call) {
    divergence_work w = {.call = call, .kernels = xent_kernels_for(XENT_F64)};
    if (!w.kernels)
        return XENT_BAD_ARGUMENT;
    /* What it takes to divide the work of any call. It is arithmetic in f64: the bytes that count are those computed with.
     */
    const xent_call shared = {.threads = call->threads, .poll = call->poll};
    const int64_t row_bytes = 2 * (call->classes + 1) * (int64_t)sizeof(double);
    const int64_t chunks = XENT_CHUNKS(call->classes), stored = xent_storage_bytes(call->dtype);
    division d = divide(&shared, call->rows, row_bytes, call->classes <= XENT_NARROW_DIVERGENCE ? XENT_MOST_LANES : 1);
    w.non_temporal = use_streaming_stores(&shared, (double)call->rows * (double)(call->classes * stored));
    void *workspaces[MOST_THREADS];
    w.workspaces = workspaces;
    const size_t more = chunks > XENT_OWN_CHUNKS ? (size_t)chunks * sizeof(xent_sums) : 0;
    d.threads = xent_take_workspaces(workspaces, d.threads, w.kernels->workspace_bytes + more);
    if (d.threads == 0)
        return XENT_NO_MEMORY;
    const xent_status status = in_parallel(&shared, &d, compute_rows, &w);
    xent_return_workspaces(workspaces, d.threads);
    return status;
}
