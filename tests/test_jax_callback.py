"""xent.jax where JAX has no foreign function interface: the same bits and errors, by way of jax.pure_callback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from xent import _core

jax = pytest.importorskip("jax")
pytest.importorskip("optax")

HIDE_FFI = "import jax; del jax.ffi; "


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_warning_says_so_once():
    script = """if True:
        import warnings
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            import xent.jax, xent.jax
        print(*(f"{w.category.__name__}: {w.message}" for w in found), sep="\\n")"""
    found = run(HIDE_FFI + f"exec({script!r})").splitlines()
    assert len(found) == 1
    assert found[0].startswith(
        f"UserWarning: xent.jax: JAX {jax.__version__} has no foreign function"
    )
    assert found[0].endswith("pip install --upgrade jax")
    assert run(script) == "\n"


@pytest.mark.parametrize(
    "tests",
    [
        f"bits_are and jit and {_core.isas()[0]}",
        "vmap or scan or bad_target or checkpoint",
        "family or nothing or masked or integer or derivatives",
        "bad_probability and (float64 or under)",
    ],
)
def test_results_and_errors_are_the_same(tests):
    """Tests of test_jax.py, which compare with the bits and the errors of NumPy's xent, without the interface."""
    file = str(Path(__file__).with_name("test_jax.py"))
    options = ["-q", "-p", "no:cacheprovider", file, "-k", tests]
    run(HIDE_FFI + f"import pytest, sys; sys.exit(pytest.main({options}))")
