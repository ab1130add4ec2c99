/* head: the sums of a row and the parameters → its loss and the coefficients of its gradient.
 *
 * With L = log1p(rest), gap = (m - z_y) / T, and the second stream a_c (ones, class weights or soft targets; A = sum a_c,
 * B = sum a_c (z_c - m) / T), every softmax loss is
 *
 *   loss = hard (L + gap) + smooth (A L - B) + z (m / T + L)^2
 *   d loss / dz_c = pull p_c - smooth a_c - hard [c = y],    pull = hard + smooth A + 2 z lse
 *
 * where (L + gap) = -log p_y may first pass a link F (focal, poly-1), whose slope then multiplies hard in the gradient:
 *
 *   index targets     hard = (1 - e) w_y, smooth = e / C, a_c = w_c   (e: label_smoothing)
 *   soft targets      hard = 0, smooth = 1, a_c = w_c ((1 - e) t_c + e / C)
 *
 * each times the weight of the row; in the gradient also times d(result) / d(row loss) and 1/T. At c = y the gradient of
 * the first term is -hard (1 - p_y), with 1 - p_y = (the others) / s taken from sums that do not cancel. The diagonal of
 * the Hessian, times 1/T once more:
 *
 *   d2 loss / dz_c^2 = pull p_c (1 - p_c) + 2 z p_c^2 + hard F'' (p_c - [c = y])^2
 *
 * Entropy and distillation have smooth alone: with M = sum p_c (z_c - m) / T, and with the teacher's q, m', L' beside it,
 *
 *   entropy           smooth (L - M),                          gradient  -smooth p_c ((z_c - m) / T - M)
 *   distillation      smooth (sum q_c ((z'_c - m') - (z_c - m)) / T + L - L'),    smooth (p_c - q_c)
 *
 * Where the row brings (log-)probabilities there is no softmax: m = L = 0, B = sum a_c log p_c, and the gradient is
 * -(smooth a_c + hard [c = y]) dz/dx.
 *
 * Lanes are rows. */

typedef struct {
    vec max, rest, hits, mass, moment; /* as in xent_chunk; rest + hits counts every class */
    vec teacher_max, teacher_rest, teacher_hits;
    vec gap; /* (m - z_y) / T >= 0 */
    mask target_is_max;
} row_sums;

typedef struct {
    vec hard, smooth, z;                /* coefficients in the loss */
    vec grad_hard, grad_smooth, grad_z; /* and in the gradient */
    vec weight_of_target;               /* a_y */
} row_terms;

typedef struct {
    vec loss, lse, log_sum;            /* log_sum = lse - m / T */
    vec scale, floor, push, at_target; /* gradient: scale * exp(t) - push * a_c where exp(t) >= floor; at_target at c = y */
    vec center;                        /* entropy: scale * exp(t) (t - center) */
    vec teacher_share;                 /* distillation: a_c = exp(t') teacher_share, smooth included */
    /* Hessian: p (bend (1 - p) + square p) with p = exp(t) share; 1 - p is `beside` where t = 0; hess_at_target at c = y */
    vec share, beside, bend, square, hess_at_target;
} row_result;

/* F(l), F'(l), F''(l) of l = -log p, with q = 1 - p given apart so that nothing cancels: dp/dl = -p.
 *   focal    q^g l,  q^g (1 + g p l / q),  g q^g (p / q) (2 - l + (g - 1) p l / q)     (Lin et al., arXiv:1708.02002)
 *   poly-1   l + g q,  1 + g p,  -g p                                                  (Leng et al., arXiv:2204.12511)
 * Where q is 0, l / q has the limit 1. */
typedef struct {
    vec value, slope, curve;
} linked;

static INLINE linked follow_link(const xent_plan *plan, vec l, vec p, vec q) {
    const vec one = v(set)(1), zero = v(set)(0), g = v(set)((real)plan->strength);
    linked r = {l, one, zero};
    if (plan->link == XENT_POLY) {
        r.value = v(fma)(g, q, l);
        r.slope = v(fma)(g, p, one);
        r.curve = v(sub)(zero, v(mul)(g, p));
    } else if (plan->link == XENT_FOCAL) {
        /* log q = -log1p(p / q). q is 0 or normal; the bound is where log1p's domain ends, and NaN passes it. */
        const vec odds = v(sub)(zero, v(max)(v(set)(-1 / c(TINY)), v(sub)(zero, v(div)(p, q))));
        const vec power = v(exp)(v(sub)(zero, v(mul)(g, v(log1p)(odds))));
        const mask none = v(eq)(q, zero);
        const vec ratio = v(select)(none, one, v(div)(l, q));
        const vec share = v(keep)(v(ne)(p, zero), v(mul)(p, ratio)); /* p l / q; 0 for a masked target, where l = inf */
        r.value = v(keep)(v(ne)(power, zero), v(mul)(power, l));
        r.slope = v(mul)(power, v(fma)(g, share, one));
        const vec inner = v(fma)(v(sub)(g, one), share, v(sub)(v(set)(2), l));
        r.curve = v(mul)(v(mul)(g, power), v(mul)(v(div)(p, q), inner));
        /* A power of 0 beats odds that overflow. */
        r.curve = v(keep)(v(ne)(v(mul)(p, power), zero), v(select)(none, zero, r.curve));
    }
    return r;
}

/* What the target's logit z_y adds to the sums. */
static INLINE void find_gap(row_sums *sums, vec z, const load_plan *p, xent_transform transform) {
    const vec t = v(sub)(z, sums->max);
    const mask masked = v(lt)(t, v(set)(-c(LARGEST)));
    sums->gap = v(sub)(v(set)(0), v(select)(masked, t, heated(t, p, transform)));
    sums->target_is_max = v(eq)(t, v(set)(0));
}

/* A class of weight 0 costs nothing, even if it is masked; a NaN stays one. */
static INLINE vec weighted(vec weight, vec loss) {
    const vec zero = v(set)(0);
    return v(select)(v(both)(v(eq)(weight, zero), v(eq)(loss, loss)), zero, v(mul)(weight, loss));
}

/* Without a softmax: the sums are all there is to know. */
static INLINE row_result given_head(const row_sums *sums, const row_terms *terms, xent_stream stream, int indexed) {
    const vec zero = v(set)(0);
    row_result r = {zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero};
    if (indexed) {
        r.loss = weighted(terms->hard, sums->gap);
        r.at_target = terms->grad_hard;
    }
    if (stream != XENT_NO_STREAM) {
        r.loss = v(fnma)(terms->smooth, sums->moment, r.loss);
        r.at_target = v(fma)(terms->grad_smooth, terms->weight_of_target, r.at_target);
    }
    r.push = terms->grad_smooth;
    return r;
}

static INLINE row_result head(const row_sums *sums, const row_terms *terms, const xent_plan *plan, const load_plan *p,
                              xent_stream stream, int indexed, int hessian) {
    const vec one = v(set)(1), zero = v(set)(0), tiny = v(set)(c(TINY));
    const int squared = plan->z != 0, gradient = plan->form != XENT_NO_OUTPUT;
    row_result r = {zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero};
    const mask empty = v(eq)(v(add)(sums->rest, sums->hits), zero); /* every class is masked */
    const vec rest = v(select)(empty, v(set)((real)NAN), v(add)(sums->rest, v(sub)(sums->hits, one)));
    const vec total = v(add)(rest, one);
    const vec top = v(mul)(sums->max, p->inverse_temperature);
    r.log_sum = v(log1p)(rest);
    r.lse = v(select)(empty, v(set)((real)-INFINITY), v(add)(top, r.log_sum));

    linked link = {zero, one, zero};
    vec probability = zero, others = zero; /* of the target: p_y, 1 - p_y */
    if (indexed) {
        const vec nll = v(add)(r.log_sum, sums->gap);
        link.value = nll;
        if (gradient || plan->link != XENT_LIKELIHOOD) {
            const vec e = v(select)(sums->target_is_max, one, v(exp)(v(sub)(zero, sums->gap)));
            probability = v(div)(e, total);
            others = v(div)(v(select)(sums->target_is_max, rest, v(add)(one, v(sub)(rest, e))), total);
        }
        if (plan->link != XENT_LIKELIHOOD)
            link = follow_link(plan, nll, probability, others);
        r.loss = weighted(terms->hard, link.value);
    }
    if (stream == XENT_OWN) {
        r.center = v(div)(sums->moment, total);
        r.loss = v(mul)(terms->smooth, v(sub)(r.log_sum, r.center));
        r.scale = v(sub)(zero, v(div)(terms->grad_smooth, total));
        r.floor = v(select)(v(eq)(r.scale, r.scale), tiny, r.scale); /* NaN if the scale is: nothing is flushed then */
        return r;
    }
    if (stream == XENT_TEACHER) {
        const vec teacher = v(add)(sums->teacher_rest, sums->teacher_hits);
        const vec teacher_rest =
            v(select)(v(eq)(teacher, zero), v(set)((real)NAN), v(add)(sums->teacher_rest, v(sub)(sums->teacher_hits, one)));
        const vec teacher_total = v(add)(teacher_rest, one);
        r.loss =
            v(mul)(terms->smooth, v(add)(v(div)(sums->moment, teacher_total), v(sub)(r.log_sum, v(log1p)(teacher_rest))));
        r.teacher_share = v(div)(terms->grad_smooth, teacher_total);
        r.scale = v(div)(terms->grad_smooth, total);
        r.floor = v(max)(tiny, v(div)(tiny, v(abs)(r.scale)));
        return r;
    }
    if (stream != XENT_NO_STREAM)
        r.loss = v(fma)(terms->smooth, v(sub)(v(mul)(sums->mass, r.log_sum), sums->moment), r.loss);
    if (squared)
        r.loss = v(fma)(terms->z, v(mul)(r.lse, r.lse), r.loss);
    if (!gradient)
        return r;

    const vec hard = v(mul)(terms->grad_hard, link.slope);
    vec pull = hard;
    if (stream != XENT_NO_STREAM)
        pull = v(fma)(terms->grad_smooth, sums->mass, pull);
    const vec pull_z = v(mul)(v(set)(2), v(mul)(terms->grad_z, r.lse));
    if (squared)
        pull = v(add)(pull, pull_z);
    r.scale = v(div)(pull, total);
    r.floor = v(max)(tiny, v(div)(tiny, v(abs)(r.scale))); /* NaN if the scale is: nothing is flushed then */
    r.push = terms->grad_smooth;
    if (indexed) {
        r.at_target = v(mul)(v(sub)(zero, hard), others);
        if (stream != XENT_NO_STREAM)
            r.at_target =
                v(fma)(terms->grad_smooth, v(sub)(v(mul)(sums->mass, probability), terms->weight_of_target), r.at_target);
        if (squared)
            r.at_target = v(fma)(pull_z, probability, r.at_target);
    }
    if (!hessian)
        return r;

    const vec curve = v(mul)(v(mul)(terms->grad_hard, link.curve), p->inverse_temperature);
    const vec square = v(mul)(v(mul)(v(set)(2), terms->grad_z), p->inverse_temperature);
    r.share = v(div)(one, total);
    r.beside = v(div)(rest, total);
    /* A row that is NaN has no exponential to carry it where z is -inf. */
    r.bend = v(select)(v(eq)(total, total), v(mul)(pull, p->inverse_temperature), total);
    r.square = v(add)(square, curve);
    r.hess_at_target = v(fma)(v(mul)(r.bend, probability), others,
                              v(fma)(v(mul)(square, probability), probability, v(mul)(v(mul)(curve, others), others)));
    return r;
}
