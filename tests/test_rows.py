"""Gradients by rows: exact ones have the bits of dense ones, whatever was left behind; touched ones leave the rest."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import weakref

import numpy as np
import pytest
import schuss
from conftest import DTYPES, ELEMENTWISE, assert_same_bits
from schuss import Rows, reference

RESTING = ("SGD", "AdaGrad")  # to which a gradient of zero is none
MOST = 1024  # steps that a row may lack

OPTIONS = {
    "none": {},
    "schedule": {"lr": schuss.schedules.Cosine(0.1, steps=60)},
    "decay": {"weight_decay": 0.1, "lr": lambda t: 0.5 / t},
    "all": {"ema": 0.9, "clip_value": 0.5, "maximize": True, "clip_norm": 3.0, "on_nonfinite": "skip"},
    "grouped": {"groups": {"E": {"lr": 0.3, "clip_value": 0.2}, "F*": {"maximize": True}}},
}


def drawn(rng, n, k):
    """Numbers of rows, of which a few come often, and repeatedly."""
    return np.minimum(rng.zipf(1.3, k) - 1, n - 1).astype(np.int64)


def both(rule, arguments, tables, dtype, *, steps=25, k=20, seed=0, dense_every=9, **how):
    """Ours by rows and the reference by dense gradients, side by side, each row compared when it is read."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape).astype(dtype) for name, shape in tables.items()} | {"b": np.ones(11, dtype)}
    twins = {name: p.copy() for name, p in params.items()}
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](**arguments), reference.OPTIMIZERS[rule](**arguments)
    for step in range(steps):
        read = {name: drawn(rng, len(params[name]), k) for name in tables}
        opt.catch_up(params, read)
        rows = {}
        for name, numbers in read.items():
            assert_same_bits(params[name][numbers], twins[name][numbers], f"{name} as read in step {step}")
            rows[name] = Rows(numbers, rng.normal(size=(k, *params[name].shape[1:])).astype(dtype))
        b = rng.normal(size=11).astype(dtype)
        dense = {name: each.dense(len(params[name])) for name, each in rows.items()} | {"b": b}
        opt.update(params, dense if step % dense_every == dense_every - 1 else rows | {"b": b}, **how)
        ref.update(twins, dense, **how)
        assert_same_bits(params["b"], twins["b"])
        if ref.clip_norm is not None:
            assert opt.last_grad_norm == reference.norm(*(g * how.get("grad_scale", 1) for g in dense.values()))
    behind = opt._engine.behind
    opt.catch_up(params)
    assert not opt._engine.behind
    for name, twin in twins.items():
        assert_same_bits(params[name], twin, name)
        for slot, array in ref.state[name].items():
            assert_same_bits(opt.state[name][slot], array, f"{slot} of {name}")
    return behind


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_exact_is_the_dense_gradient(rule, dtype, options):
    with np.errstate(all="ignore"):
        behind = both(rule, OPTIONS[options], {"E": (300, 7), "F2": (50, 3)}, dtype)
    assert behind == (rule not in RESTING or options in ("decay", "all", "grouped"))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3000,), (40, 3, 500), (40, 1024), (1, 5), (900, 1), (70, 0), (33, 1000)])
@pytest.mark.parametrize("rule", ["AdamW", "Momentum", "AdaGrad"])
def test_rows_of_any_size(rule, shape, threads, dtype):
    schuss.set_num_threads(threads, grain=1)
    both(rule, {"clip_norm": 2.0}, {"E": shape}, dtype, k=9, grad_scale=0.7)


@pytest.mark.parametrize("n", [5, 900, 3000])
def test_more_steps_than_a_row_may_lack(n):
    """The steps of before are forgotten, as by then each row has had its turn."""
    arguments = {"lr": schuss.schedules.Cosine(0.1, steps=3 * MOST), "weight_decay": 0.01}
    assert both("AdamW", arguments, {"E": (n, 2)}, np.float32, steps=2 * MOST + 100, k=2, dense_every=10**9)


def test_ten_thousand_steps(thorough):
    """Under a schedule and with decay."""
    arguments = {"lr": schuss.schedules.WarmupCosine(0.01, warmup=100, steps=10_000), "weight_decay": 0.01}
    assert both("AdamW", arguments, {"E": (20_000, 16)}, np.float32, steps=10_000, k=80, dense_every=10**9)


def test_tables_that_are_views():
    """Rows of a wider array, every other row: each lies in one piece."""
    whole = np.random.default_rng(0).normal(size=(60, 9))
    twin = whole.copy()
    opt, ref = schuss.Adam(), reference.Adam()
    for step in range(5):
        rows = Rows(np.array([0, 7, step]), np.full((3, 4), 0.5 + step))
        opt.catch_up({"E": whole[::2, 1:5]}, {"E": rows.indices})
        opt.update({"E": whole[::2, 1:5]}, {"E": rows})
        ref.update({"E": twin[::2, 1:5]}, {"E": rows.dense(30)})
    opt.catch_up({"E": whole[::2, 1:5]})
    assert_same_bits(whole, twin)


def test_repeated_rows_are_added_in_the_order_given():
    """As numpy.add.at does; with these numbers any other order shows."""
    p = np.zeros((3, 2), np.float32)
    values = np.array([[1e8, 1], [1, 0], [-1e8, 0], [3, -0.0]], np.float32)
    rows = Rows(np.array([1, 1, 1, 2]), values)
    schuss.SGD(lr=1.0).update({"E": p}, {"E": rows})
    assert_same_bits(p, np.zeros_like(p) - rows.dense(3))
    assert p[1, 0] == 0


@pytest.mark.parametrize("eps", [0.0, 1e-50])
def test_a_quotient_of_zeros_does_not_rest(dtype, eps):
    """Where float32 has no such epsilon rows that were never named become NaN, as they do with the dense gradient."""
    with np.errstate(all="ignore"):
        assert both("AdaGrad", {"eps": eps}, {"E": (60, 3)}, dtype)


def test_no_row_at_all():
    p = np.ones((4, 2))
    opt = schuss.Momentum(lr=0.1)
    opt.update({"E": p}, {"E": Rows(np.array([2]), np.ones((1, 2)))})
    opt.update({"E": p}, {"E": Rows(np.zeros(0, np.int64), np.zeros((0, 2)))})
    opt.catch_up({"E": p})
    assert p[2, 0] == 1 - 0.1 - 0.09
    assert opt.t == 2


@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_touched_steps_the_rows_named_and_no_other(rule, dtype):
    """The reference on those rows alone, at the step of all."""
    rng = np.random.default_rng(0)
    p = rng.normal(size=(60, 5)).astype(dtype)
    twin = p.copy()
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](sparse="touched"), reference.OPTIMIZERS[rule]()
    state = ref.new_state(twin)
    for step in range(1, 13):
        rows = Rows(drawn(rng, 60, 8), rng.normal(size=(8, 5)).astype(dtype))
        opt.update({"E": p}, {"E": rows})
        named = np.unique(rows.indices)
        ref.t = step
        part, slots = twin[named], {slot: array[named] for slot, array in state.items()}
        ref.step(part, rows.dense(60)[named], ref.rate(step), **slots)
        twin[named] = part
        for slot, array in slots.items():
            state[slot][named] = array
        assert_same_bits(p, twin)
        for slot, array in state.items():
            assert_same_bits(opt.state["E"][slot], array, slot)
    assert not opt._engine.behind


def run(opt, steps=6, n=40, seed=0):
    rng = np.random.default_rng(seed)
    params = {"E": rng.normal(size=(n, 3))}
    for _ in range(steps):
        rows = Rows(drawn(rng, n, 4), rng.normal(size=(4, 3)))
        opt.catch_up(params, {"E": rows.indices})
        opt.update(params, {"E": rows})
    return params


def caught_up(**options):
    opt = schuss.AdamW(**options)
    params = run(opt)
    opt.catch_up(params)
    return params["E"], opt.state["E"]


@pytest.mark.parametrize(
    "look",
    [
        lambda opt: opt.state,
        lambda opt: opt.ema_params,
        lambda opt: opt.state_dict(),
        copy.copy,
        pickle.dumps,
        lambda opt: opt.load_state_dict(schuss.AdamW(ema=0.5).state_dict()),
    ],
    ids=["state", "averages", "state_dict", "copy", "pickle", "load_state_dict"],
)
def test_what_catches_up_by_itself(look):
    opt = schuss.AdamW(ema=0.5)
    params = run(opt)
    assert opt._engine.behind
    assert not np.array_equal(params["E"], caught_up(ema=0.5)[0])
    look(opt)
    assert_same_bits(params["E"], caught_up(ema=0.5)[0])
    assert not opt._engine.behind


def test_a_checkpoint_has_no_row_behind(tmp_path):
    pytest.importorskip("safetensors")
    opt = schuss.AdamW(ema=0.5)
    params = run(opt)
    opt.save(tmp_path / "x.safetensors", params)
    loaded, saved = schuss.load(tmp_path / "x.safetensors")
    expected, state = caught_up(ema=0.5)
    assert_same_bits(saved["E"], expected)
    for slot, array in state.items():
        assert_same_bits(loaded.state["E"][slot], array)
    rows = Rows(np.array([5, 39]), np.ones((2, 3)))
    loaded.update(saved, {"E": rows})
    opt.update(params, {"E": rows})
    loaded.catch_up(saved), opt.catch_up(params)
    assert_same_bits(saved["E"], params["E"])


def test_states_from_before_there_was_the_option_are_read():
    saved = schuss.Adam(ema=0.5).state_dict()
    del saved["arguments"]["sparse"]
    opt = schuss.Adam(sparse="touched")
    opt.load_state_dict(saved)
    assert opt.sparse == "exact"


def test_from_exact_to_touched_and_back():
    """What was behind is caught up first; what rests is not."""
    opt = schuss.AdamW()
    params = run(opt)
    expected, _ = caught_up()
    opt.sparse = "touched"
    opt.update(params, {"E": Rows(np.array([39]), np.ones((1, 3)))})
    assert_same_bits(params["E"][:39], expected[:39])
    assert not opt._engine.behind
    opt.sparse = "exact"
    opt.update(params, {"E": Rows(np.array([39]), np.ones((1, 3)))})
    assert opt._engine.behind


def test_a_row_that_was_read_behind_is_refused():
    opt = schuss.Adam()
    params = {"E": np.ones((9, 2)), "b": np.ones(2)}
    opt.update(params, {"E": Rows(np.array([1]), np.ones((1, 2))), "b": None})
    before = {name: p.copy() for name, p in params.items()}
    text = (
        "grads['E'] names row 3, which is behind: it was read without the steps that it lacks. Call catch_up(params, "
    )
    with pytest.raises(ValueError, match=re.escape(text + "{'E': indices}) before the forward pass")):
        opt.update(params, {"E": Rows(np.array([1, 3]), np.ones((2, 2))), "b": np.ones(2)})
    assert opt.t == 1
    assert all(np.array_equal(params[name], p) for name, p in before.items())
    opt.catch_up(params, {"E": [3]})
    opt.update(params, {"E": Rows(np.array([1, 3]), np.ones((2, 2))), "b": np.ones(2)})


def test_options_count_for_the_steps_that_were_made_with_them():
    """An option, a rate and a group that change while rows are behind."""
    both_p = []
    for by_rows in (True, False):
        opt, params = schuss.AdamW(lr=0.1, weight_decay=0.1), {"E": np.linspace(-1, 1, 12).reshape(6, 2)}
        for step in range(8):
            if step == 3:
                opt.lr, opt.weight_decay = 0.5, 0.0
            if step == 5:
                opt.groups = {"E": {"lr": 0.01}}
            if step == 6:
                opt.clip_value, opt.maximize = 0.1, True
            rows = Rows(np.array([step % 2]), np.full((1, 2), 2.0))
            opt.catch_up(params, {"E": rows.indices})
            opt.update(params, {"E": rows if by_rows else rows.dense(6)})
        opt.catch_up(params)
        both_p.append(params["E"])
    assert_same_bits(*both_p)


@pytest.mark.parametrize("rule", ELEMENTWISE)
@pytest.mark.parametrize("turned", [1.0, -1.0])
@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"ema": 0.5}, {"flush_subnormals": True}])
def test_signed_zeros_and_subnormal_numbers(rule, options, turned):
    """-0 in a parameter is one of the few things that a gradient of zero may turn; flushing is another."""
    found = []
    for by_rows in (True, False):
        opt = schuss.optimizers.OPTIMIZERS[rule](**options)
        params = {"E": np.tile(np.array([-0.0, -0.0, 1e-40, -1e-44, 1.0], np.float32), (6, 1))}
        for step in range(5):
            rows = Rows(np.array([step % 2]), np.full((1, 5), [0.0, -0.0, 1, 0, -1], np.float32))
            opt.catch_up(params, {"E": rows.indices})
            opt.update(params, {"E": rows if by_rows else rows.dense(6)}, grad_scale=turned if step == 3 else 1.0)
        opt.catch_up(params)
        found.append({"p": params["E"], **opt.state["E"]})
    for name, array in found[0].items():
        assert_same_bits(array, found[1][name], name)


def test_a_norm_that_is_nan_reaches_all_rows():
    """As it does with a dense gradient: each becomes NaN, and so does each parameter."""
    for rule in ("SGD", "Adam"):
        opt, params = schuss.optimizers.OPTIMIZERS[rule](clip_norm=1.0), {"E": np.ones((5, 2))}
        opt.update(params, {"E": Rows(np.array([0]), np.full((1, 2), np.nan))})
        opt.catch_up(params)
        assert np.isnan(params["E"]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite(bad):
    values = np.ones((3, 2))
    values[1, 1] = bad
    opt, params = schuss.Momentum(on_nonfinite="skip"), {"E": np.ones((2000, 2))}
    opt.update(params, {"E": Rows(np.array([7, 1999, 7]), values)})
    assert (opt.t, opt.skipped, opt.last_nonfinite) == (0, 1, "E")
    opt.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"grads\['E'\] has an element that is NaN or infinite"):
        opt.update(params, {"E": Rows(np.array([7, 1999, 7]), values)})
    assert (params["E"] == 1).all()
    opt.update(params, {"E": Rows(np.array([7]), np.ones((1, 2)))})
    assert opt._engine.behind


E_OF = {"E": np.ones((6, 3)), "b": np.ones(2)}
BAD = {
    "out of range": (lambda: Rows(np.array([6]), np.ones((1, 3))), ValueError, r"from 0 to 5, got 6 at 0"),
    "negative": (lambda: Rows(np.array([0, -1]), np.ones((2, 3))), ValueError, r"from 0 to 5, got -1 at 1"),
    "other rows": (lambda: Rows(np.array([0]), np.ones((1, 4))), ValueError, "all axes but the first must be"),
    "other axes": (
        lambda: Rows(np.array([0]), np.ones((1, 3, 1))),
        ValueError,
        "all axes but the first must be",
    ),
    "other dtype": (
        lambda: Rows(np.array([0]), np.ones((1, 3), np.float32)),
        TypeError,
        "is float32, its param",
    ),
    "not contiguous": (lambda: Rows(np.array([0, 1]), np.ones((3, 2)).T), ValueError, r"C-contiguous"),
    "the parameter": (lambda: Rows(np.arange(6), E_OF["E"]), ValueError, r"overlap in memory"),
    "reshaped": (lambda: reshaped(), ValueError, r"must have shape \(1,\)"),
    "no Rows": (lambda: [0], TypeError, r"expected a numpy.ndarray"),
}


def reshaped():
    indices = np.array([0])
    rows = Rows(indices, np.ones((1, 3)))
    indices.shape = (1, 1)
    return rows


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_is_told_and_nothing_changes(kind):
    make, error, text = BAD[kind]
    opt = schuss.Adam()
    opt.update(E_OF, {"E": Rows(np.array([2]), np.ones((1, 3))), "b": np.ones(2)})
    before = {name: p.copy() for name, p in E_OF.items()}
    with pytest.raises(error, match=text):
        opt.update(E_OF, {"E": make(), "b": np.ones(2)})
    assert opt.t == 1
    for name, p in before.items():
        assert_same_bits(E_OF[name], p)


def test_a_refused_neighbour_leaves_the_rows():
    opt = schuss.Adam()
    params = {"E": np.ones((6, 3)), "b": np.ones(2)}
    with pytest.raises(ValueError, match="shape"):
        opt.update(params, {"E": Rows(np.array([2]), np.ones((1, 3))), "b": np.ones(3)})
    assert (params["E"] == 1).all()
    assert (opt.t, dict(opt.state)) == (0, {})


@pytest.mark.parametrize(
    ("indices", "values", "error", "text"),
    [
        ([0], np.ones((1, 2)), TypeError, "indices must be a numpy.ndarray, got list"),
        (np.ma.masked_array([0], True), np.ones((1, 2)), TypeError, "indices must be a numpy.ndarray, got MaskedArray"),
        (np.array([0], np.int32), np.ones((1, 2)), TypeError, "indices must be of int64, got int32"),
        (np.array([True]), np.ones((1, 2)), TypeError, r"a mask; pass numpy.flatnonzero\(mask\), and values\[mask\]"),
        (np.ones((1, 2)), np.array([0]), TypeError, "got float64; they come first, then the values"),
        (np.array([[0]]), np.ones((1, 2)), ValueError, r"indices must have shape \(k,\), got \(1, 1\)"),
        (np.array([0]), [[1.0]], TypeError, "values must be a numpy.ndarray, got list"),
        (np.array([0]), np.ones((1, 2), int), TypeError, "values must be of float32 or float64, got int64"),
        (np.array([0, 1]), np.ones((1, 2)), ValueError, r"2 indices need values of shape \(2, ...\), got \(1, 2\)"),
        (np.array([0]), np.array(1.0), ValueError, r"1 indices need values of shape"),
    ],
)
def test_what_rows_are_made_of(indices, values, error, text):
    with pytest.raises(error, match=text):
        Rows(indices, values)


def test_tables_whose_rows_lie_in_pieces_are_refused():
    for table in (np.asfortranarray(np.ones((4, 3))), np.ones((4, 6))[:, ::2], np.ones((4, 3))[::-1]):
        with pytest.raises(ValueError, match="each row must lie in one piece of memory"):
            schuss.Adam().update({"E": table}, {"E": Rows(np.array([1]), np.ones((1, 3)))})
    with pytest.raises(TypeError, match="is by rows, its parameter has none"):
        schuss.Adam().update({"E": np.array(1.0)}, {"E": Rows(np.array([0]), np.ones(1))})
    with pytest.raises(TypeError, match="is by rows, its parameter has none"):
        schuss.Adam().update({"E": 1.0}, {"E": Rows(np.array([0]), np.ones(1))})


class Own(schuss.Optimizer):
    def step(self, p, g, lr):
        p -= lr * g


@pytest.mark.parametrize("make", [schuss.LAMB, schuss.LARS, schuss.Muon, schuss.Adafactor, lambda: Own(0.1)])
@pytest.mark.parametrize("sparse", ["exact", "touched"])
def test_rules_that_need_all_of_an_array_say_so(make, sparse):
    opt, params = make(), {"E": np.ones((4, 3))}
    opt.sparse = sparse
    with pytest.raises(TypeError, match=r"grads\['E'\] is by rows, which .* cannot take.*Rows.dense\(n\)"):
        opt.update(params, {"E": Rows(np.array([1]), np.ones((1, 3)))})
    assert (params["E"] == 1).all()


def test_another_array_in_place_of_one_with_rows_behind():
    opt = schuss.Adam()
    params = run(opt)
    other = {"E": params["E"].copy()}
    rows = Rows(np.array([39]), np.ones((1, 3)))
    for ask in (
        lambda: opt.catch_up(other),
        lambda: opt.catch_up(other, {"E": [1]}),
        lambda: opt.update(other, {"E": rows}),
        lambda: opt.update(other, {"E": rows.dense(40)}),
    ):
        with pytest.raises(ValueError, match=r"params\['E'\].* is another array than the one that has rows behind"):
            ask()
    assert_same_bits(other["E"], params["E"])
    opt.catch_up(params)
    opt.update({"E": params["E"].copy()}, {"E": rows})


def test_what_catch_up_is_given():
    opt = schuss.Adam()
    params = run(opt)
    with pytest.raises(TypeError, match="rows must be a mapping of name -> integers, got"):
        opt.catch_up(params, [1])
    with pytest.raises(TypeError, match=r"rows\['E'\] must be integers, got float64"):
        opt.catch_up(params, {"E": [1.0]})
    with pytest.raises(ValueError, match=r"params\['E'\]: its indices must be rows from 0 to 39, got 40 at 1"):
        opt.catch_up(params, {"E": [[1], [40]]})
    with pytest.raises(KeyError):
        opt.catch_up({}, {"E": [1]})
    with pytest.raises(KeyError, match="other"):
        opt.catch_up(params, {"other": [1]})
    opt.catch_up(params, {"E": []})
    opt.catch_up(params, {"E": np.array([[1, 2], [2, 1]], np.uint8)})
    assert opt._engine.behind
    with pytest.raises(ValueError, match="sparse must be one of 'exact', 'touched', got 'lazy'"):
        opt.sparse = "lazy"


def test_two_networks_of_one_optimizer():
    """Each is caught up by itself."""
    opt, first, second = schuss.Momentum(), {"A": np.ones((4, 2))}, {"B": np.ones((4, 2))}
    for params in (first, second):
        name = next(iter(params))
        opt.update(params, {name: np.ones((4, 2))})
    for params in (first, second):
        name = next(iter(params))
        for _ in range(3):
            opt.update(params, {name: Rows(np.array([0]), np.ones((1, 2)))})
    before = first["A"].copy(), second["B"].copy()
    opt.catch_up(second)
    assert_same_bits(first["A"], before[0])
    assert (second["B"][3] < before[1][3]).all()
    opt.catch_up({**first, "other": 1})
    assert_same_bits(first["A"], second["B"])


def test_lists_of_parameters():
    opt, params = schuss.Momentum(lr=0.1), [np.ones((4, 2)), np.ones(3)]
    opt.update(params, [Rows(np.array([0]), np.ones((1, 2))), np.ones(3)])
    opt.update(params, [Rows(np.array([0]), np.ones((1, 2))), np.ones(3)])
    opt.catch_up(params, {0: [0, 1]})
    assert params[0][0, 0] == 1 - 0.1 - 0.19


def test_optimizers_whose_rows_are_behind_are_collected():
    opt = schuss.Adam()
    params = run(opt)
    table = weakref.ref(params["E"])
    del params
    assert table() is not None  # it is held, as it is behind
    seen = weakref.ref(opt)
    del opt
    gc.collect()
    assert seen() is None
    assert table() is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_that_a_zero_state_does_not_notice_are_left_out(dtype):
    """Rows that were never named are not worked on, and come to the same bits."""
    assert both("Adam", {}, {"E": (5000, 4)}, dtype, steps=120, dense_every=10**9)
    with np.errstate(all="ignore"):  # 0 / 0, which these notice
        assert both("Adam", {"eps": 0.0}, {"E": (500, 4)}, dtype, steps=20, dense_every=10**9)


def test_its_text():
    assert repr(Rows(np.array([1, 2]), np.ones((2, 3), np.float32))) == "Rows(2 of shape (3,), float32)"


# What others found by trying.


def test_values_that_reach_into_the_parameter_when_there_are_more():
    """The plan of the update before serves; what is new is how far the values go."""
    memory = np.ones((20, 2))
    p, opt = memory[4:14], schuss.SGD(lr=1.0)
    opt.update({"E": p}, {"E": Rows(np.array([0]), memory[:1])})
    before = memory.copy()
    with pytest.raises(ValueError, match=r"grads\['E'\] and params\['E'\] overlap in memory"):
        opt.update({"E": p}, {"E": Rows(np.zeros(20, np.int64), memory)})
    assert_same_bits(memory, before)


def side_by_side(make, p, rows, steps=2, **how):
    """Our steps by rows and by dense gradients from the same start: both ends."""
    ends = []
    for by_rows in (True, False):
        opt, params = make(), {"E": p.copy()}
        for _ in range(steps):
            opt.update(params, {"E": rows if by_rows else rows.dense(len(p))}, **how)
        opt.catch_up(params)
        ends.append((params["E"], opt.state["E"], opt.last_grad_norm))
    (ours, state, norm), (dense, dense_state, dense_norm) = ends
    assert_same_bits(ours, dense)
    assert norm == dense_norm
    for slot, array in dense_state.items():
        assert_same_bits(state[slot], array, slot)


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (lambda: schuss.RMSprop(weight_decay=1e-23), 100.0),
        (lambda: schuss.AdaGrad(weight_decay=1e-30), 1e15),
        (lambda: schuss.Momentum(lr=lambda t: 0.0, weight_decay=0.1), np.inf),
        (lambda: schuss.Adam(weight_decay=1e-50), np.inf),
        (lambda: schuss.AdamW(lr=lambda t: 0.0), np.inf),
        (lambda: schuss.SGD(lr=1e39), 1.0),
        (lambda: schuss.AdaGrad(lr=1e39), 1.0),
    ],
)
def test_scalars_at_the_ends_of_float32(make, start):
    """A term that 0 and 1 do not show; a rate that is infinite in float32."""
    rows = Rows(np.array([1]), np.ones((1, 2), np.float32))
    with np.errstate(all="ignore"):
        side_by_side(make, np.full((4, 2), start, np.float32), rows)
        side_by_side(make, np.full((4, 2), start, np.float32), rows, grad_scale=1e39)


@pytest.mark.parametrize(
    ("values", "options", "scale"),
    [
        (np.full((100, 2), [9e-39, 1.0]), {}, 1.0),
        (np.full((1, 2), 1e-39), {"clip_norm": 1.0}, 1.0),
        (np.array([[1e-39, 1e-37]]), {"clip_norm": 0.01}, 1e38),
    ],
)
def test_flushing_begins_where_it_does_for_a_dense_gradient(values, options, scale):
    """After repeated rows have been added, and before their norm is taken."""
    rows = Rows(np.ones(len(values), np.int64), values.astype(np.float32))

    def make():
        return schuss.Momentum(lr=0.1, flush_subnormals=True, **options)

    side_by_side(make, np.zeros((8, 2), np.float32), rows, grad_scale=scale)


def test_threads_that_are_allowed_within_an_update():
    """By a mapping's own code, after the memory for the threads has been taken."""

    class Allowing(dict):
        def __setitem__(self, name, value):
            schuss.set_num_threads(9, grain=1)
            super().__setitem__(name, value)

    schuss.set_num_threads(1)
    params = Allowing(E=np.ones((20_000, 8)), f=1.0)
    schuss.Adam().update(params, {"E": Rows(np.arange(20_000), np.ones((20_000, 8))), "f": 1.0})
    assert schuss.get_num_threads() == 9
    assert len(np.unique(params["E"])) == 1


def test_the_same_memory_under_two_names():
    """By turns: what one name has left behind comes before what the other one does."""
    ends = []
    for by_rows in (True, False):
        table, opt = np.ones((6, 2)), schuss.Momentum(lr=0.1, weight_decay=0.1)
        for step in range(6):
            name, rows = "AB"[step % 2], Rows(np.array([1]), np.ones((1, 2)))
            opt.catch_up({name: table}, {name: rows.indices})
            opt.update({name: table}, {name: rows if by_rows else rows.dense(6)})
        opt.catch_up({"A": table})
        ends.append(table)
    assert_same_bits(*ends)


def test_arrays_that_moved_or_were_closed_are_not_written():
    for change in (lambda p: p.resize((2, 2), refcheck=False), lambda p: p.setflags(write=False)):
        opt = schuss.AdamW(weight_decay=0.1)
        params = {"E": np.ones((50_000, 2))}
        opt.update(params, {"E": Rows(np.array([0]), np.ones((1, 2)))})
        change(params["E"])
        before = params["E"].copy()
        for ask in (lambda: opt.state, lambda: opt.catch_up(params)):  # noqa: B023
            with pytest.raises(ValueError, match=r"params\['E'\].*(is another array|is read-only)"):
                ask()
        assert_same_bits(params["E"], before)


def test_tables_without_columns_have_nothing_behind():
    opt, params = schuss.Adam(), {"E": np.zeros((2**40, 0), np.float32)}
    opt.update(params, {"E": Rows(np.array([2**40 - 1]), np.zeros((1, 0), np.float32))})
    opt.catch_up(params)
    assert opt.t == 1


def test_rows_are_checked_also_where_none_is_behind():
    opt, params = schuss.SGD(), {"E": np.ones((4, 2))}
    for _ in range(2):
        with pytest.raises(ValueError, match="rows from 0 to 3, got 99 at 0"):
            opt.catch_up(params, {"E": [99]})
        with pytest.raises(KeyError):
            opt.catch_up(params, {"F": [0]})
        opt.update(params, {"E": Rows(np.array([0]), np.ones((1, 2)))})


def test_state_that_was_closed_is_not_written():
    opt, params = schuss.Momentum(), {"E": np.ones((5000, 2))}
    opt.update(params, {"E": np.ones((5000, 2))})
    v = opt.state["E"]["v"]
    opt.update(params, {"E": Rows(np.array([0]), np.ones((1, 2)))})
    v.setflags(write=False)
    before = params["E"].copy(), v.copy()
    for ask in (lambda: opt.catch_up(params), lambda: opt.catch_up(params, {"E": [4000]}), lambda: opt.state):
        with pytest.raises(ValueError, match=r"params\['E'\], or its state, .*cannot be written any more"):
            ask()
    assert_same_bits(params["E"], before[0])
    assert_same_bits(v, before[1])


def test_a_rate_that_catches_up():
    """From within an update, before anything of it is written."""
    params = {"E": np.ones((10, 2))}
    opt = schuss.Momentum(lr=lambda t: (opt.catch_up(params, {"E": [1]}), 0.1)[1])
    for _ in range(3):
        opt.update(params, {"E": Rows(np.array([1]), np.ones((1, 2)))})
    assert opt.t == 3


def test_a_copy_that_has_rows_behind_is_not_saved(tmp_path):
    pytest.importorskip("safetensors")
    opt = schuss.AdamW()
    params = run(opt)
    with pytest.raises(ValueError, match="is another array than the one that has rows behind"):
        opt.save(tmp_path / "x.safetensors", {"E": params["E"].copy()})
    assert not list(tmp_path.iterdir())
    opt.save(tmp_path / "x.safetensors", params)
