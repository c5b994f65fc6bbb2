"""Numbers of 16 and 8 bits: every byte as the NumPy reference has it, and each code against numbers worked by hand."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest
import schuss
from conftest import ELEMENTWISE, assert_same_bits
from schuss import formats, reference
from schuss.torch import load_torch_state

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra low-precision)")
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": BF16}
MASTERS = ("split", "float32", None)
STATES = ("float32", "bfloat16", "int8")
KEPT = [
    *itertools.product(["float32"], ["split"], STATES),
    *itertools.product(["float16", "bfloat16"], MASTERS, STATES),
]
WHOLE = ["AMSGrad", "ScheduleFreeSGD", "ScheduleFreeAdamW"]  # rules whose state cannot have fewer bits
FEWER = [rule for rule in ELEMENTWISE if rule not in WHOLE]
SIZES = [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 5003]
TEAMS = (1, 2, 3, 7)


def same(a, b, what=""):
    """Bytes, but for those of a NaN."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), what
    if a.dtype.kind in "iu":
        np.testing.assert_array_equal(a, b, what)
    else:
        nan = np.isnan(a.astype(np.float64))
        np.testing.assert_array_equal(nan, np.isnan(b.astype(np.float64)), what)
        bits = f"u{a.dtype.itemsize}"
        np.testing.assert_array_equal(
            np.ascontiguousarray(a).view(bits)[~nan], np.ascontiguousarray(b).view(bits)[~nan], what
        )


def laid(rng, dtype, scale=1.0):
    """Arrays of all sizes, and some that lie otherwise."""
    made = {f"n{n}": rng.normal(size=n, scale=scale).astype(dtype) for n in SIZES}
    made["Fortran"] = np.asfortranarray(rng.normal(size=(33, 65), scale=scale)).astype(dtype, order="K")
    made["backwards"] = rng.normal(size=(50, 90), scale=scale).astype(dtype)[::-2, ::-3]
    made["moved"] = rng.normal(size=(7, 11, 40), scale=scale).astype(dtype).transpose(2, 0, 1)
    made["no axis"] = np.array(rng.normal()).astype(dtype)
    return made


def run_both(rule, arguments, p_dtype, g_dtype, steps=3, make=laid, teams=TEAMS, **how):
    rng = np.random.default_rng(zlib.crc32(repr((rule, str(arguments), str(p_dtype), str(g_dtype))).encode()))
    params = make(rng, p_dtype)
    twins = {name: p.copy() for name, p in params.items()}
    opt, ref = getattr(schuss, rule)(**arguments), getattr(reference, rule)(**arguments)
    with np.errstate(all="ignore"):
        for step in range(steps):
            schuss.set_num_threads(teams[step % len(teams)], grain=1)
            grads = make(rng, g_dtype)
            kept = {name: g.copy() for name, g in grads.items()}
            opt.update(params, grads, **how)
            ref.update(twins, kept, **how)
            for name, twin in twins.items():
                same(params[name], twin, f"params[{name!r}], step {step}")
                assert list(opt.state[name]) == list(ref.state[name])
                for slot, array in ref.state[name].items():
                    same(opt.state[name][slot], array, f"{slot} of {name!r}, step {step}")
                same(grads[name], kept[name], "a gradient was written")
    return opt, params


@pytest.fixture
def ways(request):
    """The ways to keep a parameter and its state; in the short form some of them, other ones for each name."""
    thorough = request.config.getoption("--thorough")
    return lambda name, step: KEPT if thorough else KEPT[zlib.crc32(name.encode()) % step :: step]


@pytest.mark.parametrize("rule", FEWER)
def test_each_format_of_each_rule(rule, ways):
    """The gradients' formats go by turns through all three."""
    gradients = list(DTYPES.values())
    for p, master, state in ways(rule, 1 if rule == "Adam" else 6):
        g = gradients[zlib.crc32(f"{rule}{p}{master}{state}".encode()) % 3]
        run_both(rule, {"lr": 0.1, "state_dtype": state, "master": master}, DTYPES[p], g)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("g", DTYPES)
@pytest.mark.parametrize("p", DTYPES)
def test_the_formats_of_gradients(p, g, state):
    run_both("Adam", {"state_dtype": state}, DTYPES[p], DTYPES[g])


OPTIONS = {
    "prepared": {"weight_decay": 0.1, "maximize": True, "clip_value": 0.5},
    "averaged": {"ema": 0.9},
    "grouped": {
        "groups": {"n1*": {"state_dtype": "float32", "lr": 0.3}, "*o*": {"state_dtype": "int8", "master": None}}
    },
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(options, ways):
    for p, master, state in ways(options, 3):
        arguments = {"lr": 0.1, "state_dtype": state, "master": master, **OPTIONS[options]}
        run_both("Adam", arguments, DTYPES[p], DTYPES[p], grad_scale=0.7)


@pytest.mark.parametrize(("p", "master", "state"), KEPT)
def test_the_norm_of_gradients_and_steps_that_are_skipped(p, master, state):
    def make(rng, dtype):
        return {f"n{n}": rng.normal(size=n).astype(dtype) for n in SIZES}

    arguments = {"clip_norm": 3.0, "on_nonfinite": "skip", "state_dtype": state, "master": master}
    opt, params = run_both("AdamW", arguments, DTYPES[p], DTYPES[p], make=make)
    before = copy.deepcopy(params), {name: dict(slots) for name, slots in copy.deepcopy(opt).state.items()}
    grads = {name: np.full(array.shape, np.inf).astype(array.dtype) for name, array in params.items()}
    opt.update(params, grads)
    assert opt.skipped == 1
    for name, array in before[0].items():
        same(params[name], array)
        for slot, kept in before[1][name].items():
            same(opt.state[name][slot], kept)


def edges(rng, dtype):
    """Numbers at the edges of the formats among ordinary ones."""
    values = [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        1e-40,
        -1e-38,
        1e-30,
        6e-8,
        6e-5,
        65504.0,
        65519.0,
        65520.0,
        1e5,
        3.4e38,
    ]
    made = {}
    for n in (5, 128, 1025, 3000):
        ordinary = rng.random(n) < 0.8
        with np.errstate(over="ignore"):
            made[f"n{n}"] = np.where(ordinary, rng.normal(size=n), rng.choice(values, n)).astype(dtype)
            made[f"tame{n}"] = np.where(ordinary, rng.normal(size=n), rng.choice(values[3:], n)).astype(dtype)
    made["zeros"] = np.zeros(300, dtype)
    made["few"] = rng.normal(size=2100).astype(dtype)  # so that a block of 8 bits is as the one before it, or is not
    made["few"][[200, 300, 1000]], made["few"][512:768] = (np.inf, 6e4, np.nan), 0
    made["tiny"] = (rng.normal(size=1300) * 1e-38).astype(dtype)
    with np.errstate(over="ignore"):
        made["huge"] = np.float32(rng.uniform(-3e38, 3e38, size=1300)).astype(dtype)
    return made


@pytest.mark.parametrize("rule", ["SGD", "Momentum", "Adam", "AdaGrad", "Adan"])
def test_nan_infinity_subnormal_numbers_and_overflow(rule, ways):
    for p, master, state in {("float32", "split", "int8"), *ways(rule, 2 if rule == "Adam" else 4)}:
        arguments = {"lr": 0.1, "state_dtype": state, "master": master}
        run_both(rule, arguments, DTYPES[p], DTYPES["float32"], make=edges, steps=4)
        run_both(rule, arguments, DTYPES[p], DTYPES[p], make=edges, steps=4)


@pytest.mark.parametrize("rule", ["LAMB", "LARS", *WHOLE])
@pytest.mark.parametrize(("p", "master"), [*itertools.product(["float16", "bfloat16"], MASTERS)])
def test_16_bit_parameters_of_the_other_rules(rule, p, master):
    def make(rng, dtype):
        return {f"n{n}": rng.normal(size=n).astype(dtype) for n in SIZES}

    run_both(rule, {"lr": 0.1, "master": master}, DTYPES[p], DTYPES[p], make=make)


@pytest.mark.parametrize("rule", ["LARS", "Muon"])
@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_rules_in_two_halves(rule, state):
    """Their state changes in the second half alone."""

    def make(rng, dtype):
        return {name: rng.normal(size=shape).astype(dtype) for name, shape in {"a": (30, 40), "b": (100, 30)}.items()}

    if rule == "LARS":
        run_both(rule, {"state_dtype": state}, DTYPES["float32"], BF16, make=make)
        return
    rng = np.random.default_rng(0)
    params = make(rng, BF16)
    twins = {name: p.copy() for name, p in params.items()}
    opt, ref = schuss.Muon(0.1, state_dtype=state), reference.Muon(0.1, state_dtype=state)
    for _ in range(3):
        grads = make(rng, np.float32)
        opt.update(params, grads)
        ref.update(twins, grads)
        for name in params:
            for slot in ref.state[name]:
                if slot != "remainder":
                    same(opt.state[name][slot], ref.state[name][slot], slot)
            np.testing.assert_allclose(params[name].astype(float), twins[name].astype(float), rtol=0.01, atol=0.01)


def test_adafactor_of_16_bit_parameters():
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(30, 40)).astype(BF16), "b": rng.normal(size=40).astype(np.float16)}
    twins = {name: formats.parameter(p, {}).copy() for name, p in params.items()}
    opt, ref = schuss.Adafactor(), schuss.Adafactor()
    for _ in range(5):
        grads = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in params.items()}
        opt.update(params, grads)
        ref.update(twins, grads)
    assert {slot: array.dtype.name for slot, array in opt.state["W"].items()} == {
        "row": "float32",
        "column": "float32",
        "remainder": "int16",
    }
    same(formats.parameter(params["W"], opt.state["W"]), twins["W"])
    same(opt.state["b"]["master"], twins["b"])


@pytest.mark.parametrize("isa", [isa for isa in schuss.info()["isas_available"] if isa != schuss.info()["isa"]])
def test_every_other_isa(isa, request):
    if os.environ.get("SCHUSS_ISA"):
        pytest.skip("SCHUSS_ISA is set: this is the run on one ISA")
    if not request.config.getoption("--thorough"):
        pytest.skip("in the long form, pytest --thorough")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider"]
    command += ["-k", "nan_infinity or each_format or options", __file__]
    env = {**os.environ, "SCHUSS_ISA": isa, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


# The codes by themselves.


def stepped(p, state_dtype="float32", g=None, master="split", **arguments):
    """A parameter and its state after a step of SGD: by default one that changes nothing."""
    opt = schuss.SGD(lr=1.0, state_dtype=state_dtype, master=master, **arguments)
    opt.update({"W": p}, {"W": np.zeros(p.shape, np.float32) if g is None else g})
    return opt


def test_a_split_parameter_loses_nothing(request):
    """Each finite float32, in the short form every 997th: a step makes it from zero, the next one takes it back.

    The parameter is the master rounded to the nearest; ties go away from zero, and so may what is above the largest
    bfloat16.
    """
    stride, size = (1, 2**22) if request.config.getoption("--thorough") else (997, 2**18)
    opt = schuss.SGD(lr=1.0)
    params = {"W": np.zeros(size, BF16)}
    p = params["W"].view(np.uint16)
    for first, last in ((0, 0x7F800000), (0x80000001, 0xFF800000)):
        for start in range(first, last, size * stride):
            bits = np.minimum(np.arange(start, start + size * stride, stride), last - 1).astype(np.uint32)
            x = bits.view(np.float32)
            opt.update(params, {"W": -x})
            assert (p == (bits + np.uint32(0x8000) >> np.uint32(16))).all()
            opt.update(params, {"W": x})
            assert not p.any()
            assert not opt.state["W"]["remainder"].any()


def test_a_split_parameter_that_is_not_finite():
    stride = 997
    for start in (0x7F800000, 0xFF800000):
        x = np.arange(start, start + 2**23, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
        p = np.zeros(x.shape, BF16)
        with np.errstate(invalid="ignore"):
            opt = stepped(p, g=-x)
        back = formats.decode_split(p, opt.state["W"]["remainder"])
        assert back[0] == x[0]
        assert np.isnan(back[1:]).all()
        assert np.isnan(p[1:].astype(np.float32)).all()


def test_where_a_split_parameter_is_not_rounded_to_even():
    x = np.array([0x3F808000, 0x3F818000, 0x7F7F8000], np.uint32).view(np.float32)
    p = np.zeros(3, BF16)
    opt = stepped(p, g=-x)
    assert p.view(np.uint16).tolist() == [0x3F81, 0x3F82, 0x7F80]  # to even: 0x3F80, 0x3F82; and the last is infinite
    assert x.astype(BF16).view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x7F80]
    same(formats.decode_split(p, opt.state["W"]["remainder"]), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_written_into_a_parameter_counts(dtype):
    """Whatever the caller writes is what the next step begins from."""
    numbers = [0.0, -0.0, 1.5, -3.0, np.inf, -np.inf, 1e-3]
    for master in MASTERS:
        rng = np.random.default_rng(1)
        p = rng.normal(size=7 * 300).astype(DTYPES[dtype])
        opt = stepped(p, g=rng.normal(size=p.size).astype(np.float32), master=master)
        written = np.repeat(np.array(numbers), 300).astype(p.dtype)
        p[:] = written
        opt.update({"W": p}, {"W": np.zeros(p.shape, np.float32)})
        same(p, written)
        wide = formats.parameter(p, opt.state["W"])
        if master == "split" and dtype == "bfloat16":
            ulp = np.abs(np.spacing(written.astype(np.float32)) * 2.0**16)
            finite = np.isfinite(written.astype(np.float32))
            assert (np.abs(wide[finite] - written.astype(np.float32)[finite]) <= ulp[finite] / 2).all()
            assert (wide[: 2 * 300] == 0).mean() > 0.4  # those whose remainder cannot be of a zero
        else:
            same(wide, written.astype(np.float32))


def test_every_float16_and_bfloat16_is_read_and_written():
    for dtype in (np.dtype(np.float16), BF16):
        p = np.arange(2**16).astype(np.uint16).view(dtype)
        for master in MASTERS:
            q = p.copy()
            stepped(q, master=master)
            nan = np.isnan(p.astype(np.float32))
            assert (q.view(np.uint16)[~nan] == p.view(np.uint16)[~nan]).all()
            assert np.isnan(q.astype(np.float32)[nan]).all()


def test_float16_is_rounded_as_numpy_rounds():
    """Around all float16, and what is halfway between two of them."""
    near = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (near[1:] + near[:-1]) / 2
    x = np.concatenate([near, between, np.nextafter(between, np.inf), np.nextafter(between, -np.inf), [65520, 1e6]])
    x = np.concatenate([x, -x]).astype(np.float32)
    p = np.zeros(x.shape, np.float16)
    stepped(p, g=-x)
    with np.errstate(over="ignore"):
        same(p, np.where(x == 0, np.float32(0), x).astype(np.float16))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_at_random_has_the_right_mean(dtype):
    x = np.float32([1 + 1 / 4096, 1e-6, -3.0001, 100.013])
    for number in x:
        p = np.zeros(200_000, DTYPES[dtype])
        stepped(p, g=np.full(p.shape, -number), master=None)
        found = p.astype(np.float64)
        assert len(np.unique(found)) == 2
        spread = np.ptp(found) / 2 / np.sqrt(p.size)
        assert abs(found.mean() - number) < 5 * spread


def test_the_code_of_8_bits_by_hand():
    """Blocks of 128; a number of 2^-k times the largest is one of the code's, and comes back whole."""
    m = np.zeros(300, np.float32)
    m[0], m[1], m[2], m[130] = 4.0, 3.0, -1.0, 7.0
    codes, scale = np.zeros(300, np.int8), np.zeros(3, np.float32)
    formats.encode8(codes, scale, m, np.zeros(300, np.uint32))
    assert scale.tolist() == [4.0, 7.0, 0.0]
    # y + 2^-7, in steps of 1/16 of a power of 2: 1 is 7 of these powers up, and a little.
    assert codes[[0, 1, 2, 3, 130]].tolist() == [112, 104, -80, 0, 112]
    back = formats.decode8(codes, scale)
    np.testing.assert_allclose(back[[0, 1, 2, 130]], [4 - 4 / 128, 3 - 1 / 32, -1 + 1 / 32, 7 - 7 / 128], rtol=1e-6)
    v = np.float32([9.0, 9 * 2.0**-30, 0.0])
    codes, scale = np.zeros(3, np.uint8), np.zeros(1, np.float32)
    formats.encode8(codes, scale, v, np.zeros(3, np.uint32))
    assert codes.tolist() == [240, 1, 1]  # no zero beside what is none: it is divided by


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_an_average_does_not_stand_still(state):
    """With beta2 = 0.999 a step changes v by less than half a unit in the last place: to the nearest it never moves."""
    opt, params = schuss.Adam(state_dtype=state), {"W": np.zeros(4096, np.float32)}
    opt.update(params, {"W": np.full(4096, 1000.0, np.float32)})
    for _ in range(3000):
        opt.update(params, {"W": np.zeros(4096, np.float32)})
    v = formats.decode(opt.state["W"], "v")
    assert v.mean() == pytest.approx(1000 * 0.999**3000, rel=0.05)
    nearest = np.float32(1000).astype(BF16)
    for _ in range(3000):
        nearest = (nearest.astype(np.float32) * np.float32(0.999)).astype(BF16)
    assert nearest == 1000


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_random_numbers_go_by_name_place_and_step(state):
    """Whether arrays are updated together or apart, in whatever order; not by the threads or the address."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=3000).astype(np.float32) for name in "abc"}
    together, apart = ({name: array.copy() for name, array in arrays.items()} for _ in range(2))
    one, several = schuss.Adam(state_dtype=state), {name: schuss.Adam(state_dtype=state) for name in arrays}
    for _ in range(4):
        grads = {name: rng.normal(size=3000).astype(np.float32) for name in arrays}
        one.update(dict(reversed(together.items())), grads)
        for name, opt in several.items():
            opt.update({name: apart[name]}, {name: grads[name]})
    for name in arrays:
        assert_same_bits(together[name], apart[name])
        for slot, array in one.state[name].items():
            same(array, several[name].state[name][slot])
    twin = {"a": arrays["a"].copy(), "d": arrays["a"].copy()}
    opt = schuss.Adam(state_dtype=state)
    opt.update(twin, {name: np.ones(3000, np.float32) * 0.3 for name in twin})
    assert (opt.state["a"]["m"] != opt.state["d"]["m"]).any()


# Kept.


@pytest.mark.parametrize(("p", "master", "state"), KEPT)
def test_going_on_from_a_file_a_copy_and_a_pickle(tmp_path, p, master, state):
    rng = np.random.default_rng(0)
    opt = schuss.AdamW(0.1, state_dtype=state, master=master, ema=0.9, groups={"b": {"state_dtype": "float32"}})
    params = {"W": rng.normal(size=(40, 50)).astype(DTYPES[p]), "b": rng.normal(size=70).astype(DTYPES[p])}
    steps = [{name: rng.normal(size=array.shape).astype(DTYPES[p]) for name, array in params.items()} for _ in range(4)]
    for grads in steps[:2]:
        opt.update(params, grads)
    opt.save(tmp_path / "run.safetensors", params)
    loaded, loaded_params = schuss.load(tmp_path / "run.safetensors")
    again = schuss.AdamW()
    again.load_state_dict(opt.state_dict())
    others = [
        (loaded, loaded_params),
        *((each, copy.deepcopy(params)) for each in (again, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)))),
    ]
    assert all(repr(each) == repr(opt) for each, _ in others)
    for grads in steps[2:]:
        for each, arrays in [(opt, params), *others]:
            each.update(arrays, grads)
    for each, arrays in others:
        for name, array in params.items():
            same(arrays[name], array)
            for slot, kept in opt.state[name].items():
                same(each.state[name][slot], kept, slot)


def test_bytes_of_state():
    sizes = {}
    for state in STATES:
        opt = schuss.Adam(state_dtype=state)
        opt.update({"W": np.zeros(2**16, np.float32)}, {"W": np.ones(2**16, np.float32)})
        sizes[state] = sum(array.nbytes for array in opt.state["W"].values()) / 2**16
    assert sizes == {"float32": 8.0, "bfloat16": 4.0, "int8": 2.0625}


def test_pytorchs_state_of_bfloat16_is_taken_over():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 50)).astype(BF16)
    tensor = torch.nn.Parameter(torch.tensor(start.astype(np.float32)).bfloat16())
    peer = torch.optim.AdamW([tensor], lr=0.01)
    tensor.grad = torch.ones_like(tensor)
    peer.step()
    state = {
        i: {k: v.numpy() if v.dtype != torch.bfloat16 else v.view(torch.int16).numpy().view(BF16) for k, v in s.items()}
        for i, s in peer.state_dict()["state"].items()
    }
    p = tensor.detach().view(torch.int16).numpy().view(BF16).copy()
    for kept in STATES:
        opt = schuss.AdamW(lr=0.01, eps=1e-8, state_dtype=kept)
        load_torch_state(opt, state, ["W"], t=1, params={"W": p})
        assert set(opt.state["W"]) >= {"m", "v", "remainder"}
        assert formats.decode(opt.state["W"], "m") == pytest.approx(0.1, rel=0.05)
        if kept == "bfloat16":
            same(opt.state["W"]["m"], state[0]["exp_avg"])
        opt.update({"W": p.copy()}, {"W": np.ones(p.shape, BF16)})
    plain = {i: {k: v.float().numpy() for k, v in s.items()} for i, s in peer.state_dict()["state"].items()}
    opt, twin = schuss.AdamW(lr=0.01, eps=1e-8), schuss.AdamW(lr=0.01, eps=1e-8)
    load_torch_state(opt, plain, ["W"], t=1, params={"W": p})
    load_torch_state(twin, state, [0], t=1, params=[p])
    same(opt.state["W"]["m"], twin.state[0]["m"])
    with pytest.raises(ValueError, match="params has no 'b'"):
        load_torch_state(opt, state, ["b"], t=1, params={"W": p})
    with pytest.raises(TypeError, match=r"params\['W'\] must be a numpy.ndarray"):
        load_torch_state(opt, state, ["W"], t=1, params={"W": tensor})
    with pytest.raises(ValueError, match=r"v\.float\(\)\.numpy\(\)"):
        load_torch_state(opt, peer.state_dict()["state"], ["W"], t=1)


# Refused.


@pytest.mark.parametrize("rule", ["LAMB", "Adafactor", *WHOLE])
def test_rules_whose_state_cannot_have_fewer_bits(rule):
    with pytest.raises(ValueError, match=f'{rule} cannot have state_dtype="bfloat16": .*; leave it float32'):
        getattr(schuss, rule)(state_dtype="bfloat16")
    with pytest.raises(ValueError, match=f"groups\\['W'\\]: {rule} cannot have"):
        getattr(schuss, rule)(groups={"W": {"state_dtype": "int8"}})
    opt = getattr(schuss, rule)()
    with pytest.raises(ValueError, match="cannot have"):
        opt.state_dtype = "int8"


def test_a_variance_of_rounded_numbers_is_refused():
    opt = schuss.RMSprop(centered=True, state_dtype="int8")
    with pytest.raises(ValueError, match="may be negative"):
        opt.update({"W": np.ones(3, np.float32)}, {"W": np.ones(3, np.float32)})


BAD = {
    "float64": ({"W": np.ones(3)}, {"W": np.ones(3)}, r"params\['W'\] is float64, and so is its state; state_dtype"),
    "a float": ({"W": 1.0}, {"W": 1.0}, "and no array; state_dtype="),
}


@pytest.mark.parametrize("kind", BAD)
def test_state_of_fewer_bits_is_for_float32(kind):
    params, grads, match = BAD[kind]
    with pytest.raises(ValueError, match=match):
        schuss.Adam(state_dtype="int8").update(params, grads)
    schuss.Adam(state_dtype="int8", groups={"W": {"state_dtype": "float32"}}).update(params, grads)


def test_wrong_values():
    with pytest.raises(ValueError, match="state_dtype must be one of 'float32', 'bfloat16', 'int8', got 'int4'"):
        schuss.Adam(state_dtype="int4")
    for value in (np.float64, 8, None, np.ones(3), object()):
        with pytest.raises(ValueError, match="state_dtype must be one of"):
            schuss.Adam(state_dtype=value)
    for value in (np.int8, np.dtype("int8"), BF16, BF16.type, np.float32):
        assert schuss.Adam(state_dtype=value).state_dtype == np.dtype(value).name
    for value in ("float64", "None", True):
        with pytest.raises(ValueError, match="master must be one of 'split', 'float32', None, got"):
            schuss.Adam(master=value)
    for bits in (np.uint16, np.int16, "V2"):
        with pytest.raises(TypeError, match=r"if these are the bits of bfloat16, pass \.view\(ml_dtypes\.bfloat16\)"):
            schuss.Adam().update({"W": np.zeros(3, bits)}, {"W": np.ones(3, np.float32)})
    for number in (np.float16(1), BF16.type(1)):
        with pytest.raises(TypeError, match=r"a number of 16 bits must be an array: write numpy\.array\(x\)"):
            schuss.Adam().update({"W": number}, {"W": np.ones((), np.float32)})
    with pytest.raises(TypeError, match=r"float32, float64, float16 or bfloat16, got float8_e4m3fn; convert it once"):
        schuss.Adam().update({"W": np.ones(3, ml_dtypes.float8_e4m3fn)}, {"W": np.ones(3, np.float32)})
    with pytest.raises(TypeError, match=r"grads\['W'\] is float64, its parameter is bfloat16; convert .*float32"):
        schuss.Adam().update({"W": np.ones(3, BF16)}, {"W": np.ones(3)})
    with pytest.raises(TypeError, match=r"grads\['W'\] is bfloat16, its parameter is float64; convert .*float64"):
        schuss.Adam().update({"W": np.ones(3)}, {"W": np.ones(3, BF16)})
    with pytest.raises(TypeError, match="float32 or float64, got float16"):
        schuss.functional.sgd_(np.ones(3, np.float16), np.ones(3, np.float16), t=1, lr=0.1)


def test_a_nan_of_any_kind_stays_one():
    """Also one that a rule copies, without arithmetic, and one whose bits are all ones."""
    for bits in (0x7F800001, 0xFF807FFF, 0x7FFFFFFF, 0xFFFFFFFF):
        g = np.full(40, bits, np.uint32).view(np.float32)
        for state, master in itertools.product(STATES, MASTERS):
            p = np.zeros(40, BF16)
            opt = schuss.Adan(state_dtype=state, master=master)
            opt.update({"W": p}, {"W": g})
            assert np.isnan(p.astype(np.float32)).all()
            for slot in "mnb":  # there is no difference to a gradient before, of which v is the average
                assert np.isnan(formats.decode(opt.state["W"], slot)).all()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 2), (0, 17, 9)])
@pytest.mark.parametrize(("p", "master", "state"), KEPT)
def test_arrays_of_no_elements(p, master, state, shape):
    opt = schuss.Adam(state_dtype=state, master=master)
    for _ in range(2):
        opt.update({"W": np.zeros(shape, DTYPES[p])}, {"W": np.zeros(shape, DTYPES[p])})
    assert opt.t == 2
    if len(shape) > 1:
        rows = schuss.Rows(np.arange(0), np.zeros((0, *shape[1:]), np.float32))
        opt.update({"W": np.zeros(shape, DTYPES[p])}, {"W": rows})


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_state_cannot_be_resized(state):
    opt, params, grads = schuss.Adam(state_dtype=state), {"W": np.ones(300, BF16)}, {"W": np.ones(300, BF16)}
    opt.update(params, grads)
    again = copy.deepcopy(opt)
    again.load_state_dict(opt.state_dict())
    for each in (opt, again):
        for array in each.state["W"].values():
            with pytest.raises(ValueError, match="does not own its data"):
                array.resize(1, refcheck=False)


@pytest.mark.skipif(not schuss._core.can_flush, reason="this processor cannot flush")
def test_large_numbers_are_none_that_flushing_concerns():
    for rule, g in (("Momentum", [2e38, 1e38, 5e37, -3e37]), ("AdaGrad", [1e19, 7e18, 1e18, 1.0])):
        kept = []
        for flush in (False, True):
            opt = getattr(schuss, rule)(1.0, state_dtype="int8", flush_subnormals=flush)
            opt.update({"W": np.zeros(4, np.float32)}, {"W": np.float32(g)})
            kept.append(opt.state["W"])
        for slot in kept[0]:
            same(kept[0][slot], kept[1][slot])


def test_a_scale_that_was_turned():
    ours, theirs = schuss.Momentum(0.1, state_dtype="int8"), reference.Momentum(0.1, state_dtype="int8")
    g = {"W": np.float32([1, -1, 0.5, -0.5])}
    p, q = {"W": np.zeros(4, np.float32)}, {"W": np.zeros(4, np.float32)}
    for _ in range(2):
        ours.update(p, g)
        theirs.update(q, g)
        ours.state["W"]["v_scale"][:] *= -1
        theirs.state["W"]["v_scale"][:] *= -1
    same(p["W"], q["W"])


def test_a_master_in_another_order():
    opt, params = schuss.Adam(), {"W": np.ones((30, 40), np.float16)}
    opt.update(params, {"W": np.ones((30, 40), np.float16)})
    saved = opt.state_dict()
    saved["state"]["W"]["master"] = np.asfortranarray(saved["state"]["W"]["master"])
    again = schuss.Adam()
    again.load_state_dict(saved)
    twin = copy.deepcopy(params)
    again.update(twin, {"W": np.ones((30, 40), np.float16)})
    opt.update(params, {"W": np.ones((30, 40), np.float16)})
    same(params["W"], twin["W"])


class Own(schuss.Optimizer):
    def __init__(self, lr=0.1, **options):
        super().__init__(lr, **options)

    def step(self, p, g, lr):
        p -= lr * g


def test_rules_of_ones_own():
    with pytest.raises(TypeError, match="in which a rule of your own would be computed; use float32 or float64"):
        Own().update({"W": np.ones(3, BF16)}, {"W": np.ones(3, BF16)})
    with pytest.raises(ValueError, match="computed in NumPy"):
        Own(state_dtype="int8")
    g = np.array([1e-3, 3, 100, 60000], np.float16)
    for scale in (1.0, 2.0**-16, 1 / 3, 1e3):
        p, twin = np.ones(4, np.float32), np.ones(4, np.float32)
        Own().update({"W": p}, {"W": g}, grad_scale=scale)
        schuss.SGD(0.1).update({"W": twin}, {"W": g}, grad_scale=scale)
        assert_same_bits(p, twin)
    keeps = type("Keeps", (Own,), {"new_state": lambda self, p: {"v": np.zeros(3, np.int8)}})
    with pytest.raises(TypeError, match=r"the state 'v' of params\['W'\] is int8; your own rule keeps"):
        keeps().update({"W": np.ones(3, np.float32)}, {"W": np.ones(3, np.float32)})
    with pytest.raises(TypeError, match="'master' is a name of ours; give yours another"):
        type("Mine", (schuss.Optimizer,), {"slots": ("master",), "step": lambda self, p, g, lr, master: None})


@pytest.mark.parametrize(
    ("before", "after"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "float16"), ("float32", "float16")],
)
def test_a_parameter_of_another_dtype_is_refused(before, after):
    opt, grads = schuss.Adam(), {"W": np.ones(3, np.float32)}
    opt.update({"W": np.ones(3, DTYPES[before])}, grads)
    changed = {"W": np.ones(3, DTYPES[after])}
    with pytest.raises(ValueError, match="a changed parameter needs a new optimizer"):
        opt.update(changed, grads)
    assert (changed["W"] == 1).all()
    assert opt.t == 1


def test_how_state_is_kept_cannot_change_while_there_is_some():
    opt, params, grads = schuss.Adam(groups={"b": {"lr": 0.1}}), {}, {}
    for name in "ab":
        params[name], grads[name] = np.ones(3, np.float32), np.ones(3, np.float32)
    opt.state_dtype = "bfloat16"
    opt.state_dtype = "float32"
    opt.update(params, grads)
    with pytest.raises(ValueError, match=r"state_dtype decides how the state is kept: for 'a' it cannot change"):
        opt.state_dtype = "int8"
    with pytest.raises(ValueError, match="master decides"):
        opt.master = None
    with pytest.raises(ValueError, match=r"for 'b' it cannot change from 'float32' to 'int8' now"):
        opt.groups = {"b": {"state_dtype": "int8"}}
    assert opt.state_dtype == "float32"
    opt.groups = {"b": {"state_dtype": "float32"}}
    opt.update(params, grads)


def test_state_that_was_tampered_with_is_refused():
    opt, params, grads = (
        schuss.Adam(state_dtype="int8"),
        {"W": np.ones(300, np.float32)},
        {"W": np.ones(300, np.float32)},
    )
    opt.update(params, grads)
    saved = opt.state_dict()
    for slot, array in {
        "m_scale": np.zeros(2, np.float32),
        "m": np.zeros(300, np.uint8),
        "v": np.zeros(300, np.float32),
    }.items():
        wrong = {**saved, "state": {"W": {**saved["state"]["W"], slot: array}}}
        with pytest.raises(ValueError, match=f"the state '{slot}' of 'W' is"):
            schuss.Adam(state_dtype="int8").load_state_dict(wrong)
    missing = {slot: array for slot, array in saved["state"]["W"].items() if slot != "m_scale"}
    with pytest.raises(ValueError, match="has the slots"):
        schuss.Adam().load_state_dict({**saved, "state": {"W": missing}})


# Gradients by rows.


@pytest.mark.parametrize(("p", "master", "state"), KEPT)
def test_rows_are_as_dense(p, master, state):
    """All rows make the step, and so none is ever behind."""
    if (p, state) == ("float32", "float32"):
        pytest.skip("there is nothing of fewer bits in it; tests/test_rows.py has it")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(300, 7)).astype(DTYPES[p])
    ours, dense = {"E": start.copy()}, {"E": start.copy()}
    options = {"state_dtype": state, "master": master, "clip_norm": 5.0}
    opt, twin = schuss.Adam(0.1, **options), schuss.Adam(0.1, **options)
    for threads in TEAMS:
        schuss.set_num_threads(threads, grain=1)
        rows = schuss.Rows(rng.integers(0, 300, 40), rng.normal(size=(40, 7)).astype(np.float32))
        opt.update(ours, {"E": rows})
        twin.update(dense, {"E": rows.dense(300)})
        same(ours["E"], dense["E"])
        for slot, array in twin.state["E"].items():
            same(opt.state["E"][slot], array, slot)
        assert opt.last_grad_norm == twin.last_grad_norm
    opt.catch_up(ours)
    with pytest.raises(ValueError, match='sparse="touched"'):
        schuss.Adam(sparse="touched", **options).update(ours, {"E": rows})
    with pytest.raises(TypeError, match="values must be of float32 or float64, got bfloat16"):
        schuss.Rows(rows.indices, rows.values.astype(BF16))
