"""Every argument of every public function with values that it does not accept.

The error is of the documented type, its message names the argument, shows what was given, and no
buffer has been written to.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

import xent
from calls import ELEMENTWISE
from reference import ORACLES

NAN, INF = np.nan, np.inf
SHAPE = (4, 3)
SOFT = np.full(SHAPE, 1 / 3)
LIKELIHOODS = (
    "cross_entropy",
    "linear_cross_entropy",
    "nll_loss",
    "categorical_cross_entropy",
)
# The function whose gradients, of hidden states and weight, are written to a tuple of buffers.
IN_TUPLES = ("linear_cross_entropy",)


@dataclass(frozen=True)
class Bad:
    """A value, the error it must raise, and what the message must show besides the name.

    Besides this argument `given` is passed; `only` these functions refuse it, or all.
    """

    value: Any
    error: type[Exception] | tuple[type[Exception], ...]
    shows: tuple[str, ...]
    given: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()


def _read_only(shape: tuple[int, ...]) -> np.ndarray:
    buffer = np.zeros(shape)
    buffer.flags.writeable = False
    return buffer


def _bad_dtypes(shape: tuple[int, ...]) -> list[Bad]:
    """Values that no array argument of this shape accepts."""
    return [
        Bad(np.zeros(shape, np.complex128), TypeError, ("complex128",)),
        Bad(np.zeros(shape, np.longdouble), TypeError, (str(np.dtype(np.longdouble)),)),
        Bad(np.full(shape, "a"), TypeError, ("<U1",)),
        Bad(np.zeros(shape, ml_dtypes.float8_e5m2), TypeError, ("float8_e5m2",)),
        Bad(np.full(shape, None), TypeError, ("object",)),
        Bad(np.zeros(shape, "M8[s]"), TypeError, ("datetime64",)),
        Bad(np.ma.masked_array(np.zeros(shape), mask=np.ones(shape)), TypeError, ("masked",)),
    ]


def _foreign(package: str) -> Any:
    """Return an object whose type claims to come from this package."""
    return type("Array", (), {"__module__": f"{package}.core"})()


def _bad_arrays() -> list[Bad]:
    """Values that no array with a class axis accepts."""
    return [
        *_bad_dtypes(SHAPE),
        Bad(_foreign("dask"), TypeError, ("Dask", "compute()")),
        Bad(_foreign("cupy"), TypeError, ("CuPy", "asnumpy")),
        Bad(scipy.sparse.csr_array(np.eye(4, 3)), TypeError, ("sparse",)),
        Bad([[1.0, 2.0], [3.0]], (TypeError, ValueError), ()),
        Bad(None, (TypeError, ValueError), ()),
    ]


def _bad_numbers(*values: float) -> list[Bad]:
    """Values that no numeric argument accepts, and these values outside its range."""
    wrong = [Bad("1", TypeError, ("1",)), Bad(1j, TypeError, ("1j",))]
    wrong += [Bad([1.0, 2.0], TypeError, ())]
    return wrong + [Bad(value, ValueError, (str(value),)) for value in values]


def _bad_buffers(shape: tuple[int, ...]) -> list[Bad]:
    """Values that no float64 output buffer of this shape accepts."""
    longer = (*shape[:-1], shape[-1] + 1)
    return [
        Bad(np.zeros(longer), ValueError, (str(longer), str(shape))),
        Bad(np.zeros((1, *shape)), ValueError, (str((1, *shape)), str(shape))),
        Bad(np.zeros(shape, np.float32), ValueError, ("float32", "float64")),
        Bad(np.zeros(shape, np.int64), ValueError, ("int64", "float64")),
        Bad(_read_only(shape), ValueError, ("read-only",)),
        Bad(np.zeros(shape).tolist(), TypeError, ("list",)),
    ]


def _broadcast(shape: tuple[int, ...]) -> np.ndarray:
    """A writeable array whose elements share memory."""
    return np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape))


ARRAYS = _bad_arrays()
BUT_PERPLEXITY = tuple(ORACLES.keys() - {"perplexity"})
#: What has no Hessian with some options.
NO_HESSIAN: dict[str, Any] = {"return_hess": False, "hess_out": None}
BAD: dict[str, list[Bad]] = {
    **{
        first: [*ARRAYS, Bad(np.float64(1), ValueError, ("scalar",))]
        for first in ("logits", "log_probs", "probs", "student_logits")
    },
    "hidden": [*ARRAYS, Bad(np.float64(1), ValueError, ("scalar",))],
    "weight": [
        *ARRAYS,
        Bad(np.zeros((3, 4)), ValueError, ("(3, 4)", "(C, 3)", "(4, 3)")),
        Bad(np.zeros(3), ValueError, ("(3,)", "(C, 3)")),
        Bad(np.zeros((1, 3, 3)), ValueError, ("(1, 3, 3)", "(C, 3)")),
    ],
    "bias": [
        *_bad_dtypes((3,)),
        Bad(np.zeros(4), ValueError, ("(4,)", "(3,)")),
        Bad(np.zeros((1, 3)), ValueError, ("(1, 3)", "(3,)")),
        Bad(0.0, ValueError, ("()", "(3,)")),
    ],
    "teacher_logits": [
        *ARRAYS,
        Bad(np.zeros(3), ValueError, ("(3,)", "(4, 3)")),
        Bad(np.zeros((3, 4)), ValueError, ("(3, 4)", "(4, 3)")),
        Bad(np.zeros((1, 3)), ValueError, ("(1, 3)", "(4, 3)")),
        Bad(np.zeros((4, 3, 1)), ValueError, ("(4, 3, 1)", "(4, 3)")),
        Bad(np.float64(1), ValueError, ("()", "(4, 3)")),
    ],
    "a": ARRAYS,
    "x": ARRAYS,
    "targets": [
        *ARRAYS,
        Bad(np.zeros(4), TypeError, ("float64",)),
        Bad(SOFT, TypeError, ("float64",), only=("token_log_probs", "perplexity")),
        Bad(SOFT, TypeError, ("probabilities",), only=("focal_loss", "poly1_loss")),
        Bad(np.zeros(3, int), ValueError, ("(3,)", "(4, 3)")),
        Bad(np.zeros((3, 4), int), ValueError, ("(3, 4)", "(4, 3)")),
        Bad(np.zeros((4, 1), int), ValueError, ("(4, 1)", "(4, 3)")),
        Bad(np.zeros((4, 3, 1), int), (TypeError, ValueError), ("(4, 3, 1)", "(4, 3)")),
        Bad(0, (TypeError, ValueError), ("()", "(4, 3)")),
        Bad(np.array([0, 1, 7, 2]), IndexError, ("2", "7")),
        Bad(np.array([0, -1, 7, 2]), IndexError, ("1", "-1")),
    ],
    "axis": [
        *(Bad(n, (ValueError, IndexError), (str(n),)) for n in (2, -3, 2**62)),
        *(Bad(value, TypeError, ()) for value in (1.0, "1", [0])),
    ],
    "class_weight": [
        *_bad_dtypes((3,)),
        Bad(np.ones(4), ValueError, ("(4,)", "3")),
        Bad(np.ones((1, 3)), ValueError, ("(1, 3)", "3")),
        Bad(1.0, ValueError, ("()", "3")),
    ],
    "sample_weight": [
        *_bad_dtypes((4,)),
        Bad(np.ones(3), ValueError, ("(3,)", "(4,)")),
        Bad(np.ones((4, 1)), ValueError, ("(4, 1)", "(4,)")),
        Bad(np.ones((2, 4)), ValueError, ("(2, 4)", "(4,)")),
    ],
    "ignore_index": [
        *(Bad(value, TypeError, (str(value),)) for value in (1.5, "1")),
        Bad(0, ValueError, ("0",), {"targets": SOFT}, LIKELIHOODS),
        Bad(2, ValueError, ("2",), {"targets": SOFT}, LIKELIHOODS),
    ],
    "label_smoothing": _bad_numbers(-0.1, 1.1, NAN, INF),
    "z_loss": _bad_numbers(NAN, INF),
    "softcap": _bad_numbers(0.0, -1.0, NAN),
    "temperature": [*_bad_numbers(0.0, -1.0, NAN), Bad(None, TypeError, ())],
    "reduction": [
        *(
            Bad(name, ValueError, (repr(name), "none", "mean", *more), only=only)
            for name in ("avg", "Mean", "")
            for more, only in (((), ("perplexity",)), (("sum",), BUT_PERPLEXITY))
        ),
        *(Bad(value, (TypeError, ValueError), ("mean",)) for value in (None, 1, ["mean"])),
    ],
    "grad_output": [
        Bad(np.ones(4), ValueError, ("(4,)",), {"reduction": "sum"}),
        Bad(1.0, ValueError, ("(4,)",), {"reduction": "none"}),
        Bad(np.ones((4, 3)), ValueError, ("(4, 3)", "(4,)"), {"reduction": "none"}),
        Bad(np.ones(4, complex), TypeError, ("complex128",), {"reduction": "none"}),
        Bad("1", TypeError, ()),
    ],
    "grad_out": [*_bad_buffers(SHAPE), Bad(_broadcast(SHAPE), ValueError, ())],
    "hess_out": [*_bad_buffers(SHAPE), Bad(_broadcast(SHAPE), ValueError, ())],
    "b": [
        *_bad_dtypes(SHAPE),
        Bad(scipy.sparse.csr_array(np.eye(4, 3)), TypeError, ("sparse",)),
        Bad(np.ones(5), ValueError, ("(5,)", "(4, 3)")),
        Bad(np.ones((4, 1, 2)), ValueError, ("(4, 1, 2)", "(4, 3)")),
    ],
    "eps": _bad_numbers(0.0, -1e-7, 0.6, NAN, INF),
    "gamma": [*_bad_numbers(-0.1, NAN, INF), Bad(None, TypeError, ())],
    **{
        name: [*_bad_numbers(-0.1, NAN, INF), Bad(None, TypeError, ())]
        for name in ("alpha", "beta", "smooth")
    },
    "divergence": [
        *(Bad(name, ValueError, (name, "jsd", "reverse_kl")) for name in ("kl", "JSD")),
        Bad(None, (TypeError, ValueError), ("None", "jsd")),
    ],
    "entropy_weight": [
        replace(bad, given=NO_HESSIAN)
        for bad in [*_bad_numbers(NAN, INF), Bad(None, TypeError, ())]
    ],
    "class_bias": [
        replace(bad, given=NO_HESSIAN)
        for bad in (
            *_bad_dtypes((3,)),
            Bad(np.ones(4), ValueError, ("(4,)", "(3,)")),
            Bad(np.ones((1, 3)), ValueError, ("(1, 3)", "(3,)")),
            Bad(1.0, ValueError, ("()", "(3,)")),
        )
    ],
    "target_probs": [
        replace(bad, given=NO_HESSIAN | {"targets": np.array([[0, 1], [1, 2], [2, 0], [0, 2]])})
        for bad in (
            *_bad_dtypes((4, 2)),
            Bad(np.full((4, 3), 1 / 3), ValueError, ("(4, 3)", "(4, 2)")),
            Bad(np.full(4, 0.5), ValueError, ("(4,)", "(4, 2)")),
            Bad(0.5, ValueError, ("()", "(4, 2)")),
        )
    ],
    "epsilon": [*_bad_numbers(NAN, INF, -INF), Bad(None, TypeError, ())],
    "dtype": [
        *(Bad(name, (TypeError, ValueError), (name,)) for name in ("float8", "complex64")),
        Bad(3, (TypeError, ValueError), ("3",)),
    ],
}
# Flags, which accept anything that has a truth value; arrays have none.
FLAGS = ("batch", "keepdims", "return_sign", "return_grad", "return_hess", "return_lse")
for flag in (*FLAGS, "return_bias_grad", "return_teacher_grad", "return_temperature_grad"):
    BAD[flag] = [Bad(np.ones(2), TypeError, ("True or False", "(2,)"))]
BUFFERS = ("out", "grad_out", "hess_out")
# Those of elementwise losses are in test_elementwise.py, of contrastive ones in test_contrastive.py.
CONTRASTIVE = {"info_nce", "sigmoid_contrastive_loss"}
OPERATIONS = sorted(ORACLES.keys() - ELEMENTWISE - CONTRASTIVE)


def _parameters(name: str) -> list[str]:
    return list(inspect.signature(getattr(xent, name)).parameters)


def _good(name: str) -> dict[str, Any]:
    """Arguments the function takes, with buffers that show whether they were written to."""
    first = _parameters(name)[0]
    logits = np.arange(12.0).reshape(SHAPE)
    if first in ("a", "x"):
        return {first: logits, "axis": -1, "out": np.full(_out_shape(name, {}), 7.0)}
    good: dict[str, Any] = {first: logits / 12 if first == "probs" else logits}
    if "weight" in _parameters(name):
        good["weight"] = np.arange(9.0).reshape(3, 3)
    if "targets" in _parameters(name):
        good["targets"] = np.array([0, 1, 2, 0])
    if "teacher_logits" in _parameters(name):
        good["teacher_logits"] = logits[::-1].copy()
    if "grad_out" in _parameters(name):
        good |= {"return_grad": True, "grad_out": np.full(SHAPE, 7.0)}
    if name in IN_TUPLES:
        good["grad_out"] = np.full(SHAPE, 7.0), np.full((3, 3), 7.0)
    if "hess_out" in _parameters(name):
        good |= {"return_hess": True, "hess_out": np.full(SHAPE, 7.0)}
    if "out" in _parameters(name):
        good["out"] = np.full(_out_shape(name, {}), 7.0)
    return good


def _arrays(name: str) -> dict[str, Any]:
    """The arguments that come first."""
    parameters = inspect.signature(getattr(xent, name)).parameters.values()
    first = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY][: 2 + (name in IN_TUPLES)]
    return {key: value for key, value in _good(name).items() if key in first}


def _filled(arguments: dict[str, Any]) -> list[np.ndarray]:
    """The buffers among some arguments."""
    found = [arguments[key] for key in BUFFERS if arguments.get(key) is not None]
    return [a for one in found for a in (one if isinstance(one, tuple) else (one,))]


def _out_shape(name: str, given: dict[str, Any]) -> tuple[int, ...]:
    if name in ("softmax", "log_softmax"):
        return SHAPE
    by_default = "none" if name in ("entropy", "logsumexp", "token_log_probs") else "mean"
    return SHAPE[:1] if given.get("reduction", by_default) == "none" else ()


def _bad_calls() -> list[Any]:
    calls = []
    for name in OPERATIONS:
        for argument in _parameters(name):
            cases = [bad for bad in BAD.get(argument, ()) if name in (bad.only or OPERATIONS)]
            if argument == "grad_out" and name in IN_TUPLES:
                square = [*_bad_buffers((3, 3)), Bad(_broadcast((3, 3)), ValueError, ())]
                pairs = [(bad, (bad.value, None)) for bad in cases]
                pairs += [(bad, (None, bad.value)) for bad in square]
                cases = [replace(bad, value=pair) for bad, pair in pairs]
                cases.append(Bad(np.zeros(SHAPE), TypeError, ("tuple of 2", "(4, 3)")))
                cases.append(Bad((None,), ValueError, ("tuple of 2", "1 of them")))
            if argument == "out":
                given = {"reduction": "none"} if "reduction" in _parameters(name) else {}
                shape = _out_shape(name, given)
                cases = [replace(bad, given=given) for bad in _bad_buffers(shape)]
                cases.append(Bad(_broadcast(shape), ValueError, (), given))
                if given:
                    cases.append(Bad(np.zeros(4), ValueError, ("(4,)", "()"), {"reduction": "sum"}))
            for i, bad in enumerate(cases):
                calls.append(pytest.param(name, argument, bad, id=f"{name}-{argument}-{i}"))
    return calls


@pytest.mark.parametrize(("name", "argument", "bad"), _bad_calls())
def test_bad_argument(name, argument, bad):
    arguments = _good(name) | bad.given | {argument: bad.value}
    if "out" in arguments and argument != "out":
        arguments["out"] = np.full(_out_shape(name, arguments), 7.0)
    buffers = _filled({key: value for key, value in arguments.items() if key != argument})
    with pytest.raises(bad.error) as caught:
        getattr(xent, name)(**arguments)
    message = str(caught.value)
    for part in (argument, *bad.shows):
        assert part in message, f"{message!r} does not show {part!r}"
    assert all((buffer == 7).all() for buffer in buffers)
    if isinstance(bad.value, np.ndarray) and bad.value.dtype.kind in "iuf" and argument == "out":
        assert (bad.value == 0).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_argument_has_something_it_cannot_take(name):
    assert set(_parameters(name)) - {"out"} <= BAD.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_good_arguments_are_good(name):
    arguments = _good(name)
    getattr(xent, name)(**arguments)
    assert all((buffer != 7).any() for buffer in _filled(arguments))


@pytest.mark.parametrize(
    ("name", "buffer"),
    [
        (name, buffer)
        for name in OPERATIONS
        for buffer in BUFFERS[1:]
        if buffer in _parameters(name)
    ],
)
def test_a_buffer_for_what_is_not_returned(name, buffer):
    flag = {"grad_out": "return_grad", "hess_out": "return_hess"}[buffer]
    arrays = _arrays(name)
    for given in ({}, {"return_grad": True} if buffer == "hess_out" else {}):
        filled = np.full(SHAPE, 7.0)
        with pytest.raises(ValueError, match=f"{buffer}.*{flag}"):
            getattr(xent, name)(**arrays, **given, **{buffer: filled})
        assert (filled == 7).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_unknown_and_missing_arguments(name):
    with pytest.raises(TypeError, match="smoothing"):
        getattr(xent, name)(**_good(name), smoothing=0.1)
    with pytest.raises(TypeError):
        getattr(xent, name)()


@pytest.mark.parametrize(
    "name", [name for name in OPERATIONS if _parameters(name)[0] not in ("a", "x")]
)
def test_options_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        getattr(xent, name)(*_arrays(name).values(), -1)


@pytest.mark.parametrize("name", ["set_num_threads", "num_threads"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)],
)
def test_bad_number_of_threads(name, value, error):
    before = xent.get_num_threads()
    with pytest.raises(error, match=str(value)):
        getattr(xent, name)(value)
    assert xent.get_num_threads() == before
