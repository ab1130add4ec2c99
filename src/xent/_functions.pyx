# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, annotation_typing=False, cdivision=True, binding=False
"""What the public functions call: their arguments, validated into a `Request`, and its results.

Each family has one function: the losses over a softmax, elementwise losses, softmax and log-softmax, log-sum-exp. None has a
fast path: what plain arrays need is a few comparisons.
"""

import numpy as np

cimport numpy as cnp
from libc.math cimport INFINITY, ldexp
from libc.stdint cimport int64_t

from xent cimport _arguments as arguments
from xent._arguments cimport Precision, has_dtype, shape_of
from xent._request cimport Request, empty, empty_like, first_argument, new_request
from xent.capi cimport xent_import
from xent.xent cimport *

from xent._request import ELEMENTS as FEW

cnp.import_array()
xent_import()

cdef object F64 = np.dtype(np.float64)
# So many weights of elements are cast at once, more block by block.
cdef int64_t ELEMENTS = FEW


cdef int set_targets(Request request, object value, str function) except -1:
    """Class indices; and class probabilities, unless `function` takes none."""
    request.index, request.soft = arguments.targets(value, request.logits, request.axis)
    if request.soft is not None and function is not None:
        raise TypeError(
            f"targets: class probabilities, of dtype {request.soft.dtype} and the logits' shape {shape_of(request.logits)}, are "
            f"not accepted by {function}; expected class indices of shape {request.shape}"
        )
    return 0

cdef int set_ignored(Request request, object ignore_index) except -1:
    request.ignore_index = ignore_index
    bits = arguments.ignore_bits(ignore_index, request.index)
    if bits is not None:
        request.call.has_ignore = 1
        request.call.ignore_index = bits
    return 0


cdef int set_upstream(Request request, object grad_output, object dtype) except -1:
    cdef double scale
    if grad_output is not None:
        request.grad_output, scale = arguments.grad_output(
            grad_output, request.call.reduction != XENT_NONE, request.shape, dtype)
        request.call.grad_scale = scale
    return 0


cdef Request rows(str operation, object value, object axis, object dtype):
    cdef str name = first_argument(operation)
    cdef cnp.ndarray x = arguments.array(value, name)
    cdef Precision precision = arguments.precision_of(x, name, dtype)
    return new_request(operation, arguments.stored(x, precision), precision,
                   arguments.class_axis(axis, cnp.PyArray_NDIM(x), name))


cdef bint share_factor(Request request, cnp.ndarray class_weight) except -1:
    """Divide z_loss, which class weights do not multiply, by the factor that they lose; False if that is out of range."""
    cdef double z = ldexp(request.call.z_loss, -arguments.common_exponent(class_weight, request.precision.compute))
    if not z < 1e30:
        return False
    request.call.z_loss = z
    return True


cdef int set_row_options(
        Request request, object class_weight, object sample_weight, object ignore_index, object label_smoothing, object z_loss,
        object softcap, object temperature, object reduction, object grad_output) except -1:
    set_ignored(request, ignore_index)
    cdef object compute = request.precision.compute
    request.call.reduction = <xent_reduction>arguments.reduction(reduction)
    cdef bint divides = request.call.reduction == XENT_MEAN and request.index is not None
    request.call.z_loss = arguments.z_loss(z_loss)
    if divides and class_weight is not None and request.call.z_loss != 0:
        divides = share_factor(request, arguments.class_weight(class_weight, request.classes(), F64))
    request.class_weight = arguments.class_weight(class_weight, request.classes(), compute, divides)
    request.sample_weight = arguments.sample_weight(sample_weight, request.shape, compute, request.call.reduction)
    set_upstream(request, grad_output, compute)
    request.call.label_smoothing = arguments.label_smoothing(label_smoothing)
    request.call.softcap = arguments.softcap(softcap)
    request.call.temperature = arguments.temperature(temperature)
    return 0


cpdef Request softmax_request(
        str operation, logits, targets, axis=-1, class_weight=None, sample_weight=None, ignore_index=None, label_smoothing=0.0,
        z_loss=0.0, softcap=None, temperature=1.0, reduction="mean", grad_output=None, dtype=None, gamma=0.0, epsilon=0.0,
        eps=None, class_bias=None):
    """Return the request of a loss over a softmax, validated but for its results."""
    cdef Request request = rows(operation, logits, axis, dtype)
    cdef xent_operation which = request.call.operation
    if which == XENT_DISTILLATION_LOSS:
        request.logits, request.soft, request.precision = arguments.teacher(
            targets, request.logits, request.precision, dtype)
    elif which != XENT_ENTROPY:
        set_targets(request, targets, operation if which == XENT_FOCAL_LOSS or which == XENT_POLY1_LOSS else None)
    set_row_options(request, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, temperature,
                    reduction, grad_output)
    if which == XENT_FOCAL_LOSS:
        request.call.strength = arguments.focal_gamma(gamma)
    elif which == XENT_POLY1_LOSS:
        request.call.strength = arguments.poly_epsilon(epsilon)
    request.call.eps = arguments.eps(eps)
    request.class_bias = arguments.class_bias(class_bias, request.classes(), request.precision.compute)
    return request


def softmax_loss(
        str operation, logits, targets, axis=-1, class_weight=None, sample_weight=None, ignore_index=None, label_smoothing=0.0,
        z_loss=0.0, softcap=None, temperature=1.0, reduction="mean", return_grad=False, return_hess=False, return_lse=False,
        grad_output=None, out=None, grad_out=None, hess_out=None, dtype=None, gamma=0.0, epsilon=0.0, eps=None,
        bint teacher_grad=False, class_bias=None):
    """Return the loss, or the tuple of the requested results, as the public functions describe them.

    The first arguments are those of `cross_entropy`, in its order: CPython collects more than 15 keywords in a dict, which
    takes longer than a small call. The targets of `distillation_loss` are the logits of a teacher.
    """
    cdef Request request = softmax_request(
        operation, logits, targets, axis, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap,
        temperature, reduction, grad_output, dtype, gamma, epsilon, eps, class_bias)
    request.call.teacher_grad = teacher_grad
    request.set_outputs(return_grad, return_hess, return_lse, grad_output, out, grad_out, hess_out)
    request.validate_probabilities()
    return request.results(request.given)


def stage_request(
        logits, targets, axis, class_weight, int64_t num_classes, ignore_index, temperature, softcap, dtype, class_bias=None):
    """Return the request of a stage, validated; its shard has `num_classes` at most, of which targets are numbers."""
    cdef Request request = rows("cross_entropy", logits, axis, dtype)
    if targets is not None:
        set_targets(request, targets, None)
    set_ignored(request, ignore_index)
    if class_weight is not None:
        request.class_weight = arguments.class_weight(class_weight, request.classes(), request.precision.compute)
    request.class_bias = arguments.class_bias(class_bias, request.classes(), request.precision.compute)
    request.call.reduction = XENT_NONE
    request.call.softcap = arguments.softcap(softcap)
    request.call.temperature = arguments.temperature(temperature)
    return request


def linear_request(cnp.ndarray logits, Precision precision, targets, out, *, class_weight, sample_weight, ignore_index,
                   label_smoothing, z_loss, softcap, temperature, reduction, grad_output):
    """Return the request of `linear_cross_entropy`, whose `logits` are a placeholder of their shape, and the loss's array."""
    cdef Request request = new_request("cross_entropy", logits, precision, cnp.PyArray_NDIM(logits) - 1)
    set_targets(request, targets, None)
    set_row_options(request, class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, temperature,
                    reduction, grad_output)
    return request, request.loss_buffer(out)


def log_probability(str function, logits, targets, *, axis, sample_weight, ignore_index, softcap, temperature,
                    reduction="mean", out=None, dtype=None):
    """Return what `token_log_probs` or `perplexity`, the `function`, make of the cross-entropy of class indices."""
    cdef Request request = rows("cross_entropy", logits, axis, dtype)
    set_targets(request, targets, function)
    set_row_options(request, None, sample_weight, ignore_index, 0.0, 0.0, softcap, temperature, reduction, None)
    request.set_outputs(False, False, False, None, out, None, None)
    loss = request.results(request.given)
    if function == "perplexity":
        return request.scalar(exponential(request.call.result))
    # 0 - loss, not -loss: the log-probability of a certain token is 0.0, never -0.0.
    return np.subtract(0, loss, out=loss) if isinstance(loss, cnp.ndarray) else loss.dtype.type(0) - loss


cdef object LN2 = 54916777467707473351141471128  # log 2, in 2^-96


cpdef double exponential(double x) except? -1:
    """exp(x) to the nearest double, or of x < 0 within one of it, with the same bits on every machine: a Taylor series in integers of 2^-96."""
    cdef int i = 1
    if x < 0:
        return 1 / exponential(-x)
    if not x < 710:
        return x + INFINITY  # or NaN
    halvings, rest = divmod(int(x * 2.0 ** 48) << 48 | int((x * 2.0 ** 48) % 1 * 2.0 ** 48), LN2)
    term = total = 1 << 96
    while term:
        term = (term * rest >> 96) // i
        total += term
        i += 1
    return ldexp(float(total), <int>halvings - 96)


cpdef Request elementwise_request(
        str operation, values, targets, sample_weight=None, reduction="mean", grad_output=None, dtype=None, pos_weight=None,
        label_smoothing=0.0, eps=None, alpha=None, gamma=0.0, log_target=False, gamma_neg=0.0, clip=0.0):
    """Return the request of an elementwise loss, validated but for its results."""
    cdef str name = first_argument(operation)
    cdef cnp.ndarray x = arguments.array(values, name)
    cdef Precision precision = arguments.precision_of(x, name, dtype)
    cdef Request request = new_request(operation, arguments.stored(x, precision), precision, -1)
    cdef cnp.ndarray weights
    request.soft = arguments.broadcastable(arguments.real(targets, "targets"), "targets", request.shape, None, name)
    request.call.reduction = <xent_reduction>arguments.reduction(reduction, request.call.operation == XENT_KL_DIV)
    request.sample_weight = arguments.sample_weight(
        sample_weight, request.shape, precision.compute, request.call.reduction, ELEMENTS)
    if pos_weight is not None:
        weights = arguments.real(pos_weight, "pos_weight")
        few = cnp.PyArray_SIZE(weights) <= ELEMENTS  # more are cast block by block
        request.pos_weight = arguments.broadcastable(weights, "pos_weight", request.shape, precision.compute if few else None)
    set_upstream(request, grad_output, None)
    request.call.label_smoothing = arguments.label_smoothing(label_smoothing)
    request.call.eps = arguments.eps(eps)
    if operation == "sigmoid_focal_loss":
        request.call.strength = arguments.focal_gamma(gamma)
        request.call.alpha = arguments.alpha(alpha)
    elif operation == "asymmetric_loss":
        request.call.strength = arguments.focal_gamma(gamma, "gamma_pos")
        request.call.negative_strength = arguments.focal_gamma(gamma_neg, "gamma_neg")
        request.call.clip = arguments.clip(clip)
    request.call.log_target = arguments.flag(log_target, "log_target")
    return request


def elementwise_loss(
        str operation, values, targets, sample_weight=None, reduction="mean", return_grad=False, return_hess=False,
        grad_output=None, out=None, grad_out=None, hess_out=None, dtype=None, pos_weight=None, label_smoothing=0.0, eps=None,
        alpha=None, gamma=0.0, log_target=False, gamma_neg=0.0, clip=0.0):
    """Return the loss, or the tuple of the requested results, as the public functions describe them."""
    cdef Request request = elementwise_request(
        operation, values, targets, sample_weight, reduction, grad_output, dtype, pos_weight, label_smoothing, eps, alpha,
        gamma, log_target, gamma_neg, clip)
    request.set_outputs(return_grad, return_hess, False, grad_output, out, grad_out, hess_out)
    return request.results(request.given)


def softmax_family(str operation, value, axis, out):
    """Return `softmax` or `log_softmax`."""
    cdef cnp.ndarray x = arguments.array(value, "x"), result, written
    cdef Precision precision = arguments.precision_of(x, "x", None, True)
    cdef tuple axes = axes_of(axis, cnp.PyArray_NDIM(x), "x")
    cdef Request request
    if out is not None:
        out = arguments.buffer(out, "out", shape_of(x), precision.result_dtype)
        arguments.check_no_overlap({"out": out}, {"x": x}, ("out", "x"))
    check_classes(shape_of(x), axes)
    result = empty_like(x, precision.result_dtype) if out is None else out
    if cnp.PyArray_SIZE(x) > 0:
        request = merged(operation, x, precision, axes)
        if len(axes) == 1:
            request.out = result
            request.run()
        else:
            order = classes_last(axes, cnp.PyArray_NDIM(x))
            written = empty_like(request.logits, precision.result_dtype)
            request.out = written
            request.run()
            result.transpose(order)[...] = written.reshape([x.shape[d] for d in order])
    return result[()] if out is None and cnp.PyArray_NDIM(result) == 0 else result


def sigmoid_family(value, out, bint logarithm):
    """Return `sigmoid` or `log_sigmoid`.

    They are what binary cross-entropy has: the gradient for the target 0; the loss for the target 1, of weight -1. A loss is
    of the compute type, so that of half types it is converted piece by piece; so is one in the place of its logits.
    """
    cdef cnp.ndarray x = arguments.array(value, "x"), result
    cdef Precision precision = arguments.precision_of(x, "x", None, True)
    cdef object dtype = precision.result_dtype
    if out is not None:
        out = arguments.buffer(out, "out", shape_of(x), dtype)
        arguments.check_no_overlap({"out": out}, {"x": x}, ("out", "x"))
    result = empty_like(x, dtype) if out is None else out
    if not logarithm:
        logistic(x, precision, None, result)
    elif has_dtype(result, precision.compute) and arguments.apart(x, result):
        logistic(x, precision, result, None)
    elif cnp.PyArray_SIZE(x) > 0:
        pieces = np.nditer(
            (x, result), ("external_loop", "buffered"), (["readonly"], ["writeonly"]), order="K", buffersize=ELEMENTS)
        with pieces, np.errstate(all="ignore"):
            for piece, written in pieces:
                loss = empty((len(piece),), precision.compute)
                logistic(piece, precision, loss, None)
                written[...] = loss
    return result[()] if out is None and cnp.PyArray_NDIM(result) == 0 else result


cdef int logistic(cnp.ndarray x, Precision precision, cnp.ndarray logarithm, cnp.ndarray sigmoid) except -1:
    cdef Request request = new_request("binary_cross_entropy_with_logits", arguments.stored(x, precision), precision, -1)
    request.out, request.loss = sigmoid, logarithm
    request.soft = np.full((), logarithm is not None, precision.compute)
    if logarithm is None:
        request.call.reduction = XENT_SUM
    else:
        request.pos_weight = np.full((), -1, precision.compute)
    request.run()
    return 0


def logsumexp(value, axis, b, keepdims, return_sign, out):
    """Return the log-sum-exp, and its sign if it is requested."""
    cdef cnp.ndarray a = arguments.array(value, "a"), lse
    cdef Precision precision = arguments.precision_of(a, "a", None, True)
    cdef object dtype = precision.result_dtype
    cdef tuple axes, shape
    cdef Request request
    a, factors = arguments.factors(b, a)
    if factors is not None and not isinstance(b, (bool, int, float)):
        dtype = arguments.precision_of(np.empty(0, np.result_type(dtype, factors.dtype)), "b", None).result_dtype
    keepdims = arguments.flag(keepdims, "keepdims")
    return_sign = arguments.flag(return_sign, "return_sign")
    axes = axes_of(axis, cnp.PyArray_NDIM(a), "a")
    request = merged("logsumexp", a, precision, axes)
    shape = request.shape
    if keepdims:
        shape = tuple([1 if d in axes else a.shape[d] for d in range(cnp.PyArray_NDIM(a))])
    if out is not None:
        out = arguments.buffer(out, "out", shape, dtype)
        arguments.check_no_overlap({"out": out}, {"a": a, "b": factors})
    if factors is None:
        in_place = out is not None and not keepdims and has_dtype(out, precision.compute)
        lse = out if in_place else empty(request.shape, precision.compute)
        request.lse = lse
        request.run()
        sign = np.where(np.isnan(lse), lse, np.where(np.isneginf(lse), 0, 1)) if return_sign else None
    else:
        from xent._weighted import weighted

        factors = merged("logsumexp", factors, precision, axes)
        lse, sign = weighted(request.classes_last(request.logits), factors.classes_last(factors.logits), precision)
        if not return_sign:
            lse = np.where(sign < 0, np.nan, lse)
    if out is None:
        lse = lse.reshape(shape) if keepdims else lse
        with np.errstate(over="ignore"):
            result = lse if has_dtype(lse, dtype) else lse.astype(dtype)
        result = result if shape else result[()]
    else:
        result = out
        if lse is not out:
            with np.errstate(over="ignore"):
                out[...] = lse.reshape(shape)
    return (result, sign.reshape(shape).astype(dtype)[()]) if return_sign else result


cpdef tuple axes_of(object axis, int ndim, str name):
    """The axes to reduce, counted from the front and without repetition; None means all."""
    cdef tuple found
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, tuple):
        position = arguments.class_axis(axis, max(ndim, 1), name)
        return (position,) if ndim else ()  # a scalar is a slice of one element
    found = tuple([arguments.class_axis(a, ndim, name) for a in axis])
    if len(set(found)) != len(found):
        raise ValueError(f"axis: an axis is named twice: {axis}")
    return found


cpdef int check_classes(tuple shape, tuple axes) except -1:
    """Refuse the softmax of nothing."""
    for d in axes:
        if shape[d] == 0:
            raise ValueError(f"x: shape {shape} has no elements along the axis of the classes")
    return 0


cdef tuple classes_last(tuple axes, int ndim):
    """The order of axes in which `axes` are the last."""
    return tuple([d for d in range(ndim) if d not in axes] + sorted(axes))


cdef Request merged(str operation, cnp.ndarray a, Precision precision, tuple axes):
    """The request of an array whose `axes` are one class axis; a copy if no view can do that."""
    cdef int ndim = cnp.PyArray_NDIM(a)
    cdef int64_t classes = 1
    a = arguments.stored(a, precision)
    if len(axes) == 1:
        return new_request(operation, a, precision, axes[0])
    for d in axes:
        classes *= cnp.PyArray_DIM(a, d)
    kept = [cnp.PyArray_DIM(a, d) for d in range(ndim) if d not in axes]
    return new_request(operation, a.transpose(classes_last(axes, ndim)).reshape(*kept, classes), precision, len(kept))
