/* Elementwise losses: prepare (probabilities checked, divisor known, nothing written) → compute (blocks of elements to
 * kernels to threads).
 *
 * Elements are taken in C order of the loss's shape, in blocks of 4,096, whose sums are added from first to last: no bit
 * depends on threads, strides or layout. Kernels see runs of contiguous elements. What lies so is read and written in place;
 * the rest passes through a buffer of the workspace, a piece at a time. */
#include <string.h>

#include "axes.h"
#include "call.h"

/* An array over the axes of the loss. */
typedef struct {
    char *data;
    int ndim, size; /* bytes of an element */
    int64_t shape[MOST_AXES], steps[MOST_AXES];
} view;

static void set_view(view *a, const xent_call *call, const xent_array *array, int size) {
    a->data = array->data;
    a->size = size;
    a->ndim = xent_join_axes(call, -1, 1, &array, a->shape, &a->steps);
    if (a->ndim == 1 && a->shape[0] == 1) /* no constant */
        a->steps[0] = size;
}

static int is_constant(const view *a) { return a->ndim == 1 && a->steps[0] == 0; }
static int is_contiguous(const view *a) { return a->ndim == 1 && a->steps[0] == a->size; }

/* Where n elements from `begin` on lie next to each other, or NULL. */
static char *in_place(const view *a, int64_t begin, int64_t n) {
    const int last = a->ndim - 1;
    if (a->steps[last] != a->size || (last && begin % a->shape[last] + n > a->shape[last]))
        return NULL;
    char *at = a->data;
    for (int d = last; d >= 0; --d) {
        at += (d ? begin % a->shape[d] : begin) * a->steps[d];
        begin /= a->shape[d];
    }
    return at;
}

static void copy_run(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t n, int size) {
    if (to_step == size && from_step == size)
        memcpy(to, from, (size_t)(n * size));
    else if (size == 8)
        for (int64_t i = 0; i < n; ++i)
            memcpy(to + i * to_step, from + i * from_step, 8);
    else if (size == 4)
        for (int64_t i = 0; i < n; ++i)
            memcpy(to + i * to_step, from + i * from_step, 4);
    else
        for (int64_t i = 0; i < n; ++i)
            memcpy(to + i * to_step, from + i * from_step, 2);
}

typedef enum { GATHER, SCATTER } direction;

/* n elements from `begin` on, from the array to the buffer or back. */
static void move(const view *a, int64_t begin, int64_t n, char *buffer, direction way) {
    const int last = a->ndim - 1;
    int64_t index[MOST_AXES];
    char *at = a->data;
    for (int d = last; d >= 0; --d) {
        index[d] = d ? begin % a->shape[d] : begin;
        at += index[d] * a->steps[d];
        begin /= a->shape[d];
    }
    while (n > 0) {
        const int64_t left = a->shape[last] - index[last], run = left < n ? left : n;
        if (way == GATHER)
            copy_run(buffer, a->size, at, a->steps[last], run, a->size);
        else
            copy_run(at, a->steps[last], buffer, a->size, run, a->size);
        buffer += run * a->size;
        n -= run;
        index[last] += run;
        at += run * a->steps[last];
        for (int d = last; d > 0 && index[d] == a->shape[d]; --d) {
            at += a->steps[d - 1] - a->shape[d] * a->steps[d];
            index[d] = 0;
            ++index[d - 1];
        }
    }
}

/* What a task reads, then what it writes. */
enum { X, TARGET, WEIGHT, POS_WEIGHT, UPSTREAM, LOSS, OUT, HESS, VIEWS, INPUTS = LOSS };

typedef struct {
    const view *views[VIEWS]; /* NULL: absent */
    xent_element_plan plan;
    const xent_kernels *kernels;
    double_double *block_sums; /* or NULL */
    int non_temporal;          /* the outputs will not fit the cache */
    void **workspaces;         /* of each worker; of sums none */
} element_work;

/* What is not contiguous passes through these, a piece at a time. */
typedef struct {
    _Alignas(64) char at[XENT_PIECE * 8];
} piece_buffer;

static void take_blocks(const element_work *w, int64_t begin, int64_t end, char *const buffers[VIEWS], void *workspace) {
    const view *const *views = w->views;
    int64_t most = XENT_SUM_BLOCK; /* elements at a time */
    for (int k = 0; k < VIEWS; ++k)
        if (views[k] && !is_contiguous(views[k]))
            most = XENT_PIECE;
    for (int k = 0; k < INPUTS; ++k)
        if (views[k] && is_constant(views[k]))
            move(views[k], begin, end - begin < XENT_PIECE ? end - begin : XENT_PIECE, buffers[k], GATHER);
    double sums[XENT_MOST_LANES];
    for (int64_t at = begin; at < end; at += most) {
        const int64_t n = end - at < most ? end - at : most;
        char *place[VIEWS];
        int non_temporal = w->non_temporal;
        for (int k = 0; k < VIEWS; ++k) {
            place[k] = NULL;
            if (!views[k])
                continue;
            place[k] = in_place(views[k], at, n);
            if (!place[k]) {
                place[k] = buffers[k];
                if (k >= INPUTS)
                    non_temporal = 0;
                else if (!is_constant(views[k]))
                    move(views[k], at, n, buffers[k], GATHER);
            }
        }
        if (at % XENT_SUM_BLOCK == 0)
            memset(sums, 0, sizeof sums);
        const xent_elements elements = {
            .count = n,
            .x = place[X],
            .target = place[TARGET],
            .weight = place[WEIGHT],
            .pos_weight = place[POS_WEIGHT],
            .upstream = place[UPSTREAM],
            .loss = place[LOSS],
            .out = place[OUT],
            .hess = place[HESS],
            .sums = sums,
            .non_temporal = non_temporal,
            .workspace = workspace,
        };
        w->kernels->elements(&w->plan, &elements);
        for (int k = INPUTS; k < VIEWS; ++k)
            if (place[k] && place[k] == buffers[k])
                move(views[k], at, n, buffers[k], SCATTER);
        if (w->block_sums && ((at + n) % XENT_SUM_BLOCK == 0 || at + n == end)) {
            double_double sum = {0, 0};
            for (int lane = 0; lane < XENT_MOST_LANES; ++lane)
                dd_add(&sum, sums[lane]);
            w->block_sums[at / XENT_SUM_BLOCK] = sum;
        }
    }
}

/* Buffers for every view lie in front of the kernel's workspace. */
static void compute_blocks(void *context, int64_t begin, int64_t end, int worker) {
    const element_work *w = context;
    piece_buffer *const own = w->workspaces[worker];
    char *buffers[VIEWS];
    for (int k = 0; k < VIEWS; ++k)
        buffers[k] = own[k].at;
    take_blocks(w, begin, end, buffers, own + VIEWS);
}

/* Row losses are summed when the outputs have been written, too late for a want of memory: the one view has a buffer on the
 * stack, and the kernel converts nothing. */
static void sum_blocks(void *context, int64_t begin, int64_t end, int worker) {
    piece_buffer own;
    char *const buffers[VIEWS] = {[WEIGHT] = own.at};
    (void)worker;
    take_blocks(context, begin, end, buffers, NULL);
}

static division divide_blocks(const xent_call *call) {
    return divide(call, row_count(call), storage_bytes(call) + compute_bytes(call), XENT_SUM_BLOCK);
}

/* A frame of its own: beside the caller's views its list of workspaces would take 16 KiB. */
static __attribute__((noinline)) xent_status run_blocks(const xent_call *call, element_work *w) {
    division d = divide_blocks(call);
    void *workspaces[MOST_THREADS];
    w->workspaces = workspaces;
    d.threads = xent_take_workspaces(workspaces, d.threads, VIEWS * sizeof(piece_buffer) + w->kernels->workspace_bytes);
    if (d.threads == 0)
        return XENT_NO_MEMORY;
    const xent_status status = in_parallel(call, &d, compute_blocks, w);
    xent_return_workspaces(workspaces, d.threads);
    return status;
}

xent_status xent_sum(const xent_call *call, const xent_array *array, double_double *sum) {
    view of;
    set_view(&of, call, array, compute_bytes(call));
    element_work w = {
        .views[WEIGHT] = &of,
        .kernels = xent_kernels_for(call->dtype),
        .block_sums = block_sums(call),
        .plan = {.dtype = compute_bytes(call) == 8 ? XENT_F64 : XENT_F32, .element = XENT_ONE, .weight_scale = 1}};
    const division d = divide_blocks(call);
    const xent_status status = in_parallel(call, &d, sum_blocks, &w);
    if (status == XENT_OK)
        *sum = dd_total(block_sums(call), block_count(call));
    return status;
}

/* Element i of an array, or `otherwise` if there is none; of half types the bits. */
static double number_of(const view *a, int64_t i, double otherwise) {
    double number;
    float single;
    uint16_t bits;
    char x[8];
    if (!a)
        return otherwise;
    move(a, i, 1, x, GATHER);
    memcpy(&number, x, sizeof number);
    memcpy(&single, x, sizeof single);
    memcpy(&bits, x, sizeof bits);
    return a->size == 8 ? number : a->size == 4 ? (double)single : bits;
}

static int is_outside(double x, double most) { return x < 0 || x > most; }

/* The same of bits of a half type, which are in the order of their numbers. */
static int are_outside(unsigned bits, xent_dtype dtype, double most) {
    const unsigned infinity = dtype == XENT_F16 ? 0x7c00 : 0x7f80, one = dtype == XENT_F16 ? 0x3c00 : 0x3f80;
    const int nan = (bits & 0x7fff) > infinity;
    return !nan && (bits > 0x8000 || (bits < 0x8000 && bits > one + (most > 1)));
}

/* The first element that counts and is, or whose target is, outside [0, 1], in a block that has one, unless another thread
 * has changed it since. */
static int64_t find_outside(const element_work *w, xent_dtype dtype, int64_t begin, int64_t end) {
    const view *x = w->views[X];
    for (int64_t at = begin; at < end; ++at) {
        const double number = number_of(x, at, 0);
        const int bad = x->size == 2 ? are_outside((unsigned)number, dtype, w->plan.most) : is_outside(number, w->plan.most);
        if ((bad || is_outside(number_of(w->views[TARGET], at, 0), 1)) && number_of(w->views[WEIGHT], at, 1) != 0)
            return at;
    }
    return begin;
}

/* Probabilities and targets of elements that count. */
static xent_status check_probabilities(xent_call *call) {
    const xent_array *arrays[] = {[X] = &call->logits, [TARGET] = &call->soft, [WEIGHT] = &call->sample_weight};
    view views[WEIGHT + 1];
    element_work w = {
        .kernels = xent_kernels_for(call->dtype),
        .block_sums = block_sums(call),
        .plan = {.dtype = call->dtype,
                 .element = XENT_OUTSIDE,
                 .weight_scale = 1,
                 .mix_keep = 1,
                 .most = most_probability(call)},
    };
    for (int k = X; k <= WEIGHT; ++k)
        if (arrays[k]->data) {
            set_view(&views[k], call, arrays[k], k == X ? storage_bytes(call) : compute_bytes(call));
            w.views[k] = &views[k];
        }
    const xent_status status = run_blocks(call, &w);
    if (status != XENT_OK)
        return status;
    for (int64_t i = 0; i < block_count(call); ++i)
        if (w.block_sums[i].high != 0) {
            const int64_t begin = i * XENT_SUM_BLOCK, left = row_count(call) - begin;
            call->bad_row = find_outside(&w, call->dtype, begin, begin + (left < XENT_SUM_BLOCK ? left : XENT_SUM_BLOCK));
            return XENT_BAD_PROBABILITY;
        }
    return XENT_OK;
}

xent_status xent_prepare_elements(xent_call *call) {
    const int64_t n = row_count(call);
    call->divisor = call->reduction != XENT_BATCH_MEAN ? (double)n : call->ndim ? (double)call->shape[0] : 1;
    if (traits_of(call)->input == OF_PROBABILITIES) {
        const xent_status status = check_probabilities(call);
        if (status != XENT_OK)
            return status;
    }
    if (call->sample_weight.data && call->reduction != XENT_BATCH_MEAN) {
        double_double sum;
        const xent_status status = xent_sum(call, &call->sample_weight, &sum);
        if (status != XENT_OK)
            return status;
        call->divisor = dd_value(sum);
    }
    return XENT_OK;
}

/* Whether an array holds an infinity, each of its elements looked at once however it is broadcast. */
static int has_infinity(const xent_call *call, const xent_array *array) {
    view a;
    set_view(&a, call, array, compute_bytes(call));
    for (int d = 0; d < a.ndim; ++d)
        a.shape[d] = a.steps[d] ? a.shape[d] : 1;
    int64_t n = 1;
    for (int d = 0; d < a.ndim; ++d)
        n *= a.shape[d];
    enum { AT_ONCE = 256 };
    union {
        uint64_t f64[AT_ONCE];
        uint32_t f32[AT_ONCE];
    } bits;
    for (int64_t at = 0; at < n; at += AT_ONCE) {
        const int64_t count = n - at < AT_ONCE ? n - at : AT_ONCE;
        int found = 0;
        move(&a, at, count, (char *)&bits, GATHER);
        if (a.size == 8)
            for (int64_t i = 0; i < count; ++i)
                found |= (bits.f64[i] & INT64_MAX) == 0x7ff0000000000000;
        else
            for (int64_t i = 0; i < count; ++i)
                found |= (bits.f32[i] & INT32_MAX) == 0x7f800000;
        if (found)
            return 1;
    }
    return 0;
}

static xent_element element_of(const xent_call *call) {
    const xent_element element = (xent_element)traits_of(call)->head;
    if (element == XENT_BINARY && call->eps > 0)
        return XENT_BINARY_CLIPPED;
    if (call->pos_weight.data && has_infinity(call, &call->pos_weight))
        return XENT_BINARY_UNBOUNDED;
    return element;
}

xent_status xent_compute_elements(const xent_call *call) {
    const int storage = storage_bytes(call), compute = compute_bytes(call);
    const double e = call->label_smoothing;
    element_work w = {
        .plan =
            {
                .dtype = call->dtype,
                .element = element_of(call),
                .derivatives = call->hess.data  ? 2
                               : call->out.data ? 1
                                                : 0,
                .mix_keep = 1 - e,
                .mix_add = e / 2,
                .eps = call->eps,
                .alpha = call->alpha,
                .gamma = call->strength,
                .gamma_neg = call->negative_strength,
                .clip = call->clip,
                .log_target = call->log_target != 0,
                .scale = call->reduction == XENT_NONE ? 1 : call->grad_scale / weight_scale(call),
                .weight_scale = weight_scale(call),
            },
        .kernels = xent_kernels_for(call->dtype),
        .block_sums = call->reduction == XENT_NONE ? NULL : block_sums(call),
    };
    const struct {
        const xent_array *array;
        int size;
    } arrays[VIEWS] = {{&call->logits, storage},     {&call->soft, compute},        {&call->sample_weight, compute},
                       {&call->pos_weight, compute}, {&call->grad_output, compute}, {&call->loss, compute},
                       {&call->out, storage},        {&call->hess, storage}};
    view views[VIEWS];
    double written = 0;
    for (int k = 0; k < VIEWS; ++k) {
        if (!arrays[k].array->data)
            continue;
        set_view(&views[k], call, arrays[k].array, arrays[k].size);
        w.views[k] = &views[k];
        if (k >= INPUTS)
            written += (double)row_count(call) * arrays[k].size;
    }
    w.non_temporal = use_streaming_stores(call, written);
    if (is_mean(call))
        w.plan.scale /= call->divisor;
    if (call->reduction == XENT_MEAN && call->divisor == 0) { /* nothing counts */
        static const double nothing = 0;
        w.plan.scale = 0;
        views[WEIGHT] = (view){(char *)&nothing, 1, compute, {row_count(call)}, {0}};
        w.views[WEIGHT] = &views[WEIGHT];
    }
    return run_blocks(call, &w);
}
