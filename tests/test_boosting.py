"""Objectives and metrics for XGBoost and LightGBM: their derivatives, and models equal to those of the libraries' own."""

from __future__ import annotations

import copy
import pickle
import re
import tracemalloc
import warnings
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

import xent
from xent import _boosting, boosting

ROWS, CLASSES = 300, 5
WEIGHT = np.array([1.0, 0.25, 3.0, 0.0, 2.0])
SOFTMAX_OPTIONS = (
    {},
    {"class_weight": WEIGHT},
    {"label_smoothing": 0.2},
    {"class_weight": WEIGHT, "label_smoothing": 0.2},
    {"gamma": 2.0},
    {"gamma": 0.5, "class_weight": WEIGHT},
)
LOGISTIC_OPTIONS = ({}, {"pos_weight": 3.0}, {"label_smoothing": 0.2}, {"gamma": 2.0})
LOGISTIC_OPTIONS += ({"pos_weight": 0.3, "label_smoothing": 0.1}, {"pos_weight": 3.0, "gamma": 1.5})


def named(options):
    return "-".join(options) or "plain"


def data(*shape, seed=0):
    """Scores, labels as boosters have them, and weights, one of them 0."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, shape)
    labels = rng.integers(0, shape[1] if len(shape) > 1 else 2, shape[0]).astype(np.float32)
    weights = rng.uniform(0.2, 4, shape[0]).astype(np.float32)
    weights[7] = 0
    return scores, labels, weights


def data_set(labels, weights):
    """What objectives need of a DMatrix or a Dataset."""
    return SimpleNamespace(get_label=lambda: labels, get_weight=lambda: weights)


def slope(p, others, gamma):
    """Derivative of (1 - p)**gamma * -log p by -log p."""
    return others**gamma - gamma * others ** (gamma - 1) * p * np.log(p)


def of_softmax(z, y, v, class_weight=1.0, label_smoothing=0.0, gamma=0.0):
    """Gradient and diagonal of the Hessian by the formulas, in float64."""
    hot = np.eye(z.shape[1])[y]
    exp = np.exp(z - z.max(1, keepdims=True))
    p = exp / exp.sum(1, keepdims=True)
    others = (exp @ (1 - np.eye(z.shape[1]))) / exp.sum(1, keepdims=True)  # 1 - p
    of_target = [(a * hot).sum(1, keepdims=True) for a in (p, others)]
    rows = v[:, None] * (slope(*of_target, gamma) if gamma else 1)
    a = ((1 - label_smoothing) * hot + label_smoothing / z.shape[1]) * class_weight
    total = a.sum(1, keepdims=True)
    grad = total * p - a if label_smoothing else total * np.where(hot, -others, p)
    return rows * grad, rows * total * p * others


def of_logistic(z, y, v, pos_weight=1.0, label_smoothing=0.0, gamma=0.0):
    t = y * (1 - label_smoothing) + label_smoothing / 2
    p, q = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    rows = v * (slope(np.where(y, p, q), np.where(y, q, p), gamma) if gamma else 1)
    return rows * ((1 - t) * p - pos_weight * t * q), rows * (1 - t + pos_weight * t) * p * q


def assert_derivatives(found, expected, scores, largest_weight, gamma=0.0):
    """Compare within what README.md guarantees of a softmax and its complement; the Hessian is at least 1e-16.

    A product of both, and of a slope whose condition is gamma + 1, has their relative errors; smoothed gradients are
    differences, off by 4 u of the larger part. Float64 is rounded to float32 once.
    """
    spread = np.ptp(scores, axis=-1).max() if scores.ndim > 1 else np.abs(scores).max()
    u = np.finfo(scores.dtype).eps / 2
    relative = (2 + gamma + 1) * (4 + spread) * 2 * u + 2.0**-24
    grad, hess = expected
    for one, other in zip(found, (grad, np.maximum(hess, 1e-16)), strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=relative, atol=8 * u * largest_weight)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("options", SOFTMAX_OPTIONS, ids=named)
def test_derivatives_of_softmax(isa, dtype, order, weighted, options):
    scores, labels, weights = data(ROWS, CLASSES)
    scores = scores.astype(dtype, order=order)
    v = weights if weighted else np.ones(ROWS)
    grad, hess = of_softmax(scores.astype(float), labels.astype(int), v.astype(float), **options)
    forms = {"abs_residual": np.abs(grad), "upper_bound": 2 * hess, "exact": hess}
    calls = {form: boosting.xgboost_softmax(CLASSES, hessian=form, **options) for form in forms}
    calls["lightgbm"] = boosting.lightgbm_softmax(CLASSES, **options)
    forms["lightgbm"] = hess * CLASSES / (CLASSES - 1)
    for form, objective in calls.items():
        found = objective(labels, scores, weights if weighted else None)
        assert_derivatives(found, (grad, forms[form]), scores, 12 * 2, options.get("gamma", 0))
        assert all(a.flags[f"{order}_CONTIGUOUS"] for a in found)
        assert (found[1] > 0).all()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("options", LOGISTIC_OPTIONS, ids=named)
def test_derivatives_of_logistic(isa, dtype, weighted, options):
    scores, labels, weights = data(ROWS)
    scores = scores.astype(dtype)
    v = weights if weighted else np.ones(ROWS)
    expected = of_logistic(scores.astype(float), labels.astype(float), v.astype(float), **options)
    for make in (boosting.xgboost_logistic, boosting.lightgbm_logistic):
        found = make(**options)(labels, scores, weights if weighted else None)
        assert_derivatives(found, expected, scores, 12, options.get("gamma", 0))
        assert (found[1] > 0).all()


def test_gradients_are_those_of_the_losses():
    """Bit for bit without gamma; the focal losses have another way to the same gradient."""
    scores, labels, weights = data(ROWS, CLASSES)
    scores, index = scores.astype(np.float32), labels.astype(int)
    options = {"class_weight": WEIGHT, "label_smoothing": 0.1}
    found, _ = boosting.xgboost_softmax(CLASSES, **options)(labels, scores, weights)
    options |= {"sample_weight": weights, "reduction": "sum", "return_grad": True}
    _, grad = xent.cross_entropy(scores, index, **options)
    assert found.tobytes() == grad.tobytes()
    found, _ = boosting.lightgbm_softmax(CLASSES, gamma=1.5)(labels, scores.astype(float))
    _, grad = xent.focal_loss(
        scores.astype(float), index, gamma=1.5, reduction="sum", return_grad=True
    )
    np.testing.assert_allclose(found, grad, rtol=2.0**-23)
    found, _ = boosting.lightgbm_logistic(gamma=1.5)(labels % 2, scores[:, 0].astype(float))
    _, grad = xent.sigmoid_focal_loss(
        scores[:, 0].astype(float),
        labels % 2,
        alpha=None,
        gamma=1.5,
        reduction="sum",
        return_grad=True,
    )
    np.testing.assert_allclose(found, grad, rtol=2.0**-23)


@pytest.mark.parametrize("hessian", ["abs_residual", "upper_bound", "exact"])
def test_no_hessian_vanishes(hessian):
    """Neither where a probability underflows nor in rows that weigh nothing."""
    scores = np.array([[0.0, 200.0, -200.0], [1.0, 2.0, 3.0]], np.float32)
    objective = boosting.xgboost_softmax(3, hessian=hessian)
    grad, hess = objective(np.array([1.0, 0.0]), scores, np.array([1.0, 0.0]))
    assert (grad[1] == 0).all()
    assert (hess == np.float32(1e-16)).all()


@pytest.mark.parametrize("gamma", [0.25, 1.0, 2.0, 5.0])
def test_slope_of_the_focal_loss(gamma):
    nll = np.array([0.0, 1e-300, 1e-20, 1e-9, 1e-3, 0.7, 5.0, 80.0, 800.0])
    found = _boosting.focal_slope(nll, gamma)
    with mpmath.workdps(400):
        for x, one in zip(nll[1:].tolist(), found[1:].tolist(), strict=True):
            value = mpmath.diff(lambda x: (1 - mpmath.exp(-x)) ** gamma * x, mpmath.mpf(x))
            # 1 - p, to a power, and a few factors: each good to an ulp or two.
            assert abs(one - float(value)) <= (2 * gamma + 8) * 2.0**-52 * float(value) + 1e-300
    assert found[0] == 0


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_blocks_change_nothing(monkeypatch, dtype, gamma):
    scores, labels, weights = data(ROWS, CLASSES)
    scores = scores.astype(dtype, order="F")
    objective = boosting.lightgbm_softmax(CLASSES, gamma=gamma)
    whole = objective(labels, scores, weights)
    monkeypatch.setattr(_boosting, "BLOCK_BYTES", 7 * CLASSES * scores.itemsize)
    for one, other in zip(objective(labels, scores, weights), whole, strict=True):
        assert one.tobytes("F") == other.tobytes("F")


def test_lightgbm_reads_the_arrays_as_they_are():
    scores, labels, _ = data(ROWS, CLASSES)
    for array in boosting.lightgbm_softmax(CLASSES)(labels, np.asfortranarray(scores)):
        assert np.shares_memory(array.ravel(order="F"), array)


@pytest.mark.parametrize("weights", [None, np.empty(0, np.float32), "of rows"])
def test_both_interfaces(weights):
    """The native one hands over the scores first and has a data set; without weights it is empty or None."""
    scores, labels, of_rows = data(ROWS, CLASSES)
    weights = of_rows if isinstance(weights, str) else weights
    objective = boosting.xgboost_softmax(CLASSES)
    native = objective(scores, data_set(labels, weights))
    same = objective(labels, scores, sample_weight=weights)
    assert [a.tobytes() for a in native] == [a.tobytes() for a in same]


@pytest.mark.parametrize("bad", [-1, CLASSES, 0.5, np.nan, np.inf, 2**40])
@pytest.mark.parametrize("make", [boosting.xgboost_softmax, boosting.lightgbm_softmax])
def test_labels_that_are_no_classes(make, bad):
    scores, labels, _ = data(ROWS, CLASSES)
    labels = labels.astype(float)
    labels[41] = bad
    message = rf"labels: {re.escape(f'{bad:g}')} in row 41 is not a class; .* integers in \[0, 5\)"
    for objective in (make(CLASSES), boosting.xgboost_mlogloss):
        with pytest.raises(ValueError, match=message):
            objective(scores, data_set(labels, None))


@pytest.mark.parametrize("bad", [-1, 2, 0.5, np.nan])
def test_labels_that_are_neither_of_two(bad):
    scores, labels, _ = data(ROWS)
    labels[41] = bad
    for objective in (boosting.xgboost_logistic(), boosting.lightgbm_binary_logloss):
        with pytest.raises(ValueError, match=r"in row 41 is not a class; .* \[0, 2\)"):
            objective(labels, scores)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "message"),
    [
        ((9,), (9,), None, r"preds: expected shape \(9, 5\), got \(9,\); is num_class a param"),
        ((9, 4), (9,), None, r"preds: expected shape \(9, 5\), got \(9, 4\)"),
        ((9, 5), (9, 1), None, r"labels: expected shape \(N,\), one class a row; got \(9, 1\)"),
        ((9, 5), (9,), (8,), r"sample_weight: expected shape \(9,\), got \(8,\)"),
    ],
)
def test_shapes(scores, labels, weights, message):
    given = None if weights is None else np.ones(weights)
    with pytest.raises(ValueError, match=message):
        boosting.xgboost_softmax(CLASSES)(np.zeros(labels), np.zeros(scores), given)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: boosting.xgboost_softmax(1), ValueError, "num_class: expected an integer >= 2"),
        (lambda: boosting.lightgbm_softmax(3.0), TypeError, "num_class: expected an integer >= 2"),
        (
            lambda: boosting.xgboost_softmax(3, hessian="diagonal"),
            ValueError,
            "hessian: expected one of abs_residual, upper_bound, exact, got 'diagonal'",
        ),
        (
            lambda: boosting.xgboost_softmax(3, class_weight=[1, 2]),
            ValueError,
            r"class_weight: expected shape \(3,\)",
        ),
        (lambda: boosting.xgboost_softmax(3, label_smoothing=2), ValueError, "label_smoothing: "),
        (lambda: boosting.lightgbm_softmax(3, gamma=-1), ValueError, "gamma: expected a number"),
        (
            lambda: boosting.lightgbm_logistic(gamma=2, label_smoothing=0.1),
            ValueError,
            "gamma: expected 0 with label_smoothing=0.1, got 2",
        ),
        (lambda: boosting.xgboost_logistic(pos_weight=-1), ValueError, "pos_weight: expected a"),
        (
            lambda: boosting.xgboost_logistic(scale_pos_weight=2),
            TypeError,
            "has no keyword 'scale_pos_weight'; xent calls it pos_weight",
        ),
        (lambda: boosting.xgboost_mlogloss([0], [0.5]), ValueError, r"preds: .*\(N, C\), .*\(1,\)"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_objectives_are_values():
    """They are copied and pickled, as scikit-learn and worker processes do, and keep weights of their own."""
    scores, labels, _ = data(ROWS, CLASSES)
    weight = WEIGHT.copy()
    objective = boosting.xgboost_softmax(CLASSES, class_weight=weight, hessian="exact")
    expected = [a.tobytes() for a in objective(labels, scores)]
    weight[:] = 1
    for one in (objective, copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert [a.tobytes() for a in one(labels, scores)] == expected


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_memory_is_that_of_the_results(gamma):
    """No probabilities, no one-hot labels: at most a few numbers a row beside gradient and Hessian."""
    rows, classes = 50_000, 100
    scores = np.zeros((rows, classes), np.float32)
    labels = np.zeros(rows, np.float32)
    objective = boosting.xgboost_softmax(classes, gamma=gamma, hessian="upper_bound")
    tracemalloc.start()
    objective(labels, scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * scores.nbytes + 100 * rows


def test_metrics():
    scores, labels, weights = data(ROWS, CLASSES)
    exp = np.exp(scores)
    losses = np.log(exp.sum(1)) - scores[np.arange(ROWS), labels.astype(int)]
    several = np.average(losses, weights=weights)
    y, z = labels % 2, scores[:, 0]
    two = np.average(np.logaddexp(0, np.where(y, -z, z)), weights=weights)
    close = {"rel": 1e-12, "abs": 0}
    for metric, x, t, expected in (
        (boosting.xgboost_mlogloss, scores, labels, several),
        (boosting.xgboost_logloss, z, y, two),
        (boosting.lightgbm_multi_logloss, np.asfortranarray(scores), labels, several),
        (boosting.lightgbm_binary_logloss, z, y, two),
    ):
        name, value, *rest = metric(x, data_set(t, weights))
        assert name == metric.__name__
        assert value == pytest.approx(expected, **close)
        same = metric(t, x, weights)
        if metric.__name__.startswith("xgboost"):
            assert not rest
            assert same == value
        else:
            assert rest == [False]
            assert same == (name, value, False)


# Beside the libraries.


def problem():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2000, 5)).astype(np.float32)
    gumbel = rng.gumbel(size=(2000, 4))
    labels = (features @ rng.normal(size=(5, 4)) + gumbel).argmax(1)
    return features, labels, rng.uniform(0.2, 3, 2000).astype(np.float32)


# Ten rounds with rates of 0.3 add leaves whose sums of float32 derivatives are off by a few roundings.
CLOSE = {"rtol": 0, "atol": 20 * 2.0**-23}
XGBOOST = {"max_depth": 4, "nthread": 1}
LIGHTGBM = {"num_leaves": 15, "num_threads": 1, "verbose": -1, "boost_from_average": False}


def test_xgboost_softmax_is_the_built_in_objective():
    """One of two forms of the Hessian is that of the version installed; trees and predictions are the same."""
    xgboost = pytest.importorskip("xgboost")
    features, labels, weights = problem()
    matrix = xgboost.DMatrix(features, labels, weight=weights)
    parameters = {"objective": "multi:softprob", "num_class": 4, "base_score": 0.0, **XGBOOST}
    expected = xgboost.train(parameters, matrix, 10)
    margins = expected.predict(matrix, output_margin=True)
    alike = []
    for hessian in ("abs_residual", "upper_bound"):
        objective, log = boosting.xgboost_softmax(4, hessian=hessian), {}
        model = xgboost.train(
            parameters,
            matrix,
            10,
            obj=objective,
            custom_metric=boosting.xgboost_mlogloss,
            evals=[(matrix, "train")],
            evals_result=log,
            verbose_eval=False,
        )
        ours, theirs = log["train"]["xgboost_mlogloss"], log["train"]["mlogloss"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        alike.append(np.allclose(model.predict(matrix, output_margin=True), margins, **CLOSE))
        if alike[-1]:
            splits = [re.findall(r"\[.*?\]", "".join(m.get_dump())) for m in (model, expected)]
            assert splits[0] == splits[1]
            classifier = xgboost.XGBClassifier(
                n_estimators=10,
                base_score=0.0,
                objective=objective,
                eval_metric=boosting.xgboost_mlogloss,
                max_depth=4,
                n_jobs=1,
            )
            evaluated = [(features, labels)]
            classifier.fit(
                features, labels, sample_weight=weights, eval_set=evaluated, verbose=False
            )
            probs = classifier.predict_proba(features)
            np.testing.assert_allclose(probs, expected.predict(matrix), **CLOSE)
            found = classifier.evals_result()["validation_0"]["xgboost_mlogloss"][-1]
            assert found == pytest.approx(-np.log(probs[np.arange(2000), labels]).mean(), rel=1e-5)
    assert sorted(alike) == [False, True]


def test_xgboost_logistic_is_the_built_in_objective():
    xgboost = pytest.importorskip("xgboost")
    features, labels, weights = problem()
    matrix = xgboost.DMatrix(features, labels > 1, weight=weights)
    parameters = {"objective": "binary:logistic", "base_score": 0.5, **XGBOOST}
    expected = xgboost.train({**parameters, "scale_pos_weight": 3.0}, matrix, 10).predict(matrix)
    objective = boosting.xgboost_logistic(pos_weight=3.0)
    model = xgboost.train(parameters, matrix, 10, obj=objective)
    np.testing.assert_allclose(model.predict(matrix), expected, **CLOSE)
    classifier = xgboost.XGBClassifier(
        n_estimators=10,
        base_score=0.5,
        objective=objective,
        eval_metric=boosting.xgboost_logloss,
        early_stopping_rounds=3,
        max_depth=4,
        n_jobs=1,
    )
    evaluated = [(features, labels > 1)]
    classifier.fit(features, labels > 1, sample_weight=weights, eval_set=evaluated, verbose=False)
    np.testing.assert_allclose(classifier.predict_proba(features)[:, 1], expected, **CLOSE)


def test_lightgbm_softmax_is_the_built_in_objective():
    lightgbm = pytest.importorskip("lightgbm")
    features, labels, weights = problem()
    parameters = {"num_class": 4, "metric": "multi_logloss", **LIGHTGBM}
    theirs, ours = {}, {}
    data = lightgbm.Dataset(features, labels, weight=weights)
    model = lightgbm.train(
        {**parameters, "objective": "multiclass"},
        data,
        10,
        valid_sets=[data],
        callbacks=[lightgbm.record_evaluation(theirs)],
    )
    expected = model.predict(features, raw_score=True)
    objective = boosting.lightgbm_softmax(4)
    data = lightgbm.Dataset(features, labels, weight=weights)
    model = lightgbm.train(
        {**parameters, "objective": objective},
        data,
        10,
        feval=boosting.lightgbm_multi_logloss,
        valid_sets=[data],
        callbacks=[lightgbm.record_evaluation(ours)],
    )
    np.testing.assert_allclose(model.predict(features), expected, **CLOSE)
    found = ours["training"]["lightgbm_multi_logloss"]
    np.testing.assert_allclose(found, theirs["training"]["multi_logloss"], rtol=1e-9)
    classifier = lightgbm.LGBMClassifier(
        objective=objective, n_estimators=10, num_leaves=15, verbose=-1, n_jobs=1
    )
    classifier.fit(features, labels, sample_weight=weights)
    raw = classifier.predict(features, raw_score=True)
    np.testing.assert_allclose(raw, expected, **CLOSE)


def test_lightgbm_logistic_is_the_built_in_objective():
    lightgbm = pytest.importorskip("lightgbm")
    features, labels, weights = problem()
    labels = labels > 1

    def trained(**parameters):
        data = lightgbm.Dataset(features, labels, weight=weights)
        return lightgbm.train({**parameters, **LIGHTGBM}, data, 10)

    model = trained(objective="binary", scale_pos_weight=3.0)
    expected = model.predict(features, raw_score=True)
    objective = boosting.lightgbm_logistic(pos_weight=3.0)
    np.testing.assert_allclose(trained(objective=objective).predict(features), expected, **CLOSE)
    classifier = lightgbm.LGBMClassifier(
        objective=objective, n_estimators=10, num_leaves=15, verbose=-1, n_jobs=1
    )
    classifier.fit(
        features,
        labels,
        sample_weight=weights,
        eval_X=features,
        eval_y=labels,
        eval_metric=boosting.lightgbm_binary_logloss,
    )
    raw = classifier.predict(features, raw_score=True)
    np.testing.assert_allclose(raw, expected, **CLOSE)
    found = classifier.evals_result_["valid_0"]["lightgbm_binary_logloss"][-1]
    assert found == pytest.approx(xent.binary_cross_entropy_with_logits(raw, labels), rel=1e-12)


@pytest.mark.parametrize("options", [{"gamma": 2.0}, {"label_smoothing": 0.1}], ids=named)
@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_other_losses_train(name, options):
    """Twenty rounds take the cross-entropy below half of that of scores of zero."""
    library = pytest.importorskip(name)
    features, labels, _ = problem()
    objective = getattr(boosting, f"{name}_softmax")(4, **options)
    if name == "xgboost":
        data = library.DMatrix(features, labels)
        parameters = {"num_class": 4, "base_score": 0.0, "eta": 0.5, **XGBOOST}
        model = library.train(parameters, data, 20, obj=objective)
        scores = model.predict(data, output_margin=True)
    else:
        parameters = {"num_class": 4, "learning_rate": 0.5, **LIGHTGBM}
        data = library.Dataset(features, labels)
        scores = library.train({**parameters, "objective": objective}, data, 20).predict(features)
    assert xent.cross_entropy(scores, labels) < np.log(4) / 2


def test_bad_labels_reach_the_user():
    xgboost, lightgbm = pytest.importorskip("xgboost"), pytest.importorskip("lightgbm")
    features, labels, _ = problem()
    labels[123] = 4
    said = "labels: 4 in row 123 is not a class"
    matrix, data = xgboost.DMatrix(features, labels), lightgbm.Dataset(features, labels)
    objective = boosting.xgboost_softmax(4)
    with pytest.raises(ValueError, match=said):
        xgboost.train({"num_class": 4}, matrix, 1, obj=objective)
    parameters = {"num_class": 4, "objective": boosting.lightgbm_softmax(4), **LIGHTGBM}
    with pytest.raises(ValueError, match=said):
        lightgbm.train(parameters, data, 1)


def test_estimators_are_cloned():
    base = pytest.importorskip("sklearn.base")
    classifier = pytest.importorskip("xgboost").XGBClassifier(
        n_estimators=3, n_jobs=1, objective=boosting.xgboost_softmax(4, class_weight=[1, 2, 3, 4])
    )
    features, labels, _ = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (model.fit(features, labels) for model in (classifier, base.clone(classifier)))
    assert (one.predict_proba(features) == other.predict_proba(features)).all()
