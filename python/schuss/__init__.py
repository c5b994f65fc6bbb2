"""Optimizer steps on NumPy arrays: in place, fused, multithreaded, bit for bit what NumPy computes.

>>> import numpy as np, schuss
>>> params = {"W": np.zeros((784, 100), np.float32), "b": np.zeros(100, np.float32)}
>>> grads = {name: np.ones_like(p) for name, p in params.items()}
>>> opt = schuss.Adam(lr=1e-3)
>>> opt.update(params, grads)
>>> params["b"][:2].round(4)
array([-0.001, -0.001], dtype=float32)
"""

import typing as _typing
from importlib import import_module as _import_module

from . import (
    threads,  # noqa: F401  first: it prepares the loading of the compiled core
    views,  # noqa: F401  which the core is told of
)

# isort: split
from . import datasets, functional, mpi, nn, reference, schedules, scipy, torch
from ._core import __version__
from .base import Optimizer
from .checkpoint import load
from .info import info
from .nested import register_dataclass
from .optimizers import (
    LAMB,
    LARS,
    SGD,
    AdaDelta,
    Adafactor,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    Adan,
    AMSGrad,
    Lion,
    Momentum,
    Muon,
    NAdam,
    Nesterov,
    RAdam,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from .rows import Rows
from .threads import get_num_threads, set_num_threads

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "Adafactor",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rows",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "__version__",
    "datasets",
    "functional",
    "get_num_threads",
    "info",
    "load",
    "mpi",
    "nn",
    "reference",
    "register_dataclass",
    "schedules",
    "scipy",
    "set_num_threads",
    "torch",
]


if not _typing.TYPE_CHECKING:  # to a type checker each name would be there

    def __getattr__(name):
        """Import the rooms whose classes inherit from another package's when they are asked for."""
        if name in ("sklearn", "thinc"):
            return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
