"""The arrays of a case, drawn from a fixed seed, so that every run sees the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from xent.cli.bench.case import (
    CONTRASTIVE,
    ELEMENTWISE_RESULT,
    LABELLED,
    METRICS,
    NORMALISED,
    OF_TWO_LOGITS,
    ROW_RESULT,
    WITHOUT_TARGETS,
    Case,
)

SEED = 20240229
PAGE = 4096
#: Targets of a row that has several.
SPARSE = 64
#: Elements that are rounded at a time, from the cache.
BLOCK = 1 << 15


@dataclass(frozen=True)
class Data:
    """The arrays of one case; all but the first may be None, which the case says.

    `out`, `grad_out` and `hess_out` are buffers to reuse. Where the logits are a product, `logits`
    are the hidden states, and `grad_out` is a buffer for their gradient and one for the weight's.
    Where it is one of two sets of vectors, these are `logits` and `weight`, and there is no buffer.
    """

    logits: np.ndarray
    targets: Any = None
    weight: Any = None
    out: Any = None
    grad_out: Any = None
    hess_out: Any = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def draw(case: Case) -> Data:
    """Draw the input and allocate the buffers, touched so that no page fault is timed."""
    rng = np.random.default_rng(SEED)
    if case.features:
        return _product(case, rng)
    return Data(
        logits=_normalised(case, _logits(case, rng)),
        targets=None if case.function in WITHOUT_TARGETS else _targets(case, rng),
        out=None if case.fresh else _out(case),
        grad_out=_buffer(case) if case.gradient and not case.fresh else None,
        hess_out=_buffer(case) if case.hessian and not case.fresh else None,
        arrays={name: DRAWN[name](case, rng) for name in case.arrays},
    )


def widened(array: np.ndarray) -> np.ndarray:
    """Return half types, bits of bfloat16 among them, as float32; other arrays as they are."""
    if array.dtype == np.uint16:
        bits: np.ndarray = np.left_shift(array, 16, dtype=np.uint32)
        return bits.view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def store(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Round floats to the dtype of a contiguous `out`, bits of bfloat16 included; return it."""
    if out.dtype != np.uint16:
        np.copyto(out, values, casting="same_kind")
        return out
    bits, stored = values.ravel("K").view(np.uint32), out.ravel("K")
    for start in range(0, bits.size, BLOCK):
        block = bits[start : start + BLOCK]
        rounded = block >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += block
        rounded >>= 16
        stored[start : start + BLOCK] = rounded
    return out


def filled(value: np.ndarray | float, shape: tuple[int, ...], dtype: str, order: Any) -> np.ndarray:
    """An array that starts on a page.

    Where malloc puts one depends on what has run before, and stores that trail loads by a
    little, modulo a page, may take several times as long.
    """
    room = np.empty(prod(shape) * np.dtype(dtype).itemsize + PAGE, dtype=np.uint8)
    array: np.ndarray = np.ndarray(shape, dtype, room, -room.ctypes.data % PAGE, order=order)
    array[...] = value
    return array


def _logits(case: Case, rng: np.random.Generator) -> np.ndarray:
    shape = list(case.shape)
    if case.layout == "shifted":
        shape[-2] += 1
    values = rng.standard_normal(shape, dtype=np.dtype(case.compute_dtype))
    values *= 3  # the spread of a trained model: a few classes hold most of the mass
    logits = store(values, filled(0, values.shape, case.stored_dtype, _order(case)))
    return logits[..., :-1, :] if case.layout == "shifted" else logits


def _product(case: Case, rng: np.random.Generator) -> Data:
    shapes = (*case.row_shape, case.features), (case.classes, case.features)
    factors = [rng.standard_normal(shape, dtype=np.dtype(case.dtype)) for shape in shapes]
    factors[0] *= 3 / case.features**0.5  # logits spread as `_logits` are
    hidden, weight = (filled(a, a.shape, case.dtype, "C") for a in factors)
    if case.function in CONTRASTIVE:
        return Data(hidden, weight=weight)
    buffers = tuple(filled(np.nan, shape, case.dtype, "C") for shape in shapes)
    return Data(hidden, _targets(case, rng), weight, grad_out=buffers if case.gradient else None)


def _normalised(case: Case, logits: np.ndarray) -> np.ndarray:
    kind = NORMALISED.get(case.function)
    if kind == "sigmoid":
        logits[...] = 1 / (1 + np.exp(-logits))
    elif kind:
        logits -= logits.max(axis=case.axis, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=case.axis, keepdims=True))
    return np.exp(logits, out=logits) if kind == "probs" else logits


def _targets(case: Case, rng: np.random.Generator) -> np.ndarray:
    if case.function in OF_TWO_LOGITS:
        return _logits(case, rng)
    if case.function in LABELLED:
        return filled(rng.random(case.shape) < 0.5, case.shape, case.compute_dtype, _order(case))
    if "target_probs" in case.arrays:
        return rng.integers(case.classes, size=(*case.row_shape, SPARSE))
    if case.function in METRICS:
        # Labels are told from the targets, so that each has to occur.
        return rng.permutation(prod(case.row_shape)).reshape(case.row_shape) % case.classes
    if not case.soft:
        return rng.integers(case.classes, size=case.row_shape)
    weights = rng.standard_exponential(case.shape, dtype=np.dtype(case.compute_dtype))
    weights /= weights.sum(axis=case.axis, keepdims=True)
    return filled(weights, case.shape, case.compute_dtype, _order(case))


def _class_bias(case: Case, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(case.classes, dtype=np.dtype(case.compute_dtype))


def _target_probs(case: Case, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_exponential((*case.row_shape, SPARSE), dtype=np.dtype(case.compute_dtype))
    drawn /= drawn.sum(axis=-1, keepdims=True)
    return drawn


DRAWN = {"class_bias": _class_bias, "target_probs": _target_probs}


def _out(case: Case) -> np.ndarray | None:
    if case.function in ELEMENTWISE_RESULT:
        return _buffer(case)
    in_rows = case.function in ROW_RESULT
    return filled(np.nan, case.row_shape, case.compute_dtype, "C") if in_rows else None


def _buffer(case: Case) -> np.ndarray:
    # All bits set: NaN in every type.
    return filled(
        0xFFFF if case.dtype == "bfloat16" else np.nan, case.shape, case.stored_dtype, _order(case)
    )


def _order(case: Case) -> Literal["C", "F"]:
    return "F" if case.layout == "fortran" else "C"
