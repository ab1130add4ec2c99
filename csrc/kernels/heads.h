/* head: the sums of a row and the parameters → its loss and the coefficients of its gradient.
 *
 * With L = log1p(rest), gap = (m - z_y) / T, and the second stream a_c (ones, class weights or soft targets; A = sum a_c,
 * B = sum a_c (z_c - m) / T), every softmax loss is
 *
 *   loss = hard (L + gap) + smooth (A L - B) + z (m / T + L)^2
 *   d loss / dz_c = pull p_c - smooth a_c - hard [c = y],    pull = hard + smooth A + 2 z lse
 *
 *   index targets     hard = (1 - e) w_y, smooth = e / C, a_c = w_c   (e: label_smoothing)
 *   soft targets      hard = 0, smooth = 1, a_c = w_c ((1 - e) t_c + e / C)
 *
 * each times the weight of the row; in the gradient also times d(result) / d(row loss) and 1/T. At c = y the gradient of
 * the first term is -hard (1 - p_y), with 1 - p_y = (the others) / s taken from sums that do not cancel.
 * Lanes are rows. */

typedef struct {
    vec max, rest, hits, mass, moment; /* as in xent_chunk; rest + hits counts every class */
    vec gap;                           /* (m - z_y) / T >= 0 */
    mask target_is_max;
} row_sums;

typedef struct {
    vec hard, smooth, z;                /* coefficients in the loss */
    vec grad_hard, grad_smooth, grad_z; /* and in the gradient */
    vec weight_of_target;               /* a_y */
} row_terms;

typedef struct {
    vec loss, lse, log_sum;           /* log_sum = lse - m / T */
    vec scale, floor, push, at_target; /* gradient: scale * exp(t) - push * a_c where exp(t) >= floor; at_target at c = y */
} row_result;

/* What the target's logit z_y adds to the sums. */
static INLINE void find_gap(row_sums *sums, vec z, const load_plan *p, xent_transform transform) {
    const vec t = v(sub)(z, sums->max);
    sums->gap = v(sub)(v(set)(0), cooled(t, p, transform));
    sums->target_is_max = v(eq)(t, v(set)(0));
}

static INLINE row_result head(const row_sums *sums, const row_terms *terms, const load_plan *p, xent_stream stream,
                              int indexed, int squared, int gradient) {
    const vec one = v(set)(1), zero = v(set)(0);
    row_result r = {zero, zero, zero, zero, zero, zero, zero};
    const mask empty = v(eq)(v(add)(sums->rest, sums->hits), zero); /* every class is masked */
    const vec rest = v(select)(empty, v(set)((real)NAN), v(add)(sums->rest, v(sub)(sums->hits, one)));
    const vec top = v(mul)(sums->max, p->inverse_temperature);
    r.log_sum = v(log1p)(rest);
    r.lse = v(select)(empty, v(set)((real)-INFINITY), v(add)(top, r.log_sum));

    r.loss = zero;
    if (indexed) {
        const vec nll = v(add)(r.log_sum, sums->gap);
        r.loss = v(keep)(v(ne)(terms->hard, zero), v(mul)(terms->hard, nll));
    }
    if (stream != XENT_NO_STREAM)
        r.loss = v(fma)(terms->smooth, v(sub)(v(mul)(sums->mass, r.log_sum), sums->moment), r.loss);
    if (squared)
        r.loss = v(fma)(terms->z, v(mul)(r.lse, r.lse), r.loss);
    if (!gradient)
        return r;

    const vec total = v(add)(rest, one);
    vec pull = terms->grad_hard;
    if (stream != XENT_NO_STREAM)
        pull = v(fma)(terms->grad_smooth, sums->mass, pull);
    const vec pull_z = v(mul)(v(set)(2), v(mul)(terms->grad_z, r.lse));
    if (squared)
        pull = v(add)(pull, pull_z);
    r.scale = v(div)(pull, total);
    const vec tiny = v(set)(c(TINY));
    r.floor = v(max)(tiny, v(div)(tiny, v(abs)(r.scale))); /* NaN if the scale is: nothing is flushed then */
    r.push = terms->grad_smooth;
    if (indexed) {
        vec e = v(exp)(v(sub)(zero, sums->gap));
        e = v(select)(sums->target_is_max, one, v(keep)(v(nlt)(e, tiny), e));
        const vec others = v(select)(sums->target_is_max, rest, v(add)(one, v(sub)(rest, e)));
        const vec probability = v(div)(e, total);
        r.at_target = v(mul)(v(sub)(zero, terms->grad_hard), v(div)(others, total));
        if (stream != XENT_NO_STREAM)
            r.at_target = v(fma)(terms->grad_smooth, v(sub)(v(mul)(sums->mass, probability), terms->weight_of_target),
                                 r.at_target);
        if (squared)
            r.at_target = v(fma)(pull_z, probability, r.at_target);
    }
    return r;
}
