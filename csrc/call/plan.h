/* What a call asks of the kernels. */
#ifndef XENT_PLAN_H
#define XENT_PLAN_H

#include "dispatch.h"

/* The axis of the loss along which vectors run, in columns: -1 where the class axis is contiguous, NO_AXIS where none is. */
enum { NO_AXIS = -2 };
int xent_vector_axis(const xent_call *call);

/* What is read beside the logits. */
xent_stream xent_stream_of(const xent_call *call);

xent_plan xent_plan_of(const xent_call *call, int vector_axis);

/* What of a plan follows from this machine's caches; of logits of so many bytes each. */
void xent_fit_caches(xent_plan *plan, int64_t bytes);

#endif
