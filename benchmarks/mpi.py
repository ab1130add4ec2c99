"""Time `xent.mpi.cross_entropy` with its gradient beside one process with as many threads, and beside what Megatron-LM does.

    mpiexec -n 2 python benchmarks/mpi.py [ROWS CLASSES]

All are called in turn; a time is that of the slowest rank. Medians and the median of ratios are printed. The answers must be
equal. What Megatron-LM does is written with NumPy and mpi4py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
from mpi4py import MPI

import xent.mpi

REPEATS = 15
COMM = MPI.COMM_WORLD


def three_exchanges(logits: Any, targets: Any, begin: int) -> tuple[Any, Any]:
    """Return the mean and its gradient: maximum, target's logit and sum of exponentials are three reductions."""
    rows = np.arange(len(targets))
    top = logits.max(axis=1)
    COMM.Allreduce(MPI.IN_PLACE, top, MPI.MAX)
    grad = np.subtract(logits, top[:, None])
    here = (targets >= begin) & (targets < begin + logits.shape[1])
    at = rows[here], targets[here] - begin
    own = np.zeros_like(top)
    own[here] = grad[at]
    COMM.Allreduce(MPI.IN_PLACE, own)
    np.exp(grad, out=grad)
    total = grad.sum(axis=1)
    COMM.Allreduce(MPI.IN_PLACE, total)
    grad /= total[:, None]
    grad[at] -= 1
    grad /= len(targets)
    return np.mean(np.log(total) - own), grad


def wait() -> None:
    """Wait for all ranks without a core: ranks that poll would take those of the process that computes."""
    request = COMM.Ibarrier()
    while not request.Test():
        sleep(2e-4)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    wait()
    start = perf_counter()
    found = call()
    seconds = perf_counter() - start
    wait()
    return COMM.allreduce(seconds, MPI.MAX), found


def main(rows: int = 512, classes: int = 50257) -> None:
    begin, end = (classes * i // COMM.size for i in (COMM.rank, COMM.rank + 1))
    rng = np.random.default_rng(0)
    targets = rng.integers(0, classes, rows)
    logits = np.stack([rng.normal(0, 3, end - begin).astype(np.float32) for _ in range(rows)])
    parts = COMM.gather(logits)
    whole = None if parts is None else np.concatenate(parts, axis=1)
    del parts
    out = np.empty_like(logits)
    whole_out = None if whole is None else np.empty_like(whole)

    def parallel() -> Any:
        xent.set_num_threads(1)
        return xent.mpi.cross_entropy(logits, targets, comm=COMM, return_grad=True, grad_out=out)

    def alone() -> Any:
        if whole is None:
            return None
        xent.set_num_threads(COMM.size)
        return xent.cross_entropy(whole, targets, return_grad=True, grad_out=whole_out)

    calls = {
        "xent.mpi": parallel,
        f"one process, {COMM.size} threads": alone,
        "three exchanges": lambda: three_exchanges(logits, targets, begin),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        found = {}
        for name, call in calls.items():
            seconds, found[name] = timed(call)
            times[name].append(seconds)
        (loss, grad), one, (expected, expected_grad) = found.values()
        # float32 sums of so many exponentials.
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-9)
        if one is not None:
            np.testing.assert_allclose(loss, one[0], rtol=1e-6)
            np.testing.assert_allclose(grad, one[1][:, begin:end], rtol=1e-4, atol=1e-12)
    if COMM.rank == 0:
        ours = times["xent.mpi"]
        for name, each in times.items():
            ratio = median(a / b for a, b in zip(each, ours, strict=True))
            print(f"{name:24} {median(each) * 1e3:8.2f} ms {ratio:6.2f} of xent.mpi")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
