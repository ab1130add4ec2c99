"""The calls that many tests share: every option, every function that reads logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import inputs
import xent
from xent import _core

FAMILY = ("logsumexp", "softmax", "log_softmax")
# Modulated losses over class indices: a strength for each, and which results to return.
MODULATED: dict[str, dict[str, Any]] = {
    "focal_loss": {"gamma": 1.5, "return_grad": True, "return_hess": True},
    "poly1_loss": {"epsilon": 1.5, "return_grad": True},
}
# The elementwise losses, with the options that return all of their results.
ELEMENTWISE: dict[str, dict[str, Any]] = {
    "binary_cross_entropy": {"return_grad": True},
    "binary_cross_entropy_with_logits": {"return_hess": True},
    "sigmoid_focal_loss": {"return_hess": True},
    "asymmetric_loss": {"return_grad": True},
    "kl_div": {"return_grad": True},
}
REDUCTIONS = ("none", "sum", "mean")


class RowCall(NamedTuple):
    """A loss over rows other than the cross-entropies of logits: its arrays and its options.

    `first` and `second` make the arrays from shape and dtype; what is `aligned` has the classes
    of the first, on the same axis. `options` are those it takes besides weights and reductions.
    """

    function: str
    first: Callable[[tuple[int, ...], np.dtype], np.ndarray]
    second: Callable[[tuple[int, ...], np.dtype], np.ndarray] | None = None
    aligned: bool = True
    options: Mapping[str, Any] = MappingProxyType({})

    def arrays(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """The arguments that come first."""
        makers = (self.first,) if self.second is None else (self.first, self.second)
        return tuple(make(shape, dtype) for make in makers)

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        """Loss and gradient."""
        call = {"return_grad": True, **self.options, **options}
        return getattr(xent, self.function)(*arrays, **call)


def _logits(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return inputs.batch(shape, dtype)[0]


def _teacher(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return inputs.batch(shape, dtype, seed=1)[0]


def _index(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return inputs.batch(shape, dtype)[1]


def _aims(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return inputs.soft_targets(shape, dtype, seed=1)


def _smoothed(*call: Any) -> RowCall:
    return RowCall(*call, options={"label_smoothing": 0.1})


ROW_CALLS: dict[str, RowCall] = {
    "nll, index": RowCall("nll_loss", _logits, _index, False),
    "nll, smoothed": _smoothed("nll_loss", _logits, _index, False),
    "nll, soft": RowCall("nll_loss", _logits, _aims),
    "categorical, index": RowCall("categorical_cross_entropy", inputs.probabilities, _index, False),
    "categorical, smoothed": _smoothed(
        "categorical_cross_entropy", inputs.probabilities, _index, False
    ),
    "categorical, soft": RowCall("categorical_cross_entropy", inputs.probabilities, _aims),
    "categorical, clipped": RowCall(
        "categorical_cross_entropy", inputs.soft_targets, _aims, options={"eps": 1e-3}
    ),
    "entropy": RowCall("entropy", _logits),
    "entropy, capped": RowCall("entropy", _logits, options={"softcap": 4.0, "temperature": 0.7}),
    "distillation": RowCall("distillation_loss", _logits, _teacher),
    "distillation, warm": RowCall(
        "distillation_loss", _logits, _teacher, options={"temperature": 2.5}
    ),
}


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


def on_every_isa(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return the result of a call, and assert that it has the same bits on every instruction set."""
    first, *others = _core.isas()
    with using(first, xent.get_num_threads()):
        expected = call(*arguments, **options)
    for isa in others:
        with using(isa, xent.get_num_threads()):
            assert_same(call(*arguments, **options), expected)
    return expected


def results(logits: np.ndarray, targets: np.ndarray, **options: Any) -> list[Any]:
    """The results of every function that reads logits: losses, gradients, Hessians, the softmax family."""
    both = {"return_grad": True, "return_lse": True} | options
    found = [
        xent.cross_entropy(logits, targets, reduction=reduction, **both)
        for reduction in ("none", "mean")
    ]
    found.append(xent.cross_entropy(logits, targets, return_hess=True, **options))
    for name, call in MODULATED.items():
        found.append(getattr(xent, name)(logits, targets, **call, **options))
    return found + [getattr(xent, name)(logits, axis=-1) for name in FAMILY]
