"""Write the types of xent's public functions, `__init__.pyi`, from their signatures:

    python cmake/stubs.py src/xent src/xent/__init__.pyi

A signature says which parameters a function has. How its results follow from them is what the lists below say: of each list
a function has the alternatives whose parameters it has, and of their combinations each is one overload.
"""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path
from typing import NamedTuple


class Alternative(NamedTuple):
    """The types that tell one form of a call from the others, and the results it adds."""

    results: tuple[str, ...]
    types: dict[str, str]


def when(*results: str, **types: str) -> Alternative:
    return Alternative(results, types)


NO, YES = "Literal[False]", "Literal[True]"
NOTHING = "Nothing[Never]"
# The values of `reduction` that give one number, whichever the function has.
REDUCED = "REDUCED"

LOSS = (when("Scalar", reduction=REDUCED, out="None"), when("Array", reduction='Literal["none"]'))
DERIVATIVES = (
    when(return_grad=NO, return_hess=NO),
    when("Array", return_grad=YES, return_hess=NO),
    when("Array", "Array", return_hess=YES),
)
LSE = (when(return_lse=NO), when("Array", return_lse=YES))
# With one of these the results are those of the last overload, any.
OTHERS = (when(return_temperature_grad=NO, return_bias_grad=NO, return_teacher_grad=NO),)
FORMS = (LOSS, DERIVATIVES, LSE, OTHERS)

OTHER_FORMS = {
    "linear_cross_entropy": (
        LOSS,
        (
            when(return_grad=NO),
            when("tuple[Array, Array]", return_grad=YES, bias="None"),
            when("tuple[Array, Array, Array]", return_grad=YES, bias="ArrayLike"),
        ),
    ),
    "info_nce": (
        LOSS,
        (when(return_grad=NO), when("tuple[Array, Array]", return_grad=YES)),
        (when(return_temperature_grad=NO), when("Scalar", return_temperature_grad=YES)),
    ),
    "sigmoid_contrastive_loss": (
        LOSS,
        (
            when(return_grad=NO),
            when("tuple[Array, Array, Scalar, Scalar]", return_grad=YES),
        ),
    ),
    "perplexity": (
        (when("Scalar", reduction=REDUCED), when("Array", reduction='Literal["none"]')),
    ),
    "logsumexp": (
        (
            when("Scalar", axis="None", keepdims=NO, return_sign=NO, out="None"),
            when("Scalar", "Scalar", axis="None", keepdims=NO, return_sign=YES, out="None"),
            when("Array", return_sign=NO),
            when("Array", "Array", return_sign=YES),
        ),
    ),
}

HEAD = '''"""Types of xent's public functions: one overload for each form of a call. Written by cmake/stubs.py."""

# What explains wrong calls overlaps with all others, and comes after them.
# mypy: disable-error-code=overload-overlap

from typing import Never, overload

from xent._typing import Any, Array, ArrayLike, Literal, NDArray, Nothing, Scalar
{imports}

__version__: str
__all__ = {names}

{overloads}'''


def constants(annotation: str) -> list[object]:
    return [
        node.value for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Constant)
    ]


def joined(results: list[str]) -> str:
    return f"tuple[{', '.join(results)}]" if len(results) > 1 else results[0]


class Function:
    """A public function: the parameters of its signature, and the forms in which it can be called."""

    def __init__(self, source: ast.FunctionDef) -> None:
        self.name = source.name
        parameters = source.args
        every = (*parameters.args, *parameters.kwonlyargs)
        required = [None] * (len(parameters.args) - len(parameters.defaults))
        defaults = (*required, *parameters.defaults, *parameters.kw_defaults)
        self.types = {p.arg: ast.unparse(p.annotation) for p in every if p.annotation}
        assert len(self.types) == len(every), f"{self.name}: a parameter has no type"
        self.defaults = {
            p.arg: ast.unparse(default)
            for p, default in zip(every, defaults, strict=True)
            if default
        }
        self.keywords = {p.arg for p in parameters.kwonlyargs}
        lists = OTHER_FORMS.get(self.name, FORMS)
        self.forms = [*itertools.product(*(filter(self.has, choice) for choice in lists))]
        if len(self.forms) > 1:
            union = " | ".join(dict.fromkeys(map(self.readable, self.forms)))
            returns = source.returns and ast.unparse(source.returns)
            assert returns == union, (
                f"{self.name}: its annotation returns {returns}, its forms {union}"
            )

    def has(self, alternative: Alternative) -> bool:
        """Whether it has the parameters that make a call one of this alternative."""
        return all(
            name in self.types
            for name, kind in alternative.types.items()
            if kind not in (NO, "None")
        )

    @staticmethod
    def readable(form: tuple[Alternative, ...]) -> str:
        """What a form returns, whatever the reduction."""
        return joined(
            [x for a in form for x in (("Loss",) if "reduction" in a.types else a.results)]
        )

    def overload(self, types: dict[str, str], result: str, others: str = "") -> str:
        """Write one form; `others` is the type of arguments that the function does not have."""
        parts: list[str] = []
        star = f"*unknown: {others}" if others else "*"
        for name, declared in self.types.items():
            kind, default = types.get(name, declared), self.defaults.get(name)
            if kind == REDUCED:
                kind = f"Literal{[value for value in constants(declared) if value != 'none']}"
            # A default that the narrower type excludes has to be given, by name where others may be left out before it.
            if name in types and default and ast.literal_eval(default) not in constants(kind):
                default = None
            by_name = name in self.keywords or (not default and any(" = " in p for p in parts))
            if by_name and star not in parts:
                parts.append(star)
            parts.append(f"{name}: {kind} = {default}" if default else f"{name}: {kind}")
        if others:
            parts.append(f"**unknown_keywords: {others}")
        return f"@overload\ndef {self.name}({', '.join(parts)}) -> {result}: ...\n"

    def overloads(self) -> str:
        """Write all forms; then that of flags known only when they run; last what explains a call that fits none."""
        written = []
        for form in self.forms:
            types = {name: kind for alternative in form for name, kind in alternative.types.items()}
            written.append(self.overload(types, joined([x for a in form for x in a.results])))
        written.append(self.overload({}, "Any"))
        reduction = {"reduction": f"{self.types.get('reduction')} | {NOTHING}"}
        return "".join((*written, self.overload(reduction, NOTHING, NOTHING)))


def stub(package: Path) -> str:
    """Write the overloads of public functions that have several forms; the others are those of their modules."""
    public: list[str] = []
    sources: dict[str, tuple[str, ast.FunctionDef | ast.ClassDef]] = {}
    for path in sorted(package.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not path.stem.startswith("_"):
                sources[node.name] = path.stem, node
            elif path.stem == "__init__" and ast.unparse(node).startswith("__all__ = "):
                public = ast.literal_eval(ast.unparse(node).removeprefix("__all__ = "))
    overloads, imports = [], []
    for name in public:
        module, source = sources[name]
        function = Function(source) if isinstance(source, ast.FunctionDef) else None
        if function and len(function.forms) > 1:
            overloads.append(function.overloads())
        else:
            imports.append(f"from xent.{module} import {name}")
    return HEAD.format(imports="\n".join(imports), names=public, overloads="\n".join(overloads))


if __name__ == "__main__":
    package, target = map(Path, sys.argv[1:])
    target.write_text(stub(package), encoding="utf-8")
