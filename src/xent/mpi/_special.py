"""Log-sum-exp and softmax from the sums of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent import stages
from xent._blocks import rounded
from xent._functions import stage_request
from xent.mpi._ranks import Classes, Grid, Slice
from xent.mpi._sums import Array, Sums


def logsumexp(a: Any, comm: Any, class_offset: Any, axis: Any, dtype: Any) -> Any:
    grid, request, _, found = reduced(a, comm, class_offset, axis, None, dtype)
    with grid.together():
        return rounded(np.asarray(stages.values(found).lse), request.precision)[()]


def softmax(x: Any, comm: Any, class_offset: Any, axis: Any, out: Any, dtype: Any) -> Any:
    grid, request, place, found = reduced(x, comm, class_offset, axis, out, dtype)
    with grid.together():
        # The softmax is the derivative of the log-sum-exp.
        return stages.apply(
            request.logits,
            found,
            lse=1.0,
            axis=request.class_axis,
            grad_out=out,
            dtype=dtype,
            **place.arguments,
        )


def reduced(
    x: Any, comm: Any, class_offset: Any, axis: Any, out: Any, dtype: Any
) -> tuple[Grid, Any, Slice, Array]:
    """Return the sums of all classes of each row, and what they are of."""
    grid = Grid(comm, None)
    with grid.together():
        request = stage_request(x, None, axis, None, 0, None, 1.0, None, dtype)
        if out is not None:
            request.gradient_buffer(out)
        classes = Classes(request.logits.shape[request.class_axis], class_offset)
    place = grid.agree({"dtype": str(request.precision.compute)}, {"rows": request.shape}, classes)
    with grid.together():
        own = Sums(place, request.logits, None, axis=request.class_axis, dtype=dtype)
    return grid, request, place, own.merged(grid.comm)
