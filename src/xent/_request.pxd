cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t

from xent._arguments cimport Precision
from xent.xent cimport xent_array, xent_call, xent_operation, xent_status

# The arrays of a call that have strides.
cdef enum:
    ARRAYS = 13


@cython.final
@cython.no_gc  # it holds arrays alone, and none of them holds it
@cython.freelist(8)
cdef class Request:
    """The arguments of one call, validated; its results; and where all of them lie."""
    cdef xent_call call
    cdef int64_t *layout        # the shape of the loss, then the strides of each array;
    cdef int64_t few[(1 + ARRAYS) * 4]  # here, if it has few axes
    cdef int axis               # the class axis of the logits; -1: every axis is one of the loss
    cdef bint repeated          # one element stands for all classes, which C takes for contiguous
    cdef readonly str operation
    cdef readonly str name      # what the public function calls its logits
    cdef readonly tuple shape   # of the loss
    cdef readonly Precision precision
    cdef public object ignore_index
    cdef bint with_grad, with_hess, with_lse
    # Inputs, as validated.
    cdef public cnp.ndarray logits, index, soft, class_weight, class_bias, sample_weight, pos_weight, grad_output
    cdef readonly cnp.ndarray block_sums
    # Results.
    cdef public cnp.ndarray loss, lse, out, hess
    cdef cnp.ndarray given  # the caller's array for the loss

    cdef int begin(self, str operation, cnp.ndarray logits, Precision precision, int axis) except -1
    cdef int64_t classes(self) noexcept
    cdef int set_outputs(self, object return_grad, object return_hess, object return_lse,
                         object grad_output, object out, object grad_out, object hess_out) except -1
    cdef bint apart_from_inputs(self, cnp.ndarray a, bint in_place) noexcept
    cdef cnp.ndarray loss_buffer(self, object out)
    cpdef object results(self, object out=*, object runs=*)
    cdef object scalar(self, double value)
    cpdef int run(self) except -1
    cdef xent_status run_core(self) noexcept
    cdef int convert_few(self) except -1
    cdef bint is_native(self)
    cdef int describe(self) except -1
    cdef int64_t place(self, int slot, xent_array *to, cnp.ndarray a) noexcept
    cdef int64_t bad_row(self, xent_status status) except -2
    cdef bint is_probability(self, int64_t position) except -1
    cpdef int refuse(self, int64_t row) except -1
    cpdef int validate_probabilities(self) except -1
    cpdef bint layout_supported(self)


cpdef str first_argument(str operation)
cdef Request new_request(str operation, cnp.ndarray logits, Precision precision, int axis)
cdef cnp.ndarray empty(tuple shape, object dtype)
cdef cnp.ndarray empty_like(cnp.ndarray a, object dtype)
