"""Random updates against the reference: layouts, dtypes, sizes, options; and random nonsense, which changes nothing.

A few hundred examples; with ``pytest --thorough`` tens of thousands.
"""

from __future__ import annotations

import numpy as np
import pytest
import schuss
from conftest import ELEMENTWISE, assert_same_bits, assert_same_optimizers
from schuss import reference

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed (extra test)")
st = hypothesis.strategies

SIZES = st.one_of(st.integers(0, 70), st.sampled_from([1023, 1024, 1025, 2049, 5000]))
EDGES = st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-40, 1e-300, 1e30, 3e38, np.nan, np.inf, -np.inf])


@st.composite
def layouts(draw, shape, dtype, rng, writable=True):
    """An array of this shape that lies in memory in a random way."""
    ndim = len(shape)
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in range(ndim)]
    starts = [draw(st.integers(0, 2)) for _ in range(ndim)]
    order = draw(st.permutations(range(ndim)))
    whole = [abs(step) * n + start + 1 for step, n, start in zip(steps, shape, starts, strict=True)]
    base = rng.normal(size=[whole[axis] for axis in order]).astype(dtype)
    view = base.transpose(np.argsort(order)) if ndim else base
    picks = []
    for step, n, start, size in zip(steps, shape, starts, whole, strict=True):
        reach = range(start, size, abs(step))[:n]
        picks.append(slice(reach.start, reach.start + abs(step) * n, abs(step)))
    view = view[tuple(picks)]
    view = view[tuple(slice(None, None, -1) if step < 0 else slice(None) for step in steps)]
    assert view.shape == tuple(shape)
    if not writable and draw(st.booleans()) and ndim:
        view = np.broadcast_to(view[tuple(slice(0, 1) for _ in shape)], shape) if view.size else view
    if view.size and writable is False and draw(st.booleans()) and view.flags.writeable:
        place = tuple(draw(st.integers(0, n - 1)) for n in shape)
        with np.errstate(all="ignore"):
            view[place] = draw(EDGES)
    return view


@st.composite
def updates(draw):
    """A rule with options, some parameters, and gradients for three steps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rule = draw(st.sampled_from(ELEMENTWISE))
    options = draw(
        st.fixed_dictionaries(
            {"lr": st.sampled_from([0.0, 0.01, 0.3])},
            optional={
                "maximize": st.booleans(),
                "clip_value": st.sampled_from([0.0, 0.5]),
                "ema": st.sampled_from([0.0, 0.9]),
                "weight_decay": st.sampled_from([0.0, 0.1]),
                "on_nonfinite": st.sampled_from(["propagate", "skip"]),
                "groups": st.sampled_from([{}, {"0": {"lr": 0.5}}, {"*": {"maximize": True}}]),
            },
        )
    )
    params, steps = {}, []
    count = draw(st.integers(1, 4))
    shapes = []
    for i in range(count):
        shape = draw(
            st.one_of(st.just(()), SIZES.map(lambda n: (n,)), st.lists(st.integers(0, 9), min_size=2, max_size=4))
        )
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        shapes.append((tuple(shape), dtype))
        params[str(i)] = draw(layouts(tuple(shape), dtype, rng))
    for _ in range(3):
        grads = {}
        for i, (shape, dtype) in enumerate(shapes):
            skipped = draw(st.sampled_from([False] * 9 + [True]))
            grads[str(i)] = None if skipped else draw(layouts(shape, dtype, rng, writable=False))
        steps.append(grads)
    threads = draw(st.sampled_from([1, 2, 5]))
    scale = draw(st.sampled_from([1.0, 1.0, 0.5, -1.0]))
    return rule, options, params, steps, threads, scale


def examples(request, few, many):
    return many if request.config.getoption("--thorough") else few


def run(request, test, strategy, few, many):
    settings = hypothesis.settings(
        max_examples=examples(request, few, many),
        deadline=None,
        database=None,
        derandomize=not request.config.getoption("--thorough"),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    settings(hypothesis.given(strategy)(test))()


def test_random_updates_equal_the_reference(request):
    def test(update):
        rule, options, params, steps, threads, scale = update
        schuss.set_num_threads(threads, grain=1)
        twins = {name: p.copy() for name, p in params.items()}
        opt, ref = schuss.optimizers.OPTIMIZERS[rule](**options), reference.OPTIMIZERS[rule](**options)
        with np.errstate(all="ignore"):
            for grads in steps:
                kept = {name: None if g is None else g.copy() for name, g in grads.items()}
                opt.update(params, grads, grad_scale=scale)
                ref.update(twins, kept, grad_scale=scale)
                for name, p in params.items():
                    assert_same_bits(p, twins[name], f"params[{name!r}]")
                    if grads[name] is not None:
                        assert_same_bits(grads[name], kept[name], f"grads[{name!r}]")
                assert opt.skipped == ref.skipped
                assert_same_optimizers(opt, ref)

    run(request, test, updates(), 300, 20_000)


NONSENSE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(st.floats(), max_size=3),
    st.sampled_from([np.arange(6), np.ones(6, complex), np.ones(6, "f2"), np.ones(6, ">f8"), np.ones(6, object)]),
    st.sampled_from([np.ones(5), np.ones((6, 1)), np.ones(6, "f4"), np.ma.masked_array(np.ones(6))]),
    st.builds(lambda: np.broadcast_to(np.ones(1), 6)),
    st.builds(lambda: np.zeros(49, "u1")[1:].view("f8")),
    st.builds(lambda: np.lib.stride_tricks.as_strided(np.ones(6), (6,), (4,))),
)


def test_nonsense_changes_nothing(request):
    """Wherever nonsense stands among good parameters or gradients, nothing of the good ones changes."""
    names = ["a", "b", "c"]

    def test(given):
        rule, place, in_params, nonsense = given
        params = {name: np.arange(6.0) for name in names}
        opt = schuss.optimizers.OPTIMIZERS[rule]()
        opt.update(params, {name: np.ones(6) for name in names})
        before = {name: p.copy() for name, p in params.items()}
        state = {name: {slot: a.copy() for slot, a in slots.items()} for name, slots in opt.state.items()}
        grads = {name: np.ones(6) for name in names}
        bad_params, bad_grads = dict(params), dict(grads)
        (bad_params if in_params else bad_grads)[names[place]] = nonsense
        if nonsense is None and not in_params:
            return  # a gradient of None is no nonsense
        if isinstance(nonsense, np.ndarray) and not in_params and nonsense.strides == (0,):
            return  # nor is one that is broadcast
        with pytest.raises((TypeError, ValueError)):
            opt.update(bad_params, bad_grads)
        assert opt.t == 1
        for name in names:
            assert_same_bits(params[name], before[name])
            for slot, array in state[name].items():
                assert_same_bits(opt.state[name][slot], array)

    strategy = st.tuples(st.sampled_from(ELEMENTWISE), st.integers(0, 2), st.booleans(), NONSENSE)
    run(request, test, strategy, 200, 20_000)


def test_random_overlaps_are_judged_as_numpy_does(request):
    """Two windows of one array: refused if and only if they share an element."""
    window = st.tuples(st.integers(0, 20), st.integers(1, 12), st.sampled_from([1, 2, 3, -1, -2]))

    def view(base, start, n, step):
        stop = start + step * n
        picked = base[start : stop if stop >= 0 else None : step]
        return picked[:n]

    def test(given):
        first, second, as_gradient = given
        base = np.arange(40.0)
        p, other = view(base, *first), view(base, *second)
        params, grads = {"p": p}, {"p": np.ones(p.shape)}
        if as_gradient:
            n = min(p.size, other.size)
            params, grads = {"p": p[:n]}, {"p": other[:n]}
        else:
            params["q"], grads["q"] = other, np.ones(other.shape)
        pair = (params["p"], grads["p"] if as_gradient else params["q"])
        before = base.copy()
        if np.shares_memory(*pair):
            with pytest.raises(ValueError, match="overlap in memory"):
                schuss.SGD().update(params, grads)
            assert_same_bits(base, before)
        else:
            schuss.SGD(lr=1.0).update(params, grads)
            assert not np.array_equal(base, before) or not pair[0].size or as_gradient

    run(request, test, st.tuples(window, window, st.booleans()), 300, 10_000)
