/* head: the sums of a row and the parameters → its loss and the coefficients of its gradient.
 *
 * With L = log1p(rest), rest = sum exp((z_c - m) / T) over all classes but one that attains the maximum m,
 * gap = (m - z_y) / T, and the second stream a_c (ones, class weights or soft targets; A = sum a_c,
 * B = sum a_c (z_c - m) / T), every softmax loss is
 *
 *   loss = hard (L + gap) + smooth (A L - B) + z (m / T + L)^2
 *   d loss / dz_c = P p_c - smooth a_c - hard [c = y],    P = hard + smooth A + 2 z lse
 *
 * where (L + gap) = -log p_y may first be modulated by F (focal, poly-1), whose slope then multiplies hard in the gradient:
 *
 *   index targets     hard = (1 - e) w_y, smooth = e / C, a_c = w_c   (e: label_smoothing)
 *   soft targets      hard = 0, smooth = 1, a_c = w_c ((1 - e) t_c + e / C)
 *
 * each times the weight of the row; in the gradient also times d(result) / d(row loss) and 1/T. At c = y the gradient of
 * the first term is -hard (1 - p_y), with 1 - p_y = (the others) / s taken from sums that do not cancel. The diagonal of
 * the Hessian, times 1/T once more:
 *
 *   d2 loss / dz_c^2 = P p_c (1 - p_c) + 2 z p_c^2 + hard F'' (p_c - [c = y])^2
 *
 * Entropy and distillation have smooth alone: with M = sum p_c (z_c - m) / T, and with the teacher's q, m', L' beside it,
 *
 *   entropy           smooth (L - M),                          gradient  -smooth p_c ((z_c - m) / T - M); it may be part of
 *                     a loss of class indices, which then adds P p_c - hard [c = y]
 *   distillation      smooth (sum q_c ((z'_c - m') - (z_c - m)) / T + L - L'),    smooth (p_c - q_c)
 *
 * Of (log-)probabilities there is no softmax: m = L = 0, B = sum a_c log p_c, and the gradient is
 * -(smooth a_c + hard [c = y]) dz/dx.
 *
 * Lanes are rows. */

/* Gradient: p_coef exp(t) - a_coef a_c where exp(t) >= floor, target_grad at c = y; of log_softmax t - log_sum.
 * Hessian: p (hess_coef (1 - p) + square p) with p = exp(t) share; 1 - p is one_minus_p where t = 0, target_hess at c = y.
 */
typedef struct {
    vec log_sum; /* lse - m / T */
    vec p_coef, floor, a_coef, target_grad;
    vec center, base;  /* entropy: exp(t) (p_coef (t - center) + base) */
    vec teacher_share; /* distillation: a_c = exp(t') teacher_share, smooth included */
    vec share, one_minus_p, hess_coef, square, target_hess;
    vec least; /* what is written and less than this is 0: the smallest normal number, 0 before the chain rule */
} lane_coefs;

typedef struct {
    vec loss, lse;
} head_result;

/* Tiles that are reduced before the first is given its loss: a head is a long chain, which other heads hide (loss of 2
 * classes: 25 %). */
enum { MOST_TILES = 16 };

/* What is known of the rows at hand, a tile of them for each index. */
typedef struct {
    lane_targets own[MOST_TILES];
    lane_terms terms[MOST_TILES]; /* where rows differ in them */
    vec max[MOST_TILES], teacher_max[MOST_TILES];
    tile_sums sums[MOST_TILES];
    vec target_logit[MOST_TILES], target_slope[MOST_TILES];
    lane_coefs coefs[MOST_TILES];
} lane_state;

/* F(l), F'(l), F''(l) of l = -log p, with q = 1 - p given apart so that nothing cancels: dp/dl = -p.
 *   focal    q^g l,  q^g (1 + g p l / q),  g q^g (p / q) (2 - l + (g - 1) p l / q)     (Lin et al., arXiv:1708.02002)
 *   poly-1   l + g q,  1 + g p,  -g p                                                  (Leng et al., arXiv:2204.12511)
 * Where q is 0, l / q has the limit 1. */
typedef struct {
    vec value, slope, curvature;
} modulated;

static INLINE modulated modulate(const xent_plan *plan, vec l, vec p, vec q) {
    const vec one = v(set)(1), zero = v(set)(0), g = v(set)((real)plan->strength);
    modulated r = {l, one, zero};
    if (plan->modulation == XENT_POLY1) {
        r.value = v(fma)(g, q, l);
        r.slope = v(fma)(g, p, one);
        r.curvature = v(sub)(zero, v(mul)(g, p));
    } else if (plan->modulation == XENT_FOCAL) {
        /* log q = -log1p(p / q). q is 0 or normal; the bound is where log1p's domain ends, and NaN passes it. */
        const vec odds = v(sub)(zero, v(max)(v(set)(-1 / c(TINY)), v(sub)(zero, v(div)(p, q))));
        const vec power = v(exp)(v(sub)(zero, v(mul)(g, v(log1p)(odds))));
        const mask none = v(eq)(q, zero);
        const vec ratio = v(select)(none, one, v(div)(l, q));
        const vec share = v(keep)(v(ne)(p, zero), v(mul)(p, ratio)); /* p l / q; 0 for a masked target, where l = inf */
        r.value = v(keep)(v(ne)(power, zero), v(mul)(power, l));
        r.slope = v(mul)(power, v(fma)(g, share, one));
        const vec inner = v(fma)(v(sub)(g, one), share, v(sub)(v(set)(2), l));
        r.curvature = v(mul)(v(mul)(g, power), v(mul)(v(div)(p, q), inner));
        /* A power of 0 beats odds that overflow. */
        r.curvature = v(keep)(v(ne)(v(mul)(p, power), zero), v(select)(none, zero, r.curvature));
    }
    return r;
}

/* (m - z_y) / T >= 0, and where it is 0. Where m - z_y overflows, each is divided before. */
static INLINE vec target_gap(vec z, vec max, const transform_plan *p, xent_transform transform, mask *target_is_max) {
    const vec t = v(sub)(z, max), lowest = v(set)(-c(LARGEST));
    const mask masked = v(lt)(t, lowest);
    vec gap = v(select)(masked, t, over_temperature(t, p, transform));
    if (transform == XENT_TEMPERATURE && __builtin_expect(v(any)(masked), 0)) {
        const vec apart = v(sub)(over_temperature(z, p, transform), over_temperature(max, p, transform));
        gap = v(select)(v(but)(masked, v(lt)(z, lowest)), apart, gap);
    }
    *target_is_max = v(eq)(t, v(set)(0));
    return v(sub)(v(set)(0), gap);
}

/* A class of weight 0 costs nothing, even if it is masked; a NaN stays one. */
static INLINE vec weighted(vec weight, vec loss) {
    const vec zero = v(set)(0);
    return v(select)(v(both)(v(eq)(weight, zero), v(eq)(loss, loss)), zero, v(mul)(weight, loss));
}

/* Without a softmax: the sums are all there is to know. */
static INLINE head_result log_probs_head(lane_coefs *to, const tile_sums *sums, vec gap, vec slope, const lane_terms *terms,
                                         const xent_plan *plan, int indexed) {
    const xent_stream stream = plan->stream;
    const vec zero = v(set)(0);
    vec weight = zero; /* of the target */
    head_result r = {zero, zero};
    if (indexed) {
        r.loss = weighted(terms->hard, gap);
        weight = terms->grad_hard;
    }
    if (stream != XENT_NO_STREAM) {
        r.loss = v(fnma)(terms->smooth, sums->sum_a_t, r.loss);
        weight = v(fma)(terms->grad_smooth, terms->target_weight, weight);
    }
    if (plan->probabilities)
        weight = v(keep)(v(ne)(weight, zero), v(div)(weight, slope));
    to->target_grad = v(sub)(zero, weight);
    to->a_coef = terms->grad_smooth;
    to->least = v(set)(c(TINY));
    return r;
}

static INLINE head_result softmax_head(lane_coefs *to, const tile_sums *sums, vec max, vec gap, mask target_is_max,
                                       const lane_terms *terms, const xent_plan *plan, const transform_plan *p, int indexed,
                                       int hessian) {
    const vec one = v(set)(1), zero = v(set)(0), tiny = v(set)(c(TINY));
    const xent_stream stream = plan->stream;
    const int squared = plan->z != 0, gradient = plan->form != XENT_NO_OUTPUT;
    head_result r = {zero, zero};
    const mask empty = v(eq)(v(add)(sums->sum_exp, sums->max_count), zero); /* every class is masked */
    const vec rest = v(select)(empty, v(set)((real)NAN), v(add)(sums->sum_exp, v(sub)(sums->max_count, one)));
    const vec total = v(add)(rest, one);
    const vec top = v(mul)(max, p->inverse_temperature);
    const vec log_sum = v(log1p)(rest);
    to->log_sum = log_sum;
    r.lse = v(select)(empty, v(set)((real)-INFINITY), v(add)(top, log_sum));

    to->least = is_capped(plan) ? zero : tiny;
    modulated nll = {zero, one, zero};
    vec probability = zero, others = zero; /* of the target: p_y, 1 - p_y */
    if (indexed) {
        nll.value = v(add)(log_sum, gap);
        if (gradient || plan->modulation != XENT_UNMODULATED) {
            const vec e = v(select)(target_is_max, one, v(exp)(v(sub)(zero, gap)));
            probability = v(div)(e, total);
            others = v(div)(v(select)(target_is_max, rest, v(add)(one, v(sub)(rest, e))), total);
        }
        if (plan->modulation != XENT_UNMODULATED)
            nll = modulate(plan, nll.value, probability, others);
        r.loss = weighted(terms->hard, nll.value);
    }
    if (stream == XENT_SELF) {
        const vec z_coef = v(mul)(v(set)(2), v(mul)(terms->grad_z, r.lse));
        /* Of a row without a target the coefficient may be NaN: 0 times a weight that is infinite. */
        const vec of_target = indexed ? terms->grad_hard : zero;
        vec sum_coef = plan->by_coefficients ? v(add)(of_target, terms->grad_lse) : of_target;
        to->center = v(div)(sums->sum_a_t, total);
        const vec of_entropy = v(mul)(terms->smooth, v(sub)(log_sum, to->center));
        r.loss = indexed ? v(add)(r.loss, of_entropy) : of_entropy;
        if (squared) {
            r.loss = v(fma)(terms->z, v(mul)(r.lse, r.lse), r.loss);
            sum_coef = v(add)(sum_coef, z_coef);
        }
        to->p_coef = v(sub)(zero, v(div)(terms->grad_smooth, total));
        to->base = v(div)(sum_coef, total);
        to->floor = v(select)(v(eq)(to->p_coef, to->p_coef), tiny, to->p_coef); /* NaN: nothing is flushed then */
        if (indexed && gradient) {
            const vec of_others = v(sub)(zero, v(mul)(terms->grad_hard, others));
            const vec rise = v(fma)(terms->grad_smooth, v(add)(gap, to->center), v(sub)(sum_coef, of_target));
            to->target_grad = v(add)(of_others, v(keep)(v(ne)(probability, zero), v(mul)(probability, rise)));
        }
        return r;
    }
    if (stream == XENT_TEACHER) {
        const vec teacher = v(add)(sums->teacher_sum_exp, sums->teacher_max_count);
        const vec teacher_rest = v(select)(v(eq)(teacher, zero), v(set)((real)NAN),
                                           v(add)(sums->teacher_sum_exp, v(sub)(sums->teacher_max_count, one)));
        const vec teacher_total = v(add)(teacher_rest, one);
        r.loss =
            v(mul)(terms->smooth, v(add)(v(div)(sums->sum_a_t, teacher_total), v(sub)(log_sum, v(log1p)(teacher_rest))));
        if (plan->form == XENT_OF_TEACHER) {
            to->center = v(div)(sums->sum_a_t, teacher_total);
            to->p_coef = v(div)(terms->grad_smooth, teacher_total);
            to->floor = v(select)(v(eq)(to->p_coef, to->p_coef), tiny, to->p_coef);
            return r;
        }
        to->teacher_share = v(div)(terms->grad_smooth, teacher_total);
        to->p_coef = v(div)(terms->grad_smooth, total);
        to->floor = v(max)(tiny, v(div)(tiny, v(abs)(to->p_coef)));
        return r;
    }
    if (stream != XENT_NO_STREAM)
        r.loss = v(fma)(terms->smooth, v(sub)(v(mul)(sums->sum_a, log_sum), sums->sum_a_t), r.loss);
    if (squared)
        r.loss = v(fma)(terms->z, v(mul)(r.lse, r.lse), r.loss);
    if (!gradient)
        return r;

    const vec hard = v(mul)(terms->grad_hard, nll.slope);
    vec sum_coef = hard;
    if (stream != XENT_NO_STREAM)
        sum_coef = v(fma)(terms->grad_smooth, sums->sum_a, sum_coef);
    const vec z_coef = v(mul)(v(set)(2), v(mul)(terms->grad_z, r.lse));
    if (squared)
        sum_coef = v(add)(sum_coef, z_coef);
    if (plan->by_coefficients)
        sum_coef = v(add)(sum_coef, terms->grad_lse);
    to->p_coef = v(div)(sum_coef, total);
    to->floor = v(max)(tiny, v(div)(tiny, v(abs)(to->p_coef))); /* NaN if p_coef is: nothing is flushed then */
    to->a_coef = terms->grad_smooth;
    if (indexed) {
        to->target_grad = v(mul)(v(sub)(zero, hard), others);
        if (stream != XENT_NO_STREAM)
            to->target_grad =
                v(fma)(terms->grad_smooth, v(sub)(v(mul)(sums->sum_a, probability), terms->target_weight), to->target_grad);
        if (squared)
            to->target_grad = v(fma)(z_coef, probability, to->target_grad);
        if (plan->by_coefficients)
            to->target_grad = v(fma)(terms->grad_lse, probability, to->target_grad);
    }
    if (!hessian)
        return r;

    const vec curvature = v(mul)(v(mul)(terms->grad_hard, nll.curvature), p->inverse_temperature);
    const vec square = v(mul)(v(mul)(v(set)(2), terms->grad_z), p->inverse_temperature);
    to->share = v(div)(one, total);
    to->one_minus_p = v(div)(rest, total);
    /* A row that is NaN has no exponential to carry it where z is -inf. */
    to->hess_coef = v(select)(v(eq)(total, total), v(mul)(sum_coef, p->inverse_temperature), total);
    to->square = v(add)(square, curvature);
    to->target_hess = v(fma)(v(mul)(to->hess_coef, probability), others,
                             v(fma)(v(mul)(square, probability), probability, v(mul)(v(mul)(curvature, others), others)));
    return r;
}

/* Whether a loss may be one of those of rare_rows.h. A temperature may make it NaN. */
static INLINE int may_be_inexact(vec loss, const lane_terms *terms, const xent_plan *plan) {
    return v(any)(plan->stream == XENT_TEACHER ? v(nlt)(v(mul)(terms->smooth, v(set)((real)NEAR)), loss) : not_finite(loss));
}

/* These losses, found anew. */
static NOINLINE vec careful_losses(head_result found, const lane_state *s, int64_t t, vec gap, const lane_terms *terms,
                                   const xent_plan *plan, const transform_plan *p, const lane_rows *own) {
    const tile_sums *sums = &s->sums[t];
    const vec one = v(set)(1), max = s->max[t];
    const vec rest = v(add)(sums->sum_exp, v(sub)(sums->max_count, one)), total = v(add)(rest, one);
    if (plan->stream == XENT_TEACHER) {
        const vec teacher_rest = v(add)(sums->teacher_sum_exp, v(sub)(sums->teacher_max_count, one));
        const vec teacher_total = v(add)(teacher_rest, one), log_ratio = v(sub)(v(log1p)(rest), v(log1p)(teacher_rest));
        const near_row row = {.max = max,
                              .teacher_max = s->teacher_max[t],
                              .ratio = v(div)(teacher_total, total),
                              .temperature = v(set)((real)plan->temperature)};
        return near_divergences(found.loss, v(add)(v(div)(sums->sum_a_t, teacher_total), log_ratio), teacher_total,
                                log_ratio, row, plan, p, own);
    }
    const int given = kernel_transform(plan->transform) == XENT_LOG_PROBS;
    const vec log_sum = given ? v(set)(0) : v(log1p)(rest);
    const vec costs = v(sub)(v(mul)(sums->sum_a, log_sum), sums->sum_a_t);
    vec others = own->rows->index ? weighted(terms->hard, v(add)(log_sum, gap)) : v(set)(0);
    if (plan->z != 0)
        others = v(fma)(terms->z, v(mul)(found.lse, found.lse), others);
    /* Of a row that is NaN, or has no class that is not masked, nothing is looked for. */
    const mask counted = v(both)(v(eq)(total, total), v(ne)(total, v(set)(0)));
    mask far = v(both)(not_finite(costs), v(first)(own->lanes));
    far = given ? far : v(both)(far, counted);
    return v(any)(far) ? far_losses(found.loss, others, far, max, log_sum, terms->smooth, plan, p, own) : found.loss;
}

/* Lanes whose row holds +inf but no NaN: looked for where the maximum is +inf alone. */
static NOINLINE mask infinite_lanes(const xent_plan *plan, const xent_rows *rows, int64_t r, int lanes, vec max) {
    const storage *stored = storage_of(plan->dtype);
    lane_values infinite = lanes_of(max);
    for (int i = 0; i < lanes; ++i) {
        const char *x = xent_logits_of(rows, r + i);
        for (int64_t k = 0; k < plan->classes && infinite.at[i] == (real)INFINITY; ++k, x += plan->logits_class_step)
            if (isnan(stored->load_one(x)))
                infinite.at[i] = 0;
    }
    return v(eq)(v(load)(&infinite), v(set)((real)INFINITY));
}

/* The heads of rows r..r+n-1: loss and log-sum-exp are written, coefficients kept. `x` and `second` are all of their classes
 * where these are tiles at hand, or NULL. */
static NOINLINE void heads(lane_state *s, const xent_plan *plan, const xent_rows *rows, int64_t r, int64_t n,
                           const transform_plan *p, const vec *x, const vec *second) {
    const int indexed = rows->index != NULL, differ = terms_differ(plan, rows);
    const int written = rows->stages & XENT_HEAD;
    const lane_terms common = same_terms(differ ? (row_terms){0} : terms_of_row(plan, rows, r, 1));
    const xent_transform transform = kernel_transform(plan->transform);
    const int careful = written && rows->loss && rows->logits && (is_weighted(plan->stream) || plan->stream == XENT_TEACHER);
    const vec infinity = v(set)((real)INFINITY);
    for (int64_t t = 0; t * LANES < n; ++t) {
        const int lanes = lanes_left(n - t * LANES);
        const int64_t at = r + t * LANES;
        const lane_terms *terms = differ ? &s->terms[t] : &common;
        mask target_is_max = v(first)(0);
        const vec gap = indexed ? target_gap(s->target_logit[t], s->max[t], p, transform, &target_is_max) : v(set)(0);
        head_result result = transform == XENT_LOG_PROBS
                                 ? log_probs_head(&s->coefs[t], &s->sums[t], gap, s->target_slope[t], terms, plan, indexed)
                                 : softmax_head(&s->coefs[t], &s->sums[t], s->max[t], gap, target_is_max, terms, plan, p,
                                                indexed, rows->hess != NULL);
        if (careful && __builtin_expect(may_be_inexact(result.loss, terms, plan), 0)) {
            const lane_rows own = {rows, at, lanes, x ? x + t * plan->classes : NULL, x ? second + t * plan->classes : NULL};
            result.loss = careful_losses(result, s, t, gap, terms, plan, p, &own);
        }
        if (plan->keep_infinite && v(any)(v(eq)(s->max[t], infinity))) {
            const mask infinite = infinite_lanes(plan, rows, at, lanes, s->max[t]);
            s->coefs[t].log_sum = v(select)(infinite, v(set)(0), s->coefs[t].log_sum);
            result.lse = v(select)(infinite, s->max[t], result.lse);
        }
        if (rows->lse && written)
            put_lanes(rows->lse + at * rows->lse_step, rows->lse_step, lanes, result.lse);
        if (rows->loss && written)
            put_lanes(rows->loss + at * rows->loss_step, rows->loss_step, lanes, v(keep)(s->own[t].counts, result.loss));
    }
}
