/* product: tiles of a matrix product. Both factors are packed first: the left one into strips of TALL rows, the right one
 * into panels of WIDE columns, number by number along the inner axis and as float32, so that each step along it reads
 * numbers that lie together. Half types are converted while they are packed, and never as a whole.
 *
 * An element of a tile is one chain of fused multiply-adds over up to XENT_DEEP numbers, which is then added to those
 * before: the same operations in the same order on every instruction set. The error is at most
 * (XENT_DEEP + inner / XENT_DEEP) u sum |a b|. */
enum { TALL = XENT_TALL, SHEAF = XENT_PANEL_VECTORS, WIDE = SHEAF * LANES };

/* What of one row of a factor is converted at a time, where that lies along the inner axis. */
enum { RUN = 64 };

/* `n` numbers, `step` bytes apart, as float32; what is left of the last vector is overwritten. */
static INLINE void read_run(real *to, const char *from, int64_t step, const storage *stored, int64_t n) {
    if (step == stored->bytes)
        stored->gather_run(to, from, n);
    else
        for (int64_t i = 0; i < n; ++i)
            to[i] = stored->load_one(from + i * step);
}

/* n numbers of each row, side by side: of as many rows as a vector has lanes, or of a strip. */
static INLINE void interleave(real *to, int width, real rows[LANES][RUN], int64_t n) {
    if (width % LANES == 0)
        for (int64_t j = 0; j < n; j += 4) {
            vec four[4];
            v(load_quads)(&rows[0][j], RUN * (int64_t)sizeof(real), four);
            for (int i = 0; i < 4 && j + i < n; ++i)
                v(store)(to + (j + i) * width, four[i]);
        }
    else
        for (int64_t j = 0; j < n; ++j)
            for (int i = 0; i < width; ++i)
                to[j * width + i] = rows[i][j];
}

/* `depth` times `width` numbers from `count` rows, each of which lies along the inner axis: as many at a time as a vector
 * has lanes. */
static INLINE void pack_along(real *to, int width, const xent_factor *f, const char *from, int64_t count, int64_t depth) {
    _Static_assert((int)TALL <= (int)LANES, "a strip is packed at once");
    const storage *const stored = storage_of(f->dtype);
    _Alignas(64) real rows[LANES][RUN];
    for (int w = 0; w < width; w += LANES, from += LANES * f->across, count -= LANES) {
        memset(rows, 0, sizeof rows);
        for (int64_t k = 0; k < depth; k += RUN) {
            const int64_t n = depth - k < RUN ? depth - k : RUN;
            for (int64_t i = 0; i < LANES && i < count; ++i)
                read_run(rows[i], from + i * f->across + k * f->along, f->along, stored, n);
            interleave(to + k * width + w, width, rows, n);
        }
    }
}

/* The same from numbers that lie across the inner axis, for all of up to XENT_GROUP of them at once. */
static INLINE void pack_across(real *to, int width, const xent_factor *f, int64_t count, int64_t depth) {
    const storage *const stored = storage_of(f->dtype);
    _Alignas(64) real line[XENT_GROUP + LANES];
    memset(line, 0, sizeof line);
    for (int64_t k = 0; k < depth; ++k) {
        stored->gather_run(line, f->data + k * f->along, count);
        for (int64_t i = 0; i < count; i += width)
            memcpy(to + XENT_PACKED(i, width) + k * width, line + i, (size_t)width * sizeof(real));
    }
}

static INLINE void pack(real *to, int width, const xent_factor *f, int64_t count, int64_t depth) {
    if (f->across == storage_of(f->dtype)->bytes)
        pack_across(to, width, f, count, depth);
    else
        for (int64_t i = 0; i < count; i += width)
            pack_along(to + XENT_PACKED(i, width), width, f, f->data + i * f->across, count - i < width ? count - i : width,
                       depth);
}

static void pack_strips(void *to, const xent_factor *f, int64_t count, int64_t depth) { pack(to, TALL, f, count, depth); }
static void pack_panels(void *to, const xent_factor *f, int64_t count, int64_t depth) { pack(to, WIDE, f, count, depth); }

static INLINE void store_tile(vec sums[TALL][SHEAF], char *out, int64_t step, int rows, int64_t columns, int add) {
    for (int i = 0; i < rows; ++i, out += step)
        for (int w = 0; w < SHEAF; ++w) {
            char *const at = out + w * LANES * (int64_t)sizeof(real);
            const int n = lanes_left(columns - w * LANES);
            if (n == LANES)
                v(store)(at, add ? v(add)(v(load)(at), sums[i][w]) : sums[i][w]);
            else if (n > 0)
                v(store_first)(at, n, add ? v(add)(v(load_first)(at, n, v(set)(0)), sums[i][w]) : sums[i][w]);
        }
}

/* One tile of the result, of which `rows` and `columns` are stored. */
static INLINE void multiply_tile(const real *strip, const real *panel, int64_t depth, char *out, int64_t step, int rows,
                                 int64_t columns, int add) {
    vec sums[TALL][SHEAF];
    for (int i = 0; i < TALL; ++i)
        for (int w = 0; w < SHEAF; ++w)
            sums[i][w] = v(set)(0);
    for (int64_t k = 0; k < depth; ++k, strip += TALL, panel += WIDE) {
        vec right[SHEAF];
        for (int w = 0; w < SHEAF; ++w)
            right[w] = v(load)(panel + w * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < TALL; ++i) {
            const vec left = v(set)(strip[i]);
#pragma GCC unroll 8
            for (int w = 0; w < SHEAF; ++w)
                sums[i][w] = v(fma)(left, right[w], sums[i][w]);
        }
    }
    store_tile(sums, out, step, rows, columns, add);
}

/* All strips times all panels: rows x columns of the result, `step` bytes from row to row. */
static void multiply(const void *strips, const void *panels, int64_t depth, char *out, int64_t step, int64_t rows,
                     int64_t columns, int add) {
    for (int64_t i = 0; i < rows; i += TALL)
        for (int64_t j = 0; j < columns; j += WIDE)
            multiply_tile((const real *)strips + XENT_PACKED(i, TALL), (const real *)panels + XENT_PACKED(j, WIDE), depth,
                          out + i * step + j * (int64_t)sizeof(real), step, rows - i < TALL ? (int)(rows - i) : TALL,
                          columns - j, add);
}

static void round_numbers(xent_dtype dtype, void *to, const void *from, int64_t count) {
    storage_of(dtype)->scatter_run(to, from, count, 0);
}
