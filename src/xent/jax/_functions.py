"""What the functions of `xent.jax` call: arguments, validated, as the arrays and the options of a call.

Shapes, dtypes and options are validated where a function is traced, by the code that validates NumPy's arguments, on arrays
of the same shapes and of no memory.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from xent import _arguments, _functions
from xent._request import Request, first_argument, not_a_class
from xent.jax._call import Call, attributes, compute_dtype, family_of, loss_of, placeholder


def is_traced(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer)


def described(value: Any) -> Any:
    """Return what validation sees of an argument: of JAX's arrays shape and dtype, but concrete class indices themselves."""
    if not isinstance(value, jax.Array):
        return value
    if not is_traced(value) and value.dtype.kind in "iub":
        return value
    return placeholder(value)


def floating(value: Any, name: str, integers: str = "iub") -> jax.Array:
    """Return logits; integers and bools become JAX's default float."""
    if not isinstance(value, jax.Array):
        value = jnp.asarray(_arguments.array(value, name))
    elif not is_traced(value):
        platforms = {device.platform for device in value.devices()} - {"cpu"}
        if platforms:
            raise ValueError(
                f"{name}: expected an array on a CPU, got one on {', '.join(platforms)}; "
                "move it with jax.device_put(x, jax.devices('cpu')[0])"
            )
    is_number = value.dtype.kind in "iub" and (value.dtype != np.uint16 or name in "ax")
    return value.astype(jnp.result_type(float)) if is_number else value


def given(value: Any, validated: Any, dtype: np.dtype[Any], ndim: int) -> jax.Array:
    """Return an array beside the logits, with so many axes: JAX's own, or what validation has made of another."""
    array = jnp.asarray(value if isinstance(value, jax.Array) else validated, dtype)
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


class Arrays:
    """The arrays of a call: their fields of xent_call, and the parameters of the public function."""

    def __init__(self, request: Request, logits: jax.Array) -> None:
        self.request = request
        self.number = compute_dtype(logits.dtype)
        self.arguments = ["logits"]
        self.parameters = [request.name]
        self.arrays = [logits]

    def add(self, argument: str, parameter: str, array: jax.Array) -> None:
        self.arguments.append(argument)
        self.parameters.append(parameter)
        self.arrays.append(array)

    def add_numbers(
        self, argument: str, parameter: str, value: Any, validated: Any, ndim: int
    ) -> None:
        """Add numbers of the compute dtype, if they are given."""
        if value is not None:
            self.add(argument, parameter, given(value, validated, self.number, ndim))

    def loss(self, donates: Any, *more: tuple[str, Any]) -> jax.Array:
        request = self.request
        call = Call(
            attributes(request) + more,
            tuple(self.arguments),
            tuple(self.parameters),
            request.shape,
            request.reduction != "none",
            _arguments.flag(donates, "donate_logits"),
        )
        result: jax.Array = loss_of(call, *self.arrays)
        return result


def softmax_loss(
    operation: str,
    logits: Any,
    targets: Any,
    *,
    class_weight: Any = None,
    sample_weight: Any = None,
    donate_logits: Any = False,
    **options: Any,
) -> jax.Array:
    """Return a loss over a softmax; of `distillation_loss` the targets are the teacher's logits."""
    x = floating(logits, first_argument(operation))
    teacher = operation == "distillation_loss"
    if teacher:
        targets = floating(targets, "teacher_logits")
        common = jnp.promote_types(x.dtype, targets.dtype)
        x, targets = x.astype(common), targets.astype(common)
    request = _functions.softmax_request(
        operation,
        described(x),
        described(targets),
        class_weight=described(class_weight),
        sample_weight=described(sample_weight),
        **options,
    )
    arrays = Arrays(request, x)
    more: tuple[tuple[str, Any], ...] = ()
    if request.index is not None:
        if not is_traced(targets):
            request.validate_targets()
        index = targets if isinstance(targets, jax.Array) else jnp.asarray(request.index)
        arrays.add("index", "targets", index)
        more = (("not_a_class", not_a_class(request.num_classes, request.ignore_index)),)
    elif teacher:
        arrays.add("soft", "teacher_logits", targets)
    else:
        arrays.add_numbers("soft", "targets", targets, request.soft, x.ndim)
    arrays.add_numbers("class_weight", "class_weight", class_weight, request.class_weight, 1)
    arrays.add_numbers(
        "sample_weight", "sample_weight", sample_weight, request.sample_weight, x.ndim - 1
    )
    return arrays.loss(donate_logits, *more)


def elementwise_loss(
    operation: str,
    logits: Any,
    targets: Any,
    *,
    sample_weight: Any = None,
    pos_weight: Any = None,
    donate_logits: Any = False,
    **options: Any,
) -> jax.Array:
    """Return a loss of which every element has its own."""
    x = floating(logits, first_argument(operation))
    request = _functions.elementwise_request(
        operation,
        described(x),
        described(targets),
        sample_weight=described(sample_weight),
        pos_weight=described(pos_weight),
        **options,
    )
    arrays = Arrays(request, x)
    arrays.add_numbers("soft", "targets", targets, request.soft, x.ndim)
    arrays.add_numbers(
        "sample_weight", "sample_weight", sample_weight, request.sample_weight, x.ndim
    )
    arrays.add_numbers("pos_weight", "pos_weight", pos_weight, request.pos_weight, x.ndim)
    return arrays.loss(donate_logits)


def softmax_family(
    operation: str, value: Any, name: str, axis: Any, keepdims: bool = False
) -> jax.Array:
    """Return `logsumexp`, `softmax` or `log_softmax` over one axis or several, which None stands for all of."""
    x = floating(value, name)
    axes = _functions.axes_of(axis, x.ndim, name)
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    one = len(axes) == 1
    rows = x if one else x.transpose(kept + axes).reshape([x.shape[d] for d in kept] + [-1])
    result: jax.Array = family_of(operation, axes[0] if one else len(kept), rows)
    if operation == "logsumexp":
        result = result.astype(x.dtype)
        return jnp.expand_dims(result, axes) if keepdims else result
    if one:
        return result
    order = kept + axes
    merged = result.reshape([x.shape[d] for d in order])
    return merged.transpose(np.argsort(order))
