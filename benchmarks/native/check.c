/* Checks every kernel against the scalar one, to the bit.
 *
 * The reference is the scalar kernel for wide rows (XENT_WIDE), on contiguous arrays. The kernel under test gets the same
 * numbers elsewhere in memory: in its own layout, with gaps between rows, rows backward, at odd addresses, with results in
 * place of the logits. None of that may change a bit of a result, except that any NaN equals any other. Arrays begin or end
 * at a guard page, and the bytes around results must stay as they were. */
#define _GNU_SOURCE
#include "check.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "inputs.h"

enum { REGION_BYTES = 8 << 20, MARGIN = 64, MOST_ELEMENTS = 1 << 16, UNTOUCHED = 0xa5 };

/* The task that runs, for messages. */
static struct {
    const task *task;
    const char *isa;
    int draw;
    uint64_t seed;
} running;

static void describe(char *to, size_t size) {
    const task *t = running.task;
    snprintf(to, size, "%s, %s, %s, %" PRId64 " x %" PRId64 " (draw %d of seed %" PRIu64 ")", t->operation->name,
             running.isa, dtype_names[t->dtype], t->rows, t->classes, running.draw, running.seed);
}

static void on_fault(int signal) {
    char what[256], message[320];
    describe(what, sizeof what);
    const int n =
        snprintf(message, sizeof message, "%s: %s\n", what,
                 signal == SIGILL ? "an instruction this machine does not have" : "touches memory outside its arrays");
    ssize_t written = write(STDERR_FILENO, message, (size_t)n);
    _exit(written < 0 ? 2 : 1);
}

/* One region of memory for each array, between two guard pages. */

static char *regions[ARRAYS];

static char *map(int64_t bytes) {
    char *at = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        perror("xent-native");
        exit(2);
    }
    return at;
}

static void make_regions(void) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    for (int k = 0; k < ARRAYS; ++k) {
        regions[k] = map(REGION_BYTES + 2 * page) + page;
        mprotect(regions[k] - page, (size_t)page, PROT_NONE);
        mprotect(regions[k] + REGION_BYTES, (size_t)page, PROT_NONE);
    }
}

typedef struct {
    int64_t first, end; /* bytes relative to element (0, 0) */
} extent;

static extent extent_of(const array *a) {
    const int64_t row = (a->rows - 1) * a->row_step, class = (a->classes - 1) * a->class_step;
    return (extent){(row < 0 ? row : 0) + (class < 0 ? class : 0), (row > 0 ? row : 0) + (class > 0 ? class : 0) + a->size};
}

/* The bytes of a region that an array occupies, and a margin on both sides. */
static extent with_margin(const array *a, const char *region) {
    const extent e = extent_of(a);
    const int64_t first = a->at + e.first - region - MARGIN, end = a->at + e.end - region + MARGIN;
    return (extent){first < 0 ? 0 : first, end > REGION_BYTES ? REGION_BYTES : end};
}

/* Whether an array has an element for each row and class. */
static int is_table(role which) { return which == X || which == SECOND || which == OUT || which == HESS; }

/* Gives an array random strides, where kernels take any, and a random address: against either guard page, or near the end of
 * its region. */
static void place_array(array *a, const task *t, role which, generator *g) {
    const int in_rows = t->operation->family <= DIVERGENCE && t->operation->family != ELEMENTS;
    const int aligned = which == CLASS_WEIGHT || which == CHUNKS || which == SUMS ||
                        (t->operation->family == DIVERGENCE && (which == WEIGHT || which == LOSS));
    const int fixed = aligned || (!in_rows && which != INDEX);
    const int is_column = is_table(which) && t->layout == COLUMNS;
    const int64_t gap = fixed || pick(g, 2) ? 0 : pick(g, 3) ? a->size * pick(g, 20) : pick(g, 40);
    const int64_t sign = fixed || pick(g, 4) ? 1 : -1;
    if (is_column) {
        a->row_step = a->size;
        a->class_step = sign * (a->size * a->rows + gap);
    } else {
        a->row_step = sign * (a->size * a->classes + gap);
        a->class_step = a->size;
    }
    const extent e = extent_of(a);
    const int64_t least = aligned ? 8 : 1;
    const int64_t from_end = pick(g, 2) ? 0 : 1 + pick(g, MARGIN - 1);
    const int64_t at = pick(g, 4) ? REGION_BYTES - e.end - from_end / least * least : -e.first;
    a->at = regions[which] + at;
}

static void copy_elements(const array *to, const array *from) {
    for (int64_t r = 0; r < from->rows; ++r)
        for (int64_t c = 0; c < from->classes; ++c)
            memcpy(element_at(to, r, c), element_at(from, r, c), (size_t)from->size);
}

/* The same task, its arrays elsewhere. */
static task relocate(const task *reference, generator *g) {
    task t = *reference;
    const int in_place = t.operation->family != COPY && t.operation->family != PRODUCT &&
                         t.arrays[OUT].size == t.arrays[X].size && pick(g, 4) == 0;
    t.layout = t.operation->layout;
    t.plan.non_temporal = (int)pick(g, 2);
    t.plan.rows_bytes = pick(g, 2) ? 1 << 16 : 1;
    t.in_stages = t.operation->family == ROWS && t.layout == WIDE && t.rows == 1 && !t.arrays[SUMS].size && pick(g, 4);
    for (int k = 0; k < ARRAYS; ++k) {
        array *a = &t.arrays[k];
        if (!a->size)
            continue;
        if (k == CHUNKS && (t.layout == WIDE || t.layout == NARROW))
            a->rows /= XENT_MOST_LANES;
        if (k == OUT && in_place)
            *a = t.arrays[X];
        else
            place_array(a, &t, (role)k, g);
    }
    return t;
}

static void copy_inputs(const task *t, const task *reference) {
    for (int k = 0; k < ARRAYS; ++k) {
        const array *a = &t->arrays[k];
        if (!a->size || (k == OUT && a->at == t->arrays[X].at))
            continue;
        const extent e = with_margin(a, regions[k]);
        memset(regions[k] + e.first, UNTOUCHED, (size_t)(e.end - e.first));
        if (k < INPUTS)
            copy_elements(a, &reference->arrays[k]);
        else if (k == SUMS)
            begin_sums(a);
    }
}

static int same(const char *a, const char *b, const array *of) {
    return !memcmp(a, b, (size_t)of->size) || (isnan(load_element(a, of->type)) && isnan(load_element(b, of->type)));
}

static void print_element(const char *at, const array *of) {
    fprintf(stderr, "%.17g (0x", load_element(at, of->type));
    for (int i = of->size; i-- > 0;) /* little-endian */
        fprintf(stderr, "%02x", (unsigned char)at[i]);
    fprintf(stderr, ")");
}

/* Whether an output has the bits of the reference and nothing around it has changed; prints what is wrong. */
static int is_right(const task *t, const task *reference, role which) {
    const array *got = &t->arrays[which], *wanted = &reference->arrays[which];
    char what[256];
    for (int64_t r = 0; r < got->rows; ++r)
        for (int64_t c = 0; c < got->classes; ++c) {
            char *at = element_at(got, r, c);
            const char *right = element_at(wanted, r, c);
            if (!same(at, right, got)) {
                describe(what, sizeof what);
                fprintf(stderr, "%s: %s[%" PRId64 ", %" PRId64 "] is ", what, role_names[which], r, c);
                print_element(at, got);
                fprintf(stderr, ", should be ");
                print_element(right, got);
                fprintf(stderr, "\n");
                return 0;
            }
            memset(at, UNTOUCHED, (size_t)got->size);
        }
    const char *region = regions[which == OUT && got->at == t->arrays[X].at ? X : which];
    const extent e = with_margin(got, region);
    for (int64_t i = e.first; i < e.end; ++i)
        if ((unsigned char)region[i] != UNTOUCHED) {
            describe(what, sizeof what);
            fprintf(stderr, "%s: writes beside %s, at %+" PRId64 " bytes from its start\n", what, role_names[which],
                    region + i - got->at);
            return 0;
        }
    return 1;
}

/* The next size to check, 0 after the last: all up to two groups of 64 lanes, then those around the ends of vectors, blocks
 * and chunks. */
static int64_t next_size(int64_t n, int64_t most) {
    static const int64_t edges[] = {255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 16383, 16384, 16385, 33000};
    int64_t next = n < 130 ? n + 1 : 0;
    for (size_t i = 0; i < sizeof edges / sizeof *edges && !next; ++i)
        if (edges[i] > n)
            next = edges[i];
    return next <= most ? next : n < most ? most : 0;
}

/* A random number of rows: usually few, sometimes more than one tile or than several that share a head. */
static int64_t row_count(int64_t classes, layout layout, generator *g) {
    static const int64_t most[] = {4, 40, 150, 40};
    const int64_t fit = 1 + 4000 / classes;
    return 1 + pick(g, 1 + pick(g, fit < most[layout] ? fit : most[layout]));
}

/* Returns the number of instruction sets that fail. */
static int check_operation(const operation *o, xent_dtype dtype, const selection *s, int64_t *cases) {
    static char *memory = NULL;
    if (!memory)
        memory = map((int64_t)ARRAYS * MOST_ELEMENTS * 8);
    int failed[16] = {0}, failures = 0;
    for (int64_t n = 1; n; n = next_size(n, most_classes(o)))
        for (int d = 0; d < (n < XENT_CHUNK / 2 ? s->draws : 1); ++d) {
            generator g = {s->seed};
            for (const char *c = o->name; *c; ++c)
                g.state = draw(&g) ^ (uint64_t)(unsigned char)*c;
            g.state = draw(&g) ^ (uint64_t)dtype << 48 ^ (uint64_t)n << 16 ^ (uint64_t)d;
            const int flat = o->layout == FLAT;
            task reference = make_task(o, dtype, flat ? n : row_count(n, o->layout, &g), flat ? 1 : n, &g);
            lay_out(&reference, flat ? FLAT : WIDE, memory);
            fill(&reference, &g);
            running.task = &reference, running.isa = "scalar", running.draw = d, running.seed = s->seed;
            run(&reference, table_of("scalar", dtype));
            const task t = relocate(&reference, &g);
            running.task = &t;
            for (int i = 0; i < s->isa_count; ++i) {
                if (failed[i])
                    continue;
                running.isa = s->isas[i];
                copy_inputs(&t, &reference);
                run(&t, table_of(running.isa, dtype));
                int right = 1;
                for (int k = INPUTS; k < OUTPUTS && right; ++k)
                    if (t.arrays[k].size)
                        right = is_right(&t, &reference, (role)k);
                failed[i] = !right;
                failures += !right;
                ++*cases;
            }
        }
    return failures;
}

int check(const selection *s) {
    const struct sigaction action = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    make_regions();
    int failures = 0;
    for (int d = 0; d < s->dtype_count; ++d) {
        int64_t cases = 0;
        int failed = 0;
        for (int i = 0; i < s->operation_count; ++i)
            failed += check_operation(s->operations[i], s->dtypes[d], s, &cases);
        printf("%-4s on", dtype_names[s->dtypes[d]]);
        for (int i = 0; i < s->isa_count; ++i)
            printf(" %s", s->isas[i]);
        printf(": %d kernels, %" PRId64 " cases, %d fail\n", s->operation_count, cases, failed);
        fflush(stdout);
        failures += failed;
    }
    return failures;
}
