"""Random slices of a vocabulary, whose results are compared bit by bit: `mpiexec -n 8 python mpi_bits.py 1000`.

Slices end at multiples of 16,384 classes; any rank may have none. What one rank computes of the whole is expected.
"""

from __future__ import annotations

import faulthandler
import sys
import traceback
from collections import Counter
from typing import Any

import numpy as np
from mpi4py import MPI

import xent
import xent.mpi

COMM = MPI.COMM_WORLD
CHUNK = 16384
SECONDS = 60  # longer than any call takes

KINDS = ("softmax", "logsumexp", "indices", "probabilities", "several")


def sharded(rng: np.random.Generator) -> tuple[str, dict[str, Any], int]:
    """Return a function, its arguments of the whole vocabulary, and the class axis, with sums of a few chunks."""
    kind, rows = str(rng.choice(KINDS)), int(rng.integers(1, 5))
    dtype = str(rng.choice(["float16", "float32", "float64", "bfloat16"]))
    classes = CHUNK * int(rng.integers(1, 9)) - int(rng.choice([0, 1, 999]))
    logits = rng.normal(0, rng.choice([0.1, 3, 30]), (rows, classes))
    logits += (
        rng.choice([0, 0, 100])
        * rng.normal(size=(rows, -(-classes // CHUNK))).repeat(CHUNK, 1)[:, :classes]
    )
    if rng.random() < 0.3:
        begin = CHUNK * int(rng.integers(-(-classes // CHUNK)))
        logits[:, begin : begin + CHUNK] = -np.inf
    if dtype == "bfloat16":
        given: dict[str, Any] = {"dtype": dtype}
        logits = (logits.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        given, logits = {}, logits.astype(dtype)
    axis = int(rng.integers(2))
    if kind in ("softmax", "logsumexp"):
        return kind, {"logits": logits, **given}, axis
    given |= {
        "targets": {
            "indices": rng.integers(0, classes, rows),
            "probabilities": rng.random((rows, classes)).astype(np.float32) / classes,
            "several": rng.integers(0, classes, (rows, 3)),
        }[kind],
        "reduction": str(rng.choice(["mean", "sum", "none"])),
        "z_loss": float(rng.choice([0, 0.1])),
        "softcap": rng.choice([None, 20.0]),
        "temperature": float(rng.choice([1, 0.7])),
        "label_smoothing": float(rng.choice([0, 0.1])),
        "return_grad": True,
        "return_lse": bool(rng.integers(2)),
    }
    if kind == "several":
        given["target_probs"] = rng.random((rows, 3))
    for name, values in (
        ("class_weight", rng.uniform(0.5, 2, classes)),
        ("class_bias", rng.normal(size=classes)),
        ("sample_weight", rng.uniform(0.5, 2, rows)),
    ):
        if rng.integers(2):
            given[name] = values
    if kind != "several" and rng.integers(2):
        given["return_hess"] = True
    else:
        given |= {"entropy_weight": float(rng.choice([0, 0.1])), "return_temperature_grad": True}
        given["return_bias_grad"] = "class_bias" in given
    return "cross_entropy", {"logits": logits, **given}, axis


def shard(
    kind: str, given: dict[str, Any], axis: int, begin: int, end: int, comm: Any
) -> list[Any]:
    """Return the results for a slice of the classes."""
    given, classes = dict(given), given["logits"].shape[1]
    for name in ("logits", "targets", "target_probs", "class_weight", "class_bias"):
        if (a := given.get(name)) is None:
            continue
        if np.shape(a)[-1:] == (classes,):
            given[name] = a[..., begin:end]
        if np.ndim(a) == 2:
            given[name] = np.ascontiguousarray(np.moveaxis(given[name], -1, axis))
    found = getattr(xent.mpi, kind)(given.pop("logits"), **given, axis=axis, comm=comm)
    found = list(found) if isinstance(found, tuple) else [found]
    return [np.moveaxis(a, axis, -1) if np.ndim(a) == 2 else np.asarray(a) for a in found]


def main(count: str, seed: str = "1") -> None:
    """Random slices that end at multiples of 16,384 classes: the results of one rank, bit by bit."""
    rng = np.random.default_rng(int(seed))
    comms = {n: COMM.Split(0 if COMM.rank < n else MPI.UNDEFINED) for n in range(1, COMM.size + 1)}
    differing = results = 0
    shards: Counter[int] = Counter()
    for _ in range(int(count)):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        size, draw = int(rng.integers(1, COMM.size + 1)), int(rng.integers(1 << 30))
        comm = comms[size]
        if comm == MPI.COMM_NULL:
            continue
        mine = np.random.default_rng(draw)
        kind, given, axis = sharded(mine)
        classes = given["logits"].shape[1]
        cuts = CHUNK * np.sort(mine.integers(0, -(-classes // CHUNK), size - 1))
        bounds = [0, *cuts.tolist(), classes]
        xent.set_num_threads(1)
        found = shard(kind, given, axis, *bounds[comm.rank : comm.rank + 2], comm)
        of_ranks = comm.gather(found)
        if of_ranks is None:
            continue
        expected = shard(kind, given, axis, 0, classes, MPI.COMM_SELF)
        for position, whole in enumerate(expected):
            parts = [each[position] for each in of_ranks]
            if whole.shape[-1:] == (classes,):
                parts = [np.concatenate(parts, axis=-1)]
            for part in parts:
                assert (part.shape, part.dtype) == (whole.shape, whole.dtype)
                results += 1
                if part.tobytes() != whole.tobytes():
                    differing += 1
                    print(
                        kind,
                        position,
                        given["logits"].dtype,
                        bounds,
                        {k: v for k, v in given.items() if np.ndim(v) == 0},
                    )
        shards[size] += 1
    faulthandler.cancel_dump_traceback_later()
    COMM.Barrier()
    if COMM.rank == 0:
        print(
            differing,
            "of",
            results,
            "results differ in",
            sum(shards.values()),
            "cases of",
            dict(sorted(shards.items())),
        )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        # Others may wait for this rank.
        traceback.print_exc()
        COMM.Abort(1)
