"""What every test runs under, and what many are repeated over."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import settings

import xent
from xent import _core

FLOATS = (np.float32, np.float64)

# The same examples every time, and no example is too slow; `--hypothesis-profile=thorough` draws others, and more.
settings.register_profile("xent", derandomize=True, deadline=None, max_examples=300)
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.load_profile("xent")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and so would every child of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """No floating-point warning, no warning of any kind."""
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
