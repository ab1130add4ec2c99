"""Types of the compiled module."""

from contextvars import ContextVar
from typing import Any

from numpy.typing import NDArray

from xent._arguments import Precision

context_threads: ContextVar[int]
_C_API: Any  # a capsule

def isa() -> str: ...
def isas(built: bool = False) -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def openmp() -> str: ...
def compiler() -> str: ...
def version() -> str: ...
def unscale(array: NDArray[Any], scale: float, dtype: str) -> bool: ...
def memory_read(array: NDArray[Any], threads: int) -> None: ...
def memory_copy(to: NDArray[Any], source: NDArray[Any], threads: int) -> None: ...
def math(function: str, x: NDArray[Any]) -> NDArray[Any]: ...
def region_pass(
    precision: Precision,
    shape: tuple[int, int, int],
    steps: dict[str, tuple[int, int, int]],
    logits: NDArray[Any],
    index: NDArray[Any] | None,
    soft: NDArray[Any] | None,
    ignore: int | None,
    sums: NDArray[Any] | None,
    slope: NDArray[Any] | None,
    out: NDArray[Any] | None,
) -> int | None: ...
def jensen_shannon_pass(
    precisions: tuple[Precision, Precision],
    classes: int,
    temperature: float,
    beta: float,
    logits: list[tuple[NDArray[Any], int]],
    grads: list[tuple[NDArray[Any], int] | None],
    slope: NDArray[Any],
    loss: NDArray[Any],
) -> None: ...

SUMS_BYTES: int

def merge_sums(shards: list[NDArray[Any]], rows: int) -> tuple[NDArray[Any], int]: ...
