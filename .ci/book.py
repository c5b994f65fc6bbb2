"""Run the textbook's scripts in full, with its own code and with ours by turns: the table of docs/textbook.md.

Usage: book.py CHECKOUT MNIST: a checkout of the book's code, and a directory with the four files of MNIST.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_textbook import OURS, RUN, put_in_place, two_copies  # noqa: E402

SCRIPTS = {
    "ch04/train_neuralnet": "test accuracy",
    "ch05/train_neuralnet": "test accuracy",
    "ch06/optimizer_compare_mnist": "Adam's loss at iteration 1,900",
    "ch06/weight_init_compare": "the loss from He's weights, at iteration 1,900",
    "ch06/batch_norm_test": "accuracies of the last of 16 pairs",
    "ch06/overfit_weight_decay": "test accuracy",
    "ch06/overfit_dropout": "test accuracy",
    "ch06/hyperparameter_optimization": "the best of 100 validation accuracies",
}


def run(script: Path) -> tuple[str, float]:
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, str(script)], capture_output=True, text=True, check=True)
    return done.stdout, time.perf_counter() - begin


def said(script: str, out: str) -> str:
    """The number that the script ends with."""
    lines = [line for line in out.splitlines() if re.search(r"\d\.\d", line) and not line.startswith("[")]
    if script.endswith("hyperparameter_optimization"):
        (best,) = (line for line in lines if line.startswith("Best-1("))
        return re.search(r"acc:([\d.]+)", best)[1]
    if script.endswith("batch_norm_test"):
        return lines[-1].partition("| ")[2]
    if script.endswith("overfit_weight_decay"):
        return lines[-1].rpartition("acc:")[2]
    return re.findall(r"\d\.\d+(?:e-?\d+)?", lines[-1])[-1]


checkout, mnist = map(Path, sys.argv[1:])
with tempfile.TemporaryDirectory() as folder:
    theirs, ours = two_copies(checkout, Path(folder), mnist.parent)
    put_in_place(ours, r"^from (common|dataset)(\.\w+)? import .*$", OURS, "ch0[456]/*.py")
    print("| script | what it ends with | the book's code | ours | seconds, the book's | ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    for script, what in SCRIPTS.items():
        (out, first), (again, second) = (run(copy / f"{script}.py") for copy in (theirs, ours))
        cells = (script, what, said(script, out), said(script, again), f"{first:.0f}", f"{second:.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)
