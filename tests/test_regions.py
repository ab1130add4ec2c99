"""Losses of regions: against their formulas, in every layout and dtype, and at the edges."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent
from calls import assert_same
from reference import ORACLES
from tolerance import assert_within, expect

NAMES = ("dice_loss", "tversky_loss")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "batch": {"batch": True},
    "batch, none": {"batch": True, "reduction": "none", "grad_output": -2.0},
    "smooth": {"smooth": 1e-5},
    "class_weight": {"class_weight": [0.5, 0, 2, 1, 3]},
    "grad_output": {"grad_output": [2.0, -1.0, 0.5], "reduction": "none"},
}
# Positions: one, part of a vector, whole vectors and a rest, more than one piece of 4,096.
POSITIONS = ((), (3,), (7, 13), (65, 67))


def problem(
    dtype: Any, positions: tuple[int, ...] = (7, 13), classes: int = 5, soft: bool = False
) -> Any:
    """Logits of three samples and their targets, some of which are ignored."""
    rng = np.random.default_rng(classes + len(positions))
    logits = rng.normal(0, 3, (3, classes, *positions)).astype(dtype)
    if soft:
        targets = rng.dirichlet(np.ones(classes), (3, *positions)).astype(dtype)
        return logits, np.ascontiguousarray(np.moveaxis(targets, -1, 1))
    targets = rng.integers(0, classes, (3, *positions))
    targets[rng.random(targets.shape) < 0.2] = -100
    return logits, targets


def check(name: str, logits: Any, targets: Any, **options: Any) -> None:
    loss, grad = getattr(xent, name)(logits, targets, return_grad=True, **options)
    expected = expect(name, logits, targets, **options)
    assert_within(loss, expected.value, expected.value_bound, "loss")
    assert_within(grad, expected.grad, expected.grad_bound, "gradient")
    alone = getattr(xent, name)(
        logits, targets, **{k: v for k, v in options.items() if k != "grad_output"}
    )
    assert_same(alone, loss)


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient(isa, dtype, name, case, soft):
    options = OPTIONS[case] | ({"alpha": 0.3, "beta": 0.9} if name == "tversky_loss" else {})
    for positions in POSITIONS:
        check(name, *problem(dtype, positions, soft=soft), **options)


@pytest.mark.parametrize("classes", [1, 2, 3, 21, 64, 65, 300, 1100])
def test_any_number_of_classes(isa, dtype, classes):
    for soft in (False, True):
        check("dice_loss", *problem(dtype, (6, 5), classes, soft))
        logits, targets = problem(dtype, (6, 5), classes, soft)
        if soft:
            targets = np.ascontiguousarray(np.moveaxis(targets, 1, -1))
        check("dice_loss", np.ascontiguousarray(np.moveaxis(logits, 1, -1)), targets, axis=-1)


def test_gradient_is_that_of_the_formula_by_differences():
    """In extended precision, with a step h: an error of h² times a third derivative, and of rounding, 2^-63 / h."""
    h = np.longdouble(1e-5)
    for name, soft in itertools.product(NAMES, (False, True)):
        logits, targets = problem(np.float64, (2, 3), 4, soft)
        options = {"class_weight": [1, 2, 0.5, 3], "smooth": 0.7, "reduction": "sum"}
        if name == "tversky_loss":
            options |= {"alpha": 0.2, "beta": 0.6}
        grad = getattr(xent, name)(logits, targets, return_grad=True, **options)[1]
        for at in np.ndindex(logits.shape):
            ends = []
            for step in (h, -h):
                moved = logits.astype(np.longdouble)
                moved[at] += step
                ends.append(ORACLES[name](moved, targets, **options).value)
            assert abs((ends[0] - ends[1]) / (2 * h) - grad[at]) < 1e-9


def layouts(a: np.ndarray, axis: int) -> dict[str, tuple[np.ndarray, int]]:
    """The same numbers in other places, and the axis of their classes; those of the samples stay first."""
    found = {"contiguous": (a, axis)}
    for to in range(1, a.ndim):
        found[f"axis {to}"] = np.ascontiguousarray(np.moveaxis(a, axis, to)), to
    found["view of classes last"] = (
        np.moveaxis(np.ascontiguousarray(np.moveaxis(a, axis, -1)), -1, axis),
        axis,
    )
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    found["strided"] = wide[..., ::2], axis
    found["rows with gaps"] = np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, 3)])[..., :-3], axis
    found["reversed"] = np.ascontiguousarray(a[:, ::-1])[:, ::-1], axis
    found["Fortran"] = np.asfortranarray(a), axis
    found["byte-swapped"] = a.astype(a.dtype.newbyteorder()), axis
    shifted = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    shifted[...] = a
    found["unaligned"] = shifted, axis
    found["sixth axis"] = a.reshape(*a.shape[:2], 1, *a.shape[2:], 1), axis
    return found


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_layout_changes_no_bit(isa, dtype, soft):
    logits, targets = problem(dtype, (33, 70), soft=soft)
    loss, grad = xent.dice_loss(logits, targets, return_grad=True, reduction="none")
    of_targets = layouts(targets, 1) if soft else {}
    for x, axis in layouts(logits, 1).values():
        t = np.moveaxis(targets, 1, axis).reshape(x.shape) if soft else targets
        t = t if soft else targets.reshape(np.delete(x.shape, axis))
        found = xent.dice_loss(x, t, axis=axis, return_grad=True, reduction="none")
        assert_same(found[0], loss)
        given = np.moveaxis(found[1], axis, 1).reshape(logits.shape)
        assert_same(given.astype(dtype), grad)
    for t, axis in of_targets.values():
        if t.shape == logits.shape and axis == 1:
            assert_same(xent.dice_loss(logits, t, reduction="none"), loss)
    if not soft:
        for t in (
            targets.astype(np.int16),
            np.repeat(targets, 2, axis=2)[..., ::2],
            np.asfortranarray(targets),
        ):
            assert_same(xent.dice_loss(logits, t, return_grad=True, reduction="none"), (loss, grad))


def test_threads_change_no_bit(isa, dtype):
    for soft in (False, True):
        logits, targets = problem(dtype, (150, 151), 7, soft)
        with xent.num_threads(1):
            expected = xent.tversky_loss(logits, targets, return_grad=True)
        for n in (2, 3, 8):
            with xent.num_threads(n):
                assert_same(xent.tversky_loss(logits, targets, return_grad=True), expected)


def test_a_sample_does_not_know_its_batch(isa, dtype):
    logits, targets = problem(dtype, (65, 67))
    loss, grad = xent.dice_loss(logits, targets, reduction="none", return_grad=True)
    for i in range(3):
        alone = xent.dice_loss(
            logits[i : i + 1], targets[i : i + 1], reduction="none", return_grad=True
        )
        assert_same(alone, (loss[i : i + 1], grad[i : i + 1]))


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_types_are_computed_in_float32(isa, half):
    """To the bits of float32 logits, and the gradient rounded once."""
    stored = np.dtype(ml_dtypes.bfloat16 if half == "bfloat16" else np.float16)
    for axis, soft in itertools.product((1, -1), (False, True)):
        logits, targets = problem(np.float32, (33, 70), soft=soft)
        x = np.ascontiguousarray(np.moveaxis(logits, 1, axis)).astype(stored)
        t = np.moveaxis(targets, 1, axis) if soft else targets
        options = {"axis": axis, "return_grad": True, "grad_output": 1000.0}
        loss, grad = xent.dice_loss(x, t, **options)
        expected = xent.dice_loss(x.astype(np.float32), t, **options)
        assert grad.dtype == stored
        assert_same(loss, expected[0])
        with np.errstate(under="ignore"):
            rounded = expected[1].astype(stored)
        assert_same(grad.astype(np.float32), rounded.astype(np.float32))
        if half == "bfloat16":
            bits = xent.dice_loss(x.view(np.uint16), t, dtype="bfloat16", **options)
            assert bits[1].dtype == np.uint16
            assert_same(bits[1], grad.view(np.uint16))


def test_integer_logits_are_float64():
    logits, targets = problem(np.int32)
    loss, grad = xent.dice_loss(logits, targets, return_grad=True)
    assert loss.dtype == grad.dtype == np.float64
    assert_same((loss, grad), xent.dice_loss(logits.astype(float), targets, return_grad=True))


def test_ignored_positions_do_not_count(isa, dtype):
    logits, targets = problem(dtype, (40, 41))
    ignored = targets == -100
    everywhere = np.broadcast_to(ignored[:, None], logits.shape)
    expected = xent.dice_loss(logits, targets, return_grad=True)
    assert not expected[1][everywhere].any()
    assert expected[1][~everywhere].all()
    for value in (np.nan, np.inf, -np.inf, 1e30):
        other = np.where(everywhere, dtype.type(value), logits)
        assert_same(xent.dice_loss(other, targets, return_grad=True), expected)
    # As in a sample that has no other positions.
    for i in range(3):
        kept = xent.dice_loss(
            logits[i : i + 1, :, ~ignored[i]], targets[i : i + 1, ~ignored[i]], reduction="none"
        )
        whole = expect("dice_loss", logits[i : i + 1], targets[i : i + 1], reduction="none")
        assert_within(kept, whole.value, whole.value_bound)
    # A class, and none.
    ones = np.where(ignored, 1, targets)
    check("dice_loss", logits, ones, ignore_index=1)
    assert_same(xent.dice_loss(logits, ones, ignore_index=None), xent.dice_loss(logits, ones))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_stays_in_its_sample(isa, dtype, value):
    logits, targets = problem(dtype, (9, 10))
    targets[1, 4, 5] = 2
    expected = xent.dice_loss(logits, targets, reduction="none", return_grad=True)
    logits[1, 3, 4, 5] = value
    loss, grad = xent.dice_loss(logits, targets, reduction="none", return_grad=True)
    assert np.isnan(loss).tolist() == [False, True, False]
    for i in (0, 2):
        assert_same((loss[i], grad[i]), (expected[0][i], expected[1][i]))
    counts = np.broadcast_to((targets != -100)[:, None], grad.shape)
    assert np.isnan(grad[1][counts[1]]).all()
    assert not grad[1][~counts[1]].any()
    assert np.isnan(xent.dice_loss(logits, targets, batch=True))


def test_masked_classes_are_as_if_they_were_not_there(isa, dtype):
    """Of -inf the probability is 0; the masked class has the loss of nothing, 1 - smooth / smooth."""
    logits, targets = problem(dtype, (9, 10))
    more = np.concatenate([logits, np.full_like(logits[:, :1], -np.inf)], axis=1)
    loss, grad = xent.dice_loss(more, targets, return_grad=True, reduction="sum")
    expected = xent.dice_loss(logits, targets, return_grad=True, reduction="sum")
    np.testing.assert_allclose(loss * 6 / 5, expected[0], rtol=4 * np.finfo(dtype).eps)
    assert not grad[:, 5].any()
    bound = expect("dice_loss", logits, targets, reduction="sum").grad_bound
    assert_within(grad[:, :5] * dtype.type(6 / 5), expected[1], 4 * bound)


def test_class_of_weight_zero_does_not_count(isa, dtype):
    """Even if it is 0 / 0."""
    logits, targets = problem(dtype, (4, 4))
    logits[:, 2], targets[targets == 2] = -np.inf, 1
    options = {"smooth": 0.0, "return_grad": True}
    assert np.isnan(xent.dice_loss(logits, targets, **options)[0])
    loss, grad = xent.dice_loss(logits, targets, class_weight=[1, 1, 0, 1, 1], **options)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()
    nothing = xent.dice_loss(logits, targets, class_weight=np.zeros(5), return_grad=True)
    assert np.isnan(nothing[0])
    assert not nothing[1].any()


def test_nothing(dtype):
    empty = np.zeros((0, 3, 4), dtype), np.zeros((0, 4), int)
    loss, grad = xent.dice_loss(*empty, return_grad=True)
    assert np.isnan(loss)
    assert loss.dtype == dtype
    assert grad.shape == (0, 3, 4)
    assert xent.dice_loss(*empty, reduction="sum") == 0
    assert xent.dice_loss(*empty, reduction="none").shape == (0,)
    # The sums of nothing are 0, and the loss 1 - smooth / smooth.
    assert xent.dice_loss(*empty, batch=True) == 0
    assert xent.tversky_loss(np.zeros((2, 3, 0), dtype), np.zeros((2, 0), int)) == 0
    all_ignored = np.zeros((2, 3, 4), dtype), np.full((2, 4), -100)
    loss, grad = xent.dice_loss(*all_ignored, return_grad=True)
    assert loss == 0
    assert not grad.any()
    loss, grad = xent.dice_loss(*all_ignored, smooth=0.0, return_grad=True)
    assert np.isnan(loss)
    assert not grad.any()


def test_reductions_are_of_the_values_of_samples(dtype):
    logits, targets = problem(dtype)
    none = xent.dice_loss(logits, targets, reduction="none")
    assert none.shape == (3,)
    np.testing.assert_allclose(
        xent.dice_loss(logits, targets, reduction="sum"), none.sum(), rtol=1e-6
    )
    np.testing.assert_allclose(xent.dice_loss(logits, targets), none.mean(), rtol=1e-6)
    batch = [
        xent.dice_loss(logits, targets, batch=True, reduction=r) for r in ("none", "sum", "mean")
    ]
    assert batch[0].shape == ()
    assert batch[0] == batch[1] == batch[2]


def test_tversky_of_halves_is_dice_of_twice_the_smooth(dtype):
    logits, targets = problem(dtype)
    loss = xent.tversky_loss(logits, targets, smooth=0.5)
    np.testing.assert_allclose(loss, xent.dice_loss(logits, targets), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("where", ["first", "last", "strided"])
def test_bad_target_is_named_and_nothing_written(dtype, where):
    logits, targets = problem(dtype, (65, 67))
    position = (0, 0, 1) if where == "first" else (2, 64, 66)
    targets[position] = 5
    targets[2, 64, 65:] = 5 if where == "first" else targets[2, 64, 65:]
    x = np.asfortranarray(logits) if where == "strided" else logits
    out, grad_out = np.full((), 7, dtype), np.full_like(logits, 7)
    text = r"targets\[{}\] = 5 is not a class; expected 0 <= target < 5 or ignore_index=-100"
    with pytest.raises(IndexError, match=text.format(", ".join(map(str, position)))):
        xent.dice_loss(x, targets, return_grad=True, out=out, grad_out=grad_out)
    assert out == 7
    assert (grad_out == 7).all()


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_gradient_in_place_of_the_logits(isa, dtype, axis):
    logits, targets = problem(dtype, (65, 67))
    expected = xent.dice_loss(logits, targets, return_grad=True)
    x = np.ascontiguousarray(np.moveaxis(logits, 1, axis))
    out = np.zeros((), dtype)
    loss, grad = xent.dice_loss(x, targets, axis=axis, return_grad=True, grad_out=x, out=out)
    assert grad is x
    assert loss is out
    assert_same((loss[()], np.moveaxis(grad, axis, 1)), expected)


def test_overlap_is_refused(dtype):
    logits, targets = problem(dtype, (8, 8), soft=True)
    room = np.zeros(logits.size + 1, dtype)
    room[1:] = logits.ravel()
    x = room[1:].reshape(logits.shape)
    with pytest.raises(ValueError, match="grad_out: the array overlaps the memory of logits"):
        xent.dice_loss(x, targets, return_grad=True, grad_out=room[:-1].reshape(logits.shape))
    with pytest.raises(ValueError, match="grad_out: the array overlaps the memory of targets"):
        xent.dice_loss(x, targets, return_grad=True, grad_out=targets)
    with pytest.raises(ValueError, match="out: the array overlaps the memory of logits"):
        xent.dice_loss(x, targets, out=x[:, 0, 0, 0], reduction="none")
    assert_same(x, logits)


@pytest.mark.parametrize(
    ("logits", "targets", "options", "error", "shows"),
    [
        (np.zeros(3), [0], {}, ValueError, "logits: expected at least two axes.*(3,)"),
        (
            np.zeros((2, 3)),
            [0, 1],
            {"axis": 0},
            ValueError,
            "axis 0 of logits is that of the samples",
        ),
        (
            np.zeros((2, 3)),
            [0, 1],
            {"axis": -2},
            ValueError,
            "axis 0 of logits is that of the samples",
        ),
        (
            np.zeros((2, 0, 4)),
            np.zeros((2, 4), int),
            {},
            ValueError,
            "logits: shape .* no elements",
        ),
        (
            np.zeros((2, 3)),
            np.ones((2, 3)),
            {"ignore_index": 1},
            ValueError,
            "ignore_index: 1 needs class indices",
        ),
        (
            np.zeros((2, 3)),
            [0, 1],
            {"batch": True, "reduction": "none", "out": np.zeros(2)},
            ValueError,
            "out: .*\\(\\)",
        ),
    ],
)
def test_what_these_losses_alone_refuse(logits, targets, options, error, shows):
    with pytest.raises(error, match=shows):
        xent.dice_loss(logits, targets, **options)


def test_sums_of_confident_positions(isa):
    """Probabilities of 2^-24 and less do not vanish beside sums of a million."""
    logits = np.zeros((1, 2, 1 << 20), np.float32)
    logits[0, 0] = 17
    targets = np.zeros((1, 1 << 20), int)
    check("dice_loss", logits, targets, smooth=0.0)


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_gradient_of_confident_positions(isa, dtype, soft):
    """To its last digits: of the most probable class, p (g - Σ p g) is -p Σ p_k (g_k - g) over the others."""
    rng = np.random.default_rng(3)
    logits, targets = problem(dtype, (40,), soft=soft)
    top = rng.integers(0, 5, (3, 1, 40))
    np.put_along_axis(logits, top, dtype.type(24), axis=1)
    grad = xent.dice_loss(logits, targets, return_grad=True)[1]
    with np.errstate(all="ignore"):
        oracle = ORACLES["dice_loss"](logits, targets)
        apart = oracle.pull - np.take_along_axis(oracle.pull, top, axis=1)
        size = (oracle.p * abs(apart)).sum(axis=1, keepdims=True)
        # What g is off by, some eps of it, is multiplied by no more than the probability of the others.
        others = 1 - np.take_along_axis(oracle.p, top, axis=1)
        slack = 40 * np.finfo(dtype).eps * (size + others * abs(oracle.pull).max())
        exact = -oracle.p * (oracle.p * apart).sum(axis=1, keepdims=True)
    exact, bound, found = (
        np.take_along_axis(a, top, axis=1) for a in (exact, slack + 0 * exact, grad)
    )
    assert_within(found, exact, bound)


def test_sums_of_float64_are_compensated(isa):
    """A piece of positions as like to each other as can be loses no digit: to an ulp, where plain sums lose ten."""
    logits = np.zeros((1, 3, 4096))
    logits[:, 0], logits[:, 2] = 0.3, -1.7
    targets = np.zeros((1, 4096), int)
    loss = xent.dice_loss(logits, targets, smooth=0.0, class_weight=[1, 0, 0])
    p = xent.softmax(logits[0, :, 0])[0]
    # One position's probability, as a multiple of which every sum is exact.
    exact = 1 - np.longdouble(2) * p / (np.longdouble(p) + 1)
    assert abs(loss - exact) < 2.0**-53
