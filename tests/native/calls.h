/* The arguments that each operation accepts, and the numbers for calls of them. */
#ifndef XENT_TESTS_CALLS_H
#define XENT_TESTS_CALLS_H

#include "call/operations.h"
#include "numbers.h"

static const format formats[] = {
    [XENT_F32] = {4, 23, 8}, [XENT_F64] = {8, 52, 11}, [XENT_F16] = {2, 10, 5}, [XENT_BF16] = {2, 7, 8}};
static const char *const dtype_names[] = {"float32", "float64", "float16", "bfloat16"};

/* The arrays and arguments that an operation accepts. */
typedef struct {
    const char *name;
    xent_operation operation;
    operation_family family;
    operation_input input;
    int indexed, soft, out, hess, lse, smoothing, strength, eps, z_loss, softcap, temperature, alpha, clip, bias, entropy;
} loss;

enum { XENT_WRITES_NO_OUTPUT, XENT_WRITES_EXPONENTIALS, XENT_WRITES_LOGARITHMS };

static const loss losses[] = {
#define XENT_OPERATION(NAME, name, family, stream, input, head, form, takes)                                                \
    {#name,                                                                                                                 \
     XENT_##NAME,                                                                                                           \
     family,                                                                                                                \
     input,                                                                                                                 \
     .indexed = ((takes) & TAKES_INDEX) != 0,                                                                               \
     .soft = ((takes) & TAKES_SOFT) != 0,                                                                                   \
     .out = XENT_WRITES_##form,                                                                                             \
     .hess = ((takes) & TAKES_HESS) != 0,                                                                                   \
     .lse = ((takes) & TAKES_LSE) != 0,                                                                                     \
     .smoothing = ((takes) & TAKES_SMOOTHING) != 0,                                                                         \
     .strength = ((takes) & (TAKES_GAMMA | TAKES_EPSILON)) != 0,                                                            \
     .eps = ((takes) & TAKES_EPS) != 0,                                                                                     \
     .z_loss = ((takes) & TAKES_Z_LOSS) != 0,                                                                               \
     .softcap = ((takes) & TAKES_SOFTCAP) != 0,                                                                             \
     .temperature = ((takes) & TAKES_TEMPERATURE) != 0,                                                                     \
     .alpha = ((takes) & TAKES_ALPHA) != 0,                                                                                 \
     .clip = ((takes) & TAKES_CLIP) != 0,                                                                                   \
     .bias = ((takes) & TAKES_CLASS_BIAS) != 0,                                                                             \
     .entropy = ((takes) & TAKES_ENTROPY_WEIGHT) != 0},
#include "operations.def"
};

static int is_elementwise_loss(const loss *l) { return l->family == ELEMENTWISE_LOSS; }

static const struct {
    int bytes, is_signed;
    int64_t most;
} index_types[] = {[XENT_BOOL] = {1, 0, 1},         [XENT_I8] = {1, 1, INT8_MAX},    [XENT_U8] = {1, 0, UINT8_MAX},
                   [XENT_I16] = {2, 1, INT16_MAX},  [XENT_U16] = {2, 0, UINT16_MAX}, [XENT_I32] = {4, 1, INT32_MAX},
                   [XENT_U32] = {4, 0, UINT32_MAX}, [XENT_I64] = {8, 1, INT64_MAX},  [XENT_U64] = {8, 0, INT64_MAX}};

/* The random numbers of a thread, from which its calls are drawn. */
static _Thread_local uint64_t seed, drawn;
static uint64_t draw(void) { return mixed(seed, drawn++); }

typedef enum { ANY, PROBABILITIES, WEIGHTS } kind;

/* A number of a row; `habit` selects what is special about the row. */
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
