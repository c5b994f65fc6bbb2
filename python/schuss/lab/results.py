"""What the experiments return: numbers, what was run, and a figure where a notebook shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..schedules import Schedule
from . import plots
from .setting import Setting

Array = NDArray[Any]

# What diverges shows it in its losses; NumPy's warnings of it would be no news.
overflows_are_seen: np.errstate = np.errstate(over="ignore", invalid="ignore")


Result = TypeVar("Result")


class Results(list[Result]):
    """What each has done, in their order; what was run; and whether Ctrl-C came before all was done."""

    setting: Setting
    interrupted: bool

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.setting = setting
        self.interrupted = False

    def _repr_png_(self) -> bytes | None:
        draw: dict[type, Any] = {Path: plots.path_figure, Fit: plots.regression_figure, Decay: plots.decay_figure}
        return plots.shown_in_notebook(draw[type(self[0])], self) if self else None


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


@dataclass
class Run:
    """One optimizer's training: a loss per iteration, test accuracies, times in nanoseconds."""

    name: str
    losses: list[float] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)  # iterations done -> test accuracy
    gradient_ns: list[int] = field(default_factory=list)
    update_ns: list[int] = field(default_factory=list)
    seconds: float = 0.0  # of training, without the tests
    seed: int = 0

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last 100 iterations."""
        return float(np.mean(self.losses[-100:]))

    @property
    def accuracy(self) -> float | None:
        """The last test accuracy, if there was a test."""
        return list(self.accuracies.values())[-1] if self.accuracies else None

    @property
    def diverged(self) -> bool:
        """Whether it ended with a loss that is no number, or so far above where it began that no batch explains it."""
        return not (isfinite(self.final_loss) and self.final_loss <= 2 * self.losses[0])


@dataclass
class Race:
    """All of a comparison's runs."""

    runs: list[Run]
    setting: Setting
    interrupted: bool = False

    def _repr_png_(self) -> bytes | None:
        return plots.shown_in_notebook(plots.race_loss_figure, self)


@dataclass
class Fit:
    """One optimizer's linear regression: the mean loss every 100 examples and after an epoch."""

    name: str
    epochs: list[float]
    losses: list[float]
    minimum: float  # of the mean loss: that of least squares
    seed: int = 0

    @property
    def diverged(self) -> bool:
        """Whether it ended above where it began."""
        return not (isfinite(self.losses[-1]) and self.losses[-1] <= self.losses[0])


@dataclass
class Decay:
    """One schedule's run of gradient descent: rate and loss by iteration."""

    name: str
    schedule: Schedule
    iterations: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # over the same examples each time
    minimum: float = 0.0  # of the loss, as far as it is known
    seed: int = 0

    @property
    def diverged(self) -> bool:
        """Whether it ended with a loss that is no number, or above where it began."""
        return not (isfinite(self.losses[-1]) and self.losses[-1] <= self.losses[0])

    @property
    @overflows_are_seen
    def wander(self) -> float:
        """Standard deviation of the last quarter's losses: how far it wanders around where it ends."""
        return float(np.std(self.losses[-max(1, len(self.losses) // 4) :]))

    @property
    def excess(self) -> float:
        """Mean of the last quarter's losses, above the minimum."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 4) :])) - self.minimum


@dataclass
class Training:
    """A network trained to its best: by epoch the training loss, the validation accuracy and the rate."""

    setting: Setting
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped: bool = False  # early
    interrupted: bool = False
    params: dict[str, Array] = field(default_factory=dict)  # of the best epoch
    test_accuracy: float = 0.0
    confusion: Array = field(default_factory=lambda: np.zeros((10, 10), int))  # true digit x read digit
    misread: list[tuple[int, int, int]] = field(default_factory=list)  # place in the test set, true, read

    def _repr_png_(self) -> bytes | None:
        return plots.shown_in_notebook(plots.training_figure, self)
