"""More than 2^31 rows, classes and elements: broadcast, or the same memory mapped repeatedly."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import xent

HUGE = 2**31 + 8
LOGITS = np.array([[0.5, 3]], np.float32)

if sys.platform == "linux":
    LIBC = ctypes.CDLL(None, use_errno=True)
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *3 * (ctypes.c_int,), ctypes.c_long)
    LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    MAP_FIXED, MAP_NORESERVE = 0x10, 0x4000
    CHUNK = 32 << 20

    def _map(address: int | None, size: int, flags: int, file: int) -> int:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        found = LIBC.mmap(address, size, access, flags, file, 0)
        assert found != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
        return found

    @pytest.fixture
    def folded() -> Iterator[Callable[..., np.ndarray]]:
        """Arrays of any size made of two chunks of memory: the last, and one for all before."""
        held = []

        def make(shape: tuple[int, ...], dtype: object) -> np.ndarray:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            pages = -(-size // CHUNK) * CHUNK
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
            address = _map(None, pages, private, -1)
            held.append((address, pages))
            file = os.memfd_create("chunk")
            os.ftruncate(file, CHUNK)
            for offset in range(0, pages - CHUNK, CHUNK):
                _map(address + offset, CHUNK, mmap.MAP_SHARED | MAP_FIXED, file)
            os.close(file)
            memory = (ctypes.c_char * size).from_address(address)
            return np.frombuffer(memory, dtype).reshape(shape)

        yield make
        for address, pages in held:
            LIBC.munmap(address, pages)

    @pytest.fixture
    def targets() -> np.ndarray:
        """Zeros that take no memory, and a one near the end."""
        targets = np.zeros(HUGE, np.uint8)
        targets[-3] = 1
        return targets

    def test_rows(folded, targets):
        out = folded((HUGE,), np.float32)
        logits = np.broadcast_to(LOGITS, (HUGE, 2))
        xent.cross_entropy(logits, targets, reduction="none", out=out)
        one, other = xent.cross_entropy(LOGITS.repeat(2, axis=0), [0, 1], reduction="none")
        assert list(out[-4:]) == [one, other, one, one]

    def test_the_bad_one_of_the_rows_is_named(folded, targets):
        out = folded((HUGE,), np.float32)
        targets[-3] = 2
        with pytest.raises(IndexError, match=rf"targets\[{HUGE - 3}\] = 2 is not"):
            xent.cross_entropy(
                np.broadcast_to(LOGITS, (HUGE, 2)), targets, reduction="none", out=out
            )
        assert not out[-64:].any()

    @pytest.mark.parametrize("threads", [1, 2])
    def test_classes_of_one_row(folded, threads):
        """The last but two is the target, whose logit alone is not 0."""
        logits, grad = folded((1, HUGE), np.float16), folded((1, HUGE), np.float16)
        logits[0, -3] = 20
        with xent.num_threads(threads):
            loss, _ = xent.cross_entropy(logits, [HUGE - 3], return_grad=True, grad_out=grad)
        rest = (HUGE - 1) * math.exp(-20)
        assert loss == pytest.approx(math.log1p(rest), rel=1e-6)
        assert grad[0, -3] == np.float16(-rest / (1 + rest))
        assert grad[0, -4] == np.float16(math.exp(-20) / (1 + rest))

    def test_elements(folded):
        targets, grad = folded((HUGE,), np.float32), folded((HUGE,), np.float32)
        targets[-3] = 1
        logits = np.broadcast_to(np.float32(0), HUGE)
        call = {"return_grad": True, "grad_out": grad, "grad_output": HUGE}
        loss, _ = xent.binary_cross_entropy_with_logits(logits, targets, **call)
        assert loss == np.float32(math.log(2))
        assert list(grad[-4:]) == [0.5, -0.5, 0.5, 0.5]
