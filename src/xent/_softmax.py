"""Losses over a softmax: validate the arguments, allocate the results, hand the rows to the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent._elementwise import validate_probabilities
from xent._rows import Rows, run

# Operations that accept class probabilities as targets.
SOFT = ("cross_entropy", "nll_loss", "categorical_cross_entropy")


def softmax_loss(
    operation: str,
    logits: Any,
    targets: Any,
    *,
    axis: int,
    sample_weight: Any,
    reduction: str,
    return_grad: bool,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
    name: str = "logits",
    teacher: Any = None,
    class_weight: Any = None,
    ignore_index: int | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    return_hess: bool = False,
    return_lse: bool = False,
    hess_out: Any = None,
    strength: float = 0.0,
    eps: float = 0.0,
) -> Any:
    """Return the loss, or the tuple of the requested results, as the public functions describe them.

    `name` is what the public function calls its logits. `distillation_loss` has the logits of a teacher instead of targets.
    """
    x, kind = arguments.logits(logits, name, dtype)
    axis = arguments.class_axis(axis, x.ndim, name)
    index = soft = None
    if operation == "distillation_loss":
        x, soft, kind = arguments.teacher(teacher, x, kind, dtype)
        soft = arguments.classes_last(soft, axis)
    elif operation != "entropy":
        index, soft = arguments.targets(targets, x.shape, axis)
        if soft is not None and operation not in SOFT:
            raise TypeError(
                f"targets: class probabilities, of the logits' shape {x.shape}, are not accepted by {operation}; "
                f"expected class indices of shape {soft.shape[:-1]}"
            )
    rows = Rows(operation, arguments.classes_last(x, axis), kind, index, soft)
    validate(
        rows,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        grad_output=grad_output,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        strength=strength,
        eps=eps,
    )
    with_grad, with_hess = arguments.requested_outputs(
        return_grad, return_hess, grad_output, grad_out, hess_out
    )
    with_lse = arguments.flag(return_lse, "return_lse")
    buffers = {
        "out": loss_buffer(rows, out),
        "grad_out": None
        if grad_out is None
        else arguments.buffer(grad_out, "grad_out", x.shape, kind.result_dtype),
        "hess_out": None
        if hess_out is None
        else arguments.buffer(hess_out, "hess_out", x.shape, kind.result_dtype),
    }
    arguments.check_no_overlap(
        buffers,
        {
            name: x,
            "teacher_logits" if teacher is not None else "targets": index if soft is None else soft,
            "class_weight": rows.class_weight,
            "sample_weight": rows.sample_weight,
            "grad_output": rows.grad_output,
        },
        in_place=("grad_out", name),
    )
    if operation == "categorical_cross_entropy":
        validate_probabilities(x, kind, name)

    results: list[Any] = []
    if with_grad:
        grad = np.empty(x.shape, kind.result_dtype) if grad_out is None else grad_out
        rows.out = arguments.classes_last(stored(grad, kind), axis)
        results.append(grad)
    if with_hess:
        hess = np.empty(x.shape, kind.result_dtype) if hess_out is None else hess_out
        rows.hess = arguments.classes_last(stored(hess, kind), axis)
        results.append(hess)
    if with_lse:
        rows.lse = np.empty(rows.shape, kind.compute)
    loss = compute(rows, run, out)
    if rows.lse is not None:
        results.append(rows.lse[()])
    return (loss, *results) if results else loss


def validate(
    rows: Rows,
    *,
    class_weight: Any,
    sample_weight: Any,
    ignore_index: int | None,
    reduction: str,
    grad_output: Any,
    label_smoothing: float,
    z_loss: float,
    softcap: float | None,
    temperature: float,
    strength: float = 0.0,
    eps: float = 0.0,
) -> None:
    """Validate weights and numbers, and store them in `rows`, which have their logits and targets already."""
    shape, classes, kind = rows.shape, rows.logits.shape[-1], rows.precision.compute
    rows.ignore_bits = arguments.ignore_bits(ignore_index, rows.index)
    rows.ignore_index = ignore_index
    reduction = arguments.reduction(reduction)
    rows.class_weight = arguments.class_weight(class_weight, classes, kind)
    rows.sample_weight = arguments.broadcast(sample_weight, "sample_weight", shape, kind)
    rows.grad_output, grad_scale = arguments.grad_output(grad_output, reduction, shape, kind)
    rows.numbers = {
        "label_smoothing": arguments.label_smoothing(label_smoothing),
        "z_loss": arguments.z_loss(z_loss),
        "softcap": arguments.softcap(softcap),
        "temperature": arguments.temperature(temperature),
        "reduction": reduction,
        "grad_scale": grad_scale,
        "strength": strength,
        "eps": eps,
    }


def loss_buffer(rows: Rows, out: Any) -> arguments.Array | None:
    """Validate the caller's array for the loss of validated rows."""
    shape = rows.shape if rows.numbers["reduction"] == "none" else ()
    return None if out is None else arguments.buffer(out, "out", shape, rows.precision.compute)


def compute(rows: Rows, runs: Callable[[Rows], float], out: Any) -> Any:
    """Run validated rows, and return their loss in the requested form."""
    kind = rows.precision.compute
    unreduced = rows.numbers["reduction"] == "none"
    if unreduced:
        rows.loss = np.empty(rows.shape, kind) if out is None else np.asarray(out)
    total = runs(rows)
    if unreduced:
        assert rows.loss is not None
        return rows.loss[()] if out is None else out
    with np.errstate(over="ignore"):
        loss = kind.type(total)
    if out is None:
        return loss
    out[...] = loss
    return out


def stored(result: Any, kind: arguments.Precision) -> arguments.Array:
    """Return a view of a result as the core writes it: bfloat16 as its bits."""
    return np.asarray(result).view(kind.storage) if kind.bfloat16 else np.asarray(result)
