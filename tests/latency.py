"""Latencies: from Ctrl-C to the exception, and of saving and restoring the floating-point environment.

    python tests/latency.py [TIMES]

For calls of seconds, of every kind of loop, the longest time of TIMES (10) from the signal to the
exception, in milliseconds. Then what `csrc/call/environment.h` costs in each parallel region.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import xent
from test_process import compiled

AFTER = 0.1


def repeated(block: tuple[int, ...], times: int, dtype: Any = np.float32) -> np.ndarray:
    """Zeros of a block, which stand for so many."""
    return np.broadcast_to(np.zeros(block, dtype), (times, *block))


WIDE = repeated((50_000,), 1_000_000)
LONG: dict[str, Callable[[], Any]] = {
    "wide rows": lambda: xent.logsumexp(WIDE, axis=-1),
    "narrow rows": lambda: xent.logsumexp(repeated((8,), 1 << 31), axis=-1),
    "columns": lambda: xent.logsumexp(repeated((64, 4096), 1 << 18), axis=1),
    "converted in blocks": lambda: xent.logsumexp(repeated((999,), 1 << 24, np.int8), axis=-1),
    "checking targets": lambda: xent.cross_entropy(
        repeated((2,), 1 << 33), repeated((), 1 << 33, int)
    ),
    "soft targets": lambda: xent.cross_entropy(WIDE, WIDE),
    "elements": lambda: xent.binary_cross_entropy_with_logits(WIDE, WIDE),
}


def milliseconds(call: Callable[[], Any]) -> float:
    """From the signal to the exception."""
    signal.setitimer(signal.ITIMER_REAL, AFTER)
    begun = time.perf_counter()
    try:
        call()
    except KeyboardInterrupt:
        return 1000 * (time.perf_counter() - begun - AFTER)
    raise AssertionError("the call ended before the signal came")


def main() -> None:
    """Print the figures."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for name, call in LONG.items():
        longest = max(milliseconds(call) for _ in range(times))
        print(f"Ctrl-C, {name}: {longest:.0f} ms")
        assert xent.logsumexp(np.zeros(4)) == np.log(4)
    with tempfile.TemporaryDirectory() as folder:
        program = compiled("guard.c", Path(folder))
        print(f"guard: {subprocess.check_output([program], text=True).strip()} ns in each region")


if __name__ == "__main__":
    main()
