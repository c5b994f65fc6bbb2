"""The Python layer: arguments, attributes, messages; and the textbook's code as it stands."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from html import escape

import numpy as np
import pytest
import schuss

SIGNATURES = {
    "SGD": "lr=0.01",
    "Momentum": "lr=0.01, momentum=0.9, dampening=0.0",
    "Nesterov": "lr=0.01, momentum=0.9",
    "AdaGrad": "lr=0.01, *, eps=1e-07, initial_accumulator=0.0, lr_decay=0.0",
    "RMSprop": "lr=0.01, decay_rate=0.99, *, eps=1e-07, centered=False, momentum=0.0",
    "Adam": "lr=0.001, beta1=0.9, beta2=0.999, *, eps_hat=None, eps=None",
    "AdamW": "lr=0.001, beta1=0.9, beta2=0.999, *, eps=1e-08, weight_decay=0.01",
    "AMSGrad": "lr=0.001, beta1=0.9, beta2=0.999, *, eps=1e-08, bias_correction=False",
    "Adamax": "lr=0.002, beta1=0.9, beta2=0.999, *, eps=1e-08",
    "NAdam": "lr=0.002, beta1=0.9, beta2=0.999, *, eps=1e-08, momentum_decay=0.004",
    "RAdam": "lr=0.001, beta1=0.9, beta2=0.999, *, eps=1e-08",
    "AdaDelta": "lr=1.0, decay_rate=0.9, *, eps=1e-06",
    "Adafactor": "lr=0.01, *, beta2_decay=-0.8, eps=None, eps2=0.001, clip_threshold=1.0, weight_decay=0.0",
    "Lion": "lr=0.0001, beta1=0.9, beta2=0.99, *, weight_decay=0.0",
    "LAMB": "lr=0.001, beta1=0.9, beta2=0.999, *, eps=1e-06, weight_decay=0.0",
    "LARS": "lr=1.0, momentum=0.9, *, trust=0.001, weight_decay=0.0",
    "Adan": "lr=0.001, beta1=0.98, beta2=0.92, beta3=0.99, *, eps=1e-08, weight_decay=0.0",
    "ScheduleFreeSGD": "lr=1.0, momentum=0.9, *, warmup=0, weight_decay=0.0",
    "ScheduleFreeAdamW": "lr=0.0025, beta1=0.9, beta2=0.999, *, eps=1e-08, warmup=0, weight_decay=0.0",
    "Muon": "lr=0.001, momentum=0.95, *, nesterov=True, steps=5, weight_decay=0.1",
}
OPTIONS = {
    "weight_decay": 0.0,
    "maximize": False,
    "clip_value": None,
    "clip_norm": None,
    "ema": None,
    "on_nonfinite": "propagate",
    "flush_subnormals": False,
    "groups": None,
}


@pytest.mark.parametrize("rule", schuss.optimizers.OPTIMIZERS)
def test_positions_and_defaults(rule):
    """Each class has its own arguments, and after them the options that all take, by keyword."""
    parameters = inspect.signature(schuss.optimizers.OPTIMIZERS[rule]).parameters
    own = list(inspect.signature(schuss.optimizers.OPTIMIZERS[rule].__init__).parameters.values())[1:-1]
    bare = inspect.Signature([p.replace(annotation=p.empty) for p in own])
    assert str(bare) == f"({SIGNATURES[rule]})"
    for name, default in OPTIONS.items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default or name in SIGNATURES[rule]


@pytest.mark.parametrize("rule", schuss.optimizers.OPTIMIZERS)
def test_twins_have_the_same_arguments(rule):
    ours, theirs = (
        inspect.signature(module.OPTIMIZERS[rule].__init__).parameters
        for module in (schuss.optimizers, schuss.reference)
    )
    assert list(ours) == list(theirs)
    for name in ours:
        if name != "eps_hat":  # None stands for 1e-7 in ours, so that giving it beside eps can be told
            assert ours[name].default == theirs[name].default
            assert ours[name].kind == theirs[name].kind


def test_attributes():
    opt = schuss.Adam(lr=0.5)
    assert (opt.lr, opt.beta1, opt.beta2, opt.eps_hat, opt.eps, opt.t) == (0.5, 0.9, 0.999, 1e-7, None, 0)
    assert repr(opt) == "Adam(lr=0.5, beta1=0.9, beta2=0.999, eps_hat=1e-07)"
    assert repr(schuss.Adam(eps=1e-8)) == "Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-08)"
    params = {"W1": np.ones((2, 3), np.float32)}
    assert opt.update(params, {"W1": np.ones((2, 3), np.float32)}) is None
    assert opt.t == 1
    m = opt.state["W1"]["m"]
    assert m.shape == (2, 3)
    assert m.dtype == np.float32
    opt.update(params, {"W1": np.ones((2, 3), np.float32)})
    assert opt.state["W1"]["m"] is m
    np.testing.assert_allclose(m, 0.19, rtol=1e-6)
    m[:] = 0
    opt.beta1 = 0.5
    opt.update(params, {"W1": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(opt.state["W1"]["m"], 0.5)


def test_the_state_is_read_not_replaced():
    opt = schuss.Momentum()
    opt.update({"a": np.ones(2)}, {"a": np.ones(2)})
    with pytest.raises(TypeError, match="does not support item assignment"):
        opt.state["a"] = {}
    with pytest.raises(TypeError, match="does not support item assignment"):
        opt.state["a"]["v"] = np.ones(2)
    for name in ("t", "state"):
        with pytest.raises(AttributeError):
            setattr(opt, name, 3)


BAD = [
    ("SGD", {"lr": -0.1}, r"lr must be finite and at least 0, got -0.1"),
    ("SGD", {"lr": 10**400}, r"lr must be finite and at least 0, got 1000"),
    ("SGD", {"lr": 10**5000}, r"lr must be finite and at least 0, got int that cannot be shown"),
    ("SGD", {"lr": float("nan")}, r"lr must be .*got nan"),
    ("SGD", {"lr": float("inf")}, r"lr must be .*got inf"),
    ("Momentum", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ("Momentum", {"momentum": -0.5}, r"momentum .*got -0.5"),
    ("Momentum", {"dampening": 1.5}, r"dampening must be in \[0, 1\], got 1.5"),
    ("Nesterov", {"momentum": float("nan")}, r"momentum .*got nan"),
    ("AdaGrad", {"eps": -1e-9}, r"eps must be finite and at least 0, got -1e-09"),
    ("RMSprop", {"decay_rate": 1.1}, r"decay_rate must be in \[0, 1\), got 1.1"),
    ("RMSprop", {"eps": float("inf")}, r"eps .*got inf"),
    ("Adam", {"beta1": 1}, r"beta1 must be in \[0, 1\), got 1"),
    ("Adam", {"beta2": -1}, r"beta2 must be in \[0, 1\), got -1"),
    ("Adam", {"eps_hat": float("nan")}, r"eps_hat .*got nan"),
    ("ScheduleFreeSGD", {"warmup": -1}, "warmup must be a whole number from 0 on, got -1"),
    ("ScheduleFreeAdamW", {"warmup": 1.5}, "warmup must be a whole number from 0 on, got 1.5"),
    ("Muon", {"steps": 0}, "steps must be a whole number from 1 on, got 0"),
    (
        "Adam",
        {"eps": 1e-8, "eps_hat": 1e-7},
        r"give eps or eps_hat, not both: got eps_hat=1e-07 beside eps=1e-08",
    ),
]


@pytest.mark.parametrize(("name", "arguments", "match"), BAD)
def test_bad_values_are_refused(name, arguments, match):
    with pytest.raises(ValueError, match=match):
        getattr(schuss, name)(**arguments)
    opt = getattr(schuss, name)()
    before = repr(opt)
    for argument, value in arguments.items():
        if len(arguments) == 1:
            with pytest.raises(ValueError, match=match):
                setattr(opt, argument, value)
    assert repr(opt) == before


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1], 1j])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"lr must be a number, got"):
        schuss.SGD(lr=value)


@pytest.mark.parametrize("value", [1, np.float32(1), np.array(1.0)])
def test_any_number_will_do(value):
    assert schuss.SGD(lr=value).lr == 1.0
    assert type(schuss.SGD(lr=value).lr) is float


UNKNOWN = [
    ("SGD", "learning_rate", "here it is called 'lr'"),
    ("Adam", "learning_rate", "here it is called 'lr'"),
    ("Adam", "betas", "give beta1 and beta2"),
    ("Adam", "epsilon", "here it is called 'eps_hat'"),
    ("AdaGrad", "epsilon", "here it is called 'eps'"),
    ("RMSprop", "alpha", "here it is called 'decay_rate'"),
    ("RMSprop", "rho", "here it is called 'decay_rate'"),
    ("SGD", "nesterov", "use schuss.Nesterov"),
    ("SGD", "betas", "it takes lr"),
    ("Adam", "amsgrad", "use schuss.AMSGrad"),
    ("AdaGrad", "initial_accumulator_value", "here it is called 'initial_accumulator'"),
    ("SGD", "global_clipnorm", "here it is called 'clip_norm'"),
    ("SGD", "clipnorm", "brings each gradient to a norm of its own, which is not done here"),
    ("RMSprop", "frobnicate", "it takes lr, decay_rate, eps"),
]


@pytest.mark.parametrize(("name", "keyword", "match"), UNKNOWN)
def test_keywords_of_others_are_told_ours(name, keyword, match):
    with pytest.raises(TypeError, match=f"{name} has no argument '{keyword}'.*{match}"):
        getattr(schuss, name)(**{keyword: 0.1})
    with pytest.raises(AttributeError, match=f"cannot set '{keyword}'"):
        setattr(getattr(schuss, name)(), keyword, 0.1)


def test_epsilons_of_adam_do_not_mix():
    opt = schuss.Adam(eps=1e-8)
    opt.eps = 1e-6
    with pytest.raises(ValueError, match="not both"):
        opt.eps_hat = 1e-7
    assert (opt.eps, opt.eps_hat) == (1e-6, None)


def test_the_textbooks_comparison_of_paths_runs_as_it_stands():
    """Two Python floats, zero integers at first: the names are bound as in the book's script."""
    params, grads = {}, {}
    params["x"], params["y"] = (-7.0, 2.0)
    grads["x"], grads["y"] = 0, 0
    ends = {}
    for optimizer in (
        schuss.SGD(lr=0.95),
        schuss.Momentum(lr=0.1),
        schuss.AdaGrad(lr=1.5),
        schuss.Adam(lr=0.3),
    ):
        params["x"], params["y"] = (-7.0, 2.0)
        for _ in range(30):
            grads["x"], grads["y"] = params["x"] / 10.0, 2.0 * params["y"]
            optimizer.update(params, grads)
        ends[type(optimizer).__name__] = params["x"], params["y"]
    assert ends["SGD"] == pytest.approx((-7 * 0.905**30, 2 * 0.9**30))  # p *= 1 - 0.95 * 0.1; p *= 1 - 0.95 * 2
    assert all(abs(x) < 2.5 and abs(y) < 0.5 for x, y in ends.values())


@pytest.mark.parametrize("rule", schuss.optimizers.OPTIMIZERS)
def test_star_import_gives_the_classes(rule):
    names: dict[str, object] = {}
    exec("from schuss import *", names)
    assert names[rule] is getattr(schuss, rule)


# Classes of the user's that inherit from ours.


class Plain(schuss.Adam):
    pass


class OtherDefaults(schuss.Adam):
    """Takes what Adam takes, with another rate."""

    def __init__(self, lr=0.5, **arguments):
        super().__init__(lr, beta1=0.5, **arguments)


class NoArguments(schuss.RMSprop):
    def __init__(self):
        super().__init__(lr=0.25, centered=True, momentum=0.5, clip_norm=1.0)
        self.note = "mine"


class Mixin:
    """Comes first, and knows nothing of optimizers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)


class Mixed(Mixin, schuss.Adam):
    def __init__(self, **arguments):
        super().__init__(**arguments)


SUBCLASSES = {
    "mixed": (lambda: Mixed(lr=0.5, beta1=0.5), lambda: schuss.Adam(lr=0.5, beta1=0.5)),
    "plain": (lambda: Plain(lr=0.5, eps=1e-3, clip_norm=1.0), lambda: schuss.Adam(lr=0.5, eps=1e-3, clip_norm=1.0)),
    "other defaults": (
        lambda: OtherDefaults(beta2=0.9, groups={"b": {"beta1": 0.1}}),
        lambda: schuss.Adam(lr=0.5, beta1=0.5, beta2=0.9, groups={"b": {"beta1": 0.1}}),
    ),
    "no arguments": (
        NoArguments,
        lambda: schuss.RMSprop(lr=0.25, centered=True, momentum=0.5, clip_norm=1.0),
    ),
}


@pytest.mark.parametrize("way", [lambda opt: opt, copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("case", SUBCLASSES)
def test_subclasses_take_the_steps_of_their_rule(case, way):
    mine, ours = (make() for make in SUBCLASSES[case])
    cls, name = type(mine), type(ours).__name__
    assert repr(mine) == repr(ours).replace(name, cls.__name__, 1)
    params, twins = ({"a": np.ones(3), "b": np.ones(2)} for _ in range(2))
    grads = {"a": np.array([1.0, -2.0, 0.5]), "b": np.ones(2)}
    for _ in range(3):
        mine.update(params, grads)
        ours.update(twins, grads)
        mine = way(mine)
        assert type(mine) is cls
        mine.own, mine.lr = 7, 0.125
        ours.lr = 0.125
        assert mine.own == 7
    for key, p in params.items():
        assert p.tolist() == twins[key].tolist()
    assert getattr(mine, "note", "mine") == "mine"


def test_subclasses_say_what_they_do_not_take():
    for cls in (Plain, OtherDefaults):
        with pytest.raises(TypeError, match=f"{cls.__name__} has no argument 'beta_1': here it is called 'beta1'"):
            cls(beta_1=0.5)
    with pytest.raises(TypeError, match="NoArguments has no argument 'lr'"):
        NoArguments(lr=0.5)
    for cls in (Plain, OtherDefaults, NoArguments):
        with pytest.raises(ValueError, match="lr must be finite"):
            cls().lr = -1


def test_others_schedules_are_counted_as_they_count():
    """Optax's and Keras's from 0; a user's module whose name only begins like theirs from 1."""
    from test_schedules import FROM_ONE, FROM_ZERO

    for first, schedules in ((10.0, FROM_ZERO), (11.0, FROM_ONE)):
        for lr in schedules.values():
            params = {"p": np.zeros(1), "q": np.zeros(1)}
            opt = schuss.SGD(lr=lr, groups={"q": {"lr": schuss.schedules.Scaled(lr, 2.0)}})
            opt.update(params, {"p": np.ones(1), "q": np.ones(1)})
            assert (params["p"][0], params["q"][0]) == (-first, -2 * first)


class Tensor:
    """As much of a tensor as is looked at."""

    def detach(self):
        return self

    def numpy(self):
        return np.ones(2)


def test_habits_of_pytorch():
    params = [np.ones((300, 300))]
    for arguments in ((params,), ({"W": params[0]},), (iter(params),)):
        with pytest.raises(TypeError, match=r"lr must be a number"):
            schuss.Adam(*arguments)
        with pytest.raises(TypeError, match=r"its first argument is lr, and parameters go to update\(params, grads\)"):
            schuss.Adam(*arguments, lr=1e-3)
    with pytest.raises(TypeError, match=r"parameters go to update\(params, grads\)") as caught:
        schuss.Adam(params)
    assert len(str(caught.value)) < 250
    for given in ({"W": Tensor()}, {"W": np.ones(2)}), ({"W": np.ones(2)}, {"W": Tensor()}):
        hint = r"got Tensor; (schuss\.torch has the .*; )?pass \.detach\(\)\.numpy\(\) of it, which shares its memory"
        with pytest.raises(TypeError, match=hint):
            schuss.Adam().update(*given)
    with pytest.raises(TypeError, match=r"grads\['W'\].* got list; pass numpy\.asarray\(\.\.\.\) of it"):
        schuss.Adam().update({"W": np.ones(2)}, {"W": [1.0, 1.0]})


def test_arguments_that_could_not_step_are_refused():
    with pytest.raises(ValueError, match=r"clip_threshold must be above 0, got 0\.0"):
        schuss.Adafactor(clip_threshold=0.0)
    for rule in (schuss.ScheduleFreeSGD, schuss.ScheduleFreeAdamW):
        opt, params = rule(lr=1e200), {"p": np.ones(2)}
        with pytest.raises(ValueError, match=r"the rate of a schedule-free rule must be at most 1e\+100, got 1e\+200"):
            opt.update(params, {"p": np.ones(2)})
        assert (opt.t, params["p"].tolist()) == (0, [1, 1])
    with pytest.raises(TypeError, match=r"Set\.clip_norm: give it in __init__, as in super\(\)\.__init__\(clip_norm"):
        type("Set", (schuss.SGD,), {"clip_norm": 0.1})
    with pytest.raises(TypeError, match=r"Optimizer is what all optimizers share; use one of them, as schuss\.Adam"):
        schuss.Optimizer(0.1)
    for scale in ("a", None, np.ones(2), True):
        with pytest.raises(TypeError, match="grad_scale must be a finite number, got"):
            schuss.SGD().update({"p": np.ones(2)}, {"p": np.ones(2)}, grad_scale=scale)


@pytest.mark.parametrize("rule", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_a_rate_that_is_assigned_later_counts_from_then_on(rule):
    """For the weights of the average, too, in both: those of past steps stay what they were."""
    rng = np.random.default_rng(0)
    given = {"lr": 0.1, "warmup": 3, "groups": {"b": {"lr": 0.3}}}
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](**given), schuss.reference.OPTIMIZERS[rule](**given)
    params, twins = ({"a": np.ones(3), "b": np.ones(2)} for _ in range(2))
    for lr in (0.1, 0.1, 0.5, 0.2, 0.2, 0.0, 1.0):
        opt.lr = ref.lr = lr
        grads = {name: rng.normal(size=p.shape) for name, p in params.items()}
        opt.update(params, grads)
        ref.update(twins, grads)
        for name, p in params.items():
            assert p.tolist() == twins[name].tolist()


# In a notebook.


def test_a_notebook_shows_step_rate_and_state():
    opt = schuss.Adam(lr=schuss.schedules.Exponential(0.1, 0.5), clip_norm=1.0, on_nonfinite="skip")
    assert '<tr><th style="text-align: left">state</th><td style="text-align: left">none</td></tr>' in opt._repr_html_()
    params = {"W": np.ones((250, 2)), "b": np.ones(125, np.float32)}
    opt.update(params, {name: np.full_like(p, 2) for name, p in params.items()})
    opt.update(params, {name: np.full_like(p, 2) for name, p in params.items()})
    opt.update(params, {"W": np.full((250, 2), np.nan), "b": np.zeros(125, np.float32)})
    text = re.sub("<[^>]*>", " ", opt._repr_html_())
    assert (
        text.split()
        == (
            f"{escape(repr(opt))} step 2 learning rate {opt.current_lr:g} state 9 kB in 4 arrays "
            "last gradient&#x27;s norm nan skipped 1, the last for &#x27;W&#x27;"
        ).split()
    )


def test_what_a_notebook_shows_is_escaped():
    class Odd(schuss.SGD):
        def __repr__(self):
            return "<script>"

    assert "<script>" not in Odd()._repr_html_()


def test_a_notebook_calls_no_function_of_the_users():
    called = []
    assert "by a function" in schuss.SGD(lr=lambda t: called.append(t) or 0.1)._repr_html_()
    assert called == []


def test_arguments_are_not_deleted():
    opt = schuss.SGD(1.0, weight_decay=0.5)
    for name in ("weight_decay", "lr", "_engine"):
        with pytest.raises(AttributeError, match=f"cannot delete '{name}': set it to what it is to be"):
            delattr(opt, name)
    assert opt.weight_decay == 0.5


@pytest.mark.parametrize("groups", [None, {"a": {"clip_value": 1e9}}])
def test_a_rates_function_may_set_what_is_no_option(groups):
    def rate(t):
        opt.momentum = 0.5 if t > 1 else 0.0
        return 1.0

    opt, params = schuss.Momentum(rate, groups=groups), {"a": np.zeros(1), "b": np.zeros(1)}
    for _ in range(3):
        opt.update(params, {"a": np.ones(1), "b": np.ones(1)})
    assert opt.momentum == 0.5
    assert params["a"] == params["b"] == -(1 + 1.5 + 1.75)
