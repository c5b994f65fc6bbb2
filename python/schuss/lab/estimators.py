"""The benchmark of scikit-learn's perceptron: its own, and ours with the same settings, on digits.

Both take the same steps from the same seed, of the textbook's Adam; each is trained by itself, by turns. Beside them
stands what the matrix products alone take, which are the same for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np

from .. import threads
from .._extras import need
from ..datasets import load_mnist, mnist_name

HIDDEN, BATCH = 100, 200  # scikit-learn's defaults


@dataclass(frozen=True)
class Row:
    """A training: seconds of a median turn, and of its matrix products; the share of the test set that is right."""

    case: str
    dtype: str
    contender: str
    epochs: int
    median: float
    over_ours: float
    products: float
    accuracy: float


def _data() -> dict[str, tuple[Any, Any, Any, Any, int]]:
    """Training and test sets by name, and for how many epochs."""
    datasets = need("sklearn.datasets", "schuss bench --sklearn", package="scikit-learn", extra="sklearn")
    x, t = datasets.load_digits(return_X_y=True)
    (x_train, t_train), (x_test, t_test) = load_mnist()
    return {
        "scikit-learn's digits": (x[400:] / 16, t[400:], x[:400] / 16, t[:400], 40),
        mnist_name(): (x_train, t_train, x_test, t_test, 4),
    }


def _products(n: int, width: int, classes: int, epochs: int, dtype: str) -> float:
    """Seconds of the matrix products of a training, with nothing between them."""
    x, hidden, scores = (np.ones((BATCH, m), dtype) for m in (width, HIDDEN, classes))
    first, last = np.ones((width, HIDDEN), dtype), np.ones((HIDDEN, classes), dtype)
    y, z, back = np.empty_like(hidden), np.empty_like(scores), np.empty_like(hidden)
    iterations = epochs * -(-n // BATCH)
    begin = perf_counter()
    for _ in range(iterations):
        np.dot(x, first, out=y)
        np.dot(hidden, last, out=z)
        np.dot(hidden.T, scores, out=last)
        np.dot(scores, last.T, out=back)
        np.dot(x.T, hidden, out=first)
    return perf_counter() - begin


def run(quick: bool, show: Callable[[str], None]) -> list[Row]:
    """Time all trainings, five times each, and print them."""
    sklearn = need("sklearn", "schuss bench --sklearn", package="scikit-learn", extra="sklearn")
    from sklearn.neural_network import MLPClassifier as Theirs

    from ..sklearn import MLPClassifier as Ours

    rows: list[Row] = []
    show(f"\nMLPClassifier, {HIDDEN} hidden neurons, batches of {BATCH}, {threads.get_num_threads()} thread(s)")
    show(f"  {'':34} {'':8} {'':22} {'seconds':>8} {'over ours':>10} {'products':>9} {'accuracy':>9}")
    for case, (x, t, x_test, t_test, epochs) in _data().items():
        epochs = 1 if quick else epochs
        for dtype in ("float32", "float64"):
            data, test = x.astype(dtype), x_test.astype(dtype)
            given: dict[str, Any] = {"random_state": 0, "max_iter": epochs}
            models: dict[str, Any] = {
                "schuss.sklearn": Ours(optimizer="Adam(eps_hat=1e-8)", **given),
                f"scikit-learn {sklearn.__version__}": Theirs(**given),
            }
            seconds: dict[str, list[float]] = {name: [] for name in models}
            accuracy = {}
            products = []
            for _ in range(1 if quick else 5):
                for name, model in models.items():
                    sleep(0.06)  # in which the threads of the one before fall asleep
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that it has not converged
                        begin = perf_counter()
                        model.fit(data, t)
                        seconds[name].append(perf_counter() - begin)
                    accuracy[name] = model.score(test, t_test)
                sleep(0.06)
                products.append(_products(len(x), x.shape[1], 10, epochs, dtype))
            medians = {name: float(np.median(times)) for name, times in seconds.items()}
            alone = float(np.median(products))
            for name, median in medians.items():
                over = median / medians["schuss.sklearn"]
                rows.append(Row(case, dtype, name, epochs, median, over, alone, accuracy[name]))
                show(
                    f"  {case:34} {dtype:8} {name:22} {median:>8.3f} {over:>10.2f} {alone:>9.3f} {accuracy[name]:>9.4f}"
                )
    return rows
