"""What all rules take: the types of their arguments, the names and ranges of the options, and what each must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np

from . import _core
from .checks import POSITIVE, SHARE, flag, number, shown
from .dtypes import bfloat16

LearningRate: TypeAlias = float | Callable[[int], float]
Params: TypeAlias = MutableMapping[Any, Any] | Sequence[Any]
Grads: TypeAlias = Mapping[Any, Any] | Sequence[Any]


class Options(TypedDict, total=False):
    """What every optimizer takes by keyword; :class:`Optimizer` says what each does."""

    maximize: bool
    clip_value: float | None
    clip_norm: float | None
    ema: float | None
    on_nonfinite: Literal["propagate", "skip", "raise"]
    flush_subnormals: bool
    sparse: Literal["exact", "touched"]
    state_dtype: Literal["float32", "bfloat16", "int8"]
    master: Literal["split", "float32"] | None
    groups: Mapping[str, Mapping[str, Any]]


class L2Options(Options, total=False):
    """The same, and L2 regularisation: for the rules that have no weight decay of their own."""

    weight_decay: float


OPTIONS = (
    *("weight_decay", "maximize", "clip_value", "clip_norm", "ema", "on_nonfinite", "flush_subnormals", "sparse"),
    *("groups", "state_dtype", "master"),
)

# Those that say how numbers are kept. They cannot change for a parameter that has state.
KEPT = ("state_dtype", "master")

# Those that concern all parameters together, and are no group's.
GLOBAL = frozenset({"clip_norm", "ema", "on_nonfinite", "flush_subnormals", "sparse", "groups"})

# Those that a group with a rule of its own has from the optimizer, where it does not say otherwise.
SHARED = ("maximize", "clip_value", "state_dtype", "master")

# Of those that are numbers: lowest, highest, whether the highest is excluded.
RANGES: Mapping[str, tuple[float, float, bool]] = {
    "weight_decay": POSITIVE,
    "clip_value": POSITIVE,
    "clip_norm": POSITIVE,
    "ema": SHARE,
}

ON_NONFINITE = ("propagate", "skip", "raise")

CLIP_EPS = 1e-6  # added to the norm of the gradients before clip_norm is divided by it, as PyTorch does

# What the engine is told of a step beside the rule: clip_norm (below 0: none), what is added to the norm, the number of
# on_nonfinite, what is left of the average (below 0: none), flush_subnormals, whether rows that are not named rest,
# whether the gradients are zeros after it; and for each group L2, clip_value and sign.
Orders: TypeAlias = tuple[float, float, int, float, bool, bool, bool, list[tuple[float, float, float]]]
CHOICES: Mapping[str, tuple[str | None, ...]] = {
    "on_nonfinite": ON_NONFINITE,
    "sparse": ("exact", "touched"),
    "state_dtype": ("float32", "bfloat16", "int8"),
    "master": ("split", "float32", None),
}


def checked_rate(value: Any) -> Any:
    """Return a learning rate as it is kept: a float, or what is asked for one at each step."""
    if callable(value):
        return value
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, np.ndarray, np.generic)):
        raise TypeError(f"lr must be a number, got {shown(value)}; parameters go to update(params, grads)")
    return number("lr", value, *POSITIVE)


def checked_option(name: str, value: Any) -> Any:
    """Return the value of an option that is no number as it is kept."""
    if name in CHOICES:
        known, given = CHOICES[name], value
        if name == "state_dtype" and isinstance(value, (type, np.dtype)):
            with suppress(TypeError):
                value = np.dtype(value).name
        if not isinstance(value, (str, type(None))) or value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {shown(given)}")
        if value == "bfloat16":
            bfloat16()  # which says what to install
        return value
    if name == "flush_subnormals" and value and not _core.can_flush:
        raise ValueError("flush_subnormals=True cannot be had on this processor")
    return flag(name, value)
