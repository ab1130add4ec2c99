/* xent-native: each kernel of each instruction set by itself, checked against the scalar one and timed.
 *
 * `list_operations` is the one registry: the kernels listed in csrc/kernels/kernel.h, each in every layout and with every
 * output it has. Both check.c and bench.c go through it and run what it lists by `run`, so that nothing is timed that was
 * not checked, and nothing exists that is neither. */
#ifndef XENT_NATIVE_H
#define XENT_NATIVE_H

#include "dispatch.h"
#include "index.h"

typedef enum { ROWS, ELEMENTS, INDICES, MATH, READ, COPY } family; /* the functions of xent_kernels */
typedef enum { WIDE, NARROW, FEW_COLUMNS, COLUMNS, FLAT } layout;
typedef enum { LOSS_ALONE, GRADIENT, HESSIAN, LOG_SOFTMAX } output;

typedef struct {
    char name[64];
    family family;
    layout layout; /* FLAT where there are no rows */
    output output;
    int first, second; /* stream and transform, element and derivatives, or function */
} operation;

enum { MOST_OPERATIONS = 512 };
int list_operations(operation to[MOST_OPERATIONS]);
/* Rows of how many classes its kernel is there for. */
int64_t least_classes(const operation *o);
int64_t most_classes(const operation *o);

/* The arrays of a kernel: what it reads, what it writes, its scratch. */
typedef enum {
    X,
    SECOND, /* soft targets, a teacher's logits, targets of elements */
    INDEX,
    CLASS_WEIGHT,
    WEIGHT,
    POS_WEIGHT,
    UPSTREAM,
    LOSS,
    LSE,
    OUT,
    HESS,
    SUMS,
    CHUNKS,
    ARRAYS,
    INPUTS = LOSS,
    OUTPUTS = CHUNKS
} role;
extern const char *const role_names[ARRAYS];

typedef struct {
    xent_dtype type;
    int size; /* bytes of an element; 0: the array is absent */
    int64_t rows, classes;
    char *at; /* of element (0, 0) */
    int64_t row_step, class_step;
} array;

typedef struct {
    const operation *operation;
    xent_dtype dtype;
    layout layout;
    int64_t rows, classes;
    int mood, strays; /* which numbers the inputs hold; whether some class indices are none */
    int in_stages;    /* a single wide row goes through them one by one, in parts */
    xent_plan plan;
    xent_element_plan element_plan;
    array arrays[ARRAYS];
} task;

/* Random numbers, the same everywhere. Without a generator every choice is the first. */
typedef struct {
    uint64_t state;
} generator;
uint64_t draw(generator *g);
int64_t pick(generator *g, int64_t n); /* 0 <= result < n */

/* A task's options and the sizes of its arrays: those most used, or any. */
task make_task(const operation *operation, xent_dtype dtype, int64_t rows, int64_t classes, generator *g);
/* Its arrays one after the other, without gaps; returns the bytes they take. */
int64_t lay_out(task *t, layout layout, char *memory);
/* Numbers into its inputs; the sums that are added to begin at some number. */
void fill(task *t, generator *g);
void begin_sums(const array *sums);
void run(const task *t, const xent_kernels *kernels);

static inline char *element_at(const array *a, int64_t row, int64_t class) {
    return a->at + row * a->row_step + class * a->class_step;
}
double load_element(const char *at, xent_dtype type);

typedef struct {
    int json;
    uint64_t seed;
    int draws;       /* of the check, for each size */
    int64_t classes; /* of the benchmark; 0: those of each layout */
    const char *isas[16];
    xent_dtype dtypes[4];
    int isa_count, dtype_count;
    const operation *operations[MOST_OPERATIONS];
    int operation_count;
} selection;

extern const char *const dtype_names[4];
/* The table of an instruction set that this machine has. */
const xent_kernels *table_of(const char *isa, xent_dtype dtype);

int check(const selection *s); /* number of operations that fail */
void bench(const selection *s);

#endif
