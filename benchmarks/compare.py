"""Compare `xent` with its rivals, interleaved, and print the table.

Usage::

    python benchmarks/compare.py                       every case
    python benchmarks/compare.py loss-512x50257 soft   these, and those with "soft" in the name
    python benchmarks/compare.py --markdown            the README's table
    python benchmarks/compare.py --relative grad-512   these, beside plain cross_entropy
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cases import CASES, Case, select
from measure import Comparison, Relation, compare, relate
from memory import Memory
from rivals import LIBRARIES, pin

#: Spread of the times from which on a median deserves a warning.
NOISY = 0.25


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="cases: names, patterns or parts of names")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--rivals", nargs="*", default=list(LIBRARIES)[1:], choices=list(LIBRARIES)[1:]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--markdown", action="store_true", help="print a Markdown table; of the README's cases"
    )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="time xent alone, beside plain cross_entropy of the same logits",
    )
    return parser.parse_args(argv)


def format_time(seconds: float) -> str:
    """Three digits and a unit."""
    factor, unit = (1e6, "µs") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1, "s")
    value = seconds * factor
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def table(comparisons: Sequence[Comparison], rivals: Sequence[str]) -> list[list[str]]:
    """Rows of the table, the first one its header; rivals that nothing was timed on drop out."""
    rivals = [name for name in rivals if any(name in c.seconds for c in comparisons)]
    rows = [["case", "xent", *rivals, "fastest rival / xent", "GB/s", "share of memory speed"]]
    for comparison in comparisons:
        seconds, rival = comparison.seconds, comparison.fastest_rival
        share = comparison.memory_share
        rows.append(
            [
                comparison.case.name,
                format_time(seconds["xent"]),
                *(format_time(seconds[name]) if name in seconds else "" for name in rivals),
                f"{comparison.speedup(rival):.1f} ({rival})" if rival else "",
                f"{comparison.bandwidth / 1e9:.1f}",
                f"{share:.2f} ({comparison.yardstick})" if share else "",
            ]
        )
    return rows


def relative_table(relations: Sequence[Relation]) -> list[list[str]]:
    """Rows of the table of cases beside plain cross-entropy, the first one its header."""
    rows = [["case", "time", "plain", "time / plain", "bytes / plain", "time per byte / plain"]]
    rows += [
        [
            relation.case.name,
            *map(format_time, relation.seconds.values()),
            f"{relation.time_ratio:.2f}",
            f"{relation.bytes_ratio:.2f}",
            f"{relation.time_per_byte_ratio:.2f}",
        ]
        for relation in relations
    ]
    return rows


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Render the table as Markdown."""
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    rule = "|---|" + "---:|" * (header.count("|") - 2)
    return "\n".join([header, rule, *body])


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print the table with rich where it is installed and a terminal is there to see it."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        print(markdown(rows))
        return
    from rich.console import Console
    from rich.table import Table

    rich_table = Table()
    for number, column in enumerate(rows[0]):
        rich_table.add_column(column, justify="right" if number else "left")
    for row in rows[1:]:
        rich_table.add_row(*row)
    Console().print(rich_table)


def warn(measured: Comparison | Relation) -> None:
    """Say which medians are of times too far apart to be trusted."""
    for name, spread in measured.spread.items():
        if spread > NOISY:
            print(
                f"  {name}: the middle half of its times spans {spread:.0%} of their median;"
                " is anything else running?",
                file=sys.stderr,
            )


def environment(threads: int) -> dict[str, object]:
    """Describe what the figures depend on besides the code."""
    import xent

    distributions = packages_distributions()
    versions = {
        name: version(distributions[name][0]) for name in LIBRARIES if name in distributions
    }
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions,
        "xent": str(xent.show_config()),
    }


def record(measured: Comparison | Relation) -> dict[str, object]:
    """One measurement as plain data for JSON, with what follows from it."""
    derived = (
        ("bandwidth", "memory_share", "fastest_rival")
        if isinstance(measured, Comparison)
        else ("time_ratio", "bytes_ratio", "time_per_byte_ratio")
    )
    return {
        **asdict(measured),
        "bytes_moved": measured.case.bytes_moved,
        **{name: getattr(measured, name) for name in derived},
    }


def progress(cases: Sequence[Case]) -> Iterator[Case]:
    """Say which case is under way."""
    for number, case in enumerate(cases, 1):
        print(f"[{number}/{len(cases)}] {case.name}", file=sys.stderr, flush=True)
        yield case


def main() -> None:
    """Measure what the command line asks for."""
    arguments = parse_arguments()
    threads, rounds = arguments.threads, arguments.rounds
    try:
        cases = select(arguments.names)
    except LookupError as error:
        sys.exit(str(error.args[0]))
    if arguments.list:
        print("\n".join(case.name for case in (cases if arguments.names else CASES)))
        return
    if arguments.relative:
        cases = [case for case in cases if case.plain not in (None, case)]
    elif arguments.markdown and not arguments.names:
        cases = [case for case in cases if case.readme]
    pin(threads)
    memory = Memory(threads)
    libraries = ["xent", *arguments.rivals]
    measured: list[Any] = []
    for case in progress(cases):
        measured.append(
            relate(case, threads, rounds)
            if arguments.relative
            else compare(case, memory, threads, rounds, libraries)
        )
        warn(measured[-1])
    rows = relative_table(measured) if arguments.relative else table(measured, arguments.rivals)
    if arguments.markdown:
        print(markdown(rows))
    else:
        show(rows)
    if arguments.json:
        results = {
            "environment": environment(threads),
            "results": [record(one) for one in measured],
        }
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
