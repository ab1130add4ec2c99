"""The only judge of what users hand in: dtype, shape, layout, targets, buffers, numbers.

Each function takes an argument as it came and its name, and returns it in the form the core takes, or raises an exception
that names the argument, what was given and what is accepted. Nothing here reads the logits or writes to any array.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, SupportsIndex

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

REDUCTIONS = ("none", "sum", "mean")

# Arrays that np.asarray would densify, compute or copy behind the user's back, by the package their type comes from.
FOREIGN = {
    "scipy": "a sparse array; convert it with .toarray()",
    "sparse": "a sparse array; convert it with .todense()",
    "dask": "a Dask array; call .compute(), or map this function over its blocks",
    "cupy": "a CuPy array on a GPU; copy it to the CPU with cupy.asnumpy",
}


def given(value: object) -> str:
    """How an argument is named in a message: an array by shape and dtype, anything else as it prints."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def array(value: Any, name: str) -> Array:
    """A plain array over the same memory: whatever has `__array__` or DLPack and lives on the CPU."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: a masked array is not accepted; fill it with .filled(), or give masked rows "
            "sample_weight 0 or the target ignore_index"
        )
    package = type(value).__module__.partition(".")[0]
    if package in FOREIGN and not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{name}: {type(value).__name__} is {FOREIGN[package]}")
    try:
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError, AttributeError) as error:
        # NumPy has no bfloat16 of its own to take a tensor of it as.
        bits = "; give its bits, .view(torch.uint16), with dtype='bfloat16'"
        remedy = bits if str(getattr(value, "dtype", None)) == "torch.bfloat16" else ""
        raise TypeError(f"{name}: cannot be read as an array: {error}{remedy}") from error
    return found


def narrow(dtype: np.dtype[Any]) -> bool:
    """Whether it is one of NumPy's own real dtypes, of at most 64 bits."""
    return dtype.kind in "fiub" and dtype.itemsize <= 8 and dtype.isbuiltin != 2


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether it is that of ml_dtypes. A dtype's name takes NumPy microseconds to find."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def real(value: Any, name: str, of: str = "") -> Array:
    """An array of any real dtype but longdouble; `of`: what else a message says is expected."""
    found = array(value, name)
    if not (narrow(found.dtype) or is_bfloat16(found.dtype)):
        raise TypeError(
            f"{name}: dtype {found.dtype} is not accepted; expected real numbers of at most 64 bits{of}"
        )
    return found


@dataclass(frozen=True)
class Precision:
    """How an array of logits is stored, computed and answered."""

    storage: np.dtype[Any]  # as the core reads it: bfloat16 as its bits, uint16
    compute: np.dtype[Any]  # of losses, weights and sums
    answer: np.dtype[Any]  # of gradients and probabilities: the logits' own
    bfloat16: bool = False


@cache
def precision(dtype: np.dtype[Any]) -> Precision:
    """Of NumPy's own real dtypes."""
    if dtype.kind != "f":
        dtype = np.dtype(np.float64)
    native = dtype.newbyteorder("=")
    return Precision(native, np.dtype(np.float32) if native.itemsize == 2 else native, native)


def logits(value: Any, name: str, dtype: Any = None) -> tuple[Array, Precision]:
    """Floating or integer input (bfloat16 as uint16), and its precision."""
    found = array(value, name)
    kind = found.dtype
    if dtype is not None and not (isinstance(dtype, str) and dtype == "bfloat16"):
        raise ValueError(
            f"dtype: expected None or 'bfloat16' (for uint16 {name}), got {given(dtype)}"
        )
    if is_bfloat16(kind) or (dtype is not None and kind.kind == "u" and kind.itemsize == 2):
        bits = np.dtype(np.uint16)
        answer = bits if kind.kind == "u" else kind
        stored = found if kind.kind == "u" else found.view(bits)
        return stored, Precision(bits, np.dtype(np.float32), answer, True)
    if dtype is not None:
        raise ValueError(f"dtype: 'bfloat16' reads uint16 {name}, got dtype {kind}")
    if not narrow(kind):
        raise TypeError(
            f"{name}: dtype {kind} is not accepted; expected float16, bfloat16, float32, float64, integers or bool"
        )
    return found, precision(kind)


def class_axis(axis: SupportsIndex, ndim: int, name: str) -> int:
    """The class axis, counted from the front."""
    if ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, that of the classes; got a scalar")
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {given(axis)}") from None
    if not -ndim <= position < ndim:
        raise np.exceptions.AxisError(
            f"axis: {position} is out of bounds for {name} with {ndim} axes"
        )
    return position % ndim


def classes_last(a: Array, axis: int) -> Array:
    """A view with the class axis, counted from the front, at the end."""
    last = a.ndim - 1
    return a if axis == last else a.transpose(*range(axis), *range(axis + 1, last + 1), axis)


def targets(value: Any, shape: tuple[int, ...], axis: int) -> tuple[Array | None, Array | None]:
    """(class indices, None) or (None, class probabilities with the class axis last)."""
    found = array(value, "targets")
    loss_shape = shape[:axis] + shape[axis + 1 :]
    if found.shape == loss_shape:
        if found.size == 0 and not isinstance(value, np.ndarray):
            found = found.astype(np.int64)  # an empty list has no dtype of its own
        if found.dtype.kind not in "iub":
            raise TypeError(
                f"targets: dtype {found.dtype} is not accepted for class indices, of shape {loss_shape}; expected "
                f"integers or bool. Class probabilities would have the shape of the logits, {shape}"
            )
        return found.astype(found.dtype.newbyteorder("="), copy=False), None
    if found.shape == shape:
        either = (
            f" for class probabilities, of shape {shape}, or class indices of shape {loss_shape}"
        )
        return None, classes_last(real(found, "targets", either), axis)
    raise ValueError(
        f"targets: shape {found.shape} does not fit logits of shape {shape} with the classes on axis "
        f"{axis}; expected {loss_shape} for class indices or {shape} for class probabilities"
    )


def teacher(
    value: Any, student: Array, kind: Precision, dtype: Any
) -> tuple[Array, Array, Precision]:
    """(student's logits, teacher's, the precision both are computed in), the student's being judged already."""
    found, other = logits(value, "teacher_logits", dtype)
    if found.shape != student.shape:
        raise ValueError(
            f"teacher_logits: expected the shape of student_logits, {student.shape}; got {found.shape}"
        )
    if other == kind:
        return student, found, kind
    if dtype is not None:
        raise ValueError("teacher_logits: expected uint16, as student_logits, for dtype='bfloat16'")
    # Converted a block at a time: bfloat16 by its own dtype, no longer as bits.
    student = student.view(kind.answer) if kind.bfloat16 else student
    found = found.view(other.answer) if other.bfloat16 else found
    wide = [np.dtype(np.float32) if k.bfloat16 else k.storage for k in (kind, other)]
    return student, found, replace(precision(np.promote_types(*wide)), answer=kind.answer)


def linear(hidden: Any, weight: Any, bias: Any, dtype: Any) -> dict[str, tuple[Array, Precision]]:
    """What logits are the product of, by name: hidden states (..., D), weight (C, D), and the bias (C,) if there is one."""
    given_arrays = {"hidden": hidden, "weight": weight} | ({} if bias is None else {"bias": bias})
    found = {name: logits(value, name, dtype) for name, value in given_arrays.items()}
    states, shape = found["hidden"][0].shape, found["weight"][0].shape
    if not states:
        raise ValueError("hidden: expected at least one axis, that of the features; got a scalar")
    if len(shape) != 2 or shape[1] != states[-1]:
        raise ValueError(
            f"weight: expected shape (C, {states[-1]}), for each class the features of hidden, "
            f"whose shape is {states}; got {shape}"
        )
    if "bias" in found and found["bias"][0].shape != shape[:1]:
        raise ValueError(
            f"bias: expected shape ({shape[0]},), a number for each class of weight; got {found['bias'][0].shape}"
        )
    return found


def joint(kinds: Iterable[Precision]) -> Precision:
    """The precision in which arrays of several are computed together."""
    return precision(np.result_type(*(kind.compute for kind in kinds)))


def bad_probability(name: str, position: tuple[int, ...], value: float) -> ValueError:
    """The exception for a probability outside [0, 1]."""
    where = ", ".join(map(str, position))
    return ValueError(f"{name}[{where}] = {value} is not a probability; expected 0 <= p <= 1")


def bad_target(index: Array, row: int, classes: int, ignore_index: int | None) -> IndexError:
    """The exception for the target at flat position `row`."""
    position = np.unravel_index(row, index.shape)
    value = int(index[position])
    where = ", ".join(str(int(i)) for i in position)
    but = "" if ignore_index is None else f" or ignore_index={ignore_index}"
    return IndexError(
        f"targets[{where}] = {value} is not a class; expected 0 <= target < {classes}{but}"
    )


@cache
def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The least and the greatest integer of a dtype."""
    info = np.iinfo(dtype)
    return info.min, info.max


def ignore(ignore_index: SupportsIndex | None, index: Array | None) -> int | None:
    """The bits of `ignore_index` in the targets' dtype, sign-extended to 64; None where no target can be equal."""
    if ignore_index is None:
        return None
    try:
        value = operator.index(ignore_index)
    except TypeError:
        raise TypeError(
            f"ignore_index: expected an integer or None, got {given(ignore_index)}"
        ) from None
    if index is None:
        if value >= 0:
            raise ValueError(
                f"ignore_index: {value} needs class indices; with class probabilities use sample_weight"
            )
        return None
    if index.dtype == bool:
        return value if value in (0, 1) else None
    least, most = limits(index.dtype)
    if not least <= value <= most:
        return None
    return value - (1 << 64) if value >= 1 << 63 else value


def number(value: Any, name: str, low: float, high: float, expected: str) -> float:
    """A finite number in [low, high]."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected {expected}, got {given(value)}") from None
    if not low <= found <= high or not math.isfinite(found):
        raise ValueError(f"{name}: expected {expected}, got {given(value)}")
    return found


def eps(value: Any) -> float:
    """Bounds of clipped probabilities; 0: not clipped."""
    if value is None:
        return 0.0
    return number(value, "eps", SMALLEST, 0.5, "None or a number in (0, 0.5]")


# Beyond these a division by the number leaves the range of float32.
SMALLEST, LARGEST = 1e-30, 1e30


def label_smoothing(value: Any) -> float:
    return number(value, "label_smoothing", 0.0, 1.0, "a number in [0, 1]")


def z_loss(value: Any) -> float:
    return number(value, "z_loss", 0.0, LARGEST, "a finite number >= 0")


def temperature(value: Any) -> float:
    return number(value, "temperature", SMALLEST, LARGEST, "a finite number > 0")


def softcap(value: Any) -> float | None:
    return (
        None
        if value is None
        else number(value, "softcap", SMALLEST, LARGEST, "None or a finite number > 0")
    )


def reduction(value: Any, accepted: tuple[str, ...] = REDUCTIONS) -> str:
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"reduction: expected one of {', '.join(accepted)}, got {given(value)}")
    return value


def cast(a: Array, dtype: np.dtype[Any]) -> Array:
    """The numbers in another dtype, infinite where they are too large for it."""
    if a.dtype == dtype:
        return a
    with np.errstate(all="ignore"):
        return a.astype(dtype)


def class_weight(value: Any, classes: int, dtype: np.dtype[Any]) -> Array | None:
    if value is None:
        return None
    found = real(value, "class_weight")
    if found.shape != (classes,):
        raise ValueError(
            f"class_weight: expected shape ({classes},), one weight a class; got {found.shape}"
        )
    return np.ascontiguousarray(cast(found, dtype))


def broadcast(
    value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None
) -> Array | None:
    """One number a row, given in any shape that broadcasts to the loss; of no dtype, as it is."""
    if value is None:
        return None
    found = real(value, name)
    found = found if dtype is None else cast(found, dtype)
    try:
        return np.broadcast_to(found, shape)
    except ValueError:
        raise ValueError(
            f"{name}: shape {found.shape} does not broadcast to that of the loss, {shape}"
        ) from None


def like(value: Any, name: str, shape: tuple[int, ...], of: str) -> Array:
    """An array of any real dtype and of exactly this shape, that of the argument `of`."""
    found = real(value, name)
    if found.shape != shape:
        raise ValueError(f"{name}: shape {found.shape} is not that of {of}, {shape}")
    return found


def grad_output(
    value: Any, reduction: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None
) -> tuple[Array | None, float]:
    """The upstream gradient as (one number a row or None, factor of the whole); of no dtype, as it is."""
    if value is None:
        return None, 1.0
    found = real(value, "grad_output")
    if reduction == "none":
        if found.shape != shape:
            raise ValueError(
                f"grad_output: expected the shape of the loss, {shape}, for reduction='none'; got {found.shape}"
            )
        return found if dtype is None else cast(found, dtype), 1.0
    if found.shape != ():
        raise ValueError(
            f"grad_output: expected a scalar for reduction={reduction!r}, got {given(found)}"
        )
    return None, float(found)


def factors(value: Any, a: Array) -> tuple[Array, Array | None]:
    """`a` and its factors, broadcast against each other."""
    if value is None:
        return a, None
    found = real(value, "b")
    try:
        shape = np.broadcast_shapes(a.shape, found.shape)
    except ValueError:
        raise ValueError(
            f"b: shape {found.shape} does not broadcast with that of a, {a.shape}"
        ) from None
    return np.broadcast_to(a, shape), np.broadcast_to(found, shape)


def flag(value: Any, name: str) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected True or False, got {given(value)}") from None


def asked(
    return_grad: Any, return_hess: Any, grad_output: Any, grad_out: Any, hess_out: Any
) -> tuple[bool, bool]:
    """(gradient wanted, Hessian wanted); refuses what goes with one that is not."""
    with_hess = flag(return_hess, "return_hess")
    with_grad = flag(return_grad, "return_grad") or with_hess
    for name, value in (("grad_output", grad_output), ("grad_out", grad_out)):
        if value is not None and not with_grad:
            raise ValueError(f"{name}: given, but return_grad is False")
    if hess_out is not None and not with_hess:
        raise ValueError("hess_out: given, but return_hess is False")
    return with_grad, with_hess


def numbers(stored: Array, kind: Precision) -> Array:
    """The numbers of an array as the core reads it: of bfloat16 bits, as float32."""
    if not kind.bfloat16:
        return stored
    bits: Array = np.left_shift(stored, 16, dtype=np.uint32)
    return bits.view(np.float32)


def bfloat16_bits(values: Array) -> Array:
    """Numbers of float32 or float64 rounded to bfloat16, once: to nearest, ties to even."""
    single = cast(values, np.dtype(np.float32))
    bits = single.view(np.uint32).copy()
    if values.dtype != single.dtype:
        # To odd first, so that no tie is made that was none: toward zero, the last bit set if anything is lost.
        with np.errstate(all="ignore"):
            bits -= np.abs(single) > np.abs(values)
            bits |= single != values
    bits += 0x7FFF + (bits >> 16 & 1)
    bits >>= 16
    return np.where(np.isnan(values), 0x7FC0, bits).astype(np.uint16)


def float16(values: Array) -> Array:
    """Numbers of float32 or float64 rounded to float16, once.

    NumPy's conversion takes 20 times as long for what becomes subnormal and is not exactly so. That is rounded before,
    to multiples of 2^-24, by a sum that has no room for less.
    """
    room = values.dtype.type(0.75 if values.itemsize == 4 else 1.5 * 2.0**28)
    with np.errstate(all="ignore"):
        return cast(
            np.where(np.abs(values) < 2.0**-14, (values + room) - room, values),
            np.dtype(np.float16),
        )


def rounded(values: Array, kind: Precision) -> Array:
    """Numbers of float32 or float64 as an answer is stored; other dtypes are left to NumPy."""
    if kind.bfloat16:
        return bfloat16_bits(values)
    return float16(values) if kind.answer == np.float16 else values


def buffer(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A caller's array to write to: exactly this shape and dtype, writeable, no element twice."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name}: expected shape {shape} and dtype {dtype}, got {given(value)}")
    if not value.flags.writeable:
        raise ValueError(f"{name}: the array is read-only")
    if not value.size or value.flags.c_contiguous:
        return value  # whatever the steps of axes of size 1 are
    reach = value.itemsize - 1
    for step, size in sorted((abs(s), n) for s, n in zip(value.strides, value.shape, strict=True)):
        if size > 1 and step <= reach:
            raise ValueError(
                f"{name}: elements of the array share memory (strides {value.strides})"
            )
        reach += step * max(size - 1, 0)
    return value


def buffers(
    value: Any, name: str, expected: dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
) -> list[Array | None]:
    """A tuple of a caller's arrays, one for each of those expected, by shape and dtype, or None in its place."""
    if value is None:
        return [None] * len(expected)
    if not isinstance(value, tuple | list) or len(value) != len(expected):
        raise (ValueError if isinstance(value, tuple | list) else TypeError)(
            f"{name}: expected a tuple of {len(expected)}, for {', '.join(expected)}, each an array or None; "
            f"got {f'{len(value)} of them' if isinstance(value, tuple | list) else given(value)}"
        )
    return [
        None if one is None else buffer(one, f"{name}[{position}]", shape, dtype)
        for position, (one, (shape, dtype)) in enumerate(zip(value, expected.values(), strict=True))
    ]


def overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same_memory(a: Array, b: Array) -> bool:
    return a is b or (
        a.shape == b.shape
        and a.strides == b.strides
        and a.itemsize == b.itemsize
        and a.__array_interface__["data"] == b.__array_interface__["data"]
    )


def separate(
    buffers: dict[str, Array | None],
    inputs: dict[str, Array | None],
    in_place: tuple[str, str] = ("", ""),
) -> None:
    """Refuses buffers that overlap an input or each other; `in_place` names a buffer that may be exactly the memory of an
    input."""
    outputs = {name: a for name, a in buffers.items() if a is not None and a.size}
    read = {name: a for name, a in inputs.items() if a is not None and a.size}
    for position, (name, out) in enumerate(outputs.items()):
        for other, source in read.items():
            in_its_place = (name, other) == in_place
            if overlap(out, source) and not (in_its_place and same_memory(out, source)):
                raise ValueError(f"{name}: the array overlaps the memory of {other}")
        for other, second in list(outputs.items())[:position]:
            if overlap(out, second):
                raise ValueError(f"{name}: the array overlaps the memory of {other}")
