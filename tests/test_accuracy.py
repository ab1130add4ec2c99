"""Every function on rows that break naive code, within the guaranteed bounds, on every instruction set."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import inputs
import xent
from calls import FAMILY
from reference import WIDE, exact_row, wide
from tolerance import assert_within, expect


@cache
def loss_case(classes: int, dtype: np.dtype, column: int) -> tuple[Any, ...]:
    """Adversarial rows, their targets, and what must come out."""
    logits = inputs.adversarial(classes, dtype)
    targets = inputs.telling_targets(logits)[:, column]
    return logits, targets, expect("cross_entropy", logits, targets, reduction="none")


@cache
def family_case(name: str, classes: int, dtype: np.dtype) -> tuple[Any, ...]:
    """Adversarial rows, and what a function of the softmax family makes of them."""
    logits = inputs.adversarial(classes, dtype)
    return logits, expect(name, logits)


def check_loss(logits, targets, what, reduction="none", expected=None):
    """Hold the loss and the gradient of a plain call to their bounds."""
    expected = expected or expect("cross_entropy", logits, targets, reduction=reduction)
    loss, grad = xent.cross_entropy(logits, targets, reduction=reduction, return_grad=True)
    assert_within(loss, expected.value, expected.value_bound, f"loss of {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient of {what}")


@pytest.mark.parametrize("sizes", [inputs.SMALL, inputs.EDGES], ids=("1..130", "edges"))
def test_loss_and_gradient_of_every_kind_of_row(isa, dtype, sizes):
    columns = range(4 if sizes is inputs.SMALL else 2)
    for classes in sizes:
        for column in columns:
            logits, targets, expected = loss_case(classes, dtype, column)
            what = f"{classes} classes, targets {column}, rows {', '.join(inputs.KINDS)}"
            check_loss(logits, targets, what, expected=expected)


@pytest.mark.parametrize("sizes", [inputs.SMALL, inputs.EDGES], ids=("1..130", "edges"))
@pytest.mark.parametrize("name", FAMILY)
def test_softmax_family_on_every_kind_of_row(isa, dtype, name, sizes):
    for classes in sizes:
        logits, expected = family_case(name, classes, dtype)
        what = f"{classes} classes, rows {', '.join(inputs.KINDS)}"
        actual = getattr(xent, name)(logits, axis=-1)
        assert_within(actual, expected.value, expected.value_bound, what)


@pytest.mark.parametrize("classes", [2, 16, 65, 1025])
def test_loss_against_sixty_digits(isa, dtype, classes):
    for column in range(4 if classes < 100 else 1):
        logits, targets, expected = loss_case(classes, dtype, column)
        exact = [
            exact_row(row.tolist(), int(target)).loss
            for row, target in zip(logits, targets, strict=True)
        ]
        actual = xent.cross_entropy(logits, targets, reduction="none")
        what = f"{classes} classes, rows {', '.join(inputs.KINDS)}"
        assert_within(actual, wide(exact), expected.value_bound, what)


@pytest.mark.parametrize("classes", [2, 3, 64, 1000])
def test_certain_rows_keep_their_digits_down_to_a_loss_of_1e_30(isa, dtype, classes):
    surplus = np.linspace(0, 69, 2000 if classes < 100 else 200)
    logits = np.repeat(-surplus[:, None] - np.log(classes - 1), classes, axis=1).astype(dtype)
    targets = np.arange(len(logits)) % classes
    logits[np.arange(len(logits)), targets] = 0
    smallest = xent.cross_entropy(logits, targets, reduction="none").min()
    assert 0.9e-30 < smallest < 1.2e-30
    check_loss(logits, targets, "certain rows")
    check_loss(logits, targets, "certain rows", reduction="mean")


@pytest.mark.parametrize("classes", [10, 1025, 20000])
def test_equal_others_do_not_add_up_their_errors(isa, dtype, classes):
    rows = 1000 if classes < 100 else 40_000 // classes + 60
    rng = np.random.default_rng(classes)
    logits = np.repeat(-rng.uniform(0, 40, (rows, 1)), classes, axis=1).astype(dtype)
    targets = rng.integers(0, classes, rows)
    logits[np.arange(rows), targets] = 0
    check_loss(logits, targets, "equal others")


@pytest.mark.parametrize("rows", [1, 5, 16, 17, 100])
def test_mean_gradient_is_within_the_bounds_of_a_single_row(isa, dtype, rows):
    for classes in (2, 10, 130, 1025):
        logits, targets = inputs.batch((rows, classes), dtype)
        check_loss(logits, targets, f"{rows} rows of {classes}", reduction="mean")


def test_a_shared_offset_changes_nothing_the_input_still_resolves(isa, dtype):
    rng = np.random.default_rng(0)
    logits = (8.0 * rng.integers(-12, 1, (50, 33))).astype(dtype)
    targets = rng.integers(0, 33, 50)
    near = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)
    far = xent.cross_entropy(logits + dtype.type(1e8), targets, reduction="none", return_grad=True)
    np.testing.assert_array_equal(far[0], near[0])
    np.testing.assert_array_equal(far[1], near[1])


def test_probabilities_below_the_smallest_normal_number_flush_to_zero(isa, dtype):
    edge = np.log(np.finfo(dtype).tiny)
    for classes in (5, 70, 1100):
        logits = np.full((1, classes), edge - 5, dtype)
        logits[0, :5] = [0, edge + 0.01, edge - 0.01, edge - 0.5, 10 * edge]
        for first in (logits, logits[:, ::-1]):
            at = np.s_[2:] if first is logits else np.s_[: classes - 2]
            p = xent.softmax(first, axis=-1)[0]
            assert (p[at] == 0).all()
            assert np.delete(p, at).min() >= np.finfo(dtype).tiny
            grad = xent.cross_entropy(first, [int(p.argmax())], return_grad=True)[1][0]
            assert (grad[at] == 0).all()
            # A third of what is left of them is below that number, too.
            rows, targets = np.repeat(first, 3, axis=0), np.full(3, classes // 2)
            grads = xent.cross_entropy(rows, targets, return_grad=True)[1]
            assert ((grads == 0) == ((p < 1) & (np.arange(classes) != classes // 2))).all()


def test_derivatives_under_a_cap_flush_to_zero(isa, dtype):
    """The cap's slope, about 3/4 there, takes a probability below the smallest normal number."""
    tiny = float(np.finfo(dtype).tiny)
    edge = np.log(tiny)
    cap = -2 * edge
    for classes in (3, 400):
        logits = np.full((1, classes), -np.inf, dtype)
        logits[0, :3] = cap * np.arctanh([0, (edge + 0.1) / cap, (edge + 1) / cap])
        _, *derivatives = xent.cross_entropy(logits, [0], softcap=cap, return_hess=True)
        for derivative in derivatives:
            assert derivative[0, 1] == 0
            assert derivative[0, 2] >= tiny


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions_are_the_exact_ones_of_the_row_losses_to_one_ulp(isa, dtype, reduction):
    rng = np.random.default_rng(7)
    for rows in (1, 2, 3, 15, 16, 17, 100, 1023, 1024, 1025, 40_000):
        logits = rng.normal(0, 4, (rows, 7)).astype(dtype)
        logits[::3] *= dtype.type(1e-3)
        logits[::5, 2] += dtype.type(1e4)
        targets = rng.integers(0, 7, rows)
        for _ in range(2):
            losses = xent.cross_entropy(logits, targets, reduction="none")
            exact = losses.astype(WIDE).sum() / (rows if reduction == "mean" else 1)
            actual = xent.cross_entropy(logits, targets, reduction=reduction)
            assert abs(WIDE(actual) - exact) <= np.spacing(dtype.type(exact)), rows
            # Once more with a loss beside which the others vanish one by one, but not together.
            logits[0, targets[0] - 1] = 1e18


def test_weighted_mean_is_the_exact_one_to_one_ulp(isa, dtype):
    rng = np.random.default_rng(8)
    logits, targets = inputs.batch((5000, 11), dtype)
    weights = rng.uniform(0.1, 3, 11).astype(dtype), rng.uniform(0.1, 3, 5000).astype(dtype)
    options = dict(zip(("class_weight", "sample_weight"), weights, strict=True))
    losses = xent.cross_entropy(logits, targets, reduction="none", **options)
    divisor = (weights[0].astype(WIDE)[targets] * weights[1]).sum()
    actual = xent.cross_entropy(logits, targets, **options)
    exact = losses.astype(WIDE).sum() / divisor
    assert abs(WIDE(actual) - exact) <= np.spacing(dtype.type(exact))
