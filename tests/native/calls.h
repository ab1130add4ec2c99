/* What each operation knows, and the numbers that calls of them are made of. */
#ifndef XENT_TESTS_CALLS_H
#define XENT_TESTS_CALLS_H

#include "numbers.h"
#include "xent.h"

static const format formats[] = {
    [XENT_F32] = {4, 23, 8}, [XENT_F64] = {8, 52, 11}, [XENT_F16] = {2, 10, 5}, [XENT_BF16] = {2, 7, 8}};
static const char *const dtype_names[] = {"float32", "float64", "float16", "bfloat16"};

/* The arrays and arguments that an operation knows. */
typedef struct {
    const char *name;
    xent_operation operation;
    int indexed, soft, out, hess, lse, smoothing, z_loss, softcap, temperature;
} loss;

static const loss losses[] = {
    {"cross_entropy", XENT_CROSS_ENTROPY, .indexed = 1, .soft = 1, .out = 1, .hess = 1, .lse = 1, .smoothing = 1,
     .z_loss = 1, .softcap = 1, .temperature = 1},
    {"focal_loss", XENT_FOCAL_LOSS, .indexed = 1, .out = 1, .hess = 1, .lse = 1, .z_loss = 1, .softcap = 1,
     .temperature = 1},
    {"poly1_loss", XENT_POLY1_LOSS, .indexed = 1, .out = 1, .hess = 1, .lse = 1, .z_loss = 1, .softcap = 1,
     .temperature = 1},
    {"nll_loss", XENT_NLL_LOSS, .indexed = 1, .soft = 1, .out = 1, .smoothing = 1},
    {"categorical_cross_entropy", XENT_CATEGORICAL_CROSS_ENTROPY, .indexed = 1, .soft = 1, .out = 1, .smoothing = 1},
    {"distillation_loss", XENT_DISTILLATION_LOSS, .soft = 1, .out = 1, .temperature = 1},
    {"entropy", XENT_ENTROPY, .out = 1, .lse = 1, .softcap = 1, .temperature = 1},
    {"binary_cross_entropy", XENT_BINARY_CROSS_ENTROPY, .soft = 1, .out = 1, .smoothing = 1},
    {"binary_cross_entropy_with_logits", XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS, .soft = 1, .out = 1, .hess = 1,
     .smoothing = 1},
    {"sigmoid_focal_loss", XENT_SIGMOID_FOCAL_LOSS, .soft = 1, .out = 1, .hess = 1},
    {"kl_div", XENT_KL_DIV, .soft = 1, .out = 1},
    {"logsumexp", XENT_LOGSUMEXP, .lse = 1},
    {"softmax", XENT_SOFTMAX, .out = 1},
    {"log_softmax", XENT_LOG_SOFTMAX, .out = 1},
};

static int is_elementwise(const loss *l) { return l->operation >= XENT_BINARY_CROSS_ENTROPY && l->operation <= XENT_KL_DIV; }

static const struct {
    int bytes, is_signed;
    int64_t most;
} index_types[] = {[XENT_BOOL] = {1, 0, 1},         [XENT_I8] = {1, 1, INT8_MAX},    [XENT_U8] = {1, 0, UINT8_MAX},
                   [XENT_I16] = {2, 1, INT16_MAX},  [XENT_U16] = {2, 0, UINT16_MAX}, [XENT_I32] = {4, 1, INT32_MAX},
                   [XENT_U32] = {4, 0, UINT32_MAX}, [XENT_I64] = {8, 1, INT64_MAX},  [XENT_U64] = {8, 0, INT64_MAX}};

/* The numbers that calls of a thread are drawn from, one after another. */
static _Thread_local uint64_t seed, drawn;
static uint64_t draw(void) { return mixed(seed, drawn++); }

typedef enum { ANY, PROBABILITIES, WEIGHTS } kind;

/* A number of a row of which `habit` says what is special. */
static uint64_t number(format f, kind of, int habit, int64_t k) {
    const uint64_t random = draw(), one = one_of(f), sign = random >> 62 & 1 ? sign_of(f) : 0;
    const int scale = (int)(random >> 52 & 0xff), rare = scale % 5 == 0;
    const uint64_t usual = sign | power_of(f, scale % 10 - 6, random);
    if (of == PROBABILITIES && habit % 4 < 2) /* one of two classes */
        return scale % 2 ? one : 0;
    if (of == PROBABILITIES)
        return rare ? habit % 2 * one : power_of(f, -1 - scale % 8, random);
    if (of == WEIGHTS)
        return rare ? habit % 2 * one : power_of(f, scale % 3 - 1, random);
    switch (habit) {
    case 0: /* ties, zeros of both signs */
        return scale % 4 ? sign | power_of(f, scale % 2, 0) : sign;
    case 1: /* one far above the others */
        return k % 7 == 3 ? power_of(f, 6, random) : sign | power_of(f, -2, random);
    case 2: /* masked */
        return rare ? sign_of(f) | infinity_of(f) : usual;
    case 3: /* a distant offset */
        return power_of(f, f.mantissa < 15 ? f.mantissa : 15, 0) + random % 4;
    case 4: /* of any size */
        return sign | random % infinity_of(f);
    case 5:
        return random % 47 == 0 ? infinity_of(f) + (random >> 50 & 1) : usual;
    case 6:
        return random % 61 == 0 ? infinity_of(f) : usual;
    case 7:
        return sign_of(f) | infinity_of(f);
    case 8: /* next to 0 */
        return sign | random % 999;
    case 9: /* rising */
        return power_of(f, 1, 0) + (uint64_t)(k % 1000);
    default:
        return usual;
    }
}

#endif
