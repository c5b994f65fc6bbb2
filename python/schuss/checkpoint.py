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

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .dtypes import is_16_bits, stored_dtype
from .files import read_whole, saved_name, sum_of, write_whole
from .memory import copy_of
from .nested import flat, nest_of, nested_as
from .shards import Index, is_index, real_path, remove_shares
from .states import made_from, refuse_share, savable

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
    params : dict or list of ndarray, nested or not, or None
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
    refuse_share(opt, "save()")
    saved = savable(opt)
    given, params = params, flat(params)
    if params is not None and (hasattr(params, "keys") or isinstance(params, (list, tuple))):
        opt._engine.catch_up(params, None)  # which refuses other arrays than those that have rows behind
    arrays: dict[str, NDArray[Any]] = {}
    state = [
        [saved_name(name), {slot: _put(arrays, f"state/{i}/{slot}", array) for slot, array in slots.items()}]
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
            [saved_name(name), _put(arrays, f"params/{i}", _checked_param(name, p))]
            for i, (name, p) in enumerate(pairs)
        ]
    sums = {key: sum_of(array) for key, array in arrays.items()}
    document = {**saved, "state": state, "params": listed, "list": not named, "crc32": sums}
    if given is not params:
        document["nest"] = nest_of(given)
    text = json.dumps(document, allow_nan=False)
    metadata = {_KEY: text, _SUM_KEY: str(zlib.crc32(text.encode()))}
    write_whole(path, lambda partial: safetensors.save_file(arrays, partial, metadata))
    remove_shares(real_path(path))  # if it has taken the place of a sharded one


def _checked_param(name: Any, p: Any) -> NDArray[Any]:
    array = np.asarray(p)
    if not _is_parameter(array.dtype):
        what = f"dtype {array.dtype}" if isinstance(p, np.ndarray) else type(p).__name__
        raise TypeError(f"params[{name!r}]: expected an array of float32, float64, float16 or bfloat16, got {what}")
    return array


def _is_parameter(dtype: Any) -> bool:
    return dtype in (np.float32, np.float64) or is_16_bits(dtype)


def _put(arrays: dict[str, NDArray[Any]], key: str, array: NDArray[Any]) -> str:
    arrays[key] = np.asarray(array, order="C")
    return key


def load(path: str | os.PathLike[str], classes: Sequence[type[Optimizer]] = ()) -> Checkpoint:
    """Read what :meth:`schuss.Optimizer.save` has written, or the ranks of :meth:`schuss.mpi.Sharded.save`.

    Parameters
    ----------
    path : str or path
        Of the file; of a sharded checkpoint, its index.
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
    safetensors = need("safetensors", "loading checkpoints", extra="checkpoint")
    data = read_whole(path)
    if is_index(data):
        return _load_shares(path, classes)
    try:
        # Which checks the header, and that it accounts for each byte of the file.
        arrays = {
            name: np.frombuffer(each["data"], stored_dtype(each["dtype"])).reshape(each["shape"])
            for name, each in safetensors.deserialize(data)
        }
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        del data
        if _KEY not in metadata:
            raise ValueError("it is a safetensors file, but not one of schuss")
        if metadata.get(_SUM_KEY) != str(zlib.crc32(metadata[_KEY].encode())):
            raise ValueError("its metadata has changed since it was written: the checksum differs")
        document = json.loads(metadata[_KEY])
        state, params = _listed(document, set(arrays))
        for name, array in arrays.items():
            if sum_of(array) != document["crc32"][name]:
                raise ValueError(f"its array {name!r} has changed since it was written: the checksum differs")
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RecursionError, AttributeError) as error:
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
        if not _is_parameter(arrays[key].dtype):
            raise ValueError(f"{os.fspath(path)}: params[{name!r}] is {arrays[key].dtype}, which is no parameter's")
    if "nest" in document:
        try:
            return Checkpoint(opt, nested_as(document["nest"], [copy_of(arrays[key]) for _, key in params]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error
    if document["list"]:
        return Checkpoint(opt, [copy_of(arrays[key]) for _, key in params])
    return Checkpoint(opt, {name: copy_of(arrays[key]) for name, key in params})


def _load_shares(path: str | os.PathLike[str], classes: Sequence[type[Optimizer]]) -> Checkpoint:
    """What the ranks of a sharded optimizer have saved, put together."""
    with Index.read(path) as index:
        state = {
            tensor.name: {slot: index.whole_state(i, slot) for slot in index.slots[i]}
            for i, tensor in enumerate(index.tensors)
            if index.slots[i]
        }
        params = [index.whole_param(i) for i in range(len(index.tensors))] if index.has_params else None
        opt = index.optimizer(classes, state)
        if opt.t and any(tensor.size == 0 for tensor in index.tensors):  # of which no share has a piece
            for tensor in index.tensors:
                if tensor.size == 0:
                    state[tensor.name] = opt._make_state(tensor.name, np.zeros(tensor.shape, tensor.dtype))
            opt = index.optimizer(classes, state)
    if params is None or index.listed:
        return Checkpoint(opt, params)
    return Checkpoint(opt, {tensor.name: p for tensor, p in zip(index.tensors, params, strict=True)})


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
