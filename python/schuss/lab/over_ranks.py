"""The benchmark of a sharded step, under mpiexec: where its time goes, which bytes move, what state a rank keeps.

On one machine the ranks share its cores and its memory, and their messages are copies in it. So this shows that all is
right, and which bytes move; how it scales it cannot show. What is measured is set against the simulation, which is
given the speeds of this machine's copies and steps, measured by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from .. import threads
from ..dtypes import bfloat16
from ..mpi import Sharded
from ..mpi.ranks import Ranks
from ..optimizers import AdamW
from .scale import Job, Machine, simulated
from .timing import free_memory, settled, time_text

TURNS = 15

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """One way of a step, in seconds: medians over turns of the slowest rank's."""

    case: str
    way: str
    ranks: int
    parameters: int
    seconds: float
    reduce: float | None
    step: float | None
    gather: float | None
    received: float  # bytes a step, of a rank
    least: float
    state: int  # bytes, of the rank that has most
    simulated: float | None


class _Contender:
    """A way of a step on parameters of its own."""

    def __init__(self, ranks: Ranks, shapes: Shapes, seed: int) -> None:
        numbers = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
        slopes = np.random.default_rng(seed).standard_normal(1 << 16, np.float32)
        self.ranks = ranks
        self.params = {str(i): np.resize(numbers, shape) for i, shape in enumerate(shapes)}
        self.grads = {str(i): np.resize(slopes, shape) for i, shape in enumerate(shapes)}

    def step(self) -> None:
        raise NotImplementedError

    def parts(self) -> dict[str, float]:
        return {}


class _Over(_Contender):
    def __init__(
        self, ranks: Ranks, shapes: Shapes, seed: int, norms: bool, dtype: Any = np.float32, **sharing: Any
    ) -> None:
        super().__init__(ranks, shapes, seed)
        self.params, self.grads = (
            {name: array.astype(dtype, copy=False) for name, array in arrays.items()}
            for arrays in (self.params, self.grads)
        )
        self.opt = Sharded(AdamW(clip_norm=1.0 if norms else None), **sharing)

    def step(self) -> None:
        self.opt.update(self.params, self.grads)

    def parts(self) -> dict[str, float]:
        return dict(self.opt.traffic)

    @property
    def state(self) -> int:
        return self.opt.nbytes["state"]


class _Replicated(_Contender):
    """The same step on each rank, with all of the state, after MPI's Allreduce of the gradients."""

    def __init__(self, ranks: Ranks, shapes: Shapes, seed: int, norms: bool) -> None:
        super().__init__(ranks, shapes, seed)
        self.opt = AdamW(clip_norm=1.0 if norms else None)
        self.sums = {name: np.empty_like(g) for name, g in self.grads.items()}

    def step(self) -> None:
        for name, g in self.grads.items():
            self.ranks.comm.Allreduce(g, self.sums[name])
        self.opt.update(self.params, self.sums, grad_scale=1 / self.ranks.size)

    @property
    def state(self) -> int:
        return sum(array.nbytes for slots in self.opt.state.values() for array in slots.values())


def _timed(ranks: Ranks, work: Callable[[], object]) -> float:
    """Seconds until all ranks are through."""
    ranks.comm.Barrier()
    start = perf_counter()
    work()
    ranks.comm.Barrier()
    return float(ranks.gathered(np.array([perf_counter() - start])).max())


def _machine(ranks: Ranks) -> Machine:
    """The speeds of messages and of memory, as all ranks have them at the same time."""
    nbytes = 32 << 20
    share = nbytes // ranks.size
    sent, came = np.ones(share, np.uint8), np.empty(share * ranks.size, np.uint8)
    kind = ranks.MPI.BYTE
    moves = [_timed(ranks, lambda: ranks.comm.Allgather([sent, kind], [came, kind])) for _ in range(TURNS)]
    p = {"p": np.ones(share // 4, np.float32)}
    g = {"p": np.ones(share // 4, np.float32)}
    opt = AdamW()
    steps = [_timed(ranks, lambda: opt.update(p, g)) for _ in range(TURNS)]
    latencies = [_timed(ranks, lambda: ranks.gathered(np.zeros(1))) for _ in range(TURNS)]
    network = (nbytes - share) / float(np.median(moves)) if ranks.size > 1 else 1.0
    return Machine(network, 7 * share / float(np.median(steps)), float(np.median(latencies)), by_itself=False)


def run(sizes: Sequence[tuple[str, Shapes]], show: Callable[[str], None]) -> list[Row]:
    """Time AdamW, sharded and replicated, by turns; all ranks call this, and one of them shows it."""
    ranks = Ranks(None)
    tell = show if ranks.rank == 0 else lambda line: None
    rows = []
    with settled(threads.get_num_threads()), ranks.together():
        machine = _machine(ranks)
        tell(
            f"{ranks.size} rank(s) on this machine, {threads.get_num_threads()} thread(s) each; messages "
            f"{machine.network / 1e9:.1f} GB/s a rank, a step {machine.memory / 1e9:.1f} GB/s a rank, all at once\n"
            "Ranks of one machine share its cores and memory: these are bytes and checks, not how it scales."
        )
        for case, shapes in sizes:
            n = sum(map(prod, shapes))
            if ranks.size * 4 * n * 14 > 0.8 * float(ranks.gathered(np.array([free_memory()])).min()):
                tell(f"\n{case}: left out, too large for this machine's memory")
                continue
            for norms in (False, True):
                rows += _run_case(ranks, case, shapes, norms, machine, tell)
    ranks.close()
    return rows


def _run_case(
    ranks: Ranks, case: str, shapes: Shapes, norms: bool, machine: Machine, tell: Callable[[str], None]
) -> list[Row]:
    n, seed = sum(map(prod, shapes)), ranks.rank
    name = f"{case}, clipped" if norms else case
    contenders: dict[str, Any] = {
        "sharded": _Over(ranks, shapes, seed, norms),
        "sharded, mpi's sum": _Over(ranks, shapes, seed, norms, reduction="mpi"),
        "replicated": _Replicated(ranks, shapes, seed, norms),
    }
    jobs = dict.fromkeys(contenders, Job(n, ranks.size, norms=norms))
    if find_spec("ml_dtypes"):
        contenders["sharded, bfloat16"] = _Over(ranks, shapes, seed, norms, bfloat16())
        jobs["sharded, bfloat16"] = Job(n, ranks.size, itemsize=2, norms=norms)
    for contender in contenders.values():
        contender.step()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in contenders}
    for turn in range(TURNS):
        order = list(contenders)
        for way in order[turn % len(order) :] + order[: turn % len(order)]:
            before = contenders[way].parts()
            seconds = _timed(ranks, contenders[way].step)
            after = contenders[way].parts()
            found[way].append({"seconds": seconds, **{part: after[part] - before[part] for part in after}})
    same = all(
        len({p.tobytes() for p in ranks.gathered(_digest(contenders[way].params))}) == 1
        for way in contenders
        if way in ("sharded", "sharded, bfloat16")
    )
    tell(f"\nAdamW, {name}: {n:,} parameters, of float32 or as named; all ranks have the same bits: {same}")
    heads = (("a step", 8), ("reduce", 8), ("step", 8), ("gather", 8), ("simulated", 9), ("received / least", 16))
    tell(" ".join([f"  {'':20}", *(f"{head:>{width}}" for head, width in heads), "state"]))
    rows = []
    for way, turns in found.items():
        job = jobs[way]
        median = {part: float(np.median([each[part] for each in turns])) for part in turns[0]}
        over = way != "replicated"
        received = median.get("received", job.least_bytes)
        row = Row(
            name,
            way,
            ranks.size,
            n,
            median["seconds"],
            median["reduce"] if over else None,
            median["seconds"] - median["reduce"] - median["gather"] if over else None,
            median["gather"] if over else None,
            float(ranks.gathered(np.array([received])).max()),
            job.least_bytes,
            int(ranks.gathered(np.array([contenders[way].state])).max()),
            simulated(job, machine).total if way == "sharded" else None,
        )
        rows.append(row)
        parts = [time_text(x) if x is not None else "" for x in (row.reduce, row.step, row.gather, row.simulated)]
        moved = f"{row.received / row.least:.3f}" if row.least and over else ""
        tell(
            f"  {way:20} {time_text(row.seconds):>8} {parts[0]:>8} {parts[1]:>8} {parts[2]:>8} {parts[3]:>9} "
            f"{moved:>16} {row.state / 1e6:.2f} MB"
        )
    return rows


def _digest(params: dict[str, Any]) -> Any:
    found = blake2b(digest_size=16)
    for p in params.values():
        found.update(p.view(np.uint8).data)
    return np.frombuffer(found.digest(), np.uint8)
