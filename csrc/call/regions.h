/* Losses of regions (dice, Tversky), for the module of Python that links the library: sums of softmax probabilities over the
 * positions of each sample, and the gradient from the derivatives with respect to them. */
#ifndef XENT_REGIONS_H
#define XENT_REGIONS_H

#include "../xent.h"

/* Where an array lies: bytes between samples, classes and positions. */
typedef struct {
    char *data; /* NULL: absent */
    int64_t sample_step, class_step, step;
} xent_region_array;

typedef struct {
    xent_dtype dtype; /* of logits and gradient; soft targets are of the compute type */
    int64_t samples, classes, positions;
    /* Of those that have classes, these are contiguous in all or the positions are. One of index and soft is absent. */
    xent_region_array logits, index, soft, out;
    xent_dtype index_type;
    int has_ignore;
    int64_t ignore;
    double *sums;        /* (samples, 3, classes): sum p, sum p t, sum t over the positions that count */
    const double *slope; /* (samples, 2, classes): the derivatives with respect to the first two */
    int threads;
    int (*poll)(void *);
    int64_t bad_position; /* of all samples: the first bad target, with XENT_BAD_TARGET */
} xent_region_call;

/* Whether the arrays can be read and written as they lie. */
int xent_region_layout_supported(const xent_region_call *call);
/* Writes the sums; the targets are validated. XENT_BAD_ARGUMENT: the dtype has not been built. */
xent_status xent_region_sums(xent_region_call *call);
/* Writes `out`, which may be the memory of the logits. */
xent_status xent_region_gradient(xent_region_call *call);

#endif
