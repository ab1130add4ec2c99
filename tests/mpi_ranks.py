"""Checks that tests/test_mpi.py runs on every rank of an MPI program: `mpiexec -n 2 python mpi_ranks.py options float32`.

Every rank makes the arrays of the whole vocabulary from one seed, gives `xent.mpi` its slice of them, and compares with a
single process, or returns the bits of what it got.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

import xent
import xent.mpi
from xent import _linear, stages

COMM = MPI.COMM_WORLD
ROWS, CLASSES = 6, 50
CHUNK = 16384

OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"class_weight": True},
    {"class_weight": True, "label_smoothing": 0.2, "sample_weight": True},
    {"z_loss": 1e-2, "softcap": 4.0, "temperature": 0.7},
    {"entropy_weight": 0.1, "class_bias": True},
    {"class_weight": True, "label_smoothing": 0.1, "entropy_weight": 0.1, "temperature": 2.0},
    {"ignore_index": 7},
    {"ignore_index": None},
]


class Data:
    """Arrays of the whole vocabulary, and the parts of them that this rank holds."""

    def __init__(self, dtype: str = "float64", classes: int = CLASSES, bounds: Any = None):
        rng = np.random.default_rng(3)
        self.logits = rng.normal(0, 3, (ROWS, classes)).astype(dtype)
        self.targets = rng.integers(0, classes, ROWS)
        self.soft = rng.random((ROWS, classes))
        self.arrays = {
            "class_weight": rng.uniform(0.5, 2, classes),
            "class_bias": rng.normal(size=classes),
            "sample_weight": rng.uniform(0.5, 2, ROWS),
        }
        if bounds is None:
            bounds = np.linspace(0, classes, COMM.size + 1).astype(int)
        self.at = slice(bounds[COMM.rank], bounds[COMM.rank + 1])

    def given(self, options: dict[str, Any], own: bool) -> dict[str, Any]:
        """Return options with their arrays: those of this rank, or the whole."""
        found = dict(options)
        for name in self.arrays.keys() & options:
            found[name] = self.arrays[name]
            if own and name != "sample_weight":
                found[name] = found[name][self.at]
        return found


def close(found: Any, expected: Any, dtype: str) -> None:
    """Compare: both sides round to the dtype, and sum fewer than a hundred terms in the compute dtype."""
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(expected, float), rtol=32 * eps, atol=32 * eps
    )


def check_options(dtype: str) -> None:
    data = Data(dtype)
    upstream = np.random.default_rng(1).normal(size=ROWS)
    for options in OPTIONS:
        targets = data.targets.copy()
        targets[1] = 7 if options.get("ignore_index", -100) == 7 else targets[1]
        targets[2] = -100 if "ignore_index" not in options else targets[2]
        kinds = [(targets, targets, {})]
        if "ignore_index" not in options:
            several = np.stack([targets, data.targets, (data.targets + 3) % CLASSES], axis=1)
            kinds.append((data.soft, data.soft[:, data.at], {}))
            kinds.append((several, several, {"target_probs": data.soft[:, :3]}))
        for whole, own, also in kinds:
            for reduction in ("mean", "sum", "none"):
                for returned in results(options | also):
                    more = {"reduction": reduction, **also, **returned}
                    more["grad_output"] = upstream if reduction == "none" else 0.5
                    expected = xent.cross_entropy(
                        data.logits, whole, **data.given(options, False), **more
                    )
                    found = xent.mpi.cross_entropy(
                        data.logits[:, data.at], own, comm=COMM, **data.given(options, True), **more
                    )
                    assert len(found) == len(expected)
                    for mine, all_of_it in zip(found, expected, strict=True):
                        of_classes = np.shape(all_of_it)[-1:] == (CLASSES,)
                        assert mine.dtype == all_of_it.dtype
                        single = "float32" if dtype == "float16" else dtype
                        near(
                            mine,
                            all_of_it[..., data.at] if of_classes else all_of_it,
                            str(mine.dtype) if of_classes else single,
                            1 if reduction == "mean" else ROWS,
                        )


def results(options: dict[str, Any]) -> list[dict[str, bool]]:
    """Return what may be asked for together."""
    found = {"return_grad": True, "return_lse": True, "return_temperature_grad": True}
    if "class_bias" in options:
        found["return_bias_grad"] = True
    if options.keys() & {"entropy_weight", "target_probs"}:
        return [found]
    return [found, {"return_hess": True}, {"return_grad": True}]


def check_functions(dtype: str) -> None:
    data = Data(dtype)
    own = data.logits[:, data.at]
    close(xent.mpi.logsumexp(own, comm=COMM), xent.logsumexp(data.logits, axis=1), dtype)
    expected = xent.softmax(data.logits, axis=1)[:, data.at]
    close(xent.mpi.softmax(own, comm=COMM), expected, dtype)
    turned = np.ascontiguousarray(own.T)
    close(xent.mpi.softmax(turned, comm=COMM, axis=0, out=turned), expected.T, dtype)


def check_linear(dtype: str, block: str) -> None:
    """Every option, with blocks of so many rows."""
    data = Data(dtype)
    rng = np.random.default_rng(5)
    n, features = 20, 8
    _linear.BLOCK_BYTES, _linear.BLOCK_ROWS = 1, int(block)
    hidden = rng.normal(size=(n, features)).astype(dtype)
    weight = rng.normal(size=(CLASSES, features)).astype(dtype)
    bias = rng.normal(size=CLASSES).astype(dtype)
    targets, soft = rng.integers(0, CLASSES, n), rng.random((n, CLASSES))
    data.arrays["sample_weight"] = rng.uniform(0.5, 2, n)
    data.arrays["sample_weight"][0] = 0
    targets[2] = -100
    upstream = rng.normal(size=n)
    for options in OPTIONS[:5]:
        for whole, own in ((targets, targets), (soft, soft[:, data.at])):
            for reduction in ("mean", "sum", "none"):
                more = {"reduction": reduction, "return_grad": True}
                more["return_temperature_grad"] = "softcap" not in options
                more["grad_output"] = upstream if reduction == "none" else 0.5
                expected = xent.linear_cross_entropy(
                    hidden, weight, whole, bias=bias, **data.given(options, False), **more
                )
                found = xent.mpi.linear_cross_entropy(
                    hidden,
                    weight[data.at],
                    own,
                    comm=COMM,
                    bias=bias[data.at],
                    **data.given(options, True),
                    **more,
                )
                terms = n if reduction != "mean" else 1
                near(found[0], expected[0], "float32" if dtype == "float16" else dtype, terms)
                of_hidden, *of_slice = zip(found[1], expected[1], strict=True)
                near(*of_hidden, dtype, 1)
                for mine, all_of_it in of_slice:
                    assert mine.dtype == all_of_it.dtype
                    near(mine, all_of_it[data.at], dtype, terms)
                # Made of gradients that are rounded to the dtype.
                for mine, all_of_it in zip(found[2:], expected[2:], strict=True):
                    near(mine, all_of_it, dtype, n * CLASSES)


def near(found: Any, expected: Any, dtype: str, terms: int) -> None:
    """Compare sums of so many terms of some size, in any order."""
    bound = 64 * terms * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(found, float), np.asarray(expected, float), rtol=bound, atol=bound
    )


def check_grid() -> None:
    """Rows and classes divided: the mean of all rows, the gradients of one's own part."""
    data = Data()
    down, across = COMM.rank // 2, COMM.rank % 2
    comm, row_comm = COMM.Split(down, across), COMM.Split(across, down)
    rows = slice(2 * down, 2 * down + 2) if down == 0 else slice(2, ROWS)
    at = slice(0, 20) if across == 0 else slice(20, CLASSES)
    weight, sample = data.arrays["class_weight"], data.arrays["sample_weight"]
    targets = data.targets.copy()
    targets[3] = -100
    hidden = np.random.default_rng(2).normal(size=(ROWS, 4))
    head = np.random.default_rng(2).normal(size=(CLASSES, 4))
    for reduction in ("mean", "sum"):
        options = {"reduction": reduction, "return_grad": True}
        loss, grad = xent.cross_entropy(
            data.logits, targets, class_weight=weight, sample_weight=sample, **options
        )
        mine = {"class_weight": weight[at], "sample_weight": sample[rows], "comm": comm}
        mine |= {"row_comm": row_comm, **options}
        found = xent.mpi.cross_entropy(data.logits[rows, at], targets[rows], **mine)
        close(found[0], loss, "float64")
        close(found[1], grad[rows, at], "float64")
        loss, grads = xent.linear_cross_entropy(
            hidden, head, targets, class_weight=weight, sample_weight=sample, **options
        )
        found = xent.mpi.linear_cross_entropy(hidden[rows], head[at], targets[rows], **mine)
        close(found[0], loss, "float64")
        close(found[1][0], grads[0][rows], "float64")
        close(row_comm.allreduce(found[1][1]), grads[1][at], "float64")
    for options in (
        {"z_loss": 0.1 * down},
        {"sample_weight": np.ones(2 + 2 * down) + (across > down)},
    ):
        said = raised(
            lambda options=options: xent.mpi.cross_entropy(
                data.logits[rows, at], targets[rows], comm=comm, row_comm=row_comm, **options
            )
        )
        assert said.startswith(f"ValueError: {next(iter(options))}: "), said
    # What one rank of the grid raises reaches those that share neither its rows nor its classes.
    targets[0] = CLASSES
    said = raised(
        lambda: xent.mpi.cross_entropy(
            data.logits[rows, at], targets[rows], comm=comm, row_comm=row_comm
        )
    )
    assert said.startswith("IndexError: targets[0] = 50")


def check_edges() -> None:
    """Masked classes, a masked slice, NaN, no rows, rows that are all ignored; bits of bfloat16."""
    data = Data()
    data.logits[0, data.targets[0]] = -np.inf
    data.logits[1, : CLASSES // 2] = -np.inf
    data.logits[2] = -np.inf
    data.logits[3, 7] = np.nan
    ignored = np.full(ROWS, -100)
    empty = np.zeros((0, CLASSES))
    for logits, targets in ((data.logits, data.targets), (data.logits, ignored), (empty, [])):
        targets = np.asarray(targets, int)
        own = logits[:, data.at]
        for reduction in ("mean", "none"):
            options = {"reduction": reduction, "return_grad": True}
            expected = xent.cross_entropy(logits, targets, **options)
            found = xent.mpi.cross_entropy(own, targets, comm=COMM, **options)
            close(found[0], expected[0], "float64")
            close(found[1], expected[1][:, data.at], "float64")
        close(xent.mpi.logsumexp(own, comm=COMM), xent.logsumexp(logits, axis=1), "float64")
        expected = xent.softmax(logits, axis=1)[:, data.at]
        close(xent.mpi.softmax(own, comm=COMM), expected, "float64")
    bits = (Data("float32").logits.view(np.uint32) >> 16).astype(np.uint16)
    options = {"dtype": "bfloat16", "return_grad": True}
    loss, grad = xent.cross_entropy(bits, data.targets, **options)
    found = xent.mpi.cross_entropy(bits[:, data.at], data.targets, comm=COMM, **options)
    close(found[0], loss, "float32")
    assert found[1].dtype == np.uint16
    # Neighbouring bits are neighbouring numbers: one rounding apart.
    assert (np.abs(found[1].astype(int) - grad[:, data.at]) <= 1).all()
    lse = xent.mpi.logsumexp(bits[:, data.at], comm=COMM, dtype="bfloat16")
    numbers = (bits.astype(np.uint32) << 16).view(np.float32)
    lse = (lse.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(lse, xent.logsumexp(numbers, axis=1), rtol=2.0**-8)


def check_layouts() -> None:
    """Slices of any size and in any order, empty ones too; the gradient over the logits."""
    n = COMM.size
    for bounds in ([0] * n + [CLASSES], [0] + [CLASSES] * n, [0] + [20] * (n - 1) + [CLASSES]):
        data = Data(bounds=bounds)
        expected = xent.cross_entropy(data.logits, data.targets, return_grad=True)
        logits = data.logits[:, data.at].copy()
        loss, grad = xent.mpi.cross_entropy(
            logits, data.targets, comm=COMM, return_grad=True, grad_out=logits
        )
        assert grad is logits
        close(loss, expected[0], "float64")
        close(grad, expected[1][:, data.at], "float64")
    data = Data()
    other = COMM.Split(0, -COMM.rank)
    loss, grad = xent.mpi.cross_entropy(
        data.logits[:, data.at],
        data.targets,
        comm=other,
        class_offset=data.at.start,
        return_grad=True,
    )
    expected = xent.cross_entropy(data.logits, data.targets, return_grad=True)
    close(loss, expected[0], "float64")
    close(grad, expected[1][:, data.at], "float64")


def raised(call: Callable[[], Any]) -> str:
    """Return what a call raised, which must be the same on every rank."""
    said = "nothing"
    try:
        call()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        noted = len(error.__notes__)
    first, *others = COMM.allgather(said)
    assert all(other == first for other in others), (first, others)
    assert said == "nothing" or noted == 1
    return said


def check_errors() -> None:
    """What goes wrong on the last rank alone is raised on all, and nothing is written."""
    data, last = Data(), COMM.rank == COMM.size - 1
    own, y = data.logits[:, data.at], data.targets
    bad, few, moved = y.copy(), y[:3], (y + 1) % CLASSES
    bad[4] = CLASSES
    out = np.full(own.shape, 7.0)
    several = COMM.size > 1
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("IndexError: targets[4] = 50", bad, {}),
        ("ValueError: targets: shape (3,)", few if last else y, {}),
        ("ValueError: temperature: ", y, {"temperature": -1.0 if last else 1.0}),
        ("TypeError: softcap: ", y, {"softcap": "x" if last else None}),
        ("ValueError: class_weight: ", y, {"class_weight": np.ones(own.shape[1] + last)}),
    ]
    if several:
        cases += [
            ("ValueError: targets: those of rank", moved if last else y, {}),
            ("ValueError: sample_weight: ", y, {"sample_weight": np.full(ROWS, 1.0 + last)}),
            ("ValueError: grad_output: those", y, {"grad_output": 1.0 + last}),
            ("ValueError: z_loss: rank", y, {"z_loss": 0.1 if last else 0.2}),
            ("ValueError: reduction: rank", y, {"reduction": "sum" if last else "mean"}),
            ("ValueError: class_offset: not given", y, {"class_offset": 0 if last else None}),
            ("ValueError: class_offset: the classes of", y, {"class_offset": data.at.start + last}),
        ]
    for says, targets, options in cases:
        said = raised(
            lambda targets=targets, options=options: xent.mpi.cross_entropy(
                own, targets, comm=COMM, return_grad=True, grad_out=out, **options
            )
        )
        assert said.startswith(says), said
        assert (out == 7).all()
    close(xent.mpi.cross_entropy(own, y, comm=COMM), xent.cross_entropy(data.logits, y), "float64")
    if several:
        # Of a communicator that is too small, slices do not begin at class 0, or a target is in none of them.
        alone, far = COMM.Split(COMM.rank), np.full(ROWS, CLASSES - 1)
        try:
            xent.mpi.cross_entropy(own, far, comm=alone, class_offset=data.at.start)
        except (IndexError, ValueError) as error:
            said = str(error)
        assert said.startswith(
            "class_offset: the classes of rank 0" if COMM.rank else "targets[0] = 49"
        )


def check_injected() -> None:
    """A failure inside any stage on one rank is raised on all of them."""
    data = Data()
    _linear.BLOCK_BYTES, _linear.BLOCK_ROWS = 1, 2
    hidden = np.ones((ROWS, 3))
    for name in ("reduce", "apply"):
        before = getattr(stages, name)

        def fails(*args: Any, name: str = name, **options: Any) -> Any:
            raise MemoryError(name)

        if COMM.rank == COMM.size - 1:
            setattr(stages, name, fails)
        options: dict[str, Any] = {"comm": COMM, "return_grad": True}
        of_logits = raised(
            lambda options=options: xent.mpi.cross_entropy(
                data.logits[:, data.at], data.targets, **options
            )
        )
        of_layer = raised(
            lambda options=options: xent.mpi.linear_cross_entropy(
                hidden, np.ones((data.at.stop - data.at.start, 3)), data.targets, **options
            )
        )
        setattr(stages, name, before)
        assert of_logits == of_layer == f"MemoryError: {name}"


CHECKS: dict[str, Callable[..., None]] = {
    "options": check_options,
    "functions": check_functions,
    "linear": check_linear,
    "grid": check_grid,
    "edges": check_edges,
    "layouts": check_layouts,
    "errors": check_errors,
    "injected": check_injected,
}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
