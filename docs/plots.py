"""Draw the figures of theory.md and metrics.md: ``python docs/plots.py [FOLDER]``; FOLDER is docs/images by default.

Needs matplotlib: ``pip install matplotlib``. The same versions write the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

import xent
from xent import metrics

BLUE, ORANGE, GOLD, GREEN, GREY = "#08519c", "#d94801", "#fdae6b", "#238b45", "#737373"
SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xent",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def two_classes(margin: np.ndarray) -> np.ndarray:
    """Logits whose first class is above the second by `margin`."""
    return np.stack([margin, np.zeros_like(margin)], axis=-1)


def coin(axes: Any) -> None:
    """Cross-entropy of a coin against what it is believed to be."""
    p, believed = np.array([0.3, 0.7]), np.linspace(0.02, 0.98, 49)
    q = np.stack([believed, 1 - believed], axis=-1)
    loss = xent.cross_entropy(np.log(q), np.broadcast_to(p, q.shape), reduction="none")
    entropy = xent.cross_entropy(np.log(p), p)
    axes.plot(believed, loss, color=BLUE, label="cross-entropy H(p, q)")
    axes.axhline(entropy, color=ORANGE, linestyle="--", label="entropy H(p)")
    at = np.searchsorted(believed, 0.76)
    axes.annotate(
        "",
        (believed[at], loss[at]),
        (believed[at], entropy),
        arrowprops={"arrowstyle": "<->", "color": GREEN},
    )
    axes.text(believed[at] + 0.015, (loss[at] + entropy) / 2, "KL(p || q)", color=GREEN)
    axes.set(xlabel="q, the probability believed (p = 0.3)", ylabel="nats", ylim=(0, 3))
    axes.legend()


def derivatives(axes: Any) -> None:
    """Loss, gradient and Hessian of one row of two classes."""
    margin = np.linspace(-6, 6, 61)
    found = xent.cross_entropy(
        two_classes(margin), np.zeros(len(margin), int), reduction="none", return_hess=True
    )
    loss, grad, hess = found
    axes.plot(margin, loss, color=BLUE, label="loss, −log p")
    axes.plot(margin, grad[:, 0], color=ORANGE, label="gradient, p − 1")
    axes.plot(margin, hess[:, 0], color=GREEN, label="Hessian, p (1 − p)")
    axes.set(xlabel="logit of the target − logit of the other class", ylim=(-1.2, 4))
    axes.legend()


def relative_errors(margin: np.ndarray) -> dict[str, np.ndarray]:
    """Error of four float32 formulas for the loss of a row, against float64."""
    z = (two_classes(margin) + 20).astype(np.float32)
    targets = np.zeros(len(z), int)
    exact = xent.cross_entropy(z.astype(np.float64), targets, reduction="none")
    top = z.max(axis=1)
    with np.errstate(over="ignore"):
        formulas = {
            "log Σ exp(z) − z_y": np.log(np.exp(z).sum(axis=1)) - z[:, 0],
            "m + log Σ exp(z − m) − z_y": top
            + np.log(np.exp(z - top[:, None]).sum(axis=1))
            - z[:, 0],
            "−log softmax(z)_y": -np.log(xent.softmax(z, axis=1)[:, 0]),
            "log1p(rest) + (m − z_y)": xent.cross_entropy(z, targets, reduction="none"),
        }
        return {name: np.abs(loss - exact) / exact for name, loss in formulas.items()}


def stability(axes: Any) -> None:
    """What rounding to float32 leaves of the loss of a row that the model is sure of."""
    margin = np.linspace(0, 85, 171)
    for (name, error), color in zip(
        relative_errors(margin).items(), (GREY, ORANGE, GOLD, BLUE), strict=True
    ):
        # An error of 1: the loss came out as 0. Above: as infinity.
        axes.plot(margin, np.clip(error, 1e-9, 10), color=color, label=name)
    axes.set(
        xlabel="margin of the target: a loss of about exp(−margin)",
        ylabel="relative error (10: infinite)",
        yscale="log",
    )
    axes.legend(loc="center right")


def constant(loss_axes: Any, grad_axes: Any) -> None:
    """Adding a constant to the probability, and what becomes of the rows that are wrong."""
    margin = np.linspace(-30, 5, 71)
    targets = np.zeros(len(margin), int)
    loss, grad = xent.cross_entropy(
        two_classes(margin), targets, reduction="none", return_grad=True
    )
    loss_axes.plot(margin, loss, color=BLUE, label="−log p")
    grad_axes.plot(margin, -grad[:, 0], color=BLUE)
    p = xent.softmax(two_classes(margin), axis=1)[:, 0]
    for eps, color in ((1e-7, ORANGE), (1e-3, GOLD)):
        loss_axes.plot(margin, -np.log(p + eps), color=color, label=f"−log(p + {eps:g})")
        grad_axes.plot(margin, p * (1 - p) / (p + eps), color=color)
    for axes, what in ((loss_axes, "loss"), (grad_axes, "pull on the target's logit")):
        axes.set(xlabel="logit of the target − logit of the other class", ylabel=what)
    loss_axes.legend()


def temperature(axes: Any) -> None:
    """The softmax of one row at four temperatures."""
    logits = np.array([3.0, 2.0, 1.0, 0.0, -1.0])
    for k, (t, color) in enumerate(zip((0.5, 1, 2, 5), SHADES, strict=True)):
        p = xent.softmax(logits / t)
        axes.bar(np.arange(5) + 0.2 * k - 0.3, p, width=0.2, color=color, label=f"T = {t:g}")
    axes.set(xticks=range(5), xticklabels=[f"{z:g}" for z in logits])
    axes.set(xlabel="logit", ylabel="probability")
    axes.legend()


def options(smoothing_axes: Any, focal_axes: Any) -> None:
    """Label smoothing gives the margin an optimum; the focal loss forgets rows that are sure."""
    classes = 10
    margin = np.linspace(-2, 12, 71)
    logits = np.zeros((len(margin), classes))
    logits[:, 0] = margin
    targets = np.zeros(len(margin), int)
    for e, color in zip((0.0, 0.1, 0.3), SHADES, strict=False):
        loss = xent.cross_entropy(logits, targets, label_smoothing=e, reduction="none")
        smoothing_axes.plot(margin, loss, color=color, label=f"e = {e:g}")
        if e:
            best = np.log(classes * (1 - e) / e + 1)
            lowest = np.interp(best, margin, loss)
            smoothing_axes.plot(best, lowest, "o", color=color)
    smoothing_axes.set(xlabel="logit of the target − the nine others", ylabel="loss")
    smoothing_axes.set(title="Label smoothing", ylim=(0, 4.5))
    p = np.linspace(0.01, 0.99, 99)
    for gamma, color in zip((0.0, 0.5, 2.0, 5.0), SHADES, strict=True):
        loss = xent.focal_loss(
            two_classes(np.log(p / (1 - p))), np.zeros(len(p), int), gamma=gamma, reduction="none"
        )
        focal_axes.plot(p, loss, color=color, label=f"γ = {gamma:g}")
    focal_axes.set(xlabel="probability of the target", ylabel="loss", title="Focal loss")
    focal_axes.set(ylim=(0, 4.5))
    for axes in (smoothing_axes, focal_axes):
        axes.legend()


def calibration(axes: Any) -> None:
    """Confidence against accuracy of a model whose logits are too large, before and after its temperature."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 1.5, (20_000, 10))
    targets = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    logits = 2.5 * scores
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    for t, color in ((1.0, ORANGE), (metrics.fit_temperature(logits, targets), BLUE)):
        p = xent.softmax(logits / t, axis=1)
        confidence, right = p.max(axis=1), p.argmax(axis=1) == targets
        bins = np.ceil(confidence * 10).astype(int)
        points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in np.unique(bins)]
        error = metrics.expected_calibration_error(targets, p, n_bins=10)
        axes.plot(*np.transpose(points), "o-", color=color, label=f"T = {t:.2f}: ECE {error:.3f}")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend()


# Each with the number of its panels.
FIGURES: dict[Callable[..., None], int] = {
    coin: 1,
    derivatives: 1,
    stability: 1,
    constant: 2,
    temperature: 1,
    options: 2,
    calibration: 1,
}


def main(folder: Path) -> None:
    """Write every figure into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        for draw, panels in FIGURES.items():
            figure = Figure(figsize=(4.6 if panels == 1 else 8.4, 3.2), layout="constrained")
            draw(*np.ravel(figure.subplots(1, panels)))
            path = folder / f"{draw.__name__}.svg"
            # Without the date, so that drawing again changes nothing.
            figure.savefig(path, metadata={"Date": None})
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "images")
