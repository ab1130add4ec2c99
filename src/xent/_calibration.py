"""How probabilities agree with frequencies: bins of confidence, and the temperature that calibrates logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from xent import stages

Array = np.ndarray[Any, Any]

# The inverse temperatures that are searched; a loss that falls to their end has its minimum at infinity or zero.
LEAST, MOST = 2.0**-40, 2.0**40
# Newton's steps square the error: after one of this size, relative to the inverse temperature, it is below rounding.
SMALL_STEP = 1e-7
STEPS = 100


class Reliability:
    """Sums of rows by their confidence, in bins of equal width that hold their upper edges."""

    def __init__(self, n_bins: int) -> None:
        self.edges = np.linspace(0, 1, n_bins + 1)
        self.weight, self.confidence, self.correct = np.zeros((3, n_bins))

    def add(self, confidence: Array, correct: Array, weight: Array | None = None) -> None:
        """Add rows: the probability of what was predicted, and whether it was right."""
        bins, n = np.searchsorted(self.edges[1:-1], confidence), len(self.weight)
        weights = np.ones(len(bins)) if weight is None else weight
        self.weight += np.bincount(bins, weights, n)
        self.confidence += np.bincount(bins, weights * confidence, n)
        self.correct += np.bincount(bins, weights * correct, n)

    def error(self) -> float:
        """Return the expected calibration error; NaN of nothing."""
        total = self.weight.sum()
        return (
            float(np.abs(self.confidence - self.correct).sum() / total) if total else float("nan")
        )


class Slope(NamedTuple):
    """Sums over rows: weights, two derivatives of the loss by the inverse temperature, and what the first may be off by.

    `eps` is that of the dtype; of a sum the largest.
    """

    weight: float
    first: float
    second: float
    noise: float
    eps: float


def sum_of(slopes: Iterable[Slope]) -> Slope:
    """Return the sums over all blocks."""
    total = NOTHING
    for one in slopes:
        total = Slope(
            total.weight + one.weight,
            total.first + one.first,
            total.second + one.second,
            total.noise + one.noise,
            max(total.eps, one.eps),
        )
    return total


NOTHING = Slope(0.0, 0.0, 0.0, 0.0, 0.0)


def slope(
    logits: Array,
    targets: Array,
    weight: Array | None,
    ignore_index: int | None,
    temperature: float,
) -> Slope:
    r"""Return the derivatives of a block of rows.

    The first is :math:`\langle z \rangle - z_y = T (\mathrm{nll} - H)`, the second the variance of z under the softmax: that
    times :math:`-1/T^2` is the derivative of the entropy along z.
    """
    options: dict[str, Any] = {"ignore_index": ignore_index, "temperature": temperature}
    sums = stages.reduce(logits, targets, entropy=True, **options)
    if not sums.size:
        return NOTHING
    row = stages.values(sums)
    w = np.where(sums["counts"], 1.0 if weight is None else weight, 0.0)
    # What the targets of a row sum to.
    soft = np.ndim(targets) == logits.ndim
    mass = np.sum(targets, axis=-1, dtype=np.float64) if soft else 1.0
    coef = (w * mass).astype(logits.dtype)
    grad = stages.apply(logits, sums, targets, entropy=coef, **options)
    with np.errstate(all="ignore"):
        first = temperature * (np.asarray(row.nll, np.float64) - mass * row.entropy)
        # Relative to the maximum, so that a shared offset changes nothing; a masked class, whose gradient is 0, is finite.
        z = logits - sums["max"].astype(logits.dtype)[..., None]
        np.maximum(z, np.finfo(z.dtype).min, out=z)
        eps = float(np.finfo(z.dtype).eps)
        size = np.where(w != 0, np.abs(w * np.asarray(row.nll, np.float64)), 0.0)
        return Slope(
            float(w.sum()),
            float(np.where(w != 0, w * first, 0.0).sum()),
            -(temperature**2) * float(np.vecdot(grad, z).sum(dtype=np.float64)),
            temperature * eps * float(size.sum()),
            eps,
        )


def best_temperature(slope_at: Callable[[float], Slope]) -> float:
    """Minimise a mean loss, whose derivatives at a temperature `slope_at` returns, by Newton's method.

    The loss is convex in the inverse temperature b, so that the sign of its slope says on which side of b the minimum is. A
    step that would leave the interval known to hold it, or grow b more than eightfold, is shortened.
    """
    b, low, high = 1.0, 0.0, np.inf
    for _ in range(STEPS):
        found = slope_at(1 / b)
        if not found.weight or not np.isfinite(found.first):
            return float("nan")
        # The variance of b z: where it is a rounding, all classes are equal, and so is a slope on its way to b = 0.
        if abs(found.first) <= found.noise and found.second * b**2 <= 64 * found.eps * found.weight:
            return float("inf")
        if found.first < 0:
            low = b
        elif found.first > 0:
            high = b
        else:
            return 1 / b
        step = (
            -found.first / found.second if found.second > 0 else np.copysign(np.inf, -found.first)
        )
        new = float(np.clip(b + step, b / 8, b * 8))
        if abs(new - b) <= SMALL_STEP * b:
            return 1 / new
        if not low < new < high:
            new = float(np.sqrt(low * high))
        if not LEAST <= new <= MOST:
            return float("inf") if new < 1 else 0.0
        b = new
    return 1 / b
