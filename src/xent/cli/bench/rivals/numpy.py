"""What a user of NumPy would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from xent.cli.bench.case import LATE_OPTIONS, Case
from xent.cli.bench.data import DRAWN, Data, filled, store, widened
from xent.cli.bench.rivals.library import (
    CROSS_ENTROPY,
    FOCAL,
    POLY1,
    Call,
    Library,
    Modulation,
    asymmetric,
    sigmoid_focal,
    target_positions,
    vecdot,
)


class NumPy(Library):
    """The usual shifted formula with one temporary, or none where there is a buffer to use."""

    late_options = LATE_OPTIONS
    arrays = frozenset(DRAWN)

    def __init__(self, threads: int) -> None:
        """NumPy's own loops use one thread, whatever number is requested."""

    def cross_entropy(self, case: Case, data: Data) -> Call:
        if "entropy_weight" in case.options:
            return self._entropy_bonus(case, data)
        if "class_bias" in data.arrays:
            return self._biased(case, data)
        if "target_probs" in data.arrays:
            return self._sparse(case, data)
        return self._loss(CROSS_ENTROPY, case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._loss(FOCAL, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._loss(POLY1, case, data)

    def linear_cross_entropy(self, case: Case, data: Data) -> Call:
        hidden, weight = data.logits, data.weight
        logits = filled(0, case.shape, case.dtype, "C")
        inner = self.cross_entropy(case, replace(data, logits=logits, grad_out=logits))

        def loss() -> np.floating:
            np.matmul(hidden, weight.T, out=logits)
            return inner()

        def loss_and_gradient() -> tuple[np.floating, tuple[np.ndarray, ...]]:
            np.matmul(hidden, weight.T, out=logits)
            value, grad = inner()
            into = data.grad_out
            grads = np.matmul(grad, weight, out=into[0]), np.matmul(grad.T, hidden, out=into[1])
            return value, grads

        return loss_and_gradient if case.gradient else loss

    def info_nce(self, case: Case, data: Data) -> Call:
        queries, keys = data.logits, data.weight
        temperature, symmetric = case.options["temperature"], case.options.get("symmetric")
        own = np.arange(case.classes)

        def one_side(scores: np.ndarray, axis: int) -> tuple[np.floating, np.ndarray]:
            p = scores - scores.max(axis=axis, keepdims=True)
            picked = p[own, own]
            np.exp(p, out=p)
            total = p.sum(axis=axis, keepdims=True)
            p /= total
            p[own, own] -= 1
            return (np.log(total).reshape(-1) - picked).mean(), p

        def loss_and_gradients() -> tuple[np.floating, tuple[np.ndarray, ...]]:
            scores = queries @ keys.T
            scores /= temperature
            value, grad = one_side(scores, 1)
            if symmetric:
                other, columns = one_side(scores, 0)
                value = (value + other) / 2
                grad += columns
                grad /= 2
            grad /= len(queries) * temperature
            return value, (grad @ keys, grad.T @ queries)

        return loss_and_gradients if case.gradient else lambda: loss_and_gradients()[0]

    def sigmoid_contrastive_loss(self, case: Case, data: Data) -> Call:
        a, b = data.logits, data.weight
        scale, bias = (case.options[name] for name in ("logit_scale", "logit_bias"))
        own = np.arange(case.classes)

        def loss() -> tuple[np.floating, np.ndarray, np.ndarray]:
            similarities = a @ b.T
            z = scale * similarities + bias
            z[own, own] *= -1
            return self._binary(z, np.zeros(1, z.dtype)).sum() / len(a), z, similarities

        def loss_and_gradients() -> tuple[np.floating, tuple[Any, ...]]:
            value, z, similarities = loss()
            grad = 1 / (1 + np.exp(-z))
            grad[own, own] *= -1
            grad /= len(a)
            numbers = (grad * similarities).sum(), grad.sum()
            return value, (scale * (grad @ b), scale * (grad.T @ a), *numbers)

        return loss_and_gradients if case.gradient else lambda: loss()[0]

    def _loss(self, modulation: Modulation, case: Case, data: Data) -> Call:
        targets, axis = data.targets, case.axis
        softcap, temperature = case.options.get("softcap"), case.options.get("temperature", 1.0)
        smoothing, z_loss = (case.options.get(name, 0.0) for name in ("label_smoothing", "z_loss"))
        at = None if case.soft else target_positions(case, targets)
        share = 1 / (prod(case.row_shape) * temperature)
        work = None if case.half else data.grad_out

        def transformed() -> np.ndarray:
            """Logits in the compute dtype, after cap and temperature; no copy if that is all."""
            z = widened(data.logits)
            if softcap:
                z = z / softcap
                np.tanh(z, out=z)
                z *= softcap
            return z if temperature == 1 else z / temperature

        def row_terms(shifted: np.ndarray) -> np.ndarray:
            """Sum of targets times shifted logits, per row."""
            if case.soft:
                return vecdot(targets, shifted, axis=axis)
            picked = shifted[at]
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * shifted.mean(axis=axis)
            return picked

        def mean_loss(nll: np.ndarray, lse: np.ndarray | None) -> np.floating:
            value = modulation.value(nll, np.exp)
            return (value if lse is None else value + z_loss * lse**2).mean()

        def loss() -> np.floating:
            z = transformed()
            largest = z.max(axis=axis, keepdims=True)
            shifted = z - largest
            terms = row_terms(shifted)
            np.exp(shifted, out=shifted)
            total = np.log(shifted.sum(axis=axis))
            return mean_loss(total - terms, total + largest.squeeze(axis) if z_loss else None)

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            z = transformed()
            largest = z.max(axis=axis, keepdims=True)
            grad = np.subtract(z, largest, out=work)
            terms = row_terms(grad)
            np.exp(grad, out=grad)
            total = grad.sum(axis=axis, keepdims=True)
            log_total = np.log(total).squeeze(axis)
            nll, lse = log_total - terms, None
            slope = weight = modulation.slope(nll)
            if z_loss:
                lse = log_total + largest.squeeze(axis)
                weight = slope + 2 * z_loss * lse
            if isinstance(weight, np.ndarray):
                weight = np.expand_dims(weight, axis)
            if case.soft:
                grad *= weight / total
                grad -= targets
                grad *= share
            else:
                grad *= share * weight / total
                if smoothing:
                    grad -= share * smoothing / case.classes
                grad[at] -= share * (1 - smoothing) * slope
            if softcap:
                z *= temperature / softcap
                np.square(z, out=z)
                grad *= np.subtract(1, z, out=z)
            return mean_loss(nll, lse), store(grad, data.grad_out) if case.half else grad

        return loss_and_gradient if case.gradient else loss

    def nll_loss(self, case: Case, data: Data) -> Call:
        return self._of_probabilities(lambda log_probs: log_probs, case, data)

    def log_loss(self, case: Case, data: Data) -> Call:
        probs, at = data.logits, target_positions(case, data.targets)
        eps = np.finfo(probs.dtype).eps

        def log_loss() -> np.floating:
            # What the others validate, too.
            sums = probs.sum(axis=case.axis)
            if probs.min() < 0 or probs.max() > 1 or not np.allclose(sums, 1, rtol=eps**0.5):
                raise ValueError("these are not probabilities")
            value: np.floating = -np.log(probs[at].clip(eps, 1 - eps)).mean()
            return value

        return log_loss

    def categorical_cross_entropy(self, case: Case, data: Data) -> Call:
        return self._of_probabilities(np.log, case, data)

    def _of_probabilities(
        self, log: Callable[[np.ndarray], np.ndarray], case: Case, data: Data
    ) -> Call:
        probs, targets, grad, axis = data.logits, data.targets, data.grad_out, case.axis
        share = 1 / prod(case.row_shape)
        at = None if case.soft else target_positions(case, targets)

        def loss() -> np.floating:
            rows = vecdot(targets, log(probs), axis=axis) if case.soft else log(probs[at])
            return -rows.mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            if case.soft:
                np.multiply(targets, -share, out=grad)
                if log is np.log:
                    np.divide(grad, probs, out=grad)
            else:
                grad.fill(0)
                grad[at] = -share / probs[at] if log is np.log else -share
            return loss(), grad

        return loss_and_gradient if case.gradient else loss

    def entropy(self, case: Case, data: Data) -> Call:
        logits, axis, share = data.logits, case.axis, 1 / prod(case.row_shape)

        def entropy() -> np.floating | tuple[np.floating, np.ndarray]:
            shifted = logits - logits.max(axis=axis, keepdims=True)
            p = np.exp(shifted, out=data.grad_out)
            total = p.sum(axis=axis, keepdims=True)
            moment = np.expand_dims(vecdot(p, shifted, axis=axis), axis) / total
            value = (np.log(total) - moment).mean()
            if not case.gradient:
                return value
            # -p (log p + H) = -p (shifted - moment)
            shifted -= moment
            p *= shifted
            p *= -share / total
            return value, p

        return entropy

    def distillation_loss(self, case: Case, data: Data) -> Call:
        axis, share, temperature = case.axis, 1 / prod(case.row_shape), case.options["temperature"]

        def log_softmax(logits: np.ndarray) -> np.ndarray:
            result = logits / temperature
            result -= result.max(axis=axis, keepdims=True)
            result -= np.log(np.exp(result).sum(axis=axis, keepdims=True))
            return result

        if divergence := case.options.get("divergence"):
            return self._divergence(divergence, log_softmax, case, data)

        def distillation_loss() -> np.floating | tuple[np.floating, np.ndarray]:
            student, teacher = log_softmax(data.logits), log_softmax(data.targets)
            q = np.exp(teacher, out=data.grad_out)
            teacher -= student
            value = temperature**2 * vecdot(q, teacher, axis=axis).mean()
            if not case.gradient:
                return value
            grad = np.subtract(np.exp(student, out=student), q, out=q)
            grad *= temperature * share
            return value, grad

        return distillation_loss

    def _divergence(
        self,
        divergence: str,
        log_softmax: Callable[[np.ndarray], np.ndarray],
        case: Case,
        data: Data,
    ) -> Call:
        axis, temperature = case.axis, case.options["temperature"]
        factor = temperature / prod(case.row_shape) * (0.5 if divergence == "jsd" else 1)

        def loss() -> np.floating | tuple[np.floating, np.ndarray]:
            log_p, log_q = log_softmax(data.logits), log_softmax(data.targets)
            p = np.exp(log_p, out=data.grad_out)
            if divergence == "jsd":
                q = np.exp(log_q)
                log_m = np.log((p + q) / 2)
                log_p -= log_m
                log_q -= log_m
                of_p, of_q = vecdot(p, log_p, axis=axis), vecdot(q, log_q, axis=axis)
                rows = (of_p + of_q) / 2
            else:
                log_p -= log_q
                rows = of_p = vecdot(p, log_p, axis=axis)
            value = temperature**2 * rows.mean()
            if not case.gradient:
                return value
            log_p -= np.expand_dims(of_p, axis)
            p *= log_p
            p *= factor
            return value, p

        return loss

    def _biased(self, case: Case, data: Data) -> Call:
        logits, bias = np.empty_like(data.logits), data.arrays["class_bias"]
        loss = self._loss(CROSS_ENTROPY, case, replace(data, logits=logits))

        def biased() -> Any:
            np.add(data.logits, bias, out=logits)
            return loss()

        return biased

    def _sparse(self, case: Case, data: Data) -> Call:
        logits, targets, probs = data.logits, data.targets, data.arrays["target_probs"]
        share, rows = 1 / len(logits), np.arange(len(logits))[:, None]

        def loss() -> np.floating | tuple[np.floating, np.ndarray]:
            shifted = logits - logits.max(axis=-1, keepdims=True)
            p = np.exp(shifted, out=data.grad_out)
            total = p.sum(axis=-1, keepdims=True)
            nll = np.log(total) - np.take_along_axis(shifted, targets, -1)
            value = vecdot(probs, nll).mean()
            if not case.gradient:
                return value
            p *= share / total
            np.subtract.at(p, (rows, targets), probs * np.float32(share))
            return value, p

        return loss

    def _entropy_bonus(self, case: Case, data: Data) -> Call:
        logits, axis, bonus = data.logits, case.axis, case.options["entropy_weight"]
        at, share = target_positions(case, data.targets), 1 / prod(case.row_shape)

        def loss() -> np.floating | tuple[np.floating, np.ndarray]:
            shifted = logits - logits.max(axis=axis, keepdims=True)
            p = np.exp(shifted, out=data.grad_out)
            total = p.sum(axis=axis, keepdims=True)
            log_total = np.log(total).squeeze(axis)
            moment = vecdot(p, shifted, axis=axis) / total.squeeze(axis)
            value = (log_total - shifted[at] - bonus * (log_total - moment)).mean()
            if not case.gradient:
                return value
            # p - t + bonus p (log p + H), and log p + H = shifted - moment
            shifted -= np.expand_dims(moment, axis)
            shifted *= bonus
            shifted += 1
            p *= shifted
            p *= share / total
            p[at] -= share
            return value, p

        return loss

    def score(self, case: Case, data: Data) -> Call:
        logits, targets, top = data.logits, data.targets, case.options.get("top_k")
        at = target_positions(case, targets)

        def report() -> tuple[Any, ...]:
            argmax, target = logits.argmax(axis=-1), logits[at]
            largest = logits.max(axis=-1, keepdims=True)
            shifted = logits - largest
            p = np.exp(shifted)
            total = p.sum(axis=-1)
            log_total = np.log(total)
            lse = largest.squeeze(-1) + log_total
            entropy = log_total - vecdot(p, shifted) / total
            squares = vecdot(p, p) / total**2
            rank = (logits > target[..., None]).sum(axis=-1)
            classes = log_probs = None
            if top:
                classes = np.argpartition(logits, -top, axis=-1)[..., -top:]
                found = np.take_along_axis(logits, classes, -1)
                order = found.argsort(axis=-1)[..., ::-1]
                classes = np.take_along_axis(classes, order, -1)
                log_probs = np.take_along_axis(found, order, -1) - lse[..., None]
            return target - lse, rank, lse, entropy, argmax, -log_total, squares, classes, log_probs

        return report

    def dice_loss(self, case: Case, data: Data) -> Call:
        return self._mean_of_regions(case, data, 2, 0, 1, 1)

    def tversky_loss(self, case: Case, data: Data) -> Call:
        alpha, beta = case.options["alpha"], case.options["beta"]
        return self._mean_of_regions(case, data, 1, 1 - alpha - beta, alpha, beta)

    def _mean_of_regions(
        self, case: Case, data: Data, overlap: float, joint: float, mass: float, target: float
    ) -> Call:
        logits, axis = data.logits, case.axis % len(case.shape)
        positions = tuple(d for d in range(1, len(case.shape)) if d != axis)
        classes = np.arange(case.classes).reshape(
            [-1 if d == axis else 1 for d in range(len(case.shape))]
        )

        def mean_loss() -> np.floating | tuple[np.floating, np.ndarray]:
            p = np.subtract(logits, logits.max(axis=axis, keepdims=True), out=data.grad_out)
            np.exp(p, out=p)
            p /= p.sum(axis=axis, keepdims=True)
            t = (np.expand_dims(data.targets, axis) == classes).astype(p.dtype)
            # In float64: along axes that are not the last NumPy adds one after the other.
            both, of_p, of_t = (
                a.sum(axis=positions, keepdims=True, dtype=np.float64) for a in (p * t, p, t)
            )
            below = joint * both + mass * of_p + target * of_t + 1
            ratio = (overlap * both + 1) / below
            value = (1 - ratio).mean()
            if not case.gradient:
                return value
            t *= (joint * ratio - overlap) / below / ratio.size
            t += mass * ratio / below / ratio.size
            t -= np.expand_dims(vecdot(p, t, axis=axis), axis)
            p *= t
            return value, p

        return mean_loss

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        logits, axis, at = data.logits, case.axis, target_positions(case, data.targets)

        def loss_gradient_and_hessian() -> tuple[np.floating, np.ndarray, np.ndarray]:
            p = np.subtract(logits, logits.max(axis=axis, keepdims=True), out=data.grad_out)
            picked = p[at]
            np.exp(p, out=p)
            total = p.sum(axis=axis, keepdims=True)
            p /= total
            hess = np.subtract(1, p, out=data.hess_out)
            hess *= p
            p[at] -= 1
            return (np.log(total).squeeze(axis) - picked).sum(), p, hess

        return loss_gradient_and_hessian

    def xgboost_softmax_hessian(self, case: Case, data: Data) -> Call:
        # The custom objective of XGBoost's documentation, without its loops over rows and classes.
        derivatives = self.cross_entropy_hessian(case, data)

        def gradient_and_hessian() -> tuple[np.ndarray, np.ndarray]:
            _, grad, hess = derivatives()
            hess *= 2
            return grad, hess

        return gradient_and_hessian

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        p, t = data.logits, data.targets

        def loss() -> np.floating:
            log_p, log_others = np.log(p), np.log1p(-p)
            return -(t * np.maximum(log_p, -100) + (1 - t) * np.maximum(log_others, -100)).mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            grad = np.subtract(p, t, out=data.grad_out)
            grad /= np.maximum(p * (1 - p), 1e-12)
            grad /= p.size
            return loss(), grad

        return loss_and_gradient if case.gradient else loss

    @staticmethod
    def _binary(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Cross-entropy of each element."""
        return np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            grad = np.exp(np.negative(z, out=data.grad_out), out=data.grad_out)
            grad += 1
            np.divide(1, grad, out=grad)
            grad -= t
            grad /= z.size
            return self._binary(z, t).mean(), grad

        return loss_and_gradient if case.gradient else lambda: self._binary(z, t).mean()

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def loss_gradient_and_hessian() -> tuple[np.floating, np.ndarray, np.ndarray]:
            p = np.exp(np.negative(z, out=data.grad_out), out=data.grad_out)
            p += 1
            np.divide(1, p, out=p)
            hess = np.subtract(1, p, out=data.hess_out)
            hess *= p
            p -= t
            return self._binary(z, t).sum(), p, hess

        return loss_gradient_and_hessian

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def parts() -> tuple[np.ndarray, np.ndarray]:
            p = 1 / (1 + np.exp(-z))
            return self._binary(z, t), t + p - 2 * t * p

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            ce, q = parts()
            # Of labels: dq/dz = (1 - 2t) q (1 - q), dce/dz = (1 - 2t) q.
            slope = (1 - 2 * t) * (q + 2 * (1 - q) * ce)
            grad = np.divide(sigmoid_focal(slope, q, t), z.size, out=data.grad_out)
            return sigmoid_focal(ce, q, t).mean(), grad

        return loss_and_gradient if case.gradient else lambda: sigmoid_focal(*parts(), t).mean()

    def asymmetric_loss(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
            e = np.exp(-z)
            q = e / (1 + e)
            m = np.maximum(1 / (1 + e) - z.dtype.type(0.05), 0)
            return -np.log1p(e), q, m, np.log1p(-m)

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            log_p, q, m, log_rest = parts()
            p = 1 - q
            of_negative = m**3 * p * q * (m / (1 - m) - 4 * log_rest)
            slope = (1 - t) * of_negative - t * q * (q - p * log_p)
            grad = np.divide(slope, z.size, out=data.grad_out)
            return asymmetric(log_p, q, m, log_rest, t).mean(), grad

        return loss_and_gradient if case.gradient else lambda: asymmetric(*parts(), t).mean()

    def kl_div(self, case: Case, data: Data) -> Call:
        x, t = data.logits, data.targets

        def loss() -> np.floating:
            return (t * (np.log(t) - x)).mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            return loss(), np.divide(t, -x.size, out=data.grad_out)

        return loss_and_gradient if case.gradient else loss

    def token_log_probs(self, case: Case, data: Data) -> Call:
        at = target_positions(case, data.targets)

        def token_log_probs() -> np.ndarray:
            shifted = data.logits - data.logits.max(axis=case.axis, keepdims=True)
            picked = shifted[at]
            np.exp(shifted, out=shifted)
            return np.subtract(picked, np.log(shifted.sum(axis=case.axis)), out=data.out)

        return token_log_probs

    def perplexity(self, case: Case, data: Data) -> Call:
        loss = self.cross_entropy(case, data)
        return lambda: np.exp(loss())

    def logsumexp(self, case: Case, data: Data) -> Call:
        def logsumexp() -> np.ndarray:
            largest = data.logits.max(axis=case.axis, keepdims=True)
            shifted = data.logits - largest
            np.exp(shifted, out=shifted)
            total = np.log(shifted.sum(axis=case.axis))
            return np.add(total, largest.squeeze(case.axis), out=data.out)

        return logsumexp

    def softmax(self, case: Case, data: Data) -> Call:
        def softmax() -> np.ndarray:
            largest = data.logits.max(axis=case.axis, keepdims=True)
            result = np.subtract(data.logits, largest, out=data.out)
            np.exp(result, out=result)
            result /= result.sum(axis=case.axis, keepdims=True)
            return result

        return softmax

    def log_softmax(self, case: Case, data: Data) -> Call:
        def log_softmax() -> np.ndarray:
            largest = data.logits.max(axis=case.axis, keepdims=True)
            result = np.subtract(data.logits, largest, out=data.out)
            result -= np.log(np.exp(result).sum(axis=case.axis, keepdims=True))
            return result

        return log_softmax
