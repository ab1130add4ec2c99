/* elementwise: the head is the kernel. x, the target t and the parameters → loss, gradient and Hessian of one element, and
 * sums of the losses.
 *
 *   binary           -(t log p + (1 - t) log(1 - p)), each logarithm at least -100 (torch), or p clipped (Keras)
 *   binary, logits   t w softplus(-z) + (1 - t) softplus(z), w: pos_weight; gradient (1 - t) s(z) - t w s(-z)
 *   sigmoid focal    alpha_t q^gamma times it with w = 1, q = t s(-z) + (1 - t) s(z) (Lin et al., arXiv:1708.02002)
 *   asymmetric       t s(-z)^gamma softplus(-z) - (1 - t) m^gamma_neg log(1 - m), m = max(s(z) - clip, 0) (Ridnik et al.,
 *                    arXiv:2009.14119)
 *   kl               t (log t - x), or e^t (t - x) (Kullback-Leibler)
 *
 * with s(z) = 1 / (1 + e^-z), softplus(z) = log(1 + e^z) = max(z, 0) + log1p(e^-|z|). A factor of 0 makes a term 0, infinite
 * or not. A weight of 0 makes everything 0, NaN included. Derivatives below the smallest normal number are 0.
 *
 * Lane i sums elements i, i + LANES, ... of a block, in f64. A float loses at most 2^-53 of its lane's sum, so that 256 of
 * them stay far below an ulp; for doubles the errors are summed beside (Knuth's two-sum). Either way the sum is that of
 * XENT_MOST_LANES doubles. */

typedef struct {
    vec loss, grad, hess;
} element;

static INLINE vec load_reals(const char *from, int64_t i, int n) {
    return load_up_to(from + i * (int64_t)sizeof(real), n, 0);
}

static INLINE vec times(vec factor, vec a) { return v(keep)(v(ne)(factor, v(set)(0)), v(mul)(factor, a)); }

static INLINE int is_soft(vec t, mask is_one) { return v(any)(v(but)(v(ne)(t, v(set)(0)), is_one)); }

/* log p from its parts; NaN stays. */
static INLINE vec log_of(vec f, vec k, vec p, vec least) {
    const vec log = v(select)(v(eq)(p, v(set)(0)), v(set)((real)-INFINITY), v(log_parts)(f, k));
    return v(max)(least, log);
}

/* One logarithm for two: of 1 - x where `complement` is true, as split_log1p takes it, else of `direct`, as split_log. */
static INLINE v(log_split) split_either(mask complement, vec x, vec one_minus_x, vec direct) {
    const vec zero = v(set)(0), one = v(set)(1), either = v(select)(complement, one_minus_x, direct);
    const vec k = v(exponent)(either), scale = v(power)(v(sub)(v(set)(c(MAGIC)), k));
    v(log_split)
        split = {v(fma)(v(select)(complement, v(sub)(zero, x), direct), scale, v(sub)(v(keep)(complement, scale), one)), k};
    if (v(any)(v(lt)(either, v(set)(c(TINY))))) {
        const v(log_split) lifted = v(split_log)(direct);
        split.f = v(select)(complement, split.f, lifted.f);
        split.k = v(select)(complement, split.k, lifted.k);
    }
    return split;
}

static INLINE element binary(vec given, vec t, const xent_element_plan *plan, int clips, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1), tf = v(sub)(one, t), low = v(set)((real)plan->eps);
    const clipped_lanes at = clipped(given, low);
    /* Of what is clipped at 1, this is 1 - p, and t and 1 - t change places. */
    const vec p = clips ? v(select)(at.high, low, v(select)(at.low, low, given)) : given;
    const vec of_p = clips ? v(select)(at.high, tf, t) : t, of_others = clips ? v(select)(at.high, t, tf) : tf;
    element r = {zero, zero, zero};
    if (derivatives) {
        vec bend = v(mul)(given, v(sub)(one, given));
        if (!clips)
            bend = v(max)(v(set)((real)1e-12), bend);
        r.grad = v(div)(v(sub)(given, t), bend);
        if (clips) {
            /* Where t = p is 0 or 1, one of the two terms is there alone. */
            r.grad = v(select)(v(both)(v(eq)(bend, zero), v(eq)(given, t)), v(sub)(tf, t), r.grad);
            r.grad = v(select)(at.low, zero, v(select)(at.high, zero, r.grad));
        }
    }
    const vec least = v(set)(clips ? (real)-INFINITY : -100), q = v(sub)(one, p);
    const mask is_one = v(eq)(of_p, one);
    if (is_soft(of_p, is_one)) {
        const v(log_split) split = v(split_log)(p), others = v(split_log1p)(v(sub)(zero, p));
        const vec log_p = log_of(split.f, split.k, p, least), log_others = log_of(others.f, others.k, q, least);
        r.loss = v(sub)(zero, v(add)(times(of_p, log_p), times(of_others, log_others)));
    } else {
        const mask is_zero = v(ne)(of_p, one);
        const v(log_split) split = split_either(is_zero, p, q, p);
        r.loss = v(sub)(zero, log_of(split.f, split.k, v(select)(is_zero, q, p), least));
    }
    return r;
}

typedef struct {
    vec up, down;             /* s(z), s(-z) */
    vec softplus, softplus_m; /* of z and of -z */
} logistic;

static INLINE logistic logistic_of(vec z) {
    const vec zero = v(set)(0), minus = v(sub)(zero, z), e = v(exp)(v(sub)(zero, v(abs)(z)));
    const vec rest = v(log1p_unit)(e), large = v(div)(v(set)(1), v(add)(v(set)(1), e)), small = v(mul)(e, large);
    const mask positive = v(lt)(zero, z);
    return (logistic){
        v(select)(positive, large, small),
        v(select)(positive, small, large),
        v(add)(v(max)(z, zero), rest),
        v(add)(v(max)(minus, zero), rest),
    };
}

/* With e = e^-|z|: (t w + 1 - t) log1p(e), and |z| times t w or 1 - t, whichever term grows with |z|: nothing cancels. */
static INLINE element binary_logits(vec z, vec t, vec tp, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1), tf = v(sub)(one, t), both = v(add)(tf, tp), size = v(abs)(z);
    const mask positive = v(lt)(zero, z);
    const vec grows = v(select)(positive, tf, tp), e = v(exp)(v(sub)(zero, size));
    element r = {v(fma)(both, v(log1p_unit)(e), times(grows, size)), zero, zero};
    if (!derivatives)
        return r;
    const vec large = v(div)(one, v(add)(one, e));
    const vec pull = v(mul)(large, v(fnma)(v(select)(positive, tp, tf), e, grows));
    r.grad = v(select)(positive, pull, v(sub)(zero, pull));
    if (derivatives > 1)
        r.hess = v(mul)(both, v(mul)(v(mul)(e, large), large));
    return r;
}

/* The same of targets 0 and 1: softplus(z), or softplus(-z). */
static INLINE element hard_logits(vec z, mask is_one, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1);
    const vec wrong = v(select)(is_one, v(sub)(zero, z), z), e = v(exp)(v(sub)(zero, v(abs)(z)));
    element r = {v(add)(v(log1p_unit)(e), v(max)(wrong, zero)), zero, zero};
    if (!derivatives)
        return r;
    const vec large = v(div)(one, v(add)(one, e)), small = v(mul)(e, large);
    const vec pull = v(select)(v(lt)(zero, wrong), large, small);
    r.grad = v(select)(is_one, v(sub)(zero, pull), pull);
    if (derivatives > 1)
        r.hess = v(mul)(small, large);
    return r;
}

/* An infinite pos_weight leaves nothing but its own term, where there is any. */
static INLINE element binary_unbounded(vec z, vec t, vec tp, int derivatives) {
    const vec infinity = v(set)((real)INFINITY);
    const mask unbounded = v(both)(v(eq)(v(abs)(tp), infinity), v(lt)(z, infinity));
    element r = binary_logits(z, t, tp, derivatives);
    r.loss = v(select)(unbounded, tp, r.loss);
    r.grad = v(select)(unbounded, v(sub)(v(set)(0), tp), r.grad);
    r.hess = v(select)(v(both)(unbounded, v(lt)(v(abs)(z), infinity)), tp, r.hess);
    return r;
}

/* exp(t) of any sign: beyond 0 as the square of exp(t / 2), bounded where the square has long been infinite. */
static INLINE vec exp_of(vec t) {
    const vec zero = v(set)(0), half = v(set)((real)0.5);
    const mask positive = v(lt)(zero, t);
    const vec e = v(exp)(v(keep)(v(nlt)(zero, t), t));
    if (!v(any)(positive))
        return e;
    const vec root = v(exp)(v(sub)(zero, v(max)(v(set)(c(EXP_LOWEST)), v(mul)(v(sub)(zero, half), v(keep)(positive, t)))));
    return v(select)(positive, v(mul)(root, root), e);
}

/* With c the cross-entropy, v = s(z) s(-z), r = q' / q:
 *   F'  = q^gamma (c' + gamma r c)
 *   F'' = q^gamma (2 gamma r c' + v + gamma (gamma - 1) r^2 c + gamma r (s(-z) - s(z)) c) */
static INLINE element sigmoid_focal(vec z, vec t, const xent_element_plan *plan, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1), gamma = v(set)((real)plan->gamma), tf = v(sub)(one, t);
    const logistic s = logistic_of(z);
    const mask is_one = v(eq)(t, one), is_zero = v(eq)(t, zero);
    const vec ce = v(add)(times(t, s.softplus_m), times(tf, s.softplus));
    const int soft = is_soft(t, is_one); /* else a logarithm is spared */
    const vec q = soft ? v(fma)(t, s.down, v(mul)(tf, s.up)) : v(select)(is_one, s.down, s.up);
    vec power = v(mul)(q, q);
    if (plan->gamma == 2)
        power = v(keep)(v(nlt)(power, v(set)(c(TINY))), power);
    else {
        vec log_q = v(sub)(zero, v(select)(is_one, s.softplus, s.softplus_m));
        if (soft)
            log_q = v(select)(is_one, log_q, v(select)(is_zero, log_q, v(log)(q)));
        power = exp_of(times(gamma, log_q)); /* of targets beyond [0, 1], q may be more than 1 */
    }
    if (plan->alpha >= 0)
        power = v(mul)(power, v(fma)(v(set)((real)plan->alpha), t, v(mul)(v(set)((real)(1 - plan->alpha)), tf)));
    element r = {times(power, ce), zero, zero};
    if (!derivatives)
        return r;
    vec pull = v(select)(is_one, v(sub)(zero, s.up), s.down);
    const vec bend = v(mul)(s.up, s.down);
    if (soft) {
        const vec mixed = v(div)(v(mul)(v(sub)(tf, t), bend), q);
        pull = v(select)(is_one, pull, v(select)(is_zero, pull, mixed));
    }
    const vec slope = v(fnma)(t, s.down, v(mul)(tf, s.up)), share = times(pull, ce);
    r.grad = v(mul)(power, v(fma)(gamma, share, slope));
    if (derivatives > 1) {
        const vec inner = v(fma)(v(sub)(gamma, one), pull, v(sub)(s.down, s.up));
        const vec turn = v(fma)(v(add)(pull, pull), slope, v(mul)(share, inner));
        r.hess = v(mul)(power, v(fma)(gamma, turn, bend));
    }
    return r;
}

/* Powers for which multiplying is faster than a logarithm and an exponential, and rounds less. */
static INLINE int is_product(real gamma) { return gamma == 0 || gamma == 1 || gamma == 2 || gamma == 4; }

/* x^gamma of 0 <= x <= 1, of whose logarithm others are made. 0^0 is 1. */
static INLINE vec power_of(vec x, vec log_x, real gamma) {
    if (gamma == 0)
        return v(set)(1);
    if (!is_product(gamma))
        return v(exp)(v(mul)(v(set)(gamma), log_x));
    vec power = gamma == 1 ? x : v(mul)(x, x);
    if (gamma == 4)
        power = v(mul)(power, power);
    return v(keep)(v(nlt)(power, v(set)(c(TINY))), power);
}

/* With p = s(z), q = s(-z), m = p - clip, r = 1 - m = q + clip, a and b the two terms of the loss:
 *   a' = -q^gamma (q + gamma p softplus(-z))
 *   b' = m^gamma_neg p q (m - gamma_neg r log r) / (m r), or, as r is q without a clip, m^gamma_neg (p - gamma_neg q log q)
 * The logarithm of r is that of 1 - m where m is small, and else of q + clip: neither loses digits. */
static INLINE element asymmetric(vec z, vec t, const xent_element_plan *plan, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1), tf = v(sub)(one, t), half = v(set)((real)0.5);
    const real gamma = (real)plan->gamma, gamma_neg = (real)plan->gamma_neg, clip = (real)plan->clip;
    const logistic s = logistic_of(z);
    const vec positive = power_of(s.down, v(sub)(zero, s.softplus), gamma);
    vec m = s.up, r = s.down, cost = s.softplus, log_m = v(sub)(zero, s.softplus_m);
    if (clip > 0) {
        m = v(sub)(s.up, v(set)(clip));
        m = v(select)(v(lt)(m, zero), zero, m); /* NaN stays */
        r = v(add)(s.down, v(set)(clip));
        const mask small = v(lt)(m, half);
        const v(log_split) split = split_either(small, m, v(sub)(one, m), r);
        cost = v(sub)(zero, v(log_parts)(split.f, split.k));
        log_m = is_product(gamma_neg) ? zero : v(log)(m);
    }
    const vec negative = power_of(m, log_m, gamma_neg);
    element result = {v(add)(times(t, times(positive, s.softplus_m)), times(tf, times(negative, cost))), zero, zero};
    if (!derivatives)
        return result;
    const vec rise = v(mul)(positive, v(fma)(v(set)(gamma), times(s.up, s.softplus_m), s.down));
    vec slope = v(fma)(v(set)(gamma_neg), times(r, cost), m);
    if (clip > 0) { /* neither quotient is large, whatever the clip */
        slope = v(mul)(s.up, v(mul)(v(div)(s.down, r), v(div)(slope, m)));
        slope = v(select)(v(eq)(m, zero), zero, slope);
    }
    result.grad = v(sub)(times(tf, times(negative, slope)), times(t, rise));
    return result;
}

static INLINE element kl(vec x, vec t, const xent_element_plan *plan) {
    const vec zero = v(set)(0), mass = plan->log_target ? exp_of(t) : t, log_mass = plan->log_target ? t : v(log)(t);
    const vec nothing = v(keep)(v(ne)(x, x), x); /* 0, but NaN stays */
    const element r = {v(select)(v(eq)(mass, zero), nothing, v(mul)(mass, v(sub)(log_mass, x))), v(sub)(zero, mass), zero};
    return r;
}

typedef struct {
    vec x, t, tp; /* tp: t times pos_weight */
} element_inputs;

static INLINE void read_elements(element_inputs *in, const xent_element_plan *plan, const xent_elements *e, int64_t i,
                                 int count, int n, xent_element what) {
    if (what == XENT_ONE)
        return;
#pragma GCC unroll 4
    for (int j = 0; j < count; ++j) {
        in[j].x = load_reals(e->x, i + j * LANES, n);
        if (what == XENT_OUTSIDE && !e->target) {
            in[j].t = v(set)(0);
            continue;
        }
        in[j].t = load_reals(e->target, i + j * LANES, n);
        if (what <= XENT_BINARY_UNBOUNDED && plan->mix_add != 0)
            in[j].t = v(fma)(in[j].t, v(set)((real)plan->mix_keep), v(set)((real)plan->mix_add));
        in[j].tp = in[j].t;
    }
    if ((what == XENT_BINARY_LOGITS || what == XENT_BINARY_UNBOUNDED) && e->pos_weight)
#pragma GCC unroll 4
        for (int j = 0; j < count; ++j)
            in[j].tp = times(in[j].t, load_reals(e->pos_weight, i + j * LANES, n));
}

/* 1 where p is not in [0, most]; NaN is. */
static INLINE vec outside(vec p, vec most) {
    const vec one = v(set)(1);
    return v(select)(v(lt)(p, v(set)(0)), one, v(keep)(v(lt)(most, p), one));
}

static INLINE element element_of(const xent_element_plan *plan, element_inputs in, xent_element what, int derivatives) {
    const vec zero = v(set)(0), one = v(set)(1);
    switch (what) {
    case XENT_BINARY:
    case XENT_BINARY_CLIPPED:
        return binary(in.x, in.t, plan, what == XENT_BINARY_CLIPPED, derivatives);
    case XENT_BINARY_LOGITS:
        return binary_logits(in.x, in.t, in.tp, derivatives);
    case XENT_BINARY_UNBOUNDED:
        return binary_unbounded(in.x, in.t, in.tp, derivatives);
    case XENT_SIGMOID_FOCAL:
        return sigmoid_focal(in.x, in.t, plan, derivatives);
    case XENT_ASYMMETRIC:
        return asymmetric(in.x, in.t, plan, derivatives);
    case XENT_KL:
        return kl(in.x, in.t, plan);
    case XENT_OUTSIDE:
        return (element){v(add)(outside(in.x, v(set)((real)plan->most)), outside(in.t, one)), zero, zero};
    default:
        return (element){one, zero, zero};
    }
}

static inline void f32_add_to(f64_vec s[2], f32_vec x) {
    s[0] = f64_add(s[0], f32_widen_first(x));
    s[1] = f64_add(s[1], f32_widen_last(x));
}

static inline void f64_add_to(f64_vec s[2], f64_vec x) {
    const f64_vec t = f64_add(s[0], x), part = f64_sub(t, s[0]);
    const f64_vec error = f64_add(f64_sub(s[0], f64_sub(t, part)), f64_sub(x, part));
    s[1] = f64_add(s[1], f64_keep(f64_eq(error, error), error)); /* NaN once a sum is infinite */
    s[0] = t;
}

enum { PREFETCH_ELEMENTS = 1024, MOST_OUTPUTS = 3 };

/* `count` vectors of n elements each, from element i on. All are computed before the first is stored, which may be where
 * the next was read. */
static INLINE void element_vectors(const xent_element_plan *plan, const xent_elements *e, int64_t i, int count, int n,
                                   f64_vec sums[2], xent_element what, int derivatives) {
    const vec zero = v(set)(0), tiny = v(set)(c(TINY)), scale = v(set)((real)plan->scale);
    const vec weight_scale = v(set)((real)plan->weight_scale), unscale = v(set)((real)(1 / plan->weight_scale));
    element_inputs in[XENT_SIDE_BY_SIDE];
    element r[XENT_SIDE_BY_SIDE];
    read_elements(in, plan, e, i, count, n, what);
    int soft = what != XENT_BINARY_LOGITS || e->pos_weight;
#pragma GCC unroll 4
    for (int j = 0; j < count && what == XENT_BINARY_LOGITS; ++j)
        soft |= is_soft(in[j].t, v(eq)(in[j].t, v(set)(1)));
    if (soft)
#pragma GCC unroll 4
        for (int j = 0; j < count; ++j)
            r[j] = element_of(plan, in[j], what, derivatives);
    else
#pragma GCC unroll 4
        for (int j = 0; j < count; ++j)
            r[j] = hard_logits(in[j].x, v(eq)(in[j].t, v(set)(1)), derivatives);
#pragma GCC unroll 4
    for (int j = 0; j < count; ++j, i += LANES) {
        vec factor = scale, loss = r[j].loss;
        mask counts = v(first)(n);
        if (e->upstream)
            factor = v(mul)(factor, load_reals(e->upstream, i, n));
        if (e->weight) {
            const vec w = v(mul)(load_reals(e->weight, i, n), weight_scale);
            counts = v(both)(counts, v(ne)(w, zero));
            if (what != XENT_OUTSIDE)
                loss = v(mul)(w, loss);
            factor = v(mul)(factor, w);
        }
        if (e->weight || n < LANES)
            loss = v(keep)(counts, loss);
        v(add_to)(sums, loss);
        if (e->loss)
            store_range(e->loss + i * (int64_t)sizeof(real), n, v(mul)(loss, unscale), 0);
        for (int d = 0; d < derivatives; ++d) {
            const vec a = v(mul)(d ? r[j].hess : r[j].grad, factor);
            const vec kept = v(keep)(v(both)(counts, v(nlt)(v(abs)(a), tiny)), a);
            store_range((d ? e->hess : e->out) + i * (int64_t)sizeof(real), n, kept, 0);
        }
    }
}

/* Of other losses one vector takes all registers of AVX2. */
static INLINE int elements_abreast(xent_element what) {
    const int few = what == XENT_BINARY_LOGITS || what == XENT_BINARY_UNBOUNDED || what >= XENT_ONE;
    return XENT_SIDE_BY_SIDE == 2 && !few ? 1 : XENT_SIDE_BY_SIDE;
}

static INLINE void all_vectors(const xent_element_plan *plan, const xent_elements *e, stream_buffer *flows,
                               xent_element what, int derivatives) {
    const int count = elements_abreast(what), abreast = count * LANES;
    f64_vec sums[2] = {f64_set(0), f64_set(0)};
    if (e->sums)
        for (int k = 0; k < 2; ++k)
            sums[k] = f64_load(e->sums + k * f64_lanes);
    int64_t i = 0;
    for (; i + abreast <= e->count; i += abreast) {
        /* A few vectors behind: what has just been written in vectors cannot be read in lines. */
        for (int k = 0; flows && k < derivatives + 1; ++k)
            if (flows[k].to)
                stream_filled(&flows[k], (i - abreast) * (int64_t)sizeof(real));
        if (what != XENT_ONE)
            for (int64_t byte = 0; byte < abreast * (int64_t)sizeof(real); byte += CACHE_LINE)
                xent_prefetch(e->x + (i + PREFETCH_ELEMENTS) * (int64_t)sizeof(real) + byte);
        if (what < XENT_ONE || (what == XENT_OUTSIDE && e->target))
            for (int64_t byte = 0; byte < abreast * (int64_t)sizeof(real); byte += CACHE_LINE)
                xent_prefetch(e->target + (i + PREFETCH_ELEMENTS) * (int64_t)sizeof(real) + byte);
        element_vectors(plan, e, i, count, LANES, sums, what, derivatives);
    }
    for (; i < e->count; i += LANES)
        element_vectors(plan, e, i, 1, lanes_left(e->count - i), sums, what, derivatives);
    if (e->sums)
        for (int k = 0; k < 2; ++k)
            f64_store(e->sums + k * f64_lanes, sums[k]);
}

/* Elements in the compute type; `flows`: outputs that leave their buffers for memory, or none. */
static INLINE void elements(const xent_element_plan *the_plan, const xent_elements *the_elements, stream_buffer *flows,
                            xent_element what, int derivatives) {
    /* Copies, which no store can change. */
    const xent_element_plan own_plan = *the_plan;
    const xent_elements own_elements = *the_elements, *const e = &own_elements;
    if (derivatives == 0 && what <= XENT_BINARY_UNBOUNDED && own_plan.mix_add == 0 && !e->weight && !e->pos_weight &&
        !e->upstream && !e->loss) { /* most calls want a sum and nothing else, whose loop has no tests */
        const xent_element_plan plain = {.eps = own_plan.eps, .scale = 1, .weight_scale = 1};
        const xent_elements alone = {.count = e->count, .x = e->x, .target = e->target, .sums = e->sums};
        all_vectors(&plain, &alone, NULL, what, 0);
    } else {
        all_vectors(&own_plan, e, flows, what, derivatives);
    }
}

#define XENT_DEFINE(E, D)                                                                                                   \
    static void elements_##E##_##D(const xent_element_plan *plan, const xent_elements *e, stream_buffer *flows) {           \
        elements(plan, e, flows, E, D);                                                                                     \
    }
XENT_ELEMENT_KERNELS(XENT_DEFINE)
#undef XENT_DEFINE

typedef void elements_kernel(const xent_element_plan *plan, const xent_elements *e, stream_buffer *flows);

static const char *moved(const char *from, int64_t i, int64_t bytes) { return from ? from + i * bytes : NULL; }

/* Elements i..i+n-1 by way of the workspace: half types are converted, what is streamed is gathered into cache lines. */
static void buffered_piece(const xent_element_plan *plan, const xent_elements *all, int64_t i, int64_t n,
                           elements_kernel *kernel) {
    const storage *stored = storage_of(plan->dtype);
    const int converts = stored != own_storage;
    const int64_t bytes = (int64_t)sizeof(real);
    workspace *w = all->workspace;
    xent_elements e = *all;
    e.count = n;
    e.x = moved(all->x, i, stored->bytes);
    e.target = moved(all->target, i, bytes);
    e.weight = moved(all->weight, i, bytes);
    e.pos_weight = moved(all->pos_weight, i, bytes);
    e.upstream = moved(all->upstream, i, bytes);
    if (converts && e.x) {
        stored->gather_run((real *)w->x, e.x, n);
        e.x = (const char *)w->x;
    }
    char *to[MOST_OUTPUTS] = {(char *)moved(all->loss, i, bytes), (char *)moved(all->out, i, stored->bytes),
                              (char *)moved(all->hess, i, stored->bytes)};
    char **const into[MOST_OUTPUTS] = {&e.loss, &e.out, &e.hess};
    stream_buffer flows[MOST_OUTPUTS] = {{NULL, NULL, 0, 0}};
    for (int k = 0; k < MOST_OUTPUTS; ++k) {
        const int is_half = converts && k > 0;
        *into[k] = to[k];
        if (!to[k] || (!is_half && !all->non_temporal))
            continue;
        *into[k] = (char *)w->buffers[k];
        if (!is_half)
            flows[k] = begin_stream(to[k], *into[k], n * bytes);
    }
    kernel(plan, &e, all->non_temporal ? flows : NULL);
    for (int k = 0; k < MOST_OUTPUTS; ++k)
        if (flows[k].to)
            finish_stream(&flows[k], n * bytes);
        else if (to[k] && converts && k > 0)
            stored->scatter_run(to[k], (const real *)w->buffers[k], n, all->non_temporal);
}

static void all_elements(const xent_element_plan *plan, const xent_elements *e) {
#define XENT_ENTRY(E, D) [E][D] = elements_##E##_##D,
    static elements_kernel *const kernels[XENT_ELEMENTS][3] = {XENT_ELEMENT_KERNELS(XENT_ENTRY)};
#undef XENT_ENTRY
    elements_kernel *const kernel = kernels[plan->element][plan->derivatives];
    if (storage_of(plan->dtype) == own_storage && !e->non_temporal) {
        kernel(plan, e, NULL);
        return;
    }
    for (int64_t i = 0; i < e->count; i += XENT_PIECE)
        buffered_piece(plan, e, i, e->count - i < XENT_PIECE ? e->count - i : XENT_PIECE, kernel);
}
