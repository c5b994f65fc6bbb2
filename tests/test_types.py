"""What type checkers see: mypy and pyright both know the classes, and catch what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

GOOD = """
import numpy as np
import schuss

params = {"W": np.zeros(3), "b": np.zeros(1)}
opt = schuss.Adam(lr=1e-3, eps=1e-8, clip_norm=1.0, groups={"b": {"lr": 0.1}})
opt.update(params, {"W": np.ones(3), "b": None}, grad_scale=0.5)
opt.lr = schuss.schedules.Cosine(0.1, 100)
opt.lr = lambda t: 1 / t
opt.groups = {"W": {"beta1": 0.5}}
step: int = opt.t
average: float | None = opt.ema
m = opt.state["W"]["m"] * 2
opt.save("file", params)
again, found = schuss.load("file")
count: int = again.t
again.update(found, found)
free = schuss.ScheduleFreeAdamW(warmup=3)
x = free.averaged_params["W"]
schuss.set_num_threads(2, grain=1000)
schuss.functional.adam_(params["W"], params["W"], params["W"], params["W"], t=1, lr=0.1)
network = schuss.nn.MultiLayerNet(4, [8], 3, seed=0)
loss: float = network.last_loss


class Mine(schuss.Adam):
    def __init__(self, lr: float = 0.5) -> None:
        super().__init__(lr, beta1=0.5)


mine: Mine = Mine()
"""

BAD = """
import numpy as np
import schuss

params = {"W": np.zeros(3)}
opt = schuss.Adam()
schuss.Adam(lr="0.1")
schuss.Adam(beta3=0.5)
schuss.Adam(1e-3, clip_norm="1")
schuss.Adam(0.1, 0.9, 0.999, 1e-8)
schuss.SGD(momentum=0.9)
schuss.Lion(on_nonfinite="ignore")
schuss.Muon(nesterov=0.5)
opt.updat(params, params)
opt.update(params)
opt.update(params, params, 0.5)
opt.lr = "0.1"
opt.on_nonfinite = "never"
name: str = opt.t
opt.averaged_params
opt.state["W"]["m"].foo
schuss.schedules.Cosine("0.1", 100)
schuss.schedules.Cosine(0.1)
schuss.load(3)
schuss.load("file").optimizer.foo
schuss.set_num_threads("2")
schuss.Optimiser
schuss.nn.MultiLayerNet(4, 8, 3)
schuss.schedules.ReduceOnPlateau(0.1).report("x")
schuss.functional.adam_(1, 2, 3, 4, t=1, lr=0.1, beta4=0)
"""


def mypy(path):
    pytest.importorskip("mypy", reason="mypy is not installed (extra dev)")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(path.parent / "c"),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=path.parent)
    return {int(line) for line in re.findall(r"^\w+\.py:(\d+): error", done.stdout, re.MULTILINE)}, done.stdout


def pyright(path):
    pytest.importorskip("basedpyright", reason="basedpyright is not installed (extra dev)")
    (path.parent / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard", "pythonVersion": "3.10"}')
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=path.parent)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}, done.stdout


CHECKERS = pytest.mark.parametrize("checker", [mypy, pyright])


@CHECKERS
def test_right_use_is_taken(checker, tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    lines, output = checker(tmp_path / "good.py")
    assert lines == set(), output


@CHECKERS
def test_misuse_is_caught(checker, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    lines, output = checker(tmp_path / "bad.py")
    missed = [text for number, text in enumerate(BAD.splitlines(), 1) if number > 6 and number not in lines]
    assert missed == [], output


def test_almost_all_is_typed():
    pytest.importorskip("torch", reason="classes that inherit from PyTorch's have no types without it (extra torch)")
    pytest.importorskip("basedpyright", reason="basedpyright is not installed (extra dev)")
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "schuss", "--ignoreexternal"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert float(re.search(r"completeness score: ([\d.]+)%", done.stdout)[1]) >= 98, done.stdout[-3000:]
