"""The plan of docs/scaling.md: its formulas against a simulation of every message, its figures against what is sent."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import scaling
import simulation
from scaling import HOW, Layer, Loss, Rank, Traffic
from simulation import COLLECTIVES, Compute, Network, Receive, Send

NETWORK = Network()
SENT = Traffic((158, 316), 10)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("ranks", [2, 4, 16, 64])
@pytest.mark.parametrize("size", [0.0, 8.0, 1e5])
def test_the_formula_is_the_simulation_of_ranks_that_begin_together(name, ranks, size):
    programs = [COLLECTIVES[name](rank, ranks, size) for rank in range(ranks)]
    ends = simulation.simulate(programs, NETWORK)
    assert max(ends) == pytest.approx(simulation.seconds(name, ranks, size, NETWORK), rel=1e-9)


@pytest.mark.parametrize("name", ["allgather, doubling", "allreduce, halving"])
def test_the_formula_is_the_simulation_of_eight_thousand_ranks(name):
    programs = [COLLECTIVES[name](rank, 8192, 1e4) for rank in range(8192)]
    found = max(simulation.simulate(programs, NETWORK))
    assert found == pytest.approx(simulation.seconds(name, 8192, 1e4, NETWORK), rel=1e-9)


def carried(name: str, ranks: int, first: int) -> bool:
    """Whether what every rank knows in the beginning has reached all ranks, along the messages of a collective."""
    programs = [COLLECTIVES[name](rank, ranks, 8.0) for rank in range(ranks)]
    known = [{rank} for rank in range(ranks)]
    sent: dict[tuple[int, int], list[set[int]]] = {}
    steps = [next(program, None) for program in programs]
    while any(steps):
        moved = False
        for rank, step in enumerate(steps):
            if isinstance(step, Send):
                sent.setdefault((rank, step.to), []).append(set(known[rank]))
            elif isinstance(step, Receive) and sent.get((step.source, rank)):
                known[rank] |= sent[step.source, rank].pop(0)
            else:
                continue
            steps[rank], moved = next(programs[rank], None), True
        assert moved
    return all(first in each for each in known)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_collectives_reach_every_rank(name, ranks):
    assert all(carried(name, ranks, first) for first in range(ranks))


def test_ports_send_and_receive_one_message_at_a_time():
    """By hand: two messages of a second each leave one after the other, and two that meet at a rank wait for each other."""
    network = Network(latency=0.25, bandwidth=1.0)

    def sender(to, sizes):
        for size in sizes:
            yield Send(to, size)

    def receiver(*sources):
        for source in sources:
            yield Receive(source)

    one_after_the_other = simulation.simulate([sender(1, (1, 1)), receiver(0, 0)], network)
    assert one_after_the_other == [0.0, 2.25]
    together = simulation.simulate([sender(2, (1,)), sender(2, (1,)), receiver(0, 1)], network)
    assert together == [0.0, 0.0, 2.25]
    late = simulation.simulate([iter((Compute(3.0), Send(1, 1))), receiver(0)], network)
    assert late == [3.0, 4.25]


def test_a_rank_that_nobody_sends_to_is_named():
    with pytest.raises(RuntimeError, match="rank 1 waits for rank 0 for ever"):
        simulation.simulate([iter(()), iter((Receive(0),))], NETWORK)


@pytest.mark.parametrize("name", COLLECTIVES)
def test_ranks_that_are_late_delay_all_by_no_more(name):
    """One straggler, then exponential noise: the end is at most that of the last to begin and the formula.

    Of messages that are sent before they are needed one may keep a port busy that another waits for: with noise it may be
    later than that by as much again.
    """
    ranks, size, work, noise = 16, 1e4, 1e-3, 2e-4
    formula = simulation.seconds(name, ranks, size, NETWORK)
    for straggler in range(ranks):
        times = [[work + noise * (rank == straggler) for rank in range(ranks)]]
        end = simulation.blocks(name, ranks, size, times, NETWORK)
        assert work + noise < end <= (work + noise + formula) * (1 + 1e-9)
    draw = random.Random(1)
    ends = []
    for _ in range(200):
        times = [work + draw.expovariate(1 / noise) for _ in range(ranks)]
        ends.append(simulation.blocks(name, ranks, size, [times], NETWORK))
        assert max(times) < ends[-1] < max(times) + 2 * formula
    expected = work + noise * simulation.expected_maximum(ranks) + formula
    # An alltoall need not wait for what has arrived before, so that it may be earlier by its own time.
    error = 4 * stdev(ends) / len(ends) ** 0.5
    assert expected - error - (formula if name == "alltoall" else 0) < mean(ends) < expected + error


def test_blocks_of_rows_are_bounded_by_their_sum():
    ranks, count, work, noise, size = 16, 20, 1e-3, 2e-4, 1e4
    draw = random.Random(2)
    times = [[work + draw.expovariate(1 / noise) for _ in range(ranks)] for _ in range(count)]
    for name in COLLECTIVES:
        formula = simulation.seconds(name, ranks, size, NETWORK)
        end = simulation.blocks(name, ranks, size, times, NETWORK)
        assert end < sum(max(each) + formula for each in times)
        assert end > max(map(sum, zip(*times, strict=True)))


def test_bytes_are_those_that_the_program_sends():
    """Some grow with the rows, by so many bytes for each; the others are agreements."""
    pytest.importorskip("mpi4py")
    few, many = (scaling.exchanged(100, rows) for rows in (64, 4096))
    assert [name for name, _ in few] == [name for name, _ in many]
    grown = [(b - a) / (4096 - 64) for (_, a), (_, b) in zip(few, many, strict=True) if a != b]
    sent = scaling.traffic()
    assert sum(grown) == sent.row(1)
    assert sent.agreements == len(many) - len(grown)
    assert sent.row(4) == sent.by_chunks[3]
    assert sent.row(6) == sent.row(4) + 2 * (sent.row(4) - sent.row(3))


def test_efficiency_by_hand():
    """Two ranks, one chunk each, a network without latency: 4 rows of 16,384 float32."""
    rank, network = Rank(1.0, read=65536.0, apply=32768.0, merge=0.5), Network(0.0, 158.0)
    one = Loss(4, 32768, 2)
    assert one.work(rank) == 4 * (1 + 2)
    assert one.received("Allgather", SENT) == 158
    assert one.exchange("Allgather", rank, network, SENT) == 4 * 1 + 4 * 2 * 0.5
    assert one.efficiency("Allgather", rank, network, SENT) == 12 / 20
    # Half of the rows' sums there, merged sums of half of the rows back.
    assert one.received("rows divided", SENT) == 158
    assert one.exchange("rows divided", rank, network, SENT) == 2 + 2 + 2
    assert one.received("three Allreduces", SENT) == 12


def test_a_grid_fits_the_memory_and_is_the_fastest():
    rank = scaling.MEASURED
    found = scaling.best_grid(1024, 10**7, HOW[0], rank, NETWORK, SENT, 64e9)
    assert found.down * found.across == 1024
    assert found.memory(SENT) <= 64e9
    assert found.memory(SENT) > 2 * 4 * 4096 * 10**7 / found.across
    for i in range(11):
        other = Layer(2**20, 4096, 10**7, 1024 >> i, 1 << i)
        if other.memory(SENT) <= 64e9:
            assert other.efficiency(HOW[0], rank, NETWORK, SENT) <= found.efficiency(
                HOW[0], rank, NETWORK, SENT
            )


def test_the_program_prints_its_tables(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaling.py"])
    scaling.main()
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 3 * (2 + 9)
    simulated = list(scaling.simulated(NETWORK, ranks=8, repeats=4))
    assert len(simulated) == 2 + len(COLLECTIVES)
