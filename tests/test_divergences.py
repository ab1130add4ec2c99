"""`distillation_loss` with other divergences, and the teacher's gradient, against formulas in extended precision."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import xent
from calls import assert_same
from reference import WIDE

INF = np.inf
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def formula(student: Any, teacher: Any, divergence: str, temperature: float, beta: float) -> Any:
    log_p, log_q = (
        a / WIDE(temperature) - np.log(np.exp(a / WIDE(temperature)).sum(-1, keepdims=True))
        for a in (student, teacher)
    )
    p, q = np.exp(log_p), np.exp(log_q)
    if divergence == "forward_kl":
        rows = (q * (log_q - log_p)).sum(-1)
    elif divergence == "reverse_kl":
        rows = (p * (log_p - log_q)).sum(-1)
    else:
        log_m = np.log(beta * q + (1 - beta) * p)
        rows = (beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)).sum(-1)
    return rows * WIDE(temperature) ** 2


def exact(student: np.ndarray, teacher: np.ndarray) -> tuple[Any, Any]:
    """KL(student || teacher) and the Jensen-Shannon divergence of one row, to 60 digits."""
    with mpmath.workdps(80):
        rows = [[mpmath.mpf(float(x)) for x in a] for a in (student, teacher)]
        powers = [[mpmath.exp(x - max(a)) for x in a] for a in rows]
        p, q = ([e / mpmath.fsum(a) for e in a] for a in powers)

        def divergence(a: Any, b: Any) -> Any:
            return mpmath.fsum(x * mpmath.log(x / y) for x, y in zip(a, b, strict=True))

        m = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        return divergence(p, q), (divergence(p, m) + divergence(q, m)) / 2


@pytest.mark.parametrize("spread", [1, 5, 15])
def test_rows_that_nearly_agree_keep_their_digits(isa, dtype, spread):
    """The bounds of docs/accuracy.md, where a class has nearly all of both rows."""
    rng = np.random.default_rng(spread)
    student = rng.normal(0, spread, (25, 10)).astype(dtype)
    teacher = (student + rng.normal(0, spread / 4, student.shape)).astype(dtype)
    bounds = {"reverse_kl": 84, "jsd": 1 if dtype == np.float32 else 256}
    eps = float(np.finfo(dtype).eps)
    rows = [exact(*pair) for pair in zip(student, teacher, strict=True)]
    for (divergence, bound), expected in zip(bounds.items(), zip(*rows, strict=True), strict=True):
        found = xent.distillation_loss(student, teacher, divergence=divergence, reduction="none")
        for value, right in zip(found, expected, strict=True):
            assert abs(float((mpmath.mpf(float(value)) - right) / right)) <= bound * eps


def slopes(function: Any, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences in extended precision, whose error is that of the step squared."""
    found = np.zeros(x.shape, WIDE)
    for place in np.ndindex(*x.shape):
        up, down = x.astype(WIDE), x.astype(WIDE)
        up[place] += WIDE(step)
        down[place] -= WIDE(step)
        found[place] = (function(up) - function(down)).sum() / (2 * WIDE(step))
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("classes", [2, 5, 70])
def test_values_and_both_gradients(isa, dtype, classes, divergence, temperature):
    rng = np.random.default_rng(classes)
    student, teacher = (rng.normal(0, 2, (3, classes)).astype(dtype) for _ in range(2))
    options: dict[str, Any] = {"divergence": divergence, "temperature": temperature, "beta": 0.3}
    loss, grad, of_teacher = xent.distillation_loss(
        student, teacher, reduction="none", return_grad=True, return_teacher_grad=True, **options
    )
    wide = student.astype(WIDE), teacher.astype(WIDE)

    def of(a: Any, b: Any) -> Any:
        return formula(a, b, divergence, temperature, 0.3)

    tolerance = 200 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(loss, of(*wide).astype(float), rtol=tolerance)
    for found, expected in (
        (grad, slopes(lambda a: of(a, wide[1]), wide[0])),
        (of_teacher, slopes(lambda b: of(wide[0], b), wide[1])),
    ):
        size = float(np.abs(expected).max())
        np.testing.assert_allclose(
            found, expected.astype(float), rtol=1e-5, atol=max(tolerance, 1e-10) * size
        )
    alone = xent.distillation_loss(student, teacher, reduction="none", **options)
    assert_same(alone, loss)
    weight = np.array([1.0, 0.0, 2.0])
    mean, teachers = xent.distillation_loss(
        student, teacher, return_teacher_grad=True, sample_weight=weight, **options
    )
    np.testing.assert_allclose(mean, (loss[0] + 2 * loss[2]) / 3, rtol=tolerance)
    np.testing.assert_allclose(
        teachers, of_teacher * weight[:, None] / 3, rtol=tolerance, atol=tolerance
    )
    assert not teachers[1].any()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_layouts_dtypes_and_buffers(divergence):
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(4, 7, 5)).astype(np.float32) for _ in range(2))
    options: dict[str, Any] = {
        "divergence": divergence,
        "axis": 1,
        "return_grad": True,
        "return_teacher_grad": True,
        "temperature": 2.0,
    }
    loss, grad, of_teacher = xent.distillation_loss(student, teacher, **options)
    flat = [np.moveaxis(a, 1, -1).copy() for a in (student, teacher)]
    expected = xent.distillation_loss(*flat, **options | {"axis": -1})
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    for one, other in zip((grad, of_teacher), expected[1:], strict=True):
        np.testing.assert_allclose(np.moveaxis(one, 1, -1), other, rtol=1e-5, atol=1e-8)
    place = student.copy()
    found = xent.distillation_loss(place, teacher, grad_out=place, **options)
    assert found[1] is place
    assert_same(place, grad)
    assert_same(found[2], of_teacher)
    mixed = xent.distillation_loss(
        student.astype(np.float16), teacher.astype(np.float64), **options
    )
    assert mixed[1].dtype == np.float16
    assert mixed[2].dtype == np.float64
    np.testing.assert_allclose(mixed[1], grad, rtol=2e-2, atol=1e-4)
    with pytest.raises(
        ValueError, match="grad_out: the array overlaps the memory of teacher_logits"
    ):
        xent.distillation_loss(student, teacher, grad_out=teacher, **options)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_equal_and_masked_rows(dtype, divergence):
    rows = np.random.default_rng(0).normal(size=(3, 6)).astype(dtype)
    rows[1, 2] = -INF
    options: dict[str, Any] = {"divergence": divergence, "reduction": "none"}
    loss, grad, of_teacher = xent.distillation_loss(
        rows, rows, return_grad=True, return_teacher_grad=True, **options
    )
    assert not loss.any()
    np.testing.assert_allclose(grad, 0, atol=1e-6)
    np.testing.assert_allclose(of_teacher, 0, atol=1e-6)
    other = rows.copy()
    other[1, 2] = 0
    found = xent.distillation_loss(rows, other, **options)[1]
    assert np.isinf(found) == (divergence == "forward_kl")
    found = xent.distillation_loss(other, rows, **options)[1]
    assert np.isinf(found) == (divergence == "reverse_kl")


def test_nearly_equal_rows_of_the_mixture():
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(2, 50))
    student = teacher + 1e-7 * rng.normal(size=teacher.shape)
    found = xent.distillation_loss(student, teacher, divergence="jsd", reduction="none")
    # To second order all of them are half the chi-square distance, here a quarter of it.
    plain = xent.distillation_loss(student, teacher, reduction="none")
    np.testing.assert_allclose(found, plain / 4, rtol=1e-5)


def test_bad_input():
    z = np.zeros((2, 3))
    for options, says in (
        ({"divergence": "kl"}, "divergence: expected one of forward_kl, reverse_kl, jsd, got 'kl'"),
        ({"divergence": "jsd", "beta": 0}, r"beta: expected a number in \(0, 1\), got 0"),
        ({"divergence": "jsd", "beta": 2}, "beta: expected a number in"),
        (
            {"divergence": "reverse_kl", "grad_output": 1.0},
            "grad_output: given, but return_grad is False",
        ),
        ({"divergence": "jsd", "temperature": 0}, "temperature: expected a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=says):
            xent.distillation_loss(z, z, **options)
    for divergence in DIVERGENCES:
        with pytest.raises(ValueError, match=r"teacher_logits|student_logits"):
            xent.distillation_loss(z, z[:, :2], divergence=divergence, return_teacher_grad=True)
        loss, grad = xent.distillation_loss(z[:0], z[:0], divergence=divergence, return_grad=True)
        assert np.isnan(loss)
        assert grad.shape == (0, 3)
