"""`nll_loss` and `categorical_cross_entropy`: what is theirs alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import inputs
import xent
from calls import REDUCTIONS, assert_same
from tolerance import assert_within, expect

INF, NAN = np.inf, np.nan
LN2 = np.log(2.0)
BOTH = pytest.mark.parametrize("name", ["nll_loss", "categorical_cross_entropy"])
WIDTHS = (2, 3, 5, 16, 17, 64, 65, 130, 1024, 1025, 2049, 16385)


def both(name: str, x: Any, targets: Any, dtype: np.dtype, **options: Any) -> Any:
    """Loss and gradient, row by row unless told otherwise."""
    call = {"reduction": "none", "return_grad": True} | options
    return getattr(xent, name)(np.asarray(x, dtype), targets, **call)


def check(name: str, x: Any, targets: Any, what: str = "", **options: Any) -> None:
    """Hold loss and gradient to the oracle."""
    expected = expect(name, x, targets, **options)
    loss, grad = getattr(xent, name)(x, targets, return_grad=True, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")


def assert_close(actual: Any, expected: Any, dtype: np.dtype) -> None:
    """Equal infinities, NaN and zeros; the rest to 4 eps."""
    np.testing.assert_allclose(actual, expected, rtol=4 * np.finfo(dtype).eps, atol=0)


# probabilities, target, loss of the row, its gradient
ROWS: dict[str, tuple[Any, ...]] = {
    "two equal classes": ([0.5, 0.5], 0, LN2, [-2, 0]),
    "certain": ([1, 0, 0], 0, 0, [-1, 0, 0]),
    "impossible": ([0, 1], 0, INF, [-INF, 0]),
    "minus zero": ([-0.0, 1], 0, INF, [-INF, 0]),
    "need not sum to 1": ([0.25, 1, 1], 0, 2 * LN2, [-4, 0, 0]),
    "0 log 0 of soft targets": ([0.5, 0, 0.5], [0.5, 0, 0.5], LN2, [-1, 0, -1]),
    "impossible, with a share": ([1, 0], [0.5, 0.5], INF, [-0.5, -INF]),
    "no target at all": ([0, 0.5], [0, 0], 0, [0, 0]),
    "targets that sum to 2": ([0.5, 0.5], [1, 1], 2 * LN2, [-2, -2]),
    "NaN at the target": ([NAN, 0.5], 0, NAN, [NAN, 0]),
    "NaN with a share": ([NAN, 0.5], [0.5, 0.5], NAN, [NAN, -1]),
    "NaN in the targets": ([0.5, 0.5], [NAN, 1], NAN, [NAN, -2]),
}
# log-probabilities, or any other numbers
LOG_ROWS: dict[str, tuple[Any, ...]] = {
    "minus infinity at the target": ([-INF, 0], 0, INF, [-1, 0]),
    "minus infinity elsewhere": ([-INF, -1], 1, 1, [0, -1]),
    "0 · (-inf) is 0": ([-INF, -1], [0, 1], 1, [0, -1]),
    "minus infinity with a share": ([-INF, -1], [0.5, 0.5], INF, [-0.5, -0.5]),
    "plus infinity at the target": ([INF, 0], 0, -INF, [-1, 0]),
    "above 0": ([3, -1], 0, -3, [-1, 0]),
    "both infinities": ([-INF, INF], [0.5, 0.5], NAN, [-0.5, -0.5]),
    "NaN at the target": ([NAN, 0], 0, NAN, [-1, 0]),
    "NaN elsewhere": ([NAN, -1], 1, 1, [0, -1]),
    "NaN with a share": ([NAN, 0], [0.5, 0.5], NAN, [-0.5, -0.5]),
    "huge": ([-1e30, 0], 0, 1e30, [-1, 0]),
}


@pytest.mark.parametrize(
    ("name", "row"),
    [("categorical_cross_entropy", row) for row in ROWS.values()]
    + [("nll_loss", row) for row in LOG_ROWS.values()],
    ids=[*ROWS, *(f"logarithms: {row}" for row in LOG_ROWS)],
)
def test_row(isa, dtype, name, row):
    """Alone, and among others that nothing pulls on."""
    x, target, loss, grad = row
    for width in (len(x), *WIDTHS):
        room = width - len(x)
        if room < 0:
            continue
        for before in (0, room):
            padding = (before, room - before)
            padded = np.pad(np.asarray(x, float), padding, constant_values=0.125)
            if isinstance(target, list):
                aim: Any = np.pad(np.asarray(target, float), padding)
            else:
                aim = target + before
            actual = both(name, [padded], [aim], dtype)
            assert_close(actual[0], [loss], dtype)
            assert_close(actual[1], [np.pad(np.asarray(grad, float), padding)], dtype)


@BOTH
def test_a_bad_row_spoils_no_other_row(isa, dtype, name):
    for classes in (2, 10, 64, 65, 1025):
        x = inputs.probabilities((37, classes), dtype)
        targets = inputs.batch((37, classes), dtype)[1]
        targets[17] = classes // 2
        for aim in (targets, np.full((37, classes), 0.5)):
            clean = both(name, x, aim, dtype)
            bad = x.copy()
            bad[17, classes // 2] = NAN
            loss, grad = both(name, bad, aim, dtype)
            assert np.isnan(loss[17])
            others = np.arange(37) != 17
            assert_same((loss[others], grad[others]), tuple(c[others] for c in clean))
            for reduction in ("sum", "mean"):
                loss, grad = both(name, bad, aim, dtype, reduction=reduction)
                clean_grad = both(name, x, aim, dtype, reduction=reduction)[1]
                assert np.isnan(loss)
                assert_same(grad[others], clean_grad[others])


@BOTH
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=("", "weighted"))
def test_ignored_rows_count_for_nothing(isa, dtype, name, weighted, smoothing, reduction):
    for classes in (10, 130):
        for ignore_index in (-100, 3, 1000):
            x = inputs.probabilities((40, classes), dtype)
            targets = inputs.batch((40, classes), dtype)[1]
            targets[::3] = ignore_index
            x[::6, 0] = NAN
            options: dict[str, Any] = {"ignore_index": ignore_index, "reduction": reduction}
            options["label_smoothing"] = smoothing
            if weighted:
                options["class_weight"] = np.linspace(0.5, 2, classes)
                options["sample_weight"] = np.linspace(0, 2, 40)
            check(name, x, targets, f"{classes}, {ignore_index}", **options)
            grad = getattr(xent, name)(x, targets, return_grad=True, **options)[1]
            assert (grad[::3] == 0).all()


@BOTH
def test_nothing_that_counts(isa, dtype, name):
    x = np.full((4, 3), 0.5, dtype)
    for given in ({"ignore_index": 1}, {"class_weight": [1, 0, 1]}, {"sample_weight": 0.0}):
        for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.zeros(4))):
            loss, grad = both(name, x, np.ones(4, int), dtype, reduction=reduction, **given)
            np.testing.assert_array_equal(loss, expected)
            np.testing.assert_array_equal(grad, np.zeros((4, 3)))


@BOTH
def test_the_mean_divides_by_the_weights_of_the_rows_that_count(isa, dtype, name):
    x, targets = np.full((4, 3), 0.5), [0, 1, 2, -100]
    each = LN2 if name == "categorical_cross_entropy" else -0.5
    slope = -2 if name == "categorical_cross_entropy" else -1
    weights = {"class_weight": [1, 2, 4], "sample_weight": [1, 1, 3, 100]}
    loss, grad = both(name, x, targets, dtype, reduction="mean", **weights)
    assert_close(loss, each, dtype)
    assert_close(grad[2], [0, 0, slope * 12 / 15], dtype)
    soft = np.eye(3)[[0, 1, 2, 0]]
    loss, grad = both(name, x, soft, dtype, reduction="mean", **weights)
    assert_close(loss, each * (1 + 2 + 12 + 100) / 105, dtype)
    assert_close(grad[2], [0, 0, slope * 12 / 105], dtype)


@pytest.mark.parametrize("classes", [1, 3, 64, 65, 5000])
def test_nll_of_an_index_is_the_number_itself(isa, dtype, classes):
    x, targets = inputs.batch((50, classes), dtype)
    loss, grad = xent.nll_loss(x, targets, reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, -x[np.arange(50), targets])
    np.testing.assert_array_equal(grad, -(np.arange(classes) == targets[:, None]).astype(dtype))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_three_ways_to_the_same_loss(isa, dtype, kind, smoothing):
    """From logits, log-probabilities and probabilities, each to its own bound."""
    for shape in ((30, 5), (10, 100), (3, 2000)):
        logits, targets = inputs.batch(shape, dtype)
        if kind == "soft":
            targets = inputs.soft_targets(shape, dtype)
        log_p, p = xent.log_softmax(logits, axis=-1), xent.softmax(logits, axis=-1)
        options = {"class_weight": np.linspace(0.5, 2, shape[1]), "label_smoothing": smoothing}
        expected = xent.cross_entropy(logits, targets, **options)
        # What an ulp of log p, and a relative error of p of (4 + its distance) eps, make of it.
        close = {"rtol": 64 * np.finfo(dtype).eps}
        np.testing.assert_allclose(xent.nll_loss(log_p, targets, **options), expected, **close)
        actual = xent.categorical_cross_entropy(p, targets, **options)
        np.testing.assert_allclose(actual, expected, **close)


def test_sure_probabilities_keep_their_digits(isa, dtype):
    """log p is good to an ulp next to 1, where a naive log(p + c) is not."""
    step = np.finfo(dtype).epsneg
    p = np.stack([1 - step * np.arange(1, 2000), np.full(1999, 0.5)], axis=1).astype(dtype)
    check("categorical_cross_entropy", p, np.zeros(1999, int), reduction="none")


def test_every_magnitude_of_probability(isa, dtype):
    """Down to the smallest subnormal number, where the gradient overflows as it must."""
    limits = np.finfo(dtype)
    exponents = np.arange(limits.minexp - limits.nmant, 1)
    p = np.ldexp(dtype.type(1), exponents).astype(dtype)
    p = np.concatenate([p, (0.75 * p[p >= limits.tiny]).astype(dtype), [dtype.type(0)]])
    x = np.stack([p, p[::-1]], axis=1)
    # An upstream gradient that leaves the extreme quotients away from the largest number.
    check("categorical_cross_entropy", x, np.zeros(len(p), int), reduction="none")
    check("categorical_cross_entropy", x, np.full(x.shape, 0.25), reduction="none")


@pytest.mark.parametrize("eps", [1e-30, 1e-7, 1e-3, 0.25, 0.5])
@pytest.mark.parametrize("kind", ["index", "soft", "smoothed"])
def test_clipping(isa, dtype, kind, eps):
    for classes in (2, 10, 65, 1025):
        p = inputs.soft_targets((20, classes), dtype)
        p[::4] = np.arange(classes) == 1
        p[1::4] = np.asarray([eps, 1 - eps], dtype)[np.arange(classes) % 2]
        targets: Any = np.arange(20) % classes
        options: dict[str, Any] = {"eps": eps, "reduction": "none"}
        if kind == "soft":
            targets = inputs.soft_targets((20, classes), dtype, seed=1)
        if kind == "smoothed":
            options["label_smoothing"] = 0.1
        check("categorical_cross_entropy", p, targets, f"{classes}", **options)


def test_clipping_at_and_beyond_its_bounds(isa, dtype):
    """The interval is closed: at its ends p still has a gradient."""
    eps = 2.0**-10
    below, above = np.nextafter(dtype.type(eps), 0), np.nextafter(dtype.type(1 - eps), 1)
    p = np.array([[eps, 0], [below, 0], [0, 0], [1 - eps, 0], [above, 0], [1, 0]], dtype)
    loss, grad = both("categorical_cross_entropy", p, np.zeros(6, int), dtype, eps=eps)
    low, high = 10 * LN2, -np.log1p(-eps)
    assert_close(loss, [low] * 3 + [high] * 3, dtype)
    assert_close(grad[:, 0], [-1 / eps, 0, 0, -1 / (1 - eps), 0, 0], dtype)
    assert (grad[:, 1] == 0).all()


def test_clipping_lets_nan_through(isa, dtype):
    for classes in (2, 65):
        p = np.full((3, classes), 0.5, dtype)
        p[1, 0] = NAN
        loss, grad = both("categorical_cross_entropy", p, [0, 0, 1], dtype, eps=1e-3)
        assert_close(loss, [LN2, NAN, LN2], dtype)
        assert_close(grad[1], [NAN] + [0] * (classes - 1), dtype)


def test_without_clipping_nothing_is_added(isa, dtype):
    """A tiny probability costs its logarithm, as far as numbers go."""
    tiny = float(np.finfo(dtype).tiny)
    loss = xent.categorical_cross_entropy(np.array([[tiny, 0.5]], dtype), [0])
    assert_close(loss, -np.log(tiny), dtype)


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("bad", [-1e-30, -1.0, 1.0 + 2e-7, 2.0, INF, -INF])
def test_what_is_not_a_probability(dtype, bad, eps):
    for shape in ((3, 4), (40, 70), (2, 3, 5), (4,)):
        p = np.full(shape, 0.25, dtype)
        position = tuple(n - 1 for n in shape)
        p[position] = bad
        out = np.full(shape[:-1], 7, dtype)
        grad_out = np.full(shape, 7, dtype)
        where = ", ".join(map(str, position))
        shown = str(float(dtype.type(bad))).replace(".", r"\.").replace("+", r"\+")
        with pytest.raises(ValueError, match=rf"probs\[{where}\] = {shown}"):
            both(
                "categorical_cross_entropy",
                p,
                np.zeros(shape[:-1], int),
                dtype,
                eps=eps,
                out=out,
                grad_out=grad_out,
            )
        assert (out == 7).all()
        assert (grad_out == 7).all()


def test_the_first_that_is_not_a_probability_is_named():
    p = np.full((50, 7), 0.25)
    p[20, 3] = p[30, 0] = p[20, 5] = 2
    for layout in (p, np.asfortranarray(p), p[:, ::-1][:, ::-1]):
        with pytest.raises(ValueError, match=r"probs\[20, 3\] = 2"):
            xent.categorical_cross_entropy(layout, np.zeros(50, int))
    with pytest.raises(ValueError, match=r"probs\[0, 30\] = 2"):
        xent.categorical_cross_entropy(p.T, np.zeros(50, int), axis=0)


def test_the_ends_are_probabilities(dtype):
    loss = both("categorical_cross_entropy", [[0, 1], [1, 0]], [1, 0], dtype)[0]
    np.testing.assert_array_equal(loss, [0, 0])


@BOTH
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "bad", [np.int64(-1), np.int64(5), np.uint64(2**63), np.int64(-(2**63)), np.uint8(255)], ids=str
)
def test_target_out_of_range(isa, dtype, name, bad, reduction):
    x = np.full((4, 6, 5), 0.5, dtype)
    targets = np.zeros((4, 6), bad.dtype)
    targets[2, 3] = bad
    out = np.full((4, 6) if reduction == "none" else (), 7, dtype)
    buffers = {"out": out, "grad_out": np.full(x.shape, 7, dtype)}
    with pytest.raises(IndexError, match=rf"targets.*\b2, 3\b.*{bad}"):
        both(name, x, targets, dtype, reduction=reduction, **buffers)
    assert all((buffer == 7).all() for buffer in buffers.values())


@BOTH
@pytest.mark.parametrize("code", [*"bhilqBHILQ", "?"])
def test_targets_of_every_integer_dtype(dtype, name, code):
    x = inputs.probabilities((50, 2 if code == "?" else 100), dtype)
    targets = inputs.batch(x.shape, dtype)[1]
    assert_same(both(name, x, targets.astype(code), dtype), both(name, x, targets, dtype))


@BOTH
@pytest.mark.parametrize("code", [*"bhilqBHILQ", "?", "f", "d"])
def test_one_hot_of_every_real_dtype_is_the_index(dtype, name, code):
    x = inputs.probabilities((20, 9), dtype)
    targets = inputs.batch(x.shape, dtype)[1]
    one_hot = (np.arange(9) == targets[:, None]).astype(code)
    for actual, expected in zip(
        both(name, x, one_hot, dtype), both(name, x, targets, dtype), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@BOTH
def test_smoothing_an_index_is_smoothing_its_one_hot(dtype, name):
    x = inputs.probabilities((10, 8), dtype)
    targets = inputs.batch(x.shape, dtype)[1]
    index = both(name, x, targets, dtype, label_smoothing=0.3)
    soft = both(name, x, np.eye(8)[targets], dtype, label_smoothing=0.3)
    for actual, expected in zip(index, soft, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=16 * np.finfo(dtype).eps)
