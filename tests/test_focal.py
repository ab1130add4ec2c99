"""Focal and poly-1 loss: error bounds, edge cases, and equality with cross-entropy at strength 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import inputs
import xent
from calls import MODULATED, OPTIONS, REDUCTIONS, assert_same, using
from reference import exact_row, focal, poly1, wide
from tolerance import assert_within, expect
from xent import _core

INF = np.inf
SHAPES = ((7,), (1, 1), (5, 10), (2, 3, 33), (3, 1025))
# These losses know no label smoothing.
UNSMOOTHED: dict[str, Callable[[tuple[int, ...]], dict[str, Any]]] = {
    name: options
    for name, options in OPTIONS.items()
    if "label_smoothing" not in options((1, 1)) or name == "everything"
}
UNSMOOTHED["everything"] = lambda shape: {
    key: value for key, value in OPTIONS["everything"](shape).items() if key != "label_smoothing"
}
STRENGTHS: list[tuple[str, dict[str, float]]] = [
    *(("focal_loss", {"gamma": gamma}) for gamma in (0.0, 0.3, 1.0, 2.0, 5.0)),
    *(("poly1_loss", {"epsilon": epsilon}) for epsilon in (-1.0, 0.0, 2.0)),
]
MODULATIONS = pytest.mark.parametrize(
    ("name", "strength"), STRENGTHS, ids=lambda it: it if isinstance(it, str) else str(it)[1:-1]
)


def derivatives(name: str) -> dict[str, bool]:
    """The options that make the function return all of its results."""
    return {key: value for key, value in MODULATED[name].items() if key.startswith("return")}


def check(name: str, logits: Any, targets: Any, what: str = "", **options: Any) -> None:
    """Hold the loss, its gradient and its Hessian if it has one to the oracle."""
    expected = expect(name, logits, targets, **options)
    loss, grad, *hess = getattr(xent, name)(logits, targets, **derivatives(name), **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")
    if hess:
        assert_within(hess[0], expected.hess, expected.hess_bound, f"Hessian {what}")
    options.pop("grad_output", None)
    assert_same(getattr(xent, name)(logits, targets, **options), loss)


def certain_rows(classes: int, dtype: np.dtype, surplus: np.ndarray) -> tuple[Any, Any]:
    """Rows whose target is above equal others, so that they share exp(-surplus)."""
    logits = np.repeat(-surplus[:, None] - np.log(classes - 1), classes, axis=1).astype(dtype)
    targets = np.arange(len(logits)) % classes
    logits[np.arange(len(logits)), targets] = 0
    return logits, targets


@MODULATIONS
@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
def test_option(isa, dtype, name, strength, options):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        for reduction in REDUCTIONS:
            given = options(shape) | strength | {"reduction": reduction}
            check(name, logits, targets, f"{shape}, {reduction}", **given)


@MODULATIONS
def test_grad_output_and_ignored_rows(dtype, name, strength):
    logits, targets = inputs.batch((40, 10), dtype)
    targets[::3] = -100
    upstream = np.random.default_rng(4).normal(0, 2, 40)
    weights = OPTIONS["weights"]((40, 10))
    check(name, logits, targets, reduction="none", grad_output=upstream, **weights, **strength)
    check(name, logits, targets, grad_output=-1.75, **weights, **strength)


@MODULATIONS
def test_every_kind_of_row(isa, dtype, name, strength):
    for classes in (*inputs.SMALL[::9], 1023, 1025, 16385):
        logits = inputs.adversarial(classes, dtype)
        for column in range(4 if classes < 200 else 1):
            targets = inputs.telling_targets(logits)[:, column]
            what = f"{classes} classes, targets {column}, rows {', '.join(inputs.KINDS)}"
            check(name, logits, targets, what, reduction="none", **strength)


@MODULATIONS
def test_sixty_digits(isa, dtype, name, strength):
    modulation = focal(*strength.values()) if name == "focal_loss" else poly1(*strength.values())
    logits = inputs.adversarial(9, dtype)
    targets = inputs.telling_targets(logits)[:, 0]
    expected = expect(name, logits, targets, reduction="none", **strength)
    actual = getattr(xent, name)(logits, targets, reduction="none", **strength, **derivatives(name))
    bounds = expected.value_bound, expected.grad_bound, expected.hess_bound
    for i, kind in enumerate(inputs.KINDS):
        exact = exact_row(logits[i].tolist(), int(targets[i]), modulation=modulation)
        numbers = wide([exact.loss])[0], wide(exact.grad), wide(exact.hess)
        for one, other, bound in zip(actual, numbers, bounds, strict=False):
            assert_within(one[i], other, bound[i], kind)


@MODULATIONS
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", ["plain", "weights", "z_loss", "softcap", "temperature"])
def test_derivatives_are_difference_quotients(name, strength, reduction, case):
    shape, step = (4, 6), 1e-5
    logits, targets = inputs.batch(shape, np.float64)
    targets[1] = -100
    options = OPTIONS[case](shape) | strength | {"reduction": reduction}
    function = getattr(xent, name)
    _, grad, *hess = function(logits, targets, **derivatives(name), **options)
    for position in np.ndindex(shape):
        moved = np.zeros(shape)
        moved[position] = step
        up = function(logits + moved, targets, return_grad=True, **options)
        down = function(logits - moved, targets, return_grad=True, **options)
        # The next but one derivative times step² / 6, and an ulp or two over the step.
        quotient = np.sum(up[0] - down[0]) / (2 * step)
        assert abs(grad[position] - quotient) < 2e-8, position
        if hess:
            quotient = (up[1] - down[1])[position] / (2 * step)
            assert abs(hess[0][position] - quotient) < 2e-8, position


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 64, 1000])
def test_certain_rows_keep_their_digits(isa, dtype, classes, gamma):
    surplus = np.linspace(0, 69, 500 if classes < 100 else 100)
    logits, targets = certain_rows(classes, dtype, surplus)
    check("focal_loss", logits, targets, f"gamma {gamma}", gamma=gamma, reduction="none")


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
def test_rows_as_sure_as_the_dtype_can_tell(isa, dtype, gamma):
    """Down to 1 - p at the smallest normal number, where results that are smaller vanish."""
    furthest = -np.log(np.finfo(dtype).tiny) - 0.5
    logits, targets = certain_rows(2, dtype, np.linspace(60, furthest, 200))
    check("focal_loss", logits, targets, f"gamma {gamma}", gamma=gamma, reduction="none")


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.5, 0.999, 1.0, 2.0, 1000.0])
def test_everything_is_finite_as_p_goes_to_one(isa, dtype, gamma):
    surplus = np.concatenate([np.linspace(0, 110, 300), np.linspace(600, 800, 100), [1e4, INF]])
    logits = np.stack([np.zeros_like(surplus), -surplus], axis=1).astype(dtype)
    for target in (0, 1):
        targets = np.full(len(logits), target)
        loss, grad, hess = xent.focal_loss(
            logits, targets, gamma=gamma, reduction="none", return_hess=True
        )
        assert np.isfinite(loss[:-1]).all()
        assert (loss[-1] == INF) == (target == 1)
        assert np.isfinite(grad).all()
        assert np.isfinite(hess).all()


@pytest.mark.parametrize("name", UNSMOOTHED)
def test_strength_zero_is_cross_entropy_to_the_bit(isa, dtype, name):
    rows = inputs.adversarial(33, dtype)
    for shape in (*SHAPES, (40, 130)):
        logits, targets = inputs.batch(shape, dtype)
        if shape == (40, 130):
            logits, targets = np.pad(rows, ((0, 3), (0, 0))), np.arange(len(rows) + 3)
        options = UNSMOOTHED[name](logits.shape)
        for reduction in REDUCTIONS:
            given = options | {"reduction": reduction}
            expected = xent.cross_entropy(logits, targets, return_hess=True, **given)
            actual = xent.focal_loss(logits, targets, gamma=0, return_hess=True, **given)
            np.testing.assert_array_equal(actual[0], expected[0])
            assert_same(actual, expected)
            actual = xent.poly1_loss(logits, targets, epsilon=0, return_grad=True, **given)
            assert_same(actual, expected[:2])


@MODULATIONS
def test_huge_logits(isa, dtype, name, strength):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]], dtype)
    for target in range(3):
        targets = np.full(3, target)
        check(name, logits, targets, reduction="none", **strength)
        check(name, logits, targets, reduction="none", softcap=50.0, temperature=2.0, **strength)


@MODULATIONS
def test_masked_classes(isa, dtype, name, strength):
    logits = np.array([[0.5, -INF, 1.5, -INF]], dtype)
    for target in (0, 2):
        check(name, logits, [target], **strength)
        check(name, logits, [target], temperature=0.5, **strength)
    loss, grad, *hess = getattr(xent, name)(logits, [1], **strength, **derivatives(name))
    expected = xent.cross_entropy(logits, [1], return_hess=True)
    assert loss == INF
    assert_same(grad, expected[1])
    if hess:
        assert_same(hess[0], expected[2])


@MODULATIONS
def test_bits_on_every_isa_and_thread_count(dtype, name, strength):
    for shape in ((1, 1), (70, 10), (33, 64), (40, 65), (9, 1025), (3, 17000)):
        logits, targets = inputs.batch(shape, dtype)
        call = {"softcap": 9.0, "reduction": "none"} | derivatives(name) | strength
        with using(_core.isas()[0], 1):
            expected = getattr(xent, name)(logits, targets, **call)
        for isa in _core.isas():
            for threads in (1, 3):
                with using(isa, threads):
                    assert_same(getattr(xent, name)(logits, targets, **call), expected)
                    assert_same(
                        getattr(xent, name)(np.asfortranarray(logits), targets, **call), expected
                    )
                    alone = getattr(xent, name)(logits[-1:], targets[-1:], **call)
                    assert_same(alone, tuple(whole[-1:] for whole in expected))


def test_class_weight_is_alpha(dtype):
    """The mean divides by the sum of the weights, as for cross-entropy."""
    logits, targets = inputs.batch((30, 4), dtype)
    alpha = np.array([0.25, 1, 2, 0.5], dtype)
    rows = xent.focal_loss(logits, targets, reduction="none")
    weighted = xent.focal_loss(logits, targets, reduction="none", class_weight=alpha)
    close = {"rtol": 4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(weighted, rows * alpha[targets], **close)
    mean = xent.focal_loss(logits, targets, class_weight=alpha)
    np.testing.assert_allclose(mean, weighted.sum() / alpha[targets].sum(), rtol=1e-5)


def test_known_values():
    logits = np.log([[0.5, 0.25, 0.25]])
    focal_loss = xent.focal_loss(logits, [1], gamma=2.0)
    np.testing.assert_allclose(focal_loss, 0.75**2 * np.log(4), rtol=1e-15)
    poly1_loss = xent.poly1_loss(logits, [1], epsilon=2.0)
    np.testing.assert_allclose(poly1_loss, np.log(4) + 1.5, rtol=1e-15)
