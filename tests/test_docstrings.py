"""The examples in the documentation of every public name run and print what they say."""

from __future__ import annotations

import doctest
import inspect
from importlib.util import find_spec
from operator import attrgetter

import numpy as np
import pytest

import xent
from xent import boosting

# Public names of `xent`, and of its modules that `import xent` leaves out.
NAMES = sorted([*xent.__all__, *(f"boosting.{name}" for name in boosting.__all__)])
if find_spec("dask"):
    import xent.dask

    NAMES += [f"dask.{name}" for name in xent.dask.__all__]
if find_spec("mpi4py"):
    import xent.mpi

    NAMES += [f"mpi.{name}" for name in xent.mpi.__all__]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    before = xent.get_num_threads()
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(recurse=False).find(
        attrgetter(name)(xent), name, module=False, globs={"np": np, "xent": xent}
    ):
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
    xent.set_num_threads(before)
    assert runner.tries > 0, f"{name} has no example"


@pytest.mark.parametrize("name", NAMES)
def test_first_line_is_a_summary(name):
    first, _, _ = attrgetter(name)(xent).__doc__.strip().partition("\n")
    assert first.endswith(".")


# Parameters documented, and no others; results documented, each by itself.
CHECKS = {
    "GL01",
    "GL02",
    "GL03",
    "GL05",
    "GL08",
    "PR01",
    "PR02",
    "RT01",
    "RT03",
    "RT04",
    "RT05",
    "SS03",
}


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("__")])
def test_sections_are_as_numpydoc_has_them(name):
    validate = pytest.importorskip("numpydoc.validate").validate
    wrong = [message for code, message in validate(f"xent.{name}")["errors"] if code in CHECKS]
    returned = inspect.signature(attrgetter(name)(xent)).return_annotation
    assert not wrong or (returned == "None" and wrong == ["No Returns section found"])
