"""Layers, and the multilayer perceptron that the optimizers are compared on.

After "Deep Learning from Scratch", chapters 5 and 6, but in float32, fused and without new arrays: those that a layer
returns are its own and are used again by its next call; :class:`MultiLayerNet` says what it hands out. What computes in
the order of the book is in :mod:`schuss.textbook`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from .checks import POSITIVE, count, float_dtype, number, shown
from .rows import Rows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Affine",
    "Embedding",
    "IdentityWithLoss",
    "MultiLayerNet",
    "Relu",
    "Sigmoid",
    "SigmoidWithLoss",
    "SoftmaxWithLoss",
    "Tanh",
    "numerical_gradient",
    "softmax",
]

Array = NDArray[Any]

CHUNK = 1024  # rows that go through a network at once when it predicts: what bounds its buffers


class _Buffer:
    """An array that is made once and handed out again for every batch that fits."""

    def __init__(self) -> None:
        self._array = np.empty((0, 0))

    def like(self, x: Array, width: int) -> Array:
        """Rows for the batch ``x``, ``width`` columns, the dtype of ``x``; what they hold is undefined."""
        rows = x.shape[0]
        if self._array.shape[1] != width or self._array.dtype != x.dtype or len(self._array) < rows:
            self._array = np.empty((rows, width), x.dtype)
        return self._array[:rows]


def _is_sparse(x: Any) -> bool:
    return hasattr(x, "tocsr")


def _product(a: Any, b: Array, out: Array) -> None:
    """The matrix product; ``a`` may be sparse."""
    if isinstance(a, np.ndarray):
        np.dot(a, b, out=out)
    else:
        out[...] = a @ b


class Affine:
    """The fully connected layer, ``y = x W + b``; with ``relu`` followed by the rectifier in the same pass.

    Parameters
    ----------
    W, b : ndarray of shape (n_in, n_out) and (n_out,)
        Used as they are, not copied: what an optimizer does to them counts at the next call.
    relu : bool
        Whether ``y = max(x W + b, 0)``.

    Attributes
    ----------
    dW, db : ndarray
        The gradients, after :meth:`backward`.
    """

    W: Array
    b: Array
    relu: bool
    dW: Array
    db: Array

    def __init__(self, W: Array, b: Array, *, relu: bool = False) -> None:
        self.W, self.b, self.relu = W, b, relu
        self.dW, self.db = np.empty_like(W, order="C"), np.empty_like(b)
        self._y, self._dx = _Buffer(), _Buffer()

    def forward(self, x: Array, out: Array | None = None) -> Array:
        """Return the layer's output for the rows of ``x``.

        Parameters
        ----------
        x : ndarray of shape (n, n_in)
            Kept until :meth:`backward`. Of a first layer also one of SciPy's sparse matrices by rows.
        out : ndarray of shape (n, n_out), optional
            Where to put the output, in C order and of the dtype of ``x``.

        Returns
        -------
        ndarray of shape (n, n_out)
            ``out``, or an array of the layer's own, which its next call uses again.
        """
        self.x = x
        y = self._y.like(x, self.W.shape[1]) if out is None else out
        _product(x, self.W, y)
        if self.relu:
            _core.bias_relu(y, self.b)
        else:
            y += self.b
        self.y = y
        return y

    def backward(self, dout: Array, *, first: bool = False) -> Array:
        """Set ``dW`` and ``db``; return the gradient at ``x``, which a first layer can do without.

        Parameters
        ----------
        dout : ndarray of shape (n, n_out)
            The gradient at the output. With ``relu`` it is cleared in place where the output was zero.
        first : bool, default False
            Leave out the gradient at ``x``.

        Returns
        -------
        ndarray of shape (n, n_in)
            An array of the layer's own, which its next call uses again; ``dout`` for a first layer.
        """
        if self.relu:
            _core.relu_backward(dout, self.y, self.db)
        else:
            np.add.reduce(dout, axis=0, out=self.db)
        _product(self.x.T, dout, self.dW)
        return dout if first else np.dot(dout, self.W.T, out=self._dx.like(dout, self.W.shape[0]))


class Embedding:
    """The layer that looks words up, ``y = W[indices]``; its gradient is by rows.

    Parameters
    ----------
    W : ndarray of shape (n, ...)
        One row for each word. Used as it is, not copied.

    Attributes
    ----------
    dW : Rows
        The gradient, after :meth:`backward`: for each index its row of ``dout``. No dense one is ever made.

    See Also
    --------
    schuss.Optimizer.catch_up : What brings the rows up to date that :meth:`forward` reads.

    Notes
    -----
    The layer of "Deep Learning from Scratch 2", chapter 4, fills a dense gradient by ``np.add.at(dW, indices, dout)``;
    this one is the same gradient. There, a negative index counts from the end, as NumPy's do; here it is refused.

    PyTorch has it as ``torch.nn.Embedding(n, d, sparse=True)``, Keras as ``keras.layers.Embedding(n, d)``. Both make
    their weights themselves, as matrices, and have an option for words that only fill up a sentence (``padding_idx``,
    ``mask_zero``), which has no counterpart here. PyTorch's ``SparseAdam`` takes the gradient as an optimizer with
    ``sparse="touched"`` does; its ``Adam`` refuses it.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"E": np.eye(4, dtype=np.float32)}
    >>> layer, opt = schuss.nn.Embedding(params["E"]), schuss.Adam(lr=0.1)
    >>> words = np.array([[1, 3], [1, 2]])
    >>> opt.catch_up(params, {"E": words})
    >>> y = layer.forward(words)
    >>> y.shape
    (2, 2, 4)
    >>> layer.backward(np.ones_like(y))
    >>> opt.update(params, {"E": layer.dW})
    >>> params["E"].round(2)
    array([[ 1. ,  0. ,  0. ,  0. ],
           [-0.1,  0.9, -0.1, -0.1],
           [-0.1, -0.1,  0.9, -0.1],
           [-0.1, -0.1, -0.1,  0.9]], dtype=float32)
    """

    W: Array
    dW: Rows

    def __init__(self, W: Array) -> None:
        if not isinstance(W, np.ndarray) or W.ndim == 0:
            raise TypeError(f"W must be a numpy.ndarray with a row for each word, got {shown(W)}")
        self.W = W
        self._indices: NDArray[np.int64] = np.zeros(0, np.int64)
        self._shape: tuple[int, ...] = (0,)

    def forward(self, indices: ArrayLike) -> Array:
        """Return the rows of these words.

        Parameters
        ----------
        indices : array of integers, of any shape
            From 0 to n - 1; kept until :meth:`backward`.

        Returns
        -------
        ndarray of shape (*indices.shape, ...)
            A new array.

        Raises
        ------
        TypeError
            If they are no integers.
        IndexError
            If one is out of range, or negative.
        """
        found = np.asarray(indices)
        if found.dtype.kind not in "iu" and found.size:
            raise TypeError(f"indices must be integers, got {found.dtype}")
        if found.size and not (found.min() >= 0 and found.max() < len(self.W)):
            wrong = found[(found < 0) | (found >= len(self.W))].flat[0]
            raise IndexError(f"indices must be from 0 to {len(self.W) - 1:,}, got {wrong}")
        self._indices, self._shape = found.astype(np.int64).ravel(), found.shape
        y: Array = self.W[self._indices].reshape(*self._shape, *self.W.shape[1:])
        return y

    def backward(self, dout: Array) -> None:
        """Set ``dW``; words have no gradient.

        Parameters
        ----------
        dout : ndarray of shape (*indices.shape, ...)
            The gradient at the output. Of the dtype of ``W``; in C order it is used as it is, not copied.

        Raises
        ------
        ValueError
            If it has another shape than the output had.
        TypeError
            If it has another dtype than ``W``.
        """
        expected = (*self._shape, *self.W.shape[1:])
        if np.shape(dout) != expected:
            raise ValueError(f"dout has shape {np.shape(dout)}, the output had {expected}")
        if np.asarray(dout).dtype != self.W.dtype:
            raise TypeError(f"dout is {np.asarray(dout).dtype}, W is {self.W.dtype}; convert it with .astype(W.dtype)")
        values = np.ascontiguousarray(dout).reshape(len(self._indices), *self.W.shape[1:])
        self.dW = Rows(self._indices, values)


class Relu:
    """The rectifier by itself: ``y = max(x, 0)``. It works in place: ``x`` becomes ``y``."""

    def forward(self, x: Array) -> Array:
        """Rectify ``x`` in place.

        Parameters
        ----------
        x : ndarray
            Of any shape; kept until :meth:`backward`.

        Returns
        -------
        ndarray
            The same array.
        """
        y: Array = np.maximum(x, 0, out=x)
        self.y = y
        return y

    def backward(self, dout: Array) -> Array:
        """Clear ``dout`` in place where the forward pass gave zero.

        Parameters
        ----------
        dout : ndarray
            The gradient at the output, of its shape.

        Returns
        -------
        ndarray
            The same array, now the gradient at ``x``.
        """
        return np.multiply(dout, self.y > 0, out=dout)


class Sigmoid:
    """The logistic function: ``y = 1 / (1 + exp(-x))``. It works in place: ``x`` becomes ``y``."""

    def __init__(self) -> None:
        self._slope = _Buffer()

    def forward(self, x: Array) -> Array:
        """Squash ``x`` in place; as (1 + tanh(x / 2)) / 2, which cannot overflow.

        Parameters
        ----------
        x : ndarray of shape (n, width)
            Kept until :meth:`backward`.

        Returns
        -------
        ndarray of shape (n, width)
            The same array.
        """
        x *= 0.5
        np.tanh(x, out=x)
        x += 1
        x *= 0.5
        self.y = x
        return x

    def backward(self, dout: Array) -> Array:
        """Multiply ``dout`` in place by the slope y (1 - y).

        Parameters
        ----------
        dout : ndarray of shape (n, width)
            The gradient at the output.

        Returns
        -------
        ndarray of shape (n, width)
            The same array, now the gradient at ``x``.
        """
        slope = np.subtract(1, self.y, out=self._slope.like(dout, dout.shape[1]))
        slope *= self.y
        dout *= slope
        return dout


class Tanh:
    """The hyperbolic tangent. It works in place: ``x`` becomes ``y``."""

    def __init__(self) -> None:
        self._slope = _Buffer()

    def forward(self, x: Array) -> Array:
        """Squash ``x`` in place.

        Parameters
        ----------
        x : ndarray of shape (n, width)
            Kept until :meth:`backward`.

        Returns
        -------
        ndarray of shape (n, width)
            The same array.
        """
        self.y: Array = np.tanh(x, out=x)
        return x

    def backward(self, dout: Array) -> Array:
        """Multiply ``dout`` in place by the slope 1 - y^2.

        Parameters
        ----------
        dout : ndarray of shape (n, width)
            The gradient at the output.

        Returns
        -------
        ndarray of shape (n, width)
            The same array, now the gradient at ``x``.
        """
        slope = np.multiply(self.y, self.y, out=self._slope.like(dout, dout.shape[1]))
        np.subtract(1, slope, out=slope)
        dout *= slope
        return dout


def softmax(x: Array) -> Array:
    """Exponentials of each row of ``x`` over their sum; no row overflows.

    Parameters
    ----------
    x : ndarray
        Rows along the last axis; not changed.

    Returns
    -------
    ndarray
        A new array of the same shape, whose rows sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.nn import softmax
    >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    y: Array = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


class SoftmaxWithLoss:
    """Softmax followed by cross-entropy, as one layer: its gradient is as simple as ``(y - t) / n``.

    Labels are integers, or rows that are one-hot or otherwise sum to 1.
    """

    def __init__(self) -> None:
        self._buffer = _Buffer()

    def forward(self, x: Array, t: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Mean over the rows of ``log(sum(exp(x))) - x[t]``.

        Parameters
        ----------
        x : ndarray of shape (n, classes)
            Scores; not changed.
        t : array of shape (n,), or (n, classes)
            Labels: integers from 0 on, or rows that are one-hot or otherwise sum to 1.
        weights : array of shape (n,), optional
            How much each row counts in the mean; at least 0, and not all 0.

        Returns
        -------
        float
            The mean cross-entropy.

        Raises
        ------
        ValueError, TypeError
            For labels of another shape, out of range, or that are no integers; for such weights.
        """
        t = _checked_labels(t, *x.shape)
        t = t.astype(np.int64 if t.ndim == 1 else x.dtype, order="C", copy=False)
        self._dx = self._buffer.like(x, x.shape[1])
        return _core.softmax_loss(x, t, self._dx, _checked_weights(weights, x))

    def backward(self, dout: float = 1) -> Array:
        """Return ``dout (y - t) / n``.

        Parameters
        ----------
        dout : float, default 1
            The gradient at the loss.

        Returns
        -------
        ndarray of shape (n, classes)
            The gradient at ``x``, in an array of the layer's own, which its next call uses again.
        """
        if dout != 1:
            self._dx *= dout
        return self._dx


class _ElementsWithLoss:
    """What the heads whose outputs do not depend on each other share: the gradient, ``(y - t) / n``."""

    _dx: Array

    def __init__(self) -> None:
        self._buffer, self._losses = _Buffer(), _Buffer()

    def _mean(self, losses: Array, weights: Array | None) -> float:
        """The mean over the rows of their losses' sums; what is in ``_dx`` is made its gradient."""
        if weights is None:
            self._dx /= len(losses)
            return float(losses.sum()) / len(losses) if len(losses) else float("nan")
        total = float(weights.sum(dtype=np.float64))
        self._dx *= (weights / total)[:, None].astype(self._dx.dtype, copy=False)
        return float(weights @ losses.sum(axis=1)) / total

    def backward(self, dout: float = 1) -> Array:
        """Return ``dout (y - t) / n``.

        Parameters
        ----------
        dout : float, default 1
            The gradient at the loss.

        Returns
        -------
        ndarray of shape (n, outputs)
            The gradient at ``x``, in an array of the layer's own, which its next call uses again.
        """
        if dout != 1:
            self._dx *= dout
        return self._dx


class SigmoidWithLoss(_ElementsWithLoss):
    """The logistic function followed by cross-entropy, as one layer: for outputs that are each true or false.

    So for two classes by one output, and for labels of which a row may have several.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spare = _Buffer()

    def forward(self, x: Array, t: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Mean over the rows of ``sum(log(1 + exp(x)) - t x)``.

        Parameters
        ----------
        x : ndarray of shape (n, outputs)
            Scores; not changed.
        t : array of shape (n, outputs)
            For each output 0 or 1, or a probability between them.
        weights : array of shape (n,), optional
            How much each row counts in the mean; at least 0, and not all 0.

        Returns
        -------
        float
            The mean cross-entropy.

        Raises
        ------
        ValueError
            For targets of another shape, or that are not from 0 to 1; for such weights.
        """
        t = _checked_targets(t, x)
        if t.size and not (t.min() >= 0 and t.max() <= 1):
            bad = t[~((t >= 0) & (t <= 1))][0]
            raise ValueError(f"targets of sigmoids must be 0 or 1, or a probability between them, got {bad:g}")
        self._dx = self._buffer.like(x, x.shape[1])
        losses = self._losses.like(x, x.shape[1])
        spare = self._spare.like(x, x.shape[1])
        # By exp(-|x|), which cannot overflow: y is 1 / (1 + that), and where x is negative that times as much.
        np.negative(np.abs(x, out=losses), out=losses)
        np.exp(losses, out=losses)
        y = np.divide(1, np.add(1, losses, out=self._dx), out=self._dx)
        np.multiply(y, losses, out=y, where=x < 0)
        np.log1p(losses, out=losses)
        losses -= np.multiply(t, x, out=spare)
        losses += np.maximum(x, 0, out=spare)
        y -= t
        return self._mean(losses, _checked_weights(weights, x))


class IdentityWithLoss(_ElementsWithLoss):
    """The outputs as they are, followed by the squared error, as one layer: for regression."""

    def forward(self, x: Array, t: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Mean over the rows of ``sum((x - t)^2) / 2``.

        Parameters
        ----------
        x : ndarray of shape (n, outputs)
            Outputs; not changed.
        t : array of shape (n, outputs)
            Targets.
        weights : array of shape (n,), optional
            How much each row counts in the mean; at least 0, and not all 0.

        Returns
        -------
        float
            The mean squared error, halved and summed over the outputs.

        Raises
        ------
        ValueError
            For targets of another shape; for such weights.
        """
        t = _checked_targets(t, x)
        self._dx = np.subtract(x, t, out=self._buffer.like(x, x.shape[1]))
        losses = np.multiply(self._dx, self._dx, out=self._losses.like(x, x.shape[1]))
        losses *= 0.5
        return self._mean(losses, _checked_weights(weights, x))


def _checked_targets(t: ArrayLike, x: Array) -> Array:
    t = np.asarray(t, x.dtype)
    if t.shape != x.shape:
        hint = "; give t[:, None]" if t.shape == (len(x),) and x.shape[1] == 1 else ""
        raise ValueError(f"targets must have shape {x.shape}, got {t.shape}{hint}")
    return t


def _checked_weights(weights: ArrayLike | None, x: Array) -> Array | None:
    if weights is None:
        return None
    w = np.ascontiguousarray(weights, x.dtype)
    if w.shape != (len(x),):
        raise ValueError(f"weights must have shape ({len(x)},), got {w.shape}")
    if not (np.isfinite(w).all() and w.min(initial=0) >= 0 and w.any()):
        raise ValueError("weights must be finite, at least 0, and not all 0")
    return w


def _checked_labels(t: ArrayLike, rows: int, classes: int) -> Array:
    t = np.asarray(t)
    if t.shape == (rows, classes):
        return t
    if t.shape != (rows,):
        raise ValueError(f"labels must have shape ({rows},), or ({rows}, {classes}) if one-hot; got {t.shape}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, or one-hot rows; got dtype {t.dtype}")
    if rows and not (t.min() >= 0 and t.max() < classes):
        bad = t[(t < 0) | (t >= classes)][0]
        raise ValueError(f"labels must lie in 0 ... {classes - 1}, got {bad}")
    return t


def numerical_gradient(f: Callable[[Array], float], x: Array) -> Array:
    """Central differences of ``f`` at ``x``, element by element.

    Parameters
    ----------
    f : callable
        Called with ``x``, in which one element differs.
    x : ndarray of float64
        Changed in place and set back, also where ``f`` raises.

    Returns
    -------
    ndarray
        Of the shape of ``x``; its error is about 1e-10 times the scale of ``f``.

    Raises
    ------
    TypeError
        If ``x`` is not of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.nn import numerical_gradient
    >>> numerical_gradient(lambda x: np.sum(x**2), np.array([3.0, -4.0])).round(6)
    array([ 6., -8.])
    """
    if x.dtype != np.float64:
        raise TypeError(f"differences need float64, got {x.dtype}")
    h = float(np.finfo(x.dtype).eps) ** (1 / 3)
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        try:
            x[i] = kept + h
            above, high = f(x), x[i]
            x[i] = kept - h
            below, low = f(x), x[i]
        finally:
            x[i] = kept
        gradient[i] = (above - below) / (high - low)
    return gradient


# What follows a hidden layer whose matrix product does not end with it.
_ACTIVATIONS: dict[str, Callable[[], Sigmoid | Tanh] | None] = {
    "relu": None,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "identity": None,
}
_HEADS: dict[str, Callable[[], SoftmaxWithLoss | SigmoidWithLoss | IdentityWithLoss]] = {
    "softmax": SoftmaxWithLoss,
    "sigmoid": SigmoidWithLoss,
    "identity": IdentityWithLoss,
}


def _one_of(names: Iterable[str]) -> str:
    *some, last = map(repr, names)
    return f"{', '.join(some)} or {last}"


class MultiLayerNet:
    """A multilayer perceptron, as in "Deep Learning from Scratch", 6.6.

    Parameters
    ----------
    input_size : int
        Numbers per example: 784 for MNIST.
    hidden_size_list : sequence of int
        Neurons of each hidden layer, as ``[100, 100, 100, 100]``.
    output_size : int
        Classes, or numbers to be predicted.
    activation : {'relu', 'sigmoid', 'tanh', 'identity'}
        Of the hidden layers.
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        Standard deviation of the first weights, for n inputs: sqrt(2 / n) by He et al. (2015) for 'relu'
        and 'he', sqrt(1 / n) after Glorot and Bengio (2010) for 'sigmoid' and 'xavier'; or a number.
    weight_decay_lambda : float
        The loss has ``0.5 * weight_decay_lambda * sum(W ** 2)`` added for each weight matrix (L2).
    head : {'softmax', 'sigmoid', 'identity'}
        The last layer, with its loss: :class:`SoftmaxWithLoss` for one class of several, :class:`SigmoidWithLoss` for
        outputs that are each true or false, :class:`IdentityWithLoss` for numbers, by half the squared error, which is
        summed over the outputs.
    dtype : float32 or float64
        Of the parameters and of all computation. Inputs of another dtype are converted.
    seed : int, optional
        For ``numpy.random.default_rng``. Without it the weights come from NumPy's global generator, as in
        the textbook, so that ``numpy.random.seed`` keeps its meaning.

    Attributes
    ----------
    params : dict of ndarray
        "W1", "b1", ..., read anew at each call: they may be changed in place or replaced.
    last_loss : float
        The loss that the last :meth:`gradient` computed on its way.

    Raises
    ------
    ValueError, TypeError
        For sizes below 1, an unknown activation, head or initial scale, another dtype; each says what came.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> from schuss.nn import MultiLayerNet
    >>> net = MultiLayerNet(4, [8], 3, seed=0)
    >>> opt = schuss.Adam(lr=0.1)
    >>> x, t = np.eye(4, dtype=np.float32)[:3], np.array([2, 0, 1])
    >>> for _ in range(50):
    ...     opt.update(net.params, net.gradient(x, t))
    >>> net.accuracy(x, t), net.last_loss < 0.01
    (1.0, True)
    """

    input_size: int
    output_size: int
    hidden_size_list: list[int]
    hidden_layer_num: int
    weight_decay_lambda: float
    activation: str
    head: str
    dtype: np.dtype[Any]
    params: dict[str, Array]
    last_loss: float

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: str | float = "relu",
        weight_decay_lambda: float = 0,
        *,
        head: str = "softmax",
        dtype: DTypeLike = np.float32,
        seed: int | None = None,
    ) -> None:
        if not isinstance(hidden_size_list, Iterable):
            raise TypeError(f"hidden_size_list must be a list of whole numbers, got {shown(hidden_size_list)}")
        sizes = [
            count(f"the neurons of {what}", size, 1)
            for what, size in [
                ("the input", input_size),
                *(("a hidden layer", size) for size in hidden_size_list),
                ("the output", output_size),
            ]
        ]
        dtype = float_dtype(dtype)
        normal = np.random.randn if seed is None else _normal(seed)
        params: dict[str, Array] = {}
        for i, (n, m) in enumerate(pairwise(sizes), start=1):
            params[f"W{i}"] = (initial_std(weight_init_std, n) * normal(n, m)).astype(dtype)
            params[f"b{i}"] = np.zeros(m, dtype)
        self._build(params, activation, weight_decay_lambda, head)

    @classmethod
    def from_params(
        cls,
        params: dict[str, Array],
        activation: str = "relu",
        weight_decay_lambda: float = 0,
        *,
        head: str = "softmax",
    ) -> Self:
        """Make a network of parameters that are there.

        Parameters
        ----------
        params : dict of ndarray
            "W1" of shape (input_size, n), "b1" of shape (n,), and so on, all float32 or all float64. Used as they are,
            not copied.
        activation, weight_decay_lambda, head : str, float, str
            As for the class.

        Returns
        -------
        MultiLayerNet
            With the sizes and the dtype of the parameters.

        Raises
        ------
        ValueError, TypeError
            If the names, shapes or dtypes are not those of a network.

        Examples
        --------
        >>> import numpy as np
        >>> from schuss.nn import MultiLayerNet
        >>> line = {"W1": np.array([[2.0]]), "b1": np.array([1.0])}
        >>> MultiLayerNet.from_params(line, head="identity").predict([[0.0], [3.0]])
        array([[1.],
               [7.]])
        """
        layers = len(params) // 2
        if not layers or set(params) != {f"{letter}{i}" for letter in "Wb" for i in range(1, layers + 1)}:
            raise ValueError(f"params must have the names W1, b1, W2, b2, ..., got {', '.join(map(str, params))}")
        width = None
        for i in range(1, layers + 1):
            for name, ndim in ((f"W{i}", 2), (f"b{i}", 1)):
                p = params[name]
                if not isinstance(p, np.ndarray) or p.dtype not in (np.float32, np.float64):
                    raise TypeError(f"params[{name!r}] must be an array of float32 or float64, got {shown(p)}")
                if p.dtype != params["W1"].dtype:
                    raise TypeError(f"params[{name!r}] is {p.dtype}, W1 is {params['W1'].dtype}; they must be equal")
                if p.ndim != ndim or (width is not None and p.shape[0] != width):
                    first = "n" if width is None else width
                    expected = f"({first}, m)" if ndim == 2 else f"({first},)"
                    raise ValueError(f"params[{name!r}] must have shape {expected}, got {p.shape}")
                width = p.shape[-1]
        net = cls.__new__(cls)
        net._build(dict(params), activation, weight_decay_lambda, head)
        return net

    def _build(self, params: dict[str, Array], activation: str, weight_decay_lambda: float, head: str) -> None:
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be {_one_of(_ACTIVATIONS)}, got {activation!r}")
        if head not in _HEADS:
            raise ValueError(f"head must be {_one_of(_HEADS)}, got {head!r}")
        layers = len(params) // 2
        widths = [params[f"b{i}"].shape[0] for i in range(1, layers + 1)]
        self.params, self.dtype = params, params["W1"].dtype
        self.input_size, self.output_size = params["W1"].shape[0], widths[-1]
        self.hidden_size_list, self.hidden_layer_num = widths[:-1], layers - 1
        self.activation, self.head = activation, head
        self.weight_decay_lambda = number("weight_decay_lambda", weight_decay_lambda, *POSITIVE)
        self.last_loss = float("nan")
        # The last layer's scores go to the head as they are.
        self._affine = [
            Affine(params[f"W{i}"], params[f"b{i}"], relu=activation == "relu" and i < layers)
            for i in range(1, layers + 1)
        ]
        between = _ACTIVATIONS[activation]
        self._between = [between() for _ in widths[:-1]] if between else []
        self._loss = _HEADS[head]()

    def predict(self, x: ArrayLike) -> Array:
        """Scores of each class, before the softmax or the sigmoid; the outputs, of an 'identity' head.

        Parameters
        ----------
        x : array of shape (n, input_size)
            The examples; of another dtype than the network's they are converted. A sparse matrix of SciPy's is taken,
            too, here and in the other methods, and stays sparse.

        Returns
        -------
        ndarray of shape (n, output_size)
            A new array.

        Raises
        ------
        ValueError
            If ``x`` has another shape.
        """
        x = self._checked_input(x)
        scores = np.empty((x.shape[0], self.output_size), self.dtype)
        for start in range(0, len(scores), CHUNK):
            rows = slice(start, start + CHUNK)
            self._forward(x[rows], scores[rows])
        return scores

    def loss(self, x: ArrayLike, t: ArrayLike, weights: ArrayLike | None = None) -> float:
        """Mean loss of the batch, plus the weight decay.

        Parameters
        ----------
        x : array of shape (n, input_size)
            The examples.
        t : array of shape (n,), or (n, output_size)
            Labels: integers from 0 on, or rows that are one-hot (or other weights that sum to 1). With another head
            than the softmax: the targets, one for each output.
        weights : array of shape (n,), optional
            How much each example counts in the mean.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ValueError, TypeError
            For arrays of other shapes, and for labels out of range or that are no integers.
        """
        return self._loss.forward(self.predict(x), t, weights) + self._decay()

    def accuracy(self, x: ArrayLike, t: ArrayLike) -> float:
        """Share of the rows of ``x`` whose highest score is at the label; with sigmoids, of the outputs that are right.

        Parameters
        ----------
        x, t : array
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        float
            From 0 to 1.

        Raises
        ------
        ValueError
            If the head is 'identity', whose outputs are no classes; for labels of another shape.
        """
        if self.head == "identity":
            raise ValueError("outputs that are numbers have no accuracy; loss() is their squared error")
        scores = self.predict(x)
        if self.head == "sigmoid":
            return float(np.mean((scores > 0) == (_checked_targets(t, scores) > 0.5)))
        t = _checked_labels(t, *scores.shape)
        if t.ndim == 2:
            t = t.argmax(axis=1)
        return float(np.mean(scores.argmax(axis=1) == t))

    def gradient(self, x: ArrayLike, t: ArrayLike, weights: ArrayLike | None = None) -> dict[str, Array]:
        """Gradient of :meth:`loss` by backpropagation; keeps the loss as ``last_loss``.

        Parameters
        ----------
        x, t, weights : array
            Examples, labels and weights, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``. The arrays are the network's own and are overwritten by its next
            ``gradient``: copy what you want to keep.
        """
        x = self._checked_input(x)
        self.last_loss = self._loss.forward(self._forward(x), t, weights) + self._decay()
        dout = self._loss.backward()
        grads: dict[str, Array] = {}
        for i in range(len(self._affine), 0, -1):
            affine = self._affine[i - 1]
            dout = affine.backward(dout, first=i == 1)
            if i > 1 and self._between:
                dout = self._between[i - 2].backward(dout)
            if self.weight_decay_lambda:
                _core.add_scaled(affine.dW, np.ascontiguousarray(affine.W), self.weight_decay_lambda)
            grads[f"W{i}"], grads[f"b{i}"] = affine.dW, affine.db
        return {name: grads[name] for name in self.params}

    def numerical_gradient(self, x: ArrayLike, t: ArrayLike, weights: ArrayLike | None = None) -> dict[str, Array]:
        """Gradient of :meth:`loss` by central differences: slow, and right by definition.

        It is computed on a float64 copy of the network, as float32 has too few digits for differences,
        and returned in the network's dtype.

        Parameters
        ----------
        x, t, weights : array
            Examples, labels and weights, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``: new arrays.
        """
        twin = MultiLayerNet.from_params(
            {name: p.astype(np.float64) for name, p in self.params.items()},
            self.activation,
            self.weight_decay_lambda,
            head=self.head,
        )
        return {
            name: numerical_gradient(lambda _: twin.loss(x, t, weights), p).astype(self.dtype)
            for name, p in twin.params.items()
        }

    def _checked_input(self, x: Any) -> Array:
        found: Array = x.tocsr().astype(self.dtype, copy=False) if _is_sparse(x) else np.asarray(x, self.dtype)
        if found.ndim != 2 or found.shape[1] != self.input_size:
            hint = "; images need load_mnist(flatten=True)" if found.ndim == 4 else ""
            raise ValueError(f"x must have shape (n, {self.input_size}), got {found.shape}{hint}")
        return found

    def _forward(self, x: Array, out: Array | None = None) -> Array:
        for i, affine in enumerate(self._affine, start=1):
            affine.W, affine.b = self.params[f"W{i}"], self.params[f"b{i}"]
            last = i == len(self._affine)
            x = affine.forward(x, out if last else None)
            if self._between and not last:
                x = self._between[i - 1].forward(x)
        return x

    def _decay(self) -> float:
        if not self.weight_decay_lambda:
            return 0.0
        weights = (p for name, p in self.params.items() if name.startswith("W"))
        return 0.5 * self.weight_decay_lambda * sum(float(np.vdot(W, W)) for W in weights)


def _normal(seed: int) -> Callable[[int, int], Array]:
    rng = np.random.default_rng(seed)
    return lambda n, m: rng.standard_normal((n, m))


def initial_std(weight_init_std: str | float, n: int) -> float:
    """The standard deviation of the first weights of ``n`` inputs, by the name of a rule or as it is."""
    name = str(weight_init_std).lower()
    if name in ("relu", "he"):
        return sqrt(2.0 / n)
    if name in ("sigmoid", "xavier"):
        return sqrt(1.0 / n)
    if isinstance(weight_init_std, str) or not np.isfinite(weight_init_std):
        raise ValueError(
            f"weight_init_std must be 'relu', 'he', 'sigmoid', 'xavier' or a number, got {weight_init_std!r}"
        )
    return float(weight_init_std)
