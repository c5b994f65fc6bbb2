"""The comparisons: what each optimizer does on the same problem. They compute, and return results.

Ctrl-C ends an experiment with what was done so far: its result then says that it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import optimizers, reference
from .nn import MultiLayerNet

Array = NDArray[Any]
Table = Mapping[str, type[Any]]


@dataclass
class Path:
    """One optimizer's way down f(x, y) = x^2 / 20 + y^2."""

    name: str
    lr: float
    points: list[tuple[float, float]]
    scaled: bool

    @property
    def end_value(self) -> float:
        """Value of f where it ended."""
        x, y = self.points[-1]
        return x * x + y * y if self.scaled else x * x / 20 + y * y


# The textbook's learning rates; those of Nesterov and RMSprop are chosen so that their ways can be compared.
PATH_LR = {"SGD": 0.95, "Momentum": 0.1, "Nesterov": 0.1, "AdaGrad": 1.5, "RMSprop": 0.1, "Adam": 0.3}
PATH_START = (-7.0, 2.0)


def path(names: Sequence[str], *, steps: int = 30, scaled: bool = False) -> list[Path]:
    """Follow each optimizer down the textbook's valley, "Deep Learning from Scratch", 6.1.

    Parameters
    ----------
    names : sequence of str
    steps : int
    scaled : bool
        With x measured in units of sqrt(20): f(u, y) = u^2 + y^2, whose contours are circles.
    """
    unit = sqrt(20) if scaled else 1.0
    curvature = 2.0 if scaled else 0.1
    ways = []
    for name in names:
        opt = optimizers.OPTIMIZERS[name](lr=PATH_LR[name])
        params = {"x": PATH_START[0] / unit, "y": PATH_START[1]}
        points = [(params["x"], params["y"])]
        for _ in range(steps):
            opt.update(params, {"x": curvature * params["x"], "y": 2.0 * params["y"]})
            points.append((params["x"], params["y"]))
        ways.append(Path(name, PATH_LR[name], points, scaled))
    return ways


@dataclass
class Run:
    """One optimizer's training: a loss per iteration, test accuracies, times in nanoseconds."""

    name: str
    losses: list[float] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)  # iterations done -> test accuracy
    gradient_ns: list[int] = field(default_factory=list)
    update_ns: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of training, without the tests

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last 100 iterations."""
        return float(np.mean(self.losses[-100:]))

    @property
    def accuracy(self) -> float | None:
        """The last test accuracy, if there was a test."""
        return list(self.accuracies.values())[-1] if self.accuracies else None


@dataclass
class Race:
    """All of a comparison's runs."""

    runs: list[Run]
    interrupted: bool = False


Data = tuple[tuple[Array, Array], tuple[Array, Array]]


def mnist(
    data: Data,
    names: Sequence[str],
    *,
    hidden: Sequence[int] = (100, 100, 100, 100),
    iterations: int = 2000,
    batch_size: int = 128,
    seed: int = 0,
    in_numpy: bool = False,
    watch: Callable[[Run], object] = lambda run: None,
) -> Race:
    """Train the same network on the same batches with each optimizer, "Deep Learning from Scratch", 6.1.8.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
        As from :func:`schuss.datasets.load_mnist`.
    names : sequence of str
        Optimizers, each with its own defaults.
    hidden : sequence of int
        Neurons of the hidden layers (ReLU, He's initial weights).
    iterations, batch_size, seed : int
        The seed gives the initial weights and the batches, the same for every optimizer.
    in_numpy : bool
        Step with :mod:`schuss.reference`: the same curves, bit for bit.
    watch : callable
        Called with the run after each iteration.
    """
    table: Table = reference.OPTIMIZERS if in_numpy else optimizers.OPTIMIZERS
    (x_train, t_train), test = data
    race = Race([])
    try:
        for name in names:
            run = Run(name)
            race.runs.append(run)
            net = MultiLayerNet(x_train.shape[1], hidden, 10, seed=seed)
            batches = np.random.default_rng(seed)
            opt = table[name]()
            for iteration in range(1, iterations + 1):
                begin = perf_counter_ns()
                batch = batches.integers(0, len(x_train), batch_size)
                x, t = x_train[batch], t_train[batch]
                drawn = perf_counter_ns()
                grads = net.gradient(x, t)
                computed = perf_counter_ns()
                opt.update(net.params, grads)
                end = perf_counter_ns()
                run.gradient_ns.append(computed - drawn)
                run.update_ns.append(end - computed)
                run.seconds += (end - begin) / 1e9
                run.losses.append(net.last_loss)
                if iteration % max(1, iterations // 20) == 0 or iteration == iterations:
                    run.accuracies[iteration] = net.accuracy(*test)
                watch(run)
    except KeyboardInterrupt:
        race.interrupted = True
    return race


@dataclass
class Fit:
    """One optimizer's linear regression: the mean loss every 100 examples and after an epoch."""

    name: str
    epochs: list[float]
    losses: list[float]

    @property
    def diverged(self) -> bool:
        """Whether it ended above where it began."""
        return not (isfinite(self.losses[-1]) and self.losses[-1] <= self.losses[0])


# Arguments of "Dive into Deep Learning", "Optimization Algorithms"; Nesterov shares those of Momentum.
REGRESSION_ARGUMENTS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.05},
    "Momentum": {"lr": 0.004, "momentum": 0.9},
    "Nesterov": {"lr": 0.004, "momentum": 0.9},
    "AdaGrad": {"lr": 0.1, "eps": 1e-6},
    "RMSprop": {"lr": 0.01, "decay_rate": 0.9, "eps": 1e-6},
    "Adam": {"lr": 0.01, "eps": 1e-6},
}


def regression(
    features: Array,
    target: Array,
    names: Sequence[str],
    *,
    epochs: int = 2,
    batch_size: int = 10,
    seed: int = 0,
) -> list[Fit]:
    """Fit a line by mini-batches with each optimizer, as in "Dive into Deep Learning", 7.8 (Adam).

    The loss of an example is half of its squared error.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    target : ndarray of shape (n,)
    names : sequence of str
    epochs, batch_size, seed : int
        The seed gives the initial weights and the order of the examples, the same for every optimizer.
    """
    n, d = features.shape

    def mean_loss(params: Mapping[str, Array]) -> float:
        return float(np.mean((features @ params["w"] + params["b"] - target) ** 2) / 2)

    fits = []
    for name in names:
        rng = np.random.default_rng(seed)
        params = {"w": rng.normal(0, 0.01, (d,)), "b": np.zeros(1)}
        opt = optimizers.OPTIMIZERS[name](**REGRESSION_ARGUMENTS[name])
        # Without scaling most of them diverge, which is what there is to see.
        with np.errstate(over="ignore", invalid="ignore"):
            fit = Fit(name, [0.0], [mean_loss(params)])
            for epoch in range(epochs):
                order = rng.permutation(n)
                for first in range(0, n, batch_size):
                    batch = order[first : first + batch_size]
                    error = features[batch] @ params["w"] + params["b"] - target[batch]
                    grads = {"w": features[batch].T @ error / len(batch), "b": error.mean(keepdims=True)}
                    opt.update(params, grads)
                    seen = first + len(batch)
                    if seen % 100 == 0 or seen == n:
                        fit.epochs.append(epoch + seen / n)
                        fit.losses.append(mean_loss(params))
        fits.append(fit)
    return fits
