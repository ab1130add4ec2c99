/* layouts: where rows lie → the rows that share vectors. */

/* Tiles that are staged at once: four side by side as far as they fit, of the fewest classes more. */
enum { SIDE = 4, STAGED_VECTORS = XENT_NARROW_LOSS };
_Static_assert(STAGED_VECTORS >= SIDE * XENT_FEW_COLUMNS && STAGED_VECTORS >= XENT_NARROW_GRADIENT &&
                   STAGED_VECTORS >= XENT_NARROW_ODD_GRADIENT && STAGED_VECTORS >= XENT_NARROW_F64_GRADIENT &&
                   STAGED_VECTORS % 4 == 0,
               "what is staged fits");

static inline int64_t tiles_at_once(int64_t classes) {
    const int64_t n = classes < 1 ? 1 : classes, fit = SIDE * XENT_FEW_COLUMNS / n, few = fit / 4;
    return few > MOST_TILES ? MOST_TILES : few > SIDE ? few : fit > SIDE ? SIDE : fit > 1 ? fit : 1;
}

typedef void rows_kernel(const tile_memory *m, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t n,
                         const load_plan *p);

/* Rows share a head, as many as are still in the cache when they are applied. */
static void wide(const xent_plan *plan, const xent_rows *rows, rows_kernel *along) {
    const load_plan p = prepare_load(plan);
    const int64_t fit = plan->form == XENT_NO_OUTPUT ? LANES : plan->rows_bytes / (plan->classes * STORAGE_BYTES);
    const int64_t most = fit < 1 ? 1 : fit < LANES ? fit : LANES;
    for (int64_t r = 0; r < rows->count; r += most)
        along(NULL, plan, rows, r, rows->count - r < most ? rows->count - r : most, &p);
}

/* How the second stream is stored: soft targets in the compute type, a teacher's logits like the row's own. */
static inline int soft_in_compute_type(const xent_plan *plan) { return plan->stream == XENT_SOFT; }

/* Narrow rows: classes contiguous and few. A few tiles at a time pass through a staging area, where they lie as in memory,
 * without gaps and in the compute type: what is transposed from and to it four classes at once may touch three numbers
 * past a row's end, and what leaves it leaves in whole vectors. */
typedef struct {
    _Alignas(64) real at[STAGED_VECTORS * LANES + LANES];
} staging;

typedef struct {
    const char *at;
    int64_t step;
} staged_rows;

static INLINE void stage(real *to, const char *from, int64_t n, int in_compute_type) {
    const int64_t size = in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES;
    for (int64_t i = 0; i < n; i += LANES) {
        const int left = lanes_left(n - i);
        const char *at = from + i * size;
        v(store)(to + i, in_compute_type ? load_reals((const real *)at, 0, left)
                         : left == LANES ? stored(at)
                                         : stored_first(at, left, v(set)(0)));
    }
}

/* `n` rows of `left`, there or in the staging area. */
static INLINE staged_rows stage_in(staging *to, const char *from, int64_t step, int64_t n, int64_t left, int64_t classes,
                                   int in_compute_type) {
    const int64_t size = in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES;
    const int whole = step == classes * size;
    if (whole && (in_compute_type || COMPUTED_AS_STORED) && n % LANES == 0 && (left - n) * classes >= 3)
        return (staged_rows){from, step};
    if (whole)
        stage(to->at, from, n * classes, in_compute_type);
    else
        for (int64_t r = 0; r < n; ++r)
            stage(to->at + r * classes, from + r * step, classes, in_compute_type);
    return (staged_rows){(const char *)to->at, classes * (int64_t)sizeof(real)};
}

static INLINE void store_numbers(char *to, const real *from, int64_t i, int64_t end) {
    for (; i < end; i += LANES)
        if (end - i < LANES)
            store_stored_first(to + i * STORAGE_BYTES, lanes_left(end - i), v(load)(from + i));
        else
            store_stored(to + i * STORAGE_BYTES, v(load)(from + i));
}

/* n numbers next to each other: whole lines of them may be streamed. */
static INLINE void write_out(char *to, const real *from, int64_t n, int non_temporal) {
    const line_range lines = whole_lines(to, n, non_temporal);
    store_numbers(to, from, 0, lines.begin);
    for (int64_t i = lines.begin; i < lines.end; i += LANES)
        stream_stored(to + i * STORAGE_BYTES, v(load)(from + i));
    store_numbers(to, from, lines.end, n);
}

static INLINE void stage_out(char *to, int64_t step, const staging *from, int64_t n, int64_t classes, int non_temporal) {
    if (step == classes * STORAGE_BYTES)
        write_out(to, from->at, n * classes, non_temporal);
    else
        for (int64_t r = 0; r < n; ++r)
            write_out(to + r * step, from->at + r * classes, classes, 0);
}

static INLINE void transpose_in(vec *to, staged_rows from, int64_t r, int64_t classes) {
    for (int64_t k = 0; k < classes; k += 4)
        v(load_quads)(from.at + r * from.step + k * (int64_t)sizeof(real), from.step, to + k);
}

/* From the last class to the first and the first row to the last: what is written past a row's end is written over. */
static INLINE void transpose_out(staging *to, int64_t r, const vec *from, int64_t classes) {
    for (int64_t k = (classes - 1) & -4; k >= 0; k -= 4)
        v(store_quads)(to->at + r * classes + k, classes * (int64_t)sizeof(real), from + k);
}

/* Tiles side by side, a vector for each class. */
typedef struct {
    vec x[STAGED_VECTORS], soft[STAGED_VECTORS], out[STAGED_VECTORS], hess[STAGED_VECTORS];
} tiles;

static INLINE tile_memory memory_of(tiles *t, const xent_rows *rows) {
    return (tile_memory){.x = (char *)t->x,
                         .soft = (char *)t->soft,
                         .out = (char *)t->out,
                         .hess = rows->hess ? (char *)t->hess : NULL,
                         .x_step = sizeof(vec),
                         .soft_step = sizeof(vec),
                         .out_step = sizeof(vec),
                         .hess_step = sizeof(vec),
                         .lanes = LANES,
                         .local = 1};
}

static inline fetch_ahead rows_ahead(const char *rows, int64_t step, int64_t r, int64_t classes) {
    return (fetch_ahead){rows ? rows + r * step : NULL, classes ? LANES * step / classes : 0, LANES * step};
}

static void narrow(const xent_plan *plan, const xent_rows *rows, rows_kernel *staged) {
    const load_plan p = prepare_load(plan);
    const int64_t classes = plan->classes, most = tiles_at_once(classes) * LANES;
    tiles t;
    staging staged_x, staged_soft, staged_out, staged_hess;
    tile_memory m = memory_of(&t, rows);
    m.x_ahead = rows_ahead(rows->logits, rows->logits_step, most, classes);
    m.soft_ahead = rows_ahead(rows->soft, rows->soft_step, most, classes);
    for (int64_t at = 0; at < rows->count; at += most) {
        const int64_t left = rows->count - at, n = left < most ? left : most;
        const staged_rows logits =
            stage_in(&staged_x, rows->logits + at * rows->logits_step, rows->logits_step, n, left, classes, 0);
        for (int64_t r = 0; r < n; r += LANES)
            transpose_in(t.x + r / LANES * classes, logits, r, classes);
        if (has_second_row(plan->stream)) {
            const staged_rows second = stage_in(&staged_soft, rows->soft + at * rows->soft_step, rows->soft_step, n, left,
                                                classes, soft_in_compute_type(plan));
            for (int64_t r = 0; r < n; r += LANES)
                transpose_in(t.soft + r / LANES * classes, second, r, classes);
        }
        fetch_row_end(plan, rows->out, rows->out_step, at + n - 1, 1);
        fetch_row_end(plan, rows->hess, rows->hess_step, at + n - 1, 1);
        staged(&m, plan, rows, at, n, &p);
        look_ahead(&m, most / LANES);
        if (plan->form != XENT_NO_OUTPUT) {
            for (int64_t r = 0; r < n; r += LANES)
                transpose_out(&staged_out, r, t.out + r / LANES * classes, classes);
            stage_out(rows->out + at * rows->out_step, rows->out_step, &staged_out, n, classes, plan->non_temporal);
        }
        if (rows->hess) {
            for (int64_t r = 0; r < n; r += LANES)
                transpose_out(&staged_hess, r, t.hess + r / LANES * classes, classes);
            stage_out(rows->hess + at * rows->hess_step, rows->hess_step, &staged_hess, n, classes, plan->non_temporal);
        }
    }
}

/* Columns: the class axis is not the last; lanes are neighbours along the last. Few classes are brought in whole, several
 * tiles side by side: classes often lie a power of two apart, in lines that push each other out of the cache, so every
 * line is touched once each way. */
static INLINE void columns_in(vec *to, const char *from, int64_t step, int64_t lanes, int64_t classes, int in_compute_type) {
    const int64_t tile_bytes = LANES * (in_compute_type ? (int64_t)sizeof(real) : STORAGE_BYTES);
    for (int64_t k = 0; k < classes; ++k, from += step)
        for (int w = 0; w < SIDE; ++w) {
            const char *at = from + w * tile_bytes;
            const int n = lanes_left(lanes - w * LANES);
            if (n == LANES)
                to[w * classes + k] = in_compute_type ? v(load)(at) : stored(at);
            else if (n)
                to[w * classes + k] = in_compute_type ? v(load_first)(at, n, v(set)(0)) : stored_first(at, n, v(set)(0));
        }
}

static INLINE void columns_out(char *to, int64_t step, const vec *from, int64_t lanes, int64_t classes, int non_temporal) {
    const int64_t tile_bytes = LANES * STORAGE_BYTES;
    const int64_t streamed = whole_lines(to, lanes, non_temporal && ((uintptr_t)to | (uintptr_t)step) % 64 == 0).end;
    for (int64_t k = 0; k < classes; ++k, to += step)
        for (int w = 0; w < SIDE; ++w) {
            const int n = lanes_left(lanes - w * LANES);
            if (w * LANES < streamed)
                stream_stored(to + w * tile_bytes, from[w * classes + k]);
            else if (n)
                store_stored_first(to + w * tile_bytes, n, from[w * classes + k]);
        }
}

static inline fetch_ahead columns_ahead(const char *rows, int64_t step, int64_t r, int64_t class_step) {
    return (fetch_ahead){rows ? rows + r * step : NULL, class_step, LANES * step};
}

/* Of columns that are streamed, the first tiles end where a line does. */
static INLINE int64_t columns_at_once(const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t most) {
    const int64_t left = rows->count - r, odd = r == 0 && plan->non_temporal ? before_line(rows->out) : 0;
    const int64_t n = odd && odd < most ? odd : most;
    return left < n ? left : n;
}

static void few_columns(const xent_plan *plan, const xent_rows *rows, rows_kernel *staged) {
    const load_plan p = prepare_load(plan);
    const int64_t classes = plan->classes, most = SIDE * LANES;
    tiles t;
    tile_memory m = memory_of(&t, rows);
    for (int64_t r = 0, n; r < rows->count; r += n) {
        n = columns_at_once(plan, rows, r, most);
        columns_in(t.x, rows->logits + r * rows->logits_step, plan->logits_class_step, n, classes, 0);
        if (has_second_row(plan->stream))
            columns_in(t.soft, rows->soft + r * rows->soft_step, plan->soft_class_step, n, classes,
                       soft_in_compute_type(plan));
        m.x_ahead = columns_ahead(rows->logits, rows->logits_step, r + n, plan->logits_class_step);
        m.soft_ahead = columns_ahead(rows->soft, rows->soft_step, r + n, plan->soft_class_step);
        staged(&m, plan, rows, r, n, &p);
        if (plan->form != XENT_NO_OUTPUT)
            columns_out(rows->out + r * rows->out_step, plan->out_class_step, t.out, n, classes, plan->non_temporal);
        if (rows->hess)
            columns_out(rows->hess + r * rows->hess_step, plan->hess_class_step, t.hess, n, classes, plan->non_temporal);
    }
}

/* Many classes are read where they lie. */
static void columns(const xent_plan *plan, const xent_rows *rows, rows_kernel *direct) {
    const load_plan p = prepare_load(plan);
    const uintptr_t vector = LANES * STORAGE_BYTES;
    for (int64_t r = 0, n; r < rows->count; r += n) {
        n = columns_at_once(plan, rows, r, LANES);
        char *out = rows->out ? rows->out + r * rows->out_step : NULL;
        const tile_memory m = {.x = rows->logits + r * rows->logits_step,
                               .soft = rows->soft ? rows->soft + r * rows->soft_step : NULL,
                               .out = out,
                               .hess = rows->hess ? rows->hess + r * rows->hess_step : NULL,
                               .x_step = plan->logits_class_step,
                               .soft_step = plan->soft_class_step,
                               .out_step = plan->out_class_step,
                               .hess_step = plan->hess_class_step,
                               .lanes = LANES,
                               .non_temporal = plan->non_temporal && vector == 64 &&
                                               ((uintptr_t)out | (uintptr_t)plan->out_class_step) % 64 == 0};
        direct(&m, plan, rows, r, n, &p);
    }
}
