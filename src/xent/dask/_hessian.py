"""The task that computes the diagonal of the Hessian of a chunk that has some of the classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import _composed
from xent._blocks import blocks, numbers, rounded, stored
from xent._head import capped, kernel
from xent._request import BLOCK_BYTES
from xent.dask._tasks import Array, Options, slopes


def hessian(
    logits: Array,
    offset: Array,
    sums: Array,
    targets: Any,
    probs: Any,
    weight: Array | None,
    upstream: Any,
    divisor: Any,
    class_weight: Array | None,
    all_weights: Array | None,
    class_bias: Array | None,
    *,
    options: Options,
) -> Array:
    """Return the diagonal of the Hessian of a chunk, from the sums of its rows over all classes.

    With u the logit after the cap, p its softmax, v and w the first and second derivative of u / T, and a the amount of each
    class in the targets, of mass M: (M + 2 zeta lse) (p (1 - p) v^2 + p w) + 2 zeta p^2 v^2 - a w.
    """
    slope = slopes(sums.shape, weight, upstream, divisor)
    begin, axis = int(offset.item()), options.row["axis"]
    loss = options.loss(logits, targets, probs, weight, class_weight, class_bias, slope, begin)
    if all_weights is not None:
        loss.all_weights = all_weights
    loss.prepare()
    loss.weigh(sums)
    given, heat = loss.given, loss.given.temperature
    found = np.empty(logits.shape, given.precision.result_dtype)
    out = np.moveaxis(stored(found, given.precision), axis, -1)
    z = np.moveaxis(given.logits, axis, -1)
    soft = None if given.soft is None else np.moveaxis(np.asarray(loss.targets), axis, -1)
    mass = loss.hard if soft is None else sums["soft_mass"]
    if loss.smooth:
        mass = mass + loss.smooth * sums["smooth_mass"]
    bend = 2 * loss.z_loss
    level, slope = mass + bend * np.asarray(loss.values.lse, float), loss.slope()
    rest = sums["sum_exp"] + (sums["max_count"] - 1)
    for block in blocks(sums.shape, max(1, BLOCK_BYTES // (8 * max(1, z.shape[-1])))):
        with np.errstate(all="ignore"):
            u = numbers(z[block], given.precision).astype(loss.compute)
            first: Any = 1.0
            second: Any = 0.0
            if class_bias is not None:
                u = u + given.class_bias
            if given.softcap > 0:
                u, first = (a.astype(float) for a in capped(u, given.softcap))
                second = np.where(np.isinf(u), 0.0, -2 * u / given.softcap**2 * first / heat)
            first = first / heat
            of_rest, s, m = (a[block][..., None] for a in (rest, slope, sums["max"]))
            t = np.minimum(u.astype(float) - m, 0.0) / heat
            p = kernel("exp", t) / (1 + of_rest)
            # 1 - p of the largest class is what the others have.
            others = np.where(t == 0, of_rest / (1 + of_rest), 1 - p)
            curve = level[block][..., None] * (p * others * first**2 + p * second)
            curve += bend * np.square(p * first)
            if given.softcap > 0:
                curve -= second * _amounts(loss, soft, block, begin, p.shape)
            values = np.where(loss.counts[block][..., None], s * curve, 0.0)
            out[block] = rounded(values, given.precision)
    return found


def _amounts(
    loss: _composed.Loss, soft: Array | None, block: Any, begin: int, shape: tuple[int, ...]
) -> Array:
    """Return how much of each class of a chunk is in the targets of some rows."""
    if soft is not None:
        return np.asarray(soft[block], float)
    along: Any = 1.0 if loss.class_weight is None else loss.class_weight
    amounts: Array = np.array(np.broadcast_to(loss.smooth * along, shape))
    own = loss.given.index[block].astype(np.int64) - begin
    inside = loss.counts[block] & (own >= 0) & (own < shape[-1])
    place = (*np.nonzero(inside), own[inside])
    amounts[place] += loss.hard[block][inside]
    return amounts
