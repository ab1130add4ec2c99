"""The library under test."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np

from xent.cli.bench.case import METRICS, OBJECTIVES, OF_REGIONS, WITHOUT_TARGETS, Case
from xent.cli.bench.data import Data
from xent.cli.bench.rivals.library import Call, Library


class Xent(Library):
    """`xent`, whose functions are all called alike."""

    def __init__(self, threads: int) -> None:
        self.module = importlib.import_module("xent")
        self.module.set_num_threads(threads)

    @classmethod
    def knows(cls, case: Case) -> bool:
        return True

    def call(self, case: Case, data: Data) -> Call:
        if case.function in OBJECTIVES:
            return self._objective(case, data)
        if case.function in METRICS:
            metric = getattr(importlib.import_module("xent.metrics"), case.function)
            return partial(metric, data.targets, data.logits)
        function, logits, targets = getattr(self.module, case.function), data.logits, data.targets
        arrays = [a for a in (logits, data.weight, targets) if a is not None]
        options = {**case.options, **data.arrays}
        if case.axis != -1 or case.function in WITHOUT_TARGETS | OF_REGIONS:
            options["axis"] = case.axis
        if case.gradient:
            options["return_hess" if case.hessian else "return_grad"] = True
        if case.dtype == "bfloat16":
            options["dtype"] = case.dtype
        buffers = {"out": data.out, "grad_out": data.grad_out, "hess_out": data.hess_out}
        options |= {name: buffer for name, buffer in buffers.items() if buffer is not None}
        # Spelled out, because unpacking would be a visible part of a microsecond.
        if not options and len(arrays) == 2:
            return lambda: function(logits, targets)
        if options.keys() == {"return_grad", "grad_out"} and len(arrays) == 2:
            grad_out = data.grad_out
            return lambda: function(logits, targets, return_grad=True, grad_out=grad_out)
        return partial(function, *arrays, **options)

    @staticmethod
    def _objective(case: Case, data: Data) -> Call:
        module = importlib.import_module("xent.boosting")
        objective = getattr(module, case.function)(case.classes, **case.options)
        # As boosters keep them.
        return partial(objective, data.targets.astype(np.float32), data.logits)
