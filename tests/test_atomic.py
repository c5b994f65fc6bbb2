"""A step is taken whole or not at all: whatever interrupts it, refuses it, or comes in between."""

from __future__ import annotations

import dis
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import UserDict
from contextlib import suppress

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import functional

ALL = list(schuss.optimizers.OPTIMIZERS)
SIGNALS = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")


def everything(opt, params):
    """All that an update may change, as plain values that can be compared."""
    arrays = {("p", name): np.array(p) for name, p in params.items()}
    arrays |= {(name, slot): array.copy() for name, slots in opt.state.items() for slot, array in slots.items()}
    return (
        {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
        (opt.t, opt.skipped, opt.last_nonfinite, opt.last_grad_norm, opt._memories(opt.t)),
        repr(opt),
    )


# Interrupts.


# What comes before the call that leaves a `with`: three times None, on the stack; before Python 3.11 the second way.
LEAVING = [[("LOAD_CONST", None)] * 3, [("LOAD_CONST", None), ("DUP_TOP", None), ("DUP_TOP", None)]]


@functools.cache
def checked_offsets(code):
    """Where Python looks for signals: at calls and jumps back. Not before the call that leaves a `with`."""
    found, before = set(), []
    for each in dis.get_instructions(code):
        leaves = [(i.opname, i.argval) for i in before[-3:]] in LEAVING
        if each.opname.startswith(("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")) and not leaves:
            found.add(each.offset)
        if each.opname not in ("CACHE", "PRECALL", "PUSH_NULL"):
            before.append(each)
    return found


def at_moment(moment, act, happening):
    """Call act(), and happening() at the moment-th look for signals within our own Python; False if over before."""
    if sys.version_info[:2] == (3, 12):
        pytest.skip("CPython 3.12 does not trace every opcode; 3.11 and 3.13 do")
    seen, before = 0, sys.gettrace()

    def trace(frame, event, arg):
        nonlocal seen
        if "schuss" not in frame.f_globals.get("__name__", ""):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in checked_offsets(frame.f_code):
            seen += 1
            if seen == moment + 1:
                sys.settrace(None)
                happening()
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return seen > moment


def press_ctrl_c():
    raise KeyboardInterrupt


def interrupted_at(moment, act):
    """Call act() with Ctrl-C at its moment-th look for signals; False if it was over before."""
    try:
        happened = at_moment(moment, act, press_ctrl_c)
    except KeyboardInterrupt:
        return True
    assert not happened, "Ctrl-C was swallowed"
    return False


def example(rule):
    """An optimizer with all there is, after two steps; its parameters and gradients for the next one."""
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(5, 2)).astype(np.float32)}
    if rule != "Muon":
        params |= {"c": 0.5, "d": np.float32(1.5)}
    grads = {name: p * 0 + type(p)(1.0) if np.isscalar(p) else np.ones_like(p) for name, p in params.items()}
    options = {"ema": 0.9, "clip_norm": 1.0, "on_nonfinite": "skip", "groups": {"b": {"lr": lambda t: 0.1 / t}}}
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=lambda t: 0.2 / t, **options)
    for _ in range(2):
        opt.update(params, grads)
    return opt, params, grads


@pytest.mark.parametrize("rule", ALL)
def test_an_update_that_is_interrupted_anywhere(rule):
    """Nothing has changed, or all of it. And the next update is the one that would have been made."""
    opt, params, grads = example(rule)
    params["new"], grads["new"] = np.ones((2, 2)), np.ones((2, 2))  # whose state is to be made
    expected, twins, _ = example(rule)
    twins["new"] = np.ones((2, 2))
    before = everything(opt, params)
    moment = 0
    while interrupted_at(moment, lambda: opt.update(params, grads)):
        assert everything(opt, params) == before, moment
        moment += 1
    assert moment > 5
    expected.update(twins, grads)
    assert everything(opt, params)[:2] == everything(expected, twins)[:2]


CHANGES = {
    "maximize": lambda opt: setattr(opt, "maximize", True),
    "clip_value": lambda opt: setattr(opt, "clip_value", 0.01),
    "weight_decay": lambda opt: setattr(opt, "weight_decay", 0.5),
    "clip_norm": lambda opt: setattr(opt, "clip_norm", None),
    "lr": lambda opt: setattr(opt, "lr", 0.05),
    "groups": lambda opt: setattr(opt, "groups", {"*a*": {"lr": 0.5}, "b": {"maximize": True}}),
    "no groups": lambda opt: setattr(opt, "groups", {}),
}


@pytest.mark.parametrize("start", [{}, {"clip_norm": 1.0, "groups": {"b": {"lr": 0.3}}}], ids=["plain", "options"])
@pytest.mark.parametrize("change", CHANGES)
def test_an_assignment_that_is_interrupted_anywhere(change, start):
    """What is shown afterwards is what updates do."""
    grads = {"a": np.ones(3), "b": -np.ones(2)}
    moment, interrupted = 0, True
    while interrupted:
        opt, params = schuss.Momentum(lr=0.1, **start), {"a": np.ones(3), "b": np.ones(2)}
        opt.update(params, grads)
        interrupted = interrupted_at(moment, lambda opt=opt: CHANGES[change](opt))
        groups = {pattern: dict(given) for pattern, given in opt.groups.items()}
        options = {name: getattr(opt, name) for name in ("maximize", "clip_value", "weight_decay", "clip_norm")}
        fresh = schuss.Momentum(lr=opt.lr, groups=groups, **options)
        twins = {name: p.copy() for name, p in params.items()}
        fresh._engine.restore(fresh, {}, 1, 0, opt._copied_state())
        opt.update(params, grads)
        fresh.update(twins, grads)
        for name, p in params.items():
            assert_same_bits(p, twins[name], f"{name}, {moment}")
        moment += 1
    assert moment > 1


@pytest.mark.parametrize("rule", ["Adam", "ScheduleFreeAdamW", "NAdam", "Adafactor"])
def test_a_restored_state_that_is_interrupted_anywhere(rule):
    opt, params, _ = example(rule)
    saved = {**schuss.optimizers.OPTIMIZERS[rule](lr=0.5).state_dict(), "skipped": 7}
    before, moment = everything(opt, params), 0
    while interrupted_at(moment, lambda: opt.load_state_dict(saved)):
        assert everything(opt, params) == before, moment
        moment += 1
    assert (opt.t, opt.skipped, opt.lr, opt.ema, dict(opt.groups)) == (0, 7, 0.5, None, {})


@SIGNALS
@pytest.mark.parametrize("rule", ALL)
def test_real_interrupts(rule, request):
    """The same by signals at random moments: parameters and state are those of one number of steps, that of t."""
    rng = np.random.default_rng(1)
    shape = (30, 40)
    grads = [{"a": rng.normal(size=shape), "b": rng.normal(size=(7, 3))} for _ in range(4)]
    params = {"a": np.ones(shape), "b": np.ones((7, 3))}
    opt, ref = (schuss.optimizers.OPTIMIZERS[rule](lr=0.01, clip_norm=1e6) for _ in range(2))
    twins = {name: p.copy() for name, p in params.items()}
    opt.update(params, grads[0])
    begin = time.perf_counter()
    ref.update(twins, grads[0])
    typical = time.perf_counter() - begin
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for turn in range(1, 1000 if request.config.getoption("--thorough") else 60):
            g = grads[turn % 4]
            done, before = opt.t, everything(opt, params)[:2]
            try:
                signal.setitimer(signal.ITIMER_REAL, max(1e-6, rng.uniform(0, 2) * typical))
                opt.update(params, g)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if opt.t == done:
                assert everything(opt, params)[:2] == before
            else:
                ref.update(twins, g)
                assert everything(opt, params)[:2] == everything(ref, twins)[:2]
    finally:
        signal.signal(signal.SIGALRM, previous)


# Refusals.


class Refusing(UserDict):
    """A mapping that takes no new values: always, or from the so-manieth on."""

    left = 0

    def __setitem__(self, name, value):
        if isinstance(value, float) and self.armed:
            if self.left == 0:
                raise LookupError(f"no new {name}")
            self.left -= 1
        super().__setitem__(name, value)

    armed = False


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("rule", [rule for rule in ALL if rule != "Muon"])
def test_a_mapping_that_refuses_a_new_value(rule, left):
    """A float has to be put back into the mapping; where that fails neither it nor an array has moved."""
    params = Refusing({"a": np.ones((3, 2)), "b": 2.0, "c": np.float64(3.0), "d": np.ones(4)})
    grads = {"a": np.ones((3, 2)), "b": 1.0, "c": np.float64(1.0), "d": np.ones(4)}
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=0.1)
    opt.update(params, grads)
    before = everything(opt, params)
    params.armed, params.left = True, left
    with pytest.raises(LookupError, match="no new"):
        opt.update(Restoring(params), grads)
    params.armed = False
    assert everything(opt, params) == before
    opt.update(params, grads)
    assert opt.t == 2


class Restoring(UserDict):
    """Passes new values on to a mapping, and after a refusal lets the old ones back in."""

    def __init__(self, params):
        self.data = params.data
        self.params = params

    def __setitem__(self, name, value):
        try:
            self.params[name] = value
        except LookupError:
            self.params.armed = False
            raise


REFUSALS = {
    "lr": lambda opt, params, grads: (setattr(opt, "lr", lambda t: -1.0), opt.update(params, grads)),
    "shape": lambda opt, params, grads: opt.update(params, {**grads, "b": np.ones(9)}),
    "overlap": lambda opt, params, grads: opt.update(params, {**grads, "a": params["a"]}),
    "names": lambda opt, params, grads: opt.update(params, {"a": grads["a"]}),
    "scale": lambda opt, params, grads: opt.update(params, grads, grad_scale=np.inf),
    "finite": lambda opt, params, grads: (
        setattr(opt, "on_nonfinite", "raise"),
        opt.update(params, {**grads, "a": grads["a"] * np.nan}),
    ),
    "a large rate": lambda opt, params, grads: (
        setattr(opt, "lr", 5.0),
        opt.update(params, {**grads, "b": np.ones(9)}),
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("rule", ALL)
def test_what_was_refused_leaves_no_trace(rule, kind):
    """Also not in what Python remembers: the steps that follow are those of a run without the refusal."""
    runs = []
    for refused in (False, True):
        rng = np.random.default_rng(0)
        params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(4, 3))}
        grads = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(4, 3))}
        opt = schuss.optimizers.OPTIMIZERS[rule](lr=1.0, clip_norm=100.0, groups={"b": {"lr": 0.5}})
        opt.update(params, grads)
        if refused:
            before = everything(opt, params)[:2]
            with pytest.raises((ValueError, FloatingPointError)):
                REFUSALS[kind](opt, params, grads)
            assert everything(opt, params)[:2] == before
            opt.lr, opt.on_nonfinite = 1.0, "propagate"
        for _ in range(3):
            opt.update(params, grads)
        runs.append(everything(opt, params)[:2])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0), (1, 1)])
@pytest.mark.parametrize("rule", ["Muon", "Adafactor"])
def test_no_element_and_strict_errors_of_numpy(rule, shape):
    """Muon computes in NumPy between its halves, and Adafactor in means: neither disturbs them."""
    results = []
    for how in ("ignore", "raise"):
        params = {"p": np.ones(shape), "q": np.full((2, 3), 1e-300)}
        grads = {"p": np.ones(shape), "q": np.array([[0.0, 1e-200, 1.0], [0, 0, 0]])}
        opt = schuss.optimizers.OPTIMIZERS[rule]()
        with np.errstate(all=how):
            for _ in range(3):
                opt.update(params, grads)
        results.append(everything(opt, params))
    assert results[0] == results[1]
    assert np.isfinite(params["q"]).all()


def test_all_state_is_claimed():
    """Adafactor's factors are not of the parameter's shape, and are as little to be had as all other state."""
    for shape, slot in (((4,), "v"), ((3, 4), "row"), ((3, 4), "column")):
        opt, params, grads = schuss.Adafactor(), {"p": np.ones(shape)}, {"p": np.ones(shape)}
        opt.update(params, grads)
        state = opt.state["p"][slot]
        wide = {"q": state.reshape(-1)}
        for p, g in ((wide, {"q": np.ones(state.size)}), ({"q": np.ones(state.size)}, wide)):
            before = everything(opt, {**params, **p})
            with pytest.raises(ValueError, match=f"the state '{slot}' of params\\['p'\\]"):
                opt.update({**params, **p}, {**grads, **g})
            assert everything(opt, {**params, **p}) == before


@pytest.mark.parametrize("rule", ALL)
def test_state_that_is_read_only_or_reshaped_is_not_written(rule):
    params, grads = {"p": np.ones((4, 6))}, {"p": np.ones((4, 6))}
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    opt.update(params, grads)
    for slot, array in opt.state["p"].items():
        array.flags.writeable = False
        before = everything(opt, params)
        with pytest.raises(ValueError, match=f"the state '{slot}' of params\\['p'\\]: is read-only"):
            opt.update(params, grads)
        assert everything(opt, params) == before
        array.flags.writeable = True
    opt.update(params, grads)
    assert opt.t == 2


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize(("slot", "shape"), [("row", (1, 4)), ("row", (4,)), ("column", (6, 1)), ("column", (2, 3))])
def test_factors_of_another_shape_are_refused(slot, shape):
    params, grads = {"p": np.ones((4, 6))}, {"p": np.ones((4, 6))}
    opt = schuss.Adafactor()
    opt.update(params, grads)
    opt.state["p"][slot].shape = shape
    before = everything(opt, params)
    with pytest.raises(
        ValueError, match=f"but the state '{slot}' is float64 of shape .*a changed parameter needs a new optimizer"
    ):
        opt.update(params, grads)
    assert everything(opt, params) == before


# Signal handlers, and other threads.


def within(act, moment_of, handler):
    """Run act() with handler() at the moment-th look for signals, for each moment until it is over."""
    moment, happened = 0, True
    while happened:
        state = moment_of()
        happened = at_moment(moment, functools.partial(act, state), functools.partial(handler, state))
        yield state
        moment += 1


def test_an_update_by_a_handler_while_a_file_is_saved(tmp_path):
    """It is refused, as one within an update is, or comes before or after: the file is of one step."""
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    grads = {"p": np.ones(5)}

    def start():
        opt, params = schuss.Momentum(lr=1.0, momentum=0.0), {"p": np.zeros(5)}
        opt.update(params, grads)
        return opt, params, []

    def act(state):
        opt, params, _ = state
        opt.save(tmp_path / "file", params)

    def handler(state):
        opt, params, refused = state
        try:
            opt.update(params, grads)
        except RuntimeError as error:
            refused.append(str(error))

    refusals = 0
    for opt, params, refused in within(act, start, handler):
        again, found = schuss.load(tmp_path / "file")
        assert (found["p"] == -again.t).all()
        assert (again.state["p"]["v"] == -1).all()
        assert (opt.t, params["p"][0]) in ((1, -1.0), (2, -2.0))
        refusals += len(refused)
        assert all("by a signal handler" in text for text in refused)
    assert refusals > 10


@SIGNALS
def test_an_error_of_a_handler_leaves_the_old_file(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    opt, params = schuss.Momentum(lr=1.0), {"p": np.zeros(200_000)}
    opt.update(params, {"p": np.ones(200_000)})
    opt.save(tmp_path / "file", params)
    previous = signal.signal(signal.SIGALRM, lambda *_: opt.update(params, {"p": np.ones(200_000)}))
    try:
        for delay in np.linspace(1e-4, 3e-3, 60):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with suppress(RuntimeError):  # the update's, which is refused
                opt.save(tmp_path / "file", params)
            signal.setitimer(signal.ITIMER_REAL, 0)
            again, found = schuss.load(tmp_path / "file")
            assert len({*found["p"]}) == len({*again.state["p"]["v"]}) == 1
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_handler_makes_and_uses_an_optimizer_during_anothers_first_use():
    """There is no lock that they share: it neither hangs nor fails."""
    grads = {"p": np.ones(5)}

    def handler(state):
        other = schuss.Adam()
        other.update({"p": np.ones(5)}, grads)
        assert other.t == 1

    def act(opt):
        opt.update({"p": np.zeros(5)}, grads)

    for opt in within(act, lambda: schuss.Momentum(), handler):
        assert opt.t == 1


def test_a_state_loaded_while_another_threads_update_waits():
    """That update goes on from what was loaded: it is not lost with what was replaced."""
    for rule in ("SGD", "ScheduleFreeSGD", "Adam"):
        for _ in range(20):
            opt, params = schuss.optimizers.OPTIMIZERS[rule](lr=1.0), {"p": np.zeros(4)}
            grads = {"p": np.ones(4)}
            opt.update(params, grads)
            opt.update(params, grads)
            saved = opt.state_dict()
            opt.update(params, grads)
            inside, go = threading.Event(), threading.Event()

            def lr(t, inside=inside, go=go):
                inside.set()
                go.wait(10)
                return 1.0

            errors = []

            def work(act, *args, errors=errors):
                try:
                    act(*args)
                except Exception as error:
                    errors.append(error)

            opt.lr = lr  # the first thread stays within its update; the second loads; the third waits
            workers = [
                threading.Thread(target=work, args=(opt.update, params, grads)),
                threading.Thread(target=work, args=(opt.load_state_dict, saved)),
                threading.Thread(target=work, args=(opt.update, params, grads)),
            ]
            workers[0].start()
            inside.wait(10)
            for worker in workers[1:]:
                worker.start()
                time.sleep(0.002)
            go.set()
            for worker in workers:
                worker.join(30)
                assert not worker.is_alive()
            assert errors == []
            assert opt.t in (2, 3)
            assert opt.lr == 1.0
        # A thread that is about to enter has asked for the engine before.
        engine = opt._engine
        opt.load_state_dict(saved)
        engine.update(opt, params, grads, 1.0)
        assert opt.t == 3


# Objects that refer to each other.


class Key:
    """A name that knows its optimizer."""

    def __init__(self, opt):
        self.opt = opt


@pytest.mark.parametrize("rule", ALL)
def test_an_optimizer_that_its_own_names_lead_to_is_collected(rule):
    opt = schuss.optimizers.OPTIMIZERS[rule](ema=0.5, on_nonfinite="skip")
    key, gone = Key(opt), weakref.ref(opt)
    opt.update({key: np.ones((2, 2))}, {key: np.ones((2, 2))})
    opt.update({key: np.ones((2, 2))}, {key: np.full((2, 2), np.nan)})
    assert opt.last_nonfinite is key
    del opt, key
    gc.collect()
    assert gone() is None


def test_columns_of_one_matrix_are_planned_in_time():
    """Which of 1,600 interleaving views overlap is not asked pair by pair."""
    asked = 0
    shares_memory = np.shares_memory

    def counting(*args):
        nonlocal asked
        asked += 1
        return shares_memory(*args)

    matrix, gradient = np.ones((8, 1600), np.float32), np.ones((8, 1600), np.float32)
    columns = {i: matrix[:, i : i + 2] for i in range(0, 1600, 2)}
    grads = {i: gradient[:, i : i + 2] for i in range(0, 1600, 2)}
    opt = schuss.SGD(lr=0.5)
    np.shares_memory = counting
    try:
        opt.update(columns, grads)
        assert asked == 0
        with pytest.raises(ValueError, match=r"params\[4\] and params\['x'\] overlap|params\['x'\] and params\[4\]"):
            opt.update({**columns, "x": matrix[3:5, 5]}, {**grads, "x": gradient[0, :2]})
        assert asked < 20
    finally:
        np.shares_memory = shares_memory
    assert (matrix == 0.5).all()


# Functions that own nothing.


@pytest.mark.parametrize("rule", ALL)
def test_functions_do_not_disturb_each_other(rule):
    """Two models side by side, with rates of their own, and in threads: each as if it were alone."""
    names = {"ScheduleFreeSGD": "schedule_free_sgd_", "ScheduleFreeAdamW": "schedule_free_adamw_"}
    function = getattr(functional, names.get(rule, rule.lower() + "_"))
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    rng = np.random.default_rng(0)
    start = rng.normal(size=(2, 30, 20))
    grads = rng.normal(size=(12, 30, 20))
    rates = {0: [0.1] * 12, 1: [1.0, 0.5, 2.0] * 4}

    def model(i):
        p = start[i].copy()
        state = {s: p.copy() if s in "zx" else a for s, a in opt._new_state(None, p).items()}
        if "ScheduleFree" in rule:
            state["weights"] = np.zeros(2)
        return p, state

    def step(model, i, t):
        p, state = model
        function(p, grads[t - 1], **state, t=t, lr=rates[i][t - 1])

    alone = [model(0), model(1)]
    for i in (0, 1):
        for t in range(1, 13):
            step(alone[i], i, t)
    beside = [model(0), model(1)]
    for t in range(1, 13):
        for i in (0, 1):
            step(beside[i], i, t)
    threaded = [model(i % 2) for i in range(6)]

    def work(i):
        for t in range(1, 13):
            step(threaded[i], i % 2, t)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    for i, (p, state) in [*enumerate(beside), *enumerate(threaded)]:
        assert_same_bits(p, alone[i % 2][0])
        for slot, array in state.items():
            assert_same_bits(array, alone[i % 2][1][slot], slot)


def test_a_deep_stack_is_not_needed(tmp_path):
    """Strided arrays, and rules in two halves, on threads whose stacks are as small as can be."""
    script = """
import numpy as np, schuss, threading
from schuss import reference
schuss.set_num_threads(3, grain=1)
def run(rule):
    rng = np.random.default_rng(0)
    base, g = rng.normal(size=(300, 200)), rng.normal(size=(100, 300)).T
    params, twins = {"p": base[:, ::2]}, {"p": base[:, ::2].copy()}
    opt = schuss.optimizers.OPTIMIZERS[rule](clip_norm=1e9, on_nonfinite="skip")
    ref = reference.OPTIMIZERS[rule](clip_norm=1e9, on_nonfinite="skip")
    for _ in range(3):
        opt.update(params, {"p": g})
        ref.update(twins, {"p": g})
    assert np.allclose(params["p"], twins["p"], rtol=1e-10), rule
    print(rule)
threading.stack_size(128 << 10)
for rule in ("Adan", "LAMB", "SGD"):
    worker = threading.Thread(target=run, args=(rule,))
    worker.start()
    worker.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_STACKSIZE": "16k", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["Adan", "LAMB", "SGD"]), done.stderr


class Collecting:
    """A name that, when it is let go of, has the garbage collector look at everything."""

    def __init__(self, collects=False):
        self.collects = collects

    def __hash__(self):
        return 1

    def __eq__(self, other):
        return isinstance(other, Collecting)

    def __del__(self):
        if self.collects:
            gc.collect()


def refused(opt):
    for _ in range(3):
        with pytest.raises(ValueError, match="its state was made for"):
            opt.update({Collecting(True): np.ones(4)}, {Collecting(): np.ones(4)})


LETTING_GO = {
    "groups": lambda opt, params, grads: setattr(opt, "groups", {}),
    "a loaded state": lambda opt, params, grads: opt.load_state_dict(schuss.Adam().state_dict()),
    "another plan": lambda opt, params, grads: [opt.update({i: np.ones(3)}, {i: np.ones(3)}) for i in range(20)],
    "a refusal": lambda opt, params, grads: refused(opt),
}


@pytest.mark.parametrize("way", LETTING_GO)
def test_a_collection_while_plans_are_let_go_of(way):
    opt, one = schuss.Adam(), np.ones(3)
    opt.update({Collecting(): np.ones(3)}, {Collecting(): one})
    for _ in range(3):
        key = Collecting(True)  # the state holds the first name, the plan alone this one
        opt.update({key: np.ones(3)}, {key: one})
        del key
    LETTING_GO[way](opt, {}, {})


class Odd:
    """A name whose comparison gives no bool, or fails."""

    def __init__(self, error):
        self.error = error

    def __hash__(self):
        return 7

    def __eq__(self, other):
        if self.error:
            raise ValueError("no comparison")
        return np.array([True, False])


def test_names_are_compared_as_a_dict_compares_them():
    for first, second in (((1, 2), np.int64(2)), (Odd(True), "a"), (Odd(False), 8), ("a", Odd(True))):
        opt, a = schuss.SGD(lr=1.0), np.zeros(2)
        for key in (first, second, first, second):
            opt.update({key: a}, {key: np.ones(2)})
        both, other = np.zeros(2), np.zeros(2)
        for order in ((first, second), (second, first), (first, second)):
            arrays = dict(zip(order, (both, other) if order[0] is first else (other, both), strict=True))
            opt.update(arrays, {key: np.ones(2) for key in order})
        assert (a == -4).all()
        assert (both == -3).all()
        assert (other == -3).all()


def test_equal_names_of_other_types_have_groups_of_their_own():
    a = {"x": np.zeros(1), "y": np.zeros(1)}
    opt = schuss.SGD(lr=1.0, groups={"1": {"lr": 100.0}})
    for _ in range(2):
        opt.update({1: a["x"]}, {1: np.ones(1)})
        opt.update({1.0: a["y"]}, {1.0: np.ones(1)})
    assert (a["x"][0], a["y"][0]) == (-200.0, -2.0)
