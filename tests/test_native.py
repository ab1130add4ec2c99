"""xent-native accepts every kernel, and rejects kernels with planted faults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from library import LIBRARY

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "benchmarks/native").glob("*.c"))
WITH_SCRIPTS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
COMPILER = os.environ.get("CC", sysconfig.get_config_var("CC") or "cc").split()

# Kernels as they are, but for narrow rows.
FAULTY = r"""
#include "call/dispatch.h"

static const xent_kernels *right;

static void rows(const xent_plan *plan, const xent_rows *rows) {
    right->rows(plan, rows);
    if (plan->layout == XENT_NARROW && rows->out) {
        const int64_t last = rows->count - 1, bytes = plan->classes * (int64_t)sizeof(float);
        FAULT;
    }
}

const xent_kernels *faulty_kernels_for(xent_dtype dtype) {
    static xent_kernels faulty;
    right = xent_kernels_for(dtype);
    faulty = *right;
    faulty.rows = rows;
    return &faulty;
}
"""
FAULTS = {
    "wrong bit": (
        "rows->out[last * rows->out_step] ^= 1",
        r"out\[\d+, 0\] is \S+ \(0x\w{8}\), should be \S+ \(0x\w{8}\)",
    ),
    "writes too far": (
        "rows->out[last * rows->out_step + bytes] ^= 1",
        "(writes beside out|touches memory outside)",
    ),
    "reads too far": (
        "(void)((volatile const char *)rows->logits)[last * rows->logits_step + bytes]",
        "touches memory outside",
    ),
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=WITH_SCRIPTS, capture_output=True, text=True, timeout=600, check=False
    )


def must_run(*command: str | Path) -> str:
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built with the kernels of the installed library."""
    at = tmp_path_factory.mktemp("native")
    library = f"-DXENT_LIBRARY={LIBRARY}"
    must_run(
        "cmake",
        "-S",
        ROOT / "benchmarks/native",
        "-B",
        at,
        "-G",
        "Ninja",
        library,
        "-DCMAKE_C_FLAGS=-Werror",
    )
    must_run("cmake", "--build", at)
    return at / "xent-native"


def test_option_of_the_build(tmp_path: Path) -> None:
    """Only planned, not compiled: that takes minutes."""
    options = ("-DXENT_PYTHON=OFF", "-DXENT_NATIVE=ON")
    must_run("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options)
    plan = must_run("cmake", "--build", tmp_path, "--target", "xent-native", "--", "-n")
    assert "libxent.a" in plan
    assert plan.rstrip().endswith("xent-native")


def test_every_function_of_the_table_is_called() -> None:
    header = (ROOT / "csrc/kernels/kernel.h").read_text()
    functions = re.findall(r"\(\*(\w+)\)\(", header[: header.index("} xent_kernels;")])
    assert functions
    source = (ROOT / "benchmarks/native/task.c").read_text()
    assert [name for name in functions if f"kernels->{name}(" not in source] == []


def test_every_kernel_is_listed(program: Path) -> None:
    names = must_run(program, "--list").split()
    assert len(names) == len(set(names))
    header = (ROOT / "csrc/kernels/kernel.h").read_text()
    for stream, transform in re.findall(r"USE\(XENT_(\w+), XENT_(\w+)\)", header):
        output = "loss" if stream == "SQUARES" else "gradient"
        for layout in ("wide", "narrow", "columns"):
            assert f"{stream}-{transform}/{layout}/{output}".lower() in names
    functions = re.search(
        r"typedef enum \{([^}]*)\} xent_function;", (ROOT / "csrc/xent.h").read_text()
    )
    assert functions
    assert {name.lower() for name in re.findall(r"XENT_(\w+)", functions[1])} <= set(names)


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_kernels_are_right(program: Path, dtype: str) -> None:
    (line,) = must_run(program, "--check", "--draws", "1", "--dtype", dtype).splitlines()
    assert line.split()[0] == dtype
    assert line.endswith(" 0 fail")


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS)
def test_wrong_kernels_are_found(fault: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "faulty.c").write_text(FAULTY.replace("FAULT", fault))
    faulty = tmp_path / "xent-native"
    includes = (f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'benchmarks/native'}")
    must_run(*COMPILER, *includes, "-c", tmp_path / "faulty.c", "-o", tmp_path / "faulty.o")
    renamed = "-Dxent_kernels_for=faulty_kernels_for"
    link = (tmp_path / "faulty.o", f"-L{LIBRARY}", "-lxent", "-fopenmp", "-lm")
    must_run(*COMPILER, *includes, renamed, *SOURCES, *link, "-o", faulty)
    done = run(faulty, "--check", "--dtype", "f32", "no_stream-plain/*/gradient")
    assert done.returncode == 1
    case = r"no_stream-plain/narrow/gradient, \w+, f32, \d+ x \d+ \(draw \d of seed 1\): "
    assert re.match(case + message, done.stderr), done.stderr
    assert "wide" not in done.stderr


def test_time_of_one_kernel(program: Path) -> None:
    name = "no_stream-plain/narrow/loss"
    lines = must_run(program, "--bench", "--json", "--dtype", "f32", name).splitlines()
    places = [json.loads(line) for line in lines]
    assert [place["place"] for place in places] == ["L1", "L2", "memory"]
    for place in places:
        assert place["kernel"] == name
        # A float and, for each row, the target that is read and the loss that is written.
        assert place["read"] == place["rows"] * (4 * place["classes"] + 8)
        assert place["written"] == place["rows"] * 4
        elements = place["rows"] * place["classes"]
        cycles = place["seconds"] * place["clock"] / elements
        assert place["cycles_per_element"] == pytest.approx(cycles, rel=1e-2)
        speed = (place["read"] + place["written"]) / place["seconds"] / 1e9
        assert place["gb_per_second"] == pytest.approx(speed, rel=1e-2)
        assert place["share"] > 0


def test_table_names_what_was_timed(program: Path) -> None:
    lines = must_run(
        program, "--bench", "--isa", "scalar", "--dtype", "f64", "tanh_slope"
    ).splitlines()
    assert lines[0].startswith("scalar, f64, clock ")
    assert lines[-1].startswith("tanh_slope ")
    assert lines[-1].count("%") == 3


@pytest.mark.parametrize(
    "wrong", [("--isa", "mmx"), ("--dtype", "f8"), ("--draws", "0"), ("--nothing",), ("nothing",)]
)
def test_what_it_does_not_know(program: Path, wrong: tuple[str, ...]) -> None:
    done = run(program, "--check", *wrong)
    assert done.returncode == 2
    assert wrong[-1].lstrip("-") in done.stderr
