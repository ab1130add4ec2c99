"""xent.dask: the results of xent whatever the chunks are, lazily, and a chunk at a time."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

import xent
import xent.metrics

dask = pytest.importorskip("dask")
da: Any = pytest.importorskip("dask.array")
xd: Any = pytest.importorskip("xent.dask")
from dask.callbacks import Callback  # noqa: E402

ROWS, CLASSES = 50, 37
CHUNKS = [(20, CLASSES), ((7, 1, 42), (10, 20, 7)), (ROWS, 5), (1, 36)]
# A row's loss is a few products and sums of numbers that are each good to an ulp; both sides round them, the gradient of a
# half type once more, to its own precision.
EPS = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
FAMILY = ("logsumexp", "softmax", "log_softmax")


@pytest.fixture(autouse=True)
def one_thread():
    """Compute in this thread, unless a test says otherwise."""
    with dask.config.set(scheduler="sync"):
        yield


def data(dtype: str = "float64") -> dict[str, Any]:
    rng = np.random.default_rng(3)
    targets = rng.integers(0, CLASSES, ROWS)
    targets[[4, 30]] = -100
    sample_weight = rng.uniform(0.5, 2, ROWS)
    sample_weight[11] = 0
    return {
        "logits": rng.normal(0, 3, (ROWS, CLASSES)).astype(dtype),
        "indices": targets,
        "probabilities": rng.dirichlet(np.full(CLASSES, 4.0), ROWS).astype(dtype),
        "class_weight": rng.uniform(0.5, 2, CLASSES),
        "sample_weight": sample_weight,
        "class_bias": rng.normal(size=CLASSES),
        "upstream": rng.normal(size=ROWS),
    }


OPTIONS: list[dict[str, Any]] = [
    {},
    {"class_weight": "class_weight"},
    {"sample_weight": "sample_weight"},
    {"ignore_index": None},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2, "softcap": 5.0, "temperature": 1.5, "class_bias": "class_bias"},
    {"entropy_weight": 0.1},
    {
        "label_smoothing": 0.2,
        "class_weight": "class_weight",
        "sample_weight": "sample_weight",
        "z_loss": 1e-3,
        "entropy_weight": -0.1,
    },
]


def close(found: Any, expected: Any, eps: float) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    wide = [np.asarray(a, float) for a in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=8 * eps, atol=8 * eps)


def same(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("targets", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_cross_entropy_is_that_of_arrays_in_memory(dtype, reduction, targets, options, chunks):
    given = data(dtype)
    call = {k: given[v] if isinstance(v, str) else v for k, v in options.items()}
    call |= {"reduction": reduction, "return_grad": True, "return_lse": True}
    call["grad_output"] = given["upstream"] if reduction == "none" else 0.7
    y = given[targets]
    if targets == "indices" and "ignore_index" in options:
        y = np.where(y < 0, 0, y)
    expected = xent.cross_entropy(given["logits"], y, **call)
    logits = da.from_array(given["logits"], chunks=chunks)
    loss, grad, lse = xd.cross_entropy(logits, y, **call)
    assert grad.chunks == logits.chunks
    assert lse.chunks == logits.chunks[:1]
    found = dask.compute(loss, grad, lse)
    compute = "float64" if dtype == "float64" else "float32"
    scale = ROWS if reduction == "sum" else 1
    close(found[0] / scale, expected[0] / scale, 4 * EPS[compute])
    close(found[1], expected[1], 4 * EPS[dtype])
    close(found[2], expected[2], EPS[compute])
    assert loss.dtype == found[0].dtype
    assert grad.dtype == found[1].dtype


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_class_axis(axis):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(6, 7, 8))
    rows = tuple(np.delete(z.shape, axis))
    targets = rng.integers(0, z.shape[axis], rows)
    weight = rng.uniform(1, 2, rows[1])
    for chunks in (3, (6, 7, 8), (2, 7, 3)):
        found = xd.cross_entropy(
            da.from_array(z, chunks=chunks),
            da.from_array(targets, chunks=5),
            axis=axis,
            sample_weight=da.from_array(weight, chunks=2),
            return_grad=True,
        )
        expected = xent.cross_entropy(z, targets, axis=axis, sample_weight=weight, return_grad=True)
        for one, other in zip(dask.compute(*found), expected, strict=True):
            close(one, other, EPS["float64"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("chunks", [(2, 40_000), (3, 16_384), (5, (32_768, 7_232))])
def test_bits_are_those_of_the_whole(dtype, chunks):
    """Of chunks of classes that end at multiples of 16,384."""
    rng = np.random.default_rng(2)
    z = rng.integers(-999, 999, (5, 40_000)).astype(dtype) / np.dtype(dtype).type(64)
    targets = np.array([3, 20_000, -100, 39_999, 16_384])
    expected = xent.cross_entropy(z, targets, return_grad=True, reduction="none", return_lse=True)
    logits = da.from_array(z, chunks=chunks)
    found = xd.cross_entropy(logits, targets, return_grad=True, reduction="none", return_lse=True)
    for one, other in zip(dask.compute(*found), expected, strict=True):
        same(one, other)
    same(
        xd.cross_entropy(logits, targets, return_grad=True)[1],
        xent.cross_entropy(z, targets, return_grad=True)[1],
    )
    same(xd.token_log_probs(logits, targets), xent.token_log_probs(z, targets))
    for name in FAMILY:
        same(getattr(xd, name)(logits, axis=1), getattr(xent, name)(z, axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_is_the_nearest_number_whatever_the_chunks(dtype):
    rng = np.random.default_rng(4)
    # Losses of many sizes, of which no sum in floating point is exact.
    z = (rng.normal(0, 5, (40_000, 6)) * 10.0 ** rng.integers(-2, 12, (40_000, 1))).astype(dtype)
    targets = rng.integers(0, 6, len(z))
    rows = xent.cross_entropy(z, targets, reduction="none").astype(float)
    nearest = z.dtype.type(math.fsum(rows) / len(z))
    found = [
        xd.cross_entropy(da.from_array(z, chunks=(size, 6)), targets).compute()
        for size in (4096, 8192, 1000, 40_000)
    ]
    assert len({x.tobytes() for x in found}) == 1
    assert abs(found[0] - nearest) <= np.spacing(nearest)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_that_cancel_are_exact(dtype):
    """Each row comes twice, with opposite weights, in any order; but for the last."""
    rng = np.random.default_rng(6)
    z = (rng.normal(0, 5, (5000, 6)) * 10.0 ** rng.integers(-2, 12, (5000, 1))).astype(dtype)
    order = np.append(rng.permutation(10_000), 0)
    z, targets = np.concatenate([z, z])[order], np.resize(rng.integers(0, 6, 5000), 10_000)[order]
    sign = np.repeat([1.0, -1.0], 5000)[order]
    z[-1] = rng.normal(size=6)
    expected = xent.cross_entropy(z[-1:], targets[-1:], reduction="sum")
    for chunks in ((4096, 6), (1000, 4)):
        logits = da.from_array(z, chunks=chunks)
        found = xd.cross_entropy(logits, targets, sample_weight=sign, reduction="sum")
        same(found.compute(), expected)


def test_weights_of_a_mean_may_have_any_common_factor():
    given = data("float32")
    logits = da.from_array(given["logits"], chunks=(7, 10))
    weight = given["sample_weight"]
    expected = xd.cross_entropy(logits, given["indices"], sample_weight=weight).compute()
    for factor in (2.0**-900, 2.0**900):
        found = xd.cross_entropy(logits, given["indices"], sample_weight=weight * factor)
        assert found.compute() == expected


@pytest.mark.parametrize("chunks", [(4, 6), (4, 2)])
@pytest.mark.parametrize("why", ["ignored", "weights", "empty"])
def test_mean_of_nothing_is_nan_and_its_gradient_zero(why, chunks):
    z = np.full((0 if why == "empty" else 8, 6), np.nan)
    targets = np.full(len(z), -100 if why == "ignored" else 2)
    weight = np.zeros(len(z)) if why == "weights" else None
    logits = da.from_array(z, chunks=chunks)
    loss, grad = xd.cross_entropy(logits, targets, sample_weight=weight, return_grad=True)
    assert np.isnan(loss.compute())
    same(grad, np.zeros_like(z))
    assert xd.cross_entropy(logits, targets, sample_weight=weight, reduction="sum").compute() == 0


@pytest.mark.parametrize("chunks", [(4, 6), (3, 2)])
def test_masked_classes_and_rows_that_are_not_numbers(chunks):
    z = np.random.default_rng(5).normal(size=(8, 6)).astype("f4")
    z[0, 1:3], z[1, 2], z[2, 0], z[3], z[4, 4] = -np.inf, np.nan, np.inf, -np.inf, -np.inf
    targets = np.array([0, 0, 1, 1, 4, 5, 0, 2])
    expected = xent.cross_entropy(z, targets, reduction="none", return_grad=True)
    found = xd.cross_entropy(
        da.from_array(z, chunks=chunks), targets, reduction="none", return_grad=True
    )
    for one, other in zip(dask.compute(*found), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chunks", [(20, CLASSES), (7, 10), (ROWS, CLASSES), (ROWS, 9)])
@pytest.mark.parametrize("axis", [None, 0, 1, (1, 0)])
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", ["int8", "float16", "float32", "float64"])
def test_softmax_family(dtype, name, axis, chunks):
    z = (data()["logits"] * 4).astype(dtype)
    x = da.from_array(z, chunks=chunks)
    expected = getattr(xent, name)(z, axis=axis)
    found = getattr(xd, name)(x, axis=axis)
    eps = EPS.get(dtype, EPS["float64"])
    close(found.compute(), expected, eps * max(1, np.abs(expected).max() / 8))
    assert found.dtype == expected.dtype
    assert name == "logsumexp" or found.chunks == x.chunks
    if name == "logsumexp":
        kept = xd.logsumexp(x, axis=axis, keepdims=True)
        assert (
            kept.compute().shape == kept.shape == xent.logsumexp(z, axis=axis, keepdims=True).shape
        )


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("size", [6, 3, 2, 1])
def test_softmax_family_of_infinities(name, size):
    inf, nan = np.inf, np.nan
    z = np.array(
        [
            [1, 2, inf, 0, -inf, 3],
            [nan, 2, inf, 0, -inf, 3],
            [inf, nan, 1, 0, 0, 3],
            [-inf] * 6,
            [nan, 1, 2, 3, 4, 5],
            [inf, 1, 2, inf, -inf, 5],
            [-inf, -inf, -inf, -inf, 3, 2],
        ]
    )
    found = getattr(xd, name)(da.from_array(z, chunks=(2, size)), axis=1).compute()
    np.testing.assert_allclose(found, getattr(xent, name)(z, axis=1), rtol=1e-15)


@pytest.mark.parametrize("chunks", [(20, CLASSES), (7, 10)])
def test_language_models(chunks):
    given = data("float32")
    z, y = given["logits"], given["indices"]
    logits = da.from_array(z, chunks=chunks)
    options = {"temperature": 1.3, "softcap": 6.0}
    for reduction in ("none", "sum", "mean"):
        found = xd.token_log_probs(logits, y, reduction=reduction, **options)
        expected = xent.token_log_probs(z, y, reduction=reduction, **options)
        close(found / ROWS, expected / np.float32(ROWS), EPS["float32"])
    found = xd.perplexity(logits, y, **options).compute()
    close(found / 50, xent.perplexity(z, y, **options) / np.float32(50), EPS["float32"])
    with pytest.raises(TypeError, match=r"^targets: expected class indices"):
        xd.perplexity(logits, z)


@pytest.mark.parametrize("chunks", [(20, CLASSES), (7, 10)])
@pytest.mark.parametrize("as_bits", [True, False])
def test_bfloat16(as_bits, chunks):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    given = data("float32")
    z = given["logits"].astype(bfloat16)
    z, dtype = (z.view(np.uint16), "bfloat16") if as_bits else (z, None)
    expected = xent.cross_entropy(z, given["indices"], return_grad=True, dtype=dtype)
    logits = da.from_array(z, chunks=chunks)
    found = dask.compute(*xd.cross_entropy(logits, given["indices"], return_grad=True, dtype=dtype))
    close(found[0], expected[0], EPS["float32"])
    assert found[1].dtype == expected[1].dtype
    wide = [a.view(bfloat16).astype(float) for a in (found[1], expected[1])]
    np.testing.assert_allclose(*wide, rtol=2.0**-7)
    if not as_bits:
        for name in FAMILY:
            one, other = (
                f(x, axis=1) for f, x in ((getattr(xd, name), logits), (getattr(xent, name), z))
            )
            assert one.compute().dtype == other.dtype
            np.testing.assert_allclose(
                *(np.asarray(a).astype(float) for a in (one, other)), rtol=2.0**-7
            )


class Source:
    """Chunks of logits that are counted as they are read."""

    def __init__(self, z: Any, chunks: Any):
        self.z, self.read = z, 0
        place = da.from_array(np.zeros_like(z, dtype=bool), chunks=chunks)
        self.array = place.map_blocks(self.load, dtype=z.dtype, meta=np.empty((0, 0), z.dtype))

    def load(self, block: Any, block_info: Any = None) -> Any:
        self.read += 1
        return self.z[tuple(slice(*at) for at in block_info[0]["array-location"])]

    def __dask_tokenize__(self) -> str:
        return "source"


def calls(logits: Any, targets: Any) -> list[Any]:
    weight = np.linspace(1, 2, ROWS)
    return [
        *xd.cross_entropy(
            logits, targets, sample_weight=weight, return_grad=True, return_lse=True, z_loss=0.1
        ),
        xd.perplexity(logits, targets),
        xd.token_log_probs(logits, targets),
        *(getattr(xd, name)(logits, axis=1) for name in FAMILY),
    ]


@pytest.mark.parametrize("chunks", CHUNKS)
def test_nothing_is_computed_before_it_is_asked_for(chunks):
    given = data()
    source = Source(given["logits"], chunks)
    results = calls(source.array, given["indices"])
    assert source.read == 0
    dask.compute(*results)
    assert source.read > 0


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("number", range(8))
def test_no_task_reads_two_chunks_and_none_are_cut_or_joined(number, chunks):
    given = data()
    source = Source(given["logits"], chunks)
    result = calls(source.array, given["indices"])[number]
    layers = " ".join(result.__dask_graph__().layers)
    assert "rechunk" not in layers
    assert "concatenate" not in layers
    read = [0]

    class Counting(Callback):
        def _posttask(self, key, value, graph, state, worker):
            counts.append(source.read - read[0])
            read[0] = source.read

    counts: list[int] = []
    with Counting():
        dask.compute(result)
    assert sum(counts) == source.read >= source.array.npartitions
    assert max(counts) == 1


def test_numbers_of_a_task_are_a_chunk_and_the_sums_of_its_rows(monkeypatch):
    """The sizes of all arrays that tasks are given; class weights are an array of the classes."""
    from xent.dask import _tasks

    given = data()
    largest = []
    for name in ("reduce", "merge", "rows", "gradient"):

        def counted(function, *args, **options):
            arrays = [b for a in args for b in (a if isinstance(a, list) else [a])]
            elements = [a.size for a in arrays if isinstance(a, np.ndarray)]
            largest.append(sum(elements))
            return function(*args, **options)

        monkeypatch.setattr(_tasks, name, partial(counted, getattr(_tasks, name)))
    logits = da.from_array(given["logits"], chunks=(10, 5))
    dask.compute(xd.cross_entropy(logits, given["indices"], return_grad=True))
    blocks = math.ceil(CLASSES / 5)
    assert 50 < max(largest) <= max(10 * 5 + 3 * 10 + 1, 10 * blocks)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("bad", [CLASSES, -1, 2**62, -(2**63)])
def test_bad_target_is_named_with_its_position_in_the_whole_array(bad, chunks):
    given = data()
    targets = given["indices"].copy()
    targets[41] = bad
    logits = da.from_array(given["logits"], chunks=chunks)
    results = xd.cross_entropy(logits, da.from_array(targets, chunks=9), return_grad=True)
    for result in (*results, xd.perplexity(logits, targets)):
        with pytest.raises(
            IndexError,
            match=rf"^targets\[41\] = {bad} is not a class; expected 0 <= target < {CLASSES} or ignore_index=-100$",
        ):
            result.compute()


def test_bad_target_of_rows_with_two_axes():
    targets = np.zeros((9, 8), int)
    targets[7, 5] = 4
    logits = da.zeros((9, 4, 8), chunks=(2, 3, 3))
    with pytest.raises(IndexError, match=r"^targets\[7, 5\] = 4 "):
        xd.cross_entropy(logits, targets, axis=1).compute()


X = da.zeros((6, 4), chunks=(3, 2)) if da else None


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((np.zeros((6, 4)), np.zeros(6, int)), {}, TypeError, "logits: expected a dask.array"),
        ((X, np.zeros(5, int)), {}, ValueError, r"targets: .*\(5,\)"),
        ((X, np.zeros(6)), {}, TypeError, "targets"),
        ((X.astype(complex), np.zeros(6, int)), {}, TypeError, "logits: dtype complex128"),
        ((X, da.zeros((6, 4), chunks=(2, 2))), {}, ValueError, "targets: expected the chunks"),
        ((X, X), {"ignore_index": 3}, ValueError, "ignore_index: 3 needs class indices"),
        ((X, np.zeros(6, int)), {"axis": 2}, np.exceptions.AxisError, "axis: 2"),
        ((X, np.zeros(6, int)), {"label_smoothing": 2}, ValueError, "label_smoothing"),
        ((X, np.zeros(6, int)), {"z_loss": -1}, ValueError, "z_loss"),
        ((X, np.zeros(6, int)), {"temperature": 0}, ValueError, "temperature"),
        ((X, np.zeros(6, int)), {"reduction": "avg"}, ValueError, "reduction: expected one of"),
        (
            (X, np.zeros(6, int)),
            {"class_weight": [1.0]},
            ValueError,
            "class_weight: expected shape",
        ),
        ((X, np.zeros(6, int)), {"sample_weight": [1.0, 2]}, ValueError, "sample_weight: shape"),
        ((X, np.zeros(6, int)), {"grad_output": 1.0}, ValueError, "grad_output: given, but"),
        ((X, np.zeros(6, int)), {"smoothing": 0.1}, TypeError, "xent calls it label_smoothing"),
        (
            (X, np.zeros(6, int)),
            {"grad_output": [1.0], "return_grad": True, "reduction": "none"},
            ValueError,
            "grad_output: expected the shape",
        ),
        ((X[X[:, 0] == 0], np.zeros(6, int)), {}, ValueError, "logits: the sizes of chunks"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, options, error, message):
    with pytest.raises(error, match=message):
        xd.cross_entropy(*arguments, **options)


def test_gradient_is_stored_chunk_by_chunk(tmp_path):
    given = data("float32")
    logits = da.from_array(given["logits"], chunks=(7, 10))
    grad = xd.cross_entropy(logits, given["indices"], return_grad=True)[1]
    expected = grad.compute()
    to = np.lib.format.open_memmap(tmp_path / "grad.npy", "w+", grad.dtype, grad.shape)
    da.store(grad, to, lock=False)
    to.flush()
    same(np.load(tmp_path / "grad.npy"), expected)
    pytest.importorskip("zarr")
    grad.to_zarr(str(tmp_path / "grad.zarr"))
    same(da.from_zarr(str(tmp_path / "grad.zarr")), expected)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers(scheduler):
    check_results(scheduler=scheduler, num_workers=2)


def check_results(**options):
    given = data("float32")
    for chunks in ((20, CLASSES), (20, 15)):
        logits = da.from_array(given["logits"], chunks=chunks)
        results = calls(logits, given["indices"])
        expected = dask.compute(*results, scheduler="sync")
        for one, other in zip(dask.compute(*results, **options), expected, strict=True):
            same(one, other)
        with pytest.raises(IndexError, match=r"^targets\[49\] = 99 "):
            xd.cross_entropy(logits, np.append(given["indices"][:-1], 99)).compute(**options)


# Servers of the cluster may say good-bye late.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)
def test_workers_of_a_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set(scheduler=None),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
    ):
        check_results(scheduler=None)


def test_without_dask_the_error_says_what_to_install():
    code = "import sys; sys.modules['dask'] = None\nimport xent\nimport xent.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install dask" in done.stderr.replace("'", "").replace("[array]", "")
    assert "ModuleNotFoundError: xent.dask needs" in done.stderr


@pytest.mark.parametrize("chunks", [(20, CLASSES), (7, 10), (ROWS, 5)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", ["int64", "U3"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_loss(dtype, kind, weighted, normalize, chunks):
    given = data(dtype)
    labels = np.array([f"{i:03}" for i in range(CLASSES)]).astype(kind)
    # Every label occurs.
    y = labels[np.append(np.arange(CLASSES), given["indices"][: ROWS - CLASSES] % CLASSES)]
    weight = given["sample_weight"] if weighted else None
    probs = given["probabilities"]
    probs[3, 3:6] = 0, probs[3, 3:5].sum(), probs[3, 5]
    expected = xent.metrics.log_loss(y, probs, normalize=normalize, sample_weight=weight)
    options = {"normalize": normalize, "sample_weight": weight}
    lazy = da.from_array(probs, chunks=chunks)
    for more in ({}, {"labels": labels}):
        found = xd.log_loss(da.from_array(y, chunks=9), lazy, **options, **more)
        close(found.compute(), np.float64(expected), EPS["float64"] * (1 if normalize else ROWS))


def test_log_loss_of_two_labels():
    y, p = np.array(["ham", "spam", "spam"]), np.array([0.25, 1.0, 0.0])
    found = xd.log_loss(y, da.from_array(p, chunks=2)).compute()
    close(found, np.float64(xent.metrics.log_loss(y, p)), EPS["float64"])


def test_log_loss_refuses_what_is_none():
    probs = np.full((6, 4), 0.25)
    lazy = da.from_array(probs, chunks=(2, 3))
    y = np.array([0, 1, 2, 3, 0, 1])
    bad = probs.copy()
    bad[5, 3] = np.nan
    with pytest.raises(ValueError, match=r"^y_proba\[5, 3\] = nan is not a probability"):
        xd.log_loss(y, da.from_array(bad, chunks=(2, 3))).compute()
    with pytest.warns(UserWarning, match="do not sum to one"):
        xd.log_loss(y, da.from_array(probs / 2, chunks=(2, 3))).compute()
    with pytest.raises(ValueError, match=r"^y_true and y_prob contain different number"):
        xd.log_loss(y % 3, lazy).compute()
    with pytest.raises(ValueError, match="number of classes in labels is different"):
        xd.log_loss(y, lazy, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="not belonging to the passed labels"):
        xd.log_loss(y + 1, lazy, labels=[0, 1, 2, 3]).compute()
    with pytest.raises(ValueError, match=r"^y_true: expected shape"):
        xd.log_loss(y[:5], lazy)
    with pytest.raises(ValueError, match=r"^sample_weight: expected finite weights"):
        xd.log_loss(y, lazy, sample_weight=np.zeros(6)).compute()
