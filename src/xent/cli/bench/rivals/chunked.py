"""The last layer and its loss by chunks of rows, in PyTorch, as libraries with fused kernels for GPUs have it."""

from __future__ import annotations

from math import ceil
from typing import Any

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call
from xent.cli.bench.rivals.torch import Torch


class Chunked(Torch):
    """The algorithm of Liger's linear cross-entropy (P.-L. Hsu et al., "Liger kernel", arXiv:2410.10989, section 3.2).

    The logits of a chunk are turned into their gradient where they lie, and multiplied on at once, so that no more of them
    are ever in memory than the hidden states are.
    """

    needs = "torch"

    @classmethod
    def knows(cls, case: Case) -> bool:
        return case.task == "linear_cross_entropy" and not case.options

    def linear_cross_entropy(self, case: Case, data: Data) -> Call:
        torch, share = self.torch, 1 / case.row_shape[0]
        hidden, weight, targets = map(self._tensor, (data.logits, data.weight, data.targets))
        rows = max(1, case.row_shape[0] // ceil(case.classes / case.features))
        of_hidden, of_weight = map(self._tensor, data.grad_out or (data.logits, data.weight))

        @torch.no_grad()  # type: ignore[untyped-decorator]
        def loss() -> Any:
            value = 0.0
            if case.gradient:
                of_weight.zero_()
            for begin in range(0, len(hidden), rows):
                part, own = hidden[begin : begin + rows], targets[begin : begin + rows, None]
                logits = part @ weight.T
                lse = logits.logsumexp(-1, keepdim=True)
                value = value + (lse - logits.gather(-1, own)).sum() * share
                if not case.gradient:
                    continue
                logits.sub_(lse).exp_().scatter_add_(-1, own, -torch.ones_like(lse)).mul_(share)
                torch.mm(logits, weight, out=of_hidden[begin : begin + rows])
                of_weight.addmm_(logits.T, part)
            return (value, (of_hidden, of_weight)) if case.gradient else value

        return loss
