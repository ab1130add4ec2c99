/* unscale: numbers divided by the scale of a loss, in place, or multiplied by its inverse, where that is a power of two and
 * the quotient the same. Of x - x, which is 0 unless x is infinite or NaN, one sum says whether all of them were finite. */

/* `count` vectors of n numbers each. */
static INLINE vec unscale_vectors(real *at, int count, int n, vec factor, int multiplies, vec all) {
    vec x[XENT_SIDE_BY_SIDE];
    for (int j = 0; j < count; ++j)
        x[j] = load_up_to((const char *)(at + j * LANES), n, 0);
    for (int j = 0; j < count; ++j) {
        all = v(add)(all, v(sub)(x[j], x[j]));
        store_range((char *)(at + j * LANES), n, multiplies ? v(mul)(x[j], factor) : v(div)(x[j], factor), 0);
    }
    return all;
}

static INLINE vec unscale_run(real *at, int64_t count, vec factor, int multiplies, vec all) {
    enum { ABREAST = XENT_SIDE_BY_SIDE * LANES };
    int64_t i = 0;
    for (; i + ABREAST <= count; i += ABREAST)
        all = unscale_vectors(at + i, XENT_SIDE_BY_SIDE, LANES, factor, multiplies, all);
    for (; i < count; i += LANES)
        all = unscale_vectors(at + i, 1, lanes_left(count - i), factor, multiplies, all);
    return all;
}

/* Whether all numbers were finite. */
static int unscale(xent_dtype dtype, void *data, int64_t count, double factor, int multiplies) {
    const storage *stored = storage_of(dtype);
    const vec by = v(set)((real)factor);
    vec all = v(set)(0);
    if (stored == own_storage)
        all = multiplies ? unscale_run(data, count, by, 1, all) : unscale_run(data, count, by, 0, all);
    else
        for (int64_t i = 0; i < count; i += XENT_PIECE) {
            _Alignas(64) real piece[XENT_PIECE];
            const int64_t n = count - i < XENT_PIECE ? count - i : XENT_PIECE;
            char *const at = (char *)data + i * stored->bytes;
            stored->gather_run(piece, at, n);
            all = multiplies ? unscale_run(piece, n, by, 1, all) : unscale_run(piece, n, by, 0, all);
            stored->scatter_run(at, piece, n, 0);
        }
    return !v(any)(v(ne)(all, all));
}
