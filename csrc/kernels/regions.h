/* Region losses: sums of softmax probabilities over the positions of a sample, and the gradient that follows from them.
 *
 * Lanes are positions: position i of a piece is in lane i mod LANES, in every layout, so that no bit depends on the layout.
 * Only some tiles of probabilities exist at a time. The first pass adds them up in f64; the second computes them again. */

/* Classes that are added in the compute type before their sum joins that of the others: its error does not grow with the
 * number of classes. */
enum { REGION_CLASSES = 64 };

/* A workspace, carved up; its size is xent_region_space. */
typedef struct {
    vec *x, *soft; /* `soft` is room for g, too */
    real *staging;
    f64_vec (*sums)[2]; /* Σ p; of soft targets Σ p t and Σ t besides */
    real *slope, *overlap_slope;
    double_double *overlap;
    double *count;
} region_space;

static region_space carve(void *workspace, int64_t classes) {
    const int64_t area = xent_region_tiles(classes) * classes + XENT_REGION_SPARE;
    region_space s;
    s.x = workspace;
    s.soft = s.x + area;
    s.staging = (real *)(s.soft + area);
    s.sums = (f64_vec(*)[2])(s.soft + 2 * area);
    s.overlap = (double_double *)(s.sums + 3 * classes);
    s.count = (double *)(s.overlap + classes);
    s.slope = (real *)(s.count + classes);
    s.overlap_slope = s.slope + classes;
    return s;
}

/* The positions in the lanes of a tile: the class of each, or -1; whether it counts. */
typedef struct {
    _Alignas(64) int64_t target[LANES];
    mask counts;
} region_lanes;

static NOINLINE void read_positions(region_lanes *own, const xent_region *r, int64_t i, int n, int64_t *bad) {
    if (!r->index) {
        own->counts = v(first)(n);
        return;
    }
    real counts[LANES] = {0};
    xent_load_indices(own->target, r->index + i * r->index_step, r->index_step, n, r->index_type);
    for (int lane = 0; lane < LANES; ++lane) {
        int64_t *const target = &own->target[lane];
        if (lane >= n || (r->has_ignore && *target == r->ignore)) {
            *target = -1;
        } else if ((uint64_t)*target >= (uint64_t)r->classes) {
            *target = -1;
            *bad = *bad < 0 ? i + lane : *bad;
        } else {
            counts[lane] = 1;
        }
    }
    own->counts = v(ne)(v(load)(counts), v(set)(0));
}

static INLINE vec added(vec sum, const vec *x, const vec *g, int64_t k) {
    return g ? v(fma)(x[k], g[k], sum) : v(add)(sum, x[k]);
}

/* Σ x_c of one tile, or Σ x_c g_c. */
static INLINE vec class_sum(const vec *x, const vec *g, int64_t classes) {
    const vec zero = v(set)(0);
    vec total = zero;
    for (int64_t begin = 0; begin < classes; begin += REGION_CLASSES) {
        const int64_t end = classes - begin < REGION_CLASSES ? classes : begin + REGION_CLASSES;
        vec s[4] = {zero, zero, zero, zero}; /* none waits for another */
        int64_t k = begin;
        for (; k + 4 <= end; k += 4)
            for (int j = 0; j < 4; ++j)
                s[j] = added(s[j], x, g, k + j);
        if (end - k > 0)
            s[0] = added(s[0], x, g, k);
        if (end - k > 1)
            s[1] = added(s[1], x, g, k + 1);
        if (end - k > 2)
            s[2] = added(s[2], x, g, k + 2);
        total = v(add)(total, v(add)(v(add)(s[0], s[1]), v(add)(s[2], s[3])));
    }
    return total;
}

/* The logits of one tile become probabilities, 0 of positions that do not count. The largest of each position is returned.
 */
static NOINLINE vec tile_softmax(vec *x, int64_t classes, mask counts) {
    vec max;
    tile_maxima(&max, x, classes, 1);
    for (int64_t k = 0; k < classes; ++k)
        x[k] = v(exp)(v(sub)(x[k], max));
    const vec inverse = v(div)(v(set)(1), class_sum(x, NULL, classes));
    for (int64_t k = 0; k < classes; ++k)
        x[k] = v(keep)(counts, v(mul)(x[k], inverse));
    return inverse; /* the largest exponential is 1 */
}

/* Positions i..i+n-1 of an array that has classes, into tiles side by side. */
static void gather_positions(const region_space *s, vec *to, const char *from, int64_t step, int64_t class_step,
                             const xent_region *r, int64_t i, int64_t n, const storage *stored) {
    from += i * step;
    if (r->layout == XENT_NARROW)
        gather_rows(to, s->staging, from, step, n, r->count - i, r->classes, stored);
    else
        stored->gather_columns(to, 0, from, class_step, n, r->classes);
}

/* Σ p of tiles side by side: a class at a time, whose sums stay in registers. */
static NOINLINE void add_probabilities(const region_space *s, int64_t classes, int64_t tiles) {
    for (int64_t k = 0; k < classes; ++k) {
        f64_vec sums[2] = {s->sums[k][0], s->sums[k][1]};
        for (int64_t t = 0; t < tiles; ++t)
            v(add_to)(sums, s->x[t * classes + k]);
        s->sums[k][0] = sums[0];
        s->sums[k][1] = sums[1];
    }
}

/* Columns whose classes lie far apart are fetched by nobody else: a tile of the group that follows. */
static INLINE void fetch_tile(const xent_region *r, int64_t i, const storage *stored) {
    const char *at = r->logits + i * stored->bytes;
    for (int64_t k = 0; k < r->classes; ++k, at += r->logits_class_step)
        xent_prefetch(at);
}

static NOINLINE void add_tile_sums(const region_space *s, const xent_region *r, const vec *x, const vec *soft,
                                   const region_lanes *own) {
    const int64_t classes = r->classes;
    if (soft) {
        for (int64_t k = 0; k < classes; ++k) {
            v(add_to)(s->sums[classes + k], v(keep)(own->counts, v(mul)(x[k], soft[k])));
            v(add_to)(s->sums[2 * classes + k], v(keep)(own->counts, soft[k]));
        }
        return;
    }
    for (int lane = 0; lane < LANES; ++lane) {
        const int64_t target = own->target[lane];
        if (target < 0)
            continue;
        const double p = (double)((const real *)&x[target])[lane];
        if (sizeof(real) == 8)
            dd_add(&s->overlap[target], p);
        else
            s->overlap[target].high += p; /* of so few f32 the rounding of f64 does not matter */
        s->count[target] += 1;
    }
}

/* g of class indices, relative to `top`, which knows nothing yet of the targets. */
static INLINE void slopes_at_targets(const region_space *s, int64_t classes, const vec *x, vec *g, vec largest, vec top,
                                     const region_lanes *own) {
    lane_values at_top = lanes_of(top), at_target;
    const lane_values highest = lanes_of(largest);
    for (int lane = 0; lane < LANES; ++lane) {
        const int64_t target = own->target[lane];
        if (target < 0)
            continue;
        at_target.at[lane] = s->slope[target] + s->overlap_slope[target];
        if (((const real *)&x[target])[lane] == highest.at[lane])
            at_top.at[lane] = at_target.at[lane];
    }
    top = v(load)(&at_top);
    for (int64_t k = 0; k < classes; ++k)
        g[k] = v(sub)(v(set)(s->slope[k]), top);
    for (int lane = 0; lane < LANES; ++lane)
        if (own->target[lane] >= 0)
            ((real *)&g[own->target[lane]])[lane] = at_target.at[lane] - at_top.at[lane];
}

/* The probabilities of one tile become p_c (g_c - Σ p_k g_k), with g_c = slope_c + t_c overlap_slope_c. Both g are taken
 * relative to that of the most probable class, so that its term, nearly all of the sum where p is near 1, is 0 and nothing
 * cancels. `g` is room for the tile, and holds the soft targets. */
static NOINLINE void apply_to_positions(const region_space *s, int64_t classes, vec *x, vec *g, int soft, vec largest,
                                        const region_lanes *own) {
    vec top = v(set)(0);
    for (int64_t k = 0; k < classes; ++k) {
        vec slope = v(set)(s->slope[k]);
        if (soft)
            g[k] = slope = v(fma)(v(set)(s->overlap_slope[k]), g[k], slope);
        top = v(select)(v(eq)(x[k], largest), slope, top);
    }
    if (soft)
        for (int64_t k = 0; k < classes; ++k)
            g[k] = v(sub)(g[k], top);
    else
        slopes_at_targets(s, classes, x, g, largest, top, own);
    const vec center = class_sum(x, g, classes), tiny = v(set)(c(TINY));
    for (int64_t k = 0; k < classes; ++k) {
        const vec grad = v(mul)(x[k], v(sub)(g[k], center));
        x[k] = v(keep)(v(both)(own->counts, v(nlt)(v(abs)(grad), tiny)), grad);
    }
}

/* What the lanes have summed, in the order of the lanes. */
static void finish_region_sums(const region_space *s, const xent_region *r) {
    const int64_t classes = r->classes, sums = r->soft ? 3 * classes : classes;
    for (int64_t k = 0; k < sums; ++k) {
        double lanes[2 * f64_lanes];
        f64_store(lanes, s->sums[k][0]);
        f64_store(lanes + f64_lanes, s->sums[k][1]);
        double_double sum = {0, 0};
        for (int lane = 0; lane < 2 * f64_lanes; ++lane)
            dd_add(&sum, lanes[lane]);
        r->sums[k] = sum;
    }
    for (int64_t k = 0; !r->soft && k < classes; ++k) {
        r->sums[classes + k] = s->overlap[k];
        r->sums[2 * classes + k] = (double_double){s->count[k], 0};
    }
}

/* One piece of a sample: its sums, or its gradient. The position of the first bad target, or -1. */
static int64_t region_piece(const xent_region *r) {
    const int64_t classes = r->classes, most = xent_region_tiles(classes) * LANES;
    const region_space space = carve(r->workspace, classes), *s = &space;
    const storage *stored = storage_of(r->dtype);
    int64_t bad = -1;
    if (r->sums) {
        for (int64_t k = 0; k < 3 * classes; ++k)
            s->sums[k][0] = s->sums[k][1] = f64_set(0);
        memset(s->overlap, 0, (size_t)classes * sizeof *s->overlap);
        memset(s->count, 0, (size_t)classes * sizeof *s->count);
    } else {
        for (int64_t k = 0; k < classes; ++k) {
            s->slope[k] = (real)r->slope[k];
            s->overlap_slope[k] = (real)r->slope[classes + k];
        }
    }
    for (int64_t i = 0; i < r->count; i += most) {
        const int64_t n = r->count - i < most ? r->count - i : most;
        gather_positions(s, s->x, r->logits, r->logits_step, r->logits_class_step, r, i, n, stored);
        if (r->soft)
            gather_positions(s, s->soft, r->soft, r->soft_step, r->soft_class_step, r, i, n, own_storage);
        for (int64_t t = 0; t * LANES < n; ++t) {
            vec *const x = s->x + t * classes;
            vec *const soft = r->soft ? s->soft + t * classes : NULL;
            region_lanes own;
            if (r->layout == XENT_COLUMNS)
                fetch_tile(r, i + most + t * LANES, stored);
            read_positions(&own, r, i + t * LANES, lanes_left(n - t * LANES), &bad);
            const vec largest = tile_softmax(x, classes, own.counts);
            if (r->sums)
                add_tile_sums(s, r, x, soft, &own);
            else
                apply_to_positions(s, classes, x, soft ? soft : s->soft, soft != NULL, largest, &own);
        }
        if (r->sums) {
            add_probabilities(s, classes, (n + LANES - 1) / LANES);
            continue;
        }
        char *const to = r->out + i * r->out_step;
        if (r->layout == XENT_NARROW)
            scatter_rows(to, r->out_step, s->staging, s->x, n, classes, stored, r->non_temporal);
        else
            stored->scatter_columns(to, r->out_class_step, s->x, 0, n, classes, r->non_temporal);
    }
    if (r->sums)
        finish_region_sums(s, r);
    return bad;
}
