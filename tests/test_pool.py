"""The pool: memory of dropped results serves later ones, within its limit, and goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import math
import pickle
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy._core import _multiarray_umath
from numpy._core.multiarray import get_handler_name

import xent
from test_native import ROOT
from test_other_machines import GROUPS, machine, on
from test_process import compiled, output, printed, run
from xent import _pool

assert machine  # a fixture

pytestmark = pytest.mark.skipif(_pool.statistics()["limit"] == 0, reason="the pool is off")

SOURCE = ROOT / "src/xent"
MiB = 1 << 20
HUGE_PAGE = 2 * MiB
LIMIT = 512 * MiB
CALLS = 20  # after which memory that nobody wants has gone back

# What scripts of processes of their own begin with.
BEGIN = """
import gc, os, resource, sys, threading, time
import numpy as np, xent
from xent import _pool
MiB = 1 << 20
def empty(size, dtype="u1"):
    return _pool.empty_array((size,), np.dtype(dtype))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
def calls(n=20):
    for _ in range(n):
        _pool.count_call()
"""


def empty(*shape: int, dtype: object = np.uint8) -> np.ndarray:
    return _pool.empty_array(shape, np.dtype(dtype))


def held() -> int:
    return _pool.statistics()["idle"]


def result_of(script: str, **environment: str) -> str:
    return output(BEGIN + textwrap.dedent(script), **environment)


@pytest.fixture(autouse=True)
def nothing_idle() -> Iterator[None]:
    """Begin with an empty pool, and leave one behind."""
    before = _pool.statistics()["limit"]
    gc.collect()
    xent.set_pool_bytes(0)
    xent.set_pool_bytes(LIMIT)
    yield
    xent.set_pool_bytes(0)
    xent.set_pool_bytes(before)


@pytest.mark.parametrize("size", [MiB // 4, MiB + 1, 2 * MiB, 100 * MiB])
def test_the_next_result_has_the_memory_of_the_last(size):
    first = empty(size)
    address = first.ctypes.data
    del first
    assert held() >= size
    second = empty(size)
    assert second.ctypes.data == address
    assert held() == 0


def test_results_that_replace_each_other_take_turns():
    """`loss, grad = f(...)` in a loop keeps the old gradient while the new one is made."""
    result = empty(5 * MiB)
    seen = set()
    for _ in range(6 * CALLS):
        result = empty(5 * MiB)
        seen.add(result.ctypes.data)
        _pool.count_call()
    assert len(seen) == 2


def test_memory_that_each_call_uses_is_kept():
    """However much it is: more than stays where nobody asks for it."""
    for _ in range(6 * CALLS):
        empty(200 * MiB)
        _pool.count_call()
        assert held() == 208 * MiB


LOGITS = np.random.default_rng(0).normal(size=(300, 1000)).astype(np.float32)
TARGETS = np.arange(300) % 2

RESULTS = {
    "cross_entropy": lambda: xent.cross_entropy(LOGITS, TARGETS, return_grad=True)[1],
    "of float16": lambda: xent.cross_entropy(
        np.ones(LOGITS.shape, np.float16), TARGETS, return_grad=True, label_smoothing=0.1
    )[1],
    "hessian": lambda: xent.cross_entropy(LOGITS, TARGETS, return_hess=True)[2],
    "elementwise": lambda: xent.binary_cross_entropy_with_logits(
        LOGITS, LOGITS > 0, return_grad=True
    )[1],
    "losses": lambda: xent.binary_cross_entropy_with_logits(LOGITS, LOGITS > 0, reduction="none"),
    "softmax": lambda: xent.softmax(LOGITS, axis=-1),
    "softmax of strided columns": lambda: xent.softmax(LOGITS[:, ::2], axis=0),
    "linear": lambda: xent.linear_cross_entropy(LOGITS, LOGITS, TARGETS, return_grad=True)[1][0],
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_every_kind_are_from_the_pool(name):
    result = RESULTS[name]()
    assert get_handler_name(result) == "xent"
    assert result.flags.owndata


def test_a_loop_that_drops_its_results_makes_no_page():
    """Two gradients take turns, as `loss, grad = ...` keeps the old one until there is a new one."""
    seen = set()
    for _ in range(30):
        loss, grad = xent.cross_entropy(LOGITS, TARGETS, return_grad=True)
        seen.add(grad.ctypes.data)
    assert len(seen) == 2
    assert loss > 0


def test_calls_give_idle_memory_back():
    big = empty(LIMIT)
    del big
    for _ in range(CALLS):
        xent.cross_entropy(LOGITS[:2, :3], TARGETS[:2])
    assert held() == 0


def test_the_best_fit_is_taken():
    sizes = (40, 32, 36, 64)
    arrays = [empty(n * MiB) for n in sizes]
    addresses = {n: a.ctypes.data for n, a in zip(sizes, arrays, strict=True)}
    del arrays
    asked = (20, 33, 32, 33, 34)
    arrays = [empty(n * MiB) for n in asked]
    found = [[n for n in sizes if addresses[n] == array.ctypes.data] for array in arrays]
    assert found == [[], [36], [32], [40], []]  # never the one that is much too large


def test_blocks_are_at_most_an_eighth_larger_than_asked_for():
    for size in (MiB // 4, MiB - 1, MiB + 1, 9 * MiB + 5, 128 * MiB + 1):
        before = _pool.statistics()["in_use"]
        array = empty(size)
        assert size <= _pool.statistics()["in_use"] - before <= size * 9 // 8 + 4096
        del array


@pytest.mark.parametrize("size", [0, 1, 1000, MiB // 4 - 1])
def test_small_results_are_those_of_numpy(size):
    assert get_handler_name(empty(size)) in (None, "default_allocator")
    assert held() == 0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u2"])
@pytest.mark.parametrize("shape", [(1 << 20,), (3, 1 << 18), (1 << 18, 1, 2), (700, 1001)])
def test_results_are_arrays_like_any(shape, dtype):
    array = empty(*shape, dtype=dtype)
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.owndata
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.base is None
    assert array.ctypes.data % (HUGE_PAGE if array.nbytes >= HUGE_PAGE else 4096) == 0
    array[...] = 7
    copy = pickle.loads(pickle.dumps(array))
    assert np.array_equal(copy, array)
    assert np.array_equal(pickle.loads(pickle.dumps(array, protocol=5)), array)
    array.__setstate__(copy.__reduce__()[2])  # frees the memory, for some of another's
    assert np.array_equal(copy, array)
    assert held() >= copy.nbytes


def test_views_keep_their_memory():
    class Special(np.ndarray):
        pass

    array = empty(MiB)
    array[:] = 3
    view, special = array[::2], array.view(Special)
    del array
    other = empty(MiB)
    other[:] = 4
    assert held() == 0
    assert (view == 3).all()
    del view
    assert (special == 3).all()
    del special
    assert held() >= MiB


@pytest.mark.parametrize("after", [1, 1000, MiB // 2, MiB - 9, MiB + 1, 40 * MiB])
def test_results_can_be_resized(after):
    array = empty(MiB)
    array[:] = np.arange(MiB, dtype=np.uint32).astype(np.uint8)
    expected = array.copy()
    other = empty(40 * MiB)
    other[:] = 255
    del other
    array.resize(after, refcheck=False)
    kept = min(after, MiB)
    assert array.shape == (after,)
    assert (array[:kept] == expected[:kept]).all()
    assert not array[kept:].any()


def test_memory_can_be_dropped_in_any_order():
    rng = np.random.default_rng(0)
    arrays: dict[int, np.ndarray] = {}
    for step in range(2000):
        if len(arrays) < 20 and rng.random() < 0.6:
            array = empty(int(rng.integers(MiB // 4, MiB)))
            array[[0, -1]] = step % 251
            arrays[step] = array
        elif arrays:
            chosen = rng.choice(list(arrays))
            assert set(arrays.pop(chosen)[[0, -1]]) == {chosen % 251}
        _pool.count_call()
        assert held() <= LIMIT


def test_no_more_is_idle_than_the_limit_allows():
    xent.set_pool_bytes(10 * MiB)
    arrays = [empty(3 * MiB) for _ in range(8)]
    last = arrays[-1].ctypes.data
    while arrays:
        del arrays[0]
        assert held() <= 10 * MiB
    assert held() == 9 * MiB
    assert empty(3 * MiB).ctypes.data == last  # the oldest went first
    del last
    xent.set_pool_bytes(7 * MiB)
    assert held() == 6 * MiB
    large = empty(8 * MiB)
    del large
    assert held() == 6 * MiB  # what exceeds the limit by itself drives nothing out


def test_many_results_may_be_dropped_at_once():
    arrays = [empty(MiB // 4) for _ in range(500)]
    del arrays
    assert MiB <= held() <= 64 * MiB // 4


def test_a_pool_without_bytes_is_off():
    kept, dropped = empty(MiB), empty(MiB)
    del dropped
    assert held() == MiB
    xent.set_pool_bytes(0)
    assert held() == 0
    kept[:] = 1
    new = empty(MiB)
    assert get_handler_name(new) == "default_allocator"
    del kept
    assert held() == 0


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (1.5, TypeError), ("2", TypeError), (None, TypeError)]
)
def test_bad_number_of_bytes(value, error):
    with pytest.raises(error, match=str(value)):
        xent.set_pool_bytes(value)
    assert _pool.statistics()["limit"] == LIMIT


def test_any_number_of_bytes():
    xent.set_pool_bytes(1 << 100)
    array = empty(MiB)
    del array
    assert held() == MiB


def test_bytes_are_shown():
    array, dropped = empty(2 * MiB), empty(MiB)
    before = xent.show_config()["pool_bytes"]
    del dropped
    after = xent.show_config()["pool_bytes"]
    assert before["limit"] == after["limit"] == LIMIT
    assert after["idle"] == before["idle"] + MiB
    assert after["in_use"] == before["in_use"] - MiB >= array.nbytes


@pytest.mark.parametrize(
    ("value", "limit"), [("0", 0), ("12345678", 12345678), (str(1 << 99), None)]
)
def test_limit_from_the_environment(value, limit):
    script = "import xent; print(xent.show_config()['pool_bytes']['limit'])"
    found = int(output(script, XENT_POOL_BYTES=value))
    assert found == limit or (limit is None and found > 1 << 60)


@pytest.mark.parametrize("value", ["-1", "1e9", "1G", "all", "\N{FULLWIDTH DIGIT ONE}"])
def test_nonsense_in_the_environment_is_named(value):
    done = run("import xent", XENT_POOL_BYTES=value)
    assert done.returncode != 0
    assert "XENT_POOL_BYTES" in done.stderr
    assert ascii(value)[1:-1] in done.stderr or value in done.stderr


def test_the_handler_is_in_force_for_results_alone():
    before = get_handler_name()
    array = empty(MiB)
    assert get_handler_name(array) == "xent"
    assert get_handler_name() == before
    with pytest.raises(MemoryError):
        empty(1 << 60)
    assert get_handler_name() == before
    for other in (np.empty(MiB), array + array, array.copy(), np.empty_like(array)):
        assert get_handler_name(other) == before
    with pytest.raises(ValueError, match=r"array is too big|[Mm]aximum"):
        empty(1 << 40, 1 << 40)
    with pytest.raises(ValueError, match="negative"):
        empty(-1)


def test_a_handler_of_the_users_own_is_respected():
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = api.PyCapsule_New.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = ctypes.py_object, ctypes.c_char_p
    api.PyCapsule_New.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
    api.PyCapsule_New.restype = ctypes.py_object
    table = ctypes.cast(
        api.PyCapsule_GetPointer(_multiarray_umath._ARRAY_API, None),
        ctypes.POINTER(ctypes.c_void_p),
    )
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
    default = ctypes.py_object.from_address(table[306]).value
    name = b"mem_handler"
    bytes_of_handler = ctypes.string_at(api.PyCapsule_GetPointer(default, name), 168)
    handler = ctypes.create_string_buffer(b"mine".ljust(127, b"\0") + bytes_of_handler[127:], 168)
    before = set_handler(api.PyCapsule_New(ctypes.addressof(handler), name, None))
    try:
        array = empty(MiB)
        assert get_handler_name(array) == get_handler_name() == "mine"
        del array
    finally:
        set_handler(before)
    assert get_handler_name() == "default_allocator"
    assert get_handler_name(empty(MiB)) == "xent"


def test_results_are_traced():
    array = empty(3 * MiB)
    del array
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        array = empty(3 * MiB)
        assert 3 * MiB <= tracemalloc.get_traced_memory()[0] - before < 3 * MiB + 4096
        del array
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()


def test_memory_in_use_by_one_thread_is_no_other_threads():
    wrong = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        arrays: list[np.ndarray] = []
        for _ in range(400):
            array = empty(int(rng.integers(MiB // 4, 3 * MiB)))
            array[:: 64 * 1024] = number
            arrays.append(array)
            _pool.count_call()
            if len(arrays) == 4:
                old = arrays.pop(int(rng.integers(4)))
                if (old[:: 64 * 1024] != number).any():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert held() <= LIMIT


@pytest.mark.parametrize("beside", ["threads", "fork"])
def test_threads_that_no_interpreter_lets_take_turns(tmp_path, beside):
    program = compiled("pool.c", tmp_path, f"-I{SOURCE}", str(SOURCE / "pool.c"), "-lpthread")
    assert printed(program, beside).strip() == "right"


if sys.platform == "linux":

    def test_memory_goes_back_after_some_calls():
        """Of a dropped gigabyte at most 300 MB are left."""
        script = """
            before = resident()
            big, small = empty(1 << 30), empty(MiB)
            big[:], small[:] = 1, 1
            del big, small
            kept = resident() - before
            for _ in range(20):
                empty(MiB)[:] = 2
                calls(1)
            print(kept, resident() - before)
        """
        kept, after = map(int, result_of(script, XENT_POOL_BYTES=str(2 << 30)).split())
        assert kept > 1 << 30
        assert after <= 300_000_000

    def test_little_memory_stays_for_a_while_and_then_goes_back():
        script = """
            array = empty(40 * MiB)
            del array
            calls(7)
            assert _pool.statistics()["idle"] == 40 * MiB
            time.sleep(1.1)
            calls()
            print(_pool.statistics()["idle"])
        """
        assert result_of(script) == "0"

    def test_idle_memory_is_the_systems_should_it_run_short():
        modes = Path("/sys/kernel/mm/transparent_hugepage/enabled")
        if not modes.exists() or "[never]" in modes.read_text():
            pytest.skip("no huge pages")
        script = """
            import re
            def free():
                text = open("/proc/self/smaps").read()
                return 1024 * sum(map(int, re.findall(r"LazyFree: +([0-9]+)", text)))
            array = empty(256 * MiB)
            array[:] = 1
            before = free()
            del array
            print(before, free())
        """
        before, after = map(int, result_of(script).split())
        assert before == 0
        assert after > 128 * MiB  # the kernel counts some at a time

    def test_idle_memory_is_given_back_for_an_array_that_would_not_fit():
        script = """
            arrays = [empty(128 * MiB), empty(128 * MiB)]
            del arrays
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MiB, used + 100 * MiB))
            print(_pool.statistics()["idle"] // MiB)
            array = empty(200 * MiB)
            array[:] = 1
            print(_pool.statistics()["idle"] // MiB)
            del array
            try:
                empty(600 * MiB)
            except MemoryError as error:
                print("unable to allocate" in str(error).lower(), _pool.statistics()["idle"])
            print(np.empty(9 * MiB, "u1").size // MiB)
        """
        assert result_of(script).split() == ["256", "0", "True", "0", "9"]

    def test_idle_memory_is_given_back_for_what_a_call_needs():
        """Row losses of 256 MiB, which the core allocates."""
        script = """
            logits = np.broadcast_to(np.zeros((1, 2), np.float32), (1 << 25, 2))
            targets = np.broadcast_to(np.zeros(1, int), 1 << 25)
            xent.cross_entropy(logits[:100_000], targets[:100_000])
            array = empty(512 * MiB)
            del array
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 50 * MiB, used + 50 * MiB))
            print(xent.cross_entropy(logits, targets), _pool.statistics()["idle"])
        """
        loss, idle = result_of(script).split()
        assert (np.float32(loss), idle) == (np.float32(math.log(2)), "0")

    def test_children_have_memory_of_their_own():
        """Forked beside idle memory, memory in use, and threads that take and give back."""
        script = """
            stop = threading.Event()
            def work(number):
                while not stop.is_set():
                    array = empty(MiB + number * 100_000)
                    array[::4096] = number
                    calls(1)
                    assert (array[::4096] == number).all()
            threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
            for thread in threads:
                thread.start()
            kept, idle = empty(2 * MiB), empty(3 * MiB)
            kept[:], idle[:] = 1, 2
            del idle
            good = 0
            for i in range(40):
                child = os.fork()
                if child == 0:
                    gone = _pool.statistics()["idle"] == 0
                    mine = [empty(3 * MiB) for _ in range(3)]
                    for n, array in enumerate(mine):
                        array[:] = 10 + n
                    whole = all((array == 10 + n).all() for n, array in enumerate(mine))
                    whole = whole and (kept == 1).all()
                    kept[:] = 5
                    del mine[1]
                    kept.resize(MiB, refcheck=False)
                    calls(40)
                    os._exit(0 if gone and whole and (kept == 5).all() else 1)
                good += os.waitpid(child, 0)[1] == 0
            stop.set()
            for thread in threads:
                thread.join()
            assert (kept == 1).all()
            print(good)
        """
        assert result_of(script) == "40"

    def test_the_parent_keeps_what_is_idle():
        script = """
            idle = empty(16 * MiB)
            idle[:] = 2
            address = idle.ctypes.data
            del idle
            child = os.fork()
            if child == 0:
                os._exit(_pool.statistics()["idle"] != 0)
            assert os.waitpid(child, 0)[1] == 0
            print(empty(16 * MiB).ctypes.data == address)
        """
        assert result_of(script) == "True"

    @pytest.mark.parametrize(
        ("files", "limit"),
        [
            ({GROUPS: "0::/\n", "sys/fs/cgroup/memory.max": "max"}, None),
            ({GROUPS: "0::/\n", "sys/fs/cgroup/memory.max": "800000000"}, 100_000_000),
            (
                {GROUPS: "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "900000000"}
                | {"sys/fs/cgroup/a/memory.max": "400000000"},
                50_000_000,
            ),
            (
                {
                    GROUPS: "4:memory:/a\n",
                    "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "16000000",
                },
                2_000_000,
            ),
            (
                {
                    GROUPS: "4:memory:/\n",
                    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                },
                None,
            ),
        ],
    )
    def test_an_eighth_of_the_memory_may_lie_idle(machine, tmp_path, files, limit):
        script = """
            import os, xent
            share = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") // 8
            limit = xent.show_config()["pool_bytes"]["limit"]
            print("share" if limit == share else limit)
        """
        found = on(machine, tmp_path, files, script, XENT_POOL_BYTES="")
        assert found == ("share" if limit is None else str(limit))
