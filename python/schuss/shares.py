"""Who has which part of all parameters: how they are cut among processes, and in which stretches they travel.

All tensors lie in one row, those of one dtype beside each other, each in the order in which an update walks over it. A
share is a stretch of the row. It is cut where a tensor's blocks begin, as its norm is a sum over blocks; a rule that
needs whole tensors gets them whole, the next largest to whoever has least. Where an element lies in the whole, which
does not depend on the shares, is its place in a piece and the piece's first one: what hashes of it go by.

>>> import numpy as np
>>> shares = Shares([Tensor.of("W", np.zeros((3, 1000), np.float32)), Tensor.of("b", np.zeros(5, np.float32))], ranks=2)
>>> [[tuple(piece) for piece in pieces] for pieces in shares.pieces]
[[(0, 0, 1024)], [(0, 1024, 3000), (1, 0, 5)]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .dtypes import computed, dtype_named

BLOCK = 1024  # elements; as the core has it

DTYPES = ("float32", "float64", "float16", "bfloat16")


class Tensor(NamedTuple):
    """How a parameter is walked over: its axes from the largest stride to the smallest, and which of them backwards."""

    name: Any
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]
    backwards: tuple[int, ...]
    rows_stay: bool  # whether it is cut between rows

    @classmethod
    def of(cls, name: Any, p: NDArray[Any], *, by_rows: bool = False) -> Tensor:
        """Of an array, as it lies; ``by_rows`` has its rows stay whole."""
        long = [axis for axis in range(p.ndim) if p.shape[axis] > 1]
        order = sorted(long, key=lambda axis: -abs(p.strides[axis]))
        order += [axis for axis in range(p.ndim) if axis not in order]
        backwards = tuple(axis for axis in long if p.strides[axis] < 0)
        return cls(name, p.shape, p.dtype.name, tuple(order), backwards, by_rows)

    @property
    def grain(self) -> int:
        """What it is cut in multiples of, in elements."""
        width = self.width if self.rows_stay else 1
        return BLOCK * width // gcd(BLOCK, width) if width else BLOCK

    @property
    def width(self) -> int:
        """How many elements a row has."""
        return prod(self.shape[1:])

    @property
    def size(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(dtype_named(self.dtype).itemsize)

    @property
    def blocks(self) -> int:
        """How many blocks its walk has; the last may be shorter."""
        return -(-self.size // BLOCK)

    @property
    def way(self) -> tuple[tuple[int, ...], list[int]]:
        """The order of the walk, in which it makes no difference where an axis of one element stands."""
        return self.backwards, [axis for axis in self.order if self.shape[axis] > 1]

    @property
    def straight(self) -> bool:
        """Whether the walk goes by rows."""
        backwards, axes = self.way
        return not backwards and axes == sorted(axes)

    def walk(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array of this shape, in the order of the walk."""
        walk: NDArray[Any] = self._turned(array).transpose(self.order)
        return walk

    def walked(self, flat: NDArray[Any]) -> NDArray[Any]:
        """A view of this shape of what lies in the order of the walk."""
        back = np.argsort(np.array(self.order, int))
        return self._turned(flat.reshape([self.shape[axis] for axis in self.order]).transpose(back))

    def _turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view that runs backwards where the walk does; the ellipsis keeps one without axes an array."""
        directions = [slice(None, None, -1 if axis in self.backwards else 1) for axis in range(array.ndim)]
        index: tuple[Any, ...] = (*directions, ...)
        turned: NDArray[Any] = array[index]
        return turned

    def line(self, array: NDArray[Any]) -> Any:
        """What takes the slices of the walk over an array: a view of one axis; where there is none, an iterator."""
        walk = self.walk(array)
        return walk.reshape(-1) if walk.flags.c_contiguous else walk.flat


class Piece(NamedTuple):
    """Elements of a tensor's walk: the tensor's number, the first element, and one past the last."""

    tensor: int
    first: int
    last: int

    @property
    def size(self) -> int:
        """How many elements it has."""
        return self.last - self.first

    @property
    def slice(self) -> slice:
        """Where they are in the walk."""
        return slice(self.first, self.last)


class Bucket(NamedTuple):
    """What travels together: of each rank's share some pieces, all of one dtype."""

    dtype: Any
    pieces: tuple[tuple[Piece, ...], ...]  # by rank

    def sizes(self) -> list[int]:
        """How many elements of each rank's."""
        return [sum(piece.size for piece in pieces) for pieces in self.pieces]


class Shares:
    """The pieces of each rank.

    Parameters
    ----------
    tensors : sequence of Tensor
    ranks : int
    whole : bool
        Whether no tensor may be cut.
    """

    tensors: tuple[Tensor, ...]
    ranks: int
    whole: bool
    row: list[int]
    pieces: tuple[tuple[Piece, ...], ...]  # by rank

    def __init__(self, tensors: Sequence[Tensor], ranks: int, *, whole: bool = False) -> None:
        self.tensors, self.ranks, self.whole = tuple(tensors), ranks, whole
        # In the row's order.
        self.row = sorted(range(len(tensors)), key=lambda i: DTYPES.index(tensors[i].dtype))
        cut = self._dealt() if whole else self._cut()
        self.pieces = tuple(tuple(piece for piece in pieces if piece.size) for pieces in cut)

    def _cut(self) -> list[list[Piece]]:
        pieces: list[list[Piece]] = [[] for _ in range(self.ranks)]
        total = sum(tensor.size * tensor.itemsize for tensor in self.tensors)
        start = 0
        for i in self.row:
            tensor = self.tensors[i]
            first = 0
            for rank in range(self.ranks):
                end = total * (rank + 1) // self.ranks - start  # of the rank's share, in the tensor's bytes
                last = tensor.size
                if end < tensor.size * tensor.itemsize and rank + 1 < self.ranks:
                    last = max(first, end // tensor.itemsize // tensor.grain * tensor.grain)
                pieces[rank].append(Piece(i, first, last))
                first = last
            start += tensor.size * tensor.itemsize
        return pieces

    def _dealt(self) -> list[list[Piece]]:
        pieces: list[list[Piece]] = [[] for _ in range(self.ranks)]
        loads = [0] * self.ranks
        owners = {}
        for i in sorted(self.row, key=lambda i: -self.tensors[i].size * self.tensors[i].itemsize):
            owners[i] = loads.index(min(loads))
            loads[owners[i]] += self.tensors[i].size * self.tensors[i].itemsize
        for i in self.row:
            pieces[owners[i]].append(Piece(i, 0, self.tensors[i].size))
        return pieces

    def nbytes(self, rank: int) -> int:
        """How large a rank's share is."""
        return sum(piece.size * self.tensors[piece.tensor].itemsize for piece in self.pieces[rank])

    def buckets(self, nbytes: int, among: Callable[[int], bool]) -> list[Bucket]:
        """The tensors that are ``among`` those asked for, in stretches of at most so many bytes, or of a block.

        The i-th piece of any rank's share may travel when the i-th bucket does.
        """
        found = []
        for dtype in DTYPES:
            chosen = [
                [p for p in pieces if self.tensors[p.tensor].dtype == dtype and among(p.tensor)]
                for pieces in self.pieces
            ]
            if not any(chosen):
                continue
            kind = dtype_named(dtype)
            # Elements of a rank: sums have as many bits as the step computes with.
            most = max(BLOCK, nbytes // self.ranks // computed(kind).itemsize // BLOCK * BLOCK)
            of_ranks = [_stretches(pieces, most) for pieces in chosen]
            for k in range(max(map(len, of_ranks))):
                found.append(Bucket(kind, tuple(tuple(s[k]) if k < len(s) else () for s in of_ranks)))
        return found


def _stretches(pieces: Sequence[Piece], most: int) -> list[list[Piece]]:
    """Pieces in stretches of at most so many elements, cut within a piece where its blocks begin."""
    found: list[list[Piece]] = []
    left = 0
    for tensor, first, last in pieces:
        while first < last:
            if left == 0:
                found.append([])
                left = most
            size = last - first if last - first <= left else left // BLOCK * BLOCK
            if size == 0:
                left = 0
                continue
            found[-1].append(Piece(tensor, first, first + size))
            first += size
            left -= size
    return found
