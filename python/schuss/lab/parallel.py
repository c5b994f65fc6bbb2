"""Who trains a network: one process, or the ranks of MPI with parts of each batch; the same curve in either case.

With parts, each part's gradient and each part's share of the held-back digits is computed by itself, on one thread of
BLAS, so that no number depends on which rank computes which of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._extras import need
from ..base import Optimizer
from ..mpi import Sharded
from ..mpi.moves import parts_of
from ..mpi.ranks import Ranks
from ..nn import MultiLayerNet

Array = NDArray[Any]
T = TypeVar("T")


class Alone:
    """One process, and whole batches."""

    shown: bool = True  # whether this process tells the user

    def stepper(self, opt: Optimizer) -> Any:
        """What steps by this optimizer's rule."""
        return opt

    def step(self, opt: Any, net: MultiLayerNet, x: Array, t: Array) -> list[float]:
        """One step; returns the losses of the parts that are here, each weighted by its share of the batch."""
        opt.update(net.params, net.gradient(x, t))
        return [net.last_loss]

    def mean_loss(self, losses: Sequence[Sequence[float]]) -> float:
        """The mean loss of an epoch, from what the steps have returned."""
        return float(np.mean(losses))

    def accuracy(self, net: MultiLayerNet, x: Array, t: Array) -> float:
        """The share of examples that the network reads right."""
        return net.accuracy(x, t)

    def averages(self, opt: Any) -> dict[Any, Array]:
        """The averages at which a schedule-free optimizer is meant to be evaluated; none of others."""
        return {name: slots["x"] for name, slots in opt.state.items() if {"z", "x"} <= set(slots)}

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do what one process is to do first, as it may fetch files, and the others then."""
        return work()

    def once(self, work: Callable[[], object]) -> None:
        """Do what one process is to do for all."""
        work()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Around all of a training."""
        yield


class Together(Alone):
    """Ranks of MPI, each with some of the parts of a batch.

    Parameters
    ----------
    parts : int, optional
        As many as ranks if it is not given.
    """

    parts: int

    def __init__(self, parts: int | None = None) -> None:
        self._ranks = Ranks(None)
        self.parts = self._ranks.size if parts is None else parts
        self.shown = self._ranks.rank == 0

    def stepper(self, opt: Optimizer) -> Any:
        """A sharded optimizer."""
        return Sharded(opt, parts=self.parts)

    def step(self, opt: Any, net: MultiLayerNet, x: Array, t: Array) -> list[float]:
        """One step by my parts' gradients."""
        grads, losses = [], []
        places = np.array_split(np.arange(len(x)), self.parts)
        for part in opt.my_parts:
            mine = places[part]
            share = len(mine) * self.parts / len(x)  # of what a part has on the average: 1, if all have as many
            if len(mine):
                found = net.gradient(x[mine], t[mine])
                losses.append(net.last_loss * share)
                # Copies, as the network may use its arrays again.
                grads.append(
                    {name: g.copy() if share == 1 else (g * share).astype(g.dtype) for name, g in found.items()}
                )
            else:  # a batch of fewer examples than parts
                losses.append(0.0)
                grads.append({name: np.zeros_like(p) for name, p in net.params.items()})
        opt.update_parts(net.params, grads)
        return losses

    def mean_loss(self, losses: Sequence[Sequence[float]]) -> float:
        """The mean over steps and parts, in one order."""
        mine = np.array(losses).ravel()  # steps x my parts
        with self._ranks.together():
            of_all = self._ranks.gathered_lists(mine)
        return float(np.mean(np.concatenate([each.reshape(len(losses), -1) for each in of_all], axis=1)))

    def accuracy(self, net: MultiLayerNet, x: Array, t: Array) -> float:
        """Right ones are counted by parts, and the counts added up."""
        mine = parts_of(self._ranks.rank, self._ranks.size, self.parts)
        places = np.array_split(np.arange(len(x)), self.parts)
        right = sum(round(net.accuracy(x[places[p]], t[places[p]]) * len(places[p])) for p in mine if len(places[p]))
        with self._ranks.together():
            return int(self._ranks.gathered(np.array([right])).sum()) / len(x)

    def averages(self, opt: Any) -> dict[Any, Array]:
        """Those of all ranks."""
        x: dict[Any, Array] = opt.gather("x") if {"z", "x"} <= set(opt.optimizer.slots) else {}
        return x

    def in_turn(self, work: Callable[[], T]) -> T:
        """Rank 0 first. Where it fails, all do."""
        found: list[T] = []
        for turn in (True, False):
            self._agreed(lambda: found.append(work()), turn == self.shown)
        return found[0]

    def once(self, work: Callable[[], object]) -> None:
        """Rank 0 does it. Where it fails, all do."""
        self._agreed(work, self.shown)

    def _agreed(self, work: Callable[[], object], mine: bool) -> None:
        with self._ranks.together(), self._ranks.agreed():
            if mine:
                work()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """With one thread of BLAS, as a product of matrices may depend on their number."""
        with need("threadpoolctl", "training in parts", extra="mpi").threadpool_limits(1, "blas"):
            yield


def ranks_started() -> int:
    """As how many ranks MPI's launcher has started this program; 1 where there is none."""
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):  # MPICH, Intel MPI and others made from it; Open MPI
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return 1


def team(parts: int | None) -> Alone:
    """Who there is to train, in so many parts; as many as ranks if that is not said."""
    return Alone() if (parts or ranks_started()) == ranks_started() == 1 else Together(parts)
