"""Formats of fewer bits against float32: what each weighs, that two fail and the others do not, table and figure."""

from __future__ import annotations

import csv
import importlib
import json
import struct
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
import schuss
from schuss import cli, datasets
from schuss.lab import plots, precision, precision_plots, stress
from schuss.lab.coarse import LinearInt8, NearestBfloat16
from schuss.lab.results import Race, Run

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

FORMS = {form.name: form for form in precision.FORMATS}
RNG = np.random.default_rng(0)
DIGITS = (
    (RNG.random((64, 12), np.float32), RNG.integers(0, 10, 64)),
    (RNG.random((20, 12), np.float32), RNG.integers(0, 10, 20)),
)
TABLE = RNG.normal(size=(60, 3)), RNG.normal(size=60)


@pytest.fixture(scope="module")
def small():
    digits, weights = precision.digits(DIGITS, hidden=[6], epochs=3, batch_size=16, seeds=2, data_name="noise")
    line = precision.line(*TABLE, seeds=2, data_name="a table")
    return precision.Comparison(precision.FORMATS, digits, line, precision.stressed(steps=8), weights)


def test_float32_is_the_packages_training(small):
    """The same first weights, batches and rule as ``compare mnist`` has."""
    (run,) = schuss.lab.experiments.mnist(DIGITS, ["Adam"], hidden=[6], iterations=12, batch_size=16).runs
    assert small.digits.runs[0].losses == run.losses
    assert small.digits.runs[0].accuracies == run.accuracies


def test_every_format_trains_by_itself(small):
    """Same first weights but where they are rounded; then each goes its own way, near float32's."""
    by_name = {run.name: run for run in small.digits.runs if run.seed == 1}
    assert set(by_name) == set(FORMS)
    ours = by_name["float32"].losses
    for name, run in by_name.items():
        narrow = FORMS[name].parameters != "float32" or FORMS[name].pushed
        assert (run.losses[0] == ours[0]) != narrow, name
        if name not in ("float32", "naive: state 8 bits, even steps"):
            assert run.losses != ours, name
            np.testing.assert_allclose(run.losses, ours, rtol=0.02, err_msg=name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("float32", (4, 0, 4, 4)),
        ("state bfloat16", (4, 0, 2, 2)),
        ("state int8", (4, 0, 1, 1)),
        ("parameters bfloat16 split, state int8", (2, 2, 1, 1)),
        ("parameters bfloat16, no master", (2, 0, 4, 4)),
        ("parameters float16, master float32", (2, 4, 4, 4)),
        ("naive: state bfloat16 to nearest", (4, 0, 2, 2)),
        ("naive: state 8 bits, even steps", (4, 0, 1, 1)),
    ],
)
def test_what_a_parameter_weighs(name, parts):
    """Those of 8 bits with a scale of four bytes for each 128."""
    trained = precision.Trained(FORMS[name], {"W": np.ones((256, 4), np.float32)})
    trained.step({"W": np.ones((256, 4), np.float32)})
    expected = [part + (4 / 128 if part == 1 else 0) for part in parts]
    assert list(trained.weights().values()) == expected


def test_the_network_sees_the_values_of_its_narrow_parameters():
    shown = {"W": np.linspace(-1, 1, 40, dtype=np.float32)}
    trained = precision.Trained(FORMS["parameters bfloat16 split"], shown)
    for _ in range(2):
        np.testing.assert_array_equal(shown["W"], shown["W"].astype(ml_dtypes.bfloat16).astype(np.float32))
        np.testing.assert_array_equal(shown["W"], trained.params["W"].astype(np.float32))
        trained.step({"W": np.full(40, 0.3, np.float32)})
    assert (np.abs(shown["W"] - np.linspace(-1, 1, 40)) > 1e-3).any()


def test_gradients_of_float16_are_scaled_so_that_small_ones_count():
    trained = precision.Trained(FORMS["parameters float16, master float32"], {"W": np.zeros(4, np.float32)})
    trained.step({"W": np.full(4, 2e-8, np.float32)})  # less than half of float16's least number
    np.testing.assert_allclose(trained.optimizer.state["W"]["m"], 2e-9, rtol=2e-3)


# The naive formats.


def test_nearest_bfloat16_is_that_of_ml_dtypes():
    x = (RNG.normal(size=4000) * 10.0 ** RNG.integers(-30, 30, 4000)).astype(np.float32)
    x[:2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)  # ties, to even
    kept = NearestBfloat16.pack("m", x)
    np.testing.assert_array_equal(NearestBfloat16.unpack("m", kept), x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_even_steps_make_the_small_zero():
    x = np.full(256, 1e-3, np.float32)
    x[5], x[200] = 1.0, 0.5
    kept = LinearInt8.pack("v", x)
    assert kept[0].dtype == np.uint8
    assert kept[0].max() == 255
    back = LinearInt8.unpack("v", kept)
    assert (back[5], back[0]) == (1, 0)
    assert back[128] == pytest.approx(0.5 / 255)
    assert LinearInt8.pack("m", -x)[0].min() == -127
    assert np.abs(LinearInt8.unpack("m", LinearInt8.pack("m", -x)) + x).max() <= 0.5 / 127


def test_without_rounding_the_naive_rule_is_adam(monkeypatch):
    monkeypatch.setattr(NearestBfloat16, "pack", staticmethod(lambda slot, x: (x.copy(),)))
    monkeypatch.setattr(NearestBfloat16, "unpack", staticmethod(lambda slot, kept: kept[0]))
    ends = []
    for opt in (NearestBfloat16(lr=0.1, eps=1e-3), schuss.Adam(lr=0.1, eps=1e-3)):
        params = {"W": np.ones(50, np.float32)}
        rng = np.random.default_rng(1)
        for _ in range(20):
            opt.update(params, {"W": rng.standard_normal(50, np.float32)})
        ends.append(params["W"])
    np.testing.assert_allclose(*ends, rtol=1e-5)


# Under stress.


def test_the_bound_is_reached_by_the_worst_gradients_and_not_passed():
    """After long silence gradients that grow by beta2 / beta1 make the largest step there is."""
    g = (0.999 / 0.9) ** np.arange(200.0)
    m = v = 0.0
    ratios = []
    for each in g:
        m, v = 0.9 * m + 0.1 * each, 0.999 * v + 0.001 * each**2
        ratios.append(m / sqrt(v))
    assert stress.bound() == pytest.approx(7.27, abs=5e-3)
    assert 0.999 * stress.bound() < ratios[-1] <= (1 + 1e-12) * stress.bound()


def test_the_largest_step_by_hand():
    """The first step of Adam is lr, whatever the gradient's size; the second of the same sign, too."""
    for case, size in (("all of size 1e-7", 1e-7), ("all of size 1e5", 1e5)):
        opt = schuss.Adam(lr=stress.LR, eps=stress.EPS)
        assert stress.largest_step(opt, np.float32, case, 1) == pytest.approx(size / (size + stress.EPS), rel=1e-5)


def test_what_is_no_number_is_infinite():
    class Broken:
        def __init__(self):
            self.state = {"p": {}}

        def update(self, params, grads):
            params["p"][...] = np.nan

    assert stress.largest_step(Broken(), np.float32, "all of size 1e5", 2) == inf


def test_our_formats_bear_what_the_naive_ones_do_not():
    steps = {}
    for name in ("float32", "state int8", "state bfloat16", "parameters bfloat16 split, state int8"):
        form = FORMS[name]
        opt = form.make(lr=stress.LR, eps=stress.EPS)
        steps[name] = stress.largest_step(opt, form.dtype, "1 % of rows active", 80)
        assert 0.8 * steps["float32"] < steps[name] < 1.25 * steps["float32"], name
    wild = LinearInt8(lr=stress.LR, eps=stress.EPS)
    assert stress.largest_step(wild, np.float32, "1 % of rows active", 80) > 1000 * stress.bound()
    still = {
        form.name: stress.largest_step(form.make(lr=stress.LR, eps=stress.EPS), form.dtype, case, 1500)
        for case in ["10,000 zeros, then on"]
        for form in precision.FORMATS
        if form.name in ("float32", "state bfloat16", "naive: state bfloat16 to nearest")
    }
    assert still["state bfloat16"] == pytest.approx(still["float32"], rel=0.1)
    assert still["naive: state bfloat16 to nearest"] < 0.8 * still["float32"]


# What is accepted.


def compared(small, name, losses=None, accuracies=None, step=None):
    """The comparison with one format's numbers replaced."""
    runs = [
        Run(run.name, list(losses or run.losses), dict(accuracies or run.accuracies), seed=run.seed)
        if run.name == name
        else run
        for run in small.digits.runs
    ]
    steps = {**small.steps, name: {case: step or value for case, value in small.steps[name].items()}}
    return replace(small, digits=Race(runs, small.digits.setting), steps=steps)


def short(comparison, name):
    (row,) = [row for row in comparison.rows() if row.form.name == name]
    return row.short


def test_a_format_that_falls_short_is_marked_so(small):
    name = "state int8"
    ours = small.digits.runs[0]
    same = {"losses": ours.losses, "accuracies": {1: 0.5}}
    at_half = compared(compared(small, "float32", **same), name, **same)
    assert short(at_half, name) == []
    assert short(compared(at_half, name, **{**same, "accuracies": {1: 0.4991}}), name) == []
    assert short(compared(at_half, name, **{**same, "accuracies": {1: 0.5011}}), name) == ["accuracy"]
    noise = list(np.random.default_rng(0).normal(size=len(ours.losses)))
    assert "curve of the digits" in short(compared(small, name, losses=noise), name)
    assert "steps too large" in short(compared(small, name, step=14.6), name)
    assert "steps too large" not in short(compared(small, name, step=14.5), name)
    assert "steps too small" in short(compared(small, name, step=0.1), name)
    nan = [float("nan")] * len(ours.losses)
    assert "curve of the digits" in short(compared(small, name, losses=nan), name)


def test_the_difference_is_by_seed(small):
    rows = {row.form.name: row for row in small.rows()}
    assert rows["float32"].differences == [0, 0]
    row = rows["state int8"]
    runs = {(run.name, run.seed): precision.accuracy(run) for run in small.digits.runs}
    assert row.differences == [runs["state int8", seed] - runs["float32", seed] for seed in (0, 1)]
    assert row.error == pytest.approx(abs(row.differences[0] - row.differences[1]) / 2)


def test_the_accuracy_is_of_the_last_quarter():
    run = Run("float32", [1.0] * 8, {i: i / 10 for i in range(1, 9)})
    assert precision.accuracy(run) == pytest.approx(0.75)


def test_an_interrupted_comparison_keeps_what_was_done(small):
    def stop(run):
        if run.name == "state int8" and run.seed == 1 and len(run.losses) == 5:
            raise KeyboardInterrupt

    some = precision.FORMATS[:5]
    digits, weights = precision.digits(DIGITS, forms=some, hidden=[6], epochs=3, batch_size=16, seeds=2, watch=stop)
    partial = replace(small, formats=some, digits=digits, weights=weights)
    assert partial.interrupted
    rows = partial.rows()
    assert [len(row.accuracies) for row in rows] == [2, 2, 2, 1, 1]
    assert "interrupted" in precision_plots.precision_figure(partial).get_supxlabel()


# What is shown.


def test_the_figure_says_all(small):
    figure = precision_plots.precision_figure(small)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == list(FORMS)
    said = " ".join(figure.get_supxlabel().split())
    for part in ("noise: 64 to train, 20 to test", "a table: 60 rows", "seeds 0 to 1", "3 epochs", "falls short"):
        assert part in said
    labels = [label.get_text() for label in figure.axes[4].get_yticklabels()]
    for label, row in zip(labels, small.rows(), strict=True):
        marked = f"✗ {row.form.name}\n({', '.join(row.short)})" if row.short else f"✓ {row.form.name}"
        assert label == marked
    assert "✗" in "".join(labels)
    bars = [bar for bar in figure.axes[4].patches if isinstance(bar.get_width(), float)]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(sum(row.bytes for row in small.rows()))
    figure.set_dpi(30)
    figure.draw_without_rendering()  # nothing of it is a warning, which is an error here


@pytest.fixture
def files(tmp_path):
    for part, n in (("train", 32), ("t10k", 12)):
        images, labels = RNG.integers(0, 256, (n, 28, 28), np.uint8), RNG.integers(0, 10, n).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + images.tobytes())
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels.tobytes())
    np.savetxt(tmp_path / "t", np.column_stack(TABLE))
    return tmp_path


def test_the_command(capsys, monkeypatch, files):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    stressed = precision.stressed
    # In place of scikit-learn's and of a large figure, which take seconds.
    monkeypatch.setattr(datasets, "scale_features", lambda x: ((x - x.mean(axis=0)) / x.std(axis=0), None))
    monkeypatch.setattr(precision_plots, "precision_figure", lambda found: plots.schedule_figure({"x": [1, 2]}))
    monkeypatch.setattr(precision, "stressed", lambda **options: stressed(steps=2, **options))
    out = files / "out"
    argv = ["compare", "precision", "--data-dir", str(files), "--data", str(files / "t"), "--out", str(out)]
    argv += ["--epochs", "1", "--batch-size", "16", "--hidden", "4", "--seeds", "2"]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("format ")
    assert [line.split("  ")[0] for line in lines[1 : 1 + len(FORMS)]] == list(FORMS)
    assert sorted(path.name for path in out.iterdir()) == ["precision.csv", "precision.png", "precision_curves.csv"]
    with open(out / "precision.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["format"] for row in rows] == list(FORMS)
    assert float(rows[0]["bytes_per_parameter"]) == 12
    curves = (out / "precision_curves.csv").read_text().splitlines()
    assert len(curves) == 1 + len(FORMS) * (2 + 2 * 6)
    assert cli.main([*argv, "--json", "--seeds", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [form["format"] for form in found["formats"]] == list(FORMS)
    assert found["settings"][1]["data"] == "t, standardised"


def test_without_ml_dtypes_it_is_one_line(capsys, monkeypatch, files):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    real = importlib.import_module

    def without(name, package=None):
        if name == "ml_dtypes":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr("schuss._extras.import_module", without)
    assert cli.main(["compare", "precision", "--data-dir", str(files), "--out", str(files / "out")]) == 2
    told = capsys.readouterr().err
    assert told == 'schuss: error: schuss compare precision needs ml_dtypes: pip install "schuss[low-precision]"\n'
