"""The commands of ``python -m xent``, and the parts the demo is made of."""

import math
import platform
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import xent
from xent.cli import demo, main
from xent.cli.corpus import CONTEXT, Text, Vocabulary, python_files, read
from xent.cli.model import LanguageModel

STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
SMALL = ("--source", str(STANDARD_LIBRARY / "asyncio"), "--vocab", "300")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "xent", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def without_times(output: str) -> list[str]:
    return [
        line
        for line in output.splitlines()
        if not re.search(r" ms\b|^  NumPy / xent|^Done in", line)
    ]


def number(pattern: str, output: str) -> float:
    match = re.search(pattern, output, re.MULTILINE)
    assert match, output
    return float(match[1])


def test_demo_beats_the_unigram_model_and_repeats_its_digits() -> None:
    first, second = (command("demo", *SMALL, "--steps", "60") for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    model = number(r"^  model +([\d.]+)", first.stdout)
    unigram = number(r"^  unigram +([\d.]+)", first.stdout)
    assert 1 < model < unigram / 2
    assert math.exp(number(r"loss ([\d.]+) nats", first.stdout)) == pytest.approx(model, rel=2e-3)
    assert number(r"^  xent +([\d.]+) ms", first.stdout) >= 0
    assert number(r"^  NumPy +([\d.]+) ms", first.stdout) >= 0
    assert without_times(first.stdout) == without_times(second.stdout)


def test_demo_reads_the_standard_library() -> None:
    done = command("demo", "--steps", "1", "--vocab", "64", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"standard library of Python {platform.python_version()}" in done.stdout


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_demo_draws_the_curves(tmp_path: Path, suffix: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"curves.{suffix}"
    assert main(["demo", *SMALL, "--steps", "3", "--plot", str(file)]) == 0
    content = file.read_bytes()
    assert content.startswith(magic)
    assert len(content) > 5000


def test_demo_needs_neither_rich_nor_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", *SMALL, "--steps", "2"]) == 0
    assert capsys.readouterr().out.count("pip install rich matplotlib") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--plot", str(tmp_path / "curves.png")])
    assert "needs matplotlib: pip install rich matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--steps", "0"], "--steps: 0 is below 1"),
        (["demo", "--seed", "x"], "--seed: invalid integer value: 'x'"),
        (["demo", "--vocab", "2"], "--vocab: 2 is below 16"),
        (["demo", "--source", "nowhere"], "--source: no such directory: nowhere"),
        (["demo", "--plot", "nowhere/curves.png"], "--plot: "),
        (["demo", "--plot", "curves.txt"], "--plot: "),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_demo_needs_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "only.py").write_text("pass\n")
    assert main(["demo", "--source", str(tmp_path)]) == 1
    assert "fewer than two Python files" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a child alone")
def test_interrupt_ends_the_demo_quietly() -> None:
    arguments = [sys.executable, "-m", "xent", "demo", *SMALL, "--steps", "100000"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        while "held-out" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.strip() == "Interrupted."


def test_info_is_a_table() -> None:
    done = command("info")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = dict(re.findall(r"^\| (.*?) +\| (.*?) +\|$", done.stdout, re.MULTILINE))
    assert rows["xent"] == xent.__version__
    assert rows["NumPy"] == np.__version__
    assert rows["CPU"]
    assert rows["isa"] == xent.show_config()["isa"]


@pytest.mark.parametrize(
    "arguments", [("--help",), ("bench", "--help"), ("demo", "--help"), ("info", "--help")]
)
def test_help(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m xent")


def test_version() -> None:
    assert command("--version").stdout.strip() == f"xent {xent.__version__}"


def test_corpus_leaves_out_tests_and_broken_files(tmp_path: Path) -> None:
    files = {
        "a.py": b"# comment\n\nif x:\n    y = 'z'\n",
        "b.py": b"value = (",
        "c.py": b"# -*- coding: nonsense -*-\n",
        "d.py": b"x = '\xff'\n",
        "e.py": b"",
        "notes.txt": b"text",
        "tests/f.py": b"assert 1\n",
        "site-packages/g.py": b"import g\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    paths = python_files(tmp_path)
    assert [path.name for path in paths] == ["a.py", "b.py", "c.py", "d.py", "e.py"]
    calls: list[None] = []
    documents = read(paths, lambda: calls.append(None))
    assert len(calls) == len(paths)
    assert documents == [
        ["if", "x", ":", "<newline>", "<indent>", "y", "=", "'z'", "<newline>", "<dedent>"]
    ]


def test_text_pairs_each_word_with_the_ones_before_it() -> None:
    documents = [["a", "b", "a"], ["a", "c"]]
    vocabulary = Vocabulary(documents, 4)
    assert vocabulary.words == ["<unk>", "<start>", "a", "b"]
    text = Text.encode(documents, vocabulary)
    assert len(text) == 5
    assert text.targets.tolist() == [2, 3, 2, 2, 0]
    contexts, targets = text.examples(text.positions)
    assert contexts.shape == (5, CONTEXT)
    assert contexts[2, -3:].tolist() == [1, 2, 3]
    assert set(contexts[3].tolist()) == {1}  # nothing of the first document
    np.testing.assert_array_equal(targets, text.targets)


def test_unigram_perplexity_smooths_by_one() -> None:
    vocabulary = Vocabulary([["a", "a", "b"]], 4)
    training, held_out = (Text.encode([words], vocabulary) for words in (["a", "a", "b"], ["b"]))
    log_frequencies, perplexity = demo.unigram_perplexity(training, held_out, 4)
    assert np.exp(log_frequencies) == pytest.approx(np.array([1, 1, 3, 2]) / 7)
    assert perplexity == pytest.approx(7 / 2)


def test_gradient_of_the_model() -> None:
    rng = np.random.default_rng(0)
    model = LanguageModel(np.zeros(7), rng, context=3, embedding=4, hidden=5)
    model.parameters[...] = rng.normal(0, 0.5, model.parameters.size)
    contexts = rng.integers(0, 7, (6, 3), np.int32)
    targets = rng.integers(0, 7, 6)
    _, grad = xent.cross_entropy(model.forward(contexts), targets, return_grad=True)
    model.backward(grad)
    for _ in range(5):
        direction = rng.normal(size=model.parameters.size).astype(np.float32)
        direction /= np.linalg.norm(direction)
        losses = []
        for sign in (1, -1):
            model.parameters += np.float32(sign * 1e-2) * direction
            losses.append(float(xent.cross_entropy(model.forward(contexts), targets)))
            model.parameters -= np.float32(sign * 1e-2) * direction
        slope = (losses[0] - losses[1]) / 2e-2
        assert direction @ model.gradient == pytest.approx(slope, rel=1e-2, abs=1e-4)


def test_numpy_formula_is_a_fair_rival() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (8, 50)).astype(np.float32)
    targets = rng.integers(0, 50, 8, np.int32)
    loss, grad = xent.cross_entropy(logits, targets, return_grad=True)
    expected, expected_grad = demo.numpy_cross_entropy(logits, targets, np.empty_like(logits))
    assert loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-7)
