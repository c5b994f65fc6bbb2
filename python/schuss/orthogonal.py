"""Newton and Schulz's iteration for Muon, on BLAS alone: :func:`schuss.reference.orthogonalized` in place.

With ``A = x x'`` an iteration is ``x = (a I + b A + c A A) x``. All that is no product is done to the smaller matrices
``A``, and ``x`` is only multiplied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference import NEWTON_SCHULZ

__all__ = ["orthogonalize"]


def orthogonalize(
    matrix: NDArray[Any],
    steps: int,
    coefficients: tuple[float, float, float] = NEWTON_SCHULZ,
    least: float = 1e-7,
) -> None:
    """Bring the singular values of a matrix near 1, in place; its norm counts at least ``least``."""
    one, three, five = coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = x / max(float(np.linalg.norm(x)), least)
    other = np.empty_like(wide)
    squares = np.empty((len(x), len(x)), x.dtype)
    factor = np.empty_like(squares)
    diagonal = factor.reshape(-1)[:: len(x) + 1]
    for _ in range(steps):
        np.matmul(wide, wide.T, out=squares)
        np.matmul(squares, squares, out=factor)
        factor *= five
        squares *= three
        factor += squares
        diagonal += one
        np.matmul(factor, wide, out=other)
        wide, other = other, wide
    x[...] = wide
