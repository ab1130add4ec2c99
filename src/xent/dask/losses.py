"""Cross-entropy of Dask arrays, and the functions that evaluate language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent import _arguments as arguments
from xent._keywords import named, unknown_keyword
from xent.dask._loss import Loss

if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Literal, Never

__all__ = ["cross_entropy", "perplexity", "token_log_probs"]


@named
def cross_entropy(
    logits: Any,
    targets: ArrayLike,
    *,
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
    dtype: Literal["bfloat16"] | None = None,
    target_probs: ArrayLike | None = None,
    entropy_weight: float = 0.0,
    class_bias: ArrayLike | None = None,
    return_temperature_grad: bool = False,
    return_bias_grad: bool = False,
    **unknown: Never,
) -> Any:
    r"""Softmax cross-entropy of a Dask array of logits, chunked along rows and classes in any way.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        Of the dtypes of `xent.cross_entropy`. Its chunks stay as they are.
    targets : array_like or dask.array.Array
        Class indices or class probabilities, as in `xent.cross_entropy`. Probabilities have the chunks of `logits`. Or, with
        `target_probs`, K class indices of each row, in the place of the class axis.
    axis, ignore_index, label_smoothing, z_loss, softcap, temperature, reduction, dtype, entropy_weight
        As in `xent.cross_entropy`.
    class_weight, class_bias : array_like, shape (C,), optional
        As in `xent.cross_entropy`.
    sample_weight : array_like or dask.array.Array, optional
        Weight of each row, broadcastable to the loss.
    return_grad : bool, default False
        Also return the gradient with respect to `logits`.
    return_hess : bool, default False
        Also return the gradient and the diagonal of the Hessian; not with `target_probs`, `entropy_weight` and the two
        derivatives below.
    return_lse : bool, default False
        Also return the log-sum-exp of each row (after cap and temperature).
    grad_output : array_like or dask.array.Array, optional
        Upstream gradient: a scalar for "mean" and "sum", the shape of the loss for "none".
    target_probs : array_like or dask.array.Array, shape of `targets`, optional
        Probabilities of the K classes of each row.
    return_temperature_grad : bool, default False
        Also return the derivative of the loss with respect to `temperature`; with `entropy_weight`, chunks must have all
        classes.
    return_bias_grad : bool, default False
        Also return that with respect to `class_bias`.

    Returns
    -------
    loss : dask.array.Array
        Without axes, or of the shape of `logits` without the class axis, for reduction "none".
    grad : dask.array.Array, shape and chunks of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.
    hess : dask.array.Array, shape and chunks of `logits`
        With `return_hess`; as `grad`.
    lse : dask.array.Array, shape of `logits` without the class axis
        With `return_lse`.
    temperature_grad : dask.array.Array without axes
        With `return_temperature_grad`.
    bias_grad : dask.array.Array, shape (C,)
        With `return_bias_grad`: the sum of the gradient over all rows.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it. Raised by this call.
    IndexError
        A target is neither a class nor `ignore_index`; the message names its position in the whole array. Raised when the
        result is computed.

    Notes
    -----
    A task reads one chunk of logits. Where it has all classes, the loss and the gradient of its rows are those of
    `xent.cross_entropy`; else the chunks' sums are merged (`xent.stages`), which gives the same bits in float32 where chunks
    end at multiples of 16,384 classes. Per-row inputs with other chunks are cut as the rows of the logits are.

    The rows' losses are summed without rounding: a mean is the nearest number to that of the rows' losses, whatever the
    chunks.

    Examples
    --------
    >>> import dask.array as da, numpy as np, xent.dask
    >>> logits = da.from_array(np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), chunks=(1, 2))
    >>> loss, grad = xent.dask.cross_entropy(logits, [0, 2], return_grad=True)
    >>> round(float(loss.compute()), 6)
    1.288726
    >>> grad.chunks == logits.chunks
    True
    >>> grad.compute().round(3)
    array([[-0.167,  0.122,  0.045],
           [ 0.021,  0.422, -0.443]])
    """
    if unknown:
        raise unknown_keyword(cross_entropy, unknown)
    with_lse = arguments.flag(return_lse, "return_lse")
    call = Loss(
        logits,
        targets,
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
        return_temperature_grad=return_temperature_grad,
        return_bias_grad=return_bias_grad,
        grad_output=grad_output,
        dtype=dtype,
        target_probs=target_probs,
        entropy_weight=entropy_weight,
        class_bias=class_bias,
    )
    return call.results(with_lse)


@named
def token_log_probs(
    logits: Any,
    targets: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Any:
    r"""Log-probability of each target under the softmax of its logits: :math:`z_y - \mathrm{lse}(z)`.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., V, ...)
        Scores of each token of the vocabulary, as in `cross_entropy`.
    targets : array_like or dask.array.Array of integers
        The observed tokens: the shape of `logits` without the class axis.
    axis, sample_weight, ignore_index, softcap, temperature, dtype
        As in `cross_entropy`. Ignored positions are 0.
    reduction : {"none", "sum", "mean"}, default "none"

    Returns
    -------
    log_probs : dask.array.Array
        The negative of `cross_entropy` with the same arguments.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    >>> import dask.array as da, numpy as np, xent.dask
    >>> logits = da.zeros((3, 4), chunks=(2, 3))
    >>> xent.dask.token_log_probs(logits, [1, 3, 0]).compute().round(4)
    array([-1.3863, -1.3863, -1.3863])
    """
    if unknown:
        raise unknown_keyword(token_log_probs, unknown)
    call = Loss(
        logits,
        targets,
        axis=axis,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        dtype=dtype,
    )
    call.expect_indices()
    # 0 - loss, not -loss: the log-probability of a certain token is 0.0, never -0.0.
    return np.subtract(call.compute.type(0), call.reduced())


@named
def perplexity(
    logits: Any,
    targets: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "none"] = "mean",
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Any:
    r"""Perplexity of a language model: :math:`\exp` of the mean negative log-probability of the observed tokens.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., V, ...)
        Scores of each token of the vocabulary, as in `cross_entropy`.
    targets : array_like or dask.array.Array of integers
        The observed tokens: the shape of `logits` without the class axis.
    axis, sample_weight, ignore_index, softcap, temperature, dtype
        As in `cross_entropy`.
    reduction : {"mean", "none"}, default "mean"
        "none": one perplexity for each sequence, along the last axis of the targets.

    Returns
    -------
    perplexity : dask.array.Array without axes, or of the shape of `targets` without its last axis
        NaN when no position counts, ``inf`` past the largest number.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    The perplexity of uniform predictions is the size of the vocabulary:

    >>> import dask.array as da, numpy as np, xent.dask
    >>> logits = da.zeros((10, 100), chunks=(4, 30))
    >>> round(float(xent.dask.perplexity(logits, np.ones(10, int)).compute()), 9)
    100.0
    """
    if unknown:
        raise unknown_keyword(perplexity, unknown)
    call = Loss(
        logits,
        targets,
        axis=axis,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        dtype=dtype,
    )
    call.expect_indices()
    if reduction == "none":
        return call.perplexities()
    if reduction != "mean":
        raise ValueError(
            f"reduction: expected one of mean, none, got {arguments.described(reduction)}"
        )
    return call.reduced(exponential=True)
