/* sums: those of a block, a chunk, a row, merged in one order. It is part of the contract, because it is what makes the bits
 * of a result independent of threads, batch, layout and instruction set:
 *   - a block is 1,024 classes; in it, class i goes to virtual lane i % 64, each lane adds its up to 16 numbers from left
 *     to right, and the 64 lanes are summed by pairing neighbours (sum_tree in simd/);
 *   - a chunk is 16 blocks; block totals are added in f64, relative to the largest logit so far: when a block raises it,
 *     what was summed is multiplied by exp(old - new), in f64 too, so that C/1024 rescalings cost no accuracy in f32;
 *   - chunks, each relative to its own maximum, are merged from left to right relative to the row's maximum.
 * Classes equal to the maximum add 0 to `sum_exp` and 1 to `max_count`: log1p(sum_exp + max_count - 1) keeps what
 * log(sum) would lose.
 *
 * The maximum starts at the lowest finite number, so that -inf never meets -inf: all--inf blocks, chunks and padding add
 * nothing, and a row of nothing but -inf ends with max_count == 0. max(x, m) returns m when x is NaN; the NaN then enters
 * through z - m. So does +inf - +inf. */

/* exp(t) of a single f64 for t <= 0, flushed to 0 below the smallest normal. */
static inline double shrink(double t) {
    const f64_vec e = f64_exp(f64_set(t));
    return f64_get(f64_keep(f64_nlt(e, f64_set(f64_constant_TINY)), e));
}

static inline double larger(double a, double b) { return a > b ? a : b; }

/* Moves what has been summed to a new maximum. */
static inline void rebase(xent_sums *sums, double max, double temperature, xent_stream stream) {
    const double step = sums->max - max, sum = sums->sum_exp + sums->max_count;
    const double f = sum != 0 ? shrink(step / temperature) : 0;
    if (stream == XENT_SELF || stream == XENT_SQUARES)
        sums->sum_a_t = f != 0 ? (sums->sum_a_t + sum * step) * f : 0;
    sums->sum_exp = sum != 0 ? sum * f : 0;
    sums->max_count = 0;
    if (stream == XENT_SQUARES)
        sums->sum_a *= f * f;
    else if (sums->sum_a != 0)
        sums->sum_a_t += sums->sum_a * step;
    sums->max = max;
}

/* The same with a teacher. Both steps enter sum_a_t at once, so that of equal rows it stays 0, and what the teacher has
 * lost cannot make it infinite. */
static inline void rebase_both(xent_sums *sums, double max, double teacher_max, double temperature) {
    const double step = sums->max - max, teacher_step = sums->teacher_max - teacher_max;
    const double sum = sums->teacher_sum_exp + sums->teacher_max_count;
    const double f = sum != 0 ? shrink(teacher_step / temperature) : 0;
    if (!isinf(sums->sum_a_t))
        sums->sum_a_t = f != 0 ? (sums->sum_a_t + sum * (teacher_step - step)) * f : 0;
    if (teacher_step < 0) {
        sums->teacher_sum_exp = sum != 0 ? sum * f : 0;
        sums->teacher_max_count = 0;
        sums->teacher_max = teacher_max;
    }
    if (step < 0)
        rebase(sums, max, temperature, XENT_TEACHER);
}

/* To a maximum that is no lower, and with a teacher to its, too. */
static inline void raise_maximum(xent_sums *sums, double max, double teacher_max, double temperature, xent_stream stream) {
    if (stream == XENT_TEACHER && (max > sums->max || teacher_max > sums->teacher_max))
        rebase_both(sums, larger(max, sums->max), larger(teacher_max, sums->teacher_max), temperature);
    else if (max > sums->max)
        rebase(sums, max, temperature, stream);
}

/* Nothing summed yet. Without a softmax nothing is relative to a maximum. */
static inline void clear_sums(xent_sums *sums, xent_transform transform) {
    const double lowest = -(double)c(LARGEST);
    sums->max = transform == XENT_LOG_PROBS ? 0 : lowest;
    sums->teacher_max = lowest;
    sums->sum_exp = sums->max_count = sums->sum_a = sums->sum_a_t = sums->teacher_sum_exp = sums->teacher_max_count = 0;
    sums->argmax = 0;
}

static xent_sums merge_sums(const xent_sums *parts, int64_t n, double temperature, xent_stream stream) {
    if (n == 1)
        return parts[0];
    xent_sums row = parts[0];
    row.max_count = row.teacher_max_count = 0;
    double_double sum_exp = {0, 0}, sum_a = sum_exp, sum_a_t = sum_exp, teacher = sum_exp;
    for (int64_t k = 1; k < n; ++k) {
        row.argmax = parts[k].max > row.max ? parts[k].argmax : row.argmax;
        row.max = larger(parts[k].max, row.max);
        row.teacher_max = larger(parts[k].teacher_max, row.teacher_max);
    }
    for (int64_t k = 0; k < n; ++k) {
        xent_sums part = parts[k];
        if (stream == XENT_TEACHER)
            rebase_both(&part, row.max, row.teacher_max, temperature);
        else if (part.max < row.max)
            rebase(&part, row.max, temperature, stream);
        row.max_count += part.max_count;
        row.teacher_max_count += part.teacher_max_count;
        dd_add(&sum_exp, part.sum_exp);
        dd_add(&teacher, part.teacher_sum_exp);
        dd_add(&sum_a, part.sum_a);
        dd_add(&sum_a_t, part.sum_a_t);
    }
    row.sum_exp = sum_exp.high + sum_exp.low;
    row.teacher_sum_exp = teacher.high + teacher.low;
    row.sum_a = sum_a.high + sum_a.low;
    row.sum_a_t = dd_value(sum_a_t);
    return row;
}
