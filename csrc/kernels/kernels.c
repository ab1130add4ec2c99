/* The kernels of one instruction set and one dtype: compiled once for each pair, with XENT_SIMD, XENT_DTYPE (headers) and
 * XENT_ISA (a name) given by the build. Exports one table and nothing else. */
#define INLINE inline __attribute__((always_inline))

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
#include "wide.h"
#include "memory.h"

#define XENT_TABLE_(isa, dtype) xent_kernels_##isa##_##dtype
#define XENT_TABLE(isa, dtype) XENT_TABLE_(isa, dtype)
#define XENT_TEXT_(x) #x
#define XENT_TEXT(x) XENT_TEXT_(x)

const xent_kernels XENT_TABLE(XENT_ISA, XENT_DTYPE_NAME) = {XENT_TEXT(XENT_ISA), wide_rows, memory_read, memory_copy};
