"""The names that the scripts of "Deep Learning from Scratch" import, for ``from schuss.textbook import *``.

With this line in place of those that import from ``common`` and ``dataset`` the scripts run as they are.
``np`` is among the names because the book's own ``common.optimizer`` hands it on, and scripts rely on that.
"""

import numpy as np

from .datasets import load_mnist
from .nn import MultiLayerNet
from .optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop
from .plots import smooth_curve

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "MultiLayerNet",
    "Nesterov",
    "RMSprop",
    "load_mnist",
    "np",
    "smooth_curve",
]
