"""Exchanges of messages between ranks: the closed formulas of their time, and a discrete-event simulation to check them.

A message of n bytes leaves its rank for n / bandwidth, travels for the latency, and is received for n / bandwidth, of which
the two overlap; a rank sends one message at a time, receives one at a time, and does both at once.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from heapq import heappop, heappush
from math import ceil, log2
from typing import Any, NamedTuple


class Network(NamedTuple):
    """Seconds that a message travels, and bytes a second of one rank in each direction."""

    latency: float = 2e-6
    bandwidth: float = 12.5e9

    def message(self, size: float) -> float:
        return self.latency + size / self.bandwidth


# What a rank does next.


class Compute(NamedTuple):
    seconds: float


class Send(NamedTuple):
    to: int
    size: float


class Receive(NamedTuple):
    source: int


Step = Compute | Send | Receive
Program = Generator[Step, None, None]


def simulate(programs: Sequence[Program], network: Network) -> list[float]:
    """Return when the program of each rank ends.

    Sending takes no time of the program: the message waits for its rank's port. A port receives messages in the order in
    which they reach it.
    """
    ranks = len(programs)
    sending, receiving = [0.0] * ranks, [0.0] * ranks
    arrived: defaultdict[tuple[int, int], deque[None]] = defaultdict(deque)
    waiting: list[int | None] = [None] * ranks
    ends = [0.0] * ranks
    # Time, number of the event, the rank it happens at, and for a message where it is and from whom.
    events: list[tuple[float, int, int, str, int, float]] = []
    count = 0

    def happens(time: float, rank: int, what: str, source: int = -1, size: float = 0.0) -> None:
        nonlocal count
        heappush(events, (time, count, rank, what, source, size))
        count += 1

    def proceed(time: float, rank: int) -> None:
        for step in programs[rank]:
            if isinstance(step, Compute):
                return happens(time + step.seconds, rank, "computed")
            if isinstance(step, Send):
                begin = max(time, sending[rank])
                sending[rank] = begin + step.size / network.bandwidth
                happens(begin + network.latency, step.to, "reaches", rank, step.size)
            elif arrived[step.source, rank]:
                arrived[step.source, rank].popleft()
            else:
                waiting[rank] = step.source
                return None
        ends[rank] = time
        return None

    for rank in range(ranks):
        proceed(0.0, rank)
    while events:
        time, _, rank, what, source, size = heappop(events)
        if what == "computed":
            proceed(time, rank)
        elif what == "reaches":
            receiving[rank] = max(time, receiving[rank]) + size / network.bandwidth
            happens(receiving[rank], rank, "received", source)
        elif waiting[rank] == source:
            waiting[rank] = None
            proceed(time, rank)
        else:
            arrived[source, rank].append(None)
    if stuck := [rank for rank, source in enumerate(waiting) if source is not None]:
        raise RuntimeError(f"rank {stuck[0]} waits for rank {waiting[stuck[0]]} for ever")
    return ends


# Collectives: what one of p ranks does. Sizes are those of the rank's own part in a gathering, of the sum in a reduction.
# Doubling and halving are for powers of two.


def exchange(partner: int, size: float) -> Iterator[Step]:
    yield Send(partner, size)
    yield Receive(partner)


def ring(rank: int, p: int, steps: int, size: float) -> Iterator[Step]:
    for _ in range(steps):
        yield Send((rank + 1) % p, size)
        yield Receive((rank - 1) % p)


def allgather_ring(rank: int, p: int, size: float) -> Iterator[Step]:
    yield from ring(rank, p, p - 1, size)


def allgather_doubling(rank: int, p: int, size: float) -> Iterator[Step]:
    distance = 1
    while distance < p:
        yield from exchange(rank ^ distance, size * distance)
        distance *= 2


def allreduce_ring(rank: int, p: int, size: float) -> Iterator[Step]:
    yield from ring(rank, p, 2 * (p - 1), size / p)


def allreduce_doubling(rank: int, p: int, size: float) -> Iterator[Step]:
    distance = 1
    while distance < p:
        yield from exchange(rank ^ distance, size)
        distance *= 2


def allreduce_halving(rank: int, p: int, size: float) -> Iterator[Step]:
    """Reduce halves of halves, then gather them (Rabenseifner)."""
    distance = p // 2
    while distance:
        yield from exchange(rank ^ distance, size * distance / p)
        distance //= 2
    yield from allgather_doubling(rank, p, size / p)


def alltoall(rank: int, p: int, size: float) -> Iterator[Step]:
    """Send each rank its p-th of one's part."""
    for step in range(1, p):
        yield Send((rank + step) % p, size / p)
        yield Receive((rank - step) % p)


COLLECTIVES: dict[str, Callable[[int, int, float], Iterator[Step]]] = {
    "allgather, ring": allgather_ring,
    "allgather, doubling": allgather_doubling,
    "allreduce, ring": allreduce_ring,
    "allreduce, doubling": allreduce_doubling,
    "allreduce, halving": allreduce_halving,
    "alltoall": alltoall,
}


def seconds(name: str, p: int, size: float, network: Network) -> float:
    """Return the closed formula of a collective's time, if all ranks begin together."""
    a, bytes_in = network.latency, size / network.bandwidth
    steps = ceil(log2(p))
    return {
        "allgather, ring": (p - 1) * (a + bytes_in),
        "allgather, doubling": steps * a + (p - 1) * bytes_in,
        "allreduce, ring": 2 * (p - 1) * (a + bytes_in / p),
        "allreduce, doubling": steps * (a + bytes_in),
        "allreduce, halving": 2 * (steps * a + (p - 1) / p * bytes_in),
        # A rank sends on as soon as it has received, so that each message costs its latency.
        "alltoall": (p - 1) * (a + bytes_in / p),
    }[name]


def fastest(kind: str, p: int, size: float, network: Network) -> float:
    """Return the time of the fastest algorithm of a kind of collective, as MPI libraries choose by size."""
    return min(seconds(name, p, size, network) for name in COLLECTIVES if name.startswith(kind))


def expected_maximum(p: int) -> float:
    """Return the mean of the largest of p exponential variables of mean 1: the harmonic number."""
    return sum(1 / k for k in range(1, p + 1))


def blocks(name: str, p: int, size: float, work: Any, network: Network) -> float:
    """Simulate blocks of rows, each of them work and a collective; `work` has the seconds of each block and rank."""

    def program(rank: int) -> Program:
        for each in work:
            yield Compute(float(each[rank]))
            yield from COLLECTIVES[name](rank, p, size)

    return max(simulate([program(rank) for rank in range(p)], network))
