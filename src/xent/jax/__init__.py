"""Losses for JAX on a CPU: under jit, grad, vmap and scan, by way of XLA's foreign function interface."""

try:
    import jax as _jax
except ModuleNotFoundError as error:
    if error.name != "jax":
        raise
    raise ModuleNotFoundError("xent.jax needs JAX: pip install 'xent[jax]'", name="jax") from error
if not hasattr(_jax, "ffi"):
    raise ImportError(
        f"xent.jax needs JAX 0.5 or later, for its foreign function interface; this is {_jax.__version__}: "
        "pip install --upgrade 'xent[jax]'",
        name="jax",
    )

from xent.jax.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    distillation_loss,
    nll_loss,
    sigmoid_focal_loss,
)
from xent.jax.special import log_softmax, logsumexp, softmax

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "distillation_loss",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "sigmoid_focal_loss",
    "softmax",
]
