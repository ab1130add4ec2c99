"""What a user of NumKong would write."""

from __future__ import annotations

import importlib
from math import prod

import numpy as np

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call, Library


class NumKong(Library):
    """Divergences of rows of probabilities: the logarithms of one argument are taken back once, before the clock runs."""

    options: frozenset[str] | None = frozenset()
    #: It adds a constant to both probabilities before their logarithms are taken: 6e-3 of the case's divergence in float32.
    error = 1e-2

    def __init__(self, threads: int) -> None:
        """Its distances use one thread."""
        self.kld = importlib.import_module("numkong").kld

    @classmethod
    def knows(cls, case: Case) -> bool:
        return super().knows(case) and not case.gradient

    def kl_div(self, case: Case, data: Data) -> Call:
        divergences, targets, share = self.kld, data.targets, 1 / prod(case.shape)
        probs = np.exp(data.logits)
        return lambda: np.sum(divergences(targets, probs)) * share
