/* Between one stored dtype H and the compute type: included once for each H. */
#define h(name) XENT_JOIN(H, name)

/* n numbers next to each other; what is left of the last vector is 0. */
static void h(gather_run)(real *to, const char *from, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int left = lanes_left(n - i);
        const char *at = from + i * h(bytes);
        v(store)(to + i, left == LANES ? h(load)(at) : h(load_first)(at, left, v(set)(0)));
    }
}

/* Numbers of a lane and those after it. */
static INLINE void h(load_part)(vec *to, int64_t lane, const char *from, int64_t n) {
    vec numbers;
    if (h(bytes) != sizeof(real)) {
        numbers = h(load_first)(from, (int)n, v(set)(0));
        from = (const char *)&numbers;
    }
    copy_part((char *)((real *)to + lane), from, n * (int64_t)sizeof(real));
}

static INLINE void h(store_part)(char *to, const vec *from, int64_t lane, int64_t n) {
    const char *at = (const char *)((const real *)from + lane);
    char numbers[sizeof(vec)];
    if (h(bytes) != sizeof(real)) {
        h(store)(numbers, v(load)(from));
        at = numbers + lane * h(bytes);
    }
    copy_part(to, at, n * h(bytes));
}

/* Columns side by side, from a lane on: tile w of class k is to[w * classes + k]. */
static void h(gather_columns)(vec *to, int64_t lane, const char *from, int64_t class_step, int64_t columns,
                              int64_t classes) {
    const lane_parts part = parts_of(lane % LANES, columns);
    vec *const first = to + lane / LANES * classes;
    to = part.head ? first + classes : first;
    for (int64_t k = 0; part.head && k < classes; ++k)
        h(load_part)(&first[k], lane % LANES, from + k * class_step, part.head);
    from += part.head * h(bytes);
    for (int64_t k = 0; k < classes && part.head < columns; ++k, from += class_step) {
        if (part.whole == SIDE)
            for (int64_t w = 0; w < SIDE; ++w)
                v(store)(&to[w * classes + k], h(load)(from + w * LANES * h(bytes)));
        else
            for (int64_t w = 0; w < part.whole; ++w)
                v(store)(&to[w * classes + k], h(load)(from + w * LANES * h(bytes)));
        if (part.left)
            to[part.whole * classes + k] = h(load_first)(from + part.whole * LANES * h(bytes), (int)part.left, v(set)(0));
    }
}

static INLINE void h(store_numbers)(char *to, const real *from, int64_t i, int64_t end) {
    for (; i + LANES <= end; i += LANES)
        h(store)(to + i * h(bytes), v(load)(from + i));
    if (i < end)
        h(store_first)(to + i * h(bytes), lanes_left(end - i), v(load_first)(from + i, lanes_left(end - i), v(set)(0)));
}

/* n numbers next to each other: whole lines of them may be streamed. */
static void h(scatter_run)(char *to, const real *from, int64_t n, int non_temporal) {
    const line_range lines = whole_lines(to, n, h(bytes), non_temporal);
    int64_t i = lines.begin;
    h(store_numbers)(to, from, 0, i);
    for (; i + LANES <= lines.end; i += LANES)
        h(stream)(to + i * h(bytes), v(load)(from + i));
    h(store_numbers)(to, from, i, n);
}

/* Columns are streamed where whole vectors of them are whole lines. */
static void h(scatter_columns)(char *to, int64_t class_step, const vec *from, int64_t lane, int64_t columns, int64_t classes,
                               int non_temporal) {
    const lane_parts part = parts_of(lane % LANES, columns);
    const vec *const first = from + lane / LANES * classes;
    from = part.head ? first + classes : first;
    for (int64_t k = 0; part.head && k < classes; ++k)
        h(store_part)(to + k * class_step, &first[k], lane % LANES, part.head);
    to += part.head * h(bytes);
    columns -= part.head;
    const int aligned = ((uintptr_t)to | (uintptr_t)class_step) % CACHE_LINE == 0;
    const int64_t lines = whole_lines(to, columns, h(bytes), non_temporal && aligned).end / LANES;
    for (int64_t k = 0; k < classes && columns; ++k, to += class_step) {
        char *at = to;
        int64_t w = 0;
        for (; w < lines; ++w, at += LANES * h(bytes))
            h(stream)(at, from[w * classes + k]);
        for (; w < part.whole; ++w, at += LANES * h(bytes))
            h(store)(at, from[w * classes + k]);
        if (part.left)
            h(store_part)(at, &from[part.whole * classes + k], 0, part.left);
    }
}

static real h(load_one)(const char *from) { return v(get)(h(load_first)(from, 1, v(set)(0))); }

static const storage h(storage) = {h(bytes),       h(gather_run),      h(gather_columns),
                                   h(scatter_run), h(scatter_columns), h(load_one)};
#undef h
