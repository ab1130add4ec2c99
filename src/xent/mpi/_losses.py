"""What `xent.mpi.cross_entropy` calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent._pool import empty_array
from xent.mpi._ranks import Call, Classes, Grid, digest
from xent.mpi._shard import Shard, options_of, rows_of, without_mean
from xent.mpi._sums import Array, Exchange


class Results:
    """The rows of a call, and where its results go."""

    exchange: Exchange
    losses: Array

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        return_grad: Any,
        return_hess: Any,
        return_lse: Any,
        return_temperature_grad: Any,
        return_bias_grad: Any,
        out: Any,
        grad_out: Any,
        hess_out: Any,
        **options: Any,
    ):
        requested = arguments.requested_outputs(
            return_grad, return_hess, options["grad_output"], grad_out, hess_out
        )
        self.with_grad, self.with_hess = requested >= 1, requested == 2
        self.with_lse = arguments.flag(return_lse, "return_lse")
        self.with_temperature = arguments.flag(return_temperature_grad, "return_temperature_grad")
        self.with_bias = arguments.flag(return_bias_grad, "return_bias_grad")
        if self.with_bias and options["class_bias"] is None:
            raise ValueError("return_bias_grad: expected class_bias")
        if self.with_hess and (
            self.with_bias
            or self.with_temperature
            or options["target_probs"] is not None
            or options["entropy_weight"]
        ):
            raise ValueError(
                "return_hess: not with target_probs, entropy_weight, return_temperature_grad or return_bias_grad"
            )
        loss = self.loss = Shard(logits, targets, **options)
        loss.by_temperature = self.with_temperature
        reduced = loss.reduction != "none"
        if out is not None:
            out = arguments.buffer(out, "out", () if reduced else loss.shape, loss.compute)
        self.out = out
        self.grad: Any = None
        self.hess: Any = None
        if self.with_grad or self.with_bias:
            self.grad = loss.given.gradient_buffer(grad_out)
        if self.with_hess:
            shape, dtype = loss.given.logits.shape, loss.given.precision.result_dtype
            self.hess = (
                empty_array(shape, dtype)
                if hess_out is None
                else arguments.buffer(hess_out, "hess_out", shape, dtype)
            )
            arguments.check_no_overlap(
                {"grad_out": self.grad, "hess_out": self.hess},
                {"logits": loss.logits},
                ("grad_out", "logits"),
            )

    def call(self, classes: Classes, reduction: str) -> Call:
        """Return what ranks must agree on."""
        loss = self.loss
        options = options_of(
            loss.given,
            reduction,
            return_grad=self.with_grad or self.with_bias,
            return_hess=self.with_hess,
            return_temperature_grad=self.with_temperature,
        ) | {
            "label_smoothing": loss.smoothing,
            "z_loss": loss.z_loss,
            "entropy_weight": loss.entropy_weight,
            "class_weight": "given" if loss.class_weight is not None else "not given",
        }
        index = loss.given.index if loss.probs is None else loss.several
        rows = rows_of(loss.given, index, loss.sample_weight, loss.upstream, loss.scale)
        if loss.probs is not None:
            rows["target_probs"] = digest(loss.probs, loss.probs.shape)
        return Call(self, options, rows, classes)

    def sums(self) -> tuple[float, float]:
        """Find the losses of the rows; return their sum, and what a mean of them divides by."""
        loss = self.loss
        self.losses = loss.rows()
        return float(np.sum(self.losses, dtype=np.longdouble)), loss.divisor

    def finish(self, total: float, temperature: Any) -> list[Any]:
        """Write what is asked for, and return the results."""
        loss = self.loss
        reduced = loss.reduction != "none"
        found = [loss.reduced(total) if reduced else self.losses.astype(loss.compute)[()]]
        if self.hess is not None:
            loss.with_hess(self.grad, self.hess)
        elif self.grad is not None:
            loss.grad(self.grad)
        if self.with_grad:
            found.append(self.grad)
        if self.hess is not None:
            found.append(self.hess)
        if self.with_lse:
            found.append(loss.values.lse)
        if self.with_temperature:
            found.append(loss.real(temperature))
        if self.with_bias:
            found.append(loss.bias_grad(self.grad))
        return found

    def returned(self, found: Any) -> Any:
        """Write the loss, once every rank has its results; return all of them."""
        if self.out is not None:
            self.out[...] = found[0]
            found[0] = self.out
        return found[0] if len(found) == 1 else tuple(found)


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    comm: Any,
    row_comm: Any,
    class_offset: Any,
    **options: Any,
) -> Any:
    """Return the loss, or the tuple of the requested results."""

    def validate() -> Call:
        reduction = options["reduction"]
        if row_comm is None:
            results = Results(logits, targets, **options)
        else:
            results = Results(logits, targets, **options | {"reduction": without_mean(reduction)})
        loss = results.loss
        loss.reduction = reduction
        results.exchange = Exchange(
            ranks, loss.wanted(), int(np.prod(loss.shape)), loss.given.temperature
        )
        return results.call(Classes(loss.classes, class_offset), reduction)

    def sums() -> Any:
        results = grid.agree(validate)
        loss, exchange = results.loss, results.exchange
        place = grid.place()
        exchange.put(place)
        loss.put(place)
        merged = exchange.merged(loss.own)
        ranks.attempt(lambda: loss.take(merged))
        found.append(results)
        return ranks.attempt(results.sums)

    def by_temperature() -> Any:
        loss = found[0].loss
        variance = None
        if loss.entropy_weight:
            variance = found[0].exchange.added(loss.own_variance)
        return ranks.attempt(
            lambda: (
                float(
                    loss.temperature_total(
                        loss.moments(), None if variance is None else variance.reshape(loss.shape)
                    )
                ),
            )
        )

    found: list[Any] = []
    with Grid(comm, row_comm) as grid:
        ranks = grid.columns
        with grid.together():
            total, divisor = grid.over_rows(2, sums)
            (results,) = found
            results.loss.divisor = divisor
            temperature = None
            if results.with_temperature:
                # Before the gradient, which may be written over the logits.
                (temperature,) = grid.over_rows(1, by_temperature)
            answers = ranks.attempt(lambda: results.finish(total, temperature))
        return results.returned(answers)
