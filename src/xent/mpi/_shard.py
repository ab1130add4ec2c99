"""The rows of a call whose classes are divided among ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from xent._composed import Array, Loss, counted
from xent.mpi._ranks import Grid, Slice, digest, together
from xent.mpi._sums import Sums


class Shard(Loss):
    """Rows of which a rank holds the logits of some classes, and the class weights, bias and soft targets of these.

    Everything but the gradient is found on every rank of `comm`, from sums that are the same on all.
    """

    comm: MPI.Intracomm
    place: Slice
    weights: Array | None = None

    def put(self, comm: MPI.Intracomm, place: Slice, weights: Array | None) -> None:
        """Set where the slice lies, and the class weights of all targets, `target_weights`."""
        self.comm, self.place, self.weights = comm, place, weights
        self.shard, self.classes = place.arguments, place.num_classes

    def reduce(self) -> None:
        """Find values, coefficients and divisor, inside a block that ranks leave together."""
        with together(self.comm):
            self.prepare()
            own = self.own_sums()
        self.weigh(own.merged(self.comm))

    def own_sums(self) -> Sums:
        return Sums(
            self.place,
            self.logits,
            self.given.index if self.given.index is not None else self.soft(),
            class_weight=self.class_weight if self.smooth else None,
            smooth=self.smooth > 0,
            entropy=self.needs_entropy,
            **self.stage_options() | {"class_bias": self.given.class_bias},
        )

    def soft(self) -> Any:
        """Return the soft targets, smoothed and weighted."""
        changed = isinstance(self.targets, np.ndarray) and self.targets is not self.target
        found: Any = self.targets if changed else self.given.soft
        return found

    def target_weight(self, counts: Array) -> Array:
        assert self.weights is not None
        return self.weights


def without_mean(reduction: Any) -> Any:
    """Return the reduction of a part of the rows of a mean, whose weights must not be scaled by themselves."""
    return "sum" if isinstance(reduction, str) and reduction == "mean" else reduction


def options_of(request: Any, reduction: str, with_grad: bool) -> dict[str, Any]:
    """Return what must be the same on every rank of a call."""
    return {
        "dtype": str(request.precision.compute),
        "reduction": reduction,
        "return_grad": bool(with_grad),
        "temperature": request.temperature,
        "softcap": request.softcap,
        "ignore_index": request.ignore_index,
    }


def rows_of(request: Any, sample_weight: Any, upstream: Any, scale: float) -> dict[str, Any]:
    """Return what must be the same on every rank that holds other classes of the same rows."""
    index, shape = request.index, request.shape
    return {
        "rows": shape,
        "targets": "class probabilities"
        if index is None
        else digest(index.astype(np.int64), shape),
        "sample_weight": digest(sample_weight, shape),
        "grad_output": digest(upstream, shape) or digest(np.float64(scale), ()),
    }


def target_weights(
    grid: Grid, place: Slice, request: Any, class_weight: Array | None
) -> Array | None:
    """Return the class weight of every row's target, which one rank holds; raise for a target that is no class."""
    index = request.index
    if index is None:
        return None
    # Ranks have the same targets, so that all of them raise.
    counts = counted(request, index, place.num_classes)
    if class_weight is None:
        return None
    with together(grid.comm):
        here = np.where(counts, index, -1).astype(np.int64)
        held = (here >= place.begin) & (here < place.end)
        found = np.zeros(index.shape)
        found[held] = class_weight[here[held] - place.begin]
    # One term of each sum is not 0, so that it is exact.
    grid.comm.Allreduce(MPI.IN_PLACE, found)
    return found
