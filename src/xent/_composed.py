"""Cross-entropy with what no single call of the kernels has, composed of the stages.

A row's loss is a sum of the values of `stages`, each times a coefficient: of the target or targets, of all classes (label
smoothing), of the entropy, and the square of the log-sum-exp. The same coefficients, times the derivative of the result with
respect to the row's loss, give the gradient, and with the derivatives of the values the one with respect to the temperature.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xent import _arguments as arguments
from xent import _functions, stages
from xent._blocks import numbers, rounded, stored
from xent._head import Head, capped, row_sums
from xent._request import bad_target

Array = np.ndarray[Any, Any]


class Entries(NamedTuple):
    """Several targets of each row, the axis of the targets last: classes, their logits after the cap and its slope.

    Of a shard those that it holds, and their places in it.
    """

    classes: Array
    counts: Array
    held: Array
    places: Array
    logits: Array
    slopes: Array


def counted(request: Any, index: Array, classes: int) -> Array:
    """Return which class indices are not ignored; raise for one of these that is no class."""
    counts = np.ones(index.shape, bool)
    if request.ignores_index(index):
        counts = index != request.ignore_index
    bad = counts & ((index < 0) | (index >= classes))
    if bad.any():
        raise bad_target(index, int(np.argmax(bad)), classes, request.ignore_index)
    return counts


def several_targets(request: Any, indices: Any, name: str = "targets") -> Array:
    """Return several class indices of each row, validated but for what they are; their axis is that of the classes."""
    axis = request.class_axis
    index: Array = arguments.array(indices, name)
    if index.size == 0 and not isinstance(indices, np.ndarray):
        index = index.astype(np.int64)
    if index.dtype.kind not in "iub":
        raise TypeError(
            f"{name}: dtype {index.dtype} is not accepted for class indices; expected integers or bool"
        )
    shape = request.logits.shape
    if (
        index.ndim != len(shape)
        or index.shape[:axis] + index.shape[axis + 1 :] != shape[:axis] + shape[axis + 1 :]
    ):
        raise ValueError(
            f"{name}: shape {index.shape} does not fit logits of shape {shape} with the classes on axis {axis}; expected "
            f"that shape with the number of targets of a row in its place"
        )
    return index


def entries(request: Any, index: Array, begin: int = 0, classes: int | None = None) -> Entries:
    """Look up the logits of several targets of each row: those in the shard of `classes` that starts at `begin`, else 0."""
    axis, logits = request.class_axis, request.logits
    own = logits.shape[axis]
    counts = counted(request, index, own if classes is None else classes)
    chosen = np.where(counts, index, begin).astype(np.int64)
    held = (chosen >= begin) & (chosen < begin + own)
    here = np.where(held, chosen - begin, 0)
    picked = np.take_along_axis(logits, here, axis) if own else np.zeros(index.shape, logits.dtype)
    chosen, counts, held, here = (np.moveaxis(a, axis, -1) for a in (chosen, counts, held, here))
    z = numbers(np.moveaxis(picked, axis, -1), request.precision).astype(request.precision.compute)
    slopes = np.ones_like(z)
    if request.class_bias is not None and own:
        with np.errstate(all="ignore"):
            z = z + request.class_bias[here]
    if request.softcap > 0:
        z, slopes = capped(z, request.softcap)
    return Entries(chosen, counts, held, here, np.where(held, z, z.dtype.type(0)), slopes)


def token_log_probs(
    logits: Any,
    targets: Any,
    axis: Any,
    ignore_index: Any,
    softcap: Any,
    temperature: Any,
    dtype: Any,
) -> Any:
    """Return the log-probabilities of several targets of each row, in the place of the class axis."""
    request = _functions.stage_request(
        logits, None, axis, None, 0, None, temperature, softcap, dtype
    )
    request.ignore_index = ignore_index
    found = entries(request, several_targets(request, targets))
    sums = np.zeros(request.shape, stages.CORE)
    request.stage("reduce", sums, 0, request.logits.shape[request.class_axis])
    head = Head(sums, request.precision.compute.type)
    with np.errstate(all="ignore"):
        log_probs = np.where(found.counts, np.subtract(0, head.nll(found.logits)), head.real(0))
    return np.moveaxis(log_probs, -1, request.class_axis)


def perplexities(
    logits: Any,
    targets: Any,
    axis: Any,
    sample_weight: Any,
    ignore_index: Any,
    softcap: Any,
    temperature: Any,
    reduction: Any,
    dtype: Any,
) -> Any:
    """Return the perplexity of each sequence, along the last axis of the targets."""
    if not isinstance(reduction, str) or reduction != "none":
        raise ValueError(
            f"reduction: expected one of mean, none, got {arguments.described(reduction)}"
        )
    losses = _functions.log_probability(
        "token_log_probs",
        logits,
        targets,
        axis=axis,
        sample_weight=None,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        reduction="none",
        dtype=dtype,
    )
    losses = np.subtract(0, np.atleast_1d(losses))
    index = np.atleast_1d(arguments.array(targets, "targets"))
    weight = np.ones(losses.shape)
    if sample_weight is not None:
        weight = np.broadcast_to(
            arguments.real(sample_weight, "sample_weight"), losses.shape
        ).astype(float)
    if ignore_index is not None:
        weight = np.where(index == ignore_index, 0.0, weight)
    with np.errstate(all="ignore"):
        total = np.where(weight == 0, 0.0, weight * losses).sum(axis=-1, dtype=np.longdouble)
        mean = total / weight.sum(axis=-1, dtype=np.longdouble)
        found = [_functions.exponential(x) for x in mean.flat]
        return np.array(found).reshape(mean.shape).astype(losses.dtype)[()]


class Loss:
    """The rows of one call of `cross_entropy`: their losses, and the derivatives that are asked for.

    `reduce` comes first. Where the logits are a shard of the classes, `shard` has the arguments of `stages` that say which,
    and sums of all classes come from elsewhere: `prepare` is before them, `weigh` behind.
    """

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        axis: int,
        class_weight: Any,
        sample_weight: Any,
        ignore_index: Any,
        label_smoothing: Any,
        z_loss: Any,
        softcap: Any,
        temperature: Any,
        reduction: str,
        grad_output: Any,
        dtype: Any,
        target_probs: Any,
        entropy_weight: float,
        class_bias: Any,
        shard: dict[str, Any] | None = None,
    ):
        self.options = {
            "temperature": temperature,
            "softcap": softcap,
            # Stages do not read several targets.
            "ignore_index": ignore_index if target_probs is None else None,
            "class_bias": class_bias,
        }
        given = _functions.stage_request(
            logits,
            targets if target_probs is None else None,
            axis,
            None,
            0,
            self.options["ignore_index"],
            temperature,
            softcap,
            dtype,
            class_bias,
        )
        given.ignore_index = ignore_index
        self.given, self.axis, self.shape = given, given.class_axis, given.shape
        self.compute = given.precision.compute
        self.real = self.compute.type
        self.shard: dict[str, Any] = shard or {}
        held = given.logits.shape[self.axis]
        self.classes = self.shard.get("num_classes", held)
        self.smoothing = arguments.label_smoothing(label_smoothing)
        self.z_loss = arguments.z_loss(z_loss)
        self.entropy_weight = arguments.number(
            entropy_weight, "entropy_weight", -1e30, 1e30, "a finite number"
        )
        self.needs_entropy = self.entropy_weight != 0
        self.reduction = reduction
        code = arguments.reduction(reduction)
        self.class_weight = self.all_weights = arguments.class_weight(
            class_weight, held, self.compute
        )
        self.sample_weight = arguments.sample_weight(sample_weight, self.shape, self.compute, code)
        self.upstream, self.scale = arguments.grad_output(
            grad_output, reduction != "none", self.shape, self.compute
        )
        self.logits = given.logits
        self.target = targets
        self.probs: Any = None
        self.shares: Any = None
        if target_probs is not None:
            self.several = several_targets(given, targets)
            q = arguments.real(target_probs, "target_probs")
            if np.shape(q) != self.several.shape:
                raise ValueError(
                    f"target_probs: expected the shape of targets, {self.several.shape}; got {np.shape(q)}"
                )
            self.probs = np.moveaxis(q, self.axis, -1).astype(self.compute)

    def stage_options(self) -> dict[str, Any]:
        dtype = "bfloat16" if self.given.precision.bfloat16 else None
        return {"axis": self.axis, "dtype": dtype, **self.options}

    @cached_property
    def head(self) -> Head:
        """What the sums say beside the values."""
        return Head(self.sums, self.real)

    def reduce(self) -> None:
        """Find the values of all rows, the coefficients of their losses, and the divisor."""
        self.prepare()
        self.weigh(self.stage_sums())

    def prepare(self) -> None:
        """Find the targets that the stages read."""
        real, e = self.real, self.smoothing
        if self.probs is not None:
            self.find_entries()
        soft = self.given.soft
        self.targets = None if self.probs is not None else self.target
        if soft is not None and (e > 0 or self.class_weight is not None):
            along = (
                1
                if self.class_weight is None
                else self.class_weight.reshape((-1,) + (1,) * (soft.ndim - self.axis - 1))
            )
            with np.errstate(all="ignore"):
                self.targets = (
                    soft.astype(self.compute) * real(1 - e) + real(e / max(self.classes, 1))
                ) * along

    @property
    def smooth(self) -> float:
        """The coefficient of the sum over all classes."""
        return self.smoothing / max(self.classes, 1) if self.given.soft is None else 0.0

    def weigh(self, sums: Any) -> None:
        """Find values, coefficients and divisor from the sums of all classes."""
        real, e = self.real, self.smoothing
        self.sums = sums
        self.values = stages.values(sums)
        counts: Any = np.asarray(self.sums["counts"])
        if self.probs is not None:
            counts = self.entries.counts.any(axis=-1)
        weight = (
            np.ones(self.shape, self.compute)
            if self.sample_weight is None
            else np.broadcast_to(self.sample_weight, self.shape)
        )
        self.counts = counts & (weight != 0)
        self.weight = np.where(self.counts, weight, real(0)).astype(float)
        of_target: Any = 1.0
        if self.given.index is not None and self.class_weight is not None:
            of_target = self.target_weight(counts)
        self.hard = np.broadcast_to(
            (1 - e) * of_target if self.given.index is not None else 1.0, self.shape
        )
        divides = self.weight * (of_target if self.given.index is not None else 1.0)
        self.divisor = (
            float(np.sum(divides, dtype=np.longdouble)) if self.reduction == "mean" else 1.0
        )
        if self.probs is not None:
            shares = self.probs.astype(float) * (1 - e)
            if self.class_weight is not None:
                shares = shares * self.entry_weights()
            self.shares = shares

    def find_entries(self) -> None:
        """Look up several targets of each row; those that do not count have no share."""
        begin = self.shard.get("class_offset", 0)
        self.entries = entries(self.given, self.several, begin, self.classes)
        self.probs = np.where(self.entries.counts, self.probs, self.real(0))

    def stage_sums(self) -> Any:
        """Return the sums of all classes of each row."""
        return stages.reduce(
            self.logits,
            self.targets,
            class_weight=self.class_weight if self.smooth else None,
            smooth=self.smooth > 0,
            entropy=self.needs_entropy,
            **self.shard,
            **self.stage_options(),
        )

    def target_weight(self, counts: Array) -> Array:
        """Return the class weight of each row's target, where the row counts."""
        found: Array = self.all_weights[np.where(counts, self.given.index, 0)].astype(float)
        return found

    def entry_weights(self) -> Array:
        """Return the class weight of each of several targets."""
        found: Array = self.all_weights[self.entries.classes]
        return found

    def rows(self) -> Array:
        """Return the losses of the rows, in float64 products of the compute dtype's values."""
        if not self.counts.size:
            return np.zeros(self.shape)  # sums of no rows do not say what they are of
        v = self.values
        with np.errstate(all="ignore"):
            if self.probs is not None:
                nll = self.head.nll(self.entries.logits)
                rows = row_sums(np.where(self.shares != 0, self.shares * nll, 0.0).astype(float))
            else:
                rows = np.where(self.hard == 0, 0.0, self.hard * v.nll)
            if self.smooth:
                rows = rows + self.smooth * v.smooth
            if self.z_loss:
                rows = rows + self.z_loss * np.square(np.asarray(v.lse, float))
            if self.entropy_weight:
                rows = rows - self.entropy_weight * v.entropy
            return np.where(self.counts, self.weight * rows, 0.0)

    def result(self, rows: Array) -> Any:
        """Return the losses of the rows, or what they are reduced to, in the compute dtype."""
        with np.errstate(all="ignore"):
            if self.reduction == "none":
                return rows.astype(self.compute)
            return self.reduced(np.sum(rows, dtype=np.longdouble))

    def reduced(self, total: Any) -> Any:
        """Return the sum or the mean of rows whose losses add up to `total`."""
        with np.errstate(all="ignore"):
            if self.reduction == "sum":
                return self.real(total)
            return self.real(total / self.divisor if self.divisor else np.nan)

    def slope(self) -> Array:
        """d result / d row loss, sample weight and upstream gradient included."""
        with np.errstate(all="ignore"):
            s = self.weight * self.scale
            if self.upstream is not None:
                s = s * self.upstream
            if self.reduction == "mean":
                s = s / self.divisor if self.divisor else np.zeros_like(s)
            return np.where(self.counts, s, 0.0)

    def grad(self, out: Any) -> Any:
        """Return the gradient with respect to the logits."""
        s, v = self.slope(), self.values
        with np.errstate(all="ignore"):
            lse = (
                np.where(self.counts, 2 * self.z_loss * np.asarray(v.lse, float) * s, 0.0)
                if self.z_loss
                else None
            )
            coefs: dict[str, Any] = {"nll": s * self.hard}
            if self.probs is not None:
                mass = row_sums(self.shares.copy()) * s
                coefs = {"lse": mass if lse is None else lse + mass}
            elif lse is not None:
                coefs["lse"] = lse
            if self.smooth:
                coefs["smooth"] = s * self.smooth
            if self.entropy_weight:
                coefs["entropy"] = -self.entropy_weight * s
        grad = stages.apply(
            self.logits,
            self.sums,
            self.targets,
            class_weight=self.class_weight if self.smooth else None,
            grad_out=out,
            **coefs,
            **self.shard,
            **self.stage_options(),
        )
        if self.probs is not None:
            self.take_entries(grad, s)
        if not self.counts.all():  # whatever the logits of rows of weight 0 are
            np.moveaxis(stored(grad, self.given.precision), self.axis, -1)[~self.counts] = 0
        if self.given.precision.bfloat16 and out is None:
            grad = grad.view(self.given.precision.result_dtype)
        return grad

    def take_entries(self, grad: Any, s: Array) -> None:
        """Take what each of several targets adds from the gradient; the same class may be named twice."""
        precision = self.given.precision
        with np.errstate(all="ignore"):
            amount = self.shares * s[..., None] * self.entries.slopes / self.given.temperature
        where = np.moveaxis(grad, self.axis, -1)
        taking = self.counts[..., None] & self.entries.counts & self.entries.held
        counting = np.flatnonzero(taking)
        taken = amount.reshape(-1)[counting]
        number = counting // max(amount.shape[-1], 1) * where.shape[-1]
        number += self.entries.places.reshape(-1)[counting]
        if where.flags.c_contiguous:
            shape, flat = (where.size,), where.reshape(-1)
        else:
            shape, flat = where.shape, where
        with np.errstate(all="ignore"):
            if precision.compute == precision.storage:
                place = np.unravel_index(number, shape)
                np.subtract.at(flat, place, taken.astype(flat.dtype))
                return
            unique, inverse = np.unique(number, return_inverse=True)
            total = np.bincount(inverse, taken, len(unique))
            view, place = stored(flat, precision), np.unravel_index(unique, shape)
            view[place] = rounded(
                (numbers(view[place], precision).astype(float) - total).astype(np.float32),
                precision,
            )

    def bias_grad(self, grad: Any) -> Array:
        """Return d result / d class_bias, the sum of the gradient over rows."""
        wide = numbers(stored(grad, self.given.precision), self.given.precision)
        others = tuple(d for d in range(wide.ndim) if d != self.axis)
        found: Array = np.sum(wide, axis=others, dtype=np.float64).astype(self.compute)
        return found

    def temperature_grad(self) -> Any:
        """Return d result / d temperature."""
        moments = self.moments()
        variance = self.variance() if self.entropy_weight else None
        return self.real(self.temperature_total(moments, variance))

    def moments(self) -> Any:
        """Return the sums of exp(t) t."""
        if self.needs_entropy:
            return self.sums["entropy_moment"]
        options = self.stage_options() | {"ignore_index": None}
        sums = stages.reduce(self.logits, None, entropy=True, **options)
        return sums["entropy_moment"]

    def temperature_total(self, moments: Any, variance: Array | None) -> Any:
        """Return d result / d temperature, of the rows that are here."""
        total = np.sum(self.temperature_rows(moments, variance), dtype=np.longdouble)
        return -total / self.given.temperature

    def temperature_rows(self, moments: Any, variance: Array | None) -> Array:
        """Return what each row adds to d result / d temperature, times minus the temperature."""
        head, s = self.head, self.slope()
        with np.errstate(all="ignore"):
            center = np.asarray(head.center(moments), float)
            lse = np.asarray(self.values.lse, float)
            if self.probs is not None:
                apart = center[..., None] + head.gap(self.entries.logits)
                rise = row_sums(np.where(self.shares != 0, self.shares * apart, 0.0))
            elif self.given.index is not None:
                rise = self.hard * (
                    center + np.where(self.counts, head.gap(self.sums["target_logit"]), 0)
                )
            else:
                rise = self.sums["soft_mass"] * center - head.scaled(self.sums["soft_moment"])
            if self.smooth:
                rise = rise + self.smooth * (
                    self.sums["smooth_mass"] * center - head.scaled(self.sums["smooth_moment"])
                )
            if self.z_loss:
                rise = rise + 2 * self.z_loss * lse * (center + head.top)
            if variance is not None:
                rise = rise + self.entropy_weight * variance
            return np.where(self.counts, s * rise, 0.0)

    def variance(self) -> Array:
        """Of the logits after cap and temperature, under their softmax."""
        z = self.heated()
        if not z.shape[-1]:
            return np.zeros(z.shape[:-1])
        with np.errstate(all="ignore"):
            p = _functions.softmax_family("softmax", np.ascontiguousarray(z), -1, None)
            mean = row_sums(np.where(p > 0, p * z, 0.0))[..., None]
            return row_sums(np.where(p > 0, p * np.square(z - mean), 0.0))

    def heated(self) -> Array:
        """Return the logits after bias, cap and temperature in float64, the class axis last."""
        z = np.moveaxis(numbers(self.logits, self.given.precision), self.axis, -1).astype(float)
        with np.errstate(all="ignore"):
            if self.given.class_bias is not None:
                z = z + self.given.class_bias
            if self.given.softcap > 0:
                z = capped(z, self.given.softcap)[0]
            return z / self.given.temperature


def cross_entropy(
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
) -> Any:
    """Return the loss, or the tuple of the requested results."""
    requested = arguments.requested_outputs(
        return_grad, return_hess, options["grad_output"], grad_out, hess_out
    )
    with_lse = arguments.flag(return_lse, "return_lse")
    with_temperature = arguments.flag(return_temperature_grad, "return_temperature_grad")
    with_bias = arguments.flag(return_bias_grad, "return_bias_grad")
    if requested == 2:
        raise ValueError(
            "return_hess: not with target_probs, entropy_weight, return_temperature_grad or return_bias_grad"
        )
    if with_bias and options["class_bias"] is None:
        raise ValueError("return_bias_grad: expected class_bias")
    loss = Loss(logits, targets, **options)
    loss.reduce()
    reduced = loss.reduction != "none"
    if out is not None:
        out = arguments.buffer(out, "out", () if reduced else loss.shape, loss.compute)
    if grad_out is not None:
        grad_out = loss.given.gradient_buffer(grad_out)
    result = loss.result(loss.rows())
    # Before the gradient, which may be written over the logits.
    by_temperature = loss.temperature_grad() if with_temperature else None
    grad: Any = loss.grad(grad_out) if requested or with_bias else None
    found = [result]
    if requested:
        found.append(grad)
    if with_lse:
        found.append(loss.values.lse)
    if with_temperature:
        found.append(by_temperature)
    if with_bias:
        found.append(loss.bias_grad(grad))
    if out is not None:
        out[...] = result
        found[0] = out
    elif not reduced:
        found[0] = result[()]
    return found[0] if len(found) == 1 else tuple(found)
