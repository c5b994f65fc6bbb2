"""The names that the scripts of "Deep Learning from Scratch", chapters 4 to 6, import.

With ``from schuss.textbook import *`` in place of the lines that import from ``common`` and ``dataset`` the scripts run
as they are. The optimizers are schuss's; all else is NumPy in the order of operations of the book, in float64, so that
from the same seed the numbers are those that the book's own code gives. :class:`schuss.nn.MultiLayerNet` is the faster
network.

``np`` is among the names because the book's own modules hand it on, and scripts rely on that.
"""

import numpy as np

from ..optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop
from .functions import (
    cross_entropy_error,
    identity_function,
    numerical_gradient,
    numerical_gradient_2d,
    relu,
    relu_grad,
    sigmoid,
    sigmoid_grad,
    softmax,
    softmax_loss,
    step_function,
    sum_squared_error,
)
from .layers import AddLayer, Affine, BatchNormalization, Dropout, MulLayer, Relu, Sigmoid, SoftmaxWithLoss
from .networks import MultiLayerNet, MultiLayerNetExtend, TwoLayerNet
from .training import Trainer, load_mnist, shuffle_dataset, smooth_curve

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "AddLayer",
    "Affine",
    "BatchNormalization",
    "Dropout",
    "Momentum",
    "MulLayer",
    "MultiLayerNet",
    "MultiLayerNetExtend",
    "Nesterov",
    "RMSprop",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "Trainer",
    "TwoLayerNet",
    "cross_entropy_error",
    "identity_function",
    "load_mnist",
    "np",
    "numerical_gradient",
    "numerical_gradient_2d",
    "relu",
    "relu_grad",
    "shuffle_dataset",
    "sigmoid",
    "sigmoid_grad",
    "smooth_curve",
    "softmax",
    "softmax_loss",
    "step_function",
    "sum_squared_error",
]
