"""``python -m xent demo``: a language model of Python, trained and evaluated with `xent`."""

import argparse
import importlib.util
import math
import platform
import sys
import sysconfig
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xent
from xent.cli.corpus import CONTEXT, START, Text, Vocabulary, python_files, read, split
from xent.cli.model import Adam, Floats, LanguageModel
from xent.cli.terminal import INSTALL, at_least, plot_file, progress

BATCH = 512
LEARNING_RATE = 8e-3
WARM_UP = 50
EVALUATIONS = 10
SAMPLE_EVERY = 8
COMPARE_EVERY = 10
TOLERANCE = 1e-5  # of float32 losses below 16 and gradients below 1
PROMPTS = (
    "for i in",
    "while",
    "def __init__ (",
    "if value is not",
    "if __name__ ==",
    "import os <newline> import",
)

_DESCRIPTION = """\
Train a next-token language model in plain NumPy on Python's own standard library, with
xent.cross_entropy as its loss. Report its perplexity on files it has not seen against the
unigram baseline (every token by its frequency alone), and the time the loss took beside the
usual NumPy formula on the same batches.
"""
_EPILOG = f"""\
The same seed prints the same loss and perplexity on one machine; another BLAS, or another
number of BLAS threads, may change the last digits. The progress bar and --plot need the
optional extra: {INSTALL}
"""

say = partial(print, flush=True)


def add_parser(commands: Any) -> None:
    """Add ``demo`` to the commands of the parser."""
    parser = commands.add_parser(
        "demo",
        help="train a small language model on the Python standard library",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    for name, smallest, default, meaning in (
        ("--steps", 1, 600, "batches to train on"),
        ("--vocab", 16, 4096, "tokens known, the most frequent ones"),
        ("--seed", 0, 0, "of the weights and the batches"),
    ):
        parser.add_argument(
            name,
            type=at_least(smallest),
            default=default,
            metavar="N",
            help=f"{meaning} (default {default})",
        )
    parser.add_argument(
        "--source",
        type=_directory,
        metavar="DIR",
        help="read the Python files below DIR instead of the standard library",
    )
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw the curves (PNG, SVG or PDF)"
    )


def _directory(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"no such directory: {text}")
    return path


@dataclass
class Curves:
    """What the training recorded: perplexities, and the loss against the NumPy formula."""

    training: list[float] = field(default_factory=list)  # loss of each step
    steps: list[int] = field(default_factory=list)  # at which the held-out files were evaluated
    held_out: list[float] = field(default_factory=list)  # perplexity there
    seconds_xent: list[float] = field(default_factory=list)
    seconds_numpy: list[float] = field(default_factory=list)
    difference: float = 0.0  # largest, of a loss or of a token's gradient


def numpy_cross_entropy(
    logits: Floats, targets: NDArray[np.int32], grad_out: Floats
) -> tuple[np.floating, Floats]:
    """Return the mean loss and its gradient by the usual formula, in place where NumPy can."""
    count = len(targets)
    rows = np.arange(count)
    grad = np.subtract(logits, logits.max(axis=1, keepdims=True), out=grad_out)
    true = grad[rows, targets]
    np.exp(grad, out=grad)
    total = grad.sum(axis=1)
    loss = np.mean(np.log(total) - true)
    grad /= (total * count)[:, None]
    grad[rows, targets] -= 1 / count
    return loss, grad


def unigram_perplexity(training: Text, held_out: Text, size: int) -> tuple[Floats, float]:
    """Return the log-frequencies with add-one smoothing, and their perplexity held out."""
    counts = np.bincount(training.targets, minlength=size) + 1.0
    log_frequencies = np.log(counts / counts.sum())
    perplexity = math.exp(-log_frequencies[held_out.targets].mean())
    return log_frequencies.astype(np.float32), perplexity


def perplexity(model: LanguageModel, text: Text) -> float:
    """Return the perplexity of the model on a text, which is evaluated a part at a time."""
    total = 0.0
    for start in range(0, len(text), BATCH):
        contexts, targets = text.examples(text.positions[start : start + BATCH])
        total += len(targets) * math.log(xent.perplexity(model.forward(contexts), targets))
    return math.exp(total / len(text))


def learning_rate(step: int, steps: int) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to zero."""
    return LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def train(
    model: LanguageModel, text: Text, held_out: Text, steps: int, rng: np.random.Generator
) -> Curves:
    """Train the model, and evaluate it more often while the perplexity falls fast.

    On the way a sample of the held-out words is enough; at the end all of them are evaluated.
    """
    sample = replace(held_out, positions=held_out.positions[::SAMPLE_EVERY])
    evaluated = {math.ceil(steps * (i / EVALUATIONS) ** 2) for i in range(1, EVALUATIONS + 1)}
    curves = Curves()
    optimiser = Adam(model.parameters.size)
    logits = np.empty((BATCH, model.vocabulary), np.float32)
    grad, grad_numpy = np.empty_like(logits), np.empty_like(logits)

    def evaluate(step: int, recent: str) -> None:
        curves.steps.append(step)
        curves.held_out.append(perplexity(model, held_out if step == steps else sample))
        say(f"{step:6,}   {recent:>8}   {curves.held_out[-1]:8.2f}")

    say(f"\nPerplexity (held-out: every {SAMPLE_EVERY}th token; all at the last step)")
    say("  step   training   held-out")
    evaluate(0, "")
    with progress("Training", steps) as advance:
        for step in range(steps):
            contexts, targets = text.examples(rng.choice(text.positions, BATCH))
            model.forward(contexts, out=logits)
            start = time.perf_counter()
            loss, _ = xent.cross_entropy(logits, targets, return_grad=True, grad_out=grad)
            seconds = time.perf_counter() - start
            if step % COMPARE_EVERY == 0:
                # NumPy goes second: whatever the caches gain from the first call, it has.
                start = time.perf_counter()
                expected, _ = numpy_cross_entropy(logits, targets, grad_numpy)
                curves.seconds_numpy.append(time.perf_counter() - start)
                curves.seconds_xent.append(seconds)
                difference = max(abs(loss - expected), BATCH * np.abs(grad - grad_numpy).max())
                if not difference < TOLERANCE:
                    raise RuntimeError(f"step {step}: xent and NumPy differ by {difference:.2g}")
                curves.difference = max(curves.difference, float(difference))
            curves.training.append(float(loss))
            model.backward(grad)
            optimiser.step(model.parameters, model.gradient, learning_rate(step, steps))
            if step + 1 in evaluated:
                recent = curves.training[curves.steps[-1] :]
                evaluate(step + 1, f"{math.exp(mean(recent)):8.2f}")
            advance()
    return curves


def report_guesses(model: LanguageModel, vocabulary: Vocabulary) -> None:
    """Print the words that the model expects after some beginnings of a line."""
    say("\nWhat it expects next")
    for prompt in PROMPTS:
        words = ([START] * CONTEXT + ["<newline>", *prompt.split()])[-CONTEXT:]
        contexts = np.array([vocabulary.encode(words)], np.int32)
        probabilities = xent.softmax(model.forward(contexts), axis=-1)[0]
        best = np.argsort(-probabilities, kind="stable")[:3]
        guesses = [f"{vocabulary.words[i]} {probabilities[i]:.0%}" for i in best]
        say(f"  {prompt.replace('<newline> ', '; '):22}  {',  '.join(guesses)}")


def report(curves: Curves, unigram: float, size: int) -> None:
    """Print the perplexity against the baseline, and the time against the NumPy formula."""
    model = curves.held_out[-1]
    say("\nPerplexity on the held-out files")
    say(f"  model    {model:8.2f}   (loss {math.log(model):.4f} nats per token)")
    say(f"  unigram  {unigram:8.2f}   ({unigram / model:.1f} times the model's)")
    ours, theirs = curves.seconds_xent, curves.seconds_numpy
    say(f"\nLoss and gradient of {BATCH} x {size:,} logits, {len(ours)} batches")
    say("                  median       best")
    for name, seconds in (("xent", ours), ("NumPy", theirs)):
        say(f"  {name:12} {median(seconds) * 1e3:6.2f} ms {min(seconds) * 1e3:7.2f} ms")
    ratios = median(theirs) / median(ours), min(theirs) / min(ours)
    say(f"  NumPy / xent {ratios[0]:5.1f}    {ratios[1]:7.1f}")
    say(f"  They differ by {curves.difference:.0e} at most.")


def draw(curves: Curves, unigram: float, source: str, path: Path) -> None:
    """Draw the perplexities over the steps, on a logarithmic scale."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    window = min(25, len(curves.training))
    smooth = np.exp(np.convolve(curves.training, np.full(window, 1 / window), mode="valid"))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        np.arange(len(smooth)) + (window + 1) / 2,
        smooth,
        color="#9ecae1",
        label=f"training (mean of {window} batches)",
    )
    axes.plot(
        curves.steps, curves.held_out, "o-", color="#08519c", markersize=4, label="held-out files"
    )
    axes.axhline(unigram, color="#a63603", linestyle="--", label="unigram baseline, held-out files")
    for value, color in ((unigram, "#a63603"), (curves.held_out[-1], "#08519c")):
        axes.annotate(
            f"{value:.1f}",
            (curves.steps[-1], value),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            color=color,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="step", ylabel="perplexity", title=f"Next-token perplexity on {source}")
    axes.set_xlim(0, None)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def run(options: argparse.Namespace) -> int:
    """Train, evaluate, compare, and print the results."""
    began = time.perf_counter()
    root = options.source or Path(sysconfig.get_paths()["stdlib"])
    source = options.source or f"the standard library of Python {platform.python_version()}"
    if importlib.util.find_spec("rich") is None:
        print(f"No progress bar without rich, and no --plot without matplotlib: {INSTALL}")
    paths = python_files(root)
    with progress("Reading", len(paths)) as advance:
        documents = read(paths, advance)
    if len(documents) < 2:
        print(f"error: fewer than two Python files below {root}", file=sys.stderr)
        return 1
    known, unseen = split(documents)
    vocabulary = Vocabulary(known, options.vocab)
    training, held_out = Text.encode(known, vocabulary), Text.encode(unseen, vocabulary)
    unigram, baseline = unigram_perplexity(training, held_out, len(vocabulary))
    rng = np.random.default_rng(options.seed)
    model = LanguageModel(unigram, rng, context=CONTEXT)

    unknown = np.mean(held_out.targets == 0)
    say(f"Text        {source}")
    say(f"  training  {len(known):5,} files {len(training):11,} tokens")
    say(f"  held out  {len(unseen):5,} files {len(held_out):11,} tokens, {unknown:.1%} unknown")
    say(f"Vocabulary  {len(vocabulary):,} tokens, one of which stands for all unknown ones")
    say(
        f"Model       {CONTEXT} tokens x {model.embedding} -> {model.hidden} -> "
        f"{len(vocabulary):,}; {model.parameters.size:,} parameters in float32"
    )
    curves = train(model, training, held_out, options.steps, rng)
    report_guesses(model, vocabulary)

    report(curves, baseline, len(vocabulary))
    say()
    if options.plot:
        draw(curves, baseline, str(source), options.plot)
        say(f"Plot written to {options.plot}")
    say(f"Done in {time.perf_counter() - began:.0f} s")
    return 0
