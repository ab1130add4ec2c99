"""log-sum-exp, softmax and log-softmax, with SciPy's signatures and results."""

from __future__ import annotations

from xent import _functions
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Array, ArrayLike, Never, Scalar

__all__ = ["log_softmax", "logsumexp", "softmax"]


@named
def logsumexp(
    a: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    out: Array | None = None,
    **unknown: Never,
) -> Scalar | tuple[Scalar, Scalar] | Array | tuple[Array, Array]:
    r"""Logarithm of a sum of exponentials, :math:`\log \sum_c b_c e^{a_c}`, without overflow.

    Parameters
    ----------
    a : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
    axis : None, int or tuple of ints, default None
        The axes to sum over; None is all.
    b : array_like, optional
        Factors of the exponentials, broadcastable to `a`; 0 leaves an element out, negative ones subtract. With factors the
        sum is computed in float64, block by block.
    keepdims : bool, default False
        Leave the axes summed over as axes of size 1.
    return_sign : bool, default False
        Also return the sign of the sum; without it a negative sum gives NaN.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly.

    Returns
    -------
    result : ndarray, or scalar where every axis is summed over
        ``-inf`` where nothing, or only ``-inf``, is summed; ``inf`` where ``inf`` is; NaN where NaN is.
    sign : ndarray or scalar, shape of `result`
        With `return_sign`: 1, 0 or -1, of the same dtype.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Computed as ``m + log1p(rest)``, with m the maximum and rest the sum of ``exp(a - m)`` over all elements but one that
    attains it (Blanchard, Higham & Higham, IMA J. Numer. Anal. 41, 2021). Semantics: `scipy.special.logsumexp`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> round(float(xent.logsumexp([1000.0, 1000.0])), 9)
    1000.693147181
    >>> xent.logsumexp(np.array([[0.0, 0.0], [-np.inf, 5.0]]), axis=1).round(6)
    array([0.693147, 5.      ])
    """
    if unknown:
        raise unknown_keyword(logsumexp, unknown)
    return _functions.logsumexp(a, axis, b, keepdims, return_sign, out)


@named
def softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    out: Array | None = None,
    **unknown: Never,
) -> Array:
    r"""Probabilities proportional to exponentials, :math:`p_c = e^{x_c} / \sum_k e^{x_k}`.

    Parameters
    ----------
    x : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
        ``-inf`` masks an element.
    axis : None, int or tuple of ints, default None
        The axes that sum to 1; None is all.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    p : ndarray, shape of `x`
        NaN in a slice that holds NaN, ``inf``, or nothing but ``-inf``.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Probabilities below the smallest normal number are 0. Semantics: `scipy.special.softmax`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.softmax([[0.0, 0.0], [0.0, np.log(3.0)]], axis=1)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    if unknown:
        raise unknown_keyword(softmax, unknown)
    return _functions.softmax_family("softmax", x, axis, out)


@named
def log_softmax(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    *,
    out: Array | None = None,
    **unknown: Never,
) -> Array:
    r"""Logarithm of the softmax, :math:`x_c - \log \sum_k e^{x_k}`.

    Parameters
    ----------
    x : array_like
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
        ``-inf`` masks an element.
    axis : None, int or tuple of ints, default None
        The axes whose probabilities sum to 1; None is all.
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    log_p : ndarray, shape of `x`
        NaN in a slice that holds NaN, or nothing but ``-inf``; beside ``inf``, whose own is NaN, ``-inf``.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Computed as ``(x - m) - log1p(rest)`` (see `logsumexp`). Semantics: `scipy.special.log_softmax`.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.log_softmax(np.array([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    if unknown:
        raise unknown_keyword(log_softmax, unknown)
    return _functions.softmax_family("log_softmax", x, axis, out)
