/* Argument validation: every field of a call, before anything is read or written. */
#include "validate.h"

#include "axes.h"
#include "call.h"
#include "index.h"
#include "plan.h"

/* Beyond these a division by the number leaves the range of float. */
static const double SMALLEST = 1e-30, LARGEST = 1e30;
static const double LARGEST_GAMMA = 1000;
static const double BELOW_ONE = 1 - 0x1p-53;

static int within(double x, double least, double most) { return x >= least && x <= most; } /* NaN is not */

/* An array with the axes of the loss, and then perhaps that of the classes. */
typedef struct {
    const char *name;
    const xent_array *array;
    int bytes;       /* of an element */
    int taken;       /* whether there may be one */
    int has_classes; /* `class_step` is that of the class axis */
    int64_t class_step;
    int is_output;
} field;

enum { MOST_FIELDS = 14 };

/* Sizes: none negative, and the bytes of eight for each logit can be counted. Axes of no elements multiply nothing, but the
 * others are multiplied all the same. */
static const char *bad_size(const xent_call *call, int *is_empty) {
    int64_t n = 8;
    *is_empty = 0;
    if (call->ndim < 0 || call->ndim > MOST_AXES)
        return "ndim";
    if (call->ndim && !call->shape)
        return "shape";
    for (int d = 0; d < call->ndim; ++d) {
        *is_empty |= call->shape[d] == 0;
        if (call->shape[d] < 0 || (call->shape[d] && __builtin_mul_overflow(n, call->shape[d], &n)))
            return "shape";
    }
    if (call->classes < 0 || (call->classes && __builtin_mul_overflow(n, call->classes, &n)))
        return "classes";
    return is_elementwise(call) && call->classes > 1 ? "classes" : NULL;
}

static const char *bad_number(const xent_call *call, int takes) {
    const int loss = is_loss(call), reduced = loss && call->reduction != XENT_NONE;
    const int gamma = takes & TAKES_GAMMA;
#define NUMBER(NAME, IS_TAKEN, USUAL, LEAST, MOST)                                                                          \
    if (call->NAME != (USUAL) && !((IS_TAKEN) && within(call->NAME, LEAST, MOST)))                                          \
        return #NAME;
    NUMBER(label_smoothing, takes & TAKES_SMOOTHING, 0, 0, 1)
    NUMBER(strength, takes & (TAKES_GAMMA | TAKES_EPSILON), 0, gamma ? 0 : -LARGEST, gamma ? LARGEST_GAMMA : LARGEST)
    NUMBER(eps, takes & TAKES_EPS, 0, SMALLEST, 0.5)
    NUMBER(z_loss, takes & TAKES_Z_LOSS, 0, 0, LARGEST)
    NUMBER(softcap, takes & TAKES_SOFTCAP, 0, SMALLEST, LARGEST)
    NUMBER(temperature, takes & TAKES_TEMPERATURE, 1, SMALLEST, LARGEST)
    NUMBER(alpha, takes & TAKES_ALPHA, -1, -LARGEST, 1)
    NUMBER(entropy_weight,
           takes & TAKES_ENTROPY_WEIGHT && call->label_smoothing == 0 && !call->soft.data && !call->hess.data, 0, -LARGEST,
           LARGEST)
    NUMBER(negative_strength, takes & TAKES_CLIP, 0, 0, LARGEST_GAMMA)
    NUMBER(clip, takes & TAKES_CLIP, 0, 0, BELOW_ONE)
#undef NUMBER
    if (call->teacher_grad && call->operation != XENT_DISTILLATION_LOSS)
        return "teacher_grad";
    if (call->top_k < 0 || call->top_k > MOST_TOP)
        return "top_k";
    if (call->grad_scale != 1 && !reduced) /* else any number is: that of the caller's chain rule */
        return "grad_scale";
    if (call->log_target && !(takes & TAKES_LOG_TARGET))
        return "log_target";
    if (call->has_ignore && !call->index.data)
        return "has_ignore";
    return call->threads < 0 ? "threads" : NULL;
}

/* Axes of more than one element, the shortest step first. */
typedef struct {
    int ndim;
    uint64_t sizes[MOST_AXES + 1], steps[MOST_AXES + 1];
} extents;

/* 0: the bytes between the first element and the last cannot be counted. */
static int add_axis(extents *e, int64_t size, int64_t stride, uint64_t *reach) {
    if (size <= 1)
        return 1;
    const uint64_t step = stride < 0 ? -(uint64_t)stride : (uint64_t)stride;
    uint64_t length;
    if (__builtin_mul_overflow(step, (uint64_t)size, &length) || __builtin_add_overflow(*reach, length, reach) ||
        *reach > INT64_MAX)
        return 0;
    int at = e->ndim++;
    for (; at > 0 && e->steps[at - 1] > step; --at) {
        e->steps[at] = e->steps[at - 1];
        e->sizes[at] = e->sizes[at - 1];
    }
    e->steps[at] = step;
    e->sizes[at] = (uint64_t)size;
    return 1;
}

static int shares_memory_with_itself(const extents *e, uint64_t bytes) {
    uint64_t reach = bytes;
    for (int i = 0; i < e->ndim; ++i) {
        if (e->steps[i] < reach)
            return 1;
        reach += e->steps[i] * (e->sizes[i] - 1);
    }
    return 0;
}

static int64_t class_step_of(const field *f) { return f->class_step ? f->class_step : f->bytes; }

static int is_bad(const xent_call *call, const field *f, int is_empty) {
    if (!f->taken || (call->ndim && !f->array->strides))
        return 1;
    extents e;
    e.ndim = 0;
    uint64_t reach = (uint64_t)f->bytes;
    for (int d = 0; d < call->ndim; ++d)
        if (!add_axis(&e, call->shape[d], f->array->strides[d], &reach))
            return 1;
    if (f->has_classes && !add_axis(&e, call->classes, class_step_of(f), &reach))
        return 1;
    return f->is_output && !is_empty && shares_memory_with_itself(&e, (uint64_t)f->bytes);
}

static int same_places(const xent_call *call, const field *a, const field *b) {
    for (int d = 0; d < call->ndim; ++d)
        if (call->shape[d] > 1 && a->array->strides[d] != b->array->strides[d])
            return 0;
    return a->bytes == b->bytes && (!a->has_classes || call->classes <= 1 || class_step_of(a) == class_step_of(b));
}

/* An output that begins where another array does, other than `out` in the place of the logits. Arrays of no classes lie
 * nowhere. */
static int begins_in_another(const xent_call *call, const field *fields, int count, const field *output) {
    const int no_classes = !is_elementwise(call) && call->classes == 0;
    for (const field *f = fields; f < fields + count; ++f)
        if (f != output && f->array->data == output->array->data &&
            !(no_classes && (f->has_classes || output->has_classes)) &&
            !(output->array == &call->out && f->array == &call->logits && same_places(call, output, f)))
            return 1;
    return 0;
}

/* What a stage that scores has besides. */
static const char *bad_score(const xent_call *call, call_steps steps) {
    const int whole = call->class_offset == 0 && (call->num_classes == 0 || call->num_classes == call->classes);
    const char *asked = call->score ? "score" : call->rank ? "rank" : call->top_k ? "top_k" : NULL;
    if (asked && (steps != STEP_REDUCE || !whole || call->operation != XENT_CROSS_ENTROPY || call->soft.data ||
                  call->label_smoothing != 0))
        return asked;
    if (call->top_k > call->classes)
        return "top_k";
    return !call->top_index != !call->top_k ? "top_index" : !call->top_logit != !call->top_k ? "top_logit" : NULL;
}

/* Whether the sums of all rows are those of the classes before, of the same chunk and call. */
static int can_continue(const xent_call *call, call_steps steps) {
    const int64_t begin = call->class_offset % XENT_CHUNK, rows = call->sums ? row_count(call) : 0;
    int good = steps == STEP_REDUCE && begin && begin % XENT_BLOCK == 0 && begin + call->classes <= XENT_CHUNK &&
               xent_vector_axis(call) < 0;
    for (const xent_sums *s = call->sums; good && s < call->sums + rows; ++s)
        good = s->class_end == call->class_offset && s->class_begin >= call->class_offset - begin &&
               s->operation == (int64_t)call->operation && s->stream == (int64_t)xent_stream_of(call) &&
               s->temperature == call->temperature;
    return good;
}

/* What the stages have besides. Sums that are read must be of all classes, and of this operation. */
static const char *bad_shard(const xent_call *call, call_steps steps, int is_empty) {
    if (!(steps & STAGES))
        return call->sums           ? "sums"
               : call->class_offset ? "class_offset"
               : call->num_classes  ? "num_classes"
               : call->continues    ? "continues"
                                    : NULL;
    if (traits_of(call)->input != OF_LOGITS || is_elementwise(call))
        return "operation";
    if (call->class_offset < 0 || call->class_offset > INT64_MAX - call->classes)
        return "class_offset";
    if (call->num_classes && call->num_classes < call->class_offset + call->classes)
        return "num_classes";
    if ((uintptr_t)call->sums % _Alignof(xent_sums) || (!call->sums && !is_empty))
        return "sums";
    if (call->continues && !is_empty && !can_continue(call, steps))
        return "continues";
    const xent_stream needed = xent_stream_of(call);
    for (int64_t r = 0; !(steps & STEP_REDUCE) && !is_empty && r < row_count(call); ++r) {
        const xent_sums *s = &call->sums[r];
        if (needed != XENT_NO_STREAM && s->stream != needed && !(needed == XENT_SELF && s->stream == XENT_SQUARES))
            return "sums";
        if (s->class_begin != 0 || s->class_end != num_classes(call) || s->num_classes != s->class_end ||
            s->operation != (int64_t)call->operation || s->temperature != call->temperature)
            return "sums";
    }
    return NULL;
}

/* An array without which the steps cannot be taken, of a loss that has elements. */
static const char *missing(const xent_call *call, call_steps steps, const operation_traits *traits) {
    const int loss = traits->family != SOFTMAX_FAMILY, takes = traits->takes;
    const int has_target = call->index.data || call->soft.data, needs_target = takes & (TAKES_INDEX | TAKES_SOFT);
    if (steps & (STEP_PREPARE | STEP_COMPUTE | STEP_REDUCE | STEP_APPLY)) {
        if (!call->logits.data)
            return "logits";
        if ((takes & (TAKES_INDEX | TAKES_SOFT)) == TAKES_INDEX && !call->index.data)
            return "index";
    }
    const int of_stage = (steps == STEP_REDUCE || has_coefficients(call)) && takes & TAKES_ENTROPY_WEIGHT;
    if ((steps & (STEP_COMPUTE | STEP_REDUCE | STEP_APPLY)) && needs_target && !has_target && !of_stage)
        return takes & TAKES_INDEX ? "index" : "soft";
    if ((steps & STEP_APPLY) && !call->out.data)
        return "out";
    if ((steps & STEP_HEAD) && loss && call->reduction == XENT_NONE && !call->loss.data)
        return "loss";
    if (steps & STEP_COMPUTE) {
        if (loss && call->reduction == XENT_NONE && !call->loss.data)
            return "loss";
        if (!loss && traits->form == XENT_NO_OUTPUT && !call->lse.data)
            return "lse";
        if (!loss && traits->form != XENT_NO_OUTPUT && !call->out.data)
            return "out";
    }
    if ((steps & STEP_FINISH) && traits->family == SOFTMAX_LOSS && !call->loss.data)
        return "loss";
    if ((steps & STEP_FINISH) && traits->family == ELEMENTWISE_LOSS && !call->block_sums)
        return "block_sums";
    return NULL;
}

const char *xent_bad_field(const xent_call *call, call_steps steps) {
    const operation_traits *traits = traits_of(call);
    if (!traits || (steps == STEP_FINISH && traits->family == SOFTMAX_FAMILY))
        return "operation";
    if ((unsigned)call->reduction > XENT_BATCH_MEAN ||
        (call->reduction == XENT_BATCH_MEAN && traits->family == SOFTMAX_LOSS) ||
        (call->reduction == XENT_NONE && steps == STEP_FINISH))
        return "reduction";
    if ((unsigned)call->dtype > XENT_BF16 || !xent_kernels_for(call->dtype)) /* or not built */
        return "dtype";
    int is_empty;
    const char *bad = bad_size(call, &is_empty);
    if (!bad)
        bad = bad_number(call, traits->takes);
    if (bad)
        return bad;

    const int takes = traits->takes, loss = is_loss(call), indexed = call->index.data != NULL;
    const int stored = storage_bytes(call), computed = compute_bytes(call);
    const int rows_of_classes = !is_elementwise(call), index_bytes = (int)xent_index_bytes((int)call->index_type);
    if (indexed && !(takes & TAKES_INDEX))
        return "index";
    if (indexed && !index_bytes)
        return "index_type";
    field fields[MOST_FIELDS]; /* those that there are */
    int count = 0;
#define FIELD(NAME, BYTES, TAKEN, HAS_CLASSES, CLASS_STEP, IS_OUTPUT)                                                       \
    if (call->NAME.data)                                                                                                    \
        fields[count++] = (field){#NAME, &call->NAME, BYTES, TAKEN, HAS_CLASSES, CLASS_STEP, IS_OUTPUT};
    FIELD(logits, stored, 1, rows_of_classes, call->logits_class_step, 0)
    FIELD(index, index_bytes, 1, 0, 0, 0)
    FIELD(soft, traits->stream == FROM_TEACHER ? stored : computed, (takes & TAKES_SOFT) && !indexed, rows_of_classes,
          call->soft_class_step, 0)
    FIELD(sample_weight, computed, loss, 0, 0, 0)
    FIELD(pos_weight, computed, takes & TAKES_POS_WEIGHT, 0, 0, 0)
    FIELD(grad_output, computed, loss && call->reduction == XENT_NONE, 0, 0, 0)
    const int by_coefficients = steps == STEP_APPLY && takes & TAKES_ENTROPY_WEIGHT;
    FIELD(lse_coef, computed, by_coefficients, 0, 0, 0)
    FIELD(nll_coef, computed, by_coefficients && (indexed || call->soft.data), 0, 0, 0)
    FIELD(entropy_coef, computed, by_coefficients && call->entropy_weight != 0, 0, 0, 0)
    FIELD(smooth_coef, computed, by_coefficients && call->label_smoothing > 0 && !call->soft.data, 0, 0, 0)
    FIELD(loss, computed, loss, 0, 0, 1)
    FIELD(lse, computed, takes & TAKES_LSE, 0, 0, 1)
    FIELD(out, stored, traits->form != XENT_NO_OUTPUT, rows_of_classes, call->out_class_step, 1)
    FIELD(hess, stored, (takes & TAKES_HESS) && call->out.data, rows_of_classes, call->hess_class_step, 1)
#undef FIELD
    for (int k = 0; k < count; ++k)
        if (is_bad(call, &fields[k], is_empty || (fields[k].has_classes && call->classes == 0)))
            return fields[k].name;
    for (int k = 0; k < count && !is_empty; ++k)
        if (fields[k].is_output && !(fields[k].has_classes && call->classes == 0) &&
            begins_in_another(call, fields, count, &fields[k]))
            return fields[k].name;
    if (call->class_weight && (!(takes & TAKES_CLASS_WEIGHT) || (uintptr_t)call->class_weight % (unsigned)computed))
        return "class_weight";
    if (call->class_bias && (!(takes & TAKES_CLASS_BIAS) || (uintptr_t)call->class_bias % (unsigned)computed))
        return "class_bias";
    if (call->block_sums && (uintptr_t)call->block_sums % _Alignof(double))
        return "block_sums";
    bad = bad_score(call, steps);
    if (!bad)
        bad = bad_shard(call, steps, is_empty);
    return bad || is_empty ? bad : missing(call, steps, traits);
}
