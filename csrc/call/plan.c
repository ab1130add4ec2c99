/* The plan of a call: in which layout its rows are computed, and with which parameters. */
#include "plan.h"

#include "call.h"

static int soft_bytes(const xent_call *call) {
    return traits_of(call)->stream == FROM_TEACHER ? storage_bytes(call) : compute_bytes(call);
}

int xent_vector_axis(const xent_call *call) {
    const struct {
        const xent_array *array;
        int64_t class_step, size;
    } arrays[] = {{&call->logits, call->logits_class_step, storage_bytes(call)},
                  {&call->soft, call->soft_class_step, soft_bytes(call)},
                  {&call->out, call->out_class_step, storage_bytes(call)},
                  {&call->hess, call->hess_class_step, storage_bytes(call)}};
    for (int axis = -1; axis < call->ndim; ++axis) {
        int fits = axis < 0 || (call->shape[axis] > 1 && call->classes <= XENT_MOST_IN_LANES);
        for (int k = 0; k < 4 && fits; ++k)
            if (arrays[k].array->data)
                fits = axis >= 0 ? arrays[k].array->strides[axis] == arrays[k].size
                                 : call->classes <= 1 || arrays[k].class_step == 0 || arrays[k].class_step == arrays[k].size;
        if (fits)
            return axis;
    }
    return NO_AXIS;
}

static int64_t class_step(int64_t step, int64_t size) { return step ? step : size; }

/* Far enough ahead to wait for memory, near enough not to be pushed out of the second cache. */
static int64_t fetched_bytes(void) {
    const int64_t most = 16 << 10, part = xent_cache(2) / 16;
    return most < part ? most : part;
}

static int64_t whole_blocks(int64_t classes) { return classes < XENT_BLOCK ? XENT_BLOCK : classes & -(int64_t)XENT_BLOCK; }

void xent_fit_caches(xent_plan *plan, int64_t bytes) {
    plan->rows_bytes = xent_cache(2) / 8;
    plan->fetch_ahead = whole_blocks(fetched_bytes() / bytes);
}

xent_stream xent_stream_of(const xent_call *call) {
    switch (traits_of(call)->stream) {
    case FROM_TARGETS:
        return call->score                 ? XENT_SQUARES
               : call->soft.data           ? XENT_SOFT
               : call->label_smoothing > 0 ? XENT_WEIGHTS
               : call->entropy_weight != 0 ? XENT_SELF
                                           : XENT_NO_STREAM;
    case FROM_ROW:
        return XENT_SELF;
    case FROM_TEACHER:
        return XENT_TEACHER;
    default:
        return XENT_NO_STREAM;
    }
}

xent_plan xent_plan_of(const xent_call *call, int vector_axis) {
    const operation_traits *traits = traits_of(call);
    const int indexed = call->index.data != NULL, loss = is_loss(call);
    const int given = traits->input != OF_LOGITS, distils = traits->stream == FROM_TEACHER;
    const int64_t narrow = !call->out.data                   ? XENT_NARROW_LOSS
                           : call->dtype == XENT_F64         ? XENT_NARROW_F64_GRADIENT
                           : call->classes % XENT_MOST_LANES ? XENT_NARROW_ODD_GRADIENT
                                                             : XENT_NARROW_GRADIENT;
    const double e = call->label_smoothing;
    const int64_t n = num_classes(call);
    xent_plan plan = {
        .layout = vector_axis >= 0                              ? XENT_COLUMNS
                  : call->classes <= narrow && !call->continues ? XENT_NARROW
                                                                : XENT_WIDE,
        .logits_class_step = class_step(call->logits_class_step, storage_bytes(call)),
        .soft_class_step = class_step(call->soft_class_step, soft_bytes(call)),
        .out_class_step = class_step(call->out_class_step, storage_bytes(call)),
        .hess_class_step = class_step(call->hess_class_step, storage_bytes(call)),
        .modulation = (xent_modulation)traits->head,
        .strength = call->strength,
        .dtype = call->dtype,
        .classes = call->classes,
        .operation = call->operation,
        .class_offset = call->class_offset,
        .num_classes = n,
        .stream = xent_stream_of(call),
        .transform = given                               ? XENT_LOG_PROBS
                     : call->softcap > 0                 ? XENT_SOFTCAP
                     : distils || call->temperature != 1 ? XENT_TEMPERATURE
                                                         : XENT_PLAIN,
        .probabilities = traits->input == OF_PROBABILITIES,
        .clip = call->eps,
        .keep_infinite = !loss && !call->sums,
        .class_weight = call->class_weight,
        .class_bias = call->class_bias,
        .index_type = (int)call->index_type,
        .has_ignore = call->has_ignore != 0,
        .ignore = call->ignore_index,
        .hard = indexed ? 1 - e : 0,
        .smooth = indexed ? (n ? e / (double)n : 0) : 1,
        .z = call->z_loss,
        .mix_keep = 1 - e,
        .mix_add = n ? e / (double)n : 0,
        .softcap = call->softcap,
        .temperature = call->temperature,
        .top_k = call->top_k,
        .by_coefficients = has_coefficients(call),
        .continues = call->continues,
        .scale = call->reduction == XENT_NONE ? 1 : call->grad_scale,
        .form = !call->out.data      ? XENT_NO_OUTPUT
                : call->teacher_grad ? XENT_OF_TEACHER
                                     : (xent_form)traits->form,
    };
    xent_fit_caches(&plan, storage_bytes(call));
    if (traits->stream == FROM_TARGETS && plan.stream == XENT_SELF)
        plan.smooth = -call->entropy_weight;
    if (distils)
        plan.smooth = call->temperature * call->temperature;
    if (call->reduction == XENT_MEAN && loss) {
        plan.no_row_counts = call->divisor == 0;
        plan.scale /= call->divisor;
    }
    if (!loss) /* softmax: the gradient of the log-sum-exp */
        plan.hard = plan.scale = 1;
    const double out_bytes = (double)row_count(call) * (double)call->classes * storage_bytes(call);
    plan.non_temporal = call->out.data && use_streaming_stores(call, out_bytes);
    return plan;
}
