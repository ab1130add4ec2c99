"""xent.jax: the bits of xent, the values of optax and jax.nn, and JAX's transformations."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

import xent

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy
xj: Any = pytest.importorskip("xent.jax")

DTYPES = ("float16", "bfloat16", "float32", "float64")
REDUCTIONS = ("mean", "sum", "none")
ROWS, CLASSES = 12, 7
# Both sides compute in float64, each good to a few ulp of sums of fewer than a hundred terms.
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture(autouse=True)
def x64():
    """Let JAX compute in float64, and the host do as XLA does with infinities."""
    with jax.enable_x64(True), np.errstate(all="ignore"):
        yield


def data(dtype: str = "float64", shape: tuple[int, ...] = (ROWS, CLASSES)) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    classes = shape[-1]
    return {
        "logits": rng.normal(0, 2, shape).astype(jnp.dtype(dtype)),
        "teacher": rng.normal(0, 2, shape).astype(jnp.dtype(dtype)),
        "targets": np.where(
            rng.random(shape[:-1]) < 0.2, -100, rng.integers(0, classes, shape[:-1])
        ),
        "soft": rng.dirichlet(np.full(classes, 2.0), shape[:-1]),
        "t": rng.random(shape),
        "class_weight": rng.uniform(0.3, 2, classes),
        "sample_weight": rng.uniform(0.3, 2, shape[:-1]),
        "pos_weight": rng.uniform(0.3, 2, classes),
        "upstream": rng.uniform(-2, 2, shape),
        "class_bias": rng.normal(0, 1, classes),
        "sample_weight_of_elements": rng.uniform(0.3, 2, (*shape[:-1], 1)),
    }


# The first argument of functions that do not take logits.
FIRST = {"binary_cross_entropy": "t", "categorical_cross_entropy": "soft"}
# Function, second argument, options; strings are names of arrays.
CASES = {
    "indices": ("cross_entropy", "targets", {}),
    "every option": (
        "cross_entropy",
        "targets",
        {
            "class_weight": "class_weight",
            "sample_weight": "sample_weight",
            "label_smoothing": 0.1,
            "z_loss": 1e-2,
            "softcap": 3.0,
            "temperature": 0.7,
        },
    ),
    "class_bias": (
        "cross_entropy",
        "soft",
        {"class_bias": "class_bias", "class_weight": "class_weight", "softcap": 3.0},
    ),
    "another ignored": ("cross_entropy", "targets", {"ignore_index": -100}),
    "probabilities": ("cross_entropy", "soft", {"class_weight": "class_weight"}),
    "probabilities, weighted": (
        "cross_entropy",
        "soft",
        {"sample_weight": "sample_weight", "label_smoothing": 0.2},
    ),
    "nll": ("nll_loss", "targets", {"class_weight": "class_weight", "label_smoothing": 0.1}),
    "distillation": ("distillation_loss", "teacher", {"temperature": 2.0}),
    "distillation, weighted": ("distillation_loss", "teacher", {"sample_weight": "sample_weight"}),
    "binary": (
        "binary_cross_entropy_with_logits",
        "t",
        {"pos_weight": "pos_weight", "label_smoothing": 0.1},
    ),
    "focal": ("sigmoid_focal_loss", "t", {"alpha": 0.3, "gamma": 1.5}),
    "focal, unweighted": ("sigmoid_focal_loss", "t", {"alpha": None}),
    "asymmetric": ("asymmetric_loss", "t", {"gamma_neg": 3.0, "gamma_pos": 0.5, "clip": 0.1}),
    "binary, of probabilities": (
        "binary_cross_entropy",
        "t",
        {"label_smoothing": 0.1, "sample_weight": "sample_weight_of_elements"},
    ),
    "binary, clipped": ("binary_cross_entropy", "t", {"eps": 0.125}),
    "categorical": ("categorical_cross_entropy", "targets", {"class_weight": "class_weight"}),
    "categorical, smoothed": (
        "categorical_cross_entropy",
        "targets",
        {"label_smoothing": 0.1, "sample_weight": "sample_weight"},
    ),
    "categorical, of probabilities": ("categorical_cross_entropy", "soft", {"eps": 0.125}),
    "focal of classes": (
        "focal_loss",
        "targets",
        {"gamma": 1.5, "class_weight": "class_weight", "z_loss": 1e-2, "temperature": 0.7},
    ),
    "poly-1": (
        "poly1_loss",
        "targets",
        {"epsilon": -0.5, "sample_weight": "sample_weight", "softcap": 3.0},
    ),
    "entropy": ("entropy", None, {"sample_weight": "sample_weight", "temperature": 0.7}),
    "kl": ("kl_div", "t", {}),
    "kl, of logarithms": ("kl_div", "teacher", {"log_target": True}),
}


def arguments(case: str, dtype: str) -> tuple[str, Any, tuple[Any, ...], dict[str, Any]]:
    function, second, options = CASES[case]
    arrays = data(dtype)
    first = arrays[FIRST.get(function, "logits")].astype(jnp.dtype(dtype))
    given = {k: arrays[v] if isinstance(v, str) else v for k, v in options.items()}
    return function, first, () if second is None else (arrays[second],), given


def on_device(values: dict[str, Any]) -> dict[str, Any]:
    return {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}


def bits(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.view({2: np.uint16, 4: np.uint32, 8: np.uint64}[x.itemsize])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_numpy(case, dtype, reduction, compiled, isa):
    function, logits, targets, options = arguments(case, dtype)
    ours = getattr(xent, function)
    upstream = np.asarray(1.0)
    if reduction == "none":
        shape = ours(logits, *targets, reduction="none").shape
        upstream = data()["upstream"].reshape(-1)[: np.prod(shape)].reshape(shape)
    elif dtype in ("float16", "bfloat16"):
        upstream = np.asarray(
            1024.0
        )  # a loss scale, which is multiplied before the gradient is rounded
    loss, grad = ours(
        logits, *targets, reduction=reduction, return_grad=True, grad_output=upstream, **options
    )

    def both(logits, targets, options, upstream):
        value, pull = jax.vjp(
            lambda z: getattr(xj, function)(z, *targets, reduction=reduction, **options), logits
        )
        return value, pull(upstream.astype(value.dtype))[0]

    arrays = {k: v for k, v in options.items() if isinstance(v, np.ndarray)}
    static = {k: v for k, v in options.items() if k not in arrays}

    def call(logits, targets, arrays, upstream):
        return both(logits, targets, {**static, **arrays}, upstream)

    run = jax.jit(call) if compiled else call
    targets = tuple(map(jnp.asarray, targets))
    found = run(jnp.asarray(logits), targets, on_device(arrays), jnp.asarray(upstream))
    assert found[0].dtype == loss.dtype
    assert found[1].dtype == grad.dtype
    np.testing.assert_array_equal(bits(found[0]), bits(loss))
    np.testing.assert_array_equal(bits(found[1]), bits(grad))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_class_axis(axis, reduction):
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4, 5, 6)).astype(np.float32)
    shape = [n for d, n in enumerate(logits.shape) if d != axis % 3]
    targets = rng.integers(0, logits.shape[axis], shape)
    weight = rng.uniform(1, 2, (shape[0], 1))
    options = {"axis": axis, "reduction": reduction, "sample_weight": weight}
    loss, grad = xent.cross_entropy(
        logits,
        targets,
        return_grad=True,
        **({**options} | ({"grad_output": np.ones(shape)} if reduction == "none" else {})),
    )
    value, pull = jax.vjp(lambda z: xj.cross_entropy(z, targets, **options), jnp.asarray(logits))
    np.testing.assert_array_equal(value, loss)
    np.testing.assert_array_equal(pull(jnp.ones_like(value))[0], grad)


def weighted_mean(rows, weights):
    return (rows * weights).sum() / weights.sum()


def formula(logits, targets, weight, row_weight, e, zeta, cap, temperature):
    """The cross-entropy of optax and jax.nn with every option, as PyTorch, PaLM and Gemma define them."""
    z = cap * jnp.tanh(logits / cap) / temperature
    counts = targets != -100
    y = jnp.where(counts, targets, 0)
    log_p = jax.nn.log_softmax(z)
    rows = (1 - e) * weight[y] * optax.softmax_cross_entropy_with_integer_labels(z, y)
    rows = rows - e / CLASSES * (weight * log_p).sum(axis=-1)
    rows = rows + zeta * jax.nn.logsumexp(z, axis=-1) ** 2
    w = jnp.where(counts, row_weight, 0)
    return {
        "none": w * rows,
        "sum": (w * rows).sum(),
        "mean": (w * rows).sum() / (w * weight[y]).sum(),
    }


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values_are_those_of_optax(reduction):
    arrays = on_device(data())
    y, w, v = arrays["targets"], arrays["class_weight"], arrays["sample_weight"]
    upstream = arrays["upstream"][:, 0] if reduction == "none" else jnp.asarray(-3.0)

    def theirs(z):
        return formula(z, y, w, v, 0.1, 1e-2, 5.0, 0.8)[reduction]

    def ours(z):
        return xj.cross_entropy(
            z,
            y,
            class_weight=w,
            sample_weight=v,
            label_smoothing=0.1,
            z_loss=1e-2,
            softcap=5.0,
            temperature=0.8,
            reduction=reduction,
        )

    for one, other in zip(
        *(
            jax.tree.leaves((value, pull(upstream)))
            for value, pull in (jax.vjp(theirs, arrays["logits"]), jax.vjp(ours, arrays["logits"]))
        ),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, **CLOSE)


OTHER_FORMULAS = {
    "softmax_cross_entropy": (
        lambda a: xj.cross_entropy(a["logits"], a["soft"]),
        lambda a: optax.softmax_cross_entropy(a["logits"], a["soft"]).mean(),
    ),
    "smooth_labels": (
        lambda a: xj.cross_entropy(a["logits"], a["soft"], label_smoothing=0.1),
        lambda a: optax.softmax_cross_entropy(
            a["logits"], optax.smooth_labels(a["soft"], 0.1)
        ).mean(),
    ),
    "sigmoid_binary_cross_entropy": (
        lambda a: xj.binary_cross_entropy_with_logits(a["logits"], a["t"]),
        lambda a: optax.sigmoid_binary_cross_entropy(a["logits"], a["t"]).mean(),
    ),
    "sigmoid_focal_loss": (
        lambda a: xj.sigmoid_focal_loss(a["logits"], a["t"], alpha=0.3, gamma=1.5),
        lambda a: optax.sigmoid_focal_loss(a["logits"], a["t"], alpha=0.3, gamma=1.5).mean(),
    ),
    "distillation": (
        lambda a: xj.distillation_loss(a["logits"], a["teacher"], temperature=2.0),
        lambda a: (
            4
            * optax.kl_divergence(
                jax.nn.log_softmax(a["logits"] / 2), jax.nn.softmax(a["teacher"] / 2)
            ).mean()
        ),
    ),
    "nll": (
        lambda a: xj.nll_loss(jax.nn.log_softmax(a["logits"]), a["soft"], reduction="sum"),
        lambda a: optax.softmax_cross_entropy(a["logits"], a["soft"]).sum(),
    ),
    "logsumexp": (
        lambda a: (xj.logsumexp(a["logits"], axis=0) * a["pos_weight"]).sum(),
        lambda a: (jax.nn.logsumexp(a["logits"], axis=0) * a["pos_weight"]).sum(),
    ),
    "softmax": (
        lambda a: (xj.softmax(a["logits"], axis=-1) * a["upstream"]).sum(),
        lambda a: (jax.nn.softmax(a["logits"], axis=-1) * a["upstream"]).sum(),
    ),
    "log_softmax": (
        lambda a: (xj.log_softmax(a["logits"], axis=0) * a["upstream"]).sum(),
        lambda a: (jax.nn.log_softmax(a["logits"], axis=0) * a["upstream"]).sum(),
    ),
    "softmax of all axes": (
        lambda a: (xj.softmax(a["logits"]) * a["upstream"]).sum(),
        lambda a: (jax.nn.softmax(a["logits"], axis=(0, 1)) * a["upstream"]).sum(),
    ),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", OTHER_FORMULAS)
def test_other_values_are_those_of_optax(name, compiled):
    arrays = on_device(data())
    ours, theirs = (
        jax.value_and_grad(lambda z, f=f: f(arrays | {"logits": z})) for f in OTHER_FORMULAS[name]
    )
    value, grad = (jax.jit(ours) if compiled else ours)(arrays["logits"])
    expected = theirs(arrays["logits"])
    np.testing.assert_allclose(value, expected[0], **CLOSE)
    np.testing.assert_allclose(grad, expected[1], **CLOSE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (2, 1)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax_family_has_the_bits_of_numpy(name, axis, dtype):
    x = np.random.default_rng(1).normal(0, 3, (3, 4, 5)).astype(jnp.dtype(dtype))
    x[0, 1, 2] = -np.inf
    expected = getattr(xent, name)(x, axis=axis)
    found = getattr(xj, name)(jnp.asarray(x), axis=axis)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(bits(found), bits(expected))
    if name == "logsumexp":
        kept = xj.logsumexp(jnp.asarray(x), axis=axis, keepdims=True)
        np.testing.assert_array_equal(bits(kept), bits(xent.logsumexp(x, axis=axis, keepdims=True)))


# vmap.


@pytest.mark.parametrize("donate", [False, True], ids=["", "donated"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("mapped", ["all", "class_weight", "logits", "targets", "unweighted"])
def test_vmap_is_a_loop(mapped, reduction, donate):
    rng = np.random.default_rng(4)
    z = jnp.asarray(rng.normal(size=(3, 5, CLASSES)), jnp.float32)
    y = jnp.asarray(rng.integers(0, CLASSES, (3, 5)))
    w = jnp.asarray(rng.uniform(0.5, 2, (3, CLASSES)), jnp.float32)
    axes = {
        "all": (0, 0, 0),
        "class_weight": (None, None, 0),
        "logits": (0, None, None),
        "targets": (None, 0, None),
        "unweighted": (0, 0, None),
    }[mapped]

    def one(z, y, w):
        weight = None if mapped == "unweighted" else w
        value, pull = jax.vjp(
            lambda z: xj.cross_entropy(
                z, y, class_weight=weight, reduction=reduction, donate_logits=donate
            ),
            z,
        )
        return value, pull(jnp.ones_like(value))[0]

    arrays = [a if axis == 0 else a[0] for a, axis in zip((z, y, w), axes, strict=True)]
    found = jax.jit(jax.vmap(one, in_axes=axes))(*arrays)
    loop = [
        one(*(a[i] if d == 0 else a for a, d in zip(arrays, axes, strict=True))) for i in range(3)
    ]
    for part, expected in zip(found, zip(*loop, strict=True), strict=True):
        np.testing.assert_array_equal(part, jnp.stack(expected))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_of_vmap_and_of_another_axis(reduction):
    rng = np.random.default_rng(4)
    z = rng.normal(size=(CLASSES, 2, 4, 3)).astype(np.float32)
    y = rng.integers(0, CLASSES, (2, 3, 4))

    def loss(z, y):
        return xj.cross_entropy(z, y, axis=0, reduction=reduction)

    found = jax.vmap(jax.vmap(loss, in_axes=(2, 0)), in_axes=(1, 0))(jnp.asarray(z), jnp.asarray(y))
    for i, j in np.ndindex(2, 3):
        expected = xent.cross_entropy(z[:, i, :, j].T, y[i, j], reduction=reduction)
        np.testing.assert_array_equal(found[i, j], expected)


@pytest.mark.parametrize("weights", ["none", "class", "sample", "scale"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vmap_of_single_rows(dtype, reduction, weights):
    """They are computed as one loss, a mean of a row that does not count among them."""
    arrays = data(dtype)
    z, y, v = (jnp.asarray(arrays[name]) for name in ("logits", "targets", "sample_weight"))
    w = jnp.asarray(arrays["class_weight"])
    assert (y == -100).any()

    def one(z, y, v):
        options = {"class": {"class_weight": w}, "sample": {"sample_weight": v}}.get(weights, {})
        value, pull = jax.vjp(lambda z: xj.cross_entropy(z, y, reduction=reduction, **options), z)
        return value, pull((v if weights == "scale" else jnp.ones(())).astype(value.dtype))[0]

    found = jax.jit(jax.vmap(jax.vmap(one)))(*(a.reshape(3, 4, *a.shape[1:]) for a in (z, y, v)))
    for i in range(ROWS):
        for part, expected in zip(found, one(z[i], y[i], v[i]), strict=True):
            np.testing.assert_array_equal(
                bits(part.reshape(ROWS, *part.shape[2:])[i]), bits(expected)
            )


def test_vmap_of_elements_and_of_rows():
    arrays = data("float32")
    z, t, y = (jnp.asarray(arrays[name]) for name in ("logits", "t", "targets"))
    t = t.astype(jnp.float32)
    rows = jax.vmap(xj.binary_cross_entropy_with_logits)(z, t)
    expected = [
        xent.binary_cross_entropy_with_logits(a, b)
        for a, b in zip(np.asarray(z), np.asarray(t), strict=True)
    ]
    np.testing.assert_array_equal(rows, np.array(expected))
    single = jax.vmap(lambda z, y: xj.cross_entropy(z, y, reduction="none"))(z, y)
    np.testing.assert_array_equal(
        single, xent.cross_entropy(arrays["logits"], arrays["targets"], reduction="none")
    )
    lse = jax.vmap(lambda z: xj.logsumexp(z, axis=-1))(z)
    np.testing.assert_array_equal(lse, xent.logsumexp(arrays["logits"], axis=-1))


def test_a_thousand_steps_of_scan():
    arrays = data()
    logits, targets = arrays["logits"], arrays["targets"]
    grad = jax.value_and_grad(xj.cross_entropy)

    @jax.jit
    def train(z, y):
        def step(z, _):
            loss, g = grad(z, y)
            return z - 0.5 * g, loss

        return jax.lax.scan(step, z, length=1000)

    end, losses = train(jnp.asarray(logits), jnp.asarray(targets))
    z = logits.copy()
    for loss in losses:
        expected, g = xent.cross_entropy(z, targets, return_grad=True)
        # A step errs by a few roundings of numbers below 16, and contracts what has gone before.
        np.testing.assert_allclose(loss, expected, rtol=1e-11)
        z -= 0.5 * g
    np.testing.assert_allclose(end, z, rtol=1e-11, atol=1e-11)


def test_checkpoint_and_linearize():
    arrays = on_device(data())
    z, y = arrays["logits"], arrays["targets"]
    expected = jax.grad(xj.cross_entropy)(z, y)
    again = jax.grad(jax.checkpoint(lambda z: xj.cross_entropy(z, y)))(z)
    np.testing.assert_array_equal(again, expected)


# Memory.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_donated_logits_hold_the_gradient(reduction, dtype):
    arrays = data(dtype, (ROWS, 700))
    y = jnp.asarray(arrays["targets"])

    def function(donate):
        return jax.grad(
            lambda z: xj.cross_entropy(z, y, reduction=reduction, donate_logits=donate).sum()
        )

    z = jnp.asarray(arrays["logits"])
    expected = function(False)(z)
    for run in (function(True), jax.jit(function(True))):
        np.testing.assert_array_equal(bits(run(z)), bits(expected))
    np.testing.assert_array_equal(bits(z), bits(arrays["logits"]))  # XLA has copied them
    copied = jnp.array(z)
    address = copied.unsafe_buffer_pointer()
    step = jax.jit(function(True), donate_argnums=0).lower(copied).compile()
    assert step.memory_analysis().temp_size_in_bytes < copied.nbytes
    grad = step(copied)
    assert grad.unsafe_buffer_pointer() == address
    np.testing.assert_array_equal(bits(grad), bits(expected))


# Edges.


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_mean_of_nothing(compiled):
    for shape in ((0, 5), (3, 5)):
        z, y = jnp.zeros(shape), jnp.full(shape[0], -100)
        function = jax.value_and_grad(lambda z, y=y: xj.cross_entropy(z, y))
        loss, grad = (jax.jit(function) if compiled else function)(z)
        assert np.isnan(loss)
        np.testing.assert_array_equal(grad, np.zeros(shape))
        assert xj.cross_entropy(z, y, reduction="sum") == 0
        assert xj.cross_entropy(z, y, reduction="none").shape == shape[:1]
    assert np.isnan(xj.binary_cross_entropy_with_logits(jnp.zeros((0, 3)), jnp.zeros((0, 3))))
    np.testing.assert_array_equal(xj.logsumexp(jnp.zeros((2, 0)), axis=1), [-np.inf] * 2)


def test_masked_classes_infinities_and_integers():
    z = np.array([[0.0, -np.inf, 1.0], [np.inf, 0.0, 0.0], [1.0, 2.0, 3.0]])
    loss, pull = jax.vjp(
        lambda z: xj.cross_entropy(z, jnp.array([0, 1, 2]), reduction="none"), jnp.asarray(z)
    )
    expected, grad = xent.cross_entropy(z, [0, 1, 2], reduction="none", return_grad=True)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(pull(jnp.ones(3))[0], grad)
    whole = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(
        xj.cross_entropy(whole, [0, 1]), xent.cross_entropy(whole, [0, 1])
    )
    with jax.enable_x64(False):
        single = xj.cross_entropy(jnp.asarray(whole), jnp.array([0, 1]))
        assert single.dtype == np.float32


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_targets_of_every_integer_dtype(dtype):
    z = np.random.default_rng(0).normal(size=(4, 2))
    y = np.array([0, 1, 1, 0]).astype(dtype)
    np.testing.assert_array_equal(
        jax.jit(xj.cross_entropy)(z, jnp.asarray(y)), xent.cross_entropy(z, y)
    )


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int32", 7),
        ("int32", -1),
        ("int8", -128),
        ("uint64", 2**63),
        ("int64", -(2**63)),
        ("uint64", 2**64 - 1),
    ],
)
def test_bad_target(dtype, value, gradient):
    z = np.zeros((2, 3, 7), np.float32)
    y = np.zeros((2, 3), dtype)
    y[1, 2] = value
    with pytest.raises(IndexError) as numpys:
        xent.cross_entropy(z, y)
    text = str(numpys.value)
    assert text.startswith(f"targets[1, 2] = {value} is not a class")
    function = jax.grad(xj.cross_entropy) if gradient else xj.cross_entropy
    for given in (y, jnp.asarray(y)):
        with pytest.raises(IndexError) as eager:
            function(jnp.asarray(z), given)
        assert str(eager.value) == text
    # JAX has its own class for errors of XLA, another in each version.
    with pytest.raises(Exception, match="is not a class") as compiled:
        jax.jit(function)(jnp.asarray(z), jnp.asarray(y)).block_until_ready()
    assert text in str(compiled.value)
    with pytest.raises(Exception, match=r"targets\[1, 2\]"):
        jax.jit(jax.vmap(function))(jnp.asarray(z), jnp.asarray(y)).block_until_ready()
    assert jax.jit(function)(jnp.asarray(z), jnp.zeros((2, 3), dtype)).dtype == np.float32


BAD_PROBABILITIES = {
    "binary": ("binary_cross_entropy", (2, 3), (1, 2), {}),
    "binary, clipped": ("binary_cross_entropy", (2, 3), (1, 2), {"eps": 0.01}),
    "targets alone": ("categorical_cross_entropy", (2, 3, 4), (1, 2, 3), {}),
    "targets alone, first axis": ("categorical_cross_entropy", (3, 2, 4), (1, 1, 2), {"axis": 0}),
    "smoothed": ("categorical_cross_entropy", (2, 3, 4), (1, 2, 1), {"label_smoothing": 0.1}),
    "smoothed, first axis": (
        "categorical_cross_entropy",
        (3, 2, 4),
        (1, 1, 3),
        {"label_smoothing": 0.1, "axis": 0},
    ),
    "weighted": (
        "categorical_cross_entropy",
        (2, 3, 4),
        (1, 2, 1),
        {"label_smoothing": 0.1, "sample_weight": [[1.0, 1.0, 0.0], [1.0, 1.0, 2.0]]},
    ),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float64", 1.5),
        ("float64", -0.1),
        ("float64", 1 + 2.0**-52),
        ("float64", 123456.0),
        ("float64", -1e-5),
        ("float64", 1e16),
        ("float64", np.inf),
        ("float32", 1e20),
        ("float32", 1.1),
        ("bfloat16", 1.0078125),
        ("float16", 1 + 2.0**-9),
        ("float16", -3 * 2.0**-24),
        ("float16", -np.inf),
    ],
)
@pytest.mark.parametrize("case", BAD_PROBABILITIES)
def test_bad_probability(case, dtype, value, gradient):
    """A compiled program fails with the text of NumPy's error; rows that do not count hold others before it."""
    name, shape, place, options = BAD_PROBABILITIES[case]
    p = np.full(shape, 0.25, jnp.dtype(dtype))
    p[place] = value
    rows = tuple(n for d, n in enumerate(shape) if d != options.get("axis", len(shape) - 1))
    if name == "binary_cross_entropy":
        y = np.zeros(shape)
    else:
        y = np.full(rows, place[options.get("axis", -1)] if case.startswith("targets") else 0)
        y[0, -1] = -100
        np.moveaxis(p, options.get("axis", -1), -1)[0, -1] = value
    if "clipped" in case and value == 1 + float(jnp.finfo(dtype).eps):
        np.testing.assert_array_equal(
            jax.jit(partial(xj.binary_cross_entropy, **options))(p, y),
            xent.binary_cross_entropy(p, y, **options),
        )
        return
    with pytest.raises(ValueError, match="is not a probability") as numpys:
        getattr(xent, name)(p, y, **options)
    text = str(numpys.value)
    assert text.startswith(f"probs[{', '.join(map(str, place))}] = ")
    loss = partial(getattr(xj, name), **options)
    function = jax.grad(loss) if gradient else loss
    with pytest.raises(Exception, match="is not a probability") as compiled:
        jax.jit(function)(jnp.asarray(p), jnp.asarray(y)).block_until_ready()
    assert text in str(compiled.value)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bad_probability_under_vmap(reduction):
    p, t = np.full((2, 3, 4), 0.5), np.zeros((2, 3, 4))
    t[1, 0, 2] = -0.5
    binary = partial(xj.binary_cross_entropy, reduction=reduction)
    with pytest.raises(Exception, match=r"targets\[1, 0, 2\] = -0.5 is not a probability"):
        jax.vmap(binary)(jnp.asarray(p), jnp.asarray(t)).block_until_ready()
    p[1, 2, 3] = 1.5
    categorical = partial(xj.categorical_cross_entropy, reduction=reduction)
    for smoothing in (0.0, 0.1):
        function = partial(categorical, label_smoothing=smoothing)
        with pytest.raises(Exception, match=r"probs\[1, 2, 3\] = 1.5 is not a probability"):
            jax.vmap(function)(jnp.asarray(p), jnp.full((2, 3), 3)).block_until_ready()
        ignored = jax.vmap(function)(jnp.asarray(p), jnp.full((2, 3), -100))
        assert np.isnan(ignored).all() if reduction == "mean" else (ignored == 0).all()


def test_integers_are_validated_before_jax_makes_them_smaller():
    with jax.enable_x64(False), pytest.raises(IndexError, match=r"targets\[0\] = 4294967296 "):
        xj.cross_entropy(np.zeros((1, 3), np.float32), np.array([2**32]))


Z, Y = np.zeros((2, 3)), np.array([0, 1])
WRONG = {
    "shape of targets": (ValueError, "targets: shape", (Z, np.zeros(3, int)), {}),
    "float indices": (TypeError, "targets: dtype float64", (Z, np.zeros(2)), {}),
    "complex logits": (TypeError, "logits: dtype complex128", (Z + 1j, Y), {}),
    "scalar logits": (ValueError, "at least one axis", (np.zeros(()), Y), {}),
    "axis": (ValueError, "axis: 2 is out of bounds", (Z, Y), {"axis": 2}),
    "class_weight": (
        ValueError,
        "class_weight: expected shape",
        (Z, Y),
        {"class_weight": np.ones(2)},
    ),
    "sample_weight": (ValueError, "sample_weight: shape", (Z, Y), {"sample_weight": np.ones(3)}),
    "smoothing": (ValueError, "label_smoothing: expected", (Z, Y), {"label_smoothing": 2.0}),
    "temperature": (ValueError, "temperature: expected", (Z, Y), {"temperature": 0.0}),
    "reduction": (ValueError, "reduction: expected one of", (Z, Y), {"reduction": "average"}),
    "ignore_index": (TypeError, "ignore_index: expected an integer", (Z, Y), {"ignore_index": 0.5}),
    "keyword": (
        TypeError,
        "no keyword 'weight'; xent calls it class_weight",
        (Z, Y),
        {"weight": 1},
    ),
    "masked array": (TypeError, "logits: a masked array", (np.ma.zeros((2, 3)), Y), {}),
}


@pytest.mark.parametrize("how", ["numpy", "eager", "jit"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name, how):
    error, text, (z, y), options = WRONG[name]
    if name == "masked array" and how != "numpy":
        pytest.skip("JAX has no masked arrays")
    if how != "numpy":
        z, y, options = jnp.asarray(z), jnp.asarray(y), on_device(options)

    def call(z, y):
        return xj.cross_entropy(z, y, **options)

    with pytest.raises(error, match=text):
        (jax.jit(call) if how == "jit" else call)(z, y)


def test_options_are_not_traced():
    with pytest.raises(TypeError, match="temperature: expected a finite number > 0, got"):
        jax.jit(lambda t: xj.cross_entropy(Z, Y, temperature=t))(2.0)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("targets", lambda a, x: xj.cross_entropy(a["logits"], x(a["soft"]))),
        (
            "class_weight",
            lambda a, x: xj.cross_entropy(
                a["logits"], a["targets"], class_weight=x(a["class_weight"])
            ),
        ),
        (
            "sample_weight",
            lambda a, x: xj.cross_entropy(
                a["logits"], a["targets"], sample_weight=x(a["sample_weight"])
            ),
        ),
        ("teacher_logits", lambda a, x: xj.distillation_loss(a["logits"], x(a["teacher"]))),
        (
            "pos_weight",
            lambda a, x: xj.binary_cross_entropy_with_logits(
                a["logits"], a["t"], pos_weight=x(a["pos_weight"])
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_derivatives_are_refused(name, function):
    arrays = on_device(data())
    moving = jnp.asarray(1.0)
    with pytest.raises(NotImplementedError, match=f"^{name}: "):
        jax.grad(lambda s: function(arrays, lambda x: x * s))(moving)
    assert jax.grad(lambda s: function(arrays, lambda x: jax.lax.stop_gradient(x * s)))(moving) == 0


def test_arrays_on_other_devices(monkeypatch):
    class Device:
        platform = "gpu"

    class Elsewhere:
        dtype, shape, ndim = np.dtype("float32"), (2, 3), 2

        def devices(self):
            return {Device()}

    monkeypatch.setattr(jax, "Array", Elsewhere)
    with pytest.raises(ValueError, match="logits: expected an array on a CPU, got one on gpu"):
        xj.cross_entropy(Elsewhere(), Y)


# Calls that xent.jax does not make are refused by the handler: the process lives.
PLAIN = {
    "arguments": "logits index",
    "results": "result",
    "rank": np.int64(2),
    "axis": np.int64(1),
    "operation": np.int64(0),
    "reduction": np.int64(2),
    "not_a_class": "",
}
ABUSES = [
    {"arguments": "logits"},
    {"arguments": "logits targets"},
    {"arguments": "logits soft"},
    {"arguments": "logits class_weight"},
    {"arguments": "logits grad_scale"},
    {"results": "loss"},
    {"results": ""},
    {"rank": np.int64(3)},
    {"rank": np.int64(1)},
    {"rank": np.int64(-1)},
    {"axis": np.int64(2)},
    {"axis": np.int64(-7)},
    {"axis": np.int64(0)},
    {"operation": np.int64(99)},
    {"reduction": np.int64(-1)},
    {"temperature": np.float64(0)},
    {"temperature": np.int64(1)},
    {"temperature": np.float32(1)},
    {"unknown": np.float64(1)},
    {"unknown": "text"},
    {"unknown": np.ones(2)},
]


@pytest.mark.parametrize("change", ABUSES, ids=str)
def test_handler_refuses(change):
    from xent.jax import _call

    z, y = jnp.zeros((2, 3), jnp.float32), jnp.zeros(2, jnp.int32)
    call = jax.ffi.ffi_call(_call.TARGET, jax.ShapeDtypeStruct((), np.float32))
    assert jax.jit(lambda: call(z, y, **PLAIN))() == xent.cross_entropy(
        np.zeros((2, 3), np.float32), [0, 0]
    )
    with pytest.raises(Exception, match="xent: "):
        jax.jit(lambda: call(z, y, **(PLAIN | change)))().block_until_ready()


@pytest.mark.parametrize(
    ("names", "dtypes"),
    [("logits soft", (np.float32, np.float16)), ("logits index", (np.float32, np.float32)),
     ("logits index", (np.int32, np.int32)), ("logits index", (np.complex64, np.int32)),
     ("logits index sample_weight", (np.float16, np.int32, np.float16))],
)  # fmt: skip
def test_handler_refuses_dtypes(names, dtypes):
    from xent.jax import _call

    shapes = {"logits": (2, 3), "soft": (2, 3)}
    arrays = [jnp.zeros(shapes.get(n, (2,)), d) for n, d in zip(names.split(), dtypes, strict=True)]
    call = jax.ffi.ffi_call(_call.TARGET, jax.ShapeDtypeStruct((), np.float32))
    with pytest.raises(Exception, match="xent: a buffer of another rank or dtype"):
        jax.jit(lambda: call(*arrays, **(PLAIN | {"arguments": names})))().block_until_ready()


def test_softmax_of_nothing():
    with pytest.raises(ValueError, match=r"x: shape \(2, 0\) has no elements"):
        xj.softmax(jnp.zeros((2, 0)), axis=1)
    with pytest.raises(TypeError, match="a: dtype complex"):
        xj.logsumexp(jnp.zeros(3, complex))
    for axis in (1, (1, 2), None):
        for name in ("softmax", "log_softmax", "logsumexp"):
            x = np.zeros((0, 3, 4))
            if axis is None and name != "logsumexp":
                continue
            expected = getattr(xent, name)(x, axis=axis)
            found = getattr(xj, name)(jnp.asarray(x), axis=axis)
            assert found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)


# Processes and threads.


def test_callers_of_both_kinds_share_the_team():
    """Host threads that run XLA programs, and others that call xent, get what they would get alone."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(256, 3000)).astype(np.float32)
    targets = rng.integers(0, 3000, 256)
    loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
    wrong: list[str] = []
    compiled = jax.jit(jax.value_and_grad(xj.cross_entropy))
    z, y = jnp.asarray(logits), jnp.asarray(targets)
    steps = jax.jit(
        lambda z, y: jax.lax.scan(lambda c, _: (c, xj.cross_entropy(z, y)), 0.0, length=20)[1]
    )
    compiled(z, y), steps(z, y)

    def of_jax():
        for _ in range(30):
            value, slope = compiled(z, y)
            if not (value == loss and np.array_equal(slope, grad) and (steps(z, y) == loss).all()):
                wrong.append("jax")

    def of_numpy():
        for i in range(60):
            with xent.num_threads(1 + i % 3):
                value, slope = xent.cross_entropy(logits, targets, return_grad=True)
            if not (value == loss and np.array_equal(slope, grad)):
                wrong.append("numpy")

    threads = [threading.Thread(target=f, daemon=True) for f in (of_jax, of_numpy) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "imports",
    [
        "import xent.jax, jax",
        "import jax, xent, xent.jax",
        "import xent; xent.cross_entropy([[1.0, 2.0]], [0]); import jax; jax.numpy.ones(3) + 1; import xent.jax",
        "from xent.jax import cross_entropy; import jax, xent.jax",
    ],
)
def test_order_of_imports(imports):
    loss = "jax.jit(xent.jax.cross_entropy)(np.zeros((2, 4)), np.array([0, 1]))"
    script = f"{imports}\nimport numpy as np\nprint(float({loss}))"
    assert float(run(script)) == pytest.approx(np.log(4), rel=2**-22)


def test_xent_does_not_import_jax():
    assert run("import sys, xent; print('jax' in sys.modules)") == "False\n"


def test_without_jax():
    script = """if True:
        import sys
        sys.modules["jax"] = None
        import xent
        try:
            import xent.jax
        except ModuleNotFoundError as error:
            print(error)"""
    assert run(script) == "xent.jax needs JAX: pip install jax\n"


def test_with_an_old_jax():
    script = """if True:
        import sys, types
        sys.modules["jax"] = types.SimpleNamespace(__version__="0.4.33", __version_info__=(0, 4, 33))
        try:
            import xent.jax
        except ImportError as error:
            print(error)"""
    assert "needs JAX 0.4.34 or later; this is 0.4.33: pip install" in run(script)


def test_logits_that_may_be_bits():
    """As in NumPy, losses do not guess whether uint16 are integers; softmax and its kin take them as such."""
    with pytest.raises(TypeError, match="logits: dtype uint16 is not accepted"):
        xj.cross_entropy(jnp.zeros((2, 3), jnp.uint16), Y)
    np.testing.assert_array_equal(xj.softmax(jnp.zeros(4, jnp.uint16)), np.full(4, 0.25))
