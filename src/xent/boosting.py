"""Objectives and evaluation metrics for XGBoost and LightGBM.

An objective is called once a round, for the gradient and the diagonal of the Hessian of all rows; both libraries grow the
next trees from these. Those returned here serve the native interface, which calls them with (preds, data set), and the one
of scikit-learn, which calls them with (y_true, y_pred, sample_weight). A metric takes what its library gives it beside a
custom objective: scores before any softmax or sigmoid.
"""

from __future__ import annotations

from xent._boosting import (
    Objective,
    given,
    log_loss,
    logistic_objective,
    of_native_interface,
    softmax_objective,
)
from xent._keywords import named, unknown_keyword

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Literal, Never

__all__ = [
    "lightgbm_binary_logloss",
    "lightgbm_logistic",
    "lightgbm_multi_logloss",
    "lightgbm_softmax",
    "xgboost_logistic",
    "xgboost_logloss",
    "xgboost_mlogloss",
    "xgboost_softmax",
]

# What the diagonal of the Hessian is multiplied by; None: the absolute gradient stands in its place.
HESSIANS = {"abs_residual": None, "upper_bound": 2.0, "exact": 1.0}


@named
def xgboost_softmax(
    num_class: int,
    *,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    hessian: Literal["abs_residual", "upper_bound", "exact"] = "abs_residual",
    **unknown: Never,
) -> Objective:
    r"""Softmax cross-entropy, or the focal loss, as an objective of XGBoost.

    Parameters
    ----------
    num_class : int
        C, at least 2, which ``xgboost.train`` needs as a parameter, too. Labels are 0, ..., C - 1.
    class_weight : array_like, shape (C,), optional
        Weight of each class, as in `xent.cross_entropy`.
    label_smoothing : float, default 0.0
        e in [0, 1], as in `xent.cross_entropy`.
    gamma : float, default 0.0
        Exponent of the focal loss, in [0, 1000], as in `xent.focal_loss`; without label smoothing.
    hessian : {"abs_residual", "upper_bound", "exact"}, default "abs_residual"
        What stands for the diagonal of the Hessian, which alone XGBoost uses: the absolute gradient, as in "multi:softprob"
        after XGBoost 3.2; twice the diagonal, as in 3.2 and before; the diagonal.

    Returns
    -------
    objective : callable
        For ``xgboost.train(obj=...)`` and ``XGBClassifier(objective=...)``. It may be pickled and copied, and keeps nothing
        between calls. It returns gradient and Hessian, float32 arrays of the shape of the scores.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is accepted. The objective raises ValueError for a label that is no class, naming its row,
        and for scores that are not of C classes.

    Notes
    -----
    Of a row with sample weight v, class y, class weights w and :math:`p = \mathrm{softmax}(z)`, without smoothing:

    .. math:: g_c = v\, w_y\, s\, (p_c - [c = y]), \qquad
        h_c = |g_c|, \quad 2\, v\, w_y\, s\, p_c (1 - p_c) \quad \text{or} \quad v\, w_y\, s\, p_c (1 - p_c)

    .. math:: s = (1 - p_y)^\gamma \Bigl(1 + \gamma\, p_y\, \frac{-\log p_y}{1 - p_y}\Bigr)

    Gradients are those of `xent.cross_entropy` and `xent.focal_loss`. The Hessian of the focal loss is negative in places;
    without its part in the derivative of s it is not (the generalised Gauss-Newton matrix). Twice the diagonal bounds the
    matrix, whose rows sum to zero: the trees of all classes are grown at once. No element is less than 1e-16, XGBoost's own
    bound.

    References
    ----------
    T. Chen, C. Guestrin, "XGBoost: a scalable tree boosting system", KDD 2016, arXiv:1603.02754; XGBoost,
    ``multi:softprob`` and pull request 12537. N. N. Schraudolph, "Fast curvature matrix-vector products for second-order
    gradient descent", Neural Computation 14 (2002).

    Examples
    --------
    ``xgboost.train({"objective": "multi:softprob", "num_class": 3}, data, obj=objective)`` calls it as

    >>> import numpy as np
    >>> from xent import boosting
    >>> objective = boosting.xgboost_softmax(3, hessian="upper_bound")
    >>> y_true, y_pred = np.array([0.0, 2.0]), np.zeros((2, 3), np.float32)
    >>> grad, hess = objective(y_true, y_pred)
    >>> grad.round(3)
    array([[-0.667,  0.333,  0.333],
           [ 0.333,  0.333, -0.667]], dtype=float32)
    >>> hess.round(3)
    array([[0.444, 0.444, 0.444],
           [0.444, 0.444, 0.444]], dtype=float32)
    """
    if unknown:
        raise unknown_keyword(xgboost_softmax, unknown)
    if hessian not in HESSIANS:
        raise ValueError(f"hessian: expected one of {', '.join(HESSIANS)}, got {hessian!r}")
    return softmax_objective(
        num_class, class_weight, label_smoothing, gamma, lambda classes: HESSIANS[hessian]
    )


@named
def lightgbm_softmax(
    num_class: int,
    *,
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    **unknown: Never,
) -> Objective:
    r"""Softmax cross-entropy, or the focal loss, as an objective of LightGBM.

    Parameters
    ----------
    num_class : int
        C, at least 2, which ``lightgbm.train`` needs as a parameter, too. Labels are 0, ..., C - 1.
    class_weight, label_smoothing, gamma
        As in `xgboost_softmax`.

    Returns
    -------
    objective : callable
        For ``lightgbm.train({"objective": ...})`` and ``LGBMClassifier(objective=...)``, as that of `xgboost_softmax`. It
        returns arrays that LightGBM reads as they are, float32 in Fortran order.

    Raises
    ------
    TypeError, ValueError
        As `xgboost_softmax`.

    Notes
    -----
    Gradients are those of `xgboost_softmax`, computed in float64, as LightGBM's scores are, and rounded once. The Hessian is
    that of LightGBM's ``multiclass``,

    .. math:: h_c = \frac{C}{C - 1}\, v\, w_y\, s\, p_c (1 - p_c)

    with the factor of Friedman's leaf values for C trees a round.

    References
    ----------
    G. Ke et al., "LightGBM: a highly efficient gradient boosting decision tree", NIPS 2017; LightGBM, ``multiclass``.
    J. H. Friedman, "Greedy function approximation: a gradient boosting machine", Annals of Statistics 29 (2001).

    Examples
    --------
    ``lightgbm.train({"objective": objective, "num_class": 3}, data)`` calls it as

    >>> import numpy as np
    >>> from xent import boosting
    >>> objective = boosting.lightgbm_softmax(3, class_weight=[1, 1, 2])
    >>> y_true, y_pred = np.array([0.0, 2.0]), np.zeros((2, 3), order="F")
    >>> grad, hess = objective(y_true, y_pred)
    >>> grad.round(3)
    array([[-0.667,  0.333,  0.333],
           [ 0.667,  0.667, -1.333]], dtype=float32)
    >>> hess.round(3)
    array([[0.333, 0.333, 0.333],
           [0.667, 0.667, 0.667]], dtype=float32)
    """
    if unknown:
        raise unknown_keyword(lightgbm_softmax, unknown)
    return softmax_objective(
        num_class, class_weight, label_smoothing, gamma, lambda classes: classes / (classes - 1)
    )


@named
def xgboost_logistic(
    *,
    pos_weight: float = 1.0,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    **unknown: Never,
) -> Objective:
    r"""Binary cross-entropy, or the focal loss, as an objective of XGBoost.

    Parameters
    ----------
    pos_weight : float, default 1.0
        w, the weight of rows of class 1: XGBoost's ``scale_pos_weight``, which a custom objective does not see.
    label_smoothing : float, default 0.0
        e in [0, 1], as in `xent.binary_cross_entropy_with_logits`.
    gamma : float, default 0.0
        Exponent of the focal loss, in [0, 1000], as in `xent.sigmoid_focal_loss`; without label smoothing.

    Returns
    -------
    objective : callable
        For ``xgboost.train(obj=...)`` and ``XGBClassifier(objective=...)``, as that of `xgboost_softmax`.

    Raises
    ------
    TypeError, ValueError
        As `xgboost_softmax`; labels are 0 and 1.

    Notes
    -----
    With :math:`t = y (1 - e) + e / 2`, sample weight v, and of :math:`\ell = -\log p_y` the slope s of the focal loss, which
    is 1 where gamma is 0:

    .. math:: g = v\, s\, \bigl((1 - t)\, \sigma(z) - w\, t\, \sigma(-z)\bigr), \qquad
        h = v\, s\, (1 - t + w\, t)\, \sigma(z)\, \sigma(-z)

    The part of the focal loss's Hessian that may be negative is left out, as in `xgboost_softmax`.

    References
    ----------
    XGBoost, ``binary:logistic``.

    Examples
    --------
    ``xgboost.train({"objective": "binary:logistic"}, data, obj=objective)`` calls it as

    >>> import numpy as np
    >>> from xent import boosting
    >>> objective = boosting.xgboost_logistic(pos_weight=3.0)
    >>> grad, hess = objective(np.array([0.0, 1.0]), np.zeros(2, np.float32))
    >>> grad, hess
    (array([ 0.5, -1.5], dtype=float32), array([0.25, 0.75], dtype=float32))
    """
    if unknown:
        raise unknown_keyword(xgboost_logistic, unknown)
    return logistic_objective(pos_weight, label_smoothing, gamma)


@named
def lightgbm_logistic(
    *,
    pos_weight: float = 1.0,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    **unknown: Never,
) -> Objective:
    r"""Binary cross-entropy, or the focal loss, as an objective of LightGBM.

    Parameters
    ----------
    pos_weight, label_smoothing, gamma
        As in `xgboost_logistic`.

    Returns
    -------
    objective : callable
        For ``lightgbm.train({"objective": ...})`` and ``LGBMClassifier(objective=...)``.

    Raises
    ------
    TypeError, ValueError
        As `xgboost_logistic`.

    Notes
    -----
    The derivatives are those of `xgboost_logistic`, computed in float64 and rounded once.

    References
    ----------
    LightGBM, ``binary``.

    Examples
    --------
    ``lightgbm.train({"objective": objective}, data)`` calls it as

    >>> import numpy as np
    >>> from xent import boosting
    >>> objective = boosting.lightgbm_logistic(gamma=2.0)
    >>> grad, hess = objective(np.array([0.0, 1.0]), np.array([-2.0, 0.0]))
    >>> grad.round(4), hess.round(4)
    (array([ 0.0049, -0.2983], dtype=float32), array([0.0043, 0.1491], dtype=float32))
    """
    if unknown:
        raise unknown_keyword(lightgbm_logistic, unknown)
    return logistic_objective(pos_weight, label_smoothing, gamma)


def _of_xgboost(
    name: str, logistic: bool, first: Any, second: Any, weight: Any
) -> tuple[str, float] | float:
    """Return (name, value) to the native interface, which the one of scikit-learn adds itself."""
    value = log_loss(logistic, given(first, second, weight))
    return (name, value) if of_native_interface(second) else value


def _of_lightgbm(
    name: str, logistic: bool, first: Any, second: Any, weight: Any
) -> tuple[str, float, bool]:
    """Return name, value, and that larger ones are not better."""
    return name, log_loss(logistic, given(first, second, weight)), False


def xgboost_mlogloss(
    first: Any, second: Any, /, sample_weight: Any = None
) -> tuple[str, float] | float:
    """Log-loss of several classes, as a metric of XGBoost beside `xgboost_softmax`.

    Parameters
    ----------
    first, second : preds and DMatrix, or labels and preds
        Scores before any softmax, of shape (N, C), and labels 0, ..., C - 1.
    sample_weight : array_like, shape (N,), optional
        Weight of each row.

    Returns
    -------
    name : str
        For the native interface alone.
    value : float
        The mean of -log p over the rows, divided by the sum of the weights.

    Raises
    ------
    ValueError
        As an objective of `xgboost_softmax`.

    Notes
    -----
    For ``xgboost.train(custom_metric=...)`` and ``XGBClassifier(eval_metric=...)``. Beside an objective of XGBoost's own a
    metric is given probabilities, of which this is not the log-loss; ``"mlogloss"`` is.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import boosting
    >>> round(boosting.xgboost_mlogloss(np.array([0.0, 2.0]), np.zeros((2, 3), np.float32)), 6)
    1.098612
    """
    return _of_xgboost("xgboost_mlogloss", False, first, second, sample_weight)


def xgboost_logloss(
    first: Any, second: Any, /, sample_weight: Any = None
) -> tuple[str, float] | float:
    """Log-loss of two classes, as a metric of XGBoost beside `xgboost_logistic`.

    Parameters
    ----------
    first, second : preds and DMatrix, or labels and preds
        Scores before any sigmoid, of shape (N,), and labels 0 and 1.
    sample_weight : array_like, shape (N,), optional
        Weight of each row.

    Returns
    -------
    name : str
        For the native interface alone.
    value : float
        As `xgboost_mlogloss`.

    Raises
    ------
    ValueError
        As an objective of `xgboost_logistic`.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import boosting
    >>> round(boosting.xgboost_logloss(np.array([0.0, 1.0]), np.zeros(2, np.float32)), 6)
    0.693147
    """
    return _of_xgboost("xgboost_logloss", True, first, second, sample_weight)


def lightgbm_multi_logloss(
    first: Any, second: Any, /, sample_weight: Any = None
) -> tuple[str, float, bool]:
    """Log-loss of several classes, as a metric of LightGBM beside `lightgbm_softmax`.

    Parameters
    ----------
    first, second : preds and Dataset, or labels and preds
        Scores before any softmax, of shape (N, C), and labels 0, ..., C - 1.
    sample_weight : array_like, shape (N,), optional
        Weight of each row.

    Returns
    -------
    name : str
        That of this function.
    value : float
        As `xgboost_mlogloss`.
    is_higher_better : bool
        False.

    Raises
    ------
    ValueError
        As an objective of `lightgbm_softmax`.

    Notes
    -----
    For ``lightgbm.train(feval=...)`` and ``LGBMClassifier.fit(eval_metric=...)``. Beside an objective of LightGBM's own a
    metric is given probabilities, of which this is not the log-loss. ``"multi_logloss"`` is, but takes a custom
    objective's scores for probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import boosting
    >>> name, value, _ = boosting.lightgbm_multi_logloss(np.array([0.0, 2.0]), np.zeros((2, 3)))
    >>> round(value, 6)
    1.098612
    """
    return _of_lightgbm("lightgbm_multi_logloss", False, first, second, sample_weight)


def lightgbm_binary_logloss(
    first: Any, second: Any, /, sample_weight: Any = None
) -> tuple[str, float, bool]:
    """Log-loss of two classes, as a metric of LightGBM beside `lightgbm_logistic`.

    Parameters
    ----------
    first, second : preds and Dataset, or labels and preds
        Scores before any sigmoid, of shape (N,), and labels 0 and 1.
    sample_weight : array_like, shape (N,), optional
        Weight of each row.

    Returns
    -------
    name : str
        That of this function.
    value : float
        As `xgboost_mlogloss`.
    is_higher_better : bool
        False.

    Raises
    ------
    ValueError
        As an objective of `lightgbm_logistic`.

    Examples
    --------
    >>> import numpy as np
    >>> from xent import boosting
    >>> name, value, _ = boosting.lightgbm_binary_logloss(np.array([0.0, 1.0]), np.zeros(2))
    >>> round(value, 6)
    0.693147
    """
    return _of_lightgbm("lightgbm_binary_logloss", True, first, second, sample_weight)
