"""xent.torch and PyTorch's own functions, forward and backward, under pytest-benchmark.

Usage::

    pytest benchmarks/bench_torch.py --benchmark-only

One group for each case. Loss and gradients are asserted equal first; ``--benchmark-disable`` stops there. The rivals of a
linear layer are PyTorch's plain and its chunked function. Each library runs on ``XENT_NUM_THREADS`` threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import xent

torch = pytest.importorskip("torch")

import xent.torch  # noqa: E402

ROWS = {
    "llm-512x50257": (512, 50257, torch.float32),
    "llm-512x50257-bf16": (512, 50257, torch.bfloat16),
    "imagenet-8192x1000": (8192, 1000, torch.float32),
    "digits-1000000x10": (1_000_000, 10, torch.float32),
    "small-32x10": (32, 10, torch.float32),
}
# Rows, features, classes.
LAYERS = {"layer-2048x1024x32768": (2048, 1024, 32768), "layer-256x128x1000": (256, 128, 1000)}


def chunked(*arguments: Any) -> Any:
    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(*arguments, options=options)


OF_ROWS = {
    "xent": xent.torch.cross_entropy,
    "torch": torch.nn.functional.cross_entropy,
}
OF_LAYERS = {
    "xent": xent.torch.linear_cross_entropy,
    "torch": torch.nn.functional.linear_cross_entropy,
    "torch-chunked": chunked,
}


class Problem(NamedTuple):
    leaves: list[Any]
    target: Any

    def step(self, function: Callable[..., Any]) -> list[Any]:
        """Return the loss and its gradients, which autograd writes to the leaves."""
        for leaf in self.leaves:
            leaf.grad = None
        loss = function(*self.leaves, self.target)
        loss.backward()
        return [loss.detach(), *(leaf.grad for leaf in self.leaves)]


def problem(case: str) -> Problem:
    torch.manual_seed(0)
    if case in ROWS:
        rows, classes, dtype = ROWS[case]
        leaves = [torch.randn(rows, classes).to(dtype)]
    else:
        rows, features, classes = LAYERS[case]
        leaves = [torch.randn(n, features) / features**0.5 for n in (rows, classes)]
    return Problem([leaf.requires_grad_() for leaf in leaves], torch.randint(classes, (rows,)))


@pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=1, disable_gc=True)
@pytest.mark.parametrize(
    ("case", "library"),
    [(case, library) for case in ROWS for library in OF_ROWS]
    + [(case, library) for case in LAYERS for library in OF_LAYERS],
)
def test_step(benchmark: BenchmarkFixture, case: str, library: str) -> None:
    torch.set_num_threads(xent.get_num_threads())
    functions = OF_ROWS if case in ROWS else OF_LAYERS
    given = problem(case)
    expected = [a.clone() for a in given.step(functions["xent"])]
    for actual, wanted in zip(given.step(functions[library]), expected, strict=True):
        # PyTorch rounds the gradient of a half type at every step of its backward, three times.
        scale = wanted.abs().max().item()
        wide = torch.float32 if actual.dtype is torch.bfloat16 else actual.dtype
        tolerance = 4 * torch.finfo(actual.dtype).eps if wide is not actual.dtype else 2e-5
        torch.testing.assert_close(
            actual.to(wide), wanted.to(wide), rtol=tolerance, atol=tolerance * scale
        )
    benchmark.group = case
    benchmark(lambda: given.step(functions[library]))
