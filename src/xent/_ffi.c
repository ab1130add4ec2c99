/* A call of the core as an instruction of an XLA program: the handler that `xent.jax` registers.
 *
 * There is one handler for all operations. Attributes are named as the fields of xent_call and have been validated; the
 * strings "arguments" and "results" say which array each buffer is. XLA calls it on a thread of its own, without the GIL,
 * and nothing of Python is touched. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#ifndef _WIN32
#include <sys/mman.h>
#endif

#include "index.h"
#include "xent_capi.h"
#include "xla_ffi.h"

#define HUGE_PAGE ((uintptr_t)1 << 21) /* of x86-64, and of aarch64 with pages of 4 KiB */

enum { MOST_RANK = 64, MOST_ARRAYS = 12, MOST_TEXT = 512 };

/* What the axes of a buffer are, behind those of vmap: */
typedef enum {
    LOGITS,  /* those of the loss and, where there is one, that of the classes */
    ROWS,    /* those of the loss */
    CLASSES, /* that of the classes */
    NUMBER   /* none */
} axes;

/* What a buffer can be: its field of xent_call, an xent_array for LOGITS and ROWS, a pointer for CLASSES, a double for
 * NUMBER; and the field for the step of its class axis. */
typedef struct {
    const char *name;
    axes axes;
    size_t field, class_step;
} role;

#define FIELD(NAME) offsetof(xent_call, NAME)

static const role roles[] = {
    {"logits", LOGITS, FIELD(logits), FIELD(logits_class_step)},
    {"index", ROWS, FIELD(index), 0},
    {"soft", LOGITS, FIELD(soft), FIELD(soft_class_step)},
    {"class_weight", CLASSES, FIELD(class_weight), 0},
    {"class_bias", CLASSES, FIELD(class_bias), 0},
    {"sample_weight", ROWS, FIELD(sample_weight), 0},
    {"pos_weight", ROWS, FIELD(pos_weight), 0},
    {"grad_output", ROWS, FIELD(grad_output), 0},
    {"grad_scale", NUMBER, FIELD(grad_scale), 0},
    {"result", NUMBER, FIELD(result), 0},
    {"loss", ROWS, FIELD(loss), 0},
    {"lse", ROWS, FIELD(lse), 0},
    {"out", LOGITS, FIELD(out), FIELD(out_class_step)},
};

typedef enum { INTEGER, ENUMERATOR, REAL } kind;

static const struct {
    const char *name;
    kind kind;
    size_t field;
} options[] = {
    {"operation", ENUMERATOR, FIELD(operation)},
    {"reduction", ENUMERATOR, FIELD(reduction)},
    {"has_ignore", ENUMERATOR, FIELD(has_ignore)},
    {"ignore_index", INTEGER, FIELD(ignore_index)},
    {"log_target", ENUMERATOR, FIELD(log_target)},
    {"label_smoothing", REAL, FIELD(label_smoothing)},
    {"strength", REAL, FIELD(strength)},
    {"eps", REAL, FIELD(eps)},
    {"z_loss", REAL, FIELD(z_loss)},
    {"softcap", REAL, FIELD(softcap)},
    {"temperature", REAL, FIELD(temperature)},
    {"alpha", REAL, FIELD(alpha)},
    {"negative_strength", REAL, FIELD(negative_strength)},
    {"clip", REAL, FIELD(clip)},
};

#define LENGTH(TABLE) (sizeof(TABLE) / sizeof *(TABLE))

_Static_assert(sizeof(xent_operation) == sizeof(int) && sizeof(xent_reduction) == sizeof(int), "an ENUMERATOR is an int");

/* A buffer of the call, and how far apart its elements are along the axes of vmap and of the loss; 0 where one serves all.
 */
typedef struct {
    const role *role;
    int is_result;
    char *data;
    int64_t steps[MOST_RANK];
    int64_t class_step;
} array;

typedef struct {
    const XLA_FFI_CallFrame *frame;
    xent_call call;
    int64_t rank, axis; /* of the logits without the axes of vmap; of the classes among these, -1 if there is none */
    XLA_FFI_ByteSpan arguments, results;
    XLA_FFI_ByteSpan not_a_class; /* what the message of a bad target says after its value */
    array arrays[MOST_ARRAYS];
    int count;
    int64_t shape[MOST_RANK]; /* of the axes of vmap, then of the loss: */
    int ignored_are_nan;      /* of class indices: the loss of rows that do not count */
    int batch_ndim, ndim;     /* how many the former are, and both */
    int64_t outside;          /* the position of a bad probability in C order, the axis of the classes in its place */
} job;

static XLA_FFI_Error *error(const XLA_FFI_CallFrame *frame, int code, const char *message) {
    XLA_FFI_Error_Create_Args args = {.struct_size = sizeof args, .message = message, .errc = code};
    return frame->api->XLA_FFI_Error_Create(&args);
}

#define SPAN(TEXT) ((XLA_FFI_ByteSpan){TEXT, sizeof TEXT - 1})

static int same(XLA_FFI_ByteSpan span, const char *text) {
    return span.len == strlen(text) && memcmp(span.ptr, text, span.len) == 0;
}

static int dtype_of(int type) {
    switch (type) {
    case XLA_FFI_DataType_PRED:
        return XENT_BOOL;
    case XLA_FFI_DataType_S8:
        return XENT_I8;
    case XLA_FFI_DataType_S16:
        return XENT_I16;
    case XLA_FFI_DataType_S32:
        return XENT_I32;
    case XLA_FFI_DataType_S64:
        return XENT_I64;
    case XLA_FFI_DataType_U8:
        return XENT_U8;
    case XLA_FFI_DataType_U16:
        return XENT_U16;
    case XLA_FFI_DataType_U32:
        return XENT_U32;
    case XLA_FFI_DataType_U64:
        return XENT_U64;
    case XLA_FFI_DataType_F16:
        return XENT_F16;
    case XLA_FFI_DataType_BF16:
        return XENT_BF16;
    case XLA_FFI_DataType_F32:
        return XENT_F32;
    case XLA_FFI_DataType_F64:
        return XENT_F64;
    default:
        return -1;
    }
}

static int64_t bytes_of(int dtype) {
    switch (dtype) {
    case XENT_F16:
    case XENT_BF16:
        return 2;
    case XENT_F32:
        return 4;
    case XENT_F64:
        return 8;
    default:
        return xent_index_bytes(dtype);
    }
}

/* The next word of a list, which is then the rest; none: the empty one. */
static XLA_FFI_ByteSpan next_word(XLA_FFI_ByteSpan *list) {
    XLA_FFI_ByteSpan word = {list->ptr, 0};
    while (word.len < list->len && word.ptr[word.len] != ' ')
        ++word.len;
    const size_t taken = word.len < list->len ? word.len + 1 : word.len;
    list->ptr += taken;
    list->len -= taken;
    return word;
}

static const role *role_of(XLA_FFI_ByteSpan name) {
    for (size_t i = 0; i < LENGTH(roles); ++i)
        if (same(name, roles[i].name))
            return &roles[i];
    return NULL;
}

/* These functions return what is wrong with a call that xent.jax would not have made, or NULL. */

static const char *read_text(job *j, XLA_FFI_ByteSpan name, XLA_FFI_ByteSpan text) {
    XLA_FFI_ByteSpan *const to = same(name, "arguments")     ? &j->arguments
                                 : same(name, "results")     ? &j->results
                                 : same(name, "not_a_class") ? &j->not_a_class
                                                             : NULL;
    if (!to)
        return "xent: an attribute with an unknown name";
    *to = text;
    return NULL;
}

static const char *read_number(job *j, XLA_FFI_ByteSpan name, const XLA_FFI_Scalar *number) {
    const int is_real = number->dtype == XLA_FFI_DataType_F64;
    if (!is_real && number->dtype != XLA_FFI_DataType_S64)
        return "xent: an attribute that is no number of 64 bits";
    if (same(name, "rank") || same(name, "axis")) {
        memcpy(same(name, "rank") ? &j->rank : &j->axis, number->value, sizeof j->rank);
        return NULL;
    }
    for (size_t k = 0; k < LENGTH(options); ++k) {
        if (!same(name, options[k].name) || (options[k].kind == REAL) != is_real)
            continue;
        char *const field = (char *)&j->call + options[k].field;
        if (options[k].kind == ENUMERATOR)
            *(int *)field = (int)*(const int64_t *)number->value;
        else
            memcpy(field, number->value, 8);
        return NULL;
    }
    return "xent: an option that is unknown, or of another type";
}

static const char *read_attributes(job *j) {
    const XLA_FFI_Attrs *const attrs = &j->frame->attrs;
    const char *wrong = NULL;
    for (int64_t i = 0; i < attrs->size && !wrong; ++i) {
        const XLA_FFI_ByteSpan name = *attrs->names[i];
        if (attrs->types[i] == XLA_FFI_AttrType_STRING)
            wrong = read_text(j, name, *(const XLA_FFI_ByteSpan *)attrs->attrs[i]);
        else if (attrs->types[i] == XLA_FFI_AttrType_SCALAR)
            wrong = read_number(j, name, attrs->attrs[i]);
        else
            wrong = "xent: an attribute that is neither text nor a number";
    }
    return wrong;
}

/* The first argument is the logits, and results have the axes of vmap in full. */
static const char *find_shape(job *j) {
    const int has_classes = j->axis >= 0;
    if (j->frame->args.size < 1 || j->frame->rets.size < 1)
        return "xent: no logits, or no result";
    const XLA_FFI_Buffer *const logits = j->frame->args.buffers[0], *const result = j->frame->rets.buffers[0];
    const int64_t batch = logits->rank - j->rank;
    if (logits->rank > MOST_RANK || j->axis >= j->rank || batch < 0 || result->rank < batch)
        return "xent: logits or a result of another rank";
    j->batch_ndim = (int)batch;
    j->ndim = (int)logits->rank - has_classes;
    j->call.dtype = (xent_dtype)dtype_of(logits->dtype);
    j->call.classes = has_classes ? logits->dims[batch + j->axis] : 1;
    for (int d = 0; d < j->ndim; ++d)
        j->shape[d] = d < batch ? result->dims[d] : logits->dims[d + (has_classes && d >= batch + j->axis)];
    return NULL;
}

/* XLA takes memory for each result from the system anew, whose pages are made where they are first written to. Of large
 * results that takes several times as long as the call, unless the pages are huge. */
static void expect_huge_pages(const XLA_FFI_Buffer *buffer, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t begin = ((uintptr_t)buffer->data + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    const uintptr_t end = ((uintptr_t)buffer->data + (uintptr_t)bytes) & ~(HUGE_PAGE - 1);
    if (begin < end)
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)buffer, (void)bytes;
#endif
}

/* That of weights, targets and losses. */
static xent_dtype number_type(const job *j) { return j->call.dtype == XENT_F64 ? XENT_F64 : XENT_F32; }

static int may_have(const job *j, const role *role, int dtype) {
    const int logits = j->call.dtype;
    const int is_teacher = role->field == FIELD(soft) && j->call.operation == XENT_DISTILLATION_LOSS;
    if (role->field == FIELD(index))
        return xent_index_bytes(dtype) > 0;
    if (role->field == FIELD(logits) || role->field == FIELD(out) || is_teacher)
        return dtype == logits && dtype >= 0 && xent_index_bytes(dtype) == 0;
    return dtype == (int)number_type(j);
}

/* XLA may have no memory for a buffer without elements, which is not absent for that. */
static const char *place(job *j, const role *role, const XLA_FFI_Buffer *buffer, int is_result) {
    static double no_elements;
    array *const a = &j->arrays[j->count];
    const int rows = j->ndim - j->batch_ndim;
    const int own[] = {[LOGITS] = (int)j->rank, [ROWS] = rows, [CLASSES] = 1, [NUMBER] = 0};
    const int dtype = dtype_of(buffer->dtype);
    int64_t step = bytes_of(dtype);
    if (!role || j->count == MOST_ARRAYS || !may_have(j, role, dtype) || buffer->rank != j->batch_ndim + own[role->axes])
        return "xent: a buffer of another rank or dtype, or without a name";
    const int64_t class_axis = role->axes == CLASSES                  ? j->batch_ndim
                               : role->axes == LOGITS && j->axis >= 0 ? j->batch_ndim + j->axis
                                                                      : buffer->rank;
    memset(a->steps, 0, (size_t)j->ndim * sizeof *a->steps);
    for (int64_t d = buffer->rank - 1; d >= 0; --d) {
        const int64_t size = buffer->dims[d], k = d - (d > class_axis);
        if (d == class_axis ? size != j->call.classes : size != 1 && size != j->shape[k])
            return "xent: a buffer of another shape";
        if (d == class_axis)
            a->class_step = step;
        else if (size != 1)
            a->steps[k] = step;
        step *= size;
    }
    if (is_result)
        expect_huge_pages(buffer, step);
    if (role->field == FIELD(index))
        j->call.index_type = (xent_dtype)dtype;
    a->role = role;
    a->is_result = is_result;
    a->data = buffer->data ? buffer->data : (char *)&no_elements;
    ++j->count;
    return NULL;
}

static const char *place_all(job *j, const XLA_FFI_Buffers *buffers, XLA_FFI_ByteSpan names, int is_result) {
    const char *wrong = NULL;
    for (int64_t i = 0; i < buffers->size && !wrong; ++i)
        wrong = place(j, role_of(next_word(&names)), buffers->buffers[i], is_result);
    return wrong;
}

static array *find(job *j, size_t field) {
    for (int i = 0; i < j->count; ++i)
        if (j->arrays[i].role->field == field)
            return &j->arrays[i];
    return NULL;
}

/* Losses of single rows that vmap maps one by one are the rows of one loss that is not reduced, unless a mean divides by
 * weights. Only the mean of a row that does not count is not its loss, which is 0: it is NaN. */
static void join_single_rows(job *j) {
    const int is_mean = j->call.reduction == XENT_MEAN;
    if (j->call.reduction == XENT_NONE || j->batch_ndim == 0 || j->ndim > j->batch_ndim ||
        (is_mean && (find(j, FIELD(class_weight)) || find(j, FIELD(sample_weight)))))
        return;
    array *const result = find(j, FIELD(result)), *const upstream = find(j, FIELD(grad_scale));
    if (result)
        result->role = role_of(SPAN("loss"));
    if (upstream)
        upstream->role = role_of(SPAN("grad_output"));
    j->call.reduction = XENT_NONE;
    j->ignored_are_nan = is_mean && j->call.has_ignore;
}

/* Whether the axes of vmap are further axes of the loss. Otherwise each of their elements is a call of its own: with a
 * divisor or a sum of its own, or with its own class weights. */
static int is_one_call(const job *j) {
    if (j->call.reduction != XENT_NONE)
        return j->batch_ndim == 0;
    for (int i = 0; i < j->count; ++i)
        for (int d = 0; d < j->batch_ndim; ++d)
            if (j->arrays[i].role->axes == CLASSES && j->arrays[i].steps[d])
                return 0;
    return 1;
}

/* Where the element of an array is, whose position along the first axes is given in C order. */
static char *element_of(const job *j, const array *a, int64_t position, int axes) {
    char *data = a->data;
    for (int d = axes - 1; d >= 0; --d) {
        data += position % j->shape[d] * a->steps[d];
        position /= j->shape[d];
    }
    return data;
}

/* Any number that a buffer holds. */
static double load(const char *from, xent_dtype dtype) {
    if (dtype == XENT_F64)
        return *(const double *)from;
    if (dtype == XENT_F32)
        return (double)*(const float *)from;
    const uint16_t bits = *(const uint16_t *)from;
    if (dtype == XENT_BF16) {
        const uint32_t wide = (uint32_t)bits << 16;
        float x;
        memcpy(&x, &wide, sizeof x);
        return (double)x;
    }
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double x = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                     : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                    : ldexp(fraction, -24);
    return bits >> 15 ? -x : x;
}

/* Positions in C order along the axes of vmap and of the logits are numbers of rows and of classes. Behind the axis of the
 * classes so many rows lie: */
static int64_t inner_rows(const job *j) {
    int64_t rows = 1;
    for (int d = j->axis < 0 ? j->ndim : j->batch_ndim + (int)j->axis; d < j->ndim; ++d)
        rows *= j->shape[d];
    return rows;
}

static int64_t row_at(const job *j, int64_t position) {
    const int64_t inner = inner_rows(j);
    return position / (inner * j->call.classes) * inner + position % inner;
}

static int64_t class_at(const job *j, int64_t position) { return position / inner_rows(j) % j->call.classes; }

static int64_t position_at(const job *j, int64_t row, int64_t class) {
    const int64_t inner = inner_rows(j);
    return (row / inner * j->call.classes + class) * inner + row % inner;
}

static double logit_at(job *j, int64_t position) {
    const array *const logits = find(j, FIELD(logits));
    return load(element_of(j, logits, row_at(j, position), j->ndim) + class_at(j, position) * logits->class_step,
                j->call.dtype);
}

/* Clipped ones may be one rounding above 1. */
static int is_probability(const job *j, double x) {
    const int digits[] = {[XENT_F32] = 23, [XENT_F64] = 52, [XENT_F16] = 10, [XENT_BF16] = 7};
    return !(x < 0 || x > 1 + (j->call.eps > 0 ? ldexp(1, -digits[j->call.dtype]) : 0));
}

/* "NAME[1, 2] = ", the first of whose numbers are those of the axes of vmap; with a class its axis is among them. */
static size_t describe_place(const job *j, const char *name, int64_t row, int64_t class, char *text) {
    const int at = class < 0 ? -1 : j->batch_ndim + (int)j->axis;
    int64_t where[MOST_RANK];
    for (int d = j->ndim - 1; d >= 0; --d) {
        where[d] = row % j->shape[d];
        row /= j->shape[d];
    }
    size_t n = (size_t)snprintf(text, MOST_TEXT, "%s[", name);
    for (int d = 0; d <= j->ndim && n < MOST_TEXT; ++d) {
        if (d == at)
            n += (size_t)snprintf(text + n, MOST_TEXT - n, "%s%lld", d ? ", " : "", (long long)class);
        if (d < j->ndim && n < MOST_TEXT)
            n += (size_t)snprintf(text + n, MOST_TEXT - n, "%s%lld", d || at == 0 ? ", " : "", (long long)where[d]);
    }
    return n < MOST_TEXT ? n + (size_t)snprintf(text + n, MOST_TEXT - n, "] = ") : n;
}

/* "targets[1, 2] = 7 is not a class; ..." */
static void describe_bad_target(job *j, int64_t row, char *text) {
    const int64_t value = xent_load_index(element_of(j, find(j, FIELD(index)), row, j->ndim), j->call.index_type);
    const size_t n = describe_place(j, "targets", row, -1, text);
    if (n < MOST_TEXT)
        snprintf(text + n, MOST_TEXT - n, j->call.index_type == XENT_U64 ? "%llu%.*s" : "%lld%.*s", (long long)value,
                 (int)j->not_a_class.len, j->not_a_class.ptr);
}

/* "probs[1, 2] = 1.5 is not a probability; ...", or the same of a target. The number has as few
 * digits as read back as it is, in the form of Python's repr. */
static void describe_bad_probability(job *j, char *text) {
    const int64_t row = row_at(j, j->outside), class = j->axis < 0 ? -1 : class_at(j, j->outside);
    double x = logit_at(j, j->outside);
    const int is_target = j->axis < 0 && is_probability(j, x);
    if (is_target)
        x = load(element_of(j, find(j, FIELD(soft)), row, j->ndim), number_type(j));
    const double size = fabs(x);
    char number[40];
    for (int digits = size >= 1 && size < 1e16 ? (int)log10(size) + 1 : 1; digits <= 17; ++digits) {
        snprintf(number, sizeof number, "%.*g", digits, x);
        if (strtod(number, NULL) == x)
            break;
    }
    const int is_whole = !strpbrk(number, ".,en");
    const size_t n = describe_place(j, is_target ? "targets" : "probs", row, class, text);
    if (n < MOST_TEXT)
        snprintf(text + n, MOST_TEXT - n, "%s%s is not a probability; expected 0 <= p <= 1", number, is_whole ? ".0" : "");
}

static void store(char *to, double x, xent_dtype dtype) {
    if (dtype == XENT_F64)
        *(double *)to = x;
    else
        *(float *)to = (float)x;
}

static int row_counts(job *j, int64_t row) {
    const array *const index = find(j, FIELD(index)), *const weight = find(j, FIELD(sample_weight));
    return !(index && j->call.has_ignore &&
             xent_load_index(element_of(j, index, row, j->ndim), j->call.index_type) == j->call.ignore_index) &&
           !(weight && load(element_of(j, weight, row, j->ndim), number_type(j)) == 0);
}

/* Probabilities of all classes are validated before the call, which does so for those of targets alone. They are found as
 * those of elements, of which none is ignored: the few that are not probabilities are looked at one by one. */
static xent_status check_probabilities(job *j, int64_t element, int batch) {
    array *const logits = find(j, FIELD(logits));
    const int at = j->batch_ndim + (int)j->axis - batch;
    if (j->call.operation != XENT_CATEGORICAL_CROSS_ENTROPY || !logits || j->axis < 0 ||
        (find(j, FIELD(index)) && j->call.label_smoothing == 0))
        return XENT_OK;
    int64_t shape[MOST_RANK], steps[MOST_RANK], size = 1;
    xent_call check = XENT_CALL_DEFAULTS;
    check.operation = XENT_BINARY_CROSS_ENTROPY;
    check.dtype = j->call.dtype;
    check.eps = j->call.eps;
    check.reduction = XENT_NONE;
    check.ndim = j->ndim - batch + 1;
    for (int d = 0; d < check.ndim; ++d) {
        const int k = batch + d - (d > at);
        shape[d] = d == at ? j->call.classes : j->shape[k];
        steps[d] = d == at ? logits->class_step : logits->steps[k];
        size *= shape[d];
    }
    check.shape = shape;
    check.logits = (xent_array){element_of(j, logits, element, batch), steps};
    const xent_status status = xent_prepare(&check);
    if (status != XENT_BAD_PROBABILITY)
        return status;
    for (int64_t i = check.bad_row; i < size; ++i) {
        j->outside = element * size + i;
        if (row_counts(j, row_at(j, j->outside)) && !is_probability(j, logit_at(j, j->outside)))
            return status;
    }
    return XENT_OK;
}

/* Which probability the call has found in a row, that of its target, or in an element. */
static void set_outside(job *j, int64_t row) {
    const array *const index = find(j, FIELD(index));
    const int64_t class = index ? xent_load_index(element_of(j, index, row, j->ndim), j->call.index_type) : 0;
    j->outside = position_at(j, row, class);
}

/* Runs the call whose arrays begin at this element of the first `batch` axes, and have the others, of so many rows. */
static xent_status run_one(job *j, int64_t element, int batch, int64_t rows) {
    xent_call *const call = &j->call;
    char *data[MOST_ARRAYS];
    for (int i = 0; i < j->count; ++i)
        data[i] = element_of(j, &j->arrays[i], element, batch);
    call->ndim = j->ndim - batch;
    call->shape = j->shape + batch;
    for (int i = 0; i < j->count; ++i) {
        const array *const a = &j->arrays[i];
        char *const field = (char *)call + a->role->field;
        if (a->role->axes == CLASSES)
            *(const void **)field = data[i];
        else if (a->role->axes != NUMBER)
            *(xent_array *)field = (xent_array){data[i], a->steps + batch};
        else if (!a->is_result)
            *(double *)field = load(data[i], number_type(j));
        if (a->role->class_step && j->axis >= 0)
            *(int64_t *)((char *)call + a->role->class_step) = a->class_step;
    }
    xent_status status = check_probabilities(j, element, batch);
    if (status != XENT_OK)
        return status;
    status = xent_run(call);
    if (status == XENT_BAD_PROBABILITY)
        set_outside(j, element * rows + call->bad_row);
    for (int i = 0; i < j->count && status == XENT_OK; ++i)
        if (j->arrays[i].is_result && j->arrays[i].role->axes == NUMBER)
            store(data[i], *(double *)((char *)call + j->arrays[i].role->field), call->dtype);
    return status;
}

static void set_ignored_to_nan(job *j, int64_t rows) {
    const array *const index = find(j, FIELD(index)), *const loss = find(j, FIELD(loss));
    for (int64_t i = 0; i < rows; ++i)
        if (xent_load_index(element_of(j, index, i, j->ndim), j->call.index_type) == j->call.ignore_index)
            store(element_of(j, loss, i, j->ndim), NAN, j->call.dtype);
}

static XLA_FFI_Error *run_all(job *j) {
    char text[MOST_TEXT];
    join_single_rows(j);
    const int batch = is_one_call(j) ? 0 : j->batch_ndim;
    int64_t calls = 1, rows = 1;
    for (int d = 0; d < j->ndim; ++d)
        *(d < batch ? &calls : &rows) *= j->shape[d];
    for (int64_t i = 0; i < calls; ++i) {
        const xent_status status = run_one(j, i, batch, rows);
        if (status == XENT_OK)
            continue;
        const int code =
            status == XENT_NO_MEMORY ? XLA_FFI_Error_Code_RESOURCE_EXHAUSTED : XLA_FFI_Error_Code_INVALID_ARGUMENT;
        const int is_named = status == XENT_BAD_ARGUMENT;
        if (status == XENT_BAD_TARGET)
            describe_bad_target(j, i * rows + j->call.bad_row, text);
        else if (status == XENT_BAD_PROBABILITY)
            describe_bad_probability(j, text);
        else
            snprintf(text, sizeof text, "xent: %s%s%s", xent_status_text(status), is_named ? ": " : "",
                     is_named ? j->call.bad_argument : "");
        return error(j->frame, code, text);
    }
    if (j->ignored_are_nan)
        set_ignored_to_nan(j, rows);
    return NULL;
}

static XLA_FFI_Error *execute(const XLA_FFI_CallFrame *frame) {
    job j;
    j.frame = frame;
    j.call = XENT_CALL_DEFAULTS;
    j.rank = 0, j.axis = -1, j.count = 0, j.ignored_are_nan = 0;
    j.arguments = j.results = j.not_a_class = (XLA_FFI_ByteSpan){"", 0};
    const char *wrong = frame->args.struct_size == sizeof frame->args && frame->rets.struct_size == sizeof frame->rets
                            ? read_attributes(&j)
                            : "xent: this version of XLA lays out its calls otherwise";
    if (!wrong)
        wrong = find_shape(&j);
    if (!wrong)
        wrong = place_all(&j, &frame->args, j.arguments, 0);
    if (!wrong)
        wrong = place_all(&j, &frame->rets, j.results, 1);
    return wrong ? error(frame, XLA_FFI_Error_Code_INTERNAL, wrong) : run_all(&j);
}

/* Before the first call XLA asks for the handler's version, by an extension of a frame without arguments. What xla_ffi.h
 * declares is the same in all minor versions, so the answer is XLA's own: releases that do not say theirs are of version 0.1
 * (jaxlib 0.5 to 0.7) and accept no other. */
static XLA_FFI_Error *handler(XLA_FFI_CallFrame *frame) {
    for (XLA_FFI_Extension_Base *e = frame->extension_start; e; e = e->next)
        if (e->type == XLA_FFI_Extension_Metadata) {
            XLA_FFI_Metadata *const metadata = ((XLA_FFI_Metadata_Extension *)e)->metadata;
            metadata->api_version.major_version = XLA_FFI_API_MAJOR;
            metadata->api_version.minor_version = frame->api ? frame->api->api_version.minor_version : 1;
            metadata->traits = 0;
            return NULL;
        }
    return frame->stage == XLA_FFI_ExecutionStage_EXECUTE ? execute(frame) : NULL;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        "_ffi",
                                        "The handler of XLA's foreign function interface, as a capsule.",
                                        -1,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL,
                                        NULL};

PyMODINIT_FUNC PyInit__ffi(void) {
    if (xent_import() < 0)
        return NULL;
    PyObject *const module = PyModule_Create(&definition);
    if (!module)
        return NULL;
    /* XLA takes the address of the function, which C converts to that of an object only by way of an integer. */
    PyObject *const capsule = PyCapsule_New((void *)(uintptr_t)handler, NULL, NULL);
    if (!capsule || PyModule_AddObjectRef(module, "handler", capsule) < 0) {
        Py_XDECREF(capsule);
        Py_DECREF(module);
        return NULL;
    }
    Py_DECREF(capsule);
    return module;
}
