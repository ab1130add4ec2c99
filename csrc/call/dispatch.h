/* Inside the library: who computes, and on how many threads. */
#ifndef XENT_DISPATCH_H
#define XENT_DISPATCH_H

#include "kernels/kernel.h"
#include "xent.h"

/* dispatch.c: the kernels in use for a dtype. */
const xent_kernels *xent_kernels_for(xent_dtype dtype);

/* parallel.c: runs task(context, begin, end, worker) over [0, count) in pieces of `grain`, on up to `threads` threads, each
 * with the default floating-point environment; no two at once have the same 0 <= worker < threads, and the caller is 0.
 * `poll` is asked on the calling thread every 50 ms. Non-zero: it stopped the work. */
typedef void xent_task(void *context, int64_t begin, int64_t end, int worker);
int xent_parallel(int64_t count, int64_t grain, int threads, xent_task *task, void *context, int (*poll)(void *),
                  void *poll_data);

enum { MOST_THREADS = 1024 };

/* Bytes of a piece of work, and of work for each thread that is woken. */
#ifndef XENT_TEST_PIECES
enum { LEAST_PIECE = 64 << 10, MOST_PIECE = 1 << 20, WORTH_A_THREAD = 256 << 10 };
#else /* as many pieces and threads as there can be, always */
enum { LEAST_PIECE = 1, MOST_PIECE = 1, WORTH_A_THREAD = 1 };
#endif

/* Bytes of a number as it is stored, and as it is computed with. */
static inline int xent_storage_bytes(xent_dtype dtype) { return dtype == XENT_F64 ? 8 : dtype == XENT_F32 ? 4 : 2; }
static inline int xent_compute_bytes(xent_dtype dtype) { return dtype == XENT_F64 ? 8 : 4; }

/* The threads of a call that asks for so many: 0 is the default. */
static inline int xent_threads_for(int asked) {
    const int limit = xent_thread_limit();
    return asked == 0 ? xent_get_num_threads() : asked < limit ? asked : limit;
}

/* threads.c: what the environment and the machine say; NULL, or what is wrong with the environment. */
const char *xent_threads_start(void);

/* threads.c: bytes of the data cache of level 1, 2 or 3, or a guess. */
int64_t xent_cache(int level);

#endif
