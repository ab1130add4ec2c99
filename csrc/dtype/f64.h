/* float64: stored and computed as it is. */
#define P f64
#define XENT_COMPUTE_DTYPE XENT_F64
#define XENT_HALF_TYPES 0
