"""Softmax losses in stages: reduce → merge → values → apply, for losses of one's own and vocabularies in several places.

Every softmax loss is made of a few numbers of each row: the log-sum-exp, the negative log-likelihood of its target, the
entropy of the softmax, the mean over classes that label smoothing adds. `reduce` reads the logits once and leaves sums from
which `values` finds these numbers; a loss is any function of them, and its derivatives with respect to them are the
coefficients from which `apply` computes the gradient, in one more read and one write.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from xent import _functions
from xent._arguments import broadcastable, flag
from xent._blocks import numbers, rounded, stored
from xent._core import SUMS_BYTES, merge_sums
from xent._head import Head, capped, copy_fields
from xent._keywords import named, unknown_keyword
from xent._pool import empty_array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, NDArray, Never

__all__ = ["Values", "apply", "dtype", "merge", "reduce", "values"]

# The fields of xent_sums in xent.h, in their order.
CORE = np.dtype(
    [(name, "f8") for name in ("max", "sum_exp", "max_count", "sum_a", "sum_a_t")]
    + [(name, "f8") for name in ("teacher_max", "teacher_sum_exp", "teacher_max_count")]
    + [(name, "f8") for name in ("target_logit", "target_weight", "target_slope")]
    + [(name, "i8") for name in ("has_target", "class_begin", "class_end", "num_classes")]
    + [("temperature", "f8"), ("operation", "i8"), ("stream", "i8"), ("argmax", "i8")]
)
assert CORE.itemsize == SUMS_BYTES

# The second streams, as the kernels number them, and what `reduce` must be asked for each.
_NONE, _WEIGHTS, _SOFT, _SELF = range(4)
_STREAMS = {"smooth": _WEIGHTS, "soft": _SOFT, "entropy": _SELF}

_dtype = np.dtype(
    [
        (name, CORE[name])
        for name in CORE.names or ()
        if not name.startswith(("sum_a", "teacher", "stream"))
    ]
    + [(f"{name}_{part}", "f8") for name in _STREAMS for part in ("mass", "moment")]
    # Whether the row counts; what was asked for; whether float64 is computed in.
    + [(name, "?") for name in ("counts", "indexed", *_STREAMS, "double")]
)
#: The dtype of `reduce`'s sums, one for each row. They index, concatenate, pickle and travel like any numbers.
dtype = _dtype


def _places(to: Any, source: Any, **renamed: str) -> Any:
    """Where `copy_fields` finds the fields that both dtypes have, and those that have another name in the source."""
    common = {name: name for name in to.names if name in source.names} | renamed
    return np.array(
        [(to.fields[name][1], source.fields[old][1]) for name, old in common.items()], np.int64
    )


# Of sums with a second stream of this name, or none.
_FROM_CORE = {
    name: _places(_dtype, CORE, **{f"{name}_mass": "sum_a", f"{name}_moment": "sum_a_t"})
    for name in _STREAMS
} | {None: _places(_dtype, CORE)}
_TO_CORE = {
    name: _places(CORE, _dtype, sum_a=f"{name}_mass", sum_a_t=f"{name}_moment") for name in _STREAMS
} | {None: _places(CORE, _dtype)}


class Values(NamedTuple):
    """What `values` returns: arrays of the rows' shape, or None for what was not asked for."""

    lse: Any
    nll: Any
    prob: Any
    entropy: Any
    smooth: Any
    mean_logit: Any
    argmax: Any


def size(value: object, name: str, least: int) -> int:
    try:
        size = int(value.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if size < least:
        raise ValueError(f"{name}: expected at least {least}, got {size}")
    return size


def _shard(logits: Any, axis: int, offset: object, num_classes: object | None) -> tuple[int, int]:
    classes = logits.shape[axis]
    begin = size(offset, "class_offset", 0)
    end = begin + classes
    return begin, end if num_classes is None else size(num_classes, "num_classes", end)


@named
def reduce(
    logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    axis: int = -1,
    class_offset: int = 0,
    num_classes: int | None = None,
    class_weight: ArrayLike | None = None,
    class_bias: ArrayLike | None = None,
    ignore_index: int | None = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    smooth: bool = False,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> NDArray[np.void]:
    """Sums of each row of logits, or of a shard of its classes.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Or a shard of the classes: those numbered `class_offset` to ``class_offset + C - 1``.
    targets : array_like, optional
        Class indices, which are numbers of the whole vocabulary, or the shard's part of class probabilities.
    axis : int, default -1
        The class axis.
    class_offset : int, default 0
        The number of the shard's first class.
    num_classes : int, optional
        The size of the whole vocabulary; by default it ends where the shard does.
    class_weight : array_like, shape (C,), optional
        The shard's part of the weights of `smooth`.
    class_bias : array_like, shape (C,), optional
        The shard's part of what is added to the logits, before the cap.
    ignore_index : int or None, default -100
        Rows with this class index do not count.
    temperature, softcap
        As in `xent.cross_entropy`.
    entropy : bool, default False
        Sum what the entropy of the softmax and the mean logit need.
    smooth : bool, default False
        Sum what label smoothing needs, the log-probabilities of all classes.
    dtype : "bfloat16", optional
        Read uint16 `logits` as the bits of bfloat16 numbers.

    Returns
    -------
    sums : ndarray of `stages.dtype`, shape of the logits without the class axis
        To be merged, or given to `values` and `apply`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `xent.cross_entropy`; class indices are compared with `num_classes`.

    Notes
    -----
    One read of the logits for class indices and one of `entropy` and `smooth`; each other combination is one more.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import stages
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> sums = stages.reduce(logits, [0, 2])
    >>> stages.values(sums).nll.round(6)
    array([0.407606, 2.169846])
    """
    if unknown:
        raise unknown_keyword(reduce, unknown)
    entropy, smooth = flag(entropy, "entropy"), flag(smooth, "smooth")

    request = partial(
        _functions.stage_request,
        logits,
        axis=axis,
        num_classes=0,
        ignore_index=ignore_index,
        temperature=temperature,
        softcap=softcap,
        dtype=dtype,
        class_bias=class_bias,
    )
    first = request(targets, class_weight=class_weight if smooth else None)
    begin, size = _shard(first.logits, first.class_axis, class_offset, num_classes)
    passes = {}
    soft = first.soft is not None
    wanted = [name for name, asked in (("smooth", smooth), ("entropy", entropy)) if asked]
    beside = _beside(soft, wanted)
    for name in (beside, *(name for name in wanted if name != beside)):
        call = (
            first
            if name == beside
            else request(None, class_weight=class_weight if name == "smooth" else None)
        )
        passes[name] = np.zeros(first.shape, CORE)
        call.stage(
            "reduce", passes[name], begin, size, float(name == "entropy"), float(name == "smooth")
        )
    return _gathered(first, passes, {"soft": soft, "smooth": smooth, "entropy": entropy})


def _beside(soft: bool, wanted: Sequence[str]) -> str | None:
    """The second stream that goes with the targets, class indices or probabilities; the others go by themselves."""
    return "soft" if soft else wanted[0] if wanted else None


def _gathered(request: Any, passes: dict[str | None, Any], asked: dict[str, bool]) -> Any:
    """Join the sums of several streams."""
    sums = np.zeros(request.shape, _dtype)
    # The first, which has the targets, comes last.
    for name, core in reversed(passes.items()):
        copy_fields(sums, core, _FROM_CORE[name])
    for name, on in asked.items():
        sums[name] = on
    sums["double"] = request.precision.compute == np.float64
    sums["indexed"] = request.index is not None
    sums["counts"] = True
    if request.ignores:
        sums["counts"] = request.index != request.ignore_index
    return sums


def _sums(value: Any, name: str = "sums") -> Any:
    if not isinstance(value, np.ndarray | np.void) or value.dtype != _dtype:
        raise TypeError(
            f"{name}: expected an array of stages.dtype, as reduce returns it; got {type(value).__name__}"
        )
    return np.asarray(value)


def _split(sums: Any, name: str | None) -> Any:
    """Sums as the core has them, with one of the second streams."""
    core = np.zeros(sums.shape, CORE)
    copy_fields(core, sums, _TO_CORE[name])
    if name:
        core["stream"] = _STREAMS[name]
    return core


def _streams(sums: Any) -> list[str]:
    """The second streams that were asked for."""
    return [name for name in _STREAMS if sums.size and sums[name].flat[0]]


def merge(*sums: NDArray[np.void]) -> NDArray[np.void]:
    """Merge sums of shards of the classes, in the order of their classes.

    Parameters
    ----------
    *sums : ndarray of `stages.dtype`
        Of the same rows and alike in what was asked for, without a gap or an overlap between their classes.

    Returns
    -------
    merged : ndarray of `stages.dtype`
        Of the classes of all of them. Shards that end at multiples of 16,384 classes give the bits of the whole.

    Raises
    ------
    TypeError, ValueError
        There are no sums, or they do not fit each other; the message says which.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import stages
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> whole = stages.reduce(logits, [0, 2])
    >>> left = stages.reduce(logits[:, :2], [0, 2], num_classes=3)
    >>> right = stages.reduce(logits[:, 2:], [0, 2], class_offset=2)
    >>> np.allclose(stages.values(stages.merge(left, right)).nll, stages.values(whole).nll)
    True
    """
    if not sums:
        raise ValueError("sums: expected at least one array")
    shards = [_sums(a, f"sums[{i}]") for i, a in enumerate(sums)]
    first = shards[0]
    for i, shard in enumerate(shards[1:], 1):
        if shard.shape != first.shape:
            raise ValueError(
                f"sums[{i}]: expected rows of shape {first.shape}, as in sums[0]; got {shard.shape}"
            )
        for name in (*_STREAMS, "indexed", "double", "temperature"):
            if (shard[name] != first[name]).any():
                raise ValueError(f"sums[{i}]: differs in {name!r} from sums[0]")
        before = shards[i - 1]
        apart = shard["class_begin"] != before["class_end"]
        if apart.any():
            row = int(np.argmax(apart))
            raise ValueError(
                f"sums[{i}]: its classes begin at {shard['class_begin'].flat[row]}, those before it end at "
                f"{before['class_end'].flat[row]}: expected neither a gap nor an overlap"
            )
        if (shard["counts"] != first["counts"]).any():
            raise ValueError(
                f"sums[{i}]: other rows count than in sums[0]: of other targets, or another ignore_index"
            )
    merged = first.copy()
    streams: list[str | None] = [*_streams(first)] or [None]
    for stream in streams:
        cores = [_split(shard, stream) for shard in shards]
        core, bad = merge_sums(cores, first.size)
        if bad >= 0:
            raise ValueError(f"sums: row {bad} has a target in two of the shards")
        copy_fields(merged, core, _FROM_CORE[stream])
    return merged


def values(sums: NDArray[np.void]) -> Values:
    r"""What the sums of all classes say of each row.

    Parameters
    ----------
    sums : ndarray of `stages.dtype`
        Of all classes: those of `reduce`, or merged.

    Returns
    -------
    values : Values
        A named tuple of arrays in the compute dtype, None for what was not asked for. With z the logits after cap and
        temperature and p their softmax: `lse`; `nll`, :math:`\mathrm{lse} - z_y` or
        :math:`\sum_c t_c (\mathrm{lse} - z_c)`; `prob`, :math:`p_y` of class indices; `entropy` of p; `smooth`,
        :math:`\sum_c w_c (\mathrm{lse} - z_c)`; `mean_logit`, :math:`\sum_c p_c z_c`; `argmax`, the first of the largest.
        Rows that do not count have nll 0 and prob NaN.

    Raises
    ------
    TypeError, ValueError
        These are not sums, or not of all classes.

    Notes
    -----
    No number is lost to cancellation: with m the largest logit, lse is m + L and nll L + (m - z_y),
    :math:`L = \log(1 + \sum e^{z - m})` over all classes but one that attains m.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import stages
    >>> found = stages.values(stages.reduce(np.array([[2.0, 1.0, 0.0]]), [0], entropy=True))
    >>> found.entropy.round(6), found.argmax
    (array([0.83239]), array([0]))
    """
    sums = _whole(_sums(sums))
    compute = np.dtype(np.float64 if not sums.size or sums["double"].flat[0] else np.float32)
    with np.errstate(all="ignore"):
        return _values(sums, compute.type)


def _whole(sums: Any) -> Any:
    lacking = (sums["class_begin"] != 0) | (sums["class_end"] != sums["num_classes"])
    if lacking.any():
        row = int(np.argmax(lacking))
        have = (sums[name].flat[row] for name in ("class_begin", "class_end", "num_classes"))
        raise ValueError(
            "sums: they have classes {} to {} of {}; merge those of all shards first".format(*have)
        )
    return sums


def _values(sums: Any, real: Any) -> Values:
    head, streams = Head(sums, real), _streams(sums)
    found: dict[str, Any] = {"lse": head.lse, "argmax": sums["argmax"].copy()}
    if sums.size and sums["indexed"].flat[0]:
        found["nll"] = np.where(sums["counts"], head.nll(sums["target_logit"]), real(0))
        found["prob"] = np.where(sums["counts"], head.prob(sums["target_logit"]), real(np.nan))
    if "soft" in streams:
        found["nll"] = head.cost(sums["soft_mass"], sums["soft_moment"])
    if "smooth" in streams:
        found["smooth"] = head.cost(sums["smooth_mass"], sums["smooth_moment"])
    if "entropy" in streams:
        center = head.center(sums["entropy_moment"])
        found["entropy"], found["mean_logit"] = head.log_sum - center, head.top + center
    return Values(*(None if (a := found.get(name)) is None else a[()] for name in Values._fields))


@named
def apply(
    logits: ArrayLike,
    sums: NDArray[np.void],
    targets: ArrayLike | None = None,
    *,
    lse: ArrayLike | None = None,
    nll: ArrayLike | None = None,
    entropy: ArrayLike | None = None,
    smooth: ArrayLike | None = None,
    grad_out: NDArray[Any] | None = None,
    axis: int = -1,
    class_offset: int = 0,
    num_classes: int | None = None,
    class_weight: ArrayLike | None = None,
    class_bias: ArrayLike | None = None,
    ignore_index: int | None = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Array:
    r"""Gradient of a sum over rows of what `values` returns, each times a coefficient of the row.

    Parameters
    ----------
    logits, targets, axis, class_offset, num_classes, class_weight, class_bias, ignore_index, temperature, softcap, dtype
        As they were given to `reduce`: those of this shard.
    sums : ndarray of `stages.dtype`
        Of all classes: merged, where there are several shards.
    lse, nll, entropy, smooth : array_like, optional
        The coefficient of each row, broadcast to the rows: the derivative of a loss with respect to that value. What is
        not given counts for nothing. `entropy` and `smooth` must have been asked for.
    grad_out : ndarray, optional
        Where to write the gradient: the shape and dtype of `logits`. May be exactly their memory.

    Returns
    -------
    grad : ndarray, shape of `logits`
        The gradient of :math:`\sum_r (a_r\, \mathrm{lse}_r + b_r\, \mathrm{nll}_r + c_r\, H_r + d_r\, \mathrm{smooth}_r)`
        with respect to this shard's logits. Rows that do not count are zeros.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `reduce`; sums of other rows or of another call; a coefficient of what was not asked for.

    Examples
    --------
    The gradient of cross-entropy, summed:

    >>> import numpy as np, xent
    >>> from xent import stages
    >>> logits, targets = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), [0, 2]
    >>> sums = stages.reduce(logits, targets)
    >>> grad = stages.apply(logits, sums, targets, nll=1.0)
    >>> expected = xent.cross_entropy(logits, targets, reduction="sum", return_grad=True)[1]
    >>> bool((grad == expected).all())
    True
    """
    if unknown:
        raise unknown_keyword(apply, unknown)
    sums = _whole(_sums(sums))

    request = partial(
        _functions.stage_request,
        logits,
        axis=axis,
        num_classes=0,
        ignore_index=ignore_index,
        temperature=temperature,
        softcap=softcap,
        dtype=dtype,
        class_bias=class_bias,
    )
    first = request(targets, class_weight=None)
    begin, size = _shard(first.logits, first.class_axis, class_offset, num_classes)
    if sums.shape != first.shape:
        raise ValueError(
            f"sums: expected the rows of the logits, of shape {first.shape}; got {sums.shape}"
        )
    streams = _streams(sums)
    if sums.size:
        row = sums.flat[0]
        if row["num_classes"] != (size if num_classes is not None else row["num_classes"]):
            raise ValueError(
                f"sums: they are of {row['num_classes']} classes, num_classes is {size}"
            )
        size = int(row["num_classes"])
        if begin + first.logits.shape[first.class_axis] > size:
            raise ValueError(
                f"logits: classes {begin} to {begin + first.logits.shape[first.class_axis]} of {size}"
            )
        if row["temperature"] != first.temperature:
            raise ValueError(
                f"temperature: the sums are of {row['temperature']}, got {first.temperature}"
            )
    given = {"lse": lse, "nll": nll, "entropy": entropy, "smooth": smooth}
    for name in ("entropy", "smooth"):
        if given[name] is not None and sums.size and name not in streams:
            raise ValueError(f"{name}: the sums have none; ask reduce for {name}=True")
    if nll is not None and targets is None:
        raise ValueError("nll: expected the targets of which it is the negative log-likelihood")
    if nll is not None and sums.size:
        _check_targets(first, sums, begin)
    compute = first.precision.compute
    coefs = {
        name: broadcastable(value, name, first.shape, compute)
        for name, value in given.items()
        if value is not None
    }
    out = first.gradient_buffer(grad_out)
    _accumulate(first, request, class_weight, sums, coefs, out, (begin, size))
    return out


#: So many rows are compared with the sums that are said to be theirs.
COMPARED = 64


def _check_targets(request: Any, sums: Any, begin: int) -> None:
    """Raise for sums of other targets or logits, or of another cap or bias, as far as the first rows show them."""
    of_indices, of_probs = (bool(sums[name].flat[0]) for name in ("indexed", "soft"))
    if (of_indices, of_probs) != (request.index is not None, request.soft is not None):
        kind = (
            "class indices" if of_indices else "class probabilities" if of_probs else "no targets"
        )
        raise ValueError(f"sums: they are of {kind}, which targets are not; give reduce the same")
    if request.index is None:
        return
    few = slice(min(COMPARED, request.index.size))
    here = request.index.flat[few].astype(np.int64) - begin
    classes = request.logits.shape[request.class_axis]
    rows = np.flatnonzero(sums["counts"].flat[few] & (here >= 0) & (here < classes))
    place: list[Any] = list(np.unravel_index(rows, request.shape)) if request.shape else []
    place.insert(request.class_axis, here[rows])
    z = numbers(request.logits[tuple(place)], request.precision).astype(request.precision.compute)
    with np.errstate(all="ignore"):
        if request.class_bias is not None:
            z = z + request.class_bias[here[rows]]
        if request.softcap > 0:
            z = capped(z, request.softcap)[0]
        known = sums["target_logit"].flat[few][rows]
        wrong = ~((np.abs(z - known) <= 1e-3 * (1 + np.abs(z))) | (z == known) | (z != z))
    if wrong.any():
        row = tuple(map(int, np.unravel_index(int(rows[wrong.argmax()]), request.shape)))
        raise ValueError(
            f"sums: those of row {row} are of another target, other logits, or another softcap or class_bias"
        )


def _accumulate(
    first: Any,
    request: Any,
    weight: Any,
    sums: Any,
    coefs: dict[str, Any],
    out: Any,
    shard: tuple[int, int],
) -> None:
    """Write the gradient: that of one second stream, or the sum of those of several."""
    if not coefs:
        out[...] = 0
        return
    soft = first.soft is not None
    wanted = [name for name in ("smooth", "entropy") if name in coefs]
    beside = _beside(soft, wanted)
    alone = [name for name in wanted if name != beside]
    if weight is not None and "smooth" in (beside, *alone):
        first.set_class_weight(weight)
    own = {name: a for name, a in coefs.items() if name not in alone}
    if not alone:
        _run(first, beside, sums, own, out, shard)
        return
    # Each is of the compute dtype, so that results of half types are rounded once.
    total = np.zeros(out.shape, first.precision.compute)
    for name in (*((None,) if own else ()), *alone):
        call = (
            first.widened()
            if name is None
            else request(None, class_weight=weight if name == "smooth" else None).widened()
        )
        part = empty_array(out.shape, total.dtype)
        _run(call, name or beside, sums, {name: coefs[name]} if name else own, part, shard)
        if name:
            part[
                np.moveaxis(
                    np.broadcast_to(~sums["counts"], _rows_last(part, first.class_axis)),
                    0,
                    first.class_axis,
                )
            ] = 0
        total += part
    with np.errstate(all="ignore"):
        stored(out, first.precision)[...] = rounded(total, first.precision)


def _rows_last(a: Any, axis: int) -> tuple[int, ...]:
    """The shape of an array whose class axis is the first."""
    return (a.shape[axis], *a.shape[:axis], *a.shape[axis + 1 :])


def _run(
    call: Any, name: str | None, sums: Any, coefs: dict[str, Any], out: Any, shard: tuple[int, int]
) -> None:
    core = _split(sums, name)
    call.set_gradient(out)
    call.stage(
        "apply",
        core,
        *shard,
        float(name == "entropy"),
        float(name == "smooth"),
        tuple(coefs.get(key) for key in ("lse", "nll", "entropy", "smooth")),
    )
