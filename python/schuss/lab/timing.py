"""How contenders are timed: by turns, on so many threads, without the garbage collector."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from .. import threads

# How long one contender is timed before the next has its turn, and the rest between, in which the threads of
# the one before fall asleep: OpenMP's keep their cores busy for some 3 ms.
TURN_NS, REST_S = 8_000_000, 0.006

STREAM = "stream limit"  # what the limit is called among the contenders of a case


def time_turns(steps: dict[str, Callable[[], object]], budget: float) -> dict[str, list[float]]:
    """Seconds per call of each function, one mean per turn, for about ``budget`` seconds in 3 to 25 turns.

    A turn starts with calls that are not counted, as the others have used caches and cores since.
    """
    counts, cost = {}, 0.0
    for name, step in steps.items():
        step()
        start = perf_counter_ns()
        step()
        once = max(perf_counter_ns() - start, 1)
        counts[name] = max(1, TURN_NS // once)
        cost += (counts[name] + min(counts[name], 10)) * once / 1e9 + REST_S
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(min(25, max(3, int(budget / cost)))):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step, count = steps[name], counts[name]
            time.sleep(REST_S)
            for _ in range(min(count, 10)):
                step()
            start = perf_counter_ns()
            for _ in range(count):
                step()
            seconds[name].append((perf_counter_ns() - start) / count / 1e9)
    return seconds


@contextmanager
def settled(n: int) -> Iterator[None]:
    """Run with ``n`` threads and without the garbage collector."""
    before = threads.get_num_threads()
    threads.set_num_threads(n)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        threads.set_num_threads(before)


def free_memory() -> int:
    """Bytes of memory that are free, as far as this system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def time_text(seconds: float) -> str:
    """A time in the unit in which it is easily read."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 1000:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
