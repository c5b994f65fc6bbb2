"""Which dtypes numbers are kept in, and which they are computed in; bfloat16 is that of the package ml_dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._extras import need


def bfloat16() -> Any:
    """The dtype, which is of the package ml_dtypes."""
    return np.dtype(need("ml_dtypes", "bfloat16", extra="low-precision").bfloat16)


def is_bfloat16(dtype: Any) -> bool:
    """Whether a dtype is that one."""
    return bool(np.dtype(dtype).name == "bfloat16" and np.dtype(dtype).type.__module__ == "ml_dtypes")


def is_16_bits(dtype: Any) -> bool:
    """Whether a dtype is one of a parameter that is computed in more bits than it has."""
    dtype = np.dtype(dtype)
    return dtype.itemsize == 2 and (dtype == np.float16 or is_bfloat16(dtype))


def computed(dtype: Any) -> Any:
    """The dtype that numbers of a dtype are computed in."""
    return np.dtype(np.float32) if is_16_bits(dtype) else np.dtype(dtype)


def dtype_named(name: str) -> Any:
    """The dtype of this name."""
    return bfloat16() if name == "bfloat16" else np.dtype(name)


_STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STORED |= {"I16": "int16", "I8": "int8", "U8": "uint8"}


def stored_dtype(name: str) -> Any:
    """The dtype of arrays that a safetensors file calls so."""
    if name not in _STORED:
        raise ValueError(f"it has an array of {name}, which is none of ours")
    return dtype_named(_STORED[name])
