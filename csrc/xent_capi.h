/* The functions of xent.h for an extension module of Python, which need not link the library: it uses the copy that Python
 * has loaded with `import xent`, its threads, its instruction set.
 *
 *     #include <Python.h>
 *     #include <xent_capi.h>
 *
 *     PyMODINIT_FUNC PyInit_module(void) {
 *         if (xent_import() < 0) return NULL; // an ImportError is set
 *         ...
 *
 * After that, xent_run and the others are called as xent.h has them, by name. Each source file that calls them imports them
 * itself. The functions of xent.h that measure memory are not among them. */
#ifndef XENT_CAPI_H
#define XENT_CAPI_H

#include "xent.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A change of this number makes older modules refuse to be imported; a new function at the end does not. */
enum { XENT_API_VERSION = 1 };

#define XENT_API(FUNCTION)                                                                                                  \
    FUNCTION(xent_status, run, (xent_call * call))                                                                          \
    FUNCTION(xent_status, prepare, (xent_call * call))                                                                      \
    FUNCTION(xent_status, compute, (xent_call * call))                                                                      \
    FUNCTION(xent_status, finish, (xent_call * call))                                                                       \
    FUNCTION(xent_status, reduce, (xent_call * call))                                                                       \
    FUNCTION(xent_status, head, (xent_call * call))                                                                         \
    FUNCTION(xent_status, apply, (xent_call * call))                                                                        \
    FUNCTION(xent_status, merge,                                                                                            \
             (xent_sums * merged, const xent_sums *const *shards, int64_t count, int64_t rows, int64_t *bad_row))           \
    FUNCTION(int, layout_supported, (const xent_call *call))                                                                \
    FUNCTION(const char *, status_text, (xent_status status))                                                               \
    FUNCTION(const char *, operation_name, (xent_operation operation))                                                      \
    FUNCTION(const char *, version, (void))                                                                                 \
    FUNCTION(void, set_num_threads, (int threads))                                                                          \
    FUNCTION(int, get_num_threads, (void))                                                                                  \
    FUNCTION(const char *, start, (void))                                                                                   \
    FUNCTION(const char *, isa_name, (int i))                                                                               \
    FUNCTION(int, isa_available, (int i))                                                                                   \
    FUNCTION(const char *, isa, (void))                                                                                     \
    FUNCTION(int, use_isa, (const char *name))                                                                              \
    FUNCTION(const char *, openmp, (void))                                                                                  \
    FUNCTION(const char *, compiler, (void))                                                                                \
    FUNCTION(void, math, (xent_function function, xent_dtype dtype, const void *from, void *to, int64_t n))                 \
    FUNCTION(int, thread_limit, (void))                                                                                     \
    FUNCTION(xent_status, unscale,                                                                                          \
             (void *data, xent_dtype dtype, int64_t count, double scale, int threads, int *all_finite))                     \
    FUNCTION(xent_status, multiply,                                                                                         \
             (const xent_matrix *a, const xent_matrix *b, const xent_matrix *out, int64_t rows, int64_t columns,            \
              int64_t inner, int add, int threads, int (*poll)(void *data), void *poll_data))                               \
    FUNCTION(xent_status, round, (void *to, xent_dtype dtype, const float *from, int64_t count, int threads))

typedef struct {
    int api_version;
    size_t size; /* of this table */
#define XENT_MEMBER(type, name, parameters) type(*name) parameters;
    XENT_API(XENT_MEMBER)
#undef XENT_MEMBER
} xent_api;

#ifdef XENT_API_TABLE /* in the module that has the library */
#define XENT_ADDRESS(type, name, parameters) xent_##name,
static const xent_api xent_api_table = {XENT_API_VERSION, sizeof(xent_api), XENT_API(XENT_ADDRESS)};
#undef XENT_ADDRESS
#else
static const xent_api *xent_loaded;

/* 0, or -1 with an exception set. */
static inline int xent_import(void) {
    const xent_api *const api = (const xent_api *)PyCapsule_Import("xent._core._C_API", 0);
    if (!api)
        return -1;
    if (api->api_version != XENT_API_VERSION || api->size < sizeof *api) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for version %d of xent's C API, of %zu bytes; xent %s has version %d, of %zu",
                     (int)XENT_API_VERSION, sizeof *api, api->version(), api->api_version, api->size);
        return -1;
    }
    xent_loaded = api;
    return 0;
}

#define xent_run xent_loaded->run
#define xent_prepare xent_loaded->prepare
#define xent_compute xent_loaded->compute
#define xent_finish xent_loaded->finish
#define xent_reduce xent_loaded->reduce
#define xent_head xent_loaded->head
#define xent_apply xent_loaded->apply
#define xent_merge xent_loaded->merge
#define xent_layout_supported xent_loaded->layout_supported
#define xent_status_text xent_loaded->status_text
#define xent_operation_name xent_loaded->operation_name
#define xent_version xent_loaded->version
#define xent_set_num_threads xent_loaded->set_num_threads
#define xent_get_num_threads xent_loaded->get_num_threads
#define xent_start xent_loaded->start
#define xent_isa_name xent_loaded->isa_name
#define xent_isa_available xent_loaded->isa_available
#define xent_isa xent_loaded->isa
#define xent_use_isa xent_loaded->use_isa
#define xent_openmp xent_loaded->openmp
#define xent_compiler xent_loaded->compiler
#define xent_math xent_loaded->math
#define xent_thread_limit xent_loaded->thread_limit
#define xent_unscale xent_loaded->unscale
#define xent_multiply xent_loaded->multiply
#define xent_round xent_loaded->round
#endif

#ifdef __cplusplus
}
#endif

#endif
