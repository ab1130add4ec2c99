"""`linear_cross_entropy`: cross-entropy of hidden @ weight.T + bias, whose logits are never all in memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import inputs
import xent
from calls import OPTIONS, REDUCTIONS, assert_same
from test_half import HALVES
from test_layout import LAYOUTS
from tolerance import assert_within, expect
from xent import _linear, _shards
from xent._blocks import bfloat16_bits, float16

NAMES = ("hidden", "weight", "bias")
linear = xent.linear_cross_entropy


def problem(
    shape: tuple[int, ...], features: int, dtype: Any, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hidden states, weight and bias that give logits of this shape, ordinary ones."""
    rng = np.random.default_rng([seed, features, *shape])
    scale = 3 / max(1, features) ** 0.5
    hidden = rng.normal(0, scale, (*shape[:-1], features))
    weight, bias = rng.normal(size=(shape[-1], features)), rng.normal(size=shape[-1])
    return hidden.astype(dtype), weight.astype(dtype), bias.astype(dtype)


def exact_problem(
    shape: tuple[int, ...], features: int, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of small multiples of 1/8, so that every product and sum is exact in any order."""
    rng = np.random.default_rng([features, *shape])
    hidden, weight, bias = (
        rng.integers(-8, 9, size) / 8
        for size in ((*shape[:-1], features), (shape[-1], features), shape[-1:])
    )
    return hidden.astype(dtype), weight.astype(dtype), bias.astype(dtype)


def targets_of(kind: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Class indices, or class probabilities, for logits of this shape."""
    soft = kind == "soft"
    return inputs.soft_targets(shape, dtype) if soft else inputs.batch(shape, dtype)[1]


def check(*arrays: Any, what: str = "", **options: Any) -> None:
    """Hold loss and gradients to the oracle; the loss alone is the same."""
    expected = expect("linear_cross_entropy", *arrays, **options)
    loss, grads = linear(*arrays, return_grad=True, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert len(grads) == len(expected.grad)
    for name, grad, exact, bound in zip(
        NAMES, grads, expected.grad, expected.grad_bound, strict=False
    ):
        assert_within(grad, exact, bound, f"gradient of {name} {what}")
    options.pop("grad_output", None)
    assert_same(linear(*arrays, **options), loss)


@pytest.fixture(params=[(1, 1, 1), (1, 3, 64), (1, 1000, 100), (1 << 12, 5, 1 << 9)], ids=str)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of so many bytes or rows, slices of so many bytes: a row or a class at a time."""
    for name, value in zip(
        ("BLOCK_BYTES", "BLOCK_ROWS", "SLICE_BYTES"), request.param, strict=True
    ):
        monkeypatch.setattr(_linear, name, value)
    monkeypatch.setattr(_linear, "are_few", lambda *factors: False)


# Values.


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("option", OPTIONS)
def test_option(dtype, option, kind, reduction):
    for shape, features in (((7, 10), 5), ((1, 1), 1), ((2, 3, 33), 16), ((5, 130), 8)):
        hidden, weight, bias = problem(shape, features, dtype)
        targets, given = targets_of(kind, shape, dtype), OPTIONS[option](shape)
        for added in ({}, {"bias": bias}):
            call = {**given, **added, "reduction": reduction}
            check(hidden, weight, targets, what=f"{shape} {[*added]}", **call)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_grad_output(dtype, kind, reduction):
    shape = (6, 4, 17)
    hidden, weight, bias = problem(shape, 5, dtype)
    upstream: Any = -1.75
    if reduction == "none":
        upstream = np.random.default_rng(4).normal(0, 2, shape[:-1])
    for option in ("plain", "weights", "everything"):
        given = OPTIONS[option](shape) | {"reduction": reduction, "grad_output": upstream}
        check(hidden, weight, targets_of(kind, shape, dtype), bias=bias, **given)


@pytest.mark.parametrize("lead", [(), (1,), (9,), (2, 3), (2, 1, 4)])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_leading_axes(dtype, kind, lead):
    hidden, weight, bias = problem((*lead, 7), 4, dtype)
    targets = targets_of(kind, (*lead, 7), dtype)
    for reduction in REDUCTIONS:
        check(hidden, weight, targets, bias=bias, reduction=reduction)
    loss, grads = linear(hidden, weight, targets, reduction="none", return_grad=True)
    assert (loss.shape, loss.dtype) == (lead, dtype)
    assert [g.shape for g in grads] == [hidden.shape, weight.shape]


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_loss_and_gradient_have_the_bits_of_cross_entropy_where_products_are_exact(dtype, kind):
    for shape in ((70, 10), (9, 65), (3, 1025), (2, 3, 130)):
        hidden, weight, bias = exact_problem(shape, 6, dtype)
        targets, logits = targets_of(kind, shape, dtype), hidden @ weight.T + bias
        for name in ("plain", "everything"):
            given = OPTIONS[name](shape) | {"reduction": "none"}
            expected = xent.cross_entropy(logits, targets, **given)
            assert_same(linear(hidden, weight, targets, bias=bias, **given), expected)
            # Of the unit matrix: the gradient comes back as it is.
            one = np.eye(shape[-1], dtype=dtype)
            loss, grads = linear(logits, one, targets, return_grad=True, **given)
            expected = xent.cross_entropy(logits, targets, return_grad=True, **given)
            np.testing.assert_array_equal(loss, expected[0])
            np.testing.assert_array_equal(grads[0], expected[1])


def test_gradients_are_the_difference_quotients_of_the_loss():
    shape, features, step = (5, 6), 3, 1e-5
    arrays = dict(zip(NAMES, problem(shape, features, float), strict=True))
    for kind, reduction in (("index", "mean"), ("soft", "sum"), ("index", "none")):
        targets = targets_of(kind, shape, float)
        upstream = np.linspace(-1, 2, 5) if reduction == "none" else 2.5
        options = OPTIONS["everything"](shape) | {"reduction": reduction}

        def total(given: Any, targets: Any = targets, options: Any = options) -> Any:
            h, w, b = given.values()
            return linear(h, w, targets, bias=b, **options)

        h, w, b = arrays.values()
        grads = linear(h, w, targets, bias=b, return_grad=True, grad_output=upstream, **options)[1]
        for (name, value), grad in zip(arrays.items(), grads, strict=True):
            for at in np.ndindex(value.shape):
                moved = np.zeros_like(value)
                moved[at] = step
                up, down = (total(arrays | {name: value + s * moved}) for s in (1, -1))
                quotient = np.sum((up - down) * upstream) / (2 * step)
                # The third derivative times step² / 6, and some ulp of the loss over the step.
                assert abs(grad[at] - quotient) < 1e-7, (name, at)


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_blocks(dtype, kind, small_blocks):
    """Their number changes no more than the order of sums: the bounds hold, and exact sums agree."""
    for shape in ((1, 3), (23, 7), (4, 5, 9)):
        targets = targets_of(kind, shape, dtype)
        if kind == "index":
            targets.flat[1::3] = -100
        hidden, weight, bias = problem(shape, 6, dtype)
        for name in ("plain", "everything"):
            for reduction in REDUCTIONS:
                given = OPTIONS[name](shape) | {"reduction": reduction, "bias": bias}
                check(hidden, weight, targets, what=f"{shape} {name}", **given)
        for cast in (np.float16, int, ">f4"):
            with np.errstate(all="ignore"):
                small = [(8 * a).astype(cast) for a in (hidden, weight, bias)]
            loss, _ = linear(*small[:2], targets, bias=small[2], return_grad=True)
            wide = [a.astype(np.float64) for a in small]
            expected, *_ = linear(*wide[:2], targets, bias=wide[2], return_grad=True)
            np.testing.assert_allclose(loss, expected, rtol=1e-4)
            check(*small[:2], targets, bias=small[2], what=str(cast))


def test_rows_need_not_fill_their_blocks(monkeypatch):
    """A million rows of two classes: hidden states count for the size of a block, too."""
    monkeypatch.setattr(_linear, "BLOCK_ROWS", 1)
    monkeypatch.setattr(_linear, "BLOCK_BYTES", 8 * 16 * 100)
    sizes = []
    load = _linear.Linear.load

    def seen(self: Any, block: Any) -> Any:
        found = load(self, block)
        sizes.append(len(self.states))
        return found

    monkeypatch.setattr(_linear.Linear, "load", seen)
    hidden, weight, _ = problem((1001, 2), 16, float)
    targets = targets_of("index", (1001, 2), float)
    check(hidden, weight, targets)
    assert set(sizes) == {91}


@pytest.fixture(params=["kept", "again", "rows"])
def small_shards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that are all kept, or where the gradient of the weight will be alone; three rows at a time."""
    constants = dict.fromkeys(
        ("OWN_BYTES", "BLAS_BYTES", "BLAS_LOSS_BYTES", "THREAD_BYTES", "WHOLE_BYTES"), 1
    )
    if request.param == "again":
        constants |= {"EXTRA_BYTES": 0, "KEPT_OF_ALL": 1}
    if request.param == "rows":
        constants |= {"OWN_ROWS": 3, "BLAS_ROWS": 3}
    for name, value in constants.items():
        monkeypatch.setattr(_shards, name, value)


DIVIDED = [((5, 1025), 3), ((2, 3, 3000), 5), ((3, 17_500), 2), ((2, 1, 35_000), 6)]


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("option", OPTIONS)
def test_shards(dtype, option, kind, small_shards):
    for shape, features in DIVIDED if option == "everything" else DIVIDED[:2]:
        hidden, weight, bias = problem(shape, features, dtype)
        targets, given = targets_of(kind, shape, dtype), OPTIONS[option](shape)
        for reduction in REDUCTIONS:
            check(hidden, weight, targets, what=f"{shape}", bias=bias, reduction=reduction, **given)
        # In parts, which BLAS may sum in another order: to the bit where sums are exact.
        hidden, weight, bias = exact_problem(shape, features, dtype)
        expected = xent.cross_entropy(hidden @ weight.T + bias, targets, reduction="none", **given)
        found = linear(hidden, weight, targets, bias=bias, reduction="none", **given)
        assert_same(found, expected)


@pytest.mark.parametrize("half", HALVES[:2], ids=lambda half: half.name)
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_shards_change_no_bit_of_half_types(half, kind, small_shards):
    for shape, features in DIVIDED:
        hidden, weight, bias = (half.narrow(a) for a in problem(shape, features, np.float32))
        targets = targets_of(kind, shape, np.float32)
        if kind == "index":
            targets.flat[1::3] = -100
        given = OPTIONS["everything"](shape) | {"bias": bias, "reduction": "sum"}
        found = linear(hidden, weight, targets, return_grad=True, **given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_linear, "shards_of", lambda linear, rows: None)
            whole = linear(hidden, weight, targets, return_grad=True, **given)
        assert_same(found[0], whole[0])
        assert_same(found[1], whole[1])


def test_shards_in_place(small_shards):
    hidden, weight, bias = problem((6, 3000), 4, float)
    targets = targets_of("index", (6, 3000), float)
    expected = linear(hidden, weight, targets, bias=bias, return_grad=True)
    given = hidden.copy()
    loss, grads = linear(
        given, weight, targets, bias=bias, return_grad=True, grad_out=(given, None, None)
    )
    assert grads[0] is given
    assert_same(loss, expected[0])
    for grad, wanted in zip(grads, expected[1], strict=True):
        assert_same(grad, wanted)


def test_costs_beyond_the_range_of_a_sum_in_shards(small_shards):
    """Smoothed labels of logits near the end of float32's range: the sum of their costs is beyond it, the loss is not."""
    hidden = np.array([[1], [0.5], [1]], np.float32)
    weight = np.linspace(-1e37, 1e37, 3000, dtype=np.float32)[:, np.newaxis]
    targets = np.array([2999, 0, 1])
    logits = hidden @ weight.T
    given = {"label_smoothing": 0.25, "reduction": "none"}
    expected = xent.cross_entropy(logits, targets, **given)
    assert np.isfinite(expected).all()
    assert_same(linear(hidden, weight, targets, **given), expected)
    assert_same(linear(hidden, weight, targets, return_grad=True, **given)[0], expected)


# Rows that do not count.


def test_ignored_rows_cost_no_product(monkeypatch):
    hidden, weight, _ = problem((100, 5), 4, float)
    targets, rows = targets_of("index", (100, 5), float), []
    targets[10:95] = 3
    matmul = np.matmul
    monkeypatch.setattr(
        np, "matmul", lambda a, b, **out: rows.append(a.shape) or matmul(a, b, **out)
    )
    linear(hidden, weight, targets, ignore_index=3, return_grad=True)
    left = np.count_nonzero(targets != 3)
    assert rows == [(left, 4), (5, left), (left, 5)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lead", [(12,), (3, 4)])
@pytest.mark.parametrize("how", ["ignored", "weightless", "cancelled"])
def test_rows_that_do_not_count_poison_nothing(dtype, how, lead, bad):
    hidden, weight, bias = problem((*lead, 5), 3, dtype)
    targets = targets_of("index", (*lead, 5), dtype)
    spoilt = np.zeros(lead, bool)
    spoilt.flat[1::3] = True
    hidden[spoilt] = bad
    options: dict[str, Any] = {"bias": bias, "reduction": "sum", "z_loss": 0.1}
    if how == "ignored":
        targets[spoilt] = 2
        options["ignore_index"] = 2
    elif how == "weightless":
        options["sample_weight"] = np.where(spoilt, 0, 0.5)
    else:
        # Weights whose sum is 0: a mean of nothing.
        options |= {
            "reduction": "mean",
            "sample_weight": np.where(np.arange(12) % 2, 1, -1).reshape(lead),
        }
    loss, grads = linear(hidden, weight, targets, return_grad=True, **options)
    assert (grads[0][spoilt] == 0).all()
    assert all(np.isfinite(grad).all() for grad in grads)
    if how in ("ignored", "weightless"):
        assert np.isfinite(loss)
        check(hidden, weight, targets, **options)
    else:
        assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("lead", [(), (0,), (4,), (0, 3), (2, 3)])
def test_nothing_counts(dtype, lead):
    hidden, weight, bias = problem((*lead, 5), 3, dtype)
    ignored = np.full(lead, -100)
    hidden[...] = np.nan
    calls: list[tuple[Any, dict[str, Any]]] = [(ignored, {}), (ignored, {"label_smoothing": 0.5})]
    soft = np.full((*lead, 5), 0.2)
    calls += [(t, {"sample_weight": np.zeros(lead)}) for t in (ignored * 0, soft)]
    for targets, options in calls:
        for reduction in REDUCTIONS:
            filled = tuple(np.full_like(a, 7) for a in (hidden, weight, bias))
            loss, grads = linear(
                *(hidden, weight, targets),
                **options,
                bias=bias,
                reduction=reduction,
                return_grad=True,
                grad_out=filled,
            )
            assert np.isnan(loss) if reduction == "mean" else (loss == 0).all()
            assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("shape", [(3, 0), (0, 0), (0, 4), (3, 4), (2, 0, 4), (1, 1)])
@pytest.mark.parametrize("features", [0, 2])
def test_empty_axes(dtype, shape, features):
    """As cross_entropy of the logits, which are all 0 where there are no features."""
    hidden, weight, bias = problem(shape, features, dtype)
    for given in (np.full(shape[:-1], -100), np.ones(shape)):
        for reduction in REDUCTIONS:
            loss, grads = linear(
                hidden, weight, given, bias=bias, reduction=reduction, return_grad=True
            )
            expected = xent.cross_entropy(
                hidden @ weight.T + bias, given, reduction=reduction, return_grad=True
            )
            np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
            assert [g.shape for g in grads] == [hidden.shape, weight.shape, bias.shape]
            if shape[-1] and (given >= 0).all() and features == 0:
                upstream = expected[1].reshape(-1, shape[-1]).sum(axis=0)
                np.testing.assert_allclose(grads[2], upstream, rtol=1e-5, atol=1e-6)
            elif reduction != "mean" or shape[-1]:
                assert all(np.isfinite(grad).all() for grad in grads)


# Infinities.


def test_a_bias_of_minus_infinity_masks_a_class(dtype):
    hidden, weight, bias = problem((6, 5), 4, dtype)
    bias[3] = -np.inf
    targets = np.array([0, 1, 2, 4, 0, 1])
    loss, grads = linear(hidden, weight, targets, bias=bias, return_grad=True)
    kept = [0, 1, 2, 4]
    expected, others = linear(
        hidden, weight[kept], np.minimum(targets, 3), bias=bias[kept], return_grad=True
    )
    np.testing.assert_allclose(loss, expected, rtol=16 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grads[1][kept], others[1], rtol=1e-5, atol=1e-6)
    assert (grads[1][3] == 0).all()
    assert grads[2][3] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_stays_in_its_row(dtype, bad):
    hidden, weight, _ = problem((6, 5), 4, dtype)
    targets, plain = targets_of("index", (6, 5), dtype), hidden.copy()
    hidden[2] = bad
    loss, grads = linear(hidden, weight, targets, reduction="none", return_grad=True)
    expected, others = linear(plain, weight, targets, reduction="none", return_grad=True)
    rows = np.arange(6) != 2
    np.testing.assert_allclose(loss[rows], expected[rows], rtol=1e-5)
    np.testing.assert_allclose(grads[0][rows], others[0][rows], rtol=1e-4, atol=1e-6)
    assert np.isnan(loss[2])
    assert np.isnan(grads[0][2]).all()
    assert np.isnan(grads[1]).all()


def test_what_overflows_or_vanishes_warns_of_nothing(dtype):
    info = np.finfo(dtype)
    for size in (info.max, info.tiny, info.smallest_subnormal):
        hidden = np.full((3, 4), size, dtype)
        weight = np.array([[1], [-1], [size]], dtype) * np.ones(4, dtype)
        for narrow in (dtype, np.float16):
            with np.errstate(all="ignore"):
                given = hidden.astype(narrow), weight.astype(narrow)
            linear(*given, [0, 1, 2], bias=given[0][:, 0], return_grad=True)


# Dtypes.


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.name)
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_halves(half, kind):
    """The loss of the same numbers in float32; gradients within the bounds, rounded once."""
    for shape in ((7, 10), (2, 3, 65), (5, 130)):
        arrays = [half.narrow(a) for a in problem(shape, 6, np.float32)]
        wide = [half.wide(a) for a in arrays]
        targets = targets_of(kind, shape, np.float32)
        loss, grads = linear(
            *arrays[:2], targets, bias=arrays[2], return_grad=True, reduction="none", **half.told
        )
        assert loss.dtype == np.float32
        assert [g.dtype for g in grads] == [half.dtype] * 3
        typed = [a if half.name != "bits" else a.view(ml_dtypes.bfloat16) for a in arrays]
        expected = expect(
            "linear_cross_entropy", *typed[:2], targets, bias=typed[2], reduction="none"
        )
        assert_within(loss, expected.value, expected.value_bound)
        for grad, exact, bound in zip(grads, expected.grad, expected.grad_bound, strict=True):
            assert_within(half.wide(grad), exact, bound)
        both = {"bias": wide[2], "return_grad": True, "reduction": "none"}
        plain = linear(*wide[:2], targets, **both)[1]
        for grad, one in zip(grads, plain, strict=True):
            # One more rounding than the float32 result, which BLAS may have summed otherwise.
            np.testing.assert_allclose(
                half.wide(grad), one, rtol=2.0**-7, atol=2.0**-10 * np.abs(one).max()
            )


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.name)
def test_halves_are_multiplied_alike_with_gradient_and_without(half):
    hidden, weight = (half.narrow(a) for a in problem((7, 10), 3000, np.float32)[:2])
    options = {"reduction": "none", **half.told}
    loss, _ = linear(hidden, weight, np.arange(7), return_grad=True, **options)
    assert_same(linear(hidden, weight, np.arange(7), **options), loss)


MIXED = {
    "float32 and float64": (np.float32, np.float64, np.float32),
    "float16 and float32": (np.float16, np.float32, np.float32),
    "float16 and float64": (np.float16, np.float64, np.float16),
    "float16 and bfloat16": (np.float16, ml_dtypes.bfloat16, np.float16),
    "bfloat16 and float64": (ml_dtypes.bfloat16, np.float64, ml_dtypes.bfloat16),
    "bfloat16, float32 bias": (ml_dtypes.bfloat16, ml_dtypes.bfloat16, np.float32),
    "integers": (np.int8, np.uint64, bool),
    "integers and float32": (np.float32, np.int16, np.float32),
    "byte-swapped": (">f4", ">f8", ">f2"),
}


@pytest.mark.parametrize("dtypes", MIXED.values(), ids=MIXED)
def test_mixed_dtypes(dtypes):
    shape, rng = (9, 12), np.random.default_rng(3)
    arrays = [
        rng.integers(0, 2, size) if np.dtype(t).kind in "iub" else rng.normal(size=size)
        for size, t in zip(((9, 5), (12, 5), (12,)), dtypes, strict=True)
    ]
    hidden, weight, bias = (a.astype(t) for a, t in zip(arrays, dtypes, strict=True))
    for kind in ("index", "soft"):
        check(hidden, weight, targets_of(kind, shape, float), bias=bias)
    targets = targets_of("index", shape, float)
    loss, grads = linear(hidden, weight, targets, bias=bias, return_grad=True)
    wide = any(np.dtype(t).itemsize == 8 or np.dtype(t).kind in "iub" for t in dtypes)
    assert loss.dtype == (np.float64 if wide else np.float32)
    for grad, t in zip(grads, map(np.dtype, dtypes), strict=True):
        assert grad.dtype == (np.float64 if t.kind in "iub" else t.newbyteorder("="))


def test_bfloat16_is_rounded_once():
    """Ties that only the digits below float32 decide."""
    half = ml_dtypes.bfloat16
    ties = np.float64(1) + (2 * np.arange(8) + 1) * 2.0**-8
    values = np.concatenate(
        [ties * s * (1 + d) for s in (1, -1, 2.0**-130) for d in (0, 2.0**-40, -(2.0**-40))]
    )
    candidates = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        numbers = candidates.view(half).astype(np.float64)
    finite = np.isfinite(numbers)
    candidates, numbers = candidates[finite], numbers[finite]
    for value, bits in zip(values, bfloat16_bits(values), strict=True):
        distance = np.abs(numbers - value)
        nearest = candidates[distance == distance.min()]
        assert bits in nearest
        assert len({*nearest} - {0x8000}) == 1 or bits % 2 == 0
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.finfo(np.float32).max, 1e300])
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            given = special.astype(dtype)
        assert bfloat16_bits(given).tolist() == [0x7F80, 0xFF80, 0, 0x8000, 0x7F80, 0x7F80]
        assert np.isnan(bfloat16_bits(np.array([np.nan, -np.nan], dtype)).view(half)).all()
    singles = np.random.default_rng(0).integers(0, 1 << 32, 10_000, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(
            bfloat16_bits(singles).view(half).astype(float), singles.astype(half).astype(float)
        )


def test_float16_is_rounded_once():
    """As NumPy does: all that can be told apart, ties, what overflows and what vanishes."""
    rng = np.random.default_rng(0)
    singles = rng.integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    for dtype in (np.float32, np.float64):
        with np.errstate(all="ignore"):
            values = np.concatenate(
                [
                    singles.astype(dtype),
                    rng.normal(0, 1e-6, 1 << 16).astype(dtype),
                    *(np.arange(-5000, 5000, dtype=dtype) * dtype(2.0**-n) for n in (24, 25, 26)),
                    np.array([65519.99, 65520, -65520, 2.0**-14, np.inf, np.nan], dtype),
                ]
            )
            expected = values.astype(np.float16)
        np.testing.assert_array_equal(float16(values), expected)


# Memory.


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("which", range(4))
def test_layout(dtype, layout, which):
    """The result of a copy, but for the order in which BLAS adds."""
    for shape in ((6, 8, 10), (5, 12), (40, 3)):
        for kind in ("index", "soft"):
            hidden, weight, bias = problem(shape, 4, dtype)
            arrays = [hidden, weight, targets_of(kind, shape, dtype), bias]
            expected = expect("linear_cross_entropy", *arrays[:3], bias=bias)
            arrays[which] = layout(arrays[which])
            loss, grads = linear(*arrays[:3], bias=arrays[3], return_grad=True)
            assert_within(loss, expected.value, expected.value_bound)
            for grad, exact, bound in zip(grads, expected.grad, expected.grad_bound, strict=True):
                assert_within(grad, exact, bound)


def test_lists_and_broadcast_arrays(dtype):
    hidden, weight, bias = problem((6, 5), 4, dtype)
    targets = targets_of("index", (6, 5), dtype)
    check(np.broadcast_to(hidden[:1], (6, 4)), np.broadcast_to(weight[:1], (5, 4)), targets)
    check(hidden, weight, targets, bias=np.broadcast_to(bias[0], 5))
    given = hidden.tolist(), weight.tolist(), targets.tolist()
    check(*(np.array(a) for a in given))
    linear(*given, bias=bias.tolist(), return_grad=True)


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
def test_buffers_are_filled_and_returned(dtype, layout):
    for shape in ((9, 7), (2, 3, 7), (7,)):
        hidden, weight, bias = problem(shape, 4, dtype)
        targets = targets_of("index", shape, dtype)
        buffers = []
        for array in (hidden, weight, bias):
            buffer = np.full(array.shape, 7, dtype, order="F" if layout == "F" else "C")
            if layout in ("strided", "reversed"):
                step = 2 if layout == "strided" else -1
                buffer = np.full((*array.shape[:-1], 2 * array.shape[-1]), 7, dtype)[..., ::step]
                buffer = buffer[..., : array.shape[-1]]
            buffers.append(buffer)
        expected = linear(hidden, weight, targets, bias=bias, return_grad=True, reduction="none")
        out = np.zeros(shape[:-1], dtype)
        both = {"return_grad": True, "reduction": "none"}
        loss, grads = linear(
            *(hidden, weight, targets), bias=bias, out=out, grad_out=tuple(buffers), **both
        )
        assert loss is out
        assert all(grad is buffer for grad, buffer in zip(grads, buffers, strict=True))
        np.testing.assert_array_equal(loss, expected[0])
        for grad, other in zip(grads, expected[1], strict=True):
            np.testing.assert_allclose(grad, other, rtol=1e-4, atol=1e-6)
        some = linear(hidden, weight, targets, return_grad=True, grad_out=(None, buffers[1]))[1]
        assert some[1] is buffers[1]
        mean = np.zeros((), dtype)
        assert linear(hidden, weight, targets, out=mean) is mean
        np.testing.assert_array_equal(mean, linear(hidden, weight, targets))


@pytest.mark.parametrize("code", ["f4", "f8", "f2", "i8", ">f8"])
def test_in_place_of_the_hidden_states(code, small_blocks):
    for shape in ((23, 7), (3, 4, 7), (7,)):
        for lay in (np.copy, np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2]):
            hidden, weight, bias = problem(shape, 6, np.float64)
            hidden = lay((2 * hidden).astype(code))
            targets = targets_of("index", shape, float)
            if shape != (7,):
                targets.flat[2::5] = -100
            weight = weight.astype("f4" if code in ("f2", "f4") else "f8")
            given = {"bias": bias.astype(weight.dtype), "return_grad": True}
            expected = linear(hidden, weight, targets, **given)
            place = hidden.view("f8") if code in ("i8", ">f8") else hidden
            loss, grads = linear(hidden, weight, targets, grad_out=(place, None, None), **given)
            assert grads[0] is place
            np.testing.assert_array_equal(loss, expected[0])
            for grad, other in zip(grads, expected[1], strict=True):
                np.testing.assert_array_equal(grad, other)


def test_any_other_overlap_is_an_error(dtype):
    memory = np.full(200, 0.25, dtype)
    hidden, weight, bias = memory[20:60].reshape(10, 4), memory[60:88].reshape(7, 4), memory[90:97]
    targets, rows = np.zeros(10, int), np.ones(10, dtype)
    clashes: list[dict[str, Any]] = [
        {"grad_out": (memory[20 + step : 60 + step].reshape(10, 4), None, None)}
        for step in (-1, 1, 4)
    ]
    clashes += [{"grad_out": (hidden[::-1], None, None)}, {"grad_out": (None, weight, None)}]
    clashes += [{"grad_out": (None, None, bias)}, {"grad_out": (None, hidden[:7], None)}]
    clashes += [
        {"out": hidden[2:, 0][:0:-1][:10]},
        {"out": memory[:10], "grad_out": (None, None, memory[5:12])},
    ]
    clashes += [{"out": rows, "sample_weight": rows}, {"out": rows, "grad_output": rows}]
    clashes += [{"grad_out": (None, None, rows[:7]), "sample_weight": rows}]
    clashes += [{"grad_out": (memory[100:140].reshape(10, 4), memory[139:167].reshape(7, 4), None)}]
    for options in clashes:
        if "out" in options and options["out"].shape != (10,):
            options["out"] = memory[25:35]
        with pytest.raises(ValueError, match=r"out.*overlap"):
            linear(
                *(hidden, weight, targets),
                bias=bias,
                reduction="none",
                return_grad=True,
                **options,
            )
    assert (memory == 0.25).all()
    assert (rows == 1).all()


# A shard; a slice of the weight, and what it is converted from; sums of the rows of a chunk, which are copied to be merged.
SHARD, OWN_SHARD, SLICE, SUMS = 32 << 20, 4 << 20, 6 << 20, 3 * 152 * 1024


@pytest.mark.parametrize("form", ["float32", "ignored", "bfloat16", "float64", "soft"])
@pytest.mark.parametrize(("rows", "classes"), [(4096, 20_000), (1500, 100_000)])
def test_extra_memory_of_a_loss_is_a_shard(rows, classes, form):
    """Whatever rows and classes there are."""
    dtypes = {"bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
    dtype = np.dtype(dtypes.get(form, np.float32))
    hidden, weight = np.zeros((rows, 8), dtype), np.zeros((classes, 8), dtype)
    targets: Any = np.arange(rows)
    shard = OWN_SHARD if form == "bfloat16" else SHARD
    extra = shard + SUMS * (1 + classes // 16384) + OWN + SLICE
    if form == "ignored":
        targets[::3] = -100
    if form == "soft":
        targets = np.broadcast_to(np.float64(1 / classes), (rows, classes))
        extra += shard

    def call() -> None:
        assert abs(linear(hidden, weight, targets) / np.log(classes) - 1) < 0.01

    call()
    assert extra_memory(call) < extra


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_extra_memory_of_gradients_in_shards(dtype):
    """Of 1,024 rows of 1,024 features and 32,768 classes, whose logits are 134 MB."""
    hidden, weight = np.ones((1024, 1024), dtype), np.ones((32768, 1024), dtype)
    grads = np.empty_like(hidden), np.empty_like(weight)

    def call() -> None:
        linear(hidden, weight, np.arange(1024), return_grad=True, grad_out=grads)

    assert extra_memory(call) < (24_000_000 if dtype == np.float32 else 64_000_000)


BIG, NARROW = (16384, 16384), 8
# One block of logits, slices of the weight and of its gradient, a block's hidden states, the rows' own.
BLOCK, SLICES, OWN = 64 << 20, 20 << 20, 4 << 20


def extra_memory(call: Any) -> int:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("form", ["float32", "ignored", "float16", "soft"])
def test_extra_memory_is_a_block(form):
    """Of logits that would be a gigabyte."""
    rows, classes = BIG if form != "soft" else (4096, 16384)
    features = NARROW if form != "float16" else 64
    hidden = np.zeros((rows, features), np.float16 if form == "float16" else np.float32)
    weight = np.zeros((classes, features), hidden.dtype)
    targets: Any = np.arange(rows)
    extra = BLOCK + SLICES + OWN
    if form == "ignored":
        targets[::3] = -100
    if form == "float16":
        # The sum of the weight's gradient.
        extra += 4 * weight.size
    if form == "soft":
        targets = np.broadcast_to(np.float16(1 / classes), (rows, classes))
        extra += BLOCK
    grads = np.empty_like(hidden), np.empty_like(weight)

    def call() -> None:
        loss, _ = linear(hidden, weight, targets, return_grad=True, grad_out=grads)
        assert abs(loss - np.log(classes)) < 1e-4

    assert extra_memory(call) < extra


@pytest.mark.parametrize("half", HALVES[:2], ids=lambda half: half.name)
def test_extra_memory_of_one_block_in_half_types(half):
    """The gradient of the weight is rounded slice by slice: there is no sum of it."""
    hidden, weight = np.ones((128, 1024), half.dtype), np.ones((16384, 1024), half.dtype)
    targets, grads = np.zeros(128, int), (np.empty_like(hidden), np.empty_like(weight))
    extra = extra_memory(lambda: linear(hidden, weight, targets, return_grad=True, grad_out=grads))
    states = 4 * hidden.size
    assert extra < 4 * 128 * 16384 + 5 * states + SLICES


def test_extra_memory_of_rows_longer_than_a_block():
    """256 of them, whatever they hold."""
    classes = 1 << 18
    hidden, weight = np.zeros((512, 1), np.float32), np.zeros((classes, 1), np.float32)
    targets, grads = np.zeros(512, int), (np.empty_like(hidden), np.empty_like(weight))

    def call() -> None:
        linear(hidden, weight, targets, return_grad=True, grad_out=grads)

    assert extra_memory(call) < 256 * 4 * classes + SLICES + OWN


# Errors.


def test_a_bad_target_is_found_before_anything_is_written(small_blocks):
    hidden, weight, bias = problem((4, 5, 7), 3, float)
    before = hidden.copy()
    targets = targets_of("index", (4, 5, 7), float)
    targets[3, 4] = 7
    buffers = hidden, np.full_like(weight, 7), np.full_like(bias, 7)
    out = np.full((4, 5), 7.0)
    message = r"targets\[3, 4\] = 7 is not a class; expected 0 <= target < 7 or ignore_index=-100"
    with pytest.raises(IndexError, match=message):
        linear(
            *(hidden, weight, targets),
            bias=bias,
            reduction="none",
            return_grad=True,
            out=out,
            grad_out=buffers,
        )
    np.testing.assert_array_equal(hidden, before)
    assert all((a == 7).all() for a in (*buffers[1:], out))
    targets[3, 4] = 2**63 - 1
    with pytest.raises(IndexError, match=r"targets\[3, 4\]"):
        linear(hidden, weight, targets)


@pytest.mark.parametrize(
    ("options", "error", "shows"),
    [
        ({"grad_out": np.zeros((4, 3))}, TypeError, ("tuple of 2", "hidden, weight", "(4, 3)")),
        ({"grad_out": (None,)}, ValueError, ("tuple of 2", "1 of them")),
        ({"grad_out": (None, None, None)}, ValueError, ("tuple of 2", "3 of them")),
        ({"grad_out": (None, None), "bias": np.zeros(5)}, ValueError, ("tuple of 3", "bias")),
        ({"grad_out": (None, np.zeros((4, 3)))}, ValueError, ("grad_out[1]", "(4, 3)", "(5, 3)")),
        ({"grad_out": (np.zeros((4, 3), "f4"), None)}, ValueError, ("grad_out[0]", "float32")),
        ({"dtype": "bfloat16"}, ValueError, ("dtype", "hidden", "float64")),
        ({"weight": np.zeros((5, 4))}, ValueError, ("weight", "(C, 3)", "(4, 3)", "(5, 4)")),
        ({"weight": np.zeros(3)}, ValueError, ("weight", "(C, 3)", "(3,)")),
        ({"bias": np.zeros(4)}, ValueError, ("bias", "(5,)", "(4,)")),
        ({"bias": np.zeros((5, 1))}, ValueError, ("bias", "(5,)", "(5, 1)")),
        ({"bias": 0.0}, ValueError, ("bias", "(5,)", "()")),
        ({"hidden": 1.0}, ValueError, ("hidden", "scalar")),
        ({"targets": np.zeros((4, 4))}, ValueError, ("targets", "(4, 4)", "(4, 5)")),
        ({"targets": np.zeros(5, int)}, ValueError, ("targets", "(5,)", "(4,)")),
    ],
)  # fmt: skip
def test_bad_argument(options, error, shows):
    call = {"hidden": np.zeros((4, 3)), "weight": np.zeros((5, 3)), "targets": np.zeros(4, int)}
    with pytest.raises(error) as caught:
        linear(**call | {"return_grad": True} | options)
    for part in shows:
        assert part in str(caught.value), str(caught.value)


def test_bits_need_to_be_told_and_may_be_among_other_dtypes():
    arrays = dict(zip(("hidden", "weight", "bias"), problem((4, 5), 3, np.float32), strict=True))
    halves = {name: a.astype(ml_dtypes.bfloat16) for name, a in arrays.items()}
    targets = np.zeros(4, int)
    for names in (["hidden"], ["weight"], ["bias"], ["hidden", "bias"], list(arrays)):
        given = arrays | {name: halves[name].view(np.uint16) for name in names}
        expected = linear(
            **arrays | {n: halves[n] for n in names}, targets=targets, return_grad=True
        )
        loss, grads = linear(**given, targets=targets, return_grad=True, dtype="bfloat16")
        assert_same(loss, expected[0])
        for name, grad, wanted in zip(arrays, grads, expected[1], strict=True):
            assert grad.dtype == given[name].dtype
            assert_same(grad.view(wanted.dtype), wanted)
        with pytest.raises(TypeError, match=rf"{names[0]}: dtype uint16 .*dtype='bfloat16'"):
            linear(**given, targets=targets)
    with pytest.raises(ValueError, match=r"dtype.*hidden.*float32"):
        linear(**arrays, targets=targets, dtype="bfloat16")


def test_the_gradient_of_the_bias_is_summed_in_double():
    """A million rows of equal classes, of which float32 sums lose a hundredth."""
    rows, classes = 1_000_000, 10
    hidden, weight = np.zeros((rows, 1), np.float32), np.zeros((classes, 1), np.float32)
    targets = np.zeros(rows, np.int8)
    _, (_, _, grad) = linear(
        hidden, weight, targets, bias=np.zeros(classes, np.float32), return_grad=True
    )
    np.testing.assert_allclose(grad, np.r_[-0.9, [0.1] * 9], rtol=1e-6)
