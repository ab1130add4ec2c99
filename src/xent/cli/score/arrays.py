"""Arrays in .npy files, larger than memory: read and computed in blocks of rows, one on each thread."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from threading import local
from typing import Any, TypeVar

import numpy as np

import xent

Array = np.ndarray[Any, Any]
T = TypeVar("T")

#: Of a block of logits: large beside the cost of a call, small enough to stay in the cache.
BLOCK_BYTES = 8 << 20


def by_number(path: Path) -> list[tuple[int, str]]:
    """Return what sorts names as people number them: part2 before part10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), part) if part.isdigit() else (-1, part) for part in parts]


class BadInput(Exception):
    """Files that are not what the command takes; the message is one line and names the file."""


@dataclass(frozen=True)
class File:
    """Where the numbers of one .npy file begin."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def described(cls, path: Path) -> File:
        try:
            # Reads the header, and compares the size of the file with it.
            found = np.load(path, mmap_mode="r")
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror or error}") from None
        except Exception:  # of a header that is no Python literal, whatever its parser makes of it
            raise BadInput(
                f"{path}: not an array of numbers as numpy.save writes it, or one that was cut short"
            ) from None
        if not isinstance(found, np.memmap):
            raise BadInput(f"{path}: expected an array as numpy.save writes it")
        if not found.flags.c_contiguous:
            raise BadInput(
                f"{path}: the array is in Fortran order; save numpy.ascontiguousarray of it"
            )
        return cls(path, found.dtype, found.shape, int(found.offset))

    def read(self, position: int, room: memoryview) -> None:
        """Read bytes from a position among the numbers."""
        # Without a buffer, which would copy everything once more.
        with FileIO(self.path) as file:
            file.seek(self.offset + position)
            while room:
                count = file.readinto(room)
                if not count:
                    raise BadInput(f"{self.path}: the file ends before its array does")
                room = room[count:]


class Stored:
    """One array on disk: a .npy file, or all those of a folder in the order of their names,
    numbers in them by size, joined along the first axis."""

    def __init__(self, path: Path) -> None:
        self.path = path
        paths = sorted(path.glob("*.npy"), key=by_number) if path.is_dir() else [path]
        if not paths:
            raise BadInput(f"{path}: no .npy files in this folder")
        self.files = [File.described(one) for one in paths]
        first = self.files[0]
        for file in self.files:
            if not file.shape:
                raise BadInput(f"{file.path}: a single number; expected an array")
            if (file.dtype, file.shape[1:]) != (first.dtype, first.shape[1:]):
                raise BadInput(
                    f"{file.path}: {file.dtype} of shape {file.shape} does not continue {first.path}, "
                    f"{first.dtype} of shape {first.shape}"
                )
        self.dtype = first.dtype
        self.shape = (sum(file.shape[0] for file in self.files), *first.shape[1:])

    @property
    def nbytes(self) -> int:
        """The size of the numbers."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, first: int, out: Array) -> Array:
        """Read numbers, of which the first is the one at that flat position, into a contiguous array."""
        room = out.reshape(-1).view(np.uint8).data
        position = first * self.dtype.itemsize
        for file in self.files:
            size = prod(file.shape) * file.dtype.itemsize
            if room and position < size:
                count = min(size - position, len(room))
                file.read(position, room[:count])
                room, position = room[count:], size
            position -= size
        return out


def map_blocks(
    function: Callable[[int, Array, Array], T], logits: Stored, targets: Stored
) -> Iterator[T]:
    """Yield what a function makes of each block of logits (n, C), their targets (n,) and the number of the first row.

    Every thread reads a block into memory of its own and computes it alone, while the others do the same: no block waits for
    another, and none leaves the cache before it has been computed. The results come in the order of the rows.
    """
    total, classes = prod(targets.shape), logits.shape[-1]
    size = min(rows_of_block(logits), max(total, 1))
    own = local()

    def allocate() -> None:
        own.logits = np.empty((size, classes), logits.dtype)
        own.targets = np.empty(size, targets.dtype)

    def block(start: int) -> T:
        count = min(size, total - start)
        rows = logits.read(start * classes, own.logits[:count])
        labels = targets.read(start, own.targets[:count])
        with xent.num_threads(1):
            return function(start, rows, labels)

    threads = xent.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=allocate)
    try:
        begun: deque[Future[T]] = deque()
        for start in range(0, total, size):
            if len(begun) == 2 * threads:
                yield begun.popleft().result()
            begun.append(pool.submit(block, start))
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def rows_of_block(logits: Stored) -> int:
    """How many rows of logits a block has."""
    return max(1, BLOCK_BYTES // max(1, logits.shape[-1] * logits.dtype.itemsize))
