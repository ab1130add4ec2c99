"""The named workloads: which function, on which input, and how many bytes it has to move.

A case knows nothing of the libraries that run it (:mod:`rivals`) or of clocks
(:mod:`measure`). Input is drawn from a fixed seed, so every run sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Literal

import numpy as np

SEED = 20240229

#: Answers agree when ``|a - b| <= RTOL * |b| + ATOL * max|b|``. The second term is for the
#: gradient of confident rows: ``p - 1``, as the rivals compute it, cancels.
RTOL = {"float32": 2e-5, "float64": 1e-12}
ATOL = {"float32": 1e-6, "float64": 1e-14}

#: Functions whose result has the shape of their input.
ELEMENTWISE_RESULT = frozenset({"softmax", "log_softmax"})
#: Functions of the logits alone.
WITHOUT_TARGETS = frozenset({"logsumexp", "softmax", "log_softmax"})
#: Functions whose elements each have a target of their own.
ELEMENTWISE = frozenset(
    {
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "sigmoid_focal_loss",
        "kl_div",
    }
)
#: Functions that return one number per row.
ROW_RESULT = frozenset({"logsumexp", "token_log_probs"})


@dataclass(frozen=True)
class Data:
    """The arrays of one case; `out`, `grad_out` and `hess_out` are buffers to reuse, or None."""

    logits: np.ndarray
    targets: np.ndarray | None = None
    out: np.ndarray | None = None
    grad_out: np.ndarray | None = None
    hess_out: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """One workload.

    Attributes
    ----------
    name : str
        Unique; what ``compare.py`` and ``pytest -k`` select by.
    function : str
        The public function of `xent` that is measured.
    shape : tuple of int
        Shape of the logits.
    dtype : str
        Dtype of the logits.
    gradient : bool
        Whether the gradient is asked for as well.
    hessian : bool
        Whether the diagonal of the Hessian is asked for besides.
    axis : int
        The class axis.
    layout : {"contiguous", "shifted"}
        "shifted" logits are the view ``full[..., :-1, :]`` of a next-token model's output.
    soft : bool
        Class probabilities instead of class indices as targets.
    fresh : bool
        Results go to new arrays, not to buffers that the caller reuses.
    options : mapping
        Further keyword arguments of the function.
    """

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    gradient: bool = False
    hessian: bool = False
    axis: int = -1
    layout: Literal["contiguous", "shifted"] = "contiguous"
    soft: bool = False
    fresh: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What a library needs a method for: the function, or the function with its Hessian."""
        return f"{self.function}_hessian" if self.hessian else self.function

    @property
    def classes(self) -> int:
        """Length of the class axis."""
        return self.shape[self.axis]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of the logits without the class axis."""
        axis = self.axis % len(self.shape)
        return self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def writes(self) -> bool:
        """Whether as much is written as is read: a copy, not a read, is the yardstick."""
        return self.gradient or self.function in ELEMENTWISE_RESULT

    @property
    def bytes_moved(self) -> int:
        """Bytes that any implementation has to read and write, each once."""
        itemsize = np.dtype(self.dtype).itemsize
        logits, rows = prod(self.shape) * itemsize, prod(self.row_shape)
        total = logits
        if self.soft or self.function in ELEMENTWISE:
            total += logits
        elif self.function not in WITHOUT_TARGETS:
            total += rows * np.dtype(np.int64).itemsize
        if self.function in ROW_RESULT:
            total += rows * itemsize
        return total + logits * (self.writes + self.hessian)

    def data(self) -> Data:
        """Draw the input and allocate the buffers, touched so that no page fault is timed."""
        rng = np.random.default_rng(SEED)
        return Data(
            logits=self._logits(rng),
            targets=None if self.function in WITHOUT_TARGETS else self._targets(rng),
            out=None if self.fresh else self._out(),
            grad_out=self._buffer(self.shape) if self.gradient and not self.fresh else None,
            hess_out=self._buffer(self.shape) if self.hessian and not self.fresh else None,
        )

    def _logits(self, rng: np.random.Generator) -> np.ndarray:
        shape = list(self.shape)
        if self.layout == "shifted":
            shape[-2] += 1
        logits = rng.standard_normal(shape, dtype=np.dtype(self.dtype))
        logits *= 3  # the spread of a trained model: a few classes hold most of the mass
        if self.function == "binary_cross_entropy":
            logits = 1 / (1 + np.exp(-logits))
        if self.function == "kl_div":
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits[..., :-1, :] if self.layout == "shifted" else logits

    def _targets(self, rng: np.random.Generator) -> np.ndarray:
        if self.function in ELEMENTWISE and not self.soft:
            return (rng.random(self.shape) < 0.5).astype(self.dtype)
        if not self.soft:
            return rng.integers(self.classes, size=self.row_shape)
        weights = rng.standard_exponential(self.shape, dtype=np.dtype(self.dtype))
        return weights / weights.sum(axis=self.axis, keepdims=True)

    def _out(self) -> np.ndarray | None:
        if self.function in ELEMENTWISE_RESULT:
            return self._buffer(self.shape)
        return self._buffer(self.row_shape) if self.function in ROW_RESULT else None

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, np.nan, dtype=self.dtype)


def loss_and_gradient(
    shape: tuple[int, ...], *, label: str = "", function: str = "cross_entropy", **fields: Any
) -> list[Case]:
    """Two cases of a loss function: the loss alone, and the loss with its gradient."""
    size = "x".join(map(str, shape))
    return [
        Case(
            "-".join(filter(None, (task, size, label))),
            function,
            shape,
            gradient=task == "grad",
            **fields,
        )
        for task in ("loss", "grad")
    ]


CASES: tuple[Case, ...] = (
    # Language models: rows as wide as the vocabularies of GPT-2 and Llama 3.
    *loss_and_gradient((512, 50257)),
    *loss_and_gradient((256, 128256)),
    *loss_and_gradient((512, 50257), dtype="float64", label="f64"),
    *loss_and_gradient((4, 128, 50257), layout="shifted", label="shifted"),
    *loss_and_gradient((512, 50257), function="focal_loss", label="focal"),
    *loss_and_gradient((512, 50257), function="poly1_loss", label="poly1"),
    Case("token_log_probs-512x50257", "token_log_probs", (512, 50257)),
    Case("perplexity-512x50257", "perplexity", (512, 50257)),
    # ImageNet: a thousand classes; the small batch lives in the cache.
    *loss_and_gradient((8192, 1000)),
    *loss_and_gradient((256, 1000)),
    *loss_and_gradient((8192, 1000), soft=True, label="soft"),
    *loss_and_gradient((8192, 1000), options={"label_smoothing": 0.1}, label="smooth"),
    *loss_and_gradient((8192, 1000), dtype="float64", label="f64"),
    # Tables, digits, pixels: few classes, many rows.
    *loss_and_gradient((1_000_000, 10)),
    *loss_and_gradient((8, 21, 256, 256), axis=1, label="axis1"),
    # One call at a time: what is measured is the call itself.
    *loss_and_gradient((32, 10)),
    *loss_and_gradient((1, 1000)),
    # Boosted trees: gradient and Hessian of each round.
    Case("hess-1000000x10", "cross_entropy", (1_000_000, 10), gradient=True, hessian=True),
    Case("hess-8192x1000", "cross_entropy", (8192, 1000), gradient=True, hessian=True),
    # Labels of pixels, anchors, clicks: every element is a decision of its own.
    *loss_and_gradient((5_000_000,), function="binary_cross_entropy_with_logits", label="logits"),
    *loss_and_gradient((5_000_000,), function="binary_cross_entropy", label="binary"),
    *loss_and_gradient((5_000_000,), function="sigmoid_focal_loss", label="sigmoid_focal"),
    *loss_and_gradient((50_000, 100), function="kl_div", soft=True, label="kl_div"),
    Case(
        "hess-5000000-logits",
        "binary_cross_entropy_with_logits",
        (5_000_000,),
        gradient=True,
        hessian=True,
    ),
    # The special functions.
    Case("logsumexp-512x50257", "logsumexp", (512, 50257)),
    Case("softmax-512x50257", "softmax", (512, 50257)),
    Case("log_softmax-512x50257", "log_softmax", (512, 50257)),
    Case("softmax-512x50257-f64", "softmax", (512, 50257), dtype="float64"),
    Case("softmax-64x128x50-axis1-fresh", "softmax", (64, 128, 50), axis=1, fresh=True),
)


def select(names: Iterable[str] = ()) -> list[Case]:
    """Return the cases so named; other words are shell patterns or parts of names.

    Raises
    ------
    LookupError
        If a word selects nothing.
    """
    chosen: set[str] = set()
    for word in names:
        hits = {case.name for case in CASES if case.name == word}
        hits = hits or {case.name for case in CASES if fnmatchcase(case.name, word)}
        hits = hits or {case.name for case in CASES if word in case.name}
        if not hits:
            known = "\n  ".join(case.name for case in CASES)
            raise LookupError(f"no case is called {word!r}; there are\n  {known}")
        chosen |= hits
    return [case for case in CASES if case.name in chosen] if chosen else list(CASES)
