"""Learn from classes of which one is fifty times as frequent as another, in NumPy and xent.

    python examples/imbalanced_classes.py [--plot FILE]

Handwritten digits are thinned out: 100 images of one class, fewer of each next one, two of the last.
A network with one hidden layer is trained on them with each of four losses, and tested on as many
images of every class. All is repeated with other digits as the rare ones, and averaged.
"""

import argparse
import sys

import numpy as np

import xent
from xent.cli.terminal import plot_file

RUNS, MOST, IMBALANCE, TESTED = 20, 100, 50, 50
HIDDEN, EPOCHS, BATCH, RATE, MOMENTUM, DECAY = 64, 40, 32, 0.05, 0.9, 1e-4


def plain(logits, y, prior):
    return xent.cross_entropy(logits, y, return_grad=True)


def weighted(logits, y, prior):
    """Every class counts alike, however many images it has."""
    return xent.cross_entropy(logits, y, class_weight=1 / prior, return_grad=True)


def focal(logits, y, prior):
    """Rows that are right already count less."""
    return xent.focal_loss(logits, y, gamma=2.0, return_grad=True)


def adjusted(logits, y, prior):
    """Frequencies are added, so that the logits need not learn them (arXiv:2007.07314)."""
    return xent.cross_entropy(logits + np.log(prior), y, return_grad=True)


def thin_out(ranks, rng):
    """Return which images to train on, the fewer the higher their rank, and which to test on."""
    counts = np.round(MOST * float(IMBALANCE) ** -np.linspace(0, 1, 10)).astype(int)
    classes = [rng.permutation(np.flatnonzero(ranks == c)) for c in range(10)]
    train = [images[TESTED:][:count] for images, count in zip(classes, counts, strict=True)]
    return np.concatenate(train), np.concatenate([images[:TESTED] for images in classes]), counts


def fit(loss_and_grad, x, y, prior, rng):
    """Train a network, and return the function from images to its logits."""
    w1 = rng.normal(0, 64**-0.5, (64, HIDDEN)).astype(np.float32)
    w2 = rng.normal(0, HIDDEN**-0.5, (HIDDEN, 10)).astype(np.float32)
    b1, b2 = np.zeros(HIDDEN, np.float32), np.zeros(10, np.float32)
    weights = (w1, b1, w2, b2)
    velocities = [np.zeros_like(weight) for weight in weights]
    for epoch in range(EPOCHS):
        for rows in np.split(rng.permutation(len(x)), range(BATCH, len(x), BATCH)):
            hidden = np.maximum(x[rows] @ w1 + b1, 0)
            _, grad = loss_and_grad(hidden @ w2 + b2, y[rows], prior)
            grad_hidden = (grad @ w2.T) * (hidden > 0)
            gradients = (x[rows].T @ grad_hidden, grad_hidden.sum(0), hidden.T @ grad, grad.sum(0))
            for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
                velocity *= MOMENTUM
                velocity -= RATE * (1 - epoch / EPOCHS) * (gradient + DECAY * weight)
                weight += velocity
    return lambda x: np.maximum(x @ w1 + b1, 0) @ w2 + b2


def score(logits, y):
    """Return the log-loss over classes of equal frequency, and the accuracy for each class."""
    hits = logits.argmax(axis=1) == y
    return [xent.cross_entropy(logits, y), *(hits[y == c].mean() for c in range(10))]


def run(images, digits, seed):
    """Return the scores by the name of the loss, and how many images the classes had."""
    rng = np.random.default_rng(seed)
    ranks = rng.permutation(10)[digits]  # the higher the rarer
    train, test, counts = thin_out(ranks, rng)
    prior = (counts / counts.sum()).astype(np.float32)

    def logits(loss_and_grad):
        same_start = np.random.default_rng(seed)
        return fit(loss_and_grad, images[train], ranks[train], prior, same_start)(images[test])

    found = {
        "cross-entropy": (ordinary := logits(plain)),
        "focal loss": logits(focal),
        "class weights": logits(weighted),
        "logit adjustment": logits(adjusted),
        "adjusted afterwards": ordinary - np.log(prior),
    }
    return {name: score(z, ranks[test]) for name, z in found.items()}, counts


def draw(path, scores, counts):
    """Draw the accuracy over the number of images, and the log-loss with its deviation."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colors = ("#737373", "#fdae6b", "#d94801", "#08519c", "#6baed6")
    style = {"axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent", **style}):
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for (name, values), color in zip(scores.items(), colors, strict=True):
            left.plot(counts, values[:, 1:].mean(axis=0), "o-", ms=4, color=color, label=name)
            log_loss = values[:, 0]
            right.barh(name, log_loss.mean(), xerr=log_loss.std(), color=color)
        left.set(xscale="log", xlabel="training images of the class", ylabel="accuracy")
        left.set_xticks([*counts[::2], counts[-1]], [*counts[::2], counts[-1]], minor=False)
        left.minorticks_off()
        left.invert_xaxis()
        left.legend()
        right.invert_yaxis()
        right.set(xlabel="log-loss, nats (± deviation between runs)")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Compare losses on classes of unequal frequency.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw accuracies and log-losses"
    )
    plot = parser.parse_args().plot
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("The images come with scikit-learn: pip install scikit-learn")

    pixels, digits = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32)
    runs, counts = zip(*(run(images, digits, seed) for seed in range(RUNS)), strict=True)
    scores = {name: np.array([each[name] for each in runs]) for name in runs[0]}
    print(f"Training images of the ten classes: {', '.join(map(str, counts[0]))}")
    print(f"Tested on {TESTED} of each; means of {RUNS} runs\n")
    print("                        accuracy              log-loss")
    print("                       all   three rarest         nats")
    for name, values in scores.items():
        log_loss, *classes = values.mean(axis=0)
        print(
            f"{name:20} {np.mean(classes):5.1%}   {np.mean(classes[-3:]):12.1%}   {log_loss:10.3f}"
        )
    if plot:
        draw(plot, scores, counts[0])


if __name__ == "__main__":
    main()
