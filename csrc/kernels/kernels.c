/* The kernels of one instruction set and one compute type: compiled once for each pair, with XENT_SIMD, XENT_COMPUTE
 * (headers) and XENT_ISA (a name) given by the build. Exports one table and nothing else. */
#include "vector.h"

#include XENT_COMPUTE

#include "../double_double.h"
#include "../index.h"
#include "kernel.h"

typedef v(vec) vec;
typedef v(mask) mask;
typedef v(real) real;
enum { LANES = v(lanes) };

#include "stream.h"
#include "gather.h"
#include "transform.h"
#include "sums.h"
#include "reduce_wide.h"
#include "reduce_tile.h"
#include "targets.h"
#include "rare_rows.h"
#include "head.h"
#include "apply_wide.h"
#include "apply_tile.h"
#include "run.h"
#include "rows_wide.h"
#include "rows_tile.h"
#include "picked.h"
#include "rows.h"
#include "elementwise.h"
#include "unscale.h"
#include "regions.h"
#if XENT_HALF_TYPES
#include "product.h"
#ifdef XENT_PAIRS
#include "pairs.h"
#endif
#else
#include "divergence.h"
#endif
#include "probe.h"

#define XENT_TABLE_(isa, compute) xent_kernels_##isa##_##compute
#define XENT_TABLE(isa, compute) XENT_TABLE_(isa, compute)
#define XENT_TEXT_(x) #x
#define XENT_TEXT(x) XENT_TEXT_(x)

const xent_kernels XENT_TABLE(XENT_ISA, P) = {
    .isa = XENT_TEXT(XENT_ISA),
    .workspace_bytes = sizeof(workspace),
    .rows = all_rows,
    .reduce_chunks = chunks_of_row,
    .finish_row = finish_row,
    .merge = merge_sums,
    .elements = all_elements,
    .region = region_piece,
#if XENT_HALF_TYPES
    .pack_strips = pack_strips,
    .pack_panels = pack_panels,
    .multiply = multiply,
#ifdef XENT_PAIRS
    .multiplies_pairs = multiplies_pairs,
    .pack_strip_pairs = pack_strip_pairs,
    .pack_panel_pairs = pack_panel_pairs,
    .multiply_pairs = multiply_pairs,
#endif
    .round = round_numbers,
#else
    .divergence = divergence_rows,
#endif
    .check = check_indices,
    .unscale = unscale,
    .read = memory_read,
    .copy = memory_copy,
    .math = math_map,
};
