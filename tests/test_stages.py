"""The stages of the C interface over shards of the classes: the bits of whole calls, or their results within rounding."""

from __future__ import annotations

from pathlib import Path

from test_process import compiled, printed
from xent import _core


def test_stages_are_those_of_whole_calls(tmp_path: Path) -> None:
    program = compiled("stages.c", tmp_path)
    for isa in _core.isas():
        assert printed(program, XENT_ISA=isa).endswith("checks, 0 failures\n")
