/* What the rows of a run share: one thread's workspace, and sums that come from another run or go to one. */

/* Vectors of a tile area: a block of classes, or tiles side by side, and what passes their end. The areas are not a power of
 * two apart, which would put them in the same sets of the cache. */
enum { TILE_VECTORS = XENT_BLOCK + 4 + 4 };

/* One thread's scratch. */
typedef struct {
    transform_plan transform;
    target_mix mix;
    lane_state state;
    virtual_lanes lanes;
    row_stream out_stream, hess_stream;
    xent_sums chunks[XENT_OWN_CHUNKS];
    vec x[TILE_VECTORS], second[TILE_VECTORS], slope[TILE_VECTORS], hess[TILE_VECTORS], z[TILE_VECTORS];
    vec staging[STAGING_VECTORS + 1]; /* of narrow rows; of wide rows the output of a block */
    vec buffers[3][XENT_PIECE * (int64_t)sizeof(real) / sizeof(vec)]; /* of elements */
} workspace;

/* What is the same for all rows of a run. */
typedef struct {
    const xent_plan *plan;
    const xent_rows *rows;
    workspace *space;
    xent_sums *chunks;
    const storage *stored, *second_stored;
} run;

/* The sums of a row, in lane i of tile t. */
static void put_sums(lane_state *s, int64_t t, int i, const xent_sums *row, double temperature) {
    ((real *)&s->max[t])[i] = (real)row->max;
    ((real *)&s->teacher_max[t])[i] = (real)row->teacher_max;
    ((real *)&s->sums[t].sum_exp)[i] = (real)row->sum_exp;
    ((real *)&s->sums[t].max_count)[i] = (real)row->max_count;
    ((real *)&s->sums[t].sum_a)[i] = (real)row->sum_a;
    ((real *)&s->sums[t].sum_a_t)[i] = (real)(row->sum_a_t / temperature);
    ((real *)&s->sums[t].teacher_sum_exp)[i] = (real)row->teacher_sum_exp;
    ((real *)&s->sums[t].teacher_max_count)[i] = (real)row->teacher_max_count;
}

static NOINLINE void clear_lane_sums(lane_state *s, int64_t t) {
    const vec zero = v(set)(0);
    s->max[t] = s->teacher_max[t] = s->target_logit[t] = s->target_slope[t] = zero;
    s->sums[t] = (tile_sums){zero, zero, zero, zero, zero, zero, zero};
}

/* The first of classes begin..end-1 of row r whose logit is the largest, or NaN; `end` if there is none. */
static int64_t first_class(const run *c, int64_t r, int64_t begin, int64_t end, real max, int is_nan) {
    const char *x = c->rows->logits + r * c->rows->logits_step;
    const vec most = v(set)(max);
    vec z[64 / LANES];
    for (int64_t k = begin; k < end; k += 64) {
        const int64_t n = end - k < 64 ? end - k : 64;
        load_classes((real *)z, x, c->plan->logits_class_step, k, n, c->stored);
        if (is_transformed(c->plan))
            transform_block(z, NULL, (const char *)z, n, c->plan, &c->space->transform);
        for (int64_t i = 0; i < n; i += LANES) {
            const vec at = z[i / LANES];
            if (!v(any)(is_nan ? v(ne)(at, at) : v(eq)(at, most)))
                continue;
            const lane_values numbers = lanes_of(at);
            for (int64_t j = i; j < n && j < i + LANES; ++j)
                if (is_nan ? isnan(numbers.at[j - i]) : numbers.at[j - i] == max)
                    return k + j;
        }
    }
    return end;
}

/* The class of the largest logit, as NumPy has it. `row` says in which block the largest that is a number begins. */
static int64_t argmax_of(const run *c, int64_t r, const xent_sums *row) {
    const int64_t classes = c->plan->classes;
    int64_t found = isnan(row->sum_exp) ? first_class(c, r, 0, classes, 0, 1) : classes;
    if (found == classes)
        found = first_class(c, r, row->argmax, classes, (real)row->max, 0);
    return c->plan->class_offset + (found < classes ? found : 0);
}

/* What a run leaves that only reduces: the sums of a row, and its target's, in lane `lane` of tile t. */
static void keep_sums(const run *c, int64_t r, const xent_sums *row, int64_t t, int lane) {
    xent_sums *to = sums_at(c->rows, r);
    const lane_state *s = &c->space->state;
    const int64_t target = s->own[t].target[lane];
    *to = *row;
    to->class_begin = c->plan->class_offset;
    to->class_end = c->plan->class_offset + c->plan->classes;
    to->num_classes = c->plan->num_classes;
    to->temperature = c->plan->temperature;
    to->operation = c->plan->operation;
    to->stream = c->plan->stream;
    to->argmax = argmax_of(c, r, row);
    to->has_target = c->rows->index && target != NO_TARGET && target != ELSEWHERE;
    to->target_logit = to->has_target ? (double)((const real *)&s->target_logit[t])[lane] : 0;
    to->target_weight = to->has_target ? target_weight(c->plan, target) : 1;
    to->target_slope = to->has_target ? (double)((const real *)&s->target_slope[t])[lane] : 1;
}

/* Rows r..r+n-1 of a run that begins with the head. */
static NOINLINE void load_sums(const run *c, int64_t r, int64_t n) {
    lane_state *s = &c->space->state;
    for (int64_t i = 0; i < n; ++i) {
        if (i % LANES == 0)
            clear_lane_sums(s, i / LANES);
        put_sums(s, i / LANES, (int)(i % LANES), sums_at(c->rows, r + i), c->plan->temperature);
        ((real *)&s->target_logit[i / LANES])[i % LANES] = (real)sums_at(c->rows, r + i)->target_logit;
        ((real *)&s->target_slope[i / LANES])[i % LANES] = (real)sums_at(c->rows, r + i)->target_slope;
    }
}

static void read_all_lanes(const run *c, int64_t r, int64_t n) {
    lane_state *s = &c->space->state;
    for (int64_t t = 0; t * LANES < n; ++t)
        read_lanes(&s->own[t], &s->terms[t], c->plan, c->rows, r + t * LANES, lanes_left(n - t * LANES));
}

static inline int writes(const run *c) { return c->plan->form != XENT_NO_OUTPUT && (c->rows->stages & XENT_APPLY); }
