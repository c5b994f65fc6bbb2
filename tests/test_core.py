"""The functions of the compiled core by themselves: each checks whatever array it is given, before it touches one."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import _core, nn

LABELS = np.array([0, 2, 1, 0], np.int64)


def good():
    """For each function arguments that it takes; the arrays among them have four rows and three columns."""
    rows, columns = 4, 3
    matrix = np.arange(12.0).reshape(rows, columns)
    return {
        "stream": {"p": np.ones(8), "g": np.ones(8), "slots": [np.zeros(8), np.zeros(8)], "threads": 1, "repeats": 1},
        "bias_relu": {"y": matrix - 5, "b": np.ones(columns)},
        "relu_backward": {"d": matrix + 1, "y": matrix - 5, "db": np.ones(columns)},
        "softmax_loss": {"x": matrix, "t": LABELS, "d": np.zeros((rows, columns))},
        "softmax_loss with weights": {"x": matrix, "t": np.eye(4)[:, :3].copy(), "d": np.zeros((rows, columns))},
        "softmax_loss with weights of rows": {
            "x": matrix,
            "t": LABELS,
            "d": np.zeros((rows, columns)),
            "w": np.ones(rows),
        },
        "add_scaled": {"d": matrix + 1, "x": matrix, "factor": 0.5},
        "step": {
            "rule": "Momentum",
            "scalars": (0.1, 0.9),
            "p": np.ones(5),
            "g": np.ones(5),
            "slots": [("v", np.zeros(5))],
            "ratios": None,
            "pending": [],
        },
    }


def function(name):
    return getattr(_core, name.split(" ")[0])


# What is handed in where an array should be, made of the good one.
WRONG = {
    "a list": lambda a: a.tolist(),
    "a float": lambda a: 1.0,
    "nothing": lambda a: None,
    "an axis more": lambda a: a[None].copy(),
    "no axis": lambda a: np.array(1.0),
    "a row less": lambda a: a[:-1].copy(),
    "a row more": lambda a: np.concatenate([a, a[:1]]),
    "far too long": lambda a: np.ones((1000, *a.shape[1:]), a.dtype),
    "another number of columns": lambda a: np.ones((*a.shape[:-1], 100_000), a.dtype),
    "one element": lambda a: np.ones((1,) * a.ndim, a.dtype),
    "no element": lambda a: np.ones((0,) * a.ndim, a.dtype),
    "float32": lambda a: a.astype(np.float32),
    "int32": lambda a: a.astype(np.int32),
    "complex": lambda a: a.astype(complex),
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "Fortran order": lambda a: np.asfortranarray(np.ones((4, 3), a.dtype)) if a.ndim == 2 else a[::-1],
    "not aligned": lambda a: np.frombuffer(bytearray(a.nbytes + 1), np.uint8, offset=1).view(a.dtype).reshape(a.shape),
    "a broadcast one": lambda a: np.broadcast_to(a.dtype.type(1), a.shape),
    "a masked one": lambda a: np.ma.masked_array(a),
}
# What these functions take: the first argument has any number of rows, and a step follows any strides.
TAKEN = {
    ("bias_relu", "y", "a row less"),
    ("bias_relu", "y", "a row more"),
    ("bias_relu", "y", "far too long"),
    ("step", "every second"),
    ("step", "Fortran order"),
    ("step", "g", "a broadcast one"),
    ("softmax_loss with weights of rows", "w", "nothing"),
}
ARGUMENTS = [
    (name, argument)
    for name, arguments in good().items()
    for argument, value in arguments.items()
    if isinstance(value, (np.ndarray, list)) and argument != "pending"
]


def test_all_functions_that_take_arrays_are_here():
    """A new one has to be listed, so that it is tested; the others take numbers alone."""
    functions = {name for name, value in vars(_core).items() if inspect.isroutine(value)}
    assert functions == {name.split(" ")[0] for name in good()} | {
        *(
            "set_roots_by_products",
            "roots_by_products",
            "set_threads",
            "threads",
            "set_grain",
            "grain",
            "set_care",
            "care",
            "learn_rows",
            "learn_views",
            "learn_nested",
            "learn_tensors",
            "check",
        )
    }


@pytest.mark.parametrize("name", good())
def test_good_arguments_are_taken(name):
    function(name)(**good()[name])


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_wrong_arrays_are_refused(name, argument, kind):
    arguments = good()[name]
    value = arguments[argument]
    first = value if isinstance(value, np.ndarray) else value[-1][1] if name == "step" else value[-1]
    wrong = WRONG[kind](first)
    if name == "step" and argument == "slots":
        arguments[argument] = [(value[0][0], wrong)]
    else:
        arguments[argument] = wrong if isinstance(value, np.ndarray) else [*value[:-1], wrong]
    before = {each: np.array(a) for each, a in arguments.items() if isinstance(a, np.ndarray)}
    if {(name, kind), (name, argument, kind)} & TAKEN:
        function(name)(**arguments)
        return
    with pytest.raises((TypeError, ValueError)):
        function(name)(**arguments)
    for each, a in before.items():
        assert_same_bits(arguments[each].astype(a.dtype), a, each)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_what_is_written_must_be_writeable(name, argument):
    arguments = good()[name]
    value = arguments[argument]
    array = value if isinstance(value, np.ndarray) else value[-1][1] if name == "step" else value[-1]
    array.flags.writeable = False
    if argument in ("p", "slots", "d", "db") or (name, argument) == ("bias_relu", "y"):
        with pytest.raises(ValueError, match="is read-only"):
            function(name)(**arguments)
    else:
        function(name)(**arguments)


@pytest.mark.parametrize("label", [-1, 3, 2**40, -(2**62)])
def test_labels_are_within_the_classes(label):
    arguments = good()["softmax_loss"] | {"t": np.array([0, 1, label, 2])}
    with pytest.raises(ValueError, match=f"t: expected labels from 0 to 2, got {label}"):
        _core.softmax_loss(**arguments)
    with pytest.raises(ValueError, match="t: expected 4 labels, got 3"):
        _core.softmax_loss(**{**arguments, "t": LABELS[:3].copy()})
    with pytest.raises(ValueError, match="x: expected at least one column"):
        _core.softmax_loss(np.ones((2, 0)), np.ones((2, 0)), np.ones((2, 0)))


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1])
def test_threads_are_within_bounds(threads):
    arguments = good()["stream"] | {"threads": threads}
    with pytest.raises(ValueError, match=f"threads must be from 1 to 1024, got {threads}"):
        _core.stream(**arguments)
    with pytest.raises(ValueError, match="threads must be from 1 to 1024"):
        _core.set_threads(threads)
    for wrong in (2**31, 2**70, 1.5, "2", None):
        with pytest.raises(TypeError):
            _core.set_threads(wrong)


def test_slots_are_few():
    with pytest.raises(ValueError, match="slots: expected at most 4 arrays, got 5"):
        _core.stream(np.ones(3), np.ones(3), [np.ones(3) for _ in range(5)], 1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 127, 129, 1000])
def test_the_stream_goes_over_every_element_so_often(n, threads, dtype):
    g = np.arange(n, dtype=dtype)
    p, *slots = (np.full(n, i, dtype) for i in range(5))
    _core.stream(p, g, slots, threads, 3)
    for i, array in enumerate((p, *slots)):
        np.testing.assert_array_equal(array, i + 3 * g)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        _core.stream(p, g, slots, threads, 0)


# Through the layers.


def test_layers_with_wrong_shapes():
    layer = nn.Affine(np.ones((3, 4)), np.ones(4), relu=True)
    layer.forward(np.ones((2, 3)))
    for dout in (np.ones((2, 100_000)), np.ones((1000, 4)), np.ones((1, 4)), np.ones(4), np.ones((2, 4), np.float32)):
        with pytest.raises((ValueError, TypeError), match=r"y: expected|d: expected"):
            layer.backward(dout)
    layer.b = np.ones(1)
    with pytest.raises(ValueError, match=r"b: expected shape \(4\), got \(1,\)"):
        layer.forward(np.ones((2, 3)))


@pytest.mark.parametrize("b", [np.ones(1), np.ones(101), np.ones((1, 100)), np.ones(0)])
def test_a_network_whose_parameter_was_replaced_by_another_shape(b):
    net = nn.MultiLayerNet(6, [100], 3, seed=0)
    net.params["b1"] = b.astype(np.float32)
    with pytest.raises(ValueError, match=r"b: expected shape \(100\)"):
        net.gradient(np.ones((2, 6)), np.array([0, 1]))


def test_softmax_of_other_batches():
    layer = nn.SoftmaxWithLoss()
    with pytest.raises(ValueError, match="at least one column"):
        layer.forward(np.ones((2, 0)), np.ones((2, 0)))
    assert np.isfinite(layer.forward(np.ones((2, 3)), np.array([0, 1])))
    assert schuss.nn.softmax(np.ones((2, 3))).shape == (2, 3)
