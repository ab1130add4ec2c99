/* targets: per-row inputs other than the logits (target, weights, upstream gradient) → the coefficients of the head. */

static inline double number_at(const char *p) {
    real x;
    memcpy(&x, p, sizeof x);
    return (double)x;
}

enum { PART = 256 };

/* Of n rows from row `at` on, whose indices are y, the first that counts and whose probability is outside [0, 1], else n;
 * NaN passes. */
static NOINLINE int64_t first_outside(const xent_indices *indices, int64_t at, int64_t *y, int64_t n) {
    const storage *stored = storage_of(indices->dtype);
    char picked[PART * sizeof(real)];
    real p[PART];
    for (int64_t i = 0; i < n; ++i)
        if ((indices->has_ignore && y[i] == indices->ignore) ||
            (indices->weight && number_at(indices->weight + (at + i) * indices->weight_step) == 0))
            y[i] = -1;
    pick_stored(picked, indices->probabilities + at * indices->probabilities_step, indices->probabilities_step,
                indices->class_step, y, indices->classes, n, stored->bytes);
    stored->gather_run(p, picked, n);
    const real most = (real)indices->most;
    int64_t i = 0;
    while (i < n && !(p[i] < 0 || p[i] > most))
        ++i;
    return i;
}

static int64_t check_indices(const xent_indices *indices, int64_t *bad, int64_t *outside) {
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
        if (indices->probabilities && *outside < 0) {
            const int64_t i = first_outside(indices, at, y, n);
            if (i < n)
                *outside = at + i;
        }
    }
    return counted;
}

typedef struct {
    real at[LANES];
} lane_values;

static inline lane_values lanes_of(vec a) {
    lane_values n;
    v(store)(&n, a);
    return n;
}

/* One lane's number in every lane. */
static INLINE vec from_lane(const vec *a, int i) { return v(set)(((const real *)a)[i]); }

/* The targets of the lanes' rows, and whether they count: ignored rows, rows of weight 0 and those of a mean of nothing do
 * not. */
typedef struct {
    int64_t target[LANES]; /* among the classes at hand; NO_TARGET, or ELSEWHERE: in another shard */
    lane_values index;     /* the same, exact up to XENT_MOST_IN_LANES */
    mask counts;
    int all_count;
} lane_targets;

enum { NO_TARGET = -1 };
#define ELSEWHERE INT64_MAX

/* The class, or NO_TARGET for a row that is ignored or has none. A target may have been changed since it was checked, by
 * another thread: whatever it says now, nothing outside the row is touched. */
static INLINE int64_t valid_target(const xent_plan *plan, int64_t y) {
    const int64_t ignore = plan->has_ignore ? plan->ignore : NO_TARGET;
    return ((y == ignore) | ((uint64_t)y >= (uint64_t)plan->num_classes)) ? NO_TARGET : y;
}

/* The target in lanes that have so many classes, its sign everywhere. */
static INLINE real lane_index(int64_t target) { return (real)(int32_t)(target >> 63 | (target & INT32_MAX)); }

/* Where a shard's target may be read or written; of other rows, where class 0 is. */
static INLINE int64_t place_of_target(const xent_plan *plan, int64_t target) {
    return (uint64_t)target < (uint64_t)plan->classes ? target : 0;
}

/* NO_TARGET in the lanes that are not used, too. Whole vectors of neighbouring indices are the compiler's to find. */
static INLINE void read_targets(lane_targets *own, const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes) {
    const char *from = rows->index + r * rows->index_step;
    if (lanes < LANES || rows->index_step != xent_index_bytes(plan->index_type) || plan->num_classes != plan->classes) {
        for (int i = 0; i < LANES; ++i) {
            const int64_t y =
                i < lanes ? valid_target(plan, xent_load_index(from + i * rows->index_step, plan->index_type)) : NO_TARGET;
            const int64_t here = y - plan->class_offset;
            own->target[i] = y == NO_TARGET ? NO_TARGET : (uint64_t)here < (uint64_t)plan->classes ? here : ELSEWHERE;
            own->index.at[i] = lane_index(own->target[i]);
        }
        return;
    }
    switch (plan->index_type) {
#define XENT_CASE(TYPE, C)                                                                                                  \
    case TYPE:                                                                                                              \
        for (int i = 0; i < LANES; ++i) {                                                                                   \
            C y;                                                                                                            \
            memcpy(&y, from + i * (int64_t)sizeof y, sizeof y);                                                             \
            own->target[i] = valid_target(plan, (int64_t)y);                                                                \
            own->index.at[i] = lane_index(own->target[i]);                                                                  \
        }                                                                                                                   \
        return;
        XENT_INDEX_TYPES(XENT_CASE)
#undef XENT_CASE
    }
}

static inline double row_weight(const xent_rows *rows, int64_t r) {
    return rows->weight ? number_at(rows->weight + r * rows->weight_step) : 1;
}

/* The weight of a row's target, unless another shard has it. */
static inline double target_weight(const xent_plan *plan, int64_t target) {
    return plan->class_weight && (uint64_t)target < (uint64_t)plan->classes
               ? (double)((const real *)plan->class_weight)[target]
               : 1;
}

/* The coefficients of one row in the loss, and in its derivatives. */
typedef struct {
    real hard, smooth, z, grad_hard, grad_smooth, grad_z, grad_lse, target_weight;
} row_terms;

static inline double coef_at(const xent_rows *rows, int64_t r, xent_coef which) {
    return rows->coefs[which] ? number_at(rows->coefs[which] + r * rows->coef_steps[which]) : 0;
}

/* Of a row whose gradient is by coefficients. */
static inline row_terms terms_by_coefficients(const xent_plan *plan, const xent_rows *rows, int64_t r, double of_target) {
    const xent_coef second = plan->stream == XENT_SELF   ? XENT_ENTROPY_COEF
                             : plan->stream == XENT_SOFT ? XENT_NLL_COEF
                                                         : XENT_SMOOTH_COEF;
    return (row_terms){
        .grad_hard = rows->index ? (real)(coef_at(rows, r, XENT_NLL_COEF) / plan->temperature) : 0,
        .grad_smooth = (real)(coef_at(rows, r, second) / plan->temperature),
        .grad_lse = (real)(coef_at(rows, r, XENT_LSE_COEF) / plan->temperature),
        .target_weight = (real)of_target,
    };
}

static inline row_terms terms_of_row(const xent_plan *plan, const xent_rows *rows, int64_t r, double of_target) {
    if (plan->by_coefficients)
        return terms_by_coefficients(plan, rows, r, of_target);
    const double weight = row_weight(rows, r);
    const double upstream =
        plan->scale * (rows->upstream ? number_at(rows->upstream + r * rows->upstream_step) : 1) / plan->temperature;
    const double hard = plan->hard * of_target * weight, smooth = plan->smooth * weight, z = plan->z * weight;
    return (row_terms){
        .hard = (real)hard,
        .smooth = (real)smooth,
        .z = (real)z,
        .grad_hard = (real)(hard * upstream),
        .grad_smooth = (real)(smooth * upstream),
        .grad_z = (real)(z * upstream),
        .target_weight = (real)of_target,
    };
}

typedef struct {
    vec hard, smooth, z;                /* coefficients in the loss */
    vec grad_hard, grad_smooth, grad_z; /* and in the gradient */
    vec grad_lse;                       /* of the log-sum-exp, in the gradient alone */
    vec target_weight;                  /* a_y */
} lane_terms;

static INLINE lane_terms same_terms(row_terms n) {
    return (lane_terms){
        .hard = v(set)(n.hard),
        .smooth = v(set)(n.smooth),
        .z = v(set)(n.z),
        .grad_hard = v(set)(n.grad_hard),
        .grad_smooth = v(set)(n.grad_smooth),
        .grad_z = v(set)(n.grad_z),
        .grad_lse = v(set)(n.grad_lse),
        .target_weight = v(set)(n.target_weight),
    };
}

static inline xent_sums *sums_at(const xent_rows *rows, int64_t r) {
    return (xent_sums *)((char *)rows->sums + r * rows->sums_step);
}

/* Whether rows differ in their terms. */
static inline int terms_differ(const xent_plan *plan, const xent_rows *rows) {
    return rows->weight || rows->upstream || plan->class_weight || plan->by_coefficients ||
           (rows->index && !(rows->stages & XENT_REDUCE));
}

/* Targets and terms of rows r..r+lanes-1; `terms` is left alone where they do not differ. */
static NOINLINE void read_lanes(lane_targets *own, lane_terms *terms, const xent_plan *plan, const xent_rows *rows,
                                int64_t r, int lanes) {
    const vec zero = v(set)(0);
    const mask used = v(first)(lanes);
    own->counts = used;
    if (rows->index) {
        read_targets(own, plan, rows, r, lanes);
        own->counts = v(nlt)(v(load)(&own->index), zero);
    } else {
        v(store)(&own->index, v(set)(NO_TARGET));
        for (int i = 0; i < LANES; ++i)
            own->target[i] = NO_TARGET;
    }
    if (plan->no_row_counts)
        own->counts = v(lt)(zero, zero);
    if (terms_differ(plan, rows)) {
        lane_values of[8], counts = lanes_of(v(keep)(own->counts, v(set)(1)));
        for (int i = 0; i < LANES; ++i) {
            const int counting = counts.at[i] != 0 && row_weight(rows, r + i) != 0;
            row_terms row = {0};
            if (counting)
                row = terms_of_row(plan, rows, r + i,
                                   !rows->index                 ? 1
                                   : rows->stages & XENT_REDUCE ? target_weight(plan, own->target[i])
                                                                : sums_at(rows, r + i)->target_weight);
            counts.at[i] = (real)counting;
            of[0].at[i] = row.hard;
            of[1].at[i] = row.smooth;
            of[2].at[i] = row.z;
            of[3].at[i] = row.grad_hard;
            of[4].at[i] = row.grad_smooth;
            of[5].at[i] = row.grad_z;
            of[6].at[i] = row.grad_lse;
            of[7].at[i] = row.target_weight;
        }
        own->counts = v(ne)(v(load)(&counts), zero);
        *terms = (lane_terms){.hard = v(load)(&of[0]),
                              .smooth = v(load)(&of[1]),
                              .z = v(load)(&of[2]),
                              .grad_hard = v(load)(&of[3]),
                              .grad_smooth = v(load)(&of[4]),
                              .grad_z = v(load)(&of[5]),
                              .grad_lse = v(load)(&of[6]),
                              .target_weight = v(load)(&of[7])};
    }
    own->all_count = !v(any)(v(but)(used, own->counts));
}

static INLINE void put_lanes(char *at, int64_t step, int lanes, vec value) {
    if (step == (int64_t)sizeof(real)) {
        if (lanes == LANES)
            v(store)(at, value);
        else
            v(store_first)(at, lanes, value);
        return;
    }
    const lane_values values = lanes_of(value);
    for (int i = 0; i < lanes; ++i)
        memcpy(at + i * step, &values.at[i], sizeof(real));
}
