"""What single tasks compute: NumPy arrays in, NumPy arrays out. No task sees Dask, or more than one chunk of logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from xent import _composed, _functions, losses, stages
from xent._blocks import numbers, stored
from xent._exact_sum import ExactSum
from xent._predictions import outside
from xent._request import not_a_class

Array = np.ndarray[Any, Any]


class Options(NamedTuple):
    """What is the same for all chunks: arguments of `_composed.Loss`, classes and rows of the whole, what needs sums."""

    row: dict[str, Any]
    classes: int
    shape: tuple[int, ...]
    logits_dtype: Any
    temperature_grad: bool

    def loss(
        self,
        logits: Array,
        targets: Any,
        probs: Any = None,
        weight: Array | None = None,
        class_weight: Array | None = None,
        class_bias: Array | None = None,
        slope: Any = None,
        offset: int | None = None,
    ) -> _composed.Loss:
        """Return the rows of a chunk. Weights of rows are left to `slopes` and `weighted`, but for whether they are 0."""
        loss = _composed.Loss(
            logits,
            only(targets),
            target_probs=only(probs),
            sample_weight=None if weight is None else weight != 0,
            class_weight=class_weight,
            class_bias=class_bias,
            grad_output=slope,
            reduction="none",
            shard=None if offset is None else {"class_offset": offset, "num_classes": self.classes},
            **self.row,
        )
        loss.needs_entropy |= self.temperature_grad
        return loss

    def checked(self, targets: Any, first: Array | None) -> Any:
        """Return targets; the exception for a class index that is no class names its position in the whole array."""
        targets = only(targets)
        if first is None:
            return targets
        ignore_index = self.row["ignore_index"]
        bad = outside(targets, self.classes, ignore_index)
        if bad < 0:
            return targets
        place = [int(i) for i in np.unravel_index(bad, targets.shape)]
        begin = [int(i) for i in np.unravel_index(int(first.item()), self.shape)]
        if len(place) > len(begin):  # several of a row
            begin.insert(self.row["axis"], 0)
        shown = ", ".join(str(i + b) for i, b in zip(place, begin, strict=True))
        raise IndexError(
            f"targets[{shown}] = {int(targets[tuple(place)])}{not_a_class(self.classes, ignore_index)}"
        )

    def of_sums(
        self, sums: Array, targets: Any, probs: Any, weight: Array | None, all_weights: Array | None
    ) -> _composed.Loss:
        """Return rows of which there are the sums of all classes and no logits; targets are None for class probabilities."""
        shape = list(sums.shape)
        shape.insert(self.row["axis"], self.classes)
        logits = np.broadcast_to(np.zeros((), self.logits_dtype), shape)
        # Probabilities were smoothed before they were summed.
        row = self.row if targets is not None else self.row | {"label_smoothing": 0.0}
        loss = self._replace(row=row).loss(logits, targets, probs, weight, all_weights)
        if probs is not None:
            loss.find_entries()
            loss.entries = loss.entries._replace(logits=sums["picked"])
        loss.weigh(alone(sums))
        return loss


def only(blocks: Any) -> Any:
    """Return the chunk of an array that has one along the axes which the result does not have."""
    while isinstance(blocks, list):
        (blocks,) = blocks
    return blocks


def counted(targets: Array, ignore_index: int | None) -> Array:
    """Whether rows count, by their class indices."""
    return np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index


def divisors(
    first: Array | None,
    targets: Any,
    sample_weight: Array | None,
    class_weight: Array | None,
    *,
    options: Options,
) -> ExactSum:
    """Return the sum of what the rows of a chunk add to the divisor of a mean."""
    targets = options.checked(targets, first)
    total = ExactSum()
    if targets is None:
        total.add(sample_weight)  # type: ignore[arg-type]
        return total
    counts = counted(targets, options.row["ignore_index"])
    if targets.ndim > len(options.shape):  # several of a row
        counts = counts.any(axis=options.row["axis"])
    if sample_weight is None and class_weight is None:
        total.count(int(np.count_nonzero(counts)))
        return total
    weight = np.ones(counts.shape) if sample_weight is None else sample_weight.astype(float)
    if class_weight is not None:
        weight = weight * class_weight[np.where(counts, targets, 0)]
    total.add(np.where(counts, weight, 0.0))
    return total


def row_weights(targets: Array, sample_weight: Array | None, ignore_index: int | None) -> Array:
    """Return the weights of rows, 0 of those that do not count."""
    weight = 1.0 if sample_weight is None else sample_weight.astype(float)
    return np.where(counted(targets, ignore_index), weight, 0.0)


def exponentials(total: Array, weight: Array, dtype: Any) -> Array:
    """Return exp(total / weight), rounded at the end."""
    with np.errstate(all="ignore"):
        means = np.asarray(total / weight)
        found = [_functions.exponential(float(mean)) for mean in means.flat]
        return np.array(found).reshape(means.shape).astype(dtype)


def exact(rows: Array) -> ExactSum:
    """Return the sum of the rows of a chunk."""
    total = ExactSum()
    total.add(rows)
    return total


def joined(sums: Iterable[ExactSum]) -> ExactSum:
    """Return the sum of the sums of all chunks."""
    total = ExactSum()
    for part in sums:
        total.merge(part)
    return total


def quotient(sums: list[Any], divisor: ExactSum | int | None, dtype: Any, exponential: bool) -> Any:
    """Return a mean or a sum, or its exponential, rounded to `dtype` at the end; None: sums come with their divisors."""
    if divisor is None:
        sums, divisors = zip(*sums, strict=True)  # type: ignore[assignment]
        divisor = joined(divisors)
    with np.errstate(all="ignore"):
        value = joined(sums).over(divisor)
        return dtype.type(_functions.exponential(value) if exponential else value)


def slopes(
    shape: tuple[int, ...], weight: Array | None, upstream: Any, divisor: ExactSum | int | None
) -> Array:
    """Return the derivative of the result with respect to the loss of each row."""
    by = None if divisor is None else divisor.over(1) if isinstance(divisor, ExactSum) else divisor
    with np.errstate(all="ignore"):
        slope = np.broadcast_to(np.asarray(upstream, float), shape)
        if weight is not None:
            slope = np.where(weight == 0, 0.0, slope * weight)
        return slope if by is None else slope / by if by else np.zeros(shape)


def weighted(rows: Array, weight: Array | None) -> Array:
    """Return losses times the rows' weights, in float64; a row of weight 0 costs nothing, whatever its logits are."""
    if weight is None:
        return rows
    with np.errstate(all="ignore"):
        return np.where(weight == 0, 0.0, rows * weight.astype(float))


def alone(sums: Array) -> Array:
    """Return sums without the logits of several targets."""
    found: Array = sums if sums.dtype == stages.dtype else sums["sums"]
    return found


def whole(
    chunks: Any,
    first: Array | None,
    targets: Any,
    probs: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    options: Options,
    derivatives: int,
    sums: bool,
) -> tuple[Any, ...]:
    """Return what a chunk that has all classes gives.

    The losses of its rows, the gradient, the Hessian, the log-sum-exps, the derivatives by the temperature, the sum.
    """
    logits, targets = only(chunks), options.checked(targets, first)
    axis = options.row["axis"]
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    slope = None
    if derivatives or options.temperature_grad:
        slope = slopes(shape, weight, upstream, divisor)
    by_temperature = hess = grad = None
    if options.temperature_grad or probs is not None or options.row["entropy_weight"]:
        loss = options.loss(logits, targets, probs, weight, class_weight, class_bias, slope)
        loss.reduce()
        rows, lse = loss.rows().astype(loss.compute), loss.values.lse
        if options.temperature_grad:
            by_temperature = temperatures(loss)
        if derivatives:
            grad = loss.grad(None)
    else:
        found: Any = losses.cross_entropy(
            logits,
            targets,
            class_weight=class_weight,
            class_bias=class_bias,
            sample_weight=None if weight is None else weight != 0,
            reduction="none",
            return_grad=derivatives > 0,
            return_hess=derivatives > 1,
            return_lse=True,
            grad_output=slope,
            **options.row,
        )
        rows, *more, lse = found
        grad, hess = (*more, None, None)[:2]
    rows = weighted(np.asarray(rows), weight)
    return rows, grad, hess, np.asarray(lse), by_temperature, exact(rows) if sums else None


def whole_sums(
    chunks: Any,
    first: Array | None,
    targets: Any,
    probs: Any,
    weight: Array | None,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    options: Options,
    mean: bool,
) -> Any:
    """Return the sum of the losses of a chunk that has all classes; with what its rows add to the divisor of a mean."""
    given = (chunks, first, targets, probs, weight, 1.0, None, class_weight, class_bias)
    rows, *_, total = whole(*given, options=options, derivatives=0, sums=True)
    if not mean:
        return total
    if first is not None:
        of_targets = class_weight if probs is None else None
        return total, divisors(None, targets, weight, of_targets, options=options)
    divisor = ExactSum()
    divisor.add(np.ones(rows.shape) if weight is None else weight)
    return total, divisor


def temperatures(loss: _composed.Loss) -> Array:
    """Return what each row adds to the derivative of the result by the temperature."""
    variance = loss.variance() if loss.entropy_weight else None
    return np.asarray(loss.temperature_rows(loss.moments(), variance) / -loss.given.temperature)


def reduce(
    logits: Array,
    offset: Array,
    first: Array | None,
    targets: Any,
    probs: Any,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    options: Options,
) -> Array:
    """Return the sums of a chunk, in which the class axis has one element, and the logits of several targets beside them."""
    begin, targets = int(offset.item()), options.checked(targets, first)
    loss = options.loss(logits, targets, probs, None, class_weight, class_bias, offset=begin)
    loss.prepare()
    sums = loss.stage_sums()
    if probs is not None:
        picked = loss.entries.logits
        found = np.empty(
            sums.shape, [("sums", stages.dtype), ("picked", picked.dtype, picked.shape[-1:])]
        )
        found["sums"], found["picked"] = sums, picked
        sums = found
    return np.expand_dims(sums, options.row["axis"])


def merge(shards: list[Array], axes: tuple[int, ...]) -> Array:
    """Return the sums of all classes, those of each chunk given in the order of the classes."""
    squeezed = [np.asarray(np.squeeze(sums, axes)) for sums in shards]
    merged = stages.merge(*map(alone, squeezed))
    if squeezed[0].dtype == stages.dtype:
        return merged
    # All shards but that of a target have 0 for it.
    found = np.empty_like(squeezed[0])
    found["sums"], found["picked"] = merged, sum(sums["picked"] for sums in squeezed)
    return found


def rows(
    sums: Array,
    targets: Any,
    probs: Any,
    weight: Array | None,
    class_weight: Array | None,
    *,
    options: Options,
) -> Array:
    """Return the losses of rows from their sums."""
    loss = options.of_sums(sums, targets, probs, weight, class_weight)
    with np.errstate(all="ignore"):
        return weighted(loss.rows().astype(loss.compute), weight)


def temperature_rows(
    sums: Array,
    targets: Any,
    probs: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    class_weight: Array | None,
    *,
    options: Options,
) -> Array:
    """Return what rows add to the derivative by the temperature, from their sums."""
    loss = options.of_sums(sums, targets, probs, weight, class_weight)
    loss.upstream = slopes(sums.shape, weight, upstream, divisor)
    return temperatures(loss)


def log_sum_exp(sums: Array) -> Array:
    """Return the log-sum-exp of rows from their sums."""
    return np.asarray(stages.values(alone(sums)).lse)


def gradient(
    logits: Array,
    offset: Array,
    sums: Array,
    targets: Any,
    probs: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    class_weight: Array | None,
    all_weights: Array | None,
    class_bias: Array | None,
    *,
    options: Options,
) -> Array:
    """Return the gradient of a chunk, from the sums of its rows over all classes."""
    slope = slopes(sums.shape, weight, upstream, divisor)
    begin = int(offset.item())
    loss = options.loss(logits, targets, probs, weight, class_weight, class_bias, slope, begin)
    if all_weights is not None:
        loss.all_weights = all_weights
    loss.prepare()
    loss.weigh(alone(sums))
    return np.asarray(loss.grad(None))


def column_sums(grad: Array, axis: int, precision: Any) -> Array:
    """Return the sums of a gradient over its rows, of which each axis has one element."""
    others = tuple(d for d in range(grad.ndim) if d != axis)
    wide = numbers(stored(grad, precision), precision)
    return np.asarray(np.sum(wide, axis=others, dtype=np.float64, keepdims=True))
