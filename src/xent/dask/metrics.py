"""Log loss of probabilities in chunks, as scikit-learn has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from dask.delayed import delayed

from xent import _arguments as arguments
from xent import _predictions as validated
from xent.dask import _log_loss
from xent.dask._graph import Blocks, lazy, of_rows, scalar

if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike

__all__ = ["log_loss"]


def log_loss(
    y_true: ArrayLike,
    y_proba: Any,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> Any:
    r"""Log loss of predicted probabilities in a Dask array, as scikit-learn has it.

    Parameters
    ----------
    y_true : array_like or dask.array.Array, shape (N,)
        Labels of any kind that can be sorted, strings among them.
    y_proba : dask.array.Array, shape (N, C) or (N,)
        Predicted probabilities of the labels in sorted order, or of the greater of two labels; chunked in any way.
    normalize : bool, default True
        Return the mean; else the sum.
    sample_weight : array_like or dask.array.Array, shape (N,), optional
        Weight of each row.
    labels : array_like, shape (C,), optional
        All labels. Without them, `y_true` is read twice.

    Returns
    -------
    loss : dask.array.Array without axes
        In nats, float64.

    Raises
    ------
    TypeError, ValueError
        As `xent.metrics.log_loss`. What depends on the numbers in chunks is raised when the result is computed; the message
        names the position of a number that is no probability in the whole array.

    Warns
    -----
    UserWarning
        `labels` are not sorted; when the result is computed, a row of probabilities does not sum to 1.

    Notes
    -----
    The formula is that of `xent.metrics.log_loss`. The rows' losses, times their weights, are summed without rounding.

    Examples
    --------
    >>> import dask.array as da, xent.dask
    >>> probs = da.from_array([[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]], chunks=(2, 1))
    >>> round(float(xent.dask.log_loss(["spam", "ham", "ham", "spam"], probs).compute()), 5)
    0.21616
    """
    mean = arguments.flag(normalize, "normalize")
    proba = lazy(y_proba, "y_proba")
    if proba.ndim not in (1, 2) or not proba.size:
        raise ValueError(
            f"y_proba: expected shape (N,) or (N, C), with at least one row and column; got {proba.shape}"
        )
    blocks = Blocks(proba, (1,) if proba.ndim == 2 else ())
    y = _labels_of_rows(y_true, blocks)
    classes = _classes(y, labels, 2 if proba.ndim == 1 else blocks.classes)
    weight: tuple[Any, Any] = (None, None)
    if sample_weight is not None:
        rows = of_rows(sample_weight, "sample_weight", blocks.shape, blocks.row_chunks)
        weight = (rows, blocks.rows)
    meta = np.empty((0,) * proba.ndim, proba.dtype)
    checked = da.map_blocks(_log_loss.checked, proba, dtype=proba.dtype, meta=meta)
    of_labels = blocks.layer(
        _log_loss.of_labels,
        blocks.all,
        (checked, blocks.all),
        (y, blocks.rows),
        classes,
        (blocks.offsets(), blocks.axes),
        dtype=object,
    )
    sums = blocks.layer(
        _log_loss.sums_of_rows, blocks.rows, (of_labels, blocks.all), weight, dtype=object
    )
    return scalar(_log_loss.total, sums, mean, dtype=np.dtype(np.float64))


def _labels_of_rows(y_true: Any, blocks: Blocks) -> Any:
    y = lazy(y_true, "y_true") if isinstance(y_true, da.Array) else np.asarray(y_true)
    if y.shape != blocks.shape:
        raise ValueError(
            f"y_true: expected shape {blocks.shape}, one label for each row of y_proba; got {y.shape}"
        )
    if isinstance(y, da.Array):
        return y.rechunk(blocks.row_chunks)
    return da.from_array(y, chunks=blocks.row_chunks)


def _classes(y: Any, labels: Any, columns: int) -> tuple[Any, Any]:
    """Return the argument of a layer that reads the sorted labels: those passed, or those that occur."""
    if labels is not None:
        classes = validated.declared(np.asarray(labels)[:1], labels)[0]
        validated.check_classes(classes, columns, labels)
        return delayed(classes), None
    meta = np.empty(0, y.dtype)
    occurring = da.map_blocks(np.unique, y, dtype=y.dtype, meta=meta)
    return scalar(_log_loss.classes_of, occurring, columns, dtype=object), ()
