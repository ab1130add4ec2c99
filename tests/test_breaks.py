"""`breaks.py`: the places of its breaks are there, and it tells what nothing catches."""

from __future__ import annotations

import re
import sys

import pytest

import breaks
from breaks import BREAKS, ROOT, Break

THREADS = Break(
    "there is at least one thread",
    "src/xent/runtime.py",
    "if not 1 <= count",
    "if not 0 <= count",
    "tests/test_bad_input.py -k bad_number_of_threads",
)
KEYWORDS = "tests/test_bad_input.py -k keyword_only"


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.promise)
def test_the_place_is_there(broken):
    assert breaks.places(broken) == 1
    assert broken.old != broken.new
    assert (ROOT / broken.tests.split()[0]).is_file()


def test_promises_differ():
    assert len({broken.promise for broken in BREAKS}) == len(BREAKS)


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({}, 0, r"caught .*test_bad_input\.py::test_bad_number_of_threads\[0-.*, 0 not caught"),
        ({"tests": KEYWORDS}, 1, f"SURVIVES .*not caught by pytest {KEYWORDS}.*, 1 not caught"),
        ({"old": "if not 7 <="}, 1, "gone .*0 places hold 'if not 7 <='.*, 1 not caught"),
    ],
    ids=("caught", "survives", "gone"),
)
def test_report(monkeypatch, capsys, change, status, says):
    monkeypatch.setattr(breaks, "BREAKS", (THREADS._replace(**change),))
    monkeypatch.setattr(sys, "argv", ["breaks.py", "--quick"])
    assert breaks.main() == status
    assert re.search(says, capsys.readouterr().out, re.DOTALL)


def test_what_fails_anyway_catches_nothing(monkeypatch):
    always = THREADS._replace(tests="tests/test_bad_input.py --no-such-option")
    monkeypatch.setattr(breaks, "BREAKS", (always,))
    monkeypatch.setattr(sys, "argv", ["breaks.py", "--quick"])
    with pytest.raises(SystemExit, match="without any break"):
        breaks.main()


def test_nothing_is_no_success(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["breaks.py", "no such promise"])
    assert breaks.main() == 1
