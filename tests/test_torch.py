"""schuss.torch: PyTorch's optimizers with our step. The oracles are torch.optim, its own test material, and NumPy."""

import copy
import gc
import inspect
import io
import itertools
import json
import pickle
import weakref
from collections import defaultdict

import ml_dtypes
import numpy as np
import pytest
import schuss

torch = pytest.importorskip("torch", reason='wants pip install ".[torch]"')
pytest.importorskip("expecttest", reason='PyTorch\'s test material wants it: pip install ".[parity]"')
import schuss.torch as st  # noqa: E402
from schuss import cli  # noqa: E402
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db  # noqa: E402

# What of PyTorch's material is left out, and why.
LEFT_OUT = {
    "LBFGS": "it has no step by elements: it searches along a line with closures, for which torch.optim.LBFGS is there"
}
OTHER_ERRORS = {
    ("Adafactor", "does not support complex parameters"): "complex parameters are refused by all, with what to do",
    ("Muon", "does not support complex parameters"): "complex parameters are refused by all, with what to do",
    ("SparseAdam", "complex not supported"): "complex parameters are refused by all, with what to do",
    ("SparseAdam", "dense params required"): "sparse parameters are refused by all, with what to do",
    ("SparseAdam", "dense params required in param_groups"): "sparse parameters are refused by all, with what to do",
}
INFOS = [info for info in optim_db if info.optim_cls.__name__ not in LEFT_OUT]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-8, torch.bfloat16: 0.04, torch.float16: 0.005}
OURS = ["Lion", "Adan", "LAMB", "LARS"]


def name_of(info):
    return info.optim_cls.__name__


def shapes_for(name):
    return [(5, 4), (3, 8), (1, 1)] if name == "Muon" else [(5, 4), (33,), (), (3, 1, 7)]


def parameters(shapes, dtype=torch.float32, seed=0):
    made = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=made).to(dtype)) for shape in shapes]


def give(params, seed, sparse=False):
    made = torch.Generator().manual_seed(seed)
    for p in params:
        grad = torch.randn(p.shape, generator=made).to(p.dtype)
        p.grad = (grad.to_sparse(1) if p.dim() else None) if sparse else grad


def twins(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def near(a, b, tolerance, what=""):
    scale = float(a.detach().abs().max()) if a.numel() else 0.0
    assert a.shape == b.shape, what
    error = float((a.detach().double() - b.detach().double()).abs().max()) if a.numel() else 0.0
    assert error <= tolerance * max(scale, 1e-12), f"{what}: {error} at {scale}"


def same_state(theirs, ours, tolerance):
    """Of PyTorch's optimizer and ours: the same names, shapes, dtypes, and numbers to rounding."""
    for group, own in zip(theirs.param_groups, ours.param_groups, strict=True):
        for p, q in zip(group["params"], own["params"], strict=True):
            assert theirs.state[p].keys() == ours.state[q].keys()
            for key, value in theirs.state[p].items():
                assert (value is None) == (ours.state[q][key] is None), key
                if torch.is_tensor(value):
                    assert value.dtype == ours.state[q][key].dtype, key
                    near(value, ours.state[q][key], tolerance, key)


def assert_as_kept(params, opt, kept):
    """Of parameters and state as ``copy.deepcopy((params, opt.state_dict()))`` has kept them."""
    for p, old in zip(params, kept[0], strict=True):
        assert torch.equal(p, old)
    for key, slots in opt.state_dict()["state"].items():
        for name, value in slots.items():
            assert torch.equal(value, kept[1]["state"][key][name])


def inputs():
    for info in INFOS:
        for given in info.optim_inputs_func("cpu", torch.float32):
            yield pytest.param(info, given.kwargs, id=f"{name_of(info)}-{given.desc}")


# PyTorch's own material.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("info", "kwargs"), [*inputs()])
def test_each_input_of_pytorchs_database(info, kwargs, dtype):
    """Parameters, and where the formats are the same all state, over steps with a schedule and missing gradients."""
    name = name_of(info)
    sparse = info.only_supports_sparse_grads
    if sparse and dtype.itemsize == 2:
        pytest.skip("SparseAdam lets rows rest, which parameters of 16 bits cannot")
    a = parameters(shapes_for(name), dtype)
    b = twins(a)
    theirs, ours = info.optim_cls(a, **copy.deepcopy(kwargs)), getattr(st, name)(b, **copy.deepcopy(kwargs))
    schedules = [torch.optim.lr_scheduler.ExponentialLR(opt, 0.9) for opt in (theirs, ours)]
    for t in range(7):
        for params in (a, b):
            give(params, t, sparse)
            if t in (0, 2, 3):
                params[1].grad = None
        for opt in (theirs, ours, *schedules):
            opt.step()
    tolerance = 0.05 if name == "Muon" else TOLERANCE[dtype]  # whose products are of bfloat16 there
    for p, q in zip(a, b, strict=True):
        near(p, q, tolerance)
    if dtype.itemsize > 2:
        same_state(theirs, ours, tolerance if name in ("Muon", "RAdam", "NAdam", "ASGD") else max(tolerance, 1e-6))


@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_errors_of_pytorchs_database(info):
    name, met = name_of(info), set()
    for error in info.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = parameters([(1, 1)]) if given.params is None else given.params
        kind, text = error.error_type, error.error_regex
        if (name, given.desc) in OTHER_ERRORS:
            met.add((name, given.desc))
            kind, text = (TypeError, ValueError), "make torch.view_as_real|parameters must be dense"

        def make(params=params, kwargs=given.kwargs, steps=error.error_on == OptimizerErrorEnum.STEP_ERROR):
            opt = getattr(st, name)(params, **kwargs)
            if steps:
                opt.step()

        with pytest.raises(kind, match=text):
            make()
    assert met == {key for key in OTHER_ERRORS if key[0] == name}


@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_schedulers_of_pytorchs_database(info):
    if info.only_supports_sparse_grads:
        pytest.skip("the loss has dense gradients")
    for make in info.scheduler_inputs:
        a = parameters([(4, 3)])
        b = twins(a)
        opts = info.optim_cls(a, lr=0.05), getattr(st, name_of(info))(b, lr=0.05)
        schedules = [[each(opt) for each in make] for opt in opts]
        for _ in range(25):
            for params, opt, each in zip((a, b), opts, schedules, strict=True):
                opt.zero_grad()
                loss = (params[0] - 1).square().sum()
                loss.backward()
                opt.step()
                for schedule in each:
                    plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    schedule.step(float(loss.detach())) if plateau else schedule.step()
        near(a[0], b[0], 0.1 if name_of(info) == "Muon" else 1e-4)


@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_signatures_are_pytorchs(info):
    """A class takes what PyTorch's takes, in its order, and then what is ours."""
    ours, theirs = getattr(st, name_of(info)), info.optim_cls
    found = [*inspect.signature(ours).parameters.values()]
    expected = [*inspect.signature(theirs).parameters.values()]
    assert [str(each) for each in found[: len(expected)]] == [str(each) for each in expected]
    assert [each.name for each in found[len(expected) :]] == [
        *("clip_norm", "clip_value", "ema", "on_nonfinite", "sparse", "state_dtype", "master")
    ]
    assert issubclass(ours, theirs)
    assert "Examples" in ours.__doc__


# The same numbers as NumPy, bit for bit.


def numpy_of(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()


def same_bits(a, b, what=""):
    assert (a.dtype, a.shape) == (b.dtype, b.shape), what
    nan = np.isnan(a.astype(np.float64))
    np.testing.assert_array_equal(nan, np.isnan(b.astype(np.float64)), what)
    np.testing.assert_array_equal(a[~nan], b[~nan], what)
    np.testing.assert_array_equal(np.signbit(a[~nan].astype(float)), np.signbit(b[~nan].astype(float)), what)


PAIRS = {
    "SGD": (lambda p, **k: st.SGD(p, 0.1, **k), lambda **k: schuss.SGD(0.1, **k), {}),
    "Adagrad": (lambda p, **k: st.Adagrad(p, **k), lambda **k: schuss.AdaGrad(eps=1e-10, **k), {"h": "sum"}),
    "RMSprop": (lambda p, **k: st.RMSprop(p, **k), lambda **k: schuss.RMSprop(eps=1e-8, **k), {"h": "square_avg"}),
    "Adam": (
        lambda p, **k: st.Adam(p, **k),
        lambda **k: schuss.Adam(eps=1e-8, **k),
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
    "AdamW": (lambda p, **k: st.AdamW(p, **k), lambda **k: schuss.AdamW(**k), {"m": "exp_avg", "v": "exp_avg_sq"}),
    "Lion": (lambda p, **k: st.Lion(p, **k), lambda **k: schuss.Lion(**k), {"m": "exp_avg"}),
    "Adan": (
        lambda p, **k: st.Adan(p, **k),
        lambda **k: schuss.Adan(**k),
        {"m": "exp_avg", "v": "exp_avg_diff", "n": "exp_avg_sq", "b": "previous_grad"},
    ),
    "LAMB": (lambda p, **k: st.LAMB(p, **k), lambda **k: schuss.LAMB(**k), {"m": "exp_avg", "v": "exp_avg_sq"}),
    "LARS": (lambda p, **k: st.LARS(p, **k), lambda **k: schuss.LARS(**k), {"v": "velocity"}),
}
SETTINGS = {
    "plain": ({}, torch.float32),
    "float64": ({}, torch.float64),
    "decay": ({"weight_decay": 0.1, "maximize": True, "clip_value": 0.5}, torch.float32),
    "clipped": ({"clip_norm": 1.5, "ema": 0.9, "on_nonfinite": "skip"}, torch.float32),
    "split": ({}, torch.bfloat16),
    "half": ({"master": "float32"}, torch.float16),
    "no master": ({"master": None, "state_dtype": "bfloat16"}, torch.bfloat16),
    "int8": ({"state_dtype": "int8"}, torch.float32),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_bits_are_those_of_numpys_optimizers(name, setting):
    make, twin, names = PAIRS[name]
    options, dtype = SETTINGS[setting]
    if name == "LAMB" and "state_dtype" in options:
        with pytest.raises(ValueError, match="LAMB cannot have state_dtype"):
            make(parameters([(3,)]), **options)
        return
    shapes = [(n,) for n in (0, 1, 7, 8, 17, 64, 129, 1025)] + [(5, 33), ()]
    params = parameters(shapes, dtype)
    arrays = [numpy_of(p) for p in params]
    opt, ref = make(params, **options), twin(**options)
    for t in range(4):
        schuss.set_num_threads(t % 2 + 1, grain=1)
        give(params, t)
        opt.step()
        ref.update(arrays, [numpy_of(p.grad) for p in params])
        for i, (p, array) in enumerate(zip(params, arrays, strict=True)):
            same_bits(numpy_of(p), array, f"{shapes[i]}, step {t}")
            for slot, kept in ref.state[i].items():
                base = slot.removesuffix("_scale")
                shown = opt.state[p][names.get(base, base) + slot[len(base) :]]
                same_bits(numpy_of(shown), kept, f"{slot} of {shapes[i]}, step {t}")
    assert opt.last_grad_norm == ref.last_grad_norm


def heavy_ball(f, p, g, state, lr, t, nesterov):
    mu, share = f(0.9), f(1.0 if t == 1 else 1 - 0.3 * (not nesterov))
    state["b"] = mu * state.get("b", f(0) * p) + share * g
    return p - f(lr) * (g + mu * state["b"] if nesterov else state["b"])


def rms_heavy_ball(f, p, g, state, lr, t, centered):
    zero = f(0) * p
    h = state["h"] = f(0.99) * state.get("h", zero) + f(1 - 0.99) * g * g
    if centered:
        a = state["a"] = f(0.99) * state.get("a", zero) + f(1 - 0.99) * g
        h = h - a * a
    state["b"] = f(0.9) * state.get("b", zero) + g / (np.sqrt(h) + f(1e-8))
    return p - f(lr) * state["b"]


def rprop(f, p, g, state, lr, t, _):
    last, s = state.get("last", f(0) * p), state.get("s", f(0) * p + f(lr))
    same = g * last
    s = s * np.where(same > 0, f(1.2), np.where(same < 0, f(0.5), f(1) + np.sign(same)))
    s = np.clip(s, f(1e-6), f(50))
    g = np.where(same < 0, f(0), g)
    state.update(last=g, s=s)
    return p - np.sign(g) * s


FORMS = {
    "HeavyBall": (lambda p: st.SGD(p, 0.1, momentum=0.9, dampening=0.3), heavy_ball, False),
    "HeavyBall ahead": (lambda p: st.SGD(p, 0.1, momentum=0.9, nesterov=True), heavy_ball, True),
    "RMSpropHeavyBall": (lambda p: st.RMSprop(p, 0.1, momentum=0.9), rms_heavy_ball, False),
    "RMSpropCenteredHeavyBall": (lambda p: st.RMSprop(p, 0.1, momentum=0.9, centered=True), rms_heavy_ball, True),
    "Rprop": (lambda p: st.Rprop(p, 0.1), rprop, None),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_bits_of_the_forms_that_pytorch_alone_has(form, dtype):
    """Against NumPy written down here, on sizes around the vectors' and strided parameters, subnormal ones too."""
    make, step, choice = FORMS[form]
    params = parameters([(n,) for n in (1, 7, 16, 33, 1025)], dtype)
    params.append(torch.nn.Parameter(torch.randn(9, 14, dtype=dtype)[::2, ::3]))
    params.append(torch.nn.Parameter(torch.full((40,), 1e-41, dtype=dtype)))
    f = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    arrays, states = [numpy_of(p) for p in params], [{} for _ in params]
    opt = make(params)
    for t in range(1, 6):
        schuss.set_num_threads(t % 2 + 1, grain=1)
        give(params, t)
        params[-1].grad *= 1e-40
        opt.step()
        for i, p in enumerate(params):
            with np.errstate(all="ignore"):
                arrays[i] = step(f, arrays[i], numpy_of(p.grad), states[i], 0.1, t, choice)
            same_bits(numpy_of(p), arrays[i], f"{form}, {tuple(p.shape)}, step {t}")
            assert len(states[i]) == len([key for key in opt.state[p] if key != "step"])


@pytest.mark.parametrize("kind", ["AMSGrad", "NAdam", "RAdam"])
def test_bits_of_decoupled_decay(kind):
    """A step with decay is one without, from decayed parameters."""
    make = {
        "AMSGrad": lambda p, wd: st.AdamW(p, amsgrad=True, weight_decay=wd),
        "NAdam": lambda p, wd: st.NAdam(p, weight_decay=wd, decoupled_weight_decay=True),
        "RAdam": lambda p, wd: st.RAdam(p, weight_decay=wd, decoupled_weight_decay=True),
    }[kind]
    a = parameters([(1025,), (7,)])
    b = twins(a)
    one, two = make(a, 0.1), make(b, 0.0)
    for t in range(7):
        give(a, t)
        give(b, t)
        lr = one.param_groups[0]["lr"]
        with torch.no_grad():
            for q in b:
                q *= np.float32(1 - lr * 0.1)
        one.step()
        two.step()
        for p, q in zip(a, b, strict=True):
            assert torch.equal(p, q)


# State: to and from PyTorch, files, copies.


@pytest.mark.parametrize("direction", ["to us", "to PyTorch"])
@pytest.mark.parametrize(("info", "kwargs"), [*inputs()])
def test_a_run_goes_on_with_the_other(info, kwargs, direction):
    """Three steps with one, saved, and three with the other, as six with one."""
    name = name_of(info)
    sparse = info.only_supports_sparse_grads
    first, second = (info.optim_cls, getattr(st, name))[:: 1 if direction == "to us" else -1]
    a = parameters(shapes_for(name), torch.float64)
    opt = first(a, **copy.deepcopy(kwargs))
    for t in range(3):
        give(a, t, sparse)
        opt.step()
    b = twins(a)
    other = second(b, **copy.deepcopy(kwargs))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for t in range(3, 6):
        for params, each in ((a, opt), (b, other)):
            give(params, t, sparse)
            each.step()
    for p, q in zip(a, b, strict=True):
        near(p, q, 0.05 if name == "Muon" else 1e-7)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle", "file"])
def test_a_run_goes_on_to_the_bit(setting, how):
    options, dtype = SETTINGS[setting]
    a = parameters([(33,), (1500,), (4, 5)], dtype)
    opt = st.AdamW(a, **options)
    for t in range(3):
        give(a, t)
        opt.step()
    if how in ("deepcopy", "pickle"):
        pair = (a, opt)
        b, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    else:
        b = twins(a)
        other = st.AdamW(b, **options)
        saved = copy.deepcopy(opt.state_dict())
        if how == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        other.load_state_dict(saved)
    for t in range(3, 6):
        for params, each in ((a, opt), (b, other)):
            give(params, t)
            each.step()
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p, q)
        assert opt.state[p].keys() == other.state[q].keys()
        for key, value in opt.state[p].items():
            assert torch.equal(value, other.state[q][key]), key
            assert value.data_ptr() != other.state[q][key].data_ptr() or value.numel() == 0


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_random_numbers_go_on_where_parameters_take_turns(state_dtype):
    def step(params, opt, t):
        give(params, t)
        params[t % 2].grad = None
        opt.step()

    a = parameters([(300,), (200,)])
    opt = st.AdamW(a, state_dtype=state_dtype)
    for t in range(5):
        step(a, opt, t)
    b = twins(a)
    other = st.AdamW(b, state_dtype=state_dtype)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    for t in range(5, 9):
        step(a, opt, t)
        step(b, other, t)
    for p, q in zip(a, b, strict=True):
        assert torch.equal(p, q)
        for key, value in opt.state[p].items():
            assert torch.equal(value, other.state[q][key]), key


def test_another_format_takes_over():
    """State of float32 in a run with fewer bits, and back; PyTorch's state of bfloat16 parameters."""
    a = parameters([(300,)], torch.bfloat16)
    theirs = torch.optim.AdamW(a)
    for t in range(3):
        give(a, t)
        theirs.step()
    assert theirs.state[a[0]]["exp_avg"].dtype == torch.bfloat16
    for state_dtype in ("float32", "bfloat16", "int8"):
        b = twins(a)
        ours = st.AdamW(b, state_dtype=state_dtype)
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        ours.param_groups[0]["state_dtype"] = state_dtype
        give(a, 9)
        b[0].grad = a[0].grad.clone()
        before = a[0].detach().clone()
        ours.step()
        step = (b[0].detach().float() - before.float()).abs().max()
        assert 0 < step < 0.01
        kept = ours.state[b[0]]
        assert (
            kept["exp_avg"].dtype
            == {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}[state_dtype]
        )
        assert ("exp_avg_scale" in kept) == (state_dtype == "int8")
        assert kept["remainder"].dtype == torch.int16
        assert float(kept["step"]) == 4


def test_state_is_live_and_may_be_replaced():
    a = parameters([(50,), (20,)])
    b = twins(a)
    opt, ref = st.AdamW(a), torch.optim.AdamW(b)

    def step(seed):
        for params, each in ((a, opt), (b, ref)):
            give(params, seed)
            each.step()
        for p, q in zip(a, b, strict=True):
            near(q, p, 1e-5)

    step(0)
    for each, params in ((opt, a), (ref, b)):
        each.state[params[0]]["exp_avg"].mul_(0.5)  # in place
        each.state[params[1]]["exp_avg_sq"] = each.state[params[1]]["exp_avg_sq"] * 4  # another tensor
    step(1)
    for each, params in ((opt, a), (ref, b)):
        each.state[params[0]]["step"].fill_(7)
    step(2)
    assert float(opt.state[a[0]]["step"]) == 8
    assert float(opt.state[a[1]]["step"]) == 3
    for each, params in ((opt, a), (ref, b)):
        del each.state[params[0]]
    step(3)
    for each in (opt, ref):
        each.state.clear()
    step(4)
    for each in (opt, ref):
        each.state = defaultdict(dict)
    step(5)
    assert float(opt.state[a[0]]["step"]) == 1


# Groups and parameters that change.


def test_groups():
    shapes = [(30,), (4, 5), (7,)]
    a = parameters(shapes)
    b = twins(a)

    def make(cls, params):
        return cls([{"params": params[:1], "lr": 0.1}, {"params": params[1:2], "weight_decay": 0.5}], lr=0.01)

    opt, ref = make(st.AdamW, a), make(torch.optim.AdamW, b)
    for t in range(8):
        if t == 2:
            for each, params in ((opt, a), (ref, b)):
                each.add_param_group({"params": params[2], "betas": (0.5, 0.9), "amsgrad": True})
        if t == 4:
            for each in (opt, ref):
                each.param_groups[0]["betas"] = (0.8, 0.99)
                each.param_groups[1]["eps"] = 1e-3
                each.param_groups[1]["maximize"] = True
        if t == 6:
            for each in (opt, ref):
                each.param_groups.pop(0)
        for params, each in ((a, opt), (b, ref)):
            give(params, t)
            each.step()
        for p, q in zip(a, b, strict=True):
            near(q, p, 1e-5, f"step {t}")
    assert len(opt._parts) == 2  # with amsgrad and without
    assert opt.param_groups[0]["params"][0] is not a[0]


def test_named_parameters_and_generators():
    model = torch.nn.Linear(3, 2)
    opt = st.AdamW(model.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    opt = st.AdamW(p for p in model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    assert float(opt.state[model.bias]["step"]) == 1


def test_parameters_whose_memory_is_exchanged():
    a = parameters([(30,), (4, 4)])
    b = twins(a)
    opt, ref = st.SGD(a, 0.1, momentum=0.9), torch.optim.SGD(b, 0.1, momentum=0.9)
    for t in range(6):
        for params in (a, b):
            if t == 2:
                params[0].data = params[0].data.clone()
            if t == 4:
                params[1].data = params[1].data.t()  # the same memory
            give(params, t)
        opt.step()
        ref.step()
        for p, q in zip(a, b, strict=True):
            near(q, p, 1e-6, f"step {t}")
    a[0].data = a[0].data.double()
    give(a, 1)
    kept = [p.detach().clone() for p in a]
    with pytest.raises(ValueError, match="a changed parameter needs a new optimizer"):
        opt.step()
    assert all(torch.equal(p, old) for p, old in zip(a, kept, strict=True))


def test_steps_are_counted_by_parameter():
    """Experts, each with a gradient in its turn."""
    a = parameters([(9,)] * 4)
    b = twins(a)
    opt, ref = st.Adam(a), torch.optim.Adam(b)
    for t in range(12):
        for params in (a, b):
            give(params, t)
            for i, p in enumerate(params):
                if (t + i) % 3 == 0 or (i == 3 and t < 9):
                    p.grad = None
        opt.step()
        ref.step()
    same_state(ref, opt, 1e-5)
    for p, q in zip(a, b, strict=True):
        near(q, p, 1e-5)


def test_a_plan_of_before_does_not_know_of_other_counts():
    """All have a gradient, then one has none, then all again."""
    a = parameters([(5,)] * 3)
    b = twins(a)
    opt, ref = st.Adam(a, lr=0.1), torch.optim.Adam(b, lr=0.1)
    for t in range(6):
        for params in (a, b):
            give(params, t)
            if t in (1, 2):
                params[1].grad = None
        opt.step()
        ref.step()
        for p, q in zip(a, b, strict=True):
            near(q, p, 1e-6, f"step {t}")


def test_a_parameter_takes_anothers_place():
    a = parameters([(4,), (4,)])
    b = twins(a)
    opts = st.AdamW(a), torch.optim.AdamW(b)
    new = parameters([(4,)], seed=5)
    twin = twins(new)
    for t in range(4):
        if t == 2:
            for opt, p in zip(opts, (new[0], twin[0]), strict=True):
                opt.param_groups[0]["params"][0] = p
        for params in (a, b, new, twin):
            give(params, t)
        for opt in opts:
            opt.step()
    for p, q in zip([*a, *new], [*b, *twin], strict=True):
        near(q, p, 1e-6)
    assert float(opts[0].state[new[0]]["step"]) == 2


def test_what_a_rule_remembers_goes_on_with_other_arguments():
    a = parameters([(4,)], torch.float64)
    b = twins(a)
    opts = st.ASGD(a, lr=0.1, lambd=0.5), torch.optim.ASGD(b, lr=0.1, lambd=0.5)
    for t in range(6):
        for params, opt in zip((a, b), opts, strict=True):
            if t == 3:
                opt.param_groups[0]["weight_decay"] = 0.3
            give(params, t)
            opt.step()
    near(b[0], a[0], 1e-8)


def test_a_group_without_parameters():
    a = parameters([(3,)])
    opt = st.SGD([{"params": [], "momentum": 0.9}, {"params": a}], lr=1.0, clip_norm=100.0)
    give(a, 0)
    before = a[0].detach().clone()
    opt.step()
    assert torch.equal(a[0], before - a[0].grad)


def test_no_gradients_are_no_step():
    a = parameters([(3,)])
    opt = st.AdamW(a, on_nonfinite="raise")
    before = a[0].detach().clone()
    opt.step()
    assert torch.equal(a[0], before)
    assert not opt.state_dict()["state"]


# Tensors of all kinds.


def kinds_of_tensors():
    class Mine(torch.nn.Parameter):
        pass

    base = torch.randn(40, 30)
    yield "column", torch.nn.Parameter(base[:, 3].clone().requires_grad_(False)), None
    yield "transposed", torch.nn.Parameter(torch.randn(5, 9).t()), None
    yield "every third", torch.nn.Parameter(torch.randn(50)[::3]), None
    yield "channels last", torch.nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)), None
    yield "many axes", torch.nn.Parameter(torch.randn(1, 2, 1, 3, 2, 1, 2)), None
    yield "subclass", Mine(torch.randn(6)), None
    yield "shared", torch.nn.Parameter(torch.randn(8).share_memory_()), None
    yield "plain tensor", torch.randn(7, requires_grad=True), None
    yield "expanded gradient", torch.nn.Parameter(torch.randn(4, 6)), torch.randn(4, 1).expand(4, 6)
    yield "turned gradient", torch.nn.Parameter(torch.randn(5)), torch.randn(5, dtype=torch.cfloat).conj().imag
    yield "strided gradient", torch.nn.Parameter(torch.randn(5, 6)), torch.randn(6, 10)[:, ::2].t()
    yield "gradient with a graph", torch.nn.Parameter(torch.randn(3)), torch.randn(3, requires_grad=True) * 2


@pytest.mark.parametrize("kind", [name for name, *_ in kinds_of_tensors()])
def test_kinds_of_tensors(kind):
    p, grad = next((p, grad) for name, p, grad in kinds_of_tensors() if name == kind)
    q = p.detach().clone().requires_grad_()
    opt, ref = st.AdamW([p]), torch.optim.AdamW([q])
    for t in range(3):
        give([p], t)
        if grad is not None:
            p.grad = grad.detach() if t else grad
        q.grad = p.grad.detach().clone()
        address = p.data_ptr()
        opt.step()
        ref.step()
        near(q, p, 1e-6)
        assert p.data_ptr() == address
        assert p.stride() == p.detach().stride()


def refused():
    yield "complex", lambda: torch.zeros(3, dtype=torch.cfloat), TypeError, r"make torch.view_as_real\(p\)"
    yield "meta", lambda: torch.zeros(3, device="meta"), ValueError, "materialise it first"
    yield "sparse", lambda: torch.eye(3).to_sparse(), ValueError, "parameters must be dense"
    yield "integers", lambda: torch.zeros(3, dtype=torch.int32), TypeError, "float32, float64, float16 and bfloat16"
    yield "float8", lambda: torch.zeros(3, dtype=torch.float8_e5m2), TypeError, "float32, float64, float16 and bfloat16"


@pytest.mark.parametrize("kind", [name for name, *_ in refused()])
def test_what_is_refused_says_what_to_do(kind):
    make, error, text = next(rest for name, *rest in refused() if name == kind)
    good = parameters([(3,)])
    with pytest.raises(error, match=text):
        st.AdamW([make()])
    opt = st.AdamW(good)
    with pytest.raises(error, match=text):
        opt.add_param_group({"params": [make()]})
    assert len(opt.param_groups) == 1
    give(good, 0)
    opt.step()


def test_other_refusals():
    fake = pytest.importorskip("torch._subclasses.fake_tensor", reason="this PyTorch has none")
    with fake.FakeTensorMode():
        p = torch.nn.Parameter(torch.randn(3))
    with pytest.raises((TypeError, ValueError), match=r"more than its memory|meta device"):
        st.AdamW([p])
    with pytest.raises(ValueError, match="run the lazy module once"):
        st.AdamW(torch.nn.LazyLinear(3).parameters())
    a = parameters([(3,)])
    for flag in ("capturable", "differentiable"):
        with pytest.raises((ValueError, RuntimeError), match=flag):
            st.AdamW(a, **{flag: True})
    for name, value in {"clip_norm": -1.0, "ema": 1.0, "on_nonfinite": "never", "state_dtype": "float8"}.items():
        with pytest.raises(ValueError, match=name):
            st.AdamW(a, **{name: value})
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        st.AdamW(a, clipnorm=1.0)
    opt = st.AdamW([{"params": a, "clip_norm": 1.0}, {"params": parameters([(2,)])}])
    give(a, 0)
    with pytest.raises(ValueError, match="clip_norm concerns all parameters together"):
        opt.step()
    opt = st.SGD([{"params": a}, {"params": parameters([(2,)]), "momentum": 0.9}], clip_norm=1.0)
    with pytest.raises(ValueError, match="rules must then be of the same kind"):
        opt.step()
    opt = st.AdamW([a[0], torch.nn.Parameter(a[0].detach()[1:])])
    give([p for group in opt.param_groups for p in group["params"]], 0)
    before = a[0].detach().clone()
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] overlap in memory"):
        opt.step()
    assert torch.equal(a[0], before)
    assert not opt.state_dict()["state"]


def test_views_of_one_memory():
    """Columns of a matrix are apart, though between each other; those that share an element are not."""
    base = torch.randn(10, 4)
    params = [torch.nn.Parameter(base[:, 0]), torch.nn.Parameter(base[:, 2]), torch.nn.Parameter(base[:5, 1])]
    before = base.clone()
    give(params, 0)
    st.SGD(params, 1.0).step()
    assert torch.equal(base[:, 2], before[:, 2] - params[1].grad)
    assert torch.equal(base[5:, 1], before[5:, 1])
    params = [torch.nn.Parameter(base[:, ::2]), torch.nn.Parameter(base[::3, 2])]
    give(params, 0)
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] overlap"):
        st.SGD(params, 1.0).step()
    p = torch.nn.Parameter(torch.zeros(4).as_strided((3, 2), (1, 1)))
    p.grad = torch.ones(3, 2)
    with pytest.raises(ValueError, match="may overlap each other"):
        st.SGD([p], 1.0).step()


def test_gradients_that_come_late_are_refused_whole():
    """A gradient that cannot be taken: nothing has moved, no step is counted."""
    a = parameters([(30,), (4,)])
    opt = st.AdamW(a)
    give(a, 0)
    opt.step()
    kept = copy.deepcopy((a, opt.state_dict()))
    give(a, 1)
    a[1].grad.data = a[1].grad.data.double()
    with pytest.raises(TypeError, match=r"grads\[1\] is float64, its parameter is float32"):
        opt.step()
    assert_as_kept(a, opt, kept)


# Sparse gradients.


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("Adagrad", {}),
        ("AdamW", {}),
        ("RMSprop", {"weight_decay": 0.1}),
    ],
)
def test_sparse_gradients_are_as_dense_ones(name, kwargs):
    """Exact: to the bit what the dense gradient does, and every row can be read after each step."""
    a = [torch.nn.Parameter(torch.randn(20, 6)), torch.nn.Parameter(torch.randn(5))]
    b = twins(a)
    opts = getattr(st, name)(a, **kwargs), getattr(st, name)(b, **kwargs)
    made = torch.Generator().manual_seed(0)
    for _ in range(5):
        indices = torch.randint(0, 20, (1, 7), generator=made)
        values = torch.randn(7, 6, generator=made)
        a[0].grad = torch.sparse_coo_tensor(indices, values, (20, 6), check_invariants=True)
        b[0].grad = torch.from_numpy(schuss.Rows(indices[0].numpy(), values.numpy()).dense(20))
        a[1].grad = torch.randn(5, generator=made)
        b[1].grad = a[1].grad.clone()
        for opt in opts:
            opt.step()
        for p, q in zip(a, b, strict=True):
            assert torch.equal(p, q)
            for key, value in opts[0].state[p].items():
                assert torch.equal(value, opts[1].state[q][key]), key


def test_rows_that_rest():
    table = torch.nn.Embedding(10, 4, sparse=True)
    before = table.weight.detach().clone()
    opt = st.AdamW(table.parameters(), sparse="touched", weight_decay=0.1)
    for t in range(3):
        table(torch.tensor([1, 5, 1])).square().sum().backward()
        opt.step()
        opt.zero_grad(set_to_none=t == 1)
    moved = (table.weight != before).any(1)
    assert moved.tolist() == [i in (1, 5) for i in range(10)]
    opt = st.SparseAdam(parameters([(3, 2)]))
    give(opt.param_groups[0]["params"], 0)
    with pytest.raises(RuntimeError, match="SparseAdam takes sparse gradients alone"):
        opt.step()


def test_sparse_gradients_of_other_shapes():
    p = torch.nn.Parameter(torch.randn(4, 3))
    q = torch.nn.Parameter(p.detach().clone())
    grad = torch.randn(4, 3) * (torch.rand(4, 3) > 0.5)
    p.grad, q.grad = grad.to_sparse(), grad  # sparse in both axes
    st.SGD([p], 0.1).step()
    st.SGD([q], 0.1).step()
    assert torch.equal(p, q)


# What PyTorch does around a step.


def test_a_stale_value_is_noticed():
    p = torch.nn.Parameter(torch.randn(3))
    opt = st.SGD([p], 0.1)
    loss = p.exp().mul(p).sum()
    p.grad = torch.ones(3)
    version = p._version
    opt.step()
    assert p._version == version + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    p.grad = None
    opt.step()
    assert p._version == version + 1


def test_closures_hooks_and_the_profiler():
    a = parameters([(4,)])
    opt = st.AdamW(a)
    said = []

    def closure():
        assert torch.is_grad_enabled()
        opt.zero_grad()
        loss = a[0].square().sum()
        loss.backward()
        said.append("closure")
        return loss

    opt.register_step_pre_hook(lambda *_: said.append("before"))
    opt.register_step_post_hook(lambda *_: said.append("after"))
    with torch.no_grad():
        loss = opt.step(closure)
    assert said == ["before", "closure", "after"]
    assert loss.requires_grad
    other = st.SGD(a, 0.1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        other.step()
    assert any("Optimizer.step#SGD.step" in event.key for event in profile.key_averages())


def test_global_hooks():
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    said = []
    opt = st.SGD(parameters([(2,)]), 0.1)
    handle = register_optimizer_step_pre_hook(lambda *_: said.append(1))
    try:
        opt.step()
    finally:
        handle.remove()
    opt.step()
    assert said == [1]


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(fused):
    """An overflow leaves out the step; else the scaled gradients make the step of those that are not."""
    a = parameters([(40,)])
    b = twins(a)
    opt, ref = st.AdamW(a, fused=fused), torch.optim.AdamW(b)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(4):
        opt.zero_grad()
        ref.zero_grad()
        factor = torch.full((40,), float("inf") if t == 2 else 1.0)
        scaler.scale((a[0].square() * factor).sum()).backward()
        before = a[0].detach().clone()
        scaler.step(opt)
        scaler.update()
        if t == 2:
            assert torch.equal(a[0], before)
            continue
        b[0].square().sum().backward()
        ref.step()
    near(b[0], a[0], 1e-6)
    assert float(opt.state[a[0]]["step"]) == 3


@pytest.mark.parametrize("where", ["lr", "betas"])
def test_tensors_as_arguments(where):
    a = parameters([(10,)])
    b = twins(a)
    value = torch.tensor(0.01) if where == "lr" else (torch.tensor(0.8), torch.tensor(0.9))
    opt = st.AdamW(a, **{where: value}, **({"foreach": False} if where == "betas" else {}))
    plain = 0.01 if where == "lr" else (float(value[0]), float(value[1]))
    ref = torch.optim.AdamW(b, **{where: plain})
    for t in range(4):
        if t == 2:
            if where == "lr":
                value.fill_(0.03)
                ref.param_groups[0]["lr"] = float(value)
            else:
                value[0].fill_(0.5)
                ref.param_groups[0]["betas"] = (0.5, plain[1])
        for params, each in ((a, opt), (b, ref)):
            give(params, t)
            each.step()
    near(b[0], a[0], 1e-6)


def test_a_schedule_of_betas():
    a = parameters([(10,), (3,)])
    b = twins(a)
    opts = st.AdamW(a), torch.optim.AdamW(b)
    schedules = [torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=12) for opt in opts]
    for t in range(10):
        for params, opt, schedule in zip((a, b), opts, schedules, strict=True):
            give(params, t)
            opt.step()
            schedule.step()
    engines = {id(part.engine) for part in opts[0]._parts}
    assert len(engines) == 1
    near(b[0], a[0], 1e-5)


def test_clip_norm_is_pytorchs():
    a = parameters([(40,), (3, 4)])
    b = twins(a)
    opt = st.AdamW([{"params": a[:1]}, {"params": a[1:], "weight_decay": 0.0}], clip_norm=0.5)
    ref = torch.optim.AdamW([{"params": b[:1]}, {"params": b[1:], "weight_decay": 0.0}])
    for t in range(4):
        give(a, t)
        give(b, t)
        kept = a[0].grad.clone()
        opt.step()
        norm = torch.nn.utils.clip_grad_norm_(b, 0.5)
        ref.step()
        assert opt.last_grad_norm == pytest.approx(float(norm), rel=1e-6)
        assert torch.equal(a[0].grad, kept)
    for p, q in zip(a, b, strict=True):
        near(q, p, 1e-5)


def test_options_of_ours_that_change():
    a = parameters([(40,), (3, 4)])
    b = twins(a)
    opt, ref = st.AdamW([{"params": a[:1]}, {"params": a[1:]}]), torch.optim.AdamW(b)
    for t, clip in enumerate([None, 0.5, 0.5, 0.1, None]):
        for group in opt.param_groups:
            group["clip_norm"] = clip
            group["clip_value"] = 0.2 if t == 2 else None
        give(a, t)
        give(b, t)
        opt.step()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(b, clip)
        if t == 2:
            torch.nn.utils.clip_grad_value_(b, 0.2)
        ref.step()
        for p, q in zip(a, b, strict=True):
            near(q, p, 1e-5, f"step {t}")
    assert float(opt.state[a[0]]["step"]) == 5


def test_averages():
    a = parameters([(6,), (2, 2)])
    opt = st.SGD(a, 0.1, ema=0.75)
    expected = [p.detach().clone() for p in a]
    for t in range(4):
        give(a, t)
        opt.step()
        for average, p in zip(expected, a, strict=True):
            average.mul_(0.75).add_(p.detach(), alpha=0.25)
    now = [p.detach().clone() for p in a]
    with opt.swap_ema():
        for p, average in zip(a, expected, strict=True):
            near(average, p, 1e-6)
        with pytest.raises(RuntimeError, match="within swap_ema"):
            opt.step()
        with pytest.raises(RuntimeError, match="within swap_ema"), opt.swap_ema():
            pass
    for p, old in zip(a, now, strict=True):
        assert torch.equal(p, old)
    give(a, 9)
    opt.step()
    with pytest.raises(RuntimeError, match="made with ema"), st.SGD(a, 0.1).swap_ema():
        pass


@pytest.mark.parametrize("kind", ["skip", "raise"])
def test_gradients_that_are_not_finite(kind):
    a = parameters([(40,), (3,)])
    opt = st.AdamW(a, on_nonfinite=kind)
    give(a, 0)
    opt.step()
    kept = copy.deepcopy((a, opt.state_dict()))
    give(a, 1)
    a[1].grad[2] = float("nan")
    if kind == "skip":
        opt.step()
        assert opt.skipped == 1
    else:
        with pytest.raises(FloatingPointError, match=r"grads\[1\] has an element that is NaN or infinite"):
            opt.step()
    assert_as_kept(a, opt, kept)
    give(a, 2)
    opt.step()
    assert float(opt.state[a[0]]["step"]) == 2
    opt.param_groups[0]["params"].append(torch.nn.Parameter(torch.ones(1)))
    opt.step()
    assert opt.skipped == (kind == "skip")


def test_load_state_dict_hooks_and_errors():
    a = parameters([(5,)])
    opt = st.AdamW(a)
    give(a, 0)
    opt.step()
    saved = copy.deepcopy(opt.state_dict())
    other = st.AdamW(twins(a), lr=0.5)
    other.register_load_state_dict_pre_hook(lambda _, given: {**given, "param_groups": given["param_groups"]})
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.001
    with pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict({"state": {}, "param_groups": []})
    wrong = copy.deepcopy(saved)
    wrong["state"][0]["exp_avg"] = torch.zeros(6)
    other.load_state_dict(wrong)
    give(other.param_groups[0]["params"], 0)
    with pytest.raises(ValueError, match="'exp_avg' of a parameter of shape \\(5,\\) has shape \\(6,\\)"):
        other.step()


def test_an_optimizer_goes_with_its_parameters():
    p = torch.nn.Parameter(torch.randn(5))
    opt = st.AdamW([p])
    give([p], 0)
    opt.step()
    gone = weakref.ref(p), weakref.ref(opt)
    del p, opt
    gc.collect()
    assert gone[0]() is None
    assert gone[1]() is None


def test_public_updates_take_no_tensors():
    """Tensors as parameters are schuss.torch's, which tells PyTorch that they have changed."""
    p = torch.zeros(3)
    with pytest.raises(TypeError, match="numpy"):
        schuss.SGD(lr=1.0).update([p], [torch.ones(3)])
    array = p.numpy()
    opt = schuss.SGD(lr=1.0)
    opt.update([array], [np.ones(3, np.float32)])
    with pytest.raises(TypeError, match="numpy"):
        opt.update([p], [np.ones(3, np.float32)])


def test_all_is_listed():
    names = [name for name in st.__all__ if name != "load_torch_state"]
    assert sorted(names) == sorted([*map(name_of, INFOS), *OURS])
    assert [*itertools.chain(LEFT_OUT)] == ["LBFGS"]
    with pytest.raises(AttributeError, match="has no attribute 'LBFGS'"):
        st.LBFGS  # noqa: B018


# What shows it.


def test_the_bench_of_tensors(monkeypatch, tmp_path, capsys):
    from schuss.lab import tensors

    monkeypatch.setattr(tensors, "MNIST", [(30, 20), (7,)])
    monkeypatch.setattr(
        tensors, "time_turns", lambda steps, budget: {name: [step() or 2.0] for name, step in steps.items()}
    )
    path = tmp_path / "torch.json"
    assert cli.main(["bench", "--torch", "--quick", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    ours = {"schuss.torch", "schuss.torch, bfloat16", "schuss, arrays"}
    assert {row["contender"] for row in rows} == {*ours, "torch fused", "torch foreach"}
    assert [row["over_ours"] for row in rows] == [1.0] * len(rows)
    assert "1,000 x 1,000" in capsys.readouterr().out
    assert cli.main(["bench", "--torch", "--csv", str(tmp_path / "x.csv")]) == 2
    assert "--torch writes no --csv" in capsys.readouterr().err


def test_the_transformer_learns_the_same(tmp_path, capsys):
    given = [
        "--iterations",
        "6",
        "--width",
        "32",
        "--layers",
        "1",
        "--batch-size",
        "4",
        "--json",
        "--out",
        str(tmp_path),
    ]
    assert cli.main(["compare", "transformer", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["difference"] < 1e-5
    assert [run["way"] for run in found["runs"]] == ["torch.optim.AdamW", "schuss.torch.AdamW"]
    assert (tmp_path / "transformer.png").stat().st_size > 1000
    assert len((tmp_path / "transformer_curves.csv").read_text().splitlines()) == 1 + 2 * 6
