"""Log-sum-exp and softmax of rows whose classes are divided among ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent._keywords import named, unknown_keyword
from xent.mpi import _special

if TYPE_CHECKING:
    from mpi4py import MPI

    from xent._typing import Any, Array, ArrayLike, Literal, NDArray, Never, Scalar

__all__ = ["logsumexp", "softmax"]


@named
def logsumexp(
    a: ArrayLike,
    *,
    comm: MPI.Intracomm,
    class_offset: int | None = None,
    axis: int = -1,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Scalar | Array:
    r"""Log-sum-exp of rows whose classes are divided among ranks.

    Parameters
    ----------
    a : array_like, shape (..., C, ...)
        This rank's classes of every row; a rank may have none.
    comm : mpi4py.MPI.Intracomm
        The ranks that hold the other classes of these rows. Every rank calls the function.
    class_offset : int, optional
        The number of the first class of this rank; by default classes are numbered in the order of ranks.
    axis : int, default -1
        The class axis.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 numbers as the bits of bfloat16 numbers.

    Returns
    -------
    result : scalar, or ndarray of the shape of `a` without the class axis
        The same on every rank; of the dtype of `a`, float64 for integers.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, on every rank.

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> import xent.mpi
    >>> a = np.array([[0.0, 0.0], [-np.inf, 5.0]])
    >>> xent.mpi.logsumexp(a, comm=MPI.COMM_SELF).round(6)
    array([0.693147, 5.      ])
    """
    if unknown:
        raise unknown_keyword(logsumexp, unknown)
    return _special.logsumexp(a, comm, class_offset, axis, dtype)


@named
def softmax(
    x: ArrayLike,
    *,
    comm: MPI.Intracomm,
    class_offset: int | None = None,
    axis: int = -1,
    out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Array:
    r"""Softmax of rows whose classes are divided among ranks: the probabilities of this rank's classes.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        This rank's classes of every row; a rank may have none.
    comm, class_offset, axis, dtype
        As in `logsumexp`.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    result : ndarray, shape of `x`
        Of the dtype of `x`, float64 for integers.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`, on every rank.

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> import xent.mpi
    >>> xent.mpi.softmax(np.array([[0.0, 0.0, 0.0, 0.0]]), comm=MPI.COMM_SELF)
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    if unknown:
        raise unknown_keyword(softmax, unknown)
    return _special.softmax(x, comm, class_offset, axis, out, dtype)
