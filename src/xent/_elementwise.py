"""Elementwise losses: validate the arguments, allocate the results, hand the elements to the core.

The core reads any strides. Arrays of another dtype or byte order than it computes in are converted a block of elements at a
time, in C order. A block holds whole summation blocks and stores their sums at the places that they have in the whole array,
so that converting changes no bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent import _arguments as arguments
from xent._arguments import Array, Precision
from xent._core import Call

# The number of elements whose losses are summed together, and the number that are converted at once.
SUM_BLOCK = 4096
BLOCK = 16 * SUM_BLOCK


@dataclass
class Elements:
    """The inputs, the outputs (`loss`, `out`, `hess`) and the parameters of one call."""

    operation: str
    x: Array
    precision: Precision
    targets: Array
    sample_weight: Array | None
    pos_weight: Array | None
    grad_output: Array | None
    loss: Array | None
    out: Array | None
    hess: Array | None
    numbers: dict[str, Any]
    parameters: dict[str, Any]

    @property
    def reals(self) -> tuple[Array | None, ...]:
        """The inputs that the core reads in the compute dtype."""
        return self.targets, self.sample_weight, self.pos_weight, self.grad_output


def core_call(
    e: Elements,
    shape: tuple[int, ...],
    x: Array,
    reals: tuple[Array | None, ...],
    written: tuple[Array | None, ...],
    sums: Array | None = None,
    **numbers: Any,
) -> Call:
    targets, sample_weight, pos_weight, grad_output = reals
    loss, out, hess = written
    call = Call(e.operation, shape, 1, x, e.precision.bfloat16)
    call.arrays(
        soft=targets,
        sample_weight=sample_weight,
        grad_output=grad_output,
        loss=loss,
        out=out,
        hess=hess,
    )
    return call.numbers(**{**e.numbers, **numbers}).elementwise(pos_weight, sums, **e.parameters)


def run(e: Elements, name: str) -> float:
    """Compute the requested results; return the reduced loss (0.0 without a reduction)."""
    x, reals, kind = e.x, e.reals, e.precision
    if x.size <= BLOCK:
        x = arguments.cast(x, kind.storage)
        reals = tuple(None if a is None else arguments.cast(a, kind.compute) for a in reals)
    if x.dtype != kind.storage or any(a is not None and a.dtype != kind.compute for a in reals):
        return run_in_blocks(e, name)
    call = core_call(e, x.shape, x, reals, (e.loss, e.out, e.hess))
    check(e, name, call.run())
    return float(call.result)


class Flat:
    """The elements of an array in C order. Slices are views if the array is contiguous, copies otherwise."""

    def __init__(self, a: Array, dtype: np.dtype[Any]):
        self.elements: Any = a.reshape(-1) if a.flags.c_contiguous else a.flat
        self.dtype = dtype

    def __getitem__(self, part: slice) -> Array:
        found: Array = self.elements[part].astype(self.dtype, copy=False)
        return found


def parts(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def run_in_blocks(e: Elements, name: str) -> float:
    kind, size = e.precision, e.x.size
    x = Flat(e.x, kind.storage)
    reals = [None if a is None else Flat(a, kind.compute) for a in e.reals]
    written = [
        None if a is None else Flat(a, dtype)
        for a, dtype in ((e.loss, kind.compute), (e.out, kind.storage), (e.hess, kind.storage))
    ]
    sums = np.zeros((-(-size // SUM_BLOCK), 2))

    def call_for(part: slice, outputs: tuple[Array | None, ...]) -> Call:
        with np.errstate(all="ignore"):
            inputs = tuple(None if a is None else a[part] for a in reals)
            return core_call(
                *(e, (part.stop - part.start,), x[part], inputs, outputs),
                sums=sums[part.start // SUM_BLOCK :],
            )

    def total(reduction: str) -> Call:
        nothing = np.broadcast_to(np.zeros((), kind.storage), e.x.shape)
        return core_call(
            *(e, e.x.shape, nothing, (None,) * 4, (None,) * 3), sums=sums, reduction=reduction
        )

    reduction = e.numbers["reduction"]
    whole = total(reduction)
    divisor = float(size if reduction != "batchmean" else e.x.shape[0] if e.x.ndim else 1)
    if e.operation == "binary_cross_entropy" or e.sample_weight is not None:
        # All probabilities are validated, and all weights summed, before anything is written.
        for part in parts(size):
            check(e, name, call_for(part, (None,) * 3).prepare(), part.start)
        if e.sample_weight is not None and reduction != "batchmean":
            weights = total("sum")
            weights.finish()
            divisor = weights.result
    for part in parts(size):
        outputs = tuple(None if a is None else a[part] for a in written)
        call = call_for(part, outputs)
        call.divisor = divisor
        call.compute()
        for a, output in zip(written, outputs, strict=True):
            if a is not None and isinstance(a.elements, np.flatiter):
                a.elements[part] = output
    if reduction == "none":
        return 0.0
    whole.divisor = divisor
    whole.finish()
    return whole.result


def broadcast(value: Any, name: str, shape: tuple[int, ...], kind: Precision) -> Array | None:
    """Return an array broadcast to the loss; it is cast here if it is small, otherwise block by block."""
    found = None if value is None else arguments.real(value, name)
    small = found is not None and found.size <= BLOCK
    return arguments.broadcast(found, name, shape, kind.compute if small else None)


def check(e: Elements, name: str, position: int, start: int = 0) -> None:
    if position >= 0:
        raise bad_probability(e.x, e.precision, name, start + position)


def bad_probability(x: Array, kind: Precision, name: str, position: int) -> ValueError:
    where = tuple(int(i) for i in np.unravel_index(position, x.shape))
    value = arguments.numbers(np.asarray(x[where]), kind)
    return arguments.bad_probability(name, where, float(value))


def validate_probabilities(x: Array, kind: Precision, name: str) -> None:
    """Refuse numbers outside [0, 1]; NaN passes."""
    pieces: Iterator[tuple[int, Array]] = iter(((0, x),))
    if x.dtype != kind.storage:
        flat = Flat(x, kind.storage)
        pieces = ((part.start, flat[part]) for part in parts(x.size))
    for start, piece in pieces:
        call = Call("binary_cross_entropy", piece.shape, 1, piece, kind.bfloat16)
        position = call.numbers().elementwise().prepare()
        if position >= 0:
            raise bad_probability(x, kind, name, start + position)


def elementwise_loss(
    operation: str,
    name: str,
    value: Any,
    targets: Any,
    *,
    sample_weight: Any,
    reduction: Any,
    return_grad: bool,
    grad_output: Any,
    out: Any,
    grad_out: Any,
    dtype: Any,
    return_hess: bool = False,
    hess_out: Any = None,
    pos_weight: Any = None,
    label_smoothing: float = 0.0,
    strength: float = 0.0,
    eps: float = 0.0,
    reductions: tuple[str, ...] = arguments.REDUCTIONS,
    **parameters: Any,
) -> Any:
    """Return the loss, or the tuple of the requested results, as the public functions describe them.

    `name` is what the public function calls its first argument.
    """
    x, kind = arguments.logits(value, name, dtype)
    shape = x.shape
    t = arguments.same_shape(targets, "targets", shape, name)
    reduction = arguments.reduction(reduction, reductions)
    weight = broadcast(sample_weight, "sample_weight", shape, kind)
    positive = broadcast(pos_weight, "pos_weight", shape, kind)
    with_grad, with_hess = arguments.requested_outputs(
        return_grad, return_hess, grad_output, grad_out, hess_out
    )
    upstream, grad_scale = arguments.grad_output(grad_output, reduction, shape, None)
    loss_shape = shape if reduction == "none" else ()
    outputs = {
        "out": (out, loss_shape, kind.compute),
        "grad_out": (grad_out, shape, kind.result_dtype),
        "hess_out": (hess_out, shape, kind.result_dtype),
    }
    buffers = {
        argument: None if given is None else arguments.buffer(given, argument, *expected)
        for argument, (given, *expected) in outputs.items()
    }
    read = {
        name: x,
        "targets": t,
        "sample_weight": weight,
        "pos_weight": positive,
        "grad_output": upstream,
    }
    arguments.check_no_overlap(buffers, read, in_place=("grad_out", name))

    results: list[Any] = []
    for requested, given in ((with_grad, grad_out), (with_hess, hess_out)):
        if requested:
            results.append(np.empty(shape, kind.result_dtype) if given is None else given)
    stored = [np.asarray(a).view(kind.storage) for a in results] + [None, None]
    loss: Any = None
    if reduction == "none":
        loss = np.empty(shape, kind.compute) if out is None else np.asarray(out)
    numbers = {
        "label_smoothing": label_smoothing,
        "reduction": reduction,
        "grad_scale": grad_scale,
        "strength": strength,
        "eps": eps,
    }
    total = run(
        Elements(
            *(operation, x, kind, t, weight, positive, upstream),
            *(loss, stored[0], stored[1], numbers, parameters),
        ),
        name,
    )
    if loss is None:
        with np.errstate(over="ignore"):
            loss = kind.compute.type(total)
        if out is not None:
            out[...] = loss
    loss = loss[()] if out is None else out
    return (loss, *results) if results else loss
