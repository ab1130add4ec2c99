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
#include "team.h"

#ifdef _OPENMP
#include <omp.h>

#include "environment.h"
#include "platform.h"

#define NO_TEAM                                                                                                             \
    {                                                                                                                       \
        .lock = XENT_MUTEX,                                                                                                 \
        .work = XENT_CONDITION,                                                                                             \
        .left = XENT_CONDITION,                                                                                             \
        .more = XENT_CONDITION,                                                                                             \
    }

static struct team {
    xent_mutex lock;
    xent_condition work; /* for workers: a job was posted, or it is time to leave the region */
    xent_condition left; /* for callers, and who forks: the last worker has left a job */
    xent_condition more; /* for the service thread: more workers are wanted */
    xent_job *jobs;      /* those posted, the latest first */
    int wanted;          /* workers; 0: there is no service thread */
    int asleep, inside;  /* workers that wait for `work`; workers inside jobs */
    atomic_int forking;  /* threads about to fork: no worker is to join, nor to take another piece */
    atomic_uint news;    /* counts what idle workers look out for */
} team = NO_TEAM;

static void lock(void) { xent_lock(&team.lock); }
static void unlock(void) { xent_unlock(&team.lock); }

/* One of at most SPINS turns of waiting without sleep: 0.1 ms in all (a pause takes 3 to 50 ns), so that a loop of short
 * calls finds its workers awake. The last turns let others have the core. */
enum { SPINS = 500, YIELDS = 20, PAUSES = 8 };
static void spin(int turn) {
    if (turn >= SPINS - YIELDS)
        xent_yield();
    else
        for (int i = 0; i < PAUSES; ++i)
            relax();
}

/* Under the lock: tells up to n workers of something new. */
static void wake(int n) {
    atomic_fetch_add_explicit(&team.news, 1, memory_order_relaxed);
    if (n >= team.asleep)
        xent_wake_all(&team.work);
    else
        while (n-- > 0)
            xent_wake_one(&team.work);
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
        xent_wake_all(&team.left);
    }
}

/* Where OpenMP does not bind a worker to a place, it would have the CPUs of who called first. Where it does, workers follow
 * upon the place of the service thread. In LLVM's runtime that is not the first one, where the first caller is, who would
 * share it with a worker: all places are turned back as far. */
static void take_place(int service_place) {
    const int places = omp_get_num_places(), own = omp_get_place_num();
    if (omp_get_proc_bind() == omp_proc_bind_false)
        xent_use_all_cpus();
    else if (service_place > 0 && own >= 0 && places > 0) {
        const int place = (own - service_place + places) % places, n = omp_get_place_num_procs(place);
        int cpus[MOST_THREADS];
        if (n <= MOST_THREADS) {
            omp_get_place_proc_ids(place, cpus);
            xent_use_cpus(cpus, n);
        }
    }
}

/* A worker in a region that was opened for so many. */
static void work(int wanted) {
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
            xent_wait(&team.work, &team.lock);
            --team.asleep;
        }
    }
    unlock();
}

/* Opens the region, where the service thread has the caller's place, and has left it when more workers are wanted than it
 * was opened for. Returns how many it had; the runtime keeps them for the next. */
static int open_region(int workers) {
    lock();
    const int wanted = team.wanted;
    unlock();
    /* OpenMP's runtimes end the process when a thread cannot be started (for want of memory for its stack, or by a limit on
     * threads). So before the team grows, the threads it lacks are started once, all at once, and end again: as many as
     * could be had may be asked of OpenMP. */
    const int threads = 1 + workers + xent_startable(wanted - workers, xent_stack_bytes());
    const int service_place = omp_get_place_num();
#pragma omp parallel num_threads(threads)
    {
        if (omp_get_thread_num() > 0) {
            take_place(service_place);
            work(wanted);
        } else {
            workers = omp_get_num_threads() - 1;
            lock();
            while (team.wanted == wanted)
                xent_wait(&team.more, &team.lock);
            unlock();
        }
    }
    return workers;
}

static void serve(void) {
    omp_set_dynamic(0); /* the load of the machine at the first call says nothing of later ones */
    for (int workers = 0;;)
        workers = open_region(workers);
}

static void before_fork(void) {
    lock();
    atomic_fetch_add_explicit(&team.forking, 1, memory_order_relaxed);
    while (team.inside)
        xent_wait(&team.left, &team.lock);
}

static void in_parent(void) {
    atomic_fetch_sub_explicit(&team.forking, 1, memory_order_relaxed);
    wake(team.asleep);
    unlock();
}

static void in_child(void) { team = (struct team)NO_TEAM; }

static void survive_forks(void) { xent_at_fork(before_fork, in_parent, in_child); }

/* Under the lock: the workers that there are leave the region for a larger one. */
static void want(int workers) {
    if (!team.wanted && !xent_start_thread(serve)) /* nor is a signal handled on the workers, which inherit from it */
        return;
    team.wanted = workers;
    xent_wake_one(&team.more);
    wake(team.asleep);
}

int xent_team_post(xent_job *job, int threads) {
    static xent_once once = XENT_ONCE;
    if (omp_in_parallel())
        return 0;
    xent_do_once(&once, survive_forks);
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
    const double end = job->inside ? xent_clock() + seconds : 0;
    while (job->inside && xent_wait_until(&team.left, &team.lock, end))
        ;
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
