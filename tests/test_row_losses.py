"""Tests of all losses over rows other than the cross-entropies of logits: see `ROW_CALLS`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import xent
from calls import REDUCTIONS, ROW_CALLS, RowCall, assert_same, on_every_isa, using
from test_half import HALVES, assert_rounded
from test_layout import GUARDS, LAYOUTS, _guarded
from tolerance import assert_within, expect
from xent import _core

SHAPES = ((1, 1), (7, 10), (33, 16), (5, 130), (3, 4, 65), (4, 1025), (2, 17000))
SIZES = {
    "1..130": (*range(1, 20), *range(20, 131, 11), 31, 32, 33, 63, 64, 65, 127, 128, 129),
    "edges": (255, 256, 257, 1023, 1024, 1025, 16383, 16384, 16385, 50257),
}


@pytest.fixture(params=ROW_CALLS.values(), ids=ROW_CALLS)
def call(request: pytest.FixtureRequest) -> RowCall:
    """Run the test for every loss, in every form that its kernels have."""
    return request.param


def takes(call: RowCall, option: str) -> bool:
    """Whether the function has this option."""
    return option in getattr(xent, call.function).__kwdefaults__


def weights(call: RowCall, shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """No weights, and all that the function takes."""
    rng = np.random.default_rng(1)
    yield {}
    given = {"sample_weight": rng.uniform(0, 3, shape[:-1])}
    yield given
    if takes(call, "class_weight"):
        yield given | {"class_weight": rng.uniform(0.1, 3, shape[-1])}


def check(call: RowCall, arrays: tuple[Any, ...], what: str = "", **options: Any) -> None:
    """Hold loss and gradient to the oracle; the loss alone is the same."""
    expected = expect(call.function, *arrays, **{**call.options, **options})
    loss, grad = on_every_isa(call, *arrays, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")
    options.pop("grad_output", None)
    assert_same(call(*arrays, return_grad=False, **options), loss)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_and_reductions(dtype, call, reduction):
    for shape in ((7,), (1, 1), (5, 10), (2, 3, 33), (3, 1025)):
        for options in weights(call, shape):
            arrays = call.arrays(shape, dtype)
            what = f"{shape}, {', '.join(options)}"
            check(call, arrays, what, reduction=reduction, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_grad_output(dtype, call, reduction):
    shape = (6, 4, 17)
    upstream: Any = -1.75
    if reduction == "none":
        upstream = np.random.default_rng(4).normal(0, 2, shape[:-1])
    for options in weights(call, shape):
        arrays = call.arrays(shape, dtype)
        check(call, arrays, reduction=reduction, grad_output=upstream, **options)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_size(dtype, call, sizes):
    for classes in sizes:
        rows = 3 if classes < 2000 else 1
        check(call, call.arrays((rows, classes), dtype), f"{classes} classes", reduction="none")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout(isa, dtype, call, layout):
    for shape in SHAPES:
        arrays = call.arrays(shape, dtype)
        expected = call(*arrays, reduction="none")
        for laid in ((layout(arrays[0]), *arrays[1:]), tuple(layout(a) for a in arrays)):
            assert_same(call(*laid, reduction="none"), expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_weights(dtype, call, layout):
    arrays = call.arrays((6, 8, 10), dtype)
    weight = np.random.default_rng(0).uniform(0.5, 2, (6, 8)).astype(dtype)
    plain = {"sample_weight": weight, "grad_output": weight}
    if takes(call, "class_weight"):
        plain["class_weight"] = np.linspace(0.5, 2, 10).astype(dtype)
    viewed = {name: layout(value) for name, value in plain.items()}
    expected = call(*arrays, reduction="none", **plain)
    assert_same(call(*arrays, reduction="none", **viewed), expected)


@pytest.mark.parametrize("axis", [0, 1, -3])
def test_class_axis(isa, dtype, call, axis):
    for shape in ((4, 5, 12), (3, 2, 130), (2, 3, 1025)):
        arrays = call.arrays(shape, dtype)
        moved = tuple(
            np.ascontiguousarray(np.moveaxis(a, -1, axis)) if a.shape == shape else a
            for a in arrays
        )
        loss, grad = call(*moved, axis=axis, reduction="none")
        expected = call(*arrays, reduction="none")
        assert_same((loss, np.moveaxis(grad, axis, -1)), expected)
        one = {**call.options, "axis": axis}
        exact = expect(call.function, *moved, **one)
        assert_within(call(*moved, axis=axis)[0], exact.value, exact.value_bound)


def test_broadcast_rows(isa, dtype, call):
    for shape in ((1, 50), (1, 1000)):
        arrays = tuple(np.broadcast_to(a, (9, *a.shape[1:])) for a in call.arrays(shape, dtype))
        copies = tuple(a.copy() for a in arrays)
        assert_same(call(*arrays), call(*copies))
        one_class = np.broadcast_to(arrays[0][:, :1], arrays[0].shape)
        expected = call(one_class.copy(), *copies[1:])
        assert_same(call(one_class, *arrays[1:]), expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_buffers_are_filled_and_returned(isa, dtype, call, layout):
    if layout in (LAYOUTS["read only"], LAYOUTS["byte swapped"]):
        layout = LAYOUTS["fortran"]
    for shape in SHAPES:
        arrays = call.arrays(shape, dtype)
        expected = call(*arrays, reduction="none")
        grad_out = layout(np.zeros(shape, dtype))
        out = np.moveaxis(layout(np.zeros((*shape[:-1], 2), dtype)), -1, 0)[1]
        loss, grad = call(*arrays, reduction="none", out=out, grad_out=grad_out)
        assert loss is out
        assert grad is grad_out
        assert_same((loss, grad), expected)
        mean = np.zeros((), dtype)
        assert call(*arrays, reduction="mean", out=mean, return_grad=False) is mean
        assert_same(mean, call(*arrays, reduction="mean")[0])


def test_in_place(isa, dtype, call):
    for shape in (*SHAPES, (2, 40000)):
        for layout in (np.copy, np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
            first, *others = call.arrays(shape, dtype)
            expected = call(first, *others)
            first = layout(first)
            loss, grad = call(first, *others, grad_out=first)
            assert grad is first
            np.testing.assert_array_equal(loss, expected[0])
            np.testing.assert_array_equal(grad, expected[1])


def test_any_other_overlap_is_an_error(dtype, call):
    memory = np.full(300, 0.25, dtype)
    first = memory[100:200].reshape(10, 10)
    _, *others = call.arrays((10, 10), dtype)
    weight = np.ones(10, dtype)
    clashes: list[dict[str, Any]] = [
        {"grad_out": memory[100 + step : 200 + step].reshape(10, 10)} for step in (1, 10, -3)
    ]
    clashes += [{"grad_out": first.T}, {"grad_out": first[::-1]}, {"out": first[2]}]
    clashes += [{"out": weight, "sample_weight": weight}, {"out": weight, "grad_output": weight}]
    clashes += [{"out": memory[:10], "grad_out": memory[:100].reshape(10, 10)}]
    if others and others[0].shape == (10, 10):
        clashes += [{"grad_out": others[0]}, {"out": others[0][:, 1]}]
    for options in clashes:
        before = {name: value.copy() for name, value in options.items()}
        with pytest.raises(ValueError, match=r"out.*overlap"):
            call(first, *others, reduction="none", **options)
        for name, value in options.items():
            np.testing.assert_array_equal(value, before[name])
    assert (memory == 0.25).all()


def test_nothing_around_a_buffer_is_written(isa, dtype, call):
    for classes in (*range(1, 70, 3), 130, 1023, 1024, 1025):
        arrays = call.arrays((5, classes), dtype)
        around, losses = np.full((7, classes + 2), 7, dtype), np.full(7, 7, dtype)
        inside = around[1:-1, 1:-1]
        call(*arrays, reduction="none", out=losses[1:-1], grad_out=inside)
        inside[...] = 7
        assert (around == 7).all(), classes
        assert losses[0] == losses[-1] == 7


@pytest.mark.parametrize("side", GUARDS)
def test_nothing_beyond_an_array_is_read(isa, dtype, call, side):
    for rows in (1, 17):
        for classes in (*range(1, 70, 3), 127, 128, 129, 130, 1023, 1025):
            arrays = call.arrays((rows, classes), dtype)
            guarded = (_guarded(a, side == "end") for a in arrays)
            grad_out = _guarded(np.zeros((rows, classes), dtype), side == "end")
            assert_same(call(*guarded, grad_out=grad_out), call(*arrays))


def test_bits_on_every_isa_and_thread_count(dtype, call):
    for shape in ((1, 1), (70, 10), (33, 64), (40, 65), (9, 1025), (3, 17000), (1, 100_003)):
        arrays = call.arrays(shape, dtype)
        with using(_core.isas()[0], 1):
            expected = call(*arrays, reduction="none"), call(*arrays, reduction="mean")
        for isa in _core.isas():
            for threads in (1, 3):
                with using(isa, threads):
                    assert_same(call(*arrays, reduction="none"), expected[0])
                    assert_same(call(*arrays, reduction="mean"), expected[1])


def test_a_row_does_not_know_its_batch(isa, dtype, call):
    for classes in (2, 10, 17, 64, 65, 1025):
        arrays = call.arrays((70, classes), dtype)
        whole = call(*arrays, reduction="none")
        for part in (np.s_[:1], np.s_[3:20], np.s_[1:], np.s_[40:], np.s_[69:]):
            alone = call(*(a[part] for a in arrays), reduction="none")
            assert_same(alone, tuple(value[part] for value in whole))


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.name)
def test_halves(isa, call, half):
    """The float32 result of the same numbers; gradients are rounded once."""
    for shape in SHAPES:
        arrays = call.arrays(shape, np.dtype(np.float32))
        narrow = half.narrow(arrays[0]), *arrays[1:]
        wide = half.wide(narrow[0]), *arrays[1:]
        if call.function == "distillation_loss":
            narrow = narrow[0], half.narrow(arrays[1])
            wide = wide[0], half.wide(narrow[1])
        loss, grad = call(*narrow, reduction="none", **half.told)
        with np.errstate(all="ignore"):
            expected = call(*wide, reduction="none")
        assert loss.dtype == np.float32
        np.testing.assert_array_equal(loss, expected[0])
        assert_rounded(grad, expected[1], half)
        in_place = narrow[0].copy()
        same = call(in_place, *narrow[1:], reduction="none", grad_out=in_place, **half.told)[1]
        assert same is in_place
        np.testing.assert_array_equal(half.wide(same), half.wide(grad))


def test_class_axis_of_halves(call):
    half = HALVES[0]
    arrays = call.arrays((4, 5, 65), np.dtype(np.float32))
    arrays = tuple(half.narrow(a) if a.dtype.kind == "f" else a for a in arrays)
    expected = call(*arrays, reduction="mean")
    for axis in (0, 1):
        moved = (
            np.ascontiguousarray(np.moveaxis(a, -1, axis)) if a.ndim == 3 else a for a in arrays
        )
        loss, grad = call(*moved, axis=axis, reduction="mean")
        assert loss == expected[0]
        np.testing.assert_array_equal(np.moveaxis(grad, axis, -1), expected[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_is_the_difference_quotient_of_the_loss(call, reduction):
    shape, step = (4, 6), 1e-5
    first, *others = call.arrays(shape, np.dtype(np.float64))
    if call.function == "categorical_cross_entropy":
        # Far from 0, where the logarithm is steep, and from where it is clipped.
        first = 0.2 + 0.6 * first
    upstream = np.random.default_rng(6).normal(size=shape[0]) if reduction == "none" else 2.5
    for options in weights(call, shape):
        options = options | {"reduction": reduction}
        grad = call(first, *others, grad_output=upstream, **options)[1]
        for position in np.ndindex(shape):
            moved = np.zeros(shape)
            moved[position] = step
            up = call(first + moved, *others, return_grad=False, **options)
            down = call(first - moved, *others, return_grad=False, **options)
            quotient = np.sum((up - down) * upstream) / (2 * step)
            # The third derivative times step² / 6, and an ulp or two of the loss over the step.
            assert abs(grad[position] - quotient) < 1e-7, position


def test_a_row_of_weight_two_counts_as_two_rows(dtype, call):
    arrays = call.arrays((10, 8), dtype)
    weight = np.array([1, 2, 3, 1, 2, 1, 1, 2, 1, 0])
    repeated = [np.repeat(a, weight, axis=0) for a in arrays]
    for reduction in ("sum", "mean"):
        once = call(*arrays, sample_weight=weight, reduction=reduction)[0]
        many = call(*repeated, reduction=reduction)[0]
        np.testing.assert_allclose(once, many, rtol=4 * np.finfo(dtype).eps)


# uint16 is bits more often than numbers: test_half.py
@pytest.mark.parametrize("code", [*"bhilqBILQ", "?"])
def test_integers_become_float64(call, code):
    first = np.array([[1, 0, 0], [0, 1, 1]], code)
    others = [] if call.second is None else [first if call.aligned else np.array([0, 1])]
    loss, grad = call(first, *others)
    expected = call(*(a.astype(float) if a.shape == first.shape else a for a in (first, *others)))
    assert (loss.dtype, grad.dtype) == (np.float64, np.float64)
    assert_same((loss, grad), expected)


def test_lists_are_taken_as_arrays(call):
    arrays = call.arrays((5, 7), np.dtype(np.float64))
    assert_same(call(*(a.tolist() for a in arrays)), call(*arrays))


def test_return_value_has_the_parts_that_were_asked_for(dtype, call):
    arrays = call.arrays((4, 3), dtype)
    for reduction in ("sum", "mean"):
        assert type(call(*arrays, reduction=reduction, return_grad=False)) is dtype.type
    rows = call(*arrays, reduction="none", return_grad=False)
    assert isinstance(rows, np.ndarray)
    assert (rows.shape, rows.dtype) == ((4,), dtype)
    loss, grad = call(*arrays, reduction="mean")
    assert type(loss) is dtype.type
    assert (grad.shape, grad.dtype) == ((4, 3), dtype)
    by_default = call(*arrays, return_grad=False)
    assert np.ndim(by_default) == (call.function == "entropy")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions_are_the_exact_ones_of_the_row_losses_to_one_ulp(isa, dtype, call, reduction):
    for rows in (1, 2, 17, 1023, 1025, 40_000):
        arrays = call.arrays((rows, 7), dtype)
        losses = call(*arrays, reduction="none", return_grad=False)
        if call.function == "nll_loss":
            # The guarantee is for losses of one sign.
            arrays = -abs(arrays[0]), *arrays[1:]
            losses = call(*arrays, reduction="none", return_grad=False)
        exact = losses.astype(np.longdouble).sum() / (rows if reduction == "mean" else 1)
        actual = call(*arrays, reduction=reduction, return_grad=False)
        assert abs(np.longdouble(actual) - exact) <= np.spacing(dtype.type(exact)), rows


def test_row_of_one_dimension(dtype, call):
    arrays = call.arrays((1, 9), dtype)
    rows = call(*arrays, reduction="none")
    one = call(*(a[0] for a in arrays), reduction="none")
    assert one[0] == rows[0][0]
    assert_same(one[1], rows[1][0])
