"""Metrics of data that come in parts: perplexity and log loss, from exact sums of the rows' losses."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xent import _functions
from xent import _predictions as validated
from xent._exact_sum import ExactSum
from xent.losses import token_log_probs
from xent.stages import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xent._typing import Any, ArrayLike, Literal

__all__ = ["LogLoss", "Perplexity", "PerplexityResult"]

# What a log-probability may be above 0 by rounding.
MOST = 1e-3
# Clears all but the first 26 bits of a float64.
HIGH_BITS = np.int64(-(1 << 27))


class PerplexityResult(NamedTuple):
    """What `Perplexity.compute` returns."""

    loss: float
    perplexity: float
    bits_per_token: float
    bits_per_byte: float | None
    count: int  # type: ignore[assignment]  # a tuple has a method of this name
    stderr: float


class Perplexity:
    r"""Perplexity of a language model on text that comes in parts.

    Notes
    -----
    With :math:`\ell_i = -\log p_i` of the n tokens that count, on B bytes of text:

    .. math::
        \text{loss} = \frac{1}{n} \sum_i \ell_i, \quad \text{perplexity} = e^{\text{loss}}, \quad
        \text{bits per byte} = \frac{\sum_i \ell_i}{B \log 2}, \quad
        \text{stderr} = \sqrt{\frac{\sum_i (\ell_i - \text{loss})^2}{n (n - 1)}}

    The losses are summed without rounding, so that the result does not depend on how the text was cut into parts or on
    which thread or machine computed them. An accumulator belongs to one thread; `merge` joins those of several, and they
    can be pickled.

    References
    ----------
    F. Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks", JASA 62 (1977); torchmetrics,
    ``torchmetrics.text.Perplexity``.

    Examples
    --------
    >>> import numpy as np
    >>> from xent.metrics import Perplexity
    >>> logits, targets = np.zeros((2, 5, 100)), np.ones((2, 5), int)
    >>> metric = Perplexity()
    >>> for one, other in zip(logits, targets):
    ...     metric.update(one, other, bytes=20)
    >>> found = metric.compute()
    >>> round(found.perplexity, 9), round(found.bits_per_byte, 4), found.count
    (100.0, 1.661, 10)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._losses, self._squares = ExactSum(), ExactSum()
        self._count, self._bytes = 0, 0

    def update(
        self,
        logits: ArrayLike,
        targets: ArrayLike,
        *,
        bytes: int | None = None,
        axis: int = -1,
        ignore_index: int | None = -100,
        softcap: float | None = None,
        temperature: float = 1.0,
        dtype: Literal["bfloat16"] | None = None,
    ) -> None:
        """Add tokens under the softmax of their logits.

        Parameters
        ----------
        logits : array_like, shape (..., V, ...)
            Scores of each token of the vocabulary, as in `xent.cross_entropy`.
        targets : array_like of integers
            The observed tokens: the shape of `logits` without the class axis.
        bytes : int, optional
            How many bytes of text the tokens are. They add up, and may be given with any of the parts.
        axis, ignore_index, softcap, temperature, dtype
            As in `xent.cross_entropy`.

        Raises
        ------
        IndexError, TypeError, ValueError
            As `xent.cross_entropy`; fewer than one byte. Nothing has been added then.
        """
        log_probs = token_log_probs(
            logits,
            targets,
            axis=axis,
            ignore_index=ignore_index,
            softcap=softcap,
            temperature=temperature,
            dtype=dtype,
        )
        if ignore_index is not None:
            log_probs = np.asarray(log_probs)[np.asarray(targets) != ignore_index]
        self.update_log_probs(log_probs, bytes=bytes)

    def update_log_probs(self, log_probs: ArrayLike, bytes: int | None = None) -> None:
        """Add tokens by their log-probabilities.

        Parameters
        ----------
        log_probs : array_like
            Of any shape; all of them count.
        bytes : int, optional
            As in `update`.

        Raises
        ------
        TypeError, ValueError
            What is given is not numbers; fewer than one byte. Nothing has been added then.
        """
        more = 0 if bytes is None else size(bytes, "bytes", 1)
        given = validated.numbers(log_probs, "log_probs")
        x = -given.astype(np.float64).ravel()
        if (x < -MOST).any():
            place = np.unravel_index(int(np.argmax(x < -MOST)), given.shape)
            raise ValueError(
                f"log_probs: {given[place]} at position {tuple(map(int, place))} is not the logarithm of a probability"
            )
        # x² = a² + 2ab + b², of which the first two are exact and b² is rounded below the 100th bit.
        a = (x.view(np.int64) & HIGH_BITS).view(np.float64)
        with np.errstate(all="ignore"):
            b = np.where(np.isfinite(x), x - a, 0.0)
            for part in (a * a, 2 * a * b, b * b):
                self._squares.add(part)
        self._losses.add(x)
        self._count += x.size
        self._bytes += more

    def merge(self, other: Perplexity) -> None:
        """Add what another accumulator has seen.

        Parameters
        ----------
        other : Perplexity
            Stays as it is.

        Raises
        ------
        TypeError
            `other` is something else.
        """
        _check_kind(self, other)
        self._losses.merge(other._losses)
        self._squares.merge(other._squares)
        self._count += other._count
        self._bytes += other._bytes

    def compute(self) -> PerplexityResult:
        """Return the metrics of all tokens so far.

        Returns
        -------
        result : PerplexityResult
            A named tuple: `loss`, the mean in nats; `perplexity`; `bits_per_token`; `bits_per_byte`, None if no bytes were
            given; `count`, of the tokens; `stderr`, the standard error of `loss` if the tokens were independent. Of nothing
            they are NaN, and so is `stderr` of one token.
        """
        n = self._count
        loss = self._losses.over(n)
        per_byte = self._losses.over(self._bytes) / math.log(2) if self._bytes else None
        return PerplexityResult(
            loss,
            _functions.exponential(loss),
            loss / math.log(2),
            per_byte,
            n,
            self._stderr(),
        )

    def _stderr(self) -> float:
        n = self._count
        if n < 2 or not math.isfinite(self._losses.over(n) + self._squares.over(n)):
            return math.nan
        return math.sqrt(self._squares.variance(self._losses, n) / n)


class LogLoss:
    r"""Log loss of predictions that come in parts: the mean of the negative log-probabilities of the labels.

    Notes
    -----
    .. math:: \frac{\sum_i w_i\, \ell_i}{\sum_i w_i}, \qquad \ell_i = -\log \min(\max(p_{i y_i}, \epsilon), 1 - \epsilon)

    as `log_loss` has it. Losses and weights are summed without rounding, so that the result does not depend on how the data
    were cut into parts.

    References
    ----------
    scikit-learn, ``sklearn.metrics.log_loss``.

    Examples
    --------
    >>> from xent.metrics import LogLoss
    >>> metric = LogLoss()
    >>> metric.update([1, 0], [[0.1, 0.9], [0.9, 0.1]])
    >>> metric.update([0, 1], [[0.8, 0.2], [0.35, 0.65]])
    >>> round(metric.compute(), 5)
    0.21616
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._losses, self._weights = ExactSum(), ExactSum()

    def update(
        self, y_true: ArrayLike, y_proba: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> None:
        """Add rows.

        Parameters
        ----------
        y_true : array_like of integers, shape (N,)
            The column of each row's label; of (N,) probabilities 1 for the positive class and 0 for the other. A part need
            not have every label, which is why labels of other kinds are not accepted.
        y_proba : array_like, shape (N, C) or (N,)
            Predicted probabilities, as in `log_loss`.
        sample_weight : array_like, shape (N,), optional
            Weight of each row.

        Raises
        ------
        IndexError, TypeError, ValueError
            As `log_loss`; a label that is not the number of a column. Nothing has been added then.

        Warns
        -----
        UserWarning
            A row of probabilities does not sum to 1.
        """
        given = validated.numbered_predictions(y_true, y_proba, sample_weight)
        losses = given.log_losses().astype(np.float64)
        weights = np.ones(len(losses)) if given.weight is None else given.weight
        self._losses.add(losses * weights)
        self._weights.add(weights)

    def merge(self, other: LogLoss) -> None:
        """Add what another accumulator has seen.

        Parameters
        ----------
        other : LogLoss
            Stays as it is.

        Raises
        ------
        TypeError
            `other` is something else.
        """
        _check_kind(self, other)
        self._losses.merge(other._losses)
        self._weights.merge(other._weights)

    def compute(self) -> float:
        """Return the log loss of all rows so far.

        Returns
        -------
        loss : float
            NaN of nothing.
        """
        return self._losses.over(self._weights)


def _check_kind(one: Any, other: Any) -> None:
    if type(other) is not type(one):
        raise TypeError(f"other: expected a {type(one).__name__}, got {type(other).__name__}")
