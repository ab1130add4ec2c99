"""xent.torch against PyTorch's own functions: values, gradients, dtypes, shapes, errors, and every way to differentiate."""

from __future__ import annotations

import doctest
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import xent  # noqa: E402
import xent.torch as ours  # noqa: E402
from test_docstrings import CHECKS  # noqa: E402
from xent.torch import _losses  # noqa: E402
from xent.torch._operation import SMALL, Operation  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REDUCTIONS = ("mean", "sum", "none")
OPERATIONS = [value for value in vars(_losses).values() if isinstance(value, Operation)]


@pytest.fixture(autouse=True)
def seeded(strict: None) -> Iterator[None]:
    """Draw the same numbers every time; PyTorch's warnings, of its own code and of kl_div's mean, are not errors here."""
    torch.manual_seed(0)
    torch.compiler.reset()  # compiling one function for too many cases is an error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch")
        warnings.filterwarnings("ignore", "reduction: 'mean' divides")
        yield


def id_of(value: Any) -> str | None:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def close(
    actual: torch.Tensor,
    expected: torch.Tensor,
    reach: float = 0.0,
    scale: float = 1.0,
    terms: int = 1,
) -> None:
    """Compare with a float64 result, within the documented bounds of xent.

    With u the unit roundoff of the computation: a row's loss errs by 3 ulp and u times at most twice the `reach` of its
    logits, a gradient by (4 + reach) 2u of itself and 4u of the `scale` that it has been multiplied by; each of `terms` that
    are added may. The result is rounded to its dtype once, whose smallest numbers are subnormal.
    """
    dtype = actual.dtype
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    u = torch.finfo(compute).eps / 2
    relative = (8 + 2 * reach) * u + (torch.finfo(dtype).eps / 2 if dtype is not compute else 0)
    absolute = terms * (4 + 2 * reach) * scale * u + torch.finfo(dtype).smallest_normal
    if dtype is torch.float16:
        absolute += 2.0**-24 - torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=relative, atol=absolute, equal_nan=True
    )


def differentiated(
    function: Callable[..., Any],
    leaves: dict[str, Any],
    *arguments: Any,
    upstream: Any,
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """Return a loss and the gradients of `leaves`, keywords of the function, for an upstream gradient."""
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    loss = function(*leaves.values(), *arguments, **options)
    loss.backward(upstream(loss))
    return loss.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def upstream_of(reduced: float = 0.75) -> Callable[[Any], Any]:
    """Upstream gradients that every dtype represents."""

    def upstream(loss: Any) -> Any:
        if loss.ndim == 0:
            return torch.full_like(loss, reduced)
        return (torch.arange(loss.numel()).reshape(loss.shape) % 7 / 4 - 0.5).to(loss.dtype)

    return upstream


# Values and gradients.

SHAPES = {
    "one row": (5,),
    "rows": (12, 5),
    "wide": (3, 2000),
    "many": (1200, 7),
    "sequence": (4, 5, 3),
    "images": (2, 5, 3, 4),
    "no rows": (0, 5),
}
CROSS_ENTROPY = {
    "plain": {},
    "weight": {"weight": True},
    "ignored": {"ignore_index": 2},
    "smooth": {"label_smoothing": 0.125},
    "all": {"weight": True, "ignore_index": 2, "label_smoothing": 0.125},
}


def indices(shape: tuple[int, ...]) -> Any:
    classes = shape[min(len(shape) - 1, 1)]
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    return torch.randint(0, classes, rows)


def logits(shape: tuple[int, ...], dtype: Any) -> Any:
    return torch.randn(shape).mul(2).clamp(-6, 6).to(dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", CROSS_ENTROPY)
@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_cross_entropy(dtype, shape, soft, options, reduction):
    size = SHAPES[shape]
    given = dict(CROSS_ENTROPY[options])
    if soft and given.pop("ignore_index", None) is not None and options == "ignored":
        pytest.skip("PyTorch has no ignore_index for probabilities")
    axis = min(len(size) - 1, 1)
    input, target = logits(size, dtype), indices(size)
    if soft:
        target = torch.rand(size).softmax(axis).to(dtype)
    weight = (torch.arange(size[axis]) % 3 + 1).to(dtype) if given.pop("weight", False) else None
    upstream = upstream_of()
    actual, grads = differentiated(
        ours.cross_entropy,
        {"input": input},
        target,
        weight,
        upstream=upstream,
        reduction=reduction,
        **given,
    )
    exact = target.double() if soft else target
    expected, exact_grads = differentiated(
        F.cross_entropy,
        {"input": input.double()},
        exact,
        None if weight is None else weight.double(),
        upstream=upstream,
        reduction=reduction,
        **given,
    )
    assert actual.dtype == grads["input"].dtype == dtype
    assert actual.shape == expected.shape
    rows = max(1, exact.numel() // (size[axis] if soft else 1))
    # Rounded to a half type, a sum of probabilities may differ from 1; weights and upstream gradients are at most 3 and 1.
    close(actual, expected, reach=12, scale=3, terms=rows if reduction == "sum" else 1)
    if expected.isfinite().all():  # else every row is ignored, where PyTorch's gradient is NaN
        close(grads["input"], exact_grads["input"], reach=12, scale=3)
    else:
        assert not grads["input"].any()


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "sliced": lambda x: x[:, :-1],
    "every second": lambda x: x[::2, ::2],
    "transposed": lambda x: x.T,
    "expanded": lambda x: x[:1].expand(6, -1),
    "expanded classes": lambda x: x[:, :1].expand(-1, 4),
    "offset": lambda x: x.flatten()[1:37].unflatten(0, (6, 6)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_any_strides(dtype, reduction, layout):
    base = logits((6, 7), dtype)
    view = LAYOUTS[layout]
    target = indices(view(base).shape)

    def of(function):
        return lambda base, **options: function(view(base), target, **options)

    actual, grads = differentiated(
        of(ours.cross_entropy), {"base": base}, upstream=upstream_of(), reduction=reduction
    )
    expected, exact = differentiated(
        of(F.cross_entropy), {"base": base.double()}, upstream=upstream_of(), reduction=reduction
    )
    close(actual, expected, reach=12, terms=8)
    # Autograd adds what an expanded element receives, in its dtype.
    close(
        grads["base"],
        exact["base"],
        reach=12,
        terms=8 + 6 * int(torch.finfo(dtype).eps / torch.finfo(torch.float32).eps),
    )


@pytest.mark.parametrize("size", [SMALL, SMALL + 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=id_of)
def test_kept_gradients_have_the_bits_of_computed_ones(dtype, size):
    """Small losses keep the gradient of the forward; multiplied by a power of two it is what a backward would compute."""
    input, target = logits((size // 8, 8), dtype), indices((size // 8, 8))
    for factor in (1.0, 0.5):
        _, grads = differentiated(
            ours.cross_entropy, {"input": input}, target, upstream=upstream_of(factor)
        )
        expected = xent.cross_entropy(
            input.numpy(), target.numpy(), return_grad=True, grad_output=factor
        )[1]
        assert np.array_equal(grads["input"].numpy(), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_options_of_xent(dtype, reduction):
    input, target = logits((9, 6), dtype), indices((9, 6))

    def formula(input, reduction):
        z = 4 * torch.tanh(input / 4) / 1.5
        rows = F.cross_entropy(z, target, reduction="none") + 0.01 * z.logsumexp(1).square()
        return rows if reduction == "none" else getattr(rows, reduction)()

    actual, grads = differentiated(
        ours.cross_entropy,
        {"input": input},
        target,
        upstream=upstream_of(),
        reduction=reduction,
        z_loss=0.01,
        softcap=4.0,
        temperature=1.5,
    )
    expected, exact = differentiated(
        formula, {"input": input.double()}, upstream=upstream_of(), reduction=reduction
    )
    close(actual, expected, reach=12, terms=9)
    close(grads["input"], exact["input"], reach=12)


def elementwise_cases() -> dict[str, tuple[Any, Any, Callable[..., Any]]]:
    """Ours, PyTorch's or the published formula, and its arguments in a dtype."""

    def probabilities(dtype):
        return torch.rand(6, 5).mul(0.9).add(0.05).to(dtype)

    def focal(inputs, targets, alpha, gamma, reduction):  # of torchvision
        p = torch.sigmoid(inputs)
        ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        loss = ce * (1 - (p * targets + (1 - p) * (1 - targets))) ** gamma
        if alpha >= 0:
            loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
        return loss if reduction == "none" else getattr(loss, reduction)()

    def weights(dtype, *shape):
        return (torch.arange(torch.Size(shape).numel()) % 3 / 2 + 0.5).reshape(shape).to(dtype)

    def asymmetric(
        input, target, gamma_neg, gamma_pos, clip, reduction
    ):  # of A. Ridnik's paper and timm
        p = torch.sigmoid(input)
        q = (1 - p + clip).clamp(max=1)
        positive = target * (1 - p) ** gamma_pos * p.log()
        loss = -positive - (1 - target) * (1 - q) ** gamma_neg * q.log()
        return loss if reduction == "none" else getattr(loss, reduction)()

    bce, logit = F.binary_cross_entropy, F.binary_cross_entropy_with_logits
    margin = F.multilabel_soft_margin_loss
    p, z = probabilities, lambda dtype: logits((6, 5), dtype)
    return {
        "bce": (ours.binary_cross_entropy, bce, lambda d: (p(d), p(d), {})),
        "bce-weight": (
            ours.binary_cross_entropy,
            bce,
            lambda d: (p(d), p(d), {"weight": weights(d, 6, 1)}),
        ),
        "logits": (ours.binary_cross_entropy_with_logits, logit, lambda d: (z(d), p(d), {})),
        "logits-weights": (
            ours.binary_cross_entropy_with_logits,
            logit,
            lambda d: (z(d), p(d), {"weight": weights(d, 5), "pos_weight": weights(d, 5)}),
        ),
        "margin": (ours.multilabel_soft_margin_loss, margin, lambda d: (z(d), p(d).round(), {})),
        "margin-weight": (
            ours.multilabel_soft_margin_loss,
            margin,
            lambda d: (z(d), p(d).round(), {"weight": weights(d, 5)}),
        ),
        "kl": (ours.kl_div, F.kl_div, lambda d: (p(d).log(), p(d), {})),
        "kl-log": (ours.kl_div, F.kl_div, lambda d: (p(d).log(), p(d).log(), {"log_target": True})),
        "kl-broadcast": (ours.kl_div, F.kl_div, lambda d: (p(d).log(), p(d)[:1], {})),
        "kl-broadcast-input": (ours.kl_div, F.kl_div, lambda d: (p(d)[0].log(), p(d), {})),
        "focal": (
            ours.sigmoid_focal_loss,
            focal,
            lambda d: (z(d), p(d).round(), {"alpha": 0.25, "gamma": 2.0}),
        ),
        "focal-unweighted": (
            ours.sigmoid_focal_loss,
            focal,
            lambda d: (z(d), p(d), {"alpha": -1.0, "gamma": 1.5}),
        ),
        "asymmetric": (
            ours.asymmetric_loss,
            asymmetric,
            lambda d: (z(d), p(d).round(), {"gamma_neg": 3.0, "gamma_pos": 1.0, "clip": 0.0625}),
        ),
    }


ELEMENTWISE = elementwise_cases()


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("case", ELEMENTWISE)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_losses_of_elements(dtype, case, reduction):
    mine, theirs, arguments = ELEMENTWISE[case]
    if reduction == "batchmean" and mine is not ours.kl_div:
        pytest.skip("kl_div's")
    input, target, options = arguments(dtype)
    actual, grads = differentiated(
        mine, {"input": input}, target, upstream=upstream_of(), reduction=reduction, **options
    )
    options = {n: v.double() if isinstance(v, torch.Tensor) else v for n, v in options.items()}
    expected, exact = differentiated(
        theirs,
        {"input": input.double()},
        target.double(),
        upstream=upstream_of(),
        reduction=reduction,
        **options,
    )
    assert actual.dtype == grads["input"].dtype == dtype
    assert actual.shape == expected.shape
    # "none" of the margin loss is a mean of rounded elements, each at most 9.
    halves = int(9 * torch.finfo(dtype).eps / torch.finfo(torch.float32).eps)
    close(
        actual,
        expected,
        reach=12,
        scale=3,
        terms=30 + halves * (mine is ours.multilabel_soft_margin_loss),
    )
    # A gradient is at most 1 / 0.05, and what autograd adds or divides is rounded once more.
    close(
        grads["input"],
        exact["input"],
        reach=12,
        scale=20,
        terms=6 + halves * ("broadcast" in case or "margin" in case),
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_distillation(dtype, divergence):
    student, teacher = logits((7, 5), dtype), logits((7, 5), dtype)

    def formula(student, teacher):
        log_p, log_q = (F.log_softmax(z / 2, 1) for z in (student, teacher))

        def kl(a, b):
            return F.kl_div(b, a, reduction="batchmean", log_target=True)

        mixture = (0.5 * log_p.exp() + 0.5 * log_q.exp()).log()
        return (
            4
            * {
                "forward_kl": lambda: kl(log_q, log_p),
                "reverse_kl": lambda: kl(log_p, log_q),
                "jsd": lambda: 0.5 * kl(log_q, mixture) + 0.5 * kl(log_p, mixture),
            }[divergence]()
        )

    leaves = {"input": student, "target": teacher}
    actual, grads = differentiated(
        ours.distillation_loss,
        leaves,
        upstream=upstream_of(),
        temperature=2.0,
        divergence=divergence,
    )
    doubles = {name: leaf.double() for name, leaf in leaves.items()}
    expected, exact = differentiated(formula, doubles, upstream=upstream_of())
    close(actual, expected, reach=12, scale=4)
    for name in leaves:
        assert grads[name].dtype == dtype
        close(grads[name], exact[name], reach=12, scale=12)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss(gamma):
    input, target = logits((8, 5), torch.float64), indices((8, 5))

    def formula(input, target):
        nll = F.cross_entropy(input, target, reduction="none")
        return ((1 - torch.exp(-nll)) ** gamma * nll).mean()

    actual = differentiated(
        ours.focal_loss, {"input": input}, target, upstream=upstream_of(), gamma=gamma
    )
    expected = differentiated(formula, {"input": input}, target, upstream=upstream_of())
    # The formula's 1 - p cancels where p is near 1, which is at most 1 - exp(-12).
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("epsilon", [-0.5, 0.0, 2.0])
def test_poly1_loss(epsilon):
    input, target = logits((8, 5), torch.float64), indices((8, 5))

    def formula(input, target):
        nll = F.cross_entropy(input, target, reduction="none")
        return (nll + epsilon * (1 - torch.exp(-nll))).mean()

    actual = differentiated(
        ours.poly1_loss, {"input": input}, target, upstream=upstream_of(), epsilon=epsilon
    )
    expected = differentiated(formula, {"input": input}, target, upstream=upstream_of())
    # As in test_focal_loss.
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, -1, (0, 1), (1,)])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_logsumexp(dtype, dim, keepdim):
    input = logits((6, 5), dtype)
    actual, grads = differentiated(
        ours.logsumexp, {"input": input}, dim, keepdim, upstream=upstream_of()
    )
    expected, exact = differentiated(
        torch.logsumexp, {"input": input.double()}, dim, keepdim, upstream=upstream_of()
    )
    assert actual.shape == expected.shape
    assert actual.dtype == grads["input"].dtype == dtype
    close(actual, expected, reach=12)
    # The gradient is computed in the dtype of the input, from a result that is rounded to it: exp has a relative error
    # of the absolute error of its argument, whose terms are at most 12.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(grads["input"].double(), exact["input"], rtol=16 * eps, atol=eps)


def test_second_derivative_of_logsumexp():
    input = logits((3, 4), torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: ours.logsumexp(x, 1), input)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_softmaxes(dtype, dim, name):
    input = logits((6, 5), dtype)
    upstream = upstream_of()
    actual, grads = differentiated(getattr(ours, name), {"input": input}, dim, upstream=upstream)
    expected, exact = differentiated(
        getattr(F, name), {"input": input.double()}, dim, upstream=upstream
    )
    close(actual, expected, reach=12)
    # PyTorch's derivative reads the result, which is rounded.
    rounding = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    close(grads["input"], exact["input"], reach=12, terms=1 + int(12 * rounding))
    same = getattr(F, name)(input, dim, dtype=torch.float64)
    close(getattr(ours, name)(input, dim, dtype=torch.float64), same, reach=12)


# The linear layer.


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("wanted", range(1, 8))
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_linear_cross_entropy(dtype, wanted, bias, reduction):
    """Of every choice of the tensors that require grad, those get one, and no others."""
    layer = {"input": torch.randn(10, 4).to(dtype), "linear_weight": torch.randn(6, 4).to(dtype)}
    if bias:
        layer["linear_bias"] = torch.randn(6).to(dtype)
    chosen = [name for i, name in enumerate(layer) if wanted >> i & 1]
    if not chosen or (not bias and wanted > 3):
        pytest.skip("no bias")
    target = indices((10, 6))
    target[3] = -100

    def of(function, convert):
        tensors = {name: convert(t) for name, t in layer.items()}

        def call(*leaves):
            now = tensors | dict(zip(chosen, leaves, strict=True))
            return function(
                now["input"],
                now["linear_weight"],
                target,
                linear_bias=now.get("linear_bias"),
                reduction=reduction,
            )

        return differentiated(
            call, {name: tensors[name] for name in chosen}, upstream=upstream_of()
        )

    actual, grads = of(ours.linear_cross_entropy, lambda t: t)
    expected, exact = of(F.linear_cross_entropy, lambda t: t.double())
    assert actual.dtype == dtype
    close(actual, expected, reach=40, terms=10)
    for name in chosen:
        assert grads[name].dtype == dtype
        close(grads[name], exact[name], reach=40, scale=4, terms=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_a_second_backward_adds_the_same(dtype):
    layer = {"input": torch.randn(10, 4).to(dtype), "linear_weight": torch.randn(6, 4).to(dtype)}
    leaves = {name: t.requires_grad_() for name, t in layer.items()}
    loss = ours.linear_cross_entropy(*leaves.values(), indices((10, 6)))
    upstream = torch.full_like(loss, 0.75)
    first = torch.autograd.grad(loss, leaves.values(), upstream, retain_graph=True)
    second = torch.autograd.grad(loss, leaves.values(), upstream)
    for a, b in zip(first, second, strict=True):
        close(b, a.double(), scale=4, terms=10)


def test_linear_cross_entropy_of_several_losses_a_row():
    input, weight, bias = torch.randn(6, 4), torch.randn(5, 3, 2, 4), torch.randn(5, 3, 2)
    target = torch.randint(0, 5, (6, 3, 2))
    leaves = {"input": input, "linear_weight": weight}
    actual = differentiated(
        ours.linear_cross_entropy, leaves, target, linear_bias=bias, upstream=upstream_of()
    )
    expected = differentiated(
        F.linear_cross_entropy, leaves, target, linear_bias=bias, upstream=upstream_of()
    )
    torch.testing.assert_close(actual, expected)


def test_linear_cross_entropy_takes_torchs_options_and_other_dtypes():
    input, weight, target = torch.randn(10, 4), torch.randn(6, 4), indices((10, 6))
    expected = F.linear_cross_entropy(input, weight, target)
    options = nn.LinearCrossEntropyOptions()
    close(ours.linear_cross_entropy(input, weight, target, options=options), expected, reach=40)
    mixed = ours.linear_cross_entropy(input.bfloat16(), weight, target)
    close(
        mixed, F.linear_cross_entropy(input.bfloat16().double(), weight.double(), target), reach=40
    )
    assert mixed.dtype == torch.float32


@pytest.mark.parametrize(
    "function", [ours.cross_entropy, ours.linear_cross_entropy], ids=["rows", "linear"]
)
def test_loss_scale_keeps_small_gradients_of_half_types(function):
    """A gradient below float16's range survives the scale that the loss is multiplied by: it is rounded after that."""
    rows = SMALL // 8
    input = torch.tensor([0.0] + [-10.0] * 7, dtype=torch.float16).repeat(rows, 1)
    target = torch.zeros(rows, dtype=torch.int64)
    weight = [torch.eye(8, dtype=torch.float16)] if function is ours.linear_cross_entropy else []
    _, grads = differentiated(
        lambda leaf: function(leaf, *weight, target).float() * 2.0**14,
        {"leaf": input},
        upstream=torch.ones_like,
    )
    p = input[0].double().softmax(0)[1].item()
    assert p / rows < 2.0**-22  # of whose eight multiples of 2**-24 none is as near as below
    assert grads["leaf"][0, 1].item() == pytest.approx(2.0**14 * p / rows, rel=2.0**-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=id_of)
def test_training_of_a_transformer_step_by_step(dtype):
    """Loss and gradients of the last layer are PyTorch's for the same numbers at each step, and the model learns."""
    tokens = torch.arange(8 * 12).reshape(8, 12) * 7 % 64
    embedding = nn.Embedding(64, 16, dtype=dtype)
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, dtype=dtype)
    layer = ours.LinearCrossEntropyLoss(16, 64, dtype=dtype)
    parameters = [*embedding.parameters(), *block.parameters(), *layer.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.2)
    mask = nn.Transformer.generate_square_subsequent_mask(11, dtype=dtype)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        hidden = block(embedding(tokens[:, :-1]), src_mask=mask, is_causal=True).flatten(0, 1)
        hidden.retain_grad()
        loss = layer(hidden, tokens[:, 1:].flatten())
        loss.backward()
        leaves = {"hidden": hidden.double(), "weight": layer.linear.weight.double()}
        expected, exact = differentiated(
            F.linear_cross_entropy, leaves, tokens[:, 1:].flatten(), upstream=torch.ones_like
        )
        # Products of 16 features, of which each adds a rounding; a gradient is at most 4 times that of a logit.
        close(loss.detach(), expected, reach=24, terms=16)
        close(hidden.grad, exact["hidden"], reach=24, scale=4, terms=16)
        close(layer.linear.weight.grad, exact["weight"], reach=24, scale=4, terms=16)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


# Samples of PyTorch's own tests.

SAMPLED = {
    "nn.functional.cross_entropy": ours.cross_entropy,
    "nn.functional.nll_loss": ours.nll_loss,
    "nn.functional.binary_cross_entropy": ours.binary_cross_entropy,
    "nn.functional.binary_cross_entropy_with_logits": ours.binary_cross_entropy_with_logits,
    "nn.functional.kl_div": ours.kl_div,
    "nn.functional.multilabel_soft_margin_loss": ours.multilabel_soft_margin_loss,
    "softmax": ours.softmax,
    "log_softmax": ours.log_softmax,
}


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_of_torchs_own_tests(name):
    common = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    infos = [info for info in common.op_db if info.name == name]
    assert infos
    count = 0
    for info in infos:
        for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
            arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in sample.args]
            options = {
                n: v.detach() if isinstance(v, torch.Tensor) else v
                for n, v in sample.kwargs.items()
            }
            leaf = sample.input.detach().requires_grad_()
            expected = info.op(leaf, *arguments, **options)
            wanted = torch.autograd.grad(expected.sum(), leaf)[0]
            leaf = sample.input.detach().requires_grad_()
            actual = SAMPLED[name](leaf, *arguments, **options)
            found = torch.autograd.grad(actual.sum(), leaf)[0]
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13, equal_nan=True)
            if (
                expected.isfinite().all()
            ):  # PyTorch's gradient of a mean of nothing is NaN, ours zero
                torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)
            count += 1
    assert count


# Signatures and modules.


@pytest.mark.parametrize("name", [name for name in ours.__all__ if hasattr(F, name)])
def test_signature_begins_with_torchs(name):
    mine = inspect.signature(getattr(ours, name)).parameters.values()
    theirs = inspect.signature(getattr(F, name)).parameters.values()
    begin = [(p.name, p.default, p.kind) for p in mine][: len(theirs)]
    assert begin == [(p.name, p.default, p.kind) for p in theirs]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(mine)[len(theirs) :])


@pytest.mark.parametrize("name", ours.__all__)
def test_examples_of_docstrings(name):
    runner, report = doctest.DocTestRunner(), []
    for test in doctest.DocTestFinder(recurse=False).find(getattr(ours, name), name, module=False):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    assert runner.tries


@pytest.mark.parametrize("name", [name for name in ours.__all__ if name.islower()])
def test_sections_are_as_numpydoc_has_them(name):
    validate = pytest.importorskip("numpydoc.validate").validate
    found = validate(f"xent.torch.{name}")["errors"]
    assert [message for code, message in found if code in CHECKS] == []


MODULES = {
    "CrossEntropyLoss": ({"ignore_index": 2, "label_smoothing": 0.1}, "classes"),
    "NLLLoss": ({"ignore_index": 2}, "classes"),
    "BCELoss": ({"reduction": "sum"}, "probabilities"),
    "BCEWithLogitsLoss": ({"pos_weight": torch.arange(1.0, 6.0)}, "labels"),
    "MultiLabelSoftMarginLoss": ({"reduction": "none"}, "labels"),
    "KLDivLoss": ({"reduction": "batchmean"}, "probabilities"),
    "LinearCrossEntropyLoss": ({"in_features": 5, "num_classes": 5, "bias": True}, "classes"),
    "Softmax": ({"dim": 1}, ""),
    "LogSoftmax": ({"dim": 1}, ""),
}


@pytest.mark.parametrize("name", [name for name in ours.__all__ if name[0].isupper()])
def test_modules_are_torchs(name):
    options, kind = MODULES[name]
    torch.manual_seed(1)
    mine = getattr(ours, name)(**options)
    torch.manual_seed(1)
    theirs = getattr(nn, name)(**options)
    assert isinstance(mine, type(theirs))
    assert repr(mine) == repr(theirs)
    theirs.load_state_dict(mine.state_dict())
    input = torch.rand(6, 5).mul(0.9).add(0.05)
    target = {
        "": [],
        "classes": [indices((6, 5))],
        "labels": [torch.rand(6, 5).round()],
        "probabilities": [torch.rand(6, 5)],
    }
    torch.testing.assert_close(mine(input, *target[kind]), theirs(input, *target[kind]))


def test_modules_take_xents_options():
    input, target = logits((6, 5), torch.float64), indices((6, 5))
    options = {"z_loss": 0.1, "softcap": 5.0, "temperature": 2.0}
    actual = ours.CrossEntropyLoss(**options)(input, target)
    assert actual == ours.cross_entropy(input, target, **options) != F.cross_entropy(input, target)
    layer = ours.LinearCrossEntropyLoss(5, 5, dtype=torch.float64, **options)
    assert layer(input, target) == ours.linear_cross_entropy(
        input, layer.linear.weight, target, **options
    )


@pytest.mark.parametrize("legacy", [(True, None), (False, None), (None, False), (None, True)])
def test_deprecated_reductions(legacy):
    average, reduce = legacy
    input, target = logits((6, 5), torch.float64), indices((6, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"size_average": average, "reduce": reduce}
        expected = F.cross_entropy(input, target, **options)
        torch.testing.assert_close(ours.cross_entropy(input, target, **options), expected)


# Differentiation and the dispatcher.


def sample(operation: Operation, reduction: str, dtype: Any = torch.float64) -> tuple[Any, ...]:
    """Arguments of an operator: as few numbers as make a row, so that finite differences take no time."""
    z, y = logits((4, 3), dtype), torch.tensor([0, 2, -100, 1])
    p = torch.rand(4, 3).mul(0.8).add(0.1).to(dtype)
    return {
        "cross_entropy": (z, y, torch.arange(1, 4).to(dtype), -100, reduction, 0.1, 0.01, 5.0, 1.5),
        "nll_loss": (z, y, None, -100, reduction),
        "focal_loss": (z, y, None, -100, reduction, 2.0),
        "poly1_loss": (z, y, None, -100, reduction, 2.0),
        "asymmetric_loss": (z, p, reduction, 3.0, 1.0, 0.0),
        "distillation_loss": (z, z.flip(0), reduction, 2.0, "forward_kl", 0.5),
        "binary_cross_entropy": (p, p.flip(0), p.flip(1), reduction),
        "binary_cross_entropy_with_logits": (z, p, None, p[0], reduction),
        "kl_div": (p.log(), p.flip(0), reduction, False),
        "sigmoid_focal_loss": (z, p, reduction, 0.25, 2.0),
        "linear_cross_entropy": (
            *(z, logits((5, 3), dtype), logits((5,), dtype), y, None, -100, reduction),
            *(0.1, 0.01, None, 1.5),
        ),
    }[operation.name]


def of_operations(test: Callable[..., None]) -> Callable[..., None]:
    test = pytest.mark.parametrize("reduction", ["mean", "none"])(test)
    return pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)(
        test
    )


def call_of(
    operation: Operation, arguments: tuple[Any, ...]
) -> tuple[Callable[..., Any], list[Any]]:
    """A function of the differentiable tensors, which are the first, and these."""
    first = len(operation.differentiable)
    rest, options = arguments[first : operation.count], arguments[operation.count :]

    def call(*leaves):
        return operation((*leaves, *rest), *options)

    return call, [a.detach().clone().requires_grad_() for a in arguments[:first]]


@of_operations
def test_gradcheck(operation, reduction):
    call, leaves = call_of(operation, sample(operation, reduction))
    assert torch.autograd.gradcheck(call, leaves)


@of_operations
def test_opcheck(operation, reduction):
    arguments = sample(operation, reduction)
    first = len(operation.differentiable)
    leaves = [a.clone().requires_grad_() for a in arguments[:first]]
    torch.library.opcheck(operation.operator.loss, (*leaves, *arguments[first:], torch.float64))
    loss = operation.operator.loss(*arguments, torch.float64)
    wanted = [i < first for i in range(operation.count)]
    torch.library.opcheck(
        operation.operator.gradient, (wanted, torch.ones_like(loss), *arguments, torch.float64)
    )


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[:, ::2], lambda x: x[:1].expand(4, -1), lambda x: x[:, 1:]]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_opcheck_of_any_strides_and_dtype(dtype, view):
    """Gradients have the dtypes and strides that the compiler has been told."""
    input = view(logits((4, 4), dtype))
    target = torch.zeros(4, dtype=torch.int64)
    options = (None, -100, "mean", 0.0, 0.0, None, 1.0, torch.float32)
    grad, utils = torch.ones(()), ("test_schema", "test_faketensor")
    torch.library.opcheck(
        _losses.cross_entropy.operator.gradient,
        ([True, False, False], grad, input, target, *options),
        test_utils=utils,
    )
    weight = view(logits((4, 4), dtype))
    torch.library.opcheck(
        _losses.linear_cross_entropy.operator.gradient,
        ([True, True, False, False, False], grad, input, weight, None, target, *options),
        test_utils=utils,
    )


@of_operations
def test_compiled_whole(operation, reduction):
    """In one graph, with the bits of the eager call."""
    call, leaves = call_of(operation, sample(operation, reduction, torch.float32))
    eager = call(*leaves)
    expected = torch.autograd.grad(eager.sum(), leaves)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")(*leaves)
    found = torch.autograd.grad(compiled.sum(), leaves)
    assert torch.equal(compiled, eager)
    for a, b in zip(found, expected, strict=True):
        close(a, b.double(), scale=3)


@of_operations
def test_transforms(operation, reduction):
    call, leaves = call_of(operation, sample(operation, reduction))
    leaves = [leaf.detach() for leaf in leaves]
    batches = [torch.stack([leaf, leaf.flip(0)]) for leaf in leaves]
    found = torch.func.vmap(call)(*batches)
    for i in range(2):
        assert torch.equal(found[i], call(*(batch[i] for batch in batches)))

    def total(first, *others):
        return call(first, *others).sum()

    expected = [torch.func.grad(total)(*(batch[i] for batch in batches)) for i in range(2)]
    found = torch.func.vmap(torch.func.grad(total))(*batches)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-14)
    own = leaves[0].clone().requires_grad_()
    (wanted,) = torch.autograd.grad(total(own, *leaves[1:]), own)
    torch.testing.assert_close(torch.func.grad(total)(*leaves), wanted, rtol=1e-12, atol=1e-14)
    jacobian = torch.func.jacrev(total)(*leaves)
    torch.testing.assert_close(jacobian, wanted, rtol=1e-12, atol=1e-14)


@of_operations
def test_second_derivative_is_refused(operation, reduction):
    call, leaves = call_of(operation, sample(operation, reduction))
    grads = torch.autograd.grad(call(*leaves).sum(), leaves, create_graph=True)
    with pytest.raises(
        RuntimeError, match=rf"xent\.torch\.{operation.name} has no second derivative"
    ):
        sum(grad.sum() for grad in grads).backward()


@of_operations
def test_gradients_of_others_are_refused(operation, reduction):
    arguments = list(sample(operation, reduction))
    for i in range(len(operation.differentiable), operation.count):
        if arguments[i] is not None and arguments[i].is_floating_point():
            given = [*arguments]
            given[i] = given[i].clone().requires_grad_()
            tensors, options = tuple(given[: operation.count]), given[operation.count :]
            with pytest.raises(RuntimeError, match=f"^{operation.tensors[i]}: requires grad"):
                operation(tensors, *options)
            with torch.no_grad():
                operation(tensors, *options)


@of_operations
def test_no_grad(operation, reduction):
    call, leaves = call_of(operation, sample(operation, reduction))
    with torch.no_grad():
        assert not call(*leaves).requires_grad
    with torch.inference_mode():
        assert not call(*leaves).requires_grad
    assert call(*leaves).requires_grad


@of_operations
def test_meta_tensors(operation, reduction):
    arguments = [
        a.to("meta") if isinstance(a, torch.Tensor) else a for a in sample(operation, reduction)
    ]
    loss = operation(tuple(arguments[: operation.count]), *arguments[operation.count :])
    real = sample(operation, reduction)
    expected = operation(tuple(real[: operation.count]), *real[operation.count :])
    assert (loss.device.type, loss.shape, loss.dtype) == ("meta", expected.shape, expected.dtype)


def test_traced():
    """By torch.jit.trace, which would take for a constant what no operator has computed."""
    target = indices((8, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(lambda x: ours.cross_entropy(x, target), torch.zeros(8, 5))
    input = logits((8, 5), torch.float32)
    assert torch.equal(traced(input), ours.cross_entropy(input, target))


def test_compiled_by_inductor():
    model = nn.Linear(6, 5)
    input, target = torch.randn(8, 6), indices((8, 5))

    def loss(input):
        return ours.cross_entropy(model(input), target, label_smoothing=0.1) * 2

    expected = torch.autograd.grad(loss(input), model.parameters())
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True)(input), model.parameters())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[:, ::2], lambda x: x[:1].expand(4, -1)]
)
def test_compiled_of_any_strides(view):
    base, target = torch.randn(4, 4), torch.tensor([0, 1, 0, 1])

    def loss(base):
        return ours.cross_entropy(view(base), target, reduction="none").sum()

    leaf = base.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=id_of)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast(dtype, compiled):
    """As PyTorch's, losses are float32 there, and logits stay what the layer made of them."""
    model, target = nn.Linear(6, 5), indices((8, 5))
    input = torch.randn(8, 6)

    def loss(function):
        with torch.autocast("cpu", dtype=dtype):
            output = model(input)
            return function(output, target), output

    mine = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    actual, output = mine(ours.cross_entropy)
    expected, _ = loss(F.cross_entropy)
    assert output.dtype == dtype
    assert actual.dtype == expected.dtype == torch.float32
    close(actual, F.cross_entropy(output.double(), target), reach=12)
    actual.backward()
    assert model.weight.grad.dtype == torch.float32


def test_input_changed_before_the_backward_is_noticed():
    input = torch.randn(100, 100, requires_grad=True)
    changed = input * 1
    loss = ours.cross_entropy(changed, indices((100, 100)))
    changed.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Errors.

Z = torch.zeros(4, 3)
BAD: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "range": ("cross_entropy", (Z, torch.tensor([0, 3, 1, 1])), {}),
    "negative": ("cross_entropy", (Z, torch.tensor([0, -1, 1, 1])), {}),
    "range-nll": ("nll_loss", (Z, torch.tensor([0, 3, 1, 1])), {}),
    "rows": ("cross_entropy", (Z, torch.zeros(5, dtype=torch.int64)), {}),
    "float indices": ("cross_entropy", (Z, torch.zeros(4)), {}),
    "weight": ("cross_entropy", (Z, torch.zeros(4, dtype=torch.int64), torch.ones(2)), {}),
    "smoothing": (
        "cross_entropy",
        (Z, torch.zeros(4, dtype=torch.int64)),
        {"label_smoothing": 1.5},
    ),
    "reduction": (
        "cross_entropy",
        (Z, torch.zeros(4, dtype=torch.int64)),
        {"reduction": "average"},
    ),
    "soft ignore": ("cross_entropy", (Z, Z), {"ignore_index": 1}),
    "no tensor": ("cross_entropy", ([[0.0]], torch.zeros(1, dtype=torch.int64)), {}),
    "bce shape": ("binary_cross_entropy", (Z, torch.zeros(4)), {}),
    "bce range": ("binary_cross_entropy", (Z + 2, Z), {}),
    "logits shape": ("binary_cross_entropy_with_logits", (Z, torch.zeros(3)), {}),
    "pos_weight": ("binary_cross_entropy_with_logits", (Z, Z), {"pos_weight": torch.ones(2)}),
    "complex": ("cross_entropy", (Z.to(torch.complex64), torch.zeros(4, dtype=torch.int64)), {}),
    "layer": (
        "linear_cross_entropy",
        (Z, torch.zeros(5, 2), torch.zeros(4, dtype=torch.int64)),
        {},
    ),
    "layer bias": (
        "linear_cross_entropy",
        (Z, torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64)),
        {"linear_bias": torch.zeros(4)},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_are_of_torchs_kind(case):
    name, arguments, options = BAD[case]
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(F, name)(*arguments, **options)
    # NotImplementedError, for a dtype that a kernel lacks, is one of them.
    kind = RuntimeError if issubclass(theirs.type, RuntimeError) else theirs.type
    with pytest.raises(kind):
        getattr(ours, name)(*arguments, **options)


def test_errors_name_torchs_arguments():
    target = torch.tensor([0, 7, 1, 1])
    for compiled in (False, True):
        function = ours.cross_entropy
        if compiled:
            function = torch.compile(function, fullgraph=True, backend="aot_eager")
        with pytest.raises(IndexError, match=r"^target\[1\] = 7 is not a class"):
            function(Z, target)
    with pytest.raises(RuntimeError, match=r"^linear_weight: expected shape"):
        ours.linear_cross_entropy(Z, torch.zeros(5, 2), target)
    with pytest.raises(RuntimeError, match=r"^weight: "):
        ours.linear_cross_entropy(Z, torch.zeros(5, 3), target * 0, weight=torch.zeros(2))
    with pytest.raises(ValueError, match=r"^targets: expected the shape of inputs"):
        ours.sigmoid_focal_loss(Z, Z[:1])
    losses = (ours.cross_entropy, ours.binary_cross_entropy, ours.kl_div, ours.distillation_loss)
    for function in losses:
        with pytest.raises(TypeError, match=r"^target: expected a torch\.Tensor, got list"):
            function(Z, [0])


def test_sparse_tensors_are_refused():
    with pytest.raises((TypeError, RuntimeError), match=r"(?i)sparse"):
        ours.cross_entropy(Z.to_sparse(), torch.zeros(4, dtype=torch.int64))


def test_tensors_elsewhere_are_refused():
    logits, target = torch.randn(8, 10), torch.arange(8)
    for arguments in (
        (logits, target.to("meta")),
        (logits, target, torch.ones(10, device="meta")),
        (logits.to("meta"), target),
    ):
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            xent.torch.cross_entropy(*arguments)


def test_integers_have_no_loss():
    for dtype in (torch.int64, torch.bool, torch.int8):
        with pytest.raises(NotImplementedError, match="cross_entropy is not implemented for torch"):
            xent.torch.cross_entropy(torch.ones(1, 3, dtype=dtype), torch.tensor([1]))


def test_options_that_want_a_gradient_are_refused():
    logits, target = torch.randn(8, 10, requires_grad=True), torch.arange(8)
    with pytest.raises(RuntimeError, match="no derivative with respect to an option"):
        xent.torch.cross_entropy(logits, target, temperature=torch.nn.Parameter(torch.tensor(2.0)))


def test_arguments_of_another_kind():
    logits, target = torch.randn(8, 10), torch.arange(8)
    with pytest.raises(RuntimeError, match="target: expected class indices of shape"):
        xent.torch.nll_loss(logits.log_softmax(1), torch.zeros(8, 10))
    with pytest.raises(TypeError, match=r"options: expected torch\.nn\.LinearCrossEntropyOptions"):
        xent.torch.linear_cross_entropy(logits, torch.ones(10, 10), target, options="no")


def test_other_names_are_those_of_torch():
    assert xent.torch.relu is torch.nn.functional.relu
    assert xent.torch.Linear is torch.nn.Linear
    assert xent.torch.cross_entropy is not torch.nn.functional.cross_entropy
    with pytest.raises(AttributeError, match=r"neither xent\.torch nor torch\.nn has 'no_such'"):
        _ = xent.torch.no_such


def test_forward_mode_is_refused():
    logits, target = torch.randn(4, 3), torch.arange(4) % 3
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, torch.ones_like(logits))
        with pytest.raises(NotImplementedError, match=r"input: .* no forward-mode derivative"):
            xent.torch.cross_entropy(dual, target)
        xent.torch.cross_entropy(logits, target)
