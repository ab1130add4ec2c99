"""The same bits from C, for each vector operation and for whole calls, on this machine and on emulated ones.

`.ci/aarch64` runs the same programs on aarch64.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from test_headers import COMPILER, LINK
from test_process import printed

HERE = Path(__file__).parent
NATIVE = HERE / "native"
CSRC = HERE.parent / "csrc"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-unused-function", "-ffp-contract=off")
DIGESTS = (NATIVE / "digest.txt").read_text()
# What divides calls among threads, compiled to divide even small ones.
DIVIDING = [file for file in CSRC.glob("call/*.c") if '#include "call.h"' in file.read_text()]
# The features that kernels are compiled for.
BUILD = (HERE.parent / "csrc" / "CMakeLists.txt").read_text()
FEATURES = {name: words.split() for name, words in re.findall(r"xent_isa\((\w+)([\w ]*)\)", BUILD)}


def run(*command: str | Path, **environment: str) -> str:
    """Run a command, which must succeed, and return its output."""
    # Calls ask for up to 16 threads: more than there are cores should not spin.
    return printed(*command, **{"OMP_WAIT_POLICY": "passive"} | environment)


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the digests of whole calls, with the kernels that are installed."""
    program = tmp_path_factory.mktemp("native") / "digest"
    sources = (NATIVE / "digest.c", *DIVIDING)
    run(*COMPILER, *FLAGS, "-DXENT_TEST_PIECES", f"-I{CSRC}", *sources, *LINK, "-o", program)
    return program


def operations(isa: str, folder: Path) -> str:
    """Compile and run the digests of the vector operations of an instruction set."""
    program = folder / isa
    features = [f"-m{word}" for word in FEATURES[isa]]
    header = f'-DXENT_SIMD="{CSRC}/simd/{isa}.h"'
    run(*COMPILER, *FLAGS, *features, header, NATIVE / "operations.c", "-lm", "-o", program)
    return run(program)


@pytest.fixture(scope="module")
def specified(tmp_path_factory: pytest.TempPathFactory) -> str:
    return operations("scalar", tmp_path_factory.mktemp("native"))


def test_vector_operations_are_those_specified(isa, specified, tmp_path):
    assert operations(isa, tmp_path).splitlines() == specified.splitlines()


def test_every_vector_operation_is_digested():
    specification = (CSRC / "simd" / "scalar.h").read_text()
    names = set(re.findall(r"static inline \S+ P##_(\w+)\(", specification))
    names -= {"bits", "from_bits"}  # of single numbers, within the specification
    assert {"add", "sum_tree"} <= names
    used = (NATIVE / "operations.c").read_text()
    assert {name for name in names if f"P##_{name}(" not in used} == set()


def test_every_operation_has_a_digest():
    rows = (CSRC / "operations.def").read_text()
    names = re.findall(r"^XENT_OPERATION\(\w+, (\w+),", rows, re.MULTILINE)
    assert "log_softmax" in names
    assert re.findall(r"  (\w+), float32$", DIGESTS, re.MULTILINE) == [*names, "functions"]


@pytest.mark.parametrize("way", ["", "disturbed", "nested", "apart", "callers"])
def test_calls_have_the_digests_checked_in(isa, digest, way):
    assert run(digest, *way.split(), XENT_ISA=isa).splitlines() == DIGESTS.splitlines()


EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")


@pytest.fixture
def nehalem() -> Callable[..., str]:
    """Run programs of this machine on an emulated processor without AVX2."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("programs of x86-64 alone can be emulated as Nehalem")
    if not EMULATOR:
        pytest.skip("no qemu-x86_64-static (Debian: qemu-user-static)")

    def emulate(*command: str | Path) -> str:
        # NumPy's OpenBLAS looks at the processor beneath the emulator.
        settings = {"OPENBLAS_CORETYPE": "Nehalem", "XENT_ISA": ""}
        return run(str(EMULATOR), "-cpu", "Nehalem", *command, **settings)

    return emulate


def test_without_avx2_plain_c_is_chosen(nehalem):
    script = "import xent; c = xent.show_config(); print(c['isa'], *c['isas_available'])"
    assert nehalem(sys.executable, "-c", script).split() == ["scalar", "scalar"]


def test_without_avx2_it_cannot_be_asked_for(nehalem):
    script = """
import os
os.environ["XENT_ISA"] = "avx2"
try:
    import xent
except ImportError as error:
    print(error)
"""
    expected = "XENT_ISA='avx2' is not available here; accepted: scalar"
    assert nehalem(sys.executable, "-c", script).strip() == expected


def test_without_avx2_calls_have_the_digests_checked_in(nehalem, digest):
    assert nehalem(digest).splitlines() == DIGESTS.splitlines()


# What `python -m xent check` runs, one by one: all of it takes minutes here.
CHECK = """
import sys
from xent.cli import check
failures = []
for name in sys.argv[1:]:
    check.CHECKS[name](failures.append)
assert failures == [], failures
"""


def test_without_avx2_the_checks_pass(nehalem):
    names = ("batches", "accuracy", "half types", "edges", "fork", "arithmetic")
    nehalem(sys.executable, "-c", CHECK, *names)
