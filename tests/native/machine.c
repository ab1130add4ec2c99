/* Loaded before everything else (LD_PRELOAD), it makes a process see another machine: what it opens in /proc and /sys is
 * looked for in the folder MACHINE, and the kernel lets it run on CPUS processors, or does not say where that is 0. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

FILE *fopen(const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *);
    *(void **)&next = dlsym(RTLD_NEXT, "fopen");
    char moved[4096];
    if (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5)) {
        snprintf(moved, sizeof moved, "%s%s", getenv("MACHINE"), path);
        path = moved;
    }
    return next(path, mode);
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set) {
    (void)pid;
    const int cpus = atoi(getenv("CPUS"));
    CPU_ZERO_S(size, set);
    for (int i = 0; i < cpus; ++i)
        CPU_SET_S(i, size, set);
    errno = EINVAL;
    return cpus ? 0 : -1;
}
