# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""Arrays whose memory comes from a pool, by a memory handler of NumPy (NEP 49): they own their data as any array does. The
handler is in force while one of them is made and not longer, so nobody else's arrays are."""

import os

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF
from libc.stdint cimport SIZE_MAX
from libc.string cimport memset, strcpy

cdef extern from "numpy/arrayobject.h":
    PyObject *PyDataMem_DefaultHandler
    # Steals the reference to the dtype.
    object PyArray_Empty(int nd, const cnp.npy_intp *dims, cnp.dtype dtype, int fortran)
    # Declarations that those of NumPy 2.0 lack.
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t count, size_t item) noexcept nogil
        void *(*realloc)(void *ctx, void *data, size_t size) noexcept nogil
        void (*free)(void *ctx, void *data, size_t size) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char name[127]
        unsigned char version
        PyDataMemAllocator allocator
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object handler)

cdef extern from "pool.h" nogil:
    const size_t XENT_POOL_LEAST
    void *xent_pool_take(size_t bytes)
    void *xent_pool_resize(void *data, size_t bytes)
    void xent_pool_give(void *data)
    void xent_pool_tick()
    bint xent_pool_release()
    size_t xent_pool_limit()
    void xent_pool_set_limit(size_t bytes)
    void xent_pool_bytes(size_t *idle, size_t *used)

cnp.import_array()


cdef void *take(void *unused, size_t bytes) noexcept nogil:
    return xent_pool_take(bytes)


cdef void *take_zeros(void *unused, size_t count, size_t item) noexcept nogil:
    cdef void *data = NULL
    if item == 0 or count <= SIZE_MAX // item:
        data = xent_pool_take(count * item)
    if data != NULL:
        memset(data, 0, count * item)
    return data


cdef void *resize(void *unused, void *data, size_t bytes) noexcept nogil:
    return xent_pool_resize(data, bytes)


cdef void give(void *unused, void *data, size_t untrusted) noexcept nogil:
    xent_pool_give(data)


cdef PyDataMem_Handler functions
strcpy(functions.name, "xent")
functions.version = 1
functions.allocator.ctx = NULL
functions.allocator.malloc = take
functions.allocator.calloc = take_zeros
functions.allocator.realloc = resize
functions.allocator.free = give

# Arrays hold references to the capsule, which points to what the module never frees.
cdef object handler = PyCapsule_New(&functions, "mem_handler", NULL)


cdef cnp.ndarray plain(int ndim, cnp.npy_intp *shape, cnp.dtype dtype):
    Py_INCREF(dtype)
    return PyArray_Empty(ndim, shape, dtype, 0)


cdef cnp.ndarray pooled(int ndim, cnp.npy_intp *shape, cnp.dtype dtype):
    cdef object before = PyDataMem_GetHandler()
    if <PyObject *>before != PyDataMem_DefaultHandler:
        return plain(ndim, shape, dtype)  # whoever has set a handler of their own wants their memory
    PyDataMem_SetHandler(handler)
    try:
        return plain(ndim, shape, dtype)
    finally:
        PyDataMem_SetHandler(before)


cdef bint is_large(int ndim, cnp.npy_intp *shape, size_t bytes) noexcept:
    """Whether an array of so many elements, of so many bytes each, is worth a block of the pool."""
    cdef int i
    for i in range(ndim):
        if shape[i] <= 0 or bytes > SIZE_MAX // <size_t>shape[i]:
            return False  # empty, or NumPy's error
        bytes *= <size_t>shape[i]
    return bytes >= XENT_POOL_LEAST


cdef cnp.ndarray empty(int ndim, cnp.npy_intp *shape, cnp.dtype dtype):
    if not is_large(ndim, shape, dtype.itemsize) or xent_pool_limit() == 0:
        return plain(ndim, shape, dtype)
    return pooled(ndim, shape, dtype)


cdef void tick() noexcept nogil:
    xent_pool_tick()


cdef bint release() noexcept nogil:
    return xent_pool_release()


def empty_array(tuple shape, cnp.dtype dtype not None):
    """`empty` for callers in Python."""
    cdef cnp.npy_intp sizes[64]
    cdef int i
    if len(shape) > 64:
        raise ValueError(f"shape: {len(shape)} axes")
    for i in range(len(shape)):
        sizes[i] = shape[i]
    return empty(len(shape), sizes, dtype)


def count_call():
    """`tick` for callers in Python."""
    tick()


def set_limit(size_t n):
    """Sets how many bytes may lie idle, and gives back what exceeds them."""
    xent_pool_set_limit(n)


def statistics():
    """The limit, the bytes that lie idle, and those that results hold."""
    cdef size_t idle, used
    xent_pool_bytes(&idle, &used)
    return {"limit": xent_pool_limit(), "idle": idle, "in_use": used}


cdef int limit_from_environment() except -1:
    text = os.environ.get("XENT_POOL_BYTES", "")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ImportError(f"XENT_POOL_BYTES={text[:64]!r} is not a number of bytes; accepted: 0 or more")
    xent_pool_set_limit(min(int(text), SIZE_MAX))
    return 0


limit_from_environment()
