/* reduce, vectors along the classes: a row of logits (and of the second stream) → its sums (sums.h), a block at a time. */

enum { GROUPS = 64 / LANES };

/* Where the sums of one class in each lane are: of one virtual lane, then of all. */
typedef struct {
    vec *sum_exp, *sum_a, *sum_a_t, *teacher_sum_exp;
    vec *max_count, *teacher_max_count;
    vec *apart; /* sum of (z' - max') - (z - max): not finite if a class is masked */
    int first;  /* nothing is in the lane yet */
} lane_sums;

/* exp(t / T) of a row joins its sums, those equal to the maximum apart: every class is counted as one of these until it is
 * found to be less. `counts`: where exp(t) is no less than the smallest normal number. */
static INLINE vec add_exponential(vec t, vec *sum_exp, vec *max_count, int first, const transform_plan *p,
                                  xent_transform transform, int holds_max, mask *counts) {
    const vec exponent = exponent_of(t, p, transform);
    const vec e = v(exp_normal)(exponent);
    *counts = v(nlt)(exponent, v(set)(c(EXP_LEAST)));
    mask others = *counts;
    if (holds_max) {
        const mask less = v(ne)(t, v(set)(0));
        others = v(both)(others, less);
        *max_count = v(add_where)(less, *max_count, v(set)(-1));
    }
    *sum_exp = first ? v(keep)(others, e) : v(add_where)(others, *sum_exp, e);
    return e;
}

/* One class of each lane: t = z - max of its logit, or a log-probability, `a` its second stream (of a teacher: z'). The
 * exponential of a logit is kept where `kept` says, which is NULL of others. */
static INLINE void add_class(const lane_sums *s, vec t, vec a, vec teacher_max, const transform_plan *p, xent_stream stream,
                             xent_transform transform, int holds_max, vec *kept) {
    const vec zero = v(set)(0);
    mask counts;
    vec e = zero;
    if (transform != XENT_LOG_PROBS) {
        e = add_exponential(t, s->sum_exp, s->max_count, s->first, p, transform, holds_max, &counts);
        if (kept)
            *kept = v(keep)(counts, e);
    }
    /* 0 * -inf is 0 here: a masked class without weight costs nothing. */
    if (is_weighted(stream)) {
        *s->sum_a_t = v(select)(v(ne)(a, zero), v(fma)(a, t, *s->sum_a_t), *s->sum_a_t);
        *s->sum_a = v(add)(*s->sum_a, a);
    } else if (is_own(stream)) {
        if (stream == XENT_SQUARES)
            *s->sum_a = v(select)(counts, v(fma)(e, e, *s->sum_a), *s->sum_a);
        *s->sum_a_t = v(select)(counts, v(fma)(e, t, *s->sum_a_t), *s->sum_a_t);
    } else if (stream == XENT_TEACHER) {
        const vec of_teacher = v(sub)(a, teacher_max);
        e = add_exponential(of_teacher, s->teacher_sum_exp, s->teacher_max_count, s->first, p, transform, holds_max,
                            &counts);
        const vec apart = v(sub)(of_teacher, t);
        *s->sum_a_t = v(select)(counts, v(fma)(e, apart, *s->sum_a_t), *s->sum_a_t);
        *s->apart = v(add)(*s->apart, apart);
    }
}

/* A class that the student alone masks makes all infinite, however little the teacher gives it. */
static INLINE mask masked_by_student(vec z, vec teacher) {
    const vec lowest = v(set)(-c(LARGEST));
    return v(but)(v(lt)(z, lowest), v(lt)(teacher, lowest));
}

static INLINE mask not_finite(vec a) { return v(nlt)(v(abs)(a), v(set)((real)INFINITY)); }

/* The largest logits of a block, so far: in several vectors, none of which waits for another. */
typedef struct {
    vec at[2];
} largest;

static INLINE largest no_largest(void) {
    const vec lowest = v(set)(-c(LARGEST));
    return (largest){{lowest, lowest}};
}

/* Of 64 classes. */
static INLINE void raise_largest(largest *m, const char *z) {
    for (int g = 0; g < GROUPS; ++g)
        m->at[g % 2] = v(max)(v(load)(z + g * (int64_t)sizeof(vec)), m->at[g % 2]);
}

/* The maximum of n classes, those before class i being in `m`. */
static INLINE real finish_max(largest m, const char *z, int64_t i, int64_t n) {
    const vec lowest = v(set)(-c(LARGEST));
    for (; i < n; i += LANES)
        m.at[0] = v(max)(v(load_first)(z + i * (int64_t)sizeof(real), lanes_left(n - i), lowest), m.at[0]);
    return v(max_of)(v(max)(m.at[0], m.at[1])) + 0; /* -0 becomes +0 */
}

static NOINLINE real block_max(const char *z, int64_t n) {
    largest m = no_largest();
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        raise_largest(&m, z + i * (int64_t)sizeof(real));
    return finish_max(m, z, i, n);
}

/* One block of a row, in the compute type: where it lies, or in the workspace. */
typedef struct {
    const char *z;      /* logits, after cap or logarithm */
    const char *second; /* soft targets, or the teacher's logits; or NULL */
    const real *weight; /* class weights, or NULL */
    int64_t n;
    const char *z_ahead, *second_ahead;    /* what will be read from memory later on, */
    int64_t ahead_step, second_ahead_step; /* bytes of it for every LANES classes */
    const char *next; /* the block whose maximum is found meanwhile: it has at least as many whole 64 classes */
    int64_t next_n;   /* of so many classes */
    real next_max;
} wide_block;

static INLINE vec load_up_to(const char *from, int n, real fill) {
    return n == LANES ? v(load)(from) : v(load_first)(from, n, v(set)(fill));
}

/* The second stream of n classes from class k on; +0 past the end. Of a teacher, its logits. */
static INLINE vec load_second(const char *second, const real *weight, int64_t k, int n, const target_mix *mix,
                              xent_stream stream) {
    const char *at = stream == XENT_WEIGHTS ? NULL : second + k * (int64_t)sizeof(real);
    if (stream == XENT_TEACHER)
        return load_up_to(at, n, (real)-INFINITY);
    vec a = v(set)(1);
    if (weight)
        a = load_up_to((const char *)(weight + k), n, 0);
    if (stream == XENT_SOFT) {
        const vec t = mixed_target(load_up_to(at, n, 0), mix);
        a = weight ? v(mul)(t, a) : t;
    }
    return n == LANES ? a : v(keep)(v(first)(n), a);
}

typedef struct {
    vec sum_exp[GROUPS], sum_a[GROUPS], sum_a_t[GROUPS], teacher_sum_exp[GROUPS], max_count, teacher_max_count, apart;
} block_sums;

/* `count` groups from g on, of n classes each. The maximum is taken off by adding -max, which reads z from memory: of a
 * difference it would have to be the second number. */
static INLINE void add_groups(block_sums *s, int g, int count, const wide_block *b, int64_t k, int n, vec minus_max,
                              vec teacher_max, const target_mix *mix, const transform_plan *p, xent_stream stream,
                              xent_transform transform, int holds_max) {
    vec t[XENT_SIDE_BY_SIDE], second[XENT_SIDE_BY_SIDE];
    for (int j = 0; j < count; ++j, k += LANES) {
        const vec z = load_up_to(b->z + k * (int64_t)sizeof(real), n, (real)-INFINITY);
        t[j] = transform == XENT_LOG_PROBS ? z : v(add)(z, minus_max);
        second[j] = is_weighted(stream) || stream == XENT_TEACHER ? load_second(b->second, b->weight, k, n, mix, stream) : z;
    }
    for (int j = 0; j < count; ++j, ++g) {
        const lane_sums lane = {&s->sum_exp[g], &s->sum_a[g],          &s->sum_a_t[g], &s->teacher_sum_exp[g],
                                &s->max_count,  &s->teacher_max_count, &s->apart,      0};
        add_class(&lane, t[j], second[j], teacher_max, p, stream, transform, holds_max, NULL);
    }
}

/* Whole numbers: their order is free. */
static INLINE double count_all(vec count) {
    vec all[GROUPS];
    for (int g = 0; g < GROUPS; ++g)
        all[g] = g == 0 ? count : v(set)(0);
    return (double)v(sum_tree)(all);
}

static INLINE void add_block(xent_sums *sums, wide_block *block, const target_mix *mix, const transform_plan *p,
                             xent_stream stream, xent_transform transform, int holds_max) {
    const wide_block *b = block;
    const char *const next = b->next;
    const int64_t n = b->n, ahead_step = b->ahead_step, second_ahead_step = b->second_ahead_step;
    const vec minus_max = v(set)((real)-sums->max), teacher_max = v(set)((real)sums->teacher_max);
    const char *z_ahead = b->z_ahead, *second_ahead = b->second_ahead;
    largest of_next = no_largest();
    block_sums s;
    for (int g = 0; g < GROUPS; ++g) {
        s.sum_exp[g] = v(set)(0);
        if (has_mass(stream))
            s.sum_a[g] = v(set)(0);
        if (stream != XENT_NO_STREAM)
            s.sum_a_t[g] = v(set)(0);
        if (stream == XENT_TEACHER)
            s.teacher_sum_exp[g] = v(set)(0);
    }
    s.max_count = s.teacher_max_count = v(set)((real)((n + LANES - 1) / LANES));
    s.apart = v(set)(0);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int g = 0; g < GROUPS; ++g, z_ahead += ahead_step)
            xent_prefetch_early(z_ahead);
        if (has_second_row(stream))
            for (int g = 0; g < GROUPS; ++g, second_ahead += second_ahead_step)
                xent_prefetch_early(second_ahead);
        if (transform != XENT_LOG_PROBS)
            raise_largest(&of_next, next + i * (int64_t)sizeof(real));
        for (int g = 0; g < GROUPS; g += XENT_SIDE_BY_SIDE)
            add_groups(&s, g, XENT_SIDE_BY_SIDE, b, i + g * LANES, LANES, minus_max, teacher_max, mix, p, stream, transform,
                       holds_max);
    }
    for (int g = 0; g < GROUPS && i < n; ++g, i += LANES)
        add_groups(&s, g, 1, b, i, lanes_left(n - i), minus_max, teacher_max, mix, p, stream, transform, holds_max);
    if (transform != XENT_LOG_PROBS)
        block->next_max = finish_max(of_next, next, n & ~(int64_t)63, b->next_n);
    if (transform != XENT_LOG_PROBS)
        sums->sum_exp += (double)v(sum_tree)(s.sum_exp);
    if (holds_max && transform != XENT_LOG_PROBS)
        sums->max_count += count_all(s.max_count);
    if (has_mass(stream))
        sums->sum_a += (double)v(sum_tree)(s.sum_a);
    if (stream != XENT_NO_STREAM)
        sums->sum_a_t += (double)v(sum_tree)(s.sum_a_t);
    if (stream == XENT_TEACHER) {
        sums->teacher_sum_exp += (double)v(sum_tree)(s.teacher_sum_exp);
        if (holds_max)
            sums->teacher_max_count += count_all(s.teacher_max_count);
        if (v(any)(not_finite(s.apart)))
            for (i = 0; i < n; i += LANES) {
                const int lanes = lanes_left(n - i);
                const vec z = load_up_to(b->z + i * (int64_t)sizeof(real), lanes, (real)-INFINITY);
                if (v(any)(masked_by_student(z, load_second(b->second, NULL, i, lanes, mix, XENT_TEACHER))))
                    sums->sum_a_t += INFINITY;
            }
    }
}

/* A block without a class equal to the maximum so far spares the counting. */
typedef void reduce_block(xent_sums *sums, wide_block *block, const target_mix *mix, const transform_plan *p, int holds_max);

#define XENT_DEFINE(S, T)                                                                                                   \
    static void reduce_wide_##S##_##T(xent_sums *sums, wide_block *b, const target_mix *mix, const transform_plan *p,       \
                                      int holds_max) {                                                                      \
        if (holds_max)                                                                                                      \
            add_block(sums, b, mix, p, S, T, 1);                                                                            \
        else                                                                                                                \
            add_block(sums, b, mix, p, S, T, 0);                                                                            \
    }
XENT_REDUCE_KERNELS(XENT_DEFINE)
#undef XENT_DEFINE

static reduce_block *reduce_wide_kernel(xent_stream stream, xent_transform transform) {
#define XENT_ENTRY(S, T) [S][T] = reduce_wide_##S##_##T,
    static reduce_block *const kernels[XENT_STREAMS][XENT_TRANSFORMS] = {XENT_REDUCE_KERNELS(XENT_ENTRY)};
#undef XENT_ENTRY
    return kernels[stream][kernel_transform(transform)];
}

/* A wide row: where its arrays are, class 0 first. */
typedef struct {
    const char *z, *second;
    const char *next; /* where the bytes after the row's last will be read from: the start of the next row */
} wide_row;

/* The maximum of the block at an address: found while the block before it was summed. */
typedef struct {
    const char *at;
    double max;
} known_max;

/* Blocks of a wide row in the compute type: as they lie, or gathered (and transformed) in the workspace. */
typedef struct {
    const xent_plan *plan;
    const transform_plan *transform;
    const storage *stored, *second_stored;
    vec *z_buffer, *slope_buffer, *second_buffer; /* a block each */
    int converts, converts_second;                /* what is stored is not of the compute type */
} block_reader;

/* Whether blocks of logits pass through the workspace, be it unchanged. */
static inline int is_gathered(const block_reader *from) { return from->converts || from->plan->class_bias; }

static inline const char *read_second(const block_reader *from, const char *second, int64_t k, int64_t n) {
    if (!second)
        return NULL;
    const char *at = second + k * from->second_stored->bytes;
    if (!from->converts_second)
        return at;
    from->second_stored->gather_run((real *)from->second_buffer, at, n);
    return (const char *)from->second_buffer;
}

/* With the classes' bias; *max is then found. */
static inline const char *read_stored(const block_reader *from, const char *z, int64_t k, int64_t n, double *max) {
    const char *at = z + k * from->stored->bytes;
    if (from->converts) {
        from->stored->gather_run((real *)from->z_buffer, at, n);
        at = (const char *)from->z_buffer;
    }
    if (!from->plan->class_bias)
        return at;
    *max = (double)add_bias(from->z_buffer, at, bias_from(from->plan, k), n);
    return (const char *)from->z_buffer;
}

/* And transformed: n classes from class k on. *max is found if they are capped: the cap is monotonic, so the maximum is
 * taken of the stored logits and capped once. */
static inline const char *read_block(const block_reader *from, const char *z, int64_t k, int64_t n, double *max) {
    const char *at = read_stored(from, z, k, n, max);
    vec unused;
    if (!is_transformed(from->plan))
        return at;
    if (is_capped(from->plan))
        *max = (double)v(get)(
            transformed(v(set)(isnan(*max) ? block_max(at, n) : (real)*max), &unused, from->plan, from->transform));
    transform_block(from->z_buffer, NULL, at, n, from->plan, from->transform);
    return (const char *)from->z_buffer;
}

static void reduce_chunk(xent_sums *sums, const block_reader *from, const wide_row *row, int64_t begin, int64_t end,
                         known_max *known, const target_mix *mix, reduce_block *kernel) {
    const xent_plan *plan = from->plan;
    const int64_t bytes = from->stored->bytes;
    const int in_place = !is_gathered(from) && !is_transformed(plan);
    for (int64_t at = begin; at < end; at += XENT_BLOCK) {
        const int64_t n = end - at < XENT_BLOCK ? end - at : XENT_BLOCK;
        const int64_t soon = at + plan->fetch_ahead, after = soon - plan->classes;
        double m = NAN, of_teacher = -(double)c(LARGEST);
        wide_block b = {
            .z = read_block(from, row->z, at, n, &m),
            .second = read_second(from, row->second, at, n),
            .weight = plan->class_weight ? (const real *)plan->class_weight + at : NULL,
            .n = n,
            .z_ahead = after < 0 ? row->z + soon * bytes : row->next + after * bytes,
            .ahead_step = LANES * bytes,
            .second_ahead = row->second ? row->second + soon * from->second_stored->bytes : NULL,
            .second_ahead_step = LANES * from->second_stored->bytes,
        };
        if (plan->transform == XENT_LOG_PROBS) {
            kernel(sums, &b, mix, from->transform, 0);
            continue;
        }
        if (isnan(m))
            m = in_place && known->at == b.z ? known->max : (double)block_max(b.z, n);
        if (plan->stream == XENT_TEACHER)
            of_teacher = (double)block_max(b.second, n);
        if (m > sums->max) /* somewhere in this block */
            sums->argmax = at;
        raise_maximum(sums, m, of_teacher, plan->temperature, plan->stream);
        /* The block after this one, if it is no shorter: its maximum costs no time here. */
        const int64_t left = plan->classes - at - n, of_next = left ? left : plan->classes;
        const int64_t next_n = of_next < XENT_BLOCK ? of_next : XENT_BLOCK;
        const char *next = left ? row->z + (at + n) * bytes : row->next;
        const int found = in_place && n <= next_n;
        b.next = found ? next : b.z;
        b.next_n = found ? next_n : n;
        kernel(sums, &b, mix, from->transform,
               m == sums->max || (plan->stream == XENT_TEACHER && of_teacher == sums->teacher_max));
        if (found)
            *known = (known_max){next, (double)b.next_max};
    }
}

/* Classes begin..end, from one chunk's first, unless its sums go on, to another's last. Where the target alone is read,
 * there is no kernel. */
static void reduce_row(const block_reader *from, const wide_row *row, int64_t begin, int64_t end, known_max *known,
                       xent_sums *chunks, const target_mix *mix) {
    const xent_plan *plan = from->plan;
    reduce_block *const kernel = reduce_wide_kernel(plan->stream, plan->transform);
    for (int64_t at = begin; at < end; at += XENT_CHUNK) {
        xent_sums *const sums = &chunks[at / XENT_CHUNK];
        if (!plan->continues)
            clear_sums(sums, plan->transform);
        if (kernel)
            reduce_chunk(sums, from, row, at, end - at < XENT_CHUNK ? end : at + XENT_CHUNK, known, mix, kernel);
    }
}
