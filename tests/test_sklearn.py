"""schuss.sklearn: scikit-learn's own checks, and its perceptrons epoch by epoch."""

from __future__ import annotations

import pickle
import re
import tracemalloc
import warnings
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import schuss

reason = "scikit-learn is not installed (extra sklearn)"
sklearn = pytest.importorskip("sklearn", reason=reason)
import joblib  # noqa: E402
import scipy.sparse  # noqa: E402
from schuss import nn  # noqa: E402
from schuss.sklearn import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn import neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.model_selection import GridSearchCV, train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ADAM = "Adam(eps_hat=1e-8)"  # scikit-learn's epsilon
RNG = np.random.default_rng(0)
DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
SOME = slice(0, 430)
MULTI = make_multilabel_classification(300, 10, n_classes=4, random_state=0)
NUMBERS = make_regression(300, 10, n_targets=3, random_state=0)
NUMBERS = NUMBERS[0], NUMBERS[1] / 100


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([MLPClassifier(max_iter=60), MLPRegressor(max_iter=60)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# Against scikit-learn's own, from the same random_state.


def assert_same_training(mine, wanted, X, y, fit=lambda model, *data: model.fit(*data), rtol=1e-11, **more):
    fit(mine, X, y, *more.values())
    fit(wanted, X, y, *more.values())
    np.testing.assert_allclose(mine.loss_curve_, wanted.loss_curve_, rtol=rtol)
    for a, b in zip(mine.coefs_ + mine.intercepts_, wanted.coefs_ + wanted.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * 100)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(mine, name) == getattr(wanted, name), name
    for name in ("loss_", "best_loss_", "validation_scores_", "best_validation_score_"):
        a, b = getattr(mine, name), getattr(wanted, name)
        assert a == b or a == pytest.approx(b, rel=rtol), name
    np.testing.assert_array_equal(mine.predict(X), wanted.predict(X)) if hasattr(mine, "classes_") else (
        np.testing.assert_allclose(mine.predict(X), wanted.predict(X), rtol=1e-8, atol=1e-10)
    )
    assert mine.score(X, y) == pytest.approx(wanted.score(X, y))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"activation": "tanh", "hidden_layer_sizes": 30},
        {"activation": "logistic", "hidden_layer_sizes": (30, 20)},
        {"activation": "identity", "shuffle": False},
        {"hidden_layer_sizes": ()},
        {"alpha": 1.0, "batch_size": 130},
        {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 2, "max_iter": 60},
        {"tol": 1.0, "n_iter_no_change": 3},
    ],
    ids=str,
)
def test_a_classifier_trains_as_scikit_learns(given):
    given = {"max_iter": 12, "random_state": 3, **given}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**given)
    assert_same_training(mine, wanted, DIGITS[SOME], LABELS[SOME])
    np.testing.assert_allclose(mine.predict_proba(DIGITS), wanted.predict_proba(DIGITS), atol=1e-10)
    np.testing.assert_allclose(mine.predict_log_proba(DIGITS), wanted.predict_log_proba(DIGITS), atol=1e-8)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    "labels", [LABELS == 3, np.where(LABELS > 4, "yes", "no"), LABELS.astype(str), -LABELS, LABELS * 1.0], ids=str
)
def test_labels_of_any_kind(labels, early_stopping):
    given = {"max_iter": 6, "random_state": 0, "early_stopping": early_stopping}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**given)
    assert_same_training(mine, wanted, DIGITS[SOME], labels[SOME])
    np.testing.assert_array_equal(mine.classes_, wanted.classes_)
    np.testing.assert_allclose(mine.predict_proba(DIGITS), wanted.predict_proba(DIGITS), atol=1e-10)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_several_labels_at_once(early_stopping):
    given = {"max_iter": 8, "random_state": 0, "early_stopping": early_stopping}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**given)
    assert_same_training(mine, wanted, *MULTI)
    np.testing.assert_allclose(mine.predict_proba(MULTI[0]), wanted.predict_proba(MULTI[0]), atol=1e-10)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("columns", [0, slice(0, 1), slice(0, 3)], ids=str)
@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
def test_a_regressor_trains_as_scikit_learns(columns, early_stopping):
    given = {"max_iter": 10, "random_state": 0, "early_stopping": early_stopping, "alpha": 0.1, "batch_size": 64}
    mine, wanted = MLPRegressor(optimizer=ADAM, **given), theirs.MLPRegressor(**given)
    assert_same_training(mine, wanted, NUMBERS[0], NUMBERS[1][:, columns])


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("y", [LABELS[SOME], LABELS[SOME] == 1, NUMBERS[1]], ids=["classes", "binary", "numbers"])
def test_sample_weights(y, early_stopping):
    """scikit-learn's are as ours: a row that weighs 2 counts as two, one that weighs 0 not at all."""
    if "sample_weight" not in signature(theirs.MLPClassifier.fit).parameters:
        pytest.skip("this scikit-learn's perceptrons take no sample_weight")
    classes = y.ndim == 1
    X = DIGITS[SOME] if classes else NUMBERS[0]
    weights = np.random.default_rng(1).integers(0, 3, len(X)) * 0.7
    given = {"max_iter": 6, "random_state": 0, "early_stopping": early_stopping}
    mine = (MLPClassifier if classes else MLPRegressor)(optimizer=ADAM, **given)
    wanted = (theirs.MLPClassifier if classes else theirs.MLPRegressor)(**given)
    assert_same_training(mine, wanted, X, y, sample_weight=weights)


def test_a_batch_that_weighs_nothing_is_left_out():
    X, y = DIGITS[:40], LABELS[:40]
    weights = np.repeat([1.0, 0.0], 20)
    given = {"batch_size": 20, "shuffle": False, "max_iter": 5, "random_state": 0, "hidden_layer_sizes": (8,)}
    half, whole = MLPClassifier(**given).fit(X[:20], y[:20]), MLPClassifier(**given).fit(X, y, sample_weight=weights)
    for a, b in zip(half.coefs_, whole.coefs_, strict=True):
        assert a.shape == b.shape
        assert np.array_equal(a, b)


def three_parts(model, X, y, *more):
    for part in (slice(0, 100), slice(100, 260), slice(0, 100)):
        if hasattr(model, "predict_proba"):
            model.partial_fit(X[part], y[part], classes=np.unique(LABELS))
        else:
            model.partial_fit(X[part], y[part])


@pytest.mark.parametrize("seed", [0, None])
def test_partial_fit(seed):
    given = {"random_state": seed or np.random.RandomState(5), "batch_size": 50}
    fresh = {**given, "random_state": seed or np.random.RandomState(5)}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**fresh)
    assert_same_training(mine, wanted, DIGITS[SOME], LABELS[SOME], three_parts)
    given["random_state"], fresh["random_state"] = np.random.RandomState(2), np.random.RandomState(2)
    assert_same_training(MLPRegressor(optimizer=ADAM, **given), theirs.MLPRegressor(**fresh), *NUMBERS, fit=three_parts)


def test_warm_start():
    given = {"random_state": 0, "max_iter": 4, "warm_start": True}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**given)

    def twice(model, X, y):
        model.fit(X, y)
        model.fit(X[:200], y[:200])

    assert_same_training(mine, wanted, DIGITS[SOME], LABELS[SOME], twice)
    assert len(mine.loss_curve_) == 8
    with pytest.raises(ValueError, match="classes"):
        mine.fit(DIGITS[SOME], LABELS[SOME] + 5)
    mine.set_params(hidden_layer_sizes=(7,))
    with pytest.raises(ValueError, match=r"of \[100, 10\] neurons, now they are to be of \[7, 10\]"):
        mine.fit(DIGITS[SOME], LABELS[SOME])


def test_the_digits_are_learned_as_well():
    X, X_test, y, y_test = train_test_split(DIGITS, LABELS, random_state=0)
    given = {"random_state": 0, "max_iter": 40}
    mine, wanted = MLPClassifier(**given).fit(X, y), theirs.MLPClassifier(**given).fit(X, y)
    assert mine.score(X_test, y_test) >= wanted.score(X_test, y_test) - 0.003  # the epsilons differ
    assert mine.score(X_test, y_test) > 0.95


def test_the_model_of_the_page():
    page = (Path(__file__).parents[1] / "docs" / "sklearn.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    names["model"].set_params(max_iter=20, hidden_layer_sizes=(30,))
    assert names["search"].fit(DIGITS[SOME], LABELS[SOME]).score(DIGITS, LABELS) > 0.8


# Optimizers and schedules.


@pytest.mark.parametrize(
    "optimizer",
    [
        "Lion(lr=0.001)",
        schuss.AdamW(lr=0.01, groups={"b*": {"weight_decay": 0.0}}),
        schuss.LAMB(lr=0.01, clip_norm=1.0),
    ],
    ids=repr,
)
def test_the_steps_are_the_optimizers(optimizer):
    X, y = DIGITS[:120], LABELS[:120]
    given = {"hidden_layer_sizes": (9,), "batch_size": 50, "shuffle": False, "random_state": 0, "alpha": 0.01}
    model = MLPClassifier(optimizer=optimizer, max_iter=3, **given).fit(X, y)
    first = MLPClassifier(optimizer="SGD(lr=0.0)", max_iter=1, **given).fit(X, y)
    params = {name: p.copy() for name, p in first._params().items()}
    opt = schuss.Lion(lr=0.001) if isinstance(optimizer, str) else optimizer.__class__(**_arguments(optimizer))
    net = nn.MultiLayerNet.from_params(params)
    for _ in range(3):
        for start in (0, 50, 100):
            rows = slice(start, start + 50)
            net.weight_decay_lambda = 0.01 / len(X[rows])
            opt.update(params, net.gradient(X[rows], y[rows]))
    for name, p in model._params().items():
        np.testing.assert_array_equal(p, params[name])
    if not isinstance(optimizer, str):
        assert optimizer.t == 0
        assert clone(model).optimizer.t == 0


def _arguments(optimizer):
    return {name: getattr(optimizer, name) for name in ("lr", "groups", "clip_norm")}


@pytest.mark.parametrize("schedule", [schuss.schedules.Cosine(0.01, 20), "Cosine(0.01, steps=20)", lambda t: 0.01 / t])
def test_a_schedule_is_the_rate(schedule):
    X, y = DIGITS[:100], LABELS[:100]
    given = {"hidden_layer_sizes": (5,), "batch_size": 20, "max_iter": 4, "random_state": 0}
    rate = schuss.schedules.Cosine(0.01, 20) if not callable(schedule) or isinstance(schedule, str) else schedule
    one = MLPClassifier(optimizer="SGD", schedule=schedule, **given).fit(X, y)
    other = MLPClassifier(optimizer=schuss.SGD(lr=rate), **given).fit(X, y)
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plateau_is_told_the_losses():
    schedule = schuss.schedules.ReduceOnPlateau(lr=0.5, factor=0.5, patience=1, threshold=0.9)
    model = MLPRegressor(optimizer="SGD", schedule=schedule, max_iter=15, random_state=0, n_iter_no_change=np.inf)
    model.fit(RNG.normal(size=(50, 3)), RNG.normal(size=50) / 100)
    assert schedule(1) == 0.5  # the caller's rests
    assert model._stepper.current_lr < 0.5
    assert len(model.loss_curve_) == 15


@pytest.mark.parametrize("optimizer", ["Adam(lr=0.01, ema=0.9)", "ScheduleFreeAdamW(lr=0.01)"])
def test_averages_are_what_is_evaluated(optimizer):
    X, y = DIGITS[:200], LABELS[:200]
    given = {"hidden_layer_sizes": (12,), "random_state": 0, "batch_size": 40}
    model = MLPClassifier(optimizer=optimizer, max_iter=5, **given).fit(X, y)
    averages = model._stepper.ema_params if "ema" in optimizer else model._stepper.averaged_params
    for i in (1, 2):
        np.testing.assert_array_equal(model.coefs_[i - 1], averages[f"W{i}"])
        assert not np.array_equal(model.coefs_[i - 1], model._live[f"W{i}"])
    # What goes on is what was stepped, also after a pickle.
    parts, again = (MLPClassifier(optimizer=optimizer, **given) for _ in range(2))
    for _ in range(4):
        parts.partial_fit(X, y, classes=np.unique(y))
        again = pickle.loads(pickle.dumps(again))
        again.partial_fit(X, y, classes=np.unique(y))
    for a, b in zip(parts.coefs_, again.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"optimizer": "Lyon"}, ValueError, "Lion"),
        ({"optimizer": 3}, TypeError, "optimizer must be one of ours"),
        ({"schedule": "Cosin(1)"}, ValueError, "Cosine"),
        ({"schedule": -1.0}, TypeError, "schedule must be a function of the step"),
        ({"schedule": [0.1, 0.01]}, TypeError, "schedule must be a function of the step"),
        ({"optimizer": "Muon"}, ValueError, "Muon steps matrices alone"),
        ({"optimizer": "adam"}, ValueError, "did you mean Adam"),
        ({"activation": "swish"}, ValueError, "activation must be one of 'relu'"),
        ({"hidden_layer_sizes": (5, 0)}, ValueError, "hidden_layer_sizes must be a whole number from 1"),
        ({"hidden_layer_sizes": "12"}, ValueError, "hidden_layer_sizes"),
        ({"alpha": -1}, ValueError, "alpha"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": "all"}, ValueError, "batch_size"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"tol": float("nan")}, ValueError, "tol"),
        ({"shuffle": 1}, TypeError, "shuffle"),
        ({"early_stopping": "yes"}, TypeError, "early_stopping"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change"),
        ({"early_stopping": True, "validation_fraction": 0.02}, ValueError, "fewer than 2 samples are held out"),
    ],
)
def test_arguments_refused(given, error, message):
    model = MLPRegressor(**given)
    with pytest.raises(error, match=message):
        model.fit(DIGITS[:50], LABELS[:50])
    assert not hasattr(model, "loss_curve_") or not model.loss_curve_


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"solver": "adam"}, "MLPClassifier has no solver; give optimizer='Adam'"),
        ({"learning_rate_init": 0.1}, "MLPClassifier has no learning_rate_init; it is the optimizer's"),
        ({"learning_rate": "adaptive"}, "MLPClassifier has no learning_rate; give schedule="),
    ],
)
def test_arguments_of_scikit_learns_are_told_apart(given, message):
    with pytest.raises(TypeError, match=message):
        MLPClassifier(**given)
    assert set(signature(MLPClassifier).parameters) == set(MLPClassifier().get_params())


def test_muon_with_another_rule_for_the_biases():
    X, y = load_digits(return_X_y=True)
    optimizer = schuss.Muon(0.02, groups={"b*": {"rule": "AdamW", "lr": 0.01}})
    model = MLPClassifier((32,), optimizer=optimizer, max_iter=10, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X / 16, y)
    assert set(model._stepper.state["W1"]) == {"m"}
    assert set(model._stepper.state["b1"]) == {"m", "v"}
    assert model.score(X / 16, y) > 0.97


def test_an_optimizer_that_has_made_steps_is_refused():
    opt = schuss.Adam()
    opt.update({"W": np.ones(2)}, {"W": np.ones(2)})
    with pytest.raises(ValueError, match="made no step; this one has made 1"):
        MLPRegressor(optimizer=opt).fit(DIGITS[:50], LABELS[:50])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.partial_fit(DIGITS[:50], LABELS[:50]), "classes must be passed on the first call"),
        (lambda m: m.set_params(early_stopping=True).partial_fit(DIGITS, LABELS, classes=range(10)), "early_stopping"),
        (lambda m: m.fit(DIGITS[:50], LABELS[:50] + 0.5), "Unknown label type"),
        (lambda m: m.fit(DIGITS[:50], np.stack([LABELS[:50], LABELS[:50]], 1)), "several columns"),
        (lambda m: m.partial_fit(DIGITS[:50], LABELS[:50], classes=[0, 1]), "not all are among"),
        (lambda m: m.fit(DIGITS[:50], LABELS[:50], sample_weight=-np.ones(50)), "Negative values"),
        (lambda m: m.fit(DIGITS[:50], LABELS[:50], sample_weight=np.zeros(50)), "zero|weights"),
    ],
)
def test_data_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(MLPClassifier(max_iter=2))


def test_other_classes_in_a_later_call():
    model = MLPClassifier().partial_fit(DIGITS, LABELS, classes=range(10))
    with pytest.raises(ValueError, match="not the same as on the last call"):
        model.partial_fit(DIGITS, LABELS, classes=range(9))


def test_weights_that_are_not_finite_are_told():
    with pytest.raises(ValueError, match="not finite any more"), np.errstate(all="ignore"):
        MLPRegressor(optimizer="SGD(lr=1e30)", max_iter=3).fit(1e3 * DIGITS[:50], LABELS[:50])


# Conventions.


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_dtypes(dtype):
    wanted = np.float32 if dtype == np.float32 else np.float64
    X = (16 * DIGITS[SOME]).astype(dtype)
    model = MLPClassifier(max_iter=2, random_state=0).fit(X, LABELS[SOME])
    assert all(p.dtype == wanted for p in model.coefs_ + model.intercepts_)
    assert model.predict_proba(X).dtype == wanted
    assert model.predict(X).dtype == LABELS.dtype
    model.partial_fit(X.astype(np.float64), LABELS[SOME])
    assert all(p.dtype == wanted for p in model.coefs_)


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array"])
def test_a_sparse_matrix_is_as_a_dense_one(kind):
    sparse = getattr(scipy.sparse, kind)(np.where(DIGITS > 0.3, DIGITS, 0))
    given = {"max_iter": 4, "random_state": 0, "early_stopping": True}
    for model in (MLPClassifier(**given), MLPClassifier(**given, hidden_layer_sizes=(3,), activation="tanh")):
        one, other = clone(model).fit(sparse, LABELS), clone(model).fit(sparse.toarray(), LABELS)
        np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-12)
        np.testing.assert_array_equal(one.predict(sparse), other.predict(sparse.toarray()))


def test_a_wide_sparse_matrix_stays_sparse():
    """The rows that go through the network at once would take 4 GB."""
    columns = np.random.default_rng(0).integers(0, 10**6, 1000)
    X = scipy.sparse.csr_array((np.ones(1000, np.float32), columns, np.arange(1001)), shape=(1000, 10**6))
    tracemalloc.start()
    model = MLPClassifier((1,), max_iter=1, optimizer="SGD(lr=0.1)").fit(X, np.arange(1000) % 3)
    assert model.predict_proba(X).shape == (1000, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**8


def test_one_class():
    model = MLPClassifier(max_iter=2).fit(DIGITS[:20], ["only"] * 20)
    assert set(model.predict(DIGITS)) == {"only"}
    assert (model.predict_proba(DIGITS) == 1).all()


def test_in_a_pipeline_and_a_search():
    pipe = make_pipeline(StandardScaler(), MLPClassifier(max_iter=3, random_state=0, hidden_layer_sizes=(10,)))
    grid = {"mlpclassifier__optimizer": ["SGD(lr=1e-6)", schuss.Adam(lr=0.01)], "mlpclassifier__schedule": [None]}
    search = GridSearchCV(pipe, grid, cv=2).fit(DIGITS[SOME], LABELS[SOME])
    assert isinstance(search.best_params_["mlpclassifier__optimizer"], schuss.Adam)
    assert search.best_estimator_.score(DIGITS, LABELS) > 0.3


def test_data_frames_name_the_columns():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed (extra parity)")
    frame = pandas.DataFrame(DIGITS[SOME], columns=[f"p{i}" for i in range(64)])
    model = MLPClassifier(max_iter=2, random_state=0).fit(frame, pandas.Series(LABELS[SOME]))
    assert list(model.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"p0": "q"}))


def test_a_pickle_is_not_larger_than_what_it_holds():
    model = MLPClassifier(max_iter=2, random_state=0).fit(DIGITS, LABELS)
    state = 3 * sum(p.nbytes for p in model.coefs_ + model.intercepts_)
    data = pickle.dumps(model)
    assert len(data) < state * 1.4 + 20_000
    np.testing.assert_array_equal(pickle.loads(data).predict(DIGITS), model.predict(DIGITS))


def test_coefficients_that_are_set_count():
    model = MLPRegressor(hidden_layer_sizes=(), max_iter=1).fit(np.ones((5, 1)), np.ones(5))
    model.coefs_, model.intercepts_ = [np.array([[2.0]])], [np.array([1.0])]
    np.testing.assert_array_equal(model.predict([[0.0], [3.0]]), [1.0, 7.0])


def test_a_stream_goes_on_from_the_best_weights():
    given = {"max_iter": 8, "random_state": 0, "early_stopping": True, "hidden_layer_sizes": (9,)}
    mine, wanted = MLPClassifier(optimizer=ADAM, **given), theirs.MLPClassifier(**given)
    for model in (mine, wanted):
        model.fit(DIGITS[SOME], LABELS[SOME])
        model.set_params(early_stopping=False)
        if model is wanted:
            model.best_loss_ = np.inf  # which is None after early_stopping, and then fails
        model.partial_fit(DIGITS[SOME], LABELS[SOME])
    assert mine.loss_curve_[-1] == pytest.approx(wanted.loss_curve_[-1], rel=1e-9)
    assert mine.best_loss_ == mine.loss_curve_[-1]


def test_early_stopping_from_a_warm_start():
    model = MLPClassifier(max_iter=2, random_state=0, warm_start=True).fit(DIGITS[SOME], LABELS[SOME])
    assert model.validation_scores_ is None
    model.set_params(early_stopping=True).fit(DIGITS[SOME], LABELS[SOME])
    assert len(model.validation_scores_) == 2
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_a_stream_goes_on_from_coefficients_that_were_set():
    model = MLPClassifier(hidden_layer_sizes=(9,), optimizer="SGD(lr=0.0)", max_iter=1).fit(DIGITS[SOME], LABELS[SOME])
    wanted = [np.full_like(W, 0.25) for W in model.coefs_]
    model.coefs_ = [W.copy() for W in wanted]
    model.partial_fit(DIGITS[SOME], LABELS[SOME])
    assert all(np.array_equal(a, b) for a, b in zip(model.coefs_, wanted, strict=True))


@pytest.mark.parametrize("optimizer", ["Adam", "Adam(ema=0.9)", "NAdam", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_what_joblib_loads_goes_on(optimizer, mmap_mode, tmp_path):
    model = MLPClassifier((40,), max_iter=2, random_state=0, optimizer=optimizer).fit(DIGITS[SOME], LABELS[SOME])
    joblib.dump(model, tmp_path / "model")
    loaded = joblib.load(tmp_path / "model", mmap_mode=mmap_mode)
    for each in (model, loaded):
        each.partial_fit(DIGITS[SOME], LABELS[SOME])
    for a, b in zip(model.coefs_ + model.intercepts_, loaded.coefs_ + loaded.intercepts_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_progress_is_shown(capsys):
    MLPClassifier(max_iter=3, verbose=True, early_stopping=True).fit(DIGITS[SOME], LABELS[SOME])
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "loss=" in shown
    assert "validation score=" in shown


def test_an_interrupt_keeps_what_was_learned(monkeypatch):
    calls = []
    gradient = nn.MultiLayerNet.gradient

    def interrupted(self, *given):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return gradient(self, *given)

    monkeypatch.setattr(nn.MultiLayerNet, "gradient", interrupted)
    model = MLPClassifier(batch_size=100, random_state=0)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(DIGITS[:300], LABELS[:300])
    assert model.n_iter_ == 1
    assert model._stepper.t == 4
    assert model.predict(DIGITS[:3]).shape == (3,)


def test_warnings():
    with pytest.warns(ConvergenceWarning, match="max_iter=2 epochs are over"):
        MLPClassifier(max_iter=2).fit(DIGITS[:50], LABELS[:50])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.raises(UserWarning, match="batch_size=70 is more than there are samples; it is taken as 50"):
            MLPClassifier(max_iter=2, batch_size=70).fit(DIGITS[:50], LABELS[:50])
