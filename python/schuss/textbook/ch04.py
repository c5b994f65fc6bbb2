"""Chapter 4's ``TwoLayerNet``, whose hidden layer is of sigmoids and whose ``predict`` ends with the softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..checks import float_dtype
from .functions import cross_entropy_error, numerical_gradient, sigmoid, sigmoid_grad, softmax

__all__ = ["TwoLayerNet"]

Array = NDArray[Any]


class TwoLayerNet:
    """Two fully connected layers with sigmoids between them, 4.5, its gradient written out.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        Numbers per example, neurons, classes.
    weight_init_std : float, default 0.01
        Standard deviation of the first weights, from NumPy's global generator.
    dtype : float32 or float64
        Of the parameters and of all computation.

    Attributes
    ----------
    params : dict of ndarray
        "W1", "b1", "W2", "b2", read anew at each call.
    """

    dtype: np.dtype[Any]
    params: dict[str, Array]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        *,
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.dtype = float_dtype(dtype)
        self.params = {}
        for i, (n, m) in enumerate([(input_size, hidden_size), (hidden_size, output_size)], start=1):
            self.params[f"W{i}"] = (weight_init_std * np.random.randn(n, m)).astype(self.dtype, copy=False)
            self.params[f"b{i}"] = np.zeros(m, self.dtype)

    def _forward(self, x: Array) -> tuple[Array, Array, Array, Array]:
        x = np.asarray(x, self.dtype)
        a1 = np.dot(x, self.params["W1"]) + self.params["b1"]
        z1 = sigmoid(a1)
        return x, a1, z1, softmax(np.dot(z1, self.params["W2"]) + self.params["b2"])

    def predict(self, x: Array) -> Array:
        """Probabilities of each class.

        Parameters
        ----------
        x : ndarray of shape (n, input_size)
            The examples.

        Returns
        -------
        ndarray of shape (n, output_size)
            Rows that sum to 1.
        """
        return self._forward(x)[-1]

    def loss(self, x: Array, t: Array) -> float:
        """Mean cross-entropy of the batch.

        Parameters
        ----------
        x : ndarray of shape (n, input_size)
            The examples.
        t : ndarray of shape (n, output_size)
            One-hot rows.

        Returns
        -------
        float
            The loss.
        """
        return cross_entropy_error(self.predict(x), t)

    def accuracy(self, x: Array, t: Array) -> float:
        """Share of the rows of ``x`` whose highest probability is at the label.

        Parameters
        ----------
        x, t : ndarray
            Examples and one-hot rows.

        Returns
        -------
        float
            From 0 to 1.
        """
        share: float = np.sum(np.argmax(self.predict(x), axis=1) == np.argmax(t, axis=1)) / float(len(x))
        return share

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Gradient of :meth:`loss` by differences: slow.

        Parameters
        ----------
        x, t : ndarray
            Examples and one-hot rows.

        Returns
        -------
        dict of ndarray
            By the names of ``params``.
        """
        return {name: numerical_gradient(lambda _: self.loss(x, t), p) for name, p in self.params.items()}

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Gradient of :meth:`loss` by the chain rule.

        Parameters
        ----------
        x, t : ndarray
            Examples and one-hot rows.

        Returns
        -------
        dict of ndarray
            By the names of ``params``: new arrays.
        """
        x, a1, z1, y = self._forward(x)
        y -= t
        y /= len(x)
        da1 = sigmoid_grad(a1) * np.dot(y, self.params["W2"].T)
        return {"W1": np.dot(x.T, da1), "b1": np.sum(da1, axis=0), "W2": np.dot(z1.T, y), "b2": np.sum(y, axis=0)}
