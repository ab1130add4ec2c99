/* picked: rows of (log-)probabilities with class indices, in any layout. Of a row the target's number alone is read; its
 * gradient is zeros with one number among them. */

enum { PICKED_ROWS = MOST_TILES * LANES };

/* The targets' numbers of rows r..r+n-1; there are no sums beside them. */
static NOINLINE void pick_targets(const run *c, int64_t r, int64_t n) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    workspace *w = c->space;
    lane_state *s = &w->state;
    const int64_t bytes = c->stored->bytes, tiles = (n + LANES - 1) / LANES;
    char *const stored = (char *)w->staging;
    for (int64_t t = 0; t < tiles; ++t)
        pick_stored(stored + t * LANES * bytes, rows->logits + (r + t * LANES) * rows->logits_step, rows->logits_step,
                    plan->logits_class_step, s->own[t].target, plan->classes, LANES, bytes);
    c->stored->gather_run((real *)s->target_logit, stored, tiles * LANES);
    for (int64_t t = 0; t < tiles; ++t) {
        const vec x = s->target_logit[t];
        s->max[t] = v(set)(0);
        s->target_logit[t] = transformed(x, &s->target_slope[t], plan, &w->transform);
    }
}

/* Asks for the targets of rows r.. while those before them have their heads. */
static INLINE void fetch_targets(const run *c, int64_t r, int64_t n) {
    const xent_rows *rows = c->rows;
    int64_t y[PICKED_ROWS];
    xent_load_indices(y, rows->index + r * rows->index_step, rows->index_step, n, c->plan->index_type);
    for (int64_t i = 0; i < n; ++i)
        xent_prefetch(rows->logits + (r + i) * rows->logits_step +
                      place_of_target(c->plan, y[i]) * c->plan->logits_class_step);
}

/* Zeros on their way to memory, from `begin` to `end`, with numbers among them. What lies before `next` is written; of what
 * follows, `open` bytes in whole lines are put together in a window of zeros, which leaves as a whole: a line that was
 * loaded right after its number was stored would wait for it. */
enum { WINDOW = 4096 };

typedef struct {
    char *begin, *end, *next, *window;
    int64_t open;
    int streams;
} zero_stream;
_Static_assert(WINDOW <= TILE_VECTORS * (int)sizeof(vec), "the window fits a tile area");

static INLINE zero_stream begin_zeros(const run *c, char *begin, int64_t rows) {
    char *const window = (char *)c->space->second;
    memset(window, 0, WINDOW);
    return (zero_stream){.begin = begin,
                         .end = begin + rows * c->plan->classes * c->stored->bytes,
                         .next = begin,
                         .window = window,
                         .streams = c->plan->non_temporal && meets_lines(begin, c->stored->bytes)};
}

static INLINE void close_window(zero_stream *s) {
    for (int64_t k = 0; k < s->open; k += CACHE_LINE) {
        stream_line(s->next + k, s->window + k);
        v(store)(s->window + k, v(set)(0));
    }
    s->next += s->open;
    s->open = 0;
}

static INLINE void zeros_up_to(zero_stream *s, char *to) {
    close_window(s);
    char *const line = s->next + (-(uintptr_t)s->next % CACHE_LINE);
    if (s->streams && line <= to) {
        memset(s->next, 0, (size_t)(line - s->next));
        for (s->next = line; to - s->next >= CACHE_LINE; s->next += CACHE_LINE)
            v(stream)(s->next, v(set)(0));
    }
    memset(s->next, 0, (size_t)(to - s->next));
    s->next = to;
}

/* A number at `to`, in ascending order. Lines that do not lie between begin and end are not streamed. */
static INLINE void put_among_zeros(zero_stream *s, char *to, const char *number, int64_t bytes) {
    char *const line = to - (uintptr_t)to % CACHE_LINE;
    if (!s->streams || line < s->begin || s->end - line < CACHE_LINE) {
        zeros_up_to(s, to);
        copy_number(to, number, bytes);
        s->next = to + bytes;
        return;
    }
    if (!s->open || line - s->next >= WINDOW)
        zeros_up_to(s, line);
    s->open = line - s->next + CACHE_LINE;
    copy_number(s->window + (to - s->next), number, bytes);
}

/* The gradients at the targets, as they are stored, of the tiles at hand. */
static const char *stored_gradients(const run *c, int64_t n) {
    const lane_state *s = &c->space->state;
    vec *const grads = c->space->x;
    for (int64_t t = 0; t * LANES < n; ++t) {
        const vec grad = s->coefs[t].target_grad;
        grads[t] = v(keep)(s->own[t].counts, v(keep)(v(nlt)(v(abs)(grad), s->coefs[t].least), grad));
    }
    c->stored->scatter_run((char *)c->space->staging, (const real *)grads, n, 0);
    return (const char *)c->space->staging;
}

/* Rows r..r+n-1 of a run that has no gaps between its rows, all of them one stream. It never gets ahead of the rows that
 * have been read, whose memory this may be. */
static NOINLINE void write_picked_rows(const run *c, int64_t r, int64_t n, zero_stream *s) {
    const int64_t bytes = c->stored->bytes, classes = c->plan->classes, step = c->rows->out_step;
    const char *grad = stored_gradients(c, n);
    char *row = c->rows->out + r * step;
    if (!s->streams) {
        memset(row, 0, (size_t)(n * step));
        s->next = row + n * step;
    }
    for (int64_t i = 0; i < n; ++i, row += step, grad += bytes) {
        const int64_t target = c->space->state.own[(uint64_t)i / LANES].target[(uint64_t)i % LANES];
        if ((uint64_t)target >= (uint64_t)classes)
            continue;
        if (s->streams)
            put_among_zeros(s, row + target * bytes, grad, bytes);
        else
            copy_number(row + target * bytes, grad, bytes);
    }
}

/* The same with gaps, each row a stream of its own. */
static NOINLINE void write_rows_apart(const run *c, int64_t r, int64_t n) {
    const int64_t bytes = c->stored->bytes, step = c->rows->out_step;
    const char *grad = stored_gradients(c, n);
    char *row = c->rows->out + r * step;
    for (int64_t i = 0; i < n; ++i, row += step, grad += bytes) {
        const int64_t target = c->space->state.own[(uint64_t)i / LANES].target[(uint64_t)i % LANES];
        zero_stream s = begin_zeros(c, row, 1);
        if ((uint64_t)target < (uint64_t)c->plan->classes)
            put_among_zeros(&s, row + target * bytes, grad, bytes);
        zeros_up_to(&s, s.end);
    }
}

/* Columns r..r+n-1: tiles of zeros, a block of classes at a time. */
static NOINLINE void write_picked_columns(const run *c, int64_t r, int64_t n) {
    const xent_plan *plan = c->plan;
    const lane_state *s = &c->space->state;
    vec *const x = c->space->x;
    const int64_t tiles = (n + LANES - 1) / LANES, most = XENT_BLOCK / tiles;
    for (int64_t at = 0; at < plan->classes; at += most) {
        const int64_t classes = plan->classes - at < most ? plan->classes - at : most;
        memset(x, 0, (size_t)(tiles * classes) * sizeof *x);
        for (int64_t t = 0; t < tiles; ++t)
            put_at_targets(x + t * classes, at, classes, &s->own[t], s->coefs[t].target_grad, s->coefs[t].least);
        scatter_tiles(c, r, n, at, classes, x, c->rows->out, c->rows->out_step, 0, plan->out_class_step);
    }
}

static void picked_rows(const run *c) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    const int columns = plan->layout == XENT_COLUMNS;
    const int whole = writes(c) && !columns && rows->out_step == plan->classes * c->stored->bytes;
    zero_stream zeros;
    if (whole)
        zeros = begin_zeros(c, rows->out, rows->count);
    for (int64_t r = 0, n; r < rows->count; r += n) {
        n = columns ? columns_at_once(c, r, PICKED_ROWS) : rows->count - r < PICKED_ROWS ? rows->count - r : PICKED_ROWS;
        const int64_t left = rows->count - r - n;
        read_all_lanes(c, r, n);
        if (rows->stages & XENT_REDUCE)
            pick_targets(c, r, n);
        else
            load_sums(c, r, n);
        if (rows->stages & XENT_REDUCE && left)
            fetch_targets(c, r + n, left < PICKED_ROWS ? left : PICKED_ROWS);
        heads(&c->space->state, plan, rows, r, n, &c->space->transform, NULL, NULL);
        if (!writes(c))
            continue;
        if (columns)
            write_picked_columns(c, r, n);
        else if (whole)
            write_picked_rows(c, r, n, &zeros);
        else
            write_rows_apart(c, r, n);
    }
    if (whole)
        zeros_up_to(&zeros, zeros.end);
}
