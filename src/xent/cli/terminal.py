"""What the commands share: checked arguments, and a progress bar where there can be one."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

INSTALL = "pip install rich matplotlib"


def at_least(smallest: int) -> Callable[[str], int]:
    """Return the type of an argument: an integer that is not below the smallest."""

    def integer(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value} is below {smallest}")
        return value

    return integer


def output_file(text: str) -> Path:
    """Refuse, before the work, what could not be written after it."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text}")
    return path


def plot_file(text: str) -> Path:
    """Refuse what matplotlib could not write, too."""
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(f"needs matplotlib: {INSTALL}")
    if Path(text).suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise argparse.ArgumentTypeError(f"{text} does not end in .png, .svg or .pdf")
    return output_file(text)


class Advance(Protocol):
    """Moves the bar on by some steps, and says what comes next if that is given."""

    def __call__(self, steps: int = 1, task: str | None = None) -> None: ...


@contextmanager
def progress(task: str, total: int, file: TextIO | None = None) -> Iterator[Advance]:
    """Yield a function that advances the progress bar; without a bar, it prints what comes next.

    The bar is drawn on `file`, standard output if None, where that is a terminal.
    """
    file = file or sys.stdout
    if importlib.util.find_spec("rich") is None or not file.isatty():
        done = 0

        def advance(steps: int = 1, task: str | None = None) -> None:
            nonlocal done
            done += steps
            if task is not None:
                print(f"[{done + 1}/{total}] {task}", file=file, flush=True)

        yield advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (
        "[progress.description]{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=file), transient=True) as bar:
        key = bar.add_task(task, total=total)
        yield lambda steps=1, task=None: bar.update(key, advance=steps, description=task)
