"""Schedules: the formulas by hand, PyTorch's and Optax's where they have one, and how optimizers take them."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from math import cos, inf, pi, sqrt

import numpy as np
import pytest
import schuss
from schuss import schedules as S
from schuss.specs import SCHEDULES, parse_optimizer, parse_schedule

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
    assert {each.__name__ for each in SCHEDULES.values() if isinstance(each, type)} == tested - {"Joined"} | {
        "ReduceOnPlateau"
    }


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
    (lambda: S.Constant(-1), "Constant: lr must be finite and not negative, got -1"),
    (lambda: S.Constant(float("nan")), "Constant: lr .*got nan"),
    (lambda: S.Cosine(0.1, 0), "Cosine: steps must be a whole number, at least 1, got 0"),
    (lambda: S.Step(0.1, 1.5), "Step: step_size must be a whole number, at least 1, got 1.5"),
    (lambda: S.PiecewiseConstant((1, 2), ()), "PiecewiseConstant of 2 parts needs 1 rising boundaries, got"),
    (lambda: S.join([S.Constant(1)] * 3, [5, 5]), "join of 3 parts needs 2 rising boundaries"),
    (lambda: S.WarmupCosine(1.0, 5, 5), "warmup must be less than steps"),
    (lambda: S.OneCycle(1.0, 2), "leaves no step to go up"),
    (lambda: S.Cyclic(0, 1, mode="round"), "mode must be triangular"),
    (lambda: S.ReduceOnPlateau(1.0, factor=1.0), "factor must be less than 1"),
    (lambda: S.ReduceOnPlateau(1.0, threshold_mode="?"), "threshold_mode must be rel or abs"),
]


@pytest.mark.parametrize(("make", "match"), BAD)
def test_bad_values_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


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
