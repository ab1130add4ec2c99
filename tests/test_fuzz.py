"""Any arguments: the correct result, or a documented error and untouched buffers.

pytest tests/test_fuzz.py                                   the same examples every time
pytest tests/test_fuzz.py --hypothesis-profile=thorough     others every time, for ten minutes
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent
from calls import ROW_CALLS, using
from tolerance import assert_within, expect
from xent import _arguments, _core

FLOATS = st.sampled_from((np.float32, np.float64))
FINITE = {"allow_nan": False, "allow_infinity": False, "allow_subnormal": False}


@st.composite
def problems(draw: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Valid arguments: logits of up to four dimensions, masked classes, every option."""
    dtype = draw(FLOATS)
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=9))
    classes = draw(st.sampled_from((1, 2, 3, 8, 16, 17, 31, 64, 65, 200)))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    bound = draw(st.sampled_from((1.0, 30.0, 1e3)))
    values = st.floats(-bound, bound, width=32, **FINITE) | st.just(-np.inf)
    rows = draw(hnp.arrays(dtype, (*shape, classes), elements=values, fill=st.just(0.5)))
    rows[..., draw(st.integers(0, classes - 1))] = 0.25
    targets = draw(
        hnp.arrays(np.int64, shape, elements=st.integers(0, classes - 1) | st.just(-100))
    )
    weights = st.floats(0.125, 8, width=32)
    options: dict[str, Any] = {
        "axis": axis,
        "reduction": draw(st.sampled_from(("none", "sum", "mean"))),
        "z_loss": draw(st.sampled_from((0.0, 1e-3))),
        "softcap": draw(st.sampled_from((None, 7.5, 30.0))),
        "temperature": draw(st.sampled_from((1.0, 0.5, 3.0))),
        "class_weight": draw(st.none() | hnp.arrays(dtype, classes, elements=weights)),
        "sample_weight": draw(st.none() | hnp.arrays(dtype, shape, elements=weights)),
    }
    return np.moveaxis(rows, -1, axis), targets, options


@given(problems())
def test_any_valid_call_is_within_the_bounds(problem):
    logits, targets, options = problem
    expected = expect("cross_entropy", logits, targets, **options)
    loss, grad, hess = xent.cross_entropy(logits, targets, return_hess=True, **options)
    assert_within(loss, expected.value, expected.value_bound)
    masked_target = np.isinf(expected.value).any() and options["softcap"] is not None
    if not masked_target:
        assert_within(grad, expected.grad, expected.grad_bound)
        assert_within(hess, expected.hess, expected.hess_bound)


@st.composite
def row_problems(draw: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A loss over rows, arguments that it takes, masked classes and ties among them."""
    call = ROW_CALLS[draw(st.sampled_from(sorted(ROW_CALLS)))]
    dtype = np.dtype(draw(FLOATS))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=9))
    classes = draw(st.sampled_from((1, 2, 3, 8, 16, 17, 31, 64, 65, 200, 1030)))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    first, *others = call.arrays((*shape, classes), dtype)
    masked = draw(st.sampled_from((0.0, 0.1, 0.9)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if call.function in ("entropy", "distillation_loss"):
        first = np.round(first * dtype.type(draw(st.sampled_from((0.1, 1.0, 100.0)))))
        first = np.where(rng.random(first.shape) < masked, dtype.type(-np.inf), first)
        first[..., -1] = 0.25
        others = [np.where(rng.random(a.shape) < masked, first, a) for a in others]
    arrays = [np.moveaxis(a, -1, axis) if a.ndim == first.ndim else a for a in (first, *others)]
    weight = draw(st.none() | hnp.arrays(dtype, shape, elements=st.floats(0.125, 8, width=32)))
    options = {
        "axis": axis,
        "reduction": draw(st.sampled_from(("none", "sum", "mean"))),
        "sample_weight": weight,
    }
    return call, tuple(arrays), options


@given(row_problems())
def test_any_valid_call_of_the_other_losses_is_within_the_bounds(problem):
    call, arrays, options = problem
    expected = expect(call.function, *arrays, **{**call.options, **options})
    loss, grad = call(*arrays, **options)
    assert_within(loss, expected.value, expected.value_bound)
    assert_within(grad, expected.grad, expected.grad_bound)


FUNCTIONS = [
    name for name in xent.__all__ if len(inspect.signature(getattr(xent, name)).parameters) > 1
]
BUFFERS = ("out", "grad_out", "hess_out")
# The arrays of a call lie in one memory, each in its own place of so many bytes.
PLACE = 1 << 16
NOISE = np.random.default_rng(0).integers(0, 256, 32 * PLACE, np.uint8)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
INTEGERS = st.sampled_from([np.dtype(code) for code in [*"?bBhHiIqQ", ">i8"]])
REALS = st.sampled_from([np.dtype(code) for code in [*"ffddde", ">f4", ">f8"]] + [BFLOAT16])
REALS |= INTEGERS
STRANGE_DTYPES = REALS | st.sampled_from(
    [np.dtype(code) for code in ("g", "F", "D", "M8[s]", "m8", "S3", "V5", "O", "f4,i4")]
    + [np.dtype(ml_dtypes.float8_e4m3), np.dtype(ml_dtypes.float8_e5m2)]
)
STRANGE_VALUES = st.sampled_from(
    [
        *(None, True, 0, 1, -1, 2**62, 2**70, 10**400, 0.5, -0.0, np.nan, -np.inf, 1j),
        *((), (0,), (0, 0), (-1, 0), [], [0, 1], [[1.0], [1.0, 2.0]], {}, range(3)),
        *(np.float32(2), np.int8(1), np.bool_(True), np.datetime64("2000"), np.longdouble(1)),
        *("", "mean", "bfloat16", "\udcff", b"1", memoryview(b"12"), object, slice(None), ...),
        *(Decimal("0.1"), Decimal("sNaN"), Fraction(1, 3)),
    ]
)
OPTIONS = {
    **dict.fromkeys(
        (
            "return_grad",
            "return_hess",
            "return_lse",
            "return_sign",
            "return_bias_grad",
            "return_teacher_grad",
            "return_temperature_grad",
            "keepdims",
            "log_target",
            "batch",
        ),
        st.booleans(),
    ),
    **dict.fromkeys(("label_smoothing", "alpha", "beta"), st.floats(0, 1)),
    "divergence": st.sampled_from(("forward_kl", "reverse_kl", "jsd")),
    "entropy_weight": st.floats(-1, 1),
    "top_k": st.integers(0, 3),
    **dict.fromkeys(("z_loss", "gamma", "epsilon", "smooth"), st.floats(0, 9)),
    **dict.fromkeys(("softcap", "temperature"), st.floats(0.125, 99)),
    "eps": st.none() | st.floats(1e-20, 0.5),
    "ignore_index": st.none() | st.integers(-2, 0),
    "reduction": st.sampled_from(("none", "sum", "mean")),
}
ALWAYS = ("axis", "dtype", "reduction")
NEEDED = {"grad_output": "return_grad", "grad_out": "return_grad", "hess_out": "return_hess"}


class Tagged(np.ndarray):
    """A class derived from arrays."""


FORMS = st.sampled_from(
    [lambda a: a] * 20 + [np.ndarray.tolist, np.ma.array, lambda a: a.view(Tagged)]
)
# Made once, which is most of the work of drawing from them.
SHAPES = [st.lists(st.integers(0, 3), max_size=n) for n in range(4)]
ORDERS = [st.permutations(range(n)) for n in range(4)]
CLASSES = st.sampled_from((3, 1, 2, 8, 17, 33, 0))
STEPS = st.sampled_from((1, 1, 1, 1, 1, 1, 2, 2, -1, -1, 0))
YES_OR_NO = st.booleans()
TENTHS = st.integers(0, 9)


@st.composite
def arrays(draw: Any, place: np.ndarray, shape: Any, dtype: np.dtype, classes: int) -> Any:
    """An array there: axes in any order, gaps, steps back, repeated elements, not aligned.

    It holds class indices or numbers from 0 to 1, and now and then something else.
    """
    if dtype.hasobject:
        return np.full(shape, None)
    strides, room = [0] * len(shape), dtype.itemsize
    for axis in draw(ORDERS[len(shape)]):
        step = draw(STEPS)
        strides[axis] = step * room
        room *= max(1, abs(step) * shape[axis])
    start = (0, dtype.itemsize, 1)[max(0, draw(TENTHS) - 7)]
    start -= sum(min(0, step) * (n - 1) for step, n in zip(strides, shape, strict=True) if n)
    a = np.ndarray(shape, dtype, place, start, strides)
    if dtype.kind not in "fiub" and dtype != BFLOAT16:
        return a
    integers, kinds = dtype.kind in "iub", draw(TENTHS)
    rng = np.random.default_rng(kinds)
    a[...] = rng.integers(0, max(1, classes), shape) if integers else rng.integers(0, 9, shape) / 8
    if a.size and kinds == 9:
        others = (100, 0, 1) if integers else (np.nan, np.inf, -np.inf, -1, 2)
        a.flat[rng.integers(a.size)] = draw(st.sampled_from(others))
    a.flags.writeable = draw(TENTHS) < 9
    return draw(FORMS)(a)


@st.composite
def calls(draw: Any, function: Callable[..., Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The memory of a call and its arguments: some that fit, up to two that are anything."""
    parameters = inspect.signature(function).parameters
    memory = NOISE[: len(parameters) * PLACE].copy()
    loss_shape, classes = draw(SHAPES[2]), draw(CLASSES)
    axis = draw(st.integers(-len(loss_shape) - 1, len(loss_shape)))
    shape = [*loss_shape]
    shape.insert(axis % (len(loss_shape) + 1), classes)
    rows = loss_shape if "axis" in parameters else shape
    dtype = draw(REALS)
    bits = "bfloat16" if dtype == np.uint16 else None
    kind = _arguments.logits(np.empty(0, dtype), "", bits)[1]
    options = {**OPTIONS, "axis": st.just(axis), "dtype": st.just(bits)}
    weights, factors, one = (rows, REALS), (shape, REALS), ([], REALS)
    result = (shape, st.just(kind.result_dtype))
    fitting = {
        "targets": ((rows, INTEGERS), factors),
        **dict.fromkeys(("class_weight", "class_bias"), (([classes], REALS),)),
        "target_probs": ((rows, REALS), factors),
        **dict.fromkeys(("sample_weight", "grad_output"), (weights, one)),
        **dict.fromkeys(("b", "pos_weight"), (factors, one)),
        **dict.fromkeys(("grad_out", "hess_out"), (result,)),
        "out": ((rows, st.just(kind.result_dtype)), result),
    }
    anything = draw(st.sets(st.sampled_from(list(parameters)), max_size=2))
    given: dict[str, Any] = {}
    for position, (name, parameter) in enumerate(parameters.items()):
        shapes = fitting.get(name, ((shape, st.just(dtype)),))
        if name == "out" and "reduction" in given:
            whole = str(given["reduction"]) == "none"
            shapes = ((rows if whole else [], st.just(kind.compute)),)
        if name in anything:
            if draw(YES_OR_NO):
                given[name] = draw(STRANGE_VALUES)
                continue
            shapes = ((draw(SHAPES[3]), STRANGE_DTYPES), (shapes[0][0], STRANGE_DTYPES))
        else:
            always = parameter.default is parameter.empty or name in ALWAYS
            needed = name not in NEEDED or given.get(NEEDED[name]) is True
            if not needed or not (always or draw(YES_OR_NO)):
                continue
            if name in options:
                given[name] = draw(options[name])
                continue
        fit, dtypes = draw(st.sampled_from(shapes))
        # Now and then in the place of the first argument: there buffers may be, or overlap.
        place = memory[PLACE * position * (draw(TENTHS) < 9) :]
        given[name] = draw(arrays(place, fit, draw(dtypes), classes))
    return memory, given


def documented(function: Callable[..., Any]) -> tuple[type[Exception], ...]:
    """The exceptions that its docstring names."""
    section = inspect.getdoc(function).partition("Raises\n------\n")[2].partition("\n\n")[0]
    return tuple(getattr(builtins, name) for name in re.findall(r"\w+Error", section))


def elements(memory: np.ndarray, buffers: list[Any]) -> np.ndarray:
    """Which bytes of the memory are the buffers' own."""
    own = np.zeros(memory.shape, bool)
    for a in buffers:
        start = a.ctypes.data - memory.ctypes.data
        np.ndarray((*a.shape, a.itemsize), bool, own, start, (*a.strides, 1))[...] = True
    return own


@pytest.mark.parametrize("name", FUNCTIONS)
@given(st.data())
def test_any_call_at_all_returns_or_raises_what_is_documented(name, data):
    function = getattr(xent, name)
    memory, arguments = data.draw(calls(function))
    before = memory.copy()
    outputs: list[Any] = []
    with using(data.draw(st.sampled_from(_core.isas())), xent.get_num_threads()):
        try:
            function(**arguments)
            outputs = [arguments[key] for key in BUFFERS if arguments.get(key) is not None]
        except documented(function) as error:
            argument = re.match(r"\w+", str(error))
            assert argument
            assert argument[0] in arguments
    assert elements(memory, outputs)[memory != before].all()


@pytest.mark.parametrize("name", ["set_num_threads", "num_threads"])
@given(STRANGE_VALUES | st.integers(-1, 1030))
def test_any_number_of_threads_is_set_or_refused(name, n):
    function, before = getattr(xent, name), xent.get_num_threads()
    message = "n: "
    try:
        with function(n) or nullcontext():
            assert xent.get_num_threads() == n
        xent.set_num_threads(before)
    except documented(function) as error:
        message = str(error)
    assert message.startswith("n: ")
    assert xent.get_num_threads() == before
