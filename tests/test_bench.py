"""The benchmark measures what it says: equal steps, right byte counts, all peers named, files that can be read."""

from __future__ import annotations

import csv
import json
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import schuss
from schuss import cli
from schuss.lab import bench, iteration, peers, precision_bench, timing, zeros
from schuss.lab.bench import Case

OURS, NUMPY, TEXTBOOK = (
    next(peer for peer in peers.PEERS if peer.name == name) for name in ("schuss", "numpy", "textbook")
)


# Each other library beside each of its rules.
THEIRS = [
    pytest.param(peer, rule, id=f"{peer.name}-{rule}")
    for peer in peers.PEERS
    if peer.package
    for rule in sorted(peer.rules)
]


def no_digits():
    raise ImportError("no digits here")


@pytest.fixture
def tiny(monkeypatch):
    """A benchmark of milliseconds."""
    monkeypatch.setattr(iteration, "TURNS", (2, 3))
    monkeypatch.setattr(iteration, "QUICK_TURNS", (2, 3))
    monkeypatch.setattr(iteration, "WARM_UP", 1)
    monkeypatch.setattr(iteration, "REST_S", 0.0)
    monkeypatch.setattr(iteration, "load_mnist", no_digits)
    found = [
        (Case("1e3", "Adam", [(1000,)], "float32", 1), frozenset({"numpy"}), 0.0),
        (Case("1e3", "Adam", [(1000,)], "float32", schuss.get_num_threads()), None, 0.0),
    ]
    monkeypatch.setattr(bench, "cases", lambda quick, n_threads: iter(found))
    monkeypatch.setattr(precision_bench, "SIZES", {"1e3": 1000})
    monkeypatch.setattr(precision_bench, "BESIDE_BYTES", 1 << 14)
    monkeypatch.setattr(precision_bench, "time_turns", lambda steps, budget: {name: [1.0, 3.0] for name in steps})


@pytest.mark.parametrize(
    ("rule", "dtype", "expected"),
    [("SGD", "float32", 12), ("Momentum", "float32", 20), ("Adam", "float32", 28), ("Adam", "float64", 56)],
)
def test_bytes_of_a_step(rule, dtype, expected):
    case = Case("x", rule, [(10, 20), (30,)], dtype, 1)
    assert case.parameters == 230
    assert case.bytes == 230 * expected
    assert Case(bench.COMPOSITION, "Adam", [(10,)], "float32", 1).bytes == 10 * 40


@pytest.mark.parametrize(
    ("rule", "arrays", "apart", "together"), [("LAMB", 4, 40, 28), ("LARS", 3, 28, 20), ("Adafactor", 2, 24, 12)]
)
def test_bytes_of_a_rule_in_two_halves(rule, arrays, apart, together):
    """A tensor whose arrays fit in the second-level caches of the threads is read once, a larger one twice."""
    n = bench.L2_BYTES // (4 * arrays)
    assert Case("x", rule, [(n,), (n, 1)], "float32", 1).bytes == 2 * n * together
    assert Case("x", rule, [(n + 1,), (n,)], "float32", 1).bytes == (n + 1) * apart + n * together
    assert Case("x", rule, [(2 * n,)], "float32", 2).bytes == 2 * n * together
    assert Case("x", rule, [(n,)], "float64", 1).bytes == n * 2 * apart


def test_the_limit_of_a_rule_in_two_halves(monkeypatch):
    """The loop's time, times what the rule moves over what the loop does."""
    monkeypatch.setattr(bench, "time_turns", lambda steps, budget: {name: [2.0] for name in steps})
    monkeypatch.setattr(bench, "STREAM_BYTES", 1)
    monkeypatch.setattr(bench, "L2_BYTES", 1)
    for rule, ratio in (("LAMB", 40 / 28), ("LARS", 28 / 20), ("Adafactor", 24 / 12), ("Adam", 1)):
        ours, limit = bench.run_case(Case("x", rule, [(50, 60)], "float32", 1), [OURS], 0.0)
        assert limit.median == pytest.approx(2 * ratio)
        assert ours.of_limit == pytest.approx(ratio)
        assert ours.gb_per_s == pytest.approx(limit.gb_per_s * ratio)


def test_muon_has_no_limit(tiny):
    rows = bench.run_case(Case("x", "Muon", [(30, 40), (20, 10)], "float32", 1), [OURS, NUMPY], 0.0)
    assert [(row.contender, row.gb_per_s, row.of_limit) for row in rows] == [
        ("schuss", None, None),
        ("numpy", None, None),
    ]


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


@pytest.mark.parametrize("quick", [False, True])
def test_every_rule_is_timed_beside_the_libraries(quick):
    found = {}
    for case, names, _ in bench.cases(quick, 2):
        if (case.dtype, case.threads) == ("float32", 2) and (names is None or {"optax", "torch fused"} <= names):
            found.setdefault(case.rule, set()).add(case.name)
    assert set(found) == set(schuss.optimizers.OPTIMIZERS)
    for rule, names in found.items():
        if rule != "Muon":
            assert names >= ({"1e5"} if quick else {"1e5", "3e7"}), rule
    assert all((bench.GPT2_SMALL in found[rule]) != quick for rule in ("LAMB", "LARS", "Adafactor"))


@pytest.mark.parametrize("n", [1000, 10**5, 3 * 10**7])
def test_adafactor_is_timed_on_a_matrix(n):
    ((rows, columns),) = bench._shapes("Adafactor", n)
    assert rows * columns == n
    assert rows <= columns <= 2 * rows
    assert bench._shapes("LAMB", n) == [(n,)]


def row_of(case, rule, contender, median, of_limit=None, over_ours=1.0, dtype="float32", threads=2):
    return bench.Row(case, rule, dtype, 1, threads, contender, median, median, median, None, over_ours, of_limit)


def test_every_rule_beside_the_fastest_other(capsys):
    rows = [
        row_of("1e5", "Adam", "schuss", 1e-6, 0.75),
        row_of("1e5", "Adam", "numpy", 0.5e-6, over_ours=0.5),
        row_of("1e5", "Adam", "optax", 3e-6, over_ours=3.0),
        row_of("1e5", "Adam", "torch fused", 2e-6, over_ours=2.0),
        row_of("1e5", "Adam", bench.STREAM, 0.75e-6, over_ours=0.75),
        row_of("1e5", "LAMB", "schuss", 2e-6, 0.5),
        row_of("1e5", "LAMB", "numpy", 9e-6, over_ours=4.5),
        row_of("1e6", "Adam", "schuss", 1e-6),
        row_of("1e6", "Adam", "optax", 1e-6),
        row_of("1e5", "SGD", "schuss", 1e-6, dtype="float64"),
        row_of("1e5", "SGD", "optax", 1e-6, dtype="float64"),
        row_of("3 matrices", "Muon", "schuss", 1e-3),
        row_of("3 matrices", "Muon", "torch", 0.9e-3, over_ours=0.9),
    ]
    bench._print_best(rows, 2)
    assert [
        " ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line and "every rule" not in line
    ] == [
        "rule ours of limit fastest theirs / ours",
        "Adam 1 us 0.75 torch fused 2.00",
        "rule ours fastest theirs / ours",
        "Muon 1 ms torch * 0.90",
        "* not compared: its step differs from ours by more than rounding",
    ]


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


@pytest.mark.filterwarnings("ignore")  # by others as they are imported
@pytest.mark.parametrize(("peer", "rule"), THEIRS)
def test_other_libraries_take_our_steps(peer, rule):
    """Where one is marked as stepping otherwise, it does."""
    if peer.missing():
        pytest.skip(f"{peer.package} is not installed (extra bench)")
    shapes = [(96, 80), (80, 96)] + [(48,)] * (rule != "Muon")
    case = Case("x", rule, shapes, "float32", 1)
    with timing.settled(1):
        assert set(bench._started(case, [OURS, peer])) == {"schuss", peer.name}
        if rule in peer.differs:
            with pytest.raises(AssertionError, match=f"{peer.name} steps otherwise"):
                bench._started(case, [OURS, peer._replace(differs=frozenset())])


def test_which_rules_others_have():
    """Every rule has another library beside it, and each is compared in one setting."""
    found = {peer.name: peer.rules for peer in peers.PEERS}
    assert set().union(*(found[name] for name in bench.LIBRARIES)) == set(schuss.optimizers.OPTIMIZERS)
    assert set(peers.ARGUMENTS) == set(schuss.optimizers.OPTIMIZERS)
    assert {"AdaGrad", "AdamW", "Momentum"} < found["torch fused"] < found["torch foreach"] < found["torch"]
    assert {"AdaGrad", "Lion"} < found["deepspeed"]
    assert all(peer.differs <= peer.rules for peer in peers.PEERS)


def test_threads_and_collector_are_restored(tiny):
    before = schuss.get_num_threads()
    bench.run_case(Case("x", "SGD", [(10,)], "float32", before + 1), [OURS], 0.0)
    assert schuss.get_num_threads() == before


TRAINED = [one.name for one in iteration.CONTENDERS]


def digits(n=256):
    rng = np.random.default_rng(0)
    t = rng.integers(0, 10, n)
    return rng.random((10, 784), np.float32)[t] + 0.1 * rng.random((n, 784), np.float32), t


def start_training(name, x, t):
    one = next(one for one in iteration.CONTENDERS if one.name == name)
    if one.package:
        pytest.importorskip(one.package, reason=f"{one.package} is not installed (extra bench)")
    return one.start(x, t)


@pytest.mark.filterwarnings("ignore")  # by others as they are imported
@pytest.mark.parametrize("name", TRAINED)
def test_every_contender_learns(name):
    """Its first loss is about that of a guess, log(10)."""
    x, t = digits()
    training = start_training(name, x, t)
    first = iteration._loss(training.scores(x), t)
    assert 2 < first < 4
    times = training.run(20)
    assert 0 < times.update < times.whole
    assert 0 < times.gradient < times.whole - times.update
    scores = training.scores(x)
    assert scores.shape == (256, 10)
    assert iteration._loss(scores, t) < 0.9 * first


def seen(a, b):
    """What tells one matrix product from another to BLAS."""
    return [(each.shape, each.dtype, each.flags.c_contiguous, each.flags.f_contiguous) for each in (a, b)]


def assert_same_products(training, found, count):
    """Those that are timed by themselves are those of an iteration; a spy adds them to what is found."""
    found.clear()
    training.products()
    alone = list(found)
    found.clear()
    training.run(1)
    assert len(alone) == count
    assert sorted(alone, key=str) == sorted(found, key=str)


@pytest.mark.parametrize(("name", "count"), [("schuss", 14), ("textbook", 15)])
def test_the_products_by_themselves_are_those_of_an_iteration(name, count, monkeypatch):
    training = start_training(name, *digits())
    found, dot = [], np.dot

    def spy(a, b, out=None):
        found.append((seen(a, b), out is None))
        return dot(a, b, out=out)

    monkeypatch.setattr(np, "dot", spy)
    assert_same_products(training, found, count)


def test_scikit_learns_products_by_themselves(monkeypatch):
    extmath = pytest.importorskip("sklearn.utils.extmath", reason="scikit-learn is not installed (extra sklearn)")
    from sklearn.neural_network import _multilayer_perceptron

    found, dot = [], extmath.safe_sparse_dot

    def spy(a, b):
        found.append(seen(a, b))
        return dot(a, b)

    for module in (extmath, _multilayer_perceptron):
        monkeypatch.setattr(module, "safe_sparse_dot", spy)
    training = start_training("scikit-learn", *digits())
    assert_same_products(training, found, 14)


@pytest.mark.filterwarnings("ignore")
def test_pytorchs_products_by_themselves():
    training = start_training("torch fused", *digits())
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    found = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                found.append([(tuple(each.shape), each.stride(), each.dtype) for each in args[-2:]])
            return function(*args, **(kwargs or {}))

    with Spy():
        assert_same_products(training, found, 14)


def a_contender(name, times, products, scores):
    """A stub that takes such times, and whose scores are in turn these."""
    answers = iter(scores)
    training = iteration.Training(lambda n: times, lambda: products, lambda x: next(answers)(x))
    return iteration.Contender(name, None, lambda x, t: training)


def guesses(x):
    return np.zeros((len(x), 10))


def knows(x):
    """The labels of the noise, by the images that it is around."""
    return 10 * (x - 0.5) @ (np.random.default_rng(0).random((10, 784), np.float32) - 0.5).T


def test_the_parts_of_an_iteration_add_up(tiny, monkeypatch, capsys):
    ours = a_contender("schuss", iteration.Times(10.0, 6.0, 3.0), 4.0, [guesses, knows])
    theirs = a_contender("theirs", iteration.Times(30.0, 21.0, 8.0), 8.0, [guesses, knows])
    monkeypatch.setattr(iteration, "CONTENDERS", [ours, theirs])
    monkeypatch.setattr(iteration, "_mean_seconds", lambda products, n: products())
    rows = bench.run_iteration(None, 1, False, print)
    assert [(row.case, row.contender, row.median) for row in rows] == [
        ("MNIST iteration", "schuss", 10.0),
        ("MNIST iteration", "theirs", 30.0),
        ("its drawing", "schuss", 1.0),
        ("its drawing", "theirs", 1.0),
        ("its products", "schuss", 4.0),
        ("its products", "theirs", 8.0),
        ("its layers", "schuss", 2.0),
        ("its layers", "theirs", 13.0),
        ("its update()", "schuss", 3.0),
        ("its update()", "theirs", 8.0),
    ]
    assert {row.gb_per_s for row in rows} == {None}
    assert rows[1].over_ours == 3.0
    out = capsys.readouterr().out
    assert "no digits, so noise" in out
    assert "6 of 128 examples on noise, in 2 turns" in out
    line = next(line for line in out.splitlines() if line.startswith("  theirs"))
    assert line.split("30 s - 30 s")[1].split() == ["3.00", "3.67", "1", "s", "8", "s", "13", "s", "8", "s", "1.000"]


def test_who_does_not_learn_is_found_out(tiny, monkeypatch):
    lazy = a_contender("lazy", iteration.Times(1.0, 1.0, 1.0), 1.0, [guesses, guesses])
    monkeypatch.setattr(iteration, "CONTENDERS", [*iteration.CONTENDERS[:1], lazy])
    with pytest.raises(AssertionError, match="lazy has not learnt"):
        iteration.run(None, 1, True, print)


def test_the_iteration_is_timed_on_real_digits(tiny, monkeypatch, capsys):
    asked = []

    def load_mnist():
        asked.append(True)
        x, t = digits(500)
        return (x, t.astype(np.uint8)), (x, t.astype(np.uint8))

    monkeypatch.setattr(iteration, "load_mnist", load_mnist)
    monkeypatch.setattr(iteration, "mnist_name", lambda: "these digits")
    monkeypatch.setattr(iteration, "find_spec", lambda package: None)
    found = iteration.run(["scikit-learn", "textbook"], 1, True, print)
    assert asked
    assert list(found) == list(iteration.CASES)
    assert all(set(times) == {"schuss", "textbook"} for times in found.values())
    assert all(len(each) == 2 for times in found.values() for each in times.values())
    out = capsys.readouterr().out
    assert "on these digits" in out
    assert "noise" not in out
    assert "MNIST iteration: not installed: scikit-learn" in out


def test_the_iteration_by_the_command(tiny, tmp_path, capsys):
    path = tmp_path / "b.json"
    assert cli.main(["bench", "--mnist", "--peers", "textbook", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["case"], row["contender"]) for row in rows] == [
        (case, name) for case in iteration.CASES for name in ("schuss", "textbook")
    ]
    assert "Adam, 1e3" not in capsys.readouterr().out
    assert cli.main(["bench", "--mnist", "--csv", str(tmp_path / "x.csv")]) == 2
    assert "--mnist writes no --csv and no --figure; it has --json" in capsys.readouterr().err


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
    of_formats = {peer.name for peer in peers.FORMATS if peer.package is None}
    assert {row["contender"] for row in found["rows"]} == {"schuss", "numpy", "textbook", "stream limit", *of_formats}
    with open(tmp_path / "b.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found["rows"])
    assert float(rows[0]["median"]) == found["rows"][0]["median"]
    assert (tmp_path / "b.figure.png").read_bytes().startswith(b"\x89PNG")


def test_absent_peers_are_named(tiny, capsys, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    monkeypatch.setattr(iteration, "find_spec", lambda package: None)
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


FORMATS = {peer.name: peer for peer in peers.FORMATS}
OF_OURS = [peer for peer in peers.FORMATS if peer.package is None]


def a_peer(step, package="numpy"):
    """A stub of one who steps parameters of float32 so."""

    def start(rule, params, grads):
        mine = [p.copy() for p in params]
        kept = peers.Kept(4, 4, 0, 8)
        return peers.Runner(
            lambda: [step(p, g) for p, g in zip(mine, grads, strict=True)], lambda: mine, (), lambda: kept
        )

    return peers.Peer("stub", package, frozenset({"Adam"}), start)


@pytest.mark.parametrize(
    ("name", "state", "kept", "moved"),
    [
        ("float32", 8, 12, 28),
        ("state bfloat16", 4, 8, 20),
        ("state int8", 2.0625, 6.0625, 16.125),
        ("bfloat16 split", 8, 12, 26),
        ("split, state bfloat16", 4, 8, 18),
        ("split, state int8", 2.0625, 6.0625, 14.125),
        ("cast, step, cast", 8, 18, 46),
    ],
)
def test_bytes_of_a_step_in_fewer_bits(name, state, kept, moved, tiny):
    rows = precision_bench.run_case("x", 1280, [FORMATS["float32"], FORMATS[name]], 1, 0.0, print)
    row = rows[-1]
    assert (row.contender, row.state_bytes, row.kept_bytes, row.moved_bytes) == (name, state, kept, moved)
    assert row.gb_per_s == pytest.approx(moved * 1280 / 2 / 1e9)  # in the two seconds of that fixture
    assert row.ns_per_parameter == pytest.approx(2e9 / 1280)
    assert row.limit == pytest.approx(2 / (precision_bench.STREAM_BYTES // (moved * 1280)))  # of one round in a call


def test_each_format_has_a_limit_of_its_own(monkeypatch):
    lengths = []

    def stream(p, g, slots, threads, repeats):
        assert {len(array) for array in (g, *slots)} == {len(p)}
        assert (len(slots), threads) == (2, 3)
        lengths.append((len(p), repeats))

    monkeypatch.setattr(precision_bench, "_core", SimpleNamespace(stream=stream))
    found = precision_bench.streams([28_000, 14_000, 10], 3)
    for loop, _ in found.values():
        loop()
    assert lengths == [(n, found[moved][1]) for n, moved in ((1000, 28_000), (500, 14_000), (1, 10))]
    assert found[28_000][1] == precision_bench.STREAM_BYTES // 28_000


def test_formats_are_timed_by_turns_beside_their_limits(monkeypatch):
    monkeypatch.setattr(precision_bench, "STREAM_BYTES", 1)
    rows = precision_bench.run_case("x", 300, OF_OURS[:3], schuss.get_num_threads(), 0.0, print)
    assert [row.contender for row in rows] == ["float32", "state bfloat16", "state int8"]
    for row in rows:
        assert 0 < row.low <= row.median <= row.high
        assert row.over_ours == pytest.approx(row.median / rows[0].median)
        assert row.of_limit == pytest.approx(row.limit / row.median)
        assert not row.busy


def test_a_format_that_steps_otherwise_is_found_out(tiny):
    for step in (lambda p, g: p.__iadd__(g), lambda p, g: p.fill(np.nan)):
        with pytest.raises(AssertionError, match="stub steps otherwise"):
            precision_bench.run_case("x", 100, [*OF_OURS, a_peer(step)], 1, 0.0, print)


def test_what_cannot_start_is_left_out_with_a_line(tiny):
    def broken(p, g):
        raise RuntimeError("no compiler\nat all")

    said = []
    rows = precision_bench.run_case("x", 100, [OF_OURS[0], a_peer(broken)], 1, 0.0, said.append)
    assert said == ["stub: left out: no compiler at all"]
    assert [row.contender for row in rows] == ["float32"]
    with pytest.raises(RuntimeError, match="no compiler"):
        precision_bench.run_case("x", 100, [OF_OURS[0], a_peer(broken, package=None)], 1, 0.0, said.append)


def test_which_formats_are_run(monkeypatch):
    said = []
    monkeypatch.setattr(peers, "find_spec", lambda package: None if package == "deepspeed" else "there")
    found = [peer.name for peer in precision_bench.chosen(None, True, said.append) if peer.package]
    assert found == ["torch fused bfloat16"]
    assert said == [
        "bitsandbytes 8-bit: left out of a quick run, as it is slow",
        "torchao 8-bit: left out of a quick run, as it is slow",
        "formats: not installed: deepspeed bfloat16, deepspeed float16",
    ]
    named = precision_bench.chosen(["torchao 8-bit"], True, said.append)
    assert named == [*OF_OURS, FORMATS["torchao 8-bit"]]


@pytest.mark.filterwarnings("ignore")  # by others as they are imported
@pytest.mark.parametrize("name", [peer.name for peer in peers.FORMATS if peer.package])
def test_formats_of_others(name, tiny, request):
    """Each takes float32's step, and says what it keeps."""
    peer = FORMATS[name]
    if not find_spec(peer.package):
        pytest.skip(f"{peer.package} is not installed (extra bench)")
    if peer.package == "torchao":
        request.getfixturevalue("thorough")  # it compiles
    rows = precision_bench.run_case("x", 5000, [OF_OURS[0], peer], 1, 0.0, pytest.fail)
    wanted = {"torch": 4, "deepspeed": 8, "bitsandbytes": 2.03, "torchao": 2.08}[peer.package]
    assert rows[-1].state_bytes == pytest.approx(wanted, abs=0.01)
    assert rows[-1].kept_bytes - rows[-1].state_bytes == pytest.approx(4 if "8-bit" in name else 2, rel=0.03)


def test_formats_by_the_command(tiny, tmp_path, capsys):
    files = {name: str(tmp_path / f"b.{name}") for name in ("json", "csv")}
    arguments = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert cli.main(["bench", "--formats", "--quick", "--peers", *arguments]) == 0
    out = capsys.readouterr().out
    assert "Adam in fewer bits, 1e3" in out
    assert "their time / ours" not in out
    found = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["contender"] for row in found] == [peer.name for peer in OF_OURS]
    with open(tmp_path / "b.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["moved_bytes"]) for row in rows] == [row["moved_bytes"] for row in found]
    assert cli.main(["bench", "--formats", "--figure", str(tmp_path / "x.png")]) == 2
    assert "draw no --figure" in capsys.readouterr().err


def test_formats_without_bfloat16_are_left_out_with_a_line(tiny, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert cli.main(["bench", "--peers"]) == 0
    out = capsys.readouterr().out
    assert out.count("in fewer bits") == 1
    assert '\nAdam in fewer bits: left out: it needs ml_dtypes: pip install "schuss[low-precision]"\n' in out
    assert "their time / ours" in out


def test_the_others_stream_and_end(monkeypatch):
    calls = []

    def stream(p, g, slots, threads, repeats):
        calls.append((threads, len(p)))
        time.sleep(0.001)

    monkeypatch.setattr(precision_bench, "_core", SimpleNamespace(stream=stream))
    monkeypatch.setattr(precision_bench, "BESIDE_BYTES", 1 << 14)
    with precision_bench.others_stream(2):
        while not calls:
            time.sleep(0.001)
    ended = len(calls)
    time.sleep(0.01)
    assert len(calls) == ended
    assert set(calls) == {(2, 1024)}


def test_beside_a_stream(tiny, tmp_path, capsys, monkeypatch):
    """Once by itself, once while the other threads stream; what is said of the gain is what was measured."""
    streaming = []

    @contextmanager
    def others_stream(threads):
        streaming.append(threads)
        yield
        streaming.clear()

    def time_turns(steps, budget):
        assert streaming in ([], [2])
        return {name: [1.0 if streaming and name == "state bfloat16" else 1.35] for name in steps}

    monkeypatch.setattr(precision_bench, "time_turns", time_turns)
    monkeypatch.setattr(precision_bench, "others_stream", others_stream)
    schuss.set_num_threads(3)
    assert cli.main(["bench", "--busy", "--json", str(tmp_path / "b.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [precision_bench.SENTENCE, "Here: state bfloat16 nears it, state int8 does not."]
    (line,) = (line.split() for line in lines if line.startswith("  state bfloat16") and line.count(".") == 3)
    assert line[-3:] == ["1.40", "1.00", "1.35"]
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["busy"] for row in rows] == [False] * len(OF_OURS) + [True] * len(OF_OURS)
    assert {row["threads"] for row in rows} == {1}
    schuss.set_num_threads(1)
    assert cli.main(["bench", "--busy"]) == 2
    assert "--busy needs 2 threads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ratio", "alone", "beside", "near"),
    [(1.4, 1.0, 1.3, True), (1.4, 0.77, 0.72, False), (1.4, 1.4, 1.38, True), (1.4, 1.0, 1.15, False)],
)
def test_whether_a_gain_nears_the_ratio_of_bytes(ratio, alone, beside, near):
    assert precision_bench.nears(ratio, alone, beside) is near
