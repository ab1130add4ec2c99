"""Interleaved measurement: every contender runs in every round, and medians are compared.

Machines drift: clocks, neighbours, page placement. Contenders that take turns within a round
meet the same machine, so that the ratio of their medians means something where two runs
one after the other would not.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from math import ceil
from statistics import median, quantiles

from cases import Case
from memory import Memory
from rivals import LIBRARIES, answer, assert_equal, available, prepare

Call = Callable[[], object]

#: Seconds that one turn lasts at least; shorter calls are repeated within it.
TURN = 0.005
#: Seconds of quiet before a turn: worker threads of the one before still spin for a while.
PAUSE = 0.005
#: Seconds that one contender may use per case; slow ones sit out some rounds.
BUDGET = 4.0
#: Rounds that even the slowest contender takes part in.
FEWEST_ROUNDS = 5
#: Cases that move less live in the cache, where a share of the memory's speed says nothing.
MEMORY_BOUND = 16 << 20


@dataclass(frozen=True)
class Comparison:
    """Measured medians of one case.

    Attributes
    ----------
    case : Case
        What was measured.
    threads : int
        Threads each library was given.
    seconds : dict of str to float
        Median time of one call, by library.
    spread : dict of str to float
        Distance of the times' quartiles, as a share of the median: the noise.
    rounds : dict of str to int
        How many rounds that is the median of.
    memory_speed : float or None
        Bytes per second of the best plain read, or of the best copy if the case writes as
        much as it reads; None for cases that live in the cache.
    """

    case: Case
    threads: int
    seconds: dict[str, float]
    spread: dict[str, float]
    rounds: dict[str, int]
    memory_speed: float | None

    @property
    def fastest_rival(self) -> str | None:
        """The fastest library but `xent`."""
        rivals = self.seconds.keys() - {"xent"}
        return min(rivals, key=self.seconds.__getitem__, default=None)

    def speedup(self, rival: str) -> float:
        """How many times faster than the rival `xent` is."""
        return self.seconds[rival] / self.seconds["xent"]

    @property
    def bandwidth(self) -> float:
        """Bytes per second that `xent` moves, counting each byte it has to move once."""
        return self.case.bytes_moved / self.seconds["xent"]

    @property
    def yardstick(self) -> str:
        """What `memory_speed` is the speed of: "read" or "copy"."""
        return "copy" if self.case.writes else "read"

    @property
    def memory_share(self) -> float | None:
        """`bandwidth` as a share of `memory_speed`."""
        return self.bandwidth / self.memory_speed if self.memory_speed else None


def spread(times: Sequence[float]) -> float:
    """Interquartile range of the times, as a share of their median."""
    if len(times) < 2:
        return 0.0
    first, middle, third = quantiles(times, n=4, method="inclusive")
    return (third - first) / middle


def timed(call: Call, number: int) -> float:
    """Seconds per call over `number` calls in a row."""
    start = time.perf_counter()
    for _ in repeat(None, number):
        call()
    return (time.perf_counter() - start) / number


def interleave(
    calls: Mapping[str, Call], rounds: int, budget: float = BUDGET
) -> dict[str, list[float]]:
    """Time the calls in turn, in an order that rotates from round to round.

    Parameters
    ----------
    calls : mapping of str to callable
        Contenders by name, warmed up.
    rounds : int
        Rounds to run.
    budget : float
        Seconds per contender; one that needs more runs in every second round, or third, …

    Returns
    -------
    dict of str to list of float
        Seconds per call, one figure per round that the contender took part in.
    """
    numbers, strides = {}, {}
    for name, call in calls.items():
        once = min(timed(call, 1), timed(call, 1))
        number = numbers[name] = ceil(TURN / once)
        needed = rounds * (1 + number) * once
        strides[name] = max(1, min(ceil(needed / budget), rounds // FEWEST_ROUNDS))
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if turn % strides[name] == 0:
                    time.sleep(PAUSE)
                    calls[name]()  # wakes the contender's own threads
                    samples[name].append(timed(calls[name], numbers[name]))
    finally:
        if collecting:
            gc.enable()
    return samples


def contenders(case: Case, libraries: Sequence[str], threads: int) -> dict[str, Call]:
    """Prepare and warm up each library for the case, and assert that the answers are equal."""
    data = case.data()
    calls = {name: prepare(name, case, data, threads) for name in available(case, libraries)}
    expected = answer(calls["xent"]())
    for name, call in calls.items():
        assert_equal(name, case, call(), expected)
    return calls


def compare(
    case: Case,
    memory: Memory,
    threads: int,
    rounds: int = 30,
    libraries: Sequence[str] = tuple(LIBRARIES),
) -> Comparison:
    """Measure one case: all libraries, and the memory's speed in the same rounds."""
    libraries_calls = contenders(case, libraries, threads)
    moves = memory.copiers if case.writes else memory.readers
    moved = memory.copy_bytes if case.writes else memory.read_bytes
    in_memory = case.bytes_moved >= MEMORY_BOUND
    moves_calls = {f"memory:{name}": call for name, call in moves.items() if in_memory}
    samples = interleave({**libraries_calls, **moves_calls}, rounds)
    medians = {name: median(times) for name, times in samples.items()}
    return Comparison(
        case=case,
        threads=threads,
        seconds={name: medians[name] for name in libraries_calls},
        spread={name: spread(samples[name]) for name in libraries_calls},
        rounds={name: len(samples[name]) for name in libraries_calls},
        memory_speed=max((moved / medians[name] for name in moves_calls), default=None),
    )


@dataclass(frozen=True)
class Relation:
    """A case beside the plain cross-entropy of the same logits, both by `xent`.

    `seconds` and `spread` are those of a :class:`Comparison`, of "case" and "plain".
    """

    case: Case
    threads: int
    seconds: dict[str, float]
    spread: dict[str, float]

    @property
    def time_ratio(self) -> float:
        """How many times as long the case takes."""
        return self.seconds["case"] / self.seconds["plain"]

    @property
    def bytes_ratio(self) -> float:
        """How many times as many bytes the case moves."""
        return self.case.bytes_moved / self.case.plain.bytes_moved

    @property
    def time_per_byte_ratio(self) -> float:
        """How many times as long the case takes for each byte it moves."""
        return self.time_ratio / self.bytes_ratio


def relate(case: Case, threads: int, rounds: int = 30) -> Relation:
    """Measure a case against its plain cross-entropy, in turns."""
    data = case.data()
    plain_data = replace(case.plain.data(), logits=data.logits)
    calls = {
        "case": prepare("xent", case, data, threads),
        "plain": prepare("xent", case.plain, plain_data, threads),
    }
    samples = interleave(calls, rounds)
    return Relation(
        case=case,
        threads=threads,
        seconds={name: median(times) for name, times in samples.items()},
        spread={name: spread(times) for name, times in samples.items()},
    )


def memory_speeds(memory: Memory, rounds: int = 10) -> tuple[float, float]:
    """Read and copy speed in bytes per second, for runs that do not interleave."""
    reads = interleave(memory.readers, rounds)
    copies = interleave(memory.copiers, rounds)
    return (
        memory.read_bytes / min(map(median, reads.values())),
        memory.copy_bytes / min(map(median, copies.values())),
    )
