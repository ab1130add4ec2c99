/* The stages of a call over shards of its classes: reduce, merge, head and apply give the bits of xent_run where there is
 * one shard, and its results within rounding where there are several. Sums that do not fit are refused.
 *
 * Prints what differs; the exit status says whether anything does. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xent.h"

/* Rows of many classes are fewer: they take nearly all of the time. */
enum { ROWS = 19, FEW_ROWS = 8, MANY_CLASSES = 10000, MOST_CLASSES = 40000, MOST_SHARDS = 5 };
static int rows;

static uint64_t state = 1;
static uint64_t draw(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}
static double uniform(void) { return (double)draw() / 2147483648.0; }

enum { ENOUGH = 20 };
static int failures;
static void fail(const char *what, const char *name, int64_t classes, int shards, double got, double wanted) {
    printf("%s, %s, %lld classes, %d shards: %.9g, should be %.9g\n", what, name, (long long)classes, shards, got, wanted);
    if (++failures == ENOUGH)
        exit(1);
}

/* Arrays of rows of classes. */
typedef struct {
    char weight[MOST_CLASSES * 8], bias[MOST_CLASSES * 8], sample[ROWS * 8], loss[ROWS * 8], lse[ROWS * 8];
    int64_t index[ROWS];
} arrays;

static int bytes_of(xent_dtype dtype) { return dtype == XENT_F64 ? 8 : dtype == XENT_F32 ? 4 : 2; }

static void put(char *at, xent_dtype dtype, double x) {
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    const uint16_t half = (uint16_t)(bits >> 16);
    if (dtype == XENT_F64)
        memcpy(at, &x, 8);
    else if (dtype == XENT_F32)
        memcpy(at, &f, 4);
    else
        memcpy(at, &half, 2); /* as float16 another number, as good as any */
}

static double get(const char *at, xent_dtype dtype) {
    if (bytes_of(dtype) == 2) { /* NaN, or its bits */
        uint16_t half;
        memcpy(&half, at, 2);
        return (half & 0x7fff) > (dtype == XENT_F16 ? 0x7c00 : 0x7f80) ? NAN : half;
    }
    if (dtype == XENT_F64) {
        double x;
        memcpy(&x, at, 8);
        return x;
    }
    float f;
    memcpy(&f, at, 4);
    return f;
}

/* Columns: class c of row r at (c * rows + r); rows: at (r * classes + c). */
static int64_t class_step(int columns, int64_t bytes) { return columns ? rows * bytes : 0; }
static int64_t row_step(int columns, int64_t classes, int64_t bytes) { return columns ? bytes : classes * bytes; }

static xent_call part(const xent_call *whole, int columns, int64_t begin, int64_t end, xent_sums *sums, int second_bytes) {
    const int bytes = bytes_of(whole->dtype), computed = whole->dtype == XENT_F64 ? 8 : 4;
    const int64_t apart = columns ? rows : 1;
    xent_call call = *whole;
    call.sums = sums;
    call.classes = end - begin;
    call.class_offset = begin;
    call.num_classes = whole->classes;
    call.logits.data = (char *)whole->logits.data + begin * apart * bytes;
    if (whole->soft.data)
        call.soft.data = (char *)whole->soft.data + begin * apart * second_bytes;
    if (whole->class_weight)
        call.class_weight = (const char *)whole->class_weight + begin * computed;
    if (whole->class_bias)
        call.class_bias = (const char *)whole->class_bias + begin * computed;
    if (whole->out.data)
        call.out.data = (char *)whole->out.data + begin * apart * bytes;
    if (whole->hess.data)
        call.hess.data = (char *)whole->hess.data + begin * apart * bytes;
    return call;
}

static void must(xent_status status, const xent_call *call, const char *name) {
    if (status != XENT_OK) {
        printf("%s: %s (%s)\n", name, xent_status_text(status), call->bad_argument ? call->bad_argument : "");
        exit(1);
    }
}

static void compare(const char *what, const char *name, int64_t classes, int shards, const char *got, const char *wanted,
                    xent_dtype dtype, int64_t count, double tolerance) {
    const int bytes = bytes_of(dtype);
    if (shards == 1 || bytes == 2) {
        int64_t apart = 0, first = -1;
        for (int64_t i = 0; i < count; ++i) {
            /* The sign of NaN is the compiler's choice where one call does what two do otherwise. */
            if (shards > 1 && isnan(get(got + i * bytes, dtype)) && isnan(get(wanted + i * bytes, dtype)))
                continue;
            if (memcmp(got + i * bytes, wanted + i * bytes, (size_t)bytes)) {
                ++apart;
                first = first < 0 ? i : first;
            }
        }
        /* A half is rounded from a float that may differ in its last bits. */
        if (apart > (shards == 1 ? 0 : count / 10))
            fail(what, name, classes, shards, (double)apart, (double)first);
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        const double x = get(got + i * bytes, dtype), y = get(wanted + i * bytes, dtype);
        if (!(fabs(x - y) <= tolerance * (1 + fabs(y))) && !(isnan(x) && isnan(y)) && x != y) {
            fail(what, name, classes, shards, x, y);
            return;
        }
    }
}

/* The status that xent_merge must have, with the first row that does not fit, and nothing written. */
static void refused(const char *what, const xent_sums *const *shards, int count, int64_t row, const char *name,
                    int64_t classes) {
    static xent_sums merged[ROWS], before[ROWS];
    int64_t bad_row = -1;
    memset(merged, 7, sizeof merged);
    memcpy(before, merged, sizeof merged);
    if (xent_merge(merged, shards, count, rows, &bad_row) != XENT_BAD_ARGUMENT || bad_row != row ||
        memcmp(merged, before, sizeof merged))
        fail(what, name, classes, count, (double)bad_row, (double)row);
}

/* Shards that are out of order, leave a gap, overlap or are of different calls. The first and the last are not empty. */
static void refuse_shards(const xent_sums *const *all, int shards, const char *name, int64_t classes) {
    enum { ROW = 5 };
    static xent_sums first[ROWS], last[ROWS];
    const xent_sums *turned[MOST_SHARDS], *changed[MOST_SHARDS];
    const xent_sums *const ends[] = {all[0], all[shards - 1]}, *const twice[] = {all[0], all[0]};
    for (int k = 0; k < shards; ++k)
        turned[k] = all[shards - 1 - k], changed[k] = all[k];
    refused("merged out of order", turned, shards, 0, name, classes);
    refused("merged twice", twice, 2, 0, name, classes);
    if (ends[0]->class_end < ends[1]->class_begin)
        refused("merged with a gap", ends, 2, 0, name, classes);

    memcpy(first, all[0], sizeof first);
    memcpy(last, all[shards - 1], sizeof last);
    changed[0] = first, changed[shards - 1] = last;
    last[ROW].temperature *= 2;
    refused("merged of two temperatures", changed, shards, ROW, name, classes);
    last[ROW] = all[shards - 1][ROW];
    last[ROW].operation = XENT_LOGSUMEXP;
    refused("merged of two operations", changed, shards, ROW, name, classes);
    last[ROW] = all[shards - 1][ROW];
    first[ROW].has_target = last[ROW].has_target = 1;
    refused("merged with two targets", changed, shards, ROW, name, classes);
}

/* A head of sums that are of some classes, of another vocabulary or of another call. */
static void refuse_sums(xent_call head, const char *name) {
    enum { ROW = 5 };
    const struct {
        const char *what;
        int64_t begin, end, num_classes, operation, stream;
        double temperature;
    } changes[] = {
        {"sums without the first class", 1, 0, 0, 0, 0, 0}, {"sums of a vocabulary with more classes", 0, 0, 1, 0, 0, 0},
        {"sums of another vocabulary", 0, 1, 1, 0, 0, 0},   {"sums of another operation", 0, 0, 0, 1, 0, 0},
        {"sums of another temperature", 0, 0, 0, 0, 0, 1},  {"sums of no second stream", 0, 0, 0, 0, -1, 0}};
    xent_sums *const row = &head.sums[ROW], before = *row;
    for (size_t k = 0; k < sizeof changes / sizeof *changes; ++k) {
        row->class_begin += changes[k].begin;
        row->class_end += changes[k].end;
        row->num_classes += changes[k].num_classes;
        row->operation += changes[k].operation;
        row->stream = changes[k].stream ? 0 : row->stream;
        row->temperature += changes[k].temperature;
        if (!memcmp(row, &before, sizeof before))
            continue;
        if (xent_head(&head) != XENT_BAD_ARGUMENT || strcmp(head.bad_argument, "sums"))
            fail(changes[k].what, name, head.classes, 1, 0, 0);
        *row = before;
    }
}

/* Shards within chunks, whose sums go on: the very sums of a reduce of all classes. */
static void check_continued(const xent_call *whole, int second_bytes, const char *name) {
    enum { BLOCK = 1024, CHUNK = 16384, CHUNKS = (MOST_CLASSES + CHUNK - 1) / CHUNK };
    static xent_sums expected[ROWS], chunks[CHUNKS][ROWS], merged[ROWS];
    const xent_sums *all[CHUNKS];
    const int64_t classes = whole->classes;
    xent_call call = part(whole, 0, 0, classes, expected, second_bytes);
    must(xent_reduce(&call), &call, name);
    for (int64_t begin = 0, end; begin < classes; begin = end) {
        const int64_t k = begin / CHUNK, last = classes < (k + 1) * CHUNK ? classes : (k + 1) * CHUNK;
        end = begin + BLOCK * (1 + (int64_t)(draw() % 5));
        end = end < last ? end : last;
        call = part(whole, 0, begin, end, chunks[k], second_bytes);
        call.continues = begin % CHUNK != 0;
        all[k] = chunks[k];
        const double temperature = chunks[k][0].temperature;
        chunks[k][0].temperature = -1;
        if (call.continues && (xent_reduce(&call) != XENT_BAD_ARGUMENT || strcmp(call.bad_argument, "continues")))
            fail("sums of another call went on", name, classes, 1, 0, 0);
        chunks[k][0].temperature = temperature;
        must(xent_reduce(&call), &call, name);
    }
    if (xent_merge(merged, all, (classes + CHUNK - 1) / CHUNK, rows, NULL) != XENT_OK ||
        memcmp(merged, expected, (size_t)rows * sizeof *merged))
        fail("sums that went on", name, classes, 1, merged[0].sum_exp, expected[0].sum_exp);
}

static void check(xent_operation operation, xent_dtype dtype, int64_t classes, int columns, int soft, int shards) {
    static arrays a;
    static xent_sums sums[MOST_SHARDS][ROWS], merged[ROWS];
    rows = classes < MANY_CLASSES ? ROWS : FEW_ROWS;
    const char *name = xent_operation_name(operation);
    const int bytes = bytes_of(dtype), computed = dtype == XENT_F64 ? 8 : 4;
    const xent_dtype compute = dtype == XENT_F64 ? XENT_F64 : XENT_F32;
    const int distils = operation == XENT_DISTILLATION_LOSS, indexed = !soft && !distils && operation != XENT_ENTROPY;
    const int has_hess = operation == XENT_CROSS_ENTROPY || operation == XENT_FOCAL_LOSS || operation == XENT_POLY1_LOSS;
    const int second_bytes = distils ? bytes : computed;
    const size_t room = (size_t)(rows * classes * 8);
    char *const logits = malloc(room), *const second = malloc(room), *const out = calloc(room, 1),
                *const hess = calloc(room, 1), *const out2 = calloc(room, 1), *const hess2 = calloc(room, 1);
    static char loss[ROWS * 8], lse[ROWS * 8];
    if (!logits || !second || !out || !hess || !out2 || !hess2)
        abort();
    for (int64_t i = 0; i < rows * classes; ++i) {
        put(logits + i * bytes, dtype, draw() % 50 ? 8 * uniform() - 4 : draw() % 2 ? -INFINITY : 30);
        put(second + i * second_bytes, distils ? dtype : compute, distils ? 6 * uniform() : uniform());
    }
    const int64_t shape[1] = {rows}, one[1] = {8}, small[1] = {computed};
    const int64_t of_logits[1] = {row_step(columns, classes, bytes)},
                  of_second[1] = {row_step(columns, classes, second_bytes)};
    xent_call call = XENT_CALL_DEFAULTS;
    call.operation = operation;
    call.dtype = dtype;
    call.ndim = 1;
    call.shape = shape;
    call.classes = classes;
    call.logits.data = logits, call.logits.strides = of_logits;
    call.logits_class_step = call.out_class_step = call.hess_class_step = class_step(columns, bytes);
    if (soft || distils) {
        call.soft.data = second, call.soft.strides = of_second;
        call.soft_class_step = class_step(columns, second_bytes);
    }
    if (indexed) {
        for (int r = 0; r < rows; ++r)
            a.index[r] = draw() % 6 ? (int64_t)(draw() % (uint64_t)classes) : -100;
        call.index.data = a.index, call.index.strides = one, call.index_type = XENT_I64;
        call.has_ignore = 1;
        call.ignore_index = -100;
    }
    if (operation == XENT_CROSS_ENTROPY || operation == XENT_FOCAL_LOSS || operation == XENT_POLY1_LOSS) {
        for (int64_t c = 0; c < classes; ++c)
            put(a.weight + c * computed, compute, 0.5 + uniform());
        call.class_weight = draw() % 2 ? a.weight : NULL;
        call.z_loss = draw() % 2 ? 1e-3 : 0;
        call.softcap = draw() % 3 ? 0 : 20;
    }
    if (operation == XENT_CROSS_ENTROPY && draw() % 2) {
        for (int64_t c = 0; c < classes; ++c)
            put(a.bias + c * computed, compute, uniform() - 0.5);
        call.class_bias = a.bias;
    }
    if (operation == XENT_CROSS_ENTROPY)
        call.label_smoothing = draw() % 2 ? 0.1 : 0;
    if (operation == XENT_FOCAL_LOSS || operation == XENT_POLY1_LOSS)
        call.strength = 2;
    call.temperature = draw() % 2 ? 1 : 1.7;
    for (int r = 0; r < rows; ++r)
        put(a.sample + r * computed, compute, draw() % 8 ? uniform() + 0.1 : 0);
    if (draw() % 2)
        call.sample_weight.data = a.sample, call.sample_weight.strides = small;
    call.reduction = draw() % 2 ? XENT_MEAN : XENT_SUM;
    call.loss.data = a.loss, call.loss.strides = small;
    call.out.data = out, call.out.strides = of_logits;
    if (has_hess)
        call.hess.data = hess, call.hess.strides = of_logits;
    if (!distils)
        call.lse.data = a.lse, call.lse.strides = small;
    must(xent_run(&call), &call, name);

    /* The same in stages. */
    xent_call whole = call;
    whole.loss.data = loss;
    whole.out.data = out2;
    if (has_hess)
        whole.hess.data = hess2;
    if (!distils)
        whole.lse.data = lse;
    int64_t ends[MOST_SHARDS + 1] = {0};
    for (int k = 0; k < shards; ++k)
        ends[k + 1] = k + 1 == shards ? classes : ends[k] + (int64_t)(draw() % (uint64_t)(classes - ends[k] + 1));
    const xent_sums *all[MOST_SHARDS];
    for (int k = 0; k < shards; ++k) {
        xent_call shard = part(&whole, columns, ends[k], ends[k + 1], sums[k], second_bytes);
        must(xent_reduce(&shard), &shard, name);
        all[k] = sums[k];
    }
    int64_t bad_row = -1;
    if (xent_merge(merged, all, shards, rows, &bad_row) != XENT_OK) {
        fail("refused to merge", name, classes, shards, (double)bad_row, -1);
        return;
    }
    xent_call head = part(&whole, columns, 0, classes, merged, second_bytes);
    head.logits.data = NULL;
    head.class_weight = NULL;
    must(xent_head(&head), &head, name);
    for (int k = 0; k < shards; ++k) {
        xent_call shard = part(&whole, columns, ends[k], ends[k + 1], merged, second_bytes);
        shard.divisor = head.divisor;
        must(xent_apply(&shard), &shard, name);
    }
    const double tolerance = dtype == XENT_F64 ? 1e-12 : 2e-5;
    /* Of distributions that nearly agree xent_run reads the logits again. */
    compare("loss", name, classes, distils ? 0 : shards, loss, a.loss, compute, rows, tolerance);
    if (!distils)
        compare("log-sum-exp", name, classes, shards, lse, a.lse, compute, rows, tolerance);
    compare("gradient", name, classes, shards, out2, out, dtype, rows * classes, tolerance);
    if (has_hess)
        compare("Hessian", name, classes, shards, hess2, hess, dtype, rows * classes, tolerance);
    if (shards == 1 && !distils ? head.result != call.result && !(isnan(head.result) && isnan(call.result))
                                : fabs(head.result - call.result) > tolerance * (1 + fabs(call.result)))
        fail("result", name, classes, shards, head.result, call.result);
    if (head.divisor != call.divisor)
        fail("divisor", name, classes, shards, head.divisor, call.divisor);

    if (!columns && shards == 1)
        check_continued(&whole, second_bytes, name);
    refuse_sums(head, name);
    if (shards > 1 && ends[1] > 0 && ends[shards] > ends[shards - 1])
        refuse_shards(all, shards, name, classes);
    if (indexed) {
        xent_call shard = part(&whole, columns, 0, classes, merged, second_bytes);
        const xent_sums before = merged[0];
        a.index[7] = classes;
        if (xent_reduce(&shard) != XENT_BAD_TARGET || shard.bad_row != 7 || memcmp(&before, &merged[0], sizeof before))
            fail("a target out of range", name, classes, shards, (double)shard.bad_row, 7);
    }
    free(logits), free(second), free(out), free(hess), free(out2), free(hess2);
}

int main(void) {
    static const xent_operation operations[] = {XENT_CROSS_ENTROPY, XENT_FOCAL_LOSS, XENT_POLY1_LOSS, XENT_DISTILLATION_LOSS,
                                                XENT_ENTROPY};
    static const int64_t sizes[] = {1, 2, 10, 64, 65, 300, 353, 1000, 1025, 3000, 17000, 40000};
    int checks = 0;
    for (size_t o = 0; o < sizeof operations / sizeof *operations; ++o)
        for (xent_dtype dtype = XENT_F32; dtype <= XENT_BF16; ++dtype)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s)
                for (int shards = 1; shards <= MOST_SHARDS; shards += 2)
                    for (int columns = 0; columns < 2; ++columns)
                        for (int soft = 0; soft <= (operations[o] == XENT_CROSS_ENTROPY); ++soft, ++checks)
                            check(operations[o], dtype, sizes[s], columns, soft, shards);
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
