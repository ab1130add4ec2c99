"""From judged arguments to the core: directly when every array can be read where it lies, otherwise block by block.

The core wants native dtypes and one contiguous axis, that of the classes or another. What is not so (no contiguous axis,
byte-swapped or integer input, soft targets of another precision) is copied a block of rows at a time, so that no call needs
more memory than its row losses and one block. Blocks change no bits: a row's result does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xent._arguments import Array, Precision, bad_target
from xent._core import Call

BLOCK_BYTES = 1 << 20


@dataclass
class Rows:
    """Rows of logits and what goes with them: axes of the loss first, the class axis last."""

    operation: str
    logits: Array
    precision: Precision
    index: Array | None = None
    soft: Array | None = None
    class_weight: Array | None = None
    sample_weight: Array | None = None
    grad_output: Array | None = None
    loss: Array | None = None
    lse: Array | None = None
    out: Array | None = None
    hess: Array | None = None
    ignore_index: int | None = None
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def soft_dtype(self) -> np.dtype[Any]:
        """As the core reads soft targets, or the teacher's logits."""
        teacher = self.operation == "distillation_loss"
        return self.precision.storage if teacher else self.precision.compute

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.logits.shape[:-1])


def blocks(shape: tuple[int, ...], rows: int) -> Iterator[tuple[Any, ...]]:
    """Indices that cut `shape` into parts of at most `rows` elements, in C order."""
    axis, inner = len(shape), 1
    while axis > 0 and inner * shape[axis - 1] <= rows:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield (...,)
        return
    step = max(1, rows // inner)
    for lead in np.ndindex(*shape[: axis - 1]):
        for start in range(0, shape[axis - 1], step):
            yield (*lead, slice(start, start + step), ...)


def part(a: Array | None, block: tuple[Any, ...]) -> Array | None:
    return None if a is None else a[block]


def run(rows: Rows, ignore_bits: int | None = None) -> float:
    """Computes everything asked for; returns the reduced loss (0.0 without a reduction)."""
    numbers = {**rows.numbers, "ignore_index": ignore_bits}
    kind = rows.precision
    outputs = (rows.out, rows.hess)
    if (
        rows.logits.dtype == kind.storage
        and (rows.soft is None or rows.soft.dtype == rows.soft_dtype)
        and all(a is None or a.dtype == kind.storage for a in outputs)
    ):
        call = core_call(rows, rows.logits, numbers).arrays(
            rows.index,
            rows.soft,
            rows.class_weight,
            rows.sample_weight,
            rows.grad_output,
            rows.loss,
            rows.lse,
            rows.out,
            rows.hess,
        )
        if call.readable():
            check(rows, call.run())
            return float(call.result)
    return run_in_blocks(rows, numbers)


def core_call(rows: Rows, logits: Array, numbers: dict[str, Any]) -> Call:
    return Call(
        rows.operation, logits.shape[:-1], logits.shape[-1], logits, rows.precision.bfloat16
    ).numbers(**numbers)


def run_in_blocks(rows: Rows, numbers: dict[str, Any]) -> float:
    kind = rows.precision
    reduced = numbers.get("reduction", "none") != "none"
    loss = rows.loss
    if loss is None and reduced:
        loss = np.empty(rows.shape, kind.compute)
    # Targets and weights are judged as a whole, before anything is written; no logit is read for it.
    unread = np.broadcast_to(np.empty((), kind.storage), rows.logits.shape)
    whole = core_call(rows, unread, numbers)
    whole.arrays(rows.index, None, rows.class_weight, rows.sample_weight, None, loss)
    check(rows, whole.prepare())
    row_bytes = max(1, rows.logits.shape[-1] * kind.storage.itemsize)
    for block in blocks(rows.shape, max(1, BLOCK_BYTES // row_bytes)):
        with np.errstate(all="ignore"):
            logits = np.ascontiguousarray(rows.logits[block], kind.storage)
            soft = (
                None
                if rows.soft is None
                else np.ascontiguousarray(rows.soft[block], rows.soft_dtype)
            )
        out = None if rows.out is None else np.empty(logits.shape, kind.storage)
        hess = None if rows.hess is None else np.empty(logits.shape, kind.storage)
        call = core_call(rows, logits, numbers).arrays(
            part(rows.index, block),
            soft,
            rows.class_weight,
            part(rows.sample_weight, block),
            part(rows.grad_output, block),
            part(loss, block),
            part(rows.lse, block),
            out,
            hess,
        )
        call.divisor = whole.divisor
        call.compute()
        with np.errstate(all="ignore"):
            if rows.out is not None:
                rows.out[block] = out
            if rows.hess is not None:
                rows.hess[block] = hess
    if reduced:
        whole.finish()
    return float(whole.result)


def check(rows: Rows, bad_row: int) -> None:
    if bad_row >= 0:
        assert rows.index is not None
        raise bad_target(rows.index, bad_row, rows.logits.shape[-1], rows.ignore_index)
