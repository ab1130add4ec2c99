"""Losses of probabilities and of log-probabilities, to which a softmax has been applied already."""

from __future__ import annotations

from typing import Any, Literal, Unpack, overload

from numpy.typing import ArrayLike

from xent import _arguments as arguments
from xent._softmax import softmax_loss
from xent._typing import Array, CategoricalOptions, NllOptions, Scalar

__all__ = ["categorical_cross_entropy", "nll_loss"]


@overload
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[False] = False,
    out: None = None,
    **options: Unpack[NllOptions],
) -> Scalar: ...
@overload
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[True],
    out: None = None,
    **options: Unpack[NllOptions],
) -> tuple[Scalar, Array]: ...
@overload
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[NllOptions],
) -> Array: ...
@overload
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[True],
    out: Array | None = None,
    **options: Unpack[NllOptions],
) -> tuple[Array, Array]: ...
@overload
def nll_loss(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    out: Array | None = None,
    **options: Unpack[NllOptions],
) -> Any: ...
def nll_loss(
    log_probs: Any,
    targets: Any,
    *,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_output: Any = None,
    out: Any = None,
    grad_out: Any = None,
    dtype: Any = None,
) -> Any:
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
    loss, or (loss, grad)
        As `cross_entropy`. Only classes to which the target gives weight are read.

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
    return softmax_loss(
        "nll_loss",
        log_probs,
        targets,
        name="log_probs",
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
    )


@overload
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[False] = False,
    out: None = None,
    **options: Unpack[CategoricalOptions],
) -> Scalar: ...
@overload
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    return_grad: Literal[True],
    out: None = None,
    **options: Unpack[CategoricalOptions],
) -> tuple[Scalar, Array]: ...
@overload
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[False] = False,
    out: Array | None = None,
    **options: Unpack[CategoricalOptions],
) -> Array: ...
@overload
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: Literal["none"],
    return_grad: Literal[True],
    out: Array | None = None,
    **options: Unpack[CategoricalOptions],
) -> tuple[Array, Array]: ...
@overload
def categorical_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    reduction: str = "mean",
    return_grad: bool = False,
    out: Array | None = None,
    **options: Unpack[CategoricalOptions],
) -> Any: ...
def categorical_cross_entropy(
    probs: Any,
    targets: Any,
    *,
    eps: float | None = None,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    grad_output: Any = None,
    out: Any = None,
    grad_out: Any = None,
    dtype: Any = None,
) -> Any:
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
        Clip probabilities to [eps, 1 - eps], 0 < eps < 0.5, in the dtype of the computation; the gradient is 0 where that
        changes them. Keras does so with ``eps=1e-7``. Without it the logarithm of 0 is ``-inf``, unless its weight is 0.
    axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, dtype
        As in `cross_entropy`.
    return_grad, grad_output, out, grad_out
        As in `cross_entropy`; the gradient is that with respect to `probs`, :math:`-w_y / p_y` at the target.

    Returns
    -------
    loss, or (loss, grad)
        As `cross_entropy`. Only classes to which the target gives weight are read.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; a probability outside [0, 1] is a ValueError that names its position.

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
    return softmax_loss(
        "categorical_cross_entropy",
        probs,
        targets,
        name="probs",
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
        eps=arguments.eps(eps),
    )
