"""Rows that break naive code, their results in decimal arithmetic, and how far off xent may be."""

from decimal import Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xent.cli.bits import uniform

DIGITS = 60
CLASSES = (2, 10, 70, 1030)
KINDS = ("ordinary", "sure", "tied", "distant", "rising", "masked", "wide")


class Bounded(NamedTuple):
    """An exact number and the largest error that docs/accuracy.md allows."""

    value: Decimal
    bound: Decimal

    def share(self, found: Any) -> float:
        """Return the error of a result as a share of the largest allowed, inf for NaN."""
        if not np.isfinite(found):
            return np.inf
        error = abs(Decimal(float(found)) - self.value)
        return float(error / self.bound) if error else 0.0


class ExactRow(NamedTuple):
    """Cross-entropy of one row, its gradient, its log-sum-exp and softmax."""

    loss: Bounded
    lse: Bounded
    grad: list[Bounded]
    probabilities: list[Bounded]


def rows(classes: int, dtype: Any) -> NDArray[Any]:
    """Return a row of every kind."""
    noise = uniform((len(KINDS), classes), dtype, classes)
    found: NDArray[Any] = noise * dtype(24) - dtype(12)
    _, sure, tied, distant, rising, masked, wide = found
    sure[:] = sure / dtype(8) - dtype(70)  # a loss of 1e-30 or so
    sure[classes // 2] = 0
    tied[[0, classes // 2, -1]] = 12.5
    distant[:] = np.floor(distant) * dtype(8) + dtype(2.0**26)
    rising[:] = np.arange(classes) * (90 / classes) - 40
    masked[: classes // 3] = -np.inf
    wide *= dtype(100)
    return found


def targets(row: NDArray[Any]) -> tuple[int, int]:
    """Return the largest class, and one that is not masked among the others."""
    return int(row.argmax()), len(row) - 1


def _ulp(x: Decimal, dtype: Any) -> Decimal:
    return Decimal(float(np.spacing(dtype(max(abs(float(x)), float(np.finfo(dtype).tiny))))))


def exact_row(row: NDArray[Any], target: int) -> ExactRow:
    """Return what the numbers of the row give, whatever their dtype."""
    dtype = row.dtype.type
    u, tiny = (Decimal(float(x)) for x in (np.finfo(dtype).epsneg, np.finfo(dtype).tiny))
    with localcontext(prec=DIGITS):
        z = [Decimal(x) for x in row.tolist()]
        top = max(z)
        distance = [top - x for x in z]
        e = [(-d).exp() for d in distance]
        at_top = z.index(top)
        rest = sum((x for i, x in enumerate(e) if i != at_top), Decimal(0))
        total = 1 + rest
        p = [x / total for x in e]
        log_total = total.ln()
        flushed = sum((x for x in e if x < tiny), Decimal(0))
        spread = sum((q * d for q, d in zip(p, distance, strict=True) if q), Decimal(0))
        loss, lse = log_total + distance[target], top + log_total
        others = sum((x for i, x in enumerate(e) if i != target), Decimal(0)) / total
        gap = max(Decimal(0), z[target] - max(x for i, x in enumerate(z) if i != target))
        probabilities = [
            # What lies below the smallest normal number is 0.
            Bounded(q, min((4 + d) * 2 * u * q, 4 * u)) if q > tiny else Bounded(Decimal(0), tiny)
            for q, d in zip(p, distance, strict=True)
        ]
        grad = list(probabilities)
        grad[target] = Bounded(-others, (4 + gap) * _ulp(others, dtype) + flushed)
        # Where a maximum below 0 cancels, an ulp of the logarithm is what can be kept.
        lse_ulp = max(_ulp(lse, dtype), _ulp(log_total, dtype))
        return ExactRow(
            Bounded(loss, 3 * _ulp(loss, dtype) + u * (spread + distance[target]) + flushed),
            Bounded(lse, 3 * lse_ulp + u * spread + flushed),
            grad,
            probabilities,
        )


def exact_sum(losses: NDArray[Any], divisor: int) -> Bounded:
    """Return the sum of the losses as they are, or their mean."""
    with localcontext(prec=DIGITS):
        total = sum(map(Decimal, losses.tolist()), Decimal(0)) / divisor
        return Bounded(total, _ulp(total, losses.dtype.type))
