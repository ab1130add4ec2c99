/* How many threads: the environment's word, else what this process may use of the machine. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "control_groups.h"
#include "platform.h"
#include "team.h"

static atomic_int own; /* threads that were asked for, or 0 */

static int clamp(double n) { return n < 1 ? 1 : n > MOST_THREADS ? MOST_THREADS : (int)n; }

static int cpus(void) {
#ifdef _OPENMP
    if (omp_get_proc_bind() != omp_proc_bind_false) /* the runtime has bound the first thread to the first of its places */
        return omp_get_num_procs();
#endif
    return xent_cpus();
}

/* CPUs of one control group; 0 where it sets no limit. */
static double quota_of(const char *folder, int v2) {
    char path[4400];
    double quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/%s", folder, v2 ? "cpu.max" : "cpu.cfs_quota_us");
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    int n = v2 ? fscanf(f, "%lf %lf", &quota, &period) - 1 : fscanf(f, "%lf", &quota); /* "max 100000": 0 */
    fclose(f);
    if (n == 1 && !v2) {
        snprintf(path, sizeof path, "%s/%s", folder, "cpu.cfs_period_us");
        f = fopen(path, "r");
        n = f ? fscanf(f, "%lf", &period) : 0;
        if (f)
            fclose(f);
    }
    return n == 1 && quota > 0 && period > 0 ? quota / period : 0;
}

static int usable(void) {
    const int most = cpus();
    const double quota = xent_tightest_group("cpu", quota_of);
    const int whole = (int)quota + (quota > (int)quota);
    return clamp(quota > 0 && whole < most ? whole : most);
}

/* The leading number of a variable ("4", "4,2"): 0 when it is not set, -1 when it holds none. */
static int variable(const char *name) {
    const char *text = getenv(name);
    if (!text || !*text)
        return 0;
    char *end;
    const long n = strtol(text, &end, 10);
    while (*end == ' ')
        ++end;
    return end == text || (*end && *end != ',') || n < 1 ? -1 : clamp((double)n);
}

const char *xent_threads_start(void) {
    static _Thread_local char message[160];
    if (variable("XENT_NUM_THREADS") >= 0)
        return NULL;
    snprintf(message, sizeof message, "XENT_NUM_THREADS='%.64s' is not a number of threads; accepted: 1 to %d",
             getenv("XENT_NUM_THREADS"), MOST_THREADS);
    return message;
}

/* What OpenMP's runtime is told to keep to at the moment: threadpoolctl, for one, limits every library that way. A runtime
 * that was loaded by a thread bound to a few CPUs takes these for all there are, which is nobody's wish. */
static int openmp_limit(int cpus_of_process) {
#ifdef _OPENMP
    static atomic_int mistaken = -1;
    const int n = omp_get_max_threads();
    int m = atomic_load_explicit(&mistaken, memory_order_relaxed);
    if (m < 0) {
        m = n == omp_get_num_procs() && n < cpus_of_process ? n : 0;
        atomic_store_explicit(&mistaken, m, memory_order_relaxed);
    }
    return n == m ? MOST_THREADS : n;
#else
    (void)cpus_of_process;
    return MOST_THREADS;
#endif
}

int xent_thread_limit(void) {
    static atomic_int known; /* it never changes */
    int n = atomic_load_explicit(&known, memory_order_relaxed);
    if (n == 0) {
#ifdef _OPENMP
        n = clamp((double)omp_get_thread_limit());
#else
        n = 1;
#endif
        atomic_store_explicit(&known, n, memory_order_relaxed);
    }
    return n;
}

/* What xent itself was told comes first, by a call or by its variable. Else it is what the machine allows, within OpenMP's
 * limit. */
static int wanted(void) {
    static atomic_int found; /* what the machine allows */
    int n = atomic_load_explicit(&own, memory_order_relaxed);
    if (n > 0)
        return n;
    n = atomic_load_explicit(&found, memory_order_relaxed);
    if (n == 0) {
        n = variable("XENT_NUM_THREADS");
        if (n > 0) {
            int none = 0;
            return atomic_compare_exchange_strong(&own, &none, n) ? n : none;
        }
        n = variable("OMP_NUM_THREADS");
        n = n > 0 ? n : usable();
        atomic_store_explicit(&found, n, memory_order_relaxed);
    }
    const int limit = openmp_limit(n); /* of LLVM's runtime below 0 where OMP_NUM_THREADS is */
    return limit > 0 && limit < n ? limit : n;
}

int xent_get_num_threads(void) {
    const int n = wanted(), limit = xent_thread_limit();
    return n < limit ? n : limit;
}

void xent_set_num_threads(int n) { atomic_store_explicit(&own, clamp((double)n), memory_order_relaxed); }

size_t xent_stack_bytes(void) {
    static const struct {
        const char *name;
        int shift; /* of the unit that is meant where none is given */
    } variables[] = {{"OMP_STACKSIZE", 10}, {"GOMP_STACKSIZE", 10}, {"KMP_STACKSIZE", 0}};
    size_t most = 0;
    for (size_t i = 0; i < sizeof variables / sizeof *variables; ++i) {
        const char *text = getenv(variables[i].name), *const units = "bBkKmMgG";
        if (!text)
            continue;
        char *end;
        const unsigned long long n = strtoull(text, &end, 10);
        while (*end == ' ')
            ++end;
        const char *unit = *end ? strchr(units, *end) : NULL;
        const int shift = unit ? (int)(unit - units) / 2 * 10 : variables[i].shift;
        if (n <= SIZE_MAX >> shift && (size_t)n << shift > most)
            most = (size_t)n << shift;
    }
    return most;
}

/* What Linux says of the first core; the C library's figure may be that of all cores' caches together. */
static int64_t find_cache(int level) {
    for (int index = 0; index < 8; ++index) {
        char path[96], type[16] = "";
        int found = 0;
        long long size = 0;
        const char *const about = "/sys/devices/system/cpu/cpu0/cache/index%d/%s";
        snprintf(path, sizeof path, about, index, "level");
        FILE *f = fopen(path, "r");
        if (!f)
            break;
        found = fscanf(f, "%d", &found) == 1 ? found : 0;
        fclose(f);
        snprintf(path, sizeof path, about, index, "type");
        if (found != level || !(f = fopen(path, "r")))
            continue;
        const int read = fscanf(f, "%15s", type);
        fclose(f);
        snprintf(path, sizeof path, about, index, "size");
        if (read != 1 || type[0] == 'I' || !(f = fopen(path, "r")))
            continue;
        char unit = 'K';
        const int parts = fscanf(f, "%lld%c", &size, &unit);
        fclose(f);
        if (parts >= 1 && size > 0)
            return size << (unit == 'M' ? 20 : unit == 'K' ? 10 : 0);
    }
    return 0;
}

int64_t xent_cache(int level) {
    static atomic_llong known[4];
    static const int64_t guess[] = {0, 32 << 10, 512 << 10, 16 << 20};
    long long size = atomic_load_explicit(&known[level], memory_order_relaxed);
    if (size == 0) {
        size = find_cache(level);
        if (size <= 0)
            size = guess[level];
        atomic_store_explicit(&known[level], size, memory_order_relaxed);
    }
    return size;
}
