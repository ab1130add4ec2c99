/* Which kernels run: one table, best instruction set first. xent_isas.h is written by the build from the same words that
 * become the compiler's flags, so what is tested here is what was compiled for. */
#include "dispatch.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "xent_version.h"

#define XENT_ISA(name, supported) extern const xent_kernels xent_kernels_##name##_f32, xent_kernels_##name##_f64;
#include "xent_isas.h"
#undef XENT_ISA

#if XENT_BUILDS_F32
#define XENT_F32_KERNELS(name) &xent_kernels_##name##_f32
#else
#define XENT_F32_KERNELS(name) NULL
#endif
#if XENT_BUILDS_F64
#define XENT_F64_KERNELS(name) &xent_kernels_##name##_f64
#else
#define XENT_F64_KERNELS(name) NULL
#endif

typedef struct {
    const char *name;
    int (*available)(void);
    const xent_kernels *f32, *f64; /* by compute type; NULL: not built */
} isa;

#define XENT_ISA(name, supported)                                                                                           \
    static int has_##name(void) { return supported; }
#include "xent_isas.h"
#undef XENT_ISA

#define XENT_ISA(name, supported) {#name, has_##name, XENT_F32_KERNELS(name), XENT_F64_KERNELS(name)},
static const isa isas[] = {
#include "xent_isas.h"
};
#undef XENT_ISA
enum { ISAS = sizeof isas / sizeof *isas };

static atomic_int in_use = -1;

static int best(void) {
    int i = 0;
    while (i < ISAS - 1 && !isas[i].available()) /* the last, scalar, is where it is built */
        ++i;
    return i;
}

/* By its name in any case. */
static int find(const char *name) {
    for (int i = 0; name && i < ISAS; ++i)
        if (!strcasecmp(isas[i].name, name))
            return isas[i].available() ? i : -1;
    return -1;
}

static int current(void) {
    int i = atomic_load_explicit(&in_use, memory_order_relaxed);
    if (i < 0) {
        const char *name = getenv("XENT_ISA");
        i = name ? find(name) : -1;
        i = i < 0 ? best() : i;
        atomic_store_explicit(&in_use, i, memory_order_relaxed);
    }
    return i;
}

const char *xent_start(void) {
    static _Thread_local char message[512];
    const char *name = getenv("XENT_ISA");
    if (name && *name && find(name) < 0) {
        size_t n = (size_t)snprintf(message, sizeof message, "XENT_ISA='%.64s' is not available here; accepted:", name);
        for (int i = 0; i < ISAS; ++i)
            if (isas[i].available())
                n += (size_t)snprintf(message + n, sizeof message - n, " %s", isas[i].name);
        return message;
    }
    if (!isas[current()].available()) {
        snprintf(message, sizeof message,
                 "this processor lacks what xent was built for, %s: build it with XENT_ISAS=scalar, or for all of them",
                 isas[ISAS - 1].name);
        return message;
    }
    return xent_threads_start();
}

const char *xent_isa_name(int i) { return (unsigned)i < ISAS ? isas[i].name : NULL; }
int xent_isa_available(int i) { return (unsigned)i < ISAS && isas[i].available(); }
const char *xent_isa(void) { return isas[current()].name; }

int xent_use_isa(const char *name) {
    const int i = find(name);
    if (i >= 0)
        atomic_store_explicit(&in_use, i, memory_order_relaxed);
    return i >= 0;
}

const xent_kernels *xent_kernels_for(xent_dtype dtype) {
    const isa *use = &isas[current()];
    return dtype == XENT_F64 ? use->f64 : use->f32;
}

const char *xent_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

const char *xent_version(void) { return XENT_VERSION; }
