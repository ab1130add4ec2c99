"""Objectives and metrics of gradient boosting: what boosters hand over, and the derivatives they want back.

Neither XGBoost nor LightGBM is imported: their data sets are known by `get_label` and `get_weight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent import _arguments as arguments
from xent import binary_cross_entropy_with_logits, cross_entropy
from xent._pool import empty_array

Array = NDArray[Any]

# Boosters keep gradients in float32.
F32 = np.dtype(np.float32)
# Boosters divide by sums of the Hessian: no element is less, as in XGBoost's own objectives.
LEAST_HESS = F32.type(1e-16)
# Rows are differentiated so many bytes at a time: enough for all threads, and still in a cache when they are read again.
BLOCK_BYTES = 8 << 20


class Given(NamedTuple):
    """What one call of an objective or of a metric is about."""

    scores: Any
    labels: Any
    weight: Any


def of_native_interface(second: Any) -> bool:
    """Return whether the second argument is a data set, not the scores as in the scikit-learn interface."""
    return hasattr(second, "get_label")


def given(first: Any, second: Any, weight: Any) -> Given:
    """Return scores, labels and weights of a call through either interface of a booster."""
    if of_native_interface(second):
        return Given(first, second.get_label(), second.get_weight())
    return Given(second, first, weight)


def class_indices(labels: Array, num_class: int) -> Array:
    """Return floats as class indices."""
    with np.errstate(invalid="ignore"):  # what no integer equals
        index: Array = labels.astype(np.int32)
    bad = (index != labels) | (index < 0) | (index >= num_class)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"labels: {labels[row]:g} in row {row} is not a class; expected integers in [0, {num_class})"
        )
    return index


def focal_slope(nll: Array, gamma: float) -> Array:
    """Return the derivative of (1 - p)**gamma * nll with respect to nll = -log p, which is positive."""
    nll = nll.astype(np.float64)
    with np.errstate(under="ignore"):
        others = -np.expm1(-nll)
        ratio = np.divide(nll, others, out=np.ones_like(nll), where=others > 0)
        slope: Array = others**gamma * (1 + gamma * np.exp(-nll) * ratio)
        return slope


@dataclass(frozen=True, eq=False)
class Softmax:
    """The loss of scores of several classes, a row each."""

    num_class: int
    class_weight: Array | None = None
    label_smoothing: float = 0.0

    def shape(self, rows: int) -> tuple[int, ...]:
        return rows, self.num_class

    def nll(self, scores: Array, index: Array) -> Array:
        return cross_entropy(scores, index, reduction="none")

    def __call__(self, scores: Array, index: Array, weight: Array | None, **options: Any) -> Any:
        return cross_entropy(
            scores,
            index,
            class_weight=self.class_weight,
            sample_weight=weight,
            label_smoothing=self.label_smoothing,
            **options,
        )


@dataclass(frozen=True, eq=False)
class Logistic:
    """The loss of one score for each row, that of class 1."""

    pos_weight: float | None = None
    label_smoothing: float = 0.0
    num_class = 2

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,)

    def nll(self, scores: Array, index: Array) -> Array:
        return binary_cross_entropy_with_logits(scores, index, reduction="none")

    def __call__(self, scores: Array, index: Array, weight: Array | None, **options: Any) -> Any:
        return binary_cross_entropy_with_logits(
            scores,
            index,
            pos_weight=self.pos_weight,
            sample_weight=weight,
            label_smoothing=self.label_smoothing,
            **options,
        )


Loss = Softmax | Logistic


def validated(loss: Loss, call: Given) -> Given:
    """Return the arrays of a call: scores of the shape that the loss needs, class indices, a weight for each row or None."""
    labels = arguments.real(call.labels, "labels")
    if labels.ndim != 1:
        raise ValueError(f"labels: expected shape (N,), one class a row; got {labels.shape}")
    scores, shape = arguments.real(call.scores, "preds"), loss.shape(len(labels))
    if scores.shape != shape:
        cure = "; is num_class a parameter of the booster, too?" if len(shape) == 2 else ""
        raise ValueError(f"preds: expected shape {shape}, got {scores.shape}{cure}")
    index, weight = class_indices(labels, loss.num_class), call.weight
    if weight is not None:
        weight = arguments.real(weight, "sample_weight")
        # XGBoost has an empty array where there are no weights.
        if weight.shape == (0,):
            weight = None
        elif weight.shape != labels.shape:
            raise ValueError(f"sample_weight: expected shape {labels.shape}, got {weight.shape}")
    return Given(scores, index, weight)


def row_blocks(scores: Array) -> Iterator[slice]:
    """Give the rows in blocks of about `BLOCK_BYTES`."""
    rows = max(1, BLOCK_BYTES // max(1, scores.nbytes // max(1, len(scores))))
    for start in range(0, len(scores), rows):
        yield slice(start, start + rows)


def result_like(scores: Array) -> Array:
    """Return an array for a result, of float32, in the order in which the booster reads it: that of its scores."""
    if scores.flags.c_contiguous:
        return empty_array(scores.shape, F32)
    return empty_array(scores.shape[::-1], F32).T


@dataclass(frozen=True, eq=False)
class Objective:
    """Gradient and positive Hessian of a loss, for one round of boosting.

    `hess_factor` multiplies the diagonal of the loss's own Hessian; None stands for the absolute gradient in its place.
    """

    loss: Loss
    gamma: float = 0.0
    hess_factor: float | None = 1.0

    def __call__(
        self, first: Any, second: Any, /, sample_weight: Any = None
    ) -> tuple[Array, Array]:
        """Return gradient and Hessian of (preds, data set) or (y_true, y_pred, sample_weight)."""
        scores, index, weight = validated(self.loss, given(first, second, sample_weight))
        grad, hess = result_like(scores), result_like(scores)
        for rows in row_blocks(scores):
            part = None if weight is None else weight[rows]
            self.differentiate(scores[rows], index[rows], part, grad[rows], hess[rows])
        return grad, hess

    def differentiate(
        self, scores: Array, index: Array, weight: Array | None, grad: Array, hess: Array
    ) -> None:
        """Write both derivatives of some rows; those of float64 are rounded once."""
        if self.gamma:
            # A focal loss is a function of each row's nll: its gradient is that of cross-entropy times the slope, and so is
            # the part of its Hessian that is never negative (generalised Gauss-Newton).
            slope = focal_slope(self.loss.nll(scores, index), self.gamma)
            weight = slope if weight is None else slope * weight
        with_hess = self.hess_factor is not None
        options: dict[str, Any] = {"return_grad": True, "return_hess": with_hess}
        if scores.dtype == F32:
            options |= {"grad_out": grad, "hess_out": hess if with_hess else None}
        _, *found = self.loss(scores, index, weight, reduction="sum", **options)
        with np.errstate(all="ignore"):
            if found[0] is not grad:
                np.copyto(grad, found[0], casting="same_kind")
            if self.hess_factor is None:
                np.abs(grad, out=hess)
            elif self.hess_factor != 1 or found[1] is not hess:
                np.multiply(found[1], self.hess_factor, out=hess, casting="same_kind")
            np.maximum(hess, LEAST_HESS, out=hess)


def softmax_objective(
    num_class: Any,
    class_weight: Any,
    label_smoothing: Any,
    gamma: Any,
    hess_factor: Callable[[int], float | None],
) -> Objective:
    """Return the objective of several classes; the factor of its Hessian may depend on how many they are."""
    classes = arguments.count(num_class, "num_class", 2)
    weights = arguments.class_weight(class_weight, classes, np.dtype(np.float64))
    loss = Softmax(
        classes,
        None if weights is None else weights.copy(),
        arguments.label_smoothing(label_smoothing),
    )
    return Objective(loss, focal_gamma(gamma, loss), hess_factor(classes))


def logistic_objective(pos_weight: Any, label_smoothing: Any, gamma: Any) -> Objective:
    """Return the objective of two classes, of one score."""
    expected = "a finite number >= 0"
    loss = Logistic(
        arguments.number(pos_weight, "pos_weight", 0.0, float(np.finfo(F32).max), expected),
        arguments.label_smoothing(label_smoothing),
    )
    return Objective(loss, focal_gamma(gamma, loss))


def focal_gamma(gamma: Any, loss: Loss) -> float:
    """Return the exponent; the focal losses have no label smoothing."""
    found: float = arguments.focal_gamma(gamma)
    if found and loss.label_smoothing:
        raise ValueError(
            f"gamma: expected 0 with label_smoothing={loss.label_smoothing}, got {gamma}"
        )
    return found


def log_loss(logistic: bool, call: Given) -> float:
    """Return the mean log-loss, of one score a row or of one for each class."""
    shape = np.shape(call.scores)
    if not logistic and len(shape) != 2:
        raise ValueError(f"preds: expected shape (N, C), a score for each class; got {shape}")
    loss = Logistic() if logistic else Softmax(shape[1])
    scores, index, weight = validated(loss, call)
    return float(loss(scores, index, weight))
