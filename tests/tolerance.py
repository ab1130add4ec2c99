"""The error bound of every result, and its derivation.

The project guarantees, with u half the spacing of the compute dtype at 1, eps = 2u, m the largest
logit of a row and p its softmax,

- loss of a row, log-sum-exp: 3 ulp(result) + u (Σ p_c |z_c - m| + |z_y - m|), the second part
  being what rounding z - m costs;
- gradient of the true class: 4 + gap ULP, gap = max(0, z_y - largest other logit);
- softmax, other gradient elements: relative (4 + |z - m|) eps, absolute 2 eps;
- sums and means: 1 ULP against the exact sum of the row losses.

Every bound below is one of these guarantees, or is derived from them to first order, and says which. The contract flushes
terms of Σ exp(z - m) below the smallest normal number to zero, so such terms, and no others, may be missing (`flushed`).

A new loss adds its entry in `BOUNDS`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from reference import (
    ORACLES,
    WIDE,
    AsymmetricLoss,
    BinaryCrossEntropy,
    BinaryLogits,
    CategoricalCrossEntropy,
    DistillationLoss,
    Elementwise,
    Entropy,
    FocalLoss,
    InfoNce,
    KlDiv,
    LinearLoss,
    NllLoss,
    Poly1Loss,
    RegionLoss,
    RowLoss,
    Rows,
    SigmoidContrastive,
    SigmoidFocal,
    SoftmaxLoss,
    Vectors,
)

# Errors of the logits after the transform, in eps of their size. Soft-cap: tanh is good to 2 ulp;
# z/c, c · tanh and the rounded parameter add half each, a reciprocal another. Temperature:
# the quotient, the parameter, and a reciprocal if the division became a multiplication.
SOFTCAP_EPS = 4.0
TEMPERATURE_EPS = 2.0
# 1 - tanh² from a tanh good to 2 ulp at an argument good to 1: twice 2.5, and two roundings.
SLOPE_EPS = 6.0
# What the elementary functions are measured to, by themselves.
EXP_EPS, LOG_EPS, LOG1P_EPS = 0.9, 1.0, 1.41


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
    """The rounding errors of a row that every loss inherits."""

    def __init__(self, rows: Rows, dtype: np.dtype):
        self.rows, self.dtype, self.eps = rows, dtype, eps(dtype)
        self.distance = np.abs(rows.d)
        # Σ p |z - m| of the guarantee.
        self.spread = times(rows.p, self.distance).sum(axis=-1, keepdims=True)
        self.flushed = np.where(rows.e < 1.001 * tiny(dtype), rows.e, 0).sum(axis=-1, keepdims=True)
        # The cap's error is of a logit's size, the quotient's of its distance to the maximum.
        size, heated = np.abs(rows.x) * (rows.softcap is not None), rows.temperature != 1
        shift = self.eps * (SOFTCAP_EPS * size + TEMPERATURE_EPS * heated * self.distance)
        self.shift = np.where(np.isfinite(shift), shift, 0)
        if heated or rows.softcap is not None:
            # A quotient below the smallest normal number is rounded to a multiple of this.
            floor = max(rows.softcap or 1, 1) / min(rows.temperature, 1)
            self.shift = self.shift + tiny(dtype) * self.eps * floor
        self.shift = self.shift + rows.of_z / WIDE(rows.temperature)
        # An error of x moves lse by Σ p δ, and lse - x_c by Σ_{k≠c} p_k δ_k + (1 - p_c) δ_c.
        self.lse_shift = (rows.p * self.shift).sum(axis=-1, keepdims=True)
        self.class_shift = self.lse_shift + (rows.others - rows.p) * self.shift

    @property
    def drift(self) -> np.ndarray:
        """The bound of lse - x_c but for the ulps of the result, for every class."""
        return self.eps / 2 * (self.spread + self.distance) + self.class_shift + self.flushed

    @property
    def relative(self) -> np.ndarray:
        """The relative bound of a softmax element, the transform's share apart."""
        return (4 + self.distance) * self.eps

    @property
    def nll(self) -> np.ndarray:
        """The bound of lse - x_c for every class."""
        return 3 * ulp(self.rows.log1p_rest[..., None] - self.rows.d, self.dtype) + self.drift

    @property
    def p(self) -> np.ndarray:
        """The bound of a softmax element, as part of something larger; a small one flushes."""
        p = self.rows.p
        flushed = np.where(p < 1.01 * tiny(self.dtype), p, 0)
        return times(p, self.relative + self.class_shift) + flushed

    @property
    def others(self) -> np.ndarray:
        """The bound of 1 - p: it is the sum of the other elements, each off by its own error.

        Its least, (4 + gap) eps of 1 - p, is the guarantee for the gradient at the target.
        """
        rows = self.rows
        is_top = np.arange(rows.d.shape[-1]) == rows.top[..., None]
        error = times(rows.p, self.relative)
        below = np.where(is_top, 0, error).sum(axis=-1, keepdims=True)
        error = np.where(
            is_top, below, below + 4 * self.eps * rows.p.max(-1, keepdims=True) - error
        )
        return error + times(rows.p, self.class_shift) + self.flushed

    @property
    def lse(self) -> np.ndarray:
        """The bound of the log-sum-exp.

        For m < 0, m + log1p(rest) may cancel: then an ulp of log1p(rest) is what can be kept.
        """
        rows = self.rows
        size = np.maximum(np.abs(rows.lse), rows.log1p_rest)
        drift = self.eps / 2 * self.spread + self.lse_shift + self.flushed
        if rows.temperature != 1:
            drift = (
                drift + TEMPERATURE_EPS * self.eps * np.abs(rows.lse - rows.log1p_rest)[..., None]
            )
        return 3 * ulp(size, self.dtype) + drift[..., 0]

    @property
    def gap(self) -> np.ndarray:
        """For every class, how far it is above the largest other one, or 0."""
        rows = self.rows
        is_top = np.arange(rows.d.shape[-1]) == rows.top[..., None]
        second = np.where(is_top, -np.inf, rows.d).max(axis=-1, keepdims=True)
        return np.where(is_top, -second, 0)


# The bounds of one loss look at the same errors one after the other.
row_error = lru_cache(maxsize=2)(RowError)


def roundings(classes: int, dtype: np.dtype) -> int:
    """How often a term is rounded on its way to the sum over classes.

    Once with each of the up to 16 terms of its lane, by the tree over 64 lanes, by each of a
    chunk's up to 16 blocks where float64 is no wider than the terms, and in the result.
    """
    inside = min(classes, 1024)
    blocks = min(-(-classes // 1024), 16) + 1 if dtype == np.float64 else 0
    return -(-inside // 64) + int(np.ceil(np.log2(min(inside, 64)))) + blocks + 1


class SumError:
    """First-order errors of the sums over classes, in the order of the kernels.

    Attributes
    ----------
    of_distance : absolute, of x - m
    of_exp : relative, of exp(x - m); what flushes is lost
    of_total : relative, of Σ exp(x - m)
    of_log : absolute, of its logarithm
    """

    def __init__(self, rows: Rows, dtype: np.dtype):
        error = row_error(rows, dtype)
        classes, u, double = rows.d.shape[-1], error.eps / 2, eps(np.dtype(np.float64))
        is_top = np.arange(classes) == rows.top[..., None]
        at_top = np.where(is_top, error.shift, 0).sum(axis=-1, keepdims=True)
        self.distance = error.distance
        self.of_distance = u * self.distance + error.shift + at_top
        # Where a block or a chunk raises the maximum, the sums are multiplied by exp(old - new) in
        # float64.
        moves = min(-(-classes // 1024), 16) - 1 + (classes > 16384)
        self.of_moves = 2 * double * moves
        self.of_sum = u * roundings(classes, dtype) + self.of_moves
        if moves:
            self.of_sum = self.of_sum + double * self.distance
        flushed = rows.e < 1.001 * tiny(dtype)
        self.of_exp = np.where(flushed, 1, EXP_EPS * error.eps + self.of_distance)
        of_others = np.where(is_top, 0, times(rows.p, self.of_exp + self.of_sum))
        of_rest = of_others.sum(axis=-1)
        self.of_total = of_rest + u
        self.of_log = LOG1P_EPS * error.eps * rows.log1p_rest + of_rest
        self.p = rows.p

    def of_moment(self, size: np.ndarray, of_size: np.ndarray) -> np.ndarray:
        """Of Σ p f, from the size of each f and its error."""
        each = times(self.p, of_size) + times(times(self.p, size), self.of_exp + self.of_sum)
        return each.sum(axis=-1) + times(self.p, size).sum(axis=-1) * self.of_total

    @property
    def of_p(self) -> np.ndarray:
        """Relative, of p, which is multiplied by what both its sums and the result are scaled by."""
        return self.of_exp + self.of_total[..., None]


def lse_bound(oracle: Any) -> np.ndarray:
    """`logsumexp`: the guarantee; with weights, a bound on what the errors of the terms grow to."""
    if getattr(oracle, "weight", None) is None:
        return row_error(oracle.rows, oracle.dtype).lse
    error, unit = SumError(oracle.rows, oracle.dtype), eps(oracle.dtype)
    terms = times(np.abs(oracle.weight), oracle.rows.e)
    of_total = times(terms, error.of_exp + error.of_sum + unit / 2).sum(axis=-1)
    relative = of_total / np.abs(oracle.total) + unit
    log_total = np.log(np.abs(oracle.total))
    size = np.maximum(np.abs(oracle.rows.lse - oracle.rows.log1p_rest), np.abs(log_total))
    return relative + LOG1P_EPS * unit * np.abs(log_total) + unit * size


def softmax_bound(oracle: Any) -> np.ndarray:
    """`softmax`: the guarantee; elements below the smallest normal number flush."""
    error, p = row_error(oracle.rows, oracle.dtype), oracle.rows.p
    bound = np.minimum(times(p, error.relative), 2 * error.eps)
    bound = bound + np.where(p > 0, tiny(oracle.dtype), 0)
    return np.moveaxis(bound, -1, oracle.axis)


def log_softmax_bound(oracle: Any) -> np.ndarray:
    """`log_softmax`: the guarantee for the loss, because an element is minus that loss."""
    error = row_error(oracle.rows, oracle.dtype)
    nll = error.rows.log1p_rest[..., None] - error.rows.d
    return np.moveaxis(3 * ulp(nll, oracle.dtype) + error.drift, -1, oracle.axis)


class ModulationError(NamedTuple):
    """The bounds of a modulation's value, slope and curve, for every class."""

    value: np.ndarray
    slope: np.ndarray
    curve: np.ndarray


def focal_error(loss: FocalLoss, error: RowError) -> ModulationError:
    """First-order error of q^g l and its derivatives from those of l, p and q.

    q^g is exp(-g log1p(p/q)). An error r of p/q, relative, moves log1p by p r; the power takes
    the error of its exponent as a relative one. It flushes, as all exponentials do.
    """
    g, p, q, nll, share = loss.gamma, loss.rows.p, loss.rows.others, loss.nll, loss.share
    e, of_nll = error.eps, error.nll
    sizes = (p, error.p), (q, error.others), (nll, of_nll)
    relative_p, relative_q, relative_nll = (np.where(x == 0, 0, y / x) for x, y in sizes)
    odds = relative_p + relative_q + e / 2
    log_q = np.where(q == 0, 0, np.log(q))
    # Rounded besides: gamma and its product.
    exponent = g * (p * odds + LOG1P_EPS * e * np.abs(log_q)) + e * g * np.abs(log_q)
    power = q**g
    flushed = np.where(power < 1.01 * tiny(loss.dtype), power, 0)
    of_power = power * (exponent + EXP_EPS * e) + flushed
    value = times(power, of_nll) + times(of_power, nll) + e / 2 * times(power, nll)
    # 1 + g p l / q: gamma, quotient, product and the sum are rounded; 2 - l + (g - 1) p l / q alike.
    of_share = times(share, relative_p + relative_q + relative_nll + 1.5 * e)
    slope = of_power * (1 + g * share) + power * (g * of_share + e * (1 + g * share))
    inner = 2 - nll + (g - 1) * share
    of_inner = of_nll + np.abs(g - 1) * (of_share + e * share)
    of_inner = of_inner + e / 2 * (np.abs(2 - nll) + np.abs(inner))
    curve = g * (p / q) * (of_power * np.abs(inner) + power * of_inner)
    curve = curve + np.abs(loss.modulation.curve) * (odds + 1.5 * e)
    # Where 1 - p itself has flushed, so has all that the curve multiplies.
    curve = np.where(q < tiny(loss.dtype), np.abs(loss.modulation.curve), curve)
    return ModulationError(
        value + tiny(loss.dtype) * e, slope, np.where((p == 0) | (q == 0), 0, curve)
    )


def poly1_error(loss: Poly1Loss, error: RowError) -> ModulationError:
    """Errors of l, p and q, of which epsilon multiplies two; epsilon and the sums are rounded."""
    size, half, modulation = np.abs(loss.epsilon), error.eps / 2, loss.modulation
    of_p = size * (error.p + half * loss.rows.p)
    value = (
        error.nll
        + size * (error.others + half * loss.rows.others)
        + half * np.abs(modulation.value)
    )
    return ModulationError(
        value, of_p + half * np.abs(modulation.slope), of_p + half * np.abs(modulation.curve)
    )


MODULATION_ERRORS: dict[type, Callable[[Any, RowError], ModulationError]] = {
    FocalLoss: focal_error,
    Poly1Loss: poly1_error,
}


def row_loss_bound(loss: SoftmaxLoss) -> np.ndarray:
    """The guarantee for every row, and the errors that options add to it."""
    error, dtype = row_error(loss.rows, loss.dtype), loss.dtype
    modulated = MODULATION_ERRORS.get(type(loss))
    bound = loss.weighted(modulated(loss, error).value if modulated else error.drift)
    # The bound of a modulation includes the 3 ulp already; the product and the sum remain.
    ulps = 1.0 if modulated else 3.0
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


def weighted_row_bound(loss: NllLoss | CategoricalCrossEntropy) -> np.ndarray:
    """Σ a_c log p_c: errors of the logarithms, of the a_c, and of the sum if there is one.

    Every weight, and both parts of a smoothed a_c, are rounded and multiplied.
    """
    smooth = loss.label_smoothing != 0
    count = 1 + loss.weights_given + 4 * smooth
    if smooth or not loss.index:
        count += 2 + roundings(loss.classes, loss.dtype)
    relative = count * eps(loss.dtype) / 2
    if isinstance(loss, CategoricalCrossEntropy):
        relative = relative + LOG_EPS * eps(loss.dtype)
    return relative * loss.weighted(np.abs(loss.log_p))


def entropy_row_bound(loss: Entropy) -> np.ndarray:
    """log s + Σ p (m - x): both parts are positive; quotient, sum and factor are rounded."""
    error = SumError(loss.rows, loss.dtype)
    of_center = error.of_moment(error.distance, error.of_distance)
    return error.of_log + of_center + 2 * eps(loss.dtype) * loss.cost


def distillation_row_bound(loss: DistillationLoss) -> np.ndarray:
    """log s - log s' + Σ q (x' - m' - x + m), parts that cancel where student and teacher agree.

    The last moves to other maxima of both, and passes sizes beyond its own on the way.
    """
    rows, teacher, unit = loss.rows, loss.teacher, eps(loss.dtype)
    error, of_teacher = SumError(rows, loss.dtype), SumError(teacher, loss.dtype)
    apart = np.where(teacher.p == 0, 0, np.abs(teacher.d - rows.d))
    of_apart = error.of_distance + of_teacher.of_distance + unit / 2 * apart
    moment = of_teacher.of_moment(apart, of_apart)
    reach = times(teacher.p, error.distance + of_teacher.distance).sum(axis=-1)
    bound = moment + of_teacher.of_moves * reach + error.of_log + of_teacher.of_log
    parts = times(teacher.p, apart).sum(axis=-1) + np.abs(rows.log1p_rest - teacher.log1p_rest)
    return loss.heat**2 * (bound + 2 * unit * parts)


ROW_BOUNDS: dict[type, Callable[[Any], np.ndarray]] = {
    CategoricalCrossEntropy: weighted_row_bound,
    DistillationLoss: distillation_row_bound,
    Entropy: entropy_row_bound,
    NllLoss: weighted_row_bound,
}


def row_bound(loss: RowLoss) -> np.ndarray:
    """The bound of every row's loss; a sample weight is rounded and multiplied."""
    if isinstance(loss, SoftmaxLoss):
        return row_loss_bound(loss)
    bound = ROW_BOUNDS[type(loss)](loss) * np.abs(loss.sample_weight)
    bound = bound + eps(loss.dtype) * np.abs(loss.row_loss) + tiny(loss.dtype) * eps(loss.dtype)
    return loss.count(bound)


def loss_bound(loss: RowLoss) -> Any:
    """The guarantee for rows, summed, and 1 ULP for the sum itself."""
    rows = row_bound(loss)
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


def modulated_grad_bound(
    loss: SoftmaxLoss, error: RowError, modulated: ModulationError
) -> np.ndarray:
    """Over x: errors of p, of 1 - p, of the modulation's slope, of lse; three roundings of each part."""
    rows, (others_grad, own_grad, z_grad) = loss.rows, loss.grad_terms
    of_coef = times(loss.nll_weight, modulated.slope)
    mass, of_mass = (np.abs(a).sum(axis=-1, keepdims=True) for a in (loss.nll_coef, of_coef))
    z_coefficient = np.abs(2 * loss.z_loss * loss.lse)[..., None]
    bound = (mass - np.abs(loss.nll_coef) + z_coefficient) * error.p + (of_mass - of_coef) * rows.p
    bound = bound + np.abs(loss.nll_coef) * error.others + of_coef * rows.others
    bound = bound + 2 * loss.z_loss * rows.p * error.lse[..., None]
    bound = bound + 3 * error.eps * (np.abs(others_grad) + np.abs(own_grad) + np.abs(z_grad))
    return bound + (mass + z_coefficient) * np.where(rows.p > 0, tiny(loss.dtype), 0)


def plain_grad_bound(loss: SoftmaxLoss, error: RowError) -> np.ndarray:
    """Over x, without the ulps of the true class: the guarantee for one target, otherwise derived."""
    rows, dtype = loss.rows, loss.dtype
    others_grad = loss.grad_terms[0]
    z_coefficient = np.abs(2 * loss.z_loss * loss.lse)[..., None]
    mass = loss.nll_weight.sum(axis=-1, keepdims=True)
    if one_hot(loss):
        bound = np.minimum(times(others_grad, error.relative), 2 * error.eps * mass)
    else:
        # a·p - b·t - c·w: the softmax's error on the first, roundings of the coefficients, of
        # the products and of the difference on all, and the error of lse in the z-loss's.
        size = (mass + z_coefficient) * rows.p
        bound = times(size, error.relative + 2 * error.eps) + 3 * error.eps * loss.nll_weight
        bound = bound + 2 * loss.z_loss * rows.p * error.lse[..., None]
    # A relative change of p_c by what the transform's errors do to lse - x_c.
    bound = bound + (mass + z_coefficient) * rows.p * error.class_shift
    bound = bound + loss.nll_weight * error.flushed
    return bound + (mass + z_coefficient) * np.where(rows.p > 0, tiny(dtype), 0)


def one_hot(loss: SoftmaxLoss) -> bool:
    """Whether the loss of a row depends on the likelihood of its target alone."""
    return loss.index and not (
        loss.label_smoothing or loss.z_loss or type(loss) in MODULATION_ERRORS
    )


def grad_bound(loss: SoftmaxLoss) -> np.ndarray:
    """The guarantee if the loss depends on one target's likelihood alone, otherwise derived."""
    rows, error, dtype = loss.rows, row_error(loss.rows, loss.dtype), loss.dtype
    others_grad, own_grad, z_grad = loss.grad_terms
    modulated = MODULATION_ERRORS.get(type(loss))
    if modulated:
        bound = modulated_grad_bound(loss, error, modulated(loss, error)) * rows.slope
    else:
        bound = plain_grad_bound(loss, error) * rows.slope
    size = np.abs(others_grad) + np.abs(own_grad) + np.abs(z_grad)
    if rows.softcap is not None:
        bound = bound + size * (SLOPE_EPS * error.eps / WIDE(rows.temperature))
    if rows.temperature != 1:
        bound = bound + size * rows.slope * (TEMPERATURE_EPS * error.eps)
    bound = bound * np.abs(loss.coefficient)[..., None] + tiny(dtype)
    if one_hot(loss):
        true_class = own_grad * rows.slope * loss.coefficient[..., None]
        bound = bound + np.where(own_grad > 0, times(ulp(true_class, dtype), 4 + error.gap), 0)
    return np.moveaxis(loss.count(bound), -1, loss.axis)


def rounded_sum(terms: int, dtype: np.dtype) -> Any:
    """Relative, of a sum of products in whatever order: each passes one rounding of its own and
    as many more as there are sums on its way, at most one for each other term (Higham, Accuracy
    and Stability of Numerical Algorithms, 2nd ed., section 3.1)."""
    u = eps(dtype) / 2
    return terms * u / (1 - terms * u)


def of_logits(loss: LinearLoss) -> np.ndarray:
    """Absolute, of logits that are products of BLAS and a bias; to first order, but for 2 %."""
    count = loss.features + 1 + 2 * loss.roundings
    least = count * tiny(loss.dtype) * eps(loss.dtype)
    return 1.02 * rounded_sum(count, loss.dtype) * loss.size + least


def linear_grads_bound(loss: LinearLoss) -> tuple[np.ndarray, ...]:
    """That of the logits' gradient, carried on; products of sums of C, N and N terms; the dtype."""
    rows, dtype = loss.rows, loss.dtype
    bound = loss.count(grad_bound(loss))
    # The slope of the cap moves with its argument.
    size = sum(np.abs(part) for part in loss.grad_terms)
    of_curvature = (
        times(np.abs(rows.curvature) * rows.of_z, size) * np.abs(loss.coefficient)[..., None]
    )
    bound = (bound + loss.count(of_curvature)).reshape(-1, loss.classes)
    bound = np.where(loss.live, bound, 0)
    terms = (loss.classes, *[len(bound)] * 2)
    carried = loss.products(bound, sizes=True)
    sizes = loss.products(bound + np.abs(loss.grad_logits), sizes=True)
    bounds = []
    for one, size, exact, count, answer in zip(
        carried, sizes, loss.grad, terms, loss.answers, strict=False
    ):
        count += loss.roundings
        one = one + rounded_sum(count, dtype) * size + count * tiny(dtype) * eps(dtype)
        bounds.append(one + of_answer(exact, one, dtype, answer))
    return tuple(bounds)


def of_answer(exact: np.ndarray, bound: np.ndarray, dtype: np.dtype, answer: np.dtype) -> Any:
    """What rounding a result to a narrower dtype adds to its bound."""
    if answer.itemsize >= dtype.itemsize:
        return 0
    info = ml_dtypes.finfo(answer)
    reach = np.abs(exact) + bound
    return float(info.eps) / 2 * reach + float(info.smallest_subnormal) / 2


def pulled_back_bound(vectors: Vectors, gradients: Any, bounds: Any) -> list[np.ndarray]:
    """Of (g - u (u · g)) / norm: u has three roundings and appears twice, the projection is rounded, multiplied and
    subtracted, norm and largest number are two quotients and the norm has a rounding of its own; then the dtype."""
    found = []
    exact, dtype = vectors.pulled_back(gradients), vectors.dtype
    for i, (g, bound) in enumerate(zip(gradients, bounds, strict=True)):
        if vectors.normalize:
            u, norm = np.abs(vectors.units[i]), vectors.norms[i]
            size, moved = (a + u * (u * a).sum(axis=1, keepdims=True) for a in (np.abs(g), bound))
            bound = (moved + 12 * eps(dtype) / 2 * size) / norm + tiny(dtype)
            bound = np.where(norm == 0, 0, bound)
        found.append(bound + of_answer(exact[i], bound, dtype, vectors.answers[i]))
    return found


def info_nce_bound(loss: InfoNce) -> Any:
    """The mean of both sides, whose sum is rounded; and their weight, which multiplies it."""
    bound = sum(loss_bound(side) for side in loss.sides) / len(loss.sides)
    return bound + 1.5 * ulp(loss.value, loss.dtype) * (len(loss.sides) > 1)


def info_nce_grads_bound(loss: InfoNce) -> tuple[Any, ...]:
    """Those of both sides; that of the temperature carries the queries' on, and is a sum of products of D features."""
    bounds = loss.both([linear_grads_bound(side) for side in loss.sides])
    u, g, dtype = np.abs(loss.sides[0].parts[0]), np.abs(loss.of_units[0]), loss.dtype
    count = u.shape[1] + loss.sides[0].roundings + 2
    of_temperature = (u * bounds[0]).sum() + rounded_sum(count, dtype) * (u * (g + bounds[0])).sum()
    of_temperature = of_temperature / loss.temperature + u.size * tiny(dtype)
    return (*pulled_back_bound(loss.vectors, loss.of_units, bounds), of_temperature)


def of_decisions(loss: SigmoidContrastive) -> np.ndarray:
    """Absolute, of the logits: scale, scaled vectors and bias are rounded, besides the product and the sum."""
    count = loss.a.shape[1] + 4 + 6 * loss.vectors.normalize
    least = count * tiny(loss.dtype)
    return 1.02 * rounded_sum(count, loss.dtype) * loss.size + least


def sigmoid_contrastive_bound(loss: SigmoidContrastive) -> Any:
    """Errors of the logits; exp, log1p and a sum make 3 eps of each softplus; weight, sum and result one each."""
    unit = eps(loss.dtype)
    rows = (of_decisions(loss) + 3 * unit * loss.softplus + tiny(loss.dtype)).sum(axis=1)
    rows = rows * np.abs(loss.weight) + 2 * unit * np.abs(loss.row_losses)
    if loss.reduction == "none":
        return rows
    return rows.sum() / np.abs(loss.divisor) + ulp(loss.value, loss.dtype)


def sigmoid_contrastive_grads_bound(loss: SigmoidContrastive) -> tuple[Any, ...]:
    """An error d of a logit changes its sigmoid by no more than the factor exp(d); exp, sum, quotient and coefficient make
    5 eps; then products of N terms, and a sum over features for the scale."""
    dtype, unit, n = loss.dtype, eps(loss.dtype), len(loss.a)
    coef, s = np.abs(loss.coefficient)[:, None], np.exp(-np.logaddexp(0, -loss.z))
    of_x = of_decisions(loss)
    bound = coef * s * (np.expm1(of_x) + 5 * unit) + tiny(dtype)
    g = np.abs(loss.slopes) + bound
    a, b, scale = np.abs(loss.a), np.abs(loss.b), np.abs(loss.scale)
    count = n + 3 + 3 * loss.vectors.normalize
    parts = [bound + rounded_sum(count, dtype) * g for _ in range(2)]
    of_units = [scale * parts[0] @ b, scale * parts[1].T @ a]
    of_units = [bounds + count * tiny(dtype) for bounds in of_units]
    through = (bound + rounded_sum(count + a.shape[1] + 3, dtype) * g) * (a @ b.T)
    of_scale = through.sum() + a.size * tiny(dtype) + ulp(loss.grad[2], dtype)
    of_bias = bound.sum() + ulp(loss.grad[3], dtype)
    return (*pulled_back_bound(loss.vectors, loss.of_units, of_units), of_scale, of_bias)


def weighted_slopes_bound(loss: NllLoss | CategoricalCrossEntropy) -> np.ndarray:
    """-a_c, or -a_c / p_c: products and quotients, four of them besides the weights."""
    count = 4 + loss.weights_given + 4 * (loss.label_smoothing != 0)
    return count * eps(loss.dtype) / 2 * np.abs(loss.slopes)


def entropy_slopes_bound(loss: Entropy) -> np.ndarray:
    """p (m - x - Σ p (m - x)): errors of p, of either distance, and of the slope of the cap."""
    rows, error, unit = loss.rows, SumError(loss.rows, loss.dtype), eps(loss.dtype)
    of_center = error.of_moment(error.distance, error.of_distance) + unit * loss.mean_distance
    of_excess = error.of_distance + of_center[..., None]
    size = times(rows.p, np.abs(loss.excess))
    bound = times(rows.p, of_excess) + size * (error.of_p + 3 * unit)
    bound = bound * rows.slope + size * rows.slope * TEMPERATURE_EPS * unit
    if rows.softcap is not None:
        bound = bound + size * (SLOPE_EPS * unit / WIDE(rows.temperature))
    return bound


def distillation_slopes_bound(loss: DistillationLoss) -> np.ndarray:
    """T (p - q): errors of both, three roundings of each."""
    bound = np.zeros(())
    for rows in (loss.rows, loss.teacher):
        bound = bound + rows.p * (SumError(rows, loss.dtype).of_p + 1.5 * eps(loss.dtype))
    return loss.heat * bound


SLOPES_BOUNDS: dict[type, Callable[[Any], np.ndarray]] = {
    CategoricalCrossEntropy: weighted_slopes_bound,
    DistillationLoss: distillation_slopes_bound,
    Entropy: entropy_slopes_bound,
    NllLoss: weighted_slopes_bound,
}


def slopes_bound(loss: RowLoss) -> np.ndarray:
    """Gradients of the losses that are not cross-entropies of logits.

    The weights, the divisor of a mean and the upstream gradient make one factor of a row, of three
    roundings. What is below the smallest normal number flushes, in both parts of a difference.
    """
    bound = SLOPES_BOUNDS[type(loss)](loss) + 1.5 * eps(loss.dtype) * np.abs(loss.slopes)
    bound = bound * np.abs(loss.coefficient)[..., None]
    bound = np.where(loss.slopes == 0, bound, bound + 2 * tiny(loss.dtype))
    return np.moveaxis(loss.count(bound), -1, loss.axis)


def hess_bound(loss: SoftmaxLoss) -> np.ndarray:
    """First-order error of a p q + 2 z p² + (the modulation's part), and of the transform's part.

    The sums that make a = Σ a_c F' + 2 z lse are of the kind that makes a softmax: 4 eps.
    """
    rows, error, dtype = loss.rows, row_error(loss.rows, loss.dtype), loss.dtype
    p, q, of_p, of_q = rows.p, rows.others, error.p, error.others
    zero = np.zeros_like(p)
    modulated = MODULATION_ERRORS.get(type(loss))
    modulation = modulated(loss, error) if modulated else ModulationError(zero, zero, zero)
    z = 2 * loss.z_loss
    of_coef, of_curve = (
        times(loss.nll_weight, modulation.slope),
        times(loss.nll_weight, modulation.curve),
    )
    nll_curve = np.abs(loss.nll_curve)
    mass = np.abs(loss.nll_coef).sum(axis=-1, keepdims=True) + z * np.abs(loss.lse)[..., None]
    of_mass = of_coef.sum(axis=-1, keepdims=True) + z * error.lse[..., None] + 4 * error.eps * mass
    square = z + nll_curve.sum(axis=-1, keepdims=True) - nll_curve
    of_square = of_curve.sum(axis=-1, keepdims=True) - of_curve
    bound = mass * (of_p * q + p * of_q) + of_mass * p * q
    bound = bound + square * 2 * p * of_p + of_square * p**2
    bound = bound + nll_curve * 2 * q * of_q + of_curve * q**2
    # Three roundings of each part, and one for every weight.
    rounding = (3 + loss.weights_given) * error.eps
    bound = bound + rounding * (mass * p * q + square * p**2 + nll_curve * q**2)
    first = (mass - np.abs(loss.nll_coef)) * p + np.abs(loss.nll_coef) * q
    second = np.abs(sum(loss.hess_terms))
    bound = bound * rows.slope**2
    if rows.temperature != 1:
        bound = bound + second * rows.slope**2 * (2 * TEMPERATURE_EPS * error.eps)
    if rows.softcap is not None:
        heat, cap = WIDE(rows.temperature), WIDE(rows.softcap)
        bound = bound + second * rows.slope * (2 * SLOPE_EPS * error.eps / heat)
        of_first = (
            modulated_grad_bound(loss, error, modulation)
            if modulated
            else plain_grad_bound(loss, error)
        )
        of_first = of_first + times(first, rounding + (4 + error.gap) * error.eps)
        bound = bound + of_first * np.abs(rows.curvature)
        # d²x/dz² = -2 tanh slope / c, a product of what is known to SOFTCAP_EPS and SLOPE_EPS.
        fraction = np.where(np.isfinite(rows.x), np.abs(rows.x), 0) * heat / cap
        of_curvature = 2 / cap * fraction * SLOPE_EPS * error.eps / heat
        of_curvature = of_curvature + (SOFTCAP_EPS + TEMPERATURE_EPS + 3) * error.eps * np.abs(
            rows.curvature
        )
        bound = bound + first * (of_curvature + tiny(dtype) / heat)
    bound = bound * np.abs(loss.coefficient)[..., None] + tiny(dtype)
    return np.moveaxis(loss.count(bound), -1, loss.axis)


# --- elements ---------------------------------------------------------------------------------
#
# First-order errors in eps; half an eps for every rounding. Whatever is made of exp, and every
# derivative, may flush below the smallest normal number.

# 1 / (1 + e) and e / (1 + e) with e = exp(-|z|): e moves the first by e / (1 + e) <= 1/2 of its
# error; a sum and a quotient, and for the second a product with e itself.
LARGE_EPS = EXP_EPS / 2 + 1.0
SIGMOID_EPS = EXP_EPS + LARGE_EPS + 0.5
LOG_EPS = 1.0


class ElementError(NamedTuple):
    """The bounds of an element's loss and derivatives, without weights."""

    loss: np.ndarray
    slope: np.ndarray
    curve: np.ndarray


def of_targets(loss: Elementwise) -> np.ndarray:
    """Smoothing rounds both of its factors and the sum."""
    return np.where(loss.smoothing == 0, 0, eps(loss.dtype) * np.abs(loss.t))


def binary_error(loss: BinaryCrossEntropy) -> ElementError:
    """Two logarithms; p - t and 1 - p, their product or a constant in its place, and a quotient."""
    e, of_t, t = eps(loss.dtype), of_targets(loss), loss.t
    log_p, log_q = (np.abs(a) for a in loss.logs)
    value = (LOG_EPS + 0.5) * times(t, log_p) + (LOG1P_EPS + 1) * times(1 - t, log_q)
    value = e * (value + 0.5 * np.abs(loss.element)) + times(of_t, log_p) + times(of_t, log_q)
    variance = loss.p * (1 - loss.p)
    variance = np.maximum(variance, 1e-12) if loss.eps is None else variance
    slope = 2 * e * np.abs(loss.slope) + times(
        of_t, np.where(loss.inside & (variance > 0), 1 / variance, 0)
    )
    return ElementError(value, slope, np.zeros_like(value))


def softplus_error(loss: BinaryLogits) -> tuple[np.ndarray, np.ndarray]:
    """Of softplus(-z) and softplus(z): exp moves log1p by no more than its own relative error."""
    e = eps(loss.dtype)
    rest = (EXP_EPS + LOG1P_EPS) * e * loss.rest + tiny(loss.dtype)
    return rest + e / 2 * loss.softplus_m, rest + e / 2 * loss.softplus


def logits_error(loss: BinaryLogits) -> ElementError:
    """The factors are rounded once, or twice with pos_weight; so are products and sum."""
    e, floor = eps(loss.dtype), tiny(loss.dtype)
    of_t = of_targets(loss)
    positive, negative = np.abs(loss.positive), np.abs(loss.negative)
    ratio = np.where(loss.t == 0, 0, positive / np.where(loss.t == 0, 1, loss.t))
    of_minus, of_plus = softplus_error(loss)
    subnormal = loss.pos_weighted * floor * e  # what t w may have lost
    value = (
        times(positive, of_minus)
        + times(subnormal + 0 * loss.t, loss.softplus_m)
        + times(negative, of_plus)
    )
    value = value + e * (times(positive, loss.softplus_m) + times(negative, loss.softplus))
    value = value + times(of_t * ratio, loss.softplus_m) + times(of_t, loss.softplus)
    value = value + e / 2 * np.abs(loss.ce)
    slope = (SIGMOID_EPS + 1) * e * (negative * loss.up + positive * loss.down)
    slope = slope + of_t * (ratio * loss.down + loss.up) + e / 2 * np.abs(loss.ce_slope)
    slope = slope + floor * (positive + negative)
    variance = loss.up * loss.down
    curve = (SIGMOID_EPS + LARGE_EPS + 2) * e * (positive + negative) * variance
    curve = curve + of_t * (1 + ratio) * variance + floor * (positive + negative)
    return ElementError(value, slope, curve)


def sigmoid_focal_error(loss: SigmoidFocal) -> ElementError:
    """exp turns the error of gamma log q into a relative one; then products and sums."""
    e, floor, g, t = eps(loss.dtype), tiny(loss.dtype), loss.gamma, loss.t
    ce_error = logits_error(loss)
    of_ce, ce = ce_error.loss, np.abs(loss.ce)
    of_minus, of_plus = softplus_error(loss)
    # Soft targets: a sum of two sigmoids, each times a factor that is rounded, and a logarithm.
    mixed = (SIGMOID_EPS + 1.5) * e + LOG_EPS * e * np.abs(loss.log_q)
    of_log = np.where(t == 1, of_plus, np.where(t == 0, of_minus, mixed))
    exponent = times(g, of_log) + e * times(g, np.abs(loss.log_q))
    of_power = exponent + EXP_EPS * e
    if g == 2:  # a square
        of_power = (2 * (SIGMOID_EPS + np.where(loss.hard, 0, 1.5)) + 0.5) * e
    relative = of_power + 2.5 * e  # alpha, 1 - alpha, 1 - t, their sum; the product
    power = np.abs(loss.power)
    bare = loss.bare_power
    gone = np.where(bare < 1.01 * floor, np.abs(loss.alpha_t) * bare, 0)
    # Where c is infinite, so is the loss, or its factor is 0: nothing is rounded.
    reach = np.where(np.isfinite(ce), ce, 0)
    value = times(power, of_ce) + times(np.abs(loss.element), relative + e / 2)
    value = value + gone * reach + floor * e * (1 + reach)
    variance, r, slope_ce = loss.up * loss.down, np.abs(loss.r), np.abs(loss.ce_slope)
    of_r = SIGMOID_EPS * e * r
    soft = e * variance / np.where(loss.hard, 1, loss.q) + (2 * SIGMOID_EPS + LARGE_EPS + 3) * e * r
    of_r = np.where(loss.hard, of_r, soft)
    of_share = times(of_r, ce) + times(r, of_ce) + e / 2 * np.abs(loss.share)
    of_inner = ce_error.slope + g * (of_share + e / 2 * np.abs(loss.share))
    inner = np.abs(loss.ce_slope + g * loss.share)
    of_inner = of_inner + e / 2 * inner + floor * (1 + g * (1 + reach))
    slope = times(power, of_inner) + times(power * inner, relative + e / 2) + gone * inner
    w = (g - 1) * loss.r + (loss.down - loss.up)
    of_w = np.abs(g - 1) * (of_r + e * r) + (SIGMOID_EPS + 0.5) * e + e / 2 * np.abs(w)
    turn = np.abs(2 * loss.r * loss.ce_slope) + np.abs(loss.share * w)
    of_turn = 2 * (of_r * slope_ce + r * ce_error.slope) + times(of_share, np.abs(w))
    of_turn = of_turn + times(np.abs(loss.share), of_w) + 1.5 * e * turn
    second = np.abs(variance + g * (2 * loss.r * loss.ce_slope + loss.share * w))
    of_second = (SIGMOID_EPS + LARGE_EPS + 0.5) * e * variance + g * (of_turn + e * turn)
    of_second = of_second + e / 2 * second + floor * (1 + g * (1 + reach))
    curve = times(power, of_second) + times(power * second, relative + e / 2) + gone * second
    tail = floor * e * (1 + g * (1 + reach))
    return ElementError(value, slope + tail, curve + tail)


def asymmetric_error(loss: AsymmetricLoss) -> ElementError:
    """Of p - clip the error is that of p, however little is left; what is near 0 may be 0 or twice as much."""
    e, floor = eps(loss.dtype), tiny(loss.dtype)
    up, down, m, r, cost = loss.up, loss.down, loss.m, loss.r, loss.cost
    of_minus, of_plus = softplus_error(loss)
    of_up, of_down = SIGMOID_EPS * e * up + floor, SIGMOID_EPS * e * down + floor
    of_m, of_r, of_cost = of_up, of_down, of_plus
    if loss.clip > 0:  # it is rounded, and so are difference and sum
        of_m = of_up + e / 2 * (m + loss.clip)
        of_r = of_down + e / 2 * (r + loss.clip)
        # The logarithm is of 1 - m up to 1/2, and of r beyond.
        of_argument = np.where(m < 0.5, of_m, of_r)
        of_argument = np.where(np.abs(m - 0.5) <= of_m, np.maximum(of_m, of_r), of_argument)
        of_cost = of_argument / r + LOG1P_EPS * e * cost

    def of_power(
        bare: np.ndarray, gamma: Any, base: np.ndarray, of_base: np.ndarray, of_log: np.ndarray
    ) -> np.ndarray:
        """A product, of a base that is off by `of_base`, or exp of gamma times a logarithm."""
        if gamma in (0, 1, 2, 4):
            most, least = (base + of_base) ** gamma, np.maximum(base - of_base, 0) ** gamma
            error = np.maximum(most - bare, bare - least) + gamma * e * most
        else:
            log = np.where(bare == 0, 0, np.log(np.where(bare == 0, 1, bare)))
            off = gamma * of_log + e * np.abs(log)
            error = np.where(bare == 0, 0, bare * (np.expm1(np.minimum(off, 10)) + EXP_EPS * e))
            error = np.where(off > 1, (base + of_base) ** gamma * (1 + 2 * e * np.abs(log)), error)
        return error + np.where(bare < 1.01 * floor + error, np.minimum(bare + error, floor), 0)

    of_positive = of_power(loss.bare_positive, loss.gamma_pos, down, of_down, of_plus)
    of_log_m = of_minus
    if loss.clip > 0:
        log_m = np.where(m == 0, 0, np.abs(loss.log_m))
        of_log_m = np.where(m == 0, np.inf, of_m / np.where(m == 0, 1, m)) + LOG_EPS * e * log_m
        of_log_m = np.where(loss.gamma_neg == 0, 0, of_log_m)
    of_negative = of_power(loss.bare_negative, loss.gamma_neg, m, of_m, of_log_m)
    positive, negative = loss.positive_power, loss.negative_power
    t, tf = np.abs(loss.t), np.abs(1 - loss.t)

    # A term of the loss: its parts, two products, 1 - t; and the sum.
    of_first = times(of_positive, loss.softplus_m) + times(positive + of_positive, of_minus)
    of_second = times(of_negative, cost) + times(negative + of_negative, of_cost)
    value = times(t, of_first + e * times(positive, loss.softplus_m))
    value = value + times(tf, of_second + 1.5 * e * times(negative, cost))
    value = value + e / 2 * np.abs(loss.element)

    reach = np.where(np.isfinite(loss.softplus_m), loss.softplus_m, 0)
    of_rise = of_down + loss.gamma_pos * (times(of_up, reach) + times(up, of_minus))
    of_rise = of_rise + e * loss.gamma_pos * times(up, loss.softplus_m) + e / 2 * loss.rise
    spent = times(r, cost)
    of_spent = times(of_r, np.where(np.isfinite(cost), cost, 0)) + times(r, of_cost)
    of_fall = of_m + loss.gamma_neg * (of_spent + e * spent)
    fall = m + loss.gamma_neg * spent
    of_fall = of_fall + e / 2 * fall
    if loss.clip > 0:
        some = np.where(m == 0, 1, m)
        share = fall / some
        of_share = of_fall / some + share * of_m / some + e / 2 * share
        part = down / r
        of_part = of_down / r + part * of_r / r + e / 2 * part
        of_fall = of_up * part * share + up * of_part * share + up * part * of_share
        of_fall = of_fall + e * up * part * share
        # Where m may be 0, its share is at most 1 + gamma_neg.
        near = (m <= 2 * of_m) & (up >= loss.clip - of_m)
        of_fall = np.where(near, loss.fall + 1.01 * (1 + loss.gamma_neg) * up, of_fall)
        of_fall = np.where((m == 0) & ~near, 0, of_fall)
    of_first = times(of_positive, loss.rise) + times(positive + of_positive, of_rise)
    of_second = times(of_negative, loss.fall) + times(negative + of_negative, of_fall)
    slope = times(t, of_first + e * times(positive, loss.rise))
    slope = slope + times(tf, of_second + 1.5 * e * times(negative, loss.fall))
    slope = slope + e / 2 * np.abs(loss.slope)
    tail = floor * e * (1 + loss.gamma_pos + loss.gamma_neg) * (1 + reach)
    return ElementError(value + tail, slope + tail, np.zeros_like(value))


def kl_error(loss: KlDiv) -> ElementError:
    """log t - x and a product; e^t beyond 0 is the square of a root."""
    e, mass = eps(loss.dtype), np.abs(loss.mass)
    gap = np.abs(loss.log_mass - loss.x)
    if loss.log_target:
        of_mass = np.where(loss.t > 0, 2 * EXP_EPS + 0.5, EXP_EPS) * e * mass
        of_mass = of_mass + np.where(loss.bare_mass < 1.01 * tiny(loss.dtype), loss.bare_mass, 0)
        value = times(of_mass, np.where(mass == 0, 0, gap)) + e * times(mass, gap)
    else:
        of_mass = np.zeros_like(mass)
        value = LOG_EPS * e * times(mass, np.abs(loss.log_mass)) + e * times(mass, gap)
    return ElementError(value, of_mass, np.zeros_like(mass))


ELEMENT_ERRORS: dict[type, Callable[[Any], ElementError]] = {
    BinaryCrossEntropy: binary_error,
    BinaryLogits: logits_error,
    SigmoidFocal: sigmoid_focal_error,
    AsymmetricLoss: asymmetric_error,
    KlDiv: kl_error,
}


def elements_bound(loss: Elementwise) -> Any:
    """Of every element, a weight's product besides; summed, and 1 ULP for the sum itself."""
    e, weight = eps(loss.dtype), np.abs(loss.sample_weight)
    # Each of up to four roundings may be one of subnormal numbers.
    least = 2 * tiny(loss.dtype) * e
    bound = times(weight, ELEMENT_ERRORS[type(loss)](loss).loss + least)
    bound = bound + loss.weighted * e / 2 * np.abs(loss.losses) + least
    if loss.reduction == "none":
        return bound
    return bound.sum() / np.abs(loss.divisor) + ulp(loss.value, loss.dtype)


def derivative_bound(loss: Elementwise, order: str) -> np.ndarray:
    """Scale, upstream gradient and weight are rounded and multiplied; what is small flushes."""
    e, exact = eps(loss.dtype), getattr(loss, order)
    factor, exact = np.abs(loss.coefficient), times(loss.coefficient != 0, exact)
    bound = times(factor, getattr(ELEMENT_ERRORS[type(loss)](loss), order))
    roundings = 1.5 + 0.5 * loss.weighted + 0.5 * loss.upstreamed
    bound = bound + roundings * e * np.abs(loss.coefficient * exact)
    # A factor below the smallest normal number has lost digits.
    return bound + times(tiny(loss.dtype) * e, np.abs(exact)) + tiny(loss.dtype)


ELEMENTWISE_BOUND = (
    elements_bound,
    lambda loss: derivative_bound(loss, "slope"),
    lambda loss: derivative_bound(loss, "curve"),
)


class RegionError:
    """The rounding errors of a region's sums, and of the ratio that they make."""

    def __init__(self, loss: RegionLoss):
        self.loss, self.eps = loss, eps(loss.dtype)
        p, classes = loss.p, loss.x.shape[1]
        # An exponential, its sum (16 additions of a quarter of 64 classes, 2 of the quarters, one for each 64 classes), the
        # reciprocal and the product, half an eps each but the first; and what rounding z - m costs, for itself and the sum.
        spread = times(p, loss.distance).sum(axis=1, keepdims=True)
        self.steps = 9 + classes / 128
        self.p = (
            p * self.eps * (EXP_EPS + self.steps + 1.5 + (times(p > 0, loss.distance) + spread) / 2)
        )
        self.p = self.p + np.where(loss.counts[:, None], tiny(loss.dtype), 0)
        of_p = loss.total(self.p)
        # Products with soft targets are rounded; sums of f64, compensated or of f32, and the ratio are good to some eps of
        # float64, of what is added.
        (true, false, missed), (above, below) = loss.weights, loss.ratio
        overlap = loss.total(self.p * abs(loss.t) + self.eps / 2 * p * abs(loss.t))
        double = WIDE(2.0**-52) * 8
        size = (true + false + missed) * loss.total(p * abs(loss.t)) + false * loss.total(p)
        size = size + missed * loss.total(abs(loss.t)) + loss.smooth
        self.above = loss.overlap * overlap + double * abs(above)
        self.below = abs(true - false - missed) * overlap + false * of_p + double * size
        self.ratio = self.above / abs(below) + abs(above) * self.below / below**2

    @property
    def value(self) -> Any:
        """Of the result: of the ratios, and one rounding."""
        loss = self.loss
        ratio = self.ratio + WIDE(2.0**-50)
        rows = np.where(loss.share == 0, 0, abs(loss.share) * ratio).sum(axis=1)
        if loss.reduction == "none":
            rows = rows[0] if loss.batch else rows
        else:
            rows = rows.sum() if loss.reduction == "sum" else rows.mean()
        return rows + ulp(loss.value, loss.dtype)

    @property
    def grad(self) -> np.ndarray:
        """Of p (g - Σ p g): what p, g and the sum are off by, and the roundings of difference, product and result."""
        loss = self.loss
        (true, false, missed), (above, below) = loss.weights, loss.ratio
        scale = abs(loss.scale)
        share = self.ratio / abs(below) + abs(above) * self.below / abs(below) ** 3
        of_p = scale * false * share
        of_overlap = scale * (
            abs(true - false - missed) * share + loss.overlap * self.below / below**2
        )
        slopes = [abs(slope) for slope in loss.slopes]
        of_p, of_overlap = of_p + self.eps * slopes[0], of_overlap + self.eps * slopes[1]
        size = slopes[0][..., None] + slopes[1][..., None] * abs(loss.t)
        pull = of_p[..., None] + of_overlap[..., None] * abs(loss.t) + self.eps * 1.5 * size
        # The center is summed of products in as many steps as the softmax's divisor.
        off = loss.p * pull + self.p * abs(loss.pull) + self.eps * (self.steps + 1) * loss.p * size
        center = (loss.p * loss.pull).sum(axis=1, keepdims=True)
        error = self.p * abs(loss.pull - center) + loss.p * (pull + off.sum(axis=1, keepdims=True))
        error = error + 1.5 * self.eps * loss.p * (size + abs(center))
        return loss.laid(np.where(loss.counts[:, None], error + 2 * tiny(loss.dtype), 0))


REGION_BOUND = (lambda loss: RegionError(loss).value, lambda loss: RegionError(loss).grad)


class Bound(NamedTuple):
    """The bounds of a function, each from its oracle; of the derivatives that it has."""

    value: Callable[[Any], Any]
    grad: Callable[[Any], Any] | None = None
    hess: Callable[[Any], Any] | None = None


BOUNDS: dict[str, Bound] = {
    "asymmetric_loss": Bound(*ELEMENTWISE_BOUND[:2]),
    "binary_cross_entropy": Bound(*ELEMENTWISE_BOUND[:2]),
    "binary_cross_entropy_with_logits": Bound(*ELEMENTWISE_BOUND),
    "categorical_cross_entropy": Bound(loss_bound, slopes_bound),
    "cross_entropy": Bound(loss_bound, grad_bound, hess_bound),
    "dice_loss": Bound(*REGION_BOUND),
    "distillation_loss": Bound(loss_bound, slopes_bound),
    "entropy": Bound(loss_bound, slopes_bound),
    "focal_loss": Bound(loss_bound, grad_bound, hess_bound),
    "info_nce": Bound(info_nce_bound, info_nce_grads_bound),
    "kl_div": Bound(*ELEMENTWISE_BOUND[:2]),
    "linear_cross_entropy": Bound(loss_bound, linear_grads_bound),
    "logsumexp": Bound(lse_bound),
    "log_softmax": Bound(log_softmax_bound),
    "nll_loss": Bound(loss_bound, slopes_bound),
    "perplexity": Bound(perplexity_bound),
    "poly1_loss": Bound(loss_bound, grad_bound),
    "sigmoid_contrastive_loss": Bound(sigmoid_contrastive_bound, sigmoid_contrastive_grads_bound),
    "sigmoid_focal_loss": Bound(*ELEMENTWISE_BOUND),
    "softmax": Bound(softmax_bound),
    "token_log_probs": Bound(loss_bound),
    "tversky_loss": Bound(*REGION_BOUND),
}


class Expected:
    """What a call must return, and how far off it may be: each part is computed when it is first read, and read-only."""

    value: Any
    value_bound: Any
    grad: Any
    grad_bound: Any
    lse: Any
    lse_bound: Any
    hess: Any
    hess_bound: Any

    def __init__(self, name: str, args: tuple[Any, ...], options: dict[str, Any]):
        self._call = name, *_copied([args, options])

    def __getattr__(self, part: str) -> Any:
        if part not in Expected.__annotations__:
            raise AttributeError(part)
        what, _, of_bound = part.partition("_")
        with np.errstate(all="ignore"):
            found = self._bound(what) if of_bound else self._exact(what)
        if isinstance(found, np.ndarray):
            found.flags.writeable = False
        setattr(self, part, found)
        return found

    def _exact(self, what: str) -> Any:
        if what in ("grad", "hess") and getattr(BOUNDS[self._call[0]], what) is None:
            return None
        return getattr(_oracle_of(self), what, None)

    def _bound(self, what: str) -> Any:
        oracle = _oracle_of(self)
        if what == "lse":
            return lse_bound(oracle) if hasattr(oracle, "lse") else None
        bound = getattr(BOUNDS[self._call[0]], what)
        return bound and bound(oracle)


@lru_cache(maxsize=1)
def _oracle_of(expected: Expected) -> Any:
    """Return the oracle; that of the call before, of many times the size of what is read of it, is let go."""
    name, args, options = expected._call
    oracle = ORACLES[name](*args, **options)
    for side in getattr(oracle, "sides", [oracle]):
        if isinstance(side, LinearLoss):
            side.rows.of_z = of_logits(side)
    return oracle


def _copied(value: Any) -> Any:
    """Return the arguments as they are now: calls may write to them before all parts are read."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _identity(value: Any) -> Any:
    """Return what tells apart any two arguments whose oracles may differ."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).digest()
    if isinstance(value, np.ndarray | list | tuple):
        return type(value), tuple(map(_identity, value))
    return type(value), repr(value)


# What was expected last, so that every instruction set after the first is held to the same without computing it again: their
# tests run one after the other. So many elements cover the cases of any one test.
_LAST: OrderedDict[Any, tuple[Expected, int]] = OrderedDict()
LAST_ELEMENTS = 4_000_000


def expect(name: str, *args: Any, **options: Any) -> Expected:
    """Return what the public function `name` must give for these arguments."""
    key = name, _identity(args), _identity(sorted(options.items()))
    if key in _LAST:
        _LAST.move_to_end(key)
        return _LAST[key][0]
    found = Expected(name, args, options)
    _LAST[key] = found, sum(np.size(array) for array in args)
    held = sum(size for _, size in _LAST.values())
    while held > LAST_ELEMENTS:
        held -= _LAST.popitem(last=False)[1][1]
    return found


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
