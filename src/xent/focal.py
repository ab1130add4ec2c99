"""Losses that modulate the likelihood of the target: focal loss and poly-1 loss."""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

from numpy.typing import ArrayLike, NDArray

from xent import _arguments as arguments
from xent._softmax import softmax_loss
from xent._typing import Array, FocalOptions, Poly1Options, Scalar

__all__ = ["focal_loss", "poly1_loss"]


@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[False] = False,
    return_hess: Literal[False] = False,
    out: None = None,
    **options: Unpack[FocalOptions],
) -> Scalar: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[True],
    return_hess: Literal[False] = False,
    out: None = None,
    **options: Unpack[FocalOptions],
) -> tuple[Scalar, Array]: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: bool = False,
    return_hess: Literal[True],
    out: None = None,
    hess_out: NDArray[Any] | None = None,
    **options: Unpack[FocalOptions],
) -> tuple[Scalar, Array, Array]: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[False] = False,
    return_hess: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[FocalOptions],
) -> Array: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[True],
    return_hess: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[FocalOptions],
) -> tuple[Array, Array]: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: bool = False,
    return_hess: Literal[True],
    out: Array | None = None,
    hess_out: NDArray[Any] | None = None,
    **options: Unpack[FocalOptions],
) -> tuple[Array, Array, Array]: ...
@overload
def focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    return_hess: bool = False,
    out: Array | None = None,
    hess_out: NDArray[Any] | None = None,
    **options: Unpack[FocalOptions],
) -> Any: ...
def focal_loss(
    logits: Any,
    targets: Any,
    *,
    gamma: float = 2.0,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: str = "mean",
    return_grad: bool = False,
    return_hess: bool = False,
    grad_output: Any = None,
    out: Any = None,
    grad_out: Any = None,
    hess_out: Any = None,
    dtype: Any = None,
) -> Any:
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
    loss, or (loss, grad), or (loss, grad, hess)
        As `cross_entropy`.

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
    return softmax_loss(
        "focal_loss",
        logits,
        targets,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        return_hess=return_hess,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        hess_out=hess_out,
        dtype=dtype,
        strength=arguments.number(gamma, "gamma", 0.0, 1000.0, "a number in [0, 1000]"),
    )


@overload
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[False] = False,
    out: None = None,
    **options: Unpack[Poly1Options],
) -> Scalar: ...
@overload
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[True],
    out: None = None,
    **options: Unpack[Poly1Options],
) -> tuple[Scalar, Array]: ...
@overload
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[Poly1Options],
) -> Array: ...
@overload
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[True],
    out: Array | None = None,
    **options: Unpack[Poly1Options],
) -> tuple[Array, Array]: ...
@overload
def poly1_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    out: Array | None = None,
    **options: Unpack[Poly1Options],
) -> Any: ...
def poly1_loss(
    logits: Any,
    targets: Any,
    *,
    epsilon: float = 2.0,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_output: Any = None,
    out: Any = None,
    grad_out: Any = None,
    dtype: Any = None,
) -> Any:
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
    loss, or (loss, grad)
        As `cross_entropy`.

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
    return softmax_loss(
        "poly1_loss",
        logits,
        targets,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        strength=arguments.number(
            epsilon, "epsilon", -arguments.LARGEST, arguments.LARGEST, "a finite number"
        ),
    )
