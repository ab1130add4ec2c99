"""Calls of the core inside XLA programs, and their derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from xent import _arguments, _ffi
from xent._request import Request, first_argument, not_a_class
from xent.jax._host import HostCall

HAS_FFI = hasattr(jax, "ffi")
# XLA quotes the name where it refuses a program for another platform.
TARGET = "xent_for_cpu_only"
if HAS_FFI:
    jax.ffi.register_ffi_target(TARGET, _ffi.handler, platform="cpu")


class Call(NamedTuple):
    """An operation with its options and the names of its arrays; hashable, as jit asks of what is static."""

    operation: str
    options: tuple[tuple[str, Any], ...]
    axis: int  # of the classes, -1 if there is none
    ignore_index: int | None
    arguments: tuple[str, ...]  # the arrays, by their fields of xent_call,
    parameters: tuple[str, ...]  # and by the names that the public function has for them
    shape: tuple[int, ...]  # of the loss before its reduction
    reduced: bool
    donates: bool = False  # whether the gradient takes the memory of the logits

    @classmethod
    def of(
        cls,
        request: Request,
        arguments: tuple[str, ...],
        parameters: tuple[str, ...],
        donates: bool = False,
    ) -> Call:
        """Return the call of a validated request."""
        return cls(
            request.operation,
            tuple(request.options.items()),
            request.class_axis,
            request.ignore_index,
            arguments,
            parameters,
            request.shape,
            request.reduction != "none",
            donates,
        )

    def run(
        self, results: tuple[str, ...], arrays: tuple[Any, ...], upstream: tuple[str, ...] = ()
    ) -> list[Any]:
        """Return some results of the operation on its arrays, behind which may be an upstream gradient."""
        x = arrays[0]
        number = compute_dtype(x.dtype)
        kinds = {"result": ((), number), "out": (x.shape, x.dtype)}
        kinds |= dict.fromkeys(("loss", "lse"), (self.shape, number))
        names, shapes = (
            self.arguments + upstream,
            [jax.ShapeDtypeStruct(*kinds[r]) for r in results],
        )
        if not HAS_FFI:
            written = tuple((r, *kinds[r]) for r in results)
            host = HostCall(self, x.ndim, names, written)
            answer: list[Any] = jax.pure_callback(host, shapes, *arrays, vmap_method="expand_dims")
            return answer
        in_place = self.donates and "out" in results
        call: Any = jax.ffi.ffi_call(
            TARGET,
            shapes,
            # Arrays that vmap does not map are not copied, but the memory of logits for that of all gradients.
            vmap_method="broadcast_all" if in_place else "expand_dims",
            input_output_aliases={0: results.index("out")} if in_place else None,
        )
        found: list[Any] = call(
            *arrays,
            arguments=" ".join(names),
            results=" ".join(results),
            rank=np.int64(x.ndim),
            **self.attributes(x),
        )
        return found

    def attributes(self, x: jax.Array) -> dict[str, Any]:
        """Return the options as attributes of XLA, whose numbers have 64 bits, and what the error for a bad target says."""
        numbers: dict[str, Any] = {**dict(self.options), "axis": self.axis}
        found: dict[str, Any] = {
            name: np.float64(value) if isinstance(value, float) else np.int64(value)
            for name, value in numbers.items()
        }
        if "index" in self.arguments:
            found["not_a_class"] = not_a_class(x.shape[self.axis], self.ignore_index)
        return found

    @property
    def loss(self) -> str:
        """The result that is the loss."""
        return "result" if self.reduced else "loss"

    def fuses(self, dtype: np.dtype[Any]) -> bool:
        """Whether the gradient is written beside the loss, in one pass over the logits, and scaled later.

        Where the upstream gradient is one number it is most often 1, which XLA does not multiply by. Half types would be
        rounded twice, and underflow before a loss scale multiplies them.
        """
        return self.reduced and dtype == compute_dtype(dtype)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of losses, weights and sums."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def placeholder(x: jax.Array) -> Any:
    """Return an array of NumPy's with the shape and dtype of another, and the memory of one element."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape)


# Losses, and their derivative with respect to the logits.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def loss_of(call: Call, *arrays: Any) -> Any:
    return call.run((call.loss,), arrays)[0]


def _forward(call: Call, *primals: Any) -> tuple[Any, Any]:
    for name, primal in zip(call.parameters[1:], primals[1:], strict=True):
        if primal.perturbed:
            raise NotImplementedError(
                f"{name}: xent.jax has the derivative with respect to {call.parameters[0]} alone; give "
                f"jax.lax.stop_gradient({name})"
            )
    arrays = tuple(primal.value for primal in primals)
    if call.fuses(arrays[0].dtype):
        loss, grad = call.run((call.loss, "out"), arrays)
        return loss, grad
    return loss_of(call, *arrays), arrays


def _backward(call: Call, residuals: Any, upstream: Any) -> tuple[Any, ...]:
    others = (None,) * (len(call.arguments) - 1)
    if isinstance(upstream, jax.custom_derivatives.SymbolicZero):
        return (None, *others)
    if isinstance(residuals, tuple):
        name = "grad_scale" if call.reduced else "grad_output"
        # Row losses are computed again with their gradient, and have to have a place.
        grad = call.run((call.loss, "out"), (*residuals, upstream), (name,))[1]
        return (grad, *others)
    return (residuals * upstream, *others)


loss_of.defvjp(_forward, _backward, symbolic_zeros=True)


# Softmax and its kin, functions of the logits alone.


def _family(operation: str, axis: int, x: jax.Array) -> jax.Array:
    name = first_argument(operation)
    request = Request(operation, *_arguments.logits(placeholder(x), name), axis)
    call = Call.of(request, ("logits",), (name,))
    return call.run(("lse" if operation == "logsumexp" else "out",), (x,))[0]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def family_of(operation: str, axis: int, x: jax.Array) -> jax.Array:
    return _family(operation, axis, x)


def _family_forward(operation: str, axis: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    result = _family(operation, axis, x)
    return result, x if operation == "logsumexp" else result


def _family_backward(
    operation: str, axis: int, residual: jax.Array, upstream: jax.Array
) -> tuple[jax.Array]:
    wide = compute_dtype(residual.dtype)
    g = upstream.astype(wide)
    if operation == "logsumexp":
        grad = _family("softmax", axis, residual).astype(wide) * jnp.expand_dims(g, axis)
    elif operation == "softmax":
        p = residual.astype(wide)
        grad = p * (g - jnp.sum(p * g, axis, keepdims=True))
    else:
        grad = g - jnp.exp(residual.astype(wide)) * jnp.sum(g, axis, keepdims=True)
    return (grad.astype(residual.dtype),)


family_of.defvjp(_family_forward, _family_backward)
