"""Losses and softmax of Dask arrays in chunks of rows and classes: lazy, and a chunk at a time."""

try:
    import dask.array as _array  # noqa: F401
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "dask":
        raise
    raise ModuleNotFoundError(
        "xent.dask needs dask.array: pip install 'dask[array]'",
        name=error.name,
    ) from error

from xent.dask.losses import cross_entropy, perplexity, token_log_probs
from xent.dask.metrics import log_loss
from xent.dask.special import log_softmax, logsumexp, softmax

__all__ = [
    "cross_entropy",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "perplexity",
    "softmax",
    "token_log_probs",
]
