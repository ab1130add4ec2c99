"""A process of its own to measure in, with the number of threads that it was started for.

Some libraries size their pool of threads once, by the CPUs that the process may use; so
each number of threads takes a new process, and the one that asks keeps all its CPUs.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

from xent.cli.bench.rivals import pin

P = ParamSpec("P")
R = TypeVar("R")


class WorkerError(Exception):
    """What a function raised in the other process, as text, or the end of that process."""


class Worker:
    """Calls functions in another process, one at a time; to be used in a ``with`` block."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, self._threads), daemon=True)
        self._process.start()
        end.close()

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns there.

        Raises
        ------
        WorkerError
            If the function raised anything, or the process ended; the next call has a new one.
        """
        try:
            self._connection.send((function, args, kwargs))
            result, error = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            self._start()
            raise WorkerError(
                f"the measuring process ended with code {code}; is there enough memory?"
            ) from None
        if error is not None:
            raise WorkerError(error)
        value: R = result
        return value

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, threads: int) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once, without a traceback
    pin(threads)
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        outcome: tuple[Any, str | None]
        try:
            outcome = function(*args, **kwargs), None
        except Exception as error:
            # As text: not every exception can be sent.
            outcome = None, f"{type(error).__name__}: {error}"
        connection.send(outcome)
