"""What a user of torchmetrics would write."""

from __future__ import annotations

import importlib

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call
from xent.cli.bench.rivals.torch import Torch


class TorchMetrics(Torch):
    """Its functional metrics, on tensors that share NumPy's memory."""

    @classmethod
    def knows(cls, case: Case) -> bool:
        return case.task == "perplexity" and not case.options

    def perplexity(self, case: Case, data: Data) -> Call:
        perplexity = importlib.import_module("torchmetrics.functional.text").perplexity
        logits, targets = self._tensors(case, data)
        return lambda: perplexity(logits[None], targets[None])
