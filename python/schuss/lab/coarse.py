"""Two optimizers that fail: Adam with state of fewer bits as it is done at first, to compare with what the core does.

They are rules in NumPy. Their arrays of state are of float32 and hold, after each step, only numbers that the format
has: so they are what codes of that size would give, and :meth:`Coarse.packed` says what these would weigh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from .. import reference
from ..base import L2Options, LearningRate, Optimizer
from ..formats import BLOCK

if TYPE_CHECKING:
    from typing_extensions import Unpack

Array = NDArray[Any]


class Coarse(Optimizer):
    """Adam, whose averages go through a format after each step; each subclass has one.

    Parameters
    ----------
    lr, beta1, beta2, eps_hat, eps
        As those of :class:`schuss.Adam`.
    """

    slots = ("m", "v")
    beta1: float
    beta2: float
    eps_hat: float
    eps: float | None

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps_hat: float = 1e-7,
        eps: float | None = None,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps_hat, self.eps = beta1, beta2, eps_hat, eps

    @staticmethod
    def pack(slot: str, x: Array) -> tuple[Array, ...]:
        """Numbers of float32 as the format keeps them."""
        raise NotImplementedError

    @staticmethod
    def unpack(slot: str, kept: tuple[Array, ...]) -> Array:
        """What these stand for."""
        raise NotImplementedError

    def packed(self, state: Mapping[str, Array]) -> dict[str, tuple[Array, ...]]:
        """A parameter's state as the format keeps it."""
        return {slot: self.pack(slot, state[slot]) for slot in ("m", "v")}

    def step(self, p: Array, g: Array, lr: float, m: Array, v: Array) -> None:
        """As :class:`schuss.Adam`, and then through the format."""
        reference.Adam.step(cast(Any, self), p, g, lr, m, v)
        for slot, x in (("m", m), ("v", v)):
            x[...] = self.unpack(slot, self.pack(slot, x)).reshape(x.shape)


class NearestBfloat16(Coarse):
    """State of bfloat16, rounded to the nearest: what changes by less than half a unit stands still."""

    @staticmethod
    def pack(slot: str, x: Array) -> tuple[Array, ...]:
        """The upper halves of the float32, ties to even."""
        bits = x.reshape(-1).view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)).astype(np.uint16),)

    @staticmethod
    def unpack(slot: str, kept: tuple[Array, ...]) -> Array:
        """Zeros below them."""
        x: Array = (kept[0].astype(np.uint32) << np.uint32(16)).view(np.float32)
        return x


class LinearInt8(Coarse):
    """State of 8 bits in even steps up to a block's largest number: what is below half a step of it becomes zero."""

    @staticmethod
    def pack(slot: str, x: Array) -> tuple[Array, ...]:
        """Codes, -127 to 127 for averages and 0 to 255 for those of squares; and the size of a step by block."""
        kind, steps = (np.uint8, 255) if slot == "v" else (np.int8, 127)
        padded = np.zeros(-(-x.size // BLOCK) * BLOCK, np.float32)
        padded[: x.size] = x.reshape(-1)
        blocks = padded.reshape(-1, BLOCK)
        scale = np.abs(blocks).max(axis=1) / np.float32(steps)
        q = np.rint(blocks / np.where(scale > 0, scale, 1)[:, None])
        return np.where(np.isfinite(q), q, 0).reshape(-1)[: x.size].astype(kind), scale

    @staticmethod
    def unpack(slot: str, kept: tuple[Array, ...]) -> Array:
        """Code times step."""
        codes, scale = kept
        x: Array = codes * np.repeat(scale, BLOCK)[: codes.size]
        return x
