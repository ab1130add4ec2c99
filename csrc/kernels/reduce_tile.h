/* reduce, lanes that are rows: a tile holds as many rows as a vector has lanes, one row in each lane, class after class, in
 * the workspace. Narrow rows come here transposed; rows whose class axis is not the last one side by side. The order of
 * summation is that of sums.h. */

/* What is read from memory after the tiles at hand: a cache line of it for each of their classes, into the first cache, or
 * `early`, into the second, where there are too many for the first. */
typedef struct {
    const char *at;
    int64_t class_step, tile_step;
    int early;
} fetch_ahead;

static INLINE void fetch_class(const fetch_ahead *from, int64_t k) {
    const char *at = from->at + k * from->class_step;
    if (from->early)
        xent_prefetch_early(at);
    else
        xent_prefetch(at);
}

/* A block of a tile's classes. */
typedef struct {
    vec *x; /* the exponentials go here that are kept */
    const vec *second;
    const real *weight; /* class weights, or NULL */
    int64_t classes;    /* at most XENT_BLOCK */
    fetch_ahead x_ahead, second_ahead;
} tile;

/* The second stream of a class. Of a teacher, its logits. */
static INLINE vec tile_second(const tile *t, const target_mix *mix, int64_t k, xent_stream stream) {
    if (stream == XENT_TEACHER)
        return t->second[k];
    const vec weight = t->weight ? v(set)(t->weight[k]) : v(set)(1);
    if (stream == XENT_WEIGHTS)
        return weight;
    const vec a = mixed_target(t->second[k], mix);
    return t->weight ? v(mul)(a, weight) : a;
}

static INLINE vec sum_lanes(vec *s, int64_t n) {
    for (; n > 1; n = (n + 1) / 2)
        for (int64_t i = 0; i < n; i += 2)
            s[i / 2] = i + 1 < n ? v(add)(s[i], s[i + 1]) : s[i];
    return s[0];
}

typedef struct {
    vec sum_exp, max_count, sum_a, sum_a_t, teacher_sum_exp, teacher_max_count, apart;
} tile_sums;

/* A few virtual lanes side by side, as many as there are registers for; and all of them, in the workspace. The arrays are
 * not a power of two apart, which would put them in the same sets of the cache. */
typedef struct {
    vec sum_exp[4], sum_a[4], sum_a_t[4], teacher_sum_exp[4];
} few_lanes;
_Static_assert(XENT_SIDE_BY_SIDE <= 4, "what is computed side by side fits");

typedef struct {
    vec sum_exp[65], sum_a[65], sum_a_t[65], teacher_sum_exp[65];
} virtual_lanes;

/* Class k joins virtual lane i and the sums of all. */
static INLINE void add_to_lane(few_lanes *lanes, int64_t i, tile_sums *all, const tile *t, const target_mix *mix, int64_t k,
                               int first, vec max, vec teacher_max, const transform_plan *p, xent_stream stream,
                               xent_transform transform, int keeps) {
    const lane_sums lane = {&lanes->sum_exp[i], &lanes->sum_a[i],        &lanes->sum_a_t[i], &lanes->teacher_sum_exp[i],
                            &all->max_count,    &all->teacher_max_count, &all->apart,        first};
    fetch_class(&t->x_ahead, k);
    if (has_second_row(stream))
        fetch_class(&t->second_ahead, k);
    const vec z = t->x[k];
    const vec a = is_weighted(stream) || stream == XENT_TEACHER ? tile_second(t, mix, k, stream) : z;
    const vec apart = transform == XENT_LOG_PROBS ? z : v(sub)(z, max);
    add_class(&lane, apart, a, teacher_max, p, stream, transform, 1, keeps ? &t->x[k] : NULL);
}

static INLINE void clear_lanes(few_lanes *lanes, int64_t n, xent_stream stream) {
    for (int64_t i = 0; i < n; ++i) {
        lanes->sum_exp[i] = v(set)(0);
        if (has_mass(stream))
            lanes->sum_a[i] = v(set)(0);
        if (stream != XENT_NO_STREAM)
            lanes->sum_a_t[i] = v(set)(0);
        if (stream == XENT_TEACHER)
            lanes->teacher_sum_exp[i] = v(set)(0);
    }
}

/* n lanes of `from` become lane i. */
#define JOIN_LANES(to, i, from, n, stream, transform)                                                                       \
    do {                                                                                                                    \
        if (transform != XENT_LOG_PROBS)                                                                                    \
            (to)->sum_exp[i] = sum_lanes((from)->sum_exp, n);                                                               \
        if (has_mass(stream))                                                                                               \
            (to)->sum_a[i] = sum_lanes((from)->sum_a, n);                                                                   \
        if (stream != XENT_NO_STREAM)                                                                                       \
            (to)->sum_a_t[i] = sum_lanes((from)->sum_a_t, n);                                                               \
        if (stream == XENT_TEACHER)                                                                                         \
            (to)->teacher_sum_exp[i] = sum_lanes((from)->teacher_sum_exp, n);                                               \
    } while (0)

/* `count` neighbouring virtual lanes: of class k and its neighbours `once`, or of every 64th from there on. They are joined
 * before they are stored. */
static INLINE void add_lanes(virtual_lanes *lanes, int64_t i, int count, int once, tile_sums *all, const tile *t,
                             const target_mix *mix, int64_t k, vec max, vec teacher_max, const transform_plan *p,
                             xent_stream stream, xent_transform transform, int keeps) {
    few_lanes own;
    clear_lanes(&own, count, stream);
    do {
        for (int j = 0; j < count; ++j)
            add_to_lane(&own, j, all, t, mix, k + j, once, max, teacher_max, p, stream, transform, keeps);
        k += 64;
    } while (!once && k + count <= t->classes);
    for (int j = 0; !once && j < count - 1; ++j)
        if (k + j < t->classes)
            add_to_lane(&own, j, all, t, mix, k + j, 0, max, teacher_max, p, stream, transform, keeps);
    JOIN_LANES(lanes, i, &own, count, stream, transform);
}

/* One block of up to 1,024 classes, relative to `max`. */
static INLINE tile_sums add_tile(virtual_lanes *lanes, const tile *t, const target_mix *mix, vec max, vec teacher_max,
                                 const transform_plan *p, xent_stream stream, xent_transform transform, int keeps) {
    /* A temperature leaves AVX2 no registers for more. */
    const int abreast =
        XENT_SIDE_BY_SIDE == 2 && transform == XENT_TEMPERATURE && !is_weighted(stream) ? 1 : XENT_SIDE_BY_SIDE;
    const vec zero = v(set)(0), most = v(set)((real)t->classes);
    const int64_t end = t->classes;
    tile_sums sums = {zero, most, zero, zero, zero, most, zero};
    int64_t used = 0, k = 0;
    if (end > 64) {
        for (; used < 64 / abreast; ++used, k += abreast)
            add_lanes(lanes, used, abreast, 0, &sums, t, mix, k, max, teacher_max, p, stream, transform, keeps);
    } else {
        for (; k + abreast <= end; ++used, k += abreast)
            add_lanes(lanes, used, abreast, 1, &sums, t, mix, k, max, teacher_max, p, stream, transform, keeps);
        /* What is left, fewer than there are side by side. */
        if (abreast > 3 && end - k == 3)
            add_lanes(lanes, used++, 3, 1, &sums, t, mix, k, max, teacher_max, p, stream, transform, keeps);
        else if (abreast > 2 && end - k == 2)
            add_lanes(lanes, used++, 2, 1, &sums, t, mix, k, max, teacher_max, p, stream, transform, keeps);
        else if (abreast > 1 && end - k == 1)
            add_lanes(lanes, used++, 1, 1, &sums, t, mix, k, max, teacher_max, p, stream, transform, keeps);
    }
    if (used == 0)
        return sums;
    JOIN_LANES(lanes, 0, lanes, used, stream, transform);
    if (transform != XENT_LOG_PROBS)
        sums.sum_exp = lanes->sum_exp[0];
    if (has_mass(stream))
        sums.sum_a = lanes->sum_a[0];
    if (stream != XENT_NO_STREAM)
        sums.sum_a_t = lanes->sum_a_t[0];
    if (stream == XENT_TEACHER)
        sums.teacher_sum_exp = lanes->teacher_sum_exp[0];
    if (stream == XENT_TEACHER && v(any)(not_finite(sums.apart)))
        for (k = 0; k < end; ++k)
            sums.sum_a_t = v(select)(masked_by_student(t->x[k], t->second[k]), v(set)((real)INFINITY), sums.sum_a_t);
    return sums;
}

typedef void reduce_tiles(virtual_lanes *lanes, tile_sums *sums, const vec *max, const vec *teacher_max, const tile *first,
                          int64_t tiles, const target_mix *mix, const transform_plan *p);

static INLINE void next_tile(tile *t) {
    t->x += t->classes;
    t->second += t->classes;
    t->x_ahead.at += t->x_ahead.tile_step;
    t->second_ahead.at += t->second_ahead.tile_step;
}

#define XENT_DEFINE_KEEPS(S, T, NAME, KEEPS)                                                                                \
    static void NAME##_##S##_##T(virtual_lanes *lanes, tile_sums *sums, const vec *max, const vec *teacher_max,             \
                                 const tile *first, int64_t tiles, const target_mix *mix, const transform_plan *p) {        \
        tile t = *first;                                                                                                    \
        for (int64_t i = 0; i < tiles; ++i, next_tile(&t))                                                                  \
            sums[i] = add_tile(lanes, &t, mix, max[i], teacher_max[i], p, S, T, KEEPS);                                     \
    }
#define XENT_DEFINE(S, T) XENT_DEFINE_KEEPS(S, T, reduce_tile, 0)
XENT_REDUCE_KERNELS(XENT_DEFINE)
#undef XENT_DEFINE
#define XENT_KEEPING(S) XENT_DEFINE_KEEPS(S, XENT_PLAIN, keep_tile, 1) XENT_DEFINE_KEEPS(S, XENT_TEMPERATURE, keep_tile, 1)
XENT_KEEPING_STREAMS(XENT_KEEPING)
#undef XENT_KEEPING
#undef XENT_DEFINE_KEEPS

static reduce_tiles *reduce_tile_kernel(xent_stream stream, xent_transform transform, int keeps) {
#define XENT_ENTRY(S, T) [0][S][T] = reduce_tile_##S##_##T,
#define XENT_KEEPING(S)                                                                                                     \
    [1][S] = {[XENT_PLAIN] = keep_tile_##S##_XENT_PLAIN, [XENT_TEMPERATURE] = keep_tile_##S##_XENT_TEMPERATURE},
    static reduce_tiles *const kernels[2][XENT_STREAMS][XENT_TRANSFORMS] = {XENT_REDUCE_KERNELS(XENT_ENTRY)
                                                                                XENT_KEEPING_STREAMS(XENT_KEEPING)};
#undef XENT_KEEPING
#undef XENT_ENTRY
    return kernels[keeps][stream][kernel_transform(transform)];
}

static NOINLINE void tile_maxima(vec *max, const vec *x, int64_t classes, int64_t tiles) {
    const vec lowest = v(set)(-c(LARGEST));
    for (int64_t t = 0; t < tiles; ++t, x += classes) {
        vec m[4] = {lowest, lowest, lowest, lowest}; /* none waits for another */
        int64_t k = 0;
        for (; k + 4 <= classes; k += 4)
            for (int j = 0; j < 4; ++j)
                m[j] = v(max)(x[k + j], m[j]);
        for (; k < classes; ++k)
            m[0] = v(max)(x[k], m[0]);
        max[t] = v(add)(v(max)(v(max)(m[0], m[1]), v(max)(m[2], m[3])), v(set)(0)); /* -0 becomes +0 */
    }
}
