"""The diagonal of the Hessian: error bounds, finite differences of the gradient, edge cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import inputs
import xent
from calls import OPTIONS, REDUCTIONS, assert_same, using
from reference import exact_row, wide
from tolerance import assert_within, expect
from xent import _core

SHAPES = ((7,), (1, 1), (5, 10), (2, 3, 33), (3, 1025))
INF = np.inf


def check(logits: Any, targets: Any, what: str = "", **options: Any) -> None:
    """Hold the Hessian to the oracle; loss and gradient are those without it."""
    expected = expect("cross_entropy", logits, targets, **options)
    *others, hess = xent.cross_entropy(logits, targets, return_hess=True, **options)
    assert_within(hess, expected.hess, expected.hess_bound, f"Hessian {what}")
    same = xent.cross_entropy(logits, targets, return_grad=True, **options)
    assert_same(tuple(others), same)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_option(isa, dtype, name, kind, reduction):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        if kind == "soft":
            targets = inputs.soft_targets(shape, dtype)
        check(logits, targets, f"{shape}", reduction=reduction, **OPTIONS[name](shape))


@pytest.mark.parametrize("sizes", [inputs.SMALL[::3], inputs.EDGES[::2]], ids=("1..130", "edges"))
def test_every_kind_of_row(isa, dtype, sizes):
    for classes in sizes:
        logits = inputs.adversarial(classes, dtype)
        for column in range(4 if classes < 200 else 1):
            targets = inputs.telling_targets(logits)[:, column]
            what = f"{classes} classes, targets {column}, rows {', '.join(inputs.KINDS)}"
            check(logits, targets, what, reduction="none")


@pytest.mark.parametrize("classes", [2, 16, 65])
def test_sixty_digits(isa, dtype, classes):
    logits = inputs.adversarial(classes, dtype)
    targets = inputs.telling_targets(logits)[:, 0]
    expected = expect("cross_entropy", logits, targets, reduction="none")
    hess = xent.cross_entropy(logits, targets, reduction="none", return_hess=True)[2]
    for i, kind in enumerate(inputs.KINDS):
        exact = exact_row(logits[i].tolist(), int(targets[i])).hess
        assert_within(hess[i], wide(exact), expected.hess_bound[i], kind)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_hessian_is_the_difference_quotient_of_the_gradient(name, kind, reduction):
    shape, step = (4, 6), 1e-5
    logits, targets = inputs.batch(shape, np.float64)
    if kind == "soft":
        targets = inputs.soft_targets(shape, np.float64)
    else:
        targets[1] = -100
    options = OPTIONS[name](shape) | {"reduction": reduction}
    upstream = np.random.default_rng(6).normal(size=shape[0]) if reduction == "none" else 2.5
    options["grad_output"] = upstream
    hess = xent.cross_entropy(logits, targets, return_hess=True, **options)[2]
    for position in np.ndindex(shape):
        moved = np.zeros(shape)
        moved[position] = step
        up = xent.cross_entropy(logits + moved, targets, return_grad=True, **options)[1]
        down = xent.cross_entropy(logits - moved, targets, return_grad=True, **options)[1]
        quotient = (up - down)[position] / (2 * step)
        # The fourth derivative times step² / 6, and an ulp or two of the gradient over the step.
        assert abs(hess[position] - quotient) < 2e-9, position


@pytest.mark.parametrize("classes", [2, 3, 64, 1000])
def test_certain_rows_keep_their_digits(isa, dtype, classes):
    surplus = np.linspace(0, 69, 500 if classes < 100 else 100)
    logits = np.repeat(-surplus[:, None] - np.log(classes - 1), classes, axis=1).astype(dtype)
    targets = np.arange(len(logits)) % classes
    logits[np.arange(len(logits)), targets] = 0
    hess = xent.cross_entropy(logits, targets, reduction="none", return_hess=True)[2]
    smallest = hess[np.arange(len(logits)), targets].min()
    assert 0.9e-30 < smallest < 1.2e-30
    check(logits, targets, "certain rows", reduction="none")


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_masked_classes_have_no_curvature(isa, dtype, softcap, temperature):
    options = {"softcap": softcap, "temperature": temperature, "return_hess": True}
    for classes in (3, 17, 130, 2000):
        logits, targets = inputs.batch((6, classes), dtype)
        targets[:] = classes - 1
        kept = xent.cross_entropy(logits[:, 1:], targets - 1, **options)
        masked = np.where(np.arange(classes) == 0, -INF, logits).astype(dtype)
        hess = xent.cross_entropy(masked, targets, **options)[2]
        assert (hess[:, 0] == 0).all()
        assert np.isfinite(hess).all()
        np.testing.assert_allclose(hess[:, 1:], kept[2], rtol=64 * np.finfo(dtype).eps)
        soft = (np.arange(classes) == targets[:, None]).astype(dtype)
        hess = xent.cross_entropy(masked, soft, **options)[2]
        assert (hess[:, 0] == 0).all()
        assert np.isfinite(hess).all()


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", ["plain", "everything"])
def test_bits_on_every_isa_and_thread_count(dtype, kind, name):
    for shape in ((1, 1), (70, 10), (33, 64), (40, 65), (9, 1025), (3, 17000)):
        logits, targets = inputs.batch(shape, dtype)
        if kind == "soft":
            targets = inputs.soft_targets(shape, dtype)
        options = OPTIONS[name](shape) | {"return_hess": True}
        with using(_core.isas()[0], 1):
            expected = xent.cross_entropy(logits, targets, **options)
        for isa in _core.isas():
            for threads in (1, 3):
                with using(isa, threads):
                    assert_same(xent.cross_entropy(logits, targets, **options), expected)
                    columns = xent.cross_entropy(np.asfortranarray(logits), targets, **options)
                    assert_same(columns, expected)
                    for part in (np.s_[:1], np.s_[-1:]):
                        alone = xent.cross_entropy(
                            *(logits[part], targets[part]),
                            **options | {"sample_weight": None, "reduction": "sum"},
                        )
                        whole = xent.cross_entropy(
                            *(logits, targets),
                            **options | {"sample_weight": None, "reduction": "sum"},
                        )
                        assert_same(alone[2], whole[2][part])


def test_huge_logits(isa, dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]], dtype)
    for target in range(3):
        targets = np.full(3, target)
        check(logits, targets, reduction="none")
        check(logits, targets, reduction="none", softcap=50.0, temperature=2.0)
        check(logits, targets, reduction="none", z_loss=1e-3)


def test_integers_and_lists():
    loss, grad, hess = xent.cross_entropy([[1, 2], [3, 4]], [0, 1], return_hess=True)
    assert hess.dtype == np.float64
    as_float = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert_same((loss, grad, hess), xent.cross_entropy(as_float, [0, 1], return_hess=True))
    hess_out = np.zeros((2, 2))
    xent.cross_entropy([[1, 2], [3, 4]], [0, 1], return_hess=True, hess_out=hess_out)
    assert_same(hess_out, hess)


@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn(dtype, weighted):
    """`HalfMultinomialLoss`, whose targets are of the dtype of its logits."""
    module = pytest.importorskip("sklearn._loss.loss")
    logits, targets = inputs.batch((50, 7), dtype)
    weight = np.linspace(0.5, 2, 50).astype(dtype) if weighted else None
    theirs = module.HalfMultinomialLoss(n_classes=7)
    grad, hess = theirs.gradient_hessian(targets.astype(dtype), logits, sample_weight=weight)
    ours = xent.cross_entropy(
        logits, targets, sample_weight=weight, reduction="sum", return_hess=True
    )
    close = {"rtol": 40 * np.finfo(dtype).eps, "atol": 4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(ours[1], grad, **close)
    np.testing.assert_allclose(ours[2], hess, **close)
