/* Calls of every operation, dtype, layout and instruction set in threads whose stacks are small: the caller's and those that
 * share the call, whoever starts them. `stack KIBIBYTES`
 *
 * Each stack lies above a megabyte that may not be touched, so that a frame that reaches beyond the stack ends the program
 * wherever in it the first write goes; an ordinary guard page would be jumped over. What is printed is how much of a stack
 * was used at most, the C library's own part included. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "calls.h"

enum { BEYOND = 1 << 20, MOST = 1 << 21, MOST_STACKS = 4096, UNUSED = 0x55 };

static size_t stack_bytes;
static unsigned char *stacks[MOST_STACKS];
static int stack_count; /* counted by one thread at a time: `lock` */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static unsigned char *new_stack(void) {
    unsigned char *const room =
        mmap(NULL, BEYOND + stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED || mprotect(room + BEYOND, stack_bytes, PROT_READ | PROT_WRITE))
        abort();
    memset(room + BEYOND, UNUSED, stack_bytes);
    pthread_mutex_lock(&lock);
    if (stack_count == MOST_STACKS)
        abort();
    stacks[stack_count++] = room + BEYOND;
    pthread_mutex_unlock(&lock);
    return room + BEYOND;
}

/* In place of the C library's, for the OpenMP runtime too: the same thread on a stack of ours. */
int pthread_create(pthread_t *thread, const pthread_attr_t *asked, void *(*start)(void *), void *context) {
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    pthread_attr_t attributes;
    int detached = PTHREAD_CREATE_JOINABLE;
    if (asked)
        pthread_attr_getdetachstate(asked, &detached);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, detached);
    pthread_attr_setstack(&attributes, new_stack(), stack_bytes);
    const int status = create(thread, &attributes, start, context);
    pthread_attr_destroy(&attributes);
    return status;
}

static size_t most_used(void) {
    size_t most = 0;
    for (int i = 0; i < stack_count; ++i) {
        size_t unused = 0;
        while (unused < stack_bytes && stacks[i][unused] == UNUSED)
            ++unused;
        most = stack_bytes - unused > most ? stack_bytes - unused : most;
    }
    return most;
}

/* Rows whose classes are contiguous, or else columns; elementwise losses take the rows times the classes as elements. */
static const struct {
    const char *name;
    int64_t rows, classes;
    int columns, threads;
} layouts[] = {
    {"one class", 5, 1, 0, 1},
    {"narrow rows", 70, 10, 0, 1},
    {"narrow rows, whole vectors", 70, 48, 0, 1},
    {"wide rows", 18, 1500, 0, 1},
    {"few columns", 70, 20, 1, 1},
    {"columns", 70, 130, 1, 1},
    {"shared narrow rows", 16000, 10, 0, 4},
    {"shared wide rows", 200, 1500, 0, 4},
    {"shared few columns", 10000, 20, 1, 4},
    {"shared columns", 2500, 130, 1, 4},
    {"a shared row", 1, MOST, 0, 4},
};

typedef enum { PLAIN, TEMPERATURE, SOFTCAP, TRANSFORMS } transform;

static char *logits, *soft, *weight, *out, *hess, *loss_rows, *lse_rows;
static int64_t *targets;
static int calls_made;

static void fill(char *to, format f, kind of) {
    for (int64_t i = 0; i < MOST; ++i)
        put_bits(to + i * f.bytes, f.bytes, number(f, of, of == ANY ? 10 : 2, i));
}

static void call_once(const loss *l, xent_dtype dtype, int which, int indexed, int smoothed, transform how, int hessian) {
    const format stored = formats[dtype], computed = formats[dtype == XENT_F64 ? XENT_F64 : XENT_F32];
    const int elementwise = is_elementwise_loss(l), is_loss = l->family != SOFTMAX_FAMILY;
    const int columns = layouts[which].columns;
    const int distils = l->operation == XENT_DISTILLATION_LOSS;
    const int64_t classes = elementwise ? 1 : layouts[which].classes;
    const int64_t rows = layouts[which].rows * (elementwise ? layouts[which].classes : 1);
    const int64_t step = columns || elementwise ? 1 : classes, index = sizeof(int64_t);
    const int64_t stored_step = step * stored.bytes, soft_step = step * (distils ? stored : computed).bytes;
    const int64_t row = computed.bytes;

    xent_call call = XENT_CALL_DEFAULTS;
    call.operation = l->operation, call.dtype = dtype;
    call.ndim = 1, call.shape = &rows, call.classes = classes;
    call.threads = layouts[which].threads;
    call.strength = l->strength ? 1.5 : 0;
    call.reduction = is_loss ? XENT_MEAN : XENT_NONE;
    call.label_smoothing = smoothed ? 0.1 : 0;
    call.softcap = how == SOFTCAP ? 30 : 0;
    call.temperature = how == PLAIN ? 1 : 0.7;
    if (columns && !elementwise) {
        call.logits_class_step = call.out_class_step = rows * stored.bytes;
        call.soft_class_step = rows * (distils ? stored : computed).bytes;
    }
    call.logits = (xent_array){logits, &stored_step};
    if (indexed)
        call.index = (xent_array){targets, &index}, call.index_type = XENT_I64;
    else if (l->soft)
        call.soft = (xent_array){distils ? logits : soft, &soft_step};
    if (is_loss)
        call.sample_weight = (xent_array){weight, &row}, call.loss = (xent_array){loss_rows, &row};
    if (smoothed && !elementwise)
        call.class_weight = weight;
    if (l->lse)
        call.lse = (xent_array){lse_rows, &row};
    if (l->out)
        call.out = (xent_array){out, &stored_step};
    if (hessian) {
        call.hess = (xent_array){hess, &stored_step};
        call.hess_class_step = call.out_class_step;
    }
    const xent_status status = xent_run(&call);
    if (status != XENT_OK) {
        printf("%s, %s, %s: status %d\n", l->name, dtype_names[dtype], layouts[which].name, (int)status);
        exit(1);
    }
    ++calls_made;
}

/* Whatever the operation takes, each with each; those that share a call have less on their stacks than a caller, so that
 * few ways are enough. */
static void call_all_ways(const loss *l, xent_dtype dtype, int which) {
    const int shared = layouts[which].threads > 1;
    for (int indexed = 0; indexed <= l->indexed; ++indexed)
        for (int smoothed = 0; smoothed <= (l->smoothing && !shared); ++smoothed)
            for (transform how = PLAIN; how < (shared ? TEMPERATURE : TRANSFORMS); ++how)
                for (int hessian = 0; hessian <= l->hess; ++hessian) {
                    const int known = (how != TEMPERATURE || l->temperature) && (how != SOFTCAP || l->softcap);
                    if (known && (indexed || l->soft || !l->indexed))
                        call_once(l, dtype, which, indexed, smoothed, how, hessian);
                }
}

static void *call_everything(void *sharing) {
    for (xent_dtype dtype = XENT_F32; dtype <= XENT_BF16; ++dtype) {
        fill(logits, formats[dtype], PROBABILITIES);
        fill(soft, formats[dtype == XENT_F64 ? XENT_F64 : XENT_F32], PROBABILITIES);
        fill(weight, formats[dtype == XENT_F64 ? XENT_F64 : XENT_F32], WEIGHTS);
        for (size_t k = 0; k < sizeof losses / sizeof *losses; ++k)
            for (size_t which = 0; which < sizeof layouts / sizeof *layouts; ++which)
                if (layouts[which].threads == 1 || *(int *)sharing)
                    call_all_ways(&losses[k], dtype, (int)which);
    }
    return NULL;
}

int main(int argc, char **argv) {
    stack_bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 64) << 10;
    char **const arrays[] = {&logits, &soft, &weight, &out, &hess, &loss_rows, &lse_rows};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; ++k)
        *arrays[k] = aligned_alloc(64, MOST * sizeof(double));
    targets = calloc(MOST, sizeof *targets); /* the first class, which every row has */
    const char *wrong = xent_start();
    if (wrong || !targets) {
        printf("%s\n", wrong ? wrong : "no memory");
        return 2;
    }
    int sharing = 1; /* on the first instruction set alone: large calls are slow in plain C */
    for (int i = 0; xent_isa_name(i); ++i) {
        if (!xent_use_isa(xent_isa_name(i)))
            continue;
        pthread_t caller;
        if (pthread_create(&caller, NULL, call_everything, &sharing))
            abort();
        pthread_join(caller, NULL);
        sharing = 0;
        printf("%s: %d calls in stacks of %zu bytes, of which %zu were used\n", xent_isa_name(i), calls_made, stack_bytes,
               most_used());
    }
    return 0;
}
