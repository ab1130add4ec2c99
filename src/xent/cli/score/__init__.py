"""``python -m xent score``: perplexity, accuracy and calibration of logits on disk, larger than memory."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from xent._predictions import outside
from xent.cli.score.arrays import Array, BadInput, Stored, T, map_blocks, rows_of_block
from xent.cli.score.evaluation import TOP, Evaluation, temperature
from xent.cli.score.plot import draw
from xent.cli.terminal import INSTALL, at_least, output_file, plot_file, progress

FLOATS = ("float16", "float32", "float64")
BFLOAT16 = "bfloat16"

_DESCRIPTION = """\
Score the logits of a model against the classes or tokens that were observed: loss, perplexity,
bits per byte, accuracy, calibration. FILE and TARGETS are arrays of numpy.save, or folders of
them, which are joined in the order of their names, part2 before part10. Logits have the classes on the last axis,
targets the other axes. They are read in blocks, so that files may be larger than memory.
"""
_EPILOG = f"""\
The exit status is 2 if the files cannot be scored. The progress bar and --plot need the
optional extra: {INSTALL}
"""


def add_parser(commands: Any) -> None:
    """Add ``score`` to the commands of the parser."""
    parser = commands.add_parser(
        "score",
        help="perplexity, accuracy and calibration of logits in .npy files",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("logits", type=Path, metavar="FILE", help="logits, of any size")
    parser.add_argument("targets", type=Path, metavar="TARGETS", help="class indices")
    parser.add_argument(
        "--bytes", type=at_least(1), metavar="N", help="size of the text, for bits per byte"
    )
    parser.add_argument(
        "--ignore-index",
        type=int,
        default=-100,
        metavar="N",
        help="rows with this target do not count (default -100)",
    )
    parser.add_argument(
        "--fit-temperature",
        action="store_true",
        help="find the temperature of the smallest loss, and score at it too; reads the file some six times more",
    )
    parser.add_argument(
        "--dtype", choices=[BFLOAT16], help="read uint16 logits as the bits of bfloat16 numbers"
    )
    parser.add_argument("--json", type=output_file, metavar="PATH", help="write the report as JSON")
    parser.add_argument(
        "--plot",
        type=plot_file,
        metavar="PATH",
        help="draw reliability and loss by position (PNG, SVG or PDF)",
    )


class Task:
    """What is to be scored, validated before anything is read."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.logits, self.targets = Stored(options.logits), Stored(options.targets)
        self.ignore_index: int = options.ignore_index
        # numpy.save writes the bfloat16 of ml_dtypes as two bytes without a type.
        bits = options.dtype == BFLOAT16 and self.logits.dtype == np.uint16
        self.dtype = BFLOAT16 if bits or self.logits.dtype.str == "|V2" else None
        shape = self.logits.shape
        if self.dtype is None and self.logits.dtype.name not in FLOATS:
            also = ", or uint16 with --dtype bfloat16"
            raise BadInput(
                f"{self.logits.path}: dtype {self.logits.dtype} is not accepted; expected {', '.join(FLOATS)}{also}"
            )
        if self.targets.dtype.kind not in "iu":
            raise BadInput(
                f"{self.targets.path}: dtype {self.targets.dtype} is not accepted for class indices; expected integers"
            )
        if len(shape) < 2 or shape[-1] == 0:
            raise BadInput(
                f"{self.logits.path}: shape {shape} has no axis of classes behind one of rows"
            )
        if self.targets.shape != shape[:-1]:
            raise BadInput(
                f"{self.targets.path}: shape {self.targets.shape} does not fit logits of shape {shape}; "
                f"expected {shape[:-1]}"
            )
        # Of (N, C) logits all rows are one sequence.
        self.length = max(1, shape[-2])

    def passes(self, name: str, function: Callable[[int, Array, Array], T]) -> Iterator[T]:
        """Yield what a function makes of every block, which is validated first, under a progress bar."""

        def validated(start: int, logits: Array, targets: Array) -> T:
            bad = outside(targets, logits.shape[1], self.ignore_index)
            if bad >= 0:
                where = ", ".join(map(str, np.unravel_index(start + bad, self.targets.shape)))
                raise BadInput(
                    f"{self.targets.path}: targets[{where}] = {targets[bad]} is not a class; expected "
                    f"0 <= target < {logits.shape[1]} or the ignored {self.ignore_index}"
                )
            return function(start, logits.view(np.uint16) if self.dtype else logits, targets)

        total = -(-prod(self.targets.shape) // rows_of_block(self.logits))
        with progress(name, total) as advance:
            for found in map_blocks(validated, self.logits, self.targets):
                yield found
                advance()

    def evaluation(self, t: float = 1.0) -> Evaluation:
        """Read everything once, and return the metrics at a temperature."""
        found = Evaluation(self.length, self.ignore_index, t)
        for rows in self.passes("scoring", partial(found.rows, dtype=self.dtype)):
            found.add(rows)
        found.flush()
        return found


def run(options: argparse.Namespace) -> int:
    """Score, and print the results."""
    try:
        task = Task(options)
        began = time.perf_counter()
        evaluations = [task.evaluation()]
        seconds = time.perf_counter() - began
        if options.fit_temperature:
            t = temperature(task.passes, task.ignore_index)
            if 0 < t < math.inf:
                evaluations.append(task.evaluation(t))
            else:
                print(f"No temperature has the smallest loss: it falls towards T = {t:g}.")
    except BadInput as error:
        print(f"python -m xent score: {error}", file=sys.stderr)
        return 2
    reports = [one.report(options.bytes) for one in evaluations]
    size = task.logits.nbytes
    print(f"Logits       {task.logits.path}: {task.dtype or task.logits.dtype} {task.logits.shape}")
    print(f"Targets      {reports[0]['count']:,} of {prod(task.targets.shape):,} rows count")
    print(f"Read         {size / 1e9:.3g} GB in {seconds:.2f} s, {size / 1e9 / seconds:.3g} GB/s")
    for report in reports:
        print(f"\n{table(report)}")
    if options.json:
        content = {
            "logits": str(task.logits.path),
            "targets": str(task.targets.path),
            "shape": task.logits.shape,
            "dtype": task.dtype or str(task.logits.dtype),
            "bytes": options.bytes,
            "results": [
                report | one.curves() for report, one in zip(reports, evaluations, strict=True)
            ],
        }
        options.json.write_text(json.dumps(_without_nan(content), indent=1) + "\n")
    if options.plot:
        draw(evaluations, options.plot)
    return 0


def table(report: dict[str, Any]) -> str:
    """Return the metrics, a line for each."""
    lines = [
        ("Temperature", f"{report['temperature']:.6g}"),
        ("Loss", f"{report['loss']:.6f} nats a token, standard error {report['stderr']:.2g}"),
        ("Perplexity", f"{report['perplexity']:.6g}"),
        ("Bits", f"{report['bits_per_token']:.6f} a token"),
        (
            "Accuracy",
            f"{report['accuracy']:.4%}, of the top {TOP} {report[f'top_{TOP}_accuracy']:.4%}",
        ),
        ("Calibration", f"expected error {report['calibration_error']:.6f}"),
    ]
    if report["bits_per_byte"] is not None:
        lines[3] = ("Bits", f"{lines[3][1]}, {report['bits_per_byte']:.6f} a byte")
    return "\n".join(f"{name:12} {text}" for name, text in lines)


def _without_nan(value: Any) -> Any:
    """Return what JSON can hold: null for NaN and infinities."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
