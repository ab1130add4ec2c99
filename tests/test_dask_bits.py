"""xent.dask: the same bits whatever the chunks are, and when a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import xent
from waiting import Waiting

dask = pytest.importorskip("dask")
da: Any = pytest.importorskip("dask.array")
xd: Any = pytest.importorskip("xent.dask")
from xent.dask import _tasks  # noqa: E402

CHUNK = 16_384


def differing(found: Any, expected: Any) -> int:
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    kind = f"u{found.itemsize}"
    return int(np.sum(np.atleast_1d(found).view(kind) != np.atleast_1d(expected).view(kind)))


# 60 cases, or 1,000 with --hypothesis-profile=thorough.
@pytest.mark.parametrize("part", range(4))
def test_no_bit_differs_for_shards_at_multiples_of_16384(part):
    cases = range(part, settings.default.max_examples // 5, 4)
    assert {case: n for case in cases if (n := differing_bits(case, case % 8 + 1))} == {}


def differing_bits(seed: int, shards: int) -> int:
    """Return how many numbers of all results differ, of logits in so many chunks of classes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 3, shards) * CHUNK
    sizes[-1] -= rng.integers(CHUNK)
    rows, classes = int(rng.integers(1, 3)), int(sizes.sum())
    z = rng.standard_normal((rows, classes), "f4") * np.float32(rng.choice([0.1, 3, 30]))
    with np.errstate(under="ignore"):
        z = z.astype(rng.choice(["float16", "float32"]))
    z[:, rng.integers(0, classes, 5)] = -np.inf
    targets = rng.integers(0, classes, rows)
    targets[rng.random(rows) < 0.2] = -100
    logits = da.from_array(z, chunks=(int(rng.integers(1, rows + 1)), tuple(map(int, sizes))))
    reduction = str(rng.choice(["none", "mean", "sum"]))
    call = {"reduction": reduction, "return_grad": True, "return_lse": True}
    expected = [
        *xent.cross_entropy(z, targets, **call),
        xent.token_log_probs(z, targets),
        xent.logsumexp(z, axis=1),
        xent.softmax(z, axis=1),
        xent.log_softmax(z, axis=1),
    ]
    lazy = [
        *xd.cross_entropy(logits, targets, **call),
        xd.token_log_probs(logits, targets),
        xd.logsumexp(logits, axis=1),
        xd.softmax(logits, axis=1),
        xd.log_softmax(logits, axis=1),
    ]
    if reduction == "mean":
        # In memory a mean is a rounded sum: exactly that of float64, at most one rounding apart.
        one, other = dask.compute(lazy.pop(0), scheduler="sync")[0], expected.pop(0)
        if not (one == other or (np.isnan(one) and np.isnan(other))):
            assert abs(one - other) <= np.spacing(other)
    found = dask.compute(*lazy, scheduler="sync")
    return sum(map(differing, found, expected))


ROWS = 10**9
BLOCK = 4096


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_over_a_thousand_million_rows(dtype):
    """So many rows are 64 blocks of 4,096 losses over and over; tasks hand on the sums of chunks of them."""
    rng = np.random.default_rng(7)
    losses = (rng.exponential(3, (64, BLOCK)) * 10.0 ** rng.integers(-9, 9, (64, 1))).astype(dtype)
    parts = [_tasks.exact(block) for block in losses]
    times, rest = divmod(ROWS, losses.size)
    left, last = divmod(rest, BLOCK)
    tail = losses[left, :last]
    exact = [sum(map(Fraction, block.tolist())) for block in losses.astype(float)]
    total = sum(exact) * times + sum(exact[:left]) + sum(map(Fraction, tail.astype(float).tolist()))
    mean, found = total / ROWS, set()
    for of_chunk in (1, 2, 8, 64):
        # Chunks of so many blocks, a chunk of those left over, and the last block's rows.
        chunks = [_tasks.joined(parts[i : i + of_chunk]) for i in range(0, 64, of_chunk)]
        sums = [*chunks * times, *parts[:left], _tasks.exact(tail)]
        rounded = _tasks.quotient(sums, ROWS, np.dtype(dtype), False)
        assert abs(Fraction(float(rounded)) - mean) <= Fraction(float(np.spacing(rounded)))
        found.add(rounded.tobytes())
    assert len(found) == 1


# Servers of the cluster may say good-bye late, and that a worker has died.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_worker_is_killed(tmp_path):
    distributed = pytest.importorskip("distributed")
    place = da.zeros((24, 60), chunks=(3, 20), dtype="f4")
    targets = np.random.default_rng(1).integers(0, 60, 24)
    logits = place.map_blocks(Waiting(tmp_path), dtype="f4", meta=np.empty((0, 0), "f4"))
    results = xd.cross_entropy(logits, targets, return_grad=True, return_lse=True)
    with (
        dask.config.set({"scheduler": None, "distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(tmp_path / "workers"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.compute(list(results))
        until = time.monotonic() + 300
        while not (readers := list(tmp_path.glob("reading-*"))) and time.monotonic() < until:
            time.sleep(0.01)
        killed = int(readers[0].name.partition("-")[2])
        os.kill(killed, signal.SIGKILL)
        (tmp_path / "killed").touch()
        found = client.gather(futures)
        assert killed not in client.run(os.getpid).values()
    expected = dask.compute(*results, scheduler="sync")
    assert sum(map(differing, found, expected)) == 0
