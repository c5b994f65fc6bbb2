"""The layers of the book, chapters 5 and 6: each keeps from ``forward`` what ``backward`` needs.

They compute in the dtype of what they are given, and return new arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .functions import cross_entropy_error, sigmoid, softmax

Array = NDArray[Any]


class MulLayer:
    """The product of two numbers, 5.4."""

    x: Any = None
    y: Any = None

    def forward(self, x: Any, y: Any) -> Any:
        """Multiply.

        Parameters
        ----------
        x, y : float
            The factors.

        Returns
        -------
        float
            ``x y``.
        """
        self.x, self.y = x, y
        return x * y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        """Give back the gradients at both factors.

        Parameters
        ----------
        dout : float
            The gradient at the product.

        Returns
        -------
        tuple of float
            ``dout y`` and ``dout x``.
        """
        return dout * self.y, dout * self.x


class AddLayer:
    """The sum of two numbers, 5.4."""

    def forward(self, x: Any, y: Any) -> Any:
        """Add.

        Parameters
        ----------
        x, y : float
            The terms.

        Returns
        -------
        float
            ``x + y``.
        """
        return x + y

    def backward(self, dout: Any) -> tuple[Any, Any]:
        """Give back the gradients at both terms.

        Parameters
        ----------
        dout : float
            The gradient at the sum.

        Returns
        -------
        tuple of float
            ``dout`` twice.
        """
        return dout * 1, dout * 1


class Relu:
    """The rectifier ``y = max(x, 0)``, 5.5."""

    out: Array

    def forward(self, x: Array) -> Array:
        """Rectify.

        Parameters
        ----------
        x : ndarray
            Of any shape.

        Returns
        -------
        ndarray
            A new array.
        """
        self.out = np.maximum(x, 0)
        return self.out

    def backward(self, dout: Array) -> Array:
        """Clear ``dout`` where the output was zero; in place, as in the book.

        Parameters
        ----------
        dout : ndarray
            The gradient at the output.

        Returns
        -------
        ndarray
            The same array, now the gradient at ``x``.
        """
        dout[self.out <= 0] = 0
        return dout


class Sigmoid:
    """The logistic function ``y = 1 / (1 + exp(-x))``, 5.5."""

    out: Array

    def forward(self, x: Array) -> Array:
        """Squash.

        Parameters
        ----------
        x : ndarray
            Of any shape.

        Returns
        -------
        ndarray
            A new array.
        """
        self.out = sigmoid(x)
        return self.out

    def backward(self, dout: Array) -> Array:
        """Multiply by the slope y (1 - y).

        Parameters
        ----------
        dout : ndarray
            The gradient at the output.

        Returns
        -------
        ndarray
            The gradient at ``x``.
        """
        return dout * (1.0 - self.out) * self.out


class Affine:
    """The fully connected layer ``y = x W + b``, 5.6.

    Parameters
    ----------
    W, b : ndarray of shape (n_in, n_out) and (n_out,)
        Used as they are, not copied: what an optimizer does to them counts at the next call.

    Attributes
    ----------
    dW, db : ndarray
        The gradients, after :meth:`backward`.
    """

    W: Array
    b: Array
    dW: Array
    db: Array
    x: Array
    original_x_shape: tuple[int, ...]

    def __init__(self, W: Array, b: Array) -> None:
        self.W, self.b = W, b

    def forward(self, x: Array) -> Array:
        """Return the layer's output.

        Parameters
        ----------
        x : ndarray of shape (n, ...)
            An example in each row; more axes than two are taken as one.

        Returns
        -------
        ndarray of shape (n, n_out)
            A new array.
        """
        self.original_x_shape = x.shape
        self.x = x.reshape(len(x), -1)
        out: Array = np.dot(self.x, self.W)
        out += self.b
        return out

    def backward(self, dout: Array, *, first: bool = False) -> Array:
        """Set ``dW`` and ``db``; return the gradient at ``x``, which a first layer can do without.

        Parameters
        ----------
        dout : ndarray of shape (n, n_out)
            The gradient at the output.
        first : bool, default False
            Leave out the gradient at ``x``.

        Returns
        -------
        ndarray
            Of the shape of ``x``; ``dout`` for a first layer.
        """
        self.dW, self.db = np.dot(self.x.T, dout), np.sum(dout, axis=0)
        if first:
            return dout
        dx: Array = np.dot(dout, self.W.T)
        return dx.reshape(self.original_x_shape)


class SoftmaxWithLoss:
    """Softmax followed by cross-entropy, 5.6; see :func:`schuss.textbook.cross_entropy_error`.

    Attributes
    ----------
    loss : float
        Of the last :meth:`forward`.
    y, t : ndarray
        Its probabilities and labels.
    """

    loss: float
    y: Array
    t: Array

    def forward(self, x: Array, t: Array) -> float:
        """Mean cross-entropy of the rows.

        Parameters
        ----------
        x : ndarray of shape (n, classes)
            Scores.
        t : ndarray of shape (n,), or (n, classes)
            Labels, or one-hot rows.

        Returns
        -------
        float
            The loss.
        """
        self.y, self.t = softmax(x), t
        self.loss = cross_entropy_error(self.y, t)
        return self.loss

    def backward(self, dout: float = 1) -> Array:
        """Return ``(y - t) / n``.

        Parameters
        ----------
        dout : float, default 1
            As in the book it counts for nothing: the loss is the last layer.

        Returns
        -------
        ndarray of shape (n, classes)
            The gradient at the scores, in their dtype.
        """
        dx: Array = self.y.copy()
        if self.t.size == self.y.size:
            dx -= self.t
        else:
            dx[np.arange(len(dx)), self.t] -= 1
        dx /= len(dx)
        return dx


class Dropout:
    """Clears some of the values while training, and scales all of them otherwise, 6.4 (arXiv:1207.0580).

    Parameters
    ----------
    dropout_ratio : float, default 0.5
        The share to clear. Which ones NumPy's global generator says.
    """

    mask: Array
    dropout_ratio: float

    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.dropout_ratio = dropout_ratio

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        """Clear a random share of ``x``, or scale it.

        Parameters
        ----------
        x : ndarray
            Of any shape.
        train_flg : bool, default True
            Whether to clear; otherwise all is scaled by ``1 - dropout_ratio``.

        Returns
        -------
        ndarray
            A new array.
        """
        if not train_flg:
            return x * (1.0 - self.dropout_ratio)
        self.mask = np.random.rand(*x.shape) > self.dropout_ratio
        return x * self.mask

    def backward(self, dout: Array) -> Array:
        """Clear what the last :meth:`forward` cleared.

        Parameters
        ----------
        dout : ndarray
            The gradient at the output.

        Returns
        -------
        ndarray
            The gradient at ``x``.
        """
        return dout * self.mask


class BatchNormalization:
    """Each feature at mean 0 and variance 1 over the batch, then ``gamma xn + beta``, 6.3 (arXiv:1502.03167).

    Parameters
    ----------
    gamma, beta : ndarray of shape (features,)
        Scale and shift, which are learned; used as they are.
    momentum : float, default 0.9
        Of the running averages.
    running_mean, running_var : ndarray of shape (features,), optional
        What is used outside of training; from zero without them.

    Attributes
    ----------
    dgamma, dbeta : ndarray of shape (features,)
        The gradients, after :meth:`backward`.
    """

    gamma: Array
    beta: Array
    momentum: float
    running_mean: Array | None
    running_var: Array | None
    dgamma: Array
    dbeta: Array
    input_shape: tuple[int, ...]
    xc: Array
    xn: Array
    std: Array

    def __init__(
        self,
        gamma: Array,
        beta: Array,
        momentum: float = 0.9,
        running_mean: Array | None = None,
        running_var: Array | None = None,
    ) -> None:
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var

    def forward(self, x: Array, train_flg: bool = True) -> Array:
        """Normalise by the batch, or outside of training by the running averages.

        Parameters
        ----------
        x : ndarray of shape (n, ...)
            More axes than two are taken as one.
        train_flg : bool, default True
            Whether this is training: the running averages then learn of the batch.

        Returns
        -------
        ndarray
            A new array of the shape of ``x``.
        """
        self.input_shape = x.shape
        x = x.reshape(len(x), -1)
        if self.running_mean is None or self.running_var is None:
            self.running_mean, self.running_var = np.zeros(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
        if train_flg:
            mu = x.mean(axis=0)
            self.xc = x - mu
            var = np.mean(self.xc**2, axis=0)
            self.std = np.sqrt(var + 10e-7)
            xn = self.xn = self.xc / self.std
            self.running_mean = self.momentum * self.running_mean + (1 - self.momentum) * mu
            self.running_var = self.momentum * self.running_var + (1 - self.momentum) * var
        else:
            xn = (x - self.running_mean) / np.sqrt(self.running_var + 10e-7)
        y: Array = self.gamma * xn + self.beta
        return y.reshape(self.input_shape)

    def backward(self, dout: Array) -> Array:
        """Set ``dgamma`` and ``dbeta``; return the gradient at ``x``.

        Parameters
        ----------
        dout : ndarray
            The gradient at the output.

        Returns
        -------
        ndarray
            Of the shape of ``x``.
        """
        dout = dout.reshape(len(dout), -1)
        n = len(dout)
        self.dbeta, self.dgamma = dout.sum(axis=0), np.sum(self.xn * dout, axis=0)
        dxn = self.gamma * dout
        dxc = dxn / self.std
        dstd = -np.sum((dxn * self.xc) / (self.std * self.std), axis=0)
        dvar = 0.5 * dstd / self.std
        dxc += (2.0 / n) * self.xc * dvar
        dx: Array = dxc - np.sum(dxc, axis=0) / n
        return dx.reshape(self.input_shape)
