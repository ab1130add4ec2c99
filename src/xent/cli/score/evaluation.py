"""The metrics of logits that come in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from xent._calibration import Reliability, Slope, best_temperature, slope, sum_of
from xent.cli.bench.data import widened
from xent.metrics import Perplexity
from xent.scores import report

Array = np.ndarray[Any, Any]

BINS = 15
TOP = 5
#: Parts of a sequence, for the loss by position.
PARTS = 100
#: So many rows are summed at once: a block may have a few.
ROWS_AT_ONCE = 1 << 14


class Rows(NamedTuple):
    """What the metrics need of the rows of a block that count."""

    position: Array
    log_prob: Array
    confidence: Array
    right: Array
    in_top: Array


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
        self._waiting: list[Rows] = []

    def rows(self, start: int, logits: Array, targets: Array, dtype: Any) -> Rows:
        """Compute a block, of which the first row has the number `start`; changes nothing, so that threads can share it."""
        found = report(
            logits,
            targets,
            ignore_index=self.ignore_index,
            temperature=self.temperature,
            dtype=dtype,
            moments=False,
        )
        counts = np.flatnonzero(targets != self.ignore_index)
        with np.errstate(under="ignore"):
            confidence = np.exp(found.max_log_prob[counts])
        return Rows(
            (start + counts) % self.length,
            found.log_prob[counts],
            confidence,
            found.argmax[counts] == targets[counts],
            found.rank[counts] < TOP,
        )

    def add(self, rows: Rows) -> None:
        """Add the rows of a block."""
        self._waiting.append(rows)
        if sum(len(one.position) for one in self._waiting) >= ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Sum the rows that were added."""
        if not self._waiting:
            return
        rows = Rows(*map(np.concatenate, zip(*self._waiting, strict=True)))
        self._waiting = []
        self.tokens.update_log_probs(rows.log_prob)
        self.reliability.add(rows.confidence, rows.right)
        self.right += int(rows.right.sum())
        self.in_top += int(rows.in_top.sum())
        parts = len(self.losses)
        part = rows.position * parts // self.length
        self.losses -= np.bincount(part, rows.log_prob, parts)
        self.counts += np.bincount(part, minlength=parts)

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


def temperature(
    passes: Callable[[str, Callable[[int, Array, Array], Slope]], Iterable[Slope]],
    ignore_index: int,
) -> float:
    """Return the temperature of the smallest loss; `passes` calls a function with every block."""

    def slope_at(t: float) -> Slope:
        def of_block(_: int, logits: Array, targets: Array) -> Slope:
            return slope(widened(logits), targets, None, ignore_index, t)

        return sum_of(passes(f"temperature {t:.4g}", of_block))

    return best_temperature(slope_at)
