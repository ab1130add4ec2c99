"""float16 and bfloat16: the float32 result of the same numbers, gradients rounded once to nearest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import inputs
import xent
from calls import FAMILY, MODULATED, OPTIONS, REDUCTIONS, assert_same
from test_layout import LAYOUTS

SHAPES = ((1, 1), (7, 10), (33, 16), (40, 64), (5, 130), (3, 4, 65), (4, 1025), (2, 17000))
EVERY_PATTERN = np.arange(1 << 16, dtype=np.uint16)


def _to_bits(a: np.ndarray) -> np.ndarray:
    """Round float32 to the bits of bfloat16, to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(a, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(a), 0x7FC0, rounded).astype(np.uint16)


def _from_bits(a: np.ndarray) -> np.ndarray:
    """Widen the bits of bfloat16 to float32."""
    return (np.ascontiguousarray(a).astype(np.uint32) << 16).view(np.float32)


class Half(NamedTuple):
    """A 16-bit type: how to round to it and widen from it, and the arguments that calls need for it."""

    name: str
    dtype: np.dtype
    narrow: Callable[[np.ndarray], np.ndarray]
    wide: Callable[[np.ndarray], np.ndarray]
    told: dict[str, Any]


@np.errstate(all="ignore")
def _cast(a: np.ndarray, dtype: Any) -> np.ndarray:
    return np.asarray(a).astype(dtype)


HALVES = (
    Half(
        *("float16", np.dtype(np.float16)),
        *(lambda a: _cast(a, np.float16), lambda a: _cast(a, np.float32), {}),
    ),
    Half(
        *("bfloat16", np.dtype(ml_dtypes.bfloat16)),
        *(lambda a: _cast(a, ml_dtypes.bfloat16), lambda a: _cast(a, np.float32), {}),
    ),
    Half("bits", np.dtype(np.uint16), _to_bits, _from_bits, {"dtype": "bfloat16"}),
)


@pytest.fixture(params=HALVES, ids=lambda half: half.name)
def half(request: pytest.FixtureRequest) -> Half:
    """Run the test in both 16-bit types, and in bfloat16 as bare bits."""
    return request.param


@pytest.fixture(params=HALVES[:2], ids=lambda half: half.name)
def typed_half(request: pytest.FixtureRequest) -> Half:
    """Run the test in both 16-bit types as dtypes of their own."""
    return request.param


def assert_rounded(actual: Any, exact: Any, half: Half) -> None:
    """Compare with float32 numbers rounded once, NaN equal to NaN."""
    assert actual.dtype == half.dtype
    np.testing.assert_array_equal(half.wide(actual), half.wide(half.narrow(exact)))


def check(logits: np.ndarray, targets: np.ndarray, half: Half, **options: Any) -> None:
    """Compare a call on 16-bit logits with the same call on the same numbers in float32."""
    loss, grad, lse = xent.cross_entropy(
        *(logits, targets), return_grad=True, return_lse=True, **options, **half.told
    )
    expected = xent.cross_entropy(
        *(half.wide(logits), targets), return_grad=True, return_lse=True, **options
    )
    assert loss.dtype == lse.dtype == np.float32
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(lse, expected[2])
    assert grad.shape == logits.shape
    assert_rounded(grad, expected[1], half)
    loss, again, hess = xent.cross_entropy(
        *(logits, targets), return_hess=True, **options, **half.told
    )
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(half.wide(again), half.wide(grad))
    expected = xent.cross_entropy(*(half.wide(logits), targets), return_hess=True, **options)
    assert_rounded(hess, expected[2], half)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(isa, half, name, reduction):
    for shape in ((7,), (5, 10), (2, 3, 33), (3, 1025)):
        logits, targets = inputs.batch(shape, np.float32)
        options = OPTIONS[name](shape) | {"reduction": reduction}
        check(half.narrow(logits), targets, half, **options)
        check(half.narrow(logits), inputs.soft_targets(shape, np.float32), half, **options)


def test_every_size_and_kind_of_row(isa, half):
    for classes in (*inputs.SMALL, 1023, 1024, 1025, 16385):
        logits = half.narrow(np.clip(inputs.adversarial(classes, np.float32), -6e4, 6e4))
        targets = inputs.telling_targets(half.wide(logits))[:, classes % 4]
        check(logits, targets, half, reduction="none")


def test_every_pattern_of_bits(isa, half):
    """Every number there is, subnormals, infinities and NaN included, against two others."""
    numbers = EVERY_PATTERN.view(half.dtype)
    for other in (0.5, -3.0):
        fixed = half.narrow(np.full(len(numbers), other, np.float32))
        logits = np.stack([numbers, fixed], axis=1)
        targets = np.arange(len(numbers)) % 2
        check(logits, targets, half, reduction="none")
        if not half.told:
            for name in ("softmax", "log_softmax"):
                exact = getattr(xent, name)(half.wide(logits), axis=-1)
                assert_rounded(getattr(xent, name)(logits, axis=-1), exact, half)


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_family_returns_the_type_that_came(isa, typed_half, name):
    for shape in SHAPES:
        x = typed_half.narrow(inputs.batch(shape, np.float32)[0])
        exact = getattr(xent, name)(typed_half.wide(x), axis=-1)
        assert_rounded(getattr(xent, name)(x, axis=-1), exact, typed_half)
        out = np.zeros(np.shape(exact), typed_half.dtype)
        assert getattr(xent, name)(x, axis=-1, out=out) is out
        assert_rounded(out, exact, typed_half)


def test_log_sum_exp_that_is_subnormal_in_the_result(typed_half):
    x = typed_half.narrow(np.full((1, 2), -np.log(2), np.float32))
    exact = xent.logsumexp(typed_half.wide(x), axis=-1)
    assert_rounded(xent.logsumexp(x, axis=-1), exact, typed_half)


def test_gradients_below_the_smallest_normal_half_are_kept(isa):
    logits = np.array([[0, -15, -16.5, -20]], np.float16)
    grad = xent.cross_entropy(logits, [0], return_grad=True)[1]
    exact = xent.cross_entropy(logits.astype(np.float32), [0], return_grad=True)[1]
    assert 0 < grad[0, 2] < np.finfo(np.float16).tiny
    np.testing.assert_array_equal(grad, _cast(exact, np.float16))


@pytest.mark.parametrize("name", MODULATED)
def test_losses_that_are_linked_to_the_likelihood(isa, half, name):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, np.float32)
        logits = half.narrow(logits)
        loss, *derivatives = getattr(xent, name)(logits, targets, **MODULATED[name], **half.told)
        expected = getattr(xent, name)(half.wide(logits), targets, **MODULATED[name])
        assert loss == expected[0]
        for actual, exact in zip(derivatives, expected[1:], strict=True):
            assert_rounded(actual, exact, half)


@pytest.mark.parametrize("name", ["token_log_probs", "perplexity"])
def test_language_model_scores(half, name):
    logits, targets = inputs.batch((6, 7, 100), np.float32)
    logits = half.narrow(logits)
    actual = getattr(xent, name)(logits, targets, **half.told)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, getattr(xent, name)(half.wide(logits), targets))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout(isa, half, layout):
    swapped = layout is LAYOUTS["byte swapped"]
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, np.float32)
        logits = half.narrow(logits)
        if swapped and half.name == "bfloat16":
            continue  # a dtype without a byte order
        view = layout(logits)
        call = {"reduction": "none", "return_hess": True} | half.told
        loss, *derivatives = xent.cross_entropy(view, targets, **call)
        expected = xent.cross_entropy(logits, targets, **call)
        np.testing.assert_array_equal(loss, expected[0])
        for actual, same in zip(derivatives, expected[1:], strict=True):
            np.testing.assert_array_equal(half.wide(actual), half.wide(same))


def test_class_axis(isa, half):
    logits, targets = inputs.batch((4, 5, 65), np.float32)
    logits = half.narrow(logits)
    expected = xent.cross_entropy(logits, targets, return_hess=True, **half.told)
    for axis in (0, 1):
        moved = np.ascontiguousarray(np.moveaxis(logits, -1, axis))
        loss, *derivatives = xent.cross_entropy(
            *(moved, targets), axis=axis, return_hess=True, **half.told
        )
        assert loss == expected[0]
        for actual, same in zip(derivatives, expected[1:], strict=True):
            np.testing.assert_array_equal(np.moveaxis(actual, axis, -1), same)


def test_in_place(isa, half):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, np.float32)
        logits = half.narrow(logits)
        expected = xent.cross_entropy(logits, targets, return_grad=True, **half.told)
        loss, grad = xent.cross_entropy(
            *(logits, targets), return_grad=True, grad_out=logits, **half.told
        )
        assert grad is logits
        assert loss == expected[0]
        np.testing.assert_array_equal(half.wide(logits), half.wide(expected[1]))


def test_buffers_have_the_dtypes_of_the_results(half):
    logits, targets = inputs.batch((4, 5), np.float32)
    logits = half.narrow(logits)
    for wrong in (np.float32, np.float64, np.int16):
        for name in ("grad_out", "hess_out"):
            with pytest.raises(ValueError, match=rf"{name}.*{np.dtype(wrong)}"):
                xent.cross_entropy(
                    *(logits, targets),
                    **half.told,
                    return_hess=True,
                    **{name: np.zeros((4, 5), wrong)},
                )
    for wrong in (half.dtype, np.float64):
        with pytest.raises(ValueError, match=r"out.*float32"):
            xent.cross_entropy(logits, targets, out=np.zeros((), wrong), **half.told)


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64, np.int16, np.uint32])
def test_bits_are_taken_from_uint16_alone(given):
    with pytest.raises((TypeError, ValueError), match=f"dtype.*{np.dtype(given)}"):
        xent.cross_entropy(np.zeros((2, 3), given), [0, 1], dtype="bfloat16")


def test_uint16_without_a_word_is_refused():
    """They are bits more often than numbers; SciPy's functions, which have no such word, take them as numbers."""
    logits, targets = np.arange(6, dtype=np.uint16).reshape(2, 3), [0, 2]
    for function in (xent.cross_entropy, xent.nll_loss, xent.perplexity):
        with pytest.raises(TypeError, match=r"uint16 .*dtype='bfloat16'.*\.astype\(np\.int32\)"):
            function(logits, targets)
    for function in (xent.entropy, lambda x: xent.kl_div(x, x)):
        with pytest.raises(TypeError, match=r"uint16 .*dtype='bfloat16'"):
            function(logits)
    assert xent.logsumexp(logits) == xent.logsumexp(logits.astype(float))
    assert_same(xent.softmax(logits), xent.softmax(logits.astype(float)))


def test_bits_out_of_a_file():
    """ml_dtypes' bfloat16 is |V2 in a .npy file."""
    logits, targets = inputs.batch((5, 7), np.float32)
    bits = logits.astype(ml_dtypes.bfloat16)
    stored = bits.view("V2")
    options = {"reduction": "none", "return_grad": True}
    loss, grad = xent.cross_entropy(stored, targets, dtype="bfloat16", **options)
    expected = xent.cross_entropy(bits, targets, **options)
    assert_same(loss, expected[0])
    assert grad.dtype == stored.dtype
    assert_same(grad.view(bits.dtype), expected[1])
    xent.cross_entropy(stored, targets, dtype="bfloat16", grad_out=stored, **options)
    assert_same(stored.view(bits.dtype), expected[1])
    with pytest.raises(TypeError, match=r"\|V2"):
        xent.cross_entropy(stored, targets)
    with pytest.raises(ValueError, match=r"\|V4"):
        xent.cross_entropy(logits.view("V4"), targets, dtype="bfloat16")
