/* What the command line selects. */
#ifndef XENT_NATIVE_SELECTION_H
#define XENT_NATIVE_SELECTION_H

#include "registry.h"

typedef struct {
    int json;
    uint64_t seed;
    int draws;       /* of the check, for each size */
    int64_t classes; /* of the benchmark; 0: those of each layout */
    const char *isas[16];
    xent_dtype dtypes[4];
    int isa_count, dtype_count;
    const operation *operations[MOST_OPERATIONS];
    int operation_count;
} selection;

#endif
