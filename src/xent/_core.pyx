# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, embedsignature=False
"""Typed arrays → `xent_call` → nogil call → exception. No arithmetic happens here, and no validation: `Call`
takes what `_arguments` has made sure of, and what the C interface refuses all the same is a ValueError; `cross_entropy` recognises plain arrays, computes them without detours, and
answers None to everything else, errors included."""

import contextvars

cimport numpy as cnp
from cpython.contextvars cimport get_value
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint64_t

from xent.xent cimport *

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *data, cnp.PyArray_Descr *descr, object base)

cdef extern from "Python.h":
    # Declared without exceptions: the one it sets stays pending until `pending` raises it.
    int PyErr_CheckSignals() noexcept

cdef extern from *:
    """
    #define XENT_API_TABLE
    #include "xent_capi.h"
    """
    const int xent_api_table

cnp.import_array()

# What xent_capi.h imports.
_C_API = PyCapsule_New(<void *>&xent_api_table, "xent._core._C_API", NULL)

# The number of threads of the current context: 0 is the process-wide default.
context_threads = contextvars.ContextVar("xent_num_threads", default=0)

cdef object functions = {
    "exp": XENT_EXP,
    "log": XENT_LOG,
    "log1p": XENT_LOG1P,
    "tanh": XENT_TANH,
    "tanh_slope": XENT_TANH_SLOPE,
    "log1p_unit": XENT_LOG1P_UNIT,
}
cdef object names = {"none": XENT_NONE, "sum": XENT_SUM, "mean": XENT_MEAN, "batchmean": XENT_BATCH_MEAN}


cdef dict operations_by_name():
    cdef dict found = {}
    cdef int i = 0
    while xent_operation_name(<xent_operation>i) != NULL:
        found[xent_operation_name(<xent_operation>i).decode()] = i
        i += 1
    return found


cdef dict operations = operations_by_name()


cdef int poll(void *data) noexcept with gil:
    return PyErr_CheckSignals()


cdef int pending() except -1:
    """Raises the exception that a signal's handler left behind."""
    return -1


cdef int threads_of_context() except -1:
    return get_value(context_threads)


cdef int dtype_of(cnp.ndarray array) noexcept:
    """The xent_dtype of a native array, or -1."""
    cdef int number = cnp.PyArray_TYPE(array)
    if not cnp.PyArray_ISNOTSWAPPED(array):
        return -1
    if number == cnp.NPY_FLOAT:
        return XENT_F32
    if number == cnp.NPY_DOUBLE:
        return XENT_F64
    if number == cnp.NPY_FLOAT16:
        return XENT_F16
    if number == cnp.NPY_BOOL:
        return XENT_BOOL
    cdef int size = cnp.PyArray_ITEMSIZE(array)
    if cnp.PyTypeNum_ISSIGNED(number):
        return XENT_I8 if size == 1 else XENT_I16 if size == 2 else XENT_I32 if size == 4 else XENT_I64
    if cnp.PyTypeNum_ISUNSIGNED(number):
        return XENT_U8 if size == 1 else XENT_U16 if size == 2 else XENT_U32 if size == 4 else XENT_U64
    return -1


cdef class Call:
    """One call of the C interface. Arrays have the axes of the loss first and the class axis, if any, last."""
    cdef xent_call call
    cdef int64_t shape[64]
    cdef int64_t strides[9][64]
    cdef list keep
    cdef bint repeated  # one element stands for all classes, which C takes for contiguous

    def __init__(self, str operation, tuple shape, int64_t classes, cnp.ndarray logits not None,
                 bint bfloat16):
        self.call = XENT_CALL_DEFAULTS
        self.call.operation = <xent_operation><int>operations[operation]
        self.call.classes = classes
        self.call.ndim = len(shape)
        for d in range(len(shape)):
            self.shape[d] = shape[d]
        self.call.shape = self.shape
        self.call.reduction = XENT_NONE
        self.call.dtype = XENT_BF16 if bfloat16 else <xent_dtype>dtype_of(logits)
        self.call.poll = poll
        self.keep = []
        self.call.logits_class_step = self.set_array(0, &self.call.logits, logits)

    cdef int64_t set_array(self, int slot, xent_array *to, cnp.ndarray array) except? -1:
        """Returns the step of the class axis, of arrays that have one."""
        cdef int d
        if cnp.PyArray_NDIM(array) < self.call.ndim:
            raise ValueError(f"{cnp.PyArray_NDIM(array)} axes for a loss of {self.call.ndim}")
        for d in range(self.call.ndim):
            self.strides[slot][d] = cnp.PyArray_STRIDE(array, d)
        to.data = cnp.PyArray_DATA(array)
        to.strides = self.strides[slot]
        self.keep.append(array)
        if cnp.PyArray_NDIM(array) == self.call.ndim:
            return 0
        self.repeated |= self.call.classes > 1 and cnp.PyArray_STRIDE(array, self.call.ndim) == 0
        return cnp.PyArray_STRIDE(array, self.call.ndim)

    def arrays(self, cnp.ndarray index=None, cnp.ndarray soft=None, cnp.ndarray class_weight=None,
               cnp.ndarray sample_weight=None, cnp.ndarray grad_output=None, cnp.ndarray loss=None,
               cnp.ndarray lse=None, cnp.ndarray out=None, cnp.ndarray hess=None):
        if index is not None:
            self.set_array(1, &self.call.index, index)
            self.call.index_type = <xent_dtype>dtype_of(index)
        if soft is not None:
            self.call.soft_class_step = self.set_array(1, &self.call.soft, soft)
        if class_weight is not None:
            self.call.class_weight = cnp.PyArray_DATA(class_weight)
            self.keep.append(class_weight)
        if sample_weight is not None:
            self.set_array(2, &self.call.sample_weight, sample_weight)
        if grad_output is not None:
            self.set_array(3, &self.call.grad_output, grad_output)
        if loss is not None:
            self.set_array(4, &self.call.loss, loss)
        if lse is not None:
            self.set_array(5, &self.call.lse, lse)
        if out is not None:
            self.call.out_class_step = self.set_array(6, &self.call.out, out)
        if hess is not None:
            self.call.hess_class_step = self.set_array(7, &self.call.hess, hess)
        return self

    def numbers(self, object ignore_index=None, double label_smoothing=0.0, double z_loss=0.0, object softcap=None,
                double temperature=1.0, str reduction="none", double grad_scale=1.0, double strength=0.0,
                double eps=0.0):
        """`ignore_index` as the bits of the index type, sign-extended."""
        self.call.has_ignore = ignore_index is not None
        self.call.ignore_index = 0 if ignore_index is None else ignore_index
        self.call.label_smoothing = label_smoothing
        self.call.z_loss = z_loss
        self.call.softcap = 0.0 if softcap is None else softcap
        self.call.temperature = temperature
        self.call.reduction = names[reduction]
        self.call.grad_scale = grad_scale
        self.call.strength = strength
        self.call.eps = eps
        return self

    def elementwise(self, cnp.ndarray pos_weight=None, cnp.ndarray block_sums=None, object alpha=None,
                    bint log_target=False):
        """What elementwise losses have besides. `block_sums`: two float64 for every 4,096 elements."""
        if pos_weight is not None:
            self.set_array(8, &self.call.pos_weight, pos_weight)
        if block_sums is not None:
            self.call.block_sums = <double *>cnp.PyArray_DATA(block_sums)
            self.keep.append(block_sums)
        self.call.alpha = -1.0 if alpha is None else alpha
        self.call.log_target = log_target
        return self

    def layout_supported(self):
        """Whether the arrays can be used where they lie."""
        return not self.repeated and bool(xent_layout_supported(&self.call))

    @property
    def divisor(self):
        return self.call.divisor

    @divisor.setter
    def divisor(self, double value):
        self.call.divisor = value

    @property
    def result(self):
        return self.call.result

    cdef int64_t check(self, xent_status status) except -2:
        """-1, or the row of a bad target, or the position of a bad probability."""
        if status == XENT_BAD_TARGET or status == XENT_BAD_PROBABILITY:
            return self.call.bad_row
        if status == XENT_INTERRUPTED:
            pending()
        if status == XENT_OK:
            return -1
        text = xent_status_text(status).decode()
        if status == XENT_BAD_ARGUMENT:
            raise ValueError(f"xent: {text}: {self.call.bad_argument.decode()}")
        raise MemoryError(f"xent: {text}") if status == XENT_NO_MEMORY else ValueError(f"xent: {text}")

    def prepare(self):
        """Checks the class indices: the row of the first bad one, or -1. Finds the divisor."""
        cdef xent_status status
        self.call.threads = threads_of_context()
        with nogil:
            status = xent_prepare(&self.call)
        return self.check(status)

    def compute(self):
        cdef xent_status status
        self.call.threads = threads_of_context()
        with nogil:
            status = xent_compute(&self.call)
        self.check(status)

    def finish(self):
        cdef xent_status status
        self.call.threads = threads_of_context()
        with nogil:
            status = xent_finish(&self.call)
        self.check(status)

    def run(self):
        """The three in one: the row of the first bad target, or -1."""
        cdef xent_status status
        self.call.threads = threads_of_context()
        with nogil:
            status = xent_run(&self.call)
        return self.check(status)


def cross_entropy(object logits, object targets, object axis, object ignore_index, object label_smoothing,
                  object z_loss, object temperature, object reduction, object return_grad, object grad_output,
                  object grad_out):
    """Plain arrays without detours: None unless the logits are a native, aligned float32 or float64 matrix with
    contiguous rows, the targets a vector of native integers, `grad_out` an array like the logits or None, `axis` -1, the
    numbers in their ranges, and every target good."""
    cdef cnp.ndarray x, y, g, loss = None
    cdef xent_call call = XENT_CALL_DEFAULTS
    cdef int64_t n, c, item
    cdef int64_t shape[1]
    cdef int64_t step_x[1]
    cdef int64_t step_y[1]
    cdef int64_t step_g[1]
    cdef int64_t step_loss[1]
    cdef xent_status status
    cdef int type_x, type_y
    cdef bint with_grad
    cdef float single
    if type(logits) is not cnp.ndarray or type(targets) is not cnp.ndarray:
        return None
    x = logits
    y = targets
    if cnp.PyArray_NDIM(x) != 2 or cnp.PyArray_NDIM(y) != 1 or not cnp.PyArray_ISALIGNED(x):
        return None
    type_x = dtype_of(x)
    type_y = dtype_of(y)
    if type_x != XENT_F32 and type_x != XENT_F64 or type_y < 0 or not cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(y)):
        return None
    n = cnp.PyArray_DIM(x, 0)
    c = cnp.PyArray_DIM(x, 1)
    item = cnp.PyArray_ITEMSIZE(x)
    if n == 0 or c == 0 or cnp.PyArray_DIM(y, 0) != n or cnp.PyArray_STRIDE(x, 1) != item:
        return None
    if type(label_smoothing) is not float or type(z_loss) is not float or type(temperature) is not float:
        return None
    call.label_smoothing = label_smoothing
    call.z_loss = z_loss
    call.temperature = temperature
    if (not 0.0 <= call.label_smoothing <= 1.0 or not 0.0 <= call.z_loss < 1e30
            or not 1e-30 < call.temperature < 1e30):
        return None
    if type(axis) is not int or axis != -1:
        return None
    if type_y == XENT_U64 or type(reduction) is not str or type(return_grad) is not bool:
        return None
    with_grad = return_grad
    if reduction == "mean":
        call.reduction = XENT_MEAN
    elif reduction == "sum":
        call.reduction = XENT_SUM
    elif reduction == "none":
        call.reduction = XENT_NONE
    else:
        return None
    if grad_output is not None:
        if type(grad_output) is not float or not with_grad or call.reduction == XENT_NONE:
            return None
        call.grad_scale = grad_output
    if ignore_index is not None:
        if type(ignore_index) is not int or not -2147483648 <= ignore_index < 2147483648:
            return None
        call.has_ignore = 1
        call.ignore_index = ignore_index
        if type_y == XENT_U32 and call.ignore_index < 0:
            call.has_ignore = 0

    if with_grad:
        if grad_out is None:
            g = cnp.PyArray_EMPTY(2, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
        elif type(grad_out) is not cnp.ndarray:
            return None
        else:
            g = grad_out
            if (cnp.PyArray_NDIM(g) != 2 or dtype_of(g) != type_x or not cnp.PyArray_ISBEHAVED(g)
                    or cnp.PyArray_DIM(g, 0) != n or cnp.PyArray_DIM(g, 1) != c
                    or cnp.PyArray_STRIDE(g, 1) != item or cnp.PyArray_STRIDE(g, 0) < c * item
                    or cnp.PyArray_STRIDE(x, 0) < c * item or cnp.PyArray_STRIDE(y, 0) < 0):
                return None
            if not (apart(g, y) and (apart(g, x) or cnp.PyArray_DATA(g) == cnp.PyArray_DATA(x)
                                     and cnp.PyArray_STRIDE(g, 0) == cnp.PyArray_STRIDE(x, 0))):
                return None
        step_g[0] = cnp.PyArray_STRIDE(g, 0)
        call.out.data = cnp.PyArray_DATA(g)
        call.out.strides = step_g
    elif grad_out is not None:
        return None
    if call.reduction == XENT_NONE:
        loss = cnp.PyArray_EMPTY(1, cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
        step_loss[0] = item
        call.loss.data = cnp.PyArray_DATA(loss)
        call.loss.strides = step_loss

    shape[0] = n
    step_x[0] = cnp.PyArray_STRIDE(x, 0)
    step_y[0] = cnp.PyArray_STRIDE(y, 0)
    call.dtype = <xent_dtype>type_x
    call.index_type = <xent_dtype>type_y
    call.ndim = 1
    call.shape = shape
    call.classes = c
    call.logits.data = cnp.PyArray_DATA(x)
    call.logits.strides = step_x
    call.index.data = cnp.PyArray_DATA(y)
    call.index.strides = step_y
    call.threads = threads_of_context()
    call.poll = poll
    with nogil:
        status = xent_run(&call)
    if status == XENT_INTERRUPTED:
        pending()
    if status != XENT_OK:
        return None
    if call.reduction == XENT_NONE:
        result = loss
    elif type_x == XENT_F32:
        single = <float>call.result
        result = PyArray_Scalar(&single, cnp.PyArray_DESCR(x), None)
    else:
        result = PyArray_Scalar(&call.result, cnp.PyArray_DESCR(x), None)
    return (result, g) if with_grad else result


cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether the memory of two arrays with steps >= 0 lies apart, by their first and last bytes."""
    return last_byte(a) <= <char *>cnp.PyArray_DATA(b) or last_byte(b) <= <char *>cnp.PyArray_DATA(a)


cdef char *last_byte(cnp.ndarray a) noexcept:
    cdef char *end = <char *>cnp.PyArray_DATA(a) + cnp.PyArray_ITEMSIZE(a)
    cdef int d
    for d in range(cnp.PyArray_NDIM(a)):
        end += (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
    return end


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
    return threads_of_context() or xent_get_num_threads()


def openmp():
    return xent_openmp().decode()


def compiler():
    return xent_compiler().decode()


def version():
    return xent_version().decode()


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
    cdef int dtype = dtype_of(x)
    if dtype != XENT_F32 and dtype != XENT_F64 or not cnp.PyArray_ISCARRAY_RO(x):
        raise ValueError("math: a C-contiguous array of float32 or float64")
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), 0)
    xent_math(which, <xent_dtype>dtype, cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), cnp.PyArray_SIZE(x))
    return y


cdef const char *wrong = xent_start()
if wrong != NULL:
    raise ImportError(wrong.decode())
