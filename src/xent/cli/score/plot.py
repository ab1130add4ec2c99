"""The figure of ``--plot``: confidence against accuracy, and the loss along a sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xent.cli.bench import plot as bench
from xent.cli.score.evaluation import Evaluation

#: Before and after the temperature, and what is ideal.
BLUE, ORANGE, GREY = (bench.COLOURS[name] for name in ("xent", "numpy", "jax"))
STYLE = bench.STYLE | {"axes.grid.axis": "both", "ytick.major.size": 3.5}


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
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
