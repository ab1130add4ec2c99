"""Independent oracles: every public operation by its formula, in exact or in extended arithmetic.

There are two forms. `exact_row` computes one row with mpmath. `SoftmaxLoss` and its relatives are vectorised over rows in
`numpy.longdouble`, whose 64 (or 113) bits leave an error far below the bounds that they are compared under;
`test_reference.py` compares them with `exact_row`.

Every cross-entropy weights the negative log-likelihood lse - x_c of each class by some a_c (`nll_weight`): one-hot times a
weight for an index target, a smoothed distribution otherwise. With A = Σ a_c, the loss is Σ a_c (lse - x_c) and its
gradient is (A - a_c) p_c - a_c (1 - p_c), which never cancels if no a_c is negative. So the kinds of targets need no
distinction here.

A modulated loss applies a function F to each likelihood, Σ a_c F(lse - x_c). Its gradient has a_c F' (`nll_coef`) in place
of a_c, and its Hessian has terms in a_c F'' (`nll_curve`): see `Modulation`.

A new loss adds a subclass and its entry in `ORACLES`. Oracles divide by zero and subtract infinities: evaluate them through
`tolerance.expect`, which silences NumPy's warnings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from mpmath import mp

mp.dps = 60
WIDE = np.longdouble


def compute_dtype(logits: Any) -> np.dtype:
    """Return the dtype the arithmetic is done in: float32 for float32, else float64."""
    return np.dtype(np.float32 if np.asarray(logits).dtype == np.float32 else np.float64)


# --- one row, exactly -----------------------------------------------------------------------


class ExactRow(NamedTuple):
    """What `exact_row` returns, as mpmath numbers."""

    loss: Any
    grad: list[Any]
    hess: list[Any]
    lse: Any
    probabilities: list[Any]


def _exact_exponentials(x: list[Any]) -> tuple[Any, list[Any], Any, list[Any]]:
    """Return max(x), exp(x - max), their sum, and for each class the sum of all the others."""
    top = max(x)
    e = [mp.exp(v - top) if mp.isfinite(v) else mp.zero for v in x]
    before, after = [mp.zero], [mp.zero]
    for value in e:
        before.append(before[-1] + value)
    for value in reversed(e):
        after.append(after[-1] + value)
    after.reverse()
    return top, e, before[-1], [before[c] + after[c + 1] for c in range(len(x))]


def focal(gamma: float) -> Callable[[Any], Any]:
    """Return l -> (1 - p)^gamma l with p = exp(-l), for mpmath."""
    return lambda nll: (-mp.expm1(-nll)) ** mp.mpf(gamma) * nll


def poly1(epsilon: float) -> Callable[[Any], Any]:
    """Return l -> l + epsilon (1 - p) with p = exp(-l), for mpmath."""
    return lambda nll: nll - mp.mpf(epsilon) * mp.expm1(-nll)


def differences(f: Callable[[Any], Any], at: Any) -> tuple[Any, Any]:
    """First and second derivative by central differences, of 40 good digits."""
    with mp.workdps(120):
        step = at * mp.mpf(10) ** -20
        below, here, above = f(at - step), f(at), f(at + step)
        return (above - below) / (2 * step), (above - 2 * here + below) / step**2


def exact_row(
    logits: Sequence[Any],
    target: int | Sequence[float],
    *,
    class_weight: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    modulation: Callable[[Any], Any] | None = None,
) -> ExactRow:
    """Cross-entropy of one row, its derivatives, log-sum-exp and softmax, in 60 digits.

    `modulation` takes each lse - x_c on its way into the loss; it is differentiated numerically.
    """
    classes = len(logits)
    z = [mp.mpf(v) for v in logits]
    t = mp.mpf(temperature)
    if any(mp.isnan(v) or v == mp.inf for v in z) or all(v == -mp.inf for v in z):
        lse = -mp.inf if all(v == -mp.inf for v in z) else mp.nan
        return ExactRow(mp.nan, *([mp.nan] * classes,) * 2, lse, [mp.nan] * classes)
    x, slope, curvature = [v / t for v in z], [1 / t] * classes, [mp.zero] * classes
    if softcap is not None:
        cap = mp.mpf(softcap)
        x = [cap * mp.tanh(v / cap) / t if mp.isfinite(v) else v for v in z]
        slope = [mp.sech(v / cap) ** 2 / t if mp.isfinite(v) else mp.zero for v in z]
        curvature = [
            -2 * mp.tanh(v / cap) / cap * s if s else s for v, s in zip(z, slope, strict=True)
        ]
    top, e, total, others = _exact_exponentials(x)
    lse = top + mp.log(total)
    weight = [mp.mpf(float(w)) for w in class_weight or [1] * classes]
    smooth = mp.mpf(label_smoothing)
    if isinstance(target, Sequence):
        probabilities = [mp.mpf(float(v)) for v in target]
    else:
        probabilities = [mp.mpf(c == target) for c in range(classes)]
    nll_weight = [
        w * (a * (1 - smooth) + smooth / classes)
        for w, a in zip(weight, probabilities, strict=True)
    ]
    loss = z_loss * lse**2
    nll_coef, nll_curve = [mp.zero] * classes, [mp.zero] * classes
    for c, a in enumerate(nll_weight):
        if not a:
            continue
        nll = mp.log1p(others[c] / e[c]) if e[c] else mp.inf
        loss += a * (nll if modulation is None else modulation(nll))
        first, second = mp.one, mp.zero
        if modulation is not None and mp.isfinite(nll) and nll:
            first, second = differences(modulation, nll)
        nll_coef[c], nll_curve[c] = a * first, a * second
    p, q = [v / total for v in e], [v / total for v in others]
    z_grad = 2 * mp.mpf(z_loss) * lse
    all_coef, all_curve = mp.fsum(nll_coef), mp.fsum(nll_curve)
    grad, hess = [], []
    for c in range(classes):
        first = (all_coef - nll_coef[c]) * p[c] - nll_coef[c] * q[c] + z_grad * p[c]
        second = (all_coef + z_grad) * p[c] * q[c] + 2 * z_loss * p[c] ** 2
        second += (all_curve - nll_curve[c]) * p[c] ** 2 + nll_curve[c] * q[c] ** 2
        grad.append(first * slope[c])
        hess.append(second * slope[c] ** 2 + first * curvature[c])
    return ExactRow(loss, grad, hess, lse, p)


def exact_softmax(logits: Sequence[Any], temperature: float = 1.0) -> tuple[list[Any], list[Any]]:
    """Softmax of one row in 60 digits, and its logarithms."""
    x = [mp.mpf(v) / mp.mpf(temperature) for v in logits]
    top, e, total, others = _exact_exponentials(x)
    log_total = mp.log1p(others[x.index(top)])
    return [v / total for v in e], [v - top - log_total for v in x]


def exact_entropy(logits: Sequence[Any], temperature: float = 1.0) -> tuple[Any, list[Any]]:
    """-Σ p log p of one row, and its gradient, in 60 digits."""
    p, log_p = exact_softmax(logits, temperature)
    likely = [
        (a, b) if mp.isfinite(b) else (mp.zero, mp.zero) for a, b in zip(p, log_p, strict=True)
    ]
    entropy = -mp.fsum(a * b for a, b in likely)
    return entropy, [-a * (b + entropy) / mp.mpf(temperature) for a, b in likely]


def exact_distillation(
    student: Sequence[Any], teacher: Sequence[Any], temperature: float = 1.0
) -> tuple[Any, list[Any]]:
    """T² Σ q (log q - log p) of one row, and its gradient for the student, in 60 digits."""
    heat = mp.mpf(temperature)
    (p, log_p), (q, log_q) = (exact_softmax(row, temperature) for row in (student, teacher))
    known = [c for c, v in enumerate(log_q) if mp.isfinite(v)]
    divergence = mp.fsum(q[c] * (log_q[c] - log_p[c]) for c in known)
    return heat**2 * divergence, [heat * (a - b) for a, b in zip(p, q, strict=True)]


def exact_lse(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, Any]:
    """log |Σ b exp(a)| in 60 digits, and the sign of the sum."""
    total = mp.fsum(mp.mpf(w) * mp.exp(mp.mpf(v)) for v, w in zip(a, b, strict=True) if w)
    return mp.log(abs(total)) if total else -mp.inf, mp.sign(total)


def wide(values: Sequence[Any]) -> np.ndarray:
    """Round mpmath numbers to extended precision; what is below its range is 0."""
    return np.array([WIDE(mp.nstr(v, 40) if abs(v) > mp.mpf("1e-4900") else 0) for v in values])


# --- elements, in extended precision --------------------------------------------------------


def nonzero(factor: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Return the product with 0 · anything = 0."""
    return np.where(factor == 0, 0, factor * a)


class Elementwise:
    """A loss of every element x and its target t: `value`, `grad`, `hess`, as the call returns.

    Subclasses give `element`, `slope`, `curve`: the loss and its derivatives in x.
    """

    def __init__(
        self,
        x: Any,
        targets: Any,
        *,
        sample_weight: Any = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        grad_output: Any = None,
    ):
        x = np.asarray(x)
        self.dtype, self.reduction, self.shape = compute_dtype(x), reduction, x.shape
        self.x, self.given = x.astype(WIDE), self.computed(targets)
        self.smoothing = WIDE(label_smoothing)
        self.t = self.given * (1 - self.smoothing) + self.smoothing / 2
        self.weighted, self.upstreamed = sample_weight is not None, grad_output is not None
        self.sample_weight = np.ones(x.shape, WIDE)
        if self.weighted:
            self.sample_weight = np.broadcast_to(self.computed(sample_weight), x.shape)
        upstream = WIDE(1) if grad_output is None else self.computed(grad_output)
        self.upstream = np.broadcast_to(upstream, x.shape)

    def computed(self, values: Any) -> np.ndarray:
        """Return numbers rounded to the compute dtype, as the call uses them."""
        return np.asarray(values).astype(self.dtype).astype(WIDE)

    def flushed(self, exponentials: np.ndarray) -> np.ndarray:
        """Return 0 in place of numbers below the smallest normal one, as the call does."""
        return np.where(exponentials < np.finfo(self.dtype).tiny, 0, exponentials)

    element: np.ndarray
    slope: np.ndarray
    curve: np.ndarray

    @cached_property
    def losses(self) -> np.ndarray:
        """The weighted loss of every element."""
        return nonzero(self.sample_weight, self.element)

    @cached_property
    def divisor(self) -> Any:
        """What the sum is divided by."""
        if self.reduction == "batchmean":
            return WIDE(self.shape[0] if self.shape else 1)
        return self.sample_weight.sum() if self.reduction == "mean" else WIDE(1)

    @property
    def value(self) -> Any:
        """The loss the call returns."""
        if self.reduction == "none":
            return self.losses
        return self.losses.sum() / self.divisor if self.divisor else WIDE(np.nan)

    @cached_property
    def coefficient(self) -> np.ndarray:
        """What multiplies the derivatives of each element."""
        weight = nonzero(self.sample_weight, self.upstream)
        return weight / self.divisor if self.divisor else np.zeros(self.shape, WIDE)

    @property
    def grad(self) -> np.ndarray:
        """d(Σ grad_output · loss)/dx."""
        return nonzero(self.coefficient, self.slope)

    @property
    def hess(self) -> np.ndarray:
        """d²(Σ grad_output · loss)/dx²."""
        return nonzero(self.coefficient, self.curve)


class BinaryCrossEntropy(Elementwise):
    """PyTorch's, whose logarithms end at -100, or Keras', whose probabilities are clipped."""

    def __init__(self, probs: Any, targets: Any, *, eps: float | None = None, **options: Any):
        super().__init__(probs, targets, **options)
        self.eps, self.p, self.others = eps, self.x, 1 - self.x
        self.inside = np.ones(self.shape, bool)
        if eps is not None:
            low = self.computed(eps)
            below, above = self.x < low, self.others < low
            self.inside = ~(below | above)
            # The smaller of p and 1 - p is exactly eps.
            self.p = np.where(below, low, np.where(above, 1 - low, self.x))
            self.others = np.where(below, 1 - low, np.where(above, low, self.others))

    @cached_property
    def logs(self) -> tuple[np.ndarray, np.ndarray]:
        """Log p and log(1 - p)."""
        near = self.p > 0.5
        log_p = np.where(near, np.log1p(-self.others), np.log(self.p))
        logs = log_p, np.where(near, np.log(self.others), np.log1p(-self.p))
        return logs if self.eps is not None else tuple(np.maximum(a, -100) for a in logs)

    @cached_property
    def element(self) -> np.ndarray:
        """-t log p - (1 - t) log(1 - p)."""
        return -nonzero(self.t, self.logs[0]) - nonzero(1 - self.t, self.logs[1])

    @cached_property
    def slope(self) -> np.ndarray:
        """(p - t) / (p (1 - p)), bounded (PyTorch) or 0 outside (Keras)."""
        variance = self.p * (1 - self.p)
        if self.eps is None:
            return (self.p - self.t) / np.maximum(variance, self.computed(1e-12))
        lone = (self.p == self.t) & (variance == 0)
        slope = np.where(lone, 1 - 2 * self.t, (self.p - self.t) / np.where(lone, 1, variance))
        return np.where(self.inside, slope, 0)


class BinaryLogits(Elementwise):
    """t w softplus(-z) + (1 - t) softplus(z)."""

    def __init__(self, logits: Any, targets: Any, *, pos_weight: Any = None, **options: Any):
        super().__init__(logits, targets, **options)
        self.pos_weighted = pos_weight is not None
        self.positive, self.negative = self.t, 1 - self.t
        if self.pos_weighted:
            self.positive = nonzero(self.t, np.broadcast_to(self.computed(pos_weight), self.shape))
        e = np.exp(-np.abs(self.x))
        self.rest = np.log1p(e)
        large, small = 1 / (1 + e), e / (1 + e)
        self.up = np.where(self.x > 0, large, small)
        self.down = np.where(self.x > 0, small, large)
        self.softplus = np.maximum(self.x, 0) + self.rest
        self.softplus_m = np.maximum(-self.x, 0) + self.rest

        self.ce = nonzero(self.positive, self.softplus_m) + nonzero(self.negative, self.softplus)
        self.ce_slope = self.negative * self.up - self.positive * self.down

    @cached_property
    def element(self) -> np.ndarray:
        """The two terms; a factor of 0 makes its term 0."""
        return self.ce

    @cached_property
    def slope(self) -> np.ndarray:
        """(1 - t) s(z) - t w s(-z)."""
        return self.ce_slope

    @cached_property
    def curve(self) -> np.ndarray:
        """((1 - t) + t w) s(z) s(-z)."""
        return (self.negative + self.positive) * self.up * self.down


class SigmoidFocal(BinaryLogits):
    """alpha_t q^gamma c with c the cross-entropy, q = t s(-z) + (1 - t) s(z); r is q' / q."""

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        alpha: float | None = 0.25,
        gamma: float = 2.0,
        **options: Any,
    ):
        super().__init__(logits, targets, **options)
        t, self.gamma = self.t, WIDE(gamma)
        self.alpha_t = np.ones(self.shape, WIDE)
        if alpha is not None:
            self.alpha_t = WIDE(alpha) * t + (1 - WIDE(alpha)) * (1 - t)
        self.hard = (t == 0) | (t == 1)
        self.q = t * self.down + (1 - t) * self.up
        lone = np.where(t == 1, self.softplus, self.softplus_m)
        self.log_q = np.where(self.hard, -lone, np.log(self.q))
        mixed = (1 - 2 * t) * self.up * self.down / self.q
        self.r = np.where(t == 1, -self.up, np.where(t == 0, self.down, mixed))
        self.bare_power = np.exp(nonzero(self.gamma, self.log_q))
        self.power = self.alpha_t * self.flushed(self.bare_power)
        self.share = nonzero(self.r, self.ce)

    @cached_property
    def element(self) -> np.ndarray:
        """alpha_t q^gamma c."""
        return nonzero(self.power, self.ce)

    @cached_property
    def slope(self) -> np.ndarray:
        """alpha_t q^gamma (c' + gamma r c)."""
        return self.power * (self.ce_slope + self.gamma * self.share)

    @cached_property
    def curve(self) -> np.ndarray:
        """The rule for products once more; q'' / q = r (s(-z) - s(z))."""
        turn = 2 * self.r * self.ce_slope
        turn = turn + self.share * ((self.gamma - 1) * self.r + (self.down - self.up))
        return self.power * (self.up * self.down + self.gamma * turn)


class AsymmetricLoss(BinaryLogits):
    """t q^gamma_pos softplus(-z) + (1 - t) m^gamma_neg (-log r) with m = max(p - clip, 0), r = 1 - m."""

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 1.0,
        clip: float = 0.05,
        **options: Any,
    ):
        super().__init__(logits, targets, **options)
        self.gamma_neg, self.gamma_pos, self.clip = WIDE(gamma_neg), WIDE(gamma_pos), WIDE(clip)
        self.m, self.r = self.up, self.down
        self.cost, self.log_m = self.softplus, -self.softplus_m
        if clip:
            self.m = np.where(self.up < self.clip, 0, self.up - self.clip)
            self.r = np.where(self.m == 0, 1, self.down + self.clip)
            small = self.m < 0.5
            self.cost = -np.where(small, np.log1p(-np.where(small, self.m, 0)), np.log(self.r))
            self.log_m = np.log(self.m)
        self.bare_positive = np.exp(nonzero(self.gamma_pos, -self.softplus))
        self.bare_negative = np.exp(nonzero(self.gamma_neg, self.log_m))
        self.positive_power = self.flushed(self.bare_positive)
        self.negative_power = self.flushed(self.bare_negative)
        self.rise = self.down + self.gamma_pos * nonzero(self.up, self.softplus_m)
        # p q (m - gamma_neg r log r) / (m r), which is 0 where m is.
        self.fall = self.m + self.gamma_neg * nonzero(self.r, self.cost)
        if clip:
            share = self.fall / np.where(self.m == 0, 1, self.m)
            self.fall = np.where(self.m == 0, 0, self.up * (self.down / self.r) * share)

    @cached_property
    def element(self) -> np.ndarray:
        """The two terms; a factor of 0 makes its term 0."""
        positive = nonzero(self.t, nonzero(self.positive_power, self.softplus_m))
        return positive + nonzero(1 - self.t, nonzero(self.negative_power, self.cost))

    @cached_property
    def slope(self) -> np.ndarray:
        """The rule for products."""
        positive = nonzero(self.t, nonzero(self.positive_power, self.rise))
        return nonzero(1 - self.t, nonzero(self.negative_power, self.fall)) - positive


class KlDiv(Elementwise):
    """t (log t - x), or e^t (t - x)."""

    def __init__(self, log_probs: Any, targets: Any, *, log_target: bool = False, **options: Any):
        super().__init__(log_probs, targets, **options)
        self.log_target = log_target
        self.bare_mass = np.exp(self.t) if log_target else self.t
        self.mass = self.flushed(self.bare_mass) if log_target else self.t
        self.log_mass = self.t if log_target else np.log(self.t)

    @cached_property
    def element(self) -> np.ndarray:
        """0 where the target has no mass, unless x is NaN."""
        nothing = np.where(np.isnan(self.x), np.nan, 0)
        return np.where(self.mass == 0, nothing, self.mass * (self.log_mass - self.x))

    @cached_property
    def slope(self) -> np.ndarray:
        """Minus the mass."""
        return -self.mass


# --- many rows, in extended precision -------------------------------------------------------


class Rows:
    """Softmax of rows (the last axis) and the terms of its error bounds, in extended precision.

    Attributes
    ----------
    x : logits after soft-cap and temperature
    slope, curvature : dx/dz, d²x/dz²
    top : the position of one maximum
    d : x - max
    e, rest, log1p_rest : exp(d), its sum without the one maximum, and log1p of that
    p, others : softmax, and 1 - softmax without cancellation
    lse : log-sum-exp
    spoilt : rows with +inf or NaN, or nothing but -inf: their results are NaN
    of_z : error bound of the logits, for losses that compute them
    """

    of_z: Any = 0

    def __init__(self, logits: Any, softcap: float | None = None, temperature: float = 1.0):
        z = np.asarray(logits).astype(WIDE)
        self.softcap, self.temperature = softcap, temperature
        finite, heat = np.isfinite(z), WIDE(temperature)
        self.slope, self.curvature = np.full_like(z, 1 / heat), np.zeros_like(z)
        if softcap is not None:
            capped = WIDE(softcap) * np.tanh(z / WIDE(softcap))
            self.slope = np.where(finite, np.cosh(z / WIDE(softcap)) ** -2.0, 0) / heat
            fraction = np.where(finite, capped, 0) / WIDE(softcap)
            self.curvature = -2 * fraction / WIDE(softcap) * self.slope
            z = np.where(finite, capped, z)
        self.x, largest = z / heat, z.max(axis=-1)
        # A row is NaN if it has a +inf or NaN, or no finite logit.
        self.spoilt = ~np.isfinite(largest)
        # The maximum is subtracted first, so that a large common offset does not enter the rounding of the division.
        self.d = np.where(self.spoilt[..., None], np.nan, (z - largest[..., None]) / heat)
        self.e = np.exp(self.d)
        self.top = z.argmax(axis=-1)
        is_top = np.arange(z.shape[-1]) == self.top[..., None]
        self.rest = np.where(is_top, 0, self.e).sum(axis=-1)
        self.log1p_rest = np.where(self.spoilt, np.nan, np.log1p(self.rest))
        total = 1 + self.rest[..., None]
        self.p = self.e / total
        self.others = np.where(is_top, self.rest[..., None], total - self.e) / total
        self.lse = largest / heat + np.where(self.spoilt, 0, self.log1p_rest)


class Modulation(NamedTuple):
    """F(l) of every class's l = lse - x_c, and its first and second derivatives."""

    value: np.ndarray
    slope: np.ndarray
    curve: np.ndarray


class RowLoss:
    """What losses over rows share: targets, weights, reductions, upstream gradients.

    Subclasses define `cost`, the loss of every row, and `slopes`, its gradient, before sample weights, reduction and
    upstream gradient. Without targets every row counts.
    """

    def __init__(
        self,
        x: Any,
        targets: Any = None,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        grad_output: Any = None,
        dtype: np.dtype | None = None,
    ):
        x = np.asarray(x)
        self.dtype = compute_dtype(x) if dtype is None else dtype
        self.axis, self.reduction = axis, reduction
        self.label_smoothing = WIDE(label_smoothing)
        self.given = np.moveaxis(x, axis, -1)
        self.shape, self.classes = self.given.shape[:-1], self.given.shape[-1]
        self.class_weight = np.ones(self.classes, WIDE)
        if class_weight is not None:
            self.class_weight = self._as_computed(class_weight)
        self.sample_weight = np.ones(self.shape, WIDE)
        if sample_weight is not None:
            self.sample_weight = np.broadcast_to(self._as_computed(sample_weight), self.shape)
        self.grad_output = WIDE(1) if grad_output is None else self._as_computed(grad_output)
        self.weights_given = (class_weight is not None) + (sample_weight is not None)
        self.index = targets is not None and np.ndim(targets) == x.ndim - 1
        self.counts = np.ones(self.shape, bool)
        if self.index:
            self.counts = np.asarray(targets) != ignore_index
            self.targets = np.where(self.counts, targets, 0).astype(np.int64)
        elif targets is not None:
            self.targets = self._as_computed(np.moveaxis(np.asarray(targets), axis, -1))

    def _as_computed(self, values: Any) -> np.ndarray:
        return np.asarray(values).astype(self.dtype).astype(WIDE)

    @cached_property
    def nll_weight(self) -> np.ndarray:
        """The weight a_c of each class's negative log-likelihood in the loss."""
        probabilities = self.targets
        if self.index:
            probabilities = (np.arange(self.classes) == self.targets[..., None]).astype(WIDE)
        smooth = self.label_smoothing
        return self.class_weight * (probabilities * (1 - smooth) + smooth / self.classes)

    def weighted(self, per_class: np.ndarray) -> np.ndarray:
        """Return Σ a_c · per_class_c with 0 · inf = 0."""
        return np.where(self.nll_weight == 0, 0, self.nll_weight * per_class).sum(axis=-1)

    def count(self, rows: np.ndarray) -> np.ndarray:
        """Return the values of rows that count, and zeros for the others."""
        counts = self.counts if rows.ndim == len(self.shape) else self.counts[..., None]
        return np.where(counts, rows, 0)

    @property
    def cost(self) -> np.ndarray:
        """The loss of every row, before sample weights."""
        raise NotImplementedError

    @property
    def slopes(self) -> np.ndarray:
        """The derivative of the cost with respect to every class."""
        raise NotImplementedError

    @cached_property
    def row_loss(self) -> np.ndarray:
        """The loss of every row: `reduction="none"`."""
        counts = self.counts & (self.sample_weight != 0)
        return np.where(counts, self.cost * self.sample_weight, 0)

    @cached_property
    def divisor(self) -> Any:
        """What `reduction="mean"` divides by."""
        weight = self.sample_weight
        if self.index:
            weight = weight * self.class_weight[self.targets]
        return self.count(weight).sum()

    @property
    def value(self) -> Any:
        """The loss the call returns."""
        if self.reduction == "none":
            return self.row_loss
        total = self.row_loss.sum()
        if self.reduction == "sum":
            return total
        return total / self.divisor if self.divisor else WIDE(np.nan)

    @cached_property
    def coefficient(self) -> np.ndarray:
        """What multiplies the gradient of each row."""
        scale = np.broadcast_to(self.grad_output * self.sample_weight, self.shape)
        if self.reduction == "mean":
            scale = scale / self.divisor if self.divisor else np.zeros(self.shape, WIDE)
        return self.count(scale)

    @property
    def grad(self) -> np.ndarray:
        """d(Σ grad_output · loss)/d(the first argument)."""
        return self._per_class(self.slopes)

    def _per_class(self, derivative: np.ndarray) -> np.ndarray:
        """Scale the derivative of each row, and move its classes to their axis."""
        live = self.counts & (self.coefficient != 0)
        derivative = derivative * self.coefficient[..., None]
        return np.moveaxis(np.where(live[..., None], derivative, 0), -1, self.axis)


class SoftmaxLoss(RowLoss):
    """Cross-entropy with all options: what the call must return.

    That is `value`, `grad`, `hess` and `lse`.
    """

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        **options: Any,
    ):
        super().__init__(logits, targets, **options)
        self.z_loss = WIDE(z_loss)
        self.rows = Rows(self.given, softcap, temperature)

    def weighted(self, per_class: np.ndarray) -> np.ndarray:
        """The same, but NaN for rows that are."""
        return np.where(self.rows.spoilt, np.nan, super().weighted(per_class))

    @property
    def nll(self) -> np.ndarray:
        """lse - x_c for every class."""
        return self.rows.log1p_rest[..., None] - self.rows.d

    @cached_property
    def modulation(self) -> Modulation:
        """The identity."""
        return Modulation(self.nll, np.ones_like(self.nll), np.zeros_like(self.nll))

    @cached_property
    def nll_coef(self) -> np.ndarray:
        """a_c F'(lse - x_c): the coefficient of each class's likelihood in the gradient."""
        return np.where(self.nll_weight == 0, 0, self.nll_weight * self.modulation.slope)

    @cached_property
    def nll_curve(self) -> np.ndarray:
        """a_c F''(lse - x_c): the coefficient of each class's likelihood in the Hessian."""
        return np.where(self.nll_weight == 0, 0, self.nll_weight * self.modulation.curve)

    @cached_property
    def cost(self) -> np.ndarray:
        """The modulated likelihoods and the z-loss."""
        return self.weighted(self.modulation.value) + self.z_loss * self.rows.lse**2

    @cached_property
    def grad_terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parts of the gradient that come from the other classes' likelihoods, the class's own, and the z-loss."""
        rows, nll_coef = self.rows, self.nll_coef
        mass = nll_coef.sum(axis=-1, keepdims=True)
        z_grad = 2 * self.z_loss * rows.lse[..., None] * rows.p
        return (mass - nll_coef) * rows.p, nll_coef * rows.others, z_grad

    @cached_property
    def hess_terms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The parts of the Hessian over x that come from the softmax, the z-loss and the modulation."""
        rows, nll_curve = self.rows, self.nll_curve
        coefficient = self.nll_coef.sum(axis=-1, keepdims=True)
        coefficient = coefficient + 2 * self.z_loss * rows.lse[..., None]
        others = nll_curve.sum(axis=-1, keepdims=True) - nll_curve
        modulated = others * rows.p**2 + nll_curve * rows.others**2
        return coefficient * rows.p * rows.others, 2 * self.z_loss * rows.p**2, modulated

    @property
    def slopes(self) -> np.ndarray:
        """The sum of the three parts, multiplied by dx/dz."""
        others_grad, own_grad, z_grad = self.grad_terms
        return (others_grad - own_grad + z_grad) * self.rows.slope

    @property
    def hess(self) -> np.ndarray:
        """d²(Σ grad_output · loss)/d(logits)², the diagonal."""
        others_grad, own_grad, z_grad = self.grad_terms
        hess = sum(self.hess_terms) * self.rows.slope**2
        return self._per_class(hess + (others_grad - own_grad + z_grad) * self.rows.curvature)

    @property
    def lse(self) -> np.ndarray:
        """The log-sum-exp of every row."""
        return self.rows.lse


def answer_dtypes(given: Sequence[np.ndarray]) -> list[np.dtype]:
    """The dtypes of arrays' gradients."""
    return [a.dtype if a.dtype.kind in "fV" else np.dtype(float) for a in given]


class LinearLoss(SoftmaxLoss):
    """Cross-entropy of hidden @ weight.T + bias: `grad` is the tuple of its gradients.

    Callers pass bfloat16 as wider numbers. A row that does not count adds nothing to the gradient of the weight, whatever it
    holds.
    """

    # Of each vector, roundings before it is multiplied, and of its gradient.
    roundings = 0

    def __init__(
        self,
        hidden: Any,
        weight: Any,
        targets: Any,
        *,
        bias: Any = None,
        answers: Any = None,
        **options: Any,
    ):
        given = [np.asarray(a) for a in (hidden, weight, *([] if bias is None else [bias]))]
        self.answers = answers or answer_dtypes(given)
        wide = any(a.itemsize == 8 for a in self.answers)
        self.features = given[0].shape[-1]
        self.parts = [a.astype(WIDE) for a in given]
        dtype = np.dtype(float if wide else np.float32)
        super().__init__(self.logits, targets, dtype=dtype, **options)
        live = self.counts & (self.sample_weight != 0)
        if self.reduction == "mean":
            live = live & (self.divisor != 0)
        self.live = live.reshape(-1, 1)
        self.parts[0] = np.where(live[..., None], self.parts[0], 0)
        super().__init__(self.logits, targets, dtype=dtype, **options)
        h, w, *b = map(np.abs, self.parts)
        self.size = h @ w.T + (b[0] if b else 0)

    @property
    def logits(self) -> np.ndarray:
        """Of rows that do not count, the bias."""
        h, w, *b = self.parts
        return h @ w.T + (b[0] if b else 0)

    @cached_property
    def grad_logits(self) -> np.ndarray:
        """As a matrix."""
        return super().grad.reshape(-1, self.classes)

    def products(self, gradient: np.ndarray, sizes: bool = False) -> tuple[np.ndarray, ...]:
        """What a gradient of the logits becomes on its way back; or the sizes of all terms."""
        hidden, weight = (np.abs(a) if sizes else a for a in self.parts[:2])
        states = hidden.reshape(-1, self.features)
        back = (gradient @ weight).reshape(hidden.shape), gradient.T @ states
        return (*back, gradient.sum(axis=0))[: len(self.parts)]

    @property
    def grad(self) -> tuple[np.ndarray, ...]:
        """Gradients of hidden, weight and bias."""
        return self.products(self.grad_logits)


class Vectors:
    """Two sets of vectors, divided by their norms or as they are, and what that makes of gradients."""

    def __init__(self, first: Any, second: Any, normalize: bool):
        given = [np.asarray(a) for a in (first, second)]
        self.answers, self.normalize = answer_dtypes(given), normalize
        wide = any(a.itemsize == 8 for a in self.answers)
        self.dtype = np.dtype(float if wide else np.float32)
        self.units = [a.astype(WIDE) for a in given]
        self.norms = [np.ones((len(a), 1), WIDE) for a in given]
        if normalize:
            self.norms = [np.sqrt((a * a).sum(axis=1, keepdims=True)) for a in self.units]
            self.units = [
                np.where(n == 0, 0, a / n) for a, n in zip(self.units, self.norms, strict=True)
            ]

    def pulled_back(self, gradients: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """(g - u (u · g)) / norm, the gradients of the vectors given; 0 of zero vectors."""
        if not self.normalize:
            return tuple(gradients)
        return tuple(
            np.where(n == 0, 0, (g - u * (u * g).sum(axis=1, keepdims=True)) / n)
            for g, u, n in zip(gradients, self.units, self.norms, strict=True)
        )


class InfoNce:
    """Cross-entropy of similarities, of rows and, if it is symmetric, of columns, each a `LinearLoss`.

    `grad` is that of queries, keys and temperature.
    """

    def __init__(
        self,
        queries: Any,
        keys: Any,
        *,
        targets: Any = None,
        temperature: float = 0.07,
        symmetric: bool = False,
        normalize: bool = False,
        **options: Any,
    ):
        self.vectors, self.temperature = Vectors(queries, keys, normalize), WIDE(temperature)
        self.dtype, self.reduction = self.vectors.dtype, options.get("reduction", "mean")
        q, k = self.vectors.units
        self.sides = [
            LinearLoss(
                *pair,
                np.arange(len(q)) if targets is None else targets,
                temperature=temperature,
                answers=[self.dtype] * 2,
                **options,
            )
            for pair in ((q, k), (k, q))[: 1 + symmetric]
        ]
        for side in self.sides:
            side.roundings = 3 * normalize + symmetric

    @property
    def value(self) -> Any:
        """The mean of both sides."""
        return sum(side.value for side in self.sides) / len(self.sides)

    @cached_property
    def of_units(self) -> list[np.ndarray]:
        """The gradients of the vectors that are multiplied."""
        return self.both([side.grad for side in self.sides])

    def both(self, of_sides: Sequence[Any]) -> list[np.ndarray]:
        """The mean of what there is of both sides; keys and queries change places."""
        ordered = [of_sides[0], *(side[::-1] for side in of_sides[1:])]
        return [sum(parts) / len(ordered) for parts in zip(*ordered, strict=True)]

    @property
    def grad(self) -> tuple[Any, ...]:
        """Gradients of queries and keys, and the derivative by the temperature."""
        of_temperature = -(self.sides[0].parts[0] * self.of_units[0]).sum() / self.temperature
        return (*self.vectors.pulled_back(self.of_units), of_temperature)


class SigmoidContrastive:
    """The sum over j of softplus(-y x), x = scale a · b + bias, y = 1 of pairs and -1 of others.

    `grad` is that of a, b, scale and bias.
    """

    def __init__(
        self,
        a: Any,
        b: Any,
        *,
        logit_scale: float,
        logit_bias: float,
        normalize: bool = False,
        sample_weight: Any = None,
        reduction: str = "mean",
        grad_output: Any = None,
    ):
        self.vectors, self.reduction = Vectors(a, b, normalize), reduction
        self.dtype, self.scale = self.vectors.dtype, WIDE(logit_scale)
        a, b = self.vectors.units
        weight = WIDE(1) if sample_weight is None else np.asarray(sample_weight).astype(self.dtype)
        self.weight = np.broadcast_to(weight.astype(WIDE), len(a))
        self.a, self.b = np.where(self.weight[:, None] == 0, 0, a), b
        self.similarities = self.a @ b.T
        self.sign = 2 * np.eye(len(a), dtype=WIDE) - 1
        self.z = -self.sign * (self.scale * self.similarities + WIDE(logit_bias))
        self.size = np.abs(self.scale) * (np.abs(self.a) @ np.abs(b).T) + np.abs(WIDE(logit_bias))
        self.softplus = np.maximum(self.z, 0) + np.log1p(np.exp(-np.abs(self.z)))
        self.divisor = self.weight.sum() if reduction == "mean" else WIDE(1)
        upstream = WIDE(1) if grad_output is None else np.asarray(grad_output).astype(WIDE)
        self.coefficient = upstream * self.weight / self.divisor
        if self.divisor == 0:
            self.coefficient = 0 * self.weight

    @property
    def row_losses(self) -> np.ndarray:
        """The weighted sum of each row."""
        return np.where(self.weight == 0, 0, self.weight * self.softplus.sum(axis=1))

    @property
    def value(self) -> Any:
        """The loss that the call returns."""
        rows = self.row_losses
        return rows if self.reduction == "none" else rows.sum() / self.divisor

    @cached_property
    def slopes(self) -> np.ndarray:
        """The gradient of x."""
        e = np.exp(-np.abs(self.z))
        sigmoid = np.where(self.z > 0, 1, e) / (1 + e)
        return np.where(self.coefficient == 0, 0, self.coefficient)[:, None] * -self.sign * sigmoid

    @cached_property
    def of_units(self) -> list[np.ndarray]:
        """The gradients of the vectors that are multiplied."""
        return [self.scale * self.slopes @ self.b, self.scale * self.slopes.T @ self.a]

    @property
    def grad(self) -> tuple[Any, ...]:
        """Gradients of a and b, and the derivatives by scale and bias."""
        of_scale = (self.slopes * self.similarities).sum()
        return (*self.vectors.pulled_back(self.of_units), of_scale, self.slopes.sum())


class FocalLoss(SoftmaxLoss):
    """q^g l with q = 1 - p; 0^0 is 1, p l of a masked class 0, l/q of a certain one 1."""

    def __init__(self, logits: Any, targets: Any, *, gamma: float = 2.0, **options: Any):
        super().__init__(logits, targets, **options)
        self.gamma = WIDE(gamma)

    @cached_property
    def share(self) -> np.ndarray:
        """P l / q, of every class."""
        p, q = self.rows.p, self.rows.others
        return np.where(p == 0, 0, p * np.where(q == 0, 1, self.nll / q))

    @cached_property
    def modulation(self) -> Modulation:
        """The derivatives by the rule for products: dq/dl = p, dp/dl = -p."""
        g, p, q, nll = self.gamma, self.rows.p, self.rows.others, self.nll
        slope = q**g * (1 + g * self.share)
        curve = g * q ** (g - 1) * p * (2 - nll + (g - 1) * self.share)
        return Modulation(q**g * nll, slope, np.where((p == 0) | (q == 0), 0, curve))


class Poly1Loss(SoftmaxLoss):
    """l + epsilon q with q = 1 - p."""

    def __init__(self, logits: Any, targets: Any, *, epsilon: float = 2.0, **options: Any):
        super().__init__(logits, targets, **options)
        self.epsilon = WIDE(epsilon)

    @cached_property
    def modulation(self) -> Modulation:
        """Its derivatives."""
        p, q = self.rows.p, self.rows.others
        return Modulation(self.nll + self.epsilon * q, 1 + self.epsilon * p, -self.epsilon * p)


class NllLoss(RowLoss):
    """-Σ a_c x_c of log-probabilities x, whatever they are."""

    @cached_property
    def log_p(self) -> np.ndarray:
        """The log-probabilities as they were given."""
        return self.given.astype(WIDE)

    @cached_property
    def cost(self) -> np.ndarray:
        """Linear in x."""
        return self.weighted(-self.log_p)

    @property
    def slopes(self) -> np.ndarray:
        """Whatever x is."""
        return -self.nll_weight


class CategoricalCrossEntropy(RowLoss):
    """-Σ a_c log p_c of probabilities p, which `eps` moves into [eps, 1 - eps]."""

    def __init__(self, probs: Any, targets: Any, *, eps: float | None = None, **options: Any):
        super().__init__(probs, targets, **options)
        given = self.given.astype(WIDE)
        # The bound in the dtype of what it is compared with; of p near 1 it is that of 1 - p.
        self.low = WIDE(0) if eps is None else self._as_computed([eps])[0]
        self.above = 1 - given < self.low
        self.p = np.where(given < self.low, self.low, given)
        self.moves = (given >= self.low) & ~self.above

    @cached_property
    def log_p(self) -> np.ndarray:
        """Of the probabilities as they are used."""
        return np.where(self.above, np.log1p(-self.low), np.log(self.p))

    @cached_property
    def cost(self) -> np.ndarray:
        """As for `nll_loss`."""
        return self.weighted(-self.log_p)

    @property
    def slopes(self) -> np.ndarray:
        """0 where p was clipped, or where the class has weight 0."""
        moved = ~(self.moves | np.isnan(self.p))
        return np.where(moved | (self.nll_weight == 0), 0, -self.nll_weight / abs(self.p))


class Entropy(RowLoss):
    """-Σ p log p = log s + Σ p (m - x) of p = softmax(x): two parts that are not negative."""

    def __init__(
        self,
        logits: Any,
        *,
        softcap: float | None = None,
        temperature: float = 1.0,
        reduction: str = "none",
        **options: Any,
    ):
        super().__init__(logits, reduction=reduction, **options)
        self.rows = Rows(self.given, softcap, temperature)

    @cached_property
    def mean_distance(self) -> np.ndarray:
        """Σ p (m - x), of every row."""
        p = self.rows.p
        return np.where(p == 0, 0, -p * self.rows.d).sum(axis=-1)

    @cached_property
    def cost(self) -> np.ndarray:
        """Both parts."""
        return self.rows.log1p_rest + self.mean_distance

    @cached_property
    def excess(self) -> np.ndarray:
        """How much nearer to the maximum a class is than p expects: -(log p + entropy)."""
        return -self.rows.d - self.mean_distance[..., None]

    @property
    def slopes(self) -> np.ndarray:
        """0 for a class that is masked."""
        rows = self.rows
        return np.where(rows.p == 0, 0, rows.p * self.excess) * rows.slope


class DistillationLoss(RowLoss):
    """T² Σ q (log q - log p) with q = softmax(teacher/T), p = softmax(student/T).

    Since p and q both sum to 1, Σ q (r - 1 - log r) with r = p/q is the same, and does not cancel.
    """

    def __init__(self, student: Any, teacher: Any, *, temperature: float = 1.0, **options: Any):
        super().__init__(student, **options)
        teacher = np.moveaxis(np.asarray(teacher), self.axis, -1)
        self.rows = Rows(self.given, None, temperature)
        self.teacher = Rows(teacher.astype(self.dtype), None, temperature)
        self.heat = WIDE(temperature)

    @cached_property
    def cost(self) -> np.ndarray:
        """+inf for a class that only the student has masked."""
        p, q = self.rows.p, self.teacher.p
        of_student, of_teacher = (
            rows.d - rows.log1p_rest[..., None] for rows in (self.rows, self.teacher)
        )
        log_ratio = np.where(np.isneginf(of_teacher), 0, of_student - of_teacher)
        near = q * (np.expm1(log_ratio) - log_ratio)
        far = p - q - np.where(q == 0, 0, q * log_ratio)
        terms = np.where(abs(log_ratio) < 1, near, far)
        terms = np.where(
            np.isneginf(log_ratio), np.inf, np.where(np.isneginf(of_teacher), p, terms)
        )
        spoilt = self.rows.spoilt | self.teacher.spoilt
        return np.where(spoilt, np.nan, self.heat**2 * terms.sum(axis=-1))

    @property
    def slopes(self) -> np.ndarray:
        """T² (p - q) / T."""
        return self.heat * (self.rows.p - self.teacher.p)


class TokenLogProbs(SoftmaxLoss):
    """log p of the targets, ignored rows 0: the negated loss."""

    def __init__(self, logits: Any, targets: Any, *, reduction: str = "none", **options: Any):
        super().__init__(logits, targets, reduction=reduction, **options)

    @property
    def value(self) -> Any:
        """The log-probabilities the call returns."""
        return -super().value


class Perplexity(SoftmaxLoss):
    """exp of the mean loss."""

    @property
    def value(self) -> Any:
        """The perplexity the call returns."""
        return np.exp(super().value)


class SoftmaxFamily:
    """`logsumexp`, `softmax` and `log_softmax` along one axis."""

    def __init__(self, x: Any, axis: int = -1):
        x = np.asarray(x)
        self.dtype, self.axis = compute_dtype(x), axis
        self.rows = Rows(np.moveaxis(x, axis, -1))

    @property
    def value(self) -> Any:
        """What the call must return."""
        raise NotImplementedError


class LogSumExp(SoftmaxFamily):
    """m + log1p(rest), or log |Σ b exp(x)|; NaN where that sum is negative and nobody asks."""

    def __init__(self, x: Any, axis: int = -1, b: Any = None, return_sign: bool = False):
        x = np.asarray(x)
        self.weight, self.return_sign = None, return_sign
        if b is not None:
            b = np.broadcast_to(np.asarray(b).astype(compute_dtype(x)), x.shape)
            x = np.where(b == 0, x.dtype.type(-np.inf), x)
            self.weight = np.moveaxis(b, axis, -1).astype(WIDE)
        super().__init__(x, axis)

    @cached_property
    def total(self) -> np.ndarray:
        """Σ b exp(x - m)."""
        return np.where(self.weight == 0, 0, self.weight * self.rows.e).sum(axis=-1)

    @property
    def sign(self) -> np.ndarray:
        """Of the sum."""
        return np.sign(self.total) if self.weight is not None else np.sign(1 + self.rows.rest)

    @property
    def value(self) -> Any:
        """The log-sum-exp of every row."""
        if self.weight is None:
            return self.rows.lse
        lse = self.rows.x.max(axis=-1) + np.log(abs(self.total))
        return lse if self.return_sign else np.where(self.total < 0, np.nan, lse)


class Softmax(SoftmaxFamily):
    """e / Σ e."""

    @property
    def value(self) -> Any:
        """The softmax of every row."""
        return np.moveaxis(self.rows.p, -1, self.axis)


class LogSoftmax(SoftmaxFamily):
    """(x - m) - log1p(rest)."""

    @property
    def value(self) -> Any:
        """The log-softmax of every row."""
        return np.moveaxis(self.rows.d - self.rows.log1p_rest[..., None], -1, self.axis)


class RegionLoss:
    """1 - (overlap TP + s) / (TP's, FP's and FN's share + s) for each sample and class, from its sums over positions.

    Attributes
    ----------
    x, p, t : logits, their softmax and the targets, (samples, classes, positions); p and t are 0 where none counts
    counts : whether a position does, (samples, positions)
    sums : Σ p, Σ p t and Σ t, each (rows, classes), where `batch` has one row
    """

    overlap = 1.0

    def __init__(
        self,
        logits: Any,
        targets: Any,
        *,
        axis: int = 1,
        class_weight: Any = None,
        ignore_index: int | None = -100,
        smooth: float = 1.0,
        batch: bool = False,
        reduction: str = "mean",
        grad_output: Any = None,
        **_: Any,
    ):
        logits, targets = np.asarray(logits), np.asarray(targets)
        self.dtype, self.shape, self.axis = compute_dtype(logits), logits.shape, axis
        self.batch, self.reduction, self.smooth = batch, reduction, WIDE(smooth)
        x = np.moveaxis(logits, axis, 1)
        self.moved = x.shape
        self.x = x.reshape(*x.shape[:2], -1).astype(WIDE)
        samples, classes, positions = self.x.shape
        if targets.shape == logits.shape:
            t = np.moveaxis(targets, axis, 1).reshape(self.x.shape).astype(WIDE)
            self.counts = np.ones((samples, positions), bool)
        else:
            index = targets.reshape(samples, 1, positions)
            t = (index == np.arange(classes)[:, None]).astype(WIDE)
            self.counts = index[:, 0] != ignore_index
        of_classes = self.counts[:, None]
        self.distance = self.x.max(axis=1, keepdims=True) - self.x
        e = np.exp(-self.distance)
        self.p = np.where(of_classes, e / e.sum(axis=1, keepdims=True), 0)
        self.t = np.where(of_classes, t, 0)
        weight = np.ones(classes) if class_weight is None else np.asarray(class_weight)
        self.share = weight.astype(WIDE) / weight.sum()
        self.upstream = WIDE(1) if grad_output is None else np.asarray(grad_output, WIDE)

    def total(self, a: np.ndarray) -> np.ndarray:
        """Sums over positions, and with `batch` over samples."""
        summed = a.sum(axis=2)
        return summed.sum(axis=0, keepdims=True) if self.batch else summed

    @property
    def weights(self) -> tuple[Any, Any, Any]:
        """Of TP, FP and FN below the line."""
        raise NotImplementedError

    @cached_property
    def ratio(self) -> tuple[np.ndarray, np.ndarray]:
        """What is above the line and below."""
        true, false, missed = self.weights
        above = self.overlap * self.total(self.p * self.t) + self.smooth
        below = (
            true * self.total(self.p * self.t)
            + false * self.total(self.p * (1 - self.t))
            + missed * self.total((1 - self.p) * self.t)
            + self.smooth
        )
        return above, below

    @property
    def scale(self) -> np.ndarray:
        """The derivative of the result with respect to the loss of each row and class."""
        rows = 1 if self.batch else self.shape[0]
        mean = rows if self.reduction == "mean" else 1
        return np.broadcast_to(self.upstream, rows)[:, None] * self.share / mean

    @property
    def slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives with respect to Σ p and Σ p t: of FP = Σ p - TP and FN = Σ t - TP."""
        (true, false, missed), (above, below) = self.weights, self.ratio
        of_p = above / below**2 * false
        of_overlap = above / below**2 * (true - false - missed) - self.overlap / below
        return self.scale * of_p, self.scale * of_overlap

    @property
    def value(self) -> Any:
        """What the call must return."""
        above, below = self.ratio
        rows = np.where(self.share == 0, 0, self.share * (1 - above / below)).sum(axis=1)
        if self.reduction == "none":
            return rows[0] if self.batch else rows
        return rows.sum() if self.reduction == "sum" else rows.mean()

    def laid(self, a: np.ndarray) -> np.ndarray:
        """An array of positions in the shape of the logits."""
        return np.moveaxis(a.reshape(self.moved), 1, self.axis)

    @cached_property
    def pull(self) -> np.ndarray:
        """g, the derivative with respect to each probability."""
        of_p, of_overlap = self.slopes
        return of_p[..., None] + of_overlap[..., None] * self.t

    @property
    def grad(self) -> np.ndarray:
        """p (g - Σ p g)."""
        center = (self.p * self.pull).sum(axis=1, keepdims=True)
        return self.laid(self.p * (self.pull - center))


class DiceLoss(RegionLoss):
    """1 - (2 TP + s) / (2 TP + FP + FN + s)."""

    overlap = 2.0

    @property
    def weights(self) -> tuple[Any, Any, Any]:
        """Of TP, FP and FN."""
        return 2, 1, 1


class TverskyLoss(RegionLoss):
    """1 - (TP + s) / (TP + alpha FP + beta FN + s)."""

    def __init__(self, *args: Any, alpha: float = 0.5, beta: float = 0.5, **options: Any):
        super().__init__(*args, **options)
        self.alpha, self.beta = alpha, beta

    @property
    def weights(self) -> tuple[Any, Any, Any]:
        """Of TP, FP and FN."""
        return 1, WIDE(self.alpha), WIDE(self.beta)


ORACLES: dict[str, Callable[..., Any]] = {
    "asymmetric_loss": AsymmetricLoss,
    "binary_cross_entropy": BinaryCrossEntropy,
    "binary_cross_entropy_with_logits": BinaryLogits,
    "categorical_cross_entropy": CategoricalCrossEntropy,
    "cross_entropy": SoftmaxLoss,
    "dice_loss": DiceLoss,
    "distillation_loss": DistillationLoss,
    "entropy": Entropy,
    "focal_loss": FocalLoss,
    "info_nce": InfoNce,
    "kl_div": KlDiv,
    "linear_cross_entropy": LinearLoss,
    "logsumexp": LogSumExp,
    "log_softmax": LogSoftmax,
    "nll_loss": NllLoss,
    "perplexity": Perplexity,
    "poly1_loss": Poly1Loss,
    "sigmoid_contrastive_loss": SigmoidContrastive,
    "sigmoid_focal_loss": SigmoidFocal,
    "softmax": Softmax,
    "token_log_probs": TokenLogProbs,
    "tversky_loss": TverskyLoss,
}
