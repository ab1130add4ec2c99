# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False, binding=False
"""Argument validation, all of it: dtypes, shapes, layouts, targets, buffers, numbers.

Each function takes an argument as the user gave it, with its name, and returns it in the form that the core takes, or raises
an exception that names the argument, what was given and what is accepted. Nothing here reads the logits or writes to an
array. All of it is compiled: what a plain array needs is a few comparisons.
"""

import sys

import numpy as np

cimport numpy as cnp
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.math cimport fabs, ilogb, isfinite
from libc.stdint cimport int64_t

from xent.xent cimport (
    XENT_BF16, XENT_BOOL, XENT_F16, XENT_F32, XENT_F64, XENT_I8, XENT_I16, XENT_I32, XENT_I64, XENT_U8, XENT_U16, XENT_U32,
    XENT_U64, XENT_BATCH_MEAN, XENT_MEAN, XENT_NONE, XENT_SUM, xent_dtype,
)

cdef extern from "Python.h":
    # Without an exception to raise it returns, of integers beyond its range, the nearest in it.
    Py_ssize_t PyNumber_AsSsize_t(object o, void *exception) except? -1

cnp.import_array()

# What xent_call has for each reduction.
REDUCTIONS = {"none": XENT_NONE, "sum": XENT_SUM, "mean": XENT_MEAN, "batchmean": XENT_BATCH_MEAN}
cdef dict codes = REDUCTIONS

# Bounds of a divisor: beyond them a division by it leaves the range of float32.
cdef double SMALLEST = 1e-30, LARGEST = 1e30
cdef double BELOW_ONE = 1 - 2.0 ** -53

# Array types that np.asarray would densify, compute or copy without saying so, by the package that defines them.
cdef dict FOREIGN = {
    "scipy": "a sparse array; convert it with .toarray()",
    "sparse": "a sparse array; convert it with .todense()",
    "dask": "a Dask array; call .compute(), or map this function over its blocks",
    "cupy": "a CuPy array on a GPU; copy it to the CPU with cupy.asnumpy",
}


def described(value):
    """Describe an argument for a message: an array by shape and dtype, anything else by its repr."""
    if isinstance(value, np.ndarray):
        dtype = float_name(value) if is_of_tensor(value) else value.dtype
        return f"an array of shape {value.shape} and dtype {dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Arrays, their dtypes and shapes.

cdef int dtype_of(cnp.ndarray a) noexcept:
    """The xent_dtype of an array in this machine's byte order, or -1."""
    cdef int number = cnp.PyArray_TYPE(a), size
    if not cnp.PyArray_ISNOTSWAPPED(a):
        return -1
    if number == cnp.NPY_FLOAT:
        return XENT_F32
    if number == cnp.NPY_DOUBLE:
        return XENT_F64
    if number == cnp.NPY_FLOAT16:
        return XENT_F16
    if number == cnp.NPY_BOOL:
        return XENT_BOOL
    size = cnp.PyArray_ITEMSIZE(a)
    if cnp.PyTypeNum_ISSIGNED(number):
        return XENT_I8 if size == 1 else XENT_I16 if size == 2 else XENT_I32 if size == 4 else XENT_I64
    if cnp.PyTypeNum_ISUNSIGNED(number):
        return XENT_U8 if size == 1 else XENT_U16 if size == 2 else XENT_U32 if size == 4 else XENT_U64
    return -1


cdef bint has_dtype(cnp.ndarray a, object dtype) noexcept:
    """Whether an array has one of NumPy's own dtypes in this machine's byte order."""
    return <PyObject *>cnp.PyArray_DESCR(a) == <PyObject *>dtype or (
        cnp.PyArray_TYPE(a) == (<cnp.dtype>dtype).type_num and cnp.PyArray_ISNOTSWAPPED(a))


cdef tuple shape_of(cnp.ndarray a, int without=-1):
    """The shape of an array, without the axis of this number."""
    cdef int d, k = 0, ndim = cnp.PyArray_NDIM(a)
    cdef object size
    cdef tuple shape = PyTuple_New(ndim - (without >= 0))
    for d in range(ndim):
        if d != without:
            size = cnp.PyArray_DIM(a, d)
            Py_INCREF(size)  # that of which PyTuple_SET_ITEM takes
            PyTuple_SET_ITEM(shape, k, size)
            k += 1
    return shape


cdef bint has_shape(cnp.ndarray a, tuple shape) noexcept:
    cdef int d
    if cnp.PyArray_NDIM(a) != len(shape):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != <int64_t>shape[d]:
            return False
    return True


cpdef cnp.ndarray array(object value, str name):
    """Return a plain array over the memory of whatever has `__array__`, DLPack or Arrow's interface and lives on the CPU."""
    if type(value) is cnp.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: a masked array is not accepted; fill it with .filled(), or give masked rows "
            "sample_weight 0 or the target ignore_index"
        )
    package = type(value).__module__.partition(".")[0]
    if package in FOREIGN and not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{name}: {type(value).__name__} is {FOREIGN[package]}")
    try:
        if package == "torch" and str(getattr(value, "dtype", None)) == "torch.bfloat16":
            return tensor_bits(value)
        if not hasattr(value, "__array__"):
            if hasattr(value, "__dlpack__"):
                return np.from_dlpack(value)
            if is_arrow(value):
                return of_arrow(value)
        found = np.asarray(value)
        if found.dtype == object and is_arrow(value):
            # Lists of one size are objects to NumPy; what is not numbers stays so.
            try:
                return of_arrow(value)
            except (ValueError, ImportError):
                pass
        return found
    except (ValueError, TypeError, RuntimeError, BufferError, AttributeError) as error:
        if type(value).__module__.startswith("jax") and "Tracer" in type(value).__name__:
            raise TypeError(
                f"{name}: a JAX tracer has no numbers yet; call this function outside of jit, grad and vmap; inside them, that "
                "of xent.jax, or by way of jax.pure_callback"
            ) from error
        remedy = "; the functions of xent.torch are differentiated by PyTorch" if getattr(value, "requires_grad", False) is True else ""
        raise TypeError(f"{name}: cannot be read as an array: {error}{remedy}") from error


cdef bint is_arrow(object value):
    return hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_c_stream__")


cdef cnp.ndarray of_arrow(object value):
    from xent import _arrow

    return _arrow.read(value)


# The bits of a tensor of bfloat16, for which NumPy has no dtype: precision_of knows them by this one.
cdef object TENSOR_BITS = np.dtype("V2", metadata={"dtype": "bfloat16"})


cdef cnp.ndarray tensor_bits(object tensor):
    if tensor.requires_grad:
        tensor.numpy()  # says that it cannot be had
    return tensor.view(sys.modules["torch"].int16).numpy().view(TENSOR_BITS)


cdef object tensor_dtype():
    """Return the dtype of results that are not written to a tensor: ml_dtypes' where it is installed, else that of bits."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return BITS
    return np.dtype(bfloat16)


cdef bint is_of_tensor(cnp.ndarray a) noexcept:
    return cnp.PyArray_TYPE(a) == cnp.NPY_VOID and a.dtype.metadata == TENSOR_BITS.metadata


cdef bint is_native_real(cnp.ndarray a) noexcept:
    """Whether an array is of one of NumPy's own real dtypes, of at most 64 bits, in any byte order."""
    cdef int number = cnp.PyArray_TYPE(a)
    return number == cnp.NPY_FLOAT16 or number <= cnp.NPY_DOUBLE


cdef bint is_bfloat16(object dtype) except -1:
    """Whether a dtype is the bfloat16 of ml_dtypes."""
    # The kind is compared first because NumPy takes microseconds to find a dtype's name.
    return dtype.kind == "V" and dtype.name == "bfloat16"


cdef bint is_index(cnp.ndarray a) noexcept:
    """Whether an array is of integers or bool."""
    return cnp.PyTypeNum_ISINTEGER(cnp.PyArray_TYPE(a)) or cnp.PyArray_TYPE(a) == cnp.NPY_BOOL


cpdef cnp.ndarray real(object value, str name, str of=""):
    """Return an array of any real dtype but longdouble; `of` ends the error message with what else is expected."""
    cdef cnp.ndarray found = array(value, name)
    if is_of_tensor(found):
        return np.left_shift(found.view(BITS), 16, dtype=np.uint32).view(F32)
    if not (is_native_real(found) or is_bfloat16(found.dtype)):
        cure = "; of a frame or column, .to_numpy(float, na_value=np.nan)" if found.dtype == object else ""
        raise TypeError(
            f"{name}: dtype {found.dtype} is not accepted; expected real numbers of at most 64 bits{of}{cure}"
        )
    return found


cdef class Precision:
    def __init__(self, storage, compute, result_dtype, bint bfloat16=False):
        self.storage, self.compute, self.result_dtype = storage, compute, result_dtype
        self.bfloat16 = bfloat16
        self.dtype = XENT_BF16 if bfloat16 else <xent_dtype>dtype_of(np.empty(0, storage))

    def __eq__(self, other):
        return isinstance(other, Precision) and (self.storage, self.compute, self.result_dtype, self.bfloat16) == (
            other.storage, other.compute, other.result_dtype, other.bfloat16)

    def __repr__(self):
        return f"Precision({self.storage}, {self.compute}, {self.result_dtype}, bfloat16={self.bfloat16})"

    __hash__ = None


cdef object F32 = np.dtype(np.float32), F64 = np.dtype(np.float64), BITS = np.dtype(np.uint16)
cdef Precision HALF = Precision(np.dtype(np.float16), F32, np.dtype(np.float16))
cdef Precision SINGLE = Precision(F32, F32, F32)
cdef Precision DOUBLE = Precision(F64, F64, F64)
cdef Precision BFLOAT16_BITS = Precision(BITS, F32, BITS, True)


cpdef bint are_bits(cnp.ndarray a) noexcept:
    """Whether the elements may be bits of bfloat16: uint16, or what such an array becomes in a .npy file, |V2."""
    cdef int number = cnp.PyArray_TYPE(a)
    return number == cnp.NPY_UINT16 or number == cnp.NPY_VOID and cnp.PyArray_ITEMSIZE(a) == 2


cdef Precision precision_of(cnp.ndarray a, str name, object dtype, bint integers=False):
    """Return the precision of floating or integer input; `dtype` is the argument of that name.

    Functions without that argument take uint16 as `integers`.
    """
    cdef int number = cnp.PyArray_TYPE(a)
    if dtype is not None:
        if not (isinstance(dtype, str) and dtype == "bfloat16"):
            raise ValueError(f"dtype: expected None or 'bfloat16' (for uint16 {name}), got {described(dtype)}")
        if number == cnp.NPY_UINT16:
            return BFLOAT16_BITS
        if are_bits(a) and a.dtype.names is None:
            return Precision(BITS, F32, a.dtype, True)
        if not is_bfloat16(a.dtype):
            raise ValueError(f"dtype: 'bfloat16' reads uint16 {name}, got dtype {a.dtype}")
    if number == cnp.NPY_UINT16 and not integers:
        raise TypeError(
            f"{name}: dtype uint16 is not accepted without dtype='bfloat16', which reads it as the bits of bfloat16 numbers; "
            "integers as numbers: .astype(np.int32)"
        )
    if number == cnp.NPY_FLOAT:
        return SINGLE
    if number == cnp.NPY_FLOAT16:
        return HALF
    if is_native_real(a):
        return DOUBLE
    if is_of_tensor(a):
        return Precision(BITS, F32, tensor_dtype(), True)
    if is_bfloat16(a.dtype):
        return Precision(BITS, F32, a.dtype, True)
    raise TypeError(
        f"{name}: dtype {a.dtype} is not accepted; expected float16, bfloat16, float32, float64, integers or bool"
        + ("; of a frame or column, .to_numpy(float, na_value=np.nan)" if a.dtype == object else "")
    )


cdef cnp.ndarray stored(cnp.ndarray a, Precision precision):
    """Return a view of an array as the core reads and writes it: bfloat16 as its bits."""
    return a.view(BITS) if precision.bfloat16 and cnp.PyArray_TYPE(a) != cnp.NPY_UINT16 else a


cpdef tuple logits(object value, str name, object dtype=None):
    """Return floating or integer input, as the core reads it, and its precision."""
    cdef cnp.ndarray found = array(value, name)
    cdef Precision precision = precision_of(found, name, dtype)
    return stored(found, precision), precision


cpdef int class_axis(object axis, int ndim, str name) except -1:
    """Return the class axis, counted from the front."""
    cdef Py_ssize_t position
    if ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, that of the classes; got a scalar")
    try:
        position = PyNumber_AsSsize_t(axis, NULL)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {described(axis)}") from None
    if not -ndim <= position < ndim:
        raise np.exceptions.AxisError(f"axis: {axis} is out of bounds for {name} with {ndim} axes")
    return <int>(position if position >= 0 else position + ndim)


# Targets.

cdef bint has_shape_of_rows(cnp.ndarray a, cnp.ndarray logits, int axis) noexcept:
    """Whether an array has the shape of the logits without the class axis."""
    cdef int d
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(logits) - 1:
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(logits, d + (d >= axis)):
            return False
    return True


cpdef tuple targets(object value, cnp.ndarray logits, int axis):
    """Return (class indices, None) or (None, class probabilities)."""
    cdef cnp.ndarray found = array(value, "targets")
    cdef tuple shape
    if has_shape_of_rows(found, logits, axis):
        if cnp.PyArray_SIZE(found) == 0 and not isinstance(value, np.ndarray):
            found = found.astype(np.int64)  # an empty list has no dtype of its own
        if is_index(found):
            return found if cnp.PyArray_ISNOTSWAPPED(found) else found.astype(found.dtype.newbyteorder("=")), None
        cure = ""
        if found.dtype.kind == "f" and (found == np.rint(found)).all():
            cure = ": convert them with .astype(np.int64)"
        raise TypeError(
            f"targets: dtype {found.dtype} is not accepted for class indices, of shape {shape_of(found)}; expected integers "
            f"or bool{cure}. Class probabilities would have the shape of the logits, {shape_of(logits)}"
        )
    shape, loss_shape = shape_of(logits), shape_of(logits, axis)
    if has_shape(found, shape):
        either = f" for class probabilities, of shape {shape}, or class indices of shape {loss_shape}"
        return None, real(found, "targets", either)
    raise ValueError(
        f"targets: shape {shape_of(found)} does not fit logits of shape {shape} with the classes on axis "
        f"{axis}; expected {loss_shape} for class indices or {shape} for class probabilities"
    )


cpdef tuple teacher(object value, cnp.ndarray student, Precision precision, object dtype):
    """Return the student's logits, which have been validated, the teacher's, and the precision that both are computed in."""
    cdef cnp.ndarray found = array(value, "teacher_logits")
    cdef Precision other = precision_of(found, "teacher_logits", dtype)
    if not has_shape(found, shape_of(student)):
        raise ValueError(
            f"teacher_logits: expected the shape of student_logits, {shape_of(student)}; got {shape_of(found)}"
        )
    if other is precision or other == precision:
        return student, stored(found, other), precision
    if dtype is not None:
        raise ValueError("teacher_logits: expected uint16, as student_logits, for dtype='bfloat16'")
    if is_of_tensor(found) and is_bfloat16(other.result_dtype):
        found = found.view(other.result_dtype)
    if precision.bfloat16 and not is_bfloat16(precision.result_dtype) or other.bfloat16 and not is_bfloat16(found.dtype):
        raise ValueError("teacher_logits: expected the dtype of student_logits where one is a tensor of bfloat16")
    # The logits are converted a block at a time, for which NumPy needs bfloat16 as its own dtype, not as bits.
    if precision.bfloat16:
        student = student.view(precision.result_dtype)
    wide = np.result_type(*[F32 if p.bfloat16 else p.storage for p in (precision, other)])
    common = precision_of(np.empty(0, wide), "", None)
    return student, found, Precision(common.storage, common.compute, precision.result_dtype)


cpdef object ignore_bits(object ignore_index, cnp.ndarray index):
    """Return the bits of `ignore_index` in the targets' dtype, sign-extended to 64, or None if no target can equal it."""
    cdef int64_t value
    cdef int overflow, bits
    if ignore_index is None:
        return None
    try:
        found = PyNumber_Index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index: expected an integer or None, got {described(ignore_index)}") from None
    value = PyLong_AsLongLongAndOverflow(found, &overflow)
    if index is None:
        if overflow > 0 or not overflow and value >= 0:
            raise ValueError(f"ignore_index: {found} needs class indices; with class probabilities use sample_weight")
        return None
    bits = 8 * cnp.PyArray_ITEMSIZE(index)
    if cnp.PyArray_TYPE(index) == cnp.NPY_BOOL:
        bits = 1
    if cnp.PyTypeNum_ISSIGNED(cnp.PyArray_TYPE(index)):
        return None if overflow or value >> (bits - 1) not in (0, -1) else found
    if bits == 64:
        return (found - (1 << 64) if found < 1 << 64 else None) if overflow > 0 else None if overflow or value < 0 else found
    return None if overflow or value < 0 or value >> bits else found


# Numbers.

cpdef double number(object value, str name, double low, double high, str expected) except? -1:
    """Return a finite number in [low, high]."""
    cdef double found
    if PyFloat_CheckExact(value):
        found = value
    else:
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"{name}: expected {expected}, got {described(value)}") from None
    if not low <= found <= high or not isfinite(found):
        raise ValueError(f"{name}: expected {expected}, got {described(value)}")
    return found


cpdef object count(object value, str name, object least):
    """Return an integer >= least."""
    try:
        found = PyNumber_Index(value)
    except TypeError:
        found = least - 1
    if isinstance(value, (bool, np.bool_)) or found < least:
        wrong = ValueError if isinstance(value, (int, np.integer)) else TypeError
        raise wrong(f"{name}: expected an integer >= {least}, got {described(value)}") from None
    return found


cpdef double eps(object value) except? -1:
    """Return the distance from 0 and 1 at which probabilities are clipped; 0 if they are not clipped."""
    return 0.0 if value is None else number(value, "eps", SMALLEST, 0.5, "None or a number in (0, 0.5]")


cpdef double label_smoothing(object value) except? -1:
    if value is True or value is False:
        raise TypeError(f"label_smoothing: expected a number in [0, 1], got {value}")
    return number(value, "label_smoothing", 0.0, 1.0, "a number in [0, 1]")


cpdef double z_loss(object value) except? -1:
    return number(value, "z_loss", 0.0, LARGEST, "a finite number >= 0")


cpdef double temperature(object value) except? -1:
    return number(value, "temperature", SMALLEST, LARGEST, "a finite number > 0")


cpdef double softcap(object value) except? -1:
    """Return the cap; 0 if there is none."""
    return 0.0 if value is None else number(value, "softcap", SMALLEST, LARGEST, "None or a finite number > 0")


cpdef double focal_gamma(object value, str name="gamma") except? -1:
    return number(value, name, 0.0, 1000.0, "a number in [0, 1000]")


cpdef double poly_epsilon(object value) except? -1:
    return number(value, "epsilon", -LARGEST, LARGEST, "a finite number")


cpdef double alpha(object value) except? -1:
    """Return the weight of positive elements; -1 if all weigh alike."""
    return -1.0 if value is None else number(value, "alpha", 0.0, 1.0, "None or a number in [0, 1]")


cpdef double clip(object value) except? -1:
    return number(value, "clip", 0.0, BELOW_ONE, "a number in [0, 1)")


cpdef int reduction(object value, bint batchmean=False) except -1:
    """Return the xent_reduction; that over the first axis alone is for losses that accept "batchmean"."""
    cdef object code = codes.get(value) if isinstance(value, str) else None
    if code is None or <int>code == XENT_BATCH_MEAN and not batchmean:
        accepted = [name for name in REDUCTIONS if batchmean or name != "batchmean"]
        raise ValueError(f"reduction: expected one of {', '.join(accepted)}, got {described(value)}")
    return code


cpdef bint flag(object value, str name) except -1:
    if value is True or value is False:
        return value is True
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected True or False, got {described(value)}") from None


# Arrays beside the logits.

cdef cnp.ndarray cast(cnp.ndarray a, object dtype):
    """Return the numbers in another dtype, infinite where they are too large for it."""
    cdef cnp.ndarray single
    cdef const double *numbers
    cdef float *to
    cdef int64_t i
    if has_dtype(a, dtype):
        return a
    if <PyObject *>dtype == <PyObject *>F32 and cnp.PyArray_TYPE(a) == cnp.NPY_DOUBLE and cnp.PyArray_ISCARRAY_RO(a):
        # By far the most frequent: weights that nobody gave a dtype.
        single = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.NPY_FLOAT, 0)
        numbers = <const double *>cnp.PyArray_DATA(a)
        to = <float *>cnp.PyArray_DATA(single)
        for i in range(cnp.PyArray_SIZE(a)):
            to[i] = <float>numbers[i]
        return single
    with np.errstate(all="ignore"):
        return a.astype(dtype)


cpdef int common_exponent(cnp.ndarray weights, object dtype) except? -1:
    """Return the exponent of the largest weight where float64 weights would leave the range of float32, else 0."""
    cdef double largest = 0, size
    cdef const double *numbers
    cdef int64_t i
    if <PyObject *>dtype != <PyObject *>F32 or cnp.PyArray_TYPE(weights) != cnp.NPY_DOUBLE or cnp.PyArray_SIZE(weights) == 0:
        return 0
    if cnp.PyArray_ISCARRAY_RO(weights):
        numbers = <const double *>cnp.PyArray_DATA(weights)
        for i in range(cnp.PyArray_SIZE(weights)):
            size = fabs(numbers[i])
            largest = size if size > largest else largest  # NaN is not
    else:
        largest = np.nanmax(np.abs(weights))
    if largest == 0 or not isfinite(largest) or 1e-30 <= largest <= 1e30:
        return 0
    return ilogb(largest)


cdef cnp.ndarray within_range(cnp.ndarray weights, object dtype):
    """Return the weights of a mean, which does not depend on their common factor, with one that leaves them in range."""
    cdef int exponent = common_exponent(weights, dtype)
    return weights if exponent == 0 else np.asarray(np.ldexp(weights, -exponent))


cpdef cnp.ndarray class_weight(object value, int64_t classes, object dtype, bint divides=False):
    """Return one weight a class; `divides`: the sum of the targets' weights divides the loss."""
    cdef cnp.ndarray found
    if value is None:
        return None
    if isinstance(value, (dict, str)):
        cure = "n / (C * np.bincount(targets, minlength=C))" if isinstance(value, str) else "[weights[c] for c in range(C)]"
        raise TypeError(f"class_weight: expected an array of shape ({classes},), got {described(value)}; give {cure}")
    found = real(value, "class_weight")
    return of_classes(within_range(found, dtype) if divides else found, "class_weight", classes, dtype)


cpdef cnp.ndarray class_bias(object value, int64_t classes, object dtype):
    return None if value is None else of_classes(real(value, "class_bias"), "class_bias", classes, dtype)


cdef cnp.ndarray of_classes(cnp.ndarray found, str name, int64_t classes, object dtype):
    """Return one number a class, as the core reads them."""
    if cnp.PyArray_NDIM(found) != 1 or cnp.PyArray_DIM(found, 0) != classes:
        raise ValueError(f"{name}: expected shape ({classes},), one {name.removeprefix('class_')} a class; got {shape_of(found)}")
    found = cast(found, dtype)
    return found if cnp.PyArray_ISCARRAY_RO(found) else np.require(found, requirements=("C", "A"))


cpdef cnp.ndarray sample_weight(object value, tuple shape, object dtype, int reduction, int64_t most=-1):
    """Return weights that broadcast to the loss; of more than `most` elements as they are, to be cast block by block."""
    cdef cnp.ndarray found
    if value is None:
        return None
    found = real(value, "sample_weight")
    if reduction == XENT_MEAN:
        found = within_range(found, dtype)
    return broadcastable(found, "sample_weight", shape, None if 0 <= most < cnp.PyArray_SIZE(found) else dtype)


cpdef cnp.ndarray broadcastable(object value, str name, tuple shape, object dtype, str of="the loss"):
    """Return numbers of any shape that broadcasts to that of the loss, or of an argument; cast unless `dtype` is None."""
    cdef cnp.ndarray found
    cdef int d, more
    if value is None:
        return None
    found = real(value, name)
    if dtype is not None:
        found = cast(found, dtype)
    more = len(shape) - cnp.PyArray_NDIM(found)
    for d in range(cnp.PyArray_NDIM(found)):
        if more < 0 or cnp.PyArray_DIM(found, d) != 1 and cnp.PyArray_DIM(found, d) != <int64_t>shape[more + d]:
            raise ValueError(f"{name}: shape {shape_of(found)} does not broadcast to that of {of}, {shape}")
    return found


cpdef tuple grad_output(object value, bint reduced, tuple shape, object dtype):
    """Return the upstream gradient as (one number for each row or None, one factor); cast unless `dtype` is None."""
    cdef cnp.ndarray found
    if value is None:
        return None, 1.0
    found = real(value, "grad_output")
    if not reduced:
        if not has_shape(found, shape):
            raise ValueError(
                f"grad_output: expected the shape of the loss, {shape}, for reduction='none'; got {shape_of(found)}"
            )
        return found if dtype is None else cast(found, dtype), 1.0
    if cnp.PyArray_NDIM(found) != 0:
        raise ValueError(f"grad_output: expected a scalar for a loss that is reduced, got {described(found)}")
    return None, float(found)


cpdef tuple factors(object value, cnp.ndarray a):
    """Return `a` and its scaling factors `b`, broadcast against each other, as SciPy's `logsumexp` has them."""
    cdef list shape = []
    cdef int d, ndim
    cdef int64_t of_a, of_b
    if value is None:
        return a, None
    cdef cnp.ndarray b = real(value, "b")
    ndim = max(cnp.PyArray_NDIM(a), cnp.PyArray_NDIM(b))
    for d in range(ndim):  # NumPy's own function for it takes 32 axes at most
        of_a = 1 if d < ndim - cnp.PyArray_NDIM(a) else cnp.PyArray_DIM(a, d - ndim + cnp.PyArray_NDIM(a))
        of_b = 1 if d < ndim - cnp.PyArray_NDIM(b) else cnp.PyArray_DIM(b, d - ndim + cnp.PyArray_NDIM(b))
        if of_a != of_b and of_a != 1 and of_b != 1:
            raise ValueError(f"b: shape {shape_of(b)} does not broadcast with that of a, {shape_of(a)}")
        shape.append(of_b if of_a == 1 else of_a)
    return np.broadcast_to(a, shape), np.broadcast_to(b, shape)


# Results, and the caller's arrays for them.

cpdef int requested_outputs(object return_grad, object return_hess, object grad_output, object grad_out, object hess_out) except -1:
    """Return 0, 1 if the gradient is requested, 2 if the Hessian is too; refuse arguments that go with one that is not."""
    cdef bint with_hess = flag(return_hess, "return_hess")
    cdef bint with_grad = flag(return_grad, "return_grad") or with_hess
    if not with_grad and (grad_output is not None or grad_out is not None):
        raise ValueError(f"{'grad_out' if grad_output is None else 'grad_output'}: given, but return_grad is False")
    if hess_out is not None and not with_hess:
        raise ValueError("hess_out: given, but return_hess is False")
    return with_grad + with_hess


cpdef cnp.ndarray of_tensor(object tensor, str name):
    """Return the memory of a PyTorch tensor on the CPU as an array that will be written to, of which autograd is told."""
    if tensor.requires_grad:
        raise TypeError(f"{name}: the tensor requires grad; give one that does not, or its .detach()")
    cdef cnp.ndarray found = array(tensor, name)
    sys.modules["torch"].autograd.graph.increment_version(tensor)
    return found


cpdef str float_name(cnp.ndarray a):
    """Return the name of an array's dtype, that of a tensor's bits of bfloat16 among them."""
    return "bfloat16" if is_of_tensor(a) else a.dtype.name


cpdef cnp.ndarray buffer(object value, str name, tuple shape, object dtype):
    """Return a caller's array to write to: exactly this shape and dtype, writeable, no two elements in the same memory."""
    if not isinstance(value, cnp.ndarray) and type(value).__module__.partition(".")[0] == "torch":
        value = of_tensor(value, name)
        if is_of_tensor(value) and (dtype == BITS or is_bfloat16(dtype)):
            value = value.view(dtype)
    if not isinstance(value, cnp.ndarray) or type(value) is not cnp.ndarray and isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    cdef cnp.ndarray found = value
    if not has_shape(found, shape) or not (has_dtype(found, dtype) or found.dtype == dtype):
        raise ValueError(f"{name}: expected shape {shape} and dtype {dtype}, got {described(value)}")
    if not cnp.PyArray_ISWRITEABLE(found):
        raise ValueError(f"{name}: the array is read-only")
    if cnp.PyArray_SIZE(found) == 0 or cnp.PyArray_IS_C_CONTIGUOUS(found):
        return found  # the strides of axes of size 1 mean nothing
    reach = found.itemsize - 1
    for step, size in sorted([(abs(s), n) for s, n in zip(value.strides, value.shape, strict=True)]):
        if size > 1 and step <= reach:
            raise ValueError(f"{name}: elements of the array share memory (strides {value.strides})")
        reach += step * max(size - 1, 0)
    return found


cdef void extent(cnp.ndarray a, char **first, char **end) noexcept:
    """The first byte of an array that is not empty, and the byte behind its last."""
    cdef int d
    cdef int64_t reach
    first[0] = <char *>cnp.PyArray_DATA(a)
    end[0] = first[0] + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, d) - 1) * cnp.PyArray_STRIDE(a, d)
        if reach < 0:
            first[0] += reach
        else:
            end[0] += reach


cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether one array, which may be None, ends before the other begins. Some that do not share no memory all the same."""
    cdef char *first_a
    cdef char *first_b
    cdef char *end_a
    cdef char *end_b
    if a is None or b is None or cnp.PyArray_SIZE(a) == 0 or cnp.PyArray_SIZE(b) == 0:
        return True
    extent(a, &first_a, &end_a)
    extent(b, &first_b, &end_b)
    return end_a <= first_b or end_b <= first_a


cpdef bint overlap(cnp.ndarray a, cnp.ndarray b) except -1:
    if apart(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return True


cpdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int d
    if (cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b)
            or cnp.PyArray_ITEMSIZE(a) != cnp.PyArray_ITEMSIZE(b)):
        return False
    for d in range(cnp.PyArray_NDIM(a)):
        if (cnp.PyArray_DIM(a, d) != cnp.PyArray_DIM(b, d)
                or cnp.PyArray_DIM(a, d) > 1 and cnp.PyArray_STRIDE(a, d) != cnp.PyArray_STRIDE(b, d)):
            return False
    return True


cpdef int check_no_overlap(dict buffers, dict inputs, tuple in_place=("", "")) except -1:
    """Refuse buffers that overlap an input or each other.

    `in_place` names a buffer and the input whose memory it may exactly be.
    """
    cdef list outputs = [(name, a) for name, a in buffers.items() if a is not None and cnp.PyArray_SIZE(a)]
    for position, (name, out) in enumerate(outputs):
        for other, source in inputs.items():
            if source is not None and cnp.PyArray_SIZE(source) and overlap(out, source):
                if not ((name, other) == in_place and same_memory(out, source)):
                    raise ValueError(f"{name}: the array overlaps the memory of {other}")
        for other, second in outputs[:position]:
            if overlap(out, second):
                raise ValueError(f"{name}: the array overlaps the memory of {other}")
    return 0
