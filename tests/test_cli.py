"""The command line: files, tables, JSON; and each failure in one line with exit status 2."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import schuss
from schuss import cli, datasets, schedules
from schuss.lab import commands, experiments, plots
from schuss.lab.setting import TEXTBOOK
from schuss.specs import parse_optimizer, parse_schedule

RACE = ["compare", "mnist", "--iterations", "12", "--batch-size", "8", "--hidden", "6", "--seeds", "1"]


@pytest.fixture(autouse=True)
def _no_data_of_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SCHUSS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def digits(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "digits"
    folder.mkdir()
    for part, n in (("train", 60), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels.tobytes())
    return folder


def test_the_path(capsys, tmp_path):
    assert cli.main(["compare", "path", "--out", "here"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["optimizer", *TEXTBOOK, "wrote"]
    assert (tmp_path / "here" / "path.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["compare", "path", "--scale", "--optimizers", "Adam", "SGD", "--json"]) == 0
    ways = json.loads(capsys.readouterr().out)["paths"]
    assert [(way["optimizer"], way["scaled"]) for way in ways] == [
        ("Adam", False),
        ("SGD", False),
        ("Adam", True),
        ("SGD", True),
    ]
    assert ways[1]["points"][1] == pytest.approx([-6.335, -1.8])


def test_the_race(capsys, digits, tmp_path):
    assert cli.main([*RACE, "--data-dir", str(digits), "--out", "ours"]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()][: len(TEXTBOOK) + 1] == [
        "optimizer",
        *TEXTBOOK,
    ]
    assert f"data: MNIST in {digits}" in shown.out
    assert re.search(r"Adam .*12/12.*loss=\d", shown.err)
    lines = (tmp_path / "ours" / "mnist_curves.csv").read_text().splitlines()
    assert lines[0] == "optimizer,iteration,train_loss,test_accuracy,seed"
    assert len(lines) == 1 + 12 * len(TEXTBOOK)
    name, iteration, loss, accuracy, seed = lines[1].split(",")
    assert (name, iteration, seed) == ("SGD", "1", "0")
    assert repr(float(loss)) == loss
    assert 0 <= float(accuracy) <= 1
    for name in ("mnist_loss.png", "mnist_accuracy.png"):
        assert (tmp_path / "ours" / name).read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "mnist_accuracy.png",
        "mnist_curves.csv",
        "mnist_loss.png",
    ]


def test_the_race_in_numpy_is_the_same_to_the_byte(digits, tmp_path, capsys):
    for extra, out in (([], "ours"), (["--numpy"], "numpy"), ([], "again")):
        assert cli.main([*RACE, "--seeds", "2", "--data-dir", str(digits), "--out", out, *extra]) == 0
    ours, theirs, again = ((tmp_path / out / "mnist_curves.csv").read_bytes() for out in ("ours", "numpy", "again"))
    assert ours == theirs == again


def test_the_race_as_json(capsys, digits):
    assert cli.main([*RACE, "--data-dir", str(digits), "--json", "--optimizers", "Adam", "SGD"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [run["optimizer"] for run in result["runs"]] == ["Adam", "SGD"]
    assert result["interrupted"] is False
    for run in result["runs"]:
        assert run["iterations"] == 12
        assert run["update_us"] > 0


def test_the_regression(capsys, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert cli.main(["compare", "regression"]) == 0
    assert "Adam" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "t.csv", rng.normal(size=(50, 3)) * [1, 1e5, 1e3] + 7, delimiter=",")
    assert cli.main(["compare", "regression", "--data", "t.csv", "--no-scale"]) == 0
    assert re.search(r"SGD +\S+ +diverged", capsys.readouterr().out)
    assert cli.main(["compare", "regression", "--data", "t.csv", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert not any(fit["diverged"] for fit in result["fits"])


def test_several_seeds_in_table_and_json(capsys, digits, tmp_path):
    argv = [*RACE, "--data-dir", str(digits), "--optimizers", "Adam", "SGD", "--seed", "3", "--seeds", "2"]
    assert cli.main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [run["optimizer"] for run in result["runs"]] == ["Adam", "SGD"]
    for run in result["runs"]:
        assert run["seeds"] == [3, 4]
        assert run["final_loss"] == pytest.approx(np.mean(run["final_losses"]))
        assert run["test_accuracy"] == pytest.approx(np.mean(run["test_accuracies"]))
        assert len(set(run["final_losses"])) == 2
    rows = (tmp_path / "schuss-results" / "mnist_curves.csv").read_text().splitlines()[1:]
    assert [row.split(",")[::4] for row in rows[::12]] == [["Adam", "3"], ["SGD", "3"], ["Adam", "4"], ["SGD", "4"]]
    alone = {}
    for seed in ("3", "4"):
        assert cli.main([*RACE, *argv[len(RACE) : -4], "--seed", seed, "--json"]) == 0
        alone[seed] = json.loads(capsys.readouterr().out)["runs"][0]["final_loss"]
    assert list(alone.values()) == result["runs"][0]["final_losses"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    low, high = sorted(alone.values())
    assert re.search(rf"^Adam +{(low + high) / 2:.4f} +{low:.4f} to {high:.4f} ", out, re.MULTILINE)
    assert "mean and range over the seeds 3 to 4" in out
    assert cli.main([*argv, "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "range" not in out
    assert "; seed 3; " in out


def test_json_says_what_was_run(capsys, digits):
    def setting(*argv):
        assert cli.main([*argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["setting"]

    folder = ["--data-dir", str(digits)]
    race = setting(*RACE, *folder, "--optimizers", "Adam", "SGD(lr=0.5)", "--schedule", "Constant(0.5)")
    assert race == {
        "data": "MNIST",
        "counts": {"to train": 60, "to test": 20},
        "model": "ReLU network",
        "layers": [784, 6, 10],
        "weight_decay": 0,
        "rates": {"Adam": 0.001, "SGD(lr=0.5)": 0.5},
        "schedule": "Constant(lr=0.5)",
        "iterations": 12,
        "epochs": 0,
        "patience": 0,
        "batch_size": 8,
        "seeds": [0],
        "in_numpy": False,
        "version": schuss.__version__,
    }
    assert setting("compare", "path", "--optimizers", "Adam")["rates"] == {"Adam": 0.3}
    assert setting("compare", "decay", *folder, "--lr", "0.3")["rates"] == {"SGD": 0.3}
    trained = setting("train", "mnist", *folder, "--batch-size", "8", "--hidden", "4", "--epochs", "1", "--seed", "2")
    assert (trained["counts"]["held back to validate"], trained["seeds"]) == (5, [2])
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    assert setting("compare", "regression", "--seeds", "2")["seeds"] == [0, 1]


def test_the_regression_names_its_data(capsys, monkeypatch, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (tmp_path / "below").mkdir()
    np.savetxt(tmp_path / "below" / "t.csv", np.random.default_rng(0).normal(size=(1502, 3)))
    table = str(tmp_path / "below" / "t.csv")
    captions, draw = [], plots.regression_figure

    def keep(fits):
        captions.append(" ".join(draw(fits).get_supxlabel().split()))
        return draw(fits)

    monkeypatch.setattr(plots, "regression_figure", keep)
    for argv, name in (
        ([], "scikit-learn's diabetes, standardised: 442 rows, 10 features"),
        (["--no-scale"], "scikit-learn's diabetes: 442 rows, 10 features"),
        (["--data", table], "t.csv, standardised, the first 1,500 of 1,502 rows: 1,500 rows, 2 features"),
    ):
        assert cli.main(["compare", "regression", "--seeds", "1", *argv]) == 0
        assert captions.pop().startswith(name)
        assert f"; data: {name}\n" in capsys.readouterr().out


def test_captions_show_no_directory(capsys, monkeypatch, digits):
    seen = []
    monkeypatch.setattr(commands, "write_figure", lambda path, figure: seen.append(figure.get_supxlabel()) or path)
    assert cli.main([*RACE, "--data-dir", str(digits)]) == 0
    assert cli.main(["compare", "decay", "--data-dir", str(digits), "--epochs", "1"]) == 0
    argv = ["train", "mnist", "--data-dir", str(digits), "--batch-size", "8", "--hidden", "4", "--epochs", "1"]
    assert cli.main(argv) == 0
    assert len(seen) == 6
    assert all("MNIST: " in text and str(digits) not in text for text in seen)


def test_info(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["isa"] in facts["isas_available"]
    assert facts["schuss"] == schuss.__version__
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^isa +{facts['isa']}$", text, re.MULTILINE)
    assert re.search(r"^threads_from +\S", text, re.MULTILINE)


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"schuss {schuss.__version__}\n"


def one_line(capsys, argv):
    """Run into a failure; return the single line that it prints."""
    try:
        status = cli.main(argv)
    except SystemExit as done:  # what argparse refuses
        status = done.code
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if not line.startswith("data: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (
            ["compare", "path", "--optimizers", "Adam", "Adem"],
            "no optimizer is called 'Adem'; there are SGD, Mom",
        ),
        (
            ["compare", "mnist", "--iterations", "0"],
            "--iterations: expected a whole number from 1 to 10,000,000, got '0'",
        ),
        (
            ["compare", "mnist", "--batch-size", "x"],
            "--batch-size: expected a whole number from 1 on, got 'x'",
        ),
        (["compare", "mnist", "--seed", "-1"], "--seed: expected a whole number from 0 on, got '-1'"),
        (["compare", "mnist", "--data-dir", "nowhere"], "nowhere lacks train-images-idx3-ubyte"),
        (["compare", "path", "--out", "a_file"], "cannot write into --out a_file: File exists"),
        (
            ["compare", "mnist", "--out", "a_file/below"],
            "cannot write into --out a_file/below: Not a directory",
        ),
        (["compare", "regression", "--data", "nowhere.csv"], "nowhere.csv"),
        (["compare", "regression", "--data", "a_file"], "a_file: no rows of numbers"),
        (["compare"], "EXPERIMENT"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_failures_are_one_line(capsys, tmp_path, argv, match):
    (tmp_path / "a_file").write_text("")
    assert match in one_line(capsys, argv)


def test_a_corrupt_data_file_is_one_line(capsys, digits):
    (digits / "t10k-labels-idx1-ubyte").write_bytes(b"short")
    assert "t10k-labels-idx1-ubyte: expected an IDX file of labels" in one_line(
        capsys, [*RACE, "--data-dir", str(digits)]
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_one_line(capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write into --out locked" in one_line(capsys, ["compare", "path", "--out", "locked"])


@pytest.mark.parametrize(
    ("absent", "argv", "match"),
    [
        ("matplotlib", ["compare", "path"], 'schuss compare needs matplotlib: pip install "schuss[demo]"'),
        ("tqdm", RACE, 'the progress bar needs tqdm: pip install "schuss[demo]"'),
        ("pooch", ["data", "mnist"], 'schuss data mnist needs pooch: pip install "schuss[demo]"'),
        ("sklearn", ["compare", "regression"], 'needs scikit-learn: pip install "schuss[demo]"'),
    ],
)
def test_a_missing_extra_is_one_line(capsys, monkeypatch, digits, absent, argv, match):
    real = importlib.import_module

    def without(name, package=None):
        if name.partition(".")[0] == absent:
            raise ModuleNotFoundError(f"No module named {absent!r}", name=absent)
        return real(name, package)

    monkeypatch.setattr("schuss._extras.import_module", without)
    monkeypatch.setenv("SCHUSS_DATA", str(digits))
    assert match in one_line(capsys, argv)


def test_data_that_cannot_be_fetched_is_one_line(capsys, monkeypatch):
    pytest.importorskip("pooch", reason="pooch is not installed")
    monkeypatch.setattr(
        datasets.fetch_mnist, "__kwdefaults__", {"mirrors": ["http://127.0.0.1:9/"], "progressbar": False}
    )
    line = one_line(capsys, ["data", "mnist", "--data-dir", "new"])
    assert "could not fetch train-images-idx3-ubyte.gz" in line
    assert "Run `schuss data mnist` again" in line


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a POSIX terminal does")
def test_ctrl_c_saves_what_was_done(digits, tmp_path):
    # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
    heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", heed + "from schuss.cli import main; sys.exit(main())"]
    command += ["compare", "mnist", "--iterations", "10000000", "--hidden", "4", "--batch-size", "8"]
    command += ["--data-dir", str(digits), "--out", "out", "--optimizers", "Adam", "SGD"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stderr is not None
    seen, end = "", time.monotonic() + 60
    while "loss=" not in seen and time.monotonic() < end:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "schuss: interrupted: these are partial results"
    assert "Traceback" not in err
    assert re.search(r"^Adam +\d", out, re.MULTILINE)
    lines = (tmp_path / "out" / "mnist_curves.csv").read_text().splitlines()
    assert len(lines) > 20
    assert lines[1].startswith("Adam,1,")
    assert (tmp_path / "out" / "mnist_loss.png").exists()


def test_the_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "schuss", "--version"], capture_output=True, text=True)
    assert done.stdout == f"schuss {schuss.__version__}\n"


def test_importing_the_package_needs_numpy_alone():
    """The extras are imported where they are used, and nowhere else."""
    code = "import sys, schuss, schuss.cli; print(*(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"matplotlib", "tqdm", "pooch", "mlxtend", "sklearn", "pandas", "scipy", "torch"}


def test_optimizers_with_arguments_and_a_schedule(capsys, digits):
    command = [
        *RACE,
        "--data-dir",
        str(digits),
        "--optimizers",
        "Lion(lr=1e-3)",
        "SGD",
        "--schedule",
        "Linear(1, 0, 12)",
    ]
    assert cli.main([*command, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["optimizer"] for run in runs] == ["Lion(lr=1e-3)", "SGD"]
    assert cli.main(["compare", "path", "--optimizers", "SGD(lr=1.0)", "--schedule", "Constant(0.5)", "--json"]) == 0
    (way,) = json.loads(capsys.readouterr().out)["paths"]
    assert way["points"][1] == pytest.approx([-7 + 0.5 * 0.7, 2 - 0.5 * 4])
    assert way["lr"] == 0.5


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (["compare", "path", "--optimizers", "Adam(lr=-1)"], "lr must be finite and at least 0, got -1"),
        (["compare", "path", "--optimizers", "Adam(beta=0.5)"], "Adam has no argument 'beta'"),
        (["compare", "mnist", "--schedule", "Cosine(1)"], "missing 1 required positional argument"),
        (["plot", "schedule", "Sawtooth(1)"], "no schedule is called 'Sawtooth'"),
        (["compare", "path", "--optimizers", "Muon"], r"params\['x'\]: Muon is for matrices"),
        (["train", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["compare", "mnist", "--seed", "-1"], "expected a whole number from 0 on, got '-1'"),
        (["compare", "mnist", "--seed", "one"], "expected a whole number from 0 on, got 'one'"),
    ],
)
def test_one_line_and_status_2(capsys, command, match):
    try:
        status = cli.main(command)
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert status == 2
    assert re.search(match, shown.err)
    assert len(shown.err.strip().splitlines()) == 1


def test_compare_decay(capsys, digits, tmp_path):
    assert cli.main(["compare", "decay", "--data-dir", str(digits), "--epochs", "4", "--out", "d"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:6]] == [
        "constant",
        "1 / (1 + 0.5 epoch)",
        "0.599 ^ epoch",
        "2 / sqrt(t + 4)",
        "0.5 ^ floor(epoch / 1)",
    ]
    assert (tmp_path / "d" / "decay.png").read_bytes().startswith(b"\x89PNG")
    rows = (tmp_path / "d" / "decay_curves.csv").read_text().splitlines()
    assert rows[0] == "schedule,iteration,loss,seed"
    assert len(rows) == 1 + 3 * 5 * (4 * 4 // 5)


def test_plot_schedule(capsys, tmp_path):
    assert cli.main(["plot", "schedule", "Step(0.1, 2)", "Noam(64, 3)", "--steps", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schedules"]["Step(0.1, 2)"] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert (tmp_path / "schuss-results" / "schedule.png").stat().st_size > 5000


def test_train_mnist(capsys, digits, tmp_path):
    command = ["train", "mnist", "--data-dir", str(digits), "--hidden", "8", "--epochs", "6", "--batch-size", "10"]
    assert cli.main([*command, "--patience", "2", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    epochs = len(found["losses"])
    assert found["stopped_early"] == (epochs < 6)
    assert found["best_epoch"] == 1 + found["validation"].index(max(found["validation"]))
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 20
    assert found["test_accuracy"] == np.trace(confusion) / 20
    assert len(re.findall(r"epoch +\d+: loss", shown.err)) == epochs
    net = schuss.nn.MultiLayerNet(784, [8], 10)
    with np.load(tmp_path / "schuss-results" / "mnist_network.npz") as saved:
        for name, p in saved.items():
            net.params[name][...] = p
    _, test = datasets.load_mnist(data_dir=digits)
    assert net.accuracy(*test) == found["test_accuracy"]
    for name in ("training", "confusion", "misread"):
        assert (tmp_path / "schuss-results" / f"mnist_{name}.png").read_bytes().startswith(b"\x89PNG")


STARRED = ": * and ** are not taken here; write each argument by itself, as in lr=0.1"
DIGITS = ": expected whole numbers of at most 18 digits; write a larger one as in 1e30"


def long(text):
    """What a message shows of a long text in quotes."""
    return f"'{text}"[:80] + "..."


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SGD(**{'lr': 5})", f"\"SGD(**{{'lr': 5}})\"{STARRED}"),
        ("SGD(0.1, **{'momentum': 5})", f"\"SGD(0.1, **{{'momentum': 5}})\"{STARRED}"),
        ("SGD(*[0.1])", f"'SGD(*[0.1])'{STARRED}"),
        ("SGD(Cosine(0.1, **{'steps': 5}))", f"\"SGD(Cosine(0.1, **{{'steps': 5}}))\"{STARRED}"),
        ("SGD(Cosine(*(0.1, 5)))", f"'SGD(Cosine(*(0.1, 5)))'{STARRED}"),
        ("SGD(lr=0.1, lr=5)", "'SGD(lr=0.1, lr=5)': the argument 'lr' is given twice"),
        (
            "SGD(Cosine(0.1, steps=5, steps=6))",
            "'SGD(Cosine(0.1, steps=5, steps=6))': the argument 'steps' is given twice",
        ),
        ("SGD(lr={[1]: 2})", "'SGD(lr={[1]: 2})': '{[1]: 2}' is neither a number nor a schedule"),
        (
            "SGD(\0)",
            "'SGD(\\x00)' cannot be read; write a name, as in Adam, or a call, as in Adam(lr=1e-3)",
        ),
        ("SGD(lr='\\d')", "\"SGD(lr='\\\\d')\": lr must be a number, got '\\\\d'"),
        (f"SGD({'9' * 400})", long(f"SGD({'9' * 400}") + DIGITS),
        ("Adam(lr=0.1, beta1=-1" + "0" * 18 + ")", "'Adam(lr=0.1, beta1=-1" + "0" * 18 + ")'" + DIGITS),
        (
            f"SGD({'9' * 5000})",
            long(f"SGD({'9' * 5000})") + " cannot be read: it has 5,005 characters, more than 1,000",
        ),
        (
            f"SGD({'-' * 20000}1)",
            long(f"SGD({'-' * 20000}") + " cannot be read: it has 20,006 characters, more than 1,000",
        ),
        (
            f"SGD{'(' * 20000}",
            long(f"SGD{'(' * 20000}") + " cannot be read: it has 20,003 characters, more than 1,000",
        ),
        (f"SGD({'-' * 900}1)", long(f"SGD({'-' * 900}") + " cannot be read: it is nested too deeply"),
    ],
)
def test_a_text_that_is_no_plain_call_is_refused(text, told):
    with pytest.raises(ValueError, match=r"SGD|Adam") as caught:
        parse_optimizer(text)
    assert str(caught.value) == told


@pytest.mark.parametrize("bracket", ["(", "[", "{", "(1,", "-", "not ", "lambda:", "SGD(", "Warmup(", "[Warmup("])
@pytest.mark.parametrize("depth", [10, 50, 90, 150, 300, 900])
def test_no_text_breaks_the_parser(bracket, depth):
    closing = {"(": ")", "[": "]", "{": "}", "(1,": ")", "SGD(": ")", "Warmup(": ")", "[Warmup(": ")]"}.get(bracket, "")
    for text in (f"SGD({bracket * depth}1{closing * depth})", f"SGD({bracket * depth}"):
        try:
            spec = parse_optimizer(text)
        except ValueError as error:
            assert "SGD" in str(error)  # noqa: PT017
        else:
            assert (bracket, spec.make().lr) == ("(", 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Constant(1j)", "'Constant(1j)': Constant: lr must be a number, got 1j"),
        (
            "Scaled(Constant(1e300), 1e300)",
            "'Scaled(Constant(1e300), 1e300)': the rate of step 1 must be finite and at least 0, got inf",
        ),
    ],
)
def test_a_schedule_without_a_first_rate_is_refused(text, told):
    with pytest.raises(ValueError, match=r"lr must be|the rate of step 1") as caught:
        parse_schedule(text)
    assert str(caught.value) == told


INFINITE_AT_2 = "Scaled(Linear(0, 1e200, 2), 1e200)"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["plot", "schedule", INFINITE_AT_2], f"'{INFINITE_AT_2}', step 2: the rate must be in [0, 1e+300], got inf"),
        (
            ["plot", "schedule", "Constant(1e308)"],
            "'Constant(1e308)', step 1: the rate must be in [0, 1e+300], got 1e+308",
        ),
        (["compare", "path", "--schedule", INFINITE_AT_2], "lr(2) must be finite and at least 0, got inf"),
        (["compare", "path", "--optimizers", f"SGD({INFINITE_AT_2})"], "lr(2) must be finite and at least 0, got inf"),
    ],
)
def test_a_rate_that_is_not_finite_is_told_with_its_step(capsys, argv, told):
    assert one_line(capsys, argv) == f"schuss: error: {told}"


def test_a_rate_that_is_not_finite_ends_the_race_below_its_bar(capsys, digits):
    assert cli.main([*RACE, "--data-dir", str(digits), "--schedule", INFINITE_AT_2]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "1/12" in lines[-2]
    assert lines[-1] == "schuss: error: lr(2) must be finite and at least 0, got inf"


@pytest.mark.parametrize("command", [["plot", "schedule"], ["compare", "path", "--schedule"]])
def test_a_rate_beyond_floats_is_one_line(capsys, command):
    assert one_line(capsys, [*command, "Exponential(1.0, gamma=1e300)"]).startswith("schuss: error: ")


WHOLE = "of at most 18 digits, got"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["mnist", "--iterations", "10000001"], "expected a whole number from 1 to 10,000,000, got '10000001'"),
        (
            ["mnist", "--iterations", "9" * 400],
            f"expected a whole number from 1 to 10,000,000, {WHOLE} {long('9' * 400)}",
        ),
        (["mnist", "--hidden", "9" * 19], f"expected a whole number from 1 on, {WHOLE} '{'9' * 19}'"),
        (["mnist", "--hidden", "8", "9" * 5000], f"expected a whole number from 1 on, {WHOLE} {long('9' * 5000)}"),
        (["mnist", "--batch-size", "9" * 5000], f"expected a whole number from 1 on, {WHOLE} {long('9' * 5000)}"),
        (["mnist", "--batch-size", "1_0"], "expected a whole number from 1 on, got '1_0'"),
        (["mnist", "--seed", "9" * 5000], f"expected a whole number from 0 on, {WHOLE} {long('9' * 5000)}"),
        (["mnist", "--seed", "\uff11"], "expected a whole number from 0 on, got '\uff11'"),
        (["decay", "--epochs", "1000001"], "expected a whole number from 1 to 1,000,000, got '1000001'"),
        (["decay", "--lr", "nan"], "expected a number from 0 to 1e300, got 'nan'"),
        (["decay", "--lr", "-1"], "expected a number from 0 to 1e300, got '-1'"),
        (["decay", "--lr", "9" * 400], f"expected a number from 0 to 1e300, got {long('9' * 400)}"),
    ],
)
def test_numbers_have_bounds(capsys, argv, told):
    option = next(arg for arg in argv if arg.startswith("--"))
    assert one_line(capsys, ["compare", *argv]) == f"schuss compare {argv[0]}: error: argument {option}: {told}"


def test_steps_that_are_drawn_have_a_bound(capsys):
    line = one_line(capsys, ["plot", "schedule", "Constant(1)", "--steps", "10000001"])
    assert line.endswith(": error: argument --steps: expected a whole number from 1 to 10,000,000, got '10000001'")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (
            ["compare", "mnist", "--batch-size", "61"],
            "a batch of 61 is larger than the training set of 60 examples; choose a smaller one",
        ),
        (
            ["compare", "decay", "--batch-size", "9" * 18],
            f"a batch of {10**18 - 1:,} is larger than the training set of 60 examples; choose a smaller one",
        ),
        (  # five of the 60 are held back
            ["train", "mnist", "--batch-size", "56"],
            "a batch of 56 is larger than the training set of 55 examples; choose a smaller one",
        ),
        (
            ["compare", "mnist", "--batch-size", "8", "--hidden", "14000", "14000"],
            "a network of layers [784, 14000, 14000, 10] would have 207,144,010 parameters, more than 200,000,000; "
            "choose fewer neurons",
        ),
        (
            ["train", "mnist", "--batch-size", "8", "--hidden", "9" * 18],
            f"a network of layers [784, {'9' * 18}, 10] would have {795 * (10**18 - 1) + 10:,} parameters, "
            "more than 200,000,000; choose fewer neurons",
        ),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_taken(capsys, monkeypatch, digits, argv, told):
    monkeypatch.setattr(experiments, "MultiLayerNet", None)
    assert one_line(capsys, [*argv, "--data-dir", str(digits)]) == f"schuss: error: {told}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "not enough memory"),
        (
            MemoryError("Unable to allocate 7 TiB\nfor an array"),
            "not enough memory: Unable to allocate 7 TiB for an array",
        ),
        (
            OverflowError(34, "Numerical result out of range"),
            "a number is too large: (34, 'Numerical result out of range')",
        ),
        (ValueError("first\nsecond"), "first second"),
    ],
)
def test_what_comes_all_the_same_is_one_line(capsys, monkeypatch, error, told):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(experiments, "path", fail)
    assert one_line(capsys, ["compare", "path"]) == f"schuss: error: {told}"


def test_a_line_break_in_an_argument_does_not_break_the_line(capsys):
    assert one_line(capsys, ["info", "a\nb"]) == "schuss: error: unrecognized arguments: a b"


@pytest.mark.parametrize("extra", [[], ["--no-scale"]])
@pytest.mark.parametrize(
    "numbers", ["0 0\n0 0\n", "1e-300 1e-300\n2e-300 3e-300\n", "1 2\n", "1e99 1\n-1e99 1e99\n0 0\n"]
)
def test_the_regression_of_odd_numbers_ends_cleanly(capsys, tmp_path, numbers, extra):
    """Warnings are errors here."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (tmp_path / "t").write_text(numbers)
    assert cli.main(["compare", "regression", "--data", "t", *extra]) == 0
    assert capsys.readouterr().err == ""


def test_the_regression_of_huge_numbers_is_one_line(capsys, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (tmp_path / "t").write_text("3 1e308 2\n4 -1e308 1\n5 0 0\n")
    assert one_line(capsys, ["compare", "regression", "--data", "t"]) == (
        "schuss: error: column 2 cannot be scaled: from -1e+308 to 1e+308 is a spread beyond floats; "
        "give it in another unit"
    )
    assert one_line(capsys, ["compare", "regression", "--data", "t", "--no-scale"]) == (
        "schuss: error: features and target must be within 1e+100, so that their squares can be summed; "
        "got 1e+308 in size: scale them"
    )


@pytest.mark.parametrize(
    "argv",
    [
        ["compare", "path", "--scale", "--optimizers", "SGD(lr=1e300)", "SGD"],
        [*RACE, "--optimizers", "SGD(lr=1e30)", "Adafactor(lr=1e30)"],
        ["compare", "decay", "--epochs", "2", "--lr", "1e30"],
        ["train", "mnist", "--batch-size", "8", "--hidden", "8", "--epochs", "2", "--optimizer", "SGD(lr=1e30)"],
    ],
)
def test_what_diverges_ends_cleanly(capsys, monkeypatch, digits, argv):
    """Warnings are errors here; and JSON has no NaN."""
    monkeypatch.setenv("SCHUSS_DATA", str(digits))
    assert cli.main([*argv, "--json"]) == 0

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert None in [
        *[value for way in found.get("paths", []) for point in way["points"] for value in point],
        *[value for run in found.get("runs", []) for value in run.values()],
        *found.get("losses", []),
    ]


def test_too_few_digits_to_hold_some_back_are_one_line(capsys, tmp_path):
    for part, n in (("train", 11), ("t10k", 3)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + bytes(n * 784))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + bytes(n))
    argv = ["train", "mnist", "--batch-size", "2", "--hidden", "4", "--epochs", "1", "--data-dir", str(tmp_path)]
    told = "training needs at least 12 examples, as a twelfth of them is held back; got 11"
    assert one_line(capsys, argv) == f"schuss: error: {told}"


def test_decay_of_few_steps_is_measured_at_its_end(capsys, digits, tmp_path):
    command = ["compare", "decay", "--data-dir", str(digits), "--epochs", "1", "--batch-size", "20", "--seeds", "1"]
    assert cli.main([*command, "--out", "d"]) == 0
    rows = (tmp_path / "d" / "decay_curves.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == ["iteration", "3", "3", "3", "3", "3"]


def ctrl_c_after(monkeypatch, schedule, calls):
    """Let Ctrl-C come when a schedule is asked for a rate so many times."""
    ask, asked = schedule.__call__, []

    def answer(self, t):
        asked.append(t)
        if len(asked) == calls:
            raise KeyboardInterrupt
        return ask(self, t)

    monkeypatch.setattr(schedule, "__call__", answer)


PARTIAL = "schuss: interrupted: these are partial results"


def test_an_interrupted_regression_shows_what_was_done(capsys, monkeypatch, tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    np.savetxt(tmp_path / "t", np.random.default_rng(0).normal(size=(50, 3)))
    argv = ["compare", "regression", "--data", "t", "--out", "r", "--schedule", "Constant(1)"]
    assert cli.main(argv) == 0
    whole = (tmp_path / "r" / "regression_curves.csv").read_text().splitlines()
    capsys.readouterr()
    # One call as the text is read, ten steps of SGD, and of Momentum the nine: an epoch has five.
    ctrl_c_after(monkeypatch, schedules.Constant, 1 + 10 + 9)
    assert cli.main(argv) == 130
    out, err = capsys.readouterr()
    assert err.splitlines() == [PARTIAL]
    assert [line.split()[0] for line in out.splitlines()] == ["optimizer", "SGD", "Momentum", "least", "wrote", "wrote"]
    rows = (tmp_path / "r" / "regression_curves.csv").read_text().splitlines()
    assert rows == whole[:6]
    assert rows[5].startswith("Momentum,1.0,")
    assert (tmp_path / "r" / "regression.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    ctrl_c_after(monkeypatch, schedules.Constant, 1 + 10 + 9)
    assert cli.main([*argv, "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["interrupted"], [fit["optimizer"] for fit in found["fits"]]) == (True, ["SGD", "Momentum"])


def test_an_interrupted_decay_shows_what_was_done(capsys, monkeypatch, digits, tmp_path):
    argv = ["compare", "decay", "--data-dir", str(digits), "--epochs", "4", "--out", "d"]
    assert cli.main(argv) == 0
    whole = (tmp_path / "d" / "decay_curves.csv").read_text().splitlines()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        ctrl_c_after(patch, schedules.InverseTime, 8)
        assert cli.main(argv) == 130
    out, err = capsys.readouterr()
    assert err.splitlines() == [PARTIAL]
    assert [line.split("  ")[0] for line in out.splitlines()[:3]] == ["schedule", "constant", "1 / (1 + 0.5 epoch)"]
    rows = (tmp_path / "d" / "decay_curves.csv").read_text().splitlines()
    assert rows == whole[:5]  # of the first 15 of its 16 steps, of the second five
    lowest = min(float(row.split(",")[2]) for row in rows[1:])
    assert f"the loss above the lowest seen, {lowest:.4f}:" in out
    assert (tmp_path / "d" / "decay.png").read_bytes().startswith(b"\x89PNG")
    with monkeypatch.context() as patch:
        ctrl_c_after(patch, schedules.InverseTime, 8)
        assert cli.main([*argv, "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert (found["interrupted"], len(found["runs"])) == (True, 2)


@pytest.mark.parametrize(
    ("argv", "schedule", "calls"),
    [
        (["compare", "regression", "--data", "t", "--schedule", "Constant(1)"], schedules.Constant, 4),
        (["compare", "decay"], schedules.Constant, 3),
        ([*RACE, "--schedule", "Constant(1)"], schedules.Constant, 2),
        (["train", "mnist", "--batch-size", "8", "--hidden", "4"], schedules.WarmupCosine, 2),
    ],
)
def test_where_nothing_was_done_it_is_just_interrupted(capsys, monkeypatch, digits, tmp_path, argv, schedule, calls):
    if "regression" in argv:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    np.savetxt(tmp_path / "t", np.random.default_rng(0).normal(size=(50, 3)))
    monkeypatch.setenv("SCHUSS_DATA", str(digits))
    ctrl_c_after(monkeypatch, schedule, calls)
    assert cli.main(argv) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("data: ")] == ["schuss: interrupted"]
    assert list((tmp_path / "schuss-results").iterdir()) == []


def test_interrupted_training_shows_the_best_so_far(capsys, monkeypatch, digits):
    argv = ["train", "mnist", "--data-dir", str(digits), "--hidden", "4", "--batch-size", "11", "--json"]
    ctrl_c_after(monkeypatch, schedules.WarmupCosine, 8)  # an epoch has five steps, and asks for the rate at its end
    assert cli.main(argv) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == PARTIAL
    found = json.loads(out)
    assert (found["interrupted"], found["best_epoch"], len(found["losses"])) == (True, 1, 1)


@pytest.mark.parametrize("name", ["path.png", "mnist_curves.csv"])
def test_a_file_that_cannot_be_written_leaves_nothing(capsys, monkeypatch, digits, tmp_path, name):
    replace = os.replace

    def fail(source, target):
        if target.name == name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    argv = ["compare", "path"] if name == "path.png" else [*RACE, "--data-dir", str(digits)]
    assert cli.main(argv) == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    left = sorted(path.name for path in (tmp_path / "schuss-results").iterdir())
    assert left == ([] if name == "path.png" else ["mnist_accuracy.png", "mnist_loss.png"])


def command(*argv, **options):
    """Run the command as the shell does, with Python's own buffers."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    environment |= options.pop("env", {})
    return subprocess.run([sys.executable, "-m", "schuss", *argv], text=True, env=environment, **options)


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("argv", [["info"], ["info", "--json"], ["compare", "path", "--json"], ["bench", "--profile"]])
def test_output_that_nobody_reads_ends_quietly(tmp_path, argv, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = command(*argv, stdout=writer, stderr=subprocess.PIPE, env=unbuffered, cwd=tmp_path)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_help_and_errors_that_nobody_reads_end_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert command("--help", stdout=writer, stderr=subprocess.PIPE).returncode == 141
        done = command("compare", "path", "--out", "/dev/null", stderr=writer, stdout=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.stdout == ""
    assert done.returncode != 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is always full")
@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize(
    "argv", [["info"], ["compare", "path", "--json"], ["plot", "schedule", "Constant(1)", "--json"]]
)
def test_output_to_a_full_device_is_one_line(tmp_path, argv, unbuffered):
    with open("/dev/full", "w") as full:
        done = command(*argv, stdout=full, stderr=subprocess.PIPE, env=unbuffered, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "schuss: error: cannot write the output: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="closes streams as a POSIX shell does")
def test_closed_streams_do_not_stop_the_work(digits, tmp_path):
    shell = 'exec "$0" -m schuss "$@" >&- 2>&-'
    argv = [*RACE, "--data-dir", str(digits), "--out", "closed", "--optimizers", "SGD"]
    assert subprocess.run(["sh", "-c", shell, sys.executable, *argv], cwd=tmp_path).returncode == 0
    assert len((tmp_path / "closed" / "mnist_curves.csv").read_text().splitlines()) == 13


@pytest.mark.skipif(os.name == "nt", reason="has no such encoding of the console")
def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path):
    done = command(
        "compare", "path", "--out", "größe", capture_output=True, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "wrote gr\\xf6\\xdfe/path.png"


def test_alone_it_shows_the_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: schuss")
    assert "let the optimizers race" in shown.out
    assert shown.err == ""
