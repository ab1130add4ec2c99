/* One team of threads for the process, shared by all its callers.
 *
 * Workers are threads of OpenMP, inside one parallel region that stays open. A service thread opens it at the first call
 * worth sharing, so that no caller enters a region, nor waits for a thread to be started.
 *
 *     caller   posts a job → takes pieces until none is left → withdraws the job → waits until no worker is inside
 *     worker   waits for a job → joins it → takes pieces until none is left → leaves it
 *     service  opens the region for as many workers as are wanted → stands by until more are → has it left, opens it anew
 *
 * A worker that the scheduler has not run has not joined, so nobody waits for it: a caller waits for pieces that have begun.
 *
 * A job lies on its caller's stack. Workers find it in the list of posted jobs, and join and leave it, under the lock alone.
 * It ends when its caller has seen, under the lock, that it is not in the list and that nobody is inside: later no worker
 * can find it, and none still holds it. The lock also orders memory: what a caller wrote before it posted is seen by who
 * joins, what a worker wrote before it left is seen by the caller. Between the two a job's own counters are atomic and
 * relaxed: who takes a piece reads nothing that the taker of another wrote.
 *
 * Before a fork the workers leave all jobs and none joins, so that each piece is either done or not begun: a child that was
 * forked in the middle of a call, by a signal handler, goes on with it alone. It has none of the threads, and makes a team
 * of its own when it first shares a call. */
#define _GNU_SOURCE
#include "team.h"

#if defined(_OPENMP) && !defined(_WIN32)
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "environment.h"

#define NO_TEAM                                                                                                             \
    {                                                                                                                       \
        .lock = PTHREAD_MUTEX_INITIALIZER,                                                                                  \
        .work = PTHREAD_COND_INITIALIZER,                                                                                   \
        .left = PTHREAD_COND_INITIALIZER,                                                                                   \
        .more = PTHREAD_COND_INITIALIZER,                                                                                   \
    }

static struct team {
    pthread_mutex_t lock;
    pthread_cond_t work; /* for workers: a job was posted, or it is time to leave the region */
    pthread_cond_t left; /* for callers, and who forks: the last worker has left a job */
    pthread_cond_t more; /* for the service thread: more workers are wanted */
    xent_job *jobs;      /* those posted, the latest first */
    int wanted;          /* workers; 0: there is no service thread */
    int asleep, inside;  /* workers that wait for `work`; workers inside jobs */
    atomic_int forking;  /* threads about to fork: no worker is to join, nor to take another piece */
    atomic_uint news;    /* counts what idle workers look out for */
} team = NO_TEAM;

static void lock(void) { pthread_mutex_lock(&team.lock); }
static void unlock(void) { pthread_mutex_unlock(&team.lock); }

/* One of at most SPINS turns of waiting without sleep: 0.1 ms in all (a pause takes 3 to 50 ns), so that a loop of short
 * calls finds its workers awake. The last turns let others have the core. */
enum { SPINS = 500, YIELDS = 20, PAUSES = 8 };
static void spin(int turn) {
    if (turn >= SPINS - YIELDS)
        sched_yield();
    else
        for (int i = 0; i < PAUSES; ++i)
            relax();
}

/* Under the lock: tells up to n workers of something new. */
static void wake(int n) {
    atomic_fetch_add_explicit(&team.news, 1, memory_order_relaxed);
    if (n >= team.asleep)
        pthread_cond_broadcast(&team.work);
    else
        while (n-- > 0)
            pthread_cond_signal(&team.work);
}

/* Under the lock: a job that a worker may join. */
static xent_job *open_job(void) {
    xent_job *job = atomic_load_explicit(&team.forking, memory_order_relaxed) ? NULL : team.jobs;
    while (job && (job->joined == job->seats || atomic_load_explicit(&job->next, memory_order_relaxed) >= job->count ||
                   atomic_load_explicit(&job->stopped, memory_order_relaxed)))
        job = job->below;
    return job;
}

/* Under the lock, which others may have while it works. */
static void work_on(xent_job *job) {
    const int worker = ++job->joined;
    atomic_fetch_add_explicit(&job->inside, 1, memory_order_relaxed);
    ++team.inside;
    unlock();
    const fp_state before = fp_enter();
    while (!atomic_load_explicit(&team.forking, memory_order_relaxed) && xent_take_piece(job, worker))
        ;
    finish_stores();
    fp_leave(before);
    lock();
    --team.inside;
    if (atomic_fetch_sub_explicit(&job->inside, 1, memory_order_relaxed) == 1) {
        job->joined = 0; /* numbers begin anew: only who made way for a fork can come back */
        pthread_cond_broadcast(&team.left);
    }
}

/* A worker in a region that was opened for so many. Where OpenMP does not bind it to a place, it would have the CPUs of who
 * called first. */
static void work(int wanted) {
    if (omp_get_proc_bind() == omp_proc_bind_false)
        xent_use_all_cpus();
    lock();
    while (team.wanted == wanted) {
        xent_job *job = open_job();
        if (job) {
            work_on(job);
            continue;
        }
        const unsigned seen = atomic_load_explicit(&team.news, memory_order_relaxed);
        unlock();
        for (int turn = 0; turn < SPINS && atomic_load_explicit(&team.news, memory_order_relaxed) == seen; ++turn)
            spin(turn);
        lock();
        if (atomic_load_explicit(&team.news, memory_order_relaxed) == seen) {
            ++team.asleep;
            pthread_cond_wait(&team.work, &team.lock);
            --team.asleep;
        }
    }
    unlock();
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
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes))
        return 0;
    const size_t stack = xent_stack_bytes();
    if (stack) /* what the system refuses here OpenMP cannot have either: the default is left */
        (void)pthread_attr_setstacksize(&attributes, stack);
    int n = 0;
    pthread_mutex_lock(&gate);
    while (n < threads && pthread_create(&begun[n], &attributes, wait_for, &gate) == 0)
        ++n;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; ++i)
        pthread_join(begun[i], NULL);
    pthread_attr_destroy(&attributes);
    return n;
}

/* Opens the region, where the service thread has the caller's place, and has left it when more workers are wanted than it
 * was opened for. Returns how many it had; the runtime keeps them for the next. */
static int open_region(int workers) {
    lock();
    const int wanted = team.wanted;
    unlock();
    const int threads = 1 + workers + startable(wanted - workers);
#pragma omp parallel num_threads(threads)
    {
        if (omp_get_thread_num() > 0)
            work(wanted);
        else {
            workers = omp_get_num_threads() - 1;
            lock();
            while (team.wanted == wanted)
                pthread_cond_wait(&team.more, &team.lock);
            unlock();
        }
    }
    return workers;
}

static void *serve(void *unused) {
    omp_set_dynamic(0); /* the load of the machine at the first call says nothing of later ones */
    for (int workers = 0;;)
        workers = open_region(workers);
    return unused;
}

/* Under the lock: starts the service thread, on which no signal is handled, nor on the workers that inherit from it. */
static int start_service(void) {
    sigset_t before, others;
    sigfillset(&others);
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    for (size_t i = 0; i < sizeof own_faults / sizeof *own_faults; ++i)
        sigdelset(&others, own_faults[i]);
    pthread_t thread;
    pthread_sigmask(SIG_SETMASK, &others, &before);
    const int started = pthread_create(&thread, NULL, serve, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
        pthread_detach(thread);
    return started;
}

static void before_fork(void) {
    lock();
    atomic_fetch_add_explicit(&team.forking, 1, memory_order_relaxed);
    while (team.inside)
        pthread_cond_wait(&team.left, &team.lock);
}

static void in_parent(void) {
    atomic_fetch_sub_explicit(&team.forking, 1, memory_order_relaxed);
    wake(team.asleep);
    unlock();
}

static void in_child(void) { team = (struct team)NO_TEAM; }

static void survive_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

/* Under the lock: the workers that there are leave the region for a larger one. */
static void want(int workers) {
    if (!team.wanted && !start_service())
        return;
    team.wanted = workers;
    pthread_cond_signal(&team.more);
    wake(team.asleep);
}

int xent_team_post(xent_job *job, int threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (omp_in_parallel())
        return 0;
    pthread_once(&once, survive_forks);
    job->seats = threads - 1;
    lock();
    if (job->seats > team.wanted)
        want(job->seats);
    job->below = team.jobs;
    team.jobs = job;
    wake(job->seats);
    unlock();
    return 1;
}

/* Under the lock: takes the job from the list. A child of fork has begun a new one. */
static void withdraw(const xent_job *job) {
    xent_job **at = &team.jobs;
    while (*at && *at != job)
        at = &(*at)->below;
    if (*at)
        *at = job->below;
}

int xent_team_finish(xent_job *job, double seconds) {
    lock();
    withdraw(job);
    if (atomic_load_explicit(&job->inside, memory_order_relaxed)) {
        unlock();
        for (int turn = 0; turn < SPINS && atomic_load_explicit(&job->inside, memory_order_relaxed); ++turn)
            spin(turn);
        lock();
    }
    if (job->inside) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        const double end = 1e-9 * (double)until.tv_nsec + seconds;
        until.tv_sec += (time_t)end;
        until.tv_nsec = (long)((end - (double)(time_t)end) * 1e9);
        while (job->inside && pthread_cond_timedwait(&team.left, &team.lock, &until) == 0)
            ;
    }
    const int finished = !job->inside;
    unlock();
    return finished;
}
#else
int xent_team_post(xent_job *job, int threads) {
    (void)job, (void)threads;
    return 0;
}

int xent_team_finish(xent_job *job, double seconds) {
    (void)job, (void)seconds;
    return 1;
}
#endif
