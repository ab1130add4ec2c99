/* Nanoseconds that it takes to enter the default floating-point environment, fence streaming stores, and leave: what every
 * thread does in every parallel region. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "../../csrc/call/environment.h"

int main(void) {
    enum { TIMES = 10000000 };
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < TIMES; ++i) {
        const fp_state before = fp_enter();
        finish_stores();
        fp_leave(before);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    const double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    printf("%.1f\n", seconds / TIMES * 1e9);
    return 0;
}
