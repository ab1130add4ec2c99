/* What tests and benchmarks look at: the functions of math.h by themselves, and memory at full speed.
 *
 * Reading and copying, nothing else: the speeds every other kernel is held against. Both are the plainest loops that
 * reach the limit: full-width loads, and for the copy streaming stores. */
static double memory_read(const void *from, int64_t bytes) {
    vec s[4];
    for (int g = 0; g < 4; ++g)
        s[g] = v(set)(0);
    const int64_t step = 4 * LANES * (int64_t)sizeof(real);
    for (int64_t i = 0; i + step <= bytes; i += step)
        for (int g = 0; g < 4; ++g) {
            const char *p = (const char *)from + i + g * LANES * (int64_t)sizeof(real);
            xent_prefetch(p + 4096);
            s[g] = v(max)(v(load)(p), s[g]);
        }
    return (double)v(max_of)(v(max)(v(max)(s[0], s[1]), v(max)(s[2], s[3])));
}

static void memory_copy(void *to, const void *from, int64_t bytes) {
    stream_buffer s = begin_stream(to, from, bytes);
    for (int64_t end = 0; end + CACHE_LINE <= bytes; end += CACHE_LINE) {
        xent_prefetch((const char *)from + end + 4096);
        stream_filled(&s, end);
    }
    finish_stream(&s, bytes);
}

/* With the cap 1, and what a cap leaves as it is. */
static vec tanh_of(vec x, vec *slope) {
    const v(cap_scale) whole = {v(set)(1), v(set)(1), v(set)(0)};
    vec y = x;
    v(cap)(&y, slope, 1, &whole);
    return v(copysign)(v(select)(v(eq)(v(abs)(x), v(set)((real)INFINITY)), v(set)(1), y), x);
}

/* A function of math.h over n numbers of the compute type. */
static void math_map(xent_function function, const void *from, void *to, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        const int count = lanes_left(n - i);
        const vec x = v(load_first)((const real *)from + i, count, v(set)(0));
        vec slope;
        const vec tanh = tanh_of(x, &slope);
        const vec y = function == XENT_EXP          ? v(exp)(x)
                      : function == XENT_LOG        ? v(log)(x)
                      : function == XENT_LOG1P      ? v(log1p)(x)
                      : function == XENT_LOG1P_UNIT ? v(log1p_unit)(x)
                      : function == XENT_TANH       ? tanh
                                                    : slope;
        v(store_first)((real *)to + i, count, y);
    }
}
