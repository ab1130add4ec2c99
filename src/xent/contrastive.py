"""Contrastive losses: which vectors of two sets belong together, from all similarities, of which there is never a matrix."""

from __future__ import annotations

from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Array, ArrayLike, Literal, Loss, Never, Scalar

__all__ = ["info_nce", "sigmoid_contrastive_loss"]


@named
def info_nce(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    targets: ArrayLike | None = None,
    temperature: float = 0.07,
    symmetric: bool = False,
    normalize: bool = False,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    return_temperature_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> (
    Loss
    | tuple[Loss, Scalar]
    | tuple[Loss, tuple[Array, Array]]
    | tuple[Loss, tuple[Array, Array], Scalar]
):
    r"""InfoNCE: cross-entropy of each query's similarities to all keys; with `symmetric` the loss of CLIP.

    .. math:: s = q k^{\mathsf T}, \qquad z = s / T, \qquad \ell_i = \log \sum_j e^{z_{ij}} - z_{i y_i}, \qquad
        \text{symmetric: } \ell_i = \tfrac{1}{2} \Big( \log \sum_j e^{z_{ij}} + \log \sum_j e^{z_{ji}} \Big) - z_{ii}

    .. math:: \frac{\partial \ell}{\partial q} = g k, \quad \frac{\partial \ell}{\partial k} = g^{\mathsf T} q, \quad
        \frac{\partial \ell}{\partial T} = -\frac{1}{T} \sum_{ij} g_{ij} s_{ij}, \quad
        g = \frac{\partial \ell}{\partial s}

    Parameters
    ----------
    queries : array_like, shape (N, D)
        One vector for each loss: float16, bfloat16, float32, float64, integers or bools.
    keys : array_like, shape (M, D)
        What queries are compared with. Keys that no query has as its target are negatives of all.
    targets : array_like, shape (N,), optional
        For each query the number of its key, any integer or bool dtype. By default query i belongs to key i, for which there
        must be as many keys as queries, or more.
    temperature : float, default 0.07
        T > 0 divides the similarities.
    symmetric : bool, default False
        The mean of the losses of query i among the keys and of key i among the queries; as many keys as queries, and neither
        `targets` nor `ignore_index`.
    normalize : bool, default False
        Divide every vector by its 2-norm first, so that similarities are cosines; gradients are those of the vectors given.
        A zero vector stays zero, and its gradient is zero.
    sample_weight : array_like, optional
        Weight of each query, or pair: broadcast to (N,). In the mean, weights divide as in `cross_entropy`. Without
        `symmetric`, whatever queries of weight 0 hold changes nothing; with it they are negatives of the keys.
    ignore_index : int or None, default -100
        Queries with this target do not count, as those of weight 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`; "none": one loss for each query, or pair.
    return_grad : bool, default False
        Also return the gradients with respect to `queries` and `keys`.
    return_temperature_grad : bool, default False
        Also return the derivative with respect to `temperature`, a scalar: for reduction "none" that of
        ``sum(grad_output * loss)``.
    grad_output : array_like, optional
        Upstream gradient: a scalar for "mean" and "sum", the shape of the loss for "none".
    out : ndarray, optional
        Where to write the loss.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 `queries` and `keys` as the bits of bfloat16 numbers; their gradients come in the same
        form.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of shape (N,)
        In float64 if `queries` or `keys` are float64 or integers, else in float32. That is what everything is computed in;
        of two dtypes the narrower one is converted, a part at a time.
    grad : tuple of ndarray
        With `return_grad`: ``(grad_queries, grad_keys)``, each of the shape and the floating dtype of what it is the
        gradient of, float64 for integers, rounded to it once.
    temperature_grad : float32 or float64 scalar
        With `return_temperature_grad`, behind the gradients if they are returned.

    Raises
    ------
    IndexError
        A target is neither a key nor `ignore_index`; the message names its row, and nothing has been written.
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Blocks of rows are computed one after the other, as in `linear_cross_entropy`. The symmetric loss has two passes: the
    sums of the columns of a block, a shard of their classes, are merged with those before it, and once all are known the
    products are computed again, for both gradients together.

    Memory beyond inputs and gradients: in one direction, for the loss alone or of rows that are one block, that of
    `linear_cross_entropy`. Else a block of similarities in the compute dtype, of 32 MiB or of 256 rows if those are more;
    the block's queries and their gradient; 12 MiB for slabs of a block and slices of keys; with `symmetric` up to 1.5 KiB
    for each pair; with `normalize` the divided vectors. Gradients of another dtype than is computed in have sums of
    their size in the compute dtype.

    The gradient of the keys and the derivative by the temperature are sums over queries. Inside a block the first is a
    product of BLAS in the compute dtype, and blocks are added in it; the second is a sum of products of queries and their
    gradients, in float64 over queries and blocks. The last bits of BLAS depend on machine, threads and size, and so do those
    of the results. Keys of a half type that are not normalized are multiplied as `linear_cross_entropy` has it.

    References
    ----------
    .. [1] A. van den Oord, Y. Li and O. Vinyals, "Representation learning with contrastive predictive coding",
       arXiv:1807.03748 (2018).
    .. [2] A. Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021,
       arXiv:2103.00020.

    Examples
    --------
    >>> import numpy as np, xent
    >>> queries = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> keys = np.array([[2.0, 0.0], [1.0, 1.5], [0.0, 0.5]])
    >>> loss, (grad_queries, grad_keys) = xent.info_nce(queries, keys, temperature=1.0, return_grad=True)
    >>> loss == xent.cross_entropy(queries @ keys.T, [0, 1])
    np.True_
    >>> grad_keys.round(3)
    array([[-0.167,  0.042],
           [ 0.122, -0.156],
           [ 0.045,  0.114]])

    Images and texts, in both directions:

    >>> loss, temperature_grad = xent.info_nce(
    ...     queries, keys[:2], symmetric=True, normalize=True, return_temperature_grad=True
    ... )
    >>> round(float(loss), 6), round(float(temperature_grad), 6)
    (0.005144, 0.303641)
    """
    if unknown:
        raise unknown_keyword(info_nce, unknown)
    from xent._contrastive import info_nce_loss

    return info_nce_loss(
        queries,
        keys,
        targets=targets,
        temperature=temperature,
        symmetric=symmetric,
        normalize=normalize,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        return_grad=return_grad,
        return_temperature_grad=return_temperature_grad,
        grad_output=grad_output,
        out=out,
        dtype=dtype,
    )


@named
def sigmoid_contrastive_loss(
    a: ArrayLike,
    b: ArrayLike,
    *,
    logit_scale: float,
    logit_bias: float,
    normalize: bool = False,
    sample_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    return_grad: bool = False,
    grad_output: ArrayLike | None = None,
    out: Array | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Loss | tuple[Loss, tuple[Array, Array, Scalar, Scalar]]:
    r"""Loss of SigLIP: whether two vectors are a pair, a decision for every two of them.

    .. math:: x_{ij} = s\, a_i \cdot b_j + c, \qquad \ell_i = \sum_j \mathrm{softplus}(-y_{ij} x_{ij}), \qquad
        y_{ii} = 1, \quad y_{ij} = -1 \text{ otherwise}

    .. math:: \frac{\partial \ell}{\partial a} = s\, g b, \quad \frac{\partial \ell}{\partial b} = s\, g^{\mathsf T} a, \quad
        \frac{\partial \ell}{\partial s} = \sum_{ij} g_{ij}\, a_i \cdot b_j, \quad
        \frac{\partial \ell}{\partial c} = \sum_{ij} g_{ij}, \quad g_{ij} = -y_{ij}\, \sigma(-y_{ij} x_{ij})

    Parameters
    ----------
    a, b : array_like, shape (N, D)
        Vectors, of which those of the same number are pairs: float16, bfloat16, float32, float64, integers or bools.
    logit_scale, logit_bias : float
        s and c. The scale multiplies as it is given: where a model has its logarithm, give the exponential of that, and
        multiply its derivative by it.
    normalize : bool, default False
        Divide every vector by its 2-norm first, as in `info_nce`.
    sample_weight : array_like, optional
        Weight of each vector of `a`, the sum of whose decisions it multiplies: broadcast to (N,). Vectors of weight 0 cost
        no product, and whatever they hold changes nothing.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides the sum over all decisions by N, as the paper does, or by the sum of the weights; "none": the sums
        of rows, one for each vector of `a`. The mean of nothing is NaN, its gradients zero.
    return_grad : bool, default False
        Also return the gradients with respect to `a`, `b`, `logit_scale` and `logit_bias`.
    grad_output : array_like, optional
        Upstream gradient: a scalar for "mean" and "sum", the shape of the loss for "none".
    out : ndarray, optional
        Where to write the loss.
    dtype : {None, "bfloat16"}
        ``"bfloat16"`` reads uint16 `a` and `b` as the bits of bfloat16 numbers; their gradients come in the same form.

    Returns
    -------
    loss : float32 or float64 scalar, or ndarray of shape (N,)
        In float64 if `a` or `b` are float64 or integers, else in float32, which everything is computed in.
    grad : tuple
        With `return_grad`: ``(grad_a, grad_b, grad_scale, grad_bias)``, arrays of the shape and the floating dtype of what
        they are gradients of, float64 for integers, and two scalars.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Blocks of rows, and memory, are those of `info_nce`. Sums of rows, and the derivative by `logit_bias`, are sums in
    float64; that by `logit_scale` is one of products of vectors and their gradients, each in the compute dtype.

    References
    ----------
    .. [1] X. Zhai, B. Mustafa, A. Kolesnikov and L. Beyer, "Sigmoid loss for language image pre-training", ICCV 2023,
       arXiv:2303.15343.

    Examples
    --------
    >>> import numpy as np, xent
    >>> a = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> b = np.array([[2.0, 0.0], [1.0, 1.5]])
    >>> loss, (grad_a, grad_b, grad_scale, grad_bias) = xent.sigmoid_contrastive_loss(
    ...     a, b, logit_scale=1.0, logit_bias=-1.0, return_grad=True
    ... )
    >>> round(float(loss), 6)
    0.723299
    >>> grad_a.round(3)
    array([[-0.019,  0.375],
           [ 0.209, -0.089]])
    """
    if unknown:
        raise unknown_keyword(sigmoid_contrastive_loss, unknown)
    from xent._contrastive import sigmoid_loss

    return sigmoid_loss(
        a,
        b,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        normalize=normalize,
        sample_weight=sample_weight,
        reduction=reduction,
        return_grad=return_grad,
        grad_output=grad_output,
        out=out,
        dtype=dtype,
    )
