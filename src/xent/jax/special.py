"""log-sum-exp, softmax and log-softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent._keywords import named, unknown_keyword
from xent.jax._functions import softmax_family

if TYPE_CHECKING:
    import jax

    from xent._typing import ArrayLike, Never

__all__ = ["log_softmax", "logsumexp", "softmax"]


@named
def logsumexp(
    a: ArrayLike | jax.Array,
    axis: int | tuple[int, ...] | None = None,
    *,
    keepdims: bool = False,
    **unknown: Never,
) -> jax.Array:
    r"""Logarithm of a sum of exponentials: `xent.logsumexp` for JAX, without factors.

    Parameters
    ----------
    a : jax.Array
        As the logits of `cross_entropy`.
    axis : None, int or tuple of ints, default None
        The axes to sum over; None is all.
    keepdims : bool, default False
        Leave the axes summed over as axes of size 1.

    Returns
    -------
    result : jax.Array
        Of the dtype of `a`, as `xent.logsumexp` has it.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.logsumexp(jnp.array([1000.0, 1000.0])))
    1000.69316
    """
    if unknown:
        raise unknown_keyword(logsumexp, unknown)
    return softmax_family("logsumexp", a, axis, keepdims)


@named
def softmax(
    x: ArrayLike | jax.Array,
    axis: int | tuple[int, ...] | None = None,
    **unknown: Never,
) -> jax.Array:
    r"""Probabilities proportional to exponentials: `xent.softmax` for JAX.

    Parameters
    ----------
    x : jax.Array
        As the logits of `cross_entropy`.
    axis : None, int or tuple of ints, default None
        The axes that sum to 1; None is all.

    Returns
    -------
    p : jax.Array, shape of `x`
        Of the dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.softmax(jnp.log(jnp.array([1.0, 3.0]))))
    [0.25 0.75]
    """
    if unknown:
        raise unknown_keyword(softmax, unknown)
    return softmax_family("softmax", x, axis)


@named
def log_softmax(
    x: ArrayLike | jax.Array,
    axis: int | tuple[int, ...] | None = None,
    **unknown: Never,
) -> jax.Array:
    r"""Logarithm of the softmax: `xent.log_softmax` for JAX.

    Parameters
    ----------
    x : jax.Array
        As the logits of `cross_entropy`.
    axis : None, int or tuple of ints, default None
        The axes whose probabilities sum to 1; None is all.

    Returns
    -------
    log_p : jax.Array, shape of `x`
        Of the dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Examples
    --------
    >>> import xent.jax
    >>> from jax import numpy as jnp
    >>> print(xent.jax.log_softmax(jnp.array([0.0, 1000.0])))
    [-1000.     0.]
    """
    if unknown:
        raise unknown_keyword(log_softmax, unknown)
    return softmax_family("log_softmax", x, axis)
