"""Softmax losses of a vocabulary that is divided among the processes of an MPI program, with mpi4py."""

try:
    import mpi4py as _mpi4py  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "mpi4py":
        raise
    raise ModuleNotFoundError("xent.mpi needs mpi4py: pip install mpi4py", name="mpi4py") from error

from xent.mpi.losses import cross_entropy, linear_cross_entropy
from xent.mpi.special import logsumexp, softmax

__all__ = ["cross_entropy", "linear_cross_entropy", "logsumexp", "softmax"]
