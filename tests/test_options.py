"""What every optimizer takes beside its rule: the order by hand, norms, skipped steps, averages, groups."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import reference
from schuss.options import GLOBAL, KEPT

MODULES = pytest.mark.parametrize("module", [schuss, reference], ids=["schuss", "reference"])


@MODULES
def test_the_order_by_hand(module):
    """Each stage is seen to come after the one before: any other order gives another number."""
    params = {"a": np.full(2, 10.0), "b": np.full(1, 10.0)}
    grads = {"a": np.array([6.0, 0.0]), "b": np.array([-8.0])}
    opt = module.SGD(lr=1.0, clip_norm=5.0, clip_value=2.5, maximize=True, weight_decay=0.1, ema=0.75)
    opt.update(params, grads, grad_scale=2.0)
    # 12 and -16: a norm of 20; down to 5 (and 1e-6): 3 and -4; clipped: 2.5 and -2.5; turned; 1 is added; the step.
    np.testing.assert_allclose(params["a"], [10 + 2.5 - 1, 10 - 1], rtol=1e-15)
    np.testing.assert_allclose(params["b"], [10 - 2.5 - 1], rtol=1e-15)
    np.testing.assert_allclose(opt.state["a"]["ema"], [0.75 * 10 + 0.25 * 11.5, 0.75 * 10 + 0.25 * 9], rtol=1e-15)
    assert grads["a"].tolist() == [6.0, 0.0]
    assert grads["b"].tolist() == [-8.0]


def test_clip_norm_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(40, 50)), rng.normal(size=7)]
    params = [p.copy() for p in start]
    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in start]
    opt = schuss.AdamW(lr=0.1, clip_norm=3.0, maximize=True)
    peer = torch.optim.AdamW(tensors, lr=0.1, maximize=True)
    for _ in range(5):
        grads = [rng.normal(size=p.shape) for p in start]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(g)
        norm = torch.nn.utils.clip_grad_norm_(tensors, 3.0)
        peer.step()
        opt.update(params, grads)
        assert opt.last_grad_norm == pytest.approx(norm.item(), rel=1e-14)
        for p, tensor in zip(params, tensors, strict=True):
            np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12)


def test_a_small_norm_is_left_alone(dtype):
    """Below the limit the gradients are the caller's own, to the bit."""
    rng = np.random.default_rng(0)
    p, g = (rng.normal(size=3000).astype(dtype) for _ in range(2))
    params, twins = {"p": p.copy()}, {"p": p.copy()}
    opt = schuss.Adam(clip_norm=1e6)
    opt.update(params, {"p": g})
    schuss.Adam().update(twins, {"p": g})
    assert_same_bits(params["p"], twins["p"])
    assert opt.last_grad_norm == pytest.approx(np.linalg.norm(g.astype(np.float64)), rel=1e-14)


NORM = """
import numpy as np, schuss
rng = np.random.default_rng(0)
grads = [rng.normal(size=n).astype(t) for n in (1, 17, 1023, 1025, 70_001) for t in ("f4", "f8")]
grads += [rng.normal(size=(90, 70))[::2, ::-3].copy()]
for threads in (1, 2, 3, 7):
    schuss.set_num_threads(threads, grain=1)
    opt = schuss.SGD(clip_norm=1.0)
    opt.update([np.zeros_like(g) for g in grads], grads)
    print(opt.last_grad_norm.hex())
"""


def test_the_norm_is_the_same_on_every_isa_and_number_of_threads():
    """It is a tree over blocks and lanes, fixed, in double; reference.norm is the same tree."""
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=n).astype(t) for n in (1, 17, 1023, 1025, 70_001) for t in ("f4", "f8")]
    grads += [rng.normal(size=(90, 70))[::2, ::-3].copy()]
    expected = reference.norm(*grads).hex()
    for isa in schuss.info()["isas_available"]:
        done = subprocess.run(
            [sys.executable, "-c", NORM],
            env={**os.environ, "SCHUSS_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [expected] * 4, isa


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1023, 1024, 4999])
def test_a_gradient_that_is_not_finite_is_skipped(dtype, bad, place):
    params = {"first": np.ones(3, dtype), "W": np.ones(5000, dtype), "b": np.ones(2, dtype)}
    good = {name: np.full_like(p, 0.5) for name, p in params.items()}
    opt = schuss.Adam(on_nonfinite="skip", ema=0.5)
    for new in (True, False):  # on its first update, and once it has state
        grads = {name: g.copy() for name, g in good.items()}
        grads["W"][place] = bad
        grads["b"][1] = bad
        before = {name: p.copy() for name, p in params.items()}
        state = {name: {slot: array.copy() for slot, array in slots.items()} for name, slots in opt.state.items()}
        t = opt.t
        opt.update(params, grads)
        assert (opt.t, opt.skipped, opt.last_nonfinite) == (t, 1 if new else 2, "W")
        for name, p in params.items():
            assert_same_bits(p, before[name])
        assert set(opt.state) == set(state)
        for name, slots in state.items():
            for slot, array in slots.items():
                assert_same_bits(opt.state[name][slot], array)
        opt.update(params, good)
        assert opt.t == t + 1


def test_the_reference_raises_too():
    ref, params = reference.Momentum(on_nonfinite="raise"), {"p": np.ones(2)}
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        ref.update(params, {"p": np.array([np.nan, 1.0])})
    assert (ref.t, ref.state, params["p"].tolist()) == (0, {}, [1, 1])
    with pytest.raises(ValueError, match="NumPy has no mode"):
        reference.SGD(flush_subnormals=True)


def test_a_refused_assignment_changes_nothing():
    opt, params = schuss.SGD(lr=1.0, groups={"a": {"lr": 0.5}}), {"a": np.ones(2), "b": np.ones(2)}
    for name, value in [
        ("groups", {"b": {"nope": 1}}),
        ("groups", {"b": {"lr": -1.0}}),
        ("clip_norm", -1.0),
        ("ema", 2.0),
    ]:
        for _ in range(2):  # before the first update, and after it
            before = repr(opt)
            with pytest.raises((TypeError, ValueError)):
                setattr(opt, name, value)
            assert repr(opt) == before
            opt.update(params, {"a": np.zeros(2), "b": np.zeros(2)})
    opt.update(params, {"a": np.ones(2), "b": np.ones(2)})
    assert (params["a"].tolist(), params["b"].tolist()) == ([0.5, 0.5], [0, 0])


def test_a_group_given_later_goes_on_from_the_steps_before():
    params, ref_params = ({"a": np.ones(3), "b": np.ones(3)} for _ in range(2))
    opt, ref = schuss.ScheduleFreeSGD(lr=0.5), schuss.ScheduleFreeSGD(lr=0.5)
    for step in range(6):
        if step == 3:
            opt.groups = {"a": {}}
        opt.update(params, {"a": np.full(3, step + 1.0), "b": np.ones(3)})
        ref.update(ref_params, {"a": np.full(3, step + 1.0), "b": np.ones(3)})
    assert_same_bits(params["a"], ref_params["a"])
    assert_same_bits(params["b"], ref_params["b"])


def test_a_skipped_first_update_keeps_no_copy_of_the_parameters():
    """State that starts as a copy is made when the first step is taken, not when one was refused."""
    params = {"p": np.ones(2)}
    opt = schuss.ScheduleFreeSGD(lr=0.5, ema=0.5, on_nonfinite="skip")
    opt.update(params, {"p": np.array([np.nan, 1.0])})
    assert not opt.state
    params["p"][:] = 7
    opt.update(params, {"p": np.zeros(2)})
    assert opt.state["p"]["z"].tolist() == [7, 7]
    assert opt.ema_params["p"].tolist() == [7, 7]


def test_a_gradient_that_is_not_finite_raises():
    params = {"a": np.ones(2), "b": np.ones(2)}
    opt = schuss.SGD(lr=1.0, on_nonfinite="raise")
    match = r"grads\['b'\] has an element that is NaN or infinite; nothing was updated"
    with pytest.raises(FloatingPointError, match=match):
        opt.update(params, {"a": np.ones(2), "b": np.array([1.0, np.inf])})
    assert params["a"].tolist() == [1, 1]
    assert (opt.t, opt.skipped) == (0, 0)
    opt.update(params, {"a": np.ones(2), "b": np.ones(2)})
    assert opt.t == 1


def test_large_finite_gradients_are_finite():
    """Their squares overflow, they themselves do not; and a scale can make them overflow."""
    params = {"p": np.zeros(2)}
    opt = schuss.SGD(lr=1e-200, on_nonfinite="raise")
    opt.update(params, {"p": np.full(2, 1e200)})
    assert params["p"].tolist() == [-1, -1]
    with pytest.raises(FloatingPointError):
        opt.update(params, {"p": np.full(2, 1e200)}, grad_scale=1e200)


def test_by_default_they_propagate():
    params = {"p": np.zeros(2)}
    opt = schuss.SGD(clip_norm=1.0)
    opt.update(params, {"p": np.array([np.nan, 1.0])})
    assert np.isnan(params["p"]).all()  # as in PyTorch: the norm is NaN
    assert np.isnan(opt.last_grad_norm)


def test_the_scale_averages_micro_batches():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=9).astype(np.float32) for _ in range(4)]
    params, twins = {"p": np.ones(9, np.float32)}, {"p": np.ones(9, np.float32)}
    schuss.Adam().update(params, {"p": sum(parts)}, grad_scale=0.25)
    schuss.Adam().update(twins, {"p": sum(parts) * np.float32(0.25)})
    assert_same_bits(params["p"], twins["p"])
    for scale in (np.nan, np.inf):
        with pytest.raises(ValueError, match="grad_scale must be a finite number, got"):
            schuss.Adam().update(params, {"p": parts[0]}, grad_scale=scale)


def test_the_average_is_kept_and_live():
    params = {"p": np.full(3, 8.0), "q": np.zeros(1)}
    opt = schuss.SGD(lr=1.0, ema=0.75)
    assert opt.ema_params == {}
    opt.update(params, {"p": np.full(3, 4.0), "q": None})
    assert opt.ema_params["p"].tolist() == [0.75 * 8 + 0.25 * 4] * 3
    assert set(opt.ema_params) == {"p"}
    opt.ema_params["p"][:] = 1.0
    opt.update(params, {"p": np.full(3, 0.0), "q": None})
    assert opt.ema_params["p"].tolist() == [0.75 + 0.25 * 4] * 3


# Groups.


def test_the_first_group_that_matches_counts():
    params = {name: np.ones(1) for name in ("embed.W", "embed.bias", "out.W", "out.bias")}
    grads = {name: np.ones(1) for name in params}
    opt = schuss.SGD(
        lr=0.5, weight_decay=0.1, groups={"*bias": {"weight_decay": 0.0}, "embed.*": {"lr": 0.25, "maximize": True}}
    )
    opt.update(params, grads)
    assert {name: p[0] for name, p in params.items()} == pytest.approx(
        {"embed.W": 1 + 0.25 * (1 - 0.1), "embed.bias": 0.5, "out.W": 1 - 0.5 * 1.1, "out.bias": 0.5}
    )


def test_groups_follow_what_they_do_not_say():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    grads = {name: np.ones(1) for name in params}
    opt = schuss.Momentum(lr=1.0, groups={"b": {"momentum": 0.0}})
    opt.update(params, grads)
    opt.lr = lambda t: 10.0 * t
    opt.update(params, grads)
    assert (params["a"][0], params["b"][0]) == (-1 - 0.9 - 20, -1 - 20)
    opt.groups = {"a": {"lr": 0.0}}
    opt.update(params, grads)
    assert params["b"][0] == -21 + 0.9 * -20 - 30
    assert params["a"][0] == -21.9 + 0.9 * -20.9


def test_a_group_begins_from_all_other_arguments():
    """In whatever order they are given, and whether a value is a default or not."""
    opt = schuss.RMSprop(groups={"b": {"momentum": 0.5}}, ema=0.0, momentum=0.9, centered=True)
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    for _ in range(2):
        opt.update(params, {"a": np.ones(1), "b": np.ones(1)})
    assert set(opt.state["a"]) == set(opt.state["b"]) == {"h", "a", "v", "ema"}
    assert params["a"][0] < params["b"][0] < 0


def test_groups_may_keep_other_state():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    opt = schuss.RMSprop(momentum=0.9, groups={"b": {"momentum": 0.0}})
    for _ in range(2):
        opt.update(params, {"a": np.ones(1), "b": np.ones(1)})
    assert (set(opt.state["a"]), set(opt.state["b"])) == ({"h", "v"}, {"h"})
    alone = {"b": np.zeros(1)}
    other = schuss.RMSprop()
    for _ in range(2):
        other.update(alone, {"b": np.ones(1)})
    assert_same_bits(params["b"], alone["b"])
    with pytest.raises(ValueError, match=r"groups decides which state is kept: for 'b' it cannot change from that of "):
        opt.groups = {}
    with pytest.raises(ValueError, match=r"momentum decides which state is kept: it cannot change from 0\.9 to 0\.0"):
        opt.momentum = 0.0
    opt.groups = {"b": {"momentum": 0.0, "lr": 0.5}}
    opt.update(params, {"a": np.ones(1), "b": np.ones(1)})


def test_groups_of_lists_go_by_position():
    params = [np.zeros(1) for _ in range(11)]
    schuss.SGD(lr=1.0, groups={"1?": {"lr": 2.0}, "[02]": {"lr": 3.0}}).update(params, [np.ones(1)] * 11)
    assert [p[0] for p in params] == [-3, -1, -3, -1, -1, -1, -1, -1, -1, -1, -2]


def test_adam_groups_may_choose_their_epsilon():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    schuss.Adam(lr=1.0, groups={"b": {"eps": 1.0}}).update(params, {"a": np.ones(1), "b": np.ones(1)})
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [-1, -0.5], rtol=1e-5)


@pytest.mark.parametrize("rule", ["Muon", "Adafactor", "ScheduleFreeAdamW", "LAMB"])
def test_groups_reach_the_rules_with_memory_of_their_own(rule):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(4, 5)) for name in "ab"}
    grads = {name: rng.normal(size=(4, 5)) for name in "ab"}
    alone = {name: {name: p.copy()} for name, p in params.items()}
    make = schuss.optimizers.OPTIMIZERS[rule]
    opt = make(lr=0.1, groups={"b": {"lr": 0.3, "weight_decay": 0.2}})
    others = {"a": make(lr=0.1), "b": make(lr=0.3, weight_decay=0.2)}
    for _ in range(3):
        opt.update(params, grads)
        for name, other in others.items():
            other.update(alone[name], {name: grads[name]})
            assert_same_bits(params[name], alone[name][name])


BAD_GROUPS = [
    ({"W*": {"lr": -1}}, ValueError, r"groups\['W\*'\]: lr must be finite and at least 0, got -1"),
    (
        {"W*": {"learning_rate": 1}},
        TypeError,
        r"groups\['W\*'\]: SGD has no argument 'learning_rate': here it is called",
    ),
    ({"W*": {"clip_norm": 1.0}}, ValueError, r"groups\['W\*'\]: clip_norm concerns all parameters together"),
    ({"W*": 0.1}, TypeError, "groups must be a dict of pattern -> dict of arguments, got"),
    (["W*"], TypeError, "groups must be a dict of pattern -> dict of arguments, got"),
]


@pytest.mark.parametrize(("groups", "error", "match"), BAD_GROUPS)
def test_bad_groups_are_refused(groups, error, match):
    with pytest.raises(error, match=match):
        schuss.SGD(groups=groups)


def test_a_pattern_that_matches_nothing_is_refused():
    params = {"W": np.ones(1), "b": np.ones(1)}
    opt = schuss.SGD(groups={"bias*": {"lr": 0.0}, "b": {"lr": 0.0}})
    with pytest.raises(ValueError, match=r"groups\['bias\*'\] matches no parameter; there are W, b"):
        opt.update(params, {"W": np.ones(1), "b": np.ones(1)})
    assert opt.t == 0
    assert params["W"][0] == 1
    opt.groups = {"b": {"lr": 0.0}}
    opt.update(params, {"W": np.ones(1), "b": np.ones(1)})
    opt.groups = {"c": {"lr": 0.0}}
    with pytest.raises(ValueError, match=r"groups\['c'\] matches no parameter"):
        opt.update(params, {"W": np.ones(1), "b": np.ones(1)})
    # A parameter without a gradient is one that is matched.
    schuss.SGD(groups={"b": {"lr": 0.0}}).update(params, {"W": np.ones(1), "b": None})


BAD = [
    ({"weight_decay": -0.1}, ValueError, "weight_decay must be finite and at least 0, got -0.1"),
    ({"clip_value": -1}, ValueError, "clip_value must be finite and at least 0, got -1"),
    ({"clip_norm": float("nan")}, ValueError, "clip_norm must be .*got nan"),
    ({"ema": 1.0}, ValueError, r"ema must be in \[0, 1\), got 1.0"),
    ({"flush_subnormals": 1}, TypeError, "flush_subnormals must be True or False, got 1"),
    ({"maximize": 1}, TypeError, "maximize must be True or False, got 1"),
    ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite must be one of 'propagate', 'skip', 'raise', got 'ignore'"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD)
def test_bad_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        schuss.Adam(**options)
    opt = schuss.Adam()
    opt.update([np.ones(1)], [np.ones(1)])
    before = repr(opt)
    with pytest.raises(error, match=match):
        setattr(opt, *next(iter(options.items())))
    assert repr(opt) == before


def test_options_can_be_assigned_and_taken_back():
    rng = np.random.default_rng(0)
    opt, ref = schuss.Adam(), reference.Adam()
    params = {"p": rng.normal(size=2000)}
    twins = {"p": params["p"].copy()}
    for name, value in (
        ("weight_decay", 0.1),
        ("clip_value", 0.5),
        ("weight_decay", 0.0),
        ("clip_norm", 1.0),
        ("clip_value", None),
        ("maximize", True),
        ("clip_norm", None),
        ("maximize", False),
    ):
        setattr(opt, name, value)
        setattr(ref, name, value)
        g = {"p": rng.normal(size=2000)}
        opt.update(params, g)
        ref.update(twins, g)
        assert_same_bits(params["p"], twins["p"], f"after {name} = {value}")


def test_what_decides_on_the_state_cannot_change():
    opt = schuss.RMSprop(momentum=0.9)
    opt.momentum = 0.5
    opt.update([np.ones(1)], [np.ones(1)])
    for name, value in (("ema", 0.9), ("centered", True), ("momentum", 0.0)):
        with pytest.raises(ValueError, match=f"{name} decides which state is kept: it cannot change from"):
            setattr(opt, name, value)
    assert repr(opt) == "RMSprop(lr=0.01, decay_rate=0.99, eps=1e-07, centered=False, momentum=0.5)"


def test_a_failure_between_the_halves_changes_nothing(monkeypatch):
    """Muon leans on NumPy between reading and writing: what fails there fails before any write."""
    rng = np.random.default_rng(0)
    opt, params, grads = schuss.Muon(), {"a": rng.normal(size=(4, 3))}, {"a": rng.normal(size=(4, 3))}
    opt.update(params, grads)
    kept = {slot: array.copy() for slot, array in opt.state["a"].items()}
    p = params["a"].copy()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(schuss.Muon, "_ratios", fail)
    with pytest.raises(KeyboardInterrupt):
        opt.update(params, grads)
    assert opt.t == 1
    assert_same_bits(params["a"], p)
    for slot, array in kept.items():
        assert_same_bits(opt.state["a"][slot], array, slot)


def test_current_lr():
    opt = schuss.SGD(lr=lambda t: 1 / t)
    assert opt.current_lr == 1.0
    for _ in range(3):
        opt.update([np.ones(1)], [np.ones(1)])
    assert opt.current_lr == 1 / 3


def test_options_on_floats():
    params = {"x": 1.0}
    opt = schuss.SGD(lr=1.0, weight_decay=0.5, clip_norm=1.0, ema=0.5)
    opt.update(params, {"x": 2.0})
    assert params["x"] == pytest.approx(1 - (1 + 0.5), abs=1e-6)
    assert opt.ema_params["x"] == pytest.approx(0.25, abs=1e-6)


@pytest.mark.skipif(not schuss._core.can_flush, reason="this processor has no such mode that we know")
@pytest.mark.parametrize("threads", [1, 3])
def test_subnormal_numbers_are_flushed_if_asked_for(dtype, threads):
    """With zero gradients the averages sink; what would be subnormal is zero, on every thread, in this call alone."""
    schuss.set_num_threads(threads, grain=1)
    tiny = np.finfo(dtype).tiny
    params = {"p": np.ones(5000, dtype), "q": np.ones((70, 70), dtype)[:, ::2]}
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    opt = schuss.Momentum(momentum=0.5, flush_subnormals=True)
    opt.update(params, grads)
    for slots in opt.state.values():
        slots["v"][...] = tiny
    opt.update(params, grads)
    assert all((slots["v"] == 0).all() for slots in opt.state.values())
    assert np.multiply(np.full(100, tiny), dtype(0.5)).all()  # NumPy is as it was
    opt.flush_subnormals = False
    for slots in opt.state.values():
        slots["v"][...] = tiny
    opt.update(params, grads)
    assert all((slots["v"] == tiny / 2).all() for slots in opt.state.values())


@pytest.mark.parametrize("value", [1e-50, 1e-310, 5e-324, 0.0])
@pytest.mark.parametrize(
    "name", ["weight_decay", "clip_value", "clip_norm", "ema", "lr", "eps", "momentum", "grad_scale"]
)
@pytest.mark.parametrize("rule", [rule for rule in schuss.optimizers.OPTIMIZERS if rule not in ("Muon", "Adafactor")])
def test_numbers_that_float32_rounds_to_zero(rule, name, value, dtype):
    """What is not zero in double is used, though its product with infinity is then NaN."""
    cls, ref = schuss.optimizers.OPTIMIZERS[rule], reference.OPTIMIZERS[rule]
    if name != "grad_scale" and name not in cls._arguments:
        return
    given = {} if name == "grad_scale" else {name: value}
    if name == "momentum" and rule == "RMSprop" and value == 0:
        return
    edges = np.array([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf, np.nan, 1e-30, 1e30], dtype)
    p, g = (a.ravel() for a in np.meshgrid(edges, edges))
    # An infinite gradient makes every norm infinite, and a NaN every norm NaN: so each pair by itself, too.
    params = {"all": p.copy(), **{f"{i}": p[i : i + 1].copy() for i in range(0, len(p), 7)}}
    for names in [list(params), *([n] for n in params if n != "all")]:
        mine, twins = ({n: params[n].copy() for n in names} for _ in range(2))
        grads = {n: g.copy() if n == "all" else g[int(n) : int(n) + 1].copy() for n in names}
        opt, twin = cls(**given), ref(**given)
        how = {"grad_scale": value} if name == "grad_scale" else {}
        with np.errstate(all="ignore"):
            for _ in range(2):
                opt.update(mine, grads, **how)
                twin.update(twins, grads, **how)
        for n in names:
            assert_same_bits(mine[n], twins[n], n)
            for slot, array in twin.state[n].items():
                assert_same_bits(opt.state[n][slot], array, f"{n}, {slot}")


@MODULES
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_with_each_option(module, bad):
    """A NaN norm makes every gradient NaN, an infinite one brings all but the infinite to zero; as in PyTorch."""
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    with np.errstate(all="ignore"):
        module.SGD(1.0, clip_norm=1.0).update(params, {"a": np.array([bad, 1.0]), "b": np.ones(2)})
    if np.isnan(bad):
        assert all(np.isnan(p).all() for p in params.values())
    else:
        assert np.isnan(params["a"]).tolist() == [True, False]
        assert params["a"][1] == params["b"].sum() == 0
    for options in ({"clip_value": 1.0}, {"maximize": True}, {"weight_decay": 0.5}, {"ema": 0.5}):
        params = {"a": np.zeros(2)}
        opt = module.SGD(1.0, **options)
        opt.update(params, {"a": np.array([bad, 0.0])})
        assert np.isfinite(params["a"]).tolist() == ["clip_value" in options and np.isinf(bad), True]


@MODULES
def test_a_norm_of_nothing(module):
    """Zero is a norm to be brought to."""
    params = {"a": np.ones(3)}
    module.SGD(1.0, clip_norm=0.0).update(params, {"a": np.array([1e-5, 1e-300, -7.0])})
    assert params["a"].tolist() == [1.0] * 3
    params = {"a": np.ones(1)}
    module.Lion(1.0, beta1=0.0, clip_norm=0.0).update(params, {"a": np.array([1e-5])})
    assert params["a"].tolist() == [1.0]


@pytest.mark.parametrize(("start", "change"), [({}, {"eps_hat": 0.5}), ({"eps": 1e-3}, {"eps": 0.5})])
def test_groups_follow_either_epsilon(start, change):
    """As a pickled copy does, and an optimizer that is made with it."""
    opt = schuss.Adam(lr=0.1, groups={"b": {"lr": 0.2}, "c": {"eps": 0.25}}, **start)
    params, grads = {name: np.ones(2) for name in "abc"}, {name: np.full(2, 0.5) for name in "abc"}
    opt.update(params, grads)
    for name, value in change.items():
        setattr(opt, name, value)
    fresh = schuss.Adam(lr=0.1, groups={"b": {"lr": 0.2}, "c": {"eps": 0.25}}, **{**start, **change})
    fresh.update({name: np.ones(2) for name in "abc"}, grads)
    copied, twins, others = copy.deepcopy(opt), *({n: p.copy() for n, p in params.items()} for _ in range(2))
    opt.update(params, grads)
    copied.update(twins, grads)
    fresh.update(others, grads)
    for name in params:
        assert_same_bits(params[name], twins[name], name)
        assert_same_bits(params[name], others[name], name)
    assert (params["a"] != params["b"]).all()


NOT_ASSIGNABLE = [("Adam", "eps"), ("RMSprop", "momentum")]  # it has eps_hat; it decides which state is kept


@pytest.mark.parametrize("rule", schuss.optimizers.OPTIMIZERS)
def test_groups_follow_every_argument(rule):
    """Each argument that is assigned later counts for a group that does not set it."""
    cls = schuss.optimizers.OPTIMIZERS[rule]
    values = {
        "lr": 0.3,
        "weight_decay": 0.2,
        "maximize": True,
        "clip_value": 0.1,
        "eps_hat": 0.1,
        "steps": 2,
        "warmup": 3,
    }
    values |= {"nesterov": False, "beta2_decay": -0.5, "bias_correction": True}
    for name in cls._arguments:
        if name in (*GLOBAL, *KEPT, "centered", "initial_accumulator") or (rule, name) in NOT_ASSIGNABLE:
            continue
        # Of the group's parameter all is the optimizer's own: it has to move as the one outside of the group does.
        opt = cls(groups={"b": {"lr": lambda t: 0.25} if name != "lr" else {"clip_value": 1e9}})
        params = {n: np.eye(3) + 0.5 for n in "ab"}
        grads = {n: np.arange(9.0).reshape(3, 3) / 9 for n in "ab"}
        opt.update(params, grads)
        params["b"][:] = params["a"]
        for slot, array in opt.state["b"].items():
            array[...] = opt.state["a"][slot]
        opt._members[0]._remember(opt._memory(opt.t), opt.t)
        setattr(opt, name, values.get(name, 0.5))
        if name != "lr":
            opt.lr = lambda t: 0.25
        opt.update(params, grads)
        assert_same_bits(params["b"], params["a"], f"{name} of {rule}")


def test_norms_follow_the_order_of_memory():
    """Where the promise about layouts ends: a norm is a sum along the memory, so its last bits hang on the order."""
    rng = np.random.default_rng(0)
    differ = 0
    for _ in range(40):
        g = rng.normal(size=(37, 53))
        norms = []
        for form in (np.ascontiguousarray, np.asfortranarray):
            params = {"p": form(np.zeros(g.shape))}
            opt = schuss.SGD(clip_norm=1.0)
            opt.update(params, {"p": g})
            norms.append(opt.last_grad_norm)
        differ += norms[0] != norms[1]
        assert norms[0] == pytest.approx(norms[1], rel=1e-14)
    assert 0 < differ < 40
