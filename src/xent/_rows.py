"""Run validated arguments in the core: directly when it supports the layout of every array, otherwise block by block.

The core needs native dtypes and one contiguous axis, that of the classes or another. Other arrays (without a contiguous
axis, byte-swapped, of integers, soft targets of another precision) are copied a block of rows at a time, so that no call
needs more memory than its row losses and one block. Blocks change no bits, because a row's result does not depend on the
rows beside it. Subclasses of `Rows` can compute the logits of a block and consume its gradient: `_linear.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xent._arguments import Array, Precision, bad_target
from xent._core import Call

BLOCK_BYTES = 1 << 20

# An index that selects rows of an array whose first axes are those of the loss: integers, one slice and an ellipsis, or one
# array of positions for each axis.
Block = tuple[Any, ...]


@dataclass
class Rows:
    """The arrays and numbers of one call. Arrays have the axes of the loss first, the class axis last."""

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
    # `ignore_index` as the bits of the targets' dtype; None if no target can equal it.
    ignore_bits: int | None = None
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def soft_dtype(self) -> np.dtype[Any]:
        """The dtype in which the core reads soft targets, or the teacher's logits."""
        teacher = self.operation == "distillation_loss"
        return self.precision.storage if teacher else self.precision.compute

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.logits.shape[:-1])

    def blocks(self, divisor: float) -> Iterator[Block]:
        """Yield the blocks to compute. Results of rows that no block selects are written before the first block."""
        row_bytes = max(1, self.logits.shape[-1] * self.precision.storage.itemsize)
        return blocks(self.shape, max(1, BLOCK_BYTES // row_bytes))

    def load(self, block: Block) -> tuple[Array, Array | None, Array | None]:
        """Return the logits of a block as the core reads them, and arrays for gradient and Hessian if they are requested."""
        kind = self.precision.storage
        with np.errstate(all="ignore"):
            logits = np.ascontiguousarray(self.logits[block], kind)
        out = None if self.out is None else np.empty(logits.shape, kind)
        hess = None if self.hess is None else np.empty(logits.shape, kind)
        return logits, out, hess

    def store(self, block: Block, out: Array | None, hess: Array | None) -> None:
        """Store the gradient and the Hessian of a block."""
        with np.errstate(all="ignore"):
            if self.out is not None:
                self.out[block] = out
            if self.hess is not None:
                self.hess[block] = hess


def blocks(shape: tuple[int, ...], rows: int) -> Iterator[Block]:
    """Yield indices that cut `shape` into parts of at most `rows` elements, in C order."""
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


def part(a: Array | None, block: Block) -> Array | None:
    return None if a is None else a[block]


def run(rows: Rows) -> float:
    """Compute the requested results; return the reduced loss (0.0 without a reduction)."""
    kind = rows.precision
    outputs = (rows.out, rows.hess)
    if (
        rows.logits.dtype == kind.storage
        and (rows.soft is None or rows.soft.dtype == rows.soft_dtype)
        and all(a is None or a.dtype == kind.storage for a in outputs)
    ):
        call = core_call(rows, rows.logits).arrays(
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
        if call.layout_supported():
            check(rows, call.run())
            return float(call.result)
    return run_in_blocks(rows)


def core_call(rows: Rows, logits: Array) -> Call:
    shape, classes = logits.shape[:-1], logits.shape[-1]
    call = Call(rows.operation, shape, classes, logits, rows.precision.bfloat16)
    return call.numbers(**rows.numbers, ignore_index=rows.ignore_bits)


def unread(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a placeholder for logits that a call does not read: one element, broadcast to their shape."""
    return np.broadcast_to(np.empty((), dtype), shape)


def run_in_blocks(rows: Rows) -> float:
    """Compute the requested results a block of rows at a time; return the reduced loss (0.0 without a reduction)."""
    reduced = rows.numbers.get("reduction", "none") != "none"
    if rows.loss is None and reduced:
        rows.loss = np.empty(rows.shape, rows.precision.compute)
    # All targets are validated, and the divisor is found, before anything is written; that reads no logit.
    whole = core_call(rows, unread(rows.logits.shape, rows.precision.storage))
    whole.arrays(rows.index, None, rows.class_weight, rows.sample_weight, None, rows.loss)
    check(rows, whole.prepare())
    for block in rows.blocks(whole.divisor):
        run_block(rows, block, whole.divisor)
    if reduced:
        whole.finish()
    return float(whole.result)


def run_block(rows: Rows, block: Block, divisor: float) -> None:
    logits, out, hess = rows.load(block)
    shape = logits.shape[:-1]
    loss, lse = (None if a is None else np.empty(shape, a.dtype) for a in (rows.loss, rows.lse))
    soft = part(rows.soft, block)
    if soft is not None:
        with np.errstate(all="ignore"):
            soft = np.ascontiguousarray(soft, rows.soft_dtype)
    call = core_call(rows, logits).arrays(
        part(rows.index, block),
        soft,
        rows.class_weight,
        part(rows.sample_weight, block),
        part(rows.grad_output, block),
        loss,
        lse,
        out,
        hess,
    )
    call.divisor = divisor
    call.compute()
    if rows.loss is not None:
        rows.loss[block] = loss
    if rows.lse is not None:
        rows.lse[block] = lse
    rows.store(block, out, hess)


def check(rows: Rows, bad_row: int) -> None:
    if bad_row >= 0:
        assert rows.index is not None
        raise bad_target(rows.index, bad_row, rows.logits.shape[-1], rows.ignore_index)
