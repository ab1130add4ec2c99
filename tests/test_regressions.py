"""Inputs that once gave a wrong result or no clear error, each with the right one."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.special

import xent

INF, NAN = np.inf, np.nan
F32 = np.float32


@pytest.mark.parametrize(
    ("shape", "axis", "result"),
    [
        ((0, 2, 3), (1, 2), (0,)),
        ((2, 0, 3), (0, 2), (0,)),
        ((0, 3), (), (0, 3)),
        ((2, 0, 3), (1, 2), (2,)),
    ],
)
def test_empty_arrays_over_several_axes(shape, axis, result):
    x = np.zeros(shape)
    for factors in (None, 2.0, np.ones(shape)):
        for out in (None, np.full(result, 7.0)):
            found = xent.logsumexp(x, axis=axis, b=factors, out=out)
            np.testing.assert_array_equal(found, np.full(result, -INF))
    if 0 in result:
        for function in (xent.softmax, xent.log_softmax):
            assert function(x, axis=axis).shape == shape
            assert function(x, axis=axis, out=x) is x


def test_scores_of_no_tokens():
    assert np.isnan(xent.perplexity(np.zeros((0, 5)), []))
    assert xent.token_log_probs(np.zeros((0, 5)), []).shape == (0,)


@pytest.mark.parametrize("function", [xent.perplexity, xent.token_log_probs])
def test_scores_of_integers_in_the_shape_of_the_logits(function):
    with pytest.raises(TypeError, match=r"\(2, 3\), are not accepted by .*\(2,\)"):
        function(np.zeros((2, 3)), [[7, 1, 2], [3, 4, 5]])


def exact_sum(a: list[float], b: list[float]) -> tuple[float, int]:
    with mpmath.workdps(60):
        total = mpmath.fsum(
            mpmath.mpf(w) * mpmath.exp(mpmath.mpf(x)) for x, w in zip(a, b, strict=True)
        )
        return float(mpmath.log(abs(total))), int(mpmath.sign(total))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.0, -720.0], [1e-300, 1e300]),
        ([709.9, 0.0], [1e-310, -2.0]),
        ([0.0, 0.0], [1e308, 1e308]),
        ([0.0, 0.0], [5e-324, 5e-324]),
        ([1e5, 0.0], [1e-300, 1.0]),
        ([-1e5, -1e5 + 1], [1e-300, -1e300]),
        ([3.0, 3.0, 3.0], [0.75, 1.5, -3.0]),
        ([700.0, 690.0, -5.0], [-1e-320, 1.0, 1e305]),
    ],
)
def test_factors_of_any_size(a, b):
    """The size of a term is that of its factor and its exponential together."""
    value, sign = exact_sum(a, b)
    found, found_sign = xent.logsumexp(a, b=b, return_sign=True)
    assert found_sign == sign
    # A rounding of a - m and of log b, each of which may be as large as the largest of them.
    largest = max(max(np.abs(a)), max(np.abs(np.log(np.abs(b)))), 1)
    assert abs(found - value) <= 8 * np.finfo(float).eps * largest


def test_factors_decide_the_dtype_as_in_scipy():
    single = F32([1, 2])
    for b in (2.0, [1.0, 2.0], np.array([1, 2]), F32(2), np.array([1, 2], np.int8), np.ones(2)):
        for a in (single, single.astype(np.float16)):
            expected = scipy.special.logsumexp(a, b=b)
            found = xent.logsumexp(a, b=b)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(found.dtype).eps)


def test_a_factor_that_is_nan():
    assert np.isnan(xent.logsumexp([-INF], b=[NAN]))
    assert xent.logsumexp([1.0, NAN], b=[1.0, 0.0]) == 1.0


@pytest.mark.parametrize("function", [xent.logsumexp, xent.softmax, xent.log_softmax])
def test_scalars_have_an_axis(function):
    for axis in (None, 0, -1):
        assert function(2.0, axis=axis) == getattr(scipy.special, function.__name__)(2.0, axis=axis)
    with pytest.raises(np.exceptions.AxisError, match="axis: 1 is out of bounds"):
        function(2.0, axis=1)


def test_factors_of_many_axes():
    x = np.zeros((1,) * 40)
    assert xent.logsumexp(x, b=np.full(x.shape, 2.0)) == np.log(2)


def test_targets_that_broadcast_on_purpose():
    """A scalar, or what does not make the logits grow, of elementwise losses."""
    logits = np.linspace(-2, 2, 12).reshape(3, 4)
    wide = np.tile(logits, (7000, 1))  # converted block by block
    for function in (xent.binary_cross_entropy_with_logits, xent.sigmoid_focal_loss, xent.kl_div):
        for targets in (1.0, [0.25], [[1], [0], [0.5]], np.arange(4) / 4):
            for options in ({}, {"reduction": "none", "return_grad": True}):
                expected = function(logits, np.broadcast_to(targets, logits.shape), **options)
                for found, wanted in zip(
                    np.atleast_1d(function(logits, targets, **options)),
                    np.atleast_1d(expected),
                    strict=True,
                ):
                    np.testing.assert_array_equal(found, wanted)
        for dtype in (">f8", int):
            x = wide.astype(dtype)
            np.testing.assert_array_equal(function(x, 1.0), function(x, np.ones(x.shape)))
    for targets in (np.ones((2, 3, 4)), np.ones(3), np.ones((1, 3, 4))):
        with pytest.raises(ValueError, match=r"targets: shape .* that of logits, \(3, 4\)"):
            xent.binary_cross_entropy_with_logits(logits, targets)


def test_perplexity_is_the_exponential_of_the_mean_before_it_is_rounded():
    """Rounded before, it would be off by as many ulp as the mean is large."""
    rng = np.random.default_rng(5)
    for size in (0.1, 3, 10, 25):
        logits = (size * rng.normal(size=(50, 30))).astype(F32)
        targets = rng.integers(0, 30, 50)
        row_losses = xent.cross_entropy(logits, targets, reduction="none")
        with mpmath.workdps(30):
            exact = float(mpmath.exp(mpmath.fsum(map(float, row_losses)) / 50))
        found = xent.perplexity(logits, targets)
        assert found.dtype == F32
        assert abs(float(found) - exact) <= np.spacing(F32(exact))


@pytest.mark.parametrize(
    ("given", "error", "cure"),
    [
        (
            {"targets": [0.0, 1.0]},
            TypeError,
            r"integers or bool: convert them with \.astype\(np\.int64\)",
        ),
        ({"targets": [0.5, 1.0]}, TypeError, r"integers or bool\. Class"),
        ({"class_weight": {0: 1.0, 1: 2.0}}, TypeError, r"\[weights\[c\] for c in range\(C\)\]"),
        ({"class_weight": "balanced"}, TypeError, r"np\.bincount"),
        (
            {"class_weight": np.array([1, 2, None])},
            TypeError,
            r"\.to_numpy\(float, na_value=np\.nan\)",
        ),
        (
            {"logits": np.array([[1, 2, None]] * 2)},
            TypeError,
            r"\.to_numpy\(float, na_value=np\.nan\)",
        ),
        (
            {"label_smoothing": True},
            TypeError,
            r"label_smoothing: expected a number in \[0, 1\], got True",
        ),
        (
            {"grad_out": type("Tensor", (), {"__module__": "torch"})(), "return_grad": True},
            TypeError,
            r"expected a numpy\.ndarray, got Tensor; give its \.numpy\(\)",
        ),
    ],
)
def test_errors_name_the_cure(given, error, cure):
    with pytest.raises(error, match=cure):
        xent.cross_entropy(**{"logits": np.zeros((2, 3)), "targets": [0, 1]} | given)


def test_a_loss_in_the_memory_where_logits_of_no_class_begin():
    """Arrays without elements lie nowhere, so that nothing overlaps them."""
    memory = np.full(1, 7.0)
    logits = np.ndarray((0, 1), memory.dtype, memory)
    loss = xent.cross_entropy(logits, [-100], axis=0, reduction="none", out=memory)
    assert loss is memory
    assert loss == 0
