/* The names of all kernels, and the tables of functions that they stand for. */
#include "registry.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

const char *const dtype_names[4] = {"f32", "f64", "f16", "bf16"};

static void add_operation(operation *to, int *n, operation what, const char *format, const char *a, const char *b) {
    static const char *const layouts[] = {"/wide", "/narrow", "/columns", ""};
    static const char *const outputs[] = {"/loss", "/gradient", "/hessian", "/log_softmax"};
    if (*n == MOST_OPERATIONS)
        abort();
    char *name = what.name;
    snprintf(name, sizeof what.name, format, a, b, layouts[what.layout], outputs[what.output]);
    for (; *name; ++name)
        *name = (char)tolower(*name);
    to[(*n)++] = what;
}

static void add_rows(operation *to, int *n, xent_stream stream, xent_transform transform, const char *a, const char *b) {
    for (int layout = WIDE; layout < FLAT; ++layout)
        for (int output = LOSS_ALONE; output <= LOG_SOFTMAX; ++output) {
            const operation row = {
                .family = ROWS, .layout = layout, .output = output, .first = (int)stream, .second = (int)transform};
            if (stream == XENT_SQUARES ? output == LOSS_ALONE
                : output == HESSIAN    ? XENT_HAS_HESSIAN(stream, transform)
                                       : output != LOG_SOFTMAX || (stream == XENT_NO_STREAM && transform == XENT_PLAIN))
                add_operation(to, n, row, "%s-%s%s%s", a, b);
        }
}

int list_operations(operation to[MOST_OPERATIONS]) {
    int n = 0;
#define WITHOUT_PREFIX(name) (&#name[sizeof "XENT_" - 1])
#define ROW_KERNEL(S, T) add_rows(to, &n, S, T, WITHOUT_PREFIX(S), WITHOUT_PREFIX(T));
    XENT_ROW_KERNELS(ROW_KERNEL)
    add_rows(to, &n, XENT_SQUARES, XENT_PLAIN, "SQUARES", "PLAIN");
    add_rows(to, &n, XENT_SQUARES, XENT_TEMPERATURE, "SQUARES", "TEMPERATURE");
    for (int layout = NARROW; layout < FLAT; ++layout)
        for (int output = LOSS_ALONE; output <= GRADIENT; ++output)
            add_operation(to, &n, (operation){.family = REGION, .layout = layout, .output = output}, "%s%s%s%s", "region",
                          "");
    for (int layout = WIDE; layout < COLUMNS; ++layout)
        for (int output = LOSS_ALONE; output <= GRADIENT; ++output)
            add_operation(to, &n, (operation){.family = DIVERGENCE, .layout = layout, .output = output}, "%s%s%s%s",
                          "jensen_shannon", "");
#define ELEMENT_KERNEL(E, D)                                                                                                \
    add_operation(to, &n, (operation){.family = ELEMENTS, .layout = FLAT, .output = D, .first = E, .second = D},            \
                  "%s%s%s%s", WITHOUT_PREFIX(E), "");
    XENT_ELEMENT_KERNELS(ELEMENT_KERNEL)
#define FUNCTION(F)                                                                                                         \
    add_operation(to, &n, (operation){.family = MATH, .layout = FLAT, .first = F}, "%s", WITHOUT_PREFIX(F), "");
    FUNCTION(XENT_EXP)
    FUNCTION(XENT_LOG)
    FUNCTION(XENT_LOG1P)
    FUNCTION(XENT_TANH)
    FUNCTION(XENT_TANH_SLOPE)
    FUNCTION(XENT_LOG1P_UNIT)
    add_operation(to, &n, (operation){.family = INDICES, .layout = FLAT}, "%s", "check", "");
    add_operation(to, &n, (operation){.family = UNSCALE, .layout = FLAT, .first = 1}, "%s", "unscale-multiply", "");
    add_operation(to, &n, (operation){.family = UNSCALE, .layout = FLAT}, "%s", "unscale-divide", "");
    add_operation(to, &n, (operation){.family = PRODUCT, .layout = FLAT}, "%s", "product", "");
    add_operation(to, &n, (operation){.family = ROUND, .layout = FLAT}, "%s", "round", "");
    add_operation(to, &n, (operation){.family = READ, .layout = FLAT}, "%s", "read", "");
    add_operation(to, &n, (operation){.family = COPY, .layout = FLAT}, "%s", "copy", "");
    return n;
}

int64_t most_classes(const operation *o) {
    return o->family == REGION || o->layout != NARROW ? INT64_MAX
           : o->family == DIVERGENCE                  ? XENT_NARROW_DIVERGENCE
           : o->output == LOSS_ALONE                  ? XENT_NARROW_LOSS
                                                      : XENT_NARROW_ODD_GRADIENT;
}

const xent_kernels *table_of(const char *isa, xent_dtype dtype) {
    (void)xent_use_isa(isa);
    return xent_kernels_for(dtype);
}
