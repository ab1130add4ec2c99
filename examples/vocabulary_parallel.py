"""Train a language model whose last layer is divided among the ranks of an MPI program, and compare with one process.

    mpiexec -n 4 python examples/vocabulary_parallel.py [--steps N] [--vocabulary V] [--source DIR]

The text is Python's own standard library, as in `python -m xent demo`. Each rank holds a slice of the rows of the last
layer's weight, their gradient and what the optimiser remembers of them; all else is the same on every rank. In each step
rank 0 also computes loss and gradients as one process does, from the same weights: they may differ by the rounding of sums
in another order, which is bounded, and never by more. And it trains a twin of the model by itself.
"""

import argparse
import math
import os
import sysconfig
from pathlib import Path

# Ranks of one machine share its cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import xent
from xent.cli.corpus import CONTEXT, Text, Vocabulary, python_files, read, split
from xent.cli.model import Adam
from xent.cli.terminal import at_least

try:
    from mpi4py import MPI

    import xent.mpi
except ModuleNotFoundError:
    raise SystemExit("The ranks need mpi4py and an MPI library: pip install mpi4py mpich") from None

COMM = MPI.COMM_WORLD
BATCH, EMBEDDING, FEATURES, RATE, WARM_UP = 256, 32, 128, 4e-3, 10
ROUNDING = 2.0**-24  # of float32


def read_text(source, size):
    """Return the text to learn from and the files held out, as indices of tokens."""
    known, unseen = split(read(python_files(source), lambda: None))
    vocabulary = Vocabulary(known, size)
    return Text.encode(known, vocabulary), Text.encode(unseen, vocabulary), len(vocabulary)


class Model:
    """Embedding and hidden layer as a whole, and some classes of the last layer."""

    def __init__(self, frequencies, classes):
        rng = np.random.default_rng(0)
        inputs, vocabulary = CONTEXT * EMBEDDING, len(frequencies)
        self.weights = [
            rng.normal(0, 0.5, (vocabulary, EMBEDDING)),
            rng.normal(0, inputs**-0.5, (inputs, FEATURES)),
            np.zeros(FEATURES),
            rng.normal(0, 0.01, (vocabulary, FEATURES))[classes],
            frequencies[classes],
        ]
        self.weights = [weight.astype(np.float32) for weight in self.weights]
        self.optimisers = [Adam(weight.shape) for weight in self.weights]

    def forward(self, contexts):
        """Return the hidden states (n, FEATURES) after the contexts (n, CONTEXT)."""
        self.contexts = contexts
        self.inputs = self.weights[0][contexts].reshape(len(contexts), -1)
        self.states = np.tanh(self.inputs @ self.weights[1] + self.weights[2])
        return self.states

    def step(self, grads, rate):
        """Take the gradients of hidden states, of the last layer's weight and of its bias; move all weights."""
        grad = grads[0] * (1 - self.states**2)
        of_inputs = (grad @ self.weights[1].T).reshape(-1, EMBEDDING)
        of_embedding = np.zeros_like(self.weights[0])
        np.add.at(of_embedding, self.contexts.ravel(), of_inputs)
        everything = of_embedding, self.inputs.T @ grad, grad.sum(axis=0), *grads[1:]
        for optimiser, weight, gradient in zip(
            self.optimisers, self.weights, everything, strict=True
        ):
            optimiser.step(weight, gradient, rate)


def bounds(states, weight, bias, targets):
    """Return how far loss and gradients may be apart that are float32 sums in any two orders.

    A sum of n products is within gamma(n) = n u / (1 - n u) of the exact one, times the sum of their magnitudes. The loss
    changes by no more than twice what a logit does, and p by no more than twice that times p; 16 u more are the kernels'.
    """

    def gamma(terms):
        return terms * ROUNDING / (1 - terms * ROUNDING)

    h, w, b = (a.astype(float) for a in (states, weight, bias))
    rows = np.arange(len(targets))
    magnitudes = np.abs(h) @ np.abs(w).T + np.abs(b)
    logit = 2 * gamma(FEATURES + 1) * magnitudes.max()
    probs = xent.softmax(h @ w.T + b, axis=1)
    probs[rows, targets] = 1 - probs[rows, targets]
    probs /= len(targets)  # magnitudes of the gradient of the logits
    relative = 3 * logit + 16 * ROUNDING
    return (
        2 * logit + 16 * ROUNDING * (1 + math.log(len(w))),
        (relative + 2 * gamma(len(w))) * (probs @ np.abs(w)),
        (relative + 2 * gamma(len(h))) * (probs.T @ np.abs(h)),
        (relative + 2 * gamma(len(h))) * probs.sum(axis=0),
    )


def gathered(slices):
    """Return the slices of all ranks as one array on rank 0, None on others."""
    found = COMM.gather(slices)
    return None if found is None else np.concatenate(found)


def compared(model, targets, loss, grads):
    """Return the largest difference from one process, over its bound: for the loss, and for the gradients."""
    weight, bias = gathered(model.weights[3]), gathered(model.weights[4])
    of_weight, of_bias = gathered(grads[1]), gathered(grads[2])
    if COMM.rank:
        return None
    expected, expected_grads = xent.linear_cross_entropy(
        model.states, weight, targets, bias=bias, return_grad=True
    )
    of_loss, *of_grads = bounds(model.states, weight, bias, targets)
    found = (grads[0], of_weight, of_bias)
    shares = [
        float(np.max(np.abs(a - b) / bound))
        for a, b, bound in zip(found, expected_grads, of_grads, strict=True)
    ]
    return float(abs(loss - expected) / of_loss), max(shares)


def perplexity(model, text):
    """Return the perplexity of every hundredth token of a text."""
    contexts, targets = text.examples(text.positions[::100])
    loss = xent.mpi.linear_cross_entropy(
        model.forward(contexts), model.weights[3], targets, comm=COMM, bias=model.weights[4]
    )
    return math.exp(loss)


def main():
    parser = argparse.ArgumentParser(description="Train a language model on several ranks.")
    parser.add_argument("--steps", type=at_least(1), default=40, metavar="N", help="default: 40")
    parser.add_argument(
        "--vocabulary", type=at_least(16), default=4096, metavar="V", help="default: 4096"
    )
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(sysconfig.get_paths()["stdlib"]),
        metavar="DIR",
        help="read the Python files below DIR instead of the standard library",
    )
    options = parser.parse_args()

    text, held_out, vocabulary = COMM.bcast(
        read_text(options.source, options.vocabulary) if COMM.rank == 0 else None
    )
    counts = np.bincount(text.targets, minlength=vocabulary) + 1.0
    frequencies = np.log(counts / counts.sum())
    begin, end = (vocabulary * rank // COMM.size for rank in (COMM.rank, COMM.rank + 1))
    xent.set_num_threads(1)
    model = Model(frequencies, slice(begin, end))
    twin = Model(frequencies, slice(None)) if COMM.rank == 0 else None
    if twin:
        print(f"{vocabulary:,} classes, of which a rank has {end - begin:,}; {COMM.size} ranks\n")
        print("step      loss   one process   difference / bound: loss, gradients")

    rng, worst, apart = np.random.default_rng(1), np.zeros(2), 0.0
    for step in range(options.steps):
        contexts, targets = text.examples(rng.choice(text.positions, BATCH))
        rate = RATE * min(1, (step + 1) / WARM_UP)
        states = model.forward(contexts)
        loss, grads = xent.mpi.linear_cross_entropy(
            states, model.weights[3], targets, comm=COMM, bias=model.weights[4], return_grad=True
        )
        shares = compared(model, targets, loss, grads)
        model.step(grads, rate)
        if twin:
            alone, of_twin = xent.linear_cross_entropy(
                twin.forward(contexts),
                twin.weights[3],
                targets,
                bias=twin.weights[4],
                return_grad=True,
            )
            twin.step(of_twin, rate)
            worst, apart = np.maximum(worst, shares), max(apart, abs(float(loss - alone)))
            if (step + 1) % max(1, options.steps // 5) == 0:
                print(f"{step + 1:4}  {loss:8.5f}      {alone:8.5f}   ", end="")
                print(f"{shares[0]:.1e}, {shares[1]:.1e}", flush=True)

    after = perplexity(model, held_out)
    same = all(
        copies == model.weights[1].tobytes()
        for copies in COMM.allgather(model.weights[1].tobytes())
    )
    if not COMM.rank:
        print(f"\nHeld-out files: perplexity {after:.1f}")
        print(f"From the same weights: at most {worst.max():.1e} of the bound apart, in every step")
        print(f"From the same start: losses at most {apart:.1e} apart")
        print(f"Hidden layers of all ranks have {'the same' if same else 'other'} bits")
    if not same or (not COMM.rank and worst.max() > 1):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
