"""Short runs of `tests/sanitize`: everything but the kernels, which are those installed, is compiled with sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from library import LIBRARY

SANITIZE = Path(__file__).parent / "sanitize"
PROGRAM = "#include <omp.h>\nint LLVMFuzzerTestOneInput() { return omp_get_max_threads() < 1; }\n"
SCRIPTS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def clang() -> None:
    """Make sure of clang and all that is linked."""
    if not shutil.which("clang"):
        pytest.skip("no clang")
    for sanitizers in ("address,undefined,fuzzer", "thread,fuzzer"):
        command = ("clang", f"-fsanitize={sanitizers}", "-fopenmp", "-xc", "-", "-o", os.devnull)
        done = subprocess.run(command, input=PROGRAM, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"clang lacks its sanitizers or OpenMP: {done.stderr.splitlines()[-1]}")


def sanitize(*command: str, at: Path) -> str:
    """Run a command, which must find nothing, and return what it prints."""
    settings = {"BUILD": str(at), "XENT_LIBRARY": str(LIBRARY), "XENT_ISA": ""}
    path = f"{SCRIPTS}:{os.environ['PATH']}"
    done = subprocess.run(
        [SANITIZE, *command],
        env=os.environ | settings | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.usefixtures("clang")
def test_calls_of_any_kind(tmp_path):
    assert "Done 500 runs" in sanitize("fuzz", "-runs=500", "-seed=1", at=tmp_path)


@pytest.mark.usefixtures("clang")
def test_calls_from_many_threads(tmp_path):
    assert ": 0 failures" in sanitize("tsan", "2", at=tmp_path)
