"""What evaluation asks of each row of logits, in one read of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xent import _functions
from xent._head import Head
from xent._keywords import named, unknown_keyword
from xent.stages import CORE, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Literal, Never

__all__ = ["Score", "score"]

MOST_TOP = 128


class Score(NamedTuple):
    """What `score` returns: arrays of the rows' shape, or None for what was not asked for."""

    log_prob: Any
    rank: Any
    lse: Any
    entropy: Any
    argmax: Any
    max_log_prob: Any
    sum_sq: Any
    top_indices: Any
    top_log_probs: Any


@named
def score(
    logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    axis: int = -1,
    top_k: int = 0,
    ignore_index: int | None = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    dtype: Literal["bfloat16"] | None = None,
    **unknown: Never,
) -> Score:
    r"""A row's whole report: log-probability and rank of the target, entropy, the most likely classes.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As in `cross_entropy`.
    targets : array_like, optional
        Class indices.
    axis : int, default -1
        The class axis.
    top_k : int, default 0
        So many of the most likely classes, at most 128 and at most C.
    ignore_index, temperature, softcap, dtype
        As in `cross_entropy`.

    Returns
    -------
    score : Score
        A named tuple of arrays of the rows' shape, None for what was not asked for. With z the logits after cap and
        temperature and p their softmax: `log_prob`, :math:`\log p_y`; `rank`, how many classes have a larger logit than the
        target, so that 0 is the top; `lse`; `entropy`; `argmax`, the first of the largest, as NumPy has it; `max_log_prob`;
        `sum_sq`, :math:`\sum_c p_c^2`; `top_indices` and `top_log_probs`, of shape (..., top_k), in descending order, ties
        by class. Rows with `ignore_index` have log_prob NaN and rank -1. Rows with NaN have NaN, and top_indices -1.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`; `top_k` beyond 128 or C is a ValueError.

    Notes
    -----
    The logits are read from memory once; rank and the most likely classes are found while a row is in the cache.

    Examples
    --------
    >>> import numpy as np, xent
    >>> found = xent.score(np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]]), [1, 1], top_k=2)
    >>> found.log_prob.round(3), found.rank, found.argmax
    (array([-1.408, -0.17 ]), array([1, 0]), array([0, 1]))
    >>> found.top_indices
    array([[0, 1],
           [1, 2]])
    """
    if unknown:
        raise unknown_keyword(score, unknown)
    return report(logits, targets, axis, top_k, ignore_index, temperature, softcap, dtype)


def report(
    logits: Any,
    targets: Any,
    axis: Any = -1,
    top_k: Any = 0,
    ignore_index: Any = -100,
    temperature: Any = 1.0,
    softcap: Any = None,
    dtype: Any = None,
    *,
    moments: bool = True,
) -> Score:
    """Return the report of each row; without `moments`, entropy and sum of squares are None, and not computed."""
    request = _functions.stage_request(
        logits, targets, axis, None, 0, ignore_index, temperature, softcap, dtype
    )
    if request.soft is not None:
        raise TypeError(
            f"targets: class probabilities, of the logits' shape {request.logits.shape}, are not accepted by score; "
            f"expected class indices of shape {request.shape}"
        )
    classes = request.logits.shape[request.class_axis]
    top = size(top_k, "top_k", 0)
    if top > min(MOST_TOP, classes):
        raise ValueError(
            f"top_k: expected at most {min(MOST_TOP, classes)}, of {classes} classes; got {top}"
        )
    sums, rank = np.zeros(request.shape, CORE), np.zeros(request.shape, np.int64)
    indices = np.zeros((*request.shape, top), np.int64) if top else None
    largest = np.zeros((*request.shape, top)) if top else None
    request.stage(
        "reduce",
        sums,
        0,
        classes,
        rank=rank if request.index is not None else None,
        top_index=indices,
        top_logit=largest,
        score=moments,
    )
    real = request.precision.compute.type
    head = Head(sums, real)
    log_prob = None
    with np.errstate(all="ignore"):
        if request.index is not None:
            log_prob = np.subtract(0, head.nll(sums["target_logit"]))
            log_prob = np.where(rank < 0, real(np.nan), log_prob)[()]
        found = Score(
            log_prob,
            rank[()] if request.index is not None else None,
            head.lse[()],
            (head.log_sum - head.center(sums["sum_a_t"]))[()] if moments else None,
            sums["argmax"][()],
            np.subtract(0, head.log_sum)[()],
            (sums["sum_a"].astype(real) / head.total / head.total)[()] if moments else None,
            indices,
            None if largest is None else np.subtract(0, head.nll(largest)),
        )
    return found
