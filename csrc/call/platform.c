#define _GNU_SOURCE
#include "platform.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dispatch.h"

#ifdef _WIN32
#include <malloc.h>
#include <windows.h>

void *xent_allocate(size_t alignment, size_t bytes) { return _aligned_malloc(bytes, alignment); }

void xent_free(void *memory) { _aligned_free(memory); }

double xent_clock(void) {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
}

int xent_cpus(void) {
    DWORD_PTR own, all;
    int n = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &own, &all))
        for (; own; own &= own - 1)
            ++n;
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return n ? n : (int)info.dwNumberOfProcessors; /* 0: threads in several groups of processors */
}

#ifdef _OPENMP
#define LOCK(m) ((SRWLOCK *)(m))
#define CONDITION(c) ((CONDITION_VARIABLE *)(c))
void xent_lock(xent_mutex *m) { AcquireSRWLockExclusive(LOCK(m)); }
void xent_unlock(xent_mutex *m) { ReleaseSRWLockExclusive(LOCK(m)); }
void xent_wait(xent_condition *c, xent_mutex *m) { SleepConditionVariableSRW(CONDITION(c), LOCK(m), INFINITE, 0); }
void xent_wake_one(xent_condition *c) { WakeConditionVariable(CONDITION(c)); }
void xent_wake_all(xent_condition *c) { WakeAllConditionVariable(CONDITION(c)); }
void xent_yield(void) { SwitchToThread(); }

static BOOL CALLBACK run_once(INIT_ONCE *once, void *run, void **context) {
    (void)once, (void)context;
    ((void (*)(void))(uintptr_t)run)();
    return TRUE;
}
void xent_do_once(xent_once *once, void (*run)(void)) {
    InitOnceExecuteOnce((INIT_ONCE *)once, run_once, (void *)(uintptr_t)run, NULL);
}

/* Nobody forks. */
void xent_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    (void)before, (void)in_parent, (void)in_child;
}

int xent_wait_until(xent_condition *c, xent_mutex *m, double end) {
    const double left = end - xent_clock();
    return left > 0 && SleepConditionVariableSRW(CONDITION(c), LOCK(m), 1 + (DWORD)(1e3 * left), 0);
}

static DWORD WINAPI begin(void *run) {
    ((void (*)(void))(uintptr_t)run)();
    return 0;
}

int xent_start_thread(void (*run)(void)) {
    const HANDLE thread = CreateThread(NULL, 0, begin, (void *)(uintptr_t)run, 0, NULL);
    return thread && CloseHandle(thread);
}

/* Memory for stacks is had page by page, and nothing else limits threads. */
int xent_startable(int threads, size_t stack) {
    (void)stack;
    return threads;
}

void xent_use_all_cpus(void) {} /* threads do not inherit those of their parent */
void xent_use_cpus(const int *cpus, int n) { (void)cpus, (void)n; }

void xent_file_of(void (*function)(void), char *to, size_t size) {
    HMODULE module;
    const DWORD how = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    *to = 0;
    if (GetModuleHandleExA(how, (const char *)(uintptr_t)function, &module) && !GetModuleFileNameA(module, to, (DWORD)size))
        *to = 0;
}
#endif
#else
#include <sched.h>
#include <time.h>
#include <unistd.h>

void *xent_allocate(size_t alignment, size_t bytes) { return aligned_alloc(alignment, bytes); }

void xent_free(void *memory) { free(memory); }

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double xent_clock(void) { return seconds(CLOCK_MONOTONIC); }

/* How many CPUs the process may use, which are those of its first thread and of this one: either may have been bound to a
 * few for reasons of its own. Where asked, this thread may then run on all of them. 0: the system does not say. */
static int process_cpus(int use) {
    int n = 0;
#ifdef __linux__
    for (int most = 1024; n == 0 && most <= 1 << 20; most *= 4) { /* the kernel refuses a set smaller than its own */
        const size_t size = CPU_ALLOC_SIZE(most);
        cpu_set_t *all = CPU_ALLOC(most), *first = CPU_ALLOC(most);
        if (all && first && sched_getaffinity(0, size, all) == 0) {
            if (sched_getaffinity(getpid(), size, first) == 0)
                CPU_OR_S(size, all, all, first);
            n = CPU_COUNT_S(size, all);
            if (use)
                (void)sched_setaffinity(0, size, all);
        }
        CPU_FREE(all);
        CPU_FREE(first);
    }
#endif
    (void)use;
    return n;
}

int xent_cpus(void) {
    const int n = process_cpus(0);
    return n ? n : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#ifdef _OPENMP
#include <dlfcn.h>
#include <signal.h>

void xent_lock(xent_mutex *m) { pthread_mutex_lock(m); }
void xent_unlock(xent_mutex *m) { pthread_mutex_unlock(m); }
void xent_wait(xent_condition *c, xent_mutex *m) { pthread_cond_wait(c, m); }
void xent_wake_one(xent_condition *c) { pthread_cond_signal(c); }
void xent_wake_all(xent_condition *c) { pthread_cond_broadcast(c); }
void xent_yield(void) { sched_yield(); }
void xent_do_once(xent_once *once, void (*run)(void)) { pthread_once(once, run); }
void xent_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
    pthread_atfork(before, in_parent, in_child);
}

void xent_use_all_cpus(void) { (void)process_cpus(1); }

void xent_use_cpus(const int *cpus, int n) {
#ifdef __linux__
    int most = 0;
    for (int i = 0; i < n; ++i)
        most = cpus[i] < most ? most : cpus[i] + 1;
    cpu_set_t *set = CPU_ALLOC(most);
    if (!set)
        return;
    const size_t size = CPU_ALLOC_SIZE(most);
    CPU_ZERO_S(size, set);
    for (int i = 0; i < n; ++i)
        CPU_SET_S(cpus[i], size, set);
    if (n > 0)
        (void)sched_setaffinity(0, size, set);
    CPU_FREE(set);
#else
    (void)cpus, (void)n;
#endif
}

int xent_wait_until(xent_condition *c, xent_mutex *m, double end) {
    const double until = seconds(CLOCK_REALTIME) + (end - xent_clock()); /* the clock of conditions */
    const struct timespec t = {(time_t)until, (long)((until - (double)(time_t)until) * 1e9)};
    return pthread_cond_timedwait(c, m, &t) == 0;
}

static void *begin(void *run) {
    ((void (*)(void))(uintptr_t)run)();
    return NULL;
}

int xent_start_thread(void (*run)(void)) {
    sigset_t before, others;
    sigfillset(&others);
    static const int own_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    for (size_t i = 0; i < sizeof own_faults / sizeof *own_faults; ++i)
        sigdelset(&others, own_faults[i]);
    pthread_t thread;
    pthread_sigmask(SIG_SETMASK, &others, &before);
    const int started = pthread_create(&thread, NULL, begin, (void *)(uintptr_t)run) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
        pthread_detach(thread);
    return started;
}

static void *wait_for(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

int xent_startable(int threads, size_t stack) {
    pthread_t begun[MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes))
        return 0;
    /* The C library keeps these stacks, and has room for OpenMP's only if those fit: LLVM's runtime makes each 128 bytes
     * larger than the one before. What the system refuses here OpenMP cannot have either: the default is left. */
    if (stack || !pthread_attr_getstacksize(&attributes, &stack))
        (void)pthread_attr_setstacksize(&attributes, stack + 256 * (size_t)MOST_THREADS);
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

void xent_file_of(void (*function)(void), char *to, size_t size) {
    Dl_info file = {0};
    const int found = dladdr((void *)(uintptr_t)function, &file) && file.dli_fname;
    *to = 0;
    if (found)
        strncat(to, file.dli_fname, size - 1);
}
#endif
#endif
