"""What each library's user would write for a case, at its best.

Every library is a class with one method per function of `xent`. A method takes a case and
its data and returns a call without arguments, which is what the clock sees: conversions,
compilation and everything else that a training loop does once happen before. The call does
not return before its answer is complete. A missing method means that the library has nothing
for that function.

Arrays are handed over without a copy where the library can (`torch.from_numpy`), results go
into the caller's buffers where it lets them (`out=`), and integer targets have the dtype
the library likes best. Half types stay what they are but in NumPy and SciPy, whose loops over
them are slower than a conversion to float32 and back.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np

from cases import ATOL, WITHOUT_TARGETS, Case, Data

Call = Callable[[], Any]


def target_positions(case: Case, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Index tuple that picks the true class of every row from an array of logits' shape."""
    index = list(np.indices(targets.shape, sparse=True))
    index.insert(case.axis % len(case.shape), targets)
    return tuple(index)


@dataclass(frozen=True)
class Link:
    """What a loss makes of a row's negative log-likelihood, in any library's arrays."""

    value: Callable[[Any, Callable[[Any], Any]], Any]
    #: Derivative of `value`, for libraries that have none of their own.
    slope: Callable[[np.ndarray], Any]


def focal(nll: Any, exp: Callable[[Any], Any]) -> Any:
    """Focal loss, gamma = 2."""
    return (1 - exp(-nll)) ** 2 * nll


def focal_slope(nll: np.ndarray) -> np.ndarray:
    """Derivative of `focal`."""
    p = np.exp(-nll)
    return (1 - p) ** 2 + 2 * (1 - p) * p * nll


CROSS_ENTROPY = Link(lambda nll, exp: nll, lambda nll: 1)
FOCAL = Link(focal, focal_slope)
POLY1 = Link(lambda nll, exp: nll + 2 * (1 - exp(-nll)), lambda nll: 1 + 2 * np.exp(-nll))


def sigmoid_focal(ce: Any, q: Any, t: Any) -> Any:
    """Torchvision's focal loss of elements: cross-entropy and q = 1 - p of the target."""
    return (0.25 * t + 0.75 * (1 - t)) * q**2 * ce


def transformed(case: Case, logits: Any, tanh: Callable[[Any], Any]) -> Any:
    """Logits after soft-cap and temperature, in the arrays of a library that differentiates."""
    softcap, temperature = case.options.get("softcap"), case.options.get("temperature")
    if softcap:
        logits = softcap * tanh(logits / softcap)
    return logits / temperature if temperature else logits


class Library:
    """How a library answers a case: with the method that its task names."""

    #: Options that its methods know; None: all.
    options: frozenset[str] | None = None

    @classmethod
    def knows(cls, case: Case) -> bool:
        return hasattr(cls, case.task) and (
            cls.options is None or case.options.keys() <= cls.options
        )

    def call(self, case: Case, data: Data) -> Call:
        return getattr(self, case.task)(case, data)


class Xent(Library):
    """The library under test, whose functions are all called alike."""

    def __init__(self, threads: int) -> None:
        self.module = importlib.import_module("xent")
        self.module.set_num_threads(threads)

    @classmethod
    def knows(cls, case: Case) -> bool:
        return True

    def call(self, case: Case, data: Data) -> Call:
        function, logits, targets = getattr(self.module, case.function), data.logits, data.targets
        options = dict(case.options)
        if case.axis != -1 or case.function in WITHOUT_TARGETS:
            options["axis"] = case.axis
        if case.gradient:
            options["return_hess" if case.hessian else "return_grad"] = True
        buffers = {"out": data.out, "grad_out": data.grad_out, "hess_out": data.hess_out}
        options |= {name: buffer for name, buffer in buffers.items() if buffer is not None}
        # Spelled out, because unpacking would be a visible part of a microsecond.
        if not options:
            return lambda: function(logits, targets)
        if options.keys() == {"return_grad", "grad_out"}:
            grad_out = data.grad_out
            return lambda: function(logits, targets, return_grad=True, grad_out=grad_out)
        return partial(function, *(logits,) if targets is None else (logits, targets), **options)


class NumPy(Library):
    """The usual shifted formula with one temporary, or none where there is a buffer to use."""

    def __init__(self, threads: int) -> None:
        """NumPy's own loops use one thread, whatever is asked for."""

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(CROSS_ENTROPY, case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._loss(FOCAL, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._loss(POLY1, case, data)

    def _loss(self, link: Link, case: Case, data: Data) -> Call:
        targets, axis, dtype = data.targets, case.axis, case.compute_dtype
        softcap, temperature = case.options.get("softcap"), case.options.get("temperature", 1.0)
        smoothing, z_loss = (case.options.get(name, 0.0) for name in ("label_smoothing", "z_loss"))
        at = None if case.soft else target_positions(case, targets)
        share = 1 / (prod(case.row_shape) * temperature)
        converted = case.dtype != dtype
        work = None if converted else data.grad_out

        def transformed() -> np.ndarray:
            """Logits in the compute dtype, after cap and temperature; no copy if that is all."""
            z = data.logits.astype(dtype) if converted else data.logits
            if softcap:
                z = z / softcap
                np.tanh(z, out=z)
                z *= softcap
            return z if temperature == 1 else z / temperature

        def row_terms(shifted: np.ndarray) -> np.ndarray:
            """Sum of targets times shifted logits, per row."""
            if case.soft:
                return np.vecdot(targets, shifted, axis=axis)
            picked = shifted[at]
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * shifted.mean(axis=axis)
            return picked

        def mean_loss(nll: np.ndarray, lse: np.ndarray | None) -> np.floating:
            value = link.value(nll, np.exp)
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
            slope = weight = link.slope(nll)
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
            if converted:
                data.grad_out[...] = grad
            return mean_loss(nll, lse), data.grad_out if converted else grad

        return loss_and_gradient if case.gradient else loss

    def nll_loss(self, case: Case, data: Data) -> Call:
        return self._of_probabilities(lambda log_probs: log_probs, case, data)

    def categorical_cross_entropy(self, case: Case, data: Data) -> Call:
        return self._of_probabilities(np.log, case, data)

    def _of_probabilities(
        self, log: Callable[[np.ndarray], np.ndarray], case: Case, data: Data
    ) -> Call:
        probs, targets, grad, axis = data.logits, data.targets, data.grad_out, case.axis
        share = 1 / prod(case.row_shape)
        at = None if case.soft else target_positions(case, targets)

        def loss() -> np.floating:
            rows = np.vecdot(targets, log(probs), axis=axis) if case.soft else log(probs[at])
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
            moment = np.expand_dims(np.vecdot(p, shifted, axis=axis), axis) / total
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

        def distillation_loss() -> np.floating | tuple[np.floating, np.ndarray]:
            student, teacher = log_softmax(data.logits), log_softmax(data.targets)
            q = np.exp(teacher, out=data.grad_out)
            teacher -= student
            value = temperature**2 * np.vecdot(q, teacher, axis=axis).mean()
            if not case.gradient:
                return value
            grad = np.subtract(np.exp(student, out=student), q, out=q)
            grad *= temperature * share
            return value, grad

        return distillation_loss

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


class SciPy(Library):
    """`scipy.special`; `log_softmax` rather than `logsumexp`, since it is the faster one."""

    options = frozenset({"label_smoothing"})

    def __init__(self, threads: int) -> None:
        """SciPy's special functions use one thread, whatever is asked for."""
        self.special = importlib.import_module("scipy.special")

    def cross_entropy(self, case: Case, data: Data) -> Call:
        log_softmax = self.special.log_softmax
        targets, axis = data.targets, case.axis
        smoothing = case.options.get("label_smoothing", 0.0)
        at = None if case.soft else target_positions(case, targets)

        def logits() -> np.ndarray:
            return data.logits.astype(case.compute_dtype, copy=False)

        def mean_loss(log_probs: np.ndarray) -> np.floating:
            if case.soft:
                return -np.vecdot(targets, log_probs, axis=axis).mean()
            value = -log_probs[at].mean()
            if smoothing:
                value = (1 - smoothing) * value - smoothing * log_probs.mean()
            return value

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            log_probs = log_softmax(logits(), axis=axis)
            value = mean_loss(log_probs)
            grad = np.exp(log_probs, out=log_probs)
            if case.soft:
                grad -= targets
            else:
                if smoothing:
                    grad -= smoothing / case.classes
                grad[at] -= 1 - smoothing
            grad /= grad.size // case.classes
            return value, grad.astype(case.dtype, copy=False)

        if case.gradient:
            return loss_and_gradient
        return lambda: mean_loss(log_softmax(logits(), axis=axis))

    def token_log_probs(self, case: Case, data: Data) -> Call:
        at = target_positions(case, data.targets)
        return lambda: self.special.log_softmax(data.logits, axis=case.axis)[at]

    def perplexity(self, case: Case, data: Data) -> Call:
        loss = self.cross_entropy(case, data)
        return lambda: np.exp(loss())

    def logsumexp(self, case: Case, data: Data) -> Call:
        return lambda: self.special.logsumexp(data.logits, axis=case.axis)

    def softmax(self, case: Case, data: Data) -> Call:
        return lambda: self.special.softmax(data.logits, axis=case.axis)

    def log_softmax(self, case: Case, data: Data) -> Call:
        return lambda: self.special.log_softmax(data.logits, axis=case.axis)


class Torch(Library):
    """`torch.nn.functional` and autograd, on tensors that share NumPy's memory."""

    def __init__(self, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self._mean_loss(case), case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self._mean_loss(case, FOCAL), case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self._mean_loss(case, POLY1), case, data)

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self.torch.nn.functional.binary_cross_entropy, case, data)

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        return self._loss(self.torch.nn.functional.binary_cross_entropy_with_logits, case, data)

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        losses = self.torch.nn.functional.binary_cross_entropy_with_logits

        def mean_loss(z: Any, t: Any) -> Any:
            p = self.torch.sigmoid(z)
            q = 1 - (p * t + (1 - p) * (1 - t))
            return sigmoid_focal(losses(z, t, reduction="none"), q, t).mean()

        return self._loss(mean_loss, case, data)

    def kl_div(self, case: Case, data: Data) -> Call:
        # Torch's own "mean" warns that it is one over all elements.
        kl_div = self.torch.nn.functional.kl_div
        return self._loss(lambda x, t: kl_div(x, t, reduction="none").mean(), case, data)

    def nll_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self._nll_loss(case), case, data)

    def categorical_cross_entropy(self, case: Case, data: Data) -> Call:
        nll_loss = self._nll_loss(case)
        return self._loss(lambda probs, targets: nll_loss(probs.log(), targets), case, data)

    def _nll_loss(self, case: Case) -> Callable[[Any, Any], Any]:
        if case.soft:
            return lambda log_probs, targets: -(targets * log_probs).sum(case.axis).mean()
        return self.torch.nn.functional.nll_loss

    def entropy(self, case: Case, data: Data) -> Call:
        def mean_entropy(logits: Any, _: None) -> Any:
            log_probs = self.torch.log_softmax(logits, case.axis)
            return -(log_probs.exp() * log_probs).sum(case.axis).mean()

        return self._loss(mean_entropy, case, data)

    def distillation_loss(self, case: Case, data: Data) -> Call:
        log_softmax, axis = self.torch.log_softmax, case.axis
        kl_div, temperature = self.torch.nn.functional.kl_div, case.options["temperature"]

        def mean_loss(student: Any, teacher: Any) -> Any:
            p, q = (
                log_softmax(student / temperature, axis),
                log_softmax(teacher / temperature, axis),
            )
            return temperature**2 * kl_div(p, q, log_target=True, reduction="batchmean")

        return self._loss(mean_loss, case, data)

    def _loss(self, mean_loss: Callable[[Any, Any], Any], case: Case, data: Data) -> Call:
        logits, targets = self._tensors(case, data)
        if not case.gradient:
            return lambda: mean_loss(logits, targets)
        logits.requires_grad_()

        def loss_and_gradient() -> tuple[Any, Any]:
            logits.grad = None
            value = mean_loss(logits, targets)
            value.backward()
            return value, logits.grad

        return loss_and_gradient

    def token_log_probs(self, case: Case, data: Data) -> Call:
        row_losses = self._cross_entropy(case, reduction="none")
        logits, targets = self._tensors(case, data)
        return lambda: row_losses(logits, targets).neg_()

    def perplexity(self, case: Case, data: Data) -> Call:
        mean_loss = self._cross_entropy(case)
        logits, targets = self._tensors(case, data)
        return lambda: mean_loss(logits, targets).exp()

    def logsumexp(self, case: Case, data: Data) -> Call:
        return self._special(self.torch.logsumexp, case, data)

    def softmax(self, case: Case, data: Data) -> Call:
        return self._special(self.torch.softmax, case, data)

    def log_softmax(self, case: Case, data: Data) -> Call:
        return self._special(self.torch.log_softmax, case, data)

    def _special(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        logits = self._tensor(data.logits)
        if data.out is None:
            return lambda: function(logits, case.axis)
        out = self._tensor(data.out.copy())
        return lambda: function(logits, case.axis, out=out)

    def _mean_loss(self, case: Case, link: Link = CROSS_ENTROPY) -> Callable[[Any, Any], Any]:
        if link is CROSS_ENTROPY and case.options.keys() <= {"label_smoothing"}:
            return self._cross_entropy(case)
        torch, row_losses = self.torch, self._cross_entropy(case, reduction="none")
        z_loss = case.options.get("z_loss")

        def mean_loss(logits: Any, targets: Any) -> Any:
            z = transformed(case, logits, torch.tanh)
            value = link.value(row_losses(z, targets), torch.exp).mean()
            return (
                value + z_loss * torch.logsumexp(z, case.axis).square().mean() if z_loss else value
            )

        return mean_loss

    def _cross_entropy(self, case: Case, **options: Any) -> Callable[[Any, Any], Any]:
        """Torch's loss for logits of the case's shape; torch wants the classes on axis 1."""
        function = self.torch.nn.functional.cross_entropy
        if "label_smoothing" in case.options:
            options["label_smoothing"] = case.options["label_smoothing"]
        if self._must_flatten(case):
            return lambda logits, targets: function(logits.flatten(0, -2), targets, **options)
        if options:
            return lambda logits, targets: function(logits, targets, **options)
        return function

    def _tensors(self, case: Case, data: Data) -> tuple[Any, Any]:
        targets = None if data.targets is None else self._tensor(data.targets)
        if self._must_flatten(case):
            targets = targets.flatten(0, -2 if case.soft else -1)
        return self._tensor(data.logits), targets

    def _tensor(self, array: np.ndarray) -> Any:
        if array.dtype != "bfloat16":
            return self.torch.from_numpy(array)
        return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16)

    @staticmethod
    def _must_flatten(case: Case) -> bool:
        return len(case.shape) > 2 and case.axis == -1


class Jax(Library):
    """Jitted functions, compiled before the clock starts; the formulas are optax's."""

    def __init__(self, threads: int) -> None:
        """XLA sizes its pool by the process's affinity: see :func:`pin`."""
        self.jax = importlib.import_module("jax")
        self.jax.config.update("jax_enable_x64", True)  # for float64; float32 stays as it is

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._mean_loss(CROSS_ENTROPY, case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._mean_loss(FOCAL, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._mean_loss(POLY1, case, data)

    def _mean_loss(self, link: Link, case: Case, data: Data) -> Call:
        row_losses = self._row_losses(case, link)
        return self._loss(lambda *arrays: row_losses(*arrays).mean(), case, data)

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        numpy = self.jax.numpy

        def mean_loss(p: Any, t: Any) -> Any:
            log_p, log_others = numpy.log(p), numpy.log1p(-p)
            terms = t * numpy.maximum(log_p, -100) + (1 - t) * numpy.maximum(log_others, -100)
            return -terms.mean()

        return self._loss(mean_loss, case, data)

    def _binary(self, z: Any, t: Any) -> Any:
        log_sigmoid = self.jax.nn.log_sigmoid
        return -t * log_sigmoid(z) - (1 - t) * log_sigmoid(-z)

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        return self._loss(lambda z, t: self._binary(z, t).mean(), case, data)

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        def mean_loss(z: Any, t: Any) -> Any:
            p = self.jax.nn.sigmoid(z)
            q = 1 - (p * t + (1 - p) * (1 - t))
            return sigmoid_focal(self._binary(z, t), q, t).mean()

        return self._loss(mean_loss, case, data)

    def kl_div(self, case: Case, data: Data) -> Call:
        log = self.jax.numpy.log
        return self._loss(lambda x, t: (t * (log(t) - x)).mean(), case, data)

    def nll_loss(self, case: Case, data: Data) -> Call:
        picked = self._picked(case)
        return self._loss(lambda *arrays: -picked(*arrays).mean(), case, data)

    def categorical_cross_entropy(self, case: Case, data: Data) -> Call:
        picked, log = self._picked(case), self.jax.numpy.log
        if case.soft:
            return self._loss(lambda p, targets: -picked(log(p), targets).mean(), case, data)
        return self._loss(lambda p, targets: -log(picked(p, targets)).mean(), case, data)

    def entropy(self, case: Case, data: Data) -> Call:
        nn, numpy, axis = self.jax.nn, self.jax.numpy, case.axis

        def mean_entropy(logits: Any) -> Any:
            log_probs = nn.log_softmax(logits, axis=axis)
            return -(numpy.exp(log_probs) * log_probs).sum(axis=axis).mean()

        return self._loss(mean_entropy, case, data)

    def distillation_loss(self, case: Case, data: Data) -> Call:
        nn, numpy, axis = self.jax.nn, self.jax.numpy, case.axis
        temperature = case.options["temperature"]

        def mean_loss(student: Any, teacher: Any) -> Any:
            p = nn.log_softmax(student / temperature, axis=axis)
            q = nn.log_softmax(teacher / temperature, axis=axis)
            return temperature**2 * (numpy.exp(q) * (q - p)).sum(axis=axis).mean()

        return self._loss(mean_loss, case, data)

    def _picked(self, case: Case) -> Callable[[Any, Any], Any]:
        """Sum of targets times values, per row."""
        numpy, axis = self.jax.numpy, case.axis

        def picked(values: Any, targets: Any) -> Any:
            if case.soft:
                return (targets * values).sum(axis=axis)
            at = numpy.expand_dims(targets, axis)
            return numpy.take_along_axis(values, at, axis=axis).squeeze(axis)

        return picked

    def _loss(self, mean_loss: Callable[..., Any], case: Case, data: Data) -> Call:
        if not case.gradient:
            return self._jitted(mean_loss, case, data)
        function = self.jax.jit(self.jax.value_and_grad(mean_loss))
        arrays = self._arrays(case, data)

        def loss_and_gradient() -> tuple[Any, Any]:
            value, grad = function(*arrays)
            return value, grad.block_until_ready()

        return loss_and_gradient

    def token_log_probs(self, case: Case, data: Data) -> Call:
        row_losses = self._row_losses(case)
        return self._jitted(lambda *arrays: -row_losses(*arrays), case, data)

    def perplexity(self, case: Case, data: Data) -> Call:
        numpy, row_losses = self.jax.numpy, self._row_losses(case)
        return self._jitted(lambda *arrays: numpy.exp(row_losses(*arrays).mean()), case, data)

    def logsumexp(self, case: Case, data: Data) -> Call:
        return self._special(self.jax.nn.logsumexp, case, data)

    def softmax(self, case: Case, data: Data) -> Call:
        return self._special(self.jax.nn.softmax, case, data)

    def log_softmax(self, case: Case, data: Data) -> Call:
        return self._special(self.jax.nn.log_softmax, case, data)

    def _special(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        return self._jitted(lambda logits: function(logits, axis=case.axis), case, data)

    def _row_losses(self, case: Case, link: Link = CROSS_ENTROPY) -> Callable[[Any, Any], Any]:
        nn, numpy, axis = self.jax.nn, self.jax.numpy, case.axis
        smoothing, z_loss = (case.options.get(name, 0.0) for name in ("label_smoothing", "z_loss"))

        picked = self._picked(case)

        def soft(logits: Any, targets: Any) -> Any:
            return -picked(nn.log_softmax(logits, axis=axis), targets)

        def index(logits: Any, targets: Any) -> Any:
            z = transformed(case, logits, numpy.tanh)
            total, terms = nn.logsumexp(z, axis=axis), picked(z, targets)
            if smoothing:
                terms = (1 - smoothing) * terms + smoothing * z.mean(axis=axis)
            value = link.value(total - terms, numpy.exp)
            return value + z_loss * total**2 if z_loss else value

        return soft if case.soft else index

    def _jitted(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        jitted, arrays = self.jax.jit(function), self._arrays(case, data)
        return lambda: jitted(*arrays).block_until_ready()

    def _arrays(self, case: Case, data: Data) -> tuple[Any, ...]:
        logits = self.jax.device_put(data.logits)
        if data.targets is None:
            return (logits,)
        targets = data.targets if case.paired else data.targets.astype(np.int32)
        return logits, self.jax.device_put(targets)


class ScikitLearn(Library):
    """The multinomial loss of scikit-learn's boosting: gradient and Hessian of every row."""

    options = frozenset({"reduction"})

    def __init__(self, threads: int) -> None:
        self.loss = importlib.import_module("sklearn._loss.loss").HalfMultinomialLoss
        self.threads = threads

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        loss, targets = self.loss(n_classes=case.classes), data.targets.astype(case.dtype)

        def gradient_and_hessian() -> tuple[None, np.ndarray, np.ndarray]:
            return None, *loss.gradient_hessian(
                targets,
                data.logits,
                gradient_out=data.grad_out,
                hessian_out=data.hess_out,
                n_threads=self.threads,
            )

        return gradient_and_hessian


#: Library classes by the name of the module they need; the first is the one under test.
LIBRARIES: dict[str, type[Library]] = {
    "xent": Xent,
    "numpy": NumPy,
    "scipy": SciPy,
    "sklearn": ScikitLearn,
    "torch": Torch,
    "jax": Jax,
}


def available(case: Case, libraries: Sequence[str] = tuple(LIBRARIES)) -> list[str]:
    """Names of the installed libraries that have something for the case."""
    return [
        name for name in libraries if LIBRARIES[name].knows(case) and find_spec(name) is not None
    ]


def prepare(library: str, case: Case, data: Data, threads: int) -> Call:
    """Return the library's call for the case, on as many threads as it can be told to use."""
    return LIBRARIES[library](threads).call(case, data)


def answer(result: Any) -> tuple[np.ndarray | None, ...]:
    """Copy what a call returned, whichever library it is from, to float64 arrays."""
    parts = result if isinstance(result, tuple) else (result,)
    # Neither NumPy nor torch converts the other's bfloat16.
    parts = tuple(part.detach().double() if hasattr(part, "detach") else part for part in parts)
    return tuple(None if part is None else np.asarray(part).astype(np.float64) for part in parts)


def assert_equal(library: str, case: Case, actual: Any, expected: Sequence[np.ndarray]) -> None:
    """Raise AssertionError unless a call's result agrees with `xent`'s, within `rtol` and ATOL.

    None stands for a part that the library does not compute.
    """
    for got, want in zip(answer(actual), expected, strict=True):
        if got is None:
            continue
        scale = max(np.abs(part).max() for part in expected if part.shape == want.shape)
        np.testing.assert_allclose(
            got.reshape(want.shape),
            want,
            rtol=case.rtol,
            atol=ATOL[case.dtype] * scale,
            err_msg=f"{library} and xent disagree on {case.name}",
        )


def pin(threads: int) -> None:
    """Give the process no more cores than `threads`, for libraries that ask how many there are.

    Has an effect only before they are imported, and on systems that know affinity.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
