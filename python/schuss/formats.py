"""Numbers of 16 and 8 bits, in NumPy: how parameters and state are kept in fewer bits than they are computed with.

A bfloat16 is the upper half of a float32. A parameter of 16 bits has a master of 32 beside it: the other half of a
bfloat16's, or all of it; or none, and is then rounded at random. State is rounded at random, up with the probability of
what would be cut off: where the steps of an average are smaller than half a unit of its last place, rounding to the
nearest would let it stand still. The random numbers are a hash of whose they are, of the element's place in the array,
and of the step: not of thread, block or address. cpp/codes.hpp computes the same bits.

>>> import numpy as np
>>> x = np.float32([1.0, 1.002, -3.0])
>>> rest = np.zeros(3, np.int16)
>>> p = np.zeros(3, bfloat16())
>>> encode_split(p, rest, x)
>>> p, rest
(array([1, 1, -3], dtype=bfloat16), array([    0, 16777,     0], dtype=int16))
>>> decode_split(p, rest)
array([ 1.   ,  1.002, -3.   ], dtype=float32)
"""

from __future__ import annotations

from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from .dtypes import bfloat16, is_16_bits, is_bfloat16
from .memory import room

BLOCK = 128  # elements that share a scale
_CUT = 19  # bits of a float32 that a code of 8 bits lacks
_OCTAVES = {"int8": 7, "uint8": 15}  # the least number of even steps is 2 to the power of minus that
_SIGN, _INFINITE = np.uint32(0x80000000), np.uint32(0x7F800000)

Bits: TypeAlias = Any  # an array of uint32


def elements_of(slot: str) -> int:
    """For how many elements of a parameter a slot of its state has one."""
    return BLOCK if slot.endswith("_scale") else 1


# Random numbers.


def number_of(name: Any) -> int:
    """The number of a parameter by its name: the same in each process, and in any order."""
    return crc32(str(name).encode(errors="surrogatepass"))


def _mixed(x: Bits) -> Bits:
    """The hash lowbias32 of 32 bits."""
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def random_bits(bits: int, size: int, number: int, t: int, stream: int, first: int = 0) -> Bits:
    """Some random bits for each of ``size`` elements: of a parameter (stream 0), or of its slots (from stream 2 on).

    An even stream has the lower bits of 32, the odd one after it the upper ones.
    """
    places = np.arange(first, first + size, dtype=np.uint64)
    high = (places >> np.uint64(32)).astype(np.uint32)
    key = np.zeros(size, np.uint32)
    for word in (number, t & 0xFFFFFFFF, t >> 32, high, stream // 2):
        key = _mixed((key ^ np.asarray(word, np.uint32)) + np.uint32(0x9E3779B9))
    found = _mixed(places.astype(np.uint32) ^ key)
    return found >> np.uint32(32 - bits) if stream % 2 else found & np.uint32((1 << bits) - 1)


# 16 bits: all from the bits of float32 to those of the format.


def _bits(x: Any) -> Bits:
    return np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32)


def _with_plain_nan(bits: Bits) -> Bits:
    """Any NaN becomes the one that no sum carries over."""
    return np.where((bits & ~_SIGN) > _INFINITE, np.uint32(0x7FC00000), bits)


def _bfloat16(bits: Bits, u: Bits | None) -> Bits:
    bits = _with_plain_nan(bits)
    return bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) if u is None else u) >> np.uint32(16)


def _float16(bits: Bits, u: Bits | None) -> Bits:
    if u is None:
        with np.errstate(over="ignore"):
            return bits.view(np.float32).astype(np.float16).view(np.uint16).astype(np.uint32)
    size = bits & ~_SIGN
    normal = size - np.uint32((127 - 15) << 23) + (u >> np.uint32(3)) >> np.uint32(13)
    multiple = np.where(size < 0x38800000, size, np.uint32(0)).view(np.float32) * np.float32(2**24)
    small = np.floor(multiple)
    small += u.astype(np.float32) < (multiple - small) * np.float32(2**16)
    large = np.where(size > _INFINITE, np.uint32(0x7E00), np.uint32(0x7C00))
    found = np.where(size >= 0x47800000, large, np.where(size < 0x38800000, small.astype(np.uint32), normal))
    return found | bits >> np.uint32(16) & np.uint32(0x8000)


def encode16(array: NDArray[Any], x: Any, u: Bits | None = None) -> None:
    """Round float32 numbers into an array of 16 bits: at random by ``u``, or to the nearest, ties to even."""
    rounded = (_bfloat16 if is_bfloat16(array.dtype) else _float16)(_bits(x), u)
    array[...] = rounded.astype(np.uint16).view(array.dtype).reshape(array.shape)


def decode_split(p: NDArray[Any], rest: NDArray[np.int16]) -> NDArray[Any]:
    """The float32 whose upper half, rounded to the nearest, is ``p``, and whose lower half is ``rest``.

    A remainder with which the sum has another sign, or is NaN, is of a number that the caller has replaced, and does
    not count.
    """
    upper = np.ascontiguousarray(p).reshape(-1).view(np.uint16).astype(np.uint32) << np.uint32(16)
    total = upper + np.ascontiguousarray(rest).reshape(-1).astype(np.int32).view(np.uint32)
    counts = ((total ^ upper) < _SIGN) & ~np.isnan(total.view(np.float32))
    found: NDArray[Any] = np.where(counts, total, upper).view(np.float32).reshape(p.shape)
    return found


def encode_split(p: NDArray[Any], rest: NDArray[np.int16], x: Any) -> None:
    """Split float32 numbers into a bfloat16, rounded to the nearest (ties away from zero), and what it lacks."""
    bits = _with_plain_nan(_bits(x))
    high = (bits + np.uint32(0x8000) >> np.uint32(16)).astype(np.uint16)
    p[...] = high.view(p.dtype).reshape(p.shape)
    rest[...] = bits.astype(np.uint16).view(np.int16).reshape(rest.shape)


# 8 bits, with a scale for each block of elements.


def _least(array: NDArray[Any]) -> Any:
    return np.float32(2.0 ** -_OCTAVES[array.dtype.name])


def decode8(array: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[Any]:
    """The numbers that codes of 8 bits and their blocks' scales stand for."""
    q, least = array.reshape(-1).astype(np.int32), _least(array)
    y = (least.view(np.uint32) + (np.abs(q).astype(np.uint32) << np.uint32(_CUT))).view(np.float32) - least
    with np.errstate(under="ignore"):
        x = y * np.repeat(scale, BLOCK)[: q.size]
    found: NDArray[Any] = np.where(q < 0, -x, x).reshape(array.shape)
    return found


def encode8(array: NDArray[Any], scale: NDArray[np.float32], x: Any, u: Bits) -> None:
    """Round float32 numbers at random to codes of 8 bits, and find their blocks' scales.

    The scale is the largest magnitude of a block; NaN where there is one that is not finite, and then all are. Codes
    without a sign are of numbers that are divided by: none is zero, but where the whole block is.
    """
    bits, least = _bits(x), _least(array)
    size = bits & ~_SIGN
    padded = np.zeros(-(-size.size // BLOCK) * BLOCK, np.uint32)
    padded[: size.size] = size
    largest = padded.reshape(-1, BLOCK).max(axis=1, initial=0)
    none = (largest == 0) | (largest >= _INFINITE)
    found = np.maximum(largest.view(np.float32), np.finfo(np.float32).tiny)
    factor = np.zeros(largest.size, np.float32)
    reduced = np.where(found > np.float32(2.0**125), np.float32(0.25), np.float32(1))
    np.divide(np.float32(1), reduced * found, out=factor, where=~none)
    scale[...] = np.where(largest == 0, np.float32(0), np.where(none, np.float32(np.nan), found))
    with np.errstate(invalid="ignore", under="ignore"):
        y = np.repeat(reduced, BLOCK)[: size.size] * size.view(np.float32) * np.repeat(factor, BLOCK)[: size.size]
    q = (y + least).view(np.uint32) - least.view(np.uint32) + u >> np.uint32(_CUT)
    if array.dtype == np.uint8:
        q = np.maximum(q, np.uint32(1))
    q = np.where(np.repeat(none, BLOCK)[: q.size], np.uint32(0), q).astype(np.int32)
    if array.dtype == np.int8:
        q = np.where(bits >= _SIGN, -q, q)
    array[...] = q.astype(array.dtype).reshape(array.shape)


# A parameter and its state together.


def beside(p: Any, master: str | None) -> dict[str, NDArray[Any]]:
    """What a parameter's state has of a parameter of 16 bits: nothing yet where it has 32 or 64."""
    if not isinstance(p, np.ndarray) or not is_16_bits(p.dtype) or master is None:
        return {}
    if master == "split" and is_bfloat16(p.dtype):
        return {"remainder": room(p.shape, np.int16)}
    wide = room(p.shape, np.float32)
    wide[...] = p
    return {"master": wide}


def coded(state: dict[str, NDArray[Any]], slots: Any, never_negative: Any, dtype: str) -> dict[str, NDArray[Any]]:
    """State arrays of float32 in fewer bits, rounded to the nearest: those of ``slots``, with their scales."""
    found = dict(state)
    for slot in slots:
        x = state[slot]
        if dtype == "bfloat16":
            found[slot] = room(x.shape, bfloat16())
        else:
            found[slot] = room(x.shape, np.uint8 if slot in never_negative else np.int8)
            found[f"{slot}_scale"] = room((-(-x.size // BLOCK),), np.float32)
        if x.any():
            half = 1 << random_bits_of(found, slot) - 1
            encode(found, slot, x, np.full(x.size, half - 1, np.uint32))
    return found


def random_bits_of(state: Any, slot: str) -> int:
    """How many bits a number of a slot loses, and are drawn at random."""
    return _CUT if f"{slot}_scale" in state else 16


def parameter_dtype(slot: str, dtype: Any) -> Any:
    """A dtype of parameters whose state has an array of this dtype in this place."""
    if slot == "remainder":
        return bfloat16()
    if slot == "master":
        return np.dtype(np.float16)
    return dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)


def decode(state: Any, slot: str) -> NDArray[Any]:
    """A slot of a parameter's state as it is computed with."""
    array: NDArray[Any] = state[slot]
    if f"{slot}_scale" in state:
        return decode8(array, state[f"{slot}_scale"])
    return array.astype(np.float32) if is_bfloat16(array.dtype) else array


def encode(state: Any, slot: str, x: Any, u: Bits) -> None:
    """Put numbers into a slot of fewer bits."""
    if f"{slot}_scale" in state:
        encode8(state[slot], state[f"{slot}_scale"], x, u)
    else:
        encode16(state[slot], x, u)


def parameter(p: NDArray[Any], state: Any) -> NDArray[Any]:
    """A parameter as it is computed with. Where its master is not what it shows, the caller's number counts."""
    if not is_16_bits(p.dtype):
        return p
    if "remainder" in state:
        return decode_split(p, state["remainder"])
    shown: NDArray[Any] = p.astype(np.float32)
    if "master" not in state:
        return shown
    rounded = np.empty(p.shape, p.dtype)
    encode16(rounded, state["master"])
    same = rounded.view(np.uint16) == np.array(p, order="C").view(np.uint16)
    return np.where(same, state["master"], shown)


def slots(state: Any) -> dict[str, NDArray[Any]]:
    """What a rule's step takes of a state: arrays as they are computed with."""
    return {
        slot: decode(state, slot)
        for slot in state
        if slot not in ("ema", "remainder", "master") and elements_of(slot) == 1
    }


def keep(p: NDArray[Any], state: Any, wide_p: NDArray[Any], wide: Any, number: int, t: int) -> None:
    """After step t, put what has fewer bits where it is kept; all else was changed in place."""
    for stream, (slot, x) in enumerate(wide.items(), 2):
        if x is not state[slot]:
            encode(state, slot, x, random_bits(random_bits_of(state, slot), x.size, number, t, stream))
    if is_16_bits(p.dtype):
        put_parameter(p, state, wide_p, random_bits(16, p.size, number, t, 0))


def put_parameter(p: NDArray[Any], state: Any, x: NDArray[Any], u: Bits) -> None:
    """Put the new value of a parameter of 16 bits in its place, and what it lacks beside it."""
    if "remainder" in state:
        encode_split(p, state["remainder"], x)
    elif "master" in state:
        encode16(p, x)
        state["master"][...] = x
    else:
        encode16(p, x, u)
