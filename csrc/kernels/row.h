/* What a row brings besides its logits: target, weights, upstream gradient → the coefficients of its head. */

typedef struct {
    real hard, smooth, z, grad_hard, grad_smooth, grad_z, weight_of_target;
} row_numbers;

static inline double number_at(const char *p) {
    real x;
    memcpy(&x, p, sizeof x);
    return (double)x;
}

/* The class index of row r, or -1 where the row does not count or has none. A target may have been changed since it was
 * checked, by another thread: whatever it says now, nothing outside the row is touched. */
static inline int64_t read_target(const xent_plan *plan, const xent_rows *rows, int64_t r) {
    const int64_t y = xent_load_index(rows->index + r * rows->index_step, plan->index_type);
    return (plan->has_ignore && y == plan->ignore) || (uint64_t)y >= (uint64_t)plan->classes ? -1 : y;
}

/* The same of `n` rows from r on, of at most XENT_MOST_IN_LANES classes. */
static INLINE void read_targets(const xent_plan *plan, const xent_rows *rows, int64_t r, int n, int32_t to[LANES]) {
    int64_t y[LANES];
    for (int i = 0; i < LANES; ++i)
        y[i] = -1;
    xent_load_indices(y, rows->index + r * rows->index_step, rows->index_step, n, plan->index_type);
    const uint64_t classes = (uint64_t)plan->classes;
    const int64_t ignore = plan->has_ignore ? plan->ignore : -1;
    for (int i = 0; i < LANES; ++i)
        to[i] = (y[i] == ignore) | ((uint64_t)y[i] >= classes) ? -1 : (int32_t)y[i];
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

/* Ignored rows, rows of weight 0 and a mean of nothing do not count. */
static inline int row_counts(const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t target) {
    return !plan->no_row_counts && (!rows->index || target >= 0) && row_weight(rows, r) != 0;
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
