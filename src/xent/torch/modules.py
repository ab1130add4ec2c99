"""torch.nn's modules of losses and softmaxes, computed by xent: each differs from torch's own in its `forward` alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xent.torch import functional

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
]


class _OfLogits(nn.Module):
    """A module with xent's options of logits, keywords after those of torch's class."""

    def __init__(
        self,
        *arguments: Any,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.z_loss, self.softcap, self.temperature = z_loss, softcap, temperature


class CrossEntropyLoss(_OfLogits, nn.CrossEntropyLoss):
    """`cross_entropy` with the options of torch.nn.CrossEntropyLoss, and `z_loss`, `softcap`, `temperature`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.CrossEntropyLoss(label_smoothing=0.1)(torch.zeros(1, 2), torch.tensor([0]))
    >>> round(loss.item(), 6)
    0.693147
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
        )


class LinearCrossEntropyLoss(_OfLogits, nn.LinearCrossEntropyLoss):
    """`linear_cross_entropy` with the options of torch.nn.LinearCrossEntropyLoss, and `z_loss`, `softcap`, `temperature`.

    Examples
    --------
    >>> import torch, xent.torch
    >>> layer = xent.torch.LinearCrossEntropyLoss(in_features=8, num_classes=5)
    >>> layer(torch.randn(3, 8), torch.tensor([0, 4, -100])).backward()
    >>> layer.linear.weight.grad.shape
    torch.Size([5, 8])
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        layer, shape = self.linear, (self.num_classes, *self.out_features)
        return functional.linear_cross_entropy(
            input,
            layer.weight.reshape(*shape, layer.in_features),
            target,
            linear_bias=None if layer.bias is None else layer.bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            z_loss=self.z_loss,
            softcap=self.softcap,
            temperature=self.temperature,
        )


class NLLLoss(nn.NLLLoss):
    """`nll_loss` with the options of torch.nn.NLLLoss.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.NLLLoss()(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0]))
    >>> round(loss.item(), 6)
    1.386294
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class BCELoss(nn.BCELoss):
    """`binary_cross_entropy` with the options of torch.nn.BCELoss.

    Examples
    --------
    >>> import torch, xent.torch
    >>> round(xent.torch.BCELoss()(torch.tensor([0.5]), torch.tensor([1.0])).item(), 6)
    0.693147
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy(
            input, target, weight=self.weight, reduction=self.reduction
        )


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """`binary_cross_entropy_with_logits` with the options of torch.nn.BCEWithLogitsLoss.

    Examples
    --------
    >>> import torch, xent.torch
    >>> round(xent.torch.BCEWithLogitsLoss()(torch.tensor([0.0]), torch.tensor([1.0])).item(), 6)
    0.693147
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
        )


class MultiLabelSoftMarginLoss(nn.MultiLabelSoftMarginLoss):
    """`multilabel_soft_margin_loss` with the options of torch.nn.MultiLabelSoftMarginLoss.

    Examples
    --------
    >>> import torch, xent.torch
    >>> loss = xent.torch.MultiLabelSoftMarginLoss()(torch.zeros(1, 3), torch.ones(1, 3))
    >>> round(loss.item(), 6)
    0.693147
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.multilabel_soft_margin_loss(
            input, target, weight=self.weight, reduction=self.reduction
        )


class KLDivLoss(nn.KLDivLoss):
    """`kl_div` with the options of torch.nn.KLDivLoss.

    Examples
    --------
    >>> import torch, xent.torch
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> round(xent.torch.KLDivLoss(reduction="batchmean")(p.log(), q).item(), 6)
    0.130812
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return functional.kl_div(
            input, target, reduction=self.reduction, log_target=self.log_target
        )


class Softmax(nn.Softmax):
    """`softmax` with the options of torch.nn.Softmax.

    Examples
    --------
    >>> import torch, xent.torch
    >>> xent.torch.Softmax(dim=1)(torch.zeros(1, 4))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.softmax(input, self.dim, _stacklevel=5)


class LogSoftmax(nn.LogSoftmax):
    """`log_softmax` with the options of torch.nn.LogSoftmax.

    Examples
    --------
    >>> import torch, xent.torch
    >>> xent.torch.LogSoftmax(dim=1)(torch.zeros(1, 4))
    tensor([[-1.3863, -1.3863, -1.3863, -1.3863]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.log_softmax(input, self.dim, _stacklevel=5)
