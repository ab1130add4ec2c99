"""One-hot and smoothed labels, against their definition, and what is refused."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

import xent

INTEGERS = (
    *(np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    np.dtype(">i4"),
)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (2, 1, 3)])
def test_one_hot(kind, shape):
    indices = np.random.default_rng(0).integers(0, 5, shape).astype(kind)
    for axis in range(-len(shape) - 1, len(shape) + 1):
        found = xent.one_hot(indices, 5, axis=axis)
        assert found.dtype == np.float64
        assert found.shape[axis] == 5
        last = np.moveaxis(found, axis, -1)
        assert last.shape == (*shape, 5)
        for at in itertools.product(*map(range, shape)):
            expected = [float(c == int(indices[at])) for c in range(5)]
            assert last[at].tolist() == expected


@pytest.mark.parametrize(
    "kind", [bool, np.int8, np.float16, BFLOAT16, np.float32, complex], ids=str
)
def test_one_hot_of_a_dtype(kind):
    found = xent.one_hot([[1, 0]], 2, dtype=kind)
    assert found.dtype == np.dtype(kind)
    assert found.astype(complex).tolist() == [[[0, 1], [1, 0]]]


def test_one_hot_of_little():
    assert xent.one_hot([True, False], 2).tolist() == [[0, 1], [1, 0]]
    assert xent.one_hot([], 3).shape == (0, 3)
    assert xent.one_hot(np.zeros((2, 0), int), 3, axis=0).shape == (3, 2, 0)
    assert xent.one_hot([0, 0], 1).tolist() == [[1], [1]]
    one = xent.one_hot([0], 2)
    one[0, 1] = 5  # a new array, which may be written to


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([0, 3], r"indices\[1\] = 3 is not a class; expected 0 <= index < 3"),
        ([[0, 1], [-1, 9]], r"indices\[1, 0\] = -1 is not a class"),
        (np.array(7), r"indices\[\] = 7 is not a class"),
        (np.array([2**64 - 1], np.uint64), r"indices\[0\] = 18446744073709551615 is not a class"),
        (np.array([-128], np.int8), r"indices\[0\] = -128"),
    ],
)
def test_one_hot_of_no_class(indices, words):
    with pytest.raises(IndexError, match=words):
        xent.one_hot(indices, 3)


def test_one_hot_refuses():
    for arguments, options, error, words in (
        (([0.0, 1.0], 3), {}, TypeError, r"indices: dtype float64 .* convert them with .astype"),
        ((["a"], 3), {}, TypeError, "indices: dtype <U1"),
        (([0.5], 3), {}, TypeError, "indices: dtype float64 is not accepted for class indices$"),
        (([0], 0), {}, ValueError, "num_classes: expected an integer >= 1, got 0"),
        (([0], 2.0), {}, TypeError, r"num_classes: expected an integer >= 1, got 2\.0"),
        (([0], None), {}, TypeError, "num_classes: .* got None"),
        (([0], 2**62), {}, ValueError, r"indices: shape \(1,\) with 4611686018427387904 classes"),
        (([0], 2), {"axis": 2}, np.exceptions.AxisError, "axis: 2 is out of bounds"),
        (([0], 2), {"axis": 0.5}, TypeError, "axis: expected an integer"),
        (
            ([0], 2),
            {"dtype": "many"},
            TypeError,
            "dtype: expected a dtype of numbers or bool, got 'many'",
        ),
        (
            ([0], 2),
            {"dtype": "U1"},
            TypeError,
            "dtype: expected a dtype of numbers or bool, got <U1",
        ),
        (([0], 2), {"dtype": object}, TypeError, "dtype: expected a dtype of numbers or bool"),
        (([0], 2), {"depth": 3}, TypeError, "no keyword 'depth'"),
    ):
        with pytest.raises(error, match=words):
            xent.one_hot(*arguments, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3, 1.0])
def test_smooth_labels_of_indices(smoothing):
    indices = np.array([[0, 3], [1, 1]])
    for classes in (None, 4, 7):
        count = classes or 4
        found = xent.smooth_labels(indices, smoothing, classes)
        expected = np.eye(count)[indices] * (1 - smoothing) + smoothing / count
        assert found.dtype == np.float64
        # A rounding of each of two operations on numbers of at most 1.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2**-52)
        np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=count * 2**-52)


@pytest.mark.parametrize("kind", [np.float16, BFLOAT16, np.float32, np.float64], ids=str)
def test_smooth_labels_of_probabilities(kind):
    t = np.random.default_rng(1).dirichlet(np.ones(5), (3, 2)).astype(kind)
    found = xent.smooth_labels(t, 0.2)
    assert found.dtype == np.dtype(kind)
    expected = t.astype(np.longdouble) * 0.8 + 0.04
    eps = float(ml_dtypes.finfo(kind).eps)
    # The factors, product and sum are rounded, in float32 at least, and the result once more.
    assert (np.abs(found.astype(np.longdouble) - expected) <= 2 * eps * expected).all()
    assert (xent.smooth_labels(t, 0.0) == t).all()
    assert (t <= 1).all()


def test_smoothed_targets_are_those_of_the_loss():
    rng = np.random.default_rng(2)
    logits, targets = rng.normal(0, 2, (9, 4)), rng.integers(0, 4, 9)
    expected = xent.cross_entropy(logits, targets, label_smoothing=0.1)
    for smoothed in (
        xent.smooth_labels(targets, 0.1, 4),
        xent.smooth_labels(xent.one_hot(targets, 4), 0.1),
    ):
        found = xent.cross_entropy(logits, smoothed)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_smooth_labels_refuses():
    for arguments, error, words in (
        (([0, 5], 0.1, 5), IndexError, r"targets\[1\] = 5 is not a class; expected 0 <= index < 5"),
        (([0, -1], 0.1), IndexError, r"targets\[1\] = -1 is not a class"),
        (([], 0.1), ValueError, "targets: no class indices, which num_classes"),
        (([0, 1], 1.5), ValueError, r"smoothing: expected a number in \[0, 1\], got 1\.5"),
        (([0, 1], np.nan), ValueError, "smoothing: .* got nan"),
        (([0, 1], True), TypeError, "smoothing: .* got True"),
        (([0, 1], "0.1"), TypeError, "smoothing: .* got '0.1'"),
        (([0, 1], 0.1, 0), ValueError, "num_classes: expected an integer >= 1, got 0"),
        (([[0.5, 1.5]],), ValueError, r"targets\[0, 1\] = 1\.5 is not a probability"),
        (([[0.5, 0.5]], 0.1, 3), ValueError, r"num_classes: 3, but targets of shape \(1, 2\)"),
        ((0.5,), ValueError, "targets: expected class probabilities with at least one axis"),
        ((np.ones(2, complex),), TypeError, "targets: dtype complex128"),
    ):
        with pytest.raises(error, match=words):
            xent.smooth_labels(*arguments)
    with pytest.raises(TypeError, match="no keyword 'alpha'"):
        xent.smooth_labels([0], alpha=0.1)
    assert np.isnan(xent.smooth_labels([np.nan, 0.5])[0])
    assert xent.smooth_labels(np.zeros((0, 3))).shape == (0, 3)
