"""The oracles themselves: the bulk one against 60 digits, and its gradient against a derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mpmath import mp

import inputs
from reference import (
    WIDE,
    CategoricalCrossEntropy,
    DistillationLoss,
    Entropy,
    FocalLoss,
    LogSumExp,
    NllLoss,
    Poly1Loss,
    SoftmaxLoss,
    exact_distillation,
    exact_entropy,
    exact_lse,
    exact_row,
    focal,
    poly1,
    wide,
)

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


MODULATIONS: dict[str, tuple[Any, dict[str, float], Any]] = {
    **{f"gamma={g}": (FocalLoss, {"gamma": g}, focal(g)) for g in (0.0, 0.25, 1.0, 2.0, 5.5)},
    **{f"epsilon={e}": (Poly1Loss, {"epsilon": e}, poly1(e)) for e in (-1.0, 0.0, 2.0)},
}
UNSMOOTHED = {name: it for name, it in OPTIONS.items() if "label_smoothing" not in it}


@pytest.mark.parametrize(
    ("oracle", "strength", "modulation"), MODULATIONS.values(), ids=MODULATIONS
)
def test_modulations_agree_with_sixty_digits_on_every_kind_of_row(
    oracle, strength, modulation, dtype
):
    logits = inputs.adversarial(7, dtype)
    targets = inputs.telling_targets(logits)
    for column in range(targets.shape[-1]):
        with np.errstate(all="ignore"):
            bulk = oracle(logits, targets[:, column], reduction="none", **strength)
            grad, hess, row_loss = bulk.grad, bulk.hess, bulk.row_loss
        for i in range(len(logits)):
            exact = exact_row(logits[i].tolist(), int(targets[i, column]), modulation=modulation)
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
                # Differences of the modulation lose what is below 1e-80 in its curve.
                reach = np.where(at_target, bulk.rows.others[i], bulk.rows.p[i])
                bound = slack * size + WIDE("1e-70") * reach**2 + WIDE("1e-4800")
                error = abs(hess[i] - wide(exact.hess))
            assert (error <= bound).all() or np.isnan(wide(exact.hess)).all()


@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
@pytest.mark.parametrize(
    ("oracle", "strength", "modulation"), MODULATIONS.values(), ids=MODULATIONS
)
def test_modulations_agree_with_sixty_digits_under_every_option(
    oracle, strength, modulation, options
):
    logits, targets = inputs.batch((6, 7), np.float64)
    bulk = oracle(logits, targets, reduction="none", **strength, **options)
    for i in range(len(logits)):
        exact = exact_row(logits[i].tolist(), targets[i].tolist(), modulation=modulation, **options)
        for actual, expected in ((bulk.grad[i], exact.grad), (bulk.hess[i], exact.hess)):
            np.testing.assert_allclose(actual, wide(expected), rtol=2.0**-50, atol=2.0**-58)


@pytest.mark.parametrize("modulation", [None, focal(2), focal(0.25), poly1(-1)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_exact_derivatives_are_those_of_the_exact_loss(options, modulation):
    logits = inputs.batch((1, 7), np.float64)[0][0].tolist()
    step = mp.mpf(10) ** -15
    for target in (2, [0.5, 0.25, 0.0, 0.25, 0.125, 0.0, 0.0]):
        exact = exact_row(logits, target, modulation=modulation, **options)
        for c in range(len(logits)):
            up = [mp.mpf(v) + step * (k == c) for k, v in enumerate(logits)]
            down = [mp.mpf(v) - step * (k == c) for k, v in enumerate(logits)]
            above, below = (
                exact_row(row, target, modulation=modulation, **options) for row in (up, down)
            )
            slope = (above.loss - below.loss) / (2 * step)
            assert mp.almosteq(slope, exact.grad[c], abs_eps=mp.mpf(10) ** -26)
            slope = (above.grad[c] - below.grad[c]) / (2 * step)
            assert mp.almosteq(slope, exact.hess[c], abs_eps=mp.mpf(10) ** -26)


def finite_rows(classes: int, dtype: np.dtype) -> np.ndarray:
    """Adversarial rows whose differences have an exponential in extended precision."""
    rows = inputs.adversarial(classes, dtype)
    return rows[[kind not in ("wide", "huge") for kind in inputs.KINDS]]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 5.0])
@pytest.mark.parametrize("classes", [1, 2, 17, 130])
def test_entropy_agrees_with_sixty_digits(classes, temperature, dtype):
    logits = finite_rows(classes, dtype)
    with np.errstate(all="ignore"):
        bulk = Entropy(logits, temperature=temperature)
        entropy, grad, terms = bulk.value, bulk.grad, bulk.rows.p * (1 + abs(bulk.rows.d))
    for i, row in enumerate(logits):
        exact = exact_entropy(row.tolist(), temperature)
        reach = abs(bulk.rows.d[i][np.isfinite(bulk.rows.d[i])]).max()
        slack = 2.0**-59 * (4 + float(reach))
        assert_close(entropy[[i]], [exact[0]], slack)
        # The gradient is the difference of a class's distance and the mean one.
        room = (
            slack / temperature * np.nan_to_num(terms[i] + bulk.rows.p[i] * bulk.mean_distance[i])
        )
        assert (abs(grad[i] - wide(exact[1])) <= room).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 5.0])
@pytest.mark.parametrize("classes", [1, 2, 17])
def test_distillation_agrees_with_sixty_digits(classes, temperature, dtype):
    teachers = finite_rows(classes, dtype)
    nearby = teachers + dtype.type(1e-3) * np.sin(np.arange(classes)).astype(dtype)
    for students in (np.roll(teachers, 1, axis=0), nearby, -teachers):
        students = np.where(np.isinf(teachers) | np.isinf(students), teachers, students)
        with np.errstate(all="ignore"):
            bulk = DistillationLoss(students, teachers, temperature=temperature, reduction="none")
            loss, grad = bulk.value, bulk.grad
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            exact = exact_distillation(student.tolist(), teacher.tolist(), temperature)
            distances = abs(np.concatenate([bulk.rows.d[i], bulk.teacher.d[i]]))
            slack = 2.0**-58 * (4 + float(distances[np.isfinite(distances)].max()))
            room = slack * temperature * (bulk.rows.p[i] + bulk.teacher.p[i])
            assert (abs(grad[i] - wide(exact[1])) <= room).all()
            # What the rounded probabilities are off by moves the loss by its square root.
            size = wide([exact[0]])[0]
            room = slack * (size + temperature * np.sqrt(abs(size)) + slack * temperature**2)
            assert abs(loss[i] - size) <= room


@pytest.mark.parametrize("classes", [1, 2, 17, 130])
def test_weighted_log_sum_exp_agrees_with_sixty_digits(classes, dtype):
    a = finite_rows(classes, dtype)
    b = np.random.default_rng(0).normal(size=a.shape).astype(dtype)
    b[:, ::3] = 0
    with np.errstate(all="ignore"):
        bulk = LogSumExp(a, b=b, return_sign=True)
        lse, sign, total = bulk.value, bulk.sign, bulk.total
        size = np.where(b == 0, 0, abs(b) * bulk.rows.e).sum(axis=-1) / abs(total)
    for i in range(len(a)):
        exact = exact_lse(a[i].tolist(), b[i].tolist())
        if not total[i]:
            assert exact == (-np.inf, 0)
            assert lse[i] == -np.inf
            continue
        reach = float(abs(bulk.rows.d[i][np.isfinite(bulk.rows.d[i])]).max())
        room = 2.0**-59 * ((4 + reach) * size[i] + abs(lse[i]) + 1)
        assert abs(lse[i] - wide([exact[0]])[0]) <= room
        assert sign[i] == exact[1]


@pytest.mark.parametrize("soft", [False, True], ids=("index", "soft"))
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_losses_from_probabilities_agree_with_sixty_digits(soft, smoothing, dtype):
    """Each by its own sum, written out."""
    rng = np.random.default_rng(0)
    p = inputs.soft_targets((6, 7), dtype)
    targets = inputs.soft_targets((6, 7), dtype, 1) if soft else rng.integers(0, 7, 6)
    weight = rng.uniform(0.5, 2, 7).astype(dtype)
    options = {"class_weight": weight, "label_smoothing": smoothing, "reduction": "none"}
    with np.errstate(all="ignore"):
        categorical, nll = (
            CategoricalCrossEntropy(p, targets, **options),
            NllLoss(p, targets, **options),
        )
        losses, grads = (categorical.value, nll.value), (categorical.grad, nll.grad)
    for i in range(6):
        aim = targets[i].tolist() if soft else [float(c == targets[i]) for c in range(7)]
        e = mp.mpf(smoothing)
        nll_coef = [
            mp.mpf(float(w)) * ((1 - e) * mp.mpf(t) + e / 7)
            for w, t in zip(weight, aim, strict=True)
        ]
        x = [mp.mpf(float(v)) for v in p[i]]
        pairs = [(a, v) for a, v in zip(nll_coef, x, strict=True) if a]
        assert_close(losses[1][[i]], [-mp.fsum(a * v for a, v in pairs)], 2.0**-60)
        cost = mp.fsum(-a * mp.log(v) if v else mp.inf for a, v in pairs)
        assert_close(losses[0][[i]], [cost], 2.0**-60)
        assert_close(grads[1][i], [-a for a in nll_coef], 2.0**-60)
        slopes = [
            (-a / v if v else -mp.inf) if a else mp.zero for a, v in zip(nll_coef, x, strict=True)
        ]
        assert_close(grads[0][i], slopes, 2.0**-60)
