"""log-sum-exp, softmax and log-softmax, with SciPy's signatures and results."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from xent import _arguments as arguments
from xent import _core
from xent._rows import BLOCK_BYTES, Rows, blocks, run
from xent._typing import Array, Scalar

__all__ = ["log_softmax", "logsumexp", "softmax"]


def _axes(axis: Any, ndim: int, name: str) -> tuple[int, ...]:
    """Return the axes to reduce, counted from the front and without repetition; None means all."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, tuple):
        return (arguments.class_axis(axis, ndim, name),)
    found = tuple(arguments.class_axis(a, ndim, name) for a in axis)
    if len(set(found)) != len(found):
        raise ValueError(f"axis: an axis is named twice: {axis}")
    return found


def _classes_last(x: np.ndarray[Any, Any], axes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return a view in which `axes` are merged into one last axis; a copy if no view can do that."""
    if len(axes) == 1:
        return arguments.classes_last(x, axes[0])
    kept = [d for d in range(x.ndim) if d not in axes]
    moved = x.transpose(*kept, *sorted(axes))
    return moved.reshape(*moved.shape[: len(kept)], -1)


def _exp(t: Array) -> Array:
    """Return exp(t) of float64 t <= 0; results below the smallest normal number are 0."""
    return np.where(t < -708.0, 0.0, _core.math("exp", np.ascontiguousarray(np.maximum(t, -708.0))))


def _log(top: Array, rest: Array) -> Array:
    """Return log |top + rest| of float64, accurate near 1."""
    s = np.abs(top + rest)
    lift = np.where(s > 2.0**1000, 64, 0)
    near = (s > 0.5) & (s < 2.0)
    less_one = np.where(top + rest < 0, -top, top) - 1 + np.where(top + rest < 0, -rest, rest)
    near_one = _core.math("log1p", np.where(near, less_one, 0.0))
    far = _core.math("log", np.where(np.isinf(s), 1.0, np.ldexp(s, -lift))) + lift * np.log(2.0)
    return np.where(near, near_one, np.where(np.isinf(s), s, far))


def _weighted(
    x: np.ndarray[Any, Any], b: np.ndarray[Any, Any], kind: arguments.Precision
) -> tuple[Array, Array]:
    """Return log |Σ b exp(x)| and its sign over the last axis, in float64, relative to the largest x whose b is not 0."""
    shape = x.shape[:-1]
    lse, sign = np.empty(shape), np.empty(shape)
    for block in blocks(shape, max(1, BLOCK_BYTES // (8 * max(1, x.shape[-1])))):
        with np.errstate(all="ignore"):
            part = arguments.numbers(x[block], kind)
            factor = np.asarray(b[block], np.float64)
            a = np.where(factor == 0, -np.inf, part.astype(np.float64))
            m = np.max(a, axis=-1, keepdims=True, initial=-np.inf)
            t = np.where(a == m, 0.0, a - m)  # the largest, infinite or not
            largest = np.where(t == 0, factor, 0.0)
            top = np.sum(largest, axis=-1)
            rest = np.sum(np.where(t < 0, factor * _exp(t), t * 0), axis=-1)
            s = np.where(np.isneginf(m[..., 0]), 0.0, top + rest)
            both_signs = np.any(largest > 0, axis=-1) & np.any(largest < 0, axis=-1)
            opposed = np.isposinf(m[..., 0]) & both_signs  # inf - inf
            log = _log(np.atleast_1d(top), np.atleast_1d(rest)).reshape(s.shape)
            lse[block] = np.where(opposed, np.nan, np.where(s == 0, -np.inf, m[..., 0] + log))
            sign[block] = np.where(opposed, np.nan, np.sign(s))
    return lse, sign


@overload
def logsumexp(
    a: ArrayLike,
    axis: None = None,
    b: ArrayLike | None = None,
    keepdims: Literal[False] = False,
    return_sign: Literal[False] = False,
    *,
    out: None = None,
) -> Scalar: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    *,
    out: Array | None = None,
) -> Array: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    *,
    return_sign: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Array]: ...
def logsumexp(
    a: Any,
    axis: Any = None,
    b: Any = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    out: Any = None,
) -> Any:
    r"""Logarithm of a sum of exponentials, :math:`\log \sum_c b_c e^{a_c}`, without overflow.

    Parameters
    ----------
    a : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
    axis : None, int or tuple of ints, default None
        The axes to sum over; None is all.
    b : array_like, optional
        Factors of the exponentials, broadcastable to `a`; 0 leaves an element out, negative ones subtract. With factors the
        sum is computed in float64, block by block.
    keepdims : bool, default False
        Leave the axes summed over as axes of size 1.
    return_sign : bool, default False
        Also return the sign of the sum; without it a negative sum gives NaN.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly.

    Returns
    -------
    result : array, or scalar
        ``-inf`` where nothing, or only ``-inf``, is summed; ``inf`` where ``inf`` is; NaN where NaN is.
    sign : array, or scalar
        With `return_sign`: 1, 0 or -1, of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Computed as ``m + log1p(rest)``, with m the maximum and rest the sum of ``exp(a - m)`` over all elements but one that
    attains it (Blanchard, Higham & Higham, IMA J. Numer. Anal. 41, 2021). Semantics: `scipy.special.logsumexp`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> round(float(xent.logsumexp([1000.0, 1000.0])), 9)
    1000.693147181
    >>> xent.logsumexp(np.array([[0.0, 0.0], [-np.inf, 5.0]]), axis=1).round(6)
    array([0.693147, 5.      ])
    """
    x, kind = arguments.logits(a, "a")
    x, factors = arguments.factors(b, x)
    keepdims = arguments.flag(keepdims, "keepdims")
    return_sign = arguments.flag(return_sign, "return_sign")
    if x.ndim == 0:
        factors = None if factors is None else factors.reshape(1)
        x = x.reshape(1)
        shape: tuple[int, ...] = ()
        kept_shape: tuple[int, ...] = ()
        axes: tuple[int, ...] = (0,)
        if axis is not None:
            arguments.class_axis(axis, 0, "a")
    else:
        axes = _axes(axis, x.ndim, "a")
        shape = tuple(n for d, n in enumerate(x.shape) if d not in axes)
        kept_shape = tuple(1 if d in axes else n for d, n in enumerate(x.shape))
    final = kept_shape if keepdims else shape
    if out is not None:
        out = arguments.buffer(out, "out", final, kind.result_dtype)
        arguments.check_no_overlap({"out": out}, {"a": x, "b": factors})
    classes_last = _classes_last(x, axes)
    if factors is None:
        rows = Rows("logsumexp", classes_last, kind)
        own = out is None or out.dtype != kind.compute or out.shape != shape
        rows.lse = lse = np.empty(shape, kind.compute) if own else out
        run(rows)
        sign = (
            np.where(np.isnan(lse), lse, np.where(np.isneginf(lse), 0, 1)) if return_sign else lse
        )
    else:
        lse, sign = _weighted(classes_last, _classes_last(factors, axes), kind)
        if not return_sign:
            lse = np.where(sign < 0, np.nan, lse)
    result = lse.reshape(final)
    with np.errstate(over="ignore"):
        if out is None:
            result = result.astype(kind.result_dtype, copy=False)[()]
        elif lse is not out:
            out[...] = result
    result = result if out is None else out
    return (result, sign.reshape(final).astype(kind.result_dtype)[()]) if return_sign else result


def _map(operation: str, x: ArrayLike, axis: Any, out: Array | None) -> Array:
    values, kind = arguments.logits(x, "x")
    scalar = values.ndim == 0
    whole = values.reshape(1) if scalar else values
    axes = (0,) if scalar and axis is None else _axes(axis, values.ndim, "x")
    if out is not None:
        out = arguments.buffer(out, "out", values.shape, kind.result_dtype)
        arguments.check_no_overlap({"out": out}, {"x": values}, in_place=("out", "x"))
    if any(whole.shape[d] == 0 for d in axes):
        raise ValueError(f"x: shape {values.shape} has no elements along the axis of the classes")
    result = np.empty(values.shape, kind.result_dtype) if out is None else out
    target = np.asarray(result).view(kind.storage).reshape(whole.shape)
    if values.size:
        view = _classes_last(target, axes)
        direct = len(axes) == 1 or np.shares_memory(view, target)
        rows = Rows(operation, _classes_last(whole, axes), kind)
        rows.out = view if direct else np.empty(view.shape, kind.storage)
        run(rows)
        if not direct:
            kept = [d for d in range(whole.ndim) if d not in axes]
            order = (*kept, *sorted(axes))
            target.transpose(order)[...] = rows.out.reshape([whole.shape[d] for d in order])
    mapped: Array = result if out is not None or not scalar else result[()]
    return mapped


def softmax(
    x: ArrayLike, axis: int | tuple[int, ...] | None = None, *, out: Array | None = None
) -> Array:
    r"""Probabilities proportional to exponentials, :math:`p_c = e^{x_c} / \sum_k e^{x_k}`.

    Parameters
    ----------
    x : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
        ``-inf`` masks an element.
    axis : None, int or tuple of ints, default None
        The axes that sum to 1; None is all.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    p : ndarray, shape of `x`
        NaN in a slice that holds NaN, ``inf``, or nothing but ``-inf``.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Probabilities below the smallest normal number are 0. Semantics: `scipy.special.softmax`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.softmax([[0.0, 0.0], [0.0, np.log(3.0)]], axis=1)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    return _map("softmax", x, axis, out)


def log_softmax(
    x: ArrayLike, axis: int | tuple[int, ...] | None = None, *, out: Array | None = None
) -> Array:
    r"""Logarithm of the softmax, :math:`x_c - \log \sum_k e^{x_k}`.

    Parameters
    ----------
    x : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
        ``-inf`` masks an element.
    axis : None, int or tuple of ints, default None
        The axes whose probabilities sum to 1; None is all.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    log_p : ndarray, shape of `x`

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Computed as ``(x - m) - log1p(rest)`` (see `logsumexp`). Semantics: `scipy.special.log_softmax`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.log_softmax(np.array([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    return _map("log_softmax", x, axis, out)
