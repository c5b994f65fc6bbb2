"""The benchmark measures what it says: equal steps, right byte counts, all peers named, files that can be read."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import schuss
from schuss import cli
from schuss.lab import bench, peers, zeros
from schuss.lab.bench import Case

OURS, NUMPY, TEXTBOOK = (
    next(peer for peer in peers.PEERS if peer.name == name) for name in ("schuss", "numpy", "textbook")
)


@pytest.fixture
def tiny(monkeypatch):
    """A benchmark of milliseconds."""
    monkeypatch.setattr(bench, "ITERATION_TURN_NS", 10_000)
    monkeypatch.setattr(bench, "ITERATION_REST_S", 0.0)
    found = [
        (Case("1e3", "Adam", [(1000,)], "float32", 1), frozenset({"numpy"}), 0.0),
        (Case("1e3", "Adam", [(1000,)], "float32", schuss.get_num_threads()), None, 0.0),
    ]
    monkeypatch.setattr(bench, "cases", lambda quick, n_threads: iter(found))


@pytest.mark.parametrize(
    ("rule", "dtype", "expected"),
    [("SGD", "float32", 12), ("Momentum", "float32", 20), ("Adam", "float32", 28), ("Adam", "float64", 56)],
)
def test_bytes_of_a_step(rule, dtype, expected):
    case = Case("x", rule, [(10, 20), (30,)], dtype, 1)
    assert case.parameters == 230
    assert case.bytes == 230 * expected
    assert Case(bench.COMPOSITION, "Adam", [(10,)], "float32", 1).bytes == 10 * 40


def test_the_shapes_of_the_models():
    assert sum(int(np.prod(shape)) for shape in peers.MNIST) == 109_810
    assert len(peers.MNIST) == 10
    assert sum(int(np.prod(shape)) for shape in bench.GPT2) == 124_439_808
    assert len(bench.GPT2) == 148


def test_every_rule_has_its_row():
    full = {(case.rule, case.dtype, case.threads) for case, _, _ in bench.cases(False, 2)}
    for rule in schuss.optimizers.OPTIMIZERS:
        if rule != "Muon":
            assert {(rule, "float32", 2), (rule, "float64", 2)} <= full
    for rule in ("SGD", "Adam"):
        sizes = {case.parameters for case, _, _ in bench.cases(False, 2) if case.rule == rule}
        assert {10**k for k in range(3, 9)} <= sizes


@pytest.mark.parametrize("rule", [rule for rule in schuss.optimizers.OPTIMIZERS if rule != "Muon"])
def test_a_case(rule, tiny):
    rows = bench.run_case(Case("x", rule, [(40, 30), (7,)], "float64", 1), [OURS, NUMPY], 0.0)
    assert [row.contender for row in rows] == ["schuss", "numpy", "stream limit"]
    assert rows[0].over_ours == 1.0
    for row in rows:
        assert 0 < row.low <= row.median <= row.high
        assert row.of_limit == pytest.approx(rows[-1].median / row.median)
        assert row.gb_per_s == pytest.approx(
            (3 + 2 * len(schuss.optimizers.OPTIMIZERS[rule].slots)) * 8 * 1207 / row.median / 1e9
        )


def test_a_peer_that_steps_otherwise_is_found_out(tiny):
    def start(rule, params, grads):
        mine = [p.copy() for p in params]
        return peers.Runner(lambda: [p.__isub__(1e-3) for p in mine], lambda: mine)

    wrong = peers.Peer("wrong", None, frozenset({"Adam"}), start)
    with pytest.raises(AssertionError, match="wrong steps otherwise"):
        bench.run_case(Case("x", "Adam", [(100,)], "float32", 1), [OURS, wrong], 0.0)


def test_threads_and_collector_are_restored(tiny):
    before = schuss.get_num_threads()
    bench.run_case(Case("x", "SGD", [(10,)], "float32", before + 1), [OURS], 0.0)
    assert schuss.get_num_threads() == before


def test_the_textbooks_iteration_is_ours():
    """Same data, same shapes: after some iterations both have learnt, ours in float32, the book's in float64."""
    rng = np.random.default_rng(0)
    x, t = rng.random((256, 784), np.float32), rng.integers(0, 10, 256)
    for name in ("schuss", "textbook"):
        one = peers.iteration(name, x, t)
        for _ in range(3):
            one.step(one.compute())
    assert peers.iteration("thinc", x, t) is None


def test_the_step_within_an_iteration_is_a_part_of_it(tiny):
    rows = bench.run_iteration([OURS, NUMPY, TEXTBOOK], 1, 0.0)
    assert [(row.case, row.contender) for row in rows] == [
        (case, name) for case in (bench.ITERATION, bench.UPDATE) for name in ("schuss", "textbook")
    ]
    for name in ("schuss", "textbook"):
        whole, step = (row for row in rows if row.contender == name)
        assert 0 < step.median < whole.median
        assert step.gb_per_s is None


def test_the_short_name():
    from schuss import bench as short

    assert short.main is bench.main


def test_files_and_words(tiny, tmp_path, capsys):
    files = {name: str(tmp_path / f"b.{name}") for name in ("json", "csv", "figure")}
    files["figure"] += ".png"
    arguments = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert cli.main(["bench", "--peers", "numpy", "textbook", *arguments]) == 0
    out = capsys.readouterr().out
    assert "contenders: schuss, numpy, textbook; not installed: none" in out
    assert "their time / ours" in out
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["machine"]["numpy"] == np.__version__
    assert {row["contender"] for row in found["rows"]} == {"schuss", "numpy", "textbook", "stream limit"}
    with open(tmp_path / "b.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"])
    assert float(rows[0]["median"]) == found["rows"][0]["median"]
    assert (tmp_path / "b.figure.png").read_bytes().startswith(b"\x89PNG")


def test_absent_peers_are_named(tiny, capsys, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert cli.main(["bench", "--quick"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    absent = "torch, torch foreach, torch fused, deepspeed, optax, numba, thinc"
    assert line == f"contenders: schuss, numpy, textbook; not installed: {absent}"


def test_interrupted_it_keeps_what_it_has(tiny, tmp_path, capsys, monkeypatch):
    done = []

    def one_then_stop(case, contenders, budget):
        if done:
            raise KeyboardInterrupt
        done.append(case)
        return bench._rows(case, {"schuss": [1.0], "stream limit": [1.0]})

    monkeypatch.setattr(bench, "run_case", one_then_stop)
    assert cli.main(["bench", "--csv", str(tmp_path / "b.csv")]) == 130
    assert (tmp_path / "b.csv").read_text().count("\n1e3,") == 2


def test_profile(capsys):
    parts = bench.profile(repeats=10)
    assert set(parts["1e3"]) == {"scalars", "checks", "plan", "region", "kernel", "floats", "whole call"}
    assert cli.main(["bench", "--profile"]) == 0
    assert "kernel" in capsys.readouterr().out


def test_a_directory_that_is_not_there(capsys):
    assert cli.main(["bench", "--csv", "nowhere/b.csv"]) == 2
    assert "nowhere, where b.csv is to be written, is no directory" in capsys.readouterr().err


def test_gradients_full_of_zeros(monkeypatch, tmp_path, capsys):
    """Each contender has its zeros, and after its steps the state that they lead to."""
    monkeypatch.setattr(zeros, "MNIST", [(30, 20), (7,)])
    monkeypatch.setattr(zeros, "STEPS", 30)
    monkeypatch.setattr(zeros, "time_turns", lambda steps, budget: {name: [1.0] for name in steps})
    runner = zeros._started(OURS, zeros.MNIST, 0.5)
    assert 0.4 < np.mean(np.concatenate([g.ravel() == 0 for g in runner.grads])) < 0.6
    stepped = [zeros._started(peer, zeros.MNIST, 0.5).read() for peer in (OURS, NUMPY)]
    for mine, theirs in zip(*stepped, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    monkeypatch.setattr(zeros, "ROW_STEPS", 2)
    path = tmp_path / "zeros.json"
    assert cli.main(["bench", "--zeros", "--quick", "--peers", "numpy", "--json", str(path)]) == 0
    rows = [row for row in json.loads(path.read_text())["rows"] if "share" in row]
    assert [(row["share"], row["contender"]) for row in rows] == [
        (share, name) for share in zeros.SHARES for name in ("schuss", "numpy")
    ]
    assert [row["over_ordinary"] for row in rows[:2]] == [1, 1]
    shown = capsys.readouterr().out
    assert "theirs / ours" in shown
    assert all(f"{share:.0%}" in shown for share in zeros.SHARES)
    rows = [row for row in json.loads(path.read_text())["rows"] if "way" in row]
    assert [(row["rule"], row["way"]) for row in rows if "torch" not in row["way"]] == [
        (rule, way) for rule in ("Adam", "AdaGrad") for way in ("dense", "exact", "touched")
    ]
    assert all(row["dense_over_it"] > 0 for row in rows)
    assert "dense / it" in shown
    assert cli.main(["bench", "--zeros", "--csv", str(tmp_path / "x.csv")]) == 2
    assert "--zeros writes no --csv and no --figure; it has --json" in capsys.readouterr().err
