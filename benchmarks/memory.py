"""The machine's memory speed: plain reads and streaming copies, by whatever does them best."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from xent import _core

#: Far more than a last-level cache, so that every pass comes from memory.
BUFFER_BYTES = 128 << 20


class Memory:
    """Two buffers and the ways to read one and to copy it to the other.

    Attributes
    ----------
    readers, copiers : dict of str to callable
        Each call moves `read_bytes`, or `copy_bytes` (read and written), once.
    """

    def __init__(self, threads: int, nbytes: int = BUFFER_BYTES) -> None:
        source, target = _aligned(nbytes), _aligned(nbytes)
        self.read_bytes = source.nbytes
        self.copy_bytes = 2 * source.nbytes
        pool = ThreadPoolExecutor(threads)
        shares = [np.array_split(array, threads) for array in (target, source)]
        parts = list(zip(*shares, strict=True))

        def in_parallel(function: Callable[[np.ndarray, np.ndarray], object]) -> None:
            for future in [pool.submit(function, *part) for part in parts]:
                future.result()

        self.readers: dict[str, Callable[[], object]] = {
            "xent": lambda: _core.memory_read(source, threads),
            "numpy.max": lambda: in_parallel(lambda _, part: part.max()),
        }
        self.copiers: dict[str, Callable[[], object]] = {
            "xent": lambda: _core.memory_copy(target, source, threads),
            "numpy.copyto": lambda: in_parallel(np.copyto),
        }


def _aligned(nbytes: int) -> np.ndarray:
    """Bytes on a cache-line boundary, which streaming stores need, all of them touched."""
    line = 64
    array = np.ones(nbytes + line, dtype=np.uint8)
    start = -array.ctypes.data % line
    return array[start : start + nbytes].view(np.float64)
