"""What each library's user would write for a case, at its best.

Every library is a class with one method per function of `xent`. A method takes a case and
its data and returns a call without arguments, which is what the clock sees: conversions,
compilation and everything else that a training loop does once happen before. The call does
not return before its result is complete. A missing method means that the library has nothing
for that function.

Arrays are handed over without a copy where the library can (`torch.from_numpy`), results go
into the caller's buffers where it lets them (`out=`), and integer targets have the dtype
the library likes best. Half types stay what they are but in NumPy and SciPy, whose loops over
them are slower than a conversion to float32 and back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from xent.cli.bench.case import Case
from xent.cli.bench.data import Data, widened
from xent.cli.bench.rivals.chunked import Chunked
from xent.cli.bench.rivals.dask import Dask, XentInDask
from xent.cli.bench.rivals.jax import Jax, XentInJax
from xent.cli.bench.rivals.library import Call, Library
from xent.cli.bench.rivals.numkong import NumKong
from xent.cli.bench.rivals.numpy import NumPy
from xent.cli.bench.rivals.scipy import SciPy
from xent.cli.bench.rivals.sklearn import ScikitLearn
from xent.cli.bench.rivals.torch import FusedTorch, Torch, XentInTorch
from xent.cli.bench.rivals.torchmetrics import TorchMetrics
from xent.cli.bench.rivals.xent import Xent

#: Library classes by what they are called: the name of the module they need, unless they say another.
RIVALS: dict[str, type[Library]] = {
    "numpy": NumPy,
    "scipy": SciPy,
    "sklearn": ScikitLearn,
    "torch": Torch,
    "jax": Jax,
    "torch-fused": FusedTorch,
    "chunked": Chunked,
    "torchmetrics": TorchMetrics,
    "numkong": NumKong,
    "dask": Dask,
}

#: `xent` itself, by the bridge of a case.
BRIDGES: dict[str, type[Library]] = {
    "": Xent,
    "torch": XentInTorch,
    "jax": XentInJax,
    "dask": XentInDask,
}


def available(case: Case, rivals: Sequence[str] = tuple(RIVALS)) -> list[str]:
    """Names of the installed rivals that have something for the case."""
    return [name for name in rivals if RIVALS[name].knows(case) and is_installed(name)]


def is_installed(rival: str) -> bool:
    """Whether the module that a rival needs is there."""
    return find_spec(RIVALS[rival].needs or rival) is not None


def prepare(library: str, case: Case, data: Data, threads: int) -> Call:
    """Return the library's call for the case, on as many threads as it can be told to use."""
    return RIVALS.get(library, BRIDGES[case.bridge])(threads).call(case, data)


def results(result: Any) -> tuple[np.ndarray | None, ...]:
    """Copy what a call returned, whichever library it is from, to float32 or float64 arrays."""
    if not isinstance(result, tuple):
        return (_array(result),)
    return tuple(part for one in result for part in results(one))


def _array(part: Any) -> np.ndarray | None:
    if part is None:
        return None
    if hasattr(part, "detach"):
        # Neither NumPy nor torch converts the other's bfloat16.
        part = part.detach().float() if part.itemsize < 4 else part.detach()
    array = widened(np.asarray(part))
    return array.astype(np.result_type(array.dtype, np.float32))


def assert_equal(
    library: str, case: Case, actual: Any, expected: Sequence[np.ndarray | None]
) -> None:
    """Raise AssertionError unless a call's result agrees with `xent`'s, within `rtol` and ATOL.

    None stands for a part that the library does not compute.
    """
    for got, want in zip(results(actual), expected, strict=True):
        if got is None or want is None:
            continue
        # Ranks and classes, which are float64 here, are no measure of float32's errors.
        alike = [
            part
            for part in expected
            if part is not None and (part.shape, part.dtype) == (want.shape, want.dtype)
        ]
        scale = max(np.abs(part).max() for part in alike)
        np.testing.assert_allclose(
            got.reshape(want.shape),
            want,
            rtol=case.rtol + (RIVALS[library].error if library in RIVALS else 0),
            atol=case.atol * scale,
            err_msg=f"{library} and xent disagree on {case.name}",
        )


def pin(threads: int) -> None:
    """Give the process no more cores than `threads`, for libraries that ask how many there are.

    Has an effect only before they are imported, and on systems that know affinity.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
