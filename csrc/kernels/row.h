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
