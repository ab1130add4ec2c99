"""Arrays of the Arrow PyCapsule interface as NumPy arrays: numbers, bools, lists of one size, and tables of them.

The structures are those of the C data and C stream interfaces, https://arrow.apache.org/docs/format/CDataInterface.html.
The numbers of an array are used where they lie; bools, which are bits there, tables and the chunks of a stream are copied.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_int64,
    c_void_p,
)
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: NumPy's character of a number, by Arrow's.
NUMBERS = dict(zip("cCsSiIlLefg", "bBhHiIqQefd", strict=True))


class Schema(Structure):
    """ArrowSchema."""


class Data(Structure):
    """ArrowArray."""


def fields(own: Any, *more: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Return the fields of a structure; the last four are those of all of them."""
    return [
        *more,
        ("children", POINTER(POINTER(own))),
        ("dictionary", c_void_p),
        ("release", CFUNCTYPE(None, c_void_p)),
        ("private_data", c_void_p),
    ]


Schema._fields_ = fields(
    Schema,
    ("format", c_char_p),
    ("name", c_char_p),
    ("metadata", c_void_p),
    ("flags", c_int64),
    ("n_children", c_int64),
)
Data._fields_ = fields(
    Data,
    ("length", c_int64),
    ("null_count", c_int64),
    ("offset", c_int64),
    ("n_buffers", c_int64),
    ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)),
)


class Stream(Structure):
    """ArrowArrayStream."""

    _fields_ = (
        ("get_schema", CFUNCTYPE(c_int, c_void_p, POINTER(Schema))),
        ("get_next", CFUNCTYPE(c_int, c_void_p, POINTER(Data))),
        ("get_last_error", CFUNCTYPE(c_char_p, c_void_p)),
        ("release", CFUNCTYPE(None, c_void_p)),
        ("private_data", c_void_p),
    )


def read(value: Any) -> Array:
    """Return the numbers of an array, a column or a table, or raise `ValueError` for what is not numbers."""
    if hasattr(value, "__arrow_c_array__"):
        schema, data = value.__arrow_c_array__()
        return numbers(
            held(schema, b"arrow_schema", Schema), held(data, b"arrow_array", Data), data
        )
    capsule = value.__arrow_c_stream__()
    parts = list(chunks(held(capsule, b"arrow_array_stream", Stream)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def held(capsule: object, name: bytes, kind: Any) -> Any:
    """Return the structure that a capsule holds, and releases when it is collected."""
    pointer = ctypes.PYFUNCTYPE(c_void_p, ctypes.py_object, c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return kind.from_address(pointer(capsule, name))


def chunks(stream: Any) -> Iterator[Array]:
    """Yield copies of the chunks of a stream; of one without any, an empty array."""

    def next_of(get: Any, kind: Any) -> Any:
        structure = kind()
        if get(byref(stream), byref(structure)):
            raise ValueError((stream.get_last_error(byref(stream)) or b"a stream failed").decode())
        return structure

    schema = next_of(stream.get_schema, Schema)
    try:
        empty = True
        while (data := next_of(stream.get_next, Data)).release:
            try:
                yield numbers(schema, data, None).copy()
            finally:
                data.release(addressof(data))
            empty = False
        if empty:
            yield nothing(schema)
    finally:
        schema.release(addressof(schema))


def nothing(schema: Any) -> Array:
    """Return an empty array of the shape and dtype that a schema says."""
    form = schema.format.decode()
    if form == "+s":
        columns = [nothing(schema.children[k].contents) for k in range(schema.n_children)]
        return np.stack(columns, axis=-1) if columns else np.empty((0, 0))
    if form.startswith("+w:"):
        inner = nothing(schema.children[0].contents)
        return np.empty((0, int(form[3:]), *inner.shape[1:]), inner.dtype)
    refuse_others(schema, form)
    return np.empty(0, NUMBERS.get(form, "?"))


def refuse_others(schema: Any, form: str) -> None:
    """Raise for what is not numbers."""
    if schema.dictionary or not (form in NUMBERS or form == "b"):
        raise ValueError(f"Arrow's format {form!r}, which is not numbers")


class Memory:
    """Elements in the memory of an owner, for `np.asarray`."""

    def __init__(self, address: int, count: int, code: str, owner: object):
        self.owner = owner
        self.__array_interface__ = {
            "version": 3,
            "shape": (count,),
            "typestr": np.dtype(code).str,
            "data": (address, True),
        }


def numbers(schema: Any, data: Any, owner: object, begin: int = 0, count: int = -1) -> Array:
    """Return elements begin..begin+count-1 of an array; all of them, unless its parent takes a part."""
    form = schema.format.decode()
    count = data.length - begin if count < 0 else count
    if data.null_count and has_null(data, begin, count):
        raise ValueError("nulls; fill them, or leave their rows out")
    begin += data.offset
    if form == "+s":
        columns = [
            numbers(schema.children[k].contents, data.children[k].contents, owner, begin, count)
            for k in range(data.n_children)
        ]
        return np.stack(columns, axis=-1) if columns else np.empty((count, 0))
    if form.startswith("+w:"):
        size = int(form[3:])
        inner = numbers(
            schema.children[0].contents,
            data.children[0].contents,
            owner,
            begin * size,
            count * size,
        )
        return inner.reshape(count, size, *inner.shape[1:])
    refuse_others(schema, form)
    if not count:
        return np.empty(0, NUMBERS.get(form, "?"))
    if form == "b":
        bits = np.asarray(Memory(data.buffers[1], -(-(begin + count) // 8), "u1", owner))
        return np.unpackbits(bits, count=begin + count, bitorder="little")[begin:].astype(bool)
    return np.asarray(Memory(data.buffers[1], begin + count, NUMBERS[form], owner))[begin:]


def has_null(data: Any, begin: int, count: int) -> bool:
    """Whether an element of a part is null; a count of -1 stands for one that has not been counted."""
    if not data.buffers[0] or not count:
        return False
    first = data.offset + begin
    bits = np.asarray(Memory(data.buffers[0], -(-(first + count) // 8), "u1", None))
    return not np.unpackbits(bits, count=first + count, bitorder="little")[first:].all()
