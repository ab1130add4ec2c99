"""The command line, ``python -m xent``: one module per command."""

import argparse
import codecs
import io
import os
import sys
from collections.abc import Sequence

import xent
from xent.cli import bench, check, demo, info, score


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m xent",
        description="Cross-entropy for NumPy, from the command line.",
        epilog="'python -m xent COMMAND --help' describes a command and its options.",
    )
    parser.add_argument("--version", action="version", version=f"xent {xent.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (bench, check, demo, info, score):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The terminal's encoding may lack a character; that must not end the run.
            stream.reconfigure(errors="spelled")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        # A full disk, or a reader (head, less) that has gone: keep the interpreter's own flush at exit quiet too.
        if not isinstance(error, BrokenPipeError):
            print(f"python -m xent: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


# What letters and signs are spelled as where they cannot be shown.
_SPELLED = {"µ": "u", "…": "...", "×": "x", "²": "^2"}


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SPELLED.get(letter, "?") for letter in text), error.end
