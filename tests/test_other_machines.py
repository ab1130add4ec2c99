"""Simulated machines, as a process sees them: CPUs, quotas of control groups, caches."""

from __future__ import annotations

import os
import sys

import pytest

from test_headers import COMPILER
from test_native import ROOT, must_run
from test_process import UNSET, output
from xent import _core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says")

GROUPS = "proc/self/cgroup"


def version2(folder, limit):
    return {f"sys/fs/cgroup{folder}/cpu.max": limit}


def version1(folder, quota, period="100000"):
    folder = f"sys/fs/cgroup/cpu{folder}"
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


def cache(index, **files):
    return {
        f"sys/devices/system/cpu/cpu0/cache/index{index}/{name}": f"{text}\n"
        for name, text in files.items()
    }


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """Compile what stands between a process and the machine."""
    library = tmp_path_factory.mktemp("machine") / "machine.so"
    source = ROOT / "tests/native/machine.c"
    must_run(*COMPILER, "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl")
    return library


def on(machine, folder, files, script, **environment):
    """Return what a script prints where the machine has these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    there = {"MACHINE": str(folder), "CPUS": "8", "LD_PRELOAD": str(machine)}
    return output(script, **UNSET | there | environment)


THREADS = "import xent; print(xent.get_num_threads())"


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 8),
        ({GROUPS: "0::/\n"}, 8),
        ({GROUPS: "0::/\n", **version2("", "300000 100000")}, 3),
        ({GROUPS: "0::/\n", **version2("", "max 100000")}, 8),
        ({GROUPS: "0::/\n", **version2("", "250000 100000")}, 3),
        ({GROUPS: "0::/\n", **version2("", "1000 100000")}, 1),
        ({GROUPS: "0::/\n", **version2("", "1600000 100000")}, 8),
        ({GROUPS: "0::/\n", **version2("", "-1 100000")}, 8),
        ({GROUPS: "0::/\n", **version2("", "100000 0")}, 8),
        ({GROUPS: "0::/\n", **version2("", "")}, 8),
        ({GROUPS: "0::/a/b\n", **version2("/a/b", "500000 100000"), **version2("", "max")}, 5),
        (
            {GROUPS: "0::/a/b", **version2("/a/b", "5 1"), **version2("/a", "2 1")}
            | version2("", "3 1"),
            2,
        ),
        ({GROUPS: "0::no folder\n"}, 8),
        ({GROUPS: "nonsense\n1:nonsense\n0::/\n", **version2("", "2 1")}, 2),
        ({GROUPS: "4:memory:/\n3:cpu,cpuacct:/a\n", **version1("/a", "400000")}, 4),
        ({GROUPS: "3:cpu:/a\n", **version1("/a", "-1")}, 8),
        ({GROUPS: "3:cpu:/a\n", **version1("/a", "max")}, 8),
        ({GROUPS: "3:cpu:/a\n", **version1("/a", "400000", "none")}, 8),
        ({GROUPS: "3:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000"}, 8),
        ({GROUPS: "3:cpu:/\n0::/\n", **version1("", "400000"), **version2("", "2 1")}, 2),
    ],
)
def test_threads_are_as_many_as_the_tightest_quota_allows(machine, tmp_path, files, threads):
    assert on(machine, tmp_path, files, THREADS) == str(threads)


@pytest.mark.parametrize(
    ("cpus", "threads"),
    [(1, 1), (1024, 1024), (1500, 1024), (0, min(1024, os.sysconf("SC_NPROCESSORS_ONLN")))],
)
def test_threads_are_as_many_as_the_cpus(machine, tmp_path, cpus, threads):
    assert on(machine, tmp_path, {}, THREADS, CPUS=str(cpus)) == str(threads)


# With these in OMP_NUM_THREADS LLVM's runtime ends the process, or takes a number of its own for the limit.
FATAL = ("", "4x", "-1", "0") if "libomp" in _core.openmp() else ()


@pytest.mark.parametrize(
    ("value", "threads"),
    [
        (value, threads)
        for value, threads in [
            ("5000", 1024),
            ("3 ", 3),
            ("2 ,4", 2),
            ("", 8),
            ("all", 8),
            ("4x", 8),
            ("-1", 8),
            ("0", 8),
        ]
        if value not in FATAL
    ],
)
def test_threads_are_as_many_as_openmp_was_told(machine, tmp_path, value, threads):
    assert on(machine, tmp_path, {}, THREADS, OMP_NUM_THREADS=value) == str(threads)


@pytest.mark.parametrize(("n", "threads"), [(-1, 1), (0, 1), (3, 3), (2000, 1024)])
def test_threads_that_c_programs_ask_for_are_from_1_to_1024(n, threads):
    script = f"""
        from xent import _core
        _core.set_num_threads({n})
        print(_core.get_num_threads())
    """
    assert output(script) == str(threads)


CACHES = [
    {},
    cache(0, level="2", type="Unified", size="64K"),
    cache(0, level="3", type="Unified", size="1M"),
    cache(0, level="2", type="Data", size="65536"),
    cache(0, level="two") | cache(1, level="2", type="Data", size="1M"),
    cache(0, level="2") | cache(1, level="2", type="Instruction", size="1M"),
    cache(0, level="2", type="", size="1M") | cache(1, level="2", type="Data"),
    cache(0, level="2", type="Data", size="all") | cache(1, level="2", type="Data", size="0K"),
    {name: text for i in range(9) for name, text in cache(i, level="1").items()},
]


def test_caches_change_no_bits(machine, tmp_path):
    script = """
        import numpy, xent, zlib
        logits = numpy.random.default_rng(0).normal(size=(300, 1000)).astype("f")
        found = xent.cross_entropy(logits, numpy.arange(300), return_grad=True)
        bce = xent.binary_cross_entropy_with_logits(logits, logits > 0, return_grad=True)
        print([zlib.crc32(a.tobytes()) for a in (*found, *bce)])
    """
    expected = output(script)
    for i, files in enumerate(CACHES):
        assert on(machine, tmp_path / str(i), files, script) == expected


INTERRUPTED = {
    "sum": "xent.cross_entropy(rows, index, reduction='sum', class_weight=numpy.ones(9, 'f'))",
    "loss of long rows": "xent.cross_entropy(rows[:9].reshape(1, -1).repeat(20000, 1), [3])",
    "mean of class probabilities": "xent.cross_entropy(rows, rows, sample_weight=weight)",
    "gradient of long rows": "xent.softmax(rows[:9].reshape(1, -1).repeat(20000, 1))[0, 5]",
    "blocks of rows": "xent.cross_entropy(rows.astype('>f4'), index)",
    "elements": "xent.binary_cross_entropy(rows, rows, sample_weight=weight[:, None])",
    "blocks of elements": "xent.binary_cross_entropy(rows, rows.astype('d'), sample_weight=rows)",
}


@pytest.mark.parametrize("call", INTERRUPTED.values(), ids=INTERRUPTED)
def test_interrupts_at_any_moment_of_a_call(machine, call):
    script = f"""
        import ctypes, itertools, numpy, xent
        rows = numpy.random.default_rng(0).random((70_000, 9), "f")
        index, weight = numpy.arange(70_000) % 9, numpy.ones(70_000, "f")
        expected = {call}
        shim = ctypes.CDLL(None)
        for looks in itertools.count(1):
            try:
                shim.interrupt(looks)
                found = {call}
                shim.interrupt(0)
            except KeyboardInterrupt:
                assert {call} == expected
            else:
                break
        assert found == expected
        print(looks)
    """
    assert int(output(script, LD_PRELOAD=str(machine), XENT_NUM_THREADS="2")) > 3
