"""``python -m xent check``: it passes here, and each of its checks can fail."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xent
from test_cli import command
from xent import _core
from xent.cli import bits, check, main

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def test_it_passes(tmp_path: Path) -> None:
    done = command("check", "--json", str(tmp_path / "report.json"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("    ")]
    ran = len(_core.isas()) * len(check.CHECKS)
    assert len(lines) == ran
    assert all("ok" in line for line in lines)
    assert done.stdout.splitlines()[-1].startswith(f"All {ran} checks passed in ")
    assert "| xent " in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is True
    assert report["machine"]["isas available"] == list(_core.isas())
    expected = [(isa, name) for isa in _core.isas() for name in check.CHECKS]
    assert [(one["isa"], one["check"]) for one in report["checks"]] == expected
    assert all(one["ok"] and one["failures"] == [] for one in report["checks"])


def test_every_call_has_digests() -> None:
    assert list(check.recorded()) == [
        f"{name}, {np.dtype(dtype).name}" for dtype in bits.DTYPES for name in bits.CALLS
    ]


def test_a_report_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "nowhere" / "report.json"):
        with pytest.raises(SystemExit, match="2"):
            main(["check", "--json", str(file)])
        assert "--json: cannot write" in capsys.readouterr().err


Spoil = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@pytest.fixture
def report(monkeypatch: Patch, capsys: Capture, tmp_path: Path) -> Callable[[str], str]:
    """Run one check on one instruction set; return what is printed about its failure."""

    def run(name: str) -> str:
        monkeypatch.setattr(check, "CHECKS", {name: check.CHECKS[name]})
        monkeypatch.setattr(_core, "isas", lambda built=False: (_core.isa(),))
        file = tmp_path / "report.json"
        assert main(["check", "--json", str(file)]) == 1
        printed = capsys.readouterr().out
        assert "FAILED" in printed
        assert printed.splitlines()[-1].startswith("1 of 1 checks FAILED")
        content = json.loads(file.read_text())
        assert content["ok"] is content["checks"][0]["ok"] is False
        # What is printed is there in full.
        assert all(line in printed for line in content["checks"][0]["failures"][0].splitlines())
        return printed

    return run


@pytest.fixture
def spoilt(monkeypatch: Patch) -> Callable[[str, Spoil], None]:
    """Change what a function of the package returns."""

    def change(name: str, how: Spoil) -> None:
        right = getattr(xent, name)

        def wrong(*arguments: Any, **options: Any) -> Any:
            return how(right(*arguments, **options), arguments, options)

        wrong.__kwdefaults__ = right.__kwdefaults__
        monkeypatch.setattr(xent, name, wrong)

    return change


def nudged(result: Any) -> Any:
    """The result, or the first of several, with one bit of its first element changed."""
    if isinstance(result, tuple):
        return nudged(result[0]), *result[1:]
    moved = np.array(result)
    moved.reshape(-1).view(np.uint8)[0] ^= 1
    return moved[()]


def test_other_bits(report, spoilt):
    """One bit of one function."""
    spoilt("softmax", lambda result, arguments, options: nudged(result))
    printed = report("bits")
    assert "softmax, float32, (5, 3): digest " in printed
    assert "and 9 more" in printed


def test_other_digests(report, monkeypatch):
    digests = check.recorded()
    digests["kl_div, float64"] = "00000000" + digests["kl_div, float64"][8:]
    del digests["softmax, float32"]
    monkeypatch.setattr(check, "recorded", lambda: digests)
    printed = report("bits")
    assert "kl_div, float64, (5, 3): digest " in printed
    assert "expected 00000000" in printed
    assert "softmax, float32: 7 digests, expected 0" in printed


def test_bits_that_threads_change(report, spoilt):
    spoilt(
        "softmax",
        lambda result, arguments, options: (
            nudged(result) if xent.get_num_threads() == 3 else result
        ),
    )
    assert "softmax, float32, (33000, 5): 3 threads give digest " in report("threads")


def test_bits_that_layouts_change(report, spoilt):
    spoilt(
        "entropy",
        lambda result, arguments, options: (
            result if arguments[0].flags.c_contiguous else nudged(result)
        ),
    )
    printed = report("layouts")
    assert "class axis first: entropy, none, float32, (300, 10): digest " in printed


def test_bits_that_the_batch_changes(report, spoilt):
    spoilt(
        "log_softmax",
        lambda result, arguments, options: nudged(result) if len(result) > 1 else result,
    )
    assert "float32, 3 classes, rows 0:1: digest " in report("batches")


def off(name: str, place: int, relative: float) -> Spoil:
    """Return what moves one of the results of the calls that are not reduced, or are."""

    def how(result: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("reduction", "none") != name:
            return result
        if not isinstance(result, tuple):
            return result * type(result.flat[0])(1 + relative)
        moved = list(result)
        moved[place] = moved[place] * moved[place].dtype.type(1 + relative)
        return tuple(moved)

    return how


@pytest.mark.parametrize(
    ("function", "how", "message"),
    [
        ("cross_entropy", off("none", 0, 1e-5), "loss, float32, 2 classes, row 'ordinary'"),
        ("cross_entropy", off("none", 1, 1e-5), "gradient, float32, 2 classes, row 'ordinary'"),
        ("cross_entropy", off("none", 2, 1e-5), "log-sum-exp, float32, 2 classes"),
        ("cross_entropy", off("sum", 0, 1e-6), "sum, float32, 2 classes"),
        ("cross_entropy", off("mean", 0, 1e-6), "mean, float32, 2 classes"),
        ("softmax", off("none", 0, 1e-5), "softmax, float32, 2 classes, row 'ordinary'"),
    ],
    ids=("loss", "gradient", "lse", "sum", "mean", "softmax"),
)
def test_results_that_are_off(report, spoilt, function, how, message):
    spoilt(function, how)
    printed = report("accuracy")
    assert message in printed
    assert "expected " in printed
    assert " within " in printed


def test_nan_is_no_good_result(report, spoilt):
    spoilt("softmax", lambda result, arguments, options: result * np.float32("nan"))
    assert "element 0: nan, expected " in report("accuracy")


@pytest.mark.parametrize("place", [0, 1], ids=("loss", "gradient"))
def test_half_types_that_differ(report, spoilt, place):
    def how(result, arguments, options):
        if arguments[0].dtype != np.float16:
            return result
        return result[0] + (place == 0), nudged(result[1]) if place else result[1]

    spoilt("cross_entropy", how)
    printed = report("half types")
    assert f"float16, (5, 3), targets of int64: {('loss', 'gradient')[place]} [" in printed


def test_edges_that_are_not_kept(report, spoilt):
    def how(result, arguments, options):
        return (np.nan_to_num(result[0]), *result[1:]) if isinstance(result, tuple) else result

    spoilt("cross_entropy", how)
    printed = report("edges")
    assert "a masked target, float32, 3 classes: loss [0] is " in printed
    assert "expected np.float64(inf)" in printed


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (None, "target -1 of int64, float32: no IndexError"),
        (IndexError("somewhere"), "target -1 of int64, float32: the IndexError says somewhere"),
        (ValueError("bad"), "ValueError: bad"),
    ],
    ids=("nothing", "no position", "another error"),
)
def test_targets_out_of_range_that_pass(report, monkeypatch, raised, message):
    right = xent.cross_entropy

    def wrong(logits, targets, **options):
        try:
            return right(logits, targets, **options)
        except IndexError:
            options["grad_out"][...] = 0
            if raised:
                raise raised from None

    monkeypatch.setattr(xent, "cross_entropy", wrong)
    printed = report("edges")
    assert message in printed
    assert ("grad_out has been written to" in printed) == (not isinstance(raised, ValueError))


def in_the_child(action: Callable[[], Any]) -> Spoil:
    """Return what happens in another process than this one only."""
    parent = os.getpid()
    return lambda result, arguments, options: result if os.getpid() == parent else action()


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: time.sleep(60), "the child has not answered within 1 s"),
        (lambda: 1.0, "the child ends with other bits"),
        (lambda: [][0], "the child ends with exit status 2"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the child ends with exit status -9"),
    ],
    ids=("hangs", "other bits", "raises", "is killed"),
)
def test_children_that_fail(report, spoilt, monkeypatch, action, message):
    if "not answered" in message:
        monkeypatch.setattr(check, "CHILD_SECONDS", 1.0)
    spoilt("cross_entropy", in_the_child(action))
    assert message in report("fork")


if platform.machine() in ("x86_64", "AMD64"):

    def test_arithmetic_that_is_left_changed(report, spoilt):
        library = ctypes.CDLL(ctypes.util.find_library("m"))
        upward, nearest = 0x800, 0
        spoilt("softmax", lambda result, arguments, options: library.fesetround(upward) or result)
        try:
            printed = report("arithmetic")
        finally:
            library.fesetround(nearest)
        assert "softmax, (33000, 5): arithmetic gives ('0x1.5555555555556p-2'" in printed


def test_an_exception_is_a_failure(report, monkeypatch):
    monkeypatch.setitem(check.CHECKS, "bits", lambda fail: [][0])
    assert "IndexError: list index out of range" in report("bits")


def test_the_instruction_set_is_as_it_was(isa, monkeypatch):
    seen = []
    monkeypatch.setattr(check, "CHECKS", {"bits": lambda fail: seen.append(_core.isa()) or ""})
    assert main(["check"]) == 0
    assert seen == list(_core.isas())
    assert _core.isa() == isa
