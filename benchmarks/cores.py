"""What of a call only one thread does, and what that leaves of 64 cores: a model, measured here.

    python benchmarks/cores.py

A call of one thread takes T. Of that, s is done once, whatever the threads: arguments are checked, work is posted to the
team, sums of blocks are added up. The rest is divided into pieces that whoever is free takes, so that n threads take
s + (T - s) / n, the longest wait for the last piece aside, and s is at most s / (s + (T - s) / n) of the call. s is measured
as the time of a call of the same function, options and results for one row of two classes, plus that of adding as many sums
of blocks as the large call has. Memory may be the limit before that; this is about the program.

The last columns are the call with 2 and with 64 threads on the cores that there are. With more threads than cores the work
is the same; what it takes beyond the time of as many threads as cores is the cost of sharing it among so many.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import xent

ROUNDS, CORES = 15, 64
# What adding one sum of a block to the others takes: two additions that wait for each other, of four cycles, at 3 GHz.
BLOCK, SECONDS_PER_BLOCK = 4096, 8 / 3e9

Call = Callable[..., Any]


def cases() -> Iterator[tuple[str, Call, Any, Any]]:
    """Yield name, function, and the two arrays that it is called with."""
    rng = np.random.default_rng(0)
    for rows, classes in ((512, 50257), (1_000_000, 10)):
        logits = rng.normal(size=(rows, classes)).astype(np.float32)
        targets = rng.integers(0, classes, rows)
        yield f"loss {rows:,} x {classes:,}", xent.cross_entropy, logits, targets
        yield f"gradient {rows:,} x {classes:,}", gradient, logits, targets
    clicks = rng.normal(size=5_000_000).astype(np.float32)
    labels = (clicks > 0).astype(np.float32)
    yield "binary with logits 5,000,000", xent.binary_cross_entropy_with_logits, clicks, labels


def gradient(logits: Any, targets: Any) -> Any:
    """Loss and gradient."""
    return xent.cross_entropy(logits, targets, return_grad=True)


def seconds(call: Call, arrays: Sequence[Any], threads: int, repeats: int = 1) -> float:
    """Return the time of a call, the mean of so many."""
    with xent.num_threads(threads):
        start = time.perf_counter()
        for _ in range(repeats):
            call(*arrays)
        return (time.perf_counter() - start) / repeats


def main() -> None:
    """Print the table."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(
        f"{'':30}{'1 thread':>11}{'alone':>9}{f'share at {CORES}':>13}{f'{cpus} threads':>12}{f'{CORES} / {cpus}':>9}"
    )
    for name, call, x, target in cases():
        whole = x, target
        small = x[:1, :2].copy() if x.ndim == 2 else x[:1], np.zeros(1, target.dtype)
        times: dict[str, list[float]] = {"one": [], "row": [], "cpus": [], "many": []}
        for _ in range(ROUNDS):
            times["one"].append(seconds(call, whole, 1))
            times["row"].append(seconds(call, small, 1, 200))
            times["cpus"].append(seconds(call, whole, cpus))
            times["many"].append(seconds(call, whole, CORES))
        one, row, own, many = (statistics.median(times[key]) for key in times)
        alone = row + len(x) / BLOCK * SECONDS_PER_BLOCK
        share = alone / (alone + (one - alone) / CORES)
        print(
            f"{name:30}{one * 1e3:8.2f} ms{alone * 1e6:6.1f} us{share:13.1%}{own * 1e3:9.2f} ms{many / own:9.2f}"
        )


if __name__ == "__main__":
    main()
