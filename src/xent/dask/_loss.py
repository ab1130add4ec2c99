"""Cross-entropy as a graph: arguments validated once, then a task for each chunk."""

from __future__ import annotations

from functools import cached_property
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed

from xent import _arguments as arguments
from xent import _functions, stages
from xent.dask import _tasks
from xent.dask._graph import Blocks, lazy, of_rows, placeholder, scalar


class Loss:
    """One call: its validated arguments, and the layers of its graph."""

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        axis: Any,
        class_weight: Any = None,
        sample_weight: Any,
        ignore_index: Any,
        label_smoothing: Any = 0.0,
        z_loss: Any = 0.0,
        softcap: Any,
        temperature: Any,
        reduction: Any,
        return_grad: Any = False,
        grad_output: Any = None,
        dtype: Any,
        entropy_weight: Any = 0.0,
        class_bias: Any = None,
    ):
        logits = lazy(logits, "logits")
        if isinstance(targets, da.Array):
            shown = placeholder(lazy(targets, "targets"))
        else:
            shown = targets = arguments.array(targets, "targets")
        request = _functions.stage_request(
            placeholder(logits),
            shown,
            axis,
            None,
            0,
            ignore_index,
            temperature,
            softcap,
            dtype,
            class_bias,
        )
        axis = request.class_axis
        self.blocks = Blocks(logits, (axis,))
        self.compute = request.precision.compute
        self.result_dtype = request.precision.result_dtype
        self.indexed = request.index is not None
        self.ignore_index = ignore_index if self.indexed else None
        self.stage = {
            "axis": axis,
            "ignore_index": ignore_index,
            "temperature": temperature,
            "softcap": softcap,
            "dtype": dtype,
        }
        self.terms = _tasks.Terms(
            arguments.label_smoothing(label_smoothing),
            arguments.z_loss(z_loss),
            arguments.number(entropy_weight, "entropy_weight", -1e30, 1e30, "a finite number"),
            self.blocks.classes,
        )
        arguments.reduction(reduction)
        self.reduction = reduction
        self.return_grad = arguments.flag(return_grad, "return_grad")
        # The weights of a mean are brought into the range of the compute dtype; the z-loss is not weighted by them.
        divides = reduction == "mean" and self.indexed and not self.terms.z_loss
        self.class_weight = arguments.class_weight(
            class_weight, self.blocks.classes, self.compute, divides
        )
        self.class_bias = request.class_bias
        shape, chunks = self.blocks.shape, self.blocks.row_chunks
        self.weight = None
        if sample_weight is not None:
            self.weight = of_rows(sample_weight, "sample_weight", shape, chunks)
        # Losses times their weights are float64 until they are summed.
        self.row_dtype = self.compute if self.weight is None else np.dtype(np.float64)
        self.upstream: Any = 1.0
        if grad_output is not None:
            self.set_upstream(grad_output)
        self.targets = self.set_targets(targets)

    def set_upstream(self, value: Any) -> None:
        if not self.return_grad:
            raise ValueError("grad_output: given, but return_grad is False")
        if self.reduction != "none":
            self.upstream = arguments.grad_output(value, True, (), self.compute)[1]
        elif np.shape(value) != self.blocks.shape:
            raise ValueError(
                f"grad_output: expected the shape of the loss, {self.blocks.shape}, for reduction='none'; "
                f"got {np.shape(value)}"
            )
        else:
            self.upstream = of_rows(value, "grad_output", self.blocks.shape, self.blocks.row_chunks)

    def set_targets(self, targets: Any) -> Any:
        """Return targets in the chunks of the logits, class indices checked by the tasks that read them."""
        blocks = self.blocks
        chunks = blocks.row_chunks if self.indexed else blocks.x.chunks
        if not isinstance(targets, da.Array):
            targets = da.from_array(targets, chunks=chunks)
        elif self.indexed:
            targets = targets.rechunk(chunks)
        elif targets.chunks != chunks:
            raise ValueError(
                f"targets: expected the chunks of the logits, {chunks}; got {targets.chunks}: give "
                "targets.rechunk(logits.chunks)"
            )
        if not self.indexed:
            return targets
        return da.map_blocks(
            _tasks.checked,
            targets,
            blocks.classes,
            self.ignore_index,
            dtype=targets.dtype,
            meta=np.empty((0,) * targets.ndim, targets.dtype),
        )

    def expect_indices(self) -> None:
        """Refuse class probabilities where tokens are expected."""
        if not self.indexed:
            raise TypeError(
                f"targets: expected class indices, integers or bool; got dtype {self.targets.dtype} and shape "
                f"{self.targets.shape}"
            )

    @property
    def target_axes(self) -> tuple[int, ...]:
        return self.blocks.rows if self.indexed else self.blocks.all

    def of_rows(self, value: Any) -> tuple[Any, Any]:
        """Return the argument of a layer: an array of the rows, or what is not one."""
        return (value, self.blocks.rows) if isinstance(value, da.Array) else (value, None)

    @cached_property
    def divisor(self) -> Any:
        """The divisor of a mean, an exact sum that depends on targets and weights alone; None of another reduction."""
        if self.reduction != "mean":
            return None
        if not self.indexed and self.weight is None:
            return int(np.prod(self.blocks.shape, dtype=object))
        parts = self.blocks.layer(
            _tasks.divisors,
            self.blocks.rows,
            self.of_rows(self.targets if self.indexed else None),
            self.of_rows(self.weight),
            self.of_classes(self.class_weight if self.indexed else None),
            (self.ignore_index, None),
            dtype=object,
        )
        return scalar(_tasks.joined, parts, dtype=object)

    def of_classes(self, value: Any) -> tuple[Any, Any]:
        """Return the argument of a layer that reads the numbers of all classes."""
        return (None if value is None else delayed(value)), None

    def shard(self, value: Any) -> tuple[Any, Any]:
        """Return the argument of a layer that reads the numbers of a chunk's classes."""
        if value is None:
            return None, None
        (axis,) = self.blocks.axes
        return da.from_array(value, chunks=(self.blocks.x.chunks[axis],)), (axis,)

    @cached_property
    def scale(self) -> tuple[tuple[Any, Any], ...]:
        """Arguments of a layer: what the derivative of the result by each row's loss is made of."""
        divisor = (self.divisor, ()) if isinstance(self.divisor, da.Array) else (self.divisor, None)
        return self.of_rows(self.weight), self.of_rows(self.upstream), divisor

    @cached_property
    def parts(self) -> tuple[Any, Any, Any]:
        """The losses of the rows, the gradient and the log-sum-exp."""
        return self.parts_of_whole() if self.blocks.whole else self.parts_of_shards()

    def parts_of_whole(self) -> tuple[Any, Any, Any]:
        """Of chunks that have all classes: one task for the loss and the gradient of each."""
        blocks = self.blocks
        found = blocks.layer(
            _tasks.whole,
            blocks.rows,
            (blocks.x, blocks.all),
            (self.targets, self.target_axes),
            *(
                self.scale
                if self.return_grad
                else (self.of_rows(self.weight), (1.0, None), (None, None))
            ),
            self.of_classes(self.class_weight),
            self.of_classes(self.class_bias),
            terms=self.terms,
            return_grad=self.return_grad,
            stage=self.stage,
            dtype=object,
        )
        loss, lse = (
            blocks.layer(itemgetter(i), blocks.rows, (found, blocks.rows), dtype=dtype)
            for i, dtype in ((0, self.row_dtype), (2, self.compute))
        )
        grad = blocks.layer(
            itemgetter(1),
            blocks.all,
            (found, blocks.rows),
            dtype=self.result_dtype,
            new_axes=dict.fromkeys(blocks.axes, blocks.classes),
        )
        return loss, grad, lse

    def parts_of_shards(self) -> tuple[Any, Any, Any]:
        """Of chunks that have some of the classes: the sums of each, merged; then the losses, and the gradient of each."""
        blocks = self.blocks
        offsets = (blocks.offsets(), blocks.axes)
        options = {"terms": self.terms, "compute": self.compute}
        sums = blocks.layer(
            _tasks.reduce,
            blocks.all,
            (blocks.x, blocks.all),
            offsets,
            (self.targets, self.target_axes),
            self.shard(self.class_weight),
            self.shard(self.class_bias),
            dtype=stages.dtype,
            adjust_chunks=dict.fromkeys(blocks.axes, 1),
            stage=self.stage,
            **options,
        )
        merged = blocks.merged(_tasks.merge, sums)
        loss = blocks.layer(
            _tasks.rows,
            blocks.rows,
            (merged, blocks.rows),
            self.of_rows(self.targets if self.indexed else None),
            self.of_rows(self.weight),
            self.of_classes(self.class_weight if self.indexed else None),
            dtype=self.row_dtype,
            **options,
        )
        lse = blocks.layer(
            _tasks.log_sum_exp, blocks.rows, (merged, blocks.rows), dtype=self.compute
        )
        if not self.return_grad:
            return loss, None, lse
        grad = blocks.layer(
            _tasks.gradient,
            blocks.all,
            (blocks.x, blocks.all),
            offsets,
            (merged, blocks.rows),
            (self.targets, self.target_axes),
            *self.scale,
            self.shard(self.class_weight),
            self.of_classes(self.class_weight if self.indexed else None),
            self.shard(self.class_bias),
            dtype=self.result_dtype,
            stage=self.stage,
            **options,
        )
        return loss, grad, lse

    def reduced(self, exponential: bool = False) -> Any:
        """Return the loss after the reduction."""
        rows = self.parts[0]
        if self.reduction == "none":
            return rows.astype(self.compute)
        sums = self.blocks.layer(
            _tasks.exact, self.blocks.rows, (rows, self.blocks.rows), dtype=object
        )
        divisor = 1 if self.divisor is None else self.divisor
        return scalar(_tasks.quotient, sums, divisor, self.compute, exponential, dtype=self.compute)
