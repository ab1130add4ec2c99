"""Extra memory is a few values for each row, whatever the layout: logits are not copied, except a block at a
time if the kernels cannot read them.
"""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import xent
from test_process import compiled, output, printed

ROWS, CLASSES = 256, 40_000
# Four numbers for each row and the objects of a call. The logits are 40 MB.
BYTES_PER_ROW, BYTES_PER_CALL = 32, 64 * 1024
# Blocks of arrays that have to be converted, with the temporaries of NumPy formulas: 1 MB each.
BYTES_OF_BLOCKS = 8 * 1024 * 1024
# The kernels' own stacks and blocks, in pages, for each thread.
RESIDENT = 2 * 1024 * 1024

EVERYTHING = {"label_smoothing": 0.1, "z_loss": 1e-4, "softcap": 30.0, "temperature": 2.0}


class Arrays:
    """Inputs and buffers; each of the large ones is mapped afresh, not cut from a used heap."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.logits = rng.normal(size=(ROWS, CLASSES)).astype(np.float32)
        self.grad = np.zeros_like(self.logits)
        self.half = self.logits.astype(np.float16)
        self.half_grad = np.zeros_like(self.half)
        self.soft = np.full_like(self.logits, 1 / CLASSES)
        self.swapped = self.half.astype(">f2")
        self.losses = np.zeros(ROWS, np.float32)
        self.targets = rng.integers(0, CLASSES - 1, ROWS)
        self.read_only = self.logits.view()
        self.read_only.flags.writeable = False


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return Arrays()


CALLS: dict[str, Callable[[Arrays], object]] = {
    "loss": lambda a: xent.cross_entropy(a.logits, a.targets),
    "loss and gradient": lambda a: xent.cross_entropy(
        a.logits, a.targets, return_grad=True, grad_out=a.grad
    ),
    "loss and gradient, all options": lambda a: xent.cross_entropy(
        a.logits, a.targets, return_grad=True, return_lse=True, grad_out=a.grad, **EVERYTHING
    ),
    "soft targets": lambda a: xent.cross_entropy(
        a.logits, a.soft, return_grad=True, grad_out=a.grad
    ),
    "strided rows": lambda a: xent.cross_entropy(
        a.logits[:, :-1], a.targets, return_grad=True, grad_out=a.grad[:, :-1]
    ),
    "reversed rows": lambda a: xent.cross_entropy(
        a.logits[::-1], a.targets, return_grad=True, grad_out=a.grad
    ),
    "every other row": lambda a: xent.cross_entropy(a.logits[::2], a.targets[::2]),
    "read-only": lambda a: xent.cross_entropy(a.read_only, a.targets),
    "three dimensions": lambda a: xent.cross_entropy(
        a.logits.reshape(16, 16, -1)[:, :, :-1], a.targets.reshape(16, 16)
    ),
    "sequence shifted by one": lambda a: xent.cross_entropy(
        a.logits.reshape(16, 16, -1)[:, :-1], a.targets.reshape(16, 16)[:, 1:], reduction="none"
    ),
    "in place": lambda a: xent.cross_entropy(a.grad, a.targets, return_grad=True, grad_out=a.grad),
    "token_log_probs": lambda a: xent.token_log_probs(a.logits, a.targets),
    "perplexity": lambda a: xent.perplexity(a.logits, a.targets),
    "nll_loss": lambda a: xent.nll_loss(a.logits, a.targets, return_grad=True, grad_out=a.grad),
    "categorical_cross_entropy": lambda a: xent.categorical_cross_entropy(
        a.soft, a.targets, return_grad=True, grad_out=a.grad
    ),
    "categorical_cross_entropy of strided rows": lambda a: xent.categorical_cross_entropy(
        a.soft.reshape(16, 16, -1)[:, :, :-1], a.targets.reshape(16, 16), eps=1e-7
    ),
    "entropy": lambda a: xent.entropy(a.logits, return_grad=True, grad_out=a.grad),
    "distillation_loss": lambda a: xent.distillation_loss(
        a.logits, a.soft, return_grad=True, grad_out=a.grad
    ),
    "logsumexp": lambda a: xent.logsumexp(a.logits, axis=-1),
    "logsumexp into a buffer": lambda a: xent.logsumexp(a.logits, axis=-1, out=a.losses),
    "float16": lambda a: xent.cross_entropy(
        a.half, a.targets, return_grad=True, grad_out=a.half_grad
    ),
    "bfloat16": lambda a: xent.cross_entropy(
        a.half.view(np.uint16),
        a.targets,
        return_grad=True,
        grad_out=a.half_grad.view(np.uint16),
        dtype="bfloat16",
    ),
    "single elements": lambda a: xent.binary_cross_entropy_with_logits(
        a.logits, a.soft, return_grad=True, grad_out=a.grad, sample_weight=a.losses[:, None]
    ),
    "single elements, strided": lambda a: xent.kl_div(
        a.logits[:, ::-1], a.soft, return_grad=True, grad_out=a.grad[::-1]
    ),
    "softmax": lambda a: xent.softmax(a.logits, axis=-1, out=a.grad),
    "log_softmax": lambda a: xent.log_softmax(a.logits, axis=-1, out=a.grad),
}


def peak_of(call: Callable[[Arrays], object], arrays: Arrays) -> int:
    """The most bytes that a call, made before, holds at once."""
    call(arrays)
    tracemalloc.start()
    call(arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", CALLS)
def test_allocations(arrays, name):
    extra = peak_of(CALLS[name], arrays)
    assert extra < BYTES_PER_CALL + BYTES_PER_ROW * ROWS


CONVERTED: dict[str, Callable[[Arrays], object]] = {
    "integers": lambda a: xent.cross_entropy(a.half.view(np.int16), a.targets),
    "byte-swapped": lambda a: xent.cross_entropy(
        a.swapped, a.targets, return_grad=True, grad_out=a.half_grad
    ),
    "no axis contiguous": lambda a: xent.cross_entropy(
        a.logits[:, ::2], a.targets // 2, return_grad=True, grad_out=a.grad[:, ::2]
    ),
    "soft targets of another dtype": lambda a: xent.cross_entropy(
        a.logits, a.half, return_grad=True, grad_out=a.grad
    ),
    "softmax of no axis contiguous": lambda a: xent.softmax(
        a.logits[:, ::2], axis=-1, out=a.grad[:, ::2]
    ),
    "logsumexp with factors": lambda a: xent.logsumexp(a.logits, axis=-1, b=a.half),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_conversion_is_a_block_at_a_time(arrays, name):
    extra = peak_of(CONVERTED[name], arrays)
    assert extra < BYTES_OF_BLOCKS + BYTES_PER_CALL + BYTES_PER_ROW * ROWS


def _peak() -> int:
    """Return the most memory that has been resident since `_forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if sys.platform == "linux":

    @pytest.mark.parametrize("name", CALLS)
    def test_resident_memory(arrays, name):
        """What the C code allocates shows here."""
        CALLS[name](arrays)
        _forget_peak()
        before = _peak()
        CALLS[name](arrays)
        assert _peak() - before < RESIDENT

    def test_a_copy_would_show():
        # In a process of its own: of a large one the system may take idle memory at any time, as much as the copy needs.
        script = """
import numpy as np
import test_memory as test
a = np.ones(5_000_000)
test._forget_peak()
before = test._peak()
copy = a.copy()
assert test._peak() - before > copy.nbytes // 2 > test.RESIDENT
"""
        command = [sys.executable, "-c", script]
        subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=600)


def test_results_are_the_only_thing_that_stays():
    problem = np.zeros((10, 100)), np.zeros(10, int)
    bad = problem[0], np.full(10, 100)

    def calls() -> None:
        for _ in range(200):
            xent.cross_entropy(*problem, return_grad=True, return_lse=True)
            xent.softmax(problem[0], axis=-1)
            with pytest.raises(IndexError):
                xent.cross_entropy(*bad, return_grad=True)

    def kept() -> int:
        calls()
        gc.collect()  # what pytest.raises caught lies in cycles
        return tracemalloc.get_traced_memory()[0]

    calls()
    tracemalloc.start()
    first, second = kept(), kept()
    tracemalloc.stop()
    # One array of 8 bytes kept by each call would be more.
    assert second - first < 200 * 8


if sys.platform == "linux":

    def test_a_million_calls_leave_nothing():
        """Of every way through the core: fast, general, in blocks, refused; the first few warm up."""
        script = """
            import resource, numpy as np, xent
            z, t = np.linspace(-3, 3, 32, dtype=np.float32).reshape(8, 4), np.arange(8) % 4
            soft, grad, wide = xent.softmax(z, axis=-1), np.empty_like(z), z.astype(np.float64)
            def refused():
                try:
                    xent.cross_entropy(z, t + 1)
                except IndexError:
                    pass
            calls = [
                *20 * [lambda: xent.cross_entropy(z, t, return_grad=True, grad_out=grad)],
                *20 * [lambda: xent.cross_entropy(z, t, reduction="none")],
                lambda: xent.cross_entropy(z[:, ::2], t // 2, return_hess=True, return_lse=True),
                lambda: xent.cross_entropy(z, soft, sample_weight=t, label_smoothing=0.1),
                lambda: xent.binary_cross_entropy_with_logits(z, soft, return_grad=True),
                lambda: xent.logsumexp(wide),
                lambda: xent.softmax(z, axis=0),
                lambda: xent.token_log_probs(z, t),
                refused,
            ]
            def resident():
                pages = int(open("/proc/self/statm").read().split()[1])
                return pages * resource.getpagesize()
            def repeat(n):
                for i in range(n):
                    calls[i % len(calls)]()
            repeat(20_000)
            before = resident()
            repeat(1_000_000)
            print(resident() - before)
        """
        assert int(output(script)) < 1 << 20

    def test_too_little_memory_is_an_error():
        """The core allocates row losses that are not returned, NumPy outputs: both failures are a MemoryError."""
        script = """
            import resource, numpy as np, xent
            limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (256 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            logits = np.broadcast_to(np.zeros((1, 2)), (1 << 28, 2))
            targets = np.broadcast_to(np.zeros(1, int), 1 << 28)
            for options in ({}, {"reduction": "none"}, {"return_grad": True}):
                try:
                    xent.cross_entropy(logits, targets, **options)
                except MemoryError:
                    print(xent.cross_entropy(logits[:9], targets[:9]))
        """
        assert output(script).split() == 3 * [str(math.log(2))]


def test_failed_allocations(tmp_path: Path):
    """The core's, one after the other: told, nothing written, nothing kept but a workspace for each thread."""
    wrapped = "-Wl,--wrap=malloc,--wrap=aligned_alloc,--wrap=free"
    program = compiled("allocations.c", tmp_path, wrapped)
    assert printed(program).count("failed") == 5


def test_references_are_returned():
    logits, targets, grad = np.zeros((4, 3)), np.zeros(4, int), np.zeros((4, 3))
    weight, losses = np.ones(4), np.zeros(4)
    held = (logits, targets, grad, weight, losses)
    before = [sys.getrefcount(a) for a in held]
    for _ in range(10):
        xent.cross_entropy(
            *(logits, targets),
            reduction="none",
            sample_weight=weight,
            return_grad=True,
            grad_out=grad,
            out=losses,
        )
        with pytest.raises(IndexError):
            xent.cross_entropy(logits, targets + 3, grad_out=grad, return_grad=True)
    assert [sys.getrefcount(a) for a in held] == before
