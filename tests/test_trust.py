"""What must not go wrong: memory that runs out, Ctrl-C, threads that interfere, other runtimes, and a long run."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits, assert_same_optimizers

LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux alone has these limits and /proc")


def python(script, timeout=120, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


@LINUX
def test_thin_memory_leaves_everything_as_it_was():
    """The state of the second parameter does not fit: nothing is stepped, no state is kept, and later all goes on."""
    assert python("""
import numpy as np, resource, schuss
n = 20_000_000
params = {"a": np.ones(10), "b": np.ones(n, np.float32)}
grads = {"a": np.ones(10), "b": np.broadcast_to(np.float32(1), n)}
opt = schuss.Adam(lr=1.0, ema=0.5)
opt.update({"a": params["a"]}, {"a": grads["a"]})
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (now + 2 * 4 * n + 4 * n // 2, limits[1]))
before = params["a"].copy()
try:
    opt.update(params, grads)
except MemoryError:
    assert opt.t == 1 and set(opt.state) == {"a"}
    assert (params["a"] == before).all() and (params["b"] == 1).all()
    print("refused")
resource.setrlimit(resource.RLIMIT_AS, limits)
opt.update(params, grads)
assert opt.t == 2 and (params["b"] < 1).all()
print("taken")
""") == ["refused", "taken"]


@LINUX
def test_memory_maps_larger_than_the_memory_of_the_process(tmp_path):
    """Parameters, gradients and state in files, four times what the process may have as memory of its own."""
    assert python(f"""
import numpy as np, resource, schuss
from schuss import reference
from schuss.functional import adam_
n = 16_000_000  # 64 MB each
arrays = [np.memmap(r"{tmp_path}/" + name, np.float32, "w+", shape=(n,)) for name in "pgmv"]
p, g, m, v = arrays
used = sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 64_000_000, resource.RLIM_INFINITY))
try:
    np.ones(4 * n, np.float32)
except MemoryError:
    print("limited")
opt, params = schuss.SGD(lr=0.5), {{"p": p}}
for i in range(0, n, 1_000_000):
    p[i : i + 1_000_000] = np.arange(i, i + 1_000_000) % 977
    g[i : i + 1_000_000] = np.arange(i, i + 1_000_000) % 13 - 6
opt.update(params, {{"p": g}})
for t in (1, 2, 3):
    adam_(p, g, m, v, t=t, lr=0.1, eps=1e-8)
for array in arrays:
    array.flush()
for i in (0, 7_777_000, n - 1000):
    at = np.arange(i, i + 1000)
    twin = {{"p": (at % 977).astype("f4")}}
    grad = (at % 13 - 6).astype("f4")
    reference.SGD(lr=0.5).update(twin, {{"p": grad}})
    ref = reference.Adam(lr=0.1, eps=1e-8)
    for t in (1, 2, 3):
        ref.update(twin, {{"p": grad}})
    saved = np.fromfile(r"{tmp_path}/p", np.float32, 1000, offset=4 * i)
    assert (saved == twin["p"]).all()
    assert (np.fromfile(r"{tmp_path}/v", np.float32, 1000, offset=4 * i) == ref.state["p"]["v"]).all()
print("equal")
""") == ["limited", "equal"]


@pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="no interval timer on this system")
def test_ctrl_c_leaves_a_completed_update():
    import signal

    params, grads = {"p": np.zeros(20_000_000)}, {"p": np.ones(20_000_000)}
    opt = schuss.Momentum(lr=1.0, momentum=0.0)
    opt.update(params, grads)
    interrupted = 0
    for delay in np.linspace(0.001, 0.012, 12):
        done = opt.t
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, delay)
            opt.update(params, grads)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert opt.t in (done, done + 1)
        assert (params["p"] == -opt.t).all()
        assert (opt.state["p"]["v"] == -1).all()
    assert interrupted > 0


def test_arrays_that_another_thread_lets_go_of():
    """The dicts lose and regain their arrays while updates run: each update works on arrays that live."""
    params, grads, stop = {}, {}, threading.Event()
    opt = schuss.Adam(lr=0.1)

    def fill():
        for i in range(5):
            grads[i], params[i] = np.ones(3000), np.ones(3000)

    def churn():
        while not stop.is_set():
            for i in range(5):
                params[i], grads[i] = np.ones(3000), np.ones(3000)
            gc.collect(0)

    fill()
    other = threading.Thread(target=churn, daemon=True)
    other.start()
    for _ in range(2000):
        opt.update(params, grads)
    stop.set()
    other.join(timeout=60)
    assert not other.is_alive()
    assert opt.t == 2000
    assert all(np.isfinite(p).all() for p in params.values())


def test_dicts_that_another_thread_changes():
    """Names come and go during updates: each one is taken whole or refused for names that do not pair."""
    params, grads, stop = {"a": np.zeros(3000)}, {"a": np.ones(3000)}, threading.Event()
    opt = schuss.SGD(lr=1.0)

    def churn():
        while not stop.is_set():
            for i in range(20):
                grads[i], params[i] = np.ones(10), np.ones(10)
            for i in range(20):
                params.pop(i), grads.pop(i)

    other = threading.Thread(target=churn, daemon=True)
    other.start()
    taken = 0
    for _ in range(3000):
        try:
            opt.update(params, grads)
            taken += 1
        except (ValueError, RuntimeError):
            pass
    stop.set()
    other.join(timeout=60)
    assert not other.is_alive()
    assert opt.t == taken
    assert (params["a"] == -taken).all()


def test_keys_of_any_kind():
    keys = [0, "W", ("W", 1), None, 2.5, frozenset({1}), b"b"]
    params, grads = {key: np.zeros(3) for key in keys}, {key: np.ones(3) for key in reversed(keys)}
    opt = schuss.Momentum(lr=1.0, groups={"W": {"lr": 2.0}})
    opt.update(params, grads)
    assert {key: p[0] for key, p in params.items()} == {key: -2.0 if key == "W" else -1.0 for key in keys}
    assert set(opt.state) == set(keys)
    with pytest.raises(ValueError, match=r"grads\[\('W', 1\)\] has shape \(2,\)"):
        opt.update(params, {**grads, ("W", 1): np.ones(2)})


class Broken(str):
    """A name that cannot be compared."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        raise RuntimeError("no comparison")


def test_keys_that_raise_change_nothing():
    params = {"a": np.zeros(3), Broken("b"): np.zeros(3)}
    with pytest.raises(RuntimeError, match="no comparison"):
        schuss.SGD(lr=1.0).update(params, {"a": np.ones(3), "b": np.ones(3)})
    assert all(p.sum() == 0 for p in params.values())


@pytest.mark.parametrize("shape", [(1,) * 64, (1,) * 50 + (2,) * 14, (2,) * 12 + (1,) * 52])
def test_arrays_of_64_axes(shape, dtype):
    rng = np.random.default_rng(0)
    p, g = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    turned = np.asarray(g.transpose()).reshape(shape)
    params, twins = {"p": p.copy(), "q": p.T.copy().T}, {"p": p.copy(), "q": p.copy()}
    opt, ref = schuss.Adam(), schuss.reference.Adam()
    for _ in range(3):
        opt.update(params, {"p": g, "q": turned})
        ref.update(twins, {"p": g, "q": turned})
    for name in params:
        assert_same_bits(params[name], twins[name])


def test_more_elements_than_32_bits_count(thorough):
    n = 2**31 + 9
    params = {"p": np.zeros(n, np.float32)}
    schuss.SGD(lr=1.0).update(params, {"p": np.broadcast_to(np.float32(1), n)})
    for part in np.array_split(params["p"], 64):
        assert (part == -1).all()
    params["p"][...] = 0
    schuss.SGD(lr=1.0, clip_value=0.5).update(params, {"p": np.broadcast_to(np.float32(1), n)})
    assert (params["p"][-10:] == -0.5).all()
    assert (params["p"][2**31 - 5 : 2**31 + 5] == -0.5).all()


# Other runtimes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_joblib_workers():
    joblib = pytest.importorskip("joblib", reason="joblib is not installed (comes with scikit-learn)")

    def work(seed):
        params = {"p": np.zeros(300_000)}
        schuss.SGD(lr=1.0).update(params, {"p": np.full(300_000, float(seed))})
        return params["p"].sum()

    schuss.SGD().update({"p": np.ones(300_000)}, {"p": np.ones(300_000)})
    found = joblib.Parallel(n_jobs=2, timeout=120)(joblib.delayed(work)(seed) for seed in range(4))
    assert found == [-300_000.0 * seed for seed in range(4)]


class Batches:
    """A data set whose worker takes steps of its own, as one that augments or denoises would."""

    def __len__(self):
        return 8

    def __getitem__(self, i):
        params = {"p": np.zeros(100_000)}
        schuss.SGD(lr=1.0).update(params, {"p": np.full(100_000, -float(i))})
        return params["p"][:3]


def loaded_by_processes():
    """What a DataLoader does: workers are forked anew for each pass, and their batches come through a queue."""
    context = multiprocessing.get_context("fork")
    orders, results = context.Queue(), context.Queue()

    def work():
        for i in iter(orders.get, None):
            results.put((i, Batches()[i]))

    workers = [context.Process(target=work, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for i in [*range(8), None, None]:
        orders.put(i)
    try:
        for _ in range(8):
            yield results.get(timeout=60)
    finally:
        for worker in workers:
            worker.join(timeout=60)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("loader", ["processes", "torch"])
def test_workers_that_load_data_between_updates(loader):
    if loader == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
        batches = torch.utils.data.DataLoader(Batches(), num_workers=2, multiprocessing_context="fork", timeout=60)
    schuss.set_num_threads(2, grain=1)
    params, opt = {"p": np.zeros(200_000)}, schuss.SGD(lr=1.0)
    for _ in range(3):
        for i, batch in loaded_by_processes() if loader == "processes" else enumerate(batches):
            assert (np.asarray(batch) == i).all()
            opt.update(params, {"p": np.full(200_000, float(i))})
    assert_same_bits(params["p"], np.full(200_000, -84.0))


@LINUX
def test_limits_of_threadpoolctl_are_heeded():
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed (comes with scikit-learn)")
    script = """
import os, numpy as np, schuss, threadpoolctl
if schuss._core.openmp == "none":
    raise SystemExit(print(0, 0, 0))
schuss.set_num_threads(2, grain=1)
count = lambda: len(os.listdir("/proc/self/task"))
params, grads = {"p": np.zeros(100_000)}, {"p": np.ones(100_000)}
opt = schuss.SGD(lr=1.0)
before = count()
with threadpoolctl.threadpool_limits(1):
    opt.update(params, grads)
    print(count() - before)
opt.update(params, grads)
print(count() - before, int(-params["p"][0]) - 2)
"""
    openmp = schuss._core.openmp != "none"
    assert python(script, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="1") == ["0", "1" if openmp else "0", "0"]


@pytest.mark.parametrize("limit", ["1", "2", "3"])
def test_the_thread_limit_of_openmp_is_heeded(limit):
    script = """
import numpy as np, schuss
schuss.set_num_threads(7, grain=1)
params = {"p": np.zeros(100_003)}
schuss.SGD(lr=1.0).update(params, {"p": np.ones(100_003)})
print(int(-params["p"].sum()))
"""
    assert python(script, OMP_THREAD_LIMIT=limit) == ["100003"]


@pytest.mark.parametrize("other", ["torch", "sklearn.linear_model", "numba"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_beside_other_runtimes(other, first):
    if importlib.util.find_spec(other.split(".")[0]) is None:
        pytest.skip(f"{other} is not installed (extra bench)")
    imports = [f"import {other}", "import schuss"]
    script = (
        "\n".join(imports if first else reversed(imports))
        + """
import numpy as np
schuss.set_num_threads(2, grain=1)
params = {"p": np.zeros(200_000)}
for _ in range(20):
    schuss.SGD(lr=1.0).update(params, {"p": np.ones(200_000)})
    np.ones((300, 300)) @ np.ones((300, 300))
print(int(-params["p"].sum()))
"""
    )
    assert python(script) == ["4000000"]


# The long run.


def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@LINUX
def test_soak(request):
    """Random arrays appear, vanish and change their layout: memory stays flat, and all equals the reference."""
    steps = 100_000 if request.config.getoption("--thorough") else 2_000
    rng = np.random.default_rng(0)
    opt, ref = schuss.Adam(lr=0.01, ema=0.9), schuss.reference.Adam(lr=0.01, ema=0.9)
    shapes = {name: tuple(rng.integers(1, 12, rng.integers(0, 4))) for name in range(30)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    twins = {name: p.copy() for name, p in params.items()}
    forms = (np.array, lambda a: np.array(a, order="F"), lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim else a.copy())
    high = 0
    for step in range(steps):
        present = [name for name in params if rng.random() < 0.3]
        for name in present[:2]:
            params[name] = forms[rng.integers(3)](params[name])
        grads = {name: rng.normal(size=shapes[name]) for name in present}
        opt.update({name: params[name] for name in present}, grads)
        ref.update({name: twins[name] for name in present}, grads)
        if step % 500 == 499:
            for name, p in params.items():
                assert_same_bits(p, twins[name], f"{name} after step {step}")
            assert_same_optimizers(opt, ref)
            if step < steps // 2:
                high = max(high, memory())
            else:
                assert memory() < high + (4 << 20)
