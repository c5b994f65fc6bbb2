"""Learning rates as functions of the step: ``t -> lr``, where ``t`` is 1 at the first update.

A schedule is taken as ``lr=`` by every optimizer and in groups, and can be called by itself. Each is a frozen
dataclass: its repr is the call that makes it, and two that are equal give the same rates.

PyTorch, Optax and Keras count steps from 0. Where they have a schedule of the same name, ours at ``t`` is theirs at
``t - 1``. Optax's and Keras's are taken as they are, by the optimizers and within schedules, and then called with
``t - 1``.

>>> from schuss.schedules import WarmupCosine
>>> schedule = WarmupCosine(lr=1e-3, warmup=10, steps=100)
>>> schedule
WarmupCosine(lr=0.001, warmup=10, steps=100, start=0.0, end=0.0)
>>> [round(schedule(t), 6) for t in (1, 6, 11, 101)]
[0.0, 0.0005, 0.001, 0.0]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, partial
from itertools import pairwise
from math import copysign, cos, inf, isinf, isnan, pi, sqrt
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from .checks import count, flag, number, real, shown

__all__ = [
    "WSD",
    "Constant",
    "Cosine",
    "CosineWarmRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "InverseTime",
    "Joined",
    "Linear",
    "Noam",
    "OneCycle",
    "PiecewiseConstant",
    "Polynomial",
    "ReduceOnPlateau",
    "Scaled",
    "Schedule",
    "Step",
    "Warmup",
    "WarmupCosine",
    "join",
]

# The whole numbers of which there is at least one; all others may be 0.
_FROM_1 = frozenset(
    {"steps", "steps_per_epoch", "step_size", "period", "factor", "decay", "up", "down", "d_model", "boundaries"}
)
_MOST = 2**63 - 1
_CHECK = "schuss.check"  # in a field's metadata: its own check, where its type does not say all


class Schedule:
    """What all schedules share: the checks of their fields, and that they are called with a step.

    Raises
    ------
    TypeError, ValueError
        When a schedule is made of something of another type or out of its range; rates and factors are finite and at
        least 0. The message has the class, the argument and the value.
    """

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """See that all fields are of their types and in range, and keep them as Python's own numbers and tuples."""
        cls: Any = type(self)
        for each in fields(cls):
            check = each.metadata.get(_CHECK) or partial(_checked, _types(cls).get(each.name), each.name)
            kept = check(f"{cls.__name__}: {each.name}", getattr(self, each.name))
            object.__setattr__(self, each.name, kept)

    def __call__(self, t: int) -> float:
        """Return the learning rate of step ``t``, which is 1 at the first update."""
        raise NotImplementedError


@cache
def _types(cls: type[Any]) -> dict[str, Any]:
    """The types of a class's fields; none where a user's class has types that cannot be looked up from here."""
    try:
        return get_type_hints(cls)
    except Exception:
        return {}


def _checked(kind: Any, name: str, what: str, value: Any) -> Any:
    """Return the value of a field of this type and name as it is kept; ``what`` it is called in messages."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is int:
        least = int(name in _FROM_1)
        if (found := count(what, value, least)) > _MOST:
            raise ValueError(f"{what} must be a whole number from {least} to 2**63 - 1, got {shown(value)}")
        return found
    if kind is float:  # numbers that are rates and factors; a whole one is kept as it is
        rate = number(what, value, 0, inf, False)
        return value if type(value) is int else rate
    if kind is bool:
        return flag(what, value)
    if origin is Callable:
        if not callable(value):
            raise TypeError(
                f"{what} must be a schedule or another function of the step, as Constant(0.1) is, got {shown(value)}"
            )
        return value
    if origin is Literal:
        for each in inner:
            if isinstance(value, type(each)) and value == each:
                return each
        listed = " or ".join(", ".join(map(str, inner)).rsplit(", ", 1))
        raise ValueError(f"{what} must be {listed}, got {shown(value)}")
    if origin is tuple:
        several = isinstance(value, (Sequence, np.ndarray)) and getattr(value, "ndim", True)
        if not several or isinstance(value, (str, bytes, bytearray)):
            raise TypeError(f"{what} must be a tuple or list, got {shown(value)}")
        return tuple(_checked(inner[0], name, f"{what}[{i}]", each) for i, each in enumerate(value))
    if NoneType in inner and len(inner) == 2 and value is not None:
        return _checked(inner[0], name, what, value)
    return value


def _score(what: str, value: Any) -> float | None:
    """Return what has been reported: any number, or None where nothing has been."""
    if value is None:
        return None
    found = real(what, value)
    if isnan(found) or (isinf(found) and found != value):  # a whole number may be beyond all floats
        raise ValueError(f"{what} must be a number, and not NaN or beyond all floats, got {shown(value)}")
    return found


def rate_at(schedule: Callable[[int], Any], t: int, name: str = "lr") -> float:
    """Return the rate of step ``t``, 1 at the first update, by any schedule: it is called as its makers count."""
    step = t if isinstance(schedule, Schedule) or not _counts_from_zero(schedule) else t - 1
    rate = schedule(step)
    if type(rate) is float and 0 <= rate < inf:  # as almost always, and without a name that no message needs
        return rate
    return number(f"{name}({step})", rate, 0, inf, False)


def _counts_from_zero(schedule: Any) -> bool:
    """Whether Optax or Keras has made it. They are told by their names, as they may not be installed."""
    while isinstance(schedule, partial):
        schedule = schedule.func
    return _package(schedule) == "optax" or any(
        cls.__name__ == "LearningRateSchedule" and _package(cls) in ("keras", "tf_keras", "tensorflow")
        for cls in type(schedule).__mro__
    )


def _package(made: Any) -> str:
    """The first part of the name of the module that something is from."""
    return str(getattr(made, "__module__", None)).partition(".")[0]


def _epoch(t: int, steps_per_epoch: int) -> int:
    """How many passes over the data lie behind step t."""
    return (t - 1) // steps_per_epoch


def _cosine(start: float, end: float, share: float) -> float:
    """From start to end along half a wave."""
    return end + (start - end) * ((1 + cos(pi * share)) / 2)


def _times_power(amount: float, base: float, exponent: int) -> float:
    """``amount * base ** exponent``; where the power is beyond all floats infinite, or 0 if the amount is."""
    try:
        # Of a float, as a power of whole numbers is computed to its last digit, which may take for ever.
        return amount * float(base) ** exponent
    except OverflowError:
        return copysign(inf, amount) if amount else 0.0


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step: ``lr``.

    Parameters
    ----------
    lr : float
        The rate.
    """

    lr: float

    def __call__(self, t: int) -> float:
        return float(self.lr)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """``lr / (1 + decay_rate * epoch)``; Andrew Ng's course, "Learning rate decay".

    Parameters
    ----------
    lr : float
        The rate of epoch 0.
    decay_rate : float
        How much what ``lr`` is divided by grows with each epoch.
    steps_per_epoch : int, default 1
        How many steps an epoch has: with 1 each step counts.
    first_epoch : int, default 0
        The number of the first epoch: 0 here and in Optax and Keras, 1 in the course's table.
    """

    lr: float
    decay_rate: float
    steps_per_epoch: int = 1
    first_epoch: int = 0

    def __call__(self, t: int) -> float:
        # A float becomes infinite where a whole number would be too large to divide by.
        return self.lr / (1 + float(self.decay_rate) * (_epoch(t, self.steps_per_epoch) + self.first_epoch))


@dataclass(frozen=True)
class Exponential(Schedule):
    """``lr * gamma ** epoch``, the course's ``0.95 ** epoch * alpha0``; ``torch.optim.lr_scheduler.ExponentialLR``.

    Parameters
    ----------
    lr : float
        The rate of epoch 0.
    gamma : float, default 0.95
        The factor from one epoch to the next.
    steps_per_epoch : int, default 1
        How many steps an epoch has: with 1 each step counts.
    first_epoch : int, default 0
        The number of the first epoch.
    """

    lr: float
    gamma: float = 0.95
    steps_per_epoch: int = 1
    first_epoch: int = 0

    def __call__(self, t: int) -> float:
        return _times_power(self.lr, self.gamma, _epoch(t, self.steps_per_epoch) + self.first_epoch)


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """``lr * k / sqrt(t + shift)``: the course's ``k / sqrt(t) * alpha0``.

    "Dive into Deep Learning" writes ``eta / sqrt(t + 1)`` and counts from 0: the same rates, with no shift.

    Parameters
    ----------
    lr : float
        The rate of step 1, if nothing else is given.
    k : float, default 1
        A factor.
    shift : float, default 0
        Steps that count as made before the first.
    """

    lr: float
    k: float = 1.0
    shift: float = 0.0

    def __call__(self, t: int) -> float:
        return float(self.lr) * self.k / sqrt(t + self.shift)


@dataclass(frozen=True)
class Step(Schedule):
    """The staircase: ``lr * gamma ** (epoch // step_size)``; ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    lr : float
        The rate of the first stair.
    step_size : int
        How many epochs a stair has.
    gamma : float, default 0.1
        The factor from one stair to the next.
    steps_per_epoch : int, default 1
        How many steps an epoch has: with 1 each step counts.
    """

    lr: float
    step_size: int
    gamma: float = 0.1
    steps_per_epoch: int = 1

    def __call__(self, t: int) -> float:
        return _times_power(self.lr, self.gamma, _epoch(t, self.steps_per_epoch) // self.step_size)


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """Rates chosen by hand: ``rates[0]`` for the first ``boundaries[0]`` epochs, then ``rates[1]``, and so on.

    Parameters
    ----------
    rates : sequence of float
        At least one; kept as a tuple.
    boundaries : sequence of int
        Before which epochs, counted from 0, the rate changes: one less than rates, and rising.
    steps_per_epoch : int, default 1
        How many steps an epoch has: with 1 each step counts.

    Raises
    ------
    ValueError
        If there is no rate, if there is not one boundary between each two, or if these do not rise.

    Examples
    --------
    >>> [PiecewiseConstant((0.1, 0.01), boundaries=(2,))(t) for t in (1, 2, 3)]
    [0.1, 0.1, 0.01]
    """

    rates: tuple[float, ...]
    boundaries: tuple[int, ...]
    steps_per_epoch: int = 1

    def _check(self) -> None:
        super()._check()
        _check_parts("PiecewiseConstant", "rates", self.rates, self.boundaries)

    def __call__(self, t: int) -> float:
        epoch = _epoch(t, self.steps_per_epoch)
        return float(self.rates[sum(epoch >= boundary for boundary in self.boundaries)])


def _check_parts(what: str, name: str, parts: tuple[Any, ...], boundaries: tuple[int, ...]) -> None:
    if not parts:
        raise ValueError(f"{what}: {name} must have at least one part, got {parts!r}")
    if len(boundaries) != len(parts) - 1:
        raise ValueError(
            f"{what}: boundaries must be {len(parts) - 1} for the {len(parts)} {name}, got {shown(boundaries)}"
        )
    if any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(f"{what}: boundaries must rise, got {shown(boundaries)}")


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from ``lr`` to ``end`` in ``steps`` steps; ``optax.linear_schedule``.

    Parameters
    ----------
    lr : float
        The rate of the first step.
    end : float
        The last rate, which stays.
    steps : int
        After how many steps it is reached: at step ``steps + 1``.
    """

    lr: float
    end: float
    steps: int

    def __call__(self, t: int) -> float:
        return self.lr + (self.end - self.lr) * min((t - 1) / self.steps, 1.0)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """``end + (lr - end) * (1 - (t - 1) / steps) ** power``, then ``end``; ``optax.polynomial_schedule``.

    Parameters
    ----------
    lr : float
        The rate of the first step.
    steps : int
        After how many steps ``end`` is reached.
    power : float, default 1
        1 is a straight line; with more the rate falls early, with less late.
    end : float, default 0
        The last rate, which stays.
    """

    lr: float
    steps: int
    power: float = 1.0
    end: float = 0.0

    def __call__(self, t: int) -> float:
        left = 1 - min((t - 1) / self.steps, 1.0)
        return self.end + (self.lr - self.end) * float(left**self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``lr`` to ``end``, where it stays; Loshchilov and Hutter, arXiv:1608.03983.

    ``optax.cosine_decay_schedule``. PyTorch's ``CosineAnnealingLR`` is the same for ``steps`` steps, then rises again.

    Parameters
    ----------
    lr : float
        The rate of the first step.
    steps : int
        After how many steps ``end`` is reached.
    end : float, default 0
        The last rate, which stays.
    """

    lr: float
    steps: int
    end: float = 0.0

    def __call__(self, t: int) -> float:
        return _cosine(self.lr, self.end, min((t - 1) / self.steps, 1.0))


@dataclass(frozen=True)
class CosineWarmRestarts(Schedule):
    """Half a cosine of ``period`` steps, again and again, each ``factor`` times as long as the one before.

    Loshchilov and Hutter, SGDR, arXiv:1608.03983; ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``.

    Parameters
    ----------
    lr : float
        The rate at the start of each period.
    period : int
        How many steps the first period has.
    factor : int, default 1
        How many times as long each is as the one before.
    end : float, default 0
        The rate that each falls towards.
    """

    lr: float
    period: int
    factor: int = 1
    end: float = 0.0

    def __call__(self, t: int) -> float:
        at, period = t - 1, self.period
        if self.factor <= 1:
            at %= period
        else:
            while at >= period:
                at, period = at - period, period * self.factor
        return _cosine(self.lr, self.end, at / period)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from ``lr / div`` to ``lr`` along a cosine, then down to ``lr / div / final_div``.

    Smith and Topin, super-convergence, arXiv:1708.07120; ``torch.optim.lr_scheduler.OneCycleLR``.

    Parameters
    ----------
    lr : float
        The largest rate.
    steps : int
        How many steps the cycle has; the last rate stays.
    rise : float, default 0.3
        The share of the steps that go up.
    div : float, default 25
        How many times as large ``lr`` is as the first rate.
    final_div : float, default 10,000
        How many times as large the first rate is as the last.

    Raises
    ------
    ValueError
        If ``rise`` leaves no steps to go up or none to go down, or if a rate would not be finite.
    """

    lr: float
    steps: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    def _check(self) -> None:
        super()._check()
        if not 0 < self.rise * self.steps - 1 < self.steps - 1:
            what = f"leave some of the {self.steps} steps to go up and some to go down"
            raise ValueError(f"OneCycle: rise must {what}, got {self.rise!r}")
        rate = float(self.lr)
        for name, by in (("div", self.div), ("final_div", self.final_div)):
            rate = rate / by if by else inf
            if rate == inf:
                raise ValueError(f"OneCycle: {name} must be more than 0 and leave a finite rate, got {by!r}")

    def __call__(self, t: int) -> float:
        top, last = self.rise * self.steps - 1, self.steps - 1
        start = self.lr / self.div
        if t - 1 <= top:
            return _cosine(start, self.lr, (t - 1) / top)
        return _cosine(self.lr, start / self.final_div, min((t - 1 - top) / (last - top), 1.0))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from ``start`` to the first rate of ``then`` in ``warmup`` steps, then ``then``.

    Parameters
    ----------
    then : callable
        A schedule, or another function of the step; its step 1 is the first after the line.
    warmup : int
        How many steps the line has.
    start : float, default 0
        The rate of the first step.

    Examples
    --------
    >>> schedule = Warmup(Step(lr=0.1, step_size=2), warmup=2)
    >>> [round(schedule(t), 3) for t in range(1, 7)]
    [0.0, 0.05, 0.1, 0.1, 0.01, 0.01]
    """

    then: Callable[[int], float]
    warmup: int
    start: float = 0.0

    def __call__(self, t: int) -> float:
        if t > self.warmup:
            return rate_at(self.then, t - self.warmup)
        return self.start + (rate_at(self.then, 1) - self.start) * (t - 1) / self.warmup


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """A straight line to ``lr`` in ``warmup`` steps, then half a cosine to ``end``, ``steps`` steps in all.

    ``optax.warmup_cosine_decay_schedule``.

    Parameters
    ----------
    lr : float
        The largest rate.
    warmup : int
        How many steps the line has.
    steps : int
        After how many steps, those of the line among them, ``end`` is reached.
    start : float, default 0
        The rate of the first step.
    end : float, default 0
        The last rate, which stays.

    Raises
    ------
    ValueError
        If ``warmup`` is not less than ``steps``.
    """

    lr: float
    warmup: int
    steps: int
    start: float = 0.0
    end: float = 0.0

    def _check(self) -> None:
        super()._check()
        if self.warmup >= self.steps:
            raise ValueError(f"WarmupCosine: warmup must be less than steps, got {self.warmup} of {self.steps}")

    def __call__(self, t: int) -> float:
        if t <= self.warmup:
            return self.start + (self.lr - self.start) * (t - 1) / self.warmup
        return _cosine(self.lr, self.end, min((t - 1 - self.warmup) / (self.steps - self.warmup), 1.0))


@dataclass(frozen=True)
class Noam(Schedule):
    """``factor * d_model ** -0.5 * min(t ** -0.5, t * warmup ** -1.5)``; Vaswani et al., arXiv:1706.03762, 5.3.

    Parameters
    ----------
    d_model : int
        The width of the model.
    warmup : int, default 4000
        How many steps the rate rises for.
    factor : float, default 1
        A factor; the paper has none.
    """

    d_model: int
    warmup: int = 4000
    factor: float = 1.0

    def __call__(self, t: int) -> float:
        rise = t / self.warmup / sqrt(self.warmup) if self.warmup else float("inf")
        return self.factor / sqrt(self.d_model) * min(1 / sqrt(t), rise)


@dataclass(frozen=True)
class WSD(Schedule):
    """Warm-up, stable, decay: a line up to ``lr``, ``stable`` steps of it, a line down to ``end``.

    Hu et al., MiniCPM, arXiv:2404.06395.

    Parameters
    ----------
    lr : float
        The largest rate.
    warmup, stable, decay : int
        How many steps each part has.
    start : float, default 0
        The rate of the first step.
    end : float, default 0
        The last rate, which stays.
    """

    lr: float
    warmup: int
    stable: int
    decay: int
    start: float = 0.0
    end: float = 0.0

    def __call__(self, t: int) -> float:
        if t <= self.warmup:
            return self.start + (self.lr - self.start) * (t - 1) / self.warmup
        return self.lr + (self.end - self.lr) * min(max((t - 1 - self.warmup - self.stable) / self.decay, 0.0), 1.0)


@dataclass(frozen=True)
class Cyclic(Schedule):
    """Straight lines between ``low`` and ``high``: ``up`` steps, then ``down`` (as many, if not given), and again.

    Smith, cyclical learning rates, arXiv:1506.01186; ``torch.optim.lr_scheduler.CyclicLR``.

    Parameters
    ----------
    low, high : float
        The lowest rate, which is that of the first step, and the highest.
    up : int, default 2000
        How many steps go up.
    down : int, optional
        How many steps go down; as many as up, if not given.
    mode : {"triangular", "triangular2", "exp_range"}, default "triangular"
        What becomes of the height of a cycle: it stays, is halved each time, or falls by ``gamma`` with every step.
    gamma : float, default 1
        The factor from one step to the next in the mode "exp_range".
    """

    low: float
    high: float
    up: int = 2000
    down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0

    def __call__(self, t: int) -> float:
        down = self.up if self.down is None else self.down
        period = self.up + down
        cycle, at = divmod(t - 1, period)
        height = at / self.up if at <= self.up else 1 - (at - self.up) / down
        base, exponent = {
            "triangular": (1.0, 0),
            "triangular2": (0.5, cycle),
            "exp_range": (self.gamma, t - 1),
        }[self.mode]
        return self.low + _times_power((self.high - self.low) * height, base, exponent)


@dataclass(frozen=True)
class Scaled(Schedule):
    """Another schedule times a factor: one course for optimizers whose rates differ.

    Parameters
    ----------
    schedule : callable
        A schedule, or another function of the step.
    factor : float
        What its rates are multiplied by.
    """

    schedule: Callable[[int], float]
    factor: float

    def __call__(self, t: int) -> float:
        return self.factor * rate_at(self.schedule, t)


@dataclass(frozen=True)
class Joined(Schedule):
    """One schedule after the other, each counted from its own start; made by :func:`join`.

    Parameters
    ----------
    schedules : sequence of callable
        Schedules, or other functions of the step; kept as a tuple.
    boundaries : sequence of int
        After how many steps each but the last ends: rising.

    Raises
    ------
    ValueError
        If there is no schedule, if there is not one boundary between each two, or if these do not rise.
    """

    schedules: tuple[Callable[[int], float], ...]
    boundaries: tuple[int, ...]

    def _check(self) -> None:
        super()._check()
        _check_parts("Joined", "schedules", self.schedules, self.boundaries)

    def __call__(self, t: int) -> float:
        part = sum(t > boundary for boundary in self.boundaries)
        return rate_at(self.schedules[part], t - (self.boundaries[part - 1] if part else 0))


def join(schedules: Sequence[Callable[[int], float]], boundaries: Sequence[int]) -> Joined:
    """Return a schedule that follows the first for ``boundaries[0]`` steps, then the second, and so on.

    Each is counted from its own start; ``optax.join_schedules``.

    Parameters
    ----------
    schedules : sequence of callable
        Schedules, or other functions of the step.
    boundaries : sequence of int
        After how many steps each but the last ends.

    Returns
    -------
    Joined
        The schedule.

    Raises
    ------
    ValueError
        If there is no schedule, if there is not one boundary between each two, or if these do not rise.

    Examples
    --------
    >>> schedule = join([Linear(0.0, 0.1, 2), Constant(0.1), Exponential(0.1, 0.5)], boundaries=[2, 4])
    >>> [schedule(t) for t in range(1, 7)]
    [0.0, 0.05, 0.1, 0.1, 0.1, 0.05]
    """
    return Joined(schedules, boundaries)  # type: ignore[arg-type] # which makes tuples of both, if it can


@dataclass
class ReduceOnPlateau(Schedule):
    """A rate that falls when what is reported to it has stopped to improve.

    ``torch.optim.lr_scheduler.ReduceLROnPlateau``. The one schedule that is not frozen: :meth:`report` changes it.

    Parameters
    ----------
    lr : float
        The first rate.
    factor : float in [0, 1), default 0.1
        What the rate is multiplied by each time.
    patience : int, default 10
        How many reports in a row may be without an improvement; at the next one the rate falls.
    threshold : float, default 0.0001
        By more than this a value must be better than the best one to count as an improvement.
    threshold_mode : {"rel", "abs"}, default "rel"
        Whether ``threshold`` is a share of the best value, or in its unit.
    cooldown : int, default 0
        For how many reports after a fall none counts as bad.
    least : float, default 0
        The rate does not fall below this.
    maximize : bool, default False
        Whether large values are the better ones, as with an accuracy.

    Attributes
    ----------
    current : float
        The rate as it is now.
    best : float or None
        The best value that has been reported.
    bad : int
        How many reports in a row have been without an improvement.
    cooling : int
        For how many reports more none counts as bad.

    Raises
    ------
    ValueError
        If ``factor`` is not less than 1, or another argument is out of its range.

    Examples
    --------
    >>> schedule = ReduceOnPlateau(lr=0.1, factor=0.5, patience=1)
    >>> for loss in (1.0, 0.5, 0.5, 0.5):
    ...     schedule.report(loss)
    >>> schedule(5)
    0.05
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    least: float = 0.0
    maximize: bool = False
    current: float = field(init=False, repr=False)
    best: float | None = field(init=False, repr=False, default=None, metadata={_CHECK: _score})
    bad: int = field(init=False, repr=False, default=0)
    cooling: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        self.current = self.lr
        super().__post_init__()

    def _check(self) -> None:
        super()._check()
        if self.factor >= 1:
            raise ValueError(f"ReduceOnPlateau: factor must be less than 1, got {self.factor!r}")

    def __call__(self, t: int) -> float:
        return float(self.current)

    def report(self, value: float) -> None:
        """Tell what was reached.

        Parameters
        ----------
        value : float
            A loss, or with ``maximize`` an accuracy. NaN is no improvement.

        Raises
        ------
        TypeError
            If it is no number.
        """
        value = real("ReduceOnPlateau: value", value)
        if self._improves(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            # A rate that lies below the least one stays: it does not rise.
            self.current = min(self.current, max(self.current * self.factor, self.least))
            self.cooling, self.bad = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        # The bound is computed as PyTorch does it, so that a value that lies just on it counts as it does there.
        sign, worst = (1, -inf) if self.maximize else (-1, inf)
        if self.best is None or self.best == worst:
            bound = worst
        elif self.threshold_mode == "rel":
            bound = self.best * (1 + sign * copysign(self.threshold, self.best))
        else:
            bound = self.best + sign * self.threshold
        return value > bound if self.maximize else value < bound


# By name, as text and checkpoints have them.
SCHEDULES: dict[str, type[Schedule]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Schedule) and cls is not Schedule and not name.startswith("_")
}
