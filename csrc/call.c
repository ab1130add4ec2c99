/* A call: prepare (class indices checked, divisor known, nothing written) → compute (rows to kernels to threads) → finish
 * (the sum, in one fixed order). */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "call.h"
#include "environment.h"
#include "index.h"

enum { STACK_CHUNKS = 64 };

/* The losses, which have targets and a mean, as against the softmax family. */
static int is_loss(const xent_call *call) { return call->operation <= XENT_ENTROPY; }

static int soft_bytes(const xent_call *call) {
    return call->operation == XENT_DISTILLATION_LOSS ? storage_bytes(call) : compute_bytes(call);
}

static double load_number(const char *p, int bytes) {
    if (bytes == 8) {
        double x;
        memcpy(&x, p, sizeof x);
        return x;
    }
    float x;
    memcpy(&x, p, sizeof x);
    return (double)x;
}

/* The arrays of a call over one set of axes, those of the loss: axes of size 1 dropped, neighbours joined wherever every
 * array allows it, so that what is left is mostly one run of rows. */
enum { LOGITS, INDEX, SOFT, WEIGHT, UPSTREAM, LOSS, LSE, OUT, HESS, ARRAYS };

typedef struct {
    int ndim;
    int64_t classes, shape[MOST_AXES];
    int64_t steps[ARRAYS][MOST_AXES];
    char *data[ARRAYS];
} axes;

/* `lanes` is the axis to go last, the rest in C order; -1: all in C order. */
static void join_axes(axes *a, const xent_call *call, int lanes) {
    const xent_array *arrays[ARRAYS] = {&call->logits, &call->index, &call->soft, &call->sample_weight, &call->grad_output,
                                        &call->loss,   &call->lse,   &call->out,  &call->hess};
    a->ndim = 0;
    a->classes = call->classes;
    for (int k = 0; k < ARRAYS; ++k)
        a->data[k] = arrays[k]->data;
    for (int i = 0; i < call->ndim; ++i) {
        const int d = lanes < 0 || i < lanes ? i : i < call->ndim - 1 ? i + 1 : lanes;
        if (call->shape[d] == 1)
            continue;
        int joins = a->ndim > 0;
        for (int k = 0; k < ARRAYS && joins; ++k)
            joins = !a->data[k] || a->steps[k][a->ndim - 1] == arrays[k]->strides[d] * call->shape[d];
        const int at = joins ? a->ndim - 1 : a->ndim++;
        a->shape[at] = joins ? a->shape[at] * call->shape[d] : call->shape[d];
        for (int k = 0; k < ARRAYS; ++k)
            a->steps[k][at] = a->data[k] ? arrays[k]->strides[d] : 0;
    }
    if (a->ndim == 0) {
        a->ndim = 1;
        a->shape[0] = 1;
        for (int k = 0; k < ARRAYS; ++k)
            a->steps[k][0] = 0;
    }
}

/* The run of rows from row `begin`, at constant steps, of at most `end - begin` rows. */
static xent_rows run_from(const axes *a, int64_t begin, int64_t end) {
    int64_t offsets[ARRAYS] = {0}, left = begin;
    const int last = a->ndim - 1;
    for (int d = last; d >= 0; --d) {
        const int64_t i = d ? left % a->shape[d] : left;
        for (int k = 0; k < ARRAYS; ++k)
            offsets[k] += i * a->steps[k][d];
        left /= a->shape[d];
    }
    const int64_t in_axis = last ? a->shape[last] - begin % a->shape[last] : end - begin;
    const char *at[ARRAYS];
    for (int k = 0; k < ARRAYS; ++k)
        at[k] = a->data[k] ? a->data[k] + offsets[k] : NULL;
    const xent_rows rows = {
        .count = in_axis < end - begin ? in_axis : end - begin,
        .logits = at[LOGITS],
        .index = at[INDEX],
        .soft = at[SOFT],
        .weight = at[WEIGHT],
        .upstream = at[UPSTREAM],
        .loss = (char *)at[LOSS],
        .lse = (char *)at[LSE],
        .out = (char *)at[OUT],
        .hess = (char *)at[HESS],
        .logits_step = a->steps[LOGITS][last],
        .index_step = a->steps[INDEX][last],
        .soft_step = a->steps[SOFT][last],
        .weight_step = a->steps[WEIGHT][last],
        .upstream_step = a->steps[UPSTREAM][last],
        .loss_step = a->steps[LOSS][last],
        .lse_step = a->steps[LSE][last],
        .out_step = a->steps[OUT][last],
        .hess_step = a->steps[HESS][last],
        .end = a->classes,
    };
    return rows;
}

/* Class indices are checked, and the weights of the rows that count summed, in fixed blocks of rows; the blocks' sums are
 * added from first to last. */
enum { SUM_LANES = 8, FEW_BLOCKS = 16 };

typedef struct {
    const xent_call *call;
    const axes *arrays;
    const xent_kernels *kernels;
    atomic_llong first_bad;
} check_work;

static double weight_of(const xent_call *call, const xent_rows *rows, int64_t i) {
    const int bytes = compute_bytes(call);
    const int64_t y = xent_load_index(rows->index + i * rows->index_step, call->index_type);
    /* The index has been checked, but another thread may have changed it since. */
    if ((uint64_t)y >= (uint64_t)call->classes || (call->has_ignore && y == call->ignore_index))
        return 0;
    return (call->class_weight ? load_number((const char *)call->class_weight + y * bytes, bytes) : 1) *
           (rows->weight ? load_number(rows->weight + i * rows->weight_step, bytes) : 1);
}

static void check_rows(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    check_work *w = context;
    const xent_call *call = w->call;
    const int weighted = call->class_weight || call->sample_weight.data;
    exact lanes[SUM_LANES] = {{0, 0}}, sum = {0, 0};
    int64_t counted = 0;
    for (int64_t r = begin; r < end;) {
        const xent_rows rows = run_from(w->arrays, r, end);
        const xent_indices indices = {rows.index,       rows.index_step,    rows.count,   (int)call->index_type,
                                      call->has_ignore, call->ignore_index, call->classes};
        int64_t bad = -1;
        counted += w->kernels->check(&indices, &bad);
        if (bad >= 0) {
            long long first = atomic_load(&w->first_bad);
            while (r + bad < first && !atomic_compare_exchange_weak(&w->first_bad, &first, r + bad))
                ;
            return;
        }
        if (weighted)
            for (int64_t i = 0; i < rows.count; ++i)
                add(&lanes[(r + i - begin) % SUM_LANES], weight_of(call, &rows, i));
        r += rows.count;
    }
    for (int i = 0; i < SUM_LANES; ++i) {
        add(&sum, lanes[i].high);
        sum.low += lanes[i].low;
    }
    sums_of(call)[begin / XENT_SUM_BLOCK] = weighted ? sum : (exact){(double)counted, 0};
}

static xent_status check_indices(xent_call *call, exact *total) {
    axes a;
    join_axes(&a, call, -1);
    const int few = block_count(call) < FEW_BLOCKS;
    check_work w = {call, &a, xent_kernels_for(call->dtype), INT64_MAX};
    /* One block's work does not repay waking a thread. */
    if (xent_parallel(row_count(call), XENT_SUM_BLOCK, few ? 1 : thread_count(call), check_rows, &w, call->poll,
                      call->poll_data))
        return XENT_INTERRUPTED;
    if (atomic_load(&w.first_bad) != INT64_MAX) {
        call->bad_row = atomic_load(&w.first_bad);
        return XENT_BAD_TARGET;
    }
    *total = add_blocks(call);
    return XENT_OK;
}

/* Class weights divide the mean with class indices only (torch). */
static xent_status prepare(xent_call *call) {
    if (xent_is_elementwise(call))
        return xent_prepare_elements(call);
    call->divisor = (double)row_count(call);
    if (!is_loss(call) || (!call->index.data && !call->sample_weight.data))
        return XENT_OK;
    exact sum;
    const xent_status status = call->index.data ? check_indices(call, &sum) : xent_sum(call, &call->sample_weight, &sum);
    if (status == XENT_OK)
        call->divisor = value(sum);
    return status;
}

/* The axis along which lanes run in columns: -1 where the class axis is contiguous, -2 where nothing is. */
static int lane_axis(const xent_call *call) {
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
    return -2;
}

int xent_readable(const xent_call *call) { return xent_is_elementwise(call) || lane_axis(call) > -2; }

static int64_t class_step(int64_t step, int64_t size) { return step ? step : size; }

/* Far enough ahead to wait for memory, near enough not to be pushed out of the second cache. */
static int64_t fetched_bytes(void) {
    const int64_t most = 16 << 10, part = xent_cache(2) / 16;
    return most < part ? most : part;
}

static int64_t whole_blocks(int64_t classes) { return classes < XENT_BLOCK ? XENT_BLOCK : classes & -(int64_t)XENT_BLOCK; }

static xent_plan plan_of(const xent_call *call, int lanes) {
    const int indexed = call->index.data != NULL, loss = is_loss(call);
    const int distils = call->operation == XENT_DISTILLATION_LOSS, entropy = call->operation == XENT_ENTROPY;
    const int probabilities = call->operation == XENT_CATEGORICAL_CROSS_ENTROPY;
    const int given = probabilities || call->operation == XENT_NLL_LOSS;
    const int64_t narrow = !call->out.data                   ? XENT_NARROW_LOSS
                           : call->dtype == XENT_F64         ? XENT_NARROW_F64_GRADIENT
                           : call->classes % XENT_MOST_LANES ? XENT_NARROW_ODD_GRADIENT
                                                             : XENT_NARROW_GRADIENT;
    const double e = call->label_smoothing;
    xent_plan plan = {
        .layout = lanes >= 0                ? XENT_COLUMNS
                  : call->classes <= narrow ? XENT_NARROW
                                            : XENT_WIDE,
        .logits_class_step = class_step(call->logits_class_step, storage_bytes(call)),
        .soft_class_step = class_step(call->soft_class_step, soft_bytes(call)),
        .out_class_step = class_step(call->out_class_step, storage_bytes(call)),
        .hess_class_step = class_step(call->hess_class_step, storage_bytes(call)),
        .link = call->operation == XENT_FOCAL_LOSS   ? XENT_FOCAL
                : call->operation == XENT_POLY1_LOSS ? XENT_POLY
                                                     : XENT_LIKELIHOOD,
        .strength = call->strength,
        .classes = call->classes,
        .stream = XENT_NO_STREAM,
        .transform = given                               ? XENT_GIVEN
                     : call->softcap > 0                 ? XENT_CAPPED
                     : distils || call->temperature != 1 ? XENT_HEATED
                                                         : XENT_PLAIN,
        .probabilities = probabilities,
        .clip = call->eps,
        .keep_infinite = !loss,
        .class_weight = call->class_weight,
        .index_type = (int)call->index_type,
        .has_ignore = call->has_ignore,
        .ignore = call->ignore_index,
        .hard = indexed ? 1 - e : 0,
        .smooth = indexed ? (call->classes ? e / (double)call->classes : 0) : 1,
        .z = call->z_loss,
        .mix_keep = 1 - e,
        .mix_add = call->classes ? e / (double)call->classes : 0,
        .softcap = call->softcap,
        .temperature = call->temperature,
        .scale = call->reduction == XENT_NONE ? 1 : call->grad_scale,
        .rows_bytes = xent_cache(2) / 8,
        .fetch_ahead = whole_blocks(fetched_bytes() / storage_bytes(call)),
        .form = !call->out.data                       ? XENT_NO_OUTPUT
                : call->operation == XENT_LOG_SOFTMAX ? XENT_LOGARITHMS
                                                      : XENT_EXPONENTIALS,
    };
    if (entropy)
        plan.stream = XENT_OWN;
    else if (distils) {
        plan.stream = XENT_TEACHER;
        plan.smooth = call->temperature * call->temperature;
    } else if (loss && (!indexed || e > 0))
        plan.stream = indexed ? XENT_WEIGHTS : XENT_SOFT;
    if (call->reduction == XENT_MEAN && loss) {
        plan.no_row_counts = call->divisor == 0;
        plan.scale /= call->divisor;
    }
    if (!loss) /* softmax: the gradient of the log-sum-exp */
        plan.hard = plan.scale = 1;
    const double out_bytes = (double)row_count(call) * (double)call->classes * storage_bytes(call);
    plan.non_temporal = call->out.data && outgrows_cache(call, out_bytes);
    return plan;
}

typedef struct {
    const axes *arrays;
    const xent_plan *plan;
    const xent_kernels *kernels;
    xent_chunk *chunks; /* for each worker */
    int64_t chunks_each;
} row_work;

static void compute_rows(void *context, int64_t begin, int64_t end, int worker) {
    const row_work *w = context;
    xent_chunk few[STACK_CHUNKS];
    while (begin < end) {
        xent_rows rows = run_from(w->arrays, begin, end);
        rows.chunks = w->chunks ? w->chunks + worker * w->chunks_each : few;
        w->kernels->rows(w->plan, &rows);
        begin += rows.count;
    }
}

/* Few rows, each of them long, are computed one by one, all threads sharing each. */
enum { SHARED_BYTES = 4 << 20, SHARED_PIECE = 16 * XENT_CHUNK, SHARED_ROWS = 4 /* for each thread */ };

typedef struct {
    const xent_plan *plan;
    const xent_kernels *kernels;
    xent_rows row;
} stage_work;

static void compute_stage(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const stage_work *w = context;
    xent_rows row = w->row;
    row.begin = begin;
    row.end = end;
    w->kernels->rows(w->plan, &row);
}

static int share_rows(const xent_call *call, const row_work *w, int64_t n, int threads) {
    const int64_t classes = call->classes;
    for (int64_t r = 0; r < n; ++r) {
        stage_work stage = {w->plan, w->kernels, run_from(w->arrays, r, r + 1)};
        stage.row.chunks = w->chunks;
        w->chunks[0] = (xent_chunk){0}; /* a row that does not count leaves it alone */
        for (xent_stage s = XENT_REDUCE; s <= (w->plan->form == XENT_NO_OUTPUT ? XENT_HEAD : XENT_APPLY); ++s) {
            stage.row.stage = s;
            /* A row with +inf is searched for NaN by every piece: one then. */
            const int whole = s == XENT_HEAD || (s == XENT_APPLY && isinf(w->chunks[0].max));
            if (xent_parallel(classes, whole ? classes : SHARED_PIECE, threads, compute_stage, &stage, call->poll,
                              call->poll_data))
                return 1;
        }
    }
    return 0;
}

static xent_status compute(xent_call *call) {
    if (xent_is_elementwise(call))
        return xent_compute_elements(call);
    const int64_t n = row_count(call);
    if (n == 0)
        return XENT_OK;
    const int lanes = lane_axis(call);
    if (lanes == -2)
        return XENT_BAD_LAYOUT;
    axes a;
    join_axes(&a, call, lanes);
    const xent_plan plan = plan_of(call, lanes);
    const int threads = thread_count(call);
    const int64_t rows_at_once = plan.layout == XENT_COLUMNS ? XENT_MOST_LANES : 1;
    row_work w = {&a, &plan, xent_kernels_for(call->dtype), NULL, rows_at_once * XENT_ROWS_NEED_CHUNKS(call->classes)};
    if (w.chunks_each > STACK_CHUNKS) {
        w.chunks = malloc((size_t)threads * (size_t)w.chunks_each * sizeof *w.chunks);
        if (!w.chunks)
            return XENT_NO_MEMORY;
    }
    /* Of given probabilities the target's alone is read, a cache line. */
    const int one_of_each = plan.transform == XENT_GIVEN && plan.stream == XENT_NO_STREAM && plan.form == XENT_NO_OUTPUT;
    const int64_t row_bytes = one_of_each ? 64 : call->classes * storage_bytes(call), item_bytes = row_bytes + 16;
    /* Whole tiles; of columns whole runs, where these are short and many. */
    enum { MANY_RUNS = 8 /* for each thread */ };
    const int64_t run = plan.layout == XENT_COLUMNS ? a.shape[a.ndim - 1] : n;
    const int short_runs = run <= MOST_PIECE / item_bytes && n / run >= MANY_RUNS * (int64_t)threads;
    const int64_t whole = plan.layout == XENT_WIDE ? 1 : short_runs ? run : 64;
    const int shared = plan.layout == XENT_WIDE && w.chunks && row_bytes >= SHARED_BYTES && n < threads * SHARED_ROWS;
    const int stopped = shared ? share_rows(call, &w, n, threads) : in_pieces(call, n, item_bytes, whole, compute_rows, &w);
    free(w.chunks);
    return stopped ? XENT_INTERRUPTED : XENT_OK;
}

static xent_status finish(xent_call *call) {
    exact sum;
    if (xent_is_elementwise(call)) /* each block has left its own */
        sum = add_blocks(call);
    else if (xent_sum(call, &call->loss, &sum) != XENT_OK)
        return XENT_INTERRUPTED;
    call->total = value(sum);
    call->result = call->total;
    if (call->reduction >= XENT_MEAN) {
        /* The quotient of high + low, rounded but once more than exactly. */
        const double q = call->total / call->divisor, left = fma(-q, call->divisor, sum.high) + sum.low;
        call->result = call->divisor == 0 ? NAN : isfinite(left) ? q + left / call->divisor : q;
    }
    return XENT_OK;
}

static xent_status run(xent_call *call) {
    if (!xent_readable(call))
        return XENT_BAD_LAYOUT;
    xent_status status = prepare(call);
    if (status != XENT_OK)
        return status;
    const int elementwise = xent_is_elementwise(call);
    const int sums = (elementwise || is_loss(call)) && call->reduction != XENT_NONE;
    if (!sums || elementwise || call->loss.data) {
        status = compute(call);
        return status != XENT_OK || !sums ? status : finish(call);
    }
    /* Row losses nobody asked for: C-ordered, for the length of the call. */
    const int64_t n = row_count(call), bytes = compute_bytes(call);
    char few[1024 * 8];
    int64_t strides[MOST_AXES];
    void *losses = n <= 1024 ? few : malloc((size_t)n * (size_t)bytes);
    if (!losses)
        return XENT_NO_MEMORY;
    int64_t step = bytes;
    for (int d = call->ndim - 1; d >= 0; --d) {
        strides[d] = step;
        step *= call->shape[d];
    }
    call->loss = (xent_array){losses, strides};
    status = compute(call);
    if (status == XENT_OK)
        status = finish(call);
    call->loss = (xent_array){NULL, NULL};
    if (losses != few)
        free(losses);
    return status;
}

/* A step has the default floating-point environment (divisor, scale and result are computed outside of any parallel
 * region), and room for sums of blocks where the caller has brought none. */
static xent_status take(xent_status (*step)(xent_call *), xent_call *call) {
    exact few[FEW_BLOCKS], *sums = few;
    double *const given = call->block_sums;
    const int64_t blocks = block_count(call);
    if (!given && blocks > FEW_BLOCKS && !(sums = malloc((size_t)blocks * sizeof *sums)))
        return XENT_NO_MEMORY;
    call->block_sums = given ? given : (double *)sums;
    const fp_state before = fp_enter();
    const xent_status status = step(call);
    fp_leave(before);
    call->block_sums = given;
    if (sums != few)
        free(sums);
    return status;
}

xent_status xent_prepare(xent_call *call) { return take(prepare, call); }
xent_status xent_compute(xent_call *call) { return take(compute, call); }
xent_status xent_finish(xent_call *call) { return take(finish, call); }
xent_status xent_run(xent_call *call) { return take(run, call); }

typedef struct {
    const char *from;
    char *to;
    atomic_int sink;
} memory_work;

static void read_memory(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    memory_work *w = context;
    if (xent_kernels_for(XENT_F32)->read(w->from + begin, end - begin) == -DBL_MAX)
        atomic_store(&w->sink, 1);
}

static void copy_memory(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    memory_work *w = context;
    xent_kernels_for(XENT_F32)->copy(w->to + begin, w->from + begin, end - begin);
}

enum { MEMORY_PIECE = 1 << 18 };

double xent_memory_read(const void *from, int64_t bytes, int threads) {
    memory_work w = {.from = from};
    xent_parallel(bytes, MEMORY_PIECE, threads, read_memory, &w, NULL, NULL);
    return atomic_load(&w.sink);
}

void xent_memory_copy(void *to, const void *from, int64_t bytes, int threads) {
    memory_work w = {.from = from, .to = to};
    xent_parallel(bytes, MEMORY_PIECE, threads, copy_memory, &w, NULL, NULL);
}
