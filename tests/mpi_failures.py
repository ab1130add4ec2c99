"""Calls in which one rank fails, which tests/test_mpi.py runs on every rank: `mpiexec -n 4 python mpi_failures.py 1000`.

A rank that waits for another for too long ends the program.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import Thread
from time import sleep
from typing import Any

import numpy as np
from mpi4py import MPI

import xent
import xent.mpi
from xent import _linear, stages
from xent.mpi import _digits, _losses, _ranks, _shard, _special, _sums
from xent.mpi import _linear as linear

COMM = MPI.COMM_WORLD
CHUNK = 16384
SECONDS = 60  # longer than any call takes

# Functions that a rank may fail in, of every step from validation to the last result.
STEPS: list[tuple[Any, str]] = [
    (_losses, "options_of"),
    (_losses.Results, "call"),
    (_losses.Results, "sums"),
    (_losses.Results, "finish"),
    (_special, "stage_request"),
    (_ranks, "digest"),
    (_shard.Shard, "prepare"),
    (_shard.Shard, "own"),
    (_shard.Shard, "take"),
    (_shard.Shard, "rows"),
    (_shard.Shard, "grad"),
    (_shard.Shard, "with_hess"),
    (_shard.Shard, "own_variance"),
    (_shard.Shard, "temperature_total"),
    (_shard, "counted"),
    (_shard, "held_weights"),
    (stages, "reduce"),
    (stages, "values"),
    (stages, "apply"),
    (_sums, "own_sums"),
    (_sums, "moved"),
    (_sums.Exchange, "empty"),
    (_sums.Exchange, "store"),
    (_digits, "digits"),
    (_digits, "pack"),
    (_digits, "unpack"),
    (_digits, "total"),
    (linear, "linear_request"),
    (linear.LinearShard, "divisor"),
    (linear.LinearShard, "prepare"),
    (linear.LinearShard, "load"),
    (linear.LinearShard, "next_block"),
    (linear.LinearShard, "backward"),
    (linear.LinearShard, "multiply"),
    (linear.LinearShard, "write_hidden"),
    (linear.LinearShard, "finish_sums"),
]


class Call:
    """A call of random options, the same on every rank but for the slice."""

    def __init__(self, rng: np.random.Generator, comm: MPI.Intracomm):
        self.comm, self.rng = comm, rng
        self.name = str(
            rng.choice(["cross_entropy", "linear_cross_entropy", "softmax", "logsumexp"])
        )
        # Slices of one chunk, or of several.
        most = 3 * CHUNK * comm.size if rng.random() < 0.2 else 60
        self.classes = int(rng.integers(1, most))
        cuts = np.sort(rng.integers(0, self.classes + 1, comm.size - 1)).tolist()
        self.bounds = [0, *cuts, self.classes]
        self.rows = int(rng.integers(1, 7))
        self.dtype = str(rng.choice(["float16", "float32", "float64"]))
        self.logits = rng.normal(0, 3, (self.rows, self.classes)).astype(self.dtype)
        self.targets = rng.integers(0, self.classes, self.rows)
        features = int(rng.integers(1, 5))
        self.hidden = rng.normal(size=(self.rows, features)).astype(self.dtype)
        self.weight = rng.normal(size=(self.classes, features)).astype(self.dtype)
        self.offset: int | None = None
        self.extra: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        if self.name.endswith("cross_entropy"):
            self.options = {
                "return_grad": bool(rng.integers(2)),
                "label_smoothing": float(rng.choice([0, 0.1])),
                "z_loss": float(rng.choice([0, 0.1])),
                "reduction": str(rng.choice(["mean", "sum", "none"])),
            }
            if rng.integers(2):
                self.options["class_weight"] = rng.uniform(0.5, 2, self.classes)
            if rng.integers(2):
                self.options["return_temperature_grad"] = True
            if self.name == "cross_entropy" and rng.integers(2):
                kind = str(rng.choice(["entropy_weight", "return_hess"]))
                self.options[kind] = 0.1 if kind == "entropy_weight" else True
                if kind == "return_hess":
                    self.options.pop("return_temperature_grad", None)

    def __call__(self) -> Any:
        begin, end = self.bounds[self.comm.rank : self.comm.rank + 2]
        given = self.options | self.extra
        if "class_weight" in given:
            given["class_weight"] = given["class_weight"][begin:end]
        given |= {"comm": self.comm, "class_offset": self.offset}
        function = getattr(xent.mpi, self.name)
        if self.name == "linear_cross_entropy":
            return function(self.hidden, self.weight[begin:end], self.targets, **given)
        own = self.logits[:, begin:end]
        return (
            function(own, self.targets, **given) if "reduction" in given else function(own, **given)
        )


def wrong(call: Call, rng: np.random.Generator) -> str:
    """Give this rank an argument that is bad, or is another than those of the others; say which."""
    is_loss = "reduction" in call.options
    kinds = ["rows", "dtype", "offset", "gap"]
    kinds += ["target", "option", "targets", "reduction", "type"] if is_loss else []
    kinds += ["results"] if is_loss and not call.options.get("return_hess") else []
    kind = str(rng.choice(kinds))
    if kind == "rows":
        call.logits, call.hidden = call.logits[:-1], call.hidden[:-1]
        call.targets = call.targets[:-1]
    elif kind == "dtype":
        other = "float64" if call.dtype == "float32" else "float32"
        call.logits, call.hidden = call.logits.astype(other), call.hidden.astype(other)
        call.weight = call.weight.astype(other)
    elif kind == "offset":
        call.offset = call.bounds[call.comm.rank]
    elif kind == "gap":
        call.offset = call.bounds[call.comm.rank] + 1
    elif kind == "target":
        call.targets[rng.integers(call.rows)] = call.classes
    elif kind == "option":
        call.extra = {"z_loss": 0.25}
    elif kind == "targets":
        call.targets[0] = (call.targets[0] + 1) % call.classes if call.classes > 1 else -100
    elif kind == "reduction":
        call.extra = {"reduction": "sum" if call.options["reduction"] != "sum" else "mean"}
    elif kind == "results":
        call.extra = {"return_grad": not call.options["return_grad"]}
    elif kind == "type":
        call.extra = {"temperature": "warm"}
    return kind


class Steps:
    """Counts how often a call takes each step; one of them may fail when it is taken for the `number`th time."""

    def __init__(self, fails: tuple[Any, str] | None = None, number: int = 0, failure: Any = None):
        self.taken: Counter[int] = Counter()
        self.fails, self.number, self.failure = fails, number, failure

    def __enter__(self) -> Steps:
        self.before = [(at, name, getattr(at, name), name in vars(at)) for at, name in STEPS]
        for position, (at, name, before, _) in enumerate(self.before):
            setattr(at, name, self.wrapped(position, before))
        return self

    def wrapped(self, position: int, before: Any) -> Any:
        def step(*args: Any, **given: Any) -> Any:
            self.taken[position] += 1
            if STEPS[position] == self.fails and self.taken[position] == self.number:
                self.failure()
            return before(*args, **given)

        return step

    def __exit__(self, *raised: object) -> None:
        for at, name, before, is_own in self.before:
            if is_own:
                setattr(at, name, before)
            else:
                delattr(at, name)


def memory() -> None:
    raise MemoryError("injected")


def interrupt() -> None:
    raise KeyboardInterrupt


def strange() -> None:
    class Local(Exception):
        """Cannot be pickled."""

    raise Local("injected")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "returned"


def main(count: str, seed: str = "1") -> None:
    """One rank fails in each call, another call or step each time: what it raises is raised on all of them."""
    rng = np.random.default_rng(int(seed))
    _linear.BLOCK_BYTES, _linear.BLOCK_ROWS = 1, 2
    comms = {n: COMM.Split(0 if COMM.rank < n else MPI.UNDEFINED) for n in range(2, COMM.size + 1)}
    counted: Counter[str] = Counter()
    for case in range(int(count)):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        size, draw = int(rng.integers(2, COMM.size + 1)), int(rng.integers(1 << 30))
        kind, victim = int(rng.integers(6)), int(rng.integers(size))
        comm = comms[size]
        if comm == MPI.COMM_NULL:
            continue
        mine = np.random.default_rng(draw)
        call = Call(mine, comm)
        with Steps() as steps:
            said = outcome(call)
        assert said == "returned", (case, said)
        what, fails = "", comm.rank == victim
        if kind == 0:
            what = wrong(call, mine) if fails else ""
            said = outcome(call)
        elif kind == 5:
            what = "Ctrl-C at any time"
            seconds = float(mine.uniform(0, 4e-3))
            said = outcome(partial(interrupted, call, seconds) if fails else call)
        elif fails:
            failure = (memory, interrupt, strange, ctrl_c)[kind - 1]
            at = int(mine.choice(sorted(steps.taken)))
            number = int(mine.integers(1, steps.taken[at] + 1))
            what = f"{failure.__name__} in {STEPS[at][1]}"
            with Steps(STEPS[at], number, failure):
                said = outcome(call)
        else:
            said = outcome(call)
        told = comm.allgather((said, what))
        if kind == 5:
            # It may come when all is agreed, and is its rank's own matter then.
            assert {said for said, _ in told} <= {"returned", "KeyboardInterrupt: "}, (case, told)
            told.pop(victim)
        assert len({said for said, _ in told}) == 1, (case, call.name, told)
        assert kind == 5 or said != "returned", (case, call.name, told)
        counted[said.split(":")[0]] += comm.rank == 0
    faulthandler.cancel_dump_traceback_later()
    COMM.Barrier()
    if COMM.rank == 0:
        print(sum(counted.values()), "failures, no deadlock:", dict(sorted(counted.items())))


def interrupted(call: Call, seconds: float) -> None:
    """Call, and interrupt so long after the call has begun."""
    before = _ranks.Interrupts.begin

    def later() -> None:
        sleep(seconds)
        ctrl_c()

    def begin(self: Any) -> None:
        before(self)
        thread.start()

    thread = Thread(target=later)
    _ranks.Interrupts.begin = begin  # type: ignore[method-assign]
    try:
        call()
        thread.join()
        sleep(1e-3)
    finally:
        _ranks.Interrupts.begin = before  # type: ignore[method-assign]
        try:
            thread.join()
            sleep(1e-3)
        except KeyboardInterrupt:
            thread.join()
            raise


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        # Others may wait for this rank.
        traceback.print_exc()
        COMM.Abort(1)
