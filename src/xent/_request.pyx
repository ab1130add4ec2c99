# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False, cdivision=True, binding=False
"""The one way in: validate → allocate → run → return, for every function.

A `Request` is one call of the C interface. The functions of `_functions` validate their arguments into one, which then
allocates its results, runs and returns them. Arrays that no kernel reads as they lie, of other dtypes, byte orders or without
a contiguous axis, are left to `_blocks`, which copies a block of rows at a time and runs a `part` of the request on each.
"""

import numpy as np

cimport numpy as cnp
from cpython.contextvars cimport get_value
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t

from xent cimport _arguments as arguments, _pool
from xent._arguments cimport Precision, dtype_of, has_dtype, shape_of
from xent.capi cimport xent_import
from xent.xent cimport *

from xent._arguments import REDUCTIONS
from xent._core import context_threads

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *data, cnp.PyArray_Descr *descr, object base)

cdef extern from "Python.h":
    # Declared without exceptions: the one it sets stays pending until `pending` raises it.
    int PyErr_CheckSignals() noexcept

cnp.import_array()
xent_import()

# What public functions call their first argument, if not "logits".
cdef dict FIRST_ARGUMENTS = {
    "nll_loss": "log_probs", "categorical_cross_entropy": "probs", "distillation_loss": "student_logits",
    "binary_cross_entropy": "probs", "kl_div": "log_probs", "logsumexp": "a", "softmax": "x", "log_softmax": "x",
}


cdef dict named_operations():
    """The xent_operation of each name, and what its public function calls its first argument."""
    cdef dict found = {}
    cdef int i = 0
    while xent_operation_name(<xent_operation>i) != NULL:
        name = xent_operation_name(<xent_operation>i).decode()
        found[name] = i, FIRST_ARGUMENTS.get(name, "logits")
        i += 1
    return found


cdef dict OPERATIONS = named_operations()

# So many elements of an elementwise loss, or bytes of rows, are converted at once.
ELEMENTS, BLOCK_BYTES = 1 << 16, 1 << 20
cdef int64_t FEW_ELEMENTS = ELEMENTS, FEW_BYTES = BLOCK_BYTES


cdef int poll(void *data) noexcept with gil:
    return PyErr_CheckSignals()


cdef xent_call DEFAULTS = XENT_CALL_DEFAULTS
DEFAULTS.reduction = XENT_NONE
DEFAULTS.poll = poll


cdef int pending() except -1:
    """Raises the exception that a signal's handler left behind."""
    return -1


cdef class Request:
    def __cinit__(self):
        self.layout = self.few
        self.call = DEFAULTS

    def __dealloc__(self):
        if self.layout != self.few:
            PyMem_Free(self.layout)

    def __init__(self, str operation, cnp.ndarray logits not None, Precision precision not None, int axis):
        """`axis` counts from the front; -1 if every axis is one of the loss."""
        self.begin(operation, logits, precision, axis)

    cdef int begin(self, str operation, cnp.ndarray logits, Precision precision, int axis) except -1:
        cdef tuple known = OPERATIONS[operation]
        self.operation = operation
        self.call.operation = <xent_operation><int>known[0]
        self.name = known[1]
        self.logits = logits
        self.precision = precision
        self.axis = axis
        self.shape = shape_of(logits, axis)
        return 0

    cdef int64_t classes(self) noexcept:
        return 1 if self.axis < 0 else cnp.PyArray_DIM(self.logits, self.axis)

    cdef int set_outputs(self, object return_grad, object return_hess, object return_lse,
                          object grad_output, object out, object grad_out, object hess_out) except -1:
        """Which results are requested, and the caller's arrays for them."""
        cdef int requested = arguments.requested_outputs(return_grad, return_hess, grad_output, grad_out, hess_out)
        self.with_grad, self.with_hess = requested >= 1, requested == 2
        cdef object dtype = self.precision.result_dtype
        cdef tuple shape
        self.with_lse = arguments.flag(return_lse, "return_lse")
        if out is None and grad_out is None and hess_out is None:
            return 0
        shape = shape_of(self.logits)
        if out is not None:
            out = self.given = self.loss_buffer(out)
        if grad_out is not None:
            self.out = arguments.buffer(grad_out, "grad_out", shape, dtype)
        if hess_out is not None:
            self.hess = arguments.buffer(hess_out, "hess_out", shape, dtype)
        if not (
            (out is None or self.apart_from_inputs(out, False))
            and (self.out is None or self.apart_from_inputs(self.out, arguments.same_memory(self.out, self.logits)))
            and (self.hess is None or self.apart_from_inputs(self.hess, False))
            and arguments.apart(out, self.out) and arguments.apart(out, self.hess) and arguments.apart(self.out, self.hess)
        ):
            arguments.check_no_overlap(
                {"out": out, "grad_out": self.out, "hess_out": self.hess},
                {self.name: self.logits, **self.targets_and_weights()},
                ("grad_out", self.name),
            )
        return 0

    cdef bint apart_from_inputs(self, cnp.ndarray a, bint in_place) noexcept:
        return (
            (in_place or arguments.apart(a, self.logits))
            and arguments.apart(a, self.index)
            and arguments.apart(a, self.soft)
            and arguments.apart(a, self.class_weight)
            and arguments.apart(a, self.class_bias)
            and arguments.apart(a, self.sample_weight)
            and arguments.apart(a, self.pos_weight)
            and arguments.apart(a, self.grad_output)
        )

    def targets_and_weights(self):
        """Return the inputs beside the logits, by the names of their arguments."""
        return {
            "teacher_logits" if self.call.operation == XENT_DISTILLATION_LOSS else "targets":
                self.index if self.soft is None else self.soft,
            "class_weight": self.class_weight,
            "class_bias": self.class_bias,
            "sample_weight": self.sample_weight,
            "pos_weight": self.pos_weight,
            "grad_output": self.grad_output,
        }

    cdef cnp.ndarray loss_buffer(self, object out):
        cdef tuple shape = self.shape if self.call.reduction == XENT_NONE else ()
        return None if out is None else arguments.buffer(out, "out", shape, self.precision.compute)

    # Allocate, run, return.

    cpdef object results(self, object out=None, object runs=None):
        """Return the loss, or a tuple of it and of the requested results. `runs` computes them in another way than `run`."""
        cdef object loss
        cdef list more
        cdef bint reduced = self.call.reduction != XENT_NONE
        if not reduced:
            self.loss = empty(self.shape, self.precision.compute) if out is None else out
        if self.with_grad and self.out is None:
            self.out = empty_like(self.logits, self.precision.result_dtype)
        if self.with_hess and self.hess is None:
            self.hess = empty_like(self.logits, self.precision.result_dtype)
        if self.with_lse:
            self.lse = empty(self.shape, self.precision.compute)
        if runs is None:
            self.run()
        else:
            self.call.result = runs(self)
        if reduced:
            loss = self.scalar(self.call.result)
            if out is not None:
                out[...] = loss
        elif out is None and not self.shape:
            loss = self.loss[()]
        else:
            loss = self.loss
        if out is not None:
            loss = out
        if not (self.with_grad or self.with_lse):
            return loss
        if self.with_grad and not self.with_hess and not self.with_lse:
            return loss, self.out
        more = [loss]
        if self.with_grad:
            more.append(self.out)
        if self.with_hess:
            more.append(self.hess)
        if self.with_lse:
            more.append(self.lse if self.shape else self.lse[()])
        return tuple(more)

    cdef object scalar(self, double value):
        """A NumPy scalar of the loss's dtype."""
        cdef float single = <float>value
        cdef cnp.PyArray_Descr *dtype = <cnp.PyArray_Descr *>self.precision.compute
        return PyArray_Scalar(&single if (<cnp.dtype>self.precision.compute).type_num == cnp.NPY_FLOAT else <void *>&value, dtype, None)

    cpdef int run(self) except -1:
        """Compute the results that have an array, and the reduced loss."""
        cdef xent_status status
        _pool.tick()
        self.convert_few()
        self.describe()
        status = XENT_BAD_LAYOUT
        if self.is_native():
            status = self.run_core()
            if status == XENT_NO_MEMORY and _pool.release():
                status = self.run_core()  # nothing has been written
        if status == XENT_BAD_LAYOUT:
            from xent import _blocks

            self.call.result = _blocks.run(self)
        elif status != XENT_OK:
            self.refuse(self.bad_row(status))
        return 0

    cdef xent_status run_core(self) noexcept:
        cdef xent_status status
        if cnp.PyArray_SIZE(self.logits) < 1 << 13:
            return xent_run(&self.call)  # over before another thread would have run
        with nogil:
            status = xent_run(&self.call)
        return status

    cdef int convert_few(self) except -1:
        """Few numbers are converted at once rather than block by block."""
        cdef int64_t size = cnp.PyArray_SIZE(self.logits)
        if size > FEW_ELEMENTS if self.axis < 0 else size * 8 > FEW_BYTES:
            return 0
        self.logits = arguments.cast(self.logits, self.precision.storage)
        if self.soft is not None:
            self.soft = arguments.cast(self.soft, self.soft_dtype)
        if self.grad_output is not None:
            self.grad_output = arguments.cast(self.grad_output, self.precision.compute)
        return 0

    cdef bint is_native(self):
        """Whether the core can read and write every array as it is, if its layout is supported."""
        cdef object storage = self.precision.storage, compute = self.precision.compute
        cdef bint as_bits = self.precision.bfloat16
        return (
            has_dtype(self.logits, storage)
            and (self.soft is None or has_dtype(self.soft, self.soft_dtype))
            and (self.sample_weight is None or has_dtype(self.sample_weight, compute))
            and (self.pos_weight is None or has_dtype(self.pos_weight, compute))
            and (self.grad_output is None or has_dtype(self.grad_output, compute))
            and (self.out is None or as_bits or has_dtype(self.out, storage))
            and (self.hess is None or as_bits or has_dtype(self.hess, storage))
            and not self.repeated
        )

    cdef int describe(self) except -1:
        """Tells the C interface where everything lies."""
        cdef int d, ndim = <int>len(self.shape)
        self.layout = self.few
        if ndim > 4:
            self.layout = <int64_t *>PyMem_Malloc((1 + ARRAYS) * ndim * sizeof(int64_t))
            if self.layout == NULL:
                raise MemoryError
        for d in range(ndim):
            self.layout[d] = self.shape[d]
        self.call.ndim = ndim
        self.call.shape = self.layout
        self.call.classes = self.classes()
        self.call.dtype = self.precision.dtype
        self.call.threads = get_value(context_threads)
        self.call.logits_class_step = self.place(1, &self.call.logits, self.logits)
        self.place(2, &self.call.index, self.index)
        if self.index is not None:
            self.call.index_type = <xent_dtype>dtype_of(self.index)
        self.call.soft_class_step = self.place(2, &self.call.soft, self.soft) if self.soft is not None else 0
        self.call.class_weight = NULL if self.class_weight is None else cnp.PyArray_DATA(self.class_weight)
        self.call.class_bias = NULL if self.class_bias is None else cnp.PyArray_DATA(self.class_bias)
        self.place(3, &self.call.sample_weight, self.sample_weight)
        self.place(4, &self.call.pos_weight, self.pos_weight)
        self.place(5, &self.call.grad_output, self.grad_output)
        self.place(6, &self.call.loss, self.loss)
        self.place(7, &self.call.lse, self.lse)
        self.call.out_class_step = self.place(8, &self.call.out, self.out)
        self.call.hess_class_step = self.place(9, &self.call.hess, self.hess)
        self.call.block_sums = NULL if self.block_sums is None else <double *>cnp.PyArray_DATA(self.block_sums)
        return 0

    cdef int64_t place(self, int slot, xent_array *to, cnp.ndarray a) noexcept:
        """Returns the step of the class axis, of arrays that have one. Others are broadcast to the loss."""
        cdef int d, ndim = self.call.ndim, missing
        cdef int64_t step
        cdef int64_t *strides = self.layout + slot * ndim
        if a is None:
            to.data = NULL
            return 0
        to.data = cnp.PyArray_DATA(a)
        to.strides = strides
        missing = ndim - cnp.PyArray_NDIM(a)
        if missing < 0:
            for d in range(ndim):
                strides[d] = cnp.PyArray_STRIDE(a, d + (d >= self.axis))
            step = cnp.PyArray_STRIDE(a, self.axis)
            self.repeated |= step == 0 and self.call.classes > 1
            return step
        for d in range(ndim):
            strides[d] = 0
            if d >= missing and cnp.PyArray_DIM(a, d - missing) == self.layout[d]:
                strides[d] = cnp.PyArray_STRIDE(a, d - missing)
        return 0

    cdef int64_t bad_row(self, xent_status status) except -2:
        """-1, or the row of a bad target, or the position of a bad probability."""
        if status == XENT_OK:
            return -1
        if status == XENT_BAD_TARGET or status == XENT_BAD_PROBABILITY:
            return self.call.bad_row
        if status == XENT_INTERRUPTED:
            pending()
        text = xent_status_text(status).decode()
        if status == XENT_BAD_ARGUMENT:
            raise ValueError(f"xent: {text}: {self.call.bad_argument.decode()}")
        raise MemoryError(f"xent: {text}") if status == XENT_NO_MEMORY else ValueError(f"xent: {text}")

    cpdef int refuse(self, int64_t row) except -1:
        """Raise the exception for the bad target or probability of a row or at a position; -1: none is bad."""
        cdef tuple where
        if row < 0:
            return 0
        if self.axis < 0 and self.is_probability(row):
            raise bad_probability(np.broadcast_to(self.soft, self.shape), None, "targets", row)
        if self.index is None:
            raise bad_probability(self.logits, self.precision, self.name, row)
        if self.reads_targets_alone:
            # The core has found the target outside the classes, or else its probability outside [0, 1].
            where = np.unravel_index(row, self.shape)
            target = int(self.index[where])
            if 0 <= target < self.classes():
                where = (*where[:self.axis], target, *where[self.axis:])
                raise bad_probability(
                    self.logits, self.precision, self.name, np.ravel_multi_index(where, shape_of(self.logits)))
        raise bad_target(self.index, row, self.classes(), self.ignore_index)

    cdef bint is_probability(self, int64_t position) except -1:
        """Whether the number at a flat position is, so that its target is not."""
        if self.soft is None:
            return False
        from xent._blocks import numbers

        value = float(numbers(np.asarray(self.logits[np.unravel_index(position, self.shape)]), self.precision))
        most = 1.0 if self.call.eps == 0 else 1 + 2.0 ** (-7 if self.precision.bfloat16 else -np.finfo(self.precision.storage).nmant)
        return not (value < 0 or value > most)

    def widened(self):
        """Return the same request with logits of the compute dtype."""
        cdef Precision wide = arguments.precision_of(np.empty(0, self.precision.compute), "", None)
        from xent._blocks import numbers

        logits = numbers(self.logits, self.precision).astype(self.precision.compute)
        cdef Request request = new_request(self.operation, logits, wide, self.axis)
        request.call = self.call
        request.ignore_index = self.ignore_index
        request.index, request.soft = self.index, self.soft
        request.class_weight, request.class_bias = self.class_weight, self.class_bias
        return request

    def set_class_weight(self, value):
        self.class_weight = arguments.class_weight(value, self.classes(), self.precision.compute)

    def set_gradient(self, cnp.ndarray out):
        self.out = out

    def gradient_buffer(self, out):
        """Return the caller's array for the gradient, validated, or a new one."""
        cdef object dtype = self.precision.result_dtype
        if out is None:
            return empty_like(self.logits, dtype)
        self.set_outputs(True, False, False, None, None, out, None)
        return self.out

    def stage(self, str name, cnp.ndarray sums not None, int64_t offset, int64_t num_classes, double entropy_weight=0.0,
              double label_smoothing=0.0, coefs=(None, None, None, None),
              cnp.ndarray rank=None, cnp.ndarray top_index=None, cnp.ndarray top_logit=None, bint score=False,
              bint continues=False):
        """Run one stage, "reduce" or "apply", of rows whose sums lie in C order; `coefs` are those of each row, to apply.

        Logits that no kernel reads as they lie are copied. `continues`: the sums are those of the classes before, and go on.
        """
        cdef xent_status status
        if cnp.PyArray_SIZE(sums) == 0:
            return
        self.call.entropy_weight = entropy_weight
        self.call.label_smoothing = label_smoothing
        self.logits = arguments.cast(self.logits, self.precision.storage)
        if self.soft is not None:
            self.soft = arguments.cast(self.soft, self.soft_dtype)
        self.describe()
        cdef cnp.ndarray into = self.out
        if not self.layout_supported():
            self.logits = np.ascontiguousarray(self.logits)
            if into is not None:
                self.out = np.empty(shape_of(into), into.dtype)
            self.soft = None if self.soft is None else np.ascontiguousarray(self.soft)
            self.repeated = False
            self.describe()
        self.call.sums = <xent_sums *>cnp.PyArray_DATA(sums)
        self.call.class_offset = offset
        self.call.num_classes = num_classes
        self.call.score = score
        self.call.continues = continues
        self.call.rank = NULL if rank is None else <int64_t *>cnp.PyArray_DATA(rank)
        if top_index is not None:
            self.call.top_k = <int>cnp.PyArray_DIM(top_index, cnp.PyArray_NDIM(top_index) - 1)
            self.call.top_index = <int64_t *>cnp.PyArray_DATA(top_index)
            self.call.top_logit = <double *>cnp.PyArray_DATA(top_logit)
        self.place(10, &self.call.lse_coef, coefs[0])
        self.place(11, &self.call.nll_coef, coefs[1])
        self.place(12, &self.call.entropy_coef, coefs[2])
        self.place(13, &self.call.smooth_coef, coefs[3])
        with nogil:
            status = xent_reduce(&self.call) if self.out is None else xent_apply(&self.call)
        row = self.bad_row(status)
        if row >= 0:
            raise bad_target(self.index, row, num_classes, self.ignore_index)
        if into is not self.out:
            into[...] = self.out

    def head(self, cnp.ndarray sums not None):
        """Write the losses of rows whose sums, of all classes, lie in C order."""
        cdef xent_status status
        self.describe()
        self.call.sums = <xent_sums *>cnp.PyArray_DATA(sums)
        with nogil:
            status = xent_head(&self.call)
        self.bad_row(status)

    # For `_blocks`: what lies otherwise is computed in parts.

    def part(self, cnp.ndarray logits not None, cnp.ndarray index=None, cnp.ndarray soft=None, cnp.ndarray sample_weight=None,
             cnp.ndarray pos_weight=None, cnp.ndarray grad_output=None, cnp.ndarray loss=None, cnp.ndarray lse=None,
             cnp.ndarray out=None, cnp.ndarray hess=None, cnp.ndarray block_sums=None, str reduction=None,
             bint unread=False, slice classes=None):
        """Return the request for a part of the rows, or elements: arrays as the core reads them, the class axis last.

        `unread` logits are a placeholder: `nll_loss` has the targets of `categorical_cross_entropy`, but not its checks.
        `classes` are those of the logits, if these are a shard.
        """
        cdef int axis = -1 if self.axis < 0 else cnp.PyArray_NDIM(logits) - 1
        cdef Request part = new_request(self.operation, logits, self.precision, axis)
        part.call = self.call
        if reduction is not None:
            part.call.reduction = <xent_reduction><int>REDUCTIONS[reduction]
        if unread and self.reads_targets_alone:
            part.call.operation = XENT_NLL_LOSS
            part.call.eps = 0.0
        part.ignore_index = self.ignore_index
        part.index, part.soft, part.sample_weight = index, soft, sample_weight
        part.class_weight, part.class_bias = self.class_weight, self.class_bias
        if classes is not None and self.class_weight is not None:
            part.class_weight = self.class_weight[classes]
        part.pos_weight, part.grad_output, part.block_sums = pos_weight, grad_output, block_sums
        part.loss, part.lse, part.out, part.hess = loss, lse, out, hess
        part.describe()
        return part

    def classes_last(self, cnp.ndarray a):
        """Return a view of one of the arrays, or None, in which the class axis is the last."""
        cdef int last
        if a is None or self.axis < 0 or cnp.PyArray_NDIM(a) <= len(self.shape):
            return a
        last = cnp.PyArray_NDIM(a) - 1
        return a if self.axis == last else a.transpose(*range(self.axis), *range(self.axis + 1, last + 1), self.axis)

    cpdef bint layout_supported(self):
        """Whether the described arrays can be used where they lie."""
        return not self.repeated and xent_layout_supported(&self.call)

    @property
    def num_classes(self):
        return self.classes()

    @property
    def class_axis(self):
        return self.axis

    @property
    def temperature(self):
        return self.call.temperature

    @property
    def label_smoothing(self):
        return self.call.label_smoothing

    @property
    def softcap(self):
        return self.call.softcap

    def ignores_index(self, cnp.ndarray index):
        """Whether an element of these class indices can equal `ignore_index`."""
        return arguments.ignore_bits(self.ignore_index, index) is not None

    @property
    def elementwise(self):
        return self.axis < 0

    @property
    def reads_targets_alone(self):
        """Whether the probabilities of the targets are all that is read, and validated."""
        return (
            self.call.operation == XENT_CATEGORICAL_CROSS_ENTROPY and self.index is not None
            and self.call.label_smoothing == 0
        )

    @property
    def reduction(self):
        return next(name for name, code in REDUCTIONS.items() if code == self.call.reduction)

    @property
    def soft_dtype(self):
        """The dtype in which the core reads soft targets, or the teacher's logits."""
        return self.precision.storage if self.call.operation == XENT_DISTILLATION_LOSS else self.precision.compute

    @property
    def divisor(self):
        return self.call.divisor

    @divisor.setter
    def divisor(self, double value):
        self.call.divisor = value

    @property
    def result(self):
        return self.call.result

    @property
    def ignores(self):
        """Whether a target can equal `ignore_index`."""
        return bool(self.call.has_ignore)

    @property
    def options(self):
        """The fields of the call that are options rather than arrays, by name."""
        return {
            "operation": <int>self.call.operation,
            "reduction": <int>self.call.reduction,
            "has_ignore": self.call.has_ignore,
            "ignore_index": self.call.ignore_index,
            "log_target": self.call.log_target,
            "label_smoothing": self.call.label_smoothing,
            "strength": self.call.strength,
            "eps": self.call.eps,
            "z_loss": self.call.z_loss,
            "softcap": self.call.softcap,
            "temperature": self.call.temperature,
            "alpha": self.call.alpha,
            "negative_strength": self.call.negative_strength,
            "clip": self.call.clip,
        }

    @options.setter
    def options(self, dict values):
        self.call.operation = <xent_operation><int>values["operation"]
        self.call.reduction = <xent_reduction><int>values["reduction"]
        self.call.has_ignore = values["has_ignore"]
        self.call.ignore_index = values["ignore_index"]
        self.call.log_target = values["log_target"]
        self.call.label_smoothing = values["label_smoothing"]
        self.call.strength = values["strength"]
        self.call.eps = values["eps"]
        self.call.z_loss = values["z_loss"]
        self.call.softcap = values["softcap"]
        self.call.temperature = values["temperature"]
        self.call.alpha = values["alpha"]
        self.call.negative_strength = values["negative_strength"]
        self.call.clip = values["clip"]

    @property
    def grad_scale(self):
        return self.call.grad_scale

    @grad_scale.setter
    def grad_scale(self, double value):
        self.call.grad_scale = value

    def validate_targets(self):
        """Raise the exception for the first class index that is no class. The logits are not read."""
        cdef Request part = self.part(self.classes_last(self.logits), self.index, unread=True)
        self.refuse(part.prepare())

    def validate(self):
        """Raise the exception for the first class index that is no class, or the first probability that is none."""
        self.validate_probabilities()
        self.describe()
        self.refuse(self.prepare())

    cpdef int validate_probabilities(self) except -1:
        """Refuse numbers outside [0, 1] in rows that count, unless those of targets alone are read; NaN passes."""
        cdef Request request
        cdef cnp.ndarray weight = self.sample_weight
        if self.call.operation != XENT_CATEGORICAL_CROSS_ENTROPY or self.reads_targets_alone:
            return 0
        request = new_request("binary_cross_entropy", self.logits, self.precision, -1)
        if self.index is not None and self.call.has_ignore:
            weight = np.where(
                self.index == self.ignore_index, 0, 1 if weight is None else weight).astype(self.precision.compute)
        if weight is not None:
            weight = np.expand_dims(np.broadcast_to(weight, self.shape), self.axis)
            request.sample_weight = np.broadcast_to(weight, request.shape)
        request.call.eps = self.call.eps
        request.name = self.name
        request.convert_few()
        request.describe()
        if request.is_native():
            request.refuse(request.prepare())
            return 0
        from xent import _blocks

        _blocks.validate_probabilities(request)
        return 0

    def prepare(self):
        """Check the class indices or probabilities: the row of the first bad one, or -1. Find the divisor."""
        cdef xent_status status
        with nogil:
            status = xent_prepare(&self.call)
        return self.bad_row(status)

    def compute(self):
        cdef xent_status status
        with nogil:
            status = xent_compute(&self.call)
        return self.bad_row(status)

    def finish(self):
        """Sum the losses, or the sums of blocks; return the reduced loss."""
        cdef xent_status status
        with nogil:
            status = xent_finish(&self.call)
        self.bad_row(status)
        return self.call.result


cpdef str first_argument(str operation):
    """What the public function of this name calls its logits."""
    return (<tuple>OPERATIONS[operation])[1]


cdef Request new_request(str operation, cnp.ndarray logits, Precision precision, int axis):
    cdef Request request = Request.__new__(Request)
    request.begin(operation, logits, precision, axis)
    return request


cdef cnp.ndarray empty(tuple shape, object dtype):
    cdef cnp.npy_intp sizes[64]
    cdef int d
    for d in range(<int>len(shape)):
        sizes[d] = shape[d]
    return _pool.empty(<int>len(shape), sizes, dtype)


cdef cnp.ndarray empty_like(cnp.ndarray a, object dtype):
    return _pool.empty(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), dtype)


def bad_target(cnp.ndarray index, int64_t row, int64_t classes, ignore_index, str name="targets", str one="target"):
    """Return the exception for the class index at flat position `row`; `one` is what an element of the argument is."""
    position = np.unravel_index(row, shape_of(index))
    value = int(index[position])
    where = ", ".join(str(int(i)) for i in position)
    return IndexError(f"{name}[{where}] = {value}{not_a_class(classes, ignore_index, one)}")


def not_a_class(int64_t classes, ignore_index, str one="target"):
    """Return what the message of a bad class index says after its value."""
    but = "" if ignore_index is None else f" or ignore_index={ignore_index}"
    return f" is not a class; expected 0 <= {one} < {classes}{but}"


def bad_probability(cnp.ndarray a, Precision precision, str name, int64_t position):
    """Return the exception for the probability at a flat position, which is outside [0, 1]; `precision` None: as it is."""
    from xent._blocks import numbers

    place = np.unravel_index(position, shape_of(a))
    where = ", ".join(str(int(i)) for i in place)
    value = float(a[place] if precision is None else numbers(np.asarray(a[place]), precision))
    return ValueError(f"{name}[{where}] = {value} is not a probability; expected 0 <= p <= 1")
