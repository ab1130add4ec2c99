"""Distil a language model into one of a sixth of the parameters, in NumPy and xent.

    python examples/distillation.py [--steps N] [--plot FILE]

The text is Python's own standard library, and the models are those of `python -m xent demo`. The
teacher learns from all of it. Students learn the next token alone, or the probabilities that the
teacher gives to all tokens, at a temperature; some of them see a thirtieth of the text.
"""

import argparse
import math
import sysconfig
from pathlib import Path

import numpy as np

import xent
from xent.cli.corpus import CONTEXT, Text, Vocabulary, python_files, read, split
from xent.cli.model import Adam, LanguageModel
from xent.cli.terminal import at_least, plot_file

VOCABULARY, BATCH, RATE, WARM_UP, EVALUATIONS = 1024, 256, 8e-3, 50, 8
TEMPERATURES = (1, 2)


def read_text():
    """Return the text to learn from and the files held out, as indices of tokens."""
    paths = python_files(Path(sysconfig.get_paths()["stdlib"]))
    known, unseen = split(read(paths, lambda: None))
    vocabulary = Vocabulary(known, VOCABULARY)
    return Text.encode(known, vocabulary), Text.encode(unseen, vocabulary)


def perplexity(model, text, positions):
    """Return the perplexity of the tokens at some positions."""
    total = 0.0
    for part in np.array_split(positions, math.ceil(len(positions) / 2048)):
        contexts, targets = text.examples(part)
        total += xent.cross_entropy(model.forward(contexts), targets, reduction="sum")
    return math.exp(total / len(positions))


def from_tokens(logits, contexts, targets):
    """Return the gradient of the logits when the next token is to be guessed."""
    return xent.cross_entropy(logits, targets, return_grad=True)[1]


def from_teacher(teacher, temperature):
    """Return the same when the teacher's probabilities are to be matched: targets are not used."""

    def gradient(logits, contexts, targets):
        expected = teacher.forward(contexts)
        return xent.distillation_loss(logits, expected, temperature=temperature, return_grad=True)[
            1
        ]

    return gradient


def train(model, gradient, text, positions, steps, held_out):
    """Train a model on the tokens at some positions; return its perplexities on the way."""
    rng = np.random.default_rng(1)
    optimiser, curve = Adam(model.parameters.size), []
    sample = held_out.positions[::16]
    for step in range(steps):
        contexts, targets = text.examples(rng.choice(positions, BATCH))
        model.backward(gradient(model.forward(contexts), contexts, targets))
        rate = RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.step(model.parameters, model.gradient, rate)
        if (step + 1) * EVALUATIONS % steps < EVALUATIONS:
            curve.append((step + 1, perplexity(model, held_out, sample)))
    return curve


def draw(path, curves, teacher):
    """Draw the perplexities of the students over the steps, of each text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    colors = ("#737373", "#08519c", "#6baed6")
    style = {"axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent", **style}):
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (title, students) in zip(panels, curves.items(), strict=True):
            for (name, curve), color in zip(students.items(), colors, strict=True):
                axes.plot(*zip(*curve, strict=True), "o-", ms=3, color=color, label=name)
            axes.axhline(teacher, color="#d94801", linestyle="--", label="teacher")
            axes.set(title=title, xlabel="step", yscale="log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7, 8)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
        panels[0].set_ylabel("perplexity, held-out files")
        panels[1].legend()
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Distil a language model into a smaller one.")
    parser.add_argument(
        "--steps", type=at_least(EVALUATIONS), default=1000, metavar="N", help="default: 1000"
    )
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw the perplexities over the steps"
    )
    options = parser.parse_args()

    text, held_out = read_text()
    counts = np.bincount(text.targets, minlength=VOCABULARY) + 1.0
    frequencies = np.log(counts / counts.sum())

    def new(embedding, hidden):
        rng = np.random.default_rng(0)
        return LanguageModel(frequencies, rng, context=CONTEXT, embedding=embedding, hidden=hidden)

    teacher = new(48, 128)
    train(teacher, from_tokens, text, text.positions, options.steps, held_out)
    best = perplexity(teacher, held_out, held_out.positions)
    sizes = teacher.parameters.size, new(16, 16).parameters.size
    print(f"Text      {len(text):,} tokens; held out {len(held_out):,} of other files")
    print(f"Teacher   {sizes[0]:,} parameters, perplexity {best:.2f}")
    print(f"Students  {sizes[1]:,} parameters, {options.steps} steps of {BATCH} tokens\n")

    little = np.random.default_rng(0).choice(text.positions, len(text) // 30, replace=False)
    texts = {"All of the text": text.positions, "A thirtieth of it": little}
    lessons = {"trained alone": from_tokens}
    lessons |= {f"distilled, T = {t}": from_teacher(teacher, t) for t in TEMPERATURES}
    curves = {}
    print("Perplexity          all of the text   a thirtieth of it")
    for name, gradient in lessons.items():
        found = []
        for title, positions in texts.items():
            student = new(16, 16)
            curve = train(student, gradient, text, positions, options.steps, held_out)
            curves.setdefault(title, {})[name] = curve
            found.append(perplexity(student, held_out, held_out.positions))
        print(f"{name:18}  {found[0]:15.2f}   {found[1]:17.2f}", flush=True)
    if options.plot:
        draw(options.plot, curves, best)


if __name__ == "__main__":
    main()
