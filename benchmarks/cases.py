"""The named workloads: which function, on which input, and how many bytes it has to move.

A case knows nothing of the libraries that run it (:mod:`rivals`) or of clocks
(:mod:`measure`). Input is drawn from a fixed seed, so every run sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Literal

import ml_dtypes  # noqa: F401  gives NumPy the name "bfloat16"
import numpy as np

SEED = 20240229

#: Answers agree when ``|a - b| <= (RTOL + classes / 16 * u) * |b| + ATOL * max|b|``, the
#: maximum that of gradient and Hessian together. The second term of three is what the rivals'
#: sums over the classes, in as few as 16 lanes, may be off by; the third is for confident rows:
#: ``p - 1``, as the rivals compute it, cancels. In half types they round log p, which is down to
#: -32 here, before its exp: 32 u. And a gradient that is at most 1 / 512, as that of the mean
#: is here, ends at 2**-15 of it in float16.
RTOL = {"float16": 2**-6, "bfloat16": 2**-4, "float32": 2e-5, "float64": 1e-12}
ATOL = {"float16": 2**-14, "bfloat16": 1e-6, "float32": 1e-6, "float64": 1e-14}

#: Functions whose result has the shape of their input.
ELEMENTWISE_RESULT = frozenset({"softmax", "log_softmax"})
#: Functions of the logits alone.
WITHOUT_TARGETS = frozenset({"entropy", "logsumexp", "softmax", "log_softmax"})
#: Functions whose second argument is logits, too.
OF_TWO_LOGITS = frozenset({"distillation_loss"})
#: What functions take in the place of logits.
NORMALISED = {
    "nll_loss": "log_probs",
    "kl_div": "log_probs",
    "categorical_cross_entropy": "probs",
    "binary_cross_entropy": "sigmoid",
}
#: Functions whose every element has a target of its own, 0 or 1.
LABELLED = frozenset(
    {"binary_cross_entropy", "binary_cross_entropy_with_logits", "sigmoid_focal_loss"}
)
#: Functions that return one number per row.
ROW_RESULT = frozenset({"logsumexp", "token_log_probs"})


PAGE = 4096


def filled(value: np.ndarray | float, shape: tuple[int, ...], dtype: str, order: Any) -> np.ndarray:
    """An array that starts on a page.

    Where malloc puts one depends on what has run before, and stores that trail loads by a
    little, modulo a page, may take several times as long.
    """
    room = np.empty(prod(shape) * np.dtype(dtype).itemsize + PAGE, dtype=np.uint8)
    array = np.ndarray(shape, dtype, room, -room.ctypes.data % PAGE, order=order)
    array[...] = value
    return array


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
        Shape of the logits, or of what the function takes in their place.
    dtype : str
        Dtype of the logits.
    gradient : bool
        Whether the gradient is asked for as well.
    hessian : bool
        Whether the diagonal of the Hessian is asked for besides.
    axis : int
        The class axis.
    layout : {"contiguous", "shifted", "fortran"}
        "shifted" logits are the view ``full[..., :-1, :]`` of a next-token model's output;
        "fortran" arrays have their rows side by side, as scikit-learn's boosting has them.
    soft : bool
        Class probabilities instead of class indices as targets.
    fresh : bool
        Results go to new arrays, not to buffers that the caller reuses.
    options : mapping
        Further keyword arguments of the function.
    readme : bool
        Whether it is in the README's table.
    large : bool
        Whether it runs only when its full name is given.
    """

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    gradient: bool = False
    hessian: bool = False
    axis: int = -1
    layout: Literal["contiguous", "shifted", "fortran"] = "contiguous"
    soft: bool = False
    fresh: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    readme: bool = False
    large: bool = False

    @property
    def task(self) -> str:
        """What a library needs a method for: the function, or the function with its Hessian."""
        return f"{self.function}_hessian" if self.hessian else self.function

    @property
    def plain(self) -> Case | None:
        """The cross-entropy of the same logits that writes as often, but for a Hessian.

        None for losses of single elements.
        """
        if self.function in ELEMENTWISE:
            return None
        return replace(
            self,
            function="cross_entropy",
            gradient=self.writes,
            hessian=False,
            soft=False,
            options={},
        )

    @property
    def compute_dtype(self) -> str:
        """Dtype of losses: half types are computed in float32."""
        return self.dtype if self.dtype in ("float32", "float64") else "float32"

    @property
    def rtol(self) -> float:
        """Relative difference that answers may have."""
        return RTOL[self.dtype] + self.classes / 32 * float(np.finfo(self.compute_dtype).eps)

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
    def paired(self) -> bool:
        """Whether the second argument has the shape of the first."""
        return self.soft or self.function in OF_TWO_LOGITS

    @property
    def bytes_moved(self) -> int:
        """Bytes that any implementation has to read and write, each once."""
        itemsize = np.dtype(self.dtype).itemsize
        logits, rows = prod(self.shape) * itemsize, prod(self.row_shape)
        # Of log-probabilities only the targets' have to be read: a cache line per row.
        total = rows * 64 if self.function == "nll_loss" and not self.soft else logits
        if self.paired:
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
            logits=self._normalised(self._logits(rng)),
            targets=None if self.function in WITHOUT_TARGETS else self._targets(rng),
            out=None if self.fresh else self._out(),
            grad_out=self._buffer(self.shape) if self.gradient and not self.fresh else None,
            hess_out=self._buffer(self.shape) if self.hessian and not self.fresh else None,
        )

    def _logits(self, rng: np.random.Generator) -> np.ndarray:
        shape = list(self.shape)
        if self.layout == "shifted":
            shape[-2] += 1
        logits = rng.standard_normal(shape, dtype=np.dtype(self.compute_dtype))
        logits *= 3  # the spread of a trained model: a few classes hold most of the mass
        logits = filled(logits, logits.shape, self.dtype, self._order)
        return logits[..., :-1, :] if self.layout == "shifted" else logits

    def _normalised(self, logits: np.ndarray) -> np.ndarray:
        kind = NORMALISED.get(self.function)
        if kind == "sigmoid":
            logits[...] = 1 / (1 + np.exp(-logits))
        elif kind:
            logits -= logits.max(axis=self.axis, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=self.axis, keepdims=True))
        return np.exp(logits, out=logits) if kind == "probs" else logits

    def _targets(self, rng: np.random.Generator) -> np.ndarray:
        if self.function in OF_TWO_LOGITS:
            return self._logits(rng)
        if self.function in LABELLED:
            return filled(rng.random(self.shape) < 0.5, self.shape, self.compute_dtype, self._order)
        if not self.soft:
            return rng.integers(self.classes, size=self.row_shape)
        weights = rng.standard_exponential(self.shape, dtype=np.dtype(self.compute_dtype))
        weights /= weights.sum(axis=self.axis, keepdims=True)
        return filled(weights, self.shape, self.compute_dtype, self._order)

    def _out(self) -> np.ndarray | None:
        if self.function in ELEMENTWISE_RESULT:
            return self._buffer(self.shape)
        in_rows = self.function in ROW_RESULT
        return filled(np.nan, self.row_shape, self.compute_dtype, "C") if in_rows else None

    def _buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        return filled(np.nan, shape, self.dtype, self._order)

    @property
    def _order(self) -> Literal["C", "F"]:
        return "F" if self.layout == "fortran" else "C"


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


#: What may be asked of a loss besides, by the label of its cases.
VARIANTS: dict[str, dict[str, Any]] = {
    "soft": {"soft": True},
    "smooth": {"options": {"label_smoothing": 0.1}},
    "softcap": {"options": {"softcap": 30.0}},
    "temperature": {"options": {"temperature": 0.7}},
    "zloss": {"options": {"z_loss": 1e-4}},
    "focal": {"function": "focal_loss"},
    "poly1": {"function": "poly1_loss"},
}

#: Losses of single elements, by the label of their cases.
ELEMENTWISE = {
    "binary_cross_entropy_with_logits": "logits",
    "binary_cross_entropy": "binary",
    "sigmoid_focal_loss": "sigmoid_focal",
    "kl_div": "kl_div",
}

HESSIAN: dict[str, Any] = {"gradient": True, "hessian": True, "options": {"reduction": "sum"}}

CASES: tuple[Case, ...] = (
    # Language models: rows as wide as the vocabularies of GPT-2 and Llama 3.
    *loss_and_gradient((512, 50257), readme=True),
    *loss_and_gradient((256, 128256), readme=True),
    *loss_and_gradient((512, 50257), dtype="float16", label="f16"),
    *loss_and_gradient((512, 50257), dtype="bfloat16", label="bf16"),
    *loss_and_gradient((512, 50257), dtype="float64", label="f64"),
    *loss_and_gradient((4, 128, 50257), layout="shifted", label="shifted"),
    Case("token_log_probs-512x50257", "token_log_probs", (512, 50257)),
    Case("perplexity-512x50257", "perplexity", (512, 50257)),
    # ImageNet: a thousand classes; the small batch lives in the cache.
    *loss_and_gradient((8192, 1000), readme=True),
    *loss_and_gradient((256, 1000), readme=True),
    *loss_and_gradient((8192, 1000), dtype="float64", label="f64"),
    # Both, with everything that changes the loss.
    *(
        case
        for shape in ((512, 50257), (8192, 1000))
        for label, fields in VARIANTS.items()
        for case in loss_and_gradient(shape, label=label, **fields)
    ),
    # After a softmax of one's own, and between two softmaxes.
    *loss_and_gradient((512, 50257), function="nll_loss", label="nll"),
    *loss_and_gradient((512, 50257), function="nll_loss", soft=True, label="nll-soft"),
    *loss_and_gradient((512, 50257), function="categorical_cross_entropy", label="categorical"),
    *loss_and_gradient(
        (512, 50257), function="categorical_cross_entropy", soft=True, label="categorical-soft"
    ),
    *loss_and_gradient(
        (512, 50257), function="entropy", options={"reduction": "mean"}, label="entropy"
    ),
    *loss_and_gradient(
        (512, 50257),
        function="distillation_loss",
        options={"temperature": 2.0},
        label="distillation",
    ),
    # Tables, digits, pixels: few classes, many rows.
    *loss_and_gradient((1_000_000, 10), readme=True),
    *loss_and_gradient((1_000_000, 2)),
    *loss_and_gradient((200_000, 100)),
    *loss_and_gradient((8, 21, 256, 256), axis=1, label="axis1", readme=True),
    # One call at a time: what is measured is the call itself.
    *loss_and_gradient((32, 10), readme=True),
    *loss_and_gradient((1, 1000), readme=True),
    # One row that all threads share.
    *loss_and_gradient((1, 100_000_000), large=True),
    # Boosted trees: gradient and Hessian of every row, in each round.
    Case("hess-100000x10", "cross_entropy", (100_000, 10), **HESSIAN),
    Case("hess-100000x10-fortran", "cross_entropy", (100_000, 10), layout="fortran", **HESSIAN),
    Case("hess-20000x100", "cross_entropy", (20_000, 100), **HESSIAN),
    Case("hess-20000x100-fortran", "cross_entropy", (20_000, 100), layout="fortran", **HESSIAN),
    Case("hess-512x50257", "cross_entropy", (512, 50257), **HESSIAN),
    # Pixels, anchors, tags, clicks: every element is a decision of its own.
    *(
        case
        for function, label in ELEMENTWISE.items()
        for case in loss_and_gradient((50_000, 100), function=function, soft=True, label=label)
    ),
    Case(
        "hess-50000x100-logits",
        "binary_cross_entropy_with_logits",
        (50_000, 100),
        soft=True,
        **HESSIAN,
    ),
    # The special functions.
    Case("logsumexp-512x50257", "logsumexp", (512, 50257), readme=True),
    Case("softmax-512x50257", "softmax", (512, 50257), readme=True),
    Case("log_softmax-512x50257", "log_softmax", (512, 50257), readme=True),
    Case("softmax-512x50257-f64", "softmax", (512, 50257), dtype="float64"),
    Case("softmax-64x128x50-axis1-fresh", "softmax", (64, 128, 50), axis=1, fresh=True),
)


def select(names: Iterable[str] = ()) -> list[Case]:
    """Return the cases so named; other words are shell patterns or parts of names.

    All of them without names, but for the large ones, which only their full names select.

    Raises
    ------
    LookupError
        If a word selects nothing.
    """
    usual = {case.name for case in CASES if not case.large}
    chosen: set[str] = set()
    for word in names:
        hits = {case.name for case in CASES if case.name == word}
        hits = hits or {name for name in usual if fnmatchcase(name, word)}
        hits = hits or {name for name in usual if word in name}
        if not hits:
            known = "\n  ".join(case.name for case in CASES)
            raise LookupError(f"no case is called {word!r}; there are\n  {known}")
        chosen |= hits
    return [case for case in CASES if case.name in (chosen or usual)]
