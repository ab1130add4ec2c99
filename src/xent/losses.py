"""Losses over logits: cross-entropy, and the functions that evaluate language models."""

from __future__ import annotations

import numpy as np

from xent import _functions
from xent._arguments import flag
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["cross_entropy", "perplexity", "token_log_probs"]


@named
def cross_entropy(
    logits: ArrayLike,
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
) -> Loss | tuple[Loss, Array] | tuple[Loss, Array, Array] | tuple[Loss, Array, Array, Array]:
    r"""Softmax cross-entropy of logits against class indices or class probabilities.

    For one row of logits :math:`z`, with :math:`\mathrm{lse} = \log \sum_c e^{z_c}`:

    .. math::
        \text{indices:}\quad & \ell = (1-e)\, w_y\, (\mathrm{lse} - z_y)
            + \frac{e}{C} \sum_c w_c\, (\mathrm{lse} - z_c) + \zeta\, \mathrm{lse}^2 \\
        \text{probabilities:}\quad & \ell = \sum_c w_c\, t'_c\, (\mathrm{lse} - z_c) + \zeta\, \mathrm{lse}^2,
            \qquad t' = (1-e)\, t + e/C

    with class weights :math:`w`, label smoothing :math:`e` and z-loss :math:`\zeta`; each row is multiplied by its
    sample weight.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities: float16 and bfloat16 (computed in float32), float32, float64, integers and bools
        (computed in float64). ``-inf`` masks a class. Rows may be strided, reversed, broadcast, unaligned or read-only; none
        of that copies the array.
    targets : array_like
        Class indices: the shape of `logits` without the class axis, any integer or bool dtype. Or class probabilities:
        the shape of `logits`, any real dtype; they need not sum to 1. Or, with `target_probs`, K class indices of each row,
        in the place of the class axis.
    axis : int, default -1
        The class axis. ``1`` is PyTorch's (N, C, d1, ...) layout.
    class_weight : array_like, shape (C,), optional
        Weight of each class.
    sample_weight : array_like, optional
        Weight of each row, broadcastable to the loss: a row of weight 2 counts as two rows.
    ignore_index : int or None, default -100
        Rows with this target do not count: their loss is 0, their gradient exactly 0. ``None``: no target is ignored.
    label_smoothing : float, default 0.0
        e in [0, 1].
    z_loss : float, default 0.0
        Adds ``z_loss * lse**2`` to each row that counts. Class weights do not multiply it, `sample_weight` does.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``. Infinities pass through.
    temperature : float, default 1.0
        After the cap, logits are divided by it.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over class indices divides by the sum of the weights (class times sample) of the rows that count; over
        class probabilities by the sum of the sample weights. The mean of nothing is NaN.
    return_grad : bool, default False
        Also return the gradient with respect to `logits`.
    return_hess : bool, default False
        Also return the gradient and the diagonal of the Hessian: the exact second derivative of the same scalar with
        respect to each logit.
    return_lse : bool, default False
        Also return the log-sum-exp of each row (after cap and temperature).
    grad_output : array_like, optional
        Upstream gradient: a scalar for "mean" and "sum", the shape of the loss for "none". The gradient returned is that
        of ``sum(grad_output * loss)``.
    out, grad_out, hess_out : ndarray, optional
        Where to write the loss, the gradient and the Hessian's diagonal. `grad_out` may be exactly the memory of `logits`.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 logits as the bits of bfloat16 numbers; the gradient comes in the same form.
    target_probs : array_like, shape of `targets`, optional
        Probabilities of K classes of each row, a sparse soft target such as the K most likely classes of a teacher:
        :math:`\sum_k q_k\, (\mathrm{lse} - z_{i_k})`. Classes named twice add up; an entry with `ignore_index` drops out,
        and a row without entries does not count. A mean divides as that over class probabilities.
    entropy_weight : float, default 0.0
        Takes so much of the entropy of the softmax from each row: a confidence penalty, or the entropy bonus of
        reinforcement learning. Sample weights multiply it, class weights do not.
    class_bias : array_like, shape (C,), optional
        Added to the logits before the cap: logit adjustment, or the correction of sampled classes.
    return_temperature_grad : bool, default False
        Also return the derivative of the loss with respect to `temperature`.
    return_bias_grad : bool, default False
        Also return that with respect to `class_bias`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        In float64 for float64 and integer input, float32 for all other.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.
    hess : ndarray, shape of `logits`
        With `return_hess`; as `grad`.
    lse : ndarray, shape of `logits` without the class axis
        With `return_lse`.
    temperature_grad : float32 or float64 scalar
        With `return_temperature_grad`: of the sum of the losses times `grad_output`, for reduction "none".
    bias_grad : ndarray, shape (C,)
        With `return_bias_grad`: the sum of the gradient over all rows.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`; nothing has been written.
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    With m the largest logit and rest the sum of ``exp(z - m)`` over all classes but one that attains it, the loss of a row
    is ``log1p(rest) + (m - z_y)``, exact where ``lse - z_y`` cancels, and its gradient at the target
    ``-(the other classes' share)`` rather than ``p_y - 1`` [1]_. Weighting, ignoring and smoothing follow PyTorch [2]_, the
    z-loss PaLM [3]_, the cap Gemma 2 [4]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax functions",
           IMA J. Numer. Anal. 41 (2021).
    .. [2] https://pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    .. [3] A. Chowdhery et al., "PaLM: Scaling language modeling with pathways", JMLR 24 (2023), section 5.
    .. [4] Gemma Team, "Gemma 2: Improving open language models at a practical size", arXiv:2408.00118 (2024).

    Examples
    --------
    >>> import numpy as np, xent
    >>> logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    >>> loss, grad = xent.cross_entropy(logits, [0, 2], return_grad=True)
    >>> round(float(loss), 6)
    1.288726
    >>> grad.round(3)
    array([[-0.167,  0.122,  0.045],
           [ 0.021,  0.422, -0.443]])
    >>> xent.cross_entropy(logits, [0, -100], reduction="none").round(6)
    array([0.407606, 0.      ])
    """
    if unknown:
        raise unknown_keyword(cross_entropy, unknown)
    if (
        target_probs is not None
        or type(entropy_weight) not in (float, int)
        or entropy_weight
        or (
            return_temperature_grad is not False
            and flag(return_temperature_grad, "return_temperature_grad")
        )
        or (return_bias_grad is not False and flag(return_bias_grad, "return_bias_grad"))
    ):
        from xent import _composed

        return _composed.cross_entropy(
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
    return _functions.softmax_loss(
        "cross_entropy",
        logits,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        softcap,
        temperature,
        reduction,
        return_grad,
        return_hess,
        return_lse,
        grad_output,
        out,
        grad_out,
        hess_out,
        dtype,
        class_bias=class_bias,
    )


def _several(logits: ArrayLike, targets: ArrayLike) -> ArrayLike | None:
    """Return class indices with one axis more than the rows, several of each row; None of other targets."""
    try:
        found = targets if hasattr(targets, "ndim") else np.asarray(targets)
        axes = logits.ndim if hasattr(logits, "ndim") else np.ndim(logits)
    except ValueError:
        return None  # ragged, which who validates the argument says
    kind = getattr(getattr(found, "dtype", None), "kind", "")
    return found if found.ndim == axes and axes and kind in "iub" else None


@named
def token_log_probs(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    out: Array | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss:
    r"""Log-probability of each target under the softmax of its logits: :math:`z_y - \mathrm{lse}(z)`.

    Parameters
    ----------
    logits : array_like, shape (..., V, ...)
        Scores of each token of the vocabulary, as in `cross_entropy`.
    targets : array_like of integers
        The observed tokens: the shape of `logits` without the class axis. Or K tokens of each position, in the place of the
        class axis: (..., K).
    axis, sample_weight, ignore_index, softcap, temperature, out, dtype
        As in `cross_entropy`. Ignored positions are 0. Several targets go without `sample_weight` and `out`.
    reduction : {"none", "sum", "mean"}, default "none"

    Returns
    -------
    log_probs : ndarray of the shape of `targets`, or float32 or float64 scalar
        The negative of `cross_entropy` with the same arguments; an array for reduction "none".

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> logits = np.zeros((1, 3, 4))
    >>> xent.token_log_probs(logits[:, :-1], np.array([[1, 3]])).round(4)
    array([[-1.3863, -1.3863]])
    """
    if unknown:
        raise unknown_keyword(token_log_probs, unknown)
    several = _several(logits, targets)
    if several is not None:
        plain = isinstance(reduction, str) and reduction == "none"
        if sample_weight is not None or out is not None or not plain:
            raise ValueError(
                f"targets: shape {np.shape(several)} is that of several for each row of logits of shape {np.shape(logits)}, "
                "which go without sample_weight, reduction and out"
            )
        from xent import _composed

        return _composed.token_log_probs(
            logits, several, axis, ignore_index, softcap, temperature, dtype
        )
    return _functions.log_probability(
        "token_log_probs",
        logits,
        targets,
        axis=axis,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        out=out,
        dtype=dtype,
    )


@named
def perplexity(
    logits: ArrayLike,
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
) -> Loss:
    r"""Perplexity of a language model: :math:`\exp` of the mean negative log-probability of the observed tokens.

    Parameters
    ----------
    logits : array_like, shape (..., V, ...)
        Scores of each token of the vocabulary, as in `cross_entropy`.
    targets : array_like of integers
        The observed tokens: the shape of `logits` without the class axis.
    axis, sample_weight, ignore_index, softcap, temperature, dtype
        As in `cross_entropy`.
    reduction : {"mean", "none"}, default "mean"
        One perplexity of all tokens, or of each sequence: over the last axis of the targets.

    Returns
    -------
    perplexity : float32 or float64 scalar; with reduction "none", ndarray of the targets' shape without the last axis
        NaN when no position counts, ``inf`` past the largest number.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    Examples
    --------
    The perplexity of uniform predictions is the size of the vocabulary:

    >>> import numpy as np, xent
    >>> round(float(xent.perplexity(np.zeros((2, 5, 100)), np.ones((2, 5), int))), 9)
    100.0
    """
    if unknown:
        raise unknown_keyword(perplexity, unknown)
    if not isinstance(reduction, str) or reduction != "mean":
        from xent import _composed

        return _composed.perplexities(
            logits,
            targets,
            axis,
            sample_weight,
            ignore_index,
            softcap,
            temperature,
            reduction,
            dtype,
        )
    return _functions.log_probability(
        "perplexity",
        logits,
        targets,
        axis=axis,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        softcap=softcap,
        temperature=temperature,
        dtype=dtype,
    )
