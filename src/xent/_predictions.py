"""Labels and predicted probabilities as scikit-learn's metrics take them: validated, labels as numbers of columns.

The texts that users of scikit-learn filter and match (of sums, orders and numbers of classes) are scikit-learn's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import xent
from xent import _arguments as arguments
from xent._request import BLOCK_BYTES, bad_probability, bad_target

Array = np.ndarray[Any, Any]

# Have an epsilon of their own; numbers of all other dtypes become float64.
FLOATS = (np.float16, np.float32, np.float64)


class Predictions(NamedTuple):
    """Validated arguments of a metric."""

    #: (N, C) probabilities, or (N,) of the positive class, of one of `FLOATS`.
    proba: Array
    #: The column of each row's label; of (N,) probabilities 1 for the positive class. None with an indicator.
    column: Array | None
    #: (N, C) rows of 0 and 1 in the place of labels.
    indicator: Any
    weight: Array | None

    @property
    def target(self) -> Array:
        """The targets of a loss: column numbers or class probabilities."""
        found: Array = self.indicator if self.column is None else self.column
        return found

    def log_losses(self) -> Array:
        """Return each row's negative log-likelihood, with probabilities clipped as scikit-learn does."""
        eps = float(np.finfo(self.proba.dtype).eps)
        if self.proba.ndim == 1:
            return xent.binary_cross_entropy(self.proba, self.target, eps=eps, reduction="none")
        return xent.categorical_cross_entropy(
            self.proba, self.target, eps=eps, ignore_index=None, reduction="none"
        )

    def squared_distances(self) -> Array:
        """Return each row's squared distance from the indicator of its label."""
        if self.proba.ndim == 1:
            d: Array = self.proba - self._label(slice(None))
            return 2 * d**2
        found = np.empty(len(self.proba), self.proba.dtype)
        for rows in self._blocks():
            if self.indicator is not None:
                d = self.proba[rows] - self.indicator[rows].astype(self.proba.dtype)
            else:
                d = self.proba[rows].copy()
                d[np.arange(len(d)), self._label(rows)] -= 1
            found[rows] = np.vecdot(d, d)
        return found

    def confidence(self) -> tuple[Array, Array]:
        """Return what each row says with which probability, and whether it is so."""
        if self.proba.ndim == 1:
            return self.proba.astype(np.float64), self._label(slice(None)) == 1
        predicted = self.proba.argmax(axis=1)
        largest = self.proba[np.arange(len(predicted)), predicted].astype(np.float64)
        return largest, predicted == self._label(slice(None))

    def ranks(self) -> Array:
        """Return how many columns come before the label's in descending order, equal ones from the last to the first."""
        if self.proba.ndim == 1:
            # As scikit-learn has it, a probability of exactly one half is that of the negative class.
            wrong: Array = (self.proba > 0.5) != (self._label(slice(None)) == 1)
            return wrong.astype(np.intp)
        found = np.empty(len(self.proba), np.intp)
        for rows in self._blocks():
            p, column = self.proba[rows], self._label(rows)[:, None]
            own = np.take_along_axis(p, column, 1)
            before = p > own
            before |= (p == own) & (np.arange(p.shape[1]) > column)
            found[rows] = before.sum(axis=1)
        return found

    def _label(self, rows: slice) -> Array:
        if self.column is None:
            raise ValueError(
                "y_true: expected one label a row; an indicator matrix is not accepted"
            )
        return self.column[rows]

    def _blocks(self) -> Iterator[slice]:
        """Yield blocks of rows that stay in the cache."""
        step = max(1, BLOCK_BYTES // self.proba[:1].nbytes)
        for start in range(0, len(self.proba), step):
            yield slice(start, start + step)

    def mean(self, rows: Array) -> float:
        """Return the mean of one number a row, by the weights."""
        if self.weight is None:
            return float(rows.mean(dtype=np.float64)) if rows.size else float("nan")
        return self.total(rows) / float(self.weight.sum())

    def total(self, rows: Array) -> float:
        """Return the sum of one number a row, times the weights."""
        if self.weight is None:
            return float(rows.sum(dtype=np.float64))
        return float(np.dot(rows.astype(np.float64, copy=False), self.weight))


def predictions(
    y_true: Any, y_proba: Any, sample_weight: Any = None, labels: Any = None
) -> Predictions:
    """Validate labels of any kind."""
    proba = probabilities(y_proba, "y_proba")
    y, weight = _of_equal_length(y_true, proba, sample_weight)
    columns = 2 if proba.ndim == 1 else proba.shape[1]
    if y.ndim == 2:
        if labels is not None:
            raise ValueError(
                "labels: y_true is an indicator matrix, which has a column for each class"
            )
        classes, column, indicator = np.arange(y.shape[1]), None, y
    else:
        classes, column = encoded(y) if labels is None else declared(y, labels)
        indicator = None
    check_classes(classes, columns, labels)
    return _warn_of_sums(Predictions(proba, column, indicator, weight))


def binary_predictions(
    y_true: Any, y_proba: Any, sample_weight: Any, pos_label: Any
) -> Predictions:
    """Validate labels of two kinds, one of them positive, and probabilities of the positive one."""
    proba = probabilities(y_proba, "y_proba")
    y, weight = _of_equal_length(y_true, proba, sample_weight)
    classes, column = encoded(y) if y.ndim == 1 else (np.arange(y.shape[1]), y)
    if y.ndim == 2 or len(classes) > 2:
        kind = "multilabel-indicator" if y.ndim == 2 else "multiclass"
        raise ValueError(
            f"The type of the target inferred from y_true is {kind} but should be binary according to the shape of y_prob."
        )
    if pos_label is not None:
        return Predictions(proba, (y == pos_label).astype(np.intp), None, weight)
    if classes.dtype.kind in "OSUT":
        raise ValueError(
            f"pos_label: y_true has the labels {classes}, of which none is known to be positive; give pos_label"
        )
    if set(classes.tolist()) <= {-1, 1} or set(classes.tolist()) <= {0, 1}:
        return Predictions(proba, (y == 1).astype(np.intp), None, weight)
    return Predictions(proba, column if len(classes) == 2 else column + 1, None, weight)


def numbered_predictions(y_true: Any, y_proba: Any, sample_weight: Any) -> Predictions:
    """Validate column numbers as labels, of which a batch need not have all."""
    proba = probabilities(y_proba, "y_proba")
    y, weight = _of_equal_length(y_true, proba, sample_weight)
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise TypeError(
            f"y_true: expected numbers of columns, of shape ({len(proba)},) and an integer dtype; "
            f"got dtype {y.dtype}, shape {y.shape}"
        )
    columns = 2 if proba.ndim == 1 else proba.shape[1]
    bad = outside(y, columns)
    if bad >= 0:
        raise bad_target(y, bad, columns, None, "y_true", "label")
    return _warn_of_sums(Predictions(proba, y.astype(np.intp, copy=False), None, weight))


def outside(index: Array, classes: int, ignore_index: int | None = None) -> int:
    """Return the flat position of the first index that is neither a class nor ignored, -1 if there is none."""
    bad = (index < 0) | (index >= classes)
    if ignore_index is not None and bad.any():
        bad &= index != ignore_index
    return int(bad.argmax()) if bad.any() else -1


def probabilities(value: Any, name: str) -> Array:
    """Return numbers in [0, 1], of one axis or two; a single column has one."""
    found = numbers(value, name)
    if found.ndim not in (1, 2) or not found.size:
        raise ValueError(
            f"{name}: expected shape (N,) or (N, C), with at least one row and column; got {found.shape}"
        )
    # A NaN makes both comparisons false.
    if not (found.min() >= 0 and found.max() <= 1):
        raise bad_probability(found, None, name, int(np.argmin((found >= 0) & (found <= 1))))
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def numbers(value: Any, name: str) -> Array:
    """Return real numbers as float16, float32 or float64."""
    found = _array(value, name)
    if found.dtype in FLOATS and found.dtype.isnative:
        return found
    if found.dtype.kind not in "biufO" and found.dtype.name != "bfloat16":
        raise ValueError(f"{name}: dtype {found.dtype} is not accepted; expected real numbers")
    try:
        converted: Array = found.astype(np.float64)
        return converted
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected real numbers: {error}") from None


def _warn_of_sums(given: Predictions) -> Predictions:
    """Warn of a row of (N, C) probabilities that does not sum to 1."""
    proba = given.proba
    if proba.ndim == 1:
        return given
    # Smoothed to the end, the negative log-likelihood is minus the mean of what is given for log-probabilities.
    means = xent.nll_loss(
        proba, given.target, ignore_index=None, label_smoothing=1.0, reduction="none"
    )
    tolerance = 1e-8 + float(np.sqrt(np.finfo(proba.dtype).eps))
    low, high = (1 - tolerance) / proba.shape[1], (1 + tolerance) / proba.shape[1]
    if not (-means.max() >= low and -means.min() <= high):
        row = int(np.argmin((-means >= low) & (-means <= high)))
        warnings.warn(
            "The y_prob values do not sum to one. Make sure to pass probabilities: "
            f"row {row} sums to {proba[row].sum(dtype=np.float64):.9g}.",
            UserWarning,
            stacklevel=4,
        )
    return given


def _array(value: Any, name: str) -> Array:
    """Return a plain array; ragged lists are a ValueError, as NumPy and scikit-learn have it."""
    try:
        found: Array = arguments.array(value, name)
        return found
    except TypeError as error:
        if isinstance(error.__cause__, ValueError):
            raise ValueError(str(error)) from error
        raise


def _of_equal_length(y_true: Any, proba: Array, sample_weight: Any) -> tuple[Array, Array | None]:
    """Return labels, or an indicator of them, and weights, of as many rows as the probabilities have."""
    y = _array(y_true, "y_true")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2):
        raise ValueError(f"y_true: expected one label for each row of y_proba, got shape {y.shape}")
    if len(y) != len(proba):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{len(proba)}, {len(y)}]"
        )
    if y.ndim == 2 and (y.dtype.kind not in "biuf" or not np.isin(y, (0, 1)).all()):
        raise ValueError(
            f"y_true: shape {y.shape} is that of an indicator matrix, of which every element is 0 or 1; this is none"
        )
    if sample_weight is None:
        return y, None
    weight = arguments.real(sample_weight, "sample_weight").astype(np.float64, copy=False)
    if weight.shape != (len(proba),):
        raise ValueError(
            f"sample_weight: expected shape ({len(proba)},), one weight for each row; got {weight.shape}"
        )
    if not np.isfinite(weight).all():
        at = int(np.argmin(np.isfinite(weight)))
        raise ValueError(f"sample_weight: {weight[at]} at position {at} is not finite")
    if not weight.any():
        raise ValueError("sample_weight: expected at least one weight that is not zero")
    return y, weight


def encoded(y: Array) -> tuple[Array, Array]:
    """Return the sorted labels that occur, and the number of each row's."""
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.trunc(y))
        if not whole.all():
            at = int(np.argmin(whole))
            raise ValueError(
                f"y_true: {y[at]} at position {at} is not a label but a continuous value"
            )
    if y.dtype.kind in "iub":
        lowest, highest = int(y.min()), int(y.max())
        # A table is faster than sorting, where it is not much larger than what it is of.
        if highest - lowest <= 4 * y.size + 1024:
            # Modulo 2**64, which is right for the difference of any two integers of 64 bits.
            low = np.uint64(lowest % 2**64)
            offset = (y.astype(np.uint64) - low if lowest else y).astype(np.intp, copy=False)
            occurs = np.bincount(offset, minlength=highest - lowest + 1) > 0
            classes = (np.flatnonzero(occurs).astype(np.uint64) + low).astype(y.dtype)
            return classes, offset if occurs.all() else (np.cumsum(occurs) - 1)[offset]
    try:
        # Faster than unique's inverse, which sorts positions.
        classes = np.unique(y)
        column = np.searchsorted(classes, y)
    except TypeError as error:
        raise TypeError(f"y_true: labels of dtype {y.dtype} that have no order: {error}") from None
    return classes, column


def declared(y: Array, labels: Any) -> tuple[Array, Array]:
    """Return the labels that were passed, sorted, and the number of each row's."""
    given = _array(labels, "labels")
    if given.ndim != 1 or not given.size:
        raise ValueError(f"labels: expected one label for each class, got shape {given.shape}")
    classes, _ = encoded(given)
    if len(classes) != len(given):
        raise ValueError(f"labels: expected each label once, got {labels}")
    if not (classes == given).all():
        warnings.warn(
            f"Labels passed were {labels}. But this function assumes labels are ordered lexicographically. "
            f"Pass the ordered labels={classes.tolist()} and ensure that the columns of y_prob correspond to this ordering.",
            UserWarning,
            stacklevel=4,
        )
    found, column = encoded(y)
    known = np.isin(found, classes)
    if not known.all():
        raise ValueError(
            f"y_true contains values {set(found[~known].tolist())} not belonging to the passed labels {labels}."
        )
    return classes, np.searchsorted(classes, found)[column]


def check_classes(classes: Array, columns: int, labels: Any) -> None:
    """Raise unless there are two classes or more, as many as columns."""
    if len(classes) == 1:
        raise ValueError(
            f"The labels array needs to contain at least two labels, got {classes}."
            if labels is not None
            else f"y_true contains only one label ({classes[0]}). Please provide the list of all expected class labels "
            "explicitly through the labels argument."
        )
    if len(classes) != columns:
        raise ValueError(
            f"The number of classes in labels is different from that in y_prob. Classes found in labels: {classes}"
            if labels is not None
            else f"y_true and y_prob contain different number of classes: {len(classes)} vs {columns}. Please provide the "
            f"true labels explicitly through the labels argument. Classes found in y_true: {classes}"
        )
