"""Sums of float64 numbers without any rounding: however numbers are cut into parts, the parts' sums add up to the same."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# 2**-1126 divides every float64 as `frexp` and the two halves below have it, subnormal ones too.
UNIT = 1126
# So many halves of at most 27 bits are summed in float64 without rounding.
PART = 1 << 20


class ExactSum:
    """A sum as one integer, in units of 2**-1126; infinities and NaN beside it."""

    __slots__ = ("special", "units")

    def __init__(self) -> None:
        self.units, self.special = 0, 0.0

    def add(self, numbers: Array) -> None:
        """Add float64 numbers of any shape."""
        flat = np.asarray(numbers, np.float64).ravel()
        finite = np.isfinite(flat)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self.special += float(flat[~finite].sum())
            flat = flat[finite]
        for start in range(0, flat.size, PART):
            self.units += _units(flat[start : start + PART])

    def count(self, number: int) -> None:
        """Add the number 1 so many times."""
        self.units += number << UNIT

    def merge(self, other: ExactSum) -> None:
        """Add the numbers of another sum."""
        self.units += other.units
        self.special += other.special

    def over(self, divisor: int | ExactSum) -> float:
        """Return the quotient by an integer or by another sum, rounded once; NaN by zero."""
        if isinstance(divisor, ExactSum):
            if divisor.special or self.special:
                return float(np.float64(self.over(1)) / np.float64(divisor.over(1)))
            return _quotient(self.units, divisor.units)
        return self.special or _quotient(self.units, divisor << UNIT)

    def variance(self, of_numbers: ExactSum, count: int) -> float:
        """Return the unbiased variance of `count` finite numbers, of which this is the sum of the squares."""
        # Differences of nearly equal numbers, but without rounding.
        scaled = (count * self.units << UNIT) - of_numbers.units**2
        return _quotient(max(scaled, 0), count * (count - 1) << 2 * UNIT)


def _units(x: Array) -> int:
    """Sum finite numbers: the halves of their mantissas, of each exponent, in float64; the rest in Python's integers."""
    mantissa, exponent = np.frexp(x)
    high = np.trunc(mantissa * 2.0**26)
    low = (mantissa * 2.0**26 - high) * 2.0**27
    lowest = int(exponent.min())
    total = 0
    for half, bits in ((high, 26), (low, 53)):
        if bits == 53 and not half.any():
            break  # numbers of float32 have no low halves
        sums = np.bincount(exponent - lowest, weights=half)
        for k in np.flatnonzero(sums):
            total += int(sums[k]) << int(k) + lowest + UNIT - bits
    return total


def _quotient(a: int, b: int) -> float:
    """Return a / b rounded to the nearest float64, infinite beyond the largest; NaN by zero."""
    if b == 0:
        return float("nan")
    try:
        return a / b
    except OverflowError:
        return float("inf") if (a > 0) == (b > 0) else float("-inf")
