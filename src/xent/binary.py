"""Losses of two classes, element by element."""

from __future__ import annotations

from xent import _functions
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
]


@named
def binary_cross_entropy(
    probs: ArrayLike,
    targets: ArrayLike,
    *,
    eps: float | None = None,
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Binary cross-entropy of probabilities, element by element.

    .. math:: \ell = -t \log p - (1 - t) \log(1 - p)

    with each logarithm at least -100, and the gradient :math:`(p - t) / \max(p (1 - p), 10^{-12})`, as in PyTorch; or
    with `eps`, as in Keras, of p clipped to [eps, 1 - eps], where the gradient is 0 outside. From logits,
    `binary_cross_entropy_with_logits` is exact and faster.

    Parameters
    ----------
    probs : array_like, any shape
        Probabilities in [0, 1] of any floating dtype; float16 and bfloat16 are computed in float32.
    targets : array_like of the same shape
        Probabilities of the positive class, of any real dtype, bool included.
    eps : float, optional
        Clips p and 1 - p at eps, 0 < eps <= 0.5, in the dtype of the computation. Keras does so with ``eps=1e-7``. With it
        p may be one rounding above 1.
    label_smoothing : float, default 0.0
        e in [0, 1]: targets become t (1 - e) + e / 2.
    sample_weight : array_like, optional
        Weight of each element, broadcast to the shape of `probs`. An element of weight 0 does not count, even
        if it is NaN; one of weight 2 counts twice.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; the mean of nothing is NaN, its
        gradient zero.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `probs`, too.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out : numpy.ndarray, optional
        Where to write the results; `grad_out` may be the memory of `probs`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `probs`
        An array for reduction "none"; float64 for float64, integers and bool, else float32.
    grad : ndarray, shape of `probs`
        With `return_grad`; of the dtype of `probs`, float64 for integers. Elements below the smallest normal one are 0.

    Raises
    ------
    TypeError, ValueError
        A probability or a target outside [0, 1], of an element that counts (nothing has been written then), or an
        argument that is not accepted; the message names the argument, what was given and what is accepted.

    References
    ----------
    PyTorch, ``torch.nn.functional.binary_cross_entropy``; Keras, ``keras.losses.binary_crossentropy``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> loss, grad = xent.binary_cross_entropy([0.8, 0.4], [1, 0], return_grad=True)
    >>> round(float(loss), 6)
    0.366985
    >>> grad.round(6)
    array([-0.625   ,  0.833333])
    """
    if unknown:
        raise unknown_keyword(binary_cross_entropy, unknown)
    return _functions.elementwise_loss(
        "binary_cross_entropy",
        probs,
        targets,
        sample_weight,
        reduction,
        return_grad,
        False,
        grad_output,
        out,
        grad_out,
        None,
        dtype,
        label_smoothing=label_smoothing,
        eps=eps,
    )


@named
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | None = None,
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
    r"""Binary cross-entropy of logits, element by element.

    .. math:: \ell = w\, t\, \mathrm{softplus}(-z) + (1 - t)\, \mathrm{softplus}(z), \qquad
        \mathrm{softplus}(z) = \max(z, 0) + \log(1 + e^{-|z|})

    .. math:: \ell' = (1 - t)\, \sigma(z) - w\, t\, \sigma(-z), \qquad
        \ell'' = (1 - t + w\, t)\, \sigma(z)\, \sigma(-z)

    Parameters
    ----------
    logits : array_like, any shape
        Any floating dtype, infinities included; float16 and bfloat16 are computed in float32.
    targets : array_like of the same shape
        Probabilities of the positive class, of any real dtype, bool included.
    pos_weight : array_like, optional
        w, the weight of the positive class, broadcast to the shape of `logits`. It does not divide the mean.
    label_smoothing : float, default 0.0
        e in [0, 1]: targets become t (1 - e) + e / 2.
    sample_weight : array_like, optional
        Weight of each element, broadcast to the shape of `logits`. An element of weight 0 does not count, even
        if it is NaN; one of weight 2 counts twice.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; the mean of nothing is NaN, its
        gradient zero.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `logits`, too.
    return_hess : bool, default False
        Whether to return gradient and second derivative, too: the Hessian, which is diagonal.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out, hess_out : numpy.ndarray, optional
        Where to write the results; `grad_out` may be the memory of `logits`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits`
        An array for reduction "none"; float64 for float64, integers and bool, else float32.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers. Elements below the smallest normal one are 0.
    hess : ndarray, shape of `logits`
        With `return_hess`; as `grad`.

    Raises
    ------
    TypeError, ValueError
        An argument that is not accepted; the message names the argument, what was given and what is accepted.

    References
    ----------
    PyTorch, ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> loss, grad, hess = xent.binary_cross_entropy_with_logits([2.0, -1.0], [1, 1], return_hess=True)
    >>> round(float(loss), 6)
    0.720095
    >>> grad.round(6), hess.round(6)
    (array([-0.059601, -0.365529]), array([0.052497, 0.098306]))
    """
    if unknown:
        raise unknown_keyword(binary_cross_entropy_with_logits, unknown)
    return _functions.elementwise_loss(
        "binary_cross_entropy_with_logits",
        logits,
        targets,
        sample_weight,
        reduction,
        return_grad,
        return_hess,
        grad_output,
        out,
        grad_out,
        hess_out,
        dtype,
        pos_weight,
        label_smoothing,
    )


@named
def sigmoid_focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    sample_weight: ArrayLike | None = None,
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
    r"""Focal loss of logits, element by element: binary cross-entropy that weights confident elements down.

    .. math:: \ell = \alpha_t\, (1 - p_t)^\gamma\, \mathrm{BCE}(z, t), \qquad
        1 - p_t = t\, \sigma(-z) + (1 - t)\, \sigma(z), \qquad \alpha_t = \alpha\, t + (1 - \alpha)(1 - t)

    computed from :math:`\log(1 - p_t)`, so that the most confident elements keep all their digits.

    Parameters
    ----------
    logits : array_like, any shape
        As in `binary_cross_entropy_with_logits`.
    targets : array_like of the same shape
        Probabilities of the positive class, of any real dtype, bool included.
    alpha : float or None, default 0.25
        In [0, 1]: weight of positive elements; that of negative ones is 1 - alpha. None weights all alike.
    gamma : float, default 2.0
        Exponent of the weight :math:`(1 - p_t)^\gamma` of an element; 0 is binary cross-entropy.
    sample_weight : array_like, optional
        Weight of each element, broadcast to the shape of `logits`. An element of weight 0 does not count, even
        if it is NaN; one of weight 2 counts twice.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; the mean of nothing is NaN, its
        gradient zero.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `logits`, too.
    return_hess : bool, default False
        Whether to return gradient and second derivative, too: the Hessian, which is diagonal.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out, hess_out : numpy.ndarray, optional
        Where to write the results; `grad_out` may be the memory of `logits`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits`
        An array for reduction "none"; float64 for float64, integers and bool, else float32.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers. Elements below the smallest normal one are 0.
    hess : ndarray, shape of `logits`
        With `return_hess`; as `grad`.

    Raises
    ------
    TypeError, ValueError
        An argument that is not accepted; the message names the argument, what was given and what is accepted.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017, arXiv:1708.02002; torchvision,
    ``torchvision.ops.sigmoid_focal_loss``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.sigmoid_focal_loss([4.0, 0.5], [1, 1], reduction="none").round(6)
    array([1.0000e-06, 1.6893e-02])
    """
    if unknown:
        raise unknown_keyword(sigmoid_focal_loss, unknown)
    return _functions.elementwise_loss(
        "sigmoid_focal_loss",
        logits,
        targets,
        sample_weight,
        reduction,
        return_grad,
        return_hess,
        grad_output,
        out,
        grad_out,
        hess_out,
        dtype,
        alpha=alpha,
        gamma=gamma,
    )


@named
def asymmetric_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Asymmetric loss of logits, element by element: for many labels, most of which are negative.

    .. math:: \ell = -t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \qquad
        p = \sigma(z), \quad p_m = \max(p - c, 0)

    Positive and negative elements have exponents of their own, and the probability of negative ones is shifted by the
    margin c, so that those below it count for nothing.

    Parameters
    ----------
    logits : array_like, any shape
        As in `binary_cross_entropy_with_logits`.
    targets : array_like of the same shape
        Usually 0 or 1; any real number t weights the two terms with t and 1 - t. Of any real dtype, bool included.
    gamma_neg : float, default 4.0
        Exponent of negative elements, in [0, 1000].
    gamma_pos : float, default 1.0
        Exponent of positive elements, in [0, 1000].
    clip : float, default 0.05
        The margin c in [0, 1), in the dtype of the computation.
    sample_weight, reduction, return_grad, grad_output, out, grad_out, dtype
        As in `binary_cross_entropy_with_logits`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits`
        As `binary_cross_entropy_with_logits`.
    grad : ndarray, shape of `logits`
        As `binary_cross_entropy_with_logits`. Of a negative element exactly 0 where p <= c.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`.

    Notes
    -----
    The gradient, where :math:`p_m > 0`, is

    .. math:: \ell' = -t\, q^{\gamma_+} (q - \gamma_+\, p \log p)
        + (1 - t)\, p_m^{\gamma_-}\, p\, q\, \Bigl(\frac{1}{1 - p_m} - \gamma_- \frac{\log(1 - p_m)}{p_m}\Bigr),
        \qquad q = \sigma(-z)

    With both exponents and the margin 0 it is `binary_cross_entropy_with_logits`.

    References
    ----------
    T. Ridnik et al., "Asymmetric loss for multi-label classification", ICCV 2021, arXiv:2009.14119; timm,
    ``timm.loss.AsymmetricLossMultiLabel``, which adds up the elements.

    Examples
    --------
    >>> import numpy as np, xent
    >>> loss, grad = xent.asymmetric_loss([2.0, 2.0, -3.0], [1, 0, 0], reduction="none", return_grad=True)
    >>> loss.round(6)
    array([0.01513 , 0.846415, 0.      ])
    >>> grad.round(6)
    array([-0.027536,  0.72349 ,  0.      ])
    """
    if unknown:
        raise unknown_keyword(asymmetric_loss, unknown)
    return _functions.elementwise_loss(
        "asymmetric_loss",
        logits,
        targets,
        sample_weight,
        reduction,
        return_grad,
        False,
        grad_output,
        out,
        grad_out,
        None,
        dtype,
        gamma=gamma_pos,
        gamma_neg=gamma_neg,
        clip=clip,
    )
