"""Keywords that a function does not have: the error says what xent calls the same thing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])

# What other libraries call it: xent's names, the first that the function has.
NAMES = {
    "weight": ("class_weight", "sample_weight"),
    "weights": ("class_weight", "sample_weight"),
    "class_weights": ("class_weight",),
    "sample_weights": ("sample_weight",),
    "where": ("sample_weight",),
    "mask": ("sample_weight",),
    "alpha": ("class_weight",),
    "class_weight": ("pos_weight",),
    "scale_pos_weight": ("pos_weight",),
    "num_classes": ("num_class",),
    "dim": ("axis",),
    "keepdim": ("keepdims",),
    "smoothing": ("label_smoothing",),
    "focal_gamma": ("gamma",),
    "focusing": ("gamma",),
    "gamma_": ("gamma",),
    "gamma": ("gamma_neg",),
    "margin": ("clip",),
    "poly_epsilon": ("epsilon",),
    "eps": ("epsilon",),
    "ignore_label": ("ignore_index",),
    "lse_square_scale": ("z_loss",),
    "clamp": ("eps",),
    "T": ("temperature",),
}
# What needs more words than a name, for functions that have the first parameter of the two.
CURES = {
    "from_logits": (
        "targets",
        "which function it is says that: the ones named with_logits, and cross_entropy, take logits",
    ),
    "size_average": ("reduction", "give reduction='mean' or reduction='sum'"),
    "size_averaged": ("reduction", "give reduction='mean' or reduction='sum'"),
    "reduce": ("reduction", "give reduction='none', 'sum' or 'mean'"),
    "reduction_override": ("reduction", "give reduction='none', 'sum' or 'mean'"),
}


def named(function: F) -> F:
    """Hide the parameter that collects unknown keywords from the signature that `help` and editors show."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def options() -> set[str]:
    """Return the keywords of all functions: what one of them does not have is not another one misspelt."""
    import xent

    functions = (getattr(xent, name) for name in xent.__all__)
    return {p for f in functions if inspect.isfunction(f) for p in inspect.signature(f).parameters}


def unknown_keyword(function: Callable[..., object], unknown: Iterable[str]) -> TypeError:
    """Return the exception for a keyword that the function does not have."""
    from difflib import get_close_matches

    name = next(iter(unknown))
    ours = [*inspect.signature(function).parameters]
    same = [p for p in NAMES.get(name, ()) if p in ours]
    if not same and name not in options():
        same = get_close_matches(name, ours, 1, 0.75)
    parameter, cure = CURES.get(name, ("", ""))
    if parameter not in ours:
        cure = f"xent calls it {same[0]}" if same else f"it has {', '.join(ours)}"
    return TypeError(f"{function.__name__}() has no keyword {name!r}; {cure}")
