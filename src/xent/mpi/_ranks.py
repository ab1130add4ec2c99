"""What ranks agree on before anything depends on it: errors, arguments, and which classes each of them holds."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from threading import current_thread, main_thread
from typing import Any, NamedTuple, Self

import numpy as np
from mpi4py import MPI

from xent._arguments import described
from xent.stages import size

Array = np.ndarray[Any, Any]

# What a rank says first: whether it failed, the digest of what must be the same on every rank, how many classes it holds and
# the number of the first of them.
HEADER = np.dtype([("failed", "u1"), ("arguments", "V16"), ("count", "i8"), ("offset", "i8")])
NO_OFFSET = -1


class Slice(NamedTuple):
    """The classes that a rank holds, those of all ranks in the order of their ranks, and how many there are."""

    begin: int
    end: int
    ranks: list[tuple[int, int]]
    num_classes: int

    @property
    def arguments(self) -> dict[str, Any]:
        """What the stages are to be told of the slice."""
        return {"class_offset": self.begin, "num_classes": self.num_classes}


class Classes:
    """How many classes a rank holds, and the number of the first of them, if it was given."""

    def __init__(self, count: int, class_offset: Any):
        self.count = count
        self.offset = None if class_offset is None else size(class_offset, "class_offset", 0)


class Call(NamedTuple):
    """A call as one rank has validated it."""

    rows: Any
    options: dict[str, Any]  # the same on every rank
    same_rows: dict[str, Any]  # the same on every rank that holds other classes of the same rows
    classes: Classes


class Interrupts:
    """Ctrl-C between `begin` and `end`: raised where ranks can be told of it, never between exchanges."""

    def __init__(self) -> None:
        self.waiting, self.open = False, False
        self.before: Any = None

    def begin(self) -> None:
        if current_thread() is main_thread() and callable(
            before := signal.getsignal(signal.SIGINT)
        ):
            self.before = before
            signal.signal(signal.SIGINT, self.arrived)

    def end(self) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
            self.raise_waiting()

    def arrived(self, *signal_and_frame: Any) -> None:
        if self.open:
            self.before(*signal_and_frame)
        else:
            self.waiting = True

    def raise_waiting(self) -> None:
        if self.waiting:
            self.waiting = False
            self.before(signal.SIGINT, None)


class Ranks:
    """One communicator in one call: what this rank has raised, and the exchanges that tell it to the others."""

    def __init__(self, comm: MPI.Intracomm, interrupts: Interrupts):
        self.comm, self.interrupts = comm, interrupts
        self.error: BaseException | None = None

    def attempt(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, or keep what it raises for the next exchange and return None, as from then on."""
        if self.error is not None:
            return None
        try:
            self.interrupts.open = True
            self.interrupts.raise_waiting()
            found = work()
            self.interrupts.open = False
        except BaseException as raised:
            self.interrupts.open = False
            self.error = portable(raised)
            return None
        return found

    def gather(self, own: Array, every: Array) -> None:
        """Send bytes, the first of which is free, to all ranks, or raise on each what the first that failed has raised."""
        own[0] = self.error is not None
        self.comm.Allgather(own, every)
        if every[:, 0].any():
            self.raise_first()

    def agree(self) -> None:
        """Go on, or raise on every rank what the first that failed has raised."""
        self.gather(np.zeros(1, "u1"), np.empty((self.comm.size, 1), "u1"))

    def raise_own(self) -> None:
        """Raise what this rank has kept."""
        own, self.error = self.error, None
        if own is not None:
            raise own

    def raise_first(self) -> None:
        own, self.error = self.error, None
        rank, error = next((i, e) for i, e in enumerate(self.comm.allgather(own)) if e is not None)
        raise own if own is not None and rank == self.comm.rank else error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block on every rank, or raise on each what was raised on one.

        What the block raises before or between its exchanges must be the same on every rank.
        """
        try:
            yield
            self.raise_own()
        except BaseException as raised:
            self.error = portable(raised)
        self.agree()


class Grid:
    """The ranks that hold other classes of the same rows, and, if given, those that hold the same classes of other rows."""

    def __init__(self, comm: Any, row_comm: Any):
        self.comm = communicator(comm, "comm")
        self.interrupts = Interrupts()
        self.columns = Ranks(self.comm, self.interrupts)
        self.row_comm = None if row_comm is None else communicator(row_comm, "row_comm")
        self.rows = None if self.row_comm is None else Ranks(self.row_comm, self.interrupts)
        self.shared: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.interrupts.begin()
        return self

    def __exit__(self, *raised: object) -> None:
        self.interrupts.end()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block on every rank of the grid, or raise on each what was raised on one."""
        if self.rows is None:
            with self.columns.together():
                yield
            return
        with self.rows.together(), self.columns.together():
            yield

    def over_rows(self, count: int, work: Callable[[], Any]) -> list[float]:
        """Return the sums of the numbers that `work` returns over the ranks that hold other rows, in the order of these.

        What `work` raises reaches the ranks that hold other rows. Where there are none, what this rank has kept of it is
        still to be exchanged, and the numbers are NaN.
        """
        if self.row_comm is None:
            return list(work() or [np.nan] * count)
        error, found = None, None
        try:
            with self.columns.together():
                found = work()
        except BaseException as raised:
            error = raised
        given = self.row_comm.allgather((error, self.shared, found))
        for failed, _, _ in given:
            if failed is not None:
                raise failed
        same([shared for _, shared, _ in given])
        return [
            float(np.sum(a, dtype=np.longdouble))
            for a in zip(*(numbers for _, _, numbers in given), strict=True)
        ]

    def agree(self, validate: Callable[[], Call]) -> Any:
        """Return the rows of a call that every rank of `comm` has validated, with arguments that fit each other."""
        own, every = np.zeros(1, HEADER), np.empty(self.comm.size, HEADER)

        def fill() -> tuple[Call, dict[str, Any]]:
            call = validate()
            arguments = call.options | call.same_rows
            own["arguments"] = np.void(digest_of(repr(arguments).encode()))
            own["count"] = call.classes.count
            own["offset"] = NO_OFFSET if call.classes.offset is None else call.classes.offset
            return call, arguments

        filled = self.columns.attempt(fill)
        self.columns.gather(own.view("u1"), every.view("u1").reshape(self.comm.size, -1))
        call, arguments = filled
        if (every["arguments"] != every["arguments"][0]).any():
            same(self.comm.allgather(arguments))
        self.shared, self.header = call.options, every
        return call.rows

    def place(self) -> Slice:
        """Return the slice of this rank; raise, on every rank alike, if slices do not fit each other."""
        given = zip(self.header["count"].tolist(), self.header["offset"].tolist(), strict=True)
        ranks = slices([(count, None if at == NO_OFFSET else at) for count, at in given])
        begin, end = ranks[self.comm.rank]
        self.shared = self.shared | {"class_offset": ranks}
        return Slice(begin, end, ranks, max(end for _, end in ranks))


def communicator(comm: Any, name: str) -> MPI.Intracomm:
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(
            f"{name}: expected an intracommunicator of mpi4py, such as MPI.COMM_WORLD; got {described(comm)}"
        )
    if comm == MPI.COMM_NULL:
        raise ValueError(
            f"{name}: expected a communicator of which this process is a rank; got MPI.COMM_NULL"
        )
    return comm


def portable(error: BaseException) -> BaseException:
    """Return the exception, or one that says the same where it cannot be pickled; a note tells its rank."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not getattr(error, "__notes__", None):
        error.add_note(f"raised on rank {MPI.COMM_WORLD.rank} of MPI.COMM_WORLD")
    return error


def digest(a: Any, shape: tuple[int, ...]) -> bytes | None:
    """Return what tells an array, broadcast to `shape`, from others."""
    if a is None:
        return None
    return digest_of(np.ascontiguousarray(np.broadcast_to(a, shape)))


def digest_of(content: Any) -> bytes:
    return blake2b(content, digest_size=16).digest()


def same(of_ranks: list[dict[str, Any]]) -> None:
    """Raise if arguments differ between ranks."""
    first, *others = of_ranks
    for rank, theirs in enumerate(others, 1):
        for name, value in theirs.items():
            if name in first and value != first[name]:
                they = (
                    f"those of rank {rank} are others than those of rank 0"
                    if isinstance(value, bytes) or isinstance(first[name], bytes)
                    else f"rank {rank} has {value!r}, rank 0 {first[name]!r}"
                )
                raise ValueError(f"{name}: {they}; expected the same on every rank")


def slices(given: list[tuple[int, int | None]]) -> list[tuple[int, int]]:
    """Return where the classes of each rank begin and end, from their numbers and offsets."""
    absent = [rank for rank, (_, offset) in enumerate(given) if offset is None]
    if absent and len(absent) < len(given):
        raise ValueError(
            f"class_offset: not given on rank {absent[0]}; expected it on every rank, or on none"
        )
    found, end = [], 0
    for classes, offset in given:
        begin = end if offset is None else offset
        end = begin + classes
        found.append((begin, end))
    end = 0
    for rank in in_order(found):
        begin = found[rank][0]
        if begin != end:
            raise ValueError(
                f"class_offset: the classes of rank {rank} begin at {begin}, those before them end at {end}: expected "
                f"neither a gap nor an overlap"
            )
        end = found[rank][1]
    return found


def in_order(ranks: list[tuple[int, int]]) -> list[int]:
    """Return the ranks in the order of their classes."""
    return sorted(range(len(ranks)), key=ranks.__getitem__)
