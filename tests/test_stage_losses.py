"""`xent.stages`, `score`, and what `cross_entropy` composes of them: values, gradients, shards, bad input."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import xent
from calls import assert_same
from reference import WIDE
from xent import stages

NAN, INF = np.nan, np.inf
CLASSES = (1, 2, 10, 65, 300, 1100, 17_000)


def rows(classes: int, dtype: Any, count: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and class indices, one of them ignored."""
    rng = np.random.default_rng(seed + classes)
    logits = (3 * rng.normal(size=(count, classes))).astype(dtype)
    targets = rng.integers(0, classes, count)
    targets[2] = -100
    return logits, targets


def close(found: Any, expected: Any, dtype: Any, factor: float = 1.0) -> None:
    """Within roundings of sums of numbers of the size of the largest."""
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0) if np.ndim(expected) else 1.0
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(found, float),
        np.asarray(expected, float),
        rtol=64 * eps,
        atol=factor * 64 * eps * float(scale),
    )


class Exact:
    """The values of rows by their formulas, in extended precision."""

    def __init__(self, logits: Any, softcap: float | None = None, temperature: float = 1.0):
        z = np.asarray(logits).astype(WIDE)
        if softcap:
            z = np.where(np.isinf(z), z, softcap * np.tanh(z / softcap))
        self.z = z / WIDE(temperature)
        top = self.z.max(-1, keepdims=True)
        self.lse = (top + np.log(np.exp(self.z - top).sum(-1, keepdims=True)))[..., 0]
        self.log_p = self.z - self.lse[..., None]
        self.p = np.exp(self.log_p)
        self.entropy = -(self.p * np.where(self.p > 0, self.log_p, 0)).sum(-1)


OPTIONS = [{}, {"softcap": 4.0}, {"temperature": 1.7}, {"softcap": 4.0, "temperature": 0.5}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_values(isa, dtype, classes, options):
    logits, targets = rows(classes, dtype)
    weight = np.linspace(0.5, 2, classes)
    sums = stages.reduce(logits, targets, entropy=True, smooth=True, class_weight=weight, **options)
    assert sums.dtype == stages.dtype
    found, exact = stages.values(sums), Exact(logits, **options)
    index = np.where(targets < 0, 0, targets)
    counts = targets >= 0
    own = np.arange(len(logits))
    close(found.lse, exact.lse, dtype)
    close(found.nll, np.where(counts, -exact.log_p[own, index], 0), dtype)
    close(found.prob[counts], exact.p[own, index][counts], dtype)
    assert np.isnan(found.prob[2])
    close(found.entropy, exact.entropy, dtype)
    close(found.smooth, -(weight.astype(dtype) * exact.log_p).sum(-1), dtype, classes)
    close(found.mean_logit, (exact.p * exact.z).sum(-1), dtype)
    np.testing.assert_array_equal(found.argmax, logits.argmax(-1))
    soft = np.random.default_rng(1).dirichlet(np.ones(classes), len(logits))
    found = stages.values(stages.reduce(logits, soft, **options))
    close(found.nll, -(soft.astype(dtype) * exact.log_p).sum(-1), dtype)
    assert found.prob is found.entropy is found.smooth is None


@pytest.mark.parametrize("classes", CLASSES)
def test_cross_entropy_to_the_bit(isa, dtype, classes):
    """Without a temperature: value, and gradient with label smoothing, z-loss, weights and caps."""
    logits, targets = rows(classes, dtype)
    for softcap in (None, 4.0):
        sums = stages.reduce(logits, targets, softcap=softcap, smooth=True)
        found = stages.values(sums)
        options: dict[str, Any] = {"softcap": softcap, "reduction": "none", "return_lse": True}
        loss, lse = xent.cross_entropy(logits, targets, **options)
        assert_same(found.nll, loss)
        assert_same(found.lse, lse)
        options = {"softcap": softcap, "reduction": "sum", "return_grad": True}
        _, grad = xent.cross_entropy(logits, targets, **options)
        assert_same(stages.apply(logits, sums, targets, nll=1.0, softcap=softcap), grad)
        e = 0.25
        _, grad = xent.cross_entropy(logits, targets, label_smoothing=e, **options)
        own = {"nll": 1 - e, "smooth": e / classes}
        assert_same(stages.apply(logits, sums, targets, softcap=softcap, **own), grad)
        place = logits.copy()
        assert stages.apply(place, sums, targets, grad_out=place, softcap=softcap, **own) is place
        assert_same(place, grad)


@pytest.mark.parametrize("temperature", [0.3, 1.7, 50.0])
def test_cross_entropy_of_any_temperature_to_the_bit(isa, temperature):
    logits, targets = rows(37, np.float32, 500)
    loss = xent.cross_entropy(logits, targets, temperature=temperature, reduction="none")
    sums = stages.reduce(logits, targets, temperature=temperature)
    assert_same(stages.values(sums).nll, loss)


def gradient(logits: Any, exact: Exact, one_hot: Any, counts: Any, coefs: dict[str, Any]) -> Any:
    p, log_p, classes = exact.p, exact.log_p, exact.p.shape[-1]
    zero = np.zeros(len(logits))
    lse, nll, entropy, smooth = (
        np.broadcast_to(coefs.get(name, zero), zero.shape)[:, None]
        for name in ("lse", "nll", "entropy", "smooth")
    )
    mass = one_hot.sum(-1, keepdims=True)
    found = lse * p + nll * (mass * p - one_hot) + smooth * (classes * p - 1)
    found = found - entropy * np.where(p > 0, p * (log_p + exact.entropy[:, None]), 0)
    return np.where(counts[:, None], found, 0)


COEFS = [
    ("lse",),
    ("nll",),
    ("entropy",),
    ("smooth",),
    ("nll", "entropy"),
    ("lse", "nll", "entropy", "smooth"),
]


@pytest.mark.parametrize("names", COEFS, ids="+".join)
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("classes", [1, 2, 10, 65, 300, 1100])
def test_gradients_of_any_coefficients(isa, dtype, classes, kind, names):
    logits, targets = rows(classes, dtype)
    rng = np.random.default_rng(3)
    one_hot = np.eye(classes)[np.where(targets < 0, 0, targets)]
    counts, given = targets >= 0, targets
    if kind == "soft":
        given = one_hot = rng.dirichlet(np.ones(classes), len(logits)).astype(dtype)
        counts = np.ones(len(logits), bool)
    coefs = {name: rng.normal(size=len(logits)) for name in names}
    for temperature in (1.0, 1.7):
        sums = stages.reduce(logits, given, entropy=True, smooth=True, temperature=temperature)
        grad = stages.apply(logits, sums, given, temperature=temperature, **coefs)
        expected = (
            gradient(logits, Exact(logits, None, temperature), one_hot, counts, coefs) / temperature
        )
        close(grad, expected, dtype, 8 * max(1, np.log2(classes)))


def test_no_coefficients_are_zeros():
    logits, targets = rows(10, np.float32)
    assert not stages.apply(logits, stages.reduce(logits, targets), targets).any()


@pytest.mark.parametrize("cuts", [(16_384,), (16_384, 32_768), (5,), (5, 5, 40_000)])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_shards(isa, dtype, cuts, kind):
    """Those at multiples of 16,384 classes have the bits of the whole: of float32; of float64 if each is one chunk."""
    logits, targets = rows(40_000, dtype, 4)
    given: Any = targets
    if kind == "soft":
        given = np.random.default_rng(0).dirichlet(np.ones(40_000), 4)
    asked = {"entropy": True, "smooth": kind == "index"}
    whole = stages.reduce(logits, given, **asked)
    ends = [0, *cuts, 40_000]
    parts = []
    for a, b in pairwise(ends):
        own = given if kind == "index" else given[:, a:b]
        parts.append(
            stages.reduce(logits[:, a:b], own, class_offset=a, num_classes=40_000, **asked)
        )
    merged = stages.merge(*parts)
    other_way = stages.values(stages.merge(parts[0], stages.merge(*parts[1:])))
    found, expected = stages.values(merged), stages.values(whole)
    close(other_way.nll, found.nll, dtype)
    exactly = cuts == (16_384, 32_768) or (cuts == (16_384,) and dtype == np.float32)
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        elif exactly or other.dtype.kind == "i":
            assert_same(one, other)
        else:
            close(one, other, dtype, 40)
    coefs = {"nll": 1.0, "entropy": 0.5}
    grad = stages.apply(logits, whole, given, **coefs)
    for a, b in pairwise(ends):
        own = given if kind == "index" else given[:, a:b]
        part = stages.apply(logits[:, a:b], merged, own, class_offset=a, **coefs)
        close(part, grad[:, a:b], dtype)


def test_sums_travel_like_numbers():
    logits, targets = rows(10, np.float32)
    sums = stages.reduce(logits, targets)
    assert (
        stages.values(pickle.loads(pickle.dumps(sums))).nll.tobytes()
        == stages.values(sums).nll.tobytes()
    )
    both = np.concatenate([sums[:3], sums[3:]])
    assert stages.values(both[::-1]).nll.tobytes() == stages.values(sums).nll[::-1].tobytes()
    one = stages.values(stages.reduce(logits[0], targets[0]))
    assert isinstance(one.nll, np.float32)
    assert one.nll == stages.values(sums).nll[0]


def test_layouts_and_half_types(isa):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 12, 5)).astype(np.float32)
    targets = rng.integers(0, 12, (4, 5))
    coefs = {"nll": 1.0, "entropy": rng.normal(size=(4, 5)), "smooth": 0.1}
    asked = {"entropy": True, "smooth": True}
    for dtype in (np.float32, np.float16, ">f4"):
        given = logits.astype(dtype)
        flat = np.moveaxis(given, 1, -1).astype(np.dtype(dtype).newbyteorder("=")).copy()
        expected = stages.apply(flat, stages.reduce(flat, targets, **asked), targets, **coefs)
        for lay in (given, np.asfortranarray(given), given[:, :, ::-1][:, :, ::-1]):
            sums = stages.reduce(lay, targets, axis=1, **asked)
            grad = stages.apply(lay, sums, targets, axis=1, **coefs)
            assert grad.shape == lay.shape
            assert_same(np.moveaxis(grad, 1, -1), expected)


def test_sums_that_do_not_fit():
    logits, targets = rows(10, np.float32)
    left = stages.reduce(logits[:, :4], targets, num_classes=10)
    right = stages.reduce(logits[:, 4:], targets, class_offset=4)
    with pytest.raises(
        ValueError, match=r"sums: they have classes 0 to 4 of 10; merge those of all shards first"
    ):
        stages.values(left)
    with pytest.raises(
        ValueError, match=r"sums\[1\]: its classes begin at 0, those before it end at 10"
    ):
        stages.merge(right, left)
    with pytest.raises(
        ValueError, match=r"sums\[1\]: its classes begin at 0, those before it end at 4"
    ):
        stages.merge(left, left)
    with pytest.raises(ValueError, match=r"sums\[1\]: expected rows of shape \(7,\).* got \(3,\)"):
        stages.merge(left, right[:3])
    with pytest.raises(ValueError, match=r"sums\[1\]: differs in 'entropy'"):
        stages.merge(left, stages.reduce(logits[:, 4:], targets, class_offset=4, entropy=True))
    other = targets.copy()
    other[2] = 0
    with pytest.raises(ValueError, match=r"sums\[1\]: other rows count"):
        stages.merge(left, stages.reduce(logits[:, 4:], other, class_offset=4))
    with pytest.raises(ValueError, match="sums: expected at least one"):
        stages.merge()
    with pytest.raises(TypeError, match=r"sums\[0\]: expected an array of stages\.dtype"):
        stages.merge(np.zeros(3))
    whole = stages.reduce(logits, targets)
    with pytest.raises(
        ValueError, match="entropy: the sums have none; ask reduce for entropy=True"
    ):
        stages.apply(logits, whole, targets, entropy=1.0)
    with pytest.raises(ValueError, match="nll: expected the targets"):
        stages.apply(logits, whole, nll=1.0)
    with pytest.raises(ValueError, match=r"sums: expected the rows of the logits, of shape \(3,\)"):
        stages.apply(logits[:3], whole, targets[:3], nll=1.0)
    with pytest.raises(ValueError, match=r"temperature: the sums are of 1\.0, got 2\.0"):
        stages.apply(logits, whole, targets, nll=1.0, temperature=2.0)
    with pytest.raises(ValueError, match=r"lse: shape \(2,\) does not broadcast"):
        stages.apply(logits, whole, targets, lse=[1.0, 2.0])
    with pytest.raises(
        IndexError, match=r"targets\[0\] = 10 is not a class; expected 0 <= target < 10"
    ):
        stages.reduce(logits[:, :4], np.full(7, 10), num_classes=10)
    with pytest.raises(ValueError, match="num_classes: expected at least 10, got 9"):
        stages.reduce(logits, targets, num_classes=9)
    with pytest.raises(ValueError, match="class_offset: expected at least 0, got -1"):
        stages.reduce(logits, targets, class_offset=-1)


def test_rows_of_nan_infinities_and_masks(isa, dtype):
    logits = np.array([[NAN, 1, 2], [INF, 1, 2], [-INF, -INF, -INF], [-INF, 1, 1]], dtype)
    found = stages.values(stages.reduce(logits, [1, 1, 1, 0], entropy=True))
    np.testing.assert_array_equal(found.argmax, logits.argmax(-1))
    _, lse = xent.cross_entropy(logits, [1, 1, 1, 0], reduction="none", return_lse=True)
    assert lse[2] == -INF
    assert_same(found.lse, lse)
    np.testing.assert_array_equal(np.isnan(found.nll), [True, True, True, False])
    assert found.nll[3] == INF
    assert found.prob[3] == 0
    close(found.entropy[3:], np.array([np.log(2)]), dtype)
    empty = stages.reduce(np.zeros((0, 3), dtype), [])
    assert stages.values(empty).lse.shape == (0,)
    assert stages.apply(np.zeros((0, 3), dtype), empty, [], nll=1.0).shape == (0, 3)


# --- score ---


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_score(isa, dtype, classes, options):
    logits, targets = rows(classes, dtype, 20)
    logits = (8 * logits).round() / dtype.type(8)  # with ties
    logits[6, 0] = -INF if classes > 1 else 0
    k = min(classes, 5)
    found = xent.score(logits, targets, top_k=k, **options)
    exact = Exact(logits, **options)
    counts, own = targets >= 0, np.arange(20)
    loss, lse = xent.cross_entropy(logits, targets, reduction="none", return_lse=True, **options)
    assert_same(found.lse, lse)
    np.testing.assert_array_max_ulp(np.subtract(0, found.log_prob[counts]), loss[counts], 2)
    np.testing.assert_array_max_ulp(found.entropy, xent.entropy(logits, **options), 2)
    assert np.isnan(found.log_prob[2])
    assert found.rank[2] == -1
    with np.errstate(invalid="ignore"):
        rank = (exact.z > exact.z[own, np.maximum(targets, 0)][:, None]).sum(-1)
    np.testing.assert_array_equal(found.rank[counts], rank[counts])
    close(found.entropy, exact.entropy, dtype)
    squares = (exact.p**2).sum(-1).astype(float)
    np.testing.assert_allclose(found.sum_sq, squares, rtol=8 * float(np.finfo(dtype).eps))
    close(found.max_log_prob, exact.log_p.max(-1), dtype)
    np.testing.assert_array_equal(found.argmax, logits.argmax(-1))
    order = np.argsort(-logits.astype(WIDE), axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(found.top_indices, order)
    close(found.top_log_probs, np.take_along_axis(exact.log_p, order, -1), dtype)
    none = xent.score(logits, **options)
    assert none.log_prob is none.rank is none.top_indices is none.top_log_probs is None


def test_score_of_spoilt_rows_and_bad_input(isa):
    logits = np.array([[1, NAN, 2.0], [1, 5, 2]])
    found = xent.score(logits, [0, 0], top_k=2)
    assert found.argmax.tolist() == [1, 1]
    assert found.rank.tolist()[1] == 2
    assert np.isnan(found.entropy[0])
    assert found.top_indices.tolist() == [[-1, -1], [1, 2]]
    assert np.isnan(found.top_log_probs[0]).all()
    wide = xent.score(np.arange(300.0), 299, top_k=128)
    assert wide.top_indices.tolist() == [*range(299, 171, -1)]
    columns = xent.score(np.asfortranarray(logits.T), [0, 0], axis=0, top_k=2)
    for one, other in zip(columns, found, strict=True):
        assert_same(one, other)
    for top_k, says in (
        (4, "at most 3, of 3 classes; got 4"),
        (-1, "at least 0"),
        (129, "at most 3"),
    ):
        with pytest.raises(ValueError, match=f"top_k: expected {says}"):
            xent.score(logits, top_k=top_k)
    with pytest.raises(TypeError, match="top_k: expected an integer"):
        xent.score(logits, top_k=1.5)
    with pytest.raises(TypeError, match="not accepted by score"):
        xent.score(logits, np.ones((2, 3)))
    with pytest.raises(IndexError, match=r"targets\[1\] = 3 is not a class"):
        xent.score(logits, [0, 3])


# --- several targets of a row ---


def test_several_targets(isa, dtype):
    logits, _ = rows(70, dtype)
    index = np.random.default_rng(1).integers(0, 70, (7, 16))
    index[3, 4] = -100
    found = xent.token_log_probs(logits, index)
    for k in range(16):
        assert_same(found[:, k], xent.token_log_probs(logits, index[:, k]))
    cubes = xent.token_log_probs(
        np.moveaxis(np.stack([logits] * 2, -1), 1, 1), np.stack([index] * 2, -1), axis=1
    )
    assert_same(cubes[..., 0], found)
    capped = xent.token_log_probs(logits, index, softcap=3.0, temperature=0.7)
    close(
        capped[:, 0], xent.token_log_probs(logits, index[:, 0], softcap=3.0, temperature=0.7), dtype
    )
    assert xent.token_log_probs(logits, np.zeros((7, 0), int)).shape == (7, 0)
    with pytest.raises(IndexError, match=r"targets\[0, 3\] = 70 is not a class"):
        xent.token_log_probs(logits, np.full((7, 16), 70) * (np.arange(16) == 3))
    with pytest.raises(ValueError, match=r"targets: shape \(6, 16\) does not fit"):
        xent.token_log_probs(logits, index[:6])


def test_perplexity_of_each_sequence(dtype):
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(3, 9, 20)).astype(dtype), rng.integers(0, 20, (3, 9))
    tokens[1, 4:] = -100
    found = xent.perplexity(logits, tokens, reduction="none")
    expected = [xent.perplexity(a, b) for a, b in zip(logits, tokens, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)
    tokens[2] = -100
    assert np.isnan(xent.perplexity(logits, tokens, reduction="none")[2])
    with pytest.raises(ValueError, match="reduction: expected one of mean, none, got 'sum'"):
        xent.perplexity(logits, tokens, reduction="sum")


# --- options of cross_entropy that are composed ---


def formula(z: Any, t: Any, sample: Any, divisor: Any, given: dict[str, Any]) -> Any:
    """The loss as a function of logits, temperature and bias, in float64."""

    def loss(z: Any, temperature: float, bias: Any) -> Any:
        if bias is not None:
            z = z + bias
        if given.get("softcap"):
            z = given["softcap"] * np.tanh(z / given["softcap"])
        z = z / temperature
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        lse = (z - log_p)[:, 0]
        weight, e = (
            given.get("class_weight", np.ones(z.shape[1])),
            given.get("label_smoothing", 0.0),
        )
        row = (
            -((t * (1 - e) + e / z.shape[1]) * weight * log_p).sum(-1)
            + given.get("z_loss", 0.0) * lse**2
        )
        row = row + given.get("entropy_weight", 0.0) * (np.exp(log_p) * log_p).sum(-1)
        return (sample * row).sum() / divisor

    return loss(z, given.get("temperature", 1.0), given.get("class_bias")), loss


GIVEN: list[dict[str, Any]] = [
    {},
    {"class_weight": True},
    {"z_loss": 0.01},
    {"softcap": 5.0},
    {"temperature": 1.7},
    {"label_smoothing": 0.1},
    {"entropy_weight": 0.3},
    {"class_bias": True},
    {
        "class_weight": True,
        "z_loss": 0.01,
        "softcap": 5.0,
        "temperature": 1.7,
        "label_smoothing": 0.1,
        "class_bias": True,
    },
    {
        "entropy_weight": -0.3,
        "softcap": 5.0,
        "temperature": 1.7,
        "class_bias": True,
        "class_weight": True,
    },
]


@pytest.mark.parametrize("given", GIVEN, ids=lambda g: "+".join(g))
@pytest.mark.parametrize("kind", ["sparse", "index", "soft"])
def test_composed(dtype, kind, given):
    """Value by the formula; gradients of logits, temperature and bias by central differences of it."""
    rng = np.random.default_rng(0)
    rows, classes, several = 6, 9, 3
    z = (2 * rng.normal(size=(rows, classes))).astype(dtype)
    sample = rng.random(rows) + 0.5
    drawn = {"class_weight": rng.random(classes) + 0.5, "class_bias": rng.normal(size=classes)}
    given = {
        name: drawn.get(name, value) if value is True else value for name, value in given.items()
    }
    index, q = rng.integers(0, classes, (rows, several)), rng.random((rows, several))
    index[0, 1] = index[0, 0]
    t = np.zeros((rows, classes))
    np.add.at(t, (np.arange(rows)[:, None], index), q)
    first = rng.integers(0, classes, rows)
    arguments: Any = {"sparse": (z, index), "index": (z, first), "soft": (z, t)}[kind]
    t = np.eye(classes)[first] if kind == "index" else t
    divisor = sample.sum()
    if kind == "index" and "class_weight" in given:
        divisor = (sample * given["class_weight"][first]).sum()
    options = given | {"sample_weight": sample} | ({"target_probs": q} if kind == "sparse" else {})
    with_bias = "class_bias" in given
    loss, grad, heat, *bias = xent.cross_entropy(
        *arguments,
        return_grad=True,
        return_temperature_grad=True,
        return_bias_grad=with_bias,
        **options,
    )
    wide = z.astype(float)
    expected, function = formula(wide, t, sample, divisor, given)
    temperature, own = given.get("temperature", 1.0), given.get("class_bias")
    step = 1e-5
    slopes = np.zeros_like(wide)
    for place in np.ndindex(*wide.shape):
        up, down = wide.copy(), wide.copy()
        up[place] += step
        down[place] -= step
        slopes[place] = (function(up, temperature, own) - function(down, temperature, own)) / (
            2 * step
        )
    of_heat = (
        function(wide, temperature + step, own) - function(wide, temperature - step, own)
    ) / (2 * step)
    # Central differences are off by their step squared and by a rounding of the loss over it.
    tolerance = 1e-8 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(float(loss), expected, rtol=tolerance)
    np.testing.assert_allclose(grad, slopes, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(float(heat), of_heat, rtol=tolerance, atol=tolerance)
    if with_bias:
        np.testing.assert_allclose(bias[0], slopes.sum(0), rtol=tolerance, atol=6 * tolerance)


def test_composed_options_agree_with_whole_calls(isa, dtype):
    """One entry of probability 1 is a class index; a bias of zeros and an entropy weight of a row that does not count."""
    logits, targets = rows(300, dtype)
    loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
    one = {"target_probs": np.ones((7, 1)), "return_grad": True}
    found = xent.cross_entropy(logits, targets[:, None], **one)
    close(found[0], loss, dtype)
    close(found[1], grad, dtype)
    found = xent.cross_entropy(
        logits, targets, class_bias=np.zeros(300), return_grad=True, return_lse=True
    )
    assert len(found) == 3
    close(found[1], grad, dtype)
    assert not found[1][2].any()
    rows_ = xent.cross_entropy(logits, targets, entropy_weight=1.0, reduction="none")
    assert rows_[2] == 0
    place = logits.copy()
    result = xent.cross_entropy(
        place, targets, entropy_weight=0.5, return_grad=True, grad_out=place
    )
    assert result[1] is place
    close(
        place, xent.cross_entropy(logits, targets, entropy_weight=0.5, return_grad=True)[1], dtype
    )


@pytest.mark.parametrize("layout", ["wide", "narrow", "columns", "tall columns"])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_class_bias_adds_to_the_logits(isa, dtype, layout, softcap):
    """The same bits as of logits that have it already, in every layout and result; and shards have their part of it."""
    classes = {"wide": 2500, "narrow": 20, "columns": 20, "tall columns": 2500}[layout]
    logits, targets = rows(classes, dtype)
    axis = -1 if layout in ("wide", "narrow") else 0
    logits = np.ascontiguousarray(np.moveaxis(logits, -1, axis))
    bias = np.random.default_rng(3).normal(size=classes).astype(dtype)
    sums = logits + (bias if axis else bias[:, None])
    options = {
        "axis": axis,
        "softcap": softcap,
        "label_smoothing": 0.1,
        "return_hess": True,
        "return_lse": True,
    }
    given = logits.copy()
    for found, wanted in zip(
        xent.cross_entropy(given, targets, class_bias=bias, grad_out=given, **options),
        xent.cross_entropy(sums, targets, **options),
        strict=True,
    ):
        assert np.array_equal(found, wanted, equal_nan=True)
    half = classes // 2
    parts = [
        stages.reduce(
            logits.take(range(begin, end), axis),
            targets,
            axis=axis,
            class_offset=begin,
            num_classes=classes,
            class_bias=bias[begin:end],
            softcap=softcap,
            entropy=True,
        )
        for begin, end in ((0, half), (half, classes))
    ]
    whole = stages.values(stages.merge(*parts))
    wanted = stages.values(stages.reduce(sums, targets, axis=axis, softcap=softcap, entropy=True))
    for name in ("lse", "nll", "entropy", "mean_logit"):
        close(getattr(whole, name), getattr(wanted, name), dtype)
    assert np.array_equal(whole.argmax, wanted.argmax)


def test_class_bias_of_a_long_row():
    """Which threads share."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, 1_300_000)).astype(np.float32)
    bias = rng.normal(size=logits.shape[1]).astype(np.float32)
    with xent.num_threads(2):
        found = xent.cross_entropy(logits, [7], class_bias=bias, return_grad=True)
    loss, grad = xent.cross_entropy(logits + bias, [7], return_grad=True)
    assert found[0] == loss
    assert np.array_equal(found[1], grad)


def test_class_bias_may_mask():
    logits = np.array([[2.0, 1.0, 0.0]])
    loss, grad = xent.cross_entropy(logits, [0], class_bias=[0, -np.inf, 0], return_grad=True)
    assert loss == xent.cross_entropy(logits[:, [0, 2]], [0])
    assert grad[0, 1] == 0


def test_temperature_gradient_of_a_call_in_place():
    """The gradient is written over the logits after everything else has read them."""
    logits, targets = rows(30, np.float64)
    options: Any = {"temperature": 1.5, "return_grad": True, "return_temperature_grad": True}
    wanted = xent.cross_entropy(logits, targets, **options)
    found = xent.cross_entropy(logits, targets, grad_out=logits, **options)
    assert found[1] is logits
    assert np.array_equal(found[1], wanted[1])
    assert found[2] == wanted[2]


def test_an_ignored_class_is_any_class():
    """Of several targets and of the derivative by the temperature, too; the default is no class."""
    logits = np.random.default_rng(1).normal(size=(3, 5))
    targets = np.array([2, 4, 0])
    several = np.array([[1, 4], [4, 4], [0, 3]])
    for index, more in (
        (targets, {"return_temperature_grad": True}),
        (several, {"target_probs": np.array([[0.2, 0.8], [0.5, 0.5], [1, 3]])}),
    ):
        found = xent.cross_entropy(logits, index, ignore_index=4, **more)
        expected = xent.cross_entropy(logits, np.where(index == 4, -100, index), **more)
        np.testing.assert_array_equal(found, expected)
    found = xent.token_log_probs(logits, several, ignore_index=4)
    expected = xent.token_log_probs(logits, np.where(several == 4, -100, several))
    np.testing.assert_array_equal(found, expected)


def test_half_types_of_composed_options(isa):
    logits, targets = rows(65, np.float16)
    wide = logits.astype(np.float32)
    for options in (
        {"entropy_weight": 0.5},
        {"class_bias": np.linspace(-1, 1, 65)},
        {"target_probs": np.full((7, 3), 0.3)},
    ):
        given = np.stack([targets] * 3, -1) if "target_probs" in options else targets
        loss, grad = xent.cross_entropy(logits, given, return_grad=True, **options)
        expected, slopes = xent.cross_entropy(wide, given, return_grad=True, **options)
        assert grad.dtype == np.float16
        close(loss, expected, np.float32)
        np.testing.assert_allclose(grad, slopes, rtol=2e-3, atol=1e-6)


def test_bad_input_of_composed_options():
    logits, targets = rows(10, np.float32)
    index = np.zeros((7, 2), int)
    for options, error, says in (
        ({"class_bias": np.zeros(9)}, ValueError, r"class_bias: expected shape \(10,\)"),
        ({"entropy_weight": NAN}, ValueError, "entropy_weight: expected a finite number"),
        (
            {"entropy_weight": 0.1, "return_hess": True},
            ValueError,
            "return_hess: not with target_probs",
        ),
        ({"return_bias_grad": True}, ValueError, "return_bias_grad: expected class_bias"),
        (
            {"entropy_weight": 0.1, "temperature": 0},
            ValueError,
            "temperature: expected a finite number > 0",
        ),
    ):
        with pytest.raises(error, match=says):
            xent.cross_entropy(logits, targets, **options)
    with pytest.raises(
        ValueError, match=r"target_probs: expected the shape of targets, \(7, 2\); got \(7, 3\)"
    ):
        xent.cross_entropy(logits, index, target_probs=np.ones((7, 3)))
    with pytest.raises(IndexError, match=r"targets\[0, 0\] = 10 is not a class"):
        xent.cross_entropy(logits, index + 10, target_probs=np.ones((7, 2)))
    with pytest.raises(TypeError, match="targets: dtype float64 is not accepted"):
        xent.cross_entropy(logits, index * 1.0, target_probs=np.ones((7, 2)))
    nothing = xent.cross_entropy(
        logits, np.zeros((7, 0), int), target_probs=np.ones((7, 0)), return_grad=True
    )
    assert np.isnan(nothing[0])
    assert not nothing[1].any()
    dropped = xent.cross_entropy(
        logits, np.full((7, 2), -100), target_probs=np.ones((7, 2)), return_grad=True
    )
    assert np.isnan(dropped[0])
    assert not dropped[1].any()


def test_temperature_of_a_linear_layer(dtype):
    """The derivative of the whole call: that of cross_entropy of the product."""
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(9, 5)).astype(dtype), rng.normal(size=(7, 5)).astype(dtype)
    bias, targets = rng.normal(size=7).astype(dtype), rng.integers(0, 7, 9)
    targets[3] = -100
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.01, "reduction": "sum"}):
        options = options | {"temperature": 1.7, "return_temperature_grad": True}
        logits = hidden @ weight.T + bias
        loss, expected = xent.cross_entropy(logits, targets, **options)
        found = xent.linear_cross_entropy(hidden, weight, targets, bias=bias, **options)
        close(found[0], loss, dtype)
        close(found[1], expected, dtype, 8)
        found = xent.linear_cross_entropy(
            hidden, weight, targets, bias=bias, return_grad=True, **options
        )
        assert len(found[1]) == 3
        close(found[2], expected, dtype, 8)
    with pytest.raises(ValueError, match="return_temperature_grad: not with softcap"):
        xent.linear_cross_entropy(
            hidden, weight, targets, softcap=1.0, return_temperature_grad=True
        )


@pytest.mark.parametrize(
    "options",
    [{"return_temperature_grad": True}, {"entropy_weight": 0.1}, {"target_probs": [[1.0], [1.0]]}],
    ids=lambda options: next(iter(options)),
)
def test_rows_of_weight_0_have_gradient_0(options):
    z = np.array([[1.0, np.nan, 0.0], [1.0, 2.0, 3.0]])
    targets = [[1], [1]] if "target_probs" in options else [1, 1]
    grad = xent.cross_entropy(z, targets, sample_weight=[0, 1], return_grad=True, **options)[1]
    assert not grad[0].any()
    assert np.isfinite(grad[1]).all()


def test_gradients_of_any_layout_with_composed_options():
    rng = np.random.default_rng(0)
    z, targets = rng.normal(size=(9, 63)), rng.integers(0, 63, 9)
    options: Any = {"entropy_weight": 0.1, "return_grad": True}
    wanted = xent.cross_entropy(z, targets, **options)[1]
    columns, strided = np.empty_like(np.asfortranarray(z)), np.repeat(z, 2, 1)[:, ::2]
    assert xent.cross_entropy(z, targets, grad_out=columns, **options)[1] is columns
    assert xent.cross_entropy(strided, targets, grad_out=strided, **options)[1] is strided
    assert np.array_equal(columns, wanted)
    assert np.array_equal(strided, wanted)
