/* Loaded before everything else (LD_PRELOAD), it makes a process see another machine: what it opens in /proc and /sys is
 * looked for in the folder MACHINE, and the kernel lets it run on CPUS processors, or does not say where that is 0. After
 * `interrupt(n)` the clock leaps, further each time, and with its n-th look at it the process gets a SIGINT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
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
    CPU_ZERO_S(size, set);
    for (int i = 0; i < atoi(cpus); ++i)
        CPU_SET_S(i, size, set);
    errno = EINVAL;
    return atoi(cpus) ? 0 : -1;
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
