/* xent: cross-entropy over arrays, the C interface.
 *
 * One call is one `xent_call`: begin with XENT_CALL_DEFAULTS, say which operation, which arrays and which parameters, and
 * hand it to `xent_run`. Example: mean loss and gradient of `rows` x `classes` float32 logits:
 *
 *     int64_t shape[1] = {rows}, row[1] = {classes * 4}, one[1] = {8};
 *     xent_call call = XENT_CALL_DEFAULTS;
 *     call.dtype = XENT_F32;
 *     call.ndim = 1, call.shape = shape, call.classes = classes;
 *     call.logits.data = logits, call.logits.strides = row;
 *     call.index.data = targets, call.index.strides = one, call.index_type = XENT_I64;
 *     call.out.data = gradient, call.out.strides = row;
 *     xent_status status = xent_run(&call);
 *     if (status == XENT_OK) printf("%g\n", call.result);
 *     else if (status == XENT_BAD_ARGUMENT) printf("%s\n", call.bad_argument);
 *     else printf("%s\n", xent_status_text(status));
 *
 * Arrays. The axes of the loss come first (`ndim` of them, sizes `shape`); each array has one stride in bytes for each of
 * these axes: any sign, 0 to broadcast, no alignment needed. An array whose `data` is NULL is absent. The class axis of
 * logits, soft targets and output is contiguous, or else one same axis of the loss is, of more than one element, in all of
 * them (`xent_layout_supported`): rows next to each other, or columns. Columns have 2^24 classes at most. No element of an
 * output shares memory with another element, of that array or of any other; `out` alone may be exactly the memory of the
 * logits. That each axis of an output steps over all the axes of shorter strides is checked; between arrays, whether they
 * begin at the same address.
 *
 * Compute type: double for XENT_F64, float for the others. Losses, weights, log-sum-exps, soft targets and upstream
 * gradients are of that type; the output is of the logits' dtype.
 *
 * Errors. Every field is checked before anything is written. A field that an operation does not take (operations.def says
 * which it does) must be left as XENT_CALL_DEFAULTS has it, so that nothing asked for is silently ignored.
 *
 * Threads. Every function may be called from any thread at any time, but a call and its outputs belong to one. Results do
 * not depend on the number of threads, on the batch a row is in, nor on the instruction set: they are the same bits. */
#ifndef XENT_H
#define XENT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    XENT_F32,
    XENT_F64,
    XENT_F16,
    XENT_BF16, /* logits */
    XENT_BOOL,
    XENT_I8,
    XENT_U8,
    XENT_I16,
    XENT_U16,
    XENT_I32,
    XENT_U32,
    XENT_I64,
    XENT_U64 /* class indices */
} xent_dtype;

typedef enum {
    XENT_OK,
    XENT_BAD_TARGET,      /* a class index outside [0, classes): call.bad_row says where; nothing has been written */
    XENT_BAD_PROBABILITY, /* a probability, or its target, outside [0, 1]: call.bad_row says where; nothing has been written
                           */
    XENT_NO_MEMORY,       /* by this function nothing has been written */
    XENT_BAD_LAYOUT,      /* `xent_layout_supported` says no; nothing has been written */
    XENT_INTERRUPTED,     /* `poll` said so; outputs are undefined */
    XENT_BAD_ARGUMENT     /* call.bad_argument names the field; nothing has been written. Or there is no call: NULL */
} xent_status;

/* What a status means, in a few words. */
const char *xent_status_text(xent_status status);

/* XENT_CROSS_ENTROPY, XENT_SOFTMAX, ...: the rows of operations.def, beside this file, where each is described. */
typedef enum {
#define XENT_OPERATION(NAME, ...) XENT_##NAME,
#include "operations.def"
} xent_operation;

/* "cross_entropy", "softmax", ...; NULL past the last. */
const char *xent_operation_name(xent_operation operation);

/* The mean over what counts, or, of elementwise losses, over the first axis. */
typedef enum { XENT_NONE, XENT_SUM, XENT_MEAN, XENT_BATCH_MEAN } xent_reduction;

typedef struct {
    void *data;
    const int64_t *strides; /* bytes; one for each axis of the loss */
} xent_array;

/* The sums of one row, or of a shard of its classes, from which the head computes the loss. Shards of a row merge. With z
 * the logits after the soft cap and t = (z - max) / temperature: */
typedef struct {
    double max;       /* the largest z; the lowest finite number of the compute type where every class is masked */
    double sum_exp;   /* sum of exp(t) over the classes below the maximum, */
    double max_count; /* and how many classes attain it */
    double sum_a;     /* of the second stream a (class weights if labels are smoothed, or soft targets): sum of a, */
    double sum_a_t;   /* and of a (z - max); of XENT_ENTROPY sum of exp(t) (z - max) */
    /* Of XENT_DISTILLATION_LOSS the teacher's; sum_a_t is then that of exp(t') ((z' - max') - (z - max)). */
    double teacher_max, teacher_sum_exp, teacher_max_count;
    /* z and class weight of the target, if its class is here. The slope is that of the library's own long rows. */
    double target_logit, target_weight, target_slope;
    int64_t has_target;
    int64_t class_begin, class_end, num_classes; /* the classes that are here, of how many */
    double temperature;
    int64_t operation;
    int64_t stream; /* which second stream sum_a and sum_a_t are of, as the library numbers them */
    int64_t argmax; /* the number of the first class with the largest logit, or of the first that is NaN, as NumPy has it */
} xent_sums;

typedef struct {
    /* sizeof(xent_call), as XENT_CALL_DEFAULTS has it. A library that knows more fields than its caller takes the defaults
     * for the others: new ones come last. */
    size_t size;

    /* Results. */
    const char *bad_argument; /* the name of a field of this struct, of all threads; NULL: none is bad */
    int64_t bad_row;          /* in C order over `shape` */
    double divisor;           /* of the mean: the sum of the weights of the rows that count */
    double total;             /* sum of the row losses (XENT_SUM, XENT_MEAN) */
    double result;            /* total, or total / divisor; NaN for a mean of nothing */

    xent_operation operation;
    xent_dtype dtype;
    int ndim; /* 0..64 */
    xent_dtype index_type;
    const int64_t *shape; /* the number of all logits times 8 is less than 2^63 */
    int64_t classes;
    int64_t logits_class_step; /* bytes from class to class; 0: contiguous */
    int64_t soft_class_step;
    int64_t out_class_step;
    int64_t hess_class_step;

    xent_array logits;
    xent_array index;         /* class indices, of type `index_type`; or else */
    xent_array soft;          /* class probabilities, compute type; XENT_DISTILLATION_LOSS: the teacher's logits */
    const void *class_weight; /* (classes,), compute type and aligned to it, or NULL */
    xent_array sample_weight;
    xent_array pos_weight;  /* XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS: multiplies the targets' share; compute type */
    xent_array grad_output; /* upstream gradient of each row (XENT_NONE) */
    xent_array loss;        /* row losses: required for XENT_NONE, optional otherwise */
    xent_array lse;         /* log-sum-exp of each row, optional */
    xent_array out;         /* gradient with respect to the logits, or what the operation says */
    xent_array hess;        /* beside `out`, optional: diagonal of the Hessian */

    int64_t ignore_index;   /* the bits of index_type, sign-extended to 64 */
    int has_ignore;         /* rows whose class index is `ignore_index` count for nothing */
    int log_target;         /* XENT_KL_DIV: targets are logarithms */
    double label_smoothing; /* [0, 1] */
    double strength;        /* of the focal losses (gamma, [0, 1000]) and XENT_POLY1_LOSS (epsilon, up to 1e30) */
    double eps;             /* of the losses of probabilities, which are clipped to [eps, 1 - eps]; 0: no clipping */
    double z_loss;          /* [0, 1e30] */
    double softcap;         /* [1e-30, 1e30]; 0: none */
    double temperature;     /* [1e-30, 1e30] */
    double alpha;           /* XENT_SIGMOID_FOCAL_LOSS: weight of targets 1, and 1 - alpha of targets 0; < 0: none */
    double grad_scale;      /* upstream gradient of the result (XENT_SUM, XENT_MEAN) */
    xent_reduction reduction;

    int threads;             /* 0: xent_get_num_threads() */
    int (*poll)(void *data); /* asked about every 50 ms, on the calling thread; non-zero stops the call. May be NULL */
    void *poll_data;
    double *block_sums; /* room for two sums of every 4,096 rows or part thereof; NULL: found */

    /* Of the stages. */
    xent_sums *sums;      /* of each row, in C order over `shape` */
    int64_t class_offset; /* the arrays hold a shard, of the `classes` from this one on, */
    int64_t num_classes;  /* of so many; 0: up to the shard's end */

    /* XENT_CROSS_ENTROPY of class indices, unsmoothed: entropy_weight times the entropy of the softmax is taken from each
     * row's loss; sample weights multiply it, class weights do not. */
    double entropy_weight; /* [-1e30, 1e30] */

    /* xent_apply alone, of XENT_CROSS_ENTROPY: for each row its coefficients, compute type, each of which may be absent.
     * `out` is then the gradient of the sum over rows of lse_coef lse + nll_coef nll + entropy_coef entropy + smooth_coef
     * sum_c w_c (lse - z_c) with the second stream that the sums have: entropy_coef with entropy_weight != 0, smooth_coef
     * with label_smoothing > 0; nll is that of `index` or `soft`. Weights, reduction and grad_output have no part in it. */
    xent_array lse_coef, nll_coef, entropy_coef, smooth_coef;

    int teacher_grad; /* XENT_DISTILLATION_LOSS: `out` is the gradient with respect to the teacher's logits */

    /* xent_reduce alone, of XENT_CROSS_ENTROPY of all classes, without soft targets and smoothing: the sums have those of
     * the entropy, and in sum_a that of exp(2 t); */
    int score;
    /* and beside them, for each row in C order, what one more look finds while a row is in the cache: */
    int top_k;          /* the `top_k` largest logits after the cap, in descending order, ties by class: [0, 128] */
    int64_t *rank;      /* how many logits are larger than the target's; -1 without one. Or NULL */
    int64_t *top_index; /* (rows, top_k): their classes, -1 in a row with NaN, */
    double *top_logit;  /* and the logits */

    /* XENT_ASYMMETRIC_LOSS: gamma of negative elements, [0, 1000], beside that of positive ones, `strength`; and the margin
     * that is taken off their probability, [0, 1). */
    double negative_strength, clip;

    /* XENT_CROSS_ENTROPY: added to the logits of each row, before the cap, rounded to the compute type. */
    const void *class_bias; /* (classes,), compute type and aligned to it, or NULL */

    /* xent_reduce alone, of contiguous classes: `sums` are those of the classes before, and go on, as if all had been in one
     * array. The shard begins at a multiple of 1,024 classes and ends at the next one of 16,384 at the latest. */
    int continues;
} xent_call;

/* Cross-entropy, f32, mean, temperature 1, no arrays. */
static inline xent_call xent_call_defaults(void) {
    xent_call call;
    memset(&call, 0, sizeof call);
    call.size = sizeof call;
    call.operation = XENT_CROSS_ENTROPY;
    call.dtype = XENT_F32;
    call.reduction = XENT_MEAN;
    call.temperature = 1;
    call.grad_scale = 1;
    call.alpha = -1;
    return call;
}
#define XENT_CALL_DEFAULTS (xent_call_defaults())

/* The three steps of a call. `xent_prepare` checks every class index and finds the divisor, and writes to no output;
 * `xent_compute` writes the rows' results; `xent_finish` sums `loss`, or `block_sums`, in one fixed order. They may be
 * called apart to compute in several parts what does not fit at once: the parts share the divisor of the whole. Parts of
 * elementwise losses are flat, begin at multiples of 4,096 elements and leave their sums in their part of `block_sums`:
 * those of the losses (xent_compute), before that those of the weights (xent_prepare), whose XENT_SUM is the divisor.
 * An array that a step neither reads nor writes may be absent: xent_prepare needs no soft targets and no outputs,
 * xent_finish nothing but what it sums.
 *
 * Of log-probabilities (XENT_NLL_LOSS) and probabilities (XENT_CATEGORICAL_CROSS_ENTROPY) with class indices and unsmoothed
 * labels, the target's element of each row is all that is read. `xent_prepare` checks that this probability is in [0, 1], of
 * rows that count, or bad_row is the first for which it is not. */
xent_status xent_run(xent_call *call);
xent_status xent_prepare(xent_call *call);
xent_status xent_compute(xent_call *call);
xent_status xent_finish(xent_call *call);

/* The stages of a softmax loss of logits, or of XENT_LOGSUMEXP, XENT_SOFTMAX and XENT_LOG_SOFTMAX, one by one: for shards of
 * the classes (a vocabulary in several files or processes), or for losses of one's own over the same sums.
 *
 *     xent_reduce   logits, targets → `sums`; every class index is checked before they are written
 *     xent_merge    the sums of shards → those of all classes
 *     xent_head     `sums` of all classes → loss, lse, divisor, total, result
 *     xent_apply    logits, `sums` of all classes, targets and the divisor that xent_head has found → out, hess
 *
 * Index targets are numbers of the whole vocabulary; a row whose target lies in another shard takes it from there.
 * Sums are of the second stream that the options of their xent_reduce asked for, and are refused where another is needed.
 * `class_weight`, `class_bias` and soft targets are the shard's part. Each stage takes the fields of xent_run and may lack
 * what it neither reads nor writes: the logits are absent in xent_head. In one shard the bits are those of xent_run but for
 * rows with +inf, whose log-sum-exp is NaN here, and for those of which xent_run reads the logits again, because their sums
 * do not give the loss: costs beyond the compute type's range, a teacher that nearly agrees. */
xent_status xent_reduce(xent_call *call);
xent_status xent_head(xent_call *call);
xent_status xent_apply(xent_call *call);

/* Of each of `rows` rows the sums of `count` shards, in the order of their classes; `merged` may be one of the shards.
 * XENT_BAD_ARGUMENT, and nothing is written, where a pointer is NULL, or shards of a row leave a gap, overlap, are out of
 * order or are of different calls. *bad_row, if it is not NULL, is the first such row. */
xent_status xent_merge(xent_sums *merged, const xent_sums *const *shards, int64_t count, int64_t rows, int64_t *bad_row);

/* Divides `count` numbers next to each other by the scale of a loss (torch.amp), in place, and says in *all_finite whether
 * all of them were finite, in the same pass. Each quotient is rounded once. The scale is a positive normal number of float;
 * `data` is aligned to its type, XENT_F32, XENT_F64, XENT_F16 or XENT_BF16; threads as those of a call. XENT_BAD_ARGUMENT,
 * and nothing is written, where one of these is not so. */
xent_status xent_unscale(void *data, xent_dtype dtype, int64_t count, double scale, int threads, int *all_finite);

/* A matrix: the number of row i and column j is at data + i * row_step + j * column_step, steps in bytes of any sign. */
typedef struct {
    void *data;
    xent_dtype dtype; /* XENT_F32, XENT_F16 or XENT_BF16 */
    int64_t row_step, column_step;
} xent_matrix;

/* out = a b, or with `add` out += a b: (rows, columns) = (rows, inner) (inner, columns), computed in float. Of `out`, float,
 * rows are contiguous, and it shares no memory with the others. Each number of it is a sum over runs of 512 products, fused
 * one after the other: its error is at most (512 + inner / 512) 2^-24 sum |a b|, and its bits are the same on any number of
 * threads and any instruction set. Threads and `poll` as those of a call. */
xent_status xent_multiply(const xent_matrix *a, const xent_matrix *b, const xent_matrix *out, int64_t rows, int64_t columns,
                          int64_t inner, int add, int threads, int (*poll)(void *data), void *poll_data);

/* Rounds `count` numbers next to each other to XENT_F16 or XENT_BF16, to nearest, ties to even. */
xent_status xent_round(void *to, xent_dtype dtype, const float *from, int64_t count, int threads);

/* Whether the arrays can be used where they lie. */
int xent_layout_supported(const xent_call *call);

/* "0.1.0" */
const char *xent_version(void);

/* Threads: the process-wide default, used by calls with threads == 0. The first value is that of XENT_NUM_THREADS, else
 * of OMP_NUM_THREADS, else the smaller of the CPUs this process may run on and its control group's quota. */
void xent_set_num_threads(int threads); /* >= 1 */
int xent_get_num_threads(void);
/* The most that OpenMP lets a process have, OMP_THREAD_LIMIT: who asks for more gets so many. At most 1,024. */
int xent_thread_limit(void);

/* Instruction sets, best first: names of those that this library was built for, whether this machine has them, and the
 * one in use. The choice at start-up is the best, or that of the environment's XENT_ISA; `xent_start` says what is wrong
 * with the environment (NULL if nothing is; the text is this thread's until its next call). */
const char *xent_start(void);
const char *xent_isa_name(int i); /* NULL past the last */
int xent_isa_available(int i);
const char *xent_isa(void);
int xent_use_isa(const char *name); /* 0: unknown, or not on this machine */

/* The date of OpenMP's specification, and the file of the runtime; or "none". The text is this thread's. */
const char *xent_openmp(void);
const char *xent_compiler(void);

/* This machine's memory at full speed, to measure kernels by: reading alone, copying with streaming stores. */
double xent_memory_read(const void *from, int64_t bytes, int threads);
void xent_memory_copy(void *to, const void *from, int64_t bytes, int threads); /* `to` aligned to 64 */

/* The functions the kernels are made of, over n floats or doubles, to measure their accuracy by: exp for x <= 0 (0 where
 * that is below the smallest normal number), log(x) for x >= 0, log(1 + x) for x > -1, tanh and its derivative, and the
 * log(1 + x) for 0 <= x <= 1 of elementwise losses. */
typedef enum { XENT_EXP, XENT_LOG, XENT_LOG1P, XENT_TANH, XENT_TANH_SLOPE, XENT_LOG1P_UNIT } xent_function;
void xent_math(xent_function function, xent_dtype dtype, const void *from, void *to, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
