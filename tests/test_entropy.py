"""`entropy`: error bounds on rows that break naive code, edge cases, identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

import inputs
import xent
from calls import assert_same, on_every_isa
from reference import WIDE, exact_entropy, wide
from tolerance import assert_within, expect

SIZES = {
    "1..130": (*range(1, 18), *inputs.SMALL[19::7]),
    "edges": (257, 1023, 1025, 2048, 16385),
}
TRANSFORMS: dict[str, dict[str, float]] = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 7.0},
    "cap": {"softcap": 4.0},
    "cap and temperature": {"softcap": 30.0, "temperature": 2.5},
}


def check(logits: np.ndarray, what: str, **options: Any) -> np.ndarray:
    """Hold entropy and gradient to the oracle, on every instruction set."""
    expected = expect("entropy", logits, **options)
    entropy, grad = on_every_isa(xent.entropy, logits, return_grad=True, **options)
    assert_within(entropy, expected.value, expected.value_bound, f"entropy of {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient of {what}")
    return entropy


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_kind_of_row(dtype, sizes, transform):
    for classes in sizes:
        logits = inputs.adversarial(classes, dtype)
        what = f"{classes} classes, rows {', '.join(inputs.KINDS)}"
        assert (check(logits, what, **TRANSFORMS[transform]) >= 0).all()


def test_every_kind_of_row_of_a_language_model(dtype):
    logits = inputs.adversarial(50257, dtype)
    check(logits, f"rows {', '.join(inputs.KINDS)}", softcap=30.0, temperature=2.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("classes", [1, 2, 16, 65])
def test_sixty_digits(dtype, classes, temperature):
    logits = inputs.adversarial(classes, dtype)
    expected = expect("entropy", logits, temperature=temperature)
    call = {"temperature": temperature, "return_grad": True}
    entropy, grad = on_every_isa(xent.entropy, logits, **call)
    for i, kind in enumerate(inputs.KINDS):
        exact = exact_entropy(logits[i].tolist(), temperature)
        assert_within(entropy[i], wide([exact[0]])[0], expected.value_bound[i], kind)
        assert_within(grad[i], wide(exact[1]), expected.grad_bound[i], kind)


@pytest.mark.parametrize("classes", [2, 3, 64, 1000])
def test_sure_rows_keep_their_digits(dtype, classes):
    """Where p of the likeliest class is 1 in its dtype, as far as entropies of 1e-28."""
    surplus = np.linspace(0, 69, 1000 if classes < 100 else 200)
    logits = np.repeat(-surplus[:, None] - np.log(classes - 1), classes, axis=1).astype(dtype)
    logits[:, 0] = 0
    entropy = check(logits, "confident rows")
    assert 0 < entropy.min() < 1e-28
    # The bound itself leaves no room for a loss of digits.
    expected = expect("entropy", logits)
    assert (expected.value_bound < 400 * np.finfo(dtype).eps * expected.value).all()


def test_entropy_is_that_of_the_softmax(isa, dtype):
    for classes in (2, 10, 65, 1025):
        logits = inputs.batch((20, classes), dtype)[0]
        p = xent.softmax(logits.astype(np.float64), axis=-1)
        close = {"rtol": 1e-12 if dtype == np.float64 else 1e-5}
        np.testing.assert_allclose(xent.entropy(logits), scipy.stats.entropy(p, axis=-1), **close)


def test_cross_entropy_with_oneself_is_entropy(isa, dtype):
    """H(p, p) = H(p), to the error of p as a soft target."""
    logits = inputs.batch((20, 50), dtype)[0]
    p = xent.softmax(logits, axis=-1)
    crossed = xent.cross_entropy(logits, p, reduction="none")
    np.testing.assert_allclose(xent.entropy(logits), crossed, rtol=40 * np.finfo(dtype).eps)


def test_a_shared_offset_changes_nothing_the_input_still_resolves(isa, dtype):
    logits = (8.0 * np.random.default_rng(0).integers(-12, 1, (50, 33))).astype(dtype)
    for options in ({}, {"temperature": 3.0}):
        near = xent.entropy(logits, return_grad=True, **options)
        far = xent.entropy(logits + dtype.type(1e8), return_grad=True, **options)
        assert_same(far, near)


def test_entropy_is_at_most_the_logarithm_of_the_classes(isa, dtype):
    for classes in (*range(1, 131), 1023, 1025, 50257):
        entropy, grad = xent.entropy(np.full((2, classes), 0.7, dtype), return_grad=True)
        exact = np.log(WIDE(classes))
        assert (abs(entropy - exact) <= 2 * np.spacing(dtype.type(exact))).all()
        assert (grad == 0).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_gradients_of_a_row_sum_to_zero_before_the_cap(isa, dtype, transform):
    options = TRANSFORMS[transform]
    if "softcap" in options:
        options = {"temperature": options.get("temperature", 1.0)}
    for classes in (2, 33, 130, 1025):
        logits = inputs.adversarial(classes, dtype)
        grad = xent.entropy(logits, reduction="sum", return_grad=True, **options)[1]
        bound = expect("entropy", logits, reduction="sum", **options).grad_bound.sum(axis=-1)
        assert (abs(grad.astype(WIDE).sum(axis=-1)) <= bound).all(), classes


def test_a_softmax_that_is_hot_enough_is_uniform(dtype):
    logits = inputs.batch((5, 9), dtype)[0]
    np.testing.assert_allclose(
        xent.entropy(logits, temperature=1e9), np.log(9), rtol=8 * np.finfo(dtype).eps
    )
