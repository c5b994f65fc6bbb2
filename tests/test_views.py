"""Gradients that are no arrays, but whose memory NumPy can look into, against the same numbers in arrays."""

import array
import ctypes
import tracemalloc

import numpy as np
import pytest
import schuss


class Interface:
    """What has __array_interface__ alone."""

    def __init__(self, held):
        self.held = held
        self.__array_interface__ = held.__array_interface__


class DLPack:
    """What has DLPack alone."""

    def __init__(self, held):
        self.held = held

    def __dlpack__(self, **how):
        return self.held.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.held.__dlpack_device__()


class OnlyArray:
    """What NumPy can only have by asking for an array, which may be a copy."""

    def __init__(self, held):
        self.held = held

    def __array__(self, dtype=None, copy=None):
        return self.held


def of_ctypes(held):
    return (ctypes.c_float * held.size)(*held.tolist()) if held.ndim == 1 else memoryview(held)


def of_torch(held):
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install ".[torch]"')
    return torch.from_numpy(held.copy())


def of_jax(held):
    jax = pytest.importorskip("jax", reason='jax is not installed: pip install ".[parity]"')
    return jax.numpy.array(held)


def of_arrow(held):
    pyarrow = pytest.importorskip("pyarrow", reason='pyarrow is not installed: pip install ".[parity]"')
    if held.ndim != 1:
        pytest.skip("Arrow's arrays have one axis")
    return pyarrow.array(held)


KINDS = {
    "memoryview": memoryview,
    "array.array": lambda held: array.array("f", held.tolist()) if held.ndim == 1 else memoryview(held),
    "ctypes": of_ctypes,
    "__array_interface__": Interface,
    "__dlpack__": DLPack,
    "torch": of_torch,
    "jax": of_jax,
    "arrow": of_arrow,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7,), (1025,), (5, 33)])
def test_steps_are_those_of_arrays(kind, shape):
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype(np.float32)
    a, b = {"W": start.copy(), "b": np.ones(3)}, {"W": start.copy(), "b": np.ones(3)}
    options = {"lr": 0.1, "weight_decay": 0.1, "clip_norm": 2.0}
    one, two = schuss.Adam(**options), schuss.Adam(**options)
    for _ in range(3):
        g = rng.normal(size=shape).astype(np.float32)
        given, kept = KINDS[kind](g), g.copy()
        one.update(a, {"W": given, "b": np.ones(3)}, grad_scale=0.5)
        two.update(b, {"W": kept, "b": np.ones(3)}, grad_scale=0.5)
        assert a["W"].tobytes() == b["W"].tobytes()
        for slot in ("m", "v"):
            assert one.state["W"][slot].tobytes() == two.state["W"][slot].tobytes()
        assert np.array_equal(g, kept)


def test_over_ranks():
    """Also where there is one of them."""
    pytest.importorskip("mpi4py", reason='mpi4py is not installed: pip install ".[mpi]"')
    params = {"W": np.zeros(3), "b": np.zeros(2)}
    opt = schuss.mpi.Sharded(schuss.SGD(lr=1.0))
    opt.update(params, {"W": memoryview(np.ones(3)), "b": None})
    opt.update(params, {"W": DLPack(np.ones(3)), "b": None})
    np.testing.assert_array_equal(params["W"], [-2, -2, -2])


@pytest.mark.parametrize("kind", ["memoryview", "__array_interface__", "__dlpack__"])
def test_nothing_is_copied(kind):
    params = {"W": np.zeros(10**6, np.float32)}
    given = KINDS[kind](np.ones(10**6, np.float32))
    opt = schuss.SGD(lr=1.0)
    opt.update(params, {"W": given})
    tracemalloc.start()
    opt.update(params, {"W": given})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**5
    assert (params["W"] == -2).all()


def test_strided_and_float64():
    base = np.arange(24.0).reshape(4, 6)
    params = {"W": np.zeros((6, 2))}
    schuss.SGD(lr=1.0).update(params, {"W": DLPack(base.T[:, ::2])})
    np.testing.assert_array_equal(params["W"], -base.T[:, ::2])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: [1.0, 2.0], "pass numpy.asarray"),
        (lambda: OnlyArray(np.ones(2, np.float32)), "expected a numpy.ndarray"),
        (lambda: np.ma.ones(2, np.float32), "may mean more than its numbers"),
        (lambda: memoryview(np.ones(2, np.int32)), "expected dtype"),
        (lambda: b"12345678", "expected dtype"),
        (lambda: array.array("d", [1, 2]), r"grads\['W'\] is float64, its parameter is float32"),
        (lambda: DLPack(np.ones(2, np.complex64)), "expected dtype"),
    ],
)
def test_what_would_need_a_copy_is_refused(make, text):
    params = {"W": np.ones(2, np.float32)}
    with pytest.raises(TypeError, match=text):
        schuss.SGD(lr=1.0).update(params, {"W": make()})
    assert (params["W"] == 1).all()


WRITABLE = ["memoryview", "array.array", "ctypes", "__array_interface__", "__dlpack__"]


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("rule", ["Adam", "LAMB", "Muon"])
def test_parameters_that_can_be_written(kind, rule):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 9) if kind not in ("array.array", "ctypes") else 36).astype(np.float32)
    if rule == "Muon" and start.ndim == 1:
        pytest.skip("Muon steps matrices")
    given = KINDS[kind](start.copy())
    memory = np.asarray(memoryview(given)) if kind in ("array.array", "ctypes", "memoryview") else given.held
    wanted = {"W": start.copy()}
    one, two = (getattr(schuss, rule)(lr=0.1, ema=0.9) for _ in range(2))
    for container in ({"W": given}, [given], {"layers": [{"W": given}]}):
        for _ in range(2):
            g = rng.normal(size=start.shape).astype(np.float32)
            one.update(container, [g] if isinstance(container, list) else _like(container, g))
            two.update({"W": wanted["W"]} if "W" in container else _like(container, wanted["W"]), _like(container, g))
            assert memory.tobytes() == wanted["W"].tobytes()


def _like(container, leaf):
    """The same nesting with another leaf."""
    if isinstance(container, dict):
        return {key: _like(value, leaf) for key, value in container.items()}
    return [_like(value, leaf) for value in container] if isinstance(container, list) else leaf


def test_rows_of_a_parameter_that_is_no_array():
    held, kept = np.ones((6, 2), np.float32), {"E": np.ones((6, 2), np.float32)}
    params = {"E": Interface(held)}
    one, two = schuss.Adam(lr=0.1), schuss.Adam(lr=0.1)
    for rows in ([1, 4], [0, 4], [5]):
        grad = schuss.Rows(np.array(rows), np.ones((len(rows), 2), np.float32))
        one.catch_up(params, {"E": rows})
        one.update(params, {"E": grad})
        two.catch_up(kept, {"E": rows})
        two.update(kept, {"E": grad})
    one.catch_up(params)
    two.catch_up(kept)
    assert held.tobytes() == kept["E"].tobytes()


def test_a_mapping_that_makes_them_anew_would_lose_the_update():
    class Fresh(dict):
        def __getitem__(self, key):
            return array.array("f", super().__getitem__(key))

    with pytest.raises(TypeError, match="gives another array at each access"):
        schuss.SGD().update(Fresh(W=[1.0, 2.0]), {"W": np.ones(2, np.float32)})


@pytest.mark.parametrize("kind", ["memoryview", "__array_interface__", "__dlpack__"])
def test_parameters_that_are_read_only(kind):
    held = np.ones(3, np.float32)
    held.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\['W'\]: is read-only"):
        schuss.SGD(lr=1.0).update({"W": KINDS[kind](held)}, {"W": np.ones(3, np.float32)})
    assert (held == 1).all()


@pytest.mark.parametrize(
    ("kind", "error", "text"), [("jax", ValueError, "read-only"), ("arrow", ValueError, "read-only")]
)
def test_parameters_that_are_constant(kind, error, text):
    value = KINDS[kind](np.ones(3, np.float32))
    with pytest.raises(error, match=text):
        schuss.SGD(lr=1.0).update({"W": value}, {"W": np.ones(3, np.float32)})


def test_tensors_are_for_schuss_torch():
    """A step on their memory would go past their counts of changes."""
    value = of_torch(np.ones(3, np.float32))
    with pytest.raises(TypeError, match=r"params\['W'\].*schuss.torch has the optimizers for tensors"):
        schuss.SGD(lr=1.0).update({"W": value}, {"W": np.ones(3, np.float32)})
    assert value.tolist() == [1, 1, 1]


def test_a_parameter_that_shares_memory_with_its_gradient():
    held = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="overlap"):
        schuss.SGD(lr=1.0).update({"W": memoryview(held)}, {"W": memoryview(held)})


def test_tensors_that_are_not_their_memory():
    torch = pytest.importorskip("torch", reason='torch is not installed: pip install ".[torch]"')
    params = {"W": np.zeros(3, np.float32)}
    opt = schuss.SGD(lr=1.0)
    for value in (
        torch.ones(3, requires_grad=True),
        torch.ones(3, dtype=torch.cfloat).conj().imag,
        torch.eye(3).to_sparse()[0],
    ):
        with pytest.raises(TypeError, match=r"grads\['W'\]"):
            opt.update(params, {"W": value})
    assert (params["W"] == 0).all()


def test_an_error_of_the_value_passes():
    class Broken:
        def __dlpack__(self, **how):
            raise KeyboardInterrupt

        def __dlpack_device__(self):
            return (1, 0)

    params = {"W": np.zeros(3, np.float32)}
    with pytest.raises(KeyboardInterrupt):
        schuss.SGD(lr=1.0).update(params, {"W": Broken()})
    assert (params["W"] == 0).all()
