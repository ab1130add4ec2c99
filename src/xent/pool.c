#define _GNU_SOURCE
#include "pool.h"

#ifdef _WIN32
void *xent_pool_take(size_t bytes) {
    (void)bytes;
    return NULL;
}

void *xent_pool_resize(void *data, size_t bytes) {
    (void)data, (void)bytes;
    return NULL;
}

void xent_pool_give(void *data) { (void)data; }

void xent_pool_tick(void) {}

int xent_pool_release(void) { return 0; }

size_t xent_pool_limit(void) { return 0; }

void xent_pool_set_limit(size_t bytes) { (void)bytes; }

void xent_pool_bytes(size_t *idle, size_t *used) { *idle = *used = 0; }
#else
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "control_groups.h"

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

#define SHARE 8                        /* an eighth of the memory may lie idle */
#define HUGE_PAGE ((uintptr_t)1 << 21) /* of x86-64, and of aarch64 with pages of 4 KiB */
#define MOST_IDLE 64                   /* blocks, so that a search through all of them is short */
#define CALLS 8                        /* of the library, between two looks at what is idle */
#define LOOKS 2                        /* that a block is idle at before it may be unmapped */
#define KEPT ((size_t)128 << 20)       /* idle bytes that stay for so many seconds, too */
#define SECONDS 1.0                    /* making 128 MiB anew takes a few hundredths of that */
#define UNKNOWN SIZE_MAX               /* the limit before it is first asked for */

/* What precedes the data of a block, in a page of its own: the data begin on a page, and NumPy's word for their size is
 * not needed. */
typedef struct {
    size_t bytes; /* of the data */
} header;

typedef struct {
    char *data;
    size_t bytes;
    unsigned look; /* the number of looks there had been when it became idle */
    double since;  /* seconds of the monotonic clock */
} idle_block;

static struct {
    pthread_mutex_t lock;
    int count;
    idle_block idle[MOST_IDLE]; /* the longest idle first */
    atomic_size_t idle_bytes, used_bytes, limit;
    unsigned looks;
    atomic_uint calls;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .limit = UNKNOWN};

static size_t read_size(const atomic_size_t *n) { return atomic_load_explicit(n, memory_order_relaxed); }

static size_t page(void) {
    static atomic_size_t known;
    size_t bytes = read_size(&known);
    if (!bytes) {
        bytes = (size_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) & ~(unit - 1); }

static header *header_of(const void *data) { return (header *)((char *)data - page()); }

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* At least eight sizes for each power of two, so that results of nearly one size can take each other's place: up to an
 * eighth more than asked for, of addresses. Pages are only made where they are written. */
static size_t size_class(size_t bytes) {
    size_t step = page();
    while (step < bytes / 16)
        step *= 2;
    return round_up(bytes, step);
}

/* Whether the system has huge pages, which can be marked as free at no cost. */
static int huge_pages(void) {
    static atomic_int known = -1;
    int found = atomic_load_explicit(&known, memory_order_relaxed);
    if (found < 0) {
        char modes[64] = "[never]"; /* or "always [madvise] never" */
        FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
        if (f) {
            (void)!fgets(modes, sizeof modes, f);
            fclose(f);
        }
        found = !strstr(modes, "[never]");
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    return found;
}

static void *map(size_t bytes) {
    const int is_huge = bytes >= HUGE_PAGE;
    const size_t front = page(), whole = front + bytes + (is_huge ? HUGE_PAGE : 0);
    char *const start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    char *data = start + front;
    if (is_huge) {
        data = (char *)round_up((uintptr_t)data, HUGE_PAGE);
        if (data - front > start)
            munmap(start, (size_t)(data - front - start));
        if (start + whole > data + bytes)
            munmap(data + bytes, (size_t)(start + whole - (data + bytes)));
#ifdef MADV_HUGEPAGE
        (void)madvise(data - front, front + bytes, MADV_HUGEPAGE);
#endif
    }
    header_of(data)->bytes = bytes;
    return data;
}

static void unmap(void *data, size_t bytes) { munmap(header_of(data), page() + bytes); }

/* Under the lock: takes a block from the list. */
static void *remove_idle(int i) {
    const idle_block block = pool.idle[i];
    --pool.count;
    memmove(&pool.idle[i], &pool.idle[i + 1], (size_t)(pool.count - i) * sizeof block);
    atomic_fetch_sub_explicit(&pool.idle_bytes, block.bytes, memory_order_relaxed);
    return block.data;
}

/* Under the lock: the longest idle goes first. */
static void unmap_oldest(void) {
    const size_t bytes = pool.idle[0].bytes;
    unmap(remove_idle(0), bytes);
}

static void before_fork(void) { pthread_mutex_lock(&pool.lock); }

static void in_parent(void) { pthread_mutex_unlock(&pool.lock); }

/* The child's idle blocks would be copied page by page, if the child wrote to them or the parent did. */
static void in_child(void) {
    while (pool.count)
        unmap_oldest();
    pool.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static void survive_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

static void lock(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, survive_forks);
    pthread_mutex_lock(&pool.lock);
}

static void unlock(void) { pthread_mutex_unlock(&pool.lock); }

/* The smallest idle block that is large enough, the latest of several. One that is more than a quarter too large would have
 * pages that the result does not need. */
static void *take_idle(size_t bytes, size_t most) {
    void *data = NULL;
    int best = -1;
    lock();
    for (int i = 0; i < pool.count; ++i) {
        const size_t size = pool.idle[i].bytes;
        if (size >= bytes && size <= most && (best < 0 || size <= pool.idle[best].bytes))
            best = i;
    }
    if (best >= 0)
        data = remove_idle(best);
    unlock();
    return data;
}

void *xent_pool_take(size_t bytes) {
    if (bytes > SIZE_MAX / 4)
        return NULL;
    const size_t size = size_class(bytes);
    void *data = take_idle(bytes, size + size / 4);
    if (!data)
        data = map(size);
    if (!data && xent_pool_release())
        data = map(size);
    if (data)
        atomic_fetch_add_explicit(&pool.used_bytes, header_of(data)->bytes, memory_order_relaxed);
    return data;
}

/* Under the lock: puts a block behind the others, for which older ones may have to go. */
static int add_idle(void *data, size_t bytes) {
    const size_t limit = read_size(&pool.limit);
    if (bytes > limit)
        return 0;
    while (pool.count == MOST_IDLE || read_size(&pool.idle_bytes) > limit - bytes)
        unmap_oldest();
    pool.idle[pool.count++] = (idle_block){data, bytes, pool.looks, seconds()};
    atomic_fetch_add_explicit(&pool.idle_bytes, bytes, memory_order_relaxed);
    return 1;
}

void xent_pool_give(void *data) {
    if (!data)
        return;
    const size_t bytes = header_of(data)->bytes;
    atomic_fetch_sub_explicit(&pool.used_bytes, bytes, memory_order_relaxed);
    int idle = bytes <= xent_pool_limit();
#ifdef MADV_FREE
    /* Nobody may call again: what is idle is the system's, should it run short. Of small pages this would cost as much as
     * half of writing them. */
    if (idle && bytes >= HUGE_PAGE && huge_pages())
        (void)madvise(data, bytes, MADV_FREE);
#endif
    if (idle) {
        lock();
        idle = add_idle(data, bytes);
        unlock();
    }
    if (!idle)
        unmap(data, bytes);
}

void *xent_pool_resize(void *data, size_t bytes) {
    const size_t before = data ? header_of(data)->bytes : 0;
    if (bytes <= before && bytes > before / 2)
        return data;
    void *const moved = xent_pool_take(bytes);
    if (moved && data) {
        memcpy(moved, data, bytes < before ? bytes : before);
        xent_pool_give(data);
    }
    return moved;
}

int xent_pool_release(void) {
    lock();
    const int any = pool.count > 0;
    while (pool.count)
        unmap_oldest();
    unlock();
    return any;
}

static void look(void) {
    const double now = seconds();
    lock();
    ++pool.looks;
    while (pool.count && pool.looks - pool.idle[0].look >= LOOKS &&
           (read_size(&pool.idle_bytes) > KEPT || now - pool.idle[0].since >= SECONDS))
        unmap_oldest();
    unlock();
}

void xent_pool_tick(void) {
    if (read_size(&pool.idle_bytes) && atomic_fetch_add_explicit(&pool.calls, 1, memory_order_relaxed) % CALLS == CALLS - 1)
        look();
}

/* Bytes of one control group, 0 where it sets no limit: version 1 then has one that no machine reaches. */
static double memory_of(const char *folder, int v2) {
    char path[4400];
    double bytes = 0;
    snprintf(path, sizeof path, "%s/%s", folder, v2 ? "memory.max" : "memory.limit_in_bytes");
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    const int n = fscanf(f, "%lf", &bytes); /* or "max" */
    fclose(f);
    return n == 1 ? bytes : 0;
}

static size_t share_of_memory(void) {
    double bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)page();
    const double allowed = xent_tightest_group("memory", memory_of);
    if (allowed > 0 && allowed < bytes)
        bytes = allowed;
    return bytes > 0 && bytes / SHARE < (double)SIZE_MAX / 2 ? (size_t)(bytes / SHARE) : 0;
}

size_t xent_pool_limit(void) {
    size_t limit = read_size(&pool.limit);
    if (limit == UNKNOWN) {
        const size_t found = share_of_memory();
        if (atomic_compare_exchange_strong(&pool.limit, &limit, found))
            limit = found;
    }
    return limit;
}

void xent_pool_set_limit(size_t bytes) {
    lock();
    atomic_store_explicit(&pool.limit, bytes < UNKNOWN ? bytes : UNKNOWN - 1, memory_order_relaxed);
    while (read_size(&pool.idle_bytes) > bytes)
        unmap_oldest();
    unlock();
}

void xent_pool_bytes(size_t *idle, size_t *used) {
    *idle = read_size(&pool.idle_bytes);
    *used = read_size(&pool.used_bytes);
}
#endif
