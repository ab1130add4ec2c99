"""What each library's user would write for a case, at its best.

Every library is a class with one method per function of `xent`. A method takes a case and
its data and returns a call without arguments, which is what the clock sees: conversions,
compilation and everything else that a training loop does once happen before. The call does
not return before its answer is complete. A missing method means that the library has nothing
for that function.

Arrays are handed over without a copy where the library can (`torch.from_numpy`), results go
into the caller's buffers where it lets them (`out=`), and integer targets have the dtype
the library likes best.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from cases import ATOL, RTOL, Case, Data

Call = Callable[[], Any]


def target_positions(case: Case, targets: np.ndarray) -> tuple[np.ndarray, ...]:
    """Index tuple that picks the true class of every row from an array of logits' shape."""
    index = list(np.indices(targets.shape, sparse=True))
    index.insert(case.axis % len(case.shape), targets)
    return tuple(index)


def focal(nll: Any, exp: Callable[[Any], Any], gamma: float = 2.0) -> Any:
    """Focal loss of rows whose negative log-likelihood is known; any library's arrays."""
    return (1 - exp(-nll)) ** gamma * nll


def poly1(nll: Any, exp: Callable[[Any], Any], epsilon: float = 2.0) -> Any:
    """Poly-1 loss of rows whose negative log-likelihood is known; any library's arrays."""
    return nll + epsilon * (1 - exp(-nll))


def focal_slope(nll: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    """Derivative of `focal` in `nll`, for libraries that have none of their own."""
    p = np.exp(-nll)
    return (1 - p) ** gamma + gamma * (1 - p) ** (gamma - 1) * p * nll


def poly1_slope(nll: np.ndarray, epsilon: float = 2.0) -> np.ndarray:
    """Derivative of `poly1` in `nll`."""
    return 1 + epsilon * np.exp(-nll)


def sigmoid_focal(ce: Any, q: Any, t: Any, alpha: float = 0.25, gamma: float = 2.0) -> Any:
    """Torchvision's formula, of the cross-entropy and q = 1 - p of the target; any arrays."""
    return (alpha * t + (1 - alpha) * (1 - t)) * q**gamma * ce


class Xent:
    """The library under test."""

    def __init__(self, threads: int) -> None:
        self.module = importlib.import_module("xent")
        self.module.set_num_threads(threads)

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.cross_entropy, case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.focal_loss, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.poly1_loss, case, data)

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.binary_cross_entropy, case, data)

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.binary_cross_entropy_with_logits, case, data)

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.sigmoid_focal_loss, case, data)

    def kl_div(self, case: Case, data: Data) -> Call:
        return self._loss(self.module.kl_div, case, data)

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        buffers = {"grad_out": data.grad_out, "hess_out": data.hess_out}
        return lambda: self.module.binary_cross_entropy_with_logits(
            data.logits, data.targets, return_hess=True, **buffers
        )

    def _loss(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        # Spelled out, because unpacking ** would be a visible part of a microsecond.
        logits, targets, grad_out = data.logits, data.targets, data.grad_out
        options = self._options(case)
        if case.gradient and options:
            return lambda: function(logits, targets, return_grad=True, grad_out=grad_out, **options)
        if case.gradient:
            return lambda: function(logits, targets, return_grad=True, grad_out=grad_out)
        if options:
            return lambda: function(logits, targets, **options)
        return lambda: function(logits, targets)

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        buffers = {"grad_out": data.grad_out, "hess_out": data.hess_out}
        options = self._options(case) | buffers
        return lambda: self.module.cross_entropy(
            data.logits, data.targets, return_hess=True, **options
        )

    def token_log_probs(self, case: Case, data: Data) -> Call:
        options = self._options(case)
        return lambda: self.module.token_log_probs(
            data.logits, data.targets, out=data.out, **options
        )

    def perplexity(self, case: Case, data: Data) -> Call:
        options = self._options(case)
        return lambda: self.module.perplexity(data.logits, data.targets, **options)

    def logsumexp(self, case: Case, data: Data) -> Call:
        return lambda: self.module.logsumexp(data.logits, axis=case.axis, out=data.out)

    def softmax(self, case: Case, data: Data) -> Call:
        return lambda: self.module.softmax(data.logits, axis=case.axis, out=data.out)

    def log_softmax(self, case: Case, data: Data) -> Call:
        return lambda: self.module.log_softmax(data.logits, axis=case.axis, out=data.out)

    @staticmethod
    def _options(case: Case) -> dict[str, Any]:
        axis = {} if case.axis == -1 else {"axis": case.axis}
        return {**axis, **case.options}


class NumPy:
    """The usual shifted formula with one temporary, or none where there is a buffer to use."""

    def __init__(self, threads: int) -> None:
        """NumPy's own loops use one thread, whatever is asked for."""

    def cross_entropy(self, case: Case, data: Data) -> Call:
        logits, targets, axis = data.logits, data.targets, case.axis
        smoothing = case.options.get("label_smoothing", 0.0)
        at = None if case.soft else target_positions(case, targets)

        def row_terms(shifted: np.ndarray) -> np.ndarray:
            """Sum of targets times shifted logits, per row."""
            if case.soft:
                return np.vecdot(targets, shifted, axis=axis)
            picked = shifted[at]
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * shifted.mean(axis=axis)
            return picked

        def loss() -> np.floating:
            shifted = logits - logits.max(axis=axis, keepdims=True)
            terms = row_terms(shifted)
            np.exp(shifted, out=shifted)
            return (np.log(shifted.sum(axis=axis)) - terms).mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            grad = np.subtract(logits, logits.max(axis=axis, keepdims=True), out=data.grad_out)
            terms = row_terms(grad)
            np.exp(grad, out=grad)
            total = grad.sum(axis=axis, keepdims=True)
            value = (np.log(total).squeeze(axis) - terms).mean()
            rows = terms.size
            if case.soft:
                grad /= total
                grad -= targets
                grad /= rows
            else:
                grad *= 1 / (rows * total)
                if smoothing:
                    grad -= smoothing / (rows * case.classes)
                grad[at] -= (1 - smoothing) / rows
            return value, grad

        return loss_and_gradient if case.gradient else loss

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(focal, focal_slope, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(poly1, poly1_slope, case, data)

    def _of_likelihood(
        self,
        link: Callable[..., np.ndarray],
        slope: Callable[[np.ndarray], np.ndarray],
        case: Case,
        data: Data,
    ) -> Call:
        logits, axis = data.logits, case.axis
        at = target_positions(case, data.targets)

        def loss() -> np.floating:
            shifted = logits - logits.max(axis=axis, keepdims=True)
            picked = shifted[at]
            np.exp(shifted, out=shifted)
            return link(np.log(shifted.sum(axis=axis)) - picked, np.exp).mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            grad = np.subtract(logits, logits.max(axis=axis, keepdims=True), out=data.grad_out)
            picked = grad[at]
            np.exp(grad, out=grad)
            total = grad.sum(axis=axis)
            nll = np.log(total) - picked
            weight = slope(nll) / nll.size
            grad *= np.expand_dims(weight / total, axis)
            grad[at] -= weight
            return link(nll, np.exp).mean(), grad

        return loss_and_gradient if case.gradient else loss

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        logits, axis, at = data.logits, case.axis, target_positions(case, data.targets)
        rows = data.targets.size

        def loss_gradient_and_hessian() -> tuple[np.floating, np.ndarray, np.ndarray]:
            p = np.subtract(logits, logits.max(axis=axis, keepdims=True), out=data.grad_out)
            picked = p[at]
            np.exp(p, out=p)
            total = p.sum(axis=axis, keepdims=True)
            p /= total
            hess = np.subtract(1, p, out=data.hess_out)
            hess *= p
            hess /= rows
            p[at] -= 1
            p /= rows
            return (np.log(total).squeeze(axis) - picked).mean(), p, hess

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

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def loss() -> np.floating:
            return (np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))).mean()

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            grad = np.exp(np.negative(z, out=data.grad_out), out=data.grad_out)
            grad += 1
            np.divide(1, grad, out=grad)
            grad -= t
            grad /= z.size
            return loss(), grad

        return loss_and_gradient if case.gradient else loss

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        first = self.binary_cross_entropy_with_logits(case, data)

        def loss_gradient_and_hessian() -> tuple[Any, ...]:
            value, grad = first()
            p = np.multiply(grad, grad.size, out=data.hess_out)
            p += data.targets
            p *= (1 - p) / grad.size
            return value, grad, p

        return loss_gradient_and_hessian

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        z, t = data.logits, data.targets

        def parts() -> tuple[np.ndarray, np.ndarray]:
            p = 1 / (1 + np.exp(-z))
            ce = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
            return ce, t + p - 2 * t * p

        def loss_and_gradient(gamma: float = 2.0) -> tuple[np.floating, np.ndarray]:
            ce, q = parts()
            # Of hard targets: dq/dz = (1 - 2t) q (1 - q), dce/dz = (1 - 2t) q.
            slope = (1 - 2 * t) * (q + gamma * (1 - q) * ce)
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


class SciPy:
    """`scipy.special`; `log_softmax` rather than `logsumexp`, since it is the faster one."""

    def __init__(self, threads: int) -> None:
        """SciPy's special functions use one thread, whatever is asked for."""
        self.special = importlib.import_module("scipy.special")

    def cross_entropy(self, case: Case, data: Data) -> Call:
        log_softmax = self.special.log_softmax
        logits, targets, axis = data.logits, data.targets, case.axis
        smoothing = case.options.get("label_smoothing", 0.0)
        at = None if case.soft else target_positions(case, targets)

        def mean_loss(log_probs: np.ndarray) -> np.floating:
            if case.soft:
                return -np.vecdot(targets, log_probs, axis=axis).mean()
            value = -log_probs[at].mean()
            if smoothing:
                value = (1 - smoothing) * value - smoothing * log_probs.mean()
            return value

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            log_probs = log_softmax(logits, axis=axis)
            value = mean_loss(log_probs)
            grad = np.exp(log_probs, out=log_probs)
            if case.soft:
                grad -= targets
            else:
                if smoothing:
                    grad -= smoothing / case.classes
                grad[at] -= 1 - smoothing
            grad /= grad.size // case.classes
            return value, grad

        if case.gradient:
            return loss_and_gradient
        return lambda: mean_loss(log_softmax(logits, axis=axis))

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(focal, focal_slope, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(poly1, poly1_slope, case, data)

    def _of_likelihood(
        self,
        link: Callable[..., np.ndarray],
        slope: Callable[[np.ndarray], np.ndarray],
        case: Case,
        data: Data,
    ) -> Call:
        log_softmax, logits, axis = self.special.log_softmax, data.logits, case.axis
        at = target_positions(case, data.targets)

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            log_probs = log_softmax(logits, axis=axis)
            nll = -log_probs[at]
            weight = slope(nll) / nll.size
            grad = np.exp(log_probs, out=log_probs)
            grad *= np.expand_dims(weight, axis)
            grad[at] -= weight
            return link(nll, np.exp).mean(), grad

        if case.gradient:
            return loss_and_gradient
        return lambda: link(-log_softmax(logits, axis=axis)[at], np.exp).mean()

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


class Torch:
    """`torch.nn.functional` and autograd, on tensors that share NumPy's memory."""

    def __init__(self, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self._cross_entropy(case), case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(focal, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(poly1, case, data)

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        return self._loss(self.torch.nn.functional.binary_cross_entropy, case, data)

    def binary_cross_entropy_with_logits(self, case: Case, data: Data) -> Call:
        return self._loss(self.torch.nn.functional.binary_cross_entropy_with_logits, case, data)

    def sigmoid_focal_loss(self, case: Case, data: Data) -> Call:
        row_losses = self.torch.nn.functional.binary_cross_entropy_with_logits

        def mean_loss(z: Any, t: Any) -> Any:
            p = self.torch.sigmoid(z)
            q = 1 - (p * t + (1 - p) * (1 - t))
            return sigmoid_focal(row_losses(z, t, reduction="none"), q, t).mean()

        return self._loss(mean_loss, case, data)

    def kl_div(self, case: Case, data: Data) -> Call:
        # Torch's own "mean" warns that it is one over all elements.
        kl_div = self.torch.nn.functional.kl_div
        return self._loss(lambda x, t: kl_div(x, t, reduction="none").mean(), case, data)

    def _of_likelihood(self, link: Callable[..., Any], case: Case, data: Data) -> Call:
        exp, row_losses = self.torch.exp, self._cross_entropy(case, reduction="none")
        return self._loss(
            lambda logits, targets: link(row_losses(logits, targets), exp).mean(), case, data
        )

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
        logits = self.torch.from_numpy(data.logits)
        if data.out is None:
            return lambda: function(logits, case.axis)
        out = self.torch.from_numpy(data.out.copy())
        return lambda: function(logits, case.axis, out=out)

    def _cross_entropy(self, case: Case, **options: Any) -> Callable[[Any, Any], Any]:
        """Torch's loss for logits of the case's shape; torch wants the classes on axis 1."""
        function = self.torch.nn.functional.cross_entropy
        options |= case.options
        if self._must_flatten(case):
            return lambda logits, targets: function(logits.flatten(0, -2), targets, **options)
        if options:
            return lambda logits, targets: function(logits, targets, **options)
        return function

    def _tensors(self, case: Case, data: Data) -> tuple[Any, Any]:
        targets = self.torch.from_numpy(data.targets)
        if self._must_flatten(case):
            targets = targets.flatten(0, -2 if case.soft else -1)
        return self.torch.from_numpy(data.logits), targets

    @staticmethod
    def _must_flatten(case: Case) -> bool:
        return len(case.shape) > 2 and case.axis == -1


class Jax:
    """Jitted functions, compiled before the clock starts; the formulas are optax's."""

    def __init__(self, threads: int) -> None:
        """XLA sizes its pool by the process's affinity: see :func:`pin`."""
        self.jax = importlib.import_module("jax")
        self.jax.config.update("jax_enable_x64", True)  # for float64; float32 stays as it is

    def cross_entropy(self, case: Case, data: Data) -> Call:
        row_losses = self._row_losses(case)
        return self._loss(lambda *arrays: row_losses(*arrays).mean(), case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(focal, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._of_likelihood(poly1, case, data)

    def binary_cross_entropy(self, case: Case, data: Data) -> Call:
        numpy = self.jax.numpy

        def mean_loss(p: Any, t: Any) -> Any:
            logs = (numpy.maximum(a, -100) for a in (numpy.log(p), numpy.log1p(-p)))
            return -(t * next(logs) + (1 - t) * next(logs)).mean()

        return self._loss(mean_loss, case, data)

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

    def _binary(self, z: Any, t: Any) -> Any:
        log_sigmoid = self.jax.nn.log_sigmoid
        return -t * log_sigmoid(z) - (1 - t) * log_sigmoid(-z)

    def _of_likelihood(self, link: Callable[..., Any], case: Case, data: Data) -> Call:
        exp, row_losses = self.jax.numpy.exp, self._row_losses(case)
        return self._loss(lambda *arrays: link(row_losses(*arrays), exp).mean(), case, data)

    def _loss(self, mean_loss: Callable[[Any, Any], Any], case: Case, data: Data) -> Call:
        if not case.gradient:
            return self._jitted(mean_loss, case, data)
        function = self.jax.jit(self.jax.value_and_grad(mean_loss))
        logits, targets = self._arrays(case, data)

        def loss_and_gradient() -> tuple[Any, Any]:
            value, grad = function(logits, targets)
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

    def _row_losses(self, case: Case) -> Callable[[Any, Any], Any]:
        nn, numpy, axis = self.jax.nn, self.jax.numpy, case.axis
        smoothing = case.options.get("label_smoothing", 0.0)

        def soft(logits: Any, targets: Any) -> Any:
            return -(targets * nn.log_softmax(logits, axis=axis)).sum(axis=axis)

        def index(logits: Any, targets: Any) -> Any:
            total = nn.logsumexp(logits, axis=axis)
            at = numpy.expand_dims(targets, axis)
            picked = numpy.take_along_axis(logits, at, axis=axis).squeeze(axis)
            if smoothing:
                picked = (1 - smoothing) * picked + smoothing * logits.mean(axis=axis)
            return total - picked

        return soft if case.soft else index

    def _jitted(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        jitted, arrays = self.jax.jit(function), self._arrays(case, data)
        if len(arrays) == 1:
            (logits,) = arrays
            return lambda: jitted(logits).block_until_ready()
        logits, targets = arrays
        return lambda: jitted(logits, targets).block_until_ready()

    def _arrays(self, case: Case, data: Data) -> tuple[Any, ...]:
        logits = self.jax.device_put(data.logits)
        if data.targets is None:
            return (logits,)
        targets = data.targets
        if targets.dtype == np.int64:
            targets = targets.astype(np.int32)
        return logits, self.jax.device_put(targets)


#: Library classes by the name of the module they need; the first is the one under test.
LIBRARIES = {"xent": Xent, "numpy": NumPy, "scipy": SciPy, "torch": Torch, "jax": Jax}


def available(case: Case, libraries: Sequence[str] = tuple(LIBRARIES)) -> list[str]:
    """Names of the installed libraries that have something for the case."""
    return [
        name
        for name in libraries
        if hasattr(LIBRARIES[name], case.task) and find_spec(name) is not None
    ]


def prepare(library: str, case: Case, data: Data, threads: int) -> Call:
    """Return the library's call for the case, on as many threads as it can be told to use."""
    return getattr(LIBRARIES[library](threads), case.task)(case, data)


def answer(result: Any) -> tuple[np.ndarray, ...]:
    """Convert what a call returned, whichever library it is from, into NumPy arrays."""
    parts = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(getattr(part, "detach", lambda part=part: part)()) for part in parts)


def assert_equal(library: str, case: Case, actual: Any, expected: Sequence[np.ndarray]) -> None:
    """Raise AssertionError unless a call's result agrees with `xent`'s, within RTOL and ATOL."""
    for got, want in zip(answer(actual), expected, strict=True):
        np.testing.assert_allclose(
            got.reshape(want.shape),
            want,
            rtol=RTOL[case.dtype],
            atol=ATOL[case.dtype] * np.abs(want).max(),
            err_msg=f"{library} and xent disagree on {case.name}",
        )


def pin(threads: int) -> None:
    """Give the process no more cores than `threads`, for libraries that ask how many there are.

    Has an effect only before they are imported, and on systems that know affinity.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
