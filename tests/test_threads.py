"""Thread counts and their sources; updates from many threads and after a fork."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import _core, threads

needs_openmp = pytest.mark.skipif(_core.openmp == "none", reason="this build has no OpenMP: all is serial")


def info_with(**environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("SCHUSS_NUM_THREADS", "OMP_NUM_THREADS")}
    command = "import json, schuss; i = schuss.info(); print(json.dumps([i['threads'], i['threads_from']]))"
    return subprocess.run([sys.executable, "-c", command], env={**clean, **environment}, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SCHUSS_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, [5, "SCHUSS_NUM_THREADS"]),
        ({"OMP_NUM_THREADS": "3"}, [3, "OMP_NUM_THREADS"]),
        ({"OMP_NUM_THREADS": "4,2"}, [4, "OMP_NUM_THREADS"]),
        ({"SCHUSS_NUM_THREADS": "", "OMP_NUM_THREADS": "6"}, [6, "OMP_NUM_THREADS"]),
    ],
)
def test_the_environment_decides(environment, expected):
    assert json.loads(info_with(**environment).stdout) == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_an_error_at_import(value):
    done = info_with(SCHUSS_NUM_THREADS=value)
    assert done.returncode != 0
    message = f"SCHUSS_NUM_THREADS must be a whole number from 1 to 1024, got '{value}'"
    assert done.stderr.strip().splitlines()[-1] == f"ImportError: {message}"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks on this system")
def test_the_affinity_mask_decides():
    command = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import schuss; i = schuss.info(); print(i['threads'], i['threads_from'])"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("SCHUSS_NUM_THREADS", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", command], env=clean, capture_output=True, text=True)
    assert done.stdout.strip() == "1 CPU affinity"


def fake_cgroup(root: Path, lines: list[str], files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("lines", "files", "expected"),
    [
        (["0::/"], {"cpu.max": "150000 100000"}, 1.5),
        (["0::/"], {"cpu.max": "max 100000"}, None),
        (
            ["0::/a/b"],
            {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"},
            3.0,
        ),
        (["0::/a/b"], {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3.0),
        (["0::/host/path/unseen"], {"cpu.max": "200000 100000"}, 2.0),
        (
            ["3:cpu,cpuacct:/x", "1:memory:/x"],
            {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (["3:cpu:/x"], {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        (["1:memory:/x"], {"cpu.max": "100000 100000"}, None),
        (["0::/"], {"cpu.max": "nonsense"}, None),
        ([], {}, None),
    ],
)
def test_the_cgroup_quota_is_read(tmp_path, lines, files, expected):
    if not lines:
        assert threads._cgroup_quota(tmp_path) is None
    else:
        assert threads._cgroup_quota(fake_cgroup(tmp_path, lines, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.7, 2), (0.5, 1), (16.0, 8)])
def test_the_smaller_of_mask_and_quota_decides(monkeypatch, quota, expected):
    for name in ("SCHUSS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_usable_cpus", lambda: 8)
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: quota)
    assert threads._decide()[0] == expected


def test_an_explicit_number_goes_first():
    schuss.set_num_threads(3)
    assert schuss.get_num_threads() == schuss.info()["threads"] == 3
    assert schuss.info()["threads_from"] == "set_num_threads()"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": -2}, ValueError, "n must be at least 1, got -2"),
        ({"n": 1.5}, TypeError, "n must be an int, got 1.5"),
        ({"n": True}, TypeError, "n must be an int"),
        ({"n": 2, "grain": 0}, ValueError, "grain must be at least 1"),
    ],
)
def test_bad_thread_settings_are_refused(arguments, error, match):
    before = schuss.get_num_threads(), _core.grain()
    with pytest.raises(error, match=match):
        schuss.set_num_threads(**arguments)
    assert before == (schuss.get_num_threads(), _core.grain())


THREADS_DURING_AN_UPDATE = """
import numpy as np, schuss, threading
from pathlib import Path
schuss.set_num_threads(2, grain=%d)
def count():
    return len(list(Path("/proc/self/task").iterdir()))
params, grads = {"p": np.ones(%d)}, {"p": np.ones(%d)}
before = count()
schuss.SGD().update(params, grads)
print(count() - before)
"""


@needs_openmp
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(("grain", "size", "started"), [(1 << 20, 1000, 0), (1, 100_000, 1), (1 << 20, 10**6, 1)])
def test_small_work_starts_no_thread(grain, size, started):
    """libgomp keeps its threads after a region, so those that an update started can be counted."""
    script = THREADS_DURING_AN_UPDATE % (grain, size, size)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == started


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no GIL here")
def test_the_gil_is_released():
    """While one thread is inside of a long update, another one runs Python."""
    params, grads = {"p": np.ones(10_000_000)}, {"p": np.ones(10_000_000)}
    opt = schuss.Adam()
    opt.update(params, grads)
    schuss.set_num_threads(1)
    inside, ran = threading.Event(), []
    other = threading.Thread(target=lambda: inside.wait() and ran.append(True))
    other.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # from here on the other thread runs only if this one lets go of the GIL
    try:
        inside.set()
        before = len(ran)
        opt.update(params, grads)
        after = len(ran)
    finally:
        sys.setswitchinterval(interval)
        other.join()
    assert (before, after) == (0, 1)


def test_threads_with_an_optimizer_each():
    rng = np.random.default_rng(0)
    grads = [{"p": rng.normal(size=5000)} for _ in range(50)]
    expected = {"p": np.zeros(5000)}
    reference = schuss.reference.Adam()
    for g in grads:
        reference.update(expected, g)
    results = [{"p": np.zeros(5000)} for _ in range(8)]

    def work(params):
        opt = schuss.Adam()
        for g in grads:
            opt.update(params, g)

    run_all([threading.Thread(target=work, args=(params,)) for params in results])
    for params in results:
        assert_same_bits(params["p"], expected["p"])


def test_threads_on_one_optimizer_take_turns():
    """All of 8 x 200 equal steps are made, none is lost and none is torn."""
    params, grads = {"p": np.zeros(3000)}, {"p": np.ones(3000)}
    opt = schuss.SGD(lr=1.0)

    def work():
        for _ in range(200):
            opt.update(params, grads)

    run_all([threading.Thread(target=work) for _ in range(8)])
    assert opt.t == 1600
    assert_same_bits(params["p"], np.full(3000, -1600.0))


def test_threads_that_make_the_first_step_share_one_state():
    for _ in range(200):
        params, grads, start = {"p": np.zeros(4)}, {"p": np.ones(4)}, threading.Barrier(4)
        opt = schuss.SGD(lr=1.0)

        def work(opt=opt, params=params, grads=grads, start=start):
            start.wait()
            opt.update(params, grads)

        run_all([threading.Thread(target=work) for _ in range(4)])
        assert (opt.t, params["p"].tolist()) == (4, [-4.0] * 4)


def test_changes_by_another_thread_wait_for_the_update():
    """Options and groups change, and copies and saved states are taken, between updates: never within one."""
    params, grads = {"a": np.zeros(100_000), "b": np.zeros(100_000)}, {"a": np.ones(100_000), "b": np.ones(100_000)}
    opt, stop, torn = schuss.Momentum(lr=1.0, momentum=0.0), threading.Event(), []
    opt.update(params, grads)

    def change():
        for i in range(10**9):
            if stop.is_set():
                return
            opt.maximize = i % 3 == 0
            opt.groups = {"a": {"momentum": 0.0}} if i % 2 else {"a": {"lr": 1.0}, "b": {"lr": 1.0}}
            # With these arguments the state is one of two numbers, everywhere.
            for state in (opt.state_dict()["state"], copy.deepcopy(opt).state):
                found = [slots["v"] for slots in state.values()]
                torn.extend(v for v in found if abs(v[0]) != 1 or (v != v[0]).any())

    worker = threading.Thread(target=change, daemon=True)
    worker.start()
    for _ in range(1000):
        opt.update(params, grads)
    stop.set()
    worker.join(timeout=60)
    assert not worker.is_alive(), "deadlock"
    assert opt.t == 1001
    assert torn == []


def run_all(workers):
    for worker in workers:
        worker.daemon = True
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert not worker.is_alive(), "deadlock"


def test_an_update_within_an_update_is_an_error():
    opt, params = schuss.SGD(), {"p": np.ones(2)}
    opt.lr = lambda t: opt.update(params, {"p": np.ones(2)}) or 0.1
    with pytest.raises(RuntimeError, match="from within an update"):
        opt.update(params, {"p": np.ones(2)})
    opt.lr = 1.0
    opt.update(params, {"p": np.ones(2)})
    assert params["p"].tolist() == [0, 0]


def test_changes_from_within_an_update_are_an_error():
    opt, params = schuss.SGD(), {"p": np.ones(2)}

    def change(t):
        opt.maximize = True
        return 0.1

    opt.lr = change
    with pytest.raises(RuntimeError, match="from within an update"):
        opt.update(params, {"p": np.ones(2)})
    assert (opt.maximize, opt.t, params["p"].tolist()) == (False, 0, [1, 1])


FORK_DURING_AN_UPDATE = """
import os, threading
import numpy as np, schuss
params, grads = {"p": np.ones(20_000_000)}, {"p": np.ones(20_000_000)}
opt = schuss.Adam()
opt.update(params, grads)
inside = threading.Event()
def lr(t):
    inside.set()
    return 0.1
opt.lr = lr
thread = threading.Thread(target=opt.update, args=(params, grads))
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    try:
        opt.update(params, grads)
    except RuntimeError as error:
        print(error, flush=True)
    other = schuss.SGD(lr=1.0)
    params = {"q": np.ones(3)}
    other.update(params, params | {"q": np.ones(3)})
    print(params["q"], flush=True)
    os._exit(0)
os.waitpid(child, 0)
thread.join()
print(opt.t)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_during_another_threads_update_does_not_hang_the_child():
    command = [sys.executable, "-W", "ignore", "-c", FORK_DURING_AN_UPDATE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    first, *rest = done.stdout.splitlines()
    assert "under way in another thread when this process was forked" in first
    assert rest == ["[0. 0. 0.]", "2"]


DAEMONS = """
import threading, time
import numpy as np, schuss
def work():
    params, grads, opt = {{"p": np.zeros({0})}}, {{"p": np.ones({0})}}, schuss.SGD()
    while True:
        opt.update(params, grads)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
print("end")
"""


@pytest.mark.parametrize("size", [10, 20_000, 2_000_000])
def test_daemon_threads_do_not_spoil_the_end_of_the_process(size):
    done = subprocess.run([sys.executable, "-c", DAEMONS.format(size)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def step_once(queue):
    params = {"p": np.ones(200_000)}
    schuss.SGD(lr=1.0).update(params, {"p": np.full(200_000, 3.0)})
    queue.put(float(params["p"].sum()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_child_process_can_step_after_its_parent(method):
    schuss.set_num_threads(2, grain=1)
    schuss.SGD().update({"p": np.ones(200_000)}, {"p": np.ones(200_000)})
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=step_once, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == -400_000
    child.join(timeout=60)
    assert child.exitcode == 0


BOUNDS = """
import numpy as np, schuss
for n in (1025, 100_000, 10**9, 10**30):
    try:
        schuss.set_num_threads(n)
    except ValueError as error:
        print(error)
schuss.set_num_threads(1024, grain=1)
params = {"p": np.zeros((1000, 1000))[:, ::2]}
schuss.Adam(lr=1.0, eps=0.0).update(params, {"p": np.ones((1000, 500))})
assert np.allclose(params["p"], -1)
"""


def test_more_threads_than_can_be_started_are_refused():
    done = subprocess.run([sys.executable, "-c", BOUNDS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"n must be at most 1024, got {n}" for n in (1025, 100_000, 10**9, 10**30)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("99999999999", "CPU affinity"),
        ("9" * 5000, "CPU affinity"),
        ("\u0662", "CPU affinity"),
        ("1_0", "CPU affinity"),
        ("100000", "OMP_NUM_THREADS"),
        ("3,2", "OMP_NUM_THREADS"),
    ],
)
def test_what_openmp_could_not_read_is_ignored(monkeypatch, value, expected):
    monkeypatch.delenv("SCHUSS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    monkeypatch.setattr(threads, "_cgroup_quota", lambda: None)
    number, source = threads._decide()
    assert source == expected
    assert number == {"100000": 1024, "3,2": 3}.get(value, threads._usable_cpus())


@pytest.mark.parametrize("value", ["1025", "9" * 5000, "\u0662"])
def test_our_own_variable_is_bounded(monkeypatch, value):
    monkeypatch.setenv("SCHUSS_NUM_THREADS", value)
    with pytest.raises(ImportError, match="SCHUSS_NUM_THREADS must be a whole number from 1 to 1024, got"):
        threads._decide()


def test_an_import_with_an_unreadable_number():
    environment = {k: v for k, v in os.environ.items() if k != "SCHUSS_NUM_THREADS"}
    command = [sys.executable, "-c", "import schuss; print(schuss.info()['threads_from'])"]
    environment["OMP_NUM_THREADS"] = "99999999999"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip() in ("CPU affinity", "cgroup CPU quota"), done.stderr


def paced(calls, time_of, bytes=1 << 22):
    """How many threads a pace takes for so many calls, of which ``time_of(threads, since, call)`` are the nanoseconds.

    ``since`` are those since the last change of threads.
    """
    schuss.set_num_threads(2)
    pace, sizes, since = _core.Pace(), [], 0
    for call in range(calls):
        sizes.append(pace.size_for(bytes))
        if call and sizes[-1] != sizes[-2]:
            since = 0
        time = time_of(sizes[-1], since, call)
        pace.took(time)
        since += time
    return sizes


@needs_openmp
def test_the_faster_way_is_kept():
    for alone, team in ((290_000, 142_000), (31_000, 17_000), (30_000, 60_000), (5_000, 50_000)):
        sizes = paced(100_000, lambda size, since, call, alone=alone, team=team: alone if size == 1 else team)
        slower = 1 if team < alone else 2
        assert sizes[50_000:].count(slower) < 0.02 * 50_000, (alone, team)


@needs_openmp
def test_a_thread_that_was_woken_shares_a_core_at_first():
    """For 16 ms a step takes longer in the team than alone."""
    sizes = paced(4_000, lambda size, since, call: 290_000 if size == 1 else 450_000 if since < 16e6 else 142_000)
    assert sizes[1_000:].count(1) < 50


@needs_openmp
def test_a_call_that_was_held_up_says_little():
    sizes = paced(
        9_000, lambda size, since, call: 2_600_000 if call % 1_000 == 500 else 31_000 if size == 1 else 17_000
    )
    assert sizes[100:].count(1) < 100


@needs_openmp
def test_it_turns_where_the_times_do():
    """NumPy's BLAS keeps the other cores busy from some call on."""
    sizes = paced(3_000, lambda size, since, call: 31_000 if size == 1 else 17_000 if call < 1_000 else 60_000)
    assert sizes[900:1_000].count(1) < 20
    assert sizes[1_050:1_200].count(2) < 20
