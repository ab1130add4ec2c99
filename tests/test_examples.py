"""The examples run, and reach the accuracy that they state."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_digits() -> None:
    pytest.importorskip("sklearn")
    done = run(str(EXAMPLES / "digits.py"))
    assert (done.returncode, done.stderr) == (0, "")
    accuracy = re.search(r"accuracy +([\d.]+)%", done.stdout)
    log_loss = re.search(r"log-loss +([\d.]+) nats", done.stdout)
    assert accuracy
    assert log_loss
    assert float(accuracy[1]) > 95
    assert float(log_loss[1]) < 0.3


def test_digits_says_what_is_missing() -> None:
    script = (
        "import runpy, sys; sys.modules['sklearn'] = sys.modules['sklearn.datasets'] = None; "
        f"runpy.run_path({str(EXAMPLES / 'digits.py')!r})"
    )
    done = run("-c", script)
    assert done.returncode == 1
    assert done.stderr == "The images come with scikit-learn: pip install scikit-learn\n"
