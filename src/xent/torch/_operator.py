"""An operation as an operator of PyTorch's dispatcher, ``torch.ops.xent.NAME``, and its gradient, ``NAME_backward``.

That is what torch.compile puts into its graphs, and what transforms of torch.func, dispatch modes and tensors of other kinds
are given: a schema, a kernel for CPU tensors, a fake kernel, which knows shapes and dtypes, a derivative, a rule for vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xent.torch._tensors import upstream

if TYPE_CHECKING:
    from xent.torch._operation import Operation

LIBRARY = torch.library.Library("xent", "DEF")


def one_by_one(operator: Any) -> Callable[..., Any]:
    """Return a rule for vmap: a call for each sample."""

    def rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
        def sample(i: int) -> list[Any]:
            return [
                a.select(dim, i) if isinstance(a, Tensor) and dim is not None else a
                for a, dim in zip(arguments, in_dims, strict=True)
            ]

        results = [operator(*sample(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return stacked, [0] * len(stacked)

    return rule


class Transformed(torch.autograd.Function):
    """A call under torch.func's transforms, which do not take the derivative that is registered for an operator."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operator: Callable[..., Any], save: Any, derivative: Any, *arguments: Any) -> Any:
        found = operator(*arguments)
        return found if isinstance(found, Tensor) else tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, save, ctx.derivative = inputs[:3]
        save(ctx, inputs[3:], output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, None, None, *ctx.derivative(ctx, *grads)


def called(operator: Callable[..., Any], save: Any, derivative: Any, *arguments: Any) -> Any:
    """Call an operator with its derivative, in whichever way the caller's surroundings take it."""
    if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
        return Transformed.apply(operator, save, derivative, *arguments)
    return operator(*arguments)


class Operator:
    """The two operators of an operation, registered; called, the first."""

    def __init__(self, operation: Operation, parameters: str) -> None:
        self.operation, name = operation, operation.name
        signature = f"{parameters}, ScalarType dtype"
        LIBRARY.define(f"{name}({signature}) -> Tensor")
        LIBRARY.define(f"{name}_backward(bool[] wanted, Tensor grad, {signature}) -> Tensor[]")
        self.loss = getattr(torch.ops.xent, name).default
        self.gradient = getattr(torch.ops.xent, f"{name}_backward").default
        for operator, overload, kernel, fake, derivative, save in (
            (name, self.loss, self.run, self.fake, self.differentiate, self.save),
            (
                f"{name}_backward",
                self.gradient,
                self.run_backward,
                self.fake_backward,
                self.refuse,
                self.save_nothing,
            ),
        ):
            full = f"xent::{operator}"
            LIBRARY.impl(operator, kernel, "CPU")
            torch.library.register_fake(full, fake, lib=LIBRARY)
            torch.library.register_autograd(full, derivative, setup_context=save, lib=LIBRARY)
            torch.library.register_vmap(full, one_by_one(overload), lib=LIBRARY)

    def __call__(self, *arguments: Any) -> Tensor:
        loss: Tensor = called(self.loss, self.save, self.differentiate, *arguments)
        return loss

    def gradients(
        self, grad: Tensor, wanted: Sequence[bool], tensors: Sequence[Any], options: Sequence[Any]
    ) -> list[Tensor | None]:
        """Return the gradient of each tensor, None where it is not wanted."""
        operator = partial(self.gradient, list(wanted))
        found = iter(called(operator, self.save_nothing, self.refuse, grad, *tensors, *options))
        return [next(found) if w else None for w in wanted]

    # Kernels for CPU tensors.

    def run(self, *arguments: Any) -> Tensor:
        return self.operation.compute(None, (), *arguments)[0]

    def run_backward(self, wanted: Sequence[bool], grad: Tensor, *arguments: Any) -> list[Tensor]:
        found = self.operation.compute(upstream(grad), wanted, *arguments)[1]
        return [
            self.laid_out(g, like)
            for g, like in zip(found, arguments, strict=False)
            if g is not None
        ]

    @staticmethod
    def laid_out(grad: Tensor, like: Tensor) -> Tensor:
        """Return a gradient with the dtype and the strides that the fake kernel declares."""
        same = torch.empty_like(like, device="meta")
        if (grad.dtype, grad.stride()) == (same.dtype, same.stride()):
            return grad
        return torch.empty_like(like).copy_(grad)

    # Fake kernels.

    def fake(self, *arguments: Any) -> Tensor:
        tensors, options = arguments[: self.operation.count], arguments[self.operation.count :]
        shape = self.operation.shape(*tensors, options[self.operation.reduction])
        return torch.empty(shape, dtype=options[-1], device=tensors[0].device)

    def fake_backward(self, wanted: Sequence[bool], grad: Tensor, *arguments: Any) -> list[Tensor]:
        return [torch.empty_like(t) for t, w in zip(arguments, wanted, strict=False) if w]

    # Derivatives.

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[: self.operation.count])
        ctx.options = inputs[self.operation.count :]

    def differentiate(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Of the operator's arguments, the last.
        needs = ctx.needs_input_grad[-self.operation.count - len(ctx.options) :]
        wanted = needs[: self.operation.count]
        found = self.gradients(grad, wanted, ctx.saved_tensors, ctx.options)
        return *found, *[None] * len(ctx.options)

    def save_nothing(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    def refuse(self, ctx: Any, *grads: Any) -> None:
        raise RuntimeError(
            f"xent.torch.{self.operation.name} has no second derivative; torch.nn.functional has"
        )
