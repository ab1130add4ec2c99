"""The stages of the C interface over shards of the classes: the bits of whole calls, or their results within rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from test_process import compiled, printed
from xent import _core, stages


def test_stages_are_those_of_whole_calls(tmp_path: Path) -> None:
    program = compiled("stages.c", tmp_path)
    for isa in _core.isas():
        assert printed(program, XENT_ISA=isa).endswith("checks, 0 failures\n")


@pytest.mark.parametrize("axis", [0, -1])
def test_sums_of_another_call_are_refused(axis):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(6, 6)), np.arange(6)[::-1].copy()
    sums = stages.reduce(z, y, axis=axis)
    wrong = "another target, other logits, or another softcap or class_bias"
    for logits, targets, given, options, says in (
        (z, y, stages.reduce(z, y, axis=axis, class_bias=np.arange(6.0)), {}, wrong),
        (z, y, stages.reduce(z, y, axis=axis, softcap=1.0), {}, wrong),
        (z, y, sums, {"softcap": 1.0}, wrong),
        (z, (y + 1) % 6, sums, {}, wrong),
        (2 * z, y, sums, {}, wrong),
        (z, np.eye(6)[y], sums, {}, "they are of class indices"),
        (z, y, stages.reduce(z, np.eye(6)[y], axis=axis), {}, "they are of class probabilities"),
    ):
        out = np.full_like(z, 7)
        with pytest.raises(ValueError, match=rf"^sums: .*{says}"):
            stages.apply(logits, given, targets, nll=1.0, axis=axis, grad_out=out, **options)
        assert (out == 7).all()
