"""`logsumexp`, `softmax` and `log_softmax` give SciPy's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import xent
from calls import FAMILY, assert_same
from tolerance import assert_within, expect

INF, NAN = np.inf, np.nan
SPECIAL_ROWS = (
    *([INF, 1], [1, INF], [INF, INF], [INF, -INF], [-INF, INF, 0], [-INF, -INF], [-INF, 0]),
    *([NAN, 1], [1, NAN], [NAN, INF], [NAN, -INF], [INF], [-INF], [NAN], [0.0], [-0.0, 0.0]),
    *([-INF] * 40, [INF] + [-INF] * 40, [-INF] * 70 + [3.0], [INF] * 17, [NAN] * 33),
)


@np.errstate(all="ignore")
def by_scipy(name: str, *arguments: Any, **options: Any) -> Any:
    """What SciPy gives, which warns about infinities."""
    return getattr(scipy.special, name)(*arguments, **options)


def assert_agree(actual: Any, expected: Any, dtype: Any) -> None:
    """Compare finite numbers with SciPy's, whose log_softmax is off by an eps of 1 near 0."""
    slack = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(actual, expected, rtol=8 * slack, atol=slack)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("row", SPECIAL_ROWS, ids=lambda row: f"{row[:3]} {len(row)}")
def test_infinities_and_nan(isa, dtype, name, row):
    x = np.array(row, dtype)
    expected = by_scipy(name, x, axis=-1)
    actual = getattr(xent, name)(x, axis=-1)
    np.testing.assert_allclose(actual, expected, rtol=2 * np.finfo(dtype).eps)
    assert np.asarray(actual).dtype == dtype


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", [(5,), (1, 1), (4, 7), (3, 2, 33), (2, 3, 4, 5)], ids=str)
def test_every_axis(isa, dtype, name, shape):
    x = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
    for axis in range(-len(shape), len(shape)):
        reference = by_scipy(name, x, axis=axis)
        expected = expect(name, x, axis=axis)
        actual = getattr(xent, name)(x, axis=axis)
        assert_within(actual, expected.value, expected.value_bound, f"axis {axis}")
        assert np.shape(actual) == np.shape(reference)
        assert type(actual) is type(reference)
        assert_agree(actual, reference, dtype)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)], ids=str)
def test_keepdims(dtype, shape):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    for axis in range(len(shape)):
        kept = xent.logsumexp(x, axis=axis, keepdims=True)
        assert kept.shape == by_scipy("logsumexp", x, axis=axis, keepdims=True).shape
        np.testing.assert_array_equal(np.squeeze(kept, axis), xent.logsumexp(x, axis=axis))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *(((0,), 0), ((3, 0), 0), ((3, 0), 1), ((0, 3), 0), ((0, 3), 1)),
        *(((2, 0, 3), 0), ((2, 0, 3), 1), ((2, 0, 3), -1), ((0, 0), 0)),
    ],
    ids=str,
)
def test_empty_arrays(dtype, name, shape, axis):
    x = np.empty(shape, dtype)
    try:
        expected = by_scipy(name, x, axis=axis)
    except ValueError:
        with pytest.raises(ValueError, match=r"zero-size|no elements"):
            getattr(xent, name)(x, axis=axis)
        return
    actual = getattr(xent, name)(x, axis=axis)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype


@pytest.mark.parametrize("name", FAMILY)
def test_one_axis_is_the_default_of_a_vector(dtype, name):
    x = np.random.default_rng(2).normal(size=9).astype(dtype)
    by_default, by_axis = getattr(xent, name)(x), getattr(xent, name)(x, axis=0)
    np.testing.assert_array_equal(by_default, by_axis)
    assert_agree(by_default, by_scipy(name, x), dtype)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("axis", [None, (0,), (0, 1), (1, 2), (2, 0), (-1, 0, 1)], ids=str)
def test_several_axes(isa, dtype, name, axis):
    x = np.random.default_rng(4).normal(0, 3, (3, 4, 5)).astype(dtype)
    expected = by_scipy(name, x, axis=axis)
    actual = getattr(xent, name)(x, axis=axis)
    assert np.shape(actual) == np.shape(expected)
    assert_agree(actual, expected, dtype)
    out = np.zeros_like(actual)
    assert getattr(xent, name)(x, axis=axis, out=out) is out
    np.testing.assert_array_equal(out, actual)
    if name == "logsumexp":
        kept = xent.logsumexp(x, axis=axis, keepdims=True)
        assert kept.shape == by_scipy(name, x, axis=axis, keepdims=True).shape
        np.testing.assert_array_equal(kept.ravel(), np.ravel(actual))


@pytest.mark.parametrize("name", FAMILY)
def test_a_scalar_is_one_element(dtype, name):
    for value in (2.5, -np.inf, np.inf, np.nan):
        x = dtype.type(value)
        expected, actual = by_scipy(name, x), getattr(xent, name)(x)
        np.testing.assert_array_equal(actual, expected)
        assert type(actual) is dtype.type


@pytest.mark.parametrize("name", FAMILY)
def test_lists(name):
    x = [[1, 2.5], [-3, 4]]
    assert_agree(getattr(xent, name)(x, axis=1), by_scipy(name, np.array(x), axis=1), np.float64)


@pytest.mark.parametrize("name", FAMILY)
def test_out_is_filled_and_returned(isa, dtype, name):
    x = np.random.default_rng(3).normal(size=(6, 70)).astype(dtype)
    expected = getattr(xent, name)(x, axis=-1)
    out = np.full_like(expected, 7)
    assert getattr(xent, name)(x, axis=-1, out=out) is out
    np.testing.assert_array_equal(out, expected)
    strided = np.full((*expected.shape, 2), 7, dtype)
    getattr(xent, name)(x, axis=-1, out=strided[..., 0])
    np.testing.assert_array_equal(strided[..., 0], expected)
    assert (strided[..., 1] == 7).all()


SIGNED = pytest.mark.parametrize("return_sign", [False, True], ids=("", "sign"))


@np.errstate(all="ignore")
def assert_same_sum(x: Any, dtype: Any, **options: Any) -> None:
    """Compare with SciPy: values, signs, shapes, types."""
    actual, expected = xent.logsumexp(x, **options), by_scipy("logsumexp", x, **options)
    if not options.get("return_sign"):
        actual, expected = (actual,), (expected,)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert_agree(one, other, dtype)
        assert np.shape(one) == np.shape(other)
        assert type(one) is type(other)
        assert one.dtype == other.dtype


@SIGNED
@pytest.mark.parametrize(
    "shape", [(5,), (1, 1), (4, 7), (3, 2, 33), (2, 3, 4, 5), (2, 3000)], ids=str
)
def test_factors(isa, dtype, shape, return_sign):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, shape).astype(dtype)
    # Far from a sum of 0, in whose neighbourhood neither is exact.
    b = rng.uniform(0.5, 2, shape).astype(dtype)
    for axis in (None, *range(-len(shape), len(shape))):
        for factors in (b, -b, np.where(b > 1, b, 0), np.where(b > 0.6, 1, -b).astype(dtype)):
            for keepdims in (False, True):
                options = {"b": factors, "axis": axis, "keepdims": keepdims}
                assert_same_sum(x, dtype, return_sign=return_sign, **options)


@SIGNED
@pytest.mark.parametrize("axis", [(0,), (0, 1), (1, 2), (2, 0), (-1, 0, 1)], ids=str)
def test_factors_over_several_axes(dtype, axis, return_sign):
    rng = np.random.default_rng(4)
    x, b = rng.normal(0, 3, (2, 3, 4, 5)).astype(dtype)
    assert_same_sum(x, dtype, axis=axis, b=abs(b), return_sign=return_sign)
    assert_same_sum(x, dtype, axis=axis, b=-abs(b), return_sign=return_sign)


@SIGNED
@pytest.mark.parametrize(
    ("shape", "of_factors"),
    [
        *(((4, 5), (5,)), ((4, 5), (4, 1)), ((4, 5), ()), ((4, 5), (1, 1)), ((5,), (4, 5))),
        *(((4, 1), (1, 5)), ((), (3,)), ((3,), ()), ((), ()), ((2, 1, 3), (4, 1))),
    ],
    ids=str,
)
def test_factors_that_broadcast(dtype, shape, of_factors, return_sign):
    rng = np.random.default_rng(5)
    x = rng.normal(size=shape).astype(dtype)[()]
    b = rng.uniform(0.5, 2, of_factors).astype(dtype)[()]
    for axis in (None, -1) if np.ndim(x) or np.ndim(b) else (None,):
        assert_same_sum(x, dtype, b=b, axis=axis, return_sign=return_sign)


@SIGNED
@pytest.mark.parametrize("row", SPECIAL_ROWS, ids=lambda row: f"{row[:3]} {len(row)}")
@pytest.mark.parametrize("factors", [[1.0], [2.0, 0.5], [-1.0], [0.0], [0.0, 3.0], [3.0, 0.0]])
def test_factors_of_infinities_and_nan(isa, dtype, row, factors, return_sign):
    """A factor of 0 leaves out whatever it multiplies, as SciPy's comments state."""
    x, b = np.array(row, dtype), np.resize(factors, len(row)).astype(dtype)
    expected = by_scipy("logsumexp", np.where(b == 0, -INF, x), b=b, return_sign=return_sign)
    actual = xent.logsumexp(x, b=b, return_sign=return_sign)
    np.testing.assert_allclose(actual, expected, rtol=4 * np.finfo(dtype).eps)


@SIGNED
@pytest.mark.parametrize(
    ("row", "factors"), [([INF, INF], [2.0, -1.5]), ([-INF, INF, 1.0, INF], [-3.0, -1.5, 1.0, 2.0])]
)
def test_infinities_that_oppose_each_other(isa, dtype, row, factors, return_sign):
    assert_same_sum(
        np.array(row, dtype), dtype, b=np.array(factors, dtype), return_sign=return_sign
    )


@SIGNED
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_infinite_factors(dtype, bad, return_sign):
    for x in ([0.5, 1.0], [1.0, 0.5], [-INF, 1.0]):
        b = np.array([bad, 1.0], dtype)
        assert_same_sum(np.array(x, dtype), dtype, b=b, return_sign=return_sign)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((0,), 0), ((3, 0), 0), ((3, 0), 1), ((0, 3), 1), ((2, 0, 3), -1), ((0,), None)],
    ids=str,
)
def test_factors_of_empty_arrays(dtype, shape, axis):
    """The sum of nothing is 0, and so is its sign, where SciPy has -1."""
    x = np.empty(shape, dtype)
    for options in ({"b": x}, {}):
        assert_same_sum(x, dtype, axis=axis, **options)
        lse, sign = xent.logsumexp(x, axis=axis, return_sign=True, **options)
        assert np.shape(sign) == np.shape(lse)
        assert np.isneginf(lse).all()
        assert (sign == 0).all()


@pytest.mark.parametrize("row", SPECIAL_ROWS, ids=lambda row: f"{row[:3]} {len(row)}")
def test_signs_without_factors(isa, dtype, row):
    assert_same_sum(np.array(row, dtype), dtype, axis=-1, return_sign=True)


def test_sums_of_zero_and_below(isa, dtype):
    x = np.zeros((3, 2), dtype)
    b = np.array([[1, -1], [1, -2], [2, -1]], dtype)
    lse, sign = xent.logsumexp(x, axis=1, b=b, return_sign=True)
    np.testing.assert_array_equal(lse, [-INF, 0, 0])
    np.testing.assert_array_equal(sign, [0, -1, 1])
    np.testing.assert_array_equal(xent.logsumexp(x, axis=1, b=b), [-INF, NAN, 0])


def test_factors_whose_sum_is_hardly_above_one(isa, dtype):
    """log1p of what is there besides the 1, as without factors."""
    x = np.array([[0, -50], [0, -12], [-30, 0]], dtype)
    b = np.array([[1, 2], [1, 0.5], [-1, 1]], dtype)
    exact = np.log1p(np.array([2, 0.5, -1]) * np.exp([-50.0, -12.0, -30.0]))
    np.testing.assert_allclose(xent.logsumexp(x, axis=1, b=b), exact, rtol=4 * np.finfo(dtype).eps)


def test_factors_with_the_largest_terms_cancelled(isa, dtype):
    """What is left is still exact, where it is far above what rounding the largest would cost."""
    x = np.array([[1000, 1000, 999], [-700, -700, -701]], dtype)
    b = np.array([1, -1, 2], dtype)
    expected = np.array([999, -701]) + np.log(2)
    np.testing.assert_allclose(xent.logsumexp(x, axis=1, b=b), expected, rtol=np.finfo(dtype).eps)


@SIGNED
def test_factors_within_the_bounds(isa, dtype, return_sign):
    rng = np.random.default_rng(6)
    for classes in (1, 2, 3, 17, 64, 130, 1025, 17_000):
        x = rng.normal(0, 5, (8, classes)).astype(dtype)
        b = rng.normal(0.3, 1, x.shape).astype(dtype)
        b[:, ::5] = 0
        expected = expect("logsumexp", x, b=b, return_sign=return_sign)
        actual = xent.logsumexp(x, axis=-1, b=b, return_sign=return_sign)
        lse = actual[0] if return_sign else actual
        assert_within(lse, expected.value, expected.value_bound, f"{classes} classes")


@pytest.mark.parametrize("code", ["e", "f", "d", "b", "q", "B", "?"])
def test_factors_of_every_real_dtype(dtype, code):
    x = np.random.default_rng(7).normal(size=(3, 8)).astype(dtype)
    b = np.arange(24).reshape(3, 8).astype(code)
    expected = xent.logsumexp(x, axis=1, b=b.astype(dtype))
    np.testing.assert_allclose(xent.logsumexp(x, axis=1, b=b), expected, rtol=np.finfo(dtype).eps)


def test_factors_leave_no_bit_to_threads_and_layouts(isa, dtype):
    rng = np.random.default_rng(8)
    for shape in ((3, 5), (200, 70), (2, 50_000)):
        x, b = (rng.normal(size=shape).astype(dtype) for _ in range(2))
        expected = xent.logsumexp(x, axis=1, b=b, return_sign=True)
        with xent.num_threads(3):
            assert_same(xent.logsumexp(x, axis=1, b=b, return_sign=True), expected)
        for layout in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
            found = xent.logsumexp(layout(x), axis=1, b=layout(b), return_sign=True)
            assert_same(found, expected)
        columns = xent.logsumexp(x.T.copy(), axis=0, b=b.T.copy(), return_sign=True)
        assert_same(columns, expected)
        for i in (0, shape[0] - 1):
            alone = xent.logsumexp(x[i], b=b[i], return_sign=True)
            assert_same(alone, (expected[0][i], expected[1][i]))


def test_factors_and_buffers(dtype):
    x = np.random.default_rng(9).normal(size=(6, 70)).astype(dtype)
    expected = xent.logsumexp(x, axis=1, b=-x, return_sign=True)
    out = np.full(6, 7, dtype)
    lse, sign = xent.logsumexp(x, axis=1, b=-x, return_sign=True, out=out)
    assert lse is out
    assert_same((lse, sign), expected)
    with pytest.raises(ValueError, match=r"out.*overlap"):
        xent.logsumexp(x, axis=1, b=(b := np.ones((6, 70), dtype)), out=b[:, 0])
    assert (b == 1).all()


def test_factors_in_the_places_that_scipy_has_them(dtype):
    """Positions as in SciPy: a, axis, b, keepdims, return_sign."""
    x = np.random.default_rng(10).normal(size=(3, 4)).astype(dtype)
    actual = xent.logsumexp(x, 1, abs(x), True, True)
    expected = by_scipy("logsumexp", x, 1, abs(x), True, True)
    for one, other in zip(actual, expected, strict=True):
        assert_agree(one, other, dtype)
        assert one.shape == other.shape
