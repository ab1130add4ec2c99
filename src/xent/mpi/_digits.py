"""Sums of float64 numbers that do not depend on how these are divided among ranks, in a few bytes.

A number is cut into digits at fixed places, the multiples of 32 bits, whatever number it is. Digits of one place are whole
numbers, whose sums are exact in any order. Of a sum the three places that begin at its largest number are kept: at least 65
bits from that number's first. What is kept depends on the numbers alone, never on which of them were added together first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BITS, PLACES = 32, 3
#: How many numbers a rank may add up: the sums of digits are exact in float64.
MOST = 1 << 19
#: In the place of the largest digit's place: what the sum is if it is not finite.
SPECIAL = {125: -np.inf, 126: np.inf, 127: np.nan}
#: Below the place of every number.
NOTHING = -100


def dtype(numbers: int) -> np.dtype[Any]:
    """Return how digits travel if every rank adds up at most so many numbers: 16 bytes for up to 128."""
    width = next(width for width in (5, 6, 7) if numbers << BITS <= 1 << (8 * width - 1))
    return np.dtype([("place", "i1"), ("digits", "u1", (PLACES, width))])


def digits(x: Array) -> tuple[Array, Array]:
    """Return the place of the largest number of each column, and the sums of the digits at it and at those below."""
    finite = np.isfinite(x)
    rest = np.where(finite, x, 0.0)
    exponent = np.where(rest != 0, np.frexp(rest)[1], NOTHING * BITS).max(
        axis=0, initial=NOTHING * BITS
    )
    place = -(-exponent // BITS)
    sums = np.zeros((PLACES, *x.shape[1:]), np.int64)
    for i in range(PLACES):
        unit = BITS * (place - 1 - i)
        digit = np.trunc(np.ldexp(rest, -unit))
        sums[i] = digit.sum(axis=0)
        rest = rest - np.ldexp(digit, unit)
    if not finite.all():
        with np.errstate(invalid="ignore"):
            special = np.where(finite, 0.0, x).sum(axis=0)
        for code, value in SPECIAL.items():
            place[(special == value) | (np.isnan(special) & np.isnan(value))] = code
    return place, sums


def pack(into: Array, place: Array, sums: Array) -> None:
    """Write digits as they travel."""
    width = into.dtype["digits"].shape[1]
    into["place"] = place
    bytes_of = np.ascontiguousarray(np.moveaxis(sums, 0, -1), "<i8")[..., None].view("u1")
    into["digits"] = bytes_of[..., :width]


def unpack(packed: Array) -> tuple[Array, Array]:
    """Return what `pack` was given."""
    found = packed["digits"]
    width = found.shape[-1]
    whole = np.zeros((*found.shape[:-1], 8), "u1")
    whole[..., 8 - width :] = found
    sums = (whole.view("<i8")[..., 0] >> 8 * (8 - width)).astype(np.int64)
    return packed["place"].astype(np.int64), np.moveaxis(sums, -1, 0)


def total(place: Array, sums: Array) -> Array:
    """Return the float64 sums, from places (ranks, ...) and digits (PLACES, ranks, ...)."""
    special = np.zeros(place.shape)
    if (place > -NOTHING).any():
        for code, value in SPECIAL.items():
            special[place == code] = value
        place = np.where(special != 0, NOTHING, place)  # NaN is not 0 either
    top = place.max(axis=0)
    lower = top - place
    if lower.any():
        # The digit at place top - i of a rank is its number i - lower.
        own = np.zeros((PLACES, *top.shape), np.int64)
        for i in range(PLACES):
            for j in range(i + 1):
                own[i] += np.where(lower == i - j, sums[j], 0).sum(axis=0)
    else:
        own = sums.sum(axis=1)
    for i in range(PLACES - 1, 0, -1):
        own[i - 1] += own[i] >> BITS
        own[i] &= (1 << BITS) - 1
    high, middle, low = (np.ldexp(a.astype(float), BITS * (2 - i)) for i, a in enumerate(own))
    most = high + middle
    found = np.ldexp(most + ((middle - (most - high)) + low), BITS * (top - PLACES))
    with np.errstate(invalid="ignore"):
        beside = special.sum(axis=0)
    return np.where(beside != 0, beside, found)


def added(x: Array) -> Array:
    """Return the sums of numbers that are all here, (numbers, ...): the bits of `total`."""
    if len(x) == 1:
        found: Array = x[0]
        return found
    place, sums = digits(x)
    return total(place[None], sums[:, None])
