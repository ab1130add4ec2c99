"""The operations: what xent computes of tensors for each loss, and the shape of the result.

A function here takes the upstream gradient (None: the loss alone), which gradients are wanted, the tensors, the options, and
last the dtype of the loss. Its class axis is torch's: axis 1, or the only one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import xent
from xent._linear import linear_loss
from xent.torch import _errors
from xent.torch._operation import Compute, Operation
from xent.torch._tensors import array, numbers, tensor

Gradients = Sequence[Tensor | None]


def call(
    function: Callable[..., Any],
    grad: Any,
    input: Tensor,
    *arrays: Any,
    names: Mapping[str, str] = _errors.NAMES,
    **options: Any,
) -> Any:
    """Return the loss, or the loss and its gradient, as arrays; errors are torch's."""
    if input.dtype is torch.bfloat16:
        options["dtype"] = "bfloat16"
    if grad is not None:
        options["return_grad"], options["grad_output"] = True, grad
    try:
        return function(array(input), *arrays, **options)
    except (IndexError, TypeError, ValueError) as error:
        raise _errors.as_torch(error, names) from None


def of_input(
    results: Any, grad: Any, input: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Gradients]:
    """Return the results of a call as tensors."""
    if grad is None:
        return tensor(results, dtype), ()
    loss, gradient = results
    return tensor(loss, dtype), (tensor(gradient, input.dtype),)


def class_axis(input: Tensor) -> int:
    return int(input.ndim > 1)


def rows(input: Tensor, *others: Any) -> Sequence[int]:
    """The shape of a loss of rows; the reduction comes last."""
    if others[-1] != "none":
        return ()
    axis = class_axis(input)
    return (*input.shape[:axis], *input.shape[axis + 1 :])


def elements(input: Tensor, *others: Any) -> Sequence[int]:
    return input.shape if others[-1] == "none" else ()


# Losses of rows.


def _cross_entropy(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    results = call(
        xent.cross_entropy,
        grad,
        input,
        numbers(target),
        axis=class_axis(input),
        class_weight=numbers(weight),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
    )
    return of_input(results, grad, input, dtype)


def _nll_loss(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    results = call(
        xent.nll_loss,
        grad,
        input,
        numbers(target),
        axis=class_axis(input),
        class_weight=numbers(weight),
        ignore_index=ignore_index,
        reduction=reduction,
    )
    return of_input(results, grad, input, dtype)


def modulated(function: Callable[..., Any], option: str) -> Compute:
    """A loss that modulates the likelihood of class indices, by an option of its own."""

    def compute(
        grad: Any,
        wanted: Sequence[bool],
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: str,
        strength: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Gradients]:
        own: dict[str, Any] = {option: strength}
        results = call(
            function,
            grad,
            input,
            numbers(target),
            axis=class_axis(input),
            class_weight=numbers(weight),
            ignore_index=ignore_index,
            reduction=reduction,
            **own,
        )
        return of_input(results, grad, input, dtype)

    return compute


def _distillation_loss(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    reduction: str,
    temperature: float,
    divergence: str,
    beta: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    common = torch.promote_types(input.dtype, target.dtype)
    with_target = grad is not None and wanted[1]
    results = call(
        xent.distillation_loss,
        grad,
        input.to(common),
        array(target.to(common)),
        temperature=temperature,
        divergence=divergence,
        beta=beta,
        axis=class_axis(input),
        reduction=reduction,
        return_teacher_grad=with_target,
    )
    if not with_target:
        return of_input(results, grad, input, dtype)
    loss, student, teacher = results
    return tensor(loss, dtype), (tensor(student, input.dtype), tensor(teacher, target.dtype))


# Losses of elements.


def elementwise(
    function: Callable[..., Any],
    grad: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    dtype: torch.dtype,
    **options: Any,
) -> tuple[Tensor, Gradients]:
    """A loss of elements whose weights, unlike xent's, do not divide the mean."""
    count = 1
    if weight is not None and reduction == "mean":
        reduction, count = "sum", input.numel()
    if weight is not None:
        options["sample_weight"] = numbers(weight)
    per_element = grad / max(count, 1) if count != 1 and grad is not None else grad
    results = call(function, per_element, input, numbers(target), reduction=reduction, **options)
    loss, gradients = of_input(results, grad, input, torch.float64 if count != 1 else dtype)
    return (loss / count).to(dtype) if count != 1 else loss, gradients


def _binary_cross_entropy(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    return elementwise(xent.binary_cross_entropy, grad, input, target, weight, reduction, dtype)


def _binary_cross_entropy_with_logits(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    return elementwise(
        xent.binary_cross_entropy_with_logits,
        grad,
        input,
        target,
        weight,
        reduction,
        dtype,
        pos_weight=numbers(pos_weight),
    )


def _kl_div(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    reduction: str,
    log_target: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    return elementwise(
        xent.kl_div, grad, input, target, None, reduction, dtype, log_target=log_target
    )


def _sigmoid_focal_loss(
    grad: Any,
    wanted: Sequence[bool],
    inputs: Tensor,
    targets: Tensor,
    reduction: str,
    alpha: float,
    gamma: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    return elementwise(
        xent.sigmoid_focal_loss,
        grad,
        inputs,
        targets,
        None,
        reduction,
        dtype,
        alpha=alpha if alpha >= 0 else None,
        gamma=gamma,
        names=_errors.VISION,
    )


def _asymmetric_loss(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    target: Tensor,
    reduction: str,
    gamma_neg: float,
    gamma_pos: float,
    clip: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    return elementwise(
        xent.asymmetric_loss,
        grad,
        input,
        target,
        None,
        reduction,
        dtype,
        gamma_neg=gamma_neg,
        gamma_pos=gamma_pos,
        clip=clip,
    )


# The linear layer.


def _linear_cross_entropy(
    grad: Any,
    wanted: Sequence[bool],
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Gradients]:
    """Gradients come in the dtype of the computation: half types are rounded after the upstream gradient is known."""
    layer = {"hidden": input, "weight": linear_weight, "bias": linear_bias}
    bits = any(t is not None and t.dtype is torch.bfloat16 for t in layer.values())
    needed = {name for name, needs in zip(layer, wanted, strict=False) if needs}
    if "bias" in needed:
        needed.add("weight")  # whose gradient is summed beside that of the bias
    try:
        results = linear_loss(
            array(input),
            array(linear_weight),
            numbers(target),
            bias=None if linear_bias is None else array(linear_bias),
            class_weight=numbers(weight),
            sample_weight=None,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            temperature=temperature,
            reduction=reduction,
            return_grad=grad is not None,
            grad_output=grad,
            out=None,
            grad_out=None,
            dtype="bfloat16" if bits else None,
            wide_grads=tuple(needed),
        )
    except (IndexError, TypeError, ValueError) as error:
        raise _errors.as_torch(error, _errors.LAYER) from None
    if grad is None:
        return tensor(results, dtype), ()
    loss, gradients = results
    return tensor(loss, dtype), [
        torch.from_numpy(g) if g is not None and needs else None
        for g, needs in zip(gradients, wanted, strict=False)
    ]


cross_entropy = Operation(
    "cross_entropy",
    "Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction, float label_smoothing, float z_loss, "
    "float? softcap, float temperature",
    _cross_entropy,
    rows,
)
nll_loss = Operation(
    "nll_loss",
    "Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction",
    _nll_loss,
    rows,
)
focal_loss = Operation(
    "focal_loss",
    "Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction, float gamma",
    modulated(xent.focal_loss, "gamma"),
    rows,
)
poly1_loss = Operation(
    "poly1_loss",
    "Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction, float epsilon",
    modulated(xent.poly1_loss, "epsilon"),
    rows,
)
distillation_loss = Operation(
    "distillation_loss",
    "Tensor input, Tensor target, str reduction, float temperature, str divergence, float beta",
    _distillation_loss,
    rows,
    differentiable=("input", "target"),
)
binary_cross_entropy = Operation(
    "binary_cross_entropy",
    "Tensor input, Tensor target, Tensor? weight, str reduction",
    _binary_cross_entropy,
    elements,
    paired=True,
)
binary_cross_entropy_with_logits = Operation(
    "binary_cross_entropy_with_logits",
    "Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str reduction",
    _binary_cross_entropy_with_logits,
    elements,
    paired=True,
)
kl_div = Operation(
    "kl_div", "Tensor input, Tensor target, str reduction, bool log_target", _kl_div, elements
)
sigmoid_focal_loss = Operation(
    "sigmoid_focal_loss",
    "Tensor inputs, Tensor targets, str reduction, float alpha, float gamma",
    _sigmoid_focal_loss,
    elements,
    differentiable=("inputs",),
    paired=True,
)
asymmetric_loss = Operation(
    "asymmetric_loss",
    "Tensor input, Tensor target, str reduction, float gamma_neg, float gamma_pos, float clip",
    _asymmetric_loss,
    elements,
    paired=True,
)
linear_cross_entropy = Operation(
    "linear_cross_entropy",
    "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight, int ignore_index, "
    "str reduction, float label_smoothing, float z_loss, float? softcap, float temperature",
    _linear_cross_entropy,
    lambda input, *others: input.shape[:-1] if others[-1] == "none" else (),
    differentiable=("input", "linear_weight", "linear_bias"),
    costly=True,
)
