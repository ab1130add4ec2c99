"""The losses over a softmax: arguments judged, results allocated, rows handed to the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent._elementwise import judge_probabilities
from xent._rows import Rows, run

# What takes class probabilities in the place of class indices.
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
    """The loss, or the tuple of what was asked for, as the public functions describe it. `name` is what they call their
    logits; without targets there may be the logits of a teacher."""
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
    judge(
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
    with_grad, with_hess = arguments.asked(
        return_grad, return_hess, grad_output, grad_out, hess_out
    )
    with_lse = arguments.flag(return_lse, "return_lse")
    buffers = {
        "out": loss_buffer(rows, out),
        "grad_out": None
        if grad_out is None
        else arguments.buffer(grad_out, "grad_out", x.shape, kind.answer),
        "hess_out": None
        if hess_out is None
        else arguments.buffer(hess_out, "hess_out", x.shape, kind.answer),
    }
    arguments.separate(
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
        judge_probabilities(x, kind, name)

    results: list[Any] = []
    if with_grad:
        grad = np.empty(x.shape, kind.answer) if grad_out is None else grad_out
        rows.out = arguments.classes_last(stored(grad, kind), axis)
        results.append(grad)
    if with_hess:
        hess = np.empty(x.shape, kind.answer) if hess_out is None else hess_out
        rows.hess = arguments.classes_last(stored(hess, kind), axis)
        results.append(hess)
    if with_lse:
        rows.lse = np.empty(rows.shape, kind.compute)
    loss = compute(rows, run, out)
    if rows.lse is not None:
        results.append(rows.lse[()])
    return (loss, *results) if results else loss


def judge(
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
    """Takes the weights and numbers of a call into its rows, whose logits and targets are there."""
    shape, classes, kind = rows.shape, rows.logits.shape[-1], rows.precision.compute
    rows.ignore_bits = arguments.ignore(ignore_index, rows.index)
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
    """The caller's array for the loss of judged rows."""
    shape = rows.shape if rows.numbers["reduction"] == "none" else ()
    return None if out is None else arguments.buffer(out, "out", shape, rows.precision.compute)


def compute(rows: Rows, runs: Callable[[Rows], float], out: Any) -> Any:
    """Runs judged rows, and returns their loss as it was asked for."""
    kind = rows.precision.compute
    separate = rows.numbers["reduction"] == "none"
    if separate:
        rows.loss = np.empty(rows.shape, kind) if out is None else np.asarray(out)
    total = runs(rows)
    if separate:
        assert rows.loss is not None
        return rows.loss[()] if out is None else out
    with np.errstate(over="ignore"):
        loss = kind.type(total)
    if out is None:
        return loss
    out[...] = loss
    return out


def stored(answer: Any, kind: arguments.Precision) -> arguments.Array:
    """An array of the answer's dtype as the core writes it."""
    return np.asarray(answer).view(kind.storage) if kind.bfloat16 else np.asarray(answer)
