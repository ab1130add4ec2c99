"""The team of threads: whom it waits for, what it keeps to, what it leaves behind."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from test_process import UNSET, compiled, output, printed

# Words of `native/team.c`, which says more.
TESTS = (
    "late_workers",
    "workers_that_do_not_come",
    "poll_while_waiting",
    "stop_while_waiting",
    "nested_calls",
    "seats",
    "fork_during_a_call",
    "fork_with_a_live_team",
    "inside_a_region",
    "limits",
)

if sys.platform == "linux":
    CPUS = len(os.sched_getaffinity(0))

    @pytest.fixture(scope="module")
    def team(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return compiled("team.c", tmp_path_factory.mktemp("team"))

    @pytest.mark.parametrize("name", TESTS)
    def test_team(team, name):
        """In a process that ends while its workers live, too."""
        printed(team, name, **UNSET)

    def test_every_test_of_the_team_is_run(team):
        assert {*printed(team).split()} == {*TESTS, "places", "bound_caller"}

    @pytest.mark.parametrize(
        "setting",
        [
            {},
            {"OMP_PROC_BIND": "true"},
            {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
            {"OMP_PLACES": "cores"},
            {"GOMP_CPU_AFFINITY": "0-1023"},
        ],
        ids=lambda setting: " ".join(setting) or "unbound",
    )
    def test_bound_threads_use_every_cpu(team, setting):
        threads, cpus = map(int, re.findall(r"\d+", printed(team, "places", **UNSET, **setting)))
        assert threads == CPUS
        assert cpus >= min(CPUS, 4)  # places may be larger than a CPU; four threads take part

    def test_a_bound_caller_has_workers_on_every_cpu(team):
        shown = printed(team, "bound_caller", **UNSET).strip()
        assert shown == f"{CPUS} threads on {CPUS} CPUs"

    def test_a_bound_thread_that_imports_is_not_the_process():
        script = """
            import os, threading
            def count():
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
                import xent
                print(xent.get_num_threads())
            thread = threading.Thread(target=count)
            thread.start()
            thread.join()
            import xent
            print(xent.get_num_threads())
        """
        assert output(script, **UNSET).split() == [str(CPUS)] * 2

    CALL = """
        import os, numpy as np, xent
        logits = np.random.default_rng(0).normal(size=(2000, 300))
        threads = len(os.listdir("/proc/self/task"))
        xent.logsumexp(logits, axis=-1)
    """

    @pytest.mark.parametrize(("n", "more"), [("1", 0), ("2", 2), ("3", 3)])
    def test_threads_that_are_started(n, more):
        """None for a call on one; else the workers and the thread that serves them."""
        script = f"""{CALL}
        while len(os.listdir("/proc/self/task")) != threads + {more}:
            pass
        print("right")
        """
        assert output(script, XENT_NUM_THREADS=n, OPENBLAS_NUM_THREADS="1") == "right"

    def test_idle_workers_sleep():
        script = f"""{CALL}
        def states():
            states = []
            for task in os.listdir("/proc/self/task"):
                if int(task) != os.getpid():
                    try:
                        stat = open(f"/proc/self/task/{{task}}/stat").read()
                    except OSError:  # A thread of a probe that has ended since.
                        continue
                    states.append(stat.rsplit(")")[1][1])
            return states
        while len(states()) < 2 or {{*states()}} != {{"S"}}:
            pass
        print("asleep")
        """
        assert output(script, XENT_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1") == "asleep"

    @pytest.mark.parametrize("size", ["512M", "524288", "1 G", "1m", "nonsense"])
    def test_large_stacks_that_cannot_be_had(size):
        """OpenMP would end the process."""
        script = """
            import resource, numpy as np, xent
            logits = np.random.default_rng(0).normal(size=(4000, 300))
            with xent.num_threads(1):
                expected = xent.logsumexp(logits, axis=-1)
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + (800 << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            with xent.num_threads(8):
                for _ in range(100):
                    assert np.array_equal(xent.logsumexp(logits, axis=-1), expected)
            print("alive")
        """
        assert output(script, OMP_STACKSIZE=size) == "alive"
