"""The moving of gradients and parameters: in buckets, the next ones on their way while one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dtypes import computed
from ..shares import Bucket, Piece, Shares
from ..trees import Subtree, add_arrays, additions, subtrees
from .ranks import Ranks

Line = Any  # what takes the slices of a tensor's walk

_UNDER_WAY = 2  # buckets, in each direction


def parts_of(rank: int, ranks: int, parts: int) -> range:
    """Which parts of the batch are a rank's."""
    return range(rank * parts // ranks, (rank + 1) * parts // ranks)


class Buffers:
    """Memory in which buckets travel, used again and again: as much as the largest has needed."""

    def __init__(self) -> None:
        self._memory: dict[Any, NDArray[np.uint8]] = {}

    def of(self, use: Any, size: int, dtype: Any = np.uint8) -> NDArray[Any]:
        """An array of so many elements, not initialised; the next call for the same use overwrites it."""
        nbytes = size * np.dtype(dtype).itemsize
        if use not in self._memory or self._memory[use].nbytes < nbytes:
            self._memory[use] = np.empty(nbytes, np.uint8)
        return self._memory[use][:nbytes].view(dtype)

    @property
    def nbytes(self) -> int:
        """How much memory that is, in bytes."""
        return sum(each.nbytes for each in self._memory.values())


class _Messages(NamedTuple):
    """What goes to all ranks, or comes from them: its memory, each rank's bytes in it, and these as arrays."""

    memory: NDArray[np.uint8]
    counts: list[int]
    places: list[int]
    arrays: list[list[NDArray[Any]]]


class Moves:
    """The buckets of a step.

    Parameters
    ----------
    ranks : Ranks
    shares : Shares
    gradients : mapping of int -> dtype
        Of each tensor with a dense gradient: what the parts of its gradient are given as, or rounded to.
    parts : int
        Of the batch, over all ranks.
    in_order : bool
        Whether gradients are added in the tree's order, or in MPI's.
    nbytes : int
        Of a bucket, over all ranks.
    buffers : Buffers
    sums : mapping of dtype -> array
        Memory for the sums of this rank's share.
    """

    buckets: list[Bucket]
    windows: list[int]
    received: int
    seconds: dict[str, float]

    def __init__(
        self,
        ranks: Ranks,
        shares: Shares,
        gradients: Mapping[int, Any],
        parts: int,
        in_order: bool,
        nbytes: int,
        buffers: Buffers,
        sums: Mapping[str, NDArray[Any]],
    ) -> None:
        self._ranks, self._shares, self._in_order, self._buffers = ranks, shares, in_order, buffers
        self._given_as, rank = gradients, ranks.rank
        self._parts = parts_of(rank, ranks.size, parts)
        self._subtrees = [
            subtrees(mine.start, mine.stop, parts)
            for mine in (parts_of(r, ranks.size, parts) for r in range(ranks.size))
        ]
        # A rank sends its share of a bucket once for each of its subtrees.
        self.buckets = shares.buckets(nbytes // max(map(len, self._subtrees)), gradients.__contains__)
        self._order = additions(tuple(each for some in self._subtrees for each in some), parts)
        # A part's gradient that no other has been added to travels as it was given, where all of a bucket are alike.
        self._travels_as = [
            given_as.pop() if len(given_as) == 1 else computed(bucket.dtype)
            for bucket in self.buckets
            for given_as in [{gradients[piece.tensor] for pieces in bucket.pieces for piece in pieces}]
        ]
        # Of my pieces: where each bucket ends, in bytes of what is computed with; and the sums of the gradients.
        sizes = [bucket.sizes()[rank] for bucket in self.buckets]
        itemsizes = [computed(bucket.dtype).itemsize for bucket in self.buckets]
        self.windows = np.cumsum([n * b for n, b in zip(sizes, itemsizes, strict=True)], dtype=np.int64).tolist()
        self.sums: dict[int, NDArray[Any]] = {}
        self._sums: list[NDArray[Any]] = []
        for dtype in dict.fromkeys(bucket.dtype for bucket in self.buckets):
            mine = [
                piece
                for piece in shares.pieces[rank]
                if piece.tensor in gradients and shares.tensors[piece.tensor].dtype == dtype.name
            ]
            memory = sums[dtype.name]
            place = 0
            for piece in mine:
                self.sums[piece.tensor] = memory[place : place + piece.size]
                place += piece.size
            place = 0
            for bucket, size in zip(self.buckets, sizes, strict=True):
                if bucket.dtype == dtype:
                    self._sums.append(memory[place : place + size])
                    place += size
        self.received = 0  # bytes from other ranks, in all
        self.seconds = {"reduce": 0.0, "gather": 0.0}

    # Gradients: each rank adds up what it can of its parts, sends it to whose share it is, and adds up what comes.

    def begin(self, gradients: Mapping[int, Mapping[int, Line]]) -> None:
        """Start with the sums: the gradients by part and tensor."""
        self._gradients = gradients
        self._coming: deque[tuple[int, Any, list[NDArray[Any]]]] = deque()
        self._going: deque[tuple[int, Any, NDArray[Any]]] = deque()
        self._sent, self._summed, self._stepped = 0, 0, 0
        start = perf_counter()
        self._send_gradients()
        self.seconds["reduce"] += perf_counter() - start

    def _send_gradients(self) -> None:
        while self._sent < len(self.buckets) and self._sent < self._summed + _UNDER_WAY:
            k = self._sent
            self._coming.append((k, *(self._sent_in_order(k) if self._in_order else self._sent_to_mpi(k))))
            self._sent += 1

    def _fill(self, pieces: Sequence[Piece], parts: Subtree, out: NDArray[Any]) -> None:
        """The sum of my parts' gradients, on some pieces."""
        n = parts[1] - parts[0]
        order = additions(tuple((i, i + 1) for i in range(n)), n)
        place = 0
        for piece in pieces:
            given_as, room = self._given_as[piece.tensor], out[place : place + piece.size]
            arrays = [self._gradients[part][piece.tensor][piece.slice] for part in range(*parts)]
            if n > 1 or room.dtype != given_as:
                arrays = [array if array.dtype == given_as else array.astype(given_as) for array in arrays]
                add_arrays(arrays, order, room, keep=True)
            else:
                np.copyto(room, arrays[0], casting="unsafe")  # which rounds to the nearest
            place += piece.size

    def _messages(self, use: str, k: int, whose: Sequence[int], sizes: Sequence[int]) -> _Messages:
        """The k-th bucket's messages from or to all ranks: the subtrees of ``whose`` rank each, of so many elements.

        Within a message arrays of more bytes to an element come first, so that each lies where one may.
        """
        wide = computed(self.buckets[k].dtype)
        spans, counts, places, end = [], [], [], 0
        for rank, size in zip(whose, sizes, strict=True):
            place = -(-end // wide.itemsize) * wide.itemsize
            kinds = [self._travels_as[k] if last - first == 1 else wide for first, last in self._subtrees[rank]]
            spans.append([(0, wide)] * len(kinds))
            end = place
            for i in sorted(range(len(kinds)), key=lambda i: -kinds[i].itemsize):
                spans[-1][i] = end, kinds[i]
                end += size * kinds[i].itemsize
            places.append(place)
            counts.append(end - place)
        memory = self._buffers.of((use, k % _UNDER_WAY), end)
        arrays = [
            [memory[at : at + size * kind.itemsize].view(kind) for at, kind in each]
            for each, size in zip(spans, sizes, strict=True)
        ]
        return _Messages(memory, counts, places, arrays)

    def _sent_in_order(self, k: int) -> tuple[Any, list[NDArray[Any]]]:
        bucket, ranks = self.buckets[k], self._ranks
        n, me = ranks.size, ranks.rank
        sizes = bucket.sizes()
        # My own sums lie where they would have come.
        going = self._messages("gradients out", k, [me] * n, [*sizes[:me], 0, *sizes[me + 1 :]])
        coming = self._messages("gradients in", k, range(n), [sizes[me]] * n)
        for r, pieces in enumerate(bucket.pieces):
            arrays = (coming if r == me else going).arrays[r]
            for parts, array in zip(self._subtrees[me], arrays, strict=True):
                self._fill(pieces, parts, array)
        summands = [array for arrays in coming.arrays for array in arrays]
        if n == 1:
            return None, summands
        coming.counts[me] = 0
        self.received += sum(coming.counts)
        kind = ranks.MPI.BYTE
        outgoing = [going.memory, (going.counts, going.places), kind]
        incoming = [coming.memory, (coming.counts, coming.places), kind]
        return ranks.started(ranks.comm.Ialltoallv(outgoing, incoming)), summands

    def _sent_to_mpi(self, k: int) -> tuple[Any, list[NDArray[Any]]]:
        bucket, ranks = self.buckets[k], self._ranks
        sizes = bucket.sizes()
        sent = self._buffers.of(("gradients out", k % _UNDER_WAY), sum(sizes), computed(bucket.dtype))
        place = 0
        for pieces, size in zip(bucket.pieces, sizes, strict=True):
            self._fill(pieces, (self._parts.start, self._parts.stop), sent[place : place + size])
            place += size
        self.received += (ranks.size - 1) * self._sums[k].nbytes
        kind = ranks.MPI.DOUBLE if bucket.dtype == np.float64 else ranks.MPI.FLOAT
        request = ranks.comm.Ireduce_scatter([sent, kind], [self._sums[k], kind], sizes, op=ranks.MPI.SUM)
        return ranks.started(request), []

    def sum_up(self, k: int) -> None:
        """Have the sums of the k-th bucket, and of those before it."""
        start = perf_counter()
        while self._summed <= k:
            number, request, arrays = self._coming.popleft()
            if request is not None:
                self._ranks.wait(request)
            if self._in_order:
                add_arrays(arrays, self._order, self._sums[number], keep=False)
            self._summed += 1
            self._send_gradients()
        self.seconds["reduce"] += perf_counter() - start

    # Parameters: what I have stepped goes to all others.

    def send(self, k: int, mine: Mapping[int, NDArray[Any]], all_lines: Mapping[int, Line]) -> None:
        """Send the k-th bucket of my pieces, and put what has come of others' where it belongs."""
        start = perf_counter()
        bucket, ranks = self.buckets[k], self._ranks
        self._stepped = k + 1
        while len(self._going) >= _UNDER_WAY:
            self._receive(all_lines)
        if ranks.size > 1:
            sizes = bucket.sizes()
            sent = self._buffers.of(("parameters out", k % _UNDER_WAY), sizes[ranks.rank], bucket.dtype)
            firsts = {piece.tensor: piece.first for piece in self._shares.pieces[ranks.rank]}
            place = 0
            for piece in bucket.pieces[ranks.rank]:
                first = piece.first - firsts[piece.tensor]
                sent[place : place + piece.size] = mine[piece.tensor][first : first + piece.size]
                place += piece.size
            coming = self._buffers.of(("parameters in", k % _UNDER_WAY), sum(sizes), bucket.dtype)
            self.received += (sum(sizes) - sizes[ranks.rank]) * sent.itemsize
            kind, counts = ranks.MPI.BYTE, [size * sent.itemsize for size in sizes]
            outgoing, incoming = [sent.view(np.uint8), kind], [coming.view(np.uint8), counts, kind]
            request = ranks.started(ranks.comm.Iallgatherv(outgoing, incoming))
            self._going.append((k, request, coming))
        self.seconds["gather"] += perf_counter() - start

    def _receive(self, lines: Mapping[int, Line]) -> None:
        k, request, coming = self._going.popleft()
        self._ranks.wait(request)
        place = 0
        for rank, pieces in enumerate(self.buckets[k].pieces):
            for piece in pieces:
                if rank != self._ranks.rank:
                    lines[piece.tensor][piece.slice] = coming[place : place + piece.size]
                place += piece.size

    def forget(self) -> None:
        """Let go of the gradients."""
        self._gradients = {}

    def drain(self) -> None:
        """Wait for what is under way, of a step that was not made."""
        for _, request, _ in [*self._coming, *self._going]:
            if request is not None:
                self._ranks.wait(request)

    def end(self, mine: Mapping[int, NDArray[Any]], all_lines: Mapping[int, Line]) -> None:
        """Send the buckets that have not been, and wait for all."""
        for k in range(self._stepped, len(self.buckets)):
            self.send(k, mine, all_lines)
        start = perf_counter()
        while self._going:
            self._receive(all_lines)
        self.seconds["gather"] += perf_counter() - start
