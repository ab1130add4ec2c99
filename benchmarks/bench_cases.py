"""Every case with every installed library, under pytest-benchmark.

Usage::

    pytest benchmarks --benchmark-only                  all of them
    pytest benchmarks --benchmark-only -k loss-256      the cases so named

One group per case. Answers are asserted equal first; ``--benchmark-disable`` stops there.
`extra_info` has the bandwidth and its share of the memory's speed, measured in the same run.
Libraries run one after the other here; for ratios that a drifting machine cannot spoil,
``compare.py`` interleaves them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import xent
from cases import Case, Data, select
from measure import MEMORY_BOUND, memory_speeds
from memory import Memory
from rivals import answer, assert_equal, available, prepare


@dataclass(frozen=True)
class Problem:
    """A case, its data, and the answer that `xent` gives."""

    case: Case
    data: Data
    expected: tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def threads() -> int:
    return xent.get_num_threads()


@pytest.fixture(scope="module")
def speeds(threads: int) -> tuple[float, float]:
    """Bytes per second: read, copy."""
    return memory_speeds(Memory(threads))


@pytest.fixture(scope="module")
def problem(request: pytest.FixtureRequest, threads: int) -> Problem:
    case, data = request.param, request.param.data()
    return Problem(case, data, answer(prepare("xent", case, data, threads)()))


@pytest.mark.benchmark(max_time=0.5, warmup=True, warmup_iterations=1, disable_gc=True)
@pytest.mark.parametrize(
    ("problem", "library"),
    [
        pytest.param(case, library, id=f"{case.name}-{library}")
        for case in select()
        for library in available(case)
    ],
    indirect=["problem"],
)
def test_case(
    benchmark: BenchmarkFixture,
    problem: Problem,
    library: str,
    threads: int,
    speeds: tuple[float, float],
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
    if case.bytes_moved >= MEMORY_BOUND:
        speed = speeds[case.writes]
        benchmark.extra_info["memory GB/s"] = speed / 1e9
        benchmark.extra_info["share of memory speed"] = bandwidth / speed
