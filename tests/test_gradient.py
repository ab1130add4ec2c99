"""Gradients against finite differences of the loss, and identities that every gradient satisfies."""

from __future__ import annotations

import numpy as np
import pytest

import inputs
import xent
from calls import OPTIONS, REDUCTIONS
from reference import WIDE
from tolerance import expect


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_is_the_difference_quotient_of_the_loss(name, kind, reduction):
    shape, step = (4, 6), 1e-5
    logits, targets = inputs.batch(shape, np.float64)
    if kind == "soft":
        targets = inputs.soft_targets(shape, np.float64)
    else:
        targets[1] = -100
    options = OPTIONS[name](shape) | {"reduction": reduction}
    upstream = np.random.default_rng(6).normal(size=shape[0]) if reduction == "none" else 2.5
    grad = xent.cross_entropy(logits, targets, return_grad=True, grad_output=upstream, **options)[1]
    for position in np.ndindex(shape):
        moved = np.zeros(shape)
        moved[position] = step
        up = xent.cross_entropy(logits + moved, targets, **options)
        down = xent.cross_entropy(logits - moved, targets, **options)
        quotient = np.sum((up - down) * upstream) / (2 * step)
        # The third derivative times step² / 6, and an ulp or two of the loss over the step.
        assert abs(grad[position] - quotient) < 2e-9, position


@pytest.mark.parametrize("sizes", [inputs.SMALL[::7], inputs.EDGES[::4]], ids=("small", "edges"))
def test_gradients_of_a_row_sum_to_zero(isa, dtype, sizes):
    """A row's gradient sums to zero, because loss and gradient use the same log-sum-exp."""
    for classes in sizes:
        logits = inputs.adversarial(classes, dtype)
        targets = inputs.telling_targets(logits)[:, 0]
        grad = xent.cross_entropy(logits, targets, reduction="sum", return_grad=True)[1]
        bound = expect("cross_entropy", logits, targets, reduction="sum").grad_bound.sum(axis=-1)
        assert (abs(grad.astype(WIDE).sum(axis=-1)) <= bound).all(), classes


@pytest.mark.parametrize("classes", [3, 64, 1000, 20000])
def test_softmax_and_gradient_agree(isa, dtype, classes):
    logits, targets = inputs.batch((8, classes), dtype)
    grad = xent.cross_entropy(logits, targets, reduction="sum", return_grad=True)[1]
    p = xent.softmax(logits, axis=-1)
    off_target = np.arange(classes) != targets[:, None]
    np.testing.assert_array_equal(grad[off_target], p[off_target])


def test_soft_targets_that_do_not_sum_to_one_weigh_the_softmax(dtype):
    logits, _ = inputs.batch((5, 7), dtype)
    targets = 3 * inputs.soft_targets((5, 7), dtype) + dtype.type(0.1)
    grad = xent.cross_entropy(logits, targets, reduction="sum", return_grad=True)[1]
    p = xent.softmax(logits.astype(np.float64), axis=-1)
    formula = targets.sum(axis=-1, keepdims=True, dtype=np.float64) * p - targets
    np.testing.assert_allclose(grad, formula, atol=8 * np.finfo(dtype).eps, rtol=0)


def test_every_spelling_of_one_loss_has_one_gradient(dtype):
    logits, targets = inputs.batch((6, 9), dtype)
    total = xent.cross_entropy(logits, targets, reduction="sum", return_grad=True)[1]
    ones = xent.cross_entropy(
        logits, targets, reduction="none", grad_output=np.ones(6), return_grad=True
    )[1]
    np.testing.assert_array_equal(ones, total)
    mean = xent.cross_entropy(logits, targets, grad_output=6.0, return_grad=True)[1]
    np.testing.assert_allclose(mean, total, rtol=4 * np.finfo(dtype).eps)
    implicit = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)[1]
    np.testing.assert_array_equal(implicit, total)


def test_certain_rows_keep_a_gradient(isa, dtype):
    for surplus in (20.0, 40.0, 60.0):
        grad = xent.cross_entropy(np.array([[surplus, 0]], dtype), [0], return_grad=True)[1][0]
        exact = np.exp(-WIDE(surplus)) / (1 + np.exp(-WIDE(surplus)))
        # 4 + gap ULP of the true class; of the other the same by its distance.
        assert abs(grad[0] + exact) <= (4 + surplus) * np.spacing(dtype.type(exact))
        assert abs(grad[1] - exact) <= (4 + surplus) * np.finfo(dtype).eps * exact
