"""Checkpoints: a resumed run goes on bit for bit; a kill leaves a whole file; nothing wrong is let in."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import pickle
import random
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
import schuss
import schuss.torch
from conftest import assert_same_bits, assert_same_optimizers
from schuss import files, states
from schuss.schedules import Cosine, Linear, ReduceOnPlateau, Scaled, Warmup, join

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed (extra checkpoint)")

RULES = list(schuss.optimizers.OPTIMIZERS)
GROUPS = {"b": {"lr": 0.05}}


def through_dict(opt):
    again = type(opt)()
    again.load_state_dict(opt.state_dict())
    return again


def through_file(opt, tmp_path):
    opt.save(tmp_path / "file")
    return schuss.load(tmp_path / "file").optimizer


def through_buffers(opt):
    buffers = []
    data = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


WAYS = {
    "state_dict": lambda opt, path: through_dict(opt),
    "file": through_file,
    "pickle": lambda opt, path: pickle.loads(pickle.dumps(opt)),
    "pickle with buffers that are read-only": lambda opt, path: through_buffers(opt),
    "deepcopy": lambda opt, path: copy.deepcopy(opt),
    "copy": lambda opt, path: copy.copy(opt),
}


def options_of(rule):
    options = {"ema": 0.9, "clip_norm": 3.0, "on_nonfinite": "skip", "groups": GROUPS, "maximize": True}
    if rule in ("RMSprop",):
        options |= {"centered": True, "momentum": 0.5}
    if "ScheduleFree" in rule:
        options |= {"warmup": 4}
    return options


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_goes_on_bit_for_bit(rule, way, tmp_path):
    rng = np.random.default_rng(0)
    opt = schuss.optimizers.OPTIMIZERS[rule](lr=Cosine(0.1, 20), **options_of(rule))
    params = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=(6, 3)).astype(np.float32)}

    def gradients(step):
        return {name: np.random.default_rng(step).normal(size=p.shape).astype(p.dtype) for name, p in params.items()}

    for step in range(5):
        opt.update(params, gradients(step))
    bad = gradients(5)
    bad["a"][0, 0] = np.nan
    opt.update(params, bad)
    assert opt.skipped == 1
    again = WAYS[way](opt, tmp_path)
    assert repr(again) == repr(opt)
    assert (again.t, again.skipped) == (5, 1)
    assert_same_optimizers(again, opt)
    twins = {name: p.copy() for name, p in params.items()}
    for step in range(6, 12):
        opt.update(params, gradients(step))
        again.update(twins, gradients(step))
        for name, p in params.items():
            assert_same_bits(twins[name], p, f"{name} after step {step}")
        assert_same_optimizers(again, opt)


def test_copies_share_nothing():
    opt = schuss.Momentum()
    params = {"p": np.ones(3)}
    opt.update(params, {"p": np.ones(3)})
    saved = opt.state_dict()
    others = [copy.copy(opt), copy.deepcopy(opt), through_dict(opt)]
    before = opt.state["p"]["v"].copy()
    for other in others:
        other.update({"p": np.ones(3)}, {"p": np.ones(3)})
    saved["state"]["p"]["v"][:] = 7
    assert_same_bits(opt.state["p"]["v"], before)
    assert opt.t == 1


@pytest.mark.parametrize(
    "lr", [0.5, Linear(1.0, 0.1, 9), Warmup(join([Linear(1, 0, 5), Cosine(0.5, 9)], [5]), 3)], ids=repr
)
def test_learning_rates_survive(lr, tmp_path):
    opt = schuss.SGD(lr=lr)
    assert through_file(opt, tmp_path).lr == lr
    assert through_dict(opt).lr == lr


def test_a_plateau_goes_on_where_it_was(tmp_path):
    opt = schuss.SGD(lr=ReduceOnPlateau(1.0, patience=1, cooldown=2))
    for loss in (1, 1, 1):
        opt.lr.report(loss)
    for again in (through_file(opt, tmp_path), through_dict(opt), pickle.loads(pickle.dumps(opt))):
        assert again.lr == opt.lr
        assert again.lr is not opt.lr
        assert again.current_lr == 0.1


def test_a_function_cannot_be_saved(tmp_path):
    opt = schuss.SGD(lr=lambda t: 1 / t)
    with pytest.raises(ValueError, match="lr is a function, which a checkpoint cannot hold; use a schedule"):
        opt.save(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    other = schuss.SGD(lr=0.5)
    with pytest.raises(ValueError, match=r"the function <function .*give lr=\.\.\. in its place"):
        other.load_state_dict(opt.state_dict())
    assert other.lr == 0.5
    other.load_state_dict(opt.state_dict(), lr=0.25)
    assert other.lr == 0.25


@pytest.mark.parametrize("container", [dict, list])
def test_parameters_are_saved_beside(container, tmp_path):
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(3, 4)).T,
        np.array(2.0),
        np.zeros((0, 3), np.float32),
        np.asfortranarray(rng.normal(size=(5, 6))),
    ]
    params = arrays if container is list else {f"p{i}": p for i, p in enumerate(arrays)}
    opt = schuss.Adam()
    opt.update(
        params, [p * 0.5 for p in arrays] if container is list else {f"p{i}": p * 0.5 for i, p in enumerate(arrays)}
    )
    opt.save(tmp_path / "file", params)
    again, found = schuss.load(tmp_path / "file")
    assert type(found) is container
    assert_same_optimizers(again, opt)
    for mine, theirs in zip(found if container is list else found.values(), arrays, strict=True):
        assert_same_bits(mine, theirs)
        assert mine.flags.writeable
    again.update(found, arrays if container is list else params)


def test_names_that_cannot_be_saved(tmp_path):
    opt = schuss.SGD()
    with pytest.raises(ValueError, match=r"names must be strings or whole numbers to be saved, got \('W', 1\)"):
        opt.save(tmp_path / "file", {("W", 1): np.ones(2)})
    with pytest.raises(
        TypeError, match=r"params\['W'\]: expected an array of float32, float64, float16 or bfloat16, got list"
    ):
        opt.save(tmp_path / "file", {"W": [1, 2]})
    assert not list(tmp_path.iterdir())


WRONG = [
    (lambda d: d.update(format=3), "has format 3, this version of schuss reads formats up to 2"),
    (lambda d: d.update({"class": "Adamm"}), "a class 'Adamm', which this version of schuss does not have"),
    (lambda d: d.update({"class": "SGD"}), "the state is of SGD, this optimizer is Adam"),
    (lambda d: d.pop("t"), "it lacks t"),
    (lambda d: d.update(t=-1), "t must be a whole number, got -1"),
    (lambda d: d.update(t=1.5), "t must be a whole number, got 1.5"),
    (lambda d: d.update(skipped=True), "skipped must be a whole number, got True"),
    (lambda d: d["arguments"].pop("beta1"), "arguments are not those of Adam"),
    (lambda d: d["arguments"].update(beta1=2), r"beta1 must be in \[0, 1\), got 2"),
    (lambda d: d["arguments"].update(lr={"schedule": "Evil", "fields": {}}), "cannot be restored"),
    (lambda d: d.update(memory=[{"sums": 1}]), "remembers nothing"),
    (lambda d: d.update(state=[1]), "must be a dict of name -> slots, got list"),
    (lambda d: d["state"].update(W=3), "the state of 'W' must be a dict of slot -> array, got int"),
    (lambda d: d["state"]["W"].pop("m"), "has the slots v; Adam has m, v"),
    (lambda d: d["state"]["W"].update(x=np.ones(3)), "has the slots m, v, x; Adam has m, v"),
    (lambda d: d["state"]["W"].update(m=np.ones(4)), r"is float64 of shape \(3,\), expected float64 of shape \(4,\)"),
    (lambda d: d["state"]["W"].update(v=np.ones(3, "f4")), "is float32 of shape"),
    (lambda d: d["state"]["W"].update(v=np.ones(3, int)), "an array of float32, float64 or fewer bits, got int64"),
    (lambda d: d["state"]["W"].update(v=[1.0] * 3), "an array of float32, float64 or fewer bits, got list"),
]


@pytest.mark.parametrize(("change", "match"), WRONG)
def test_a_wrong_state_changes_nothing(change, match):
    opt, params = schuss.Adam(lr=0.5), {"W": np.ones(3)}
    opt.update(params, {"W": np.ones(3)})
    saved = opt.state_dict()
    change(saved)
    before, kept = repr(opt), copy.deepcopy(opt)
    with pytest.raises(ValueError, match=match):
        opt.load_state_dict(saved)
    assert repr(opt) == before
    assert_same_optimizers(opt, kept)
    with pytest.raises(TypeError, match="a saved state is a dict, got list"):
        opt.load_state_dict([])


# Files that are not what they seem.


@pytest.fixture
def good(tmp_path):
    opt, params = schuss.Adam(), {"W": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32)}
    opt.update(params, {"W": np.ones((2, 3)), "b": np.ones(2, np.float32)})
    opt.save(tmp_path / "good", params)
    return (tmp_path / "good").read_bytes()


def parts(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def signed(text):
    """The metadata of one who knows how to compute the checksum."""
    return {"schuss": text, "schuss.crc32": str(zlib.crc32(text.encode()))}


def changed(change):
    def make(data):
        header, body = parts(data)
        document = json.loads(header["__metadata__"]["schuss"])
        change(header, document)
        header["__metadata__"] = signed(json.dumps(document))
        return joined(header, body)

    return make


def _overlap(header, document):
    first, second = (name for name in header if name.startswith("state/0/"))
    header[second]["data_offsets"] = header[first]["data_offsets"]


def _swap(header, document):
    (_, first), (_, second) = document["state"]
    first["m"], second["m"] = second["m"], first["m"]


HOSTILE = {
    "empty": lambda data: b"",
    "a byte": lambda data: b"\x00",
    "a pickle": lambda data: pickle.dumps({"a": 1}),
    "zeros": lambda data: bytes(1000),
    "huge header": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "header beyond the file": lambda data: struct.pack("<Q", len(data)) + data[8:],
    "a header of 200 MB": lambda data: struct.pack("<Q", 200_000_000) + data[8:],
    "no JSON": lambda data: joined(b"{" * 5000, b""),
    "deep JSON": lambda data: joined(b'{"__metadata__":' * 3000, b""),
    "another's file": lambda data: safetensors.save({"x": np.ones(3)}),
    "another's metadata": lambda data: safetensors.save({"x": np.ones(3)}, {"format": "pt"}),
    "our key, no JSON": lambda data: safetensors.save({"x": np.ones(3)}, signed("{")),
    "our key, a list": lambda data: safetensors.save({"x": np.ones(3)}, signed("[]")),
    "our key, deep": lambda data: safetensors.save({"x": np.ones(3)}, signed("[" * 100_000)),
    "an array too many": lambda data: safetensors.save(
        {"x": np.ones(3)}, signed('{"state": [], "params": null, "list": false}')
    ),
    "overlapping offsets": changed(_overlap),
    "offset beyond the end": changed(lambda h, d: h["params/0"].update(data_offsets=[0, 10**9])),
    "negative offset": changed(lambda h, d: h["params/0"].update(data_offsets=[-8, 40])),
    "shape without its bytes": changed(lambda h, d: h["params/0"].update(shape=[2, 4])),
    "overflowing shape": changed(lambda h, d: h["params/0"].update(shape=[2**40, 2**40])),
    "another dtype": changed(lambda h, d: h["params/0"].update(dtype="I64")),
    "a path as a name": changed(lambda h, d: d["state"][0][1].update(m="../../etc/passwd")),
    "a name twice": changed(lambda h, d: d["state"].__setitem__(1, ["W", d["state"][1][1]])),
    "a name that is a list": changed(lambda h, d: d["state"][0].__setitem__(0, ["W"])),
    "another class": changed(lambda h, d: d.update({"class": "os.system"})),
    "another version": changed(lambda h, d: d.update(format=99)),
    "state of another's shape": changed(_swap),
    "a bad argument": changed(lambda h, d: d["arguments"].update(lr=-1)),
    "an unknown schedule": changed(lambda h, d: d["arguments"].update(lr={"schedule": "eval", "fields": {"x": "1"}})),
    "t as text": changed(lambda h, d: d.update(t="9")),
    "a number as the checksum of an array": changed(lambda h, d: d["crc32"].update({"params/0": 1})),
    "no checksum of an array": changed(lambda h, d: d["crc32"].pop("params/0")),
    "no checksums": changed(lambda h, d: d.pop("crc32")),
    "no checksum of the metadata": lambda data: safetensors.save(
        {}, {"schuss": parts(data)[0]["__metadata__"]["schuss"]}
    ),
    "a list or not": changed(lambda h, d: d.update(list=1)),
    "no state": changed(lambda h, d: d.pop("state")),
}


def test_parameters_of_another_dtype_are_refused(tmp_path):
    array = np.ones(3, np.int16)
    document = {**states.without_arrays(schuss.SGD()), "state": [], "params": [["W", "params/0"]], "list": False}
    text = json.dumps({**document, "crc32": {"params/0": files.sum_of(array)}})
    (tmp_path / "file").write_bytes(safetensors.save({"params/0": array}, signed(text)))
    with pytest.raises(ValueError, match=r"params\['W'\] is int16, which is no parameter's"):
        schuss.load(tmp_path / "file")
    (tmp_path / "file").write_bytes(safetensors.save({"params/0": np.ones(3, int)}, signed(text)))
    with pytest.raises(ValueError, match="it has an array of I64, which is none of ours"):
        schuss.load(tmp_path / "file")


def test_numbers_of_numpy_in_groups_are_saved(tmp_path):
    groups = {"a": {"lr": np.float32(0.5), "maximize": np.True_}, "b": {"lr": np.array(0.25)}}
    schuss.SGD(groups=groups).save(tmp_path / "file")
    again = schuss.load(tmp_path / "file").optimizer
    assert again.groups == {"a": {"lr": 0.5, "maximize": True}, "b": {"lr": 0.25}}


def test_rules_without_state_remember_their_names(tmp_path):
    opt = schuss.SGD()
    opt.update({"W": np.ones(3)}, {"W": np.ones(3)})
    opt.save(tmp_path / "file")
    assert schuss.load(tmp_path / "file").optimizer.state == {"W": {}}


WRONG_MEMORIES = [
    ("ScheduleFreeSGD", {"weights": [9, 0.0, 0.0]}, "the weights of a schedule-free rule are those of step 9, and 1"),
    ("ScheduleFreeSGD", {"weights": [1, 0.0]}, "a schedule-free rule remembers the weights of its steps"),
    ("ScheduleFreeSGD", {"weights": [1, "0", 0.0]}, "the sum of weights of a schedule-free rule must be a number"),
    ("ScheduleFreeSGD", {"weights": [1, float("nan"), 0.0]}, "the sum of weights .* must be finite .* got nan"),
    ("ScheduleFreeAdamW", {"weights": [1, 0.0, -1.0]}, "the largest rate .* must be finite and at least 0, got -1"),
    ("ScheduleFreeSGD", {"weights": [1.0, 0.0, 0.0]}, "weights must be a whole number"),
    ("ScheduleFreeSGD", {"weights": 1}, "remembers the weights"),
    ("ScheduleFreeSGD", {}, "remembers the weights"),
    ("ScheduleFreeSGD", [], "remember"),
    ("NAdam", {}, "NAdam remembers a product"),
    ("NAdam", {"product": float("nan")}, r"the product that NAdam remembers must be in \[0, 1\], got nan"),
    ("NAdam", {"product": "1"}, "the product that NAdam remembers must be a number"),
    ("SGD", {"product": 0.5}, "SGD remembers nothing of past steps"),
]


@pytest.mark.parametrize(("rule", "memory", "match"), WRONG_MEMORIES)
def test_wrong_memories_of_past_steps_are_refused(rule, memory, match):
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    opt.update({"W": np.ones(3)}, {"W": np.ones(3)})
    before = copy.deepcopy(opt)
    with pytest.raises(ValueError, match=match):
        opt.load_state_dict({**opt.state_dict(), "memory": [memory]})
    with pytest.raises(ValueError, match="cannot be restored"):
        opt.load_state_dict({**opt.state_dict(), "memory": []})
    assert_same_optimizers(opt, before)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(kind, good, tmp_path):
    path = tmp_path / "bad"
    path.write_bytes(HOSTILE[kind](good))
    with pytest.raises(ValueError, match=str(path)):
        schuss.load(path)


def test_a_file_cut_anywhere_is_refused(good, tmp_path, request):
    path = tmp_path / "cut"
    for length in range(0, len(good), 1 if request.config.getoption("--thorough") else 5):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match="is not a whole checkpoint of schuss"):
            schuss.load(path)


def test_a_flipped_bit_is_refused(good, tmp_path, request):
    path = tmp_path / "flipped"
    for bit in range(0, 8 * len(good), 1 if request.config.getoption("--thorough") else 11):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(ValueError, match=str(path)):
            schuss.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        schuss.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        schuss.SGD().save(tmp_path / "none" / "file")


def test_a_file_saved_beside_another_threads_updates_is_of_one_step(tmp_path):
    opt, params, stop = schuss.Momentum(lr=1.0), {"W": np.zeros(100_000)}, threading.Event()
    ref, expected = schuss.reference.Momentum(lr=1.0), [(np.zeros(1), np.zeros(1))]
    twin = {"W": np.zeros(1)}
    opt.update(params, {"W": np.ones(100_000)})

    def work():
        while not stop.is_set():
            opt.update(params, {"W": np.ones(100_000)})

    other = threading.Thread(target=work, daemon=True)
    other.start()
    found = []
    for _ in range(30):
        opt.save(tmp_path / "file", params)
        found.append(schuss.load(tmp_path / "file"))
    stop.set()
    other.join(timeout=60)
    assert not other.is_alive()
    for _ in range(found[-1].optimizer.t):
        ref.update(twin, {"W": np.ones(1)})
        expected.append((twin["W"].copy(), ref.state["W"]["v"].copy()))
    for each in found:
        p, v = expected[each.optimizer.t]
        assert (each.params["W"] == p).all()
        assert (each.optimizer.state["W"]["v"] == v).all()


# Whole or not there.


def test_what_is_there_stays_when_writing_fails(good, tmp_path, monkeypatch):
    for broken in ("fsync", "replace"):

        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, broken, fail)
            with pytest.raises(OSError, match="No space left"):
                schuss.SGD().save(tmp_path / "good")
        assert (tmp_path / "good").read_bytes() == good
        assert [path.name for path in tmp_path.iterdir()] == ["good"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error(monkeypatch, tmp_path):
    """The file limit of the process stands for the disk's: writing stops halfway through."""
    resource = pytest.importorskip("resource")
    opt, params = schuss.Momentum(), {"W": np.ones(100_000)}
    opt.save(tmp_path / "file", params)
    before = (tmp_path / "file").read_bytes()
    opt.update(params, {"W": np.ones(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises((OSError, Exception), match=r"(?i)file too large"):
            opt.save(tmp_path / "file", params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "file").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_mode_of_the_file(tmp_path):
    before = os.umask(0o027)
    try:
        schuss.SGD().save(tmp_path / "file")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
        os.chmod(tmp_path / "file", 0o600)
        schuss.SGD().save(tmp_path / "file")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_it_leaves_a_whole_file(tmp_path, request):
    """Processes that save without end are killed at random; each time the file is one of those that were saved."""
    processes = 300 if request.config.getoption("--thorough") else 100
    path, rng = tmp_path / "file", random.Random(0)
    opt, params = schuss.Momentum(lr=1.0, momentum=0.0), {"W": np.zeros(20_000)}
    opt.update(params, {"W": np.zeros(20_000)})
    opt.save(path, params)
    seen = set()
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            while True:
                # Each file holds one number everywhere, in the parameters and, with its sign turned, in the state.
                params["W"] += 1
                opt.state["W"]["v"][:] = -params["W"]
                opt.save(path, params)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        again, found = schuss.load(path)
        value = found["W"][0]
        assert (found["W"] == value).all()
        assert (again.state["W"]["v"] == -value).all()
        assert again.t == 1
        seen.add(value)
        params["W"][:] = value
    assert len(seen) > processes / 6


# From PyTorch.

TORCH = [
    ("schuss.Momentum(0.1, 0.8)", "SGD(params, 0.1, momentum=0.8)"),
    ("schuss.Nesterov(0.1, 0.8)", "SGD(params, 0.1, momentum=0.8, nesterov=True)"),
    ("schuss.SGD(0.1)", "SGD(params, 0.1)"),
    ("schuss.AdaGrad(0.1, eps=1e-10)", "Adagrad(params, 0.1)"),
    ("schuss.RMSprop(0.1, eps=1e-8, centered=True, momentum=0.5)", "RMSprop(params, 0.1, centered=True, momentum=0.5)"),
    ("schuss.Adam(0.1, eps=1e-8)", "Adam(params, 0.1)"),
    ("schuss.AdamW(0.1)", "AdamW(params, 0.1)"),
    ("schuss.AMSGrad(0.1, bias_correction=True)", "Adam(params, 0.1, amsgrad=True)"),
    ("schuss.Adamax(0.1)", "Adamax(params, 0.1)"),
    ("schuss.NAdam(0.1)", "NAdam(params, 0.1)"),
    ("schuss.RAdam(0.1)", "RAdam(params, 0.1)"),
    ("schuss.AdaDelta(0.5)", "Adadelta(params, 0.5)"),
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("ours", "theirs"), TORCH, ids=[theirs for _, theirs in TORCH])
def test_a_run_of_pytorch_goes_on_here(ours, theirs):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    rng = np.random.default_rng(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        tensors = [torch.nn.Parameter(torch.tensor(rng.normal(size=shape))) for shape in ((7, 5), (6,))]
        peer = eval(f"torch.optim.{theirs}", {"torch": torch, "params": tensors})

        def step():
            for tensor in tensors:
                tensor.grad = torch.tensor(rng.normal(size=tensor.shape))
            peer.step()

        for _ in range(5):
            step()
        state = {
            i: {k: v.numpy() for k, v in s.items() if v is not None} for i, s in peer.state_dict()["state"].items()
        }
        opt = eval(ours, {"schuss": schuss})
        schuss.torch.load_torch_state(opt, state, ["W", "b"], t=5)
        params = {name: tensor.detach().numpy().copy() for name, tensor in zip(("W", "b"), tensors, strict=True)}
        for _ in range(5):
            step()
            opt.update(params, {name: tensor.grad.numpy() for name, tensor in zip(params, tensors, strict=True)})
            for p, tensor in zip(params.values(), tensors, strict=True):
                np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12)
    finally:
        torch.set_default_dtype(before)


def test_what_is_wrong_with_a_state_of_pytorchs():
    opt = schuss.Adam()
    good = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2), "step": np.array(3.0)}
    for state, names, match in (
        ({0: good}, ["W"], "has made 3 steps, not t=4"),
        ({1: {**good, "step": 4}}, ["W"], "a parameter 1, of which names has no name"),
        ({0: {"exp_avg": np.ones(2), "step": 4}}, ["W"], "parameter 0 has no 'exp_avg_sq', from which 'v' would come"),
        ({0: {**good, "step": 4, "exp_avg": np.ones(3)}}, ["W"], "expected float64 of shape"),
    ):
        with pytest.raises(ValueError, match=match):
            schuss.torch.load_torch_state(opt, state, names, t=4)
        assert opt.t == 0
        assert not opt.state
    with pytest.raises(ValueError, match="Lion has no state that could come from PyTorch"):
        schuss.torch.load_torch_state(schuss.Lion(), {}, [], t=1)


# A receiver that is unlike the sender.

SENDERS = {
    "another epsilon": ("Adam", {"lr": 0.1, "eps": 0.01}, {}),
    "the other epsilon": ("Adam", {}, {"lr": 0.1, "eps": 0.01}),
    "no clipping": ("SGD", {"lr": 1.0}, {"clip_norm": 0.1, "clip_value": 0.01}),
    "clipping": ("SGD", {"lr": 1.0, "clip_norm": 0.1}, {}),
    "no average": ("Momentum", {}, {"ema": 0.5}),
    "an average": ("Momentum", {"ema": 0.5}, {}),
    "another average": ("Momentum", {"ema": 0.5}, {"ema": 0.9}),
    "no groups": ("Adam", {}, {"groups": {"b": {"lr": 0.5, "eps": 0.1}}, "maximize": True}),
    "groups": ("Adam", {"groups": {"b": {"lr": 0.5, "eps": 0.1}}}, {"eps": 0.3}),
    "other slots": ("RMSprop", {"centered": True, "momentum": 0.5}, {}),
    "fewer slots": ("RMSprop", {}, {"centered": True, "momentum": 0.5}),
    "no weights": ("ScheduleFreeAdamW", {}, {"lr": 0.5, "warmup": 9}),
    "a schedule": ("NAdam", {"lr": Cosine(0.1, 20)}, {"lr": 3.0, "beta1": 0.5}),
    "no eps": ("Adafactor", {}, {"eps": 0.1}),
    "skipping": ("Lion", {"on_nonfinite": "skip"}, {"on_nonfinite": "raise", "flush_subnormals": False}),
}


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("case", SENDERS)
def test_the_receiver_becomes_the_sender(case, used):
    """All arguments are those that were saved, also where they are None; and the steps that follow."""
    rule, theirs, mine = SENDERS[case]
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=3)}
    grads = [{"a": rng.normal(size=(4, 5)), "b": rng.normal(size=3)} for _ in range(6)]
    cls = schuss.optimizers.OPTIMIZERS[rule]
    sender, receiver = cls(**theirs), cls(**mine)
    if used:
        for g in grads[:3]:
            receiver.update({name: p.copy() for name, p in params.items()}, g)
    for g in grads[:2]:
        sender.update(params, g)
    receiver.load_state_dict(sender.state_dict())
    assert repr(receiver) == repr(sender)
    assert receiver.state_dict()["arguments"] == sender.state_dict()["arguments"]
    assert_same_optimizers(receiver, sender)
    twins = {name: p.copy() for name, p in params.items()}
    for g in grads[2:]:
        sender.update(params, g)
        receiver.update(twins, g)
        for name, p in params.items():
            assert_same_bits(twins[name], p, name)
        assert_same_optimizers(receiver, sender)


@pytest.mark.parametrize("way", WAYS)
def test_arguments_that_were_changed_are_saved(way, tmp_path):
    opt, params, grads = schuss.Adam(), {"a": np.ones(3), "b": np.ones(2)}, {"a": np.ones(3), "b": -np.ones(2)}
    opt.update(params, grads)
    opt.lr, opt.beta1, opt.eps_hat, opt.clip_norm, opt.maximize = 0.5, 0.8, 0.1, 1.0, True
    opt.groups = {"b": {"lr": 0.25}}
    again = WAYS[way](opt, tmp_path)
    assert repr(again) == repr(opt)
    opt.update(params, grads)
    twins = {"a": np.zeros(3), "b": np.zeros(2)}
    again.update(twins, grads)
    assert_same_optimizers(again, opt)


# What cannot be read is not saved.


@dataclasses.dataclass(frozen=True)
class Mine(schuss.schedules.Schedule):
    lr: float

    def __call__(self, t):
        return self.lr / t


Impostor = dataclasses.make_dataclass(
    "Constant", [("lr", float)], bases=(schuss.schedules.Schedule,), namespace={"__call__": lambda self, t: 2 * self.lr}
)


class Subclass(schuss.Adam):
    pass


@pytest.mark.parametrize("lr", [Mine(0.5), Impostor(0.5), Warmup(Mine(0.5), 3), join([Cosine(1.0, 5), Mine(1.0)], [2])])
def test_schedules_of_the_users_are_refused_before_the_old_file_is_replaced(lr, tmp_path):
    schuss.SGD(lr=0.125).save(tmp_path / "file")
    opt = schuss.SGD(lr=lr)
    with pytest.raises(ValueError, match="lr is a function, which a checkpoint cannot hold"):
        opt.save(tmp_path / "file")
    assert schuss.load(tmp_path / "file").optimizer.lr == 0.125
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match=r"give lr=\.\.\. in its place"):
        schuss.SGD().load_state_dict(opt.state_dict())
    schuss.SGD(groups={"a": {"lr": Cosine(0.5, 9)}}).save(tmp_path / "file")
    with pytest.raises(ValueError, match="lr is a function"):
        schuss.SGD(groups={"a": {"lr": lr}}).save(tmp_path / "file")


def test_classes_of_the_users(tmp_path):
    """Are read where they are given; one that is named like ours would be read as ours."""
    opt, params = Subclass(lr=0.5), {"p": np.ones(3)}
    opt.update(params, {"p": np.ones(3)})
    opt.save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"of a class 'Subclass', .* one of your own goes to load\(path, classes="):
        schuss.load(tmp_path / "file")
    again = Subclass()
    again.load_state_dict(opt.state_dict())
    for each in (
        again,
        schuss.load(tmp_path / "file", [schuss.Adam, Subclass]).optimizer,
        pickle.loads(pickle.dumps(opt)),
    ):
        assert type(each) is Subclass
        assert repr(each) == repr(opt)
        assert_same_optimizers(each, opt)
    with pytest.raises(ValueError, match="of a class 'Subclass'"):
        schuss.Adam().load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="your class Adam is named like one of ours"):
        type("Adam", (schuss.Adam,), {})().save(tmp_path / "file")
    assert schuss.load(tmp_path / "file", [Subclass]).optimizer.t == 1


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 0.5])
def test_a_plateau_that_has_seen_anything_is_saved(value, tmp_path):
    for maximize in (False, True):
        opt = schuss.SGD(lr=ReduceOnPlateau(1.0, maximize=maximize))
        opt.lr.report(value)
        for again in (through_file(opt, tmp_path), through_dict(opt)):
            assert again.lr == opt.lr


def nested(depth):
    lr = {"schedule": "Constant", "fields": {"lr": 0.5}}
    for _ in range(depth):
        lr = {"schedule": "Warmup", "fields": {"then": lr, "warmup": 1, "start": 0.0}}
    return lr


def constant(lr):
    return {"schedule": "Constant", "fields": {"lr": lr}}


PLATEAU = {
    "lr": 0.5, "factor": 0.1, "patience": 10, "threshold": 1e-4, "threshold_mode": "rel", "cooldown": 0, "least": 0.0,
    "maximize": False, "current": 0.5, "best": None, "bad": 0, "cooling": 0,
}  # fmt: skip
BAD_RATES = {
    "no parts": {"schedule": "Joined", "fields": {"schedules": {"tuple": []}, "boundaries": {"tuple": []}}},
    "a number for a schedule": {"schedule": "Warmup", "fields": {"then": 5, "warmup": 3, "start": 0.0}},
    "text for a number": constant("x"),
    "a list for a number": constant({"tuple": [1.0]}),
    "true for a number": constant(True),
    "below zero": constant(-1.0),
    "not a number": constant({"number": "nan"}),
    "no number": constant({"number": "os.system"}),
    "a huge whole number": constant(10**400),
    "a huge rate": 10**400,
    "a field too many": {"schedule": "Constant", "fields": {"lr": 0.5, "__dict__": {"mapping": [["lr", -1.0]]}}},
    "a class": {"schedule": "Constant", "fields": {"lr": 0.5, "__class__": "x"}},
    "a field too few": {"schedule": "Constant", "fields": {}},
    "350 of them": nested(350),
    "5,000 of them": nested(5000),
    "a plateau's rate": {"schedule": "ReduceOnPlateau", "fields": {**PLATEAU, "current": -1.0}},
    "a plateau's best": {"schedule": "ReduceOnPlateau", "fields": {**PLATEAU, "best": {"number": "nan"}}},
    "a plateau's count": {"schedule": "ReduceOnPlateau", "fields": {**PLATEAU, "bad": "x"}},
    "two kinds": {"schedule": "Constant", "number": "1", "fields": {"lr": 0.5}},
    "no kind": {},
    "a function": {"function": "<lambda>"},
}


@pytest.mark.parametrize("how", ["dict", "file"])
@pytest.mark.parametrize("case", BAD_RATES)
def test_bad_rates_in_files_are_refused(case, how, good, tmp_path):
    opt = schuss.Adam(lr=0.25)
    if how == "dict":
        saved = schuss.Adam().state_dict()
        saved["arguments"]["lr"] = BAD_RATES[case]
        with pytest.raises(ValueError, match="cannot be restored"):
            opt.load_state_dict(saved)
        assert opt.lr == 0.25
    else:
        header, body = parts(good)
        document = json.loads(header["__metadata__"]["schuss"])
        document["arguments"]["lr"] = "here"
        # Put together as text: json.dumps would not go as deep as one of them is.
        deep = case == "5,000 of them"
        core = json.dumps(constant(0.5) if deep else BAD_RATES[case])
        around = ('{"schedule": "Warmup", "fields": {"then": ', ', "warmup": 1, "start": 0.0}}')
        text = around[0] * 5000 + core + around[1] * 5000 if deep else core
        header["__metadata__"] = signed(json.dumps(document).replace('"here"', text))
        (tmp_path / "bad").write_bytes(joined(header, body))
        with pytest.raises(ValueError, match="bad"):
            schuss.load(tmp_path / "bad")


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -1, 10**400, "1", True, [1], {"mapping": []}])
@pytest.mark.parametrize("name", ["lr", "beta1", "weight_decay", "clip_norm", "ema", "maximize", "groups"])
def test_bad_arguments_in_a_state_are_refused(name, bad):
    if (name, bad) in (("maximize", True), ("groups", {"mapping": []})):
        return
    saved = schuss.Adam().state_dict()
    saved["arguments"][name] = bad
    opt = schuss.Adam(lr=0.25)
    with pytest.raises(ValueError, match="cannot be restored"):
        opt.load_state_dict(saved)
    assert repr(opt) == repr(schuss.Adam(lr=0.25))


def test_neither_epsilon():
    saved = schuss.Adam().state_dict()
    saved["arguments"]["eps_hat"] = None
    opt = schuss.Adam()
    opt.load_state_dict(saved)
    assert opt.eps_hat == 1e-7
    with pytest.raises(ValueError, match="eps_hat must be a number, as there is no other epsilon, got None"):
        opt.eps_hat = None


@pytest.mark.parametrize("t", [2**62 - 1, 2**53, 10**9])
def test_a_step_that_is_far_on_does_not_hang(t, tmp_path):
    for rule in RULES:
        opt, params = schuss.optimizers.OPTIMIZERS[rule](), {"p": np.ones((2, 2))}
        opt.update(params, {"p": np.ones((2, 2))})
        saved = opt.state_dict()
        memory = [{"weights": [t, 1.0, 1.0]}] if "ScheduleFree" in rule else saved["memory"]
        opt.load_state_dict({**saved, "t": t, "memory": memory})
        opt.update(params, {"p": np.ones((2, 2))})
        assert opt.t == t + 1
        assert np.isfinite(params["p"]).all()
        opt.update(params, {"p": np.ones((2, 2))})
    opt = schuss.NAdam(beta1=0.9)
    opt.load_state_dict({**opt.state_dict(), "t": t, "memory": [{"product": 1.0}]})
    opt.beta1 = 0.8  # from the first factor on
    opt.update(params, {"p": np.ones((2, 2))})


@pytest.mark.parametrize("rule", ["Muon", "Adafactor", "ScheduleFreeSGD", "Adam"])
def test_what_was_saved_before_is_read(rule, tmp_path):
    """In format 1 two rules kept their workspace, and others remembered in other words."""
    opt, params = (
        schuss.optimizers.OPTIMIZERS[rule](groups={"b": {"lr": 0.5}}),
        {"a": np.ones((2, 3)), "b": np.ones((2, 2))},
    )
    grads = {"a": np.ones((2, 3)), "b": np.ones((2, 2))}
    for _ in range(2):
        opt.update(params, grads)
    saved = {**opt.state_dict(), "format": 1}
    if rule in ("Muon", "Adafactor"):
        for name, slots in saved["state"].items():
            slots["u"] = np.ones_like(params[name])
    if rule == "ScheduleFreeSGD":
        saved["memory"] = [{"sums": [w[0], 0.5, *w[1:]]} for w in (each["weights"] for each in saved["memory"])]
    again = schuss.optimizers.OPTIMIZERS[rule]()
    again.load_state_dict(saved)
    twins = {name: p.copy() for name, p in params.items()}
    opt.update(params, grads)
    again.update(twins, grads)
    for name, p in params.items():
        assert_same_bits(twins[name], p)
    assert_same_optimizers(again, opt)


# Files that are none, or change meanwhile.

CUT = """
import os, sys, threading, schuss
path = sys.argv[1]
size, good = os.path.getsize(path), open(path, "rb").read()
def cut():
    while True:
        os.truncate(path, 4096)
        with open(path, "wb") as file:
            file.write(good)
threading.Thread(target=cut, daemon=True).start()
whole = torn = 0
for _ in range(300):
    try:
        schuss.load(path)
        whole += 1
    except ValueError as error:
        assert path in str(error), error
        torn += 1
print(whole + torn)
os._exit(0)
"""


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path):
    opt, params = schuss.Adam(), {"W": np.ones(200_000)}
    opt.update(params, params | {"W": np.ones(200_000)})
    opt.save(tmp_path / "file", params)
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(tmp_path / "file")], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "300\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_what_is_no_regular_file(tmp_path):
    """Neither read, which could hang or never end, nor replaced."""
    opt = schuss.SGD()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            schuss.load(path)
    for path in (tmp_path / "pipe", tmp_path / "folder", "/dev/null"):
        kind = stat.S_IFMT(os.stat(path).st_mode)
        with pytest.raises(OSError, match="is not a regular file, and would be replaced"):
            opt.save(path)
        assert stat.S_IFMT(os.stat(path).st_mode) == kind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links on this system")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for lr in (0.5, 0.25):
        schuss.SGD(lr=lr).save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert schuss.load(tmp_path / "real" / "file").optimizer.lr == lr
    os.chmod(tmp_path / "real" / "file", 0o600)
    schuss.SGD().save(tmp_path / "link")
    assert os.stat(tmp_path / "real" / "file").st_mode & 0o777 == 0o600


# What several places share, and what a class of the user's adds.


def test_a_schedule_that_two_places_share(tmp_path):
    """A report reaches both, before and after."""
    for way in WAYS:
        shared = ReduceOnPlateau(0.1, factor=0.5, patience=0)
        opt = schuss.SGD(Scaled(shared, 1.0), groups={"b": {"lr": Scaled(shared, 2.0)}, "c": {"lr": shared}})
        again = WAYS[way](opt, tmp_path)
        for each in (again, opt):
            for _ in range(2):
                each.lr.schedule.report(1.0)
            rates = [each.lr(1), each.groups["b"]["lr"](1), each.groups["c"]["lr"](1)]
            assert rates == [0.05, 0.1, 0.05], way
    given = schuss.SGD()
    given.load_state_dict(opt.state_dict(), lr=0.5)
    assert given.groups["b"]["lr"](1) == 0.1


def test_a_function_of_a_group():
    opt = schuss.SGD(0.1, groups={"b": {"lr": lambda t: 0.5}})
    again = schuss.SGD()
    with pytest.raises(ValueError, match=r"or groups=\.\.\. where it is a group's"):
        again.load_state_dict(opt.state_dict(), lr=0.25)
    again.load_state_dict(opt.state_dict(), groups={"b": {"lr": 0.5}})
    assert (again.lr, again.groups) == (0.1, {"b": {"lr": 0.5}})


def test_what_are_no_parameters(tmp_path):
    for params, what in ((np.ones((2, 3)), "ndarray"), ({1.0}, "set"), (3, "int"), ("ab", "str")):
        with pytest.raises(TypeError, match=f"params must be a dict .* or a list of them; got {what}"):
            schuss.SGD().save(tmp_path / "file", params)
    with pytest.raises(
        TypeError, match=r"params\['W'\]: expected an array of float32, float64, float16 or bfloat16, got dtype int64"
    ):
        schuss.SGD().save(tmp_path / "file", {"W": np.arange(3)})
    assert not list(tmp_path.iterdir())
    schuss.SGD().save(tmp_path / "file", {np.int64(3): np.ones(2), "w": 1.5})
    assert {name: p.tolist() for name, p in schuss.load(tmp_path / "file").params.items()} == {3: [1.0, 1.0], "w": 1.5}
    with pytest.raises(ValueError, match=f"{tmp_path} is not a regular file"):
        schuss.load(tmp_path)


class Duck:
    """A mapping by its methods alone."""

    def __init__(self, arrays):
        self.arrays = arrays

    def keys(self):
        return self.arrays.keys()

    def __getitem__(self, name):
        return self.arrays[name]

    def __contains__(self, name):
        return name in self.arrays

    def __len__(self):
        return len(self.arrays)


def test_a_mapping_by_its_methods(tmp_path):
    params = Duck({"a": np.ones(2), "b": np.ones(2)})
    opt = schuss.SGD(lr=1.0, groups={"b": {"lr": 0.5}})
    opt.update(params, Duck({"a": np.ones(2), "b": np.ones(2)}))
    opt.save(tmp_path / "file", params)
    found = schuss.load(tmp_path / "file").params
    assert {name: p.tolist() for name, p in found.items()} == {"a": [0, 0], "b": [0.5, 0.5]}


BAD_FORMER = [{"memory": [{}]}, {"memory": [{"sums": []}]}, {"memory": None}, {"memory": [3]}, {"state": {"p": None}}]


@pytest.mark.parametrize(
    ("rule", "change"),
    [*(("ScheduleFreeSGD", each) for each in BAD_FORMER), *(("Muon", each) for each in BAD_FORMER[2:])],
)
def test_hostile_states_of_the_former_format(rule, change):
    opt = schuss.optimizers.OPTIMIZERS[rule]()
    with pytest.raises(ValueError, match=r"format 1|cannot be restored|must be a dict"):
        opt.load_state_dict({**opt.state_dict(), "format": 1, **change})


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users on this system")
def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """A file can be put into it all the same; that it is there is not waited for."""
    real = os.open

    def refusing(path, flags, *args, **kwargs):
        if flags & os.O_DIRECTORY:
            raise PermissionError(errno.EACCES, "no", path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    schuss.SGD(lr=0.5).save(tmp_path / "file")
    monkeypatch.undo()
    assert schuss.load(tmp_path / "file").optimizer.lr == 0.5


def test_a_long_name(tmp_path):
    path = tmp_path / ("x" * 250)
    schuss.SGD(lr=0.5).save(path)
    assert schuss.load(path).optimizer.lr == 0.5


def test_momentum_of_nadam_from_pytorchs_state():
    """The product of its first t momenta is that of step t, also in an optimizer that has made none."""
    rng = np.random.default_rng(0)
    opt, params = schuss.NAdam(lr=0.1, groups={"b": {"beta1": 0.8}}), {"a": np.ones(3), "b": np.ones(3)}
    for _ in range(5):
        opt.update(params, {name: rng.normal(size=3) for name in params})
    state = {
        i: {"exp_avg": opt.state[n]["m"].copy(), "exp_avg_sq": opt.state[n]["v"].copy()} for i, n in enumerate("ab")
    }
    again = schuss.NAdam(lr=0.1, groups={"b": {"beta1": 0.8}})
    schuss.torch.load_torch_state(again, state, ["a", "b"], 5)
    twins, grads = {name: p.copy() for name, p in params.items()}, {name: rng.normal(size=3) for name in params}
    opt.update(params, grads)
    again.update(twins, grads)
    for name, p in params.items():
        assert_same_bits(twins[name], p)


def test_a_first_accumulator_of_a_group():
    params, twins = ({"x": np.zeros(1), "y": np.zeros(1)} for _ in range(2))
    given = {"lr": 1.0, "groups": {"x": {"initial_accumulator": 100.0}}}
    schuss.AdaGrad(**given).update(params, {"x": np.ones(1), "y": np.ones(1)})
    schuss.reference.AdaGrad(**given).update(twins, {"x": np.ones(1), "y": np.ones(1)})
    assert params["x"][0] == twins["x"][0] > -0.1
    assert params["y"][0] == twins["y"][0] < -0.9


def test_pytorchs_velocity_takes_the_rate_of_its_group():
    opt = schuss.Momentum(lr=0.1, groups={"b": {"lr": 1.0}})
    state = {i: {"momentum_buffer": np.full(2, 3.0)} for i in range(2)}
    with pytest.raises(ValueError, match="names has 'a' twice"):
        schuss.torch.load_torch_state(opt, state, ["a", "a"], t=2)
    schuss.torch.load_torch_state(opt, state, ["a", "b"], t=2)
    assert (opt.state["a"]["v"] == -0.1 * 3).all()
    assert (opt.state["b"]["v"] == -3).all()
    assert opt.groups == {"b": {"lr": 1.0}}
