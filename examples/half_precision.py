"""Train in half precision, with and without a scale of the loss: a small network in NumPy and xent.

    python examples/half_precision.py [--plot FILE]

Activations and gradients are float16, weights and the optimiser's state float32; products are summed in
float32 and rounded once, as matrix units do. The loss has a factor, as that of one part of a large
batch, and the gradients of the weights are divided by it again: in float32 it changes nothing. In float16
the gradients on the way become zero, unless `xent.LossScaler` keeps them in range.
"""

import argparse
import itertools
import sys

import numpy as np

import xent
from xent.cli.model import Adam
from xent.cli.terminal import plot_file

SIZES = (64, 64, 64, 10)
STEPS, BATCH, RATE, INTERVAL = 600, 128, 2e-3, 20
EXPONENTS, SHOWN = (0, 8, 12, 14, 20), 14  # of the factors 2**-k, and the one of the picture


class Network:
    """Matrix products with ReLU between them, whose activations and gradients have a given dtype."""

    def __init__(self, dtype, rng):
        self.dtype = dtype
        shapes = [shape for i, o in itertools.pairwise(SIZES) for shape in ((i, o), (o,))]
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        self.parameters = np.zeros(ends[-1], np.float32)
        parts = np.split(self.parameters, ends[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        self.weights, self.biases = arrays[::2], arrays[1::2]
        for weight in self.weights:
            weight[:] = rng.normal(0, (2 / len(weight)) ** 0.5, weight.shape)

    def forward(self, x):
        """Return the logits of images."""
        self.inputs = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            # ReLU between layers: what is put into the first one is positive already.
            self.inputs.append(np.maximum(x, 0).astype(self.dtype))
            # NumPy multiplies float16 by float32 in float32.
            x = (self.inputs[-1] @ weight + bias).astype(self.dtype)
        return x

    def backward(self, grad):
        """Return the gradients of all weights, and how many of those of activations became zero."""
        gradients, lost, total = [], np.sum(grad == 0), grad.size
        # Underflow is what is counted. Too large a scale makes infinities, and NaN of those: the scaler finds them.
        with np.errstate(under="ignore", over="ignore", invalid="ignore"):
            for layer in reversed(range(len(self.weights))):
                x, weight = self.inputs[layer], self.weights[layer]
                wide = grad.astype(weight.dtype)
                gradients[:0] = x.T @ wide, wide.sum(axis=0)
                if layer:
                    # Where ReLU is zero, the gradient is too, in any precision: that is no loss.
                    active = x > 0
                    grad = np.where(active, wide @ weight.T, 0).astype(self.dtype)
                    lost, total = lost + np.sum(active & (grad == 0)), total + np.sum(active)
            flat = np.concatenate([array.ravel() for array in gradients]).astype(self.dtype)
        return flat, lost / total


def train(images, digits, dtype, factor, scaler=None):
    """Train a network; return it, the shares of gradients lost, the scales, and the steps skipped."""
    rng = np.random.default_rng(1)
    network = Network(dtype, rng)
    optimiser, lost, scales, skipped = Adam(network.parameters.size), [], [], []
    for step in range(STEPS):
        batch = rng.choice(len(images), BATCH, replace=False)
        scale = scaler.scale if scaler else 1.0
        _, grad = xent.cross_entropy(
            network.forward(images[batch]),
            digits[batch],
            return_grad=True,
            grad_output=factor * scale,
        )
        gradient, share = network.backward(grad)
        gradient = gradient.astype(np.float32)
        lost.append(share)
        scales.append(scale)
        if scaler:
            finite = scaler.unscale(gradient)
            scaler.update()
            if not finite:
                skipped.append(step)
                continue
        optimiser.step(network.parameters, gradient / factor, RATE * (1 - step / STEPS))
    return network, np.array(lost), np.array(scales), np.array(skipped, int)


def draw(path, plain, scaled):
    """Draw the gradients that are lost in each step, and the scale."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    style = {"axes.spines.right": False, "axes.spines.top": False, "legend.frameon": False}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xent", **style}):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(plain[1], color="#d94801", linewidth=0.8, label="float16")
        left.plot(scaled[1], color="#08519c", linewidth=0.8, label="float16, scaled")
        left.set(xlabel="step", ylabel="gradients that are zero", ylim=(-0.02, 1))
        left.yaxis.set_major_formatter(PercentFormatter(1))
        left.legend(loc="center right")
        scales, skipped = scaled[2:]
        right.step(np.arange(STEPS), scales, where="post", color="#08519c", label="scale")
        right.plot(skipped, scales[skipped], "x", color="#d94801", label="step skipped")
        right.set_yscale("log", base=2)
        right.set(xlabel="step", ylabel="scale of the loss")
        right.legend(loc="lower right")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main():
    parser = argparse.ArgumentParser(description="Train in half precision, and scale the loss.")
    parser.add_argument(
        "--plot", type=plot_file, metavar="FILE", help="draw the scale over the steps"
    )
    plot = parser.parse_args().plot
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("The images come with scikit-learn: pip install scikit-learn")

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(digits))
    known, unseen = np.split(order, [len(digits) * 3 // 4])

    def scores(network):
        logits = network.forward(images[unseen])
        accuracy = np.mean(logits.argmax(axis=1) == digits[unseen])
        return f"{accuracy:9.1%}   {xent.cross_entropy(logits, digits[unseen]):8.4f}"

    print(f"{STEPS} steps; tested on {len(unseen)} images not seen in training\n")
    print("              factor       lost    accuracy   log-loss")
    for exponent in EXPONENTS:
        factor = 2.0**-exponent
        runs = {
            "float32": train(images[known], digits[known], np.float32, factor),
            "float16": train(images[known], digits[known], np.float16, factor),
            "scaled": train(
                images[known],
                digits[known],
                np.float16,
                factor,
                xent.LossScaler(growth_interval=INTERVAL),
            ),
        }
        for name, (network, lost, _, _) in runs.items():
            if name != "float32" or exponent == EXPONENTS[0]:
                size = f"2^-{exponent}" if exponent else "1"
                print(f"{name:10} {size:>9} {lost[0]:10.1%}   {scores(network)}")
        if exponent == SHOWN:
            shown = runs["float16"], runs["scaled"]
    scales, skipped = shown[1][2:]
    print(f"\nScale of 2^-{SHOWN}: from 2^{np.log2(scales[0]):.0f} to 2^{np.log2(scales[-1]):.0f}")
    print(f"Steps skipped: {len(skipped)}, the first after {skipped[0]}")
    if plot:
        draw(plot, *shown)


if __name__ == "__main__":
    main()
