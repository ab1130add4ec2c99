"""Arrays on disk: the numbers of arrays in memory, in a process that may not hold them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import xent
from xent.metrics import Perplexity

ROWS, CLASSES, FILES = 4096, 8192, 8
SIZE = 4 * ROWS * CLASSES  # 134 MB
ALLOWED = SIZE // 4

# What the child process has: the folder, and a limit on memory of its own, of which pages of files are no part.
CHILD = """
import hashlib, resource, sys
from pathlib import Path
import numpy as np
import xent
from xent.metrics import Perplexity

folder, allowed = Path(sys.argv[1]), int(sys.argv[2])

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(name)).split()[1])

def limit():
    # Threads have their stacks before the limit is set.
    xent.cross_entropy(np.zeros((4096, 1000), np.float32), np.zeros(4096, int), return_grad=True)
    most = status("VmData:") + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        np.ones(2 * allowed, np.uint8)
    except MemoryError:
        return
    sys.exit("the limit does not hold")

def digest(a):
    found = hashlib.sha256()
    for row in np.atleast_1d(a):
        found.update(row.tobytes())
    return found.hexdigest()

def opened(name, mode="r"):
    return np.load(folder / f"{name}.npy", mmap_mode=mode)
"""


def run(folder: Path, script: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD + script, str(folder), str(ALLOWED)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "XENT_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def digest(a: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    folder = tmp_path_factory.mktemp("stored")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((ROWS, CLASSES), np.float32)
    targets = rng.integers(0, CLASSES, ROWS)
    np.save(folder / "logits.npy", logits)
    np.save(folder / "targets.npy", targets)
    for i, part in enumerate(np.array_split(logits, FILES)):
        np.save(folder / f"part-{i}.npy", part)
    return folder, logits, targets


def test_a_memmap_is_read_where_it_lies(arrays):
    folder, logits, targets = arrays
    found = run(
        folder,
        """
limit()
logits, targets = opened("logits"), opened("targets")
row = xent.score(logits, targets)
for a in (
    xent.cross_entropy(logits, targets, label_smoothing=0.1),
    xent.cross_entropy(logits, targets, reduction="none"),
    xent.logsumexp(logits, axis=1),
    row.log_prob,
    row.argmax,
    xent.cross_entropy(logits.T, targets, axis=0),
):
    print(digest(a))
""",
    )
    row = xent.score(logits, targets)
    expected = (
        xent.cross_entropy(logits, targets, label_smoothing=0.1),
        xent.cross_entropy(logits, targets, reduction="none"),
        xent.logsumexp(logits, axis=1),
        row.log_prob,
        row.argmax,
        xent.cross_entropy(logits.T, targets, axis=0),
    )
    assert found == [digest(a) for a in expected]


def test_gradients_are_written_where_they_belong(arrays):
    """Into another file, and in the place of the logits."""
    folder, logits, targets = arrays
    np.save(folder / "replaced.npy", logits)
    found = run(
        folder,
        """
limit()
logits, targets, replaced = opened("logits"), opened("targets"), opened("replaced", "r+")
grad = np.lib.format.open_memmap(folder / "grad.npy", "w+", logits.dtype, logits.shape)
print(digest(xent.cross_entropy(logits, targets, return_grad=True, grad_out=grad)[0]))
xent.cross_entropy(replaced, targets, return_grad=True, grad_out=replaced)
""",
    )
    loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
    assert found == [digest(loss)]
    for name in ("grad", "replaced"):
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy", mmap_mode="r"), grad)


def test_half_and_big_endian_numbers_are_converted_in_blocks(arrays):
    folder, logits, targets = arrays
    with np.errstate(under="ignore"):
        half = logits.astype(np.float16)
    np.save(folder / "big.npy", logits.astype(">f4"))
    np.save(folder / "half.npy", half)
    found = run(
        folder,
        """
limit()
for name in ("big", "half"):
    print(digest(xent.cross_entropy(opened(name), opened("targets"))))
""",
    )
    assert found == [digest(xent.cross_entropy(a, targets)) for a in (logits, half)]


def test_a_folder_is_read_file_by_file(arrays):
    """The resident memory grows by no more than two files, pages of files included."""
    folder, logits, targets = arrays
    *numbers, grown = run(
        folder,
        """
limit()
Path("/proc/self/clear_refs").write_text("5")
before = status("VmHWM:")
targets, metric, start, losses = opened("targets"), Perplexity(), 0, np.empty(4096, np.float32)
for i in range(8):
    part = opened(f"part-{i}")
    rows = slice(start, start + len(part))
    metric.update(part, targets[rows])
    xent.cross_entropy(part, targets[rows], reduction="none", out=losses[rows])
    start = rows.stop
print(*map(float.hex, metric.compute()[:2]), digest(losses), status("VmHWM:") - before)
""",
    )
    whole = Perplexity()
    whole.update(logits, targets)
    losses = xent.cross_entropy(logits, targets, reduction="none")
    assert numbers == [*map(float.hex, whole.compute()[:2]), digest(losses)]
    assert int(grown) < 2.5 * SIZE / FILES


def test_gradients_of_a_mean_over_files(arrays):
    """Rows scaled by the count of all of them, as the gradient of the mean is: one rounding apart at most."""
    folder, logits, targets = arrays
    expected = xent.cross_entropy(logits, targets, return_grad=True)[1]
    for start in range(0, ROWS, ROWS // FILES):
        rows = slice(start, start + ROWS // FILES)
        part = np.load(folder / f"part-{start * FILES // ROWS}.npy", mmap_mode="r")
        grad = xent.cross_entropy(
            part, targets[rows], reduction="sum", return_grad=True, grad_output=1 / ROWS
        )[1]
        np.testing.assert_array_max_ulp(grad, expected[rows], 1)


@pytest.mark.parametrize("stored", ["zarr", "files"])
def test_dask_reads_chunk_by_chunk(arrays, stored):
    """Loss and gradient on disk, in a process that may not hold a fourth of them."""
    pytest.importorskip("dask")
    folder, logits, targets = arrays
    if stored == "zarr":
        zarr = pytest.importorskip("zarr")
        z = zarr.create_array(
            folder / "logits.zarr", shape=logits.shape, chunks=(128, CLASSES), dtype="f4"
        )
        z[:] = logits
    (found,) = run(
        folder,
        f"""
import dask, dask.array as da, threading, xent.dask
xent.set_num_threads(1)
threading.stack_size(1 << 20)  # Zarr starts threads, whose stacks count as data
def chunk(file):
    shown = np.load(file, mmap_mode="r")
    return da.from_delayed(dask.delayed(np.load)(file, mmap_mode="r"), shown.shape, dtype=shown.dtype)
if {stored == "zarr"}:
    logits = da.from_zarr(folder / "logits.zarr")
else:
    logits = da.concatenate([chunk(folder / f"part-{{i}}.npy") for i in range(8)])
out = np.lib.format.open_memmap(folder / "{stored}.npy", "w+", logits.dtype, logits.shape)
targets = opened("targets")
tiny = da.zeros((4, 8), chunks=2)
xent.dask.cross_entropy(tiny, np.zeros(4, int)).compute()
allowed *= 2
limit()
loss, grad = xent.dask.cross_entropy(logits, targets, return_grad=True)
with dask.config.set(scheduler="threads", num_workers=2):
    print(float.hex(float(dask.compute(loss, da.store(grad, out, lock=False, compute=False))[0])))
""",
    )
    rows = xent.cross_entropy(logits, targets, reduction="none").astype(np.longdouble)
    assert np.float32(float.fromhex(found)) == np.float32(rows.mean())
    grad = xent.cross_entropy(logits, targets, return_grad=True)[1]
    np.testing.assert_array_max_ulp(np.load(folder / f"{stored}.npy", mmap_mode="r"), grad, 1)
