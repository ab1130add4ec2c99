"""Every line of docs/mapping.md: the other library's call and that of xent give the same result.

The page is the list of tests. A line is run against the library itself where it is installed; Keras,
TensorFlow, torchvision, Liger, open_clip and sentence-transformers else by their published formulas (`published.py`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import published
import xent
import xent.metrics
from test_completeness import OPERATIONS

PAGE = Path(__file__).parent.parent / "docs/mapping.md"
# Two float64 computations of fewer than a hundred terms, each good to a few ulp; where a library
# takes 1 - p of a p near 1, it loses three digits more.
CLOSE = {"rtol": 1e-12, "atol": 1e-14}
# Differences over five points err by step^4 / 30 times a fifth derivative, that of log p at most, with no
# p below 0.03, and by 18 roundings of a sum below 100, divided by 12 steps.
STEP = 5e-5
CLOSE_DIFFERENCES = {
    "rtol": 0,
    "atol": STEP**4 / 30 * 24 / 0.03**5 + 18 * 100 * 2**-53 / (12 * STEP),
}


class Line(NamedTuple):
    """One line of a table of the page."""

    library: str
    theirs: str
    ours: str
    note: str
    number: int


def lines() -> list[Line]:
    """The lines of every table from the first library on; what stands before them explains."""
    found: list[Line] = []
    text = PAGE.read_text(encoding="utf-8").splitlines()
    library = heading = ""
    for number, line in enumerate(text[text.index("## PyTorch") :], text.index("## PyTorch") + 1):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if line.startswith("|---"):
            found.pop()  # the heading
            library = heading
        elif cells:
            code = [cell[1:-1] if re.fullmatch("`[^`]+`", cell) else "" for cell in cells]
            found.append(Line(library, code[0], code[1], cells[-1], number))
            heading = cells[0]
    return found


LINES = lines()
BRIDGES = re.compile(r"xent\.(jax|dask|mpi)\.")
CALLS = [
    line
    for line in LINES
    if not line.library.endswith("tutorial") and not BRIDGES.search(line.ours)
]
IN_JAX = [line for line in LINES if "xent.jax." in line.ours]
IN_DASK = [line for line in LINES if "xent.dask." in line.ours]
IN_MPI = [line for line in LINES if "xent.mpi." in line.ours]


def data() -> dict[str, Any]:
    """The arrays that the page names."""
    rng = np.random.default_rng(8)
    logits, student, teacher = rng.normal(0, 2, (3, 12, 5))
    targets = np.append(np.arange(5), rng.integers(0, 5, 7))
    labels = np.random.default_rng(9).integers(0, 5, (3, 4, 4))
    z = rng.normal(0, 2, (12, 4))
    features = np.random.default_rng(10).normal(size=(5, 12, 6))
    units = features / np.sqrt((features**2).sum(axis=2, keepdims=True))
    return {
        "logits": logits,
        "probs": published.softmax(rng.uniform(-1, 1, (12, 5))),
        "log_probs": published.log_softmax(rng.normal(size=(12, 5))),
        "targets": targets,
        "candidates": np.random.default_rng(11).integers(0, 5, (12, 3)),
        "soft": rng.dirichlet(np.full(5, 2.0), 12),
        "onehot": np.eye(5)[targets],
        "weight": rng.uniform(0.3, 2, 5),
        "row_weight": rng.uniform(0.3, 2, 12),
        "images": rng.normal(0, 2, (3, 5, 4, 4)),
        "labels": labels,
        "regions": np.moveaxis(np.eye(5)[labels], -1, 1),
        "z": z,
        "p": published.sigmoid(rng.uniform(-1, 1, (12, 4))),
        "t": rng.integers(0, 2, (12, 4)).astype(float),
        "pos_weight": rng.uniform(0.3, 3, 4),
        "student": student,
        "teacher": teacher,
        # A class that is not there is no target.
        "mask": (rng.random((12, 5)) < 0.8) | np.eye(5, dtype=bool)[targets],
        "hidden": rng.normal(size=(12, 3)),
        "head": rng.normal(size=(5, 3)),
        "bias": rng.normal(size=5),
        "image_features": units[0],
        "text_features": units[1],
        "logit_scale": 8.0,
        "logit_bias": -5.0,
        "anchors": features[2],
        "positives": features[3],
        "negatives": features[4],
    }


class Library(NamedTuple):
    """How the lines of one library are evaluated."""

    names: dict[str, Any]
    array: Callable[[np.ndarray], Any]
    gradient: Callable[[Callable[[Any], Any], np.ndarray], np.ndarray] | None
    close: dict[str, float]
    close_gradient: dict[str, float]


def by_differences(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Gradient of the sum of the function, over five points."""
    grad = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        for steps, share in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = x.copy()
            moved[at] += steps * STEP
            grad[at] += share * np.sum(function(moved)) / (12 * STEP)
    return grad


def _torch() -> Library:
    torch = pytest.importorskip("torch")

    def gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
        leaf = torch.tensor(x, requires_grad=True)
        function(leaf).sum().backward()
        return leaf.grad.numpy()

    names = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional}
    return Library(names, torch.tensor, gradient, CLOSE, CLOSE)


def _optax() -> Library:
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")

    def gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
        return np.asarray(jax.grad(lambda x: function(x).sum())(jax.numpy.asarray(x)))

    names = {"optax": optax, "jax": jax, "jnp": jax.numpy}
    return Library(names, jax.numpy.asarray, gradient, CLOSE, CLOSE)


def _numpy(**names: Any) -> Library:
    return Library(names, np.asarray, by_differences, CLOSE, CLOSE_DIFFERENCES)


def _scipy() -> Library:
    scipy = SimpleNamespace(
        special=pytest.importorskip("scipy.special"), stats=pytest.importorskip("scipy.stats")
    )
    return _numpy(scipy=scipy)


def _sklearn() -> Library:
    # It refuses rows that do not sum to 1, and so cannot be differentiated.
    sklearn = pytest.importorskip("sklearn.metrics")
    names = ("log_loss", "brier_score_loss", "top_k_accuracy_score")
    return _numpy(**{name: getattr(sklearn, name) for name in names})._replace(gradient=None)


def _keras() -> Library:
    if find_spec("keras") is None:
        return _numpy(keras=published.keras)
    # TensorFlow's own function does not normalise rows.
    os.environ.setdefault("KERAS_BACKEND", next(filter(find_spec, ("jax", "torch", "tensorflow"))))
    keras = importlib.import_module("keras")
    keras.config.set_floatx("float64")
    # Its backends take some steps in float32, which is too coarse for differences.
    return _numpy(keras=keras)._replace(gradient=None, close={"rtol": 4 * 2**-23, "atol": 0})


def _torchvision() -> Library:
    if find_spec("torchvision") is None:
        return _numpy(sigmoid_focal_loss=published.sigmoid_focal_loss)
    function = importlib.import_module("torchvision.ops").sigmoid_focal_loss
    return _torch()._replace(names={"sigmoid_focal_loss": function})


def _timm() -> Library:
    if find_spec("timm") is None:
        return _numpy(AsymmetricLossMultiLabel=published.AsymmetricLossMultiLabel)
    loss = importlib.import_module("timm.loss").AsymmetricLossMultiLabel
    return _torch()._replace(names={"AsymmetricLossMultiLabel": loss})


LIBRARIES: dict[str, Callable[[], Library]] = {
    "PyTorch": _torch,
    "Keras": _keras,
    "TensorFlow": lambda: _numpy(tf=published.tensorflow),
    "optax": _optax,
    "SciPy": _scipy,
    "scikit-learn": _sklearn,
    "torchvision": _torchvision,
    "timm": _timm,
    # Its kernels run on GPUs alone.
    "Liger": lambda: _numpy(
        np=np,
        LigerCrossEntropyLoss=published.LigerCrossEntropyLoss,
        LigerFusedLinearCrossEntropyLoss=published.LigerFusedLinearCrossEntropyLoss,
        LigerKLDIVLoss=published.LigerKLDIVLoss,
        LigerJSD=published.LigerJSD,
    ),
    "TRL": lambda: _numpy(
        selective_log_softmax=published.selective_log_softmax,
        entropy_from_logits=published.entropy_from_logits,
    ),
    "vLLM": lambda: _numpy(
        log_softmax=published.log_softmax, gather_logprobs=published.gather_logprobs
    ),
    "torchmetrics": lambda: _numpy(
        Perplexity=published.Perplexity,
        MulticlassCalibrationError=published.MulticlassCalibrationError,
    ),
    "MONAI": lambda: _numpy(
        DiceLoss=published.MonaiDiceLoss, TverskyLoss=published.MonaiTverskyLoss
    ),
    "segmentation_models_pytorch": lambda: _numpy(
        DiceLoss=published.SmpDiceLoss, TverskyLoss=published.SmpTverskyLoss
    ),
    # Their losses import much of the library, and models.
    "open_clip": lambda: _numpy(ClipLoss=published.ClipLoss, SigLipLoss=published.SigLipLoss),
    "sentence-transformers": lambda: _numpy(
        model=lambda vectors: {"sentence_embedding": vectors},
        MultipleNegativesRankingLoss=published.MultipleNegativesRankingLoss,
        MultipleNegativesSymmetricRankingLoss=partial(
            published.MultipleNegativesRankingLoss, symmetric=True
        ),
    ),
}


@contextmanager
def at_ease(library: str) -> Iterator[None]:
    """Let JAX, and Keras on it, compute in float64; let all of them warn."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library in ("optax", "Keras") and find_spec("jax"):
            with importlib.import_module("jax").enable_x64(True):
                yield
        else:
            yield


def differentiated(code: str) -> tuple[list[str], str] | None:
    """The arguments of a lone call of a loss of xent, and the call that gives the gradient, too."""
    call = ast.parse(code, mode="eval").body
    if not (isinstance(call, ast.Call) and call.args and isinstance(call.args[0], ast.Name)):
        return None
    function = getattr(xent, getattr(call.func, "attr", ""), None)
    if function is None or "return_grad" not in inspect.signature(function).parameters:
        return None
    call.keywords.append(ast.keyword("return_grad", ast.Constant(True)))
    names = [argument.id for argument in call.args if isinstance(argument, ast.Name)]
    return names, ast.unparse(call)


def assert_close(theirs: Any, ours: Any, **tolerance: float) -> None:
    """Compare values, or the tuples of them that return_sign gives."""
    if isinstance(ours, tuple):
        for one, other in zip(theirs, ours, strict=True):
            assert_close(one, other, **tolerance)
        return
    assert np.shape(theirs) == np.shape(ours)
    np.testing.assert_allclose(np.asarray(theirs), ours, **tolerance)


@pytest.mark.parametrize("line", CALLS, ids=lambda line: f"{line.library}-{line.number}")
def test_line(line):
    library, arrays = LIBRARIES[line.library](), data()
    with at_ease(line.library):
        names = {name: library.array(value) for name, value in arrays.items()} | library.names
        theirs = eval(line.theirs, names)
    ours = eval(line.ours, {"xent": xent, "np": np, **arrays})
    assert_close(theirs, ours, **library.close)
    found = differentiated(line.ours)
    if found and library.gradient:
        (name, *others), call = found
        grads = {name: eval(call, {"xent": xent, "np": np, **arrays})[1]}
        if isinstance(grads[name], tuple):
            of_layer = ("hidden", "head", "bias")
            whose = of_layer if name == "hidden" else (name, *others)
            grads = dict(zip(whose, grads[name], strict=False))
        for name, ours in grads.items():
            with at_ease(line.library):
                grad = library.gradient(
                    lambda x, name=name: eval(line.theirs, names | {name: x}), arrays[name]
                )
            if line.note.startswith("the value"):
                assert not np.allclose(grad, ours, **library.close_gradient)
            else:
                assert_close(grad, ours, **library.close_gradient)


@pytest.mark.parametrize("line", IN_JAX, ids=lambda line: f"{line.library}-{line.number}")
def test_line_in_jax(line):
    library, bridge = LIBRARIES[line.library](), pytest.importorskip("xent.jax")
    with at_ease(line.library):
        names = {name: library.array(value) for name, value in data().items()} | library.names
        names["xent"] = SimpleNamespace(jax=bridge)
        theirs, ours = eval(line.theirs, names), eval(line.ours, names)
        assert_close(theirs, ours, **library.close)
        (first, *_) = re.findall(r"\((\w+)", line.ours)
        grads = [
            library.gradient(lambda x, code=code: eval(code, names | {first: x}), data()[first])
            for code in (line.theirs, line.ours)
        ]
        assert_close(*grads, **library.close_gradient)


@pytest.mark.parametrize("line", IN_DASK, ids=lambda line: f"{line.library}-{line.number}")
def test_line_in_dask(line):
    da, bridge = pytest.importorskip("dask.array"), pytest.importorskip("xent.dask")
    names: dict[str, Any] = {
        name: da.from_array(array, chunks=(5, 2)[: array.ndim])
        for name, array in data().items()
        if isinstance(array, np.ndarray) and array.ndim < 3
    }
    names |= {"da": da, "scipy": pytest.importorskip("scipy")}
    names["xent"] = SimpleNamespace(dask=bridge)
    theirs, ours = (eval(code, names).compute() for code in (line.theirs, line.ours))
    assert_close(theirs, ours, **CLOSE)


@pytest.mark.parametrize("line", IN_MPI, ids=lambda line: f"{line.library}-{line.number}")
def test_line_in_mpi(line):
    """On one rank, beside the same call without ranks; the others' need process groups of their own."""
    mpi, bridge = pytest.importorskip("mpi4py.MPI"), pytest.importorskip("xent.mpi")
    arrays = data()
    ours = eval(line.ours, arrays | {"xent": SimpleNamespace(mpi=bridge), "comm": mpi.COMM_SELF})
    alone = (
        line.ours.replace("xent.mpi.", "xent.")
        .replace("comm=comm, ", "")
        .replace(", comm=comm", "")
    )
    assert_close(ours, eval(alone, arrays | {"xent": xent}), **CLOSE)


def test_gradients_are_compared():
    """Most lines are lone calls of a loss."""
    assert sum(differentiated(line.ours) is not None for line in CALLS) > 60


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, str(PAGE), "exec"), names)


def tutorial(library: str) -> list[Line]:
    found = [line for line in LINES if line.library == library]
    assert found
    return found


def model(classes: int = 4, features: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {
        "weight": rng.normal(size=(classes, features)),
        "bias": rng.normal(size=classes),
        "X": rng.normal(size=(20, features)),
        "y": rng.integers(0, classes, 20),
    }


def test_pytorch_tutorial():
    torch = pytest.importorskip("torch")
    start = model()
    layer = torch.nn.Linear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(start["weight"]))
        layer.bias.copy_(torch.tensor(start["bias"]))
    theirs = {
        "torch": torch,
        "nn": torch.nn,
        "model": layer,
        "optimizer": torch.optim.SGD(layer.parameters(), lr=0.1),
        "X": torch.tensor(start["X"]),
        "y": torch.tensor(start["y"]),
    }
    ours = {"xent": xent, "np": np, **start}
    compared = set()
    for line in tutorial("PyTorch tutorial"):
        run(line.theirs, theirs)
        run(line.ours, ours)
        # What the parameters hold, and what they are to hold next.
        held = {"weight": layer.weight, "bias": layer.bias}
        held |= {f"grad_{name}": value.grad for name, value in held.items()}
        held |= {name: theirs[name] for name in ours if name in theirs}
        for name in ("weight", "bias", "grad_weight", "grad_bias", *assigned(line)):
            if name in ours and held.get(name) is not None and not callable(held[name]):
                expected = held[name]
                expected = expected.detach().numpy() if torch.is_tensor(expected) else expected
                np.testing.assert_allclose(ours[name], expected, **CLOSE, err_msg=line.theirs)
                compared.add(name)
    assert compared >= {"pred", "loss", "grad_weight", "grad_bias", "weight", "bias", "pred_probab"}
    assert compared >= {"y_pred", "correct", "test_loss"}


def assigned(line: Line) -> list[str]:
    """Names that both sides of a line assign."""
    sides = [
        {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
        for code in (line.theirs, line.ours)
        if "=" in code
    ]
    return sorted(set.intersection(*sides)) if len(sides) == 2 else []


def test_keras_tutorial():
    start = model()
    x_train, y_train, weight, bias = (start[name] for name in ("X", "y", "weight", "bias"))

    class Tape:
        """tf.GradientTape, of the loss of the tutorial."""

        def gradient(self, loss: Any, predictions: np.ndarray) -> np.ndarray:
            assert loss == theirs["loss_fn"](y_train, predictions)
            return by_differences(lambda z: theirs["loss_fn"](y_train, z), predictions)

    theirs: dict[str, Any] = {"x_train": x_train, "y_train": y_train, "tf": published.tensorflow}
    theirs |= {"model": lambda x: x @ weight.T + bias, "tape": Tape()}
    ours = {"xent": xent, "np": np, "x_train": x_train, "y_train": y_train, **start}
    compared = set()
    for line in tutorial("Keras tutorial"):
        run(line.theirs, theirs)
        run(line.ours, ours)
        for name in set(assigned(line)) - {"loss_fn", "x_train", "y_train"}:
            close = CLOSE_DIFFERENCES if name == "gradient" else CLOSE
            np.testing.assert_allclose(ours[name], theirs[name], **close, err_msg=line.theirs)
            compared.add(name)
    assert compared >= {"predictions", "probabilities", "loss", "first", "gradient"}


def test_every_line_is_tested():
    others = {"Dask", "Several processes", "PyTorch tutorial", "Keras tutorial"}
    assert {line.library for line in LINES} == {*LIBRARIES, *others}
    assert all(line.theirs and line.ours for line in [*CALLS, *IN_DASK])
    assert all(line.ours for line in IN_MPI)


def test_gradient_of_rows_divided_by_their_sum():
    """As the page says of Keras: g - (g . p) for rows that sum to 1."""
    arrays = data()
    targets, probs = arrays["targets"], arrays["probs"]
    loss = published.keras.losses.SparseCategoricalCrossentropy()
    grad = xent.categorical_cross_entropy(probs, targets, eps=1e-7, return_grad=True)[1]
    theirs = by_differences(lambda p: loss(targets, p), probs)
    assert_close(theirs, grad - np.vecdot(grad, probs)[:, None], **CLOSE_DIFFERENCES)


def test_index_out_of_range():
    """As the page says of optax, which wraps a negative index; xent refuses both."""
    optax, jnp = pytest.importorskip("optax"), pytest.importorskip("jax.numpy")
    logits = np.array([[0.5, 1.0, 3.0]], np.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels
    assert np.isnan(loss(jnp.asarray(logits), jnp.array([7])))
    assert loss(jnp.asarray(logits), jnp.array([-1])) == loss(jnp.asarray(logits), jnp.array([2]))
    for target in (7, -1):
        with pytest.raises(IndexError):
            xent.cross_entropy(logits, [target])


def test_every_operation_is_on_the_page():
    text = " ".join(line.ours for line in LINES)
    assert {name for name in OPERATIONS if f"xent.{name}(" not in text} == set()
