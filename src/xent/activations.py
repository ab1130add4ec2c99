"""The sigmoid and its logarithm, element by element."""

from __future__ import annotations

from xent import _functions
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Array, ArrayLike, Never

__all__ = ["log_sigmoid", "sigmoid"]


@named
def sigmoid(x: ArrayLike, *, out: Array | None = None, **unknown: Never) -> Array:
    r"""Sigmoid :math:`\sigma(x) = 1 / (1 + e^{-x})`, the probability whose logit is x.

    Parameters
    ----------
    x : array_like, any shape
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    p : ndarray, shape of `x`
        Of the dtype of `x`, float64 for integers: 0 at ``-inf``, 1 at ``inf``, NaN at NaN. What is below the smallest normal
        number of the computation is 0.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Computed from ``exp(-abs(x))``, which never overflows: as ``e / (1 + e)`` where x is negative, so that small
    probabilities keep all their digits.

    References
    ----------
    SciPy, `scipy.special.expit`; PyTorch, ``torch.sigmoid``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.sigmoid(np.array([-np.inf, -1000.0, 0.0, np.log(3.0), np.inf]))
    array([0.  , 0.  , 0.5 , 0.75, 1.  ])
    """
    if unknown:
        raise unknown_keyword(sigmoid, unknown)
    return _functions.sigmoid_family(x, out, False)


@named
def log_sigmoid(x: ArrayLike, *, out: Array | None = None, **unknown: Never) -> Array:
    r"""Logarithm of the sigmoid, :math:`\log \sigma(x) = \min(x, 0) - \log(1 + e^{-|x|})`.

    Parameters
    ----------
    x : array_like, any shape
        float16 and bfloat16 (computed in float32), float32, float64, integers and bools (computed in float64).
    out : ndarray, optional
        Where to write the result: its shape and dtype exactly. May be exactly the memory of `x`.

    Returns
    -------
    log_p : ndarray, shape of `x`
        Of the dtype of `x`, float64 for integers: ``-inf`` at ``-inf``, 0 at ``inf``, NaN at NaN.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    Nothing overflows or cancels: where x is large the result is ``-exp(-x)`` with all its digits, as long as that is a
    normal number of the computation, and 0 beyond.

    References
    ----------
    SciPy, `scipy.special.log_expit`; PyTorch, ``torch.nn.functional.logsigmoid``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.log_sigmoid(np.array([-1000.0, 0.0, 40.0]))
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    if unknown:
        raise unknown_keyword(log_sigmoid, unknown)
    return _functions.sigmoid_family(x, out, True)
