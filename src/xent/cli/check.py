"""``python -m xent check``: a self-test of this build on this machine."""

import argparse
import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import xent
from xent import _core
from xent.cli import bits, exact
from xent.cli.bits import Array, Inputs, digest
from xent.cli.info import machine, table

FILE = Path(__file__).with_name("check.json")
SHOWN = 5  # failures of one check; the file holds all of them
CHILD_SECONDS = 10.0

_DESCRIPTION = """\
Run the kernels of every instruction set of this machine, in a few seconds: their bits against
those checked in, with any number of threads and in any memory layout; their accuracy against
decimal arithmetic; infinities, NaN and bad targets; a child process after threads have run; the
floating-point state. Print a report to paste into an issue. The exit status is 0 if all is well,
1 if not.
"""

# A check takes a function to call with every failure, and returns a summary of what it compared.
Fail = Callable[[str], None]
Check = Callable[[Fail], str]


def add_parser(commands: Any) -> None:
    """Add ``check`` to the commands of the parser."""
    parser = commands.add_parser(
        "check",
        help="test the kernels on this machine, for a bug report",
        description=_DESCRIPTION,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write the report as JSON")


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}")
    return path


def recorded() -> dict[str, str]:
    """Return the digests that were checked in."""
    content: dict[str, str] = json.loads(FILE.read_text())
    return content


def _differences(
    found: dict[str, str], expected: dict[str, str], shapes: Sequence[bits.Shape]
) -> Iterator[str]:
    """Yield every digest that is not as expected."""
    for name in {**expected, **found}:
        ours, theirs = (digests.get(name, "").split() for digests in (found, expected))
        for shape, one, other in zip(shapes, ours, theirs, strict=False):
            if one != other:
                yield f"{name}, {shape}: digest {one}, expected {other}"
        if len(ours) != len(theirs):
            yield f"{name}: {len(ours)} digests, expected {len(theirs)}"


def check_bits(fail: Fail) -> str:
    """Compare the results of every function with the digests that were checked in."""
    for difference in _differences(bits.digests(), recorded(), bits.SHAPES):
        fail(difference)
    return f"{len(bits.CALLS)} calls, {len(bits.SHAPES)} shapes"


def _columns(a: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1)


def _padded(a: Array) -> Array:
    return np.concatenate([a, np.full_like(a[..., :3], np.nan)], axis=-1)[..., : a.shape[-1]]


def _strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def check_layouts(fail: Fail) -> str:
    """Compare with arrays of other layouts and alignments, which must not change a bit."""
    layouts = {"class axis first": _columns, "padded rows": _padded, "no axis contiguous": _strided}
    shapes = bits.SHAPES[1:-1:2]
    expected = bits.digests(shapes)
    for name, lay in layouts.items():
        for difference in _differences(bits.digests(shapes, lay), expected, shapes):
            fail(f"{name}: {difference}")
    return ", ".join(layouts)


# Work enough for several threads: so many rows that their sums are shared too, and long rows.
PARALLEL_INPUTS: tuple[tuple[bits.Shape, Any], ...] = (
    ((33_000, 5), np.float32),
    ((130, 1100), np.float64),
)
PARALLEL_CALLS = (
    "cross_entropy, index, everything",
    "cross_entropy, soft, plain",
    "distillation_loss, T=2.5, none",
    "softmax",
    "binary_cross_entropy_with_logits",
)


@cache
def _parallel_inputs() -> list[Inputs]:
    return [Inputs(shape, dtype) for shape, dtype in PARALLEL_INPUTS]


def check_threads(fail: Fail) -> str:
    """Compare the results of several threads with those of one."""
    counts = sorted({2, 3, xent.get_num_threads()} - {1})
    for name in PARALLEL_CALLS:
        for given in _parallel_inputs():
            with xent.num_threads(1):
                expected = digest(bits.CALLS[name](given))
            for n in counts:
                with xent.num_threads(n):
                    found = digest(bits.CALLS[name](given))
                if found != expected:
                    what = f"{name}, {np.dtype(given.dtype).name}, {given.shape}"
                    fail(f"{what}: {n} threads give digest {found}, one gives {expected}")
    return f"1, {', '.join(map(str, counts))} threads"


def _row_results(logits: Array, targets: Array, soft: Array) -> tuple[Any, ...]:
    """Return the results that each row alone should give too."""
    each: dict[str, Any] = {"reduction": "none", "return_grad": True}
    return (
        *xent.cross_entropy(logits, targets, return_lse=True, **each),
        *xent.cross_entropy(logits, soft, softcap=9.0, **each),
        *xent.entropy(logits, **each),
        xent.log_softmax(logits, axis=-1),
    )


def check_batches(fail: Fail) -> str:
    """Compare rows with the same rows alone."""
    for dtype in bits.DTYPES:
        for classes in (3, 64, 65, 1100):
            given = Inputs((37, classes), dtype)
            arrays = given.logits, given.targets, given.soft_targets
            whole = _row_results(*arrays)
            for begin, end in ((0, 1), (20, 21), (5, 37), (36, 37)):
                alone = _row_results(*(a[begin:end] for a in arrays))
                found, expected = digest(alone), digest(tuple(a[begin:end] for a in whole))
                if found != expected:
                    what = f"{np.dtype(dtype).name}, {classes} classes, rows {begin}:{end}"
                    fail(f"{what}: digest {found} alone, {expected} in the batch")
    return "37 rows and parts of them"


@cache
def _exact(classes: int, dtype: Any) -> tuple[tuple[Array, int, exact.ExactRow], ...]:
    return tuple(
        (row, target, exact.exact_row(row, target))
        for row in exact.rows(classes, dtype)
        for target in exact.targets(row)
    )


def _hold(what: str, found: Any, wanted: list[exact.Bounded], fail: Fail) -> float:
    """Return the largest error as a share of its bound."""
    shares = [bounded.share(x) for x, bounded in zip(found, wanted, strict=True)]
    k = int(np.argmax(shares))
    if shares[k] > 1:
        value, bound = wanted[k]
        fail(f"{what}, element {k}: {found[k]}, expected {value:.20g} within {bound:.2g}")
    return shares[k]


def check_accuracy(fail: Fail) -> str:
    """Compare the errors of loss, log-sum-exp, gradient and softmax with the bounds of docs/accuracy.md."""
    shares = []
    for dtype in bits.DTYPES:
        for classes in exact.CLASSES:
            cases = _exact(classes, dtype)
            logits = np.stack([row for row, _, _ in cases])
            targets = np.array([target for _, target, _ in cases])
            of = f"{np.dtype(dtype).name}, {classes} classes"
            loss, grad, lse = xent.cross_entropy(
                logits, targets, reduction="none", return_grad=True, return_lse=True
            )
            p = xent.softmax(logits, axis=-1)
            for i, (_, target, wanted) in enumerate(cases):
                row = f"{of}, row {exact.KINDS[i // 2]!r}, target {target}"
                shares += [
                    _hold(f"loss, {row}", loss[i : i + 1], [wanted.loss], fail),
                    _hold(f"log-sum-exp, {row}", lse[i : i + 1], [wanted.lse], fail),
                    _hold(f"gradient, {row}", grad[i], wanted.grad, fail),
                    _hold(f"softmax, {row}", p[i], wanted.probabilities, fail),
                ]
            total = xent.cross_entropy(logits, targets, reduction="sum")
            mean = xent.cross_entropy(logits, targets, reduction="mean")
            for name, found, divisor in (("sum", total, 1), ("mean", mean, len(loss))):
                wanted_total = [exact.exact_sum(loss, divisor)]
                shares.append(_hold(f"{name}, {of}", [found], wanted_total, fail))
    return f"errors up to {max(shares):.2f} of their bounds"


def _to_bfloat16(a: Array) -> Array:
    """Round to nearest, ties to even; NaN stays NaN."""
    wide = a.view(np.uint32)
    rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
    return np.where(np.isnan(a), 0x7FC0, rounded).astype(np.uint16)


# How to round float32 to a type, how to widen it, and the arguments that calls need for it.
HALVES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], dict[str, Any]]] = {
    "float16": (lambda a: a.astype(np.float16), lambda a: a.astype(np.float32), {}),
    "bfloat16": (
        _to_bfloat16,
        lambda a: (a.astype(np.uint32) << 16).view(np.float32),
        {"dtype": "bfloat16"},
    ),
}


@np.errstate(all="ignore")
def check_halves(fail: Fail) -> str:
    """Compare 16-bit types with float32: the same numbers, gradients rounded once."""
    each: dict[str, Any] = {"reduction": "none", "return_grad": True}
    for shape in bits.SHAPES:
        given = Inputs(shape, np.float32)
        for name, (narrow, wide, told) in HALVES.items():
            logits = narrow(given.logits)
            both: tuple[Array, Array] = given.targets, given.soft_targets
            for targets in both:
                loss, grad = xent.cross_entropy(logits, targets, **each, **told)
                expected = xent.cross_entropy(wide(logits), targets, **each)
                pairs = {
                    "loss": (loss, expected[0]),
                    "gradient": (wide(grad), wide(narrow(expected[1]))),
                }
                for result, (one, other) in pairs.items():
                    if digest(one) != digest(other):
                        what = f"{name}, {shape}, targets of {targets.dtype}"
                        fail(f"{what}: {result} {_difference(one, other)}, by way of float32")
    return "float16, bfloat16"


def _difference(found: Any, expected: Any) -> str:
    """Name the first element that differs, and how often that happens."""
    found, expected = np.atleast_1d(found), np.atleast_1d(expected)
    unequal = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    if not unequal.any():
        return "has the other sign of 0"
    at = tuple(int(i) for i in np.argwhere(unequal)[0])
    return f"{list(at)} is {found[at]!r}, expected {expected[at]!r}; {unequal.sum()} differ"


INF, NAN = np.inf, np.nan
LN2 = 0.6931471805599453
# Edge cases: logits, target, loss, gradient.
EDGES: dict[str, tuple[list[float], Any, float, list[float]]] = {
    "a masked class": ([0, 0, -INF], 1, LN2, [0.5, -0.5, 0]),
    "a masked target": ([0, 0, -INF], 2, INF, [0.5, 0.5, -1]),
    "nothing but masked classes": ([-INF, -INF], 0, NAN, [NAN, NAN]),
    "+inf": ([INF, 0], 1, NAN, [NAN, NAN]),
    "NaN": ([NAN, 0], 1, NAN, [NAN, NAN]),
    "an ignored row of NaN": ([NAN, 0], -100, 0, [0, 0]),
    "0 times -inf": ([0, 0, -INF], [0.5, 0.5, 0], LN2, [0, 0, 0]),
    "targets that sum to 2": ([0, 0], [1, 1], 2 * LN2, [0, 0]),
}


def _same(found: Any, expected: Any, dtype: Any) -> bool:
    return np.allclose(found, expected, rtol=4 * np.finfo(dtype).eps, atol=0, equal_nan=True)


def _targets_out_of_range(dtype: Any, fail: Fail) -> None:
    for bad in (np.int64(-1), np.int64(5), np.int64(-(2**63)), np.uint64(2**63), np.uint8(255)):
        what = f"target {bad} of {bad.dtype}, {np.dtype(dtype).name}"
        targets = np.zeros(300, bad.dtype)
        targets[200] = bad
        buffers: dict[str, Any] = {
            "out": np.full(300, 7, dtype),
            "grad_out": np.full((300, 5), 7, dtype),
        }
        try:
            xent.cross_entropy(
                np.zeros((300, 5), dtype), targets, reduction="none", return_grad=True, **buffers
            )
        except IndexError as error:
            if f"targets[200] = {bad} " not in str(error):
                fail(f"{what}: the IndexError says {error}")
        else:
            fail(f"{what}: no IndexError")
        for name, buffer in buffers.items():
            if (buffer != 7).any():
                fail(f"{what}: {name} has been written to")


def check_edges(fail: Fail) -> str:
    """Check infinities, NaN, rows that do not count and targets out of range."""
    for dtype in bits.DTYPES:
        of = np.dtype(dtype).name
        for name, (row, target, loss, grad) in EDGES.items():
            for width in (len(row), 20, 70, 1100):
                pad = (0, width - len(row))
                logits = np.pad(np.array(row, dtype), pad, constant_values=-INF)
                aim = np.pad(target, pad) if isinstance(target, list) else target
                found = xent.cross_entropy(logits, aim, reduction="none", return_grad=True)
                rest = NAN if np.isnan(loss) else 0.0
                expected = loss, np.pad(np.array(grad, float), pad, constant_values=rest)
                for result, one, other in zip(("loss", "gradient"), found, expected, strict=True):
                    if not _same(one, other, dtype):
                        difference = _difference(one, other)
                        fail(f"{name}, {of}, {width} classes: {result} {difference}")
        lse = xent.logsumexp(np.array([[-INF, -INF], [INF, 0], [NAN, 0]], dtype), axis=-1)
        if not _same(lse, [-INF, INF, NAN], dtype):
            fail(f"logsumexp, {of}: {lse.tolist()}, expected [-inf, inf, nan]")
        nothing = xent.cross_entropy(np.ones((2, 3), dtype), [-100, -100], return_grad=True)
        if not np.isnan(nothing[0]) or nothing[1].any():
            fail(f"the mean of nothing, {of}: {nothing}, expected nan and zeros")
        _targets_out_of_range(dtype, fail)
    return f"{len(EDGES)} kinds of row, targets out of range"


def check_fork(fail: Fail) -> str:
    """Compute in a child process after threads have run in this one."""
    if not hasattr(os, "fork"):
        return "skipped: this system has no fork"
    given = _parallel_inputs()[0]

    def compute() -> str:
        with xent.num_threads(max(2, xent.get_num_threads())):
            return digest(xent.cross_entropy(given.logits, given.targets, return_grad=True))

    expected = compute()
    with warnings.catch_warnings():
        # Python warns of any fork beside threads; this check tests that it works.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 2
        try:
            status = int(compute() != expected)
        finally:
            os._exit(status)
    end = time.monotonic() + CHILD_SECONDS
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            fail(f"the child has not answered within {CHILD_SECONDS:g} s")
            return ""
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(ended[1])
    if code:
        reason = "other bits" if code == 1 else f"exit status {code}"
        fail(f"the child ends with {reason}")
    return "a child computes the same"


def _floating_point() -> tuple[str, ...]:
    """Return results that show how numbers are rounded, and whether subnormal ones are kept."""
    one, three, ten, least = (float(x) for x in ("1", "3", "10", "5e-324"))
    quotients = one / three, -one / three, one / ten, -one / ten
    return tuple(x.hex() for x in (*quotients, least * 2.0**60, 2.0**-1022 / (one + three)))


def check_floating_point(fail: Fail) -> str:
    """Check that a call does not change the rounding mode or the handling of subnormal numbers."""
    before = _floating_point()
    for given in _parallel_inputs():
        for name in PARALLEL_CALLS:
            bits.CALLS[name](given)
            after = _floating_point()
            if after != before:
                fail(f"{name}, {given.shape}: arithmetic gives {after}, before the call {before}")
    return "rounding, subnormal numbers"


CHECKS: dict[str, Check] = {
    "bits": check_bits,
    "threads": check_threads,
    "layouts": check_layouts,
    "batches": check_batches,
    "accuracy": check_accuracy,
    "half types": check_halves,
    "edges": check_edges,
    "fork": check_fork,
    "arithmetic": check_floating_point,
}


class Outcome(NamedTuple):
    """The outcome of one check on one instruction set."""

    isa: str
    check: str
    seconds: float
    summary: str
    failures: list[str]


def outcome(isa: str, name: str) -> Outcome:
    """Run one check; an exception counts as a failure."""
    failures: list[str] = []
    summary, began = "", time.perf_counter()
    previous = _core.use_isa(isa)
    try:
        summary = CHECKS[name](failures.append)
    except Exception:
        failures.append(traceback.format_exc().strip())
    finally:
        _core.use_isa(previous)
    return Outcome(isa, name, time.perf_counter() - began, summary, failures)


def outcomes() -> Iterator[Outcome]:
    """Run everything and print a line for each check, indented so that Markdown keeps them."""
    for isa in _core.isas():
        for name in CHECKS:
            # The name is printed first, so that a crash is seen to be in this check.
            print(f"    {isa:7} {name:11} ", end="", flush=True)
            found = outcome(isa, name)
            verdict = "FAILED" if found.failures else "ok    "
            print(f"{verdict} {found.seconds:6.2f} s  {found.summary}", flush=True)
            for failure in found.failures[:SHOWN]:
                print("\n".join(f"        {line}" for line in failure.splitlines()))
            if len(found.failures) > SHOWN:
                print(f"        and {len(found.failures) - SHOWN} more")
            yield found


def run(options: argparse.Namespace) -> int:
    """Print the machine, the checks and their outcomes."""
    began = time.perf_counter()
    print(f"{table(machine())}\n", flush=True)
    found = list(outcomes())
    failed = [one for one in found if one.failures]
    if options.json:
        checks = [one._asdict() | {"ok": not one.failures} for one in found]
        report = {"ok": not failed, "machine": machine(), "checks": checks}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    seconds = time.perf_counter() - began
    if failed:
        print(
            f"\n{len(failed)} of {len(found)} checks FAILED, in {seconds:.1f} s. Please report all of this."
        )
    else:
        print(f"\nAll {len(found)} checks passed in {seconds:.1f} s.")
    return int(bool(failed))
