"""Where PyTorch is met: its optimizers with our step, and its state.

``from schuss.torch import AdamW`` in place of ``from torch.optim import AdamW``; what is imported from here needs
PyTorch (``pip install "schuss[torch]"``), but for :func:`load_torch_state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .states import load_torch_state

if TYPE_CHECKING:
    from .optimizers import (
        ASGD,
        LAMB,
        LARS,
        SGD,
        Adadelta,
        Adafactor,
        Adagrad,
        Adam,
        Adamax,
        AdamW,
        Adan,
        Lion,
        Muon,
        NAdam,
        RAdam,
        RMSprop,
        Rprop,
        SparseAdam,
    )

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "load_torch_state",
]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import optimizers

    return getattr(optimizers, name)


def __dir__() -> list[str]:
    return __all__
