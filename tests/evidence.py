"""Measured errors of the results, in units of the guaranteed bounds.

    python tests/evidence.py                    100,000 rows for each result: minutes
    python tests/evidence.py --rows 2000        a sample
    python tests/evidence.py softmax entropy    results with one of the words

A table: for each result and dtype the largest error of xent in units of its bound (docs/accuracy.md;
up to 1 the guarantee holds), and the same for NumPy, SciPy, PyTorch and JAX as far as they are installed,
with the share of their numbers that the bound does not hold. "inf" is a number that should have
been finite, or the other way round. The exit status is 1 if xent is outside a bound.

The rows are those of inputs.py: random, confident, flat, ties and near ties, masked blocks, a shared
offset of 1e8, differences beyond the range of exp, subnormal numbers; in half types what is left of
them. The exact results are those of reference.py. Results in half types may be off by half a unit in
their last place besides.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import ml_dtypes
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
        return np.eye(self.logits.shape[-1], dtype=self.soft.dtype)[self.index]


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = (*(np.dtype(t) for t in (np.float32, np.float64, np.float16)), BFLOAT16)


def compute_type(dtype: np.dtype) -> np.dtype:
    """What half types are computed in."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def rounded(a: Array, dtype: np.dtype) -> Array:
    """Numbers of another dtype, large ones kept finite."""
    if dtype.itemsize == 2:
        a = np.where(np.isinf(a), a, np.clip(a, -6e4, 6e4))
    with np.errstate(under="ignore"):
        return a.astype(dtype)


def batches(rows: int, dtype: np.dtype) -> Iterator[Rows]:
    """So many rows, or a few more."""
    compute = compute_type(dtype)
    each = len(inputs.KINDS) * AT_ONCE
    for classes, share in CLASSES.items():
        for batch in range(math.ceil(rows * share / each)):
            seeds = range(batch * AT_ONCE, (batch + 1) * AT_ONCE)
            logits = [inputs.adversarial(classes, compute, seed) for seed in seeds]
            logits = rounded(np.concatenate(logits), dtype)
            targets = inputs.telling_targets(logits.astype(compute))
            index = np.take_along_axis(targets, (np.arange(each) % 4)[:, None], -1)[:, 0]
            soft = inputs.soft_targets(logits.shape, compute, batch)
            yield Rows(logits, index, rounded(soft, dtype).astype(compute))


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

    def of(a: Array) -> Any:
        if a.dtype == BFLOAT16:
            return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(a)

    def back(a: Any) -> Array:
        if a.dtype == torch.bfloat16:
            return np.asarray(a.view(torch.int16)).view(BFLOAT16)
        return np.asarray(a)

    def gradient(r: Rows) -> Any:
        logits = of(r.logits).requires_grad_()
        f.cross_entropy(logits, of(r.index), reduction="sum").backward()
        return logits.grad

    calls: dict[str, Call] = {
        "cross_entropy": lambda r: f.cross_entropy(of(r.logits), of(r.index), reduction="none"),
        "cross_entropy, gradient": gradient,
        "logsumexp": lambda r: torch.logsumexp(of(r.logits), -1),
        "softmax": lambda r: torch.softmax(of(r.logits), -1),
        "log_softmax": lambda r: torch.log_softmax(of(r.logits), -1),
        "entropy": lambda r: torch.distributions.Categorical(
            logits=of(r.logits), validate_args=False
        ).entropy(),
        "binary_cross_entropy_with_logits": lambda r: f.binary_cross_entropy_with_logits(
            of(r.logits), of(r.soft.astype(r.logits.dtype)), reduction="none"
        ),
        "kl_div": lambda r: f.kl_div(
            of(r.logits), of(r.soft.astype(r.logits.dtype)), reduction="none"
        ),
    }
    return {name: lambda r, call=call: back(call(r)) for name, call in calls.items()}


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


PARTS = {
    "value": "",
    "grad": ", gradient",
    "grad at the target": ", gradient at the target",
    "hess": ", Hessian",
}


class Result(NamedTuple):
    """A function of xent, its arguments, and which of its results: one of `PARTS`."""

    function: str
    arguments: Callable[[Rows], tuple[Any, ...]]
    options: dict[str, Any]
    part: str = "value"

    @property
    def name(self) -> str:
        return self.function + PARTS[self.part]

    def picked(self, found: Array, rows: Rows) -> Array:
        """All of what was found, or what is at the target."""
        return at(found, rows.index) if self.part == "grad at the target" else found

    def of_xent(self, rows: Rows) -> Array:
        """What xent gives."""
        which = self.part.split()[0]
        asked = {} if which == "value" else {f"return_{which}": True}
        found = getattr(xent, self.function)(*self.arguments(rows), **self.options, **asked)
        return self.picked(found[-1], rows) if asked else found

    def exact(self, rows: Rows) -> tuple[Array, Array]:
        """What it should be, and its bound."""
        options = {name: value for name, value in self.options.items() if name != "axis"}
        rows = rows._replace(logits=rows.logits.astype(compute_type(rows.logits.dtype)))
        expected = expect(self.function, *self.arguments(rows), **options)
        which = self.part.split()[0]
        exact = np.asarray(getattr(expected, which), WIDE)
        bound = np.broadcast_to(np.asarray(getattr(expected, f"{which}_bound"), WIDE), exact.shape)
        return self.picked(exact, rows), self.picked(bound, rows)


def _index(r: Rows) -> tuple[Any, ...]:
    return r.logits, r.index


def _soft(r: Rows) -> tuple[Any, ...]:
    return r.logits, r.soft


def _one_hot(r: Rows) -> tuple[Any, ...]:
    return r.logits, r.one_hot()


def _probabilities(r: Rows) -> tuple[Any, ...]:
    return r.soft, r.one_hot()


def _teacher(r: Rows) -> tuple[Any, ...]:
    return r.logits, np.roll(r.logits, 1, axis=-1)


def _alone(r: Rows) -> tuple[Any, ...]:
    return (r.logits,)


def _results(
    function: str, arguments: Callable[[Rows], tuple[Any, ...]], *parts: str
) -> Iterator[Result]:
    """The row losses and, if named, other parts."""
    return (Result(function, arguments, {"reduction": "none"}, p) for p in ("value", *parts))


RESULTS = (
    *_results("cross_entropy", _index, "grad at the target", "grad", "hess"),
    *(Result(name, _alone, {"axis": -1}) for name in ("logsumexp", "softmax", "log_softmax")),
    *_results("focal_loss", _index, "grad", "hess"),
    *_results("poly1_loss", _index, "grad"),
    *_results("nll_loss", _index),
    *_results("distillation_loss", _teacher, "grad"),
    *_results("entropy", _alone, "grad"),
    *_results("binary_cross_entropy", _probabilities, "grad"),
    *_results("binary_cross_entropy_with_logits", _soft, "grad", "hess"),
    *_results("sigmoid_focal_loss", _one_hot, "grad", "hess"),
    *_results("asymmetric_loss", _one_hot, "grad"),
    *_results("kl_div", _soft, "grad"),
)


def half_ulp(a: Array, dtype: np.dtype) -> Array:
    """Half the distance between numbers of a dtype of such size."""
    info = ml_dtypes.finfo(dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(a), WIDE(info.smallest_normal))))
    return np.exp2(exponent) * WIDE(info.eps) / 2


def excess(found: Any, exact: Array, bound: Array) -> Array:
    """Errors in units of their bounds; inf where one is finite and the other is not."""
    found = np.asarray(found)
    with np.errstate(all="ignore"):
        if found.dtype.itemsize == 2:
            bound = bound + half_ulp(np.abs(exact) + bound, found.dtype)
        stored = exact.astype(found.dtype).astype(WIDE)
        exact = np.where(np.isinf(stored), stored, exact)
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
    for dtype in DTYPES:
        tallies = {(r.name, name): Tally() for r in chosen for name in names}
        for rows in batches(options.rows, dtype):
            for result in chosen:
                exact, bound = result.exact(rows)
                tallies[result.name, "xent"].add(excess(result.of_xent(rows), exact, bound))
                for name, library in calls.items():
                    if call := library.get(result.name.removesuffix(" at the target")):
                        with np.errstate(all="ignore"):
                            found = result.picked(np.asarray(call(rows)), rows)
                        tallies[result.name, name].add(excess(found, exact, bound))
        for result in chosen:
            cells = [tallies[result.name, name] for name in names]
            failed |= cells[0].outside > 0
            text = " | ".join(str(tally) if tally.count else "" for tally in cells)
            print(f"| {result.name} | {dtype} | {text} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
