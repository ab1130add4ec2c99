"""Tell coins, their rims and the ground apart, pixel by pixel: a convolutional network, in NumPy and xent.

    python examples/segmentation.py [--plot FILE]

The photograph of Greek coins comes with scikit-image, and so does the method that finds its regions: a
watershed, which sees all of the image. The network sees a neighbourhood of each pixel, learns from the
left half, and is tested on the right one. The same networks are trained by cross-entropy, by the Dice
loss, and by their sum.
"""

import argparse
import sys

import numpy as np

import xent
from xent.cli.model import Adam
from xent.cli.terminal import plot_file

CLASSES = ("ground", "coin", "rim")
FILTERS, DILATIONS = 8, (1, 2, 4, 8)
RUNS, STEPS, HEIGHT, RATE = 4, 120, 75, 1e-2


def read_image():
    """Return the photograph, at half its resolution and in (0, 1), and the class of each pixel."""
    try:
        from scipy import ndimage
        from skimage import data, filters, segmentation
    except ImportError:
        sys.exit("The image comes with scikit-image: pip install scikit-image")
    coins = data.coins()[:302]
    # Regions grow from what is surely ground, or surely coin, and meet where the image is steepest.
    markers = np.select([coins < 30, coins > 150], [1, 2])
    regions = segmentation.watershed(filters.sobel(coins), markers)
    # What is narrower than a rim is no coin but a speck.
    inside = ndimage.binary_opening(ndimage.binary_fill_holes(regions == 2), iterations=3)
    classes = inside.astype(np.int64) + (inside & ~ndimage.binary_erosion(inside, iterations=4))
    height, width = coins.shape
    image = coins.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) / 255
    return image.astype(np.float32), classes[::2, ::2]


class Network:
    """3 x 3 convolutions, each of pixels twice as far apart as before, and ReLU; then logits."""

    def __init__(self, rng):
        inputs = [9, *[9 * FILTERS] * (len(DILATIONS) - 1), len(DILATIONS) * FILTERS]
        outputs = [FILTERS] * len(DILATIONS) + [len(CLASSES)]
        shapes = [shape for i, o in zip(inputs, outputs, strict=True) for shape in ((i, o), (o,))]
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        self.parameters = np.zeros(ends[-1], np.float32)
        parts = np.split(self.parameters, ends[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        self.weights, self.biases = arrays[::2], arrays[1::2]
        for weight in self.weights:
            weight[:] = rng.normal(0, (2 / len(weight)) ** 0.5, weight.shape)

    def forward(self, x):
        """Return the logits (n, classes, height, width) of images (n, height, width)."""
        height, width = x.shape[1:]
        x, self.rows, self.answers = x[..., None], [], []
        for weight, bias, d in zip(self.weights[:-1], self.biases[:-1], DILATIONS, strict=True):
            # Where the image ends, its last pixels go on.
            padded = np.pad(x, ((0, 0), (d, d), (d, d), (0, 0)), mode="edge")
            near = [
                padded[:, i : i + height, j : j + width]
                for i in (0, d, 2 * d)
                for j in (0, d, 2 * d)
            ]
            self.rows.append(np.concatenate(near, axis=3))
            x = np.maximum(self.rows[-1] @ weight + bias, 0)
            self.answers.append(x)
        # The logits are of what all layers answered, so that near and far count.
        self.rows.append(np.concatenate(self.answers, axis=3))
        return (self.rows[-1] @ self.weights[-1] + self.biases[-1]).transpose(0, 3, 1, 2)

    def backward(self, grad):
        """Return the gradients of weights and biases, in order, from that of the logits."""
        grad = grad.transpose(0, 2, 3, 1)
        n, height, width, _ = grad.shape
        gradients = []

        def learn(rows, grad):
            grad = grad.reshape(-1, grad.shape[-1])
            gradients[:0] = rows.reshape(len(grad), -1).T @ grad, grad.sum(axis=0)

        learn(self.rows[-1], grad)
        shares = np.split(grad @ self.weights[-1].T, len(DILATIONS), axis=3)
        later = 0
        for layer in reversed(range(len(DILATIONS))):
            grad, d = (shares[layer] + later) * (self.answers[layer] > 0), DILATIONS[layer]
            learn(self.rows[layer], grad)
            if layer:
                padded = np.zeros((n, height + 2 * d, width + 2 * d, FILTERS), grad.dtype)
                parts = iter(np.split(grad @ self.weights[layer].T, 9, axis=3))
                for i in (0, d, 2 * d):
                    for j in (0, d, 2 * d):
                        padded[:, i : i + height, j : j + width] += next(parts)
                later = unpad(padded, d)
        return gradients


def unpad(padded, d):
    """Return the gradient of an image from that of the image padded by its last pixels."""
    for axis in (1, 2):
        padded = np.moveaxis(padded, axis, 0)
        padded[d] += padded[:d].sum(axis=0)
        padded[-d - 1] += padded[-d:].sum(axis=0)
        padded = np.moveaxis(padded[d:-d], 0, axis)
    return padded


def train(image, classes, weights, rng):
    """Train a network by a sum of cross-entropy and Dice loss, each with its weight."""
    network = Network(rng)
    optimiser = Adam(network.parameters.size)
    for step in range(STEPS):
        # Some rows of the image, turned over at random, so that it is not the same each time.
        top = rng.integers(len(image) - HEIGHT + 1)
        part = np.s_[top : top + HEIGHT]
        turn = np.s_[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        x, y = image[part][turn][None], classes[part][turn][None]
        logits = network.forward(x)
        grad = np.zeros_like(logits)
        for loss, weight in zip((xent.cross_entropy, xent.dice_loss), weights, strict=True):
            if weight:
                grad += loss(logits, y, axis=1, return_grad=True, grad_output=weight)[1]
        gradient = np.concatenate([array.ravel() for array in network.backward(grad)])
        optimiser.step(network.parameters, gradient, RATE * (1 - step / STEPS))
    return network


def overlap(truth, guess):
    """Return the intersection over union of each class."""
    both = np.array([np.sum((truth == c) & (guess == c)) for c in range(len(CLASSES))])
    either = np.array([np.sum((truth == c) | (guess == c)) for c in range(len(CLASSES))])
    return both / either


def draw(path, image, truth, guess):
    """Draw the unseen half of the image, its truth and a prediction."""
    from matplotlib import rc_context
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = ("#08306b", "#c6dbef", "#fd8d3c")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent"}):
        figure = Figure(figsize=(8.4, 5), layout="constrained")
        panels = figure.subplots(1, 3)
        panels[0].imshow(image, "gray", interpolation="none")
        for axes, drawn in zip(panels[1:], (truth, guess), strict=True):
            axes.imshow(drawn, ListedColormap(colors), vmin=0, vmax=2, interpolation="none")
        titles = "unseen half of the image", "truth: watershed", "predicted: both losses"
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
        handles = [Patch(color=c, label=name) for c, name in zip(colors, CLASSES, strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Tell coins, their rims and the ground apart.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw image, truth and prediction"
    )
    plot = parser.parse_args().plot

    image, classes = read_image()
    half = image.shape[1] // 2
    seen, unseen = np.s_[:, :half], np.s_[:, half:]
    shares = np.bincount(classes[unseen].ravel()) / classes[unseen].size
    print(f"Trained on {classes[seen].size:,} pixels, tested on {classes[unseen].size:,}")
    print(f"Intersection over union, means of {RUNS} runs\n")
    print(" " * 16 + "".join(f"{name:>9}" for name in (*CLASSES, "mean")))
    print(f"{'share of pixels':16}" + "".join(f"{share:9.1%}" for share in shares))
    losses = {"cross-entropy": (1, 0), "Dice loss": (0, 1), "both": (1, 1)}
    for name, weights in losses.items():
        found = np.zeros(len(CLASSES))
        for run in range(RUNS):
            network = train(image[seen], classes[seen], weights, np.random.default_rng(run))
            guess = network.forward(image[unseen][None])[0].argmax(axis=0)
            found += overlap(classes[unseen], guess) / RUNS
        print(f"{name:16}" + "".join(f"{value:9.3f}" for value in (*found, found.mean())))
    if plot:
        draw(plot, image[unseen], classes[unseen], guess)


if __name__ == "__main__":
    main()
