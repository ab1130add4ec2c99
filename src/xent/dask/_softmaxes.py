"""What single tasks of `logsumexp`, `softmax` and `log_softmax` compute, over one axis or several."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent import stages
from xent._blocks import numbers, rounded
from xent._head import Head
from xent._weighted import weighted, weighted_rows

Array = np.ndarray[Any, Any]

#: The logarithm of a sum, and its sign.
PAIR = np.dtype([("log", "f8"), ("sign", "f8")])


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
    squeezed = [np.asarray(np.squeeze(sums, axes)) for sums in shards]
    merged = stages.merge(*squeezed)
    for sums in squeezed:
        merged["max"][np.isnan(sums["sum_exp"]) & ~np.isposinf(sums["max"])] = 0.0
    return merged


def logsumexp_of(sums: Array, precision: Any) -> Array:
    """Return the log-sum-exp in the dtype of the result."""
    found = stages.values(sums).lse
    lse = np.where(np.isposinf(sums["max"]), precision.compute.type(np.inf), found)
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
        # What rounds to 0 keeps its sign.
        return np.asarray(np.copysign(found, values).astype(precision.result_dtype, copy=False))


def paired(log: Array, sign: Array) -> Array:
    found = np.empty(np.shape(log), PAIR)
    found["log"], found["sign"] = log, sign
    return found


def weighted_of(x: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """Return the weighted sums of a chunk, in which these axes have one element each."""
    stored, precision = arguments.logits(flat(x, axes), "a")
    return np.expand_dims(paired(*weighted(stored, flat(b, axes), precision)), axes)


def merge_weighted(shards: list[Array], axes: tuple[int, ...]) -> Array:
    """Return the weighted sums over all classes: sums of exponentials of logarithms, times their signs."""
    pairs = np.stack([np.squeeze(pair, axes) for pair in shards], axis=-1)
    with np.errstate(all="ignore"):
        return paired(*weighted_rows(pairs["log"], pairs["sign"]))


def logarithm(pairs: Array, dtype: Any, with_sign: bool) -> Array:
    """Return the logarithms of weighted sums; NaN for a negative one whose sign is not asked for."""
    found = pairs["log"]
    if not with_sign:
        found = np.where(pairs["sign"] < 0, np.nan, found)
    with np.errstate(over="ignore"):
        return np.asarray(found.astype(dtype))


def sign(values: Array, dtype: Any) -> Array:
    """Return the sign of a sum, from it or from its logarithm if it has no factors: 1, 0 of nothing, or NaN."""
    if values.dtype == PAIR:
        return np.asarray(values["sign"].astype(dtype))
    return np.where(np.isnan(values), values, np.where(np.isneginf(values), 0, 1)).astype(dtype)
