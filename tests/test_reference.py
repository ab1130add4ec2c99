"""The oracles themselves: the bulk one against 60 digits, and its gradient against a derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import mp

import inputs
from reference import WIDE, SoftmaxLoss, exact_row, wide

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
            grad, row_loss = bulk.grad, bulk.row_loss
        for i in range(len(logits)):
            exact = exact_row(logits[i].tolist(), int(targets[i, column]))
            # Rounding z - m to 64 bits costs an exponent its size in relative error.
            reach = np.abs(bulk.rows.d[i][np.isfinite(bulk.rows.d[i])])
            slack = 2.0**-60 * (4 + float(reach[reach < 2e4].max()))
            assert_close(row_loss[[i]], [exact.loss], slack)
            assert_close(grad[i], exact.grad, slack)
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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_exact_gradient_is_the_derivative_of_the_exact_loss(options):
    logits = inputs.batch((1, 7), np.float64)[0][0].tolist()
    step = mp.mpf(10) ** -20
    for target in (2, [0.5, 0.25, 0.0, 0.25, 0.125, 0.0, 0.0]):
        exact = exact_row(logits, target, **options)
        for c in range(len(logits)):
            up = [mp.mpf(v) + step * (k == c) for k, v in enumerate(logits)]
            down = [mp.mpf(v) - step * (k == c) for k, v in enumerate(logits)]
            slope = _exact_loss(up, target, options) - _exact_loss(down, target, options)
            assert mp.almosteq(slope / (2 * step), exact.grad[c], abs_eps=mp.mpf(10) ** -30)


def _exact_loss(logits, target, options):
    return exact_row(logits, target, **options).loss
