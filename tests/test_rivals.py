"""The same calls in PyTorch, if it is installed: the contract is its semantics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import inputs
import xent

torch = pytest.importorskip("torch")

# Two float64 implementations, each good to a few ulp.
CLOSE = {"rtol": 1e-12, "atol": 1e-14}
SHAPES = ((5, 3), (1, 1), (64, 10), (7, 1000))


def by_torch(logits: np.ndarray, targets: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient from torch, classes last as here."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    upstream = options.pop("grad_output", None)
    options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    loss = torch.nn.functional.cross_entropy(z, torch.tensor(targets), **options)
    loss.backward(torch.ones_like(loss) if upstream is None else torch.tensor(upstream))
    return loss.detach().numpy(), z.grad.numpy()


def check(logits: np.ndarray, targets: np.ndarray, **options: Any) -> None:
    """Compare loss and gradient."""
    loss, grad = xent.cross_entropy(logits, targets, return_grad=True, **options)
    if "class_weight" in options:
        options["weight"] = options.pop("class_weight")
    expected = by_torch(logits, targets, **options)
    np.testing.assert_allclose(loss, expected[0], **CLOSE)
    np.testing.assert_allclose(grad, expected[1], **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=("", "weighted"))
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_cross_entropy(kind, weighted, smoothing, reduction):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, np.float64)
        options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
        if weighted:
            options["class_weight"] = np.linspace(0.25, 2, shape[-1])
        if kind == "soft":
            targets = inputs.soft_targets(shape, np.float64)
        check(logits, targets, **options)
        upstream = np.linspace(-1, 2, shape[0]) if reduction == "none" else 1.5
        check(logits, targets, grad_output=upstream, **options)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_rows(reduction, smoothing):
    logits, targets = inputs.batch((30, 6), np.float64)
    weight = np.linspace(0.5, 2, 6)
    for ignore_index in (-100, 2, 77):
        targets[::4] = ignore_index
        options = {"ignore_index": ignore_index, "label_smoothing": smoothing}
        check(logits, targets, reduction=reduction, class_weight=weight, **options)
        targets[::4] = 0


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_class_axis_one_is_torchs_layout(kind):
    logits, targets = inputs.batch((4, 5, 7), np.float64)
    logits = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    if kind == "soft":
        targets = np.moveaxis(inputs.soft_targets((4, 5, 7), np.float64), -1, 1)
    for reduction in ("none", "sum", "mean"):
        if kind == "soft" and reduction == "mean":
            continue
        loss, grad = xent.cross_entropy(
            logits, targets, axis=1, reduction=reduction, return_grad=True
        )
        expected = by_torch(logits, targets, reduction=reduction)
        np.testing.assert_allclose(loss, expected[0], **CLOSE)
        np.testing.assert_allclose(grad, expected[1], **CLOSE)


def test_nothing_that_counts():
    logits, targets = np.zeros((3, 2)), np.full(3, -100)
    assert np.isnan(xent.cross_entropy(logits, targets))
    assert np.isnan(by_torch(logits, targets)[0])


@pytest.mark.parametrize("target", [0, 1, 2])
def test_masked_classes(target):
    logits = np.array([[0.5, -np.inf, 1.5]])
    for reduction in ("none", "sum", "mean"):
        loss, grad = xent.cross_entropy(logits, [target], reduction=reduction, return_grad=True)
        expected = by_torch(logits, np.array([target]), reduction=reduction)
        np.testing.assert_allclose(loss, expected[0], **CLOSE)
        np.testing.assert_allclose(grad, expected[1], **CLOSE)


def test_tensors_are_taken_as_arrays():
    logits, targets = inputs.batch((6, 9), np.float32)
    loss, grad = xent.cross_entropy(torch.tensor(logits), torch.tensor(targets), return_grad=True)
    expected = xent.cross_entropy(logits, targets, return_grad=True)
    assert loss == expected[0]
    np.testing.assert_array_equal(grad, expected[1])


def test_float32_agrees_to_its_own_precision():
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, np.float32)
        loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
        expected = by_torch(logits, targets)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=2e-5, atol=1e-9)


def by_autograd(row_loss: Any, logits: np.ndarray) -> tuple[Any, Any, Any]:
    """Row losses of a function of torch, the gradient of their sum, and its Hessian's diagonal."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    loss = row_loss(z)
    (grad,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
    columns = [
        torch.autograd.grad(grad[:, c].sum(), z, retain_graph=True)[0][:, c]
        for c in range(z.shape[1])
    ]
    hess = torch.stack(columns, dim=1)
    return loss.detach().numpy(), grad.detach().numpy(), hess.numpy()


TRANSFORMS: dict[str, dict[str, float]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "softcap": {"softcap": 4.0},
    "both": {"softcap": 30.0, "temperature": 2.5},
    "z_loss": {"z_loss": 0.01},
}


def transformed(z: Any, options: dict[str, float]) -> tuple[Any, Any]:
    """Logits after cap and temperature, and the z-loss of each row."""
    if "softcap" in options:
        z = options["softcap"] * torch.tanh(z / options["softcap"])
    z = z / options.get("temperature", 1.0)
    return z, options.get("z_loss", 0.0) * torch.logsumexp(z, dim=1) ** 2


@pytest.mark.parametrize("options", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_hessian(kind, smoothing, options):
    for shape in ((5, 3), (1, 1), (20, 10)):
        logits, targets = inputs.batch(shape, np.float64)
        if kind == "soft":
            targets = inputs.soft_targets(shape, np.float64)
        weight = np.linspace(0.25, 2, shape[1])

        def row_loss(z: Any, targets: Any = targets, weight: Any = weight) -> Any:
            z, extra = transformed(z, options)
            keywords = {"weight": torch.tensor(weight), "label_smoothing": smoothing}
            loss = torch.nn.functional.cross_entropy(
                z, torch.tensor(targets), reduction="none", **keywords
            )
            return loss + extra

        call = {"class_weight": weight, "label_smoothing": smoothing, "reduction": "none"}
        actual = xent.cross_entropy(logits, targets, return_hess=True, **call, **options)
        for one, other in zip(actual, by_autograd(row_loss, logits), strict=True):
            np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("options", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("name", ["focal_loss", "poly1_loss"])
def test_focal_and_poly1(name, strength, options):
    """The formulas of their papers, on the likelihoods of torch."""
    for shape in ((5, 3), (20, 10)):
        logits, targets = inputs.batch(shape, np.float64)
        alpha = np.linspace(0.25, 2, shape[1])

        def row_loss(z: Any, targets: Any = targets, alpha: Any = alpha) -> Any:
            z, extra = transformed(z, options)
            y = torch.tensor(targets)
            nll = torch.nn.functional.cross_entropy(z, y, reduction="none")
            others = -torch.expm1(-nll)
            loss = others**strength * nll if name == "focal_loss" else nll + strength * others
            return torch.tensor(alpha)[y] * loss + extra

        given = {"focal_loss": {"gamma": strength, "return_hess": True}}
        call = given.get(name, {"epsilon": strength, "return_grad": True})
        actual = getattr(xent, name)(
            logits, targets, reduction="none", class_weight=alpha, **call, **options
        )
        for one, other in zip(actual, by_autograd(row_loss, logits), strict=False):
            np.testing.assert_allclose(one, other, **CLOSE)


def elementwise_by_torch(function: Any, x: np.ndarray, t: np.ndarray, **options: Any) -> Any:
    """Loss, gradient and Hessian of a loss of single elements."""
    z = torch.tensor(x, requires_grad=True)
    with warnings.catch_warnings():
        # That kl_div's "mean" is one over all elements.
        warnings.simplefilter("ignore", UserWarning)
        loss = function(z, torch.tensor(t), **options)
    (grad,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
    hess = torch.zeros_like(z)
    if grad.requires_grad:
        (hess,) = torch.autograd.grad(grad.sum(), z)
    return loss.detach().numpy(), grad.detach().numpy(), hess.numpy()


def torchvision_focal(
    z: Any, t: Any, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Any:
    """torchvision.ops.sigmoid_focal_loss, whose alpha < 0 is None here."""
    p = torch.sigmoid(z)
    ce = torch.nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
    loss = ce * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
    if alpha is not None:
        loss = (alpha * t + (1 - alpha) * (1 - t)) * loss
    return {"none": lambda: loss, "mean": loss.mean, "sum": loss.sum}[reduction]()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batchmean"])
@pytest.mark.parametrize("shape", [(), (7,), (5, 11)])
def test_elementwise(shape, reduction):
    rng = np.random.default_rng(len(shape))
    z, t = rng.normal(0, 3, shape), rng.random(shape)
    hard = np.round(t)
    functional, weight = torch.nn.functional, np.linspace(0.5, 3, *(shape[-1:] or (1,)))
    weight = weight if shape else weight[0]
    calls: list[tuple[str, Any, Any, dict[str, Any], dict[str, Any]]] = [
        ("kl_div", functional.kl_div, -np.abs(z), {}, {}),
        ("kl_div", functional.kl_div, -np.abs(z), {"log_target": True}, {"log_target": True}),
    ]
    if reduction != "batchmean":
        logits = functional.binary_cross_entropy_with_logits
        name, focal = "binary_cross_entropy_with_logits", "sigmoid_focal_loss"
        given = {"pos_weight": weight}
        calls += [
            ("binary_cross_entropy", functional.binary_cross_entropy, 1 / (1 + np.exp(z)), {}, {}),
            (name, logits, z, {}, {}),
            (name, logits, z, given, {"pos_weight": torch.tensor(weight)}),
            (focal, torchvision_focal, z, {}, {}),
            (focal, torchvision_focal, z, *({"alpha": None, "gamma": 1.5},) * 2),
        ]
    for name, function, x, options, theirs in calls:
        for targets in (t, hard):
            ask = {"return_hess" if "logit" in name or "focal" in name else "return_grad": True}
            actual = getattr(xent, name)(x, targets, reduction=reduction, **ask, **options)
            expected = elementwise_by_torch(function, x, targets, reduction=reduction, **theirs)
            for one, other in zip(actual, expected, strict=False):
                np.testing.assert_allclose(one, other, **CLOSE)


def test_probabilities_0_and_1():
    p, t = (a.ravel() for a in np.meshgrid([0.0, 1e-45, 1e-13, 0.5, 1 - 2.0**-53, 1], [0, 0.5, 1]))
    for dtype in (np.float32, np.float64):
        with np.errstate(under="ignore"):
            probs, targets = p.astype(dtype), t.astype(dtype)
        actual = xent.binary_cross_entropy(probs, targets, reduction="none", return_grad=True)
        expected = elementwise_by_torch(
            torch.nn.functional.binary_cross_entropy, probs, targets, reduction="none"
        )
        # Torch's 1e-12 is a float32 in float64, too.
        close = {"rtol": 1e-6, "atol": 1e-40} if dtype == np.float32 else {"rtol": 5e-9}
        with np.errstate(under="ignore"):
            for one, other in zip(actual, expected, strict=False):
                np.testing.assert_allclose(one, other, **close)


def rows_by_torch(function: Any, x: np.ndarray, upstream: Any) -> tuple[Any, Any]:
    """Loss of a function of torch, and its gradient."""
    z = torch.tensor(x, requires_grad=True)
    loss = function(z)
    loss.backward(torch.tensor(upstream, dtype=torch.float64).expand_as(loss))
    return loss.detach().numpy(), z.grad.numpy()


def assert_like_torch(function: Any, x: np.ndarray, actual: Any, upstream: Any = 1.0) -> None:
    """Compare loss and gradient."""
    for one, other in zip(actual, rows_by_torch(function, x, upstream), strict=True):
        np.testing.assert_allclose(one, other, **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignore_index", [-100, 2, 77])
@pytest.mark.parametrize("weighted", [False, True], ids=("", "weighted"))
def test_nll_loss(weighted, ignore_index, reduction):
    for shape in (*SHAPES, (4, 5, 7)):
        x, targets = inputs.batch(shape, np.float64)
        targets.flat[:: 3 if targets.size > 1 else 2] = ignore_index
        if targets.size == 1:
            targets[...] = 0
        x, axis = np.moveaxis(x, -1, 1), 1
        weight = np.linspace(0.25, 2, x.shape[1]) if weighted else None
        options = {"ignore_index": ignore_index, "reduction": reduction}
        upstream: Any = 1.5
        if reduction == "none":
            upstream = np.random.default_rng(0).normal(size=targets.shape)
        actual = xent.nll_loss(
            *(x, targets),
            **options,
            axis=axis,
            class_weight=weight,
            return_grad=True,
            grad_output=upstream,
        )
        theirs = {**options, "weight": None if weight is None else torch.tensor(weight)}
        y = torch.tensor(targets)

        def function(z: Any, y: Any = y, theirs: Any = theirs) -> Any:
            return torch.nn.functional.nll_loss(z, y, **theirs)

        assert_like_torch(function, x, actual, upstream)


@pytest.mark.parametrize("x", [[-np.inf, 0.0], [np.nan, -1.0], [-1.0, np.nan]], ids=str)
def test_nll_loss_at_the_edges(x):
    x = np.array([x])
    for reduction in ("none", "sum", "mean"):
        actual = xent.nll_loss(x, [0], reduction=reduction, return_grad=True)

        def function(z: Any, reduction: str = reduction) -> Any:
            return torch.nn.functional.nll_loss(z, torch.tensor([0]), reduction=reduction)

        assert_like_torch(function, x, actual)


@pytest.mark.parametrize("eps", [None, 1e-7, 0.05])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_categorical_cross_entropy(smoothing, kind, eps):
    """Keras' formula, without its normalising: the logarithm of clipped probabilities."""
    for shape in SHAPES:
        p = inputs.probabilities(shape, np.float64)
        targets = inputs.batch(shape, np.float64)[1]
        soft = np.eye(shape[1])[targets]
        if kind == "soft":
            targets = soft = inputs.soft_targets(shape, np.float64)
        weight = np.linspace(0.25, 2, shape[1])
        weighted = torch.tensor(weight * (soft * (1 - smoothing) + smoothing / shape[1]))

        def function(p: Any, weighted: Any = weighted) -> Any:
            return -(weighted * (p if eps is None else p.clip(eps, 1 - eps)).log()).sum(1)

        upstream = np.linspace(-1, 2, shape[0])
        options = {"class_weight": weight, "label_smoothing": smoothing, "eps": eps}
        actual = xent.categorical_cross_entropy(
            *(p, targets), **options, reduction="none", return_grad=True, grad_output=upstream
        )
        assert_like_torch(function, p, actual, upstream)


@pytest.mark.parametrize("options", [TRANSFORMS[k] for k in ("plain", "temperature", "both")])
def test_entropy(options):
    for shape in SHAPES:
        logits, upstream = inputs.batch(shape, np.float64)[0], np.linspace(-1, 2, shape[0])

        def function(z: Any) -> Any:
            return torch.distributions.Categorical(logits=transformed(z, options)[0]).entropy()

        actual = xent.entropy(logits, return_grad=True, grad_output=upstream, **options)
        assert_like_torch(function, logits, actual, upstream)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_distillation_loss(temperature):
    """kl_div as in PyTorch's tutorial on distillation, where "batchmean" is the mean over rows."""
    functional = torch.nn.functional
    for shape in SHAPES:
        student, teacher = (inputs.batch(shape, np.float64, seed)[0] for seed in (0, 1))
        q = functional.log_softmax(torch.tensor(teacher) / temperature, dim=1)

        def function(z: Any, q: Any = q) -> Any:
            log_p = functional.log_softmax(z / temperature, dim=1)
            loss = functional.kl_div(log_p, q, log_target=True, reduction="batchmean")
            return temperature**2 * loss

        actual = xent.distillation_loss(student, teacher, temperature=temperature, return_grad=True)
        assert_like_torch(function, student, actual)
