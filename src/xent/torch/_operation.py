"""What makes a loss that NumPy computes differentiable by autograd.

An eager call with plain CPU tensors goes straight to NumPy, through one autograd.Function: a registered operator would add
more than a small loss takes. Under torch.compile, a transform of torch.func or a dispatch mode, or with tensors of another
kind, the same computation is an operator of the dispatcher (`_operator.py`).

The backward computes the loss again rather than keep sums or a gradient: the logits are read once for both, and the gradient
is rounded once, after it has been multiplied by the upstream gradient, which a loss scale of half types relies on. Two kinds
of calls do keep the gradient that the forward has computed: small ones, whose time is that of Python calls, and those whose
loss costs as much as a gradient (`costly`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from xent.torch._operator import Operator
from xent.torch._tensors import upstream

#: Of so many elements at most the forward keeps the gradient: a call of Python takes as long as some thousand of them.
SMALL = 4096
PLAIN = (Tensor, torch.nn.Parameter)
WIDE = (torch.float32, torch.float64)
FLOATS = (*WIDE, torch.float16, torch.bfloat16)

#: From the upstream gradient, None for the loss alone; which gradients are wanted; tensors; options: the loss and the
#: gradients, None where they are not wanted.
Compute = Callable[..., tuple[Tensor, Sequence[Tensor | None]]]


def is_direct(tensors: Iterable[Tensor | None]) -> bool:
    """Whether nobody but autograd has a say in a call of these tensors."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and all(t is None or (type(t) in PLAIN and t.is_cpu) for t in tensors)
    )


def result_dtype(first: Tensor, *others: Tensor | None) -> torch.dtype:
    """Return the dtype that torch's loss has: that of the input, and float32 of half types where autocast is on."""
    dtype = first.dtype
    for other in others:
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    if dtype not in WIDE and torch.is_autocast_enabled("cpu"):
        return torch.float32
    return dtype


def rescaled(grad: Tensor | None, factor: float, dtype: torch.dtype) -> Tensor | None:
    """Multiply a gradient that nobody else holds by the upstream gradient, and round it."""
    if grad is None:
        return None
    return (grad if factor == 1 else grad.mul_(factor)).to(dtype)


class Node(torch.autograd.Function):
    """A call of an operation in autograd's graph."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, options: tuple[Any, ...], *tensors: Any) -> Tensor:
        ctx.operation, ctx.options, ctx.grads = operation, options, None
        ctx.save_for_backward(*tensors)
        if not operation.keeps_gradient(tensors[0], options):
            return operation.compute(None, (), *tensors, *options)[0]
        loss, ctx.grads = operation.compute(1.0, ctx.needs_input_grad[2:], *tensors, *options)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        operation, tensors, wanted = ctx.operation, ctx.saved_tensors, ctx.needs_input_grad[2:]
        found: Sequence[Tensor | None]
        if torch.is_grad_enabled():  # a derivative of this one may be asked for, which is an error
            return None, None, *operation.operator.gradients(*grads, wanted, tensors, ctx.options)
        # Handed over, so that autograd can keep them without a copy. A second backward computes them again.
        kept, ctx.grads = ctx.grads, None
        if kept is not None:
            factor = grads[0].item()
            found = [rescaled(g, factor, t.dtype) for g, t in zip(kept, tensors, strict=False)]
        else:
            found = operation.compute(upstream(*grads), wanted, *tensors, *ctx.options)[1]
        return None, None, *found, *[None] * (len(tensors) - len(found))


class Operation:
    """A loss that is differentiable with respect to its first tensors.

    `parameters` are those of an operator's schema, tensors first, one of the others `reduction`. `shape` is a function
    of the tensors and the reduction, of which the loss has the shape. `costly` is whether it takes as long as a gradient,
    `paired` whether the second tensor has to have the shape of the first.
    """

    def __init__(
        self,
        name: str,
        parameters: str,
        compute: Compute,
        shape: Callable[..., Sequence[int]],
        *,
        differentiable: tuple[str, ...] = ("input",),
        costly: bool = False,
        paired: bool = False,
    ) -> None:
        names = re.findall(r"(\w+)(?:,|$)", parameters)
        self.name, self.compute, self.shape = name, compute, shape
        self.costly, self.paired = costly, paired
        self.tensors = names[: parameters.count("Tensor")]
        self.count, self.differentiable = len(self.tensors), differentiable
        self.reduction = names.index("reduction") - self.count
        self.operator = Operator(self, parameters)

    def __call__(self, tensors: tuple[Any, ...], *options: Any) -> Tensor:
        for t, name in zip(tensors, self.tensors, strict=True):
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"{name}: expected a torch.Tensor, got {type(t).__name__}")
        self.check(tensors, options)
        if self.paired and tensors[1].shape != tensors[0].shape:
            first, second = self.tensors[:2]
            raise ValueError(
                f"{second}: expected the shape of {first}, {tuple(tensors[0].shape)}; got {tuple(tensors[1].shape)}"
            )
        differs = torch.is_grad_enabled() and self.requires_grad(tensors)
        options = (*options, result_dtype(*tensors[: len(self.differentiable)]))
        if not is_direct(tensors):
            return self.operator(*tensors, *options)
        if differs:
            return Node.apply(self, options, *tensors)
        return self.compute(None, (), *tensors, *options)[0]

    def check(self, tensors: Sequence[Tensor | None], options: Iterable[Any]) -> None:
        """Raise for what torch raises, too: dtypes without a loss, devices that differ; and for options with a gradient."""
        first: Any = tensors[0]
        if first.dtype not in FLOATS:
            raise NotImplementedError(
                f"{self.tensors[0]}: xent.torch.{self.name} is not implemented for {first.dtype}; expected float16, "
                "bfloat16, float32 or float64"
            )
        for t, name in zip(tensors, self.tensors, strict=True):
            if t is not None and t.is_cpu is not first.is_cpu:
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device, found {t.device} beside {first.device}"
                )
        if forward_ad._current_level >= 0:
            for t, name in zip(tensors, self.tensors, strict=True):
                if t is not None and forward_ad.unpack_dual(t).tangent is not None:
                    raise NotImplementedError(
                        f"{name}: xent.torch.{self.name} has no forward-mode derivative; use PyTorch's own function"
                    )
        for option in options:
            if isinstance(option, Tensor) and option.requires_grad:
                raise RuntimeError(
                    f"xent.torch.{self.name} has no derivative with respect to an option, which is a tensor that requires "
                    "grad; xent.cross_entropy has one by the temperature, return_temperature_grad"
                )

    def requires_grad(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether a gradient is wanted; refuse those that there are none of."""
        found = False
        for t, name in zip(tensors, self.tensors, strict=True):
            if t is not None and t.requires_grad:
                found = True
                if name not in self.differentiable:
                    raise RuntimeError(
                        f"{name}: requires grad, but xent.torch.{self.name} has no derivative with respect to it; give "
                        f"{name}.detach(), or use PyTorch's own function"
                    )
        return found

    def keeps_gradient(self, input: Tensor, options: tuple[Any, ...]) -> bool:
        """Whether the forward is to compute the gradient too: of one number, which an upstream gradient only multiplies."""
        small = input.numel() <= SMALL and input.dtype in WIDE
        return (small or self.costly) and options[self.reduction] != "none"
