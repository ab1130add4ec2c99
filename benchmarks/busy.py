"""What other programs cost: all threads against one, beside busy processes and from many callers.

    python benchmarks/busy.py [--rounds N] [SITE ...]

Each SITE is a folder that holds a build of xent (of ``pip install --target SITE .``); without one it is the xent that
Python finds. The builds take turns, each in a process of its own. Figures are medians of the rounds:

- microseconds of a loss of 8192×1000 and 256×1000 float32 logits on one thread and on all, and their ratio, beside 0 to as
  many busy processes as there are CPUs: the median call of a round, then the mean, which a few long waits make long;
- calls a second of 32 Python threads at once over those of one, all with as many threads as there are CPUs.

Where other programs run, too, give this one a weight of its own: on Linux with autogroups,
``setsid -w sh -c 'echo -20 > /proc/self/autogroup; exec python benchmarks/busy.py'``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

ROWS = (8192, 256)
CALLERS = 32

# Reads expressions and prints their values.
WORKER = """
import statistics, sys, threading, time
import numpy as np, xent

def batch(rows):
    return np.random.default_rng(0).normal(size=(rows, 1000)).astype("f"), np.arange(rows) % 1000

batches = {rows: batch(rows) for rows in ROWS}

def times(rows, threads, seconds):
    xent.set_num_threads(threads)
    taken, end = [], time.perf_counter() + seconds
    while not taken or begun < end:
        begun = time.perf_counter()
        xent.cross_entropy(*batches[rows])
        taken.append(1e6 * (time.perf_counter() - begun))
    return statistics.median(taken), statistics.fmean(taken)

def throughput(callers, threads, seconds):
    xent.set_num_threads(threads)
    end, counts = time.perf_counter() + seconds, [0] * callers
    def call(caller):
        while time.perf_counter() < end:
            xent.cross_entropy(*batches[8192])
            counts[caller] += 1
    together = [threading.Thread(target=call, args=(i,)) for i in range(callers)]
    begun = time.perf_counter()
    [thread.start() for thread in together]
    [thread.join() for thread in together]
    return sum(counts) / (time.perf_counter() - begun),

for line in sys.stdin:
    print(*eval(line), flush=True)
"""


class Build:
    """A build of xent in a process of its own."""

    def __init__(self, site: str) -> None:
        self.name = site or "xent"
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"ROWS = {ROWS}\n{WORKER}"],
            env=os.environ | ({"PYTHONPATH": os.path.abspath(site)} if site else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, expression: str) -> list[float]:
        assert self.process.stdin
        assert self.process.stdout
        print(expression, file=self.process.stdin, flush=True)
        return [float(word) for word in self.process.stdout.readline().split()]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep some processes busy."""
    with ExitStack() as stack:
        for _ in range(processes):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("sites", nargs="*", metavar="SITE", default=[""])
    options = parser.parse_args()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    builds = [Build(site) for site in options.sites]
    for rows in ROWS:
        for processes in range(cpus + 1):
            times = defaultdict(list)
            with busy(processes):
                for _ in range(options.rounds):
                    for threads in (1, cpus):
                        for build in builds:
                            figures = build(f"times({rows}, {threads}, 0.25)")
                            times[build, threads].append(figures)
            for build in builds:
                one, all_ = (
                    [statistics.median(kind) for kind in zip(*times[build, n], strict=True)]
                    for n in (1, cpus)
                )
                print(
                    f"{build.name}: {rows}×1000, {processes} busy: {one[0]:.0f} µs on one thread, "
                    f"{all_[0]:.0f} on {cpus}: {all_[0] / one[0]:.2f}; means {one[1]:.0f}, {all_[1]:.0f}",
                    flush=True,
                )
    for build in builds:
        ratios = []
        for _ in range(options.rounds // 2 + 1):
            (one,), (many,) = (build(f"throughput({n}, {cpus}, 1)") for n in (1, CALLERS))
            ratios.append(many / one)
        print(
            f"{build.name}: {CALLERS} callers over one: {statistics.median(ratios):.2f}", flush=True
        )
    for build in builds:
        build.process.communicate()


if __name__ == "__main__":
    main()
