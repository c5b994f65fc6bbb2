"""The comparisons: what each optimizer does on the same problem. They compute, and return results.

Each result says in its :class:`Setting` what was run. With several seeds all run with the first one, then all with the
next. Ctrl-C ends :func:`mnist`, :func:`regression`, :func:`decay` and :func:`train` with what was done so far: their
result then says that it was interrupted. :func:`path` takes milliseconds, and has nothing to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from math import isfinite, nan, sqrt
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import optimizers, reference
from ..checks import shown
from ..nn import MultiLayerNet
from ..schedules import Constant, Exponential, InverseSqrt, InverseTime, Scaled, Schedule, Step, WarmupCosine, rate_at
from ..specs import OptimizerSpec, parse_optimizer
from .parallel import Alone
from .results import Decay, Fit, Path, Race, Results, Run, Training, overflows_are_seen
from .setting import TEXTBOOK, Setting

Array = NDArray[Any]
Table = Mapping[str, type[Any]]


# Of a network's parameters, and of what its layers compute from a batch: with gradients and state some gigabytes.
MOST_NUMBERS = 200_000_000


def check_size(sizes: Sequence[int], batch_size: int, examples: int) -> None:
    """Refuse what no memory holds. Many systems promise it all the same, and then end the process without a word."""
    if batch_size > examples:
        raise ValueError(
            f"a batch of {batch_size:,} is larger than the training set of {examples:,} examples; choose a smaller one"
        )
    parameters = sum((n + 1) * m for n, m in pairwise(sizes))
    if parameters > MOST_NUMBERS:
        raise ValueError(
            f"a network of layers {shown(list(sizes))} would have {parameters:,} parameters, more than "
            f"{MOST_NUMBERS:,}; choose fewer neurons"
        )
    activations = batch_size * sum(sizes[1:])
    if activations > MOST_NUMBERS:
        raise ValueError(
            f"a batch of {batch_size:,} would have {activations:,} activations in layers {shown(list(sizes))}, "
            f"more than {MOST_NUMBERS:,}; choose a smaller batch or fewer neurons"
        )


def _make(spec: OptimizerSpec, table: Table, schedule: Schedule | None, **defaults: Any) -> Any:
    """The optimizer of a spec; a schedule is a factor on its learning rate."""
    opt = spec.make(table, **defaults)
    if schedule is not None:
        lr = opt.lr
        opt.lr = _Product(lr, schedule) if callable(lr) else Scaled(schedule, lr)
    return opt


def _rates(specs: Sequence[OptimizerSpec], defaults: Callable[[str], dict[str, Any]]) -> dict[str, float | str]:
    """The learning rate of each, before a schedule of all is put on it."""
    rates = {spec.text: spec.make(**defaults(spec.name)).lr for spec in specs}
    return {text: repr(lr) if callable(lr) else lr for text, lr in rates.items()}


def _said(schedule: Schedule | None) -> str:
    return "" if schedule is None else repr(schedule)


@dataclass(frozen=True)
class _Product:
    """A rate that is a schedule already, times another one."""

    lr: Callable[[int], float]
    schedule: Schedule

    def __call__(self, t: int) -> float:
        return rate_at(self.lr, t) * self.schedule(t)


@contextmanager
def _at_averages(net: MultiLayerNet, averages: Mapping[Any, Array]) -> Iterator[None]:
    """Evaluate a network that a schedule-free optimizer trains at the averages, where it is meant to be."""
    kept = {}
    for name, x in averages.items():
        kept[name] = net.params[name].copy()
        net.params[name][...] = x
    try:
        yield
    finally:
        for name, p in kept.items():
            net.params[name][...] = p


# The textbook's learning rates, and for the rules that it does not have some with which the ways can be compared.
PATH_ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.95},
    "Momentum": {"lr": 0.1},
    "Nesterov": {"lr": 0.1},
    "AdaGrad": {"lr": 1.5},
    "RMSprop": {"lr": 0.1},
    "AMSGrad": {"lr": 0.5},
    "RAdam": {"lr": 1.2},
    "AdaDelta": {"lr": 100.0},
    "Lion": {"lr": 0.2},
    "LAMB": {"lr": 0.1},
    "LARS": {"lr": 0.05, "trust": 1.0, "momentum": 0.5},
    "ScheduleFreeSGD": {"lr": 0.95},
    "ScheduleFreeAdamW": {"lr": 0.5},
}
PATH_START = (-7.0, 2.0)


def path(
    names: Sequence[str] = TEXTBOOK, *, steps: int = 30, scaled: bool = False, schedule: Schedule | None = None
) -> Results[Path]:
    """Follow each optimizer down the textbook's valley, "Deep Learning from Scratch", 6.1.

    Parameters
    ----------
    names : sequence of str
        Optimizers, by name or with arguments: ``"Adam(lr=0.1)"``.
    steps : int
    scaled : bool
        With x measured in units of sqrt(20): f(u, y) = u^2 + y^2, whose contours are circles.
    schedule : schedule, optional
        A factor on each optimizer's learning rate.
    """
    unit = sqrt(20) if scaled else 1.0
    curvature = 2.0 if scaled else 0.1

    def defaults(name: str) -> dict[str, Any]:
        return PATH_ARGUMENTS.get(name, {"lr": 0.3})

    specs = list(map(parse_optimizer, names))
    setting = Setting(
        data="f(x, y) = x^2 / 20 + y^2 from ({:g}, {:g})".format(*PATH_START),
        rates=_rates(specs, defaults),
        schedule=_said(schedule),
        iterations=steps,
    )
    ways: Results[Path] = Results(setting)
    for spec in specs:
        opt = _make(spec, optimizers.OPTIMIZERS, schedule, **defaults(spec.name))
        params = {"x": PATH_START[0] / unit, "y": PATH_START[1]}
        points = [(params["x"], params["y"])]
        for _ in range(steps):
            opt.update(params, {"x": curvature * params["x"], "y": 2.0 * params["y"]})
            points.append((params["x"], params["y"]))
        ways.append(Path(spec.text, opt._lr_at(1), points, scaled))
    return ways


Data = tuple[tuple[Array, Array], tuple[Array, Array]]


@overflows_are_seen
def mnist(
    data: Data,
    names: Sequence[str] = TEXTBOOK,
    *,
    hidden: Sequence[int] = (100, 100, 100, 100),
    iterations: int = 2000,
    batch_size: int = 128,
    seed: int = 0,
    seeds: int = 1,
    in_numpy: bool = False,
    schedule: Schedule | None = None,
    watch: Callable[[Run], object] = lambda run: None,
    data_name: str = "digits",
) -> Race:
    """Train the same network on the same batches with each optimizer, "Deep Learning from Scratch", 6.1.8.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
        As from :func:`schuss.datasets.load_mnist`.
    names : sequence of str
        Optimizers, by name or with arguments: ``"Lion(lr=1e-4)"``.
    hidden : sequence of int
        Neurons of the hidden layers (ReLU, He's initial weights).
    iterations, batch_size, seed : int
        The seed gives the initial weights and the batches, the same for every optimizer.
    seeds : int
        How many seeds, ``seed`` and those after it.
    in_numpy : bool
        Step with :mod:`schuss.reference`: the same curves, bit for bit.
    schedule : schedule, optional
        A factor on each optimizer's learning rate.
    watch : callable
        Called with the run after each iteration.
    data_name : str
        What the figures call the data.
    """
    table: Table = reference.OPTIMIZERS if in_numpy else optimizers.OPTIMIZERS
    (x_train, t_train), test = data
    layers = (x_train.shape[1], *hidden, 10)
    check_size(layers, batch_size, len(x_train))
    specs = list(map(parse_optimizer, names))
    setting = Setting(
        data=data_name,
        counts={"to train": len(x_train), "to test": len(test[0])},
        model="ReLU network",
        layers=layers,
        rates=_rates(specs, lambda name: {}),
        schedule=_said(schedule),
        iterations=iterations,
        batch_size=batch_size,
        seeds=tuple(range(seed, seed + seeds)),
        in_numpy=in_numpy,
    )
    race = Race([], setting)
    try:
        for this, spec in product(setting.seeds, specs):
            run = Run(spec.text, seed=this)
            race.runs.append(run)
            net = MultiLayerNet(x_train.shape[1], hidden, 10, seed=this)
            batches = np.random.default_rng(this)
            opt = _make(spec, table, schedule)
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
                    with _at_averages(net, Alone().averages(opt)):
                        run.accuracies[iteration] = net.accuracy(*test)
                watch(run)
    except KeyboardInterrupt:
        race.interrupted = True
        race.runs[:] = [run for run in race.runs if run.losses]
    return race


MOST_TO_SQUARE = 1e100

# Arguments of "Dive into Deep Learning", "Optimization Algorithms"; Nesterov shares those of Momentum.
REGRESSION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05},
    "Momentum": {"lr": 0.004, "momentum": 0.9},
    "Nesterov": {"lr": 0.004, "momentum": 0.9},
    "AdaGrad": {"lr": 0.1, "eps": 1e-6},
    "RMSprop": {"lr": 0.01, "decay_rate": 0.9, "eps": 1e-6},
    "Adam": {"lr": 0.01, "eps": 1e-6},
    "RAdam": {"lr": 0.03},
    "AdaDelta": {"lr": 1.0, "eps": 1e-3},
    "LAMB": {"lr": 0.05},
    "LARS": {"lr": 0.05, "trust": 1.0, "momentum": 0.5},
    "ScheduleFreeSGD": {"lr": 0.05},
    "ScheduleFreeAdamW": {"lr": 0.05},
    "Adafactor": {"lr": 0.1},
}


def _least_squares(features: Array, target: Array) -> float:
    """The least mean loss that any line has."""
    # Around their means, and of one size: so columns of whatever unit are fitted to the last digits.
    x, y = features - features.mean(axis=0), target - target.mean()
    size = np.abs(x).max(axis=0)
    x = x / np.where(size > 0, size, 1)
    return float(np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2) / 2)


@overflows_are_seen
def regression(
    features: Array,
    target: Array,
    names: Sequence[str] = TEXTBOOK,
    *,
    epochs: int = 2,
    batch_size: int = 10,
    seed: int = 0,
    seeds: int = 1,
    schedule: Schedule | None = None,
    data_name: str = "table",
) -> Results[Fit]:
    """Fit a line by mini-batches with each optimizer, as in "Dive into Deep Learning", 7.8 (Adam).

    The loss of an example is half of its squared error.

    Parameters
    ----------
    features : ndarray of shape (n, d)
    target : ndarray of shape (n,)
    names : sequence of str
    epochs, batch_size, seed : int
        The seed gives the initial weights and the order of the examples, the same for every optimizer.
    seeds : int
        How many seeds, ``seed`` and those after it.
    schedule : schedule, optional
        A factor on each optimizer's learning rate.
    data_name : str
        What the figures call the data.
    """
    n, d = features.shape
    largest = np.max([np.abs(values).max(initial=0) for values in (features, target)])
    if not largest <= MOST_TO_SQUARE:
        raise ValueError(
            f"features and target must be within {MOST_TO_SQUARE:g}, so that their squares can be summed; "
            f"got {largest:g} in size: scale them"
        )

    def mean_loss(params: Mapping[str, Array]) -> float:
        return float(np.mean((features @ params["w"] + params["b"] - target) ** 2) / 2)

    def defaults(name: str) -> dict[str, Any]:
        return REGRESSION_ARGUMENTS.get(name, {"lr": 0.01})

    specs = list(map(parse_optimizer, names))
    setting = Setting(
        data=data_name,
        counts={"rows": n, "features": d},
        model="linear regression",
        rates=_rates(specs, defaults),
        schedule=_said(schedule),
        epochs=epochs,
        batch_size=batch_size,
        seeds=tuple(range(seed, seed + seeds)),
    )
    fits: Results[Fit] = Results(setting)
    try:
        minimum = _least_squares(features, target)
        for this, spec in product(setting.seeds, specs):
            rng = np.random.default_rng(this)
            params = {"w": rng.normal(0, 0.01, (d,)), "b": np.zeros(1)}
            opt = _make(spec, optimizers.OPTIMIZERS, schedule, **defaults(spec.name))
            fit = Fit(spec.text, [0.0], [mean_loss(params)], minimum, this)
            fits.append(fit)
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
    except KeyboardInterrupt:
        fits.interrupted = True
        fits[:] = [fit for fit in fits if len(fit.losses) > 1]
        for fit in fits:
            del fit.epochs[len(fit.losses) :]  # it may have come between the two
    return fits


WEIGHT_DECAY = 1e-2  # with which softmax regression has one minimum


def decay_schedules(lr: float, steps_per_epoch: int, epochs: int) -> dict[str, Schedule]:
    """The schedules of Andrew Ng's course, for so many epochs; by the factor that each has on the rate.

    In the factors ``epoch`` counts from 0 and ``t``, the step, from 1. Their numbers are rounded before they are used,
    so that the text is what is computed.
    """
    # As far down in these epochs as the course's 0.95 is after 40.
    gamma = 1 - float(f"{1 - 0.95 ** (40 / epochs):.3g}")
    k, stair = float(f"{sqrt(steps_per_epoch):.3g}"), max(1, epochs // 4)
    return {
        "constant": Constant(lr),
        "1 / (1 + 0.5 epoch)": InverseTime(lr, 0.5, steps_per_epoch),
        f"{gamma:.12g} ^ epoch": Exponential(lr, gamma, steps_per_epoch),
        f"{k:g} / sqrt(t + {steps_per_epoch})": InverseSqrt(lr, k, steps_per_epoch),
        f"0.5 ^ floor(epoch / {stair})": Step(lr, stair, 0.5, steps_per_epoch),
    }


@overflows_are_seen
def decay(
    data: Data,
    *,
    lr: float = 0.4,
    epochs: int = 12,
    batch_size: int = 16,
    examples: int = 2000,
    seed: int = 0,
    seeds: int = 1,
    watch: Callable[[Decay], object] = lambda run: None,
    data_name: str = "digits",
) -> Results[Decay]:
    """Descend with a constant rate and with each decay: the one wanders around the minimum, the others close in.

    Softmax regression, which has one minimum, on some of the training digits, by small batches.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
    lr : float
        The rate at first.
    epochs, batch_size, examples, seed : int
        The seed gives the initial weights and the order of the examples, the same for every schedule.
    seeds : int
        How many seeds, ``seed`` and those after it.
    watch : callable
        Called with the run after each epoch.
    data_name : str
        What the figures call the data.
    """
    (x, t), _ = data
    left_out = max(0, len(x) - examples)
    x, t = x[:examples], t[:examples]
    layers = (x.shape[1], 10)
    check_size(layers, batch_size, len(x))
    steps_per_epoch = -(-len(x) // batch_size)
    every = min(5, epochs * steps_per_epoch)
    setting = Setting(
        data=data_name,
        counts={"to train": len(x)} | ({"left out": left_out} if left_out else {}),
        model="softmax regression",
        layers=layers,
        weight_decay=WEIGHT_DECAY,
        rates={"SGD": lr},
        epochs=epochs,
        batch_size=batch_size,
        seeds=tuple(range(seed, seed + seeds)),
    )
    runs: Results[Decay] = Results(setting)
    found = []
    try:
        for this, (name, schedule) in product(setting.seeds, decay_schedules(lr, steps_per_epoch, epochs).items()):
            run = Decay(name, schedule, seed=this)
            runs.append(run)
            net = MultiLayerNet(x.shape[1], (), 10, seed=this, weight_decay_lambda=WEIGHT_DECAY)
            opt = optimizers.SGD(lr=schedule)
            rng = np.random.default_rng(this)
            for _ in range(epochs):
                order = rng.permutation(len(x))
                for first in range(0, len(x), batch_size):
                    batch = order[first : first + batch_size]
                    opt.update(net.params, net.gradient(x[batch], t[batch]))
                    if opt.t % every == 0:
                        run.iterations.append(opt.t)
                        run.losses.append(net.loss(x, t))
                watch(run)
        # The loss is convex: descent over all examples goes on to its minimum from where the last one has come.
        closing = optimizers.Nesterov(lr=0.1)
        for _ in range(1000):
            closing.update(net.params, net.gradient(x, t))
        found.append(net.loss(x, t))
    except KeyboardInterrupt:
        runs.interrupted = True
        runs[:] = [run for run in runs if run.losses]
        for run in runs:
            del run.iterations[len(run.losses) :]  # it may have come between the two
    # What has diverged knows nothing of the minimum; after Ctrl-C it is the lowest loss that was seen.
    found += [loss for run in runs for loss in run.losses]
    minimum = min(filter(isfinite, found), default=nan)
    for run in runs:
        run.minimum = minimum
    return runs


@overflows_are_seen
def train(
    data: Data,
    *,
    optimizer: str = "AdamW(weight_decay=0.05)",
    schedule: Schedule | None = None,
    hidden: Sequence[int] = (512, 256),
    epochs: int = 10,
    batch_size: int = 128,
    patience: int = 3,
    seed: int = 0,
    watch: Callable[[Training], object] = lambda training: None,
    tick: Callable[[int, int], object] = lambda step, steps: None,
    data_name: str = "digits",
    team: Alone | None = None,
) -> Training:
    """Train one network, keep the parameters of the epoch that reads held-back digits best, and test those.

    Parameters
    ----------
    data : (x_train, t_train), (x_test, t_test)
        A twelfth of the training digits is held back for validation; the test digits are used once, at the end.
    optimizer : str
        By name or with arguments.
    schedule : schedule, optional
        A factor on the learning rate; by default a warm-up of half an epoch, then half a cosine to zero.
    hidden : sequence of int
        Neurons of the hidden layers.
    epochs, batch_size, seed : int
    patience : int
        Stop after so many epochs without a better validation accuracy.
    watch : callable
        Called after each epoch.
    tick : callable
        Called with the number of the step and how many there may be, after each.
    data_name : str
        What the figures call the data.
    team : optional
        Who trains: this process if it is not given, or the ranks of MPI.
    """
    team = Alone() if team is None else team
    with team.settled():
        return _train(
            data, optimizer, schedule, hidden, epochs, batch_size, patience, seed, watch, tick, data_name, team
        )


def _train(
    data: Data,
    optimizer: str,
    schedule: Schedule | None,
    hidden: Sequence[int],
    epochs: int,
    batch_size: int,
    patience: int,
    seed: int,
    watch: Callable[[Training], object],
    tick: Callable[[int, int], object],
    data_name: str,
    team: Alone,
) -> Training:
    (x, t), (x_test, t_test) = data
    if len(x) < 12:
        raise ValueError(f"training needs at least 12 examples, as a twelfth of them is held back; got {len(x)}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    held, rest = order[: len(x) // 12], order[len(x) // 12 :]
    x_held, t_held = x[held], t[held]
    layers = (x.shape[1], *hidden, 10)
    check_size(layers, batch_size, len(rest))
    steps = -(-len(rest) // batch_size)
    if schedule is None:
        schedule = WarmupCosine(1.0, warmup=steps // 2, steps=epochs * steps)
    net = MultiLayerNet(x.shape[1], hidden, 10, seed=seed)
    spec = parse_optimizer(optimizer)
    rule = _make(spec, optimizers.OPTIMIZERS, schedule)
    opt = team.stepper(rule)
    setting = Setting(
        data=data_name,
        counts={"to train": len(rest), "held back to validate": len(held), "to test": len(x_test)},
        model="ReLU network",
        layers=layers,
        rates=_rates([spec], lambda name: {}),
        schedule=_said(schedule),
        epochs=epochs,
        patience=patience,
        batch_size=batch_size,
        seeds=(seed,),
    )
    training = Training(setting)
    best = -1.0
    try:
        for epoch in range(1, epochs + 1):
            rng.shuffle(rest)
            losses = []
            for first in range(0, len(rest), batch_size):
                batch = rest[first : first + batch_size]
                losses.append(team.step(opt, net, x[batch], t[batch]))
                tick(rule.t, epochs * steps)
            loss, best_epoch, params = team.mean_loss(losses), training.best_epoch, training.params
            with _at_averages(net, team.averages(opt)):
                accuracy = team.accuracy(net, x_held, t_held)
                if accuracy > best:
                    best, best_epoch, params = accuracy, epoch, {name: p.copy() for name, p in net.params.items()}
            rate = rule.current_lr
            # In one statement, so that Ctrl-C finds all of an epoch or nothing of it.
            training.losses, training.accuracies, training.rates, training.best_epoch, training.params = (
                [*training.losses, loss],
                [*training.accuracies, accuracy],
                [*training.rates, rate],
                best_epoch,
                params,
            )
            watch(training)
            if epoch - training.best_epoch >= patience:
                training.stopped = epoch < epochs
                break
    except KeyboardInterrupt:
        training.interrupted = True
    for name, p in training.params.items():
        net.params[name][...] = p
    read = np.concatenate(
        [net.predict(part).argmax(axis=1) for part in np.array_split(x_test, len(x_test) // 1000 + 1)]
    )
    training.test_accuracy = float(np.mean(read == t_test))
    np.add.at(training.confusion, (t_test, read), 1)
    wrong = np.flatnonzero(read != t_test)
    training.misread = [(int(i), int(t_test[i]), int(read[i])) for i in wrong]
    return training
