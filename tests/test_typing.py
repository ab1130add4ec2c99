"""A type checker sees the type of each form of a call, and refuses what is not accepted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Unneeded `type: ignore` comments are errors, so each of them marks a call that is refused.
CALLS = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import xent

Scalar = np.floating[Any]
Array = NDArray[np.floating[Any]]

z = np.zeros((2, 3), np.float32)
y = [0, 1]
loss = np.empty(2, np.float32)
sometimes = bool(z.any())
ce = xent.cross_entropy

assert_type(ce(z, y), Scalar)
assert_type(ce(z.tolist(), np.array(y), label_smoothing=0.1, temperature=2, softcap=30.0), Scalar)
assert_type(ce(z, y, reduction="sum", class_weight=[1, 2, 3], ignore_index=None), Scalar)
assert_type(ce(z, y, return_grad=True, grad_out=z, grad_output=2.0), tuple[Scalar, Array])
assert_type(ce(z, y, return_lse=True), tuple[Scalar, Array])
assert_type(ce(z, y, return_grad=True, return_lse=True), tuple[Scalar, Array, Array])
assert_type(ce(z, y, reduction="none"), Array)
assert_type(ce(z, y, reduction="none", out=loss), Array)
assert_type(ce(z, y, reduction="none", return_grad=True), tuple[Array, Array])
assert_type(ce(z, y, reduction="none", return_lse=True), tuple[Array, Array])
assert_type(
    ce(z, y, reduction="none", return_grad=True, return_lse=True), tuple[Array, Array, Array]
)
assert_type(ce(z, y, return_hess=True, hess_out=z), tuple[Scalar, Array, Array])
assert_type(ce(z, y, return_hess=True, return_lse=True), tuple[Scalar, Array, Array, Array])
assert_type(ce(z, y, return_hess=True, reduction="none"), tuple[Array, Array, Array])
assert_type(ce(z, y, return_grad=sometimes), Any)
assert_type(xent.focal_loss(z, y, gamma=1.5), Scalar)
assert_type(xent.focal_loss(z, y, return_grad=True), tuple[Scalar, Array])
assert_type(xent.focal_loss(z, y, return_hess=True, z_loss=0.1), tuple[Scalar, Array, Array])
assert_type(xent.poly1_loss(z, y, epsilon=1, reduction="none"), Array)
assert_type(xent.binary_cross_entropy(z, z, eps=1e-7), Scalar)
assert_type(xent.binary_cross_entropy(z, z, return_grad=True), tuple[Scalar, Array])
bce = xent.binary_cross_entropy_with_logits
assert_type(bce(z, z, pos_weight=[1, 2, 3], reduction="sum"), Scalar)
assert_type(bce(z, z, return_hess=True, hess_out=z), tuple[Scalar, Array, Array])
assert_type(xent.sigmoid_focal_loss(z, z, alpha=None, reduction="none"), Array)
assert_type(
    xent.sigmoid_focal_loss(z, z, reduction="none", return_hess=True), tuple[Array, Array, Array]
)
assert_type(xent.kl_div(z, z, reduction="batchmean", log_target=True), Scalar)
assert_type(xent.kl_div(z, z, reduction="batchmean", return_grad=True), tuple[Scalar, Array])
assert_type(xent.poly1_loss(z, y, return_grad=True), tuple[Scalar, Array])
assert_type(xent.nll_loss(z, y), Scalar)
assert_type(xent.nll_loss(z, z, class_weight=[1, 2, 3], reduction="none"), Array)
assert_type(xent.nll_loss(z, y, return_grad=True, grad_out=z), tuple[Scalar, Array])
assert_type(xent.categorical_cross_entropy(z, y, eps=1e-7), Scalar)
assert_type(xent.categorical_cross_entropy(z, y, reduction="none", out=loss), Array)
assert_type(xent.categorical_cross_entropy(z, z, return_grad=True), tuple[Scalar, Array])
assert_type(xent.entropy(z), Array)
assert_type(xent.entropy(z, reduction="mean", temperature=2), Scalar)
assert_type(xent.entropy(z, return_grad=True), tuple[Array, Array])
assert_type(xent.entropy(z, reduction="sum", return_grad=True), tuple[Scalar, Array])
assert_type(xent.distillation_loss(z, z, temperature=4.0), Scalar)
assert_type(xent.distillation_loss(z, z, reduction="none"), Array)
assert_type(xent.distillation_loss(z, z, return_grad=True), tuple[Scalar, Array])
lce = xent.linear_cross_entropy
assert_type(lce(z, z, y, z_loss=0.1), Scalar)
assert_type(lce(z, z, y, bias=[1, 2]), Scalar)
assert_type(lce(z, z, y, return_grad=True), tuple[Scalar, tuple[Array, Array]])
assert_type(
    lce(z, z, y, return_grad=True, bias=[1, 2], grad_out=(z, None, None)),
    tuple[Scalar, tuple[Array, Array, Array]],
)
assert_type(lce(z, z, y, reduction="none", out=loss), Array)
assert_type(
    lce(z, z, y, reduction="none", return_grad=True, grad_out=(None, z)),
    tuple[Array, tuple[Array, Array]],
)
assert_type(
    lce(z, z, y, bias=loss, reduction="none", return_grad=True),
    tuple[Array, tuple[Array, Array, Array]],
)
assert_type(lce(z, z, y, return_grad=sometimes), Any)
assert_type(xent.token_log_probs(z, y), Array)
assert_type(xent.token_log_probs(z, y, reduction="mean", ignore_index=0), Scalar)
assert_type(xent.perplexity(z, y, sample_weight=[1, 0]), Scalar)
assert_type(xent.logsumexp(z), Scalar)
assert_type(xent.logsumexp(z, axis=1), Array)
assert_type(xent.logsumexp(z, keepdims=True), Array)
assert_type(xent.logsumexp(z, b=[1, 2, -1]), Scalar)
assert_type(xent.logsumexp(z, 1, z), Array)
assert_type(xent.logsumexp(z, axis=1, b=z, return_sign=True), tuple[Array, Array])
assert_type(xent.softmax(z, axis=-1, out=z), Array)
assert_type(xent.log_softmax([1, 2], axis=(0,)), Array)
assert_type(xent.get_num_threads(), int)
with xent.num_threads(1):
    pass

ce(z, y, -1)  # type: ignore[call-overload]
ce(z, y, temprature=2.0)  # type: ignore[call-overload]
ce(z, y, label_smoothing="0.1")  # type: ignore[call-overload]
xent.kl_div(z, z, return_hess=True)  # type: ignore[call-overload]
xent.poly1_loss(z, y, return_hess=True)  # type: ignore[call-overload]
xent.token_log_probs(z, y, class_weight=[1, 2, 3])  # type: ignore[call-overload]
xent.nll_loss(z, y, temperature=2.0)  # type: ignore[call-overload]
xent.nll_loss(z, y, eps=1e-7)  # type: ignore[call-overload]
xent.entropy(z, z)  # type: ignore[call-overload]
xent.distillation_loss(z, z, softcap=30.0)  # type: ignore[call-overload]
lce(z, z, y, axis=1)  # type: ignore[call-overload]
lce(z, z, y, return_hess=True)  # type: ignore[call-overload]
lce(z, z, y, return_grad=True, grad_out=z)  # type: ignore[call-overload]
xent.softmax(z, axis="last")  # type: ignore[arg-type]
xent.set_num_threads("2")  # type: ignore[arg-type]
"""


def test_types_of_the_public_functions(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "calls.py").write_text(CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "calls.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
