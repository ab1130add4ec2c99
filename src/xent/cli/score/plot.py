"""The figure of ``--plot``: confidence against accuracy, and the loss along a sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xent.cli.score.evaluation import Evaluation

BLUE, ORANGE, GREY = "#08519c", "#e08214", "#737373"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xent",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def draw(evaluations: list[Evaluation], path: Path) -> None:
    """Draw the logits as they are and, if there is a second evaluation, at their temperature."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        for one, color in zip(evaluations, (BLUE, ORANGE), strict=False):
            curves = one.curves()
            label = f"T = {one.temperature:.3g}, ECE {one.reliability.error():.3f}"
            points = curves["reliability"]
            left.plot(
                points["confidence"],
                points["accuracy"],
                "o-",
                color=color,
                label=label,
                markersize=4,
            )
            points = curves["loss_by_position"]
            drawn = np.array(points["rows"]) > 0
            right.plot(
                np.array(points["positions"])[drawn], np.array(points["loss"])[drawn], color=color
            )
        left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        right.set(xlabel="position", ylabel="loss, nats a token")
        left.legend()
        for axes in (left, right):
            axes.grid(True)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
