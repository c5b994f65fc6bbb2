"""Rules of the user's, in NumPy: all that holds for ours holds for them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits, assert_same_optimizers
from schuss import reference
from test_atomic import everything, interrupted_at


class Heavy(schuss.Optimizer):
    """Momentum again, as the reference has it."""

    slots = ("v",)

    def __init__(self, lr=0.01, momentum=0.9, **options):
        super().__init__(lr, **options)
        self.momentum = momentum

    def step(self, p, g, lr, v):
        v *= self.momentum
        v -= lr * g
        p += v


class Bare(schuss.Optimizer):
    """No state, and no constructor."""

    def step(self, p, g, lr):
        p -= lr * g


class Adamlike(schuss.Optimizer):
    """Goes by the step's number."""

    slots = ("m", "v")

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999, **options):
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps_hat, self.eps = beta1, beta2, 1e-7, None

    step = reference.Adam.step


class Decoupled(schuss.Optimizer):
    slots = ("v", "x")
    copies = ("x",)
    decoupled = True

    def __init__(self, lr=0.1, **options):
        super().__init__(lr, **options)

    def new_state(self, p):
        return {**super().new_state(p), "total": np.zeros((1, 2))}

    def step(self, p, g, lr, v, x, total):
        total += np.abs(g).sum()
        v += g
        x += 0.5 * (p - x)
        p *= 1 - lr * self.weight_decay
        p -= lr * v


class Heavier(Heavy):
    """A subclass of a rule of the user's."""

    def __init__(self, lr=0.5, **options):
        super().__init__(lr, momentum=0.5, **options)


OPTIONS = [
    {},
    {"weight_decay": 0.1, "maximize": True, "clip_value": 0.3},
    {"clip_norm": 1.0, "ema": 0.9, "on_nonfinite": "skip"},
    {"ema": 0.5, "groups": {"b": {"lr": lambda t: 0.5 / t, "weight_decay": 0.2}, "c": {"clip_value": 0.1}}},
]


def problem(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "a": rng.normal(size=(3, 4)),
        "b": rng.normal(size=5).astype(np.float32),
        "c": 0.5,
        "d": rng.normal(size=(6, 8))[::2, ::-3],
    }
    return params, lambda: {
        n: np.asarray(rng.normal(size=np.shape(p)), np.asarray(p).dtype)[()] for n, p in params.items()
    }


@pytest.mark.parametrize("options", OPTIONS, ids=range(4))
@pytest.mark.parametrize(("mine", "ours"), [(Heavy, "Momentum"), (Bare, "SGD"), (Adamlike, "Adam")])
def test_the_steps_of_a_rule_of_ours(mine, ours, options):
    """The same rule by hand: equal to the bit, with every option, schedules, floats, views."""
    params, gradients = problem()
    twins, _ = problem()  # views of the same layout, as a norm follows the memory
    lr = schuss.schedules.Cosine(0.3, 20)
    opt, ref = mine(lr=lr, **options), schuss.optimizers.OPTIMIZERS[ours](lr=lr, **options)
    for step in range(8):
        grads = gradients()
        if step == 3:
            grads["b"][1] = np.nan if options.get("on_nonfinite") else 7.0
        kept = copy.deepcopy(grads)
        opt.update(params, grads, grad_scale=0.5)
        ref.update(twins, grads, grad_scale=0.5)
        for name, p in params.items():
            assert type(p) is type(twins[name])
            assert_same_bits(p, twins[name], name)
            assert_same_bits(grads[name], kept[name], name)
        assert_same_optimizers(opt, ref)
        assert repr((opt.skipped, opt.last_grad_norm)) == repr((ref.skipped, ref.last_grad_norm))


WAYS = {
    "pickle": lambda opt, path: pickle.loads(pickle.dumps(opt)),
    "copy": lambda opt, path: copy.copy(opt),
    "state_dict": lambda opt, path: through_dict(opt),
    "file": lambda opt, path: through_file(opt, path),
}


def through_dict(opt):
    again = type(opt)(lr=1.0)
    again.load_state_dict(opt.state_dict())
    return again


def through_file(opt, path):
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    opt.save(path / "file")
    return schuss.load(path / "file", [type(opt)]).optimizer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", [Heavy, Heavier, Bare, Adamlike, Decoupled])
def test_a_resumed_run_goes_on(rule, way, tmp_path):
    params, gradients = problem()
    opt = rule(lr=schuss.schedules.Cosine(0.1, 9), ema=0.5, clip_norm=2.0, groups={"b": {"lr": 0.3}})
    for _ in range(3):
        opt.update(params, gradients())
    again = WAYS[way](opt, tmp_path)
    assert repr(again) == repr(opt)
    assert_same_optimizers(again, opt)
    twins, _ = problem()
    for name, p in params.items():
        if np.isscalar(p):
            twins[name] = p
        else:
            twins[name][...] = p
    for _ in range(3):
        grads = gradients()
        opt.update(params, grads)
        again.update(twins, grads)
        for name, p in params.items():
            assert_same_bits(twins[name], p, name)
        assert_same_optimizers(again, opt)


class Failing(Heavy):
    def step(self, p, g, lr, v):
        super().step(p, g, lr, v)
        if self.t == 3 and p.dtype == np.float32:
            raise ArithmeticError("no third step")


def test_a_step_that_raises_or_is_interrupted_has_changed_nothing():
    params, gradients = problem()
    opt = Failing(lr=0.1, ema=0.5, groups={"b": {"lr": 0.3}})
    for _ in range(2):
        opt.update(params, gradients())
    before, grads = everything(opt, params), gradients()
    with pytest.raises(ArithmeticError, match="no third step"):
        opt.update(params, grads)
    assert everything(opt, params) == before
    opt, params = Heavy(lr=0.1, ema=0.5), problem()[0]
    opt.update(params, grads)
    before, moment = everything(opt, params), 0
    while interrupted_at(moment, lambda: opt.update(params, grads)):
        assert everything(opt, params) == before, moment
        moment += 1
    assert moment > 10
    assert opt.t == 2


class Greedy(schuss.Optimizer):
    """Writes where it should not."""

    def step(self, p, g, lr):
        g *= 0
        p -= lr


def test_gradients_are_not_the_rules_to_write():
    params, grads = {"p": np.ones(3)}, {"p": np.ones(3)}
    Greedy(lr=0.5).update(params, grads)
    assert (grads["p"] == 1).all()
    assert (params["p"] == 0.5).all()


@pytest.mark.parametrize("name", ["lr", "count"])
def test_a_step_sets_no_attribute(name):
    """It would be lost, or stay where the step does not."""

    class Counting(schuss.Optimizer):
        def step(self, p, g, lr):
            p -= lr * g
            setattr(self, name, 5)

    opt, params = Counting(lr=0.5), {"p": np.ones(3)}
    with pytest.raises(AttributeError, match=f"step\\(\\) cannot set self.{name}: it changes p and its state alone"):
        opt.update(params, {"p": np.ones(3)})
    assert (opt.lr, opt.t, params["p"].tolist()) == (0.5, 0, [1.0] * 3)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"b": np.ones(4, np.float32)}, ValueError, r"grads\['b'\] has shape \(4,\)"),
        ({"a": np.ones((3, 4), np.float32)}, TypeError, "is float32, its parameter is float64"),
        ({"a": None, "b": [1.0]}, TypeError, r"grads\['b'\]: expected a numpy.ndarray"),
    ],
)
def test_arrays_are_checked_as_ever(change, error, match):
    params, gradients = problem()
    opt = Heavy()
    opt.update(params, gradients())
    before = everything(opt, params)
    with pytest.raises(error, match=match):
        opt.update(params, {**gradients(), **change})
    with pytest.raises(ValueError, match="overlap in memory"):
        opt.update(params, {**gradients(), "a": opt.state["a"]["v"]})
    assert everything(opt, params) == before


def test_arguments():
    assert repr(Heavy(lr=0.5, clip_norm=1.0)) == "Heavy(lr=0.5, momentum=0.9, clip_norm=1.0)"
    assert repr(Heavier()) == "Heavier(lr=0.5, momentum=0.5)"
    with pytest.raises(TypeError, match="Heavy has no argument 'learning_rate': here it is called 'lr'"):
        Heavy(learning_rate=0.1)
    with pytest.raises(ValueError, match="lr must be finite"):
        Heavy(lr=-1)
    opt = Heavy()
    opt.note = "mine"
    opt.momentum = 0.5
    assert (opt.note, opt.momentum, copy.deepcopy(opt).note) == ("mine", 0.5, "mine")
    opt.update({"p": np.ones(2)}, {"p": np.ones(2)})
    with pytest.raises(ValueError, match="ema decides which state is kept"):
        opt.ema = 0.5

    class Nothing(schuss.Optimizer):
        pass

    with pytest.raises(TypeError, match=r"Nothing is what all optimizers share; .* give yours a method step\(self"):
        Nothing(lr=0.1)


class Scaled(schuss.Optimizer):
    def __init__(self, lr=0.1, **options):
        super().__init__(lr, **options)
        self.scale = 1.0

    def step(self, p, g, lr):
        p -= lr * self.scale * g


class Hundred(Scaled):
    """A rule that inherits from another one of the user's, and steps otherwise."""

    def step(self, p, g, lr):
        p += 100.0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["copy", "pickle"])
def test_a_group_steps_as_its_own_class_says(again):
    opt = Hundred(1.0, groups={"b": {"lr": 2.0}})
    params, grads = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.ones(1), "b": np.ones(1)}
    opt.update(params, grads)
    again(opt).update(params, grads)
    restored = Hundred()
    restored.load_state_dict(opt.state_dict())
    restored.update(params, grads)
    assert (params["a"][0], params["b"][0]) == (300, 300)


def test_an_attribute_of_ones_own_reaches_the_groups():
    opt = Scaled(1.0, groups={"b": {"lr": 2.0}})
    params, grads = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.ones(1), "b": np.ones(1)}
    opt.scale = 10.0
    opt.update(params, grads)
    pickle.loads(pickle.dumps(opt)).update(params, grads)
    assert (params["a"][0], params["b"][0]) == (-20, -40)


def test_a_slots_name_is_text():
    class Odd(Scaled):
        def new_state(self, p):
            return {1: np.zeros_like(p)}

    params = {"a": np.ones(2)}
    with pytest.raises(TypeError, match="a slot of state must be a string, got 1"):
        Odd().update(params, {"a": np.ones(2)})
    assert (params["a"] == 1).all()
