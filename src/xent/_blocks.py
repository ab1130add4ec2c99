"""What no kernel reads as it lies, converted block by block: other dtypes and byte orders, no contiguous axis.

A block of rows, or of elements, is copied in the form that the core reads and computed as a part of the request, and its
results are stored, so that no call needs more memory than its row losses and one block. Blocks change no bits: a row's
result does not depend on the rows beside it, and a block of elements holds whole summation blocks, whose sums it stores at
the places that they have in the whole array. Subclasses of `RowBlocks` can compute the logits of a block and consume its
gradient: `_linear.py` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from xent import _core
from xent._arguments import Precision
from xent._pool import empty_array
from xent._request import BLOCK_BYTES, ELEMENTS, Request, bad_probability

Array = np.ndarray[Any, np.dtype[Any]]

# An index that selects rows of an array whose first axes are those of the loss: integers, one slice and an ellipsis, or one
# array of positions for each axis.
Block = tuple[Any, ...]

# The number of elements whose losses are summed together.
SUM_BLOCK = 4096


def run(request: Request) -> float:
    """Compute the requested results; return the reduced loss."""
    return run_elements(request) if request.elementwise else RowBlocks(request).run()


class RowBlocks:
    """The arrays of a request, the axes of the loss first, the class axis last."""

    def __init__(self, request: Request):
        self.request = request
        self.precision: Precision = request.precision
        self.shape: tuple[int, ...] = request.shape
        self.logits: Array = request.classes_last(request.logits)
        self.soft: Array | None = request.classes_last(request.soft)
        self.index, self.grad_output = request.index, request.grad_output
        weight = request.sample_weight
        self.sample_weight = None if weight is None else np.broadcast_to(weight, self.shape)
        self.loss: Array | None = request.loss
        self.lse: Array | None = request.lse
        self.out: Array | None = self.results(request.out)
        self.hess: Array | None = self.results(request.hess)

    def results(self, a: Array | None) -> Array | None:
        """Return a view of an array of results as the core writes it."""
        a = self.request.classes_last(a)
        return None if a is None else stored(a, self.precision)

    def run(self) -> float:
        """Compute the requested results; return the reduced loss (0.0 without a reduction)."""
        reduced = self.request.reduction != "none"
        if self.loss is None and reduced:
            self.loss = empty_array(self.shape, self.precision.compute)
        # All targets are validated, and the divisor is found, before anything is written; that reads no logit. The
        # probabilities of targets are validated block by block.
        placeholder = unread(self.logits.shape, self.precision.storage)
        whole = self.request.part(
            placeholder,
            self.index,
            sample_weight=self.sample_weight,
            loss=self.loss,
            unread=True,
        )
        self.request.refuse(whole.prepare())
        if self.request.reads_targets_alone:
            self.validate_targets()
        for block in self.blocks(whole.divisor):
            self.run_block(block, whole.divisor)
        return whole.finish() if reduced else 0.0

    def validate_targets(self) -> None:
        """Refuse targets whose numbers are no probabilities."""
        for block in self.blocks(1.0):
            weight = piece(self.sample_weight, block)
            part = self.request.part(
                self.load(block)[0], piece(self.index, block), sample_weight=weight
            )
            row = part.prepare()
            if row >= 0:
                rows = np.arange(prod(self.shape)).reshape(self.shape)
                self.request.refuse(rows[block].flat[row])

    def run_block(self, block: Block, divisor: float) -> None:
        logits, out, hess = self.load(block)
        shape = logits.shape[:-1]
        loss, lse = (
            None if a is None else empty_array(shape, a.dtype) for a in (self.loss, self.lse)
        )
        soft = piece(self.soft, block)
        if soft is not None:
            soft = copied(soft, self.request.soft_dtype)
        part = self.request.part(
            logits,
            piece(self.index, block),
            soft,
            piece(self.sample_weight, block),
            grad_output=piece(self.grad_output, block),
            loss=loss,
            lse=lse,
            out=out,
            hess=hess,
        )
        part.divisor = divisor
        part.compute()
        if self.loss is not None:
            self.loss[block] = loss
        if self.lse is not None:
            self.lse[block] = lse
        self.store(block, out, hess)

    def blocks(self, divisor: float) -> Iterator[Block]:
        """Yield the blocks to compute. Results of rows that no block selects are written before the first block."""
        row_bytes = max(1, self.logits.shape[-1] * self.precision.storage.itemsize)
        return blocks(self.shape, max(1, BLOCK_BYTES // row_bytes))

    def load(self, block: Block) -> tuple[Array, Array | None, Array | None]:
        """Return the logits of a block as the core reads them, and arrays for gradient and Hessian if they are requested."""
        kind = self.precision.storage
        logits = copied(self.logits[block], kind)
        out = None if self.out is None else empty_array(logits.shape, kind)
        hess = None if self.hess is None else empty_array(logits.shape, kind)
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


def piece(a: Array | None, block: Block) -> Array | None:
    return None if a is None else a[block]


def copied(a: Array, dtype: np.dtype[Any]) -> Array:
    """Return a contiguous copy in another dtype, infinite where that is too small."""
    copy = empty_array(a.shape, dtype)
    with np.errstate(all="ignore"):
        np.copyto(copy, a, casting="unsafe")
    return copy


def unread(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a placeholder for logits that a call does not read: one element, broadcast to their shape."""
    return np.ndarray(shape, dtype, bytes(8), 0, (0,) * len(shape))


class Flat:
    """The elements of an array in C order. Slices are views if the array is contiguous, copies otherwise."""

    def __init__(self, a: Array, dtype: np.dtype[Any]):
        self.elements: Any = a.reshape(-1) if a.flags.c_contiguous else a.flat
        self.dtype = dtype

    def __getitem__(self, part: slice) -> Array:
        found: Array = self.elements[part].astype(self.dtype, copy=False)
        return found


def slices(size: int) -> Iterator[slice]:
    for start in range(0, size, ELEMENTS):
        yield slice(start, min(start + ELEMENTS, size))


def run_elements(request: Request) -> float:
    """Compute the requested results; return the reduced loss (0.0 without a reduction)."""
    kind, shape, size = request.precision, request.shape, request.logits.size
    x = Flat(request.logits, kind.storage)
    weights = {"sample_weight": request.sample_weight, "pos_weight": request.pos_weight}
    broadcast = {"soft": request.soft, **weights}
    inputs = {"grad_output": request.grad_output} | {
        name: None if a is None else np.broadcast_to(a, shape) for name, a in broadcast.items()
    }
    results = {
        "loss": request.loss,
        "out": None if request.out is None else stored(request.out, kind),
        "hess": None if request.hess is None else stored(request.hess, kind),
    }
    read = {name: Flat(a, kind.compute) for name, a in inputs.items() if a is not None}
    written = {name: Flat(a, a.dtype) for name, a in results.items() if a is not None}
    sums = np.zeros((-(-size // SUM_BLOCK), 2))

    def part(at: slice, outputs: dict[str, Array]) -> Request:
        with np.errstate(all="ignore"):
            arrays = {name: a[at] for name, a in read.items()}
            return request.part(
                x[at], **arrays, **outputs, block_sums=sums[at.start // SUM_BLOCK :]
            )

    def total(reduction: str) -> Request:
        return request.part(unread(shape, kind.storage), block_sums=sums, reduction=reduction)

    reduction = request.reduction
    divisor = float(size if reduction != "batchmean" else shape[0] if shape else 1)
    if request.operation == "binary_cross_entropy" or request.sample_weight is not None:
        # All probabilities are validated, and all weights summed, before anything is written.
        for at in slices(size):
            position = part(at, {}).prepare()
            request.refuse(position if position < 0 else at.start + position)
        if request.sample_weight is not None and reduction != "batchmean":
            divisor = total("sum").finish()
    for at in slices(size):
        outputs = {name: a[at] for name, a in written.items()}
        call = part(at, outputs)
        call.divisor = divisor
        call.compute()
        for name, a in written.items():
            if isinstance(a.elements, np.flatiter):
                a.elements[at] = outputs[name]
    if reduction == "none":
        return 0.0
    whole = total(reduction)
    whole.divisor = divisor
    return float(whole.finish())


def validate_probabilities(request: Request) -> None:
    """Refuse numbers outside [0, 1] of elements that count; NaN passes."""
    flat = Flat(request.logits, request.precision.storage)
    weight = request.sample_weight
    weights = None if weight is None else Flat(weight, request.precision.compute)
    for at in slices(request.logits.size):
        part = request.part(flat[at], sample_weight=None if weights is None else weights[at])
        position = part.prepare()
        if position >= 0:
            raise bad_probability(
                request.logits, request.precision, request.name, at.start + position
            )


# Half types, as NumPy's own arithmetic has them.


def stored(a: Array, precision: Precision) -> Array:
    """Return a view of an array as the core reads and writes it: bfloat16 as its bits."""
    return a.view(precision.storage) if precision.bfloat16 else a


def numbers(stored: Array, kind: Precision) -> Array:
    """Return the numbers of an array that is stored as the core reads it: bfloat16 bits as float32, others as they are."""
    if not kind.bfloat16:
        return stored
    bits: Array = np.left_shift(stored, 16, dtype=np.uint32)
    return bits.view(np.float32)


def bfloat16_bits(values: Array) -> Array:
    """Round float32 or float64 numbers to bfloat16, once: to nearest, ties to even."""
    with np.errstate(all="ignore"):
        single = values.astype(np.float32, copy=False)
    bits = single.view(np.uint32).copy()
    if values.dtype != single.dtype:
        # Rounding to float32 first would create ties. Rounding to odd creates none: toward zero, then the last bit is set
        # if anything was lost (S. Boldo, G. Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
        with np.errstate(all="ignore"):
            bits -= np.abs(single) > np.abs(values)
            bits |= single != values
    bits += 0x7FFF + (bits >> 16 & 1)
    bits >>= 16
    return np.where(np.isnan(values), 0x7FC0, bits).astype(np.uint16)


def float16(values: Array) -> Array:
    """Round float32 or float64 numbers to float16, once.

    NumPy's conversion takes 20 times as long for numbers that become subnormal and are not representable. They are rounded
    before it to multiples of 2^-24, the spacing of float16's subnormals, by adding a number whose own spacing that is.
    """
    room = values.dtype.type(0.75 if values.itemsize == 4 else 1.5 * 2.0**28)
    with np.errstate(all="ignore"):
        small = np.where(np.abs(values) < 2.0**-14, (values + room) - room, values)
        return small.astype(np.float16)


def rounded(values: Array, kind: Precision) -> Array:
    """Round float32 or float64 numbers to half-precision results; conversions to other dtypes are left to NumPy."""
    if values.dtype == np.float32 and kind.storage.itemsize == 2:
        result = empty_array(values.shape, kind.storage)
        _core.round_to(result, np.ascontiguousarray(values))
        return result
    if kind.bfloat16:
        return bfloat16_bits(values)
    return float16(values) if kind.result_dtype == np.float16 else values
