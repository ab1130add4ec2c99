"""Arrays in .npy files, larger than memory: read in blocks of rows, the next one while the last is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Of a block of logits: large enough that all threads have work, small enough to stay in the cache.
BLOCK_BYTES = 8 << 20


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
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{path}: {str(error).splitlines()[0]}") from None
        if not isinstance(found, np.memmap):
            raise BadInput(f"{path}: expected an array as numpy.save writes it")
        if not found.flags.c_contiguous:
            raise BadInput(
                f"{path}: the array is in Fortran order; save numpy.ascontiguousarray of it"
            )
        return cls(path, found.dtype, found.shape, int(found.offset))


class Stored:
    """One array on disk: a .npy file, or all those of a folder in the order of their names, joined along the first axis."""

    def __init__(self, path: Path) -> None:
        self.path = path
        paths = sorted(path.glob("*.npy")) if path.is_dir() else [path]
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


class Reader:
    """Reads the numbers of some files in their order."""

    def __init__(self, files: Sequence[File], stack: ExitStack) -> None:
        self._stack, self._files, self._left = stack, iter(files), 0
        self._file: FileIO

    def fill(self, out: Array) -> Array:
        """Read as many numbers as a contiguous array has."""
        # Structured and two-byte types have no buffer that a file could read into.
        room = memoryview(out.reshape(-1).view(np.uint8))
        while room:
            if self._left == 0:
                self._begin(next(self._files))
                continue
            count = self._file.readinto(room[: self._left])
            if not count:
                raise BadInput(f"{self._file.name}: the file ends before its array does")
            room, self._left = room[count:], self._left - count
        return out

    def _begin(self, file: File) -> None:
        # Without a buffer, which would copy everything once more.
        self._file = self._stack.enter_context(FileIO(file.path))
        self._file.seek(file.offset)
        self._left = prod(file.shape) * file.dtype.itemsize


def blocks(logits: Stored, targets: Stored) -> Iterator[tuple[int, Array, Array]]:
    """Yield blocks of logits (n, C) and their targets (n,), with the number of the first row.

    There are two blocks of memory: what is yielded is overwritten after the next one.
    """
    total, classes = prod(logits.shape[:-1]), logits.shape[-1]
    size = min(rows_of_block(logits), max(total, 1))
    memory = [
        (np.empty((size, classes), logits.dtype), np.empty(size, targets.dtype)) for _ in "ab"
    ]
    with ExitStack() as stack, ThreadPoolExecutor(1) as thread:
        readers = Reader(logits.files, stack), Reader(targets.files, stack)

        def read(start: int) -> tuple[Array, Array]:
            count = min(size, total - start)
            rows, labels = memory[start // size % 2]
            return readers[0].fill(rows[:count]), readers[1].fill(labels[:count])

        coming = thread.submit(read, 0)
        for start in range(0, total, size):
            block = coming.result()
            if start + size < total:
                coming = thread.submit(read, start + size)
            yield start, *block


def rows_of_block(logits: Stored) -> int:
    """How many rows of logits a block has."""
    return max(1, BLOCK_BYTES // max(1, logits.shape[-1] * logits.dtype.itemsize))
