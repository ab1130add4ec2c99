"""The library's own matrix products, which `linear_cross_entropy` of half types is made of.

The oracle is NumPy's product in float64. The bound is that of csrc/xent.h: |error| <= (512 + inner / 512) u sum |a b|. That
bits do not depend on instruction set and threads is asserted against the first of them.
"""

from __future__ import annotations

import subprocess
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent
from test_process import compiled
from xent import _core

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# (rows, inner, columns): one number; a tile that is not filled; one of each size more and less than what is packed at once.
SHAPES = [
    (1, 1, 1),
    (5, 3, 15),
    (6, 512, 16),
    (7, 513, 17),
    (13, 1030, 130),
    (1021, 65, 64),
    (2, 70, 300),
]
LAYOUTS = ("rows", "columns", "strided", "reversed")


def stored(a: np.ndarray) -> np.ndarray:
    """bfloat16 as its bits, as the library reads it."""
    return a.view(np.uint16) if a.dtype == ml_dtypes.bfloat16 else a


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """The same matrix in another place."""
    if layout == "rows":
        return np.ascontiguousarray(a)
    if layout == "columns":
        return np.asfortranarray(a)
    rows, columns = a.shape
    room = np.zeros((2 * rows, 3 * columns), a.dtype)
    view = room[::2, ::3] if layout == "strided" else room[:rows, :columns][::-1, ::-1]
    view[...] = a
    return view


def matrices(shape: tuple[int, int, int], a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    rows, inner, columns = shape
    rng = np.random.default_rng(shape)
    left, right = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
    with np.errstate(under="ignore"):
        return left.astype(DTYPES[a]), right.astype(DTYPES[b])


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.full((len(a), b.shape[1]), np.nan, np.float32)
    _core.multiply(stored(a), stored(b), out)
    return out


def assert_product(out: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    wide, inner = (a.astype(float), b.astype(float)), a.shape[1]
    bound = (512 + inner / 512) * 2.0**-24 * (np.abs(wide[0]) @ np.abs(wide[1]))
    assert (np.abs(out - wide[0] @ wide[1]) <= bound).all()


@pytest.mark.parametrize("b", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_within_the_bound(isa, shape, a, b):
    left, right = matrices(shape, a, b)
    assert_product(multiply(left, right), left, right)


@pytest.mark.parametrize("b", LAYOUTS)
@pytest.mark.parametrize("a", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_change_no_bit(isa, dtype, a, b):
    left, right = matrices((13, 530, 70), dtype, dtype)
    expected = multiply(left, right)
    assert_product(expected, left, right)
    np.testing.assert_array_equal(multiply(laid_out(left, a), laid_out(right, b)), expected)


@pytest.mark.parametrize("b", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [*SHAPES, (1030, 600, 700)], ids=str)
def test_bits_do_not_depend_on_instruction_set_and_threads(shape, b):
    left, right = matrices(shape, "bfloat16", b)
    right = np.asfortranarray(right)  # as a weight is
    found = {}
    for name in _core.isas():
        previous = _core.use_isa(name)
        try:
            for threads in (1, 2, 5) if name != "scalar" else (2,):
                with xent.num_threads(threads):
                    found[name, threads] = multiply(left, right)
        finally:
            _core.use_isa(previous)
    first, *others = found.values()
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_row_does_not_depend_on_those_beside_it(isa):
    left, right = matrices((17, 700, 33), "bfloat16", "bfloat16")
    whole = multiply(left, right)
    for i in range(17):
        np.testing.assert_array_equal(multiply(left[i : i + 1], right), whole[i : i + 1])
    for j in range(33):
        np.testing.assert_array_equal(multiply(left, right[:, j : j + 1]), whole[:, j : j + 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(isa, bad):
    left, right = matrices((7, 20, 17), "float32", "float32")
    clean = multiply(left, right)
    left[6, 3] = right[2, 16] = bad
    found = multiply(left, right)
    assert not np.isfinite(found[6]).any()
    assert not np.isfinite(found[:, 16]).any()
    np.testing.assert_array_equal(found[:6, :16], clean[:6, :16])


def test_sums_are_added_to(isa):
    left, right = matrices((9, 1100, 40), "bfloat16", "bfloat16")
    first, second = (
        multiply(left[:, :512], right[:512]),
        multiply(left[:, 512:1024], right[512:1024]),
    )
    out = first.copy()
    _core.multiply(stored(left[:, 512:1024]), stored(right[512:1024]), out, True)
    np.testing.assert_array_equal(out, first + second)
    _core.multiply(stored(left[:, :0]), stored(right[:0]), out, True)
    np.testing.assert_array_equal(out, first + second)


def test_the_product_of_nothing_is_zero():
    out = np.full((3, 5), np.nan, np.float32)
    _core.multiply(np.empty((3, 0), np.float32), np.empty((0, 5), np.float16), out)
    assert not out.any()
    _core.multiply(np.empty((0, 4), np.float32), np.empty((4, 5), np.float16), out[:0])


def test_nothing_beside_the_result_is_written(isa):
    """The result is a slice of a larger array, as a slice of classes is."""
    left, right = matrices((7, 40, 21), "float16", "bfloat16")
    room = np.full((9, 40), 7, np.float32)
    _core.multiply(stored(left), stored(right), room[1:8, 5:26])
    np.testing.assert_array_equal(room[1:8, 5:26], multiply(left, right))
    room[1:8, 5:26] = 7
    assert (room == 7).all()


def test_pairs_of_bfloat16_have_the_same_bits(tmp_path):
    """A processor may have an instruction for them, this one or another: the program computes it as it is specified."""
    program = compiled("pairs.c", tmp_path, "-Wno-unused-function", "-ffp-contract=off")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("bad", [2.0**-56, 2.0**55, 1e-39, np.inf, np.nan])
def test_numbers_out_of_the_range_of_pairs(bad):
    """One such number among others, in the first or a later group of columns, or in a row."""
    left, right = (
        a.astype(ml_dtypes.bfloat16) for a in matrices((9, 1030, 300), "float32", "float32")
    )
    right = np.asfortranarray(right)
    for at in (left, 8, 1029), (right, 600, 1), (right, 3, 290):
        a, b = left.copy(), np.asfortranarray(right)
        (a if at[0] is left else b)[at[1:]] = bad
        found = {}
        for name in _core.isas():
            previous = _core.use_isa(name)
            try:
                found[name] = multiply(a, b)
            finally:
                _core.use_isa(previous)
        first, *others = found.values()
        for other in others:
            np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize(("name", "bits"), [("float16", np.float16), ("bfloat16", np.uint16)])
def test_rounded_to_nearest_even(isa, name, bits):
    """Every half number, the middles between them, and the numbers next to these."""
    with np.errstate(all="ignore"):
        numbers = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[name]).astype(np.float32)
        steps = np.concatenate([numbers, (numbers + np.roll(numbers, 1)) / 2])
        values = np.concatenate(
            [np.nextafter(steps, np.float32(s)) for s in (-np.inf, np.inf)] + [steps]
        )
        expected = values.astype(DTYPES[name])
        out = np.empty(values.shape, bits)
        _core.round_to(out, values)
    found = out.view(DTYPES[name])
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(found.astype(np.float32)), nan)
    np.testing.assert_array_equal(found.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_linear_layer_of_half_types_has_the_same_bits_on_any_machine(dtype):
    hidden, weight = matrices((70, 96, 1100), dtype, dtype)
    weight, bias = weight.T, weight[0]
    targets = np.arange(70) * 15
    found: list[Any] = []
    for name in _core.isas():
        previous = _core.use_isa(name)
        try:
            for threads in (1, 2, 3):
                with xent.num_threads(threads):
                    found.append(
                        xent.linear_cross_entropy(
                            hidden, weight, targets, bias=bias, return_grad=True
                        )
                    )
        finally:
            _core.use_isa(previous)
    for loss, grads in found[1:]:
        assert loss == found[0][0]
        for grad, first in zip(grads, found[0][1], strict=True):
            np.testing.assert_array_equal(grad.view(np.uint16), first.view(np.uint16))
