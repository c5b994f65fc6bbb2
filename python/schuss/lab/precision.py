"""Formats of fewer bits against float32: the same networks and lines trained in each, and what each weighs.

All run Adam on the same batches from the same first weights. Two of the formats are there to fail: see
:mod:`schuss.lab.coarse`. And one more is float32 throughout, but from first weights that were rounded to bfloat16: by
what it differs from float32, so small a push comes to in training, whatever the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import dtypes, optimizers
from ..base import Optimizer
from ..nn import MultiLayerNet
from . import plots, precision_plots, stress
from .coarse import Coarse, LinearInt8, NearestBfloat16
from .experiments import REGRESSION_ARGUMENTS, Data, check_size
from .results import Race, Run, overflows_are_seen
from .setting import Setting, over_seeds

Array = NDArray[Any]

_GRADIENTS_TIMES = 1024  # before they are rounded to float16, as those below 6e-8 would be zero


@dataclass(frozen=True)
class Accepted:
    """What a format is held to."""

    points: float = 0.1  # between its mean test accuracy and float32's
    correlation: float = 0.9999  # of the mean curves of the loss
    step: float = 2 * stress.bound()  # the largest, over lr
    still: float = 0.5  # of float32's largest step, in each case: with less, averages have stood still
    smoothed: int = 31  # batches: the curves


ACCEPTED = Accepted()


@dataclass(frozen=True)
class Format:
    """How parameters, state and gradients are kept in one of the contenders."""

    name: str
    parameters: str = "float32"
    master: Literal["split", "float32"] | None = "split"
    state: Literal["float32", "bfloat16", "int8"] = "float32"
    rule: type[Optimizer] = optimizers.Adam
    fails: bool = False  # and is there to show it
    pushed: bool = False  # the first parameters are rounded to bfloat16, and nothing later

    @property
    def dtype(self) -> Any:
        """Of the parameters, and of the gradients as they are handed over."""
        return dtypes.bfloat16() if self.parameters == "bfloat16" else np.dtype(self.parameters)

    def make(self, **arguments: Any) -> Any:
        """The optimizer."""
        if issubclass(self.rule, Coarse):
            return self.rule(**arguments)
        return self.rule(**arguments, state_dtype=self.state, master=self.master)


FLOAT32 = "float32"
FORMATS = (
    Format(FLOAT32),
    Format("float32, first weights rounded", pushed=True),
    Format("state bfloat16", state="bfloat16"),
    Format("state int8", state="int8"),
    Format("parameters bfloat16 split", "bfloat16"),
    Format("parameters bfloat16 split, state bfloat16", "bfloat16", state="bfloat16"),
    Format("parameters bfloat16 split, state int8", "bfloat16", state="int8"),
    Format("parameters bfloat16, no master", "bfloat16", None),
    Format("parameters float16, master float32", "float16", "float32"),
    Format("naive: state bfloat16 to nearest", rule=NearestBfloat16, fails=True),
    Format("naive: state 8 bits, even steps", rule=LinearInt8, fails=True),
)


class Trained:
    """Parameters as a format keeps them, beside those that are computed with, and their optimizer.

    Parameters
    ----------
    form : Format
    shown : dict of ndarray
        The parameters of float32 that are computed with; they are changed in place.
    arguments
        Of Adam.
    """

    def __init__(self, form: Format, shown: dict[str, Array], **arguments: Any) -> None:
        self.form, self.shown = form, shown
        for p in shown.values() if form.pushed else ():
            p[...] = NearestBfloat16.unpack("p", NearestBfloat16.pack("p", p)).reshape(p.shape)
        own = form.dtype != np.float32
        self.params = {name: p.astype(form.dtype) for name, p in shown.items()} if own else shown
        self.optimizer = form.make(**arguments)
        self._scale = _GRADIENTS_TIMES if form.dtype == np.float16 else 1
        self._show()

    def _show(self) -> None:
        if self.params is not self.shown:
            for name, p in self.params.items():
                self.shown[name][...] = p

    def step(self, grads: Mapping[str, Array]) -> None:
        """Step by gradients of float32, which are first rounded to the format's."""
        if self.params is not self.shown:
            scale = np.float32(self._scale)
            grads = {name: (g if scale == 1 else g * scale).astype(self.form.dtype) for name, g in grads.items()}
        self.optimizer.update(self.params, grads, grad_scale=1 / self._scale)
        self._show()

    def weights(self) -> dict[str, float]:
        """Bytes a parameter, by what they are for."""
        found = {"parameter": sum(p.nbytes for p in self.params.values()), "beside it": 0, "m": 0, "v": 0}
        for slots in self.optimizer.state.values():
            kept: Mapping[str, tuple[Array, ...]] = {slot: (array,) for slot, array in slots.items()}
            if isinstance(self.optimizer, Coarse):
                kept = self.optimizer.packed(slots)
            for slot, arrays in kept.items():
                part = slot.removesuffix("_scale")
                found[part if part in found else "beside it"] += sum(array.nbytes for array in arrays)
        size = sum(p.size for p in self.params.values())
        return {part: count / size for part, count in found.items()}


@dataclass
class Row:
    """What one format has come to, and of what it falls short."""

    form: Format
    weights: Mapping[str, float]
    accuracies: list[float]
    differences: list[float]  # of the accuracies from float32's, by seed
    final_losses: list[float]  # of the digits to train
    line_losses: list[float]
    digits_correlation: float
    line_correlation: float
    steps: Mapping[str, float]
    over_float32: tuple[float, float]  # its largest step over float32's: in the case where that is least, and most
    short: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> float:
        """Of a parameter, what is beside it, and its state."""
        return sum(self.weights.values())

    @property
    def largest(self) -> float:
        """The largest step over lr of all cases."""
        return max(self.steps.values())

    @property
    def difference(self) -> float:
        """Mean difference of the accuracies from float32's."""
        return float(np.mean(self.differences)) if self.differences else nan

    @property
    def error(self) -> float:
        """Standard error of that."""
        n = len(self.differences)
        return float(np.std(self.differences, ddof=1) / np.sqrt(n)) if n > 1 else nan

    @overflows_are_seen
    def as_dict(self) -> dict[str, Any]:
        """All of it, by names that tables have."""
        return {
            "format": self.form.name,
            "bytes_per_parameter": self.bytes,
            **{f"bytes_{part.replace(' ', '_')}": count for part, count in self.weights.items()},
            "test_accuracy": float(np.mean(self.accuracies)) if self.accuracies else nan,
            "lowest_accuracy": min(self.accuracies, default=nan),
            "highest_accuracy": max(self.accuracies, default=nan),
            "points_from_float32": 100 * self.difference,
            "standard_error": 100 * self.error,
            "final_loss": float(np.mean(self.final_losses)),
            "curve_correlation": self.digits_correlation,
            "line_loss": float(np.mean(self.line_losses)),
            "line_correlation": self.line_correlation,
            "largest_step": self.largest,
            "least_over_float32": self.over_float32[0],
            "most_over_float32": self.over_float32[1],
            **{f"step: {case}": step for case, step in self.steps.items()},
            "falls_short": ", ".join(self.short),
        }


@dataclass
class Comparison:
    """All runs of a comparison of formats: on digits, on a line, and under stress."""

    formats: Sequence[Format]
    digits: Race
    line: Race
    steps: Mapping[str, Mapping[str, float]]  # by format and case
    weights: Mapping[str, Mapping[str, float]]  # by format and part
    accepted: Accepted = ACCEPTED

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C came before all was done."""
        return self.digits.interrupted

    @overflows_are_seen
    def rows(self) -> list[Row]:
        """One for each format that was trained."""
        digits, lines = _by_name(self.digits), _by_name(self.line)
        ours, our_steps = {run.seed: accuracy(run) for run in digits[FLOAT32]}, self.steps[FLOAT32]
        found, accepted = [], self.accepted
        for form in self.formats:
            if form.name not in digits:
                continue
            runs, fits, steps = digits[form.name], lines[form.name], self.steps[form.name]
            tested = {run.seed: accuracy(run) for run in runs if run.accuracies}
            over = [step / our_steps[case] for case, step in steps.items()]
            row = Row(
                form,
                self.weights[form.name],
                list(tested.values()),
                [value - ours[seed] for seed, value in tested.items() if seed in ours],
                [run.final_loss for run in runs],
                [fit.losses[-1] for fit in fits],
                correlation(runs, digits[FLOAT32]),
                correlation(fits, lines[FLOAT32]),
                steps,
                (min(over), max(over)),
            )
            # What is no number is no pass.
            passed = {
                "accuracy": abs(100 * row.difference) <= accepted.points,
                "curve of the digits": row.digits_correlation >= accepted.correlation,
                "curve of the line": row.line_correlation >= accepted.correlation,
                "steps too large": row.largest <= accepted.step,
                "steps too small": row.over_float32[0] >= accepted.still,
            }
            row.short = [what for what, good in passed.items() if not good]
            found.append(row)
        return found

    def table(self) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Header and rows of what each format has come to."""
        rows = [row.as_dict() for row in self.rows()]
        return tuple(rows[0]), [tuple(row.values()) for row in rows]

    @overflows_are_seen
    def curves(self) -> Iterator[tuple[object, ...]]:
        """Data, format, iteration; the loss as the mean of the seeds, its lowest and highest."""
        for race in (self.digits, self.line):
            for name, runs in _by_name(race).items():
                losses = np.array([run.losses for run in runs])
                numbers = np.stack([losses.mean(axis=0), losses.min(axis=0), losses.max(axis=0)], axis=1).tolist()
                for i, of_one in enumerate(numbers, start=1):
                    yield race.setting.data, name, i, *of_one

    def _repr_png_(self) -> bytes | None:
        return plots.shown_in_notebook(precision_plots.precision_figure, self)


def _by_name(race: Race) -> dict[str, list[Run]]:
    return {runs[0].name: runs for runs in over_seeds(race.runs)}


def accuracy(run: Run) -> float:
    """The mean test accuracy of the last quarter of a run's tests: one alone is by chance as much as by format."""
    tests = list(run.accuracies.values())
    return float(np.mean(tests[-max(1, len(tests) // 4) :])) if tests else nan


def mean_curve(runs: Sequence[Run]) -> NDArray[np.float64]:
    """The loss over iterations, as the mean of the seeds, smoothed."""
    return plots.smooth_curve(np.mean([run.losses for run in runs], axis=0), ACCEPTED.smoothed)


def correlation(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Of two mean curves; as far as both go."""
    a, b = mean_curve(runs), mean_curve(others)
    n = min(len(a), len(b))
    if n < 2 or not (np.isfinite(a[:n]).all() and np.isfinite(b[:n]).all()):
        return -inf
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


@overflows_are_seen
def digits(
    data: Data,
    *,
    forms: Sequence[Format] = FORMATS,
    hidden: Sequence[int] = (100,),
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    seeds: int = 1,
    watch: Callable[[Run], object] = lambda run: None,
    data_name: str = "digits",
) -> tuple[Race, dict[str, dict[str, float]]]:
    """Train the same network on the same batches in each format; and what each weighs, in bytes a parameter.

    Ctrl-C ends it with what was done so far.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
        As from :func:`schuss.datasets.load_mnist`.
    forms : sequence of Format
    hidden : sequence of int
        Neurons of the hidden layers (ReLU, He's initial weights).
    epochs, batch_size, seed : int
        The seed gives the initial weights and the batches, the same for every format.
    seeds : int
        How many seeds, ``seed`` and those after it.
    watch : callable
        Called with the run after each iteration.
    data_name : str
        What the figures call the data.
    """
    (x_train, t_train), test = data
    layers = (x_train.shape[1], *hidden, 10)
    check_size(layers, batch_size, len(x_train))
    iterations = epochs * -(-len(x_train) // batch_size)
    setting = Setting(
        data=data_name,
        counts={"to train": len(x_train), "to test": len(test[0])},
        model="ReLU network",
        layers=layers,
        rates={"Adam": optimizers.Adam().current_lr},
        epochs=epochs,
        iterations=iterations,
        batch_size=batch_size,
        seeds=tuple(range(seed, seed + seeds)),
    )
    race, weights = Race([], setting), {}
    try:
        for this in setting.seeds:
            for form in forms:
                run = Run(form.name, seed=this)
                race.runs.append(run)
                net = MultiLayerNet(x_train.shape[1], hidden, 10, seed=this)
                trained, batches = Trained(form, net.params), np.random.default_rng(this)
                for iteration in range(1, iterations + 1):
                    batch = batches.integers(0, len(x_train), batch_size)
                    trained.step(net.gradient(x_train[batch], t_train[batch]))
                    run.losses.append(net.last_loss)
                    if iteration % max(1, iterations // 20) == 0 or iteration == iterations:
                        run.accuracies[iteration] = net.accuracy(*test)
                    if iteration == 1:
                        weights[form.name] = trained.weights()
                    watch(run)
    except KeyboardInterrupt:
        race.interrupted = True
        race.runs[:] = [run for run in race.runs if run.losses and run.name in weights]
    return race, weights


@overflows_are_seen
def line(
    features: Array,
    target: Array,
    *,
    forms: Sequence[Format] = FORMATS,
    epochs: int = 2,
    batch_size: int = 10,
    seed: int = 0,
    seeds: int = 1,
    data_name: str = "table",
) -> Race:
    """Fit the line of :func:`schuss.lab.experiments.regression`, in float32, in each format.

    The loss of a run is that over all rows, half of the mean squared error, after each step.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    target : ndarray of shape (n,)
    forms : sequence of Format
    epochs, batch_size, seed : int
        The seed gives the initial weights and the order of the examples, the same for every format.
    seeds : int
        How many seeds, ``seed`` and those after it.
    data_name : str
        What the figures call the data.
    """
    n, d = features.shape
    x, y = features.astype(np.float32), target.astype(np.float32)
    arguments = REGRESSION_ARGUMENTS["Adam"]
    setting = Setting(
        data=data_name,
        counts={"rows": n, "features": d},
        model="linear regression",
        rates={"Adam": arguments["lr"]},
        epochs=epochs,
        iterations=epochs * -(-n // batch_size),
        batch_size=batch_size,
        seeds=tuple(range(seed, seed + seeds)),
    )
    race = Race([], setting)
    for this in setting.seeds:
        for form in forms:
            rng = np.random.default_rng(this)
            params = {"w": rng.normal(0, 0.01, (d,)).astype(np.float32), "b": np.zeros(1, np.float32)}
            trained, run = Trained(form, params, **arguments), Run(form.name, seed=this)
            race.runs.append(run)
            for _ in range(epochs):
                order = rng.permutation(n)
                for first in range(0, n, batch_size):
                    batch = order[first : first + batch_size]
                    error = x[batch] @ params["w"] + params["b"] - y[batch]
                    trained.step({"w": x[batch].T @ error / np.float32(len(batch)), "b": error.mean(keepdims=True)})
                    run.losses.append(float(np.mean((x @ params["w"] + params["b"] - y) ** 2) / 2))
    return race


@overflows_are_seen
def stressed(
    forms: Sequence[Format] = FORMATS,
    *,
    steps: int | None = None,
    watch: Callable[[str], object] = lambda name: None,
) -> dict[str, dict[str, float]]:
    """The largest step over lr of each format in each case.

    Parameters
    ----------
    forms : sequence of Format
    steps : int, optional
        Other than the cases have.
    watch : callable
        Called with the name of a format before it is put to them.
    """
    found: dict[str, dict[str, float]] = {}
    for form in forms:
        watch(form.name)
        found[form.name] = {
            case: stress.largest_step(form.make(lr=stress.LR, eps=stress.EPS), form.dtype, case, steps)
            for case in stress.CASES
        }
    return found
