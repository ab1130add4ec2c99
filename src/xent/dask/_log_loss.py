"""What single tasks of `log_loss` compute: the probability of each row's label in a chunk, and sums of the rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from xent import _predictions as validated
from xent import binary_cross_entropy, categorical_cross_entropy
from xent._exact_sum import ExactSum
from xent.dask._tasks import joined

Array = np.ndarray[Any, Any]


def checked(block: Array, block_info: Any) -> Array:
    """Return probabilities; the exception for another number names its position in the whole array."""
    proba = validated.numbers(block, "y_proba")
    # A NaN makes both comparisons false.
    right = (proba >= 0) & (proba <= 1)
    if not right.all():
        place = np.unravel_index(int(np.argmin(right)), proba.shape)
        begin = [start for start, _ in block_info[0]["array-location"]]
        shown = ", ".join(str(int(i) + b) for i, b in zip(place, begin, strict=True))
        raise ValueError(
            f"y_proba[{shown}] = {float(proba[place])} is not a probability; expected 0 <= p <= 1"
        )
    return proba


def classes_of(occurring: list[Array], columns: int) -> Array:
    """Return the labels that occur in any chunk, sorted, as many as there are columns."""
    classes, _ = validated.encoded(np.concatenate(occurring))
    validated.check_classes(classes, columns, None)
    return classes


def of_labels(proba: Array, y: Array, classes: Array, offset: Array) -> tuple[Array, Array]:
    """Return the probability of each row's label, 0 where its column is in another chunk, and the sums of the rows.

    Of (N,) probabilities they are those of the positive label, and whether that is the row's.
    """
    column = validated.declared(y, classes)[1] if y.size else np.zeros(0, np.intp)
    if proba.ndim == 1:
        return proba, column
    here = column - int(offset.item())
    inside = (here >= 0) & (here < proba.shape[1])
    own = np.where(inside, proba[np.arange(len(y)), np.where(inside, here, 0)], proba.dtype.type(0))
    return own, proba.sum(axis=1, dtype=np.float64)


def sums_of_rows(parts: Any, weight: Array | None) -> tuple[ExactSum, ExactSum]:
    """Return the sums of the losses of rows and of their weights."""
    if isinstance(parts, tuple):
        proba, column = parts
        losses = binary_cross_entropy(proba, column, eps=epsilon(proba.dtype), reduction="none")
    else:
        # All but one are 0.
        own = np.sum([part[0] for part in parts], axis=0)
        warn_of_sums(np.sum([part[1] for part in parts], axis=0), own.dtype)
        first = np.zeros(len(own), np.intp)
        losses = categorical_cross_entropy(
            own[:, None], first, eps=epsilon(own.dtype), reduction="none"
        )
    of_losses, of_weights = ExactSum(), ExactSum()
    weights = np.ones(len(losses)) if weight is None else weight.astype(np.float64)
    of_losses.add(losses.astype(np.float64) * weights)
    of_weights.add(weights)
    return of_losses, of_weights


def epsilon(dtype: Any) -> float:
    """Return where scikit-learn clips probabilities."""
    return float(np.finfo(dtype).eps)


def warn_of_sums(sums: Array, dtype: Any) -> None:
    """Warn of a row that does not sum to 1."""
    wrong = np.abs(sums - 1) > 1e-8 + np.sqrt(epsilon(dtype))
    if wrong.any():
        warnings.warn(
            "The y_prob values do not sum to one. Make sure to pass probabilities: "
            f"a row sums to {sums[wrong][0]:.9g}.",
            UserWarning,
            stacklevel=2,
        )


def total(sums: list[tuple[ExactSum, ExactSum]], mean: bool) -> Any:
    """Return the mean or the sum of the losses of all rows."""
    losses, weights = (joined([pair[i] for pair in sums]) for i in (0, 1))
    if weights.special or not weights.units:
        raise ValueError(
            f"sample_weight: expected finite weights, not all of them zero; their sum is {weights.over(1)}"
        )
    return np.float64(losses.over(weights if mean else 1))
