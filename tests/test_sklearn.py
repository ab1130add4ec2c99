"""Metrics where scikit-learn calls them: in its own tests, and as scorers of cross-validation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from xent import metrics

pytest.importorskip("sklearn", minversion="1.9")

PLUGIN = """
import sklearn.metrics
from xent import metrics

sklearn.metrics.log_loss, sklearn.metrics.brier_score_loss = metrics.log_loss, metrics.brier_score
"""


def test_their_tests(tmp_path):
    """The tests of scikit-learn itself, of our functions in the place of its own."""
    (tmp_path / "ours_for_theirs.py").write_text(PLUGIN)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    module = ["--pyargs", "sklearn.metrics.tests.test_classification"]
    chosen = "(test_log_loss or test_brier_score_loss) and not deprecation"
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(tmp_path / "pytest.ini")]
    command += ["-p", "ours_for_theirs", "-p", "no:cacheprovider", *module, "-k", chosen]
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 16, done.stdout


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_scorers(classes, weighted):
    """As `make_scorer` and `cross_val_score` call them."""
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, make_scorer
    from sklearn.model_selection import cross_val_score

    x, y = make_classification(120, n_informative=8, n_classes=classes, random_state=0)
    y = np.array(["one", "two", "three", "four", "five"])[y]
    options: dict[str, Any] = {"greater_is_better": False, "response_method": "predict_proba"}
    found, expected = (
        cross_val_score(
            LogisticRegression(),
            x,
            y,
            scoring=make_scorer(function, **options, labels=np.unique(y)),
            error_score="raise",
        )
        for function in (metrics.log_loss, log_loss)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    model, weight = LogisticRegression().fit(x, y), np.linspace(0, 1, len(y)) if weighted else None
    for function in (metrics.expected_calibration_error, metrics.top_k_accuracy):
        scorer = make_scorer(function, response_method="predict_proba", labels=np.unique(y))
        score = scorer(model, x, y, sample_weight=weight)
        # Of two classes scorers take the probability of the second.
        p = model.predict_proba(x)[:, 1] if classes == 2 else model.predict_proba(x)
        by_hand = function(y, p, sample_weight=weight, labels=np.unique(y))
        assert score == pytest.approx(by_hand, rel=1e-12)
