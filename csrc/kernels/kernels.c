/* The kernels of one instruction set and one dtype: compiled once for each pair, with XENT_SIMD, XENT_DTYPE (headers) and
 * XENT_ISA (a name) given by the build. Exports one table and nothing else. */
#include "vector.h"

#include XENT_DTYPE

#include "../index.h"
#include "kernel.h"

typedef v(vec) vec;
typedef v(mask) mask;
typedef v(real) real;
enum { LANES = v(lanes) };

#include "load.h"
#include "reduce.h"
#include "heads.h"
#include "apply.h"
#include "row.h"
#include "wide.h"
#include "tile.h"
#include "rows.h"
#include "layouts.h"
#include "elementwise.h"
#include "probe.h"

#define XENT_DEFINE_IN(S, T, PLACE)                                                                                         \
    static void PLACE##_##S##_##T(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t n, \
                                  const load_plan *p) {                                                                     \
        rows_in_lanes(m, plan, rows, r, n, p, S, T, PLACE);                                                                 \
    }
#define XENT_DEFINE(S, T)                                                                                                   \
    XENT_DEFINE_IN(S, T, ALONG_CLASSES)                                                                                     \
    XENT_DEFINE_IN(S, T, STAGED_TILES)                                                                                      \
    XENT_DEFINE_IN(S, T, DIRECT_TILE)
XENT_ROW_KERNELS(XENT_DEFINE)

typedef struct {
    rows_kernel *along, *staged, *direct;
} variant;

static void all_rows(const xent_plan *plan, const xent_rows *rows) {
#define XENT_ENTRY(S, T) [S][T] = {ALONG_CLASSES_##S##_##T, STAGED_TILES_##S##_##T, DIRECT_TILE_##S##_##T},
    static const variant variants[XENT_STREAMS][XENT_TRANSFORMS] = {XENT_ROW_KERNELS(XENT_ENTRY)};
    const variant *use = &variants[plan->stream][plan->transform];
    if (plan->layout == XENT_WIDE)
        wide(plan, rows, use->along);
    else if (plan->layout == XENT_NARROW)
        narrow(plan, rows, use->staged);
    else if (plan->classes <= XENT_FEW_COLUMNS)
        few_columns(plan, rows, use->staged);
    else
        columns(plan, rows, use->direct);
}

#define XENT_TABLE_(isa, dtype) xent_kernels_##isa##_##dtype
#define XENT_TABLE(isa, dtype) XENT_TABLE_(isa, dtype)
#define XENT_TEXT_(x) #x
#define XENT_TEXT(x) XENT_TEXT_(x)

const xent_kernels XENT_TABLE(XENT_ISA, XENT_DTYPE_NAME) = {XENT_TEXT(XENT_ISA), all_rows,    all_elements, check_indices,
                                                            memory_read,         memory_copy, math_map};
