"""The one way an optional package is imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str, what: str, *, package: str | None = None, extra: str = "demo") -> Any:
    """Import an optional ``module``; if it is absent, say in one line who needs it and what to install."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        root = module.partition(".")[0]
        if error.name != root:
            raise  # the package is there, something inside it is broken: that is its own story
        raise ImportError(f'{what} needs {package or root}: pip install "schuss[{extra}]"', name=root) from None
