/* The numbers that the inputs of a task hold. */
#ifndef XENT_NATIVE_INPUTS_H
#define XENT_NATIVE_INPUTS_H

#include "task.h"

/* Fills the inputs of a task whose arrays lie without gaps; sums, which kernels add to, begin at numbers other than 0. */
void fill(task *t, generator *g);
void begin_sums(const array *sums);

double load_element(const char *at, xent_dtype type);

#endif
