"""How far results are off the exact ones, measured against the bounds that are promised.

    python tests/evidence.py                    100,000 rows for each result: minutes
    python tests/evidence.py --rows 2000        a sample
    python tests/evidence.py softmax entropy    results with one of the words

A table: for each result and dtype the largest error of xent in units of its bound (docs/accuracy.md;
1 is what is promised), and the same for NumPy, SciPy, PyTorch and JAX as far as they are installed,
with the share of their numbers that the bound does not hold. "inf" is a number that should have
been finite, or the other way round. The exit status is 1 if xent is outside a bound.

The rows are those of inputs.py: random, confident, flat, ties and near ties, masked blocks, a shared
offset of 1e8, differences beyond the range of exp, subnormal numbers. The exact results are those of
reference.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from scipy import special

import inputs
import xent
from reference import WIDE
from tolerance import expect

Array = np.ndarray[Any, Any]
CLASSES = {2: 0.4, 10: 0.4, 64: 0.17, 1000: 0.03}  # and the share of rows that have so many
AT_ONCE = 20  # rows of each kind


class Rows(NamedTuple):
    """Logits, a class for each row, and probabilities."""

    logits: Array
    index: Array
    soft: Array

    def one_hot(self) -> Array:
        """1 at the class."""
        return np.eye(self.logits.shape[-1], dtype=self.logits.dtype)[self.index]


def batches(rows: int, dtype: np.dtype) -> Iterator[Rows]:
    """So many rows, or a few more."""
    each = len(inputs.KINDS) * AT_ONCE
    for classes, share in CLASSES.items():
        for batch in range(math.ceil(rows * share / each)):
            seeds = range(batch * AT_ONCE, (batch + 1) * AT_ONCE)
            logits = np.concatenate([inputs.adversarial(classes, dtype, seed) for seed in seeds])
            targets = inputs.telling_targets(logits)
            index = np.take_along_axis(targets, (np.arange(each) % 4)[:, None], -1)[:, 0]
            yield Rows(logits, index, inputs.soft_targets(logits.shape, dtype, batch))


def at(a: Array, index: Array) -> Array:
    """The number of each row at its class."""
    return np.take_along_axis(a, index[:, None], -1)[:, 0]


# --- what a user of each library would write --------------------------------------------------


def _shifted(x: Array) -> Array:
    return x - x.max(-1, keepdims=True)


def _numpy_softmax(x: Array) -> Array:
    e = np.exp(_shifted(x))
    return e / e.sum(-1, keepdims=True)


def _numpy_log_softmax(x: Array) -> Array:
    z = _shifted(x)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def _numpy_entropy(x: Array) -> Array:
    p = _numpy_softmax(x)
    return -np.where(p > 0, p * np.log(p), 0).sum(-1)


def _numpy_bce(x: Array, t: Array) -> Array:
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def _numpy_kl(x: Array, t: Array) -> Array:
    return np.where(t > 0, t * (np.log(t) - x), 0)


Call = Callable[[Rows], Array]
NUMPY: dict[str, Call] = {
    "cross_entropy": lambda r: -at(_numpy_log_softmax(r.logits), r.index),
    "cross_entropy, gradient": lambda r: _numpy_softmax(r.logits) - r.one_hot(),
    "logsumexp": lambda r: np.log(np.exp(_shifted(r.logits)).sum(-1)) + r.logits.max(-1),
    "softmax": lambda r: _numpy_softmax(r.logits),
    "log_softmax": lambda r: _numpy_log_softmax(r.logits),
    "entropy": lambda r: _numpy_entropy(r.logits),
    "binary_cross_entropy_with_logits": lambda r: _numpy_bce(r.logits, r.soft),
    "kl_div": lambda r: _numpy_kl(r.logits, r.soft),
}
SCIPY: dict[str, Call] = {
    "cross_entropy": lambda r: -at(special.log_softmax(r.logits, -1), r.index),
    "cross_entropy, gradient": lambda r: special.softmax(r.logits, -1) - r.one_hot(),
    "logsumexp": lambda r: special.logsumexp(r.logits, -1),
    "softmax": lambda r: special.softmax(r.logits, -1),
    "log_softmax": lambda r: special.log_softmax(r.logits, -1),
    "entropy": lambda r: special.entr(special.softmax(r.logits, -1)).sum(-1),
}


def _torch() -> dict[str, Call]:
    torch = import_module("torch")
    f = torch.nn.functional
    of = torch.from_numpy

    def gradient(r: Rows) -> Array:
        logits = of(r.logits).requires_grad_()
        f.cross_entropy(logits, of(r.index), reduction="sum").backward()
        return np.asarray(logits.grad)

    return {
        "cross_entropy": lambda r: f.cross_entropy(of(r.logits), of(r.index), reduction="none"),
        "cross_entropy, gradient": gradient,
        "logsumexp": lambda r: torch.logsumexp(of(r.logits), -1),
        "softmax": lambda r: torch.softmax(of(r.logits), -1),
        "log_softmax": lambda r: torch.log_softmax(of(r.logits), -1),
        "entropy": lambda r: torch.distributions.Categorical(
            logits=of(r.logits), validate_args=False
        ).entropy(),
        "binary_cross_entropy_with_logits": lambda r: f.binary_cross_entropy_with_logits(
            of(r.logits), of(r.soft), reduction="none"
        ),
        "kl_div": lambda r: f.kl_div(of(r.logits), of(r.soft), reduction="none"),
    }


def _jax() -> dict[str, Call]:
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    nn = jax.nn

    def losses(logits: Any, index: Any) -> Any:
        picked = jax.numpy.take_along_axis(logits, index[:, None], -1)[:, 0]
        return nn.logsumexp(logits, -1) - picked

    gradient = jax.jit(jax.grad(lambda logits, index: losses(logits, index).sum()))
    return {
        "cross_entropy": lambda r: losses(r.logits, r.index),
        "cross_entropy, gradient": lambda r: gradient(r.logits, r.index),
        "logsumexp": lambda r: nn.logsumexp(r.logits, -1),
        "softmax": lambda r: nn.softmax(r.logits, -1),
        "log_softmax": lambda r: nn.log_softmax(r.logits, -1),
    }


# --- what is measured -------------------------------------------------------------------------


class Result(NamedTuple):
    """A function of xent, its arguments, and which of its results: value, grad or hess."""

    function: str
    arguments: Callable[[Rows], tuple[Any, ...]]
    options: dict[str, Any]
    part: str = "value"

    @property
    def name(self) -> str:
        return self.function + {"value": "", "grad": ", gradient", "hess": ", Hessian"}[self.part]

    def of_xent(self, rows: Rows) -> Array:
        """What xent gives."""
        options = dict(self.options)
        if self.part != "value":
            options[f"return_{self.part}"] = True
        found = getattr(xent, self.function)(*self.arguments(rows), **options)
        return found[{"grad": 1, "hess": 2}[self.part]] if self.part != "value" else found

    def exact(self, rows: Rows) -> tuple[Array, Array]:
        """What it should be, and its bound."""
        options = {name: value for name, value in self.options.items() if name != "axis"}
        expected = expect(self.function, *self.arguments(rows), **options)
        bound = np.asarray(getattr(expected, f"{self.part}_bound"), WIDE)
        return np.asarray(getattr(expected, self.part), WIDE), bound


def _index(r: Rows) -> tuple[Any, ...]:
    return r.logits, r.index


def _soft(r: Rows) -> tuple[Any, ...]:
    return r.logits, r.soft


def _alone(r: Rows) -> tuple[Any, ...]:
    return (r.logits,)


NONE, LAST = {"reduction": "none"}, {"axis": -1}
RESULTS = (
    *(Result("cross_entropy", _index, NONE, part) for part in ("value", "grad", "hess")),
    Result("logsumexp", _alone, LAST),
    Result("softmax", _alone, LAST),
    Result("log_softmax", _alone, LAST),
    *(Result("focal_loss", _index, NONE, part) for part in ("value", "grad", "hess")),
    *(Result("entropy", _alone, NONE, part) for part in ("value", "grad")),
    *(
        Result("binary_cross_entropy_with_logits", _soft, NONE, part)
        for part in ("value", "grad", "hess")
    ),
    *(Result("kl_div", _soft, NONE, part) for part in ("value", "grad")),
)


def excess(found: Any, exact: Array, bound: Array) -> Array:
    """Errors in units of their bounds; inf where one is finite and the other is not."""
    found = np.asarray(found)
    with np.errstate(all="ignore"):
        rounded = exact.astype(found.dtype)
        exact = np.where(np.isinf(rounded), rounded, exact)
        error = np.abs(found.astype(WIDE) - exact)
        same = (found == exact) | (np.isnan(found) & np.isnan(exact))
        ratio = np.where(same, 0, error / bound)
    return np.where(np.isnan(ratio), np.inf, ratio).astype(float)


class Tally:
    """The largest excess and how many numbers are outside."""

    def __init__(self) -> None:
        self.largest, self.outside, self.count = 0.0, 0, 0

    def add(self, ratio: Array) -> None:
        self.largest = max(self.largest, float(ratio.max(initial=0)))
        self.outside += int(np.count_nonzero(ratio > 1))
        self.count += ratio.size

    def __str__(self) -> str:
        largest = f"{self.largest:.2f}" if self.largest < 1000 else f"{self.largest:.1e}"
        share = self.outside / self.count
        return largest + (f" ({share:.1%})" if share >= 0.001 else " (<0.1%)" if share else "")


def main() -> int:
    """Measure, print, and compare with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="results whose name has one of these")
    parser.add_argument("--rows", type=int, default=100_000, help="of each dtype")
    options = parser.parse_args()
    calls = {"numpy": NUMPY, "scipy": SCIPY}
    calls |= {name: make() for name, make in (("torch", _torch), ("jax", _jax)) if find_spec(name)}
    chosen = [r for r in RESULTS if not options.words or any(w in r.name for w in options.words)]
    names = ["xent", *calls]
    print(f"| result | dtype | {' | '.join(names)} |")
    print("|---|---|" + "--:|" * len(names))
    failed = False
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        tallies = {(r.name, name): Tally() for r in chosen for name in names}
        for rows in batches(options.rows, dtype):
            for result in chosen:
                exact, bound = result.exact(rows)
                tallies[result.name, "xent"].add(excess(result.of_xent(rows), exact, bound))
                for name, library in calls.items():
                    if call := library.get(result.name):
                        with np.errstate(all="ignore"):
                            found = np.asarray(call(rows))
                        tallies[result.name, name].add(excess(found, exact, bound))
        for result in chosen:
            cells = [tallies[result.name, name] for name in names]
            failed |= cells[0].outside > 0
            text = " | ".join(str(tally) if tally.count else "" for tally in cells)
            print(f"| {result.name} | {dtype} | {text} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
