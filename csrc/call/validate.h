/* Argument validation. */
#ifndef XENT_VALIDATE_H
#define XENT_VALIDATE_H

#include "xent.h"

/* What is about to be done decides which arrays must be there. */
typedef enum {
    STEP_LAYOUT = 0,
    STEP_PREPARE = 1 << 0,
    STEP_COMPUTE = 1 << 1,
    STEP_FINISH = 1 << 2,
    STEP_REDUCE = 1 << 3,
    STEP_HEAD = 1 << 4,
    STEP_APPLY = 1 << 5,
    STAGES = STEP_REDUCE | STEP_HEAD | STEP_APPLY,
    STEP_RUN = STEP_PREPARE | STEP_COMPUTE
} call_steps;

/* The name of the first field of a full-sized call that cannot be used, or NULL. Of arrays nothing but addresses and strides
 * is looked at. */
const char *xent_bad_field(const xent_call *call, call_steps steps);

#endif
