"""Divergences of a student from its teacher other than the plain one, and gradients for the teacher.

KL(student || teacher) is the plain divergence with the two exchanged, so that its gradients are the kernels' too. The
Jensen-Shannon divergence is computed in float64, a block of rows at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent import _functions
from xent._blocks import Array, blocks, numbers, rounded, stored
from xent._head import kernel, row_sums
from xent._pool import empty_array
from xent._request import BLOCK_BYTES

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def share_of_teacher(beta: Any) -> float:
    """Return `beta` as a float, or raise."""
    number: float = arguments.number(beta, "beta", 0.0, 1.0, "a number in (0, 1)")
    if not 0 < number < 1:
        raise ValueError(f"beta: expected a number in (0, 1), got {beta!r}")
    return number


def _in_its_dtype(grad: Any, precision: Any) -> Any:
    """A gradient in the dtype of the logits it belongs to."""
    if grad.dtype == precision.result_dtype:
        return grad
    wide = grad.astype(np.float64 if grad.itemsize == 8 else np.float32)
    result = empty_array(grad.shape, precision.result_dtype)
    with np.errstate(all="ignore"):
        stored(result, precision)[...] = rounded(wide, precision)
    return result


def distillation(
    student: Any,
    teacher: Any,
    *,
    divergence: str,
    beta: Any,
    temperature: Any,
    axis: Any,
    sample_weight: Any,
    reduction: str,
    return_grad: Any,
    return_teacher_grad: Any,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
) -> Any:
    """Return the loss, or a tuple of it, the student's gradient and the teacher's, as far as they are asked for."""
    with_grad = arguments.flag(return_grad, "return_grad")
    with_teacher = arguments.flag(return_teacher_grad, "return_teacher_grad")
    if not with_grad and not with_teacher and grad_output is not None:
        raise ValueError("grad_output: given, but return_grad is False")
    if not with_grad and grad_out is not None:
        raise ValueError("grad_out: given, but return_grad is False")
    if not isinstance(divergence, str) or divergence not in DIVERGENCES:
        raise ValueError(
            f"divergence: expected one of {', '.join(DIVERGENCES)}, got {arguments.described(divergence)}"
        )
    share = share_of_teacher(beta)
    first, of_student = arguments.logits(student, "student_logits", dtype)
    second, of_teacher = arguments.logits(teacher, "teacher_logits", dtype)
    if first.shape != second.shape:
        raise ValueError(
            f"teacher_logits: expected the shape of student_logits, {first.shape}; got {second.shape}"
        )
    class_axis = arguments.class_axis(axis, first.ndim, "student_logits")
    shape = first.shape[:class_axis] + first.shape[class_axis + 1 :]
    double = np.float64 in (of_student.compute, of_teacher.compute)
    compute = np.dtype(np.float64 if double else np.float32)
    code = arguments.reduction(reduction)
    if out is not None:
        out = arguments.buffer(out, "out", shape if reduction == "none" else (), compute)
    if grad_out is not None:
        grad_out = arguments.buffer(grad_out, "grad_out", first.shape, of_student.result_dtype)
        arguments.check_no_overlap(
            {"grad_out": grad_out, "out": out},
            {"student_logits": first, "teacher_logits": second},
            ("grad_out", "student_logits"),
        )
    if divergence == "jsd":
        loss, grad, of_other = JensenShannon(
            np.moveaxis(first, class_axis, -1),
            of_student,
            np.moveaxis(second, class_axis, -1),
            of_teacher,
            compute,
            share,
            arguments.temperature(temperature),
            reduction,
            arguments.sample_weight(sample_weight, shape, compute, code),
        ).run(with_grad, with_teacher, grad_output)
        grad, of_other = (
            None if a is None else np.ascontiguousarray(np.moveaxis(a, -1, class_axis))
            for a in (grad, of_other)
        )
    else:
        exchanged = divergence == "reverse_kl"
        pair = (teacher, student) if exchanged else (student, teacher)
        options = {
            "sample_weight": sample_weight,
            "temperature": temperature,
            "reduction": reduction,
            "dtype": dtype,
        }

        def call(of_second: bool) -> Any:
            return _functions.softmax_loss(
                "distillation_loss",
                *pair,
                axis,
                return_grad=True,
                grad_output=grad_output,
                teacher_grad=of_second,
                **options,
            )

        grad = of_other = None
        if with_teacher:
            loss, of_other = call(not exchanged)
        if with_grad:
            loss, grad = call(exchanged)
        if not with_grad and not with_teacher:
            loss = _functions.softmax_loss("distillation_loss", *pair, axis, **options)
    found = [loss]
    if with_grad:
        grad = _in_its_dtype(grad, of_student)
        if grad_out is not None:
            grad_out[...] = grad
            grad = grad_out
        found.append(grad)
    if with_teacher:
        found.append(_in_its_dtype(of_other, of_teacher))
    if out is not None:
        out[...] = loss
        found[0] = out
    return found[0] if len(found) == 1 else tuple(found)


class JensenShannon:
    """T² (beta KL(q || m) + (1 - beta) KL(p || m)) with m = beta q + (1 - beta) p.

    With d = log p - log q, b = log(q / m) is -log1p((1 - beta) expm1(d)) and a = log(p / m) is -log1p(beta expm1(-d)). What
    sums to 0, m - q and m - p, is added to q b and p a, whose terms then are positive: no rounding of one is larger than it
    where the two nearly agree. The functions are those of the kernels, so that no bit depends on NumPy's.
    """

    def __init__(
        self,
        student: Array,
        of_student: Any,
        teacher: Array,
        of_teacher: Any,
        compute: Any,
        beta: float,
        temperature: float,
        reduction: str,
        weight: Array | None,
    ):
        self.z, self.of_student, self.other, self.of_teacher = (
            student,
            of_student,
            teacher,
            of_teacher,
        )
        self.shape = student.shape[:-1]
        self.compute, self.beta, self.heat = compute, beta, temperature
        self.reduction, self.weight = reduction, weight

    def run(self, with_grad: bool, with_teacher: bool, grad_output: Any) -> Any:
        weight = (
            np.ones(self.shape)
            if self.weight is None
            else np.broadcast_to(self.weight, self.shape).astype(float)
        )
        upstream, scale = arguments.grad_output(
            grad_output, self.reduction != "none", self.shape, self.compute
        )
        divisor = float(np.sum(weight, dtype=np.longdouble)) if self.reduction == "mean" else 1.0
        slope = weight * scale * (1.0 if upstream is None else upstream)
        slope = slope / divisor if divisor else np.zeros_like(slope)
        rows = np.zeros(self.shape)
        grad = empty_array(self.z.shape, self.compute) if with_grad else None
        of_other = empty_array(self.z.shape, self.compute) if with_teacher else None
        for block in blocks(self.shape, max(1, BLOCK_BYTES // (8 * max(1, self.z.shape[-1])))):
            with np.errstate(all="ignore"):
                rows[block] = self.block(block, slope[block], grad, of_other)
        with np.errstate(all="ignore"):
            rows = np.where(weight == 0, 0.0, weight * rows)
            if self.reduction == "none":
                loss: Any = rows.astype(self.compute)[()]
            else:
                total = np.sum(rows, dtype=np.longdouble)
                mean = self.reduction == "mean"
                loss = self.compute.type(
                    total if not mean else total / divisor if divisor else np.nan
                )
        return loss, grad, of_other

    def block(self, block: Any, slope: Array, grad: Any, of_other: Any) -> Array:
        if not self.z.shape[-1]:
            return np.full(slope.shape, np.nan)
        heat, beta = self.heat, self.beta
        z = numbers(self.z[block], self.of_student).astype(float) / heat
        other = numbers(self.other[block], self.of_teacher).astype(float) / heat
        log_p, log_q = (_functions.softmax_family("log_softmax", a, -1, None) for a in (z, other))
        p, q = kernel("exp", log_p), kernel("exp", log_q)
        d = np.where((p == 0) & (q == 0), 0.0, log_p - log_q)
        # e = expm1(-|d|); with w the share of the smaller of p and q in m, m is the larger one times 1 + (1 - w) e.
        size, falls = np.minimum(np.abs(d), 1e4), d <= 0
        t = kernel("tanh", size * -0.5)
        e = 2 * t / (1 - t)
        w, rest = np.where(falls, 1 - beta, beta), np.where(falls, beta, 1 - beta)
        near = w * e > -0.5
        log_m = np.where(
            near,
            kernel("log1p", np.where(near, w * e, 0.0)),
            kernel("log", np.where(near, 1.0, rest + w * kernel("exp", -size))),
        )
        b = np.where(falls, -log_m, -d - log_m)
        a = np.where(falls, d - log_m, -log_m)
        ahead = np.where(falls, q, -p) * e  # p - q
        of_q = row_sums(np.where(q > 0, q * b, 0.0) + (1 - beta) * ahead)
        of_p = row_sums(np.where(p > 0, p * a, 0.0) - beta * ahead)
        factor = (slope * heat)[..., None]
        if grad is not None:
            part = np.where(p > 0, p * (a - row_sums(np.where(p > 0, p * a, 0.0))[..., None]), 0.0)
            grad[block] = np.where(factor == 0, 0.0, (1 - beta) * factor * part)
        if of_other is not None:
            part = np.where(q > 0, q * (b - row_sums(np.where(q > 0, q * b, 0.0))[..., None]), 0.0)
            of_other[block] = np.where(factor == 0, 0.0, beta * factor * part)
        rows: Array = heat**2 * (beta * of_q + (1 - beta) * of_p)
        spoilt: Array = np.isnan(log_p).any(-1) | np.isnan(log_q).any(-1)
        return np.where(spoilt, np.nan, rows)
