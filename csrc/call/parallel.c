/* Divides the work of a call into pieces, which go to whoever is free: a busy core delays nobody, and results do not depend
 * on who computes what. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "environment.h"
#include "team.h"

#ifdef _OPENMP
#include <dlfcn.h>
#include <omp.h>
#endif

/* Signals are looked for this often; Ctrl-C is answered well within 200 ms. */
static const double POLL_SECONDS = 0.05;

typedef struct {
    int (*poll)(void *);
    void *data;
    double last; /* when the caller was asked, or its work began */
} poller;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Asks whether to go on, where it is time to, in the floating-point environment of the caller. */
static void ask(poller *p, xent_job *job, fp_state callers) {
    if (!p->poll || now() - p->last <= POLL_SECONDS)
        return;
    fp_leave(callers);
    if (p->poll(p->data))
        atomic_store_explicit(&job->stopped, 1, memory_order_relaxed);
    (void)fp_enter();
    p->last = now();
}

int xent_parallel(int64_t count, int64_t grain, int threads, xent_task *task, void *context, int (*poll)(void *),
                  void *poll_data) {
    const fp_state before = fp_enter();
    xent_job job = {.count = count, .grain = grain, .task = task, .context = context};
    if (count <= grain) { /* one piece: nothing to share and no time to interrupt */
        if (count > 0)
            task(context, 0, count, 0);
    } else {
        const int64_t pieces = (count + grain - 1) / grain;
        threads = threads < MOST_THREADS ? threads : MOST_THREADS;
        threads = pieces < threads ? (int)pieces : threads;
        poller p = {poll, poll_data, poll ? now() : 0};
        const int shared = threads > 1 && xent_team_post(&job, threads);
        while (xent_take_piece(&job, 0))
            ask(&p, &job, before);
        while (shared && !xent_team_finish(&job, POLL_SECONDS))
            ask(&p, &job, before);
    }
    finish_stores();
    fp_leave(before);
    return atomic_load_explicit(&job.stopped, memory_order_relaxed);
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
