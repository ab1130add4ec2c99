"""Log-sum-exp and softmax from the sums of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xent import stages
from xent._blocks import rounded
from xent._functions import stage_request
from xent.mpi._ranks import Call, Classes, Grid, Slice
from xent.mpi._shard import dtype_name
from xent.mpi._sums import Array, Exchange, Wanted, own_sums, reduced


def logsumexp(a: Any, comm: Any, class_offset: Any, axis: Any, dtype: Any) -> Any:
    def finish(request: Any, sums: Array, place: Slice) -> Any:
        return rounded(np.asarray(stages.values(sums).lse), request.precision)[()]

    return from_sums(a, comm, class_offset, axis, None, dtype, finish)


def softmax(x: Any, comm: Any, class_offset: Any, axis: Any, out: Any, dtype: Any) -> Any:
    def finish(request: Any, sums: Array, place: Slice) -> Any:
        # The softmax is the derivative of the log-sum-exp.
        return stages.apply(
            request.logits,
            sums,
            lse=1.0,
            axis=request.class_axis,
            grad_out=out,
            dtype=dtype,
            **place.arguments,
        )

    return from_sums(x, comm, class_offset, axis, out, dtype, finish)


def from_sums(
    x: Any,
    comm: Any,
    class_offset: Any,
    axis: Any,
    out: Any,
    dtype: Any,
    finish: Callable[..., Any],
) -> Any:
    """Return what `finish` makes of the sums of all classes of each row."""

    def validate() -> Call:
        request = stage_request(x, None, axis, None, 0, None, 1.0, None, dtype)
        if out is not None:
            request.gradient_buffer(out)
        wanted = Wanted(request.precision.compute)
        exchange = Exchange(ranks, wanted, int(np.prod(request.shape)))
        return Call(
            (request, exchange),
            {"dtype": dtype_name(request.precision)},
            {"rows": request.shape},
            Classes(request.logits.shape[request.class_axis], class_offset),
        )

    with Grid(comm, None) as grid:
        ranks = grid.columns
        with grid.together():
            request, exchange = grid.agree(validate)
            place = grid.place()
            exchange.put(place)
            options = {"axis": request.class_axis, "dtype": dtype}

            def own() -> Any:
                of_chunks = reduced(place, exchange.wanted, request.logits, None, **options)
                return own_sums(exchange.wanted, of_chunks, None, None)

            merged: Any = exchange.merged(own)
            found = ranks.attempt(
                lambda: finish(request, merged.sums.reshape(request.shape), place)
            )
        return found
