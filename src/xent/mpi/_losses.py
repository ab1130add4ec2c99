"""What the public functions call."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent._blocks import numbers, stored
from xent.mpi._ranks import Classes, Grid
from xent.mpi._shard import Shard, options_of, rows_of, target_weights, without_mean


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    comm: Any,
    row_comm: Any,
    class_offset: Any,
    return_grad: Any,
    return_lse: Any,
    return_bias_grad: Any,
    out: Any,
    grad_out: Any,
    **options: Any,
) -> Any:
    """Return the loss, or the tuple of the requested results."""
    grid = Grid(comm, row_comm)
    with grid.together():
        with_grad = arguments.requested_outputs(
            return_grad, False, options["grad_output"], grad_out, None
        )
        with_lse = arguments.flag(return_lse, "return_lse")
        with_bias = arguments.flag(return_bias_grad, "return_bias_grad")
        if with_bias and options["class_bias"] is None:
            raise ValueError("return_bias_grad: expected class_bias")
        reduction = options["reduction"]
        if row_comm is not None:
            options["reduction"] = without_mean(reduction)
        loss = Shard(logits, targets, target_probs=None, **options)
        loss.reduction = reduction
        if out is not None:
            shape = loss.shape if loss.reduction == "none" else ()
            out = arguments.buffer(out, "out", shape, loss.compute)
        if grad_out is not None:
            grad_out = loss.given.gradient_buffer(grad_out)
        classes = Classes(loss.classes, class_offset)
        agreed = options_of(loss.given, loss.reduction, with_grad) | {
            "label_smoothing": loss.smoothing,
            "z_loss": loss.z_loss,
            "entropy_weight": loss.entropy_weight,
            "class_weight": "given" if loss.class_weight is not None else "not given",
        }
        rows = rows_of(loss.given, loss.sample_weight, loss.upstream, loss.scale)
    with grid.together():
        place = grid.agree(agreed, rows, classes)
        loss.put(grid.comm, place, target_weights(grid, place, loss.given, loss.class_weight))
        loss.reduce()
        losses = loss.rows()
        total = float(np.sum(losses, dtype=np.longdouble))
    total, loss.divisor = grid.over_rows(total, loss.divisor)
    with grid.together():
        reduced = loss.reduction != "none"
        result = loss.reduced(total) if reduced else losses.astype(loss.compute)[()]
        found: list[Any] = [result]
        grad: Any = loss.grad(grad_out) if with_grad or with_bias else None
        if with_grad:
            found.append(grad)
        if with_lse:
            found.append(loss.values.lse)
        if with_bias:
            wide = numbers(stored(grad, loss.given.precision), loss.given.precision)
            others = tuple(d for d in range(wide.ndim) if d != loss.axis)
            found.append(np.sum(wide, axis=others, dtype=np.float64).astype(loss.compute))
    if out is not None:
        out[...] = result
        found[0] = out
    return found[0] if len(found) == 1 else tuple(found)
