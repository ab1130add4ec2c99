/* Simulates another machine for a process that preloads this library (LD_PRELOAD): files of /proc and /sys are opened in the
 * folder MACHINE, and sched_getaffinity returns CPUS processors, or fails if that is 0. After `interrupt(n)` the clock
 * leaps, further each time, and the process gets a SIGINT when it reads the clock for the n-th time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

FILE *fopen(const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *);
    *(void **)&next = dlsym(RTLD_NEXT, "fopen");
    char moved[4096];
    const char *machine = getenv("MACHINE");
    if (machine && (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5))) {
        snprintf(moved, sizeof moved, "%s%s", machine, path);
        path = moved;
    }
    return next(path, mode);
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    const char *cpus = getenv("CPUS");
    if (!cpus)
        return syscall(SYS_sched_getaffinity, pid, size, set) < 0 ? -1 : 0;
    const int n = atoi(cpus);
    CPU_ZERO_S(size, set);
    for (int i = 0; i < n; ++i)
        CPU_SET_S(i, size, set);
    errno = n ? EINVAL : ENOSYS; /* the set is too small, or the kernel does not say */
    return n && n <= 8 * (int)size ? 0 : -1;
}

/* By this one OpenMP's runtime asks. */
int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set) {
    (void)thread;
    return sched_getaffinity(0, size, set) ? errno : 0;
}

static int leap, last_look;

void interrupt(int looks) {
    leap = 1;
    last_look = looks;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    const int status = (int)syscall(SYS_clock_gettime, clock, t);
    if (leap > 0) {
        t->tv_sec += (time_t)leap * leap;
        if (leap++ == last_look)
            raise(SIGINT);
    }
    return status;
}
