"""`distillation_loss`: error bounds on rows that break naive code, edge cases, identities."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import inputs
import xent
from calls import REDUCTIONS, assert_same, on_every_isa
from reference import WIDE, exact_distillation, wide
from tolerance import assert_within, expect

INF = np.inf
TEMPERATURES = (1.0, 0.5, 4.0)
SIZES = {
    "1..130": (*range(1, 18), *inputs.SMALL[19::9]),
    "edges": (257, 1023, 1025, 2048, 16385),
}


def distil(student: Any, teacher: Any, dtype: np.dtype, **options: Any) -> Any:
    """Loss and gradient, row by row unless told otherwise."""
    call = {"reduction": "none", "return_grad": True} | options
    return xent.distillation_loss(np.asarray(student, dtype), np.asarray(teacher, dtype), **call)


def pairs(classes: int, dtype: np.dtype, shifts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Every kind of row with a teacher some kinds away, and no class masked by the student alone.

    The differences of huge rows are kept from overflowing in their sums.
    """
    rows = inputs.adversarial(classes, dtype)
    rows[list(inputs.KINDS).index("huge")] *= dtype.type(2.0**-20)
    teachers = [np.roll(rows, shift, axis=0) for shift in shifts]
    students = [np.where(np.isinf(rows), teacher, rows) for teacher in teachers]
    return np.concatenate(students), np.concatenate(teachers)


def check(student: np.ndarray, teacher: np.ndarray, what: str = "", **options: Any) -> Any:
    """Hold loss and gradient to the oracle, on every instruction set; returns them."""
    options = {"reduction": "none"} | options
    expected = expect("distillation_loss", student, teacher, **options)
    loss, grad = on_every_isa(xent.distillation_loss, student, teacher, return_grad=True, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")
    return loss, grad


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_kind_of_row(dtype, sizes, temperature):
    for classes in sizes:
        shifts = (0, 1, 5, 8) if classes < 200 else (classes % 16,)
        what = f"of {classes} classes, rows {', '.join(inputs.KINDS)}"
        check(*pairs(classes, dtype, shifts), what, temperature=temperature)


def test_every_kind_of_row_of_a_language_model(dtype):
    check(*pairs(50257, dtype, (3,)), temperature=2.0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("classes", [1, 2, 16, 65])
def test_sixty_digits(dtype, classes, temperature):
    student, teacher = pairs(classes, dtype, (1, 5, 8))
    options = {"temperature": temperature, "reduction": "none"}
    expected = expect("distillation_loss", student, teacher, **options)
    loss, grad = check(student, teacher, **options)
    for i in range(len(student)):
        exact = exact_distillation(student[i].tolist(), teacher[i].tolist(), temperature)
        assert_within(loss[i], wide([exact[0]])[0], expected.value_bound[i])
        assert_within(grad[i], wide(exact[1]), expected.grad_bound[i])


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_that_has_learnt_it_all(isa, dtype, temperature):
    """Equal logits cost exactly nothing, whatever they are."""
    for classes in (*range(1, 131, 3), 1023, 1025, 16385, 50257):
        rows = inputs.adversarial(classes, dtype)
        loss, grad = distil(rows, rows, dtype, temperature=temperature)
        np.testing.assert_array_equal(loss, np.zeros(len(rows)))
        np.testing.assert_array_equal(grad, np.zeros(rows.shape))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("distance", [1e-7, 1e-6, 1e-5, 1e-3, 1e-1])
def test_student_and_teacher_that_nearly_agree(dtype, temperature, distance):
    rng = np.random.default_rng(0)
    for classes in (2, 10, 65, 1025):
        teacher = rng.normal(0, 3, (20, classes))
        student = teacher + distance * rng.normal(size=teacher.shape)
        check(student.astype(dtype), teacher.astype(dtype), temperature=temperature)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_masks_in_wide_rows(dtype, temperature):
    """A whole block that one of them masks, at the start, inside and at the end."""
    for classes in (70, 3000, 17_500):
        student, teacher = (inputs.batch((1, classes), dtype, seed)[0] for seed in (0, 1))
        half, third = classes // 2, classes // 3
        for part in (np.s_[:half], np.s_[third:-third], np.s_[-half:]):
            narrow, sparse = student.copy(), teacher.copy()
            narrow[:, part] = sparse[:, part] = -INF
            check(student, sparse, temperature=temperature)
            check(narrow, sparse, temperature=temperature)
            loss, _ = check(narrow, teacher, temperature=temperature)
            assert (loss == INF).all()


@pytest.mark.parametrize("distance", [50.0, 80.0, 120.0, 800.0, 1e4])
def test_masked_in_the_student_however_unlikely_for_the_teacher(isa, dtype, distance):
    """A probability too small for its dtype is still one."""
    for classes in (2, 65, 1025, 3000, 20_000):
        for position in (0, classes // 2, classes - 1):
            teacher, student = np.zeros((1, classes), dtype), np.zeros((1, classes), dtype)
            teacher[0, position], student[0, position] = -distance, -INF
            assert distil(student, teacher, dtype)[0] == INF, (classes, position)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_temperature_squared_times_the_divergence_of_divided_logits(dtype, reduction):
    """Hinton, Vinyals & Dean, arXiv:1503.02531, section 2: gradients keep their size."""
    student, teacher = (inputs.batch((6, 9), dtype, seed)[0] for seed in (0, 1))
    options = {"sample_weight": np.linspace(0.5, 2, 6), "reduction": reduction}
    loss, grad = distil(student, teacher, dtype, temperature=4.0, **options)
    cold, slope = distil(student / 4, teacher / 4, dtype, **options)
    np.testing.assert_allclose(loss, 16 * cold, rtol=64 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad, 4 * slope, atol=16 * np.finfo(dtype).eps)


def test_divergence_is_cross_entropy_less_entropy(isa, dtype):
    for classes in (3, 50, 1025):
        student, teacher = (inputs.batch((8, classes), np.float64, seed)[0] for seed in (0, 1))
        q = xent.softmax(teacher, axis=-1)
        crossed = xent.cross_entropy(student, q, reduction="none", return_grad=True)
        loss, grad = distil(student, teacher, np.dtype(np.float64))
        np.testing.assert_allclose(loss, crossed[0] - xent.entropy(teacher), rtol=1e-12)
        np.testing.assert_allclose(grad, crossed[1], rtol=1e-12, atol=1e-15)
        with np.errstate(all="ignore"):
            narrow = distil(student, teacher, dtype)[0]
        np.testing.assert_allclose(narrow, loss, rtol=1e-4)


def test_a_shared_offset_changes_nothing_the_input_still_resolves(isa, dtype):
    rng = np.random.default_rng(0)
    student, teacher = (8.0 * rng.integers(-12, 1, (2, 50, 33))).astype(dtype)
    for temperature in TEMPERATURES:
        near = distil(student, teacher, dtype, temperature=temperature)
        moved = student + dtype.type(1e8), teacher - dtype.type(1e8)
        assert_same(distil(*moved, dtype, temperature=temperature), near)


def test_gradients_of_a_row_sum_to_zero(isa, dtype):
    for classes in (2, 33, 130, 1025):
        student, teacher = pairs(classes, dtype, (1, 5))
        grad = distil(student, teacher, dtype, reduction="sum")[1]
        expected = expect("distillation_loss", student, teacher, reduction="sum")
        bound = expected.grad_bound.sum(axis=-1)
        assert (abs(grad.astype(WIDE).sum(axis=-1)) <= bound).all(), classes


@pytest.mark.parametrize(
    ("student", "teacher", "computed"),
    [
        (np.float32, np.float64, np.float64),
        (np.float64, np.float32, np.float64),
        (np.float16, np.float32, np.float32),
        (np.float32, np.float16, np.float32),
        (np.float16, np.float64, np.float64),
        (np.float32, np.int64, np.float64),
        (np.int8, np.float32, np.float64),
        (ml_dtypes.bfloat16, np.float32, np.float32),
        (np.float32, ml_dtypes.bfloat16, np.float32),
        (ml_dtypes.bfloat16, np.float16, np.float32),
        (ml_dtypes.bfloat16, np.float64, np.float64),
    ],
    ids=lambda it: np.dtype(it).name,
)
def test_student_and_teacher_of_different_dtypes(isa, student, teacher, computed):
    """Computed in what holds both; the gradient is the student's."""
    for shape in ((4, 5), (3, 2000)):
        rows = [inputs.batch(shape, np.float64, seed)[0].round(2) for seed in (0, 1)]
        with np.errstate(all="ignore"):
            rows = [row.astype(kind) for row, kind in zip(rows, (student, teacher), strict=True)]
            wide_rows = [row.astype(computed) for row in rows]
        loss, grad = xent.distillation_loss(*rows, reduction="none", return_grad=True)
        expected = xent.distillation_loss(*wide_rows, reduction="none", return_grad=True)
        answer = np.float64 if np.dtype(student).kind == "i" else student
        assert loss.dtype == computed
        assert grad.dtype == answer
        np.testing.assert_array_equal(loss, expected[0])
        with np.errstate(all="ignore"):
            rounded = expected[1].astype(answer).astype(np.float64)
            np.testing.assert_array_equal(grad.astype(np.float64), rounded)
        grad_out = np.zeros(shape, answer)
        again = xent.distillation_loss(*rows, return_grad=True, reduction="none", grad_out=grad_out)
        assert again[1] is grad_out
        assert_same(grad_out, grad)


def test_bits_of_bfloat16(isa):
    rows = [inputs.batch((4, 70), np.float32, seed)[0] for seed in (0, 1)]
    rows = [row.astype(ml_dtypes.bfloat16) for row in rows]
    expected = xent.distillation_loss(*rows, return_grad=True)
    bits = [row.view(np.uint16) for row in rows]
    loss, grad = xent.distillation_loss(*bits, return_grad=True, dtype="bfloat16")
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1].view(np.uint16))
    with pytest.raises((TypeError, ValueError), match="teacher_logits"):
        xent.distillation_loss(bits[0], rows[1].astype(np.float32), dtype="bfloat16")
