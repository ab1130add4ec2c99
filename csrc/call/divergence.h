/* The Jensen-Shannon divergence of rows of logits from those of a teacher, for the module of Python that links the library.
 */
#ifndef XENT_DIVERGENCE_H
#define XENT_DIVERGENCE_H

#include "../xent.h"

/* Rows whose classes are contiguous, `step` bytes apart. */
typedef struct {
    char *data; /* NULL: absent */
    int64_t step;
} xent_divergence_rows;

typedef struct {
    xent_dtype dtype, teacher_dtype; /* of the logits and of their gradients, as stored */
    int64_t rows, classes;
    double temperature, beta;
    xent_divergence_rows logits, teacher, grad, teacher_grad; /* a gradient may be the memory of its logits */
    double *loss;                                             /* of each row */
    const double
        *slope; /* of each row, the derivative of the result with respect to its loss: where it is 0, gradients are */
    int threads;
    int (*poll)(void *);
} xent_divergence;

/* XENT_BAD_ARGUMENT: the kernels of float64, in which every dtype is computed, have not been built. */
xent_status xent_jensen_shannon(const xent_divergence *call);

#endif
