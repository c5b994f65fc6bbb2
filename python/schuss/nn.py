"""Layers, and the multilayer perceptron that the optimizers are compared on.

After "Deep Learning from Scratch", chapters 5 and 6, but in float32, fused and without new arrays: those that a layer
returns are its own and are used again by its next call; :class:`MultiLayerNet` says what it hands out. What computes in
the order of the book is in :mod:`schuss.textbook`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _core
from .checks import POSITIVE, count, float_dtype, number, shown
from .rows import Rows

__all__ = [
    "Affine",
    "Embedding",
    "MultiLayerNet",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
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
        rows = len(x)
        if self._array.shape[1] != width or self._array.dtype != x.dtype or len(self._array) < rows:
            self._array = np.empty((rows, width), x.dtype)
        return self._array[:rows]


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
            Kept until :meth:`backward`.
        out : ndarray of shape (n, n_out), optional
            Where to put the output, in C order and of the dtype of ``x``.

        Returns
        -------
        ndarray of shape (n, n_out)
            ``out``, or an array of the layer's own, which its next call uses again.
        """
        self.x = x
        y = self._y.like(x, self.W.shape[1]) if out is None else out
        np.dot(x, self.W, out=y)
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
        np.dot(self.x.T, dout, out=self.dW)
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

    def forward(self, x: Array, t: ArrayLike) -> float:
        """Mean over the rows of ``log(sum(exp(x))) - x[t]``.

        Parameters
        ----------
        x : ndarray of shape (n, classes)
            Scores; not changed.
        t : array of shape (n,), or (n, classes)
            Labels: integers from 0 on, or rows that are one-hot or otherwise sum to 1.

        Returns
        -------
        float
            The mean cross-entropy.

        Raises
        ------
        ValueError, TypeError
            For labels of another shape, out of range, or that are no integers.
        """
        t = _checked_labels(t, *x.shape)
        t = t.astype(np.int64 if t.ndim == 1 else x.dtype, order="C", copy=False)
        self._dx = self._buffer.like(x, x.shape[1])
        return _core.softmax_loss(x, t, self._dx)

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


class MultiLayerNet:
    """A multilayer perceptron for classification, as in "Deep Learning from Scratch", 6.6.

    Parameters
    ----------
    input_size : int
        Numbers per example: 784 for MNIST.
    hidden_size_list : sequence of int
        Neurons of each hidden layer, as ``[100, 100, 100, 100]``.
    output_size : int
        Classes.
    activation : {'relu', 'sigmoid'}
        Of the hidden layers.
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        Standard deviation of the first weights, for n inputs: sqrt(2 / n) by He et al. (2015) for 'relu'
        and 'he', sqrt(1 / n) after Glorot and Bengio (2010) for 'sigmoid' and 'xavier'; or a number.
    weight_decay_lambda : float
        The loss has ``0.5 * weight_decay_lambda * sum(W ** 2)`` added for each weight matrix.
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
        For sizes below 1, an unknown activation or initial scale, another dtype; each says what came.

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
        weight_decay_lambda = number("weight_decay_lambda", weight_decay_lambda, *POSITIVE)
        if activation not in ("relu", "sigmoid"):
            raise ValueError(f"activation must be 'relu' or 'sigmoid', got {activation!r}")
        self.dtype = float_dtype(dtype)
        self.input_size, self.output_size = input_size, output_size
        self.hidden_size_list, self.hidden_layer_num = list(hidden_size_list), len(hidden_size_list)
        self.activation, self.weight_decay_lambda = activation, weight_decay_lambda
        self.last_loss = float("nan")
        normal = np.random.randn if seed is None else _normal(seed)
        self.params = {}
        self._affine: list[Affine] = []
        for i, (n, m) in enumerate(pairwise(sizes), start=1):
            W = (initial_std(weight_init_std, n) * normal(n, m)).astype(self.dtype)
            b = np.zeros(m, self.dtype)
            self.params[f"W{i}"], self.params[f"b{i}"] = W, b
            # The last layer's scores go to the softmax as they are.
            self._affine.append(Affine(W, b, relu=activation == "relu" and i < len(sizes) - 1))
        self._sigmoid = [Sigmoid() for _ in hidden_size_list if activation == "sigmoid"]
        self._loss = SoftmaxWithLoss()

    def predict(self, x: ArrayLike) -> Array:
        """Scores of each class, before the softmax.

        Parameters
        ----------
        x : array of shape (n, input_size)
            The examples; of another dtype than the network's they are converted.

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
        scores = np.empty((len(x), self.output_size), self.dtype)
        for start in range(0, len(x), CHUNK):
            rows = slice(start, start + CHUNK)
            self._forward(x[rows], scores[rows])
        return scores

    def loss(self, x: ArrayLike, t: ArrayLike) -> float:
        """Mean cross-entropy of the batch, plus the weight decay.

        Parameters
        ----------
        x : array of shape (n, input_size)
            The examples.
        t : array of shape (n,), or (n, output_size)
            Labels: integers from 0 on, or rows that are one-hot (or other weights that sum to 1).

        Returns
        -------
        float
            The loss.

        Raises
        ------
        ValueError, TypeError
            For arrays of other shapes, and for labels out of range or that are no integers.
        """
        return self._loss.forward(self.predict(x), t) + self._decay()

    def accuracy(self, x: ArrayLike, t: ArrayLike) -> float:
        """Share of the rows of ``x`` whose highest score is at the label.

        Parameters
        ----------
        x, t : array
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        float
            From 0 to 1.
        """
        scores = self.predict(x)
        t = _checked_labels(t, *scores.shape)
        if t.ndim == 2:
            t = t.argmax(axis=1)
        return float(np.mean(scores.argmax(axis=1) == t))

    def gradient(self, x: ArrayLike, t: ArrayLike) -> dict[str, Array]:
        """Gradient of :meth:`loss` by backpropagation; keeps the loss as ``last_loss``.

        Parameters
        ----------
        x, t : array
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``. The arrays are the network's own and are overwritten by its next
            ``gradient``: copy what you want to keep.
        """
        x = self._checked_input(x)
        self.last_loss = self._loss.forward(self._forward(x), t) + self._decay()
        dout = self._loss.backward()
        grads: dict[str, Array] = {}
        for i in range(len(self._affine), 0, -1):
            affine = self._affine[i - 1]
            dout = affine.backward(dout, first=i == 1)
            if i > 1 and self._sigmoid:
                dout = self._sigmoid[i - 2].backward(dout)
            if self.weight_decay_lambda:
                affine.dW += self.weight_decay_lambda * affine.W
            grads[f"W{i}"], grads[f"b{i}"] = affine.dW, affine.db
        return {name: grads[name] for name in self.params}

    def numerical_gradient(self, x: ArrayLike, t: ArrayLike) -> dict[str, Array]:
        """Gradient of :meth:`loss` by central differences: slow, and right by definition.

        It is computed on a float64 copy of the network, as float32 has too few digits for differences,
        and returned in the network's dtype.

        Parameters
        ----------
        x, t : array
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``: new arrays.
        """
        twin = MultiLayerNet(
            self.input_size,
            self.hidden_size_list,
            self.output_size,
            self.activation,
            0.0,
            self.weight_decay_lambda,
            dtype=np.float64,
            seed=0,
        )
        twin.params = {name: p.astype(np.float64) for name, p in self.params.items()}
        return {
            name: numerical_gradient(lambda _: twin.loss(x, t), p).astype(self.dtype) for name, p in twin.params.items()
        }

    def _checked_input(self, x: ArrayLike) -> Array:
        x = np.asarray(x, self.dtype)
        if x.ndim != 2 or x.shape[1] != self.input_size:
            hint = "; images need load_mnist(flatten=True)" if x.ndim == 4 else ""
            raise ValueError(f"x must have shape (n, {self.input_size}), got {x.shape}{hint}")
        return x

    def _forward(self, x: Array, out: Array | None = None) -> Array:
        for i, affine in enumerate(self._affine, start=1):
            affine.W, affine.b = self.params[f"W{i}"], self.params[f"b{i}"]
            last = i == len(self._affine)
            x = affine.forward(x, out if last else None)
            if self._sigmoid and not last:
                x = self._sigmoid[i - 1].forward(x)
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
