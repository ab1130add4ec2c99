"""Types in the signatures of public functions."""

from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Array",
    "BinaryLogitsOptions",
    "BinaryOptions",
    "CategoricalOptions",
    "CrossEntropyOptions",
    "DistillationOptions",
    "ElementOptions",
    "EntropyOptions",
    "FocalOptions",
    "KlOptions",
    "LinearOptions",
    "LossOptions",
    "NllOptions",
    "Poly1Options",
    "Scalar",
    "SigmoidFocalOptions",
    "TokenOptions",
]

Scalar = np.floating[Any]
# One number for each row; NumPy returns a scalar for a single row without other axes.
Array = NDArray[np.floating[Any]]


class RowOptions(TypedDict, total=False):
    """Options of every function over rows, without the arguments on which the type of its result depends."""

    axis: int
    sample_weight: ArrayLike | None
    dtype: Literal["bfloat16"] | None


class GradientOptions(RowOptions, total=False):
    """Options of functions over rows that have a gradient."""

    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None


class DistillationOptions(GradientOptions, total=False):
    """Options of `distillation_loss`."""

    temperature: float


class EntropyOptions(GradientOptions, total=False):
    """Options of `entropy`."""

    softcap: float | None
    temperature: float


class NllOptions(GradientOptions, total=False):
    """Options of `nll_loss`."""

    class_weight: ArrayLike | None
    ignore_index: int | None
    label_smoothing: float


class CategoricalOptions(NllOptions, total=False):
    """Options of `categorical_cross_entropy`."""

    eps: float | None


class TokenOptions(RowOptions, total=False):
    """Options of `token_log_probs`."""

    ignore_index: int | None
    softcap: float | None
    temperature: float


class LossOptions(TokenOptions, total=False):
    """Options of every softmax loss."""

    class_weight: ArrayLike | None
    z_loss: float
    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None


class CrossEntropyOptions(LossOptions, total=False):
    """Options of `cross_entropy`."""

    label_smoothing: float


class LinearOptions(TypedDict, total=False):
    """Options of `linear_cross_entropy`, which has no class axis and takes a tuple of gradient buffers."""

    class_weight: ArrayLike | None
    sample_weight: ArrayLike | None
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    softcap: float | None
    temperature: float
    grad_output: ArrayLike | None
    dtype: Literal["bfloat16"] | None


class FocalOptions(LossOptions, total=False):
    """Options of `focal_loss`."""

    gamma: float


class Poly1Options(LossOptions, total=False):
    """Options of `poly1_loss`."""

    epsilon: float


class ElementOptions(TypedDict, total=False):
    """Options of every elementwise loss, without the arguments on which the type of its result depends."""

    sample_weight: ArrayLike | None
    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None
    dtype: Literal["bfloat16"] | None


class BinaryOptions(ElementOptions, total=False):
    """Options of `binary_cross_entropy`."""

    eps: float | None
    label_smoothing: float


class BinaryLogitsOptions(ElementOptions, total=False):
    """Options of `binary_cross_entropy_with_logits`."""

    pos_weight: ArrayLike | None
    label_smoothing: float


class SigmoidFocalOptions(ElementOptions, total=False):
    """Options of `sigmoid_focal_loss`."""

    alpha: float | None
    gamma: float


class KlOptions(ElementOptions, total=False):
    """Options of `kl_div`."""

    log_target: bool
