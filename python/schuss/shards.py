"""Checkpoints in shards: a file of each rank's share, and an index that makes them one.

Shares are written under new names; the index, a JSON document, is written last and takes the place of the one before.
So there is the old checkpoint or the new one. Shares that no index names are removed by the next save.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .checks import count, shown
from .dtypes import dtype_named, stored_dtype
from .files import open_regular, read_whole, saved_name, sum_of, sync, synced, write_whole
from .formats import elements_of
from .shares import DTYPES, Piece, Tensor
from .states import made_from

if TYPE_CHECKING:
    from typing_extensions import Self

    from .base import Optimizer

_BEGINNING = b'{"schuss.shares"'
INDEX_BEGINS = len(_BEGINNING)  # so many bytes tell whether a file is an index
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
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            mode = file.stat().st_mode & 0o777  # as the system has it for new files, which the library does not ask
            safetensors.save_file(arrays, file, {_KEY: text})
            file.chmod(mode)
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
    remove_shares(path, {share.file for share in shares})


def remove_shares(path: Path, kept: Collection[str] = ()) -> None:
    """Remove the shares of checkpoints at this path but for those that are kept."""
    ours = re.compile(re.escape(path.name) + _FILE)
    with suppress(OSError):  # of a folder that may not be listed
        for file in list(path.parent.iterdir()):
            if ours.fullmatch(file.name) and file.name not in kept:
                with suppress(OSError):  # another may have been faster
                    file.unlink()


def is_index(data: bytes) -> bool:
    """Whether a file's bytes begin as an index does."""
    return data.startswith(_BEGINNING)


class _Reader:
    """A safetensors file of which arrays are read one by one: it may be larger than memory.

    The library maps files, which would crash this process where another cuts one short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            handle = open_regular(path)
        except ValueError as error:
            raise _unfit_share(path, "it is not a regular file") from error
        self._file = os.fdopen(handle, "rb", buffering=0)
        try:
            length = int.from_bytes(self._exactly(8), "little")
            if length > os.fstat(handle).st_size:
                raise ValueError("it is shorter than its header says")
            self.header: dict[str, Any] = json.loads(self._exactly(length))
            self._begin = 8 + length
        except (ValueError, RecursionError) as error:
            self.close()
            raise _unfit_share(path, error) from error

    def _exactly(self, n: int) -> bytearray:
        data = bytearray(n)
        view, place = memoryview(data), 0
        while place < n:
            got = self._file.readinto(view[place:])
            if not got:
                raise ValueError("it has been cut short")
            place += got
        return data

    def array(self, key: str) -> NDArray[Any]:
        """One of its arrays."""
        told = self.header[key]
        dtype = stored_dtype(told["dtype"])
        shape = tuple(count("a length", each, 0) for each in told["shape"])
        first, last = (count("an offset", each, 0) for each in told["data_offsets"])
        if last - first != prod(shape) * dtype.itemsize or self._begin + last > os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"its array {key!r} is not where its header says")
        self._file.seek(self._begin + first)
        found: NDArray[Any] = np.frombuffer(self._exactly(last - first), dtype).reshape(shape)
        return found

    def dtype_of(self, key: str, size: int) -> Any:
        """The dtype of an array that must have so many elements, by what its header says."""
        try:
            told = self.header[key]
            dtype, (first, last) = stored_dtype(told["dtype"]), told["data_offsets"]
            if last - first != size * dtype.itemsize:
                raise ValueError(key)
        except (KeyError, TypeError, ValueError):
            raise _unfit_share(self._path, f"its array {key!r} is not that of its piece") from None
        return dtype

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _unfit_share(path: Path, error: object) -> ValueError:
    return ValueError(f"{os.fspath(path)} is not a whole share of a checkpoint: {error}")


class Index:
    """A sharded checkpoint that is being read; what is read from it has been checked.

    Parameters
    ----------
    path : path
    data : bytes
        Of the file at this path.
    """

    whole: bool
    listed: bool
    has_params: bool
    tensors: list[Tensor]
    sharing: dict[str, Any]
    slots: list[list[str]]

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._open: dict[int, tuple[_Reader, dict[str, int]]] = {}
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
            self.sharing = {key: document["sharing"][key] for key in ("parts", "weight", "reduction")}
            self.sharing["grad_dtype"] = document["sharing"].get("grad_dtype", "given")  # which older files do not have
            self._shares = [Share(**each) for each in document["files"]]
            self.slots, self._holders = self._held()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise self._unfit(error) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read an index; if its shares are gone meanwhile, as another has been saved, that one."""
        where = real_path(path)
        data = read_whole(where)
        while True:
            index = cls(where, data)
            try:
                for number in range(len(index._shares)):
                    index._opened(number)
                return index
            except BaseException as error:
                index.__exit__()
                now = read_whole(where) if isinstance(error, FileNotFoundError) else data
                if now == data:
                    raise
                data = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for reader, _ in self._open.values():
            reader.close()
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

    def _opened(self, number: int) -> tuple[_Reader, dict[str, int]]:
        if number not in self._open:
            share = self._shares[number]
            file = self._path.with_name(share.file)
            reader = _Reader(file)
            try:
                text = reader.header["__metadata__"][_KEY]
                if zlib.crc32(text.encode()) != share.crc32:
                    raise ValueError("its metadata is not that which the index knows")
                self._open[number] = reader, json.loads(text)["crc32"]
                if not isinstance(self._open[number][1], dict):
                    raise ValueError("it has no checksums")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                self._open.pop(number, None)
                reader.close()
                raise _unfit_share(file, error) from error
        return self._open[number]

    def _array(self, number: int, key: str) -> NDArray[Any]:
        reader, sums = self._opened(number)
        try:
            array = reader.array(key)
            if sum_of(array) != sums[key]:
                raise ValueError(f"its array {key!r} has changed since it was written: the checksum differs")
        except (ValueError, TypeError, KeyError) as error:
            raise _unfit_share(self._path.with_name(self._shares[number].file), error) from error
        return array

    def _read(self, key: str, i: int, first: int, last: int, per: int = 1) -> NDArray[Any]:
        """Elements of a tensor's walk, as they were when it was saved, or what there is once for so many of them."""

        def within(low: int, high: int) -> tuple[int, int]:
            return low // per, -(-high // per)

        dtypes = []
        for piece, number in self._holders[i]:  # before memory is taken for what a file may not have
            begin, end = within(piece.first, piece.last)
            dtypes.append(self._opened(number)[0].dtype_of(key, end - begin))
        start, stop = within(first, last)
        found = np.empty(stop - start, dtypes[0] if dtypes else dtype_named(self.tensors[i].dtype))
        for piece, number in self._holders[i]:
            begin, end = within(piece.first, piece.last)
            low, high = max(start, begin), min(stop, end)
            if low >= high:
                continue
            array = self._array(number, key).reshape(-1)
            if array.size != end - begin or array.dtype != found.dtype:
                raise self._unfit(f"{key!r} of share {number} is not that of its piece")
            found[low - start : high - start] = array[low - begin : high - begin]
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
        found = self._read(f"params/{i}", i, first, last)
        if found.dtype.name != self.tensors[i].dtype:
            raise self._unfit(f"params/{i} is {found.dtype}, and {self.tensors[i].dtype} in the index")
        return found

    def read_params(self, params: Any) -> None:
        """Read all parameters into arrays, piece by piece."""
        if not self.has_params:
            raise ValueError(f"{os.fspath(self._path)} has no parameters")
        names = list(params.keys()) if hasattr(params, "keys") else list(range(len(params)))
        if names != [tensor.name for tensor in self.tensors]:
            raise ValueError(
                f"params has the names {shown(names)}, the checkpoint {shown([t.name for t in self.tensors])}"
            )
        for tensor in self.tensors:
            p = params[tensor.name]
            if not isinstance(p, np.ndarray) or (p.shape, p.dtype.name) != (tensor.shape, tensor.dtype):
                what = f"{p.dtype} of shape {p.shape}" if isinstance(p, np.ndarray) else type(p).__name__
                raise ValueError(
                    f"params[{tensor.name!r}] is {what}, in the checkpoint it is {tensor.dtype} of shape {tensor.shape}"
                )
        for i, tensor in enumerate(self.tensors):
            line = tensor.line(params[tensor.name])
            for piece, _ in self._holders[i]:
                line[piece.slice] = self.param(i, piece.first, piece.last)

    def state(self, i: int, slot: str, first: int, last: int) -> NDArray[Any]:
        """Elements of a slot's walk; of a tensor that was not cut, all of the slot as it was."""
        key = f"state/{i}/{slot}"
        if self.whole:
            return self._array(self._holders[i][0][1], key)
        return self._read(key, i, first, last, elements_of(slot))

    def whole_state(self, i: int, slot: str) -> NDArray[Any]:
        """A slot of the state in the shape of its parameter, or its own."""
        found = self.state(i, slot, 0, self.tensors[i].size)
        flat = self.whole or elements_of(slot) > 1
        return found if flat else np.asarray(self.tensors[i].walked(found), order="C")

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
