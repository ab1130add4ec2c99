"""Threads: the same bits for any number of threads and of callers at once, and settings with the documented scope."""

from __future__ import annotations

import asyncio
import contextvars
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

import numpy as np
import pytest

import inputs
import xent
from calls import assert_same, results
from xent import _core

SHAPES = ((1, 5), (2, 50_257), (1, 300_000), (37, 1025), (3000, 10), (3, 40, 65))


@pytest.fixture
def restored_threads():
    before = xent.get_num_threads()
    yield before
    xent.set_num_threads(before)


def test_any_number_of_threads_gives_the_same_bits(isa, dtype, threads):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        actual = results(logits, targets)
        with xent.num_threads(1):
            expected = results(logits, targets)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("shape", [(300, 50, 70), (300, 64, 10), (2, 900, 200), (1, 40_000, 3)])
def test_columns_on_several_threads(isa, dtype, shape):
    """Runs of positions, many and short or few and long: pieces end where runs do, or inside."""
    logits, targets = inputs.batch(shape, dtype)
    columns = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    expected = xent.cross_entropy(logits, targets, reduction="none", return_grad=True)
    for n in (1, 2, 3):
        with xent.num_threads(n):
            loss, grad = xent.cross_entropy(
                columns, targets, axis=1, reduction="none", return_grad=True
            )
            assert_same((loss, np.moveaxis(grad, 1, -1)), expected)


@pytest.mark.parametrize("rows", [4, 12])
def test_very_long_rows_on_several_threads(isa, dtype, rows):
    """Threads share few rows; of more, each keeps sums of its own, one for each 16,384 classes."""
    logits = inputs.batch((rows, 1_050_000), dtype)[0]
    with xent.num_threads(1):
        expected = xent.logsumexp(logits, axis=-1)
    for n in (2, 3):
        with xent.num_threads(n):
            assert_same(xent.logsumexp(logits, axis=-1), expected)


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_derivatives_of_very_long_rows_on_several_threads(isa, dtype, soft):
    """Each piece of a row has its part of the weights, of the targets and of both outputs."""
    shape = (4, 1_050_000)
    logits, targets = inputs.batch(shape, dtype)
    if soft:
        targets = inputs.soft_targets(shape, dtype)
    weight = np.linspace(0.5, 2, shape[1])
    options = {"class_weight": weight, "label_smoothing": 0.1, "return_hess": True}
    with xent.num_threads(1):
        expected = xent.cross_entropy(logits, targets, **options)
    with xent.num_threads(2):
        assert_same(xent.cross_entropy(logits, targets, **options), expected)


def test_many_callers_at_once(dtype):
    problems = [inputs.batch(shape, dtype, seed) for shape in SHAPES for seed in range(3)]
    expected = [results(*problem) for problem in problems]

    def call(i: int) -> None:
        with xent.num_threads(1 + i % 3):
            which = i % len(problems)
            for one, other in zip(results(*problems[which]), expected[which], strict=True):
                assert_same(one, other)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(10 * len(problems))))


def test_hundreds_of_callers_at_once():
    """Each with threads of its own."""
    logits, targets = inputs.batch((600, 300), np.float32)
    expected = results(logits, targets)
    together = threading.Barrier(200)

    def call(_: int) -> None:
        together.wait()
        with xent.num_threads(3):
            for one, other in zip(results(logits, targets), expected, strict=True):
                assert_same(one, other)

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(call, range(200)))


def test_default_holds_for_every_thread_of_the_process(restored_threads):
    xent.set_num_threads(3)
    assert xent.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(xent.get_num_threads).result() == 3


def test_context_manager_overrides_and_restores(restored_threads):
    with xent.num_threads(5):
        assert xent.get_num_threads() == 5
        with xent.num_threads(2):
            assert xent.get_num_threads() == 2
        assert xent.get_num_threads() == 5
        xent.set_num_threads(4)
        assert xent.get_num_threads() == 5
    assert xent.get_num_threads() == 4
    with pytest.raises(KeyError), xent.num_threads(7):
        raise KeyError
    assert xent.get_num_threads() == 4


def test_context_manager_is_for_its_own_context_only(restored_threads):
    seen = []
    entered, read = threading.Event(), threading.Event()

    def other() -> None:
        with xent.num_threads(6):
            entered.set()
            read.wait()

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait()
    seen.append(xent.get_num_threads())
    read.set()
    thread.join()
    assert seen == [restored_threads]
    with xent.num_threads(9):
        assert contextvars.Context().run(xent.get_num_threads) == restored_threads
        assert contextvars.copy_context().run(xent.get_num_threads) == 9


def test_context_manager_in_concurrent_tasks():
    async def task(n: int) -> int:
        with xent.num_threads(n):
            await asyncio.sleep(0)
            return xent.get_num_threads()

    async def gather() -> list[int]:
        return await asyncio.gather(*(task(n) for n in (1, 2, 3, 4)))

    assert asyncio.run(gather()) == [1, 2, 3, 4]


def test_switching_the_instruction_set_returns_the_previous_one(isa):
    assert _core.isa() == isa
    for name in _core.isas():
        assert _core.use_isa(name) == isa
        assert _core.use_isa(isa) == name
    with pytest.raises(ValueError, match="mmx"):
        _core.use_isa("mmx")
    assert _core.isa() == isa


def test_show_config_tells_what_is_in_use():
    text = io.StringIO()
    with redirect_stdout(text):
        returned = xent.show_config()
    shown = (str(returned) + text.getvalue()).lower()
    for word in (*_core.isas(), str(xent.get_num_threads()), "openmp", "compiler"):
        assert word in shown
