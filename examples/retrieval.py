"""Find the other half of a handwritten digit among many: two encoders, in NumPy and xent.

    python examples/retrieval.py [--plot FILE]

One encoder makes a vector of the upper half of an image, the other of the lower half. The loss,
`xent.info_nce`, asks of every half in a batch which of all the others in it is its counterpart; the
backward pass starts from its gradients with respect to both sets of vectors.
"""

import argparse
import itertools
import sys

import numpy as np

import xent
from xent.cli.model import Adam
from xent.cli.terminal import plot_file

HIDDEN, SIZE, TEMPERATURE = 256, 64, 0.1
EPOCHS, BATCH, RATE = 40, 128, 2e-3
SHOWN = 60  # pairs of the picture


class Encoders:
    """Two networks of one hidden layer each, whose weights are views of one array."""

    def __init__(self, inputs, rng):
        shapes = [(inputs, HIDDEN), (HIDDEN,), (HIDDEN, SIZE)] * 2
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        self.parameters = np.zeros(ends[-1], np.float32)
        self.gradient = np.zeros_like(self.parameters)

        def views(array):
            parts = np.split(array, ends[:-1])
            arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            return arrays[:3], arrays[3:]

        self.weights, self.gradients = views(self.parameters), views(self.gradient)
        for w1, _, w2 in self.weights:
            w1[:] = rng.normal(0, inputs**-0.5, w1.shape)
            w2[:] = rng.normal(0, HIDDEN**-0.5, w2.shape)

    def forward(self, *halves):
        """Return a vector for each upper and each lower half."""
        self.halves, self.hidden = halves, []
        for x, (w1, b1, _) in zip(halves, self.weights, strict=True):
            self.hidden.append(np.maximum(x @ w1 + b1, 0))
        return [h @ w2 for h, (_, _, w2) in zip(self.hidden, self.weights, strict=True)]

    def backward(self, grads):
        """Set the gradients of the weights from those of the vectors."""
        both = zip(self.halves, self.hidden, self.weights, self.gradients, grads, strict=True)
        for x, h, (_, _, w2), (grad_w1, grad_b1, grad_w2), grad in both:
            grad_h = (grad @ w2.T) * (h > 0)
            grad_w1[:], grad_b1[:], grad_w2[:] = x.T @ grad_h, grad_h.sum(axis=0), h.T @ grad


def similarities(encoders, upper, lower):
    """Return the cosine of each upper half's vector with each lower half's."""
    q, k = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in encoders.forward(upper, lower))
    return q @ k.T


def recall(similarity, most):
    """Return how often the counterpart is among the most similar."""
    better = similarity > np.diag(similarity)[:, None]
    return np.mean(better.sum(axis=1) < most)


def draw(path, before, after, digits):
    """Draw the similarities of some pairs in the order of their digits, before and after training."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    order = np.argsort(digits[:SHOWN], kind="stable")
    starts = np.searchsorted(digits[:SHOWN][order], np.arange(11))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent"}):
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        titles = "before training", "after training"
        for axes, title, similarity in zip(panels, titles, (before, after), strict=True):
            drawn = similarity[np.ix_(order, order)]
            image = axes.imshow(drawn, "RdBu_r", vmin=-1, vmax=1, interpolation="none")
            middles = (starts[:-1] + starts[1:] - 1) / 2
            axes.set(title=title, xlabel="lower half of a", xticks=middles, yticks=middles)
            axes.set(xticklabels=range(10), yticklabels=range(10))
            axes.tick_params(length=0)
            for start, end in itertools.pairwise(starts - 0.5):
                square = [start, end, end, start, start], [start, start, end, end, start]
                axes.plot(*square, color="black", linewidth=0.6)
        panels[0].set_ylabel("upper half of a")
        figure.colorbar(image, ax=panels, label="cosine", ticks=[-1, 0, 1])
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Find the other half of an image among many.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw similarities before and after"
    )
    plot = parser.parse_args().plot
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("The images come with scikit-learn: pip install scikit-learn")

    rng = np.random.default_rng(0)
    images, digits = load_digits(return_X_y=True)
    train, test = np.split(rng.permutation(len(digits)), [len(digits) * 3 // 4])
    images = ((images - images[train].mean(axis=0)) / 16).astype(np.float32)
    # The first four rows of pixels, and the last four.
    upper, lower = images[:, :32], images[:, 32:]
    encoders = Encoders(32, rng)
    before = similarities(encoders, upper[test], lower[test])
    optimiser = Adam(encoders.parameters.size)
    print(f"epoch   training loss (guessing: {np.log(BATCH):.4f})")
    for epoch in range(1, EPOCHS + 1):
        losses = []
        order = rng.permutation(train)
        # As many negatives in every batch: the last, incomplete one is left out.
        for batch in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            loss, grads = xent.info_nce(
                *encoders.forward(upper[batch], lower[batch]),
                temperature=TEMPERATURE,
                symmetric=True,
                normalize=True,
                return_grad=True,
            )
            encoders.backward(grads)
            rate = RATE * (1 - epoch / (EPOCHS + 1))
            optimiser.step(encoders.parameters, encoders.gradient, rate)
            losses.append(loss)
        if epoch % 10 == 0:
            print(f"{epoch:5}   {np.mean(losses):13.4f}")

    after = similarities(encoders, upper[test], lower[test])
    print(f"\n{len(test)} pairs not seen in training: an upper half, and all lower halves\n")
    print("            recall@1   recall@5")
    print(f"chance      {1 / len(test):8.1%}   {5 / len(test):8.1%}")
    for name, similarity in (("untrained", before), ("trained", after)):
        print(f"{name:10}  {recall(similarity, 1):8.1%}   {recall(similarity, 5):8.1%}")
    if plot:
        draw(plot, before, after, digits[test])


if __name__ == "__main__":
    main()
