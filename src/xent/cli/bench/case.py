"""A case: which function of `xent`, on which input, and how many bytes it has to move.

It knows nothing of the libraries that run it (:mod:`xent.cli.bench.rivals`) or of clocks
(:mod:`xent.cli.bench.measure`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np

#: Results agree when ``|a - b| <= (RTOL + classes / 16 * u) * |b| + ATOL * max|b|``, the
#: maximum that of gradient and Hessian together. The second term of three is what the rivals'
#: sums over the classes, in as few as 16 lanes, may be off by; the third is for confident rows:
#: ``p - 1``, as the rivals compute it, cancels. In half types they round log p, which is down to
#: -32 here, before its exp: 32 u. And a gradient that is at most 1 / 512, as that of the mean
#: is here, ends at 2**-15 of it in float16. Logits that are sums over features, in 16 lanes, move
#: all that is made of them: a term more beside ATOL. Of regions the largest gradient p (g - sum p g)
#: is about g / 4, and rivals, where p is near 1, lose some u of g.
RTOL = {"float16": 2**-6, "bfloat16": 2**-4, "float32": 2e-5, "float64": 1e-12}
ATOL = {"float16": 2**-14, "bfloat16": 1e-6, "float32": 1e-6, "float64": 1e-14}

#: Functions whose result has the shape of their input.
ELEMENTWISE_RESULT = frozenset({"softmax", "log_softmax"})
#: Functions of the logits alone.
WITHOUT_TARGETS = frozenset({"entropy", "logsumexp", "softmax", "log_softmax"})
#: Functions whose second argument is logits, too.
OF_TWO_LOGITS = frozenset({"distillation_loss"})
#: The first argument of functions that do not take logits.
NORMALISED = {
    "nll_loss": "log_probs",
    "kl_div": "log_probs",
    "categorical_cross_entropy": "probs",
    "binary_cross_entropy": "sigmoid",
    "log_loss": "probs",
}
#: Functions of `xent.metrics`, whose first argument are the targets.
METRICS = frozenset({"log_loss"})
#: Functions whose every element has a target of its own, 0 or 1.
LABELLED = frozenset(
    {
        "asymmetric_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "sigmoid_focal_loss",
    }
)
#: Losses of single elements.
ELEMENTWISE = LABELLED | {"kl_div"}
#: Functions of which index targets need one element per row.
OF_THE_TARGET = frozenset({"nll_loss", "categorical_cross_entropy"})
#: Losses of regions, whose first axis is that of the samples; the classes' axis is 1 unless named.
OF_REGIONS = frozenset({"dice_loss", "tversky_loss"})
#: Losses of vectors' similarities, whose pairs are the diagonal.
CONTRASTIVE = frozenset({"info_nce", "sigmoid_contrastive_loss"})
#: Functions that return an objective of boosted trees: what is measured is a round of it.
OBJECTIVES = frozenset({"xgboost_softmax"})
#: Functions that return one number per row.
ROW_RESULT = frozenset({"logsumexp", "token_log_probs"})
#: Options that came late, which a library's methods know only where the library says so.
LATE_OPTIONS = frozenset({"divergence", "entropy_weight", "top_k"})


@dataclass(frozen=True)
class Case:
    """One call that is measured.

    Attributes
    ----------
    name : str
        Unique; what the command line and ``pytest -k`` select by.
    function : str
        The public function of `xent` that is measured, or of `xent.boosting` that returns what is.
    shape : tuple of int
        Shape of the logits, or of what the function takes in their place.
    dtype : str
        Dtype of the logits.
    gradient : bool
        Whether the gradient is requested as well.
    hessian : bool
        Whether the diagonal of the Hessian is requested as well.
    axis : int
        The class axis.
    layout : {"contiguous", "shifted", "fortran"}
        "shifted" logits are the view ``full[..., :-1, :]`` of a next-token model's output;
        "fortran" arrays have their rows side by side, as scikit-learn's boosting has them.
    soft : bool
        Class probabilities instead of class indices as targets.
    features : int
        Of the hidden states that, times a weight, or of the vectors that, times others, make the
        logits; 0: the logits are given.
    fresh : bool
        Results go to new arrays, not to buffers that the caller reuses.
    bridge : {"", "torch", "jax", "dask"}
        The library in whose programs `xent` is called, by its functions for that.
    options : mapping
        Further keyword arguments of the function.
    arrays : tuple of str
        Those of them that are arrays: "class_bias"; "target_probs", with several targets a row.
    tier : {"all", "usual", "quick"}
        Where it belongs without a name of its own: to ``--all`` alone, to the usual cases,
        which make up the README's table, or to those of ``--quick`` as well.
    workload : str
        The workload it is part of.
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
    features: int = 0
    fresh: bool = False
    bridge: Literal["", "torch", "jax", "dask"] = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    tier: str = "all"
    workload: str = ""

    @property
    def task(self) -> str:
        """The name of the method that a library needs: the function, or the function with its Hessian."""
        return f"{self.function}_hessian" if self.hessian else self.function

    @property
    def plain(self) -> Case | None:
        """The cross-entropy of the same logits that writes as often, but for a Hessian.

        None for losses of single elements, and where there are no logits.
        """
        if self.function in ELEMENTWISE or self.features:
            return None
        return replace(
            self,
            function="cross_entropy",
            gradient=self.writes,
            hessian=False,
            soft=False,
            options={},
            arrays=(),
        )

    @property
    def half(self) -> bool:
        """Whether the logits have a type in which nothing is computed."""
        return self.dtype in ("float16", "bfloat16")

    @property
    def stored_dtype(self) -> str:
        """Dtype of the array: NumPy has none for bfloat16, so its bits are handed over."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype

    @property
    def compute_dtype(self) -> str:
        """Dtype of losses: half types are computed in float32."""
        return "float32" if self.half else self.dtype

    @property
    def rtol(self) -> float:
        """Relative difference that results of two libraries may have."""
        return RTOL[self.dtype] + self.classes / 32 * float(np.finfo(self.compute_dtype).eps)

    @property
    def atol(self) -> float:
        """The same as a share of the largest number; that of products and of regions has a term more."""
        terms = self.features / 16 + 16 * (self.function in OF_REGIONS)
        return ATOL[self.dtype] + terms * float(np.finfo(self.compute_dtype).eps)

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
    def by_memory(self) -> bool:
        """Whether memory may be the limit; of products of matrices it is not."""
        return not self.features

    @property
    def bytes_moved(self) -> int:
        """Bytes that any implementation has to read and write, each once."""
        itemsize = np.dtype(self.stored_dtype).itemsize
        logits, rows = prod(self.shape) * itemsize, prod(self.row_shape)
        if self.features:
            logits = (rows + self.classes) * self.features * itemsize
        # One element is a cache line.
        total = rows * 64 if self.function in OF_THE_TARGET and not self.soft else logits
        if self.paired:
            total += logits
        elif self.function not in WITHOUT_TARGETS | CONTRASTIVE:
            total += rows * np.dtype(np.int64).itemsize
        if self.function in ROW_RESULT:
            total += rows * itemsize
        return total + logits * (self.writes + self.hessian)
