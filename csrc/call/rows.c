/* Softmax losses and the softmax family: prepare (class indices checked, divisor known, nothing written) → compute (rows to
 * kernels to threads). */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "axes.h"
#include "call.h"
#include "index.h"
#include "plan.h"

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

/* The arrays of a call over one set of axes, those of the loss. */
enum {
    LOGITS,
    INDEX,
    SOFT,
    WEIGHT,
    UPSTREAM,
    LOSS,
    LSE,
    OUT,
    HESS,
    SUMS,
    COEFS,
    RANK = COEFS + XENT_COEFS,
    TOP_INDEX,
    TOP_LOGIT,
    ARRAYS
};

typedef struct {
    int ndim;
    int64_t classes, shape[MOST_AXES];
    int64_t steps[ARRAYS][MOST_AXES];
    char *data[ARRAYS];
    int64_t short_run, run_steps[ARRAYS]; /* see xent_rows */
} axes;

static void join_axes(axes *a, const xent_call *call, int last) {
    /* Of what lies in C order. */
    int64_t strides[4][MOST_AXES], step[4] = {sizeof(xent_sums), 8, 8 * call->top_k, 8 * call->top_k};
    for (int d = call->ndim - 1; call->sums && d >= 0; --d)
        for (int k = 0; k < 4; ++k) {
            strides[k][d] = step[k];
            step[k] *= call->shape[d];
        }
    const xent_array sums = {call->sums, strides[0]}, rank = {call->rank, strides[1]};
    const xent_array top_index = {call->top_index, strides[2]}, top_logit = {call->top_logit, strides[3]};
    const xent_array *const arrays[ARRAYS] = {
        [LOGITS] = &call->logits,
        [INDEX] = &call->index,
        [SOFT] = &call->soft,
        [WEIGHT] = &call->sample_weight,
        [UPSTREAM] = &call->grad_output,
        [LOSS] = &call->loss,
        [LSE] = &call->lse,
        [OUT] = &call->out,
        [HESS] = &call->hess,
        [SUMS] = &sums,
        [COEFS + XENT_LSE_COEF] = &call->lse_coef,
        [COEFS + XENT_NLL_COEF] = &call->nll_coef,
        [COEFS + XENT_ENTROPY_COEF] = &call->entropy_coef,
        [COEFS + XENT_SMOOTH_COEF] = &call->smooth_coef,
        [RANK] = &rank,
        [TOP_INDEX] = &top_index,
        [TOP_LOGIT] = &top_logit,
    };
    a->classes = call->classes;
    for (int k = 0; k < ARRAYS; ++k)
        a->data[k] = arrays[k]->data;
    a->ndim = xent_join_axes(call, last, ARRAYS, arrays, a->shape, a->steps);
    a->short_run = 0;
}

static int has_classes(int array) { return array == LOGITS || array == SOFT || array == OUT || array == HESS; }

/* Runs of columns that are so short join to one, of which tiles may hold the end of one and the begin of another, if all
 * that has no classes lies at constant steps. */
enum { SHORT_RUN = 256 };

static void join_short_runs(axes *a, const xent_plan *plan) {
    const int last = a->ndim - 1;
    const int64_t run = a->shape[last];
    if (plan->layout != XENT_COLUMNS || last == 0 || run >= SHORT_RUN || xent_reads_target_alone(plan) ||
        (plan->non_temporal && run % XENT_MOST_LANES == 0))
        return;
    for (int k = 0; k < ARRAYS; ++k)
        if (!has_classes(k) && a->steps[k][last - 1] != a->steps[k][last] * run)
            return;
    for (int k = 0; k < ARRAYS; ++k) {
        a->run_steps[k] = a->steps[k][last - 1];
        a->steps[k][last - 1] = a->steps[k][last];
    }
    a->shape[last - 1] *= run;
    a->short_run = run;
    a->ndim = last;
}

/* The run of rows from row `begin`, at constant steps, of at most `end - begin` rows. */
static xent_rows rows_at(const axes *a, int64_t begin, int64_t end) {
    int64_t offsets[ARRAYS] = {0}, left = begin;
    const int last = a->ndim - 1;
    for (int d = last; d >= 0; --d) {
        const int64_t i = d ? left % a->shape[d] : left;
        for (int k = 0; k < ARRAYS; ++k)
            offsets[k] +=
                a->short_run && d == last && has_classes(k) ? i / a->short_run * a->run_steps[k] : i * a->steps[k][d];
        left /= a->shape[d];
    }
    const int64_t in_axis = last ? a->shape[last] - begin % a->shape[last] : end - begin;
    const char *at[ARRAYS];
    for (int k = 0; k < ARRAYS; ++k)
        at[k] = a->data[k] ? a->data[k] + offsets[k] : NULL;
    xent_rows rows = {
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
        .sums = (xent_sums *)at[SUMS],
        .sums_step = a->steps[SUMS][last],
        .rank = (char *)at[RANK],
        .top_index = (char *)at[TOP_INDEX],
        .top_logit = (char *)at[TOP_LOGIT],
        .rank_step = a->steps[RANK][last],
        .top_index_step = a->steps[TOP_INDEX][last],
        .top_logit_step = a->steps[TOP_LOGIT][last],
        .stages = XENT_ALL_STAGES,
    };
    if (a->short_run) {
        rows.short_run = a->short_run;
        rows.passed = (last ? begin % a->shape[last] : begin) % a->short_run;
        rows.logits_run_step = a->run_steps[LOGITS];
        rows.soft_run_step = a->run_steps[SOFT];
        rows.out_run_step = a->run_steps[OUT];
        rows.hess_run_step = a->run_steps[HESS];
    }
    for (int k = 0; k < XENT_COEFS; ++k) {
        rows.coefs[k] = at[COEFS + k];
        rows.coef_steps[k] = a->steps[COEFS + k][last];
    }
    return rows;
}

/* Class indices are checked, and the weights of the rows that count summed, in fixed blocks of rows; the blocks' sums are
 * added from first to last. */
enum { SUM_LANES = 8 };

typedef struct {
    const xent_call *call;
    const axes *arrays;
    const xent_kernels *kernels;
    atomic_llong first_bad, first_outside;
} check_work;

static void note_first(atomic_llong *first, long long row) {
    long long so_far = atomic_load(first);
    while (row < so_far && !atomic_compare_exchange_weak(first, &so_far, row))
        ;
}

/* What is read of an array of probabilities, and of it alone, is checked; where soft targets or smoothed labels ask for all
 * of it, it is taken as it is. */
static int checks_probabilities(const xent_call *call) {
    return traits_of(call)->input == OF_PROBABILITIES && call->label_smoothing == 0;
}

/* Class weights of shards are where the sums are. */
static const xent_sums *sums_of(const xent_rows *rows, int64_t i) {
    return (const xent_sums *)((const char *)rows->sums + i * rows->sums_step);
}

static double weight_of(const xent_call *call, const xent_rows *rows, int64_t i) {
    const int bytes = compute_bytes(call);
    const int64_t y = xent_load_index(rows->index + i * rows->index_step, call->index_type);
    /* The index has been checked, but another thread may have changed it since. */
    if ((uint64_t)y >= (uint64_t)num_classes(call) || (call->has_ignore && y == call->ignore_index))
        return 0;
    const double of_class = rows->sums           ? sums_of(rows, i)->target_weight
                            : call->class_weight ? load_number((const char *)call->class_weight + y * bytes, bytes)
                                                 : 1;
    return of_class * (rows->weight ? load_number(rows->weight + i * rows->weight_step, bytes) : 1);
}

static void check_rows(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    check_work *w = context;
    const xent_call *call = w->call;
    const int weighted = call->class_weight || call->sample_weight.data || call->sums;
    double_double lanes[SUM_LANES] = {{0, 0}};
    int64_t counted = 0;
    for (int64_t r = begin; r < end;) {
        const xent_rows rows = rows_at(w->arrays, r, end);
        const xent_indices indices = {
            .index = rows.index,
            .step = rows.index_step,
            .count = rows.count,
            .type = (int)call->index_type,
            .has_ignore = call->has_ignore,
            .ignore = call->ignore_index,
            .classes = num_classes(call),
            .probabilities = checks_probabilities(call) ? rows.logits : NULL,
            .weight = rows.weight,
            .probabilities_step = rows.logits_step,
            .class_step = call->logits_class_step ? call->logits_class_step : storage_bytes(call),
            .weight_step = rows.weight_step,
            .dtype = call->dtype,
            .most = most_probability(call),
        };
        int64_t bad = -1, outside = -1;
        counted += w->kernels->check(&indices, &bad, &outside);
        if (outside >= 0)
            note_first(&w->first_outside, r + outside);
        if (bad >= 0) {
            note_first(&w->first_bad, r + bad);
            return;
        }
        if (weighted)
            for (int64_t i = 0; i < rows.count; ++i)
                dd_add(&lanes[(r + i - begin) % SUM_LANES], weight_of(call, &rows, i));
        r += rows.count;
    }
    block_sums(call)[begin / XENT_SUM_BLOCK] = weighted ? dd_total(lanes, SUM_LANES) : (double_double){(double)counted, 0};
}

static xent_status check_indices(xent_call *call, double_double *total) {
    axes a;
    join_axes(&a, call, -1);
    const int few = block_count(call) < FEW_BLOCKS;
    check_work w = {call, &a, xent_kernels_for(call->dtype), INT64_MAX, INT64_MAX};
    /* One block's work does not repay waking a thread. */
    if (xent_parallel(row_count(call), XENT_SUM_BLOCK, few ? 1 : thread_count(call), check_rows, &w, call->poll,
                      call->poll_data))
        return XENT_INTERRUPTED;
    if (atomic_load(&w.first_bad) != INT64_MAX) {
        call->bad_row = atomic_load(&w.first_bad);
        return XENT_BAD_TARGET;
    }
    if (atomic_load(&w.first_outside) != INT64_MAX) {
        call->bad_row = atomic_load(&w.first_outside);
        return XENT_BAD_PROBABILITY;
    }
    *total = dd_total(block_sums(call), block_count(call));
    return XENT_OK;
}

/* Class weights divide the mean with class indices only (torch). */
xent_status xent_prepare_rows(xent_call *call) {
    call->divisor = (double)row_count(call);
    if (!is_loss(call) || (!call->index.data && !call->sample_weight.data))
        return XENT_OK;
    double_double sum;
    const xent_status status = call->index.data ? check_indices(call, &sum) : xent_sum(call, &call->sample_weight, &sum);
    if (status == XENT_OK)
        call->divisor = dd_value(sum);
    return status;
}

typedef struct {
    const xent_call *call;
    const axes *arrays;
    const xent_plan *plan;
    const xent_kernels *kernels;
    xent_stages stages;
    int64_t chunks;    /* for each worker, behind the kernels' part of its workspace; 0: that has room */
    void **workspaces; /* of each worker */
} row_work;

/* The kernels' part of a workspace, and where chunks begin behind it. */
static size_t kernel_bytes(const row_work *w) { return (w->kernels->workspace_bytes + 63) / 64 * 64; }

static xent_sums *chunks_of(const row_work *w, int worker) {
    return w->chunks ? (xent_sums *)((char *)w->workspaces[worker] + kernel_bytes(w)) : NULL;
}

static void compute_rows(void *context, int64_t begin, int64_t end, int worker) {
    const row_work *w = context;
    while (begin < end) {
        xent_rows rows = rows_at(w->arrays, begin, end);
        rows.workspace = w->workspaces[worker];
        rows.chunks = chunks_of(w, worker);
        rows.stages = w->stages;
        if (w->stages == XENT_HEAD) /* of the sums alone */
            rows.logits = rows.soft = NULL;
        w->kernels->rows(w->plan, &rows);
        begin += rows.count;
    }
}

/* Few rows, each of them long, are computed one by one, all threads sharing each. */
enum { SHARED_BYTES = 4 << 20, SHARED_PIECE = 16 * XENT_CHUNK, SHARED_ROWS = 4 /* for each thread */ };

typedef struct {
    const row_work *work;
    xent_rows row;
} long_row;

static void reduce_piece(void *context, int64_t begin, int64_t end, int worker) {
    const long_row *w = context;
    xent_rows row = w->row;
    row.workspace = w->work->workspaces[worker];
    w->work->kernels->reduce_chunks(w->work->plan, &row, begin, end);
}

/* A piece of a row is a shard of its classes. */
static void apply_piece(void *context, int64_t begin, int64_t end, int worker) {
    const long_row *w = context;
    const xent_call *call = w->work->call;
    xent_plan plan = *w->work->plan;
    xent_rows row = w->row;
    plan.class_offset += begin;
    plan.classes = end - begin;
    if (plan.class_weight)
        plan.class_weight = (const char *)plan.class_weight + begin * compute_bytes(call);
    if (plan.class_bias)
        plan.class_bias = (const char *)plan.class_bias + begin * compute_bytes(call);
    row.workspace = w->work->workspaces[worker];
    row.logits += begin * plan.logits_class_step;
    row.soft = row.soft ? row.soft + begin * plan.soft_class_step : NULL;
    row.out += begin * plan.out_class_step;
    row.hess = row.hess ? row.hess + begin * plan.hess_class_step : NULL;
    row.stages = XENT_APPLY;
    w->work->kernels->rows(&plan, &row);
}

static xent_status split_long_rows(const row_work *w, int64_t n, int threads) {
    const xent_call *call = w->call;
    const division pieces = {call->classes, SHARED_PIECE, threads}, whole = {call->classes, call->classes, 1};
    for (int64_t r = 0; r < n; ++r) {
        xent_sums sums;
        long_row row = {w, rows_at(w->arrays, r, r + 1)};
        row.row.workspace = w->workspaces[0];
        row.row.chunks = chunks_of(w, 0);
        row.row.sums = &sums;
        row.row.sums_step = sizeof sums;
        xent_status status = in_parallel(call, &pieces, reduce_piece, &row);
        if (status != XENT_OK)
            return status;
        w->kernels->finish_row(w->plan, &row.row);
        /* A row with +inf is searched for NaN by every piece: one then. */
        if (w->plan->form != XENT_NO_OUTPUT)
            status = in_parallel(call, isinf(sums.max) ? &whole : &pieces, apply_piece, &row);
        if (status != XENT_OK)
            return status;
    }
    return XENT_OK;
}

/* A frame of its own for the list of workspaces. `sharing` threads share each long row; 0: rows are divided. */
static __attribute__((noinline)) xent_status run_rows(row_work *w, division d, int64_t n, int sharing) {
    void *workspaces[MOST_THREADS];
    w->workspaces = workspaces;
    d.threads = xent_take_workspaces(workspaces, sharing ? sharing : d.threads,
                                     kernel_bytes(w) + (size_t)w->chunks * sizeof(xent_sums));
    if (d.threads == 0)
        return XENT_NO_MEMORY;
    const xent_status status = sharing ? split_long_rows(w, n, d.threads) : in_parallel(w->call, &d, compute_rows, w);
    xent_return_workspaces(workspaces, d.threads);
    return status;
}

xent_status xent_compute_rows(const xent_call *call, xent_stages stages) {
    const int64_t n = row_count(call);
    if (n == 0)
        return XENT_OK;
    const int axis = xent_vector_axis(call);
    axes a;
    join_axes(&a, call, axis);
    const xent_plan plan = xent_plan_of(call, axis);
    join_short_runs(&a, &plan);
    const int64_t chunks = (plan.layout == XENT_COLUMNS ? XENT_MOST_LANES : 1) * XENT_CHUNKS(call->classes);
    row_work w = {call, &a, &plan, xent_kernels_for(call->dtype), stages, chunks > XENT_OWN_CHUNKS ? chunks : 0, NULL};
    /* Of the target alone a cache line is read. */
    const int one_of_each = xent_reads_target_alone(&plan) && plan.form == XENT_NO_OUTPUT;
    const int64_t row_bytes = one_of_each ? 64 : call->classes * storage_bytes(call), item_bytes = row_bytes + 16;
    /* Whole tiles; of columns whole runs, where these are short and many. */
    enum { MANY_RUNS = 8 /* for each thread */ };
    const int threads = thread_count(call);
    const int64_t run = plan.layout == XENT_COLUMNS ? a.shape[a.ndim - 1] : n;
    const int short_runs = run <= MOST_PIECE / item_bytes && n / run >= MANY_RUNS * (int64_t)threads;
    const int64_t whole = plan.layout == XENT_WIDE ? 1 : short_runs ? run : 64;
    const int long_rows = plan.layout == XENT_WIDE && w.chunks && row_bytes >= SHARED_BYTES && n < threads * SHARED_ROWS &&
                          stages == XENT_ALL_STAGES;
    return run_rows(&w, divide(call, n, item_bytes, whole), n, long_rows ? threads : 0);
}
