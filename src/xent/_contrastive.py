"""Contrastive losses, whose logits are the similarities of two sets of vectors: the products before and after the kernels.

One side's softmax is `linear_cross_entropy` with the keys as the weight, and goes its way: a block of rows of the
similarities exists at a time, and its gradient overwrites it. What differs is what else the products give: the derivative
with respect to a factor of all similarities is the sum of the vectors' products with their own gradients, so it costs no
pass over a block.

The softmax of the columns needs sums over all blocks before it has a gradient. A block of rows is a shard of the classes of
every column, so the sums of blocks are merged as those of shards are. A second pass then computes the products again, which
takes less time than similarities of that size would need memory, and applies both gradients, a slab that fits the cache at a
time. The last block of the first pass is the first of the second one, and is not computed again.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent import stages
from xent._blocks import Array, Block, unread
from xent._functions import elementwise_loss, linear_request, softmax_loss, stage_request
from xent._layer import Factor, are_few, few_logits, pair, widest
from xent._linear import Linear
from xent._pool import count_call, empty_array
from xent._request import Request

# The size of a block of similarities, and its least number of rows; that of the part of one that elementwise work takes at
# once, from the cache, large enough to be shared among threads.
BLOCK_BYTES, BLOCK_ROWS, SLAB_BYTES = 32 << 20, 256, 4 << 20
# So many numbers are divided by their norms at once.
UNIT_ELEMENTS = 1 << 18


class Side(Linear):
    """Rows of similarities: queries are the hidden states, keys the weight.

    `inner` is the sum over queries of their products with their gradients. Each is a sum in the compute dtype; their sum is
    one in float64.
    """

    def __init__(self, request: Request, queries: Factor, keys: Factor):
        super().__init__(request, queries, keys, None)
        self.inner = 0.0

    def block_rows(self) -> int:
        return min(super().block_rows(), max(BLOCK_ROWS, BLOCK_BYTES // self.row_bytes()))

    def slabs(self, rows: int) -> list[slice]:
        """Return the slabs of a block of so many rows."""
        step = max(1, SLAB_BYTES // (max(1, self.classes) * self.dtype.itemsize))
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]

    def slab_room(self) -> Array:
        """Return scratch of the shape of the largest slab."""
        rows = max((at.stop - at.start for at in self.slabs(len(self.room))), default=0)
        return empty_array((rows, self.classes), self.dtype)

    def read_hidden(self, block: Block) -> Array:
        self.vectors = self.hidden.read(block, self.dtype)
        return self.vectors

    def finish_product(self, result: Array) -> None:
        products = np.einsum("nd,nd->n", self.vectors, result)
        self.inner += float(products.sum(dtype=np.float64))


def coefficients(side: Linear, upstream: Any, scale: float, divisor: float) -> Array:
    """Return for each row what multiplies the gradient of its loss, in the compute dtype."""
    found: Array = np.full(side.shape, scale)
    with np.errstate(all="ignore"):
        if upstream is not None:
            found = found * upstream
        if side.sample_weight is not None:
            found = found * side.sample_weight
        if side.request.reduction == "mean":
            found = found / divisor
        return found.astype(side.dtype)


class Pairs(Side):
    """Rows and columns: the mean of the losses of a query among the keys and of its key among the queries."""

    divides = False

    def __init__(
        self, request: Request, queries: Factor, keys: Factor, upstream: tuple[Any, float]
    ):
        super().__init__(request, queries, keys)
        self.upstream = upstream
        self.temperature = request.temperature

    def run(self) -> float:
        reduced = self.request.reduction != "none"
        if self.loss is None:
            self.loss = empty_array(self.shape, self.dtype)
        placeholder = unread(self.logits.shape, self.precision.storage)
        whole = self.request.part(
            placeholder, self.index, sample_weight=self.sample_weight, loss=self.loss
        )
        self.request.refuse(whole.prepare())
        # If no pair counts, gradients are zeros, whatever the vectors hold.
        counts = self.counts(whole.divisor)
        rows = len(self.index)
        step = ceil(rows / max(1, ceil(rows / self.block_rows())))
        blocks = [(slice(start, start + step),) for start in range(0, rows, max(1, step))]
        self.room = empty_array((step, self.classes), self.dtype)
        with np.errstate(all="ignore"):
            if blocks:
                self.reduce(blocks)
            if self.hidden.grad is not None:
                self.prepare_sums(len(blocks))
                if counts.any():
                    self.apply(blocks, whole.divisor)
                else:
                    self.hidden.grad[...] = 0
                self.finish_sums()
        return float(whole.finish()) if reduced else 0.0

    def reduce(self, blocks: list[tuple[slice]]) -> None:
        """Sum rows and columns, a block at a time, and find the losses."""
        assert self.loss is not None
        options: dict[str, Any] = {"temperature": self.temperature, "ignore_index": None}
        self.row_sums = np.zeros(self.shape, stages.dtype)
        self.column_sums = self.row_sums
        for block in blocks:
            logits = self.load(block)[0]
            begin = block[0].start
            self.row_sums[block] = stages.reduce(logits, self.index[block], **options)
            shard = stages.reduce(
                logits,
                self.index,
                axis=0,
                class_offset=begin,
                num_classes=self.classes,
                **options,
            )
            self.column_sums = stages.merge(self.column_sums, shard) if begin else shard
        both = stages.values(self.row_sums).nll + stages.values(self.column_sums).nll
        both *= both.dtype.type(0.5)
        if self.sample_weight is not None:
            both = np.where(self.sample_weight == 0, 0, both * self.sample_weight)
        self.loss[...] = both

    def apply(self, blocks: list[tuple[slice]], divisor: float) -> None:
        """Add up the gradients of rows and columns, from the last block to the first."""
        scale, slab_room = 0.5 * self.upstream[1], self.slab_room()
        coef = coefficients(self, self.upstream[0], scale, divisor)
        row_sums, column_sums = (
            stages._split(sums, None) for sums in (self.row_sums, self.column_sums)
        )
        for block in reversed(blocks):
            logits = self.room[: len(self.states)] if block is blocks[-1] else self.load(block)[0]
            begin = block[0].start
            for at in self.slabs(len(logits)):
                slab, columns = logits[at], slab_room[: at.stop - at.start]
                here = slice(begin + at.start, begin + at.stop)
                # The columns' gradient first: that of the rows overwrites the similarities.
                self.apply_to(slab, self.index, 0, here.start, column_sums, coef, columns)
                self.apply_to(slab, self.index[here], 1, 0, row_sums[here], coef[here], slab)
                slab += columns
            self.store(block, logits, None)

    def apply_to(
        self,
        slab: Array,
        targets: Array,
        axis: int,
        begin: int,
        sums: Array,
        coef: Array,
        out: Array,
    ) -> None:
        """Write the gradient of the losses along one axis of a slab, whose first class is `begin`."""
        call = stage_request(slab, targets, axis, None, 0, None, self.temperature, None, None)
        call.set_gradient(out)
        call.stage("apply", sums, begin, self.classes, coefs=(None, coef, None, None))


class Sigmoids(Side):
    """Every similarity a decision of its own, whether it is that of a pair.

    With the sign of a pair's own logit flipped, all of them have the target 0, and each loss is softplus(z): no digits are
    lost where pairs are certain.
    """

    divides = False

    def __init__(
        self,
        request: Request,
        a: Factor,
        b: Factor,
        upstream: tuple[Any, float],
        scale: float,
        bias: float,
    ):
        super().__init__(request, a, b)
        self.upstream, self.scale, self.bias_of_all = upstream, scale, bias
        self.bias_grad = 0.0
        self.slab: Array | None = None

    def read_hidden(self, block: Block) -> Array:
        """The vectors times the scale: so are the similarities, and the gradient of b."""
        scaled: Array = super().read_hidden(block) * self.dtype.type(self.scale)
        return scaled

    def finish_product(self, result: Array) -> None:
        super().finish_product(result)
        result *= self.dtype.type(self.scale)

    def run_block(self, block: Block, divisor: float) -> None:
        assert self.loss is not None
        logits, out, _ = self.load(block)
        own = self.index[block]
        if self.slab is None:
            self.slab = self.slab_room()
            self.coef = coefficients(self, *self.upstream, divisor)
        coef, losses = self.coef[block], np.empty(len(logits))
        target, bias = np.zeros(1, self.dtype), self.dtype.type(self.bias_of_all)
        with np.errstate(all="ignore"):
            for at in self.slabs(len(logits)):
                slab, loss = logits[at], self.slab[: at.stop - at.start]
                pairs = np.arange(len(slab)), own[at]
                slab += bias
                slab[pairs] = -slab[pairs]
                options: dict[str, Any] = {"reduction": "none", "out": loss}
                if out is not None:
                    share = np.broadcast_to(coef[at, np.newaxis], slab.shape)
                    options |= {"return_grad": True, "grad_output": share, "grad_out": slab}
                elementwise_loss("binary_cross_entropy_with_logits", slab, target, **options)
                loss.sum(axis=1, dtype=np.float64, out=losses[at])
                if out is not None:
                    slab[pairs] = -slab[pairs]
                    self.bias_grad += float(slab.sum(dtype=np.float64))
            weighted = losses if self.sample_weight is None else losses * self.sample_weight[block]
            self.loss[block] = weighted
        self.store(block, out, None)


class Unit:
    """Vectors divided by their 2-norms, in the compute dtype.

    A vector is divided by its largest number first, so that no square leaves the range of the dtype, and squares are summed
    in float64. The zero vector stays what it is.
    """

    def __init__(self, factor: Factor, dtype: np.dtype[Any]):
        rows, features = factor.values.shape
        step = max(1, UNIT_ELEMENTS // max(1, features))
        self.parts = [slice(start, start + step) for start in range(0, rows, step)]
        self.values = empty_array((rows, features), dtype)
        self.largest, self.norm = np.empty(rows, dtype), np.empty(rows, dtype)
        with np.errstate(all="ignore"):
            for part in self.parts:
                vectors = factor.read(part, dtype)
                largest = np.abs(vectors).max(axis=1, initial=0)
                self.largest[part] = np.where(largest == 0, 1, largest)
                scaled = vectors / self.largest[part, np.newaxis]
                square = np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64)
                self.norm[part] = np.sqrt(square)
                norm = np.where(square == 0, 1, self.norm[part])
                self.values[part] = scaled / norm[:, np.newaxis]

    def pull_back(self, gradient: Array, factor: Factor) -> None:
        """Turn the gradient of the divided vectors into that of the vectors: (g - u (u · g)) / norm, and store it."""
        with np.errstate(all="ignore"):
            for part in self.parts:
                unit, g, norm = self.values[part], gradient[part], self.norm[part, np.newaxis]
                along = np.einsum("nd,nd->n", unit, g, dtype=np.float64).astype(g.dtype)
                across = (g - unit * along[:, np.newaxis]) / norm / self.largest[part, np.newaxis]
                factor.write(part, np.where(norm == 0, 0, across))


class Problem:
    """The two arrays of a call, normalized if that is asked for, and their gradients."""

    def __init__(self, factors: dict[str, Factor], normalize: bool, with_grad: bool):
        self.given = [*factors.values()]
        self.used = self.given
        self.units: list[Unit] = []
        self.kind = widest(self.given)
        self.normalize, self.with_grad = normalize, with_grad

    def prepare(self, first_needed: bool) -> tuple[Factor, Factor]:
        """Divide by the norms, allocate gradients, and return what is multiplied.

        `first_needed`: the gradient of the first is needed for what is summed beside it.
        """
        dtype = self.kind.compute
        if self.normalize:
            self.units = [Unit(factor, dtype) for factor in self.given]
            self.used = [Factor(unit.values, self.kind) for unit in self.units]
        self.results = tuple(
            empty_array(f.values.shape, f.kind.result_dtype)
            for f in self.given[: 2 if self.with_grad else int(first_needed)]
        )
        for given, used, result in zip(self.given, self.used, self.results, strict=False):
            given.grad = result.view(given.kind.storage) if given.kind.bfloat16 else result
            if self.normalize:
                own = given.grad.dtype == dtype
                used.grad = given.grad if own else empty_array(result.shape, dtype)
        first, second = self.used
        return first, second

    def finish(self) -> None:
        """Turn the gradients of divided vectors into those of the vectors."""
        for unit, used, given in zip(self.units, self.used, self.given, strict=False):
            if used.grad is not None and self.with_grad:
                unit.pull_back(used.grad, given)


def info_nce_loss(
    queries: Any,
    keys: Any,
    *,
    targets: Any,
    temperature: Any,
    symmetric: Any,
    normalize: Any,
    sample_weight: Any,
    ignore_index: Any,
    reduction: Any,
    return_grad: Any,
    return_temperature_grad: Any,
    grad_output: Any,
    out: Any,
    dtype: Any,
) -> Any:
    """Return the loss, or the tuple of the requested results, as `info_nce` describes them."""
    factors = pair({"queries": queries, "keys": keys}, dtype)
    rows, columns = (len(factor.values) for factor in factors.values())
    symmetric = arguments.flag(symmetric, "symmetric")
    normalize = arguments.flag(normalize, "normalize")
    with_grad = arguments.flag(return_grad, "return_grad")
    with_temperature = arguments.flag(return_temperature_grad, "return_temperature_grad")
    if symmetric:
        check_symmetric(rows, columns, targets, ignore_index)
    if targets is None:
        if columns < rows:
            raise ValueError(
                f"keys: expected at least {rows}, one for each query, or targets; got {columns}"
            )
        targets = np.arange(rows)
    elif arguments.array(targets, "targets").shape != (rows,):
        raise ValueError(
            f"targets: expected shape ({rows},), for each query the number of its key; "
            f"got {arguments.array(targets, 'targets').shape}"
        )
    problem = Problem(factors, normalize, with_grad)
    options = {
        "sample_weight": sample_weight,
        "ignore_index": ignore_index,
        "temperature": temperature,
        "reduction": reduction,
    }
    differentiated = arguments.requested_outputs(
        with_grad or with_temperature, False, grad_output, None, None
    )
    if not differentiated and not symmetric and out is None and are_few(*problem.given):
        few = few_logits(*problem.prepare(False), None, problem.kind.compute)
        return softmax_loss("cross_entropy", few, targets, **options)
    request, loss = linear_request(
        unread((rows, columns), problem.kind.storage),
        problem.kind,
        targets,
        out,
        class_weight=None,
        label_smoothing=0.0,
        z_loss=0.0,
        softcap=None,
        grad_output=grad_output,
        **options,
    )
    check_out(loss, factors, request)
    side: Side

    def run(request: Request) -> float:
        nonlocal side
        first, second = problem.prepare(with_temperature)
        if symmetric:
            side = Pairs(request, first, second, upstream_of(request, grad_output))
        else:
            side = Side(request, first, second)
        total = side.run()
        problem.finish()
        return total

    count_call()
    results = [request.results(out, run)]
    if with_grad:
        results.append(problem.results)
    if with_temperature:
        number = problem.kind.compute.type
        with np.errstate(all="ignore"):
            results.append(number(-side.inner / request.temperature))
    return tuple(results) if len(results) > 1 else results[0]


def check_symmetric(rows: int, columns: int, targets: Any, ignore_index: Any) -> None:
    """Refuse what the diagonal's pairs leave no room for."""
    if targets is not None:
        raise ValueError(
            "targets: expected None for symmetric=True, where query i and key i are a pair; "
            f"got {arguments.described(targets)}"
        )
    if not (isinstance(ignore_index, int) and ignore_index == -100):
        raise ValueError(
            "ignore_index: expected its default, -100, for symmetric=True, which takes no targets; "
            f"got {arguments.described(ignore_index)}"
        )
    if rows != columns:
        raise ValueError(
            f"keys: expected {rows}, one for each query, for symmetric=True; got {columns}"
        )


def check_out(loss: Any, factors: dict[str, Factor], request: Request) -> None:
    """Refuse an array for the loss that overlaps an input."""
    inputs = {name: factor.values for name, factor in factors.items()}
    arguments.check_no_overlap({"out": loss}, inputs | request.targets_and_weights())


def upstream_of(request: Request, grad_output: Any) -> tuple[Any, float]:
    """Return the upstream gradient: one number for each row or None, and a factor of all."""
    found: tuple[Any, float] = arguments.grad_output(
        grad_output, request.reduction != "none", request.shape, np.dtype(np.float64)
    )
    return found


def sigmoid_loss(
    a: Any,
    b: Any,
    *,
    logit_scale: Any,
    logit_bias: Any,
    normalize: Any,
    sample_weight: Any,
    reduction: Any,
    return_grad: Any,
    grad_output: Any,
    out: Any,
    dtype: Any,
) -> Any:
    """Return the loss, or the loss and the tuple of gradients, as `sigmoid_contrastive_loss` describes them."""
    factors = pair({"a": a, "b": b}, dtype)
    rows, columns = (len(factor.values) for factor in factors.values())
    if rows != columns:
        raise ValueError(f"b: expected {rows} vectors, one for each of a; got {columns}")
    normalize = arguments.flag(normalize, "normalize")
    with_grad = arguments.flag(return_grad, "return_grad")
    scale, bias = (
        arguments.number(value, name, -1e30, 1e30, "a finite number")
        for name, value in (("logit_scale", logit_scale), ("logit_bias", logit_bias))
    )
    problem = Problem(factors, normalize, with_grad)
    request, loss = linear_request(
        unread((rows, columns), problem.kind.storage),
        problem.kind,
        np.arange(rows),
        out,
        class_weight=None,
        sample_weight=sample_weight,
        ignore_index=None,
        label_smoothing=0.0,
        z_loss=0.0,
        softcap=None,
        temperature=1.0,
        reduction=reduction,
        grad_output=grad_output,
    )
    arguments.requested_outputs(with_grad, False, grad_output, None, None)
    check_out(loss, factors, request)
    side: Sigmoids

    def run(request: Request) -> float:
        nonlocal side
        upstream = upstream_of(request, grad_output)
        side = Sigmoids(request, *problem.prepare(False), upstream=upstream, scale=scale, bias=bias)
        total = side.run()
        problem.finish()
        return total

    count_call()
    total = request.results(out, run)
    if not with_grad:
        return total
    number = problem.kind.compute.type
    with np.errstate(all="ignore"):
        of_numbers = number(side.inner), number(side.bias_grad)
    return total, (*problem.results, *of_numbers)
