"""Every public function has an oracle, a tolerance, a benchmark case and recorded bits."""

from __future__ import annotations

import pytest

import xent
from reference import ORACLES
from tolerance import BOUNDS
from xent.cli import bits
from xent.cli.bench.workloads import CASES

# Public names that compute nothing.
RUNTIME = {
    "get_include",
    "get_library",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "set_pool_bytes",
    "show_config",
}
# What surrounds a loss: each has tests of its own, with the definition as the oracle.
AROUND = {"LossScaler", "log_sigmoid", "one_hot", "score", "sigmoid", "smooth_labels"}
OPERATIONS = sorted(
    name for name in xent.__all__ if name not in RUNTIME | AROUND and not name.startswith("__")
)
# The last bits of products depend on BLAS and the machine, so none are recorded. test_linear.py compares the loss and the
# gradient of the logits with the bits of cross_entropy on inputs whose products and sums are exact.
OF_BLAS = {"info_nce", "linear_cross_entropy", "sigmoid_contrastive_loss"}
BENCHMARKED = {case.function for case in CASES}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_an_oracle(name):
    assert name in ORACLES


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_a_tolerance(name):
    assert name in BOUNDS


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_a_benchmark_case(name):
    assert name in BENCHMARKED


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_its_bits_recorded(name):
    recorded = any(call.split(",")[0] == name for call in bits.CALLS)
    assert recorded != (name in OF_BLAS)


def test_only_public_operations_have_oracles_and_tolerances():
    assert set(ORACLES) == set(BOUNDS) == set(OPERATIONS)


def test_public_names_are_those_listed():
    assert set(xent.__all__) >= RUNTIME | AROUND
    assert all(hasattr(xent, name) for name in xent.__all__)
    assert len(set(xent.__all__)) == len(xent.__all__)
