"""The kernels' elementary functions by themselves, in units of the last place of the exact result.

The bounds are those stated in csrc/kernels/math.h. For float32 they were found over every float of the domain; here every
1,009th is looked at (a prime, so that all mantissa bits vary), against float64, whose own error is below 1e-8 ulp of
float32. For float64, random arguments and the seams of the range reduction against mpmath.
"""

import mpmath
import numpy as np
import pytest

from xent import _core

# function and sign of its arguments: their smallest and largest magnitude in f32 and in f64, bounds in f32 and f64
FUNCTIONS = {
    ("exp", -1): ((1e-30, 87.33654), (1e-30, 708.396), 0.9, 0.9),
    ("log", 1): ((1.5e-45, 2.0**40), (5e-324, 2.0**40), 1.0, 1.0),
    ("log1p", 1): ((1.2e-38, 2.0**40), (1e-300, 2.0**40), 1.4, 1.4),
    ("log1p", -1): ((1.2e-38, 1 - 2.0**-24), (1e-300, 1 - 2.0**-53), 1.4, 1.4),
    ("tanh", 1): ((1e-30, 100.0), (1e-300, 100.0), 2.7, 2.7),
    ("tanh_slope", 1): ((1e-30, 39.0), (1e-30, 340.0), 5.3, 5.3),
}
DOUBLE = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "tanh_slope": lambda x: 1 / np.cosh(x) ** 2,
}
EXACT = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "tanh": mpmath.tanh,
    "tanh_slope": lambda x: mpmath.sech(x) ** 2,
}


@pytest.mark.parametrize(("name", "sign"), FUNCTIONS)
def test_float32_within_its_bound(isa, name, sign):
    (low, high), _, bound, _ = FUNCTIONS[name, sign]
    first, last = np.array([low, high], np.float32).view(np.uint32)
    x = sign * np.arange(first, last, 1009, dtype=np.uint32).view(np.float32)
    exact = DOUBLE[name](x.astype(np.float64))
    unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    error = np.abs(_core.math(name, x) - exact) / unit
    assert error.max() <= bound, x[error.argmax()]


@pytest.mark.parametrize(("name", "sign"), FUNCTIONS)
def test_float64_within_its_bound(isa, name, sign):
    _, (low, high), _, bound = FUNCTIONS[name, sign]
    rng = np.random.default_rng(3)
    seams = (np.arange(1, 200) - 0.5) * np.log(2.0)  # where the rounded quotient by log 2 jumps
    seams = np.concatenate([seams / 2, seams, np.nextafter(seams, 0)])
    with np.errstate(under="ignore"):
        spread = np.exp(rng.uniform(np.log(low), np.log(high), 500))
    x = sign * np.concatenate(
        [
            spread,
            rng.uniform(0, min(high, 40.0), 500),
            seams[(seams > low) & (seams < high)],
        ]
    )
    with mpmath.workprec(200):
        exact = [EXACT[name](mpmath.mpf(float(v))) for v in x]
        error = [
            abs(mpmath.mpf(float(y)) - e) / float(np.spacing(abs(float(e))))
            for y, e in zip(_core.math(name, x), exact, strict=True)
        ]
    assert max(error) <= bound, x[int(np.argmax(error))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(isa, dtype):
    nan = np.array([np.nan], dtype)
    for name, _ in FUNCTIONS:
        assert np.isnan(_core.math(name, nan)).all()
    assert _core.math("exp", np.zeros(1, dtype)) == 1
    assert _core.math("exp", np.array([-np.inf], dtype)) < np.finfo(dtype).tiny
    assert _core.math("log", np.array([0, 1], dtype)).tolist() == [-np.inf, 0]
    assert np.isnan(_core.math("log", np.array([-1e-30], dtype))).all()
    assert _core.math("log1p", np.zeros(1, dtype)) == 0
    assert _core.math("tanh", np.array([-np.inf, np.inf], dtype)).tolist() == [-1, 1]
    assert np.signbit(_core.math("tanh", np.array([-0.0], dtype))).all()
