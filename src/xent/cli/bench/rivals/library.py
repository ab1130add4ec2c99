"""What the libraries share: the interface that the benchmark calls, and parts of formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.cli.bench.case import LATE_OPTIONS, Case
from xent.cli.bench.data import Data

Call = Callable[[], Any]
vecdot: Any = np.vecdot  # whose declared type lacks `axis`


def target_positions(case: Case, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Index tuple that picks the true class of every row from an array of logits' shape."""
    index: list[np.ndarray] = list(np.indices(targets.shape, sparse=True))
    index.insert(case.axis % len(case.shape), targets)
    return tuple(index)


@dataclass(frozen=True)
class Modulation:
    """The function of a row's negative log-likelihood that is the loss, in any library's arrays."""

    value: Callable[[Any, Callable[[Any], Any]], Any]
    #: Derivative of `value`, for libraries that have none of their own.
    slope: Callable[[np.ndarray], Any]


def focal(nll: Any, exp: Callable[[Any], Any]) -> Any:
    """Focal loss, gamma = 2."""
    return (1 - exp(-nll)) ** 2 * nll


def focal_slope(nll: np.ndarray) -> np.ndarray:
    """Derivative of `focal`."""
    p = np.exp(-nll)
    return (1 - p) ** 2 + 2 * (1 - p) * p * nll


CROSS_ENTROPY = Modulation(lambda nll, exp: nll, lambda nll: 1)
FOCAL = Modulation(focal, focal_slope)
POLY1 = Modulation(lambda nll, exp: nll + 2 * (1 - exp(-nll)), lambda nll: 1 + 2 * np.exp(-nll))


def sigmoid_focal(ce: Any, q: Any, t: Any) -> Any:
    """Torchvision's focal loss of elements: cross-entropy and q = 1 - p of the target."""
    return (0.25 * t + 0.75 * (1 - t)) * q**2 * ce


def asymmetric(log_p: Any, q: Any, m: Any, log_rest: Any, t: Any) -> Any:
    """The published loss, exponents 1 and 4: q is 1 - p, m is p less the margin, `log_rest` the logarithm of 1 - m."""
    return -t * q * log_p - (1 - t) * m**4 * log_rest


def transformed(case: Case, logits: Any, tanh: Callable[[Any], Any]) -> Any:
    """Logits after soft-cap and temperature, in the arrays of a library that differentiates."""
    softcap, temperature = case.options.get("softcap"), case.options.get("temperature")
    if softcap:
        logits = softcap * tanh(logits / softcap)
    return logits / temperature if temperature else logits


class Library:
    """A library: the method named like the task of a case computes that case."""

    #: What it imports, if not what it is called by.
    needs = ""
    #: What its results are off by, relatively, where it computes something else than it is asked for.
    error = 0.0
    #: Options that its methods know; None: all but the late ones.
    options: frozenset[str] | None = None
    #: The late ones that its methods know.
    late_options: frozenset[str] = frozenset()
    #: Arrays among the options that they know.
    arrays: frozenset[str] = frozenset()

    @classmethod
    def knows(cls, case: Case) -> bool:
        if not hasattr(cls, case.task) or case.options.keys() & LATE_OPTIONS - cls.late_options:
            return False
        if not cls.arrays.issuperset(case.arrays):
            return False
        return cls.options is None or case.options.keys() <= cls.options

    def __init__(self, threads: int) -> None:
        raise NotImplementedError

    def call(self, case: Case, data: Data) -> Call:
        call: Call = getattr(self, case.task)(case, data)
        return call
