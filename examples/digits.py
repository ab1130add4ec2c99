"""Classify handwritten digits: a network with one hidden layer, in NumPy and xent.

    python examples/digits.py

`xent.cross_entropy` returns the loss and its gradient with respect to the logits; the rest
of the backward pass is four lines of NumPy. The images are the 1,797 of scikit-learn.
"""

import sys

import numpy as np

import xent

try:
    from sklearn.datasets import load_digits
except ImportError:
    sys.exit("The images come with scikit-learn: pip install scikit-learn")

HIDDEN, EPOCHS, BATCH, RATE, MOMENTUM = 64, 40, 32, 0.1, 0.9

rng = np.random.default_rng(0)
pixels, digits = load_digits(return_X_y=True)
order = rng.permutation(len(digits))
train, test = np.split(order, [len(order) * 3 // 4])
images = (pixels / 16).astype(np.float32)

w1 = rng.normal(0, 64**-0.5, (64, HIDDEN)).astype(np.float32)
w2 = rng.normal(0, HIDDEN**-0.5, (HIDDEN, 10)).astype(np.float32)
b1, b2 = np.zeros(HIDDEN, np.float32), np.zeros(10, np.float32)
weights = (w1, b1, w2, b2)
velocities = [np.zeros_like(weight) for weight in weights]


def forward(x):
    """Return the hidden layer and the logits."""
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden, hidden @ w2 + b2


print("epoch   training loss")
for epoch in range(1, EPOCHS + 1):
    losses = []
    for batch in np.split(rng.permutation(train), range(BATCH, len(train), BATCH)):
        x, y = images[batch], digits[batch]
        hidden, logits = forward(x)
        loss, grad = xent.cross_entropy(logits, y, label_smoothing=0.05, return_grad=True)
        grad_hidden = (grad @ w2.T) * (hidden > 0)
        gradients = (x.T @ grad_hidden, grad_hidden.sum(axis=0), hidden.T @ grad, grad.sum(axis=0))
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            velocity *= MOMENTUM
            velocity -= RATE * (1 - epoch / (EPOCHS + 1)) * gradient
            weight += velocity
        losses.append(loss)
    if epoch % 10 == 0:
        print(f"{epoch:5}   {np.mean(losses):13.4f}")

logits = forward(images[test])[1]
log_loss = xent.cross_entropy(logits, digits[test])
accuracy = np.mean(logits.argmax(axis=1) == digits[test])
print(f"\n{len(logits)} images not seen in training")
print(f"  accuracy  {accuracy:.1%}")
print(f"  log-loss  {log_loss:.4f} nats (guessing: {np.log(10):.4f})")
