/* Makes each allocation of some calls fail in turn: every failure must be XENT_NO_MEMORY with nothing written, unless it is
 * that of another thread's workspace, which is done without. Nothing may stay allocated but the workspaces that the next
 * call takes, one for each thread. Linked with --wrap=malloc, --wrap=aligned_alloc and --wrap=free, so that only allocations
 * of the library are counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xent.h"

void *__real_malloc(size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *p);

enum { THREADS = 2, MOST_WORKSPACES = 64 };

static int until_failure, held, workspaces;
static void *workspace[MOST_WORKSPACES];

void *__wrap_malloc(size_t bytes) {
    void *p = --until_failure == 0 ? NULL : __real_malloc(bytes);
    held += p != NULL;
    return p;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    if (--until_failure == 0 || workspaces == MOST_WORKSPACES)
        return NULL;
    void *p = __real_aligned_alloc(alignment, bytes);
    if (p)
        workspace[workspaces++] = p;
    return p;
}

void __wrap_free(void *p) {
    int i = 0;
    while (i < workspaces && workspace[i] != p)
        ++i;
    if (i < workspaces)
        workspace[i] = workspace[--workspaces];
    else
        held -= p != NULL;
    __real_free(p);
}

enum { MOST = 1 << 21, UNTOUCHED = 0x55 };

static float logits[MOST], soft[MOST], weight[MOST], grad[MOST];
static int64_t targets[MOST];

static int is_untouched(void) {
    const char *bytes = (const char *)grad;
    return bytes[0] == UNTOUCHED && memcmp(bytes, bytes + 1, sizeof grad - 1) == 0;
}

int main(void) {
    /* Many rows: sums of blocks and row losses, and a workspace; a long one: a larger one, with room for its chunks, which
     * the others find. Single elements: sums of blocks, and a workspace that is larger again. */
    static const struct {
        const char *name;
        xent_operation operation;
        int64_t rows, classes;
        int indexed, least;
    } calls[] = {{"many rows", XENT_CROSS_ENTROPY, MOST / 4, 4, 1, 3},
                 {"a long row", XENT_CROSS_ENTROPY, 1, MOST, 1, 1},
                 {"soft targets", XENT_CROSS_ENTROPY, MOST / 4, 4, 0, 2},
                 {"softmax", XENT_SOFTMAX, 1, MOST, 0, 0},
                 {"single elements", XENT_BINARY_CROSS_ENTROPY_WITH_LOGITS, MOST, 1, 0, 2}};
    for (int i = 0; i < MOST; ++i)
        weight[i] = 1, soft[i] = 0.5f;
    for (size_t k = 0; k < sizeof calls / sizeof *calls; ++k) {
        int64_t shape[1] = {calls[k].rows}, row[1] = {calls[k].classes * 4}, four[1] = {4}, eight[1] = {8};
        int failed = 0;
        xent_status status = XENT_NO_MEMORY;
        for (int nth = 1; status != XENT_OK; ++nth) {
            xent_call call = XENT_CALL_DEFAULTS;
            call.operation = calls[k].operation;
            call.dtype = XENT_F32;
            call.threads = THREADS;
            call.ndim = 1, call.shape = shape, call.classes = calls[k].classes;
            call.logits = (xent_array){logits, row};
            call.out = (xent_array){grad, row};
            if (calls[k].operation == XENT_SOFTMAX)
                call.reduction = XENT_NONE;
            else
                call.sample_weight = (xent_array){weight, four};
            if (calls[k].indexed)
                call.index = (xent_array){targets, eight}, call.index_type = XENT_I64;
            else if (calls[k].operation != XENT_SOFTMAX)
                call.soft = (xent_array){soft, row};
            memset(grad, UNTOUCHED, sizeof grad);
            until_failure = nth;
            status = xent_run(&call);
            failed += status == XENT_NO_MEMORY;
            if (held || workspaces > THREADS || (status != XENT_OK && (status != XENT_NO_MEMORY || !is_untouched()))) {
                printf("%s, allocation %d: status %d, %d held, %d workspaces\n", calls[k].name, nth, (int)status, held,
                       workspaces);
                return 1;
            }
        }
        printf("%s: %d allocations failed\n", calls[k].name, failed);
        if (failed < calls[k].least)
            return 1;
    }
    return 0;
}
