"""The rows of a call whose classes are divided among ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import stages
from xent._composed import Array, Loss, counted
from xent._functions import softmax_request
from xent._head import Head, row_sums
from xent.mpi._ranks import Slice, digest
from xent.mpi._sums import Merged, Own, Wanted, chunks, own_sums, reduced


class Shard(Loss):
    """Rows of which a rank holds the logits of some classes, and the class weights, bias and soft targets of these.

    Everything but the gradient is found on every rank of `comm`, from sums that are the same on all.
    """

    place: Slice
    by_temperature = False
    weights: Array | None = None  # of the targets

    def wanted(self) -> Wanted:
        """Return what is exchanged."""
        index = self.given.index is not None
        return Wanted(
            self.compute,
            smooth=self.smoothing > 0 and self.given.soft is None,
            soft=self.given.soft is not None,
            entropy=self.entropy_weight != 0 or self.by_temperature,
            targets=1 if index else 0 if self.probs is None else self.several.shape[self.axis],
            weighted=self.weights is None
            and self.class_weight is not None
            and (index or self.probs is not None),
        )

    def put(self, place: Slice) -> None:
        """Set where the slice lies."""
        self.place = place
        self.shard, self.classes = place.arguments, place.num_classes

    def own(self) -> Own:
        """Return the sums of this rank's classes; raise for a target that is no class."""
        self.prepare()
        wanted, index = self.wanted(), self.given.index
        logits = weights = None
        if index is not None:
            counts = counted(self.given, index, self.classes)
            if wanted.weighted:
                weights = self.held_weights(np.where(counts, index, -1).reshape(1, -1))
        elif self.probs is not None:
            logits = targets_first(self.entries.logits)
            if wanted.weighted:
                weights = self.held_weights(targets_first(self.entries.classes))
        of_chunks = reduced(
            self.place,
            wanted,
            self.logits,
            index if index is not None else self.soft() if wanted.soft else None,
            class_weight=self.class_weight if self.smooth else None,
            **self.stage_options() | {"class_bias": self.given.class_bias},
        )
        return own_sums(wanted, of_chunks, logits, weights)

    def held_weights(self, classes: Array) -> Array:
        return held_weights(self.place, self.class_weight, classes)

    def take(self, merged: Merged) -> None:
        """Find values, coefficients and divisor from what has been exchanged."""
        if self.probs is not None:
            shape = self.entries.logits.shape
            self.entries = self.entries._replace(logits=targets_last(merged.logits, shape))
            self.weights = targets_last(merged.weights, shape) if len(merged.weights) else None
        elif len(merged.weights):
            self.weights = merged.weights.reshape(self.shape)
        sums = merged.sums.reshape(self.shape)
        if self.smooth and self.weights is not None and self.given.index is not None:
            sums["target_weight"] = self.weights
        self.weigh(sums)

    def soft(self) -> Any:
        """Return the soft targets, smoothed and weighted."""
        changed = isinstance(self.targets, np.ndarray) and self.targets is not self.target
        found: Any = self.targets if changed else self.given.soft
        return found

    def target_weight(self, counts: Array) -> Array:
        assert self.weights is not None
        return self.weights

    def entry_weights(self) -> Array:
        assert self.weights is not None
        return self.weights

    def with_hess(self, grad_out: Array, hess_out: Array) -> None:
        """Write the gradient and the diagonal of the Hessian."""
        index = self.given.index is not None
        slope = self.slope().astype(self.compute)
        request = softmax_request(
            "cross_entropy",
            self.logits,
            self.given.index if index else self.soft(),
            class_weight=self.class_weight if index else None,
            label_smoothing=self.smoothing if index else 0.0,
            z_loss=self.z_loss,
            reduction="none",
            grad_output=slope,
            **self.stage_options(),
        )
        sums = stages._split(self.sums, "smooth" if self.smooth else None if index else "soft")
        if self.weights is not None:
            sums["target_weight"] = self.weights
        hess = np.empty(hess_out.shape, hess_out.dtype)
        request.set_gradient(grad_out)
        request.hess = hess
        request.stage(
            "apply",
            np.ascontiguousarray(sums),
            self.place.begin,
            self.classes,
            label_smoothing=self.smoothing if index else 0.0,
        )
        hess_out[...] = hess
        if not self.counts.all():
            for result in (grad_out, hess_out):
                np.moveaxis(result, self.axis, -1)[~self.counts] = 0

    def moments(self) -> Any:
        return self.sums["entropy_moment"]

    def own_variance(self) -> Array:
        """Return what each chunk adds to the variance of the logits under their softmax, (chunks, rows)."""
        z, head = self.heated(), Head(self.sums, np.float64)
        with np.errstate(all="ignore"):
            mean = head.top + head.center(self.sums["entropy_moment"])
            p = np.exp(z - np.asarray(head.lse)[..., None])
            terms = np.where(p > 0, p * np.square(z - np.asarray(mean)[..., None]), 0.0)
        begin = self.place.begin
        return np.stack(
            [
                row_sums(terms[..., first - begin : end - begin].copy()).reshape(-1)
                for first, end in chunks(begin, self.place.end)
            ]
        )


def held_weights(place: Slice, class_weight: Array, classes: Array) -> Array:
    """Return the class weights of targets that a rank holds, 0 of all others."""
    here = classes.astype(np.int64) - place.begin
    held = (here >= 0) & (here < len(class_weight))
    found = np.zeros(here.shape)
    found[held] = class_weight[here[held]]
    return found


def targets_first(a: Array) -> Array:
    """Return an array of rows and their targets as (targets, rows)."""
    return a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1]).T


def targets_last(a: Array, shape: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(a.T).reshape(shape)


def without_mean(reduction: Any) -> Any:
    """Return the reduction of a part of the rows of a mean, whose weights must not be scaled by themselves."""
    return "sum" if isinstance(reduction, str) and reduction == "mean" else reduction


def dtype_name(precision: Any) -> str:
    return "bfloat16" if precision.bfloat16 else str(precision.result_dtype)


def options_of(request: Any, reduction: str, **results: Any) -> dict[str, Any]:
    """Return what must be the same on every rank of a call."""
    return {
        "dtype": dtype_name(request.precision),
        "reduction": reduction,
        **{name: bool(asked) for name, asked in results.items()},
        "temperature": request.temperature,
        "softcap": request.softcap,
        "ignore_index": request.ignore_index,
    }


def rows_of(
    request: Any, index: Array | None, sample_weight: Any, upstream: Any, scale: float
) -> dict[str, Any]:
    """Return what must be the same on every rank that holds other classes of the same rows."""
    shape = request.shape
    return {
        "rows": shape,
        "targets": "class probabilities"
        if index is None
        else digest(index.astype(np.int64), index.shape),
        "sample_weight": digest(sample_weight, shape),
        "grad_output": digest(upstream, shape) or digest(np.float64(scale), ()),
    }
