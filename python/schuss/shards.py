"""Checkpoints in shards: a file of each rank's share, and an index that makes them one.

Shares are written under new names; the index, a JSON document, is written last and takes the place of the one before.
So there is the old checkpoint or the new one. Shares that no index names are removed by the next save.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .checks import count
from .files import read_whole, saved_name, sum_of, sync, synced, write_whole
from .shares import DTYPES, Piece, Tensor
from .states import made_from

if TYPE_CHECKING:
    from typing_extensions import Self

    from .base import Optimizer

_BEGINNING = b'{"schuss.shares"'
_VERSION = 1
_KEY = "schuss.share"  # of a share's metadata
_FILE = r"\.[0-9a-f]{16}\.\d+-of-\d+\.safetensors"  # what follows the index's name in a share's


class Share(NamedTuple):
    """What the index says of a file: its name, the checksum of its metadata, and what of which tensors it has."""

    file: str
    crc32: int
    pieces: list[list[int]]
    slots: list[list[str]]  # of the state, for each piece


def real_path(path: str | os.PathLike[str]) -> Path:
    """Where the index will be, and the shares beside it."""
    return Path(os.path.realpath(path))


def write_share(
    path: Path,
    token: str,
    rank: int,
    ranks: int,
    pieces: Sequence[Piece],
    state: Sequence[Mapping[str, NDArray[Any]]],
    params: Sequence[NDArray[Any]] | None,
) -> Share:
    """Write one rank's file: for each piece its slots of state, and the parameter if wanted."""
    safetensors = need("safetensors.numpy", "saving checkpoints", extra="checkpoint")
    arrays = {
        f"state/{piece.tensor}/{slot}": np.asarray(array, order="C")
        for piece, slots in zip(pieces, state, strict=True)
        for slot, array in slots.items()
    }
    if params is not None:
        arrays.update({f"params/{piece.tensor}": p for piece, p in zip(pieces, params, strict=True)})
    text = json.dumps({"token": token, "rank": rank, "crc32": {key: sum_of(array) for key, array in arrays.items()}})
    file = path.with_name(f"{path.name}.{token}.{rank}-of-{ranks}.safetensors")
    try:
        with synced(file.parent):
            safetensors.save_file(arrays, file, {_KEY: text})
            sync(file)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return Share(file.name, zlib.crc32(text.encode()), [list(p) for p in pieces], [list(slots) for slots in state])


def write_index(path: Path, document: Mapping[str, Any], tensors: Sequence[Tensor], shares: Sequence[Share]) -> None:
    """Make these shares the checkpoint, and remove those that are none any more."""
    told = {
        **document,
        "version": _VERSION,
        "tensors": [[saved_name(tensor.name), *tensor[1:]] for tensor in tensors],
        "files": [share._asdict() for share in shares],
    }
    text = json.dumps(told, allow_nan=False)
    whole = f'{{"schuss.shares": {text},\n"crc32": {zlib.crc32(text.encode())}}}\n'
    write_whole(path, lambda partial: Path(partial).write_text(whole, encoding="utf-8"))
    kept, ours = {share.file for share in shares}, re.compile(re.escape(path.name) + _FILE)
    for file in path.parent.iterdir():
        if ours.fullmatch(file.name) and file.name not in kept:
            with suppress(OSError):  # another may have been faster
                file.unlink()


def is_index(data: bytes) -> bool:
    """Whether a file's bytes begin as an index does."""
    return data.startswith(_BEGINNING)


class Index:
    """A sharded checkpoint that is being read; what is read from it has been checked.

    Parameters
    ----------
    path : path
    data : bytes
        Of the file at this path.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._open: dict[int, tuple[Any, dict[str, int]]] = {}
        try:
            both = json.loads(data)
            document = both["schuss.shares"]
            if both["crc32"] != zlib.crc32(json.dumps(document).encode()):
                raise ValueError("it has changed since it was written: the checksum differs")
            if document["version"] != _VERSION:
                raise ValueError(
                    f"it has version {document['version']}, this release of schuss reads version {_VERSION}"
                )
            self.document: Mapping[str, Any] = document
            self.whole, self.listed, self.has_params = (bool(document[key]) for key in ("whole", "list", "params"))
            self.tensors = [_tensor(each) for each in document["tensors"]]
            if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
                raise ValueError("it lists a name twice")
            self._shares = [Share(**each) for each in document["files"]]
            self.slots, self._holders = self._held()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise self._unfit(error) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read an index; if its shares are gone meanwhile, as another has been saved, that one."""
        where = real_path(path)
        data = read_whole(where)
        for _ in range(10):
            index = cls(where, data)
            try:
                for number in range(len(index._shares)):
                    index._opened(number)
                return index
            except FileNotFoundError:
                now = read_whole(where)
                if now == data:
                    raise
                data = now
        return index

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.clear()

    def _unfit(self, error: object) -> ValueError:
        return ValueError(f"{os.fspath(self._path)} is not the index of a whole checkpoint of schuss: {error}")

    def _held(self) -> tuple[list[list[str]], list[list[tuple[Piece, int]]]]:
        """For each tensor the slots of its state, and its pieces with the numbers of their files."""
        slots: list[list[str] | None] = [None] * len(self.tensors)
        holders: list[list[tuple[Piece, int]]] = [[] for _ in self.tensors]
        for number, share in enumerate(self._shares):
            if not re.fullmatch(re.escape(self._path.name) + _FILE, share.file):
                raise ValueError(f"a share has the name {share.file!r}, which is none of its names")
            for piece, own in zip(share.pieces, share.slots, strict=True):
                i, first, last = (count("a piece", value, 0) for value in piece)
                if slots[i] is not None and slots[i] != own:
                    raise ValueError(
                        f"the state of {self.tensors[i].name!r} has other slots in one share than in another"
                    )
                slots[i] = [str(slot) for slot in own]
                holders[i].append((Piece(i, first, last), number))
        for i, tensor in enumerate(self.tensors):
            holders[i].sort(key=lambda held: held[0].first)
            ends = [0, *(piece.last for piece, _ in holders[i])]
            firsts = [*(piece.first for piece, _ in holders[i]), tensor.size]
            if ends != firsts:
                raise ValueError(f"its shares are not all of {tensor.name!r}")
            if self.whole and len(holders[i]) > 1:
                raise ValueError(f"{tensor.name!r} is in several shares, and whole")
        return [each or [] for each in slots], holders

    def _opened(self, number: int) -> tuple[Any, dict[str, int]]:
        if number not in self._open:
            safetensors = need("safetensors", "loading checkpoints", extra="checkpoint")
            share = self._shares[number]
            file = self._path.with_name(share.file)
            try:
                opened = safetensors.safe_open(file, framework="numpy")
                text = (opened.metadata() or {}).get(_KEY, "")
                if zlib.crc32(text.encode()) != share.crc32:
                    raise ValueError("its metadata is not that which the index knows")
                self._open[number] = opened, json.loads(text)["crc32"]
            except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{os.fspath(file)} is not a whole share of a checkpoint: {error}") from error
        return self._open[number]

    def _array(self, number: int, key: str) -> NDArray[Any]:
        safetensors = need("safetensors", "loading checkpoints", extra="checkpoint")
        opened, sums = self._opened(number)
        try:
            array: NDArray[Any] = opened.get_tensor(key)
            if sum_of(array) != sums[key]:
                raise ValueError(f"its array {key!r} has changed since it was written: the checksum differs")
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            file = self._path.with_name(self._shares[number].file)
            raise ValueError(f"{os.fspath(file)} is not a whole share of a checkpoint: {error}") from error
        return array

    def _read(self, key: str, i: int, first: int, last: int) -> NDArray[Any]:
        """Elements of a tensor's walk, as they were when it was saved."""
        tensor = self.tensors[i]
        found = np.empty(last - first, tensor.dtype)
        for piece, number in self._holders[i]:
            low, high = max(first, piece.first), min(last, piece.last)
            if low >= high:
                continue
            array = self._array(number, key).reshape(-1)
            if array.size != piece.size or array.dtype != found.dtype:
                raise self._unfit(f"{key!r} of share {number} is not that of its piece")
            found[low - first : high - first] = array[low - piece.first : high - piece.first]
        return found

    def optimizer(
        self, classes: Sequence[type[Optimizer]], state: Mapping[Any, Any] = MappingProxyType({})
    ) -> Optimizer:
        """What was saved, with this state."""
        mine = next((each for each in classes if each.__name__ == self.document.get("class")), None)
        try:
            return made_from({**self.document, "state": state}, mine)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(self._path)}: {error}") from error

    def param(self, i: int, first: int, last: int) -> NDArray[Any]:
        """Elements of a parameter's walk."""
        return self._read(f"params/{i}", i, first, last)

    def state(self, i: int, slot: str, first: int, last: int) -> NDArray[Any]:
        """Elements of a slot's walk; of a tensor that was not cut, all of the slot as it was."""
        key = f"state/{i}/{slot}"
        return self._array(self._holders[i][0][1], key) if self.whole else self._read(key, i, first, last)

    def whole_state(self, i: int, slot: str) -> NDArray[Any]:
        """A slot of the state in the shape of its parameter, or its own."""
        found = self.state(i, slot, 0, self.tensors[i].size)
        return found if self.whole else np.asarray(self.tensors[i].walked(found), order="C")

    def whole_param(self, i: int) -> NDArray[Any]:
        """A parameter."""
        return np.asarray(self.tensors[i].walked(self.param(i, 0, self.tensors[i].size)), order="C")


def _tensor(given: Any) -> Tensor:
    name, shape, dtype, order, backwards, rows_stay = given
    if type(name) not in (str, int) or dtype not in DTYPES or sorted(order) != list(range(len(shape))):
        raise ValueError(f"it describes a tensor as {given!r}")
    if not set(backwards) <= set(order):
        raise ValueError(f"it describes a tensor as {given!r}")
    shape = tuple(count("a length", each, 0) for each in shape)
    if prod(shape) > 2**60:
        raise ValueError(f"it describes a tensor as {given!r}")
    return Tensor(name, shape, dtype, tuple(order), tuple(backwards), bool(rows_stay))
