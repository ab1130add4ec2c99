"""The oracles themselves: the bulk one against 60 digits, and its gradient against a derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import mp

import inputs
from reference import WIDE, FocalLoss, Poly1Loss, SoftmaxLoss, exact_row, focal, poly1, wide

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"class_weight": [1.5, 0.25, 2.0, 0.5, 3.0, 1.0, 0.75]},
    "smoothing": {"label_smoothing": 0.3, "class_weight": [1.5, 0.25, 2.0, 0.5, 3.0, 1.0, 0.75]},
    "z-loss": {"z_loss": 0.01},
    "cap": {"softcap": 5.0, "temperature": 1.7},
    "all": {"label_smoothing": 0.1, "z_loss": 1e-3, "softcap": 30.0, "temperature": 0.5},
}


def assert_close(actual: Any, exact: list[Any], slack: float) -> None:
    """Compare with mpmath numbers, relative error below `slack`."""
    np.testing.assert_allclose(actual, wide(exact), rtol=slack, atol=WIDE("1e-4800"))


@pytest.mark.parametrize("classes", [1, 2, 3, 17, 130])
def test_bulk_agrees_with_sixty_digits_on_every_kind_of_row(classes, dtype):
    logits = inputs.adversarial(classes, dtype)
    targets = inputs.telling_targets(logits)
    for column in range(targets.shape[-1]):
        with np.errstate(all="ignore"):
            bulk = SoftmaxLoss(logits, targets[:, column], reduction="none")
            grad, hess, row_loss = bulk.grad, bulk.hess, bulk.row_loss
        for i in range(len(logits)):
            exact = exact_row(logits[i].tolist(), int(targets[i, column]))
            # Rounding z - m to 64 bits costs an exponent its size in relative error.
            reach = np.abs(bulk.rows.d[i][np.isfinite(bulk.rows.d[i])])
            slack = 2.0**-60 * (4 + float(reach[reach < 2e4].max()))
            assert_close(row_loss[[i]], [exact.loss], slack)
            assert_close(grad[i], exact.grad, slack)
            assert_close(hess[i], exact.hess, 2 * slack)
            assert_close(bulk.lse[[i]], [exact.lse], slack)
            assert_close(bulk.rows.p[i], exact.probabilities, slack)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=("index", "soft"))
def test_bulk_agrees_with_sixty_digits_under_every_option(options, soft):
    logits, targets = inputs.batch((6, 7), np.float64)
    if soft:
        targets = inputs.soft_targets(logits.shape, logits.dtype)
    bulk = SoftmaxLoss(logits, targets, reduction="none", **options)
    for i in range(len(logits)):
        exact = exact_row(logits[i].tolist(), targets[i].tolist(), **options)
        assert_close(bulk.row_loss[[i]], [exact.loss], 2.0**-58)
        np.testing.assert_allclose(bulk.grad[i], wide(exact.grad), rtol=2.0**-50, atol=2.0**-60)
        np.testing.assert_allclose(bulk.hess[i], wide(exact.hess), rtol=2.0**-50, atol=2.0**-58)


LINKS: dict[str, tuple[Any, dict[str, float], Any]] = {
    **{f"gamma={g}": (FocalLoss, {"gamma": g}, focal(g)) for g in (0.0, 0.25, 1.0, 2.0, 5.5)},
    **{f"epsilon={e}": (Poly1Loss, {"epsilon": e}, poly1(e)) for e in (-1.0, 0.0, 2.0)},
}
UNSMOOTHED = {name: it for name, it in OPTIONS.items() if "label_smoothing" not in it}


@pytest.mark.parametrize(("oracle", "strength", "link"), LINKS.values(), ids=LINKS)
def test_links_agree_with_sixty_digits_on_every_kind_of_row(oracle, strength, link, dtype):
    logits = inputs.adversarial(7, dtype)
    targets = inputs.telling_targets(logits)
    for column in range(targets.shape[-1]):
        with np.errstate(all="ignore"):
            bulk = oracle(logits, targets[:, column], reduction="none", **strength)
            grad, hess, row_loss = bulk.grad, bulk.hess, bulk.row_loss
        for i in range(len(logits)):
            exact = exact_row(logits[i].tolist(), int(targets[i, column]), link=link)
            reach = np.abs(bulk.rows.d[i][np.isfinite(bulk.rows.d[i])])
            reach = float(reach[reach < 2e4].max())
            # The power multiplies the relative error of 1 - p; parts of the Hessian cancel.
            slack = 2.0**-58 * (4 + reach) * (1 + strength.get("gamma", 0))
            if strength == {"epsilon": -1.0} and bulk.rows.p[i].max() > 0.9:
                continue  # l + epsilon q and 1 + epsilon p cancel
            assert_close(row_loss[[i]], [exact.loss], slack)
            assert_close(grad[i], exact.grad, slack)
            at_target = np.arange(7) == targets[i, column]
            with np.errstate(all="ignore"):
                size = sum(abs(term[i]) for term in bulk.hess_terms)
                # Differences of the link lose what is below 1e-80 in its curve.
                reach = np.where(at_target, bulk.rows.others[i], bulk.rows.p[i])
                bound = slack * size + WIDE("1e-70") * reach**2 + WIDE("1e-4800")
                error = abs(hess[i] - wide(exact.hess))
            assert (error <= bound).all() or np.isnan(wide(exact.hess)).all()


@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
@pytest.mark.parametrize(("oracle", "strength", "link"), LINKS.values(), ids=LINKS)
def test_links_agree_with_sixty_digits_under_every_option(oracle, strength, link, options):
    logits, targets = inputs.batch((6, 7), np.float64)
    bulk = oracle(logits, targets, reduction="none", **strength, **options)
    for i in range(len(logits)):
        exact = exact_row(logits[i].tolist(), targets[i].tolist(), link=link, **options)
        for actual, expected in ((bulk.grad[i], exact.grad), (bulk.hess[i], exact.hess)):
            np.testing.assert_allclose(actual, wide(expected), rtol=2.0**-50, atol=2.0**-58)


@pytest.mark.parametrize("link", [None, focal(2), focal(0.25), poly1(-1)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_exact_derivatives_are_those_of_the_exact_loss(options, link):
    logits = inputs.batch((1, 7), np.float64)[0][0].tolist()
    step = mp.mpf(10) ** -15
    for target in (2, [0.5, 0.25, 0.0, 0.25, 0.125, 0.0, 0.0]):
        exact = exact_row(logits, target, link=link, **options)
        for c in range(len(logits)):
            up = [mp.mpf(v) + step * (k == c) for k, v in enumerate(logits)]
            down = [mp.mpf(v) - step * (k == c) for k, v in enumerate(logits)]
            above, below = (exact_row(row, target, link=link, **options) for row in (up, down))
            slope = (above.loss - below.loss) / (2 * step)
            assert mp.almosteq(slope, exact.grad[c], abs_eps=mp.mpf(10) ** -26)
            slope = (above.grad[c] - below.grad[c]) / (2 * step)
            assert mp.almosteq(slope, exact.hess[c], abs_eps=mp.mpf(10) ** -26)
