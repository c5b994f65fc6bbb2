"""Memory for state: it lies as its parameter does, in the process's memory or in files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import computed

_LINE, _PAGE, _HUGE_PAGE = 64, 4 << 10, 2 << 20

# How far apart in their pages the arrays of a step begin, of p and five that are its state's; and from which size on.
_APART, _WORTH_IT = 10 * _LINE, 2 << 10

_folder: ContextVar[str | os.PathLike[str] | None] = ContextVar("_folder", default=None)


@contextmanager
def in_files(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Take memory from files in this folder, which may then be larger than what the process may have; None: do not.

    The files have no names, and are gone with the arrays.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def zeros(nbytes: int) -> NDArray[np.uint8]:
    """Zeros, none of which has been touched: the thread that first works on a page places it."""
    folder = _folder.get()
    if folder is None or nbytes < mmap.PAGESIZE:
        return np.zeros(nbytes, np.uint8)
    with TemporaryFile(dir=folder) as file:
        file.truncate(nbytes)
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes), np.uint8)


def room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Such zeros as an array in C order. Nobody can resize it, as the memory is not its own."""
    dtype = np.dtype(dtype)
    found: NDArray[Any] = zeros(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
    return found


def held(array: NDArray[Any]) -> NDArray[Any]:
    """A copy of an array in such memory."""
    copy = room(array.shape, array.dtype)
    copy[...] = array
    return copy


def zeros_like(p: Any, nth: int) -> NDArray[Any]:
    """Zeros for the state of ``p``: in the dtype that it is computed in, lying in memory as ``p`` does.

    Of what is worked on together with ``p`` each has another number, ``nth``, from 1 on.
    """
    p = np.asarray(p)
    return _like(p, computed(p.dtype), nth)


def _like(p: NDArray[Any], dtype: Any, nth: int) -> NDArray[Any]:
    """Zeros in the shape and order of axes of ``p``.

    They begin as far past a cache line as ``p`` does, so that vectors straddle lines in none of them or in all; and
    large ones past the start of a huge page, which the system can then give. Within their pages they begin apart: where
    loads are an exact multiple of 4,096 bytes from what was just stored, or look alike to the first-level cache, a
    processor waits.
    """
    axes = sorted(range(p.ndim), key=lambda axis: -abs(p.strides[axis]))
    nbytes = p.size * dtype.itemsize
    apart = nbytes >= _WORTH_IT
    period = _PAGE if apart else _LINE
    boundary = _HUGE_PAGE if nbytes >= 2 * _HUGE_PAGE else period
    memory = zeros(nbytes + boundary + period)
    past = p.ctypes.data // p.itemsize * dtype.itemsize + apart * nth * _APART
    skip = -memory.ctypes.data % boundary + past % period
    found: NDArray[Any] = memory[skip : skip + nbytes].view(dtype).reshape([p.shape[axis] for axis in axes])
    return found.transpose(np.argsort(axes)) if axes else found


def copy_of(p: Any) -> NDArray[Any]:
    """A copy of ``p`` that lies in memory as ``p`` does."""
    p = np.asarray(p)
    copy = _like(p, p.dtype, 0)
    copy[...] = p
    return copy


def computed_copy(p: Any, nth: int) -> NDArray[Any]:
    """The same in the dtype that ``p`` is computed in, apart from it as zeros_like() has it."""
    copy = zeros_like(p, nth)
    copy[...] = p
    return copy
