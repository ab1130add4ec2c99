"""What single tasks compute: NumPy arrays in, NumPy arrays out. No task sees Dask, or more than one chunk of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xent import _arguments as arguments
from xent import _functions, losses, stages
from xent._blocks import numbers, rounded
from xent._exact_sum import ExactSum
from xent._head import Head
from xent._predictions import outside
from xent._request import not_a_class

Array = np.ndarray[Any, Any]


class Terms(NamedTuple):
    """The terms of a row's loss besides the negative log-likelihood of its target, and the number of classes."""

    label_smoothing: float
    z_loss: float
    entropy_weight: float
    classes: int

    def smooths(self, targets: Array, axis: int, dtype: Any, class_weight: Array | None) -> Array:
        """Return class probabilities, smoothed and times the class weights, of a chunk."""
        e = dtype.type(self.label_smoothing)
        if not e and class_weight is None:
            return targets
        along = 1 if class_weight is None else shaped(class_weight, axis, targets.ndim)
        with np.errstate(all="ignore"):
            found: Array = (targets.astype(dtype) * (1 - e) + e / dtype.type(self.classes)) * along
            return found


def shaped(of_classes: Array, axis: int, ndim: int) -> Array:
    """Return one number a class in a shape that broadcasts along the class axis."""
    return of_classes.reshape((-1,) + (1,) * (ndim - axis - 1))


def checked(targets: Array, classes: int, ignore_index: int | None, block_info: Any) -> Array:
    """Return class indices, each of which is a class or ignored; the exception names the position in the whole array."""
    bad = outside(targets, classes, ignore_index)
    if bad >= 0:
        place = np.unravel_index(bad, targets.shape)
        raise IndexError(
            f"targets[{in_whole(place, block_info)}] = {int(targets[place])}{not_a_class(classes, ignore_index)}"
        )
    return targets


def in_whole(place: Sequence[Any], block_info: Any) -> str:
    """Return the position in the whole array of an element of a chunk, as messages show it."""
    begin = [start for start, _ in block_info[0]["array-location"]]
    return ", ".join(str(int(i) + b) for i, b in zip(place, begin, strict=True))


def counted(targets: Array, ignore_index: int | None) -> Array:
    """Whether rows count, by their class indices."""
    return np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index


def divisors(
    targets: Array | None,
    sample_weight: Array | None,
    class_weight: Array | None,
    ignore_index: int | None,
) -> ExactSum:
    """Return the sum of what the rows of a chunk add to the divisor of a mean."""
    total = ExactSum()
    if targets is None:
        total.add(sample_weight)  # type: ignore[arg-type]
        return total
    counts = counted(targets, ignore_index)
    weight = np.ones(targets.shape) if sample_weight is None else sample_weight.astype(float)
    if class_weight is not None:
        weight = weight * class_weight[np.where(counts, targets, 0)]
    total.add(np.where(counts, weight, 0.0))
    return total


def exact(rows: Array) -> ExactSum:
    """Return the sum of the rows of a chunk."""
    total = ExactSum()
    total.add(rows)
    return total


def joined(sums: list[ExactSum]) -> ExactSum:
    """Return the sum of the sums of all chunks."""
    total = ExactSum()
    for part in sums:
        total.merge(part)
    return total


def quotient(sums: list[ExactSum], divisor: ExactSum | int, dtype: Any, exponential: bool) -> Any:
    """Return a mean or a sum, or its exponential, rounded to `dtype` at the end."""
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


def clear(grad: Array, counts: Array, axis: int) -> None:
    """Zero the gradient of rows that do not count, whatever their logits are."""
    if not counts.all():
        bits = grad.view(f"u{grad.itemsize}")
        np.moveaxis(bits, axis, -1)[~counts] = 0


def whole(
    chunks: list[Array],
    targets: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    terms: Terms,
    return_grad: bool,
    stage: dict[str, Any],
) -> tuple[Array, Array | None, Array]:
    """Return the losses, the gradient and the log-sum-exp of a chunk that has all classes."""
    (logits,) = chunks
    (targets,) = targets if isinstance(targets, list) else (targets,)
    axis = stage["axis"]
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    found: Any = losses.cross_entropy(
        logits,
        targets,
        class_weight=class_weight,
        class_bias=class_bias,
        label_smoothing=terms.label_smoothing,
        z_loss=terms.z_loss,
        entropy_weight=terms.entropy_weight,
        reduction="none",
        return_grad=return_grad,
        return_lse=True,
        grad_output=slopes(shape, weight, upstream, divisor) if return_grad else None,
        **stage,
    )
    grad = found[1] if return_grad else None
    if grad is not None and weight is not None:
        clear(grad, np.asarray(weight != 0), axis)
    return weighted(np.asarray(found[0]), weight), grad, np.asarray(found[-1])


def reduce(
    logits: Array,
    offset: Array,
    targets: Array | None,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    terms: Terms,
    compute: Any,
    stage: dict[str, Any],
) -> Array:
    """Return the sums of a chunk, in which the class axis has one element."""
    axis = stage["axis"]
    soft = targets is not None and targets.ndim == logits.ndim
    smooth = terms.label_smoothing > 0 and not soft
    if soft:
        targets = terms.smooths(targets, axis, compute, class_weight)  # type: ignore[arg-type]
    sums = stages.reduce(
        logits,
        targets,
        class_offset=int(offset.item()),
        num_classes=terms.classes,
        class_weight=class_weight if smooth else None,
        class_bias=class_bias,
        entropy=terms.entropy_weight != 0,
        smooth=smooth,
        **stage,
    )
    return np.expand_dims(sums, axis)


def merge(shards: list[Array], axes: tuple[int, ...]) -> Array:
    """Return the sums of all classes, those of each chunk given in the order of the classes."""
    return stages.merge(*(np.asarray(np.squeeze(sums, axes)) for sums in shards))


def of_target(sums: Array, targets: Array, class_weight: Array | None) -> Any:
    """Return the class weight of each row's target."""
    if class_weight is None or not sums.size or not sums["indexed"].flat[0]:
        return 1.0
    return class_weight[np.where(sums["counts"], targets, 0)].astype(float)


def rows(
    sums: Array,
    targets: Any,
    weight: Array | None,
    class_weight: Array | None,
    *,
    terms: Terms,
    compute: Any,
) -> Array:
    """Return the losses of rows from their sums."""
    if not sums.size:
        return np.zeros(sums.shape, compute)
    found = stages.values(sums)
    hard = of_target(sums, targets, class_weight)
    with np.errstate(all="ignore"):
        if sums["indexed"].flat[0]:
            hard = hard * (1 - terms.label_smoothing)
        loss = (
            np.asarray(found.nll) if np.all(hard == 1) else np.where(hard == 0, 0, hard * found.nll)
        )
        if found.smooth is not None:
            loss = loss + terms.label_smoothing / terms.classes * found.smooth.astype(float)
        if terms.z_loss:
            loss = loss + terms.z_loss * np.square(np.asarray(found.lse, float))
        if found.entropy is not None:
            loss = loss - terms.entropy_weight * found.entropy.astype(float)
        loss = np.where(sums["counts"], loss, 0).astype(compute)
    return weighted(loss, weight)


def log_sum_exp(sums: Array) -> Array:
    """Return the log-sum-exp of rows from their sums."""
    return np.asarray(stages.values(sums).lse)


def gradient(
    logits: Array,
    offset: Array,
    sums: Array,
    targets: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    shard_weight: Array | None,
    class_weight: Array | None,
    class_bias: Array | None,
    *,
    terms: Terms,
    compute: Any,
    stage: dict[str, Any],
) -> Array:
    """Return the gradient of a chunk, from the sums of its rows over all classes."""
    axis = stage["axis"]
    soft = targets.ndim == logits.ndim
    if soft:
        targets = terms.smooths(targets, axis, compute, shard_weight)
    slope = slopes(sums.shape, weight, upstream, divisor)
    smooth = bool(terms.label_smoothing > 0 and not soft)
    coefs: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        hard = of_target(sums, targets, class_weight) * (1 if soft else 1 - terms.label_smoothing)
        coefs["nll"] = slope * hard
        if smooth:
            coefs["smooth"] = slope * (terms.label_smoothing / terms.classes)
        if terms.z_loss:
            lse = np.asarray(stages.values(sums).lse, float)
            coefs["lse"] = np.where(sums["counts"], 2 * terms.z_loss * lse * slope, 0.0)
        if terms.entropy_weight:
            coefs["entropy"] = -terms.entropy_weight * slope
    grad = stages.apply(
        logits,
        sums,
        targets,
        class_offset=int(offset.item()),
        num_classes=terms.classes,
        class_weight=shard_weight if smooth else None,
        class_bias=class_bias,
        **coefs,
        **stage,
    )
    counts = sums["counts"] if weight is None else sums["counts"] & (weight != 0)
    clear(grad, counts, axis)
    return grad


# logsumexp, softmax and log_softmax, over one axis or several.


def flat(x: Array, axes: tuple[int, ...]) -> Array:
    """Return a chunk with its classes on the last axis."""
    last = np.moveaxis(x, axes, range(-len(axes), 0))
    return last if len(axes) == 1 else last.reshape(*last.shape[: -len(axes)], -1)


def unflat(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Undo `flat`, of a chunk of this shape."""
    sizes = [shape[axis] for axis in axes]
    return np.moveaxis(x.reshape(*x.shape[:-1], *sizes), range(-len(axes), 0), axes)


def reduce_flat(x: Array, offset: Array, axes: tuple[int, ...], classes: int) -> Array:
    """Return the sums of a chunk over several axes, in which these have one element each.

    The sums of rows with +inf do not say whether there is a NaN, too, which decides their log-sum-exp: a maximum of +inf is
    left to those that have none.
    """
    z = flat(x, axes)
    sums = stages.reduce(z, class_offset=int(offset.item()), num_classes=classes)
    infinite = np.asarray(np.isposinf(sums["max"]))
    if infinite.any():
        sums["max"][infinite] = np.where(np.isnan(z[infinite]).any(axis=-1), 0.0, np.inf)
    return np.expand_dims(sums, axes)


def merge_flat(shards: list[Array], axes: tuple[int, ...]) -> Array:
    """Return the sums of all classes, with a maximum of +inf where one is and no NaN."""
    merged = merge(shards, axes)
    for shard in shards:
        sums = np.squeeze(shard, axes)
        merged["max"][np.isnan(sums["sum_exp"]) & ~np.isposinf(sums["max"])] = 0.0
    return merged


def logsumexp_of(sums: Array, precision: Any) -> Array:
    """Return the log-sum-exp in the dtype of the result."""
    lse = np.where(np.isposinf(sums["max"]), precision.compute.type(np.inf), log_sum_exp(sums))
    return result(lse, precision)


def softmax_of(x: Array, offset: Array, sums: Array, axes: tuple[int, ...], classes: int) -> Array:
    """Return the probabilities of a chunk: they are the gradient of the log-sum-exp."""
    begin = int(offset.item())
    p = stages.apply(flat(x, axes), sums, lse=1.0, class_offset=begin, num_classes=classes)
    return unflat(p, axes, x.shape)


def log_softmax_of(x: Array, sums: Array, axes: tuple[int, ...]) -> Array:
    """Return the logarithms of the probabilities of a chunk, (x - m) - log1p(rest)."""
    stored, precision = arguments.logits(flat(x, axes), "x")
    z = numbers(stored, precision).astype(precision.compute, copy=False)
    head = Head(sums, precision.compute.type)
    with np.errstate(all="ignore"):
        log_sum = np.where(np.isposinf(sums["max"]), head.real(0), head.log_sum)
        log_p = (z - head.maximum[..., None]) - log_sum[..., None]
    return unflat(result(log_p, precision), axes, x.shape)


def result(values: Array, precision: Any) -> Array:
    """Return numbers of the compute dtype in the dtype of the result, bfloat16 from its bits."""
    with np.errstate(all="ignore"):
        found = np.asarray(rounded(values, precision))
        if precision.bfloat16:
            return found.view(precision.result_dtype)
        return found.astype(precision.result_dtype, copy=False)
