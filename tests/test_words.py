"""Words as vectors: the model's gradient by hand, and the three ways of training it."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import schuss
from schuss import cli
from schuss.lab import plots, words
from schuss.lab.words import NEGATIVES, SkipGram, Words


@pytest.fixture
def few():
    """Words of which a few come often."""
    numbers = np.minimum(np.random.default_rng(0).zipf(1.5, 400) - 1, 29)
    _, numbers = np.unique(numbers, return_inverse=True)
    return Words([f"w{i}" for i in range(numbers.max() + 1)], numbers.astype(np.int64))


def test_the_gradient_by_hand():
    """Pair by pair, in float64."""
    model = SkipGram(7, 5, seed=1)
    centers, others = np.array([2, 2, 6]), np.array([[0, 1, 1], [2, 2, 5], [3, 4, 6]])
    loss, grads = model.gradient(centers, others)
    tables = {name: p.astype(np.float64) for name, p in model.params.items()}
    expected, total = {name: np.zeros_like(p) for name, p in tables.items()}, 0.0
    for b, k in product(range(3), range(3)):
        v, u, sign = tables["in"][centers[b]], tables["out"][others[b, k]], -1 if k == 0 else 1
        total += np.log(1 + np.exp(sign * v @ u)) / 3
        slope = sign / (1 + np.exp(-sign * v @ u)) / 3
        expected["in"][centers[b]] += slope * u
        expected["out"][others[b, k]] += slope * v
    assert loss == pytest.approx(total, rel=1e-6)
    for name, g in grads.items():
        np.testing.assert_allclose(g.dense(7), expected[name], rtol=1e-4, atol=1e-7)


def test_the_gradient_by_differences():
    """Of both tables, in float64; a center and an other that come twice are added up."""
    model = SkipGram(7, 5, seed=1)
    centers, others = np.array([2, 2, 6]), np.array([[0, 1, 1], [2, 2, 5], [3, 4, 6]])
    tables = {"in": model.inner, "out": model.outer}
    for layer in tables.values():
        layer.W = layer.W.astype(np.float64)
    _, grads = model.gradient(centers, others)
    for name, layer in tables.items():
        found = grads[name].dense(7)
        by_differences = schuss.nn.numerical_gradient(lambda _: model.gradient(centers, others)[0], layer.W)
        np.testing.assert_allclose(found, by_differences, rtol=1e-7, atol=1e-9, err_msg=name)


def test_the_text_and_its_noise(few):
    text = Words.of_python()
    assert len(text.numbers) > 30_000
    assert len(text.vocabulary) > 2_000
    counts = np.bincount(text.numbers)
    assert list(counts) == sorted(counts, reverse=True)
    assert text.vocabulary[0] == "the"
    weights = np.bincount(few.numbers) ** 0.75
    np.testing.assert_allclose(np.diff(few.noise(), prepend=0), weights / weights.sum())


def test_pairs_lie_beside_each_other(few):
    draw = words._pairs(few, 200, 0)
    centers, others = draw()
    assert others.shape == (200, 1 + NEGATIVES)
    assert others.max() < len(few.vocabulary)
    beside = {
        (few.numbers[i], few.numbers[i + away])
        for i in range(len(few.numbers))
        for away in range(-words.WINDOW, words.WINDOW + 1)
        if away and 0 <= i + away < len(few.numbers)
    }
    assert set(zip(centers, others[:, 0], strict=True)) <= beside


@pytest.mark.parametrize(
    "optimizer", ["Adam", "AdamW(weight_decay=0.1)", "Momentum(lr=0.5)", "SGD", "Adam(clip_norm=0.1)"]
)
def test_the_dense_way_and_exact_rows_are_the_same(few, optimizer):
    race = words.embedding(few, optimizer=optimizer, dimensions=6, iterations=60, batch_size=4)
    dense, exact, touched = race.runs
    assert race.same_bits
    assert dense.losses == exact.losses
    assert (touched.losses == dense.losses) == (optimizer == "SGD")
    assert dense.gradient_bytes == 2 * len(few.vocabulary) * 6 * 4
    assert exact.gradient_bytes == touched.gradient_bytes == 4 * (2 + NEGATIVES) * (6 * 4 + 8)


def test_losses_that_are_nan_are_the_same_bits(few):
    with np.errstate(all="ignore"):
        race = words.embedding(few, optimizer="SGD(lr=1e30)", dimensions=6, iterations=20, batch_size=4)
    assert np.isnan(race.runs[0].losses[-1])
    assert race.same_bits


def test_it_learns(few):
    race = words.embedding(few, dimensions=8, iterations=800, batch_size=16)
    for run in race.runs:
        assert run.final_loss < np.mean(run.losses[:20]) - 0.3


def test_reading_rows_that_are_behind_is_found_out(few, monkeypatch):
    monkeypatch.setattr(schuss.Optimizer, "catch_up", lambda self, params, rows=None: None)
    with pytest.raises(ValueError, match="which is behind"):
        words.embedding(few, dimensions=6, iterations=60, batch_size=4)


def test_ctrl_c_keeps_what_was_done(few):
    def watch(run):
        if run.name == "rows, exact" and len(run.losses) == 5:
            raise KeyboardInterrupt

    race = words.embedding(few, dimensions=6, iterations=20, batch_size=4, watch=watch)
    assert race.interrupted
    assert race.same_bits is None
    assert [len(run.losses) for run in race.runs] == [20, 5]
    assert "interrupted: partial results" in plots.words_figure(race).get_supxlabel()


def test_the_command(capsys, tmp_path):
    argv = ["compare", "embedding", "--iterations", "30", "--dimensions", "8", "--seed", "7", "--out", str(tmp_path)]
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "dense and exact rows: the same losses and vectors, bit for bit" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"embedding.png", "embedding_curves.csv"}
    curves = (tmp_path / "embedding_curves.csv").read_text().splitlines()
    assert curves[0] == "way,iteration,train_loss,seed"
    assert curves[1].startswith("dense,1,")
    assert curves[1].endswith(",7")
    assert len(curves) == 1 + 3 * 30
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["same_bits"]
    assert [run["way"] for run in result["runs"]] == list(words.WAYS)


@pytest.mark.parametrize("what", ["a loss", "a vector"])
def test_the_command_says_that_bits_differ(capsys, monkeypatch, tmp_path, what):
    """One number of the exact way is another; so is the exit status."""
    calls, gradient, catch_up = [], SkipGram.gradient, schuss.Optimizer.catch_up

    def off(self, centers, others):
        calls.append(len(calls))
        loss, rows = gradient(self, centers, others)
        return loss + (what == "a loss" and len(calls) == 9), rows

    def changed(self, params, rows=None):
        catch_up(self, params, rows)
        if what == "a vector" and rows is None and len(calls) == 10:
            params["in"][-1, -1] += 1

    monkeypatch.setattr(SkipGram, "gradient", off)
    monkeypatch.setattr(schuss.Optimizer, "catch_up", changed)
    argv = ["compare", "embedding", "--iterations", "5", "--dimensions", "4", "--out", str(tmp_path)]
    assert cli.main(argv) == 1
    out = capsys.readouterr().out
    assert "dense and exact rows: OTHER losses or vectors, which must not be" in out
    assert "cut short" not in out


@pytest.mark.parametrize("way", words.WAYS)
def test_ctrl_c_says_what_was_compared(capsys, monkeypatch, tmp_path, way):
    calls, gradient = [], SkipGram.gradient

    def stopped(self, centers, others):
        calls.append(len(calls))
        if len(calls) == 5 * words.WAYS.index(way) + 3:
            raise KeyboardInterrupt
        return gradient(self, centers, others)

    monkeypatch.setattr(SkipGram, "gradient", stopped)
    argv = ["compare", "embedding", "--iterations", "5", "--dimensions", "4", "--out", str(tmp_path)]
    assert cli.main(argv) == 130
    both = way == "rows, touched"
    assert ("the same losses and vectors" if both else "not compared: the run was cut short") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--optimizer", "LAMB"], "LAMB cannot take gradients by rows, as its step needs all of an array"),
        (["--dimensions", "1000000"], "more than 200,000,000 numbers; choose fewer dimensions or a smaller batch"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, tmp_path, argv, told):
    assert cli.main(["compare", "embedding", "--out", str(tmp_path), *argv]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_the_figure_says_that_the_lines_are_one(few):
    race = words.embedding(few, dimensions=6, iterations=30, batch_size=4)
    figure = plots.words_figure(race)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["dense", "rows, exact: the same line", "rows, touched"]
    assert "30 iterations" in figure.get_supxlabel()
    race.same_bits = False
    labels = [text.get_text() for text in plots.words_figure(race).legends[0].get_texts()]
    assert labels == list(words.WAYS)
    assert race._repr_png_().startswith(b"\x89PNG")
