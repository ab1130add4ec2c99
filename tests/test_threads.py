"""Threads: the same bits from any number, from many callers at once, and settings that stay put."""

from __future__ import annotations

import asyncio
import contextvars
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

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


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which a hang or a crash cannot take along."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def output(script: str, **environment: str) -> str:
    """Return what the script prints; it must succeed."""
    done = run(script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_any_number_of_threads_gives_the_same_bits(isa, dtype, threads):
    for shape in SHAPES:
        logits, targets = inputs.batch(shape, dtype)
        actual = results(logits, targets)
        with xent.num_threads(1):
            expected = results(logits, targets)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)


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


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XENT_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, "3"),
        ({"XENT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5"),
        ({"XENT_NUM_THREADS": "", "OMP_NUM_THREADS": "4,2"}, "4"),
    ],
    ids=("XENT_NUM_THREADS first", "then OMP_NUM_THREADS", "a list of levels"),
)
def test_number_of_threads_from_the_environment(environment, expected):
    assert output("import xent; print(xent.get_num_threads())", **environment) == expected


if hasattr(os, "sched_setaffinity"):

    def test_number_of_threads_is_at_most_the_affinity():
        script = """
            import os
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            import xent
            print(xent.get_num_threads())
        """
        assert output(script, XENT_NUM_THREADS="", OMP_NUM_THREADS="") == "1"


@pytest.mark.parametrize("value", ["0", "-2", "two"])
def test_nonsense_in_the_environment_is_named(value):
    done = run("import xent; xent.get_num_threads()", XENT_NUM_THREADS=value)
    assert done.returncode != 0
    assert "XENT_NUM_THREADS" in done.stderr
    assert value in done.stderr


@pytest.mark.parametrize("name", _core.isas())
def test_instruction_set_from_the_environment(name):
    assert output("from xent import _core; print(_core.isa())", XENT_ISA=name) == name


def test_unknown_instruction_set_is_an_error_that_lists_the_others():
    done = run("import xent", XENT_ISA="mmx")
    assert done.returncode != 0
    assert "mmx" in done.stderr
    assert all(name in done.stderr for name in _core.isas())


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


def test_targets_changed_during_the_call_never_crash():
    script = """
        import threading, numpy as np, xent
        logits = np.zeros((2000, 500), np.float32)
        targets = np.zeros(2000, np.int64)
        grad = np.empty_like(logits)
        done = threading.Event()
        def spoil():
            while not done.is_set():
                targets[1000:] = 2**62
                targets[1000:] = 0
        thread = threading.Thread(target=spoil)
        thread.start()
        for _ in range(300):
            try:
                xent.cross_entropy(logits, targets, return_grad=True, grad_out=grad)
            except IndexError:
                pass
        done.set()
        thread.join()
        print("alive")
    """
    assert output(script) == "alive"


def test_a_forked_child_computes_the_same():
    script = """
        import os, warnings, numpy as np, xent
        warnings.simplefilter("ignore")
        xent.set_num_threads(4)
        logits = np.random.default_rng(0).normal(size=(2000, 300))
        expected = xent.logsumexp(logits, axis=-1)
        for _ in range(5):
            child = os.fork()
            if child == 0:
                same = np.array_equal(xent.logsumexp(logits, axis=-1), expected)
                os._exit(0 if same else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert np.array_equal(xent.logsumexp(logits, axis=-1), expected)
        print("same")
    """
    assert output(script) == "same"


def test_interrupting_a_long_call():
    """The signal arrives early in seconds of work; most rows must still be untouched."""
    script = """
        import signal, numpy as np, xent
        xent.set_num_threads(1)
        row = np.zeros((1, 50_000), np.float32)
        logits = np.broadcast_to(row, (400_000, 50_000))
        losses = np.full(400_000, -1, np.float32)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            xent.cross_entropy(logits, np.zeros(400_000, int), reduction="none", out=losses)
        except KeyboardInterrupt:
            print("interrupted" if losses[-1] == -1 else "finished first")
    """
    assert output(script) == "interrupted"
