"""Evaluate logits that are larger than the memory: loss, perplexity and accuracy of a folder of .npy files.

    python examples/larger_than_memory.py [--rows N] [--classes C] [--memory MB] [--folder DIR]

Random logits are written in files of 64 MB, which stay if --folder is given. Then the process limits its own memory to
`--memory` beyond what it has, too little for all logits at once, and reads one file after the other. With --rows 10000000
the files are 655 GB, and nothing else changes.
"""

import argparse
import resource
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

import xent
from xent.cli.terminal import at_least, progress
from xent.metrics import Perplexity

FILE_BYTES = 64_000_000


def write(folder, rows, classes):
    """Write logits and targets, such as a model has that is right more often than not."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    step = max(1, FILE_BYTES // (4 * classes))
    with progress("Writing", -(-rows // step)) as advance:
        for number, start in enumerate(range(0, rows, step)):
            count = min(step, rows - start)
            targets = rng.integers(0, classes, count)
            logits = rng.standard_normal((count, classes), np.float32)
            logits[np.arange(count), targets] += 5
            np.save(folder / f"logits-{number:05}.npy", logits)
            np.save(folder / f"targets-{number:05}.npy", targets)
            advance()


def load(file):
    """Return logits, which are read where they are needed, and their targets."""
    return np.load(file, mmap_mode="r"), np.load(
        file.with_name(file.name.replace("logits", "targets"))
    )


def evaluate(files):
    """Return the metrics of all rows, and how many of them are right."""
    tokens, right = Perplexity(), 0
    with progress("Evaluating", len(files)) as advance:
        for file in files:
            logits, targets = load(file)
            row = xent.score(logits, targets)
            tokens.update_log_probs(row.log_prob)
            right += np.count_nonzero(row.argmax == targets)
            advance()
    return tokens.compute(), right


def exact(logits, targets):
    """Return the log-probabilities of the targets by the formula, in the longest floats there are."""
    z = logits.astype(np.longdouble)
    top = z.max(axis=1)
    return z[np.arange(len(z)), targets] - top - np.log(np.exp(z - top[:, None]).sum(axis=1))


def status(name):
    """Return a number of megabytes that Linux has of this process."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1]) * 1024 / 1e6


def limit(megabytes):
    """Allow so much more memory of the process's own; pages of files that are only read are not its own."""
    allowed = int((status("VmData:") + megabytes) * 1e6)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def run(folder, options):
    write(folder, options.rows, options.classes)
    files = sorted(folder.glob("logits-*.npy"))
    size = sum(load(file)[0].nbytes for file in files) / 1e6
    print(
        f"Logits        {options.rows:,} x {options.classes:,}, {size:,.0f} MB in {len(files)} files"
    )
    evaluate(files[:1])  # threads are started, the kernels chosen
    limit(options.memory)
    try:
        np.concatenate([load(file)[0] for file in files])
        print(f"At once       they fit {options.memory} MB: a larger --rows would not")
    except MemoryError:
        print(f"At once       MemoryError: {options.memory} MB are allowed")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = status("VmHWM:"), perf_counter()
    found, right = evaluate(files)
    seconds = perf_counter() - start
    print(f"File by file  loss {found.loss:.6f}, perplexity {found.perplexity:.3f}")
    print(f"              accuracy {right / found.count:.2%} of {found.count:,}")
    grown = status("VmHWM:") - before
    print(
        f"              {size / seconds / 1e3:.2f} GB/s; memory grew by {grown:.0f} MB, the file read last included"
    )

    logits, targets = (part[:100] for part in load(files[0]))
    error = np.abs(xent.score(logits, targets).log_prob - exact(logits, targets)).max()
    print(f"100 rows      log-probabilities within {error:.0e} of the formula in longer floats")
    if error > 1e-5:
        raise SystemExit(1)


def main():
    parser = argparse.ArgumentParser(description="Evaluate logits that are larger than the memory.")
    for name, default, meaning in (
        ("--rows", 8192, "rows of logits"),
        ("--classes", 16384, "classes of each row"),
        ("--memory", 200, "megabytes that the evaluation may take"),
    ):
        parser.add_argument(
            name, type=at_least(1), default=default, metavar="N", help=f"{meaning} ({default})"
        )
    parser.add_argument("--folder", type=Path, help="where to write the files, which stay there")
    options = parser.parse_args()
    if options.folder:
        run(options.folder, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), options)


if __name__ == "__main__":
    main()
