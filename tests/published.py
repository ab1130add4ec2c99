"""Losses of libraries that tests do not install, by their published formulas in float64 NumPy.

Each name says which function of which version it follows. What those functions do before the
formula (dtypes, checks, devices) and after it (gradients) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

Array = Any


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum exp(x), shifted."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def logsumexp(x: Array, axis: int | None = None) -> Array:
    """Log of the sum of exponentials, shifted."""
    top = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """Logits less their log-sum-exp."""
    return x - np.expand_dims(logsumexp(x, axis), axis)


def sigmoid(z: Array) -> Array:
    """Probability of yes."""
    return 1 / (1 + np.exp(-z))


def binary_cross_entropy(z: Array, t: Array) -> Array:
    """max(z, 0) - z t + log(1 + exp(-|z|)), as TensorFlow documents its own."""
    return np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))


# --- Keras 3.15.1: keras/src/losses/losses.py, loss.py; keras/src/backend/jax/nn.py ------------

EPSILON = 1e-7  # keras.config.epsilon()


def _log_probs(output: Array, from_logits: bool, axis: int) -> Array:
    if from_logits:
        return log_softmax(output, axis)
    return np.log(np.clip(output / output.sum(axis=axis, keepdims=True), EPSILON, 1 - EPSILON))


def _smooth(y_true: Array, smoothing: float, classes: int) -> Array:
    return y_true * (1 - smoothing) + smoothing / classes


def categorical_crossentropy(
    y_true: Array, y_pred: Array, from_logits: bool = False, label_smoothing: float = 0, axis=-1
) -> Array:
    y_true = _smooth(y_true, label_smoothing, y_pred.shape[axis])
    return -(y_true * _log_probs(y_pred, from_logits, axis)).sum(axis=axis)


def sparse_categorical_crossentropy(
    y_true: Array, y_pred: Array, from_logits: bool = False, ignore_class=None, axis: int = -1
) -> Array:
    counts = np.ones(y_true.shape, bool) if ignore_class is None else y_true != ignore_class
    log_probs = _log_probs(y_pred, from_logits, axis)
    at = np.expand_dims(np.where(counts, y_true, 0), axis)
    return np.where(counts, -np.take_along_axis(log_probs, at, axis).squeeze(axis), 0)


def categorical_focal_crossentropy(
    y_true: Array, y_pred: Array, alpha=0.25, gamma=2.0, from_logits: bool = False, axis: int = -1
) -> Array:
    p = np.exp(_log_probs(y_pred, from_logits, axis))
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return -(alpha * (1 - p) ** gamma * y_true * np.log(p)).sum(axis=axis)


def binary_crossentropy(
    y_true: Array, y_pred: Array, from_logits: bool = False, label_smoothing: float = 0, axis=-1
) -> Array:
    y_true = _smooth(y_true, label_smoothing, 2)
    if from_logits:
        return binary_cross_entropy(y_pred, y_true).mean(axis=axis)
    p = np.clip(y_pred, EPSILON, 1 - EPSILON)
    return -(y_true * np.log(p) + (1 - y_true) * np.log(1 - p)).mean(axis=axis)


def binary_focal_crossentropy(
    y_true: Array,
    y_pred: Array,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    axis: int = -1,
) -> Array:
    p = sigmoid(y_pred) if from_logits else y_pred
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    loss = -(y_true * np.log(clipped) + (1 - y_true) * np.log(1 - clipped))
    loss *= (1 - (y_true * p + (1 - y_true) * (1 - p))) ** gamma
    if apply_class_balancing:
        loss *= y_true * alpha + (1 - y_true) * (1 - alpha)
    return loss.mean(axis=axis)


def kl_divergence(y_true: Array, y_pred: Array) -> Array:
    y_true, y_pred = np.clip(y_true, EPSILON, 1), np.clip(y_pred, EPSILON, 1)
    return (y_true * np.log(y_true / y_pred)).sum(axis=-1)


def _keras_loss(function: Callable[..., Array]) -> Callable[..., Callable[..., Array]]:
    """The class of a loss function: `Loss.__call__`, `reduce_values` and `apply_mask`."""

    def configure(reduction: str = "sum_over_batch_size", **options: Any) -> Callable[..., Array]:
        def call(y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> Array:
            losses = function(y_true, y_pred, **options)
            rows = float(losses.size)
            if options.get("ignore_class") is not None:
                rows = np.count_nonzero(y_true != options["ignore_class"])
            if sample_weight is not None:
                losses = losses * sample_weight
            if reduction == "sum":
                return losses.sum()
            if reduction == "mean_with_sample_weight":
                assert sample_weight is not None
                return losses.sum() / sample_weight.sum()
            assert reduction == "sum_over_batch_size"
            return losses.sum() / rows

        return call

    return configure


keras = SimpleNamespace(
    losses=SimpleNamespace(
        BinaryCrossentropy=_keras_loss(binary_crossentropy),
        BinaryFocalCrossentropy=_keras_loss(binary_focal_crossentropy),
        CategoricalCrossentropy=_keras_loss(categorical_crossentropy),
        CategoricalFocalCrossentropy=_keras_loss(categorical_focal_crossentropy),
        KLDivergence=_keras_loss(kl_divergence),
        SparseCategoricalCrossentropy=_keras_loss(sparse_categorical_crossentropy),
        binary_crossentropy=binary_crossentropy,
        categorical_crossentropy=categorical_crossentropy,
        sparse_categorical_crossentropy=sparse_categorical_crossentropy,
    ),
    ops=SimpleNamespace(
        softmax=softmax,
        log_softmax=log_softmax,
        logsumexp=logsumexp,
        sigmoid=sigmoid,
        log_sigmoid=lambda x: -np.log1p(np.exp(-x)),
        one_hot=lambda x, num_classes, axis=-1: np.moveaxis(np.eye(num_classes)[x], -1, axis),
    ),
    utils=SimpleNamespace(to_categorical=lambda x, num_classes: np.eye(num_classes)[x]),
)

# --- TensorFlow 2.20: tf.nn, formulas of its API documentation --------------------------------

tensorflow = SimpleNamespace(
    keras=keras,
    nn=SimpleNamespace(
        softmax=softmax,
        softmax_cross_entropy_with_logits=lambda labels, logits: categorical_crossentropy(
            labels, logits, from_logits=True
        ),
        sparse_softmax_cross_entropy_with_logits=lambda labels, logits: (
            sparse_categorical_crossentropy(labels, logits, from_logits=True)
        ),
        sigmoid_cross_entropy_with_logits=lambda labels, logits: binary_cross_entropy(
            logits, labels
        ),
        weighted_cross_entropy_with_logits=lambda labels, logits, pos_weight: (
            -labels * np.log(sigmoid(logits)) * pos_weight
            - (1 - labels) * np.log(1 - sigmoid(logits))
        ),
    ),
)

# --- torchvision 0.28: torchvision/ops/focal_loss.py -------------------------------------------


def sigmoid_focal_loss(
    inputs: Array, targets: Array, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Array:
    p = sigmoid(inputs)
    p_t = p * targets + (1 - p) * (1 - targets)
    loss = binary_cross_entropy(inputs, targets) * (1 - p_t) ** gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return {"none": lambda: loss, "mean": loss.mean, "sum": loss.sum}[reduction]()


# --- timm 1.0.22: timm/loss/asymmetric_loss.py -------------------------------------------------


def AsymmetricLossMultiLabel(
    gamma_neg: float = 4, gamma_pos: float = 1, clip: float = 0.05, eps: float = 1e-8
) -> Callable[[Array, Array], Array]:
    def call(x: Array, y: Array) -> Array:
        xs_pos = sigmoid(x)
        xs_neg = np.minimum(1 - xs_pos + clip, 1)
        loss = y * np.log(np.maximum(xs_pos, eps)) + (1 - y) * np.log(np.maximum(xs_neg, eps))
        pt = xs_pos * y + xs_neg * (1 - y)
        return -(loss * (1 - pt) ** (gamma_pos * y + gamma_neg * (1 - y))).sum()

    return call


# --- Liger 0.8.2: liger_kernel/ops/cross_entropy.py, fused_linear_cross_entropy.py, kl_div.py, jsd.py


def LigerCrossEntropyLoss(
    weight: Array | None = None,
    ignore_index: int = -100,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
    return_z_loss: bool = False,
) -> Callable[[Array, Array], Any]:
    def call(x: Array, target: Array) -> Any:
        counts = target != ignore_index
        w = np.ones(x.shape[1]) if weight is None else weight
        if softcap is not None:
            x = softcap * np.tanh(x / softcap)
        lse, y = logsumexp(x, 1), np.where(counts, target, 0)
        eps = label_smoothing / x.shape[1]
        smooth = -eps * (x * w).sum(axis=1) + eps * lse * w.sum()
        loss = (1 - label_smoothing) * w[y] * (lse - x[np.arange(len(y)), y]) + smooth
        z_loss = lse_square_scale * lse**2
        loss, z_loss = np.where(counts, loss, 0), np.where(counts, z_loss, 0)
        if reduction == "mean":
            # Each by a divisor of its own.
            loss, z_loss = loss / w[y][counts].sum(), z_loss / np.count_nonzero(counts)
        if reduction != "none":
            loss, z_loss = loss.sum(), z_loss.sum()
        loss = loss + z_loss
        return SimpleNamespace(loss=loss, z_loss=z_loss) if return_z_loss else loss

    return call


def LigerFusedLinearCrossEntropyLoss(
    ce_weight: Array | None = None, **options: Any
) -> Callable[..., Any]:
    loss = LigerCrossEntropyLoss(ce_weight, **options)

    def call(lin_weight: Array, x: Array, target: Array, bias: Array | None = None) -> Any:
        return loss(x @ lin_weight.T + (0 if bias is None else bias), target)

    return call


def LigerKLDIVLoss(
    eps: float = 1e-10, reduction: str = "mean", log_target: bool = False
) -> Callable[[Array, Array], Array]:
    def call(y_pred: Array, y_true: Array) -> Array:
        log_true = y_true if log_target else np.log(np.maximum(y_true, eps))
        loss = (np.exp(y_true) if log_target else y_true) * (log_true - y_pred)
        return loss.mean() if reduction == "mean" else loss.sum() / len(y_pred)

    return call


def LigerJSD(beta: float) -> Callable[[Array, Array], Array]:
    """Of log-probabilities x of the student and y of the teacher: KL at the ends of beta, between them of the mixture."""

    def divergence(x: Array, y: Array) -> Array:
        p, q = np.exp(x), np.exp(y)
        if beta == 0:
            return (q * (y - x)).sum() / len(x)
        if beta == 1:
            return (p * (x - y)).sum() / len(x)
        mixture = np.log(beta * q + (1 - beta) * p)
        return (beta * q * (y - mixture) + (1 - beta) * p * (x - mixture)).sum() / len(x)

    return divergence


# --- TRL: trl/trainer/utils.py ----------------------------------------------------------------


def selective_log_softmax(logits: Array, index: Array) -> Array:
    several = index if index.ndim == logits.ndim else index[..., None]
    found = np.take_along_axis(log_softmax(logits), several, -1)
    return found if index.ndim == logits.ndim else found[..., 0]


def entropy_from_logits(logits: Array) -> Array:
    return -(softmax(logits) * log_softmax(logits)).sum(-1)


# --- vLLM: vllm/v1/sample/sampler.py -----------------------------------------------------------


class _Logprobs(NamedTuple):
    token_log_probs: Array
    token_rank: Array
    top_log_probs: Array


def gather_logprobs(logprobs: Array, num_logprobs: int, token_ids: Array) -> _Logprobs:
    own = np.take_along_axis(logprobs, token_ids[:, None], -1)
    return _Logprobs(own[:, 0], (logprobs >= own).sum(-1), -np.sort(-logprobs)[:, :num_logprobs])


# --- torchmetrics: functional/text/perplexity.py, functional/classification/calibration_error.py


def Perplexity(ignore_index: int | None = None) -> Callable[[Array, Array], Array]:
    def call(preds: Array, target: Array) -> Array:
        rows = -np.take_along_axis(log_softmax(preds), target[..., None], -1)[..., 0]
        return np.exp(rows[target != ignore_index].mean())

    return call


def MulticlassCalibrationError(
    num_classes: int, n_bins: int = 15
) -> Callable[[Array, Array], Array]:
    """The norm "l1", which is the default."""

    def call(preds: Array, target: Array) -> Array:
        confidences, predictions = preds.max(axis=1), preds.argmax(axis=1)
        boundaries = np.linspace(0, 1, n_bins + 1)
        bins = np.searchsorted(boundaries, confidences, side="right") - 1
        error = 0.0
        for b in np.unique(bins):
            within = bins == b
            gap = (predictions == target)[within].mean() - confidences[within].mean()
            error += abs(gap) * within.mean()
        return np.asarray(error)

    return call


# --- MONAI 1.5: monai/losses/dice.py, tversky.py ---------------------------------------------


def _positions(a: Array, batch: bool) -> tuple[int, ...]:
    return (0, *range(2, a.ndim)) if batch else tuple(range(2, a.ndim))


class MonaiDiceLoss:
    """1 - (2 sum p t + smooth_nr) / (sum t + sum p + smooth_dr), the mean of samples and classes."""

    def __init__(
        self,
        *,
        softmax: bool,
        include_background: bool = True,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
    ):
        self.first = 0 if include_background else 1
        self.smooth_nr, self.smooth_dr, self.batch = smooth_nr, smooth_dr, batch

    def __call__(self, logits: Array, target: Array) -> Array:
        p, t = softmax(logits, 1)[:, self.first :], target[:, self.first :]
        axes = _positions(p, self.batch)
        intersection, denominator = (p * t).sum(axes), t.sum(axes) + p.sum(axes)
        return np.mean(1 - (2 * intersection + self.smooth_nr) / (denominator + self.smooth_dr))


class MonaiTverskyLoss:
    """1 - (tp + smooth_nr) / (tp + alpha sum p (1 - t) + beta sum (1 - p) t + smooth_dr)."""

    def __init__(self, *, softmax: bool, alpha: float, beta: float):
        self.alpha, self.beta = alpha, beta

    def __call__(self, logits: Array, target: Array) -> Array:
        p, axes = softmax(logits, 1), _positions(logits, False)
        tp = (p * target).sum(axes)
        fp, fn = self.alpha * (p * (1 - target)).sum(axes), self.beta * ((1 - p) * target).sum(axes)
        return np.mean(1 - (tp + 1e-5) / (tp + fp + fn + 1e-5))


# --- segmentation_models_pytorch 0.5: losses/dice.py, tversky.py, _functional.py -----------------


class SmpTverskyLoss:
    """1 - (tp + smooth) / (tp + alpha fp + beta fn + smooth) over the batch, 0 of classes without targets."""

    def __init__(self, mode: str, smooth: float = 0.0, alpha: float = 0.5, beta: float = 0.5):
        assert mode == "multiclass"
        self.smooth, self.alpha, self.beta = smooth, alpha, beta

    def score(self, p: Array, t: Array) -> Array:
        tp = (p * t).sum((0, 2))
        fp, fn = (p * (1 - t)).sum((0, 2)), ((1 - p) * t).sum((0, 2))
        below = tp + self.alpha * fp + self.beta * fn + self.smooth
        return (tp + self.smooth) / np.maximum(below, 1e-7)

    def __call__(self, logits: Array, labels: Array) -> Array:
        samples, classes = logits.shape[:2]
        p = softmax(logits, 1).reshape(samples, classes, -1)
        t = np.moveaxis(np.eye(classes)[labels.reshape(samples, -1)], -1, 1)
        return np.mean((1 - self.score(p, t)) * (t.sum((0, 2)) > 0))


class SmpDiceLoss(SmpTverskyLoss):
    """1 - (2 sum p t + smooth) / (sum p + sum t + smooth), likewise."""

    def score(self, p: Array, t: Array) -> Array:
        below = (p + t).sum((0, 2)) + self.smooth
        return (2 * (p * t).sum((0, 2)) + self.smooth) / np.maximum(below, 1e-7)


# --- open_clip: src/open_clip/loss.py ------------------------------------------------------------


def _diagonal(scores: Array) -> Array:
    """Mean cross-entropy of rows whose target is the diagonal."""
    rows = np.arange(len(scores))
    return -log_softmax(scores)[rows, rows].mean()


def ClipLoss() -> Callable[[Array, Array, Any], Array]:
    def call(image_features: Array, text_features: Array, logit_scale: Any) -> Array:
        scores = logit_scale * image_features @ text_features.T
        return (_diagonal(scores) + _diagonal(scores.T)) / 2

    return call


def SigLipLoss() -> Callable[[Array, Array, Any, Any], Array]:
    def call(image: Array, text: Array, logit_scale: Any, logit_bias: Any) -> Array:
        labels = 2 * np.eye(len(image)) - 1
        z = labels * (logit_scale * image @ text.T + logit_bias)
        return binary_cross_entropy(z, np.ones_like(z)).sum() / len(image)

    return call


# --- sentence-transformers: losses/MultipleNegativesRankingLoss.py and its symmetric form --------


def MultipleNegativesRankingLoss(
    model: Callable[[Any], dict[str, Array]], scale: float = 20.0, symmetric: bool = False
) -> Callable[[list[Any], None], Array]:
    def call(sentence_features: list[Any], labels: None) -> Array:
        parts = [model(features)["sentence_embedding"] for features in sentence_features]
        unit = [a / np.sqrt((a**2).sum(axis=1, keepdims=True)) for a in parts]
        scores = unit[0] @ np.concatenate(unit[1:]).T * scale
        loss = _diagonal(scores)
        return (loss + _diagonal(scores[:, : len(scores)].T)) / 2 if symmetric else loss

    return call
