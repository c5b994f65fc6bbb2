"""Memory for state: it lies as the parameter does that it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LINE, _HUGE_PAGE = 64, 2 << 20


def zeros_like(p: Any) -> NDArray[Any]:
    """Zeros in the shape, dtype and order of axes of ``p``, which lie in memory as ``p`` does.

    Unlike numpy.zeros_like this touches no memory: the thread that first works on a page places it. They
    begin as far past a cache line as ``p`` does, so that vectors straddle lines in none of them or in all;
    and large ones past the start of a huge page, which the system can then give.
    """
    p = np.asarray(p)
    axes = sorted(range(p.ndim), key=lambda axis: -abs(p.strides[axis]))
    boundary = _HUGE_PAGE if p.nbytes >= 2 * _HUGE_PAGE else _LINE
    memory = np.zeros(p.nbytes + boundary + _LINE, np.uint8)
    skip = -memory.ctypes.data % boundary + p.ctypes.data % _LINE
    zeros: NDArray[Any] = memory[skip : skip + p.nbytes].view(p.dtype).reshape([p.shape[axis] for axis in axes])
    return zeros.transpose(np.argsort(axes)) if axes else zeros


def copy_of(p: Any) -> NDArray[Any]:
    """A copy of ``p`` that lies in memory as ``p`` does."""
    copy = zeros_like(p)
    copy[...] = p
    return copy
