/* The command line of xent-native, which checks and times each kernel by itself. */
#define _GNU_SOURCE
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "check.h"

static const char usage[] =
    "usage: xent-native [options] [pattern...]\n"
    "\n"
    "Checks each kernel against the scalar one, to the bit, then times it by itself. Patterns select kernels by a part of\n"
    "their names, in which * stands for anything: 'wide/grad', 'soft*narrow'.\n"
    "\n"
    "  --check         check alone; the exit status is 1 if a kernel fails\n"
    "  --bench         time alone\n"
    "  --isa NAME      one instruction set, or `all`; by default all are checked and the best is timed\n"
    "  --dtype NAME    f32, f64, f16 or bf16; else all\n"
    "  --draws N       check: how many random tasks of each size (3)\n"
    "  --seed N        check: other random tasks (1)\n"
    "  --classes N     time: rows of so many classes, where the layout takes them\n"
    "  --json          time: one JSON object in each line\n"
    "  --list          names of the kernels\n"
    "  --help\n";

static void refuse(const char *what, const char *which) {
    fprintf(stderr, "xent-native: %s '%s'; see --help\n", what, which);
    exit(2);
}

static int64_t whole_number(const char *text) {
    char *end;
    const long long n = strtoll(text, &end, 10);
    if (end == text || *end || n < 1)
        refuse("not a number of 1 or more:", text);
    return n;
}

static void select_isas(selection *s, const char *only, int best) {
    s->isa_count = 0;
    for (int i = 0; xent_isa_name(i); ++i)
        if (xent_isa_available(i) && (!only || !strcmp(only, "all") || !strcmp(only, xent_isa_name(i))) &&
            !(best && !only && s->isa_count))
            s->isas[s->isa_count++] = xent_isa_name(i);
    if (!s->isa_count)
        refuse("no such instruction set here:", only);
}

static void select_dtypes(selection *s, const char *only) {
    for (int i = 0; i < 4; ++i)
        if (!only || !strcmp(only, dtype_names[i]))
            s->dtypes[s->dtype_count++] = (xent_dtype)i;
    if (!s->dtype_count)
        refuse("no such dtype:", only);
}

/* Whether a name begins with what a pattern, in which * is anything, stands for. */
static int begins(const char *name, const char *pattern) {
    for (; *pattern && *pattern != '*'; ++name, ++pattern)
        if (*name != *pattern)
            return 0;
    if (!*pattern || begins(name, pattern + 1))
        return 1;
    return *name && begins(name + 1, pattern);
}

static void select_operations(selection *s, const operation *operations, int n, char **patterns, int count) {
    for (int i = 0; i < n; ++i) {
        int wanted = !count;
        for (int k = 0; k < count && !wanted; ++k)
            for (const char *part = operations[i].name; *part && !wanted; ++part)
                wanted = begins(part, patterns[k]);
        if (wanted)
            s->operations[s->operation_count++] = &operations[i];
    }
    if (!s->operation_count)
        refuse("no kernel is called", patterns[0]);
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"check", no_argument, NULL, 'c'},
        {"bench", no_argument, NULL, 'b'},
        {"isa", required_argument, NULL, 'i'},
        {"dtype", required_argument, NULL, 'd'},
        {"draws", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"classes", required_argument, NULL, 'w'},
        {"json", no_argument, NULL, 'j'},
        {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    static operation operations[MOST_OPERATIONS];
    static selection s = {.seed = 1, .draws = 3};
    int checks = 0, times = 0, lists = 0;
    const char *isa = NULL, *dtype = NULL;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;)
        switch (option) {
        case 'c':
            checks = 1;
            break;
        case 'b':
            times = 1;
            break;
        case 'i':
            isa = optarg;
            break;
        case 'd':
            dtype = optarg;
            break;
        case 'n':
            s.draws = (int)whole_number(optarg);
            break;
        case 's':
            s.seed = (uint64_t)whole_number(optarg);
            break;
        case 'w':
            s.classes = whole_number(optarg);
            break;
        case 'j':
            s.json = 1;
            break;
        case 'l':
            lists = 1;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            fputs(usage, stderr);
            return 2;
        }
    select_operations(&s, operations, list_operations(operations), argv + optind, argc - optind);
    select_dtypes(&s, dtype);
    if (lists) {
        for (int i = 0; i < s.operation_count; ++i)
            puts(s.operations[i]->name);
        return 0;
    }
    int failures = 0;
    if (checks || !times) {
        select_isas(&s, isa, 0);
        failures = check(&s);
    }
    if (times || !checks) {
        select_isas(&s, isa, 1);
        bench(&s);
    }
    return failures > 0;
}
