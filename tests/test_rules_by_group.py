"""One optimizer whose groups have several rules: each parameter against its rule alone, and what concerns all."""

import copy
import pickle

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits, assert_same_optimizers
from schuss import reference
from schuss.optimizers import OPTIMIZERS

RULES = [rule for rule in OPTIMIZERS if not rule.startswith("ScheduleFree")]
BASES = ["Muon", "Adam", "LAMB", "Adafactor", "AMSGrad", "SGD"]  # of 1, 2, 2, no, 3 and no slots
SHAPES = {"W": (30, 20), "b": (1040,), "X": (17, 70), "c": (), "V": (5, 4, 3)}


def numbers(seed, dtype, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def twins(params):
    return {name: p.copy(order="K") if isinstance(p, np.ndarray) else p for name, p in params.items()}


def stepped(opt, params, steps, dtype=np.float32, shapes=SHAPES, first=0):
    for t in range(first, first + steps):
        opt.update(params, numbers(100 + t, dtype, shapes))


def same(params, others, where=""):
    for name, p in others.items():
        assert_same_bits(params[name], p, f"{name} {where}")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("base", BASES)
def test_a_group_is_stepped_by_its_rule_alone(base, rule, dtype):
    """Those of the group as by an optimizer of that rule, all others as by one of the first."""
    shapes = {"W": (30, 20), "X": (17, 70)} if "Muon" in (base, rule) else SHAPES
    params = numbers(0, dtype, shapes)
    alone = [{name: p.copy() for name, p in params.items() if (name == "X") == mine} for mine in (False, True)]
    opt = OPTIMIZERS[base](groups={"X": {"rule": rule, "weight_decay": 0.01}})
    others = OPTIMIZERS[base](), OPTIMIZERS[rule](weight_decay=0.01)
    for t in range(4):
        grads = numbers(100 + t, dtype, shapes)
        opt.update(params, grads)
        for other, few in zip(others, alone, strict=True):
            other.update(few, {name: grads[name] for name in few})
            same(params, few, f"after step {t + 1}")
            for name in few:
                assert set(opt.state[name]) == set(other.state[name])
                for slot, array in other.state[name].items():
                    assert_same_bits(opt.state[name][slot], array, f"{name} {slot}")


GROUPS = {
    "b": {"rule": "AdamW", "lr": 0.01},
    "c": {"rule": "NAdam", "weight_decay": 0.1},
    "V": {"rule": "Adafactor", "clip_value": None},
    "X": {"rule": "LAMB", "maximize": False},
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "ema": 0.9, "maximize": True, "clip_value": 0.5}])
def test_all_options_as_the_reference_has_them(options, threads, dtype):
    """What concerns all gradients together goes over all rules, on arrays that are several threads' and turns'."""
    schuss.set_num_threads(threads, grain=1 << 12)
    shapes = {**SHAPES, "b": (50_001,), "X": (300, 311), "V": (3, 120, 130)}
    params, theirs = numbers(0, dtype, shapes), numbers(0, dtype, shapes)
    opt, ref = schuss.Momentum(groups=GROUPS, **options), reference.Momentum(groups=GROUPS, **options)
    for t in range(4):
        grads = numbers(100 + t, dtype, shapes)
        opt.update(params, grads)
        ref.update(theirs, grads)
        same(params, theirs, f"after step {t + 1}")
    for name, slots in ref.state.items():
        for slot, array in slots.items():
            assert_same_bits(opt.state[name][slot], array, f"{name} {slot}")


def test_muon_with_another_rule_for_what_is_no_matrix():
    """As the reference has it: Muon to rounding, the others bit for bit."""
    groups = {name: given for name, given in GROUPS.items() if name != "X"}
    params, theirs = numbers(0, np.float64), numbers(0, np.float64)
    opt, ref = schuss.Muon(0.1, groups=groups), reference.Muon(0.1, groups=groups)
    for t in range(3):
        opt.update(params, numbers(100 + t, np.float64))
        ref.update(theirs, numbers(100 + t, np.float64))
    same(params, {name: theirs[name] for name in "bcV"})
    for name in "WX":
        np.testing.assert_allclose(params[name], theirs[name], rtol=0, atol=1e-13)


def test_what_a_group_takes_over_and_what_not():
    """The options that all rules take, if it has none; no rate and no decay."""
    opt = schuss.SGD(0.5, weight_decay=0.1, maximize=True, clip_value=0.3, groups={"b": {"rule": "Momentum"}})
    alone = schuss.Momentum(maximize=True, clip_value=0.3)
    params, own = {"a": np.ones(3), "b": np.ones(3)}, {"b": np.ones(3)}
    for _ in range(2):
        opt.update(params, {"a": np.ones(3), "b": np.arange(3.0)})
        alone.update(own, {"b": np.arange(3.0)})
        opt.lr, opt.weight_decay = 0.25, 0.0
    same(params, own)
    opt.maximize = alone.maximize = False
    opt.update(params, {"a": np.ones(3), "b": np.arange(3.0)})
    alone.update(own, {"b": np.arange(3.0)})
    same(params, own)


@pytest.mark.parametrize("way", ["state_dict", "pickle", "copy", "file"])
def test_it_goes_on_from_where_it_was(way, tmp_path):
    """NAdam remembers a product of past steps, also as a group's."""
    made = schuss.Muon(0.1, ema=0.9, groups={"[bV]": {"rule": "NAdam"}, "c": {"rule": "Adafactor"}})
    params = numbers(0, np.float32)
    stepped(made, params, 3)
    if way == "file":
        pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
        made.save(tmp_path / "a.safetensors", params)
        opt, others = schuss.load(tmp_path / "a.safetensors")
    elif way == "state_dict":
        opt, others = schuss.Muon(), twins(params)
        opt.load_state_dict(made.state_dict())
    else:
        opt, others = (pickle.loads(pickle.dumps(made)) if way == "pickle" else copy.copy(made)), twins(params)
    assert repr(opt) == repr(made)
    stepped(made, params, 2, first=3)
    stepped(opt, others, 2, first=3)
    same(params, others)
    assert_same_optimizers(opt, made)


def test_state_of_another_rule_is_refused():
    made = schuss.SGD(groups={"b": {"rule": "Adam"}})
    params = {"a": np.ones(3), "b": np.ones(3)}
    made.update(params, twins(params))
    saved = made.state_dict()
    del saved["state"]["b"]["v"]
    with pytest.raises(ValueError, match="the state of 'b' has the slots m; Adam has m, v"):
        schuss.SGD().load_state_dict(saved)


def test_rows_for_the_rule_of_an_embedding():
    """Its words are Adam's, by rows; its layers Muon's."""
    groups = {"E": {"rule": "Adam"}}
    opt, dense = (schuss.Muon(0.1, groups=groups) for _ in range(2))
    params = numbers(0, np.float32, {"W": (9, 8), "E": (40, 6)})
    others = twins(params)
    for t in range(6):
        grads = numbers(50 + t, np.float32, {"W": (9, 8), "E": (4, 6)})
        rows = np.array([t, 7, 7, 30 + t % 2])
        opt.catch_up(params, {"E": rows})
        opt.update(params, {**grads, "E": schuss.Rows(rows, grads["E"])})
        full = np.zeros((40, 6), np.float32)
        np.add.at(full, rows, grads["E"])
        dense.update(others, {**grads, "E": full})
    opt.catch_up(params)
    same(params, others)
    with pytest.raises(TypeError, match=r"grads\['W'\] is by rows, which Muon cannot take"):
        opt.update(params, {"W": schuss.Rows(np.array([0]), np.ones((1, 8), np.float32)), "E": None})


def test_fewer_bits_for_those_that_can_have_them():
    with pytest.raises(ValueError, match=r"groups\['b'\]: LAMB cannot have state_dtype=\"int8\""):
        schuss.Muon(state_dtype="int8", groups={"b": {"rule": "LAMB"}})
    groups = {"b": {"rule": "LAMB", "state_dtype": "float32"}, "c": {"rule": "Adan"}}
    params = numbers(0, np.float32, {"W": (40, 30), "b": (300,), "c": (300,)})
    theirs = twins(params)
    opt, ref = (module.Momentum(state_dtype="int8", groups=groups) for module in (schuss, reference))
    for t in range(4):
        grads = numbers(100 + t, np.float32, {"W": (40, 30), "b": (300,), "c": (300,)})
        opt.update(params, grads)
        ref.update(theirs, grads)
        same(params, theirs)
    kinds = {slot: array.dtype.name for slot, array in opt.state["c"].items() if not slot.endswith("_scale")}
    assert kinds == {"m": "int8", "v": "int8", "n": "uint8", "b": "int8"}
    assert {array.dtype.name for array in opt.state["b"].values()} == {"float32"}


REFUSED = [
    (
        {"rule": "Adamw"},
        ValueError,
        r"groups\['b'\]: rule must be the name of a rule, .* one of AMSGrad, .*; got 'Adamw'",
    ),
    ({"rule": schuss.AdamW}, ValueError, r"groups\['b'\]: rule must be the name of a rule, as in \{\"rule\": "),
    ({"rule": "AdamW", "momentum": 0.9}, TypeError, r"groups\['b'\]: AdamW has no argument 'momentum'"),
    ({"rule": "AdamW", "lr": -1}, ValueError, r"groups\['b'\]: lr must be finite and at least 0, got -1"),
    ({"rule": "AdamW", "clip_norm": 1}, ValueError, r"groups\['b'\]: clip_norm concerns all parameters together"),
    ({"rule": "ScheduleFreeSGD"}, ValueError, r"groups\['b'\]: ScheduleFreeSGD goes with no other rule in one optim"),
]


@pytest.mark.parametrize(("given", "error", "match"), REFUSED)
def test_what_is_no_rule_for_a_group(given, error, match):
    with pytest.raises(error, match=match):
        schuss.Adam(groups={"b": given})


class Own(schuss.Optimizer):
    slots = ()

    def __init__(self, lr=0.1, **options):
        super().__init__(lr, **options)

    def step(self, p, g, lr):
        p -= lr * g


@pytest.mark.parametrize("make", [schuss.ScheduleFreeAdamW, Own])
def test_rules_that_go_with_no_other(make):
    with pytest.raises(ValueError, match=rf"groups\['b'\]: {make.__name__} goes with no other rule in one optimizer"):
        make(groups={"b": {"rule": "SGD"}})


def test_the_optimizers_own_rule_by_name():
    """It begins from the optimizer's arguments, as a group without a rule does."""
    for module in (schuss, reference):
        params = {"a": np.ones(3), "b": np.ones(3)}
        opt = module.AdamW(0.5, weight_decay=0.1, groups={"b": {"rule": "AdamW", "eps": 1e-8}})
        opt.update(params, {"a": np.ones(3), "b": np.ones(3)})
        assert_same_bits(params["b"], params["a"])


def test_a_pattern_whose_parameters_are_all_of_earlier_ones():
    opt = schuss.SGD(groups={"b*": {"lr": 0.1}, "b3": {"rule": "Adam"}})
    params = {"W3": np.ones(1), "b3": np.ones(1)}
    with pytest.raises(ValueError, match=r"groups\['b3'\] is of no parameter, as patterns before it match all that it"):
        opt.update(params, twins(params))
    opt.groups = {"b3": {"rule": "Adam"}, "b*": {"lr": 0.1}}
    with pytest.raises(ValueError, match=r"groups\['b\*'\] is of no parameter"):
        opt.update(params, twins(params))


def test_the_rule_of_what_has_state_cannot_change():
    opt, params = schuss.Adam(groups={"b": {"rule": "Momentum"}}), {"a": np.ones(3), "b": np.ones(3)}
    opt.groups = {"b": {"rule": "AMSGrad"}}
    opt.update(params, twins(params))
    before = repr(opt)
    for groups in ({}, {"b": {"rule": "SGD"}}, {"a": {"rule": "SGD"}, "b": {"rule": "AMSGrad"}}):
        with pytest.raises(ValueError, match=r"groups decides which state is kept: for '[ab]' it cannot"):
            opt.groups = groups
    assert repr(opt) == before
    opt.groups = {"b": {"rule": "AMSGrad", "lr": 0.0}, "c": {"rule": "Muon"}}
    kept, params["c"] = params["b"].copy(), np.ones((3, 3))
    opt.update(params, {name: np.ones_like(p) for name, p in params.items()})
    assert_same_bits(params["b"], kept)
    assert (set(opt.state["b"]), set(opt.state["c"])) == ({"m", "v", "h"}, {"m"})


def test_what_is_refused_changes_no_byte_of_the_others():
    opt = schuss.Muon(groups={"a": {"rule": "Adam"}, "f": {"rule": "SGD"}})
    params = {"a": np.ones(3), "f": 1.0, "W": np.ones((3, 2)), "b": np.ones(4)}
    kept = twins(params)
    with pytest.raises(ValueError, match=r"params\['b'\]: Muon is for matrices, got shape \(4,\); give it another"):
        opt.update(params, {name: np.ones_like(p) if name != "f" else 1.0 for name, p in params.items()})
    same(params, kept)
    assert opt.t == 0
    assert not opt.state


def test_an_interrupt_between_the_halves_changes_nothing(monkeypatch):
    """Nor the rows that are behind, nor those that a gradient names, which another rule steps; nor floats."""
    opt = schuss.Muon(groups={"E": {"rule": "Adam"}, "f": {"rule": "Momentum"}, "b": {"rule": "LAMB"}})
    params = {"E": np.ones((5, 2)), "f": 1.0, "W": np.eye(3, 4), "b": np.ones(3)}
    grads = {**params, "E": schuss.Rows(np.array([1, 3]), np.ones((2, 2)))}
    for _ in range(2):
        opt.update(params, {name: np.array(g) if isinstance(g, np.ndarray) else g for name, g in grads.items()})
    grads = {"E": np.ones((5, 2)), "f": 1.0, "W": np.ones((3, 4)), "b": np.ones(3)}  # of E all rows, two of them behind
    kept = twins(params)
    state = {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in opt._engine.state.items()}

    def fail(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(schuss.Muon, "_ratios", fail)
        with pytest.raises(KeyboardInterrupt):
            opt.update(params, grads)
    same(params, kept)
    assert (opt.t, params["f"]) == (2, kept["f"])
    for name, slots in state.items():
        for slot, array in slots.items():
            assert_same_bits(opt._engine.state[name][slot], array, f"{name} {slot}")
    opt.update(params, grads)
    assert opt.t == 3


def test_groups_that_take_the_place_of_saved_ones():
    """What they remember goes by the pattern, not by the place; SGD keeps nothing, and may come and go."""
    made = schuss.NAdam(groups={"b": {"rule": "SGD"}, "V": {"rule": "NAdam", "beta1": 0.8}})
    params = numbers(0, np.float32)
    stepped(made, params, 3)
    groups = {"V": {"rule": "NAdam", "beta1": 0.8}, "b": {"rule": "SGD", "lr": 0.5}, "c": {"lr": 0.01}}
    opt, others = schuss.NAdam(), twins(params)
    opt.load_state_dict(made.state_dict(), groups=groups)
    made.groups = groups
    stepped(made, params, 2, first=3)
    stepped(opt, others, 2, first=3)
    same(params, others)
    saved = schuss.SGD(groups={"b": {"lr": 0.5}}).state_dict()
    schuss.SGD().load_state_dict(saved, groups={})
    with pytest.raises(ValueError, match="the memory must be a list of one for the optimizer and each of 1 groups"):
        schuss.SGD().load_state_dict({**saved, "memory": [{}]})


def test_fewer_bits_by_all_arguments_of_a_group():
    """In whatever order they are given."""
    for given in ({"state_dtype": "int8", "centered": False}, {"centered": False, "state_dtype": "int8"}):
        schuss.RMSprop(centered=True, groups={"b": given})
    for given in ({"centered": True}, {"rule": "RMSprop", "centered": True}):
        with pytest.raises(ValueError, match=r"groups\['b'\]: RMSprop cannot have state_dtype=\"int8\": h - a a"):
            schuss.RMSprop(state_dtype="int8", groups={"b": given})
    with pytest.raises(ValueError, match=r"params\['b'\]: RMSprop cannot have state_dtype=\"int8\": h - a a"):
        schuss.RMSprop(state_dtype="int8", centered=True).update({"b": np.ones(3, "f4")}, {"b": np.ones(3, "f4")})


def test_a_groups_rate():
    """It is named where it is wrong, and is nobody else's to change."""
    opt = schuss.Adam(groups={"b": {"rule": "SGD", "lr": lambda t: -1}})
    with pytest.raises(ValueError, match=r"groups\['b'\]: lr\(1\) must be finite and at least 0, got -1"):
        opt.update({"b": np.ones(3)}, {"b": np.ones(3)})
    rate = np.array(0.5)
    opt = schuss.SGD(groups={"b": {"lr": rate}, "c": {"rule": "SGD", "lr": rate}})
    rate[...] = 0.9
    params = {"b": np.ones(1), "c": np.ones(1)}
    copy.copy(opt).update(params, twins(params))
    assert (params["b"][0], params["c"][0]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="groups must have each pattern once, got 1, '1'"):
        schuss.SGD(groups={1: {"lr": 0.1}, "1": {"lr": 0.2}})


@pytest.mark.parametrize("order", ["C", "F"])
def test_matrices_of_one_shape_go_together(order, dtype):
    """As each by itself, bit for bit: how many there are is nobody's business, as over ranks each has but some."""
    shapes = {f"{kind}{i}": shape for i in range(40) for kind, shape in (("W", (60, 48)), ("T", (48, 60)))}
    shapes.update(e=(0, 4), s=(1, 1), r=(1, 9), c=(9, 1), large=(300, 200))
    params = {name: np.array(p, order=order) for name, p in numbers(0, dtype, shapes).items()}
    others, opt = twins(params), schuss.Muon(0.1)
    alone = {name: schuss.Muon(0.1) for name in params}
    for t in range(2):
        grads = numbers(100 + t, dtype, shapes)
        opt.update(params, grads)
        for name, other in alone.items():
            other.update({name: others[name]}, {name: grads[name]})
    same(params, others)
