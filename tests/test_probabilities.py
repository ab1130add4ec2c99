"""`nll_loss` and `categorical_cross_entropy`: tests beyond those of all losses over rows."""

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
@pytest.mark.parametrize("kind", ["index", "smoothed", "soft"])
def test_what_is_not_a_probability(isa, dtype, kind, bad, eps):
    for shape in ((3, 4), (40, 70), (2, 3, 5), (4,)):
        p = np.full(shape, 0.25, dtype)
        position = tuple(n - 1 for n in shape)
        p[position] = bad
        out = np.full(shape[:-1], 7, dtype)
        grad_out = np.full(shape, 7, dtype)
        where = ", ".join(map(str, position))
        shown = str(float(dtype.type(bad))).replace(".", r"\.").replace("+", r"\+")
        targets: Any = np.full(shape[:-1], shape[-1] - 1 if kind == "index" else 0)
        options: dict[str, Any] = {"eps": eps, "out": out, "grad_out": grad_out}
        if kind == "smoothed":
            options["label_smoothing"] = 0.1
        if kind == "soft":
            targets = np.full(shape, 0.25)
        with pytest.raises(ValueError, match=rf"probs\[{where}\] = {shown}"):
            both("categorical_cross_entropy", p, targets, dtype, **options)
        assert (out == 7).all()
        assert (grad_out == 7).all()


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_the_first_that_is_not_a_probability_is_named(kind):
    p = np.full((50, 7), 0.25)
    p[20, 3] = p[30, 0] = p[20, 5] = 2
    targets: Any = np.full((50, 7), 0.25)
    if kind == "index":
        targets = np.zeros(50, int)
        targets[20] = 3
    swapped = p.astype(p.dtype.newbyteorder())
    for layout in (
        p,
        np.asfortranarray(p),
        p[:, ::-1][:, ::-1],
        np.repeat(p, 2, 1)[:, ::2],
        swapped,
    ):
        with pytest.raises(ValueError, match=r"probs\[20, 3\] = 2"):
            xent.categorical_cross_entropy(layout, targets)
    columns = p if kind == "index" else p[[30]]
    first = r"probs\[3, 20\] = 2" if kind == "index" else r"probs\[0, 0\] = 2"
    for layout in (columns.T, columns.T.astype(swapped.dtype)):
        with pytest.raises(ValueError, match=first):
            xent.categorical_cross_entropy(layout, targets[: len(columns)].T, axis=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_of_many_that_are_not_probabilities_is_named(isa, threads):
    p, targets = np.full((100_000, 5), 0.5, np.float32), np.arange(100_000) % 5
    p[9_000:, :] = 2
    p[:, 4] = -1
    targets[:9_001] = 1
    with xent.num_threads(threads), pytest.raises(ValueError, match=r"probs\[9000, 1\] = 2"):
        xent.categorical_cross_entropy(p, targets)
    targets[99_999] = 5
    with xent.num_threads(threads), pytest.raises(IndexError, match=r"targets\[99999\] = 5"):
        xent.categorical_cross_entropy(p, targets)


def test_rows_that_do_not_count_need_no_probability(isa, dtype):
    p = np.full((40, 6), 2, dtype)
    p[1::3] = 0.5
    targets, weight = np.full(40, 1), np.ones(40)
    targets[::3] = 5
    weight[2::3] = 0
    loss, grad = both(
        "categorical_cross_entropy", p, targets, dtype, ignore_index=5, sample_weight=weight
    )
    assert_close(loss, np.where(np.arange(40) % 3 == 1, LN2, 0), dtype)
    assert_close(grad[:, 1], np.where(np.arange(40) % 3 == 1, -2, 0), dtype)
    weight[2] = 1
    with pytest.raises(ValueError, match=r"probs\[2, 1\] = 2"):
        xent.categorical_cross_entropy(p, targets, ignore_index=5, sample_weight=weight)


def of_an_index(name: str, p: np.ndarray, targets: np.ndarray, axis: int) -> tuple[Any, Any]:
    """Loss and gradient of every row as NumPy writes them, but for the logarithm."""
    at = np.expand_dims(targets, axis)
    picked = np.take_along_axis(p, at, axis)
    grad = np.zeros_like(p)
    compute = np.float64 if p.dtype == np.float64 else np.float32
    slope = 1 if name == "nll_loss" else picked.astype(compute)
    np.put_along_axis(grad, at, (-1 / slope * np.ones(picked.shape, compute)).astype(p.dtype), axis)
    return picked.squeeze(axis), grad


#: Narrow and wide rows, in the cache and beyond it, whose ends lie anywhere in a cache line.
READ_ALONE = [
    (300, 1),
    (70, 2),
    (1000, 10),
    (40, 130),
    (7, 3000),
    (2_000_003, 2),
    (61_001, 67),
    (5003, 1000),
]


@BOTH
@pytest.mark.parametrize("shape", READ_ALONE, ids=str)
@pytest.mark.parametrize("type_", [np.float16, np.float32, np.float64])
def test_the_targets_number_alone_is_read(isa, name, shape, type_):
    """Whatever else is in the row, and wherever it lies, the gradient in the place of the input included."""
    if shape[0] * shape[1] > 10_000 and type_ == np.float64:
        shape = (shape[0] // 2, shape[1])
    generator = np.random.default_rng(3)
    targets = generator.integers(shape[1], size=shape[0])
    p = np.asarray([NAN, INF, -INF, 2], type_)[generator.integers(4, size=shape[0])]
    p = np.repeat(p[:, None], shape[1], 1)
    p[np.arange(shape[0]), targets] = np.linspace(0.25, 1, shape[0])
    picked, expected = of_an_index(name, p, targets, 1)
    value = -picked if name == "nll_loss" else None
    wide = np.full((shape[0], shape[1] + 3), 7, type_)
    layouts: list[tuple[np.ndarray, int]] = [(p, 1), (p.T.copy(), 0)]
    wide[:, 2:-1] = p
    layouts.append((wide[:, 2:-1], 1))
    for x, axis in layouts:
        options: dict[str, Any] = {"axis": axis, "reduction": "none", "return_grad": True}
        with xent.num_threads(3):
            loss, grad = getattr(xent, name)(x, targets, **options)
            if value is None:
                value = loss
                np.testing.assert_allclose(loss, -np.log(picked.astype(float)), rtol=1e-6, atol=0)
            np.testing.assert_array_equal(loss, value)
            np.testing.assert_array_equal(grad, expected if axis == 1 else expected.T)
            loss, grad = getattr(xent, name)(x, targets, grad_out=x, **options)
        np.testing.assert_array_equal(loss, value)
        np.testing.assert_array_equal(x, expected if axis == 1 else expected.T)
    assert (wide[:, [0, 1, -1]] == 7).all()


@BOTH
def test_of_a_row_that_threads_share_the_target_alone_is_read(isa, name):
    """Its gradient may be written where it lies."""
    for target in (0, 7, 700_000, 1_100_006):
        x = np.full((2, 1_100_007), NAN, np.float32)
        x[:, target] = 0.5
        expected = np.zeros_like(x)
        expected[0, target] = -1 if name == "nll_loss" else -2
        with xent.num_threads(3):
            options: dict[str, Any] = {"reduction": "none", "return_grad": True}
            loss, grad = getattr(xent, name)(x, [target, -100], **options)
            in_place, _ = getattr(xent, name)(x, [target, -100], grad_out=x, **options)
        np.testing.assert_array_equal(grad, expected)
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(in_place, loss)
        assert_close(loss, [-0.5 if name == "nll_loss" else LN2, 0], np.dtype(np.float32))


def test_the_ends_are_probabilities(dtype):
    loss = both("categorical_cross_entropy", [[0, 1], [1, 0]], [1, 0], dtype)[0]
    np.testing.assert_array_equal(loss, [0, 0])


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
