"""Schedules: the formulas by hand, PyTorch's and Optax's where they have one, and how optimizers take them."""

from __future__ import annotations

import dataclasses
import os
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial
from math import cos, inf, pi, sqrt

import numpy as np
import pytest
import schuss
from schuss import schedules as S
from schuss.schedules import SCHEDULES
from schuss.specs import parse_optimizer, parse_schedule

BY_HAND = [
    (S.Constant(0.1), [0.1, 0.1, 0.1]),
    (S.InverseTime(0.2, 1.0), [0.2, 0.1, 0.2 / 3]),
    (S.InverseTime(0.2, 1.0, first_epoch=1), [0.1, 0.2 / 3, 0.05]),  # the course's table
    (S.InverseTime(0.2, 1.0, steps_per_epoch=2), [0.2, 0.2, 0.1, 0.1, 0.2 / 3]),
    (S.Exponential(1.0), [1, 0.95, 0.95**2]),
    (S.Exponential(1.0, 0.5, steps_per_epoch=2, first_epoch=1), [0.5, 0.5, 0.25]),
    (S.InverseSqrt(0.3), [0.3, 0.3 / sqrt(2), 0.3 / sqrt(3)]),
    (S.InverseSqrt(0.3, k=2.0, shift=3), [0.3, 0.6 / sqrt(5)]),
    (S.Step(1.0, 2, 0.5), [1, 1, 0.5, 0.5, 0.25]),
    (S.Step(1.0, 1, 0.5, steps_per_epoch=3), [1, 1, 1, 0.5]),
    (S.PiecewiseConstant((3.0, 2.0, 1.0), (1, 3)), [3, 2, 2, 1, 1]),
    (S.PiecewiseConstant((3.0, 2.0), (1,), steps_per_epoch=2), [3, 3, 2]),
    (S.Linear(1.0, 0.0, 4), [1, 0.75, 0.5, 0.25, 0, 0]),
    (S.Polynomial(1.0, 2, power=2.0), [1, 0.25, 0, 0]),
    (S.Cosine(1.0, 2, end=0.5), [1, 0.75, 0.5, 0.5]),
    (S.CosineWarmRestarts(1.0, 2, 2), [1, 0.5, 1, (1 + cos(pi / 4)) / 2, 0.5]),
    (S.Warmup(S.Constant(1.0), 4), [0, 0.25, 0.5, 0.75, 1, 1]),
    (S.Warmup(S.Linear(1.0, 0.0, 2), 1, start=0.5), [0.5, 1, 0.5, 0]),
    (S.WarmupCosine(1.0, 2, 4), [0, 0.5, 1, 0.5, 0, 0]),
    (S.Noam(4, 2, 2.0), [2 / 2 * 2**-1.5, 1 / sqrt(2), 1 / sqrt(3)]),
    (S.WSD(1.0, 2, 2, 2, end=0.5), [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.5]),
    (S.Cyclic(0.0, 1.0, 2), [0, 0.5, 1, 0.5, 0, 0.5]),
    (S.Cyclic(0.0, 1.0, 1, 3, "triangular2"), [0, 1, 2 / 3, 1 / 3, 0, 0.5]),
    (S.Scaled(S.Linear(1.0, 0.0, 2), 4.0), [4, 2, 0]),
    (S.join([S.Constant(5.0), S.Linear(1.0, 0.0, 2)], [2]), [5, 5, 1, 0.5, 0]),
]


@pytest.mark.parametrize(("schedule", "rates"), BY_HAND, ids=[repr(s) for s, _ in BY_HAND])
def test_by_hand(schedule, rates):
    found = [schedule(t) for t in range(1, len(rates) + 1)]
    np.testing.assert_allclose(found, rates, rtol=1e-14, atol=1e-16)
    assert all(type(rate) is float for rate in found)


# Where a power or a product is beyond all floats the rate is infinite, or what is right nonetheless.
FAR = 2**62
OVERFLOWS = [
    (S.Exponential(1.0, gamma=1e300), {1: 1.0, 2: 1e300, 3: inf, FAR: inf}),
    (S.Exponential(0.0, gamma=1e300), {3: 0.0, FAR: 0.0}),
    (S.Exponential(1, gamma=2), {1: 1.0, 3: 4.0, FAR: inf}),
    (S.Exponential(10**300, gamma=10**300, first_epoch=1), {1: inf}),
    (S.Exponential(1, gamma=0), {1: 1.0, 2: 0.0, FAR: 0.0}),
    (S.Step(1.0, 2, gamma=1e300), {2: 1.0, 3: 1e300, 5: inf, FAR: inf}),
    (S.Step(0.0, 2, gamma=1e300), {5: 0.0}),
    (S.Step(1, 1, gamma=3), {3: 9.0, FAR: inf}),
    (S.Cyclic(0.1, 0.5, 2, mode="exp_range", gamma=1e300), {1: 0.1, 3: inf, 5: 0.1, FAR + 1: 0.1, FAR + 3: inf}),
    (S.Cyclic(0.5, 0.5, 2, mode="exp_range", gamma=1e300), {3: 0.5, FAR + 3: 0.5}),
    (S.Cyclic(0.5, 0.25, 2, mode="exp_range", gamma=1e300), {1: 0.5, 3: -inf}),
    (S.Cyclic(0, 1, 2, mode="exp_range", gamma=2), {3: 4.0, FAR + 3: inf}),
    (S.Cyclic(0.0, 1.0, 2, gamma=1e300), {3: 1.0, 7: 1.0, FAR + 2: 0.5}),
    (S.Cyclic(0, 1, 2, gamma=2), {3: 1.0, FAR + 2: 0.5}),
    (S.Cyclic(0.0, 1.0, 2, mode="triangular2"), {3: 1.0, 7: 0.5, FAR + 2: 0.0}),
    (S.Cyclic(0.0, 1.0, 2), {FAR - 1: 1.0, FAR: 0.5, FAR + 1: 0.0}),
    (S.InverseTime(1.0, 1e308), {1: 1.0, FAR: 0.0}),
    (S.InverseTime(1.0, 10**308), {1: 1.0, 100: 0.0, FAR: 0.0}),
    (S.InverseSqrt(1e300, 1e300), {1: inf, FAR: inf}),
    (S.InverseSqrt(10**300, 10**300), {1: inf}),
    (S.InverseSqrt(1, 1, shift=10**308), {1: 1e-154}),
    (S.Polynomial(1.0, 10, power=1e308), {1: 1.0, 2: 0.0, FAR: 0.0}),
    (S.Polynomial(1, 10, power=10**308), {1: 1.0, 2: 0.0}),
    (S.Linear(1.7e308, 0.0, 2), {1: 1.7e308, 2: 0.85e308, FAR: 0.0}),
    (S.Cosine(1.7e308, 2), {1: 1.7e308, 2: 0.85e308, FAR: 0.0}),
    (S.Cosine(10**308, 2), {1: 1e308, 2: 0.5e308}),
    (S.CosineWarmRestarts(1.7e308, 2), {1: 1.7e308, 2: 0.85e308, FAR + 1: 1.7e308}),
    (S.CosineWarmRestarts(1.0, 2, 10**18), {1: 1.0, 3: 1.0, 3 + 10**18: 0.5}),
    (S.CosineWarmRestarts(1.0, 1, 2), {2**61: 1.0, 2**61 + 2**60: 0.5}),
    (S.OneCycle(1.7e308, 5, 0.6, 1.0, 1.0), {1: 1.7e308, 3: 1.7e308, 5: 1.7e308, FAR: 1.7e308}),
    (S.Warmup(S.Constant(1.6e308), 4), {1: 0.0, 2: 0.4e308, 4: inf, 5: 1.6e308, FAR: 1.6e308}),
    (S.Warmup(S.Constant(0), 4, start=10**308), {1: 1e308, 4: -inf, 5: 0.0}),
    (S.WarmupCosine(10**308, 4, 6), {1: 0.0, 2: 1e308 / 4, 5: 1e308, 6: 0.5e308, FAR: 0.0}),
    (S.WSD(10**308, 4, 1, 2), {2: 1e308 / 4, 6: 1e308, 7: 0.5e308, FAR: 0.0}),
    (S.Noam(1, 0, 1e308), {1: 1e308, FAR: 1e308 / 2**31}),
    (S.Noam(1, 2**62, 10**308), {FAR: 1e308 / 2**31}),
    (S.Scaled(S.Constant(1e300), 1e300), {1: inf}),
    (S.Scaled(S.Constant(10**300), 10**300), {1: inf}),
    (S.PiecewiseConstant((10**308, 1), (1,)), {1: 1e308, FAR: 1.0}),
    (S.join([S.Constant(1), S.Constant(2)], [FAR - 1]), {1: 1.0, FAR: 2.0}),
]


@pytest.mark.parametrize(("schedule", "rates"), OVERFLOWS, ids=[repr(s) for s, _ in OVERFLOWS])
def test_what_is_beyond_all_floats(schedule, rates):
    found = {t: schedule(t) for t in rates}
    assert found == rates
    assert all(type(rate) is float for rate in found.values())
    for t, rate in rates.items():
        if abs(rate) == inf:
            with pytest.raises(ValueError, match=rf"^lr\({t}\) must be finite and at least 0, got -?inf"):
                S.rate_at(schedule, t)


@pytest.mark.parametrize("t", [2**53 + 1, 2**62, 2**63 + 1, 10**300])
def test_steps_however_far(t):
    for schedule in (*(s for s, _ in (*BY_HAND, *TORCH, *OPTAX)), S.CosineWarmRestarts(1.0, 1, 3)):
        rate = schedule(t)
        assert type(rate) is float, schedule
        assert 0 <= rate <= 5, schedule


def test_every_schedule_is_tested_by_hand_or_against_a_peer():
    tested = {type(s).__name__ for s, _ in BY_HAND} | {type(s).__name__ for s, _ in (*TORCH, *OPTAX)}
    assert set(SCHEDULES) == tested | {"ReduceOnPlateau"}


TORCH = [
    (S.Exponential(0.5, 0.9), lambda L, o: L.ExponentialLR(o, 0.9)),
    (S.Step(0.5, 7, 0.3), lambda L, o: L.StepLR(o, 7, 0.3)),
    (S.PiecewiseConstant((0.5, 0.05, 0.005), (5, 11)), lambda L, o: L.MultiStepLR(o, [5, 11])),
    (S.Linear(0.25, 0.5, 9), lambda L, o: L.LinearLR(o, 0.5, 1.0, 9)),
    (S.Polynomial(0.5, 30, 1.7), lambda L, o: L.PolynomialLR(o, 30, 1.7)),
    (S.Cosine(0.5, 39, 0.1), lambda L, o: L.CosineAnnealingLR(o, 39, 0.1)),
    (S.CosineWarmRestarts(0.5, 5, 2, 0.1), lambda L, o: L.CosineAnnealingWarmRestarts(o, 5, 2, 0.1)),
    (S.CosineWarmRestarts(0.5, 7), lambda L, o: L.CosineAnnealingWarmRestarts(o, 7)),
    (S.OneCycle(0.5, 40), lambda L, o: L.OneCycleLR(o, 0.5, 40, cycle_momentum=False)),
    (
        S.OneCycle(0.5, 41, 0.4, 10.0, 100.0),
        lambda L, o: L.OneCycleLR(o, 0.5, 41, None, None, 0.4, "cos", False, 0.85, 0.95, 10.0, 100.0),
    ),
    (S.Cyclic(0.1, 0.5, 6, 9), lambda L, o: L.CyclicLR(o, 0.1, 0.5, 6, 9, cycle_momentum=False)),
    (
        S.Cyclic(0.1, 0.5, 5, mode="triangular2"),
        lambda L, o: L.CyclicLR(o, 0.1, 0.5, 5, None, "triangular2", cycle_momentum=False),
    ),
    (
        S.Cyclic(0.1, 0.5, 5, mode="exp_range", gamma=0.9),
        lambda L, o: L.CyclicLR(o, 0.1, 0.5, 5, None, "exp_range", 0.9, cycle_momentum=False),
    ),
]


@pytest.mark.filterwarnings("ignore")  # of PyTorch: that a scheduler steps without its optimizer
@pytest.mark.parametrize(("ours", "theirs"), TORCH, ids=[repr(s) for s, _ in TORCH])
def test_pytorchs(ours, theirs):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = theirs(torch.optim.lr_scheduler, opt)
    for t in range(1, 40):
        assert ours(t) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-12, abs=1e-15), t
        scheduler.step()


def _joined(o):
    return o.join_schedules([o.linear_schedule(0.0, 1.0, 5), o.cosine_decay_schedule(1.0, 9)], [6])


OPTAX = [
    (S.Constant(0.3), lambda o: o.constant_schedule(0.3)),
    (S.Linear(0.3, 0.1, 10), lambda o: o.linear_schedule(0.3, 0.1, 10)),
    (S.Polynomial(0.3, 10, 1.7, 0.1), lambda o: o.polynomial_schedule(0.3, 0.1, 1.7, 10)),
    (S.Cosine(0.3, 10, 0.06), lambda o: o.cosine_decay_schedule(0.3, 10, 0.2)),
    (S.Exponential(0.3, 0.9, 4), lambda o: o.exponential_decay(0.3, 4, 0.9, staircase=True)),
    (S.PiecewiseConstant((0.3, 0.03), (5,)), lambda o: o.piecewise_constant_schedule(0.3, {5: 0.1})),
    (S.WarmupCosine(0.3, 5, 20, 0.1, 0.05), lambda o: o.warmup_cosine_decay_schedule(0.1, 0.3, 5, 20, 0.05)),
    (S.join([S.Linear(0.0, 1.0, 5), S.Cosine(1.0, 9)], [6]), _joined),
]


@pytest.mark.parametrize(("ours", "theirs"), OPTAX, ids=[repr(s) for s, _ in OPTAX])
def test_optaxs(ours, theirs):
    optax = pytest.importorskip("optax", reason="Optax is not installed (extra parity)")
    import jax

    with jax.enable_x64(True):
        schedule = theirs(optax)
        for t in range(1, 25):
            assert ours(t) == pytest.approx(float(schedule(t - 1)), rel=1e-12, abs=1e-15), t


def test_optimizers_take_optaxs_as_they_are():
    optax = pytest.importorskip("optax", reason="Optax is not installed (extra parity)")
    params = {"p": np.zeros(1)}
    opt = schuss.SGD(lr=optax.linear_schedule(1.0, 0.0, 4))
    for expected in (1.0, 0.75, 0.5):
        opt.update(params, {"p": np.ones(1)})
        assert opt.current_lr == expected
    assert params["p"][0] == -2.25


# Schedules that count from 0 wherever they stand: inside ours, each from its own start.


def _made_by(module):
    """A function as a package would have made it: 10, 11, 12, ... from 0 on."""

    def schedule(count):
        return 10.0 + count

    schedule.__module__ = module
    return schedule


def _class_of(module, name="LearningRateSchedule"):
    return type(name, (), {"__module__": module, "__call__": lambda self, count: 10.0 + count})


class _Users(_class_of("keras.src.optimizers.schedules.learning_rate_schedule")):
    """A class of the user's own."""


FROM_ZERO = {
    "Optax's": _made_by("optax.schedules._schedule"),
    "of Optax itself": _made_by("optax"),
    "partial": partial(_made_by("optax.schedules._schedule")),
    "partial of partial": partial(partial(_made_by("optax"))),
    "Keras's": _class_of("keras.src.optimizers.schedules.learning_rate_schedule")(),
    "TensorFlow's": _class_of("tensorflow.python.keras.optimizer_v2.learning_rate_schedule")(),
    "the old Keras's": _class_of("tf_keras.src.optimizers.schedules")(),
    "a subclass of Keras's": _Users(),
    "partial of Keras's": partial(_Users()),
}
FROM_ONE = {
    "a user's": _made_by("__main__"),
    "optax_helpers": _made_by("optax_helpers.rates"),
    "optaxes": _made_by("optaxes"),
    "of no module": _made_by(None),
    "mine.optax": _made_by("mine.optax"),
    "partial": partial(_made_by("optax_helpers")),
    "another LearningRateSchedule": _class_of("keras_helpers")(),
    "another class of Keras": _class_of("keras.src.optimizers", "Adam")(),
}


@pytest.mark.parametrize(
    ("schedule", "first"),
    [*((each, 10.0) for each in FROM_ZERO.values()), *((each, 11.0) for each in FROM_ONE.values())],
    ids=[*(f"{name}: 0" for name in FROM_ZERO), *(f"{name}: 1" for name in FROM_ONE)],
)
def test_others_schedules_begin_at_their_own_first_rate(schedule, first):
    """The step t that is given to ours is the first for what it holds where that begins."""
    assert [S.rate_at(schedule, t) for t in (1, 2, 7)] == [first, first + 1, first + 6]
    assert [S.Scaled(schedule, 2.0)(t) for t in (1, 2)] == [2 * first, 2 * first + 2]
    assert [S.Warmup(schedule, 2)(t) for t in (1, 2, 3, 4)] == [0.0, first / 2, first, first + 1]
    assert [S.join([schedule, schedule], [2])(t) for t in (1, 2, 3, 4)] == [first, first + 1] * 2
    nested = S.Warmup(S.join([S.Scaled(schedule, 0.5), schedule], [1]), 1, start=1.0)
    assert [nested(t) for t in (1, 2, 3, 4)] == [1.0, first / 2, first, first + 1]
    assert all(type(S.rate_at(each, 2)) is float for each in (schedule, nested))


@pytest.mark.parametrize("name", ["linear", "cosine", "joined", "constant", "jit", "partial"])
def test_optaxs_inside_ours(name):
    optax = pytest.importorskip("optax", reason="Optax is not installed (extra parity)")
    import jax

    linear = optax.linear_schedule(1.0, 0.0, 4)
    theirs = {
        "linear": linear,
        "cosine": optax.cosine_decay_schedule(0.3, 10),
        "joined": optax.join_schedules([linear, optax.constant_schedule(0.5)], [3]),
        "constant": optax.constant_schedule(0.3),
        "jit": jax.jit(linear),
        "partial": partial(linear),
    }[name]
    _assert_counted_from_zero(theirs)


@pytest.mark.parametrize("name", ["cosine", "steps", "own"])
def test_kerass_inside_ours(name):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("torch", reason="PyTorch is not installed (extra parity), which Keras computes with here")
    keras = pytest.importorskip("keras", reason="Keras is not installed (extra parity)")

    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 / (1 + step)

    theirs = {
        "cosine": keras.optimizers.schedules.CosineDecay(0.3, 10),
        "steps": keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.3, 0.2, 0.1]),
        "own": Own(),
    }[name]
    _assert_counted_from_zero(theirs)


def _assert_counted_from_zero(theirs):
    rates = [float(theirs(count)) for count in range(5)]
    assert [S.rate_at(theirs, t) for t in range(1, 6)] == rates
    assert [S.Scaled(theirs, 3.0)(t) for t in range(1, 6)] == [3.0 * rate for rate in rates]
    assert [S.Warmup(theirs, 1)(t) for t in range(1, 7)] == [0.0, *rates]
    assert [S.join([theirs, theirs], [2])(t) for t in range(1, 7)] == rates[:2] + rates[:4]
    opt = schuss.SGD(lr=S.Scaled(theirs, 1.0))
    assert opt.current_lr == rates[0]


@pytest.mark.parametrize(
    ("rate", "error", "match"),
    [
        (-1.0, ValueError, "must be finite and at least 0, got -1.0"),
        (float("nan"), ValueError, "must be finite and at least 0, got nan"),
        (np.float32("inf"), ValueError, "must be finite and at least 0, got np.float32"),
        ("x", TypeError, "must be a number, got 'x'"),
        (np.array([0.1]), TypeError, "must be a number, got array"),
        (np.complex128(1j), TypeError, "must be a number, got np.complex128"),
        (np.array(True), TypeError, "must be a number, got array"),
    ],
)
def test_what_a_schedule_returns_is_checked_where_it_is_asked(rate, error, match):
    for_one = lambda t: rate  # noqa: E731
    for_zero = lambda count: rate  # noqa: E731
    for_zero.__module__ = "optax"
    for schedule, count in ((for_one, 3), (for_zero, 2)):
        for ask in (S.rate_at, lambda each, t: S.Scaled(each, 1.0)(t)):
            with pytest.raises(error, match=rf"^lr\({count}\) {match}"):
                ask(schedule, 3)


def test_plateau_by_hand():
    schedule = S.ReduceOnPlateau(1.0, 0.5, patience=1, threshold=0.1, cooldown=1, least=0.2)
    rates = []
    for loss in (10, 9.5, 8.9, 8.5, 8.2, 8.1, 8.1, 8.1, 1, 1, 1, 1, 1, 1):
        schedule.report(loss)
        rates.append(schedule(len(rates) + 1))
    #          10   -    8.9  -    half cool -     half 1    -     least
    assert rates == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize("mode", ["rel", "abs"])
@pytest.mark.parametrize("maximize", [False, True])
def test_plateau_is_pytorchs(maximize, mode, cooldown, seed):
    """Rates, exactly, over reports among which are ties with the threshold, NaN and infinities."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    rng = np.random.default_rng(seed)
    for _ in range(40):
        patience, threshold = int(rng.integers(0, 4)), float(rng.choice([0.0, 1e-4, 0.05, 0.1]))
        factor, least = float(rng.choice([0.3, 0.9, 0.0])), float(rng.choice([0.0, 0.01, 0.7]))
        opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
            opt, "max" if maximize else "min", factor, patience, threshold, mode, cooldown, least, eps=0.0
        )
        ours = S.ReduceOnPlateau(0.5, factor, patience, threshold, mode, cooldown, least, maximize)
        values = rng.uniform(1, 3, 40).round(1)
        odd = rng.random(40) < rng.choice([0.0, 0.1, 0.5])
        values[odd] = rng.choice([float("nan"), float("inf"), float("-inf")], odd.sum())
        for t, value in enumerate(values.tolist(), 1):
            peer.step(value)
            ours.report(value)
            assert ours(t) == opt.param_groups[0]["lr"], (ours, values[:t])


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("mode", ["rel", "abs"])
def test_reports_of_nothing_are_bad_ones(mode, maximize):
    """NaN and the worst value are never the best, and what follows them can improve."""
    worst = float("-inf" if maximize else "inf")
    schedule = S.ReduceOnPlateau(1.0, 0.5, patience=1, threshold_mode=mode, maximize=maximize)
    for value in (float("nan"), worst):
        schedule.report(value)
        assert schedule.best is None
    assert schedule(3) == 0.5
    schedule.report(2.0)
    for value in (float("nan"), worst):
        schedule.report(value)
        assert schedule.best == 2.0
    assert (schedule.bad, schedule(6)) == (0, 0.25)
    schedule.report(-worst)
    assert (schedule.best, schedule.bad) == (-worst, 0)


@pytest.mark.parametrize(("first", "second", "better"), [(-1.0, -1.1, True), (-1.0, -1.05, False), (0.0, -1e-9, True)])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_share_of_a_best_value_that_is_negative(maximize, first, second, better):
    """Here PyTorch would have an improvement in what is worse by up to the threshold."""
    schedule = S.ReduceOnPlateau(1.0, threshold=0.0625, maximize=maximize)
    sign = -1 if maximize else 1
    schedule.report(first * sign)
    schedule.report(second * sign)
    assert (schedule.best == second * sign) is better


@pytest.mark.parametrize("value", ["1.5", b"1.5", None, True, 1j, [1.0], np.array([1.0])])
def test_reports_are_numbers(value):
    schedule = S.ReduceOnPlateau(1.0)
    with pytest.raises(TypeError, match=r"^ReduceOnPlateau: value must be a number, got "):
        schedule.report(value)
    assert (schedule.best, schedule.bad) == (None, 0)


BAD = [
    (lambda: S.Constant(-1), "^Constant: lr must be finite and at least 0, got -1$"),
    (lambda: S.Constant("x"), "^Constant: lr must be a number, got 'x'$"),
    (lambda: S.Cosine(0.1, 0), "^Cosine: steps must be a whole number from 1 on, got 0$"),
    (
        lambda: S.Cosine(0.1, 2**63),
        r"^Cosine: steps must be a whole number from 1 to 2\*\*63 - 1, got 9223372036854775808$",
    ),
    (lambda: S.Step(0.1, 1.5), "^Step: step_size must be a whole number from 1 on, got 1.5$"),
    (
        lambda: S.Warmup(0.1, 3),
        r"^Warmup: then must be a schedule or another function of the step, as Constant\(0.1\) is, got 0.1$",
    ),
    (lambda: S.PiecewiseConstant("12", (1,)), "^PiecewiseConstant: rates must be a tuple or list, got '12'$"),
    (
        lambda: S.PiecewiseConstant((1, -2), (1,)),
        r"^PiecewiseConstant: rates\[1\] must be finite and at least 0, got -2$",
    ),
    (lambda: S.PiecewiseConstant((), ()), r"^PiecewiseConstant: rates must have at least one part, got \(\)$"),
    (lambda: S.PiecewiseConstant((1, 2), ()), r"^PiecewiseConstant: boundaries must be 1 for the 2 rates, got \(\)$"),
    (lambda: S.join([S.Constant(1)] * 3, [5, 5]), r"^Joined: boundaries must rise, got \(5, 5\)$"),
    (lambda: S.join([], []), r"^Joined: schedules must have at least one part, got \(\)$"),
    (lambda: S.Joined((S.Constant(1), 2), (3,)), r"^Joined: schedules\[1\] must be a schedule .*, got 2$"),
    (lambda: S.WarmupCosine(1.0, 5, 5), "^WarmupCosine: warmup must be less than steps, got 5 of 5$"),
    (
        lambda: S.OneCycle(1.0, 2),
        r"^OneCycle: rise must leave some of the 2 steps to go up and some to go down, got 0.3$",
    ),
    (lambda: S.OneCycle(1.0, 10, div=0.0), "^OneCycle: div must be more than 0 and leave a finite rate, got 0.0$"),
    (
        lambda: S.OneCycle(1.0, 10, final_div=5e-324),
        "^OneCycle: final_div must be more than 0 and leave a finite rate, got 5e-324$",
    ),
    (lambda: S.Cyclic(0, 1, mode="round"), "^Cyclic: mode must be triangular, triangular2 or exp_range, got 'round'$"),
    (lambda: S.ReduceOnPlateau(1.0, factor=1.0), "^ReduceOnPlateau: factor must be less than 1, got 1.0$"),
    (
        lambda: S.ReduceOnPlateau(1.0, threshold_mode="?"),
        r"^ReduceOnPlateau: threshold_mode must be rel or abs, got '\?'$",
    ),
    (lambda: S.ReduceOnPlateau(1.0, maximize=1), "^ReduceOnPlateau: maximize must be True or False, got 1$"),
]


@pytest.mark.parametrize(("make", "match"), BAD)
def test_bad_values_are_refused(make, match):
    with pytest.raises((TypeError, ValueError), match=match):
        make()


def test_schedules_of_the_users_own():
    """Their fields are checked by their types too, where we know these and can look them up."""

    class Unknown:
        pass

    @dataclasses.dataclass(frozen=True)
    class Known(S.Schedule):
        lr: float
        offset: int = 0
        more: dict[str, int] | None = None

    assert Known(np.float32(0.5), more={"a": -1}) == Known(0.5, 0, {"a": -1})
    with pytest.raises(ValueError, match=r"^Known: lr must be finite and at least 0, got -1$"):
        Known(-1)

    @dataclasses.dataclass(frozen=True)
    class Local(S.Schedule):
        lr: float
        more: Unknown | None = None

    assert Local("x").lr == "x"


# Every field of every schedule. The arguments are such that one of them can become 0.5, or 3, by itself.
ARGUMENTS = {
    S.Constant: {"lr": 0.25},
    S.InverseTime: {"lr": 0.25, "decay_rate": 1.0},
    S.Exponential: {"lr": 0.25},
    S.InverseSqrt: {"lr": 0.25},
    S.Step: {"lr": 0.25, "step_size": 2},
    S.PiecewiseConstant: {"rates": (0.25, 0.125), "boundaries": (2,)},
    S.Linear: {"lr": 0.25, "end": 0.0, "steps": 4},
    S.Polynomial: {"lr": 0.25, "steps": 4},
    S.Cosine: {"lr": 0.25, "steps": 4},
    S.CosineWarmRestarts: {"lr": 0.25, "period": 4},
    S.OneCycle: {"lr": 0.25, "steps": 10, "rise": 0.4},
    S.Warmup: {"then": S.Constant(0.25), "warmup": 2},
    S.WarmupCosine: {"lr": 0.25, "warmup": 2, "steps": 4},
    S.Noam: {"d_model": 4},
    S.WSD: {"lr": 0.25, "warmup": 2, "stable": 2, "decay": 2},
    S.Cyclic: {"low": 0.0, "high": 0.25},
    S.Scaled: {"schedule": S.Constant(0.25), "factor": 2.0},
    S.Joined: {"schedules": (S.Constant(0.25), S.Constant(0.125)), "boundaries": (2,)},
    S.ReduceOnPlateau: {"lr": 0.25},
}

# What is taken for a rate or a factor, for a count, for a function, and what is not: (given, kept), and (given).
FLOATS = [
    *((given, 0.5) for given in (0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5"))),
    *((given, 0.0) for given in (0.0, np.int64(0), np.float16(0))),
    (Fraction(1, 3), 1 / 3),
    (Decimal("0.3"), 0.3),
    (0, 0),
]
COUNTS = [(given, 3) for given in (3, np.int64(3), np.uint8(3), np.array(3))]
NOTHING = [True, np.bool_(True), np.array(True), "3", b"3", np.str_("3"), np.array("3"), np.timedelta64(3, "s")]
NOTHING += [1j, np.complex64(3), np.array(3j), [3], (3,), {3}, np.array([0.1]), np.array([3]), object()]
NO_RATE = [float("nan"), inf, -inf, -1, -0.5, np.float32("nan"), np.float32("inf"), np.float32(-1), np.int64(-1)]
NO_RATE += [10**400, -(10**400), Fraction(-1, 2), Decimal("nan"), Decimal("-inf"), np.array(-1.0), np.array(np.nan)]
NO_COUNT = [*NOTHING, *NO_RATE, 0.5, 3.0, np.float64(3), Fraction(3), Decimal(3), 2**63]
NO_FUNCTION = [None, 3, 0.1, *NOTHING, *NO_RATE]
NO_CHOICE = [None, "", "x", 0, *NOTHING, *NO_RATE]


def _sequences_of(bad, good):
    yield from ([good, each] for each in bad)
    yield from ((each, good) for each in bad)
    yield from (
        None,
        3,
        0.5,
        "3",
        b"3",
        bytearray(b"3"),
        np.array(3),
        True,
        object(),
        {good},
        {good: 1},
        iter([good]),
        np.array([[0.5]]),
    )
    yield from (good, [])


# What a field of each type takes, and what it does not.
FIELDS = {
    "float": (FLOATS, [None, *NOTHING, *NO_RATE]),
    "int": (COUNTS, [None, *NO_COUNT]),
    "int | None": ([(None, None), *COUNTS], [0, *NO_COUNT]),
    "bool": ([(True, True), (np.bool_(False), False)], [None, 0, 1, np.array(True), "True", *NOTHING[3:], *NO_RATE]),
    "tuple[float, ...]": (
        [*(([given, 1], (kept, 1)) for given, kept in FLOATS), (np.array([1, 0.5]), (1.0, 0.5)), (range(2), (0, 1))],
        [*_sequences_of([None, *NOTHING, *NO_RATE], 0.5)],
    ),
    "tuple[int, ...]": (
        [*(([given], (kept,)) for given, kept in COUNTS), (np.array([3]), (3,)), (range(3, 4), (3,))],
        [[0], (2, 2), (1, 2), *_sequences_of([None, *NO_COUNT], 2)],
    ),
    "Callable[[int], float]": ([(abs, abs)], NO_FUNCTION),
    "tuple[Callable[[int], float], ...]": ([([abs, abs], (abs, abs))], [*_sequences_of(NO_FUNCTION, abs)]),
    "Literal['triangular', 'triangular2', 'exp_range']": (
        [("exp_range",) * 2, (np.str_("triangular"), "triangular")],
        NO_CHOICE,
    ),
    "Literal['rel', 'abs']": ([("abs",) * 2, (np.str_("rel"), "rel")], NO_CHOICE),
}
# The whole numbers that may be 0; and what is refused beside all that.
FROM_0 = {"warmup", "stable", "first_epoch", "patience", "cooldown", "bad", "cooling"}
ALSO_BAD = {(S.OneCycle, "div"): [0], (S.OneCycle, "final_div"): [0], (S.OneCycle, "rise"): [0, 0.1, 1.0, 2]}
BEST = (
    [(None, None), (-1, -1.0), (inf, inf), (-inf, -inf), (np.float32(-0.5), -0.5), (Decimal("inf"), inf), *FLOATS[:-1]],
    [*NOTHING, float("nan"), np.float32("nan"), Decimal("nan"), 10**400, -(10**400)],
)
EVERY_FIELD = [(cls, each) for cls in ARGUMENTS for each in dataclasses.fields(cls)]
every_field = pytest.mark.parametrize(
    ("cls", "each"), EVERY_FIELD, ids=[f"{cls.__name__}.{each.name}" for cls, each in EVERY_FIELD]
)


def _set(cls, each, value):
    """Make a schedule of which one field is another; where a checkpoint would set it, as that does."""
    if each.init:
        return cls(**{**ARGUMENTS[cls], each.name: value})
    schedule = cls(**ARGUMENTS[cls])
    object.__setattr__(schedule, each.name, value)
    schedule._check()
    return schedule


def test_every_schedules_fields_are_tested():
    assert set(ARGUMENTS) == {
        each for each in vars(S).values() if isinstance(each, type) and issubclass(each, S.Schedule)
    } - {S.Schedule}


@every_field
def test_what_a_field_does_not_take(cls, each):
    bad = BEST[1] if each.name == "best" else FIELDS[each.type][1]
    if each.type == "int":
        bad = [*bad, -1 if each.name in FROM_0 else 0]
    for value in (*bad, *ALSO_BAD.get((cls, each.name), ())):
        try:
            _set(cls, each, value)
        except (TypeError, ValueError) as error:
            found = str(error)
        else:
            found = "no error"
        assert re.match(f"{cls.__name__}: {each.name}\\b.*, got ", found), (value, found)


@every_field
def test_what_a_field_takes(cls, each):
    good = BEST[0] if each.name == "best" else FIELDS[each.type][0]
    if each.name in FROM_0:
        good = [*good, (np.int64(0), 0)]
    for value, kept in good:
        if (cls, each.name) in ALSO_BAD and kept in (0, 0.0):
            continue
        schedule = _set(cls, each, value)
        found = getattr(schedule, each.name)
        assert (type(found), found) == (type(kept), kept)
        assert repr(found) == repr(kept)
        assert repr(schedule) == repr(_set(cls, each, kept))
        assert schedule == _set(cls, each, kept)
        if cls is not S.ReduceOnPlateau:
            assert hash(schedule) == hash(_set(cls, each, kept))
        assert schedule._check() is None
        assert schedule == _set(cls, each, kept)


@pytest.mark.parametrize("schedule", [s for s, _ in BY_HAND if "Joined" not in repr(s)], ids=repr)
def test_their_repr_makes_them_again(schedule):
    assert parse_schedule(repr(schedule)) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.lr = 2


def test_schedules_in_optimizers_and_groups():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = schuss.SGD(lr=S.Linear(1.0, 0.0, 4), groups={"b": {"lr": S.Constant(2.0)}})
    for _ in range(3):
        opt.update(params, {"a": np.ones(1), "b": np.ones(1)})
    assert (params["a"][0], params["b"][0], opt.current_lr) == (-2.25, -6.0, 0.5)


SPECS = [
    ("Adam", "Adam(lr=0.001, beta1=0.9, beta2=0.999, eps_hat=1e-07)"),
    (" SGD(0.5) ", "SGD(lr=0.5)"),
    (
        "SGD(lr=Warmup(Cosine(0.1, 20), warmup=5))",
        "SGD(lr=Warmup(then=Cosine(lr=0.1, steps=20, end=0.0), warmup=5, start=0.0))",
    ),
    ("SGD(lr=join([Constant(1), Constant(2)], [5]))", None),
    (
        "Lion(groups={'*b': {'lr': 0.1}})",
        "Lion(lr=0.0001, beta1=0.9, beta2=0.99, groups={'*b': {'lr': 0.1}})",
    ),
]


@pytest.mark.parametrize(("text", "shown"), SPECS)
def test_optimizers_from_text(text, shown):
    opt = parse_optimizer(text).make()
    assert shown is None or repr(opt) == shown


BAD_SPECS = [
    ("Adamm", "no optimizer is called 'Adamm'; there are SGD, "),
    ("Adam(", r"'Adam\(' cannot be read; write a name, as in Adam, or a call"),
    ("Adam.SGD()", "cannot be read"),
    ("Adam(lr=-1)", r"'Adam\(lr=-1\)': lr must be finite and at least 0, got -1"),
    ("Adam(learning_rate=1)", "here it is called 'lr'"),
    ("Adam(lr=open('x'))", "is neither a number nor a schedule"),
    ("Adam(lr=Cosine(0.1))", "missing 1 required positional argument: 'steps'"),
    ("__import__('os')", "no optimizer is called '__import__'"),
]


@pytest.mark.parametrize(("text", "match"), BAD_SPECS)
def test_bad_text_is_refused(text, match):
    with pytest.raises(ValueError, match=match):
        parse_optimizer(text)
