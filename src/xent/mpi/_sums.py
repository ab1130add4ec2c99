"""The sums of rows whose classes are divided among ranks.

A slice is reduced in chunks of the whole vocabulary's classes, and every rank merges the sums of all chunks from left to
right. The order of additions follows from the vocabulary alone, so bits do not depend on the number of ranks as long as
slices end where chunks do.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI

from xent import stages
from xent.mpi._ranks import Slice, in_order

Array = np.ndarray[Any, Any]

#: How many classes are reduced together, as in a row that threads share.
CHUNK = 16384
#: How much is received at once.
EXCHANGE_BYTES = 64 << 20


def chunks(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the chunks of a slice, cut at multiples of `CHUNK`; a slice without classes is one."""
    cuts = [begin, *range((begin // CHUNK + 1) * CHUNK, end, CHUNK), end]
    return list(pairwise(cuts))


class Sums:
    """The sums of this rank's chunks, and the memory for those of all ranks; arguments are those of `stages.reduce`."""

    def __init__(
        self,
        place: Slice,
        logits: Any,
        targets: Any,
        *,
        axis: int,
        class_weight: Any = None,
        class_bias: Any = None,
        **options: Any,
    ):
        along = (slice(None),) * axis
        soft = isinstance(targets, np.ndarray) and targets.shape == logits.shape
        own = []
        for begin, end in chunks(place.begin, place.end):
            at = slice(begin - place.begin, end - place.begin)
            own.append(
                stages.reduce(
                    logits[(*along, at)],
                    targets[(*along, at)] if soft else targets,
                    axis=axis,
                    class_offset=begin,
                    num_classes=place.num_classes,
                    class_weight=None if class_weight is None else class_weight[at],
                    class_bias=None if class_bias is None else class_bias[at],
                    **options,
                )
            )
        self.own = np.stack(own)
        self.all = np.empty(self.own.shape[1:], stages.dtype)
        self.counts = [len(chunks(*rank)) for rank in place.ranks]
        ends = np.cumsum(self.counts)
        self.order = [
            part
            for rank in in_order(place.ranks)
            for part in range(ends[rank] - self.counts[rank], ends[rank])
        ]
        self.step = max(1, EXCHANGE_BYTES // (len(self.order) * stages.dtype.itemsize))
        rows = min(self.step, self.all.size)
        self.received = np.empty(len(self.order) * rows, stages.dtype)

    def merged(self, comm: MPI.Intracomm) -> Array:
        """Exchange the sums, and return those of all classes of each row."""
        own, merged = self.own.reshape(len(self.own), -1), self.all.reshape(-1)
        for start in range(0, len(merged), self.step):
            sent = np.ascontiguousarray(own[:, start : start + self.step])
            rows = sent.shape[1]
            sizes = [count * rows * stages.dtype.itemsize for count in self.counts]
            comm.Allgatherv([sent, MPI.BYTE], [self.received, sizes, MPI.BYTE])
            parts = self.received[: len(self.order) * rows].reshape(-1, rows)
            # Every rank merges the same sums: what does not fit raises the same error on all.
            merged[start : start + rows] = stages.merge(*parts[self.order])
        return self.all
