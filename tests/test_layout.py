"""Memory layout changes no bit: whatever the strides, the result is that of the contiguous copy."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from xent._arguments import logits as as_read
from xent._request import Request

import inputs
import xent
from calls import FAMILY, MODULATED, assert_same, results

Layout = Callable[[np.ndarray], np.ndarray]


def _poison(a: np.ndarray) -> Any:
    """Return a value that makes every result wrong that depends on it."""
    return np.iinfo(a.dtype).max if a.dtype.kind in "iu" else np.nan


def _strided_rows(a: np.ndarray) -> np.ndarray:
    """Return the same array as a view like `logits[:, :-1]`."""
    return np.concatenate([a, np.full_like(a[..., :1], _poison(a))], axis=-1)[..., :-1]


def _shifted(a: np.ndarray) -> np.ndarray:
    """Return the same array as a view like `logits[:, 1:]`."""
    return np.concatenate([np.full_like(a[..., :1], _poison(a)), a], axis=-1)[..., 1:]


def _reversed_rows(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[::-1])[::-1]


def _reversed_classes(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a[..., ::-1])[..., ::-1]


def _fully_strided(a: np.ndarray) -> np.ndarray:
    wide = np.full(tuple(2 * n for n in a.shape), _poison(a), a.dtype)
    every_other = wide[(np.s_[::2],) * a.ndim]
    every_other[...] = a
    return every_other


def _unaligned(a: np.ndarray) -> np.ndarray:
    raw = np.empty(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    assert a.itemsize == 1 or not view.flags.aligned
    return view


def _off_the_vector(a: np.ndarray) -> np.ndarray:
    """Aligned for its dtype, not for any vector register."""
    raw = np.empty(a.size + 1, a.dtype)
    raw[1:] = a.ravel()
    return raw[1:].reshape(a.shape)


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _byte_swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder())


def _fortran(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def _class_axis_first(a: np.ndarray) -> np.ndarray:
    """Return a view whose memory has the classes first."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1)


def _subclass(a: np.ndarray) -> np.ndarray:
    return np.rec.array(a.copy())


LAYOUTS: dict[str, Layout] = {
    layout.__name__.removeprefix("_").replace("_", " "): layout
    for layout in (
        *(_strided_rows, _shifted, _reversed_rows, _reversed_classes, _fully_strided, _unaligned),
        *(_off_the_vector, _read_only, _byte_swapped, _fortran, _class_axis_first, _subclass),
    )
}
SHAPES = ((1, 1), (7, 10), (33, 16), (5, 130), (3, 4, 65), (4, 1025), (2, 17000))


def soft_results(logits: np.ndarray, targets: np.ndarray) -> list[Any]:
    """Functions that read two arrays with a class axis."""
    return [xent.cross_entropy(logits, targets, reduction="none", return_hess=True)]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_logits(isa, dtype, layout):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        view = layout(logits)
        for actual, expected in zip(results(view, targets), results(logits, targets), strict=True):
            assert_same(actual, expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_soft_targets(isa, dtype, layout):
    for shape in SHAPES:
        logits, _ = inputs.batch(shape, dtype)
        targets = inputs.soft_targets(shape, dtype)
        expected = soft_results(logits, targets)
        assert_same(soft_results(logits, layout(targets))[0], expected[0])
        assert_same(soft_results(layout(logits), layout(targets))[0], expected[0])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_targets_and_weights(dtype, layout):
    logits, targets = inputs.batch((6, 8, 10), dtype)
    weight = np.random.default_rng(0).uniform(0.5, 2, (6, 8)).astype(dtype)
    plain = {"sample_weight": weight, "grad_output": weight}
    plain["class_weight"] = np.linspace(0.5, 2, 10).astype(dtype)
    viewed = {name: layout(value) for name, value in plain.items()}
    call = {"reduction": "none", "return_grad": True}
    for integer in (np.int32, np.int64, np.uint8):
        targets = targets.astype(integer)
        expected = xent.cross_entropy(logits, targets, **call, **plain)
        assert_same(xent.cross_entropy(logits, layout(targets), **call, **viewed), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_class_axis(isa, dtype, axis):
    for shape in ((4, 5, 12), (3, 2, 130), (2, 3, 1025)):
        logits, targets = inputs.batch(shape, dtype)
        moved = np.ascontiguousarray(np.moveaxis(logits, -1, axis))
        for name, call in {"cross_entropy": {"return_hess": True}, **MODULATED}.items():
            loss, *derivatives = getattr(xent, name)(
                moved, targets, axis=axis, reduction="none", **call
            )
            expected = getattr(xent, name)(logits, targets, reduction="none", **call)
            assert_same(loss, expected[0])
            assert_same(tuple(np.moveaxis(d, axis, -1) for d in derivatives), expected[1:])
        soft = inputs.soft_targets(shape, dtype)
        moved_soft = np.ascontiguousarray(np.moveaxis(soft, -1, axis))
        loss, *derivatives = xent.cross_entropy(moved, moved_soft, axis=axis, return_hess=True)
        expected = xent.cross_entropy(logits, soft, return_hess=True)
        assert_same(loss, expected[0])
        assert_same(tuple(np.moveaxis(d, axis, -1) for d in derivatives), expected[1:])
        for name in FAMILY:
            actual = getattr(xent, name)(moved, axis=axis)
            if name != "logsumexp":
                actual = np.moveaxis(actual, axis, -1)
            assert_same(actual, getattr(xent, name)(logits, axis=-1))


@pytest.mark.parametrize("run", [1, 2, 7, 16, 50, 100])
def test_short_runs_of_columns(isa, dtype, run):
    # Tiles, and the pieces that threads take, begin and end anywhere in a run.
    for rows, classes in ((2600, 20), (400, 130), (60, 1030)):
        shape = (rows // run + 1, run, classes)
        logits, targets = inputs.batch(shape, dtype)
        soft = inputs.soft_targets(shape, dtype)
        moved, moved_soft = (_strided_rows(np.moveaxis(a, -1, 1)) for a in (logits, soft))
        weights = np.linspace(0.5, 2, targets.size).reshape(targets.shape)
        for weight in (weights, weights[:1]):
            call = {"reduction": "none", "sample_weight": weight, "return_grad": True}
            for of in ({}, {"label_smoothing": 0.1}, {"temperature": 2.0}, {"return_hess": True}):
                expected = xent.cross_entropy(logits, targets, **call, **of)
                loss, *derivatives = xent.cross_entropy(moved, targets, axis=1, **call, **of)
                assert_same(loss, expected[0])
                assert_same(tuple(np.moveaxis(d, 1, -1) for d in derivatives), expected[1:])
            expected = xent.cross_entropy(logits, soft, **call)
            loss, grad = xent.cross_entropy(moved, moved_soft, axis=1, **call)
            assert_same((loss, np.moveaxis(grad, 1, -1)), expected)
        for name in FAMILY:
            actual = getattr(xent, name)(moved, axis=1)
            if name != "logsumexp":
                actual = np.moveaxis(actual, 1, -1)
            assert_same(actual, getattr(xent, name)(logits, axis=-1))
        places = np.full(tuple(n + 2 for n in moved.shape), 7, dtype)
        inside = places[1:-1, 1:-1, 1:-1]
        xent.softmax(moved, axis=1, out=inside)
        assert_same(np.moveaxis(inside, 1, -1), xent.softmax(logits, axis=-1))
        inside[...] = 7
        assert (places == 7).all()


def test_broadcast_logits_and_targets(isa, dtype):
    logits, targets = inputs.batch((1, 50), dtype)
    many = np.broadcast_to(logits, (9, 50)), np.broadcast_to(targets, (9,))
    copies = many[0].copy(), many[1].copy()
    for actual, expected in zip(results(*many), results(*copies), strict=True):
        assert_same(actual, expected)
    one_logit = np.broadcast_to(logits[:, :1], (3, 50))
    for actual, expected in zip(
        results(one_logit, many[1][:3]), results(one_logit.copy(), copies[1][:3]), strict=True
    ):
        assert_same(actual, expected)


def test_memory_mapped_logits(dtype, tmp_path):
    logits, targets = inputs.batch((20, 33), dtype)
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    for actual, expected in zip(results(mapped, targets), results(logits, targets), strict=True):
        assert_same(actual, expected)
    assert type(xent.softmax(mapped, axis=-1)) is np.ndarray


class _ByArray:
    """Something that NumPy can read through `__array__`."""

    def __init__(self, a: np.ndarray):
        self.a = a

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.a, dtype, copy=copy)


class _ByDlpack:
    """Something that can only be exchanged through DLPack."""

    def __init__(self, a: np.ndarray):
        self.a = a

    def __dlpack__(self, **options: Any) -> Any:
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()


@pytest.mark.parametrize("wrap", [_ByArray, _ByDlpack, memoryview, np.ndarray.tolist])
def test_arrays_of_others(dtype, wrap):
    logits, targets = inputs.batch((20, 33), dtype)
    if wrap is np.ndarray.tolist:
        dtype = np.dtype(np.float64)
    actual = results(wrap(logits), wrap(targets))
    for one, other in zip(actual, results(logits.astype(dtype), targets), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_buffers(isa, dtype, layout):
    if layout in (_read_only, _byte_swapped):
        layout = _fortran
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        expected = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)
        grad_out = layout(np.zeros(shape, dtype))
        out = np.moveaxis(layout(np.zeros((*shape[:-1], 2), dtype)), -1, 0)[1]
        loss, grad = xent.cross_entropy(
            logits, targets, reduction="none", return_grad=True, out=out, grad_out=grad_out
        )
        assert loss is out
        assert grad is grad_out
        assert_same((loss, grad), expected)
        expected = xent.cross_entropy(logits, targets, return_hess=True)
        hess_out = layout(np.zeros(shape, dtype))
        for buffers in ({"hess_out": hess_out}, {"hess_out": hess_out, "grad_out": grad_out}):
            actual = xent.cross_entropy(logits, targets, return_hess=True, **buffers)
            assert actual[2] is hess_out
            assert_same(actual, expected)
        for name in ("softmax", "log_softmax"):
            assert_same(
                getattr(xent, name)(logits, axis=-1, out=grad_out),
                getattr(xent, name)(logits, axis=-1),
            )


def test_nothing_around_a_buffer_is_written(isa, dtype):
    for classes in (*range(1, 70), 130, 1023, 1024, 1025):
        logits, targets = inputs.batch((5, classes), dtype)
        around = np.full((7, classes + 2), 7, dtype)
        losses = np.full(7, 7, dtype)
        inside = around[1:-1, 1:-1]
        xent.cross_entropy(
            logits, targets, reduction="none", return_grad=True, out=losses[1:-1], grad_out=inside
        )
        xent.cross_entropy(logits, targets, return_hess=True, hess_out=inside)
        xent.softmax(logits, axis=-1, out=inside)
        inside[...] = 7
        assert (around == 7).all(), classes
        assert losses[0] == losses[-1] == 7


@pytest.mark.parametrize("apart", [0, 4], ids=["in-step", "out-of-step"])
@pytest.mark.parametrize("classes", [130, 513, 1025])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gradients_that_outgrow_the_cache(isa, dtype, classes, apart):
    """Rows share partial cache lines, which are streamed, in both outputs if they are aligned alike; some do not count."""
    size = (33 << 20) // np.dtype(dtype).itemsize
    shape = (-(-size // classes), classes)
    logits = (np.random.default_rng(1).integers(-40, 40, shape, np.int8) / np.float32(8)).astype(
        dtype
    )
    targets = np.arange(shape[0]) % (classes + classes // 4)
    targets[targets >= classes] = -100
    raw = np.full((2, -(-(logits.size + 10) // 64) * 64 + apart), 7, dtype)
    end = 3 + logits.size
    outputs = [part[3:end].reshape(shape) for part in raw]
    given = {"ignore_index": -100, "reduction": "none", "return_hess": True}
    with xent.num_threads(2):  # many threads have much cache
        _, *derivatives = xent.cross_entropy(
            logits, targets, grad_out=outputs[0], hess_out=outputs[1], **given
        )
    assert (raw[:, :3] == 7).all()
    assert (raw[:, end:] == 7).all()
    step = 50_000 // classes
    for at in range(0, shape[0], step):
        part = slice(at, at + step)
        _, *expected = xent.cross_entropy(logits[part], targets[part], **given)
        assert_same(tuple(a[part] for a in derivatives), tuple(expected))


def _protect(pages: mmap.mmap, page: int) -> None:
    """Make one page of the map a trap."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages, page * mmap.PAGESIZE))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0


def _guarded(a: np.ndarray, at_end: bool) -> np.ndarray:
    """Copy into memory whose neighbours on both sides trap, flush with one of them."""
    pages = -(-a.nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    _protect(memory, 0)
    _protect(memory, pages + 1)
    offset = mmap.PAGESIZE + at_end * (pages * mmap.PAGESIZE - a.nbytes)
    view = np.frombuffer(memory, a.dtype, a.size, offset).reshape(a.shape)
    view[...] = a
    return view


GUARDS = {"linux": ("end", "start"), "darwin": ("end", "start")}.get(sys.platform, ())


@pytest.mark.parametrize("side", GUARDS)
def test_nothing_beyond_an_array_is_read(isa, dtype, side):
    """Reading one byte too many ends the process here."""
    at_end = side == "end"
    for rows in (1, 3, 16, 17):
        for classes in (*range(1, 70), 127, 128, 129, 130, 1023, 1025):
            logits, targets = inputs.batch((rows, classes), dtype)
            guarded = _guarded(logits, at_end), _guarded(targets, at_end)
            grad_out = _guarded(np.zeros_like(logits), at_end)
            expected = xent.cross_entropy(logits, targets, return_grad=True)
            actual = xent.cross_entropy(*guarded, return_grad=True, grad_out=grad_out)
            assert_same(actual, expected)
            hess_out = _guarded(np.zeros_like(logits), at_end)
            actual = xent.cross_entropy(
                *guarded, return_hess=True, grad_out=grad_out, hess_out=hess_out
            )
            assert_same(actual[:2], expected)
            soft = _guarded(inputs.soft_targets((rows, classes), dtype), at_end)
            xent.cross_entropy(guarded[0], soft, return_grad=True, grad_out=grad_out)
            xent.softmax(guarded[0], axis=-1, out=grad_out)
            xent.logsumexp(guarded[0], axis=-1)


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("side", GUARDS)
def test_targets_are_checked_again_where_they_are_used(isa, dtype, side, columns):
    """Another thread may have changed them since they were validated: such rows count for nothing."""
    limits = np.iinfo(np.int64)
    for classes in (1, 10, 40, 500):
        bad = [limits.min, -5, classes, 2**31, 2**32, 2**40, limits.max]
        logits, targets = inputs.batch((24, classes), dtype)
        expected = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)
        spoilt = np.r_[: len(bad), -len(bad) : 0]
        targets[spoilt] = [*bad, *bad]
        for a in expected:
            a[spoilt] = 0
        order = "F" if columns else "C"
        guarded, grad = (
            _guarded(a.ravel(order), side == "end").reshape(a.shape, order=order)
            for a in (logits, np.ones_like(logits))
        )
        loss = np.ones(24, dtype)
        core_call("cross_entropy", guarded, index=targets, loss=loss, out=grad).compute()
        assert_same((loss, grad), expected)


def test_classes_beside_axes_of_one_element(isa, dtype):
    """Lanes lie along another axis than that of one element, which is contiguous too."""
    logits, targets = inputs.batch((1, 6, 5), dtype)
    expected = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)
    loss, grad = xent.cross_entropy(
        np.moveaxis(logits, -1, 0).copy(), targets, axis=0, reduction="none", return_grad=True
    )
    assert_same((loss, np.moveaxis(grad, 0, -1)), expected)


def test_more_classes_than_lanes_count():
    classes = (1 << 24) + 1
    lse = xent.logsumexp(np.zeros((classes, 2), np.float16), axis=0)
    np.testing.assert_array_equal(lse, np.full(2, np.log(classes), np.float16))


def core_call(
    operation: str, logits: np.ndarray, reduction: str = "none", **arrays: Any
) -> Request:
    """A call of the core, which validates nothing, over arrays as it reads them."""
    request = Request(operation, *as_read(logits, "logits"), logits.ndim - 1)
    return request.part(logits, **arrays, reduction=reduction)


def test_the_core_by_itself_refuses_what_it_cannot_read():
    logits = np.zeros((4, 6))[:, ::2]
    call = core_call("logsumexp", logits, lse=np.zeros(4))
    assert not call.layout_supported()
    with pytest.raises(ValueError, match="no axis is contiguous"):
        call.compute()


def test_the_core_by_itself_keeps_the_row_losses_of_a_sum(dtype):
    logits, targets = inputs.batch((4, 3), dtype)
    loss = np.zeros(4, dtype)
    call = core_call("cross_entropy", logits, "sum", index=targets, loss=loss)
    assert (call.prepare(), call.compute()) == (-1, -1)
    assert_same(loss, xent.cross_entropy(logits, targets, reduction="none"))
    assert dtype.type(call.finish()) == xent.cross_entropy(logits, targets, reduction="sum")


def test_the_core_by_itself_has_no_mean_of_a_softmax(dtype):
    logits = inputs.batch((4, 3), dtype)[0]
    out = np.zeros_like(logits)
    assert core_call("softmax", logits, "mean", out=out).compute() == -1
    assert_same(out, xent.softmax(logits, axis=-1))
