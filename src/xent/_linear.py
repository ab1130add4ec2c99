"""Cross-entropy of logits that are a matrix product, hidden @ weight.T + bias, and its backward products.

Nearly all of the time goes to three matrix products: the logits, the gradient of hidden and the gradient of weight. NumPy
leaves them to BLAS where that can read the weight; of half types, and of a float32 weight in any other layout, they are the
library's own (`xent_multiply`), which reads numbers as they lie. The kernels compute the loss between the products. Only one
block of rows of the logits exists at a time, and its gradient overwrites it; or a shard of the classes of a block, where the
loss is all that is wanted or all rows are one block (`_shards.py`). Rows that do not count are left out: an ignored row
costs no product, and whatever its hidden state holds reaches no gradient.

NumPy's interface to BLAS cannot add a product to an array (gemm's beta). What later blocks contribute to the gradient of the
weight is therefore computed for a slice of classes at a time, and added while the slice is in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod
from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent import _core
from xent._blocks import Array, Block, RowBlocks, blocks, numbers, stored, unread
from xent._functions import linear_request, softmax_loss
from xent._layer import Factor, are_few, few_logits, is_own, layer, matrix, widest
from xent._pool import count_call, empty_array
from xent._request import Request
from xent._shards import Shards, shard_bytes, shards_of

# The size of a block of logits, and its least number of rows. BLAS needs some hundred rows to be fast: with 256 a product
# takes up to 1.2 times as long for each row as with 1024, with 64 twice as long.
BLOCK_BYTES, BLOCK_ROWS = 64 << 20, 256
# The size of a slice of classes of the weight, if it must be converted, or of its gradient, if it is added to a sum.
SLICE_BYTES = 4 << 20


def buffers(value: Any, expected: dict[str, tuple[Any, ...]]) -> list[Array | None]:
    """Return the caller's arrays for the gradients, given as a tuple with an array or None for each of `expected`."""
    if value is None:
        return [None] * len(expected)
    if not isinstance(value, tuple | list) or len(value) != len(expected):
        is_tuple = isinstance(value, tuple | list)
        raise (ValueError if is_tuple else TypeError)(
            f"grad_out: expected a tuple of {len(expected)}, for {', '.join(expected)}, each an array or None; "
            f"got {f'{len(value)} of them' if is_tuple else arguments.described(value)}"
        )
    return [
        None if one is None else arguments.buffer(one, f"grad_out[{position}]", *form)
        for position, (one, form) in enumerate(zip(value, expected.values(), strict=True))
    ]


def multiply(
    a: Array, b: Array, out: Array, own: bool, add: bool = False, room: Array | None = None
) -> None:
    """Compute out = a b, or out += a b; `room` is scratch of the shape of `out`."""
    if own:
        _core.multiply(a, b, out, add)
    elif add:
        out += np.matmul(a, b, out=room)
    else:
        np.matmul(a, b, out=out)


class Linear(RowBlocks):
    """Rows whose logits are computed a block at a time; those of the request are a placeholder that has their shape."""

    #: Whether the logits of a block may be computed a shard at a time: nothing else is made of them.
    divides = True

    def __init__(self, request: Request, hidden: Factor, weight: Factor, bias: Factor | None):
        super().__init__(request)
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.classes, self.features = weight.values.shape
        self.dtype = self.precision.compute
        # Whether the products are the library's own.
        self.own = is_own(hidden, weight, self.dtype)
        self.with_grad = hidden.grad is not None or weight.grad is not None

    def slice_bytes(self) -> int:
        """Return the size of a slice. The library's own products of fewer classes are as fast."""
        return SLICE_BYTES // 2 if self.own else SLICE_BYTES

    def slices(self, begin: int, end: int) -> Iterator[slice]:
        """Yield the slices of some classes; of none, one."""
        step = max(1, self.slice_bytes() // (max(1, self.features) * self.dtype.itemsize))
        for start in range(begin, max(begin + 1, end), step):
            yield slice(start, min(start + step, end))

    def counts(self, divisor: float) -> Array:
        """Return which rows count, by the same rule as the kernels."""
        counts = np.full(self.shape, self.request.reduction != "mean" or divisor != 0)
        if self.request.ignores:
            counts &= self.index != self.request.ignore_index
        if self.sample_weight is not None:
            counts &= self.sample_weight != 0
        return counts

    def blocks(self, divisor: float) -> Iterator[Block]:
        """Yield blocks of rows that count, all of nearly the same size; loss and gradient of other rows are set to zero."""
        counts = self.counts(divisor)
        all_count, rows = bool(counts.all()), int(np.count_nonzero(counts))
        if not all_count:
            assert self.loss is not None
            self.loss[~counts] = 0
            if self.hidden.grad is not None:
                self.hidden.grad[~counts] = 0
        self.shards: Shards | None = shards_of(self, rows) if self.divides and rows else None
        parts = ceil(rows / (self.shards.rows if self.shards else self.block_rows()))
        most = ceil(rows / parts) if parts else 1
        if self.shards is None:
            self.room = empty_array((most, self.classes), self.dtype)
        self.prepare_sums(parts)
        if all_count and (parts == 1 or (parts and counts.ndim == 1)):
            yield from blocks(self.shape, most)
        else:
            positions = np.flatnonzero(counts)
            for start in range(0, rows, most):
                yield np.unravel_index(positions[start : start + most], self.shape)
        self.finish_sums()

    def row_bytes(self) -> int:
        """Return the size of a row of logits, or of hidden states if these are larger."""
        size: int = max(1, self.classes, self.features) * self.dtype.itemsize
        return size

    def block_rows(self) -> int:
        """Return how many rows a block may have."""
        most = BLOCK_BYTES
        if self.divides and not self.with_grad:
            most = min(most, shard_bytes(self))
        return max(BLOCK_ROWS, most // self.row_bytes())

    def run_block(self, block: Block, divisor: float) -> None:
        if self.shards is None:
            super().run_block(block, divisor)
        else:
            self.shards.run_block(block, divisor)

    def prepare_sums(self, parts: int) -> None:
        """Allocate the sums for the gradients of weight and bias; a gradient of the sum's dtype is its own sum."""
        self.empty, self.sum, self.bias_sum = True, self.weight.grad, None
        if self.weight.grad is None:
            return
        if self.weight.grad.dtype != self.dtype:
            self.sum = empty_array(self.weight.grad.shape, self.dtype) if parts > 1 else None
        if self.bias is not None and self.bias.grad is not None:
            self.bias_sum = np.zeros(self.classes)  # float64: as many terms as rows
        widest = next(self.slices(0, self.classes)).stop
        self.term = empty_array((widest, self.features), self.dtype)

    def finish_sums(self) -> None:
        """Round the sums to the result dtypes of the gradients."""
        if self.weight.grad is None:
            return
        with np.errstate(all="ignore"):
            if self.empty:
                self.weight.grad[...] = 0
            elif self.sum is not None and self.sum is not self.weight.grad:
                for classes in self.slices(0, self.classes):
                    self.weight.write(classes, self.sum[classes])
            if self.bias is not None and self.bias_sum is not None:
                self.bias.write(..., self.bias_sum)

    def read_weight(self, begin: int, count: int) -> Iterator[tuple[slice, Array]]:
        """Yield the weight of `count` classes by slices, counted from `begin`; as a whole if it is multiplied as it lies."""
        if self.own or matrix(self.weight.values, self.dtype):
            yield slice(0, count), self.weight.values[begin : begin + count]
        else:
            for classes in self.slices(begin, begin + count):
                place = slice(classes.start - begin, classes.stop - begin)
                yield place, self.weight.read(classes, self.dtype)

    def read_hidden(self, block: Block) -> Array:
        """Return the hidden states of a block as they are multiplied by the weight: in the compute dtype for BLAS."""
        return self.hidden.values[block] if self.own else self.hidden.read(block, self.dtype)

    def load(self, block: Block) -> tuple[Array, Array | None, None]:
        with np.errstate(all="ignore"):
            states = self.read_hidden(block)
            shape = states.shape[:-1]
            self.states = states.reshape(prod(shape), self.features)
            logits = self.room[: len(self.states)]
            self.write_logits(logits, 0)
        logits = logits.reshape(*shape, self.classes)
        return logits, logits if self.with_grad else None, None

    def write_logits(self, logits: Array, begin: int) -> None:
        """Write the logits of the block's hidden states, of the classes from `begin` on."""
        count = logits.shape[1]
        for classes, weight in self.read_weight(begin, count):
            multiply(self.states, weight.T, logits[:, classes], self.own)
        if self.bias is not None:
            logits += self.bias.read(slice(begin, begin + count), self.dtype)

    def store(self, block: Block, out: Array | None, hess: Array | None) -> None:
        if out is None:
            return
        gradient = out.reshape(self.states.shape[0], self.classes)
        with np.errstate(all="ignore"):
            # The gradient of the hidden states comes last, because it may overwrite them.
            self.add_to_sums(gradient)
            self.store_hidden(block, gradient)
        self.empty = False

    def add_to_sums(self, gradient: Array, begin: int = 0) -> None:
        """Add a block's contribution to the gradients of weight and bias, of the classes from `begin` on."""
        if self.weight.grad is None:
            return
        end = begin + gradient.shape[1]
        if self.bias_sum is not None:
            self.bias_sum[begin:end] += gradient.sum(axis=0, dtype=np.float64)
        total = None if self.sum is None else self.sum[begin:end]
        if total is not None and self.is_summed_as_a_whole(total):
            multiply(gradient.T, self.states, total, self.own, add=not self.empty)
            return
        for classes in self.slices(begin, end):
            part = gradient[:, classes.start - begin : classes.stop - begin].T
            term = self.term[: len(part)]
            multiply(part, self.states, term, self.own)
            if self.sum is None:
                self.weight.write(classes, term)
            elif self.empty:
                self.sum[classes] = term
            else:
                self.sum[classes] += term

    def is_summed_as_a_whole(self, total: Array) -> bool:
        """Whether a product can be written, or added, to the sum without a slice of its own."""
        if self.own:
            return matrix(total, self.dtype) and total.strides[1] == total.itemsize
        return self.empty and matrix(total, self.dtype)

    def multiply(
        self, gradient: Array, result: Array, begin: int = 0, room: Array | None = None
    ) -> None:
        """Write the product of a gradient of logits and the weight, the gradient of the hidden states.

        That of a shard, whose classes are those from `begin` on, is added to those before.
        """
        for classes, weight in self.read_weight(begin, gradient.shape[1]):
            add = begin + classes.start > 0
            multiply(gradient[:, classes], weight, result, self.own, add, room)

    def finish_product(self, result: Array) -> None:
        """Take what else is to be had of the product for the hidden states, once it is whole."""

    def store_hidden(self, block: Block, gradient: Array) -> None:
        """Compute and store the gradient of the hidden states of a block."""
        if self.hidden.grad is None:
            return
        place, result = self.place_of_hidden(block)
        self.multiply(gradient, result)
        self.finish_product(result)
        self.store_product(block, result, place)

    def place_of_hidden(self, block: Block, apart: bool = False) -> tuple[Array | None, Array]:
        """Return the place of the gradient of a block's hidden states, if it has one, and where it is computed.

        `apart`: that is not where the hidden states are.
        """
        assert self.hidden.grad is not None
        place = None if isinstance(block[0], np.ndarray) else self.hidden.grad[block]
        if place is None or not (place.flags.carray and place.dtype == self.dtype):
            return place, empty_array(self.states.shape, self.dtype)
        if apart and np.may_share_memory(place, self.states):
            return place, empty_array(self.states.shape, self.dtype)
        return place, place.reshape(self.states.shape)

    def store_product(self, block: Block, result: Array, place: Array | None) -> None:
        """Store the gradient of a block's hidden states, unless it has been computed in its place."""
        assert self.hidden.grad is not None
        if place is None or not np.may_share_memory(result, place):
            self.hidden.write(block, result.reshape(self.hidden.grad[block].shape))


def linear_loss(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    bias: Any,
    return_grad: bool,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
    ignore_index: Any,
    wide_grads: tuple[str, ...] | None = None,
    **options: Any,
) -> Any:
    """Return the loss, or the loss and the tuple of gradients, as `linear_cross_entropy` describes them.

    `wide_grads` names the arrays of which gradients are wanted, in the dtype of the computation; those of others are None.
    """
    factors = layer(hidden, weight, bias, dtype)
    precision = widest(factors.values())
    with_grad = arguments.requested_outputs(return_grad, False, grad_output, grad_out, None)
    if not with_grad and out is None and are_few(factors["hidden"], factors["weight"]):
        few = few_logits(
            factors["hidden"], factors["weight"], factors.get("bias"), precision.compute
        )
        return softmax_loss("cross_entropy", few, targets, ignore_index=ignore_index, **options)
    logits = unread(
        (*factors["hidden"].values.shape[:-1], len(factors["weight"].values)), precision.storage
    )
    request, loss = linear_request(
        logits,
        precision,
        targets,
        out,
        ignore_index=ignore_index,
        grad_output=grad_output,
        **options,
    )
    if wide_grads is not None:
        for factor in factors.values():
            factor.grad_kind = precision
    expected = {name: (f.values.shape, f.grad_kind.result_dtype) for name, f in factors.items()}
    grads = buffers(grad_out, expected)
    arguments.check_no_overlap(
        {"out": loss} | {f"grad_out[{position}]": grad for position, grad in enumerate(grads)},
        {name: factor.values for name, factor in factors.items()} | request.targets_and_weights(),
        ("grad_out[0]", "hidden"),
    )
    if with_grad:
        results = tuple(
            None
            if wide_grads is not None and name not in wide_grads
            else empty_array(*form)
            if grad is None
            else grad
            for grad, (name, form) in zip(grads, expected.items(), strict=True)
        )
        for factor, grad in zip(factors.values(), results, strict=True):
            factor.grad = None if grad is None else stored(np.asarray(grad), factor.grad_kind)

    def run(request: Request) -> float:
        return Linear(request, factors["hidden"], factors["weight"], factors.get("bias")).run()

    count_call()
    total = request.results(out, run)
    return (total, results) if with_grad else total


def with_temperature_grad(hidden: Any, weight: Any, targets: Any, **given: Any) -> Any:
    """Return the results of `linear_loss` and the derivative by the temperature.

    Of a function of z / T that is -Σ g z / T, with g its gradient by z. Since z = h W^T + b, the sum is that of the
    gradients of h and b times these.
    """
    if given["softcap"] is not None:
        raise ValueError(
            "return_temperature_grad: not with softcap, after which logits are not a product"
        )
    with_grad = arguments.flag(given["return_grad"], "return_grad")
    if not with_grad and given["grad_out"] is not None:
        raise ValueError("grad_out: given, but return_grad is False")
    factors = layer(hidden, weight, given["bias"], given["dtype"])
    states = numbers(
        factors["hidden"].values, factors["hidden"].kind
    ).copy()  # grad_out may be their memory
    loss, grads = linear_loss(hidden, weight, targets, **given | {"return_grad": True})
    with np.errstate(all="ignore"):
        of_hidden = numbers(
            stored(np.asarray(grads[0]), factors["hidden"].kind), factors["hidden"].kind
        )
        counts = of_hidden != 0
        total = np.sum(
            np.where(counts, of_hidden, 0) * np.where(counts, states, 0), dtype=np.float64
        )
        if "bias" in factors:
            kind = factors["bias"].kind
            of_bias = numbers(stored(np.asarray(grads[2]), kind), kind).astype(float)
            total += np.sum(of_bias * numbers(factors["bias"].values, kind), dtype=np.float64)
    slope = -total / arguments.temperature(given["temperature"])
    slope = widest(factors.values()).compute.type(slope)
    return (loss, grads, slope) if with_grad else (loss, slope)
