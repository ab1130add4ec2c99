"""Threads, memory that is kept for results, instruction sets, and what this build is."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypedDict

from xent import _core, _pool

__all__ = [
    "get_include",
    "get_library",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "set_pool_bytes",
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
    control group. Where xent itself was told nothing, never more than OpenMP's own limit, which threadpoolctl sets; in no
    case more than ``OMP_THREAD_LIMIT``.

    Returns
    -------
    n : int
        At least 1.

    Examples
    --------
    >>> import xent
    >>> xent.get_num_threads() >= 1
    True
    """
    return int(_core.get_num_threads())


def num_threads(n: int) -> AbstractContextManager[None]:
    """Use `n` threads inside a ``with`` block: in this thread and asyncio task only.

    Threads that the block starts, those of a pool among them, do not see it: there, `set_num_threads` counts, which holds
    for the process, or a ``with`` block of the thread's own.

    Parameters
    ----------
    n : int
        1 to 1024.

    Returns
    -------
    context : context manager
        Its ``with`` block has the number; what was before is restored behind it.

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


def set_pool_bytes(n: int) -> None:
    """Set how many bytes of dropped results xent may keep for later ones.

    A large result that is dropped leaves its memory to the next one of about its size, which then costs no page faults.
    What nobody asks for in some calls goes back to the system. The first value is that of the environment's
    ``XENT_POOL_BYTES``, else an eighth of the memory that this process may use.

    Parameters
    ----------
    n : int
        0 or more. What exceeds it is given back at once; 0 turns the pool off.

    Raises
    ------
    TypeError, ValueError
        `n` is not such a number.

    Examples
    --------
    >>> import xent
    >>> before = xent.show_config()["pool_bytes"]["limit"]
    >>> xent.set_pool_bytes(2**30)
    >>> xent.show_config()["pool_bytes"]["limit"]
    1073741824
    >>> xent.set_pool_bytes(before)
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n: expected a number of bytes, got {n!r}") from None
    if count < 0:
        raise ValueError(f"n: expected 0 or more bytes, got {count}")
    _pool.set_limit(min(count, sys.maxsize))


class Config(TypedDict):
    """What `show_config` returns."""

    version: str
    isa: str
    isas_available: tuple[str, ...]
    isas_built: tuple[str, ...]
    threads: int
    pool_bytes: dict[str, int]
    openmp: str
    compiler: str


def show_config() -> Config:
    """What computes: instruction sets, threads, memory kept for results, OpenMP, compiler.

    Returns
    -------
    config : dict
        ``version``; ``isa`` in use, ``isas_available`` on this machine and ``isas_built``; ``threads``; ``pool_bytes``: the
        ``limit`` of `set_pool_bytes`, the bytes ``idle`` within it, and those ``in_use`` by results from the pool;
        ``openmp``, the specification compiled for and the file of the runtime that starts the threads; ``compiler``.

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
        "pool_bytes": _pool.statistics(),
        "openmp": _core.openmp(),
        "compiler": _core.compiler(),
    }


def get_include() -> str:
    """Folder of ``xent.h``, for C and Cython code that calls the kernels.

    Returns
    -------
    path : str
        Of the installed package.

    Examples
    --------
    >>> import os, xent
    >>> os.path.exists(os.path.join(xent.get_include(), "xent.h"))
    True
    """
    return os.path.join(os.path.dirname(_core.__file__), "include")


def get_library() -> str:
    """Folder of the static library, where it has been installed.

    Wheels leave it out: it is a second copy of the kernels, for the few who link them. The option
    ``XENT_INSTALL_LIBRARY`` of a build from source installs it. Link with ``-lxent -fopenmp -lm``, and with ``-ldl``
    where glibc is older than 2.34.

    Returns
    -------
    path : str
        Of the installed package.

    Raises
    ------
    FileNotFoundError
        The library is not installed.

    Examples
    --------
    >>> import os, xent
    >>> os.listdir(xent.get_library())
    ['libxent.a']
    """
    path = os.path.join(os.path.dirname(_core.__file__), "lib")
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"xent was installed without its static library, {os.path.join(path, 'libxent.a')}; in the source folder, "
            "pip install . -C cmake.define.XENT_INSTALL_LIBRARY=ON installs it"
        )
    return path
