"""What update() accepts, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import re
import sys
import threading
from collections import OrderedDict, UserDict
from itertools import combinations
from types import MappingProxyType

import numpy as np
import pytest
import schuss
from conftest import ELEMENTWISE, assert_same_bits
from schuss.groups import Groups


def snapshot(container):
    items = container.items() if hasattr(container, "items") else enumerate(container)
    return {name: (value, np.array(value).tobytes()) for name, value in items}


def assert_refused(opt, params, grads, error, match):
    """update() raises `error` saying `match`, and not a byte of anything is other than before."""
    before = [snapshot(params), snapshot(grads)]
    t, state = opt.t, {name: snapshot(slots) for name, slots in opt.state.items()}
    with pytest.raises(error, match=match):
        opt.update(params, grads)
    for container, then in zip((params, grads), before, strict=True):
        now = snapshot(container)
        assert now.keys() == then.keys()
        for name, (value, data) in now.items():
            assert value is then[name][0]
            assert data == then[name][1], name
    assert opt.t == t
    assert {name: snapshot(slots) for name, slots in opt.state.items()} == state


class Sub(np.ndarray):
    pass


def read_only(array):
    array.flags.writeable = False
    return array


def misaligned(n):
    return np.zeros(8 * n + 1, np.uint8)[1:].view(np.float64)


BAD_PARAMS = {
    "list": (
        [1.0, 2.0],
        TypeError,
        r"params\['x'\]: expected a numpy.ndarray .*got list; make an array of it once, .*, and keep that",
    ),
    "int": (3, TypeError, r"params\['x'\].*got int; a Python number must be a float"),
    "bool": (True, TypeError, r"got bool"),
    "None": (None, TypeError, r"got NoneType; only a gradient may be None"),
    "str": ("abc", TypeError, r"got str"),
    "integer array": (np.arange(3), TypeError, r"float32, float64, float16 or bfloat16, got int64; convert it once"),
    "boolean array": (np.ones(3, bool), TypeError, r"got bool"),
    "complex array": (np.ones(3, complex), TypeError, r"got complex128"),
    "long double": (
        np.ones(3, np.longdouble),
        TypeError,
        r"got (float128|longdouble|float96)|refused|float64",
    ),
    "object array": (np.array([1.0, None]), TypeError, r"got object"),
    "byte-swapped": (np.ones(3, np.dtype("f8").newbyteorder()), TypeError, r"byte-swapped"),
    "structured": (np.ones(3, [("a", "f8")]), TypeError, r"params\['x'\]"),
    "masked": (np.ma.masked_array([1.0, 2.0]), TypeError, r"got MaskedArray; this subclass"),
    "matrix": (np.ones(3).view(Sub), TypeError, r"got Sub; this subclass"),
    "half scalar": (np.float16(1), TypeError, r"got numpy.float16"),
    "read-only": (read_only(np.ones(3)), ValueError, r"params\['x'\]: is read-only"),
    "misaligned": (misaligned(3), ValueError, r"not aligned to its float64 elements"),
    "broadcast": (
        np.lib.stride_tricks.as_strided(np.ones(3), (2, 3), (0, 8)),
        ValueError,
        r"overlap each other",
    ),
    "sliding": (
        np.lib.stride_tricks.as_strided(np.ones(6), (3, 3), (8, 8)),
        ValueError,
        r"overlap each other in memory \(shape \(3, 3\)",
    ),
}


@pytest.mark.parametrize("case", BAD_PARAMS)
def test_a_bad_parameter_is_refused(case, rule):
    bad, error, match = BAD_PARAMS[case]
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    good = {"a": np.ones(4), "z": np.ones(5)}
    opt.update(good, {name: p + 1 for name, p in good.items()})
    params = {"a": good["a"], "x": bad, "z": good["z"]}
    gradient = np.ones(np.shape(bad)) if isinstance(bad, np.ndarray) else 1.0
    assert_refused(opt, params, {"a": np.ones(4), "x": gradient, "z": np.ones(5)}, error, match)


BAD_GRADIENTS = {
    "other shape": (np.ones(4), ValueError, r"grads\['x'\] has shape \(4,\), its parameter has shape \(3,\)"),
    "other axes": (np.ones((3, 1)), ValueError, r"shape \(3, 1\)"),
    "no axis": (np.ones(()), ValueError, r"shape \(\)"),
    "float": (1.0, ValueError, r"shape \(\)"),
    "float32": (np.ones(3, np.float32), TypeError, r"is float32, its parameter is float64; convert the grad"),
    "integers": (np.ones(3, int), TypeError, r"grads\['x'\]: expected dtype"),
    "list": ([1.0, 1.0, 1.0], TypeError, r"grads\['x'\]: expected a numpy.ndarray"),
    "byte-swapped": (np.ones(3, np.dtype("f8").newbyteorder()), TypeError, r"byte-swapped"),
    "misaligned": (misaligned(3), ValueError, r"grads\['x'\].*not aligned"),
    "masked": (np.ma.masked_array([1.0, 2.0, 3.0]), TypeError, r"MaskedArray"),
}


@pytest.mark.parametrize("case", BAD_GRADIENTS)
def test_a_bad_gradient_is_refused(case, rule):
    bad, error, match = BAD_GRADIENTS[case]
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    params = {"a": np.ones(4), "x": np.ones(3), "z": np.ones(5)}
    opt.update(params, {name: p + 1 for name, p in params.items()})
    assert_refused(opt, params, {"a": np.ones(4), "x": bad, "z": np.ones(5)}, error, match)


def overlaps():
    a, b = np.arange(24.0).reshape(4, 6), np.arange(24.0).reshape(4, 6) + 100
    yield "the same array twice", {"x": a, "y": a}, {"x": b, "y": b}
    yield "a part of another", {"x": a, "y": a[1]}, {"x": b, "y": b[1]}
    yield "shifted", {"x": a.ravel()[:10], "y": a.ravel()[9:]}, {"x": np.ones(10), "y": np.ones(15)}
    yield "reversed", {"x": a, "y": a[::-1, ::-1]}, {"x": b, "y": b}
    yield "interleaved that meet", {"x": a[:, ::2], "y": a[:, ::3]}, {"x": b[:, ::2], "y": b[:, ::3]}
    yield "its own gradient", {"x": a}, {"x": a}
    yield "another's gradient", {"x": a, "y": b}, {"x": np.ones((4, 6)), "y": a}
    yield "a part of a gradient", {"x": a[:, :3]}, {"x": a[:, 2:5]}


@pytest.mark.parametrize("case", list(overlaps()), ids=lambda case: case[0])
def test_overlap_is_refused(case, rule):
    _, params, grads = case
    assert_refused(schuss.optimizers.OPTIMIZERS[rule](), params, grads, ValueError, "overlap in memory")


@pytest.mark.parametrize("moved", [False, True], ids=["gradient stays", "gradient moves"])
def test_overlap_that_comes_later_is_refused(rule, moved):
    """The plan of the last call is no excuse: a gradient may have moved into what is written."""
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    params = {"x": np.ones(50), "y": np.ones(50)}
    grads = {"x": np.ones(50), "y": np.ones(50)}
    opt.update(params, grads)
    if moved:
        assert_refused(opt, params, {"x": params["y"], "y": grads["y"]}, ValueError, "overlap in memory")
    else:
        assert_refused(opt, {"x": params["x"], "y": params["x"]}, grads, ValueError, "overlap in memory")
    opt.update(params, grads)


def test_a_gradient_in_the_state_is_refused():
    opt = schuss.Adam()
    params = {"x": np.ones(50)}
    opt.update(params, {"x": np.ones(50)})
    text = r"the state 'm' of params\['x'\].*overlap in memory|grads.*and the state 'm' of params\['x'\] overlap"
    assert_refused(opt, params, {"x": opt.state["x"]["m"]}, ValueError, text)


@pytest.mark.parametrize(("thrown", "refused"), [(np.exceptions.TooHardError, ValueError), (MemoryError, MemoryError)])
def test_what_numpy_cannot_decide_counts_as_overlap(monkeypatch, thrown, refused):
    def shares_memory(a, b, max_work):
        raise thrown

    monkeypatch.setattr(np, "shares_memory", shares_memory)
    base = np.zeros(20)
    params, grads = {"a": base[::2], "b": base[1::3]}, {"a": np.ones(10), "b": np.ones(7)}
    opt = schuss.SGD()
    with pytest.raises(refused):
        opt.update(params, grads)
    assert opt.t == 0
    assert not base.any()


def test_views_that_only_interleave_are_accepted():
    matrix, expected = np.ones((6, 4)), np.ones((6, 4)) - 0.5 * np.arange(4)
    params = {j: matrix[:, j] for j in range(4)}
    opt = schuss.SGD(lr=0.5)
    opt.update(params, {j: np.full(6, float(j)) for j in range(4)})
    assert_same_bits(matrix, expected)
    # A gradient that now lies between the columns of another parameter, sharing no element with any.
    wide = np.ones((6, 2))
    opt = schuss.SGD(lr=0.5)
    opt.update({"x": wide[:, 0]}, {"x": np.ones(6)})
    opt.update({"x": wide[:, 0]}, {"x": wide[:, 1]})
    assert_same_bits(wide, np.column_stack([np.zeros(6), np.ones(6)]))


def test_gradients_may_share_memory():
    g = np.ones(5)
    params = {"x": np.zeros(5), "y": np.zeros(5)}
    schuss.SGD(lr=1).update(params, {"x": g, "y": g})
    assert params["x"].sum() == params["y"].sum() == -5


@pytest.mark.parametrize(
    ("params", "grads", "error", "match"),
    [
        ({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2)}, ValueError, r"grads lacks 'b'"),
        (
            {"a": np.ones(2)},
            {"a": np.ones(2), "c": np.ones(2)},
            ValueError,
            r"grads has 'c', which params lacks",
        ),
        (
            {"a": np.ones(2), "b": np.ones(2)},
            {"a": np.ones(2), "c": None, "d": None},
            ValueError,
            r"grads lacks 'b', grads has 'c', 'd'",
        ),
        ([np.ones(2)], [np.ones(2), np.ones(2)], ValueError, r"params has 1 arrays, grads has 2"),
        ({"a": np.ones(2)}, [np.ones(2)], TypeError, r"params is a dict and grads a list"),
        ((np.ones(2), 1.0), (np.ones(2), 1.0), TypeError, r"params\[1\] is a float in a tuple"),
        (
            MappingProxyType({"a": np.ones(2), "b": 1.0}),
            {"a": np.ones(2), "b": 1.0},
            TypeError,
            r"params\['b'\] is a float in a mappingproxy",
        ),
    ],
)
def test_what_does_not_pair_is_refused(params, grads, error, match):
    assert_refused(schuss.Adam(), params, grads, error, match)


@pytest.mark.parametrize("bad", [np.ones(3), 1.0, None, "W", {1, 2}, iter([])])
def test_what_is_no_container_is_refused(bad):
    with pytest.raises(TypeError, match=r"params must be a dict of name -> numpy.ndarray, or a list"):
        schuss.SGD().update(bad, {})
    with pytest.raises(TypeError, match=r"grads must be a dict"):
        schuss.SGD().update({}, bad)


def test_an_array_alone_is_told_to_be_put_in_a_dict():
    with pytest.raises(TypeError, match=r'put it in a dict, as in {"W": W}'):
        schuss.SGD().update(np.ones(3), np.ones(3))


@pytest.mark.parametrize("changed", [np.ones(5), np.ones((4, 1)), np.ones(4, np.float32), 1.0])
@pytest.mark.parametrize("rule", ["Momentum", "Adam"])
def test_a_parameter_that_changed_is_refused(rule, changed):
    opt = getattr(schuss, rule)()
    opt.update({"x": np.ones(4)}, {"x": np.ones(4)})
    assert_refused(opt, {"x": changed}, {"x": np.ones_like(changed)}, ValueError, "but its state was made for")


@pytest.mark.parametrize(
    ("lr", "error", "match"),
    [
        (lambda t: -1.0, ValueError, r"lr\(2\) must be finite and at least 0, got -1.0"),
        (lambda t: float("nan"), ValueError, r"lr\(2\).*got nan"),
        (lambda t: "x", TypeError, r"lr\(2\) must be a number, got 'x'"),
        (lambda t: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)
def test_a_bad_schedule_changes_nothing(lr, error, match):
    opt = schuss.Adam()
    params = {"x": np.ones(4)}
    opt.update(params, {"x": np.ones(4)})
    opt.lr = lr
    assert_refused(opt, params, {"x": np.ones(4)}, error, match)


@pytest.mark.parametrize("n", [10, 600, 5_000, 1_100_000])
@pytest.mark.parametrize("make", [lambda: schuss.Adan(ema=0.9), lambda: schuss.ScheduleFreeAdamW()])
def test_state_begins_within_a_line_as_its_parameter_does_and_apart_from_it_in_the_page(make, n, dtype):
    p = np.ones(n + 3, dtype)[3:]
    opt = make()
    opt.update({"p": p}, {"p": np.ones(n, dtype)})
    loaded = make()
    loaded.load_state_dict(opt.state_dict())
    for each in (opt, loaded):
        places = [p.ctypes.data % 4096, *(array.ctypes.data % 4096 for array in each.state["p"].values())]
        assert {place % 64 for place in places} == {places[0] % 64}
        if n == 10:
            continue
        for a, b in combinations(places, 2):
            assert min((a - b) % 4096, (b - a) % 4096) >= 640, places


def test_a_workspace_begins_apart_from_the_state():
    opt, p = schuss.Muon(), np.ones((40, 40))
    places = [array.ctypes.data % 4096 for array in (p, opt._new_state(None, p)["m"], opt._workspace(None, p))]
    for a, b in combinations(places, 2):
        assert min((a - b) % 4096, (b - a) % 4096) >= 640, places


def test_failing_allocation_changes_nothing(monkeypatch):
    opt = schuss.Adam()
    params = {"x": np.ones(4), "y": np.ones(4)}
    make = schuss.base.zeros_like

    def fail_at_y(p, nth):
        if p is params["y"]:
            raise MemoryError("no room")
        return make(p, nth)

    monkeypatch.setattr(schuss.base, "zeros_like", fail_at_y)
    assert_refused(opt, params, {"x": np.ones(4), "y": np.ones(4)}, MemoryError, "no room")
    assert not opt.state


def test_none_skips_its_parameter(rule):
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    frozen = np.ones(3)
    params = {"a": np.ones(3), "b": frozen}
    opt.update(params, {"a": np.ones(3), "b": None})
    assert opt.t == 1
    assert "b" not in opt.state
    assert_same_bits(frozen, np.ones(3))
    assert np.all(params["a"] < 1)
    opt.update(params, {"a": None, "b": np.ones(3)})
    assert opt.t == 2
    assert np.all(frozen < 1)


@pytest.mark.parametrize("grads", [{}, {"a": None}])
def test_an_update_of_nothing_still_counts(grads):
    opt = schuss.Adam()
    opt.update(dict.fromkeys(grads, np.ones(2)), grads)
    assert opt.t == 1


def test_parameters_may_come_and_go(rule):
    """State is kept by name, and each of these arrays is stepped as if it were alone."""
    rng = np.random.default_rng(0)
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](), schuss.reference.OPTIMIZERS[rule]()
    params = {name: rng.normal(size=6) for name in "abc"}
    twins = {name: p.copy() for name, p in params.items()}
    for present in ("ab", "ba", "c", "abc", "cab"):
        grads = {name: rng.normal(size=6) for name in present}
        opt.update({name: params[name] for name in present}, grads)
        ref.update({name: twins[name] for name in present}, grads)
        for name in "abc":
            assert_same_bits(params[name], twins[name])


def test_lists_are_taken(rule):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n) for n in (3, 0, 40)]
    twins = [p.copy() for p in arrays]
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](), schuss.reference.OPTIMIZERS[rule]()
    for container in (list, tuple, list):
        grads = [rng.normal(size=p.shape) for p in arrays]
        opt.update(container(arrays), container(grads))
        ref.update(twins, grads)
        for p, twin in zip(arrays, twins, strict=True):
            assert_same_bits(p, twin)
    assert set(opt.state) == {0, 1, 2}


@pytest.mark.parametrize("mapping", [OrderedDict, UserDict, MappingProxyType])
def test_other_mappings_are_taken(mapping):
    arrays = {"a": np.zeros(3), "b": np.zeros(2)}
    schuss.SGD(lr=1).update(mapping(arrays), mapping({"b": np.ones(2), "a": np.ones(3)}))
    assert [p.tolist() for p in arrays.values()] == [[-1] * 3, [-1] * 2]


def test_a_mapping_that_copies_is_refused():
    class Copies(UserDict):
        def __getitem__(self, name):
            return super().__getitem__(name).copy()

    params = Copies(a=np.ones(3))
    with pytest.raises(TypeError, match=r"Copies gives another array at each access, so an update would be lost"):
        schuss.SGD().update(params, {"a": np.ones(3)})


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RuntimeError])
def test_what_a_scale_raises_of_itself_comes_through(error):
    """It is no wrong argument: Ctrl-C, too, may arrive while a number of the user's turns into a float."""

    class Scale:
        def __float__(self):
            raise error("from within")

    opt, params = schuss.SGD(), {"x": np.ones(3)}
    with pytest.raises(error, match="from within"):
        opt.update(params, {"x": np.ones(3)}, grad_scale=Scale())
    assert opt.t == 0
    assert params["x"].tolist() == [1] * 3


def test_a_scale_beyond_all_floats_is_named():
    with pytest.raises(TypeError, match=r"grad_scale must be a finite number, got 10{400}$"):
        schuss.SGD().update({"x": np.ones(3)}, {"x": np.ones(3)}, grad_scale=10**400)


@pytest.mark.parametrize("number", [float, np.float64, np.float32])
def test_floats_are_replaced(rule, number):
    """The textbook's comparison of paths trains two Python floats."""
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](), schuss.reference.OPTIMIZERS[rule]()
    params, twins = {"x": number(-7), "y": number(2)}, {"x": number(-7), "y": number(2)}
    for _ in range(20):
        opt.update(params, {"x": params["x"] / number(10), "y": number(2) * params["y"]})
        ref.update(twins, {"x": twins["x"] / number(10), "y": number(2) * twins["y"]})
        for name in params:
            assert type(params[name]) is number
            assert params[name] == twins[name]
    values = [number(1)]
    schuss.SGD(lr=1).update(values, [number(1)])
    assert values == [0.0]


def test_arrays_without_axes_change_in_place(rule, dtype):
    p = np.array(3.0, dtype)
    params = {"p": p}
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](), schuss.reference.OPTIMIZERS[rule]()
    twin = {"p": p.copy()}
    for gradient in (dtype(0.5), np.array(-0.25, dtype)):
        opt.update(params, {"p": gradient})
        ref.update(twin, {"p": gradient})
    assert params["p"] is p
    assert_same_bits(p, twin["p"])


def test_memory_maps_are_taken(tmp_path):
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(1000,))
    schuss.SGD(lr=1).update({"p": p}, {"p": np.ones(1000, np.float32)})
    p.flush()
    assert np.all(np.fromfile(tmp_path / "p", np.float32) == -1)
    with pytest.raises(ValueError, match="read-only"):
        schuss.SGD().update({"p": np.memmap(tmp_path / "p", np.float32, "r")}, {"p": np.ones(1000, np.float32)})


@pytest.mark.parametrize("rule", ELEMENTWISE)
def test_a_parameter_may_move_and_keeps_its_state(rule):
    """The same name with another array of its shape, as after loading weights: nothing goes by address."""
    rng = np.random.default_rng(0)
    opt, ref = schuss.optimizers.OPTIMIZERS[rule](), schuss.reference.OPTIMIZERS[rule]()
    p = rng.normal(size=(8, 9))
    for place in (np.array, np.asfortranarray, lambda a: np.repeat(a, 2, axis=0)[::2], np.array):
        mine, twin = {"p": place(p)}, {"p": p.copy()}
        grads = {"p": rng.normal(size=p.shape)}
        opt.update(mine, grads)
        ref.update(twin, grads)
        assert_same_bits(mine["p"], twin["p"])
        p = twin["p"]


class Reshaping(dict):
    """Gradients, of which the second changes the shape of what has been looked at: as another thread may."""

    def __init__(self, params, gradients, shape):
        super().__init__(gradients)
        self.params, self.shape, self.kept = params, shape, []

    def __getitem__(self, name):
        if name == "b":
            for p in self.params.values():
                p.shape = self.shape
                # NumPy frees the old shape; other arrays take its place.
                self.kept += [np.empty((7, 7, 7, 7, 7))[:0] for _ in range(50)]
        return super().__getitem__(name)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("shape", [(4, 3), (12,), (2, 3, 2), (1,) * 20 + (12,)])
def test_a_shape_that_changes_meanwhile(shape):
    """What has been looked at is what the update goes by: no shape is read that is no longer there."""
    for _ in range(20):
        params = {"a": np.ones((3, 4)), "b": np.ones(3)}
        grads = Reshaping({"a": params["a"]}, {"a": np.ones((3, 4)), "b": np.ones(3)}, shape)
        opt = schuss.SGD(lr=1.0)
        opt.update(params, grads)
        assert (params["a"] == 0).all()
        assert (params["b"] == 0).all()
        text = re.escape(f"grads['a'] has shape (3, 5), its parameter has shape {shape}")
        with pytest.raises(ValueError, match=text):
            opt.update(params, Reshaping({}, {"a": np.ones((3, 5)), "b": np.ones(3)}, shape))


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_a_shape_that_another_thread_changes():
    params, grads = {"a": np.ones((30, 40))}, {"a": np.ones((30, 40))}
    stop, shapes = threading.Event(), [(30, 40), (40, 30), (1200,), (2, 600)]

    def churn():
        while not stop.is_set():
            for shape in shapes:
                params["a"].shape = shape

    other = threading.Thread(target=churn, daemon=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other.start()
    opt, taken = schuss.SGD(lr=1.0), 0
    try:
        for _ in range(3000):
            try:
                opt.update(params, grads)
                taken += 1
            except ValueError as error:
                found = re.findall(r"its parameter has shape (\(.*?\))", str(error))
                assert found[0] in map(str, shapes), error  # noqa: PT017
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        other.join(60)
    assert opt.t == taken
    assert (params["a"] == 1 - taken).all()


@pytest.mark.parametrize("networks", [2, 8, 9])
def test_one_optimizer_for_several_networks_in_turn(networks, monkeypatch):
    """A plan is kept for each, up to eight, whose steps are those of a single network's optimizer."""
    plans, numbers_of = [], Groups.numbers_of
    monkeypatch.setattr(Groups, "numbers_of", lambda *given: plans.append(given) or numbers_of(*given))
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 2)]
    groups = {"W0": {"lr": 0.5}}
    models = [{f"W{i}": rng.normal(size=shape) for i, shape in enumerate(shapes)} for _ in range(networks)]
    twins = [{name: p.copy() for name, p in model.items()} for model in models]
    opt, ref = schuss.Momentum(lr=0.1, groups=groups), schuss.reference.Momentum(lr=0.1, groups=groups)
    for _ in range(4):
        for model, twin in zip(models, twins, strict=True):
            grads = {name: rng.normal(size=p.shape) for name, p in model.items()}
            opt.update(model, grads)
            ref.update(twin, grads)
    for model, twin in zip(models, twins, strict=True):
        for name, p in model.items():
            assert_same_bits(p, twin[name], name)
    assert len(plans) == networks if networks <= 8 else len(plans) == 4 * networks
    # What changes for all of them changes for each.
    opt.groups = {"W1": {"lr": 0.25}}
    ref.groups = {"W1": {"lr": 0.25}}
    for model, twin in zip(models, twins, strict=True):
        opt.update(model, grads)
        ref.update(twin, grads)
        for name, p in model.items():
            assert_same_bits(p, twin[name], name)
