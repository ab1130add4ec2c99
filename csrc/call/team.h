/* Between parallel.c, which divides a call into pieces, and team.c, whose threads take some of them. */
#ifndef XENT_TEAM_H
#define XENT_TEAM_H

#include <stdatomic.h>
#include <stddef.h>

#include "dispatch.h"

/* A call's work over [0, count), which lies on its caller's stack. */
typedef struct xent_job {
    int64_t count, grain;
    xent_task *task;
    void *context;
    atomic_llong next;  /* the first item that nobody has taken */
    atomic_int stopped; /* no more pieces are to be taken */
    /* The team's, written under its lock. */
    int seats, joined; /* workers that may join; those that have since it was last empty */
    atomic_int inside; /* those that have not left */
    struct xent_job *below;
} xent_job;

/* Computes a piece that nobody has taken: zero if there is none. */
static inline int xent_take_piece(xent_job *job, int worker) {
    if (atomic_load_explicit(&job->stopped, memory_order_relaxed))
        return 0;
    const int64_t begin = atomic_fetch_add_explicit(&job->next, job->grain, memory_order_relaxed);
    if (begin >= job->count)
        return 0;
    job->task(job->context, begin, job->count - begin < job->grain ? job->count : begin + job->grain, worker);
    return 1;
}

/* Lets the team take pieces, on up to `threads` threads with the caller's: zero if the caller has to work alone. */
int xent_team_post(xent_job *job, int threads);

/* To be called when no piece is left until it says that no worker is inside the job, each time for up to so many seconds. */
int xent_team_finish(xent_job *job, double seconds);

/* threads.c: bytes of the stack that OpenMP was told to give its threads, or 0. */
size_t xent_stack_bytes(void);

#endif
