"""Types of the compiled module."""

from contextvars import ContextVar
from typing import Any

from numpy.typing import NDArray
from typing_extensions import disjoint_base

context_threads: ContextVar[int]
_C_API: Any  # a capsule

@disjoint_base
class Call:
    divisor: float
    def __init__(
        self,
        operation: str,
        shape: tuple[int, ...],
        classes: int,
        logits: NDArray[Any],
        bfloat16: bool,
    ) -> None: ...
    @property
    def result(self) -> float: ...
    def arrays(
        self,
        index: NDArray[Any] | None = None,
        soft: NDArray[Any] | None = None,
        class_weight: NDArray[Any] | None = None,
        sample_weight: NDArray[Any] | None = None,
        grad_output: NDArray[Any] | None = None,
        loss: NDArray[Any] | None = None,
        lse: NDArray[Any] | None = None,
        out: NDArray[Any] | None = None,
        hess: NDArray[Any] | None = None,
    ) -> Call: ...
    def numbers(
        self,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        reduction: str = "none",
        grad_scale: float = 1.0,
        strength: float = 0.0,
        eps: float = 0.0,
    ) -> Call: ...
    def elementwise(
        self,
        pos_weight: NDArray[Any] | None = None,
        block_sums: NDArray[Any] | None = None,
        alpha: float | None = None,
        log_target: bool = False,
    ) -> Call: ...
    def layout_supported(self) -> bool: ...
    def prepare(self) -> int: ...
    def compute(self) -> None: ...
    def finish(self) -> None: ...
    def run(self) -> int: ...

def cross_entropy(
    logits: object,
    targets: object,
    axis: object,
    ignore_index: object,
    label_smoothing: object,
    z_loss: object,
    temperature: object,
    reduction: object,
    return_grad: object,
    grad_output: object,
    grad_out: object,
) -> Any: ...
def isa() -> str: ...
def isas(built: bool = False) -> tuple[str, ...]: ...
def use_isa(name: str) -> str: ...
def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def openmp() -> str: ...
def compiler() -> str: ...
def version() -> str: ...
def memory_read(array: NDArray[Any], threads: int) -> None: ...
def memory_copy(to: NDArray[Any], source: NDArray[Any], threads: int) -> None: ...
def math(function: str, x: NDArray[Any]) -> NDArray[Any]: ...
