"""Rows that break naive code, and class counts around the sizes of vectors, blocks and chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SMALL = tuple(range(1, 131))
# Powers of two, the blocks of 1,024 and the chunks of 16,384 classes: before, at and after.
EDGES = (
    *(n + k for n in (256, 512, 1024, 2048, 4096, 8192, 16384, 32768) for k in (-1, 0, 1)),
    50257,
)

Row = Callable[[np.random.Generator, int, np.dtype], np.ndarray]


def _normal(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    return rng.normal(0, 3, classes)


def _flat(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    return np.full(classes, 0.7)


def _confident(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """A loss of 1e-30 for one class."""
    row = rng.normal(0, 0.1, classes) - 69 - np.log(classes)
    row[rng.integers(classes)] = 0
    return row


def _sure(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """A loss around 1e-8: p rounds to 1 in float32."""
    row = rng.normal(0, 1, classes) - 18 - np.log(classes)
    row[-1] = 0.3
    return row


def _near_tie(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """Two neighbours in the dtype far above the rest."""
    row = rng.normal(0, 1, classes) - 60
    row[0] = 5.5
    row[classes // 2] = np.nextafter(dtype.type(5.5), dtype.type(0))
    return row


def _ties(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """The maximum attained at the start, in the middle and at the end."""
    row = rng.normal(-3, 1, classes)
    row[[0, classes // 2, classes - 1]] = 4.25
    return row


def _level_rest(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """One class above equal others, so that every lane of a sum has the same rounding errors."""
    row = np.full(classes, -3.3)
    row[classes // 3] = 7.7
    return row


def _masked(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """The first and the last third are -inf."""
    row = rng.normal(0, 2, classes)
    row[: classes // 3] = row[classes - classes // 3 :] = -np.inf
    return row


def _lone(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """All but one class are -inf."""
    row = np.full(classes, -np.inf)
    row[classes // 2] = -2.5
    return row


def _offset(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """A shared offset of 1e8 over differences the dtype still resolves."""
    return 1e8 - 8.0 * rng.integers(0, 12, classes)


def _rising(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """Every block brings a new maximum."""
    return np.linspace(-40, 50, classes)


def _falling(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    return np.linspace(50, -40, classes)


def _wide(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """Differences past the range of exp in either direction."""
    return rng.uniform(-1e4, 1e4, classes)


def _subnormal(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    return rng.integers(-9, 9, classes) * np.finfo(dtype).smallest_subnormal.astype(float)


def _all_negative(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """A maximum below zero, where lse is the difference of two positive numbers."""
    return rng.normal(-12, 1, classes)


def _huge(rng: np.random.Generator, classes: int, dtype: np.dtype) -> np.ndarray:
    """Near the largest finite number, so that differences overflow."""
    row = np.full(classes, -0.9 * np.finfo(dtype).max.astype(float))
    row[::3] *= -1
    return row


KINDS: dict[str, Row] = {
    kind.__name__.removeprefix("_"): kind
    for kind in (
        *(_normal, _flat, _confident, _sure, _near_tie, _ties, _level_rest, _masked, _lone),
        *(_offset, _rising, _falling, _wide, _subnormal, _all_negative, _huge),
    )
}


def adversarial(classes: int, dtype: np.dtype, *seed: int) -> np.ndarray:
    """One row of every kind, in the order of `KINDS`."""
    rng = np.random.default_rng([classes, *seed])
    dtype = np.dtype(dtype)
    return np.stack([kind(rng, classes, dtype) for kind in KINDS.values()]).astype(dtype)


def telling_targets(logits: np.ndarray) -> np.ndarray:
    """Four targets for every row: the largest logit, the smallest, the first and the last."""
    largest, smallest = logits.argmax(axis=-1), logits.argmin(axis=-1)
    last = np.full_like(largest, logits.shape[-1] - 1)
    return np.stack([largest, smallest, np.zeros_like(last), last], axis=-1)


def batch(
    shape: tuple[int, ...], dtype: np.dtype, seed: int = 0, scale: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Ordinary logits of this shape, and a target for each of its rows."""
    rng = np.random.default_rng([seed, *shape])
    logits = rng.normal(0, scale, shape).astype(dtype)
    return logits, rng.integers(0, shape[-1], shape[:-1])


def soft_targets(shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """Probabilities that sum to about 1, some of them exactly 0."""
    rng = np.random.default_rng([seed, *shape, 1])
    targets = rng.gamma(0.3, 1, shape) * (rng.random(shape) < 0.8)
    targets[..., 0] += 1e-3
    return (targets / targets.sum(axis=-1, keepdims=True)).astype(dtype)


def probabilities(shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> np.ndarray:
    """The same, all of them above 0."""
    probs = np.random.default_rng([seed, *shape, 2]).gamma(0.5, 1, shape) + 1e-6
    return (probs / probs.sum(axis=-1, keepdims=True)).astype(dtype)
