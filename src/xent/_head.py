"""The head in NumPy: from the sums of rows to their log-sum-exp, negative log-likelihood and entropy, as in the kernels.

Formulas and the order of operations are those of csrc/kernels/head.h, exponentials and logarithms the kernels' own, so that
the bits are those of `cross_entropy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _core

Array = np.ndarray[Any, Any]


def kernel(function: str, x: Any) -> Any:
    """Return a function of the kernels, "exp" or "tanh" say, of numbers in the compute dtype."""
    return _core.math(function, np.ascontiguousarray(x)).reshape(np.shape(x))


def capped(z: Array, softcap: float) -> tuple[Array, Array]:
    """softcap tanh(z / softcap) and its derivative; infinite logits stay what they are, with the derivative 0."""
    real = z.dtype.type
    with np.errstate(all="ignore"):
        u, infinite = np.clip(z / real(softcap), -1e4, 1e4), np.isinf(z)
        value = np.where(infinite, z, real(softcap) * kernel("tanh", u))
        return value, np.where(infinite, real(0), kernel("tanh_slope", u))


def row_sums(x: Array) -> Array:
    """Sum the last axis, in place, in one order whatever the version of NumPy: the second half onto the first."""
    n = x.shape[-1]
    while n > 1:
        half = (n + 1) // 2
        x[..., : n - half] += x[..., half:n]
        n = half
    sums: Array = x[..., 0] if n else np.zeros(x.shape[:-1])
    return sums


class Head:
    """What the sums of all classes say of each row; `sums` have the fields of xent_sums."""

    def __init__(self, sums: Array, real: Any):
        self.sums, self.real, self.heat = sums, real, sums["temperature"]
        self.cold = (1 / self.heat).astype(real)
        self.low = ((1 - self.heat * self.cold.astype(float)) / self.heat).astype(real)
        with np.errstate(all="ignore"):
            self.maximum = sums["max"].astype(real)
            masked = sums["sum_exp"] + sums["max_count"] == 0
            rest = sums["sum_exp"].astype(real) + (sums["max_count"].astype(real) - real(1))
            rest = np.where(masked, real(np.nan), rest)
            self.total = rest + real(1)
            self.log_sum = kernel("log1p", rest)
            self.top = np.where(self.heat == 1, self.maximum, self.maximum * self.cold)
            self.lse = np.where(masked, real(-np.inf), self.top + self.log_sum)

    def heated(self, t: Any, axes: int = 0) -> Any:
        """t / T: two products, one rounding of their sum. `axes` of t come after those of the rows."""
        ones = (1,) * axes
        heat, cold, low = (a.reshape(a.shape + ones) for a in (self.heat, self.cold, self.low))
        exact = t.astype(np.longdouble) * cold + (t * low).astype(np.longdouble)
        return np.where(heat == 1, t, exact.astype(self.real))

    def gap(self, logit: Any, axes: int = 0) -> Any:
        """(m - z) / T of logits after the cap."""
        with np.errstate(all="ignore"):
            maximum = self.maximum.reshape(self.maximum.shape + (1,) * axes)
            t = np.asarray(logit).astype(self.real) - maximum
            return -np.where(np.isneginf(t), t, self.heated(t, axes))

    def nll(self, logit: Any, axes: int = 0) -> Any:
        with np.errstate(all="ignore"):
            return self.log_sum.reshape(self.log_sum.shape + (1,) * axes) + self.gap(logit, axes)

    def prob(self, logit: Any) -> Any:
        with np.errstate(all="ignore"):
            gap = self.gap(logit)
            return np.where(gap == 0, self.real(1), kernel("exp", -gap)) / self.total

    def cost(self, mass: Any, moment: Any) -> Any:
        """Sum of a_c (lse - z_c) from the sums of a_c and a_c (z_c - m)."""
        with np.errstate(all="ignore"):
            return mass.astype(self.real) * self.log_sum - self.scaled(moment)

    def scaled(self, moment: Any) -> Any:
        return (moment / self.heat).astype(self.real)

    def center(self, moment: Any) -> Any:
        """Sum of p_c (z_c - m) / T from that of exp(t_c) (z_c - m)."""
        with np.errstate(all="ignore"):
            return self.scaled(moment) / self.total
