"""One step of a share: what the engine asks of the other ranks, before, within and after."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import Engine
from ..dtypes import computed
from ..rows import Rows
from ..shares import BLOCK, Piece, Shares
from ..trees import Subtree, subtree_sum, subtrees, total
from .given import NONE, ROWS, Given
from .moves import Line, Moves
from .ranks import Ranks


class Step:
    """One step: the pieces that the engine steps, and the answers to what it asks.

    Parameters
    ----------
    ranks : Ranks
    shares : Shares
    given : Given
    lines : mapping of int -> line
        Of each parameter.
    pieces : mapping of int -> array
        Of each tensor of which this rank has a piece: what the engine steps.
    moves : Moves
    parts : range
        The parts of the batch whose gradients were given.
    at_once : bool
        Whether all gradients are wanted before the first of them is looked at.
    bucket : int
        Bytes that travel together.
    """

    shares: Shares
    given: Given
    lines: dict[int, Line]
    pieces: dict[int, NDArray[Any]]
    is_ready: bool
    is_together: bool
    windows: list[int]

    def __init__(
        self,
        ranks: Ranks,
        shares: Shares,
        given: Given,
        lines: dict[int, Line],
        pieces: dict[int, NDArray[Any]],
        moves: Moves,
        parts: range,
        at_once: bool,
        bucket: int,
    ) -> None:
        self._ranks, self.shares, self.given, self.lines, self._moves = ranks, shares, given, lines, moves
        self._parts, self._at_once, self._bucket = parts, at_once, bucket
        self._active = [i for i, kind in enumerate(given.kinds) if kind != NONE]
        self._tables = [i for i in self._active if given.kinds[i] == ROWS and shares.tensors[i].size]
        self._own = [piece for piece in shares.pieces[ranks.rank] if given.kinds[piece.tensor] != NONE]
        self.pieces = pieces
        self._rows: dict[int, Rows] = {}
        self.params: dict[Any, Any] = {}  # by name, for the engine
        self.grads: dict[Any, Any] = {}
        self.is_ready = False  # whether the engine may have written
        self.is_together = False  # whether all ranks are where an error of one alone cannot be agreed on
        self.windows = moves.windows

    # Before.

    def begin(self) -> None:
        """Have the gradients on their way; those by rows have come when it returns."""
        for copy, line, place in self._copies():
            copy[...] = line[place]
        tensors, grads = self.shares.tensors, self.given.grads
        dense = [i for i in self._active if self.given.kinds[i] != ROWS]
        lines = {
            part: {i: tensors[i].line(each[i]) for i in dense} for part, each in zip(self._parts, grads, strict=True)
        }
        self._moves.begin(lines)
        for i in self._tables:
            self._sum_rows(i)
        if self._at_once:
            self._moves.sum_up(len(self._moves.buckets) - 1)
        for piece in self._own:
            i = piece.tensor
            p, name = self.pieces[i], tensors[i].name
            self.params[name] = p
            if i in self._rows:
                self.grads[name] = self._rows[i]
            elif i in self._moves.sums:
                flat = self._moves.sums[i]
                self.grads[name] = tensors[i].walked(flat) if self.shares.whole else flat.reshape(p.shape)
            else:  # there is nothing to add: the gradient is the caller's
                g = grads[0][i]
                self.grads[name] = g if self.shares.whole else np.asarray(tensors[i].line(g)[:]).reshape(p.shape)
        if not self._moves.buckets:
            whole = [self.pieces[piece.tensor] for piece in self._own if piece.tensor not in self._rows]
            self.windows = [sum(p.size * computed(p.dtype).itemsize for p in whole)]

    def _sum_rows(self, i: int) -> None:
        """The rows of my piece that any part of the batch names, in the order of the parts."""
        tensor = self.shares.tensors[i]
        rows = [grads[i] for grads in self.given.grads]
        indices = np.concatenate([each.indices for each in rows])
        values = np.concatenate([each.values.reshape(-1, tensor.width) for each in rows])
        ranges = self._row_ranges(i)
        to_whom = [np.flatnonzero((indices >= low) & (indices < high)) for low, high in ranges]
        coming = self._ranks.exchanged([indices[chosen] for chosen in to_whom])
        coming_values = self._ranks.exchanged([values[chosen].ravel() for chosen in to_whom])
        self._moves.received += sum(
            each.nbytes for came in (coming, coming_values) for r, each in enumerate(came) if r != self._ranks.rank
        )
        low, _ = ranges[self._ranks.rank]
        found = np.concatenate(coming_values).reshape(-1, *tensor.shape[1:])
        self._rows[i] = Rows(np.concatenate(coming) - low, found)

    def _row_ranges(self, i: int) -> list[tuple[int, int]]:
        """Which rows of a table, which has elements, are each rank's."""
        width = self.shares.tensors[i].width
        found = []
        for pieces in self.shares.pieces:
            mine = next((piece for piece in pieces if piece.tensor == i), Piece(i, 0, 0))
            found.append((mine.first // width, mine.last // width))
        return found

    # Within: what the engine calls.

    def survey(self, finite: Sequence[bool], sums: Sequence[NDArray[np.float64]]) -> tuple[float, Any]:
        """The norm over all gradients of all ranks, and the name of the first that is not finite."""
        self.is_together = True
        self._ranks.agree()
        squares, not_finite = self._totals(
            sums, [np.full(len(s), not f, float) for s, f in zip(sums, finite, strict=True)]
        )
        norm = sqrt(subtree_sum(np.array([squares[i] for i in self._active])))
        bad = [self.shares.tensors[i].name for i in self._active if not_finite[i]]
        self.is_together = False
        return norm, bad[0] if bad else None

    def ready(self, scalars: Sequence[Sequence[float]]) -> None:
        """All ranks go on to write, or none does."""
        self.is_together = True
        label = "the learning rate of this step, or what else it computes with (a schedule that only some report to?)"
        self._ranks.agree(None, [(label, _numbers(each)) for each in scalars])
        self.is_ready = True

    def norms(self, p: Sequence[NDArray[np.float64]], u: Sequence[NDArray[np.float64]]) -> list[tuple[float, float]]:
        """Of each of my pieces' tensors, the norms of the parameter and of its direction."""
        of_p, of_u = self._totals(p, u)
        return [(sqrt(of_p[piece.tensor]), sqrt(of_u[piece.tensor])) for piece in self._own]

    def before(self, k: int) -> None:
        """Have what the k-th stretch of the row needs."""
        if k < len(self._moves.buckets):
            self._moves.sum_up(k)

    def after(self, k: int) -> None:
        """Send what has been stepped."""
        if k < len(self._moves.buckets):
            self._moves.send(k, self._flat, self.lines)

    def _totals(self, *columns: Sequence[NDArray[np.float64]]) -> list[dict[int, float]]:
        """The sums over all blocks of each tensor, from those of my pieces' blocks: all ranks do this."""
        mine = [
            subtree_sum(leaves[a - first : b - first])
            for column in columns
            for piece, leaves in zip(self._own, column, strict=True)
            for first, whole in [self._blocks(piece)]
            for a, b in whole
        ]
        whole_of = [
            [
                (p.tensor, subtree)
                for p in pieces
                if self.given.kinds[p.tensor] != NONE
                for subtree in self._blocks(p)[1]
            ]
            for pieces in self.shares.pieces
        ]
        lengths = [len(columns) * len(each) for each in whole_of]
        values = self._ranks.gathered_known(np.array(mine, float), lengths)
        found = []
        for k in range(len(columns)):
            of_tensors: dict[int, tuple[list[float], list[Subtree]]] = {i: ([], []) for i in self._active}
            for each, numbers in zip(whole_of, values, strict=True):
                for (i, subtree), number in zip(each, numbers[k * len(each) :].tolist(), strict=False):
                    of_tensors[i][0].append(number)
                    of_tensors[i][1].append(subtree)
            found.append({i: total(*parts, self.shares.tensors[i].blocks) for i, parts in of_tensors.items()})
        return found

    def _blocks(self, piece: Piece) -> tuple[int, list[Subtree]]:
        """The first block of a piece, and the whole subtrees that its blocks make up."""
        first, last = piece.first // BLOCK, -(-piece.last // BLOCK)
        return first, subtrees(first, last, self.shares.tensors[piece.tensor].blocks)

    def drain(self) -> None:
        """Wait for what is under way, of a step that is not made."""
        self._moves.drain()
        self._moves.forget()

    # After.

    @property
    def _flat(self) -> dict[int, Any]:
        """My pieces, each by what takes the slices of its walk."""
        if self.shares.whole:
            return {piece.tensor: self.lines[piece.tensor] for piece in self._own}
        return {piece.tensor: self.pieces[piece.tensor].reshape(-1) for piece in self._own}

    def _copies(self) -> list[tuple[NDArray[Any], Line, slice]]:
        """Those of my pieces that are copies, as a walk by strides has no view, and where they belong."""
        if self.shares.whole:
            return []
        return [
            (self.pieces[piece.tensor].reshape(-1), self.lines[piece.tensor], piece.slice)
            for piece in self._own
            if not isinstance(self.lines[piece.tensor], np.ndarray)
        ]

    def end(self, engine: Engine) -> None:
        """Wait until all ranks have all parameters."""
        self._moves.end(self._flat, self.lines)
        everything = engine.moved_others
        if everything:
            engine.catch_up_all()
        for i in self._tables:
            self._send_rows(i, everything)
        for copy, line, place in self._copies():
            line[place] = copy
        self._moves.forget()

    def _send_rows(self, i: int, everything: bool) -> None:
        """Send the rows that have changed, in as many rounds as the longest list of a rank needs."""
        tensor, ranks = self.shares.tensors[i], self._ranks
        low, high = self._row_ranges(i)[ranks.rank]
        changed = np.arange(high - low) if everything else np.unique(self._rows[i].indices)
        most = max(1, self._bucket // ranks.size // (tensor.width * tensor.itemsize))
        longest = int(ranks.gathered(np.array([len(changed)])).max())
        for start in range(0, longest, most):
            chosen = changed[start : start + most]
            values = self.pieces[i][chosen].ravel() if len(chosen) else np.empty(0, tensor.dtype)
            of_all, values_of_all = ranks.gathered_lists(chosen + low), ranks.gathered_lists(values)
            for r, (rows, found) in enumerate(zip(of_all, values_of_all, strict=True)):
                if r != ranks.rank:
                    self.given.params[i][rows] = found.reshape(-1, *tensor.shape[1:])
                    self._moves.received += rows.nbytes + found.nbytes


def _numbers(scalars: Sequence[float]) -> str:
    """Without the zeros at their end, which are none of the rule's."""
    used = max((i for i, number in enumerate(scalars, 1) if number != 0), default=0)
    return ", ".join(map(repr, scalars[:used]))
