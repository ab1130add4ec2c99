/* apply: the row once more, now with its coefficients → what is stored.
 *
 *   gradient      scale exp(t) - push a_c, at_target at c = y, times dz/dx; softmax is the gradient with pull = 1
 *   log_softmax   t - log_sum
 *
 * A product exp(t) scale below the smallest normal number is 0: compared before the multiplication, so that no subnormal
 * is ever made. Every element depends on its own class alone, so the order here is free: whole cache lines are streamed
 * past the cache when the output outgrows it. */

typedef struct {
    vec max, scale, floor, push, at_target, log_sum;
    int64_t target; /* -1: none */
} row_apply;

static INLINE vec apply_vector(const char *x, const stream_source *a, int64_t i, int n, const row_apply *row,
                               const load_plan *p, xent_stream stream, xent_transform transform, xent_form form,
                               int at_target) {
    vec slope;
    const vec t = v(sub)(load_logits(x, i, n, p, transform, &slope), row->max);
    if (form == XENT_LOGARITHMS)
        return v(sub)(t, row->log_sum);
    const vec e = v(exp)(cooled(t, p, transform));
    vec g = v(keep)(v(nlt)(e, row->floor), v(mul)(e, row->scale));
    if (stream != XENT_NO_STREAM)
        g = v(fnma)(row->push, load_stream(a, i, n, stream), g);
    if (at_target)
        g = v(select)(v(only)(row->target - i), row->at_target, g);
    if (transform != XENT_PLAIN)
        g = v(mul)(g, slope);
    if (stream != XENT_NO_STREAM || transform != XENT_PLAIN || at_target)
        g = v(keep)(v(nlt)(v(abs)(g), v(set)(c(TINY))), g);
    return g;
}

/* Whole vectors from i up to the last that fits before end; returns where it stopped. */
static INLINE int64_t apply_span(char *out, const char *x, const stream_source *a, int64_t i, int64_t end,
                                 const char *ahead, const row_apply *row, const load_plan *p, xent_stream stream,
                                 xent_transform transform, xent_form form, int non_temporal) {
    for (; i + LANES <= end; i += LANES) {
        if (ahead)
            for (int line = 0; line < LANES * STORAGE_BYTES; line += 64)
                xent_prefetch(ahead + i * STORAGE_BYTES + line);
        const vec g = apply_vector(x, a, i, LANES, row, p, stream, transform, form, 0);
        if (non_temporal)
            stream_stored(out + i * STORAGE_BYTES, g);
        else
            store_stored(out + i * STORAGE_BYTES, g);
    }
    return i;
}

static INLINE void apply_row(char *out, const char *x, const stream_source *a, int64_t classes, const char *ahead,
                             const row_apply *row, const load_plan *p, xent_stream stream, xent_transform transform,
                             xent_form form, int non_temporal) {
    int64_t i = 0;
    /* Streaming stores are aligned; rows of an odd length begin anywhere. */
    int64_t lead = non_temporal ? (int64_t)(-(uintptr_t)out % (LANES * STORAGE_BYTES)) / STORAGE_BYTES : 0;
    lead = lead < classes ? lead : classes;
    const int64_t target = row->target < 0 ? classes : row->target;
    if (lead) {
        const vec g = apply_vector(x, a, 0, (int)lead, row, p, stream, transform, form, 1);
        store_stored_first(out, (int)lead, g);
        i = lead;
    }
    if (target >= i) {
        const int64_t before = i + (target - i) / LANES * LANES; /* start of the vector that holds the target */
        i = apply_span(out, x, a, i, before < classes ? before : classes, ahead, row, p, stream, transform, form,
                       non_temporal);
        if (i + LANES <= classes && i <= target && target < classes) {
            store_stored(out + i * STORAGE_BYTES,
                         apply_vector(x, a, i, LANES, row, p, stream, transform, form, 1));
            i += LANES;
        }
    }
    i = apply_span(out, x, a, i, classes, ahead, row, p, stream, transform, form, non_temporal);
    if (i < classes) {
        const vec g = apply_vector(x, a, i, (int)(classes - i), row, p, stream, transform, form, 1);
        store_stored_first(out + i * STORAGE_BYTES, (int)(classes - i), g);
    }
}
