"""The cases, by workload, and how names on the command line select them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from xent.cli.bench.case import Case

#: Each includes those before it.
TIERS = ("quick", "usual", "all")


@dataclass(frozen=True)
class Workload:
    """Cases that belong together.

    Those on request run only when the workload is named, or one of its cases, or with ``--all``;
    they are the points of curves.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    on_request: bool


def workload(name: str, title: str, *cases: Case, on_request: bool = False) -> Workload:
    """Put cases into a workload."""
    return Workload(name, title, tuple(replace(c, workload=name) for c in cases), on_request)


def loss_and_gradient(
    shape: tuple[int, ...],
    label: str = "",
    *,
    function: str = "cross_entropy",
    tiers: tuple[str, str] = ("all", "all"),
    **fields: Any,
) -> list[Case]:
    """Two cases of a loss function: the loss alone, and the loss with its gradient."""
    size = "x".join(map(str, shape))
    return [
        Case(
            "-".join(filter(None, (task, size, label))),
            function,
            shape,
            gradient=task == "grad",
            tier=tier,
            **fields,
        )
        for task, tier in zip(("loss", "grad"), tiers, strict=True)
    ]


def of_equal_size(*classes: int, size: int) -> list[Case]:
    """Both cases for each number of classes, all with as many logits, or nearly."""
    return [case for c in classes for case in loss_and_gradient((round(size / c), c))]


#: Whole vectors, and neighbours whose rows begin anywhere in a cache line.
MIDDLE = (60, 64, 65, 96, 100, 128, 130, 192, 200, 256, 257, 384, 512, 513, 640, 768, 1000, 1024)

USUAL: tuple[str, str] = ("usual", "usual")
QUICK_GRADIENT: tuple[str, str] = ("usual", "quick")
QUICK: tuple[str, str] = ("quick", "quick")

#: Options of a loss, by the label of its cases.
VARIANTS: dict[str, dict[str, Any]] = {
    "soft": {"soft": True},
    "smooth": {"options": {"label_smoothing": 0.1}},
    "softcap": {"options": {"softcap": 30.0}},
    "temperature": {"options": {"temperature": 0.7}},
    "zloss": {"options": {"z_loss": 1e-4}},
    "bonus": {"options": {"entropy_weight": 0.01}},
    "bias": {"arrays": ("class_bias",)},
    "sparse": {"arrays": ("target_probs",)},
    "focal": {"function": "focal_loss"},
    "poly1": {"function": "poly1_loss"},
}

HESSIAN: dict[str, Any] = {"gradient": True, "hessian": True, "options": {"reduction": "sum"}}
#: Options of a small call.
SMALL: dict[str, dict[str, Any]] = {
    label: {"function": "cross_entropy"} | VARIANTS[label]
    for label in ("soft", "smooth", "softcap", "temperature", "zloss")
}

#: Options of the contrastive losses, by the label of their cases.
PAIRS: dict[str, dict[str, Any]] = {
    "info_nce": {"function": "info_nce", "options": {"temperature": 0.5}},
    "clip": {"function": "info_nce", "options": {"temperature": 0.5, "symmetric": True}},
    "siglip": {
        "function": "sigmoid_contrastive_loss",
        "options": {"logit_scale": 2.0, "logit_bias": -3.0},
    },
}

WORKLOADS: tuple[Workload, ...] = (
    workload(
        "llm",
        "Language models: vocabularies of GPT-2 and Llama 3",
        *loss_and_gradient((512, 50257), tiers=QUICK),
        Case(
            "grad-512x50257-fresh",
            "cross_entropy",
            (512, 50257),
            gradient=True,
            fresh=True,
            tier="usual",
        ),
        *loss_and_gradient((256, 128256), tiers=USUAL),
        *loss_and_gradient((512, 50257), "bf16", dtype="bfloat16", tiers=USUAL),
        *loss_and_gradient((512, 50257), "f16", dtype="float16"),
        *loss_and_gradient((512, 50257), "f64", dtype="float64"),
        *loss_and_gradient((4, 128, 50257), "shifted", layout="shifted"),
        Case("token_log_probs-512x50257", "token_log_probs", (512, 50257)),
        Case("perplexity-512x50257", "perplexity", (512, 50257)),
        Case("score-512x50257", "score", (512, 50257)),
        Case("score-512x50257-top5", "score", (512, 50257), options={"top_k": 5}),
        *(
            case
            for label, fields in VARIANTS.items()
            for case in loss_and_gradient((512, 50257), label, **fields)
        ),
        # After a softmax of one's own, and between two softmaxes.
        *loss_and_gradient((512, 50257), "nll", function="nll_loss"),
        *loss_and_gradient((512, 50257), "nll-soft", function="nll_loss", soft=True),
        *loss_and_gradient((512, 50257), "categorical", function="categorical_cross_entropy"),
        *loss_and_gradient(
            (512, 50257), "categorical-soft", function="categorical_cross_entropy", soft=True
        ),
        *loss_and_gradient(
            (512, 50257), "entropy", function="entropy", options={"reduction": "mean"}
        ),
        *loss_and_gradient(
            (512, 50257),
            "distillation",
            function="distillation_loss",
            options={"temperature": 2.0},
        ),
        *(
            case
            for divergence in ("reverse_kl", "jsd")
            for case in loss_and_gradient(
                (512, 50257),
                divergence,
                function="distillation_loss",
                options={"temperature": 2.0, "divergence": divergence},
            )
        ),
        # The last layer and its loss in one call.
        *loss_and_gradient((1024, 32000), "linear", function="linear_cross_entropy", features=512),
    ),
    workload(
        "imagenet",
        "ImageNet: a thousand classes; the small batch lives in the cache",
        *loss_and_gradient((8192, 1000), tiers=QUICK_GRADIENT),
        *loss_and_gradient((256, 1000), tiers=QUICK),
        *loss_and_gradient((8192, 1000), "bf16", dtype="bfloat16"),
        *loss_and_gradient((8192, 1000), "f64", dtype="float64"),
        *(
            case
            for label, fields in VARIANTS.items()
            for case in loss_and_gradient((8192, 1000), label, **fields)
        ),
        Case("log_loss-100000x1000", "log_loss", (100_000, 1000)),
    ),
    workload(
        "cifar",
        "CIFAR: ten or a hundred classes, many rows",
        *loss_and_gradient((1_000_000, 10), tiers=QUICK_GRADIENT),
        Case(
            "grad-1000000x10-fresh",
            "cross_entropy",
            (1_000_000, 10),
            gradient=True,
            fresh=True,
            tier="usual",
        ),
        *loss_and_gradient((50_000, 10)),
        *loss_and_gradient((1_000_000, 10), "f64", dtype="float64"),
        *loss_and_gradient((200_000, 100)),
        Case("log_loss-1000000x10", "log_loss", (1_000_000, 10)),
        *loss_and_gradient(
            (100_000, 10),
            "jsd",
            function="distillation_loss",
            options={"temperature": 2.0, "divergence": "jsd"},
        ),
    ),
    workload(
        "segmentation",
        "Segmentation: a class for each pixel, before or after the pixels in memory",
        *loss_and_gradient((8, 21, 256, 256), "axis1", axis=1, tiers=QUICK_GRADIENT),
        # In half types, other libraries' gradients of confident rows have lost too much to compare.
        Case(
            "loss-8x21x256x256-axis1-bf16",
            "cross_entropy",
            (8, 21, 256, 256),
            axis=1,
            dtype="bfloat16",
        ),
        *loss_and_gradient((8, 256, 256, 21)),
        # Overlaps of regions, of which there is one value for each image and class.
        *loss_and_gradient((4, 21, 256, 256), "dice", function="dice_loss", axis=1),
        *loss_and_gradient((4, 256, 256, 21), "dice", function="dice_loss"),
        *loss_and_gradient(
            (4, 21, 256, 256),
            "tversky",
            function="tversky_loss",
            axis=1,
            options={"alpha": 0.3, "beta": 0.7},
        ),
    ),
    workload(
        "ctr",
        "Clicks, tags, anchors: every element is a decision of its own",
        *loss_and_gradient(
            (50_000, 100),
            "logits",
            function="binary_cross_entropy_with_logits",
            soft=True,
            tiers=QUICK_GRADIENT,
        ),
        Case(
            "grad-50000x100-logits-fresh",
            "binary_cross_entropy_with_logits",
            (50_000, 100),
            soft=True,
            gradient=True,
            fresh=True,
            tier="usual",
        ),
        *loss_and_gradient(
            (50_000, 100), "binary", function="binary_cross_entropy", soft=True, tiers=USUAL
        ),
        *loss_and_gradient(
            (50_000, 100), "sigmoid_focal", function="sigmoid_focal_loss", soft=True
        ),
        *loss_and_gradient((50_000, 100), "asymmetric", function="asymmetric_loss", soft=True),
        *loss_and_gradient((50_000, 100), "kl_div", function="kl_div", soft=True),
        *loss_and_gradient((1_000_000, 2)),
    ),
    workload(
        "contrastive",
        "Contrastive learning: all similarities of 8192 pairs of 256 features",
        *(
            case
            for label, fields in PAIRS.items()
            for case in loss_and_gradient((8192, 8192), label, features=256, **fields)
        ),
        on_request=True,
    ),
    workload(
        "boosting",
        "Boosted trees: gradient and Hessian of every row, in each round",
        Case("hess-100000x10", "cross_entropy", (100_000, 10), tier="usual", **HESSIAN),
        Case(
            "hess-100000x10-fortran",
            "cross_entropy",
            (100_000, 10),
            layout="fortran",
            tier="quick",
            **HESSIAN,
        ),
        Case(
            "objective-1000000x10",
            "xgboost_softmax",
            (1_000_000, 10),
            gradient=True,
            hessian=True,
            fresh=True,
            options={"hessian": "upper_bound"},
        ),
        Case("hess-20000x100", "cross_entropy", (20_000, 100), **HESSIAN),
        Case("hess-20000x100-fortran", "cross_entropy", (20_000, 100), layout="fortran", **HESSIAN),
        Case("hess-512x50257", "cross_entropy", (512, 50257), **HESSIAN),
        Case(
            "hess-50000x100-logits",
            "binary_cross_entropy_with_logits",
            (50_000, 100),
            soft=True,
            tier="usual",
            **HESSIAN,
        ),
    ),
    workload(
        "token",
        "One token at a time, small batches: the call itself counts",
        *loss_and_gradient((1, 1000), tiers=USUAL),
        *loss_and_gradient((32, 10), tiers=QUICK),
        *loss_and_gradient((1, 50257), tiers=USUAL),
        Case("token_log_probs-1x50257", "token_log_probs", (1, 50257)),
        Case("logsumexp-1x50257", "logsumexp", (1, 50257)),
        Case("softmax-1x50257", "softmax", (1, 50257)),
        *loss_and_gradient((1, 128256)),
        *loss_and_gradient((1, 128256), "bf16", dtype="bfloat16"),
    ),
    workload(
        "small",
        "Calls so small that what surrounds the arithmetic counts",
        *(
            Case(f"small-{function}", function, (32, 10))
            for function in (
                *("logsumexp", "softmax", "log_softmax", "nll_loss", "poly1_loss"),
                *("categorical_cross_entropy", "focal_loss", "token_log_probs", "perplexity"),
            )
        ),
        *(
            Case(f"small-{function}", function, (100, 10), soft=True)
            for function in (
                *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
                *("sigmoid_focal_loss", "asymmetric_loss", "kl_div"),
            )
        ),
        Case(
            "small-distillation_loss", "distillation_loss", (32, 10), options={"temperature": 2.0}
        ),
        Case("small-entropy", "entropy", (32, 10), options={"reduction": "mean"}),
        Case("small-linear_cross_entropy", "linear_cross_entropy", (32, 10), features=16),
        *(Case(f"small-{label}", shape=(32, 32), features=16, **PAIRS[label]) for label in PAIRS),
        *(Case(f"small-{label}", shape=(32, 10), **given) for label, given in SMALL.items()),
        on_request=True,
    ),
    workload(
        "special",
        "The special functions",
        Case("logsumexp-512x50257", "logsumexp", (512, 50257), tier="usual"),
        Case("softmax-512x50257", "softmax", (512, 50257), tier="quick"),
        Case("softmax-512x50257-fresh", "softmax", (512, 50257), fresh=True, tier="usual"),
        Case("log_softmax-512x50257", "log_softmax", (512, 50257), tier="usual"),
        Case("softmax-512x50257-f64", "softmax", (512, 50257), dtype="float64"),
        Case("softmax-64x128x50-axis1-fresh", "softmax", (64, 128, 50), axis=1, fresh=True),
    ),
    workload(
        "narrow",
        "Narrow rows: 1 to 64 classes, 16 million logits",
        *of_equal_size(1, 2, 3, 5, 8, 10, 16, 20, 32, 50, 64, size=2**24),
        on_request=True,
    ),
    workload(
        "middle",
        "Middle rows: 60 to 1024 classes, 8 million logits",
        *of_equal_size(*MIDDLE, size=2**23),
        on_request=True,
    ),
    workload(
        "sweep",
        "Eight rows, from a thousand classes to a million",
        *(case for e in range(3, 7) for case in loss_and_gradient((8, 10**e))),
        on_request=True,
    ),
    workload(
        "huge",
        "One row of a hundred million classes, which all threads share",
        *loss_and_gradient((1, 100_000_000)),
        on_request=True,
    ),
)

if find_spec("torch"):
    WORKLOADS += (
        workload(
            "torch",
            "In PyTorch: xent.torch and torch.nn.functional, forward and backward",
            *loss_and_gradient((512, 50257), "in-torch", bridge="torch"),
            *loss_and_gradient((512, 50257), "in-torch-bf16", bridge="torch", dtype="bfloat16"),
            *loss_and_gradient((8192, 1000), "in-torch", bridge="torch"),
            *loss_and_gradient((1_000_000, 10), "in-torch", bridge="torch"),
            *loss_and_gradient((32, 10), "in-torch", bridge="torch"),
            *loss_and_gradient(
                (2048, 32768),
                "linear-in-torch",
                bridge="torch",
                function="linear_cross_entropy",
                features=1024,
            ),
            on_request=True,
        ),
    )
if find_spec("jax"):
    WORKLOADS += (
        workload(
            "jax",
            "In JAX: xent.jax and optax's formulas, both under jit",
            *loss_and_gradient((512, 50257), "in-jax", bridge="jax"),
            *loss_and_gradient((512, 50257), "in-jax-bf16", bridge="jax", dtype="bfloat16"),
            *loss_and_gradient((8192, 1000), "in-jax", bridge="jax"),
            *loss_and_gradient((32, 10), "in-jax", bridge="jax"),
            on_request=True,
        ),
    )
if find_spec("dask"):
    WORKLOADS += (
        workload(
            "dask",
            "In Dask: xent.dask and its reductions, of four chunks of classes and as many of rows",
            *loss_and_gradient((512, 50257), "in-dask", bridge="dask"),
            *loss_and_gradient((8192, 1000), "in-dask", bridge="dask"),
            on_request=True,
        ),
    )

CASES: tuple[Case, ...] = tuple(case for group in WORKLOADS for case in group.cases)
TITLES = {group.name: group.title for group in WORKLOADS}
ON_REQUEST = {group.name for group in WORKLOADS if group.on_request}


def select(words: Iterable[str] = (), tier: str = "usual") -> list[Case]:
    """Return the cases that some words mean, in the order of `CASES`.

    A word is a case's name, a workload, a shell pattern, or a part of names; cases on request
    match the last two only where no other does. A workload stands for its cases of the tier,
    and so does no word at all for all workloads.

    Raises
    ------
    LookupError
        If a word selects nothing.
    """
    wanted = TIERS[: TIERS.index(tier) + 1]
    in_tier = [
        case
        for case in CASES
        if case.tier in wanted and (tier == "all" or case.workload not in ON_REQUEST)
    ]
    chosen: set[str] = set()
    for word in words:
        hits = _meant(word, in_tier)
        if not hits:
            raise LookupError(f"no case or workload is called {word!r}; --list shows them all")
        chosen |= {case.name for case in hits}
    return [case for case in CASES if case.name in chosen] if chosen else in_tier


def _meant(word: str, in_tier: list[Case]) -> list[Case]:
    usual = [case for case in CASES if case.workload not in ON_REQUEST]
    attempts = (
        [case for case in CASES if case.name == word],
        [case for case in (CASES if word in ON_REQUEST else in_tier) if case.workload == word],
        *(
            hits
            for cases in (usual, CASES)
            for hits in (
                [case for case in cases if fnmatchcase(case.name, word)],
                [case for case in cases if word in case.name],
            )
        ),
    )
    return next(filter(None, attempts), [])
