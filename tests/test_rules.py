"""Each rule against steps computed by hand, and against the textbook's formulas."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import schuss

MODULES = pytest.mark.parametrize("module", [schuss, schuss.reference], ids=["schuss", "reference"])

# p from 1, gradients 0.5 and then -0.25; numbers worked out on paper from the table of conventions.
BY_HAND = {
    "SGD": ({"lr": 0.1}, [1 - 0.05, 0.95 + 0.025], {}),
    # v = -0.05; p = 0.95; v = 0.9 * -0.05 + 0.025 = -0.02; p = 0.93
    "Momentum": ({"lr": 0.1, "momentum": 0.9}, [0.95, 0.93], {"v": -0.02}),
    # v = -0.05; p = 1 - 0.045 - 0.05 = 0.905; v = -0.02; p = 0.905 - 0.018 + 0.025 = 0.912
    "Nesterov": ({"lr": 0.1, "momentum": 0.9}, [0.905, 0.912], {"v": -0.02}),
    # h = 0.25; p = 0.9; h = 0.3125; p = 0.9 + 0.025 / sqrt(0.3125)
    "AdaGrad": ({"lr": 0.1, "eps": 0.0}, [0.9, 0.9 + 0.025 / sqrt(0.3125)], {"h": 0.3125}),
    # h = 0.1 * 0.25 = 0.025; p = 1 - 0.05 / sqrt(0.025); h = 0.0225 + 0.1 * 0.0625 = 0.02875
    "RMSprop": (
        {"lr": 0.1, "decay_rate": 0.9, "eps": 0.0},
        [1 - 0.05 / sqrt(0.025), 1 - 0.05 / sqrt(0.025) + 0.025 / sqrt(0.02875)],
        {"h": 0.02875},
    ),
    # m = 0.05, v = 0.00025, both over their corrections 0.1 and 0.001: a first step of lr.
    # m = 0.045 - 0.025 = 0.02, v = 0.00024975 + 0.0000625 = 0.00031225; corrections 0.19 and 0.001999
    "Adam": (
        {"lr": 0.1, "eps": 0.0},
        [0.9, 0.9 - 0.1 * (0.02 / 0.19) / sqrt(0.00031225 / 0.001999)],
        {"m": 0.02, "v": 0.00031225},
    ),
    # Adam's steps, after 1 - 0.1 * 0.5 of the parameter is left.
    "AdamW": (
        {"lr": 0.1, "eps": 0.0, "weight_decay": 0.5},
        [0.85, 0.95 * 0.85 - 0.1 * (0.02 / 0.19) / sqrt(0.00031225 / 0.001999)],
        {"m": 0.02, "v": 0.00031225},
    ),
    # m = 0.1, v = h = 0.125; m = 0.08 - 0.05 = 0.03, v = 0.0625 + 0.03125 = 0.09375 < h
    "AMSGrad": (
        {"lr": 0.1, "beta1": 0.8, "beta2": 0.5, "eps": 0.0},
        [1 - 0.1 * 0.1 / sqrt(0.125), 1 - 0.1 * 0.13 / sqrt(0.125)],
        {"m": 0.03, "v": 0.09375, "h": 0.125},
    ),
    # m = 0.05, u = 0.5; m = 0.02, u = max(0.5 * 0.5, 0.25) = 0.25
    "Adamax": (
        {"lr": 0.1, "beta2": 0.5, "eps": 0.0},
        [0.9, 0.9 - 0.1 / 0.19 * 0.02 / 0.25],
        {"m": 0.02, "u": 0.25},
    ),
    # mu = 0.45 always; v = 0.125, corrected 0.25; v = 0.0625 + 0.03125 = 0.09375, corrected 0.125
    "NAdam": (
        {"lr": 0.1, "beta2": 0.5, "eps": 0.0, "momentum_decay": 0.0},
        [
            1 - 0.1 * (0.5 + 0.45 / (1 - 0.45**2) * 0.05) / 0.5,
            1
            - 0.1 * (0.5 + 0.45 / (1 - 0.45**2) * 0.05) / 0.5
            - 0.1 * (0.55 / (1 - 0.45**2) * -0.25 + 0.45 / (1 - 0.45**3) * 0.02) / sqrt(0.125),
        ],
        {"m": 0.02, "v": 0.09375},
    ),
    # rho is 1 and then 2: steps of the corrected momentum alone.
    "RAdam": ({"lr": 0.1}, [0.95, 0.95 - 0.1 * 0.02 / 0.19], {"m": 0.02, "v": 0.00031225}),
    # h = 0.125, u = 0.5 / sqrt(1.125), u u = 2 / 9, d = 1 / 9; h = 0.09375
    "AdaDelta": (
        {"lr": 1.0, "decay_rate": 0.5, "eps": 1.0},
        [1 - sqrt(2 / 9), 1 - sqrt(2 / 9) + 0.25 * sqrt(10 / 9 / 1.09375)],
        {"h": 0.09375, "d": 1 / 18 + 0.5 * 0.0625 * (10 / 9 / 1.09375)},
    ),
    # sign(0.05) = 1, m = 0.25; sign(0.225 - 0.025) = 1 though the gradient has turned, m = 0.125 - 0.125 = 0
    "Lion": ({"lr": 0.1, "beta2": 0.5, "weight_decay": 0.5}, [0.85, 0.95 * 0.85 - 0.1], {"m": 0.0}),
    # The direction has one sign in all elements: a tenth of the parameter's length, whatever it is.
    "LAMB": ({"lr": 0.1, "eps": 0.0}, [0.9, 0.81], {"m": 0.02, "v": 0.00031225}),
    # ratio = 0.1 / (0.5 + 0.5); ratio = 0.1 * 0.9 / (0.25 + 0.45)
    "LARS": (
        {"lr": 1.0, "trust": 0.1, "weight_decay": 0.5},
        [0.9, 0.9 - 0.09 - 0.09 / 0.7 * (-0.25 + 0.45)],
        {"v": -0.09 - 0.09 / 0.7 * 0.2},
    ),
    # d = 0, m = 0.05, n = 0.125; d = -0.75, m = 0.02, v = -0.15, n = 0.0625 + 0.5 * 0.85 * 0.85
    "Adan": (
        {"lr": 0.1, "beta1": 0.9, "beta2": 0.8, "beta3": 0.5, "eps": 0.0, "weight_decay": 0.5},
        [
            0.9 / 1.05,
            (0.9 / 1.05 - 0.1 * (0.02 / 0.19 + 0.8 * -0.15 / 0.36) / sqrt(0.42375 / 0.75)) / 1.05,
        ],
        {"m": 0.02, "v": -0.15, "n": 0.42375, "b": -0.25},
    ),
    # z = x = 0.95; z = 0.975, x = (0.95 + 0.975) / 2, p = 0.1 z + 0.9 x
    "ScheduleFreeSGD": ({"lr": 0.1}, [0.95, 0.1 * 0.975 + 0.9 * 0.9625], {"z": 0.975, "x": 0.9625}),
    # z = x = 0.9; z = 0.9 + 0.025 / sqrt(v corrected), x in the middle between 0.9 and z
    "ScheduleFreeAdamW": (
        {"lr": 0.1, "eps": 0.0},
        [0.9, 0.9 + (0.1 + 0.9 * 0.5) * 0.025 / sqrt(0.00031225 / 0.001999)],
        {"v": 0.00031225, "x": 0.9 + 0.0125 / sqrt(0.00031225 / 0.001999)},
    ),
    # v = 0.25, u = 1, a tenth of the length 1; v = 0.25 - 0.1875 * 2 ** -0.8, |u| < 1: a tenth of 0.9 |u|
    "Adafactor": (
        {"lr": 0.1},
        [0.9, 0.9 + 0.09 * 0.25 / sqrt(0.25 - 0.1875 * 2**-0.8)],
        {"v": 0.25 - 0.1875 * 2**-0.8},
    ),
}


@MODULES
def test_two_steps_by_hand(rule, module):
    arguments, after, state = BY_HAND[rule]
    params = {"p": np.ones(3)}
    opt = getattr(module, rule)(**arguments)
    for gradient, expected in zip((0.5, -0.25), after, strict=True):
        opt.update(params, {"p": np.full(3, gradient)})
        np.testing.assert_allclose(params["p"], expected, rtol=1e-14)
    for slot, expected in state.items():
        np.testing.assert_allclose(opt.state["p"][slot], expected, rtol=1e-13)
    assert opt.t == 2


@MODULES
def test_epsilon_of_adam_in_its_two_places(module):
    """A large epsilon shows where it is added: to sqrt(v) as eps_hat, to the corrected root as eps."""
    m, v, g = 0.05, 0.00025, 0.5
    for arguments, expected in (
        ({"eps_hat": 0.3}, 1 - 0.1 * sqrt(0.001) / 0.1 * m / (sqrt(v) + 0.3)),
        ({"eps": 0.3}, 1 - 0.1 * g / (g + 0.3)),
    ):
        params = {"p": np.ones(1)}
        module.Adam(lr=0.1, **arguments).update(params, {"p": np.full(1, g)})
        np.testing.assert_allclose(params["p"], expected, rtol=1e-13)


def test_momentum_with_dampening_is_a_running_average():
    """With dampening = momentum, v / lr is the average of Andrew Ng's course, with its sign turned."""
    gradients = np.random.default_rng(0).normal(size=(6, 4))
    average, params = np.zeros(4), {"p": np.zeros(4)}
    opt = schuss.Momentum(lr=0.5, momentum=0.9, dampening=0.9)
    for g in gradients:
        opt.update(params, {"p": g})
        average = 0.9 * average + 0.1 * g
        np.testing.assert_allclose(opt.state["p"]["v"], -0.5 * average, rtol=1e-13)


def test_the_learning_rate_may_change():
    params = {"p": np.zeros(2)}
    seen = []
    opt = schuss.SGD(lr=lambda t: seen.append(t) or 1 / t)
    for _ in range(3):
        opt.update(params, {"p": np.ones(2)})
    assert seen == [1, 2, 3]
    np.testing.assert_allclose(params["p"], -(1 + 1 / 2 + 1 / 3))
    opt.lr = 10
    opt.update(params, {"p": np.ones(2)})
    np.testing.assert_allclose(params["p"], -(11 + 1 / 2 + 1 / 3))


def test_bias_correction_comes_from_the_integer_step():
    """At t = 100,000 the corrections are 1 to the last bit: the step is lr m / (sqrt(v) + eps_hat)."""
    params, grads = {"p": np.zeros(1)}, {"p": np.ones(1)}
    opt = schuss.Adam(lr=0.0)
    for _ in range(100_000):
        opt.update(params, grads)
    opt.lr = 0.5
    opt.state["p"]["m"][:], opt.state["p"]["v"][:] = 1.0, 1.0
    opt.update(params, grads)
    assert params["p"][0] == -0.5 / (1 + 1e-7)


TEXTBOOK = {
    "SGD": lambda s, g: -0.01 * g,
    "Momentum": lambda s, g: s.update(v=0.9 * s.get("v", 0 * g) - 0.01 * g) or s["v"],
    "AdaGrad": lambda s, g: s.update(h=s.get("h", 0 * g) + g * g) or -0.01 * g / (np.sqrt(s["h"]) + 1e-7),
    "RMSprop": lambda s, g: (
        s.update(h=0.99 * s.get("h", 0 * g) + (1 - 0.99) * g * g) or -0.01 * g / (np.sqrt(s["h"]) + 1e-7)
    ),
}


@pytest.mark.parametrize("rule", TEXTBOOK)
def test_the_defaults_are_the_textbooks(rule):
    """Bit for bit in float64: "Deep Learning from Scratch", 6.1, written out again."""
    rng = np.random.default_rng(1)
    p = rng.normal(size=50)
    params, state, opt = {"p": p.copy()}, {}, getattr(schuss, rule)()
    for _ in range(5):
        g = rng.normal(size=50)
        opt.update(params, {"p": g})
        p += TEXTBOOK[rule](state, g)
        np.testing.assert_array_equal(params["p"], p)


@MODULES
def test_two_steps_of_rmsprop_by_hand_with_everything(module):
    """a = 0.05, h = 0.025, v = -0.05 / sqrt(0.025 - 0.0025); a = 0.045 - 0.025, h = 0.02875, and v again."""
    first = 0.05 / sqrt(0.0225)
    second = 0.5 * first - 0.025 / sqrt(0.02875 - 0.0004)
    for centered, momentum, after in (
        (True, 0.0, [1 - first, 1 - first + 0.025 / sqrt(0.02875 - 0.0004)]),
        (False, 0.5, [1 - 0.05 / sqrt(0.025), 1 - 1.5 * 0.05 / sqrt(0.025) + 0.025 / sqrt(0.02875)]),
        (True, 0.5, [1 - first, 1 - first - second]),
    ):
        params = {"p": np.ones(3)}
        opt = module.RMSprop(lr=0.1, decay_rate=0.9, eps=0.0, centered=centered, momentum=momentum)
        for gradient, expected in zip((0.5, -0.25), after, strict=True):
            opt.update(params, {"p": np.full(3, gradient)})
            np.testing.assert_allclose(params["p"], expected, rtol=1e-13)


@MODULES
def test_adagrad_by_hand_with_everything(module):
    """h = 2 + 0.25, then + 0.0625; the second rate is 0.1 / (1 + 0.5)."""
    params = {"p": np.ones(3)}
    opt = module.AdaGrad(lr=0.1, eps=0.0, initial_accumulator=2.0, lr_decay=0.5)
    opt.update(params, {"p": np.full(3, 0.5)})
    np.testing.assert_allclose(params["p"], 1 - 0.05 / 1.5, rtol=1e-14)
    opt.update(params, {"p": np.full(3, -0.25)})
    np.testing.assert_allclose(params["p"], 1 - 0.05 / 1.5 + 0.1 / 1.5 * 0.25 / sqrt(2.3125), rtol=1e-14)


@MODULES
def test_amsgrad_with_bias_correction_first_steps_like_adam(module):
    params, twins = {"p": np.ones(3)}, {"p": np.ones(3)}
    ams, adam = module.AMSGrad(lr=0.1, bias_correction=True), module.Adam(lr=0.1, eps=1e-8)
    for gradient in (0.5, 1.0, 2.0):  # v grows: it is its own maximum
        ams.update(params, {"p": np.full(3, gradient)})
        adam.update(twins, {"p": np.full(3, gradient)})
        np.testing.assert_array_equal(params["p"], twins["p"])


@MODULES
def test_radam_adapts_once_rho_is_above_5(module):
    """The formula of the paper, written out for constant gradients: m is g (1 - beta1^t), v is g g (1 - beta2^t)."""
    params, p = {"p": np.ones(2)}, 1.0
    opt = module.RAdam(lr=0.01, eps=0.0)
    end = 2 / (1 - 0.999) - 1
    for t in range(1, 11):
        opt.update(params, {"p": np.full(2, 0.5)})
        rho = end - 2 * t * 0.999**t / (1 - 0.999**t)
        if rho > 5:
            p -= 0.01 * sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho))
        else:
            p -= 0.01 * 0.5
        np.testing.assert_allclose(params["p"], p, rtol=1e-11)
    assert rho > 5


@MODULES
def test_the_first_step_of_muon_by_hand(module):
    """A diagonal gradient stays diagonal, and each of its elements goes through the polynomial by itself."""
    params = {"p": np.ones((2, 2))}
    module.Muon(lr=0.1, momentum=0.5, steps=1, weight_decay=0.5).update(params, {"p": np.diag([3.0, 4.0])})
    x = np.array([0.6, 0.8])  # the norm is 5, whatever the momentum
    u = 3.4445 * x - 4.775 * x**3 + 2.0315 * x**5
    np.testing.assert_allclose(params["p"], np.full((2, 2), 0.95) - 0.1 * np.diag(u), rtol=1e-13)


@MODULES
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_muon_steps_along_the_singular_vectors(module, shape):
    """The step has the singular vectors of the gradient, and singular values near 1, larger for tall matrices."""
    rng = np.random.default_rng(0)
    p, g = np.zeros(shape), rng.normal(size=shape)
    module.Muon(lr=1.0, weight_decay=0.0).update({"p": p}, {"p": g})
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    inner = u.T @ -p @ vt.T / sqrt(max(1, shape[0] / shape[1]))
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-12)
    assert np.all((np.diag(inner) > 0.65) & (np.diag(inner) < 1.25))


@MODULES
def test_adafactor_factors_its_second_moment(module):
    """At the first step the means are those of the gradient: their outer product over the mean of the rows'."""
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    params = {"p": p.copy()}
    opt = module.Adafactor(lr=0.01, clip_threshold=0.5, weight_decay=0.1)
    opt.update(params, {"p": g})
    row, column = (g**2).mean(axis=1), (g**2).mean(axis=0)
    np.testing.assert_allclose(np.ravel(opt.state["p"]["row"]), row, rtol=1e-14)
    np.testing.assert_allclose(np.ravel(opt.state["p"]["column"]), column, rtol=1e-14)
    u = g / np.sqrt(np.outer(row, column) / row.mean())
    u /= sqrt((u**2).mean()) / 0.5
    np.testing.assert_allclose(params["p"], p * (1 - 0.001) - 0.01 * sqrt((p**2).mean()) * u, rtol=1e-13)


@MODULES
def test_schedule_free_weighs_by_the_squared_rate_and_warms_up(module):
    params = {"p": np.zeros(1)}
    opt = module.ScheduleFreeSGD(lr=1.0, momentum=0.0, warmup=2)
    z = x = total = 0.0
    for t in (1, 2, 3):
        opt.update(params, {"p": np.ones(1)})
        rate = min(1.0, t / 2)
        z, total = z - rate, total + rate**2
        x += rate**2 / total * (z - x)
        np.testing.assert_allclose([opt.state["p"]["z"], opt.state["p"]["x"]], [[z], [x]], rtol=1e-15)
