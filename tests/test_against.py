"""What got slower between two runs of the benchmark: on rows that are written by hand, and by the command."""

from __future__ import annotations

import json

import pytest
import schuss
from schuss import cli
from schuss.lab import against, bench
from schuss.lab.bench import STREAM


def rows_of(spread=1.01, case="1e5", rule="Adam", **medians):
    """The rows of one case, whose quartiles are so far apart; the limit moves 28 bytes."""
    names = {"limit": STREAM, "fused": "torch fused"}
    return [
        {
            "case": case,
            "rule": rule,
            "dtype": "float32",
            "threads": 2,
            "contender": names.get(name, name),
            "median": time,
            "low": time / spread**0.5,
            "high": time * spread**0.5,
            "gb_per_s": 28 / time / 1e9,
            "of_limit": None,
        }
        for name, time in medians.items()
    ]


def verdict(before, now):
    (change,) = against.changes(before, now)
    return change.verdict


def test_what_is_slower_is_found_in_both_directions():
    before = rows_of(schuss=1.0, limit=0.9)
    assert verdict(before, rows_of(schuss=1.2, limit=0.9)) == "slower"
    assert verdict(before, rows_of(schuss=0.8, limit=0.9)) == "faster"
    assert verdict(before, before) == "same"
    (change,) = against.changes(before, rows_of(schuss=1.2, limit=0.9))
    assert (change.before, change.now) == (1.0, 1.2)
    assert change.ratio == pytest.approx(1.2)
    assert 1.1 < change.noise < 1.11


def test_a_machine_that_is_slower_today_is_no_fault_of_ours():
    before = rows_of(schuss=1.0, limit=0.9)
    assert verdict(before, rows_of(schuss=1.5, limit=1.35)) == "same"
    (change,) = against.changes(before, rows_of(schuss=1.5, limit=1.0))
    assert (change.verdict, change.ratio) == ("slower", pytest.approx(1.35))


def test_clock_and_limit_must_agree():
    before = rows_of(schuss=1.0, limit=0.9)
    for ours, limit in ((1.0, 0.6), (0.9, 0.6), (1.0, 1.5), (1.3, 1.8)):
        (change,) = against.changes(before, rows_of(schuss=ours, limit=limit))
        assert (change.verdict, change.ratio) == ("same", 1.0)
    (change,) = against.changes(before, rows_of(schuss=1.3, limit=0.6))
    assert change.ratio == pytest.approx(1.3)
    (change,) = against.changes(before, rows_of(schuss=0.8, limit=1.2))
    assert change.ratio == pytest.approx(0.8)


def test_without_a_limit_the_others_tell_how_fast_the_machine_is():
    before = rows_of(schuss=1.0, numpy=8.0, optax=3.0, fused=2.0)
    assert verdict(before, rows_of(schuss=1.5, numpy=12.0, optax=4.5, fused=2.0)) == "same"
    assert verdict(before, rows_of(schuss=1.5, numpy=8.0, optax=3.0, fused=3.0)) == "slower"
    (change,) = against.changes(before, rows_of(schuss=1.5, numpy=12.0))
    assert change.ratio == pytest.approx(1.0)
    assert verdict(rows_of(schuss=1.0), rows_of(schuss=1.5)) == "slower"


def test_without_others_the_limits_of_the_run_tell_it():
    limits = [[*rows_of(limit=1.0), *rows_of(case="1e6", limit=1.0)] for _ in range(2)]
    before, now = ([*rows_of(rule="Muon", schuss=time), *rows] for time, rows in zip((1.0, 1.5), limits, strict=True))
    assert verdict(before, now) == "slower"
    slower = [*rows_of(limit=1.5), *rows_of(case="1e6", limit=1.6)]
    assert verdict(before, [*now[:1], *slower]) == "same"


def test_quartiles_are_noise():
    quiet, noisy = rows_of(schuss=1.0, limit=0.9), rows_of(1.3, schuss=1.0, limit=0.9)
    for before, now in ((quiet, rows_of(1.3, schuss=1.2, limit=0.9)), (noisy, rows_of(schuss=1.2, limit=0.9))):
        assert verdict(before, now) == "same"
        assert verdict(before, rows_of(1.3, schuss=2.0, limit=0.9)) == "slower"
    of_the_limit = [quiet[0], rows_of(1.3, schuss=1.0, limit=0.9)[1]]
    assert verdict(of_the_limit, rows_of(schuss=1.2, limit=0.9)) == "same"


def test_others_that_do_not_move_with_the_limit_are_noise():
    before = rows_of(schuss=1.0, limit=0.9, numpy=8.0, optax=3.0, fused=2.0)
    together = rows_of(schuss=1.2, limit=0.9, numpy=8.0, optax=3.0, fused=2.0)
    apart = rows_of(schuss=1.2, limit=0.9, numpy=9.8, optax=3.7, fused=1.6)
    assert verdict(before, together) == "slower"
    assert verdict(before, apart) == "same"


def test_a_limit_that_is_counted_otherwise_is_the_same_machine():
    """LAMB was thought to move 28 bytes and then 40: the loop is as fast as it was."""
    before, now = rows_of(schuss=1.0, limit=0.9), rows_of(schuss=1.0, limit=0.9 * 40 / 28)
    now[1]["gb_per_s"] = before[1]["gb_per_s"]
    assert verdict(before, now) == "same"


def test_only_what_is_ours_and_in_both_is_compared():
    before = [*rows_of(schuss=1.0, fused=2.0), *rows_of(rule="SGD", schuss=1.0), *rows_of(case="1e6", numpy=1.0)]
    now = [*rows_of(schuss=1.0, numpy=2.0), *rows_of(rule="LAMB", schuss=1.0), *rows_of(case="1e6", schuss=1.0)]
    assert [(change.case, change.rule) for change in against.changes(before, now)] == [("1e5", "Adam")]
    other = [{**row, "threads": 1} for row in now], [{**row, "dtype": "float64"} for row in now]
    assert [against.changes(before, rows) for rows in other] == [[], []]


def test_the_table():
    before = [*rows_of(schuss=1.0, limit=0.9), *rows_of(rule="SGD", schuss=1e-3), *rows_of(rule="LAMB", schuss=1.0)]
    now = [*rows_of(schuss=1.5, limit=0.9), *rows_of(rule="SGD", schuss=1e-3), *rows_of(rule="LAMB", schuss=0.5)]
    lines = [" ".join(line.split()) for line in against.table(against.changes(before, now)).splitlines()]
    assert lines == [
        "case rule threads before now ratio noise verdict",
        "1e5 Adam float32 2 1 s 1.5 s 1.50 1.11 slower",
        "1e5 SGD float32 2 1 ms 1 ms 1.00 1.11 same",
        "1e5 LAMB float32 2 1 s 500 ms 0.50 1.11 faster",
        "1 slower, 1 faster, 1 same; ratio: " + against.RATIO,
    ]


HERE = {"cpu": "a", "isa": "avx2"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "there is no such file"),
        ("", "this is no JSON of schuss bench"),
        ("[]", "this is no JSON of schuss bench"),
        ('{"machine": {}, "rows": []}', "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": 3}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [None]}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [{**rows_of(schuss=1.0)[0], "median": 0}]}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [{**rows_of(schuss=1.0)[0], "low": "x"}]}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [{**rows_of(limit=1.0)[0], "gb_per_s": None}]}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [{**rows_of(schuss=1.0)[0], "rule": []}]}, "this is no JSON of schuss bench"),
        ({"machine": HERE, "rows": [{"case": "1e5", "share": 0.5}]}, "it has no times of rules"),
        ({"machine": {**HERE, "cpu": "b"}, "rows": []}, "it is of another machine: its cpu is b, here a"),
        ({"machine": {**HERE, "isa": "avx512"}, "rows": []}, "it is of another machine: its isa is avx512, here avx2"),
    ],
)
def test_files_that_are_refused(text, why, tmp_path):
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        against.read(path, HERE)
    assert str(caught.value) == f"--against {path}: {why}"


def test_a_file_is_read_for_the_rows_of_the_cases(tmp_path):
    path, rows = tmp_path / "before.json", rows_of(schuss=1.0, limit=0.9)
    path.write_text(json.dumps({"machine": {**HERE, "numpy": "1"}, "rows": [*rows, {"case": "x", "busy": True}]}))
    assert against.read(path, HERE) == rows


@pytest.fixture
def times(monkeypatch):
    """A benchmark whose times are what this dict says."""
    seconds = {"schuss": 1.0, STREAM: 0.5}

    def run_cases(rows, present, n_threads, quick):
        case = bench.Case("1e3", "Adam", [(1000,)], "float32", n_threads)
        rows += bench._rows(case, {name: [time] for name, time in seconds.items()})

    monkeypatch.setattr(bench, "_run_cases", run_cases)
    monkeypatch.setattr(bench, "run_iteration", lambda *_: [])
    monkeypatch.setattr(bench.precision_bench, "run", lambda *_: [])
    return seconds


def test_by_the_command(times, tmp_path, capsys):
    path = str(tmp_path / "before.json")
    assert cli.main(["bench", "--json", path]) == 0
    assert "against" not in capsys.readouterr().out
    for ours, verdict, status in ((1.0, "same", 0), (1.3, "slower", 1), (0.7, "faster", 0)):
        times["schuss"] = ours
        assert cli.main(["bench", "--quick", "--against", path]) == status
        lines = capsys.readouterr().out.splitlines()
        assert lines[lines.index(f"against {path}") + 2].split()[-1] == verdict
    assert cli.main(["bench", "--against", path, "--json", path]) == 0  # the file is read before it is written
    times["schuss"] = 1.0
    assert cli.main(["bench", "--against", path]) == 1


def test_what_the_command_refuses(times, tmp_path, capsys):
    path = tmp_path / "before.json"
    assert cli.main(["bench", "--against", str(path)]) == 2
    assert capsys.readouterr().err == f"schuss: error: --against {path}: there is no such file\n"
    assert cli.main(["bench", "--against", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path.write_text(json.dumps({"machine": schuss.info(), "rows": rows_of(schuss=1.0)}))
    assert cli.main(["bench", "--against", str(path), "--csv", str(tmp_path / "now.csv")]) == 2
    assert capsys.readouterr().err == f"schuss: error: --against {path}: it has none of the cases of this run\n"
    assert (tmp_path / "now.csv").exists()
    for mode in ("profile", "formats", "busy", "mpi", "mnist", "zeros"):
        assert cli.main(["bench", f"--{mode}", "--against", str(path)]) == 2
        assert f"which --{mode} leaves out" in capsys.readouterr().err


def test_interrupted_it_compares_what_it_has(times, tmp_path, capsys, monkeypatch):
    path = str(tmp_path / "before.json")
    cli.main(["bench", "--json", path])
    whole = bench._run_cases

    def then_stop(*args):
        whole(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "_run_cases", then_stop)
    capsys.readouterr()
    assert cli.main(["bench", "--against", path]) == 130
    assert f"against {path}" in capsys.readouterr().out
