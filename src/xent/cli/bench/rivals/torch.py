"""What a user of PyTorch would write."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from math import log
from typing import Any

import numpy as np

from xent.cli.bench.case import LATE_OPTIONS, OF_REGIONS, Case
from xent.cli.bench.data import DRAWN, Data
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


class Torch(Library):
    """`torch.nn.functional` and autograd, on tensors that share NumPy's memory."""

    late_options = LATE_OPTIONS
    arrays = frozenset(DRAWN)

    def __init__(self, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)

    def cross_entropy(self, case: Case, data: Data) -> Call:
        mean_loss, arrays = self._mean_loss(case), data.arrays
        if "class_bias" in arrays:
            bias, plain = self._tensor(arrays["class_bias"]), mean_loss
            return self._loss(lambda z, targets: plain(z + bias, targets), case, data)
        if "target_probs" in arrays:
            probs = self._tensor(arrays["target_probs"])
            return self._loss(
                lambda z, targets: -(probs * z.log_softmax(-1).gather(-1, targets)).sum(-1).mean(),
                case,
                data,
            )
        return self._loss(mean_loss, case, data)

    def linear_cross_entropy(self, case: Case, data: Data) -> Call:
        mean_loss = self._last_layer(case)
        hidden, weight, targets = map(self._tensor, (data.logits, data.weight, data.targets))
        if not case.gradient:
            return lambda: mean_loss(hidden, weight, targets)
        hidden.requires_grad_()
        weight.requires_grad_()

        def loss_and_gradients() -> tuple[Any, Any]:
            hidden.grad = weight.grad = None
            value = mean_loss(hidden, weight, targets)
            value.backward()
            return value, (hidden.grad, weight.grad)

        return loss_and_gradients

    def _last_layer(self, case: Case) -> Callable[[Any, Any, Any], Any]:
        mean_loss, linear = self._cross_entropy(case), self.torch.nn.functional.linear
        return lambda hidden, weight, targets: mean_loss(linear(hidden, weight), targets)

    def info_nce(self, case: Case, data: Data) -> Call:
        mean_loss, torch = self.torch.nn.functional.cross_entropy, self.torch
        temperature, symmetric = case.options["temperature"], case.options.get("symmetric")
        own = torch.arange(case.classes)

        def loss(queries: Any, keys: Any) -> Any:
            scores = queries @ keys.T / temperature
            value = mean_loss(scores, own)
            return (value + mean_loss(scores.T, own)) / 2 if symmetric else value

        return self._of_leaves(loss, case, *map(self._tensor, (data.logits, data.weight)))

    def sigmoid_contrastive_loss(self, case: Case, data: Data) -> Call:
        numbers = (case.options[name] for name in ("logit_scale", "logit_bias"))
        scale, bias = (self.torch.tensor(x) for x in numbers)
        labels = 2 * self.torch.eye(case.classes) - 1

        def loss(a: Any, b: Any, scale: Any, bias: Any) -> Any:
            scores = scale * (a @ b.T) + bias
            return -self.torch.nn.functional.logsigmoid(labels * scores).sum() / len(a)

        vectors = map(self._tensor, (data.logits, data.weight))
        return self._of_leaves(loss, case, *vectors, scale, bias)

    @staticmethod
    def _of_leaves(loss: Callable[..., Any], case: Case, *leaves: Any) -> Call:
        if not case.gradient:
            return lambda: loss(*leaves)
        for leaf in leaves:
            leaf.requires_grad_()

        def loss_and_gradients() -> tuple[Any, Any]:
            for leaf in leaves:
                leaf.grad = None
            value = loss(*leaves)
            value.backward()
            return value, tuple(leaf.grad for leaf in leaves)

        return loss_and_gradients

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

    def asymmetric_loss(self, case: Case, data: Data) -> Call:
        def mean_loss(z: Any, t: Any) -> Any:
            q = self.torch.sigmoid(-z)
            m = (0.95 - q).clamp(min=0)
            log_p = self.torch.nn.functional.logsigmoid(z)
            return asymmetric(log_p, q, m, (-m).log1p(), t).mean()

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
        return self._loss(lambda logits, _: self._entropy(logits, case.axis), case, data)

    def _entropy(self, logits: Any, axis: int) -> Any:
        log_probs = self.torch.log_softmax(logits, axis)
        return -(log_probs.exp() * log_probs).sum(axis).mean()

    def distillation_loss(self, case: Case, data: Data) -> Call:
        log_softmax, axis = self.torch.log_softmax, case.axis
        kl_div = partial(self.torch.nn.functional.kl_div, log_target=True, reduction="batchmean")
        temperature, divergence = case.options["temperature"], case.options.get("divergence")

        def of_mixture(p: Any, q: Any) -> Any:
            m = self.torch.logaddexp(p, q) - log(2)
            return (kl_div(m, p) + kl_div(m, q)) / 2

        of_log_probs = {"reverse_kl": lambda p, q: kl_div(q, p), "jsd": of_mixture}.get(
            divergence or "", kl_div
        )

        def mean_loss(student: Any, teacher: Any) -> Any:
            p = log_softmax(student / temperature, axis)
            q = log_softmax(teacher / temperature, axis)
            return temperature**2 * of_log_probs(p, q)

        return self._loss(mean_loss, case, data)

    def dice_loss(self, case: Case, data: Data) -> Call:
        # As MONAI's DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1, smooth_dr=1).
        return self._loss(self._mean_of_regions(case, 2, 0, 1, 1), case, data)

    def tversky_loss(self, case: Case, data: Data) -> Call:
        alpha, beta = case.options["alpha"], case.options["beta"]
        ratio = self._mean_of_regions(case, 1, 1 - alpha - beta, alpha, beta)
        return self._loss(ratio, case, data)

    def _mean_of_regions(
        self, case: Case, overlap: float, joint: float, mass: float, target: float
    ) -> Callable[[Any, Any], Any]:
        axis, one_hot = case.axis % len(case.shape), self.torch.nn.functional.one_hot
        positions = [d for d in range(1, len(case.shape)) if d != axis]

        def mean_loss(logits: Any, targets: Any) -> Any:
            p = self.torch.softmax(logits, axis)
            t = one_hot(targets, case.classes).movedim(-1, axis)
            both, of_p, of_t = (p * t).sum(positions), p.sum(positions), t.sum(positions)
            below = joint * both + mass * of_p + target * of_t + 1
            return (1 - (overlap * both + 1) / below).mean()

        return mean_loss

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

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        row_losses = self._cross_entropy(case, reduction="none")
        logits, targets = self._tensors(case, data)
        where = targets.unsqueeze(case.axis)

        def loss_gradient_and_hessian() -> tuple[Any, Any, Any]:
            p = self.torch.softmax(logits, case.axis)
            value, hess = row_losses(logits, targets).sum(), p * (1 - p)
            return value, p.scatter_add_(case.axis, where, minus_one), hess

        minus_one = self.torch.full_like(where, -1, dtype=logits.dtype)
        return loss_gradient_and_hessian

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        losses = self.torch.nn.functional.binary_cross_entropy_with_logits
        logits, targets = self._tensors(case, data)

        def loss_gradient_and_hessian() -> tuple[Any, Any, Any]:
            p = self.torch.sigmoid(logits)
            return losses(logits, targets, reduction="sum"), p - targets, p * (1 - p)

        return loss_gradient_and_hessian

    def token_log_probs(self, case: Case, data: Data) -> Call:
        row_losses = self._cross_entropy(case, reduction="none")
        logits, targets = self._tensors(case, data)
        return lambda: row_losses(logits, targets).neg_()

    def score(self, case: Case, data: Data) -> Call:
        logits, targets = self._tensors(case, data)
        top, own = case.options.get("top_k"), targets.unsqueeze(-1)

        def report() -> tuple[Any, ...]:
            lse = logits.logsumexp(-1, keepdim=True)
            log_probs = logits - lse
            p, target = log_probs.exp(), logits.gather(-1, own)
            largest, argmax = log_probs.max(-1)
            found = log_probs.topk(top, -1) if top else (None, None)
            return (
                (target - lse).squeeze(-1),
                (logits > target).sum(-1),
                lse.squeeze(-1),
                -(p * log_probs).sum(-1),
                argmax,
                largest,
                p.square().sum(-1),
                found[1],
                found[0],
            )

        return report

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

    def _mean_loss(
        self, case: Case, modulation: Modulation = CROSS_ENTROPY
    ) -> Callable[[Any, Any], Any]:
        if modulation is CROSS_ENTROPY and case.options.keys() <= {"label_smoothing"}:
            return self._cross_entropy(case)
        torch, row_losses = self.torch, self._cross_entropy(case, reduction="none")
        z_loss, bonus = (case.options.get(name) for name in ("z_loss", "entropy_weight"))

        def mean_loss(logits: Any, targets: Any) -> Any:
            z = transformed(case, logits, torch.tanh)
            value = modulation.value(row_losses(z, targets), torch.exp).mean()
            if z_loss:
                value = value + z_loss * torch.logsumexp(z, case.axis).square().mean()
            return value - bonus * self._entropy(z, case.axis) if bonus else value

        return mean_loss

    def _cross_entropy(self, case: Case, **options: Any) -> Callable[[Any, Any], Any]:
        """Torch's loss for logits of the case's shape; torch wants the classes on axis 1."""
        function = self.torch.nn.functional.cross_entropy
        if "label_smoothing" in case.options:
            options["label_smoothing"] = case.options["label_smoothing"]
        if self._must_flatten(case):
            return lambda logits, targets: function(logits.flatten(0, -2), targets, **options)
        if case.half and case.axis == 1 and not options:
            # Its own mean over pixels sums in the half type.
            losses = partial(function, reduction="none")
            return lambda logits, targets: losses(logits, targets).mean(dtype=self.torch.float32)
        if options:
            return lambda logits, targets: function(logits, targets, **options)
        return function

    def _tensors(self, case: Case, data: Data) -> tuple[Any, Any]:
        targets: Any = None if data.targets is None else self._tensor(data.targets)
        if self._must_flatten(case):
            targets = targets.flatten(0, -2 if case.soft else -1)
        return self._tensor(data.logits), targets

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = self.torch.from_numpy(array)
        return tensor.view(self.torch.bfloat16) if array.dtype == np.uint16 else tensor

    @staticmethod
    def _must_flatten(case: Case) -> bool:
        return len(case.shape) > 2 and case.axis == -1 and case.function not in OF_REGIONS


class FusedTorch(Torch):
    """Its own last layer and loss in one function, by chunks of rows."""

    needs = "torch"

    @classmethod
    def knows(cls, case: Case) -> bool:
        return case.task == "linear_cross_entropy" and not case.options

    def _last_layer(self, case: Case) -> Callable[[Any, Any, Any], Any]:
        nn = self.torch.nn
        return partial(nn.functional.linear_cross_entropy, options=nn.LinearCrossEntropyOptions())


class XentInTorch(Torch):
    """`xent.torch`, differentiated by autograd as the formulas are."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        importlib.import_module("xent").set_num_threads(threads)
        self.module = importlib.import_module("xent.torch")

    def _cross_entropy(self, case: Case, **options: Any) -> Callable[[Any, Any], Any]:
        return partial(self.module.cross_entropy, **options)

    def _last_layer(self, case: Case) -> Callable[[Any, Any, Any], Any]:
        layer: Callable[[Any, Any, Any], Any] = self.module.linear_cross_entropy
        return layer
