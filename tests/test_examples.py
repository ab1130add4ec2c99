"""The examples run, print and draw what docs/examples.md shows, and reach the accuracy that they state."""

from __future__ import annotations

import email
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import which
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xent

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
COMMANDS = re.compile(
    r"^```console\n\$ python (examples/\w+\.py) --plot (\S+)\n(.*?)^```$", re.M | re.S
)
SHOWN = {Path(path).stem: (figure, output) for path, figure, output in COMMANDS.findall(PAGE)}
WITHOUT_FIGURE = {
    Path(path).stem: output
    for path, output in re.findall(
        r"^```console\n\$ (?:mpiexec -n 4 )?python (examples/\w+\.py)\n(.*?)^```$",
        PAGE,
        re.M | re.S,
    )
}
IMAGES_MISSING = "The images come with scikit-learn: pip install scikit-learn\n"
DIGITS = ("image_classification", "imbalanced_classes", "retrieval", "half_precision")
NUMBER = r"\d[\d,]*(?:\.\d+)?"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # One thread of a BLAS is as fast here, and is not held up where several tests share the cores.
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def without(module: str, example: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example where a module cannot be imported."""
    script = (
        f"import runpy, sys; sys.modules[{module!r}] = None; "
        f"sys.argv = {[example, *arguments]!r}; "
        f"runpy.run_path({str(EXAMPLES / example)!r}, run_name='__main__')"
    )
    return run("-c", script)


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(NUMBER, text)]


def words(text: str) -> list[str]:
    """Everything but the numbers, and the white space that aligns them."""
    return re.sub(NUMBER, "#", text).split()


def labels(figure: Path) -> list[str]:
    """What is written in a figure, numbers apart."""
    found = re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", figure.read_text(encoding="utf-8"))
    return [text for text in (re.sub(NUMBER, "#", text) for text in found) if text != "#"]


def test_every_example_is_on_the_page() -> None:
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    assert set(SHOWN) == examples - {"digits", "make_speech", *WITHOUT_FIGURE}
    for name, (figure, _) in SHOWN.items():
        assert figure == f"docs/images/{name}.svg"
        assert f"](images/{name}.svg)" in PAGE
        assert (ROOT / figure).stat().st_size <= 60_000
    assert all(f"(../examples/{name}.py)" in PAGE for name in ("digits", "make_speech"))


def test_the_demo_prints_and_draws_what_the_page_shows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ((figure, shown),) = re.findall(
        r"^```console\n\$ python -m xent demo --plot (\S+)\n(.*?)^```$", PAGE, re.M | re.S
    )
    drawn = tmp_path / "drawn.svg"
    done = run("-m", "xent", "demo", "--steps", "20", "--plot", str(drawn))
    assert (done.returncode, done.stderr) == (0, "")
    assert " ".join(words(shown)) in " ".join(words(done.stdout))
    assert drawn.stat().st_size > 10_000
    assert f"]({figure.removeprefix('docs/')})" in PAGE
    assert (ROOT / figure).is_file()


def find(pattern: str, text: str) -> list[float]:
    """The numbers of the line that the pattern begins."""
    (line,) = re.findall(rf"^ *{re.escape(pattern)}(.*)$", text, re.MULTILINE)
    return numbers(line)


def states_image_classification(output: str) -> None:
    assert find("accuracy", output)[0] > 97
    assert find("log-loss", output)[0] < 0.3


def states_imbalanced_classes(output: str) -> None:
    """The order of the losses is what the page says."""
    plain, focal, weighted, *adjusted = (
        find(name, output)
        for name in (
            "cross-entropy",
            "focal loss",
            "class weights",
            "logit adjustment",
            "adjusted afterwards",
        )
    )
    assert abs(focal[0] - plain[0]) < 3
    assert weighted[0] > plain[0] + 4
    for accuracy, rarest, log_loss in adjusted:
        assert accuracy > weighted[0]
        assert rarest > weighted[1] + 5
        assert log_loss < weighted[2] < plain[2]


def states_segmentation(output: str) -> None:
    """The sum of the losses is best in the mean, and at rims, which are few."""
    plain, dice, both = (find(name, output) for name in ("cross-entropy", "Dice loss", "both"))
    for ground, coin, rim, mean in (plain, dice, both):
        assert ground > 0.88
        assert coin > 0.75
        assert mean == pytest.approx((ground + coin + rim) / 3, abs=0.001)
    assert both[2] > max(plain[2], dice[2])
    assert both[3] > max(plain[3], dice[3])


def states_speech(output: str) -> None:
    assert find("accuracy", output)[0] > 96
    assert find("log-loss", output)[0] < 0.2


def states_retrieval(output: str) -> None:
    """Untrained encoders are as good as chance, trained ones find a fourth of the counterparts at once."""
    chance, untrained, trained = (find(name, output) for name in ("chance", "untrained", "trained"))
    # Of 450 queries each is right by chance in 1 case of 450: more than 6 at once, or 15 among five, are next to impossible.
    assert chance == [0.2, 1.1]
    assert untrained[0] < 1.4
    assert untrained[1] < 3.4
    assert trained[0] > 25
    assert trained[1] > 60


def states_half_precision(output: str) -> None:
    """Without a scale more is lost the smaller the factor is, in the end all; with it nothing."""
    rows = re.findall(r"^(float32|float16|scaled) +\S+ (.*)$", output, re.MULTILINE)
    (exact,), plain, scaled = (
        np.array([numbers(row) for name, row in rows if name == wanted])
        for wanted in ("float32", "float16", "scaled")
    )
    lost, accuracy, log_loss = plain.T
    assert (np.diff(lost) > 0).all()
    assert lost[-1] == 100
    assert accuracy[0] > 97
    assert accuracy[-1] < 25
    assert log_loss[-1] > 2
    assert log_loss[-2] > 1.2 * exact[2]
    assert (scaled[:, 0] == 0).all()
    assert (scaled[:, 1] > 97).all()
    np.testing.assert_allclose(scaled[:, 2], exact[2], rtol=0.1)


def states_distillation(output: str) -> None:
    """Distilled students are better than the one trained alone, even where that has all of the text."""
    all_alone, little_alone = find("trained alone", output)
    all_distilled, little_distilled = find("distilled, T = 1", output)
    teacher = find("Teacher", output)[1]
    assert teacher < all_distilled < little_distilled < all_alone < little_alone


STATES = {
    "image_classification": states_image_classification,
    "imbalanced_classes": states_imbalanced_classes,
    "segmentation": states_segmentation,
    "speech": states_speech,
    "retrieval": states_retrieval,
    "half_precision": states_half_precision,
    "distillation": states_distillation,
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_prints_and_draws_what_the_page_shows(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if name in DIGITS:
        pytest.importorskip("sklearn")
    if name == "segmentation":
        pytest.importorskip("skimage")
    figure, output = SHOWN[name]
    done = run(str(EXAMPLES / f"{name}.py"), "--plot", str(tmp_path / "drawn.svg"))
    assert (done.returncode, done.stderr) == (0, "")
    assert words(done.stdout) == words(output)
    assert labels(tmp_path / "drawn.svg") == labels(ROOT / figure) != []
    # Rounding differs between machines, and training magnifies it. Percentages may differ by some images in a hundred; the
    # standard library is another text with every version of Python.
    percentages = [numbers(" ".join(re.findall(rf"{NUMBER}%", s))) for s in (done.stdout, output)]
    np.testing.assert_allclose(*percentages, atol=4)
    np.testing.assert_allclose(numbers(done.stdout), numbers(output), rtol=0.3)
    STATES[name](done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_logits_larger_than_memory(tmp_path: Path) -> None:
    """The words of the page, and the numbers of `python -m xent score`; the memory grows by one file."""
    program, shown = str(EXAMPLES / "larger_than_memory.py"), WITHOUT_FIGURE["larger_than_memory"]
    done = run(program, "--rows", "6144", "--folder", str(tmp_path / "logits"), "--memory", "100")
    assert (done.returncode, done.stderr) == (0, "")
    exponent = r"\de-\d\d"
    written = re.sub(r"^\[.*\n", "", done.stdout, flags=re.MULTILINE)
    assert words(re.sub(exponent, "", written)) == words(re.sub(exponent, "", shown))
    assert find("At once", done.stdout) == [100]
    assert numbers(done.stdout.partition("memory grew by")[2])[0] < 100
    for name in ("logits", "targets"):
        (tmp_path / f"{name}-only").mkdir()
        for file in (tmp_path / "logits").glob(f"{name}-*"):
            file.rename(tmp_path / f"{name}-only" / file.name)
    scored = run(
        *("-m", "xent", "score"),
        *(str(tmp_path / f"{name}-only") for name in ("logits", "targets")),
    )
    assert find("File by file  loss", done.stdout) == pytest.approx(
        [find("Loss", scored.stdout)[0], find("Perplexity", scored.stdout)[0]], abs=1e-3
    )
    assert find("accuracy", done.stdout)[0] == pytest.approx(
        find("Accuracy", scored.stdout)[0], abs=0.01
    )


@pytest.mark.parametrize("ranks", [1, 4])
def test_vocabulary_parallel(ranks: int) -> None:
    """The words of the page, no difference beyond its bound, and a loss that falls."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside) if beside.exists() else which("mpiexec")
    if mpiexec is None:
        pytest.skip("could not find mpiexec")
    done = subprocess.run(
        [
            *(mpiexec, "-n", str(ranks), sys.executable, "-W", "error"),
            *(str(EXAMPLES / "vocabulary_parallel.py"), "--steps", "10", "--vocabulary", "501"),
            *("--source", str(Path(email.__file__).parent)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    exponent = r"\de[-+]\d\d"
    shown = WITHOUT_FIGURE["vocabulary_parallel"]
    assert words(re.sub(exponent, "", done.stdout)) == words(re.sub(exponent, "", shown))
    rows = re.findall(r"^ +\d+ +([\d.]+) +([\d.]+) ", done.stdout, re.MULTILINE)
    losses, alone = np.array(rows, float).T
    np.testing.assert_allclose(losses, alone, atol=1e-5)
    assert losses[-1] < losses[0]
    (worst,) = re.findall(r"at most (\S+) of the bound", done.stdout)
    assert float(worst) < 1


def test_bounds_of_vocabulary_parallel_hold_and_are_not_idle() -> None:
    """Of float32 sums in another order, here of shuffled features and classes: within, and by less than a million."""
    pytest.importorskip("mpi4py")
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "vocabulary_parallel.py")))
    rng = np.random.default_rng(0)
    states, weight, bias = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((32, example.FEATURES), (600, example.FEATURES), (600,))
    )
    targets = rng.integers(0, 600, 32)
    features, classes = rng.permutation(example.FEATURES), rng.permutation(600)
    loss, grads = xent.linear_cross_entropy(states, weight, targets, bias=bias, return_grad=True)
    other, others = xent.linear_cross_entropy(
        np.ascontiguousarray(states[:, features]),
        np.ascontiguousarray(weight[classes][:, features]),
        np.argsort(classes)[targets],
        bias=bias[classes],
        return_grad=True,
    )
    back = np.argsort(features), np.argsort(classes)
    found = others[0][:, back[0]], others[1][back[1]][:, back[0]], others[2][back[1]]
    of_loss, *of_grads = example.bounds(states, weight, bias, targets)
    assert abs(loss - other) <= of_loss < 0.01
    for a, b, bound in zip(grads, found, of_grads, strict=True):
        share = np.max(np.abs(a - b) / bound)
        assert 1e-6 < share <= 1


def test_vocabulary_parallel_says_that_mpi4py_is_missing() -> None:
    done = without("mpi4py", "vocabulary_parallel.py")
    message = "The ranks need mpi4py and an MPI library: pip install mpi4py mpich\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def assert_gradients(
    weights: list[np.ndarray], gradients: Sequence[np.ndarray], loss: Callable[[], float]
) -> None:
    """Compare the gradient of each array of weights with central differences, along a random direction."""
    rng = np.random.default_rng(1)
    # In float64 the loss, of about 1, is off by 1e-16 times a few, hence the difference by 1e-10, and by its square.
    step = 1e-5
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = rng.normal(size=weight.shape)
        weight += step * direction
        above = loss()
        weight -= 2 * step * direction
        below = loss()
        weight += step * direction
        expected = (above - below) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_gradients_of_image_classification() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "image_classification.py")))
    rng = np.random.default_rng(0)
    layers = (
        example.Convolution(1, 3, rng),
        example.Pool(),
        example.Convolution(3, 4, rng),
        example.Pool(),
        example.Linear(16, 10, rng),
    )
    learned = [layer for layer in layers if hasattr(layer, "weight")]
    for layer in learned:
        layer.weight, layer.bias = layer.weight.astype(float), layer.bias.astype(float)
    network = example.Network(*layers)
    images, digits = rng.random((5, 8, 8, 1)), rng.integers(10, size=5)
    _, grad = xent.cross_entropy(network.forward(images), digits, return_grad=True)
    network.step(grad, 0.0)
    gradients = [gradient for layer in learned for gradient in layer.gradients]
    assert_gradients(
        network.weights,
        gradients,
        lambda: float(xent.cross_entropy(network.forward(images), digits)),
    )


def test_gradients_of_speech() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "speech.py")))
    rng = np.random.default_rng(0)
    network = example.Network(6, rng)
    network.weights = [weight.astype(float) for weight in network.weights]
    spoken, digits = rng.random((5, 40, 6)), rng.integers(10, size=5)
    _, grad = xent.cross_entropy(network.forward(spoken), digits, return_grad=True)
    gradients = network.backward(grad)
    assert_gradients(
        network.weights,
        gradients,
        lambda: float(xent.cross_entropy(network.forward(spoken), digits)),
    )


def test_gradients_of_retrieval() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "retrieval.py")))
    rng = np.random.default_rng(0)
    encoders = example.Encoders(6, rng)
    encoders.weights = [[weight.astype(float) for weight in half] for half in encoders.weights]
    encoders.gradients = [[weight.astype(float) for weight in half] for half in encoders.weights]
    halves = rng.normal(size=(2, 5, 6))
    arguments = {"temperature": example.TEMPERATURE, "symmetric": True, "normalize": True}
    _, grads = xent.info_nce(*encoders.forward(*halves), return_grad=True, **arguments)
    encoders.backward(grads)
    assert_gradients(
        [weight for half in encoders.weights for weight in half],
        [gradient for half in encoders.gradients for gradient in half],
        lambda: float(xent.info_nce(*encoders.forward(*halves), **arguments)),
    )


def in_float64(network: Any) -> list[np.ndarray]:
    """Make float64 of a network's weights and biases, and return them in the order of their gradients."""
    network.weights = [weight.astype(float) for weight in network.weights]
    network.biases = [bias.astype(float) for bias in network.biases]
    pairs = zip(network.weights, network.biases, strict=True)
    return [array for pair in pairs for array in pair]


def test_gradients_of_segmentation() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "segmentation.py")))
    rng = np.random.default_rng(0)
    network = example.Network(rng)
    weights = in_float64(network)
    # Neighbours are up to 8 pixels apart, so that in the middle all are within the image, and at its edges some are not.
    images, classes = rng.random((2, 18, 20)), rng.integers(3, size=(2, 18, 20))
    losses = xent.cross_entropy, xent.dice_loss
    logits = network.forward(images)
    grad = sum(loss(logits, classes, axis=1, return_grad=True)[1] for loss in losses)
    assert_gradients(
        weights,
        network.backward(grad),
        lambda: float(sum(loss(network.forward(images), classes, axis=1) for loss in losses)),
    )


def test_overlap_of_segmentation() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "segmentation.py")))
    truth, guess = np.array([[0, 0, 0, 1], [1, 1, 2, 2]]), np.array([[0, 0, 1, 1], [1, 2, 2, 0]])
    assert example.overlap(truth, guess) == pytest.approx([2 / 4, 2 / 4, 1 / 3])


def test_gradients_of_half_precision() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "half_precision.py")))
    rng = np.random.default_rng(0)
    network = example.Network(np.float64, rng)
    weights = in_float64(network)
    images, digits = rng.random((5, 64)), rng.integers(10, size=5)
    _, grad = xent.cross_entropy(network.forward(images), digits, return_grad=True)
    flat, lost = network.backward(grad)
    assert lost == 0
    parts = np.split(flat, np.cumsum([weight.size for weight in weights])[:-1])
    assert_gradients(
        weights,
        [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)],
        lambda: float(xent.cross_entropy(network.forward(images), digits)),
    )


def test_half_precision_counts_what_is_lost() -> None:
    example = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "half_precision.py")))
    rng = np.random.default_rng(0)
    network = example.Network(np.float16, rng)
    logits = network.forward(rng.random((5, 64)).astype(np.float32))
    assert logits.dtype == np.float16
    # The least float16 there is: the layer below gets weighted sums of it, some of them less than half as large.
    grad = np.full(logits.shape, 2.0**-24, np.float16)
    flat, lost = network.backward(grad)
    assert flat.dtype == np.float16
    assert 0 < lost < 1
    assert network.backward(np.zeros_like(grad))[1] == 1


def test_digits() -> None:
    pytest.importorskip("sklearn")
    done = run(str(EXAMPLES / "digits.py"))
    assert (done.returncode, done.stderr) == (0, "")
    assert find("accuracy", done.stdout)[0] > 95
    assert find("log-loss", done.stdout)[0] < 0.3


@pytest.mark.parametrize("name", ["digits", *DIGITS])
def test_says_that_scikit_learn_is_missing(name: str) -> None:
    done = without("sklearn.datasets", f"{name}.py")
    assert (done.returncode, done.stderr) == (1, IMAGES_MISSING)


def test_says_that_scikit_image_is_missing() -> None:
    done = without("skimage", "segmentation.py")
    message = "The image comes with scikit-image: pip install scikit-image\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_says_that_matplotlib_is_missing(name: str) -> None:
    done = without("matplotlib", f"{name}.py", "--plot", "figure.svg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "argument --plot: needs matplotlib: pip install rich matplotlib\n" in done.stderr


def test_needs_matplotlib_for_plots_alone() -> None:
    done = without("matplotlib", "speech.py")
    assert (done.returncode, done.stderr) == (0, "")


def test_says_that_espeak_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "make_speech.py"), str(tmp_path / "speech.npz")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "The voices are espeak-ng's: apt-get install espeak-ng\n"
    assert not any(tmp_path.iterdir())


def test_speech_is_what_its_example_says() -> None:
    with np.load(EXAMPLES / "speech.npz") as data:
        spectrograms, digits, voices = data["spectrograms"], data["digits"], data["voices"]
    assert (spectrograms.shape, spectrograms.dtype) == ((2020, 40, 24), np.uint8)
    assert (EXAMPLES / "speech.npz").stat().st_size < 1_000_000
    assert np.array_equal(np.unique(voices), np.arange(69))
    # Every timbre says every digit twice, none of them alike.
    assert np.array_equal(digits, np.tile(np.arange(10), 202))
    assert len(np.unique(spectrograms.reshape(2020, -1), axis=0)) == 2020
    assert (spectrograms.max(axis=(1, 2)) == 255).all()
