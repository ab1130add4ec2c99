"""The command line, ``python -m xent``: one module per command."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

import xent
from xent.cli import bench, check, demo, info


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xent",
        description="Cross-entropy for NumPy, from the command line.",
        epilog="'python -m xent COMMAND --help' describes a command and its options.",
    )
    parser.add_argument("--version", action="version", version=f"xent {xent.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (bench, check, demo, info):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal's encoding may lack a character; that must not end the run.
        sys.stdout.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter's own flush at exit quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
