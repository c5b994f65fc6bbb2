"""What a sharded step needs: bytes, memory and seconds, by formulae, and by a simulation of its buckets.

With N parameters of b bytes, R ranks and a state of s numbers a parameter, each rank

- receives at least 2 (R - 1)/R N b bytes: the sums of its share, and the parameters of the others';
- keeps N b of parameters and N b of gradients, s N b/R of state and N b/R of sums, and 6 + 2/R buckets;
- steps N/R parameters, which moves (3 + 2 s) N b/R bytes through its memory.

>>> job = Job(parameters=1e9, ranks=8)
>>> job.least_bytes, job.state
(7000000000.0, 1000000000.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

_UNDER_WAY = 2  # buckets, in each direction, as schuss.mpi has them


@dataclass(frozen=True)
class Job:
    """What is stepped: so many parameters of so many bytes, with so many numbers of state each, by so many ranks.

    ``norms`` says whether all gradients are wanted before the first parameter is stepped, as with ``clip_norm``.
    """

    parameters: float
    ranks: int
    slots: int = 2
    itemsize: int = 4
    bucket: float = 32 << 20
    norms: bool = False

    @property
    def size(self) -> float:
        """Bytes of all parameters."""
        return self.parameters * self.itemsize

    @property
    def least_bytes(self) -> float:
        """Bytes that each rank must receive in a step."""
        return 2 * (self.ranks - 1) / self.ranks * self.size

    @property
    def state(self) -> float:
        """Bytes of state on each rank."""
        return self.slots * self.size / self.ranks

    @property
    def memory(self) -> float:
        """Bytes of parameters, gradients, state, sums and buckets on each rank."""
        buckets = (6 + 2 / self.ranks) * min(self.bucket, self.size) if self.ranks > 1 else 0.0
        return 2 * self.size + self.state + self.size / self.ranks + buckets

    @property
    def step_bytes(self) -> float:
        """Bytes that the step of a rank's share moves through its memory."""
        return (3 + 2 * self.slots) * self.size / self.ranks

    @property
    def buckets(self) -> int:
        """In how many buckets all parameters travel."""
        return ceil(self.size / self.bucket)


@dataclass(frozen=True)
class Machine:
    """What a rank has: bytes a second from the others, through its memory, and seconds until a message comes.

    ``by_itself`` says whether bytes move while the rank computes; else they move while it waits for them.
    """

    network: float
    memory: float
    latency: float = 0.0
    by_itself: bool = True


@dataclass(frozen=True)
class Times:
    """Seconds of a step: in all, and of its three parts if nothing overlapped."""

    total: float
    reduce: float
    step: float
    gather: float


def simulated(job: Job, machine: Machine) -> Times:
    """Let the buckets of a step go their way: a rank packs, sends, adds, steps; one message at a time arrives."""
    n, size = job.buckets, job.size / job.buckets  # bytes of a bucket, over all ranks
    r, own = job.ranks, job.size / job.buckets / job.ranks
    move = (size - own) / machine.network + machine.latency if r > 1 else 0.0
    # Through the memory, in and out: what is packed; r sums of what has come; what is unpacked.
    step = job.step_bytes / n / machine.memory
    pack = add = pack_own = unpack = 0.0
    if r > 1:
        pack, add = 2 * size / machine.memory, 3 * size / machine.memory
        pack_own, unpack = 2 * own / machine.memory, 2 * (size - own) / machine.memory
    now, free = 0.0, 0.0  # of the rank, and of what brings messages
    coming: list[float] = []
    going: list[float] = []

    def send(wait_for: list[float], packing: float) -> None:
        nonlocal now, free
        now += packing
        if machine.by_itself:
            free = max(free, now) + move
            wait_for.append(free)
        else:
            wait_for.append(-inf)  # it moves when it is waited for

    def receive(arrival: float) -> None:
        nonlocal now
        now = max(now, arrival) if machine.by_itself else now + move

    def gather(k: int) -> None:
        nonlocal now
        if k >= _UNDER_WAY:
            receive(going[k - _UNDER_WAY])
            now += unpack
        send(going, pack_own)

    for _ in range(min(n, _UNDER_WAY)):
        send(coming, pack)
    for k in range(n):
        receive(coming[k])
        now += add
        if k + _UNDER_WAY < n:
            send(coming, pack)
        if not job.norms:
            now += step
            gather(k)
    if job.norms:
        now += job.step_bytes * 4 / (3 + 2 * job.slots) / 4 / machine.memory  # the gradients, once more
        for k in range(n):
            now += step
            gather(k)
    for k in range(max(0, n - _UNDER_WAY), n):
        receive(going[k])
        now += unpack
    return Times(now, n * (pack + move + add), n * step, n * (pack_own + move + unpack))


SIZES, RANKS = (1e8, 1e9, 1e10, 1e11), (8, 64, 1024)


def table(cases: Sequence[tuple[float, int]], machine: Machine) -> list[tuple[str, ...]]:
    """For each number of parameters and ranks: bytes that move, state and memory of a rank, and seconds."""
    rows: list[tuple[str, ...]] = []
    for n, ranks in cases:
        # Messages between pairs of ranks shrink as ranks grow in number: buckets grow with them.
        job = Job(n, ranks, bucket=max(32 << 20, min(ranks << 20, 1 << 30)))
        times = simulated(job, machine)
        rows.append(
            (
                f"{n:.3g}".replace("e+", "e").replace("e0", "e"),
                f"{ranks:,}",
                _size(job.least_bytes),
                _size(job.state),
                _size(job.memory),
                _seconds(times.step),
                _seconds(times.reduce + times.step + times.gather),
                _seconds(times.total),
            )
        )
    return rows


HEADER = ("parameters", "ranks", "received", "state", "memory", "step alone", "one after another", "overlapped")


def _size(nbytes: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes / 1e3:.3g} kB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
