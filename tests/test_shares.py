"""How parameters are cut among ranks, in which order sums are made, and what a checkpoint in shards lets in: no MPI."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import _core, cli, memory, threads
from schuss.lab import scale
from schuss.shards import Index, write_index, write_share
from schuss.shares import BLOCK, Piece, Shares, Tensor
from schuss.states import without_arrays
from schuss.trees import add_arrays, additions, subtree_sum, subtrees, total


def by_pairs(leaves):
    leaves = list(leaves)
    while len(leaves) > 1:
        pairs = [a + b for a, b in zip(leaves[::2], leaves[1::2], strict=False)]
        leaves = [*pairs, *leaves[len(pairs) * 2 :]]
    return leaves[0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 13, 16, 31, 64])
def test_a_sum_does_not_depend_on_who_has_which_leaves(n):
    rng = random.Random(n)
    for ranks in (1, 2, 3, 5, 8):
        leaves = np.array([rng.uniform(-1, 1) * 10 ** rng.randint(-8, 8) for _ in range(n)])
        ends = [0, *sorted(rng.choices(range(n + 1), k=ranks - 1)), n]
        whole = [each for a, b in itertools.pairwise(ends) for each in subtrees(a, b, n)]
        assert [a for a, _ in whole[1:]] == [b for _, b in whole[:-1]]
        sums = [subtree_sum(leaves[a:b]) for a, b in whole]
        assert total(sums, whole, n) == by_pairs(leaves)
        for keep in (True, False):
            arrays, out = [np.array([s, -s]) for s in sums], np.empty(2)
            add_arrays(arrays, additions(tuple(whole), n), out, keep=keep)
            assert out.tolist() == [by_pairs(leaves), -by_pairs(leaves)]
            assert not keep or [a[0] for a in arrays] == sums


def test_a_sum_of_blocks_is_the_cores():
    """The norm that an update tells is made in this order."""
    for n in (1, 1023, 1024, 1025, 3000, 20_000):
        g = np.random.default_rng(n).standard_normal(n)
        opt = schuss.SGD(clip_norm=1.0)
        opt.update({"W": np.zeros(n)}, {"W": g})
        lanes = [np.zeros(16) for _ in range(-(-n // BLOCK))]
        for i, x in enumerate(g):
            lanes[i // BLOCK][i % BLOCK % 16] += x * x
        blocks = []
        for sums in lanes:
            while len(sums) > 1:
                sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
            blocks.append(sums[0])
        assert opt.last_grad_norm == np.sqrt(subtree_sum(np.array(blocks)))


def some_tensors(rng):
    tensors = []
    for i in range(rng.integers(1, 9)):
        shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 60, rng.integers(0, 4)))
        p = np.zeros(shape, rng.choice([np.float32, np.float64]))
        if p.ndim > 1 and rng.random() < 0.5:
            p = np.zeros(shape[::-1], p.dtype).T
        if p.ndim and rng.random() < 0.3:
            p = p[::-1]
        tensors.append(Tensor.of(i, p, by_rows=p.ndim > 0 and rng.random() < 0.2))
        assert tensors[-1].walk(p).flags.c_contiguous
        values = rng.standard_normal(shape)
        assert_same_bits(tensors[-1].walked(tensors[-1].walk(values).reshape(-1)), values)
    return tensors


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_all_of_the_row_cut_between_blocks_and_alike_in_size(seed):
    rng = np.random.default_rng(seed)
    tensors = some_tensors(rng)
    whole = sum(t.size * t.itemsize for t in tensors)
    for ranks, uncut in itertools.product((1, 2, 3, 8), (False, True)):
        shares = Shares(tensors, ranks, whole=uncut)
        for i, tensor in enumerate(tensors):
            pieces = sorted(p for some in shares.pieces for p in some if p.tensor == i)
            ends = [0, *(p.last for p in pieces)]
            assert ends == [*(p.first for p in pieces), tensor.size]
            assert all(p.first % tensor.grain == 0 for p in pieces)
            assert not uncut or len(pieces) <= 1
        sizes = [shares.nbytes(rank) for rank in range(ranks)]
        assert sum(sizes) == whole
        largest = max(t.size * t.itemsize for t in tensors) if uncut else 8 * max(t.grain for t in tensors)
        assert max(sizes) <= whole / ranks + largest
        buckets = shares.buckets(int(rng.integers(1, 200_000)), lambda i: i % 3 != 1)
        for rank in range(ranks):
            moved = [p for bucket in buckets for p in bucket.pieces[rank]]
            joined = []
            for p in moved:
                if joined and joined[-1].tensor == p.tensor and joined[-1].last == p.first:
                    joined[-1] = Piece(p.tensor, joined[-1].first, p.last)
                else:
                    joined.append(p)
            assert joined == [p for p in shares.pieces[rank] if p.tensor % 3 != 1]


def test_check_refuses_what_update_does_and_changes_nothing():
    room = np.ones(8)
    read_only = np.ones(3)
    read_only.flags.writeable = False
    bad = [
        ({"a": np.ones(3)}, {"b": np.ones(3)}, "must have the same names"),
        ({"a": np.ones(3)}, {"a": np.ones(4)}, "has shape (4,)"),
        ({"a": np.ones(3)}, {"a": np.ones(3, np.float32)}, "is float32"),
        ({"a": read_only}, {"a": np.ones(3)}, "read-only"),
        ({"a": room[:5], "b": room[4:]}, {"a": np.ones(5), "b": np.ones(4)}, "overlap in memory"),
        ({"a": room}, {"a": room}, "overlap in memory"),
        ({"a": np.ones((3, 2))}, {"a": schuss.Rows(np.array([3]), np.ones((1, 2)))}, "3"),
    ]
    for params, grads, text in bad:
        for refuse in (_core.check, schuss.SGD().update):
            with pytest.raises((TypeError, ValueError), match=re.escape(text)):
                refuse(params, grads)
    _core.check({"a": room}, {"a": np.ones(8)})
    _core.check({"a": room}, {"a": None})
    assert (room == 1).all()


class Alone:
    """All of a row, in stretches; and what was asked for."""

    def __init__(self, windows):
        self.windows, self.calls = windows, []

    def survey(self, finite, sums):
        self.calls.append(("survey", finite))
        return float(np.sqrt(subtree_sum(np.array([subtree_sum(each) for each in sums])))), None

    def ready(self, scalars):
        self.calls.append(("ready", len(scalars)))

    def norms(self, p, u):
        self.calls.append(("norms", len(p)))
        return [(np.sqrt(subtree_sum(a)), np.sqrt(subtree_sum(b))) for a, b in zip(p, u, strict=True)]

    def before(self, i):
        self.calls.append(("before", i))

    def after(self, i):
        self.calls.append(("after", i))


@pytest.mark.parametrize("make", [lambda: schuss.Adam(clip_norm=1.0), lambda: schuss.LAMB(), lambda: schuss.Momentum()])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_a_share_is_stepped_in_stretches(make, n_threads):
    schuss.set_num_threads(n_threads, grain=1)
    rng = np.random.default_rng(0)
    params, whole = ({"a": np.ones(5000, np.float32), "b": np.ones((3, 700))} for _ in range(2))
    grads = {name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in params.items()}
    share, opt = make(), make()
    ends = [4096, 4096, 16384, 20_000, 20_000 + 8192, 20_000 + 16_800]
    for _ in range(3):
        ranks = Alone(ends)
        share._engine.update_share(share, params, grads, 1.0, ranks)
        opt.update(whole, grads)
        for name, p in whole.items():
            assert_same_bits(params[name], p)
            for slot, array in opt.state[name].items():
                assert_same_bits(share.state[name][slot], array)
    assert share.last_grad_norm == opt.last_grad_norm
    begin = [name for name, *_ in ranks.calls[: -2 * len(ends)]]
    expected = ["survey"] if opt.clip_norm else []
    assert begin == [*expected, "ready", *(["norms"] if opt._looks_at == "norms" else [])]
    assert ranks.calls[-2 * len(ends) :] == [(name, i) for i in range(len(ends)) for name in ("before", "after")]


def test_nothing_is_written_where_not_all_are_ready():
    for make in (schuss.Adam, schuss.LAMB, schuss.Adafactor):
        params = {"a": np.ones(3000)}
        opt, ranks = make(), Alone([24_000])

        def not_ready(scalars):
            raise KeyError("another rank")

        ranks.ready = not_ready
        with pytest.raises(KeyError):
            opt._engine.update_share(opt, params, {"a": np.ones(3000)}, 1.0, ranks)
        assert (params["a"] == 1).all()
        assert opt.t == 0
        assert not opt.state


@pytest.mark.parametrize("windows", [[8], [24_000, 8]])
def test_stretches_that_do_not_end_where_the_row_does_are_refused(windows):
    opt = schuss.SGD()
    with pytest.raises(ValueError, match="windows: the last must end where the row does"):
        opt._engine.update_share(opt, {"a": np.ones(3000)}, {"a": np.ones(3000)}, 1.0, Alone(windows))


# Memory in files.


def test_state_in_files_has_the_same_bits_and_leaves_no_name(tmp_path):
    params, whole = ({"W": np.ones((100, 70), np.float32), "b": np.ones(3)} for _ in range(2))
    opt, other = schuss.Adam(ema=0.9), schuss.Adam(ema=0.9)
    for t in range(3):
        grads = {name: np.full_like(p, t + 0.5) for name, p in params.items()}
        with memory.in_files(tmp_path):
            opt.update(params, grads)
        other.update(whole, grads)
    assert list(tmp_path.iterdir()) == []
    for name, slots in other.state.items():
        assert_same_bits(params[name], whole[name])
        for slot, array in slots.items():
            assert_same_bits(opt.state[name][slot], array)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc on this system")
def test_it_is_the_files_memory(tmp_path):
    with memory.in_files(tmp_path):
        array = memory.zeros_like(np.ones(100_000), 1)
    assert f"{tmp_path}/" in Path("/proc/self/maps").read_text()
    assert array.sum() == 0
    assert f"{tmp_path}/" not in str(memory.zeros_like(np.ones(100_000), 1).base)
    del array
    assert f"{tmp_path}/" not in Path("/proc/self/maps").read_text()


# Threads.


@pytest.mark.skipif(threads._usable_cpus() != threads.os.cpu_count(), reason="this process may not use all CPUs")
def test_the_ranks_of_a_machine_share_its_threads(monkeypatch):
    for name in ("SCHUSS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: None)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "_usable_cpus", lambda: 8)
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        for ranks, expected in (("1", 8), ("2", 4), ("3", 2), ("16", 1), ("x", 8)):
            monkeypatch.setenv(name, ranks)
            assert threads._decide()[0] == expected
        assert threads._decide()[1] == "CPU affinity"
        monkeypatch.setenv(name, "4")
        assert threads._decide() == (2, "CPU affinity, for 4 ranks of MPI")
        monkeypatch.setattr(threads, "_cgroup_quota", lambda: 6.0)
        assert threads._decide() == (1, "cgroup CPU quota, for 4 ranks of MPI")
        monkeypatch.setattr(threads, "_cgroup_quota", lambda: None)
        monkeypatch.setattr(threads, "_usable_cpus", lambda: 3)  # the launcher has given each its own
        assert threads._decide()[0] == 3
        monkeypatch.setattr(threads, "_usable_cpus", lambda: 8)
        monkeypatch.delenv(name)


# Checkpoints in shards, as two ranks write them.


@pytest.fixture
def shards(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    opt, params = schuss.Momentum(), {"W": np.arange(3000.0).reshape(3, 1000), 7: np.ones((), np.float32)}
    opt.update(params, {name: np.full_like(p, 2) for name, p in params.items()})
    return save(tmp_path / "run.json", opt, params), opt, params


def save(path, opt, params, ranks=2):
    shares = Shares([Tensor.of(name, p) for name, p in params.items()], ranks)
    written = []
    for rank in range(ranks):
        pieces = shares.pieces[rank]

        def cut(arrays, piece):
            name = shares.tensors[piece.tensor].name
            return shares.tensors[piece.tensor].line(arrays[name])[piece.slice]

        state = [{"v": cut({n: s["v"] for n, s in opt.state.items()}, piece)} for piece in pieces]
        token = f"{opt.t:016x}"
        written.append(write_share(path, token, rank, ranks, pieces, state, [cut(params, piece) for piece in pieces]))
    sharing = {"parts": ranks, "weight": "mean", "reduction": "tree"}
    document = {**without_arrays(opt), "sharing": sharing, "list": False, "params": True, "whole": False}
    write_index(path, document, shares.tensors, written)
    return path


def test_shards_are_read_in_one_process(shards):
    path, opt, params = shards
    again, found = schuss.load(path)
    assert list(found) == ["W", 7]
    for name, p in params.items():
        assert_same_bits(found[name], p)
        assert_same_bits(again.state[name]["v"], opt.state[name]["v"])
    assert again.t == 1


def test_shares_that_no_index_names_go_with_the_next_save(shards):
    path, opt, params = shards
    others = [path.with_name("run.json.safetensors"), path.with_name("other.json.0123456789abcdef.0-of-2.safetensors")]
    for other in others:
        other.write_bytes(b"")
    opt.update(params, {name: np.full_like(p, 2) for name, p in params.items()})
    save(path, opt, params, 1)
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(
        ["run.json", "run.json.0000000000000002.0-of-1.safetensors", *(other.name for other in others)]
    )


def changed(path, change):
    """The index with another document, and the checksum that belongs to it."""
    document = json.loads(path.read_text())["schuss.shares"]
    change(document)
    text = json.dumps(document)
    path.write_text(f'{{"schuss.shares": {text},\n"crc32": {zlib.crc32(text.encode())}}}\n')


HOSTILE = {
    "another version": lambda d: d.update(version=9),
    "no tensors": lambda d: d.pop("tensors"),
    "a tensor twice": lambda d: d["tensors"].append(d["tensors"][0]),
    "a name that is none": lambda d: d["tensors"][0].__setitem__(0, 1.5),
    "a shape below zero": lambda d: d["tensors"][0].__setitem__(1, [-3, -1000]),
    "a shape beyond all memory": lambda d: d["tensors"][0].__setitem__(1, [2**40, 2**40]),
    "another shape": lambda d: d["tensors"][0].__setitem__(1, [3, 999]),
    "a dtype that is none": lambda d: d["tensors"][0].__setitem__(2, "object"),
    "another dtype": lambda d: d["tensors"][0].__setitem__(2, "float32"),
    "axes that are none": lambda d: d["tensors"][0].__setitem__(3, [0, 5]),
    "a file elsewhere": lambda d: d["files"][0].update(file="../run.json.0000000000000001.0-of-2.safetensors"),
    "a file of another name": lambda d: d["files"][0].update(file="/etc/passwd"),
    "a file twice": lambda d: d["files"].__setitem__(1, d["files"][0]),
    "a file too few": lambda d: d["files"].pop(),
    "a piece of no tensor": lambda d: d["files"][0]["pieces"][0].__setitem__(0, 5),
    "a piece too long": lambda d: d["files"][0]["pieces"][0].__setitem__(2, 2**40),
    "a piece before the first": lambda d: d["files"][0]["pieces"][0].__setitem__(1, -1),
    "other slots": lambda d: d["files"][0]["slots"].__setitem__(0, ["w"]),
    "slots of no class": lambda d: [f["slots"].__setitem__(slice(None), [["w"]] * len(f["slots"])) for f in d["files"]],
    "a class that is none": lambda d: d.update({"class": "os.system"}),
    "no arguments": lambda d: d.update(arguments={}),
    "whole though cut": lambda d: d.update(whole=True),
    "a list of files": lambda d: d.update(files=3),
    "no word of the parts": lambda d: d.pop("sharing"),
    "too little of the parts": lambda d: d.update(sharing={}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_indices_are_refused(shards, kind):
    path, _, _ = shards
    changed(path, HOSTILE[kind])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        schuss.load(path)


def test_a_share_that_is_not_as_it_was_is_refused(shards):
    path, _, _ = shards
    file = next(path.parent.glob("*.0-of-2.safetensors"))
    data = file.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 60)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(ValueError, match=r"0-of-2\.safetensors is not a whole share of a checkpoint"):
            schuss.load(path)
        file.write_bytes(data[:place])
        with pytest.raises(ValueError, match=r"0-of-2\.safetensors is not a whole share of a checkpoint"):
            schuss.load(path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="0-of-2"):
        schuss.load(path)


def test_a_share_that_is_cut_short_while_it_is_read_is_told(shards):
    path, _, _ = shards
    file = next(path.parent.glob("*.0-of-2.safetensors"))
    with Index.read(path) as index:
        os.truncate(file, file.stat().st_size - 8)
        with pytest.raises(ValueError, match="is not a whole share of a checkpoint"):
            [index.whole_param(i) for i in range(2)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_in_place_of_a_share_is_not_waited_for(shards):
    path, _, _ = shards
    file = next(path.parent.glob("*.0-of-2.safetensors"))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="it is not a regular file"):
        schuss.load(path)


def test_a_checkpoint_of_one_process_takes_the_place_of_shards(shards):
    path, _, params = shards
    opt = schuss.SGD()
    opt.save(path, params)
    assert [each.name for each in path.parent.iterdir()] == ["run.json"]
    assert_same_bits(schuss.load(path).params["W"], params["W"])


def test_an_index_that_is_not_as_it_was_is_refused(shards):
    path, _, _ = shards
    data = path.read_bytes()
    for place in range(0, len(data) - 1, 7):
        for wrong in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]):
            path.write_bytes(wrong)
            with pytest.raises(ValueError, match=re.escape(str(path))):
                schuss.load(path)


def test_an_index_whose_shares_go_while_it_is_read_is_read_anew(shards, monkeypatch):
    path, opt, params = shards
    opened, saves = Index._opened, iter([True, True])

    def slowly(self, number):
        if next(saves, False):
            opt.update(params, {name: np.full_like(p, 2) for name, p in params.items()})
            save(path, opt, params)
        return opened(self, number)

    monkeypatch.setattr(Index, "_opened", slowly)
    again, found = schuss.load(path)
    assert again.t == opt.t == 3
    assert_same_bits(found["W"], params["W"])


class WithoutMPI:
    """As where mpi4py is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mpi4py":
            raise ModuleNotFoundError(f"No module named {name!r}", name="mpi4py")


def test_without_mpi4py_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpi4py"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutMPI(), *sys.meta_path])
    with pytest.raises(ImportError, match=r'schuss\.mpi needs mpi4py: pip install "schuss\[mpi\]"'):
        schuss.mpi.Sharded(schuss.SGD())
    for argv in (["bench", "--mpi"], ["train", "mnist", "--parts", "2", "--out", str(tmp_path)]):
        assert cli.main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith('needs mpi4py: pip install "schuss[mpi]"')


def test_what_a_step_over_ranks_needs_is_printed(capsys):
    assert cli.main(["scale", "--parameters", "1e9", "--ranks", "8"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:2] == ["parameters", "ranks"]
    assert " ".join(out.splitlines()[1].split()).startswith("1e9 8 7 GB 1 GB")
    assert cli.main(["scale", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 12


# What many ranks need, on paper.


def test_the_formulae():
    job = scale.Job(1e9, 8)
    assert (job.size, job.least_bytes, job.state) == (4e9, 7e9, 1e9)
    assert job.memory == 8e9 + 1e9 + 0.5e9 + 6.25 * (32 << 20)
    assert scale.Job(1e9, 1).least_bytes == 0


def test_the_simulation_is_between_its_bounds():
    """No part can be faster than by itself; at best all but the longest are hidden, at worst none is."""
    for n, ranks, network, norms in itertools.product((1e7, 1e9), (1, 2, 8, 64), (1e9, 1e10, 1e12), (False, True)):
        for by_itself in (False, True):
            job, machine = scale.Job(n, ranks, norms=norms), scale.Machine(network, 5e10, by_itself=by_itself)
            times = scale.simulated(job, machine)
            apart = times.reduce + times.step + times.gather
            assert times.total <= apart * 1.001 + norms * job.size / 5e10
            assert times.total >= max(job.least_bytes / network, job.step_bytes / 5e10) * 0.999
            assert by_itself or times.total >= apart * 0.999


def test_one_bucket_by_hand():
    """Pack 2, move, add 3, step, pack, move, unpack: nothing overlaps."""
    job, machine = scale.Job(1e6, 4, bucket=1e9), scale.Machine(1e9, 1e10, latency=1e-3)
    size = 4e6
    moves = 2 * (size * 3 / 4 / 1e9 + 1e-3)
    expected = (2 * size + 3 * size + 7 * size / 4 + 2 * size / 4 + 2 * size * 3 / 4) / 1e10 + moves
    assert scale.simulated(job, machine).total == pytest.approx(expected)


def test_the_page_has_the_table_that_the_simulation_gives():
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    cases = list(itertools.product(scale.SIZES, scale.RANKS))
    rows = scale.table(cases, scale.Machine(12.5e9, 1e11, 2e-5))
    assert len(rows) == 12
    for row in rows:
        assert "| " + " | ".join(row) + " |" in page, row
