"""Class indices as class probabilities: one-hot and smoothed."""

from __future__ import annotations

import operator

import numpy as np

from xent import _arguments as arguments
from xent._keywords import named, unknown_keyword
from xent._request import bad_probability, bad_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, DTypeLike, NDArray, Never

__all__ = ["one_hot", "smooth_labels"]


def _classes(num_classes: Any) -> int:
    try:
        count = operator.index(num_classes)
    except TypeError:
        raise TypeError(
            f"num_classes: expected an integer >= 1, got {arguments.described(num_classes)}"
        ) from None
    if count < 1:
        raise ValueError(f"num_classes: expected an integer >= 1, got {count}")
    return count


def _indices(value: Any, name: str) -> NDArray[Any]:
    """Return an array of integers; an empty list has no dtype of its own."""
    found: NDArray[Any] = arguments.array(value, name)
    if found.size == 0 and not isinstance(value, np.ndarray):
        found = found.astype(np.int64)
    if found.dtype.kind not in "biu":
        cure = ""
        if found.dtype.kind == "f" and (found == np.rint(found)).all():
            cure = "; convert them with .astype(np.int64)"
        raise TypeError(f"{name}: dtype {found.dtype} is not accepted for class indices{cure}")
    return found


def _encoded(
    indices: NDArray[Any], name: str, classes: int, axis: int, dtype: Any, low: Any, high: Any
) -> NDArray[Any]:
    """Return `high` at the classes of the indices and `low` at the others."""
    bad = (indices < 0) | (indices >= classes)
    if bad.any():
        raise bad_target(indices, int(bad.argmax()), classes, None, name, "index")
    shape = [*indices.shape]
    shape.insert(axis, classes)
    try:
        result = np.zeros(shape, dtype)
    except ValueError:  # their bytes cannot be counted
        raise ValueError(
            f"{name}: shape {indices.shape} with {classes} classes is too large"
        ) from None
    if low != 0:
        result[...] = low
    np.put_along_axis(result, np.expand_dims(indices.astype(np.intp), axis), high, axis)
    return result


@named
def one_hot(
    indices: ArrayLike,
    num_classes: int,
    *,
    axis: int = -1,
    dtype: DTypeLike = np.float64,
    **unknown: Never,
) -> NDArray[Any]:
    r"""Class indices as rows of 0 and 1.

    Parameters
    ----------
    indices : array_like of integers, any shape
        Class indices in [0, num_classes), of any integer dtype or bool.
    num_classes : int
        C, at least 1.
    axis : int, default -1
        Where the axis of the classes is in the result.
    dtype : dtype, default float64
        Of the result: any dtype of numbers or bool.

    Returns
    -------
    encoded : ndarray
        The shape of `indices` with an axis of C more: 1 where the class is the index, else 0.

    Raises
    ------
    IndexError
        An index is not a class; the message says where it is.
    TypeError, ValueError
        An argument is not what is accepted; the message names it.

    Notes
    -----
    .. math:: t_{ic} = [c = y_i]

    As targets of a loss, class indices are faster, and need a C-th of the memory.

    References
    ----------
    PyTorch, ``torch.nn.functional.one_hot``; Keras, ``keras.ops.one_hot``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    >>> xent.one_hot([2, 0], 3, axis=0, dtype=bool)
    array([[False,  True],
           [False, False],
           [ True, False]])
    """
    if unknown:
        raise unknown_keyword(one_hot, unknown)
    found = _indices(indices, "indices")
    classes = _classes(num_classes)
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(
            f"dtype: expected a dtype of numbers or bool, got {arguments.described(dtype)}"
        ) from None
    if kind.kind not in "biufc" and kind.name != "bfloat16":
        raise TypeError(f"dtype: expected a dtype of numbers or bool, got {kind}")
    return _encoded(
        found,
        "indices",
        classes,
        arguments.class_axis(axis, found.ndim + 1, "the result"),
        kind,
        0,
        1,
    )


@named
def smooth_labels(
    targets: ArrayLike,
    smoothing: float = 0.1,
    num_classes: int | None = None,
    **unknown: Never,
) -> NDArray[Any]:
    r"""Class probabilities that keep a share for all classes alike: label smoothing, as an array.

    .. math:: t_c (1 - e) + e / C

    Parameters
    ----------
    targets : array_like
        Class indices of any shape, of an integer dtype or bool; or class probabilities of shape (..., C) and any floating
        dtype.
    smoothing : float, default 0.1
        e in [0, 1].
    num_classes : int, optional
        C. Of indices, one more than the largest unless given; of probabilities, the size of their last axis.

    Returns
    -------
    smoothed : ndarray of shape (..., C)
        Of the dtype of class probabilities, float64 for indices. float16 and bfloat16 are computed in float32.

    Raises
    ------
    IndexError
        An index is not a class; the message says where it is.
    TypeError, ValueError
        A probability outside [0, 1], or an argument that is not accepted; the message names it.

    Notes
    -----
    `cross_entropy` does the same to its targets with ``label_smoothing``, without an array of probabilities.

    References
    ----------
    C. Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016; optax,
    ``optax.smooth_labels``.

    Examples
    --------
    >>> import numpy as np, xent
    >>> xent.smooth_labels([1, 0], 0.2, 4)
    array([[0.05, 0.85, 0.05, 0.05],
           [0.85, 0.05, 0.05, 0.05]])
    >>> xent.smooth_labels(np.array([0.5, 0.5, 0.0, 0.0]), 0.2)
    array([0.45, 0.45, 0.05, 0.05])
    """
    if unknown:
        raise unknown_keyword(smooth_labels, unknown)
    if isinstance(smoothing, bool | np.bool_):
        raise TypeError(f"smoothing: expected a number in [0, 1], got {smoothing}")
    e = arguments.number(smoothing, "smoothing", 0.0, 1.0, "a number in [0, 1]")
    found: NDArray[Any] = arguments.array(targets, "targets")
    classes = None if num_classes is None else _classes(num_classes)
    if found.dtype.kind in "biu" or (found.size == 0 and not isinstance(targets, np.ndarray)):
        found = _indices(targets, "targets")
        if classes is None:
            if found.size == 0:
                raise ValueError("targets: no class indices, which num_classes could be told from")
            classes = max(int(found.max()) + 1, 1)
        low = e / classes
        return _encoded(found, "targets", classes, found.ndim, np.float64, low, (1 - e) + low)
    found = arguments.real(targets, "targets")
    if found.ndim == 0:
        raise ValueError(
            "targets: expected class probabilities with at least one axis, that of the classes; got a scalar"
        )
    if classes is not None and classes != found.shape[-1]:
        raise ValueError(
            f"num_classes: {classes}, but targets of shape {found.shape} have {found.shape[-1]} classes"
        )
    computed = found.astype(np.float32) if found.dtype.itemsize == 2 else found
    bad = (computed < 0) | (computed > 1)
    if bad.any():
        raise bad_probability(found, None, "targets", int(bad.argmax()))
    with np.errstate(under="ignore"):
        smoothed = computed * (1 - e)
        smoothed += e / max(found.shape[-1], 1)
        result: NDArray[Any] = smoothed.astype(found.dtype.newbyteorder("="), copy=False)
        return result
