"""The metrics of logits that come in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

import xent
from xent._calibration import NOTHING, Reliability, Slope, best_temperature, slope
from xent.cli.bench.data import widened
from xent.metrics import Perplexity

Array = np.ndarray[Any, Any]

BINS = 15
TOP = 5
#: Parts of a sequence, for the loss by position.
PARTS = 100


class Evaluation:
    """Metrics at one temperature.

    Parameters
    ----------
    length : int
        Of a sequence: row i has the position i modulo this.
    ignore_index : int
        Rows with this target do not count.
    temperature : float
        What the logits are divided by.
    """

    def __init__(self, length: int, ignore_index: int, temperature: float = 1.0) -> None:
        self.length, self.ignore_index, self.temperature = length, ignore_index, temperature
        self.tokens, self.reliability = Perplexity(), Reliability(BINS)
        self.right, self.in_top = 0, 0
        self.losses, self.counts = np.zeros((2, max(1, min(PARTS, length))))

    def add(self, start: int, logits: Array, targets: Array, dtype: Any) -> None:
        """Add rows, of which the first has the number `start`."""
        found = xent.score(
            logits,
            targets,
            ignore_index=self.ignore_index,
            temperature=self.temperature,
            dtype=dtype,
        )
        counts = targets != self.ignore_index
        log_probs = found.log_prob[counts].astype(np.float64)
        right = found.argmax[counts] == targets[counts]
        with np.errstate(under="ignore"):
            confidence = np.exp(found.max_log_prob[counts].astype(np.float64))
        self.tokens.update_log_probs(log_probs)
        self.reliability.add(confidence, right)
        self.right += int(right.sum())
        self.in_top += int((found.rank[counts] < TOP).sum())
        parts = len(self.losses)
        position = (start + np.flatnonzero(counts)) % self.length * parts // self.length
        self.losses += np.bincount(position, -log_probs, parts)
        self.counts += np.bincount(position, minlength=parts)

    def report(self, size: int | None) -> dict[str, Any]:
        """Return the metrics as plain numbers; `size` is that of the text in bytes."""
        found = self.tokens.compute()._asdict()
        n = found["count"]
        if size is not None:
            found["bits_per_byte"] = found["bits_per_token"] * n / size
        shares = {"accuracy": self.right, f"top_{TOP}_accuracy": self.in_top}
        return (
            {"temperature": self.temperature}
            | found
            | {name: share / n if n else float("nan") for name, share in shares.items()}
            | {"calibration_error": self.reliability.error()}
        )

    def curves(self) -> dict[str, Any]:
        """Return the points of the two figures as lists."""
        bins = self.reliability
        with np.errstate(all="ignore"):
            return {
                "reliability": {
                    "edges": bins.edges.tolist(),
                    "rows": bins.weight.astype(int).tolist(),
                    "confidence": (bins.confidence / bins.weight).tolist(),
                    "accuracy": (bins.correct / bins.weight).tolist(),
                },
                "loss_by_position": {
                    "positions": (
                        np.arange(len(self.losses)) * self.length / len(self.losses)
                    ).tolist(),
                    "rows": self.counts.astype(int).tolist(),
                    "loss": (self.losses / self.counts).tolist(),
                },
            }


def temperature(passes: Any, ignore_index: int) -> float:
    """Return the temperature of the smallest loss; `passes` is called for each pass over all blocks."""

    def slope_at(t: float) -> Slope:
        total = NOTHING
        for _, logits, targets in passes(f"temperature {t:.4g}"):
            total = total.plus(slope(widened(logits), targets, None, ignore_index, t))
        return total

    return best_temperature(slope_at)
