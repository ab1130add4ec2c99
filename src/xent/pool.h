/* Memory of large results: what is dropped serves the next one, so that its pages are not made and cleared anew each time.
 *
 * A block is a mapping of its own, with a page for its size in front. One that is given back lies idle until it is taken
 * again, until enough calls and time have gone by without that, until more would be idle than the limit allows, or until
 * memory is short: then it is unmapped. Any thread may call any of these at any time. */
#ifndef XENT_POOL_H
#define XENT_POOL_H

#include <stddef.h>

#define XENT_POOL_LEAST ((size_t)1 << 18) /* bytes of a result that is worth a mapping of its own */

/* At least so many bytes, on a page, and on a huge page where they fill one; of unknown content. NULL: no memory. */
void *xent_pool_take(size_t bytes);
void *xent_pool_resize(void *data, size_t bytes); /* as realloc */
void xent_pool_give(void *data);                  /* as free */

/* Counts a call of the library: every few of them, blocks that have long been idle are unmapped. */
void xent_pool_tick(void);

/* Unmaps all that is idle, and returns whether anything was. */
int xent_pool_release(void);

/* The most bytes that may lie idle: at first a share of the memory that the process may use. 0: there is no pool. */
size_t xent_pool_limit(void);
void xent_pool_set_limit(size_t bytes);

/* Bytes that lie idle, and those that hold results. */
void xent_pool_bytes(size_t *idle, size_t *used);

#endif
