/* `forks N`: N children for each way of forking, each of which computes what its parent did before, on as many threads as
 * it can have, until one is wrong. A child that hangs is ended by an alarm. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xent.h"

enum { ROWS = 3000, CLASSES = 200, THREADS = 4, PATIENCE = 30 };

static float logits[ROWS * CLASSES], expected[ROWS], beside[ROWS], forked[ROWS];

/* The log-sum-exp of every row, divided among threads. */
static xent_status compute(float *lse) {
    int64_t shape[1] = {ROWS}, row[1] = {CLASSES * sizeof *logits}, one[1] = {sizeof *lse};
    xent_call call = XENT_CALL_DEFAULTS;
    call.operation = XENT_LOGSUMEXP;
    call.dtype = XENT_F32;
    call.ndim = 1, call.shape = shape, call.classes = CLASSES;
    call.logits = (xent_array){logits, row};
    call.lse = (xent_array){lse, one};
    call.reduction = XENT_NONE;
    call.threads = THREADS;
    return xent_run(&call);
}

static int right(const float *lse) { return memcmp(lse, expected, sizeof expected) == 0; }

/* Whether a child computes the same. */
static int child_is_right(void) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(PATIENCE);
        _exit(compute(forked) == XENT_OK && right(forked) ? 0 : 1);
    }
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static int after_a_region(void) { return compute(beside) == XENT_OK && right(beside) && child_is_right(); }

static void *in_thread(void *good) {
    *(int *)good = child_is_right();
    return NULL;
}

/* While this one computes. */
static int from_another_thread(void) {
    int good = 0;
    pthread_t thread;
    if (pthread_create(&thread, NULL, in_thread, &good))
        return 0;
    const int same = compute(beside) == XENT_OK && right(beside);
    pthread_join(thread, NULL);
    return good && same;
}

/* The child is inside it, too, with none of the others: it has to compute alone. */
static int inside_a_region(void) {
    int good = 0;
#pragma omp parallel num_threads(THREADS)
#pragma omp single
    good = child_is_right();
    return good;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*fork)(void);
    } ways[] = {{"after a parallel region", after_a_region},
                {"from a second thread", from_another_thread},
                {"inside a parallel region", inside_a_region}};
    const int n = argc == 2 ? atoi(argv[1]) : 0;
    if (n < 1 || xent_start()) {
        fprintf(stderr, "usage: forks N\n");
        return 2;
    }
    for (int i = 0; i < ROWS * CLASSES; ++i)
        logits[i] = (float)(i % 977) * 0.01f;
    if (compute(expected) != XENT_OK)
        return 1;
    int failed = 0;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; ++w) {
        int good = 0;
        while (good < n && ways[w].fork())
            ++good;
        printf("%d of %d children right, forked %s\n", good, n, ways[w].name);
        failed |= good < n;
    }
    return failed;
}
