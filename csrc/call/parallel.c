/* Divides the work of a call into pieces, which go to whoever is free: a busy core delays nobody, and results do not depend
 * on who computes what. */
#include <stdio.h>
#include <string.h>

#include "environment.h"
#include "platform.h"
#include "team.h"

#ifdef _OPENMP
#include <omp.h>
#endif

/* Signals are looked for this often; Ctrl-C is answered well within 200 ms. */
static const double POLL_SECONDS = 0.05;

typedef struct {
    int (*poll)(void *);
    void *data;
    double last; /* when the caller was asked, or its work began */
} poller;

/* Asks whether to go on, where it is time to, in the floating-point environment of the caller. */
static void ask(poller *p, xent_job *job, fp_state callers) {
    if (!p->poll || xent_clock() - p->last <= POLL_SECONDS)
        return;
    fp_leave(callers);
    if (p->poll(p->data))
        atomic_store_explicit(&job->stopped, 1, memory_order_relaxed);
    (void)fp_enter();
    p->last = xent_clock();
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
        poller p = {poll, poll_data, poll ? xent_clock() : 0};
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
    char path[4096];
    xent_file_of((void (*)(void))omp_in_parallel, path, sizeof path);
    const char *last = path + strlen(path);
    while (last > path && last[-1] != '/' && last[-1] != '\\')
        --last;
    snprintf(text, sizeof text, "OpenMP " XENT_TEXT(_OPENMP) "%s%.200s", *last ? ", " : "", last);
    return text;
#else
    return "none";
#endif
}
