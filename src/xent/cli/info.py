"""``python -m xent info``: what a bug report needs, as a table that can be pasted."""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import xent


def add_parser(commands: Any) -> None:
    """Add ``info`` to the commands of the parser."""
    parser = commands.add_parser(
        "info",
        help="show versions, the CPU and the build, for a bug report",
        description="Show versions, the CPU and how xent was built and runs, as a Markdown table.",
    )
    parser.set_defaults(run=run)


def cpu() -> str:
    """Return the name of the CPU, which the platform module knows on Windows alone."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        query = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def cpus() -> str:
    """Return how many of the machine's CPUs this process may use."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{usable} of {total}"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return _text(f"{name.replace('_', ' ')} {number}" for name, number in value.items())
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    return ", ".join(map(str, value))


def table(rows: dict[str, object]) -> str:
    """Return the rows as a Markdown table, aligned to be read in a terminal too."""
    cells = [(name, _text(value)) for name, value in rows.items()]
    left = max(len(name) for name, _ in cells)
    right = max(len(value) for _, value in cells)
    lines = [f"| {name:{left}} | {value:{right}} |" for name, value in cells]
    lines.insert(1, f"|{'-' * (left + 2)}|{'-' * (right + 2)}|")
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Return what a bug report needs to know of the machine and the build."""
    config: dict[str, object] = {**xent.show_config()}
    rows = {
        "xent": config.pop("version"),
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "NumPy": np.__version__,
        "platform": platform.platform(),
        "CPU": cpu(),
        "CPUs usable": cpus(),
    }
    return rows | {name.replace("_", " "): value for name, value in config.items()}


def run(_: argparse.Namespace) -> int:
    """Print the table."""
    print(table(machine()))
    return 0
