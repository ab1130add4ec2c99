"""Any arguments at all: the right answer, or a documented error and untouched buffers."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xent
from calls import ROW_CALLS
from tolerance import assert_within, expect

DOCUMENTED = (TypeError, ValueError, IndexError, NotImplementedError)
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


@settings(max_examples=300)
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


ODD_NUMBERS = st.sampled_from(
    (None, 0, 1, -1, 2**62, 2**70, 0.5, -0.0, np.nan, np.inf, "mean", b"x", 1j, (), [], {}, [0, 1])
)
ODD_ARRAYS = st.one_of(
    ODD_NUMBERS,
    hnp.arrays(
        hnp.scalar_dtypes() | st.just(np.dtype(object)),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
)
ARGUMENTS = {
    **dict.fromkeys(("class_weight", "sample_weight", "grad_output"), ODD_ARRAYS),
    **dict.fromkeys(("out", "grad_out", "hess_out"), ODD_ARRAYS),
    **dict.fromkeys(("axis", "ignore_index", "label_smoothing", "z_loss", "softcap"), ODD_NUMBERS),
    **dict.fromkeys(
        ("temperature", "reduction", "return_grad", "return_hess", "return_lse", "dtype"),
        ODD_NUMBERS,
    ),
}


@settings(max_examples=500)
@given(
    st.just(np.arange(6.0).reshape(2, 3)) | ODD_ARRAYS,
    st.just(np.array([0, 2])) | ODD_ARRAYS,
    st.fixed_dictionaries({}, optional=ARGUMENTS),
)
def test_any_call_at_all_returns_or_raises_what_is_documented(logits, targets, options):
    with suppress(*DOCUMENTED):
        xent.cross_entropy(logits, targets, **options)


@settings(max_examples=200)
@given(
    st.sampled_from(("logsumexp", "softmax", "log_softmax")), ODD_ARRAYS, ODD_NUMBERS, ODD_ARRAYS
)
def test_any_call_of_the_softmax_family_does_too(name, x, axis, out):
    with suppress(*DOCUMENTED):
        getattr(xent, name)(x, axis=axis, out=out)


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


@settings(max_examples=300)
@given(row_problems())
def test_any_valid_call_of_the_other_losses_is_within_the_bounds(problem):
    call, arrays, options = problem
    expected = expect(call.function, *arrays, **{**call.options, **options})
    loss, grad = call(*arrays, **options)
    assert_within(loss, expected.value, expected.value_bound)
    assert_within(grad, expected.grad, expected.grad_bound)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted({call.function for call in ROW_CALLS.values()})),
    st.just(np.arange(6.0).reshape(2, 3) / 6) | ODD_ARRAYS,
    st.just(np.array([0, 2])) | st.just(np.ones((2, 3))) | ODD_ARRAYS,
    st.fixed_dictionaries({}, optional=ARGUMENTS | {"eps": ODD_NUMBERS}),
)
def test_any_call_at_all_of_the_other_losses_does_too(name, first, second, options):
    function = getattr(xent, name)
    options = {key: it for key, it in options.items() if key in function.__kwdefaults__}
    with suppress(*DOCUMENTED):
        function(*((first,) if name == "entropy" else (first, second)), **options)
