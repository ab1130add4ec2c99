/* The registry of kernels: what is checked and timed.
 *
 * `list_operations` lists the kernels of csrc/kernels/kernel.h, each in every layout and with every output it has. Both
 * check.c and bench.c iterate over this one list, so that no kernel is timed that is not checked, and none is left out. */
#ifndef XENT_NATIVE_REGISTRY_H
#define XENT_NATIVE_REGISTRY_H

#include "call/dispatch.h"

/* The functions of xent_kernels. */
typedef enum { ROWS, ELEMENTS, REGION, DIVERGENCE, INDICES, MATH, UNSCALE, PRODUCT, ROUND, READ, COPY } family;
typedef enum { WIDE, NARROW, COLUMNS, FLAT } layout;
typedef enum { LOSS_ALONE, GRADIENT, HESSIAN, LOG_SOFTMAX } output;

typedef struct {
    char name[64];
    family family;
    layout layout; /* FLAT for families other than ROWS, REGION and DIVERGENCE */
    output output;
    int first, second; /* stream and transform, element and derivatives, or function */
} operation;

enum { MOST_OPERATIONS = 512 };
int list_operations(operation to[MOST_OPERATIONS]);

/* The most classes for which calls use this kernel. */
int64_t most_classes(const operation *o);

extern const char *const dtype_names[4];
/* The kernels of an instruction set, which this machine must have. */
const xent_kernels *table_of(const char *isa, xent_dtype dtype);

#endif
