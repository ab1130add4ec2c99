"""Measurements beside those of an earlier run, ``--against FILE``: which cases have become slower.

Two runs meet different machines: clocks, neighbours, memory. What both have in common are the rivals: the median change of
their times, of the same versions, is taken for the machine's, and divides the changes of xent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

from xent.cli.bench.measure import Comparison
from xent.cli.bench.record import FORMAT, versions
from xent.cli.bench.table import SETTINGS, Table, format_time

#: A change is one where it exceeds this, and the noise of both runs.
LEAST_CHANGE = 0.03

#: What identifies a measurement: the case's name, threads, instruction set.
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """A case then and now; `ratio` is how many times as long it takes, `noise` what of that may be chance."""

    case: str
    workload: str
    seconds: tuple[float, float]
    ratio: float
    noise: float

    @property
    def verdict(self) -> str:
        """In a word; nothing where no change can be told from noise."""
        least = max(LEAST_CHANGE, self.noise)
        return (
            "slower" if self.ratio > 1 + least else "faster" if self.ratio < 1 / (1 + least) else ""
        )


@dataclass(frozen=True)
class Changes:
    """All cases that both runs have.

    `machine` is the median change of the rivals' times, 1 where the runs have none in common.
    """

    version: str
    date: str
    machine: float
    rivals: int
    cases: list[Change]

    @property
    def regressions(self) -> list[Change]:
        return [one for one in self.cases if one.verdict == "slower"]

    def summary(self) -> str:
        """Say what was compared, and what has become slower."""
        if not self.cases:
            return "No case of this run is among those of the earlier one."
        mean = prod(one.ratio for one in self.cases) ** (1 / len(self.cases))
        control = (
            f"{self.rivals} times of rivals changed by {self.machine:.2f}, which is taken for the machine's"
            if self.rivals
            else "no rival of the same version to tell the machine's change by"
        )
        slower = ", ".join(f"{one.case} ({one.ratio:.2f})" for one in self.regressions)
        return (
            f"Against xent {self.version} of {self.date}: {len(self.cases)} cases take {mean:.2f} times as long in the "
            f"geometric mean ({control}). Slower: {slower or 'none'}."
        )

    def table(self) -> Table:
        """Each case then and now."""
        return Table(
            ["case", "then", "now", "now / then", "noise", ""],
            [one.workload for one in self.cases],
            [
                [
                    one.case,
                    *map(format_time, one.seconds),
                    f"{one.ratio:.2f}",
                    f"{one.noise:.0%}",
                    one.verdict,
                ]
                for one in self.cases
            ],
        )


def load(path: Path) -> dict[str, Any]:
    """Read what ``--json`` has written.

    Raises
    ------
    ValueError
        The file is not one that ``--json`` of this format wrote.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a file of `bench --json`, format {FORMAT}")
    return content


def compare(earlier: Mapping[str, Any], measured: Sequence[Comparison]) -> Changes:
    """Compare measurements with those of an earlier run."""
    before: dict[Key, Any] = {
        (one["case"]["name"], *(one[name] for name in SETTINGS)): one for one in earlier["results"]
    }
    known = versions()
    same = {
        name
        for name, number in earlier["environment"]["versions"].items()
        if known.get(name) == number
    }
    pairs = [
        (one, before[key])
        for one in measured
        if (key := (one.case.name, *(getattr(one, name) for name in SETTINGS))) in before
    ]
    controls = [
        one.seconds[name] / was["seconds"][name]
        for one, was in pairs
        for name in same & one.seconds.keys() & was["seconds"].keys()
    ]
    machine = median(controls) if controls else 1.0
    return Changes(
        version=earlier["environment"]["xent"]["version"],
        date=earlier["date"],
        machine=machine,
        rivals=len(controls),
        cases=[
            Change(
                one.case.name,
                one.case.workload,
                (was["seconds"]["xent"], one.seconds["xent"]),
                one.seconds["xent"] / was["seconds"]["xent"] / machine,
                one.spread["xent"] + was["spread"]["xent"],
            )
            for one, was in pairs
        ],
    )
