/* Threads call the library at the same time, with several threads each, while another changes how many these are and which
 * instruction set is in use. The results have the bits of the same calls made alone. `threads ROUNDS`
 *
 * Made for ThreadSanitizer. The sizes are those from which each part of a call is shared among threads. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "calls.h"

enum { CALLERS = 3, MOST = 1 << 21 };

static const struct {
    const char *name;
    xent_operation operation;
    int64_t rows, classes;
    int columns, soft;
} problems[] = {
    {"wide rows", XENT_CROSS_ENTROPY, 100, 3000, 0, 0},
    {"narrow rows, so many that checking them is shared", XENT_FOCAL_LOSS, 70000, 5, 0, 0},
    {"columns", XENT_CROSS_ENTROPY, 20000, 20, 1, 0},
    {"soft targets", XENT_CROSS_ENTROPY, 3000, 100, 0, 1},
    {"a shared row", XENT_CROSS_ENTROPY, 1, 1100000, 0, 0},
    {"single elements", XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS, 300000, 1, 0, 1},
};
enum { PROBLEMS = sizeof problems / sizeof *problems };

static float logits[MOST], soft[MOST], weight[MOST];
static int64_t targets[MOST];
static uint64_t expected[PROBLEMS];
static int rounds = 4;
static atomic_int failures, done;

/* Everything that a call returns and writes. */
static uint64_t digest_call(int which, int threads, float *out, float *loss) {
    const int64_t rows = problems[which].rows, classes = problems[which].classes, columns = problems[which].columns;
    const int64_t number = sizeof(float), row = columns ? number : classes * number, index = sizeof(int64_t);
    xent_call call = XENT_CALL_DEFAULTS;
    call.operation = problems[which].operation;
    call.ndim = 1, call.shape = &rows, call.classes = classes;
    call.strength = problems[which].operation == XENT_FOCAL_LOSS ? 2 : 0;
    call.threads = threads;
    call.logits_class_step = call.out_class_step = columns ? rows * number : 0;
    call.logits = (xent_array){logits, &row}, call.out = (xent_array){out, &row};
    call.loss = (xent_array){loss, &number}, call.sample_weight = (xent_array){weight, &number};
    if (problems[which].soft)
        call.soft = (xent_array){soft, &row};
    else
        call.index = (xent_array){targets, &index}, call.index_type = XENT_I64;
    const xent_status status = xent_run(&call);
    if (status != XENT_OK) {
        fprintf(stderr, "%s: %s\n", problems[which].name, xent_status_text(status));
        exit(1);
    }
    uint64_t digest = 0;
    digest = digested_numbers(digest, formats[XENT_F64], (double[]){call.divisor, call.total, call.result}, 3);
    digest = digested_numbers(digest, formats[XENT_F32], out, rows * classes);
    return digested_numbers(digest, formats[XENT_F32], loss, rows);
}

static void *call_all(void *first) {
    float *out = malloc(sizeof(float) * MOST), *loss = malloc(sizeof(float) * MOST);
    for (int i = 0; i < rounds * PROBLEMS; ++i) {
        const int which = (*(int *)first + i) % PROBLEMS;
        if (digest_call(which, i % 4, out, loss) != expected[which]) {
            fprintf(stderr, "%s: other bits\n", problems[which].name);
            atomic_fetch_add(&failures, 1);
        }
    }
    free(out);
    free(loss);
    return NULL;
}

static void *change_settings(void *unused) {
    for (int i = 0; !atomic_load(&done); ++i) {
        xent_set_num_threads(1 + i % 4);
        for (int k = 0; xent_isa_name(k); ++k)
            if (i % 3 == k % 3)
                xent_use_isa(xent_isa_name(k));
        if (xent_start() || !xent_isa() || xent_get_num_threads() < 1)
            atomic_fetch_add(&failures, 1);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return unused;
}

int main(int argc, char **argv) {
    if (argc > 1)
        rounds = atoi(argv[1]);
    for (int64_t i = 0; i < MOST; ++i) {
        const uint64_t x = number(formats[XENT_F32], ANY, 10, i), t = number(formats[XENT_F32], PROBABILITIES, 2, i);
        memcpy(&logits[i], &x, sizeof(float));
        memcpy(&soft[i], &t, sizeof(float));
        targets[i] = (int64_t)(mixed(1, (uint64_t)i) % 5);
        weight[i] = 1.5f;
    }
    float *out = malloc(sizeof(float) * MOST), *loss = malloc(sizeof(float) * MOST);
    for (int which = 0; which < PROBLEMS; ++which)
        expected[which] = digest_call(which, 1, out, loss);
    free(out);
    free(loss);
    pthread_t callers[CALLERS], changer;
    int first[CALLERS];
    pthread_create(&changer, NULL, change_settings, NULL);
    for (int i = 0; i < CALLERS; ++i) {
        first[i] = 2 * i;
        pthread_create(&callers[i], NULL, call_all, &first[i]);
    }
    for (int i = 0; i < CALLERS; ++i)
        pthread_join(callers[i], NULL);
    atomic_store(&done, 1);
    pthread_join(changer, NULL);
    printf("%d calls by %d threads: %d failures\n", CALLERS * rounds * PROBLEMS, CALLERS, atomic_load(&failures));
    return atomic_load(&failures) > 0;
}
