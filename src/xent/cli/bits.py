"""Every function on inputs that are exact by design, and digests of the bits that come out.

The inputs come from integer arithmetic alone, so that they are the same bits on every platform
and with every version of NumPy. ``python -m xent check`` compares the digests for `SHAPES`, the
tests those of the same calls for many more shapes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xent

Array = NDArray[Any]
Shape = tuple[int, ...]

DTYPES = (np.float32, np.float64)
# Narrow and wide rows; whole and partial vectors, tiles, blocks and chunks.
SHAPES: tuple[Shape, ...] = (
    (5, 3),
    (300, 10),
    (70, 64),
    (2, 5, 65),
    (9, 130),
    (4, 1025),
    (1, 16500),
)


def mix(count: int, seed: int) -> NDArray[np.uint64]:
    """Return SplitMix64's numbers."""
    x = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)
    x *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def uniform(shape: Shape, dtype: Any, seed: int) -> Array:
    """Return numbers in [0, 1) with as many random bits as the dtype holds."""
    bits = np.finfo(dtype).nmant + 1
    x = mix(int(np.prod(shape)), seed).reshape(shape) >> np.uint64(64 - bits)
    numbers: Array = x.astype(dtype) * dtype(2.0**-bits)
    return numbers


def _as_it_is(a: Array) -> Array:
    return a


@dataclass(frozen=True)
class Inputs:
    """The arguments of every call, in one shape and dtype; `lay` puts arrays elsewhere in memory."""

    shape: Shape
    dtype: Any
    lay: Callable[[Array], Array] = _as_it_is

    def uniform(self, shape: Shape, seed: int) -> Array:
        """Return numbers in [0, 1)."""
        return uniform(shape, self.dtype, seed)

    @cached_property
    def logits(self) -> Array:
        """Logits: most rows ordinary; some confident, masked, tied, rising or with a large offset."""
        dtype, classes = self.dtype, self.shape[-1]
        x = self.uniform(self.shape, 1).reshape(-1, classes) * dtype(24) - dtype(12)
        for i in range(len(x)):
            kind = (i + classes) % 11
            if kind == 1:
                x[i, classes // 2] = 90
            elif kind == 2:
                x[i, : classes // 3] = -np.inf
            elif kind == 3:
                x[i] = np.floor(x[i])
            elif kind == 4:
                x[i] += np.arange(classes) * dtype(2.0**-6)
            elif kind == 5:
                x[i] = np.floor(x[i]) * dtype(8) + dtype(2.0**24)
            elif kind == 6:
                x[i] *= dtype(64)
        return self.lay(x.reshape(self.shape))

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Class indices, some of them ignored."""
        rows, classes = self.shape[:-1], np.uint64(self.shape[-1])
        targets = (mix(int(np.prod(rows)), 2) % classes).astype(np.int64)
        targets[5::9] = -100
        return targets.reshape(rows)

    @cached_property
    def soft_targets(self) -> Array:
        """Class probabilities; some are 0, those of masked classes among them."""
        targets = self.uniform(self.shape, 3)
        targets[..., ::3] = 0
        targets[np.isneginf(self.logits)] = 0
        return self.lay(targets)

    @cached_property
    def probs(self) -> Array:
        """Numbers of [0, 1] with both ends among them; they need not sum to 1."""
        probs = self.uniform(self.shape, 7)
        probs[..., 1::5] = 0
        probs[..., 3::7] = 1
        return self.lay(probs)

    @cached_property
    def teacher(self) -> Array:
        """A teacher's logits; classes masked here may be masked for the student or not."""
        teacher = self.uniform(self.shape, 8) * self.dtype(40) - self.dtype(20)
        teacher[..., 2::6] = -np.inf
        return self.lay(teacher)

    @cached_property
    def labels(self) -> Array:
        """Targets of elementwise losses, every third of them 0 or 1."""
        labels = self.uniform(self.shape, 7)
        labels[..., ::3] = np.round(labels[..., ::3])
        return self.lay(labels)

    @cached_property
    def chances(self) -> Array:
        """Probabilities for elementwise losses, every fifth of them 0 or 1."""
        chances = self.uniform(self.shape, 8)
        chances[..., 1::5] = np.round(chances[..., 1::5])
        return self.lay(chances)


Call = Callable[[Inputs], Any]


def _class_weight(given: Inputs) -> dict[str, Any]:
    return {"class_weight": given.uniform(given.shape[-1:], 4) + given.dtype(0.25)}


def _sample_weight(given: Inputs) -> dict[str, Any]:
    return {"sample_weight": given.uniform(given.shape[:-1], 5)}


def _grad_output(given: Inputs) -> dict[str, Any]:
    upstream = given.uniform(given.shape[:-1], 6) - given.dtype(0.5)
    return {"grad_output": upstream, "reduction": "none"}


OPTIONS: dict[str, Callable[[Inputs], dict[str, Any]]] = {
    "plain": lambda given: {},
    "none": lambda given: {"reduction": "none"},
    "sum": lambda given: {"reduction": "sum"},
    "grad_output": _grad_output,
    "class_weight": _class_weight,
    "sample_weight": _sample_weight,
    "label_smoothing": lambda given: {"label_smoothing": 0.1},
    "z_loss": lambda given: {"z_loss": 1e-3},
    "softcap": lambda given: {"softcap": 8.0},
    "temperature": lambda given: {"temperature": 0.7},
    "everything": lambda given: (
        _class_weight(given)
        | _grad_output(given)
        | _sample_weight(given)
        | {"label_smoothing": 0.05, "z_loss": 1e-4, "softcap": 20.0, "temperature": 1.3}
    ),
}
# Options that change the formula of the Hessian.
BENT = ("none", "label_smoothing", "z_loss", "softcap", "temperature", "everything")
# Options that change the formula of losses from (log-)probabilities.
LIKELIHOOD = ("none", "grad_output", "class_weight", "label_smoothing")
ELEMENTWISE = (
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "sigmoid_focal_loss",
    "kl_div",
    "asymmetric_loss",
)


def _targets(given: Inputs, soft: bool) -> Array:
    return given.soft_targets if soft else given.targets


def _loss(soft: bool, case: str) -> Call:
    def call(given: Inputs) -> Any:
        options = {"return_grad": True, "return_lse": True} | OPTIONS[case](given)
        return xent.cross_entropy(given.logits, _targets(given, soft), **options)

    return call


def _hessian(soft: bool, case: str) -> Call:
    def call(given: Inputs) -> Any:
        options = {"return_hess": True} | OPTIONS[case](given)
        results: Any = xent.cross_entropy(given.logits, _targets(given, soft), **options)
        return results[2]

    return call


def _linked(name: str, case: str, **options: Any) -> Call:
    def call(given: Inputs) -> Any:
        options_given = OPTIONS[case](given) | options
        options_given.pop("label_smoothing", None)
        return getattr(xent, name)(given.logits, given.targets, **options_given)

    return call


def _family(name: str) -> Call:
    return lambda given: getattr(xent, name)(given.logits, axis=-1)


def _score(name: str) -> Call:
    return lambda given: getattr(xent, name)(given.logits, given.targets)


def _likelihood(name: str, soft: bool, case: str, **options: Any) -> Call:
    def call(given: Inputs) -> Any:
        x = given.logits if name == "nll_loss" else given.probs
        options_given = {"return_grad": True} | OPTIONS[case](given) | options
        return getattr(xent, name)(x, _targets(given, soft), **options_given)

    return call


def _entropy(case: str) -> Call:
    return lambda given: xent.entropy(given.logits, return_grad=True, **OPTIONS[case](given))


def _distillation(case: str, temperature: float) -> Call:
    def call(given: Inputs) -> Any:
        options = {"return_grad": True} | OPTIONS[case](given) | {"temperature": temperature}
        return xent.distillation_loss(given.logits, given.teacher, **options)

    return call


def _divergence(divergence: str) -> Call:
    def call(given: Inputs) -> Any:
        options: dict[str, Any] = {"divergence": divergence, "temperature": 2.5, "beta": 0.25}
        options |= {"return_grad": True, "return_teacher_grad": True}
        return xent.distillation_loss(given.logits, given.teacher, **options)

    return call


def _report(given: Inputs) -> Any:
    found = xent.score(given.logits, given.targets, top_k=min(3, given.shape[-1]))
    return tuple(part for part in found if part is not None)


def _composed(**options: Any) -> Call:
    def call(given: Inputs) -> Any:
        requested: dict[str, Any] = {"return_grad": True, "return_lse": True} | options
        requested["class_bias"] = given.uniform(given.shape[-1:], 9)
        return xent.cross_entropy(given.logits, given.targets, **requested)

    return call


def _region(name: str, soft: bool, **options: Any) -> Call:
    def call(given: Inputs) -> Any:
        # The rows are the positions of one sample.
        logits, targets = given.logits[None], _targets(given, soft)[None]
        weight = _class_weight(given)
        return getattr(xent, name)(logits, targets, axis=-1, return_grad=True, **weight, **options)

    return call


def _weighted_logsumexp(signed: bool) -> Call:
    def call(given: Inputs) -> Any:
        options: dict[str, Any] = {"return_sign": signed}
        options["b"] = given.soft_targets - given.dtype(0.25) * given.dtype(signed)
        return xent.logsumexp(given.logits, axis=-1, **options)

    return call


def _elementwise(name: str, **options: Any) -> Call:
    function = getattr(xent, name)
    requested = {option: True for option in function.__kwdefaults__ if option.startswith("return_")}

    def call(given: Inputs) -> Any:
        x = given.chances if name == "binary_cross_entropy" else given.logits
        weights = {"sample_weight": given.uniform(given.shape[-1:], 5)} if options else {}
        if "pos_weight" in options:
            weights["pos_weight"] = given.uniform(given.shape[-1:], 4)
        return tuple(
            function(x, given.labels, **requested, **(options | weights), reduction=reduction)
            for reduction in ("none", "mean")
        )

    return call


CALLS: dict[str, Call] = (
    {f"cross_entropy, index, {case}": _loss(False, case) for case in OPTIONS}
    | {f"cross_entropy, soft, {case}": _loss(True, case) for case in OPTIONS}
    | {name: _family(name) for name in ("logsumexp", "softmax", "log_softmax")}
    | {name: _score(name) for name in ("token_log_probs", "perplexity")}
    | {f"cross_entropy, Hessian, index, {case}": _hessian(False, case) for case in BENT}
    | {f"cross_entropy, Hessian, soft, {case}": _hessian(True, case) for case in BENT}
    | {
        f"focal_loss, gamma={gamma}, {case}": _linked(
            "focal_loss", case, gamma=gamma, return_hess=True
        )
        for gamma in (0.5, 2.0)
        for case in ("none", "everything")
    }
    | {
        f"poly1_loss, {case}": _linked("poly1_loss", case, return_grad=True)
        for case in ("none", "everything")
    }
    | {
        f"{name}, {'soft' if soft else 'index'}, {case}": _likelihood(name, soft, case)
        for name in ("nll_loss", "categorical_cross_entropy")
        for soft in (False, True)
        for case in LIKELIHOOD
    }
    | {
        f"categorical_cross_entropy, eps, {case}": _likelihood(
            "categorical_cross_entropy", soft, case, eps=1e-3
        )
        for soft, case in ((False, "none"), (True, "label_smoothing"))
    }
    | {
        f"entropy, {case}": _entropy(case)
        for case in ("none", "grad_output", "softcap", "temperature")
    }
    | {
        f"distillation_loss, T={temperature}, {case}": _distillation(case, temperature)
        for temperature in (1.0, 2.5)
        for case in ("none", "grad_output")
    }
    | {f"distillation_loss, {name}": _divergence(name) for name in ("reverse_kl", "jsd")}
    | {
        "score": _report,
        "cross_entropy, class_bias": _composed(),
        "cross_entropy, entropy_weight": _composed(entropy_weight=0.1, softcap=20.0),
    }
    | {
        "dice_loss, index": _region("dice_loss", False),
        "dice_loss, soft": _region("dice_loss", True),
        "tversky_loss, index": _region("tversky_loss", False, alpha=0.3, beta=0.7, smooth=0.5),
    }
    | {
        "logsumexp, b": _weighted_logsumexp(False),
        "logsumexp, signs": _weighted_logsumexp(True),
    }
    | {name: _elementwise(name) for name in ELEMENTWISE}
    | {
        "binary_cross_entropy, eps": _elementwise(
            "binary_cross_entropy", eps=1e-3, label_smoothing=0.1
        ),
        "binary_cross_entropy_with_logits, pos_weight": _elementwise(
            "binary_cross_entropy_with_logits", pos_weight=True, label_smoothing=0.1
        ),
        "sigmoid_focal_loss, gamma=0.5": _elementwise("sigmoid_focal_loss", gamma=0.5, alpha=None),
        "kl_div, log_target": _elementwise("kl_div", log_target=True),
        "asymmetric_loss, gammas 1/2 and 3": _elementwise(
            "asymmetric_loss", gamma_neg=0.5, gamma_pos=3.0, clip=0.4
        ),
        "asymmetric_loss, no clip": _elementwise("asymmetric_loss", gamma_neg=1.5, clip=0.0),
    }
)


def result_bytes(result: Any) -> bytes:
    """Return the bytes, lowest first, of an array or of a tuple of them, with one NaN for all."""
    if isinstance(result, tuple):
        return b"".join(map(result_bytes, result))
    found: Array = np.atleast_1d(np.ascontiguousarray(result))
    if found.dtype.kind not in "iu":
        found = np.where(np.isnan(found), found.dtype.type(np.nan), found)
    return found.astype(found.dtype.newbyteorder("<"), copy=False).tobytes()


def digest(result: Any) -> str:
    """Return eight hexadecimal digits of a hash of the bits of a result."""
    return hashlib.sha256(result_bytes(result)).hexdigest()[:8]


def digests(
    shapes: Sequence[Shape] = SHAPES, lay: Callable[[Array], Array] = _as_it_is
) -> dict[str, str]:
    """Return the digests of every call and dtype, one for each shape."""
    found = {}
    for dtype in DTYPES:
        inputs = [Inputs(shape, dtype, lay) for shape in shapes]
        for name, call in CALLS.items():
            each = " ".join(digest(call(given)) for given in inputs)
            found[f"{name}, {np.dtype(dtype).name}"] = each
    return found
