"""Losses of probabilities and of log-probabilities, to which a softmax has been applied already."""

from __future__ import annotations

from xent import _functions
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["categorical_cross_entropy", "nll_loss"]


@named
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Negative log-likelihood of log-probabilities: cross-entropy without the softmax.

    .. math::
        \text{indices:}\quad & \ell = -(1-e)\, w_y\, x_y - \frac{e}{C} \sum_c w_c\, x_c \\
        \text{probabilities:}\quad & \ell = -\sum_c w_c\, t'_c\, x_c, \qquad t' = (1-e)\, t + e/C

    Parameters
    ----------
    log_probs : array_like, shape (..., C, ...)
        Logarithms of probabilities, as `log_softmax` gives them; taken as they are. The dtypes and layouts of
        `cross_entropy`.
    targets : array_like
        Class indices or class probabilities, as in `cross_entropy`.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, dtype
        As in `cross_entropy`.
    return_grad, grad_output, out, grad_out
        As in `cross_entropy`; the gradient is that with respect to `log_probs`, :math:`-w_y` at the target.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `log_probs` without the class axis
        In float64 for float64 and integer input, float32 for all other. Of class indices the target's
        log-probability alone is read, unless labels are smoothed.
    grad : ndarray, shape of `log_probs`
        With `return_grad`; of the dtype of `log_probs`, float64 for integers.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    References
    ----------
    https://pytorch.org/docs/stable/generated/torch.nn.functional.nll_loss.html

    Examples
    --------
    >>> import numpy as np, xent
    >>> log_probs = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    >>> xent.nll_loss(log_probs, [0, 1], reduction="none").round(6)
    array([0.693147, 0.223144])
    """
    if unknown:
        raise unknown_keyword(nll_loss, unknown)
    return _functions.softmax_loss(
        "nll_loss",
        log_probs,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
    )


@named
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    eps: float | None = None,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Cross-entropy of probabilities, used as they are: not renormalised, and not clipped unless `eps` says so.

    .. math::
        \text{indices:}\quad & \ell = -(1-e)\, w_y \log p_y - \frac{e}{C} \sum_c w_c \log p_c \\
        \text{probabilities:}\quad & \ell = -\sum_c w_c\, t'_c \log p_c, \qquad t' = (1-e)\, t + e/C

    From logits `cross_entropy` is both faster and more exact: a probability that has been rounded to 0 or 1 has lost its
    logarithm.

    Parameters
    ----------
    probs : array_like, shape (..., C, ...)
        Probabilities in [0, 1], of the dtypes and layouts of `cross_entropy`. They need not sum to 1.
    targets : array_like
        Class indices or class probabilities, as in `cross_entropy`.
    eps : float, optional
        Clip p and 1 - p at eps, 0 < eps <= 0.5, in the dtype of the computation; the gradient is 0 where that changes them.
        Keras does so with ``eps=1e-7``. With it p may be one rounding above 1. Without it the logarithm of 0 is ``-inf``,
        unless its weight is 0.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, dtype
        As in `cross_entropy`.
    return_grad, grad_output, out, grad_out
        As in `cross_entropy`; the gradient is that with respect to `probs`, :math:`-w_y / p_y` at the target.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `probs` without the class axis
        In float64 for float64 and integer input, float32 for all other. Of class indices the target's
        probability alone is read, and has to be one, unless labels are smoothed.
    grad : ndarray, shape of `probs`
        With `return_grad`; of the dtype of `probs`, float64 for integers.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; a probability that is read, in a row that counts, and outside [0, 1] is a ValueError that names
        its position.

    References
    ----------
    https://keras.io/api/losses/probabilistic_losses/#categoricalcrossentropy-class

    Examples
    --------
    >>> import numpy as np, xent
    >>> probs = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    >>> xent.categorical_cross_entropy(probs, [0, 1], reduction="none").round(6)
    array([0.693147, 0.223144])
    >>> float(xent.categorical_cross_entropy(probs, probs).round(6))
    0.839376
    """
    if unknown:
        raise unknown_keyword(categorical_cross_entropy, unknown)
    return _functions.softmax_loss(
        "categorical_cross_entropy",
        probs,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        eps=eps,
    )
