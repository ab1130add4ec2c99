/* Matrix products of a linear layer's hidden states and weight, for what no BLAS multiplies as it is stored. The left factor
 * is packed by blocks, together; then each piece of work packs a group of columns of the right one, which stays in the
 * second cache, and multiplies all strips by it. Who computes which group changes no bit: each element of the result is
 * summed by itself. */
#include "product.h"

#include <stdatomic.h>
#include <string.h>

#include "dispatch.h"
#include "workspace.h"

typedef struct {
    const xent_kernels *kernels;
    xent_factor left, right;
    char *out;
    int64_t out_step, rows, columns, depth, group;
    int add;
    char *strips, *strip_pairs; /* the second is NULL where pairs are not multiplied */
    atomic_int outside;         /* whether a strip has numbers that are not */
    void *panels[MOST_THREADS];
} product;

static void pack_piece(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    product *p = context;
    xent_factor part = p->left;
    part.data += begin * part.across;
    const int64_t at = XENT_PACKED(begin, XENT_TALL) * (int64_t)sizeof(float);
    /* A panel may need strips of float32, too. */
    p->kernels->pack_strips(p->strips + at, &part, end - begin, p->depth);
    if (p->strip_pairs && !p->kernels->pack_strip_pairs(p->strip_pairs + at, &part, end - begin, p->depth))
        atomic_store_explicit(&p->outside, 1, memory_order_relaxed);
}

static void multiply_piece(void *context, int64_t begin, int64_t end, int worker) {
    product *p = context;
    xent_factor part = p->right;
    part.data += begin * part.across;
    char *const out = p->out + begin * (int64_t)sizeof(float);
    void *const panels = p->panels[worker];
    if (p->strip_pairs && !atomic_load_explicit(&p->outside, memory_order_relaxed) &&
        p->kernels->pack_panel_pairs(panels, &part, end - begin, p->depth)) {
        p->kernels->multiply_pairs(p->strip_pairs, panels, p->depth, out, p->out_step, p->rows, end - begin, p->add);
        return;
    }
    p->kernels->pack_panels(panels, &part, end - begin, p->depth);
    p->kernels->multiply(p->strips, panels, p->depth, out, p->out_step, p->rows, end - begin, p->add);
}

/* Whether the numbers of a matrix can be read where they lie. */
static int is_readable(const xent_matrix *m, int64_t rows, int64_t columns) {
    return m && m->dtype <= XENT_BF16 && m->dtype != XENT_F64 && (m->data || rows == 0 || columns == 0);
}

/* Whether an instruction for pairs of bfloat16 can multiply two factors as they lie. */
static int has_pairs(const xent_kernels *kernels, const xent_matrix *a, const xent_matrix *b) {
    enum { BYTES = 2 };
    return a->dtype == XENT_BF16 && b->dtype == XENT_BF16 && a->column_step == BYTES && b->row_step == BYTES &&
           kernels->multiplies_pairs && kernels->multiplies_pairs();
}

/* Strips of the rows from `first` on, and all columns, over `depth` numbers of the inner axis. */
static int multiply_block(product *p, int64_t count, int threads, int (*poll)(void *), void *poll_data) {
    enum { STRIPS = 21 * XENT_TALL };
    p->rows = count;
    atomic_store_explicit(&p->outside, 0, memory_order_relaxed);
    return xent_parallel(count, STRIPS, threads, pack_piece, p, poll, poll_data) ||
           xent_parallel(p->columns, p->group, threads, multiply_piece, p, poll, poll_data);
}

/* A frame of its own for the list of panels. */
static xent_status multiply_blocks(const xent_matrix *a, const xent_matrix *b, const xent_matrix *out, int64_t rows,
                                   int64_t columns, int64_t inner, int add, int threads, int (*poll)(void *),
                                   void *poll_data) {
    product p = {.kernels = xent_kernels_for(XENT_F32), .columns = columns, .out_step = out->row_step};
    /* Where a group for each thread would leave some without, groups are halved. */
    p.group = columns >= 4 * (int64_t)threads * XENT_GROUP ? XENT_GROUP : XENT_GROUP / 2;
    const size_t strips = (size_t)XENT_PACKED(XENT_STRIPED, XENT_TALL) * sizeof(float);
    void *own[2] = {NULL};
    const int kinds = has_pairs(p.kernels, a, b) ? 2 : 1, taken = xent_take_workspaces(own, kinds, strips);
    if (taken < kinds) {
        xent_return_workspaces(own, taken);
        return XENT_NO_MEMORY;
    }
    p.strips = own[0];
    p.strip_pairs = own[1];
    threads = xent_take_workspaces(p.panels, threads, (size_t)XENT_PACKED(XENT_GROUP, XENT_MOST_LANES) * sizeof(float));
    xent_status status = threads ? XENT_OK : XENT_NO_MEMORY;
    /* All columns are packed anew for each block of rows: these are divided evenly. */
    const int64_t parts = (rows + XENT_STRIPED - 1) / XENT_STRIPED,
                  strips_each = (rows + parts * XENT_TALL - 1) / (parts * XENT_TALL);
    const int64_t step = strips_each * XENT_TALL;
    for (int64_t i = 0; i < rows && status == XENT_OK; i += step)
        for (int64_t k = 0; k < inner && status == XENT_OK; k += XENT_DEEP) {
            p.left = (xent_factor){(const char *)a->data + i * a->row_step + k * a->column_step, a->dtype, a->row_step,
                                   a->column_step};
            p.right = (xent_factor){(const char *)b->data + k * b->row_step, b->dtype, b->column_step, b->row_step};
            p.out = (char *)out->data + i * out->row_step;
            p.depth = inner - k < XENT_DEEP ? inner - k : XENT_DEEP;
            p.add = add || k > 0;
            if (multiply_block(&p, rows - i < step ? rows - i : step, threads, poll, poll_data))
                status = XENT_INTERRUPTED;
        }
    xent_return_workspaces(p.panels, threads);
    xent_return_workspaces(own, kinds);
    return status;
}

xent_status xent_multiply(const xent_matrix *a, const xent_matrix *b, const xent_matrix *out, int64_t rows, int64_t columns,
                          int64_t inner, int add, int threads, int (*poll)(void *), void *poll_data) {
    const int64_t most = INT64_MAX / 64, bytes = sizeof(float);
    if (rows < 0 || columns < 0 || inner < 0 || threads < 0 || columns > most / bytes || !is_readable(a, rows, inner) ||
        !is_readable(b, inner, columns) || !is_readable(out, rows, columns) || out->dtype != XENT_F32 ||
        out->column_step != bytes || (uintptr_t)out->data % (unsigned)bytes || out->row_step % bytes ||
        (rows > 1 && out->row_step < columns * bytes) || !xent_kernels_for(XENT_F32))
        return XENT_BAD_ARGUMENT;
    if (rows == 0 || columns == 0)
        return XENT_OK;
    for (int64_t i = 0; i < rows && inner == 0 && !add; ++i)
        memset((char *)out->data + i * out->row_step, 0, (size_t)(columns * bytes));
    const double worth = (double)rows * (double)columns * (double)inner / WORTH_A_THREAD;
    const int most_useful = xent_threads_for(threads);
    return multiply_blocks(a, b, out, rows, columns, inner, add,
                           worth < 1             ? 1
                           : worth < most_useful ? (int)worth
                                                 : most_useful,
                           poll, poll_data);
}

typedef struct {
    const xent_kernels *kernels;
    xent_dtype dtype;
    char *to;
    const float *from;
} rounding;

static void round_piece(void *context, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const rounding *r = context;
    r->kernels->round(r->dtype, r->to + begin * xent_storage_bytes(r->dtype), r->from + begin, end - begin);
}

xent_status xent_round(void *to, xent_dtype dtype, const float *from, int64_t count, int threads) {
    rounding r = {xent_kernels_for(XENT_F32), dtype, to, from};
    if ((dtype != XENT_F16 && dtype != XENT_BF16) || !r.kernels || count < 0 || threads < 0 || (count > 0 && !(to && from)))
        return XENT_BAD_ARGUMENT;
    const int64_t worth = count / WORTH_A_THREAD;
    const int most_useful = xent_threads_for(threads);
    xent_parallel(count, LEAST_PIECE,
                  worth < 1             ? 1
                  : worth < most_useful ? (int)worth
                                        : most_useful,
                  round_piece, &r, NULL, NULL);
    return XENT_OK;
}
