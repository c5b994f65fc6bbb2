"""What arguments must be: numbers in a range, whole numbers, flags. Each says what is wrong, with which of them.

>>> number("momentum", 2, *SHARE)
Traceback (most recent call last):
ValueError: momentum must be in [0, 1), got 2
"""

from __future__ import annotations

from math import isfinite
from operator import index
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

# Ranges of hyperparameters: lowest, highest, whether the highest is excluded.
POSITIVE = (0.0, float("inf"), False)
SHARE = (0.0, 1.0, True)

_LONGEST = 80  # characters of a value in a message

# The kinds of NumPy's dtypes that turn into floats and are none: bool, complex, text, spans of time and dates.
_NOT_REAL = frozenset("bcSUmM")


def shown(value: Any) -> str:
    """Return what a message shows of a value: its repr, cut where it is long; its type where it has none."""
    try:
        text = repr(value)
    except Exception:  # of a whole number of thousands of digits, or of what a user has written
        return f"{type(value).__name__} that cannot be shown"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def number(name: str, value: Any, low: float, high: float, open_end: bool) -> float:
    """Return a float within the range that the mathematics allows."""
    found = value if type(value) is float else real(name, value)
    inside = low <= found < high if open_end else low <= found <= high
    if not (inside and isfinite(found)):
        if not isfinite(high):
            wanted = f"finite and at least {low:g}"
        else:
            wanted = f"in [{low:g}, {high:g}{')' if open_end else ']'}"
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
    return found


def real(name: str, value: Any) -> float:
    """Return any float, which NaN and infinity are too."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    nothing = isinstance(value, (bool, str, bytes)) or kind in _NOT_REAL
    if nothing or not hasattr(value, "__float__") or np.ndim(value):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:  # a whole number beyond all floats
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {shown(value)}") from None


def count(name: str, value: Any, least: int) -> int:
    """Return a whole number that is not below the least one."""
    try:
        found = None if isinstance(value, (bool, np.bool_)) else index(value)
    except TypeError:
        found = None
    if found is None or found < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {shown(value)}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return True or False, which it must be."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def float_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a network, of which there are two."""
    found = np.dtype(dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {found}")
    return found
