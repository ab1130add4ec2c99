"""Plan a vocabulary that is divided among ranks: bytes exchanged, memory of a rank, expected efficiency.

    python benchmarks/scaling.py [--measure] [--faster N] [--latency S] [--bandwidth B] [--simulate] [--plot FILE]

The speeds of a rank were measured on two cores; `--measure` measures this machine's. The network is stated. `--simulate`
compares the formulas with a discrete-event simulation of every message (simulation.py), and tells how much later ranks end
whose times vary. What is sent is counted in calls of xent.mpi, where mpi4py is installed.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from math import ceil, log2, log10
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from simulation import COLLECTIVES, Network, blocks, expected_maximum, fastest, seconds
from xent import stages

CHUNK = 16384
RANKS = (128, 1024, 8192)
CLASSES = (10**5, 10**6, 10**7)


class Rank(NamedTuple):
    """Operations of a matrix product, bytes of logits read for the loss and for the gradient in a second; seconds in which
    the sums that a row has from one rank are merged."""

    flops: float
    read: float
    apply: float
    merge: float

    def faster(self, times: float) -> Rank:
        return Rank(self.flops * times, self.read * times, self.apply * times, self.merge / times)


#: Two virtual cores of an Intel Xeon with AVX-512 on which other programs ran: the best of five runs of `--measure`.
MEASURED = Rank(1.2e11, 1.4e10, 8.9e9, 4.3e-7)
#: A rank of many cores, as a whole server is.
FASTER = 20


def measured() -> Rank:
    """Return the best of many short calls on this machine: what it does when nothing else runs."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (128, 4 * CHUNK)).astype(np.float32)
    targets, out = rng.integers(0, 4 * CHUNK, 128), np.empty_like(logits)
    a = rng.normal(size=(512, 512)).astype(np.float32)
    b = rng.normal(size=(512, 4096)).astype(np.float32)
    sums = stages.reduce(logits, targets)
    shards = np.repeat(sums[None], 32, 0)
    shards["has_target"][1:] = 0
    for i, shard in enumerate(shards):
        shard["class_begin"], shard["class_end"] = i * CHUNK, (i + 1) * CHUNK
    shards["num_classes"] = len(shards) * CHUNK
    calls = (
        lambda: a @ b,
        lambda: stages.reduce(logits, targets),
        lambda: stages.apply(logits, sums, targets, grad_out=out, nll=1.0),
        lambda: stages.merge(*shards),
    )
    best = [float("inf")] * len(calls)
    for _ in range(50):
        for i, call in enumerate(calls):
            start = perf_counter()
            call()
            best[i] = min(best[i], perf_counter() - start)
    product, read, apply, merge = best
    return Rank(
        2 * a.shape[0] * b.size / product,
        logits.nbytes / read,
        logits.nbytes / apply,
        merge / shards.size,
    )


def exchanged(classes: int = 100, rows: int = 64) -> list[tuple[str, int]]:
    """Return the collectives of a call of `xent.mpi.cross_entropy` and the bytes that a rank gives to each."""
    from mpi4py import MPI

    import xent.mpi

    calls: list[tuple[str, int]] = []

    class Counting(MPI.Intracomm):  # type: ignore[misc]
        """A communicator that counts."""

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if not name.lower().lstrip("i").startswith(("all", "bcast", "exscan", "reduce")):
                return found

            def counted(*arguments: Any, **options: Any) -> Any:
                given = [a for a in arguments[:2] if a is not MPI.IN_PLACE]
                buffer = given[0][0] if isinstance(given[0], list) else given[0]
                calls.append((name, getattr(buffer, "nbytes", 0)))
                return found(*arguments, **options)

            return counted

    logits = np.zeros((rows, classes), np.float32)
    targets = np.zeros(rows, np.int64)
    xent.mpi.cross_entropy(logits, targets, comm=Counting(MPI.COMM_SELF), return_grad=True)
    return calls


class Traffic(NamedTuple):
    """Bytes that a rank sends of each row, by the number of its chunks from one on; exchanges of a few bytes in a call."""

    by_chunks: tuple[int, ...]
    agreements: int

    def row(self, chunks: int) -> int:
        """Return the bytes of a row; of more chunks than were counted, as the last ones grow."""
        known = self.by_chunks
        if chunks <= len(known):
            return known[chunks - 1]
        return known[-1] + (chunks - len(known)) * (known[-1] - known[-2])


def traffic() -> Traffic:
    """Return what the program says that it sends; without mpi4py, the sums as they lie in memory."""
    few, many, counted = 16, 80, range(1, 5)
    try:
        pairs = [[exchanged(n * CHUNK, rows) for rows in (few, many)] for n in counted]
    except ModuleNotFoundError:
        return Traffic(tuple(n * stages.dtype.itemsize for n in counted), 5)
    grown = [
        [(b - a) / (many - few) for (_, a), (_, b) in zip(*pair, strict=True)] for pair in pairs
    ]
    return Traffic(tuple(round(sum(each)) for each in grown), grown[0].count(0))


class Loss(NamedTuple):
    """A call of `cross_entropy` with its gradient: rows, classes of the vocabulary, ranks that divide them."""

    rows: int
    classes: int
    ranks: int

    @property
    def chunks(self) -> int:
        """Chunks of a rank's classes, each of which has sums of its own."""
        return ceil(self.classes / self.ranks / CHUNK)

    def work(self, rank: Rank) -> float:
        """Seconds in which a rank reads its logits and writes their gradient."""
        size = 4 * self.rows * self.classes / self.ranks
        return size / rank.read + size / rank.apply

    def received(self, how: str, sent: Traffic) -> float:
        """Bytes that a rank receives for each row."""
        others = (self.ranks - 1) / self.ranks
        return {
            "Allgather": (self.ranks - 1) * sent.row(self.chunks),
            "rows divided": others * (sent.row(self.chunks) + sent.row(1)),
            "three Allreduces": 3 * 2 * others * 4,
        }[how]

    def exchange(self, how: str, rank: Rank, network: Network, sent: Traffic) -> float:
        """Seconds of everything that one process has not to do.

        `Allgather`: every rank gets the sums of all and merges those of all rows. `rows divided`: each gets those of its
        share of the rows, merges them, and gathers what the others have merged. `three Allreduces`: Megatron-LM's, of
        float32 maxima, targets' logits and sums of exponentials; bits depend on the number of ranks.
        """
        p, size = self.ranks, self.rows * sent.row(self.chunks)
        merging = self.rows * p * rank.merge * (sent.row(self.chunks) / sent.row(1))
        if how == "three Allreduces":
            return 3 * fastest("allreduce", p, 4 * self.rows, network)
        agreed = sent.agreements * ceil(log2(p)) * network.latency
        if how == "Allgather":
            return agreed + merging + fastest("allgather", p, size, network)
        merged = fastest("allgather", p, self.rows / p * sent.row(1), network)
        return agreed + merging / p + merged + fastest("alltoall", p, size, network)

    def efficiency(self, how: str, rank: Rank, network: Network, sent: Traffic) -> float:
        work = self.work(rank)
        return work / (work + self.exchange(how, rank, network, sent))


HOW = ("Allgather", "rows divided", "three Allreduces")


class Layer(NamedTuple):
    """The last layer of a training step: its tokens, features and classes; the ranks along rows and along classes."""

    tokens: int
    features: int
    classes: int
    down: int
    across: int

    @property
    def loss(self) -> Loss:
        return Loss(ceil(self.tokens / self.down), self.classes, self.across)

    @property
    def block(self) -> int:
        """Rows of a block, of 64 MiB of logits."""
        return min(self.loss.rows, max(256, (64 << 20) * self.across // (4 * self.classes)))

    def memory(self, sent: Traffic) -> float:
        """Bytes of a rank: weight and gradient, hidden states and gradient, a block of logits, 64 MiB of sums at most."""
        matrix = 4 * self.features * self.classes / self.across
        states = 4 * self.features * self.loss.rows
        logits = 4 * self.block * self.classes / self.across
        received = min(64 << 20, self.block * self.across * sent.row(self.loss.chunks))
        return 2 * matrix + 2 * states + logits + received

    def work(self, rank: Rank) -> float:
        products = 6 * self.loss.rows * self.features * self.classes / self.across
        return products / rank.flops + self.loss.work(rank)

    def exchange(
        self, how: str, rank: Rank, network: Network, sent: Traffic
    ) -> tuple[float, float, float]:
        """Seconds for the sums, for the gradient of the hidden states, for that of the weight over the rows."""
        rows, weight = self.loss.rows, 4 * self.features * self.classes / self.across
        count = ceil(rows / self.block)
        a_block = Loss(ceil(rows / count), self.classes, self.across)
        hidden = fastest("allreduce", self.across, 4 * a_block.rows * self.features, network)
        return (
            count * a_block.exchange(how, rank, network, sent) if self.across > 1 else 0.0,
            count * hidden,
            fastest("allreduce", self.down, weight, network),
        )

    def efficiency(self, how: str, rank: Rank, network: Network, sent: Traffic) -> float:
        work = self.work(rank)
        return work / (work + sum(self.exchange(how, rank, network, sent)))


def best_grid(
    ranks: int, classes: int, how: str, rank: Rank, network: Network, sent: Traffic, memory: float
) -> Layer:
    """Return the grid of 2^20 tokens and 4,096 features that is fastest within a rank's memory."""
    across = [2**i for i in range(int(log2(ranks)) + 1)]
    grids = [Layer(2**20, 4096, classes, ranks // p, p) for p in across]
    fit = [grid for grid in grids if grid.memory(sent) <= memory] or grids[-1:]
    return max(fit, key=lambda grid: grid.efficiency(how, rank, network, sent))


def size(number: float) -> str:
    power = min(3, int(log10(max(1.0, number * 1.0005)) / 3))
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"


def row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def tables(rank: Rank, network: Network, sent: Traffic) -> Iterator[str]:
    """Yield the lines of docs/scaling.md's tables."""
    yield row("classes", "ranks", "classes of a rank", *(f"{how}: bytes a row" for how in HOW))
    yield row(*["---:"] * 6)
    for classes in CLASSES:
        for p in RANKS:
            one = Loss(4096, classes, p)
            yield row(
                f"{classes:,}",
                f"{p:,}",
                f"{classes // p:,}",
                *(size(one.received(how, sent)) for how in HOW),
            )
    yield ""
    yield row("classes", "ranks", "a rank's work", *HOW)
    yield row(*["---:"] * 6)
    for classes in CLASSES:
        for p in RANKS:
            one = Loss(4096, classes, p)
            shares = (f"{one.efficiency(how, rank, network, sent):.1%}" for how in HOW)
            yield row(f"{classes:,}", f"{p:,}", f"{one.work(rank) * 1e3:.3g} ms", *shares)
    yield ""
    faster = rank.faster(FASTER)
    heads = ("grid", "memory", "a step", "efficiency")
    yield row("classes", "ranks", *heads, *(f"{FASTER} times faster: {head}" for head in heads))
    yield row(*["---:"] * 10)
    for classes in CLASSES:
        for p in RANKS:
            cells: list[str] = []
            for kind in (rank, faster):
                one = best_grid(p, classes, HOW[0], kind, network, sent, 64e9)
                taken = one.work(kind) + sum(one.exchange(HOW[0], kind, network, sent))
                share = one.efficiency(HOW[0], kind, network, sent)
                memory = size(one.memory(sent))
                cells += [f"{one.down} × {one.across}", memory, f"{taken:,.3g} s", f"{share:.1%}"]
            yield row(f"{classes:,}", f"{p:,}", *cells)


def simulated(network: Network, ranks: int = 64, repeats: int = 100) -> Iterator[str]:
    """Yield what the simulation says beside the formulas: without noise, with noise, and of many blocks."""
    generator = random.Random(0)
    work, noise, message, count = 1e-3, 1e-4, 10_000, 10

    def drawn() -> list[float]:
        return [work + generator.expovariate(1 / noise) for _ in range(ranks)]

    yield row("collective", "formula", "simulated", "with noise: formula", "simulated", "10 blocks")
    yield row(*["---:"] * 6)
    for name in COLLECTIVES:
        plain = blocks(name, ranks, message, [[0.0] * ranks], network)
        formula = seconds(name, ranks, message, network)
        late = work + noise * expected_maximum(ranks) + formula
        found = [blocks(name, ranks, message, [drawn()], network) for _ in range(repeats)]
        many = blocks(name, ranks, message, [drawn() for _ in range(count)], network) / count
        error = stdev(found) / repeats**0.5
        yield row(
            name,
            f"{formula * 1e6:.2f} µs",
            f"{plain * 1e6:.2f} µs",
            f"{late * 1e6:.0f} µs",
            f"{mean(found) * 1e6:.0f} ± {error * 1e6:.0f} µs",
            f"{many * 1e6:.0f} µs each",
        )


def draw(path: Path, rank: Rank, network: Network, sent: Traffic) -> None:
    """Draw the efficiency of `cross_entropy` over the number of ranks."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    style = {"axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent", **style}):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        panels = figure.subplots(1, len(CLASSES), sharey=True)
        ranks = [2**i for i in range(15)]
        for axes, classes in zip(panels, CLASSES, strict=True):
            for how, color in zip(HOW, ("#08519c", "#d94801", "#737373"), strict=True):
                shares = [
                    Loss(4096, classes, p).efficiency(how, rank, network, sent) if p > 1 else 1.0
                    for p in ranks
                ]
                axes.plot(ranks, shares, color=color, label=how)
            axes.set(title=f"{classes:,} classes", xlabel="ranks", xscale="log", ylim=(0, 1.02))
            axes.xaxis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("efficiency, 4,096 rows")
        panels[0].legend()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--faster", type=float, default=1.0, metavar="N", help="ranks, N times")
    parser.add_argument("--latency", type=float, default=Network().latency, metavar="S")
    parser.add_argument("--bandwidth", type=float, default=Network().bandwidth, metavar="B")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    network = Network(options.latency, options.bandwidth)
    rank = (measured() if options.measure else MEASURED).faster(options.faster)
    sent = traffic()
    print(
        f"A rank: {rank.flops / 1e9:.3g} GFLOP/s, loss {rank.read / 1e9:.3g} GB/s, gradient ",
        end="",
    )
    print(f"{rank.apply / 1e9:.3g} GB/s, merges a row of a rank in {rank.merge * 1e9:.3g} ns")
    print(f"Network: {network.latency * 1e6:g} µs, {network.bandwidth / 1e9:g} GB/s each way")
    print(f"A row of 1 to 4 chunks: {', '.join(map(str, sent.by_chunks))} bytes; ", end="")
    print(f"{sent.agreements} small exchanges\n")
    print("\n".join(tables(rank, network, sent)))
    if options.simulate:
        print("\n" + "\n".join(simulated(network)))
    if options.plot:
        draw(options.plot, rank, network, sent)


if __name__ == "__main__":
    main()
