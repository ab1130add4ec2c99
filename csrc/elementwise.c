/* Elementwise losses: prepare (probabilities checked, divisor known, nothing written) → compute (blocks of elements to
 * kernels to threads).
 *
 * Elements are taken in C order of the loss's shape, in blocks of 4,096, whose sums are added from first to last: no bit
 * depends on threads, strides or layout. Kernels see runs of contiguous elements. What lies so is read and written in place;
 * the rest passes through a buffer on the stack, a piece at a time. */
#include <string.h>

#include "call.h"

int xent_is_elementwise(const xent_call *call) {
    return call->operation >= XENT_BINARY_CROSS_ENTROPY && call->operation <= XENT_KL_DIV;
}

/* An array over the axes of the loss, neighbouring axes joined where its steps allow. */
typedef struct {
    char *data;
    int ndim, size; /* bytes of an element */
    int64_t shape[MOST_AXES], steps[MOST_AXES];
} view;

static void join(view *a, const xent_call *call, const xent_array *array, int size) {
    a->data = array->data;
    a->size = size;
    a->ndim = 0;
    for (int d = 0; a->data && d < call->ndim; ++d) {
        const int64_t n = call->shape[d], step = array->strides[d];
        if (n == 1)
            continue;
        if (a->ndim && a->steps[a->ndim - 1] == step * n) {
            a->shape[a->ndim - 1] *= n;
            a->steps[a->ndim - 1] = step;
        } else {
            a->shape[a->ndim] = n;
            a->steps[a->ndim++] = step;
        }
    }
    if (a->ndim == 0)
        a->ndim = 1, a->shape[0] = 1, a->steps[0] = size;
}

static int is_constant(const view *a) { return a->data && a->ndim == 1 && a->steps[0] == 0; }

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
    view views[VIEWS];
    xent_element_plan plan;
    const xent_kernels *kernels;
    exact *block_sums; /* or NULL */
    int non_temporal;  /* the outputs will not fit the cache */
} element_work;

static void compute_blocks(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const element_work *w = context;
    const view *views = w->views;
    _Alignas(64) char buffers[VIEWS][XENT_PIECE * 8];
    for (int k = 0; k < INPUTS; ++k)
        if (is_constant(&views[k]))
            move(&views[k], begin, end - begin < XENT_PIECE ? end - begin : XENT_PIECE, buffers[k], GATHER);
    double sums[XENT_MOST_LANES];
    for (int64_t at = begin; at < end; at += XENT_PIECE) {
        const int64_t n = end - at < XENT_PIECE ? end - at : XENT_PIECE;
        char *place[VIEWS];
        int non_temporal = w->non_temporal;
        for (int k = 0; k < VIEWS; ++k) {
            place[k] = NULL;
            if (!views[k].data)
                continue;
            place[k] = in_place(&views[k], at, n);
            if (!place[k]) {
                place[k] = buffers[k];
                if (k >= INPUTS)
                    non_temporal = 0;
                else if (!is_constant(&views[k]))
                    move(&views[k], at, n, buffers[k], GATHER);
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
        };
        w->kernels->elements(&w->plan, &elements);
        for (int k = INPUTS; k < VIEWS; ++k)
            if (place[k] == buffers[k])
                move(&views[k], at, n, buffers[k], SCATTER);
        if (w->block_sums && ((at + n) % XENT_SUM_BLOCK == 0 || at + n == end)) {
            exact sum = {0, 0};
            for (int lane = 0; lane < XENT_MOST_LANES; ++lane)
                add(&sum, sums[lane]);
            w->block_sums[at / XENT_SUM_BLOCK] = sum;
        }
    }
}

static int in_parallel(const xent_call *call, element_work *w) {
    return in_pieces(call, row_count(call), storage_bytes(call) + compute_bytes(call), XENT_SUM_BLOCK, compute_blocks, w);
}

xent_status xent_sum(const xent_call *call, const xent_array *array, exact *sum) {
    element_work w = {.kernels = xent_kernels_for(call->dtype), .block_sums = sums_of(call), .plan.element = XENT_ONE};
    join(&w.views[WEIGHT], call, array, compute_bytes(call));
    if (in_parallel(call, &w))
        return XENT_INTERRUPTED;
    *sum = add_blocks(call);
    return XENT_OK;
}

/* The first element that is outside [0, 1], in a block that has one. */
static int64_t find_outside(element_work *w, int64_t begin, int64_t n) {
    char x[XENT_PIECE * 8], marks[XENT_PIECE * 8];
    for (int64_t at = begin;; at += XENT_PIECE) {
        const int64_t count = n - at < XENT_PIECE ? n - at : XENT_PIECE;
        move(&w->views[X], at, count, x, GATHER);
        const xent_elements elements = {.count = count, .x = x, .loss = marks};
        w->kernels->elements(&w->plan, &elements);
        const int bytes = w->views[X].size == 8 ? 8 : 4;
        static const char unmarked[8] = {0};
        for (int64_t i = 0; i < count; ++i)
            if (memcmp(marks + i * bytes, unmarked, (size_t)bytes))
                return at + i;
    }
}

xent_status xent_prepare_elements(xent_call *call) {
    const int64_t n = row_count(call);
    call->divisor = call->reduction != XENT_BATCH_MEAN ? (double)n : call->ndim ? (double)call->shape[0] : 1;
    if (call->operation == XENT_BINARY_CROSS_ENTROPY) {
        element_work w = {
            .kernels = xent_kernels_for(call->dtype), .block_sums = sums_of(call), .plan.element = XENT_OUTSIDE};
        join(&w.views[X], call, &call->logits, storage_bytes(call));
        if (in_parallel(call, &w))
            return XENT_INTERRUPTED;
        for (int64_t i = 0; i < block_count(call); ++i)
            if (w.block_sums[i].high != 0) {
                call->bad_row = find_outside(&w, i * XENT_SUM_BLOCK, n);
                return XENT_BAD_PROBABILITY;
            }
    }
    if (call->sample_weight.data && call->reduction != XENT_BATCH_MEAN) {
        exact sum;
        if (xent_sum(call, &call->sample_weight, &sum) != XENT_OK)
            return XENT_INTERRUPTED;
        call->divisor = value(sum);
    }
    return XENT_OK;
}

xent_status xent_compute_elements(const xent_call *call) {
    static const xent_element elements[] = {XENT_BINARY, XENT_BINARY_LOGITS, XENT_SIGMOID_FOCAL, XENT_KL};
    const int storage = storage_bytes(call), compute = compute_bytes(call);
    const double e = call->label_smoothing;
    element_work w = {
        .plan =
            {
                .element = elements[call->operation - XENT_BINARY_CROSS_ENTROPY],
                .derivatives = call->hess.data  ? 2
                               : call->out.data ? 1
                                                : 0,
                .mix_keep = 1 - e,
                .mix_add = e / 2,
                .eps = call->eps,
                .alpha = call->alpha,
                .gamma = call->strength,
                .log_target = call->log_target,
                .scale = call->reduction == XENT_NONE ? 1 : call->grad_scale,
            },
        .kernels = xent_kernels_for(call->dtype),
        .block_sums = call->reduction == XENT_NONE ? NULL : sums_of(call),
    };
    const struct {
        const xent_array *array;
        int size;
    } arrays[VIEWS] = {{&call->logits, storage},     {&call->soft, compute},        {&call->sample_weight, compute},
                       {&call->pos_weight, compute}, {&call->grad_output, compute}, {&call->loss, compute},
                       {&call->out, storage},        {&call->hess, storage}};
    double written = 0;
    for (int k = 0; k < VIEWS; ++k) {
        join(&w.views[k], call, arrays[k].array, arrays[k].size);
        if (k >= INPUTS && w.views[k].data)
            written += (double)row_count(call) * arrays[k].size;
    }
    w.non_temporal = outgrows_cache(call, written);
    if (call->reduction >= XENT_MEAN)
        w.plan.scale /= call->divisor;
    if (call->reduction == XENT_MEAN && call->divisor == 0) { /* nothing counts */
        static const double nothing = 0;
        w.plan.scale = 0;
        w.views[WEIGHT] = (view){(char *)&nothing, 1, compute, {row_count(call)}, {0}};
    }
    return in_parallel(call, &w) ? XENT_INTERRUPTED : XENT_OK;
}
