/* A call: checked, and taken through its steps. Prepare (class indices checked, divisor known, nothing written) → compute
 * (rows or elements to kernels to threads) → finish (the sum, in one fixed order). */
#include "call.h"

#include <stdlib.h>
#include <string.h>

#include "axes.h"
#include "environment.h"
#include "plan.h"
#include "validate.h"

/* Fields of a caller that knows fewer of them, the defaults for the others; 0: the size says nothing that can be used. */
static int copy_call(xent_call *to, const xent_call *from) {
    if (from->size < END_OF_RESULTS || from->size > sizeof *to || from->size % _Alignof(xent_call))
        return 0;
    if (from->size < sizeof *to)
        *to = XENT_CALL_DEFAULTS;
    memcpy(to, from, from->size);
    to->size = sizeof *to;
    return 1;
}

static int layout_supported(const xent_call *call) { return is_elementwise(call) || xent_vector_axis(call) != NO_AXIS; }

int xent_layout_supported(const xent_call *call) {
    xent_call own;
    return call && copy_call(&own, call) && !xent_bad_field(&own, STEP_LAYOUT) && layout_supported(&own);
}

static xent_status prepare(xent_call *call) {
    return is_elementwise(call) ? xent_prepare_elements(call) : xent_prepare_rows(call);
}

/* Of no rows, a part of a call, there is nothing to read. */
static xent_status compute_rows(const xent_call *call, xent_stages stages) {
    return row_count(call) && !layout_supported(call) ? XENT_BAD_LAYOUT : xent_compute_rows(call, stages);
}

static xent_status compute(xent_call *call) {
    return is_elementwise(call) ? xent_compute_elements(call) : compute_rows(call, XENT_ALL_STAGES);
}

static xent_status finish(xent_call *call) {
    double_double sum;
    xent_status status = XENT_OK;
    if (is_elementwise(call)) /* each block has left its own */
        sum = dd_total(block_sums(call), block_count(call));
    else
        status = xent_sum(call, &call->loss, &sum);
    if (status != XENT_OK)
        return status;
    const double scale = weight_scale(call);
    call->total = dd_value(sum) / scale;
    call->result = is_mean(call) ? dd_quotient(sum, call->divisor * scale) : call->total;
    return XENT_OK;
}

/* A step that writes row losses, and their sum. Row losses that nobody asked for lie in C order, for the length of the call.
 */
static xent_status with_sum(xent_status (*step)(xent_call *), xent_call *call) {
    const int sums = is_loss(call) && call->reduction != XENT_NONE;
    if (!sums || is_elementwise(call) || call->loss.data) {
        const xent_status status = step(call);
        return status != XENT_OK || !sums ? status : finish(call);
    }
    const int64_t n = row_count(call), bytes = compute_bytes(call);
    char few[1024 * 8];
    int64_t strides[MOST_AXES];
    void *losses = n <= 1024 ? few : malloc((size_t)n * (size_t)bytes);
    if (!losses)
        return XENT_NO_MEMORY;
    int64_t step_bytes = bytes;
    for (int d = call->ndim - 1; d >= 0; --d) {
        strides[d] = step_bytes;
        step_bytes *= call->shape[d];
    }
    call->loss = (xent_array){losses, strides};
    xent_status status = step(call);
    if (status == XENT_OK)
        status = finish(call);
    if (losses != few)
        free(losses);
    return status;
}

static xent_status run(xent_call *call) {
    const xent_status status = layout_supported(call) ? prepare(call) : XENT_BAD_LAYOUT;
    return status == XENT_OK ? with_sum(compute, call) : status;
}

/* The stages. Class indices are checked before anything is written; the weights of their classes may be another shard's, so
 * that the divisor is known once there are sums of all classes. */
static xent_status reduce(xent_call *call) {
    if (!layout_supported(call))
        return XENT_BAD_LAYOUT;
    xent_call targets = *call;
    targets.class_weight = NULL;
    targets.sample_weight.data = NULL;
    targets.sums = NULL;
    const xent_status status = xent_prepare_rows(&targets);
    call->bad_row = targets.bad_row;
    return status == XENT_OK ? xent_compute_rows(call, XENT_REDUCE) : status;
}

static xent_status write_losses(xent_call *call) { return xent_compute_rows(call, XENT_HEAD); }

static xent_status head(xent_call *call) {
    const xent_status status = xent_prepare_rows(call);
    return status == XENT_OK ? with_sum(write_losses, call) : status;
}

static xent_status apply(xent_call *call) { return compute_rows(call, XENT_APPLY); }

/* Room for the sums of blocks, where the caller has brought none. */
static xent_status with_block_sums(xent_status (*step)(xent_call *), xent_call *call) {
    if (call->block_sums)
        return step(call);
    double_double few[FEW_BLOCKS], *sums = few;
    const int64_t blocks = block_count(call);
    if (blocks > FEW_BLOCKS && !(sums = malloc((size_t)blocks * sizeof *sums)))
        return XENT_NO_MEMORY;
    call->block_sums = (double *)sums;
    const xent_status status = step(call);
    if (sums != few)
        free(sums);
    return status;
}

/* A step works on a copy of the call, of which the caller gets the results, in the default floating-point environment:
 * numbers are checked, and divisor, scale and result computed, outside of any parallel region. */
static xent_status with_call_scope(xent_status (*step)(xent_call *), call_steps steps, xent_call *call) {
    if (!call)
        return XENT_BAD_ARGUMENT;
    xent_call own;
    if (!copy_call(&own, call)) {
        if (call->size == 0 || call->size >= END_OF_RESULTS)
            call->bad_argument = "size";
        return XENT_BAD_ARGUMENT;
    }
    const fp_state before = fp_enter();
    own.bad_argument = xent_bad_field(&own, steps);
    const xent_status status = own.bad_argument ? XENT_BAD_ARGUMENT : with_block_sums(step, &own);
    fp_leave(before);
    memcpy((char *)call + RESULTS, (char *)&own + RESULTS, END_OF_RESULTS - RESULTS);
    return status;
}

xent_status xent_prepare(xent_call *call) { return with_call_scope(prepare, STEP_PREPARE, call); }
xent_status xent_compute(xent_call *call) { return with_call_scope(compute, STEP_COMPUTE, call); }
xent_status xent_finish(xent_call *call) { return with_call_scope(finish, STEP_FINISH, call); }
xent_status xent_reduce(xent_call *call) { return with_call_scope(reduce, STEP_REDUCE, call); }
xent_status xent_head(xent_call *call) { return with_call_scope(head, STEP_HEAD, call); }
xent_status xent_apply(xent_call *call) { return with_call_scope(apply, STEP_APPLY, call); }
xent_status xent_run(xent_call *call) { return with_call_scope(run, STEP_RUN, call); }

const char *xent_status_text(xent_status status) {
    static const char *const texts[] = {
        [XENT_OK] = "done",
        [XENT_BAD_TARGET] = "a class index is out of range",
        [XENT_BAD_PROBABILITY] = "a probability is outside [0, 1]",
        [XENT_NO_MEMORY] = "out of memory",
        [XENT_BAD_LAYOUT] = "no axis is contiguous in all arrays",
        [XENT_INTERRUPTED] = "interrupted",
        [XENT_BAD_ARGUMENT] = "a field of the call is not accepted",
    };
    return (unsigned)status < sizeof texts / sizeof *texts ? texts[status] : "no such status";
}
