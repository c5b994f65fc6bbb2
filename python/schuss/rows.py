"""A gradient of which only some rows are not zero: their numbers, and what stands in them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core

__all__ = ["Rows"]


class Rows:
    """The gradient of a parameter by rows: ``G[indices[i]] += values[i]`` in this order, zero elsewhere.

    What ``numpy.add.at(zeros, indices, values)`` makes dense; an optimizer takes it as it is. Rows that are named more
    than once are added up.

    Parameters
    ----------
    indices : ndarray of int64, shape (k,)
        Which rows of the parameter, each from 0 to n - 1.
    values : ndarray of shape (k, ...)
        The rows, of the parameter's dtype; a parameter of shape (n, ...) has rows of shape (...).

    Raises
    ------
    TypeError
        If one is no array, or of another dtype than these.
    ValueError
        If the shapes do not fit each other.

    See Also
    --------
    schuss.nn.Embedding : A layer whose backward pass gives such a gradient.
    schuss.Optimizer.catch_up : What brings the rows up to date that the next forward pass reads.

    Notes
    -----
    With ``sparse="exact"``, the default, an optimizer wants ``catch_up(params, {name: indices})`` before rows are read;
    with ``sparse="touched"`` it does not. The gradients of two layers with one table are added by
    ``Rows(numpy.concatenate(indices), numpy.concatenate(values))`` of both. PyTorch has sparse COO tensors for this,
    TensorFlow ``IndexedSlices``.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss import Rows
    >>> rows = Rows(np.array([2, 0, 2]), np.array([[1.0, 1.0], [5.0, 5.0], [10.0, 10.0]]))
    >>> rows.dense(3)
    array([[ 5.,  5.],
           [ 0.,  0.],
           [11., 11.]])
    """

    __slots__ = ("_indices", "_values")

    def __init__(self, indices: NDArray[np.int64], values: NDArray[Any]) -> None:
        for name, array in (("indices", indices), ("values", values)):
            if type(array) not in (np.ndarray, np.memmap):  # other subclasses may mean more than their numbers
                raise TypeError(f"Rows: {name} must be a numpy.ndarray, got {type(array).__name__}")
        if indices.dtype == np.bool_:
            raise TypeError("Rows: indices are a mask; pass numpy.flatnonzero(mask), and values[mask]")
        if indices.dtype.kind == "f":
            raise TypeError(f"Rows: indices must be of int64, got {indices.dtype}; they come first, then the values")
        if indices.dtype != np.int64:
            raise TypeError(
                f"Rows: indices must be of int64, got {indices.dtype}; convert them with .astype(numpy.int64)"
            )
        if values.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"Rows: values must be of float32 or float64, got {values.dtype}; convert them with "
                ".astype(numpy.float32), also for a parameter of 16 bits"
            )
        if indices.ndim != 1:
            raise ValueError(f"Rows: indices must have shape (k,), got {indices.shape}; flatten them with .ravel()")
        if values.ndim == 0 or len(values) != len(indices):
            raise ValueError(
                f"Rows: {len(indices)} indices need values of shape ({len(indices)}, ...), got {values.shape}"
            )
        self._indices, self._values = indices, values

    @property
    def indices(self) -> NDArray[np.int64]:
        """Which rows; the array that was given."""
        return self._indices

    @property
    def values(self) -> NDArray[Any]:
        """What stands in them; the array that was given."""
        return self._values

    def dense(self, n: int) -> NDArray[Any]:
        """Return the same gradient as an array of ``n`` rows, to look at it: an optimizer makes none.

        Parameters
        ----------
        n : int
            How many rows the parameter has.

        Returns
        -------
        ndarray of shape (n, ...)
            Zeros, and the sums of the rows.
        """
        whole = np.zeros((n, *self._values.shape[1:]), self._values.dtype)
        np.add.at(whole, self._indices, self._values)
        return whole

    def __repr__(self) -> str:
        return f"Rows({len(self._indices)} of shape {self._values.shape[1:]}, {self._values.dtype})"


_core.learn_rows(Rows)
