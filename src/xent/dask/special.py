"""log-sum-exp, softmax and log-softmax of Dask arrays, with the results of `xent`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np

import xent
from xent import _arguments as arguments
from xent import stages
from xent._keywords import named, unknown_keyword
from xent.dask import _tasks
from xent.dask._graph import Blocks, lazy, placeholder

if TYPE_CHECKING:
    from xent._typing import Any, Never

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
            _tasks.reduce_flat,
            blocks.all,
            (blocks.x, blocks.all),
            self.offsets(),
            dtype=stages.dtype,
            adjust_chunks=dict.fromkeys(self.axes, 1),
            axes=self.axes,
            classes=blocks.classes,
        )
        return blocks.merged(_tasks.merge_flat, sums)

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
    *,
    keepdims: bool = False,
    **unknown: Never,
) -> Any:
    r"""Logarithm of a sum of exponentials of a Dask array, :math:`\log \sum_c e^{a_c}`, without overflow.

    Parameters
    ----------
    a : dask.array.Array
        Of the dtypes of `xent.logsumexp`, chunked in any way.
    axis : None, int or tuple of ints, default None
        The axes to sum over; None is all.
    keepdims : bool, default False
        Leave the axes summed over as axes of size 1.

    Returns
    -------
    result : dask.array.Array
        As `xent.logsumexp`, infinities and NaN included.

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
    call = Family(a, axis, "a")
    blocks = call.blocks
    if blocks.whole:
        found = da.map_blocks(
            xent.logsumexp,
            blocks.x,
            axis=call.axes,
            dtype=call.dtype,
            drop_axis=call.axes,
            meta=np.empty((0,) * len(blocks.rows), call.dtype),
        )
    else:
        found = blocks.layer(
            _tasks.logsumexp_of,
            blocks.rows,
            (call.sums(), blocks.rows),
            (call.precision, None),
            dtype=call.dtype,
        )
    return da.expand_dims(found, call.axes) if keeps else found


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
    return call.alike(_tasks.softmax_of, call.offsets(), rows, **options)


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
    return call.alike(_tasks.log_softmax_of, (call.sums(), call.blocks.rows), axes=call.axes)
