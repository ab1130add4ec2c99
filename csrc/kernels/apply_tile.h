/* apply, lanes that are rows: the outputs take the place of the logits in the tile. */

/* The tiles at hand, and what is written beside. */
typedef struct {
    vec *x, *hess; /* hess may be NULL */
    const vec *second;
    const vec *probabilities; /* as they are stored, of XENT_LOG_PROBS */
    const real *weight;
    int64_t classes;
} output_tile;

typedef void apply_tiles(const output_tile *first, int64_t tiles, const lane_state *s, const target_mix *mix,
                         const transform_plan *p);

static INLINE void apply_tile(const output_tile *t, const lane_state *s, int64_t i, const target_mix *mix,
                              const transform_plan *p, xent_stream stream, xent_transform transform, xent_form form,
                              int hessian) {
    const lane_coefs row = copied_coefs(&s->coefs[i]);
    const lane_targets *own = &s->own[i];
    const vec max = copied(&s->max[i]), teacher_max = copied(&s->teacher_max[i]);
    const tile from = {.second = t->second, .weight = t->weight};
    for (int64_t k = 0; k < t->classes; ++k) {
        vec a = v(set)(0);
        if (is_weighted(stream) || stream == XENT_TEACHER)
            a = tile_second(&from, mix, k, stream);
        if (stream == XENT_TEACHER)
            a = form == XENT_OF_TEACHER ? v(sub)(a, teacher_max)
                                        : teacher_probability(a, teacher_max, row.teacher_share, p, transform);
        const vec z = transform == XENT_LOG_PROBS ? t->probabilities[k]
                      : transform == XENT_KEPT    ? t->x[k]
                                                  : v(sub)(t->x[k], max);
        applied out = apply_to(z, a, v(first)(0), &row, p, stream, transform, form, 0, hessian);
        if (!own->all_count) {
            out.first = v(keep)(own->counts, out.first);
            out.hess = v(keep)(own->counts, out.hess);
        }
        t->x[k] = out.first;
        if (hessian)
            t->hess[k] = out.hess;
    }
}

#define XENT_DEFINE(S, T, FORM, HESSIAN)                                                                                    \
    static void apply_tile_##S##_##T##_##FORM##_##HESSIAN(const output_tile *first, int64_t tiles, const lane_state *s,     \
                                                          const target_mix *mix, const transform_plan *p) {                 \
        output_tile t = *first;                                                                                             \
        for (int64_t i = 0; i < tiles; ++i) {                                                                               \
            apply_tile(&t, s, i, mix, p, S, T, FORM, HESSIAN);                                                              \
            t.x += t.classes;                                                                                               \
            t.second += t.classes;                                                                                          \
            t.probabilities += t.classes;                                                                                   \
            if (HESSIAN)                                                                                                    \
                t.hess += t.classes;                                                                                        \
        }                                                                                                                   \
    }
XENT_APPLY_KERNELS(XENT_DEFINE)
#define XENT_KEEPING(S) XENT_DEFINE(S, XENT_KEPT, XENT_EXPONENTIALS, 0)
XENT_KEEPING_STREAMS(XENT_KEEPING)
#undef XENT_KEEPING
#undef XENT_DEFINE

static apply_tiles *apply_tile_kernel(const xent_plan *plan, xent_transform transform, int hessian) {
#define XENT_ENTRY(S, T, FORM, HESSIAN) [S][T][OUTPUT_OF(FORM, HESSIAN)] = apply_tile_##S##_##T##_##FORM##_##HESSIAN,
#define XENT_KEEPING(S) XENT_ENTRY(S, XENT_KEPT, XENT_EXPONENTIALS, 0)
    static apply_tiles *const kernels[XENT_STREAMS][XENT_TRANSFORMS][OUTPUTS] = {XENT_APPLY_KERNELS(XENT_ENTRY)
                                                                                     XENT_KEEPING_STREAMS(XENT_KEEPING)};
#undef XENT_KEEPING
#undef XENT_ENTRY
    return kernels[plan->stream][kernel_transform(transform)][OUTPUT_OF(plan->form, hessian)];
}

/* To look through so few classes for a target is less work than to look one up for each lane. */
enum { LOOKED_THROUGH = 16 };

/* The logits of the targets, in a tile of classes begin..begin+classes-1; in lanes whose target is not among them, `found`.
 */
static INLINE vec tile_at_targets(const vec *x, int64_t begin, int64_t classes, const lane_targets *own, vec found) {
    if (classes <= LOOKED_THROUGH) {
        const vec index = v(load)(&own->index), one = v(set)(1);
        vec class = v(set)((real)begin);
        for (int64_t k = 0; k < classes; ++k, class = v(add)(class, one))
            found = v(select)(v(eq)(index, class), x[k], found);
        return found;
    }
    lane_values logit = lanes_of(found);
    for (int i = 0; i < LANES; ++i)
        if ((uint64_t)(own->target[i] - begin) < (uint64_t)classes)
            logit.at[i] = ((const real *)x)[(own->target[i] - begin) * LANES + i];
    return v(load)(&logit);
}

/* The targets' own values go over what apply has written there: less work than to look for the target in each class. */
static INLINE void put_at_targets(vec *to, int64_t begin, int64_t classes, const lane_targets *own, vec value, vec least) {
    value = v(keep)(own->counts, v(keep)(v(nlt)(v(abs)(value), least), value));
    if (classes <= LOOKED_THROUGH) {
        const vec index = v(load)(&own->index), one = v(set)(1);
        vec class = v(set)((real)begin);
        for (int64_t k = 0; k < classes; ++k, class = v(add)(class, one))
            to[k] = v(select)(v(eq)(index, class), value, to[k]);
        return;
    }
    const lane_values values = lanes_of(value);
    for (int i = 0; i < LANES; ++i)
        if ((uint64_t)(own->target[i] - begin) < (uint64_t)classes)
            ((real *)to)[(own->target[i] - begin) * LANES + i] = values.at[i];
}
