"""The names in the annotations of public functions, which `import xent` does not need.

Type checkers read it; `typing.get_type_hints(xent.cross_entropy, vars(xent._typing))` evaluates annotations with it.
"""

from typing import Any, Literal, Never, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Any",
    "Array",
    "ArrayLike",
    "DTypeLike",
    "Literal",
    "Loss",
    "NDArray",
    "Never",
    "Nothing",
    "Scalar",
]

Scalar = np.floating[Any]
# One number for each row; NumPy returns a scalar for a single row without other axes.
Array = NDArray[np.floating[Any]]
# Reduced or not.
Loss = Scalar | Array

T_co = TypeVar("T_co", covariant=True)


class Nothing(Protocol[T_co]):
    """The type of arguments that do not exist: no object is a ``Nothing[Never]``, though every object is a ``Nothing``.

    The last overload of a function has it. When no overload accepts a call, mypy looks for one that would if the parameters
    of generic types were disregarded, and explains that one; without one it prints all overloads.
    """

    def __sizeof__(self) -> T_co:  # type: ignore[override]
        raise NotImplementedError
