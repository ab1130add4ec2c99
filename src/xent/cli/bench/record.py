"""Measurements as plain data, for ``--json``, and what they depend on besides the code."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xent
from xent.cli.bench.measure import Comparison, MemorySpeed, Relation
from xent.cli.bench.rivals import RIVALS
from xent.cli.bench.table import count
from xent.cli.info import cpu, cpus

#: Goes up when a key changes its meaning or goes away.
FORMAT = 1

DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def environment() -> dict[str, Any]:
    """Describe machine and software."""
    return {
        "cpu": cpu(),
        "cpus": cpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "xent": dict(xent.show_config()),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the rivals that are installed."""
    found = {}
    for name in RIVALS:
        try:
            found[name] = version(DISTRIBUTIONS.get(name, name))
        except PackageNotFoundError:
            continue
    return found


def description(memory: Sequence[MemorySpeed]) -> str:
    """Say in a paragraph where the figures are from."""
    about = environment()
    config = about["xent"]
    libraries = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    speeds = "; ".join(
        f"{count(one.threads)} read {one.read / 1e9:.1f} GB/s, copy {one.copy / 1e9:.1f} GB/s"
        for one in memory
    )
    return (
        f"{about['cpu']}, {about['cpus']} CPUs, {config['isa']}; xent {config['version']} "
        f"({config['compiler']}), Python {about['python']}, {libraries}. "
        f"Memory: {speeds} (read and written)."
    )


def save(
    path: Path,
    memory: Sequence[MemorySpeed],
    measured: Sequence[Comparison | Relation],
    failures: Sequence[str],
) -> None:
    """Write everything that was measured to a JSON file."""
    content = {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "memory": [asdict(one) for one in memory],
        "results": [_result(one) for one in measured],
        "failures": list(failures),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _result(measured: Comparison | Relation) -> dict[str, Any]:
    """One measurement, with what follows from it."""
    derived = (
        ("bandwidth", "yardstick", "memory_share", "fastest_rival", "speedup")
        if isinstance(measured, Comparison)
        else ("time_ratio", "bytes_ratio", "time_per_byte_ratio")
    )
    return {
        **asdict(measured),
        "bytes_moved": measured.case.bytes_moved,
        **{name: getattr(measured, name) for name in derived},
    }
