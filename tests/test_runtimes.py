"""Several OpenMP runtimes in one process: libraries that bring their own compute beside xent, whatever the order of
imports, and in a forked child too.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence

import pytest

from test_process import output

OTHERS = {"torch": "torch", "sklearn": "scikit-learn", "xgboost": "xgboost", "lightgbm": "lightgbm"}
INSTALLED = [name for name in OTHERS if importlib.util.find_spec(name)]
ALL = ["xent", *INSTALLED]
# Every order of two or three; of more, rotations of one order and of its reverse.
ORDERS = (
    [*itertools.permutations(ALL)]
    if len(ALL) <= 3
    else [(*names[i:], *names[:i]) for names in (ALL, ALL[::-1]) for i in range(len(ALL))]
)

# What a library computes on several threads, right or not.
SCRIPT = """
import os
from concurrent.futures import ThreadPoolExecutor
import numpy as np

rng = np.random.default_rng(0)
logits = rng.normal(size=(2000, 500)).astype(np.float32)
targets = np.arange(2000) % 500
shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
probs = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
loss = -np.log(probs[np.arange(2000), targets]).mean()

def import_xent():
    import xent
    with xent.num_threads(1):
        alone = xent.softmax(logits, axis=-1)
    def compute():
        assert xent.softmax(logits, axis=-1).tobytes() == alone.tobytes()
        assert np.allclose(alone, probs, rtol=1e-5, atol=1e-8)
        assert np.isclose(xent.cross_entropy(logits, targets), loss)
    return compute

def import_torch():
    import torch
    x, y = torch.from_numpy(logits), torch.from_numpy(targets)
    torch.set_num_threads(4)
    def compute():
        assert np.allclose(torch.softmax(x, -1).numpy(), probs, rtol=1e-4, atol=1e-8)
        assert np.isclose(torch.nn.functional.cross_entropy(x, y).item(), loss)
    return compute

def import_sklearn():
    from sklearn.metrics import pairwise_distances_argmin
    def compute():
        nearest = pairwise_distances_argmin(logits[:500], logits)
        assert (nearest == np.arange(500)).all()
    return compute

def import_xgboost():
    import xgboost
    data = xgboost.DMatrix((logits > 0).astype(np.float32), logits[:, 0] > 0)
    options = {"objective": "binary:logistic", "nthread": 4, "max_depth": 1}
    def compute():
        from xent import boosting
        for objective in (None, boosting.xgboost_logistic()):
            model = xgboost.train(options, data, num_boost_round=1, obj=objective)
            assert ((model.predict(data) > 0.5) == (logits[:, 0] > 0)).all()
    return compute

def import_lightgbm():
    import lightgbm
    options = {"num_threads": 4, "max_depth": 1, "verbose": -1}
    features, labels = (logits[:, :50] > 0).astype(np.float32), (logits[:, 0] > 0).astype(int)
    def compute():
        from xent import boosting
        for objective in ("binary", boosting.lightgbm_logistic()):
            data = lightgbm.Dataset(features, labels, params={"verbose": -1})
            model = lightgbm.train({**options, "objective": objective}, data, num_boost_round=1)
            scores = model.predict(features, raw_score=True)
            assert len(np.unique(scores)) == 2
            assert ((scores > scores.mean()) == labels).all()
    return compute

def compute_in_child(compute):
    process = os.fork()
    if process == 0:
        try:
            compute()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == 0

computations = {name: globals()["import_" + name]() for name in sys.argv[1:]}
for compute in 2 * list(computations.values()):
    compute()
compute_in_child(computations["xent"])
with ThreadPoolExecutor(len(computations)) as pool:
    for done in [pool.submit(compute) for compute in 2 * list(computations.values())]:
        done.result()
compute_in_child(computations["xent"])
print("right")
"""


def right(order: Sequence[str]) -> bool:
    """Whether all compute in a process that imports them in this order."""
    arguments = f"import sys; sys.argv[1:] = {list(order)}\n"
    environment = {"XENT_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    return output(arguments + SCRIPT, **environment) == "right"


@pytest.mark.parametrize("xent_first", [True, False], ids=["xent first", "xent last"])
@pytest.mark.parametrize("other", OTHERS)
def test_beside_one_other(other: str, xent_first: bool) -> None:
    if other not in INSTALLED:
        pytest.skip(f"no {OTHERS[other]}")
    assert right(("xent", other) if xent_first else (other, "xent"))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_beside_all_others(order: tuple[str, ...]) -> None:
    if len(order) < 3:
        pytest.skip(f"fewer than two of {', '.join(OTHERS.values())}")
    assert right(order)
