"""Losses of regions: sums over the positions of each sample, a ratio of them for each class, and its gradient.

The sums of softmax probabilities P = Σ p, of their products with the targets TP = Σ p t, and of the targets T = Σ t are all
that a loss reads of the logits; its derivatives with respect to P and TP are all that the gradient needs besides them. Both
passes are compiled. Between them there are a few float64 numbers for each sample and class, for which NumPy is fast enough.
"""

from __future__ import annotations

from math import prod
from operator import index as integer
from typing import Any, NamedTuple

import numpy as np

from xent import _arguments as arguments
from xent._arguments import Precision
from xent._blocks import Array, copied, stored
from xent._core import region_pass
from xent._head import region_losses
from xent._pool import count_call, empty_array
from xent._request import bad_target

Steps = tuple[int, int, int]


class Ratio(NamedTuple):
    """The loss of a class, 1 - (overlap TP + smooth) / (joint TP + mass P + target T + smooth)."""

    overlap: float
    joint: float
    mass: float
    target: float
    smooth: float


def steps(a: Array, axis: int | None) -> Steps | None:
    """Return the bytes between samples, classes and positions, or None if positions are not at constant steps.

    `axis` is that of the classes, None of an array that has none.
    """
    step, count = 0, 1
    for d in range(a.ndim - 1, 0, -1):
        if d == axis or a.shape[d] == 1:
            continue
        if count == 1:
            step = a.strides[d]
        elif a.strides[d] != step * count:
            return None
        count *= a.shape[d]
    return a.strides[0], 0 if axis is None else a.strides[axis], step


class Positions:
    """The arrays of a call, whose classes lie along `axis` and whose samples along the first axis."""

    def __init__(
        self,
        logits: Array,
        precision: Precision,
        axis: int,
        index: Array | None,
        soft: Array | None,
        ignore: int | None,
    ):
        self.logits, self.precision, self.axis = logits, precision, axis
        self.index, self.soft, self.ignore = index, soft, ignore
        self.samples, self.classes = logits.shape[0], logits.shape[axis]
        self.positions = prod(logits.shape[1:]) // max(1, self.classes)

    def sums(self) -> tuple[Array, int]:
        """Return P, TP and T of each sample, (samples, 3, classes), and the position of the first bad target or -1."""
        sums = np.zeros((self.samples, 3, self.classes))
        found = self.run(self.logits, self.index, self.soft, sums=sums)
        if found is not None:
            return sums, found
        for i in range(self.samples):
            found = self.run_copy(i, sums=sums[i : i + 1])
            if found >= 0:
                return sums, i * self.positions + found
        return sums, -1

    def gradient(self, slope: Array, out: Array) -> None:
        """Write the gradient, from the derivatives with respect to P and TP, (samples, 2, classes)."""
        out = stored(out, self.precision)
        if self.run(self.logits, self.index, self.soft, slope=slope, out=out) is None:
            for i in range(self.samples):
                self.run_copy(i, slope=slope[i : i + 1], out=out[i])

    def run(
        self,
        logits: Array,
        index: Array | None,
        soft: Array | None,
        axis: int | None = None,
        sums: Array | None = None,
        slope: Array | None = None,
        out: Array | None = None,
    ) -> int | None:
        """Run a pass over whole arrays; None if they cannot be read as they lie."""
        if self.samples * self.positions == 0:
            return -1  # strides of empty arrays mean nothing
        axis = self.axis if axis is None else axis
        storage, compute = self.precision.storage, self.precision.compute
        found: dict[str, Steps] = {}
        for name, a, dtype in (
            ("logits", logits, storage),
            ("soft", soft, compute),
            ("out", out, storage),
            ("index", index, None),
        ):
            if a is None:
                continue
            at = steps(a, None if dtype is None else axis)
            if at is None or (dtype is not None and not (a.dtype == dtype and a.flags.aligned)):
                return None
            found[name] = at
        shape = (logits.shape[0], self.classes, self.positions)
        return region_pass(
            self.precision, shape, found, logits, index, soft, self.ignore, sums, slope, out
        )

    def run_copy(self, i: int, sums: Any = None, slope: Any = None, out: Any = None) -> int:
        """Run a pass over one sample, whose arrays are copied in the form that the core reads."""
        first = self.axis - 1
        logits = copied(np.moveaxis(self.logits[i], first, 0), self.precision.storage)[None]
        soft = index = result = None
        if self.soft is not None:
            soft = copied(np.moveaxis(self.soft[i], first, 0), self.precision.compute)[None]
        if self.index is not None:
            index = np.ascontiguousarray(self.index[i])[None]
        if out is not None:
            result = logits  # which are read before they are written
        bad = self.run(logits, index, soft, 1, sums, slope, result)
        assert bad is not None
        if out is not None:
            np.copyto(np.moveaxis(out, first, 0), logits[0])
        return bad


def total(a: Array, axis: int) -> Array:
    """Return sums in the order of the elements, with the same bits whatever NumPy's instruction set."""
    if a.shape[axis] == 0:
        return np.zeros(np.delete(a.shape, axis))
    found: Array = np.add.accumulate(a, axis).take(-1, axis)
    return found


def region_loss(
    ratio: Ratio,
    logits: Any,
    targets: Any,
    axis: Any,
    class_weight: Any,
    ignore_index: Any,
    batch: Any,
    reduction: Any,
    return_grad: Any,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
) -> Any:
    """Return the loss, or the tuple of it and the gradient, as the public functions describe them."""
    values, precision = arguments.logits(logits, "logits", dtype)
    shape = values.shape
    if values.ndim < 2:
        raise ValueError(
            f"logits: expected at least two axes, that of the samples, which is the first, and that of the classes; "
            f"got {f'shape {shape}' if shape else 'a scalar'}"
        )
    axis = arguments.class_axis(axis, values.ndim, "logits")
    if axis == 0:
        raise ValueError(
            "axis: expected the axis of the classes; axis 0 of logits is that of the samples"
        )
    if shape[axis] == 0:
        raise ValueError(f"logits: shape {shape} has no elements along the axis of the classes")
    index, soft = arguments.targets(targets, values, axis)
    if index is None and ignore_index is not None and _is_class(ignore_index):
        raise ValueError(
            f"ignore_index: {ignore_index} needs class indices; got class probabilities"
        )
    ignore = arguments.ignore_bits(ignore_index, index)
    weight = arguments.class_weight(class_weight, shape[axis], np.dtype(np.float64))
    batch = arguments.flag(batch, "batch")
    arguments.reduction(reduction)
    reduced = reduction != "none"
    of_loss = () if reduced or batch else shape[:1]
    upstream, scale = arguments.grad_output(grad_output, reduced, of_loss, np.dtype(np.float64))
    with_grad = arguments.requested_outputs(return_grad, False, grad_output, grad_out, None)
    if out is not None:
        out = arguments.buffer(out, "out", of_loss, precision.compute)
    if grad_out is not None:
        grad_out = arguments.buffer(grad_out, "grad_out", shape, precision.result_dtype)
    if out is not None or grad_out is not None:
        inputs = {
            "logits": values,
            "targets": soft if index is None else index,
            "class_weight": weight,
            "grad_output": upstream,
        }
        arguments.check_no_overlap(
            {"out": out, "grad_out": grad_out}, inputs, ("grad_out", "logits")
        )
    count_call()
    positions = Positions(values, precision, axis, index, soft, ignore)
    sums, bad = positions.sums()
    if bad >= 0:
        raise bad_target(index, bad, shape[axis], ignore_index)
    if batch:
        sums = total(sums, 0)[None]
    row_losses, slope = region_losses(
        sums, ratio, weight, reduction == "mean", scale if upstream is None else upstream
    )
    with np.errstate(all="ignore"):
        loss: Any = row_losses if of_loss else total(row_losses, 0)
        if reduction == "mean":
            loss = loss / len(row_losses)
        loss = loss.astype(precision.compute)[()]
    if out is not None:
        out[...] = loss
        loss = out
    if not with_grad:
        return loss
    if grad_out is None:
        grad_out = empty_array(shape, precision.result_dtype)
    if batch:
        slope = np.repeat(slope, shape[0], axis=0)
    positions.gradient(slope, grad_out)
    return loss, grad_out


def _is_class(ignore_index: Any) -> bool:
    try:
        return integer(ignore_index) >= 0
    except TypeError:
        return False  # which is refused with the words that other functions have for it
