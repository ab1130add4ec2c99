"""Time `xent.mpi.cross_entropy` with its gradient beside what Megatron-LM does, written with NumPy and mpi4py.

    mpiexec -n 2 python benchmarks/mpi.py [ROWS CLASSES]

Both run in the same processes, in turn; a time is that of the slowest rank, and the median of several is printed. The
answers must be equal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter
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


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    COMM.Barrier()
    start = perf_counter()
    found = call()
    return COMM.allreduce(perf_counter() - start, MPI.MAX), found


def main(rows: int = 512, classes: int = 50257) -> None:
    begin, end = (classes * i // COMM.size for i in (COMM.rank, COMM.rank + 1))
    xent.set_num_threads(1)
    rng = np.random.default_rng(COMM.rank)
    logits = rng.normal(0, 3, (rows, end - begin)).astype(np.float32)
    targets = np.random.default_rng(0).integers(0, classes, rows)
    out = np.empty_like(logits)
    calls = {
        "xent.mpi": lambda: xent.mpi.cross_entropy(
            logits, targets, comm=COMM, return_grad=True, grad_out=out
        ),
        "three exchanges": lambda: three_exchanges(logits, targets, begin),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        found = {}
        for name, call in calls.items():
            seconds, found[name] = timed(call)
            times[name].append(seconds)
        (loss, grad), (expected, expected_grad) = found.values()
        # float32 sums of so many exponentials.
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-9)
    if COMM.rank == 0:
        for name, each in times.items():
            print(f"{name:16} {median(each) * 1e3:8.2f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
