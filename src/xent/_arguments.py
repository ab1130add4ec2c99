"""Argument validation, all of it: dtypes, shapes, layouts, targets, buffers, numbers.

Each function takes an argument as the user gave it, with its name, and returns it in the form that the core takes, or raises
an exception that names the argument, what was given and what is accepted. Nothing here reads the logits or writes to an
array.
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

# Array types that np.asarray would densify, compute or copy without saying so, by the package that defines them.
FOREIGN = {
    "scipy": "a sparse array; convert it with .toarray()",
    "sparse": "a sparse array; convert it with .todense()",
    "dask": "a Dask array; call .compute(), or map this function over its blocks",
    "cupy": "a CuPy array on a GPU; copy it to the CPU with cupy.asnumpy",
}


def described(value: object) -> str:
    """Describe an argument for a message: an array by shape and dtype, anything else by its repr."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def array(value: Any, name: str) -> Array:
    """Return a plain array over the memory of whatever has `__array__` or DLPack and lives on the CPU."""
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
        # NumPy has no bfloat16 dtype of its own, so it cannot read a tensor of that dtype.
        bits = "; give its bits, .view(torch.uint16), with dtype='bfloat16'"
        remedy = bits if str(getattr(value, "dtype", None)) == "torch.bfloat16" else ""
        raise TypeError(f"{name}: cannot be read as an array: {error}{remedy}") from error
    return found


def is_native_real(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of NumPy's own real dtypes, of at most 64 bits."""
    return dtype.kind in "fiub" and dtype.itemsize <= 8 and dtype.isbuiltin != 2


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is the bfloat16 of ml_dtypes."""
    # The kind is compared first because NumPy takes microseconds to find a dtype's name.
    return dtype.kind == "V" and dtype.name == "bfloat16"


def real(value: Any, name: str, of: str = "") -> Array:
    """Return an array of any real dtype but longdouble; `of` ends the error message with what else is expected."""
    found = array(value, name)
    if not (is_native_real(found.dtype) or is_bfloat16(found.dtype)):
        raise TypeError(
            f"{name}: dtype {found.dtype} is not accepted; expected real numbers of at most 64 bits{of}"
        )
    return found


@dataclass(frozen=True)
class Precision:
    """The dtypes that follow from the dtype of the logits."""

    storage: np.dtype[Any]  # of the logits as the core reads them: bfloat16 as its bits, uint16
    compute: np.dtype[Any]  # of losses, weights and sums
    result_dtype: np.dtype[
        Any
    ]  # of gradients and probabilities: that of the logits, float64 for integers
    bfloat16: bool = False


@cache
def precision(dtype: np.dtype[Any]) -> Precision:
    """Return the precision of one of NumPy's own real dtypes."""
    if dtype.kind != "f":
        dtype = np.dtype(np.float64)
    native = dtype.newbyteorder("=")
    return Precision(native, np.dtype(np.float32) if native.itemsize == 2 else native, native)


def logits(value: Any, name: str, dtype: Any = None) -> tuple[Array, Precision]:
    """Return floating or integer input (bfloat16 as uint16) and its precision."""
    found = array(value, name)
    kind = found.dtype
    if dtype is not None and not (isinstance(dtype, str) and dtype == "bfloat16"):
        raise ValueError(
            f"dtype: expected None or 'bfloat16' (for uint16 {name}), got {described(dtype)}"
        )
    if is_bfloat16(kind) or (dtype is not None and kind.kind == "u" and kind.itemsize == 2):
        bits = np.dtype(np.uint16)
        result_dtype = bits if kind.kind == "u" else kind
        stored = found if kind.kind == "u" else found.view(bits)
        return stored, Precision(bits, np.dtype(np.float32), result_dtype, True)
    if dtype is not None:
        raise ValueError(f"dtype: 'bfloat16' reads uint16 {name}, got dtype {kind}")
    if not is_native_real(kind):
        raise TypeError(
            f"{name}: dtype {kind} is not accepted; expected float16, bfloat16, float32, float64, integers or bool"
        )
    return found, precision(kind)


def class_axis(axis: SupportsIndex, ndim: int, name: str) -> int:
    """Return the class axis, counted from the front."""
    if ndim == 0:
        raise ValueError(f"{name}: expected at least one axis, that of the classes; got a scalar")
    try:
        position = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis: expected an integer, got {described(axis)}") from None
    if not -ndim <= position < ndim:
        raise np.exceptions.AxisError(
            f"axis: {position} is out of bounds for {name} with {ndim} axes"
        )
    return position % ndim


def classes_last(a: Array, axis: int) -> Array:
    """Return a view in which the class axis, here counted from the front, is the last."""
    last = a.ndim - 1
    return a if axis == last else a.transpose(*range(axis), *range(axis + 1, last + 1), axis)


def targets(value: Any, shape: tuple[int, ...], axis: int) -> tuple[Array | None, Array | None]:
    """Return (class indices, None) or (None, class probabilities with the class axis last)."""
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
    """Return the student's logits, which have been validated, the teacher's, and the precision that both are computed in."""
    found, other = logits(value, "teacher_logits", dtype)
    if found.shape != student.shape:
        raise ValueError(
            f"teacher_logits: expected the shape of student_logits, {student.shape}; got {found.shape}"
        )
    if other == kind:
        return student, found, kind
    if dtype is not None:
        raise ValueError("teacher_logits: expected uint16, as student_logits, for dtype='bfloat16'")
    # The logits are converted a block at a time, for which NumPy needs bfloat16 as its own dtype, not as bits.
    student = student.view(kind.result_dtype) if kind.bfloat16 else student
    found = found.view(other.result_dtype) if other.bfloat16 else found
    wide = [np.dtype(np.float32) if k.bfloat16 else k.storage for k in (kind, other)]
    return (
        student,
        found,
        replace(precision(np.promote_types(*wide)), result_dtype=kind.result_dtype),
    )


def linear(hidden: Any, weight: Any, bias: Any, dtype: Any) -> dict[str, tuple[Array, Precision]]:
    """Return the arrays of a linear layer by name: hidden states (..., D), weight (C, D), and the bias (C,) if given."""
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


def common_precision(kinds: Iterable[Precision]) -> Precision:
    """Return the precision in which arrays of several precisions are computed together."""
    return precision(np.result_type(*(kind.compute for kind in kinds)))


def bad_probability(name: str, position: tuple[int, ...], value: float) -> ValueError:
    """Return the exception for a probability outside [0, 1]."""
    where = ", ".join(map(str, position))
    return ValueError(f"{name}[{where}] = {value} is not a probability; expected 0 <= p <= 1")


def bad_target(index: Array, row: int, classes: int, ignore_index: int | None) -> IndexError:
    """Return the exception for the target at flat position `row`."""
    position = np.unravel_index(row, index.shape)
    value = int(index[position])
    where = ", ".join(str(int(i)) for i in position)
    but = "" if ignore_index is None else f" or ignore_index={ignore_index}"
    return IndexError(
        f"targets[{where}] = {value} is not a class; expected 0 <= target < {classes}{but}"
    )


@cache
def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the least and the greatest integer of a dtype."""
    info = np.iinfo(dtype)
    return info.min, info.max


def ignore_bits(ignore_index: SupportsIndex | None, index: Array | None) -> int | None:
    """Return the bits of `ignore_index` in the targets' dtype, sign-extended to 64, or None if no target can equal it."""
    if ignore_index is None:
        return None
    try:
        value = operator.index(ignore_index)
    except TypeError:
        raise TypeError(
            f"ignore_index: expected an integer or None, got {described(ignore_index)}"
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
    """Return a finite number in [low, high]."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}") from None
    if not low <= found <= high or not math.isfinite(found):
        raise ValueError(f"{name}: expected {expected}, got {described(value)}")
    return found


def eps(value: Any) -> float:
    """Return the distance from 0 and 1 at which probabilities are clipped; 0 if they are not clipped."""
    if value is None:
        return 0.0
    return number(value, "eps", SMALLEST, 0.5, "None or a number in (0, 0.5]")


# Bounds of a divisor: beyond them a division by it leaves the range of float32.
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
        raise ValueError(
            f"reduction: expected one of {', '.join(accepted)}, got {described(value)}"
        )
    return value


def cast(a: Array, dtype: np.dtype[Any]) -> Array:
    """Return the numbers in another dtype, infinite where they are too large for it."""
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
    return np.require(cast(found, dtype), requirements=("C", "A"))


def broadcast(
    value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None
) -> Array | None:
    """Return one number for each row, given in any shape that broadcasts to the loss; cast unless `dtype` is None."""
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


def same_shape(value: Any, name: str, shape: tuple[int, ...], of: str) -> Array:
    """Return an array of any real dtype and of exactly this shape, which is that of the argument `of`."""
    found = real(value, name)
    if found.shape != shape:
        raise ValueError(f"{name}: shape {found.shape} is not that of {of}, {shape}")
    return found


def grad_output(
    value: Any, reduction: str, shape: tuple[int, ...], dtype: np.dtype[Any] | None
) -> tuple[Array | None, float]:
    """Return the upstream gradient as (one number for each row or None, one factor); cast unless `dtype` is None."""
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
            f"grad_output: expected a scalar for reduction={reduction!r}, got {described(found)}"
        )
    return None, float(found)


def factors(value: Any, a: Array) -> tuple[Array, Array | None]:
    """Return `a` and its scaling factors `b`, broadcast against each other, as SciPy's `logsumexp` has them."""
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
        raise TypeError(f"{name}: expected True or False, got {described(value)}") from None


def requested_outputs(
    return_grad: Any, return_hess: Any, grad_output: Any, grad_out: Any, hess_out: Any
) -> tuple[bool, bool]:
    """Return whether the gradient and whether the Hessian are requested; refuse arguments that go with one that is not."""
    with_hess = flag(return_hess, "return_hess")
    with_grad = flag(return_grad, "return_grad") or with_hess
    for name, value in (("grad_output", grad_output), ("grad_out", grad_out)):
        if value is not None and not with_grad:
            raise ValueError(f"{name}: given, but return_grad is False")
    if hess_out is not None and not with_hess:
        raise ValueError("hess_out: given, but return_hess is False")
    return with_grad, with_hess


def numbers(stored: Array, kind: Precision) -> Array:
    """Return the numbers of an array that is stored as the core reads it: bfloat16 bits as float32, others as they are."""
    if not kind.bfloat16:
        return stored
    bits: Array = np.left_shift(stored, 16, dtype=np.uint32)
    return bits.view(np.float32)


def bfloat16_bits(values: Array) -> Array:
    """Round float32 or float64 numbers to bfloat16, once: to nearest, ties to even."""
    single = cast(values, np.dtype(np.float32))
    bits = single.view(np.uint32).copy()
    if values.dtype != single.dtype:
        # Rounding to float32 first would create ties. Rounding to odd creates none: toward zero, then the last bit is set
        # if anything was lost (S. Boldo, G. Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
        with np.errstate(all="ignore"):
            bits -= np.abs(single) > np.abs(values)
            bits |= single != values
    bits += 0x7FFF + (bits >> 16 & 1)
    bits >>= 16
    return np.where(np.isnan(values), 0x7FC0, bits).astype(np.uint16)


def float16(values: Array) -> Array:
    """Round float32 or float64 numbers to float16, once.

    NumPy's conversion takes 20 times as long for numbers that become subnormal and are not representable. They are rounded
    before it to multiples of 2^-24, the spacing of float16's subnormals, by adding a number whose own spacing that is.
    """
    room = values.dtype.type(0.75 if values.itemsize == 4 else 1.5 * 2.0**28)
    with np.errstate(all="ignore"):
        return cast(
            np.where(np.abs(values) < 2.0**-14, (values + room) - room, values),
            np.dtype(np.float16),
        )


def rounded(values: Array, kind: Precision) -> Array:
    """Round float32 or float64 numbers to half-precision results; conversions to other dtypes are left to NumPy."""
    if kind.bfloat16:
        return bfloat16_bits(values)
    return float16(values) if kind.result_dtype == np.float16 else values


def buffer(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a caller's array to write to: exactly this shape and dtype, writeable, no two elements in the same memory."""
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a numpy.ndarray, got {type(value).__name__}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{name}: expected shape {shape} and dtype {dtype}, got {described(value)}"
        )
    if not value.flags.writeable:
        raise ValueError(f"{name}: the array is read-only")
    if not value.size or value.flags.c_contiguous:
        return value  # the strides of axes of size 1 mean nothing
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
    """Return a caller's arrays to write to, given as a tuple with an array or None for each entry of `expected`."""
    if value is None:
        return [None] * len(expected)
    if not isinstance(value, tuple | list) or len(value) != len(expected):
        raise (ValueError if isinstance(value, tuple | list) else TypeError)(
            f"{name}: expected a tuple of {len(expected)}, for {', '.join(expected)}, each an array or None; "
            f"got {f'{len(value)} of them' if isinstance(value, tuple | list) else described(value)}"
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


def check_no_overlap(
    buffers: dict[str, Array | None],
    inputs: dict[str, Array | None],
    in_place: tuple[str, str] = ("", ""),
) -> None:
    """Refuse buffers that overlap an input or each other.

    `in_place` names a buffer and the input whose memory it may exactly be.
    """
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
