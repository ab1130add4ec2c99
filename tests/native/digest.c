/* Digests of the bits of every loss through xent.h, on the instruction set in use: one for each operation and dtype, and one
 * of them all. They must be those of digest.txt on every machine.
 *
 * Each is of many calls drawn at random, but the same everywhere: shapes, layouts, 1 to 16 threads, arguments, and inputs
 * with zeros, ties, infinities and NaN among them. Nothing outside the outputs may be written to. Compiled with
 * XENT_TEST_PIECES, together with the files of csrc/, even small calls are divided among threads.
 *
 * The same digests must come out of
 *
 *     digest disturbed    where the caller's subnormals are flushed and sums rounded up, and still are afterwards
 *     digest nested       inside a parallel region of the caller's
 *     digest apart        row by row, or column by column
 *     digest callers      from eight threads at once
 */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __SSE2__
#include <immintrin.h>
#else
#include <fenv.h>
#endif

#include "call/platform.h"
#include "calls.h"

enum { CALLS = 180, ROOM = 1 << 20, UNTOUCHED = 0x55, CALLERS = 8 };

/* How calls are made. */
static int disturbed, nested, apart;

/* Each name has its own numbers. */
static void draw_for(const char *name, xent_dtype dtype) {
    seed = drawn = dtype;
    for (; *name; ++name)
        seed = digested(seed, (unsigned char)*name);
}
static int below(int n) { return (int)((draw() >> 32) % (uint64_t)n); }
static int one_in(int n) { return below(n) == 0; }

/* What others leave behind: subnormals flushed, rounding upward. */
#if defined(__SSE2__)
enum { DISTURBED = 0x8040 | 0x4000 };
static int is_disturbed(void) { return (_mm_getcsr() & DISTURBED) == DISTURBED; }
static void disturb(int on) { _mm_setcsr((_mm_getcsr() & ~(unsigned)DISTURBED) | (on ? DISTURBED : 0)); }
#elif defined(__aarch64__)
enum { DISTURBED = 1 << 24 | 1 << 22 };
static uint64_t control(void) {
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
}
static int is_disturbed(void) { return (control() & DISTURBED) == DISTURBED; }
static void disturb(int on) {
    __asm__ volatile("msr fpcr, %0" : : "r"((control() & ~(uint64_t)DISTURBED) | (on ? DISTURBED : 0)));
}
#else
#ifndef FE_UPWARD /* as of WebAssembly, which rounds to nearest */
#define FE_UPWARD (-1)
#endif
static int is_disturbed(void) { return fegetround() == FE_UPWARD; }
static void disturb(int on) { fesetround(on ? FE_UPWARD : FE_TONEAREST); }
#endif

/* An array over two axes of the loss and one of classes. */
typedef struct {
    format type;
    char *room, *first; /* all of its memory; element (0, 0, 0) */
    int64_t bytes, shape[3], strides[3];
    int outer; /* of the loss's axes that whose elements lie further apart */
} array;

enum { LOGITS, INDEX, SOFT, CLASS_WEIGHT, WEIGHT, POS_WEIGHT, UPSTREAM, LOSS, LSE, OUT, HESS, ARRAYS, LENT = ARRAYS, ROOMS };

static _Thread_local char (*rooms)[ROOM]; /* aligned to 64 */

/* The innermost axis is `inner`, the order of the others drawn; each lies next to the last or some bytes apart. */
static array lay(int which, format type, const int64_t shape[3], int inner) {
    const int swapped = below(2), others[3][2] = {{1, 2}, {0, 2}, {0, 1}};
    const int axes[3] = {inner, others[inner][!swapped], others[inner][swapped]};
    array a = {.type = type, .room = rooms[which], .shape = {shape[0], shape[1], shape[2]}};
    a.outer = axes[2] < 2 ? axes[2] : axes[1];
    int64_t step = type.bytes, begin = 64 + (one_in(3) ? below(64) : 0);
    for (int n = 0; n < 3; ++n) {
        const int axis = axes[n], flipped = n > 0 && axis < 2 && shape[axis] > 1 && one_in(5);
        a.strides[axis] = flipped ? -step : step;
        begin += flipped ? (shape[axis] - 1) * step : 0;
        step *= shape[axis];
        if (n < 2 && shape[axis] > 1 && one_in(3))
            step += one_in(2) ? type.bytes * below(20) : below(20);
    }
    a.first = a.room + begin;
    a.bytes = begin + step + 64;
    if (a.bytes > ROOM)
        abort();
    memset(a.room, UNTOUCHED, (size_t)a.bytes);
    return a;
}

static char *element(const array *a, int64_t i, int64_t j, int64_t k) {
    return a->first + i * a->strides[0] + j * a->strides[1] + k * a->strides[2];
}

/* An input, now and then the same all along an axis. */
static void fill(array *a, kind of) {
    const int every = one_in(4), same = below(24);
    if (one_in(8))
        a->strides[a->outer] = 0;
    for (int64_t i = 0; i < a->shape[0]; ++i)
        for (int64_t j = 0; j < a->shape[1]; ++j) {
            const int habit = every ? same : below(24);
            for (int64_t k = 0; k < a->shape[2]; ++k)
                put_bits(element(a, i, j, k), a->type.bytes, number(a->type, of, habit, k));
        }
}

/* Digests an output, and stops where something beside it was written to. */
static uint64_t digested_array(uint64_t digest, const array *a) {
    for (int64_t i = 0; i < a->shape[0]; ++i)
        for (int64_t j = 0; j < a->shape[1]; ++j)
            for (int64_t k = 0; k < a->shape[2]; ++k) {
                digest = digested_numbers(digest, a->type, element(a, i, j, k), 1);
                memset(element(a, i, j, k), UNTOUCHED, (size_t)a->type.bytes);
            }
    for (int64_t i = 0; i < a->bytes; ++i)
        if (a->room[i] != UNTOUCHED) {
            printf("written to outside an array\n");
            exit(1);
        }
    return digest;
}

/* Class indices of a type, now and then one out of range. */
static array draw_indices(xent_call *call, const int64_t rows[3]) {
    call->index_type = (xent_dtype)(XENT_BOOL + below(9));
    const int64_t most = index_types[call->index_type].most;
    const int classes = (int)(call->classes - 1 < most ? call->classes : most + 1);
    const array a = lay(INDEX, (format){index_types[call->index_type].bytes, 0, 0}, rows, 2);
    call->has_ignore = one_in(2);
    call->ignore_index = index_types[call->index_type].is_signed && one_in(2) ? -100 : below(classes);
    const int bad = one_in(15) ? below(20) : -1;
    for (int64_t i = 0; i < rows[0]; ++i)
        for (int64_t j = 0; j < rows[1]; ++j) {
            const int64_t y = i * rows[1] + j == bad          ? -1
                              : call->has_ignore && one_in(6) ? call->ignore_index
                                                              : below(classes);
            put_bits(element(&a, i, j, 0), a.type.bytes, (uint64_t)y);
        }
    return a;
}

/* Most rows are short; some reach past a block of 1,024 classes, one past a chunk of 16,384. */
static void draw_shape(const loss *l, int call, int64_t shape[3]) {
    shape[0] = below(5);
    shape[1] = 1 + below(20);
    shape[2] = 1;
    if (is_elementwise_loss(l))
        shape[1] *= one_in(12) ? 150 : 1 + below(3);
    else if (call == 0)
        shape[0] = 1, shape[1] = 2, shape[2] = 16385;
    else if (one_in(8))
        shape[0] = 1, shape[1] = one_in(3) ? shape[1] : 2, shape[2] = 1022 + (one_in(2) ? below(5) : 300 + below(900));
    else
        shape[2] = one_in(4) ? 60 + below(200) : one_in(30) ? 0 : 1 + below(33);
}

/* Each row of a call by itself, or, where rows share vectors along the axis `inner` of the loss, each run of those. */
static xent_status run_apart(xent_call *call, int inner, const array *lent) {
    if (!xent_layout_supported(call))
        return XENT_BAD_LAYOUT;
    const int sums = call->reduction != XENT_NONE && is_loss(call);
    const xent_array loss = call->loss;
    if (sums && !loss.data)
        call->loss = (xent_array){lent->first, lent->strides};
    xent_status status = xent_prepare(call);
    int64_t shape[2] = {1, 1};
    xent_call rows = *call;
    rows.shape = shape;
    if (inner < 2)
        shape[inner] = call->shape[inner];
    if (!xent_layout_supported(&rows)) /* an axis of one: the other is contiguous, too */
        shape[!inner] = call->shape[!inner];
    for (int64_t i = 0; status == XENT_OK && i < call->shape[0]; i += shape[0])
        for (int64_t j = 0; status == XENT_OK && j < call->shape[1]; j += shape[1]) {
            xent_call part = rows;
            xent_array *const arrays[] = {&part.logits, &part.index, &part.soft, &part.sample_weight, &part.grad_output,
                                          &part.loss,   &part.lse,   &part.out,  &part.hess};
            for (size_t k = 0; k < sizeof arrays / sizeof *arrays; ++k)
                if (arrays[k]->data)
                    arrays[k]->data = (char *)arrays[k]->data + i * arrays[k]->strides[0] + j * arrays[k]->strides[1];
            status = xent_compute(&part);
        }
    if (status == XENT_OK && sums)
        status = xent_finish(call);
    call->loss = loss;
    return status;
}

/* Calls with the arrays and arguments an operation knows, and digests all that it says and writes. */
static uint64_t digest_call(uint64_t digest, const loss *l, xent_dtype dtype, int64_t shape[3]) {
    static const double strengths[] = {0, 0.5, 2, 3.25};
    const format stored = formats[dtype], computed = formats[dtype == XENT_F64 ? XENT_F64 : XENT_F32];
    const int64_t rows[3] = {shape[0], shape[1], 1}, classes[3] = {1, 1, shape[2]};
    const int distils = l->operation == XENT_DISTILLATION_LOSS, is_loss = l->family != SOFTMAX_FAMILY;
    const int probabilities = l->input == OF_PROBABILITIES;
    /* One axis is contiguous in all arrays with classes: theirs, or else one same axis of the loss. */
    const int inner = one_in(2) ? 2 : below(2);

    xent_call call = XENT_CALL_DEFAULTS;
    call.operation = l->operation, call.dtype = dtype;
    call.ndim = 2, call.shape = shape, call.classes = shape[2];
    call.threads = 1 + below(16);
    call.reduction = is_loss ? (xent_reduction)below(is_elementwise_loss(l) ? 4 : 3) : XENT_NONE;
    const double scale = one_in(2) ? 1 : 0.6, strength = strengths[below(4)], alpha = one_in(2) ? 0.25 : -1;
    call.grad_scale = call.reduction == XENT_NONE ? 1 : scale;
    call.strength = l->strength ? strength : 0;
    call.alpha = l->alpha ? alpha : -1;
    call.log_target = l->operation == XENT_KL_DIV && one_in(2);
    call.label_smoothing = l->smoothing && one_in(3) ? 0.1 : 0;
    call.z_loss = l->z_loss && one_in(3) ? 1e-3 : 0;
    call.softcap = l->softcap && one_in(3) ? 8 + 22 * below(2) : 0;
    call.temperature = l->temperature && one_in(3) ? 0.7 + below(3) : 1;
    call.eps = probabilities && one_in(2) ? 1e-3 : 0;

    if (l->clip) {
        static const double negative_strengths[] = {4, 0, 0.5, 1}, clips[] = {0.05, 0, 0.75};
        call.negative_strength = negative_strengths[below(4)];
        call.clip = clips[below(3)];
    }

    array arrays[ARRAYS];
    xent_array *const given[ARRAYS] = {&call.logits,        &call.index,      &call.soft,        NULL,
                                       &call.sample_weight, &call.pos_weight, &call.grad_output, &call.loss,
                                       &call.lse,           &call.out,        &call.hess};
#define GIVE(WHICH, ARRAY)                                                                                                  \
    (arrays[WHICH] = (ARRAY), *given[WHICH] = (xent_array){arrays[WHICH].first, arrays[WHICH].strides})
#define OF_ROWS(WHICH) GIVE(WHICH, lay(WHICH, computed, rows, 2))
#define OF_CLASSES(WHICH, TYPE) GIVE(WHICH, lay(WHICH, TYPE, shape, is_elementwise_loss(l) ? below(3) : inner))
    OF_CLASSES(LOGITS, stored);
    fill(&arrays[LOGITS], probabilities && !one_in(8) ? PROBABILITIES : ANY);
    if (l->indexed && shape[2] && (!l->soft || one_in(2)))
        GIVE(INDEX, draw_indices(&call, rows));
    else if (l->soft) {
        OF_CLASSES(SOFT, distils ? stored : computed);
        fill(&arrays[SOFT], distils || call.log_target ? ANY : PROBABILITIES);
    } else if (l->indexed) { /* soft targets of no class, like all there is: the loss of none is that of cross-entropy */
        GIVE(SOFT, arrays[LOGITS]);
        call.operation = XENT_CROSS_ENTROPY;
        call.strength = 0;
    }
    if (l->indexed && one_in(3)) {
        arrays[CLASS_WEIGHT] = lay(CLASS_WEIGHT, computed, classes, 2);
        arrays[CLASS_WEIGHT].first = arrays[CLASS_WEIGHT].room; /* aligned */
        fill(&arrays[CLASS_WEIGHT], WEIGHTS);
        call.class_weight = arrays[CLASS_WEIGHT].first;
    }
    if (is_loss && one_in(3)) {
        OF_ROWS(WEIGHT);
        fill(&arrays[WEIGHT], WEIGHTS);
    }
    if (l->operation == XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS && one_in(3)) {
        OF_ROWS(POS_WEIGHT);
        fill(&arrays[POS_WEIGHT], WEIGHTS);
    }
    if (is_loss && call.reduction == XENT_NONE && one_in(2)) {
        OF_ROWS(UPSTREAM);
        fill(&arrays[UPSTREAM], ANY);
    }
    if (is_loss && (call.reduction == XENT_NONE || one_in(2)))
        OF_ROWS(LOSS);
    if (l->lse && (!is_loss || one_in(2)))
        OF_ROWS(LSE);
    const array *x = &arrays[LOGITS];
    if (l->out && one_in(4) && x->strides[x->outer])
        GIVE(OUT, *x);
    else if (l->out && (!is_loss || !one_in(4)))
        OF_CLASSES(OUT, stored);
    if (l->hess && call.out.data && one_in(2))
        OF_CLASSES(HESS, stored);
    call.logits_class_step = x->strides[2];
    call.soft_class_step = call.soft.data ? arrays[SOFT].strides[2] : 0;
    call.out_class_step = call.out.data ? arrays[OUT].strides[2] : 0;
    call.hess_class_step = call.hess.data ? arrays[HESS].strides[2] : 0;

    xent_status status = XENT_OK;
    const array lent = lay(LENT, computed, rows, 2);
    disturb(disturbed);
    if (apart && !is_elementwise_loss(l))
        status = run_apart(&call, inner, &lent);
    else if (nested) {
#pragma omp parallel num_threads(3)
#pragma omp single
        status = xent_run(&call);
    } else
        status = xent_run(&call);
    if (disturbed != is_disturbed()) {
        printf("the caller's floating-point environment is not what it was\n");
        exit(1);
    }
    disturb(0);
    digest = digested(digest, status);
    if (status == XENT_BAD_TARGET || status == XENT_BAD_PROBABILITY)
        digest = digested(digest, (uint64_t)call.bad_row);
    if (status == XENT_OK && call.reduction != XENT_NONE)
        digest = digested_numbers(digest, formats[XENT_F64], (double[]){call.divisor, call.total, call.result}, 3);
    for (int k = LOSS; k < ARRAYS; ++k)
        if (given[k]->data)
            digest = digested_array(digest, &arrays[k]);
    return digest;
}

/* exp, log, log1p, tanh and its derivative over their domains, at numbers of any bits. */
static uint64_t digest_math(xent_dtype dtype) {
    enum { COUNT = 4096 };
    const format f = formats[dtype];
    static _Alignas(64) char in[COUNT * 8], out[COUNT * 8];
    uint64_t digest = 0;
    draw_for("functions", dtype);
    for (int function = XENT_EXP; function <= XENT_TANH_SLOPE; ++function) {
        for (int i = 0; i < COUNT; ++i) {
            const uint64_t random = draw(), near_one = power_of(f, (int)(random >> 52 & 31) - 26, random);
            const uint64_t most = function == XENT_LOG || function == XENT_LOG1P ? power_of(f, 100, 0) : infinity_of(f) + 2;
            const uint64_t u = i % 2 ? near_one : random % most;
            const int negative = function == XENT_EXP || (function >= XENT_TANH && random >> 63);
            put_bits(in + i * f.bytes, f.bytes, negative ? sign_of(f) | u : u);
        }
        xent_math((xent_function)function, dtype, in, out, COUNT);
        digest = digested_numbers(digest, f, out, COUNT);
    }
    return digest;
}

static uint64_t shown(uint64_t all, uint64_t digest, const char *name, xent_dtype dtype) {
    printf("%016" PRIx64 "  %s, %s\n", digest, name, dtype_names[dtype]);
    return digested(all, digest);
}

enum { LOSSES_KNOWN = sizeof losses / sizeof *losses, DTYPES = XENT_BF16 + 1, TASKS = LOSSES_KNOWN * DTYPES };

static uint64_t digests[TASKS];
static atomic_int next_task;

static void *digest_tasks(void *unused) {
    rooms = xent_allocate(64, ROOMS * sizeof *rooms);
    if (!rooms)
        abort();
    for (int task; (task = atomic_fetch_add(&next_task, 1)) < TASKS;) {
        const loss *l = &losses[task % LOSSES_KNOWN];
        const xent_dtype dtype = (xent_dtype)(task / LOSSES_KNOWN);
        draw_for(l->name, dtype);
        for (int i = 0; i < CALLS; ++i) {
            int64_t shape[3];
            draw_shape(l, i, shape);
            digests[task] = digest_call(digests[task], l, dtype, shape);
        }
    }
    xent_free(rooms);
    return unused;
}

int main(int argc, char **argv) {
    int callers = 1;
    const char *wrong = xent_start();
    for (int i = 1; i < argc && !wrong; ++i) {
        disturbed |= !strcmp(argv[i], "disturbed");
        nested |= !strcmp(argv[i], "nested");
        apart |= !strcmp(argv[i], "apart");
        callers = strcmp(argv[i], "callers") ? callers : CALLERS;
        if (!disturbed && !nested && !apart && callers == 1)
            wrong = "usage: digest [disturbed | nested | apart | callers]";
    }
    if (wrong) {
        fprintf(stderr, "%s\n", wrong);
        return 2;
    }
    pthread_t threads[CALLERS];
    for (int i = 1; i < callers; ++i)
        if (pthread_create(&threads[i], NULL, digest_tasks, NULL))
            abort();
    digest_tasks(NULL);
    for (int i = 1; i < callers; ++i)
        pthread_join(threads[i], NULL);
    uint64_t all = 0;
    for (int task = 0; task < TASKS; ++task)
        all = shown(all, digests[task], losses[task % LOSSES_KNOWN].name, (xent_dtype)(task / LOSSES_KNOWN));
    for (xent_dtype dtype = XENT_F32; dtype <= XENT_F64; ++dtype)
        all = shown(all, digest_math(dtype), "functions", dtype);
    printf("%016" PRIx64 "  all\n", all);
    return 0;
}
