"""Parameters in dicts, lists, tuples and dataclasses within each other, against the same ones in a flat dict."""

import copy
import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import schuss
from schuss.nested import by_path


@schuss.register_dataclass
@dataclass
class Affine:
    W: object
    b: object


Pair = namedtuple("Pair", ["first", "second"])


def networks(make):
    """As many ways to nest the same five arrays."""
    a, b, c, d, e = (make(shape) for shape in [(3, 4), (4,), (130,), (), (2, 2, 2)])
    yield "dicts of dicts", {"one": {"W": a, "b": b}, "two": {"deep": {"x": c}}, "s": d, "t": e}
    yield "lists of tuples", [(a, b), (c, d), [e]]
    yield "dataclasses", {"layers": [Affine(a, b), Affine(c, d)], "head": e}
    yield "dataclass of dicts", Affine({"x": a, "y": [b, c]}, (d, e))
    yield "other mappings", OrderedDict(p=MappingProxyType({"a": a, 3: b}), q=Pair([c], {"d": d, "e": e}))
    yield "empty ones", {"none": {}, "no": [], "all": [a, b, c, (), d, {}, e]}


NAMES = [name for name, _ in networks(np.zeros)]


def nest(name, make):
    return dict(networks(make))[name]


def drawn(seed):
    rng = np.random.default_rng(seed)
    return lambda shape: np.asarray(rng.normal(size=shape))


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_a_flat_dict(name):
    params = nest(name, drawn(0))
    twins = {path: p.copy() for path, p in by_path(params).items()}
    arguments = {"lr": 0.1, "clip_norm": 1.0, "ema": 0.9, "weight_decay": 0.1}
    one, two = schuss.Adam(**arguments), schuss.Adam(**arguments)
    for t in range(1, 4):
        grads = nest(name, drawn(t))
        one.update(params, grads)
        two.update(twins, by_path(grads))
        assert list(by_path(params)) == list(twins) == list(one.state)
        for path, p in by_path(params).items():
            np.testing.assert_array_equal(p, twins[path], path)
            for slot, array in two.state[path].items():
                np.testing.assert_array_equal(one.state[path][slot], array)


def test_paths_groups_and_averages():
    params = {"layers": [{"W": np.ones(2), "b": np.ones(1)}, {"W": np.ones(2), "b": np.ones(1)}], "head": np.ones(3)}
    grads = copy.deepcopy(params)
    opt = schuss.SGD(lr=0.5, ema=0.5, groups={"*/b": {"lr": 0.0}, "layers/1/*": {"lr": 0.25}})
    opt.update(params, grads)
    assert list(opt.ema_params) == ["layers/0/W", "layers/0/b", "layers/1/W", "layers/1/b", "head"]
    assert params["layers"][0]["W"][0] == 0.5
    assert params["layers"][0]["b"][0] == params["layers"][1]["b"][0] == 1
    assert params["layers"][1]["W"][0] == 0.75
    with pytest.raises(ValueError, match=r"groups\['\*/c'\] matches no parameter; there are layers/0/W"):
        schuss.SGD(groups={"*/c": {"lr": 0.1}}).update(params, grads)


def test_gradients_of_none_and_by_rows():
    params = {"e": {"table": np.ones((4, 2)), "b": np.ones(1)}, "f": [np.ones(2), np.ones(2)]}
    opt = schuss.Momentum(lr=0.5)
    rows = schuss.Rows(np.array([1]), np.ones((1, 2)))
    opt.update(params, {"e": {"table": rows, "b": None}, "f": None})
    opt.catch_up(params)
    opt.update(
        params, {"e": {"table": schuss.Rows(np.array([2]), np.ones((1, 2))), "b": None}, "f": [None, np.ones(2)]}
    )
    opt.catch_up(params)
    assert params["e"]["table"][1, 0] == 1 - 0.5 - 0.45
    assert params["e"]["table"][2, 0] == 0.5
    assert list(opt.state) == ["e/table", "f/1"]
    opt.catch_up(params, {"e/table": np.array([0])})


def test_the_learning_rate_is_asked_for_once():
    asked = []

    def rate(t):
        asked.append(t)
        return 0.1

    opt = schuss.SGD(lr=rate)
    for _ in range(3):
        opt.update({"a": [np.ones(2)]}, {"a": [np.ones(2)]})
    assert asked == [1, 2, 3]
    assert len(opt.state) in (0, 1)


class Copies(dict):
    """A mapping that makes a new array at each access."""

    def __getitem__(self, key):
        return np.array(super().__getitem__(key))


def refusals():
    a, g = np.ones(2), np.ones(2)
    yield {"a": {"x": a}}, {"a": {"y": g}}, ValueError, "grads lacks 'a/x', grads has 'a/y', which params lacks"
    yield {"a": [a, a]}, {"a": [g]}, ValueError, "grads lacks 'a/1'"
    yield {"a": [a]}, {"a": g}, TypeError, r"grads\['a'\] must be nested as params\['a'\] is, in a list; got ndarray"
    yield {"b": a, "a": {"x": 1.0}}, {"b": g, "a": {"x": 1.0}}, TypeError, r"params\['a/x'\] is a number within another"
    yield {"b": a, "a": [1.0, 2.0]}, {"b": g, "a": [1.0, 2.0]}, TypeError, "got list; make an array of it once"
    yield {"a/b": a, "a": {"b": a.copy()}}, {"a/b": g, "a": {"b": g}}, ValueError, "two parameters of the path 'a/b'"
    yield {"a": {1.5: a}}, {"a": {1.5: g}}, TypeError, "must be a string or a whole number"
    yield {"a": {"x": a}}, {"a": {"x": np.ones(3)}}, ValueError, r"grads\['a/x'\] has shape \(3,\)"
    yield {"b": a, "a": {"x": None}}, {"b": g, "a": {"x": g}}, TypeError, r"params\['a/x'\].*got NoneType"
    yield {"a": {"x": a}, "b": {"y": a}}, {"a": {"x": g}, "b": {"y": g}}, ValueError, "'a/x'.*'b/y'.*overlap"
    yield {"b": a, "a": Copies(x=a)}, {"b": g, "a": {"x": g}}, TypeError, "gives another array at each access"
    loop = {"x": a}
    loop["self"] = loop
    yield loop, loop, ValueError, "nested more than 50 deep"


@pytest.mark.parametrize("i", range(12))
def test_what_is_refused_has_changed_nothing(i):
    params, grads, error, text = list(refusals())[i]
    arrays = [each for each in flatly(params) if isinstance(each, np.ndarray)]
    opt = schuss.Adam(lr=0.1)
    with pytest.raises(error, match=text):
        opt.update(params, grads)
    assert opt.t == 0
    assert not opt.state
    assert arrays
    assert all((p == 1).all() for p in arrays)


def flatly(value, depth=3):
    if isinstance(value, (dict, list)) and depth:
        for each in value.values() if isinstance(value, dict) else value:
            yield from flatly(each, depth - 1)
    else:
        yield value


def test_a_flat_dict_is_not_walked(monkeypatch):
    """It costs nothing more: neither function is called, also where a float is replaced."""
    from schuss import nested

    def never(*_):
        raise AssertionError

    monkeypatch.setattr(nested, "by_path", never)
    params = {"a": np.ones(2), "x": 1.0}
    opt = schuss.SGD(lr=0.5)
    for _ in range(3):
        opt.update(params, {"a": np.ones(2), "x": 1.0})
    assert params["x"] == -0.5
    opt.update([np.ones(2)], [np.ones(2)])


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_restore_the_nesting(name, tmp_path):
    pytest.importorskip("safetensors", reason='safetensors is not installed: pip install ".[checkpoint]"')
    params = nest(name, drawn(0))
    opt = schuss.Adam(lr=0.1)
    opt.update(params, nest(name, drawn(1)))
    opt.save(tmp_path / "run.safetensors", params)
    again, found = schuss.load(tmp_path / "run.safetensors")
    assert shape_of(found) == shape_of(params)
    again.update(found, nest(name, drawn(2)))
    opt.update(params, nest(name, drawn(2)))
    for path, p in by_path(params).items():
        np.testing.assert_array_equal(by_path(found)[path], p)


def shape_of(value):
    """The containers, of which mappings come back as dicts, and named tuples as tuples."""
    if isinstance(value, Affine):
        return ("Affine", shape_of(value.W), shape_of(value.b))
    if isinstance(value, (dict, MappingProxyType)):
        return {key: shape_of(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(shape_of, value))
    if isinstance(value, list):
        return list(map(shape_of, value))
    return np.shape(value)


def broken():
    yield lambda nest: {"list": [0]}, "does not name each once"
    yield lambda nest: {"list": [0, 0, 1]}, "does not name each once"
    yield lambda nest: {"list": [0, 1, 7]}, "names none of them"
    yield lambda nest: {"list": [0, True, 1]}, "not known"
    yield lambda nest: "x", "not known"
    yield lambda nest: {"tuple": [0, 1], "list": []}, "not known"
    yield lambda nest: {"dict": [[1.5, 0], ["b", 1]]}, "a name that is none"
    yield lambda nest: {"dict": [["a"]]}, "checkpoint|run.safetensors"
    yield lambda nest: {"dataclass": "os.system", "fields": {"a": 0}}, "give that to schuss.register_dataclass"
    yield lambda nest: {"dataclass": f"{__name__}.Affine", "fields": {"W": 0, "c": 1}}, "has other fields"
    yield lambda nest: json.loads('{"list": [' * 60 + "0" + "]}" * 60), "too deep"


@pytest.mark.parametrize("i", range(11))
def test_nests_that_were_tampered_with(i, tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason='safetensors is not installed: pip install ".[checkpoint]"')
    change, text = list(broken())[i]
    from schuss import checkpoint

    params = {"a": [np.ones(2), np.ones(3)]}
    opt = schuss.SGD()
    monkeypatch.setattr(checkpoint, "nest_of", lambda params: change(None))
    opt.save(tmp_path / "run.safetensors", params)
    with pytest.raises(ValueError, match=text):
        schuss.load(tmp_path / "run.safetensors")


def test_what_can_be_registered():
    for wrong in (int, Affine(1, 2), "Affine"):
        with pytest.raises(TypeError, match="takes a dataclass"):
            schuss.register_dataclass(wrong)
    assert schuss.register_dataclass(Affine) is Affine

    @dataclass
    class Other:
        x: object

    Other.__qualname__, Other.__module__ = Affine.__qualname__, Affine.__module__
    with pytest.raises(ValueError, match="with other fields, has been registered"):
        schuss.register_dataclass(Other)

    @dataclass
    class NotRegistered:
        x: object

    with pytest.raises(TypeError, match=r"expected a numpy\.ndarray"):
        schuss.SGD().update({"a": NotRegistered(np.ones(2))}, {"a": NotRegistered(np.ones(2))})
