"""Digests of result bits over shapes, dtypes and arguments, from inputs that are exact by design.

The inputs come from integer arithmetic alone, so that they are the same bits on every platform
and with every version of NumPy; what is hashed is the bits of every result. `make_digest.py`
writes `digest.json`, `test_bits.py` compares with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import xent
from calls import ELEMENTWISE

FILE = Path(__file__).with_name("digest.json")

# Rows and classes: every small width, then each side of a power of two, block and chunk.
NARROW = tuple((1 + classes % 7, classes) for classes in range(1, 131))
TALL = ((1000, 2), (257, 10), (100, 3, 17), (65, 64), (33, 100))
EDGES = tuple((3, n + k) for n in (256, 512, 1024, 2048, 4096, 8192) for k in (-1, 0, 1)) + tuple(
    (1, n + k) for n in (16384, 32768) for k in (-1, 0, 1)
)
LARGE = ((2, 50257), (1, 100_003))
SHAPES = NARROW + TALL + EDGES + LARGE
DTYPES = (np.float32, np.float64)


def _mix(count: int, seed: int) -> np.ndarray:
    """Return SplitMix64's numbers."""
    x = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
    x *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _uniform(shape: tuple[int, ...], dtype: Any, seed: int) -> np.ndarray:
    """Return numbers in [0, 1) with as many random bits as the dtype holds."""
    bits = np.finfo(dtype).nmant + 1
    x = _mix(int(np.prod(shape)), seed).reshape(shape) >> np.uint64(64 - bits)
    return x.astype(dtype) * dtype(2.0**-bits)


@cache
def _logits(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Most rows ordinary; some confident, masked, tied, rising or with a distant offset."""
    x = _uniform(shape, dtype, 1).reshape(-1, shape[-1]) * dtype(24) - dtype(12)
    classes = shape[-1]
    for i in range(len(x)):
        kind = (i + classes) % 11
        if kind == 1:
            x[i, classes // 2] = 90
        elif kind == 2:
            x[i, : classes // 3] = -np.inf
        elif kind == 3:
            x[i] = np.floor(x[i])
        elif kind == 4:
            x[i] += np.arange(classes) * dtype(2.0**-6)
        elif kind == 5:
            x[i] = np.floor(x[i]) * dtype(8) + dtype(2.0**24)
        elif kind == 6:
            x[i] *= dtype(64)
    return x.reshape(shape)


@cache
def _targets(shape: tuple[int, ...]) -> np.ndarray:
    targets = (_mix(int(np.prod(shape[:-1])), 2) % np.uint64(shape[-1])).astype(np.int64)
    targets[5::9] = -100
    return targets.reshape(shape[:-1])


@cache
def _soft_targets(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    targets = _uniform(shape, dtype, 3)
    targets[..., ::3] = 0
    targets[np.isneginf(_logits(shape, dtype))] = 0
    return targets


@cache
def _probs(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of [0, 1] with both ends among them; they need not sum to 1."""
    probs = _uniform(shape, dtype, 7)
    probs[..., 1::5] = 0
    probs[..., 3::7] = 1
    return probs


@cache
def _teacher(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Classes masked here are masked for the student or not."""
    teacher = _uniform(shape, dtype, 8) * dtype(40) - dtype(20)
    teacher[..., 2::6] = -np.inf
    return teacher


def _class_weight(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {"class_weight": _uniform(shape[-1:], dtype, 4) + dtype(0.25)}


def _sample_weight(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {"sample_weight": _uniform(shape[:-1], dtype, 5)}


def _grad_output(shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    return {"grad_output": _uniform(shape[:-1], dtype, 6) - dtype(0.5), "reduction": "none"}


OPTIONS: dict[str, Callable[[tuple[int, ...], Any], dict[str, Any]]] = {
    "plain": lambda shape, dtype: {},
    "none": lambda shape, dtype: {"reduction": "none"},
    "sum": lambda shape, dtype: {"reduction": "sum"},
    "grad_output": _grad_output,
    "class_weight": _class_weight,
    "sample_weight": _sample_weight,
    "label_smoothing": lambda shape, dtype: {"label_smoothing": 0.1},
    "z_loss": lambda shape, dtype: {"z_loss": 1e-3},
    "softcap": lambda shape, dtype: {"softcap": 8.0},
    "temperature": lambda shape, dtype: {"temperature": 0.7},
    "everything": lambda shape, dtype: (
        _class_weight(shape, dtype)
        | _grad_output(shape, dtype)
        | _sample_weight(shape, dtype)
        | {"label_smoothing": 0.05, "z_loss": 1e-4, "softcap": 20.0, "temperature": 1.3}
    ),
}


def _elementwise(name: str, **options: Any) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        x, t = _logits(shape, dtype), _uniform(shape, dtype, 7)
        if name == "binary_cross_entropy":
            x = _uniform(shape, dtype, 8)
            x[..., 1::5] = np.round(x[..., 1::5])
        t[..., ::3] = np.round(t[..., ::3])
        weight = {"sample_weight": _uniform(shape[-1:], dtype, 5)} if options else {}
        if "pos_weight" in options:
            weight["pos_weight"] = _uniform(shape[-1:], dtype, 4)
        results = (
            getattr(xent, name)(
                *(x, t), **ELEMENTWISE[name], **(options | weight), reduction=reduction
            )
            for reduction in ("none", "mean")
        )
        return tuple(results)

    return call


# Whatever changes the Hessian's form.
BENT = ("none", "label_smoothing", "z_loss", "softcap", "temperature", "everything")


def _loss(soft: bool, name: str) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        targets = _soft_targets(shape, dtype) if soft else _targets(shape)
        options = {"return_grad": True, "return_lse": True} | OPTIONS[name](shape, dtype)
        return xent.cross_entropy(_logits(shape, dtype), targets, **options)

    return call


def _hessian(soft: bool, name: str) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        targets = _soft_targets(shape, dtype) if soft else _targets(shape)
        options = OPTIONS[name](shape, dtype)
        return xent.cross_entropy(_logits(shape, dtype), targets, return_hess=True, **options)[2]

    return call


def _linked(name: str, case: str, **options: Any) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        given = OPTIONS[case](shape, dtype) | options
        given.pop("label_smoothing", None)
        return getattr(xent, name)(_logits(shape, dtype), _targets(shape), **given)

    return call


def _family(name: str) -> Callable[[tuple[int, ...], Any], Any]:
    return lambda shape, dtype: getattr(xent, name)(_logits(shape, dtype), axis=-1)


def _score(name: str) -> Callable[[tuple[int, ...], Any], Any]:
    return lambda shape, dtype: getattr(xent, name)(_logits(shape, dtype), _targets(shape))


# What changes the form of a loss from (log-)probabilities.
LIKELIHOOD = ("none", "grad_output", "class_weight", "label_smoothing")


def _likelihood(
    name: str, soft: bool, case: str, **options: Any
) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        x = (_logits if name == "nll_loss" else _probs)(shape, dtype)
        targets = _soft_targets(shape, dtype) if soft else _targets(shape)
        given = {"return_grad": True} | OPTIONS[case](shape, dtype) | options
        return getattr(xent, name)(x, targets, **given)

    return call


def _entropy(case: str) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        options = {"return_grad": True} | OPTIONS[case](shape, dtype)
        return xent.entropy(_logits(shape, dtype), **options)

    return call


def _distillation(case: str, temperature: float) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        options = {"return_grad": True} | OPTIONS[case](shape, dtype) | {"temperature": temperature}
        return xent.distillation_loss(_logits(shape, dtype), _teacher(shape, dtype), **options)

    return call


def _weighted_logsumexp(signed: bool) -> Callable[[tuple[int, ...], Any], Any]:
    def call(shape: tuple[int, ...], dtype: Any) -> Any:
        b = _soft_targets(shape, dtype) - dtype(0.25) * dtype(signed)
        return xent.logsumexp(_logits(shape, dtype), axis=-1, b=b, return_sign=signed)

    return call


CALLS: dict[str, Callable[[tuple[int, ...], Any], Any]] = (
    {f"cross_entropy, index, {name}": _loss(False, name) for name in OPTIONS}
    | {f"cross_entropy, soft, {name}": _loss(True, name) for name in OPTIONS}
    | {name: _family(name) for name in ("logsumexp", "softmax", "log_softmax")}
    | {name: _score(name) for name in ("token_log_probs", "perplexity")}
    | {f"cross_entropy, Hessian, index, {name}": _hessian(False, name) for name in BENT}
    | {f"cross_entropy, Hessian, soft, {name}": _hessian(True, name) for name in BENT}
    | {
        f"focal_loss, gamma={gamma}, {name}": _linked(
            "focal_loss", name, gamma=gamma, return_hess=True
        )
        for gamma in (0.5, 2.0)
        for name in ("none", "everything")
    }
    | {
        f"poly1_loss, {name}": _linked("poly1_loss", name, return_grad=True)
        for name in ("none", "everything")
    }
    | {
        f"{name}, {'soft' if soft else 'index'}, {case}": _likelihood(name, soft, case)
        for name in ("nll_loss", "categorical_cross_entropy")
        for soft in (False, True)
        for case in LIKELIHOOD
    }
    | {
        f"categorical_cross_entropy, eps, {case}": _likelihood(
            "categorical_cross_entropy", soft, case, eps=1e-3
        )
        for soft, case in ((False, "none"), (True, "label_smoothing"))
    }
    | {
        f"entropy, {case}": _entropy(case)
        for case in ("none", "grad_output", "softcap", "temperature")
    }
    | {
        f"distillation_loss, T={temperature}, {case}": _distillation(case, temperature)
        for temperature in (1.0, 2.5)
        for case in ("none", "grad_output")
    }
    | {
        "logsumexp, b": _weighted_logsumexp(False),
        "logsumexp, signs": _weighted_logsumexp(True),
    }
    | {name: _elementwise(name) for name in ELEMENTWISE}
    | {
        "binary_cross_entropy, eps": _elementwise(
            "binary_cross_entropy", eps=1e-3, label_smoothing=0.1
        ),
        "binary_cross_entropy_with_logits, pos_weight": _elementwise(
            "binary_cross_entropy_with_logits", pos_weight=True, label_smoothing=0.1
        ),
        "sigmoid_focal_loss, gamma=0.5": _elementwise("sigmoid_focal_loss", gamma=0.5, alpha=None),
        "kl_div, log_target": _elementwise("kl_div", log_target=True),
    }
)


def _bits(result: Any) -> bytes:
    """Return the bytes of an array, or of a tuple of them, with one NaN for all."""
    if isinstance(result, tuple):
        return b"".join(map(_bits, result))
    result = np.atleast_1d(np.ascontiguousarray(result))
    return np.where(np.isnan(result), result.dtype.type(np.nan), result).tobytes()


def digests(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> dict[str, str]:
    """Return a digest for every call and dtype, on the ISA and the threads now in use."""
    found = {}
    for name, call in CALLS.items():
        for dtype in DTYPES:
            state = hashlib.sha256()
            for shape in shapes:
                state.update(_bits(call(shape, dtype)))
            found[f"{name}, {np.dtype(dtype).name}"] = state.hexdigest()[:32]
    return found
