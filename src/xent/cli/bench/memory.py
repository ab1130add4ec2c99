"""The machine's memory speed: plain reads and streaming copies, by whatever does them best."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from xent import _core

#: What the last-level cache is taken for where the system does not say. A much larger one is a whole socket's: most of it
#: holds the data of others.
USUAL_CACHE = 32 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache() -> int:
    """Bytes of the caches next to the memory, all of them together."""
    sizes: dict[int, dict[str, int]] = {}
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
        try:
            level, cpus, size = (
                (folder / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
            sizes.setdefault(int(level), {})[cpus] = int(size[:-1]) * UNITS[size[-1]]
        except (OSError, ValueError, LookupError):
            continue  # some systems list a cache and hide its size
    return sum(sizes[max(sizes)].values()) if sizes else USUAL_CACHE


def own_cache() -> int:
    """How much of it a program can count on."""
    return min(last_level_cache(), 2 * USUAL_CACHE)


class Memory:
    """Two buffers and the ways to read one and to copy it to the other.

    Attributes
    ----------
    readers, copiers : dict of str to callable
        Each call moves `read_bytes`, or `copy_bytes` (read and written), once.
    """

    def __init__(self, threads: int) -> None:
        # Far more than the cache, so that every pass comes from memory.
        nbytes = max(128 << 20, 3 * last_level_cache())
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


def memory(threads: int) -> Memory:
    """The buffers of this process, which are filled once."""
    if threads not in _buffers:
        _buffers[threads] = Memory(threads)
    return _buffers[threads]


_buffers: dict[int, Memory] = {}


def _aligned(nbytes: int) -> np.ndarray:
    """Bytes on a cache-line boundary, which streaming stores need, all of them touched."""
    line = 64
    array = np.ones(nbytes + line, dtype=np.uint8)
    start = -array.ctypes.data % line
    return array[start : start + nbytes].view(np.float64)
