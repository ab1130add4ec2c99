/* xent: cross-entropy over arrays, the C interface.
 *
 * One call is one `xent_call`: fill it with XENT_CALL_DEFAULTS, say which loss, which arrays and which parameters, and
 * hand it to `xent_run`. Example: mean loss and gradient of `rows` x `classes` float32 logits:
 *
 *     int64_t shape[1] = {rows}, row[1] = {classes * 4}, one[1] = {8};
 *     xent_call call = XENT_CALL_DEFAULTS;
 *     call.dtype = XENT_F32;
 *     call.ndim = 1, call.shape = shape, call.classes = classes;
 *     call.logits = (xent_array){logits, row};
 *     call.index = (xent_array){targets, one}, call.index_type = XENT_I64;
 *     call.out = (xent_array){gradient, row};
 *     if (xent_run(&call) == XENT_OK) printf("%g\n", call.result);
 *
 * Arrays. The axes of the loss come first (`ndim` of them, sizes `shape`); each array has one stride in bytes for each of
 * these axes: any sign, 0 to broadcast, no alignment needed. An array whose `data` is NULL is absent. The class axis of
 * logits, soft targets and output is contiguous, or else one same axis of the loss is, of more than one element, in all of
 * them (`xent_readable`): rows next to each other, or columns. Columns have 2^24 classes at most.
 *
 * Compute type: double for XENT_F64, float for the others. Losses, weights, log-sum-exps, soft targets and upstream
 * gradients are of that type; the output is of the logits' dtype.
 *
 * Threads. Every function may be called from any thread at any time. Results do not depend on the number of threads, on
 * the batch a row is in, nor on the instruction set: they are the same bits. */
#ifndef XENT_H
#define XENT_H

#include <stdint.h>

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
    XENT_BAD_PROBABILITY, /* a probability outside [0, 1]: call.bad_row says where; nothing has been written */
    XENT_NO_MEMORY,       /* by this function nothing has been written */
    XENT_BAD_LAYOUT,      /* `xent_readable` says no; nothing has been written */
    XENT_INTERRUPTED      /* `poll` said so; outputs are undefined */
} xent_status;

typedef enum {
    XENT_CROSS_ENTROPY,             /* out: gradient with respect to the logits; hess: diagonal of the Hessian */
    XENT_FOCAL_LOSS,                /* (1 - p_y)^strength times it; class indices */
    XENT_POLY1_LOSS,                /* strength (1 - p_y) added to it; class indices */
    XENT_NLL_LOSS,                  /* cross-entropy where `logits` holds log-probabilities; */
    XENT_CATEGORICAL_CROSS_ENTROPY, /* or probabilities, clipped to [eps, 1 - eps] if eps > 0 */
    XENT_DISTILLATION_LOSS,         /* temperature^2 KL(softmax(soft / temperature) || softmax(logits / temperature)) */
    XENT_ENTROPY,                   /* of the softmax of the logits */
    /* Elementwise: every axis is one of the loss, `classes` is unused, `soft` are the targets; any strides. */
    XENT_BINARY_CROSS_ENTROPY,             /* `logits` are probabilities; unclipped, their logarithms are at least -100 */
    XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS, /* and the Hessian */
    XENT_SIGMOID_FOCAL_LOSS,               /* (1 - p_t)^strength times it, without pos_weight; and the Hessian */
    XENT_KL_DIV,                           /* `logits` are log-probabilities */
    XENT_LOGSUMEXP,                        /* lse alone */
    XENT_SOFTMAX,                          /* out: probabilities */
    XENT_LOG_SOFTMAX                       /* out: their logarithms */
} xent_operation;

/* The mean over what counts, or, of elementwise losses, over the first axis. */
typedef enum { XENT_NONE, XENT_SUM, XENT_MEAN, XENT_BATCH_MEAN } xent_reduction;

typedef struct {
    void *data;
    const int64_t *strides; /* bytes; one for each axis of the loss */
} xent_array;

typedef struct {
    xent_operation operation;
    xent_dtype dtype;
    int ndim; /* 0..64 */
    const int64_t *shape;
    int64_t classes;
    int64_t logits_class_step; /* bytes from class to class; 0: contiguous */
    int64_t soft_class_step;
    int64_t out_class_step;
    int64_t hess_class_step;

    xent_array logits;
    xent_array index; /* class indices, of type `index_type`; or else */
    xent_array
        soft; /* class probabilities, compute type; XENT_DISTILLATION_LOSS: the teacher's logits, stored as `logits` */
    xent_dtype index_type;
    const void *class_weight; /* (classes,), compute type and aligned to it, or NULL */
    xent_array sample_weight;
    xent_array grad_output; /* upstream gradient of each row (XENT_NONE) */
    xent_array loss;        /* row losses: required for XENT_NONE, optional otherwise */
    xent_array lse;         /* log-sum-exp of each row, optional */
    xent_array out;         /* see xent_operation; may be exactly the memory of the logits */
    xent_array hess;        /* beside `out`, optional */

    int has_ignore;         /* rows whose class index is `ignore_index` count for nothing */
    int64_t ignore_index;   /* the bits of index_type, sign-extended to 64 */
    double label_smoothing; /* [0, 1] */
    double strength;        /* of the focal losses (gamma >= 0) and XENT_POLY1_LOSS (epsilon) */
    double eps;             /* of the losses of probabilities, which are clipped to [eps, 1 - eps]; 0: no clipping */
    double z_loss;
    double softcap;     /* > 0; 0: none */
    double temperature; /* > 0 */
    /* Of elementwise losses. */
    xent_array pos_weight; /* XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS: multiplies the targets' share; compute type */
    double alpha;          /* XENT_SIGMOID_FOCAL_LOSS: weight of targets 1, and 1 - alpha of targets 0; < 0: none */
    int log_target;        /* XENT_KL_DIV: targets are logarithms */
    double *block_sums;    /* room for two sums of every 4,096 elements or part thereof; NULL: found */
    xent_reduction reduction;
    double grad_scale; /* upstream gradient of the result (XENT_SUM, XENT_MEAN) */

    int threads;             /* 0: xent_get_num_threads() */
    int (*poll)(void *data); /* asked about every 50 ms, on the calling thread; non-zero stops the call. May be NULL */
    void *poll_data;

    /* Results. */
    double divisor;  /* of the mean: the sum of the weights of the rows that count */
    double total;    /* sum of the row losses (XENT_SUM, XENT_MEAN) */
    double result;   /* total, or total / divisor; NaN for a mean of nothing */
    int64_t bad_row; /* in C order over `shape` */
} xent_call;

/* Cross-entropy, f32, mean, temperature 1, no arrays. */
#define XENT_CALL_DEFAULTS ((xent_call){.temperature = 1.0, .grad_scale = 1.0, .alpha = -1.0, .reduction = XENT_MEAN})

/* The three steps of a call. `xent_prepare` checks every class index and finds the divisor, and writes to no output;
 * `xent_compute` writes the rows' results; `xent_finish` sums `loss`, or `block_sums`, in one fixed order. They may be
 * called apart to compute in several parts what does not fit at once: the parts share the divisor of the whole. Parts of
 * elementwise losses are flat, begin at multiples of 4,096 elements and leave their sums in their part of `block_sums`:
 * those of the losses (xent_compute), before that those of the weights (xent_prepare), whose XENT_SUM is the divisor. */
xent_status xent_run(xent_call *call);
xent_status xent_prepare(xent_call *call);
xent_status xent_compute(xent_call *call);
xent_status xent_finish(xent_call *call);

/* Whether the arrays can be used where they lie. */
int xent_readable(const xent_call *call);

/* Threads: the process-wide default, used by calls with threads == 0. The first value is that of XENT_NUM_THREADS, else
 * of OMP_NUM_THREADS, else the smaller of the CPUs this process may run on and its control group's quota. */
void xent_set_num_threads(int threads); /* >= 1 */
int xent_get_num_threads(void);

/* Instruction sets, best first: names of those that this library was built for, whether this machine has them, and the
 * one in use. The choice at start-up is the best, or that of the environment's XENT_ISA; `xent_start` says what is wrong
 * with the environment (NULL if nothing is; the text is static). */
const char *xent_start(void);
const char *xent_isa_name(int i); /* NULL past the last */
int xent_isa_available(int i);
const char *xent_isa(void);
int xent_use_isa(const char *name); /* 0: unknown, or not on this machine */

const char *xent_openmp(void); /* the date of OpenMP's specification, and the file of the runtime; or "none" */
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
