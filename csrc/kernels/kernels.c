/* The kernels of one instruction set and one dtype: compiled once for each pair, with XENT_SIMD, XENT_DTYPE (headers) and
 * XENT_ISA (a name) given by the build. Exports one table and nothing else. */
#include "vector.h"

#include XENT_DTYPE

#include "../index.h"
#include "kernel.h"

typedef v(vec) vec;
typedef v(mask) mask;
typedef v(real) real;
enum { LANES = v(lanes), PREFETCH_BLOCKS = 2 };

#include "load.h"
#include "reduce.h"
#include "heads.h"
#include "apply.h"
#include "row.h"
#include "wide.h"
#include "tile.h"
#include "elementwise.h"
#include "probe.h"

#define XENT_VARIANTS(USE)                                                                                                  \
    USE(XENT_NO_STREAM, XENT_PLAIN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_PLAIN)                                                                                           \
    USE(XENT_SOFT, XENT_PLAIN)                                                                                              \
    USE(XENT_OWN, XENT_PLAIN)                                                                                               \
    USE(XENT_NO_STREAM, XENT_TRANSFORMED)                                                                                   \
    USE(XENT_WEIGHTS, XENT_TRANSFORMED)                                                                                     \
    USE(XENT_SOFT, XENT_TRANSFORMED)                                                                                        \
    USE(XENT_OWN, XENT_TRANSFORMED)                                                                                         \
    USE(XENT_TEACHER, XENT_TRANSFORMED)                                                                                     \
    USE(XENT_NO_STREAM, XENT_GIVEN)                                                                                         \
    USE(XENT_WEIGHTS, XENT_GIVEN)                                                                                           \
    USE(XENT_SOFT, XENT_GIVEN)

#define XENT_DEFINE(S, T)                                                                                                   \
    static void wide_##S##_##T(const xent_plan *plan, const xent_rows *rows) { wide(plan, rows, S, T); }                    \
    static void local_##S##_##T(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r,              \
                                const load_plan *p) {                                                                       \
        tile(m, plan, rows, r, p, S, T, 1);                                                                                 \
    }                                                                                                                       \
    static void direct_##S##_##T(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r,             \
                                 const load_plan *p) {                                                                      \
        tile(m, plan, rows, r, p, S, T, 0);                                                                                 \
    }
XENT_VARIANTS(XENT_DEFINE)

typedef struct {
    void (*wide)(const xent_plan *plan, const xent_rows *rows);
    tile_kernel *local, *direct;
} variant;

static void all_rows(const xent_plan *plan, const xent_rows *rows) {
#define XENT_ENTRY(S, T) [S][T] = {wide_##S##_##T, local_##S##_##T, direct_##S##_##T},
    static const variant variants[XENT_STREAMS][XENT_TRANSFORMS] = {XENT_VARIANTS(XENT_ENTRY)};
    const variant *use = &variants[plan->stream][plan->transform];
    if (plan->layout == XENT_WIDE)
        use->wide(plan, rows);
    else if (plan->layout == XENT_NARROW)
        narrow(plan, rows, use->local);
    else if (plan->classes <= XENT_MOST_NARROW)
        few_columns(plan, rows, use->local);
    else
        columns(plan, rows, use->direct);
}

#define XENT_TABLE_(isa, dtype) xent_kernels_##isa##_##dtype
#define XENT_TABLE(isa, dtype) XENT_TABLE_(isa, dtype)
#define XENT_TEXT_(x) #x
#define XENT_TEXT(x) XENT_TEXT_(x)

const xent_kernels XENT_TABLE(XENT_ISA, XENT_DTYPE_NAME) = {XENT_TEXT(XENT_ISA), all_rows,    all_elements, check_indices,
                                                            memory_read,         memory_copy, math_map};
