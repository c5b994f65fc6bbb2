"""The functions of schuss.functional take the steps of the classes, on state that the caller owns."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import functional

NAMES = {"ScheduleFreeSGD": "schedule_free_sgd_", "ScheduleFreeAdamW": "schedule_free_adamw_"}
CASES = [
    *((rule, {}) for rule in schuss.optimizers.OPTIMIZERS if rule != "Adafactor"),
    ("Adam", {"eps": 1e-8}),
    ("Adam", {"eps_hat": 1e-3, "beta1": 0.5}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.5}),
    ("RMSprop", {"centered": True, "momentum": 0.5}),
    ("ScheduleFreeSGD", {"warmup": 4, "weight_decay": 0.1}),
]


def function_of(rule):
    return getattr(functional, NAMES.get(rule, rule.lower() + "_"))


@pytest.mark.parametrize(("rule", "arguments"), CASES, ids=[f"{rule}-{list(a)}" for rule, a in CASES])
def test_the_steps_of_the_class(rule, arguments, dtype):
    rng = np.random.default_rng(0)
    p = rng.normal(size=(30, 40)).astype(dtype)
    params = {"p": p.copy()}
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=0.1, **arguments)
    state = {slot: p.copy() if slot in ("z", "x") else np.zeros_like(p) for slot in opt._slots()}
    weights = {"weights": np.zeros(2)} if "ScheduleFree" in rule else {}
    given = {name: value for name, value in arguments.items() if name != "centered"}
    for t in range(1, 8):
        g = rng.normal(size=p.shape).astype(dtype)
        opt.update(params, {"p": g})
        assert function_of(rule)(p, g, t=t, lr=0.1, **state, **weights, **given) is None
        assert_same_bits(p, params["p"], f"p after step {t}")
        for slot, array in state.items():
            assert_same_bits(array, opt.state["p"][slot], f"{slot} after step {t}")


@pytest.mark.parametrize("shape", [(5, 7), (9,), (2, 3, 4)])
def test_adafactor(shape):
    rng = np.random.default_rng(0)
    p = rng.normal(size=shape)
    params, opt = {"p": p.copy()}, schuss.Adafactor(lr=0.1, eps=1e-3)
    if len(shape) < 2:
        factors = {"v": np.zeros_like(p)}
    else:
        factors = {"row": np.zeros((*shape[:-1], 1)), "column": np.zeros((*shape[:-2], 1, shape[-1]))}
    for t in (1, 2, 3):
        g = rng.normal(size=shape)
        opt.update(params, {"p": g})
        functional.adafactor_(p, g, **factors, t=t, lr=0.1, eps=1e-3)
        assert_same_bits(p, params["p"])
        for slot, array in factors.items():
            assert_same_bits(array, opt.state["p"][slot])


def test_steps_in_any_order():
    """What a rule knows of past steps beside its state (a product) does not hang on past calls."""
    results = []
    for before in ((), (1, 2, 3, 4), (9, 2)):
        for t in (*before, 5):
            p, state = np.ones(1), {slot: np.ones(1) for slot in "mv"}
            functional.nadam_(p, np.ones(1), **state, t=t, lr=0.5)
        results.append(p[0])
    assert len(set(results)) == 1


def test_all_are_there_and_say_what_they_take():
    assert {function_of(rule).__name__ for rule in schuss.optimizers.OPTIMIZERS} == set(functional.__all__)
    assert (
        str(inspect.signature(functional.momentum_))
        == "(p, g, v, *, t, lr, momentum: 'float' = 0.9, dampening: 'float' = 0.0)"
    )
    parameters = inspect.signature(functional.adam_).parameters
    assert list(parameters) == ["p", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps_hat", "eps"]


@pytest.mark.parametrize("rule", schuss.optimizers.OPTIMIZERS)
def test_defaults_are_those_of_the_class(rule):
    ours = inspect.signature(schuss.optimizers.OPTIMIZERS[rule].__init__).parameters
    theirs = inspect.signature(function_of(rule)).parameters
    for name, parameter in ours.items():
        if name not in ("self", "lr", "options", "centered", "initial_accumulator"):
            assert theirs[name].default == parameter.default, name


REFUSED = [
    ({"t": 0}, ValueError, "t must be a whole number from 1 on, got 0"),
    ({"t": 1.5}, ValueError, "t must be a whole number from 1 on, got 1.5"),
    ({"lr": -1}, ValueError, "lr must be finite and at least 0, got -1"),
    ({"momentum": 2}, ValueError, r"momentum must be in \[0, 1\), got 2"),
    ({"nesterov": True}, TypeError, r"momentum_\(\): got an unexpected keyword argument 'nesterov'; it is called as"),
    ({"p": 1.0}, TypeError, "p: a float cannot change in place"),
    ({"p": [1.0, 2.0]}, TypeError, "expected a numpy.ndarray of float32 or float64, got list"),
    ({"g": np.ones(3)}, ValueError, r"has shape \(3,\), its parameter has shape \(2,\)"),
    ({"g": np.ones(2, np.float32)}, TypeError, "is float32, its parameter is float64"),
    ({"v": np.zeros(3)}, ValueError, r"but v is float64 of shape \(3,\)"),
    ({"v": np.zeros(2, np.float32)}, ValueError, "but v is float32"),
]


@pytest.mark.parametrize(("change", "error", "match"), REFUSED)
def test_bad_input_changes_nothing(change, error, match):
    given = {"p": np.ones(2), "g": np.ones(2), "v": np.full(2, 0.5), "t": 1, "lr": 0.1}
    p, v = given["p"], given["v"]
    with pytest.raises(error, match=match):
        functional.momentum_(**{**given, **change})
    assert p.tolist() == [1, 1]
    assert v.tolist() == [0.5, 0.5]


def test_overlap_is_refused():
    p = np.ones(4)
    with pytest.raises(ValueError, match="overlap in memory"):
        functional.momentum_(p, np.ones(4), p, t=1, lr=0.1)
    assert p.tolist() == [1] * 4


def test_rmsprop_and_adafactor_say_which_arrays_they_need():
    p = np.ones((2, 3))
    with pytest.raises(ValueError, match="v and a momentum above 0 go together"):
        functional.rmsprop_(p, p * 1, p * 0, t=1, lr=0.1, momentum=0.5)
    with pytest.raises(ValueError, match=r"needs, for p of shape \(2, 3\), arrays of these shapes"):
        functional.adafactor_(p, p * 1, t=1, lr=0.1)
    with pytest.raises(TypeError, match="row is float32, p is float64"):
        functional.adafactor_(p, p * 1, np.zeros((2, 1), "f"), np.zeros((1, 3)), t=1, lr=0.1)
    assert p.tolist() == [[1] * 3] * 2


def arrays_of(rule):
    """The function of a rule, and arrays that it takes."""
    opt, p = schuss.optimizers.OPTIMIZERS[rule](), np.ones((3, 4))
    state = {s: p.copy() if s in "zx" else a for s, a in opt._new_state(None, p).items()}
    if "ScheduleFree" in rule:
        state["weights"] = np.zeros(2)
    return function_of(rule), {"p": p, "g": np.full((3, 4), 0.5), **state}


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


WRONG_STATE = {
    "a float": lambda a, p: 0.0,
    "a NumPy float": lambda a, p: np.float64(0.0),
    "an int": lambda a, p: 0,
    "nothing": lambda a, p: None,
    "a list": lambda a, p: a.tolist(),
    "text": lambda a, p: "m",
    "another shape": lambda a, p: np.zeros((*a.shape[:-1], a.shape[-1] + 1)),
    "an axis more": lambda a, p: a[..., None].copy(),
    "no axis": lambda a, p: np.zeros(()),
    "float32": lambda a, p: a.astype(np.float32),
    "whole numbers": lambda a, p: a.astype(int),
    "complex": lambda a, p: a.astype(complex),
    "read-only": lambda a, p: read_only(a),
    "a broadcast one": lambda a, p: np.broadcast_to(np.float64(0), a.shape),
    "a masked one": lambda a, p: np.ma.masked_array(a),
    "byte-swapped": lambda a, p: a.astype(a.dtype.newbyteorder()),
    "the parameter": lambda a, p: p.reshape(-1)[: a.size].reshape(a.shape),
}
STATE = [(rule, slot) for rule in schuss.optimizers.OPTIMIZERS for slot in arrays_of(rule)[1] if slot not in ("p", "g")]


@pytest.mark.parametrize("kind", WRONG_STATE)
@pytest.mark.parametrize(("rule", "slot"), STATE)
def test_state_of_every_wrong_kind(rule, slot, kind):
    """State must be an array, and like what the rule keeps; anything else is refused by name, and nothing changes."""
    function, arrays = arrays_of(rule)
    given = {**arrays, slot: WRONG_STATE[kind](arrays[slot], arrays["p"])}
    before = {name: np.array(a) for name, a in arrays.items()}
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**given, t=1, lr=0.1)
    assert slot in str(caught.value)
    for name, a in arrays.items():
        assert_same_bits(a, before[name], name)


def test_floats_as_state_in_a_row():
    """This wrote past the end of what the step had for itself, and ended in a corrupted heap."""
    for _ in range(1000):
        with pytest.raises(TypeError, match=r"m: expected a numpy\.ndarray of float32 or float64, got float; state is"):
            functional.adan_(np.array(1.0), np.array(1.0), 0.0, 0.0, 0.0, 0.0, t=1, lr=0.1)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_muon_takes_matrices_alone(shape):
    p = np.ones(shape)
    with pytest.raises(ValueError, match="p: Muon is for matrices, got shape"):
        functional.muon_(p, p.copy(), p * 0, t=1, lr=0.1)
    assert (p == 1).all()


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.zeros(3), "weights must be an array of two float64"),
        ([0.0, 0.0], "weights must be an array of two float64"),
        (np.array([np.nan, 0]), r"weights\[0\] must be finite"),
        (np.array([0.0, -1.0]), r"weights\[1\] must be finite and at least 0"),
    ],
)
def test_weights_of_past_steps(weights, error):
    p = np.ones(2)
    with pytest.raises((TypeError, ValueError), match=error):
        functional.schedule_free_sgd_(p, p * 2, p.copy(), p.copy(), weights, t=1, lr=0.1)
    assert (p == 1).all()


@pytest.mark.parametrize("rule", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_the_weights_are_those_of_the_class_under_a_schedule(rule):
    rates = [0.5, 1.0, 0.25, 2.0, 0.0]
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=lambda t: rates[t - 1], warmup=3)
    function, arrays = arrays_of(rule)
    params = {"p": arrays["p"].copy()}
    for t, lr in enumerate(rates, 1):
        opt.update(params, {"p": arrays["g"]})
        function(**arrays, t=t, lr=lr, warmup=3)
        assert_same_bits(arrays["p"], params["p"])
        assert arrays["weights"].tolist() == opt._memory(t)["weights"][1:]
