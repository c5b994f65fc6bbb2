"""The careful way around subnormal numbers: the bits of the plain one, in each operation and rule; who takes it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import schuss
from conftest import BITWISE, DTYPES, ELEMENTWISE, ON_EACH_LAYOUT, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from schuss import _core, reference
from test_bitwise import BLOCK, LANES, OPTIONS, cases, contiguous, matrices, run_both, special, strided

NEVER, WHERE_MET, ALWAYS = range(3)
CAREFUL = schuss.info()["isa"] != "baseline"  # which has no such loops
BITS = {np.float32: np.uint32, np.float64: np.uint64}


@pytest.fixture(params=[WHERE_MET, ALWAYS], ids=["where met", "always"])
def care(request) -> int:
    _core.set_care(request.param)
    return request.param


def everywhere(dtype, rng, n=40) -> np.ndarray:
    """Numbers of both signs with each exponent there is, zeros, the subnormal ones at both ends, infinities, NaN."""
    mantissa, bits = np.finfo(dtype).nmant, BITS[dtype]
    exponents = np.arange(2 ** (np.dtype(dtype).itemsize * 8 - 1 - mantissa), dtype=bits) << bits(mantissa)
    edges = np.array([0, 1, 2, 3, (1 << mantissa) - 1, 1 << (mantissa - 1), (1 << (mantissa - 1)) + 1], bits)
    random = rng.integers(0, 1 << mantissa, n, dtype=np.uint64).astype(bits)
    few = np.arange(64, dtype=bits)  # of which products are ties, or just none
    positive = np.concatenate(
        [
            (exponents[:, None] | edges).ravel(),
            (exponents[:2, None] | few).ravel(),
            (exponents[:40, None] | random).ravel(),
            (exponents[:, None] | random[:4]).ravel(),
        ]
    )
    return np.concatenate([positive, positive | bits(1) << bits(np.dtype(dtype).itemsize * 8 - 1)]).view(dtype)


# Factors whose products with small numbers are ties, zeros, subnormal, just normal.
FACTORS = [
    0.0,
    -0.0,
    1e-3,
    0.1,
    0.25,
    0.5,
    0.9,
    0.999,
    1.0,
    1.5,
    2.0,
    3.0,
    65536.0,
    2.0**-24,
    1e-20,
    1e-37,
    3e-39,
    1e-44,
    1e30,
]


def close_to(factors, rng):
    return [*factors, *(factor * float(1 + rng.normal() / 4) for factor in factors)]


def one_step(rule, arguments, p, g, state, **how):
    """The same step by ours and by the reference, from the same state; both parameters and states."""
    both = []
    for rules in (schuss.optimizers.OPTIMIZERS, reference.OPTIMIZERS):
        opt, params = rules[rule](**arguments), {"x": p.copy()}
        opt.update({"x": p.copy()}, {"x": np.zeros_like(p)})
        for slot, array in state.items():
            opt.state["x"][slot][...] = array
        opt.update(params, {"x": g}, **how)
        both.append({"p": params["x"], **{slot: array.copy() for slot, array in opt.state["x"].items()}})
    return both


def assert_same_step(rule, arguments, p, g, state, **how):
    with np.errstate(all="ignore"):
        ours, reference_s = one_step(rule, arguments, p, g, state, **how)
    for name, array in reference_s.items():
        assert_same_bits(ours[name], array, f"{name} of {rule}({arguments}), {how}")


def test_a_product_with_a_scalar(dtype):
    """lr g, to which zero is added."""
    _core.set_care(ALWAYS)
    rng = np.random.default_rng(0)
    g = everywhere(dtype, rng)
    scale = 1 if dtype == np.float32 else 2.0**-897  # the ranges end at 2^-149 and at 2^-1074
    tiny = [0.4 * scale * float(np.float32(2.0**-120)), float(np.finfo(dtype).smallest_subnormal), 2.5e-310, 1e-300]
    for factor in close_to([*FACTORS, *tiny], rng):
        assert_same_step("SGD", {"lr": factor}, np.zeros_like(g), g, {})


@pytest.mark.parametrize("option", ["scale", "l2", "clip", "average", "maximize"])
def test_a_product_with_an_options_scalar(dtype, option):
    _core.set_care(ALWAYS)
    rng = np.random.default_rng(1)
    g = everywhere(dtype, rng)
    p = rng.permutation(g)
    for factor in close_to([x for x in FACTORS if 0 < x < 1], rng):
        if not 0 < factor < 1:
            continue
        arguments, how, state = {"lr": 1.0}, {}, {}
        if option == "scale":
            how = {"grad_scale": factor}
        elif option == "l2":
            arguments |= {"weight_decay": factor}
        elif option == "clip":
            arguments |= {"clip_value": factor}
        elif option == "average":
            arguments |= {"ema": factor}
            state = {"ema": rng.permutation(g)}
        else:
            arguments |= {"maximize": True, "lr": factor}
        assert_same_step("SGD", arguments, p, g, state, **how)


def test_a_product_of_two_variables_and_a_root_and_a_quotient(dtype):
    """h += g g;  p -= lr g / (sqrt(h) + eps), for all pairs of g and h that lie next to each other in two orders."""
    _core.set_care(ALWAYS)
    rng = np.random.default_rng(2)
    numbers = everywhere(dtype, rng)
    tiny = np.finfo(dtype).tiny
    for turn in range(12):
        g, h = rng.permutation(numbers), np.abs(rng.permutation(numbers))
        if turn % 3 == 1:  # h is as it is, and the numerator is tiny
            g = (rng.uniform(-8, 8, g.size) * 2.0 ** rng.integers(-25, 20, g.size) * tiny).astype(dtype)
        if turn % 3 == 2:  # the quotient is tiny, and as good as between two of the grid
            roots = (1 + rng.integers(1, 1 << 11, g.size) / (1 << 11)) * (2.0**10 if dtype == np.float32 else 2.0**20)
            between = rng.integers(1, 1 << np.finfo(dtype).nmant, g.size) + 0.5
            h = (roots * roots).astype(dtype)
            signs = rng.choice([-1, 1], g.size)
            g = (roots * float(np.finfo(dtype).smallest_subnormal) * between * signs).astype(dtype)
        for lr, eps in ((1.0, 0.0), (0.3, 0.0), (1e-3, 1e-8), (0.7, float(tiny))):
            assert_same_step("AdaGrad", {"lr": lr, "eps": eps}, np.zeros_like(g), g, {"h": h})


def number(dtype):
    """Any bits; every other one with an exponent of the lowest."""
    mantissa, top = np.finfo(dtype).nmant, np.dtype(dtype).itemsize * 8
    low = st.integers(0, (40 << mantissa) - 1)
    sign = st.integers(0, 1).map(lambda bit: bit << (top - 1))
    tiny = st.tuples(low, sign).map(lambda parts: parts[0] | parts[1])
    return (tiny | st.integers(0, (1 << top) - 1)).map(lambda bits: np.array(bits, BITS[dtype]).view(dtype)[()])


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_numbers(dtype, request):
    """Each rule on any bits in every place: parameter, gradient, state; and any options."""
    thorough = request.config.getoption("--thorough")
    finite = st.floats(0, 2, allow_subnormal=True)

    @settings(max_examples=3000 if thorough else 150, deadline=None)
    @given(
        st.sampled_from(ELEMENTWISE),
        st.lists(number(dtype), min_size=1, max_size=40),
        st.randoms(use_true_random=False),
        finite,
        st.dictionaries(st.sampled_from(["weight_decay", "clip_value", "ema"]), st.floats(1e-45, 0.999)),
        finite,
    )
    def check(rule, values, random, lr, options, scale):
        slots = [list(values) for _ in schuss.optimizers.OPTIMIZERS[rule].slots]
        g, p = list(values), list(values)
        for each in (g, p, *slots):
            random.shuffle(each)
        state = {  # what is never negative is not -0 either, of which a maximum with 0 is none of IEEE's
            slot: np.abs(np.array(each, dtype)) if slot in "vhun" else np.array(each, dtype)
            for slot, each in zip(schuss.optimizers.OPTIMIZERS[rule].slots, slots, strict=True)
        }
        _core.set_care(ALWAYS)
        assert_same_step(rule, {"lr": lr, **options}, np.array(p, dtype), np.array(g, dtype), state, grad_scale=scale)

    check()


@pytest.mark.parametrize(("rule", "arguments"), cases(BITWISE))
def test_state_that_sinks(rule, arguments, dtype, care):
    """Gradients that are zero for long, after ordinary ones."""
    rng = np.random.default_rng(4)
    tiny = np.finfo(dtype).tiny

    def sunken(shape):
        signs_and_sizes = rng.normal(size=shape) * 2.0 ** rng.integers(-np.finfo(dtype).nmant - 2, 4, shape)
        return np.where(rng.random(shape) < 0.7, signs_and_sizes * tiny, rng.normal(size=shape)).astype(dtype)

    def gradients():
        return {f"n{n}": np.where(rng.random(n) < 0.7, 0, sunken(n)).astype(dtype) for n in (5, 200, 5003)}

    run_both(rule, arguments, {f"n{n}": sunken(n) for n in (5, 200, 5003)}, gradients, sunken, steps=12)


@pytest.mark.parametrize("options", OPTIONS)
def test_options(rule, options, dtype):
    _core.set_care(ALWAYS)
    make = special(np.random.default_rng(8), dtype)
    given_ = OPTIONS[options]
    if options == "clipped":
        given_ = {**given_, "on_nonfinite": "propagate"}
    run_both(rule, given_, contiguous(make), lambda: contiguous(make), make, 1, teams=(1, 3, 2), grad_scale=0.7)


def test_matrices(dtype, care):
    """Of which rows and columns are kept: their directions, and the step."""
    make = special(np.random.default_rng(5), dtype)
    for options in ({"lr": 0.3}, {"ema": 0.9, "clip_value": 1e-30, "eps": 1e-3}):
        run_both("Adafactor", options, matrices(make), lambda: matrices(make), make, 2, teams=(1, 2, 3))


@pytest.mark.parametrize("rule", ON_EACH_LAYOUT)
def test_strided_arrays(rule, dtype):
    _core.set_care(ALWAYS)
    make = special(np.random.default_rng(3), dtype)
    run_both(rule, {}, strided(make), lambda: strided(make), make, 3, teams=(1, 2, 3))


@pytest.mark.skipif(not CAREFUL, reason="the baseline kernels have no careful way")
def test_a_block_goes_the_careful_way_as_long_as_it_meets_them():
    """All blocks of a stretch at first; then those that met any, until they meet none."""
    _core.set_care(WHERE_MET)
    n = 10 * BLOCK
    memory = np.ones(n + LANES, np.float32)
    first = -memory.ctypes.data % 64 // 4  # a line's beginning, from which blocks are counted
    p, g = memory[first : first + n], np.ones(n, np.float32)
    opt = schuss.Momentum(lr=0.1, momentum=0.9)

    def careful():
        opt.update({"x": p}, {"x": g})
        return opt._engine.careful_blocks

    schuss.set_num_threads(1)
    assert [careful(), careful()] == [0, 0]
    opt.state["x"]["v"][3 * BLOCK + 5] = 1e-40
    g[3 * BLOCK + 5] = 0
    assert careful() == 10
    assert [careful(), careful(), careful()] == [1, 1, 1]
    opt.state["x"]["v"][8 * BLOCK :] = 1e-40
    g[8 * BLOCK :] = 0
    assert careful() == 1 + 6  # blocks 4 to 9 were a stretch
    assert [careful(), careful()] == [3, 3]
    g[...] = 1
    careful()
    assert careful() == 0


@pytest.mark.skipif(not CAREFUL, reason="the baseline kernels have no careful way")
def test_products_of_normal_numbers_are_met_too():
    """Whose result alone is below the range, or zero; also once the careful way hides them from the processor."""
    _core.set_care(WHERE_MET)
    p, g = np.ones(BLOCK, np.float32), np.full(BLOCK, 1e-30, np.float32)
    opt = schuss.SGD(lr=1e-20)
    for _ in range(4):
        opt.update({"x": p}, {"x": g})
        assert opt._engine.careful_blocks == 1
    h = schuss.AdaGrad(eps=1.0)
    for _ in range(4):
        h.update({"x": p}, {"x": g})  # g g
        assert h._engine.careful_blocks == 1


@pytest.mark.skipif(not CAREFUL, reason="the baseline kernels have no careful way")
def test_a_function_without_memory_goes_by_the_block_before():
    _core.set_care(WHERE_MET)
    rng = np.random.default_rng(0)
    n = 40 * BLOCK
    p, g = rng.normal(size=n).astype(np.float32), np.zeros(n, np.float32)
    v = (rng.normal(size=n) * 1e-39).astype(np.float32)
    twin, twin_v = p.copy(), v.copy()
    schuss.functional.momentum_(p, g, v, t=1, lr=0.1)
    _core.set_care(NEVER)
    schuss.functional.momentum_(twin, g, twin_v, t=1, lr=0.1)
    assert_same_bits(p, twin)
    assert_same_bits(v, twin_v)


def test_flushing_needs_no_care():
    _core.set_care(WHERE_MET)
    p, g = np.ones(BLOCK, np.float32), np.full(BLOCK, 1e-30, np.float32)
    opt = schuss.SGD(lr=1e-20, flush_subnormals=True)
    opt.update({"x": p}, {"x": g})
    assert opt._engine.careful_blocks == 0


def test_what_care_may_be():
    assert _core.care() in (NEVER, WHERE_MET)  # as measured
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=r"care must be None, 0 \(never\)"):
            _core.set_care(wrong)


def test_the_callers_flags_of_the_processor_stay():
    """NumPy reads them after each of its functions; what was set before an update still is after it."""
    _core.set_care(WHERE_MET)
    opt, p = schuss.SGD(lr=1e-20), np.ones(100, np.float32)
    with np.errstate(under="raise"):
        opt.update({"x": p}, {"x": np.full(100, 1e-30, np.float32)})  # raises nothing
        with pytest.raises(FloatingPointError):
            np.float32(1e-30) * np.ones(3, np.float32) * np.float32(1e-20)


@pytest.mark.parametrize("isa", [isa for isa in ("avx2",) if isa in schuss.info()["isas_available"][:-1]])
def test_the_other_isa(isa, request):
    """The operations again, and each rule, on the kernels that this CPU can run but did not choose."""
    if os.environ.get("SCHUSS_ISA"):
        pytest.skip("SCHUSS_ISA is set: this is the run on one ISA")
    form = ["--thorough"] if request.config.getoption("--thorough") else ["-k", "product or numbers or sinks or block"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *form, __file__]
    env = {**os.environ, "SCHUSS_ISA": isa, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
