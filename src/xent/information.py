"""Entropy of a distribution, and the divergence of one from another."""

from __future__ import annotations

from xent import _functions
from xent._arguments import flag
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["distillation_loss", "entropy", "kl_div"]


@named
def entropy(
    logits: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Entropy of the softmax of each row, in nats.

    .. math:: H = -\sum_c p_c \log p_c = \mathrm{lse} - \sum_c p_c z_c, \qquad p = \mathrm{softmax}(z)

    computed relative to the largest logit, where every term has one sign, so that confident rows keep all their digits. The
    gradient is :math:`-p_c\, (\log p_c + H)`.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As in `cross_entropy`. A masked class (``-inf``) adds nothing.
    axis, sample_weight, softcap, temperature, dtype
        As in `cross_entropy`.
    reduction : {"none", "sum", "mean"}, default "none"
        The mean divides by the number of rows, or by the sum of their weights.
    return_grad, grad_output, out, grad_out
        As in `cross_entropy`.

    Returns
    -------
    entropy : float32 or float64 scalar, or ndarray of the shape of `logits` without the class axis
        In float64 for float64 and integer input, float32 for all other. Between 0 and log C.
    grad : ndarray, shape of `logits`
        With `return_grad`; of the dtype of `logits`, float64 for integers.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    References
    ----------
    C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27 (1948).

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.entropy(np.array([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, -np.inf]])).round(6)
    array([1.386294, 0.002468])
    """
    if unknown:
        raise unknown_keyword(entropy, unknown)
    return _functions.softmax_loss(
        "entropy",
        logits,
        None,
        axis,
        sample_weight=sample_weight,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
    )


@named
def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: float = 1.0,
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl",
    beta: float = 0.5,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    return_teacher_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Divergence of a student's softmax from its teacher's, both at a temperature.

    .. math::
        \ell = T^2\, \mathrm{KL}(q \,\|\, p) = T^2 \sum_c q_c\, (\log q_c - \log p_c), \qquad
        q = \mathrm{softmax}(z'/T),\quad p = \mathrm{softmax}(z/T)

    or another divergence of the two, with the factor :math:`T^2` that keeps gradients of the same size at every temperature.
    Neither softmax is stored.

    Parameters
    ----------
    student_logits : array_like, shape (..., C, ...)
        The logits :math:`z` of the model that learns, as in `cross_entropy`.
    teacher_logits : array_like, shape of `student_logits`
        The logits :math:`z'` of the model to learn from. If the dtypes differ, both are computed in the one that NumPy
        promotes them to.
    temperature : float, default 1.0
        T > 0.
    divergence : {"forward_kl", "reverse_kl", "jsd"}, default "forward_kl"
        KL(teacher || student), KL(student || teacher), or the Jensen-Shannon divergence, the mean of both from their mixture
        :math:`m = \beta q + (1 - \beta) p`: :math:`\beta\, \mathrm{KL}(q \,\|\, m) + (1 - \beta)\, \mathrm{KL}(p \,\|\, m)`.
    beta : float, default 0.5
        The teacher's share of that mixture, in (0, 1).
    axis, sample_weight, dtype
        As in `cross_entropy`; ``dtype="bfloat16"`` means both.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the number of rows (PyTorch's ``kl_div(reduction="batchmean")``), or by the sum of their weights.
    return_grad, return_teacher_grad, grad_output, out, grad_out
        As in `cross_entropy`; the gradient is the student's, :math:`T (p - q)`: exactly 0 where the two rows are equal.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `student_logits` without the class axis
        In the dtype of the computation. A class masked (``-inf``) in the teacher adds nothing, one masked in the student
        alone makes the row ``inf``.
    grad : ndarray, shape of `student_logits`
        With `return_grad`; of the dtype of `student_logits`, float64 for integers.
    teacher_grad : ndarray, shape of `teacher_logits`
        With `return_teacher_grad`: that with respect to the teacher's logits, of their dtype.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`.

    References
    ----------
    G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import numpy as np, xent
    >>> student, teacher = np.array([[1.0, 2.0, 3.0]]), np.array([[3.0, 2.0, 1.0]])
    >>> round(float(xent.distillation_loss(student, teacher)), 6)
    1.150421
    >>> float(xent.distillation_loss(student, student, temperature=4.0))
    0.0
    """
    if unknown:
        raise unknown_keyword(distillation_loss, unknown)
    plain = isinstance(divergence, str) and divergence == "forward_kl"
    if return_teacher_grad is not False and flag(return_teacher_grad, "return_teacher_grad"):
        plain = False
    if not plain or type(beta) is not float or not 0 < beta < 1:
        from xent import _divergence

        return _divergence.distillation(
            student_logits,
            teacher_logits,
            divergence=divergence,
            beta=beta,
            temperature=temperature,
            axis=axis,
            sample_weight=sample_weight,
            reduction=reduction,
            return_grad=return_grad,
            return_teacher_grad=return_teacher_grad,
            grad_output=grad_output,
            out=out,
            grad_out=grad_out,
            dtype=dtype,
        )
    return _functions.softmax_loss(
        "distillation_loss",
        student_logits,
        teacher_logits,
        axis,
        sample_weight=sample_weight,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
    )


@named
def kl_div(
    log_probs: ArrayLike,
    targets: ArrayLike,
    *,
    log_target: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "batchmean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: NDArray[Any] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, Array]:
    r"""Kullback-Leibler divergence of log-probabilities from targets, element by element.

    .. math:: \ell = t\, (\log t - x) \qquad \text{or, with log-targets,} \qquad \ell = e^t\, (t - x)

    and 0 where the target probability is 0; the gradient is -t or :math:`-e^t`. Only the sum over a distribution, not
    an element, is certain to be positive.

    Parameters
    ----------
    log_probs : array_like, any shape
        Log-probabilities of any floating dtype; float16 and bfloat16 are computed in float32.
    targets : array_like of the same shape
        Probabilities, or their logarithms, of any real dtype, bool included.
    log_target : bool, default False
        Whether `targets` are logarithms.
    sample_weight : array_like, optional
        Weight of each element, broadcast to the shape of `log_probs`. An element of weight 0 does not count, even
        if it is NaN; one of weight 2 counts twice.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; the mean of nothing is NaN, its
        gradient zero. "batchmean" divides the sum by
        ``log_probs.shape[0]``: the divergence of a batch of distributions.
    return_grad : bool, default False
        Whether to return the gradient of ``sum(grad_output * loss)`` with respect to `log_probs`, too.
    grad_output : array_like, optional
        Upstream gradient: a scalar, or of the loss's shape for reduction "none".
    out, grad_out : numpy.ndarray, optional
        Where to write the results; `grad_out` may be the memory of `log_probs`.
    dtype : "bfloat16", optional
        Reads uint16 input as the bits of bfloat16.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `log_probs`
        An array for reduction "none"; float64 for float64, integers and bool, else float32.
    grad : ndarray, shape of `log_probs`
        With `return_grad`; of the dtype of `log_probs`, float64 for integers. Elements below the smallest normal one are 0.

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
    if unknown:
        raise unknown_keyword(kl_div, unknown)
    return _functions.elementwise_loss(
        "kl_div",
        log_probs,
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
        log_target=log_target,
    )
