"""Dynamic loss scaling: quotients rounded once, the finite check, the schedule, what is refused."""

from __future__ import annotations

import bisect
import copy
import json
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import xent
from xent import _core

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = pytest.mark.parametrize("half", [np.dtype(np.float16), BFLOAT16], ids=str)
FLOATS = [np.dtype(kind) for kind in (np.float16, BFLOAT16, np.float32, np.float64)]
INF, NAN = np.inf, np.nan
# Powers of two; few bits; as many as a float has; more.
SCALES = (
    2.0**16,
    2.0**-5,
    1.0,
    3.0,
    1000.0,
    2.0**16 + 2.0**8,
    1 + 2.0**-23,
    65536 / 3,
    0.1,
    math.pi,
)


@pytest.fixture(params=FLOATS, ids=str)
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    """Run the test in every dtype of gradients, those of two bytes too."""
    return request.param


def scaler(scale: float) -> xent.LossScaler:
    return xent.LossScaler(init_scale=scale)


def every_half(half: np.dtype) -> np.ndarray:
    """All numbers of a half type, NaN of one payload among them."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(half)
    return numbers[~np.isnan(numbers.astype(np.float32))]


def rounded(x: Fraction, numbers: np.ndarray, values: list[Fraction]) -> Any:
    """The nearest of the positive finite numbers of a type, the one whose last bit is 0 if two are."""
    if x >= values[-1] + (values[-1] - values[-2]) / 2:
        return numbers.dtype.type(INF)
    i = bisect.bisect(values, x)
    return numbers[
        min(range(i - 1, min(i + 1, len(values))), key=lambda k: (abs(values[k] - x), k % 2))
    ]


@HALVES
@pytest.mark.parametrize("scale", SCALES)
def test_halves_are_rounded_once(isa, half, scale):
    """Each of 600 numbers of every size, against fractions."""
    positive = np.arange(0, 1 << 15, dtype=np.uint16).view(half)
    positive = positive[np.isfinite(positive.astype(np.float32))]
    values = [Fraction(float(v)) for v in positive]
    picked = np.random.default_rng(0).choice(len(positive), 600, replace=False)
    grad = np.concatenate([positive[picked], -positive[picked]])
    assert scaler(scale).unscale(grad)
    expected = [rounded(values[i] / Fraction(scale), positive, values) for i in picked]
    expected = np.concatenate([np.array(expected, half), -np.array(expected, half)])
    assert (grad.view(np.uint16) == expected.view(np.uint16)).all()


@HALVES
def test_all_halves_of_few_bits(isa, half):
    """Scales of seven bits: quotients are rounded to float32 on their way, and still as if they had been rounded once."""
    numbers = every_half(half)
    finite = np.isfinite(numbers.astype(np.float32))
    for scale in (*range(65, 128, 2), 2.0**-100 * 81, 2.0**100 * 127, 2.0**-126, 2.0**127):
        grad = numbers.copy()
        assert not scaler(scale).unscale(grad)
        with np.errstate(all="ignore"):
            wide = numbers[finite].astype(np.float64) / scale
            expected = wide.astype(np.float32)
            # The last bit of a float32 that is not exact is 1: rounding that to a half type is rounding once.
            bits = np.abs(expected).view(np.uint32)
            larger = np.abs(expected.astype(np.float64)) > np.abs(wide)
            odd = ((bits - larger) | 1).view(np.float32)
            odd = np.where(expected.astype(np.float64) == wide, np.abs(expected), odd)
            expected = np.copysign(odd, expected).astype(half)
        assert (grad[finite].view(np.uint16) == expected.view(np.uint16)).all(), scale


@pytest.mark.parametrize("scale", SCALES)
def test_singles_are_rounded_once(isa, scale):
    rng = np.random.default_rng(1)
    grad = rng.integers(0, 1 << 32, 4099, np.uint32).view(np.float32)
    grad = grad[np.isfinite(grad)]
    before, wide = grad.copy(), grad.astype(np.longdouble) / np.longdouble(scale)
    assert scaler(scale).unscale(grad)
    # 64 bits of x / scale are too many for it to be a middle between floats without being exactly that, but for subnormals.
    with np.errstate(all="ignore"):
        normal = np.abs(wide) > 2.0**-126
        assert (grad == wide.astype(np.float32))[normal].all()
    for x, y in zip(before[~normal][:200], grad[~normal][:200], strict=True):
        exact = Fraction(float(x)) / Fraction(scale) / Fraction(2) ** -149
        assert Fraction(float(y)) / Fraction(2) ** -149 == round(exact)


@pytest.mark.parametrize("scale", SCALES)
def test_doubles_are_rounded_once(isa, scale):
    rng = np.random.default_rng(2)
    grad = rng.normal(0, 1, 4099) * 10.0 ** rng.integers(-290, 290, 4099)
    expected = grad / scale
    assert scaler(scale).unscale(grad)
    assert grad.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 1023, 1024, 1025, 5000, 300_001])
@pytest.mark.parametrize("scale", [2.0**16, 3.0])
def test_any_size_and_place(isa, dtype, threads, size, scale):
    """Every element once, whatever the number of threads; what lies around is untouched."""
    room = np.full(size + 64, 7, dtype)
    grad = room[32 : 32 + size]
    grad[...] = np.arange(size) % 251 - 125
    expected = (grad.astype(np.float64) / scale).astype(dtype)
    assert scaler(scale).unscale(grad)
    assert grad.tobytes() == expected.tobytes()
    assert (room[:32] == 7).all()
    assert (room[32 + size :] == 7).all()


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
@pytest.mark.parametrize("scale", [2.0**16, 3.0, 0.1])
def test_every_element_is_looked_at(isa, dtype, bad, scale):
    for size in (1, 16, 70, 1030, 200_000):
        for at in {0, size // 2, size - 1}:
            grad = np.ones(size, dtype)
            grad[at] = bad
            assert not scaler(scale).unscale(grad)
            found = grad.astype(np.float64)
            assert np.isnan(found[at]) if np.isnan(bad) else found[at] == bad
            assert np.isfinite(np.delete(found, at)).all()
    # What is finite but has no finite quotient is not for the check: it was finite.
    largest = np.array([np.finfo(np.float32).max], np.float32)
    assert scaler(0.25).unscale(largest)
    assert largest[0] == INF


LAYOUTS = {
    "transposed": lambda a: a.T,
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "columns": lambda a: np.repeat(a, 3, axis=1)[:, ::3],
    "reversed": lambda a: a[::-1, ::-1],
    "rows apart": lambda a: np.concatenate([a, a], axis=1)[:, : a.shape[1]],
    "axes swapped": lambda a: a.reshape(10, -1, a.shape[1]).transpose(1, 0, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(10, 7), (1000, 130)])
def test_layout(isa, dtype, layout, shape):
    grad = layout((np.arange(math.prod(shape)) % 100).reshape(shape).astype(dtype))
    expected = (grad.astype(np.float64) / 8).astype(dtype)
    assert scaler(8.0).unscale(grad)
    assert (grad == expected).all()
    grad[-1, -1] = INF
    assert not scaler(8.0).unscale(grad)


def test_other_byte_order_and_alignment():
    grad = np.arange(100.0).astype(">f4")
    assert scaler(4.0).unscale(grad)
    assert (grad == np.arange(100) / 4).all()
    room = np.zeros(801, np.uint8)
    grad = room[1:].view(np.float64)
    grad[...] = np.arange(100)
    assert scaler(4.0).unscale(grad)
    assert (grad == np.arange(100) / 4).all()
    scalar = np.array(6.0)
    assert scaler(4.0).unscale(scalar)
    assert scalar == 1.5


def test_refused_arrays_change_nothing():
    good, other = np.ones(8), np.full((4, 4), 2.0)
    read_only = np.ones(3)
    read_only.flags.writeable = False
    for bad, error, words in (
        ([1.0, 2.0], TypeError, r"grads\[1\]: expected a numpy.ndarray, got list"),
        (np.float64(2), TypeError, r"grads\[1\]: expected a numpy.ndarray, got float64"),
        (None, TypeError, r"grads\[1\]: .* got NoneType"),
        (np.ones(3, int), TypeError, r"grads\[1\]: dtype int64 is not accepted; expected float16"),
        (np.ones(3, complex), TypeError, r"grads\[1\]: dtype complex128"),
        (np.ones(3, np.longdouble), TypeError, r"grads\[1\]: dtype"),
        (np.ones(3, np.uint16), TypeError, r"grads\[1\]: dtype uint16"),
        (np.ma.ones(3), TypeError, r"grads\[1\]: .* MaskedArray"),
        (read_only, ValueError, r"grads\[1\]: the array is read-only"),
        (np.broadcast_to(np.ones(3), (2, 3)), ValueError, r"grads\[1\]: the array is read-only"),
        (
            np.lib.stride_tricks.as_strided(np.ones(4), (2, 3), (8, 8)),
            ValueError,
            r"grads\[1\]: elements of the array share memory",
        ),
        (good[3:5], ValueError, r"grads\[1\]: the array overlaps the memory of grads\[0\]"),
        (good, ValueError, r"grads\[1\]: the array overlaps the memory of grads\[0\]"),
    ):
        loss_scaler = scaler(4.0)
        with pytest.raises(error, match=words):
            loss_scaler.unscale(good, bad, other)
        assert (good == 1).all()
        assert (other == 2).all()
        with pytest.raises(ValueError, match="nothing has been unscaled"):
            loss_scaler.update()
    with pytest.raises(ValueError, match="grads: expected at least one array"):
        scaler(4.0).unscale()
    # Arrays that are woven into each other share nothing.
    woven = np.ones((6, 6))
    assert scaler(2.0).unscale(woven[::2], woven[1::2, ::2], woven[1::2, 1::2])
    assert (woven == 0.5).all()


def test_schedule():
    loss_scaler = xent.LossScaler(1024.0, growth_factor=4.0, backoff_factor=0.25, growth_interval=3)
    good, bad = np.ones(3), np.array([1, INF, 1])

    def step(*grads: np.ndarray) -> float:
        for grad in grads:
            loss_scaler.unscale(grad.copy())
        loss_scaler.update()
        return loss_scaler.scale

    assert [step(good) for _ in range(7)] == [1024, 1024, 4096, 4096, 4096, 16384, 16384]
    assert step(bad) == 4096
    # The step that was not finite began the count anew.
    assert [step(good) for _ in range(3)] == [4096, 4096, 16384]
    # Several calls before one update count together, whichever was not finite.
    assert step(good, bad, good) == 4096
    assert step(bad, good) == 1024
    assert step(good, good) == 1024
    assert loss_scaler.state_dict()["growth_tracker"] == 1
    assert isinstance(loss_scaler.scale, float)


def test_update_needs_gradients():
    loss_scaler = xent.LossScaler()
    assert loss_scaler.scale == 65536
    with pytest.raises(ValueError, match="update: nothing has been unscaled since the last update"):
        loss_scaler.update()
    loss_scaler.unscale(np.ones(1))
    loss_scaler.update()
    with pytest.raises(ValueError, match="update: nothing has been unscaled"):
        loss_scaler.update()


def test_scale_stays_within_float32():
    largest = 2.0**127
    loss_scaler = xent.LossScaler(largest, growth_interval=1)
    for _ in range(3):
        loss_scaler.unscale(np.ones(1))
        loss_scaler.update()
        assert loss_scaler.scale == largest
        assert loss_scaler.state_dict()["growth_tracker"] == 0
    loss_scaler = xent.LossScaler(2.0**-125)
    for scale in (2.0**-126, 2.0**-126):
        loss_scaler.unscale(np.array([NAN]))
        loss_scaler.update()
        assert loss_scaler.scale == scale


def test_state():
    loss_scaler = xent.LossScaler(8.0, 3.0, 0.125, 5)
    loss_scaler.unscale(np.ones(2))
    loss_scaler.update()
    state = json.loads(json.dumps(loss_scaler.state_dict()))
    assert state == {
        "scale": 8.0,
        "growth_factor": 3.0,
        "backoff_factor": 0.125,
        "growth_interval": 5,
        "growth_tracker": 1,
    }
    other = xent.LossScaler()
    other.unscale(np.array([INF]))
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert (
        repr(other)
        == repr(loss_scaler)
        == (
            "LossScaler(init_scale=8.0, growth_factor=3.0, backoff_factor=0.125, growth_interval=5)"
        )
    )
    with pytest.raises(ValueError, match="nothing has been unscaled"):
        other.update()
    assert copy.deepcopy(other).state_dict() == state
    for _ in range(4):
        other.unscale(np.ones(2))
        other.update()
    assert other.scale == 24.0


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"scale": 0.0}, ValueError, r"scale: expected a number in .* got 0\.0"),
        ({"scale": INF}, ValueError, "scale: .* got inf"),
        ({"scale": "8"}, TypeError, "scale: .* got '8'"),
        (
            {"growth_factor": 1.0},
            ValueError,
            r"growth_factor: expected a finite number > 1, got 1\.0",
        ),
        (
            {"backoff_factor": 1.0},
            ValueError,
            r"backoff_factor: expected a number in \(0, 1\), got 1\.0",
        ),
        ({"growth_interval": 0}, ValueError, "growth_interval: expected an integer >= 1, got 0"),
        ({"growth_interval": 2.0}, TypeError, r"growth_interval: .* got 2\.0"),
        ({"growth_tracker": -1}, ValueError, "growth_tracker: expected an integer >= 0, got -1"),
        (
            {"growth_tracker": 2000},
            ValueError,
            "growth_tracker: expected less than growth_interval",
        ),
        ({"more": 1}, ValueError, "state: expected the keys scale, growth_factor"),
    ],
)
def test_refused_state_changes_nothing(changes, error, words):
    loss_scaler = xent.LossScaler()
    before = loss_scaler.state_dict()
    with pytest.raises(error, match=words):
        loss_scaler.load_state_dict({**before, "scale": 2.0} | changes)
    assert loss_scaler.state_dict() == before


def test_refused_arguments():
    with pytest.raises(TypeError, match="state: expected a dict, got 3"):
        xent.LossScaler().load_state_dict(3)
    with pytest.raises(ValueError, match="state: expected the keys"):
        xent.LossScaler().load_state_dict({"scale": 1.0})
    for name, value, error in (
        ("init_scale", -1.0, ValueError),
        ("init_scale", 1e39, ValueError),
        ("init_scale", NAN, ValueError),
        ("init_scale", None, TypeError),
        ("growth_factor", 0.5, ValueError),
        ("backoff_factor", 0.0, ValueError),
        ("growth_interval", True, ValueError),
        ("growth_interval", "many", TypeError),
    ):
        with pytest.raises(error, match=f"{name}: expected"):
            xent.LossScaler(**{name: value})
    loss_scaler = xent.LossScaler()
    loss_scaler.scale = 0.0
    with pytest.raises(ValueError, match="scale: expected"):
        loss_scaler.unscale(np.ones(1))


def test_core_refuses_what_it_cannot_divide():
    for array, scale, dtype in (
        (np.ones((4, 4))[:, ::2], 2.0, "float64"),
        (np.ones(4, np.float32), 2.0, "float64"),
        (np.ones(4), 0.0, "float64"),
        (np.ones(4), NAN, "float64"),
    ):
        with pytest.raises(ValueError, match="unscale: "):
            _core.unscale(array, scale, dtype)
        assert (array == 1).all()


def test_scaled_training_in_half_precision():
    """Gradients below the smallest float16 come through at a scale, and are lost without."""
    logits = np.array([[12.0, 0.0]], np.float16)
    _, lost = xent.cross_entropy(logits, [0], return_grad=True, grad_output=2.0**-10)
    loss_scaler = xent.LossScaler(2.0**14)
    scale = loss_scaler.scale * 2.0**-10
    _, grad = xent.cross_entropy(logits, [0], return_grad=True, grad_output=scale)
    wide = grad.astype(np.float32)
    assert loss_scaler.unscale(wide)
    exact = xent.softmax(np.array([12.0, 0.0]))[1] * 2.0**-10
    assert not lost.any()
    np.testing.assert_allclose(wide[0, 1], exact, rtol=2.0**-10)
