/* What a row brings besides its logits: target, weights, upstream gradient → the coefficients of its head. */

typedef struct {
    real hard, smooth, z, grad_hard, grad_smooth, grad_z, weight_of_target;
} row_numbers;

static inline double number_at(const char *p) {
    real x;
    memcpy(&x, p, sizeof x);
    return (double)x;
}

static int64_t check_indices(const xent_indices *indices, int64_t *bad) {
    enum { PART = 256 };
    const uint64_t classes = (uint64_t)indices->classes;
    const int64_t ignore = indices->has_ignore ? indices->ignore : -1, step = indices->step;
    int64_t counted = 0, y[PART];
    for (int64_t at = 0; at < indices->count; at += PART) {
        const int64_t left = indices->count - at, n = left < PART ? left : PART;
        xent_load_indices(y, indices->index + at * step, step, n, indices->type);
        int64_t inside = 0, ignored = 0; /* a class may be ignored */
        for (int64_t i = 0; i < n; ++i) {
            inside += (uint64_t)y[i] < classes && y[i] != ignore;
            ignored += y[i] == ignore;
        }
        if (inside + (indices->has_ignore ? ignored : 0) < n) {
            int64_t i = 0;
            while ((uint64_t)y[i] < classes || (indices->has_ignore && y[i] == ignore))
                ++i;
            *bad = at + i;
            return counted;
        }
        counted += inside;
    }
    return counted;
}

static inline double row_weight(const xent_rows *rows, int64_t r) {
    return rows->weight ? number_at(rows->weight + r * rows->weight_step) : 1;
}

static inline row_numbers read_row(const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t target) {
    const double weight = row_weight(rows, r);
    const double of_target = rows->index && plan->class_weight ? (double)((const real *)plan->class_weight)[target] : 1;
    const double upstream =
        plan->scale * (rows->upstream ? number_at(rows->upstream + r * rows->upstream_step) : 1) / plan->temperature;
    const double hard = plan->hard * of_target * weight, smooth = plan->smooth * weight, z = plan->z * weight;
    const row_numbers row = {
        (real)hard,           (real)smooth,    (real)z, (real)(hard * upstream), (real)(smooth * upstream),
        (real)(z * upstream), (real)of_target,
    };
    return row;
}

typedef struct {
    real at[LANES];
} lane_numbers;

static inline lane_numbers lanes_of(vec a) {
    lane_numbers n;
    v(store)(&n, a);
    return n;
}

/* The targets of the lanes' rows, and whether they count: ignored rows, rows of weight 0 and those of a mean of nothing do
 * not. */
typedef struct {
    int64_t target[LANES];    /* -1: none */
    int64_t somewhere[LANES]; /* the same, or 0 */
    lane_numbers index;       /* the same, exact up to XENT_MOST_IN_LANES */
    mask counts;
    int all_count;
} lane_rows;

/* The class, or -1 for a row that is ignored or has none. A target may have been changed since it was checked, by another
 * thread: whatever it says now, nothing outside the row is touched. */
static INLINE int64_t valid_target(const xent_plan *plan, int64_t y) {
    const int64_t ignore = plan->has_ignore ? plan->ignore : -1;
    return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->classes)) ? -1 : y;
}

/* The target in lanes that have so many classes, its sign everywhere. */
static INLINE real lane_index(int64_t target) { return (real)(int32_t)(target >> 63 | (target & INT32_MAX)); }

/* -1 in the lanes that are not used, too. Whole vectors of neighbouring indices are the compiler's to find. */
static INLINE void read_targets(lane_rows *own, const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes) {
    const char *from = rows->index + r * rows->index_step;
    if (lanes < LANES || rows->index_step != xent_index_bytes(plan->index_type))
        for (int i = 0; i < LANES; ++i)
            own->target[i] =
                i < lanes ? valid_target(plan, xent_load_index(from + i * rows->index_step, plan->index_type)) : -1;
    else
        switch (plan->index_type) {
#define XENT_CASE(TYPE, C)                                                                                                  \
    case TYPE:                                                                                                              \
        for (int i = 0; i < LANES; ++i) {                                                                                   \
            C y;                                                                                                            \
            memcpy(&y, from + i * (int64_t)sizeof y, sizeof y);                                                             \
            own->target[i] = valid_target(plan, (int64_t)y);                                                                \
            own->somewhere[i] = own->target[i] & ~(own->target[i] >> 63);                                                   \
            own->index.at[i] = lane_index(own->target[i]);                                                                  \
        }                                                                                                                   \
        return;
            XENT_INDEX_TYPES(XENT_CASE)
#undef XENT_CASE
        }
    for (int i = 0; i < LANES; ++i) {
        own->somewhere[i] = own->target[i] < 0 ? 0 : own->target[i];
        own->index.at[i] = lane_index(own->target[i]);
    }
}

static INLINE row_terms same_terms(row_numbers n) {
    return (row_terms){v(set)(n.hard),   v(set)(n.smooth),          v(set)(n.z), v(set)(n.grad_hard), v(set)(n.grad_smooth),
                       v(set)(n.grad_z), v(set)(n.weight_of_target)};
}

/* `terms`: those of every row, where rows do not differ. Field by field: the structures are large. */
static INLINE void read_rows(lane_rows *own, row_terms *terms, const xent_plan *plan, const xent_rows *rows, int64_t r,
                             int lanes, int differ) {
    const vec zero = v(set)(0);
    const mask used = v(first)(lanes);
    own->counts = used;
    if (rows->index) {
        read_targets(own, plan, rows, r, lanes);
        own->counts = v(nlt)(v(load)(&own->index), zero);
    } else {
        v(store)(&own->index, v(set)(-1));
        for (int i = 0; i < LANES; ++i)
            own->target[i] = -1;
    }
    if (plan->no_row_counts)
        own->counts = v(lt)(zero, zero);
    if (differ) {
        lane_numbers of[7], counts = lanes_of(v(keep)(own->counts, v(set)(1)));
        for (int i = 0; i < LANES; ++i) {
            const int counting = counts.at[i] != 0 && row_weight(rows, r + i) != 0;
            const row_numbers numbers = counting ? read_row(plan, rows, r + i, own->target[i]) : (row_numbers){0};
            counts.at[i] = (real)counting;
            of[0].at[i] = numbers.hard;
            of[1].at[i] = numbers.smooth;
            of[2].at[i] = numbers.z;
            of[3].at[i] = numbers.grad_hard;
            of[4].at[i] = numbers.grad_smooth;
            of[5].at[i] = numbers.grad_z;
            of[6].at[i] = numbers.weight_of_target;
        }
        own->counts = v(ne)(v(load)(&counts), zero);
        *terms = (row_terms){v(load)(&of[0]), v(load)(&of[1]), v(load)(&of[2]), v(load)(&of[3]),
                             v(load)(&of[4]), v(load)(&of[5]), v(load)(&of[6])};
    }
    own->all_count = !v(any)(v(but)(used, own->counts));
}

/* A class of each row → its logits. */
static INLINE vec logits_at(const int64_t *class, const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes) {
    lane_numbers logit = lanes_of(v(set)(0));
    const char *x = rows->logits + r * rows->logits_step;
    for (int i = 0; i < lanes && plan->classes > 0; ++i, x += rows->logits_step)
        logit.at[i] = stored_one(x + class[i] * plan->logits_class_step);
    return v(load)(&logit);
}

static INLINE void put_lanes(char *at, int64_t step, int lanes, vec value) {
    if (step == (int64_t)sizeof(real)) {
        if (lanes == LANES)
            v(store)(at, value);
        else
            v(store_first)(at, lanes, value);
        return;
    }
    const lane_numbers numbers = lanes_of(value);
    for (int i = 0; i < lanes; ++i)
        memcpy(at + i * step, &numbers.at[i], sizeof(real));
}
