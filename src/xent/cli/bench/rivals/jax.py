"""What a user of JAX would write."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import (
    CROSS_ENTROPY,
    FOCAL,
    POLY1,
    Call,
    Library,
    Modulation,
    asymmetric,
    sigmoid_focal,
    transformed,
)


class Jax(Library):
    """Jitted functions, compiled before the clock starts; the formulas are optax's."""

    def __init__(self, threads: int) -> None:
        """XLA sizes its pool by the process's affinity: see :func:`pin`."""
        self.jax = importlib.import_module("jax")
        self.jax.config.update("jax_enable_x64", True)  # for float64; float32 stays as it is

    def cross_entropy(self, case: Case, data: Data) -> Call:
        return self._mean_loss(CROSS_ENTROPY, case, data)

    def linear_cross_entropy(self, case: Case, data: Data) -> Call:
        row_losses = self._row_losses(case)

        def mean_loss(hidden: Any, weight: Any, targets: Any) -> Any:
            return row_losses(hidden @ weight.T, targets).mean()

        if not case.gradient:
            return self._jitted(mean_loss, case, data)
        value_and_grad = self.jax.value_and_grad(mean_loss, (0, 1))

        def loss_and_gradients(*arrays: Any) -> tuple[Any, ...]:
            value, grads = value_and_grad(*arrays)
            return value, *grads

        return self._jitted(loss_and_gradients, case, data)

    def focal_loss(self, case: Case, data: Data) -> Call:
        return self._mean_loss(FOCAL, case, data)

    def poly1_loss(self, case: Case, data: Data) -> Call:
        return self._mean_loss(POLY1, case, data)

    def _mean_loss(self, modulation: Modulation, case: Case, data: Data) -> Call:
        row_losses = self._row_losses(case, modulation)
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

    def asymmetric_loss(self, case: Case, data: Data) -> Call:
        numpy = self.jax.numpy

        def mean_loss(z: Any, t: Any) -> Any:
            q = self.jax.nn.sigmoid(-z)
            m = numpy.maximum(0.95 - q, 0)
            return asymmetric(self.jax.nn.log_sigmoid(z), q, m, numpy.log1p(-m), t).mean()

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
        function = self.jax.value_and_grad(mean_loss) if case.gradient else mean_loss
        return self._jitted(function, case, data)

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        nn, axis, row_losses = self.jax.nn, case.axis, self._row_losses(case)

        def derivatives(logits: Any, targets: Any) -> tuple[Any, Any, Any]:
            p = nn.softmax(logits, axis=axis)
            labels = nn.one_hot(targets, case.classes, axis=axis, dtype=p.dtype)
            return row_losses(logits, targets).sum(), p - labels, p * (1 - p)

        return self._jitted(derivatives, case, data)

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        def derivatives(z: Any, t: Any) -> tuple[Any, Any, Any]:
            p = self.jax.nn.sigmoid(z)
            return self._binary(z, t).sum(), p - t, p * (1 - p)

        return self._jitted(derivatives, case, data)

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

    def _row_losses(
        self, case: Case, modulation: Modulation = CROSS_ENTROPY
    ) -> Callable[[Any, Any], Any]:
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
            value = modulation.value(total - terms, numpy.exp)
            return value + z_loss * total**2 if z_loss else value

        return soft if case.soft else index

    def _jitted(self, function: Callable[..., Any], case: Case, data: Data) -> Call:
        """The compiled function; all its results are ready when one of them is."""
        jitted, arrays = self.jax.jit(function), self._arrays(case, data)
        if case.gradient:
            return lambda: self._ready(jitted(*arrays))
        return lambda: jitted(*arrays).block_until_ready()

    @staticmethod
    def _ready(results: tuple[Any, ...]) -> tuple[Any, ...]:
        results[-1].block_until_ready()
        return results

    def _arrays(self, case: Case, data: Data) -> tuple[Any, ...]:
        logits = data.logits
        if logits.dtype == np.uint16:
            logits = logits.view(self.jax.numpy.bfloat16)
        logits = self.jax.device_put(logits)
        if data.targets is None:
            return (logits,)
        targets = data.targets if case.paired else data.targets.astype(np.int32)
        weight = () if data.weight is None else (self.jax.device_put(data.weight),)
        return logits, *weight, self.jax.device_put(targets)


class XentInJax(Jax):
    """`xent.jax`, compiled and called as the formulas are."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        importlib.import_module("xent").set_num_threads(threads)
        self.module = importlib.import_module("xent.jax")

    def call(self, case: Case, data: Data) -> Call:
        function = partial(getattr(self.module, case.function), axis=case.axis, **case.options)
        return self._loss(function, case, data)
