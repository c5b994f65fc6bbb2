"""The comparisons: numbers worked out independently, equal conditions for all, and what the figures show."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from schuss import datasets, experiments, plots
from schuss.schedules import Constant

RNG = np.random.default_rng(0)
DIGITS = (
    (RNG.random((200, 12), np.float32), RNG.integers(0, 10, 200)),
    (RNG.random((50, 12), np.float32), RNG.integers(0, 10, 50)),
)
SMALL = {"hidden": [8], "iterations": 30, "batch_size": 16}


def test_the_path_of_sgd_by_hand():
    (way,) = experiments.path(["SGD"])
    assert len(way.points) == 31
    assert way.points[0] == (-7.0, 2.0)
    assert way.points[1] == (-7 - 0.95 * -0.7, 2 - 0.95 * 4)
    assert way.points[30] == pytest.approx((-7 * 0.905**30, 2 * (-0.9) ** 30))
    assert way.end_value == pytest.approx(way.points[30][0] ** 2 / 20 + way.points[30][1] ** 2)


def test_the_scaled_path_of_sgd_is_straight():
    (way,) = experiments.path(["SGD"], scaled=True)
    u, y = -7 / np.sqrt(20), 2.0
    np.testing.assert_allclose(way.points, [(u * (-0.9) ** k, y * (-0.9) ** k) for k in range(31)])
    assert way.end_value == pytest.approx((u**2 + y**2) * 0.81**30)


def test_every_path_comes_down(rule):
    for scaled in (False, True):
        (way,) = experiments.path([rule], scaled=scaled)
        assert way.end_value < 0.2 < (49 / 20 + 4)


def test_the_race_is_fair():
    """Two runs of one optimizer, in whatever company, are the same run: same weights, same batches."""
    race = experiments.mnist(DIGITS, ["SGD", "Adam", "SGD"], **SMALL)
    first, adam, again = race.runs
    assert first.losses == again.losses
    assert first.accuracies == again.accuracies
    assert first.losses[0] == adam.losses[0]
    assert first.losses[1] != adam.losses[1]
    other = experiments.mnist(DIGITS, ["SGD"], seed=1, **SMALL).runs[0]
    assert other.losses[0] != first.losses[0]


def test_numpy_gives_the_same_curves(bitwise_rule):
    ours, theirs = (
        experiments.mnist(DIGITS, [bitwise_rule], in_numpy=in_numpy, **SMALL).runs[0] for in_numpy in (False, True)
    )
    assert ours.losses == theirs.losses
    assert ours.accuracies == theirs.accuracies


def test_what_a_run_keeps():
    seen = []
    race = experiments.mnist(DIGITS, ["Adam"], watch=lambda run: seen.append(len(run.losses)), **SMALL)
    (run,) = race.runs
    assert seen == list(range(1, 31))
    assert not race.interrupted
    assert len(run.losses) == len(run.gradient_ns) == len(run.update_ns) == 30
    assert run.seconds >= (sum(run.gradient_ns) + sum(run.update_ns)) / 1e9
    assert run.final_loss == np.mean(run.losses)
    assert set(run.accuracies) == set(range(1, 31))
    assert run.accuracy == run.accuracies[30]


def test_an_interrupted_race_keeps_what_was_done():
    def stop(run):
        if run.name == "Adam" and len(run.losses) == 7:
            raise KeyboardInterrupt

    race = experiments.mnist(DIGITS, ["SGD", "Adam", "AdaGrad"], watch=stop, **SMALL)
    assert race.interrupted
    assert [(run.name, len(run.losses)) for run in race.runs] == [("SGD", 30), ("Adam", 7)]
    plots.race_loss_figure(race)
    plots.race_accuracy_figure(race)


def test_adam_on_digits(shared_data):
    data = datasets.load_mnist(data_dir=shared_data / "mnist")
    adam, sgd = experiments.mnist(data, ["Adam", "SGD"], iterations=2000).runs
    assert adam.accuracy > 0.965
    assert sgd.accuracy < adam.accuracy
    assert sgd.final_loss > 2 * adam.final_loss


@pytest.mark.parametrize("seed", range(5))
def test_the_books_regression(shared_data, seed):
    features, target = datasets.load_table(shared_data / "airfoil_self_noise.dat")
    features, target = datasets.scale_features(features)[0], datasets.scale_features(target)[0]
    (fit,) = experiments.regression(features[:1500], target[:1500], ["Adam"], seed=seed)
    assert len(fit.losses) == 31
    assert fit.epochs[-1] == 2
    assert 0.24 < fit.losses[-1] < 0.25


def line_data(scale=1.0):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3)) * scale
    return features, features @ np.array([1.0, -2.0, 0.5]) + 0.7


def test_regression_finds_the_line(rule):
    (fit,) = experiments.regression(*line_data(), [rule], epochs=20)
    assert fit.losses[-1] < 0.05 * fit.losses[0]
    assert not fit.diverged


def test_sgd_regression_by_hand():
    features, target = line_data()
    (fit,) = experiments.regression(features, target, ["SGD"], epochs=1, seed=3)
    rng = np.random.default_rng(3)
    w, b = rng.normal(0, 0.01, 3), 0.0
    losses = [np.mean((features @ w + b - target) ** 2) / 2]
    order = rng.permutation(300)
    for k in range(30):
        rows = order[10 * k : 10 * k + 10]
        error = features[rows] @ w + b - target[rows]
        w, b = w - 0.05 * np.mean(error[:, None] * features[rows], axis=0), b - 0.05 * error.mean()
        if k % 10 == 9:
            losses.append(np.mean((features @ w + b - target) ** 2) / 2)
    np.testing.assert_allclose(fit.losses, losses, rtol=1e-12)


def test_divergence_is_told_and_drawn():
    fits = experiments.regression(*line_data(1e4), ["SGD", "Adam"])
    assert fits[0].diverged
    assert not fits[1].diverged
    figure = plots.regression_figure(fits)
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "SGD  diverged"


@pytest.mark.parametrize("n", [1, 4, 11, 50])
@pytest.mark.parametrize("window", [3, 11])
def test_smoothing_is_a_weighted_mean(n, window):
    x = np.random.default_rng(n).normal(size=n)
    weights = np.kaiser(window, 2)
    expected = []
    for i in range(n):
        near = [(weights[j - i + window // 2], x[j]) for j in range(n) if abs(j - i) <= window // 2]
        expected.append(sum(w * v for w, v in near) / sum(w for w, _ in near))
    np.testing.assert_allclose(plots.smooth_curve(x, window), expected, rtol=1e-12)


def test_the_path_figure():
    figure = plots.path_figure(experiments.path(), experiments.path(scaled=True))
    assert len(figure.axes) == 2 * 6
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "SGD, lr 0.95"
    ways = [line.get_xydata() for line in figure.axes[0].lines]
    assert ways[0].shape == (31, 2)
    assert ways[1].tolist() == [[-7.0, 2.0]]
    assert figure.axes[-1].get_aspect() == 1


def test_a_colour_for_each():
    six = plots.colors(experiments.TEXTBOOK)
    assert len({six[name] for name in experiments.TEXTBOOK}) == 6
    more = plots.colors(["Lion", "SGD", "Adam", "Adam(lr=0.1)"])
    assert len({more[name] for name in ("Lion", "SGD", "Adam", "Adam(lr=0.1)")}) == 4
    assert (more["SGD"], more["Adam"]) == (six["SGD"], six["Adam"])


def test_a_constant_rate_wanders_and_decays_close_in():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 12)).astype(np.float32)
    t = (x @ rng.normal(size=(12, 10)) + rng.gumbel(size=(400, 10))).argmax(axis=1)
    constant, *decays = experiments.decay(((x, t), (x, t)), epochs=12)
    assert constant.schedule(10**6) == 0.4
    for run in decays:
        assert run.schedule(run.iterations[-1]) < 0.2
        assert run.wander < constant.wander
        assert run.excess >= 0


def test_on_digits_decays_end_nearer_to_the_minimum(shared_data):
    constant, *decays = experiments.decay(datasets.load_mnist(data_dir=shared_data / "mnist"))
    assert max(run.excess for run in decays) < constant.excess / 3


def test_training_learns_and_keeps_the_best():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 784)).astype(np.float32)
    t = x[:, :10].argmax(axis=1)
    seen = []
    training = experiments.train(((x[:500], t[:500]), (x[500:], t[500:])), hidden=[32], epochs=4, watch=seen.append)
    assert len(seen) == len(training.losses) == len(training.rates)
    assert training.losses[-1] < training.losses[0]
    assert training.rates[0] > training.rates[-1]
    wrong = {place for place, _, _ in training.misread}
    assert len(wrong) == 100 - np.trace(training.confusion)
    assert all(true != read and t[500 + place] == true for place, true, read in training.misread)


def test_interrupted_training_keeps_the_best():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 784)).astype(np.float32)
    data = (x[:500], x[:500, :10].argmax(axis=1)), (x[500:], x[500:, :10].argmax(axis=1))

    def watch(training):
        if len(training.losses) == 2:
            raise KeyboardInterrupt

    training = experiments.train(data, hidden=[8], epochs=9, watch=watch)
    assert training.interrupted
    assert len(training.losses) == len(training.accuracies) == 2
    assert training.test_accuracy == pytest.approx(1 - len(training.misread) / 100)


def test_a_schedule_of_all_multiplies_that_of_one():
    (run,) = experiments.mnist(DIGITS, ["SGD(lr=Exponential(0.1, 0.5))"], schedule=Constant(0.5), **SMALL).runs
    (same,) = experiments.mnist(DIGITS, ["SGD(lr=Exponential(0.05, 0.5))"], **SMALL).runs
    assert run.losses == same.losses


def test_full_mnist_is_read_well(shared_data):
    """What the command does with its defaults, for two of its ten epochs."""
    data = datasets.load_mnist(data_dir=shared_data / "mnist")
    training = experiments.train(data, epochs=2)
    assert training.test_accuracy > 0.97


def test_schedule_free_networks_are_tested_at_their_averages():
    (run,) = experiments.mnist(DIGITS, ["ScheduleFreeSGD(momentum=0.5)"], **SMALL).runs
    net = experiments.MultiLayerNet(12, [8], 10, seed=0)
    batches = np.random.default_rng(0)
    opt = experiments.parse_optimizer("ScheduleFreeSGD(momentum=0.5)").make()
    for _ in range(30):
        batch = batches.integers(0, 200, 16)
        opt.update(net.params, net.gradient(DIGITS[0][0][batch], DIGITS[0][1][batch]))
    for name, x in opt.averaged_params.items():
        net.params[name][...] = x
    assert net.accuracy(*DIGITS[1]) == run.accuracy


def ctrl_c_at(line, run):
    """What run() returns if Ctrl-C comes before so manieth a line of experiments.py is run; None if it is ended."""
    left = line

    def trace(frame, event, arg):
        nonlocal left
        if frame.f_code.co_filename != experiments.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return run()
    except KeyboardInterrupt:
        return None
    finally:
        sys.settrace(before)


def test_ctrl_c_at_any_line_of_a_regression():
    features, target = np.arange(24.0).reshape(12, 2) / 24, np.arange(12.0) / 12
    whole = experiments.regression(features, target, ["SGD", "Adam"])
    assert not whole.interrupted
    ended, partial = 0, 0
    for line in range(1, 150):
        fits = ctrl_c_at(line, lambda: experiments.regression(features, target, ["SGD", "Adam"]))
        if fits is None:
            ended += 1  # at the first lines, and at the last
            continue
        for fit, full in zip(fits, whole, strict=False):
            assert fit.name == full.name
            assert 2 <= len(fit.epochs) == len(fit.losses) <= 3
            assert (fit.epochs, fit.losses) == (full.epochs[: len(fit.epochs)], full.losses[: len(fit.losses)])
        assert fits.interrupted or list(fits) == list(whole)
        partial += len(fits) > 0 and list(fits) != list(whole)
    assert not fits.interrupted
    assert ended < 20
    assert partial > 40


def test_ctrl_c_at_any_line_of_a_decay():
    data = (DIGITS[0][0][:12], DIGITS[0][1][:12]), DIGITS[1]

    def run():
        return experiments.decay(data, epochs=2, batch_size=4)

    whole, least = run(), np.inf
    assert not whole.interrupted
    ended = 0
    for line in range(1, 250):
        runs = ctrl_c_at(line, run)
        ended += runs is None
        if not runs:
            continue
        assert runs.interrupted
        for found, full in zip(runs, whole, strict=False):
            assert 1 <= len(found.iterations) == len(found.losses) <= 2
            assert (found.name, found.losses) == (full.name, full.losses[: len(found.losses)])
        lowest = min(loss for found in runs for loss in found.losses)
        assert {found.minimum for found in runs} == {lowest}
        assert lowest <= least
        assert all(found.excess >= 0 for found in runs)
        least = lowest
    assert ended < 20
    assert whole[0].minimum < least
    plots.decay_figure(runs).draw_without_rendering()


def test_ctrl_c_at_any_line_of_training():
    x = np.random.default_rng(0).normal(size=(36, 784)).astype(np.float32)
    data = (x[:24], x[:24, :10].argmax(axis=1)), (x[24:], x[24:, :10].argmax(axis=1))

    def run():
        return experiments.train(data, hidden=[4], epochs=3, batch_size=22, optimizer="ScheduleFreeSGD")

    whole = run()
    partial = 0
    for line in range(1, 120):
        training = ctrl_c_at(line, run)
        if training is None or not training.interrupted:
            continue
        done = len(training.losses)
        partial += 0 < done < 3
        for series in ("losses", "accuracies", "rates"):
            assert getattr(training, series) == getattr(whole, series)[:done]
        assert training.best_epoch == (1 + np.argmax(training.accuracies) if done else 0)
        assert bool(training.params) == bool(done)
    assert partial > 20


def test_an_interrupted_race_is_drawn_before_its_first_test():
    """A legend without entries would be a warning, which is an error here."""

    def stop(run):
        raise KeyboardInterrupt

    race = experiments.mnist(DIGITS, ["SGD"], hidden=[8], iterations=100, batch_size=16, watch=stop)
    assert [(len(run.losses), run.accuracy) for run in race.runs] == [(1, None)]
    plots.race_loss_figure(race).draw_without_rendering()
    plots.race_accuracy_figure(race).draw_without_rendering()


def test_the_minimum_is_not_that_of_what_diverged():
    runs = experiments.decay(DIGITS, lr=1e4, epochs=4, batch_size=20)
    losses = np.array([run.losses for run in runs])
    assert np.isnan(losses[:, -1]).all()
    assert {run.minimum for run in runs} == {losses[np.isfinite(losses)].min()}
    some = experiments.Decay("some", Constant(1.0), [1, 2], [1.0, np.inf])
    assert np.isnan(some.wander)  # without a warning, which is an error here


def test_a_path_that_leaves_all_numbers_is_drawn_as_far_as_it_can_be():
    """Warnings are errors here."""
    ways = experiments.path(["SGD(lr=1e60)", "SGD"])
    figure = plots.path_figure(ways)
    figure.draw_without_rendering()
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert "end" not in lines
    way = figure.axes[0].lines[0].get_xydata().tolist()
    assert way == [list(point) for point in ways[0].points[:2]]
    assert "end" in [line.get_label() for line in figure.axes[1].lines]


@pytest.mark.parametrize("run", [experiments.mnist, experiments.train])
def test_batches_and_networks_have_bounds(monkeypatch, run):
    monkeypatch.setattr(experiments, "MultiLayerNet", None)
    examples = 200 if run is experiments.mnist else 184
    with pytest.raises(ValueError, match="batch") as caught:
        run(DIGITS, batch_size=examples + 1)
    assert str(caught.value) == (
        f"a batch of {examples + 1} is larger than the training set of {examples} examples; choose a smaller one"
    )
    with pytest.raises(ValueError, match="activations") as caught:
        run(DIGITS, batch_size=100, hidden=[2_000_000])
    assert str(caught.value) == (
        "a batch of 100 would have 200,001,000 activations in layers [12, 2000000, 10], more than 200,000,000; "
        "choose a smaller batch or fewer neurons"
    )
    with pytest.raises(ValueError, match="parameters") as caught:
        run(DIGITS, batch_size=16, hidden=[8_695_653])
    assert str(caught.value) == (
        "a network of layers [12, 8695653, 10] would have 200,000,029 parameters, more than 200,000,000; "
        "choose fewer neurons"
    )


@pytest.mark.parametrize("value", [2e100, np.inf, np.nan])
def test_regression_refuses_what_it_cannot_square(value):
    features, target = line_data()
    target[7] = -value
    with pytest.raises(ValueError, match="squares") as caught:
        experiments.regression(features, target)
    assert str(caught.value) == (
        "features and target must be within 1e+100, so that their squares can be summed; "
        f"got {value:g} in size: scale them"
    )
