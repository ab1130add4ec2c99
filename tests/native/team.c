/* What the team of threads does for work whose pieces the test itself holds up: `team NAME` runs one test, `team` lists
 * them. Nothing here depends on who is scheduled when: what would wait for ever is ended by an alarm. */
#define _GNU_SOURCE
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "call/dispatch.h"

enum { PATIENCE = 60, THREADS = 4, PIECES = 64 };

#define CHECK(condition)                                                                                                    \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "line %d: not %s\n", __LINE__, #condition);                                                     \
            _exit(1);                                                                                                       \
        }                                                                                                                   \
    } while (0)

/* Pieces as they are computed: each once, no two at a time by one worker, none when the call has returned. */
typedef struct {
    atomic_int lasts, begun, times[PIECES], busy[THREADS];
    pthread_t caller;
} record;

static void enter(record *r, int64_t begin, int64_t end, int worker) {
    CHECK(atomic_load(&r->lasts));
    CHECK(0 <= worker && worker < THREADS && end == begin + 1);
    CHECK((worker == 0) == pthread_equal(pthread_self(), r->caller));
    CHECK(atomic_exchange(&r->busy[worker], 1) == 0);
    CHECK(atomic_fetch_add(&r->times[begin], 1) == 0);
    atomic_fetch_add(&r->begun, 1);
}

static void leave(record *r, int worker) { atomic_store(&r->busy[worker], 0); }

static void start(record *r) {
    memset(r, 0, sizeof *r);
    r->caller = pthread_self();
    atomic_store(&r->lasts, 1);
}

static void end(record *r) {
    for (int i = 0; i < PIECES; ++i)
        CHECK(atomic_load(&r->times[i]) == 1);
    for (int i = 0; i < THREADS; ++i)
        CHECK(atomic_load(&r->busy[i]) == 0);
    atomic_store(&r->lasts, 0);
}

static void compute(void *context, int64_t begin, int64_t end, int worker) {
    enter(context, begin, end, worker);
    leave(context, worker);
}

static void call(void) {
    record r;
    start(&r);
    CHECK(xent_parallel(PIECES, 1, THREADS, compute, &r, NULL, NULL) == 0);
    end(&r);
}

static void *call_often(void *times) {
    for (int i = 0; i < *(int *)times; ++i)
        call();
    return NULL;
}

/* Short calls of many callers, whose records lie where the next call's will: a worker that is late would be seen. */
static void late_workers(void) {
    enum { CALLERS = 16 };
    int times = 2000;
    pthread_t callers[CALLERS];
    for (int i = 0; i < CALLERS; ++i)
        CHECK(pthread_create(&callers[i], NULL, call_often, &times) == 0);
    for (int i = 0; i < CALLERS; ++i)
        pthread_join(callers[i], NULL);
}

/* Of a call that holds its workers up: each piece waits until a gate is opened. */
typedef struct {
    record r;
    atomic_int open;
} gated;

static void wait_at_gate(void *context, int64_t begin, int64_t end, int worker) {
    gated *g = context;
    enter(&g->r, begin, end, worker);
    while (!atomic_load(&g->open))
        sched_yield();
    leave(&g->r, worker);
}

static void *call_gated(void *context) {
    gated *g = context;
    start(&g->r);
    CHECK(xent_parallel(PIECES, 1, THREADS, wait_at_gate, g, NULL, NULL) == 0);
    end(&g->r);
    return NULL;
}

/* A call ends while all the workers are inside another one. */
static void workers_that_do_not_come(void) {
    static gated g;
    pthread_t caller;
    CHECK(pthread_create(&caller, NULL, call_gated, &g) == 0);
    while (atomic_load(&g.r.begun) < THREADS)
        sched_yield();
    for (int i = 0; i < 100; ++i)
        call();
    atomic_store(&g.open, 1);
    pthread_join(caller, NULL);
}

/* The workers' pieces wait for the caller's program to be asked, which has no pieces left. */
static void hold_workers(void *context, int64_t begin, int64_t end, int worker) {
    gated *g = context;
    enter(&g->r, begin, end, worker);
    while (worker ? !atomic_load(&g->open) : atomic_load(&g->r.begun) < 2)
        sched_yield();
    leave(&g->r, worker);
}

static int open_gate(void *context) {
    atomic_store(&((gated *)context)->open, 1);
    return 0;
}

static void poll_while_waiting(void) {
    static gated g;
    start(&g.r);
    CHECK(xent_parallel(PIECES, 1, THREADS, hold_workers, &g, open_gate, &g) == 0);
    end(&g.r);
}

/* The caller's program stops a call while its workers are held up; the next call is whole. */
static int stop(void *context) { return open_gate(context), 1; }

static void stop_while_waiting(void) {
    static gated g;
    start(&g.r);
    CHECK(xent_parallel(PIECES, 1, THREADS, hold_workers, &g, stop, &g) == 1);
    call();
}

/* What is asked may itself call. */
static int nest(void *context) {
    call();
    return open_gate(context);
}

static void nested_calls(void) {
    static gated g;
    start(&g.r);
    CHECK(xent_parallel(PIECES, 1, THREADS, hold_workers, &g, nest, &g) == 0);
    end(&g.r);
}

/* The child of a fork in the middle of a call goes on with it: each piece once, those of lost workers too. */
static pid_t child;

static int fork_once(void *context) {
    if (open_gate(context), !child && (child = fork()) == 0) {
        alarm(PATIENCE);
        child = -1;
    }
    return 0;
}

/* A few milliseconds, in which every worker comes, and a fork while pieces are left. */
static void dawdle(void *context, int64_t begin, int64_t end, int worker) {
    gated *g = context;
    enter(&g->r, begin, end, worker);
    usleep(5000);
    leave(&g->r, worker);
}

static void idle(void *context, int64_t begin, int64_t end, int worker) {
    (void)context, (void)begin, (void)end, (void)worker;
}

/* Of a team that has more, no more workers than were asked for. */
static void seats(void) {
    gated g;
    CHECK(xent_parallel(PIECES, 1, 3 * THREADS, idle, NULL, NULL, NULL) == 0);
    start(&g.r);
    CHECK(xent_parallel(PIECES, 1, THREADS, dawdle, &g, NULL, NULL) == 0);
    end(&g.r);
}

static void fork_during_a_call(void) {
    for (int i = 0; i < 10; ++i) {
        static gated g;
        child = 0;
        start(&g.r);
        CHECK(xent_parallel(PIECES, 1, THREADS, dawdle, &g, fork_once, &g) == 0);
        end(&g.r);
        call();
        if (child == -1)
            _exit(0);
        int status = 1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    }
}

/* Inside a parallel region of others a call has no workers. */
static void be_alone(void *context, int64_t begin, int64_t end, int worker) {
    CHECK(worker == 0);
    compute(context, begin, end, worker);
}

static void inside_a_region(void) {
    call();
#pragma omp parallel num_threads(2)
    {
        for (int i = 0; i < 1000; ++i) {
            record r;
            start(&r);
            CHECK(xent_parallel(PIECES, 1, THREADS, be_alone, &r, NULL, NULL) == 0);
            end(&r);
        }
    }
}

/* OpenMP's limit holds unless xent was told otherwise. */
static void limits(void) {
    const int before = xent_get_num_threads();
    CHECK(omp_get_max_threads() == before);
    omp_set_num_threads(1);
    CHECK(xent_get_num_threads() == 1);
    omp_set_num_threads(before);
    CHECK(xent_get_num_threads() == before);
    xent_set_num_threads(3);
    omp_set_num_threads(1);
    CHECK(xent_get_num_threads() == 3);
}

/* The CPUs on which the caller and the workers of one call may run, together. */
static cpu_set_t cpus;
static pthread_mutex_t cpus_lock = PTHREAD_MUTEX_INITIALIZER;
static int everyone;

static void meet(void *context, int64_t begin, int64_t end, int worker) {
    record *r = context;
    enter(r, begin, end, worker);
    while (atomic_load(&r->begun) < everyone)
        sched_yield();
    cpu_set_t own;
    CHECK(sched_getaffinity(0, sizeof own, &own) == 0);
    pthread_mutex_lock(&cpus_lock);
    CPU_OR(&cpus, &cpus, &own);
    pthread_mutex_unlock(&cpus_lock);
    leave(r, worker);
}

static void call_everyone(void) {
    record r;
    start(&r);
    CHECK(xent_parallel(PIECES, 1, everyone, meet, &r, NULL, NULL) == 0);
    end(&r);
}

static void *count_cpus(void *bound) {
    if (bound) { /* to one of them */
        cpu_set_t own, one;
        CHECK(sched_getaffinity(0, sizeof own, &own) == 0);
        CPU_ZERO(&one);
        for (int i = 0; CPU_COUNT(&one) == 0; ++i)
            if (CPU_ISSET(i, &own))
                CPU_SET(i, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    }
    everyone = xent_get_num_threads();
    everyone = everyone < THREADS ? everyone : THREADS;
    call_everyone();
    printf("%d threads on %d CPUs\n", xent_get_num_threads(), CPU_COUNT(&cpus));
    return NULL;
}

static void places(void) { (void)count_cpus(NULL); }

static void bound_caller(void) {
    pthread_t caller;
    CHECK(pthread_create(&caller, NULL, count_cpus, "bound") == 0);
    pthread_join(caller, NULL);
}

/* A child of fork has workers of its own, and so has its child. */
static void fork_with_a_live_team(void) {
    everyone = THREADS;
    for (int generation = 0; generation < 3; ++generation) {
        call_everyone();
        child = fork();
        if (child == 0) {
            alarm(PATIENCE);
            continue;
        }
        int status = 1;
        CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
        call_everyone();
        break;
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {{"late_workers", late_workers},
                 {"workers_that_do_not_come", workers_that_do_not_come},
                 {"poll_while_waiting", poll_while_waiting},
                 {"stop_while_waiting", stop_while_waiting},
                 {"nested_calls", nested_calls},
                 {"seats", seats},
                 {"fork_during_a_call", fork_during_a_call},
                 {"fork_with_a_live_team", fork_with_a_live_team},
                 {"inside_a_region", inside_a_region},
                 {"limits", limits},
                 {"places", places},
                 {"bound_caller", bound_caller}};
    alarm(PATIENCE);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; ++i) {
        if (argc < 2)
            puts(tests[i].name);
        else if (!strcmp(argv[1], tests[i].name))
            return tests[i].run(), 0; /* the workers live on while the process ends */
    }
    return argc > 1;
}
