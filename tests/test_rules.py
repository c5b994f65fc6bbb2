"""Each rule against steps computed by hand, against the textbook's formulas, and against PyTorch."""

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


TORCH = {
    "SGD": ({"lr": 0.1}, "SGD", {"lr": 0.1}),
    "Momentum": ({"lr": 0.1, "momentum": 0.8}, "SGD", {"lr": 0.1, "momentum": 0.8}),
    "Nesterov": ({"lr": 0.1, "momentum": 0.8}, "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "AdaGrad": ({"lr": 0.1, "eps": 1e-3}, "Adagrad", {"lr": 0.1, "eps": 1e-3}),
    "RMSprop": (
        {"lr": 0.1, "decay_rate": 0.9, "eps": 1e-3},
        "RMSprop",
        {"lr": 0.1, "alpha": 0.9, "eps": 1e-3},
    ),
    "Adam": (
        {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3},
    ),
}


def test_pytorch_takes_the_same_steps(rule):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ours, name, theirs = TORCH[rule]
    rng = np.random.default_rng(2)
    start = rng.normal(size=(30, 7))
    params, tensor = {"p": start.copy()}, torch.nn.Parameter(torch.tensor(start))
    opt, peer = getattr(schuss, rule)(**ours), getattr(torch.optim, name)([tensor], **theirs)
    for _ in range(20):
        g = rng.normal(size=start.shape)
        opt.update(params, {"p": g})
        tensor.grad = torch.tensor(g)
        peer.step()
        np.testing.assert_allclose(params["p"], tensor.detach().numpy(), rtol=1e-12)
