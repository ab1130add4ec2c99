/* The one place that starts threads. Pieces of the range go to whoever is free, so a busy core delays nobody; results do
 * not depend on who computes what. */
#define _GNU_SOURCE
#include "dispatch.h"
#include "environment.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifdef _OPENMP
#include <dlfcn.h>
#include <omp.h>
#endif

typedef struct {
    int64_t count, grain;
    xent_task *task;
    void *context;
    int (*poll)(void *);
    void *poll_data;
    atomic_llong next;
    atomic_int stopped;
} work;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Signals are looked for this often; Ctrl-C is answered well within 200 ms. */
static const double POLL_SECONDS = 0.05;

static void take_pieces(work *w, int worker) {
    const fp_state before = fp_enter();
    double polled = w->poll && worker == 0 ? now() : 0;
    while (!atomic_load_explicit(&w->stopped, memory_order_relaxed)) {
        const int64_t begin = atomic_fetch_add_explicit(&w->next, w->grain, memory_order_relaxed);
        if (begin >= w->count)
            break;
        w->task(w->context, begin, w->count - begin < w->grain ? w->count : begin + w->grain, worker);
        if (w->poll && worker == 0 && now() - polled > POLL_SECONDS) {
            fp_leave(before);
            if (w->poll(w->poll_data))
                atomic_store_explicit(&w->stopped, 1, memory_order_relaxed);
            (void)fp_enter();
            polled = now();
        }
    }
    finish_stores();
    fp_leave(before);
}

#if defined(_OPENMP)
/* How many threads the last region of this one had. */
static _Thread_local int team = 1;
#endif

#if defined(_OPENMP) && defined(__GNUC__) && !defined(_WIN32)
#include <pthread.h>

/* GNU OpenMP's threads do not survive a fork, and a child that asks for them waits for ever. So they are let go before
 * every fork (the runtime starts new ones when next needed); the children of runtimes before OpenMP 5.0, which cannot let
 * them go, compute alone. LLVM's runtime handles fork itself and must be left alone; it is told by a symbol of its own,
 * since it also answers to GNU's names. A fork inside a region (a signal handler may) leaves a child that is inside one
 * still, and so stays serial. */
enum { PAUSE_HARD = 2 }; /* omp_pause_hard, which old headers lack */
extern int pause_openmp(int kind) __asm__("omp_pause_resource_all") __attribute__((weak));
extern void llvm_openmp(void *location) __asm__("__kmpc_begin") __attribute__((weak));
static atomic_int orphaned;

/* An old runtime that others have made visible may serve here, and a newer one only for what that lacks. */
static int can_pause(void) {
    Dl_info pause = {0}, runtime = {0};
    (void)dladdr((void *)pause_openmp, &pause);
    (void)dladdr((void *)omp_in_parallel, &runtime);
    return pause_openmp && pause.dli_fbase == runtime.dli_fbase;
}

static void before_fork(void) {
    if (!llvm_openmp && can_pause() && !omp_in_parallel()) {
        pause_openmp(PAUSE_HARD);
        team = 1;
    }
}

static void in_child(void) {
    if (!llvm_openmp && !can_pause())
        atomic_store(&orphaned, 1);
}

static void register_fork(void) { pthread_atfork(before_fork, NULL, in_child); }

/* Whether this thread may ask for others. */
static int can_share(void) { return !omp_in_parallel() && !atomic_load_explicit(&orphaned, memory_order_relaxed); }

static void survive_forks(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork);
}

static void *wait_for(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* OpenMP's runtimes end the process when a thread cannot be started (for want of memory for its stack, or by a limit on
 * threads). So before the team grows, the threads it lacks are started here, all at once, and end again: as many as could
 * be had may be asked of OpenMP. */
static int startable(int threads) {
    pthread_t begun[MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int size = team;
    pthread_mutex_lock(&gate);
    while (size < threads && pthread_create(&begun[size], NULL, wait_for, &gate) == 0)
        ++size;
    pthread_mutex_unlock(&gate);
    for (int i = team; i < size; ++i)
        pthread_join(begun[i], NULL);
    return threads < size ? threads : size;
}
#elif defined(_OPENMP)
static int can_share(void) { return !omp_in_parallel(); }
static void survive_forks(void) {}
static int startable(int threads) { return threads; }
#endif

/* Where every core is busy (with a BLAS whose threads still spin, say) a woken thread gets none for milliseconds, and the
 * caller, done with all the pieces, waits for it to arrive. Once a wait was longer than the work, this many calls of few
 * pieces are computed alone. */
enum { ALONE_CALLS = 32 };
static const double WORTH_AVOIDING = 1e-4;
static atomic_int alone;

int xent_parallel(int64_t count, int64_t grain, int threads, xent_task *task, void *context, int (*poll)(void *),
                  void *poll_data) {
    if (count <= grain) { /* one piece: nothing to share and no time to interrupt */
        const fp_state before = fp_enter();
        if (count > 0)
            task(context, 0, count, 0);
        finish_stores();
        fp_leave(before);
        return 0;
    }
    work w = {.count = count, .grain = grain, .task = task, .context = context, .poll = poll, .poll_data = poll_data};
    const int64_t pieces = (count + grain - 1) / grain;
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    threads = pieces < threads ? (int)pieces : threads;
#ifdef _OPENMP
    const int few = pieces <= (int64_t)threads * FEW_PIECES;
    if (threads > 1 && few && atomic_load_explicit(&alone, memory_order_relaxed) > 0) {
        atomic_fetch_sub_explicit(&alone, 1, memory_order_relaxed);
        threads = 1;
    }
    if (threads > 1 && can_share() && (threads = startable(threads)) > 1) {
        survive_forks();
        team = threads;
        const double begun = now();
        double done = begun;
#pragma omp parallel num_threads(threads)
        {
            take_pieces(&w, omp_get_thread_num());
            if (omp_get_thread_num() == 0)
                done = now();
        }
        const double waited = now() - done;
        if (few && waited > WORTH_AVOIDING && waited > done - begun)
            atomic_store_explicit(&alone, ALONE_CALLS, memory_order_relaxed);
        return atomic_load(&w.stopped);
    }
#endif
    take_pieces(&w, 0);
    return atomic_load(&w.stopped);
}

const char *xent_openmp(void) {
#ifdef _OPENMP
#define XENT_TEXT_(x) #x
#define XENT_TEXT(x) XENT_TEXT_(x)
    static _Thread_local char text[256];
    Dl_info runtime = {0};
    const char *path = dladdr((void *)omp_in_parallel, &runtime) && runtime.dli_fname ? runtime.dli_fname : "";
    const char *last = strrchr(path, '/');
    snprintf(text, sizeof text, "OpenMP " XENT_TEXT(_OPENMP) "%s%s", *path ? ", " : "", last ? last + 1 : path);
    return text;
#else
    return "none";
#endif
}
