"""Divergences of a student from its teacher other than the plain one, and gradients for the teacher.

KL(student || teacher) is the plain divergence with the two exchanged, so that its gradients are the kernels' too. The
Jensen-Shannon divergence has a kernel of its own, which computes rows of any two dtypes in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent import _functions
from xent._arguments import Precision
from xent._blocks import Array, blocks, copied, rounded, stored
from xent._core import jensen_shannon_pass
from xent._pool import count_call, empty_array
from xent._regions import steps
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
        count_call()
        grad = of_other = None
        if with_grad:
            grad = (
                empty_array(first.shape, of_student.result_dtype) if grad_out is None else grad_out
            )
        if with_teacher:
            of_other = empty_array(first.shape, of_teacher.result_dtype)
        loss = JensenShannon(
            np.moveaxis(first, class_axis, -1),
            of_student,
            np.moveaxis(second, class_axis, -1),
            of_teacher,
            compute,
            share,
            arguments.temperature(temperature),
            reduction,
            arguments.sample_weight(sample_weight, shape, compute, code),
        ).run(
            None if grad is None else np.moveaxis(grad, class_axis, -1),
            None if of_other is None else np.moveaxis(of_other, class_axis, -1),
            grad_output,
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
        if grad_out is not None and grad is not grad_out:
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
    """T² (beta KL(q || m) + (1 - beta) KL(p || m)) with m = beta q + (1 - beta) p, and its gradients.

    The arrays have the class axis last. The kernel computes rows whose classes are contiguous, one after the other at one
    distance, and writes them likewise; a block of others is copied.
    """

    def __init__(
        self,
        student: Array,
        of_student: Precision,
        teacher: Array,
        of_teacher: Precision,
        compute: Any,
        beta: float,
        temperature: float,
        reduction: str,
        weight: Array | None,
    ):
        self.student, self.teacher = student, teacher
        self.of_student, self.of_teacher = of_student, of_teacher
        self.shape = student.shape[:-1]
        self.compute, self.beta, self.temperature = compute, beta, temperature
        self.reduction, self.weight = reduction, weight

    def run(self, grad: Array | None, of_teacher: Array | None, grad_output: Any) -> Any:
        """Write the gradients that are not None; return the loss."""
        upstream, scale = arguments.grad_output(
            grad_output, self.reduction != "none", self.shape, self.compute
        )
        slope = np.full(self.shape, scale) if upstream is None else upstream.astype(float)
        divisor, weight = 1.0, self.weight
        if weight is not None:
            weight = np.broadcast_to(weight, self.shape).astype(float)
        if self.reduction == "mean":
            divisor = float(slope.size if weight is None else np.sum(weight, dtype=np.longdouble))
        with np.errstate(all="ignore"):
            if weight is not None:
                slope *= weight
            slope = slope / divisor if divisor else np.zeros_like(slope)
            rows = self.rows(np.ascontiguousarray(slope), grad, of_teacher)
            if weight is not None:
                rows = np.where(weight == 0, 0.0, weight * rows)
            if self.reduction == "none":
                loss: Any = rows.astype(self.compute)[()]
            else:
                total = np.sum(rows, dtype=np.longdouble)
                mean = self.reduction == "mean"
                loss = self.compute.type(
                    total if not mean else total / divisor if divisor else np.nan
                )
        return loss

    def rows(self, slope: Array, grad: Array | None, of_teacher: Array | None) -> Array:
        """Return the divergence of each row, float64; write the gradients."""
        found = np.full(self.shape, np.nan)
        classes = self.student.shape[-1]
        if self.student.size == 0:
            return found
        kinds = self.of_student, self.of_teacher
        logits = self.student, self.teacher
        grads = [
            None if a is None else stored(a, kind)
            for a, kind in zip((grad, of_teacher), kinds, strict=True)
        ]
        in_place = all(
            a is None or row_step(a, kind) is not None
            for a, kind in zip((*logits, *grads), kinds * 2, strict=True)
        )
        for block in (
            [(...,)] if in_place else blocks(self.shape, max(1, BLOCK_BYTES // (8 * classes)))
        ):
            read = [rows_of(a[block], kind, True) for a, kind in zip(logits, kinds, strict=True)]
            written = [
                None if a is None else rows_of(a[block], kind, False)
                for a, kind in zip(grads, kinds, strict=True)
            ]
            loss = np.empty(found[block].shape)
            part = np.ascontiguousarray(slope[block])
            jensen_shannon_pass(
                kinds, classes, self.temperature, self.beta, read, written, part, loss
            )
            found[block] = loss
            for a, rows in zip(grads, written, strict=True):
                if a is not None and rows is not None and not in_place:
                    a[block] = rows[0]
        return found


def row_step(a: Array, precision: Precision) -> int | None:
    """Return the bytes from row to row, or None if the kernel cannot read or write the rows as they lie."""
    found = steps(a[None], a.ndim)
    if found is None or a.dtype != precision.storage or not a.flags.aligned:
        return None
    return found[2] if found[1] == a.itemsize or a.shape[-1] == 1 else None


def rows_of(a: Array, precision: Precision, read: bool) -> tuple[Array, int]:
    """Return rows as the kernel reads or writes them, those of the array or of a new one, and the bytes between them."""
    step = row_step(a, precision)
    if step is not None:
        return a, step
    copy = copied(a, precision.storage) if read else empty_array(a.shape, precision.storage)
    return copy, a.shape[-1] * copy.itemsize
