"""A next-word language model in plain NumPy: embedding, one hidden layer, logits, and Adam."""

from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class LanguageModel:
    """Logits of the next word from the embeddings of the words before it.

    The parameters lie in one array, `parameters`, and their gradients in another of the same
    layout, `gradient`, so that the optimiser need not know what they are.

    Parameters
    ----------
    bias : (vocabulary,) array
        Where the bias of the logits starts. With the logarithm of the words' frequencies the
        untrained model is the unigram model.
    rng : numpy.random.Generator
        Draws the initial weights.
    context, embedding, hidden : int
        The number of words seen, and the widths of the two layers.
    """

    def __init__(
        self,
        bias: NDArray[np.floating],
        rng: np.random.Generator,
        *,
        context: int,
        embedding: int = 48,
        hidden: int = 128,
    ) -> None:
        self.vocabulary, self.context = len(bias), context
        self.embedding, self.hidden = embedding, hidden
        inputs = context * embedding
        self._shapes = {
            "embedding": (self.vocabulary, embedding),
            "hidden": (inputs, hidden),
            "hidden_bias": (hidden,),
            "output": (hidden, self.vocabulary),
            "output_bias": (self.vocabulary,),
        }
        size = sum(map(prod, self._shapes.values()))
        self.parameters = np.zeros(size, np.float32)
        self.gradient = np.zeros(size, np.float32)
        self._weights = self._views(self.parameters)
        self._gradients = self._views(self.gradient)
        self._weights["embedding"][...] = rng.normal(0, 0.5, (self.vocabulary, embedding))
        self._weights["hidden"][...] = rng.normal(0, inputs**-0.5, (inputs, hidden))
        self._weights["output"][...] = rng.normal(0, 0.01, (hidden, self.vocabulary))
        self._weights["output_bias"][...] = bias

    def _views(self, flat: Floats) -> dict[str, Floats]:
        ends = np.cumsum([prod(shape) for shape in self._shapes.values()])[:-1]
        parts = np.split(flat, ends)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def forward(self, contexts: NDArray[np.int32], out: Floats | None = None) -> Floats:
        """Return the logits (n, vocabulary) after the contexts (n, context)."""
        weights = self._weights
        self._contexts = contexts
        self._inputs = weights["embedding"][contexts].reshape(len(contexts), -1)
        self._hidden = np.tanh(self._inputs @ weights["hidden"] + weights["hidden_bias"])
        logits: Floats = np.matmul(self._hidden, weights["output"], out=out)
        logits += weights["output_bias"]
        return logits

    def backward(self, grad_logits: Floats) -> None:
        """Set `gradient` from the gradient of the logits that `forward` returned last."""
        weights, gradients = self._weights, self._gradients
        np.matmul(self._hidden.T, grad_logits, out=gradients["output"])
        np.sum(grad_logits, axis=0, out=gradients["output_bias"])
        grad_hidden = (grad_logits @ weights["output"].T) * (1 - self._hidden**2)
        np.matmul(self._inputs.T, grad_hidden, out=gradients["hidden"])
        np.sum(grad_hidden, axis=0, out=gradients["hidden_bias"])
        grad_inputs = (grad_hidden @ weights["hidden"].T).reshape(-1, self.embedding)

        # A word may occur many times in a batch: sort the words, then sum each one's run.
        seen = self._contexts.ravel()
        order = np.argsort(seen, kind="stable")
        distinct, starts = np.unique(seen[order], return_index=True)
        gradients["embedding"][...] = 0
        gradients["embedding"][distinct] = np.add.reduceat(grad_inputs[order], starts)


class Adam:
    """The optimiser of Kingma and Ba (2015), over one array of parameters."""

    def __init__(self, size: int, beta1: float = 0.9, beta2: float = 0.99) -> None:
        self._mean = np.zeros(size, np.float32)
        self._square = np.zeros(size, np.float32)
        self._beta1, self._beta2 = beta1, beta2
        self._steps = 0

    def step(self, parameters: Floats, gradient: Floats, rate: float) -> None:
        """Move the parameters against the gradient, in place."""
        self._steps += 1
        self._mean += (1 - self._beta1) * (gradient - self._mean)
        self._square += (1 - self._beta2) * (gradient**2 - self._square)
        rate /= 1 - self._beta1**self._steps
        correction = 1 - self._beta2**self._steps
        parameters -= rate * self._mean / (np.sqrt(self._square / correction) + 1e-8)
