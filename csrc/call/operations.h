/* What the rows of operations.def say, as tables. */
#ifndef XENT_OPERATIONS_H
#define XENT_OPERATIONS_H

#include "xent.h"

typedef enum { SOFTMAX_LOSS, ELEMENTWISE_LOSS, SOFTMAX_FAMILY } operation_family;
typedef enum { FROM_NOTHING, FROM_TARGETS, FROM_ROW, FROM_TEACHER } operation_stream;
typedef enum { OF_LOGITS, OF_LOG_PROBABILITIES, OF_PROBABILITIES } operation_input;

enum {
    TAKES_INDEX = 1 << 0,
    TAKES_SOFT = 1 << 1,
    TAKES_HESS = 1 << 2,
    TAKES_LSE = 1 << 3,
    TAKES_CLASS_WEIGHT = 1 << 4,
    TAKES_POS_WEIGHT = 1 << 5,
    TAKES_SMOOTHING = 1 << 6,
    TAKES_GAMMA = 1 << 7,   /* strength >= 0 */
    TAKES_EPSILON = 1 << 8, /* strength of any sign */
    TAKES_EPS = 1 << 9,
    TAKES_Z_LOSS = 1 << 10,
    TAKES_SOFTCAP = 1 << 11,
    TAKES_TEMPERATURE = 1 << 12,
    TAKES_ALPHA = 1 << 13,
    TAKES_LOG_TARGET = 1 << 14,
    TAKES_ENTROPY_WEIGHT = 1 << 15, /* and, of a stage, coefficients, and no targets */
    TAKES_CLIP = 1 << 16,           /* and negative_strength */
    TAKES_CLASS_BIAS = 1 << 17
};

typedef struct {
    const char *name;
    operation_family family;
    operation_stream stream;
    operation_input input;
    int head; /* xent_modulation of a softmax loss, xent_element of an elementwise one */
    int form; /* xent_form */
    int takes;
} operation_traits;

extern const operation_traits xent_operations[];
extern const unsigned xent_operation_count;

/* NULL where there is no such operation. */
static inline const operation_traits *xent_traits(xent_operation operation) {
    return (unsigned)operation < xent_operation_count ? &xent_operations[operation] : NULL;
}

static inline const operation_traits *traits_of(const xent_call *call) { return xent_traits(call->operation); }
static inline int is_loss(const xent_call *call) { return traits_of(call)->family != SOFTMAX_FAMILY; }
static inline int is_elementwise(const xent_call *call) { return traits_of(call)->family == ELEMENTWISE_LOSS; }

#endif
