"""Cross-entropy of a linear layer whose classes are divided among ranks, a block of rows at a time.

Blocks are those of `xent._linear`. All ranks of `comm` take the same rows, exchange the sums of their logits, and add up the
products of their gradients and weights, of which each is a part of the gradient of the hidden states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from xent import _arguments as arguments
from xent._blocks import Array, Block, piece, stored, unread
from xent._functions import linear_request
from xent._linear import Factor, Linear, buffers, layer, widest
from xent._pool import empty_array
from xent.mpi._ranks import Classes, Grid, Slice, digest, together
from xent.mpi._shard import Shard, options_of, rows_of, target_weights, without_mean


class LinearShard(Linear):
    """Rows of which a rank computes the logits of some classes."""

    def __init__(
        self, request: Any, factors: dict[str, Factor], reduction: str, options: dict[str, Any]
    ):
        super().__init__(request, factors["hidden"], factors["weight"], factors.get("bias"))
        self.reduction, self.options = reduction, options
        self.losses: Array = empty_array(self.shape, self.dtype)
        self.loss = self.losses
        self.total = 0.0

    def put(self, grid: Grid, place: Slice) -> None:
        """Set where the slice lies, and find the class weights of all targets."""
        self.comm, self.place = grid.comm, place
        self.weights = target_weights(grid, place, self.request, self.options["class_weight"])

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

    def run_blocks(self, divisor: float) -> None:
        """Compute the losses of all rows, and the gradients if they are requested."""
        rows: Any = None
        while True:
            with together(self.comm):
                rows = self.blocks(divisor) if rows is None else rows
                block = next(rows, None)
                loss: Any = None if block is None else self.shard_of(block)
            if block is None:
                return
            loss.put(self.comm, self.place, piece(self.weights, block))
            with together(self.comm):
                loss.reduce()
                loss.divisor = divisor
                products = self.backward(block, loss)
            if products is not None:
                self.comm.Allreduce(MPI.IN_PLACE, products)
                with together(self.comm):
                    shape = (*loss.shape, self.features)
                    self.hidden.write(block, products.reshape(shape))

    def shard_of(self, block: Block) -> Shard:
        upstream = self.grad_output
        loss = Shard(
            self.load(block)[0],
            piece(self.index if self.soft is None else self.soft, block),
            axis=-1,
            sample_weight=piece(self.sample_weight, block),
            grad_output=self.request.grad_scale if upstream is None else upstream[block],
            **self.options,
        )
        loss.reduction = self.reduction
        return loss

    def backward(self, block: Block, loss: Shard) -> Array | None:
        """Store the losses of a block, add to the gradient of the weight; return the products for the hidden states."""
        rows = loss.rows()
        self.total += float(np.sum(rows, dtype=np.longdouble))
        with np.errstate(all="ignore"):
            self.losses[block] = rows
            if self.hidden.grad is None:
                return None
            gradient = loss.grad(loss.logits).reshape(len(self.states), self.classes)
            products: Array = empty_array(self.states.shape, self.dtype)
            self.add_to_sums(gradient)
            self.multiply(gradient, products)
        self.empty = False
        return products


def linear_cross_entropy(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    comm: Any,
    row_comm: Any,
    class_offset: Any,
    bias: Any,
    return_grad: Any,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
    reduction: Any,
    class_weight: Any,
    sample_weight: Any,
    **options: Any,
) -> Any:
    """Return the loss, or the loss and the tuple of gradients."""
    grid = Grid(comm, row_comm)
    with grid.together():
        with_grad = arguments.requested_outputs(return_grad, False, grad_output, grad_out, None)
        factors = layer(hidden, weight, bias, dtype)
        precision = widest(factor.kind for factor in factors.values())
        classes, features = factors["weight"].values.shape
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
        shards = LinearShard(
            request,
            factors,
            reduction,
            options
            | {
                "class_weight": own,
                "reduction": request.reduction,
                "dtype": None,
                "target_probs": None,
                "entropy_weight": 0.0,
                "class_bias": None,
            },
        )
        if with_grad:
            grads = [
                empty_array(*form) if grad is None else grad
                for grad, form in zip(grads, forms.values(), strict=True)
            ]
            for factor, grad in zip(factors.values(), grads, strict=True):
                factor.grad = stored(np.asarray(grad), factor.kind)
        agreed = options_of(request, reduction, with_grad) | {
            "label_smoothing": options["label_smoothing"],
            "z_loss": options["z_loss"],
            "class_weight": "given" if own is not None else "not given",
            "features": features,
        }
        of_rows = rows_of(
            request, request.sample_weight, request.grad_output, request.grad_scale
        ) | {"hidden": digest(factors["hidden"].values, factors["hidden"].values.shape)}
        held = Classes(classes, class_offset)
    with grid.together():
        shards.put(grid, grid.agree(agreed, of_rows, held))
        divisor = shards.divisor()
    (divisor,) = grid.over_rows(divisor)
    with grid.together():
        shards.run_blocks(divisor)
    (total,) = grid.over_rows(shards.total)
    with grid.together():
        loss = reduced(total, reduction, divisor, shards.losses)
    if out is not None:
        out[...] = loss
        loss = out
    return (loss, tuple(grads)) if with_grad else loss


def reduced(total: float, reduction: str, divisor: float, losses: Array) -> Any:
    """Return the losses of the rows, or what they are reduced to."""
    if reduction == "none":
        return losses[()]
    with np.errstate(all="ignore"):
        mean = total / divisor if divisor else np.nan
        return losses.dtype.type(total if reduction == "sum" else mean)
