"""Cross-entropy of a linear layer whose classes are divided among ranks, a block of rows at a time.

Blocks are those of `xent._linear`. All ranks of `comm` take the same rows, exchange the sums of their logits, and add up the
products of their gradients and weights, of which each is a part of the gradient of the hidden states. While the products of
one block travel, the next one is computed.
"""

from __future__ import annotations

from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np
from mpi4py import MPI

from xent import _arguments as arguments
from xent._blocks import Array, Block, numbers, piece, stored, unread
from xent._composed import counted
from xent._functions import linear_request
from xent._layer import Factor, layer, widest
from xent._linear import Linear, buffers
from xent._pool import empty_array
from xent.mpi._ranks import Call, Classes, Grid, Ranks, Slice, digest
from xent.mpi._shard import Shard, held_weights, options_of, rows_of, without_mean
from xent.mpi._sums import Exchange, Wanted


class LinearShard(Linear):
    """Rows of which a rank computes the logits of some classes."""

    divides = False
    place: Slice
    exchange: Exchange
    block: Block = ()
    weights: Array | None = None  # of the targets
    of_weights: Exchange | None = None

    def __init__(
        self,
        ranks: Ranks,
        request: Any,
        factors: dict[str, Factor],
        reduction: str,
        options: dict[str, Any],
    ):
        super().__init__(request, factors["hidden"], factors["weight"], factors.get("bias"))
        self.ranks, self.reduction, self.options = ranks, reduction, options
        self.losses: Array = empty_array(self.shape, self.dtype)
        self.loss = self.losses
        self.total = 0.0
        if self.index is not None and options["class_weight"] is not None:
            self.of_weights = Exchange(ranks, Wanted(self.dtype), prod(self.shape))

    def find_weights(self, place: Slice) -> None:
        """Set where the slice lies, and find the class weights of all targets; raise for a target that is no class."""
        self.place = place
        if self.index is not None:
            self.ranks.attempt(lambda: counted(self.request, self.index, place.num_classes))
        if self.of_weights is not None:
            self.of_weights.put(place)
            found = self.of_weights.added(
                lambda: held_weights(
                    place, self.options["class_weight"], np.asarray(self.index).reshape(1, -1)
                )
            )
            self.weights = self.ranks.attempt(lambda: np.asarray(found).reshape(self.shape))

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
            weight = np.where(weight != 0, self.sample_weight, 0.0).astype(float)
        if self.weights is not None:
            weight *= self.weights
        return float(np.sum(weight, dtype=np.longdouble))

    def prepare(self, divisor: float) -> None:
        """Take the memory of the exchanges; find the number of blocks, and of rows in the first of them."""
        rows = np.count_nonzero(self.counts(divisor))
        self.parts = ceil(rows / self.block_rows())
        self.most = ceil(rows / self.parts) if self.parts else 1
        wanted = self.shard(
            np.zeros((0, self.classes), self.dtype),
            None if self.index is None else np.zeros(0, np.int64),
            np.zeros((0, self.classes)),
            None,
            None,
            None if self.weights is None else np.zeros(0),
        ).wanted()
        self.exchange = Exchange(self.ranks, wanted, self.most, self.request.temperature)
        self.exchange.put(self.place)
        self.products = [
            np.zeros((self.most, self.features), self.dtype) for _ in range(min(2, self.parts))
        ]
        self.rows = self.blocks(divisor)

    def run_blocks(self, divisor: float) -> None:
        """Compute the losses of all rows, and the gradients if they are requested."""
        self.ranks.attempt(lambda: self.prepare(divisor))
        self.ranks.agree()
        sent: Any = None
        try:
            for number in range(self.parts):
                loss = self.ranks.attempt(self.next_block)
                merged = self.exchange.merged(partial(Shard.own, loss))
                products = self.products[number % 2]
                self.ranks.attempt(partial(self.backward, loss, merged, divisor, products))
                if self.hidden.grad is not None:
                    # Of a rank that has failed too, whose error the next exchange tells.
                    before, sent = sent, (self.block, products, self.send(products, sent))
                    self.write(before)
            self.ranks.attempt(lambda: next(self.rows, None))
        finally:
            if sent is not None:
                sent[-1].Wait()
        self.write(sent)

    def send(self, products: Array, before: Any) -> Any:
        """Begin to add up the products of all ranks, once those of the block before are."""
        if before is not None:
            before[-1].Wait()
        return self.ranks.comm.Iallreduce(MPI.IN_PLACE, products)

    def write(self, sent: Any) -> None:
        """Store the gradient of the hidden states of a block."""
        if sent is not None:
            block, products, _ = sent
            self.ranks.attempt(lambda: self.write_hidden(block, products))

    def write_hidden(self, block: Block, products: Array) -> None:
        assert self.hidden.grad is not None
        place = self.hidden.grad[block]
        with np.errstate(all="ignore"):
            rows = prod(place.shape[:-1])
            self.hidden.write(block, products[:rows].reshape(place.shape))

    def next_block(self) -> Shard:
        self.block = block = next(self.rows)
        upstream = self.grad_output
        scale = None if self.reduction == "none" else self.request.grad_scale
        loss = self.shard(
            self.load(block)[0],
            piece(self.index, block),
            piece(self.soft, block),
            piece(self.sample_weight, block),
            scale if upstream is None else upstream[block],
            piece(self.weights, block),
        )
        loss.put(self.place)
        return loss

    def shard(
        self,
        logits: Array,
        index: Any,
        soft: Any,
        sample_weight: Any,
        grad_output: Any,
        weights: Any,
    ) -> Shard:
        loss = Shard(
            logits,
            soft if index is None else index,
            axis=-1,
            sample_weight=sample_weight,
            grad_output=grad_output,
            **self.options,
        )
        loss.reduction, loss.weights = self.reduction, weights
        return loss

    def backward(self, loss: Any, merged: Any, divisor: float, products: Array) -> None:
        """Store the losses of a block, add to the gradient of the weight; find the products for the hidden states."""
        loss.take(merged)
        loss.divisor = divisor
        rows = loss.rows()
        self.total += float(np.sum(rows, dtype=np.longdouble))
        with np.errstate(all="ignore"):
            self.losses[self.block] = rows
            if self.hidden.grad is None:
                return
            gradient = loss.grad(loss.logits).reshape(len(self.states), self.classes)
            self.add_to_sums(gradient)
            self.multiply(gradient, products[: len(self.states)])
        self.empty = False


class LinearResults:
    """The arrays of a call, validated, and where its results go."""

    def __init__(
        self,
        ranks: Ranks,
        hidden: Any,
        weight: Any,
        targets: Any,
        *,
        bias: Any,
        return_grad: Any,
        return_temperature_grad: Any,
        grad_output: Any,
        out: Any,
        grad_out: Any,
        dtype: Any,
        reduction: Any,
        class_weight: Any,
        sample_weight: Any,
        **options: Any,
    ):
        self.with_grad = arguments.requested_outputs(
            return_grad, False, grad_output, grad_out, None
        )
        self.with_temperature = arguments.flag(return_temperature_grad, "return_temperature_grad")
        if self.with_temperature and options["softcap"] is not None:
            raise ValueError(
                "return_temperature_grad: not with softcap, after which logits are not a product"
            )
        self.factors = factors = layer(hidden, weight, bias, dtype)
        precision = widest(factors.values())
        classes, self.features = factors["weight"].values.shape
        logits = unread((*factors["hidden"].values.shape[:-1], classes), precision.storage)
        request, _ = linear_request(
            logits,
            precision,
            targets,
            None,
            class_weight=None,
            sample_weight=sample_weight,
            reduction=without_mean(reduction),
            grad_output=grad_output,
            **options,
        )
        if out is not None:
            shape = request.shape if reduction == "none" else ()
            out = arguments.buffer(out, "out", shape, precision.compute)
        self.out, self.request, self.reduction = out, request, reduction
        forms = {name: (f.values.shape, f.kind.result_dtype) for name, f in factors.items()}
        grads = buffers(grad_out, forms)
        results = {f"grad_out[{i}]": grad for i, grad in enumerate(grads)}
        inputs = {name: factor.values for name, factor in factors.items()}
        arguments.check_no_overlap(
            {"out": out} | results,
            inputs | request.targets_and_weights(),
            ("grad_out[0]", "hidden"),
        )
        own = arguments.class_weight(class_weight, classes, precision.compute)
        self.options = options | {"class_weight": own}
        self.grads: tuple[Array, ...] = ()
        self.states: Any = None
        if self.with_grad or self.with_temperature:
            self.grads = tuple(
                empty_array(*form) if grad is None else grad
                for grad, form in zip(grads, forms.values(), strict=True)
            )
            for factor, grad in zip(factors.values(), self.grads, strict=True):
                factor.grad = stored(np.asarray(grad), factor.kind)
        if self.with_temperature:  # grad_out may be their memory
            self.states = numbers(factors["hidden"].values, factors["hidden"].kind).copy()
        more = {"dtype": None, "target_probs": None, "entropy_weight": 0.0, "class_bias": None}
        self.shards = LinearShard(
            ranks,
            request,
            factors,
            reduction,
            self.options | more | {"reduction": request.reduction},
        )

    def call(self, class_offset: Any) -> Call:
        """Return what ranks must agree on."""
        request, hidden = self.request, self.factors["hidden"].values
        options = options_of(
            request,
            self.reduction,
            return_grad=self.with_grad,
            return_temperature_grad=self.with_temperature,
        ) | {
            "label_smoothing": self.options["label_smoothing"],
            "z_loss": self.options["z_loss"],
            "class_weight": "given" if self.options["class_weight"] is not None else "not given",
            "bias": "given" if "bias" in self.factors else "not given",
            "features": self.features,
        }
        rows = rows_of(
            request, request.index, request.sample_weight, request.grad_output, request.grad_scale
        ) | {"hidden": digest(hidden, hidden.shape)}
        return Call(self, options, rows, Classes(self.shards.classes, class_offset))

    def temperature_terms(self) -> tuple[float, float]:
        """Return the sums of the gradients of hidden and bias times these, of which each rank has its part of the latter."""
        with np.errstate(all="ignore"):
            factor = self.factors["hidden"]
            of_hidden = numbers(stored(np.asarray(self.grads[0]), factor.kind), factor.kind)
            counts = of_hidden != 0
            total = np.sum(
                np.where(counts, of_hidden, 0) * np.where(counts, self.states, 0), dtype=np.float64
            )
            if "bias" not in self.factors:
                return float(total), 0.0
            factor = self.factors["bias"]
            of_bias = numbers(stored(np.asarray(self.grads[2]), factor.kind), factor.kind)
            terms = of_bias.astype(float) * numbers(factor.values, factor.kind)
            return float(total), float(np.sum(terms, dtype=np.float64))

    def returned(self, loss: Any, slope: Any) -> Any:
        """Write the loss, once every rank has its results; return all of them."""
        if self.out is not None:
            self.out[...] = loss
            loss = self.out
        found = [loss] + [self.grads] * bool(self.with_grad) + [slope] * self.with_temperature
        return found[0] if len(found) == 1 else tuple(found)


def linear_cross_entropy(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    comm: Any,
    row_comm: Any,
    class_offset: Any,
    **options: Any,
) -> Any:
    """Return the loss, or the tuple of the requested results."""

    def validate() -> Call:
        return LinearResults(ranks, hidden, weight, targets, **options).call(class_offset)

    def divide() -> Any:
        results = grid.agree(validate)
        found.append(results)
        results.shards.find_weights(grid.place())
        return ranks.attempt(lambda: (results.shards.divisor(),))

    def compute() -> Any:
        shards = found[0].shards
        shards.run_blocks(divisor)
        return ranks.attempt(lambda: (shards.total,))

    def by_temperature() -> Any:
        terms = ranks.attempt(found[0].temperature_terms)
        ranks.agree()
        assert terms is not None
        return terms[0], ranks.comm.allreduce(terms[1])

    found: list[Any] = []
    slope = None
    with Grid(comm, row_comm) as grid:
        ranks = grid.columns
        with grid.together():
            (divisor,) = grid.over_rows(1, divide)
            (total,) = grid.over_rows(1, compute)
            (results,) = found
            real = results.shards.dtype.type
            if results.with_temperature:
                terms = grid.over_rows(2, by_temperature)
                slope = real(-sum(terms) / results.request.temperature)
            loss = ranks.attempt(
                lambda: reduced(total, results.reduction, divisor, results.shards.losses)
            )
        return results.returned(loss, slope)


def reduced(total: float, reduction: str, divisor: float, losses: Array) -> Any:
    """Return the losses of the rows, or what they are reduced to."""
    if reduction == "none":
        return losses[()]
    with np.errstate(all="ignore"):
        mean = total / divisor if divisor else np.nan
        return losses.dtype.type(total if reduction == "sum" else mean)
