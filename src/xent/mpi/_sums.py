"""The sums of rows whose classes are divided among ranks.

A slice is reduced in chunks of the whole vocabulary's classes, as a row that threads share. The sums of all chunks are moved
to the row's maximum and added up without rounding, so that it does not matter which rank has added which: bits do not depend
on the number of ranks as long as slices end where chunks do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xent import stages
from xent._head import kernel
from xent.mpi import _digits
from xent.mpi._ranks import Ranks, Slice

Array = np.ndarray[Any, Any]

#: How many classes are reduced together.
CHUNK = 16384
#: How much is received at once.
EXCHANGE_BYTES = 64 << 20


def chunks(begin: int, end: int) -> list[tuple[int, int]]:
    """Return the chunks of a slice, cut at multiples of `CHUNK`; a slice without classes is one."""
    cuts = [begin, *range((begin // CHUNK + 1) * CHUNK, end, CHUNK), end]
    return list(pairwise(cuts))


class Wanted(NamedTuple):
    """What a call needs of its rows: which sums, and of how many targets the logits and the class weights."""

    compute: np.dtype[Any]
    smooth: bool = False
    soft: bool = False
    entropy: bool = False
    targets: int = 0
    weighted: bool = False

    @property
    def terms(self) -> list[str]:
        """The sums that a row has for itself. The mass of smoothing, that of all class weights, is the same for all rows."""
        found = ["sum_exp"]
        if self.soft:
            found += ["soft_mass", "soft_moment"]
        if self.smooth:
            found.append("smooth_moment")
        if self.entropy:
            found.append("entropy_moment")
        return found


class Own(NamedTuple):
    """Sums of some chunks, which are the first axis of each; rows are the last."""

    max: Array
    at_max: Array  # how many classes have the maximum
    terms: Array  # (chunks, terms, rows)
    mass: Array  # (chunks,)
    logits: Array  # of the targets that the rank holds, 0 of all others; (targets, rows)
    weights: Array
    sums: Array  # those of the first chunk, for what is the same in all


class Merged(NamedTuple):
    """The sums of all classes of each row; the logits and class weights of its targets, (targets, rows)."""

    sums: Array
    logits: Array
    weights: Array


def reduced(
    place: Slice,
    wanted: Wanted,
    logits: Any,
    targets: Any,
    *,
    axis: int,
    class_weight: Any = None,
    class_bias: Any = None,
    **options: Any,
) -> list[Array]:
    """Return the sums of this rank's chunks; arguments are those of `stages.reduce`."""
    along = (slice(None),) * axis
    found = []
    for begin, end in chunks(place.begin, place.end):
        at = slice(begin - place.begin, end - place.begin)
        found.append(
            stages.reduce(
                logits[(*along, at)],
                targets[(*along, at)] if wanted.soft else targets,
                axis=axis,
                class_offset=begin,
                num_classes=place.num_classes,
                class_weight=None if class_weight is None else class_weight[at],
                class_bias=None if class_bias is None else class_bias[at],
                entropy=wanted.entropy,
                smooth=wanted.smooth,
                **options,
            )
        )
    return found


def own_sums(wanted: Wanted, of_chunks: list[Array], logits: Any, weights: Any) -> Own:
    """Return the sums of chunks in the form in which they are exchanged."""
    sums = np.stack([each.reshape(-1) for each in of_chunks])
    rows = sums.shape[1]
    if logits is None:
        logits = np.where(sums["has_target"] != 0, sums["target_logit"], 0).sum(axis=0)[None]
    return Own(
        sums["max"],
        sums["max_count"],
        np.stack([sums[name] for name in wanted.terms], axis=1),
        sums["smooth_mass"][:, 0] if rows else np.zeros(len(sums)),
        logits[: wanted.targets],
        np.zeros((0, rows)) if weights is None else weights,
        sums[0],
    )


def moved(wanted: Wanted, own: Own, top: Array, temperature: float) -> tuple[Array, Array]:
    """Return how many classes have the row's maximum, and the terms relative to it: `rebase` of csrc/kernels/sums.h."""
    with np.errstate(all="ignore"):
        step = own.max - top
        below = step < 0
        if not below.any():
            return own.at_max.sum(axis=0), own.terms
        terms = dict(zip(wanted.terms, np.moveaxis(own.terms, 1, 0), strict=True))
        total = terms["sum_exp"] + own.at_max
        f = np.where(total != 0, kernel("exp", np.where(below, step, 0) / temperature), 0.0)
        new = {"sum_exp": np.where(total != 0, total * f, 0.0)}
        if wanted.soft:
            mass, moment = terms["soft_mass"], terms["soft_moment"]
            new |= {
                "soft_mass": mass,
                "soft_moment": np.where(mass != 0, moment + mass * step, moment),
            }
        if wanted.smooth:
            mass, moment = own.mass[:, None], terms["smooth_moment"]
            new["smooth_moment"] = np.where(mass != 0, moment + mass * step, moment)
        if wanted.entropy:
            new["entropy_moment"] = np.where(
                f != 0, (terms["entropy_moment"] + total * step) * f, 0.0
            )
    found = np.stack([new[name] for name in wanted.terms], axis=1)
    return np.where(below, 0, own.at_max).sum(axis=0), np.where(below[:, None], found, own.terms)


@cache
def at_once(wanted: Wanted, most: int) -> np.dtype[Any]:
    """What is sent of a row if all is sent at once, of up to so many chunks."""
    return np.dtype(
        [
            *of_targets(wanted),
            ("max", wanted.compute, (most,)),
            ("count", "u2", (most,)),
            ("terms", "f8", (most, len(wanted.terms))),
        ]
    )


@cache
def first(wanted: Wanted) -> np.dtype[Any]:
    """What is sent of a row before its maximum is known,"""
    return np.dtype([*of_targets(wanted), ("max", wanted.compute)])


@cache
def second(wanted: Wanted, most: int) -> np.dtype[Any]:
    """and when it is."""
    return np.dtype([("count", "u4"), ("terms", _digits.dtype(most), (len(wanted.terms),))])


def of_targets(wanted: Wanted) -> list[Any]:
    return [
        ("logits", wanted.compute, (wanted.targets,)),
        ("weights", wanted.compute, (wanted.targets if wanted.weighted else 0,)),
    ]


class Exchange:
    """The exchanges of one call, and memory for them, which is taken before the first."""

    def __init__(self, ranks: Ranks, wanted: Wanted, rows: int, temperature: float = 1.0):
        self.ranks, self.wanted, self.rows, self.temperature = ranks, wanted, rows, temperature
        self.size = ranks.comm.size
        most = first(wanted).itemsize + second(wanted, _digits.MOST).itemsize
        self.step = max(1, min(rows, EXCHANGE_BYTES // (self.size * most)))
        room = 64 + self.step * most
        self.own, self.every = np.zeros(room, "u1"), np.zeros(self.size * room, "u1")

    def put(self, place: Slice) -> None:
        """Set where slices lie, from which follows what is sent."""
        self.place = place
        # The sums of chunks themselves are sent at once where they are no more than their digits.
        self.most, wanted = max(len(chunks(*rank)) for rank in place.ranks), self.wanted
        self.at_once = at_once(wanted, self.most).itemsize <= (
            first(wanted).itemsize + second(wanted, self.most).itemsize
        )

    def message(self, of_row: np.dtype[Any], *of_call: Any) -> tuple[Array, Array]:
        """Return the memory of a message, and that of the messages of all ranks."""
        form = np.dtype([("failed", "u1"), *of_call, ("rows", of_row, (self.step,))])
        own, every = self.own[: form.itemsize], self.every[: self.size * form.itemsize]
        return own.view(form), every.view(form)

    def send(self, fill: Callable[[Array], None], own: Array, every: Array) -> None:
        """Exchange a message that `fill` writes."""
        self.ranks.attempt(lambda: fill(own))
        self.ranks.gather(own.view("u1"), every.view("u1").reshape(self.size, -1))

    def merged(self, reduce: Callable[[], Own]) -> Any:
        """Exchange the sums that `reduce` finds; return those of all classes, or None if this rank has failed since.

        As many messages are sent as for the rows of the whole call, whatever has failed.
        """
        own = self.ranks.attempt(reduce)
        merged = self.ranks.attempt(lambda: self.empty(own))
        rows = 0 if own is None else own.sums.size
        for start in range(0, max(1, self.rows), self.step):
            at = slice(start, min(start + self.step, rows))
            (self.at_once_of if self.at_once else self.in_turn)(own, merged, at)
        return merged

    def empty(self, own: Own) -> Merged:
        """Return the memory for the sums of all classes."""
        sums = own.sums.copy()
        sums["class_begin"], sums["class_end"] = 0, self.place.num_classes
        sums["num_classes"] = self.place.num_classes
        sums["has_target"] = sums["indexed"] & sums["counts"]
        sums["target_weight"] = sums["target_slope"] = 1
        targets, rows = self.wanted.targets, sums.size
        return Merged(
            sums,
            np.zeros((targets, rows), self.wanted.compute),
            np.zeros((targets if self.wanted.weighted else 0, rows)),
        )

    def at_once_of(self, own: Any, merged: Any, at: slice) -> None:
        """One exchange: the sums of all chunks, which every rank adds up."""
        form = at_once(self.wanted, self.most)
        sent, every = self.message(form, ("mass", "f8", (self.most,)))

        def fill(message: Any) -> None:
            rows, chunks = message["rows"][0, : own.max[0, at].size], len(own.max)
            put_targets(rows, own, at)
            rows["max"], rows["count"], rows["terms"] = np.finfo(self.wanted.compute).min, 0, 0
            rows["max"][:, :chunks], rows["count"][:, :chunks] = (
                own.max[:, at].T,
                own.at_max[:, at].T,
            )
            rows["terms"][:, :chunks] = np.moveaxis(own.terms[:, :, at], 2, 0)
            message["mass"] = 0
            message["mass"][0, :chunks] = own.mass

        def add() -> None:
            rows = every["rows"][:, : own.max[0, at].size]
            of_all = own._replace(
                max=chunks_first(rows["max"]).astype(float),
                at_max=chunks_first(rows["count"]).astype(float),
                terms=chunks_first(rows["terms"]),
                mass=every["mass"].reshape(-1),
            )
            top = of_all.max.max(axis=0)
            count, terms = moved(self.wanted, of_all, top, self.temperature)
            mass = _digits.added(of_all.mass) if self.wanted.smooth else 0.0
            self.store(merged, at, rows, top, count, _digits.added(terms), mass)

        self.send(fill, sent, every)
        self.ranks.attempt(add)

    def in_turn(self, own: Any, merged: Any, at: slice) -> None:
        """Two exchanges: the maxima; the digits of each rank's sums relative to the rows'."""

        def fill_first(message: Any) -> None:
            rows = message["rows"][0, : own.max[0, at].size]
            put_targets(rows, own, at)
            rows["max"] = own.max[:, at].max(axis=0)

        sent, every = self.message(first(self.wanted))
        self.send(fill_first, sent, every)

        def fill_second(message: Any) -> None:
            part = every["rows"][:, : own.max[0, at].size].copy()
            of_rows.append(part)
            top = part["max"].max(axis=0).astype(float)
            of_part = own._replace(
                max=own.max[:, at], at_max=own.at_max[:, at], terms=own.terms[:, :, at]
            )
            count, terms = moved(self.wanted, of_part, top, self.temperature)
            rows = message["rows"][0, : len(top)]
            rows["count"] = count
            place, digits = _digits.digits(terms)
            _digits.pack(rows["terms"], place.T, np.moveaxis(digits, 1, 2))
            _digits.pack(message["mass"], *_digits.digits(own.mass[:, None]))

        def add() -> None:
            (part,) = of_rows
            rows = every_second["rows"][:, : part.shape[1]]
            place, digits = _digits.unpack(rows["terms"])
            self.store(
                merged,
                at,
                part,
                part["max"].max(axis=0),
                rows["count"].sum(axis=0, dtype=float),
                _digits.total(np.swapaxes(place, 1, 2), np.swapaxes(digits, 2, 3)),
                _digits.total(*_digits.unpack(every_second["mass"])),
            )

        of_rows: list[Array] = []
        form = second(self.wanted, self.most)
        sent, every_second = self.message(form, ("mass", form["terms"].base))
        self.send(fill_second, sent, every_second)
        self.ranks.attempt(add)

    def added(self, terms: Callable[[], Array]) -> Any:
        """Return the sums over all chunks of numbers that each rank has for its own, (chunks, rows)."""
        own = self.ranks.attempt(terms)
        found = self.ranks.attempt(lambda: np.empty(own.shape[1]))
        rows = 0 if own is None else own.shape[1]
        sent, every = self.message(_digits.dtype(self.most))
        for start in range(0, max(1, self.rows), self.step):
            at = slice(start, min(start + self.step, rows))
            self.send(partial(pack_rows, own, at), sent, every)
            self.ranks.attempt(partial(add_rows, found, at, every))
        return found

    def store(
        self,
        merged: Merged,
        at: slice,
        rows: Array,
        top: Array,
        count: Array,
        terms: Array,
        mass: Any,
    ) -> None:
        """Write what follows from the sums of all ranks."""
        sums = merged.sums[at]
        with np.errstate(all="ignore"):
            sums["max"], sums["max_count"], sums["smooth_mass"] = top, count, mass
            for name, found in zip(self.wanted.terms, terms, strict=True):
                sums[name] = found
            # One rank has a target, all others 0.
            merged.logits[:, at] = rows["logits"].sum(axis=0).T
            merged.weights[:, at] = rows["weights"].sum(axis=0).T
        if self.wanted.targets == 1:
            sums["target_logit"] = merged.logits[0, at]


def pack_rows(own: Array, at: slice, message: Array) -> None:
    part = own[:, at]
    _digits.pack(message["rows"][0, : part.shape[1]], *_digits.digits(part))


def add_rows(found: Array, at: slice, every: Array) -> None:
    part = found[at]
    part[...] = _digits.total(*_digits.unpack(every["rows"][:, : part.size]))


def put_targets(rows: Array, own: Own, at: slice) -> None:
    rows["logits"], rows["weights"] = own.logits[:, at].T, own.weights[:, at].T


def chunks_first(of_ranks: Array) -> Array:
    """Return an array (ranks, rows, chunks, ...) as (all chunks, ..., rows)."""
    found = np.moveaxis(of_ranks, 1, -1)
    return found.reshape(found.shape[0] * found.shape[1], *found.shape[2:])
