"""What was run: an experiment's setting, its seeds, and the optimizers of the textbook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from .. import _core

# The optimizers of the textbook, which race where no others are asked for.
TEXTBOOK = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was run: what figures say of themselves, and the JSON of the command line."""

    data: str  # what it is called, without the directory where it lies
    counts: Mapping[str, int] = field(default_factory=dict)  # of examples or columns, by what they are for
    model: str = ""
    layers: tuple[int, ...] = ()
    weight_decay: float = 0.0  # of the model
    rates: Mapping[str, float | str] = field(default_factory=dict)  # optimizer -> learning rate; a schedule as text
    schedule: str = ""  # a factor on each learning rate
    iterations: int = 0
    epochs: int = 0
    patience: int = 0  # after how many epochs without a better one it stops
    batch_size: int = 0
    seeds: tuple[int, ...] = ()
    in_numpy: bool = False
    version: str = _core.__version__

    def label(self, name: str) -> str:
        """An optimizer's name with its learning rate."""
        rate = self.rates[name]
        return name if "lr=" in name else f"{name}, lr {rate if isinstance(rate, str) else f'{rate:g}'}"


class OfOneSeed(Protocol):
    """What has been run with one seed."""

    seed: int
    losses: list[float]


Seeded = TypeVar("Seeded", bound=OfOneSeed)


def over_seeds(runs: Sequence[Seeded]) -> list[list[Seeded]]:
    """The runs of each optimizer or schedule, one for each seed: those that came as far as the furthest.

    What Ctrl-C cut short is so no part of a mean, unless there is nothing else.
    """
    entries = sum(run.seed == runs[0].seed for run in runs)
    groups = [list(runs[place::entries]) for place in range(entries)]
    return [[run for run in group if len(run.losses) == max(len(run.losses) for run in group)] for group in groups]
