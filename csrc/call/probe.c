/* What tests and benchmarks look at: the functions of the kernels alone, memory at full speed. */
#include <float.h>
#include <stdatomic.h>

#include "dispatch.h"

void xent_math(xent_function function, xent_dtype dtype, const void *from, void *to, int64_t n) {
    if ((unsigned)function <= XENT_LOG1P_UNIT && (dtype == XENT_F32 || dtype == XENT_F64) && from && to && n > 0)
        xent_kernels_for(dtype)->math(function, from, to, n);
}

typedef struct {
    const char *from;
    char *to;
    atomic_int sink;
} memory_work;

static void read_memory(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    memory_work *w = context;
    if (xent_kernels_for(XENT_F32)->read(w->from + begin, end - begin) == -DBL_MAX)
        atomic_store(&w->sink, 1);
}

static void copy_memory(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    memory_work *w = context;
    xent_kernels_for(XENT_F32)->copy(w->to + begin, w->from + begin, end - begin);
}

enum { MEMORY_PIECE = 1 << 18 };

double xent_memory_read(const void *from, int64_t bytes, int threads) {
    if (!from || bytes <= 0)
        return 0;
    memory_work w = {.from = from};
    xent_parallel(bytes, MEMORY_PIECE, threads, read_memory, &w, NULL, NULL);
    return atomic_load(&w.sink);
}

void xent_memory_copy(void *to, const void *from, int64_t bytes, int threads) {
    if (!from || !to || bytes <= 0)
        return;
    memory_work w = {.from = from, .to = to};
    xent_parallel(bytes, MEMORY_PIECE, threads, copy_memory, &w, NULL, NULL);
}
