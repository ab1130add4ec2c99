"""Every case of ``python -m xent bench`` with every installed library, under pytest-benchmark.

Usage::

    pytest benchmarks --benchmark-only                  all of them
    pytest benchmarks --benchmark-only -k llm           a workload
    pytest benchmarks --benchmark-only -k loss-256      the cases so named

One group per case. Results are asserted equal first; ``--benchmark-disable`` stops there.
`extra_info` has the bandwidth and its share of the memory's speed, measured in the same run.
``XENT_NUM_THREADS`` and ``XENT_ISA`` choose threads and instruction set. Libraries run one after
the other here; for ratios that a drifting machine cannot spoil, the command interleaves them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import xent
from xent.cli.bench.case import Case
from xent.cli.bench.data import Data, draw
from xent.cli.bench.measure import MemorySpeed, is_in_memory, memory_speed
from xent.cli.bench.rivals import assert_equal, available, pin, prepare, results
from xent.cli.bench.workloads import CASES


@dataclass(frozen=True)
class Problem:
    """A case, its data, and the results that `xent` gives."""

    case: Case
    data: Data
    expected: tuple[np.ndarray | None, ...]


@pytest.fixture(scope="module")
def threads() -> Iterator[int]:
    count = xent.get_num_threads()
    known = hasattr(os, "sched_getaffinity")
    cpus = os.sched_getaffinity(0) if known else set()
    pin(count)
    yield count
    if known:
        os.sched_setaffinity(0, cpus)


@pytest.fixture(scope="module")
def speed(threads: int) -> MemorySpeed:
    return memory_speed(threads)


@pytest.fixture(scope="module")
def problem(request: pytest.FixtureRequest, threads: int) -> Problem:
    case = request.param
    data = draw(case)
    return Problem(case, data, results(prepare("xent", case, data, threads)()))


@pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=1, disable_gc=True)
@pytest.mark.parametrize(
    ("problem", "library"),
    [
        pytest.param(case, library, id=f"{case.workload}-{case.name}-{library}")
        for case in CASES
        for library in ("xent", *available(case))
    ],
    indirect=["problem"],
)
def test_case(
    benchmark: BenchmarkFixture,
    problem: Problem,
    library: str,
    threads: int,
    speed: MemorySpeed,
) -> None:
    case = problem.case
    call = prepare(library, case, problem.data, threads)
    assert_equal(library, case, call(), problem.expected)
    benchmark.group = case.name
    benchmark(call)
    if benchmark.stats is None:  # --benchmark-disable
        return
    bandwidth = case.bytes_moved / benchmark.stats.stats.median
    benchmark.extra_info["GB/s"] = bandwidth / 1e9
    if is_in_memory(case):
        roofline = speed.copy if case.writes else speed.read
        benchmark.extra_info["memory GB/s"] = roofline / 1e9
        benchmark.extra_info["share of roofline"] = bandwidth / roofline
