"""Cross-entropy of a linear layer whose classes are divided among ranks, a block of rows at a time.

Blocks are those of `xent._linear`. All ranks of `comm` take the same rows, exchange the sums of their logits, and add up the
products of their gradients and weights, of which each is a part of the gradient of the hidden states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from xent import _arguments as arguments
from xent._blocks import Block, piece, stored, unread
from xent._functions import linear_request
from xent._linear import Array, Factor, Linear, buffers, layer, widest
from xent._pool import empty_array
from xent.mpi._ranks import Classes, Grid, Slice, together
from xent.mpi._shard import Shard, options_of, rows_of, target_weights


class LinearShard(Linear):
    """Rows of which a rank computes the logits of some classes."""

    def __init__(
        self, request: Any, factors: dict[str, Factor], grid: Grid, place: Slice, options: dict[str, Any]
    ):
        super().__init__(request, factors["hidden"], factors["weight"], factors.get("bias"))
        self.grid, self.place, self.options = grid, place, options
        self.weights = target_weights(grid, place, request, request.class_weight)
        self.total = 0.0

    def block_rows(self) -> int:
        """Return how many rows a block may have: as many on every rank."""
        own, self.classes = self.classes, max(end - begin for begin, end in self.place.ranks)
        rows = super().block_rows()
        self.classes = own
        return rows

    def divisor(self) -> float:
        """Return what a mean over these rows divides by."""
        weight = self.counts(1.0).astype(float)
        if self.sample_weight is not None:
            weight *= np.where(weight != 0, self.sample_weight, 0)
        if self.weights is not None:
            weight *= self.weights
        return float(np.sum(weight, dtype=np.longdouble))

    def run_blocks(self, divisor: float) -> None:
        """Compute the losses of all rows, and the gradients if they are requested."""
        comm, iterator = self.grid.comm, None
        while True:
            with together(comm):
                iterator = self.blocks(divisor) if iterator is None else iterator
                block = next(iterator, None)
                if block is not None:
                    loss = self.shard_of(block)
            if block is None:
                return
            loss.put(comm, self.place, piece(self.weights, block))
            loss.reduce()
            loss.divisor = divisor
            with together(comm):
                products = self.backward(block, loss)
            if products is not None:
                comm.Allreduce(MPI.IN_PLACE, products)
                with together(comm):
                    self.hidden.write(block, products.reshape(self.hidden.grad[block].shape))

    def shard_of(self, block: Block) -> Shard:
        logits = self.load(block)[0]
        soft, index = piece(self.soft, block), piece(self.index, block)
        return Shard(
            logits,
            index if soft is None else soft,
            axis=-1,
            sample_weight=piece(self.sample_weight, block),
            grad_output=self.upstream(block),
            **self.options,
        )

    def backward(self, block: Block, loss: Shard) -> Array | None:
        """Store the losses of a block, add to the gradient of the weight; return the products for the hidden states."""
        rows = loss.rows()
        self.total += float(np.sum(rows, dtype=np.longdouble))
        self.loss[block] = rows
        if self.hidden.grad is None:
            return None
        gradient = loss.grad(loss.logits).reshape(len(self.states), -1)
        products: Array = empty_array(self.states.shape, self.dtype)
        with np.errstate(all="ignore"):
            self.add_to_sums(gradient)
            products[...] = 0
            self.multiply(gradient, products)
        self.empty = False
        return products
