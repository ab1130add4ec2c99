/* The Jensen-Shannon divergence of rows of logits from those of a teacher, for the module of Python that links the library.
 */
#ifndef XENT_DIVERGENCE_H
#define XENT_DIVERGENCE_H

#include "../xent.h"

/* Rows of contiguous logits, and their gradient, which may be the same memory or NULL; the bytes between rows. */
typedef struct {
    xent_dtype dtype;
    const char *logits;
    char *grad;
    int64_t step, grad_step;
} xent_divergence_of;

typedef struct {
    xent_divergence_of of[2]; /* the student, the teacher */
    int64_t rows, classes;
    double temperature, beta;
    double *loss; /* of each row */
    const double
        *slope; /* of each row, the derivative of the result with respect to its loss: where it is 0, gradients are */
    int threads;
    int (*poll)(void *);
} xent_divergence;

/* XENT_BAD_ARGUMENT: the kernels of float64, in which every dtype is computed, have not been built. */
xent_status xent_jensen_shannon(const xent_divergence *call);

#endif
