/* Times each kernel by itself, on one thread, with its arrays in the first cache, in the second and in memory.
 *
 * Cycles are those of the core's own clock, which every round measures with a chain of dependent instructions: time-stamp
 * counters tick at another rate, and turbo clocks change. The same rounds measure the speed of reading and copying memory,
 * with the table's own `read` and `copy` at the same place, as the limit that a kernel is compared with. */
#define _GNU_SOURCE
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "call/plan.h"
#include "call/platform.h"
#include "inputs.h"
#include "pages.h"

enum { LINKS = 1 << 16, ROUNDS = 9, FEWEST_ROUNDS = 3, PLACES = 3 };
static const double TURN = 0.5e-3, BUDGET = 0.3; /* seconds: least of one turn, approximate of all turns of a kernel */

/* The seconds of one cycle. An exclusive or takes one cycle on every processor; the empty statement keeps the compiler from
 * joining two of them. */
static double cycle(void) {
    uint64_t x = 1, y = 3;
    __asm__ volatile("" : "+r"(y));
    const double begin = xent_clock();
    for (int i = 0; i < LINKS / 16; ++i) {
#define LINK                                                                                                                \
    x ^= y;                                                                                                                 \
    __asm__ volatile("" : "+r"(x));
#define LINKS_4 LINK LINK LINK LINK
        LINKS_4 LINKS_4 LINKS_4 LINKS_4
    }
    return (xent_clock() - begin) / LINKS;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, compare);
    return x[n / 2];
}

/* Where the arrays of a kernel lie: together they take half of a cache, or far more than the last one. */
typedef struct {
    const char *name;
    int64_t bytes;
    int is_memory;
} where;

static int64_t cache_bytes(int level) {
    long found = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    found = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
    return found > 0 ? (int64_t)found : level == 1 ? 32 << 10 : 256 << 10;
}

static void find_places(where places[PLACES]) {
    const int64_t last = 4 * xent_cache(3), least = 64 << 20, most = 256 << 20;
    places[0] = (where){"L1", cache_bytes(1) / 2, 0};
    places[1] = (where){"L2", cache_bytes(2) / 2, 0};
    places[2] = (where){"memory", last < least ? least : last > most ? most : last, 1};
}

static int64_t bytes_of(const task *t, int begin, int end) {
    int64_t bytes = 0;
    for (int k = begin; k < end; ++k)
        bytes += t->arrays[k].rows * t->arrays[k].classes * t->arrays[k].size;
    return bytes;
}

/* The bytes that a kernel must read: of log-probabilities without a second stream, those of the targets alone. */
static int64_t bytes_to_read(const task *t) {
    const int target_alone =
        t->operation->family == ROWS && t->plan.transform == XENT_LOG_PROBS && t->plan.stream == XENT_NO_STREAM;
    return bytes_of(t, 0, INPUTS) - (target_alone ? t->rows * (t->classes - 1) * t->arrays[X].size : 0);
}

static int64_t classes_of(const operation *o, int64_t requested) {
    static const int64_t usual[] = {1000, 10, 21, 1};
    return o->layout != FLAT && requested > 0 && requested <= most_classes(o) ? requested : usual[o->layout];
}

/* A task whose arrays take about so many bytes, with whole tiles of rows if possible. */
static task sized(const operation *o, xent_dtype dtype, int64_t requested, int64_t bytes) {
    const int64_t classes = classes_of(o, requested);
    const task few = make_task(o, dtype, 64, classes, NULL);
    const int64_t each = (bytes_of(&few, 0, OUTPUTS) + 63) / 64, fit = bytes / each;
    const int64_t rows = fit >= 64 ? fit / 64 * 64 : fit >= XENT_MOST_LANES ? XENT_MOST_LANES : fit > 0 ? fit : 1;
    return make_task(o, dtype, rows, classes, NULL);
}

typedef struct {
    double seconds, read, copy, cycle; /* seconds of a run, of reading a byte, of copying a byte, of a cycle */
} timing;

static double run_many(const task *t, const xent_kernels *kernels, int64_t times) {
    const double begin = xent_clock();
    for (int64_t i = 0; i < times; ++i)
        run(t, kernels);
    return (xent_clock() - begin) / (double)times;
}

static double read_many(const xent_kernels *kernels, const char *memory, int64_t bytes, int64_t times) {
    static volatile double sink;
    const double begin = xent_clock();
    for (int64_t i = 0; i < times; ++i)
        sink = kernels->read(memory, bytes);
    (void)sink;
    return (xent_clock() - begin) / (double)times / (double)bytes;
}

static double copy_many(const xent_kernels *kernels, char *memory, int64_t bytes) {
    const double begin = xent_clock();
    kernels->copy(memory + bytes / 2, memory, bytes / 2);
    return (xent_clock() - begin) / (double)(bytes / 2);
}

static int64_t times_for(double once) { return once > TURN ? 1 : (int64_t)(TURN / once) + 1; }

static timing measure(const task *t, const xent_kernels *kernels, char *plain, const where *place) {
    double runs[ROUNDS], reads[ROUNDS], copies[ROUNDS], cycles[ROUNDS];
    (void)run_many(t, kernels, 1);
    const int64_t times = times_for(run_many(t, kernels, 1)), bytes = place->bytes;
    const int64_t read_times = times_for(read_many(kernels, plain, bytes, 1) * (double)bytes);
    int n = 0;
    for (const double begin = xent_clock(); n < ROUNDS && (n < FEWEST_ROUNDS || xent_clock() - begin < BUDGET); ++n) {
        cycles[n] = cycle();
        (void)read_many(kernels, plain, bytes, 1);
        reads[n] = read_many(kernels, plain, bytes, read_times);
        copies[n] = place->is_memory ? copy_many(kernels, plain, bytes) : 2 * reads[n];
        if (!place->is_memory)
            run(t, kernels);
        runs[n] = run_many(t, kernels, times);
    }
    return (timing){median(runs, n), median(reads, n), median(copies, n), median(cycles, n)};
}

/* Maps memory with large pages, as NumPy does. */
static char *map(int64_t bytes) {
    char *at = new_pages((size_t)bytes);
    if (!at) {
        perror("xent-native");
        exit(2);
    }
#if defined(MADV_HUGEPAGE)
    (void)madvise(at, (size_t)bytes, MADV_HUGEPAGE);
#endif
    return at;
}

typedef struct {
    char *own, *plain;
    int64_t own_bytes;
} arena;

static void measure_at(const operation *o, xent_dtype dtype, const char *isa, const where *place, arena *a,
                       const selection *s) {
    task t = sized(o, dtype, s->classes, place->bytes);
    const int64_t need = bytes_of(&t, 0, ARRAYS) + ARRAYS * 64;
    if (need > a->own_bytes) {
        if (a->own)
            drop_pages(a->own, (size_t)a->own_bytes);
        a->own = map(need);
        a->own_bytes = need;
    }
    generator g = {s->seed};
    lay_out(&t, o->layout, a->own);
    fill(&t, &g);
    t.plan.non_temporal = place->is_memory;
    xent_fit_caches(&t.plan, element_size(dtype));
    const timing time = measure(&t, table_of(isa, dtype), a->plain, place);

    const double read = (double)bytes_to_read(&t), written = (double)bytes_of(&t, INPUTS, OUTPUTS);
    const double write = time.copy > time.read ? time.copy - time.read : 0; /* seconds of writing a byte */
    const double share = (read * time.read + written * write) / time.seconds;
    const double cycles = time.seconds / time.cycle / ((double)t.rows * (double)t.classes);
    const double speed = (read + written) / time.seconds * 1e-9;
    if (s->json)
        printf("{\"kernel\": \"%s\", \"isa\": \"%s\", \"dtype\": \"%s\", \"place\": \"%s\", \"rows\": %" PRId64
               ", \"classes\": %" PRId64 ", \"read\": %.0f, \"written\": %.0f, \"seconds\": %.4g, \"clock\": %.4g, "
               "\"cycles_per_element\": %.4g, \"gb_per_second\": %.4g, \"plain_read_gb_per_second\": %.4g, "
               "\"plain_copy_gb_per_second\": %.4g, \"share\": %.3g}\n",
               o->name, isa, dtype_names[dtype], place->name, t.rows, t.classes, read, written, time.seconds, 1 / time.cycle,
               cycles, speed, 1e-9 / time.read, 2e-9 / time.copy, share);
    else
        printf(" |%7.3f%7.1f%5.0f%%", cycles, speed, 100 * share);
    fflush(stdout);
}

static void print_head(const char *isa, xent_dtype dtype, const where places[PLACES]) {
    printf("%s, %s, clock %.2f GHz\n%-43s", isa, dtype_names[dtype], 1e-9 / cycle(), "");
    for (int p = 0; p < PLACES; ++p) {
        char where[32];
        snprintf(where, sizeof where, "%s, %" PRId64 " %s", places[p].name,
                 places[p].bytes >> (places[p].is_memory ? 20 : 10), places[p].is_memory ? "MiB" : "KiB");
        printf(" |%20s", where);
    }
    printf("\n%-43s", "");
    for (int p = 0; p < PLACES; ++p)
        printf(" |%7s%7s%6s", "cycles", "GB/s", "share");
    printf("\n");
}

void bench(const selection *s) {
    where places[PLACES];
    find_places(places);
    arena a = {.plain = map(places[PLACES - 1].bytes)};
    memset(a.plain, 1, (size_t)places[PLACES - 1].bytes);
    for (int i = 0; i < s->isa_count; ++i)
        for (int d = 0; d < s->dtype_count; ++d) {
            if (!s->json)
                print_head(s->isas[i], s->dtypes[d], places);
            for (int k = 0; k < s->operation_count; ++k) {
                if (!s->json)
                    printf("%-43s", s->operations[k]->name);
                for (int p = 0; p < PLACES; ++p)
                    measure_at(s->operations[k], s->dtypes[d], s->isas[i], &places[p], &a, s);
                if (!s->json)
                    printf("\n");
            }
        }
}
