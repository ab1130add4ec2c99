"""Metrics of classifiers' probabilities, with scikit-learn's arguments, and the calibration of logits."""

from __future__ import annotations

import numpy as np

from xent import _arguments as arguments
from xent import _calibration as calibration
from xent import _functions
from xent import _predictions as validated
from xent._blocks import blocks, numbers
from xent._request import BLOCK_BYTES, bad_target
from xent.accumulators import LogLoss, Perplexity, PerplexityResult
from xent.stages import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Literal

__all__ = [
    "LogLoss",
    "Perplexity",
    "PerplexityResult",
    "brier_score",
    "expected_calibration_error",
    "fit_temperature",
    "log_loss",
    "top_k_accuracy",
]


def log_loss(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    r"""Log loss of predicted probabilities, as scikit-learn has it.

    Parameters
    ----------
    y_true : array_like, shape (N,) or (N, C)
        Labels of any kind that can be sorted, strings among them, or an indicator matrix of 0 and 1.
    y_proba : array_like, shape (N, C) or (N,)
        Predicted probabilities of the labels in sorted order, or of the greater of two labels.
    normalize : bool, default True
        Return the mean; else the sum.
    sample_weight : array_like, shape (N,), optional
        Weight of each row.
    labels : array_like, shape (C,), optional
        All labels, if `y_true` may lack some.

    Returns
    -------
    loss : float
        In nats.

    Raises
    ------
    TypeError, ValueError
        Where scikit-learn raises one: numbers that are no probabilities, lengths that differ, unknown labels, another number
        of labels than of columns, a single label.

    Warns
    -----
    UserWarning
        A row of probabilities does not sum to 1, or `labels` are not sorted.

    Notes
    -----
    .. math:: \frac{\sum_i w_i\, \ell_i}{\sum_i w_i}, \qquad \ell_i = -\log \min(\max(p_{i y_i}, \epsilon), 1 - \epsilon)

    with the machine epsilon of the dtype of `y_proba`: float16, float32, or float64, to which all others are
    converted. Labels become numbers of columns, never rows of 0 and 1, and the rows' losses are summed in float64.

    References
    ----------
    scikit-learn 1.9, ``sklearn.metrics.log_loss``.

    Examples
    --------
    >>> from xent.metrics import log_loss
    >>> probs = [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
    >>> round(log_loss(["spam", "ham", "ham", "spam"], probs), 5)
    0.21616
    """
    mean = arguments.flag(normalize, "normalize")
    given = validated.predictions(y_true, y_proba, sample_weight, labels)
    losses = given.log_losses()
    return given.mean(losses) if mean else given.total(losses)


def brier_score(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    pos_label: float | str | None = None,
    labels: ArrayLike | None = None,
    scale_by_half: bool | Literal["auto"] = "auto",
) -> float:
    r"""Brier score: the mean squared distance of predicted probabilities from what happened, as scikit-learn has it.

    Parameters
    ----------
    y_true, y_proba, sample_weight, labels
        As in `log_loss`; of (N,) probabilities one label is enough.
    pos_label : int, float, bool or str, optional
        Which label (N,) probabilities are of. By default 1 of {0, 1} or {-1, 1}, else the greater; of strings it must be
        given.
    scale_by_half : bool or "auto", default "auto"
        Halve the score, so that it lies in [0, 1]; "auto" does so of two classes.

    Returns
    -------
    score : float
        0 of certain and right predictions.

    Raises
    ------
    TypeError, ValueError
        As `log_loss`.

    Warns
    -----
    UserWarning
        As `log_loss`.

    Notes
    -----
    .. math:: \frac{\sum_i w_i \sum_c (p_{ic} - [c = y_i])^2}{\sum_i w_i}

    References
    ----------
    G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950);
    scikit-learn 1.9, ``sklearn.metrics.brier_score_loss``.

    Examples
    --------
    >>> from xent.metrics import brier_score
    >>> round(brier_score([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]), 9)
    0.0375
    """
    auto = isinstance(scale_by_half, str) and scale_by_half == "auto"
    half = None if auto else arguments.flag(scale_by_half, "scale_by_half")
    if np.shape(y_proba)[1:] in ((), (1,)):
        given = validated.binary_predictions(y_true, y_proba, sample_weight, pos_label)
    else:
        given = validated.predictions(y_true, y_proba, sample_weight, labels)
    two = given.proba.ndim == 1 or given.proba.shape[1] == 2
    score = given.mean(given.squared_distances())
    return score / 2 if half or (auto and two) else score


def expected_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 15,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    r"""Expected calibration error: how far confidence is from accuracy, on average over bins of confidence.

    Parameters
    ----------
    y_true, y_proba, sample_weight, labels
        As in `log_loss`.
    n_bins : int, default 15
        Bins of equal width in [0, 1], which hold their upper edges.

    Returns
    -------
    error : float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        As `log_loss`; fewer than one bin.

    Warns
    -----
    UserWarning
        As `log_loss`.

    Notes
    -----
    .. math:: \sum_b \frac{n_b}{n}\, |\mathrm{acc}(b) - \mathrm{conf}(b)|

    The confidence of a row of (N, C) probabilities is the largest of them, the first if there are several, and its accuracy
    whether that is the label's. Of (N,) probabilities it is the probability itself, and the accuracy whether the label is
    the positive one.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.

    Examples
    --------
    >>> from xent.metrics import expected_calibration_error
    >>> expected_calibration_error([0, 1, 1, 1], [0.25, 0.25, 0.75, 0.75], n_bins=2)
    0.25
    """
    bins = calibration.Reliability(size(n_bins, "n_bins", 1))
    given = validated.predictions(y_true, y_proba, sample_weight, labels)
    bins.add(*given.confidence(), given.weight)
    return bins.error()


def top_k_accuracy(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    k: int = 2,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    r"""How often the label is among the k most probable.

    Parameters
    ----------
    y_true, y_proba, sample_weight, labels
        As in `log_loss`.
    k : int, default 2
        At most C.
    normalize : bool, default True
        Return the share of the rows; else the sum of their weights.

    Returns
    -------
    accuracy : float
        In [0, 1] if normalized.

    Raises
    ------
    TypeError, ValueError
        As `log_loss`; `k` is not between 1 and C.

    Warns
    -----
    UserWarning
        As `log_loss`.

    Notes
    -----
    .. math:: \frac{\sum_i w_i\, [\mathrm{rank}_i < k]}{\sum_i w_i}

    where the rank counts the larger probabilities, and the equal ones of later columns, as scikit-learn does.

    References
    ----------
    scikit-learn 1.9, ``sklearn.metrics.top_k_accuracy_score``.

    Examples
    --------
    >>> from xent.metrics import top_k_accuracy
    >>> probs = [[0.5, 0.3, 0.2], [0.1, 0.3, 0.6], [0.6, 0.3, 0.1]]
    >>> round(top_k_accuracy([0, 1, 2], probs), 4)
    0.6667
    """
    mean = arguments.flag(normalize, "normalize")
    most = size(k, "k", 1)
    given = validated.predictions(y_true, y_proba, sample_weight, labels)
    classes = 2 if given.proba.ndim == 1 else given.proba.shape[1]
    if most > classes:
        raise ValueError(f"k: expected at most {classes}, the number of classes; got {most}")
    within = given.ranks() < most
    return given.mean(within) if mean else given.total(within)


def fit_temperature(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
) -> float:
    r"""Temperature at which logits are best calibrated: that of the smallest mean cross-entropy.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Of data that the model was not trained on, as in `xent.cross_entropy`.
    targets : array_like
        Class indices or class probabilities, as in `xent.cross_entropy`.
    axis : int, default -1
        The class axis.
    sample_weight : array_like, optional
        Weight of each row, broadcastable to the rows.
    ignore_index : int or None, default -100
        Rows with this target do not count.

    Returns
    -------
    temperature : float
        To divide logits by. ``inf`` if no positive temperature is better than equal probabilities, and NaN if no row counts
        or the loss is not finite. Where every target has the largest logit of its row the loss falls until it is 0: the
        temperature is small, or 0.0.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `xent.cross_entropy`.

    Notes
    -----
    In the inverse temperature b the mean loss is convex, and Newton's method finds the zero of its slope:

    .. math:: \frac{\partial \ell}{\partial b} = \sum_c p_c z_c - z_y, \qquad
        \frac{\partial^2 \ell}{\partial b^2} = \sum_c p_c z_c^2 - \Big( \sum_c p_c z_c \Big)^2, \qquad
        p = \mathrm{softmax}(b z)

    A step reads the logits from memory once, in blocks that stay in the cache; some six steps are enough.

    References
    ----------
    C. Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from xent.metrics import fit_temperature
    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, [0, 0, 0, 1]), 6)  # 4 / T = log 3
    3.640957
    """
    request = _functions.stage_request(
        logits, targets, axis, None, 0, ignore_index, 1.0, None, None
    )
    if (
        request.logits.ndim == 1
        and np.asarray(targets).dtype.kind in "biu"
        and request.soft is not None
    ):
        raise ValueError(
            f"targets: class indices of shape {request.logits.shape} do not fit one row of classes; of the scores of two "
            "classes give both logits, np.stack([0 * logits, logits], axis=-1)"
        )
    z, kind, shape = request.classes_last(request.logits), request.precision, request.shape
    y = request.index if request.soft is None else request.classes_last(request.soft)
    if request.soft is None:
        bad = validated.outside(y, z.shape[-1], ignore_index)
        if bad >= 0:
            raise bad_target(y, bad, z.shape[-1], ignore_index)
    weight = arguments.broadcastable(sample_weight, "sample_weight", shape, np.dtype(np.float64))
    if weight is not None:
        weight = np.broadcast_to(weight, shape)
    rows = max(1, 4 * BLOCK_BYTES // max(1, z.shape[-1] * kind.compute.itemsize))

    def of_block(block: Any, temperature: float) -> calibration.Slope:
        part = numbers(z[block], kind).astype(kind.compute, copy=False)
        w = None if weight is None else weight[block]
        return calibration.slope(part, y[block], w, ignore_index, temperature)

    return calibration.best_temperature(
        lambda t: calibration.sum_of(of_block(block, t) for block in blocks(shape, rows))
    )
