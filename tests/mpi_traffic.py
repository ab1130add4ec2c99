"""What each rank sends, which tests/test_mpi.py counts on every rank: `mpiexec -n 2 python mpi_traffic.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

import xent.mpi
from mpi_ranks import CHUNK, COMM, OPTIONS
from xent import _linear


class Counting(MPI.Intracomm):
    """A communicator that notes how many bytes each exchange sends."""

    sent: list[int]

    def Allgather(self, own: Any, every: Any) -> None:
        self.sent.append(own.nbytes)
        super().Allgather(own, every)

    def Iallreduce(self, at: Any, own: Any, *more: Any) -> Any:
        self.sent.append(own.nbytes)
        return super().Iallreduce(at, own, *more)


def main() -> None:
    """At most 80 bytes of each row, whatever is asked for and however many classes a rank has; few exchanges."""
    rows = 32
    rng = np.random.default_rng(1)
    for chunks in (1, 3):
        classes = CHUNK * chunks
        logits = rng.normal(size=(rows, classes))
        targets = np.arange(rows)
        soft = np.full((rows, classes), 1e-5)
        for own in (targets, soft):
            for options in OPTIONS:
                given = {k: v for k, v in options.items() if v is not True and k != "ignore_index"}
                given |= {"class_weight": np.ones(classes)} if "class_weight" in options else {}
                comm = Counting(COMM)
                comm.sent = []
                xent.mpi.cross_entropy(logits, own, comm=comm, return_grad=True, **given)
                # What is sent of the call, the rows, and that all is well at the end.
                assert len(comm.sent) == (3 if chunks == 1 else 4)
                assert sum(comm.sent[1:-1]) <= 80 * rows + 20
                assert comm.sent[0] + comm.sent[-1] <= 40
    features = 3
    hidden, weight = rng.normal(size=(rows, features)), rng.normal(size=(50, features))
    _linear.BLOCK_BYTES, _linear.BLOCK_ROWS = 1, 8
    comm = Counting(COMM)
    comm.sent = []
    xent.mpi.linear_cross_entropy(hidden, weight, targets, comm=comm, return_grad=True)
    # The call; memory is there; of each block its sums, and its gradients; the end.
    assert len(comm.sent) == 2 + 2 * rows // 8 + 1
    assert sum(comm.sent) <= rows * (80 + hidden.itemsize * features) + 60


if __name__ == "__main__":
    main()
