"""`logsumexp`, `softmax` and `log_softmax` give SciPy's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import xent
from calls import FAMILY
from tolerance import assert_within, expect

INF, NAN = np.inf, np.nan
SPECIAL_ROWS = (
    *([INF, 1], [1, INF], [INF, INF], [INF, -INF], [-INF, INF, 0], [-INF, -INF], [-INF, 0]),
    *([NAN, 1], [1, NAN], [NAN, INF], [NAN, -INF], [INF], [-INF], [NAN], [0.0], [-0.0, 0.0]),
    *([-INF] * 40, [INF] + [-INF] * 40, [-INF] * 70 + [3.0], [INF] * 17, [NAN] * 33),
)


@np.errstate(all="ignore")
def by_scipy(name: str, x: Any, **options: Any) -> Any:
    """What SciPy gives, which warns about infinities."""
    return getattr(scipy.special, name)(x, **options)


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
