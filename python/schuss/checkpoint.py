"""Checkpoints: an optimizer, and its parameters if wanted, as a file that is whole or not there.

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
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .memory import copy_of
from .registry import OPTIMIZERS
from .states import made_from, without_arrays

if TYPE_CHECKING:
    from .base import Optimizer

__all__ = ["Checkpoint", "load"]

_KEY, _SUM_KEY = "schuss", "schuss.crc32"  # the entries of the file's metadata that are ours


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
    saved = without_arrays(opt)
    if any("function" in text for text in _kinds(saved["arguments"])):
        raise ValueError(
            "lr is a function, which a checkpoint cannot hold; use a schedule of schuss.schedules, or keep state_dict()"
        )
    made_from({**saved, "state": {}}, type(opt))  # what could not be read must not take the place of what can
    if params is not None and (hasattr(params, "keys") or isinstance(params, (list, tuple))):
        opt._engine.catch_up(params, None)  # which refuses other arrays than those that have rows behind
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
