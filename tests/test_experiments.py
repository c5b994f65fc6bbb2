"""The comparisons: numbers worked out independently, equal conditions for all, and what the figures show."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from math import floor, sqrt

import numpy as np
import pytest
import schuss
from schuss import datasets
from schuss.lab import experiments, plots
from schuss.lab.setting import over_seeds
from schuss.schedules import Constant

RNG = np.random.default_rng(0)
DIGITS = (
    (RNG.random((200, 12), np.float32), RNG.integers(0, 10, 200)),
    (RNG.random((50, 12), np.float32), RNG.integers(0, 10, 50)),
)
SMALL = {"hidden": [8], "iterations": 30, "batch_size": 16}


def legend(figure):
    """The texts of a figure's legend."""
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def drawn(figure):
    """The labels of the lines that can be seen: of what a legend may have an entry."""
    lines = [line for axes in figure.axes for line in axes.lines if np.isfinite(line.get_ydata()).any()]
    return [line.get_label() for line in lines if not line.get_label().startswith("_")]


def caption(figure):
    return " ".join(figure.get_supxlabel().split())


def arrows(figure):
    """The colours of the marks where a curve leaves the figure."""
    return [text.get_color() for text in figure.axes[0].texts if text.get_text() == "▲"]


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


def test_numpy_gives_the_same_curves(rule):
    ours, theirs = (experiments.mnist(DIGITS, [rule], in_numpy=in_numpy, **SMALL).runs[0] for in_numpy in (False, True))
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


def test_adam_on_digits(shared_data, request):
    data = datasets.load_mnist(data_dir=shared_data / "mnist")
    thorough = request.config.getoption("--thorough")
    adam, sgd = experiments.mnist(data, ["Adam", "SGD"], iterations=2000 if thorough else 200).runs
    assert adam.accuracy > (0.965 if thorough else 0.9)
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
    sgd, adam = legend(figure)
    assert sgd == "SGD, lr 0.05: diverged"
    assert adam == f"Adam, lr 0.01: {fits[1].losses[-1]:.4g}"


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


def test_on_digits_decays_end_nearer_to_the_minimum(shared_data, thorough):
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


def test_full_mnist_is_read_well(shared_data, thorough):
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
    for line in range(1, 190):
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
    assert ended < 45
    assert partial > 40


def test_ctrl_c_at_any_line_of_a_decay():
    data = (DIGITS[0][0][:12], DIGITS[0][1][:12]), DIGITS[1]

    def run():
        return experiments.decay(data, epochs=2, batch_size=4)

    whole, least = run(), np.inf
    assert not whole.interrupted
    ended = 0
    for line in range(1, 290):
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
    assert ended < 45
    assert whole[0].minimum < least
    plots.decay_figure(runs).draw_without_rendering()


def test_ctrl_c_at_any_line_of_training():
    x = np.random.default_rng(0).normal(size=(36, 784)).astype(np.float32)
    data = (x[:24], x[:24, :10].argmax(axis=1)), (x[24:], x[24:, :10].argmax(axis=1))

    def run():
        return experiments.train(data, hidden=[4], epochs=3, batch_size=22, optimizer="ScheduleFreeSGD")

    whole = run()
    partial = 0
    for line in range(1, 170):
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


# What the figures say.

MANY = {**SMALL, "seeds": 3}


def every_figure():
    """Each figure with its name, and what its caption must say of the setting."""
    data = {"data_name": "noise"}
    race = experiments.mnist(DIGITS, ["SGD", "Adam(lr=0.01)"], in_numpy=True, schedule=Constant(0.5), **MANY, **data)
    network = ["noise: 200 to train, 50 to test", "ReLU network 12-8-10", "batch 16", "30 iterations", "seeds 0 to 2"]
    network += ["steps in NumPy", "lr times Constant(lr=0.5)", "line: mean of the seeds, band: lowest to highest"]
    fits = experiments.regression(*line_data(), ["SGD"], seed=4, data_name="a line")
    line = ["a line: 300 rows, 3 features", "linear regression", "2 epochs", "batch 10", "seed 4"]
    runs = experiments.decay(DIGITS, examples=150, epochs=1, batch_size=50, seeds=2, **data)
    softmax = [
        "noise: 150 to train, 50 left out",
        "softmax regression 12-10",
        "weight decay 0.01",
        "1 epoch;",
        "batch 50",
    ]
    softmax += ["SGD, lr 0.4 times the factor of each curve", f"minimum of the loss {runs[0].minimum:.4f}"]
    images = np.zeros((50, 784), np.float32)
    digits = (np.ones((200, 784), np.float32), DIGITS[0][1]), (images, DIGITS[1][1])
    training = experiments.train(digits, hidden=[4], epochs=2, batch_size=20, seed=7, **data)
    trained = ["AdamW(weight_decay=0.05), lr 0.001", "noise: 184 to train, 16 held back to validate, 50 to test"]
    trained += ["ReLU network 784-4-10", "lr times WarmupCosine(lr=1.0", "2 epochs at most, patience 3", "seed 7"]
    ways = [experiments.path(["SGD", "Adam"], scaled=scaled) for scaled in (False, True)]
    return {
        "path": (plots.path_figure(*ways), ["x^2 / 20 + y^2 from (-7, 2)", "30 iterations"]),
        "race loss": (plots.race_loss_figure(race), [*network, "smoothed over 31"]),
        "race accuracy": (plots.race_accuracy_figure(race), [*network, "of 50 digits has a standard error of"]),
        "regression": (plots.regression_figure(fits), line),
        "decay": (plots.decay_figure(runs), [*softmax, "seeds 0 to 1"]),
        "schedule": (plots.schedule_figure({"Constant(1)": np.ones(5)}), ["5 steps"]),
        "training": (plots.training_figure(training), [*trained, "of 16 digits has a standard error of"]),
        "confusion": (plots.confusion_figure(training), [*trained, "white: the diagonal, read rightly"]),
        "misread": (plots.misread_figure(training, images), trained),
    }


def test_every_figure_says_what_was_run_and_by_which_version():
    for name, (figure, parts) in every_figure().items():
        said = caption(figure)
        assert [part for part in parts if part not in said] == [], name
        assert said.endswith(f"schuss {schuss.__version__}"), name


def test_every_legend_has_its_lines_and_every_line_its_entry():
    for name, (figure, _) in every_figure().items():
        assert set(legend(figure)) == set(drawn(figure)), name
        assert bool(legend(figure)) == (name not in ("confusion", "misread")), name


def test_captions_lie_within_their_figures():
    for name, (figure, _) in every_figure().items():
        figure.draw_without_rendering()
        (text,) = [text for text in figure.texts if "schuss" in text.get_text()]
        box, page = text.get_window_extent(), figure.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1, name
        assert page.y0 <= box.y0, name
        assert all(axes.get_tightbbox().y0 >= box.y1 - 1 for axes in figure.axes), name


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_figures_are_black_on_white_in_any_style(style):
    pyplot_style = pytest.importorskip("matplotlib.style", reason="matplotlib is not installed")
    colors = pytest.importorskip("matplotlib.colors")
    with pyplot_style.context(style):
        figure = plots.race_loss_figure(experiments.mnist(DIGITS, ["SGD"], **SMALL))
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert colors.to_hex(figure.get_facecolor()) == colors.to_hex(axes.get_facecolor()) == "#ffffff"
        texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, *figure.legends[0].get_texts()]
        assert {colors.to_hex(text.get_color()) for text in texts} == {"#000000"}


def test_captions_show_any_name():
    """A name is no formula, and what the font does not have is no warning, which is an error here."""
    name = "a$\\q$ größe \u6570\u636e \udcff\n.csv"
    figure = plots.regression_figure(experiments.regression(*line_data(), ["SGD"], data_name=name))
    figure.draw_without_rendering()
    assert "a$\\q$ größe \\u6570\\u636e \\udcff" in caption(figure)


def test_seeds_follow_each_other_and_each_is_a_run_by_itself():
    race = experiments.mnist(DIGITS, ["SGD", "Adam", "SGD"], seed=5, **MANY)
    assert race.setting.seeds == (5, 6, 7)
    assert [(run.seed, run.name) for run in race.runs] == [
        (seed, name) for seed in (5, 6, 7) for name in ("SGD", "Adam", "SGD")
    ]
    groups = over_seeds(race.runs)
    assert [[run.name for run in runs] for runs in groups] == [["SGD"] * 3, ["Adam"] * 3, ["SGD"] * 3]
    for seed in (5, 6, 7):
        alone = experiments.mnist(DIGITS, ["SGD", "Adam"], seed=seed, **SMALL)
        assert [run.losses for run in alone.runs] == [run.losses for run in race.runs if run.seed == seed][:2]
    features, target = line_data()
    fits = experiments.regression(features, target, ["SGD", "Adam"], seeds=2)
    again = experiments.regression(features, target, ["SGD", "Adam"], seed=1)
    assert [fit.losses for fit in fits[2:]] == [fit.losses for fit in again]
    runs = experiments.decay(DIGITS, epochs=2, batch_size=20, seeds=2)
    again = experiments.decay(DIGITS, epochs=2, batch_size=20, seed=1)
    assert [run.losses for run in runs[5:]] == [run.losses for run in again]


@pytest.mark.parametrize("rule", ["SGD", "Adam"], indirect=True)
def test_numpy_gives_the_same_curves_for_every_seed(rule):
    ours, theirs = (experiments.mnist(DIGITS, [rule], in_numpy=n, **MANY).runs for n in (False, True))
    assert [run.losses for run in ours] == [run.losses for run in theirs]


def test_several_seeds_are_a_mean_in_a_band():
    fits = experiments.regression(*line_data(), ["SGD"], seeds=4)
    figure = plots.regression_figure(fits)
    losses = np.array([fit.losses for fit in fits])
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), losses.mean(axis=0))
    (band,) = axes.collections
    (path,) = band.get_paths()
    for i, epoch in enumerate(fits[0].epochs):
        heights = path.vertices[path.vertices[:, 0] == epoch, 1]
        assert (heights.min(), heights.max()) == (losses[:, i].min(), losses[:, i].max())
    assert legend(figure)[0] == f"SGD, lr 0.05: {losses[:, -1].mean():.4g}"
    one = plots.regression_figure(experiments.regression(*line_data(), ["SGD"]))
    assert list(one.axes[0].collections) == []
    assert "band" not in caption(one)


def test_a_seed_that_was_cut_short_is_no_part_of_a_mean():
    def stop(run):
        if (run.seed, run.name, len(run.losses)) == (1, "Adam", 7):
            raise KeyboardInterrupt

    race = experiments.mnist(DIGITS, ["SGD", "Adam"], watch=stop, **MANY)
    assert [(run.seed, run.name, len(run.losses)) for run in race.runs] == [
        (0, "SGD", 30),
        (0, "Adam", 30),
        (1, "SGD", 30),
        (1, "Adam", 7),
    ]
    figure = plots.race_loss_figure(race)
    assert legend(figure) == ["SGD, lr 0.01 (2 of 3 seeds)", "Adam, lr 0.001 (1 of 3 seeds)"]
    assert "interrupted: partial results" in caption(figure)
    whole = plots.smooth_curve(race.runs[1].losses, 31)
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), whole)


def test_what_was_not_begun_has_no_entry():
    def stop(run):
        if len(run.losses) == 30:
            raise KeyboardInterrupt

    race = experiments.mnist(DIGITS, ["SGD", "Adam"], watch=stop, **SMALL)
    figure = plots.race_loss_figure(race)
    assert legend(figure) == drawn(figure) == ["SGD, lr 0.01"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("SGD", "SGD, lr 0.01"),
        ("SGD(lr=0.5)", "SGD(lr=0.5)"),
        ("Momentum(momentum=0.5)", "Momentum(momentum=0.5), lr 0.01"),
        ("SGD(Constant(0.1))", "SGD(Constant(0.1)), lr Constant(lr=0.1)"),
    ],
)
def test_a_label_has_the_learning_rate(text, label):
    race = experiments.mnist(DIGITS, [text], schedule=Constant(0.5), **SMALL)
    assert legend(plots.race_loss_figure(race)) == [label]


def test_a_cut_is_marked():
    """A curve that leaves the figure has an arrow where it does, in its colour, and the caption says where that is."""
    setting = experiments.mnist(DIGITS, ["SGD", "Adam"], **SMALL).setting
    calm = experiments.Run("SGD", [2.0] * 60)
    wild = experiments.Run("Adam", [2.0] * 30 + [1e9] * 30)
    figure = plots.race_loss_figure(experiments.Race([calm, wild], setting))
    assert arrows(figure) == [plots.colors(["Adam"])["Adam"]]
    (mark,) = figure.axes[0].texts
    assert 10 < mark.xy[0] < 30  # the smoothed curve leaves some steps before the raw one
    assert mark.xy[1] == figure.axes[0].get_ylim()[1] == 3
    assert "▲ cut above 3" in caption(figure)
    assert legend(figure) == ["SGD, lr 0.01", "Adam, lr 0.001: diverged"]
    figure = plots.race_loss_figure(experiments.Race([calm], setting))
    assert arrows(figure) == []
    assert "▲" not in caption(figure)


@pytest.mark.parametrize("loss", [1e9, np.inf, np.nan])
def test_curves_that_all_leave_are_marked_on_axes_that_stand_upright(loss):
    setting = experiments.mnist(DIGITS, ["SGD", "Adam"], **SMALL).setting
    race = experiments.Race([experiments.Run(name, [2.0, *[loss] * 40]) for name in ("SGD", "Adam")], setting)
    fits = experiments.regression(*line_data(1e4), ["SGD", "Momentum"])
    runs = experiments.decay(DIGITS, lr=1e4, epochs=4, batch_size=20)
    for figure, n in (
        (plots.race_loss_figure(race), 2),
        (plots.regression_figure(fits), 2),
        (plots.decay_figure(runs), 5),
    ):
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_ylim()
        assert low < high
        assert len(set(arrows(figure))) == n
        boxes = sorted((text.get_window_extent() for text in figure.axes[0].texts), key=lambda box: box.x0)
        assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))  # none covers another
        assert all(text.endswith(": diverged") for text in legend(figure))


def test_a_band_that_leaves_is_marked_too():
    fits = experiments.regression(*line_data(), ["SGD"], seeds=2)
    fits[1].losses[5] = 10 * fits[1].losses[0]
    assert len(arrows(plots.regression_figure(fits))) == 1


def test_a_path_that_leaves_its_panel_says_so():
    figure = plots.path_figure(experiments.path(["SGD(lr=1.05)", "Adam"]))
    away, stays = figure.axes
    assert [text.get_text() for text in away.texts] == ["leaves the panel at step 15"]
    assert 2 * 1.1**14 < away.get_ylim()[1] < 2 * 1.1**15
    assert [text.get_text() for text in stays.texts] == []


def test_the_minimum_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3)) * [1e-9, 1, 1e9] + [0, 5, 1e9]
    target = features[:, 1] + rng.normal(size=300)
    fits = experiments.regression(features, target, ["Adam"])
    with_one = np.column_stack([(features - features.mean(axis=0)) / features.std(axis=0), np.ones(300)])
    expected = np.mean((with_one @ np.linalg.solve(with_one.T @ with_one, with_one.T @ target) - target) ** 2) / 2
    assert fits[0].minimum == pytest.approx(expected, rel=1e-12)


def test_the_minimum_is_drawn_where_it_can_be():
    rng = np.random.default_rng(0)
    features, target = line_data()
    fits = experiments.regression(features, target + rng.normal(size=300), ["SGD"], epochs=20)
    assert fits[0].minimum < min(fits[0].losses) < 1.1 * fits[0].minimum
    figure = plots.regression_figure(fits)
    line = figure.axes[0].lines[-1]
    assert line.get_label() == legend(figure)[-1] == f"least squares: {fits[0].minimum:.4g}"
    assert set(line.get_ydata()) == {fits[0].minimum}
    assert figure.axes[0].get_ylim()[0] < fits[0].minimum
    exact = plots.regression_figure(experiments.regression(features, target, ["SGD"]))
    assert len(legend(exact)) == 1
    assert re.search(r"the least mean loss, [\d.e-]+, lies below the axis", caption(exact))
    panel = plots.path_figure(experiments.path(["SGD"])).axes[0]
    assert {line.get_label(): line.get_xydata().tolist() for line in panel.lines}["minimum"] == [[0, 0]]


@pytest.mark.parametrize(("low", "high"), [(0.24, 0.5), (0.02, 0.9), (1e-5, 3), (1e-4, 2.3), (2000, 50000), (1, 1e9)])
def test_ticks_are_plain_numbers(low, high):
    fits = experiments.regression(*line_data(), ["SGD"])
    fits[0].losses[:] = np.geomspace(high, low, len(fits[0].losses))
    fits[0].minimum = low
    figure = plots.regression_figure(fits)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    bottom, top = axes.get_ylim()
    ticks = [(y, text.get_text()) for y, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)]
    labels = [text for y, text in ticks if bottom <= y <= top]
    assert 3 <= len(labels) <= 10
    assert all(re.fullmatch(r"[\d,]+(\.\d+)?(e-?\d+)?", text) for text in labels)
    assert [float(text.replace(",", "")) for text in labels] == pytest.approx(
        [y for y, _ in ticks if bottom <= y <= top]
    )


@pytest.mark.parametrize(
    ("lr", "steps_per_epoch", "epochs"), [(0.4, 125, 12), (0.1, 1, 1), (1, 3750, 3), (2, 7, 10**6)]
)
def test_the_labels_of_decays_are_what_is_computed(lr, steps_per_epoch, epochs):
    for label, schedule in experiments.decay_schedules(lr, steps_per_epoch, epochs).items():
        formula = label.replace("constant", "1").replace("0.5 epoch", "0.5 * epoch").replace("^", "**")
        for t in {1, 2, steps_per_epoch, steps_per_epoch + 1, steps_per_epoch * epochs}:
            names = {"t": t, "epoch": (t - 1) // steps_per_epoch, "sqrt": sqrt, "floor": floor}
            assert schedule(t) == pytest.approx(lr * eval(formula, names), rel=1e-9, abs=1e-300), (label, t)


def test_the_first_decay_is_as_deep_as_the_courses():
    assert "0.843 ^ epoch" in experiments.decay_schedules(0.4, 125, 12)
    assert abs(0.843**12 / 0.95**40 - 1) < 0.01


@pytest.mark.parametrize(
    ("misread", "title"), [(64, "50 of 64 misread digits (100 tested)"), (3, "3 of 3 misread"), (0, "0 of 0")]
)
def test_the_misread_sheet_says_how_many_it_shows(misread, title):
    training = experiments.train(
        ((np.ones((24, 784)), np.zeros(24, int)), (np.ones((100, 784)), np.zeros(100, int))),
        epochs=1,
        hidden=[2],
        batch_size=5,
    )
    training.misread = [(place, 0, 1) for place in range(misread)]
    figure = plots.misread_figure(training, np.ones((100, 784)))
    figure.draw_without_rendering()
    assert figure.get_suptitle().startswith(title)
    assert sum(bool(axes.images) for axes in figure.axes) == min(50, misread)
    assert ("0 as 1: the digit is 0 and was read as 1" in caption(figure)) == (misread > 0)


def test_the_diagonal_of_the_confusion_is_white():
    training = experiments.train(
        ((np.ones((24, 784)), np.zeros(24, int)), (np.ones((9, 784)), np.arange(9))), epochs=1, hidden=[2], batch_size=5
    )
    image = plots.confusion_figure(training).axes[0].images[0]
    shown = image.get_array().filled(np.nan) if np.ma.isMaskedArray(image.get_array()) else image.get_array()
    np.testing.assert_array_equal(np.isnan(shown), (training.confusion == 0) | np.eye(10, dtype=bool))


# In a notebook.


def test_results_and_figures_show_themselves(monkeypatch):
    ways = experiments.path()
    fits = experiments.regression(*line_data(), ["SGD"], epochs=1)
    race = experiments.mnist(DIGITS, ["SGD"], hidden=[5], iterations=20, batch_size=8)
    decays = experiments.decay(DIGITS, epochs=1, examples=40)
    training = experiments.train(DIGITS, hidden=[5], epochs=1, batch_size=8)
    for result in (ways, fits, race, decays, training, plots.path_figure(ways)):
        assert result._repr_png_().startswith(b"\x89PNG"), type(result)
    assert experiments.Results(race.setting)._repr_png_() is None  # there is nothing to draw
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    assert race._repr_png_() is None
