/* Workspaces that calls have returned are kept for the next ones: asking the system for hundreds of KiB costs more than a
 * small call. They lie in slots, each of which belongs to whoever exchanges its pointer: no lock that a fork could leave
 * closed. What is kept is bounded by the slots. */
#include "workspace.h"

#include <stdatomic.h>
#include <stdint.h>

#include "platform.h"

enum { SLOTS = 64, ALIGNMENT = 64 };

static _Atomic(void *) slots[SLOTS];

/* The size of a workspace lies in front of it. */
typedef struct {
    size_t bytes;
    char padding[ALIGNMENT - sizeof(size_t)];
} header;

static void *workspace_of(size_t bytes) {
    for (int i = 0; i < SLOTS; ++i) {
        if (!atomic_load_explicit(&slots[i], memory_order_relaxed))
            continue;
        header *kept = atomic_exchange_explicit(&slots[i], NULL, memory_order_acquire);
        if (kept && kept->bytes >= bytes)
            return kept + 1;
        xent_free(kept); /* for another compute type, whose workspaces are smaller */
    }
    header *fresh = xent_allocate(ALIGNMENT, sizeof(header) + (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (fresh)
        fresh->bytes = bytes;
    return fresh ? fresh + 1 : NULL;
}

int xent_take_workspaces(void **workspaces, int count, size_t bytes) {
    int taken = 0;
    while (taken < count && (workspaces[taken] = workspace_of(bytes)))
        ++taken;
    return taken;
}

void xent_return_workspaces(void **workspaces, int count) {
    for (int i = 0; i < count; ++i) {
        header *kept = (header *)workspaces[i] - 1;
        for (int k = 0; k < SLOTS && kept; ++k) {
            void *none = NULL;
            if (atomic_compare_exchange_strong_explicit(&slots[k], &none, kept, memory_order_release, memory_order_relaxed))
                kept = NULL;
        }
        xent_free(kept);
    }
}
