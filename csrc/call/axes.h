/* The axes of a call's arrays: axes of size 1 dropped, neighbours joined wherever every one of the arrays allows it, so that
 * what is left is mostly one run. */
#ifndef XENT_AXES_H
#define XENT_AXES_H

#include "xent.h"

enum { MOST_AXES = 64 };

/* Writes the sizes of the joined axes, and for each of `count` arrays the steps along them, 0 where it is absent; returns
 * how many there are, at least one. `last` is the axis to go last, the rest in C order; -1: all in C order. */
int xent_join_axes(const xent_call *call, int last, int count, const xent_array *const *arrays, int64_t shape[MOST_AXES],
                   int64_t (*steps)[MOST_AXES]);

#endif
