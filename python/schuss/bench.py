"""The benchmark by its short name: all of it is in :mod:`schuss.lab.bench`."""

from .lab.bench import main

__all__ = ["main"]
