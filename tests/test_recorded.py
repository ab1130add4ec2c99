"""The bits of every call are those that `python -m xent check` has recorded; `test_bits.py` looks at many more shapes."""

from __future__ import annotations

import pytest

from xent.cli import check


@pytest.mark.usefixtures("isa")
def test_bits_are_those_recorded():
    failures: list[str] = []
    check.CHECKS["bits"](failures.append)
    assert failures == []
