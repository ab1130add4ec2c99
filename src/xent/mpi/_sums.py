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
from xent.mpi._ranks import Slice, in_order, together

Array = np.ndarray[Any, Any]

#: How many classes are reduced together, as in a row that threads share.
CHUNK = 16384
#: How much is received at once.
EXCHANGE_BYTES = 64 << 20


def chunks(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the chunks of a slice, cut at multiples of `CHUNK`; a slice without classes is one."""
    cuts = [begin, *range((begin // CHUNK + 1) * CHUNK, end, CHUNK), end]
    return list(pairwise(cuts))


def sums(
    comm: MPI.Intracomm,
    place: Slice,
    logits: Any,
    targets: Any,
    *,
    axis: int,
    class_weight: Any = None,
    class_bias: Any = None,
    **options: Any,
) -> Array:
    """Return the sums of all classes of each row; arguments are those of `stages.reduce`, of this rank's slice."""
    along = (slice(None),) * axis
    soft = isinstance(targets, np.ndarray) and targets.shape == logits.shape
    with together(comm):
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
        shape = own[0].shape
        of_rows = np.stack(own).reshape(len(own), -1)
        merged = np.empty(of_rows.shape[1], stages.dtype)
        counts = [len(chunks(*rank)) for rank in place.ranks]
        step = max(1, EXCHANGE_BYTES // (sum(counts) * stages.dtype.itemsize))
        received = np.empty(sum(counts) * min(step, len(merged)), stages.dtype)
    ends = np.cumsum(counts)
    order = [
        part
        for rank in in_order(place.ranks)
        for part in range(ends[rank] - counts[rank], ends[rank])
    ]
    for start in range(0, len(merged), step):
        rows = slice(start, min(start + step, len(merged)))
        n = rows.stop - rows.start
        sent = np.ascontiguousarray(of_rows[:, rows])
        sizes = [count * n * stages.dtype.itemsize for count in counts]
        comm.Allgatherv([sent, MPI.BYTE], [received, sizes, MPI.BYTE])
        parts = received[: sum(counts) * n].reshape(-1, n)
        # Every rank merges the same sums: what does not fit raises the same error on all.
        merged[rows] = stages.merge(*parts[order])
    return merged.reshape(shape)
