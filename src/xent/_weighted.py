"""The log-sum-exp of weighted exponentials, in float64, a block of rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _core
from xent._arguments import Precision
from xent._blocks import Array, blocks, numbers
from xent._request import BLOCK_BYTES

LN2 = float(np.log(2.0))
# Exponents of factors beside which exponentials below the smallest normal number do not count.
ORDINARY = 200
# Its first 30 bits, whose products with integers of 23 bits are exact, and the rest.
LN2_HIGH, LN2_LOW = 0.6931471796706319, 8.893134238886677e-10


def exp(t: Array) -> Array:
    """Return exp(t) of float64 t <= 0; results below the smallest normal number are 0."""
    return np.where(t < -708.0, 0.0, _core.math("exp", np.ascontiguousarray(np.maximum(t, -708.0))))


def log(top: Array, rest: Array) -> Array:
    """Return log |top + rest| of float64, accurate near 1."""
    s = np.abs(top + rest)
    lift = np.where(s > 2.0**1000, 64, 0)
    near = (s > 0.5) & (s < 2.0)
    less_one = np.where(top + rest < 0, -top, top) - 1 + np.where(top + rest < 0, -rest, rest)
    near_one = _core.math("log1p", np.where(near, less_one, 0.0))
    far = _core.math("log", np.where(np.isinf(s), 1.0, np.ldexp(s, -lift))) + lift * np.log(2.0)
    return np.where(near, near_one, np.where(np.isinf(s), s, far))


def weighted(
    x: np.ndarray[Any, Any], b: np.ndarray[Any, Any], kind: Precision
) -> tuple[Array, Array]:
    """Return log |Σ b exp(x)| and its sign over the last axis, in float64; b = 0 leaves an element out."""
    shape = x.shape[:-1]
    lse, sign = np.empty(shape), np.empty(shape)
    for block in blocks(shape, max(1, BLOCK_BYTES // (16 * max(1, x.shape[-1])))):
        with np.errstate(all="ignore"):
            a = numbers(x[block], kind).astype(np.float64)
            lse[block], sign[block] = weighted_rows(a, np.asarray(b[block], np.float64))
    return lse, sign


def weighted_rows(a: Array, b: Array) -> tuple[Array, Array]:
    """Return `weighted` of a block.

    With b = f 2^e, 1 <= |f| < 2, terms are f exp(a - m) 2^(e - k), where m and k are those of the largest a + e log 2: none
    overflows, however large or small the factors are, and factors of one size leave exp(a - m) as it is.
    """
    infinite = (b != 0) & (np.isnan(a) | np.isposinf(a) | ~np.isfinite(b))
    counts = (b != 0) & ~infinite & ~np.isneginf(a)
    z = np.where(counts, a, 0.0)
    fraction, exponent = np.frexp(np.where(counts, b, 1.0))
    fraction, exponent = 2 * fraction, exponent - 1
    # Of rows whose factors all are of ordinary size, those of the largest a alone.
    ordinary = np.all(np.abs(exponent) <= ORDINARY, axis=-1, keepdims=True)
    size = np.where(counts, np.where(ordinary, z, z + exponent * LN2), -np.inf)
    if not size.shape[-1]:
        return np.full(size.shape[:-1], -np.inf), np.zeros(size.shape[:-1])
    largest = np.argmax(size, axis=-1)[..., None]
    m = np.take_along_axis(z, largest, -1)
    k = np.where(ordinary, 0, np.take_along_axis(exponent, largest, -1))
    d = z - m
    n = np.where((d <= 0) & (d > -700), 0, np.ceil(d / LN2))
    powers = exp(np.minimum((d - n * LN2_HIGH) - n * LN2_LOW, 0.0))
    n = np.clip(n + (exponent - k), -4000, 4000).astype(int)
    terms = np.where(counts, np.ldexp(fraction * powers, n), 0.0)
    of_largest = (d == 0) & (ordinary | (exponent == k))
    top = np.sum(np.where(of_largest, terms, 0.0), axis=-1)
    rest = np.sum(np.where(of_largest, 0.0, terms), axis=-1)
    s = top + rest
    value = log(np.atleast_1d(top), np.atleast_1d(rest)).reshape(s.shape)
    value = np.where(s == 0, -np.inf, m[..., 0] + (k[..., 0] * LN2 + value))
    # Infinite terms decide alone: of one sign, or NaN.
    of_infinity = np.where(np.isneginf(a) | np.isnan(a + b), np.nan, np.copysign(np.inf, b))
    total = np.sum(np.where(infinite, of_infinity, 0.0), axis=-1)
    decided = np.any(infinite, axis=-1)
    return np.where(decided, np.abs(total), value), np.where(decided, np.sign(total), np.sign(s))
