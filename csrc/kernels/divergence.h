/* divergence: the Jensen-Shannon divergence of rows of logits from those of a teacher, and both gradients. Computed in f64,
 * whatever the dtypes.
 *
 * With p the softmax, q the teacher's and m = beta q + (1 - beta) p, the divergence of a row is T^2 times the sum over the
 * classes of beta q b + (1 - beta) p a, where a = log(p / m) and b = log(q / m); the gradients are T (1 - beta) p (a - sum p
 * a) and T beta q (b - sum q b). Let l be the larger of p and q, w the share of the smaller in m, d = -|log p - log q| and
 * e = expm1(d). Then the smaller is l (1 + e), m is l (1 + w e), and a class adds
 *
 *   l (w (1 + e) d - (1 + w e) log(1 + w e)) >= 0.
 *
 * No term is negative, so none cancels another, and p, q and their ratio take two exponentials and one logarithm. Rows of
 * few classes have a lane each; of others, the lanes are classes. Which it is, and so the order of summation, follows from
 * the number of classes alone: in every lane from the first class to the last, in blocks of XENT_BLOCK. */

/* Numbers of smaller types as f64, and back: rounded to f32, and from there to a half type. */
#define XENT_DEFINE(H)                                                                                                      \
    static void gather_##H(double *to, const char *from, int64_t n) {                                                       \
        for (int64_t i = 0; i < n; i += f32_lanes) {                                                                        \
            const char *at = from + i * H##_bytes;                                                                          \
            const f32_vec x = n - i >= f32_lanes ? H##_load(at) : H##_load_first(at, (int)(n - i), f32_set(0));             \
            f64_store(to + i, f32_widen_first(x));                                                                          \
            f64_store(to + i + f64_lanes, f32_widen_last(x));                                                               \
        }                                                                                                                   \
    }                                                                                                                       \
    static void scatter_##H(char *to, const double *from, int64_t n, int non_temporal) {                                    \
        (void)non_temporal;                                                                                                 \
        for (int64_t i = 0; i < n; i += f32_lanes) {                                                                        \
            const f32_vec x = f32_narrow(f64_load(from + i), f64_load(from + i + f64_lanes));                               \
            if (n - i >= f32_lanes)                                                                                         \
                H##_store(to + i * H##_bytes, x);                                                                           \
            else                                                                                                            \
                H##_store_first(to + i * H##_bytes, (int)(n - i), x);                                                       \
        }                                                                                                                   \
    }                                                                                                                       \
    static const storage H##_as_f64 = {.bytes = H##_bytes, .gather_run = gather_##H, .scatter_run = scatter_##H};
XENT_DEFINE(f32)
XENT_DEFINE(f16)
XENT_DEFINE(bf16)
#undef XENT_DEFINE

/* One of the two distributions of a call. */
typedef struct {
    xent_divergence_rows logits, grad;
    const storage *stored;
    vec *numbers; /* in the workspace: the logits of a block of classes or of a tile of rows, then their gradient */
    double share; /* in the mixture */
    vec least;    /* the smallest normal number of its gradient */
} distribution;

static distribution distribution_of(xent_dtype dtype, xent_divergence_rows logits, xent_divergence_rows grad, double share,
                                    vec *numbers) {
    const storage *stored[] = {
        [XENT_F32] = &f32_as_f64, [XENT_F64] = own_storage, [XENT_F16] = &f16_as_f64, [XENT_BF16] = &bf16_as_f64};
    return (distribution){logits, grad, stored[dtype], numbers, share, v(set)(dtype == XENT_F64 ? c(TINY) : 0x1p-126)};
}

/* In each lane what is known of its row: the maximum of the logits, the logarithm of the sum of the exponentials, the sum of
 * p a, and what p (a - sum p a) is multiplied by. */
typedef struct {
    vec max, log_sum, center, scale;
} lane_softmax;

typedef struct {
    const xent_divergence *call;
    xent_plan plan;
    workspace *space;
    xent_sums *chunks;
    distribution of[2];      /* the student's, the teacher's */
    lane_softmax softmax[2]; /* theirs, of the rows at hand */
} mixture;

static void set_log_sum(lane_softmax *s, vec max, vec sum_exp, vec max_count) {
    const vec masked = v(set)((real)NAN), one = v(set)(1);
    const mask none = v(eq)(v(add)(sum_exp, max_count), v(set)(0));
    s->max = max;
    s->log_sum = v(select)(none, masked, v(log1p)(v(add)(sum_exp, v(sub)(max_count, one))));
}

/* Of one class in each lane: the softmaxes, the logarithms of their ratios to the mixture, what the class adds. */
typedef struct {
    vec prob[2], log_ratio[2], divergence;
} class_terms;

static INLINE class_terms terms_of(const mixture *c, vec z, vec teacher) {
    const transform_plan *p = &c->space->transform;
    const lane_softmax *s = c->softmax, *t = s + 1;
    const vec zero = v(set)(0), one = v(set)(1), least = v(set)(c(EXP_LEAST));
    const vec beta = v(set)(c->of[1].share), others = v(set)(c->of[0].share);
    const vec x = exponent_of(v(sub)(z, s->max), p, XENT_TEMPERATURE);
    const vec y = exponent_of(v(sub)(teacher, t->max), p, XENT_TEMPERATURE);
    const vec apart = v(sub)(v(sub)(x, y), v(sub)(s->log_sum, t->log_sum));
    const mask ahead = v(lt)(zero, apart); /* p is the larger */
    const vec w = v(select)(ahead, beta, others), rest = v(select)(ahead, others, beta);
    const vec larger = v(exp)(v(select)(ahead, v(sub)(x, s->log_sum), v(sub)(y, t->log_sum)));
    const vec d = v(max)(least, v(sub)(zero, v(abs)(apart)));
    const v(exp_parts) part = v(exp_split)(d);
    const vec rise = v(mul)(part.slope, part.reduced), scale = v(shift_exponent)(one, part.n);
    const vec e = v(fma)(rise, scale, v(sub)(scale, one));
    const vec ratio = v(keep)(v(ne)(d, least), v(fma)(rise, scale, scale)), smaller = v(mul)(larger, ratio);
    /* log(1 + w e), near -1 from its exact parts. */
    const vec we = v(mul)(w, e);
    const mask near = v(lt)(v(set)((real)-0.5), we);
    const vec m = v(select)(near, v(add)(one, we), v(max)(v(set)(c(TINY)), v(fma)(w, ratio, rest)));
    const vec k = v(exponent)(m), power = v(shift_exponent)(one, v(sub)(v(set)(c(MAGIC)), k));
    const vec f = v(select)(near, v(fma)(we, power, v(sub)(power, one)), v(fma)(m, power, v(set)(-1)));
    const vec log_m = v(log_parts)(f, k), of_larger = v(sub)(zero, log_m), of_smaller = v(sub)(d, log_m);
    const vec term = v(fma)(m, of_larger, v(mul)(v(mul)(w, ratio), d));
    return (class_terms){
        {v(select)(ahead, larger, smaller), v(select)(ahead, smaller, larger)},
        {v(select)(ahead, of_larger, of_smaller), v(select)(ahead, of_smaller, of_larger)},
        v(mul)(larger, v(max)(zero, term)),
    };
}

typedef struct {
    vec divergence, center[2];
} term_sums;

/* n vectors of each distribution. */
static INLINE term_sums sum_terms(const mixture *c, int64_t n, int with_gradient) {
    const vec zero = v(set)(0);
    term_sums sums = {zero, {zero, zero}};
    for (int64_t i = 0; i < n; ++i) {
        const class_terms term = terms_of(c, c->of[0].numbers[i], c->of[1].numbers[i]);
        sums.divergence = v(add)(sums.divergence, term.divergence);
        for (int k = 0; with_gradient && k < 2; ++k)
            sums.center[k] = v(fma)(term.prob[k], term.log_ratio[k], sums.center[k]);
    }
    return sums;
}

static NOINLINE term_sums sum_loss(const mixture *c, int64_t n) { return sum_terms(c, n, 0); }
static NOINLINE term_sums sum_all(const mixture *c, int64_t n) { return sum_terms(c, n, 1); }

static inline int writes_gradient(const mixture *c) { return c->of[0].grad.data || c->of[1].grad.data; }

static NOINLINE void apply_terms(const mixture *c, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        const class_terms term = terms_of(c, c->of[0].numbers[i], c->of[1].numbers[i]);
        for (int k = 0; k < 2; ++k) {
            const lane_softmax *s = &c->softmax[k];
            const vec g = v(mul)(s->scale, v(mul)(term.prob[k], v(sub)(term.log_ratio[k], s->center)));
            const mask counts = v(both)(v(ne)(s->scale, v(set)(0)), v(nlt)(v(abs)(g), c->of[k].least));
            c->of[k].numbers[i] = v(keep)(counts, g);
        }
    }
}

/* The sums of the rows at hand, to the first of which `first` belongs, are found: what their gradients need. `lanes` rows.
 */
static void set_scales(mixture *c, int64_t first, int lanes) {
    real slope[LANES] = {0};
    for (int i = 0; i < LANES; ++i)
        slope[i] = c->call->slope[first + (i < lanes ? i : lanes - 1)] * c->call->temperature;
    for (int k = 0; k < 2; ++k)
        c->softmax[k].scale = v(mul)(v(set)(c->of[k].share), v(load)(slope));
}

/* Rows r..r+n-1, each in its lane. */
static void tile_divergence(mixture *c, int64_t r, int n) {
    const int64_t classes = c->call->classes;
    const xent_divergence *call = c->call;
    for (int k = 0; k < 2; ++k) {
        const distribution *of = &c->of[k];
        memset(c->space->staging, 0, (size_t)classes * sizeof(vec));
        gather_rows(of->numbers, (real *)c->space->staging, of->logits.data + r * of->logits.step, of->logits.step, n,
                    call->rows - r, classes, of->stored);
        vec max;
        tile_sums sums;
        tile_maxima(&max, of->numbers, classes, 1);
        const char *here = (const char *)of->numbers;
        const tile t = {.x = of->numbers, .second = of->numbers, .classes = classes, .x_ahead = {here, 0, 0, 0}};
        reduce_tile_kernel(XENT_NO_STREAM, XENT_TEMPERATURE)(&c->space->lanes, &sums, &max, &max, &t, 1, NULL,
                                                             &c->space->transform);
        set_log_sum(&c->softmax[k], max, sums.sum_exp, sums.max_count);
    }
    const term_sums sums = writes_gradient(c) ? sum_all(c, classes) : sum_loss(c, classes);
    real loss[LANES];
    v(store)(loss, v(mul)(v(set)(call->temperature * call->temperature), sums.divergence));
    memcpy(call->loss + r, loss, (size_t)n * sizeof *loss);
    if (!writes_gradient(c))
        return;
    for (int k = 0; k < 2; ++k)
        c->softmax[k].center = sums.center[k];
    set_scales(c, r, n);
    apply_terms(c, classes);
    for (int k = 0; k < 2; ++k) {
        const xent_divergence_rows *to = &c->of[k].grad;
        if (to->data)
            scatter_rows(to->data + r * to->step, to->step, (real *)c->space->staging, c->of[k].numbers, n, classes,
                         c->of[k].stored, 0);
    }
}

/* Classes at..at+n-1 of row r; past the last of them, ones that have no probability. The number of vectors. */
static int64_t gather_classes(const mixture *c, int64_t r, int64_t at, int64_t n) {
    for (int k = 0; k < 2; ++k) {
        const distribution *of = &c->of[k];
        of->stored->gather_run((real *)of->numbers, of->logits.data + r * of->logits.step + at * of->stored->bytes, n);
        for (int64_t i = n; i % LANES; ++i)
            ((real *)of->numbers)[i] = -(real)INFINITY;
    }
    return (n + LANES - 1) / LANES;
}

static real lane_sum(vec s) {
    vec all[GROUPS];
    for (int g = 0; g < GROUPS; ++g)
        all[g] = g == 0 ? s : v(set)(0);
    return v(sum_tree)(all);
}

/* Row r, whose classes are in the lanes. */
static void wide_divergence(mixture *c, int64_t r) {
    const xent_divergence *call = c->call;
    const int64_t classes = call->classes, chunks = XENT_CHUNKS(classes);
    for (int k = 0; k < 2; ++k) {
        const distribution *of = &c->of[k];
        const char *z = of->logits.data + r * of->logits.step;
        const wide_row row = {z, NULL, r + 1 < call->rows ? z + of->logits.step : z};
        const block_reader from = {.plan = &c->plan,
                                   .transform = &c->space->transform,
                                   .stored = of->stored,
                                   .second_stored = of->stored,
                                   .z_buffer = of->numbers,
                                   .converts = of->stored != own_storage};
        known_max known = {NULL, 0};
        reduce_row(&from, &row, 0, classes, &known, c->chunks, NULL);
        const xent_sums sums = merge_sums(c->chunks, chunks, call->temperature, XENT_NO_STREAM);
        set_log_sum(&c->softmax[k], v(set)(sums.max), v(set)(sums.sum_exp), v(set)(sums.max_count));
    }
    double_double divergence = {0, 0}, center[2] = {{0, 0}, {0, 0}};
    for (int64_t at = 0; at < classes; at += XENT_BLOCK) {
        const int64_t n = gather_classes(c, r, at, classes - at < XENT_BLOCK ? classes - at : XENT_BLOCK);
        const term_sums sums = writes_gradient(c) ? sum_all(c, n) : sum_loss(c, n);
        dd_add(&divergence, lane_sum(sums.divergence));
        for (int k = 0; k < 2; ++k)
            dd_add(&center[k], lane_sum(sums.center[k]));
    }
    call->loss[r] = call->temperature * call->temperature * dd_value(divergence);
    if (!writes_gradient(c))
        return;
    for (int k = 0; k < 2; ++k)
        c->softmax[k].center = v(set)(dd_value(center[k]));
    set_scales(c, r, 1);
    for (int64_t at = 0; at < classes; at += XENT_BLOCK) {
        const int64_t n = classes - at < XENT_BLOCK ? classes - at : XENT_BLOCK;
        apply_terms(c, gather_classes(c, r, at, n));
        for (int k = 0; k < 2; ++k) {
            const xent_divergence_rows *to = &c->of[k].grad;
            const storage *stored = c->of[k].stored;
            if (to->data)
                stored->scatter_run(to->data + r * to->step + at * stored->bytes, (real *)c->of[k].numbers, n, 0);
        }
    }
}

static void divergence_of_rows(const xent_divergence *call, int64_t begin, int64_t end, int non_temporal, void *memory) {
    (void)non_temporal;
    workspace *const space = memory;
    mixture c = {
        .call = call,
        .plan = {.classes = call->classes,
                 .stream = XENT_NO_STREAM,
                 .transform = XENT_TEMPERATURE,
                 .temperature = call->temperature,
                 .fetch_ahead = XENT_BLOCK},
        .space = space,
        .chunks = XENT_CHUNKS(call->classes) > XENT_OWN_CHUNKS ? (xent_sums *)(space + 1) : space->chunks,
        .of = {distribution_of(call->dtype, call->logits, call->grad, 1 - call->beta, space->x),
               distribution_of(call->teacher_dtype, call->teacher, call->teacher_grad, call->beta, space->second)},
    };
    space->transform = prepare_transform(&c.plan);
    if (call->classes > XENT_NARROW_DIVERGENCE)
        for (int64_t r = begin; r < end; ++r)
            wide_divergence(&c, r);
    else
        for (int64_t r = begin; r < end; r += LANES)
            tile_divergence(&c, r, lanes_left(end - r));
}
