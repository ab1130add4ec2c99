"""What scikit-learn's gradient boosting calls in each round, and its metrics."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call, Library


class ScikitLearn(Library):
    """Gradient and Hessian of every row, without the loss; the log loss of probabilities."""

    options = frozenset({"reduction"})

    def __init__(self, threads: int) -> None:
        self.losses = importlib.import_module("sklearn._loss.loss")
        self.metrics = importlib.import_module("sklearn.metrics")
        self.threads = threads

    def log_loss(self, case: Case, data: Data) -> Call:
        return partial(self.metrics.log_loss, data.targets, data.logits)

    def cross_entropy_hessian(self, case: Case, data: Data) -> Call:
        loss = self.losses.HalfMultinomialLoss(n_classes=case.classes)
        arrays = data.targets.astype(case.dtype), data.logits, None, data.grad_out, data.hess_out
        return self._derivatives(loss, arrays)

    def binary_cross_entropy_with_logits_hessian(self, case: Case, data: Data) -> Call:
        # Views: this loss takes vectors.
        arrays = [data.targets, data.logits, None, data.grad_out, data.hess_out]
        flat = [None if array is None else array.reshape(-1) for array in arrays]
        return self._derivatives(self.losses.HalfBinomialLoss(), flat)

    def _derivatives(self, loss: Any, arrays: Any) -> Call:
        def derivatives() -> tuple[None, np.ndarray, np.ndarray]:
            gradient, hessian = loss.gradient_hessian(*arrays, n_threads=self.threads)
            return None, gradient, hessian

        return derivatives
