"""A type checker sees the type of each form of a call, and says in one message why it refuses another."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import xent
from test_completeness import OPERATIONS
from xent import _typing

HEAD = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import xent

Scalar = np.floating[Any]
Array = NDArray[np.floating[Any]]

z = np.zeros((2, 3), np.float32)
p = np.full((2, 3), 0.5, np.float32)
y = [0, 1]
loss = np.empty(2, np.float32)
sometimes = bool(z.any())
anything: Any = 2.0
ce = xent.cross_entropy
bce = xent.binary_cross_entropy_with_logits
lce = xent.linear_cross_entropy

"""

# The arguments without a default, of every function.
FIRST = {
    "asymmetric_loss": "z, p",
    "binary_cross_entropy": "p, p",
    "binary_cross_entropy_with_logits": "z, p",
    "categorical_cross_entropy": "p, y",
    "cross_entropy": "z, y",
    "dice_loss": "z, y",
    "distillation_loss": "z, z",
    "entropy": "z",
    "focal_loss": "z, y",
    "info_nce": "z, z",
    "kl_div": "z, p",
    "linear_cross_entropy": "z, z, y",
    "log_softmax": "z",
    "logsumexp": "z",
    "nll_loss": "z, y",
    "perplexity": "[z], [y]",  # one sequence
    "poly1_loss": "z, y",
    "sigmoid_contrastive_loss": "z, z, logit_scale=1, logit_bias=0.5",
    "sigmoid_focal_loss": "z, p",
    "softmax": "z",
    "token_log_probs": "z, y",
    "tversky_loss": "z, y",
}
# Arguments other than reductions and flags on which the type of a result depends.
DECISIVE = {"linear_cross_entropy": ["bias=[1, 2]"], "logsumexp": ["axis=1", "keepdims=True"]}

# Each option; and what no signature says. Unneeded `type: ignore` comments are errors, so each marks a call that is refused.
CALLS = """
assert_type(ce(z.tolist(), np.array(y), label_smoothing=0.1, temperature=2, softcap=30.0), Scalar)
assert_type(ce(z, y, reduction="sum", class_weight=[1, 2, 3], ignore_index=None), Scalar)
assert_type(ce(z, y, return_grad=True, grad_out=z, grad_output=2.0), tuple[Scalar, Array])
assert_type(ce(z, y, reduction="none", out=loss, dtype=None), Array)
assert_type(ce(z, y, return_hess=True, hess_out=z), tuple[Scalar, Array, Array])
assert_type(ce(anything, y, class_weight=anything, return_grad=True), tuple[Scalar, Array])
assert_type(xent.focal_loss(z, y, gamma=1.5, z_loss=0.1), Scalar)
assert_type(xent.poly1_loss(z, y, epsilon=1, reduction="none"), Array)
assert_type(xent.binary_cross_entropy(z, z, eps=1e-7), Scalar)
assert_type(bce(z, z, pos_weight=[1, 2, 3], reduction="sum"), Scalar)
assert_type(xent.sigmoid_focal_loss(z, z, alpha=None, reduction="none"), Array)
assert_type(xent.kl_div(z, z, reduction="batchmean", log_target=True), Scalar)
assert_type(xent.categorical_cross_entropy(z, y, eps=1e-7), Scalar)
assert_type(xent.distillation_loss(z, z, temperature=4.0), Scalar)
assert_type(
    lce(z, z, y, return_grad=True, bias=[1, 2], grad_out=(z, None, None)),
    tuple[Scalar, tuple[Array, Array, Array]],
)
assert_type(
    xent.info_nce(z, z, return_grad=True, return_temperature_grad=True),
    tuple[Scalar, tuple[Array, Array], Scalar],
)
assert_type(xent.info_nce(z, z, targets=y, temperature=1, symmetric=False, out=None), Scalar)
assert_type(
    xent.sigmoid_contrastive_loss(z, z, logit_scale=1, logit_bias=0, return_grad=True),
    tuple[Scalar, tuple[Array, Array, Scalar, Scalar]],
)
assert_type(xent.perplexity(z, y, sample_weight=[1, 0]), Scalar)
assert_type(xent.logsumexp(z, b=[1, 2, -1]), Scalar)
assert_type(xent.logsumexp(z, 1, z), Array)
assert_type(xent.softmax(z, axis=-1, out=z), Array)
assert_type(xent.log_softmax([1, 2], axis=(0,)), Array)
assert_type(xent.asymmetric_loss(z, z, clip=0, return_grad=True), tuple[Scalar, Array])
assert_type(xent.sigmoid(z, out=z), Array)
assert_type(xent.log_sigmoid([1, 2]), Array)
assert_type(xent.one_hot(y, 3, axis=0, dtype=np.float32), NDArray[Any])
assert_type(xent.smooth_labels(y, 0.1, 3), NDArray[Any])
scaler = xent.LossScaler(growth_interval=100)
assert_type(scaler.scale, float)
assert_type(scaler.unscale(z, p), bool)
assert_type(scaler.state_dict(), dict[str, Any])
scaler.load_state_dict(scaler.state_dict())
assert_type(xent.get_num_threads(), int)
with xent.num_threads(1):
    pass

ce(z, y, -1)  # type: ignore[arg-type]
ce(z, y, label_smoothing="0.1")  # type: ignore[call-overload]
float(ce(z, y, temprature=anything))  # type: ignore[arg-type]
xent.kl_div(z, z, return_hess=True)  # type: ignore[arg-type]
xent.poly1_loss(z, y, return_hess=True)  # type: ignore[arg-type]
xent.token_log_probs(z, y, class_weight=[1, 2, 3])  # type: ignore[arg-type]
xent.nll_loss(z, y, temperature=2.0)  # type: ignore[arg-type]
xent.nll_loss(z, y, eps=1e-7)  # type: ignore[arg-type]
xent.entropy(z, z)  # type: ignore[arg-type]
xent.distillation_loss(z, z, softcap=30.0)  # type: ignore[arg-type]
lce(z, z, y, axis=1)  # type: ignore[arg-type]
lce(z, z, y, return_hess=True)  # type: ignore[arg-type]
lce(z, z, y, return_grad=True, grad_out=z)  # type: ignore[call-overload]
xent.softmax(z, axis="last")  # type: ignore[arg-type]
xent.asymmetric_loss(z, z, gamma=2.0)  # type: ignore[arg-type]
xent.one_hot(y)  # type: ignore[call-arg]
xent.LossScaler(init_scale="large")  # type: ignore[arg-type]
xent.set_num_threads("2")  # type: ignore[arg-type]
"""


# What these add is of the type Any.
UNTYPED = {"return_temperature_grad", "return_bias_grad", "return_teacher_grad"}


def options(name: str) -> tuple[list[str], list[str]]:
    """The reductions and the flags of a function, by what its annotations evaluate to."""
    function = getattr(xent, name)
    types = typing.get_type_hints(function, vars(_typing))
    types.pop("unknown", None)
    assert [*types][:-1] == [*inspect.signature(function).parameters]
    flags = [name for name in types if name.startswith("return_") and name not in UNTYPED]
    return [*typing.get_args(types.get("reduction"))], flags


def returned(value: object) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join(map(returned, value))}]"
    return "Array" if isinstance(value, np.ndarray) else "Scalar"


def forms() -> str:
    """Assertions of every form of every function: that its type is the one of what it returns."""
    names: dict[str, object] = {}
    exec(HEAD, names)
    lines = []
    for name, first in FIRST.items():
        reductions, flags = options(name)
        choices = [
            ["", *(f'reduction="{reduction}"' for reduction in reductions)],
            *(["", f"{flag}=True", f"{flag}=False"] for flag in flags),
            ["", *DECISIVE.get(name, [])],
        ]
        for chosen in itertools.product(*choices):
            call = f"xent.{name}({', '.join(filter(None, (first, *chosen)))})"
            lines.append(f"assert_type({call}, {returned(eval(call, names))})")
        if flags:
            unknown = ", ".join(f"{flag}=sometimes" for flag in flags)
            lines.append(f"assert_type(xent.{name}({first}, {unknown}), Any)")
    return "\n".join(lines)


def mypy(folder: Path, text: str) -> list[str]:
    pytest.importorskip("mypy")
    (folder / "calls.py").write_text(HEAD + text)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "calls.py"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("calls.py:")]


def pyright(folder: Path, text: str) -> list[tuple[int, str]]:
    """The line of each error, counted from that after HEAD, and what it says."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("no basedpyright")
    (folder / "calls.py").write_text(HEAD + text)
    settings = {"typeCheckingMode": "strict", "enableTypeIgnoreComments": True}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "calls.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    lines = HEAD.count("\n")
    return [
        (error["range"]["start"]["line"] - lines, error["message"])
        for error in found
        if error["severity"] == "error"
    ]


def test_every_function_is_here():
    assert sorted(FIRST) == OPERATIONS


def test_mypy_knows_every_form(tmp_path):
    assert mypy(tmp_path, forms() + CALLS) == []


def test_pyright_knows_every_form(tmp_path):
    assert pyright(tmp_path, forms() + CALLS) == []


WRONG = [(name, "temprature", "temprature=2.0") for name in FIRST] + [
    (name, "reduction", 'reduction="median"') for name in FIRST if options(name)[0]
]
WRONG_CALLS = "\n".join(f"xent.{name}({FIRST[name]}, {wrong})" for name, _, wrong in WRONG)


def test_mypy_explains_a_wrong_call_in_one_line(tmp_path):
    # Of functions with one form mypy says besides where they are defined.
    said = [line for line in mypy(tmp_path, WRONG_CALLS) if '" defined in "' not in line]
    assert len(said) == len(WRONG)
    for line, (_, argument, _) in zip(said, WRONG, strict=True):
        assert f'"{argument}"' in line
        assert len(line) < 200


def test_pyright_names_the_wrong_argument(tmp_path):
    said = pyright(tmp_path, WRONG_CALLS)
    for i, (name, argument, _) in enumerate(WRONG):
        explained = [text for line, text in said if line == i and f'"{argument}"' in text]
        assert len(explained) == 1, f"{name}, {argument}: {said}"
