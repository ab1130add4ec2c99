"""Recognise spoken digits of voices not heard in training: a small network in NumPy and xent.

    python examples/speech.py [--plot FILE]

The 2,020 words of speech.npz are log-mel spectrograms of synthetic voices (see make_speech.py). Each
filter of the network looks at five frames at a time, a tenth of a second, and its largest answer in
each quarter of the time is kept; a matrix product makes logits of them. Four networks are trained, each
tested on the quarter of the voices that it has not heard.
"""

import argparse
from pathlib import Path

import numpy as np

import xent
from xent.cli.terminal import plot_file

FOLDS, FILTERS, WIDTH, PARTS = 4, 48, 5, 4
EPOCHS, BATCH, RATE, MOMENTUM, SMOOTHING = 20, 32, 0.05, 0.9, 0.05
SHOWN = 48  # the voice of the picture: m1 to m8 of espeak-ng


class Network:
    """A convolution over time, the maximum of each part of it and ReLU, a matrix product."""

    def __init__(self, bands, rng):
        self.inputs = WIDTH * bands
        w1 = rng.normal(0, self.inputs**-0.5, (self.inputs, FILTERS))
        w2 = rng.normal(0, (PARTS * FILTERS) ** -0.5, (PARTS * FILTERS, 10))
        weights = (w1, np.zeros(FILTERS), w2, np.zeros(10))
        self.weights = [weight.astype(np.float32) for weight in weights]
        self.velocities = [np.zeros_like(weight) for weight in self.weights]

    def forward(self, words):
        """Return the logits (n, 10) of spectrograms (n, frames, bands)."""
        w1, b1, w2, b2 = self.weights
        windows = np.lib.stride_tricks.sliding_window_view(words, WIDTH, axis=1)
        self.windows = windows.reshape(-1, self.inputs)
        answers = (self.windows @ w1 + b1).reshape(len(words), PARTS, -1, FILTERS)
        self.shape, self.at = answers.shape, answers.argmax(axis=2, keepdims=True)
        largest = np.take_along_axis(answers, self.at, axis=2)
        self.hidden = np.maximum(largest, 0).reshape(len(words), -1)
        return self.hidden @ w2 + b2

    def backward(self, grad):
        """Return the gradients of the weights from that of the logits."""
        grad_hidden = (grad @ self.weights[2].T) * (self.hidden > 0)
        grad_answers = np.zeros(self.shape, grad.dtype)
        np.put_along_axis(grad_answers, self.at, grad_hidden.reshape(self.at.shape), axis=2)
        grad_answers = grad_answers.reshape(-1, FILTERS)
        grad_w1 = self.windows.T @ grad_answers
        return grad_w1, grad_answers.sum(axis=0), self.hidden.T @ grad, grad.sum(axis=0)

    def step(self, grad, rate):
        """Move the weights against their gradients, with momentum."""
        gradients = self.backward(grad)
        for weight, velocity, gradient in zip(
            self.weights, self.velocities, gradients, strict=True
        ):
            velocity *= MOMENTUM
            velocity -= rate * gradient
            weight += velocity


def train(words, digits, rows, rng):
    """Train a network on some of the words; return it and the mean loss of its last epoch."""
    network = Network(words.shape[2], rng)
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for batch in np.split(rng.permutation(rows), range(BATCH, len(rows), BATCH)):
            logits = network.forward(words[batch])
            loss, grad = xent.cross_entropy(
                logits, digits[batch], label_smoothing=SMOOTHING, return_grad=True
            )
            network.step(grad, RATE * (1 - epoch / (EPOCHS + 1)))
            losses.append(loss)
    return network, np.mean(losses)


def draw(path, spectrograms, digits, voices, guesses):
    """Draw the words of one voice, and how often each digit was taken for which."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent"}):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
        left.suptitle("A voice's words: 24 mel bands over 0.8 s", fontsize=10)
        for digit, cell in enumerate(left.subplots(2, 5).flat):
            word = spectrograms[(digits == digit) & (voices == SHOWN)][0]
            cell.imshow(word.T, "magma", origin="lower", aspect="auto", interpolation="none")
            cell.set_title(digit, fontsize=10)
            cell.set_axis_off()
        confused = np.zeros((10, 10), int)
        np.add.at(confused, (digits, guesses), 1)
        axes = right.add_subplot()
        axes.imshow(confused, "Blues", norm="asinh", interpolation="none")
        for truth, guess in np.argwhere(confused):
            color = "white" if truth == guess else "black"
            axes.text(guess, truth, confused[truth, guess], ha="center", va="center", color=color)
        axes.set(xticks=range(10), yticks=range(10), xlabel="recognised", ylabel="said")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Recognise spoken digits of unknown voices.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw words and the confusion matrix"
    )
    plot = parser.parse_args().plot

    data = np.load(Path(__file__).with_name("speech.npz"))
    spectrograms, digits, voices = data["spectrograms"], data["digits"], data["voices"]
    words = spectrograms.astype(np.float32) / 255
    rng = np.random.default_rng(0)
    fold = rng.permutation(np.arange(voices.max() + 1) % FOLDS)[voices]
    logits = np.empty((len(words), 10), np.float32)
    print("fold   words tested   training loss   accuracy")
    for k in range(FOLDS):
        network, loss = train(words, digits, np.flatnonzero(fold != k), rng)
        logits[fold == k] = network.forward(words[fold == k])
        accuracy = np.mean(logits[fold == k].argmax(axis=1) == digits[fold == k])
        print(f"{k + 1:4}   {np.sum(fold == k):12}   {loss:13.4f}   {accuracy:8.1%}")

    guesses = logits.argmax(axis=1)
    log_loss = xent.cross_entropy(logits, digits)
    print(f"\n{len(words):,} words, {voices.max() + 1} voices, none heard in training")
    print(f"  accuracy  {np.mean(guesses == digits):.1%}")
    print(f"  log-loss  {log_loss:.4f} nats (guessing: {np.log(10):.4f})")
    if plot:
        draw(plot, spectrograms, digits, voices, guesses)


if __name__ == "__main__":
    main()
