"""The benchmark of formats: the time of Adam's step in fewer bits than 32, beside the bytes that it moves.

Float32 takes turns with each format, with the way through casts, and with what others have. All begin with numbers
that a bfloat16 holds, and a contender that steps elsewhere than float32 does is found out. Each has a limit of its
own: the time in which the loop of the benchmark's limit moves as many bytes as a step of it must. A bit that is not
moved is a gain only where memory is what a step waits for; with ``busy``, one thread steps while all others stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, dtypes
from .._extras import need
from . import peers
from .report import as_table, one_line
from .timing import free_memory, settled, time_text, time_turns

SIZES = {"1e5": 10**5, "1e6": 10**6, "3e7": 3 * 10**7}
BUDGET_S, QUICK_S = 12.0, 1.0  # for each size
STREAM_BYTES = 1 << 26  # that a call of the limit's loop moves at least
STREAMED = 28  # bytes for each element of that loop, with two slots: Adam's
BESIDE_BYTES = 1 << 28  # of the arrays that the other threads stream through: what no cache holds
APART = 0.1  # of the way that float32 goes, as much as another may be from it after two steps

# Those that compile for half a minute at each size, or take seconds at the largest: part of a quick run only if named.
SLOW = frozenset({"bitsandbytes 8-bit", "torchao 8-bit"})

# Of float32, and of state of 16 and 8 bits. What was seen follows it: on few cores, a format may wait for no memory.
SENTENCE = "With more cores on one memory, the gain nears the ratio of bytes, 28 : 20 : 16, if a step waits for memory."


@dataclass(frozen=True)
class Row:
    """One contender at one size. Times are in seconds, bytes are for each parameter; low and high are the quartiles."""

    case: str
    rule: str
    parameters: int
    threads: int
    busy: bool  # whether the other threads streamed meanwhile
    contender: str
    median: float
    low: float
    high: float
    ns_per_parameter: float
    over_ours: float  # its time over that of our float32
    state_bytes: float
    kept_bytes: float  # of the parameter, of what is beside it, and of state
    moved_bytes: float
    gb_per_s: float
    limit: float  # the stream limit of its own bytes
    of_limit: float  # that over its time


def streams(wanted: Iterable[int], threads: int) -> dict[int, tuple[Callable[[], object], int]]:
    """For numbers of bytes, the in-place loop that moves as many, and how often it does within a call.

    All loops go over the beginnings of the same arrays, which lie as those of the other benchmark do.
    """
    elements = {moved: max(1, round(moved / STREAMED)) for moved in wanted}
    size, line, page = 4 * max(elements.values()), 64, 4096
    arrays: list[NDArray[Any]] = []
    for i in range(4):
        memory = np.empty(size + 2 * page, np.uint8)
        begin = -memory.ctypes.data % page + 9 * line * i
        arrays.append(memory[begin : begin + size].view(np.float32))
        arrays[-1].fill(1e-3)

    def loop(n: int, repeats: int) -> Callable[[], object]:
        p, g, *state = (array[:n] for array in arrays)
        return lambda: _core.stream(p, g, state, threads, repeats)

    found = {}
    for moved, n in elements.items():
        repeats = max(1, STREAM_BYTES // moved)
        found[moved] = loop(n, repeats), repeats
    return found


@contextmanager
def others_stream(threads: int) -> Iterator[None]:
    """Keep so many cores busy with a stream of their own."""
    p, g, *state = (np.full(BESIDE_BYTES // 16, 1e-3, np.float32) for _ in range(4))
    ended = Event()

    def run() -> None:
        while not ended.is_set():
            _core.stream(p, g, state, threads, 4)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _started(
    contenders: Sequence[peers.Peer], n: int, show: Callable[[str], None]
) -> tuple[dict[str, peers.Runner], dict[str, peers.Kept]]:
    """All that can be started, after two steps that are as float32's; what cannot is named with the reason."""
    numbers = np.random.default_rng(0).standard_normal(1 << 16)
    slopes = -0.1 * (numbers + np.copysign(0.1, numbers))
    # Small numbers, beside which two steps are long.
    p, g = (np.resize(each.astype(dtypes.bfloat16()).astype(np.float32), n) for each in (0.01 * numbers, slopes))
    runners, kept = {}, {}
    ours: NDArray[Any] | None = None
    for peer in contenders:
        try:
            runner = peer.start("Adam", [p], [g])
            runner.step()
            runner.step()
        except (ImportError, OSError, RuntimeError) as error:
            if peer.package is None:
                raise
            show(f"{peer.name}: left out: {one_line(str(error))[:200]}")
            continue
        assert runner.kept is not None
        runners[peer.name], kept[peer.name] = runner, runner.kept()
        stepped = runner.read()[0]
        ours = stepped.copy() if ours is None else ours
        apart, way = np.abs(stepped - ours).mean(), np.abs(ours - p).mean()
        if not apart <= APART * way:  # nor if it is no number
            raise AssertionError(f"{peer.name} steps otherwise: {apart / way:.0%} of the way apart from float32")
    return runners, kept


def run_case(
    case: str,
    n: int,
    contenders: Sequence[peers.Peer],
    threads: int,
    budget: float,
    show: Callable[[str], None],
    others: int = 0,
) -> list[Row]:
    """Check that all contenders take the same step, then time them and their limits by turns.

    ``others`` is the number of threads that stream meanwhile. The first contender is our float32.
    """
    with settled(threads):
        runners, kept = _started(contenders, n, show)
        limits = streams({each.moved for each in kept.values()}, threads)
        steps: dict[str, Callable[[], object]] = {name: runner.step for name, runner in runners.items()}
        steps |= {f"{moved} bytes": loop for moved, (loop, _) in limits.items()}
        with others_stream(others) if others else nullcontext():
            seconds = time_turns(steps, budget)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    rows = []
    for name, each in kept.items():
        limit = medians[f"{each.moved} bytes"] / limits[each.moved][1]
        rows.append(
            Row(
                case,
                "Adam",
                n,
                threads,
                others > 0,
                name,
                medians[name],
                float(np.quantile(seconds[name], 0.25)),
                float(np.quantile(seconds[name], 0.75)),
                medians[name] / n * 1e9,
                medians[name] / medians[contenders[0].name],
                each.state / n,
                (each.params + each.beside + each.state) / n,
                each.moved / n,
                each.moved / medians[name] / 1e9,
                limit,
                limit / medians[name],
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    first = rows[0]
    beside = ", the others stream" if first.busy else ""
    title = f"\nAdam in fewer bits, {first.case}, {first.threads} thread(s){beside}: {first.parameters:,} parameters"
    header = ("", "median", "quartiles", "ns each", "it / float32", "state B", "kept B", "moved B", "GB/s", "of limit")
    return f"{title}\n" + as_table(
        header,
        [
            (
                f"  {row.contender}",
                time_text(row.median),
                f"{time_text(row.low)} - {time_text(row.high)}",
                f"{row.ns_per_parameter:.3f}",
                f"{row.over_ours:.2f}",
                f"{row.state_bytes:.2f}",
                f"{row.kept_bytes:.2f}",
                f"{row.moved_bytes:.2f}",
                f"{row.gb_per_s:.1f}",
                f"{row.of_limit:.2f}",
            )
            for row in rows
        ],
    )


def nears(ratio: float, alone: float, beside: float) -> bool:
    """Whether a gain comes near to the ratio of bytes while others stream: nearer than alone, by half of the way."""
    return abs(ratio - beside) < max(0.05 * ratio, 0.5 * abs(ratio - alone))


def _gains(alone: Sequence[Row], beside: Sequence[Row]) -> str:
    """How much shorter each format's step is than float32's, by itself and on a memory that others use, too."""
    lines, said = [], []
    for one, two in zip(alone, beside, strict=True):
        gains = (alone[0].moved_bytes / one.moved_bytes, 1 / one.over_ours, 1 / two.over_ours)
        lines.append((f"  {one.contender}", *(f"{gain:.2f}" for gain in gains)))
        if one.contender.startswith("state "):
            said.append(f"{one.contender} {'nears it' if nears(*gains) else 'does not'}")
    table = as_table(("", "float32's bytes / its", "gain alone", "gain while the others stream"), lines)
    title = f"\nAdam, {alone[0].case}, {alone[0].threads} thread(s): float32's time over its"
    return f"{title}\n{table}\n{SENTENCE}\nHere: {', '.join(said)}."


def _fits(contenders: Sequence[peers.Peer], case: str, n: int, show: Callable[[str], None]) -> bool:
    fits = 24 * n * (len(contenders) + 2) <= 0.8 * free_memory()
    if not fits:
        show(f"\nAdam in fewer bits, {case}: left out, too large for this machine's memory")
    return fits


def chosen(names: Sequence[str] | None, quick: bool, show: Callable[[str], None]) -> list[peers.Peer]:
    """Ours, and those of others that are wanted and there; a line names those that are not."""
    found, absent = [], []
    for peer in peers.FORMATS:
        if peer.package is None:
            found.append(peer)
        elif names is not None and peer.name not in names:
            continue
        elif peer.missing():
            absent.append(peer.name)
        elif quick and names is None and peer.name in SLOW:
            show(f"{peer.name}: left out of a quick run, as it is slow")
        else:
            found.append(peer)
    if absent:
        show(f"formats: not installed: {', '.join(absent)}")
    return found


def run(
    names: Sequence[str] | None, threads: int, quick: bool, busy: bool, show: Callable[[str], None]
) -> Iterator[list[Row]]:
    """Time and show each size, or the largest on one thread beside the stream of all others; nothing without bfloat16.

    ``names`` are those of others that are wanted, None for all.
    """
    try:
        need("ml_dtypes", "left out: it", extra="low-precision")
    except ImportError as error:
        show(f"\nAdam in fewer bits: {error}")
        return
    budget = QUICK_S if quick else BUDGET_S
    if busy:
        ours = [peer for peer in peers.FORMATS if peer.package is None]
        case, n = max(SIZES.items(), key=lambda size: size[1])
        if _fits(ours, case, n, show):
            both = []
            for others in (0, threads - 1):
                both.append(run_case(case, n, ours, 1, budget, show, others))
                show(_table(both[-1]))
                yield both[-1]
            show(_gains(*both))
        return
    show("")
    contenders = chosen(names, quick, show)
    for case, n in SIZES.items():
        if _fits(contenders, case, n, show):
            rows = run_case(case, n, contenders, threads, budget, show)
            show(_table(rows))
            yield rows
