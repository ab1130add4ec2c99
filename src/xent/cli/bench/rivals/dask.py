"""What a user of Dask would write, of arrays in chunks of rows and classes."""

from __future__ import annotations

import importlib
from typing import Any

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call, Library

# Of each axis.
PARTS = 4


class Dask(Library):
    """Maximum, exponentials and sums as Dask's reductions, on as many threads of its own."""

    @classmethod
    def knows(cls, case: Case) -> bool:
        return case.bridge == "dask" and super().knows(case)

    def __init__(self, threads: int) -> None:
        self.threads, self.dask = threads, importlib.import_module("dask")
        self.array = importlib.import_module("dask.array")

    def cross_entropy(self, case: Case, data: Data) -> Call:
        rows, classes = case.shape
        logits, da = self._chunked(case, data), self.array
        targets = da.from_array(data.targets, chunks=logits.chunks[0])
        hit = targets[:, None] == da.arange(classes, chunks=logits.chunks[1])
        top = logits.max(axis=1, keepdims=True)
        exp = da.exp(logits - top)
        total = exp.sum(axis=1, keepdims=True)
        nll = (da.log(total) + top)[:, 0] - da.where(hit, logits, 0).sum(axis=1)
        grad = ((exp / total - hit) / rows).astype(logits.dtype)
        return self._computed(nll.mean(), grad, case)

    def _chunked(self, case: Case, data: Data) -> Any:
        chunks = tuple(-(-size // PARTS) for size in case.shape)
        return self.array.from_array(data.logits, chunks=chunks, name=False)

    def _computed(self, loss: Any, grad: Any, case: Case) -> Call:
        options = {"scheduler": "threads", "num_workers": self.threads}
        if case.gradient:
            return lambda: self.dask.compute(loss, grad, **options)
        return lambda: loss.compute(**options)


class XentInDask(Dask):
    """`xent.dask` with one thread of xent for each of Dask's."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        importlib.import_module("xent").set_num_threads(1)
        self.module = importlib.import_module("xent.dask")

    def cross_entropy(self, case: Case, data: Data) -> Call:
        logits = self._chunked(case, data)
        loss, grad = self.module.cross_entropy(logits, data.targets, return_grad=True)
        if not case.gradient:
            loss = self.module.cross_entropy(logits, data.targets)
        return self._computed(loss, grad, case)
