/* Between product.c, which divides a matrix product, and the kernels that pack its factors and multiply them. */
#ifndef XENT_PRODUCT_H
#define XENT_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "../xent.h"

/* Rows of a strip; numbers along the inner axis that are summed in one chain; columns that a thread packs at once, which
 * with XENT_DEEP fill half of a second cache of 512 KiB; rows whose strips exist at a time. */
enum { XENT_TALL = 6, XENT_DEEP = 512, XENT_GROUP = 128, XENT_STRIPED = 1020 };

/* Where the strip or panel of row or column i begins, of `width`. The line between two of them is free, so that they do
 * not all compete for the same places of the first cache. */
#define XENT_PACKED(i, width) ((i) / (width) * ((int64_t)XENT_DEEP * (width) + 16))

/* A part of a factor: bytes from one strip's or panel's number to the next, and along the inner axis. */
typedef struct {
    const char *data;
    xent_dtype dtype;
    int64_t across, along;
} xent_factor;

#endif
