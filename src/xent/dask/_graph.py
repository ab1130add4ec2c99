"""Graphs: which task reads which chunks. Nothing is computed here, and no chunk of logits is cut or joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, product
from math import prod
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from xent import _arguments as arguments

Axes = tuple[int, ...]


def lazy(value: Any, name: str) -> Any:
    """Return a Dask array of which the size of every chunk is known."""
    if not isinstance(value, da.Array):
        raise TypeError(
            f"{name}: expected a dask.array.Array, got {type(value).__name__}; for arrays in memory use the function of "
            "the same name in xent"
        )
    if any(np.isnan(size) for size in value.shape):
        raise ValueError(
            f"{name}: the sizes of chunks are unknown, shape {value.shape}; call its compute_chunk_sizes() first"
        )
    return value


def placeholder(value: Any) -> Any:
    """Return an array of the same shape and dtype that takes no memory, for the validation of arguments."""
    return np.broadcast_to(np.zeros((), value.dtype), value.shape)


def without(sequence: Sequence[Any], axes: Axes) -> tuple[Any, ...]:
    """Return what a sequence with an element for each axis has for the other axes, those of the rows."""
    return tuple(element for axis, element in enumerate(sequence) if axis not in axes)


def of_rows(value: Any, name: str, shape: tuple[int, ...], chunks: Any) -> Any:
    """Return one number for each row, in the chunks of the rows."""
    if not isinstance(value, da.Array):
        value = arguments.real(value, name)
    arguments.real(np.empty(0, value.dtype), name)
    try:
        fits = np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: shape {value.shape} does not broadcast to that of the loss, {shape}"
        )
    if isinstance(value, da.Array):
        return da.broadcast_to(lazy(value, name), shape).rechunk(chunks)
    return da.from_array(np.broadcast_to(value, shape), chunks=chunks)


class Blocks:
    """The chunks of logits, and layers of tasks over them."""

    def __init__(self, x: Any, axes: Axes):
        self.x, self.axes = x, axes
        self.all = tuple(range(x.ndim))
        self.rows = without(self.all, axes)
        self.row_chunks = without(x.chunks, axes)
        self.shape = without(x.shape, axes)
        self.classes = prod(x.shape[axis] for axis in axes)
        self.whole = all(x.numblocks[axis] == 1 for axis in axes)

    def offsets(self) -> Any:
        """Return the number of the first class of each chunk; over several axes, in the order of the chunks."""
        chunks = [self.x.chunks[axis] for axis in self.axes]
        sizes = [prod(size) for size in product(*chunks)]
        first = np.array([0, *accumulate(sizes)][:-1], np.int64).reshape([len(c) for c in chunks])
        return da.from_array(first, chunks=1)

    def first_rows(self) -> Any:
        """Return the number of the first row of each chunk, in C order."""
        starts = [[0, *accumulate(sizes)][:-1] for sizes in self.row_chunks]
        at = np.ix_(*(np.array(s, np.int64) for s in starts))
        steps = [prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        first = sum((a * step for a, step in zip(at, steps, strict=True)), np.int64(0))
        return da.from_array(np.asarray(first), chunks=1)

    def layer(
        self, function: Callable[..., Any], out: Axes, *pairs: Any, dtype: Any, **options: Any
    ) -> Any:
        """Return an array of which each chunk is a task over chunks of others, given as (array, axes)."""
        return da.blockwise(
            function,
            out,
            *(element for pair in pairs for element in pair),
            dtype=dtype,
            meta=np.empty((0,) * len(out), dtype),
            align_arrays=False,
            concatenate=False,
            **options,
        )

    def merged(self, merge: Callable[..., Any], sums: Any) -> Any:
        """Return the sums of rows over all classes, from those of each chunk.

        The tasks are listed one by one, because Dask would fuse a `blockwise` layer with the one that reads the logits into
        tasks that hold all classes of a row.
        """
        name = f"xent-merge-{tokenize(sums.name, self.axes)}"
        grid = [range(sums.numblocks[axis]) for axis in self.axes]
        tasks = {}
        for row in product(*(range(sums.numblocks[axis]) for axis in self.rows)):
            at = dict(zip(self.rows, row, strict=True))
            keys = [
                (
                    sums.name,
                    *(({**at, **dict(zip(self.axes, block, strict=True))})[i] for i in self.all),
                )
                for block in product(*grid)
            ]
            tasks[name, *row] = (merge, keys, self.axes)
        graph = HighLevelGraph.from_collections(name, tasks, dependencies=[sums])
        return da.Array(graph, name, self.row_chunks, dtype=sums.dtype)


def scalar(function: Callable[..., Any], blocks: Any, *others: Any, dtype: Any) -> Any:
    """Return the result of a function of the list of all blocks of an array, and of other results of `scalar`."""
    known = [(other.name,) if isinstance(other, da.Array) else other for other in others]
    name = f"xent-{function.__name__}-{tokenize(function, blocks.name, known, str(dtype))}"
    keys = [(blocks.name, *block) for block in product(*map(range, blocks.numblocks))]
    depends = [a for a in (blocks, *others) if isinstance(a, da.Array)]
    graph = HighLevelGraph.from_collections(
        name, {(name,): (function, keys, *known)}, dependencies=depends
    )
    return da.Array(graph, name, (), dtype=dtype)
