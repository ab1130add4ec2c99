"""The scripts that measure errors for docs/accuracy.md, on a few arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("arguments", "results"),
    [
        (["evidence.py", "--rows", "300", "softmax", "target"], 12),
        (["ulp.py", "--every", "99991"], 14),
    ],
)
def test_script_finds_everything_within_its_bound(arguments, results):
    script, *rest = arguments
    done = subprocess.run(
        [sys.executable, HERE / script, *rest], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + results
