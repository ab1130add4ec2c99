/* gather: numbers as they are stored → the compute type, in tiles or blocks of the workspace, and back (scatter). Half types
 * are converted on the way, so that all kernels see one dtype. */

static inline int lanes_left(int64_t left) { return left >= LANES ? LANES : left <= 0 ? 0 : (int)left; }

typedef struct {
    int64_t bytes; /* of a number */
    void (*gather_run)(real *to, const char *from, int64_t n);
    void (*gather_columns)(vec *to, int64_t lane, const char *from, int64_t class_step, int64_t columns, int64_t classes);
    void (*scatter_run)(char *to, const real *from, int64_t n, int non_temporal);
    void (*scatter_columns)(char *to, int64_t class_step, const vec *from, int64_t lane, int64_t columns, int64_t classes,
                            int non_temporal);
    real (*load_one)(const char *from);
} storage;

/* One number as it is stored. */
static INLINE void copy_number(char *to, const char *from, int64_t bytes) {
    if (bytes == 2)
        memcpy(to, from, 2);
    else if (bytes == 4)
        memcpy(to, from, 4);
    else
        memcpy(to, from, 8);
}

/* n numbers of `number` bytes, less than a vector, by two pieces that may overlap: masked stores take AMD's processors a
 * dozen cycles. */
static INLINE void copy_part(char *to, const char *from, int64_t n, int64_t number) {
    const int64_t bytes = n * number;
#define COPY(SIZE)                                                                                                          \
    if (SIZE >= number && bytes >= SIZE) {                                                                                  \
        memcpy(to, from, SIZE);                                                                                             \
        memcpy(to + bytes - SIZE, from + bytes - SIZE, SIZE);                                                               \
        return;                                                                                                             \
    }
    COPY(32)
    COPY(16)
    COPY(8)
    COPY(4)
    COPY(2)
#undef COPY
}

/* Of n rows the number at one class each, 0 where it is none of theirs, as they are stored. */
static NOINLINE void pick_stored(char *to, const char *from, int64_t step, int64_t class_step, const int64_t *class,
                                 int64_t classes, int64_t n, int64_t bytes) {
    static const char zero[8] = {0};
#define PICK(BYTES)                                                                                                         \
    for (int64_t i = 0; i < n; ++i, from += step)                                                                           \
        memcpy(to + i * BYTES, (uint64_t)class[i] < (uint64_t)classes ? from + class[i] * class_step : zero, BYTES);
    switch (bytes) {
    case 2:
        PICK(2) break;
    case 4:
        PICK(4) break;
    default:
        PICK(8)
    }
#undef PICK
}

/* Tiles of columns that are gathered together, where their classes are few. */
enum { SIDE = 4 };

enum { f32_bytes = 4, f64_bytes = 8, f16_bytes = 2, bf16_bytes = 2 };

#define H P
#include "storage.h"
#undef H
#if XENT_HALF_TYPES
#define H f16
#include "storage.h"
#undef H
#define H bf16
#include "storage.h"
#undef H
#endif

static const storage *const own_storage = &v(storage);

static inline const storage *storage_of(xent_dtype dtype) {
#if XENT_HALF_TYPES
    if (dtype == XENT_F16)
        return &f16_storage;
    if (dtype == XENT_BF16)
        return &bf16_storage;
#endif
    (void)dtype;
    return own_storage;
}

/* How the second stream is stored: soft targets in the compute type, a teacher's logits like the row's own. */
static inline const storage *second_storage(const xent_plan *plan) {
    return plan->stream == XENT_SOFT ? own_storage : storage_of(plan->dtype);
}

/* The biases of the classes from class k on, or NULL. */
static inline const real *bias_from(const xent_plan *plan, int64_t k) {
    return plan->class_bias ? (const real *)plan->class_bias + k : NULL;
}

/* x + bias of n classes next to each other, in whole vectors; x may be where they go. Returns the largest of them. */
static NOINLINE real add_bias(vec *to, const char *x, const real *bias, int64_t n) {
    vec most[2] = {v(set)(-c(LARGEST)), v(set)(-c(LARGEST))};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec z = v(add)(v(load)(x + i * (int64_t)sizeof(real)), v(load)(bias + i));
        v(store)(&to[i / LANES], z);
        most[i / LANES % 2] = v(max)(z, most[i / LANES % 2]);
    }
    if (i < n) {
        const int left = (int)(n - i);
        const vec z = v(add)(v(load_first)(x + i * (int64_t)sizeof(real), left, v(set)(0)),
                             v(load_first)(bias + i, left, v(set)(-c(LARGEST))));
        v(store)(&to[i / LANES], z);
        most[0] = v(max)(z, most[0]);
    }
    return v(max_of)(v(max)(most[0], most[1])) + 0; /* -0 becomes +0 */
}

/* Tiles of rows, of so many classes each. */
static NOINLINE void add_bias_to_tiles(vec *tiles, const real *bias, int64_t classes, int64_t count) {
    for (int64_t t = 0; t < count; ++t, tiles += classes)
        for (int64_t k = 0; k < classes; ++k)
            tiles[k] = v(add)(tiles[k], v(set)(bias[k]));
}

/* One logit of the row that begins at x. */
static inline real logit_at(const xent_plan *plan, const char *x, int64_t k, const storage *stored) {
    const real z = stored->load_one(x + k * plan->logits_class_step);
    return plan->class_bias ? z + *bias_from(plan, k) : z;
}

/* Narrow rows. A few tiles at a time lie side by side in the workspace as in memory, without gaps and in the compute type,
 * and are transposed from there: what is transposed four classes at once may touch three numbers past a row's end, and what
 * leaves the workspace leaves in whole vectors. */
enum { STAGING_VECTORS = XENT_NARROW_LOSS };

typedef struct {
    const char *at;
    int64_t step;
} compact_rows;

/* `n` rows of `left`: where they lie, if they can be transposed from there, else compacted. */
static inline compact_rows compact(real *to, const char *from, int64_t step, int64_t n, int64_t left, int64_t classes,
                                   const storage *stored) {
    const int whole = step == classes * stored->bytes;
    if (whole && stored == own_storage && n % LANES == 0 && (left - n) * classes >= 3)
        return (compact_rows){from, step};
    if (whole)
        stored->gather_run(to, from, n * classes);
    else
        for (int64_t r = 0; r < n; ++r)
            stored->gather_run(to + r * classes, from + r * step, classes);
    return (compact_rows){(const char *)to, classes * (int64_t)sizeof(real)};
}

static NOINLINE void gather_rows(vec *tiles, real *staging, const char *from, int64_t step, int64_t n, int64_t left,
                                 int64_t classes, const storage *stored) {
    const compact_rows rows = compact(staging, from, step, n, left, classes, stored);
    for (int64_t r = 0; r < n; r += LANES, tiles += classes)
        for (int64_t k = 0; k < classes; k += 4)
            v(load_quads)(rows.at + r * rows.step + k * (int64_t)sizeof(real), rows.step, tiles + k);
}

/* From the last class to the first and the first row to the last: what is written past a row's end is written over. */
static NOINLINE void scatter_rows(char *to, int64_t step, real *staging, const vec *tiles, int64_t n, int64_t classes,
                                  const storage *stored, int non_temporal) {
    for (int64_t r = 0; r < n; r += LANES, tiles += classes)
        for (int64_t k = (classes - 1) & -4; k >= 0; k -= 4)
            v(store_quads)(staging + r * classes + k, classes * (int64_t)sizeof(real), tiles + k);
    if (step == classes * stored->bytes)
        stored->scatter_run(to, staging, n * classes, non_temporal);
    else
        for (int64_t r = 0; r < n; ++r)
            stored->scatter_run(to + r * step, staging + r * classes, classes, 0);
}
