"""``python -m xent bench``: how fast `xent` is on this machine, beside what else is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import xent
from xent import _core
from xent.cli.bench import against, record
from xent.cli.bench.case import Case
from xent.cli.bench.measure import (
    Comparison,
    MemorySpeed,
    Relation,
    compare,
    memory_speed,
    relate,
)
from xent.cli.bench.plot import draw
from xent.cli.bench.rivals import RIVALS, is_installed
from xent.cli.bench.table import comparison_table, markdown, relation_table, setting, show, varying
from xent.cli.bench.worker import Worker, WorkerError
from xent.cli.bench.workloads import CASES, TITLES, select
from xent.cli.terminal import INSTALL, at_least, output_file, plot_file, progress

#: Spread of the times from which on a median deserves a warning.
NOISY = 0.25
ROUNDS, QUICK_ROUNDS = 30, 3

_DESCRIPTION = """\
Measure how fast this machine reads and copies memory, then named cases, each with xent and with
NumPy, SciPy, scikit-learn, torch and JAX as far as they are installed. All take turns, medians
are compared, and results must be equal before anything is timed. A few minutes; --quick takes
less than one.
"""
_EPILOG = f"""\
docs/performance.md says how to read the figures. Only NumPy is needed; the progress bar and
--plot need the optional extra: {INSTALL}
"""


def add_parser(commands: Any) -> None:
    """Add ``bench`` to the commands of the parser."""
    parser = commands.add_parser(
        "bench",
        help="measure the speed here, against other libraries",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"a workload ({', '.join(TITLES)}), a case, a pattern, or a part of cases' names",
    )
    tier = parser.add_mutually_exclusive_group()
    tier.set_defaults(tier="usual")
    for name, meaning in (
        ("quick", f"fewer cases, {QUICK_ROUNDS} rounds: a first impression"),
        ("all", "every case, of each workload named or of all; takes an hour"),
    ):
        tier.add_argument(f"--{name}", dest="tier", action="store_const", const=name, help=meaning)
    parser.add_argument("--list", action="store_true", help="print workloads and cases, and stop")
    parser.add_argument(
        "--threads",
        type=at_least(1),
        nargs="+",
        metavar="N",
        default=[xent.get_num_threads()],
        help="threads of every library (default: what xent uses here); several are compared",
    )
    parser.add_argument(
        "--isa",
        nargs="+",
        choices=_core.isas(),
        default=[_core.isa()],
        help="instruction sets for xent (default: the best); several are compared",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), metavar="N", help=f"turns of each library (default {ROUNDS})"
    )
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=list(RIVALS),
        default=list(RIVALS),
        help="the libraries to compare with (default: all that are installed)",
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="compare with what --json wrote earlier; the exit status is 1 where a case is slower",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw the figures (PNG, SVG or PDF)"
    )
    form.add_argument(
        "--relative",
        action="store_true",
        help="time xent alone, beside its plain cross_entropy of the same logits",
    )


def run(options: argparse.Namespace) -> int:
    """Measure what the command line asks for, and report it."""
    try:
        cases = select(options.names, options.tier)
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    if options.list:
        list_cases(cases if options.names else CASES)
        return 0
    if options.relative:
        cases = [case for case in cases if case.plain not in (None, case)]
        if not cases:
            print("error: none of these has a plain cross-entropy beside it", file=sys.stderr)
            return 2
    earlier = None
    if options.against:
        try:
            earlier = against.load(options.against)
        except ValueError as error:
            print(f"error: --against: {error}", file=sys.stderr)
            return 2
        if options.relative:
            print("error: --against compares times, of which --relative has none", file=sys.stderr)
            return 2
    try:
        memory, measured, failures = measure(cases, options)
    except WorkerError as error:  # not of a case, but of the memory
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(record.description(memory), end="\n\n")
    if measured:
        table = relation_table(measured) if options.relative else comparison_table(measured)
        if options.markdown:
            print(markdown(table))
        else:
            show(table)
    regressions: list[against.Change] = []
    if earlier is not None:
        changes = against.compare(earlier, measured)
        regressions = changes.regressions
        print()
        show(changes.table())
        print(changes.summary())
    sys.stdout.flush()
    for note in (*notes(measured, options.rivals), *failures):
        print(note, file=sys.stderr)
    if options.json:
        record.save(options.json, memory, measured, failures)
    if options.plot and measured:
        draw(measured, memory, options.plot)
    return 1 if failures or regressions else 0


def list_cases(cases: Sequence[Case]) -> None:
    """Print the names by workload, and which of them are usual or quick."""
    width = max(len(case.name) for case in cases)
    for workload, members in groupby(cases, key=lambda case: case.workload):
        print(f"{workload}: {TITLES[workload]}")
        for case in members:
            tier = "" if case.tier == "all" else case.tier
            print(f"  {case.name:{width}}  {tier}".rstrip())


def measure(
    cases: Sequence[Case], options: argparse.Namespace
) -> tuple[list[MemorySpeed], list[Any], list[str]]:
    """Measure the memory and every case with each setting.

    Returns
    -------
    memory : list of MemorySpeed
        One for each number of threads.
    measured : list of Comparison, or of Relation
        In the order of the cases.
    failures : list of str
        What could not be measured, and where results differed.
    """
    rounds = options.rounds or (QUICK_ROUNDS if options.tier == "quick" else ROUNDS)
    memory, failures = [], []
    measured: dict[tuple[int, int, str], Comparison | Relation] = {}
    total = len(options.threads) * len(options.isa) * len(cases)
    with progress("memory", total, sys.stderr) as advance:
        for threads in options.threads:
            with Worker(threads) as worker:
                memory.append(worker(memory_speed, threads))
                for isa in options.isa:
                    for number, case in enumerate(cases):
                        advance(0, case.name)
                        try:
                            measured[number, threads, isa] = (
                                worker(relate, case, threads, isa, rounds)
                                if options.relative
                                else worker(compare, case, threads, isa, rounds, options.rivals)
                            )
                        except WorkerError as error:
                            failures.append(f"error: {case.name}: {error}")
                        advance()
    results = [measured[key] for key in sorted(measured)]
    comparisons = [one for one in results if isinstance(one, Comparison)]
    return [one.settled(comparisons) for one in memory], results, failures


def notes(measured: Sequence[Comparison | Relation], rivals: Sequence[str]) -> list[str]:
    """What to know before the figures are believed."""
    found = []
    missing = [name for name in rivals if not is_installed(name)]
    if missing:
        found.append(f"Not installed, so not compared with: {', '.join(missing)}.")
    noisy = []
    for one in measured:
        name = " ".join(filter(None, [one.case.name, setting(one, varying(measured))]))
        if isinstance(one, Comparison):
            found += [f"{name} without {rival}: {why}" for rival, why in one.left_out.items()]
            compared = {"xent", one.fastest_rival}
        else:
            compared = set(one.spread)
        if max(width for who, width in one.spread.items() if who in compared) > NOISY:
            noisy.append(name)
    if noisy:
        found.append(
            f"Noisy, the middle half of the times spans more than {NOISY:.0%} of their median; "
            f"is anything else running? {', '.join(noisy)}"
        )
    return found
