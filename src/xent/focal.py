"""Losses that modulate the likelihood of the target: focal loss and poly-1 loss."""

from __future__ import annotations

from xent import _functions
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["focal_loss", "poly1_loss"]


@named
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma: float = 2.0,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    return_hess: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    hess_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array] | tuple[Loss, Array, Array]:
    r"""Focal loss over classes: cross-entropy that weights confident rows down.

    .. math:: \ell = w_y\, (1 - p_y)^\gamma\, (-\log p_y), \qquad p = \mathrm{softmax}(z)

    computed from :math:`\log(1 - p_y)`, so that the most confident rows keep all their digits.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As in `cross_entropy`.
    targets : array_like of integers
        Class indices: the shape of `logits` without the class axis.
    gamma : float, default 2.0
        Exponent of the weight :math:`(1 - p_y)^\gamma` of a row; 0 is cross-entropy.
    class_weight : array_like, shape (C,), optional
        Weight of each class: the alpha of the paper.
    axis, sample_weight, ignore_index, z_loss, softcap, temperature, reduction, dtype
        As in `cross_entropy`; the mean divides by the sum of the weights.
    return_grad, return_hess, grad_output, out, grad_out, hess_out
        As in `cross_entropy`. Gradients are finite for every gamma >= 0, at :math:`p_y \to 1` too.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        In float64 for float64 and integer input, float32 for all other.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.
    hess : ndarray, shape of `logits`
        With `return_hess`; as `grad`.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; class probabilities are a TypeError, gamma < 0 a ValueError.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017, arXiv:1708.02002.

    Examples
    --------
    >>> import numpy as np, xent
    >>> logits = np.array([[4.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    >>> xent.focal_loss(logits, [0, 0], reduction="none").round(6)
    array([4.50000e-05, 2.38674e-01])
    """
    if unknown:
        raise unknown_keyword(focal_loss, unknown)
    return _functions.softmax_loss(
        "focal_loss",
        logits,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        0.0,
        z_loss,
        softcap,
        temperature,
        reduction,
        return_grad,
        return_hess,
        False,
        grad_output,
        out,
        grad_out,
        hess_out,
        dtype,
        gamma=gamma,
    )


@named
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: float = 2.0,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Poly-1 loss: cross-entropy with its first polynomial coefficient changed.

    .. math:: \ell = w_y \left( -\log p_y + \epsilon\, (1 - p_y) \right), \qquad p = \mathrm{softmax}(z)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As in `cross_entropy`.
    targets : array_like of integers
        Class indices: the shape of `logits` without the class axis.
    epsilon : float, default 2.0
        Added to the coefficient of :math:`1 - p_y`; 0 is cross-entropy.
    axis, class_weight, sample_weight, ignore_index, z_loss, softcap, temperature, reduction, dtype
        As in `cross_entropy`; the mean divides by the sum of the weights.
    return_grad, grad_output, out, grad_out
        As in `cross_entropy`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        In float64 for float64 and integer input, float32 for all other.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; class probabilities are a TypeError.

    References
    ----------
    Z. Leng et al., "PolyLoss: A polynomial expansion perspective of classification loss functions", ICLR 2022,
    arXiv:2204.12511.

    Examples
    --------
    >>> import numpy as np, xent
    >>> round(float(xent.poly1_loss(np.zeros((1, 4)), [1], epsilon=1.0)), 6)
    2.136294
    """
    if unknown:
        raise unknown_keyword(poly1_loss, unknown)
    return _functions.softmax_loss(
        "poly1_loss",
        logits,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        0.0,
        z_loss,
        softcap,
        temperature,
        reduction,
        return_grad,
        False,
        False,
        grad_output,
        out,
        grad_out,
        None,
        dtype,
        epsilon=epsilon,
    )
