"""xent.torch beside PyTorch's own threads and processes: nothing hangs, crashes or changes a number."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")

import xent.torch as ours  # noqa: E402

ROUNDS = 50
# Work that both libraries share among their threads, then workers that are forked, each of which computes with both.
LOADER = """
import {first}
import {second}
import torch, xent.torch
from torch.utils.data import DataLoader, Dataset

logits, target = torch.randn(512, 5000), torch.randint(0, 5000, (512,))

def losses(_=None):
    leaf = logits.clone().requires_grad_()
    mine = xent.torch.cross_entropy(leaf, target)
    mine.backward()
    theirs = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(mine.detach(), theirs)
    return torch.stack([mine.detach(), leaf.grad.abs().sum()])

class Work(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return losses()

expected = losses()
for _ in range(2):
    loader = DataLoader(Work(), num_workers=2, batch_size=None, multiprocessing_context="fork")
    for found in loader:
        torch.testing.assert_close(found, expected)
    losses()
print("done")
"""


@pytest.mark.parametrize(("first", "second"), [("xent", "torch"), ("torch", "xent")])
def test_workers_of_a_data_loader(first, second):
    code = LOADER.format(first=first, second=second)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def gradient(logits, target):
    leaf = logits.clone().requires_grad_()
    loss = ours.cross_entropy(leaf, target) + ours.cross_entropy(leaf * 2, target)
    loss.backward()
    return leaf.grad


def test_many_threads_at_once():
    """Of Python's, each with a graph of its own; small calls and such that xent's own threads share."""
    torch.manual_seed(0)
    sizes = [(32, 10), (64, 500), (256, 3000)]
    cases = [(torch.randn(size), torch.randint(0, size[1], size[:1])) for size in sizes]
    expected = [gradient(*case) for case in cases]

    def work(i):
        return all(
            torch.equal(gradient(*case), wanted)
            for _ in range(ROUNDS // 10)
            for case, wanted in zip(cases, expected, strict=True)
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(32)))


def test_backward_on_another_thread():
    """The graph is made by one thread, walked by others, and by autograd's own where it starts one."""
    torch.manual_seed(0)
    logits, target = torch.randn(64, 500), torch.randint(0, 500, (64,))
    expected = gradient(logits, target)
    found = []
    for _ in range(ROUNDS):
        leaf = logits.clone().requires_grad_()
        loss = ours.cross_entropy(leaf, target) + ours.cross_entropy(leaf * 2, target)
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        found.append(leaf.grad)
    assert all(torch.equal(grad, expected) for grad in found)


def test_backward_inside_a_backward():
    """A reentrant call, as of checkpoints, deep enough that autograd moves it to a thread of its own."""
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    logits, target = torch.randn(16, 50), torch.randint(0, 50, (16,))

    def nested(x, depth):
        if depth:
            x = checkpoint(nested, x, depth - 1, use_reentrant=True)
        return x + ours.cross_entropy(x, target)

    leaf = logits.clone().requires_grad_()
    nested(leaf, 70).sum().backward()
    assert leaf.grad.isfinite().all()


def test_gradients_outlive_everything_that_made_them():
    """A gradient lies in memory of NumPy's, which is reused once the tensor is dropped, and not before."""
    torch.manual_seed(0)
    logits, target = torch.randn(512, 600), torch.randint(0, 600, (512,))
    kept, copies = [], []
    for i in range(20):
        kept.append(gradient(logits + i, target))
        copies.append(kept[-1].clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_without_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    code = f"""
import sys, xent
assert "torch" not in sys.modules
sys.path.insert(0, {str(tmp_path)!r})
try:
    import xent.torch
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "xent.torch needs PyTorch: pip install torch\n"
