"""What tests/test_mpi.py lets all ranks do: mpiexec -n R python -m mpi4py tests/over_ranks.py NAME ARGUMENTS."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import os
import resource
import signal
import sys
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import schuss
from conftest import assert_same_bits
from mpi4py import MPI
from schuss import Rows
from schuss.dtypes import computed, dtype_named
from schuss.mpi import RankError, Sharded, load
from schuss.mpi.ranks import Ranks
from schuss.mpi.step import Step

COMM = MPI.COMM_WORLD
RANK, RANKS = COMM.rank, COMM.size

SHAPES = {
    "W1": (70, 100),
    "b1": (100,),
    "scalar": (),
    "empty": (0, 3),
    "W2": (1, 5003),
    "b2": (1024,),
    "W3": (30, 40, 2),
}
MATRICES = {"A": (30, 40), "B": (100, 30), "C": (3, 50)}


class Own(schuss.Optimizer):
    """A rule of the user's, which looks at all of an array."""

    slots = ("v",)

    def __init__(self, lr=0.01, **options):
        super().__init__(lr, **options)

    def step(self, p, g, lr, v):
        v += g - g.mean()
        p -= lr * v / (1 + abs(v).max(initial=0))


def schedule():
    return schuss.schedules.Cosine(0.1, steps=300)


PLAIN = ("float32", "float32", "float64")  # dtypes of arrays, by turns
SMALL = ("bfloat16", "float16", "bfloat16", "float32")
GIVEN = ("bfloat16", "float32", "float16")

OTHERS = {
    "b1": {"rule": "AdamW", "lr": 0.1},
    "b2": {"rule": "Adafactor"},
    "W3": {"rule": "LAMB"},
    "scalar": {"rule": "RMSprop"},
}
DOUBLE = {name: {"state_dtype": "float32"} for name in ("scalar", "b2")}  # which are of float64


def smaller(rule=schuss.AdamW, **options):
    """With each kind of master."""
    return rule(0.01, clip_norm=1.0, groups={"W2": {"master": "float32"}, "b*": {"master": None}}, **options)


# Rule and options -> the shapes that they are for, and dtypes of parameters and gradients if those are not plain.
RULES = {
    "AdamW": (lambda: schuss.AdamW(0.01, clip_norm=1.0, weight_decay=0.1, groups={"b*": {"lr": 0.1}}), SHAPES),
    "Momentum": (lambda: schuss.Momentum(schedule()), SHAPES),
    "LAMB": (lambda: schuss.LAMB(0.1, weight_decay=0.01), SHAPES),
    "LARS": (lambda: schuss.LARS(clip_norm=2.0, ema=0.9), SHAPES),
    "Adafactor": (lambda: schuss.Adafactor(clip_norm=1.0), SHAPES),
    "Muon": (lambda: schuss.Muon(0.01), MATRICES),
    "Muon and others": (lambda: schuss.Muon(0.01, clip_norm=1.0, ema=0.9, groups=OTHERS), SHAPES),
    "AdamW and LAMB": (lambda: schuss.AdamW(0.01, groups={"W*": {"rule": "LAMB"}, "b*": {"rule": "SGD"}}), SHAPES),
    "NAdam": (lambda: schuss.NAdam(clip_value=0.5, maximize=True, ema=0.99), SHAPES),
    "ScheduleFreeAdamW": (lambda: schuss.ScheduleFreeAdamW(warmup=5, on_nonfinite="skip"), SHAPES),
    "Own": (lambda: Own(clip_norm=3.0, ema=0.9), SHAPES),
    "int8": (lambda: schuss.AdamW(0.01, clip_norm=1.0, ema=0.9, state_dtype="int8", groups=DOUBLE), SHAPES),
    "bfloat16": (lambda: schuss.Adan(0.01, state_dtype="bfloat16", groups=DOUBLE), SHAPES),
    "16 bits": (lambda: smaller(ema=0.9), SHAPES, SMALL, GIVEN),
    "16 bits int8": (lambda: smaller(schuss.Adan, state_dtype="int8"), SHAPES, SMALL, GIVEN),
    "16 bits LAMB": (lambda: smaller(schuss.LAMB, weight_decay=0.01), SHAPES, SMALL, ("float16",)),
    "16 bits gradients": (lambda: schuss.Momentum(0.1, clip_norm=1.0), SHAPES, ("float32",), ("bfloat16", "float16")),
    "16 bits Muon": (lambda: schuss.Muon(0.01), MATRICES, ("bfloat16",), ("bfloat16",)),
    "Muon int8": (lambda: schuss.Muon(0.01, state_dtype="int8", groups={"C": {"state_dtype": "float32"}}), MATRICES),
}


def laid(values, order):
    """The same values, lying otherwise in memory."""
    if order == "Fortran":
        return values.copy(order="F")
    if order == "strided":
        room = np.zeros((*values.shape, 2), values.dtype)[..., 0]
    elif order == "backwards":
        room = np.zeros(values.shape, values.dtype)[(slice(None, None, -1),) * values.ndim]
    else:
        return values.copy()
    room = room if isinstance(room, np.ndarray) else np.zeros((), values.dtype)
    room[...] = values
    return room


def numbers(shapes, key, order="C", dtypes=PLAIN):
    """Parameters or gradients."""
    rng = np.random.default_rng(key)
    return {
        name: laid(np.asarray(rng.standard_normal(shape)).astype(dtype_named(dtype)), order)
        for (name, shape), dtype in zip(shapes.items(), itertools.cycle(dtypes), strict=False)
    }


def given(rule):
    """What makes the optimizer; shapes; and the dtypes of parameters and gradients."""
    return (*RULES[rule], PLAIN, PLAIN)[:4]


def tree_sum(arrays):
    """Neighbours are added; one without a neighbour waits."""
    if len(arrays) > 1:
        arrays = [np.asarray(array, computed(array.dtype)) for array in arrays]
    while len(arrays) > 1:
        pairs = [a + b for a, b in zip(arrays[::2], arrays[1::2], strict=False)]
        arrays = [*pairs, *arrays[len(pairs) * 2 :]]
    return arrays[0]


def whole_sum(grads):
    """What one process steps by: the parts' sum, by rows one part after another."""
    if isinstance(grads[0], Rows):
        return Rows(np.concatenate([g.indices for g in grads]), np.concatenate([g.values for g in grads]))
    return None if grads[0] is None else tree_sum(list(grads))


def assert_same_run(sharded, params, opt, whole):
    """Parameters, every slot of the state, and what is told of the step."""
    for name, p in whole.items():
        assert_same_bits(params[name], p, f"rank {RANK} of {RANKS}, {name}, t = {opt.t}")
    assert sharded.optimizer.t == opt.t
    assert sharded.optimizer.skipped == opt.skipped
    assert sharded.optimizer.last_grad_norm == opt.last_grad_norm
    for slot in sorted({slot for slots in opt.state.values() for slot in slots}):
        found = sharded.gather(slot)
        for name, slots in opt.state.items():
            if slot in slots and whole[name].size:
                assert_same_bits(found[name], slots[slot], f"rank {RANK} of {RANKS}, {slot} of {name}")


def same_bits(rules, steps, parts, weight="mean", order="C", reduction="tree", grad_dtype="given"):
    """One process, and these ranks, side by side."""
    parts, sharing = int(parts), {"reduction": reduction, "grad_dtype": grad_dtype}
    for rule in rules.split(","):
        make, shapes, dtypes, of_grads = given(rule)
        if grad_dtype != "given":
            dtypes = of_grads = [dtype if dtype != "float64" else "float32" for dtype in dtypes]
        params, whole = (numbers(shapes, 0, order, dtypes) for _ in range(2))
        opt = make()
        with Sharded(make(), parts=parts, weight=weight, bucket=30_000, **sharing) as sharded:
            for t in range(int(steps)):
                grads = [numbers(shapes, (t, v), "C" if t % 2 else order, of_grads) for v in range(parts)]
                if t % 4 == 3:
                    for g in grads:
                        g[next(iter(g))] = None
                if t == 2:
                    grads[-1][list(shapes)[-1]].flat[-1] = np.inf
                scale = 0.5 if t % 5 == 4 else 1.0
                sharded.update_parts(params, [grads[v] for v in sharded.my_parts], grad_scale=scale)
                if grad_dtype != "given":
                    for g in grads:
                        g.update({n: a.astype(dtype_named(grad_dtype)) for n, a in g.items() if a is not None})
                summed = {name: whole_sum([g[name] for g in grads]) for name in shapes}
                opt.update(whole, summed, grad_scale=scale / parts if weight == "mean" else scale)
            if reduction == "tree":
                assert_same_run(sharded, params, opt, whole)
            else:
                every = COMM.allgather({name: p.tobytes() for name, p in params.items()})
                assert all(each == every[0] for each in every)
                for name, p in whole.items():
                    rtol = 1e-3 if p.itemsize > 2 else 1e-2
                    np.testing.assert_allclose(params[name].astype(float), p.astype(float), rtol=rtol, atol=1e-5)


def by_rows(steps):
    """Gradients by rows, in both senses of it, for rules to which a gradient of zero is none and others."""
    for tables, sparse in itertools.product(({"E": (500, 24), "F": (7, 3)}, {"G": (2, 59)}), ("exact", "touched")):
        shapes = {**tables, "b": (3000,)}
        for rule in (schuss.Adam, schuss.AdaGrad, schuss.Momentum, schuss.Lion):
            options = {"sparse": sparse, "clip_norm": 1.0, "weight_decay": 0.1 if rule is schuss.Lion else 0.0}
            params, whole = (numbers(shapes, 0) for _ in range(2))
            opt, parts = rule(**options), max(4, RANKS)
            with Sharded(rule(**options), parts=parts, bucket=5000) as sharded:
                for t in range(int(steps)):
                    grads = []
                    for v in range(parts):
                        rng = np.random.default_rng((t, v))
                        grads.append({"b": rng.standard_normal(3000).astype(params["b"].dtype)})
                        for name in tables:
                            n, width = shapes[name]
                            indices = rng.integers(0, n, rng.integers(0, 8 if n > 2 else 2))
                            values = rng.standard_normal((len(indices), width)).astype(params[name].dtype)
                            grads[-1][name] = Rows(indices, values)
                    sharded.update_parts(params, [grads[v] for v in sharded.my_parts])
                    opt.catch_up(whole)
                    summed = {name: whole_sum([g[name] for g in grads]) for name in shapes}
                    opt.update(whole, summed, grad_scale=1 / parts)
                    opt.catch_up(whole)
                    for name, p in whole.items():
                        assert_same_bits(params[name], p, f"{rule.__name__}, {sparse}, {name}, t = {opt.t}")
                opt.catch_up(whole)
                assert_same_run(sharded, params, opt, whole)


class Bang(Exception):
    pass


def told(work):
    """What each rank's call has raised, told to all."""
    try:
        work()
    except Exception as error:
        return COMM.allgather((type(error).__name__, str(error)))
    return COMM.allgather(("", ""))


def refusals():
    """One rank is wrong, or differs: all raise, nothing has changed, and a right step can follow."""
    good = numbers(SHAPES, 1)

    def changed(name, value):
        return {**good, name: value} if value is not Ellipsis else {n: g for n, g in good.items() if n != name}

    last = RANKS - 1
    wrong = {
        "grads lacks 'b1'": changed("b1", ...),
        "grads['b1'] has shape (3,)": changed("b1", np.ones(3, np.float32)),
        "grads['b1'] is float64": changed("b1", np.ones(100)),
        "grads must be a dict": 3,
    }
    fewer_bits_over_ranks()
    different = {
        f"grads['b1']: rank 0 has float32, rank {last} has None": changed("b1", None),
        f"grads['b1']: rank 0 has float32, rank {last} has float16": changed("b1", np.ones(100, np.float16)),
    }
    params = numbers(SHAPES, 0)
    opt = Sharded(schuss.Adam(clip_norm=1.0))
    opt.update(params, good)
    before = {name: p.copy() for name, p in params.items()}
    state = {slot: opt.gather(slot) for slot in ("m", "v")}

    def check(errors, text, same):
        for rank, (kind, message) in enumerate(errors):
            if same or rank == last:
                assert text in message, (text, errors)
            else:
                assert kind == "RankError", errors
                assert text in message, (text, errors)
        for name, p in before.items():
            assert_same_bits(params[name], p, text)
        for slot, arrays in state.items():
            for name, array in opt.gather(slot).items():
                assert_same_bits(array, arrays[name], text)
        assert opt.optimizer.t == 1

    for text, grads in wrong.items():
        check(told(lambda grads=grads: opt.update(params, grads if last == RANK else good)), text, RANKS == 1)
    check(
        told(lambda: opt.update(params, good, grad_scale="x" if last == RANK else 1.0)), "grad_scale must", RANKS == 1
    )
    other = {**params, "b1": np.ones(7, np.float32)} if last == RANK else params
    check(
        told(lambda: opt.update(other, changed("b1", np.ones(7, np.float32)) if last == RANK else good)),
        "b1",
        RANKS == 1,
    )
    if RANKS > 1:
        for text, grads in different.items():
            check(told(lambda grads=grads: opt.update(params, grads if last == RANK else good)), text, True)
        text = f"grad_scale: rank 0 has 1.0, rank {last} has 2.0"
        check(told(lambda: opt.update(params, good, grad_scale=2.0 if last == RANK else 1.0)), text, True)
        for name, value in (("lr", 0.5), ("beta1", 0.1), ("clip_norm", 2.0)):
            old = getattr(opt.optimizer, name)
            if last == RANK:
                setattr(opt.optimizer, name, value)
            text = f"the optimizer's {name}: rank 0 has {old!r}, rank {last} has {value!r}"
            check(told(lambda: opt.update(params, good)), text, True)
            setattr(opt.optimizer, name, old)
        # Functions are told apart by what they give.
        opt.optimizer.lr = lambda t: 0.5 if last == RANK else 0.25
        check(told(lambda: opt.update(params, good)), "the ranks differ in the learning rate of this step", True)
        opt.optimizer.lr = 0.001

        # Of the first step, and of making it.
        for shapes, text in (
            ({"a": (3,), "b": (4,)}, "the name of parameter 1"),
            ({"a": (4,), "c": (4,)}, f"the shape of params['a']: rank 0 has (3,), rank {last} has (4,)"),
            ({"a": (3,)}, "parameter 1"),
        ):
            mine = shapes if last == RANK else {"a": (3,), "c": (4,)}
            fresh = Sharded(schuss.SGD())
            arrays = {name: np.ones(shape) for name, shape in mine.items()}
            errors = told(
                lambda fresh=fresh, arrays=arrays: fresh.update(arrays, {n: np.ones_like(p) for n, p in arrays.items()})
            )
            assert all(kind == "ValueError" and text in message for kind, message in errors), errors
            assert len(set(errors)) == 1
            assert all((p == 1).all() for p in arrays.values())
            right = {"x": np.ones(3)}
            fresh.update(right, {"x": np.ones(3)})
            assert (right["x"] == 0.99).all()
        errors = told(lambda: Sharded(schuss.SGD(), parts=RANKS * (2 if last == RANK else 4)))
        assert all(f"in parts: rank 0 has {RANKS * 4}, rank {last} has {RANKS * 2}" in text for _, text in errors), (
            errors
        )
        errors = told(lambda: Sharded(schuss.SGD() if RANK else "SGD"))
        assert [kind for kind, _ in errors] == ["TypeError"] + ["RankError"] * last, errors
    for _ in range(2100 if RANKS == 1 else 1):  # more than MPI has communicators
        told(lambda: Sharded(schuss.SGD(), parts=0))
    errors = told(lambda: Sharded(schuss.SGD(), parts=RANKS - 1 if RANKS > 1 else 0))
    assert all("parts must be" in text for _, text in errors), errors

    # What is not finite, anywhere.
    opt.optimizer.on_nonfinite = "raise"
    bad = {**good, "W2": good["W2"].copy()}
    if RANK == 0:
        bad["W2"][0, -1] = np.nan
    check(told(lambda: opt.update(params, bad)), "grads['W2'] has an element that is NaN or infinite", True)
    opt.optimizer.on_nonfinite = "propagate"
    # Tied parameters, whose pieces may lie on different ranks.
    room = np.ones(6000)
    tied = {"a": room[:4000], "b": room[3999:]}
    fresh = Sharded(schuss.SGD())
    errors = told(lambda: fresh.update(tied, {name: np.ones_like(p) for name, p in tied.items()}))
    assert all("overlap in memory" in text for _, text in errors), errors

    # A rule of the user's that fails on whoever has the array.
    class Failing(Own):
        def step(self, p, g, lr, v):
            if p.size == 3 and self.t == 2:
                raise Bang("in step()")
            super().step(p, g, lr, v)

    params = {"a": np.ones(3), "b": np.ones(2000)}
    fresh = Sharded(Failing())
    fresh.update(params, {"a": np.ones(3), "b": np.ones(2000)})
    before = {name: p.copy() for name, p in params.items()}
    errors = told(lambda: fresh.update(params, {"a": np.ones(3), "b": np.ones(2000)}))
    assert sorted({kind for kind, _ in errors}) == sorted({"Bang", "RankError"} if RANKS > 1 else {"Bang"}), errors
    for name, p in before.items():
        assert_same_bits(params[name], p)

    opt.update(numbers(SHAPES, 0), good)
    assert opt.optimizer.t == 2


def fewer_bits_over_ranks():
    """An element's place in the whole must be that in C order, and all rows are stepped."""
    p, small = np.zeros((300, 40), np.float32), np.zeros((300, 40), np.float16)
    rows = Rows(np.arange(2), np.ones((2, 40), np.float32))
    int8, bare = {"state_dtype": "int8"}, {"master": None}
    for options, params, grads, text in [
        (int8, {"W": p.T}, {"W": p.T.copy()}, 'state_dtype="int8" is for arrays in C order'),
        (int8, {"W": p}, {"W": rows}, 'as wide; give it groups={\'W\': {"state_dtype": "float32"}}'),
        (int8, {"W": p.astype(float)}, {"W": p.astype(float)}, "is float64, and so is its state"),
        (bare, {"W": small.T}, {"W": small.T.copy()}, "master=None is for arrays in C order"),
        ({}, {"W": small}, {"W": rows}, "is by rows: over ranks that is for parameters of float32 and float64 with"),
        ({}, {"W": p.astype(float)}, {"W": p}, "float64"),
    ]:
        opt = Sharded(schuss.Adam(**options))
        errors = told(lambda opt=opt, params=params, grads=grads: opt.update(params, grads))
        assert all(text in message for _, message in errors), (text, errors)
        assert opt.optimizer.t == 0
        assert not params["W"].any()
    for sharing, kind, text in [
        ({"grad_dtype": "float16"}, "ValueError", "grad_dtype must be one of given, bfloat16, got 'float16'"),
        ({"grad_dtype": None}, "ValueError", "grad_dtype must be one of given, bfloat16, got None"),
        ({"grad_dtype": "bfloat16", "reduction": "mpi"}, "ValueError", "MPI does not add that"),
    ]:
        errors = told(lambda sharing=sharing: Sharded(schuss.Adam(), **sharing))
        assert all(found == kind and text in message for found, message in errors), errors
    opt, params = Sharded(schuss.Adam(), grad_dtype="bfloat16"), {"W": p.astype(float)}
    errors = told(lambda: opt.update(params, {"W": np.ones((300, 40))}))
    assert all("params['W'] is float64, and so are its gradients; grad_dtype" in text for _, text in errors), errors
    assert not params["W"].any()


def bytes_of_16_bits():
    """What has 16 bits travels with them, and so do gradients that are rounded; a sum of several parts has 32."""
    n, bfloat16, others = 40_000, dtype_named("bfloat16"), RANKS - 1
    for p, g, parts, grad_dtype, bytes_each in [
        (np.float32, np.float32, RANKS, "given", 4 + 4),
        (bfloat16, bfloat16, RANKS, "given", 2 + 2),
        (bfloat16, np.float16, RANKS, "given", 2 + 2),
        (np.float16, np.float32, RANKS, "given", 4 + 2),
        (np.float32, np.float32, RANKS, "bfloat16", 2 + 4),
        (bfloat16, np.float32, RANKS, "bfloat16", 2 + 2),
        (bfloat16, bfloat16, 2 * RANKS, "given", 4 + 2),
    ]:
        opt = Sharded(schuss.Adam(), parts=parts, grad_dtype=grad_dtype, bucket=1 << 16)
        params = {"W": np.ones(n, p), "b": np.ones(5, p)}
        opt.update_parts(params, [{name: np.ones(each.size, g) for name, each in params.items()} for _ in opt.my_parts])
        moved = sum(COMM.allgather(opt.traffic["received"]))
        assert moved == others * bytes_each * (n + 5), (p, g, parts, grad_dtype, moved / others / (n + 5))
        assert opt.nbytes["buckets"] <= 7 * max(1 << 16, 4096 * RANKS), opt.nbytes
        assert opt.nbytes["sums"] <= 4 * (n + 5) / RANKS + 8 * 4096, opt.nbytes


def ranks_that_do_other_things(path):
    """What they do is told apart; what one does alone, too."""
    params, grads = {"W": np.ones(3000)}, {"W": np.ones(3000)}
    opt = Sharded(schuss.Adam(ema=0.9))
    opt.update(params, grads)
    file = Path(path) / "run.json"
    deeds = {
        "save()": lambda: opt.save(file, params),
        "gather()": lambda: opt.gather("m"),
        "close()": opt.close,
        "update()": lambda: opt.update(params, grads),
    }
    for mine, theirs in (("save()", "update()"), ("update()", "gather()"), ("close()", "save()")):
        errors = told(deeds[mine if RANK == 0 else theirs])
        text = f"the ranks differ in what they do: rank 0 has {mine}, rank 1 has {theirs}"
        assert all(message == text for _, message in errors), errors
    assert not file.exists()
    opt.update(params, grads)

    # The ranks begin with other parameters.
    rng = np.random.default_rng(RANK)
    fresh, other = Sharded(schuss.SGD()), {"a": np.ones(5), "b": rng.standard_normal(5)}
    errors = told(lambda: fresh.update(other, {name: np.ones(5) for name in other}))
    assert all("the ranks differ in the values of params['b']" in message for _, message in errors), errors
    assert (other["a"] == 1).all()

    # A schedule that one of them reports to.
    plateau = schuss.schedules.ReduceOnPlateau(lr=0.1, patience=0)
    fresh = Sharded(schuss.SGD(lr=plateau))
    fresh.update(params, grads)
    for loss in (1.0, 2.0):
        if RANK == 0:
            plateau.report(loss)
    errors = told(lambda: fresh.update(params, grads))
    assert all("the ranks differ in the optimizer's lr" in message for _, message in errors), errors

    # One of them leaves by an error of its own, and tells the others on its way.
    def leaving():
        with Sharded(schuss.SGD()) as fresh:
            fresh.update(params, grads)
            if RANK == 1:
                raise Bang("in the loop")
            fresh.update(params, grads)

    errors = told(leaving)
    assert errors[1][0] == "Bang", errors
    assert all(e == ("RankError", "rank 1 has failed: Bang: in the loop") for i, e in enumerate(errors) if i != 1), (
        errors
    )


def what_was_found(path):
    """Each was an error at first."""
    rows = RANKS + 1  # of a gradient
    many = 4 if RANKS < 4 else RANKS

    # Parameters that are views by strides, and change between steps.
    for lay in (lambda a: a[:, :3], lambda a: a[::2], np.asfortranarray, lambda a: a):
        params, whole = ({"W": lay(np.arange(16000.0).reshape(4000, 4))} for _ in range(2))
        sharded, opt, g = Sharded(schuss.SGD(0.5)), schuss.SGD(0.5), np.ones(params["W"].shape)
        for _ in range(3):
            sharded.update(params, {"W": g})
            opt.update(whole, {"W": g})
            for p in (params, whole):
                p["W"][...] *= 0.5
        assert_same_bits(params["W"], whole["W"])

    # Schedules around functions, and things of the user's.
    def rate(t):
        return 0.1 / t

    class Thing:
        pass

    class WithThing(Own):
        def __init__(self, lr=0.1, thing=None, **options):
            super().__init__(lr, **options)
            self.thing = thing

    for opt in (schuss.SGD(schuss.schedules.Scaled(rate, 0.5)), schuss.SGD(rate), WithThing(thing=Thing())):
        Sharded(opt).update({"W": np.ones(5)}, {"W": np.ones(5)})

    # Checkpoints of before the first step, and of straight after loading.
    shapes = {"W": (3000, 4), "E": (5000, 7)}
    params, grads = numbers(shapes, 0), numbers(shapes, 1)
    grads["E"] = Rows(np.arange(rows), np.ones((rows, 7), params["E"].dtype))
    for given in (None, params):
        file = Path(path) / f"first{given is None}.json"
        Sharded(schuss.Adam()).save(file, given)
        again, found = load(file)
        again.update(found or {name: p.copy() for name, p in params.items()}, grads)
        again.save(file, found)
        load(file).optimizer.save(file)
        assert oct(file.stat().st_mode) == oct(next(iter(file.parent.glob(f"{file.name}.*"))).stat().st_mode)

    # A first step that is refused, of one that has made steps.
    def begun(opt):
        arrays = {"a": np.ones(3000), "b": np.ones(3000)}
        opt.update(arrays, {name: np.ones_like(p) for name, p in arrays.items()})
        return opt, arrays

    for wrong in ({"a": np.ones(3000), "b": np.ones(3001)}, {"a": np.ones(3000)}):
        opt, arrays = begun(schuss.Adam())
        sharded = Sharded(opt)
        assert_same_bits(sharded.gather("m")["a"], opt.state["a"]["m"])
        ones = {name: np.ones_like(p) for name, p in wrong.items()}
        kinds = {kind for kind, _ in told(lambda s=sharded, p=wrong, g=ones: s.update(p, g))}
        assert kinds == {"ValueError"} or kinds == {"ValueError", "RankError"}
        assert opt.state["b"]["m"].shape == (3000,)
        sharded.update(arrays, {name: np.ones_like(p) for name, p in arrays.items()})
    opt, arrays = begun(schuss.SGD(on_nonfinite="raise"))
    sharded = Sharded(opt)
    assert told(lambda: sharded.update({"a": np.ones(3)}, {"a": np.full(3, np.nan)}))[0][0] == "FloatingPointError"
    sharded.update(arrays, {name: np.ones_like(p) for name, p in arrays.items()})

    # Infinities of both signs, where NumPy is told to raise.
    for on_nonfinite in ("propagate", "skip"):
        params, big = {"a": np.ones(200_000, np.float32)}, [np.ones(200_000, np.float32) for _ in range(2 * RANKS)]
        for v, g in enumerate(big):
            g[150_000] = np.inf if v % 2 else -np.inf
        sharded = Sharded(schuss.SGD(on_nonfinite=on_nonfinite), parts=2 * RANKS, bucket=4096)
        with np.errstate(all="raise"):
            sharded.update_parts(params, [{"a": big[v]} for v in sharded.my_parts])
        assert sharded.optimizer.skipped == (on_nonfinite == "skip")
        assert np.isnan(params["a"][150_000]) == (on_nonfinite == "propagate")

    # State of another dtype than its parameter, and slots that there are not.
    class Accumulating(Own):
        def new_state(self, p):
            return {"v": np.zeros(p.shape, np.float64), "n": np.zeros(())}

        def step(self, p, g, lr, v, n):
            v += g
            n += 1
            p -= (lr * v).astype(p.dtype)

    params = {"a": np.ones(100, np.float32), "b": np.ones(50, np.float32), "c": np.ones(0, np.float32)}
    sharded = Sharded(Accumulating())
    sharded.update(params, {name: np.ones_like(p) for name, p in params.items()})
    assert {v.dtype for v in sharded.gather("v").values()} == {np.dtype(np.float64)}
    assert [n.shape for n in sharded.gather("n").values()] == [()] * 3
    errors = told(lambda: sharded.gather("nothing"))
    assert all("no parameter has the state 'nothing'; there is " in message for _, message in errors), errors

    # Rows of no width, and rows after a gradient that was none.
    for shape in ((5, 0), (0, 3), (1000, 4), (1000, 7)):
        params, table = (
            {"E": np.ones(shape)},
            {"E": Rows(np.arange(min(2, shape[0])), np.ones((min(2, shape[0]), *shape[1:])))},
        )
        for first in (None, np.ones(shape)):
            sharded = Sharded(schuss.SGD())
            sharded.update(params, {"E": first})
            sharded.update(params, table)
    params = {"E": np.ones((100, 999)), "b": np.ones(30_000)}
    sharded = Sharded(schuss.SGD())
    sharded.update(params, {"E": np.ones((100, 999)), "b": None})
    late = {"E": Rows(np.arange(2), np.ones((2, 999))), "b": None}
    errors = told(lambda: sharded.update(params, late))
    assert all("and they were cut within rows" in message for _, message in errors), errors

    # Parts that lie in one memory, and gradients that are let go of.
    sharded, params, buffer = Sharded(schuss.SGD(), parts=2 * RANKS), {"a": np.ones(3)}, np.ones(3)
    errors = told(lambda: sharded.update_parts(params, [{"a": buffer}, {"a": buffer[:]}]))
    assert all("lie in the same memory; copy those of each part" in message for _, message in errors), errors
    sharded, g = Sharded(schuss.SGD()), np.ones(3)
    sharded.update(params, {"a": g})
    seen = weakref.ref(g)
    del g
    gc.collect()
    assert seen() is None

    # What belongs to the optimizer, and what it cannot do alone any more.
    for wrong in (lambda: sharded.lr, lambda: setattr(sharded, "lr", 0.5), lambda: setattr(sharded, "parts", 3)):
        assert told(wrong)[0][0] == "AttributeError"
    assert ".optimizer.lr, on all ranks alike" in told(lambda: sharded.lr)[0][1]
    for alone in (
        lambda: sharded.optimizer.save("x"),
        lambda: copy.deepcopy(sharded.optimizer),
        sharded.optimizer.state_dict,
    ):
        kind, message = told(alone)[0]
        assert kind == "RuntimeError"
        assert "is one rank's share" in message

    # Read into arrays that there are, and from files that lie elsewhere.
    params, grads = numbers(SHAPES, 0), numbers(SHAPES, 1)
    sharded = Sharded(schuss.Adam(), parts=many)
    sharded.update_parts(params, [{n: g.copy() for n, g in grads.items()} for _ in sharded.my_parts])
    file = Path(path) / "into.json"
    sharded.save(file, params)
    room = {name: laid(np.zeros_like(p), "backwards") for name, p in params.items()}
    again, found = load(file, params=room, state_dir=path)
    assert found is room
    for each, p in ((sharded, params), (again, room)):
        each.update_parts(p, [{n: g.copy() for n, g in grads.items()} for _ in each.my_parts])
    for name, p in params.items():
        assert_same_bits(room[name], p)
    errors = told(lambda: load(file, params={**room, "b1": np.zeros(3)}))
    assert all("params['b1'] is float64 of shape (3,), in the checkpoint it is float32" in m for _, m in errors), errors


def armed(at, place, stop):
    """From here on rank 1 is to fail: not while another is still within what came before, which would be told there."""
    COMM.Barrier()
    at["stop"], place["now"] = stop, 0


def interrupted_saves(path):
    """Rank 1 stops at each point of a save, as Ctrl-C would have it: there is the old checkpoint or the new one."""
    file, at, place = Path(path) / "run.json", {"stop": None}, {"now": 0}
    wait = Ranks.wait

    def waiting(self, request):
        for moment in range(2):
            if RANK == 1 and at["stop"] is not None:
                place["now"] += 1
                if place["now"] == at["stop"]:
                    raise KeyboardInterrupt
            if moment == 0:
                wait(self, request)

    Ranks.wait = waiting
    stop = 0
    while True:
        stop += 1
        opt, params = Sharded(schuss.Adam()), {"W": np.ones(30_000)}
        opt.update(params, {"W": np.ones(30_000)})
        armed(at, place, stop)
        ended = ""
        try:
            opt.save(file, params)
        except (KeyboardInterrupt, RankError) as error:
            ended = type(error).__name__
        at["stop"] = None
        ended = COMM.allgather(ended)
        if RANK == 0 and (file.exists() or not any(ended)):
            again, found = schuss.load(file)
            assert again.t == 1
            assert_same_bits(found["W"], params["W"])
        COMM.Barrier()
        if not any(ended):
            break
    assert stop > 8


def raising(rule):
    """Rank 1 raises at each point of a step: nobody hangs, and whoever goes on is told at its next step."""
    make, shapes, *_ = given(rule)
    at, place = {"stop": None}, {"now": 0}

    def passing(cls, name):
        method = getattr(cls, name)

        def observed(self, *args, **kwargs):
            for moment in ("before", "after"):
                if moment == "after":
                    result = method(self, *args, **kwargs)
                if RANK == 1 and at["stop"] is not None:
                    place["now"] += 1
                    if place["now"] == at["stop"]:
                        raise Bang(f"{moment} {name}")
            return result

        setattr(cls, name, observed)

    for name in ("wait", "agree", "gathered"):
        passing(Ranks, name)
    for name in ("begin", "before", "after", "ready", "survey", "norms", "end"):
        passing(Step, name)
    stops = 0
    while True:
        stops += 1
        opt, params, grads = Sharded(make(), bucket=20_000), numbers(shapes, 0), numbers(shapes, (1, RANK))
        armed(at, place, stops)
        start = time.monotonic()

        def step(opt=opt, params=params, grads=grads):
            opt.update(params, grads)

        errors = told_after(at, step)
        assert time.monotonic() - start < 20
        if errors[1][0] == "":
            break
        assert errors[1][0] == "Bang", errors
        assert {kind for rank, (kind, _) in enumerate(errors) if rank != 1} <= {"", "RankError"}, errors
        again = told(step)
        if any(kind for kind, _ in again):  # it had written, or was in the middle of a message
            assert {kind for kind, _ in again} <= {"RuntimeError", "RankError"}, again
            assert all("rank 1" in message for _, message in again), again
        else:  # all of them had refused that step
            assert all(kind for kind, _ in errors), errors
            assert opt.optimizer.t == 1
    assert stops > 20


def told_after(at, work):
    try:
        work()
        found = ("", "")
    except Exception as error:
        found = (type(error).__name__, str(error))
    at["stop"] = None
    return COMM.allgather(found)


def killed(step):
    """Rank 1 dies within a step; mpiexec ends the others."""
    make, shapes, *_ = given("AdamW")
    opt, params = Sharded(make()), numbers(shapes, 0)
    for t in range(int(step) + 1):
        if t == int(step) and RANK == 1:
            Step.before = lambda self, k: os.kill(os.getpid(), signal.SIGKILL)
        opt.update(params, numbers(shapes, (t, RANK)))
    raise AssertionError("went on without rank 1")


def goes_on(path, first, last, parts):
    """From a checkpoint, or from the beginning, to another; each rule in a file of its own."""
    for rule in ("AdamW", "LARS", "Adafactor", "ScheduleFreeAdamW", "int8", "bfloat16", "16 bits", "16 bits int8"):
        make, shapes, dtypes, of_grads = given(rule)
        file = Path(path) / f"{rule}.json"
        if int(first) == 0:
            order, grad_dtype = "Fortran" if rule == "LARS" else "C", "bfloat16" if rule == "16 bits int8" else "given"
            opt = Sharded(make(), parts=int(parts), grad_dtype=grad_dtype)
            params = numbers(shapes, 0, order, dtypes)
        else:
            opt, params = load(file)
        assert opt.optimizer.t == int(first)
        assert opt.parts == int(parts)
        for t in range(int(first), int(last)):
            opt.update_parts(params, [numbers(shapes, (t, v), "C", of_grads) for v in opt.my_parts])
        opt.save(file, params)
        whole, found = schuss.load(file)
        assert whole.t == int(last)
        for name, p in params.items():
            assert_same_bits(found[name], p)
        for slot in sorted({slot for slots in whole.state.values() for slot in slots}):
            for name, array in opt.gather(slot).items():
                assert_same_bits(array, whole.state[name][slot], f"{rule} {slot} {name}")
    COMM.Barrier()


def from_one_and_back(path):
    """A run begun in one process goes on over ranks, and in one process again."""
    from_one(path, {}, "Fortran")
    from_one(path, {"state_dtype": "int8", "groups": DOUBLE}, "C")
    from_one(path, {}, "Fortran", SMALL)
    from_one(path, {"state_dtype": "bfloat16", "groups": {"W*": {"master": None}}}, "C", SMALL)


def from_one(path, options, order, dtypes=PLAIN):
    shapes = SHAPES
    opt, params = schuss.Adam(0.1, ema=0.9, **options), numbers(shapes, 0, order, dtypes)
    for t in range(2):
        opt.update(params, numbers(shapes, t, "C", dtypes))
    whole, mine = schuss.Adam(0.1, ema=0.9, **options), {name: p.copy(order="K") for name, p in params.items()}
    whole.load_state_dict(opt.state_dict())
    file = Path(path) / f"one-{RANK}.safetensors"
    opt.save(file, params)
    sharded = Sharded(opt, parts=4 if RANKS < 4 else RANKS)
    loaded, theirs = load(file, parts=sharded.parts)
    for t in range(2, 4):
        grads = [numbers(shapes, (t, v), "C", dtypes) for v in range(sharded.parts)]
        for each, p in ((sharded, params), (loaded, theirs)):
            each.update_parts(p, [grads[v] for v in each.my_parts])
        whole.update(mine, {n: whole_sum([g[n] for g in grads]) for n in shapes}, grad_scale=1 / sharded.parts)
    assert_same_run(sharded, params, whole, mine)
    assert_same_run(loaded, theirs, whole, mine)


def saves_without_end(path):
    """Each checkpoint holds one number everywhere."""
    opt, params = Sharded(schuss.Momentum(1.0, momentum=0.0)), {"W": np.zeros(20_000), "b": np.zeros(3000, np.float32)}
    opt.update(params, {name: np.zeros_like(p) for name, p in params.items()})
    value = 0
    while True:
        value += 1
        for p in params.values():
            p[...] = value
        for slots in opt.optimizer.state.values():
            slots["v"][...] = -value
        opt.save(path, params)
        if RANK == 0:
            print(value, os.getpid() if value > 1 else "", flush=True)


def pids():
    """For whoever wants to end one of these ranks."""
    found = COMM.gather(os.getpid())
    if RANK == 0:
        print(json.dumps(found), flush=True)


def saves_and_is_killed(path):
    pids()
    saves_without_end(path)


def beside_memory(path):
    """State and sums above the limit of memory that is set for the process, in files."""
    size = 24_000_000  # 96 MB of float32; Adam's state are 192 MB
    shape = (size,)
    arrays = []
    for name in ("p", "g"):
        arrays.append(np.memmap(Path(path) / f"{name}{RANK}", np.float32, "w+", shape=shape))
        for start in range(0, size, 1 << 20):
            arrays[-1][start : start + (1 << 20)] = 0.5 if name == "p" else 0.25
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    used = 0
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmData"):
                used = int(line.split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + (48 << 20), limit[1]))
    try:
        np.ones(16 << 20)
    except MemoryError:
        pass
    else:
        raise AssertionError("there is no limit")
    opt = Sharded(schuss.Adam(clip_norm=1e9), state_dir=path, bucket=4 << 20)
    params, grads = {"W": arrays[0]}, {"W": arrays[1]}
    for _ in range(2):
        opt.update(params, grads)
    resource.setrlimit(resource.RLIMIT_DATA, limit)
    small, one = {"W": np.full(5, 0.5, np.float32)}, schuss.Adam()
    for _ in range(2):
        one.update(small, {"W": np.full(5, 0.25, np.float32)})
    assert (arrays[0] == small["W"][0]).all()
    assert opt.nbytes["state"] <= 2 * 4 * size / RANKS + 2 * 4 * 1024
    assert os.listdir(path) == [] or {name[0] for name in os.listdir(path)} == {"p", "g"}


def memory():
    """State, sums and buckets of each rank, as the docstring bounds them."""
    shapes = {"W": (1000, 1000), "b": (1000,), "V": (300, 7)}
    for make, parts in ((schuss.Adam, RANKS), (schuss.AdamW, 2 * RANKS), (lambda: schuss.Adafactor(), RANKS)):
        opt, params = (
            Sharded(make(), parts=parts, bucket=1 << 16),
            {n: np.ones(s, np.float32) for n, s in shapes.items()},
        )
        for _ in range(3):
            opt.update_parts(params, [{n: np.ones(s, np.float32) for n, s in shapes.items()} for _ in opt.my_parts])
        whole = sum(p.nbytes for p in params.values())
        if opt.optimizer._looks_at == "elements":
            assert opt.nbytes["state"] <= 2 * (whole / RANKS + 8 * 4096), opt.nbytes
            assert opt.nbytes["sums"] <= whole / RANKS + 8 * 4096, opt.nbytes
            assert sum(COMM.allgather(opt.nbytes["state"])) == 2 * whole
        # Nothing else is kept, or taken for the time of a step, but for parts of a bucket and Python's own.
        grads = [{n: np.ones(s, np.float32) for n, s in shapes.items()} for _ in opt.my_parts]
        tracemalloc.start()
        opt.update_parts(params, grads)
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        workspace = 3 * whole if opt.optimizer._looks_at == "whole" else 0  # of the rule's own
        assert kept < 100_000, kept
        assert peak < workspace + max(1 << 16, 4096 * RANKS) + 400_000, peak
        assert opt.nbytes["buckets"] <= 7 * max(1 << 16, 4096 * RANKS), opt.nbytes
        if RANKS & (RANKS - 1) == 0 and opt.optimizer._looks_at == "elements":
            moved = sum(COMM.allgather(opt.traffic["received"]))
            assert moved == 4 * 2 * (RANKS - 1) * whole, (moved, whole)


if __name__ == "__main__":
    schuss.set_num_threads(1)
    globals()[sys.argv[1]](*sys.argv[2:])
