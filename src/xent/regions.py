"""Losses of regions: overlap ratios of softmax probabilities and targets, summed over the positions of a sample."""

from __future__ import annotations

from xent import _arguments as arguments
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["dice_loss", "tversky_loss"]


@named
def dice_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = 1,
    class_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    smooth: float = 1.0,
    batch: bool = False,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Dice loss of logits: for each sample and class, how little the probabilities overlap with the targets.

    .. math:: \ell_{nc} = 1 - \frac{2 \sum p\, t + s}{\sum p + \sum t + s}, \qquad p = \mathrm{softmax}(z)

    The sums run over the positions of sample n that count, the softmax over the classes of each position.

    Parameters
    ----------
    logits : array_like, shape (N, C, ...)
        Any floating dtype; float16 and bfloat16 are computed in float32.
    targets : array_like
        Class indices, of the shape of `logits` without the class axis, or class probabilities, of the shape of `logits`.
    axis : int, default 1
        The axis of the classes; the first axis is that of the samples, all others are those of the positions.
    class_weight : array_like, shape (C,), optional
        w: the mean over classes becomes :math:`\sum_c w_c \ell_c / \sum_c w_c`. A class of weight 0 does not count, as a
        background that is to be left out.
    ignore_index : int or None, default -100
        Positions with this target are left out of all sums, and their gradient is 0, whatever their logits are.
    smooth : float, default 1.0
        Added above and below, at least 0. Without it a class that has neither probability nor targets is 0 / 0, NaN.
    batch : bool, default False
        Whether the sums run over the samples, too, so that there is one value instead of one for each sample.
    reduction : {"mean", "sum", "none"}, default "mean"
        Of the values of the samples, each the mean of its classes; "none" returns them. The mean of no samples is NaN.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `logits`, too.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out : numpy.ndarray, optional
        Where to write the results; `grad_out` may be the memory of `logits`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of shape (N,)
        An array for reduction "none", without `batch`; float64 for float64, integers and bool, else float32.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers. Elements below the smallest normal one are 0,
        and float16 is 0 below 3e-8, where many positions share a mean: `grad_output` may scale it.

    Raises
    ------
    IndexError
        A target that is neither a class nor `ignore_index`; the message has its position. Nothing has been written.
    TypeError, ValueError
        An argument that is not accepted; the message names the argument, what was given and what is accepted.

    Notes
    -----
    The logits are read twice and the gradient is written once, a block of positions at a time; there is never an array of
    probabilities. With g the derivatives of the loss with respect to the probabilities of a position, which for each class
    are a sum over all positions, its gradient is

    .. math:: \frac{\partial \ell}{\partial z_c} = p_c \Big(g_c - \sum_k p_k g_k\Big)

    Sums over positions are float64 and in a fixed order, so that no bit depends on the number of threads. A NaN among the
    logits of a position that counts makes its sample NaN, and no other.

    References
    ----------
    F. Milletari, N. Navab, S.-A. Ahmadi, "V-Net: fully convolutional neural networks for volumetric medical image
    segmentation", 3DV 2016, arXiv:1606.04797; MONAI, ``monai.losses.DiceLoss``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> logits = np.array([[[2.0, -1.0, 0.5], [0.0, 1.0, 0.0]]])  # one sample, two classes, three positions
    >>> loss, grad = xent.dice_loss(logits, [[0, 1, 1]], return_grad=True)
    >>> round(float(loss), 6)
    0.217151
    >>> grad[0].round(4)
    array([[-0.0276,  0.0254,  0.0568],
           [ 0.0276, -0.0254, -0.0568]])
    """
    if unknown:
        raise unknown_keyword(dice_loss, unknown)
    from xent._regions import Ratio, region_loss

    return region_loss(
        Ratio(2.0, 0.0, 1.0, 1.0, _smooth(smooth)),
        logits,
        targets,
        axis,
        class_weight,
        ignore_index,
        batch,
        reduction,
        return_grad,
        grad_output,
        out,
        grad_out,
        dtype,
    )


@named
def tversky_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    axis: int = 1,
    class_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    smooth: float = 1.0,
    batch: bool = False,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Tversky loss of logits: a Dice loss that weights false positives and false negatives each by itself.

    .. math:: \ell_{nc} = 1 - \frac{TP + s}{TP + \alpha\, FP + \beta\, FN + s}, \qquad
        TP = \sum p\, t, \quad FP = \sum p\, (1 - t), \quad FN = \sum (1 - p)\, t

    The sums run over the positions of sample n that count, with p the softmax over the classes of each position.

    Parameters
    ----------
    logits : array_like, shape (N, C, ...)
        As in `dice_loss`.
    targets : array_like
        As in `dice_loss`.
    alpha, beta : float, default 0.5
        Weights of false positives and of false negatives, at least 0. With 0.5 for both it is the Dice loss with twice the
        `smooth`, with 1 for both the loss of the intersection over union.
    axis, class_weight, ignore_index, smooth, batch, reduction, return_grad, grad_output, out, grad_out, dtype
        As in `dice_loss`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of shape (N,)
        As `dice_loss`.
    grad : ndarray, shape of `logits`
        As `dice_loss`, and computed so.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `dice_loss`.

    References
    ----------
    S. S. M. Salehi, D. Erdogmus, A. Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional
    deep networks", MLMI 2017, arXiv:1706.05721; MONAI, ``monai.losses.TverskyLoss``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> logits = np.array([[[2.0, -1.0, 0.5], [0.0, 1.0, 0.0]]])  # one sample, two classes, three positions
    >>> round(float(xent.tversky_loss(logits, [[0, 1, 1]], alpha=0.3, beta=0.7)), 6)
    0.16858
    """
    if unknown:
        raise unknown_keyword(tversky_loss, unknown)
    from xent._regions import Ratio, region_loss

    expected = "a finite number >= 0"
    alpha = arguments.number(alpha, "alpha", 0.0, 1e30, expected)
    beta = arguments.number(beta, "beta", 0.0, 1e30, expected)
    return region_loss(
        Ratio(1.0, 1.0 - alpha - beta, alpha, beta, _smooth(smooth)),
        logits,
        targets,
        axis,
        class_weight,
        ignore_index,
        batch,
        reduction,
        return_grad,
        grad_output,
        out,
        grad_out,
        dtype,
    )


def _smooth(value: object) -> float:
    return arguments.number(value, "smooth", 0.0, 1e30, "a finite number >= 0")
