"""Time `xent.dask.cross_entropy` on two worker threads beside a loop that calls xent on the same chunks with two threads.

    python benchmarks/chunks.py [ROWS CLASSES ROWS_OF_A_CHUNK CLASSES_OF_A_CHUNK]

All chunks of rows are the same block of logits in memory, so that neither side reads a disk and rows may be more than memory
holds. Gradients go to a file, of which chunks of rows overwrite those before them: a file of all of them measures the disk.
Both run in the same process, in turn, and medians of the quotients of neighbours are printed, of time and of processor time.
The answers must be equal. Memory is that of a process for each case: the most anonymous pages above those before the call.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter, process_time
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

import xent
import xent.dask

ROUNDS = 7
WORKERS = 2


class File:
    """A file for the gradient of one chunk of rows, written by the chunks of all rows in turn."""

    def __init__(self, path: Path, shape: tuple[int, int], period: int):
        self.map = np.lib.format.open_memmap(path, "w+", np.float32, (WORKERS * period, shape[1]))
        self.shape, self.dtype, self.ndim, self.period = shape, self.map.dtype, 2, period

    def __dask_tokenize__(self) -> str:
        return str(self.map.filename)

    def __setitem__(self, index: Any, values: Any) -> None:
        rows, classes = index
        begin = rows.start % len(self.map)
        self.map[begin : begin + len(values), classes] = values


class Case:
    """Logits in chunks, and their targets."""

    def __init__(self, rows: int, classes: int, chunk: int, part: int):
        rng = np.random.default_rng(0)
        self.block = rng.normal(0, 3, (chunk, classes)).astype(np.float32)
        # The same for all chunks, so that whichever writes its gradient last leaves the same file.
        self.targets = np.resize(rng.integers(0, classes, chunk), rows)
        self.rows, self.chunk = rows, chunk
        starts = range(0, classes, part)
        pieces = [np.ascontiguousarray(self.block[:, at : at + part]) for at in starts]
        tasks = {
            ("logits", i, j): piece[: rows - i * chunk]
            for i in range(-(-rows // chunk))
            for j, piece in enumerate(pieces)
        }
        chunks = da.core.normalize_chunks((chunk, part), (rows, classes))
        graph = HighLevelGraph.from_collections("logits", tasks)
        self.logits = da.Array(graph, "logits", chunks, dtype=np.float32)

    def plain(self, out: File | None) -> float:
        """Return the mean of the losses of all chunks of whole rows, each by a call."""
        total = 0.0
        for at in range(0, self.rows, self.chunk):
            targets = self.targets[at : at + self.chunk]
            found: Any = xent.cross_entropy(
                self.block[: len(targets)],
                targets,
                reduction="none",
                return_grad=out is not None,
                grad_output=None if out is None else np.full(len(targets), 1 / self.rows),
            )
            if out is not None:
                found, grad = found
                out[at : at + len(targets), :] = grad
            total += float(found.sum(dtype=np.float64))
        return total / self.rows

    def lazy(self, out: File | None) -> float:
        if out is None:
            return float(xent.dask.cross_entropy(self.logits, self.targets).compute())
        loss, grad = xent.dask.cross_entropy(self.logits, self.targets, return_grad=True)
        stored = da.store(grad, out, lock=False, compute=False)
        return float(dask.compute(loss, stored)[0])


def timed(call: Callable[[], Any]) -> tuple[Any, Any]:
    """Return the seconds that a call takes, and those of all processors, and its result."""
    start = np.array([perf_counter(), process_time()])
    found = call()
    return np.array([perf_counter(), process_time()]) - start, found


def anonymous() -> int:
    """Return the bytes of memory of this process that are not those of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def most_memory(size: tuple[int, int, int, int], name: str, with_grad: bool) -> float:
    """Return by how many chunks the memory of this process grew in a call."""
    case, most, done = Case(*size), [0], Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], anonymous())

    with tempfile.TemporaryDirectory() as folder:
        out = File(Path(folder) / "grad.npy", case.logits.shape, case.chunk) if with_grad else None
        before = anonymous()
        watcher = Thread(target=watch)
        watcher.start()
        getattr(case, name)(out)
        done.set()
        watcher.join()
    return (most[0] - before) / (case.chunk * min(size[1], size[3]) * 4)


def main(
    rows: int = 400_000, classes: int = 1000, chunk: int = 16_384, part: int | None = None
) -> None:
    size = (rows, classes, chunk, part or classes)
    case = Case(*size)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for with_grad in (False, True):
            files: list[File | None] = [None, None]
            if with_grad:
                names = (Path(folder) / f"{i}.npy" for i in range(2))
                files = [File(path, case.logits.shape, chunk) for path in names]
            quotients = []
            for i in range(ROUNDS + 1):
                plain, expected = timed(lambda: case.plain(files[0]))  # noqa: B023
                lazy, found = timed(lambda: case.lazy(files[1]))  # noqa: B023
                np.testing.assert_allclose(found, expected, rtol=1e-6)
                if with_grad and part is None:
                    np.testing.assert_array_equal(files[1].map, files[0].map)  # type: ignore[union-attr]
                if i:
                    quotients.append(plain / lazy)
            speeds, processor = zip(*quotients, strict=True)
            print(
                f"{'loss and gradient' if with_grad else 'loss':18} plain {plain[0]:7.3f} s   Dask {lazy[0]:7.3f} s"
                f"   {median(speeds):5.2f} of its speed ({min(speeds):.2f} to {max(speeds):.2f}),"
                f" {median(processor):.2f} by processor time",
                end="",
                flush=True,
            )
            with context.Pool(1) as pool:
                grown = pool.apply(most_memory, (size, "lazy", with_grad))
            print(f"   {grown / WORKERS:5.2f} chunks a worker")


if __name__ == "__main__":
    xent.set_num_threads(WORKERS)
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        main(*map(int, sys.argv[1:]))
