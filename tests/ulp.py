"""The kernels' elementary functions by themselves: errors in units of the last place of the exact result.

    python tests/ulp.py                  every float32 of each domain, ten million doubles: minutes
    python tests/ulp.py --every 1009     a sample
    python tests/ulp.py exp tanh         some of them

A table: for each function and dtype how many arguments, the largest error and where, the mean, and
the bound stated in csrc/kernels/math.h. The exit status is 1 if one is exceeded.

float32 is compared with NumPy in float64, whose own error is below 1e-8 ulp of float32. float64 is
compared with C's long double (64 bits or more), and the largest thousand errors once more with
mpmath; random arguments, the breakpoints of the range reductions, and the neighbours of the worst of
them, where errors of polynomials gather.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import mpmath
import numpy as np

from xent import _core

Array = np.ndarray[Any, Any]
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
PIECE = 1 << 20
# Arguments of float64: as many at random, and so many neighbours of each of the worst hundred.
RANDOM, NEIGHBOURS = 10_000_000, 2_000


class Domain(NamedTuple):
    """Where a function is checked: the sign of its arguments, their magnitudes, its bounds."""

    function: str
    sign: int
    magnitudes: dict[np.dtype, tuple[float, float]]
    bound: dict[np.dtype, float]

    def __str__(self) -> str:
        return f"{self.function}({'-' if self.sign < 0 else ''}x)"


def _domain(
    function: str,
    sign: int,
    single: tuple[float, float],
    double: tuple[float, float],
    *bounds: float,
) -> Domain:
    return Domain(function, sign, {F32: single, F64: double}, {F32: bounds[0], F64: bounds[-1]})


DOMAINS = (
    _domain("exp", -1, (1e-30, 87.33654), (1e-30, 708.396), 0.89, 0.93),
    _domain("log", 1, (1.5e-45, 2.0**126), (5e-324, 2.0**1022), 1.0),
    _domain("log1p", 1, (1.2e-38, 2.0**126), (1e-300, 2.0**1022), 1.4, 1.41),
    _domain("log1p", -1, (1.2e-38, 1 - 2.0**-24), (1e-300, 1 - 2.0**-53), 1.4, 1.41),
    _domain("log1p_unit", 1, (1.2e-38, 1.0), (1e-300, 1.0), 1.5, 1.6),
    _domain("tanh", 1, (1e-30, 3e38), (1e-300, 1e300), 2.7),
    _domain("tanh_slope", 1, (1e-30, 39.0), (1e-30, 340.0), 5.3),
)
WIDER: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "log1p_unit": np.log1p,
    "tanh": np.tanh,
    "tanh_slope": lambda x: 1 / np.cosh(x) ** 2,
}
EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "log1p_unit": mpmath.log1p,
    "tanh": mpmath.tanh,
    "tanh_slope": lambda x: mpmath.sech(x) ** 2,
}


def errors(function: str, x: Array) -> Array:
    """In ulp of the exact result, which is taken of a wider type."""
    wider = np.float64 if x.dtype == F32 else np.longdouble
    exact = WIDER[function](x.astype(wider))
    unit = np.spacing(np.abs(exact).astype(x.dtype)).astype(wider)
    return (np.abs(_core.math(function, x) - exact) / unit).astype(np.float64)


def exact_error(function: str, x: float) -> float:
    """In ulp of the exact result, in 200 bits."""
    with mpmath.workprec(200):
        exact = EXACT[function](mpmath.mpf(x))
        found = mpmath.mpf(float(_core.math(function, np.array([x]))[0]))
        return float(abs(found - exact) / float(np.spacing(abs(float(exact)))))


def floats(domain: Domain, every: int) -> Iterator[Array]:
    """All float32 of a domain, or one of `every`, in pieces."""
    for first, last in pieces(domain, every):
        yield floats_between(domain, first, last, every)


def pieces(domain: Domain, every: int) -> Iterator[tuple[int, int]]:
    """The magnitudes of a domain as the bits of float32, in runs."""
    low, high = np.array(domain.magnitudes[F32], np.float32).view(np.uint32)
    for first in range(int(low), int(high) + 1, PIECE * every):
        yield first, min(first + PIECE * every, int(high) + 1)


def floats_between(domain: Domain, first: int, last: int, every: int) -> Array:
    """One of these runs."""
    magnitudes = np.arange(first, last, every, dtype=np.uint32).view(np.float32)
    return np.float32(domain.sign) * magnitudes


def breakpoints(high: float) -> Array:
    """Where the rounded quotient by log 2 jumps, of x and of 2 x; and just before."""
    of_exp = (np.arange(1, 1100) - 0.5) * np.log(2.0)
    x = np.concatenate([of_exp / 2, of_exp, np.nextafter(of_exp, 0)])
    return x[x < high]


def doubles(domain: Domain, count: int, seed: int) -> Array:
    """Magnitudes of every size, those of a few units more often, and the breakpoints."""
    rng = np.random.default_rng(seed)
    low, high = domain.magnitudes[F64]
    with np.errstate(under="ignore"):
        spread = np.exp(rng.uniform(np.log(low), np.log(high), count // 2))
    near = rng.uniform(0, min(high, 40.0), count // 2)
    return domain.sign * np.clip(np.concatenate([spread, near, breakpoints(high)]), low, high)


def doubles_around(domain: Domain, x: float) -> Array:
    """The neighbours of a double."""
    low, high = domain.magnitudes[F64]
    middle = int(np.array([abs(x)]).view(np.int64)[0])
    around = np.arange(middle - NEIGHBOURS // 2, middle + NEIGHBOURS // 2).view(np.float64)
    return domain.sign * np.clip(around, low, high)


class Found(NamedTuple):
    """Of some arguments: how many, the sum of their errors, the worst, each with its argument."""

    count: int
    total: float
    worst: list[tuple[float, float]]


def measure(function: str, x: Array, keep: int) -> Found:
    """The errors of a piece."""
    error = errors(function, x)
    largest = np.argpartition(error, -min(keep, x.size))[-keep:]
    return Found(x.size, float(error.sum()), [(float(error[i]), float(x[i])) for i in largest])


def measure_floats(domain: Domain, every: int, run: tuple[int, int]) -> Found:
    """Those of a run of float32."""
    return measure(domain.function, floats_between(domain, *run, every), 1)


def measure_doubles(domain: Domain, seed: int) -> Found:
    """Those of random doubles."""
    return measure(domain.function, doubles(domain, PIECE, seed), 1000)


def measure_around(domain: Domain, x: float) -> Found:
    """Those of a double's neighbours."""
    return measure(domain.function, doubles_around(domain, x), 1000)


def gather(found: Iterator[Found], keep: int) -> Found:
    """Several pieces as one."""
    count, total = 0, 0.0
    worst: list[tuple[float, float]] = []
    for piece in found:
        count += piece.count
        total += piece.total
        worst = sorted(worst + piece.worst, reverse=True)[:keep]
    return Found(count, total, worst)


def check(domain: Domain, dtype: np.dtype, every: int, pool: ProcessPoolExecutor) -> Found:
    """All arguments of a domain in one dtype."""
    if dtype == F32:
        runs = pieces(domain, every)
        return gather(pool.map(partial(measure_floats, domain, every), runs), 1)
    seeds = range(-(-RANDOM // (PIECE * every)))
    random = gather(pool.map(partial(measure_doubles, domain), seeds), 1000)
    worst = [x for _, x in random.worst[:100]]
    around = gather(pool.map(partial(measure_around, domain), worst), 1000)
    both = gather(iter([random, around]), 1000)
    again = sorted(((exact_error(domain.function, x), x) for _, x in both.worst), reverse=True)
    mean = random.total / random.count  # the worst's neighbours are no sample
    return Found(both.count, mean * both.count, again)


def main() -> int:
    """Measure, print, and compare with the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted({domain.function for domain in DOMAINS})
    parser.add_argument("function", nargs="*", choices=[[], *names], help=", ".join(names))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one argument of N")
    options = parser.parse_args()
    print("| function | dtype | arguments | largest error (ulp) | at | mean | bound |")
    print("|---|---|--:|--:|--:|--:|--:|")
    exceeded = False
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for domain in DOMAINS:
            if options.function and domain.function not in options.function:
                continue
            for dtype in (F32, F64):
                found = check(domain, dtype, options.every, pool)
                error, at = found.worst[0]
                bound = domain.bound[dtype]
                exceeded |= error > bound
                mean = found.total / found.count
                print(
                    f"| {domain} | {dtype} | {found.count:,} | {error:.3f} | {at.hex()} "
                    f"| {mean:.3f} | {bound} |",
                    flush=True,
                )
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
