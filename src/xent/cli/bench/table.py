"""Measurements as a table: Markdown, or drawn by rich where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from xent.cli.bench.measure import Comparison, Relation
from xent.cli.bench.rivals import RIVALS

#: What may differ between measurements of one case.
SETTINGS = ("threads", "isa")


@dataclass(frozen=True)
class Table:
    """Rows of text under a header, each in the section that `sections` names.

    `optional` are the columns that a narrow terminal does without.
    """

    header: list[str]
    sections: list[str]
    rows: list[list[str]]
    optional: frozenset[str] = frozenset()

    def narrowed(self) -> Table:
        """Leave out the optional columns."""
        kept = [i for i, name in enumerate(self.header) if name not in self.optional]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, header=[self.header[i] for i in kept], rows=rows)

    def with_titles(self, title: str) -> list[list[str]]:
        """The rows, and before each section one with its name in a template."""
        lines: list[list[str]] = []
        numbered = enumerate(self.sections)
        for name, members in groupby(numbered, key=lambda pair: pair[1]):
            lines.append([title.format(name), *[""] * (len(self.header) - 1)])
            lines += [self.rows[number] for number, _ in members]
        return lines


def varying(measured: Sequence[Comparison | Relation]) -> list[str]:
    """Names of the settings that are not the same in all measurements."""
    return [name for name in SETTINGS if len({getattr(one, name) for one in measured}) > 1]


def setting(one: Comparison | Relation, names: Sequence[str]) -> str:
    """Some of the settings of a measurement in words."""
    words = {"threads": count(one.threads), "isa": one.isa}
    return ", ".join(words[name] for name in names)


def count(threads: int) -> str:
    """Number of threads in words."""
    return f"{threads} thread{'s' * (threads != 1)}"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Every library's time and what follows; rivals that nothing was timed on drop out."""
    rivals = [name for name in RIVALS if any(name in one.seconds for one in comparisons)]
    settings = varying(comparisons)
    return Table(
        ["case", *settings, "xent", *rivals, "fastest rival / xent", "GB/s", "share of roofline"],
        [one.case.workload for one in comparisons],
        [
            [
                one.case.name,
                *(str(getattr(one, name)) for name in settings),
                format_time(one.seconds["xent"]),
                *(format_time(one.seconds[n]) if n in one.seconds else "" for n in rivals),
                f"{one.speedup:.1f} ({one.fastest_rival})" if one.speedup else "",
                f"{one.bandwidth / 1e9:.1f}",
                f"{one.memory_share:.2f} ({one.yardstick})" if one.memory_share else "",
            ]
            for one in comparisons
        ],
        optional=frozenset(rivals),
    )


def relation_table(relations: Sequence[Relation]) -> Table:
    """Each case beside plain cross-entropy."""
    settings = varying(relations)
    ratios = ["time / plain", "bytes / plain", "time per byte / plain"]
    return Table(
        ["case", *settings, "time", "plain", *ratios],
        [one.case.workload for one in relations],
        [
            [
                one.case.name,
                *(str(getattr(one, name)) for name in settings),
                *map(format_time, one.seconds.values()),
                f"{one.time_ratio:.2f}",
                f"{one.bytes_ratio:.2f}",
                f"{one.time_per_byte_ratio:.2f}",
            ]
            for one in relations
        ],
    )


def format_time(seconds: float) -> str:
    """Three digits and a unit."""
    factor, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1, "s")
    value = float(f"{seconds * factor:.3g}")
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def markdown(table: Table) -> str:
    """Render the table as Markdown, aligned to be read in a terminal too."""
    rows = [table.header, *table.with_titles("**{}**")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join([f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in rows
    ]
    rule = [f"|{'-' * (widths[0] + 2)}|", *(f"{'-' * (width + 1)}:|" for width in widths[1:])]
    return "\n".join([lines[0], "".join(rule), *lines[1:]])


def show(table: Table) -> None:
    """Print the table, with rich where it is installed and a terminal is there to see it."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        print(markdown(table))
        return
    from rich.console import Console
    from rich.table import Table as RichTable

    def drawn(table: Table, wrap: bool) -> RichTable:
        lines = RichTable()
        for number, column in enumerate(table.header):
            lines.add_column(
                column, justify="right" if number else "left", no_wrap=not (wrap and number)
            )
        for row in table.with_titles("[bold]{}[/]"):
            lines.add_row(*row)
        return lines

    console = Console()
    if len(markdown(table).partition("\n")[0]) <= console.width:  # frames are equally wide
        console.print(drawn(table, wrap=False))
    else:
        console.print(drawn(table.narrowed(), wrap=True))
        print("Other rivals do not fit this terminal; --markdown and --json have them all.")
