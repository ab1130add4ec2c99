"""The kernels' elementary functions by themselves, in units of the last place of the exact result.

The bounds are those stated in csrc/kernels/math.h. `ulp.py` checks every float of each domain; this file checks
every 1,009th (a prime, so that all mantissa bits vary). For float64, random arguments and the breakpoints of the range
reduction are compared with mpmath.
"""

import numpy as np
import pytest

import ulp
from xent import _core


@pytest.mark.parametrize("domain", ulp.DOMAINS, ids=str)
def test_float32_within_its_bound(isa, domain):
    for x in ulp.floats(domain, 1009):
        error = ulp.errors(domain.function, x)
        assert error.max() <= domain.bound[ulp.F32], x[error.argmax()]


@pytest.mark.parametrize("domain", ulp.DOMAINS, ids=str)
def test_float64_within_its_bound(isa, domain):
    rng = np.random.default_rng(3)
    low, high = domain.magnitudes[ulp.F64]
    with np.errstate(under="ignore"):
        spread = np.exp(rng.uniform(np.log(low), np.log(high), 500))
    near = rng.uniform(0, min(high, 40.0), 500)
    breakpoints = ulp.breakpoints(min(high, 140.0))
    x = domain.sign * np.clip(np.concatenate([spread, near, breakpoints]), low, high)
    error = [ulp.exact_error(domain.function, float(v)) for v in x]
    assert max(error) <= domain.bound[ulp.F64], x[int(np.argmax(error))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(isa, dtype):
    nan = np.array([np.nan], dtype)
    for domain in ulp.DOMAINS:
        assert np.isnan(_core.math(domain.function, nan)).all()
    assert _core.math("exp", np.zeros(1, dtype)) == 1
    assert _core.math("exp", np.array([-np.inf], dtype)) == 0
    assert _core.math("log", np.array([0, 1], dtype)).tolist() == [-np.inf, 0]
    assert np.isnan(_core.math("log", np.array([-1e-30], dtype))).all()
    assert _core.math("log1p", np.zeros(1, dtype)) == 0
    assert _core.math("tanh", np.array([-np.inf, np.inf], dtype)).tolist() == [-1, 1]
    assert np.signbit(_core.math("tanh", np.array([-0.0], dtype))).all()
