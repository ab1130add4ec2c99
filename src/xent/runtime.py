"""Threads, instruction sets, and what this build is."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from xent import _core

__all__ = [
    "get_include",
    "get_library",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "show_config",
]

MOST_THREADS = 1024


def _count(n: int) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected a number of threads, got {n!r}") from None
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"n: expected 1 to {MOST_THREADS} threads, got {count}")
    return count


def set_num_threads(n: int) -> None:
    """Set the process-wide default number of threads.

    Parameters
    ----------
    n : int
        1 to 1024. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        `n` is not such a number.

    Examples
    --------
    >>> import xent
    >>> before = xent.get_num_threads()
    >>> xent.set_num_threads(1)
    >>> xent.get_num_threads()
    1
    >>> xent.set_num_threads(before)
    """
    _core.set_num_threads(_count(n))


def get_num_threads() -> int:
    """Number of threads a call would use here and now.

    That of the innermost `num_threads` of this context, else that of `set_num_threads`, else of the environment's
    ``XENT_NUM_THREADS`` or ``OMP_NUM_THREADS``, else the smaller of the CPUs this process may run on and the quota of its
    control group. Where xent itself was told nothing, never more than OpenMP's own limit, which threadpoolctl sets.

    Returns
    -------
    n : int

    Examples
    --------
    >>> import xent
    >>> xent.get_num_threads() >= 1
    True
    """
    return int(_core.get_num_threads())


def num_threads(n: int) -> AbstractContextManager[None]:
    """Use `n` threads inside a ``with`` block: in this thread and asyncio task only.

    Parameters
    ----------
    n : int
        1 to 1024.

    Raises
    ------
    TypeError, ValueError
        `n` is not such a number.

    Examples
    --------
    >>> import xent
    >>> with xent.num_threads(1):
    ...     xent.get_num_threads()
    1
    """
    return _num_threads(_count(n))


@contextmanager
def _num_threads(count: int) -> Iterator[None]:
    token = _core.context_threads.set(count)
    try:
        yield
    finally:
        _core.context_threads.reset(token)


def show_config() -> dict[str, str | int | tuple[str, ...]]:
    """What computes: instruction sets, threads, OpenMP, compiler.

    Returns
    -------
    config : dict
        ``version``; ``isa`` in use, ``isas_available`` on this machine and ``isas_built``; ``threads``; ``openmp``, the
        specification compiled for and the file of the runtime that starts the threads; ``compiler``.

    Examples
    --------
    >>> import xent
    >>> config = xent.show_config()
    >>> config["isa"] in config["isas_available"]
    True
    """
    from xent import __version__

    return {
        "version": __version__,
        "isa": _core.isa(),
        "isas_available": _core.isas(),
        "isas_built": _core.isas(built=True),
        "threads": get_num_threads(),
        "openmp": _core.openmp(),
        "compiler": _core.compiler(),
    }


def get_include() -> str:
    """Folder of ``xent.h``, for C and Cython code that calls the kernels.

    Returns
    -------
    path : str

    Examples
    --------
    >>> import os, xent
    >>> os.path.exists(os.path.join(xent.get_include(), "xent.h"))
    True
    """
    return str(Path(_core.__file__).parent / "include")


def get_library() -> str:
    """Folder of the static library.

    Link with ``-lxent -fopenmp -lm``, and with ``-ldl`` where glibc is older than 2.34.

    Returns
    -------
    path : str

    Examples
    --------
    >>> import os, xent
    >>> os.path.isdir(xent.get_library())
    True
    """
    return str(Path(_core.__file__).parent / "lib")
