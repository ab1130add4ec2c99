/* reduce → head → apply over tiles, whose lanes are rows: narrow rows, and rows whose class axis is not the last. Several
 * tiles are at hand at once, side by side as far as they fit, of the fewest classes more. */
enum { FEW_CLASSES = 64 };
_Static_assert(STAGING_VECTORS >= SIDE * FEW_CLASSES && STAGING_VECTORS >= (int)XENT_NARROW_GRADIENT &&
                   STAGING_VECTORS >= (int)XENT_NARROW_ODD_GRADIENT && STAGING_VECTORS >= (int)XENT_NARROW_F64_GRADIENT &&
                   STAGING_VECTORS % 4 == 0 && (int)STAGING_VECTORS <= (int)XENT_BLOCK,
               "tiles of narrow rows fit");

static inline int64_t narrow_tiles(int64_t classes) {
    const int64_t n = classes < 1 ? 1 : classes, fit = SIDE * FEW_CLASSES / n, few = fit / 4;
    return few > MOST_TILES ? MOST_TILES : few > SIDE ? few : fit > SIDE ? SIDE : fit > 1 ? fit : 1;
}

static inline int64_t column_tiles(int64_t classes) {
    const int64_t fit = XENT_BLOCK / (classes < 1 ? 1 : classes);
    return fit < 1 ? 1 : fit < SIDE ? fit : SIDE;
}

/* Of rows r..r+n-1, how many from r+i on lie side by side, in one tile if i is not where one begins. */
static inline int64_t side_by_side(const xent_rows *rows, int64_t r, int64_t i, int64_t n) {
    const int64_t in_run = rows->short_run ? rows->short_run - (rows->passed + r + i) % rows->short_run : n;
    const int64_t in_tile = i % LANES ? LANES - i % LANES : n, left = in_run < in_tile ? in_run : in_tile;
    return left < n - i ? left : n - i;
}

/* Classes begin..begin+classes-1 of rows r..r+n-1 into the tiles. */
static void gather_stored(const run *c, int64_t r, int64_t n, int64_t begin, int64_t classes) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    workspace *w = c->space;
    const int has_second = has_second_row(plan->stream);
    if (plan->layout == XENT_NARROW) {
        const int64_t left = rows->count - r;
        gather_rows(w->x, (real *)w->staging, rows->logits + r * rows->logits_step, rows->logits_step, n, left, classes,
                    c->stored);
        if (has_second)
            gather_rows(w->second, (real *)w->staging, rows->soft + r * rows->soft_step, rows->soft_step, n, left, classes,
                        c->second_stored);
        return;
    }
    for (int64_t i = 0, some; i < n; i += some) {
        some = side_by_side(rows, r, i, n);
        c->stored->gather_columns(w->x, i, xent_logits_of(rows, r + i) + begin * plan->logits_class_step,
                                  plan->logits_class_step, some, classes);
        if (has_second)
            c->second_stored->gather_columns(w->second, i, xent_soft_of(rows, r + i) + begin * plan->soft_class_step,
                                             plan->soft_class_step, some, classes);
    }
}

/* With the classes' bias. */
static void gather_tiles(const run *c, int64_t r, int64_t n, int64_t begin, int64_t classes) {
    gather_stored(c, r, n, begin, classes);
    if (c->plan->class_bias)
        add_bias_to_tiles(c->space->x, bias_from(c->plan, begin), classes, (n + LANES - 1) / LANES);
}

static void scatter_tiles(const run *c, int64_t r, int64_t n, int64_t begin, int64_t classes, const vec *from, char *to,
                          int64_t step, int64_t run_step, int64_t class_step) {
    const int non_temporal = c->plan->non_temporal;
    to += begin * class_step;
    if (c->plan->layout == XENT_NARROW) {
        scatter_rows(to + r * step, step, (real *)c->space->staging, from, n, classes, c->stored, non_temporal);
        return;
    }
    for (int64_t i = 0, some; i < n; i += some) {
        some = side_by_side(c->rows, r, i, n);
        c->stored->scatter_columns(to + xent_row_offset(c->rows, step, run_step, r + i), class_step, from, i, some, classes,
                                   non_temporal);
    }
}

/* Columns whose classes lie far apart are fetched by nobody else; more lines than this would push each other out of the
 * first cache. */
enum { FETCHED_FIRST = 256 };

/* What follows the tiles at hand in memory, if anything does: from a row's class on, as many classes. */
static fetch_ahead ahead_of(const run *c, const char *at, int64_t step, int64_t class_step, int64_t classes) {
    const int narrow = c->plan->layout == XENT_NARROW;
    if (!at || (narrow && classes > FETCHED_FIRST))
        return (fetch_ahead){(const char *)c->space->x, 0, 0, 0};
    const int64_t apart = !narrow ? class_step : classes ? LANES * step / classes : 0;
    return (fetch_ahead){at, apart, LANES * step, classes > FETCHED_FIRST};
}

/* The targets' numbers among classes begin..begin+classes-1, as they are stored. */
static void find_targets(const run *c, int64_t tiles, int64_t begin, int64_t classes) {
    lane_state *s = &c->space->state;
    for (int64_t t = 0; c->rows->index && t < tiles; ++t)
        s->target_logit[t] = tile_at_targets(c->space->x + t * classes, begin, classes, &s->own[t], s->target_logit[t]);
}

/* The numbers in the tiles become z, their maxima known. `applies`: what apply will ask for is kept, the slope of capped
 * logits, or probabilities as they are. */
static void tiles_to_z(const run *c, int64_t tiles, int64_t classes, int applies) {
    const xent_plan *plan = c->plan;
    workspace *w = c->space;
    lane_state *s = &w->state;
    vec unused;
    if (plan->transform != XENT_LOG_PROBS)
        tile_maxima(s->max, w->x, classes, tiles);
    if (plan->stream == XENT_TEACHER)
        tile_maxima(s->teacher_max, w->second, classes, tiles);
    if (!is_transformed(plan))
        return;
    for (int64_t t = 0; is_capped(plan) && t < tiles; ++t)
        s->max[t] = transformed(s->max[t], &unused, plan, &w->transform);
    if (applies && !is_capped(plan))
        memcpy(w->slope, w->x, (size_t)(tiles * classes) * sizeof(vec));
    transform_block(w->x, applies ? w->slope : NULL, (const char *)w->x, tiles * classes * LANES, plan, &w->transform);
}

static void targets_to_z(const run *c, int64_t tiles) {
    lane_state *s = &c->space->state;
    for (int64_t t = 0; t < tiles && is_transformed(c->plan); ++t)
        s->target_logit[t] = transformed(s->target_logit[t], &s->target_slope[t], c->plan, &c->space->transform);
}

/* Whether reduce leaves its exponentials in the tiles: where apply has no other use for the logits, nor anybody before it.
 */
static int keeps_exponentials(const run *c) {
    const xent_plan *plan = c->plan;
    return plan->form == XENT_EXPONENTIALS && plan->transform != XENT_LOG_PROBS && plan->stream <= XENT_SOFT &&
           plan->classes <= XENT_BLOCK && c->rows->stages == XENT_ALL_STAGES && !c->rows->hess;
}

/* The sums of rows r..r+n-1 in the tiles as they are: of one block, whose total is the row's. */
static NOINLINE void keep_tile_sums(const run *c, int64_t r, int64_t n) {
    const lane_state *s = &c->space->state;
    for (int64_t i = 0; i < n; ++i) {
        const int64_t t = i / LANES, lane = i % LANES;
#define AT(a) (double)((const real *)&s->a)[lane]
        const xent_sums row = {
            .max = AT(max[t]),
            .sum_exp = AT(sums[t].sum_exp),
            .max_count = AT(sums[t].max_count),
            .sum_a = AT(sums[t].sum_a),
            .sum_a_t = AT(sums[t].sum_a_t),
            .teacher_max = AT(teacher_max[t]),
            .teacher_sum_exp = AT(sums[t].teacher_sum_exp),
            .teacher_max_count = AT(sums[t].teacher_max_count),
        };
#undef AT
        keep_sums(c, r + i, &row, t, (int)lane);
    }
}

static void divide_sums(lane_state *s, int64_t tiles, double temperature) {
    for (int64_t t = 0; t < tiles; ++t) {
        lane_values a = lanes_of(s->sums[t].sum_a_t);
        for (int i = 0; i < LANES; ++i)
            a.at[i] = (real)((double)a.at[i] / temperature);
        s->sums[t].sum_a_t = v(load)(&a);
    }
}

/* Rows of one block: the f64 totals are the block's own, so nothing need be widened. The tiles are at hand. */
static void tile_reduce(const run *c, int64_t r, int64_t n, int64_t ahead) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    workspace *w = c->space;
    lane_state *s = &w->state;
    const int64_t classes = plan->classes, tiles = (n + LANES - 1) / LANES;
    const tile first = {
        .x = w->x,
        .second = w->second,
        .weight = plan->class_weight,
        .classes = classes,
        .x_ahead = ahead_of(c, xent_logits_of(rows, ahead), rows->logits_step, plan->logits_class_step, classes),
        .second_ahead = ahead_of(c, xent_soft_of(rows, ahead), rows->soft_step, plan->soft_class_step, classes),
    };
    if (plan->transform == XENT_LOG_PROBS)
        for (int64_t t = 0; t < tiles; ++t)
            s->max[t] = v(set)(0);
    reduce_tile_kernel(plan->stream, plan->transform, keeps_exponentials(c))(&w->lanes, s->sums, s->max, s->teacher_max,
                                                                             &first, tiles, &w->mix, &w->transform);
    targets_to_z(c, tiles);
    if (!(rows->stages & XENT_HEAD))
        keep_tile_sums(c, r, n);
    else if (plan->stream != XENT_NO_STREAM && plan->temperature != 1)
        divide_sums(s, tiles, plan->temperature);
}

/* Rows of several blocks, a tile of them: block totals go to each lane's chunk, in f64. */
static void tile_reduce_blocks(const run *c, int64_t r, int64_t n) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    workspace *w = c->space;
    lane_state *s = &w->state;
    const int64_t chunks = XENT_CHUNKS(plan->classes);
    xent_sums *const all = c->chunks;
    for (int64_t i = 0; i < LANES * chunks; ++i)
        clear_sums(&all[i], plan->transform);
    s->target_logit[0] = v(set)(0);
    for (int64_t at = 0; at < plan->classes; at += XENT_BLOCK) {
        const int64_t classes = plan->classes - at < XENT_BLOCK ? plan->classes - at : XENT_BLOCK;
        const int is_last = at + classes == plan->classes;
        const int64_t next = is_last ? r + n : r, begin = is_last ? 0 : at + classes;
        xent_sums *const chunk = all + at / XENT_CHUNK;
        gather_tiles(c, r, n, at, classes);
        s->max[0] = s->teacher_max[0] = v(set)(0);
        find_targets(c, 1, at, classes);
        tiles_to_z(c, 1, classes, 0);
        for (int i = 0; i < LANES; ++i) {
            real *const max = (real *)&s->max[0] + i, *const teacher_max = (real *)&s->teacher_max[0] + i;
            if ((double)*max > chunk[i * chunks].max)
                chunk[i * chunks].argmax = at;
            raise_maximum(&chunk[i * chunks], (double)*max, (double)*teacher_max, plan->temperature, plan->stream);
            *max = (real)chunk[i * chunks].max;
            *teacher_max = (real)chunk[i * chunks].teacher_max;
        }
        const tile block = {
            .x = w->x,
            .second = w->second,
            .weight = plan->class_weight ? (const real *)plan->class_weight + at : NULL,
            .classes = classes,
            .x_ahead = ahead_of(c, xent_logits_of(rows, next) + begin * plan->logits_class_step, rows->logits_step,
                                plan->logits_class_step, classes),
            .second_ahead = ahead_of(c, rows->soft ? xent_soft_of(rows, next) + begin * plan->soft_class_step : NULL,
                                     rows->soft_step, plan->soft_class_step, classes),
        };
        reduce_tile_kernel(plan->stream, plan->transform, 0)(&w->lanes, s->sums, s->max, s->teacher_max, &block, 1, &w->mix,
                                                             &w->transform);
        for (int i = 0; i < LANES; ++i) {
#define ADD(field) chunk[i * chunks].field += (double)((const real *)&s->sums[0].field)[i]
            ADD(sum_exp);
            ADD(max_count);
            ADD(sum_a);
            ADD(sum_a_t);
            ADD(teacher_sum_exp);
            ADD(teacher_max_count);
#undef ADD
        }
    }
    targets_to_z(c, 1);
    for (int i = 0; i < LANES; ++i) {
        const xent_sums row = merge_sums(all + i * chunks, chunks, plan->temperature, plan->stream);
        put_sums(s, 0, i, &row, plan->temperature);
        if (i < n && !(rows->stages & XENT_HEAD))
            keep_sums(c, r + i, &row, 0, i);
    }
}

/* The tiles at hand, classes begin..begin+classes-1 of rows r..r+n-1, become outputs and go to memory. */
static void tile_apply(const run *c, int64_t r, int64_t n, int64_t begin, int64_t classes) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    workspace *w = c->space;
    const lane_state *s = &w->state;
    const int64_t tiles = (n + LANES - 1) / LANES;
    const int capped = is_capped(plan), has_hess = rows->hess != NULL;
    const output_tile first = {
        .x = w->x,
        .hess = has_hess ? w->hess : NULL,
        .second = w->second,
        .probabilities = w->slope,
        .weight = plan->class_weight ? (const real *)plan->class_weight + begin : NULL,
        .classes = classes,
    };
    if (capped && has_hess) /* whose chain rule asks for z */
        memcpy(w->z, w->x, (size_t)(tiles * classes) * sizeof(vec));
    const xent_transform transform = keeps_exponentials(c) ? XENT_KEPT : plan->transform;
    apply_tile_kernel(plan, transform, has_hess)(&first, tiles, s, &w->mix, &w->transform);
    for (int64_t t = 0; t < tiles && rows->index; ++t) {
        const lane_coefs *of = &s->coefs[t];
        put_at_targets(w->x + t * classes, begin, classes, &s->own[t], of->target_grad, of->least);
        if (has_hess)
            put_at_targets(w->hess + t * classes, begin, classes, &s->own[t], of->target_hess, of->least);
    }
    if (capped) {
        chain_rule(w->x, has_hess ? w->hess : NULL, w->z, w->slope, tiles * classes, &w->transform);
        for (int64_t i = 0; i < tiles * classes; ++i) { /* NaN in a row that does not count has come back */
            const mask counts = s->own[i / classes].counts;
            w->x[i] = v(keep)(counts, w->x[i]);
            if (has_hess)
                w->hess[i] = v(keep)(counts, w->hess[i]);
        }
    }
    scatter_tiles(c, r, n, begin, classes, w->x, rows->out, rows->out_step, rows->out_run_step, plan->out_class_step);
    if (has_hess)
        scatter_tiles(c, r, n, begin, classes, w->hess, rows->hess, rows->hess_step, rows->hess_run_step,
                      plan->hess_class_step);
}

/* Of columns that are streamed, the first tiles end where a cache line does. */
static inline int64_t columns_at_once(const run *c, int64_t r, int64_t most) {
    const int64_t left = c->rows->count - r;
    const int64_t odd = r == 0 && c->plan->non_temporal ? before_line(c->rows->out, c->stored->bytes) : 0;
    const int64_t n = odd && odd < most ? odd : most;
    return left < n ? left : n;
}

static void tile_rows(const run *c) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    const int64_t classes = plan->classes;
    const int narrow = plan->layout == XENT_NARROW, one_block = classes <= XENT_BLOCK;
    const int64_t most = (narrow ? narrow_tiles(classes) : column_tiles(classes)) * LANES;
    for (int64_t r = 0, n; r < rows->count; r += n) {
        n = !narrow ? columns_at_once(c, r, most) : rows->count - r < most ? rows->count - r : most;
        const int64_t tiles = (n + LANES - 1) / LANES;
        if (narrow && rows->stages & XENT_APPLY) {
            fetch_row_end(c, rows->out, rows->out_step, r + n - 1, 1);
            fetch_row_end(c, rows->hess, rows->hess_step, r + n - 1, 1);
        }
        read_all_lanes(c, r, n);
        if (one_block && (writes(c) || rows->stages & XENT_REDUCE)) {
            gather_tiles(c, r, n, 0, classes);
            for (int64_t t = 0; t < tiles; ++t)
                c->space->state.target_logit[t] = v(set)(0);
            find_targets(c, tiles, 0, classes);
            tiles_to_z(c, tiles, classes, writes(c));
        }
        if (!(rows->stages & XENT_REDUCE))
            load_sums(c, r, n);
        else if (one_block)
            tile_reduce(c, r, n, r + n);
        else
            tile_reduce_blocks(c, r, n);
        if (rows->stages == XENT_REDUCE)
            continue;
        const vec *const z = one_block && !keeps_exponentials(c) ? c->space->x : NULL;
        heads(&c->space->state, plan, rows, r, n, &c->space->transform, z, c->space->second);
        if (!writes(c))
            continue;
        if (one_block)
            tile_apply(c, r, n, 0, classes);
        else
            for (int64_t at = 0; at < classes; at += XENT_BLOCK) {
                const int64_t of_block = classes - at < XENT_BLOCK ? classes - at : XENT_BLOCK;
                gather_tiles(c, r, n, at, of_block);
                if (is_capped(plan))
                    transform_block(c->space->x, c->space->slope, (const char *)c->space->x, tiles * of_block * LANES, plan,
                                    &c->space->transform);
                else if (is_transformed(plan))
                    memcpy(c->space->slope, c->space->x, (size_t)(tiles * of_block) * sizeof(vec));
                tile_apply(c, r, n, at, of_block);
            }
    }
}
