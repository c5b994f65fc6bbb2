"""Newton and Schulz's iteration for Muon, on BLAS alone: :func:`schuss.reference.orthogonalized` in place.

With ``A = x x'`` an iteration is ``x = (a I + b A + c A A) x``. All that is no product is done to the smaller matrices
``A``, and ``x`` is only multiplied. Matrices of one shape go together, as many as a cache holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["orthogonalize"]

_TOGETHER = 1 << 18  # bytes; there are four such arrays


@np.errstate(all="ignore")  # as in the kernels of all other rules
def orthogonalize(
    matrices: Sequence[NDArray[Any]],
    steps: int,
    coefficients: tuple[float, float, float],
    least: float,
) -> None:
    """Bring the singular values of matrices near 1, in place; the norm of each counts at least ``least``."""
    one, three, five = coefficients
    for batch in _batches(matrices):
        n, rows, columns = len(batch), *batch[0].shape
        wide = np.empty((n, rows, columns), batch[0].dtype)
        for x, matrix in zip(wide, batch, strict=True):
            np.divide(matrix, max(float(np.linalg.norm(matrix)), least), out=x)
        other, squares = np.empty_like(wide), np.empty((n, rows, rows), wide.dtype)
        factor = np.empty_like(squares)
        diagonal = factor.reshape(n, -1)[:, :: rows + 1]
        for _ in range(steps):
            np.matmul(wide, wide.swapaxes(1, 2), out=squares)
            np.matmul(squares, squares, out=factor)
            factor *= five
            squares *= three
            factor += squares
            diagonal += one
            np.matmul(factor, wide, out=other)
            wide, other = other, wide
        for matrix, x in zip(batch, wide, strict=True):
            matrix[...] = x


def _batches(matrices: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    """Those that have elements, by shape and dtype, each with no more rows than columns."""
    alike: dict[Any, list[NDArray[Any]]] = {}
    for each in matrices:
        wide = each.T if each.shape[0] > each.shape[1] else each
        if wide.size:
            alike.setdefault((wide.shape, wide.dtype), []).append(wide)
    for found in alike.values():
        most = max(1, _TOGETHER // found[0].nbytes)
        yield from (found[i : i + most] for i in range(0, len(found), most))
