/* The floating-point environment of a call: round to nearest, subnormals kept, nothing trapped. Every thread computes in it
 * and gets back the one it had, flags included: what other libraries leave behind reaches no result, and a kernel's harmless
 * overflow raises no warning. */
#ifndef XENT_ENVIRONMENT_H
#define XENT_ENVIRONMENT_H

#include <stdint.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
typedef struct {
    unsigned vectors;
#ifdef __i386__
    uint32_t coprocessor[7]; /* where the library's fma may compute */
#endif
} fp_state;
/* The register is read in no time and written in some: only where it differs, flags apart. */
static inline fp_state fp_enter(void) {
    enum { DEFAULT = 0x1f80, FLAGS = 0x3f };
    fp_state before = {.vectors = _mm_getcsr()};
    if ((before.vectors & ~(unsigned)FLAGS) != DEFAULT)
        _mm_setcsr(DEFAULT);
#ifdef __i386__
    __asm__ volatile("fnstenv %0\n\tfninit" : "=m"(before.coprocessor));
#endif
    __asm__ volatile("" : : : "memory"); /* the compiler knows of no arithmetic that depends on it */
    return before;
}
static inline void fp_leave(fp_state before) {
    __asm__ volatile("" : : : "memory");
#ifdef __i386__
    __asm__ volatile("fldenv %0" : : "m"(before.coprocessor));
#endif
    if (_mm_getcsr() != before.vectors)
        _mm_setcsr(before.vectors);
}
/* Streaming stores are seen by others once they are fenced: once for each thread and region, since it waits for memory. */
static inline void finish_stores(void) { _mm_sfence(); }
/* Who waits without sleep leaves the core to its other thread. */
static inline void relax(void) { _mm_pause(); }
#elif defined(__aarch64__)
static inline void finish_stores(void) {}
static inline void relax(void) { __asm__ volatile("yield" : : : "memory"); }
typedef struct {
    uint64_t control, status;
} fp_state;
static inline fp_state fp_enter(void) {
    fp_state before;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(before.control), "=r"(before.status) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0) : "memory");
    return before;
}
static inline void fp_leave(fp_state before) {
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(before.control), "r"(before.status) : "memory");
}
#else
#include <fenv.h>
static inline void finish_stores(void) {}
static inline void relax(void) {}
typedef fenv_t fp_state;
static inline fp_state fp_enter(void) {
    fp_state before;
    feholdexcept(&before);
    fesetround(FE_TONEAREST);
    return before;
}
static inline void fp_leave(fp_state before) { fesetenv(&before); }
#endif

#endif
