"""`distillation_loss` with other divergences, and the teacher's gradient, against formulas in extended precision."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import xent
from calls import assert_same, using
from reference import WIDE
from xent import _core

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
    bounds = {"reverse_kl": 84, "jsd": 1 if dtype == np.float32 else 64}
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


@pytest.mark.parametrize("temperature", [1, 1e8, 1e20])
@pytest.mark.parametrize("beta", [0.01, 0.5, 0.99])
def test_the_mixture_however_nearly_rows_agree(isa, dtype, beta, temperature):
    """The bound of docs/accuracy.md, in units of 2u of the dtype."""
    bound = 1 if dtype == np.float32 else 32 / min(beta, 1 - beta)
    eps = float(np.finfo(dtype).eps)
    for seed, apart in enumerate((1.0, 1e-2, 1e-4, 1e-8, 1e-13)):
        rng = np.random.default_rng(seed)
        student = (5 * rng.normal(size=7)).astype(dtype)
        teacher = (student + apart * rng.normal(size=7)).astype(dtype)
        if (teacher == student).all():
            continue
        options: Any = {"divergence": "jsd", "beta": beta, "temperature": temperature}
        found = xent.distillation_loss(student[None], teacher[None], **options)
        with mpmath.workdps(150):
            right = mixture(student, teacher, beta, temperature)
            assert abs(mpmath.mpf(float(found)) / right - 1) <= bound * eps
        assert xent.distillation_loss(student[None], student[None] + 1, **options) <= eps**2


def mixture(student: np.ndarray, teacher: np.ndarray, beta: float, temperature: float) -> Any:
    """T² (beta KL(q || m) + (1 - beta) KL(p || m)) to the digits of mpmath."""
    rows = [[mpmath.mpf(float(x)) / temperature for x in a] for a in (student, teacher)]
    powers = [[mpmath.exp(x - max(a)) for x in a] for a in rows]
    p, q = ([e / mpmath.fsum(a) for e in a] for a in powers)
    m = [beta * b + (1 - mpmath.mpf(beta)) * a for a, b in zip(p, q, strict=True)]
    shares = ((1 - mpmath.mpf(beta), p), (mpmath.mpf(beta), q))
    sums = (
        s * mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(x, m, strict=True)) for s, x in shares
    )
    return mpmath.mpf(temperature) ** 2 * mpmath.fsum(sums)


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


# The kernel of the Jensen-Shannon divergence: rows with a lane each, rows of one block, of several.
CLASSES = (1, 2, 7, 8, 9, 127, 128, 129, 1024, 1025, 3000)


def pair(rows: int, classes: int, spread: float = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    student = rng.normal(0, spread, (rows, classes))
    return student, student + rng.normal(0, spread / 3, student.shape)


def jsd(student: Any, teacher: Any, **options: Any) -> Any:
    """Loss and both gradients of each row."""
    both = {"return_grad": True, "return_teacher_grad": True, "reduction": "none"} | options
    return xent.distillation_loss(student, teacher, divergence="jsd", **both)


@pytest.mark.parametrize("classes", CLASSES)
def test_the_mixture_against_its_formula(isa, dtype, classes):
    student, teacher = (a.astype(dtype) for a in pair(3, classes))
    found = jsd(student, teacher, temperature=1.7, beta=0.25)
    heat, wide = WIDE(1.7), (student.astype(WIDE), teacher.astype(WIDE))
    log_p, log_q = (a / heat - np.log(np.exp(a / heat).sum(-1, keepdims=True)) for a in wide)
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log(WIDE(0.25) * q + (1 - WIDE(0.25)) * p)
    a, b = log_p - log_m, log_q - log_m
    eps = float(np.finfo(dtype).eps)
    oracle = float(np.finfo(WIDE).eps)
    expected = formula(*wide, "jsd", 1.7, 0.25).astype(float)
    np.testing.assert_allclose(found[0], expected, rtol=256 * eps, atol=16 * oracle)
    for grad, prob, log_ratio, share in zip(found[1:], (p, q), (a, b), (0.75, 0.25), strict=True):
        center = (prob * log_ratio).sum(-1, keepdims=True)
        right = (heat * share * prob * (log_ratio - center)).astype(float)
        # An exponential has the error of its argument, a logarithm of a ratio that of two.
        size = (heat * prob * (1 + np.abs(log_ratio - center))).astype(float)
        assert (np.abs(grad - right) <= eps * np.abs(right) + 2.0**-52 * 64 * size).all()


@pytest.mark.parametrize("classes", CLASSES)
def test_bits_of_the_mixture(isa, dtype, threads, classes):
    """Whatever computes a row, and wherever it lies: alone, strided, reversed, with other classes last, byte-swapped."""
    rows = 40 if classes > 128 else 700
    student, teacher = (a.astype(dtype) for a in pair(rows, classes))
    with using(_core.isas()[-1], 1):
        expected = jsd(student, teacher)
    assert_same(jsd(student, teacher), expected)
    for i in (0, rows - 1):
        alone = jsd(student[i : i + 1], teacher[i : i + 1])
        assert_same(alone, tuple(a[i : i + 1] for a in expected))
    apart = np.zeros((rows, classes + 3), dtype)
    apart[:, 1:-2] = teacher
    assert_same(jsd(student[::-1], apart[::-1, 1:-2]), tuple(a[::-1] for a in expected))
    columns = jsd(np.asfortranarray(student).T, teacher.T, axis=0)
    assert_same(columns, (expected[0], expected[1].T, expected[2].T))
    swapped = student.astype(student.dtype.newbyteorder())
    assert_same(jsd(swapped, np.repeat(teacher, 2, -1)[:, ::2])[0], expected[0])
    place = student.copy()
    assert_same(jsd(place, teacher, grad_out=place)[1:], expected[1:])
    assert_same(place, expected[1])


def as_dtype(values: np.ndarray, name: str) -> np.ndarray:
    kind = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name
    with np.errstate(under="ignore"):
        return values.astype(kind)


@pytest.mark.parametrize("of_teacher", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("of_student", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("classes", [5, 130, 1100])
def test_the_mixture_computes_every_dtype_in_double(isa, classes, of_student, of_teacher):
    student, teacher = pair(9, classes)
    student, teacher = as_dtype(student, of_student), as_dtype(teacher, of_teacher)
    loss, *grads = jsd(student, teacher, temperature=0.7)
    right, *expected = jsd(student.astype(float), teacher.astype(float), temperature=0.7)
    double = "float64" in (of_student, of_teacher)
    assert_same(loss, right.astype(np.float64 if double else np.float32))
    for grad, a, given in zip(grads, expected, (student, teacher), strict=True):
        assert grad.dtype == given.dtype
        if grad.dtype != np.float64:
            single = np.where(np.abs(a) < 2.0**-126, 0, a).astype(np.float32)
            with np.errstate(under="ignore"):
                a = single.astype(grad.dtype)
        assert_same(grad + grad.dtype.type(0), a + grad.dtype.type(0))


@pytest.mark.parametrize("classes", [6, 200, 3000])
def test_masked_and_spoilt_rows_of_the_mixture(isa, dtype, classes):
    student, teacher = (a.astype(dtype) for a in pair(12, classes))
    student[0, : classes // 2] = -INF
    teacher[1, classes // 2 :] = -INF
    student[2, 1:3] = teacher[2, 1:3] = -INF
    student[3], teacher[4] = -INF, -INF
    student[5, -1] = teacher[6, 0] = INF
    student[7, 0] = teacher[8, -1] = np.nan
    weight = np.where(np.arange(12) == 9, 0, 1)
    loss, grad, of_teacher = jsd(student, teacher, sample_weight=weight)
    spoilt = np.isin(np.arange(12), range(3, 9))
    assert_same(np.isnan(loss), spoilt)
    for a in (grad, of_teacher):
        assert_same(np.isnan(a), np.repeat(spoilt[:, None], classes, 1))
        assert not a[9].any()
    assert loss[9] == 0
    assert not grad[0, : classes // 2].any()
    assert not of_teacher[1, classes // 2 :].any()
    assert not grad[2, 1:3].any()
    # What both mask is as if it were not there.
    kept = np.r_[0, 3:classes]
    np.testing.assert_allclose(
        loss[2], jsd(student[2, kept], teacher[2, kept])[0], rtol=8 * np.finfo(dtype).eps
    )
    # Without a class in common, all is the entropy of the share.
    far = np.full(classes, -INF, dtype)
    far[0], near = 0, np.zeros(classes, dtype)
    near[0] = -INF
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    np.testing.assert_allclose(jsd(far, near, beta=0.3)[0], entropy, rtol=64 * np.finfo(dtype).eps)
    # Spoilt rows that do not count poison nothing.
    loss, grad, of_teacher = jsd(student, teacher, sample_weight=~spoilt, reduction="mean")
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()
    assert not of_teacher[spoilt].any()


@pytest.mark.parametrize("beta", [0.02, 0.1, 0.9, 0.98])
def test_uneven_mixtures_keep_their_digits(isa, beta):
    """A mixture that is nearly all of the smaller probability, whose logarithm is then that of a number near 0."""
    for spread in (1, 30):
        student, teacher = pair(12, 9, spread)
        found = jsd(student, teacher, beta=beta)[0]
        with mpmath.workdps(400):
            share = mpmath.mpf(beta)
            for row, (z, other) in zip(found, zip(student, teacher, strict=True), strict=True):
                p, q = ([mpmath.exp(mpmath.mpf(x)) for x in a] for a in (z, other))
                p, q = ([x / mpmath.fsum(a) for x in a] for a in (p, q))
                m = [share * y + (1 - share) * x for x, y in zip(p, q, strict=True)]
                right = mpmath.fsum(
                    share * y * mpmath.log(y / w) + (1 - share) * x * mpmath.log(x / w)
                    for x, y, w in zip(p, q, m, strict=True)
                )
                assert (
                    abs(float((mpmath.mpf(float(row)) - right) / right))
                    <= 32 / min(beta, 1 - beta) * 2.0**-53
                )


def test_hot_rows_of_the_mixture(isa):
    """At high temperatures it tends to beta (1 - beta) / 2 of the variance of the difference, the gradient with it."""
    student, teacher = pair(4, 300)
    apart = student - teacher
    for temperature in (1e6, 1e12, 1e25):
        _, grad, of_teacher = jsd(student, teacher, temperature=temperature, beta=0.3)
        # What is left out is of the order of 1 / T; 1e-7 is the rounding of a difference of logits of that size.
        tolerance = 100 / temperature + 1e-7
        right = 0.21 * (apart - apart.mean(-1, keepdims=True)) / 300
        np.testing.assert_allclose(
            grad, right, rtol=tolerance, atol=tolerance * np.abs(right).max()
        )
        np.testing.assert_allclose(
            of_teacher, -grad, rtol=tolerance, atol=tolerance * np.abs(right).max()
        )
