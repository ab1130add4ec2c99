/* The check: every kernel against the scalar one, to the bit.
 *
 * The reference is the scalar table working on plain arrays, row by row where there are rows (XENT_WIDE). What is tested
 * gets the same numbers in another place: any layout, gaps between rows, rows backward, odd addresses, results in the place
 * of the logits. None of that may change a bit of a result; only NaNs are all alike. Arrays begin or end where a page ends
 * that may not be touched, and what lies around results must stay as it was. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "native.h"

enum { ROOM = 8 << 20, AROUND = 64, MOST_ELEMENTS = 1 << 16, UNTOUCHED = 0xa5 };

/* What runs, for messages. */
static struct {
    const task *task;
    const char *isa;
    int draw;
    uint64_t seed;
} now;

static void describe(char *to, size_t size) {
    const task *t = now.task;
    snprintf(to, size, "%s, %s, %s, %" PRId64 " x %" PRId64 " (draw %d of seed %" PRIu64 ")", t->operation->name, now.isa,
             dtype_names[t->dtype], t->rows, t->classes, now.draw, now.seed);
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

/* Rooms: memory between two pages that may not be touched, one for each array. */

static char *rooms[ARRAYS];

static char *map(int64_t bytes) {
    char *at = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        perror("xent-native");
        exit(2);
    }
    return at;
}

static void make_rooms(void) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    for (int k = 0; k < ARRAYS; ++k) {
        rooms[k] = map(ROOM + 2 * page) + page;
        mprotect(rooms[k] - page, (size_t)page, PROT_NONE);
        mprotect(rooms[k] + ROOM, (size_t)page, PROT_NONE);
    }
}

typedef struct {
    int64_t first, end; /* bytes relative to element (0, 0) */
} extent;

static extent extent_of(const array *a) {
    const int64_t row = (a->rows - 1) * a->row_step, class = (a->classes - 1) * a->class_step;
    return (extent){(row < 0 ? row : 0) + (class < 0 ? class : 0), (row > 0 ? row : 0) + (class > 0 ? class : 0) + a->size};
}

/* The bytes of a room that are an array's or near it. */
static extent around(const array *a, const char *room) {
    const extent e = extent_of(a);
    const int64_t first = a->at + e.first - room - AROUND, end = a->at + e.end - room + AROUND;
    return (extent){first < 0 ? 0 : first, end > ROOM ? ROOM : end};
}

/* Whether an array has a number for each row and class. */
static int is_table(role which) { return which == X || which == SECOND || which == OUT || which == HESS; }

/* Steps that nothing obliges to be what they are, and a place: against the end, against the start, or near the end at any
 * address. */
static void place(array *a, const task *t, role which, generator *g) {
    const int rigid = which == CLASS_WEIGHT || which == CHUNKS || (t->operation->family != ROWS && which != INDEX);
    const int across = is_table(which) && (t->layout == COLUMNS || t->layout == FEW_COLUMNS);
    const int64_t gap = rigid || pick(g, 2) ? 0 : pick(g, 3) ? a->size * pick(g, 20) : pick(g, 40);
    const int64_t sign = rigid || pick(g, 4) ? 1 : -1;
    if (across) {
        a->row_step = a->size;
        a->class_step = sign * (a->size * a->rows + gap);
    } else {
        a->row_step = sign * (a->size * a->classes + gap);
        a->class_step = a->size;
    }
    const extent e = extent_of(a);
    const int64_t least = which == CLASS_WEIGHT || which == CHUNKS || which == SUMS ? 8 : 1;
    const int64_t from_end = pick(g, 2) ? 0 : 1 + pick(g, AROUND - 1);
    const int64_t at = pick(g, 4) ? ROOM - e.end - from_end / least * least : -e.first;
    a->at = rooms[which] + at;
}

static void copy_elements(const array *to, const array *from) {
    for (int64_t r = 0; r < from->rows; ++r)
        for (int64_t c = 0; c < from->classes; ++c)
            memcpy(element_at(to, r, c), element_at(from, r, c), (size_t)from->size);
}

/* The same task elsewhere. */
static task move(const task *reference, generator *g) {
    task t = *reference;
    const int in_place = t.operation->family != COPY && t.arrays[OUT].size == t.arrays[X].size && pick(g, 4) == 0;
    t.layout = t.operation->layout;
    t.plan.non_temporal = (int)pick(g, 2);
    t.plan.rows_bytes = pick(g, 2) ? 1 << 16 : 1;
    t.in_stages = t.operation->family == ROWS && t.layout == WIDE && t.rows == 1 && pick(g, 4);
    for (int k = 0; k < ARRAYS; ++k) {
        array *a = &t.arrays[k];
        if (!a->size)
            continue;
        if (k == CHUNKS && (t.layout == WIDE || t.layout == NARROW))
            a->rows /= XENT_MOST_LANES;
        if (k == OUT && in_place)
            *a = t.arrays[X];
        else
            place(a, &t, (role)k, g);
    }
    return t;
}

static void bring_in(const task *t, const task *reference) {
    for (int k = 0; k < ARRAYS; ++k) {
        const array *a = &t->arrays[k];
        if (!a->size || (k == OUT && a->at == t->arrays[X].at))
            continue;
        const extent e = around(a, rooms[k]);
        memset(rooms[k] + e.first, UNTOUCHED, (size_t)(e.end - e.first));
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

/* Whether an output has the reference's bits and nothing around it has been touched; says so if not. */
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
    const char *room = rooms[which == OUT && got->at == t->arrays[X].at ? X : which];
    const extent e = around(got, room);
    for (int64_t i = e.first; i < e.end; ++i)
        if ((unsigned char)room[i] != UNTOUCHED) {
            describe(what, sizeof what);
            fprintf(stderr, "%s: writes beside %s, at %+" PRId64 " bytes from its start\n", what, role_names[which],
                    room + i - got->at);
            return 0;
        }
    return 1;
}

/* Every size up to two groups of 64 lanes, then what lies about the edges of vectors, blocks and chunks; 0 after the last.
 */
static int64_t next_size(int64_t n, int64_t most) {
    static const int64_t edges[] = {255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 16383, 16384, 16385, 33000};
    int64_t next = n < 130 ? n + 1 : 0;
    for (size_t i = 0; i < sizeof edges / sizeof *edges && !next; ++i)
        if (edges[i] > n)
            next = edges[i];
    return next <= most ? next : n < most ? most : 0;
}

/* Mostly few rows, sometimes more than a tile or several tiles side by side. */
static int64_t some_rows(int64_t classes, layout layout, generator *g) {
    static const int64_t most[] = {4, 40, 150, 40};
    const int64_t fit = 1 + 4000 / classes;
    return 1 + pick(g, 1 + pick(g, fit < most[layout] ? fit : most[layout]));
}

/* Number of instruction sets that fail. */
static int check_operation(const operation *o, xent_dtype dtype, const selection *s, int64_t *cases) {
    static char *memory = NULL;
    if (!memory)
        memory = map((int64_t)ARRAYS * MOST_ELEMENTS * 8);
    int failed[16] = {0}, failures = 0;
    for (int64_t n = least_classes(o); n; n = next_size(n, most_classes(o)))
        for (int d = 0; d < (n < XENT_CHUNK / 2 ? s->draws : 1); ++d) {
            generator g = {s->seed};
            for (const char *c = o->name; *c; ++c)
                g.state = draw(&g) ^ (uint64_t)(unsigned char)*c;
            g.state = draw(&g) ^ (uint64_t)dtype << 48 ^ (uint64_t)n << 16 ^ (uint64_t)d;
            const int flat = o->layout == FLAT;
            task reference = make_task(o, dtype, flat ? n : some_rows(n, o->layout, &g), flat ? 1 : n, &g);
            lay_out(&reference, flat ? FLAT : WIDE, memory);
            fill(&reference, &g);
            now.task = &reference, now.isa = "scalar", now.draw = d, now.seed = s->seed;
            run(&reference, table_of("scalar", dtype));
            const task t = move(&reference, &g);
            now.task = &t;
            for (int i = 0; i < s->isa_count; ++i) {
                if (failed[i])
                    continue;
                now.isa = s->isas[i];
                bring_in(&t, &reference);
                run(&t, table_of(now.isa, dtype));
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
    make_rooms();
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
