# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, embedsignature=False
"""The library: instruction sets, threads, the table for other extension modules, and what measures the kernels."""

import contextvars

import numpy as np

cimport numpy as cnp
from cpython.contextvars cimport get_value
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from xent._arguments cimport Precision, dtype_of
from xent.xent cimport *

cdef extern from *:
    """
    #define XENT_API_TABLE
    #include "xent_capi.h"
    """
    const int xent_api_table

cdef extern from "call/regions.h" nogil:
    ctypedef struct xent_region_array:
        char *data
        int64_t sample_step
        int64_t class_step
        int64_t step

    ctypedef struct xent_region_call:
        xent_dtype dtype
        int64_t samples
        int64_t classes
        int64_t positions
        xent_region_array logits
        xent_region_array index
        xent_region_array soft
        xent_region_array out
        xent_dtype index_type
        int has_ignore
        int64_t ignore
        double *sums
        const double *slope
        int threads
        int (*poll)(void *)
        int64_t bad_position

    int xent_region_layout_supported(const xent_region_call *call)
    xent_status xent_region_sums(xent_region_call *call)
    xent_status xent_region_gradient(xent_region_call *call)

cdef extern from "call/divergence.h" nogil:
    ctypedef struct xent_divergence_of:
        xent_dtype dtype
        const char *logits
        char *grad
        int64_t step
        int64_t grad_step

    ctypedef struct xent_divergence:
        xent_divergence_of of[2]
        int64_t rows
        int64_t classes
        double temperature
        double beta
        double *loss
        const double *slope
        int threads
        int (*poll)(void *)

    xent_status xent_jensen_shannon(const xent_divergence *call)

cdef extern from "Python.h":
    # Declared without exceptions: the one it sets stays pending until `pending` raises it.
    int PyErr_CheckSignals() noexcept

cnp.import_array()

# What xent_capi.h imports.
_C_API = PyCapsule_New(<void *>&xent_api_table, "xent._core._C_API", NULL)

# The number of threads of the current context: 0 is the process-wide default.
context_threads = contextvars.ContextVar("xent_num_threads", default=0)

cdef dict floats = {"float16": XENT_F16, "bfloat16": XENT_BF16, "float32": XENT_F32, "float64": XENT_F64}

cdef object functions = {
    "exp": XENT_EXP,
    "log": XENT_LOG,
    "log1p": XENT_LOG1P,
    "tanh": XENT_TANH,
    "tanh_slope": XENT_TANH_SLOPE,
    "log1p_unit": XENT_LOG1P_UNIT,
}


def isa():
    """The instruction set in use."""
    return xent_isa().decode()


def isas(bint built=False):
    """Those this machine has; with `built`, all that were compiled."""
    cdef list found = []
    cdef int i = 0
    while xent_isa_name(i) != NULL:
        if built or xent_isa_available(i):
            found.append(xent_isa_name(i).decode())
        i += 1
    return tuple(found)


def use_isa(str name):
    """Switches in this process; returns the previous one."""
    previous = isa()
    if not xent_use_isa(name.encode()):
        raise ValueError(f"instruction set {name!r} is not available here; accepted: {', '.join(isas())}")
    return previous


def set_num_threads(int threads):
    xent_set_num_threads(threads)


def get_num_threads():
    return min(<int>get_value(context_threads) or xent_get_num_threads(), xent_thread_limit())


def openmp():
    return xent_openmp().decode()


def compiler():
    return xent_compiler().decode()


def version():
    return xent_version().decode()


def unscale(cnp.ndarray array not None, double scale, str dtype not None):
    """Divides the numbers of a C-contiguous, aligned and writeable array by the scale; returns whether all were finite.

    `dtype` is "float16", "bfloat16", of which the array may hold the bits, "float32" or "float64".
    """
    cdef xent_dtype number = floats[dtype]
    cdef void *data = cnp.PyArray_DATA(array)
    cdef int64_t count = cnp.PyArray_SIZE(array)
    cdef int threads = get_num_threads(), all_finite = 1
    cdef xent_status status
    if cnp.PyArray_ITEMSIZE(array) != np.dtype("float16" if dtype == "bfloat16" else dtype).itemsize or not (
            cnp.PyArray_ISCARRAY(array)):
        raise ValueError(f"unscale: expected a C-contiguous, aligned and writeable array of {dtype}")
    with nogil:
        status = xent_unscale(data, number, count, scale, threads, &all_finite)
    if status != XENT_OK:
        raise ValueError(f"unscale: {xent_status_text(status).decode()}")
    return bool(all_finite)


def memory_read(cnp.ndarray array not None, int threads):
    """Reads an array's memory as fast as the machine can, for benchmarks."""
    cdef void *data = cnp.PyArray_DATA(array)
    cdef int64_t size = cnp.PyArray_NBYTES(array)
    with nogil:
        xent_memory_read(data, size, threads)


def memory_copy(cnp.ndarray to not None, cnp.ndarray source not None, int threads):
    """Copies with streaming stores, for benchmarks. `to` starts on a 64-byte boundary."""
    cdef void *data = cnp.PyArray_DATA(to)
    cdef const void *origin = cnp.PyArray_DATA(source)
    cdef int64_t size = cnp.PyArray_NBYTES(source)
    if <uint64_t>data % 64 or cnp.PyArray_NBYTES(to) < size or not (
            cnp.PyArray_ISCARRAY(to) and cnp.PyArray_ISCARRAY_RO(source)):
        raise ValueError("memory_copy: C-contiguous arrays, `to` aligned to 64 bytes and at least as large")
    with nogil:
        xent_memory_copy(data, origin, size, threads)


def math(str function, cnp.ndarray x not None):
    """A function of the kernels over a float32 or float64 vector, for tests: exp, log, log1p, tanh, tanh_slope, log1p_unit."""
    cdef xent_function which = functions[function]
    cdef int number = cnp.PyArray_TYPE(x)
    if number != cnp.NPY_FLOAT and number != cnp.NPY_DOUBLE or not cnp.PyArray_ISCARRAY_RO(x):
        raise ValueError("math: a C-contiguous array of float32 or float64")
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    xent_math(which, XENT_F32 if number == cnp.NPY_FLOAT else XENT_F64, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), cnp.PyArray_SIZE(x))
    return y


def merge_sums(list shards not None, int64_t rows):
    """Merge sums of shards, in the order of their classes: those of all of them, and the first row that does not fit or -1."""
    cdef cnp.ndarray a, merged = shards[0].copy()
    cdef const xent_sums *all[1024]
    cdef int64_t bad = -1, k
    if len(shards) > 1024:
        raise ValueError(f"sums: expected at most 1024 shards at once, got {len(shards)}")
    for k in range(len(shards)):
        a = shards[k]
        all[k] = <const xent_sums *>cnp.PyArray_DATA(a)
    if xent_merge(<xent_sums *>cnp.PyArray_DATA(merged), all, len(shards), rows, &bad) != XENT_OK and bad < 0:
        raise ValueError("sums: cannot be merged")
    return merged, bad


SUMS_BYTES = sizeof(xent_sums)


# Passes that have no xent_call: their modules say what lies where.

cdef xent_matrix matrix_of(cnp.ndarray a):
    """Returns a matrix as the library reads it; uint16 are the bits of bfloat16."""
    cdef int number = cnp.PyArray_TYPE(a)
    cdef xent_matrix m
    m.data = cnp.PyArray_DATA(a)
    m.dtype = XENT_F32 if number == cnp.NPY_FLOAT32 else XENT_F16 if number == cnp.NPY_FLOAT16 else XENT_BF16
    m.row_step, m.column_step = cnp.PyArray_STRIDE(a, 0), cnp.PyArray_STRIDE(a, 1)
    return m


def multiply(cnp.ndarray a not None, cnp.ndarray b not None, cnp.ndarray out not None, bint add=False):
    """Computes out = a b, or out += a b, of matrices of float32, float16 and the bits of bfloat16; `out` is float32."""
    cdef xent_matrix left = matrix_of(a), right = matrix_of(b), result = matrix_of(out)
    cdef int64_t rows = cnp.PyArray_DIM(a, 0), inner = cnp.PyArray_DIM(a, 1), columns = cnp.PyArray_DIM(b, 1)
    cdef int threads = get_value(context_threads)
    cdef xent_status status
    # Of one row or column NumPy may have any stride.
    result.column_step, result.row_step = 4, result.row_step if rows > 1 else 4 * columns
    with nogil:
        status = xent_multiply(&left, &right, &result, rows, columns, inner, add, threads, poll, NULL)
    refuse(status)


def round_to(cnp.ndarray out not None, cnp.ndarray values not None):
    """Rounds float32 numbers to float16 or, where `out` is uint16, to bfloat16; both arrays are C-contiguous."""
    cdef void *data = cnp.PyArray_DATA(out)
    cdef const float *source = <const float *>cnp.PyArray_DATA(values)
    cdef xent_dtype dtype = XENT_F16 if cnp.PyArray_TYPE(out) == cnp.NPY_FLOAT16 else XENT_BF16
    cdef int64_t count = cnp.PyArray_SIZE(values)
    cdef int threads = get_value(context_threads)
    cdef xent_status status
    with nogil:
        status = xent_round(data, dtype, source, count, threads)
    refuse(status)


cdef int poll(void *data) noexcept with gil:
    return PyErr_CheckSignals()


cdef int pending() except -1:
    """Raises the exception that a signal's handler left behind."""
    return -1


cdef int refuse(xent_status status) except -1:
    """Raises what a pass returned, unless it is about a target."""
    if status == XENT_INTERRUPTED:
        pending()
    if status == XENT_BAD_ARGUMENT:
        raise ValueError(f"xent: {xent_status_text(status).decode()}: dtype")
    if status == XENT_NO_MEMORY:
        raise MemoryError(f"xent: {xent_status_text(status).decode()}")
    return 0


cdef int lie_at(xent_region_array *to, cnp.ndarray a, tuple steps) except -1:
    if a is not None:
        to.data = <char *>cnp.PyArray_DATA(a)
        to.sample_step, to.class_step, to.step = steps
    return 0


def region_pass(
        Precision precision not None, tuple shape, dict steps, cnp.ndarray logits not None, cnp.ndarray index, cnp.ndarray soft,
        object ignore, cnp.ndarray sums, cnp.ndarray slope, cnp.ndarray out):
    """Write the sums of each sample, float64 (samples, 3, classes), or from `slope`, (samples, 2, classes), the gradient.

    `shape` is that of samples, classes and positions, and `steps` says for each array how many bytes lie between these.
    Return -1, or the position of the first target that is no class; None, and nothing is written, if the arrays cannot be
    read as they lie.
    """
    cdef xent_region_call call
    cdef xent_status status
    memset(&call, 0, sizeof(call))
    call.dtype = precision.dtype
    call.samples, call.classes, call.positions = shape
    lie_at(&call.logits, logits, steps["logits"])
    lie_at(&call.index, index, steps.get("index"))
    lie_at(&call.soft, soft, steps.get("soft"))
    lie_at(&call.out, out, steps.get("out"))
    if index is not None:
        call.index_type = <xent_dtype>dtype_of(index)
    if ignore is not None:
        call.has_ignore, call.ignore = 1, ignore
    call.threads = get_value(context_threads)
    call.poll = poll
    if not xent_region_layout_supported(&call):
        return None
    if sums is not None:
        call.sums = <double *>cnp.PyArray_DATA(sums)
        with nogil:
            status = xent_region_sums(&call)
    else:
        call.slope = <const double *>cnp.PyArray_DATA(slope)
        with nogil:
            status = xent_region_gradient(&call)
    refuse(status)
    return call.bad_position if status == XENT_BAD_TARGET else -1


def jensen_shannon_pass(
        tuple precisions not None, int64_t classes, double temperature, double beta, list logits not None, list grads not None,
        cnp.ndarray slope not None, cnp.ndarray loss not None):
    """Write the divergence of each row, and the gradients that are not None, from the derivative by each row's loss.

    `slope` and `loss` are contiguous float64 arrays with an element for each row. Precisions, logits and gradients are those
    of the student and of the teacher: pairs of an array, whose classes are contiguous, and the bytes from row to row.
    """
    cdef xent_divergence call
    cdef xent_status status
    cdef cnp.ndarray a
    cdef int k
    memset(&call, 0, sizeof(call))
    for k in range(2):
        call.of[k].dtype = (<Precision>precisions[k]).dtype
        a, call.of[k].step = logits[k]
        call.of[k].logits = <const char *>cnp.PyArray_DATA(a)
        if grads[k] is not None:
            a, call.of[k].grad_step = grads[k]
            call.of[k].grad = <char *>cnp.PyArray_DATA(a)
    call.rows, call.classes = cnp.PyArray_SIZE(loss), classes
    call.temperature, call.beta = temperature, beta
    call.loss = <double *>cnp.PyArray_DATA(loss)
    call.slope = <const double *>cnp.PyArray_DATA(slope)
    call.threads = get_value(context_threads)
    call.poll = poll
    with nogil:
        status = xent_jensen_shannon(&call)
    refuse(status)


cdef const char *wrong = xent_start()
if wrong != NULL:
    # With this name `python -m xent` prints one line.
    raise ImportError(wrong.decode(), name="xent")
