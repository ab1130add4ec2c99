"""Digests of result bits: the calls of ``python -m xent check``, over many more shapes.

`make_digest.py` writes `digest.json`, `test_bits.py` compares with it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xent.cli.bits import CALLS, DTYPES, Inputs, result_bytes

FILE = Path(__file__).with_name("digest.json")

# Rows and classes: every small width, then each side of a power of two, block and chunk.
NARROW = tuple((1 + classes % 7, classes) for classes in range(1, 131))
TALL = ((1000, 2), (257, 10), (100, 3, 17), (65, 64), (33, 100))
EDGES = tuple((3, n + k) for n in (256, 512, 1024, 2048, 4096, 8192) for k in (-1, 0, 1)) + tuple(
    (1, n + k) for n in (16384, 32768) for k in (-1, 0, 1)
)
LARGE = ((2, 50257), (1, 100_003))
SHAPES = NARROW + TALL + EDGES + LARGE
# Above 512 KiB, twice what is worth a thread: the others are computed by one, whatever the number of threads.
SHARED = ((12_000, 10), (8, 17_000))


@cache
def inputs_of(shape: tuple[int, ...], dtype: Any) -> Inputs:
    """The arguments of every call in this shape."""
    return Inputs(shape, dtype)


def digests(shapes: tuple[tuple[int, ...], ...] = SHAPES) -> dict[str, str]:
    """Return a digest for every call and dtype, on the ISA and the threads now in use."""
    found = {}
    for name, call in CALLS.items():
        for dtype in DTYPES:
            state = hashlib.sha256()
            for shape in shapes:
                state.update(result_bytes(call(inputs_of(shape, dtype))))
            found[f"{name}, {np.dtype(dtype).name}"] = state.hexdigest()[:32]
    return found
