"""``python -m xent bench`` compares equal computations and reports everything that it measured.

At a size that takes no time, the results of all libraries agree. No time is asserted.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent
from xent import _core
from xent.cli import bench, main
from xent.cli.bench import against, record, rivals
from xent.cli.bench.case import Case
from xent.cli.bench.data import draw, store, widened
from xent.cli.bench.measure import (
    FEWEST_ROUNDS,
    TURN,
    Comparison,
    MemorySpeed,
    compare,
    contenders,
    instruction_set,
    interleave,
    is_in_memory,
    relate,
)
from xent.cli.bench.memory import last_level_cache, own_cache
from xent.cli.bench.plot import draw as draw_plot
from xent.cli.bench.rivals import available
from xent.cli.bench.table import comparison_table, format_time, markdown, show
from xent.cli.bench.worker import Worker, WorkerError
from xent.cli.bench.workloads import CASES, ON_REQUEST, TIERS, TITLES, select

BY_NAME = {case.name: case for case in CASES}
INSTALLED = ("numpy", "scipy", "sklearn")


def small(case: Case) -> Case:
    """The same case at a size that takes no time."""
    return replace(case, shape=tuple(min(n, 40) for n in case.shape))


# Cases.


def test_names_are_unique():
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", [case for case in CASES if not case.bridge], ids=lambda c: c.name)
def test_answers_agree(case: Case):
    with np.errstate(all="ignore"):
        calls, left_out = contenders(small(case), INSTALLED, xent.get_num_threads())
    assert {"xent", "numpy"} <= calls.keys()
    assert not left_out


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(1) as worker:
        yield worker


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.tier != "all" or case.half or case.features or case.bridge],
    ids=lambda case: case.name,
)
def test_answers_of_frameworks_agree(case: Case, worker: Worker):
    """In a process of its own, because importing them changes settings."""
    frameworks = [name for name in ("torch", "jax", "dask") if find_spec(name)]
    if not frameworks:
        pytest.skip("none of torch, JAX and Dask is installed")
    one = worker(compare, small(case), 1, _core.isa(), 1, frameworks)
    assert one.seconds.keys() == {"xent", *available(case, frameworks)}
    assert not one.left_out


@pytest.mark.parametrize("workload", TITLES)
@pytest.mark.parametrize("tier", TIERS)
def test_a_workload_means_its_cases_of_a_tier(workload: str, tier: str):
    cases = [case for case in CASES if case.workload == workload]
    limit = TIERS.index("all" if workload in ON_REQUEST else tier)
    expected = [case for case in cases if TIERS.index(case.tier) <= limit]
    assert expected
    assert select([workload], tier) == expected
    if workload not in ON_REQUEST:
        assert [case for case in select((), tier) if case.workload == workload] == expected


def test_cases_on_request_run_only_when_named_or_with_all():
    asked = {case.name for case in CASES if case.workload in ON_REQUEST}
    for words in ((), ("*",), ("loss",), ("llm", "grad-1x1000")):
        assert not asked & {case.name for case in select(words)}
    assert {case.name for case in select(asked)} == asked
    assert [case.name for case in select(["loss-1x1000000*"])] == ["loss-1x100000000"]
    assert select((), "all") == list(CASES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss-1x1000"], {"loss-1x1000"}),
        (["hess-2*"], {"hess-20000x100", "hess-20000x100-fortran"}),
        (["kl_div", "perplexity"], {"loss-50000x100-kl_div", "grad-50000x100-kl_div",
                                    "perplexity-512x50257"}),
    ],
)  # fmt: skip
def test_names_patterns_and_parts_of_names(words: list[str], expected: set[str]):
    assert {case.name for case in select(words)} == expected


def test_an_unknown_name_is_refused():
    with pytest.raises(LookupError, match="no case or workload is called 'nothing'"):
        select(["llm", "nothing"])


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("grad-512x50257-focal", 1),
        ("loss-512x50257-distillation", 2),
        ("grad-512x50257-soft", 3 / 2),
        ("hess-512x50257", 3 / 2),
        ("softmax-512x50257-f64", 1),
    ],
)
def test_bytes_moved_beside_plain_cross_entropy(name: str, ratio: float):
    case = BY_NAME[name]
    assert case.plain is not None
    assert case.bytes_moved / case.plain.bytes_moved == pytest.approx(ratio, rel=1e-3)
    assert case.plain.plain == case.plain


def test_products_have_no_memory_to_be_measured_by():
    case = BY_NAME["grad-1024x32000-linear"]
    assert case.plain is None
    assert case.bytes_moved == 2 * 4 * 512 * (1024 + 32000) + 8 * 1024
    assert not is_in_memory(case)
    assert is_in_memory(replace(BY_NAME["grad-512x50257"], shape=(1 << 20, 50257)))


def test_elements_have_no_plain_cross_entropy():
    assert BY_NAME["loss-50000x100-kl_div"].plain is None


def test_bfloat16_is_rounded_to_nearest_even():
    # Every exponent, both signs, halfway cases and their neighbours.
    high = np.arange(0, 0x7F80, 7, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    values = (high[:, None] + low + np.array([[[0]], [[1 << 31]]], np.uint32)).view(np.float32)
    bits = store(values, np.empty(values.shape, np.uint16))
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(bits, expected.view(np.uint16))
        np.testing.assert_array_equal(widened(bits), expected.astype(np.float32))


def test_every_array_starts_on_a_page():
    for name in ("grad-32x10", "softmax-1x50257", "hess-20000x100-fortran"):
        data = draw(BY_NAME[name])
        arrays = (data.logits, data.out, data.grad_out, data.hess_out)
        assert [a.ctypes.data % 4096 for a in arrays if a is not None].count(0) >= 2
    assert data.grad_out.flags.f_contiguous


# Measurement.


def test_a_rival_that_disagrees_is_an_error(monkeypatch: pytest.MonkeyPatch):
    class Wrong(rivals.NumPy):
        def logsumexp(self, case: Case, data: Any) -> Callable[[], Any]:
            call = super().logsumexp(case, data)
            return lambda: call() * np.float32(1.001)

    monkeypatch.setitem(rivals.RIVALS, "numpy", Wrong)
    with pytest.raises(AssertionError, match="numpy and xent disagree on logsumexp-1x50257"):
        compare(BY_NAME["logsumexp-1x50257"], 1, _core.isa(), 1, rivals=["numpy"])


def test_a_rival_that_raises_is_left_out(monkeypatch: pytest.MonkeyPatch):
    class Broken(rivals.SciPy):
        def logsumexp(self, case: Case, data: Any) -> Callable[[], Any]:
            raise RuntimeError("no such function in this version")

    monkeypatch.setitem(rivals.RIVALS, "scipy", Broken)
    calls, left_out = contenders(BY_NAME["logsumexp-1x50257"], ["numpy", "scipy"], 1)
    assert calls.keys() == {"xent", "numpy"}
    assert left_out == {"scipy": "RuntimeError: no such function in this version"}


def test_contenders_take_turns_in_an_order_that_rotates():
    turns = ""

    def call(name: str) -> Callable[[], None]:
        def wait() -> None:
            nonlocal turns
            turns += name
            time.sleep(1.2 * TURN)  # long enough to be called once in a turn, after a call to wake

        return wait

    samples = interleave({"a": call("a"), "b": call("b")}, 3)
    assert {name: len(times) for name, times in samples.items()} == {"a": 3, "b": 3}
    assert turns == "aabb" + "aabb" + "bbaa" + "aabb"  # once to know how long they take
    assert len(interleave({"a": call("a")}, 20, budget=1e-9)["a"]) == FEWEST_ROUNDS


@pytest.mark.parametrize("isa", _core.isas())
def test_the_instruction_set_is_that_asked_for(isa: str, monkeypatch: pytest.MonkeyPatch):
    seen = set()
    call = rivals.Xent.call

    def observed(self: Any, case: Case, data: Any) -> Callable[[], Any]:
        inner = call(self, case, data)
        return lambda: (seen.add(_core.isa()), inner())[1]

    monkeypatch.setattr(rivals.Xent, "call", observed)
    before = _core.isa()
    assert compare(BY_NAME["loss-32x10"], 1, isa, 1, rivals=["numpy"]).isa == isa
    relation = relate(BY_NAME["grad-32x10"], 1, isa, 1)
    assert (seen, _core.isa()) == ({isa}, before)
    assert relation.bytes_ratio == 1
    assert relation.time_per_byte_ratio == relation.time_ratio > 0
    with pytest.raises(ValueError, match="not available"), instruction_set("abacus"):
        pass


def comparison(name: str, **fields: Any) -> Comparison:
    """A measurement that was not made."""
    given = {"xent": 1e-3, "numpy": 5e-3, "torch": 2.5e-3}
    quiet = dict.fromkeys(given, 0.01)
    rounds = dict.fromkeys(given, 3)
    one = Comparison(BY_NAME[name], 2, "avx2", given, quiet, rounds, {}, 2e11)
    return replace(one, **fields)


def test_what_follows_from_a_comparison():
    one = comparison("grad-512x50257")
    assert (one.fastest_rival, one.speedup, one.yardstick) == ("torch", 2.5, "copy")
    moved = 2 * 4 * 512 * 50257 + 8 * 512
    assert one.bandwidth == moved / 1e-3
    assert one.memory_share == one.bandwidth / 2e11
    alone = replace(one, seconds={"xent": 1e-3}, memory_speed=None)
    assert (alone.fastest_rival, alone.speedup, alone.memory_share) == (None, None, None)


def test_memory_speeds_settle_at_the_median():
    others = [comparison("grad-512x50257", memory_speed=speed) for speed in (3.0, 5.0)]
    others.append(comparison("loss-512x50257", memory_speed=9.0, threads=1))
    assert MemorySpeed(2, read=7.0, copy=4.0).settled(others) == MemorySpeed(2, 7.0, 4.0)
    assert MemorySpeed(1, read=7.0, copy=4.0).settled(others) == MemorySpeed(1, 8.0, 4.0)


def test_the_cache_has_a_size():
    assert last_level_cache() >= own_cache() >= 1 << 15


# The other process.


def test_the_worker_has_the_threads_and_leaves_the_caller_alone():
    def cpus() -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    before = cpus()
    with Worker(1) as worker:
        if before > 1:
            assert worker(os.sched_getaffinity, 0) == {min(os.sched_getaffinity(0))}
        assert worker(divmod, 7, 2) == (3, 1)
        with pytest.raises(WorkerError, match="ZeroDivisionError: "):
            worker(divmod, 1, 0)
        first = worker(os.getpid)
        with pytest.raises(WorkerError, match="ended with code 3; is there enough memory"):
            worker(os._exit, 3)
        second = worker(os.getpid)
        assert len({first, second, os.getpid()}) == 3
    assert cpus() == before
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


# What is reported.


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "xent", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command(tmp_path: Path):
    """Two cases, each with two settings: table, JSON and figure."""
    pytest.importorskip("matplotlib")
    threads, isas = ("1", "2"), _core.isas()[-2:]
    done = run(
        *("grad-32x10", "loss-1x1000", "--rounds", "2", "--threads", *threads, "--isa", *isas),
        *("--rivals", "numpy", "scipy", "--markdown"),
        *("--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.svg")),
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r".* CPUs, .*; xent .*numpy .* Memory: 1 thread read [\d.]+ GB/s", done.stdout)
    header, *rows = re.findall(r"^\| (.*) \|$", done.stdout, re.MULTILINE)
    assert [name.strip() for name in header.split("|")] == [
        *("case", "threads", "isa", "xent", "numpy", "scipy"),
        *("fastest rival / xent", "GB/s", "share of roofline"),
    ]
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    settings = [[count, isa] for count in threads for isa in sorted(isas)]
    expected = [["**token**", "", ""]]
    expected += [[name, *one] for name in ("loss-1x1000", "grad-32x10") for one in settings]
    assert [row[:3] for row in cells] == expected
    for row in cells[1:]:
        assert all(re.fullmatch(r"[\d.]+ (µs|ms|s)", cell) for cell in row[3:6])
        assert re.fullmatch(r"[\d.]+ \((numpy|scipy)\)", row[6])
        assert row[8] == ""  # in the cache
    assert re.findall(r"^\[\d+/8\] (\S+)$", done.stderr, re.MULTILINE) == [
        *("loss-1x1000", "grad-32x10") * 4
    ]

    content = json.loads((tmp_path / "r.json").read_text())
    assert content.keys() == {"format", "date", "environment", "memory", "results", "failures"}
    assert content["environment"]["versions"].keys() >= {"numpy", "scipy"}
    assert [one["threads"] for one in content["memory"]] == [1, 2]
    assert all(one["read"] > 0 and one["copy"] > 0 for one in content["memory"])
    assert content["failures"] == []
    for result, row in zip(content["results"], cells[1:], strict=True):
        assert result["case"]["name"] == row[0]
        assert [str(result["threads"]), result["isa"]] == row[1:3]
        assert result["seconds"].keys() == {"xent", "numpy", "scipy"}
        assert result["rounds"] == {"xent": 2, "numpy": 2, "scipy": 2}
        assert [format_time(result["seconds"][name]) for name in result["seconds"]] == row[3:6]
        ratio = result["seconds"][result["fastest_rival"]] / result["seconds"]["xent"]
        assert result["speedup"] == ratio > 0
        assert result["bandwidth"] == result["bytes_moved"] / result["seconds"]["xent"]
        assert result["memory_share"] is None

    figure = (tmp_path / "r.svg").read_text()
    assert figure.count(">loss-1x1000, 1 thread, ") == len(isas)
    assert ">token<" in figure


def test_quick_touches_every_workload(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked: list[tuple[Case, int]] = []

    class Inline:
        """Measures nothing."""

        def __init__(self, threads: int) -> None:
            self.threads = threads

        def __enter__(self) -> Inline:
            return self

        def __exit__(self, *_: object) -> None: ...

        def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
            if function is bench.memory_speed:
                if self.threads == 7:
                    raise WorkerError("the measuring process ended with code -9")
                return MemorySpeed(self.threads, 4e10, 5e10)
            case, threads, isa, rounds, _ = arguments
            asked.append((case, rounds))
            if case.name == "loss-32x10":
                raise WorkerError("AssertionError: torch and xent disagree on loss-32x10")
            spread = {"xent": 0.5 if case.workload == "ctr" else 0.1, "numpy": 0.9, "torch": 0.1}
            one = comparison(case.name, threads=threads, isa=isa, spread=spread)
            return replace(one, left_out={"jax": "E: too old"} if case.workload == "llm" else {})

    monkeypatch.setattr(bench, "Worker", Inline)
    assert main(["bench", "--quick"]) == 1
    printed = capsys.readouterr()
    assert [case for case, _ in asked] == select((), "quick")
    assert {case.workload for case, _ in asked} == TITLES.keys() - ON_REQUEST
    assert {rounds for _, rounds in asked} == {bench.QUICK_ROUNDS}
    assert "loss-32x10" not in printed.out
    assert "error: loss-32x10: AssertionError: torch and xent disagree" in printed.err
    assert "grad-512x50257 without jax: E: too old" in printed.err
    noisy = re.search(r"^Noisy.* is anything else running\? (.*)$", printed.err, re.MULTILINE)
    assert noisy
    assert noisy[1] == "grad-50000x100-logits"
    assert "Memory: 2 threads read 40.0 GB/s" not in printed.out  # a median, of the cases' too
    assert re.search(rf"Memory: {xent.get_num_threads()} threads? read", printed.out)

    asked.clear()
    assert main(["bench", "token", "--rivals"]) == 1
    assert {rounds for _, rounds in asked} == {bench.ROUNDS}

    assert main(["bench", "--threads", "7"]) == 1
    assert capsys.readouterr().err.endswith("error: the measuring process ended with code -9\n")


def test_relative(tmp_path: Path):
    file = tmp_path / "r.json"
    done = run(
        "grad-32x10", "logsumexp-1x50257", "--relative", "--rounds", "1", "--json", str(file)
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| (logsumexp-1x50257) +\|(.*)\|$", done.stdout, re.MULTILINE)
    assert len(rows) == 1
    assert "| grad-32x10 " not in done.stdout  # is plain itself
    (result,) = json.loads(file.read_text())["results"]
    assert result["seconds"].keys() == {"case", "plain"}
    assert result["time_per_byte_ratio"] == result["time_ratio"] / result["bytes_ratio"]


def saved(file: Path, *comparisons: Comparison, version: str = "1.0") -> dict[str, Any]:
    """What an earlier run with these times, and NumPy of this version, wrote."""
    record.save(file, [], comparisons, [])
    content: dict[str, Any] = json.loads(file.read_text())
    content["environment"]["versions"] = {"numpy": version}
    return content


def test_against_an_earlier_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The machine is half as fast as it was, by NumPy's times; torch is of another version."""
    monkeypatch.setattr(against, "versions", lambda: {"numpy": "1.0", "torch": "2.0"})
    quiet = {"xent": 0.0, "numpy": 0.0, "torch": 0.0}
    then = {"xent": 1.0, "numpy": 10.0, "torch": 5.0}
    names = ("loss-32x10", "grad-32x10", "loss-1x1000", "loss-8192x1000")
    earlier = saved(
        tmp_path / "r.json", *(comparison(n, seconds=then, spread=quiet) for n in names[:3])
    )
    now = [
        comparison(
            name, seconds=then | {"xent": seconds, "numpy": 20.0}, spread=quiet | {"xent": noise}
        )
        for name, seconds, noise in zip(
            names, (2.0, 2.2, 2.2, 9.0), (0.0, 0.0, 0.2, 0.0), strict=True
        )
    ]
    found = against.compare(earlier, now)
    assert (found.machine, found.rivals) == (2.0, 3)
    assert [(one.case, one.ratio, one.verdict) for one in found.cases] == [
        ("loss-32x10", 1.0, ""),
        ("grad-32x10", 1.1, "slower"),
        ("loss-1x1000", 1.1, ""),
    ]
    assert found.summary().endswith("Slower: grad-32x10 (1.10).")
    assert found.table().rows[1] == ["grad-32x10", "1.00 s", "2.20 s", "1.10", "0%", "slower"]

    other = saved(tmp_path / "r.json", *now[:1], version="0.9")
    found = against.compare(other, now[:1])
    assert (found.machine, found.rivals) == (1.0, 0)
    assert "no rival of the same version" in found.summary()
    assert against.compare(earlier, now[3:]).summary().startswith("No case of this run")


def test_against_by_the_command(tmp_path: Path):
    """A run is compared with itself, and with one that was a hundred times faster."""
    file = tmp_path / "r.json"
    arguments = ("loss-32x10", "--rounds", "2", "--rivals", "numpy")
    assert run(*arguments, "--json", str(file)).returncode == 0
    content = json.loads(file.read_text())
    content["results"][0]["seconds"]["xent"] /= 100
    file.write_text(json.dumps(content))
    done = run(*arguments, "--against", str(file))
    assert done.returncode == 1
    assert re.search(r"Slower: loss-32x10 \([\d.]+\)\.$", done.stdout, re.MULTILINE)
    content["results"][0]["seconds"]["xent"] *= 1e4
    file.write_text(json.dumps(content))
    done = run(*arguments, "--against", str(file))
    assert done.returncode == 0, done.stderr
    assert "Slower: none." in done.stdout


def test_against_what_is_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "r.json"
    for text, message in (
        ("{", "Expecting"),
        ("[]", "expected a file of"),
        ('{"format": 0}', "format 1"),
    ):
        file.write_text(text)
        assert main(["bench", "--against", str(file)]) == 2
        assert message in capsys.readouterr().err
    assert main(["bench", "--against", str(tmp_path / "nowhere")]) == 2
    assert "No such file" in capsys.readouterr().err
    saved(file, comparison("loss-32x10"))
    assert main(["bench", "--relative", "logsumexp-1x50257", "--against", str(file)]) == 2
    assert "--relative has none" in capsys.readouterr().err


def test_the_list(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if not line.startswith(" ")]
    assert titles == [f"{name}: {title}" for name, title in TITLES.items()]
    listed = [line.split() for line in lines if line.startswith("  ")]
    assert listed == [
        [case.name] if case.tier == "all" else [case.name, case.tier] for case in CASES
    ]
    assert main(["bench", "--list", "sweep"]) == 0
    assert capsys.readouterr().out.count("8x1000000") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "error: no case or workload is called 'nothing'; --list shows them all"),
        (["loss-32x10", "--relative"], "error: none of these has a plain cross-entropy beside it"),
    ],
)
def test_wrong_names(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: 0 is below 1"),
        (["--threads", "0"], "--threads: 0 is below 1"),
        (["--isa", "abacus"], "--isa: invalid choice: 'abacus'"),
        (["--rivals", "abacus"], "--rivals: invalid choice: 'abacus'"),
        (["--json", "nowhere/r.json"], "--json: cannot write nowhere/r.json"),
        (["--plot", "nowhere/r.png"], "--plot: "),
        (["--plot", "r.txt"], "--plot: "),
        (["--quick", "--all"], "--all: not allowed with argument --quick"),
        (["--relative", "--plot", "r.png"], "--plot: not allowed with argument --relative"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments])
    assert message in capsys.readouterr().err


def test_only_numpy_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    for name in ("rich", "matplotlib", *rivals.RIVALS.keys() - {"numpy"}, "ml_dtypes"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--plot", str(tmp_path / "r.png")])
    assert "needs matplotlib: pip install rich matplotlib" in capsys.readouterr().err
    calls, left_out = contenders(small(BY_NAME["grad-512x50257-bf16"]), tuple(rivals.RIVALS), 1)
    assert (calls.keys(), left_out) == ({"xent", "numpy"}, {})
    assert bench.notes([], list(rivals.RIVALS)) == [
        "Not installed, so not compared with: scipy, sklearn, torch, jax, torch-fused, chunked, torchmetrics, numkong, dask."
    ]
    show(comparison_table([comparison("grad-32x10")]))
    assert "| grad-32x10 |" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 200])
def test_the_table_of_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    table = comparison_table([comparison("grad-32x10"), comparison("grad-512x50257")])
    show(table)
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert all(text in printed for text in ("grad-32x10", "512x50257", "token", "2.5"))
    assert ("5.00 ms" in printed) == ("numpy" in printed) == (width == 200)
    assert ("do not fit this terminal" in printed) == (width == 60)
    assert max(map(len, printed.splitlines())) <= max(width, 75)
    assert "5.00 ms" in markdown(table)


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_figure(tmp_path: Path, suffix: str, magic: bytes):
    """Bars and curves, with and without rivals, with one number of threads and several."""
    pytest.importorskip("matplotlib")
    names = ("grad-512x50257", "loss-32x10", "loss-8x1000", "grad-8x1000", "grad-8x10000")
    ones = [comparison(name, threads=threads) for name in names for threads in (1, 2)]
    ones[2] = replace(ones[2], seconds={"xent": 1e-3}, memory_speed=None)
    memory = [MemorySpeed(threads, 4e10, 5e10) for threads in (1, 2)]
    for members in (ones, ones[:4], ones[4:], [one for one in ones if one.threads == 2]):
        file = tmp_path / f"figure.{suffix}"
        draw_plot(members, memory, file)
        content = file.read_bytes()
        assert content.startswith(magic)
        assert len(content) > 5000
    if suffix == "svg":
        text = content.decode()
        assert all(f">{word}<" in text for word in ("grad-512x50257", "llm", TITLES["sweep"]))
        draw_plot(members, memory, file)
        assert file.read_bytes() == content


def test_the_figure_has_curves_over_three_numbers_of_threads(tmp_path: Path):
    pytest.importorskip("matplotlib")
    memory = [MemorySpeed(threads, 4e10, 5e10) for threads in (1, 2, 4)]
    ones = [comparison("loss-32x10", threads=one.threads) for one in memory]
    file = tmp_path / "figure.svg"
    draw_plot(ones, memory, file)
    assert ">in proportion<" in file.read_text()
    draw_plot(ones[:2], memory[:2], file)
    assert ">in proportion<" not in file.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a child alone")
def test_interrupt_ends_both_processes_quietly():
    arguments = [sys.executable, "-m", "xent", "bench", "llm", "--rivals"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr
        assert "[1/" in child.stderr.readline()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.strip() == "Interrupted."
