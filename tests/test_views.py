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


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_arrays(kind):
    value = KINDS[kind](np.ones(3, np.float32))
    with pytest.raises(TypeError, match="params"):
        schuss.SGD(lr=1.0).update({"W": value}, {"W": np.ones(3, np.float32)})


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
