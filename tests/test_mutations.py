"""`mutations.py`: the text that each mutation replaces is in the source, and a mutation that no test catches is reported."""

from __future__ import annotations

import re
import sys

import pytest

import mutations
from mutations import MUTATIONS, ROOT, Mutation

THREADS = Mutation(
    "there is at least one thread",
    "src/xent/runtime.py",
    "if not 1 <= count",
    "if not 0 <= count",
    "tests/test_bad_input.py -k bad_number_of_threads",
)
KEYWORDS = "tests/test_bad_input.py -k keyword_only"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guarantee)
def test_the_place_is_there(mutation):
    assert mutations.places(mutation) == 1
    assert mutation.old != mutation.new
    assert (ROOT / mutation.tests.split()[0]).is_file()


def test_guarantees_differ():
    assert len({mutation.guarantee for mutation in MUTATIONS}) == len(MUTATIONS)


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
    monkeypatch.setattr(mutations, "MUTATIONS", (THREADS._replace(**change),))
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--quick"])
    assert mutations.main() == status
    assert re.search(says, capsys.readouterr().out, re.DOTALL)


def test_what_fails_anyway_catches_nothing(monkeypatch):
    always = THREADS._replace(tests="tests/test_bad_input.py --no-such-option")
    monkeypatch.setattr(mutations, "MUTATIONS", (always,))
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--quick"])
    with pytest.raises(SystemExit, match="without any mutation"):
        mutations.main()


def test_nothing_is_no_success(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mutations.py", "no such guarantee"])
    assert mutations.main() == 1
