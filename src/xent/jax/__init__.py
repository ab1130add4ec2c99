"""Losses for JAX on a CPU: under jit, grad, vmap and scan, by way of XLA's foreign function interface."""

import warnings as _warnings

try:
    import jax as _jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ModuleNotFoundError("xent.jax needs JAX: pip install jax", name="jax") from error
if _jax.__version_info__ < (0, 4, 34):
    raise ImportError(
        f"xent.jax needs JAX 0.4.34 or later; this is {_jax.__version__}: pip install --upgrade jax",
        name="jax",
    )

from xent.jax._call import HAS_FFI as _HAS_FFI
from xent.jax.losses import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
    distillation_loss,
    entropy,
    focal_loss,
    kl_div,
    nll_loss,
    poly1_loss,
    sigmoid_focal_loss,
)
from xent.jax.special import log_softmax, logsumexp, softmax

__all__ = [
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "distillation_loss",
    "entropy",
    "focal_loss",
    "kl_div",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "poly1_loss",
    "sigmoid_focal_loss",
    "softmax",
]

if not _HAS_FFI:
    _warnings.warn(
        f"xent.jax: JAX {_jax.__version__} has no foreign function interface (jax.ffi), as 0.5 has. By jax.pure_callback "
        "results are the same but take longer: pip install --upgrade jax",
        stacklevel=2,
    )
