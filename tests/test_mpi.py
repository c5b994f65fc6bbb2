"""Sharded over MPI: the same bits on any number of ranks; an error of one is an error of all; checkpoints in shards."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import schuss

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.skipif(find_spec("mpi4py") is None, reason="mpi4py is not installed (extra mpi)"),
    pytest.mark.skipif(
        not (BIN / "mpiexec").exists() and shutil.which("mpiexec") is None, reason="there is no mpiexec here"
    ),
]
LONG = "AdamW,Momentum,LAMB,Adafactor,Muon"
RULES = "AdamW,Momentum,LAMB,LARS,Adafactor,Muon,NAdam,ScheduleFreeAdamW,Own,int8,bfloat16,Muon int8"
SEVERAL = "Muon and others,AdamW and LAMB"
SMALL = "16 bits,16 bits int8,16 bits LAMB,16 bits gradients,16 bits Muon"


def command(ranks: int, *arguments: object) -> list[str]:
    mpiexec = BIN / "mpiexec" if (BIN / "mpiexec").exists() else "mpiexec"
    return [str(each) for each in (mpiexec, "-n", ranks, *arguments)]


def work(ranks: int, name: str, *arguments: object) -> list[str]:
    return command(ranks, sys.executable, "-m", "mpi4py", HERE / "over_ranks.py", name, *arguments)


def run(ranks: int, name: str, *arguments: object, seconds: float = 100) -> None:
    """Let ranks work; they are through within a time, and all of them well."""
    done = subprocess.run(work(ranks, name, *arguments), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def started(name: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(work(2, name, path), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.fixture
def thoroughly(request) -> bool:
    return request.config.getoption("--thorough")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_the_same_bits_as_one_process(ranks, thoroughly):
    """Parameters and state after some steps, with the same eight parts for each number of ranks."""
    run(ranks, "same_bits", f"{RULES},{SEVERAL},{SMALL}", 6, 8)
    if thoroughly:
        run(ranks, "same_bits", LONG, 200, 8, seconds=600)


@pytest.mark.parametrize("order", ["Fortran", "strided", "backwards"])
def test_arrays_that_lie_otherwise(order):
    run(3, "same_bits", "AdamW,LAMB,Adafactor,16 bits gradients", 5, 5, "sum", order)


@pytest.mark.parametrize(("ranks", "parts"), [(1, 1), (1, 6), (3, 3), (4, 6)])
def test_gradients_travel_as_bfloat16(ranks, parts):
    """Each part's are rounded, and none of the sums, whoever has made them."""
    run(ranks, "same_bits", f"AdamW,Muon,{SMALL}", 5, parts, "mean", "C", "tree", "bfloat16")


def test_the_sum_of_mpi_is_near():
    run(3, "same_bits", "AdamW,Momentum,16 bits gradients", 3, 6, "mean", "C", "mpi")


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_gradients_by_rows(ranks):
    run(ranks, "by_rows", 8)


@pytest.mark.parametrize("ranks", [1, 3])
def test_what_is_refused_changes_nothing(ranks):
    run(ranks, "refusals")


def test_ranks_that_do_other_things_are_told(tmp_path):
    run(3, "ranks_that_do_other_things", tmp_path)


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_what_was_found(tmp_path, ranks):
    run(ranks, "what_was_found", tmp_path)


def test_interrupted_at_each_point_of_a_save(tmp_path):
    run(3, "interrupted_saves", tmp_path)


@pytest.mark.parametrize("rule", ["Momentum", "LARS", "Muon", "Muon and others"])
def test_raising_at_each_point_of_a_step(rule):
    run(3, "raising", rule)


def test_a_rank_that_is_killed_ends_all():
    start = time.monotonic()
    done = subprocess.run(work(3, "killed", 2), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "went on without" not in done.stderr
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("ranks", [1, 4])
def test_memory_and_bytes(ranks):
    run(ranks, "memory")
    run(ranks, "bytes_of_16_bits")


def test_saved_with_8_gone_on_with_3_and_2(tmp_path):
    """And in one process all the way; the checkpoints hold the same."""
    one, many = tmp_path / "one", tmp_path / "many"
    for folder, ranks in ((many, (8, 3, 2)), (one, (1, 1, 1))):
        folder.mkdir()
        for n, (first, last) in zip(ranks, ((0, 3), (3, 5), (5, 7)), strict=True):
            run(n, "goes_on", folder, first, last, 8)
    for file in one.glob("*.json"):
        (opt, params), (other, others) = schuss.load(file), schuss.load(many / file.name)
        assert opt.t == other.t == 7
        for name, p in params.items():
            assert p.tobytes() == others[name].tobytes()
        for name, slots in opt.state.items():
            for slot, array in slots.items():
                assert array.tobytes() == other.state[name][slot].tobytes()
        assert len(list(many.glob(f"{file.name}*"))) == 3  # the index, and a share of each rank


@pytest.mark.parametrize("ranks", [1, 3])
def test_from_one_process_and_back(tmp_path, ranks):
    run(ranks, "from_one_and_back", tmp_path)


@pytest.mark.parametrize("kills", [pytest.param(4, id="short"), pytest.param(100, id="long")])
def test_killed_at_any_moment_it_leaves_a_whole_checkpoint(tmp_path, request, kills):
    if kills > 4 and not request.config.getoption("--thorough"):
        pytest.skip("takes long: run with --thorough")
    path, rng, last = tmp_path / "run.json", random.Random(0), 0
    for _ in range(kills):
        with started("saves_and_is_killed", path) as ranks:
            pids = json.loads(ranks.stdout.readline())
            ranks.stdout.readline()  # the first save is through
            time.sleep(rng.uniform(0, 0.06))
            os.kill(rng.choice(pids), signal.SIGKILL)
            ranks.communicate(timeout=30)
        opt, params = schuss.load(path)
        value = params["W"][0]
        assert value >= 1
        assert opt.t == 1
        for name, p in params.items():
            assert (p == value).all()
            assert (opt.state[name]["v"] == -value).all()
        last = max(last, value)
    assert last > 1
    # What the killed ones have left is gone with the next save.
    with started("saves_without_end", path) as ranks:
        ranks.stdout.readline()
        ranks.send_signal(signal.SIGTERM)
        ranks.communicate(timeout=30)
    assert len(list(tmp_path.glob("run.json.*"))) <= 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("ranks", [1, 2])
def test_state_in_files_beside_a_limit_of_memory(tmp_path, ranks):
    run(ranks, "beside_memory", tmp_path)


def test_training_over_ranks_is_training_in_parts(tmp_path):
    """The same losses, accuracies and network, bit for bit; rank 0 alone tells of it."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 240), ("t10k", 60)):
        for kind, data in (("images-idx3", rng.integers(0, 256, (n, 28, 28))), ("labels-idx1", rng.integers(0, 10, n))):
            header = b"\0\0\x08" + bytes([data.ndim]) + np.array(data.shape, ">i4").tobytes()
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(header + data.astype(np.uint8).tobytes())
    found = []
    for ranks, parts in ((4, ()), (1, ("--parts", 4)), (3, ("--parts", 4))):
        out = tmp_path / f"out{ranks}"
        training = ["train", "mnist", "--epochs", 2, "--hidden", 8, "--batch-size", 50, "--json", *parts]
        where = ["--data-dir", tmp_path, "--out", out]
        arguments = command(ranks, sys.executable, "-m", "schuss", *training, *where)
        done = subprocess.run(arguments, capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result.pop("files")
        assert done.stderr.count(b"epoch  1") == 1
        with np.load(out / "mnist_network.npz") as network:
            found.append((result, {name: network[name].tobytes() for name in network}))
    assert found[0] == found[1] == found[2]


def test_the_loop_of_the_page_prints_the_same_on_any_number_of_ranks(tmp_path):
    page = (HERE.parent / "docs" / "scale.md").read_text(encoding="utf-8")
    code = re.search(r"## A whole training loop.*?```python\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "train.py").write_text(code)
    found = {
        ranks: subprocess.run(
            command(ranks, sys.executable, tmp_path / "train.py"), capture_output=True, text=True, timeout=100
        ).stdout
        for ranks in (1, 4)
    }
    assert found[1] == found[4]
    losses = [float(line.split()[1]) for line in found[1].splitlines()]
    assert len(losses) == 5
    assert losses[-1] < losses[0] / 2


def test_bench(tmp_path):
    file = tmp_path / "bench.json"
    done = subprocess.run(
        command(2, sys.executable, "-m", "schuss", "bench", "--mpi", "--quick", "--json", file),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "these are bytes and checks, not how it scales" in done.stdout
    assert "all ranks have the same bits: False" not in done.stdout
    rows = json.loads(file.read_text())["rows"]
    assert {row["way"] for row in rows} == {"sharded", "sharded, mpi's sum", "replicated", "sharded, bfloat16"}
    least = {row["way"]: row["least"] for row in rows}
    assert least["sharded, bfloat16"] == least["sharded"] / 2
    assert all(row["received"] == row["least"] for row in rows if row["way"] in ("sharded", "sharded, bfloat16"))
