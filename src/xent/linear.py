"""Cross-entropy of a linear layer: the last layer of a language model and its loss, without the logits."""

from __future__ import annotations

from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, Array, ArrayLike, Literal, Loss, NDArray, Never

__all__ = ["linear_cross_entropy"]


@named
def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    grad_out: tuple[NDArray[Any] | None, ...] | None = None,
    dtype: Literal["bfloat16"] | None = None,
    return_temperature_grad: bool = False,
    **unknown: Never,
) -> Loss | tuple[Loss, tuple[Array, Array]] | tuple[Loss, tuple[Array, Array, Array]]:
    r"""Softmax cross-entropy of a linear layer's output, whose logits are never all in memory.

    .. math:: z = h W^{\mathsf T} + b, \qquad \ell = \mathrm{cross\_entropy}(z, y), \qquad
        \frac{\partial \ell}{\partial h} = g W, \quad \frac{\partial \ell}{\partial W} = g^{\mathsf T} h, \quad
        \frac{\partial \ell}{\partial b} = \sum_n g_n, \quad g = \frac{\partial \ell}{\partial z}

    Blocks of rows are computed one after the other: the logits, then their loss and gradient g, then the products of g. For
    the loss alone, and of rows that are one block, the logits of a block exist a shard of the classes at a time.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The input of the layer, one row for each loss: float16, bfloat16, float32, float64, integers or bools.
    weight : array_like, shape (C, D)
        For each class the weights of the features, as in PyTorch.
    targets : array_like
        Class indices: the shape of `hidden` without its last axis, any integer or bool dtype. Or class probabilities:
        shape (..., C), any real dtype.
    bias : array_like, shape (C,), optional
        Added to the logits of every row.
    class_weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, temperature
        As in `cross_entropy`. Whatever `hidden` holds in rows that do not count changes nothing, and they cost no product
        but where the loss alone is wanted of at most 65,536 logits.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`.
    return_grad : bool, default False
        Also return the gradients with respect to `hidden`, `weight` and `bias`.
    grad_output : array_like, optional
        Upstream gradient: a scalar for "mean" and "sum", the shape of the loss for "none".
    out : ndarray, optional
        Where to write the loss.
    grad_out : tuple of ndarray or None, optional
        Where to write the gradients, in the order in which they are returned; None: into a new array. The first may be
        exactly the memory of `hidden`.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 `hidden`, `weight` and `bias` as the bits of bfloat16 numbers; their gradients come in
        the same form.

    return_temperature_grad : bool, default False
        Append the derivative of the loss with respect to `temperature`; not with `softcap`.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of the shape of `hidden` without its last axis
        In float64 if `hidden`, `weight` or `bias` are float64 or integers, else in float32. That is what everything is
        computed in; half types are converted a part at a time.
    grad : tuple of ndarray
        With `return_grad`: ``(grad_hidden, grad_weight)``, or ``(grad_hidden, grad_weight, grad_bias)`` if a bias is
        given. Each has the shape and the floating dtype of what it is the gradient of, float64 for integers, and is
        rounded to it once.

    Raises
    ------
    IndexError
        A target is neither a class nor `ignore_index`; nothing has been written.
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Memory beyond the results of the loss alone: a shard of logits in the compute dtype, of 32 MiB, or 4 if `weight` is of a
    half type, or 1 MiB for each thread, up to 64; up to 2.4 KiB for each of 1,024 rows and 262,144 classes; a megabyte or
    two for slices of what is converted; up to 17 bytes a row.

    With gradients, where rows times 1,024 logits are no more than 16 MiB, these too are computed in shards. The logits are
    kept in the memory of the gradient of `weight`, which has room for as many rows as there are features (half as many of a
    half type), and in up to 60 MiB, all else included; up to a sixth is multiplied twice. 1,024 rows of 1,024 features and
    32,768 classes take 17 MB in float32, 63 MB in bfloat16. More rows are computed in blocks of 64 MiB of logits, or of 256
    rows if those are more; with the block's rows of `hidden` and of their gradient, and 20 MiB for slices of `weight` and
    of its gradient. If the gradient of `weight` has another dtype than is computed in and there is more than one block, it
    is summed in an array of its size in the compute dtype. `weight` is never converted as a whole, nor are class
    probabilities, of which a block may be.

    With a `weight` of a half type the three products are the library's own: computed in float32, on its threads, with the
    same bits on any machine and number of threads; a sum of n products a b is within (512 + n / 512) 2⁻²⁴ Σ|a b|. Else NumPy
    has BLAS compute them, on threads of its own, and `set_num_threads` applies to the loss between them alone; the last bits
    of BLAS depend on machine, threads and size, and so do those of the results.

    The idea is that of Liger [1]_ and of Cut Cross-Entropy [2]_, which recomputes the logits instead of going by rows.

    References
    ----------
    .. [1] P.-L. Hsu et al., "Liger Kernel: Efficient Triton kernels for LLM training", arXiv:2410.10989 (2024).
    .. [2] E. Wijmans et al., "Cut your losses in large-vocabulary language models", arXiv:2411.09009 (2024).

    Examples
    --------
    >>> import numpy as np, xent
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[2.0, 0.0], [1.0, 1.5], [0.0, 0.5]])
    >>> loss, (grad_hidden, grad_weight) = xent.linear_cross_entropy(hidden, weight, [0, 2], return_grad=True)
    >>> loss == xent.cross_entropy(hidden @ weight.T, [0, 2])
    np.True_
    >>> grad_hidden.round(3)
    array([[-0.212,  0.206],
           [ 0.464,  0.411]])
    >>> grad_weight.round(3)
    array([[-0.167,  0.042],
           [ 0.122,  0.844],
           [ 0.045, -0.886]])
    """
    if unknown:
        raise unknown_keyword(linear_cross_entropy, unknown)
    from xent._arguments import flag
    from xent._linear import linear_loss, with_temperature_grad

    with_temperature = flag(return_temperature_grad, "return_temperature_grad")
    compute = with_temperature_grad if with_temperature else linear_loss
    return compute(
        hidden,
        weight,
        targets,
        bias=bias,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        grad_out=grad_out,
        dtype=dtype,
    )
