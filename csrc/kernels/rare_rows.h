/* Rows whose losses cannot be had from their sums: a class at a time, with more care. Rows like these are rare, and so are
 * the calls in which there are any. Where the logits are not at hand, as in a head of its own, the sums must do.
 *
 *   - Second streams whose costs leave the range of the compute type: smoothing over logits near its ends, weights that are
 *     infinite. Summed in f64.
 *   - Distributions that nearly agree, as they all do at high temperatures: what is left of sum q_c (log q_c - log p_c) when
 *     its terms have cancelled is noise. With d_c = log q_c - log p_c every term of
 *         KL(q || p) = sum q_c (d_c + expm1(-d_c))
 *     is positive. The two log-sum-exps in d_c are rounded; y = sum q_c expm1(-d_c), which would be 0, tells by how much,
 * and y - log1p(y) is taken away. */

/* The lanes of a head: rows at.. of a run. */
typedef struct {
    const xent_rows *rows;
    int64_t at;
    int lanes;
    const vec *x, *second; /* all their classes, where these are a tile at hand, or NULL */
} lane_rows;

/* Costs are summed as a fraction, so that f64 has room for them too. */
static const double COST_SCALE = 0x1p-64;

/* sum a_c (L - (z_c - max) / T) as a fraction of COST_SCALE. A class of weight 0 costs nothing, even if it is masked. */
static double far_cost(const xent_plan *plan, const xent_rows *rows, int64_t r, double max, double log_sum,
                       const transform_plan *p) {
    const storage *stored = storage_of(plan->dtype);
    const char *x = xent_logits_of(rows, r), *soft = xent_soft_of(rows, r);
    double mass = 0, moment = 0;
    for (int64_t k = 0; k < plan->classes; ++k) {
        const double w = plan->class_weight ? (double)((const real *)plan->class_weight)[k] : 1;
        const double t = soft ? number_at(soft + k * plan->soft_class_step) * plan->mix_keep + plan->mix_add : 1;
        const double a = w == 0 || t == 0 ? 0 : w * t;
        if (a == 0)
            continue;
        vec slope;
        const double z = (double)v(get)(transformed(v(set)(logit_at(plan, x, k, stored)), &slope, plan, p));
        const double distance = z * COST_SCALE - max * COST_SCALE;
        mass += a;
        moment += distance != 0 ? a * distance : 0;
        if (isinf(distance) && plan->transform != XENT_LOG_PROBS) /* a masked class */
            break;
    }
    const double of_mass = log_sum == 0 && plan->transform == XENT_LOG_PROBS ? 0 : isinf(mass) ? mass : mass * log_sum;
    return of_mass * COST_SCALE - moment / plan->temperature;
}

/* `rest`: the loss without its second stream. */
static vec far_losses(vec loss, vec rest, mask far, vec max, vec log_sum, vec smooth, const xent_plan *plan,
                      const transform_plan *p, const lane_rows *own) {
    lane_values at = lanes_of(loss);
    const lane_values others = lanes_of(rest), m = lanes_of(max), log = lanes_of(log_sum), share = lanes_of(smooth),
                      is_far = lanes_of(v(keep)(far, v(set)(1)));
    for (int i = 0; i < own->lanes; ++i)
        if (is_far.at[i] != 0 && share.at[i] != 0) {
            const double cost = far_cost(plan, own->rows, own->at + i, (double)m.at[i], (double)log.at[i], p);
            at.at[i] = (real)((double)others.at[i] + (double)share.at[i] * cost / COST_SCALE);
        }
    return v(load)(&at);
}

/* The exact difference of two numbers, in two. */
typedef struct {
    vec high, low;
} exact_difference;

static INLINE exact_difference difference(vec a, vec b) {
    const vec high = v(sub)(a, b), back = v(sub)(high, a);
    return (exact_difference){high, v(sub)(v(sub)(a, v(sub)(high, back)), v(add)(b, back))};
}

/* Where a divergence is nearer to 0 than this, its terms have cancelled to a sixteenth of an ulp's worth of nats. */
static const double NEAR = 0.0625;

/* Of n <= 64 classes from k on, the numbers of a row; -inf behind them. */
static void load_classes(real *to, const char *from, int64_t step, int64_t k, int64_t n, const storage *stored) {
    from += k * step;
    if (step == stored->bytes)
        stored->gather_run(to, from, n);
    else
        for (int64_t i = 0; i < n; ++i)
            to[i] = stored->load_one(from + i * step);
    for (int64_t i = n; i < 64; ++i)
        to[i] = (real)-INFINITY;
}

typedef struct {
    vec max, teacher_max;   /* in all lanes */
    exact_difference apart; /* T (lse' - lse): what a teacher's logit is ahead of the student's where q = p */
    vec ratio;              /* the teacher's sum of exponentials by the student's */
    vec temperature;
} near_row;

/* The terms T^2 e^t' (d + expm1(-d)) of one vector, and T e^t' d. */
static INLINE void near_terms(vec z, vec teacher, const near_row *row, const transform_plan *p, vec *sum, vec *moment) {
    const vec zero = v(set)(0), one = v(set)(1), half_log2 = v(set)((real)0.5 * c(LN2));
    const vec t = exponent_of(v(sub)(z, row->max), p, XENT_TEMPERATURE);
    const vec of_teacher = exponent_of(v(sub)(teacher, row->teacher_max), p, XENT_TEMPERATURE);
    const mask counts = v(nlt)(of_teacher, v(set)(c(EXP_LEAST)));
    const vec e = v(mul)(v(exp)(t), row->ratio), q = v(keep)(counts, v(exp_normal)(of_teacher));
    const exact_difference ahead = difference(teacher, z);
    const vec d = v(add)(v(sub)(ahead.high, row->apart.high), v(sub)(ahead.low, row->apart.low));
    const vec r = v(sub)(zero, over_temperature(d, p, XENT_TEMPERATURE));
    /* T^2 (e^r - 1 - r), as (T r)^2 times a polynomial, or as a difference that does not cancel. */
    const vec near = v(mul)(q, v(mul)(v(mul)(d, d), v(exp_rest_share)(r)));
    const vec far = v(add)(v(keep)(counts, v(mul)(q, v(sub)(v(sub)(zero, r), one))), e);
    const mask is_near = v(but)(counts, v(nlt)(v(abs)(r), half_log2));
    *sum = v(add)(*sum, v(select)(is_near, near, v(mul)(v(mul)(far, row->temperature), row->temperature)));
    *moment = v(add)(*moment, v(keep)(counts, v(mul)(q, d)));
}

/* The sums of both of a row. */
typedef struct {
    double sum, moment;
} near_sums;

static near_sums near_wide(const xent_plan *plan, const xent_rows *rows, int64_t r, const near_row *row,
                           const transform_plan *p) {
    const storage *stored = storage_of(plan->dtype);
    const char *z = xent_logits_of(rows, r), *teacher = xent_soft_of(rows, r);
    near_sums all = {0, 0};
    for (int64_t k = 0; k < plan->classes; k += XENT_BLOCK) {
        vec sums[GROUPS], moments[GROUPS];
        for (int g = 0; g < GROUPS; ++g)
            sums[g] = moments[g] = v(set)(0);
        for (int64_t i = k; i < plan->classes && i < k + XENT_BLOCK; i += 64) {
            const int64_t n = plan->classes - i < 64 ? plan->classes - i : 64;
            real own[64], others[64];
            load_classes(own, z, plan->logits_class_step, i, n, stored);
            load_classes(others, teacher, plan->soft_class_step, i, n, stored);
            for (int g = 0; g < GROUPS && g * LANES < n; ++g)
                near_terms(v(load)(own + g * LANES), v(load)(others + g * LANES), row, p, &sums[g], &moments[g]);
        }
        all.sum += (double)v(sum_tree)(sums);
        all.moment += (double)v(sum_tree)(moments);
    }
    return all;
}

/* The same of a tile, in the same order. */
static void near_tile(near_sums all[LANES], const vec *x, const vec *second, int64_t classes, const near_row *row,
                      const transform_plan *p) {
    vec sums[64], moments[64];
    const int64_t used = classes < 64 ? classes : 64;
    for (int64_t k = 0; k < used; ++k)
        sums[k] = moments[k] = v(set)(0);
    for (int64_t k = 0; k < classes; ++k)
        near_terms(x[k], second[k], row, p, &sums[k % 64], &moments[k % 64]);
    const lane_values sum = lanes_of(sum_lanes(sums, used)), moment = lanes_of(sum_lanes(moments, used));
    for (int i = 0; i < LANES; ++i)
        all[i] = (near_sums){(double)sum.at[i], (double)moment.at[i]};
}

/* Of T (lse - lse') in each lane and the maxima, exactly as far as numbers reach. */
static exact_difference teacher_ahead(const double apart[LANES], vec max, vec teacher_max) {
    lane_values high, low;
    for (int i = 0; i < LANES; ++i) {
        high.at[i] = (real)apart[i];
        low.at[i] = (real)(apart[i] - (double)high.at[i]);
    }
    const exact_difference maxima = difference(teacher_max, max), all = difference(maxima.high, v(load)(&high));
    return (exact_difference){all.high, v(add)(all.low, v(sub)(maxima.low, v(load)(&low)))};
}

static near_row row_of_lane(const near_row *all, int i) {
    return (near_row){from_lane(&all->max, i),
                      from_lane(&all->teacher_max, i),
                      {from_lane(&all->apart.high, i), from_lane(&all->apart.low, i)},
                      from_lane(&all->ratio, i),
                      all->temperature};
}

/* T^2 KL(teacher || student) of the lanes that are near. `log_ratio` is T (lse - lse') relative to the maxima; it is
 * rounded, at temperatures beyond 1 / eps to nothing, and found anew then. */
static vec near_divergences(vec loss, vec divergence, vec teacher_total, vec log_ratio, near_row row, const xent_plan *plan,
                            const transform_plan *p, const lane_rows *own) {
    enum { MOST_PASSES = 4, FEW = 4 };
    const double temperature = plan->temperature;
    const lane_values of_teacher = lanes_of(teacher_total), ratio = lanes_of(log_ratio), size = lanes_of(divergence);
    lane_values at = lanes_of(loss);
    double apart[LANES];
    int left[LANES], count = 0;
    for (int i = 0; i < LANES; ++i) {
        apart[i] = (double)ratio.at[i] * temperature;
        left[i] = i < own->lanes && (double)size.at[i] < NEAR;
        count += left[i];
    }
    for (int pass = 1; pass <= MOST_PASSES && count; ++pass) {
        near_sums all[LANES];
        row.apart = teacher_ahead(apart, row.max, row.teacher_max);
        const int together = own->x && count > FEW;
        if (together)
            near_tile(all, own->x, own->second, plan->classes, &row, p);
        for (int i = 0; i < own->lanes; ++i) {
            if (!left[i])
                continue;
            if (!together) {
                const near_row alone = row_of_lane(&row, i);
                all[i] = near_wide(plan, own->rows, own->at + i, &alone, p);
            }
            const double total = (double)of_teacher.at[i], sum = all[i].sum / total;
            const double y = (all[i].sum / temperature - all[i].moment) / total; /* times T */
            const double rounding = y * y * (0.5 - y / temperature / 3);
            if (rounding > sum / 16 && pass < MOST_PASSES) {
                apart[i] += y * (1 - 0.5 * y / temperature);
                continue;
            }
            const double weight = plan->smooth / temperature / temperature * row_weight(own->rows, own->at + i);
            const double exact = larger(sum - rounding, 0) * weight;
            if (isfinite(sum)) /* logits that are further apart than numbers reach have a mass of nothing */
                at.at[i] = (real)exact;
            left[i] = 0;
            --count;
        }
    }
    return v(load)(&at);
}
