"""The networks of the book: ``TwoLayerNet`` of chapter 5, ``MultiLayerNet`` and its extension of chapter 6."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..checks import float_dtype
from ..nn import initial_std
from . import functions
from .layers import Affine, BatchNormalization, Dropout, Relu, Sigmoid, SoftmaxWithLoss

Array = NDArray[Any]

_ACTIVATIONS: dict[str, type[Any]] = {"relu": Relu, "sigmoid": Sigmoid}


class LayeredNet:
    """What the networks share: layers by name, one after another, and a loss behind them.

    Parameters
    ----------
    dtype : float32 or float64
        Of the parameters and of all computation.

    Attributes
    ----------
    params : dict of ndarray
        "W1", "b1", ...: the arrays of the layers, which an optimizer changes in place.
    layers : dict
        The layers by their names, in their order.
    """

    weight_decay_lambda: float = 0
    dtype: np.dtype[Any]
    params: dict[str, Array]
    layers: dict[str, Any]

    def __init__(self, dtype: DTypeLike) -> None:
        self.dtype = float_dtype(dtype)
        self.params, self.layers = {}, {}
        self._loss = SoftmaxWithLoss()

    def _affine(self, i: int, W: Array) -> None:
        """Add layer ``i`` with these weights, and biases of zero."""
        W, b = W.astype(self.dtype, copy=False), np.zeros(W.shape[1], self.dtype)
        self.params[f"W{i}"], self.params[f"b{i}"] = W, b
        self.layers[f"Affine{i}"] = Affine(W, b)

    def predict(self, x: Array, train_flg: bool = False) -> Array:
        """Scores of each class, before the softmax.

        Parameters
        ----------
        x : ndarray of shape (n, input_size)
            The examples.
        train_flg : bool, default False
            Whether dropout and batch normalisation are to work as in training.

        Returns
        -------
        ndarray of shape (n, output_size)
            The scores.
        """
        x = np.asarray(x, self.dtype)  # what each product with the weights would do anew
        for layer in self.layers.values():
            x = layer.forward(x, train_flg) if isinstance(layer, (Dropout, BatchNormalization)) else layer.forward(x)
        return x

    def loss(self, x: Array, t: Array, train_flg: bool = False) -> float:
        """Mean cross-entropy of the batch, plus the weight decay.

        Parameters
        ----------
        x : ndarray of shape (n, input_size)
            The examples.
        t : ndarray of shape (n,), or (n, output_size)
            Labels, or one-hot rows.
        train_flg : bool, default False
            As for :meth:`predict`.

        Returns
        -------
        float
            The loss.
        """
        y = self.predict(x, train_flg)
        decay: float = 0
        if self.weight_decay_lambda:
            for name, W in self.params.items():
                if name.startswith("W"):
                    decay += 0.5 * self.weight_decay_lambda * np.sum(W**2)
        return self._loss.forward(y, t) + decay

    def accuracy(self, x: Array, t: Array) -> float:
        """Share of the rows of ``x`` whose highest score is at the label.

        Parameters
        ----------
        x, t : ndarray
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        float
            From 0 to 1.
        """
        y = np.argmax(self.predict(x), axis=1)
        labels = t if t.ndim == 1 else np.argmax(t, axis=1)
        share: float = np.sum(y == labels) / float(len(x))
        return share

    def numerical_gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Gradient of :meth:`loss` as in training, by differences: slow.

        Parameters
        ----------
        x, t : ndarray
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``.
        """
        return {
            name: functions.numerical_gradient(lambda _: self.loss(x, t, train_flg=True), p)
            for name, p in self.params.items()
        }

    def gradient(self, x: Array, t: Array) -> dict[str, Array]:
        """Gradient of :meth:`loss` as in training, by backpropagation.

        Parameters
        ----------
        x, t : ndarray
            Examples and labels, as for :meth:`loss`.

        Returns
        -------
        dict of ndarray
            By the names of ``params``: new arrays.
        """
        self.loss(x, t, train_flg=True)
        first, *others = self.layers.values()
        dout = self._loss.backward()
        for layer in reversed(others):
            dout = layer.backward(dout)
        first.backward(dout, first=True)

        grads: dict[str, Array] = {}
        for name, layer in self.layers.items():
            if name.startswith("Affine"):
                i = name.removeprefix("Affine")
                decay = self.weight_decay_lambda
                grads[f"W{i}"] = layer.dW + decay * layer.W if decay else layer.dW
                grads[f"b{i}"] = layer.db
            elif name.startswith("BatchNorm"):
                i = name.removeprefix("BatchNorm")
                grads[f"gamma{i}"], grads[f"beta{i}"] = layer.dgamma, layer.dbeta
        return grads


class TwoLayerNet(LayeredNet):
    """Two fully connected layers with a rectifier between them, 5.7; chapter 4's is in ``schuss.textbook.ch04``.

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
    params, layers, lastLayer : dict, dict, SoftmaxWithLoss
        The parameters; the layers; the loss behind them.

    Examples
    --------
    >>> from schuss.textbook import *
    >>> np.random.seed(0)
    >>> net, optimizer = TwoLayerNet(4, 8, 3), AdaGrad(lr=0.1)
    >>> x, t = np.eye(4)[:3], np.array([2, 0, 1])
    >>> for _ in range(50):
    ...     optimizer.update(net.params, net.gradient(x, t))
    >>> float(net.accuracy(x, t))
    1.0
    """

    lastLayer: SoftmaxWithLoss

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        weight_init_std: float = 0.01,
        *,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__(dtype)
        self.lastLayer = self._loss
        self._affine(1, weight_init_std * np.random.randn(input_size, hidden_size))
        self.layers["Relu1"] = Relu()
        self._affine(2, weight_init_std * np.random.randn(hidden_size, output_size))


class MultiLayerNetExtend(LayeredNet):
    """A multilayer perceptron with weight decay, dropout and batch normalisation, 6.3 and 6.4.

    Parameters
    ----------
    input_size : int
        Numbers per example: 784 for MNIST.
    hidden_size_list : sequence of int
        Neurons of each hidden layer, as ``[100, 100, 100]``.
    output_size : int
        Classes.
    activation : {'relu', 'sigmoid'}
        Of the hidden layers.
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        Standard deviation of the first weights, for n inputs: sqrt(2 / n) for 'relu' and 'he', sqrt(1 / n) for
        'sigmoid' and 'xavier'; or a number. They come from NumPy's global generator.
    weight_decay_lambda : float
        The loss has ``0.5 * weight_decay_lambda * sum(W ** 2)`` added for each weight matrix.
    use_dropout : bool
        A :class:`Dropout` behind each activation.
    dropout_ration : float
        Its ratio, under the name that the book gives it.
    use_batchnorm : bool
        A :class:`BatchNormalization` before each activation.
    dtype : float32 or float64
        Of the parameters and of all computation.

    Attributes
    ----------
    params, layers, last_layer : dict, dict, SoftmaxWithLoss
        The parameters; the layers; the loss behind them.
    """

    input_size: int
    output_size: int
    hidden_size_list: Sequence[int]
    hidden_layer_num: int
    use_dropout: bool
    use_batchnorm: bool
    last_layer: SoftmaxWithLoss

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: str | float = "relu",
        weight_decay_lambda: float = 0,
        use_dropout: bool = False,
        dropout_ration: float = 0.5,
        use_batchnorm: bool = False,
        *,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__(dtype)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be 'relu' or 'sigmoid', got {activation!r}")
        self.input_size, self.output_size = input_size, output_size
        self.hidden_size_list, self.hidden_layer_num = hidden_size_list, len(hidden_size_list)
        self.weight_decay_lambda = weight_decay_lambda
        self.use_dropout, self.use_batchnorm = use_dropout, use_batchnorm
        self.last_layer = self._loss

        sizes = [input_size, *hidden_size_list, output_size]
        for i, (n, m) in enumerate(pairwise(sizes), start=1):
            self._affine(i, initial_std(weight_init_std, n) * np.random.randn(n, m))
            if i > self.hidden_layer_num:
                break
            if use_batchnorm:
                gamma, beta = np.ones(m, self.dtype), np.zeros(m, self.dtype)
                self.params[f"gamma{i}"], self.params[f"beta{i}"] = gamma, beta
                self.layers[f"BatchNorm{i}"] = BatchNormalization(gamma, beta)
            self.layers[f"Activation_function{i}"] = _ACTIVATIONS[activation]()
            if use_dropout:
                self.layers[f"Dropout{i}"] = Dropout(dropout_ration)


class MultiLayerNet(MultiLayerNetExtend):
    """A multilayer perceptron with weight decay, 6.1.

    Parameters
    ----------
    input_size : int
        Numbers per example: 784 for MNIST.
    hidden_size_list : sequence of int
        Neurons of each hidden layer, as ``[100, 100, 100]``.
    output_size : int
        Classes.
    activation : {'relu', 'sigmoid'}
        Of the hidden layers.
    weight_init_std : {'relu', 'he', 'sigmoid', 'xavier'} or float
        As for :class:`MultiLayerNetExtend`.
    weight_decay_lambda : float
        The loss has ``0.5 * weight_decay_lambda * sum(W ** 2)`` added for each weight matrix.
    dtype : float32 or float64
        Of the parameters and of all computation.

    Attributes
    ----------
    params, layers, last_layer : dict, dict, SoftmaxWithLoss
        The parameters; the layers; the loss behind them.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size_list: Sequence[int],
        output_size: int,
        activation: str = "relu",
        weight_init_std: str | float = "relu",
        weight_decay_lambda: float = 0,
        *,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size_list,
            output_size,
            activation,
            weight_init_std,
            weight_decay_lambda,
            dtype=dtype,
        )
