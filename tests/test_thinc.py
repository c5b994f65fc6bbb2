"""schuss.thinc beside thinc's own optimizer, in its registry, and in spaCy's training."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
import warnings
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import schuss
from schuss import reference
from schuss.specs import parse_optimizer

theirs = pytest.importorskip("thinc.optimizers", reason="thinc is not installed (extra thinc)")
import schuss.thinc as ours  # noqa: E402

SHAPES = [(1,), (7,), (33, 5), (16, 3, 7), (70, 130)]
NAMES = ["Adam", "RAdam", "SGD"]


def run(opt, steps, scale=1.0, shapes=SHAPES, seed=0, **scaled):
    """Steps from one seed; the weights, and what the last gradients became."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    grads = []
    for _ in range(steps):
        grads = [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]
        for i, grad in enumerate(grads):
            weights[i], _ = opt((i, "W"), weights[i], grad, **scaled)
        opt.step_schedules()
    return weights, grads


def assert_close(ours_, theirs_, rtol):
    for a, b in zip(ours_, theirs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["clipped", "not clipped"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"L2": 0.01},
        {"L2": 3.0},
        {"L2": 0.01, "L2_is_weight_decay": False},
        {"L2": 0.01, "L2_is_weight_decay": False, "grad_clip": 0.0},
        {"grad_clip": 0.3, "use_averages": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_thincs(name, given, scale):
    """Over 500 steps, to rounding: of float32, and of a decay that is a factor here, which is biased by 3e-8 a step."""
    a, b = getattr(ours, name)(0.01, **given), getattr(theirs, name)(0.01, **given)
    mine, cleared = run(a, 500, scale)
    wanted, _ = run(b, 500, scale)
    # Where L2 is in the gradient and the gradient is small, Adam's division makes much of the gradient's last bits.
    rtol = 3e-4 if scale < 1 and given.get("L2_is_weight_decay") is False else 2e-5
    assert_close(mine, wanted, rtol)
    assert not any(grad.any() for grad in cleared)
    assert dict(a.nr_update) == dict(b.nr_update)
    for slot in ("mom1", "mom2") if name != "SGD" else ():
        kept, kept_there = getattr(a, slot), getattr(b, slot)
        assert kept.keys() == kept_there.keys()
        for key in kept:
            assert kept[key].shape == kept_there[key].shape
            np.testing.assert_allclose(kept[key], kept_there[key], rtol=2e-4, atol=2e-5 * np.abs(kept_there[key]).max())
    assert (a.averages is None) == (b.averages is None)
    for key in a.averages or ():
        assert a.averages[key].shape == b.averages[key].shape
        assert_close([a.averages[key]], [b.averages[key]], 4e-4 if rtol > 1e-4 else rtol)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_lr_scale_and_schedules(name):
    def given():
        return {
            "learn_rate": [0.1, 0.01, 0.003],
            "L2": (rate for rate in [0.0, 0.1, 0.2, 0.1]),
            "grad_clip": [1.0, 0.5],
        }

    a, b = (getattr(module, name)(**given()) for module in (ours, theirs))
    assert_close(run(a, 6, lr_scale=0.5)[0], run(b, 6, lr_scale=0.5)[0], 1e-5)


def test_betas_by_schedule():
    given = {"beta1": [0.8, 0.9], "beta2": [0.9, 0.99], "eps": [1e-3, 1e-8]}
    assert_close(run(ours.Adam(0.01, **copy.deepcopy(given)), 8)[0], run(theirs.Adam(0.01, **given), 8)[0], 1e-6)


def test_schedules_of_thinc_9():
    Schedule = getattr(pytest.importorskip("thinc.schedules"), "Schedule", None)
    if Schedule is None:
        pytest.skip("thinc 8 is installed, whose schedules are generators")

    def rate(schedule, step, *, key, last_score):
        return 0.1 / (1 + step + key[0]) / (1 if last_score is None else 1 + last_score[1])

    results = []
    for module in (ours, theirs):
        opt = module.Adam(Schedule("by key", rate), L2=Schedule("L2", lambda schedule, step, **_: 0.01 * step))
        first, _ = run(opt, 3)
        opt.last_score = 0.5
        assert opt.last_score == (3, 0.5)
        results.append([*first, *run(opt, 3)[0]])
    assert_close(*results, 1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("n", [1, 7, 8, 15, 16, 17, 33, 1023, 70_000])
def test_each_bit(n, averaged, threads):
    """Against the same operations in NumPy, in float32; a norm is rounded from double."""
    before = schuss.get_num_threads()
    schuss.set_num_threads(threads)
    try:
        lr, b1, b2, eps, L2, clip = 0.01, 0.9, 0.999, 1e-8, 0.1, 2.0
        opt = ours.Adam(lr, L2=L2, grad_clip=clip, use_averages=averaged)
        rng = np.random.default_rng(n)
        f = np.float32
        w = rng.standard_normal(n).astype(f)
        p, m, v, mean = w.copy(), np.zeros(n, f), np.zeros(n, f), np.zeros(n, f)
        for t in range(1, 6):
            g = (3 * rng.standard_normal(n)).astype(f)
            norm = reference.norm(g)
            h = f(clip / norm) * g if norm > clip else g
            decay = 1 - lr * L2
            m = m + f(1 - b1) * (h - m)
            v = v + f(1 - b2) * (h * h - v)
            lr_t = lr * (1 - b2**t) ** 0.5 / (1 - b1**t)
            p = f(decay) * p - f(decay * lr_t) * m / (np.sqrt(v) + f(eps))
            d = (1 + t) / (10 + t)
            mean = f(d) * mean + f(1 - d) * p
            opt((0, "W"), w, g)
            assert not g.any()
        assert np.array_equal(w, p)
        assert np.array_equal(opt.mom1[0, "W"], m)
        assert np.array_equal(opt.mom2[0, "W"], v)
        assert not averaged or np.array_equal(opt.averages[0, "W"], mean)
    finally:
        schuss.set_num_threads(before)


def test_averages_after_many_steps():
    """What is left of them stays at 0.9999."""
    mine, wanted, key = ours.SGD(0.1), theirs.SGD(0.1), (0, "W")
    mine._steps[key] = mine._begin(key, 99_999, {"ema": np.ones(3, np.float32)}, {})
    wanted.nr_update[key], wanted.averages[key] = 99_999, np.ones(3, np.float32)
    for opt in (mine, wanted):
        opt(key, np.full(3, 2, np.float32), np.ones(3, np.float32))
    found = mine._steps[key].engine.state[key]["ema"]
    np.testing.assert_allclose(found, wanted.averages[key], rtol=2e-7)
    assert (found > 1).all()


# What the gradient becomes.

SHAPE = (130, 47)
# How it lies in a larger array: that array's shape and order, and what of it is the gradient.
LIES = {
    "contiguous": ((132, 47), "C", lambda whole: whole[1:-1]),
    "strided": ((132, 141), "C", lambda whole: whole[1:-1, ::3]),
    "fortran": ((130, 49), "F", lambda whole: whole[:, 1:-1]),
}
FEW = ["Adam", "Lion", "LAMB", "Muon", "Adafactor", "SGD", "Adam(state_dtype='int8')"]


def dtype_of(name):
    if name == "bfloat16":
        return pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra low-precision)").bfloat16
    return np.dtype(name)


@pytest.mark.parametrize("rule", FEW)
@pytest.mark.parametrize("lies", LIES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_the_gradient_is_zeros_and_its_neighbours_are_not(rule, lies, dtype):
    dtype = dtype_of(dtype)
    if "state" in rule and dtype == np.float64:
        rule = "Adam"
    shape, order, part = LIES[lies]
    whole, within = np.full(shape, 7, dtype, order), np.zeros(shape, bool, order)
    gradient = part(whole)
    part(within)[...] = True
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(SHAPE).astype(dtype)
    made = parse_optimizer(rule).make(weight_decay=0.0)
    opt = ours.Optimizer(0.01, rule=made, use_averages=dtype in (np.float32, np.float64))
    twin, kept = schuss.optimizers.OPTIMIZERS[rule.partition("(")[0]](lr=0.01), weights.copy()
    twin.weight_decay = 0.0
    if "state" in rule:
        twin.state_dtype = "int8"
    for t in range(4):
        gradient[...] = rng.standard_normal(SHAPE).astype(dtype)
        if t == 1:
            gradient[3:60] = 1e-39
        if t == 3:
            gradient[3, 5] = np.nan
        gradient /= 100  # below the norm at which it is clipped
        twin.update({(0, "W"): kept}, {(0, "W"): gradient.copy()})
        opt((0, "W"), weights, gradient)
        assert (gradient == 0).all()
        assert (whole[~within] == 7).all()
        if t < 3:
            np.testing.assert_array_equal(weights, kept)


def test_a_gradient_that_cannot_be_cleared():
    """The weights could be stepped, but nothing is."""
    opt = ours.Adam()
    weights, gradient = np.ones(5, np.float32), np.ones(5, np.float32)
    gradient.flags.writeable = False
    with pytest.raises(ValueError, match="zeros after the step"):
        opt((3, "b"), weights, gradient)
    assert (weights == 1).all()
    assert (opt.nr_update, opt.mom1, opt.averages) == ({}, {}, {})


@pytest.mark.parametrize(
    ("weights", "gradient", "given", "message"),
    [
        (np.ones(5, "f"), np.ones(4, "f"), {}, "shape"),
        (np.ones(5, "f"), np.ones(5, "d"), {}, "float64"),
        (np.ones(5, "i"), np.ones(5, "i"), {}, "int32"),
        ([1.0] * 5, np.ones(5, "f"), {}, "list"),
        (np.ones(5, "f"), [1.0] * 5, {}, "list"),
        (np.ones(5, "f"), np.ones(5, "f"), {"learn_rate": [float("nan")]}, "learn_rate"),
        (np.ones(5, "f"), np.ones(5, "f"), {"learn_rate": [-1.0]}, "learn_rate"),
        (np.ones(5, "f"), np.ones(5, "f"), {"L2": [-0.1]}, "L2"),
        (np.ones(5, "f"), np.ones(5, "f"), {"L2": [float("nan")], "L2_is_weight_decay": False}, "L2"),
        (np.ones(5, "f"), np.ones(5, "f"), {"grad_clip": [-1.0]}, "grad_clip"),
        (np.ones(5, "f"), np.ones(5, "f"), {"grad_clip": [float("nan")]}, "grad_clip"),
        (np.ones(5, "f"), np.ones(5, "f"), {"beta1": [1.0]}, "beta1"),
        (np.ones(5, "f"), np.ones(5, "f"), {"eps": [-1.0]}, "eps"),
    ],
)
def test_refused_and_nothing_changed(weights, gradient, given, message):
    opt = ours.Adam(**given)
    before = np.copy(weights), np.copy(gradient)
    with pytest.raises((TypeError, ValueError), match=message):
        opt((0, "W"), weights, gradient)
    assert np.array_equal(weights, before[0])
    assert np.array_equal(gradient, before[1])
    assert (opt.nr_update, opt.mom1, opt.averages) == ({}, {}, {})


@pytest.mark.parametrize(("name", "value"), [("learn_rate", -1), ("L2", float("nan")), ("beta2", 1.0), ("eps", -1.0)])
def test_numbers_are_refused_at_once(name, value):
    with pytest.raises(ValueError, match=name):
        ours.Adam(**{name: value})


def test_a_decay_of_everything():
    with pytest.raises(ValueError, match="below 1"):
        ours.SGD(2.0, L2=0.5)((0, "W"), np.ones(3, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize("scale", [-1.0, float("nan"), "2"])
def test_a_scale_of_the_rate_is_refused(scale):
    weights, gradient = np.ones(3, np.float32), np.ones(3, np.float32)
    with pytest.raises((TypeError, ValueError), match="lr_scale"):
        ours.Adam()((0, "W"), weights, gradient, lr_scale=scale)
    assert (weights == 1).all()
    assert (gradient == 1).all()


def test_another_shape():
    opt = ours.Adam()
    opt((0, "W"), np.ones(5, np.float32), np.ones(5, np.float32))
    with pytest.raises(ValueError, match="new optimizer"):
        opt((0, "W"), np.ones(6, np.float32), np.ones(6, np.float32))
    assert opt.nr_update == {(0, "W"): 1}


def test_no_elements():
    weights, gradient = np.ones((0, 3), np.float32), np.ones((0, 3), np.float32)
    assert ours.Adam()((0, "W"), weights, gradient) == (weights, gradient)


def test_it_is_locked_as_thincs_is():
    for module in (ours, theirs):
        with pytest.raises(AttributeError):
            module.Adam().learning_rate = 0.1


def test_a_refusal_after_the_gradient_was_prepared():
    """L2 is added to a gradient that is clipped; where the step is then refused it is as it was."""
    opt = ours.Adam(L2=0.5, L2_is_weight_decay=False)
    opt((0, "W"), np.ones(5, np.float32), np.ones(5, np.float32))
    weights, gradient = np.ones(6, np.float32), np.linspace(1, 2, 6, dtype=np.float32)
    with pytest.raises(ValueError, match="new optimizer"):
        opt((0, "W"), weights, gradient)
    assert np.array_equal(gradient, np.linspace(1, 2, 6, dtype=np.float32))
    gradient.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt((1, "W"), weights, gradient)
    assert (weights == 1).all()


# Copies.


def through_buffers(opt):
    """A pickle whose arrays are read-only."""
    buffers = []
    data = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


@pytest.mark.parametrize("again", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt)), through_buffers])
@pytest.mark.parametrize("make", [*NAMES, "NAdam", "Adam(state_dtype='int8')", "LAMB"])
def test_a_copy_goes_on_by_itself(make, again):
    def new():
        return getattr(ours, make)(0.01) if make in NAMES else ours.Rule(make, 0.01, use_averages="(" not in make)

    opt, whole = new(), new()
    rng = np.random.default_rng(1)
    grads = rng.standard_normal((9, 300)).astype(np.float32)
    weights, wanted = np.ones(300, np.float32), np.ones(300, np.float32)
    for g in grads[:5]:
        opt((0, "W"), weights, g.copy())
    twin, copied = again(opt), weights.copy()
    for g in grads[5:]:
        opt((0, "W"), weights, g.copy())
    for g in grads[5:]:
        twin((0, "W"), copied, g.copy())
    for g in grads:
        whole((0, "W"), wanted, g.copy())
    assert np.array_equal(weights, copied)
    assert np.array_equal(weights, wanted)
    assert dict(twin.nr_update) == {(0, "W"): 9}
    for slot in ("mom1", "mom2", "averages"):
        a, b = getattr(opt, slot) or {}, getattr(twin, slot) or {}
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[key], b[key]) and not np.shares_memory(a[key], b[key]) for key in a)


# Other rules.


def test_the_decay_of_a_rule_is_its_own():
    weights, kept = np.ones(9, np.float32), np.ones(9, np.float32)
    opt, twin = ours.Rule("Lion(beta2=0.9)", 0.1, L2=0.5), schuss.Lion(lr=0.1, beta2=0.9, weight_decay=0.5)
    for _ in range(3):
        g = np.linspace(-1, 1, 9, dtype=np.float32) / 9
        twin.update({"W": kept}, {"W": g.copy()})
        opt((0, "W"), weights, g)
    assert np.array_equal(weights, kept)


def test_the_l2_of_a_rule_is_its_own():
    weights, kept = np.ones(9, np.float32), np.ones(9, np.float32)
    opt = ours.Rule("RMSprop", 0.1, L2=0.5, L2_is_weight_decay=False, grad_clip=1.0)
    twin = schuss.RMSprop(lr=0.1, weight_decay=0.5)
    for _ in range(3):
        g = np.linspace(-1, 1, 9, dtype=np.float32) / 9
        twin.update({"W": kept}, {"W": g.copy()})
        opt((0, "W"), weights, g)
    assert np.array_equal(weights, kept)


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        ("Lion(lr=0.1)", {}, "lr is said by learn_rate"),
        ("SGD(0.1)", {}, "lr is said by learn_rate"),
        ("Lion(weight_decay=0.1)", {}, "by L2"),
        ("Lion(clip_norm=1)", {}, "by grad_clip"),
        ("Lion(ema=0.9)", {}, "by use_averages"),
        ("Lion(on_nonfinite='skip')", {}, "no place for on_nonfinite"),
        ("ScheduleFreeSGD", {}, "keeps the weights to evaluate"),
        ("Muon", {}, "steps matrices alone"),
        ("Lion", {"L2": 0.1, "L2_is_weight_decay": False}, "L2_is_weight_decay = true"),
        ("RMSprop", {"L2": 0.1}, "L2_is_weight_decay = false"),
        ("Lyon", {}, "Lion"),
    ],
)
def test_rules_refused(rule, given, message):
    with pytest.raises(ValueError, match=message):
        ours.Rule(rule, 0.1, **given)


def test_a_rule_is_given_as_text():
    with pytest.raises(TypeError, match="rule must be the text of an optimizer"):
        ours.Rule(schuss.Lion(), 0.1)


# thinc's and spaCy's side.


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_thincs(name):
    mine, wanted = (signature(getattr(module, name)).parameters.values() for module in (ours, theirs))
    assert [(p.name, p.kind, p.default, p.annotation) for p in mine] == [
        (p.name, p.kind, p.default, p.annotation) for p in wanted
    ]


def test_the_registry_finds_them():
    from thinc.api import Config, registry

    text = """
    [optimizer]
    @optimizers = "{name}.v1"
    {line}

    [optimizer.learn_rate]
    @schedules = "warmup_linear.v1"
    initial_rate = 0.1
    warmup_steps = 2
    total_steps = 10
    """
    for name, line, rule in [
        ("schuss.Adam", "L2 = 0.01", "_Adam"),
        ("schuss.RAdam", "", "_RAdam"),
        ("schuss.SGD", "", "_SGD"),
        ("schuss.Rule", 'rule = "Lion(beta1=0.8)"', "Lion"),
    ]:
        lines = "\n".join(each.strip() for each in text.format(name=name, line=line).splitlines())
        opt = registry.resolve(Config().from_str(lines))["optimizer"]
        assert isinstance(opt, theirs.Optimizer)
        weights = np.zeros(2, np.float32)
        opt((0, "W"), weights, np.ones(2, np.float32))
        assert (weights == 0).all()  # the first rate of the warmup
        opt.step_schedules()
        opt((0, "W"), weights, np.ones(2, np.float32))
        assert (weights < 0).all()
        assert type(opt._steps[0, "W"].rule).__name__ == rule


@pytest.mark.parametrize(("block", "rule"), [(0, "_Adam"), (1, "Lion")])
def test_the_configs_of_the_page(block, rule):
    from thinc.api import Config, registry

    page = (Path(__file__).parents[1] / "docs" / "thinc.md").read_text()
    text = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)[block]
    opt = registry.resolve(Config().from_str(f"[training]\n\n{text}")["training"])["optimizer"]
    opt((0, "W"), np.ones(2, np.float32), np.ones(2, np.float32))
    assert type(opt._steps[0, "W"].rule).__name__ == rule


def test_a_model_of_thinc_learns():
    from thinc.api import Relu, Softmax, chain

    losses = {}
    for module in (ours, theirs):
        model = chain(Relu(16, 8), Softmax(3, 16))
        rng = np.random.default_rng(0)
        x = rng.standard_normal((60, 8)).astype(np.float32)
        labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 60)]
        model.initialize(x, labels)
        for node in model.walk():
            for name in node.param_names:
                node.set_param(name, rng.standard_normal(node.get_param(name).shape).astype(np.float32))
        opt = module.Adam(0.05)
        for _ in range(30):
            guess, backprop = model.begin_update(x)
            backprop((guess - labels) / len(x))
            model.finish_update(opt)
        with model.use_params(opt.averages):
            losses[module.__name__] = model.predict(x)
    np.testing.assert_allclose(*losses.values(), atol=1e-5)


def test_pytorch_within_thinc():
    torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    from thinc.api import PyTorchWrapper

    results = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        model = PyTorchWrapper(torch.nn.Linear(5, 3))
        x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
        opt = module.Adam(0.1)
        for _ in range(5):
            y, backprop = model.begin_update(x)
            backprop(y)
            model.finish_update(opt)
        results.append(model.predict(x))
    np.testing.assert_allclose(*results, atol=1e-5)


@pytest.mark.parametrize("component", ["textcat", "tagger"])
def test_spacy_trains_as_with_thincs(component, tmp_path):
    pytest.importorskip("spacy", reason="spacy is not installed (extra bench)")
    from schuss.lab import pipelines

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # spaCy's and its dependencies' own
        pipelines.write_paragraphs(tmp_path)
        rows = [pipelines.train(component, name, tmp_path, 8) for name in pipelines.OPTIMIZERS]
    assert rows[0].score == pytest.approx(rows[1].score, abs=0.01)
    assert all(0 < row.optimizer < row.total for row in rows)


# thinc's own material, in which ours stands for its optimizers.
STANDS_FOR = """
import thinc.api, thinc.optimizers
from schuss import thinc as ours

for name in ("Adam", "RAdam", "SGD", "Optimizer"):
    for module in (thinc.api, thinc.optimizers):
        setattr(module, name, getattr(ours, name))
    if name != "Optimizer":
        thinc.api.registry.optimizers.register(f"{name}.v1", func=getattr(ours, name))
"""
THEIR_TESTS = ["test_optimizers", "test_config", "layers.test_basic_tagger", "model.test_model"]


def test_thincs_own_tests(tmp_path):
    (tmp_path / "stands_for.py").write_text(STANDS_FOR)
    own = [f"thinc.tests.{name}" for name in THEIR_TESTS]
    options = ["-q", "-p", "stands_for", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, "--pyargs", *own],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 30
