"""The rules by name: the one table that checkpoints, text, tests, benchmark and command line read."""

from __future__ import annotations

from typing import Any

# Name -> class, in the order in which optimizers.py has them; Optimizer puts them in.
OPTIMIZERS: dict[str, type[Any]] = {}
