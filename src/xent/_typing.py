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
# One number per row; of a single row, given without other axes, it is a scalar as NumPy has it.
Array = NDArray[np.floating[Any]]


class RowOptions(TypedDict, total=False):
    """What every function of rows takes besides the arguments its type depends on."""

    axis: int
    sample_weight: ArrayLike | None
    dtype: Literal["bfloat16"] | None


class GradientOptions(RowOptions, total=False):
    """And those with a gradient."""

    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None


class DistillationOptions(GradientOptions, total=False):
    """And `distillation_loss`."""

    temperature: float


class EntropyOptions(GradientOptions, total=False):
    """And `entropy`."""

    softcap: float | None
    temperature: float


class NllOptions(GradientOptions, total=False):
    """And `nll_loss`."""

    class_weight: ArrayLike | None
    ignore_index: int | None
    label_smoothing: float


class CategoricalOptions(NllOptions, total=False):
    """And `categorical_cross_entropy`."""

    eps: float | None


class TokenOptions(RowOptions, total=False):
    """And `token_log_probs`."""

    ignore_index: int | None
    softcap: float | None
    temperature: float


class LossOptions(TokenOptions, total=False):
    """And every softmax loss."""

    class_weight: ArrayLike | None
    z_loss: float
    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None


class CrossEntropyOptions(LossOptions, total=False):
    """And `cross_entropy`."""

    label_smoothing: float


class LinearOptions(TypedDict, total=False):
    """What `linear_cross_entropy` takes: all of these but the class axis, and gradients in a tuple."""

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
    """And `focal_loss`."""

    gamma: float


class Poly1Options(LossOptions, total=False):
    """And `poly1_loss`."""

    epsilon: float


class ElementOptions(TypedDict, total=False):
    """What every elementwise loss takes besides the arguments its type depends on."""

    sample_weight: ArrayLike | None
    grad_output: ArrayLike | None
    grad_out: NDArray[Any] | None
    dtype: Literal["bfloat16"] | None


class BinaryOptions(ElementOptions, total=False):
    """And `binary_cross_entropy`."""

    eps: float | None
    label_smoothing: float


class BinaryLogitsOptions(ElementOptions, total=False):
    """And `binary_cross_entropy_with_logits`."""

    pos_weight: ArrayLike | None
    label_smoothing: float


class SigmoidFocalOptions(ElementOptions, total=False):
    """And `sigmoid_focal_loss`."""

    alpha: float | None
    gamma: float


class KlOptions(ElementOptions, total=False):
    """And `kl_div`."""

    log_target: bool
