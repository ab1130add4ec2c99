"""The benchmarks compare like with like: at a size that takes no time, all answers agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import xent
from cases import CASES, Case, select
from measure import contenders

BY_NAME = {case.name: case for case in CASES}


def test_names_are_unique():
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=BY_NAME)
def test_answers_agree(case: Case):
    small = replace(case, shape=tuple(min(n, 40) for n in case.shape))
    with np.errstate(all="ignore"):
        calls = contenders(small, ("xent", "numpy", "scipy", "sklearn"), xent.get_num_threads())
    assert {"xent", "numpy"} <= calls.keys()


def test_large_cases_run_only_under_their_full_names():
    large = {case.name for case in CASES if case.large}
    assert large
    assert not large & {case.name for words in ((), ("*",), ("loss",)) for case in select(words)}
    assert {case.name for case in select(large)} == large


def test_an_unknown_name_is_refused():
    with pytest.raises(LookupError, match="no case is called 'nothing'"):
        select(["nothing"])


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("grad-512x50257-focal", 1),
        ("loss-512x50257-distillation", 2),
        ("grad-512x50257-soft", 3 / 2),
        ("hess-512x50257", 3 / 2),
        ("softmax-512x50257-f64", 1),
    ],
)
def test_bytes_moved_beside_plain_cross_entropy(name: str, ratio: float):
    case = BY_NAME[name]
    assert case.bytes_moved / case.plain.bytes_moved == pytest.approx(ratio, rel=1e-3)
    assert case.plain.plain == case.plain


def test_elements_have_no_plain_cross_entropy():
    assert BY_NAME["loss-50000x100-kl_div"].plain is None
