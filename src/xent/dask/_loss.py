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
from xent.dask import _hessian, _tasks
from xent.dask._graph import Blocks, lazy, of_rows, placeholder, scalar, without

#: The results of a task of chunks that have all classes, in its order.
ROWS, GRAD, HESS, LSE, TEMPERATURE, SUMS = range(6)


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
        return_hess: Any = False,
        return_temperature_grad: Any = False,
        return_bias_grad: Any = False,
        grad_output: Any = None,
        dtype: Any,
        target_probs: Any = None,
        entropy_weight: Any = 0.0,
        class_bias: Any = None,
    ):
        logits = lazy(logits, "logits")
        sparse = target_probs is not None
        if isinstance(targets, da.Array):
            shown = placeholder(lazy(targets, "targets"))
        else:
            shown = targets = arguments.array(targets, "targets")
        request = _functions.stage_request(
            placeholder(logits),
            None if sparse else shown,
            axis,
            None,
            0,
            None if sparse else ignore_index,
            temperature,
            softcap,
            dtype,
            class_bias,
        )
        axis = request.class_axis
        self.blocks = Blocks(logits, (axis,))
        self.precision = request.precision
        self.compute = request.precision.compute
        self.result_dtype = request.precision.result_dtype
        self.indexed = request.index is not None
        self.ignore_index = ignore_index if self.indexed or sparse else None
        entropy_weight = arguments.number(
            entropy_weight, "entropy_weight", -1e30, 1e30, "a finite number"
        )
        self.with_temperature = arguments.flag(return_temperature_grad, "return_temperature_grad")
        self.with_bias = arguments.flag(return_bias_grad, "return_bias_grad")
        self.options = _tasks.Options(
            {
                "axis": axis,
                "ignore_index": ignore_index,
                "label_smoothing": arguments.label_smoothing(label_smoothing),
                "z_loss": arguments.z_loss(z_loss),
                "softcap": softcap,
                "temperature": temperature,
                "dtype": dtype,
                "entropy_weight": entropy_weight,
            },
            self.blocks.classes,
            self.blocks.shape,
            logits.dtype,
            self.with_temperature,
        )
        arguments.reduction(reduction)
        self.reduction = reduction
        self.derivatives = arguments.requested_outputs(
            return_grad, return_hess, grad_output, None, None
        )
        if self.derivatives > 1 and (
            sparse or entropy_weight or self.with_temperature or self.with_bias
        ):
            raise ValueError(
                "return_hess: not with target_probs, entropy_weight, return_temperature_grad or return_bias_grad"
            )
        if self.with_bias and class_bias is None:
            raise ValueError("return_bias_grad: expected class_bias")
        if self.with_temperature and entropy_weight and not self.blocks.whole:
            raise ValueError(
                "return_temperature_grad: not with entropy_weight where chunks have some of the classes; give "
                f"logits.rechunk({{{axis}: -1}})"
            )
        # The weights of a mean are brought into the range of the compute dtype; the z-loss is not weighted by them.
        divides = reduction == "mean" and self.indexed and not z_loss
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
        self.probs: Any = None
        if sparse:
            targets = self.several(targets, "targets")
            arguments.ignore_bits(ignore_index, np.empty(0, targets.dtype))
            if targets.dtype.kind not in "iub":
                raise TypeError(
                    f"targets: dtype {targets.dtype} is not accepted for class indices; expected integers or bool"
                )
            self.probs = self.several(target_probs, "target_probs")
            if self.probs.shape != targets.shape:
                raise ValueError(
                    f"target_probs: expected the shape of targets, {targets.shape}; got {self.probs.shape}"
                )
            self.targets = targets
        else:
            self.targets = self.set_targets(targets)

    def set_upstream(self, value: Any) -> None:
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
        """Return targets in the chunks of the logits."""
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
        return targets

    def several(self, value: Any, name: str) -> Any:
        """Return numbers of several targets of each row, in the place of the classes, all of a row in one chunk."""
        blocks, shape = self.blocks, np.shape(value)
        if len(shape) != len(blocks.all) or without(shape, blocks.axes) != blocks.shape:
            raise ValueError(
                f"{name}: shape {shape} does not fit logits of shape {blocks.x.shape} with the classes on axis "
                f"{blocks.axes[0]}; expected that shape with the number of targets of a row in its place"
            )
        chunks: list[Any] = list(blocks.row_chunks)
        chunks.insert(blocks.axes[0], -1)
        if isinstance(value, da.Array):
            return lazy(value, name).rechunk(tuple(chunks))
        return da.from_array(arguments.real(value, name), chunks=tuple(chunks))

    def expect_indices(self) -> None:
        """Refuse class probabilities where tokens are expected."""
        if not self.indexed:
            raise TypeError(
                f"targets: expected class indices, integers or bool; got dtype {self.targets.dtype} and shape "
                f"{self.targets.shape}"
            )

    def of_rows(self, value: Any) -> tuple[Any, Any]:
        """Return the argument of a layer: an array of the rows, or what is not one."""
        return (value, self.blocks.rows) if isinstance(value, da.Array) else (value, None)

    @property
    def soft(self) -> bool:
        """Whether targets are probabilities of all classes."""
        return not self.indexed and self.probs is None

    @property
    def of_targets(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Arguments of a layer: the targets of a chunk and their probabilities."""
        if self.probs is None:
            return (self.targets, self.blocks.rows if self.indexed else self.blocks.all), (
                None,
                None,
            )
        # Several targets of a row have an axis of their own, of one chunk.
        (axis,) = self.blocks.axes
        axes = tuple(len(self.blocks.all) if d == axis else d for d in self.blocks.all)
        return (self.targets, axes), (self.probs, axes)

    @property
    def of_row_targets(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """The same where rows have no classes: without class probabilities, which are in their sums."""
        return ((None, None), (None, None)) if self.soft else self.of_targets

    @cached_property
    def divisor(self) -> Any:
        """The divisor of a mean, an exact sum that depends on targets and weights alone; None of another reduction."""
        if self.reduction != "mean":
            return None
        if self.soft and self.weight is None:
            return int(np.prod(self.blocks.shape, dtype=object))
        parts = self.blocks.layer(
            _tasks.divisors,
            self.blocks.rows,
            self.first_rows,
            self.of_row_targets[0],
            self.of_rows(self.weight),
            self.of_classes(self.class_weight if self.indexed else None),
            options=self.options,
            dtype=object,
        )
        return scalar(_tasks.joined, parts, dtype=object)

    @cached_property
    def first_rows(self) -> tuple[Any, Any]:
        """The argument of a layer that checks class indices: where the rows of a chunk are, for the exception."""
        return (None, None) if self.soft else (self.blocks.first_rows(), self.blocks.rows)

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
    def parts(self) -> dict[int, Any]:
        """What is found of the rows, by its number."""
        return self.parts_of_whole() if self.blocks.whole else self.parts_of_shards()

    @property
    def needs_gradient(self) -> bool:
        return bool(self.derivatives > 0 or self.with_bias)

    def parts_of_whole(self) -> dict[int, Any]:
        """Of chunks that have all classes: one task for all results of each."""
        blocks = self.blocks
        derivatives = max(self.derivatives, int(self.with_bias))
        scaled = derivatives or self.with_temperature
        found = blocks.layer(
            _tasks.whole,
            blocks.rows,
            (blocks.x, blocks.all),
            self.first_rows,
            *self.of_targets,
            *(self.scale if scaled else (self.of_rows(self.weight), (1.0, None), (None, None))),
            self.of_classes(self.class_weight),
            self.of_classes(self.class_bias),
            options=self.options,
            derivatives=derivatives,
            sums=self.reduction != "none",
            dtype=object,
        )
        parts = {}
        for part, dtype in (
            (ROWS, self.row_dtype),
            (LSE, self.compute),
            (TEMPERATURE, np.dtype(np.float64)),
            (SUMS, object),
        ):
            pair = (found, blocks.rows)
            parts[part] = blocks.layer(itemgetter(part), blocks.rows, pair, dtype=dtype)
        for part in (GRAD, HESS):
            parts[part] = blocks.layer(
                itemgetter(part),
                blocks.all,
                (found, blocks.rows),
                dtype=self.result_dtype,
                new_axes=dict.fromkeys(blocks.axes, blocks.classes),
            )
        return parts

    def parts_of_shards(self) -> dict[int, Any]:
        """Of chunks that have some of the classes: the sums of each, merged; then what rows give, and chunks from them."""
        blocks = self.blocks
        offsets = (blocks.offsets(), blocks.axes)
        all_weights = self.of_classes(None if self.soft else self.class_weight)
        sums = blocks.layer(
            _tasks.reduce,
            blocks.all,
            (blocks.x, blocks.all),
            offsets,
            self.first_rows,
            *self.of_targets,
            self.shard(self.class_weight),
            self.shard(self.class_bias),
            dtype=stages.dtype,
            adjust_chunks=dict.fromkeys(blocks.axes, 1),
            options=self.options,
        )
        merged = (blocks.merged(_tasks.merge, sums), blocks.rows)
        parts = {
            ROWS: blocks.layer(
                _tasks.rows,
                blocks.rows,
                merged,
                *self.of_row_targets,
                self.of_rows(self.weight),
                all_weights,
                dtype=self.row_dtype,
                options=self.options,
            ),
            LSE: blocks.layer(_tasks.log_sum_exp, blocks.rows, merged, dtype=self.compute),
        }
        if self.with_temperature:
            parts[TEMPERATURE] = blocks.layer(
                _tasks.temperature_rows,
                blocks.rows,
                merged,
                *self.of_row_targets,
                *self.scale,
                all_weights,
                dtype=np.dtype(np.float64),
                options=self.options,
            )
        of_chunks = [(GRAD, _tasks.gradient)] if self.needs_gradient else []
        if self.derivatives > 1:
            of_chunks.append((HESS, _hessian.hessian))
        for part, task in of_chunks:
            parts[part] = blocks.layer(
                task,
                blocks.all,
                (blocks.x, blocks.all),
                offsets,
                merged,
                *self.of_targets,
                *self.scale,
                self.shard(self.class_weight),
                all_weights,
                self.shard(self.class_bias),
                dtype=self.result_dtype,
                options=self.options,
            )
        return parts

    def sums(self, rows: Any) -> Any:
        """Return the sum of the rows of each chunk, without rounding."""
        return self.blocks.layer(
            _tasks.exact, self.blocks.rows, (rows, self.blocks.rows), dtype=object
        )

    def sums_alone(self) -> Any:
        """Return the sums and divisors of chunks that have all classes, where the loss is all that is asked for."""
        return self.blocks.layer(
            _tasks.whole_sums,
            self.blocks.rows,
            (self.blocks.x, self.blocks.all),
            self.first_rows,
            *self.of_targets,
            self.of_rows(self.weight),
            self.of_classes(self.class_weight),
            self.of_classes(self.class_bias),
            options=self.options,
            mean=self.reduction == "mean",
            dtype=object,
        )

    def reduced(self, exponential: bool = False, alone: bool = True) -> Any:
        """Return the loss after the reduction; `alone`: nothing else is asked for."""
        if self.reduction == "none":
            return self.parts[ROWS].astype(self.compute)
        if alone and self.blocks.whole:
            return scalar(
                _tasks.quotient,
                self.sums_alone(),
                None if self.reduction == "mean" else 1,
                self.compute,
                exponential,
                dtype=self.compute,
            )
        sums = self.parts[SUMS] if self.blocks.whole else self.sums(self.parts[ROWS])
        divisor = 1 if self.divisor is None else self.divisor
        return scalar(_tasks.quotient, sums, divisor, self.compute, exponential, dtype=self.compute)

    def perplexities(self) -> Any:
        """Return the perplexity of each sequence, along the last axis of the rows."""
        blocks = self.blocks
        weights = blocks.layer(
            _tasks.row_weights,
            blocks.rows,
            self.of_row_targets[0],
            self.of_rows(self.weight),
            (self.ignore_index, None),
            dtype=np.dtype(np.float64),
        )
        # As in memory: sums of extended precision.
        total, weight = (
            da.atleast_1d(a).astype(np.longdouble).sum(axis=-1) for a in (self.parts[ROWS], weights)
        )
        return da.map_blocks(
            _tasks.exponentials,
            total,
            weight,
            self.compute,
            dtype=self.compute,
            meta=np.empty((0,) * total.ndim, self.compute),
        )

    def bias_grad(self) -> Any:
        """Return the gradient summed over the rows."""
        (axis,) = self.blocks.axes
        grad = self.parts[GRAD]
        sums = self.blocks.layer(
            _tasks.column_sums,
            self.blocks.all,
            (grad, self.blocks.all),
            (axis, None),
            (self.precision, None),
            dtype=np.dtype(np.float64),
            adjust_chunks=dict.fromkeys(self.blocks.rows, 1),
        )
        return sums.sum(axis=self.blocks.rows).astype(self.compute)

    def results(self, with_lse: bool) -> Any:
        """Return the loss, or the tuple of the requested results."""
        alone = not (self.needs_gradient or self.with_temperature or with_lse)
        found = [self.reduced(alone=alone)]
        if self.derivatives:
            found.append(self.parts[GRAD])
        if self.derivatives > 1:
            found.append(self.parts[HESS])
        if with_lse:
            found.append(self.parts[LSE])
        if self.with_temperature:
            sums = self.sums(self.parts[TEMPERATURE])
            found.append(scalar(_tasks.quotient, sums, 1, self.compute, False, dtype=self.compute))
        if self.with_bias:
            found.append(self.bias_grad())
        return found[0] if len(found) == 1 else tuple(found)
