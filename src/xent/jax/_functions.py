"""What the functions of `xent.jax` call: arguments, validated, as the arrays and the options of a call.

Shapes, dtypes and options are validated where a function is traced, by the code that validates NumPy's arguments, on arrays
of the same shapes and of no memory.
"""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from xent import _arguments, _functions
from xent._request import Request, first_argument
from xent.jax._call import Call, compute_dtype, family_of, loss_of, placeholder


def described(value: Any) -> Any:
    """Return what validation sees of an argument: of JAX's arrays shape and dtype, but concrete class indices themselves."""
    if not isinstance(value, jax.Array):
        return value
    is_known = not isinstance(value, jax.core.Tracer)
    return value if is_known and value.dtype.kind in "iub" else placeholder(value)


def on_cpu(value: Any, name: str) -> jax.Array:
    """Return logits as an array of JAX's."""
    if not isinstance(value, jax.Array):
        return jnp.asarray(_arguments.array(value, name))
    if not isinstance(value, jax.core.Tracer):
        platforms = {device.platform for device in value.devices()} - {"cpu"}
        if platforms:
            raise ValueError(
                f"{name}: expected an array on a CPU, got one on {', '.join(platforms)}; "
                "move it with jax.device_put(x, jax.devices('cpu')[0])"
            )
    return value


def floating(x: jax.Array) -> jax.Array:
    """Return integers and bools in JAX's default float."""
    return x.astype(jnp.result_type(float)) if x.dtype.kind in "iub" else x


def given(value: Any, validated: Any, dtype: np.dtype[Any], ndim: int) -> jax.Array:
    """Return an array beside the logits, with so many axes: JAX's own, or what validation has made of another."""
    array = jnp.asarray(value if isinstance(value, jax.Array) else validated, dtype)
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


class Arrays:
    """The arrays of a loss: their fields of xent_call, and the parameters of the public function."""

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

    def add_numbers(self, argument: str, parameter: str, value: Any, ndim: int) -> None:
        """Add numbers of the compute dtype, if they are given."""
        if value is not None:
            numbers = given(value, getattr(self.request, argument), self.number, ndim)
            self.add(argument, parameter, numbers)

    def loss(self, donates: Any) -> jax.Array:
        call = Call.of(
            self.request,
            tuple(self.arguments),
            tuple(self.parameters),
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
    class_bias: Any = None,
    sample_weight: Any = None,
    donate_logits: Any = False,
    **options: Any,
) -> jax.Array:
    """Return a loss over a softmax; of `distillation_loss` the targets are the teacher's logits, of `entropy` None."""
    logits = on_cpu(logits, first_argument(operation))
    has_teacher = operation == "distillation_loss"
    if has_teacher:
        targets = on_cpu(targets, "teacher_logits")
    request = _functions.softmax_request(
        operation,
        described(logits),
        described(targets),
        class_weight=described(class_weight),
        class_bias=described(class_bias),
        sample_weight=described(sample_weight),
        **options,
    )
    x = floating(logits)
    if has_teacher:
        teacher = floating(targets)
        common = jnp.promote_types(x.dtype, teacher.dtype)
        arrays = Arrays(request, x.astype(common))
        arrays.add("soft", "teacher_logits", teacher.astype(common))
    else:
        arrays = Arrays(request, x)
    if request.index is not None:
        if not isinstance(targets, jax.core.Tracer):
            request.validate_targets()
        index = targets if isinstance(targets, jax.Array) else jnp.asarray(request.index)
        arrays.add("index", "targets", index)
    elif not has_teacher:
        arrays.add_numbers("soft", "targets", targets, x.ndim)
    arrays.add_numbers("class_weight", "class_weight", class_weight, 1)
    arrays.add_numbers("class_bias", "class_bias", class_bias, 1)
    arrays.add_numbers("sample_weight", "sample_weight", sample_weight, x.ndim - 1)
    return arrays.loss(donate_logits)


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
    logits = on_cpu(logits, first_argument(operation))
    request = _functions.elementwise_request(
        operation,
        described(logits),
        described(targets),
        sample_weight=described(sample_weight),
        pos_weight=described(pos_weight),
        **options,
    )
    arrays = Arrays(request, floating(logits))
    arrays.add_numbers("soft", "targets", targets, logits.ndim)
    arrays.add_numbers("sample_weight", "sample_weight", sample_weight, logits.ndim)
    arrays.add_numbers("pos_weight", "pos_weight", pos_weight, logits.ndim)
    return arrays.loss(donate_logits)


def softmax_family(operation: str, value: Any, axis: Any, keepdims: bool = False) -> jax.Array:
    """Return `logsumexp`, `softmax` or `log_softmax` over one axis or several, which None stands for all of."""
    name = first_argument(operation)
    x = floating(on_cpu(value, name))
    axes = tuple(sorted(_functions.axes_of(axis, x.ndim, name)))
    is_sum = operation == "logsumexp"
    if not is_sum:
        _functions.check_classes(x.shape, axes)
    if len(axes) == 1:
        result: jax.Array = family_of(operation, axes[0], x)
    else:
        order = tuple(d for d in range(x.ndim) if d not in axes) + axes
        shape = tuple(x.shape[d] for d in order)
        kept, merged = shape[: x.ndim - len(axes)], shape[x.ndim - len(axes) :]
        result = family_of(operation, len(kept), x.transpose(order).reshape(*kept, prod(merged)))
        if not is_sum:
            result = result.reshape(shape).transpose(np.argsort(order))
    if not is_sum:
        return result
    result = result.astype(x.dtype)
    return jnp.expand_dims(result, axes) if _arguments.flag(keepdims, "keepdims") else result
