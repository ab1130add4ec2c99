"""Divergence between distributions, element by element."""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

from numpy.typing import ArrayLike

from xent import _arguments as arguments
from xent._elementwise import elementwise_loss
from xent._typing import Array, KlOptions, Scalar

__all__ = ["kl_div"]


@overload
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "batchmean", "sum"] = "mean",
    return_grad: Literal[False] = False,
    out: None = None,
    **options: Unpack[KlOptions],
) -> Scalar: ...
@overload
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "batchmean", "sum"] = "mean",
    return_grad: Literal[True],
    out: None = None,
    **options: Unpack[KlOptions],
) -> tuple[Scalar, Array]: ...
@overload
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[KlOptions],
) -> Array: ...
@overload
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[True],
    out: Array | None = None,
    **options: Unpack[KlOptions],
) -> tuple[Array, Array]: ...
@overload
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    out: Array | None = None,
    **options: Unpack[KlOptions],
) -> Any: ...
def kl_div(
    log_probs: Any,
    targets: Any,
    *,
    log_target: bool = False,
    sample_weight: Any = None,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_output: Any = None,
    out: Any = None,
    grad_out: Any = None,
    dtype: Any = None,
) -> Any:
    r"""Kullback-Leibler divergence of log-probabilities from targets, element by element.

    .. math:: \ell = t\, (\log t - x) \qquad \text{or, with log-targets,} \qquad \ell = e^t\, (t - x)

    and 0 where the target probability is 0; the gradient is -t or :math:`-e^t`. Only the sum over a distribution, not
    an element, is sure to be positive.

    Parameters
    ----------
    log_probs : array_like, any shape
        Log-probabilities of any floating dtype; float16 and bfloat16 are computed in float32.
    targets : array_like of the same shape
        Probabilities, or their logarithms, of any real dtype, bool included.
    log_target : bool, default False
        Whether `targets` are logarithms.
    sample_weight : array_like, optional
        Weight of each element, broadcast to the shape of `log_probs`. An element of weight 0 counts for nothing, NaN or
        not; one of weight 2 counts twice.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; the mean of nothing is NaN, its
        gradient zero. "batchmean" divides the sum by
        ``log_probs.shape[0]``: the divergence of a batch of distributions.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `log_probs`, too.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out : numpy.ndarray, optional
        Where to put the results; `grad_out` may be the memory of `log_probs`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : numpy scalar, or array of the shape of `log_probs` for reduction "none"
        float64 for float64, integers and bool, else float32.
    grad : numpy.ndarray
        If asked for: shape and dtype of `log_probs`, float64 for integers. Below the smallest normal number they are 0.

    Raises
    ------
    TypeError, ValueError
        An argument that is not accepted; the message names the argument, what was given and what is accepted.

    References
    ----------
    PyTorch, ``torch.nn.functional.kl_div``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> log_probs = np.log([[0.5, 0.5], [0.25, 0.75]])
    >>> divergence = xent.kl_div(log_probs, [[0.5, 0.5], [0.5, 0.5]], reduction="batchmean")
    >>> round(float(divergence), 6)
    0.071921
    """
    return elementwise_loss(
        "kl_div",
        "log_probs",
        log_probs,
        targets,
        sample_weight=sample_weight,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        reductions=(*arguments.REDUCTIONS, "batchmean"),
        log_target=bool(log_target),
    )
