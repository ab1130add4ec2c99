"""Interleaved measurement: every contender runs in every round, and medians are compared.

Machines drift: clocks, neighbours, page placement. Contenders that take turns within a round
meet the same machine, so that the ratio of their medians means something where two runs
one after the other would not.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from math import ceil
from statistics import median, quantiles

from xent import _core
from xent.cli.bench.case import Case
from xent.cli.bench.data import draw
from xent.cli.bench.memory import memory, own_cache
from xent.cli.bench.rivals import RIVALS, assert_equal, available, prepare, results

Call = Callable[[], object]

#: Seconds that one turn lasts at least; shorter calls are repeated within it.
TURN = 0.005
#: Seconds of quiet before a turn: worker threads of the one before still spin for a while.
PAUSE = 0.005
#: Seconds for each round that one contender may use, on average; slow ones sit out some rounds.
BUDGET = 0.05
#: Rounds that even the slowest contender takes part in.
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Comparison:
    """Measured medians of one case.

    Attributes
    ----------
    case : Case
        What was measured.
    threads : int
        Threads each library was given.
    isa : str
        Instruction set that `xent` used.
    seconds : dict of str to float
        Median time of one call, by library.
    spread : dict of str to float
        Distance of the times' quartiles, as a share of the median: the noise.
    rounds : dict of str to int
        How many rounds that is the median of.
    left_out : dict of str to str
        Why a rival that is installed was not measured, by rival.
    memory_speed : float or None
        Bytes per second of the best plain read, or of the best copy if the case writes as
        much as it reads; None for cases that live in the cache, or that multiply matrices.
    """

    case: Case
    threads: int
    isa: str
    seconds: dict[str, float]
    spread: dict[str, float]
    rounds: dict[str, int]
    left_out: dict[str, str]
    memory_speed: float | None

    @property
    def fastest_rival(self) -> str | None:
        """The fastest library but `xent`."""
        rivals = self.seconds.keys() - {"xent"}
        return min(rivals, key=self.seconds.__getitem__, default=None)

    @property
    def speedup(self) -> float | None:
        """How many times as long the fastest rival takes."""
        rival = self.fastest_rival
        return self.seconds[rival] / self.seconds["xent"] if rival else None

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
        Seconds of a round; a contender that needs more runs in every second, or third, …

    Returns
    -------
    dict of str to list of float
        Seconds per call, one figure per round that the contender took part in.
    """
    numbers, strides = {}, {}
    for name, call in calls.items():
        once = min(timed(call, 1), timed(call, 1))
        number = numbers[name] = ceil(TURN / once)
        needed = (1 + number) * once
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


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    """Compute with one instruction set, in the whole process."""
    previous = _core.use_isa(isa)
    try:
        yield
    finally:
        _core.use_isa(previous)


def contenders(
    case: Case, rivals: Sequence[str], threads: int
) -> tuple[dict[str, Call], dict[str, str]]:
    """Prepare and warm up `xent` and its rivals, and assert that their results are equal.

    Returns
    -------
    calls : dict of str to callable
        By library.
    left_out : dict of str to str
        Why a rival has no call: what it raised.
    """
    data = draw(case)
    calls: dict[str, Call] = {"xent": prepare("xent", case, data, threads)}
    left_out = {}
    expected = results(calls["xent"]())
    for name in available(case, rivals):
        try:
            call = prepare(name, case, data, threads)
            result = call()
        except Exception as error:  # versions of libraries that nobody has tried
            left_out[name] = f"{type(error).__name__}: {error}"
            continue
        assert_equal(name, case, result, expected)
        calls[name] = call
    return calls, left_out


def is_in_memory(case: Case) -> bool:
    """Whether the case could be limited by memory, and moves more than the cache holds.

    Else the memory's speed says nothing.
    """
    return case.by_memory and case.bytes_moved > own_cache()


def compare(
    case: Case,
    threads: int,
    isa: str,
    rounds: int,
    rivals: Sequence[str] = tuple(RIVALS),
) -> Comparison:
    """Measure one case: all libraries, and the memory's speed in the same rounds."""
    with instruction_set(isa):
        calls, left_out = contenders(case, rivals, threads)
        moves: dict[str, Call] = {}
        moved = 0
        if is_in_memory(case):
            speed = memory(threads)
            moves = speed.copiers if case.writes else speed.readers
            moved = speed.copy_bytes if case.writes else speed.read_bytes
        probes = {f"memory:{name}": call for name, call in moves.items()}
        samples = interleave({**calls, **probes}, rounds)
    medians = {name: median(times) for name, times in samples.items()}
    return Comparison(
        case=case,
        threads=threads,
        isa=isa,
        seconds={name: medians[name] for name in calls},
        spread={name: spread(samples[name]) for name in calls},
        rounds={name: len(samples[name]) for name in calls},
        left_out=left_out,
        memory_speed=max((moved / medians[name] for name in probes), default=None),
    )


@dataclass(frozen=True)
class Relation:
    """A case beside the plain cross-entropy of the same logits, both by `xent`.

    `seconds` and `spread` are those of a :class:`Comparison`, of "case" and "plain".
    """

    case: Case
    threads: int
    isa: str
    seconds: dict[str, float]
    spread: dict[str, float]

    @property
    def time_ratio(self) -> float:
        """How many times as long the case takes."""
        return self.seconds["case"] / self.seconds["plain"]

    @property
    def bytes_ratio(self) -> float:
        """How many times as many bytes the case moves."""
        plain = self.case.plain
        assert plain is not None
        return self.case.bytes_moved / plain.bytes_moved

    @property
    def time_per_byte_ratio(self) -> float:
        """How many times as long the case takes for each byte it moves."""
        return self.time_ratio / self.bytes_ratio


def relate(case: Case, threads: int, isa: str, rounds: int) -> Relation:
    """Measure a case against its plain cross-entropy, in turns."""
    plain = case.plain
    assert plain is not None
    data = draw(case)
    calls = {
        "case": prepare("xent", case, data, threads),
        "plain": prepare("xent", plain, replace(draw(plain), logits=data.logits), threads),
    }
    with instruction_set(isa):
        samples = interleave(calls, rounds)
    return Relation(
        case=case,
        threads=threads,
        isa=isa,
        seconds={name: median(times) for name, times in samples.items()},
        spread={name: spread(times) for name, times in samples.items()},
    )


@dataclass(frozen=True)
class MemorySpeed:
    """Bytes per second: of the best plain read, and of the best copy, read and written."""

    threads: int
    read: float
    copy: float

    def settled(self, comparisons: Sequence[Comparison]) -> MemorySpeed:
        """The medians of these speeds and of those measured between the cases."""
        found = {"read": [self.read], "copy": [self.copy]}
        for one in comparisons:
            if one.memory_speed and one.threads == self.threads:
                found[one.yardstick].append(one.memory_speed)
        return MemorySpeed(self.threads, median(found["read"]), median(found["copy"]))


def memory_speed(threads: int, rounds: int = 10) -> MemorySpeed:
    """Measure the memory by itself."""
    buffers = memory(threads)
    reads, copies = (interleave(calls, rounds) for calls in (buffers.readers, buffers.copiers))
    return MemorySpeed(
        threads,
        buffers.read_bytes / min(map(median, reads.values())),
        buffers.copy_bytes / min(map(median, copies.values())),
    )
