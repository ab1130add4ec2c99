"""The examples in the documentation of every public name run and print what they say."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import xent

NAMES = sorted(xent.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    before = xent.get_num_threads()
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    runner = doctest.DocTestRunner(optionflags=flags)
    for test in doctest.DocTestFinder(recurse=False).find(
        getattr(xent, name), name, module=False, globs={"np": np, "xent": xent}
    ):
        report: list[str] = []
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)
    xent.set_num_threads(before)
    assert runner.tries > 0, f"{name} has no example"


@pytest.mark.parametrize("name", NAMES)
def test_first_line_is_a_summary(name):
    first, _, _ = getattr(xent, name).__doc__.strip().partition("\n")
    assert first.endswith(".")
