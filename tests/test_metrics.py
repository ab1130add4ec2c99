"""Metrics: scikit-learn's results and errors, definitions, exact sums, and the temperature of the smallest loss."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

import xent
from xent import metrics
from xent._exact_sum import ExactSum

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def rows(
    n: int, classes: int, dtype: Any = np.float64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, each of them once at least, and probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), n).astype(dtype)
    return rng.permutation(np.arange(n) % classes), p


def rounding(dtype: Any) -> float:
    """The relative error of a mean of losses: scikit-learn's sum is pairwise and in the dtype, of logarithms off by ulps."""
    return 32 * float(np.finfo(dtype).eps)


# scikit-learn.


def sklearn_metrics() -> Any:
    """Its metrics as they have been since 1.9."""
    pytest.importorskip("sklearn", minversion="1.9")
    return importlib.import_module("sklearn.metrics")


def labels_of(kind: str, column: np.ndarray) -> Any:
    """Labels of a kind whose order is that of the columns."""
    return {
        "columns": lambda: column,
        "list": column.tolist,
        "uint8": lambda: column.astype(np.uint8),
        "apart": lambda: (column * 1000 - 7).astype(np.int32),
        "far apart": lambda: column * 2**40 - 2**62,
        "uint64": lambda: column.astype(np.uint64) + np.uint64(2**63),
        "floats": lambda: column / 1 - 3,
        "strings": lambda: np.char.add("class ", np.char.zfill(column.astype(str), 3)),
        "objects": lambda: np.char.zfill(column.astype(str), 3).astype(object),
        "int8": lambda: (column * (255 // column.max()) - 128).astype(np.int8),
        "column of a table": lambda: column[:, None],
        "indicator": lambda: np.eye(column.max() + 1, dtype=int)[column],
    }[kind]()


# Every kind that scikit-learn takes.
KINDS = (
    *("columns", "list", "uint8", "apart", "far apart", "uint64", "floats"),
    *("strings", "objects", "int8", "column of a table", "indicator"),
)


@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"weighted": True}], ids=str)
def test_log_loss_is_theirs(kind, classes, options, dtype):
    theirs = sklearn_metrics().log_loss
    column, p = rows(97, classes, dtype)
    p[:2] = np.eye(classes, dtype=dtype)[[0, 1]]  # certain, of which one may be wrong
    options = dict(options)
    if options.pop("weighted", False):
        options["sample_weight"] = np.linspace(-0.1, 3, len(p))
    y = labels_of(kind, column)
    found, expected = metrics.log_loss(y, p, **options), theirs(y, p, **options)
    assert type(found) is float
    assert found == pytest.approx(expected, rel=rounding(dtype))


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "indicator"])
def test_log_loss_of_two_labels(kind, shape, dtype):
    theirs = sklearn_metrics().log_loss
    column, p = rows(50, 2, dtype)
    p[:4, 1] = 0, 1, 0, 1
    p = p[:, 1].reshape(-1, *shape)
    y = labels_of(kind, column)
    assert metrics.log_loss(y, p) == pytest.approx(theirs(y, p), rel=rounding(dtype))


@pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8", "O", "bool", BFLOAT16])
def test_dtypes_of_probabilities(kind):
    """float16, float32 and float64 have an epsilon of their own, all others that of float64."""
    p = np.array([[0.0, 1.0], [0.25, 0.75], [0.5, 0.5]])
    if kind == "bool":
        p = np.array([[0, 1], [1, 0], [0, 1]])
    p = p.astype(kind)
    eps = np.finfo(kind if kind in ("f2", "f4") else "f8").eps
    picked = np.clip(p[[0, 1, 2], [0, 1, 1]].astype(float), float(eps), 1 - float(eps))
    found = metrics.log_loss([0, 1, 1], p)
    assert found == pytest.approx(-np.log(picked).mean(), rel=1e-6)
    sklearn = sklearn_metrics()
    if kind not in (">f4", BFLOAT16):  # neither of which it reads
        close = 2.0**-9 if kind == "f2" else 1e-6  # its logarithms are of the dtype
        assert found == pytest.approx(sklearn.log_loss([0, 1, 1], p), rel=close)


@pytest.mark.parametrize("kind", ["columns", "strings", "apart"])
def test_declared_labels(kind):
    """Labels that do not occur have columns nevertheless."""
    sklearn = sklearn_metrics()
    column, p = rows(60, 7)
    y, labels = labels_of(kind, column), np.unique(labels_of(kind, np.arange(7)))
    some = (column > 1) & (column < 6)
    for ours, theirs in (
        (metrics.log_loss, sklearn.log_loss),
        (metrics.brier_score, sklearn.brier_score_loss),
        (metrics.top_k_accuracy, sklearn.top_k_accuracy_score),
    ):
        expected = theirs(y[some], p[some], labels=labels)
        assert ours(y[some], p[some], labels=labels) == pytest.approx(expected, rel=1e-13)


GOOD = [[0.2, 0.8], [0.6, 0.4]]
BAD: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "above 1": ([0, 1], [[0.2, 1.5], [0.6, 0.4]], {}),
    "below 0": ([0, 1], [[0.2, 0.8], [-0.1, 1]], {}),
    "nan": ([0, 1], [[0.2, np.nan], [0.6, 0.4]], {}),
    "infinite": ([0, 1], [np.inf, 0.5], {}),
    "lengths": ([0, 1, 1], GOOD, {}),
    "no rows": ([], np.zeros((0, 2)), {}),
    "three axes": ([0, 1], np.full((2, 2, 2), 0.5), {}),
    "strings": ([0, 1], [["a", "b"], ["c", "d"]], {}),
    "complex": ([0, 1], np.array(GOOD) + 1j, {}),
    "ragged": ([0, 1], [[0.2, 0.8], [1.0]], {}),
    "one label": ([1, 1], GOOD, {}),
    "one declared label": ([1, 1], GOOD, {"labels": [1]}),
    "three labels": ([0, 1, 2], [*GOOD, [0.5, 0.5]], {}),
    "three declared labels": ([0, 1], GOOD, {"labels": [0, 1, 2]}),
    "unknown label": ([0, 7], GOOD, {"labels": [0, 1]}),
    "labels twice": ([0, 1], GOOD, {"labels": [0, 1, 1]}),
    "continuous": ([0.5, 1.5], GOOD, {}),
    "label nan": ([0.0, np.nan], GOOD, {}),
    "mixed labels": (np.array([0, "a"], object), GOOD, {}),
    "no indicator": ([[0, 2, 1], [1, 0, 0]], np.full((2, 3), 1 / 3), {}),
    "weights of another length": ([0, 1], GOOD, {"sample_weight": [1.0]}),
    "weights of two axes": ([0, 1], GOOD, {"sample_weight": [[1.0], [1.0]]}),
    "weight nan": ([0, 1], GOOD, {"sample_weight": [1.0, np.nan]}),
    "weight string": ([0, 1], GOOD, {"sample_weight": ["a", "b"]}),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_theirs(case):
    """Of the same type, with a text that names the argument."""
    theirs = sklearn_metrics().log_loss
    y, p, options = BAD[case]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as expected:  # noqa: PT011
            theirs(y, p, **options)
        with pytest.raises(Exception, match=r"y_true|y_prob|labels|sample_weight|samples") as found:
            metrics.log_loss(y, p, **options)
    assert issubclass(expected.type, found.type)
    assert found.type in (ValueError, TypeError)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"y_proba": [[0.2, 0.8], [0.6, 1.4]]}, r"y_proba\[1, 1\] = 1.4 is not a probability"),
        ({"y_proba": [0.2, -1.0]}, r"y_proba\[1\] = -1.0 is not a probability"),
        ({"y_true": [0, 0.5]}, "y_true: 0.5 at position 1 "),
        ({"sample_weight": [1, np.inf]}, "sample_weight: inf at position 1 "),
        ({"sample_weight": [0, 0]}, "sample_weight: expected at least one weight"),
        ({"labels": [0, 0]}, "labels: expected each label once"),
        ({"y_true": [[0, 1], [1, 0]], "labels": [0, 1]}, "labels: y_true is an indicator matrix"),
    ],
    ids=str,
)
def test_errors_name_position_and_value(options, says):
    with pytest.raises(ValueError, match=says):
        metrics.log_loss(**{"y_true": [0, 1], "y_proba": GOOD} | options)


def test_masked_and_sparse_arrays_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    for p in (np.ma.masked_array(GOOD), sparse.csr_array(GOOD)):
        with pytest.raises(TypeError, match="y_proba"):
            metrics.log_loss([0, 1], p)


@pytest.mark.parametrize("off", [3e-8, 3e-4])
def test_sums_are_compared_as_theirs(off, dtype):
    """Within the square root of the dtype's epsilon, as scikit-learn has it."""
    theirs = sklearn_metrics().log_loss
    p = np.full((3, 4), 0.25, dtype)
    p[1, 2] -= dtype.type(off)
    warned = []
    for function in (theirs, metrics.log_loss, lambda y, p: metrics.LogLoss().update(y, p)):
        labels = {} if function not in (theirs, metrics.log_loss) else {"labels": [0, 1, 2, 3]}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            function([0, 1, 3], p, **labels)
        warned.append([(w.category, "row 1" in str(w.message)) for w in found])
    assert [[category for category, _ in one] for one in warned] == [[c for c, _ in warned[0]]] * 3
    assert all(position for one in warned[1:] for _, position in one)
    assert bool(warned[0]) == (off > math.sqrt(np.finfo(dtype).eps))


def test_a_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="row 0 sums to 0.9") as found:
        metrics.log_loss([0, 1], [[0.2, 0.7], [0.5, 0.5]])
    assert found[0].filename == __file__


@pytest.mark.parametrize("classes", [2, 3, 2000])
@pytest.mark.parametrize("kind", ["columns", "indicator"])
@pytest.mark.parametrize("half", ["auto", True, False])
def test_brier_score_is_theirs(classes, kind, half, dtype):
    theirs = sklearn_metrics().brier_score_loss
    column, p = rows(2 * classes, classes, dtype)
    y, weight = labels_of(kind, column), np.linspace(1, 2, len(p))
    options = {"sample_weight": weight, "scale_by_half": half}
    assert metrics.brier_score(y, p, **options) == pytest.approx(
        theirs(y, p, **options), rel=rounding(dtype)
    )


@pytest.mark.parametrize(
    ("y", "pos_label"),
    [
        *(
            (y, None)
            for y in ([0, 1, 1], [-1, 1, 1], [3, 7, 7], [True, False, True], [0, 0, 0], [1, 1, 1])
        ),
        *((["a", "b", "b"], label) for label in "ab"),
        ([0, 1, 1], 0),
    ],
)
def test_brier_score_of_two_labels(y, pos_label):
    theirs = sklearn_metrics().brier_score_loss
    p = [0.1, 0.4, 1.0]
    found = metrics.brier_score(y, p, pos_label=pos_label)
    assert found == pytest.approx(theirs(y, p, pos_label=pos_label), rel=1e-15)


def test_brier_score_needs_a_positive_label():
    theirs = sklearn_metrics().brier_score_loss
    for function in (theirs, metrics.brier_score):
        with pytest.raises(ValueError, match="pos_label"):
            function(["a", "b"], [0.1, 0.4])


def test_brier_score_of_confident_rows_keeps_its_digits():
    """The square of 1 - p, not 1 - 2 p + p², which cancels."""
    p = np.array([[1 - 1e-9, 1e-9, 0.0]])
    assert metrics.brier_score([0], p, labels=[0, 1, 2]) == pytest.approx(2e-18, rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("normalize", [False, True])
def test_top_k_accuracy_is_theirs(k, normalize):
    """Of tied probabilities too, which it takes from the last column to the first."""
    theirs = sklearn_metrics().top_k_accuracy_score
    rng = np.random.default_rng(3)
    p = np.array([[0.25] * 4, [0.5, 0.5, 0, 0], [0, 0.5, 0, 0.5], [0.1, 0.2, 0.3, 0.4]])
    p = p[rng.integers(0, 4, 400)]
    y, weight = rng.integers(0, 4, 400), rng.random(400)
    for options in ({}, {"sample_weight": weight}):
        found = metrics.top_k_accuracy(y, p, k=k, normalize=normalize, **options)
        assert found == pytest.approx(theirs(y, p, k=k, normalize=normalize, **options), rel=1e-13)


def test_top_k_accuracy_of_two_labels():
    theirs = sklearn_metrics().top_k_accuracy_score
    y, p = [0, 1, 1, 0, 0], [0.2, 0.7, 0.5, 0.5, 0.9]
    assert metrics.top_k_accuracy(y, p, k=1) == theirs(y, p, k=1) == 0.6
    assert metrics.top_k_accuracy(y, p, k=2) == 1
    for k, error in ((0, ValueError), (3, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="k: expected"):
            metrics.top_k_accuracy(y, p, k=k)


# Calibration.


def error_by_definition(confidence: Any, correct: Any, weight: Any, n_bins: int) -> Fraction:
    """Guo et al.'s sum, in fractions; bin b holds (b / n, (b + 1) / n] by the rounded edges."""
    edges = [Fraction(float(edge)) for edge in np.linspace(0, 1, n_bins + 1)]
    error = Fraction(0)
    for b in range(n_bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if edges[b] < Fraction(float(c)) <= edges[b + 1] or (b == 0 and c == 0)
        ]
        error += abs(
            sum(
                Fraction(float(weight[i])) * (Fraction(float(confidence[i])) - int(correct[i]))
                for i in inside
            )
        )
    return error / sum(Fraction(float(w)) for w in weight)


@pytest.mark.parametrize("n_bins", [1, 2, 10, 15])
@pytest.mark.parametrize("weighted", [False, True])
def test_expected_calibration_error(n_bins, weighted, dtype):
    y, p = rows(120, 3, dtype)
    p[:6] = [
        [0.5, 0.5, 0],
        [0, 1, 0],
        [1, 0, 0],
        [0.2, 0.4, 0.4],
        [0.6, 0.2, 0.2],
        [0.25, 0.25, 0.5],
    ]
    p[np.abs(p.sum(axis=1) - 1) > 1e-8, 0] = 0.5
    weight = np.linspace(0.5, 2, len(p)) if weighted else np.ones(len(p))
    correct = p.argmax(axis=1) == y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sums; the numbers are what matters
        found = metrics.expected_calibration_error(
            y, p, n_bins=n_bins, sample_weight=weight if weighted else None
        )
    expected = error_by_definition(p.max(axis=1), correct, weight, n_bins)
    assert found == pytest.approx(float(expected), rel=1e-12, abs=1e-15)


def test_expected_calibration_error_of_two_labels():
    y, p = [0, 1, 1, 1, 0], np.array([0.0, 0.1, 0.5, 1.0, 0.7])
    found = metrics.expected_calibration_error(y, p, n_bins=10)
    assert found == pytest.approx(float(error_by_definition(p, y, np.ones(5), 10)), rel=1e-14)
    # A probability on an edge belongs to the bin below it: |0.4 - 0.5| + |0.9 - 1|.
    found = metrics.expected_calibration_error([0, 1, 1], [0.4, 0.5, 0.9], n_bins=2)
    assert found == pytest.approx(0.2 / 3, rel=1e-14)
    for n_bins, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="n_bins"):
            metrics.expected_calibration_error(y, p, n_bins=n_bins)
    with pytest.raises(ValueError, match="y_true"):
        metrics.expected_calibration_error(np.eye(2)[y], np.stack([1 - p, p], 1))


def logits_of(n: int, classes: int, dtype: Any, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `scale` times as large as those their targets were drawn with."""
    rng = np.random.default_rng(classes)
    z = rng.normal(0, 2, (n, classes))
    y = (z + rng.gumbel(size=z.shape)).argmax(axis=1)
    return (scale * z).astype(dtype), y


def slope_of_loss(
    z: np.ndarray, t: np.ndarray, weight: np.ndarray, temperature: float
) -> mpmath.mpf:
    """The derivative of Σ w ℓ by the inverse temperature, in 50 digits; t are class probabilities."""
    with mpmath.workdps(50):
        total, b = mpmath.mpf(0), 1 / mpmath.mpf(temperature)
        for row, target, w in zip(z.astype(float), t, weight, strict=True):
            classes = [c for c in range(len(row)) if np.isfinite(row[c])]
            e = {c: mpmath.exp(b * (mpmath.mpf(row[c]) - row.max())) for c in classes}
            mean = sum(e[c] * row[c] for c in classes) / sum(e.values())
            total += w * sum(target[c] * (mean - row[c]) for c in classes if target[c])
        return total


@pytest.mark.parametrize("scale", [1e-3, 0.5, 3.0, 1000.0])
@pytest.mark.parametrize("kind", ["indices", "soft", "masked", "weighted", "ignored"])
def test_fit_temperature_is_where_the_slope_is_zero(kind, scale, dtype):
    """The slope changes its sign within the bound of the temperature."""
    z, y = logits_of(60, 5, dtype, scale)
    t, weight, options = np.eye(5)[y], np.ones(60), {}
    targets: Any = y
    if kind == "soft":
        targets = t = np.random.default_rng(0).dirichlet(np.ones(5), 60) * 0.4 + 0.7 * t
    elif kind == "masked":
        z[np.arange(60), (y + 1) % 5] = -np.inf
    elif kind == "weighted":
        weight = options["sample_weight"] = np.linspace(0, 2, 60)
    elif kind == "ignored":
        targets = np.where(np.arange(60) % 3 == 0, -1, y)
        weight, options["ignore_index"] = (targets >= 0).astype(float), -1
    found = metrics.fit_temperature(z, targets, **options)
    # Newton's last step squares 1e-7; of float32 logits, derivatives have the errors of float32 losses.
    off = 1e-9 if dtype == np.float64 else 1e-4
    below, above = (slope_of_loss(z, t, weight, found * f) for f in (1 - off, 1 + off))
    assert below > 0 > above


def test_fit_temperature_undoes_a_scale():
    z, y = logits_of(3000, 10, np.float64, 1.0)
    base = metrics.fit_temperature(z, y)
    assert 0.9 < base < 1.1
    for scale in (1e-4, 7.0, 1e5):
        assert metrics.fit_temperature(scale * z, y) == pytest.approx(scale * base, rel=1e-9)


def test_fit_temperature_of_layouts_and_blocks(monkeypatch, dtype):
    """Axes, several blocks, half types and a shared offset."""
    z, y = logits_of(400, 6, dtype, 2.0)
    expected = metrics.fit_temperature(z, y)
    cube, labels = z.reshape(20, 20, 6), y.reshape(20, 20)
    assert metrics.fit_temperature(
        np.moveaxis(cube, -1, 1).copy(), labels, axis=1
    ) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 300)
    assert metrics.fit_temperature(z, y) == pytest.approx(expected, rel=1e-5)
    shifted = z.astype(np.float64) + np.linspace(-1e8, 1e8, 400)[:, None]
    exact = metrics.fit_temperature(shifted - np.linspace(-1e8, 1e8, 400)[:, None], y)
    assert metrics.fit_temperature(shifted, y) == pytest.approx(exact, rel=1e-6)
    for half in (np.float16, BFLOAT16):
        coarse = z.astype(half)
        assert metrics.fit_temperature(coarse, y) == pytest.approx(
            metrics.fit_temperature(coarse.astype(np.float32), y), rel=1e-6
        )


def test_fit_temperature_reads_the_logits_a_few_times(monkeypatch):
    calls = []
    original = metrics.calibration.slope
    monkeypatch.setattr(
        metrics.calibration, "slope", lambda *given: calls.append(given[-1]) or original(*given)
    )
    for scale in (0.2, 1.0, 5.0):
        calls.clear()
        metrics.fit_temperature(*logits_of(500, 10, np.float64, scale))
        assert 2 <= len(calls) <= 8


def test_derivatives_do_not_depend_on_a_shared_offset():
    """Of 2^20, of which float32 has the eighths: products with the logits themselves would cancel."""
    z, y = logits_of(50, 10, np.float64, 1.0)
    z = np.round(8 * z).astype(np.float32) / 8
    for t in (0.5, 1.0, 3.0):
        plain, shifted = (metrics.calibration.slope(x, y, None, -100, t) for x in (z, z + 2**20))
        np.testing.assert_allclose(shifted, plain, rtol=1e-5)


def test_fit_temperature_without_a_minimum():
    z = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert metrics.fit_temperature(z, [1, 0]) == math.inf
    assert metrics.fit_temperature(z.astype(np.float32), [1, 0]) == math.inf
    for dtype in (np.float32, np.float64):
        assert metrics.fit_temperature(np.array([[3, 1], [3, 1]], dtype), [0, 1]) == math.inf
    sharp = metrics.fit_temperature(z, [0, 1])
    assert 0 <= sharp < 0.01
    assert math.isnan(metrics.fit_temperature(z, [-100, -100]))
    assert math.isnan(metrics.fit_temperature(np.zeros((0, 3)), np.zeros(0, int)))
    assert math.isnan(metrics.fit_temperature([[np.nan, 0.0]], [0]))
    assert math.isnan(metrics.fit_temperature([[-np.inf, 0.0]], [0]))
    with pytest.raises(IndexError, match=r"targets\[1\] = 2 is not a class"):
        metrics.fit_temperature(z, [0, 2])
    with pytest.raises(ValueError, match="sample_weight"):
        metrics.fit_temperature(z, [0, 1], sample_weight=[1, 2, 3])


# Accumulators.


@pytest.mark.parametrize("scale", [0, 300, -300, -320])
def test_exact_sums(scale):
    """The sum of fractions, of any size, in any order and number of parts."""
    rng = np.random.default_rng(1)
    with np.errstate(all="ignore"):
        x = rng.normal(size=5000) * 10.0 ** rng.uniform(-7, 7, 5000) * 10.0**scale
    whole, left, right = ExactSum(), ExactSum(), ExactSum()
    whole.add(x)
    left.add(x[3000:][::-1])
    for part in np.split(x[:3000], 60):
        right.add(part)
    left.merge(right)
    exact = sum(map(Fraction, x.tolist()))
    assert whole.over(1) == left.over(1) == float(exact)
    assert whole.over(7) == left.over(7) == float(exact / 7)


def test_exact_sums_of_infinities():
    for numbers, expected in (
        ([np.inf, 1.0], np.inf),
        ([1.0, -np.inf], -np.inf),
        ([np.inf, -np.inf], np.nan),
        ([1.0, np.nan], np.nan),
        ([1e308, 1e308], np.inf),
        ([], 0.0),
    ):
        found = ExactSum()
        found.add(np.array(numbers))
        np.testing.assert_equal(found.over(1), expected)


def filled(
    cut: Callable[[int], list[slice]], dtype: Any, merged: bool = False
) -> metrics.Perplexity:
    rng = np.random.default_rng(5)
    z = rng.normal(0, 3, (300, 50)).astype(dtype)
    y = np.where(np.arange(300) % 7 == 0, -100, rng.integers(0, 50, 300))
    total = metrics.Perplexity()
    for part in cut(300):
        one = metrics.Perplexity() if merged else total
        one.update(z[part], y[part], bytes=part.stop - part.start)
        if merged:
            total.merge(one)
    return total


@pytest.mark.parametrize("merged", [False, True])
def test_perplexity_of_any_parts(merged, isa, dtype):
    """Not one bit of the result depends on how the rows were cut."""
    whole = filled(lambda n: [slice(0, n)], dtype).compute()
    for step in (1, 7, 128):
        parts = filled(
            lambda n, s=step: [slice(i, min(i + s, n)) for i in range(0, n, s)], dtype, merged
        )
        assert parts.compute() == whole


def test_perplexity_is_what_its_definition_says(dtype):
    found = filled(lambda n: [slice(0, n)], dtype).compute()
    rng = np.random.default_rng(5)
    z = rng.normal(0, 3, (300, 50)).astype(dtype)
    y = np.where(np.arange(300) % 7 == 0, -100, rng.integers(0, 50, 300))
    losses = [
        Fraction(float(x))
        for x, target in zip(xent.cross_entropy(z, y, reduction="none"), y, strict=True)
        if target != -100
    ]
    n, total = len(losses), sum(losses)
    mean = total / n
    variance = sum((x - mean) ** 2 for x in losses) / (n - 1)
    assert (found.count, found.loss) == (n, float(mean))
    assert found.perplexity == pytest.approx(float(mpmath.exp(found.loss)), rel=2**-52)
    assert found.bits_per_token == pytest.approx(float(mean) / math.log(2), rel=2**-51)
    assert found.bits_per_byte == pytest.approx(float(total / 300) / math.log(2), rel=2**-51)
    assert found.stderr == pytest.approx(math.sqrt(float(variance / n)), rel=2**-50)


def test_spread_of_equal_losses_is_zero():
    """Sums of squares are exact, so that nothing is left of nearly equal numbers but what is there."""
    metric = metrics.Perplexity()
    metric.update(np.zeros((1000, 100)), np.zeros(1000, int))
    assert metric.compute().stderr == 0
    metric = metrics.Perplexity()
    x = 10 + np.array([0.0, 2.0**-45] * 500)
    metric.update_log_probs(-x)
    assert metric.compute().stderr == pytest.approx(2.0**-46 / math.sqrt(999), rel=1e-9, abs=0)


def test_perplexity_of_nothing_and_of_infinities():
    metric = metrics.Perplexity()
    assert metric.compute().count == 0
    np.testing.assert_equal(metric.compute()[:3], (math.nan,) * 3)
    assert metric.compute().bits_per_byte is None
    metric.update(np.zeros((2, 3)), [-100, -100], bytes=5)
    assert math.isnan(metric.compute().loss)
    metric.update(np.zeros(3), 1)
    assert metric.compute().count == 1
    assert math.isnan(metric.compute().stderr)
    assert metric.compute().bits_per_byte == pytest.approx(math.log2(3) / 5)
    metric.update([[0.0, -np.inf]], [1])
    assert metric.compute()[:2] == (math.inf, math.inf)
    assert math.isnan(metric.compute().stderr)
    metric.reset()
    assert metric.compute().count == 0
    assert metric.compute().bits_per_byte is None
    metric.update_log_probs([-1000.0])
    assert metric.compute().perplexity == math.inf


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (IndexError, {"targets": [0, 3]}),
        (ValueError, {"bytes": 0}),
        (ValueError, {"bytes": -4}),
        (TypeError, {"bytes": 2.5}),
        (ValueError, {"targets": [0, 1, 2]}),
        (TypeError, {"targets": [[0.5, 0.25, 0.25]] * 2}),
    ],
    ids=str,
)
def test_what_perplexity_refuses_leaves_it_as_it_was(error, options):
    metric = metrics.Perplexity()
    metric.update(np.zeros((2, 3)), [0, 1], bytes=2)
    before = metric.compute()
    with pytest.raises(error, match=r"targets|bytes"):
        metric.update(**{"logits": np.ones((2, 3)), "targets": [0, 1]} | options)
    with pytest.raises(ValueError, match="log_probs"):
        metric.update_log_probs(["a"])
    assert metric.compute() == before


def test_log_probs_are_those_of_the_logits(dtype):
    z, y = logits_of(40, 9, dtype, 1.0)
    one, other = metrics.Perplexity(), metrics.Perplexity()
    one.update(z, y, softcap=5.0, temperature=2.0)
    other.update_log_probs(xent.token_log_probs(z, y, softcap=5.0, temperature=2.0))
    assert one.compute() == other.compute()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_log_loss_of_any_parts(weighted, merged, dtype):
    y, p = rows(200, 6, dtype)
    weight = np.linspace(0, 3, 200) if weighted else None
    whole = metrics.LogLoss()
    whole.update(y, p, weight)
    assert whole.compute() == pytest.approx(metrics.log_loss(y, p, sample_weight=weight), rel=1e-14)
    for step in (1, 3, 64):
        total = metrics.LogLoss()
        for i in range(0, 200, step):
            one = metrics.LogLoss() if merged else total
            part = slice(i, i + step)
            if weighted and not weight[part].any():
                continue  # a weight of nothing but zeros is refused
            one.update(y[part], p[part], None if weight is None else weight[part])
            if merged:
                total.merge(one)
        assert total.compute() == whole.compute()


def test_log_loss_takes_column_numbers():
    metric = metrics.LogLoss()
    assert math.isnan(metric.compute())
    metric.update([True, False], [0.75, 0.25])
    assert metric.compute() == pytest.approx(-math.log(0.75))
    with pytest.raises(IndexError, match=r"y_true\[1\] = 2 is not a class"):
        metric.update([0, 2], GOOD)
    for y in (["a", "b"], [0.0, 1.0], [[0, 1], [1, 0]]):
        with pytest.raises((TypeError, ValueError), match="y_true"):
            metric.update(y, GOOD)
    assert metric.compute() == pytest.approx(-math.log(0.75))
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("kind", [metrics.Perplexity, metrics.LogLoss])
def test_accumulators_travel(kind):
    metric = kind()
    if kind is metrics.LogLoss:
        metric.update([0, 1], GOOD)
    else:
        metric.update(np.array(GOOD), [0, 1], bytes=3)
    for one in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert one.compute() == metric.compute()
        one.merge(metric)
        assert one.compute() != kind().compute()
    with pytest.raises(TypeError, match=f"other: expected a {kind.__name__}, got int"):
        metric.merge(3)


# The examples of docstrings.


@pytest.mark.parametrize("name", metrics.__all__)
def test_docstrings(name):
    import doctest

    validate = pytest.importorskip("numpydoc.validate").validate
    found = getattr(metrics, name)
    runner, report = doctest.DocTestRunner(), []
    for test in doctest.DocTestFinder(recurse=False).find(found, name, module=False):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    if name == "PerplexityResult":
        return
    assert runner.tries > 0
    checks = {
        "GL01",
        "GL02",
        "GL03",
        "GL05",
        "GL08",
        "PR01",
        "PR02",
        "RT01",
        "RT03",
        "RT04",
        "RT05",
        "SS03",
    }
    wrong = [
        message for code, message in validate(f"xent.metrics.{name}")["errors"] if code in checks
    ]
    assert not wrong


@pytest.mark.parametrize("seed", range(20))
def test_what_is_calibrated_stays_so(seed):
    """Where the slope is a rounding at the first step, that is the minimum."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 3, (200, 5))
    y = (z / 2 + rng.gumbel(size=z.shape)).argmax(1)
    t = metrics.fit_temperature(z, y)
    assert metrics.fit_temperature(z / t, y) == pytest.approx(1, rel=1e-6)
    assert metrics.fit_temperature(z, xent.softmax(z, axis=1)) == pytest.approx(1, rel=1e-6)
    assert metrics.fit_temperature(z * 2.0**20, y) == pytest.approx(t * 2.0**20, rel=1e-6)


def test_scores_of_two_classes_are_no_row_of_classes():
    with pytest.raises(ValueError, match=r"give both logits, np\.stack"):
        metrics.fit_temperature(np.arange(9.0), np.ones(9, bool))


def test_positive_log_probabilities_are_refused():
    metric = metrics.Perplexity()
    with pytest.raises(ValueError, match=r"0\.5 at position \(1,\) is not the logarithm"):
        metric.update_log_probs([-1.0, 0.5])
    assert metric.compute().count == 0


def test_strings_of_arrow_are_labels():
    pa = pytest.importorskip("pyarrow")
    proba = [[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]
    labels = ["cat", "dog", "cat"]
    assert metrics.log_loss(pa.array(labels), proba) == metrics.log_loss(labels, proba)
