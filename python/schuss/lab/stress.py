"""Gradients that are hard on state of few bits: how far the largest step of a format goes, over lr, in each case.

No data are needed. Parameters are put to zero before each step, so that what is measured is the step, and not the
rounding of what it is added to; gradients are of float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf, sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import formats

Array = NDArray[Any]

LR = 1e-3
EPS = 1e-8  # of the paper: too small to hide that a second moment has become zero
SILENCE = 10_000  # steps
_ELEMENTS = 1024  # eight blocks


def bound(beta1: float = 0.9, beta2: float = 0.999) -> float:
    """What no step of Adam is above, over lr and but for the bias correction, whatever the gradients are.

    By Cauchy and Schwarz ``m <= c sqrt(v)``, with c the root of the sum of squared weights of m over those of v.

    >>> round(bound(), 2)
    7.27
    """
    return (1 - beta1) / sqrt((1 - beta2) * (1 - beta1**2 / beta2))


def _rows(rng: np.random.Generator, steps: int) -> Iterator[Array]:
    for _ in range(steps):
        g = np.zeros((400, 16), np.float32)
        g[rng.choice(400, 4, replace=False)] = rng.standard_normal((4, 16))
        yield g


def _outlier(rng: np.random.Generator, steps: int) -> Iterator[Array]:
    for i in range(steps):
        g = rng.standard_normal(_ELEMENTS, np.float32)
        if i == steps // 4:
            g[300] = 1e4
        yield g


def _silence(rng: np.random.Generator, steps: int) -> Iterator[Array]:
    for i in range(steps + 200):
        yield (
            np.zeros(_ELEMENTS, np.float32) if 100 <= i < steps + 100 else rng.standard_normal(_ELEMENTS, np.float32)
        )


def _of_size(size: float) -> Callable[[np.random.Generator, int], Iterator[Array]]:
    def gradients(rng: np.random.Generator, steps: int) -> Iterator[Array]:
        for _ in range(steps):
            yield np.float32(size) * rng.choice(np.array([-1, 1], np.float32), _ELEMENTS)

    return gradients


# By what the gradients are, which are of size 1 otherwise; and how many steps.
CASES: Mapping[str, tuple[Callable[[np.random.Generator, int], Iterator[Array]], int]] = {
    "1 % of rows active": (_rows, 1000),
    "one outlier of 1e4": (_outlier, 800),
    f"{SILENCE:,} zeros, then on": (_silence, SILENCE),
    "all of size 1e-7": (_of_size(1e-7), 500),
    "all of size 1e5": (_of_size(1e5), 500),
}


class Steps(Protocol):
    """What is stressed: an optimizer that steps by float32 gradients."""

    @property
    def state(self) -> Any:
        """By parameter and slot, live."""

    def update(self, params: Any, grads: Any) -> None:
        """Take a step."""


def largest_step(optimizer: Steps, dtype: Any, case: str, steps: int | None = None, seed: int = 0) -> float:
    """The largest step over lr in a case; infinite where one is no number.

    Parameters
    ----------
    optimizer : Optimizer
        A new one, with the rate LR.
    dtype : dtype
        Of the parameters.
    case : str
        One of CASES.
    steps : int, optional
        Other than the case has.
    seed : int
    """
    gradients, default = CASES[case]
    params: dict[str, Array] = {}
    largest = 0.0
    for g in gradients(np.random.default_rng(seed), default if steps is None else steps):
        p = params.setdefault("p", np.zeros(g.shape, dtype))
        p[...] = 0
        if "remainder" in optimizer.state.get("p", {}):
            optimizer.state["p"]["remainder"][...] = 0  # what has been added to 0 is all that is looked at
        optimizer.update(params, {"p": g})
        moved = float(np.abs(formats.parameter(p, optimizer.state["p"])).max())
        largest = max(largest, moved / LR) if np.isfinite(moved) else inf
    return largest
