"""Classify handwritten digits: a convolutional network, in NumPy and xent.

    python examples/image_classification.py [--plot FILE]

A convolution is one matrix product: im2col puts the neighbourhood of every pixel into a row. The
backward pass starts from the gradient that `xent.cross_entropy` returns beside the loss.
"""

import argparse
import sys

import numpy as np

import xent
from xent.cli.terminal import plot_file

EPOCHS, BATCH, RATE, MOMENTUM, SMOOTHING = 12, 32, 0.08, 0.9, 0.1


class Convolution:
    """3 x 3 filters over images (n, height, width, channels), with zeros around them."""

    def __init__(self, channels, filters, rng):
        self.weight = rng.normal(0, (2 / (9 * channels)) ** 0.5, (9 * channels, filters))
        self.weight = self.weight.astype(np.float32)
        self.bias = np.zeros(filters, np.float32)

    def forward(self, x):
        n, height, width, channels = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        self.shape = x.shape
        self.rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)
        return (self.rows @ self.weight + self.bias).reshape(n, height, width, -1)

    def backward(self, grad):
        n, height, width, channels = self.shape
        grad = grad.reshape(len(self.rows), -1)
        self.gradients = self.rows.T @ grad, grad.sum(axis=0)
        # A pixel is in nine neighbourhoods, and sums what comes back from them.
        rows = (grad @ self.weight.T).reshape(n, height, width, 3, 3, channels)
        padded = np.zeros((n, height + 2, width + 2, channels), grad.dtype)
        for i in range(3):
            for j in range(3):
                padded[:, i : i + height, j : j + width] += rows[:, :, :, i, j]
        return padded[:, 1:-1, 1:-1]


class Pool:
    """The largest of each 2 x 2 pixels, if it is positive: max-pooling and ReLU at once."""

    def forward(self, x):
        n, height, width, channels = self.shape = x.shape
        self.blocks = x.reshape(n, height // 2, 2, width // 2, 2, channels)
        self.largest = np.maximum(self.blocks.max(axis=(2, 4), keepdims=True), 0)
        return self.largest[:, :, 0, :, 0]

    def backward(self, grad):
        chosen = (self.blocks == self.largest) & (self.blocks > 0)
        return (chosen * grad[:, :, None, :, None]).reshape(self.shape)


class Linear:
    """A matrix product over all that is left of an image."""

    def __init__(self, inputs, outputs, rng):
        self.weight = rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)

    def forward(self, x):
        self.shape, self.rows = x.shape, x.reshape(len(x), -1)
        return self.rows @ self.weight + self.bias

    def backward(self, grad):
        self.gradients = self.rows.T @ grad, grad.sum(axis=0)
        return (grad @ self.weight.T).reshape(self.shape)


class Network:
    """Layers one after the other, and their gradients in reverse."""

    def __init__(self, *layers):
        self.layers = layers
        self.learned = [layer for layer in layers if hasattr(layer, "weight")]
        self.weights = [w for layer in self.learned for w in (layer.weight, layer.bias)]
        self.velocities = [np.zeros_like(weight) for weight in self.weights]

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def step(self, grad, rate):
        """Move the weights against their gradients, which follow from that of the logits."""
        for layer in reversed(self.layers):
            grad = layer.backward(grad)
        gradients = [gradient for layer in self.learned for gradient in layer.gradients]
        for weight, velocity, gradient in zip(
            self.weights, self.velocities, gradients, strict=True
        ):
            velocity *= MOMENTUM
            velocity -= rate * gradient
            weight += velocity


def draw(path, losses, images, digits, logits):
    """Draw the loss over the batches, and those images that cost most."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    probabilities = xent.softmax(logits, axis=1)
    cost = xent.cross_entropy(logits, digits, reduction="none")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent"}):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        curve, examples = figure.subfigures(1, 2)
        axes = curve.add_subplot()
        axes.plot(losses, color="#9ecae1", linewidth=0.8, label="each batch")
        smooth = np.convolve(losses, np.full(25, 1 / 25), mode="valid")
        axes.plot(np.arange(len(smooth)) + 12, smooth, color="#08519c", label="mean of 25")
        floor = xent.entropy(np.log([1 - 0.9 * SMOOTHING, *[SMOOTHING / 10] * 9]))
        axes.axhline(floor, color="#d94801", linestyle="--", label="least possible")
        axes.set(xlabel="batch", ylabel="smoothed cross-entropy, nats", ylim=(0, 2.5))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        worst = np.argsort(-cost, kind="stable")[:8]
        for cell, i in zip(examples.subplots(2, 4).flat, worst, strict=True):
            cell.imshow(images[i, ..., 0], cmap="gray_r", interpolation="none")
            guess = logits[i].argmax()
            color = "#238b45" if guess == digits[i] else "#d94801"
            title = f"{digits[i]}: {guess} ({probabilities[i, guess]:.0%})"
            cell.set_title(title, color=color, fontsize=9)
            cell.set_axis_off()
        examples.suptitle("Truth: prediction, of the costliest images", fontsize=10)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Classify digits by a convolutional network.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw the loss and some predictions"
    )
    plot = parser.parse_args().plot
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("The images come with scikit-learn: pip install scikit-learn")

    rng = np.random.default_rng(0)
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train, test = np.split(rng.permutation(len(digits)), [len(digits) * 3 // 4])
    network = Network(
        Convolution(1, 16, rng), Pool(), Convolution(16, 32, rng), Pool(), Linear(128, 10, rng)
    )
    losses = []
    print("epoch   training loss")
    for epoch in range(1, EPOCHS + 1):
        for batch in np.split(rng.permutation(train), range(BATCH, len(train), BATCH)):
            logits = network.forward(images[batch])
            loss, grad = xent.cross_entropy(
                logits, digits[batch], label_smoothing=SMOOTHING, return_grad=True
            )
            network.step(grad, RATE * (1 - epoch / (EPOCHS + 1)))
            losses.append(loss)
        if epoch % 3 == 0:
            batches = len(losses) // epoch
            print(f"{epoch:5}   {np.mean(losses[-batches:]):13.4f}")

    logits = network.forward(images[test])
    log_loss = xent.cross_entropy(logits, digits[test])
    accuracy = np.mean(logits.argmax(axis=1) == digits[test])
    print(f"\n{len(test)} images not seen in training")
    print(f"  accuracy  {accuracy:.1%}")
    print(f"  log-loss  {log_loss:.4f} nats (guessing: {np.log(10):.4f})")
    if plot:
        draw(plot, losses, images[test], digits[test], logits)


if __name__ == "__main__":
    main()
