/* The registry, and what one run of a kernel needs: options, arrays, numbers. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

const char *const role_names[ARRAYS] = {"x",    "second", "index", "class weight", "weight", "pos_weight", "upstream",
                                        "loss", "lse",    "out",   "hess",         "sums",   "chunks"};
const char *const dtype_names[4] = {"f32", "f64", "f16", "bf16"};

/* Registry. */

static void add_operation(operation *to, int *n, operation what, const char *format, const char *a, const char *b) {
    static const char *const layouts[] = {"/wide", "/narrow", "/few_columns", "/columns", ""};
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
            if (output == HESSIAN ? XENT_HAS_HESSIAN(stream, transform)
                                  : output != LOG_SOFTMAX || (stream == XENT_NO_STREAM && transform == XENT_PLAIN))
                add_operation(to, n, row, "%s-%s%s%s", a, b);
        }
}

int list_operations(operation to[MOST_OPERATIONS]) {
    int n = 0;
#define WITHOUT_PREFIX(name) (#name + sizeof "XENT_" - 1)
#define ROW_KERNEL(S, T) add_rows(to, &n, S, T, WITHOUT_PREFIX(S), WITHOUT_PREFIX(T));
    XENT_ROW_KERNELS(ROW_KERNEL)
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
    add_operation(to, &n, (operation){.family = READ, .layout = FLAT}, "%s", "read", "");
    add_operation(to, &n, (operation){.family = COPY, .layout = FLAT}, "%s", "copy", "");
    return n;
}

int64_t least_classes(const operation *o) { return o->layout == COLUMNS ? XENT_FEW_COLUMNS + 1 : 1; }

int64_t most_classes(const operation *o) {
    return o->layout == FEW_COLUMNS  ? XENT_FEW_COLUMNS
           : o->layout != NARROW     ? INT64_MAX
           : o->output == LOSS_ALONE ? XENT_NARROW_LOSS
                                     : XENT_NARROW_ODD_GRADIENT;
}

/* Random numbers (splitmix64). */

uint64_t draw(generator *g) {
    uint64_t z = g->state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

int64_t pick(generator *g, int64_t n) { return g ? (int64_t)(draw(g) % (uint64_t)n) : 0; }

static double pick_number(generator *g, int n, const double *numbers) { return numbers[pick(g, n)]; }
#define PICK(g, ...) pick_number(g, sizeof((double[]){__VA_ARGS__}) / sizeof(double), (double[]){__VA_ARGS__})

/* Options. */

static int size_of(xent_dtype type) {
    static const int sizes[] = {4, 8, 2, 2, 1, 1, 1, 2, 2, 4, 4, 8, 8};
    return sizes[type];
}

static void bring(task *t, role which, xent_dtype type, int64_t rows, int64_t classes) {
    t->arrays[which] = (array){.type = type, .size = size_of(type), .rows = rows, .classes = classes};
}

static xent_dtype any_index_type(generator *g) { return (xent_dtype)(XENT_BOOL + (XENT_I64 - XENT_BOOL + pick(g, 9)) % 9); }

static void make_indices(task *t, xent_dtype type, generator *g) {
    const int is_signed = type == XENT_I8 || type == XENT_I16 || type == XENT_I32 || type == XENT_I64;
    t->plan.index_type = (int)type;
    t->plan.has_ignore = (int)pick(g, 2);
    t->plan.ignore = is_signed ? -100 : 100;
    t->strays = (int)pick(g, 2);
    bring(t, INDEX, type, t->rows, 1);
}

static void make_rows(task *t, generator *g) {
    const operation *o = t->operation;
    const xent_stream stream = (xent_stream)o->first;
    const xent_transform transform = (xent_transform)o->second;
    const xent_dtype stored = t->dtype, computed = stored == XENT_F64 ? XENT_F64 : XENT_F32;
    const int64_t rows = t->rows, classes = t->classes;
    const double each = 1 / (double)classes;
    const int given = transform == XENT_GIVEN, capped = transform == XENT_CAPPED;
    const int softmax =
        o->output == LOG_SOFTMAX || (stream == XENT_NO_STREAM && !given && o->output != HESSIAN && pick(g, 4) == 1);
    const int indexed = stream <= XENT_WEIGHTS && !softmax;
    const int probabilities = given && pick(g, 2);
    const double smoothing = stream == XENT_WEIGHTS ? PICK(g, 0.1, 0.5, 1) : 0, mixing = PICK(g, 0, 0.1);
    t->plan = (xent_plan){
        .classes = classes,
        .stream = stream,
        .transform = transform,
        .form = o->output == LOSS_ALONE    ? XENT_NO_OUTPUT
                : o->output == LOG_SOFTMAX ? XENT_LOGARITHMS
                                           : XENT_EXPONENTIALS,
        .link = (xent_link)(indexed && !given ? pick(g, XENT_POLY + 1) : XENT_LIKELIHOOD),
        .strength = PICK(g, 2, 0, 0.5, 3.5),
        .keep_infinite = softmax,
        .hard = softmax   ? 1
                : indexed ? 1 - smoothing
                          : 0,
        .smooth = indexed ? smoothing * each : 1,
        .z = given ? 0 : PICK(g, 0, 1e-4),
        .mix_keep = 1 - mixing,
        .mix_add = mixing * each,
        .softcap = capped ? PICK(g, 30, 5) : 0,
        .temperature = capped || transform == XENT_HEATED ? PICK(g, 2, 1, 0.7) : 1,
        .probabilities = probabilities,
        .clip = probabilities ? PICK(g, 0, 1e-7) : 0,
        .scale = softmax ? 1 : PICK(g, 1, 0.125, -0.3),
        .no_row_counts = !softmax && pick(g, 16) == 1,
    };
    bring(t, X, stored, rows, classes);
    if (stream == XENT_SOFT || stream == XENT_TEACHER)
        bring(t, SECOND, stream == XENT_SOFT ? computed : stored, rows, classes);
    if (indexed)
        make_indices(t, any_index_type(g), g);
    if (!softmax && stream <= XENT_SOFT && pick(g, 2))
        bring(t, CLASS_WEIGHT, computed, classes, 1);
    if (!softmax && pick(g, 2))
        bring(t, WEIGHT, computed, rows, 1);
    if (!softmax && pick(g, 2))
        bring(t, UPSTREAM, computed, rows, 1);
    if (!softmax)
        bring(t, LOSS, computed, rows, 1);
    if (!given && ((softmax && o->output == LOSS_ALONE) || pick(g, 2)))
        bring(t, LSE, computed, rows, 1);
    if (o->output != LOSS_ALONE)
        bring(t, OUT, stored, rows, classes);
    if (o->output == HESSIAN)
        bring(t, HESS, stored, rows, classes);
    /* Enough for any layout. */
    bring(t, CHUNKS, XENT_F64,
          XENT_MOST_LANES * XENT_ROWS_NEED_CHUNKS(classes) * (int64_t)(sizeof(xent_chunk) / sizeof(double)), 1);
}

static void make_elements(task *t, generator *g) {
    const operation *o = t->operation;
    const xent_element element = (xent_element)o->first;
    const xent_dtype stored = t->dtype, computed = stored == XENT_F64 ? XENT_F64 : XENT_F32;
    const int is_loss = element < XENT_ONE;
    const double mixing = element < XENT_SIGMOID_FOCAL ? PICK(g, 0, 0.1) : 0;
    t->element_plan = (xent_element_plan){
        .element = element,
        .derivatives = o->second,
        .mix_keep = 1 - mixing,
        .mix_add = mixing / 2,
        .eps = element == XENT_BINARY ? PICK(g, 0, 1e-7) : 0,
        .alpha = element == XENT_SIGMOID_FOCAL ? PICK(g, 0.25, -1) : -1,
        .gamma = PICK(g, 2, 0, 0.5, 3.5),
        .log_target = element == XENT_KL && pick(g, 2),
        .scale = PICK(g, 1, 0.125, -0.3),
    };
    if (element != XENT_ONE)
        bring(t, X, stored, t->rows, 1);
    if (is_loss)
        bring(t, SECOND, computed, t->rows, 1);
    if (element == XENT_ONE || (is_loss && pick(g, 2)))
        bring(t, WEIGHT, computed, t->rows, 1);
    if (element == XENT_BINARY_LOGITS && pick(g, 2))
        bring(t, POS_WEIGHT, computed, t->rows, 1);
    if (is_loss && pick(g, 2))
        bring(t, UPSTREAM, computed, t->rows, 1);
    const int64_t results = pick(g, 3);
    if (results)
        bring(t, LOSS, computed, t->rows, 1);
    if (results < 2)
        bring(t, SUMS, XENT_F64, XENT_MOST_LANES, 1);
    if (o->second > 0)
        bring(t, OUT, stored, t->rows, 1);
    if (o->second > 1)
        bring(t, HESS, stored, t->rows, 1);
}

task make_task(const operation *operation, xent_dtype dtype, int64_t rows, int64_t classes, generator *g) {
    task t = {.operation = operation, .dtype = dtype, .layout = operation->layout, .rows = rows, .classes = classes};
    const xent_dtype computed = dtype == XENT_F64 ? XENT_F64 : XENT_F32;
    t.mood = (int)pick(g, 6);
    switch (operation->family) {
    case ROWS:
        make_rows(&t, g);
        break;
    case ELEMENTS:
        make_elements(&t, g);
        break;
    case INDICES:
        t.plan.classes = (int64_t)PICK(g, 1000, 1, 1e6, 0x1p40);
        make_indices(&t, any_index_type(g), g);
        bring(&t, LOSS, XENT_I64, 2, 1); /* how many count, and the first bad one */
        break;
    case MATH:
        bring(&t, X, computed, rows, 1);
        bring(&t, OUT, computed, rows, 1);
        break;
    case READ:
        bring(&t, X, XENT_U8, rows, 1);
        bring(&t, LOSS, XENT_F64, 1, 1);
        break;
    case COPY:
        bring(&t, X, XENT_U8, rows, 1);
        bring(&t, OUT, XENT_U8, rows, 1);
        break;
    }
    return t;
}

int64_t lay_out(task *t, layout layout, char *memory) {
    int64_t used = 0;
    t->layout = layout;
    for (int k = 0; k < ARRAYS; ++k) {
        array *a = &t->arrays[k];
        if (!a->size)
            continue;
        const int across = layout == COLUMNS || layout == FEW_COLUMNS;
        a->at = memory + used;
        a->row_step = across ? a->size : a->size * a->classes;
        a->class_step = across ? a->size * a->rows : a->size;
        used += (a->rows * a->classes * a->size + 63) / 64 * 64;
    }
    return used;
}

/* Numbers. */

static double uniform(generator *g) { return (double)(draw(g) >> 11) * 0x1p-53; }

/* float16 by its exponent's field: scaled by 2^-112 a float has the exponent's bits of its half, subnormal or not. */
static uint16_t half_of(float x) {
    const float size = fabsf(x) * 0x1p-112f;
    uint32_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits >>= 13;
    return (uint16_t)((signbit(x) ? 0x8000 : 0) | (isnan(x) ? 0x7e00 : bits > 0x7c00 ? 0x7c00 : bits));
}

static void store_element(char *at, xent_dtype type, double x) {
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (type == XENT_F64) {
        memcpy(at, &x, 8);
    } else if (type == XENT_F32) {
        memcpy(at, &f, 4);
    } else if (type == XENT_BF16) {
        const uint16_t high = (uint16_t)(bits >> 16);
        memcpy(at, &high, 2);
    } else if (type == XENT_F16) {
        const uint16_t half = half_of(f);
        memcpy(at, &half, 2);
    } else {
        const int64_t i = (int64_t)x;
        const int32_t four = (int32_t)i;
        const int16_t two = (int16_t)i;
        const int8_t one = (int8_t)i;
        const int size = size_of(type);
        memcpy(at,
               size == 8   ? (const void *)&i
               : size == 4 ? (const void *)&four
               : size == 2 ? (const void *)&two
                           : (const void *)&one,
               (size_t)size);
    }
}

double load_element(const char *at, xent_dtype type) {
    if (type == XENT_F64) {
        double x;
        memcpy(&x, at, 8);
        return x;
    }
    if (type != XENT_F32 && type != XENT_F16 && type != XENT_BF16)
        return (double)xent_load_index(at, (int)type);
    uint32_t bits = 0;
    uint16_t two;
    float f;
    if (type == XENT_F32) {
        memcpy(&bits, at, 4);
    } else {
        memcpy(&two, at, 2);
        bits = type == XENT_BF16 ? (uint32_t)two << 16 : (uint32_t)(two & 0x7fff) << 13;
    }
    memcpy(&f, &bits, 4);
    if (type == XENT_F16) {
        f = (two & 0x7c00) == 0x7c00 ? (two & 0x3ff ? NAN : INFINITY) : f * 0x1p112f;
        f = two & 0x8000 ? -f : f;
    }
    return (double)f;
}

typedef enum { LOGIT, PROBABILITY, LOGARITHM, FACTOR, SIGNED, ANY } kind;
enum { CALM, TIED, WILD, SPECIAL, MASKED, HARD };

static double number(generator *g, kind kind, int mood) {
    static const double special[] = {-INFINITY, INFINITY, NAN,   0.0,    -0.0,     1,    -1,
                                     1e30,      -1e30,    1e-40, -1e-40, 0x1p-149, 1e300};
    double x = 4 * (uniform(g) + uniform(g) + uniform(g) + uniform(g) - 2);
    if (mood == TIED)
        x = floor(x);
    if (mood == WILD)
        x = ldexp(x, (int)pick(g, 200) - 100);
    if (mood == SPECIAL && pick(g, 16) == 0)
        x = special[pick(g, sizeof special / sizeof *special)];
    else if (mood == MASKED && pick(g, 3))
        x = kind == LOGIT || kind == LOGARITHM ? -INFINITY : 0;
    else if (kind == PROBABILITY)
        x = mood == HARD ? (double)(x > 0) : 1 / (1 + exp(-x));
    else if (kind == LOGARITHM)
        x = -fabs(x);
    else if (kind == FACTOR)
        x = mood == HARD ? (double)(x > 0) : fabs(x);
    return x;
}

/* Arguments of a function of math.h, over its whole domain. */
static double argument(generator *g, xent_function function) {
    const int most = function == XENT_LOG || function == XENT_LOG1P ? 125 : 10;
    const double size = ldexp(1 + uniform(g), (int)pick(g, 150 + most) - 150);
    if (pick(g, 32) == 0)
        return PICK(g, 0, NAN, 0x1p-149, function == XENT_EXP ? -INFINITY : 1);
    return function == XENT_EXP     ? -size
           : function == XENT_LOG   ? size
           : function == XENT_LOG1P ? (size < 0.9 && pick(g, 2) ? -size : size)
           : pick(g, 2)             ? size
                                    : -size;
}

static kind kind_of(const task *t, role which) {
    const int given = t->operation->second == XENT_GIVEN, element = t->operation->first;
    const int rows = t->operation->family == ROWS;
    if (which == UPSTREAM)
        return SIGNED;
    if (which != X && which != SECOND)
        return FACTOR;
    if (rows)
        return which == SECOND         ? (t->plan.stream == XENT_SOFT ? PROBABILITY : LOGIT)
               : !given                ? LOGIT
               : t->plan.probabilities ? PROBABILITY
                                       : LOGARITHM;
    if (element == XENT_KL)
        return which == X || t->element_plan.log_target ? LOGARITHM : PROBABILITY;
    return which == SECOND || element == XENT_BINARY || element == XENT_OUTSIDE ? PROBABILITY : LOGIT;
}

static double value_of(const task *t, role which, generator *g) {
    if (t->operation->family == MATH)
        return argument(g, (xent_function)t->operation->first);
    if (t->arrays[which].type == XENT_U8 && which == X)
        return (double)pick(g, 256);
    if (which == INDEX && t->strays && pick(g, 8) == 0) /* to be ignored, or no class at all */
        return (double)(pick(g, 2) ? t->plan.ignore : pick(g, 1 << 20) - (1 << 19));
    if (which == INDEX) {
        const int size = t->arrays[INDEX].size;
        return (double)(pick(g, t->plan.classes) % (size == 1 ? 100 : size == 2 ? 30000 : t->plan.classes));
    }
    return number(g, kind_of(t, which), t->mood);
}

void begin_sums(const array *sums) {
    for (int64_t i = 0; i < sums->rows; ++i)
        store_element(element_at(sums, i, 0), sums->type, 0.37 * (double)i);
}

void fill(task *t, generator *g) {
    enum { ENOUGH = 1 << 16 };
    for (int k = 0; k < INPUTS; ++k) {
        const array *a = &t->arrays[k];
        const int64_t n = a->rows * a->classes, some = n < ENOUGH ? n : ENOUGH;
        for (int64_t i = 0; i < some; ++i)
            store_element(a->at + i * a->size, a->type, value_of(t, (role)k, g));
        for (int64_t i = some; i < n; i += some)
            memcpy(a->at + i * a->size, a->at, (size_t)((n - i < some ? n - i : some) * a->size));
    }
    begin_sums(&t->arrays[SUMS]);
}

/* One run. */

static void run_stages(const xent_plan *plan, xent_rows row, const xent_kernels *kernels) {
    const int64_t classes = plan->classes, parts[] = {XENT_CHUNK, classes, 1000};
    for (int stage = XENT_REDUCE; stage <= (plan->form == XENT_NO_OUTPUT ? XENT_HEAD : XENT_APPLY); ++stage) {
        row.stage = (xent_stage)stage;
        const int64_t part = parts[stage - XENT_REDUCE];
        for (row.begin = 0; row.begin < classes; row.begin += part) {
            row.end = classes - row.begin < part ? classes : row.begin + part;
            kernels->rows(plan, &row);
        }
    }
}

static char *element_from(const array *arrays, role which, int64_t i) {
    return arrays[which].at ? element_at(&arrays[which], i, 0) : NULL;
}

void run(const task *t, const xent_kernels *kernels) {
    const array *a = t->arrays;
    const int64_t n = t->rows;
    if (t->operation->family == ROWS) {
        xent_plan plan = t->plan;
        plan.layout = t->layout == WIDE ? XENT_WIDE : t->layout == NARROW ? XENT_NARROW : XENT_COLUMNS;
        plan.logits_class_step = a[X].class_step;
        plan.soft_class_step = a[SECOND].class_step;
        plan.out_class_step = a[OUT].class_step;
        plan.hess_class_step = a[HESS].class_step;
        plan.class_weight = a[CLASS_WEIGHT].at;
        const xent_rows rows = {
            .count = n,
            .logits = a[X].at,
            .index = a[INDEX].at,
            .soft = a[SECOND].at,
            .weight = a[WEIGHT].at,
            .upstream = a[UPSTREAM].at,
            .loss = a[LOSS].at,
            .lse = a[LSE].at,
            .out = a[OUT].at,
            .hess = a[HESS].at,
            .logits_step = a[X].row_step,
            .index_step = a[INDEX].row_step,
            .soft_step = a[SECOND].row_step,
            .weight_step = a[WEIGHT].row_step,
            .upstream_step = a[UPSTREAM].row_step,
            .loss_step = a[LOSS].row_step,
            .lse_step = a[LSE].row_step,
            .out_step = a[OUT].row_step,
            .hess_step = a[HESS].row_step,
            .chunks = (xent_chunk *)(void *)a[CHUNKS].at,
            .end = t->classes,
        };
        if (t->in_stages)
            run_stages(&plan, rows, kernels);
        else
            kernels->rows(&plan, &rows);
    } else if (t->operation->family == ELEMENTS) {
        const int64_t most = t->plan.non_temporal ? XENT_PIECE : n;
        for (int64_t i = 0; i < n; i += most) {
            const xent_elements elements = {
                .count = n - i < most ? n - i : most,
                .x = element_from(a, X, i),
                .target = element_from(a, SECOND, i),
                .weight = element_from(a, WEIGHT, i),
                .pos_weight = element_from(a, POS_WEIGHT, i),
                .upstream = element_from(a, UPSTREAM, i),
                .loss = element_from(a, LOSS, i),
                .out = element_from(a, OUT, i),
                .hess = element_from(a, HESS, i),
                .sums = (double *)(void *)a[SUMS].at,
                .non_temporal = t->plan.non_temporal,
            };
            kernels->elements(&t->element_plan, &elements);
        }
    } else if (t->operation->family == INDICES) {
        const xent_indices indices = {
            .index = a[INDEX].at,
            .step = a[INDEX].row_step,
            .count = n,
            .type = t->plan.index_type,
            .has_ignore = t->plan.has_ignore,
            .ignore = t->plan.ignore,
            .classes = t->plan.classes,
        };
        int64_t found[2] = {0, -1};
        found[0] = kernels->check(&indices, &found[1]);
        memcpy(a[LOSS].at, found, sizeof found);
    } else if (t->operation->family == MATH) {
        kernels->math((xent_function)t->operation->first, a[X].at, a[OUT].at, n);
    } else if (t->operation->family == READ) {
        const double most = kernels->read(a[X].at, n);
        memcpy(a[LOSS].at, &most, sizeof most);
    } else {
        kernels->copy(a[OUT].at, a[X].at, n);
    }
}

const xent_kernels *table_of(const char *isa, xent_dtype dtype) {
    (void)xent_use_isa(isa);
    return xent_kernels_for(dtype);
}
