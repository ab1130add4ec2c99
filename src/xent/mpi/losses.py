"""Cross-entropy of a vocabulary that is divided among ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent._keywords import named, unknown_keyword
from xent.mpi import _losses

if TYPE_CHECKING:
    from mpi4py import MPI

    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["cross_entropy"]


@named
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    comm: MPI.Intracomm,
    class_offset: int | None = None,
    row_comm: MPI.Intracomm | None = None,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    return_lse: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    entropy_weight: float = 0.0,
    class_bias: ArrayLike | None = None,
    return_bias_grad: bool = False,
    **unknown: Never,
) -> Loss | tuple[Loss | Array, ...]:
    r"""Softmax cross-entropy of logits whose classes are divided among ranks: vocabulary parallelism.

    The loss is that of `xent.cross_entropy` for the logits of all ranks side by side. It comes back on every rank, and the
    gradient for the classes that the rank holds. What travels are a few sums of each row and 16,384 classes, never logits.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        This rank's classes of every row; a rank may have none.
    targets : array_like
        Class indices, which are numbers of the whole vocabulary and the same on every rank of `comm`. Or this rank's part of
        class probabilities: the shape of `logits`.
    comm : mpi4py.MPI.Intracomm
        The ranks that hold the other classes of these rows. Every rank calls the function, with the same options.
    class_offset : int, optional
        The number of the first class of this rank; by default classes are numbered in the order of ranks.
    row_comm : mpi4py.MPI.Intracomm, optional
        The ranks that hold the same classes of other rows: with `comm`, a grid. A sum or mean is that over the rows of all.
    axis : int, default -1
        The class axis.
    class_weight, class_bias : array_like, shape (C,), optional
        Those of this rank's classes.
    sample_weight, grad_output : array_like, optional
        As in `xent.cross_entropy`; the same on every rank of `comm`.
    ignore_index, label_smoothing, z_loss, softcap, temperature, reduction, entropy_weight
        As in `xent.cross_entropy`. Smoothing is over the classes of all ranks.
    return_grad : bool, default False
        Also return the gradient with respect to this rank's logits.
    return_lse : bool, default False
        Also return the log-sum-exp of each row, over all classes.
    out, grad_out : ndarray, optional
        Where to write the loss and the gradient. `grad_out` may be exactly the memory of `logits`.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 logits as the bits of bfloat16 numbers; the gradient comes in the same form.
    return_bias_grad : bool, default False
        Also return the gradient with respect to `class_bias`, of this rank's rows.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        The same on every rank of `comm`.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.
    lse : ndarray, shape of `logits` without the class axis
        With `return_lse`.
    bias_grad : ndarray, shape (C,)
        With `return_bias_grad`.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`; nothing has been written.
    TypeError, ValueError
        An argument is not what is accepted, differs between ranks, or slices of the classes leave a gap or overlap. Whichever
        rank has raised it, it is raised on all of them, with a note that tells which one it was.

    Notes
    -----
    Every rank merges the sums of all chunks of 16,384 classes in the order of the classes, in float64. Where slices end at
    multiples of 16,384, results have the same bits whatever the number of ranks.

    This is the parallel cross-entropy of Megatron-LM [1]_, with one exchange in the place of three.

    References
    ----------
    .. [1] M. Shoeybi et al., "Megatron-LM: Training multi-billion parameter language models using model parallelism",
           arXiv:1909.08053 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> import xent.mpi
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> loss, grad = xent.mpi.cross_entropy(logits, [0, 2], comm=MPI.COMM_SELF, return_grad=True)
    >>> round(float(loss), 6)
    1.288726
    """
    if unknown:
        raise unknown_keyword(cross_entropy, unknown)
    return _losses.cross_entropy(
        logits,
        targets,
        comm=comm,
        row_comm=row_comm,
        class_offset=class_offset,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        return_lse=return_lse,
        return_bias_grad=return_bias_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        entropy_weight=entropy_weight,
        class_bias=class_bias,
    )
