"""How far a result may be from the exact one, and why.

The project promises, with u half the spacing of the compute dtype at 1, eps = 2u, m the largest
logit of a row and p its softmax,

- loss of a row, log-sum-exp: 3 ulp(result) + u (Σ p_c |z_c - m| + |z_y - m|), the second part
  being what rounding z - m costs;
- gradient of the true class: 4 + gap ULP, gap = max(0, z_y - largest other logit);
- softmax, other gradient elements: relative (4 + |z - m|) eps, absolute 2 eps;
- sums and means: 1 ULP against the exact sum of the row losses.

Everything below is one of these, or derived from them to first order, and says so. A term of
Σ exp(z - m) below the smallest normal number flushes to zero by contract, so such terms are
allowed to be missing (`flushed`), no more.

A new loss adds its entry in `BOUNDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from reference import ORACLES, WIDE, Rows, SoftmaxLoss

# Errors of the logits after the transform, in eps of their size. Soft-cap: tanh is good to 2 ulp;
# z/c, c · tanh and the rounded parameter add half each, a reciprocal another. Temperature:
# the quotient, the parameter, and a reciprocal if the division became a multiplication.
SOFTCAP_EPS = 4.0
TEMPERATURE_EPS = 2.0
# 1 - tanh² from a tanh good to 2 ulp at an argument good to 1: twice 2.5, and two roundings.
SLOPE_EPS = 6.0


def eps(dtype: np.dtype) -> Any:
    """Return the spacing of `dtype` at 1."""
    return WIDE(np.finfo(dtype).eps)


def tiny(dtype: np.dtype) -> Any:
    """Return the smallest normal number of `dtype`."""
    return WIDE(np.finfo(dtype).tiny)


def ulp(x: Any, dtype: np.dtype) -> np.ndarray:
    """Return the spacing of `dtype` at `x`, that of its smallest normal number at least."""
    x = np.asarray(x, WIDE)
    exponent = np.frexp(np.where(np.isfinite(x), x, 1))[1]
    return np.maximum(np.ldexp(eps(dtype), exponent - 1), tiny(dtype) * eps(dtype))


def times(factor: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the product with 0 · inf = 0."""
    return np.where(factor == 0, 0, factor * size)


class RowError:
    """What rounding costs each row before any loss is made of it."""

    def __init__(self, rows: Rows, dtype: np.dtype):
        self.rows, self.dtype, self.eps = rows, dtype, eps(dtype)
        self.distance = np.abs(rows.d)
        # Σ p |z - m| of the promise.
        self.spread = times(rows.p, self.distance).sum(axis=-1, keepdims=True)
        self.flushed = np.where(rows.e < 1.001 * tiny(dtype), rows.e, 0).sum(axis=-1, keepdims=True)
        relative = SOFTCAP_EPS * (rows.softcap is not None)
        relative += TEMPERATURE_EPS * (rows.temperature != 1)
        shift = relative * self.eps * np.where(np.isfinite(rows.x), np.abs(rows.x), 0)
        if relative:
            # A quotient below the smallest normal number is rounded to a multiple of this.
            floor = max(rows.softcap or 1, 1) / min(rows.temperature, 1)
            shift = shift + tiny(dtype) * self.eps * floor
        # An error of x moves lse by Σ p δ, and lse - x_c by Σ_{k≠c} p_k δ_k + (1 - p_c) δ_c.
        self.lse_shift = (rows.p * shift).sum(axis=-1, keepdims=True)
        self.class_shift = self.lse_shift - rows.p * shift + rows.others * shift

    @property
    def drift(self) -> np.ndarray:
        """The bound of lse - x_c but for the ulps of the result, for every class."""
        return self.eps / 2 * (self.spread + self.distance) + self.class_shift + self.flushed

    @property
    def relative(self) -> np.ndarray:
        """The relative bound of a softmax element, the transform's share apart."""
        return (4 + self.distance) * self.eps

    @property
    def lse(self) -> np.ndarray:
        """The bound of the log-sum-exp.

        For m < 0, m + log1p(rest) may cancel: then an ulp of log1p(rest) is what can be kept.
        """
        rows = self.rows
        size = np.maximum(np.abs(rows.lse), rows.log1p_rest)
        drift = self.eps / 2 * self.spread + self.lse_shift + self.flushed
        return 3 * ulp(size, self.dtype) + drift[..., 0]

    @property
    def gap(self) -> np.ndarray:
        """For every class, how far it is above the largest other one, or 0."""
        rows = self.rows
        is_top = np.arange(rows.d.shape[-1]) == rows.top[..., None]
        second = np.where(is_top, -np.inf, rows.d).max(axis=-1, keepdims=True)
        return np.where(is_top, -second, 0)


def lse_bound(oracle: Any) -> np.ndarray:
    """`logsumexp`: the promise."""
    return RowError(oracle.rows, oracle.dtype).lse


def softmax_bound(oracle: Any) -> np.ndarray:
    """`softmax`: the promise; elements below the smallest normal number flush."""
    error, p = RowError(oracle.rows, oracle.dtype), oracle.rows.p
    bound = np.minimum(times(p, error.relative), 2 * error.eps)
    bound = bound + np.where(p > 0, tiny(oracle.dtype), 0)
    return np.moveaxis(bound, -1, oracle.axis)


def log_softmax_bound(oracle: Any) -> np.ndarray:
    """`log_softmax`: the promise for the loss, as minus that is what an element is."""
    error = RowError(oracle.rows, oracle.dtype)
    nll = error.rows.log1p_rest[..., None] - error.rows.d
    return np.moveaxis(3 * ulp(nll, oracle.dtype) + error.drift, -1, oracle.axis)


def row_loss_bound(loss: SoftmaxLoss) -> np.ndarray:
    """The promise for every row, and what the options add to it."""
    error, dtype = RowError(loss.rows, loss.dtype), loss.dtype
    bound = loss.weighted(error.drift)
    ulps = 3.0
    if loss.label_smoothing:
        # (1-e) w_y and (e/C) w_c are rounded twice each before they multiply.
        bound = bound + 2 * error.eps * loss.weighted(loss.nll)
    if loss.z_loss:
        # lse² doubles the relative error of lse; the two products round.
        bound = bound + loss.z_loss * np.abs(loss.lse) * (2 * error.lse)
        bound = bound + 1.5 * error.eps * loss.z_loss * loss.lse**2
    if not loss.index:
        # Half an ulp for each product and for the sum with what the class weights left.
        ulps += 1
    # Each weight is one more product.
    ulps += 0.5 * loss.weights_given
    bound = bound * np.abs(loss.sample_weight) + ulps * ulp(loss.row_loss, dtype)
    return loss.count(bound)


def loss_bound(loss: SoftmaxLoss) -> Any:
    """The promise for rows, summed, and 1 ULP for the sum itself."""
    rows = row_loss_bound(loss)
    if loss.reduction == "none":
        return rows
    total = rows.sum()
    if loss.reduction == "mean":
        total = total / np.abs(loss.divisor)
    return total + ulp(loss.value, loss.dtype)


def perplexity_bound(loss: SoftmaxLoss) -> Any:
    """exp turns the error of the mean into a relative one; 2 ulp for exp itself."""
    mean = np.log(loss.value)
    rows = row_loss_bound(loss).sum() / np.abs(loss.divisor)
    return loss.value * (rows + ulp(mean, loss.dtype)) + 2 * ulp(loss.value, loss.dtype)


def grad_bound(loss: SoftmaxLoss) -> np.ndarray:
    """The promise where the target is one class and nothing is mixed in; else derived."""
    rows, error, dtype = loss.rows, RowError(loss.rows, loss.dtype), loss.dtype
    push, pull, _ = loss.grad_terms
    z_coefficient = np.abs(2 * loss.z_loss * loss.lse)[..., None]
    mass = loss.attract.sum(axis=-1, keepdims=True)
    one_hot = loss.index and not loss.label_smoothing and not loss.z_loss
    if one_hot:
        bound = np.minimum(times(push, error.relative), 2 * error.eps * mass)
    else:
        # a·p - b·t - c·w: the softmax's error on the first, roundings of the coefficients, of
        # the products and of the difference on all, and the error of lse in the z-loss's.
        size = (mass + z_coefficient) * rows.p
        bound = times(size, error.relative + 2 * error.eps) + 3 * error.eps * loss.attract
        bound = bound + 2 * loss.z_loss * rows.p * error.lse[..., None]
    # A relative change of p_c by what the transform's errors do to lse - x_c.
    bound = bound + (mass + z_coefficient) * rows.p * error.class_shift
    bound = bound + loss.attract * error.flushed
    bound = bound + (mass + z_coefficient) * np.where(rows.p > 0, tiny(dtype), 0)
    bound = bound * rows.slope
    if rows.softcap is not None:
        size = np.abs(push) + np.abs(pull) + z_coefficient * rows.p
        bound = bound + size * (SLOPE_EPS * error.eps / WIDE(rows.temperature))
    if rows.temperature != 1:
        size = np.abs(push) + np.abs(pull) + z_coefficient * rows.p
        bound = bound + size * rows.slope * (TEMPERATURE_EPS * error.eps)
    bound = bound * np.abs(loss.coefficient)[..., None] + tiny(dtype)
    if one_hot:
        true_class = pull * rows.slope * loss.coefficient[..., None]
        bound = bound + np.where(pull > 0, times(ulp(true_class, dtype), 4 + error.gap), 0)
    return np.moveaxis(loss.count(bound), -1, loss.axis)


class Bound(NamedTuple):
    """The bounds of a function, each from its oracle; `grad` if it has a gradient."""

    value: Callable[[Any], Any]
    grad: Callable[[Any], Any] | None = None


BOUNDS: dict[str, Bound] = {
    "cross_entropy": Bound(loss_bound, grad_bound),
    "logsumexp": Bound(lse_bound),
    "log_softmax": Bound(log_softmax_bound),
    "perplexity": Bound(perplexity_bound),
    "softmax": Bound(softmax_bound),
    "token_log_probs": Bound(loss_bound),
}


class Expected(NamedTuple):
    """What a call must return, and how far off it may be."""

    value: Any
    value_bound: Any
    grad: Any
    grad_bound: Any
    lse: Any
    lse_bound: Any


@np.errstate(all="ignore")
def expect(name: str, *args: Any, **options: Any) -> Expected:
    """Return what the public function `name` must give for these arguments."""
    oracle, bound = ORACLES[name](*args, **options), BOUNDS[name]
    return Expected(
        oracle.value,
        bound.value(oracle),
        oracle.grad if bound.grad else None,
        bound.grad(oracle) if bound.grad else None,
        oracle.rows.lse,
        lse_bound(oracle),
    )


def assert_within(actual: Any, expected: Any, bound: Any, what: str = "") -> None:
    """Fail unless shapes agree, infinities and NaN agree, and |actual - expected| <= bound."""
    actual, expected = np.asarray(actual), np.asarray(expected, WIDE)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    bound = np.broadcast_to(np.asarray(bound, WIDE), expected.shape)
    with np.errstate(all="ignore"):
        # What is beyond the largest finite number of the result's dtype is an infinity there.
        rounded = expected.astype(actual.dtype)
        expected = np.where(np.isinf(rounded), rounded, expected)
        error = np.abs(actual.astype(WIDE) - expected)
        good = np.where(np.isfinite(expected), error <= bound, actual == expected)
        good |= np.isnan(expected) & np.isnan(actual)
    if good.all():
        return
    with np.errstate(all="ignore"):
        excess = np.where(good, 0, error / bound)
    excess[np.isnan(excess)] = np.inf
    worst = np.unravel_index(excess.argmax(), excess.shape)
    raise AssertionError(
        f"{what}: {np.count_nonzero(~good)} of {good.size} outside the bound, worst at "
        f"{tuple(int(i) for i in worst)}: {actual[worst]!r}, exact {expected[worst]!r}, "
        f"{float(excess[worst]):.3g} times the bound {float(bound[worst]):.3g}"
    )
