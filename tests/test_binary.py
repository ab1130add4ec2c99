"""The binaries: hardening, exported symbols, and no instruction that the processor may lack."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from library import LIBRARY as FOLDER
from test_machines import FEATURES
from xent import _core

EXTENSION = Path(_core.__file__)
LIBRARY = FOLDER / "libxent.a"
MISSING = [tool for tool in ("as", "nm", "objdump", "readelf") if not shutil.which(tool)]
X86_64 = platform.machine() == "x86_64"

pytestmark = [
    pytest.mark.skipif(
        platform.system() != "Linux", reason="binaries of other systems are not ELF"
    ),
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} (Debian: binutils)"),
]
gnu = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library")


def show(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def by_object(*command: str) -> list[str]:
    """Return the output of a tool for each object of the library, in the library's order."""
    heading = r"^(?:File: .*\(\S+\.o\)|\S+\.o:(?: +file format \S+)?)$"
    texts = re.split(heading, show(*command, LIBRARY), flags=re.MULTILINE)[1:]
    assert len(texts) > 4
    return texts


def symbols(text: str, kinds: str) -> set[str]:
    """The symbols of some kinds in the output of nm, without their versions."""
    return set(re.findall(rf" [{kinds}] ([^@\s]+)", text))


def instruction_sets() -> list[str]:
    """The instruction set of each object, "" where it is that of every such processor."""
    tables = [re.findall(r" [DR] xent_kernels_(\w+)_\w+$", text, re.M) for text in by_object("nm")]
    return ["".join(table) for table in tables]


def test_loader_protects_memory() -> None:
    dynamic, segments = show("readelf", "-Wd", EXTENSION), show("readelf", "-Wl", EXTENSION)
    assert "BIND_NOW" in dynamic
    assert "GNU_RELRO" in segments
    assert "TEXTREL" not in dynamic
    flags = dict(re.findall(r"^  (LOAD|GNU_STACK) .* ([R ][W ][E ]) 0x", segments, re.MULTILINE))
    assert flags["GNU_STACK"] == "RW "
    assert "RWE" not in segments


@gnu
def test_functions_check_their_buffers() -> None:
    needed = symbols(show("nm", "-D", EXTENSION), "U")
    assert {"__stack_chk_fail", "__memcpy_chk", "__snprintf_chk"} <= needed


@pytest.mark.skipif(not X86_64, reason="of x86-64")
def test_indirect_branches_land_where_they_may() -> None:
    # The linker marks the extension only if the C library's own start-up objects are marked too.
    assert all("x86 feature: IBT, SHSTK" in notes for notes in by_object("readelf", "-Wn"))
    (start,) = re.findall(r"(\w+) T PyInit__core", show("nm", "-D", EXTENSION))
    here = (f"--start-address=0x{start}", f"--stop-address=0x{int(start, 16) + 16:x}")
    code = show("objdump", "-d", *here, EXTENSION)
    assert "endbr64" in code[code.index(":\t") :].splitlines()[0]


def test_libraries_are_found_by_the_loader_alone() -> None:
    dynamic = show("readelf", "-Wd", EXTENSION)
    paths = re.findall(r"\((?:RPATH|RUNPATH)\) .*\[(.*)\]", dynamic)
    assert paths in ([], ["$ORIGIN/../xent.libs"])  # the second as wheels are repaired
    needed = re.findall(r"\(NEEDED\) .*\[(\w+)[^\]]*\]", dynamic)
    assert set(needed) <= {"libgomp", "libomp", "libm", "libc", "libpthread", "libdl", "ld"}


def test_extension_exports_its_module_alone() -> None:
    exported = symbols(show("nm", "-D", "--defined-only", EXTENSION), "A-Za-z")
    of_the_linker = {"_init", "_fini", "_edata", "_end", "__bss_start"}
    assert exported - of_the_linker == {"PyInit__core"}


def test_library_exports_nothing_beyond_its_program() -> None:
    table = show("readelf", "-Ws", LIBRARY)
    defined = re.findall(r" (GLOBAL|WEAK|UNIQUE) +(\w+) +(?:\d+|COM|ABS) (\S+)$", table, re.M)
    assert {bind for bind, _, _ in defined} == {"GLOBAL"}
    assert {visibility for _, visibility, _ in defined} == {"HIDDEN"}
    assert [name for _, _, name in defined if not name.startswith("xent_")] == []


def test_kernels_share_no_code() -> None:
    # One copy of a function in a section group is kept of all, whatever it was compiled for.
    assert all("There are no section groups" in text for text in by_object("readelf", "-Wg"))
    kernels = [text for text in by_object("nm") if re.search(r" [DR] xent_kernels_", text)]
    assert kernels
    for text in kernels:
        assert len(symbols(text, "A-TV-Z")) == 1, "more than the table of kernels is exported"
        assert not {name for name in symbols(text, "U") if name.startswith("xent_")}


def instructions() -> dict[str, set[str]]:
    """The instructions in the objects of each instruction set, but jumps to symbols."""
    line = re.compile(r"^ +[0-9a-f]+:\t(?:data16 )*([^<#\n]+?) *(?:#.*)?$", re.MULTILINE)
    found: dict[str, set[str]] = {}
    for isa, text in zip(
        instruction_sets(), by_object("objdump", "-d", "--no-show-raw-insn"), strict=True
    ):
        found.setdefault(isa, set()).update(line.findall(text))
    return found


def rejected(code: set[str], features: list[str]) -> list[str]:
    """Return the assembler's errors for instructions that a plain x86-64 with these features lacks."""
    march = "+".join(["-march=generic64", "ibt", *features])
    done = subprocess.run(
        ["as", march, "-o", "/dev/null", "-"],
        input="\n".join([*code, ""]),
        capture_output=True,
        text=True,
        check=False,
    )
    return re.findall(r"Error: .*", done.stderr)


@pytest.mark.skipif(not X86_64, reason="of x86-64")
def test_instructions_are_those_tested_at_run_time() -> None:
    found = instructions()
    assert set(found) == {"", *FEATURES} - {"neon"}
    for isa, code in found.items():
        # csrc/kernels/pairs.h looks for this one itself.
        tested = {line for line in code if not (isa == "avx512" and line.startswith("vdpbf16ps "))}
        assert rejected(tested, FEATURES.get(isa, [])) == [], isa
    # The assembler does tell them apart.
    assert rejected(found["avx512"], FEATURES["avx2"])
    assert rejected(found["avx2"], [])


def test_nothing_runs_when_it_is_loaded() -> None:
    sections = show("readelf", "-WS", LIBRARY)
    assert not re.search(r"\.(preinit_array|init_array|ctors|init)\b", sections)
    # The compiler's own: one for the frames of functions, one that asks which processor it is.
    size = re.search(r"\(INIT_ARRAYSZ\) +(\d+)", show("readelf", "-Wd", EXTENSION))
    assert size is None or int(size[1]) <= 2 * ctypes.sizeof(ctypes.c_void_p)


def test_importing_leaves_subnormals_alone() -> None:
    # Objects linked with -ffast-math make them zero in the whole process.
    script = "import xent, numpy as np; assert np.float32(1e-40) * np.float32(0.5) > 0"
    subprocess.run([sys.executable, "-c", script], check=True)


@gnu
def test_results_come_from_no_mathematical_library() -> None:
    libm, libc = ctypes.CDLL("libm.so.6"), ctypes.CDLL("libc.so.6")
    needed = symbols(show("nm", LIBRARY) + show("nm", "-D", EXTENSION), "U")
    used = {name for name in needed if hasattr(libm, name) and not hasattr(libc, name)}
    # All are exact; they are called where the processor may lack the instruction.
    assert used <= {"fma", "fmaf", "floor", "floorf"}
