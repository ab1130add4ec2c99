"""The sigmoid and its logarithm: error bounds, ends, layouts, buffers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp

import xent
from calls import assert_same
from reference import WIDE, wide
from test_layout import LAYOUTS
from tolerance import EXP_EPS, LOG1P_EPS, SIGMOID_EPS, assert_within, eps, tiny

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
INF, NAN = np.inf, np.nan
FUNCTIONS = pytest.mark.parametrize("function", [xent.sigmoid, xent.log_sigmoid])
HALVES = pytest.mark.parametrize("half", [np.dtype(np.float16), BFLOAT16], ids=str)


def numbers(dtype: np.dtype) -> np.ndarray:
    """Of every size, dense where the functions bend, to where they reach their ends."""
    rng = np.random.default_rng(0)
    info = ml_dtypes.finfo(dtype)
    far = [
        0.0,
        -0.0,
        float(info.tiny),
        float(info.smallest_subnormal),
        1e-30,
        17,
        88,
        709,
        745,
        800,
    ]
    x = np.concatenate([rng.normal(0, 4, 1500), np.linspace(-110, 110, 441), far])
    largest = np.array([float(info.max)])
    with np.errstate(all="ignore"):
        return np.concatenate([x, -x, largest, -largest]).astype(dtype)


def bounds(x: np.ndarray, compute: np.dtype) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Exact values, and what the roundings of exp, log1p, sums and a quotient may cost; what is tiny may be 0."""
    e, floor = eps(compute), tiny(compute)
    exact = [(1 / (1 + mp.exp(-v)), -mp.log1p(mp.exp(-v))) for v in map(mp.mpf, x.tolist())]
    sigmoid, logarithm = wide([s for s, _ in exact]), wide([s for _, s in exact])
    with np.errstate(under="ignore"):
        rest = np.log1p(np.exp(-np.abs(x.astype(WIDE))))
    of_logarithm = (EXP_EPS + LOG1P_EPS) * e * rest + floor + e / 2 * np.abs(logarithm)
    return (sigmoid, SIGMOID_EPS * e * sigmoid + floor), (logarithm, of_logarithm)


def test_error(isa, dtype):
    x = numbers(dtype)
    with mp.workdps(60):
        (sigmoid, of_sigmoid), (logarithm, of_logarithm) = bounds(x, dtype)
    assert xent.sigmoid(x).dtype == xent.log_sigmoid(x).dtype == dtype
    assert_within(xent.sigmoid(x), sigmoid, of_sigmoid)
    assert_within(xent.log_sigmoid(x), logarithm, of_logarithm)


@HALVES
def test_halves_are_computed_in_float32_and_rounded(isa, half):
    x = np.arange(1 << 16, dtype=np.uint16).view(half)
    x = x[~np.isnan(x.astype(np.float32))]
    for function in (xent.sigmoid, xent.log_sigmoid):
        found = function(x)
        assert found.dtype == half
        with np.errstate(all="ignore"):
            expected = function(x.astype(np.float32)).astype(half)
        assert (found.view(np.uint16) == expected.view(np.uint16)).all()


def test_ends(isa, dtype):
    x = np.array([-INF, INF, NAN, 0.0, -0.0], dtype)
    half = dtype.type(0.5)
    for found, expected in (
        (xent.sigmoid(x), [0, 1, NAN, half, half]),
        (xent.log_sigmoid(x), [-INF, 0, NAN, -np.log(dtype.type(2)), -np.log(dtype.type(2))]),
    ):
        np.testing.assert_array_equal(found, np.array(expected, dtype))
        assert not np.signbit(found[:2][found[:2] == 0]).any()


@HALVES
def test_ends_of_halves(half):
    x = np.array([-INF, INF, NAN, 0.0], half)
    for function, ends in ((xent.sigmoid, [0, 1, NAN]), (xent.log_sigmoid, [-INF, 0, NAN])):
        np.testing.assert_array_equal(function(x)[:3].astype(float), ends)


@FUNCTIONS
def test_integers_and_shapes(function):
    exact = function(np.array([-3.0, 0.0, 1.0]))
    for kind in (np.int8, np.int64):
        found = function(np.array([-3, 0, 1], kind))
        assert found.dtype == np.float64
        assert_same(found, exact)
    assert_same(function(np.array([0, 1], np.uint16)), exact[1:])
    assert_same(function(np.array([False, True])), exact[1:])
    assert_same(function([-3, 0, 1]), exact)
    scalar = function(1.0)
    assert isinstance(scalar, np.float64)
    assert scalar == exact[2]
    assert isinstance(function(np.float16(1)), np.float16)
    for shape in ((0,), (3, 0, 2)):
        for kind in (np.float16, np.float32, np.int32):
            assert function(np.zeros(shape, kind)).shape == shape


@FUNCTIONS
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kind", [np.float16, BFLOAT16, np.float32, np.float64, np.int32])
def test_layout(function, layout, kind):
    swapped = layout is LAYOUTS["byte swapped"]
    if swapped and kind is BFLOAT16:
        kind = np.float32  # ml_dtypes has its own in one byte order alone
    for shape in ((7, 10), (3, 5, 65), (600, 130)):
        with np.errstate(under="ignore"):
            x = np.random.default_rng(1).normal(0, 30, shape).astype(kind)
        expected = function(x)
        assert_same(function(layout(x)), expected)
        out = layout(np.zeros(shape, expected.dtype))
        if out.flags.writeable and not swapped:
            assert function(x, out=out) is out
            assert_same(np.ascontiguousarray(out), expected)


@FUNCTIONS
@pytest.mark.parametrize("kind", [np.float16, BFLOAT16, np.float32, np.float64])
def test_in_place(isa, function, kind):
    for size in (1, 100, 70_001):
        with np.errstate(under="ignore"):
            x = np.random.default_rng(2).normal(0, 5, size).astype(kind)
        expected = function(x.copy())
        assert function(x, out=x) is x
        assert_same(x, expected)


@FUNCTIONS
def test_threads_change_no_bits(isa, threads, function):
    x = np.random.default_rng(3).normal(0, 5, 300_000).astype(np.float32)
    found = function(x)
    with xent.num_threads(1):
        assert_same(found, function(x))


@FUNCTIONS
def test_refused(function):
    x = np.ones(5)
    for bad, error, words in (
        (np.ones(3, complex), TypeError, "x: dtype complex128"),
        (np.array(["a"]), TypeError, "x: dtype"),
        (np.ma.ones(3), TypeError, "x: a masked array"),
    ):
        with pytest.raises(error, match=words):
            function(bad)
    for out, error, words in (
        ([0.0], TypeError, "out: expected a numpy.ndarray, got list"),
        (np.ones(4), ValueError, r"out: expected shape \(5,\) and dtype float64"),
        (np.ones(5, np.float32), ValueError, r"out: expected shape \(5,\) and dtype float64"),
        (np.broadcast_to(1.0, 5), ValueError, "out: the array is read-only"),
    ):
        with pytest.raises(error, match=words):
            function(x, out=out)
    room = np.arange(6.0)
    with pytest.raises(ValueError, match="out: the array overlaps the memory of x"):
        function(room[1:], out=room[:-1])
    assert (room == np.arange(6)).all()
    with pytest.raises(TypeError, match="no keyword 'axis'"):
        function(x, axis=0)
