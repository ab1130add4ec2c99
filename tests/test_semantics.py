"""Edge cases: the lines of the tables in docs/semantics.md, for every function that they apply to.

A line is one row of logits: its numbers, its target and the expected results. It is computed among ordinary rows, whose
results it must not change, and with so many other classes that it is a narrow row, a wide one, or one of several blocks or
chunks; in every layout, dtype and instruction set.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import xent
from calls import ELEMENTWISE, FAMILY, REDUCTIONS, assert_same
from test_layout import LAYOUTS
from xent.cli.bits import result_bytes

INF, NAN = np.inf, np.nan
MASK = -INF  # of a class that is not to be chosen
LN2, LN3 = np.log(2.0), np.log(3.0)

STORED = tuple(np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
LAID = ("strided rows", "class axis first", "fully strided")
# How many classes, whether the line comes first or last of them, how they lie: narrow and wide
# rows, two blocks, two chunks.
PLACES = (
    (0, "first", LAID),
    (17, "first", LAID),
    (65, "last", LAID),
    (1025, "first", ()),
    (1025, "last", LAID[1:2]),
    (16385, "first", ()),
    (16385, "last", ()),
)

CE, FOCAL, POLY = "cross_entropy", "focal_loss", "poly1_loss"
NLL, PROBS = "nll_loss", "categorical_cross_entropy"
ENTROPY, DISTIL = "entropy", "distillation_loss"
BINARY, LOGITS, SIGMOID, _, KL = ELEMENTWISE
INDEXED, SOFT = (CE, FOCAL, POLY, NLL, PROBS), (CE, NLL, PROBS)
SCORES = ("token_log_probs", "perplexity")
GIVEN = (NLL, PROBS)  # no softmax is taken: other classes are never noticed


HALF = [0.5, 0.5]
F1, F2 = 0.125 * (1 + 2 * LN2), 0.0625 * (1 + 2 * LN2) + 0.25  # derivatives of focal at p = 1/2
Z = 2 * 0.5 * LN2  # what a z-loss of 1/2 pulls on two equal classes, times their probability
WARM = {"temperature": 0.5}
CAPPED = WARM | {"softcap": 5.0}
SMOOTH = {"label_smoothing": 0.1}
WEIGHED = {"z_loss": 0.5, "class_weight": [7, 3], "sample_weight": 2.0}


class Line(NamedTuple):
    """One row of logits and the expected results of one function.

    `second` is its target: a class, a share of each class, or the teacher's logits. `gives` are
    loss, gradient and Hessian, as far as the line is about them, or the softmax.
    """

    function: str
    row: list[float]
    second: Any
    gives: tuple[float | list[float], ...]
    options: dict[str, Any]


def line(function: str, row: list[float], second: Any, *gives: Any) -> Line:
    """Return a line; its options, if any, come last."""
    options = gives[-1] if isinstance(gives[-1], dict) else {}
    numbers = tuple(number for number in gives if not isinstance(number, dict))
    return Line(function, row, second, numbers, options)


def _spoilt(*row: float) -> Iterator[Line]:
    """A row of which every loss and every derivative is NaN."""
    n, x, other, nan = len(row), list(row), [0.0] * len(row), [NAN] * len(row)
    yield from (line(CE, x, target, NAN, nan, nan) for target in range(n))
    yield line(CE, x, n - 1, NAN, nan, nan, SMOOTH | {"z_loss": 0.1})
    weightless = {"class_weight": [1.0] * (n - 1) + [0.0]}
    yield from (line(kind, x, n - 1, NAN, nan, nan, weightless) for kind in (CE, FOCAL))
    yield line(POLY, x, n - 1, NAN, nan, weightless)
    yield line(CE, x, [1 / n] * n, NAN, nan, nan)
    yield line(CE, x, [1 / n] * n, NAN, nan, nan, CAPPED)
    yield from (line(FOCAL, x, n - 1, NAN, nan, nan, {"gamma": gamma}) for gamma in (0.5, 2.0))
    yield line(POLY, x, n - 1, NAN, nan)
    yield line(ENTROPY, x, None, NAN, nan)
    yield from (line(DISTIL, *rows, NAN, nan) for rows in ((x, other), (other, x), (x, x)))
    yield from (line(name, x, n - 1, NAN) for name in SCORES)


def _counts_for_nothing(target: int, **options: Any) -> Iterator[Line]:
    """A row whose loss and derivatives are 0, whatever is in it."""
    zeros = [0.0, 0.0]
    for x in ([NAN, 0.0], [MASK, MASK]):
        yield from (line(name, x, target, 0, zeros, zeros, options) for name in (CE, FOCAL))
        yield from (line(name, x, target, 0, zeros, options) for name in (POLY, NLL))
        yield line(CE, x, target, 0, zeros, zeros, options | CAPPED | SMOOTH | {"z_loss": 0.1})
        if "sample_weight" not in options:
            yield line("token_log_probs", x, target, 0, options)
            continue
        yield line(CE, x, HALF, 0, zeros, zeros, options)
        yield line(NLL, x, HALF, 0, zeros, options)
        yield line(ENTROPY, x, None, 0, zeros, options)
        yield from (line(DISTIL, *rows, 0, zeros, options) for rows in ((x, HALF), (HALF, x)))
    yield line(PROBS, [NAN, 0], target, 0, zeros, options)


# fmt: off
LINES: dict[str, tuple[Line, ...]] = {
    # ------------ logits --------- target --------- loss --- gradient ----------- Hessian -----------
    "a masked class is as if it were not there": (
        line(CE,      [0, 0, MASK],    1,             LN2,     [0.5, -0.5, 0],      [0.25, 0.25, 0]),
        line(CE,      [MASK, 0, 0],    2,             LN2,     [0, 0.5, -0.5],      [0, 0.25, 0.25]),
        line(CE,      [3, MASK, MASK], 0,             0,       [0, 0, 0],           [0, 0, 0]),
        line(CE,      [0, 0, MASK],    [0.5, 0.5, 0], LN2,     [0, 0, 0],           [0.25, 0.25, 0]),
        line(CE,      [0, 0, MASK],    1,             LN2,     [1, -1, 0],          [1, 1, 0],           CAPPED),
        line(CE,      [0, 0, MASK],    1,             LN2,     [1, -1, 0],          [1, 1, 0],           WARM),
        line(CE,      [0, 0, MASK],    1,             LN2,     [0.5, -0.5, 0],      [0.25, 0.25, 0],     {"softcap": 5.0}),
        line(FOCAL,   [0, 0, MASK],    1,             LN2 / 4, [F1, -F1, 0],        [F2, F2, 0]),
        line(FOCAL,   [3, MASK, MASK], 0,             0,       [0, 0, 0],           [0, 0, 0]),
        line(FOCAL,   [0, 0, MASK],    1,             LN2 / 4, [2*F1, -2*F1, 0],    [4*F2, 4*F2, 0],     CAPPED),
        line(POLY,    [0, 0, MASK],    1,             LN2 + 1, [1, -1, 0]),
        line(POLY,    [3, MASK, MASK], 0,             0,       [0, 0, 0]),
        line(ENTROPY, [0, MASK, 0],    None,          LN2,     [0, 0, 0]),
        line(ENTROPY, [MASK, 3, MASK], None,          0,       [0, 0, 0]),
        line(ENTROPY, [0, MASK, 0],    None,          LN2,     [0, 0, 0],           CAPPED),
        line(DISTIL,  [0, 0, 0],       [0, 0, MASK],  LN3-LN2, [-1/6, -1/6, 1/3]),
        line(DISTIL,  [0, MASK, 0],    [0, MASK, 0],  0,       [0, 0, 0]),
        line("token_log_probs", [0, 0, MASK], 1,      -LN2),
        line("perplexity",      [0, 0, MASK], 1,      2),
        line("logsumexp",       [0, 0, MASK], None,   LN2),
        line("softmax",         [0, 0, MASK], None,            [0.5, 0.5, 0]),
        line("log_softmax",     [0, 0, MASK], None,            [-LN2, -LN2, -INF]),
    ),
    "a masked target makes the loss +inf, the gradient -1 there and the softmax elsewhere": (
        line(CE,      [0, MASK],       1,             INF,     [1, -1],             [0, 0]),
        line(CE,      [1, 1, MASK],    2,             INF,     [0.5, 0.5, -1],      [0.25, 0.25, 0]),
        line(CE,      [0, MASK],       [0.5, 0.5],    INF,     [0.5, -0.5],         [0, 0]),
        line(CE,      [0, MASK],       1,             INF,     CAPPED),
        line(CE,      [0, MASK],       [0, 1],        INF,     CAPPED),
        line(FOCAL,   [0, MASK],       1,             INF,     [1, -1],             [0, 0]),
        line(FOCAL,   [0, MASK],       1,             INF,     CAPPED),
        line(POLY,    [0, MASK],       1,             INF,     [1, -1]),
        line(DISTIL,  [0, MASK],       [0, 0],        INF,     [0.5, -0.5]),
        line(DISTIL,  [0, MASK, 0],    [0, 0, 0],     INF,     [1/6, -1/3, 1/6]),
        line(DISTIL,  [0, MASK],       [MASK, 0],     INF,     [1, -1]),
        line("token_log_probs", [0, MASK], 1,         -INF),
        line("perplexity",      [0, MASK], 1,         INF),
    ),
    "label smoothing makes the loss of a row with a masked class +inf": (
        line(CE,      [0, 0, MASK],    0,             INF,     SMOOTH),
        line(CE,      [0, 0, MASK],    [1, 0, 0],     INF,     SMOOTH),
        line(CE,      [0, 0, MASK],    0,             INF,     SMOOTH | CAPPED),
        line(CE,      [0, 0, MASK],    [1, 0, 0],     INF,     SMOOTH | CAPPED),
        line(NLL,     [-1, MASK],      0,             INF,     SMOOTH),
        line(PROBS,   [1, 0],          [1, 0],        INF,     SMOOTH),
    ),
    "a row whose classes are all masked has loss NaN": (
        *_spoilt(MASK, MASK),
        line("logsumexp",       [MASK, MASK], None,   -INF),
        line("softmax",         [MASK, MASK], None,            [NAN, NAN]),
        line("log_softmax",     [MASK, MASK], None,            [NAN, NAN]),
    ),
    "+inf makes its row NaN": (
        *_spoilt(INF, 0), *_spoilt(INF, INF), *_spoilt(0, INF, MASK),
        line(DISTIL,  [0, INF],        [0, MASK],     NAN,     [NAN, NAN]),
        line("logsumexp",       [INF, 0],     None,   INF),
        line("logsumexp",       [INF, MASK],  None,   INF),
        line("softmax",         [INF, 0],     None,            [NAN, NAN]),
        line("log_softmax",     [INF, 0],     None,            [NAN, -INF]),
    ),
    "NaN makes its row NaN": (
        *_spoilt(NAN, 0), *_spoilt(MASK, NAN), *_spoilt(INF, NAN, 0),
        line(DISTIL,  [0, NAN],        [0, MASK],     NAN,     [NAN, NAN]),
        line(DISTIL,  [0, MASK],       [0, NAN],      NAN,     [NAN, NAN]),
        line(CE,      [0, 0],          [NAN, 1],      NAN,     [NAN, NAN],          [NAN, NAN]),
        *(line("logsumexp",   row, None, NAN)        for row in ([NAN, 0], [INF, NAN], [NAN, MASK])),
        *(line("softmax",     row, None, [NAN, NAN]) for row in ([NAN, 0], [INF, NAN], [NAN, MASK])),
        *(line("log_softmax", row, None, [NAN, NAN]) for row in ([NAN, 0], [INF, NAN], [NAN, MASK])),
    ),
    "class probabilities need not sum to 1": (
        line(CE,      [0, 0],          [1, 1],        2 * LN2, [0, 0],              [0.5, 0.5]),
        line(CE,      [1, 2],          [0, 0],        0,       [0, 0],              [0, 0]),
        line(NLL,     [-1, -2],        [1, 1],        3,       [-1, -1]),
        line(PROBS,   [0.5, 0.5],      [1, 1],        2 * LN2, [-2, -2]),
        line(PROBS,   [0, 0.5],        [0, 0],        0,       [0, 0]),
        line(PROBS,   [0.25, 1],       0,             2 * LN2, [-4, 0]),
    ),
    "large logits lose no digit of their difference": (
        line(CE,      [8192, -8192],   0,             0,       [0, 0],              [0, 0]),
        line(CE,      [8192, -8192],   1,             16384,   [1, -1],             [0, 0]),
        line(ENTROPY, [8192, -8192],   None,          0,       [0, 0]),
        line(DISTIL,  [0, 8192],       [8192, 0],     8192,    [-1, 1]),
        line("logsumexp",       [8192, 8192], None,   8192 + LN2),
    ),
    "zeros of either sign are equal": (
        line(CE,      [-0.0, 0.0],     1,             LN2,     [0.5, -0.5],         [0.25, 0.25]),
        line(ENTROPY, [-0.0, 0.0],     None,          LN2,     [0, 0]),
        line(PROBS,   [-0.0, 1],       0,             INF,     [-INF, 0]),
    ),
    "log-probabilities are not normalised": (
        line(NLL,     [3, -1],         0,             -3,      [-1, 0]),
        line(NLL,     [MASK, 0],       0,             INF,     [-1, 0]),
        line(NLL,     [MASK, -1],      1,             1,       [0, -1]),
        line(NLL,     [MASK, -1],      [0, 1],        1,       [0, -1]),
        line(NLL,     [MASK, -1],      HALF,          INF,     [-0.5, -0.5]),
        line(NLL,     [INF, 0],        0,             -INF,    [-1, 0]),
        line(NLL,     [MASK, INF],     HALF,          NAN,     [-0.5, -0.5]),
        line(NLL,     [NAN, 0],        0,             NAN,     [-1, 0]),
        line(NLL,     [NAN, -1],       1,             1,       [0, -1]),
        line(NLL,     [NAN, 0],        HALF,          NAN,     [-0.5, -0.5]),
    ),
    "a probability of 0 is masked": (
        line(PROBS,   [0.5, 0.5],      0,             LN2,     [-2, 0]),
        line(PROBS,   [1, 0],          0,             0,       [-1, 0]),
        line(PROBS,   [0, 1],          0,             INF,     [-INF, 0]),
        line(PROBS,   [0.5, 0, 0.5],   [0.5, 0, 0.5], LN2,     [-1, 0, -1]),
        line(PROBS,   [1, 0],          HALF,          INF,     [-0.5, -INF]),
        line(PROBS,   [NAN, 0.5],      0,             NAN,     [NAN, 0]),
        line(PROBS,   [NAN, 0.5],      HALF,          NAN,     [NAN, -1]),
        line(PROBS,   [0.5, 0.5],      [NAN, 1],      NAN,     [NAN, -2]),
    ),
    "an ignored row does not count": (
        *_counts_for_nothing(-100),
        *_counts_for_nothing(1, ignore_index=1),
        *_counts_for_nothing(1000, ignore_index=1000),
    ),
    "a row of weight 0 does not count": (
        *_counts_for_nothing(0, sample_weight=0.0),
    ),
    "an ignored class stays in the denominator": (
        line(CE,      [0, 0, 0],       0,             LN3,     [-2/3, 1/3, 1/3],    {"ignore_index": 1}),
        line("token_log_probs", [0, 0, 0], 0,         -LN3,    {"ignore_index": 1}),
    ),
    "class weights do not multiply the z-loss, sample weights do": (
        line(CE,      [0, 0],          1,      6*LN2 + LN2**2, [3 + Z, -3 + Z],     WEIGHED),
        line(CE,      [0, 0],          [0, 1], 6*LN2 + LN2**2, [3 + Z, -3 + Z],     WEIGHED),
        line(FOCAL,   [0, 0],          1,      6*LN2 + LN2**2, [3 + Z, -3 + Z],     WEIGHED | {"gamma": 0.0}),
        line(POLY,    [0, 0],          1,      6*LN2 + LN2**2, [3 + Z, -3 + Z],     WEIGHED | {"epsilon": 0.0}),
        line(CE,      [0, 0],          -100,          0,       [0, 0],              WEIGHED),
    ),
}
# ------------------- x -- target -- loss -- gradient -- Hessian
ELEMENTS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "a certain and correct probability has loss 0": (
        (BINARY,          1,      1,      0,     0),
        (BINARY,          0,      0,      0,     0),
        (LOGITS,          INF,    1,      0,     0,    0),
        (LOGITS,          -INF,   0,      0,     0,    0),
        (SIGMOID,         INF,    1,      0,     0,    0),
        (SIGMOID,         -INF,   0,      0,     0,    0),
        (KL,              0,      1,      0,     -1),
    ),
    "a certain and wrong probability has loss +inf, or torch's 100": (
        (BINARY,          0,      1,      100,   -1e12),
        (BINARY,          1,      0,      100,   1e12),
        (LOGITS,          INF,    0,      INF,   1,    0),
        (LOGITS,          -INF,   1,      INF,   -1,   0),
        (SIGMOID,         INF,    0,      INF,   0.75, 0),
        (SIGMOID,         -INF,   1,      INF,   -0.25, 0),
        (KL,              -INF,   1,      INF,   -1),
    ),
    "a target of 0 adds nothing": (
        (KL,              -INF,   0,      0,     0),
        (KL,              3,      0,      0,     0),
    ),
    "NaN makes its element NaN": (
        (BINARY,          NAN,    1,      NAN,   NAN),
        (BINARY,          0.5,    NAN,    NAN,   NAN),
        (LOGITS,          NAN,    1,      NAN,   NAN,  NAN),
        (LOGITS,          0.5,    NAN,    NAN,   NAN,  NAN),
        (SIGMOID,         NAN,    0,      NAN,   NAN,  NAN),
        (SIGMOID,         0.5,    NAN,    NAN,   NAN,  NAN),
        (KL,              NAN,    1,      NAN,   -1),
        (KL,              0.5,    NAN,    NAN,   NAN),
    ),
}
# fmt: on


def call(function: str, first: np.ndarray, second: Any, **options: Any) -> tuple[Any, ...]:
    """Return all results of the function for rows whose classes are on the last axis."""
    if function in FAMILY:
        return (getattr(xent, function)(first, axis=-1),)
    if function == "perplexity":  # of each row alone
        rows = zip(first, second, strict=True)
        return (np.array([xent.perplexity(*row, **options) for row in rows]),)
    known = getattr(xent, function).__kwdefaults__
    asked = {name: True for name in ("return_grad", "return_hess") if name in known}
    arrays = (first,) if second is None else (first, second)
    result = getattr(xent, function)(*arrays, **asked | {"reduction": "none"} | options)
    return result if isinstance(result, tuple) else (result,)


@cache
def ordinary(shape: tuple[int, int]) -> np.ndarray:
    """Numbers between 0 and 1 that every dtype holds."""
    return np.random.default_rng(shape).integers(1, 16, shape) / 16


class Batch(NamedTuple):
    """The rows of a call; row `at` is that of the line, whose classes are at `place`."""

    first: np.ndarray
    second: np.ndarray | None
    options: dict[str, Any]
    at: int
    place: slice

    def laid(self, layout: str) -> tuple[np.ndarray, Any]:
        """The arrays of classes, moved elsewhere in memory."""
        lay, second = LAYOUTS[layout], self.second
        return lay(self.first), second if second is None or second.ndim == 1 else lay(second)

    def without(self) -> Batch:
        """The same rows with an ordinary one in the place of the line, its class index the same."""
        first, second = self.first.copy(), None if self.second is None else self.second.copy()
        other = self.at - 1
        first[self.at] = first[other]
        if second is not None and second.ndim > 1:
            second[self.at] = second[other]
        return self._replace(first=first, second=second)


def batch(line: Line, classes: int, before: int, dtype: np.dtype) -> Batch:
    """Put the line into the last row but one, `before` it so many of the other classes."""
    function, row, second, _, options = line
    rows = 19 if classes <= 64 else 3  # more than a tile, or hardly any
    at, place = rows - 2, slice(before, before + len(row))
    first = ordinary((rows, classes)).copy()
    first[at] = 0.125 if function in GIVEN else MASK
    first[at, place] = row
    aims: np.ndarray | None = None
    if isinstance(second, list):
        aims = ordinary((rows, classes)).copy()
        aims[at] = MASK if function == DISTIL else 0
        aims[at, place] = second
        aims = aims.astype(dtype if function == DISTIL or dtype.itemsize > 2 else np.float32)
    elif second is not None:
        aims = np.zeros(rows, int)
        aims[at] = second if second == options.get("ignore_index", -100) else second + before
    options = options.copy()
    if "class_weight" in options:
        weight = np.ones(classes)
        weight[place] = options["class_weight"]
        options["class_weight"] = weight
    if "sample_weight" in options:
        options["sample_weight"] = np.where(np.arange(rows) == at, options["sample_weight"], 1)
    return Batch(first.astype(dtype), aims, options, at, place)


def around(line: Line, numbers: list[float]) -> float:
    """Return the gradient or softmax at the classes that a line does not list."""
    if np.isnan(numbers).all() and line.function not in GIVEN:
        return NAN
    return -INF if line.function == "log_softmax" else 0.0


def assert_close(found: Any, expected: Any, slack: int) -> None:
    """Compare to 4 ulp, and so many of 1, with what the dtype makes of the expected numbers."""
    found = np.asarray(found)
    spacing = float(ml_dtypes.finfo(found.dtype).eps)
    wide, exact = (a.astype(np.float64) for a in (found, np.array(expected, found.dtype)))
    np.testing.assert_allclose(wide, exact, rtol=4 * spacing, atol=slack * spacing)


@np.errstate(all="ignore")
def assert_holds(line: Line, given: Batch, results: tuple[Any, ...]) -> None:
    """Compare the results of the row with those that the line states."""
    assert len(line.gives) <= len(results)
    for found, expected in zip(results, line.gives, strict=False):
        numbers: Any = expected
        if isinstance(expected, list):
            numbers = np.full(given.first.shape[1], around(line, expected))
            numbers[given.place] = expected
        # p - t cancels, to 2 ulp of 1.
        cancels = isinstance(expected, list) and isinstance(line.second, list)
        assert_close(found[given.at], numbers, 2 if cancels else 0)


def rest(results: tuple[Any, ...], at: int) -> tuple[Any, ...]:
    """All rows but one."""
    return tuple(np.delete(a, at, axis=0) for a in results)


def check(line: Line, classes: int, before: int, dtype: np.dtype, layouts: tuple[str, ...]) -> None:
    """Check one line among so many classes; other layouts must give the same bits."""
    given = batch(line, classes, before, dtype)
    results = call(line.function, given.first, given.second, **given.options)
    assert_holds(line, given, results)
    without = given.without()
    others = call(line.function, without.first, without.second, **given.options)
    assert result_bytes(rest(results, given.at)) == result_bytes(rest(others, given.at))
    for layout in layouts:
        found = call(line.function, *given.laid(layout), **given.options)
        assert result_bytes(found) == result_bytes(results), layout


ABOUT = list(dict.fromkeys((name, line.function) for name in LINES for line in LINES[name]))


@pytest.mark.parametrize(("name", "function"), ABOUT, ids=lambda part: part)
@pytest.mark.parametrize("stored", STORED, ids=lambda dtype: dtype.name)
def test_line(isa, stored, name, function):
    for line in (line for line in LINES[name] if line.function == function):
        for classes, place, layouts in PLACES[: None if stored == np.float32 else -2]:
            more = max(classes - len(line.row), 0)
            check(line, len(line.row) + more, more * (place == "last"), stored, layouts)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_spoilt_row_spoils_its_sum_but_no_gradient_of_another(isa, dtype, reduction):
    for line in (line for lines in LINES.values() for line in lines):
        if line.function in (*FAMILY, *SCORES) or not np.isnan(line.gives[0]):
            continue
        for classes in (17, 65):
            given = batch(line, classes, 0, dtype)
            options = given.options | {"reduction": reduction}
            loss, *slopes = call(line.function, given.first, given.second, **options)
            clean = given.without()
            other, *others = call(line.function, clean.first, clean.second, **options)
            assert np.isnan(loss), line
            assert np.isfinite(other), line
            assert_same(rest(tuple(slopes), given.at), rest(tuple(others), given.at))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_row_that_counts_for_nothing_changes_no_sum(isa, dtype, reduction):
    for name in ("an ignored row does not count", "a row of weight 0 does not count"):
        for line in LINES[name]:
            if line.function in SCORES:
                continue
            given = batch(line, 17, 0, dtype)
            options = given.options | {"reduction": reduction}
            results = call(line.function, given.first, given.second, **options)
            clean = given.without()
            aims = (
                given.second if line.second is None or np.ndim(line.second) == 0 else clean.second
            )
            assert_same(results, call(line.function, clean.first, aims, **options))
            assert np.isfinite(results[0]), line


def payloads(dtype, n):
    """NaNs with a payload in their lower bits, as other programs produce them."""
    bits = np.full(n, NAN, dtype).view(f"u{dtype.itemsize}")
    return (bits | (np.arange(1, n + 1) * 40_503 % (1 << 22)).astype(bits.dtype)).view(dtype)


POISON = {
    "nan": lambda dtype, n: np.full(n, NAN, dtype),
    "nan with a payload": payloads,
    "inf": lambda dtype, n: np.full(n, INF, dtype),
}


@pytest.mark.parametrize("poison", POISON)
def test_nan_and_inf_are_seen_at_every_position(isa, dtype, poison):
    for classes in (*range(1, 70), 127, 128, 129, 1023, 1024, 1025, 2049, 16385):
        where = np.arange(classes)
        if classes > 130:
            where = np.unique(np.r_[:3, 62:66, classes // 2, classes - 3 : classes])
        spoilt = np.zeros((len(where), classes), dtype)
        spoilt[:, ::3] = MASK
        clean = spoilt.copy()
        spoilt[np.arange(len(where)), where] = POISON[poison](dtype, len(where))
        aims = np.zeros(len(where), int)
        for results in (
            call(CE, spoilt, aims),
            call(ENTROPY, spoilt, None),
            call(DISTIL, spoilt, clean),
            call(DISTIL, np.zeros_like(clean), spoilt),
        ):
            assert all(np.isnan(result).all() for result in results), classes
        lse = xent.logsumexp(spoilt, axis=-1)
        assert (lse == INF if poison == "inf" else np.isnan(lse)).all(), classes


@pytest.mark.parametrize("name", [LOGITS, SIGMOID, KL])
def test_nan_of_any_payload_in_elements(isa, dtype, name):
    x = payloads(dtype, 1000)
    results = getattr(xent, name)(x, np.ones_like(x), reduction="none", return_grad=True)
    # The derivative of kl_div is the target.
    assert all(np.isnan(result).all() for result in results[: 1 if name == KL else 2])


@pytest.mark.parametrize(
    ("name", "element"),
    [(name, element) for name in ELEMENTS for element in ELEMENTS[name]],
    ids=lambda part: part if isinstance(part, str) else f"{part[0]}({part[1]}, {part[2]})",
)
@pytest.mark.parametrize("stored", STORED, ids=lambda dtype: dtype.name)
def test_element(isa, stored, name, element):
    """Wherever it is; its neighbours are as they would be beside another."""
    function, x, target, *gives = element
    for shape, at in (((1,), 0), ((3, 11), 21), ((5, 1025), 4097), ((5, 1025), 5124)):
        first, second = (ordinary((1, int(np.prod(shape)))).reshape(shape).copy() for _ in "xt")
        clean = call(function, first.astype(stored), second)
        first.flat[at], second.flat[at] = x, target
        results = call(function, first.astype(stored), second)
        with np.errstate(all="ignore"):
            for found, expected in zip(results, gives, strict=True):
                assert_close(found.flat[at], expected, 0)
        flat = [tuple(a.reshape(-1) for a in each) for each in (results, clean)]
        assert result_bytes(rest(flat[0], at)) == result_bytes(rest(flat[1], at))
        for layout in LAID:
            lay = LAYOUTS[layout]
            assert_same(call(function, lay(first.astype(stored)), lay(second)), results)


WEIGHTS = {"class_weight": [1, 2, 4], "sample_weight": [1, 1, 3, 100]}
ONE_HOT = np.eye(3)[[0, 1, 2, 0]]
# What the mean divides by: functions, targets of four rows of three classes, weights, the divisor.
MEANS: dict[str, tuple[tuple[str, ...], Any, dict[str, Any], float]] = {
    "class indices: the rows that count": (INDEXED, [0, 1, 2, -100], {}, 3),
    "class indices: the class weights of the rows that count": (
        *(INDEXED, [0, 1, 2, -100], {"class_weight": [1, 2, 4]}, 1 + 2 + 4),
    ),
    "class indices: the sample weights of the rows that count": (
        *(INDEXED, [0, 1, 2, -100], {"sample_weight": [1, 1, 3, 100]}, 1 + 1 + 3),
    ),
    "class indices: both weights of the rows that count": (
        *(INDEXED, [0, 1, 2, -100], WEIGHTS, 1 * 1 + 2 * 1 + 4 * 3),
    ),
    "class probabilities: the rows": (SOFT, ONE_HOT, {"class_weight": [1, 2, 4]}, 4),
    "class probabilities: the sample weights": (SOFT, ONE_HOT, WEIGHTS, 1 + 1 + 3 + 100),
    "no targets: the rows": ((ENTROPY,), None, {}, 4),
    "no targets: the sample weights": ((ENTROPY,), None, {"sample_weight": [1, 1, 3, 100]}, 105),
    "a teacher: the rows": ((DISTIL,), ONE_HOT, {}, 4),
    "a teacher: the sample weights": ((DISTIL,), ONE_HOT, {"sample_weight": [1, 1, 3, 100]}, 105),
    "elements: their number": (tuple(ELEMENTWISE), ONE_HOT, {}, 12),
    "elements: their weights": (tuple(ELEMENTWISE), ONE_HOT, {"sample_weight": [1, 2, 4]}, 4 * 7),
}


@pytest.mark.parametrize(
    ("name", "function"),
    [(name, function) for name, (functions, *_) in MEANS.items() for function in functions],
    ids=lambda part: part,
)
def test_mean_divides_by(isa, dtype, name, function):
    _, targets, weights, divisor = MEANS[name]
    first = ordinary((4, 3)).astype(dtype)
    losses, *_ = call(function, first, targets, **weights)
    total, *sums = call(function, first, targets, **weights, reduction="sum")
    mean, *means = call(function, first, targets, **weights, reduction="mean")
    assert_close(total, losses.sum(dtype=float), 0)
    assert_close(mean, losses.sum(dtype=float) / divisor, 0)
    for one, other in zip(means, sums, strict=True):
        assert_close(one, other.astype(float) / divisor, 0)


# Functions, and what makes nothing of three rows of class 1.
NOTHINGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "all rows are ignored": (INDEXED, {"ignore_index": 1}),
    "all rows have a class of weight 0": (INDEXED, {"class_weight": "0 for class 1"}),
    "all weights are 0": ((*INDEXED, ENTROPY, DISTIL, *ELEMENTWISE), {"sample_weight": 0.0}),
}


def assert_nothing(results: tuple[Any, ...], reduction: str, dtype: np.dtype) -> None:
    """The mean of nothing is NaN, its sum 0; the derivatives are zeros, so that no sum of gradients becomes NaN."""
    loss, *slopes = results
    np.testing.assert_array_equal(loss, NAN if reduction == "mean" else 0)
    assert loss.dtype == dtype
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize(
    ("name", "function"),
    [(name, function) for name, (functions, _) in NOTHINGS.items() for function in functions],
    ids=lambda part: part,
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing(isa, dtype, name, function, reduction):
    for classes in (3, 70):
        options = NOTHINGS[name][1] | {"reduction": reduction}
        if "class_weight" in options:
            options["class_weight"] = (np.arange(classes) != 1).astype(float)
        first = ordinary((3, classes)).astype(dtype)
        seconds: list[Any] = [None if function == ENTROPY else first]
        if function in INDEXED:
            soft = function in SOFT and "sample_weight" in options
            seconds = [[1, 1, 1]] + [first] * soft
        # With smoothing, a row whose class has weight 0 still has a loss.
        smoothed = [SMOOTH] if function in SOFT and "class_weight" not in options else []
        for x in (first, np.asfortranarray(first)):
            for second in seconds:
                for more in ({}, *smoothed):
                    results = call(function, x, second, **options, **more)
                    assert_nothing(results, reduction, dtype)
    if function == CE and "class_weight" not in options:
        assert np.isnan(xent.perplexity(first, [1, 1, 1], **NOTHINGS[name][1]))


@pytest.mark.parametrize("function", [*INDEXED, ENTROPY, DISTIL, *ELEMENTWISE])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batches(dtype, function, reduction):
    for shape in ((0, 3), (2, 0, 5)):
        empty = np.zeros(shape, dtype)
        seconds: list[Any] = [None if function == ENTROPY else empty]
        if function in INDEXED:
            seconds = [np.zeros(shape[:-1], int)] + [empty] * (function in SOFT)
        for second in seconds:
            results = call(function, empty, second, reduction=reduction)
            assert_nothing(results, reduction, dtype)
            assert all(slope.shape == shape for slope in results[1:])
            loss_shape = shape if function in ELEMENTWISE else shape[:-1]
            assert results[0].shape == (loss_shape if reduction == "none" else ())


OUTSIDE = (
    *(np.int64(-1), np.int64(5), np.int64(2**63 - 1), np.int64(-(2**63))),
    *(np.uint64(2**63), np.uint64(2**64 - 1), np.int8(-1), np.uint8(255), np.int32(-(2**31))),
)


@pytest.mark.parametrize("function", [*INDEXED, *SCORES])
@pytest.mark.parametrize("bad", OUTSIDE, ids=lambda value: f"{value.dtype}: {value}")
def test_target_out_of_range(isa, dtype, function, bad):
    """The error has its position and value; nothing has been written."""
    known = getattr(xent, function).__kwdefaults__
    x = np.full((4, 6, 5), 0.5, dtype)
    targets = np.zeros((4, 6), bad.dtype)
    targets[2, 3] = bad
    for layout in (lambda a: a, *(LAYOUTS[name] for name in LAID)):
        for reduction in REDUCTIONS:
            given: dict[str, Any] = {}
            if "reduction" in known and (function, reduction) != ("perplexity", "sum"):
                given["reduction"] = reduction
            if "out" in known:
                given["out"] = np.full((4, 6) if reduction == "none" else (), 7, dtype)
            if "grad_out" in known:
                given |= {"return_grad": True, "grad_out": np.full(x.shape, 7, dtype)}
            with pytest.raises(IndexError, match=rf"targets\[2, 3\] = {bad} is not a class"):
                getattr(xent, function)(layout(x), layout(targets), **given)
            buffers = [a for a in given.values() if isinstance(a, np.ndarray)]
            assert all((buffer == 7).all() for buffer in buffers)


def test_true_is_out_of_range_of_one_class():
    with pytest.raises(IndexError, match="targets"):
        xent.cross_entropy(np.zeros((2, 1)), np.array([False, True]))


@pytest.mark.parametrize("ignore_index", [None, -1, 5])
def test_what_is_not_ignored_is_an_error(ignore_index):
    with pytest.raises(IndexError, match="-100"):
        xent.cross_entropy(np.zeros((2, 3)), [0, -100], ignore_index=ignore_index)


def test_ignore_index_is_compared_by_value_not_by_bits(dtype):
    logits = np.zeros((1, 200), dtype)
    assert xent.cross_entropy(logits, np.array([156], np.uint8)) > 0
    with pytest.raises(IndexError, match=str(2**64 - 100)):
        xent.cross_entropy(logits, np.array([2**64 - 100], np.uint64))
    assert xent.cross_entropy(logits, np.array([24], np.int8), ignore_index=1000 + 24) > 0


def test_a_sum_beyond_the_largest_number_is_infinite(isa, dtype):
    logits = np.zeros((3, 2), dtype)
    logits[:, 0] = 0.6 * np.finfo(dtype).max
    for reduction in ("sum", "mean"):
        loss = xent.cross_entropy(logits, [1, 1, 1], reduction=reduction)
        assert loss == INF if reduction == "sum" else loss >= logits[0, 0]
        for options in ({"sample_weight": np.ones(3)}, {"out": np.zeros((), dtype)}):
            again = xent.cross_entropy(logits, [1, 1, 1], reduction=reduction, **options)
            assert again == loss


def test_perplexity_beyond_the_largest_number_is_infinite(dtype):
    assert xent.perplexity(np.array([[0, 1e5]], dtype), [0]) == INF


def test_no_classes(dtype):
    logits = np.empty((2, 0), dtype)
    with pytest.raises(IndexError):
        xent.cross_entropy(logits, [0, 0])
    loss, grad, _ = call(CE, logits, [-100, -100])
    np.testing.assert_array_equal(loss, [0, 0])
    assert grad.shape == (2, 0)


@pytest.mark.parametrize("special", [np.inf, np.nan])
def test_rows_that_threads_share(isa, special):
    """A row as long as a million classes goes through its stages with all threads."""
    logits = np.zeros((1, 1_100_000), np.float32)
    logits[0, 7] = special
    with xent.num_threads(3):
        assert np.isnan(xent.softmax(logits)).all()
        loss = xent.cross_entropy(logits, [3])
        assert xent.nll_loss(logits, [7]) == -special or np.isnan(special)
    assert np.isnan(loss) or loss == special


def test_the_first_of_many_bad_targets_is_named(isa):
    targets = np.full(100_000, 5)
    targets[:9_000] = 0
    with xent.num_threads(3), pytest.raises(IndexError, match=r"targets\[9000\] = 5"):
        xent.cross_entropy(np.zeros((100_000, 5), np.float32), targets)


def test_an_empty_list_is_a_batch_of_no_targets():
    loss, grad = xent.cross_entropy(np.zeros((0, 3)), [], return_grad=True)
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert xent.cross_entropy(np.zeros((2, 0, 3)), [[], []], reduction="sum") == 0
    with pytest.raises(TypeError, match="float64 is not accepted for class indices"):
        xent.cross_entropy(np.zeros((0, 3)), np.zeros(0))
