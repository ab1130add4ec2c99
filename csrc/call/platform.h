/* What operating systems do each in their own way, under one set of names: no other file of csrc/ asks which of them it is
 * compiled for. Atomics are those of C11, variables of the environment are read by getenv. */
#ifndef XENT_PLATFORM_H
#define XENT_PLATFORM_H

#include <stddef.h>

/* Memory whose address and size are multiples of `alignment`; NULL: there is none. */
void *xent_allocate(size_t alignment, size_t bytes);
void xent_free(void *memory);

/* Seconds since some moment. */
double xent_clock(void);

/* How many CPUs the process may use. */
int xent_cpus(void);

#ifdef _OPENMP /* else there is one thread */
#ifdef _WIN32
typedef struct {
    void *state;
} xent_mutex, xent_condition, xent_once; /* SRWLOCK, CONDITION_VARIABLE, INIT_ONCE */
#define XENT_MUTEX {NULL}
#define XENT_CONDITION {NULL}
#define XENT_ONCE {NULL}
#else
#include <pthread.h>
typedef pthread_mutex_t xent_mutex;
typedef pthread_cond_t xent_condition;
typedef pthread_once_t xent_once;
#define XENT_MUTEX PTHREAD_MUTEX_INITIALIZER
#define XENT_CONDITION PTHREAD_COND_INITIALIZER
#define XENT_ONCE PTHREAD_ONCE_INIT
#endif

/* As POSIX has them under longer names. */
void xent_lock(xent_mutex *m);
void xent_unlock(xent_mutex *m);
void xent_wait(xent_condition *c, xent_mutex *m);
void xent_wake_one(xent_condition *c);
void xent_wake_all(xent_condition *c);
void xent_yield(void);
void xent_do_once(xent_once *once, void (*run)(void));
void xent_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void));

/* Waits until the clock shows `end`, and returns zero where it does. */
int xent_wait_until(xent_condition *c, xent_mutex *m, double end);

/* Starts a thread of which nobody hears again; no signal is handled on it, nor on those it starts. Zero: there is none. */
int xent_start_thread(void (*run)(void));

/* How many of so many threads could be started at once, with stacks of so many bytes or, by 0, of the system's choice. */
int xent_startable(int threads, size_t stack);

/* Lets this thread run on every CPU that the process may use. */
void xent_use_all_cpus(void);

/* Lets this thread run on these alone. */
void xent_use_cpus(const int *cpus, int n);

/* The path of the program or library that has a function, in `to`: "" where the system does not say. */
void xent_file_of(void (*function)(void), char *to, size_t size);
#endif

#endif
