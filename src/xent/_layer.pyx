# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False, cdivision=True, binding=False
"""The arrays whose products are logits, hidden states and weight or two sets of vectors: validated, read and written.

`few_logits` computes all logits where they are few. Those of larger layers are computed block by block, by `_linear`.
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t

from xent cimport _arguments as arguments
from xent._arguments cimport Precision, has_dtype, precision_of, shape_of, stored

from xent import _core
from xent._blocks import numbers, rounded

cnp.import_array()

# The most logits, rows and numbers of the weight whose product takes less time than what else there is to do.
cdef int64_t FEW_LOGITS = 1 << 16, FEW_ROWS = 256, FEW_WEIGHTS = 1 << 19
cdef object F32 = np.dtype(np.float32)


cpdef bint matrix(cnp.ndarray a, object dtype):
    """Whether BLAS can read an array without a copy: one axis is contiguous, and rows along it do not overlap."""
    cdef int64_t size = cnp.PyArray_ITEMSIZE(a), step, count
    cdef int inner
    if not (has_dtype(a, dtype) and cnp.PyArray_NDIM(a) == 2 and cnp.PyArray_ISALIGNED(a)):
        return False
    if cnp.PyArray_SIZE(a) > 0 and (cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a)):
        return True
    for inner in range(2):
        step, count = cnp.PyArray_STRIDE(a, 1 - inner), cnp.PyArray_DIM(a, inner)
        if cnp.PyArray_STRIDE(a, inner) == size and step % size == 0 and step >= count * size:
            return True
    return False


cdef class Factor:
    """Hidden, weight or bias, stored as the core would read it, and its gradient, which may be of another dtype."""

    cdef readonly cnp.ndarray values
    cdef readonly Precision kind
    cdef public object grad
    cdef public Precision grad_kind

    def __init__(self, cnp.ndarray values not None, Precision kind not None, grad=None):
        self.values, self.kind, self.grad, self.grad_kind = values, kind, grad, kind

    def read(self, at, dtype):
        """Return a part in the compute dtype, in a layout that BLAS can read."""
        found = numbers(self.values[at], self.kind)
        return found if matrix(found, dtype) else np.ascontiguousarray(found, dtype)

    def write(self, at, gradient):
        """Store a part of the gradient, rounded to its result dtype."""
        self.grad[at] = rounded(gradient, self.grad_kind)


cpdef Precision widest(factors):
    """Return the precision in which several arrays are computed together."""
    cdef Factor factor
    cdef Precision found = None
    for factor in factors:
        if found is None or factor.kind.compute.itemsize > found.compute.itemsize:
            found = factor.kind
    return Precision(found.compute, found.compute, found.compute) if found.storage is not found.compute else found


cdef dict factors_of(dict given, object dtype):
    """Return validated arrays, by the names of their arguments; `dtype` is the argument of that name."""
    cdef dict arrays = {}, found = {}
    cdef cnp.ndarray a
    cdef Precision kind
    cdef bint mixed = False
    for name, value in given.items():
        arrays[name] = a = arguments.array(value, name)
        mixed = mixed or arguments.are_bits(a)
    for name, a in arrays.items():
        # Bits of bfloat16 may be among other dtypes; among none, the first array is what `dtype` is refused for.
        kind = precision_of(a, name, dtype if (arguments.are_bits(a) if mixed else not found) else None)
        found[name] = Factor(stored(a, kind), kind)
    return found


def layer(hidden, weight, bias, dtype):
    """Return the validated arrays of a linear layer: hidden states (..., D), weight (C, D), and the bias (C,) if given."""
    cdef dict given = {"hidden": hidden, "weight": weight}
    if bias is not None:
        given["bias"] = bias
    cdef dict found = factors_of(given, dtype)
    cdef tuple states = shape_of((<Factor>found["hidden"]).values), shape = shape_of((<Factor>found["weight"]).values)
    if not states:
        raise ValueError("hidden: expected at least one axis, that of the features; got a scalar")
    if len(shape) != 2 or shape[1] != states[len(states) - 1]:
        raise ValueError(
            f"weight: expected shape (C, {states[len(states) - 1]}), for each class the features of hidden, "
            f"whose shape is {states}; got {shape}"
        )
    if bias is not None and shape_of((<Factor>found["bias"]).values) != shape[:1]:
        raise ValueError(
            f"bias: expected shape ({shape[0]},), a number for each class of weight; got {found['bias'].values.shape}"
        )
    return found


def pair(dict given not None, dtype):
    """Return the validated arrays of vectors, (N, D) and (M, D), by the names of their arguments."""
    cdef dict found = factors_of(given, dtype)
    (first, one), (second, other) = found.items()
    if one.values.ndim != 2:
        raise ValueError(
            f"{first}: expected shape (N, D), vectors of D features; got {one.values.shape}"
        )
    features = one.values.shape[1]
    if other.values.ndim != 2 or other.values.shape[1] != features:
        raise ValueError(
            f"{second}: expected vectors of {features} features, as those of {first}, whose shape is {one.values.shape}; "
            f"got {other.values.shape}"
        )
    return found


cpdef bint is_own(Factor hidden, Factor weight, object dtype):
    """Whether products with a weight are the library's own: what BLAS cannot read, but the library can."""
    return (
        dtype is F32 and has_dtype(hidden.values, hidden.kind.storage) and has_dtype(weight.values, weight.kind.storage)
        and not matrix(weight.values, dtype)
    )


cpdef bint are_few(Factor hidden, Factor weight):
    """Whether the logits of a layer are so few that all are computed at once."""
    cdef int64_t features = cnp.PyArray_DIM(weight.values, 1), classes = cnp.PyArray_DIM(weight.values, 0)
    cdef int64_t size = cnp.PyArray_SIZE(hidden.values)
    return (
        0 < size <= FEW_ROWS * features and 0 < classes * features <= FEW_WEIGHTS
        and classes * (size // features) <= FEW_LOGITS
    )


def few_logits(Factor hidden not None, Factor weight not None, Factor bias, dtype):
    """Return all logits of a layer of which there are few, in the compute dtype."""
    cdef bint own = is_own(hidden, weight, dtype)
    cdef int64_t classes = cnp.PyArray_DIM(weight.values, 0), features = cnp.PyArray_DIM(weight.values, 1)
    cdef tuple shape = shape_of(hidden.values, cnp.PyArray_NDIM(hidden.values) - 1) + (classes,)
    with np.errstate(all="ignore"):
        states = (hidden.values if own else in_dtype(hidden, dtype)).reshape(-1, features)
        of_classes = (weight.values if own else in_dtype(weight, dtype)).T
        if own:
            logits = np.empty((len(states), classes), dtype)
            _core.multiply(states, of_classes, logits, False)
        else:
            logits = np.matmul(states, of_classes)
        if bias is not None:
            logits += in_dtype(bias, dtype)
    return logits.reshape(shape)


cdef object in_dtype(Factor factor, object dtype):
    """Return the numbers of a factor in the compute dtype."""
    return factor.values if has_dtype(factor.values, dtype) else numbers(factor.values, factor.kind).astype(dtype)
