"""Every code block of the README and the manual runs, and every file and name that they list exists."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import xent
from xent.cli.bench.workloads import select

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")))
WITH_SCRIPTS = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
# A block whose first line is a file's name in a comment is that file.
FILE = re.compile(r"\A(?:/\* (\S+) \*/|# (\S+\.\w+))\n")
# Libraries that tests do without: a block that names one, or a file which does, does not run where it is not installed.
OPTIONAL = (
    "accelerate",
    "dask",
    "jax",
    "keras",
    "lightgbm",
    "mpi4py",
    "onnxruntime",
    "optax",
    "pyspark",
    "ray",
    "tensorflow",
    "torch",
    "transformers",
    "xgboost",
    "zarr",
)


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    source = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(match[1], match[2], source.count("\n", 0, match.start(2)) + 1)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL)
    ]


def run_shell(text: str, at: Path) -> None:
    command = ["bash", "-euc", text]
    done = subprocess.run(
        command, cwd=at, env=WITH_SCRIPTS, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_examples(block: Block, page: str, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line - 1)
    report: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=report.append, clear_globs=False)
    names.update(test.globs)
    assert runner.tries
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    missing = [library for library in OPTIONAL if find_spec(library) is None]
    left_out: set[str] = set()
    for block in blocks(page):
        file = FILE.match(block.text)
        named = {name for name in missing if re.search(rf"\b{re.escape(name)}\b", block.text)}
        if named:
            left_out |= named
            missing += [file[1] or file[2], Path(file[1] or file[2]).stem] if file else []
        elif file:
            (tmp_path / (file[1] or file[2])).write_text(block.text)
        elif block.language == "python":
            position = "\n" * (block.line - 1)
            exec(compile(position + block.text, str(ROOT / page), "exec"), names)
        elif block.language == "pycon":
            run_examples(block, page, names)
        elif block.language == "sh" and not block.text.startswith("pip install "):
            run_shell(block.text, tmp_path)
        elif block.language == "console":
            # Run by test_examples.py, which compares what they print.
            assert page == "docs/examples.md"
        else:
            # Commands that install are run by .ci/run, in an environment of their own.
            assert (page, block.language) == ("README.md", "sh"), block
    if left_out:
        pytest.skip(f"the blocks with {', '.join(sorted(left_out))} did not run, the others did")


def test_readme_has_the_two_commands() -> None:
    commands = [block.text for block in blocks("README.md") if block.language == "sh"]
    assert len(commands) == 2
    assert all(
        re.fullmatch(r"pip install '\.\[\w+\]'( -C \S+)? && .+\n", command) for command in commands
    )


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_readme_lists_every_public_name() -> None:
    listed = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert set(re.findall(r"\w+", " ".join(listed))) >= set(xent.__all__)


def test_reference_lists_every_public_name() -> None:
    """`__all__` is read from the source: the libraries that some modules need may not be there."""
    reference = (ROOT / "docs/api.rst").read_text(encoding="utf-8")
    listed = {
        module: set(re.findall(r"^   (\w+)$", names, re.MULTILINE))
        for module, names in re.findall(
            r"^\.\. currentmodule:: (\S+)\n((?:(?!\.\. currentmodule).*\n)*)",
            reference,
            re.MULTILINE,
        )
    }
    packages = {file.parent for file in (ROOT / "src").rglob("__init__.py")}
    modules = [ROOT / "src" / name.replace(".", "/") for name in listed]
    for module in sorted(packages.union(modules)):
        file = module / "__init__.py" if module in packages else module.with_suffix(".py")
        names = re.search(
            r"^__all__ = (\[.*?\])$", file.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        name = ".".join(module.relative_to(ROOT / "src").parts)
        assert listed.get(name, set()) == set(ast.literal_eval(names[1]) if names else ()), name


def test_measured_table_and_figure_are_of_the_usual_cases() -> None:
    mark = "<!-- python -m xent bench: {} -->\n"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index(mark.format("begin")) : text.index(mark.format("end"))]
    usual = [case.name for case in select()]
    assert re.findall(r"^\| ([\w-]+) +\| +[\d.]+ [mµ]?s ", table, re.MULTILINE) == usual
    assert "](docs/images/bench.svg)" in text
    figure = (ROOT / "docs/images/bench.svg").read_text(encoding="utf-8")
    assert {name for name in usual if f">{name}</text>" not in figure} == set()


@pytest.mark.parametrize(
    "folder",
    [
        "src/xent",
        "src/xent/dask",
        "src/xent/torch",
        "src/xent/mpi",
        "src/xent/cli/bench",
        "src/xent/cli/score",
        "csrc",
        "csrc/call",
        "csrc/kernels",
    ],
)
def test_architecture_lists_every_file(folder: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    files = {file.name for file in ROOT.glob(f"{folder}/*") if file.is_file()}
    files -= {"__init__.py", "__init__.pyi"}  # the second is written from the source
    assert {name for name in files if f"{name}`" not in text} == set()


def test_architecture_names_what_exists() -> None:
    """Files and names of the source, and the function of each step of a call in the file where it is said to be."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    sources = {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
        for folder in ("csrc", "src", "tests", "benchmarks", "docs", "cmake")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".c", ".h", ".def", ".txt", ".py", ".pyx", ".pxd", ".pyi"}
    }
    quoted = set(re.findall(r"`([\w./]+)`", text)) - {"csrc/simd/NAME.h"}
    files = {name for name in quoted if re.search(r"\.(c|h|def|txt|py|pyx|pxd|pyi)$", name)}
    assert {f for f in files if not any(f"/{path}".endswith(f"/{f}") for path in sources)} == set()
    everything = "\n".join(sources.values())
    names = {name for name in quoted if re.fullmatch(r"\w+_\w+", name)}
    assert {name for name in names if not re.search(rf"\b(XENT_)?{name}\b", everything)} == set()
    steps = re.findall(r"^\d\. `(\S+)`, `(\w+)`", text, re.MULTILINE)
    assert len(steps) == 9
    for file, function in steps:
        source = sources[min((path for path in sources if path.endswith(f"/{file}")), key=len)]
        defined = rf"(def {function}|\w+ \*?{function}|v\({function}\))\("
        assert re.search(defined, source), (file, function)
