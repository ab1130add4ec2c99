"""Losses and softmaxes with the signatures of torch.nn.functional; sigmoid_focal_loss with torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F

import xent
from xent.torch import _losses
from xent.torch._operation import is_direct
from xent.torch._tensors import array, tensor


def _named(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return the reduction, also if it is given by the two arguments that torch has deprecated for it."""
    if size_average is None and reduce is None:
        return reduction
    return str(_reduction.legacy_get_string(size_average, reduce))


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    r"""Softmax cross-entropy of logits against class indices or class probabilities.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        Logits: float16, bfloat16, float32 or float64, of any strides.
    target : Tensor
        Class indices, of the shape of `input` without the class axis; or class probabilities, of the shape of `input`.
    weight : Tensor, shape (C,), optional
        Weight of each class.
    size_average, reduce : bool, optional
        Deprecated by PyTorch for `reduction`.
    ignore_index : int, default -100
        Rows with this target do not count.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over class indices divides by the weights of the targets that count, over class probabilities by the rows.
    label_smoothing : float, default 0.0
        In [0, 1].
    z_loss, softcap, temperature
        As in `xent.cross_entropy`.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`; the message has its position and its value.
    TypeError, ValueError, RuntimeError
        As torch.nn.functional.cross_entropy. RuntimeError, too, if `weight` or class probabilities require grad.

    Notes
    -----
    See `xent.cross_entropy` for the formula.

    References
    ----------
    PyTorch, ``torch.nn.functional.cross_entropy``.

    Examples
    --------
    >>> import torch, xent.torch
    >>> logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]], requires_grad=True)
    >>> loss = xent.torch.cross_entropy(logits, torch.tensor([0, 2]))
    >>> loss.backward()
    >>> round(loss.item(), 6)
    1.288726
    >>> logits.grad.numpy().round(3).tolist()[0]
    [-0.16699999570846558, 0.12200000137090683, 0.04500000178813934]
    """
    return _losses.cross_entropy(
        (input, target, weight),
        ignore_index,
        _named(size_average, reduce, reduction),
        label_smoothing,
        z_loss,
        softcap,
        temperature,
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of class indices, from log-probabilities.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        Log-probabilities.
    target : Tensor
        Class indices, of the shape of `input` without the class axis.
    weight, size_average, ignore_index, reduce, reduction
        As in `cross_entropy`.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    IndexError, TypeError, ValueError, RuntimeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> log_probs = torch.tensor([[0.25, 0.75]]).log()
    >>> round(xent.torch.nll_loss(log_probs, torch.tensor([0])).item(), 6)
    1.386294
    """
    if isinstance(target, Tensor) and target.ndim != max(input.ndim - 1, 0):
        raise RuntimeError(
            f"target: expected class indices of shape {(*input.shape[:1], *input.shape[2:])}, got {tuple(target.shape)}; "
            "cross_entropy takes class probabilities"
        )
    return _losses.nll_loss(
        (input, target, weight), ignore_index, _named(size_average, reduce, reduction)
    )


def focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of logits against class indices, as `xent.focal_loss`.

    Parameters
    ----------
    input, target, weight, ignore_index, reduction
        As in `cross_entropy`; class indices alone.
    gamma : float, default 2.0
        Exponent of the weight (1 - p) of a row.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    IndexError, TypeError, ValueError, RuntimeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> round(xent.torch.focal_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 6)
    0.173287
    """
    return _losses.focal_loss((input, target, weight), ignore_index, reduction, gamma)


def poly1_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    epsilon: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Poly-1 loss of logits against class indices, as `xent.poly1_loss`.

    Parameters
    ----------
    input, target, weight, ignore_index, reduction
        As in `cross_entropy`; class indices alone.
    epsilon : float, default 2.0
        Added to the coefficient of 1 - p.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    IndexError, TypeError, ValueError, RuntimeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> round(xent.torch.poly1_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 6)
    1.693147
    """
    return _losses.poly1_loss((input, target, weight), ignore_index, reduction, epsilon)


def distillation_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
    beta: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    """Divergence of a student's softmax from its teacher's, as `xent.distillation_loss`.

    Parameters
    ----------
    input, target : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        The student's logits, and the teacher's, which may require grad too.
    temperature, divergence, beta, reduction
        As in `xent.distillation_loss`.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `cross_entropy`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    >>> round(xent.torch.distillation_loss(student, teacher).item(), 5)
    1.15042
    """
    return _losses.distillation_loss((input, target), reduction, temperature, divergence, beta)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy of probabilities, element by element.

    Parameters
    ----------
    input : Tensor, any shape
        Probabilities in [0, 1].
    target : Tensor, the same shape
        Probabilities of the positive class, in [0, 1].
    weight : Tensor, optional
        Weight of each element, broadcast to the shape of `input`; it does not divide the mean.
    size_average, reduce, reduction
        As in `cross_entropy`; the mean divides by the number of elements.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As torch.nn.functional.binary_cross_entropy; RuntimeError, too, if `target` or `weight` requires grad.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.binary_cross_entropy(torch.tensor([0.8, 0.4]), torch.tensor([1.0, 0.0]))
    >>> round(loss.item(), 6)
    0.366985
    """
    return _losses.binary_cross_entropy(
        (input, target, weight), _named(size_average, reduce, reduction)
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of logits, element by element.

    Parameters
    ----------
    input : Tensor, any shape
        Logits.
    target : Tensor, the same shape
        Probabilities of the positive class.
    weight, size_average, reduce, reduction
        As in `binary_cross_entropy`.
    pos_weight : Tensor, optional
        Weight of the positive class, broadcast to the shape of `input`.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As torch.nn.functional.binary_cross_entropy_with_logits; RuntimeError, too, if anything but `input` requires grad.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.binary_cross_entropy_with_logits(torch.tensor([2.0, -1.0]), torch.ones(2))
    >>> round(loss.item(), 6)
    0.720095
    """
    return _losses.binary_cross_entropy_with_logits(
        (input, target, weight, pos_weight), _named(size_average, reduce, reduction)
    )


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross-entropy of logits, averaged over the last axis.

    Parameters
    ----------
    input : Tensor, shape (..., C)
        Logits.
    target : Tensor, the same shape
        1 for each label that is present, else 0.
    weight, size_average, reduce, reduction
        As in `binary_cross_entropy`.

    Returns
    -------
    loss : Tensor
        With reduction "none" of the shape of `input` without its last axis.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.multilabel_soft_margin_loss(torch.zeros(2, 3), torch.ones(2, 3), reduction="sum")
    >>> round(loss.item(), 6)
    1.386294
    """
    reduction = _named(size_average, reduce, reduction)
    loss = binary_cross_entropy_with_logits(input, target, weight, reduction=reduction)
    if reduction == "mean":
        return loss
    return loss.mean(-1) if reduction == "none" else loss / input.shape[-1]


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Kullback-Leibler divergence of `target` from log-probabilities, element by element.

    Parameters
    ----------
    input : Tensor, any shape
        Log-probabilities.
    target : Tensor, a shape that broadcasts with it
        Probabilities, or their logarithms with `log_target`.
    size_average, reduce
        As in `cross_entropy`.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        "batchmean" divides by the size of the first axis of `input`.
    log_target : bool, default False
        Whether `target` holds logarithms.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As torch.nn.functional.kl_div; RuntimeError, too, if `target` requires grad.

    Examples
    --------
    >>> import torch, xent.torch
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> round(xent.torch.kl_div(p.log(), q, reduction="batchmean").item(), 6)
    0.130812
    """
    reduction = _named(size_average, reduce, reduction)
    tensors = isinstance(input, Tensor) and isinstance(target, Tensor)
    if tensors and input.shape != target.shape:
        batch = input.shape[:1]
        input, target = torch.broadcast_tensors(input, target)
        if reduction == "batchmean" and input.shape[:1] != batch:
            return _losses.kl_div((input, target), "sum", log_target) / prod(batch)
    return _losses.kl_div((input, target), reduction, log_target)


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2,
    reduction: str = "none",
) -> Tensor:
    """Focal loss of logits, element by element, with the arguments of torchvision.ops.sigmoid_focal_loss.

    Parameters
    ----------
    inputs : Tensor, any shape
        Logits.
    targets : Tensor, the same shape
        Probabilities of the positive class.
    alpha : float, default 0.25
        Weight of positive elements, in [0, 1]; negative: all are weighted alike.
    gamma : float, default 2
        Exponent of the weight (1 - p) of an element.
    reduction : {"none", "mean", "sum"}, default "none"
        The mean divides by the number of elements.

    Returns
    -------
    loss : Tensor
        Of the dtype of `inputs`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> round(xent.torch.sigmoid_focal_loss(torch.zeros(1), torch.ones(1)).item(), 6)
    0.043322
    """
    return _losses.sigmoid_focal_loss((inputs, targets), reduction, float(alpha), float(gamma))


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    reduction: str = "mean",
) -> Tensor:
    """Asymmetric loss of logits, element by element, as `xent.asymmetric_loss`.

    Parameters
    ----------
    input : Tensor, any shape
        Logits.
    target : Tensor, the same shape
        1 for each label that is present, else 0.
    gamma_neg, gamma_pos : float, defaults 4.0 and 1.0
        Exponents of negative and of positive elements.
    clip : float, default 0.05
        The margin that is taken off the probability of negative elements.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the number of elements; timm's class adds them up.

    Returns
    -------
    loss : Tensor
        Of the dtype of `input`; float32 of half types under autocast.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.asymmetric_loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]), reduction="sum")
    >>> round(loss.item(), 5)
    0.86154
    """
    return _losses.asymmetric_loss((input, target), reduction, gamma_neg, gamma_pos, clip)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of a linear layer's output, whose logits are never all in memory.

    Parameters
    ----------
    input : Tensor, shape (..., D)
        The input of the layer.
    linear_weight : Tensor, shape (C, D) or (C, d1, ..., D)
        The layer's weight. With axes between, of which each has logits and a target, it has to be one call of
        `cross_entropy`, whose logits are in memory.
    target : Tensor
        Class indices, or class probabilities of shape (..., C).
    linear_bias : Tensor, the shape of `linear_weight` without its last axis, optional
        The layer's bias.
    weight, reduction, label_smoothing, z_loss, softcap, temperature
        As in `cross_entropy`.
    ignore_index : int, optional
        Rows with this target do not count; -100 unless given.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Accepted and without effect: how PyTorch cuts the batch.

    Returns
    -------
    loss : Tensor
        Of the dtype of the layer; float32 of half types under autocast.

    Raises
    ------
    IndexError, TypeError, ValueError, RuntimeError
        As `cross_entropy`.

    Notes
    -----
    The forward computes the gradients, unless none is wanted or the reduction is "none"; the backward multiplies them by the
    upstream gradient and rounds them to the dtypes of what they belong to. Products are `xent.linear_cross_entropy`'s.

    References
    ----------
    PyTorch, ``torch.nn.functional.linear_cross_entropy``.

    Examples
    --------
    >>> import torch, xent.torch
    >>> hidden, layer = torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 3.0], [0.0, 1.0]])
    >>> round(xent.torch.linear_cross_entropy(hidden, layer, torch.tensor([0, 2])).item(), 6)
    1.288726
    """
    if options is not None and not isinstance(options, torch.nn.LinearCrossEntropyOptions):
        raise TypeError(
            f"options: expected torch.nn.LinearCrossEntropyOptions, got {type(options).__name__}"
        )
    if linear_weight.ndim > 2:
        logits = F.linear(
            input,
            linear_weight.flatten(0, -2),
            None if linear_bias is None else linear_bias.flatten(),
        ).unflatten(-1, linear_weight.shape[:-1])
        return cross_entropy(
            logits,
            target,
            weight,
            ignore_index=-100 if ignore_index is None else ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            temperature=temperature,
        )
    return _losses.linear_cross_entropy(
        (input, linear_weight, linear_bias, target, weight),
        -100 if ignore_index is None else ignore_index,
        reduction,
        label_smoothing,
        z_loss,
        softcap,
        temperature,
    )


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Softmax along an axis.

    Parameters
    ----------
    input : Tensor, any shape
        Logits.
    dim : int, optional
        The axis. PyTorch chooses one, with a warning, if there is none.
    _stacklevel : int, default 3
        Of that warning, whose line is the caller's.
    dtype : torch.dtype, optional
        What `input` is converted to.

    Returns
    -------
    p : Tensor, shape of `input`
        Its derivatives, of any order, are PyTorch's.

    Examples
    --------
    >>> import torch, xent.torch
    >>> xent.torch.softmax(torch.zeros(1, 4), dim=1)
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return _normalised(
        xent.softmax, F.softmax, torch._softmax_backward_data, input, dim, _stacklevel, dtype
    )


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """Logarithm of the softmax along an axis.

    Parameters
    ----------
    input, dim, _stacklevel, dtype
        As in `softmax`.

    Returns
    -------
    log_p : Tensor, shape of `input`
        Its derivatives, of any order, are PyTorch's.

    Examples
    --------
    >>> import torch, xent.torch
    >>> xent.torch.log_softmax(torch.zeros(1, 4), dim=1)
    tensor([[-1.3863, -1.3863, -1.3863, -1.3863]])
    """
    return _normalised(
        xent.log_softmax,
        F.log_softmax,
        torch._log_softmax_backward_data,
        input,
        dim,
        _stacklevel,
        dtype,
    )


def logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials along some axes.

    Parameters
    ----------
    input : Tensor, any shape
        Logits.
    dim : int or tuple of ints
        The axes to sum over.
    keepdim : bool, default False
        Leave them as axes of size 1.

    Returns
    -------
    result : Tensor
        Of the dtype of `input`. Its derivatives, of any order, are PyTorch's.

    Examples
    --------
    >>> import torch, xent.torch
    >>> xent.torch.logsumexp(torch.tensor([1000.0, 1000.0]), 0)
    tensor(1000.6932)
    """
    if not input.is_floating_point() or not input.numel() or not is_direct((input,)):
        return torch.logsumexp(input, dim, keepdim)
    result: Tensor = LogSumExp.apply(input, dim)
    return result if keepdim else result.squeeze(dim)


class LogSumExp(torch.autograd.Function):
    """The log-sum-exp, with the axes that are summed over."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: Any) -> Tensor:
        wide = input.float() if input.dtype is torch.bfloat16 else input
        output = tensor(xent.logsumexp(array(wide), axis=dim, keepdims=True), input.dtype)
        ctx.save_for_backward(input, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        input, output = ctx.saved_tensors
        return grads[0] * (input - output).exp(), None


def _normalised(
    ours: Callable[..., Any],
    theirs: Callable[..., Tensor],
    derivative: Callable[..., Tensor],
    input: Tensor,
    dim: int | None,
    stacklevel: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """Return `ours` of a tensor; in graphs, which torch.compile makes kernels of, and without an axis `theirs`."""
    if dtype is not None:
        input = input.to(dtype)
    if dim is None or not input.is_floating_point() or not input.numel() or not is_direct((input,)):
        return theirs(input, dim, stacklevel + 2)
    return Normalised.apply(input, dim, ours, derivative)


class Normalised(torch.autograd.Function):
    """Softmax or its logarithm; PyTorch's derivative is a function of the result alone, and has one of its own."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int, function: Any, derivative: Any) -> Tensor:
        wide = input.float() if input.dtype is torch.bfloat16 else input
        output = tensor(function(array(wide), axis=dim), input.dtype)
        ctx.save_for_backward(output)
        ctx.dim, ctx.derivative = dim, derivative
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (output,) = ctx.saved_tensors
        return ctx.derivative(*grads, output, ctx.dim, output.dtype), None, None, None
