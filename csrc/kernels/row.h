/* What a row brings besides its logits: target, weights, upstream gradient → the coefficients of its head. */

typedef struct {
    int64_t target; /* -1 without index targets */
    real hard, smooth, z, grad_hard, grad_smooth, grad_z, weight_of_target;
} row_numbers;

static inline double number_at(const char *p, int64_t i) {
    real x;
    memcpy(&x, p + i, sizeof x);
    return (double)x;
}

/* False: the row does not count (ignored, weight 0, a mean of nothing). A target may have been changed since it was checked, by another
 * thread: whatever it says now, nothing outside the row is touched. */
static inline int read_row(row_numbers *row, const xent_plan *plan, const xent_rows *rows, int64_t r) {
    const double weight = rows->weight ? number_at(rows->weight, r * rows->weight_step) : 1;
    double of_target = 1;
    row->target = -1;
    if (rows->index) {
        row->target = xent_load_index(rows->index + r * rows->index_step, plan->index_type);
        if ((plan->has_ignore && row->target == plan->ignore) || (uint64_t)row->target >= (uint64_t)plan->classes)
            return 0;
        if (plan->class_weight)
            of_target = (double)((const real *)plan->class_weight)[row->target];
    }
    if (weight == 0 || plan->no_row_counts)
        return 0;
    const double upstream =
        plan->scale * (rows->upstream ? number_at(rows->upstream, r * rows->upstream_step) : 1) / plan->temperature;
    const double hard = plan->hard * of_target * weight, smooth = plan->smooth * weight, z = plan->z * weight;
    row->weight_of_target = (real)of_target;
    row->hard = (real)hard;
    row->smooth = (real)smooth;
    row->z = (real)z;
    row->grad_hard = (real)(hard * upstream);
    row->grad_smooth = (real)(smooth * upstream);
    row->grad_z = (real)(z * upstream);
    return 1;
}

/* A row that does not count: loss 0, gradient 0. */
static inline void write_nothing(const xent_rows *rows, int64_t r, char *out, int64_t out_bytes) {
    if (rows->loss)
        memset(rows->loss + r * rows->loss_step, 0, sizeof(real));
    if (out)
        memset(out, 0, (size_t)out_bytes);
}

static inline int has_nan(const char *x, int64_t classes) {
    const vec zero = v(set)(0);
    for (int64_t i = 0; i < classes; i += LANES) {
        const vec z = stored_first(x + i * STORAGE_BYTES, lanes_left(classes - i), zero);
        if (v(any)(v(ne)(z, z)))
            return 1;
    }
    return 0;
}
