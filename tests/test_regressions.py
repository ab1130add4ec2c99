"""Inputs that once gave a wrong result or no clear error, each with the right one."""

from __future__ import annotations

import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import scipy.special

import xent
from calls import assert_same
from reference import exact_distillation

INF, NAN = np.inf, np.nan
F32 = np.float32


@pytest.mark.parametrize(
    ("shape", "axis", "result"),
    [
        ((0, 2, 3), (1, 2), (0,)),
        ((2, 0, 3), (0, 2), (0,)),
        ((0, 3), (), (0, 3)),
        ((2, 0, 3), (1, 2), (2,)),
    ],
)
def test_empty_arrays_over_several_axes(shape, axis, result):
    x = np.zeros(shape)
    for factors in (None, 2.0, np.ones(shape)):
        for out in (None, np.full(result, 7.0)):
            found = xent.logsumexp(x, axis=axis, b=factors, out=out)
            np.testing.assert_array_equal(found, np.full(result, -INF))
    if 0 in result:
        for function in (xent.softmax, xent.log_softmax):
            assert function(x, axis=axis).shape == shape
            assert function(x, axis=axis, out=x) is x


def test_scores_of_no_tokens():
    assert np.isnan(xent.perplexity(np.zeros((0, 5)), []))
    assert xent.token_log_probs(np.zeros((0, 5)), []).shape == (0,)


def test_scores_of_integers_in_the_shape_of_the_logits():
    targets = [[7, 1, 2], [3, 4, 5]]
    with pytest.raises(TypeError, match=r"\(2, 3\), are not accepted by .*\(2,\)"):
        xent.perplexity(np.zeros((2, 3)), targets)
    with pytest.raises(IndexError, match=r"targets\[0, 0\] = 7 is not a class"):
        xent.token_log_probs(np.zeros((2, 3)), targets)


def exact_sum(a: list[float], b: list[float]) -> tuple[float, int]:
    with mpmath.workdps(60):
        total = mpmath.fsum(
            mpmath.mpf(w) * mpmath.exp(mpmath.mpf(x)) for x, w in zip(a, b, strict=True)
        )
        return float(mpmath.log(abs(total))), int(mpmath.sign(total))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([0.0, -720.0], [1e-300, 1e300]),
        ([709.9, 0.0], [1e-310, -2.0]),
        ([0.0, 0.0], [1e308, 1e308]),
        ([0.0, 0.0], [5e-324, 5e-324]),
        ([1e5, 0.0], [1e-300, 1.0]),
        ([-1e5, -1e5 + 1], [1e-300, -1e300]),
        ([3.0, 3.0, 3.0], [0.75, 1.5, -3.0]),
        ([700.0, 690.0, -5.0], [-1e-320, 1.0, 1e305]),
    ],
)
def test_factors_of_any_size(a, b):
    """The size of a term is that of its factor and its exponential together."""
    value, sign = exact_sum(a, b)
    found, found_sign = xent.logsumexp(a, b=b, return_sign=True)
    assert found_sign == sign
    # A rounding of a - m and of log b, each of which may be as large as the largest of them.
    largest = max(max(np.abs(a)), max(np.abs(np.log(np.abs(b)))), 1)
    assert abs(found - value) <= 8 * np.finfo(float).eps * largest


def test_factors_decide_the_dtype_as_in_scipy():
    single = F32([1, 2])
    for b in (2.0, [1.0, 2.0], np.array([1, 2]), F32(2), np.array([1, 2], np.int8), np.ones(2)):
        for a in (single, single.astype(np.float16)):
            expected = scipy.special.logsumexp(a, b=b)
            found = xent.logsumexp(a, b=b)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(found.dtype).eps)


def test_a_factor_that_is_nan():
    assert np.isnan(xent.logsumexp([-INF], b=[NAN]))
    assert xent.logsumexp([1.0, NAN], b=[1.0, 0.0]) == 1.0


@pytest.mark.parametrize("function", [xent.logsumexp, xent.softmax, xent.log_softmax])
def test_scalars_have_an_axis(function):
    for axis in (None, 0, -1):
        assert function(2.0, axis=axis) == getattr(scipy.special, function.__name__)(2.0, axis=axis)
    with pytest.raises(np.exceptions.AxisError, match="axis: 1 is out of bounds"):
        function(2.0, axis=1)


def test_factors_of_many_axes():
    x = np.zeros((1,) * 40)
    assert xent.logsumexp(x, b=np.full(x.shape, 2.0)) == np.log(2)


def test_targets_that_broadcast_on_purpose():
    """A scalar, or what does not make the logits grow, of elementwise losses."""
    logits = np.linspace(-2, 2, 12).reshape(3, 4)
    wide = np.tile(logits, (7000, 1))  # converted block by block
    for function in (xent.binary_cross_entropy_with_logits, xent.sigmoid_focal_loss, xent.kl_div):
        for targets in (1.0, [0.25], [[1], [0], [0.5]], np.arange(4) / 4):
            for options in ({}, {"reduction": "none", "return_grad": True}):
                expected = function(logits, np.broadcast_to(targets, logits.shape), **options)
                for found, wanted in zip(
                    np.atleast_1d(function(logits, targets, **options)),
                    np.atleast_1d(expected),
                    strict=True,
                ):
                    np.testing.assert_array_equal(found, wanted)
        for dtype in (">f8", int):
            x = wide.astype(dtype)
            np.testing.assert_array_equal(function(x, 1.0), function(x, np.ones(x.shape)))
    for targets in (np.ones((2, 3, 4)), np.ones(3), np.ones((1, 3, 4))):
        with pytest.raises(ValueError, match=r"targets: shape .* that of logits, \(3, 4\)"):
            xent.binary_cross_entropy_with_logits(logits, targets)


def test_perplexity_is_the_exponential_of_the_mean_before_it_is_rounded():
    """Rounded before, it would be off by as many ulp as the mean is large."""
    rng = np.random.default_rng(5)
    for size in (0.1, 3, 10, 25):
        logits = (size * rng.normal(size=(50, 30))).astype(F32)
        targets = rng.integers(0, 30, 50)
        row_losses = xent.cross_entropy(logits, targets, reduction="none")
        with mpmath.workdps(30):
            exact = float(mpmath.exp(mpmath.fsum(map(float, row_losses)) / 50))
        found = xent.perplexity(logits, targets)
        assert found.dtype == F32
        assert abs(float(found) - exact) <= np.spacing(F32(exact))


@pytest.mark.parametrize(
    ("given", "error", "cure"),
    [
        (
            {"targets": [0.0, 1.0]},
            TypeError,
            r"integers or bool: convert them with \.astype\(np\.int64\)",
        ),
        ({"targets": [0.5, 1.0]}, TypeError, r"integers or bool\. Class"),
        ({"class_weight": {0: 1.0, 1: 2.0}}, TypeError, r"\[weights\[c\] for c in range\(C\)\]"),
        ({"class_weight": "balanced"}, TypeError, r"np\.bincount"),
        (
            {"class_weight": np.array([1, 2, None])},
            TypeError,
            r"\.to_numpy\(float, na_value=np\.nan\)",
        ),
        (
            {"logits": np.array([[1, 2, None]] * 2)},
            TypeError,
            r"\.to_numpy\(float, na_value=np\.nan\)",
        ),
        (
            {"label_smoothing": True},
            TypeError,
            r"label_smoothing: expected a number in \[0, 1\], got True",
        ),
    ],
)
def test_errors_name_the_cure(given, error, cure):
    with pytest.raises(error, match=cure):
        xent.cross_entropy(**{"logits": np.zeros((2, 3)), "targets": [0, 1]} | given)


def test_a_loss_in_the_memory_where_logits_of_no_class_begin():
    """Arrays without elements lie nowhere, so that nothing overlaps them."""
    memory = np.full(1, 7.0)
    logits = np.ndarray((0, 1), memory.dtype, memory)
    loss = xent.cross_entropy(logits, [-100], axis=0, reduction="none", out=memory)
    assert loss is memory
    assert loss == 0


# --- numbers that leave the range on the way ---

LOWEST = np.finfo(F32).min


def test_a_small_common_factor_of_weights(isa):
    """Of a mean, weights alike cancel, subnormal ones too."""
    x, t = F32([0.25, 0.75]), F32([1, 0])
    for function in (xent.binary_cross_entropy_with_logits, xent.kl_div, xent.sigmoid_focal_loss):
        expected = function(x, t, return_grad=True)
        for weight in (F32(1e-40), F32([1e-45, 1e-45]), F32(3e38), 1e-300, np.array([1e300] * 2)):
            loss, grad = function(x, t, sample_weight=weight, return_grad=True)
            np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
            np.testing.assert_allclose(grad, expected[1], rtol=1e-6)
    wide = np.linspace(-2, 2, 200_000, dtype=F32)
    expected = xent.binary_cross_entropy_with_logits(wide, 1.0)
    weight = np.full(wide.shape, 1e-50)  # converted block by block
    assert xent.binary_cross_entropy_with_logits(wide, 1.0, sample_weight=weight) == expected
    tiny = np.full(2, 1e-310)
    loss = xent.binary_cross_entropy_with_logits([0.25, 0.75], [1, 0], sample_weight=tiny)
    plain = xent.binary_cross_entropy_with_logits([0.25, 0.75], [1, 0])
    np.testing.assert_allclose(loss, plain, rtol=1e-15)


@pytest.mark.parametrize("factor", [1e-300, 1e-50, 1e39, 1e300])
def test_weights_beyond_the_range_of_the_logits(isa, factor):
    """A mean does not depend on their common factor: to the bit, if that is a power of two."""
    factor = 2.0 ** np.round(np.log2(factor))
    logits = F32([[0.25, 0.75], [1, 2], [3, 1]])
    cases = [
        {"class_weight": np.array([1.0, 3.0])},
        {"sample_weight": np.array([1.0, 2.0, 0.5])},
        {"class_weight": np.array([1.0, 3.0]), "label_smoothing": 0.1},
        {"class_weight": np.array([1.0, 3.0])[::-1], "sample_weight": np.array([1.0, 2.0, 0.5])},
    ]
    for options in cases:
        given = {k: v * factor if np.ndim(v) else v for k, v in options.items()}
        expected = xent.cross_entropy(logits, [1, 0, 0], return_grad=True, **options)
        assert_same(xent.cross_entropy(logits, [1, 0, 0], return_grad=True, **given), expected)
    soft = np.full(logits.shape, 0.5)
    assert_same(
        xent.cross_entropy(logits, soft, sample_weight=np.array([1.0, 2.0, 0.5]) * factor),
        xent.cross_entropy(logits, soft, sample_weight=[1.0, 2.0, 0.5]),
    )
    # Class weights do not multiply the z-loss, so that it loses what they gain.
    weight, z = np.array([1.0, 3.0]), 0.01
    if factor > 1e30:
        with np.errstate(all="ignore"):
            found = xent.cross_entropy(logits, [1, 0, 0], class_weight=weight * factor, z_loss=z)
        plain = xent.cross_entropy(logits, [1, 0, 0], class_weight=weight)
        np.testing.assert_allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("columns", [4, 400, 3000])
def test_smoothing_over_the_lowest_numbers(isa, columns):
    """Their sum is beyond float32, a share of it is not."""
    logits = np.full((3, columns), LOWEST)
    logits[:, :2] = [1, 0]
    share = 0.1 / columns * (columns - 2) * -float(LOWEST)
    for x, axis in ((logits, -1), (np.asfortranarray(logits), -1), (logits.T.copy(), 0)):
        loss = xent.cross_entropy(x, [0, 0, 1], axis=axis, label_smoothing=0.1, reduction="none")
        np.testing.assert_allclose(loss, share, rtol=1e-6)
    soft = np.full(logits.shape, 0.1 / columns)
    np.testing.assert_allclose(xent.cross_entropy(logits, soft), share, rtol=1e-6)
    np.testing.assert_allclose(xent.nll_loss(logits, soft), share, rtol=1e-6)
    logits[0, 2] = -INF  # a masked class costs all that there is
    loss = xent.cross_entropy(logits, [0, 0, 0], label_smoothing=0.1, reduction="none")
    np.testing.assert_allclose(loss, [INF, share, share], rtol=1e-6)


def test_logits_that_a_temperature_brings_back(isa):
    loss, grad = xent.cross_entropy(F32([[3e38, -3e38]]), [1], temperature=1e30, return_grad=True)
    np.testing.assert_allclose(loss, 6e8, rtol=1e-6)
    np.testing.assert_allclose(grad, [[1e-30, -1e-30]], rtol=1e-6)
    assert xent.cross_entropy(F32([[3e38, -INF]]), [1], temperature=1e30) == INF


@pytest.mark.parametrize("eps", [1e-8, 1e-7, 1e-3, 0.5])
def test_clipping_near_one(isa, dtype, eps):
    """1 - p is clipped at eps as p is, whether or not the dtype has a number so near 1."""
    p, t = dtype.type([0, 1, 1, 0]), dtype.type([1, 0, 1, 0])
    far, near = -np.log(dtype.type(eps)), -np.log1p(-dtype.type(eps))
    options = {"eps": eps, "reduction": "none", "return_grad": True}
    loss, grad = xent.binary_cross_entropy(p, t, **options)
    np.testing.assert_allclose(loss, [far, far, near, near], rtol=4 * np.finfo(dtype).eps)
    assert not grad.any()
    soft, _ = xent.binary_cross_entropy(p, dtype.type([0.25] * 4), **options)
    expected = np.where(p == 0, 0.25 * far + 0.75 * near, 0.25 * near + 0.75 * far)
    np.testing.assert_allclose(soft, expected, rtol=4 * np.finfo(dtype).eps)
    pairs = np.stack([1 - p, p], axis=-1)
    loss, grad = xent.categorical_cross_entropy(pairs, [1, 0, 1, 0], **options)
    np.testing.assert_allclose(loss, [far, far, near, near], rtol=4 * np.finfo(dtype).eps)
    assert not grad.any()


TEMPERATURES = (0.1, 1.0, 30.0, 1e3, 1e5, 1e10, 1e20, 1e30)


def near_pairs(classes: int, dtype: np.dtype, temperature: float) -> list[np.ndarray]:
    """Student and teacher whose distributions nearly agree: by their logits, an offset, or the temperature."""
    rng = np.random.default_rng(classes)
    teacher = rng.normal(0, 3, (5, classes))
    student = teacher + 1e-3 * rng.normal(size=teacher.shape)
    student[1] += 1e4
    student[2] = teacher[2] + 1e-3 * temperature * rng.normal(size=classes)
    student[3], teacher[3] = teacher[3] / 100, 0
    student[4, 0] += min(temperature, 1e15) / 100
    return [student.astype(dtype), teacher.astype(dtype)]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("classes", [2, 3, 65, 1100])
def test_distributions_that_nearly_agree(isa, dtype, temperature, classes):
    """No term cancels: the relative error stays a few roundings, at any temperature.

    Those of the exponentials' arguments, at most 60 for rows like these, two of the exponentials, twelve of the
    polynomial, ten of the sum.
    """
    student, teacher = near_pairs(classes, dtype, temperature)
    options = {"temperature": temperature, "reduction": "none"}
    loss = xent.distillation_loss(student, teacher, **options)
    with mpmath.workdps(120):
        exact = [
            exact_distillation(a.tolist(), b.tolist(), temperature)[0]
            for a, b in zip(student, teacher, strict=True)
        ]
        near = [v / mpmath.mpf(temperature) ** 2 < 1 / 16 for v in exact]
        exact = np.array([float(v) for v in exact])
    assert sum(near) >= 3
    near &= (exact > np.finfo(dtype).tiny) & (exact < float(np.finfo(dtype).max))
    np.testing.assert_allclose(loss[near], exact[near], rtol=84 * np.finfo(dtype).eps, atol=0)
    # The same in columns, of strided rows, alone, and in the sum of a weighted mean.
    columns = [np.asfortranarray(a) for a in (student, teacher)]
    assert_same(xent.distillation_loss(*columns, **options), loss)
    assert_same(xent.distillation_loss(student.T, teacher.T, axis=0, **options), loss)
    assert_same(xent.distillation_loss(student[1:2], teacher[1:2], **options), loss[1:2])
    some = np.arange(5) % 2
    mean = xent.distillation_loss(student, teacher, temperature=temperature, sample_weight=some)
    with np.errstate(over="ignore"):
        expected = dtype.type((loss[1].astype(np.longdouble) + loss[3]) / 2)
    np.testing.assert_allclose(mean, expected, rtol=4 * np.finfo(dtype).eps)


def test_half_types_that_nearly_agree(isa):
    student, teacher = (a.astype(np.float16) for a in near_pairs(65, np.dtype(F32), 30.0))
    options = {"temperature": 30.0, "reduction": "none"}
    wide = xent.distillation_loss(student.astype(F32), teacher.astype(F32), **options)
    assert_same(xent.distillation_loss(student, teacher, **options), wide)


def test_infinite_weights(isa, dtype):
    """An infinite weight of what costs anything makes all infinite, not NaN."""
    z, ones = dtype.type([0, 1, -1, 200, -200, NAN]), np.ones(6)
    options = {"pos_weight": INF, "reduction": "none", "return_hess": True}
    loss, grad, hess = xent.binary_cross_entropy_with_logits(z, ones, **options)
    np.testing.assert_array_equal(loss, [INF] * 5 + [NAN])
    np.testing.assert_array_equal(grad, [-INF] * 5 + [NAN])
    np.testing.assert_array_equal(hess, [INF] * 5 + [NAN])
    loss, _, _ = xent.binary_cross_entropy_with_logits(z[:5], 0 * ones[:5], **options)
    np.testing.assert_array_equal(
        loss, xent.binary_cross_entropy_with_logits(z[:5], 0 * ones[:5], reduction="none")
    )
    for classes in (3, 500):
        logits = np.arange(2.0 * classes).reshape(2, classes).astype(dtype) % 7
        weight = np.where(np.arange(classes) == 1, INF, 1)
        assert xent.cross_entropy(logits, [0, 0], class_weight=weight, label_smoothing=0.1) == INF
        soft = np.full(logits.shape, 0.5)
        soft[1, 1] = 0
        loss = xent.cross_entropy(logits, soft, class_weight=weight, reduction="none")
        plain = xent.cross_entropy(logits, soft, reduction="none")
        np.testing.assert_array_equal(loss, [INF, plain[1]])
        certain = np.zeros((1, classes), dtype)
        certain[0, 1] = 200 if dtype == F32 else 2000  # of which it costs less than a number
        assert xent.cross_entropy(certain, [0], class_weight=weight, label_smoothing=0.1) == INF


def test_the_slope_of_a_cap_far_beyond_it(isa, dtype):
    """Where it is no normal number it is 0, and there a gradient that overflows is 0 too."""
    far, beyond = (44.0, 45.0) if dtype == F32 else (354.0, 356.0)
    for size, flat in ((far, False), (beyond, True)):
        x = dtype.type([[30 * size, -500, -500]])
        _, grad = xent.cross_entropy(x, [1], softcap=30, return_grad=True)
        with mpmath.workdps(700):
            slope = 1 - mpmath.tanh(mpmath.mpf(float(x[0, 0])) / 30) ** 2
        assert (grad[0, 0] == 0) == flat
        if not flat:
            assert abs(float(grad[0, 0]) / float(slope) - 1) <= 400 * float(np.finfo(dtype).eps)
    largest = np.finfo(dtype).max
    x = dtype.type([[1e5, 9e4, 2]])
    _, grad = xent.cross_entropy(
        x, [2], softcap=30, z_loss=1e3, grad_output=largest, reduction="sum", return_grad=True
    )
    np.testing.assert_array_equal(grad[0, :2], [0, 0])


# --- what is validated ---


def test_rows_that_count_for_nothing_are_not_judged(isa):
    p = F32([[0.5, 1.5], [0.5, 0.5]])
    soft = F32([[1, 0], [0.5, 0.5]])
    half = np.log(F32(2))
    function = xent.categorical_cross_entropy
    for targets, options in (
        ([1, 0], {"sample_weight": [0, 1]}),
        (soft, {"sample_weight": [0, 1]}),
        ([-100, 0], {}),
        ([-100, 0], {"label_smoothing": 0.5}),
        ([1, 0], {"label_smoothing": 0.5, "sample_weight": [0, 1]}),
    ):
        np.testing.assert_allclose(function(p, targets, **options), half, rtol=1e-6)
        with pytest.raises(ValueError, match=r"probs\[0, 1\] = 1\.5 is not a probability"):
            function(
                p, soft if np.ndim(targets) == 2 else [1, 0], **options | {"sample_weight": None}
            )
    one_up = np.nextafter(F32(1), F32(2))
    p[0, 1] = one_up
    for targets in ([1, 0], soft):
        assert np.isfinite(function(p, targets, eps=1e-7))
        with pytest.raises(ValueError, match="is not a probability"):
            function(p, [1, 0])


# --- keywords of others ---


@pytest.mark.parametrize(
    ("function", "name", "says"),
    [
        (xent.cross_entropy, "weight", "xent calls it class_weight"),
        (xent.binary_cross_entropy_with_logits, "weight", "xent calls it sample_weight"),
        (xent.cross_entropy, "dim", "xent calls it axis"),
        (xent.logsumexp, "dim", "xent calls it axis"),
        (xent.logsumexp, "keepdim", "xent calls it keepdims"),
        (xent.binary_cross_entropy, "from_logits", "the ones named with_logits"),
        (xent.nll_loss, "size_average", "reduction='mean' or reduction='sum'"),
        (xent.kl_div, "reduce", "reduction='none', 'sum' or 'mean'"),
        (xent.focal_loss, "focusing", "xent calls it gamma"),
        (xent.focal_loss, "alpha", "xent calls it class_weight"),
        (xent.poly1_loss, "eps", "xent calls it epsilon"),
        (xent.entropy, "redcution", "xent calls it reduction"),
        (xent.linear_cross_entropy, "smoothing", "xent calls it label_smoothing"),
        (xent.softmax, "beta", "it has x, axis, out"),
    ],
)
def test_keywords_of_other_libraries(function, name, says):
    arguments = [np.zeros((2, 3))] * (3 if function is xent.linear_cross_entropy else 2)
    if function in (xent.logsumexp, xent.softmax, xent.entropy):
        arguments = arguments[:1]
    with pytest.raises(TypeError) as error:
        function(*arguments, **{name: 1})
    assert str(error.value).startswith(f"{function.__name__}() has no keyword {name!r}; ")
    assert says in str(error.value)


def test_a_tracer_of_jax():
    def refuse(self: object) -> None:
        raise TypeError("no concrete value")

    tracer = type("DynamicJaxprTracer", (), {"__module__": "jax._src", "__array__": refuse})
    with pytest.raises(
        TypeError, match=r"logits: a JAX tracer has no numbers yet; call .* outside of jit"
    ):
        xent.cross_entropy(tracer(), [0])


# --- the environment ---


def python(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = os.environ | settings
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def test_an_instruction_set_that_there_is_not():
    done = python("-m", "xent", "info", XENT_ISA="foo")
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "XENT_ISA='foo' is not available here; accepted: " in done.stderr
    done = python("-c", "import xent; print(xent.show_config()['isa'])", XENT_ISA="Scalar")
    assert done.stdout == "scalar\n"


def test_limits_of_openmp_are_said():
    script = """if True:
        import xent
        print(xent.get_num_threads())
        xent.set_num_threads(5)
        with xent.num_threads(4):
            print(xent.get_num_threads())
        print(xent.get_num_threads())"""
    done = python("-c", script, OMP_THREAD_LIMIT="1", OMP_NUM_THREADS="3")
    assert done.stdout.split() == ["1", "1", "1"]


def test_a_disk_that_is_full():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "xent", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["python -m xent: [Errno 28] No space left on device"]


def test_terminals_without_other_letters():
    script = """if True:
        import sys
        from xent.cli import main
        print_it = lambda options: print("5 µs, 3×, …, Ω") or 0
        import xent.cli.info
        xent.cli.info.run = print_it
        main(["info"])"""
    done = python("-c", script, PYTHONIOENCODING="ascii")
    assert done.stdout == "5 us, 3x, ..., ?\n", done.stderr
