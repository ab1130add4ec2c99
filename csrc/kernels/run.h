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
    const char *x = xent_logits_of(c->rows, r);
    const vec most = v(set)(max);
    vec z[64 / LANES];
    for (int64_t k = begin; k < end; k += 64) {
        const int64_t n = end - k < 64 ? end - k : 64;
        load_classes((real *)z, x, c->plan->logits_class_step, k, n, c->stored);
        if (c->plan->class_bias)
            add_bias(z, (const char *)z, bias_from(c->plan, k), n);
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

enum { NO_CLASS = -1 };

/* The class of the largest logit, as NumPy has it. `row` says in which block the largest that is a number begins; NO_CLASS:
 * it is among those before, of which it was `before`. */
static int64_t argmax_of(const run *c, int64_t r, const xent_sums *row, const xent_sums *before) {
    const int64_t classes = c->plan->classes;
    if (c->plan->continues && isnan(before->sum_exp) && !isinf(before->max))
        return before->argmax;
    int64_t found = isnan(row->sum_exp) ? first_class(c, r, 0, classes, 0, 1) : classes;
    if (found == classes && row->argmax == NO_CLASS)
        return before->argmax;
    if (found == classes)
        found = first_class(c, r, row->argmax, classes, (real)row->max, 0);
    return c->plan->class_offset + (found < classes ? found : 0);
}

/* The largest numbers so far, in descending order, those of the same size by class. */
typedef struct {
    int64_t class[MOST_TOP];
    real logit[MOST_TOP];
    int count, most;
} top_logits;

static void add_to_top(top_logits *top, int64_t class, real z) {
    int at = top->count < top->most ? top->count++ : top->most - 1;
    for (; at > 0 && top->logit[at - 1] < z; --at) {
        top->logit[at] = top->logit[at - 1];
        top->class[at] = top->class[at - 1];
    }
    top->logit[at] = z;
    top->class[at] = class;
}

/* n classes of a row from class k on, at most a block, after the transform: where they lie, or in a buffer. */
static const char *classes_of(const run *c, int64_t r, int64_t k, int64_t n) {
    const int64_t step = c->plan->logits_class_step;
    const char *x = xent_logits_of(c->rows, r);
    real *const buffer = (real *)c->space->buffers[0];
    if (c->stored == own_storage && step == (int64_t)sizeof(real) && !is_transformed(c->plan) && !c->plan->class_bias)
        return x + k * step;
    for (int64_t i = 0; i < n; i += 64)
        load_classes(buffer + i, x, step, k + i, n - i < 64 ? n - i : 64, c->stored);
    if (c->plan->class_bias)
        add_bias((vec *)buffer, (const char *)buffer, bias_from(c->plan, k), n);
    if (is_transformed(c->plan))
        transform_block((vec *)buffer, NULL, (const char *)buffer, n, c->plan, &c->space->transform);
    return (const char *)buffer;
}

/* Those of n logits, of classes from k on, that are among the largest. */
static NOINLINE void find_top(top_logits *top, const char *z, int64_t k, int64_t n) {
    for (int64_t i = 0; i < n; i += 4 * LANES) {
        const vec least = v(set)(top->count < top->most ? (real)-INFINITY : top->logit[top->most - 1]);
        vec largest = least;
        for (int64_t j = i; j < n && j < i + 4 * LANES; j += LANES)
            largest = v(max)(load_up_to(z + j * (int64_t)sizeof(real), lanes_left(n - j), (real)-INFINITY), largest);
        if (top->count == top->most && !v(any)(v(lt)(least, largest)))
            continue;
        for (int64_t j = i; j < n && j < i + 4 * LANES; ++j) {
            real x;
            memcpy(&x, z + j * (int64_t)sizeof(real), sizeof x);
            if (top->count < top->most || x > top->logit[top->most - 1])
                add_to_top(top, k + j, x);
        }
    }
}

/* How many of n logits are larger. */
static NOINLINE int64_t count_larger(const char *z, int64_t n, vec than) {
    vec larger[GROUPS];
    for (int g = 0; g < GROUPS; ++g)
        larger[g] = v(set)(0);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int g = 0; g < GROUPS; ++g)
            larger[g] =
                v(add_where)(v(lt)(than, v(load)(z + (i + g * LANES) * (int64_t)sizeof(real))), larger[g], v(set)(1));
    for (; i < n; i += LANES)
        larger[0] = v(add_where)(
            v(lt)(than, v(load_first)(z + i * (int64_t)sizeof(real), lanes_left(n - i), v(set)((real)-INFINITY))), larger[0],
            v(set)(1));
    return (int64_t)v(sum_tree)(larger);
}

/* One more look at a row that is still in the cache: how many logits are larger than the target's, and the largest. Of
 * classes of which the first is NaN, if any is, that is `argmax`. */
static void look_again(const run *c, int64_t r, int64_t target, real target_logit, int64_t argmax) {
    const xent_rows *rows = c->rows;
    const int64_t classes = c->plan->classes;
    top_logits top = {.most = c->plan->top_k};
    int64_t rank = 0;
    for (int64_t k = 0; k < classes; k += XENT_BLOCK) {
        const int64_t n = classes - k < XENT_BLOCK ? classes - k : XENT_BLOCK;
        const char *z = classes_of(c, r, k, n);
        if (rows->rank && target != NO_TARGET)
            rank += count_larger(z, n, v(set)(target_logit));
        if (top.most)
            find_top(&top, z, k, n);
    }
    rank = target == NO_TARGET ? -1 : rank;
    if (rows->rank)
        memcpy(rows->rank + r * rows->rank_step, &rank, sizeof rank);
    const int has_nan = top.most && isnan(logit_at(c->plan, xent_logits_of(rows, r), argmax, c->stored));
    for (int k = 0; k < top.most; ++k) {
        const int64_t class = has_nan ? -1 : top.class[k];
        const double logit = has_nan ? NAN : (double)top.logit[k];
        memcpy(rows->top_index + r * rows->top_index_step + k * 8, &class, sizeof class);
        memcpy(rows->top_logit + r * rows->top_logit_step + k * 8, &logit, sizeof logit);
    }
}

/* What a run leaves that only reduces: the sums of a row, and its target's, in lane `lane` of tile t. */
static void keep_sums(const run *c, int64_t r, const xent_sums *row, int64_t t, int lane) {
    xent_sums *to = sums_at(c->rows, r);
    const lane_state *s = &c->space->state;
    const int64_t target = s->own[t].target[lane];
    const xent_sums before = c->plan->continues ? *to : (xent_sums){.class_begin = c->plan->class_offset};
    *to = *row;
    /* Lanes hold whatever they last had of a stream that is not there. */
    if (c->plan->stream != XENT_TEACHER)
        to->teacher_max = to->teacher_sum_exp = to->teacher_max_count = 0;
    if (c->plan->stream == XENT_NO_STREAM)
        to->sum_a = to->sum_a_t = 0;
    to->class_begin = before.class_begin;
    to->class_end = c->plan->class_offset + c->plan->classes;
    to->num_classes = c->plan->num_classes;
    to->temperature = c->plan->temperature;
    to->operation = c->plan->operation;
    to->stream = c->plan->stream;
    to->argmax = argmax_of(c, r, row, &before);
    to->has_target = c->rows->index && target != NO_TARGET && target != ELSEWHERE;
    to->target_logit = to->has_target ? (double)((const real *)&s->target_logit[t])[lane] : 0;
    to->target_weight = to->has_target ? target_weight(c->plan, target) : 1;
    const int bent = c->plan->transform == XENT_SOFTCAP || c->plan->transform == XENT_LOG_PROBS;
    to->target_slope = to->has_target && bent ? (double)((const real *)&s->target_slope[t])[lane] : 1;
    if (before.has_target) {
        to->has_target = before.has_target;
        to->target_logit = before.target_logit;
        to->target_weight = before.target_weight;
        to->target_slope = before.target_slope;
    }
    if (c->rows->rank || c->plan->top_k)
        look_again(c, r, target, (real)to->target_logit, to->argmax);
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
