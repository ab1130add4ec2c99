/* float32: the compute type of float32, float16 and bfloat16, which are read as they are, computed in float32, and written
 * rounded once to nearest even. */
#define P f32
#define XENT_COMPUTE_DTYPE XENT_F32
#define XENT_HALF_TYPES 1
