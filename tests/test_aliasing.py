"""Outputs in the memory of inputs: exactly in place is exact, any other overlap is an error."""

from __future__ import annotations

import numpy as np
import pytest

import inputs
import xent

SHAPES = ((1, 1), (7, 10), (33, 16), (40, 64), (5, 130), (3, 4, 65), (4, 1025), (2, 40000))


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize(
    "options", [{}, {"softcap": 4.0, "temperature": 2.0, "label_smoothing": 0.1, "z_loss": 0.01}]
)
def test_gradient_in_place_of_the_logits(isa, dtype, kind, options):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        if kind == "soft":
            targets = inputs.soft_targets(shape, dtype)
        expected = xent.cross_entropy(logits, targets, return_grad=True, **options)
        loss, grad = xent.cross_entropy(
            logits, targets, return_grad=True, grad_out=logits, **options
        )
        assert grad is logits
        np.testing.assert_array_equal(loss, expected[0])
        np.testing.assert_array_equal(logits, expected[1])


def test_in_place_through_strides_and_axes(isa, dtype):
    logits, targets = inputs.batch((9, 8, 12), dtype)
    views = {
        "padded": np.concatenate([logits, logits], axis=-1)[..., :12],
        "reversed": logits[::-1, ::-1].copy()[::-1, ::-1],
        "classes first": np.moveaxis(np.moveaxis(logits, -1, 0).copy(), 0, -1),
        "fortran": np.asfortranarray(logits),
        "fully strided": np.repeat(logits, 2, axis=-1)[..., ::2],
    }
    expected = xent.cross_entropy(logits, targets, return_grad=True)[1]
    for name, view in views.items():
        xent.cross_entropy(view, targets, return_grad=True, grad_out=view)
        np.testing.assert_array_equal(view, expected, name)


@pytest.mark.parametrize("classes", [20, 100])
def test_in_place_gradient_with_ignored_rows_and_weights(isa, dtype, classes):
    logits, targets = inputs.batch((30, classes), dtype)
    targets[::4] = -100
    options = {
        "sample_weight": np.linspace(0, 2, 30),
        "class_weight": np.linspace(0.5, 1, classes),
        "return_grad": True,
        "return_lse": True,
    }
    _, expected, expected_lse = xent.cross_entropy(logits, targets, **options)
    _, _, lse = xent.cross_entropy(logits, targets, grad_out=logits, **options)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(lse, expected_lse)


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss"])
@pytest.mark.parametrize("options", [{}, {"softcap": 4.0, "temperature": 2.0, "z_loss": 0.01}])
def test_in_place_gradient_beside_a_hessian(isa, dtype, name, options):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        expected = getattr(xent, name)(logits, targets, return_hess=True, **options)
        for view in (logits.copy(), np.asfortranarray(logits), np.repeat(logits, 2, -1)[..., ::2]):
            hess_out = np.zeros_like(logits)
            loss, grad, hess = getattr(xent, name)(
                view, targets, return_hess=True, grad_out=view, hess_out=hess_out, **options
            )
            assert grad is view
            assert hess is hess_out
            np.testing.assert_array_equal(loss, expected[0])
            np.testing.assert_array_equal(grad, expected[1])
            np.testing.assert_array_equal(hess, expected[2])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_in_place(isa, dtype, name):
    for shape in SHAPES:
        x = inputs.batch(shape, dtype)[0]
        expected = getattr(xent, name)(x, axis=-1)
        assert getattr(xent, name)(x, axis=-1, out=x) is x
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("step", [1, 3, 10, -1])
def test_partial_overlap_of_gradient_and_logits(dtype, step):
    memory = np.arange(200, dtype=dtype)
    start = 50
    logits = memory[start : start + 100].reshape(10, 10)
    grad_out = memory[start + step : start + step + 100].reshape(10, 10)
    before = memory.copy()
    with pytest.raises(ValueError, match=r"grad_out.*overlap|overlap.*grad_out"):
        xent.cross_entropy(logits, np.zeros(10, int), return_grad=True, grad_out=grad_out)
    np.testing.assert_array_equal(memory, before)


def test_same_memory_in_another_order_overlaps(dtype):
    square = np.arange(100, dtype=dtype).reshape(10, 10)
    for other in (square.T, square[::-1], square[:, ::-1]):
        before = square.copy()
        with pytest.raises(ValueError, match="overlap"):
            xent.cross_entropy(square, np.zeros(10, int), return_grad=True, grad_out=other)
        for name in ("softmax", "log_softmax"):
            with pytest.raises(ValueError, match="overlap"):
                getattr(xent, name)(square, axis=-1, out=other)
        np.testing.assert_array_equal(square, before)


def test_outputs_may_overlap_no_other_argument(dtype):
    logits, targets = inputs.batch((6, 6), dtype)
    soft = inputs.soft_targets((6, 6), dtype)
    weight = np.ones(6, dtype)
    call = {"reduction": "none", "return_hess": True}
    grad_out, hess_out = np.zeros((2, 6, 6), dtype)
    clashes = (
        (targets, {"hess_out": logits}),
        (targets, {"hess_out": logits[::-1]}),
        (targets, {"hess_out": grad_out, "grad_out": grad_out}),
        (targets, {"hess_out": grad_out.T, "grad_out": grad_out}),
        (targets, {"hess_out": hess_out, "out": hess_out[1]}),
        (targets, {"hess_out": hess_out, "sample_weight": hess_out[0]}),
        (targets, {"hess_out": hess_out, "class_weight": hess_out[0]}),
        (targets, {"hess_out": hess_out, "grad_output": hess_out[:, 2]}),
        (soft, {"hess_out": soft}),
        (targets, {"out": logits[0]}),
        (targets, {"out": weight, "sample_weight": weight}),
        (targets, {"out": weight, "class_weight": weight}),
        (targets, {"out": weight, "grad_output": weight}),
        (targets, {"out": grad_out[1], "grad_out": grad_out}),
        (targets, {"grad_out": grad_out, "sample_weight": grad_out[0]}),
        (targets, {"grad_out": grad_out, "class_weight": grad_out[0]}),
        (targets, {"grad_out": grad_out, "grad_output": grad_out[:, 2]}),
        (soft, {"grad_out": soft}),
        (soft, {"out": soft[2]}),
        (soft, {"out": soft[:, 2]}),
    )
    for aim, options in clashes:
        before = {name: value.copy() for name, value in options.items()}
        with pytest.raises(ValueError, match="overlap"):
            xent.cross_entropy(logits, aim, **call, **options)
        for name, value in options.items():
            np.testing.assert_array_equal(value, before[name])


def test_integer_targets_in_the_memory_of_an_output():
    memory = np.zeros(8)
    with pytest.raises(ValueError, match="overlap"):
        xent.cross_entropy(np.zeros((8, 3)), memory.view(np.int64), reduction="none", out=memory)
    assert (memory == 0).all()


def test_two_halves_of_one_buffer_do_not_overlap(dtype):
    logits, targets = inputs.batch((12, 20), dtype)
    memory = np.concatenate([logits, np.zeros_like(logits)], axis=1)
    expected = xent.cross_entropy(logits, targets, return_grad=True)[1]
    xent.cross_entropy(memory[:, :20], targets, return_grad=True, grad_out=memory[:, 20:])
    np.testing.assert_array_equal(memory, np.concatenate([logits, expected], axis=1))
    np.testing.assert_array_equal(
        xent.softmax(memory[:, :20], axis=-1, out=memory[:, 20:]), xent.softmax(logits, axis=-1)
    )
