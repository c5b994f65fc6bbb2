"""Files that are whole or not there, and the sums by which a change in them is noticed."""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sum_of(array: NDArray[Any]) -> int:
    """A checksum of an array, with its dtype and shape."""
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(f"{array.dtype}{array.shape}".encode()))


def write_whole(path: Path, write: Callable[[str], object]) -> None:
    """Write a new file beside the old one, see it on the disk, put it in the old one's place, see that on the disk."""
    path = Path(os.path.realpath(path))  # through links, as writing to them would go
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a regular file, and would be replaced by one", os.fspath(path))
    folder = path.parent
    partial = os.fspath(folder / f".schuss-{token_hex(8)}.partial")  # known before it is made, so that it goes
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    with synced(folder):
        try:
            # Until all is there it can be read by no more than the old one could.
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
            mode = os.stat(partial).st_mode & 0o777 if mode is None else mode
            write(partial)
            sync(partial)
            os.chmod(partial, mode)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


@contextmanager
def synced(folder: Path) -> Iterator[None]:
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


def sync(path: str | os.PathLike[str]) -> None:
    """See a file on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a file to read, and not wait for the other end of what turns out to be a pipe."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{os.fspath(path)} is not a regular file, and so no checkpoint")
    return handle


def read_whole(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a file, at most so many; another process may cut it short, and a memory map of it would crash."""
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return file.read(size if most is None else min(size, most))


def saved_name(name: Any) -> Any:
    """Return a parameter's name as a file has it."""
    if isinstance(name, np.integer):
        return int(name)
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise ValueError(f"names must be strings or whole numbers to be saved, got {name!r}")
    return name
