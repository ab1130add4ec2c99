"""Losses of logits, of probabilities and of their logarithms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent._keywords import named, unknown_keyword
from xent.jax._functions import elementwise_loss, softmax_loss

if TYPE_CHECKING:
    import jax

    from xent._typing import ArrayLike, Literal, Never

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "distillation_loss",
    "entropy",
    "focal_loss",
    "kl_div",
    "nll_loss",
    "poly1_loss",
    "sigmoid_focal_loss",
]


@named
def cross_entropy(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    axis: int = -1,
    class_weight: ArrayLike | jax.Array | None = None,
    sample_weight: ArrayLike | jax.Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    class_bias: ArrayLike | jax.Array | None = None,
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Softmax cross-entropy of logits against class indices or class probabilities: `xent.cross_entropy` for JAX.

    Parameters
    ----------
    logits : jax.Array, shape (..., C, ...)
        float16 and bfloat16 (computed in float32), float32, float64; integers and bools become JAX's default float. ``-inf``
        masks a class. The loss is differentiable with respect to them.
    targets : jax.Array
        Class indices: the shape of `logits` without the class axis, any integer or bool dtype. Or class probabilities: the
        shape of `logits`.
    axis : int, default -1
        The class axis.
    class_weight : jax.Array, shape (C,), optional
        Weight of each class.
    sample_weight : jax.Array, optional
        Weight of each row, broadcastable to the loss.
    ignore_index : int or None, default -100
        Rows with this target do not count. ``None``: no target is ignored.
    label_smoothing, z_loss, softcap, temperature : float
        As in `xent.cross_entropy`; numbers of Python's, which a compiled program has as constants.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over class indices divides by the sum of the weights (class times sample) of the rows that count; over class
        probabilities by the sum of the sample weights. The mean of nothing is NaN.
    class_bias : jax.Array, shape (C,), optional
        Added to the logits before the cap, as a constant; a bias that is learned is added in JAX.
    donate_logits : bool, default False
        Whether the gradient is written over the logits, which takes half the memory and no time to find it. For logits that
        nothing else uses, such as those of a model's last layer or an argument that jit is told to donate; XLA copies any
        other first.

    Returns
    -------
    loss : jax.Array
        A scalar, or with reduction "none" of the shape of `logits` without the class axis; float64 for float64, float32 for
        all other.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`. Where targets are not known until the compiled program runs, it fails
        with the same text, as JAX reports errors of XLA.
    TypeError, ValueError
        An argument is not what is accepted; the message names it.
    NotImplementedError
        The derivative with respect to another argument than `logits` is asked for.

    Notes
    -----
    The formulas are those of `xent.cross_entropy`, and so are the bits. Under ``jax.grad`` the mean and the sum of float32
    and float64 write their gradient in the same pass over the logits; others compute it in a pass of its own, times the
    upstream gradient and rounded once.

    Examples
    --------
    >>> import jax, xent.jax
    >>> from jax import numpy as jnp
    >>> logits, targets = jnp.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), jnp.array([0, 2])
    >>> loss, grad = jax.jit(jax.value_and_grad(xent.jax.cross_entropy))(logits, targets)
    >>> print(loss.round(5), grad.round(3))
    1.28873 [[-0.167  0.122  0.045]
     [ 0.021  0.422 -0.443]]
    """
    if unknown:
        raise unknown_keyword(cross_entropy, unknown)
    return softmax_loss(
        "cross_entropy",
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
        class_bias=class_bias,
        donate_logits=donate_logits,
    )


@named
def focal_loss(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    gamma: float = 2.0,
    axis: int = -1,
    class_weight: ArrayLike | jax.Array | None = None,
    sample_weight: ArrayLike | jax.Array | None = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Focal loss over classes: `xent.focal_loss` for JAX.

    .. math:: \ell = w_y\, (1 - p_y)^\gamma\, (-\log p_y), \qquad p = \mathrm{softmax}(z)

    Parameters
    ----------
    logits, axis, class_weight, sample_weight, ignore_index, z_loss, softcap, temperature, reduction, donate_logits
        As in `cross_entropy`; the mean divides by the sum of the weights.
    targets : jax.Array of integers
        Class indices: the shape of `logits` without the class axis.
    gamma : float, default 2.0
        Exponent of the weight (1 - p) of a row; 0 is cross-entropy.

    Returns
    -------
    loss : jax.Array
        As `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError, NotImplementedError
        As `cross_entropy`; class probabilities are a TypeError.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.focal_loss(jnp.array([[2.0, 0.0]]), jnp.array([0])).round(5))
    0.0018
    """
    if unknown:
        raise unknown_keyword(focal_loss, unknown)
    return softmax_loss(
        "focal_loss",
        logits,
        targets,
        gamma=gamma,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def poly1_loss(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    epsilon: float = 2.0,
    axis: int = -1,
    class_weight: ArrayLike | jax.Array | None = None,
    sample_weight: ArrayLike | jax.Array | None = None,
    ignore_index: int | None = -100,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Poly-1 loss: `xent.poly1_loss` for JAX.

    .. math:: \ell = w_y \left( -\log p_y + \epsilon\, (1 - p_y) \right), \qquad p = \mathrm{softmax}(z)

    Parameters
    ----------
    logits, axis, class_weight, sample_weight, ignore_index, z_loss, softcap, temperature, reduction, donate_logits
        As in `cross_entropy`; the mean divides by the sum of the weights.
    targets : jax.Array of integers
        Class indices: the shape of `logits` without the class axis.
    epsilon : float, default 2.0
        Added to the coefficient of 1 - p; 0 is cross-entropy.

    Returns
    -------
    loss : jax.Array
        As `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError, NotImplementedError
        As `cross_entropy`; class probabilities are a TypeError.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.poly1_loss(jnp.array([[2.0, 0.0]]), jnp.array([0])).round(5))
    0.36533
    """
    if unknown:
        raise unknown_keyword(poly1_loss, unknown)
    return softmax_loss(
        "poly1_loss",
        logits,
        targets,
        epsilon=epsilon,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def nll_loss(
    log_probs: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    axis: int = -1,
    class_weight: ArrayLike | jax.Array | None = None,
    sample_weight: ArrayLike | jax.Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Negative log-likelihood of log-probabilities: `xent.nll_loss` for JAX.

    Parameters
    ----------
    log_probs : jax.Array, shape (..., C, ...)
        Logarithms of probabilities, taken as they are.
    targets, axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, donate_logits
        As in `cross_entropy`.

    Returns
    -------
    loss : jax.Array
        As `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> log_probs = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    >>> print(xent.jax.nll_loss(log_probs, jnp.array([0, 1]), reduction="none").round(5))
    [0.69315 0.22314]
    """
    if unknown:
        raise unknown_keyword(nll_loss, unknown)
    return softmax_loss(
        "nll_loss",
        log_probs,
        targets,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def categorical_cross_entropy(
    probs: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    eps: float | None = None,
    axis: int = -1,
    class_weight: ArrayLike | jax.Array | None = None,
    sample_weight: ArrayLike | jax.Array | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Cross-entropy of probabilities, used as they are: `xent.categorical_cross_entropy` for JAX.

    Parameters
    ----------
    probs : jax.Array, shape (..., C, ...)
        Probabilities in [0, 1], which need not sum to 1.
    eps : float, optional
        p and 1 - p are clipped at eps, as in `xent.categorical_cross_entropy`.
    targets, axis, class_weight, sample_weight, ignore_index, label_smoothing, reduction, donate_logits
        As in `cross_entropy`.

    Returns
    -------
    loss : jax.Array
        As `cross_entropy`.

    Raises
    ------
    IndexError, TypeError, ValueError, NotImplementedError
        As `cross_entropy`. A number that is read, in a row that counts, and outside [0, 1] is found where the program runs,
        which fails with the text of xent's ValueError.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> probs = jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    >>> print(xent.jax.categorical_cross_entropy(probs, jnp.array([0, 1]), reduction="none").round(5))
    [0.69315 0.22314]
    """
    if unknown:
        raise unknown_keyword(categorical_cross_entropy, unknown)
    return softmax_loss(
        "categorical_cross_entropy",
        probs,
        targets,
        eps=eps,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def distillation_loss(
    student_logits: ArrayLike | jax.Array,
    teacher_logits: ArrayLike | jax.Array,
    *,
    temperature: float = 1.0,
    axis: int = -1,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Divergence of a student's softmax from its teacher's, both at a temperature: `xent.distillation_loss` for JAX.

    .. math:: \ell = T^2\, \mathrm{KL}(\mathrm{softmax}(z'/T) \,\|\, \mathrm{softmax}(z/T))

    Parameters
    ----------
    student_logits : jax.Array, shape (..., C, ...)
        The logits z, by which the loss is differentiable.
    teacher_logits : jax.Array, shape of `student_logits`
        The logits z'. If the dtypes differ, both are computed in the one that JAX promotes them to.
    temperature : float, default 1.0
        T > 0.
    axis, sample_weight, reduction, donate_logits
        As in `cross_entropy`; the mean divides by the number of rows, or by the sum of their weights.

    Returns
    -------
    loss : jax.Array
        As `cross_entropy`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]])
    >>> print(xent.jax.distillation_loss(student, teacher).round(5))
    1.15042
    """
    if unknown:
        raise unknown_keyword(distillation_loss, unknown)
    return softmax_loss(
        "distillation_loss",
        student_logits,
        teacher_logits,
        temperature=temperature,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def entropy(
    logits: ArrayLike | jax.Array,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | jax.Array | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["none", "sum", "mean"] = "none",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Entropy of the softmax of each row, in nats: `xent.entropy` for JAX.

    .. math:: H = -\sum_c p_c \log p_c, \qquad p = \mathrm{softmax}(z)

    Parameters
    ----------
    logits, axis, sample_weight, softcap, temperature, donate_logits
        As in `cross_entropy`.
    reduction : {"none", "sum", "mean"}, default "none"
        The mean divides by the number of rows, or by the sum of their weights.

    Returns
    -------
    entropy : jax.Array
        As the loss of `cross_entropy`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.entropy(jnp.zeros((1, 4))).round(5))
    [1.38629]
    """
    if unknown:
        raise unknown_keyword(entropy, unknown)
    return softmax_loss(
        "entropy",
        logits,
        None,
        axis=axis,
        sample_weight=sample_weight,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def binary_cross_entropy(
    probs: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    eps: float | None = None,
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Binary cross-entropy of probabilities, element by element: `xent.binary_cross_entropy` for JAX.

    Parameters
    ----------
    probs : jax.Array, any shape
        Probabilities in [0, 1].
    eps : float, optional
        p and 1 - p are clipped at eps, as in `xent.binary_cross_entropy`; else each logarithm is at least -100.
    targets, label_smoothing, sample_weight, reduction, donate_logits
        As in `binary_cross_entropy_with_logits`; targets are in [0, 1].

    Returns
    -------
    loss : jax.Array
        As `binary_cross_entropy_with_logits`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`. A probability or a target outside [0, 1], of an element that counts, is found where the program
        runs, which fails with the text of xent's ValueError.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.binary_cross_entropy(jnp.array([0.8, 0.4]), jnp.array([1.0, 0.0])).round(5))
    0.36698
    """
    if unknown:
        raise unknown_keyword(binary_cross_entropy, unknown)
    return elementwise_loss(
        "binary_cross_entropy",
        probs,
        targets,
        eps=eps,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def binary_cross_entropy_with_logits(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    pos_weight: ArrayLike | jax.Array | None = None,
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Binary cross-entropy of logits, element by element: `xent.binary_cross_entropy_with_logits` for JAX.

    Parameters
    ----------
    logits : jax.Array, any shape
        As in `cross_entropy`.
    targets : jax.Array
        Probabilities of the positive class, broadcastable to `logits`.
    pos_weight, sample_weight : jax.Array, optional
        Weight of the positive class, and of each element, broadcastable to `logits`.
    label_smoothing : float, default 0.0
        e in [0, 1]: targets become t (1 - e) + e / 2.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements.
    donate_logits : bool, default False
        As in `cross_entropy`.

    Returns
    -------
    loss : jax.Array
        A scalar, or with reduction "none" of the shape of `logits`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> logits, targets = jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])
    >>> print(xent.jax.binary_cross_entropy_with_logits(logits, targets).round(5))
    0.72009
    """
    if unknown:
        raise unknown_keyword(binary_cross_entropy_with_logits, unknown)
    return elementwise_loss(
        "binary_cross_entropy_with_logits",
        logits,
        targets,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def sigmoid_focal_loss(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Focal loss of logits, element by element: `xent.sigmoid_focal_loss` for JAX.

    Parameters
    ----------
    logits, targets, sample_weight, reduction, donate_logits
        As in `binary_cross_entropy_with_logits`.
    alpha : float or None, default 0.25
        Weight of positive elements; that of negative ones is 1 - alpha. None weights all alike.
    gamma : float, default 2.0
        Exponent of the weight of an element.

    Returns
    -------
    loss : jax.Array
        As `binary_cross_entropy_with_logits`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> logits, targets = jnp.array([4.0, 0.5]), jnp.array([1.0, 1.0])
    >>> print(xent.jax.sigmoid_focal_loss(logits, targets, gamma=1.0).round(5))
    0.02243
    """
    if unknown:
        raise unknown_keyword(sigmoid_focal_loss, unknown)
    return elementwise_loss(
        "sigmoid_focal_loss",
        logits,
        targets,
        alpha=alpha,
        gamma=gamma,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def asymmetric_loss(
    logits: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Asymmetric loss of logits, element by element: `xent.asymmetric_loss` for JAX.

    .. math:: \ell = -t\, (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m), \qquad
        p = \sigma(z), \quad p_m = \max(p - c, 0)

    Parameters
    ----------
    logits, targets, sample_weight, reduction, donate_logits
        As in `binary_cross_entropy_with_logits`.
    gamma_neg, gamma_pos : float, defaults 4.0 and 1.0
        Exponents of negative and of positive elements.
    clip : float, default 0.05
        The margin c in [0, 1).

    Returns
    -------
    loss : jax.Array
        As `binary_cross_entropy_with_logits`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> logits, targets = jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0])
    >>> print(xent.jax.asymmetric_loss(logits, targets, reduction="none").round(5))
    [0.01513 0.84641]
    """
    if unknown:
        raise unknown_keyword(asymmetric_loss, unknown)
    return elementwise_loss(
        "asymmetric_loss",
        logits,
        targets,
        gamma=gamma_pos,
        gamma_neg=gamma_neg,
        clip=clip,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )


@named
def kl_div(
    log_probs: ArrayLike | jax.Array,
    targets: ArrayLike | jax.Array,
    *,
    log_target: bool = False,
    sample_weight: ArrayLike | jax.Array | None = None,
    reduction: Literal["mean", "batchmean", "sum", "none"] = "mean",
    donate_logits: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Kullback-Leibler divergence of log-probabilities from targets, element by element: `xent.kl_div` for JAX.

    .. math:: \ell = t\, (\log t - x) \qquad \text{or, with log-targets,} \qquad \ell = e^t\, (t - x)

    Parameters
    ----------
    log_probs : jax.Array, any shape
        Logarithms of probabilities.
    targets : jax.Array
        Probabilities, or their logarithms, broadcastable to `log_probs`.
    log_target : bool, default False
        Whether `targets` are logarithms.
    sample_weight, donate_logits
        As in `binary_cross_entropy_with_logits`.
    reduction : {"mean", "batchmean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights, or the number of elements; "batchmean" divides the sum by
        ``log_probs.shape[0]``.

    Returns
    -------
    loss : jax.Array
        As `binary_cross_entropy_with_logits`.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As `cross_entropy`.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> log_probs, targets = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.full((2, 2), 0.5)
    >>> print(xent.jax.kl_div(log_probs, targets, reduction="batchmean").round(5))
    0.07192
    """
    if unknown:
        raise unknown_keyword(kl_div, unknown)
    return elementwise_loss(
        "kl_div",
        log_probs,
        targets,
        log_target=log_target,
        sample_weight=sample_weight,
        reduction=reduction,
        donate_logits=donate_logits,
    )
