"""xent.mpi in MPI programs of one to eight processes: the values of a single one, the same bits, errors on every rank.

XENT_MPI_CASES sets how many random cases of bits and of failures there are: 1,000 take some minutes each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

pytest.importorskip("mpi4py")
# That of the environment goes with its MPI library.
BESIDE = Path(sys.executable).parent / "mpiexec"
MPIEXEC = str(BESIDE) if BESIDE.exists() else which("mpiexec")
if MPIEXEC is None:
    pytest.skip("could not find mpiexec", allow_module_level=True)

RANKS = (1, 2, 3, 4)
DTYPES = ("float16", "float32", "float64")
CASES = os.environ.get("XENT_MPI_CASES", "60")
SECONDS = 120 + int(CASES)


def run(ranks: int, *check: str, program: str = "mpi_ranks.py") -> str:
    """Run a check on so many ranks; a deadlock is a timeout."""
    path = str(Path(__file__).with_name(program))
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-W", "error", path, *check]
    # There may be more ranks than cores: MPICH's then let each other run.
    environment = os.environ | {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            # mpiexec ends its ranks when it is asked to, not when it is killed.
            process.terminate()
            pytest.fail(f"no answer within {SECONDS} s: {process.communicate()[0]}")
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_options_are_those_of_one_process(ranks, dtype):
    run(ranks, "options", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", RANKS)
def test_functions_are_those_of_one_process(ranks, dtype):
    run(ranks, "functions", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("block", ["20", "4"])
def test_linear_is_that_of_one_process(ranks, dtype, block):
    run(ranks, "linear", dtype, block)


def test_grids_of_rows_and_classes():
    run(4, "grid")


@pytest.mark.parametrize("ranks", RANKS)
def test_masks_empty_rows_and_bfloat16(ranks):
    run(ranks, "edges")


@pytest.mark.parametrize("ranks", RANKS)
def test_slices_of_any_size_and_order(ranks):
    run(ranks, "layouts")


@pytest.mark.parametrize("ranks", [2, 3])
def test_at_most_80_bytes_of_a_row_travel(ranks):
    run(ranks, program="mpi_traffic.py")


def test_bits_do_not_depend_on_the_number_of_ranks():
    assert run(8, CASES, program="mpi_bits.py").startswith("0 of ")


def test_any_rank_may_fail_at_any_step():
    assert run(4, CASES, program="mpi_failures.py").startswith(f"{CASES} failures, no deadlock")


@pytest.mark.parametrize("ranks", RANKS)
def test_errors_are_raised_on_every_rank(ranks):
    run(ranks, "errors")


@pytest.mark.parametrize("ranks", RANKS)
def test_injected_failures_are_raised_on_every_rank(ranks):
    run(ranks, "injected")


def test_import_without_mpi4py_says_what_to_install():
    script = "import sys; sys.modules['mpi4py'] = None; import xent; import xent.mpi"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError: xent.mpi needs mpi4py: pip install mpi4py" in done.stderr
