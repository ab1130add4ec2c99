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
 * No class cancels another, and two exponentials and one logarithm are all that it takes. Lanes are classes; in blocks of
 * XENT_BLOCK each adds its own from left to right, and then the blocks are added. */

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

/* The student's distribution, or the teacher's: what is known of the row at hand. */
typedef struct {
    const xent_divergence_of *given;
    const storage *stored;
    vec share;               /* in the mixture */
    vec least;               /* the smallest normal number of the gradient */
    vec *numbers;            /* a block of logits, in the workspace; then their gradient */
    vec max, log_sum;        /* the largest logit, the logarithm of the sum of the exponentials */
    double_double log_ratio; /* sum p a */
    vec center, scale;       /* the same, and what p (a - sum p a) is multiplied by */
} distribution;

typedef struct {
    const transform_plan *transform;
    distribution of[2];
} mixture;

/* Of one class in each lane: the probabilities, the logarithms of their ratios to the mixture's, what the class adds. */
typedef struct {
    vec prob[2], log_ratio[2], divergence;
} class_terms;

static INLINE vec exponent_at(const mixture *c, int k, int64_t i) {
    return exponent_of(v(sub)(c->of[k].numbers[i], c->of[k].max), c->transform, XENT_TEMPERATURE);
}

static INLINE class_terms terms_at(const mixture *c, int64_t i) {
    const distribution *p = &c->of[0], *q = &c->of[1];
    const vec zero = v(set)(0), one = v(set)(1), least = v(set)(c(EXP_LEAST));
    const vec x = exponent_at(c, 0, i), y = exponent_at(c, 1, i);
    const vec apart = v(sub)(v(sub)(x, y), v(sub)(p->log_sum, q->log_sum));
    const mask ahead = v(lt)(zero, apart); /* p is the larger */
    const vec w = v(select)(ahead, q->share, p->share), rest = v(select)(ahead, p->share, q->share);
    const vec larger = v(exp)(v(select)(ahead, v(sub)(x, p->log_sum), v(sub)(y, q->log_sum)));
    const vec d = v(max)(least, v(sub)(zero, v(abs)(apart)));
    const v(exp_parts) part = v(exp_split)(d);
    const vec rise = v(mul)(part.slope, part.reduced), scale = v(shift_exponent)(one, part.n);
    const vec we = v(mul)(w, v(fma)(rise, scale, v(sub)(scale, one)));
    const vec ratio = v(keep)(v(ne)(d, least), v(fma)(rise, scale, scale)), smaller = v(mul)(larger, ratio);
    /* log(1 + w e): from w e, or near -1, where it has lost the digits of the sum, from that. */
    const mask near = v(lt)(v(set)((real)-0.5), we);
    const vec m = v(select)(near, v(add)(one, we), v(max)(v(set)(c(TINY)), v(fma)(w, ratio, rest)));
    const vec k = v(exponent)(m), power = v(shift_exponent)(one, v(sub)(v(set)(c(MAGIC)), k));
    const vec f = v(select)(near, v(fma)(we, power, v(sub)(power, one)), v(fma)(m, power, v(set)(-1)));
    const vec log_m = v(log_parts)(f, k), of_larger = v(sub)(zero, log_m), of_smaller = v(sub)(d, log_m);
    const vec term = v(fma)(m, of_larger, v(mul)(v(mul)(w, ratio), d));
    return (class_terms){{v(select)(ahead, larger, smaller), v(select)(ahead, smaller, larger)},
                         {v(select)(ahead, of_larger, of_smaller), v(select)(ahead, of_smaller, of_larger)},
                         v(mul)(larger, v(max)(zero, term))};
}

static INLINE double over_lanes(vec a) {
    const lane_values s = lanes_of(a);
    return ((s.at[0] + s.at[1]) + (s.at[2] + s.at[3])) + ((s.at[4] + s.at[5]) + (s.at[6] + s.at[7]));
}

/* The sums of the exponentials of a block join those of the row. */
static NOINLINE void add_exponentials(xent_sums *s, const mixture *c, int k, int64_t n) {
    vec sum_exp = v(set)(0), max_count = sum_exp;
    for (int64_t i = 0; i * LANES < n; ++i) {
        const vec t = exponent_at(c, k, i);
        const mask below = v(ne)(t, v(set)(0));
        sum_exp = v(add_where)(below, sum_exp, v(exp)(t));
        max_count = v(add)(max_count, v(select)(below, v(set)(0), v(set)(1)));
    }
    s->sum_exp += over_lanes(sum_exp);
    s->max_count += over_lanes(max_count);
}

static INLINE void sum_terms(mixture *c, int64_t n, double_double *divergence, int with_gradient) {
    vec sum = v(set)(0), log_ratio[2] = {sum, sum};
    for (int64_t i = 0; i * LANES < n; ++i) {
        const class_terms term = terms_at(c, i);
        sum = v(add)(sum, term.divergence);
        for (int k = 0; with_gradient && k < 2; ++k)
            log_ratio[k] = v(fma)(term.prob[k], term.log_ratio[k], log_ratio[k]);
    }
    dd_add(divergence, over_lanes(sum));
    for (int k = 0; with_gradient && k < 2; ++k)
        dd_add(&c->of[k].log_ratio, over_lanes(log_ratio[k]));
}

static NOINLINE void add_terms(mixture *c, int64_t n, double_double *divergence) { sum_terms(c, n, divergence, 0); }
static NOINLINE void add_all_terms(mixture *c, int64_t n, double_double *divergence) { sum_terms(c, n, divergence, 1); }

static NOINLINE void apply_terms(const mixture *c, int64_t n) {
    for (int64_t i = 0; i * LANES < n; ++i) {
        const class_terms term = terms_at(c, i);
        for (int k = 0; k < 2; ++k) {
            const distribution *of = &c->of[k];
            const vec g = v(mul)(of->scale, v(mul)(term.prob[k], v(sub)(term.log_ratio[k], of->center)));
            of->numbers[i] = v(keep)(v(both)(v(ne)(of->scale, v(set)(0)), v(nlt)(v(abs)(g), of->least)), g);
        }
    }
}

/* n classes of row r from class k on, and past the last of them such as have no probability. */
static void gather_classes(const distribution *of, int64_t r, int64_t k, int64_t n) {
    real *const to = (real *)of->numbers;
    of->stored->gather_run(to, of->given->logits + r * of->given->step + k * of->stored->bytes, n);
    for (; n % LANES; ++n)
        to[n] = -(real)INFINITY;
}

static void divergence_row(mixture *c, const xent_divergence *call, int64_t r) {
    const double temperature = call->temperature;
    const int64_t classes = call->classes;
    const int writes = call->of[0].grad || call->of[1].grad;
    const int64_t most = XENT_BLOCK;
    double_double divergence = {0, 0};
    for (int k = 0; k < 2; ++k) {
        distribution *of = &c->of[k];
        xent_sums s;
        clear_sums(&s, XENT_TEMPERATURE);
        for (int64_t at = 0; at < classes; at += most) {
            const int64_t n = classes - at < most ? classes - at : most;
            gather_classes(of, r, at, n);
            raise_maximum(&s, (double)block_max((const char *)of->numbers, n), 0, temperature, XENT_NO_STREAM);
            of->max = v(set)(s.max);
            add_exponentials(&s, c, k, n);
        }
        of->log_sum = s.sum_exp + s.max_count == 0 ? v(set)((real)NAN) : v(log1p)(v(set)(s.sum_exp + (s.max_count - 1)));
        of->log_ratio = divergence;
    }
    for (int64_t at = 0; at < classes; at += most) {
        const int64_t n = classes - at < most ? classes - at : most;
        for (int k = 0; k < 2 && classes > most; ++k)
            gather_classes(&c->of[k], r, at, n);
        if (writes)
            add_all_terms(c, n, &divergence);
        else
            add_terms(c, n, &divergence);
    }
    call->loss[r] = temperature * temperature * dd_value(divergence);
    for (int k = 0; k < 2; ++k) {
        c->of[k].center = v(set)(dd_value(c->of[k].log_ratio));
        c->of[k].scale = v(mul)(c->of[k].share, v(set)(call->slope[r] * temperature));
    }
    for (int64_t at = 0; at < classes && writes; at += most) {
        const int64_t n = classes - at < most ? classes - at : most;
        for (int k = 0; k < 2 && classes > most; ++k)
            gather_classes(&c->of[k], r, at, n);
        apply_terms(c, n);
        for (int k = 0; k < 2; ++k) {
            const distribution *of = &c->of[k];
            if (of->given->grad)
                of->stored->scatter_run(of->given->grad + r * of->given->grad_step + at * of->stored->bytes,
                                        (const real *)of->numbers, n, 0);
        }
    }
}

static void divergence_rows(const xent_divergence *call, int64_t begin, int64_t end, void *memory) {
    static const storage *const stored[] = {
        [XENT_F32] = &f32_as_f64, [XENT_F64] = &v(storage), [XENT_F16] = &f16_as_f64, [XENT_BF16] = &bf16_as_f64};
    workspace *const space = memory;
    space->transform = prepare_transform(&(xent_plan){.temperature = call->temperature});
    mixture c = {.transform = &space->transform};
    for (int k = 0; k < 2; ++k) {
        const xent_dtype dtype = call->of[k].dtype;
        c.of[k] = (distribution){.given = &call->of[k],
                                 .stored = stored[dtype],
                                 .share = v(set)(k == 0 ? 1 - call->beta : call->beta),
                                 .least = v(set)(dtype == XENT_F64 ? c(TINY) : 0x1p-126),
                                 .numbers = k == 0 ? space->x : space->second};
    }
    for (int64_t r = begin; r < end; ++r)
        divergence_row(&c, call, r);
}
