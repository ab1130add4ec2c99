/* A target of libFuzzer: its bytes are the choices that make a call. Any operation, dtype, shape, strides and options, in
 * their domain or not; every array is a heap block that ends where its last element does. Of some calls a field or two are
 * then given any value that claims no memory beyond these.
 *
 * Each instruction set must return and write the same bits as the scalar one, whatever the number of threads and whether
 * the steps of the call are taken one by one. Nothing else may be written: neither inputs, nor gaps between elements, nor
 * outputs of a call that is refused, which names a field then. What is not refused must be what naive.h makes of it.
 * Everything else is for the sanitizers to find. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "calls.h"
#include "index.h"
#include "naive.h"

enum { AXES = 64, MOST_NUMBERS = 1 << 16, UNTOUCHED = 0x55 };

/* Choices: the input's bytes, then zeros. */
static const uint8_t *choices;
static size_t left;
static int below(int n) {
    unsigned choice = 0;
    for (int most = n - 1; most > 0 && left > 0; most >>= 8, --left)
        choice = choice << 8 | *choices++;
    return (int)(choice % (unsigned)n);
}
static int one_in(int n) { return below(n) == n - 1; }

/* Usually what users pass. */
static double option(double usual, double other) {
    static const double any[] = {0,      -0.0,     1,       0.5, -1,       1e-3,      30,  -30,
                                 1e-300, 4.9e-324, DBL_MAX, 1e9, INFINITY, -INFINITY, NAN, 1.0000001};
    const int which = below(24);
    return which < 12 ? usual : which < 20 ? other : any[below(sizeof any / sizeof *any)];
}

enum { LOGITS, INDEX, SOFT, CLASS_WEIGHT, WEIGHT, POS_WEIGHT, UPSTREAM, LOSS, LSE, OUT, HESS, SUMS, CLASS_BIAS, ARRAYS };

/* The axes of the loss, then one of classes, where the array has it, or else of a single element. */
typedef struct {
    format type;
    int ndim;
    const int64_t *shape;
    int64_t strides[AXES + 1], count, bytes;
    char *room, *first;      /* its memory; its first element */
    char *pristine, *wanted; /* the memory before the call, and after that of the scalar kernels */
} array;

static array arrays[ARRAYS];
static int64_t shape[AXES + 1], shape_of_rows[AXES + 1], shape_of_sums;

static void release(void) {
    for (int k = 0; k < ARRAYS; ++k) {
        free(arrays[k].room);
        free(arrays[k].pristine);
        free(arrays[k].wanted);
        arrays[k] = (array){0};
    }
}

/* Lays out an array: `inner` is its innermost axis, the others follow in any order, next to each other or some bytes apart,
 * forward or backward; those of inputs may be broadcast. */
static array *lay(int which, format type, int ndim, const int64_t *of, int inner) {
    array *a = &arrays[which];
    *a = (array){.type = type, .ndim = ndim, .shape = of, .count = 1};
    int axes[AXES + 1];
    for (int d = 0; d <= ndim; ++d) {
        axes[d] = d;
        a->count *= of[d];
    }
    axes[0] = inner, axes[inner] = 0;
    for (int d = ndim; d > 1; --d) {
        const int other = 1 + below(d), axis = axes[d];
        axes[d] = axes[other], axes[other] = axis;
    }
    const int64_t begin = which != CLASS_WEIGHT && which != CLASS_BIAS && which != SUMS && one_in(4) ? below(64) : 0;
    int64_t step = type.bytes, back = 0, end = type.bytes;
    for (int n = 0; n <= ndim; ++n) {
        const int axis = axes[n], habit = axis < ndim && of[axis] > 1 ? below(16) : 0;
        const int flipped = habit == 1 && (n > 0 || one_in(4)), broadcast = habit == 2 && which < LOSS;
        a->strides[axis] = broadcast ? 0 : flipped ? -step : step;
        if (broadcast)
            continue;
        *(flipped ? &back : &end) += (of[axis] - 1) * step;
        step *= of[axis];
        step += habit == 3 ? type.bytes * below(20) : habit == 4 ? below(20) : 0;
    }
    a->bytes = a->count ? begin + back + end : 0;
    a->room = malloc((size_t)a->bytes);
    a->pristine = malloc((size_t)a->bytes);
    a->wanted = malloc((size_t)a->bytes);
    a->first = a->room + (a->count ? begin + back : 0);
    memset(a->room, UNTOUCHED, (size_t)a->bytes);
    return a;
}

/* Goes through the elements in C order: the place of the next one, or NULL. */
typedef struct {
    int64_t index[AXES + 1], done;
} walk;
static char *next(walk *w, const array *a) {
    if (w->done++ == a->count)
        return NULL;
    char *at = a->first;
    for (int d = 0; d <= a->ndim; ++d)
        at += w->index[d] * a->strides[d];
    for (int d = a->ndim; d >= 0 && ++w->index[d] == a->shape[d]; --d)
        w->index[d] = 0;
    return at;
}

static void fill(const array *a, kind of) {
    const int every = below(2), raw = one_in(8), same = below(24), row = (int)a->shape[a->ndim];
    int habit = same;
    walk w = {0};
    for (char *at; (at = next(&w, a));) {
        const int64_t k = (w.done - 1) % row;
        if (k == 0 && !every)
            habit = (int)(draw() >> 32) % 24;
        put_bits(at, a->type.bytes, raw ? draw() >> (64 - 8 * a->type.bytes) : number(a->type, of, habit, k));
    }
}

static void fill_indices(const array *a, const xent_call *call) {
    const uint64_t classes = call->classes ? (uint64_t)call->classes : 1;
    const int bad = one_in(8), ignored = below(2);
    walk w = {0};
    for (char *at; (at = next(&w, a));) {
        const uint64_t random = draw(), y = (random >> 8) % classes;
        put_bits(at, a->type.bytes,
                 bad && random % 29 == 0                          ? random >> 8
                 : call->has_ignore && ignored && random % 5 == 0 ? (uint64_t)call->ignore_index
                                                                  : y);
    }
}

static void draw_shape(xent_call *call, int elementwise) {
    static const int around[] = {104, 152, 256, 1024, 2048, 16384};
    call->ndim = one_in(32) ? AXES : below(5);
    call->classes = elementwise ? 1 : one_in(4) ? below(300) : one_in(16) ? around[below(6)] - 2 + below(5) : 1 + below(40);
    int64_t numbers = call->classes ? call->classes : 1;
    for (int d = 0; d < call->ndim; ++d) {
        const int n = one_in(16) ? below(3) : one_in(8) ? below(elementwise ? 9000 : 200) : 1 + below(5);
        shape[d] = numbers * n <= MOST_NUMBERS && d < 6 ? n : 1;
        numbers *= shape[d] ? shape[d] : 1;
        shape_of_rows[d] = shape[d];
    }
    shape[call->ndim] = call->classes, shape_of_rows[call->ndim] = 1;
    call->shape = call->ndim ? shape : NULL;
}

/* Where a call has the array of a number; those without strides are elsewhere. */
static xent_array *given(xent_call *call, int which) {
    xent_array *const all[ARRAYS] = {&call->logits,
                                     &call->index,
                                     &call->soft,
                                     NULL,
                                     &call->sample_weight,
                                     &call->pos_weight,
                                     &call->grad_output,
                                     &call->loss,
                                     &call->lse,
                                     &call->out,
                                     &call->hess,
                                     NULL,
                                     NULL};
    return all[which];
}

static array *give(xent_call *call, int which, format type, const int64_t *of, int inner) {
    array *a = lay(which, type, call->ndim, of, inner);
    *given(call, which) = (xent_array){a->first, call->ndim ? a->strides : NULL};
    return a;
}

static int overlaps_itself(const array *a) {
    for (int d = 0; d <= a->ndim; ++d)
        if (a->strides[d] == 0 && a->shape[d] > 1)
            return 1;
    return 0;
}

static xent_call draw_call(const loss *l) {
    xent_call call = XENT_CALL_DEFAULTS;
    const int elementwise = is_elementwise_loss(l), is_loss = l->family != SOFTMAX_FAMILY;
    const int distils = l->operation == XENT_DISTILLATION_LOSS;
    const int probabilities = l->input == OF_PROBABILITIES;
    call.operation = l->operation;
    call.dtype = (xent_dtype)below(4);
    const format stored = formats[call.dtype], computed = formats[call.dtype == XENT_F64 ? XENT_F64 : XENT_F32];
    draw_shape(&call, elementwise);
    call.reduction = is_loss ? (xent_reduction)below(elementwise ? 4 : 3) : XENT_NONE;
    call.grad_scale = call.reduction == XENT_NONE ? 1 : option(1, 0.6);
    call.strength = l->strength ? option(2, 0.5) : 0;
    call.alpha = l->alpha ? option(-1, 0.25) : -1;
    call.negative_strength = l->clip ? option(4, 0.5) : 0;
    call.clip = l->clip ? option(0, 0.05) : 0;
    call.log_target = l->operation == XENT_KL_DIV && one_in(2);
    call.label_smoothing = l->smoothing ? option(0, 0.1) : 0;
    call.z_loss = l->z_loss ? option(0, 1e-3) : 0;
    call.softcap = l->softcap ? option(0, 30) : 0;
    call.temperature = l->temperature ? option(1, 2.7) : 1;
    call.eps = l->eps ? option(0, 1e-3) : 0;
    seed = (uint64_t)below(256), drawn = 0;

    /* One axis is contiguous in all arrays with classes, unless the call is to be refused. */
    const int classes = call.ndim, inner = one_in(2) ? below(classes + 1) : classes, any = elementwise || one_in(32);
#define OF_CLASSES(WHICH, TYPE) give(&call, WHICH, TYPE, shape, any ? below(classes + 1) : inner)
#define OF_ROWS(WHICH, TYPE) give(&call, WHICH, TYPE, shape_of_rows, below(classes + 1))
    const array *x = OF_CLASSES(LOGITS, stored);
    fill(x, probabilities && !one_in(8) ? PROBABILITIES : ANY);
    if (l->indexed && (!l->soft || one_in(2))) {
        call.index_type = (xent_dtype)(XENT_BOOL + below(9));
        call.has_ignore = below(2);
        call.ignore_index = one_in(2) ? -100 : below(300);
        fill_indices(OF_ROWS(INDEX, ((format){index_types[call.index_type].bytes, 0, 0})), &call);
    } else if (l->soft)
        fill(OF_CLASSES(SOFT, distils ? stored : computed), distils || call.log_target ? ANY : PROBABILITIES);
    if (l->indexed && one_in(3)) {
        const array *a = lay(CLASS_WEIGHT, computed, 0, shape + classes, 0);
        fill(a, WEIGHTS);
        call.class_weight = a->first;
    }
    if (l->bias && one_in(3)) {
        const array *a = lay(CLASS_BIAS, computed, 0, shape + classes, 0);
        fill(a, ANY);
        call.class_bias = a->first;
    }
    if (is_loss && one_in(3))
        fill(OF_ROWS(WEIGHT, computed), WEIGHTS);
    if (l->operation == XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS && one_in(3))
        fill(OF_ROWS(POS_WEIGHT, computed), WEIGHTS);
    if (is_loss && call.reduction == XENT_NONE && one_in(2))
        fill(OF_ROWS(UPSTREAM, computed), ANY);
    if (is_loss && (call.reduction == XENT_NONE || one_in(2)))
        OF_ROWS(LOSS, computed);
    if (l->lse && (!is_loss || one_in(2)))
        OF_ROWS(LSE, computed);
    if (l->entropy && call.index.data && call.label_smoothing == 0)
        call.entropy_weight = option(0, 0.3);
    if (l->out && one_in(4) && !overlaps_itself(x))
        call.out = call.logits;
    else if (l->out && (!is_loss || !one_in(4)))
        OF_CLASSES(OUT, stored);
    if (l->hess && call.out.data && call.entropy_weight == 0 && one_in(2))
        OF_CLASSES(HESS, stored);
    if (elementwise && one_in(2)) {
        int64_t elements = 1;
        for (int d = 0; d < call.ndim; ++d)
            elements *= shape[d];
        shape_of_sums = (elements + 4095) / 4096 * 2;
        call.block_sums = (double *)(void *)lay(SUMS, formats[XENT_F64], 0, &shape_of_sums, 0)->first;
    }
    call.logits_class_step = arrays[LOGITS].strides[classes];
    call.soft_class_step = arrays[SOFT].strides[classes];
    call.out_class_step = call.out.data == call.logits.data ? call.logits_class_step : arrays[OUT].strides[classes];
    call.hess_class_step = arrays[HESS].strides[classes];
    for (int k = 0; k < ARRAYS; ++k)
        if (arrays[k].room)
            memcpy(arrays[k].pristine, arrays[k].room, (size_t)arrays[k].bytes);
    return call;
}

/* Any value of a field, but for sizes and strides that reach beyond the arrays there are. */
static void change_field(xent_call *call) {
    static const int64_t sizes[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX / 2, 0};
    static const int64_t no_strides[AXES] = {0}, near[AXES] = {1, 1, 1, 1}, far[AXES] = {INT64_MAX, INT64_MIN, INT64_MAX};
    const int same_bytes = call->dtype == XENT_F32 || call->dtype == XENT_F64;
    static int64_t other_shape[AXES];
    static const int numbers[] = {-1, 0, 1, 2, 3, 4, 5, 12, 13, 64, 65, INT32_MAX, INT32_MIN};
    const int number = numbers[below(sizeof numbers / sizeof *numbers)];
    const double real = one_in(2) ? option(0, 1) : option(-1, 2);
    const int is_output = below(2);
    xent_array *const array = given(call, is_output ? LOSS + below(4) : below(UPSTREAM + 1));
    switch (below(26)) {
    case 0:
        call->size = (size_t)(one_in(2) ? number : below(sizeof *call + 32));
        break;
    case 1:
        if (same_bytes || !xent_operation_name((xent_operation)number))
            call->operation = (xent_operation)number;
        break;
    case 2:
        call->dtype = (xent_dtype)(number < 0 || number > XENT_BF16 ? number : call->dtype);
        break;
    case 3:
        call->ndim = number > 0 && number <= AXES ? call->ndim : number;
        break;
    case 4:
        call->shape = NULL;
        break;
    case 5:
        memcpy(other_shape, shape, sizeof other_shape);
        other_shape[below(4)] = sizes[below(5)];
        call->shape = other_shape;
        break;
    case 6:
        call->classes = sizes[below(5)];
        break;
    case 7:
        *(one_in(2) ? &call->logits_class_step : &call->out_class_step) = sizes[1 + below(2)];
        break;
    case 8:
        *(one_in(2) ? &call->soft_class_step : &call->hess_class_step) = sizes[1 + below(2)];
        break;
    case 9:
        call->index_type = (xent_dtype)(number < 0 || number > XENT_U64 ? number : XENT_F32 + number % 4);
        break;
    case 10:
        if (array)
            array->data = NULL;
        break;
    case 11:
        if (array)
            array->strides = NULL;
        break;
    case 12:
        if (array)
            array->strides = one_in(3) ? far : is_output && one_in(2) ? near : no_strides;
        break;
    case 13: /* one array in two places */
        if (is_output)
            *array = *given(call, below(2) ? LOGITS : OUT);
        break;
    case 14:
        call->class_weight = one_in(2) || !call->class_weight ? NULL : (const char *)call->class_weight + 1;
        call->class_bias = one_in(2) || !call->class_bias ? NULL : (const char *)call->class_bias + 1;
        break;
    case 15:
        call->block_sums = one_in(2) || !call->block_sums ? NULL : (double *)(void *)((char *)call->block_sums + 1);
        break;
    case 16:
        call->has_ignore = number;
        break;
    case 17:
        call->log_target = number;
        break;
    case 18:
        call->reduction = (xent_reduction)number;
        break;
    case 19:
        call->threads = number;
        break;
    default: {
        double *const reals[] = {&call->label_smoothing,   &call->strength,    &call->eps,   &call->z_loss,
                                 &call->softcap,           &call->temperature, &call->alpha, &call->grad_scale,
                                 &call->negative_strength, &call->clip};
        *reals[below(10)] = real;
    }
    }
}

static xent_status run(xent_call *call, int in_steps) {
    if (!in_steps)
        return xent_run(call);
    xent_status status = xent_prepare(call);
    if (status == XENT_OK)
        status = xent_compute(call);
    return status == XENT_OK && call->reduction != XENT_NONE ? xent_finish(call) : status;
}

/* Numbers, with one NaN for all. */
static int same(format f, const void *a, const void *b) {
    return digested_numbers(0, f, a, 1) == digested_numbers(0, f, b, 1);
}

/* The results of the scalar kernels. */
static xent_call wanted;
static xent_status wanted_status;

static int says_the_same(const xent_call *call, xent_status status) {
    if (status != wanted_status)
        return 0;
    if (status == XENT_BAD_TARGET || status == XENT_BAD_PROBABILITY)
        return call->bad_row == wanted.bad_row;
    const format f = formats[XENT_F64];
    return status != XENT_OK || call->reduction == XENT_NONE ||
           (same(f, &call->divisor, &wanted.divisor) && same(f, &call->total, &wanted.total) &&
            same(f, &call->result, &wanted.result));
}

static void print_number(const char *text, format f, const char *at) {
    fprintf(stderr, "%s0x%0*" PRIx64, text, 2 * f.bytes, bits_at(at, f.bytes));
}

/* Runs a call: keeps the results of the scalar kernels, compares those of others with them, and restores the arrays. */
static int check_call(xent_call call, int is_scalar, int in_steps) {
    const xent_status status = run(&call, in_steps);
    if (is_scalar)
        wanted = call, wanted_status = status;
    int good = says_the_same(&call, status);
    if (call.size >= offsetof(xent_call, operation) && (status == XENT_BAD_ARGUMENT) != (call.bad_argument != NULL)) {
        fprintf(stderr, "names the field %s\n", call.bad_argument ? call.bad_argument : "NULL");
        good = 0;
    }
    if (good && status == XENT_OK && call.size == sizeof call && !naive_judges(&call)) {
        fprintf(stderr, "not what it is by definition\n");
        good = 0;
    }
    if (!good)
        fprintf(stderr, "status %d (%d), bad row %" PRId64 " (%" PRId64 "), %a / %a -> %a (%a / %a -> %a)\n", status,
                wanted_status, call.bad_row, wanted.bad_row, call.total, call.divisor, call.result, wanted.total,
                wanted.divisor, wanted.result);
    for (int k = 0; k < ARRAYS; ++k) {
        const array *a = &arrays[k];
        const int is_output = (k >= LOSS && k <= SUMS) || (k == LOGITS && call.out.data == call.logits.data);
        walk w = {0};
        for (char *at; a->room && is_output && (status == XENT_OK || k == SUMS) && (at = next(&w, a));) {
            const int64_t offset = at - a->room;
            if (is_scalar)
                memcpy(a->wanted + offset, at, (size_t)a->type.bytes);
            else if (k != SUMS && good && !same(a->type, at, a->wanted + offset)) {
                fprintf(stderr, "array %d, element %" PRId64, k, w.done - 1);
                print_number(": ", a->type, at);
                print_number(", should be ", a->type, a->wanted + offset);
                fprintf(stderr, "\n");
                good = 0;
            }
            memcpy(at, a->pristine + offset, (size_t)a->type.bytes);
        }
        if (a->room && memcmp(a->room, a->pristine, (size_t)a->bytes)) {
            fprintf(stderr, "array %d is written to where it is not to be (status %d)\n", k, status);
            good = 0;
        }
    }
    return good;
}

static void describe(const loss *l, const xent_call *call) {
    fprintf(stderr, "%s (%d), dtype %d, reduction %d, shape (", l->name, call->operation, call->dtype, call->reduction);
    for (int d = 0; d < call->ndim && d < AXES; ++d)
        fprintf(stderr, "%" PRId64 ", ", shape[d]);
    fprintf(stderr, "), classes %" PRId64 "\n", call->classes);
    fprintf(stderr,
            "smoothing %g, strength %g, eps %g, z_loss %g, softcap %g, temperature %g, alpha %g, scale %g, log %d\n"
            "negative strength %g, clip %g, entropy weight %g\n",
            call->label_smoothing, call->strength, call->eps, call->z_loss, call->softcap, call->temperature, call->alpha,
            call->grad_scale, call->log_target, call->negative_strength, call->clip, call->entropy_weight);
    fprintf(stderr, "index type %d, ignore %d %" PRId64 ", arrays", call->index_type, call->has_ignore, call->ignore_index);
    for (int k = 0; k < ARRAYS; ++k)
        if (arrays[k].room)
            fprintf(stderr, " %d", k);
    fprintf(stderr, "\n");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    choices = data, left = size;
    const loss *l = &losses[below(sizeof losses / sizeof *losses)];
    xent_call call = draw_call(l);
    const int changes = one_in(3) ? 1 + below(2) : 0;
    for (int i = 0; i < changes; ++i)
        change_field(&call);
    const int threads = 1 + below(3), steps = below(2), sums = call.reduction != XENT_NONE;
    const int in_steps = steps && !changes && xent_layout_supported(&call) &&
                         (!sums || (is_elementwise_loss(l) ? !!call.block_sums : !!call.loss.data));
    call.threads = call.threads < 0 ? call.threads : 1;
    xent_use_isa("scalar");
    int good = check_call(call, 1, 0);
    call.threads = call.threads < 0 ? call.threads : threads;
    for (int i = 0; xent_isa_name(i); ++i) {
        if (!xent_use_isa(xent_isa_name(i)))
            continue;
        good = good && check_call(call, 0, in_steps);
        if (!good) {
            fprintf(stderr, "%s, %d threads, %s: ", xent_isa(), threads, in_steps ? "in steps" : "in one");
            describe(l, &call);
            abort();
        }
    }
    release();
    return 0;
}
