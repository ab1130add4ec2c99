"""log-sum-exp, softmax and log-softmax of Dask arrays, with the results of `xent`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np

import xent
from xent import _arguments as arguments
from xent import stages
from xent._keywords import named, unknown_keyword
from xent.dask import _softmaxes
from xent.dask._graph import Blocks, lazy, placeholder

if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Never

__all__ = ["log_softmax", "logsumexp", "softmax"]


class Family:
    """One call: its chunks, and the sums of rows where chunks do not have all classes."""

    def __init__(self, x: Any, axis: int | tuple[int, ...] | None, name: str):
        x = lazy(x, name)
        self.precision = arguments.logits(placeholder(x), name)[1]
        axes = range(x.ndim) if axis is None else axis
        self.axes = tuple(sorted(np.lib.array_utils.normalize_axis_tuple(axes, x.ndim, "axis")))
        self.blocks = Blocks(x, self.axes)
        self.dtype = self.precision.result_dtype

    def sums(self) -> Any:
        """Return the sums of the rows over all classes."""
        blocks = self.blocks
        sums = blocks.layer(
            _softmaxes.reduce_flat,
            blocks.all,
            (blocks.x, blocks.all),
            self.offsets(),
            dtype=stages.dtype,
            adjust_chunks=dict.fromkeys(self.axes, 1),
            axes=self.axes,
            classes=blocks.classes,
        )
        return blocks.merged(_softmaxes.merge_flat, sums)

    def factors(self, b: Any) -> Any:
        """Return factors of the exponentials, in the chunks of the array."""
        x = self.blocks.x
        if not isinstance(b, da.Array):
            b = da.from_array(arguments.real(b, "b"), chunks=-1)
        arguments.real(np.empty(0, lazy(b, "b").dtype), "b")
        try:
            fits = np.broadcast_shapes(b.shape, x.shape) == x.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"b: shape {b.shape} does not broadcast to that of a, {x.shape}")
        along = x.chunks[x.ndim - b.ndim :]
        chunks = tuple(
            (1,) if size == 1 else sizes for size, sizes in zip(b.shape, along, strict=True)
        )
        return da.broadcast_to(b.rechunk(chunks), x.shape, chunks=x.chunks)

    def weighted(self, b: Any) -> Any:
        """Return the logarithms of the rows' weighted sums, with their signs."""
        blocks = self.blocks
        pairs = blocks.layer(
            _softmaxes.weighted_of,
            blocks.all,
            (blocks.x, blocks.all),
            (self.factors(b), blocks.all),
            dtype=_softmaxes.PAIR,
            adjust_chunks=dict.fromkeys(self.axes, 1),
            axes=self.axes,
        )
        return blocks.merged(_softmaxes.merge_weighted, pairs)

    def of_rows(self, function: Any, rows: Any, *options: Any, dtype: Any) -> Any:
        """Return a function of what there is of the rows."""
        pairs = ((rows, self.blocks.rows), *((option, None) for option in options))
        return self.blocks.layer(function, self.blocks.rows, *pairs, dtype=dtype)

    def offsets(self) -> tuple[Any, tuple[int, ...]]:
        return self.blocks.offsets(), self.axes

    def alike(self, function: Any, *pairs: Any, **options: Any) -> Any:
        """Return an array like the argument, of which each chunk is a function of one of its chunks."""
        blocks = self.blocks
        pairs = ((blocks.x, blocks.all), *pairs)
        return blocks.layer(function, blocks.all, *pairs, dtype=self.dtype, **options)


@named
def logsumexp(
    a: Any,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    **unknown: Never,
) -> Any:
    r"""Logarithm of a sum of exponentials of a Dask array, :math:`\log \sum_c b_c e^{a_c}`, without overflow.

    Parameters
    ----------
    a : dask.array.Array
        Of the dtypes of `xent.logsumexp`, chunked in any way.
    axis : None, int or tuple of ints, default None
        The axes to sum over; None is all.
    b : array_like or dask.array.Array, optional
        Factors of the exponentials, which broadcast to `a`. They are cut as `a` is.
    keepdims : bool, default False
        Leave the axes summed over as axes of size 1.
    return_sign : bool, default False
        Also return the sign of the sum; without it a negative sum gives NaN.

    Returns
    -------
    result : dask.array.Array
        As `xent.logsumexp`, infinities and NaN included.
    sign : dask.array.Array, shape of `result`
        With `return_sign`: 1, 0 or -1, of the same dtype.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> xent.dask.logsumexp(da.zeros((2, 8), chunks=(1, 3)), axis=1).compute().round(6)
    array([2.079442, 2.079442])
    """
    if unknown:
        raise unknown_keyword(logsumexp, unknown)
    keeps = arguments.flag(keepdims, "keepdims")
    with_sign = arguments.flag(return_sign, "return_sign")
    call = Family(a, axis, "a")
    blocks, dtype = call.blocks, call.dtype
    if b is not None:
        if not isinstance(b, bool | int | float):
            factors: Any = b if isinstance(b, da.Array) else arguments.real(b, "b")
            dtype = np.result_type(dtype, factors.dtype)
            dtype = arguments.logits(np.empty(0, dtype), "b")[1].result_dtype
        pairs = call.weighted(b)
        results = [call.of_rows(_softmaxes.logarithm, pairs, dtype, with_sign, dtype=dtype)]
        if with_sign:
            results.append(call.of_rows(_softmaxes.sign, pairs, dtype, dtype=dtype))
    else:
        if blocks.whole:
            found = da.map_blocks(
                xent.logsumexp,
                blocks.x,
                axis=call.axes,
                dtype=dtype,
                drop_axis=call.axes,
                meta=np.empty((0,) * len(blocks.rows), dtype),
            )
        else:
            found = call.of_rows(_softmaxes.logsumexp_of, call.sums(), call.precision, dtype=dtype)
        results = [found]
        if with_sign:
            results.append(call.of_rows(_softmaxes.sign, found, dtype, dtype=dtype))
    if keeps:
        results = [da.expand_dims(found, call.axes) for found in results]
    return tuple(results) if with_sign else results[0]


@named
def softmax(x: Any, axis: int | tuple[int, ...] | None = None, **unknown: Never) -> Any:
    r"""Probabilities proportional to exponentials of a Dask array, :math:`p_c = e^{x_c} / \sum_k e^{x_k}`.

    Parameters
    ----------
    x : dask.array.Array
        Of the dtypes of `xent.softmax`, chunked in any way.
    axis : None, int or tuple of ints, default None
        The axes that sum to 1; None is all.

    Returns
    -------
    p : dask.array.Array, shape and chunks of `x`
        As `xent.softmax`.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> xent.dask.softmax(da.zeros((2, 4), chunks=(1, 3)), axis=1).compute()
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """
    if unknown:
        raise unknown_keyword(softmax, unknown)
    call = Family(x, axis, "x")
    if call.blocks.whole:
        return call.alike(xent.softmax, axis=call.axes)
    rows = (call.sums(), call.blocks.rows)
    options = {"axes": call.axes, "classes": call.blocks.classes}
    return call.alike(_softmaxes.softmax_of, call.offsets(), rows, **options)


@named
def log_softmax(x: Any, axis: int | tuple[int, ...] | None = None, **unknown: Never) -> Any:
    r"""Logarithm of the softmax of a Dask array, :math:`x_c - \log \sum_k e^{x_k}`.

    Parameters
    ----------
    x : dask.array.Array
        Of the dtypes of `xent.log_softmax`, chunked in any way.
    axis : None, int or tuple of ints, default None
        The axes whose probabilities sum to 1; None is all.

    Returns
    -------
    log_p : dask.array.Array, shape and chunks of `x`
        As `xent.log_softmax`.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> xent.dask.log_softmax(da.zeros((1, 4), chunks=(1, 3)), axis=1).compute().round(6)
    array([[-1.386294, -1.386294, -1.386294, -1.386294]])
    """
    if unknown:
        raise unknown_keyword(log_softmax, unknown)
    call = Family(x, axis, "x")
    if call.blocks.whole:
        return call.alike(xent.log_softmax, axis=call.axes)
    return call.alike(_softmaxes.log_softmax_of, (call.sums(), call.blocks.rows), axes=call.axes)
