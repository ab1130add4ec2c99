/* reduce → head → apply over wide rows: vectors along the classes, one row after the other; their sums then share the lanes
 * of a head. */

static inline wide_row wide_row_at(const run *c, int64_t r) {
    const xent_rows *rows = c->rows;
    const char *z = rows->logits + r * rows->logits_step;
    return (wide_row){z, rows->soft ? rows->soft + r * rows->soft_step : NULL,
                      r + 1 < rows->count ? z + rows->logits_step : z};
}

static block_reader reader_of(const run *c) {
    return (block_reader){
        .plan = c->plan,
        .transform = &c->space->transform,
        .stored = c->stored,
        .second_stored = c->second_stored,
        .z_buffer = c->space->x,
        .slope_buffer = c->space->slope,
        .second_buffer = c->space->second,
        .converts = c->stored != own_storage,
        .converts_second = c->second_stored != own_storage,
    };
}

/* The targets' logits; of other rows, class 0's. */
static NOINLINE void wide_targets(const run *c, int64_t r, int lanes) {
    const xent_rows *rows = c->rows;
    lane_state *s = &c->space->state;
    const lane_targets *own = &s->own[0];
    lane_values logit = lanes_of(v(set)(0));
    const char *x = rows->logits + r * rows->logits_step;
    for (int i = 0; i < lanes && c->plan->classes > 0; ++i, x += rows->logits_step)
        logit.at[i] = logit_at(c->plan, x, place_of_target(c->plan, own->target[i]), c->stored);
    s->target_logit[0] = transformed(v(load)(&logit), &s->target_slope[0], c->plan, &c->space->transform);
}

/* Asks for the partial cache line in which row r ends, unless the next row will complete it; `last`: there is none. */
static inline void fetch_row_end(const run *c, const char *out, int64_t step, int64_t r, int last) {
    const int64_t bytes = c->stored->bytes, classes = c->plan->classes;
    if (c->plan->non_temporal && out && (last || !rows_share_lines(out, step, classes, bytes)))
        fetch_partial_line(out + r * step + classes * bytes);
}

/* Rows that do not count are left out, unless their sums are asked for. */
static void wide_reduce(const run *c, const block_reader *from, int64_t r, int lanes, known_max *known) {
    const xent_rows *rows = c->rows;
    lane_state *s = &c->space->state;
    const int all = rows->lse || !(rows->stages & XENT_HEAD);
    const lane_values counts = lanes_of(v(keep)(s->own[0].counts, v(set)(1)));
    clear_lane_sums(s, 0);
    if (rows->index)
        wide_targets(c, r, lanes);
    for (int i = 0; i < lanes; ++i) {
        if (counts.at[i] == 0 && !all)
            continue;
        const wide_row row = wide_row_at(c, r + i);
        fetch_row_end(c, rows->out, rows->out_step, r + i, i + 1 == lanes);
        fetch_row_end(c, rows->hess, rows->hess_step, r + i, i + 1 == lanes);
        if (c->plan->continues) {
            *c->chunks = *sums_at(rows, r + i);
            c->chunks->argmax = NO_CLASS;
        }
        reduce_row(from, &row, 0, c->plan->classes, known, c->chunks, &c->space->mix);
        const int64_t chunks = XENT_CHUNKS(c->plan->classes);
        if (chunks != 1)
            *c->chunks = merge_sums(c->chunks, chunks, c->plan->temperature, c->plan->stream);
        put_sums(s, 0, i, c->chunks, c->plan->temperature);
        if (!(rows->stages & XENT_HEAD))
            keep_sums(c, r + i, c->chunks, 0, i);
    }
}

static INLINE lane_coefs coefs_of_lane(const lane_coefs *all, int i) {
    return (lane_coefs){from_lane(&all->log_sum, i),     from_lane(&all->p_coef, i),        from_lane(&all->floor, i),
                        from_lane(&all->a_coef, i),      from_lane(&all->target_grad, i),   from_lane(&all->center, i),
                        from_lane(&all->base, i),        from_lane(&all->teacher_share, i), from_lane(&all->share, i),
                        from_lane(&all->one_minus_p, i), from_lane(&all->hess_coef, i),     from_lane(&all->square, i),
                        from_lane(&all->target_hess, i), from_lane(&all->least, i)};
}

static void wide_apply(const run *c, const block_reader *from, int64_t r, int lanes) {
    const xent_plan *plan = c->plan;
    const xent_rows *rows = c->rows;
    const lane_state *s = &c->space->state;
    const lane_values counts = lanes_of(v(keep)(s->own[0].counts, v(set)(1)));
    const int64_t bytes = c->stored->bytes, classes = plan->classes;
    row_stream *const out = &c->space->out_stream, *const hess = rows->hess ? &c->space->hess_stream : NULL;
    begin_rows(out, rows->out + r * rows->out_step, rows->out_step, classes, bytes, plan->non_temporal, lanes > 1);
    if (hess) {
        begin_rows(hess, rows->hess + r * rows->hess_step, rows->hess_step, classes, bytes, plan->non_temporal, lanes > 1);
        hess->shares &= out->shares && ((uintptr_t)hess->at - (uintptr_t)out->at) % CACHE_LINE == 0;
    }
    for (int i = 0; i < lanes; ++i) {
        const int counting = counts.at[i] != 0;
        if (counting) {
            const wide_row row = wide_row_at(c, r + i);
            const lane_coefs coefs = coefs_of_lane(&s->coefs[0], i);
            const row_writer writer = {
                .from = from,
                .row = &row,
                .coefs = &coefs,
                .mix = &c->space->mix,
                .kernel = apply_wide_kernel(plan, hess != NULL),
                .out = out,
                .hess = hess,
                .out_buffer = c->space->staging,
                .hess_buffer = c->space->hess,
                .target = s->own[0].target[i],
                .max = from_lane(&s->max[0], i),
                .teacher_max = from_lane(&s->teacher_max[0], i),
            };
            write_row(&writer, classes);
        } else {
            memset(out->at, 0, (size_t)(classes * bytes));
            if (hess)
                memset(hess->at, 0, (size_t)(classes * bytes));
        }
        next_row(out, classes, !counting);
        if (hess)
            next_row(hess, classes, !counting);
    }
    flush_partial(out);
    if (hess)
        flush_partial(hess);
}

/* Rows share a head, as many as are still in the cache when they are applied. */
static void wide_rows(const run *c) {
    const xent_rows *rows = c->rows;
    const block_reader from = reader_of(c);
    const int64_t row_bytes = c->plan->classes * c->stored->bytes;
    const int64_t fit = !writes(c) || !row_bytes ? LANES : c->plan->rows_bytes / row_bytes;
    const int64_t most = fit < 1 ? 1 : fit < LANES ? fit : LANES;
    for (int64_t r = 0; r < rows->count; r += most) {
        const int lanes = (int)(rows->count - r < most ? rows->count - r : most);
        known_max known = {NULL, 0};
        read_all_lanes(c, r, lanes);
        if (rows->stages & XENT_REDUCE)
            wide_reduce(c, &from, r, lanes, &known);
        else
            load_sums(c, r, lanes);
        if (rows->stages == XENT_REDUCE)
            continue;
        heads(&c->space->state, c->plan, rows, r, lanes, &c->space->transform, NULL, NULL);
        if (writes(c))
            wide_apply(c, &from, r, lanes);
    }
}
