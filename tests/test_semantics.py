"""What happens at the edges, one line per promise, on every ISA and in every width of row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xent

INF, NAN = np.inf, np.nan
LN2, LN3 = np.log(2.0), np.log(3.0)
WIDTHS = (2, 3, 5, 16, 17, 64, 65, 130, 1024, 1025, 2049, 16385, 33000)

# logits, target, loss of the row, its gradient
ROWS: dict[str, tuple[Any, ...]] = {
    "two equal classes": ([0, 0], 0, LN2, [-0.5, 0.5]),
    "a masked class has no probability and no gradient": ([0, 0, -INF], 1, LN2, [0.5, -0.5, 0]),
    "a masked class before the others": ([-INF, 0, 0], 1, LN2, [0, -0.5, 0.5]),
    "all but the target masked": ([3, -INF, -INF], 0, 0, [0, 0, 0]),
    "a masked target costs infinity": ([0, -INF], 1, INF, [1, -1]),
    "a masked target among many": ([1, 1, -INF, -INF], 3, INF, [0.5, 0.5, 0, -1]),
    "all masked": ([-INF, -INF], 0, NAN, [NAN, NAN]),
    "+inf at the target": ([INF, 0], 0, NAN, [NAN, NAN]),
    "+inf elsewhere": ([INF, 0], 1, NAN, [NAN, NAN]),
    "+inf twice": ([INF, INF], 1, NAN, [NAN, NAN]),
    "+inf and -inf": ([INF, -INF], 1, NAN, [NAN, NAN]),
    "NaN at the target": ([NAN, 0], 0, NAN, [NAN, NAN]),
    "NaN elsewhere": ([0, NAN], 0, NAN, [NAN, NAN]),
    "NaN and -inf": ([-INF, NAN], 0, NAN, [NAN, NAN]),
    "NaN and +inf": ([INF, NAN, 0], 2, NAN, [NAN, NAN, NAN]),
    "one class": ([5], 0, 0, [0]),
    "minus zero and zero": ([-0.0, 0.0], 1, LN2, [0.5, -0.5]),
    "logits of 1e4": ([1e4, -1e4], 0, 0, [0, 0]),
    "logits of -1e4": ([1e4, -1e4], 1, 2e4, [1, -1]),
}

# logits, probabilities, loss of the row, its gradient
SOFT_ROWS: dict[str, tuple[Any, ...]] = {
    "0 · (-inf) is 0": ([0, 0, -INF], [0.5, 0.5, 0], LN2, [0, 0, 0]),
    "a masked class with a share": ([0, -INF], [0.5, 0.5], INF, [0.5, -0.5]),
    "no target at all": ([1, 2], [0, 0], 0, [0, 0]),
    "targets that sum to 2": ([0, 0], [1, 1], 2 * LN2, [0, 0]),
    "all masked": ([-INF, -INF], [1, 0], NAN, [NAN, NAN]),
    "+inf": ([INF, 0], [0, 1], NAN, [NAN, NAN]),
    "NaN": ([NAN, 0], [0, 1], NAN, [NAN, NAN]),
    "NaN in the targets": ([0, 0], [NAN, 1], NAN, [NAN, NAN]),
}


def assert_close(actual: Any, expected: Any, dtype: np.dtype) -> None:
    """Equal infinities, NaN and zeros; the rest to 4 eps."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=4 * np.finfo(dtype).eps, atol=0)


def loss_and_grad(logits, targets, dtype, **options):
    """Call with the gradient, row by row unless told otherwise."""
    logits = np.asarray(logits, dtype)
    options = {"reduction": "none"} | options
    return xent.cross_entropy(logits, targets, return_grad=True, **options)


@pytest.mark.parametrize("name", ROWS)
def test_row(isa, dtype, name):
    logits, target, loss, grad = ROWS[name]
    actual = loss_and_grad([logits], [target], dtype)
    assert_close(actual[0], [loss], dtype)
    assert_close(actual[1], [grad], dtype)


@pytest.mark.parametrize("name", SOFT_ROWS)
def test_row_with_soft_targets(isa, dtype, name):
    logits, target, loss, grad = SOFT_ROWS[name]
    actual = loss_and_grad([logits], [target], dtype)
    assert_close(actual[0], [loss], dtype)
    np.testing.assert_allclose(actual[1], [grad], rtol=0, atol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("before", [False, True], ids=("masked after", "masked before"))
def test_masked_classes_around_a_row_change_nothing(isa, dtype, before):
    for logits, target, loss, grad in ROWS.values():
        for width in WIDTHS:
            room = width - len(logits)
            if room < 0:
                continue
            padding = (room, 0) if before else (0, room)
            row = np.pad(np.asarray(logits, dtype), padding, constant_values=-INF)
            actual = loss_and_grad([row], [target + padding[0]], dtype)
            assert_close(actual[0], [loss], dtype)
            assert_close(actual[1][0, padding[0] : width - padding[1]], grad, dtype)
            around = np.delete(actual[1][0], np.s_[padding[0] : width - padding[1]])
            assert np.isnan(around).all() if np.isnan(loss) else (around == 0).all()


@pytest.mark.parametrize("poison", [NAN, INF], ids=("nan", "inf"))
def test_nan_and_inf_are_seen_at_every_position(isa, dtype, poison):
    for classes in (*range(1, 70), 127, 128, 129, 1023, 1024, 1025, 2049, 16385):
        where = np.arange(classes)
        if classes > 130:
            where = np.unique(np.r_[:70, classes // 2, classes - 70 : classes])
        logits = np.zeros((len(where), classes), dtype)
        logits[:, ::3] = -INF
        logits[np.arange(len(where)), where] = poison
        loss, grad = loss_and_grad(logits, np.zeros(len(where), int), dtype)
        assert np.isnan(loss).all(), classes
        assert np.isnan(grad).all(), classes
        lse = xent.logsumexp(logits, axis=-1)
        assert (np.isnan(lse) if np.isnan(poison) else lse == INF).all(), classes


@pytest.mark.parametrize("poison", [NAN, INF], ids=("nan", "inf"))
def test_a_bad_row_spoils_no_other_row(isa, dtype, poison):
    rng = np.random.default_rng(0)
    for classes in (2, 10, 64, 65, 1025):
        logits = rng.normal(size=(37, classes)).astype(dtype)
        targets = rng.integers(0, classes, 37)
        for reduction in ("none", "sum", "mean"):
            clean = loss_and_grad(logits, targets, dtype, reduction=reduction)
            bad = logits.copy()
            bad[17, classes // 2] = poison
            loss, grad = loss_and_grad(bad, targets, dtype, reduction=reduction)
            others = np.arange(37) != 17
            np.testing.assert_array_equal(grad[others], clean[1][others])
            assert np.isnan(grad[17]).all()
            if reduction == "none":
                np.testing.assert_array_equal(loss[others], clean[0][others])
            assert np.isnan(loss if reduction != "none" else loss[17])


@pytest.mark.parametrize("options", [{}, {"class_weight": [1, 2, 3]}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize(
    ("rows", "given"),
    [
        (0, {}),
        (4, {"ignore_index": 1}),
        (4, {"sample_weight": [0, 0, 0, 0]}),
        (4, {"sample_weight": 0.0}),
    ],
    ids=("an empty batch", "only ignored rows", "weights of 0", "one weight of 0"),
)
def test_nothing(isa, dtype, rows, given, options):
    """The mean of nothing is nan and its sum 0; the gradient is zeros, so nothing is poisoned."""
    logits, targets = np.ones((rows, 3)), np.ones(rows, int)
    for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.zeros(rows))):
        loss, grad = loss_and_grad(logits, targets, dtype, reduction=reduction, **given, **options)
        np.testing.assert_array_equal(loss, expected)
        assert loss.dtype == dtype
        np.testing.assert_array_equal(grad, np.zeros((rows, 3), dtype))
    assert np.isnan(xent.perplexity(logits.astype(dtype), targets, **given))


def test_class_weights_of_zero_are_nothing_for_an_index_target(isa, dtype):
    loss, grad = loss_and_grad(
        np.ones((2, 3)), [1, 1], dtype, reduction="mean", class_weight=[1, 0, 1]
    )
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_mean_of_no_soft_rows_is_nan(isa, dtype):
    loss, grad = loss_and_grad(np.ones((0, 3)), np.ones((0, 3)), dtype, reduction="mean")
    assert np.isnan(loss)
    assert grad.shape == (0, 3)


def test_mean_over_index_targets_divides_by_the_weights_of_the_rows_that_count(isa, dtype):
    logits, targets = np.zeros((4, 3)), [0, 1, 2, -100]
    weights = {"class_weight": [1, 2, 4], "sample_weight": [1, 1, 3, 100]}
    expected = (1 * LN3 + 2 * LN3 + 12 * LN3) / (1 + 2 + 12)
    loss, grad = loss_and_grad(logits, targets, dtype, reduction="mean", **weights)
    assert_close(loss, expected, dtype)
    assert_close(grad[2], np.array([4, 4, -8]) / 15, dtype)
    assert (grad[3] == 0).all()


def test_mean_over_soft_targets_divides_by_the_sample_weights_alone(isa, dtype):
    logits, targets = np.zeros((2, 3)), np.eye(3)[:2]
    class_weight = {"class_weight": [1, 2, 4]}
    loss, _ = loss_and_grad(logits, targets, dtype, reduction="mean", **class_weight)
    assert_close(loss, (1 * LN3 + 2 * LN3) / 2, dtype)
    weights = class_weight | {"sample_weight": [3, 1]}
    loss, _ = loss_and_grad(logits, targets, dtype, reduction="mean", **weights)
    assert_close(loss, (3 * LN3 + 2 * LN3) / 4, dtype)


def test_z_loss_is_for_rows_that_count_and_free_of_class_weights(isa, dtype):
    options = {"z_loss": 0.5, "class_weight": [7, 3], "sample_weight": [2, 9]}
    loss, grad = loss_and_grad(np.zeros((2, 2)), [1, -100], dtype, reduction="none", **options)
    assert_close(loss, [2 * (3 * LN2 + 0.5 * LN2**2), 0], dtype)
    assert_close(grad, [2 * (np.array([1.5, -1.5]) + 0.5 * LN2), [0, 0]], dtype)


@pytest.mark.parametrize("poison", [0, NAN, INF, -INF], ids=str)
def test_what_an_ignored_row_holds_does_not_matter(isa, dtype, poison):
    logits = np.zeros((3, 4))
    logits[1] = poison
    for reduction, expected in (("none", [LN2 * 2, 0, LN2 * 2]), ("mean", LN2 * 2)):
        loss, grad = loss_and_grad(logits, [0, -100, 3], dtype, reduction=reduction)
        assert_close(loss, expected, dtype)
        np.testing.assert_array_equal(grad[1], np.zeros(4))
    scores = xent.token_log_probs(logits.astype(dtype), [0, -100, 3])
    assert scores[1] == 0


def test_an_ignored_class_stays_in_the_denominator(isa, dtype):
    loss, grad = loss_and_grad(np.zeros((2, 3)), [0, 2], dtype, ignore_index=2)
    assert_close(loss, [LN3, 0], dtype)
    assert_close(grad, [[-2 / 3, 1 / 3, 1 / 3], [0, 0, 0]], dtype)


@pytest.mark.parametrize("ignore_index", [None, -1, 5])
def test_what_is_not_ignored_is_an_error(ignore_index):
    with pytest.raises(IndexError, match="-100"):
        xent.cross_entropy(np.zeros((2, 3)), [0, -100], ignore_index=ignore_index)


def test_ignore_index_is_compared_by_value_not_by_bits(dtype):
    logits = np.zeros((1, 200), dtype)
    assert xent.cross_entropy(logits, np.array([156], np.uint8)) > 0
    with pytest.raises(IndexError, match=str(2**64 - 100)):
        xent.cross_entropy(logits, np.array([2**64 - 100], np.uint64))
    assert xent.cross_entropy(logits, np.array([24], np.int8), ignore_index=1000 + 24) > 0


def test_smoothing_over_a_masked_class_costs_infinity(isa, dtype):
    logits = [[0, 0, -INF]]
    assert loss_and_grad(logits, [0], dtype, label_smoothing=0.1)[0] == INF
    assert loss_and_grad(logits, [[1, 0, 0]], dtype, label_smoothing=0.1)[0] == INF


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_infinities_pass_through_cap_and_temperature(isa, dtype, softcap, temperature):
    options = {"softcap": softcap, "temperature": temperature}
    loss, grad = loss_and_grad([[0, 0, -INF], [0, 0, INF]], [0, 0], dtype, **options)
    assert_close(loss, [LN2, NAN], dtype)
    assert_close(grad[0] * temperature, [-0.5, 0.5, 0], dtype)


@pytest.mark.parametrize("options", [{"softcap": 5.0}, {"temperature": 2.0}])
def test_a_masked_target_costs_infinity_through_cap_and_temperature(isa, dtype, options):
    for classes in (2, 17, 65, 1025):
        logits = np.zeros((3, classes))
        logits[:, 1] = -INF
        one_hot = np.eye(classes)[[1, 1, 1]]
        for targets in ([1, 1, 1], one_hot):
            assert (loss_and_grad(logits, targets, dtype, **options)[0] == INF).all()
        smooth = options | {"label_smoothing": 0.1}
        for targets in ([0, 0, 0], np.eye(classes)[[0, 0, 0]]):
            assert (loss_and_grad(logits, targets, dtype, **smooth)[0] == INF).all()
            assert np.isfinite(loss_and_grad(logits, targets, dtype, **options)[0]).all()


def test_a_sum_beyond_the_largest_number_is_infinite(isa, dtype):
    logits = np.zeros((3, 2), dtype)
    logits[:, 0] = 0.6 * np.finfo(dtype).max
    for reduction in ("sum", "mean"):
        loss = xent.cross_entropy(logits, [1, 1, 1], reduction=reduction)
        assert loss == INF if reduction == "sum" else loss >= logits[0, 0]
        for options in ({"sample_weight": np.ones(3)}, {"out": np.zeros((), dtype)}):
            again = xent.cross_entropy(logits, [1, 1, 1], reduction=reduction, **options)
            assert again == loss


def test_scores_of_masked_targets(isa, dtype):
    logits = np.array([[0, -INF], [0, 0]], dtype)
    assert_close(xent.token_log_probs(logits, [1, 0]), [-INF, -LN2], dtype)
    assert xent.perplexity(logits, [1, 0]) == INF
    assert_close(xent.perplexity(logits, [0, 0]), np.sqrt(2), dtype)


def test_perplexity_beyond_the_largest_number_is_infinite(dtype):
    assert xent.perplexity(np.array([[0, 1e5]], dtype), [0]) == INF


def test_no_classes(dtype):
    logits = np.empty((2, 0), dtype)
    with pytest.raises(IndexError):
        xent.cross_entropy(logits, [0, 0])
    loss, grad = loss_and_grad(logits, [-100, -100], dtype)
    np.testing.assert_array_equal(loss, [0, 0])
    assert grad.shape == (2, 0)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("return_grad", [False, True], ids=("forward", "backward"))
@pytest.mark.parametrize(
    "bad",
    [
        *(np.int64(-1), np.int64(5), np.int64(2**63 - 1), np.int64(-(2**63))),
        *(np.uint64(2**63), np.uint64(2**64 - 1), np.int8(-1), np.uint8(255), np.int32(-(2**31))),
    ],
    ids=lambda value: f"{value.dtype}: {value}",
)
def test_target_out_of_range(isa, dtype, bad, return_grad, reduction):
    logits = np.zeros((4, 6, 5), dtype)
    targets = np.zeros((4, 6), bad.dtype)
    targets[2, 3] = bad
    out = np.full((4, 6) if reduction == "none" else (), 7, dtype)
    buffers = {"out": out}
    if return_grad:
        buffers["grad_out"] = np.full(logits.shape, 7, dtype)
    with pytest.raises(IndexError, match=rf"targets.*\b2, 3\b.*{bad}|targets.*{bad}.*\b2, 3\b"):
        xent.cross_entropy(logits, targets, reduction=reduction, return_grad=return_grad, **buffers)
    assert all((buffer == 7).all() for buffer in buffers.values())


@pytest.mark.parametrize("name", ["token_log_probs", "perplexity"])
def test_target_out_of_range_in_scores(dtype, name):
    with pytest.raises(IndexError, match=r"targets.*\b1\b.*\b9\b"):
        getattr(xent, name)(np.zeros((3, 9), dtype), [0, 9, 1])


def test_true_is_out_of_range_of_one_class():
    with pytest.raises(IndexError, match="targets"):
        xent.cross_entropy(np.zeros((2, 1)), np.array([False, True]))
