/* Every field of xent_call with values that cannot be used: each step names the field, and neither writes to an array nor
 * changes a result. Prints how many it has tried; the first that goes wrong ends it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xent.h"

enum { ROWS = 2, CLASSES = 3, UNTOUCHED = 0x55 };

/* The arrays of a call: two rows of three classes, or as many single elements. */
static struct {
    float logits[ROWS][CLASSES], soft[ROWS][CLASSES], class_weight[CLASSES + 1];
    int64_t index[ROWS];
    float sample_weight[ROWS][CLASSES];
    xent_sums sums[ROWS];
    struct {
        float loss[ROWS][CLASSES], lse[ROWS], out[ROWS][CLASSES], hess[ROWS][CLASSES];
        double block_sums[4];
    } outputs;
} memory;

static const int64_t of_rows[] = {ROWS, CLASSES}, row[] = {CLASSES * sizeof(float), sizeof(float)};
static const int64_t four[] = {sizeof(float), sizeof(float)}, eight[] = {sizeof(int64_t), 0};
static const int64_t zero[] = {0, 0}, near[] = {sizeof(float) / 2, 1}, far[] = {INT64_MAX, INT64_MIN};
static const int64_t negative[] = {ROWS, -1}, many[] = {INT64_MAX, INT64_MAX}, many_and_none[] = {INT64_MAX, 1 << 20, 0};
static const int64_t none[] = {0, 0};

static xent_array array(void *data, const int64_t *strides) {
    const xent_array a = {data, strides};
    return a;
}

/* A call of an operation with as little as it needs, in the order of its row in operations.def. */
static xent_call call_of(xent_operation operation, int indexed) {
    xent_call call = XENT_CALL_DEFAULTS;
    const int elementwise = operation == XENT_BINARY_CROSS_ENTROPY || operation == XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS ||
                            operation == XENT_SIGMOID_FOCAL_LOSS || operation == XENT_KL_DIV ||
                            operation == XENT_ASYMMETRIC_LOSS;
    call.operation = operation;
    call.ndim = elementwise ? 2 : 1;
    call.shape = of_rows;
    call.classes = elementwise ? 0 : CLASSES;
    call.logits = array(memory.logits, row);
    if (operation == XENT_LOGSUMEXP)
        call.lse = array(memory.outputs.lse, four);
    else
        call.out = array(memory.outputs.out, row);
    if (indexed)
        call.index = array(memory.index, eight), call.index_type = XENT_I64;
    else if (operation != XENT_ENTROPY && operation != XENT_LOGSUMEXP && operation != XENT_SOFTMAX &&
             operation != XENT_LOG_SOFTMAX)
        call.soft = array(memory.soft, row);
    return call;
}
static xent_call indexed(void) { return call_of(XENT_CROSS_ENTROPY, 1); }
static xent_call soft(xent_operation operation) { return call_of(operation, 0); }
static xent_call each(void) {
    xent_call call = indexed();
    call.reduction = XENT_NONE, call.loss = array(memory.outputs.loss, four);
    return call;
}

static xent_call in_stages(void) {
    xent_call call = indexed();
    call.sums = memory.sums;
    return call;
}

static void reset(void) {
    memset(&memory, 0, sizeof memory);
    memset(&memory.outputs, UNTOUCHED, sizeof memory.outputs);
    for (int i = 0; i < ROWS * CLASSES; ++i) {
        memory.logits[i / CLASSES][i % CLASSES] = 0.1f * (float)(i + 1);
        memory.soft[i / CLASSES][i % CLASSES] = 1.0f / CLASSES;
        memory.sample_weight[i / CLASSES][i % CLASSES] = 1;
    }
    for (int i = 0; i <= CLASSES; ++i)
        memory.class_weight[i] = 1;
    memory.index[1] = 2;
    for (int i = 0; i < ROWS; ++i) {
        memory.sums[i].class_end = memory.sums[i].num_classes = CLASSES;
        memory.sums[i].operation = XENT_CROSS_ENTROPY;
        memory.sums[i].temperature = 1;
    }
}

static int tried;
static void fail(int line, const char *what, const char *got) {
    printf("line %d: %s (%s)\n", line, what, got ? got : "NULL");
    exit(1);
}

typedef xent_status step(xent_call *call);

/* What has no sum is finished never: then that is what is wrong. */
static const char *named(const xent_call *call, const char *name, step *run) {
    const int is_loss =
        call->operation != XENT_LOGSUMEXP && call->operation != XENT_SOFTMAX && call->operation != XENT_LOG_SOFTMAX;
    return run != xent_finish ? name : !is_loss ? "operation" : call->reduction == XENT_NONE ? "reduction" : name;
}

static void must_be_refused(int line, xent_call call, const char *name, step *run) {
    reset();
    name = named(&call, name, run);
    const size_t size = call.size;
    call.bad_row = 7, call.divisor = 8, call.total = 9, call.result = 10;
    xent_array outputs = array(&memory.outputs, NULL);
    const xent_status status = run(&call);
    if (status != XENT_BAD_ARGUMENT)
        fail(line, name, xent_status_text(status));
    if (!call.bad_argument || strcmp(call.bad_argument, name))
        fail(line, name, call.bad_argument);
    if (call.size != size || call.bad_row != 7 || call.divisor != 8 || call.total != 9 || call.result != 10)
        fail(line, "a result has changed", name);
    for (size_t i = 0; i < sizeof memory.outputs; ++i)
        if (((unsigned char *)outputs.data)[i] != UNTOUCHED)
            fail(line, "an output has been written to", name);
    ++tried;
}

static void must_run(int line, xent_call call) {
    reset();
    const xent_status status = xent_run(&call);
    if (status != XENT_OK)
        fail(line, xent_status_text(status), call.bad_argument);
    if (call.bad_argument)
        fail(line, "a field is bad, and all is well", call.bad_argument);
}

/* A good call, and what a change makes bad in it. */
#define BAD_IN(STEPS, CALL, FIELD, ...)                                                                                     \
    {                                                                                                                       \
        xent_call call = CALL;                                                                                              \
        __VA_ARGS__;                                                                                                        \
        step *const steps[] = {STEPS};                                                                                      \
        for (size_t i = 0; i < sizeof steps / sizeof *steps; ++i)                                                           \
            must_be_refused(__LINE__, call, #FIELD, steps[i]);                                                              \
    }
#define ALL xent_run, xent_prepare, xent_compute, xent_finish, xent_reduce, xent_head, xent_apply
#define COMPUTED xent_run, xent_compute
#define ALL_BUT_FINISH xent_run, xent_prepare, xent_compute
#define COMMA(...) __VA_ARGS__
#define BAD(CALL, FIELD, ...) BAD_IN(COMMA(xent_run, xent_prepare, xent_compute, xent_finish), CALL, FIELD, __VA_ARGS__)
#define BAD_NUMBERS(CALL, FIELD, ...)                                                                                       \
    {                                                                                                                       \
        const double values[] = {NAN, INFINITY, -INFINITY, __VA_ARGS__};                                                    \
        for (size_t k = 0; k < sizeof values / sizeof *values; ++k)                                                         \
            BAD(CALL, FIELD, call.FIELD = values[k])                                                                        \
    }
/* An array of the loss's axes, of numbers or, with a class axis, of logits. */
#define BAD_ARRAY(CALL, FIELD, DATA)                                                                                        \
    BAD(CALL, FIELD, call.FIELD = array(DATA, NULL))                                                                        \
    BAD(CALL, FIELD, call.FIELD = array(DATA, far))
#define BAD_OUTPUT(CALL, FIELD, DATA)                                                                                       \
    BAD_ARRAY(CALL, FIELD, DATA)                                                                                            \
    BAD(CALL, FIELD, call.FIELD = array(DATA, zero))                                                                        \
    BAD(CALL, FIELD, call.FIELD = array(DATA, near))                                                                        \
    BAD(CALL, FIELD, call.FIELD = array(memory.sample_weight, four), call.sample_weight = call.FIELD)

static void good_calls(void) {
    for (int i = 0; xent_operation_name((xent_operation)i); ++i) {
        const xent_operation operation = (xent_operation)i;
        must_run(__LINE__, call_of(operation, operation == XENT_FOCAL_LOSS || operation == XENT_POLY1_LOSS));
    }
    must_run(__LINE__, indexed());
    must_run(__LINE__, each());
    xent_call empty = indexed();
    empty.shape = none;
    empty.logits.data = empty.index.data = empty.out.data = NULL;
    must_run(__LINE__, empty);
    xent_call in_place = indexed();
    in_place.out = in_place.logits;
    must_run(__LINE__, in_place);
}

static void bad_calls(void) {
    /* What the call is. */
    BAD(indexed(), size, call.size = 0)
    BAD(indexed(), size, call.size = sizeof call + 8)
    BAD(indexed(), size, call.size = (size_t)-1)
    BAD(indexed(), size, call.size -= 1)
    BAD(indexed(), operation, call.operation = (xent_operation)99)
    BAD(indexed(), operation, call.operation = (xent_operation)-1)
    BAD_IN(xent_finish, soft(XENT_SOFTMAX), operation, )
    BAD(indexed(), dtype, call.dtype = XENT_BOOL)
    BAD(indexed(), dtype, call.dtype = (xent_dtype)-1)
    BAD(indexed(), ndim, call.ndim = -1)
    BAD(indexed(), ndim, call.ndim = 65)
    BAD(indexed(), ndim, call.ndim = INT32_MAX)
    BAD(indexed(), shape, call.shape = NULL)
    BAD(indexed(), shape, call.ndim = 2, call.shape = negative)
    BAD(indexed(), shape, call.ndim = 2, call.shape = many)
    BAD(indexed(), shape, call.ndim = 3, call.shape = many_and_none)
    BAD(indexed(), classes, call.classes = -1)
    BAD(indexed(), classes, call.classes = INT64_MAX)
    BAD(soft(XENT_KL_DIV), classes, call.classes = 2)
    /* Inputs. */
    BAD_IN(COMMA(ALL_BUT_FINISH), indexed(), logits, call.logits.data = NULL)
    BAD_ARRAY(indexed(), logits, memory.logits)
    BAD(indexed(), logits, call.logits_class_step = INT64_MIN)
    BAD_IN(COMMA(COMPUTED), indexed(), index, call.index.data = NULL)
    BAD_IN(COMMA(ALL_BUT_FINISH), call_of(XENT_FOCAL_LOSS, 1), index, call.index.data = NULL)
    BAD_ARRAY(indexed(), index, memory.index)
    BAD(soft(XENT_ENTROPY), index, call.index = array(memory.index, eight), call.index_type = XENT_I64)
    BAD(soft(XENT_KL_DIV), index, call.index = array(memory.index, eight), call.index_type = XENT_I64)
    BAD(indexed(), index_type, call.index_type = XENT_F32)
    BAD(indexed(), index_type, call.index_type = (xent_dtype)99)
    BAD(indexed(), soft, call.soft = array(memory.soft, row))
    BAD(call_of(XENT_POLY1_LOSS, 1), soft, call.index.data = NULL, call.soft = array(memory.soft, row))
    BAD(soft(XENT_SOFTMAX), soft, call.soft = array(memory.soft, row))
    BAD_IN(COMMA(COMPUTED), soft(XENT_DISTILLATION_LOSS), soft, call.soft.data = NULL)
    BAD_IN(COMMA(COMPUTED), soft(XENT_BINARY_CROSS_ENTROPY), soft, call.soft.data = NULL)
    BAD_ARRAY(soft(XENT_CROSS_ENTROPY), soft, memory.soft)
    BAD(soft(XENT_CROSS_ENTROPY), soft, call.soft_class_step = INT64_MAX)
    BAD(indexed(), class_weight, call.class_weight = (char *)memory.class_weight + 1)
    BAD(soft(XENT_ENTROPY), class_weight, call.class_weight = memory.class_weight)
    BAD(soft(XENT_KL_DIV), class_weight, call.class_weight = memory.class_weight)
    BAD(indexed(), class_bias, call.class_bias = (char *)memory.class_weight + 1)
    BAD(soft(XENT_ENTROPY), class_bias, call.class_bias = memory.class_weight)
    BAD(call_of(XENT_FOCAL_LOSS, 1), class_bias, call.class_bias = memory.class_weight)
    BAD_ARRAY(indexed(), sample_weight, memory.sample_weight)
    BAD(soft(XENT_LOGSUMEXP), sample_weight, call.sample_weight = array(memory.sample_weight, four))
    BAD_ARRAY(soft(XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS), pos_weight, memory.sample_weight)
    BAD(indexed(), pos_weight, call.pos_weight = array(memory.sample_weight, four))
    BAD_ARRAY(each(), grad_output, memory.sample_weight)
    BAD(indexed(), grad_output, call.grad_output = array(memory.sample_weight, four))
    BAD(soft(XENT_SOFTMAX), grad_output, call.grad_output = array(memory.sample_weight, four))
    /* Outputs. */
    BAD_IN(COMMA(COMPUTED), each(), loss, call.loss.data = NULL)
    BAD_IN(xent_finish, indexed(), loss, )
    BAD_OUTPUT(each(), loss, memory.outputs.loss)
    BAD(each(), loss, call.loss = array(memory.index, eight))
    BAD(soft(XENT_SOFTMAX), loss, call.loss = array(memory.outputs.loss, four))
    BAD_OUTPUT(indexed(), lse, memory.outputs.lse)
    BAD_IN(COMMA(COMPUTED), soft(XENT_LOGSUMEXP), lse, call.lse.data = NULL)
    BAD(soft(XENT_NLL_LOSS), lse, call.lse = array(memory.outputs.lse, four))
    BAD_OUTPUT(indexed(), out, memory.outputs.out)
    BAD(indexed(), out, call.out = array(memory.outputs.out, four))
    BAD(indexed(), out, call.out_class_step = INT64_MIN)
    BAD(indexed(), out, call.out_class_step = 1)
    BAD(indexed(), out, call.out = array(memory.logits, row), call.out_class_step = 16)
    BAD(soft(XENT_LOGSUMEXP), out, call.out = array(memory.outputs.out, row))
    BAD_IN(COMMA(COMPUTED), soft(XENT_LOG_SOFTMAX), out, call.out.data = NULL)
    BAD_OUTPUT(indexed(), hess, memory.outputs.hess)
    BAD(indexed(), hess, call.hess = array(memory.outputs.hess, row), call.hess_class_step = INT64_MAX)
    BAD(indexed(), hess, call.hess = array(memory.outputs.hess, row), call.out.data = NULL)
    BAD(indexed(), hess, call.hess = array(memory.logits, row))
    BAD(soft(XENT_NLL_LOSS), hess, call.hess = array(memory.outputs.hess, row))
    BAD(indexed(), block_sums, call.block_sums = (double *)(void *)((char *)memory.outputs.block_sums + 4))
    BAD_IN(xent_finish, soft(XENT_KL_DIV), block_sums, )
    /* Of the stages. */
    BAD(indexed(), sums, call.sums = memory.sums)
    BAD(indexed(), class_offset, call.class_offset = 1)
    BAD(indexed(), num_classes, call.num_classes = CLASSES)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), sums, call.sums = NULL)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), sums,
           call.sums = (xent_sums *)(void *)((char *)memory.sums + 1))
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), class_offset, call.class_offset = -1)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), class_offset, call.class_offset = INT64_MAX)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), num_classes, call.num_classes = CLASSES - 1)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), in_stages(), num_classes, call.num_classes = -1)
    BAD_IN(COMMA(xent_reduce, xent_apply), in_stages(), logits, call.logits.data = NULL)
    BAD_IN(xent_apply, in_stages(), out, call.out.data = NULL)
    BAD_IN(COMMA(xent_head, xent_apply), in_stages(), sums, call.temperature = 2)
    BAD_IN(COMMA(xent_head, xent_apply), in_stages(), sums, call.num_classes = CLASSES + 1)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), soft(XENT_NLL_LOSS), operation, call.sums = memory.sums)
    BAD_IN(COMMA(xent_reduce, xent_head, xent_apply), soft(XENT_KL_DIV), operation, call.sums = memory.sums)
    BAD(indexed(), lse_coef, call.lse_coef = array(memory.sample_weight, four))
    BAD(indexed(), nll_coef, call.nll_coef = array(memory.sample_weight, four))
    BAD_IN(xent_apply, in_stages(), lse_coef, call.lse_coef = array(memory.sample_weight, NULL))
    BAD_IN(xent_apply, in_stages(), lse_coef, call.lse_coef = array(memory.sample_weight, far))
    BAD_IN(xent_apply, in_stages(), nll_coef, call.nll_coef = array(memory.sample_weight, four), call.index.data = NULL)
    BAD_IN(xent_apply, in_stages(), entropy_coef, call.entropy_coef = array(memory.sample_weight, four))
    BAD_IN(xent_apply, in_stages(), smooth_coef, call.smooth_coef = array(memory.sample_weight, four))
    BAD(indexed(), score, call.score = 1)
    BAD_IN(xent_reduce, in_stages(), score, call.score = 1, call.label_smoothing = 0.1)
    BAD_IN(xent_reduce, in_stages(), score, call.score = 1, call.num_classes = CLASSES + 1)
    BAD(indexed(), rank, call.rank = memory.index)
    BAD_IN(COMMA(xent_head, xent_apply), in_stages(), rank, call.rank = memory.index)
    BAD_IN(xent_reduce, in_stages(), rank, call.rank = memory.index, call.num_classes = CLASSES + 1)
    BAD_IN(xent_reduce, in_stages(), rank, call.rank = memory.index, call.label_smoothing = 0.1)
    BAD_IN(xent_reduce, in_stages(), top_index, call.top_index = memory.index)
    BAD_IN(xent_reduce, in_stages(), top_index, call.score = 1, call.top_k = 1)
    BAD_IN(xent_reduce, in_stages(), top_logit, call.score = 1, call.top_k = 1, call.top_index = memory.index)
    BAD_IN(xent_reduce, in_stages(), top_logit, call.top_logit = &memory.sums[0].max)
    BAD(indexed(), continues, call.continues = 1)
    BAD_IN(xent_reduce, in_stages(), continues, call.continues = 1)
    BAD(indexed(), top_k, call.top_k = 1)
    BAD_IN(xent_reduce, in_stages(), top_index, call.top_k = 1)
    BAD_IN(xent_reduce, in_stages(), top_k, call.score = 1, call.top_k = -1)
    BAD_IN(xent_reduce, in_stages(), top_k, call.score = 1, call.top_k = CLASSES + 1)
    BAD(indexed(), teacher_grad, call.teacher_grad = 1)
    /* Parameters. */
    BAD_NUMBERS(indexed(), entropy_weight, 2e30)
    BAD_NUMBERS(soft(XENT_CROSS_ENTROPY), entropy_weight, 0.1)
    BAD_NUMBERS(call_of(XENT_FOCAL_LOSS, 1), entropy_weight, 0.1)
    BAD(indexed(), entropy_weight, call.entropy_weight = 0.1, call.label_smoothing = 0.1)
    BAD(indexed(), entropy_weight, call.entropy_weight = 0.1, call.hess = array(memory.outputs.hess, row))
    BAD(soft(XENT_CROSS_ENTROPY), has_ignore, call.has_ignore = 1)
    BAD(indexed(), log_target, call.log_target = 1)
    BAD_NUMBERS(indexed(), label_smoothing, -0.1, 1.1)
    BAD_NUMBERS(soft(XENT_BINARY_CROSS_ENTROPY), label_smoothing, -0.1, 1.1)
    BAD_NUMBERS(soft(XENT_KL_DIV), label_smoothing, 0.1)
    BAD_NUMBERS(call_of(XENT_FOCAL_LOSS, 1), strength, -0.1, 1001)
    BAD_NUMBERS(call_of(XENT_POLY1_LOSS, 1), strength, -2e30, 2e30)
    BAD_NUMBERS(indexed(), strength, 1)
    BAD_NUMBERS(soft(XENT_BINARY_CROSS_ENTROPY), eps, -0.1, 0.6, 1e-31)
    BAD_NUMBERS(indexed(), eps, 0.1)
    BAD_NUMBERS(indexed(), z_loss, -0.1, 2e30)
    BAD_NUMBERS(soft(XENT_ENTROPY), z_loss, 0.1)
    BAD_NUMBERS(indexed(), softcap, -1, 1e-31, 2e30)
    BAD_NUMBERS(soft(XENT_DISTILLATION_LOSS), softcap, 30)
    BAD_NUMBERS(indexed(), temperature, 0, -1, 1e-31, 2e30)
    BAD_NUMBERS(soft(XENT_SOFTMAX), temperature, 2)
    BAD_NUMBERS(soft(XENT_SIGMOID_FOCAL_LOSS), alpha, 1.1)
    BAD_NUMBERS(indexed(), alpha, 0.25)
    BAD_NUMBERS(soft(XENT_ASYMMETRIC_LOSS), strength, -0.1, 1001)
    BAD_NUMBERS(soft(XENT_ASYMMETRIC_LOSS), negative_strength, -0.1, 1001)
    BAD_NUMBERS(soft(XENT_SIGMOID_FOCAL_LOSS), negative_strength, 1)
    BAD_NUMBERS(soft(XENT_ASYMMETRIC_LOSS), clip, -0.1, 1)
    BAD_NUMBERS(soft(XENT_SIGMOID_FOCAL_LOSS), clip, 0.05)
    BAD_NUMBERS(each(), grad_scale, 2)
    BAD_NUMBERS(soft(XENT_SOFTMAX), grad_scale, 2)
    BAD(indexed(), reduction, call.reduction = (xent_reduction)4)
    BAD(indexed(), reduction, call.reduction = (xent_reduction)-1)
    BAD(indexed(), reduction, call.reduction = XENT_BATCH_MEAN)
    BAD_IN(xent_finish, each(), reduction, )
    BAD(indexed(), threads, call.threads = -1)
}

/* A caller that knows fewer fields gets the defaults for the others, whatever lies behind its struct. */
static void older_callers(void) {
    union {
        xent_call call;
        unsigned char bytes[sizeof(xent_call)];
    } older, full;
    for (size_t size = offsetof(xent_call, label_smoothing); size <= sizeof(xent_call); size += 8) {
        reset();
        full.call = indexed();
        const xent_status wanted = xent_run(&full.call);
        reset();
        memset(&older, 0xff, sizeof older);
        older.call = indexed();
        memset(older.bytes + size, 0xff, sizeof older - size);
        older.call.size = size;
        if (xent_run(&older.call) != wanted || memcmp(&older.call.result, &full.call.result, sizeof(double)))
            fail(__LINE__, "an older caller is computed otherwise", older.call.bad_argument);
        for (size_t i = size; i < sizeof older; ++i)
            if (older.bytes[i] != 0xff)
                fail(__LINE__, "an older caller's memory is written to", NULL);
    }
    /* Of one without room for the results nothing but the size is read, and nothing written. */
    size_t *least = malloc(sizeof *least);
    *least = sizeof *least;
    if (xent_run((xent_call *)(void *)least) != XENT_BAD_ARGUMENT || xent_layout_supported((xent_call *)(void *)least))
        fail(__LINE__, "a call of nothing but its size", NULL);
    free(least);
    xent_call nothing;
    memset(&nothing, 0, sizeof nothing);
    if (xent_run(&nothing) != XENT_BAD_ARGUMENT || strcmp(nothing.bad_argument, "size"))
        fail(__LINE__, "a call of zeros", nothing.bad_argument);
}

static void nulls(void) {
    step *const steps[] = {ALL};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; ++i)
        if (steps[i](NULL) != XENT_BAD_ARGUMENT)
            fail(__LINE__, "no call", NULL);
    const xent_sums *const shards[] = {memory.sums, NULL};
    int64_t row = 7;
    reset();
    if (xent_merge(NULL, shards, 1, ROWS, &row) != XENT_BAD_ARGUMENT ||
        xent_merge(memory.sums, NULL, 1, ROWS, &row) != XENT_BAD_ARGUMENT ||
        xent_merge(memory.sums, shards, 2, ROWS, &row) != XENT_BAD_ARGUMENT ||
        xent_merge(memory.sums, shards, 0, ROWS, &row) != XENT_BAD_ARGUMENT ||
        xent_merge(memory.sums, shards, 1, -1, &row) != XENT_BAD_ARGUMENT || row != 7)
        fail(__LINE__, "shards that are not there", NULL);
    if (xent_layout_supported(NULL) || xent_use_isa(NULL) || xent_isa_name(-1) || xent_isa_available(99))
        fail(__LINE__, "nothing is something", NULL);
    _Alignas(8) float x = 1;
    int finite = 7;
    if (xent_unscale(NULL, XENT_F32, 1, 2, 1, &finite) != XENT_BAD_ARGUMENT ||
        xent_unscale(&x, XENT_F32, 1, 2, 1, NULL) != XENT_BAD_ARGUMENT ||
        xent_unscale(&x, XENT_F32, -1, 2, 1, &finite) != XENT_BAD_ARGUMENT ||
        xent_unscale(&x, XENT_F32, 1, 2, -1, &finite) != XENT_BAD_ARGUMENT ||
        xent_unscale(&x, XENT_BOOL, 1, 2, 1, &finite) != XENT_BAD_ARGUMENT ||
        xent_unscale((char *)&x + 1, XENT_F32, 1, 2, 1, &finite) != XENT_BAD_ARGUMENT)
        fail(__LINE__, "numbers that cannot be unscaled", NULL);
    const double scales[] = {0, -2, 0x1p-127, 0x1p128, INFINITY, NAN};
    for (size_t i = 0; i < sizeof scales / sizeof *scales; ++i)
        if (xent_unscale(&x, XENT_F32, 1, scales[i], 1, &finite) != XENT_BAD_ARGUMENT)
            fail(__LINE__, "a scale that divides nothing", NULL);
    if (x != 1 || finite != 7 || xent_unscale(NULL, XENT_F32, 0, 2, 1, &finite) != XENT_OK || finite != 1)
        fail(__LINE__, "numbers have been unscaled", NULL);
    const xent_matrix one = {&x, XENT_F32, 4, 4}, none = {NULL, XENT_F32, 4, 4}, wide = {&x, XENT_F64, 8, 8};
    const xent_matrix skewed = {(char *)&x + 1, XENT_F32, 4, 4}, columns = {&x, XENT_F32, 4, 8}, half = {&x, XENT_F16, 2, 2};
    const xent_matrix *const bad[] = {NULL, &none, &wide};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i)
        if (xent_multiply(bad[i], &one, &one, 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
            xent_multiply(&one, bad[i], &one, 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
            xent_multiply(&one, &one, bad[i], 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT)
            fail(__LINE__, "a matrix that cannot be multiplied", NULL);
    if (xent_multiply(&one, &one, &skewed, 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &columns, 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &half, 1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &one, 2, 2, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &one, -1, 1, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &one, 1, INT64_MAX, 1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &one, 1, 1, -1, 0, 1, NULL, NULL) != XENT_BAD_ARGUMENT ||
        xent_multiply(&one, &one, &one, 1, 1, 1, 0, -1, NULL, NULL) != XENT_BAD_ARGUMENT)
        fail(__LINE__, "a product that cannot be", NULL);
    if (xent_round(NULL, XENT_F16, &x, 1, 1) != XENT_BAD_ARGUMENT ||
        xent_round(&x, XENT_F32, &x, 1, 1) != XENT_BAD_ARGUMENT ||
        xent_round(&x, XENT_BF16, NULL, 1, 1) != XENT_BAD_ARGUMENT ||
        xent_round(&x, XENT_BF16, &x, -1, 1) != XENT_BAD_ARGUMENT ||
        xent_round(&x, XENT_BF16, &x, 1, -1) != XENT_BAD_ARGUMENT)
        fail(__LINE__, "numbers that cannot be rounded", NULL);
    if (x != 1)
        fail(__LINE__, "a bad product has been written", NULL);
    xent_math(XENT_EXP, XENT_F32, NULL, &x, 1);
    xent_math(XENT_EXP, XENT_F16, &x, &x, 1);
    xent_math((xent_function)99, XENT_F32, &x, &x, 1);
    xent_memory_copy(NULL, NULL, 64, 1);
    if (x != 1 || xent_memory_read(NULL, 64, 1) != 0)
        fail(__LINE__, "nothing has been read", NULL);
    for (int status = -1; status < 99; ++status)
        if (!xent_status_text((xent_status)status))
            fail(__LINE__, "a status without a text", NULL);
}

int main(void) {
    good_calls();
    bad_calls();
    older_callers();
    nulls();
    printf("%d refused\n", tried);
    return 0;
}
