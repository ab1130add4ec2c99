"""The process around a call: its environment, signals, forks, other threads, floating-point state."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from test_headers import COMPILER, LINK
from xent import _core

NATIVE = Path(__file__).parent / "native"
CSRC = NATIVE.parent.parent / "csrc"
# As many threads as the process has CPUs.
UNSET = {"XENT_NUM_THREADS": None, "OMP_NUM_THREADS": None}


def environment_with(changes: dict[str, str | None]) -> dict[str, str]:
    """Return this process's environment with changes; None removes a variable."""
    return {name: text for name, text in (os.environ | changes).items() if text is not None}


def run(script: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which a hang or a crash cannot take along."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment_with(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def output(script: str, **environment: str | None) -> str:
    """Return what the script prints; it must succeed."""
    done = run(script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def printed(*command: str | Path, **environment: str | None) -> str:
    """Return what a command prints; it must succeed."""
    done = subprocess.run(
        command,
        env=environment_with(environment),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compiled(source: str, folder: Path, *flags: str) -> Path:
    """Compile a program of tests/native with the library that is installed."""
    program = folder / Path(source).stem
    options = ("-std=c11", "-O2", "-Wall", "-Wextra", f"-I{CSRC}", *LINK, *flags, "-o", program)
    subprocess.run((*COMPILER, NATIVE / source, *options), check=True)
    return program


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
        assert output(script, **UNSET) == "1"


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


def test_targets_changed_during_the_call_never_crash():
    script = """
        import threading, numpy as np, xent
        logits = np.zeros((2000, 500), np.float32)
        targets = np.zeros(2000, np.int64)
        grad = np.empty_like(logits)
        done = threading.Event()
        def spoil():
            while not done.is_set():
                targets[1000:] = 2**40  # whose address, unlike that of 2**62, is not the row's own
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


def test_forked_children_compute_the_same(tmp_path: Path):
    """After a parallel region, from a second thread, and inside a region: none hangs."""
    text = printed(compiled("forks.c", tmp_path), "200")
    assert text.count("200 of 200 children right") == 3


if sys.platform == "linux":

    def test_children_of_a_runtime_that_cannot_let_threads_go(tmp_path: Path):
        """As with two runtimes, an old one visible to all: a symbol of another object stands for it."""
        (tmp_path / "old.c").write_text(
            "#define _GNU_SOURCE\n"
            "#include <dlfcn.h>\n"
            "int omp_in_parallel(void) {\n"
            '    return ((int (*)(void))dlsym(RTLD_NEXT, "omp_in_parallel"))();\n'
            "}\n"
        )
        library = tmp_path / "old.so"
        command = (*COMPILER, "-shared", "-fPIC", tmp_path / "old.c", "-o", library, "-ldl")
        # The runtime itself has to be visible, too.
        subprocess.run((*command, "-Wl,--no-as-needed", "-fopenmp"), check=True)
        script = """
            import os, sys, warnings, numpy as np, xent
            warnings.simplefilter("ignore")
            xent.set_num_threads(4)
            logits = np.random.default_rng(0).normal(size=(2000, 300))
            expected = xent.logsumexp(logits, axis=-1)
            child = os.fork()
            if child == 0:
                same = np.array_equal(xent.logsumexp(logits, axis=-1), expected)
                sys.exit(0 if same else 1)
            print(os.waitpid(child, 0)[1])
        """
        assert output(script, LD_PRELOAD=str(library)) == "0"


def test_multiprocessing_after_threads_have_run():
    script = """
        import multiprocessing, warnings, numpy as np, xent
        warnings.simplefilter("ignore")
        xent.set_num_threads(4)
        logits = np.random.default_rng(0).normal(size=(2000, 300))
        expected = xent.logsumexp(logits, axis=-1)
        def child():
            assert np.array_equal(xent.logsumexp(logits, axis=-1), expected)
        context = multiprocessing.get_context("fork")
        codes = []
        for _ in range(200):
            process = context.Process(target=child)
            process.start()
            assert np.array_equal(xent.logsumexp(logits, axis=-1), expected)
            process.join()
            codes.append(process.exitcode)
        print(codes.count(0))
    """
    assert output(script) == "200"


def test_a_signal_handler_may_fork_during_a_call():
    """The child is inside the parent's parallel region, of whose threads it has none."""
    script = """
        import os, signal, warnings, numpy as np, xent
        warnings.simplefilter("ignore")
        xent.set_num_threads(2)
        logits = np.random.default_rng(0).normal(size=(2000, 300))
        expected = xent.logsumexp(logits, axis=-1)
        status = []
        def fork(*_):
            child = os.fork()
            if child == 0:
                signal.alarm(30)
                same = np.array_equal(xent.logsumexp(logits, axis=-1), expected)
                os._exit(0 if same else 1)
            status.append(os.waitpid(child, 0)[1])
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        many = np.broadcast_to(np.zeros((1, 50_000), np.float32), (60_000, 50_000))
        while not status:
            xent.logsumexp(many, axis=-1)
        print(status)
    """
    assert output(script) == "[0]"


if sys.platform == "linux":

    @pytest.mark.parametrize("mebibytes", [2, 40])
    def test_threads_that_cannot_be_started(mebibytes):
        """There is address space for the stacks of a few threads, of 8 MiB each, or of none, not of 63."""
        script = f"""
            import resource, numpy as np, xent
            logits = np.random.default_rng(0).normal(size=(4000, 300))
            with xent.num_threads(1):
                expected = xent.logsumexp(logits, axis=-1)
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + ({mebibytes} << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            with xent.num_threads(64):
                for _ in range(3):
                    assert np.array_equal(xent.logsumexp(logits, axis=-1), expected)
            print("alive")
        """
        assert output(script) == "alive"


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


def test_other_threads_run_during_a_call():
    """The thread sees the first loss while the last is still to come, or it had to wait."""
    script = """
        import threading, numpy as np, xent
        xent.set_num_threads(1)
        logits = np.broadcast_to(np.zeros((1, 50_000), np.float32), (60_000, 50_000))
        losses = np.full(60_000, -1, np.float32)
        seen = []
        def watch():
            while losses[0] == -1:
                pass
            seen.append(losses[-1])
        thread = threading.Thread(target=watch)
        thread.start()
        xent.cross_entropy(logits, np.zeros(60_000, int), reduction="none", out=losses)
        thread.join()
        print("concurrent" if seen == [-1] else "blocked")
    """
    assert output(script) == "concurrent"


if platform.machine() in ("x86_64", "AMD64"):

    def test_flushing_of_subnormals_left_on_by_others(tmp_path: Path):
        """Libraries built with fast-math leave the process so; no bit may change, and it stays."""
        (tmp_path / "flush.c").write_text(
            "#include <xmmintrin.h>\n"
            "void on(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }\n"
            "int is_on(void) { return (_mm_getcsr() & 0x8040) == 0x8040; }\n"
            "int state(void) { return (int)_mm_getcsr() & ~0x3f; }\n"
        )
        library = tmp_path / "flush.so"
        subprocess.run(
            [*COMPILER, "-O2", "-shared", "-fPIC", tmp_path / "flush.c", "-o", library], check=True
        )
        script = f"""
            import ctypes, numpy as np
            flush = ctypes.CDLL({str(library)!r})
            before = flush.state()
            import xent
            assert flush.state() == before
            step = np.float32(1e-40)
            # The log-sum-exp of a single class is that number; the many rows are for threads.
            logits = [np.outer(np.arange(rows) % 20, 1 + np.arange(n) % 7).astype(np.float32) * step
                      for rows, n in ((300_000, 1), (20, 1), (20, 3), (20, 16), (20, 65), (20, 1025))]
            def bits():
                return [np.asarray(value).tobytes() for z in logits
                        for value in xent.cross_entropy(z, np.zeros(len(z), int), reduction="none",
                                                        return_grad=True, return_lse=True)]
            xent.set_num_threads(1)
            expected = bits()
            assert any(np.frombuffer(expected[2], np.float32) == step)
            flush.on()
            for threads in (1, 2):
                xent.set_num_threads(threads)
                assert bits() == expected
                assert flush.is_on()
            print("same")
        """
        assert output(script) == "same"
