"""Rows of a linear layer whose logits exist a shard of the classes at a time.

A shard is multiplied and reduced, and the next one takes its place; the sums of shards go on within a chunk of the classes,
and those of chunks are merged, so that a loss has the bits of a row that is whole.

A gradient needs the logits again, once the sums of all classes are known. Until then they are kept where the gradient of the
weight will be written: shard by shard, from the first on, each behind what is written before it is read. What has no place
there is kept apart, up to a limit, and a few shards that have none at all are multiplied again.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from xent import _core
from xent._blocks import Array, Block, copied, unread
from xent._pool import empty_array
from xent.stages import CORE

if TYPE_CHECKING:
    from xent._linear import Linear

# Classes that are summed relative to one maximum, and those whose sums go on: a shard ends at a multiple of the former, and
# within the latter.
BLOCK, CHUNK = 1024, 16384
# The size of a shard, which caches hold, and the most rows it may have where losses are all that is wanted, of the
# library's own products and of BLAS: that packs all rows anew for each shard, xent_multiply 1,020 of them at a time. So
# there are few and large ones where BLAS computes losses alone (of 8 MiB each: 1.06 to 1.15 of the time). Of many threads
# each has its part of a shard, up to a limit for all.
OWN_BYTES, OWN_ROWS, BLAS_BYTES, BLAS_ROWS, BLAS_LOSS_BYTES = 4 << 20, 1020, 8 << 20, 1024, 32 << 20
THREAD_BYTES, MOST_BYTES = 1 << 20, 64 << 20
# With gradients, whose rows are one block: logits of a size that is divided; the largest shard; all that is allocated; and
# how many shards there are for each that may be multiplied again.
WHOLE_BYTES, WIDEST_BYTES, EXTRA_BYTES, KEPT_OF_ALL = 16 << 20, 16 << 20, 60 << 20, 6
# Numbers between the rows of a shard. A power of two from row to row would put all rows in the same places of the caches.
APART = 16
# The chunks whose sums are merged at once.
CHUNKS = 32


class Shards:
    """How the logits of blocks are divided, and where they are."""

    def __init__(self, linear: Linear, rows: int, width: int, places: list[Array | None]):
        self.linear, self.rows, self.places = linear, rows, places
        starts = range(0, linear.classes, width)
        self.shards = [slice(start, min(start + width, linear.classes)) for start in starts]
        self.room = empty_array((rows, width + APART), linear.dtype)

    def run_block(self, block: Block, divisor: float) -> None:
        """Compute the losses of a block, and its part of the gradients."""
        linear = self.linear
        assert linear.loss is not None
        self.block = block
        with np.errstate(all="ignore"):
            states = linear.read_hidden(block)
            linear.states = states.reshape(prod(states.shape[:-1]), linear.features)
            sums = self.reduce()
            losses = self.losses(sums)
            linear.loss[block] = losses.reshape(linear.loss[block].shape)
            if linear.with_grad:
                self.apply(sums, divisor)

    def logits(self, number: int) -> Array:
        """Return the place of a shard's logits."""
        place = self.places[number] if self.places else None
        room = self.scratch(number)
        return room if place is None else place.reshape(room.shape)

    def scratch(self, number: int) -> Array:
        """Return the place that shards share."""
        classes = self.shards[number]
        return self.room[: len(self.linear.states), : classes.stop - classes.start]

    def part(self, logits: Array, classes: slice | None, **more: Any) -> Any:
        """Return the request for the block's rows, of a shard of the classes or of all."""
        linear, soft = self.linear, self.linear.soft
        rows = len(logits)
        index, weight, upstream = (
            None if a is None else a[self.block].reshape(rows)
            for a in (linear.index, linear.sample_weight, linear.grad_output)
        )
        if soft is not None and classes is not None:
            soft = copied(soft[(*self.block, classes)], linear.request.soft_dtype)
            soft = soft.reshape(logits.shape)
        elif soft is not None:
            soft = unread(logits.shape, linear.request.soft_dtype)
        return linear.request.part(
            logits, index, soft, weight, grad_output=upstream, classes=classes, **more
        )

    def stage(self, name: str, part: Any, sums: Array, start: int, continues: bool = False) -> None:
        smoothing = self.linear.request.label_smoothing
        part.stage(name, sums, start, self.linear.classes, 0.0, smoothing, continues=continues)

    def reduce(self) -> Array:
        """Compute all logits; return the sums of each row."""
        rows = len(self.linear.states)
        chunks: list[Array] = []
        for number, classes in enumerate(self.shards):
            logits, start = self.logits(number), classes.start
            self.linear.write_logits(logits, start)
            if start % CHUNK == 0:
                if len(chunks) == CHUNKS:
                    chunks = [_core.merge_sums(chunks, rows)[0]]
                chunks.append(np.zeros(rows, CORE))
            self.stage("reduce", self.part(logits, classes), chunks[-1], start, start % CHUNK > 0)
        merged: Array = _core.merge_sums(chunks, rows)[0]
        return merged

    def losses(self, sums: Array) -> Array:
        """Return the losses of the rows, in the compute dtype."""
        linear = self.linear
        losses = empty_array(sums.shape, linear.dtype)
        # Without a reduction: no divisor is looked for among the rows of a block.
        placeholder = unread((len(sums), linear.classes), linear.precision.storage)
        part = self.part(placeholder, None, loss=losses, reduction="none")
        part.grad_scale = 1.0
        part.head(sums)
        if linear.soft is not None or linear.request.label_smoothing:
            self.correct(losses)
        return losses

    def correct(self, losses: Array) -> None:
        """Compute losses anew that may be beyond the range of what they are summed in, from whole rows, a few at a time."""
        linear = self.linear
        doubtful = np.flatnonzero(~np.isfinite(losses))
        step = max(1, shard_bytes(linear) // linear.row_bytes())
        positions = np.arange(prod(linear.shape)).reshape(linear.shape)[self.block].reshape(-1)
        states, block = linear.states, self.block
        for start in range(0, len(doubtful), step):
            rows = doubtful[start : start + step]
            linear.states, self.block = (
                states[rows],
                np.unravel_index(positions[rows], linear.shape),
            )
            logits = empty_array((len(rows), linear.classes), linear.dtype)
            linear.write_logits(logits, 0)
            found = empty_array(rows.shape, linear.dtype)
            self.part(logits, slice(0, linear.classes), loss=found).compute()
            losses[rows] = found
        linear.states, self.block = states, block

    def apply(self, sums: Array, divisor: float) -> None:
        """Add the gradients of the block's rows."""
        linear = self.linear
        place, result, product = None, None, None
        if linear.hidden.grad is not None:
            place, result = linear.place_of_hidden(self.block, apart=True)
            product = None if linear.own else empty_array(result.shape, linear.dtype)
        for number, classes in enumerate(self.shards):
            logits, gradient = self.logits(number), self.scratch(number)
            if self.places[number] is None:
                linear.write_logits(logits, classes.start)
            part = self.part(logits, classes, out=gradient)
            part.divisor = divisor
            self.stage("apply", part, sums, classes.start)
            linear.add_to_sums(gradient, classes.start)
            if result is not None:
                linear.multiply(gradient, result, classes.start, product)
        if result is not None:
            linear.finish_product(result)
            linear.store_product(self.block, result, place)
        linear.empty = False


def shards_of(linear: Linear, rows: int) -> Shards | None:
    """Return the shards of blocks of so many rows in all; None: their logits are better computed as a whole."""
    size, shard = linear.dtype.itemsize, shard_bytes(linear)
    if linear.classes <= BLOCK:
        return None
    if rows * linear.row_bytes() <= (WHOLE_BYTES if linear.with_grad else shard):
        return None
    if not linear.with_grad:
        most = OWN_ROWS if linear.own else BLAS_ROWS
        if shard // linear.row_bytes() >= most:
            return None
        rows = ceil(rows / ceil(rows / most))
    elif BLOCK * rows * size > WIDEST_BYTES:
        return None
    width = BLOCK
    while width < CHUNK and 2 * width * rows * size <= shard:
        width *= 2
    places = places_of(linear, rows, width) if linear.with_grad else []
    return None if places is None else Shards(linear, rows, width, places)


def shard_bytes(linear: Linear) -> int:
    """Return the size of a shard."""
    of_threads = min(_core.get_num_threads() * THREAD_BYTES, MOST_BYTES)
    of_blas = BLAS_BYTES if linear.with_grad else BLAS_LOSS_BYTES
    return max(OWN_BYTES if linear.own else of_blas, of_threads)


def places_of(linear: Linear, rows: int, width: int) -> list[Array | None] | None:
    """Return where the logits of each shard are kept, None for a shard that is not; None if these are too many."""
    classes, starts = linear.classes, range(0, linear.classes, width)
    memory = gradient_memory(linear)
    # From the first number of a class to that of the next one: no shard begins before what is written until it is read.
    step = max(rows, len(memory) // classes)
    # What else is allocated: a shard; a product for the hidden states and, of BLAS, these converted or the sum of such
    # products; slices.
    products = 1 if linear.own else 2
    needed = rows * (width + products * linear.features) * linear.dtype.itemsize
    needed += 2 * linear.slice_bytes()
    room = (EXTRA_BYTES - needed) // linear.dtype.itemsize
    places: list[Array | None] = []
    for start in starts:
        at, count = start * step, rows * min(width, classes - start)
        if at + count <= len(memory):
            places.append(memory[at : at + count])
        elif count <= room:
            room -= count
            places.append(empty_array((count,), linear.dtype))
        else:
            places.append(None)
            if sum(place is None for place in places) * KEPT_OF_ALL > len(starts):
                return None
    return places


def gradient_memory(linear: Linear) -> Array:
    """Return the memory of the gradient of the weight, as numbers of the compute dtype: all of it, or nothing."""
    grad = linear.weight.grad
    none = np.empty(0, linear.dtype)
    if grad is None or not grad.flags.carray or grad.nbytes % linear.dtype.itemsize:
        return none
    memory = grad.reshape(-1).view(linear.dtype)
    return memory if memory.flags.aligned else none
