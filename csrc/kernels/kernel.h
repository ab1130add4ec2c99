/* What the driver (call.c) and the kernels say to each other: plain C, no vectors.
 *
 * A kernel works on a run of rows, alone and without allocating. `xent_plan` is the same for a whole call,
 * `xent_rows` is one run of it. One table per instruction set and dtype. */
#ifndef XENT_KERNEL_H
#define XENT_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "../xent.h"

/* One order of summation in every layout: classes in blocks, blocks in chunks; see reduce.h. */
enum { XENT_BLOCK = 1024, XENT_CHUNK = 16384, XENT_SUM_BLOCK = 4096, XENT_MOST_LANES = 16 };
/* Elements that pass through a buffer at a time. */
enum { XENT_PIECE = 1024 };
/* Rows of so many classes are computed in transposed tiles: measured, it is there that long vectors win; with a gradient,
 * later where rows end inside a vector, sooner of doubles. */
enum {
    XENT_NARROW_LOSS = 352,
    XENT_NARROW_GRADIENT = 112,
    XENT_NARROW_ODD_GRADIENT = 152,
    XENT_NARROW_F64_GRADIENT = 88,
    XENT_FEW_COLUMNS = 64
};
/* Classes that a vector of floats can number, for lanes that are rows. */
enum { XENT_MOST_IN_LANES = 1 << 24 };

/* Where the second stream a_c of a row comes from: nowhere, class weights, soft targets, the row's own exponentials
 * (entropy), or those of another row, the teacher's (distillation). What it adds is in heads.h. */
typedef enum { XENT_NO_STREAM, XENT_WEIGHTS, XENT_SOFT, XENT_OWN, XENT_TEACHER, XENT_STREAMS } xent_stream;
/* What happens to a logit on its way in: nothing, a temperature, a cap and a temperature, or it is a log-probability (or a
 * probability) and no softmax is taken. */
typedef enum { XENT_PLAIN, XENT_HEATED, XENT_CAPPED, XENT_GIVEN, XENT_TRANSFORMS } xent_transform;
/* What the second pass writes: nothing, multiples of exp(z) (gradients, softmax), or log_softmax. */
typedef enum { XENT_NO_OUTPUT, XENT_EXPONENTIALS, XENT_LOGARITHMS } xent_form;
/* What becomes of the negative log-likelihood of the target: itself, (1 - p)^strength times it, or strength (1 - p) more. */
typedef enum { XENT_LIKELIHOOD, XENT_FOCAL, XENT_POLY } xent_link;
/* How rows lie in memory: classes contiguous, many or few, or lanes along another axis. */
typedef enum { XENT_WIDE, XENT_NARROW, XENT_COLUMNS, XENT_LAYOUTS } xent_layout;

/* Sums over the classes of one chunk, relative to its own maximum; chunks merge in any order of computation, always from
 * left to right. */
typedef struct {
    double max, rest, hits; /* sum of exp(z - max) where z < max, and how often z == max */
    double mass,
        moment; /* sum of a_c, sum of a_c (z_c - max); with a teacher, of exp(z' - max') ((z' - max') - (z - max)) */
    double teacher_max, teacher_rest, teacher_hits;
    double at_target; /* of a row in stages: the target's logit, which its own gradient may replace */
} xent_chunk;

typedef struct {
    int64_t classes;
    xent_stream stream;
    xent_transform transform;
    xent_form form;
    xent_layout layout;
    int64_t logits_class_step, soft_class_step, out_class_step, hess_class_step; /* bytes, XENT_COLUMNS */
    xent_link link;
    double strength;
    int non_temporal;         /* the output will not fit the cache */
    int64_t rows_bytes;       /* rows of so many bytes are still in the cache when their second pass begins */
    int64_t fetch_ahead;      /* classes between what is summed and what is fetched, whole blocks */
    int keep_infinite;        /* a row with +inf has the log-sum-exp +inf (SciPy) rather than NaN */
    const void *class_weight; /* (classes,) in the compute type, or NULL: all 1 */
    int index_type;           /* xent_dtype of the class indices */
    int has_ignore;
    int64_t ignore;              /* as the bits of the index type, sign-extended */
    double hard, smooth, z;      /* (1 - label_smoothing), label_smoothing / classes, z_loss */
    double mix_keep, mix_add;    /* soft targets: a = w (mix_keep t + mix_add) */
    double softcap, temperature; /* softcap 0: none */
    int probabilities;           /* XENT_GIVEN: probabilities, not their logarithms */
    double clip;                 /* and these are clipped to [clip, 1 - clip]; 0: not */
    double scale;                /* d(result) / d(row loss), without the upstream gradient of the row */
    int no_row_counts;           /* a mean over weights that sum to 0: the gradient is exact zeros */
} xent_plan;

/* A row that threads share goes through its stages one after the other; the others in one go. */
typedef enum {
    XENT_ALL_STAGES,
    XENT_REDUCE, /* classes begin..end, from one chunk's first to another's last → chunks */
    XENT_HEAD,   /* all chunks → loss, lse, and chunks[0], the sums of the row */
    XENT_APPLY,  /* chunks[0] → out, hess of classes begin..end */
} xent_stage;

typedef struct {
    int64_t count;
    const char *logits, *index, *soft, *weight, *upstream; /* the last four may be NULL */
    char *loss, *lse, *out, *hess;                         /* each may be NULL; hess only beside out */
    int64_t logits_step, index_step, soft_step, weight_step, upstream_step, loss_step, lse_step, out_step, hess_step;
    xent_chunk *chunks; /* room for one row, or for one in each lane (XENT_COLUMNS) */
    xent_stage stage;   /* but for XENT_ALL_STAGES, of a single row, XENT_WIDE */
    int64_t begin, end;
} xent_rows;

/* A run of class indices to be checked. */
typedef struct {
    const char *index;
    int64_t step, count;
    int type, has_ignore;
    int64_t ignore, classes;
} xent_indices;

/* What is computed of each element and summed: one of the elementwise losses; 1, which weights multiply; 1 where x is not a
 * probability. */
typedef enum {
    XENT_BINARY,
    XENT_BINARY_LOGITS,
    XENT_SIGMOID_FOCAL,
    XENT_KL,
    XENT_ONE,
    XENT_OUTSIDE,
    XENT_ELEMENTS
} xent_element;

typedef struct {
    xent_element element;
    int derivatives;          /* 0, 1, 2 */
    double mix_keep, mix_add; /* targets: mix_keep t + mix_add */
    double eps, alpha, gamma; /* none: eps 0, alpha < 0 */
    int log_target;
    double scale; /* d(result) / d(element's loss), without weight and upstream gradient */
} xent_element_plan;

/* A run of elements, next to each other in every array. Of the inputs only x is required, by losses their target too; the
 * outputs are as many as the derivatives, `loss` besides or NULL. */
typedef struct {
    int64_t count;
    const char *x, *target, *weight, *pos_weight, *upstream;
    char *loss, *out, *hess;
    double *sums;     /* XENT_MOST_LANES: added to; elementwise.h says how. Or NULL */
    int non_temporal; /* the outputs will not fit the cache; a piece at most, then */
} xent_elements;

/* Which rows have a diagonal Hessian to offer. */
#define XENT_HAS_HESSIAN(stream, transform) ((stream) < XENT_OWN && (transform) != XENT_GIVEN)

/* Every kernel there is: what is compiled, and what benchmarks/native checks and measures. Of rows the second stream and
 * the transform, each in every layout; of elements what is computed and how many derivatives. */
#define XENT_ROW_KERNELS(USE)                                                                                               \
    USE(XENT_NO_STREAM, XENT_PLAIN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_PLAIN)                                                                                           \
    USE(XENT_SOFT, XENT_PLAIN)                                                                                              \
    USE(XENT_OWN, XENT_PLAIN)                                                                                               \
    USE(XENT_NO_STREAM, XENT_HEATED)                                                                                        \
    USE(XENT_WEIGHTS, XENT_HEATED)                                                                                          \
    USE(XENT_SOFT, XENT_HEATED)                                                                                             \
    USE(XENT_OWN, XENT_HEATED)                                                                                              \
    USE(XENT_TEACHER, XENT_HEATED)                                                                                          \
    USE(XENT_NO_STREAM, XENT_CAPPED)                                                                                        \
    USE(XENT_WEIGHTS, XENT_CAPPED)                                                                                          \
    USE(XENT_SOFT, XENT_CAPPED)                                                                                             \
    USE(XENT_OWN, XENT_CAPPED)                                                                                              \
    USE(XENT_NO_STREAM, XENT_GIVEN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_GIVEN)                                                                                           \
    USE(XENT_SOFT, XENT_GIVEN)

#define XENT_ELEMENT_KERNELS(USE)                                                                                           \
    USE(XENT_BINARY, 0)                                                                                                     \
    USE(XENT_BINARY, 1)                                                                                                     \
    USE(XENT_BINARY_LOGITS, 0)                                                                                              \
    USE(XENT_BINARY_LOGITS, 1)                                                                                              \
    USE(XENT_BINARY_LOGITS, 2)                                                                                              \
    USE(XENT_SIGMOID_FOCAL, 0)                                                                                              \
    USE(XENT_SIGMOID_FOCAL, 1)                                                                                              \
    USE(XENT_SIGMOID_FOCAL, 2)                                                                                              \
    USE(XENT_KL, 0)                                                                                                         \
    USE(XENT_KL, 1)                                                                                                         \
    USE(XENT_ONE, 0)                                                                                                        \
    USE(XENT_OUTSIDE, 0)

typedef struct {
    const char *isa;
    void (*rows)(const xent_plan *plan, const xent_rows *rows);
    void (*elements)(const xent_element_plan *plan, const xent_elements *elements);
    /* How many rows count; in *bad the first whose index is neither a class nor ignored, if there is one. */
    int64_t (*check)(const xent_indices *indices, int64_t *bad);
    /* Plain reading and copying at full width, to measure a machine's memory by. */
    double (*read)(const void *from, int64_t bytes);
    void (*copy)(void *to, const void *from, int64_t bytes);
    void (*math)(xent_function function, const void *from, void *to, int64_t n);
} xent_kernels;

#define XENT_ROWS_NEED_CHUNKS(classes) (((classes) + XENT_CHUNK - 1) / XENT_CHUNK)

#endif
