"""The one order in which sums over parts are made: a tree of neighbours' pairs, however its leaves are spread.

Leaves 0 and 1 are added, 2 and 3, ..., then these sums in the same way; one that has no neighbour waits. A whole
subtree begins at a multiple of its size, which is a power of two, and may be cut short by the tree's end alone. So
whoever has some neighbouring leaves can add up the whole subtrees among them, and the sum is made from these.

>>> subtrees(2, 7, 7), subtrees(0, 3, 7)
([(2, 4), (4, 7)], [(0, 2), (2, 3)])
>>> additions(((0, 2), (2, 3), (3, 4), (4, 7)), 7)
[(1, 2), (0, 1), (0, 3)]
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Subtree = tuple[int, int]  # its leaves: the first, and one past the last


def subtrees(first: int, last: int, n: int) -> list[Subtree]:
    """The fewest whole subtrees that the leaves ``first`` to ``last - 1`` make up, in a tree of ``n`` leaves."""
    found = []
    while first < last:
        size = 1
        while first % (2 * size) == 0 and (first + 2 * size <= last or last == n) and size < n:
            size *= 2
        found.append((first, min(first + size, n)))
        first += size
    return found


@lru_cache(maxsize=4096)
def additions(whole: tuple[Subtree, ...], n: int) -> list[tuple[int, int]]:
    """Which two of these sums of subtrees, all of a tree's, are added when: the second to the first, by number."""
    place = {start: i for i, (start, _) in enumerate(whole)}
    made: list[tuple[int, int]] = []

    def add_up(start: int, size: int) -> None:
        stop = min(start + size, n)
        if whole[place[start]][1] >= stop:
            return
        half = size // 2
        add_up(start, half)
        if start + half < n:
            add_up(start + half, half)
            made.append((place[start], place[start + half]))

    size = 1
    while size < n:
        size *= 2
    add_up(0, size)
    return made


@np.errstate(all="ignore")  # as in the core's sums
def subtree_sum(leaves: NDArray[np.float64]) -> float:
    """The sum of all leaves of a subtree."""
    while len(leaves) > 1:
        even = len(leaves) // 2 * 2
        sums = leaves[0:even:2] + leaves[1:even:2]
        leaves = np.append(sums, leaves[-1]) if len(leaves) % 2 else sums
    return float(leaves[0]) if len(leaves) else 0.0


def total(sums: Sequence[float], whole: Sequence[Subtree], n: int) -> float:
    """The sum of a tree from those of whole subtrees."""
    if n == 0:
        return 0.0
    found = list(sums)
    for i, j in additions(tuple(whole), n):
        found[i] += found[j]
    return found[0]


@np.errstate(all="ignore")
def add_arrays(
    arrays: Sequence[NDArray[Any]], order: Sequence[tuple[int, int]], out: NDArray[Any], *, keep: bool
) -> None:
    """The sum of arrays in an order of :func:`additions`. With ``keep`` they stay as they are, else they are room.

    Sums have the dtype of ``out``, whatever that of the arrays.
    """
    sums = list(arrays)
    for i, j in order:
        if i == 0:
            np.add(sums[0], sums[j], out=out, dtype=out.dtype)
            sums[0] = out
        elif sums[i] is arrays[i] and (keep or sums[i].dtype != out.dtype):
            sums[i] = np.add(sums[i], sums[j], dtype=out.dtype)
        else:
            np.add(sums[i], sums[j], out=sums[i], dtype=out.dtype)
    if sums[0] is not out:
        np.copyto(out, sums[0])
