"""The numerics promise: schuss.X equals schuss.reference.X on every byte.

In the short form each step of a case has another number of threads; with --thorough each case runs with each, and for
more steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import cycle

import numpy as np
import pytest
import schuss
from conftest import BITWISE, ON_EACH_LAYOUT, assert_same_bits, assert_same_optimizers
from schuss import reference

BLOCK = 1024  # elements of a staged block; the cut between threads is a multiple of it
LANES = 16  # float32 in an AVX-512 register

# Arguments other than the defaults; a rule that is not here is tested with its defaults alone.
ARGUMENTS = {
    "SGD": [{"lr": lambda t: 0.3 / t}],
    "Momentum": [{"lr": 0.3, "momentum": 0.5, "dampening": 0.25}, {"lr": lambda t: 0.3 / t}],
    "Nesterov": [{"lr": 0.3, "momentum": 0.99}],
    "AdaGrad": [{"lr": 0.3, "eps": 0.0}, {"initial_accumulator": 0.1, "lr_decay": 0.1}],
    "RMSprop": [
        {"lr": 0.3, "decay_rate": 0.9, "eps": 1e-3},
        {"lr": 0.3, "centered": True},
        {"lr": 0.3, "momentum": 0.5},
        {"lr": 0.3, "centered": True, "momentum": 0.5},
    ],
    "Adam": [{"lr": 0.3, "eps": 1e-8}, {"beta1": 0.0, "beta2": 0.5, "eps_hat": 0.0}],
    "AdamW": [{"lr": 0.3, "weight_decay": 0.1}],
    "AMSGrad": [{"lr": 0.3, "beta2": 0.5, "bias_correction": True}],
    "Adamax": [{"lr": 0.3, "beta2": 0.5, "eps": 0.0}],
    "NAdam": [{"lr": 0.3, "momentum_decay": 0.1}],
    "RAdam": [{"lr": 0.3, "beta2": 0.9}],
    "AdaDelta": [{"lr": 0.3, "decay_rate": 0.5, "eps": 1e-3}],
    "Lion": [{"lr": 0.3, "weight_decay": 0.1}],
    "LAMB": [{"lr": 0.3, "weight_decay": 0.1}],
    "LARS": [{"lr": 0.3, "trust": 0.5, "weight_decay": 0.1}],
    "Adafactor": [
        {"lr": 0.3, "beta2_decay": -0.5, "eps2": 0.1, "clip_threshold": 0.3, "weight_decay": 0.1},
        {"lr": lambda t: 0.3 / t, "eps": 0.5},
    ],
    "Adan": [{"lr": 0.3, "beta3": 0.5, "weight_decay": 0.1}],
    "ScheduleFreeSGD": [{"lr": lambda t: 0.3 / t, "warmup": 2, "weight_decay": 0.1}],
    "ScheduleFreeAdamW": [{"lr": lambda t: 0.3 / t, "warmup": 2, "weight_decay": 0.1}],
}


def cases(rules):
    return [
        pytest.param(rule, arguments, id=f"{rule}-{i}")
        for rule in rules
        for i, arguments in enumerate([{}, *ARGUMENTS.get(rule, [])])
    ]


# What every optimizer takes besides. The norm that clip_norm goes by follows the order of memory.
OPTIONS = {
    "prepared": {"weight_decay": 0.1, "maximize": True, "clip_value": 0.5},
    "averaged": {"ema": 0.9},
    "grouped": {
        "ema": 0.5,
        "groups": {
            "n1*": {"lr": 0.2, "weight_decay": 0.3},
            "*[13579]": {"clip_value": 0.2, "lr": lambda t: 1 / t},
            "n*": {"maximize": True},
        },
    },
    "clipped": {"clip_norm": 3.0, "weight_decay": 0.1, "on_nonfinite": "skip"},
}

# Every length up to four vectors and one more, and the neighbours of the block size.
SIZES = [*range(4 * LANES + 2), BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5, 10_003]


def contiguous(make):
    return {f"n{n}": make(n) for n in SIZES}


def at_odd_offsets(make):
    return {f"n{n}+{k}": make(n + k)[k:] for n in (5, 17, 64, BLOCK + 1) for k in range(1, LANES)}


def strided(make):
    return {
        "step": make(3 * BLOCK)[::3],
        "reversed": make(BLOCK + 7)[::-1],
        "reversed step": make(4000)[3990:2:-7],
        "transposed": make((65, 33)).T,
        "Fortran": np.asfortranarray(make((33, 65))),
        "columns": make((70, 50))[:, 3:20],
        "every third row backwards": make((70, 50))[::-3, 1:],
        "both backwards": make((40, 41))[::-1, ::-1],
        "axes moved": make((7, 11, 13)).transpose(2, 0, 1),
        "axes moved, cut": make((9, 11, 40)).transpose(1, 2, 0)[::2, ::-3, 1:],
        "one column": make((3000, 3))[:, 1],
        "one element": make((5, 5))[2:3, 4:5],
        "no element": make((4, 6))[:, 3:3],
        "no axis": make(()),
        "five axes": make((2, 3, 4, 5, 6))[:, ::-1, 1:, :, ::2],
        "diagonal": np.einsum("ii->i", make((50, 50))),
    }


def other_layouts(make):
    """Gradients that lie otherwise than their parameters do."""
    return {
        "step": make(BLOCK),
        "reversed": make(2 * BLOCK + 14)[::2],
        "reversed step": make(570)[::-1],
        "transposed": make((33, 65)),
        "Fortran": make((33, 65)),
        "columns": np.broadcast_to(make(17), (70, 17)),
        "every third row backwards": make((49, 24)).T,
        "both backwards": make((40, 41)),
        "axes moved": make((13, 7, 11)),
        "axes moved, cut": np.broadcast_to(make(()), (6, 14, 8)),
        "one column": make(3000)[::-1],
        "one element": make((1, 1)),
        "no element": make((4, 0)),
        "no axis": make(()),
        "five axes": make((3, 5, 3, 3, 2)).T,
        "diagonal": make(100)[1::2],
    }


def ordinary(rng, dtype):
    return lambda shape: np.asarray(rng.normal(size=shape), dtype)


def special(rng, dtype):
    """Values at the edges of the format among ordinary ones."""
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    edges = [np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -37 * tiny, huge, -huge / 2, 1e-20, 3.0]

    def make(shape):
        values = np.where(rng.random(shape) < 0.4, rng.choice(edges, shape), rng.normal(size=shape))
        return np.asarray(values, dtype)

    return make


TEAMS = (1, 2, 3, 7)  # threads, which share even the smallest work


@pytest.fixture
def each_team(request):
    """Calls a function with the numbers of threads that its steps go through, one after another.

    In the short form once, with all of them by turns; with --thorough once for each, which then stays.
    """
    thorough = request.config.getoption("--thorough")

    def call(check):
        for teams in [(size,) for size in TEAMS] if thorough else [TEAMS]:
            check(teams)

    return call


@pytest.fixture
def steps(request):
    return 4 if request.config.getoption("--thorough") else 2


def run_both(rule, arguments, params, gradients, make, steps, teams=(2,), **how):
    """Step ours and the reference side by side, comparing all of both after each step.

    After two real steps the state of both is overwritten by arbitrary numbers, positive as some are squares.
    """
    twins = {name: p.copy() for name, p in params.items()}
    opt = schuss.optimizers.OPTIMIZERS[rule](**arguments)
    ref = reference.OPTIMIZERS[rule](**arguments)
    with np.errstate(all="ignore"):
        for step in range(2 + steps):
            if step == 2:
                for name, slots in ref.state.items():
                    for slot, array in slots.items():
                        array[...] = np.abs(make(array.shape))
                        opt.state[name][slot][...] = array
            threads = teams[step % len(teams)]
            schuss.set_num_threads(threads, grain=1)
            grads = gradients()
            kept = {name: g.copy() for name, g in grads.items()}
            opt.update(params, grads, **how)
            ref.update(twins, kept, **how)
            for name, twin in twins.items():
                assert_same_bits(params[name], twin, f"params[{name!r}] after step {step}, {threads} thread(s)")
                assert_same_bits(grads[name], kept[name], f"grads[{name!r}] after step {step}, {threads} thread(s)")
            assert_same_optimizers(opt, ref)


@pytest.mark.parametrize(("rule", "arguments"), cases(BITWISE))
def test_every_size_and_offset(rule, arguments, dtype, each_team, steps):
    make = ordinary(np.random.default_rng(1), dtype)

    def arrays():
        return contiguous(make) | at_odd_offsets(make)

    each_team(lambda teams: run_both(rule, arguments, arrays(), arrays, make, steps, teams))


@pytest.mark.parametrize(("rule", "arguments"), cases(ON_EACH_LAYOUT))
def test_every_stride(rule, arguments, dtype, each_team, steps):
    """The gradients lie by turns as their parameters do and otherwise."""
    make = ordinary(np.random.default_rng(2), dtype)
    layouts = cycle([strided, other_layouts])
    each_team(lambda teams: run_both(rule, arguments, strided(make), lambda: next(layouts)(make), make, steps, teams))


@pytest.mark.parametrize(("rule", "arguments"), cases(ON_EACH_LAYOUT))
def test_nan_infinity_and_subnormal_numbers(rule, arguments, dtype, each_team, steps):
    make = special(np.random.default_rng(3), dtype)

    def arrays():
        return contiguous(make) | strided(make)

    each_team(lambda teams: run_both(rule, arguments, arrays(), arrays, make, steps, teams))


@pytest.mark.parametrize(("rule", "arguments"), cases(BITWISE))
def test_state_that_becomes_subnormal(rule, arguments, dtype):
    """Zero gradients for long let state sink below the normal range: there is no flush to zero."""
    rng = np.random.default_rng(4)
    make = ordinary(rng, dtype)
    tiny = np.finfo(dtype).tiny

    def sunken(shape):
        return (make(shape) * 4 * tiny).astype(dtype)

    run_both(rule, arguments, {"W": sunken(200)}, lambda: {"W": np.zeros(200, dtype)}, sunken, steps=40)


@pytest.mark.parametrize("options", OPTIONS)
def test_options(rule, options, dtype, each_team, steps):
    make = ordinary(np.random.default_rng(8), dtype)
    given = OPTIONS[options]
    each_team(
        lambda teams: run_both(
            rule, given, contiguous(make), lambda: contiguous(make), make, steps, teams, grad_scale=0.7
        )
    )


@pytest.mark.parametrize("options", ["prepared", "averaged", "grouped"])
@pytest.mark.parametrize("rule", ON_EACH_LAYOUT)
def test_options_on_strided_arrays(rule, options, dtype, each_team, steps):
    make = ordinary(np.random.default_rng(9), dtype)
    given = {**OPTIONS[options]}
    if "groups" in given:
        given["groups"] = {"*step*": {"lr": 0.2}, "*o*": {"weight_decay": 0.3, "maximize": True}}
    each_team(lambda teams: run_both(rule, given, strided(make), lambda: other_layouts(make), make, steps, teams))


@pytest.mark.parametrize("options", ["prepared", "averaged"])
@pytest.mark.parametrize("rule", ON_EACH_LAYOUT)
def test_options_with_nan_infinity_and_subnormal_numbers(rule, options, dtype, each_team, steps):
    make = special(np.random.default_rng(10), dtype)
    given = OPTIONS[options]
    each_team(lambda teams: run_both(rule, given, contiguous(make), lambda: contiguous(make), make, steps, teams))


def test_both_dtypes_in_one_update(rule, each_team, steps):
    rng = np.random.default_rng(6)
    single, double = ordinary(rng, np.float32), ordinary(rng, np.float64)

    def mixed():
        return {f"{i}": (single if i % 2 else double)(700 * i) for i in range(9)}

    each_team(lambda teams: run_both(rule, {}, mixed(), mixed, single, steps, teams))


def test_a_guard_around_each_view_is_untouched(rule, dtype):
    """Nothing outside of a view is written: neither past its end nor between its elements."""
    rng = np.random.default_rng(7)
    for n in SIZES:
        whole = rng.normal(size=2 * n + 64).astype(dtype)
        before = whole.copy()
        view = whole[32 : 32 + 2 * n : 2]
        opt = schuss.optimizers.OPTIMIZERS[rule]()
        opt.update({"W": view}, {"W": np.ones(n, dtype)})
        mine = np.zeros(whole.shape, bool)
        mine[32 : 32 + 2 * n : 2] = True
        assert_same_bits(whole[~mine], before[~mine])
        assert not np.any(whole[mine] == before[mine])


def test_arrays_that_no_cache_holds(rule):
    """Beyond 32 MiB of traffic a loop may have memory fetched ahead."""
    some = np.random.default_rng(16).normal(size=10_007).astype(np.float32)
    slots = max(1, len(schuss.optimizers.OPTIMIZERS[rule].slots))  # Adafactor's is there for arrays of one axis
    n = (32 << 20) // (some.itemsize * (3 + 2 * slots * (rule != "SGD"))) + 1003

    def make(shape):
        return np.resize(np.roll(some, np.random.default_rng(0).integers(1000)), shape)

    run_both(rule, {}, {"W": make(n + 3)[3:]}, lambda: {"W": make(n)}, make, 1, (2, 1))


@pytest.mark.parametrize("isa", [isa for isa in schuss.info()["isas_available"] if isa != schuss.info()["isa"]])
def test_every_other_isa(isa, request):
    """This file again in its short form, on the kernels that this CPU can run but did not choose.

    In short with one dtype on each. How the work is shared among threads is the same for all.
    """
    if os.environ.get("SCHUSS_ISA"):
        pytest.skip("SCHUSS_ISA is set: this is the run on one ISA")
    left_out = "float32" if isa == "baseline" else "float64"
    form = [] if request.config.getoption("--thorough") else ["-k", f"not {left_out}"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *form, __file__]
    # One thread of BLAS: this runs beside other tests, and no product here is large.
    env = {**os.environ, "SCHUSS_ISA": isa, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    check = "import schuss; print(schuss.info()['isa'])"
    shown = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "SCHUSS_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert shown.stdout.strip() == isa


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.9, "clip_value": 0.5, "groups": {"*7": {"lr": 0.2}}}], ids=["", "options"]
)
@pytest.mark.parametrize("rule", ["LAMB", "LARS"])
def test_halves_turn_by_turn(rule, options, dtype):
    """Between the halves a direction is kept, of several arrays or of one, or made again, from the array's end on."""
    make = ordinary(np.random.default_rng(12), dtype)
    half_kept = (2 << 20) // np.dtype(dtype).itemsize - 5 * BLOCK - 3  # by one thread no more, by two it is
    sizes = [half_kept, 40_007, *range(70), 3 * BLOCK, half_kept // 4, 60_001, 2 * half_kept, 1]
    params = {f"n{i}": make(n + i % LANES)[i % LANES :] for i, n in enumerate(sizes)}
    twins = {name: p.copy() for name, p in params.items()}
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=0.1, weight_decay=0.1, **options)
    ref = reference.OPTIMIZERS[rule](lr=0.1, weight_decay=0.1, **options)
    for threads in (1, 2, 3):
        schuss.set_num_threads(threads, grain=1)
        grads = {name: make(p.size) for name, p in params.items()}
        opt.update(params, grads)
        ref.update(twins, grads)
        for name, p in params.items():
            assert_same_bits(p, twins[name], name)
        assert_same_optimizers(opt, ref)


# Rows and columns around the blocks, strips and tiles in which Adafactor sums them; and stacks of matrices.
FACTORED = [
    (1, 1),
    (2, 1),
    (3, 3),
    (5, 40),
    (15, 17),
    (33, 16),
    (31, 130),
    (64, 65),
    (200, 7),
    (3, BLOCK),
    (40, BLOCK + 1),
]
FACTORED += [(1, 3 * BLOCK + 5), (BLOCK + 3, 2), (2 * BLOCK + 70, 9), (3, 4 * BLOCK + 20), (1100, 37)]
FACTORED += [(4, 3, 3), (7, 5, 2, 3), (3, 40, 50), (2, 33, BLOCK + 9), (2, 1, 5), (0, 3), (3, 0), (2, 0, 3), (0, 2, 3)]


def matrices(make):
    return {f"n{'x'.join(map(str, shape))}": make(shape) for shape in FACTORED}


def other_matrices(make):
    """In Fortran order; every second row and third column, backwards; axes that lie in turn."""
    ways = [
        np.asfortranarray,
        lambda p: np.repeat(np.repeat(p, 2, axis=-2), 3, axis=-1)[..., ::-2, ::-3],
        lambda p: np.moveaxis(np.ascontiguousarray(np.moveaxis(p, 0, -1)), -1, 0),
    ]
    return {name: ways[i % 3](p) for i, (name, p) in enumerate(matrices(make).items())}


@pytest.mark.parametrize(
    ("numbers", "options"), [(special, ""), (special, "prepared"), *((ordinary, options) for options in OPTIONS)]
)
def test_matrices_of_which_rows_and_columns_are_kept(numbers, options, dtype, steps):
    """Adafactor's, on all layouts: the order of its sums goes by rows and columns, not by the memory."""
    make = numbers(np.random.default_rng(13), dtype)
    given = dict(OPTIONS[options]) if options else {"lr": 0.3, "eps": 0.1, "clip_threshold": 0.5}
    layouts = cycle([matrices, other_matrices])

    one, other = matrices(make), other_matrices(make)
    params = {name: (one if i % 2 else other)[name] for i, name in enumerate(one)}

    run_both("Adafactor", given, params, lambda: next(layouts)(make), make, steps, TEAMS, grad_scale=0.7)


def test_factors_may_lie_anyhow(dtype):
    """Those of a caller's are views of any strides."""
    make = ordinary(np.random.default_rng(14), dtype)
    for shape in ((40, 1100), (3, 35, 20)):
        p = make(shape)
        twin, opt = {"p": p.copy()}, schuss.Adafactor(lr=0.1)
        row, column = np.zeros((*shape[:-1], 2), dtype)[..., 1:], np.zeros((*shape[:-2], 1, 2 * shape[-1]), dtype)
        column = column[..., ::-2]
        for t in (1, 2, 3):
            g = make(shape)
            opt.update(twin, {"p": g})
            schuss.functional.adafactor_(p, g, row, column, t=t, lr=0.1)
            assert_same_bits(p, twin["p"])
            assert_same_bits(row, opt.state["p"]["row"])
            assert_same_bits(column, opt.state["p"]["column"])


def test_turns_of_matrices():
    """Tensors of other turns have the same memory for their sums; threads wait for each other before."""
    make = ordinary(np.random.default_rng(15), np.float32)
    params = {f"{i}": make((60 + i, 1030 + i)) for i in range(12)} | {"b": make(50_000), "c": make((40, 40))}
    run_both("Adafactor", {}, params, lambda: {k: make(p.shape) for k, p in params.items()}, make, 3, (2, 3, 1, 4))


MATRICES = {
    "square": lambda make: make((6, 6)),
    "wide": lambda make: make((5, 40)),
    "tall": lambda make: make((40, 5)),
    "one element": lambda make: make((1, 1)),
    "Fortran": lambda make: np.asfortranarray(make((33, 65))),
    "reversed": lambda make: make((40, 60))[::-2, ::3],
    "large": lambda make: make((90, 130)),
}


@pytest.mark.parametrize("threads", [1, 2])
def test_matrices_of_both_dtypes_side_by_side(threads):
    """What Adafactor knows of rows and columns lies side by side, too."""
    schuss.set_num_threads(threads, grain=1)
    rng = np.random.default_rng(0)
    shapes = [(4, 4), (3, 5), (64, 130), (2, 2), (2, 3, 4), (8, 8), (300, 70)]
    for first in (0, 1):
        kinds = [np.float64 if (i + first) % 2 else np.float32 for i in range(len(shapes))]
        params = [rng.normal(size=shape).astype(kind) for shape, kind in zip(shapes, kinds, strict=True)]
        theirs, opt, ref = [p.copy() for p in params], schuss.Adafactor(0.1), reference.Adafactor(0.1)
        for _ in range(3):
            grads = [rng.normal(size=p.shape).astype(p.dtype) for p in params]
            opt.update(params, grads)
            ref.update(theirs, grads)
        for i, p in enumerate(theirs):
            assert_same_bits(params[i], p, f"{shapes[i]}")
            for slot, array in ref.state[i].items():
                assert_same_bits(opt.state[i][slot], array, f"{shapes[i]} {slot}")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "clip_value": 0.5, "ema": 0.9, "clip_norm": 10.0}])
@pytest.mark.parametrize("rule", ["Muon", "LAMB", "LARS"])
def test_rules_with_norms_and_matrices(rule, options, dtype, threads):
    """Those that promise no bits on every layout agree with the reference to a few of them."""
    schuss.set_num_threads(threads, grain=1)
    make = ordinary(np.random.default_rng(11), dtype)
    params = {name: form(make) for name, form in MATRICES.items()}
    twins = {name: p.copy() for name, p in params.items()}
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=0.1, **options)
    ref = reference.OPTIMIZERS[rule](lr=0.1, **options)
    tolerance = {"rtol": 2e-4, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-11, "atol": 1e-13}
    for step in range(6):
        grads = {name: make(p.shape) for name, p in params.items()}
        opt.update(params, grads, grad_scale=0.5)
        ref.update(twins, grads, grad_scale=0.5)
        for name, p in params.items():
            np.testing.assert_allclose(p, twins[name], **tolerance, err_msg=f"{name} after step {step}")
            assert set(opt.state[name]) == set(ref.state[name])
            for slot, array in ref.state[name].items():
                np.testing.assert_allclose(opt.state[name][slot], array, **tolerance, err_msg=f"{name}, {slot}")
