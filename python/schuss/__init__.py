"""Optimizer steps on NumPy arrays: in place, fused, multithreaded, bit for bit what NumPy computes.

>>> import numpy as np, schuss
>>> params = {"W": np.zeros((784, 100), np.float32), "b": np.zeros(100, np.float32)}
>>> grads = {name: np.ones_like(p) for name, p in params.items()}
>>> opt = schuss.Adam(lr=1e-3)
>>> opt.update(params, grads)
>>> params["b"][:2].round(4)
array([-0.001, -0.001], dtype=float32)
"""

from . import threads  # noqa: F401  first: it prepares the loading of the compiled core

# isort: split
from . import datasets, nn, reference
from ._core import __version__
from .info import info
from .optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov, Optimizer, RMSprop
from .threads import get_num_threads, set_num_threads

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "__version__",
    "datasets",
    "get_num_threads",
    "info",
    "nn",
    "reference",
    "set_num_threads",
]
