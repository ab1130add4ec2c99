/* A task: one kernel with its options and arrays, ready to run. */
#ifndef XENT_NATIVE_TASK_H
#define XENT_NATIVE_TASK_H

#include "random.h"
#include "registry.h"

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

/* What the inputs of a task hold; see `number` in inputs.c. */
typedef enum { ORDINARY, TIED, WIDE_RANGE, SPECIAL, MASKED, HARD, INPUT_KINDS } input_kind;

typedef struct {
    const operation *operation;
    xent_dtype dtype;
    layout layout;
    int64_t rows, classes;
    input_kind input_kind;
    int out_of_range; /* whether some class indices are no classes */
    int in_stages;    /* whether a single wide row goes through the stages one by one, in parts */
    xent_plan plan;
    xent_element_plan element_plan;
    array arrays[ARRAYS];
} task;

/* A task with its options and the sizes of its arrays: the most common ones without a generator, else random ones. */
task make_task(const operation *operation, xent_dtype dtype, int64_t rows, int64_t classes, generator *g);
/* Places the arrays one after the other, without gaps; returns the bytes they take. */
int64_t lay_out(task *t, layout layout, char *memory);
void run(const task *t, const xent_kernels *kernels);

int element_size(xent_dtype type);

static inline char *element_at(const array *a, int64_t row, int64_t class) {
    return a->at + row * a->row_step + class * a->class_step;
}

#endif
