/* The interface between the call (csrc/call) and the kernels: plain C, no vectors.
 *
 * A kernel works on a run of rows, on one thread and without allocating: its scratch is a workspace that the caller hands
 * in. `xent_plan` is the same for a whole call, `xent_rows` is one run of it. There is one table of functions for each
 * instruction set and compute type; how the logits are stored is a field of the plan. */
#ifndef XENT_KERNEL_H
#define XENT_KERNEL_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>

#include "../call/divergence.h"
#include "../call/product.h"
#include "../double_double.h"
#include "../xent.h"

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||                              \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "-ffast-math, -Ofast and their parts change what is computed, and with it bits and bounds: compile without them"
#endif
#if FLT_EVAL_METHOD != 0
#error "intermediate results would be wider than their type, which changes bits: compile for SSE, -msse2 -mfpmath=sse"
#endif

/* One order of summation in every layout: classes in blocks, blocks in chunks; see sums.h. */
enum { XENT_BLOCK = 1024, XENT_CHUNK = 16384, XENT_SUM_BLOCK = 4096, XENT_MOST_LANES = 16 };
/* Elements that pass through a buffer at a time. */
enum { XENT_PIECE = 1024 };
enum { MOST_TOP = 128 };
/* Rows of so many classes are computed in tiles: measured, it is there that long vectors win; with a gradient, later where
 * rows end inside a vector, sooner of doubles. */
enum { XENT_NARROW_LOSS = 352, XENT_NARROW_GRADIENT = 112, XENT_NARROW_ODD_GRADIENT = 152, XENT_NARROW_F64_GRADIENT = 88 };
/* The most classes of rows that have a lane each where the Jensen-Shannon divergence is computed. */
enum { XENT_NARROW_DIVERGENCE = 128 };
/* Classes that a vector of floats can number, for lanes that are rows. */
enum { XENT_MOST_IN_LANES = 1 << 24 };

/* The second stream a_c of a row: none, class weights, soft targets, the row's own exponentials (entropy), or those of
 * another row, the teacher's (distillation). What it adds to the loss is in head.h. */
typedef enum {
    XENT_NO_STREAM,
    XENT_WEIGHTS,
    XENT_SOFT,
    XENT_SELF,
    XENT_TEACHER,
    XENT_SQUARES, /* XENT_SELF, and the squares of the exponentials: reduced alone */
    XENT_STREAMS
} xent_stream;
/* What happens to a logit on its way in: nothing, a temperature, a soft cap and a temperature, or it is a log-probability
 * (or a probability) and no softmax is taken. In tiles, apply may find the exponentials that reduce has kept. */
typedef enum { XENT_PLAIN, XENT_TEMPERATURE, XENT_SOFTCAP, XENT_LOG_PROBS, XENT_KEPT, XENT_TRANSFORMS } xent_transform;
/* What the second pass writes: nothing, multiples of exp(z) (gradients, softmax), log_softmax, or the gradient for a
 * teacher.
 */
typedef enum { XENT_NO_OUTPUT, XENT_EXPONENTIALS, XENT_LOGARITHMS, XENT_OF_TEACHER } xent_form;
/* The modulation of the negative log-likelihood of the target: none, (1 - p)^strength times it, strength (1 - p) more. */
typedef enum { XENT_UNMODULATED, XENT_FOCAL, XENT_POLY1 } xent_modulation;
/* What the coefficients of a row multiply. */
typedef enum { XENT_LSE_COEF, XENT_NLL_COEF, XENT_ENTROPY_COEF, XENT_SMOOTH_COEF, XENT_COEFS } xent_coef;
/* How rows lie in memory: classes contiguous, many or few, or lanes along another axis. */
typedef enum { XENT_WIDE, XENT_NARROW, XENT_COLUMNS, XENT_LAYOUTS } xent_layout;

typedef struct {
    xent_operation operation;
    xent_dtype dtype;                  /* of the logits and outputs as stored */
    int64_t classes;                   /* of the arrays: a shard's own */
    int64_t class_offset, num_classes; /* the number of the first of them, and the size of the whole vocabulary */
    xent_stream stream;
    xent_transform transform;
    xent_form form;
    xent_layout layout;
    int64_t logits_class_step, soft_class_step, out_class_step, hess_class_step; /* bytes */
    xent_modulation modulation;
    double strength;
    int non_temporal;         /* the output will not fit the cache */
    int64_t rows_bytes;       /* rows of so many bytes are still in the cache when their second pass begins */
    int64_t fetch_ahead;      /* classes between what is summed and what is fetched, whole blocks */
    int keep_infinite;        /* a row with +inf has the log-sum-exp +inf (SciPy) rather than NaN */
    const void *class_weight; /* (classes,) in the compute type, or NULL: all 1 */
    const void *class_bias;   /* the same, or NULL: all 0; added to the logits as they are gathered */
    int index_type;           /* xent_dtype of the class indices */
    int has_ignore;
    int64_t ignore;              /* as the bits of the index type, sign-extended */
    double hard, smooth, z;      /* (1 - label_smoothing), label_smoothing / num_classes, z_loss */
    double mix_keep, mix_add;    /* soft targets: a = w (mix_keep t + mix_add) */
    double softcap, temperature; /* softcap 0: none */
    int probabilities;           /* XENT_LOG_PROBS: probabilities, not their logarithms */
    double clip;                 /* and these are clipped to [clip, 1 - clip]; 0: not */
    double scale;                /* d(result) / d(row loss), without the upstream gradient of the row */
    int by_coefficients;         /* the gradient is that of each row's coefficients, of xent_rows */
    int top_k;                   /* so many of the largest logits of a row are wanted */
    int no_row_counts;           /* a mean over weights that sum to 0: the gradient is exact zeros */
    int continues;               /* a chunk whose sums so far are those of the rows */
} xent_plan;

/* The stages of a run: all of them in one go, or some, with the sums of the rows in memory in between. */
typedef enum { XENT_REDUCE = 1, XENT_HEAD = 2, XENT_APPLY = 4, XENT_ALL_STAGES = 7 } xent_stages;

typedef struct {
    int64_t count;
    const char *logits, *index, *soft, *weight, *upstream; /* the last four may be NULL */
    const char *coefs[XENT_COEFS];                         /* by_coefficients; each may be NULL */
    int64_t coef_steps[XENT_COEFS];
    char *loss, *lse, *out, *hess; /* each may be NULL; hess only beside out */
    int64_t logits_step, index_step, soft_step, weight_step, upstream_step, loss_step, lse_step, out_step, hess_step;
    /* Columns of short runs: the arrays with classes hold so many rows along the vector axis, then the next so many steps
     * away. They begin with a whole run, of which `passed` rows come before row 0. 0: there is one run. */
    int64_t short_run, passed, logits_run_step, soft_run_step, out_run_step, hess_run_step;
    void *workspace;   /* xent_kernels.workspace_bytes, aligned to 64, and no other thread's at the same time */
    xent_sums *chunks; /* room for XENT_CHUNKS(classes), of columns for each lane; NULL: up to XENT_OWN_CHUNKS are found */
    xent_stages stages;
    xent_sums *sums; /* of each row: written by a run that only reduces, read by one that does not */
    int64_t sums_step;
    /* Of a run that only reduces, in the order of rows, at steps of bytes; each may be NULL. */
    char *rank, *top_index, *top_logit;
    int64_t rank_step, top_index_step, top_logit_step;
} xent_rows;

/* Where row r of an array with classes is. */
static inline int64_t xent_row_offset(const xent_rows *rows, int64_t step, int64_t run_step, int64_t r) {
    if (!rows->short_run)
        return r * step;
    r += rows->passed;
    return r / rows->short_run * run_step + r % rows->short_run * step;
}
static inline const char *xent_logits_of(const xent_rows *rows, int64_t r) {
    return rows->logits + xent_row_offset(rows, rows->logits_step, rows->logits_run_step, r);
}
static inline const char *xent_soft_of(const xent_rows *rows, int64_t r) {
    return rows->soft ? rows->soft + xent_row_offset(rows, rows->soft_step, rows->soft_run_step, r) : NULL;
}

/* A run of class indices to be checked, and where they are to be found, the probabilities of these classes in the rows that
 * count. */
typedef struct {
    const char *index;
    int64_t step, count;
    int type, has_ignore;
    int64_t ignore, classes;
    const char *probabilities, *weight; /* each may be NULL */
    int64_t probabilities_step, class_step, weight_step;
    xent_dtype dtype;
    double most; /* the largest number that passes for a probability */
} xent_indices;

/* Of (log-)probabilities a class index needs one. */
static inline int xent_reads_target_alone(const xent_plan *plan) {
    return plan->transform == XENT_LOG_PROBS && plan->stream == XENT_NO_STREAM;
}

/* What is computed of each element and summed: one of the elementwise losses; 1, which weights multiply; 1 where x or the
 * target is not a probability. */
typedef enum {
    XENT_BINARY,
    XENT_BINARY_CLIPPED,
    XENT_BINARY_LOGITS,
    XENT_BINARY_UNBOUNDED, /* logits, with a pos_weight that may be infinite */
    XENT_SIGMOID_FOCAL,
    XENT_ASYMMETRIC,
    XENT_KL,
    XENT_ONE,
    XENT_OUTSIDE,
    XENT_ELEMENTS
} xent_element;

typedef struct {
    xent_dtype dtype; /* of x and the outputs as stored */
    xent_element element;
    int derivatives;          /* 0, 1, 2 */
    double mix_keep, mix_add; /* targets: mix_keep t + mix_add */
    double eps, alpha, gamma; /* none: eps 0, alpha < 0 */
    double gamma_neg, clip;   /* XENT_ASYMMETRIC, whose gamma is that of positive elements */
    double most;              /* XENT_OUTSIDE: the largest x that passes for a probability */
    int log_target;
    double scale;        /* d(result) / d(element's loss), without weight and upstream gradient */
    double weight_scale; /* which the weights are multiplied by: a power of two */
} xent_element_plan;

/* A run of elements, next to each other in every array. Of the inputs only x is required, by losses their target too; the
 * outputs are as many as the derivatives, `loss` besides or NULL. */
typedef struct {
    int64_t count;
    const char *x, *target, *weight, *pos_weight, *upstream;
    char *loss, *out, *hess;
    double *sums;     /* XENT_MOST_LANES: added to; elementwise.h says how. Or NULL */
    int non_temporal; /* the outputs will not fit the cache */
    void *workspace;
} xent_elements;

/* One piece of the positions of a sample, for losses of regions (dice, Tversky); regions.h says what is computed. */
typedef struct {
    xent_dtype dtype;   /* of logits and gradient as stored; soft targets are of the compute type */
    xent_layout layout; /* XENT_NARROW: classes are contiguous; XENT_COLUMNS: positions are */
    int64_t classes, count;
    const char *logits, *index, *soft; /* one of the last two is NULL */
    int64_t logits_step, logits_class_step, soft_step, soft_class_step, index_step, out_step, out_class_step;
    int index_type, has_ignore;
    int64_t ignore;
    double_double *sums; /* (3, classes): sum p, sum p t, sum t are written; NULL: the gradient is */
    const double *slope; /* (2, classes): the derivatives with respect to the first two sums */
    char *out;
    int non_temporal;
    void *workspace; /* xent_region_space(classes) bytes */
} xent_region;

/* Tiles of so many classes that are gathered together, and what may be written past their end. */
enum { XENT_REGION_VECTORS = 256, XENT_REGION_TILES = 16, XENT_REGION_SPARE = 8 };
static inline int64_t xent_region_tiles(int64_t classes) {
    const int64_t fit = XENT_REGION_VECTORS / (classes < 1 ? 1 : classes);
    return fit < 1 ? 1 : fit > XENT_REGION_TILES ? XENT_REGION_TILES : fit;
}
static inline size_t xent_region_space(int64_t classes) {
    const int64_t vectors = 3 * (xent_region_tiles(classes) * classes + XENT_REGION_SPARE) + 6 * classes;
    return (size_t)(vectors * 64 + classes * (int64_t)(sizeof(double_double) + 3 * sizeof(double)));
}

/* Which rows have a diagonal Hessian to offer. */
#define XENT_HAS_HESSIAN(stream, transform) ((stream) < XENT_SELF && (transform) != XENT_LOG_PROBS)

/* Every combination there is, for benchmarks/native to check and measure: of rows the second stream and the transform, each
 * in every layout; of elements what is computed and how many derivatives. */
#define XENT_ROW_KERNELS(USE)                                                                                               \
    USE(XENT_NO_STREAM, XENT_PLAIN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_PLAIN)                                                                                           \
    USE(XENT_SOFT, XENT_PLAIN)                                                                                              \
    USE(XENT_SELF, XENT_PLAIN)                                                                                              \
    USE(XENT_NO_STREAM, XENT_TEMPERATURE)                                                                                   \
    USE(XENT_WEIGHTS, XENT_TEMPERATURE)                                                                                     \
    USE(XENT_SOFT, XENT_TEMPERATURE)                                                                                        \
    USE(XENT_SELF, XENT_TEMPERATURE)                                                                                        \
    USE(XENT_TEACHER, XENT_TEMPERATURE)                                                                                     \
    USE(XENT_NO_STREAM, XENT_SOFTCAP)                                                                                       \
    USE(XENT_WEIGHTS, XENT_SOFTCAP)                                                                                         \
    USE(XENT_SOFT, XENT_SOFTCAP)                                                                                            \
    USE(XENT_SELF, XENT_SOFTCAP)                                                                                            \
    USE(XENT_NO_STREAM, XENT_LOG_PROBS)                                                                                     \
    USE(XENT_WEIGHTS, XENT_LOG_PROBS)                                                                                       \
    USE(XENT_SOFT, XENT_LOG_PROBS)

/* What of these is compiled: a cap is applied before the kernels see the logits, and of a target alone there is nothing to
 * sum. */
#define XENT_REDUCE_KERNELS(USE)                                                                                            \
    USE(XENT_NO_STREAM, XENT_PLAIN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_PLAIN)                                                                                           \
    USE(XENT_SOFT, XENT_PLAIN)                                                                                              \
    USE(XENT_SELF, XENT_PLAIN)                                                                                              \
    USE(XENT_SQUARES, XENT_PLAIN)                                                                                           \
    USE(XENT_NO_STREAM, XENT_TEMPERATURE)                                                                                   \
    USE(XENT_WEIGHTS, XENT_TEMPERATURE)                                                                                     \
    USE(XENT_SOFT, XENT_TEMPERATURE)                                                                                        \
    USE(XENT_SELF, XENT_TEMPERATURE)                                                                                        \
    USE(XENT_SQUARES, XENT_TEMPERATURE)                                                                                     \
    USE(XENT_TEACHER, XENT_TEMPERATURE)                                                                                     \
    USE(XENT_WEIGHTS, XENT_LOG_PROBS)                                                                                       \
    USE(XENT_SOFT, XENT_LOG_PROBS)

#define XENT_APPLY_KERNELS(USE)                                                                                             \
    USE(XENT_NO_STREAM, XENT_PLAIN, XENT_LOGARITHMS, 0)                                                                     \
    USE(XENT_NO_STREAM, XENT_PLAIN, XENT_EXPONENTIALS, 0)                                                                   \
    USE(XENT_NO_STREAM, XENT_PLAIN, XENT_EXPONENTIALS, 1)                                                                   \
    USE(XENT_WEIGHTS, XENT_PLAIN, XENT_EXPONENTIALS, 0)                                                                     \
    USE(XENT_WEIGHTS, XENT_PLAIN, XENT_EXPONENTIALS, 1)                                                                     \
    USE(XENT_SOFT, XENT_PLAIN, XENT_EXPONENTIALS, 0)                                                                        \
    USE(XENT_SOFT, XENT_PLAIN, XENT_EXPONENTIALS, 1)                                                                        \
    USE(XENT_SELF, XENT_PLAIN, XENT_EXPONENTIALS, 0)                                                                        \
    USE(XENT_NO_STREAM, XENT_TEMPERATURE, XENT_EXPONENTIALS, 0)                                                             \
    USE(XENT_NO_STREAM, XENT_TEMPERATURE, XENT_EXPONENTIALS, 1)                                                             \
    USE(XENT_WEIGHTS, XENT_TEMPERATURE, XENT_EXPONENTIALS, 0)                                                               \
    USE(XENT_WEIGHTS, XENT_TEMPERATURE, XENT_EXPONENTIALS, 1)                                                               \
    USE(XENT_SOFT, XENT_TEMPERATURE, XENT_EXPONENTIALS, 0)                                                                  \
    USE(XENT_SOFT, XENT_TEMPERATURE, XENT_EXPONENTIALS, 1)                                                                  \
    USE(XENT_SELF, XENT_TEMPERATURE, XENT_EXPONENTIALS, 0)                                                                  \
    USE(XENT_TEACHER, XENT_TEMPERATURE, XENT_EXPONENTIALS, 0)                                                               \
    USE(XENT_TEACHER, XENT_TEMPERATURE, XENT_OF_TEACHER, 0)                                                                 \
    USE(XENT_WEIGHTS, XENT_LOG_PROBS, XENT_EXPONENTIALS, 0)                                                                 \
    USE(XENT_SOFT, XENT_LOG_PROBS, XENT_EXPONENTIALS, 0)

/* Streams of which reduce may keep the exponentials of a tile, in the place of its logits, for apply. */
#define XENT_KEEPING_STREAMS(USE) USE(XENT_NO_STREAM) USE(XENT_WEIGHTS) USE(XENT_SOFT)

#define XENT_ELEMENT_KERNELS(USE)                                                                                           \
    USE(XENT_BINARY, 0)                                                                                                     \
    USE(XENT_BINARY, 1)                                                                                                     \
    USE(XENT_BINARY_CLIPPED, 0)                                                                                             \
    USE(XENT_BINARY_CLIPPED, 1)                                                                                             \
    USE(XENT_BINARY_LOGITS, 0)                                                                                              \
    USE(XENT_BINARY_LOGITS, 1)                                                                                              \
    USE(XENT_BINARY_LOGITS, 2)                                                                                              \
    USE(XENT_BINARY_UNBOUNDED, 0)                                                                                           \
    USE(XENT_BINARY_UNBOUNDED, 1)                                                                                           \
    USE(XENT_BINARY_UNBOUNDED, 2)                                                                                           \
    USE(XENT_SIGMOID_FOCAL, 0)                                                                                              \
    USE(XENT_SIGMOID_FOCAL, 1)                                                                                              \
    USE(XENT_SIGMOID_FOCAL, 2)                                                                                              \
    USE(XENT_ASYMMETRIC, 0)                                                                                                 \
    USE(XENT_ASYMMETRIC, 1)                                                                                                 \
    USE(XENT_KL, 0)                                                                                                         \
    USE(XENT_KL, 1)                                                                                                         \
    USE(XENT_ONE, 0)                                                                                                        \
    USE(XENT_OUTSIDE, 0)

typedef struct {
    const char *isa;
    size_t workspace_bytes;
    void (*rows)(const xent_plan *plan, const xent_rows *rows);
    /* The chunks of one row's classes begin..end, from one chunk's first to another's last. */
    void (*reduce_chunks)(const xent_plan *plan, const xent_rows *row, int64_t begin, int64_t end);
    /* These merged into the row's sums, and its head. */
    void (*finish_row)(const xent_plan *plan, const xent_rows *row);
    /* The sums of `count` parts, in the order of their classes; two parts of one row may not overlap. */
    xent_sums (*merge)(const xent_sums *parts, int64_t count, double temperature, xent_stream stream);
    void (*elements)(const xent_element_plan *plan, const xent_elements *elements);
    int64_t (*region)(const xent_region *piece);
    /* Rows begin..end-1 of a call; NULL but of float64. */
    void (*divergence)(const xent_divergence *call, int64_t begin, int64_t end, void *workspace);
    /* Of float32 alone: the factors of a matrix product, `count` rows or columns of them, packed; and multiplied, to (rows,
     * columns) of the result or, with `add`, added to them. */
    void (*pack_strips)(void *to, const xent_factor *left, int64_t count, int64_t depth);
    void (*pack_panels)(void *to, const xent_factor *right, int64_t count, int64_t depth);
    void (*multiply)(const void *strips, const void *panels, int64_t depth, char *out, int64_t step, int64_t rows,
                     int64_t columns, int add);
    /* The same of bfloat16 that is contiguous along the inner axis, by an instruction for pairs: which packs nothing, and
     * returns 0, where its bits might be others. NULL, or not `multiplies_pairs`: there is none. */
    int (*multiplies_pairs)(void);
    int (*pack_strip_pairs)(void *to, const xent_factor *left, int64_t count, int64_t depth);
    int (*pack_panel_pairs)(void *to, const xent_factor *right, int64_t count, int64_t depth);
    void (*multiply_pairs)(const void *strips, const void *panels, int64_t depth, char *out, int64_t step, int64_t rows,
                           int64_t columns, int add);
    /* Numbers next to each other, rounded to the type they are stored in. */
    void (*round)(xent_dtype dtype, void *to, const void *from, int64_t count);
    /* How many rows are not ignored; in *bad the first whose index is neither a class nor ignored, if there is one, and in
     * *outside the first before it whose probability is outside [0, 1]. */
    int64_t (*check)(const xent_indices *indices, int64_t *bad, int64_t *outside);
    /* Divides numbers by a factor, or multiplies them, in place; whether all of them were finite. */
    int (*unscale)(xent_dtype dtype, void *data, int64_t count, double factor, int multiplies);
    /* Plain reading and copying at full width, to measure a machine's memory by. */
    double (*read)(const void *from, int64_t bytes);
    void (*copy)(void *to, const void *from, int64_t bytes);
    void (*math)(xent_function function, const void *from, void *to, int64_t n);
} xent_kernels;

/* Chunks that a workspace has room for. */
enum { XENT_OWN_CHUNKS = 64 };
#define XENT_CHUNKS(classes) (((classes) + XENT_CHUNK - 1) / XENT_CHUNK)

#endif
