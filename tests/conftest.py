"""Fixtures that every test runs under, and those that repeat tests over instruction sets, dtypes and threads."""

from __future__ import annotations

import re
import signal
import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

import xent
from xent import _core

FLOATS = (np.float32, np.float64)

# Files whose tests compile, start processes, measure or compute for long. `pytest -m fast` leaves them out; of each other
# test it runs so many cases, spread over all there are. The examples of docstrings, of every public function, run in full.
SLOW = re.compile(
    "test_(accuracy|benchmarks|binary|bits|check|cli|dask|dask_bits|dask_options|documentation|evidence|examples|fuzz|"
    "headers|huge|jax_callback|machines|memory|mpi|mutations|native|other_machines|out_of_core|package|plots|pool|process|rivals|"
    "runtimes|sanitizers|scaling_plan|score_command|sklearn|stack|team|threads|torch_process|typing)"
)
FAST_CASES = 4
IN_FULL = "test_docstrings"

# Hypothesis draws the same examples every time, without a deadline; `--hypothesis-profile=thorough` draws others, and more.
settings.register_profile("xent", derandomize=True, deadline=None, max_examples=300)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile("xent")


def _case(item: pytest.Item) -> str:
    """Return the name of a case, whatever the instruction set."""
    test, bracket, values = item.nodeid.partition("[")
    isa = item.callspec.params.get("isa", "") if hasattr(item, "callspec") else ""
    return test + bracket + values.replace(isa, "", 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a case on one instruction set after the other; mark fast tests, before `-m` chooses."""
    first = {case: i for i, case in reversed([*enumerate(map(_case, items))])}
    items.sort(key=lambda item: first[_case(item)])
    tests = defaultdict(list)
    for item in items:
        if not SLOW.fullmatch(item.path.stem):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        count = len(cases)
        chosen = count if cases[0].path.stem == IN_FULL else min(count, FAST_CASES)
        for i in range(chosen):
            cases[i * (count - 1) // max(1, chosen - 1)].add_marker("fast")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Restore the handling of SIGINT: a background job of a shell ignores Ctrl-C, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """Turn floating-point warnings into errors, as pytest's configuration does with all others."""
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


@pytest.fixture(params=_core.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on every instruction set that this machine has."""
    previous = _core.use_isa(request.param)
    yield request.param
    _core.use_isa(previous)


@pytest.fixture(params=FLOATS, ids=lambda dtype: dtype.__name__)
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    """Run the test in every floating dtype."""
    return np.dtype(request.param)


@pytest.fixture(params=(1, 2, 3, 8), ids=lambda n: f"{n}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test on different numbers of threads, more than there are cores included."""
    with xent.num_threads(request.param):
        yield request.param
