cimport numpy as cnp
from libc.stdint cimport int64_t

from xent.xent cimport xent_dtype


cdef class Precision:
    """The dtypes that follow from the dtype of the logits."""
    cdef readonly object storage        # of the logits as the core reads them: bfloat16 as its bits, uint16
    cdef readonly object compute        # of losses, weights and sums
    cdef readonly object result_dtype   # of gradients and probabilities: that of the logits, float64 for integers
    cdef readonly bint bfloat16
    cdef xent_dtype dtype               # what xent_call has for `storage`


cdef int dtype_of(cnp.ndarray a) noexcept
cdef bint has_dtype(cnp.ndarray a, object dtype) noexcept
cdef bint has_shape(cnp.ndarray a, tuple shape) noexcept
cdef tuple shape_of(cnp.ndarray a, int without=*)
cdef Precision precision_of(cnp.ndarray a, str name, object dtype, bint integers=*)
cdef cnp.ndarray stored(cnp.ndarray a, Precision precision)
cdef cnp.ndarray cast(cnp.ndarray a, object dtype)

cpdef bint are_bits(cnp.ndarray a) noexcept
cpdef cnp.ndarray array(object value, str name)
cpdef int class_axis(object axis, int ndim, str name) except -1
cpdef tuple targets(object value, cnp.ndarray logits, int axis)
cpdef tuple teacher(object value, cnp.ndarray student, Precision precision, object dtype)
cpdef int common_exponent(cnp.ndarray weights, object dtype) except? -1
cpdef cnp.ndarray class_weight(object value, int64_t classes, object dtype, bint divides=*)
cpdef cnp.ndarray class_bias(object value, int64_t classes, object dtype)
cpdef cnp.ndarray sample_weight(object value, tuple shape, object dtype, int reduction, int64_t most=*)
cpdef cnp.ndarray broadcastable(object value, str name, tuple shape, object dtype, str of=*)
cpdef cnp.ndarray real(object value, str name, str of=*)
cpdef tuple factors(object value, cnp.ndarray a)
cpdef tuple grad_output(object value, bint reduced, tuple shape, object dtype)
cpdef object ignore_bits(object ignore_index, cnp.ndarray index)
cpdef double number(object value, str name, double low, double high, str expected) except? -1
cpdef double eps(object value) except? -1
cpdef double label_smoothing(object value) except? -1
cpdef double z_loss(object value) except? -1
cpdef double temperature(object value) except? -1
cpdef double softcap(object value) except? -1
cpdef double focal_gamma(object value, str name=*) except? -1
cpdef double poly_epsilon(object value) except? -1
cpdef double alpha(object value) except? -1
cpdef double clip(object value) except? -1
cpdef int reduction(object value, bint batchmean=*) except -1
cpdef bint flag(object value, str name) except -1
cdef bint apart(cnp.ndarray a, cnp.ndarray b) noexcept
cpdef bint overlap(cnp.ndarray a, cnp.ndarray b) except -1
cpdef bint same_memory(cnp.ndarray a, cnp.ndarray b) noexcept
cpdef int requested_outputs(object return_grad, object return_hess, object grad_output, object grad_out, object hess_out) except -1
cpdef cnp.ndarray buffer(object value, str name, tuple shape, object dtype)
cpdef int check_no_overlap(dict buffers, dict inputs, tuple in_place=*) except -1
