/* Scratch for kernels: one workspace for each thread of a call, all taken before anything is written. A thread for which
 * there is none is done without. */
#ifndef XENT_WORKSPACE_H
#define XENT_WORKSPACE_H

#include <stddef.h>

/* Up to `count` workspaces of so many bytes, aligned to 64, as many as there is memory for: the number taken. */
int xent_take_workspaces(void **workspaces, int count, size_t bytes);
void xent_return_workspaces(void **workspaces, int count);

#endif
