"""Losses of single elements: bounds, edges, layouts, and the libraries whose formulas they are."""

from __future__ import annotations

import inspect
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from mpmath import mp

import xent
from calls import ELEMENTWISE, assert_same, using
from reference import WIDE, differences, wide
from test_layout import LAYOUTS
from tolerance import assert_within, eps, expect, ulp
from xent import _core

INF, NAN = np.inf, np.nan
REDUCTIONS = ("none", "sum", "mean")
# Vectors, pieces of 1,024, blocks of 4,096 elements: before, at and after.
SHAPES = ((), (1,), (7,), (16,), (3, 11), (33, 33), (2, 3, 683), (4097,), (5, 1, 1639))
NAMES = pytest.mark.parametrize("name", ELEMENTWISE)


def draw(name: str, shape: tuple[int, ...], dtype: Any, soft: bool = True, seed: int = 0) -> Any:
    """Ordinary arguments: x, and targets of which some are 0 or 1, or all are."""
    rng = np.random.default_rng([seed, len(shape), math.prod(shape)])
    x = rng.normal(0, 3, shape)
    if name == "binary_cross_entropy":
        x = 1 / (1 + np.exp(-x))
    if name == "kl_div":
        x = -np.abs(x)
    t = rng.random(shape)
    t = np.where(rng.random(shape) < (0.4 if soft else 1), t > 0.5, t)
    return x.astype(dtype), t.astype(dtype)


def _weights(shape: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {"sample_weight": rng.uniform(0, 3, shape) * (rng.random(shape) < 0.9)}


def _last_axis(shape: tuple[int, ...], name: str) -> dict[str, Any]:
    return {name: np.random.default_rng(3).uniform(0.1, 3, shape[-1:])}


OPTIONS: dict[str, dict[str, Callable[[tuple[int, ...]], dict[str, Any]]]] = {
    "binary_cross_entropy": {
        "smoothing": lambda shape: {"label_smoothing": 0.1},
        "clipped": lambda shape: {"eps": 1e-7},
        "clipped a lot": lambda shape: {"eps": 0.2, "label_smoothing": 0.3},
    },
    "binary_cross_entropy_with_logits": {
        "smoothing": lambda shape: {"label_smoothing": 0.1},
        "pos_weight": lambda shape: _last_axis(shape, "pos_weight"),
        "one pos_weight": lambda shape: {"pos_weight": 2.5, "label_smoothing": 0.3},
    },
    "sigmoid_focal_loss": {
        "no alpha": lambda shape: {"alpha": None},
        "gamma 0": lambda shape: {"gamma": 0.0},
        "gamma 1/2": lambda shape: {"gamma": 0.5, "alpha": 0.9},
        "gamma 1": lambda shape: {"gamma": 1.0},
        "gamma 5": lambda shape: {"gamma": 5.0, "alpha": 0.0},
    },
    "asymmetric_loss": {
        "no clip": lambda shape: {"clip": 0.0},
        "gammas 0": lambda shape: {"gamma_neg": 0.0, "gamma_pos": 0.0},
        "gammas 1 and 2": lambda shape: {"gamma_neg": 1.0, "gamma_pos": 2.0, "clip": 0.3},
        "gammas 2 and 4": lambda shape: {"gamma_neg": 2.0, "gamma_pos": 4.0, "clip": 0.9},
        "gammas 1/2 and 3": lambda shape: {"gamma_neg": 0.5, "gamma_pos": 3.0},
        "gammas 5 and 1/2, no clip": lambda shape: {
            "gamma_neg": 5.0,
            "gamma_pos": 0.5,
            "clip": 0.0,
        },
    },
    "kl_div": {"log_target": lambda shape: {"log_target": True}},
}
COMMON: dict[str, Callable[[tuple[int, ...]], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "weights": _weights,
    "weights of the last axis": lambda shape: _last_axis(shape, "sample_weight"),
}
CASES = pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{case}")
        for name in ELEMENTWISE
        for case, options in (COMMON | OPTIONS[name]).items()
    ],
)


def everything(name: str, x: Any, t: Any, **options: Any) -> tuple[Any, ...]:
    """Loss, gradient, and Hessian where there is one."""
    return getattr(xent, name)(x, t, **ELEMENTWISE[name], **options)


def check(name: str, x: Any, t: Any, what: str = "", **options: Any) -> None:
    """Hold all results to the oracle; the loss alone is the same."""
    expected = expect(name, x, t, **options)
    loss, grad, *hess = everything(name, x, t, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    assert_within(grad, expected.grad, expected.grad_bound, f"gradient {what}")
    if hess:
        assert_within(hess[0], expected.hess, expected.hess_bound, f"Hessian {what}")
        assert_same(getattr(xent, name)(x, t, return_grad=True, **options), (loss, grad))
    options.pop("grad_output", None)
    assert_same(getattr(xent, name)(x, t, **options), loss)


@CASES
@pytest.mark.parametrize("soft", [False, True], ids=("hard", "soft"))
def test_option(isa, dtype, name, options, soft):
    for shape in SHAPES:
        x, t = draw(name, shape, dtype, soft)
        given = options(shape)
        if given.get("log_target"):
            with np.errstate(divide="ignore"):
                t = np.log(t)
        for reduction in REDUCTIONS:
            check(name, x, t, f"{shape}, {reduction}", reduction=reduction, **given)


@NAMES
def test_grad_output(dtype, name):
    x, t = draw(name, (40, 11), dtype)
    upstream = np.random.default_rng(4).normal(0, 2, (40, 11))
    weights = _weights((40, 11))
    check(name, x, t, reduction="none", grad_output=upstream, **weights)
    check(name, x, t, grad_output=-1.75, **weights)
    check(name, x, t, reduction="sum", grad_output=0.5)


def edges(name: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Every telling x with every telling target."""
    limits = np.finfo(dtype)
    t = [
        0,
        1,
        0.5,
        limits.eps,
        1 - limits.eps / 2,
        4 * limits.tiny,
        limits.smallest_subnormal,
        1 / 3,
    ]
    far = [1e-30, 0.3, 17, 40, 87, 88, 104, 700, 745, 1e4, float(limits.max), INF]
    x = [0, -0.0, limits.tiny, *far, *(-v for v in far), NAN]
    if name == "binary_cross_entropy":
        x = [*t, -0.0, 1e-13, 1e-30, 0.9, 1 - 1e-7, 0.49999, NAN]
    both = np.meshgrid(np.array(x, dtype), np.array(t, dtype))
    return both[0].ravel(), both[1].ravel()


@CASES
def test_edges(isa, dtype, name, options):
    x, t = edges(name, dtype)
    given = options(x.shape)
    if given.get("log_target"):
        t = np.tile(np.array([-INF, -1e4, -88, -1, 0, 3, 44, 85], dtype), len(t))[: len(t)]
    check(name, x, t, reduction="none", **given)


def exact_binary(p: Any, t: Any) -> Any:
    logs = [mp.log(v) if v > mp.exp(-100) else mp.mpf(-100) for v in (p, 1 - p)]
    return -(t * logs[0]) - (1 - t) * logs[1]


def exact_logits(z: Any, t: Any) -> Any:
    return t * mp.log1p(mp.exp(-z)) + (1 - t) * mp.log1p(mp.exp(z))


def exact_focal(z: Any, t: Any) -> Any:
    down, up = 1 / (1 + mp.exp(z)), 1 / (1 + mp.exp(-z))
    q, alpha = t * down + (1 - t) * up, mp.mpf("0.25")
    return (alpha * t + (1 - alpha) * (1 - t)) * q**2 * exact_logits(z, t)


def exact_kl(x: Any, t: Any) -> Any:
    return t * (mp.log(t) - x) if t else mp.zero


def exact_asymmetric(z: Any, t: Any) -> Any:
    p, q = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
    m = max(p - mp.mpf(0.05), mp.zero)
    return t * q * mp.log1p(mp.exp(-z)) - (1 - t) * m**4 * mp.log1p(-m)


EXACT = {
    "binary_cross_entropy": exact_binary,
    "binary_cross_entropy_with_logits": exact_logits,
    "sigmoid_focal_loss": exact_focal,
    "kl_div": exact_kl,
    "asymmetric_loss": exact_asymmetric,
}


@NAMES
def test_sixty_digits(isa, dtype, name):
    """Where torch's clamps are not at work, results are those of the formulas, differentiated."""
    x, t = edges(name, dtype)
    inside = (np.abs(x) < 1e4) & (np.abs(x) > 1e-12)
    if name == "binary_cross_entropy":
        inside = (x > 1e-11) & (x < 1 - 1e-11)
    x, t = x[inside], t[inside]
    expected = expect(name, x, t, reduction="none")
    actual = everything(name, x, t, reduction="none")
    exact = []
    for v, w in zip(x.tolist(), t.tolist(), strict=True):
        at, target = mp.mpf(v), mp.mpf(w)
        with mp.workdps(1000):
            value = EXACT[name](at, target)
        slope, curve = differences(lambda z, target=target: EXACT[name](z, target), at)
        exact.append((value, slope, curve))
    bounds = expected.value_bound, expected.grad_bound, expected.hess_bound
    for i, (one, bound) in enumerate(zip(actual, bounds, strict=False)):
        numbers = wide([row[i] for row in exact])
        if i and name != "kl_div":
            # A step of 1e-20 x leaves its square times the third derivative, at most 1e17 here.
            bound = bound + np.where(np.abs(numbers) < 1e-20, 1e-22, 0)
        assert_within(one, numbers, bound, ("loss", "gradient", "Hessian")[i])


@CASES
def test_derivatives_are_difference_quotients(name, options):
    shape, step = (6, 5), 1e-5
    x, t = draw(name, shape, np.float64)
    if name == "binary_cross_entropy":
        x = 0.01 + 0.98 * x
        x = np.where(np.abs(x - 0.2) < 1e-3, 0.3, np.where(np.abs(x - 0.8) < 1e-3, 0.7, x))
    given = options(shape)
    _, grad, *hess = everything(name, x, t, reduction="sum", **given)
    ask = {"reduction": "none", "return_grad": True} | given
    up, down = (getattr(xent, name)(x + s, t, **ask) for s in (step, -step))
    # The next but one derivative times step² / 6: of log p it is 2 / p³ <= 2e6; and an ulp or two.
    slack = 1e-4 if name == "binary_cross_entropy" else 5e-8
    np.testing.assert_allclose(grad, (up[0] - down[0]) / (2 * step), atol=slack, rtol=1e-7)
    if hess:
        np.testing.assert_allclose(hess[0], (up[1] - down[1]) / (2 * step), atol=slack)


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.5, 0.999, 1.0, 2.0, 1000.0])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.5])
def test_focal_is_finite_as_p_goes_to_one(isa, dtype, gamma, target):
    z = np.concatenate([np.linspace(0, 110, 300), np.linspace(600, 800, 100), [1e4, INF]])
    z = np.concatenate([z, -z]).astype(dtype)
    t = np.full_like(z, target)
    loss, *derivatives = xent.sigmoid_focal_loss(
        z, t, gamma=gamma, reduction="none", return_hess=True
    )
    assert np.isfinite(loss[np.isfinite(z)]).all()
    assert all(np.isfinite(d).all() for d in derivatives)


@NAMES
def test_elements_of_weight_0_count_for_nothing(isa, dtype, name):
    x, t = draw(name, (300, 7), dtype)
    counts = np.random.default_rng(0).random((300, 7)) < 0.5
    spoilt = np.where(counts, x, dtype.type(NAN)), np.where(counts, t, dtype.type(NAN))
    for reduction in REDUCTIONS:
        given = {"reduction": reduction, "sample_weight": counts}
        results = everything(name, *spoilt, **given)
        assert_same(results, everything(name, x, t, **given))
        assert all((part[~counts] == 0).all() for part in results[1:])
    loss, *derivatives = everything(name, *spoilt, sample_weight=0)
    assert np.isnan(loss)
    assert all((d == 0).all() for d in derivatives)


@NAMES
def test_a_weight_of_2_counts_twice(name):
    x, t = draw(name, (50,), np.float64)
    weight = np.ones(50)
    weight[10:20] = 2
    twice = [np.concatenate([a, a[10:20]]) for a in (x, t)]
    close = {"rtol": 1e-14}
    for reduction in ("sum", "mean"):
        weighted = getattr(xent, name)(x, t, sample_weight=weight, reduction=reduction)
        repeated = getattr(xent, name)(*twice, reduction=reduction)
        np.testing.assert_allclose(weighted, repeated, **close)


def test_batchmean():
    x, t = draw("kl_div", (6, 5), np.float64)
    total, grad = xent.kl_div(x, t, reduction="sum", return_grad=True)
    mean, mean_grad = xent.kl_div(x, t, reduction="batchmean", return_grad=True)
    np.testing.assert_allclose(mean, total / 6, rtol=1e-15)
    np.testing.assert_allclose(mean_grad, grad / 6, rtol=1e-15)
    weighted = xent.kl_div(x, t, reduction="batchmean", sample_weight=0.5)
    np.testing.assert_allclose(weighted, total / 12, rtol=1e-15)
    assert xent.kl_div(x[0, 0], t[0, 0], reduction="batchmean") == xent.kl_div(x[0, 0], t[0, 0])
    assert np.isnan(xent.kl_div(x[:0], t[:0], reduction="batchmean"))
    assert xent.kl_div(x[:, :0], t[:, :0], reduction="batchmean") == 0
    check("kl_div", x, t, reduction="batchmean", grad_output=3.0)


@NAMES
@pytest.mark.parametrize("size", [1000, 4096, 5000, 100_000])
def test_sums_are_exact_to_an_ulp(isa, dtype, name, size):
    """Of the losses that the call itself returns."""
    x, t = draw(name, (size,), dtype, seed=size)
    if name == "kl_div":
        x -= 1  # one sign: t (log t - x) > 0
    losses = getattr(xent, name)(x, t, reduction="none")
    exact = math.fsum(losses.tolist())
    total = getattr(xent, name)(x, t, reduction="sum")
    mean = getattr(xent, name)(x, t)
    assert abs(float(total) - exact) <= ulp(exact, dtype)
    assert abs(WIDE(mean) - WIDE(exact) / size) <= ulp(exact / size, dtype)


def test_sums_larger_than_float32():
    x = np.full(64, -3e38, np.float32)
    assert xent.binary_cross_entropy_with_logits(x, np.ones_like(x)) == np.float32(3e38)
    assert xent.binary_cross_entropy_with_logits(x, np.ones_like(x), reduction="sum") == INF
    x[0] = -INF
    assert xent.binary_cross_entropy_with_logits(x.astype(float), np.ones(64)) == INF


FLAT_LAYOUTS = {**LAYOUTS, "transposed": lambda a: np.ascontiguousarray(a.T).T}


@NAMES
@pytest.mark.parametrize("layout", FLAT_LAYOUTS.values(), ids=FLAT_LAYOUTS)
def test_layout(isa, dtype, name, layout):
    for shape in ((9,), (7, 10), (3, 5, 65), (6, 1025), (5000, 3)):
        x, t = draw(name, shape, dtype)
        weight = np.random.default_rng(1).uniform(0, 2, shape).astype(dtype)
        for reduction in ("none", "mean"):
            upstream = weight if reduction == "none" else dtype.type(1.5)
            given = {"sample_weight": weight, "grad_output": upstream}
            viewed = {"sample_weight": layout(weight), "grad_output": upstream}
            if reduction == "none":
                viewed["grad_output"] = layout(weight)
            expected = everything(name, x, t, reduction=reduction, **given)
            for one, other in ((layout(x), t), (x, layout(t)), (layout(x), layout(t))):
                assert_same(everything(name, one, other, reduction=reduction, **viewed), expected)


@NAMES
def test_broadcast_arrays(isa, dtype, name):
    x, t = draw(name, (1, 50), dtype)
    many = np.broadcast_to(x, (90, 50)), np.broadcast_to(t[:, :1], (90, 50))
    copies = many[0].copy(), many[1].copy()
    assert_same(everything(name, *many), everything(name, *copies))
    shape = (3, 4, 50)
    x, t = draw(name, shape, dtype)
    for weight in (np.float64(1.5), np.ones((4, 1)) / 3, np.linspace(0, 1, 50), np.ones((3, 1, 1))):
        given = {"sample_weight": weight}
        if name == "binary_cross_entropy_with_logits":
            given["pos_weight"] = weight
        full = {key: np.broadcast_to(value, shape).copy() for key, value in given.items()}
        assert_same(everything(name, x, t, **given), everything(name, x, t, **full))


@NAMES
def test_layout_of_buffers(isa, dtype, name):
    for shape in ((7, 10), (33, 130), (4099,)):
        x, t = draw(name, shape, dtype)
        expected = everything(name, x, t, reduction="none")
        for key in ("strided rows", "reversed rows", "fully strided", "unaligned", "fortran"):
            names = ("out", "grad_out", "hess_out")[: len(expected)]
            buffers = {k: LAYOUTS[key](np.full(shape, 7, dtype)) for k in names}
            actual = everything(name, x, t, reduction="none", **buffers)
            assert all(a is b for a, b in zip(actual, buffers.values(), strict=True))
            assert_same(actual, expected)


@NAMES
def test_in_place(isa, dtype, name):
    for layout in ("strided rows", "fully strided", "reversed rows", "unaligned"):
        x, t = draw(name, (40, 130), dtype)
        expected = everything(name, x, t)
        view = LAYOUTS[layout](x)
        view = view if view.flags.writeable else view.copy()
        assert_same(everything(name, view, t, grad_out=view), expected)
        assert_same(np.asarray(view), expected[1])


@NAMES
def test_bits_on_every_isa_and_thread_count(dtype, name):
    for shape in ((1,), (4097,), (70_001,), (300, 1000)):
        x, t = draw(name, shape, dtype)
        for reduction in ("none", "mean"):
            given = _last_axis(shape, "sample_weight") | {"reduction": reduction}
            with using(_core.isas()[0], 1):
                expected = everything(name, x, t, **given)
            for isa in _core.isas():
                for threads in (1, 2, 3):
                    with using(isa, threads):
                        assert_same(everything(name, x, t, **given), expected)


@NAMES
def test_an_element_does_not_know_its_neighbours(isa, dtype, name):
    x, t = draw(name, (70,), dtype)
    whole = everything(name, x, t, reduction="none")
    for i in range(70):
        alone = everything(name, x[i : i + 1], t[i : i + 1], reduction="none")
        assert_same(alone, tuple(part[i : i + 1] for part in whole))


@NAMES
def test_hard_targets_need_no_hard_neighbours(isa, dtype, name):
    """Targets of 0 and 1 alone take a shorter way than the same ones among others."""
    x, t = (np.tile(a, 5) for a in edges(name, dtype))  # several vectors
    hard = (t == 0) | (t == 1)
    among = everything(name, x, np.where(hard, t, 0.5).astype(dtype), reduction="none")
    alone = everything(name, x[hard], t[hard], reduction="none")
    assert_same(alone, tuple(part[hard] for part in among))
    if not name.startswith("kl"):
        check(name, x[hard], t[hard], reduction="none")


@NAMES
def test_results_that_outgrow_the_cache(name):
    """Stores that go past the cache, and begin and end anywhere."""
    x, t = draw(name, ((1 << 23) + 5000,), np.float32)
    raw = np.full(len(x) + 7, 7, np.float32)
    for reduction in ("none", "mean"):
        grad = raw[3:-4]
        with xent.num_threads(2):  # many threads have much cache
            loss, whole = getattr(xent, name)(
                x, t, reduction=reduction, return_grad=True, grad_out=grad
            )
        assert (raw[:3] == 7).all()
        assert (raw[-4:] == 7).all()
        part = slice(5_000_000, 5_005_000)  # pieces and blocks begin in it
        given = {"reduction": "none", "return_grad": True}
        if reduction == "mean":
            given["grad_output"] = np.full(5000, 1 / np.float32(len(x)), np.float32)
        expected = getattr(xent, name)(x[part], t[part], **given)
        assert_same(whole[part], expected[1])
        if reduction == "none":
            assert_same(loss[part], expected[0])


TARGET_DTYPES = (bool, np.int8, np.uint64, np.float16, np.float32, np.float64, ">f4", ">i8")


@NAMES
@pytest.mark.parametrize("size", [3, 5000, 70_000, 200_001])
def test_conversion_a_block_at_a_time_changes_no_bit(dtype, name, size):
    x, t = draw(name, (size,), dtype, soft=False)
    weight = np.random.default_rng(1).integers(0, 3, size)
    shape = (size,) if size % 7 else (7, size // 7)
    x, t, weight = (a.reshape(shape) for a in (x, t, weight))
    for reduction in REDUCTIONS:
        given = {"reduction": reduction, "sample_weight": weight.astype(dtype)}
        expected = everything(name, x, t, **given)
        for other in TARGET_DTYPES:
            assert_same(everything(name, x, t.astype(other), **given), expected)
        given["sample_weight"] = weight
        assert_same(everything(name, x, t, **given), expected)
        swapped = x.astype(x.dtype.newbyteorder())
        assert_same(everything(name, swapped, t.astype(bool), **given), expected)
        view = swapped[..., ::-1][..., ::-1]
        assert_same(everything(name, view, np.asfortranarray(t.astype(bool)), **given), expected)


@NAMES
def test_conversion_needs_no_more_memory_than_a_block(name):
    x, t = draw(name, (3_000_000,), np.float32, soft=False)
    t, grad = t.astype(bool), np.zeros_like(x)
    call = {"return_grad": True, "grad_out": grad, "sample_weight": np.ones(len(x), np.int8)}
    getattr(xent, name)(x, t, **call)
    tracemalloc.start()
    getattr(xent, name)(x, t, **call)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Four arrays of 65,536 elements, and two sums for each 4,096.
    assert peak < 4 * 65_536 * 4 + 2 * 8 * len(x) // 4096 + 64 * 1024


@NAMES
@pytest.mark.parametrize("size", [9, 70_000])
def test_integer_input_is_float64(name, size):
    x = np.arange(size) % 2
    t = np.arange(size) % 3 == 0
    loss, grad, *_ = everything(name, x, t)
    assert loss.dtype == grad.dtype == np.float64
    assert_same(everything(name, x, t), everything(name, x.astype(float), t.astype(float)))


HALVES = {
    "float16": (np.float16, {}),
    "bfloat16": (ml_dtypes.bfloat16, {}),
    "bits": (np.uint16, {"dtype": "bfloat16"}),
}


@NAMES
@pytest.mark.parametrize("half", HALVES)
def test_halves_are_float32_rounded_once(isa, name, half):
    """Every number of the type."""
    dtype, told = HALVES[half]
    known = np.dtype(np.float16 if half == "float16" else ml_dtypes.bfloat16)
    x = np.arange(1 << 16, dtype=np.uint16).view(known)
    with np.errstate(all="ignore"):
        exact = x.astype(np.float32)
    if name == "binary_cross_entropy":
        x = x[~((exact < 0) | (exact > 1))]
        exact = x.astype(np.float32)
    t = np.resize(np.array([0, 1, 0.25], np.float32), x.shape)
    for reduction in ("none", "sum"):
        actual = everything(name, x.view(dtype), t, reduction=reduction, **told)
        expected = everything(name, exact, t, reduction=reduction)
        assert actual[0].dtype == np.float32
        np.testing.assert_array_equal(actual[0], expected[0])
        for one, other in zip(actual[1:], expected[1:], strict=True):
            assert one.dtype == dtype
            with np.errstate(all="ignore"):
                rounded = other.astype(known).astype(np.float32)
            np.testing.assert_array_equal(one.view(known).astype(np.float32), rounded)


@pytest.mark.parametrize("bad", [-0.25, 1.5, -INF, INF, "next"])
@pytest.mark.parametrize("given", [{}, {"eps": 0.1}, {"sample_weight": 0.5}], ids=("", "eps", "w"))
@pytest.mark.parametrize("layout", ["plain", "fortran", "swapped", "float16", "bits"])
def test_a_probability_out_of_range(isa, bad, given, layout):
    """What is clipped may be one rounding above 1."""
    shape = (70, 1100)
    p = np.random.default_rng(0).random(shape).astype(np.float32)
    known = {"float16": np.float16, "bits": ml_dtypes.bfloat16}.get(layout, np.float32)
    one_up = 1 + np.float32(ml_dtypes.finfo(known).eps)
    value = np.float32(bad if bad != "next" else 2 * one_up - 1 if "eps" in given else one_up)
    told = {"dtype": "bfloat16"} if layout == "bits" else {}
    with np.errstate(under="ignore"):
        p = p.astype(known)
    if layout == "fortran":
        p = np.asfortranarray(p)
    elif layout == "swapped":
        p = p.astype(">f4")

    def as_given() -> np.ndarray:
        return p.view(np.uint16) if layout == "bits" else p

    p[2, 2] = NAN
    p[1, 1] = one_up if "eps" in given else 1
    targets = np.zeros(shape, np.float32)
    grad = np.full(shape, 7, as_given().dtype.newbyteorder("="))
    out = np.full(shape, 7, np.float32)
    options = {"reduction": "none", "return_grad": True, "grad_out": grad} | given | told
    targets[60, 2] = NAN
    targets[69, 3] = bad if bad != "next" else np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(ValueError, match=r"targets\[69, 3\] = .* is not a probability"):
        xent.binary_cross_entropy(as_given(), targets, **options, out=out)
    p[60, 3] = p[69, 1099] = value
    message = rf"probs\[60, 3\] = {value} is not a probability".replace("+", r"\+")
    with pytest.raises(ValueError, match=message):
        xent.binary_cross_entropy(as_given(), targets, **options, out=out)
    assert (grad == 7).all()
    assert (out == 7).all()
    # Where nothing counts, nothing is validated.
    weight = np.ones(shape)
    weight[60, 3] = weight[69, 1099] = weight[69, 3] = 0
    options["sample_weight"] = weight
    loss, _ = xent.binary_cross_entropy(as_given(), targets, **options, out=out)
    assert loss[60, 3] == loss[69, 1099] == loss[69, 3] == 0
    assert np.isnan(loss[2, 2])


def test_dtypes_and_forms_of_results(dtype):
    for name in ELEMENTWISE:
        x, t = draw(name, (3, 4), dtype)
        mean, grad, *_ = everything(name, x, t)
        assert type(mean) is dtype.type
        assert grad.dtype == dtype
        rows = getattr(xent, name)(x, t, reduction="none")
        assert type(rows) is np.ndarray
        assert rows.shape == (3, 4)
        one = getattr(xent, name)(x[0, 0], t[0, 0], reduction="none")
        assert type(one) is dtype.type
        out = np.full((), 7, dtype)
        assert getattr(xent, name)(x, t, out=out) is out
        assert out == mean
        lists = getattr(xent, name)(x.tolist(), t.tolist())
        assert_same(lists, getattr(xent, name)(x.astype(float), t))


SHAPE = (4, 3)


def _read_only(dtype: Any = float) -> np.ndarray:
    buffer = np.zeros(SHAPE, dtype)
    buffer.flags.writeable = False
    return buffer


def _bad_arrays() -> list[tuple[Any, type[Exception], str]]:
    return [
        (np.zeros(SHAPE, complex), TypeError, "complex128"),
        (np.zeros(SHAPE, np.longdouble), TypeError, "longdouble|float128"),
        (np.full(SHAPE, "a"), TypeError, "<U1"),
        (np.full(SHAPE, None), TypeError, "object"),
        (np.ma.masked_array(np.zeros(SHAPE)), TypeError, "masked"),
        ([[1.0], [2.0, 3.0]], TypeError, "inhomogeneous"),
    ]


def _bad_numbers(*values: float) -> list[tuple[Any, type[Exception], str]]:
    wrong = [("1", TypeError, "'1'"), (1j, TypeError, "1j"), ([1.0, 2.0], TypeError, r"\[1")]
    return wrong + [(value, ValueError, str(value)) for value in values]


def _bad_buffers() -> list[tuple[Any, type[Exception], str]]:
    shared = np.lib.stride_tricks.as_strided(np.zeros(1), SHAPE, (0, 0))
    return [
        (np.zeros((4, 4)), ValueError, r"\(4, 4\)"),
        (np.zeros(SHAPE, np.float32), ValueError, "float32"),
        (_read_only(), ValueError, "read-only"),
        (np.zeros(SHAPE).tolist(), TypeError, "list"),
        (shared, ValueError, "share memory"),
    ]


BATCH_MEAN: tuple[Any, type[Exception], str] = ("batchmean", ValueError, "'batchmean'")
BAD: dict[str, list[tuple[Any, type[Exception], str]]] = {
    "logits": _bad_arrays(),
    "probs": _bad_arrays(),
    "log_probs": _bad_arrays(),
    "targets": [
        *_bad_arrays(),
        (np.zeros(4), ValueError, r"\(4,\).*\(4, 3\)"),
        (np.zeros((2, 1)), ValueError, r"\(2, 1\).*\(4, 3\)"),
        (np.zeros((1, 4, 3)), ValueError, r"\(1, 4, 3\).*\(4, 3\)"),
        (None, TypeError, "object"),
    ],
    "sample_weight": [
        (np.ones(4), ValueError, r"\(4,\).*\(4, 3\)"),
        (np.ones((2, 4, 3)), ValueError, r"\(2, 4, 3\).*\(4, 3\)"),
        (np.ones(3, complex), TypeError, "complex128"),
    ],
    "pos_weight": [
        (np.ones(4), ValueError, r"\(4,\).*\(4, 3\)"),
        (np.ones(3, complex), TypeError, "complex128"),
    ],
    "label_smoothing": [*_bad_numbers(-0.1, 1.1, NAN, INF), (None, TypeError, "None")],
    "eps": _bad_numbers(0.0, -0.1, 0.6, NAN),
    "alpha": _bad_numbers(-0.1, 1.1, NAN),
    "gamma": [*_bad_numbers(-0.1, NAN, INF), (None, TypeError, "None")],
    "gamma_neg": [*_bad_numbers(-0.1, 1001, NAN, INF), (None, TypeError, "None")],
    "gamma_pos": [*_bad_numbers(-0.1, 1001, NAN, INF), (None, TypeError, "None")],
    "clip": [*_bad_numbers(-0.1, 1.0, NAN), (None, TypeError, "None")],
    "reduction": [
        ("avg", ValueError, "none, sum, mean"),
        (None, ValueError, "None"),
        BATCH_MEAN,
    ],
    "grad_output": [
        (np.ones(SHAPE), ValueError, r"\(4, 3\)"),
        (np.ones((), complex), TypeError, "complex128"),
    ],
    "out": [
        (np.zeros(SHAPE), ValueError, r"\(4, 3\)"),
        (np.zeros((), np.float32), ValueError, "float32"),
        (0.0, TypeError, "float"),
    ],
    "grad_out": _bad_buffers(),
    "hess_out": _bad_buffers(),
    "dtype": [("float8", ValueError, "float8"), ("bfloat16", ValueError, "float64")],
}
# Options that take anything with a truth value, which arrays have not.
for flag in ("return_grad", "return_hess", "log_target"):
    BAD[flag] = [(np.ones(2), TypeError, "True or False")]


def _parameters(name: str) -> list[str]:
    return list(inspect.signature(getattr(xent, name)).parameters)


def _good(name: str) -> dict[str, Any]:
    x, t = draw(name, SHAPE, np.float64)
    good = {_parameters(name)[0]: x, "targets": t, "out": np.full((), 7.0)}
    good |= ELEMENTWISE[name] | {"grad_out": np.full(SHAPE, 7.0)}
    return good | ({"hess_out": np.full(SHAPE, 7.0)} if "hess_out" in _parameters(name) else {})


@pytest.mark.parametrize(
    ("name", "argument", "value", "error", "shows"),
    [
        pytest.param(name, argument, *bad, id=f"{name}-{argument}-{i}")
        for name in ELEMENTWISE
        for argument in _parameters(name)
        for i, bad in enumerate(BAD.get(argument, ()))
        if not (name == "kl_div" and bad is BATCH_MEAN)
    ],
)
def test_bad_argument(name, argument, value, error, shows):
    given = _good(name) | {argument: value}
    with pytest.raises(error, match=f"(?s){argument}.*({shows})|({shows}).*{argument}"):
        getattr(xent, name)(**given)
    for buffer in ("out", "grad_out", "hess_out"):
        if buffer in given and buffer != argument:
            assert (given[buffer] == 7).all()


@NAMES
def test_every_argument_has_something_it_cannot_take(name):
    assert set(_parameters(name)) <= BAD.keys()
    getattr(xent, name)(**_good(name))


@NAMES
def test_buffers_that_overlap_or_are_not_asked_for(name):
    x, t = draw(name, SHAPE, np.float64)
    function = getattr(xent, name)
    for argument in ("grad_output", "grad_out"):
        with pytest.raises(ValueError, match=f"{argument}.*return_grad"):
            function(x, t, **{argument: np.ones(())})
    if "hess_out" in _parameters(name):
        with pytest.raises(ValueError, match=r"hess_out.*return_hess"):
            function(x, t, return_grad=True, hess_out=np.zeros(SHAPE))
        with pytest.raises(ValueError, match=r"hess_out.*overlaps"):
            function(x, t, return_hess=True, hess_out=x)
    with pytest.raises(ValueError, match=r"grad_out.*overlaps.*targets"):
        function(x, t, return_grad=True, grad_out=t)
    raw = np.zeros(13)
    raw[:12] = x.ravel()
    with pytest.raises(ValueError, match=r"grad_out.*overlaps"):
        function(raw[:12].reshape(SHAPE), t, return_grad=True, grad_out=raw[1:].reshape(SHAPE))
    with pytest.raises(ValueError, match=r"out.*overlaps"):
        function(x, t, reduction="none", out=x)


def test_keras_formula(dtype):
    """keras.losses.binary_crossentropy: clip, then two logarithms; and its derivative."""
    p, t = draw("binary_cross_entropy", (500,), dtype)
    p[:4] = [0, 1, 1e-9, 1 - 1e-7]
    epsilon = 1e-7
    # In numbers wide enough for 1 - 1e-7: 1 - p is clipped at 1e-7 as well.
    low = dtype.type(epsilon).astype(WIDE)
    clipped = np.clip(p.astype(WIDE), low, 1 - low)
    others = np.clip(1 - p.astype(WIDE), low, 1 - low)
    log_p = np.where(clipped > 0.5, np.log1p(-others), np.log(clipped))
    log_others = np.where(clipped > 0.5, np.log(others), np.log1p(-clipped))
    rows = -(t * log_p + (1 - t) * log_others)
    loss, grad = xent.binary_cross_entropy(p, t, eps=epsilon, reduction="none", return_grad=True)
    close = {"rtol": 4 * float(eps(dtype))}
    np.testing.assert_allclose(loss, rows.astype(float), **close)
    slope = np.where(clipped == p, (clipped - t) / (clipped * (1 - clipped)), 0)
    np.testing.assert_allclose(grad, slope.astype(float), **close)


def test_known_values():
    half = xent.binary_cross_entropy([0.5], [1])
    np.testing.assert_allclose(half, np.log(2), rtol=1e-15)
    tiny = xent.binary_cross_entropy_with_logits([50.0], [1])
    np.testing.assert_allclose(tiny, np.exp(-50), rtol=1e-15)
    focal = xent.sigmoid_focal_loss([0.0], [1], alpha=None, gamma=2.0)
    np.testing.assert_allclose(focal, np.log(2) / 4, rtol=1e-15)
    np.testing.assert_allclose(xent.kl_div([0.0], [2.0], log_target=True), 2 * np.exp(2))


def margin(clip: float) -> np.ndarray:
    """Logits about the one whose probability is the clip, to the last bit."""
    at = np.log(clip) - np.log1p(-clip)
    near = at * (1 + np.arange(-300, 301) * 2.0**-52)
    return np.concatenate([near, at + np.linspace(-1e-3, 1e-3, 300), at + np.linspace(-8, 8, 300)])


@pytest.mark.parametrize("clip", [1e-6, 0.05, 0.4, 0.75, 1 - 2.0**-10])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, 4.0, 7.5, 1000.0])
def test_asymmetric_about_the_margin(isa, dtype, clip, gamma):
    z = margin(clip).astype(dtype)
    z = np.concatenate([z, np.linspace(-110, 110, 441).astype(dtype)])
    for t in (0.0, 1.0, 0.5, -0.5, 2.0):
        given = {"clip": clip, "gamma_neg": gamma, "gamma_pos": gamma, "reduction": "none"}
        check("asymmetric_loss", z, np.full_like(z, t), f"target {t}", **given)


def test_asymmetric_gradient_is_0_up_to_the_margin(isa, dtype):
    z = np.array([-INF, -100, -10, -3, -2.95], dtype)  # the margin of 1/20 is at -log 19 = -2.944
    for gamma in (0.0, 0.5, 1.0, 4.0):
        given = {"gamma_neg": gamma, "reduction": "none", "return_grad": True}
        loss, grad = xent.asymmetric_loss(z, np.zeros_like(z), **given)
        assert loss.tolist() == grad.tolist() == [0] * 5
        loss, grad = xent.asymmetric_loss(z.astype(float) + 0.1, np.zeros(5), **given)
        assert loss[4] > 0
        assert grad[4] > 0


def test_asymmetric_without_exponents_is_cross_entropy(isa, dtype):
    x, t = draw("asymmetric_loss", (33, 33), dtype)
    none = {"gamma_neg": 0, "gamma_pos": 0, "clip": 0, "reduction": "none", "return_grad": True}
    found = xent.asymmetric_loss(x, t, **none)
    name = "binary_cross_entropy_with_logits"
    expected = expect(name, x, t, reduction="none")
    own = expect("asymmetric_loss", x, t, **{k: v for k, v in none.items() if k != "return_grad"})
    assert_within(found[0], expected.value, own.value_bound)
    assert_within(found[1], expected.grad, own.grad_bound)


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.5, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("clip", [0.0, 1e-30, 0.05, 0.999])
def test_asymmetric_is_finite_as_p_goes_to_its_ends(isa, dtype, gamma, clip):
    z = np.concatenate([np.linspace(0, 110, 300), np.linspace(600, 800, 100), [1e4, INF]])
    z = np.concatenate([z, -z]).astype(dtype)
    for target in (0.0, 1.0, 0.5):
        loss, grad = xent.asymmetric_loss(
            z,
            np.full_like(z, target),
            gamma_neg=gamma,
            gamma_pos=gamma,
            clip=clip,
            reduction="none",
            return_grad=True,
        )
        assert np.isfinite(loss[np.isfinite(z)]).all()
        assert np.isfinite(grad).all()
    assert np.isnan(xent.asymmetric_loss(dtype.type(NAN), 0, gamma_neg=gamma, clip=clip))


def test_asymmetric_arguments():
    with pytest.raises(ValueError, match=r"clip: expected a number in \[0, 1\), got 1\.0"):
        xent.asymmetric_loss([0.0], [1], clip=1.0)
    with pytest.raises(ValueError, match=r"clip: .* got -0\.1"):
        xent.asymmetric_loss([0.0], [1], clip=-0.1)
    with pytest.raises(ValueError, match=r"gamma_neg: expected a number in \[0, 1000\], got -1"):
        xent.asymmetric_loss([0.0], [1], gamma_neg=-1)
    with pytest.raises(ValueError, match=r"gamma_pos: .* got 1001"):
        xent.asymmetric_loss([0.0], [1], gamma_pos=1001)
    with pytest.raises(TypeError, match=r"gamma_pos: .* got '1'"):
        xent.asymmetric_loss([0.0], [1], gamma_pos="1")
    with pytest.raises(TypeError, match="no keyword 'gamma'; xent calls it gamma_neg"):
        xent.asymmetric_loss([0.0], [1], gamma=2.0)
