"""Cross-entropy for NumPy at memory speed."""

from xent.activations import log_sigmoid, sigmoid
from xent.binary import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    sigmoid_focal_loss,
)
from xent.contrastive import info_nce, sigmoid_contrastive_loss
from xent.focal import focal_loss, poly1_loss
from xent.information import distillation_loss, entropy, kl_div
from xent.labels import one_hot, smooth_labels
from xent.linear import linear_cross_entropy
from xent.losses import cross_entropy, perplexity, token_log_probs
from xent.probabilities import categorical_cross_entropy, nll_loss
from xent.regions import dice_loss, tversky_loss
from xent.runtime import (
    get_include,
    get_library,
    get_num_threads,
    num_threads,
    set_num_threads,
    set_pool_bytes,
    show_config,
)
from xent.scaling import LossScaler
from xent.scores import score
from xent.special import log_softmax, logsumexp, softmax

# The one place of the version: pyproject.toml and CMakeLists.txt read it here.
__version__ = "0.1.0"

__all__ = [
    "LossScaler",
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "cross_entropy",
    "dice_loss",
    "distillation_loss",
    "entropy",
    "focal_loss",
    "get_include",
    "get_library",
    "get_num_threads",
    "info_nce",
    "kl_div",
    "linear_cross_entropy",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "num_threads",
    "one_hot",
    "perplexity",
    "poly1_loss",
    "score",
    "set_num_threads",
    "set_pool_bytes",
    "show_config",
    "sigmoid",
    "sigmoid_contrastive_loss",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax",
    "token_log_probs",
    "tversky_loss",
]


def __getattr__(name: str) -> object:
    """Import what few programs need when it is asked for."""
    if name in ("boosting", "metrics"):
        from importlib import import_module

        return import_module(f"xent.{name}")
    raise AttributeError(f"module 'xent' has no attribute {name!r}")


def _compiled_modules_import() -> None:
    """Name what compiled modules import, for tools that collect an application's modules but cannot read compiled ones."""
    from xent import _arguments, _blocks, _core, _pool, _regions, _request, _weighted  # noqa: F401
