"""What ranks agree on before anything depends on it: errors, arguments, and which classes each of them holds."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from xent._arguments import described
from xent.stages import size

Array = np.ndarray[Any, Any]


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


class Grid:
    """The ranks that hold other classes of the same rows, and, if given, those that hold the same classes of other rows."""

    def __init__(self, comm: Any, row_comm: Any):
        self.comm = communicator(comm, "comm")
        self.row_comm = None if row_comm is None else communicator(row_comm, "row_comm")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block on every rank of the grid, or raise on each what was raised on one."""
        with ExitStack() as stack:
            if self.row_comm is not None:
                stack.enter_context(together(self.row_comm))
            stack.enter_context(together(self.comm))
            yield

    def over_rows(self, *numbers: float) -> list[float]:
        """Return the sums of numbers over the ranks that hold other rows, in the order of these."""
        if self.row_comm is None:
            return list(numbers)
        return [
            float(np.sum(a, dtype=np.longdouble))
            for a in zip(*self.row_comm.allgather(numbers), strict=True)
        ]

    def agree(self, options: dict[str, Any], rows: dict[str, Any], classes: Classes) -> Slice:
        """Return the slice of this rank; raise on every rank alike if arguments differ or slices do not fit each other."""
        if self.row_comm is None:
            return self.slice_of(options | rows, classes)
        with self.together():
            found = self.slice_of(options | rows, classes)
        shared = options | {"classes": (found.begin, found.end), "num_classes": found.num_classes}
        with self.together():
            same(self.row_comm.allgather(shared))
        return found

    def slice_of(self, arguments: dict[str, Any], classes: Classes) -> Slice:
        given = self.comm.allgather((arguments, (classes.count, classes.offset)))
        same([arguments for arguments, _ in given])
        ranks = slices([each for _, each in given])
        begin, end = ranks[self.comm.rank]
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


@contextmanager
def together(comm: MPI.Intracomm) -> Iterator[None]:
    """Leave the block on every rank, or raise on each what the first rank that failed has raised.

    The block may communicate on `comm` only where what it raises afterwards is the same on every rank.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as raised:
        own = portable(raised)
    failed = np.array([own is not None], np.int8)
    comm.Allreduce(MPI.IN_PLACE, failed, MPI.MAX)
    if failed[0]:
        rank, error = next((i, e) for i, e in enumerate(comm.allgather(own)) if e is not None)
        raise own if own is not None and rank == comm.rank else error


def portable(error: Exception) -> Exception:
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
    return blake2b(
        np.ascontiguousarray(np.broadcast_to(a, shape)).tobytes(), digest_size=16
    ).digest()


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
