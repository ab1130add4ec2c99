"""Every call fits in the stack of a small thread: the caller's, and those of the threads that share the call."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from test_other_machines import cache, machine  # noqa: F401 (a fixture)
from test_process import compiled, printed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="maps stacks as Linux does")

# musl gives a thread 128 KiB; half of that leaves the caller as much again.
KIBIBYTES = "64"
# Where the last cache is small, outputs are streamed past it, through buffers of their own.
SMALL = cache(0, level="2", type="Unified", size="64K") | cache(
    1, level="3", type="Unified", size="64K"
)


@pytest.mark.parametrize("files", [{}, SMALL], ids=("cached", "streamed"))
def test_every_call_fits(machine, tmp_path: Path, files) -> None:  # noqa: F811
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    program = compiled("stack.c", tmp_path, "-ldl")
    there = {"LD_PRELOAD": str(machine), "MACHINE": str(tmp_path), "CPUS": "4"} if files else {}
    settings = {"OMP_STACKSIZE": f"{KIBIBYTES}k", "OMP_WAIT_POLICY": "passive", "XENT_ISA": ""}
    said = printed(program, KIBIBYTES, **settings | there).splitlines()
    assert said
    assert all(" calls in stacks of 65536 bytes" in line for line in said)
