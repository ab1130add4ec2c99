"""xent's losses on PyTorch's CPU tensors, under the names and signatures of torch.nn.functional and torch.nn.

Functions take torch's arguments in torch's order, xent's own options as keywords after them, and work with autograd,
torch.compile, torch.func.vmap and autocast. Tensors are read and written where they lie. Modules are torch's own classes
with another `forward`, so that they have the same options, parameters and state. What xent does not have is torch's: a
program that says ``import xent.torch as F`` finds all other functions there, too.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("xent.torch needs PyTorch: pip install torch") from error

from xent.torch.functional import (
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    distillation_loss,
    focal_loss,
    kl_div,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    multilabel_soft_margin_loss,
    nll_loss,
    poly1_loss,
    sigmoid_focal_loss,
    softmax,
)
from xent.torch.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    KLDivLoss,
    LinearCrossEntropyLoss,
    LogSoftmax,
    MultiLabelSoftMarginLoss,
    NLLLoss,
    Softmax,
)

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivLoss",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "MultiLabelSoftMarginLoss",
    "NLLLoss",
    "Softmax",
    "asymmetric_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "distillation_loss",
    "focal_loss",
    "kl_div",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poly1_loss",
    "sigmoid_focal_loss",
    "softmax",
]


def __getattr__(name: str) -> object:
    from torch import nn

    for module in (nn.functional, nn):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"neither xent.torch nor torch.nn has {name!r}")
