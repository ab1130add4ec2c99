"""Argument validation by itself: what it accepts and in which form, and the text of every message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from xent._request import bad_probability, bad_target

from xent import _arguments as arguments
from xent._blocks import numbers

F16, F32, F64, BITS = (np.dtype(code) for code in ("e", "f", "d", "H"))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LOGITS = np.zeros((4, 3))
INDEX = np.zeros(4, int)
READ_ONLY = np.zeros(4)
READ_ONLY.flags.writeable = False
REPEATED = np.lib.stride_tricks.as_strided(np.zeros(8), (4,), (4,))
SINGLE, DOUBLE, HALF = (arguments.logits(np.zeros(2, t), "x")[1] for t in (F32, F64, F16))
AS_BITS = arguments.logits(np.zeros(2, BITS), "x", "bfloat16")[1]


def _of(package: str) -> Any:
    return type("Array", (), {"__module__": f"{package}.core"})()


MESSAGES = [
    (
        arguments.array,
        (np.ma.array([1]), "x"),
        TypeError,
        "x: a masked array is not accepted; fill it with .filled(), "
        "or give masked rows sample_weight 0 or the target ignore_index",
    ),
    (
        arguments.array,
        (scipy.sparse.eye_array(2), "x"),
        TypeError,
        "x: dia_array is a sparse array; convert it with .toarray()",
    ),
    (
        arguments.array,
        (_of("sparse"), "x"),
        TypeError,
        "x: Array is a sparse array; convert it with .todense()",
    ),
    (
        arguments.array,
        (_of("dask"), "x"),
        TypeError,
        "x: Array is a Dask array; call .compute(), or map this function over its blocks",
    ),
    (
        arguments.array,
        (_of("cupy"), "x"),
        TypeError,
        "x: Array is a CuPy array on a GPU; copy it to the CPU with cupy.asnumpy",
    ),
    (
        arguments.real,
        (np.array(1j), "b"),
        TypeError,
        "b: dtype complex128 is not accepted; expected real numbers of at most 64 bits",
    ),
    (
        arguments.logits,
        (np.array(1j), "x"),
        TypeError,
        "x: dtype complex128 is not accepted; expected float16, bfloat16, float32, float64, integers or bool",
    ),
    (
        arguments.logits,
        (LOGITS, "x", "bfloat16"),
        ValueError,
        "dtype: 'bfloat16' reads uint16 x, got dtype float64",
    ),
    (
        arguments.logits,
        (np.zeros(2, "u4"), "x", "bfloat16"),
        ValueError,
        "dtype: 'bfloat16' reads uint16 x, got dtype uint32",
    ),
    (
        arguments.logits,
        (np.zeros(2, "i2"), "x", "bfloat16"),
        ValueError,
        "dtype: 'bfloat16' reads uint16 x, got dtype int16",
    ),
    (
        arguments.logits,
        (LOGITS, "x", BITS),
        ValueError,
        "dtype: expected None or 'bfloat16' (for uint16 x), got dtype('uint16')",
    ),
    (
        arguments.logits,
        (LOGITS, "x", INDEX),
        ValueError,
        "dtype: expected None or 'bfloat16' (for uint16 x), got an array of shape (4,) and dtype int64",
    ),
    (
        arguments.class_axis,
        (0, 0, "x"),
        ValueError,
        "x: expected at least one axis, that of the classes; got a scalar",
    ),
    (arguments.class_axis, (0.0, 2, "x"), TypeError, "axis: expected an integer, got 0.0"),
    (
        arguments.class_axis,
        (2, 2, "x"),
        np.exceptions.AxisError,
        "axis: 2 is out of bounds for x with 2 axes",
    ),
    (
        arguments.class_axis,
        (-3, 2, "x"),
        np.exceptions.AxisError,
        "axis: -3 is out of bounds for x with 2 axes",
    ),
    (
        arguments.targets,
        (np.full(4, 0.5), LOGITS, 1),
        TypeError,
        "targets: dtype float64 is not accepted for class indices, of shape (4,); expected "
        "integers or bool. Class probabilities would have the shape of the logits, (4, 3)",
    ),
    (
        arguments.targets,
        (_of("dask"), LOGITS, 1),
        TypeError,
        "targets: Array is a Dask array; call .compute(), or map this function over its blocks",
    ),
    (
        arguments.targets,
        (1j * LOGITS, LOGITS, 1),
        TypeError,
        "targets: dtype complex128 is not accepted; expected real numbers of at most 64 bits "
        "for class probabilities, of shape (4, 3), or class indices of shape (4,)",
    ),
    (
        arguments.targets,
        (INDEX, np.zeros((3, 5)), 0),
        ValueError,
        "targets: shape (4,) does not fit logits of shape (3, 5) with the classes on "
        "axis 0; expected (5,) for class indices or (3, 5) for class probabilities",
    ),
    (
        arguments.teacher,
        (INDEX, LOGITS, DOUBLE, None),
        ValueError,
        "teacher_logits: expected the shape of student_logits, (4, 3); got (4,)",
    ),
    (
        arguments.teacher,
        (1j, LOGITS, DOUBLE, None),
        TypeError,
        "teacher_logits: dtype complex128 is not accepted; expected float16, "
        "bfloat16, float32, float64, integers or bool",
    ),
    (
        arguments.teacher,
        (np.zeros(2, BFLOAT16), np.zeros(2, BITS), AS_BITS, "bfloat16"),
        ValueError,
        "teacher_logits: expected uint16, as student_logits, for dtype='bfloat16'",
    ),
    (
        arguments.ignore_bits,
        (1.5, INDEX),
        TypeError,
        "ignore_index: expected an integer or None, got 1.5",
    ),
    (
        arguments.ignore_bits,
        (0, None),
        ValueError,
        "ignore_index: 0 needs class indices; with class probabilities use sample_weight",
    ),
    *(
        (
            arguments.number,
            (value, "x", 0.0, 1.0, "a number in [0, 1]"),
            TypeError,
            f"x: expected a number in [0, 1], got {value!r}",
        )
        for value in ("0.5", b"0.5", None, 1j, [0.5])
    ),
    (
        arguments.number,
        (10**400, "x", 0.0, 1.0, "a small one"),
        TypeError,
        f"x: expected a small one, got 1{'0' * 56}...",
    ),
    *(
        (
            arguments.number,
            (value, "x", 0.0, 1.0, "a number"),
            ValueError,
            f"x: expected a number, got {value!r}",
        )
        for value in (-1e-9, 1.0000001, np.nan, np.inf)
    ),
    (
        arguments.number,
        (np.inf, "x", 0.0, np.inf, "a finite number"),
        ValueError,
        "x: expected a finite number, got inf",
    ),
    *(
        (
            arguments.eps,
            (value,),
            ValueError,
            f"eps: expected None or a number in (0, 0.5], got {value}",
        )
        for value in (0.0, 0.51)
    ),
    *(
        (
            arguments.label_smoothing,
            (value,),
            ValueError,
            f"label_smoothing: expected a number in [0, 1], got {value}",
        )
        for value in (-0.1, 1.1)
    ),
    *(
        (
            arguments.z_loss,
            (value,),
            ValueError,
            f"z_loss: expected a finite number >= 0, got {value}",
        )
        for value in (-0.1, 1.1e30)
    ),
    *(
        (
            arguments.temperature,
            (value,),
            ValueError,
            f"temperature: expected a finite number > 0, got {value}",
        )
        for value in (0.0, 1.1e30)
    ),
    *(
        (
            arguments.softcap,
            (value,),
            ValueError,
            f"softcap: expected None or a finite number > 0, got {value}",
        )
        for value in (0.0, 1.1e30)
    ),
    (
        arguments.reduction,
        ("all",),
        ValueError,
        "reduction: expected one of none, sum, mean, got 'all'",
    ),
    (
        arguments.reduction,
        (1, True),
        ValueError,
        "reduction: expected one of none, sum, mean, batchmean, got 1",
    ),
    (
        arguments.class_weight,
        (1j, 3, F64),
        TypeError,
        "class_weight: dtype complex128 is not accepted; expected real numbers of at most 64 bits",
    ),
    (
        arguments.class_weight,
        ([1], 3, F64),
        ValueError,
        "class_weight: expected shape (3,), one weight a class; got (1,)",
    ),
    (
        arguments.broadcastable,
        (1j, "weight", (4,), F64),
        TypeError,
        "weight: dtype complex128 is not accepted; expected real numbers of at most 64 bits",
    ),
    (
        arguments.broadcastable,
        ([1, 2], "weight", (4,), F64),
        ValueError,
        "weight: shape (2,) does not broadcast to that of the loss, (4,)",
    ),
    (
        arguments.grad_output,
        (1j, True, (), F64),
        TypeError,
        "grad_output: dtype complex128 is not accepted; expected real numbers of at most 64 bits",
    ),
    (
        arguments.grad_output,
        (1.0, False, (4,), F64),
        ValueError,
        "grad_output: expected the shape of the loss, (4,), for reduction='none'; got ()",
    ),
    (
        arguments.grad_output,
        (INDEX, True, (4,), F64),
        ValueError,
        "grad_output: expected a scalar for a loss that is reduced, got an array of shape (4,) and dtype int64",
    ),
    (
        arguments.factors,
        (1j, LOGITS),
        TypeError,
        "b: dtype complex128 is not accepted; expected real numbers of at most 64 bits",
    ),
    (
        arguments.factors,
        ([1, 2], LOGITS),
        ValueError,
        "b: shape (2,) does not broadcast with that of a, (4, 3)",
    ),
    (
        arguments.flag,
        (INDEX, "keepdims"),
        TypeError,
        "keepdims: expected True or False, got an array of shape (4,) and dtype int64",
    ),
    (
        arguments.requested_outputs,
        (INDEX, False, None, None, None),
        TypeError,
        "return_grad: expected True or False, got an array of shape (4,) and dtype int64",
    ),
    (
        arguments.requested_outputs,
        (False, INDEX, None, None, None),
        TypeError,
        "return_hess: expected True or False, got an array of shape (4,) and dtype int64",
    ),
    (
        arguments.requested_outputs,
        (False, False, 1.0, None, None),
        ValueError,
        "grad_output: given, but return_grad is False",
    ),
    (
        arguments.requested_outputs,
        (False, False, None, LOGITS, None),
        ValueError,
        "grad_out: given, but return_grad is False",
    ),
    (
        arguments.requested_outputs,
        (True, False, None, None, LOGITS),
        ValueError,
        "hess_out: given, but return_hess is False",
    ),
    (
        arguments.buffer,
        ([0.0], "out", (1,), F64),
        TypeError,
        "out: expected a numpy.ndarray, got list",
    ),
    (
        arguments.buffer,
        (np.ma.zeros(1), "out", (1,), F64),
        TypeError,
        "out: expected a numpy.ndarray, got MaskedArray",
    ),
    (
        arguments.buffer,
        (np.zeros(2), "out", (1,), F64),
        ValueError,
        "out: expected shape (1,) and dtype float64, got an array of shape (2,) and dtype float64",
    ),
    (
        arguments.buffer,
        (np.zeros(1, F32), "out", (1,), F64),
        ValueError,
        "out: expected shape (1,) and dtype float64, got an array of shape (1,) and dtype float32",
    ),
    (arguments.buffer, (READ_ONLY, "out", (4,), F64), ValueError, "out: the array is read-only"),
    (
        arguments.buffer,
        (REPEATED, "out", (4,), F64),
        ValueError,
        "out: elements of the array share memory (strides (4,))",
    ),
    (
        arguments.check_no_overlap,
        ({"out": LOGITS}, {"x": LOGITS}),
        ValueError,
        "out: the array overlaps the memory of x",
    ),
    (
        arguments.check_no_overlap,
        ({"out": LOGITS, "hess_out": LOGITS}, {}),
        ValueError,
        "hess_out: the array overlaps the memory of out",
    ),
]


@pytest.mark.parametrize(("function", "given", "error", "message"), MESSAGES)
def test_message(function, given, error, message):
    with pytest.raises(error) as caught:
        function(*given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, RuntimeError, BufferError, AttributeError]
)
def test_what_cannot_be_read_says_why(error):
    def fail(*_: Any, **__: Any) -> None:
        raise error("no")

    for method in ("__array__", "__dlpack__"):
        value = type("Array", (), {method: fail, "__dlpack_device__": lambda _: (1, 0)})()
        with pytest.raises(TypeError, match=r"^x: cannot be read as an array: no$"):
            arguments.array(value, "x")


def test_how_arguments_are_named():
    assert arguments.described(LOGITS) == "an array of shape (4, 3) and dtype float64"
    assert arguments.described("x" * 58) == repr("x" * 58)
    assert arguments.described("x" * 59) == f"'{'x' * 56}..."


def forwarded(name: str) -> Callable[..., Any]:
    """A method that does what that of LOGITS does."""
    return lambda _self, *_, **options: getattr(LOGITS, name)(**options)


def test_arrays_of_other_kinds():
    assert arguments.array(LOGITS, "x") is LOGITS
    ways = {"array": ("__array__",), "dlpack": ("__dlpack__", "__dlpack_device__")}
    others = [
        type(kind, (), {name: forwarded(name) for name in names})() for kind, names in ways.items()
    ]
    both = type("both", (), {"__array__": staticmethod(LOGITS.__array__), "__dlpack__": None})()
    for other in (LOGITS.view(np.matrix), both, *others):
        found = arguments.array(other, "x")
        assert type(found) is np.ndarray
        assert np.shares_memory(found, LOGITS)
    for kind, value in ((np.float64, 2), (np.ndarray, (1,))):
        # Whose module has the name of a package, but which are NumPy's own.
        assert arguments.array(type("Own", (kind,), {"__module__": "sparse"})(value), "x").size == 1


def test_dtypes():
    for code in ("?", *"bBhHiIlLqQefd", ">f8", BFLOAT16):
        assert arguments.real(np.zeros(1, code), "x").dtype == code
    for code in ("?", *"bBhiIlLqQ"):
        assert arguments.logits(np.zeros(1, code), "x")[1] == DOUBLE
    for dtype in (F16, F32, F64):
        swapped = np.zeros(1, dtype.newbyteorder())
        kind = arguments.Precision(dtype, max(dtype, F32), dtype)
        assert arguments.logits(swapped, "x") == (swapped, kind)
    for given, dtype, result_dtype in ((BITS, "bfloat16", BITS), (BFLOAT16, None, BFLOAT16)):
        found, kind = arguments.logits(np.ones(1, given), "x", dtype)
        assert found.dtype == BITS
        assert kind == arguments.Precision(BITS, F32, result_dtype, True)
    swapped = np.ones(1, BITS.newbyteorder())
    assert arguments.logits(swapped, "x", "bfloat16") == (swapped, AS_BITS)
    assert not HALF.bfloat16


def test_class_axis_counts_from_the_front():
    assert [arguments.class_axis(axis, 3, "x") for axis in range(-3, 3)] == [0, 1, 2, 0, 1, 2]
    assert arguments.class_axis(np.int8(-1), 3, "x") == 2


def test_targets():
    shape = (2, 3, 5)
    for axis, rows in enumerate(((3, 5), (2, 5), (2, 3))):
        index, soft = arguments.targets(np.zeros(rows, ">i4"), np.zeros(shape), axis)
        assert soft is None
        assert index is not None
        assert (index.shape, index.dtype) == (rows, np.int32)
        index, soft = arguments.targets(np.zeros(shape), np.zeros(shape), axis)
        assert index is None
        assert soft is not None
        assert soft.shape == shape
    assert arguments.targets(INDEX, LOGITS, 1)[0] is INDEX
    assert arguments.targets(INDEX > 0, LOGITS, 1)[0].dtype == bool


@pytest.mark.parametrize(
    ("student", "teacher", "storage", "read"),
    [
        (F32, F32, F32, (F32, F32)),
        (F32, F64, F64, (F32, F64)),
        (F32, np.dtype(">f8"), F64, (F32, np.dtype(">f8"))),
        (F16, F32, F32, (F16, F32)),
        (F16, BFLOAT16, F32, (F16, BFLOAT16)),
        (BFLOAT16, F64, F64, (BFLOAT16, F64)),
        (BFLOAT16, BFLOAT16, BITS, (BITS, BITS)),
        (np.dtype("i4"), F32, F64, (np.dtype("i4"), F32)),
    ],
)
def test_teacher_and_student_are_computed_in_the_wider_dtype(student, teacher, storage, read):
    x, kind = arguments.logits(np.zeros((4, 3), student), "student_logits")
    *found, wide = arguments.teacher(np.zeros((4, 3), teacher), x, kind, None)
    assert tuple(a.dtype for a in found) == read
    assert wide == arguments.Precision(
        storage, F32 if storage == BITS else storage, kind.result_dtype, storage == BITS
    )


def test_teacher_of_bits():
    bits = np.zeros(2, BITS)
    assert arguments.teacher(bits, bits, AS_BITS, "bfloat16")[2] == AS_BITS


def test_what_is_wrong_with_values():
    error = bad_probability(np.full((2, 21), 1.5), DOUBLE, "probs", 41)
    assert type(error) is ValueError
    assert str(error) == "probs[1, 20] = 1.5 is not a probability; expected 0 <= p <= 1"
    index = np.arange(6, dtype=np.uint8).reshape(2, 3)
    error = bad_target(index, 5, 4, None)
    assert type(error) is IndexError
    assert str(error) == "targets[1, 2] = 5 is not a class; expected 0 <= target < 4"
    assert str(bad_target(index, 4, 4, -100)) == (
        "targets[1, 1] = 4 is not a class; expected 0 <= target < 4 or ignore_index=-100"
    )


@pytest.mark.parametrize(
    ("value", "dtype", "bits"),
    [
        (None, "i8", None),
        (-100, "i8", -100),
        (np.int8(3), "i8", 3),
        (127, "i1", 127),
        (128, "i1", None),
        (-128, "i1", -128),
        (-129, "i1", None),
        (255, "u1", 255),
        (-1, "u1", None),
        (2**63 - 1, "u8", 2**63 - 1),
        (2**63, "u8", -(2**63)),
        (2**64 - 1, "u8", -1),
        (2**64, "u8", None),
        (0, "?", 0),
        (1, "?", 1),
        (2, "?", None),
        (-1, "?", None),
    ],
)
def test_ignore_index_is_the_bits_of_the_dtype(value, dtype, bits):
    assert arguments.ignore_bits(value, np.zeros(1, dtype)) == bits


def test_ignore_index_without_class_indices():
    assert arguments.ignore_bits(-1, None) is None
    assert arguments.ignore_bits(None, None) is None


def test_numbers_at_the_ends_of_their_ranges():
    assert arguments.number(0, "x", 0.0, 1.0, "") == 0.0
    assert arguments.number(np.float32(1), "x", 0.0, 1.0, "") == 1.0
    assert type(arguments.number(1, "x", 0.0, 1.0, "")) is float
    assert [arguments.eps(value) for value in (None, 1e-30, 0.5)] == [0.0, 1e-30, 0.5]
    assert [arguments.label_smoothing(value) for value in (0, 1)] == [0.0, 1.0]
    assert [arguments.z_loss(value) for value in (0, 1e30)] == [0.0, 1e30]
    assert [arguments.temperature(value) for value in (1e-30, 1e30)] == [1e-30, 1e30]
    assert [arguments.softcap(value) for value in (None, 1e-30, 1e30)] == [0.0, 1e-30, 1e30]
    assert [arguments.reduction(name, True) for name in arguments.REDUCTIONS] == [0, 1, 2, 3]


def test_weights():
    assert arguments.class_weight(None, 3, F64) is None
    found = arguments.class_weight(np.ones(6, F64)[::2], 3, F32)
    assert found.dtype == F32
    assert found.flags.c_contiguous
    assert arguments.class_weight([1e300], 1, F32) == [np.inf]
    assert arguments.broadcastable(None, "x", (2, 4), F32) is None
    for dtype, kept in ((F32, F32), (None, np.dtype(int))):
        for given in (INDEX, INDEX[:1], INDEX[:, None][:2]):
            found = arguments.broadcastable(given, "x", (2, 4), dtype)
            assert (found.shape, found.dtype) == (given.shape, kept)
    assert arguments.broadcastable([1e300], "x", (1,), F32) == [np.inf]
    assert arguments.broadcastable(LOGITS, "x", (4, 3), None, "logits") is LOGITS
    assert arguments.factors(None, LOGITS) == (LOGITS, None)
    a, b = arguments.factors(np.ones((2, 1, 1)), LOGITS)
    assert (a.shape, b.shape) == ((2, 4, 3), (2, 4, 3))
    assert np.shares_memory(a, LOGITS)
    assert (b == 1).all()


def test_upstream_gradients():
    assert arguments.grad_output(None, False, (4,), F32) == (None, 1.0)
    assert arguments.grad_output(2, True, (4,), F32) == (None, 2.0)
    single = np.zeros(4, F32)
    assert arguments.grad_output(single, False, (4,), None)[0] is single
    rows, factor = arguments.grad_output(READ_ONLY, False, (4,), F32)
    assert rows.dtype == F32
    assert factor == 1.0
    assert arguments.grad_output([1e300], False, (1,), F32)[0] == [np.inf]


def test_what_is_asked_for():
    assert arguments.requested_outputs(False, False, None, None, None) == 0
    assert arguments.requested_outputs(True, False, 1.0, LOGITS, None) == 1
    assert arguments.requested_outputs(False, True, 1.0, LOGITS, LOGITS) == 2
    assert arguments.requested_outputs(1, np.bool_(True), None, None, None) == 2


def test_numbers_of_bits():
    assert numbers(LOGITS, DOUBLE) is LOGITS
    found = numbers(np.array([0x3FC0, 0xC000], BITS), AS_BITS)
    assert found.dtype == F32
    assert found.tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("shape", "strides", "good"),
    [
        ((), (), True),
        ((3,), (8,), True),
        ((3,), (-8,), True),
        ((3,), (7,), False),
        ((3,), (0,), False),
        ((1,), (0,), True),
        ((0,), (0,), True),
        ((2, 3), (24, 8), True),
        ((2, 3), (23, 8), False),
        ((3, 2), (8, 24), True),
        ((3, 2), (8, -23), False),
        ((2, 3), (8, 16), True),
        ((3, 3), (8, 16), False),
        ((2, 1, 3), (24, 0, 8), True),
        ((1, 3), (20, 24), True),
    ],
)
def test_elements_of_buffers_lie_apart(shape, strides, good):
    memory = np.zeros(96, np.uint8)
    a = np.ndarray(shape, F64, memory, 40, strides)
    if good:
        assert arguments.buffer(a, "out", shape, F64) is a
    else:
        with pytest.raises(ValueError, match=r"^out: elements of the array share memory"):
            arguments.buffer(a, "out", shape, F64)


def test_overlap():
    memory = np.zeros(20)
    assert arguments.overlap(memory[:11], memory[10:])
    assert not arguments.overlap(memory[:10], memory[10:])
    assert not arguments.overlap(memory[::2], memory[1::2])
    # Too hard to say is too hard to allow.
    rng = np.random.default_rng(1)
    bytes_ = np.zeros(1 << 21, np.uint8)
    hard = [
        np.ndarray((6,) * 6, np.uint8, bytes_, start, rng.integers(10_000, 60_000, 6))
        for start in (0, 7)
    ]
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(*hard, max_work=10_000)
    assert arguments.overlap(*hard)


def test_same_memory():
    a = np.zeros((4, 4))
    assert arguments.same_memory(a, a[:])
    for other in (a.T, a[1:], a[:3], a[:, ::-1], a.view(np.complex128), a.copy(), a.ravel()):
        assert not arguments.same_memory(a, other)
    assert not arguments.same_memory(a[:, :1], a.view(F32)[:, :1])


def test_buffers_apart_from_each_other_and_in_place():
    x, y = np.zeros((2, 4))
    arguments.check_no_overlap({"out": x, "grad_out": None}, {"x": y, "targets": None})
    arguments.check_no_overlap({"grad_out": x}, {"x": x}, ("grad_out", "x"))
    arguments.check_no_overlap({"out": x[:0], "grad_out": x}, {"x": x[:0]})
    arguments.check_no_overlap(
        {"grad_out": x, "out": y}, {"x": x, "w": np.ones(1)}, ("grad_out", "x")
    )
    for buffers, read in (
        ({"grad_out": x}, {"x": x[::-1]}),
        ({"grad_out": x}, {"x": x, "w": x}),
        ({"grad_out": x, "hess_out": x}, {"x": x}),
        ({"hess_out": x}, {"x": x}),
        ({"a": None, "b": y, "out": x[:1], "c": x}, {}),
    ):
        with pytest.raises(ValueError, match="overlaps"):
            arguments.check_no_overlap(buffers, read, ("grad_out", "x"))
