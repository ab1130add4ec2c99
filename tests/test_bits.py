"""Results have the same bits on every instruction set, with any number of threads, in any batch."""

from __future__ import annotations

import json
import zlib
from functools import cache

import numpy as np
import pytest

import digest
import inputs
import xent
from calls import FAMILY, assert_same, using
from xent import _core


def test_every_call_has_a_digest():
    expected = json.loads(digest.FILE.read_text())
    assert list(expected) == [
        f"{name}, {np.dtype(dtype).name}" for name in digest.CALLS for dtype in digest.DTYPES
    ]


def test_bits_are_those_checked_in(isa):
    found = digest.digests()
    recorded = json.loads(digest.FILE.read_text())
    assert [name for name in recorded if found[name] != recorded[name]] == []


@cache
def _serial_digests() -> dict[str, str]:
    with using(_core.isas()[0], 1):
        return digest.digests(digest.SHARED)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_threads_that_share_a_call_change_no_bits(isa, n):
    expected = _serial_digests()
    with using(isa, n):
        assert digest.digests(digest.SHARED) == expected


def _checksums() -> list[tuple[tuple[int, int], int]]:
    """Return a checksum of loss and gradient for each of ten thousand shapes."""
    rng = np.random.default_rng(11)
    numbers = rng.normal(0, 4, 40_000)
    pools = [numbers.astype(np.float32), numbers]
    found = []
    for i in range(10_000):
        classes = int(2.0 ** rng.uniform(0, 11))
        rows = int(2.0 ** rng.uniform(0, min(7, 15 - np.log2(classes))))
        start = rng.integers(0, 100)
        logits = pools[i % 2][start : start + rows * classes].reshape(rows, classes)
        targets = rng.integers(0, classes, rows)
        loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
        found.append(((rows, classes), zlib.crc32(grad.tobytes(), zlib.crc32(loss.tobytes()))))
    return found


@cache
def _serial_checksums() -> list[tuple[tuple[int, int], int]]:
    with using(_core.isas()[0], 1):
        return _checksums()


@pytest.mark.parametrize("n", [1, 3])
def test_ten_thousand_shapes(isa, n):
    expected = _serial_checksums()
    with using(isa, n):
        assert _checksums() == expected


@pytest.mark.parametrize("classes", [2, 3, 10, 16, 17, 63, 64, 65, 130, 1025])
def test_a_row_does_not_know_its_batch(isa, dtype, classes):
    logits, targets = inputs.batch((70, classes), dtype)
    soft = inputs.soft_targets(logits.shape, dtype)
    call = {"reduction": "none", "return_grad": True, "return_lse": True}
    whole = xent.cross_entropy(logits, targets, **call)
    whole_soft = xent.cross_entropy(logits, soft, **call)
    family = {name: getattr(xent, name)(logits, axis=-1) for name in FAMILY}
    for part in (*(np.s_[i : i + 1] for i in range(70)), np.s_[3:20], np.s_[1:], np.s_[40:]):
        alone = xent.cross_entropy(logits[part], targets[part], **call)
        assert_same(alone, tuple(value[part] for value in whole))
        alone = xent.cross_entropy(logits[part], soft[part], **call)
        assert_same(alone, tuple(value[part] for value in whole_soft))
        for name in FAMILY:
            assert_same(getattr(xent, name)(logits[part], axis=-1), family[name][part])


def test_masked_classes_at_the_end_change_no_bit_of_the_loss(isa, dtype):
    """Adding -inf up to the end of a block only lengthens the tail."""
    for classes in (1, 7, 33, 100, 1000):
        logits, targets = inputs.batch((9, classes), dtype)
        loss = xent.cross_entropy(logits, targets, reduction="none")
        for extra in (1, 5, 24):
            padded = np.pad(logits, ((0, 0), (0, extra)), constant_values=-np.inf)
            assert_same(xent.cross_entropy(padded, targets, reduction="none"), loss)


def test_calls_repeat_to_the_bit(isa, dtype):
    logits, targets = inputs.batch((300, 1000), dtype)
    first = xent.cross_entropy(logits, targets, return_grad=True)
    for _ in range(5):
        assert_same(xent.cross_entropy(logits, targets, return_grad=True), first)
