"""`info_nce` and `sigmoid_contrastive_loss`: losses of all similarities, of which there is never a matrix."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpmath import mp

import xent
from calls import REDUCTIONS
from test_half import HALVES
from tolerance import assert_within, expect
from xent import _contrastive

NAMES = {
    "info_nce": ("queries", "keys", "temperature"),
    "sigmoid_contrastive_loss": ("a", "b", "logit_scale", "logit_bias"),
}
SCALED = {"logit_scale": 2.5, "logit_bias": -1.5}
# The forms of both losses; of the first, whose queries need not be as many as the keys.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "one side": ("info_nce", {"temperature": 0.5}),
    "two sides": ("info_nce", {"temperature": 0.5, "symmetric": True}),
    "sigmoid": ("sigmoid_contrastive_loss", SCALED),
}


def vectors(rows: int, features: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Vectors whose products are of the order of 1."""
    rng = np.random.default_rng([seed, rows, features])
    with np.errstate(under="ignore"):
        return rng.normal(0, max(1, features) ** -0.25, (rows, features)).astype(dtype)


def pairs(rows: int, features: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and others that resemble them, as those of a model in training."""
    first = vectors(rows, features, dtype)
    return first, ((first + vectors(rows, features, dtype, 1)) / 2).astype(dtype)


def results(name: str, *arrays: Any, **options: Any) -> tuple[Any, tuple[Any, ...]]:
    """The loss and all derivatives."""
    if name == "info_nce":
        loss, grads, last = xent.info_nce(
            *arrays, return_grad=True, return_temperature_grad=True, **options
        )
        return loss, (*grads, last)
    return xent.sigmoid_contrastive_loss(*arrays, return_grad=True, **options)


def check(name: str, *arrays: Any, what: str = "", **options: Any) -> None:
    """Hold loss and derivatives to the oracle."""
    expected = expect(name, *arrays, **options)
    loss, grads = results(name, *arrays, **options)
    assert_within(loss, expected.value, expected.value_bound, f"loss {what}")
    alone = getattr(xent, name)(*arrays, **{**options, "grad_output": None})
    assert_within(alone, expected.value, expected.value_bound, f"loss alone {what}")
    for of, grad, exact, bound in zip(
        NAMES[name], grads, expected.grad, expected.grad_bound, strict=True
    ):
        assert_within(grad, exact, bound, f"gradient of {of} {what}")


@pytest.fixture(params=[(1, 1, 1, 1), (1, 3, 100, 7), (1 << 12, 5, 1 << 9, 64)], ids=str)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and slabs of so many bytes, or rows; so many numbers that are divided at once."""
    names = ("BLOCK_BYTES", "BLOCK_ROWS", "SLAB_BYTES", "UNIT_ELEMENTS")
    for name, value in zip(names, request.param, strict=True):
        monkeypatch.setattr(_contrastive, name, value)


def weights(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).uniform(0.5, 2, rows)


# Values.


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradients(isa, dtype, form, normalize, reduction):
    name, given = FORMS[form]
    for rows, features in ((1, 1), (2, 3), (7, 5), (33, 16), (130, 8)):
        arrays = pairs(rows, features, dtype)
        options = given | {"normalize": normalize, "reduction": reduction}
        check(name, *arrays, what=f"{rows}x{features}", **options)
        upstream = weights(rows) - 1 if reduction == "none" else -1.75
        options |= {"sample_weight": weights(rows), "grad_output": upstream}
        check(name, *arrays, what=f"weighted {rows}x{features}", **options)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0, 30.0])
@pytest.mark.parametrize("symmetric", [False, True])
def test_temperature(dtype, symmetric, temperature):
    check(
        *("info_nce", *pairs(40, 8, dtype)),
        temperature=temperature,
        symmetric=symmetric,
        normalize=True,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_targets(dtype, reduction):
    """More keys than queries, fewer keys, ignored rows, integers of any size."""
    queries = vectors(12, 5, dtype)
    for keys in (1, 4, 12, 31):
        for kind in (np.int64, np.int8, np.uint16, "bool" if keys > 1 else np.int32):
            targets = np.arange(12) % min(keys, 2 if kind == "bool" else keys)
            options: dict[str, Any] = {"targets": targets.astype(kind), "reduction": reduction}
            if kind == np.int64:
                targets[1::3] = -100
            if kind == np.int8:
                options["ignore_index"] = 0
            check("info_nce", queries, vectors(keys, 5, dtype, 2), temperature=0.5, **options)
    check("info_nce", queries, vectors(20, 5, dtype, 2), temperature=0.5, reduction=reduction)


def test_it_is_the_cross_entropy_of_the_similarities(dtype):
    """Of small multiples of 1/8, whose products and sums are exact in any order."""
    rng = np.random.default_rng(3)
    queries, keys = (rng.integers(-8, 9, (n, 6)).astype(dtype) / 8 for n in (9, 21))
    options: dict[str, Any] = {"temperature": 0.25, "reduction": "none"}
    expected = xent.cross_entropy(queries @ keys.T, np.arange(9), **options)
    np.testing.assert_array_equal(xent.info_nce(queries, keys, **options), expected)
    columns = xent.cross_entropy(queries @ keys[:9].T, np.arange(9), axis=0, **options)
    rows = xent.cross_entropy(queries @ keys[:9].T, np.arange(9), **options)
    both = xent.info_nce(queries, keys[:9], symmetric=True, **options)
    np.testing.assert_array_equal(both, (rows + columns) * dtype.type(0.5))


def test_formulas_in_sixty_digits():
    first, second = (a.astype(float) for a in pairs(4, 3, np.float32))
    size = range(4)

    def unit(a: np.ndarray) -> list[list[Any]]:
        norms = [mp.sqrt(sum(mp.mpf(x) ** 2 for x in row)) for row in a]
        return [[mp.mpf(x) / n for x in row] for row, n in zip(a, norms, strict=True)]

    u, v = unit(first), unit(second)
    s = [[sum(x * y for x, y in zip(u[i], v[j], strict=True)) for j in size] for i in size]
    t = mp.mpf(0.07)
    rows = [mp.log(sum(mp.exp(s[i][j] / t) for j in size)) - s[i][i] / t for i in size]
    columns = [mp.log(sum(mp.exp(s[i][j] / t) for i in size)) - s[j][j] / t for j in size]
    scale, bias = mp.mpf(SCALED["logit_scale"]), mp.mpf(SCALED["logit_bias"])
    decisions = [
        sum(mp.log1p(mp.exp((-1 if i == j else 1) * (scale * s[i][j] + bias))) for j in size)
        for i in size
    ]
    given = {"normalize": True, "reduction": "none"}
    two = [(r + c) / 2 for r, c in zip(rows, columns, strict=True)]
    for found, exact in (
        (xent.info_nce(first, second, **given), rows),
        (xent.info_nce(first, second, symmetric=True, **given), two),
        (xent.sigmoid_contrastive_loss(first, second, **SCALED, **given), decisions),
    ):
        # Similarities of a size of 1 / 0.07 and sums of four: some tens of roundings.
        np.testing.assert_allclose(found, np.array(exact, float), rtol=0, atol=1e-14)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_the_difference_quotients_of_the_loss(form, normalize):
    name, given = FORMS[form]
    step, rows = 1e-5, 5
    arrays = dict(zip(NAMES[name], pairs(rows, 3, float), strict=False))
    numbers = {key: given[key] for key in NAMES[name][2:]}
    for reduction in REDUCTIONS:
        upstream = weights(rows) - 1 if reduction == "none" else 2.5
        options = given | {"normalize": normalize, "reduction": reduction}
        options["sample_weight"] = weights(rows)

        def total(moved: dict[str, Any], options: Any = options, upstream: Any = upstream) -> Any:
            loss = getattr(xent, name)(**(options | arrays | numbers | moved))
            return np.sum(loss * upstream)

        _, grads = results(name, *arrays.values(), grad_output=upstream, **options)
        for (key, value), grad in zip((arrays | numbers).items(), grads, strict=True):
            for at in np.ndindex(np.shape(value)):
                moved = np.zeros(np.shape(value))
                moved[at] = step
                up, down = (total({key: value + sign * moved}) for sign in (1, -1))
                # The third derivative times step² / 6, and some ulp of the loss over the step.
                assert abs(grad[at] - (up - down) / (2 * step)) < 2e-7, (key, at)


# Blocks.


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_blocks(dtype, form, reduction, small_blocks):
    """Their number changes no more than the order of sums: the bounds hold."""
    name, given = FORMS[form]
    for rows, features in ((1, 2), (23, 6), (40, 3)):
        arrays = pairs(rows, features, dtype)
        for normalize in (False, True):
            options = given | {"normalize": normalize, "reduction": reduction}
            check(name, *arrays, what=f"{rows}", **options)
            weight = weights(rows)
            if form != "two sides":
                weight[1::3] = 0
            check(name, *arrays, what=f"weighted {rows}", sample_weight=weight, **options)


def test_blocks_of_rows_that_count(dtype, small_blocks):
    targets = np.arange(23) % 9
    targets[::4] = -100
    check(
        *("info_nce", vectors(23, 4, dtype), vectors(9, 4, dtype, 1)),
        targets=targets,
        temperature=0.5,
    )


def test_products_of_two_passes_but_one(monkeypatch):
    """The last block of the first pass is not computed again; without a gradient there is one pass."""
    monkeypatch.setattr(_contrastive, "BLOCK_BYTES", 1)
    monkeypatch.setattr(_contrastive, "BLOCK_ROWS", 10)
    calls: list[int] = []
    load = _contrastive.Pairs.load

    def seen(self: Any, block: Any) -> Any:
        calls.append(block[0].start)
        return load(self, block)

    monkeypatch.setattr(_contrastive.Pairs, "load", seen)
    arrays = pairs(30, 4, float)
    xent.info_nce(*arrays, symmetric=True)
    assert calls == [0, 10, 20]
    calls.clear()
    xent.info_nce(*arrays, symmetric=True, return_grad=True)
    assert calls == [0, 10, 20, 10, 0]


# Dtypes.


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.name)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_half_types(half, form, normalize, small_blocks):
    """The float32 results of the same numbers, whose gradients are rounded once."""
    name, given = FORMS[form]
    narrow = [half.narrow(a) for a in pairs(11, 6, np.float32)]
    options = given | {"normalize": normalize}
    expected = expect(name, *(half.wide(a) for a in narrow), **options)
    loss, grads = results(name, *narrow, **options, **half.told)
    assert_within(loss, expected.value, expected.value_bound)
    for grad, exact, bound in zip(grads[:2], expected.grad, expected.grad_bound, strict=False):
        assert grad.dtype == half.dtype
        low, high = (
            half.wide(half.narrow((exact + sign * bound).astype(np.float32))) for sign in (-1, 1)
        )
        # Twice: the ends of the interval are rounded to float32 on their way.
        margin = 2 * np.spacing(np.abs(exact).astype(np.float32) + np.float32(1e-30))
        assert ((half.wide(grad) >= low - margin) & (half.wide(grad) <= high + margin)).all()


@pytest.mark.parametrize("form", FORMS)
def test_two_dtypes(form):
    """Computed in the wider one; each gradient in its own."""
    name, given = FORMS[form]
    first, second = pairs(9, 5, np.float16)
    for other in (np.float32, np.float64):
        check(name, first, second.astype(other), **given)
        loss, grads = results(name, first, second.astype(other), **given)
        assert [a.dtype for a in (loss, *grads[:2])] == [other, np.float16, other]
        assert all(a.dtype == other for a in grads[2:])
    whole = (8 * first).astype(int)
    check(name, whole, second, **given)
    assert results(name, whole, second, **given)[1][0].dtype == np.float64


@pytest.mark.parametrize("form", FORMS)
def test_layouts(dtype, form):
    """Of strided, reversed, transposed, swapped and read-only arrays."""
    name, given = FORMS[form]
    first, second = pairs(12, 6, dtype)
    expected = results(name, first, second, **given)
    apart = np.zeros((24, 12), dtype)
    apart[::2, ::2] = first
    read_only = first.copy()
    read_only.flags.writeable = False
    views = (apart[::2, ::2], first[::-1].copy()[::-1], np.asfortranarray(first), read_only)
    for view in (*views, first.astype(dtype.newbyteorder())):
        loss, grads = results(name, view, second, **given)
        tolerance = 64 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(loss, expected[0], rtol=tolerance)
        for grad, one in zip(grads, expected[1], strict=True):
            np.testing.assert_allclose(grad, one, rtol=tolerance, atol=tolerance)


# Norms.


@pytest.mark.parametrize("form", FORMS)
def test_zero_vectors_stay_zero(dtype, form, small_blocks):
    name, given = FORMS[form]
    first, second = pairs(8, 4, dtype)
    first[3] = second[5] = 0
    loss, grads = results(name, first, second, normalize=True, **given)
    assert np.isfinite(loss)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert (grads[0][3] == 0).all()
    assert (grads[1][5] == 0).all()
    check(name, first, second, normalize=True, **given)


@pytest.mark.parametrize("form", FORMS)
def test_norms_of_any_size(dtype, form):
    """Squares of the numbers would leave the range of the dtype: a power of two changes no bit of the loss."""
    name, given = FORMS[form]
    first, second = pairs(6, 4, dtype)
    loss, grads = results(name, first, second, normalize=True, **given)
    half = np.finfo(dtype).maxexp - 8
    for exponent in (half, -half):
        scaled = np.ldexp(first, exponent)
        with np.errstate(all="ignore"):
            moved, others = results(name, scaled, second, normalize=True, **given)
        assert moved == loss
        np.testing.assert_array_equal(others[1], grads[1])
        if exponent < 0:
            np.testing.assert_allclose(np.ldexp(others[0], exponent), grads[0], rtol=1e-5)


# Rows that are NaN or infinite, that do not count, and none.


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["one side", "sigmoid"])
def test_rows_that_do_not_count_poison_nothing(dtype, form, bad, small_blocks):
    name, given = FORMS[form]
    first, second = pairs(9, 4, dtype)
    first[1::3] = bad
    weight = np.where(np.arange(9) % 3 == 1, 0, 0.5)
    calls: list[dict[str, Any]] = [{"sample_weight": weight}]
    if form == "one side":
        calls.append({"targets": np.where(weight == 0, -100, np.arange(9))})
    for reduction in REDUCTIONS:
        for call in calls:
            options = given | call | {"reduction": reduction}
            loss, grads = results(name, first, second, **options)
            assert np.isfinite(loss).all()
            assert all(np.isfinite(grad).all() for grad in grads)
            assert (grads[0][1::3] == 0).all()
            check(name, first, second, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_nan_stays_in_its_row_where_rows_are_apart(dtype, form, normalize, bad):
    name, given = FORMS[form]
    first, second = pairs(6, 4, dtype)
    plain = first.copy()
    first[2], first[2, 1] = bad, -bad
    options = given | {"normalize": normalize, "reduction": "none"}
    loss, grads = results(name, first, second, **options)
    if form == "two sides":
        assert np.isnan(loss).all()
        return
    expected, others = results(name, plain, second, **options)
    rows = np.arange(6) != 2
    np.testing.assert_allclose(loss[rows], expected[rows], rtol=1e-5)
    np.testing.assert_allclose(grads[0][rows], others[0][rows], rtol=1e-4, atol=1e-6)
    assert np.isnan(loss[2]) or form == "sigmoid"
    assert np.isnan(grads[0][2]).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_counts(dtype, form, reduction):
    name, given = FORMS[form]
    arrays = pairs(4, 3, dtype)
    empty = np.empty((0, 3), dtype)
    options = given | {"reduction": reduction}
    spoilt = np.full((4, 3), np.nan, dtype), arrays[1]
    for some, weight in ((arrays, np.zeros(4)), (spoilt, np.zeros(4)), ((empty, empty), None)):
        loss, grads = results(name, *some, sample_weight=weight, **options)
        assert np.isnan(loss) if reduction == "mean" else (loss == 0).all()
        assert [a.shape for a in grads[:2]] == [a.shape for a in some]
        assert all((np.asarray(grad) == 0).all() for grad in grads)
    if form == "one side":
        loss, grads = results(name, empty, arrays[1], **options)
        assert (grads[1] == 0).all()
    loss, grads = results(name, np.empty((3, 0), dtype), np.empty((3, 0), dtype), **options)
    per_row = (
        np.log(3) if name == "info_nce" else 2 * np.log1p(np.exp(-1.5)) + np.log1p(np.exp(1.5))
    )
    total = np.sum(loss) / (1 if reduction == "mean" else 3)
    np.testing.assert_allclose(total, per_row, rtol=4 * np.finfo(dtype).eps)


def test_certain_pairs_keep_their_digits(dtype):
    """A pair's loss of e^-x, where x is so large that softplus(x) - x is 0."""
    one = np.array([[1]], dtype)
    for x in (20.0, 60.0):
        loss, grads = results("sigmoid_contrastive_loss", one, one, logit_scale=x, logit_bias=0.0)
        tolerance = 8 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(loss, np.log1p(np.exp(-x)), rtol=tolerance)
        np.testing.assert_allclose(grads[3], -1 / (1 + np.exp(x)), rtol=tolerance)


# Results.


@pytest.mark.parametrize("form", FORMS)
def test_results_by_themselves(dtype, form):
    """The same loss, whatever is asked for besides; the temperature's derivative with and without gradients."""
    name, given = FORMS[form]
    arrays = pairs(7, 5, dtype)
    for reduction in REDUCTIONS:
        options = given | {"reduction": reduction}
        loss, grads = results(name, *arrays, **options)
        function = getattr(xent, name)
        out = np.full(np.shape(loss), 7, dtype)
        assert function(*arrays, out=out, **options) is out
        np.testing.assert_array_equal(out, loss)
        assert np.asarray(function(*arrays, **options)).dtype == dtype
        if name == "info_nce":
            alone = function(*arrays, return_temperature_grad=True, **options)
            np.testing.assert_array_equal(alone[0], loss)
            assert len(alone) == 2
            assert alone[1].dtype == dtype
            normal = options | {"normalize": True}
            both = results(name, *arrays, **normal)[1][2]
            assert function(*arrays, return_temperature_grad=True, **normal)[1] == both
            assert alone[1] == grads[2]


# Bad input.

A = np.arange(12.0).reshape(4, 3)
BAD: list[tuple[str, dict[str, Any], type[Exception] | tuple[type[Exception], ...], str]] = [
    ("info_nce", {"queries": np.zeros(3)}, ValueError, r"queries: .*\(N, D\).*\(3,\)"),
    ("info_nce", {"queries": np.zeros((4, 3), complex)}, TypeError, "queries: .*complex128"),
    ("info_nce", {"keys": np.zeros((4, 2))}, ValueError, r"keys: .*3 features.*\(4, 2\)"),
    ("info_nce", {"keys": np.zeros((4, 3), "U1")}, TypeError, "keys: .*U1"),
    ("info_nce", {"keys": np.zeros((4, 3), np.uint16)}, TypeError, "keys: .*uint16.*bfloat16"),
    ("info_nce", {"keys": A[:3]}, ValueError, "keys: expected at least 4.* got 3"),
    ("info_nce", {"targets": [0, 1, 4, 0]}, IndexError, r"targets\[2\] = 4 .* target < 4"),
    ("info_nce", {"targets": [0, -1, 2, 0]}, IndexError, r"targets\[1\] = -1"),
    ("info_nce", {"targets": [0.0, 1, 2, 3]}, TypeError, "targets: .*float64"),
    ("info_nce", {"targets": [0, 1]}, ValueError, r"targets: .*\(4,\).*\(2,\)"),
    ("info_nce", {"targets": np.full((4, 4), 0.25)}, ValueError, r"targets: .*\(4,\).*\(4, 4\)"),
    ("info_nce", {"temperature": 0}, ValueError, "temperature: .*> 0.*0"),
    ("info_nce", {"temperature": -1.0}, ValueError, "temperature: .*-1.0"),
    ("info_nce", {"temperature": np.nan}, ValueError, "temperature: .*nan"),
    ("info_nce", {"temperature": "x"}, TypeError, "temperature: .*'x'"),
    ("info_nce", {"symmetric": np.ones(2)}, TypeError, "symmetric: .*True or False"),
    ("info_nce", {"normalize": np.ones(2)}, TypeError, "normalize: .*True or False"),
    ("info_nce", {"return_grad": np.ones(2)}, TypeError, "return_grad: .*True or False"),
    ("info_nce", {"return_temperature_grad": np.ones(2)}, TypeError, "return_temperature_grad"),
    ("info_nce", {"symmetric": True, "targets": [0, 1, 2, 3]}, ValueError, "targets: .*symmetric"),
    ("info_nce", {"symmetric": True, "ignore_index": 0}, ValueError, "ignore_index: .*-100.* 0"),
    ("info_nce", {"symmetric": True, "ignore_index": None}, ValueError, "ignore_index: .*None"),
    ("info_nce", {"symmetric": True, "keys": np.zeros((5, 3))}, ValueError, "keys: expected 4.*5"),
    ("info_nce", {"ignore_index": "x"}, TypeError, "ignore_index: .*'x'"),
    ("info_nce", {"sample_weight": np.ones(3)}, ValueError, r"sample_weight: .*\(3,\).*\(4,\)"),
    ("info_nce", {"reduction": "batchmean"}, ValueError, "reduction: .*'batchmean'"),
    ("info_nce", {"grad_output": 2.0}, ValueError, "grad_output: .*return_grad"),
    ("info_nce", {"grad_output": np.ones(4), "return_grad": True}, ValueError, "grad_output"),
    ("info_nce", {"dtype": "float8"}, ValueError, "dtype: .*float8"),
    ("info_nce", {"dtype": "bfloat16"}, ValueError, "dtype: .*uint16"),
    ("info_nce", {"out": np.zeros(4)}, ValueError, r"out: .*\(\).*\(4,\)"),
    ("info_nce", {"dim": 1}, TypeError, r"info_nce\(\) has no keyword 'dim'"),
    ("sigmoid_contrastive_loss", {"a": np.zeros(3)}, ValueError, r"a: .*\(N, D\).*\(3,\)"),
    ("sigmoid_contrastive_loss", {"b": np.zeros((4, 2))}, ValueError, r"b: .*3 features"),
    ("sigmoid_contrastive_loss", {"b": np.zeros((5, 3))}, ValueError, "b: expected 4.*got 5"),
    ("sigmoid_contrastive_loss", {"logit_scale": np.nan}, ValueError, "logit_scale: .*nan"),
    ("sigmoid_contrastive_loss", {"logit_bias": None}, TypeError, "logit_bias: .*None"),
    ("sigmoid_contrastive_loss", {"sample_weight": np.ones(3)}, ValueError, "sample_weight"),
    ("sigmoid_contrastive_loss", {"reduction": 3}, ValueError, "reduction: .*3"),
    ("sigmoid_contrastive_loss", {"normalize": np.ones(2)}, TypeError, "normalize"),
    ("sigmoid_contrastive_loss", {"return_grad": np.ones(2)}, TypeError, "return_grad"),
    ("sigmoid_contrastive_loss", {"grad_output": 1.0}, ValueError, "grad_output"),
    ("sigmoid_contrastive_loss", {"dtype": 3}, ValueError, "dtype"),
    ("sigmoid_contrastive_loss", {"scale": 1.0}, TypeError, "has no keyword 'scale'"),
]


@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD)
def test_bad_argument(name, bad, error, message):
    first, second = NAMES[name][:2]
    out = np.full(4, 7.0) if bad.get("reduction") == "none" else np.full((), 7.0)
    good: dict[str, Any] = {first: A, second: A + 1, "out": out}
    if name != "info_nce":
        good |= SCALED
    getattr(xent, name)(**good)
    out[...] = 7
    with pytest.raises(error, match=message):
        getattr(xent, name)(**(good | bad))
    assert (out == 7).all()


@pytest.mark.parametrize("form", FORMS)
def test_out_may_not_overlap_an_input(form):
    name, given = FORMS[form]
    first, second = pairs(4, 3, float)
    for array in (first, second):
        with pytest.raises(ValueError, match="out: the array overlaps the memory of"):
            getattr(xent, name)(first, second, out=array[:, 0], reduction="none", **given)


# Memory.

MIB = 1 << 20
# Blocks and slabs; a block's vectors and their gradient, and slices of keys; the objects of a call.
BLOCK, SLICES, OWN = 32 * MIB, 16 * MIB, MIB


def extra_memory(call: Callable[[], Any]) -> int:
    """The most bytes that a call holds at once, its results among them."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("form", [*FORMS, "two sides, normalized", "two sides, float16"])
def test_extra_memory_is_a_block(form):
    """Of similarities that would be 256 MiB, whose gradient would be as much."""
    rows, features = 8192, 256
    name, given = FORMS[form.partition(",")[0]]
    kind = np.float16 if form.endswith("float16") else np.float32
    first, second = pairs(rows, features, kind)
    matrix = 4 * first.size
    extra = BLOCK + SLICES + OWN + first.nbytes + second.nbytes
    if "two sides" in form:
        extra += 1536 * rows
    if "normalized" in form:
        given = given | {"normalize": True}
        extra += 2 * matrix
    if kind == np.float16:
        extra += 2 * matrix
    peak = extra_memory(lambda: results(name, first, second, **given))
    assert peak < extra
    assert peak - first.nbytes - second.nbytes < 96e6
