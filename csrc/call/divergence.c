/* The Jensen-Shannon divergence: its rows are divided among threads. */
#include "divergence.h"

#include "call.h"

typedef struct {
    const xent_divergence *call;
    const xent_kernels *kernels;
    void **workspaces;
} divergence_work;

static void compute_rows(void *context, int64_t begin, int64_t end, int worker) {
    const divergence_work *w = context;
    w->kernels->divergence(w->call, begin, end, w->workspaces[worker]);
}

xent_status xent_jensen_shannon(const xent_divergence *call) {
    void *workspaces[MOST_THREADS];
    divergence_work w = {call, xent_kernels_for(XENT_F64), workspaces};
    /* What it takes to divide the work of any call; that of a row is as its numbers are in f64. */
    const xent_call shared = {.threads = call->threads, .poll = call->poll};
    const int64_t row_bytes = 2 * (call->classes + 1) * (int64_t)sizeof(double);
    division d = divide(&shared, call->rows, row_bytes, call->classes <= XENT_NARROW_DIVERGENCE ? XENT_MOST_LANES : 1);
    if (!w.kernels)
        return XENT_BAD_ARGUMENT;
    d.threads = xent_take_workspaces(workspaces, d.threads, w.kernels->workspace_bytes);
    if (d.threads == 0)
        return XENT_NO_MEMORY;
    const xent_status status = in_parallel(&shared, &d, compute_rows, &w);
    xent_return_workspaces(workspaces, d.threads);
    return status;
}
