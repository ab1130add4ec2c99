"""Cross-entropy of a vocabulary that is divided among ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent._keywords import named, unknown_keyword
from xent.mpi import _linear, _losses

if TYPE_CHECKING:
    from mpi4py import MPI

    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["cross_entropy", "linear_cross_entropy"]


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
    return_hess: bool = False,
    return_lse: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    hess_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    target_probs: ArrayLike | None = None,
    entropy_weight: float = 0.0,
    class_bias: ArrayLike | None = None,
    return_temperature_grad: bool = False,
    return_bias_grad: bool = False,
    **unknown: Never,
) -> Loss | tuple[Loss | Array, ...]:
    r"""Softmax cross-entropy of logits whose classes are divided among ranks: vocabulary parallelism.

    The loss is that of `xent.cross_entropy` for the logits of all ranks side by side. It comes back on every rank, and the
    gradient for the classes that the rank holds. What travels are a few sums of each row, never logits.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        This rank's classes of every row; a rank may have none.
    targets : array_like
        Class indices, which are numbers of the whole vocabulary and the same on every rank of `comm`; with `target_probs`
        several of each row. Or this rank's part of class probabilities: the shape of `logits`.
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
    return_hess : bool, default False
        Also return the gradient and the diagonal of the Hessian, for this rank's logits.
    return_lse : bool, default False
        Also return the log-sum-exp of each row, over all classes.
    out, grad_out, hess_out : ndarray, optional
        Where to write the loss, the gradient and the Hessian's diagonal. `grad_out` may be exactly the memory of `logits`.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 logits as the bits of bfloat16 numbers; the gradient comes in the same form.
    target_probs : array_like, shape of `targets`, optional
        Probabilities of several classes of each row, as in `xent.cross_entropy`; the same on every rank of `comm`.
    return_temperature_grad : bool, default False
        Also return the derivative with respect to `temperature`, of the rows of all ranks.
    return_bias_grad : bool, default False
        Also return the gradient with respect to `class_bias`, of this rank's rows.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        The same on every rank of `comm`.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.
    hess : ndarray, shape of `logits`
        With `return_hess`; as `grad`.
    lse : ndarray, shape of `logits` without the class axis
        With `return_lse`.
    temperature_grad : float32 or float64 scalar
        With `return_temperature_grad`; the same on every rank.
    bias_grad : ndarray, shape (C,)
        With `return_bias_grad`.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`; nothing has been written.
    TypeError, ValueError
        An argument is not what is accepted or differs between ranks, or slices of the classes leave a gap or overlap.
        Whichever rank has raised it, it is raised on all of them, with a note that tells which one it was.

    Notes
    -----
    A slice is summed in chunks of 16,384 classes. Their sums are moved to the maximum of the row and added up without
    rounding, so that it does not matter which rank has added which: where slices end at multiples of 16,384, results have
    the same bits whatever the number of ranks.

    The idea is that of Megatron-LM's parallel cross-entropy [1]_.

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
        return_hess=return_hess,
        return_lse=return_lse,
        return_temperature_grad=return_temperature_grad,
        return_bias_grad=return_bias_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        hess_out=hess_out,
        dtype=dtype,
        target_probs=target_probs,
        entropy_weight=entropy_weight,
        class_bias=class_bias,
    )


@named
def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    comm: MPI.Intracomm,
    class_offset: int | None = None,
    row_comm: MPI.Intracomm | None = None,
    bias: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: tuple[NDArray[Any] | None, ...] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    return_temperature_grad: bool = False,
    **unknown: Never,
) -> Loss | tuple[Any, ...]:
    r"""Softmax cross-entropy of a linear layer whose classes are divided among ranks; logits are never all in memory.

    The loss is that of `xent.linear_cross_entropy` for the weights of all ranks on top of each other.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The input of the layer, the same on every rank of `comm`.
    weight : array_like, shape (C, D)
        The rows of the weight that belong to this rank's classes; a rank may have none.
    targets : array_like
        Class indices, which are numbers of the whole vocabulary and the same on every rank of `comm`. Or this rank's part of
        class probabilities: shape (..., C).
    comm, class_offset, row_comm
        As in `cross_entropy`.
    bias, class_weight : array_like, shape (C,), optional
        Those of this rank's classes.
    sample_weight, ignore_index, label_smoothing, z_loss, softcap, temperature, reduction, grad_output
        As in `cross_entropy`.
    return_grad : bool, default False
        Also return the gradients with respect to `hidden`, `weight` and `bias`.
    out : ndarray, optional
        Where to write the loss.
    grad_out : tuple of ndarray or None, optional
        Where to write the gradients, in the order in which they are returned; None: into a new array. The first may be
        exactly the memory of `hidden`.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 `hidden`, `weight` and `bias` as the bits of bfloat16 numbers.
    return_temperature_grad : bool, default False
        Append the derivative with respect to `temperature`, of the rows of all ranks; not with `softcap`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `hidden` without its last axis
        The same on every rank of `comm`.
    grad : tuple of ndarray
        With `return_grad`: ``(grad_hidden, grad_weight)``, and ``grad_bias`` if a bias is given. That of `hidden` is the sum
        over all classes, on every rank of `comm`; those of `weight` and `bias` are of this rank's classes and its own rows.
        With `row_comm`, sum these over it, as data parallelism does with the gradients of all parameters.
    temperature_grad : float32 or float64 scalar
        With `return_temperature_grad`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`, on every rank.

    Notes
    -----
    For each block of rows, the same on all ranks, there is an exchange of sums, and the gradients of `hidden` are summed
    while the next block is computed. Bits depend on BLAS and on the order in which MPI adds.

    Examples
    --------
    >>> import numpy as np
    >>> from mpi4py import MPI
    >>> import xent.mpi
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[2.0, 0.0], [1.0, 1.5], [0.0, 0.5]])
    >>> loss, grads = xent.mpi.linear_cross_entropy(hidden, weight, [0, 2], comm=MPI.COMM_SELF, return_grad=True)
    >>> grads[0].round(3)
    array([[-0.212,  0.206],
           [ 0.464,  0.411]])
    """
    if unknown:
        raise unknown_keyword(linear_cross_entropy, unknown)
    return _linear.linear_cross_entropy(
        hidden,
        weight,
        targets,
        comm=comm,
        row_comm=row_comm,
        class_offset=class_offset,
        bias=bias,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        return_temperature_grad=return_temperature_grad,
    )
