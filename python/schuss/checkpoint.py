"""Checkpoints: an optimizer, and its parameters if wanted, as a plain dict or as a file that is whole or not there.

The file is in the format safetensors: arrays, and all else as JSON in its metadata. Nothing is ever unpickled from it.

>>> import numpy as np, schuss, tempfile, os
>>> params = {"W": np.ones(3)}
>>> opt = schuss.Adam(lr=schuss.schedules.Cosine(0.1, steps=100))
>>> opt.update(params, {"W": np.ones(3)})
>>> with tempfile.TemporaryDirectory() as folder:
...     path = os.path.join(folder, "run.safetensors")
...     opt.save(path, params)
...     again, params = schuss.load(path)
>>> again.t, again.lr, params["W"].round(4)
(1, Cosine(lr=0.1, steps=100, end=0.0), array([0.9, 0.9, 0.9]))
"""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from math import isfinite
from pathlib import Path
from secrets import token_hex
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .base import Optimizer, copy_of, go_on, made_of
from .checks import count, shown
from .optimizers import OPTIMIZERS
from .schedules import Joined, ReduceOnPlateau, Schedule
from .specs import SCHEDULES

if TYPE_CHECKING:
    from .base import LearningRate

_SCHEDULES: Mapping[str, Any] = {**SCHEDULES, "Joined": Joined}

__all__ = ["FORMAT", "Checkpoint", "load", "load_torch_state", "state_dict"]

FORMAT = 2
_KEY, _SUM_KEY = "schuss", "schuss.crc32"  # the entries of the file's metadata that are ours
_DEEPEST = 50  # schedules within schedules


class Checkpoint(NamedTuple):
    """What a file held: the optimizer, and the parameters if they were saved with it.

    Parameters
    ----------
    optimizer : Optimizer
        After as many steps as it had made.
    params : dict or list of ndarray, or None
        As they were given to :meth:`schuss.Optimizer.save`; None if they were not.
    """

    optimizer: Optimizer
    params: Any  # a dict or a list of arrays, or None


# What is not an array, as JSON and back.


def _encode(value: Any, plateaus: list[Any], depth: int = 0) -> Any:
    """What is not an array as JSON has it. ``plateaus`` gathers the schedules that change: places may share one."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} schedules stand within each other")
    if isinstance(value, Schedule):
        # One of the user's cannot be made again from its name, also where its name is that of one of ours.
        if _SCHEDULES.get(type(value).__name__) is not type(value):
            return {"function": repr(value)}
        if any(value is each for each in plateaus):
            return {"same": next(i for i, each in enumerate(plateaus) if each is value)}
        if isinstance(value, ReduceOnPlateau):
            plateaus.append(value)
        found = {each.name: _encode(getattr(value, each.name), plateaus, depth + 1) for each in fields(value)}  # type: ignore[arg-type]
        return {"schedule": type(value).__name__, "fields": found}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"mapping": [[_encode(each, plateaus, depth + 1) for each in pair] for pair in pairs]}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_encode(each, plateaus, depth + 1) for each in value]}
    if callable(value):
        return {"function": repr(value)}
    if value is None or isinstance(value, (bool, str)):
        return value
    number = value.item() if isinstance(value, np.generic) else value if isinstance(value, int) else float(value)
    return {"number": repr(number)} if isinstance(number, float) and not isfinite(number) else number


def _decode(value: Any, plateaus: list[Any], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} schedules stand within each other")
    if not isinstance(value, dict):
        return value
    (kind,) = value.keys() & {"schedule", "mapping", "tuple", "function", "number", "same"}
    if kind == "number":
        return float(value["number"])
    if kind == "same":
        return plateaus[count("the number of a schedule", value["same"], 0)]
    if kind == "mapping":
        return {
            _decode(name, plateaus, depth + 1): _decode(given, plateaus, depth + 1) for name, given in value["mapping"]
        }
    if kind == "tuple":
        return tuple(_decode(each, plateaus, depth + 1) for each in value["tuple"])
    if kind == "function":
        raise ValueError(
            f"a learning rate was the function {value['function']}, which a checkpoint cannot hold: "
            "give lr=... in its place, or groups=... where it is a group's"
        )
    cls = _SCHEDULES[value["schedule"]]
    found = {name: _decode(given, plateaus, depth + 1) for name, given in value["fields"].items()}
    if set(found) != {each.name for each in fields(cls)}:
        raise ValueError(f"{cls.__name__} has other fields than {', '.join(found)}")
    schedule = cls(**{each.name: found.pop(each.name) for each in fields(cls) if each.init})
    for name, given in found.items():
        object.__setattr__(schedule, name, given)
    schedule._check()
    if cls is ReduceOnPlateau:
        plateaus.append(schedule)
    return schedule


def state_dict(opt: Optimizer) -> dict[str, Any]:
    """Return all there is to know of an optimizer; the state arrays are copies.

    Parameters
    ----------
    opt : Optimizer
        It is left as it is.

    Returns
    -------
    dict
        As :meth:`schuss.Optimizer.state_dict` returns it.
    """
    with opt._engine:
        return {**_without_arrays(opt), "state": opt._copied_state()}


def _without_arrays(opt: Optimizer) -> dict[str, Any]:
    plateaus: list[Any] = []
    return {
        "format": FORMAT,
        "class": type(opt).__name__,
        "arguments": {name: _encode(getattr(opt, name), plateaus) for name in opt._arguments},
        "t": opt.t,
        "skipped": opt.skipped,
        "memory": opt._memories(opt.t),
    }


def restore(
    opt: Optimizer, saved: Mapping[str, Any], lr: LearningRate | None = None, groups: Mapping[str, Any] | None = None
) -> None:
    """Make of ``opt`` what was saved; where anything is wrong with that, say what, and change nothing."""
    made = made_from(saved, type(opt), {"lr": lr, "groups": groups})
    with opt._engine:
        go_on(opt, made, made._memories(made.t), made.t, made.skipped, made._engine.state)


def made_from(
    saved: Mapping[str, Any], cls: type[Optimizer] | None = None, given: Mapping[str, Any] = MappingProxyType({})
) -> Optimizer:
    """Make an optimizer from a saved dict, of which nothing is taken on trust."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"a saved state is a dict, got {type(saved).__name__}")
    missing = {"format", "class", "arguments", "t", "skipped", "memory", "state"} - set(saved)
    if missing:
        raise ValueError(f"this is no state of a schuss optimizer: it lacks {', '.join(sorted(missing))}")
    if saved["format"] == 1:
        try:
            saved = _of_format_1(saved)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"this is no state of format 1: {error!r}") from error
    if saved["format"] != FORMAT:
        raise ValueError(
            f"the state has format {shown(saved['format'])}, this version of schuss reads formats up to {FORMAT}"
        )
    name = saved["class"]
    if not isinstance(name, str) or name not in (*OPTIMIZERS, cls and cls.__name__):
        raise ValueError(
            f"the state is of a class {shown(name)}, which this version of schuss does not have; "
            "one of your own goes to load(path, classes=[...])"
        )
    if cls is not None and cls.__name__ != name:
        raise ValueError(f"the state is of {name}, this optimizer is {cls.__name__}")
    cls = cls or OPTIMIZERS[name]
    if not isinstance(saved["arguments"], Mapping) or set(saved["arguments"]) != set(cls._arguments):
        raise ValueError(f"the state's arguments are not those of {name}: {', '.join(cls._arguments)}")
    for number in ("t", "skipped"):
        if isinstance(saved[number], bool) or not isinstance(saved[number], int) or not 0 <= saved[number] < 2**62:
            raise ValueError(f"the state's {number} must be a whole number, got {shown(saved[number])}")
    given = {name: value for name, value in given.items() if value is not None}
    plateaus: list[Any] = []
    try:
        decoded: dict[str, Any] = {}
        for argument, value in saved["arguments"].items():
            if argument not in given:
                decoded[argument] = _decode(value, plateaus)
                continue
            decoded[argument] = given[argument]
            with suppress(ValueError):  # another argument may share its schedule
                _decode(value, plateaus)
        opt = made_of(cls, decoded)
        state = _checked_state(opt, saved["state"])
        go_on(opt, opt, saved["memory"], saved["t"], saved["skipped"], state)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"the state of {name} cannot be restored: {error}") from error
    return opt


def _of_format_1(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it was kept before: with the workspace of two rules, and other words for what some remember."""
    state, memory = saved["state"], saved["memory"]
    if saved["class"] in ("Muon", "Adafactor") and isinstance(state, Mapping):
        state = {name: {slot: array for slot, array in slots.items() if slot != "u"} for name, slots in state.items()}
    if str(saved["class"]).startswith("ScheduleFree"):
        memory = [{"weights": [each["sums"][0], *each["sums"][2:]]} for each in memory]
    return {**saved, "format": 2, "state": state, "memory": memory}


def _checked_state(opt: Optimizer, state: Any) -> dict[Any, dict[str, NDArray[Any]]]:
    """Copies of the state arrays, which must be those that the optimizer would have made."""
    if not isinstance(state, Mapping):
        raise ValueError(f"the state must be a dict of name -> slots, got {type(state).__name__}")
    found: dict[Any, dict[str, NDArray[Any]]] = {}
    for name, slots in state.items():
        if not isinstance(slots, Mapping):
            raise ValueError(f"the state of {name!r} must be a dict of slot -> array, got {type(slots).__name__}")
        for slot, array in slots.items():
            if type(array) is not np.ndarray or array.dtype not in (np.float32, np.float64):
                what = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"the state {slot!r} of {name!r} must be an array of float32 or float64, got {what}")
        full = opt._like(slots) if set(opt._structure()[1]) <= set(slots) else None
        expected = {} if full is None else opt._new_state(name, full)
        if not set(slots) == set(expected) >= set(opt._structure()[1]):
            wanted = ", ".join(expected or opt._structure()[1]) or "none"
            raise ValueError(
                f"the state of {name!r} has the slots {', '.join(slots)}; {type(opt).__name__} has {wanted}"
            )
        for slot, array in slots.items():
            if (array.shape, array.dtype) != (expected[slot].shape, expected[slot].dtype):
                raise ValueError(
                    f"the state {slot!r} of {name!r} is {array.dtype} of shape {array.shape}, "
                    f"expected {expected[slot].dtype} of shape {expected[slot].shape}"
                )
        found[name] = {slot: copy_of(array) for slot, array in slots.items()}
    return found


# Files.


def save(opt: Optimizer, path: str | os.PathLike[str], params: Any = None) -> None:
    """Write an optimizer, and its parameters if given, to a file: all of it, or what was there before stays."""
    safetensors = need("safetensors.numpy", "saving checkpoints", extra="checkpoint")
    with opt._engine:  # until all is on the disk, as the arrays are written from where they lie
        _save(safetensors, opt, Path(path), params)


def _save(safetensors: Any, opt: Optimizer, path: Path, params: Any) -> None:
    name = type(opt).__name__
    if OPTIMIZERS.get(name, type(opt)) is not type(opt):
        raise ValueError(
            f"your class {name} is named like one of ours, which is what would be read; give it another name"
        )
    saved = _without_arrays(opt)
    if any("function" in text for text in _kinds(saved["arguments"])):
        raise ValueError(
            "lr is a function, which a checkpoint cannot hold; use a schedule of schuss.schedules, or keep state_dict()"
        )
    made_from({**saved, "state": {}}, type(opt))  # what could not be read must not take the place of what can
    arrays: dict[str, NDArray[Any]] = {}
    state = [
        [_saved_name(name), {slot: _put(arrays, f"state/{i}/{slot}", array) for slot, array in slots.items()}]
        for i, (name, slots) in enumerate(opt.state.items())
    ]
    listed, named = None, hasattr(params, "keys") and hasattr(params, "__getitem__")
    if params is not None:
        if not named and not isinstance(params, (list, tuple)):
            raise TypeError(
                f"params must be a dict of name -> numpy.ndarray, or a list of them; got {type(params).__name__}"
            )
        pairs = [(name, params[name]) for name in list(params.keys())] if named else enumerate(params)
        listed = [
            [_saved_name(name), _put(arrays, f"params/{i}", _checked_param(name, p))]
            for i, (name, p) in enumerate(pairs)
        ]
    sums = {key: _sum_of(array) for key, array in arrays.items()}
    document = {**saved, "state": state, "params": listed, "list": not named, "crc32": sums}
    text = json.dumps(document, allow_nan=False)
    metadata = {_KEY: text, _SUM_KEY: str(zlib.crc32(text.encode()))}
    _write_whole(path, lambda partial: safetensors.save_file(arrays, partial, metadata))


def _sum_of(array: NDArray[Any]) -> int:
    return zlib.crc32(array.data, zlib.crc32(f"{array.dtype}{array.shape}".encode()))


def _kinds(value: Any) -> list[Any]:
    """All keys within an encoded value."""
    if isinstance(value, Mapping):
        return [*value, *(key for each in value.values() for key in _kinds(each))]
    if isinstance(value, list):
        return [key for each in value for key in _kinds(each)]
    return []


def _saved_name(name: Any) -> Any:
    if isinstance(name, np.integer):
        return int(name)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise ValueError(f"names must be strings or whole numbers to be saved, got {name!r}")
    return name


def _checked_param(name: Any, p: Any) -> NDArray[Any]:
    array = np.asarray(p)
    if array.dtype not in (np.float32, np.float64):
        what = f"dtype {array.dtype}" if isinstance(p, np.ndarray) else type(p).__name__
        raise TypeError(f"params[{name!r}]: expected an array of float32 or float64, got {what}")
    return array


def _put(arrays: dict[str, NDArray[Any]], key: str, array: NDArray[Any]) -> str:
    arrays[key] = np.asarray(array, order="C")
    return key


def _write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write a new file beside the old one, see it on the disk, put it in the old one's place, see that on the disk."""
    path = Path(os.path.realpath(path))  # through links, as writing to them would go
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a regular file, and would be replaced by one", os.fspath(path))
    folder = path.parent
    partial = os.fspath(folder / f".schuss-{token_hex(8)}.partial")  # known before it is made, so that it goes
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    with _synced(folder):
        try:
            # Until all is there it can be read by no more than the old one could.
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
            mode = os.stat(partial).st_mode & 0o777 if mode is None else mode
            write(partial)
            _sync(partial)
            os.chmod(partial, mode)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


@contextmanager
def _synced(folder: Path) -> Iterator[None]:
    """See on the disk, in the end, which files a folder has; where it may be read, and the system can."""
    handle = None
    if hasattr(os, "O_DIRECTORY"):
        with suppress(PermissionError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        if handle is not None:
            os.fsync(handle)
    finally:
        if handle is not None:
            os.close(handle)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: str | os.PathLike[str], classes: Sequence[type[Optimizer]] = ()) -> Checkpoint:
    """Read what :meth:`schuss.Optimizer.save` has written.

    Parameters
    ----------
    path : str or path
        Of the file.
    classes : sequence of types, optional
        Classes of your own, of one of which the saved optimizer may be; what they have added to it is not in the file.

    Returns
    -------
    Checkpoint
        A pair of the optimizer and of the parameters: a dict, a list, or None where none were saved. Floats come back
        as arrays without axes.

    Raises
    ------
    ValueError
        If the file is damaged, cut short, or not one of ours; the message names it and says what is wrong.
    FileNotFoundError, PermissionError, ...
        As the system says.
    ImportError
        If safetensors is not installed.

    Notes
    -----
    Everything is checked before anything is made: the checksums of all arrays and of what describes them, the format
    and its version, the class, its arguments, the names, shapes and dtypes. No code in the file is run; arrays cannot
    point outside of it.
    """
    safetensors = need("safetensors.numpy", "loading checkpoints", extra="checkpoint")
    unfit = need("safetensors", "loading checkpoints", extra="checkpoint").SafetensorError
    data = _read_whole(path)
    try:
        arrays = safetensors.load(data)  # which checks the header, and that it accounts for each byte of the file
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        del data
        if _KEY not in metadata:
            raise ValueError("it is a safetensors file, but not one of schuss")
        if metadata.get(_SUM_KEY) != str(zlib.crc32(metadata[_KEY].encode())):
            raise ValueError("its metadata has changed since it was written: the checksum differs")
        document = json.loads(metadata[_KEY])
        state, params = _listed(document, set(arrays))
        for name, array in arrays.items():
            if _sum_of(array) != document["crc32"][name]:
                raise ValueError(f"its array {name!r} has changed since it was written: the checksum differs")
    except (unfit, ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole checkpoint of schuss: {error}") from error
    try:
        found = {name: {slot: arrays[key] for slot, key in slots.items()} for name, slots in state}
        mine = next((each for each in classes if each.__name__ == document.get("class")), None)
        opt = made_from({**document, "state": found}, mine)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    if params is None:
        return Checkpoint(opt, None)
    for name, key in params:
        if arrays[key].dtype not in (np.float32, np.float64):
            raise ValueError(f"{os.fspath(path)}: params[{name!r}] is {arrays[key].dtype}, not float32 or float64")
    if document["list"]:
        return Checkpoint(opt, [copy_of(arrays[key]) for _, key in params])
    return Checkpoint(opt, {name: copy_of(arrays[key]) for name, key in params})


def _read_whole(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, which another process may cut short meanwhile: a memory map of it would crash then."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:  # not to wait for the other end of what turns out to be a pipe
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{os.fspath(path)} is not a regular file, and so no checkpoint")
        with open(handle, "rb", closefd=False) as file:
            return file.read(about.st_size)
    finally:
        os.close(handle)


def _listed(document: Any, names: set[str]) -> tuple[list[Any], list[Any] | None]:
    """The lists of state and parameters, if they name each array of the file once and no other."""
    if not isinstance(document, dict):
        raise ValueError("its metadata is no JSON object")
    state, params = document["state"], document["params"]
    if not isinstance(document["list"], bool):
        raise ValueError("its metadata does not say whether the parameters are a list")
    keys = [key for _, slots in state for key in slots.values()] + [key for _, key in params or ()]
    if sorted(keys) != sorted(names):
        raise ValueError("its arrays are not those that its metadata lists")
    for listed in (state, params or ()):
        owners = [name for name, _ in listed]
        if len(set(owners)) != len(owners) or not all(type(name) in (str, int) for name in owners):
            raise ValueError("its metadata lists a name twice, or one that is none")
    return state, params


# PyTorch's state: slot -> (its name there, whether it lacks the factor -lr that ours holds).
_TORCH: dict[str, dict[str, tuple[str, bool]]] = {
    "SGD": {},
    "Momentum": {"v": ("momentum_buffer", True)},
    "Nesterov": {"v": ("momentum_buffer", True)},
    "AdaGrad": {"h": ("sum", False)},
    "RMSprop": {"h": ("square_avg", False), "a": ("grad_avg", False), "v": ("momentum_buffer", True)},
    "AMSGrad": {"m": ("exp_avg", False), "v": ("exp_avg_sq", False), "h": ("max_exp_avg_sq", False)},
    "Adamax": {"m": ("exp_avg", False), "u": ("exp_inf", False)},
    "AdaDelta": {"h": ("square_avg", False), "d": ("acc_delta", False)},
    **{name: {"m": ("exp_avg", False), "v": ("exp_avg_sq", False)} for name in ("Adam", "AdamW", "NAdam", "RAdam")},
}


def load_torch_state(opt: Optimizer, state: Mapping[Any, Mapping[str, Any]], names: Sequence[Any], t: int) -> None:
    """Go on from where an optimizer of PyTorch has stopped.

    Parameters
    ----------
    opt : Optimizer
        With the arguments that take the same steps (docs/conventions.md).
    state : mapping of index -> name -> array
        PyTorch's ``state_dict()["state"]`` with its tensors as arrays:
        ``{i: {k: v.numpy() for k, v in s.items()} for i, s in torch_opt.state_dict()["state"].items()}``.
    names : sequence
        The name here of each parameter there, by its index.
    t : int
        How many steps have been made; PyTorch counts per parameter, and its SGD not at all.

    Raises
    ------
    ValueError
        If a rule is one that PyTorch does not have, a name is missing, an array has another shape than the others of
        its parameter, or a count of PyTorch's differs from ``t``. Nothing has changed then.
    """
    kind = type(opt).__name__
    if kind not in _TORCH:
        raise ValueError(f"{kind} has no state that could come from PyTorch; {', '.join(_TORCH)} have")
    lr = opt._lr_at(max(t, 1))
    found: dict[Any, dict[str, NDArray[Any]]] = {}
    for index, theirs in state.items():
        if not 0 <= index < len(names):
            raise ValueError(f"the state has a parameter {index}, of which names has no name")
        if "step" in theirs and int(theirs["step"]) != t:
            raise ValueError(f"parameter {index} has made {int(theirs['step'])} steps, not t={t}")
        slots: dict[str, NDArray[Any]] = {}
        for slot in opt._slots():
            name, lacks_lr = _TORCH[kind][slot]
            if theirs.get(name) is None:
                raise ValueError(f"parameter {index} has no {name!r}, from which {slot!r} would come")
            array = np.array(theirs[name])
            slots[slot] = -lr * array if lacks_lr else array
            slots[slot] = slots[slot].astype(array.dtype, copy=False)
        found[names[index]] = slots
    saved = {**state_dict(opt), "t": t, "skipped": 0, "memory": opt._memories(t), "state": found}
    restore(opt, saved, lr=opt.lr)
