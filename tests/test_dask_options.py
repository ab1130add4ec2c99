"""xent.dask: options that need more than the sums of a row's classes, or give more than its loss and gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xent

dask = pytest.importorskip("dask")
da: Any = pytest.importorskip("dask.array")
xd: Any = pytest.importorskip("xent.dask")

ROWS, CLASSES, K = 24, 29, 4
CHUNKS = [(10, CLASSES), ((7, 1, 16), (10, 12, 7)), (ROWS, 5)]
EPS = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


def data(dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    indices = rng.integers(0, CLASSES, ROWS)
    indices[[4, 13]] = -100
    several = rng.integers(0, CLASSES, (ROWS, K))
    several[3, 1:3], several[5], several[6, 2] = several[3, 0], -100, -100
    sample_weight = rng.uniform(0.5, 2, ROWS)
    sample_weight[11] = 0
    return {
        "logits": rng.normal(0, 3, (ROWS, CLASSES)).astype(dtype),
        "indices": indices,
        "several": several,
        "target_probs": rng.uniform(0, 1, (ROWS, K)),
        "probabilities": rng.dirichlet(np.full(CLASSES, 4.0), ROWS).astype(dtype),
        "class_weight": rng.uniform(0.5, 2, CLASSES),
        "sample_weight": sample_weight,
        "class_bias": rng.normal(size=CLASSES),
        "grad_output": rng.normal(size=ROWS),
    }


def close(found: Any, expected: Any, eps: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    wide = [np.asarray(a, float) for a in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=16 * eps, atol=16 * eps * max(1, np.abs(wide[1]).max()))


def check(given: dict[str, Any], targets: str, chunks: Any, dtype: str, *names: str, **call: Any):
    """Compare all results with those of arrays in memory."""
    call |= {name: given[name] for name in names}
    if call.get("reduction") == "none" and call.get("return_grad"):
        call["grad_output"] = given["grad_output"]
    y, z = given[targets], given["logits"]
    logits = da.from_array(z, chunks=chunks)
    lazy = y if targets != "probabilities" else da.from_array(y, chunks=logits.chunks)
    expected = xent.cross_entropy(z, y, **call)
    found = dask.compute(*xd.cross_entropy(logits, lazy, **call))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        # Sums over rows are of the compute dtype in memory.
        close(one, other, EPS[dtype] * (1 if np.ndim(other) == 2 else 4))


OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    ((), {}),
    (("class_weight", "sample_weight"), {"label_smoothing": 0.2}),
    (("class_bias",), {"z_loss": 1e-2, "softcap": 5.0, "temperature": 1.5}),
    (("sample_weight", "class_weight"), {"z_loss": 1e-2, "temperature": 0.5}),
]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("names", "options"), OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_several_targets_of_a_row(dtype, reduction, names, options, chunks):
    check(
        data(dtype),
        "several",
        chunks,
        dtype,
        "target_probs",
        *names,
        reduction=reduction,
        return_grad=True,
        return_lse=True,
        **options,
    )


def test_several_targets_may_be_dask_arrays_and_are_checked():
    given = data("float64")
    y, q = given["several"], given["target_probs"]
    logits = da.from_array(given["logits"], chunks=(7, 10))
    lazy = [da.from_array(a, chunks=(5, 3)) for a in (y, q)]
    found = xd.cross_entropy(logits, lazy[0], target_probs=lazy[1])
    close(found.compute(), xent.cross_entropy(given["logits"], y, target_probs=q), EPS["float64"])
    wrong = y.copy()
    wrong[20, 1] = CLASSES
    with pytest.raises(IndexError, match=rf"^targets\[20, 1\] = {CLASSES} is not a class"):
        xd.cross_entropy(logits, wrong, target_probs=q).compute()
    with pytest.raises(ValueError, match=r"^targets: shape \(24,\) does not fit"):
        xd.cross_entropy(logits, given["indices"], target_probs=q)
    with pytest.raises(ValueError, match=r"^target_probs: expected the shape of targets"):
        xd.cross_entropy(logits, y, target_probs=q[:, :2])
    with pytest.raises(TypeError, match=r"^targets: dtype float64"):
        xd.cross_entropy(logits, q, target_probs=q)


def test_several_targets_on_another_axis():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(3, 8, 5)), rng.integers(0, 8, (3, 2, 5))
    q = rng.uniform(size=y.shape)
    expected = xent.cross_entropy(z, y, target_probs=q, axis=1, return_grad=True)
    for chunks in ((2, 3, 4), (2, 8, 4)):
        logits = da.from_array(z, chunks=chunks)
        found = xd.cross_entropy(logits, y, target_probs=q, axis=1, return_grad=True)
        for one, other in zip(dask.compute(*found), expected, strict=True):
            close(one, other, EPS["float64"])


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("names", "options"), OPTIONS)
@pytest.mark.parametrize("targets", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_hessian(dtype, reduction, targets, names, options, chunks):
    call = {"reduction": reduction, "return_hess": True, "return_grad": True, "return_lse": True}
    check(data(dtype), targets, chunks, dtype, *names, **call, **options)


@pytest.mark.parametrize("size", [3, 2])
def test_hessian_of_confident_rows(size):
    """1 - p of the largest class is small, and is what the others have."""
    z = np.array([[40.0, 0, 1], [0, 30, -np.inf], [-1000, 0, 0], [5, 5, 5]])
    y = np.array([0, 1, 2, -100])
    expected = xent.cross_entropy(z, y, reduction="sum", return_hess=True)[2]
    found = xd.cross_entropy(
        da.from_array(z, chunks=(3, size)), y, reduction="sum", return_hess=True
    )
    np.testing.assert_allclose(found[2].compute(), expected, rtol=1e-14)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize(("names", "options"), OPTIONS)
@pytest.mark.parametrize("targets", ["indices", "probabilities", "several"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_derivatives_by_temperature_and_bias(dtype, reduction, targets, names, options, chunks):
    names = tuple({*names, "class_bias"} | ({"target_probs"} if targets == "several" else set()))
    call = {
        "return_temperature_grad": True,
        "return_bias_grad": True,
        "return_grad": reduction == "none",
    }
    check(data(dtype), targets, chunks, dtype, *names, reduction=reduction, **call, **options)


def test_options_that_exclude_each_other():
    given = data("float64")
    logits = da.from_array(given["logits"], chunks=(7, 10))
    y = given["indices"]
    with pytest.raises(ValueError, match=r"^return_hess: not with"):
        xd.cross_entropy(logits, y, return_hess=True, entropy_weight=0.1)
    with pytest.raises(ValueError, match=r"^return_bias_grad: expected class_bias"):
        xd.cross_entropy(logits, y, return_bias_grad=True)
    call = {"return_temperature_grad": True, "entropy_weight": 0.1}
    with pytest.raises(
        ValueError, match=r"^return_temperature_grad: .*logits.rechunk\(\{1: -1\}\)"
    ):
        xd.cross_entropy(logits, y, **call)
    check(given, "indices", (7, CLASSES), "float64", **call)


@pytest.mark.parametrize("chunks", [(3, 4, 9), (2, 3, 4), (3, 1, 9)])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_perplexity_of_each_sequence(dtype, weighted, chunks):
    rng = np.random.default_rng(1)
    z, y = rng.normal(0, 3, (3, 4, 9)).astype(dtype), rng.integers(0, 9, (3, 4))
    y[0, 1], y[2] = -100, -100
    weight = rng.uniform(0.5, 2, 4) if weighted else None
    expected = xent.perplexity(z, y, sample_weight=weight, reduction="none")
    logits = da.from_array(z, chunks=chunks)
    found = xd.perplexity(logits, y, sample_weight=weight, reduction="none")
    close(found.compute(), expected, EPS[dtype])
    assert found.dtype == expected.dtype
    assert np.isnan(found.compute()[2])
    one = xd.perplexity(logits[0, :, :], y[0], reduction="none")
    close(one.compute(), xent.perplexity(z[0], y[0], reduction="none"), EPS[dtype])
    with pytest.raises(ValueError, match=r"^reduction: expected one of mean, none"):
        xd.perplexity(logits, y, reduction="sum")


@pytest.mark.parametrize("chunks", [(10, CLASSES), (7, 10)])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_weighted_logsumexp(dtype, axis, chunks):
    z = (data("float64")["logits"] * 3).astype(dtype)
    rng = np.random.default_rng(5)
    x = da.from_array(z, chunks=chunks)
    for b in (
        rng.uniform(0.1, 2, z.shape).astype("f4"),
        rng.integers(-2, 3, z.shape),
        rng.uniform(-1, 1, CLASSES),
        rng.uniform(1, 2, (ROWS, 1)),
        -0.5,
    ):
        given = da.from_array(b, chunks=3) if np.ndim(b) else b
        for signed in (True, False):
            expected = xent.logsumexp(z, axis, b, True, signed)
            found = xd.logsumexp(x, axis, given, True, signed)
            pairs = [(found, expected)] if not signed else zip(found, expected, strict=True)
            for one, other in pairs:
                # Numbers of both signs cancel.
                close(one.compute(), other, 8 * EPS[str(other.dtype)])
                assert one.dtype == other.dtype
                assert one.shape == other.shape
    for one, other in zip(
        xd.logsumexp(x, axis, return_sign=True),
        xent.logsumexp(z, axis, return_sign=True),
        strict=True,
    ):
        close(one.compute(), other, EPS[str(other.dtype)] * 32)
    with pytest.raises(ValueError, match=r"^b: shape \(7,\) does not broadcast to that of a"):
        xd.logsumexp(x, b=np.ones(7))


@pytest.mark.parametrize("size", [6, 2, 1])
def test_weighted_logsumexp_of_infinities_and_of_nothing(size):
    inf, nan = np.inf, np.nan
    z = np.array(
        [[inf, 1, 2, 3, 4, 5], [inf, inf, 1, 2, 3, 4], [nan, 1, 2, 3, 4, 5], [-inf] * 6, [1.0] * 6]
    )
    b = np.array(
        [
            [-1, 1, 1, 1, 1, 1],
            [1, -1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 1],
            [1] * 6,
            [1, -1, 2, -2, 0, 0],
        ]
    )
    found = xd.logsumexp(da.from_array(z, chunks=(2, size)), 1, b, return_sign=True)
    for one, other in zip(found, xent.logsumexp(z, 1, b, return_sign=True), strict=True):
        np.testing.assert_allclose(one.compute(), other, rtol=1e-15)
