"""Every option, alone and together, for index and soft targets, reductions and ISAs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import inputs
import xent
from calls import OPTIONS, REDUCTIONS
from tolerance import assert_within, expect

SHAPES = ((7,), (1, 1), (5, 10), (2, 3, 33), (3, 1025))
INTEGERS = (*"bhilq", *"BHILQ")


def check(logits: Any, targets: Any, what: str = "", **options: Any) -> None:
    """Hold a call, with its gradient and log-sum-exp, to the oracle."""
    expected = expect("cross_entropy", logits, targets, **options)
    loss, grad, lse = xent.cross_entropy(
        logits, targets, return_grad=True, return_lse=True, **options
    )
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")
    assert_within(lse, expected.lse, expected.lse_bound, f"lse {what}")
    options.pop("grad_output", None)
    np.testing.assert_array_equal(xent.cross_entropy(logits, targets, **options), loss)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_option(isa, dtype, name, kind, reduction):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        if kind == "soft":
            targets = inputs.soft_targets(shape, dtype)
        check(logits, targets, f"{shape}", reduction=reduction, **OPTIONS[name](shape))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_ignored_rows_count_for_nothing(dtype, name, reduction):
    for ignore_index in (-100, 3, 1000):
        logits, targets = inputs.batch((40, 10), dtype)
        targets[::3] = ignore_index
        options = OPTIONS[name](logits.shape) | {"ignore_index": ignore_index}
        check(logits, targets, reduction=reduction, **options)


@pytest.mark.parametrize("name", ["token_log_probs", "perplexity"])
def test_language_model_scores(isa, dtype, name):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        weight = OPTIONS["sample_weight"](shape)
        for options in ({}, weight, {"softcap": 5.0, "temperature": 0.8}):
            expected = expect(name, logits, targets, **options)
            actual = getattr(xent, name)(logits, targets, **options)
            assert_within(actual, expected.value, expected.value_bound, f"{shape}, {options}")


def test_language_model_scores_ignore_padding(dtype):
    logits, targets = inputs.batch((4, 9, 20), dtype)
    targets[:, 6:] = -100
    scores = xent.token_log_probs(logits, targets)
    assert (scores[:, 6:] == 0).all()
    assert (scores[:, :6] < 0).all()
    losses = xent.cross_entropy(logits, targets, reduction="none")
    np.testing.assert_array_equal(scores, -losses)
    mean = losses[:, :6].astype(np.float64).mean()
    np.testing.assert_allclose(
        xent.perplexity(logits, targets), np.exp(mean), rtol=8 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_grad_output_multiplies_the_gradient(isa, dtype, kind, reduction):
    shape = (6, 4, 17)
    logits, targets = inputs.batch(shape, dtype)
    if kind == "soft":
        targets = inputs.soft_targets(shape, dtype)
    upstream: Any = -1.75
    if reduction == "none":
        upstream = np.random.default_rng(4).normal(0, 2, shape[:-1])
    check(logits, targets, reduction=reduction, grad_output=upstream)
    check(
        logits, targets, reduction=reduction, grad_output=upstream, **OPTIONS["everything"](shape)
    )


@pytest.mark.parametrize("code", [*INTEGERS, "?"])
def test_targets_of_every_integer_dtype(dtype, code):
    logits, targets = inputs.batch((50, 2 if code == "?" else 100), dtype)
    for name in ("plain", "class_weight"):
        options = {"return_grad": True, **OPTIONS[name](logits.shape)}
        for reduction in ("none", "mean"):
            expected = xent.cross_entropy(logits, targets, reduction=reduction, **options)
            given = targets.astype(code)
            actual = xent.cross_entropy(logits, given, reduction=reduction, **options)
            np.testing.assert_array_equal(actual[0], expected[0])
            np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("code", [*INTEGERS, "?", "f", "d"])
def test_one_hot_of_every_real_dtype_is_the_index(dtype, code):
    logits, targets = inputs.batch((20, 9), dtype)
    one_hot = (np.arange(9) == targets[:, None]).astype(code)
    expected = expect("cross_entropy", logits, one_hot, reduction="none")
    loss, grad = xent.cross_entropy(logits, one_hot, reduction="none", return_grad=True)
    assert_within(loss, expected.value, expected.value_bound)
    assert_within(grad, expected.grad, expected.grad_bound)
    by_index = expect("cross_entropy", logits, targets, reduction="none")
    assert_within(loss, by_index.value, by_index.value_bound)


@pytest.mark.parametrize("code", [*INTEGERS, "?"])
def test_integer_and_bool_logits_become_float64(code):
    logits = np.array([[1, 0, 0], [0, 1, 1]], code)
    as_float = logits.astype(np.float64)
    for name in ("logsumexp", "softmax", "log_softmax"):
        actual = getattr(xent, name)(logits, axis=-1)
        assert actual.dtype == np.float64
        np.testing.assert_array_equal(actual, getattr(xent, name)(as_float, axis=-1))
    if code == "H":  # bits more often than numbers: test_half.py
        return
    loss, grad = xent.cross_entropy(logits, [0, 1], return_grad=True)
    expected = xent.cross_entropy(as_float, [0, 1], return_grad=True)
    assert (loss.dtype, grad.dtype) == (np.float64, np.float64)
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize("code", ["f", "d", "i", "B", "?"])
def test_weights_of_every_real_dtype_are_taken_in_the_compute_dtype(dtype, code):
    logits, targets = inputs.batch((12, 5), dtype)
    rng = np.random.default_rng(3)
    weights = rng.integers(1, 4, 5).astype(code), rng.integers(1, 4, 12).astype(code)
    options = dict(zip(("class_weight", "sample_weight"), weights, strict=True))
    converted = {name: value.astype(dtype) for name, value in options.items()}
    for reduction in REDUCTIONS:
        actual = xent.cross_entropy(logits, targets, reduction=reduction, **options)
        expected = xent.cross_entropy(logits, targets, reduction=reduction, **converted)
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)


def test_weights_too_large_for_the_compute_dtype_are_infinite():
    logits, targets = np.zeros((2, 3), np.float32), [0, 1]
    for name, weight in (("class_weight", [1e300, 1, 1]), ("sample_weight", [1e300, 1])):
        rows = xent.cross_entropy(logits, targets, reduction="none", **{name: weight})
        assert rows.tolist() == [np.inf, pytest.approx(np.log(3))]
    _, grad = xent.cross_entropy(
        logits, targets, reduction="none", return_grad=True, grad_output=[1e300, 1]
    )
    assert np.isinf(grad[0]).all()
    assert np.isfinite(grad[1]).all()


def test_lists_and_scalars_are_taken_as_arrays():
    loss, grad = xent.cross_entropy([0.0, np.log(3.0)], 1, return_grad=True)
    np.testing.assert_allclose(loss, np.log(4 / 3), rtol=1e-15)
    np.testing.assert_allclose(grad, [0.25, -0.25], rtol=1e-15)
    rows = xent.cross_entropy([[1, 2], [3, 4]], [0, 1], reduction="none", class_weight=[1, 0])
    assert rows.shape == (2,)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (1, 4), (3, 4)])
def test_sample_weight_broadcasts_to_the_loss(dtype, shape):
    logits, targets = inputs.batch((3, 4, 6), dtype)
    weight = np.random.default_rng(5).uniform(0.5, 2, shape).astype(dtype)
    full = np.broadcast_to(weight, (3, 4)).copy()
    for reduction in REDUCTIONS:
        check(logits, targets, f"{shape}", reduction=reduction, sample_weight=weight)
        actual = xent.cross_entropy(logits, targets, reduction=reduction, sample_weight=weight)
        expected = xent.cross_entropy(logits, targets, reduction=reduction, sample_weight=full)
        np.testing.assert_array_equal(actual, expected)


def test_a_row_of_weight_two_counts_as_two_rows(dtype):
    logits, targets = inputs.batch((10, 8), dtype)
    weight = np.array([1, 2, 3, 1, 2, 1, 1, 2, 1, 0])
    repeated = np.repeat(logits, weight, axis=0), np.repeat(targets, weight)
    for reduction in ("sum", "mean"):
        once = xent.cross_entropy(logits, targets, sample_weight=weight, reduction=reduction)
        many = xent.cross_entropy(*repeated, reduction=reduction)
        np.testing.assert_allclose(once, many, rtol=4 * np.finfo(dtype).eps)


def test_smoothing_an_index_is_smoothing_its_one_hot(dtype):
    logits, targets = inputs.batch((10, 8), dtype)
    one_hot = np.eye(8)[targets]
    index = xent.cross_entropy(logits, targets, label_smoothing=0.3, return_grad=True)
    soft = xent.cross_entropy(logits, one_hot, label_smoothing=0.3, return_grad=True)
    np.testing.assert_allclose(index[0], soft[0], rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(index[1], soft[1], atol=2 * np.finfo(dtype).eps, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_class_axis(isa, dtype, axis, kind):
    logits, targets = inputs.batch((4, 5, 12), dtype)
    if kind == "soft":
        targets = np.moveaxis(inputs.soft_targets((4, 5, 12), dtype), -1, axis)
    check(np.moveaxis(logits, -1, axis), targets, axis=axis, class_weight=np.linspace(0.5, 2, 12))


def test_return_value_has_the_parts_that_were_asked_for(dtype):
    logits, targets = inputs.batch((4, 3), dtype)
    loss = xent.cross_entropy(logits, targets)
    assert isinstance(loss, dtype.type)
    rows = xent.cross_entropy(logits, targets, reduction="none")
    assert isinstance(rows, np.ndarray)
    assert (rows.shape, rows.dtype) == ((4,), dtype)
    one, grad = xent.cross_entropy(logits, targets, return_grad=True)
    assert one == loss
    assert (grad.shape, grad.dtype) == ((4, 3), dtype)
    one, lse = xent.cross_entropy(logits, targets, return_lse=True)
    assert one == loss
    assert (lse.shape, lse.dtype) == ((4,), dtype)
    assert len(xent.cross_entropy(logits, targets, return_grad=True, return_lse=True)) == 3
    one, same, hess = xent.cross_entropy(logits, targets, return_hess=True)
    assert one == loss
    np.testing.assert_array_equal(same, grad)
    assert (hess.shape, hess.dtype) == ((4, 3), dtype)
    *parts, last = xent.cross_entropy(logits, targets, return_hess=True, return_lse=True)
    assert len(parts) == 3
    np.testing.assert_array_equal(last, lse)
    assert len(xent.focal_loss(logits, targets, return_hess=True)) == 3
    assert len(xent.focal_loss(logits, targets, return_grad=True)) == 2
    assert len(xent.poly1_loss(logits, targets, return_grad=True)) == 2
    assert isinstance(xent.focal_loss(logits, targets), dtype.type)
    assert isinstance(xent.poly1_loss(logits, targets), dtype.type)
    assert isinstance(xent.perplexity(logits, targets), np.floating)
    assert isinstance(xent.token_log_probs(logits, targets), np.ndarray)
