/* The functions that a table exports for rows. */

static run begin_run(const xent_plan *plan, const xent_rows *rows) {
    workspace *w = rows->workspace;
    w->transform = prepare_transform(plan);
    w->mix = (target_mix){v(set)((real)plan->mix_keep), v(set)((real)plan->mix_add)};
    return (run){plan, rows, w, rows->chunks ? rows->chunks : w->chunks, storage_of(plan->dtype), second_storage(plan)};
}

static void all_rows(const xent_plan *plan, const xent_rows *rows) {
    const run c = begin_run(plan, rows);
    if (xent_reads_target_alone(plan))
        picked_rows(&c);
    else if (plan->layout == XENT_WIDE)
        wide_rows(&c);
    else
        tile_rows(&c);
}

static void chunks_of_row(const xent_plan *plan, const xent_rows *rows, int64_t begin, int64_t end) {
    const run c = begin_run(plan, rows);
    const block_reader from = reader_of(&c);
    const wide_row row = wide_row_at(&c, 0);
    known_max known = {NULL, 0};
    reduce_row(&from, &row, begin, end, &known, c.chunks, &c.space->mix);
}

static void finish_row(const xent_plan *plan, const xent_rows *rows) {
    const run c = begin_run(plan, rows);
    lane_state *s = &c.space->state;
    xent_rows head = *rows;
    const xent_sums sums = merge_sums(c.chunks, XENT_CHUNKS(plan->classes), plan->temperature, plan->stream);
    head.stages = XENT_REDUCE;
    const run reduced = {plan, &head, c.space, c.chunks, c.stored, c.second_stored};
    read_all_lanes(&reduced, 0, 1);
    s->target_logit[0] = v(set)(0);
    if (rows->index)
        wide_targets(&reduced, 0, 1);
    keep_sums(&reduced, 0, &sums, 0, 0);
    head.stages = XENT_HEAD;
    all_rows(plan, &head);
}
