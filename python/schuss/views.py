"""Gradients and parameters of other libraries, as arrays in the same memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core

# What is an array already, or none; and what would be copied.
_OTHERS = (np.ndarray, np.generic, bool, int, float, complex, str, list, tuple, set, dict)


def view_of(value: Any) -> NDArray[Any] | None:
    """The array with the memory of what NumPy can look into: by DLPack, ``__array_interface__`` or a buffer.

    None where there is no such memory, or not on the CPU, or where it has other numbers than the value: of a tensor
    that PyTorch has turned the sign of, and of one whose gradient is recorded.
    """
    if isinstance(value, _OTHERS):
        return None
    turned = getattr(value, "is_neg", None)
    if callable(turned) and turned():
        return None
    if hasattr(type(value), "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError):
            return None
    try:
        memory = value if hasattr(value, "__array_interface__") else memoryview(value)
        found: NDArray[Any] = np.asarray(memory, copy=False)
    except (BufferError, TypeError, ValueError):
        return None
    return found


def parameter_view_of(value: Any) -> NDArray[Any] | None:
    """The same of a parameter: not of a tensor of PyTorch's, which counts the changes of its memory."""
    return None if hasattr(value, "_version") else view_of(value)


_core.learn_views(view_of, parameter_view_of)
