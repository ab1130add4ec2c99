"""The calls that many tests make: every option, everything that reads logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import xent
from xent import _core

FAMILY = ("logsumexp", "softmax", "log_softmax")
# The other losses over class indices, with a strength each and with what they return.
LINKED: dict[str, dict[str, Any]] = {
    "focal_loss": {"gamma": 1.5, "return_grad": True, "return_hess": True},
    "poly1_loss": {"epsilon": 1.5, "return_grad": True},
}
# The elementwise losses, with what asks for all they can return.
ELEMENTWISE: dict[str, dict[str, Any]] = {
    "binary_cross_entropy": {"return_grad": True},
    "binary_cross_entropy_with_logits": {"return_hess": True},
    "sigmoid_focal_loss": {"return_hess": True},
    "kl_div": {"return_grad": True},
}
REDUCTIONS = ("none", "sum", "mean")


def _class_weight(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"class_weight": np.random.default_rng(1).uniform(0.1, 3, shape[-1])}


def _sample_weight(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"sample_weight": np.random.default_rng(2).uniform(0, 3, shape[:-1])}


OPTIONS: dict[str, Callable[[tuple[int, ...]], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "class_weight": _class_weight,
    "sample_weight": _sample_weight,
    "label_smoothing": lambda shape: {"label_smoothing": 0.1},
    "full smoothing": lambda shape: {"label_smoothing": 1.0},
    "z_loss": lambda shape: {"z_loss": 1e-3},
    "softcap": lambda shape: {"softcap": 4.0},
    "temperature": lambda shape: {"temperature": 0.7},
    "cap and temperature": lambda shape: {"softcap": 30.0, "temperature": 2.5},
    "weights": lambda shape: _class_weight(shape) | _sample_weight(shape),
    "weighted smoothing": lambda shape: _class_weight(shape) | {"label_smoothing": 0.2},
    "everything": lambda shape: (
        _class_weight(shape)
        | _sample_weight(shape)
        | {"label_smoothing": 0.05, "z_loss": 1e-4, "softcap": 20.0, "temperature": 1.3}
    ),
}


@contextmanager
def using(isa: str, threads: int) -> Iterator[None]:
    """Run the block on this instruction set with this many threads."""
    previous = _core.use_isa(isa)
    try:
        with xent.num_threads(threads):
            yield
    finally:
        _core.use_isa(previous)


def assert_same(actual: Any, expected: Any) -> None:
    """Compare results, or tuples of them, bit by bit."""
    if isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
        return
    assert np.shape(actual) == np.shape(expected)
    assert np.asarray(actual).tobytes() == np.asarray(expected).tobytes()


def results(logits: np.ndarray, targets: np.ndarray, **options: Any) -> list[Any]:
    """Everything that reads logits: losses, gradients, Hessians, the softmax family."""
    both = {"return_grad": True, "return_lse": True} | options
    found = [
        xent.cross_entropy(logits, targets, reduction=reduction, **both)
        for reduction in ("none", "mean")
    ]
    found.append(xent.cross_entropy(logits, targets, return_hess=True, **options))
    for name, call in LINKED.items():
        found.append(getattr(xent, name)(logits, targets, **call, **options))
    return found + [getattr(xent, name)(logits, axis=-1) for name in FAMILY]
