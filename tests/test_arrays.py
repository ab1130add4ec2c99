"""Arrays of other libraries: Arrow's interface, PyTorch's tensors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import xent
from xent import _arguments as arguments

LOGITS = np.random.default_rng(0).normal(size=(5, 3))
TARGETS = np.array([0, 2, 1, 1, 0])


class Only:
    """What another object has of the PyCapsule interface, and nothing else."""

    def __init__(self, of: Any) -> None:
        for name in ("__arrow_c_array__", "__arrow_c_stream__"):
            if hasattr(of, name):
                setattr(self, name, getattr(of, name))


def lists(values: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


@pytest.mark.parametrize("code", "bBhHiIqQefd")
def test_arrow_numbers_are_used_where_they_lie(code):
    numbers = np.arange(7).astype(code)
    array = pa.array(numbers)
    found = arguments.array(Only(array), "x")
    assert found.dtype == code
    assert np.array_equal(found, numbers)
    assert found.ctypes.data == array.buffers()[1].address
    assert np.array_equal(arguments.array(Only(array.slice(2, 3)), "x"), numbers[2:5])


def test_arrow_memory_lives_as_long_as_the_array():
    found = arguments.array(Only(pa.array(np.arange(1 << 20))), "x")
    held = [pa.array(np.zeros(1 << 20, np.int64)) for _ in range(4)]
    assert np.array_equal(found, np.arange(1 << 20))
    assert len(held) == 4


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (pa.array([True, False, True, True]).slice(1), [False, True, True]),
        (lists(LOGITS).slice(1, 3), LOGITS[1:4]),
        (
            pa.chunked_array([lists(LOGITS), lists(LOGITS[:2])]),
            np.concatenate([LOGITS, LOGITS[:2]]),
        ),
        (pa.chunked_array([[1, 2], [3]]), [1, 2, 3]),
        (pa.chunked_array([], pa.int16()), np.empty(0, np.int16)),
        (pa.chunked_array([], pa.list_(pa.float32(), 3)), np.empty((0, 3), np.float32)),
        (pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]}), [[1, 3], [2, 4]]),
        (pa.table({"a": [1.0], "b": [3.0]}).slice(0, 0), np.empty((0, 2))),
        (pa.array([None, 1, 2]).slice(1), [1, 2]),
    ],
    ids=[
        *("bools", "lists", "chunked lists", "chunks", "nothing", "no lists", "table", "no rows"),
        "null elsewhere",
    ],
)
def test_arrow_arrays(value, wanted):
    found = arguments.array(Only(value), "x")
    assert np.array_equal(found, wanted)
    if isinstance(value, pa.FixedSizeListArray):
        assert np.array_equal(arguments.array(value, "x"), wanted)  # objects, to NumPy


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (pa.array([1, None]), "nulls; fill them, or leave their rows out"),
        (pa.chunked_array([[1], [None]], pa.int64()), "nulls"),
        (pa.array(["a"]), "Arrow's format 'u', which is not numbers"),
        (pa.array(["a"]).dictionary_encode(), "which is not numbers"),
        (pa.array([[1.0], [1.0, 2.0]]), "which is not numbers"),
    ],
)
def test_what_is_not_numbers_to_arrow(value, says):
    with pytest.raises(TypeError, match=rf"^targets: cannot be read as an array: .*{says}"):
        xent.cross_entropy(LOGITS[: len(value)], Only(value))


def test_loss_of_arrow_arrays():
    assert xent.cross_entropy(lists(LOGITS), Only(pa.array(TARGETS))) == xent.cross_entropy(
        LOGITS, TARGETS
    )


# Tensors.


def tensors(dtype: str) -> tuple[Any, Any, Any, Any]:
    """The module, logits and targets, and the same numbers as NumPy has them: of bfloat16 the bits."""
    torch = pytest.importorskip("torch")
    logits = torch.from_numpy(LOGITS).to(getattr(torch, dtype))
    own = (
        logits.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else logits.numpy()
    )
    return torch, logits, torch.from_numpy(TARGETS), own


TENSOR_DTYPES = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TENSOR_DTYPES)
def test_tensors_are_inputs_and_outputs(dtype):
    torch, logits, targets, own = tensors(dtype)
    told: Any = {"dtype": "bfloat16"} if dtype == "bfloat16" else {}
    grad_out, hess_out = torch.empty_like(logits), torch.empty_like(logits)
    out = torch.empty(5, dtype=torch.float64 if dtype == "float64" else torch.float32)
    options: Any = {"reduction": "none", "return_hess": True}
    xent.cross_entropy(logits, targets, out=out, grad_out=grad_out, hess_out=hess_out, **options)
    loss, grad, hess = xent.cross_entropy(own, TARGETS, **options, **told)
    assert np.array_equal(out.numpy(), loss)
    for found, wanted in ((grad_out, grad), (hess_out, hess)):
        bits = found.view(torch.int16).numpy().view(wanted.dtype) if told else found.numpy()
        assert np.array_equal(bits, wanted)
    result = torch.empty_like(logits)
    xent.softmax(logits, axis=-1, out=result)
    assert torch.allclose(result.double().sum(-1), torch.ones(5).double(), atol=0.02)
    before = grad_out.clone()
    assert xent.LossScaler(2.0).unscale(grad_out)
    assert torch.equal(grad_out * 2, before)


def test_tensor_of_bfloat16_in_place():
    torch, logits, targets, own = tensors("bfloat16")
    grad = xent.cross_entropy(own.copy(), TARGETS, return_grad=True, dtype="bfloat16")[1]
    xent.cross_entropy(logits, targets, return_grad=True, grad_out=logits)
    assert np.array_equal(logits.view(torch.int16).numpy().view(np.uint16), grad)


def test_weights_may_be_tensors_of_bfloat16():
    torch, _, targets, _ = tensors("float32")
    weight = torch.tensor([0.5, 1.5, 2.0], dtype=torch.bfloat16)
    assert xent.cross_entropy(LOGITS, targets, class_weight=weight) == xent.cross_entropy(
        LOGITS, TARGETS, class_weight=[0.5, 1.5, 2.0]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_that_want_a_gradient(dtype):
    _, logits, targets, _ = tensors(dtype)
    with pytest.raises(
        TypeError, match=r"^logits: .*requires grad.*; the functions of xent\.torch"
    ):
        xent.cross_entropy(logits.requires_grad_(), targets)


def test_tensors_that_do_not_fit():
    torch, logits, targets, _ = tensors("bfloat16")
    with pytest.raises(ValueError, match=r"grad_out: expected .* dtype float64, .* dtype bfloat16"):
        xent.cross_entropy(LOGITS, targets, return_grad=True, grad_out=logits)
    with pytest.raises(ValueError, match=r"grad_out: expected .* got an array .* dtype float32"):
        xent.cross_entropy(logits, targets, return_grad=True, grad_out=torch.empty(5, 3))


def test_results_of_bfloat16(monkeypatch):
    """Of the dtype of ml_dtypes, or bits where that is not installed."""
    _, logits, targets, own = tensors("bfloat16")
    bits = xent.cross_entropy(own, TARGETS, return_grad=True, dtype="bfloat16")[1]
    grad = xent.cross_entropy(logits, targets, return_grad=True)[1]
    assert grad.dtype.name == "bfloat16"
    assert np.array_equal(grad.view(np.uint16), bits)
    mixed = xent.distillation_loss(logits, LOGITS.astype(np.float32))
    assert mixed == xent.distillation_loss(logits.float(), LOGITS.astype(np.float32))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert np.array_equal(xent.cross_entropy(logits, targets, return_grad=True)[1], bits)
    with pytest.raises(ValueError, match="teacher_logits: expected the dtype of student_logits"):
        xent.distillation_loss(logits, LOGITS)


def test_autograd_is_told_what_is_written():
    torch, logits, targets, _ = tensors("float64")
    grad_out, factor = torch.ones_like(logits), torch.ones_like(logits, requires_grad=True)
    product = (factor * grad_out).sum()
    xent.cross_entropy(logits, targets, return_grad=True, grad_out=grad_out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with pytest.raises(TypeError, match="grad_out: the tensor requires grad"):
        xent.cross_entropy(logits, targets, return_grad=True, grad_out=factor)
