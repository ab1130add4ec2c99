/* Threads that take blocks of the pool, resize them, give them back and change its limit, without the lock of an interpreter
 * that would let them take turns; with `fork`, beside children that do the same. Prints "right", or what is wrong. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pool.h"

enum { THREADS = 4, BLOCKS = 6, STEPS = 1000, CHILDREN = 20, PAGE = 4096 };

static atomic_int wrong, working;

static void fill(unsigned char *data, size_t bytes, int with) {
    for (size_t i = 0; i < bytes; i += PAGE)
        data[i] = (unsigned char)with;
}

static int holds(const unsigned char *data, size_t bytes, int with) {
    for (size_t i = 0; i < bytes; i += PAGE)
        if (data[i] != (unsigned char)with)
            return 0;
    return 1;
}

static void *work(void *number) {
    const int own = *(int *)number;
    unsigned random = (unsigned)own + 1;
    unsigned char *blocks[BLOCKS] = {NULL};
    size_t bytes[BLOCKS] = {0};
    for (int step = 0; step < STEPS; ++step) {
        random = random * 1664525 + 1013904223;
        const int i = (int)(random >> 8) % BLOCKS, what = (int)(random >> 16) % 16;
        const size_t size = XENT_POOL_LEAST + (random >> 20) % 16 * (XENT_POOL_LEAST / 4);
        if (blocks[i] && !holds(blocks[i], bytes[i], own))
            ++wrong;
        if (what == 0 && own == 0)
            xent_pool_set_limit((random >> 20) % 4 << 20);
        if (what == 1)
            (void)xent_pool_release();
        if (what < 6 && blocks[i]) {
            unsigned char *const moved = xent_pool_resize(blocks[i], size);
            if (!moved || !holds(moved, size < bytes[i] ? size : bytes[i], own))
                ++wrong;
            if (moved)
                blocks[i] = moved;
        } else {
            xent_pool_give(blocks[i]);
            blocks[i] = xent_pool_take(size);
        }
        if (!blocks[i])
            exit(2);
        bytes[i] = size;
        fill(blocks[i], size, own);
        xent_pool_tick();
    }
    for (int i = 0; i < BLOCKS; ++i)
        xent_pool_give(blocks[i]);
    --working;
    return NULL;
}

static void all_work(int children) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    working = THREADS;
    for (int i = 0; i < THREADS; ++i) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, work, &numbers[i]);
    }
    for (int n = 0; n < children && working; ++n) {
        const pid_t child = fork();
        if (child == 0) {
            int number = THREADS + n;
            wrong = 0;
            alarm(20); /* a lock that nobody holds any more would be waited for without end */
            work(&number);
            _exit(wrong ? 1 : 0);
        }
        int status = 1;
        if (waitpid(child, &status, 0) != child || status)
            ++wrong;
    }
    for (int i = 0; i < THREADS; ++i)
        pthread_join(threads[i], NULL);
}

int main(int count, char **words) {
    size_t idle, used;
    all_work(count > 1 && !strcmp(words[1], "fork") ? CHILDREN : 0);
    (void)xent_pool_release();
    xent_pool_bytes(&idle, &used);
    if (!wrong && !idle && !used)
        puts("right");
    else
        printf("%d blocks wrong, %zu bytes idle, %zu in use\n", wrong, idle, used);
    return 0;
}
