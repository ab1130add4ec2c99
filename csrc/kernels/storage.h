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
    copy_part((char *)((real *)to + lane), from, n, sizeof(real));
}

static INLINE void h(store_part)(char *to, const vec *from, int64_t lane, int64_t n) {
    const char *at = (const char *)((const real *)from + lane);
    char numbers[sizeof(vec)];
    if (h(bytes) != sizeof(real)) {
        h(store)(numbers, v(load)(from));
        at = numbers + lane * h(bytes);
    }
    copy_part(to, at, n, h(bytes));
}

/* Columns side by side: tile w of class k is to[w * classes + k]. From a lane on inside a tile there are some of that tile.
 */
static void h(gather_columns)(vec *to, int64_t lane, const char *from, int64_t class_step, int64_t columns,
                              int64_t classes) {
    const int64_t whole = columns / LANES;
    const int left = (int)(columns % LANES);
    to += lane / LANES * classes;
    for (int64_t k = 0; lane % LANES && k < classes; ++k)
        h(load_part)(&to[k], lane % LANES, from + k * class_step, columns);
    for (int64_t k = 0; lane % LANES == 0 && k < classes; ++k, from += class_step) {
        if (whole == SIDE)
            for (int64_t w = 0; w < SIDE; ++w)
                v(store)(&to[w * classes + k], h(load)(from + w * LANES * h(bytes)));
        else
            for (int64_t w = 0; w < whole; ++w)
                v(store)(&to[w * classes + k], h(load)(from + w * LANES * h(bytes)));
        if (left)
            to[whole * classes + k] = h(load_first)(from + whole * LANES * h(bytes), left, v(set)(0));
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
    const int aligned = ((uintptr_t)to | (uintptr_t)class_step) % CACHE_LINE == 0;
    const int64_t lines = whole_lines(to, columns, h(bytes), non_temporal && aligned).end / LANES;
    const int64_t whole = lane % LANES ? 0 : columns / LANES, left = columns - whole * LANES;
    from += lane / LANES * classes;
    for (int64_t k = 0; k < classes; ++k, to += class_step) {
        char *at = to;
        int64_t w = 0;
        for (; w < lines && w < whole; ++w, at += LANES * h(bytes))
            h(stream)(at, from[w * classes + k]);
        for (; w < whole; ++w, at += LANES * h(bytes))
            h(store)(at, from[w * classes + k]);
        if (left)
            h(store_part)(at, &from[whole * classes + k], lane % LANES, left);
    }
}

static real h(load_one)(const char *from) { return v(get)(h(load_first)(from, 1, v(set)(0))); }

static const storage h(storage) = {h(bytes),       h(gather_run),      h(gather_columns),
                                   h(scatter_run), h(scatter_columns), h(load_one)};
#undef h
