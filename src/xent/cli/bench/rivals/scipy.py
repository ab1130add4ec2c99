"""What a user of SciPy would write."""

from __future__ import annotations

import importlib

import numpy as np

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data, store, widened
from xent.cli.bench.rivals.library import Call, Library, target_positions, vecdot


class SciPy(Library):
    """`scipy.special`; `log_softmax` rather than `logsumexp`, since it is the faster one."""

    options = frozenset({"label_smoothing"})

    def __init__(self, threads: int) -> None:
        """SciPy's special functions use one thread, whatever number is requested."""
        self.special = importlib.import_module("scipy.special")

    def cross_entropy(self, case: Case, data: Data) -> Call:
        log_softmax = self.special.log_softmax
        targets, axis = data.targets, case.axis
        smoothing = case.options.get("label_smoothing", 0.0)
        at = None if case.soft else target_positions(case, targets)

        def mean_loss(log_probs: np.ndarray) -> np.floating:
            if case.soft:
                return -vecdot(targets, log_probs, axis=axis).mean()
            value = -log_probs[at].mean()
            if smoothing:
                value = (1 - smoothing) * value - smoothing * log_probs.mean()
            return value

        def loss_and_gradient() -> tuple[np.floating, np.ndarray]:
            log_probs = log_softmax(widened(data.logits), axis=axis)
            value = mean_loss(log_probs)
            grad = np.exp(log_probs, out=log_probs)
            if case.soft:
                grad -= targets
            else:
                if smoothing:
                    grad -= smoothing / case.classes
                grad[at] -= 1 - smoothing
            grad /= grad.size // case.classes
            return value, store(grad, data.grad_out) if case.half else grad

        if case.gradient:
            return loss_and_gradient
        return lambda: mean_loss(log_softmax(widened(data.logits), axis=axis))

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
