/* divergence: the Jensen-Shannon divergence of rows of logits from those of a teacher, and both gradients, in f64 whatever
 * the dtypes.
 *
 * With p the softmax, q the teacher's and m = beta q + (1 - beta) p, the divergence of a row is T^2 times the sum over the
 * classes of beta q b + (1 - beta) p a, where a = log(p / m) and b = log(q / m); the gradients are T (1 - beta) p (a - sum p
 * a) and T beta q (b - sum q b). Let l be the larger of p and q, w the share of the smaller in m, d = -|log p - log q| and
 * e = expm1(d). Then the smaller is l (1 + e), m is l (1 + w e), and a class adds
 *
 *   l (w (1 + e) d - (1 + w e) log(1 + w e)) >= 0.
 *
 * No class cancels another, and two exponentials and one logarithm are all that it takes. Where d is small the two terms
 * would cancel: with a and b of the larger and the smaller, and phi(x) = x e^x - e^x + 1, it is m ((1 - w) phi(a) + w
 * phi(b)). So would digits of d, if the maxima were taken away first: it comes from the difference of the logits. What the
 * two log-sum-exps in it are off by, the sum of q - p tells, which would be 0; of rows that nearly agree it is taken away.
 * Narrow rows have a lane each; of others, the lanes are classes. Which it is, and so the order of summation, follows from
 * the number of classes alone: in blocks of XENT_BLOCK, every lane adds its classes from left to right. */

/* Numbers of smaller types as f64, and back: rounded to f32, and from there to a half type. Vectors of the workspace. */
#define XENT_DEFINE(H)                                                                                                      \
    static void gather_##H(double *to, const char *from, int64_t n) {                                                       \
        for (int64_t i = 0; i < n; i += f32_lanes, from += f32_lanes * H##_bytes) {                                         \
            const f32_vec x = n - i >= f32_lanes ? H##_load(from) : H##_load_first(from, (int)(n - i), f32_set(0));         \
            f64_store(to + i, f32_widen_first(x));                                                                          \
            f64_store(to + i + f64_lanes, f32_widen_last(x));                                                               \
        }                                                                                                                   \
    }                                                                                                                       \
    static void scatter_##H(char *to, const double *from, int64_t n, int non_temporal) {                                    \
        (void)non_temporal;                                                                                                 \
        for (int64_t i = 0; i < n; i += f32_lanes, to += f32_lanes * H##_bytes) {                                           \
            float x[f32_lanes];                                                                                             \
            for (int j = 0; j < f32_lanes; ++j)                                                                             \
                x[j] = (float)from[i + j];                                                                                  \
            if (n - i >= f32_lanes)                                                                                         \
                H##_store(to, f32_load(x));                                                                                 \
            else                                                                                                            \
                H##_store_first(to, (int)(n - i), f32_load(x));                                                             \
        }                                                                                                                   \
    }                                                                                                                       \
    static const storage H##_as_f64 = {.bytes = H##_bytes, .gather_run = gather_##H, .scatter_run = scatter_##H};
XENT_DEFINE(f32)
XENT_DEFINE(f16)
XENT_DEFINE(bf16)
#undef XENT_DEFINE

/* The student's distribution, or the teacher's. */
typedef struct {
    const xent_divergence_of *given;
    const storage *stored;
    vec share;    /* in the mixture */
    vec least;    /* the smallest normal number of the gradient */
    vec *numbers; /* a block of logits, in the workspace; then their gradient */
    /* Of the row in each lane: the largest logit, what joins the sum of the exponentials (sums.h), its logarithm, sum p a,
     * and what p (a - sum p a) is multiplied by. */
    vec max, sum_exp, max_count, log_sum, center, scale;
} distribution;

typedef struct {
    const xent_divergence *call;
    const transform_plan *transform;
    real *staging;
    int narrow;
    distribution of[2];
    exact_difference ahead; /* of the maxima, */
    vec apart;              /* and of the logarithms of the sums */
} mixture;

/* Of one class in each lane: the probabilities, the logarithms of their ratios to the mixture's, what the class adds, q - p.
 */
typedef struct {
    vec prob[2], log_ratio[2], divergence, surplus;
} class_terms;

static INLINE vec exponent_at(const mixture *c, const distribution *of, int64_t i) {
    return exponent_of(v(sub)(of->numbers[i], of->max), c->transform, XENT_TEMPERATURE);
}

/* log p - log q; where the difference of the logits is no number, from their distances to the maxima. */
static INLINE vec log_apart(const mixture *c, int64_t i, vec x, vec y) {
    const exact_difference ahead = difference(c->of[0].numbers[i], c->of[1].numbers[i]);
    const vec z = v(add)(v(sub)(ahead.high, c->ahead.high), v(sub)(ahead.low, c->ahead.low));
    return v(sub)(v(select)(v(eq)(z, z), over_temperature(z, c->transform, XENT_TEMPERATURE), v(sub)(x, y)), c->apart);
}

/* x e^x - e^x + 1 of small x. */
static INLINE vec small_phi(vec x) {
    const vec share = v(exp_rest_share)(x); /* (e^x - 1 - x) / x^2 */
    return v(mul)(v(mul)(x, x), v(fma)(x, share, v(sub)(v(set)(1), share)));
}

static INLINE class_terms terms_at(const mixture *c, int64_t i) {
    const distribution *p = &c->of[0], *q = &c->of[1];
    const vec zero = v(set)(0), one = v(set)(1), least = v(set)(c(EXP_LEAST));
    const vec x = exponent_at(c, p, i), y = exponent_at(c, q, i);
    const vec apart = log_apart(c, i, x, y);
    const mask ahead = v(lt)(zero, apart); /* p is the larger */
    const vec w = v(select)(ahead, q->share, p->share), rest = v(select)(ahead, p->share, q->share);
    const vec larger = v(exp)(v(select)(ahead, v(sub)(x, p->log_sum), v(sub)(y, q->log_sum)));
    const vec d = v(max)(least, v(sub)(zero, v(abs)(apart)));
    const v(exp_parts) part = v(exp_split)(d);
    const vec rise = v(mul)(part.slope, part.reduced), scale = v(power)(part.n);
    const vec e = v(fma)(rise, scale, v(sub)(scale, one)), we = v(mul)(w, e);
    const vec ratio = v(keep)(v(ne)(d, least), v(fma)(rise, scale, scale)), smaller = v(mul)(larger, ratio);
    /* log(1 + w e): from w e, or near -1, where it has lost the digits of the sum, from that. */
    const mask near = v(lt)(v(set)((real)-0.5), we);
    const vec m = v(select)(near, v(add)(one, we), v(max)(v(set)(c(TINY)), v(fma)(w, ratio, rest)));
    const vec k = v(exponent)(m), power = v(power)(v(sub)(v(set)(c(MAGIC)), k));
    const vec f = v(select)(near, v(fma)(we, power, v(sub)(power, one)), v(fma)(m, power, v(set)(-1)));
    const vec log_m = v(log_parts)(f, k), of_larger = v(sub)(zero, log_m), of_smaller = v(sub)(d, log_m);
    const vec close = v(mul)(m, v(fma)(rest, small_phi(of_larger), v(mul)(w, small_phi(of_smaller))));
    const vec term =
        v(select)(v(lt)(v(set)((real)-0.5 * c(LN2)), d), close, v(fma)(m, of_larger, v(mul)(v(mul)(w, ratio), d)));
    const vec surplus = v(mul)(larger, e);
    return (class_terms){{v(select)(ahead, larger, smaller), v(select)(ahead, smaller, larger)},
                         {v(select)(ahead, of_larger, of_smaller), v(select)(ahead, of_smaller, of_larger)},
                         v(mul)(larger, v(max)(zero, term)),
                         v(select)(ahead, surplus, v(sub)(zero, surplus))};
}

/* Of what the lanes have summed, the row's in each. */
static vec over_row(const mixture *c, vec a) {
    const lane_values s = lanes_of(a);
    if (c->narrow)
        return a;
    return v(set)(((s.at[0] + s.at[1]) + (s.at[2] + s.at[3])) + ((s.at[4] + s.at[5]) + (s.at[6] + s.at[7])));
}

/* The exponentials of a block join those of the row. */
static NOINLINE void add_exponentials(const mixture *c, distribution *of, int64_t vectors) {
    const vec zero = v(set)(0), before = of->max;
    vec max = before, sum_exp = zero, max_count = zero;
    for (int64_t i = 0; i < vectors; ++i)
        max = v(max)(of->numbers[i], max);
    of->max = max = c->narrow ? max : v(set)(v(max_of)(max));
    const mask same = v(eq)(max, before);
    const vec shrunk = v(exp)(exponent_of(v(sub)(before, max), c->transform, XENT_TEMPERATURE));
    of->sum_exp = v(select)(same, of->sum_exp, v(mul)(v(add)(of->sum_exp, of->max_count), shrunk));
    of->max_count = v(keep)(same, of->max_count);
    for (int64_t i = 0; i < vectors; ++i) {
        const vec t = exponent_at(c, of, i);
        const mask below = v(ne)(t, zero);
        sum_exp = v(add_where)(below, sum_exp, v(exp)(t));
        max_count = v(add)(max_count, v(select)(below, zero, v(set)(1)));
    }
    of->sum_exp = v(add)(of->sum_exp, over_row(c, sum_exp));
    of->max_count = v(add)(of->max_count, over_row(c, max_count));
}

/* Sums of the divergence, of q - p, of p a and of q b, compensated as in double_double.h. */
typedef struct {
    vec high[4], low[4];
} term_sums;

static INLINE void sum_terms(const mixture *c, int64_t vectors, term_sums *s, int with_gradient) {
    const vec zero = v(set)(0);
    vec block[4] = {zero, zero, zero, zero};
    for (int64_t i = 0; i < vectors; ++i) {
        const class_terms term = terms_at(c, i);
        block[0] = v(add)(block[0], term.divergence);
        block[1] = v(add)(block[1], term.surplus);
        for (int k = 0; with_gradient && k < 2; ++k)
            block[2 + k] = v(fma)(term.prob[k], term.log_ratio[k], block[2 + k]);
    }
    for (int k = 0; k < (with_gradient ? 4 : 2); ++k) {
        const vec x = over_row(c, block[k]), high = s->high[k], sum = v(add)(high, x), part = v(sub)(sum, high);
        s->low[k] = v(add)(s->low[k], v(add)(v(sub)(high, v(sub)(sum, part)), v(sub)(x, part)));
        s->high[k] = sum;
    }
}

static NOINLINE void add_terms(const mixture *c, int64_t vectors, term_sums *s) { sum_terms(c, vectors, s, 0); }
static NOINLINE void add_all_terms(const mixture *c, int64_t vectors, term_sums *s) { sum_terms(c, vectors, s, 1); }

static NOINLINE void apply_terms(const mixture *c, int64_t vectors) {
    for (int64_t i = 0; i < vectors; ++i) {
        const class_terms term = terms_at(c, i);
        for (int k = 0; k < 2; ++k) {
            const distribution *of = &c->of[k];
            const vec g = v(mul)(of->scale, v(mul)(term.prob[k], v(sub)(term.log_ratio[k], of->center)));
            of->numbers[i] = v(keep)(v(both)(v(ne)(of->scale, v(set)(0)), v(nlt)(v(abs)(g), of->least)), g);
        }
    }
}

static int64_t block_size(const mixture *c, int64_t at) {
    return c->call->classes - at < XENT_BLOCK ? c->call->classes - at : XENT_BLOCK;
}

/* The block of narrow rows r..r+rows-1, or of row r, that begins with class `at`: in how many vectors. Past the last class
 * there are such as have no probability. */
static int64_t gather_block(const mixture *c, const distribution *of, int64_t r, int rows, int64_t at) {
    const char *from = of->given->logits + r * of->given->step + at * of->stored->bytes;
    const int64_t n = block_size(c, at), vectors = (n + LANES - 1) / LANES;
    if (c->narrow) {
        if (rows < LANES)
            memset(c->staging, 0, (size_t)n * sizeof(vec));
        gather_rows(of->numbers, c->staging, from, of->given->step, rows, c->call->rows - r, n, of->stored);
        return n;
    }
    vec *const last = &of->numbers[vectors - 1];
    of->stored->gather_run((real *)of->numbers, from, n);
    *last = v(select)(v(first)(lanes_left(n - (vectors - 1) * LANES)), *last, v(set)(-(real)INFINITY));
    return vectors;
}

static void scatter_block(const mixture *c, const distribution *of, int64_t r, int rows, int64_t at) {
    char *const to = of->given->grad ? of->given->grad + r * of->given->grad_step + at * of->stored->bytes : NULL;
    if (to && c->narrow)
        scatter_rows(to, of->given->grad_step, c->staging, of->numbers, rows, block_size(c, at), of->stored, 0);
    else if (to)
        of->stored->scatter_run(to, (const real *)of->numbers, block_size(c, at), 0);
}

/* A divergence below this, over T^2, may be nothing but what the logarithms of the sums are off by. */
static const double NEAR_DIVERGENCE = 0x1p-30;

/* Narrow rows r..r+rows-1, or row r. What is one block is gathered once. */
static void mixture_of_rows(mixture *c, int64_t r, int rows) {
    const xent_divergence *call = c->call;
    const int64_t classes = call->classes;
    const int writes = call->of[0].grad || call->of[1].grad;
    const vec zero = v(set)(0), one = v(set)(1);
    term_sums s;
    int64_t vectors = 0;
    for (int k = 0; k < 2; ++k) {
        distribution *of = &c->of[k];
        of->max = v(set)(-c(LARGEST));
        of->sum_exp = of->max_count = zero;
        for (int64_t at = 0; at < classes; at += XENT_BLOCK)
            add_exponentials(c, of, vectors = gather_block(c, of, r, rows, at));
        const mask masked = v(eq)(v(add)(of->sum_exp, of->max_count), zero);
        const vec log_sum = v(log1p)(v(add)(of->sum_exp, v(sub)(of->max_count, one)));
        of->log_sum = v(select)(masked, v(set)((real)NAN), log_sum);
    }
    c->ahead = difference(c->of[0].max, c->of[1].max);
    c->apart = v(sub)(c->of[0].log_sum, c->of[1].log_sum);
    for (int corrected = 0;; ++corrected) {
        s = (term_sums){{zero, zero, zero, zero}, {zero, zero, zero, zero}};
        for (int64_t at = 0; at < classes; at += XENT_BLOCK) {
            for (int k = 0; k < 2 && classes > XENT_BLOCK; ++k)
                vectors = gather_block(c, &c->of[k], r, rows, at);
            (writes ? add_all_terms : add_terms)(c, vectors, &s);
        }
        const vec surplus = v(add)(s.high[1], s.low[1]);
        const mask near = v(both)(v(lt)(s.high[0], v(set)(NEAR_DIVERGENCE)), v(ne)(surplus, zero));
        if (corrected || !v(any)(near))
            break;
        c->apart = v(sub)(c->apart, v(keep)(near, surplus));
    }
    real lanes[LANES];
    const double temperature = call->temperature;
    v(store)(lanes, v(mul)(v(set)(temperature * temperature), v(add)(s.high[0], s.low[0])));
    memcpy(call->loss + r, lanes, (size_t)rows * sizeof *lanes);
    for (int i = 0; i < LANES; ++i)
        lanes[i] = call->slope[r + (i < rows ? i : 0)] * temperature;
    for (int k = 0; k < 2; ++k) {
        c->of[k].center = v(add)(s.high[2 + k], s.low[2 + k]);
        c->of[k].scale = v(mul)(c->of[k].share, v(load)(lanes));
    }
    for (int64_t at = 0; writes && at < classes; at += XENT_BLOCK) {
        for (int k = 0; k < 2 && classes > XENT_BLOCK; ++k)
            vectors = gather_block(c, &c->of[k], r, rows, at);
        apply_terms(c, vectors);
        for (int k = 0; k < 2; ++k)
            scatter_block(c, &c->of[k], r, rows, at);
    }
}

static void divergence_rows(const xent_divergence *call, int64_t begin, int64_t end, void *memory) {
    static const storage *const stored[] = {
        [XENT_F32] = &f32_as_f64, [XENT_F64] = &v(storage), [XENT_F16] = &f16_as_f64, [XENT_BF16] = &bf16_as_f64};
    workspace *const space = memory;
    space->transform = prepare_transform(&(xent_plan){.temperature = call->temperature});
    mixture c = {.call = call,
                 .transform = &space->transform,
                 .staging = (real *)space->staging,
                 .narrow = call->classes <= XENT_NARROW_DIVERGENCE};
    for (int k = 0; k < 2; ++k)
        c.of[k] = (distribution){.given = &call->of[k],
                                 .stored = stored[call->of[k].dtype],
                                 .share = v(set)(k == 0 ? 1 - call->beta : call->beta),
                                 .least = v(set)(call->of[k].dtype == XENT_F64 ? c(TINY) : 0x1p-126),
                                 .numbers = k == 0 ? space->x : space->second};
    const int step = c.narrow ? LANES : 1;
    for (int64_t r = begin; r < end; r += step)
        mixture_of_rows(&c, r, end - r < step ? (int)(end - r) : step);
}
