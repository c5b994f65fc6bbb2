"""The benchmark: the time of a step against its peers', and against the memory's limit, in one run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .optimizers import OPTIMIZERS
from .peers import Peer

# The ten tensors of the textbook's network, 784-100-100-100-100-10.
MNIST = [
    shape for n, m in ((784, 100), (100, 100), (100, 100), (100, 100), (100, 10)) for shape in ((n, m), (m,))
]

# GPT-2 small: embeddings, twelve blocks of 12 tensors, a last layer norm; 148 tensors, 124,439,808 parameters.
_GPT2_BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
_GPT2_BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
GPT2 = [(50257, 768), (1024, 768), *(_GPT2_BLOCK * 12), (768,), (768,)]

TURN_NS = 8_000_000  # how long one contender is timed before the next has its turn
STREAM = "stream limit"


@dataclass(frozen=True)
class Case:
    """What is stepped: a rule on arrays of some shapes, with the most threads that may be used."""

    name: str
    rule: str
    shapes: Sequence[tuple[int, ...]]
    dtype: str = "float32"
    threads: int = 1

    @property
    def parameters(self) -> int:
        """How many numbers are stepped."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def bytes(self) -> int:
        """What a step must move at least: the gradient in, the parameter and each state in and out."""
        streams = 3 + 2 * len(OPTIMIZERS[self.rule].slots)
        return streams * self.parameters * np.dtype(self.dtype).itemsize


@dataclass
class Row:
    """One contender in one case: times in seconds."""

    case: str
    rule: str
    dtype: str
    parameters: int
    threads: int
    contender: str
    median: float
    low: float  # quartiles
    high: float
    gb_per_s: float
    ratio: float | None  # this contender's time over ours: above 1 we are faster
    turns: int = field(default=0)


def sizes_up_to(most: float) -> list[int]:
    """1e3, 1e4 ... and 3e7, as far as `most` parameters."""
    return [n for n in (10**3, 10**4, 10**5, 10**6, 10**7, 3 * 10**7, 10**8) if n <= most]


def time_turns(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds per call of each function, once per turn; the functions take turns, so that noise hits all alike.

    A turn starts with a call that is not counted, as the others have used the caches since.
    """
    counts = {}
    for name, step in steps.items():
        step()
        start = perf_counter_ns()
        step()
        once = perf_counter_ns() - start
        counts[name] = max(1, TURN_NS // max(once, 1))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step, count = steps[name], counts[name]
            step()
            start = perf_counter_ns()
            for _ in range(count):
                step()
            seconds[name].append((perf_counter_ns() - start) / count / 1e9)
    return seconds


@contextmanager
def _quiet_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _stream(case: Case, params: Sequence[NDArray[Any]]) -> Callable[[], object]:
    """The in-place loop that moves the case's bytes, over one array of its size."""
    n, slots = case.parameters, len(OPTIMIZERS[case.rule].slots)
    p, g, *state = (np.zeros(n, params[0].dtype) for _ in range(2 + slots))
    for array in (p, g, *state):
        array[:] = 1e-3
    return lambda: _core.stream(p, g, state, case.threads)


def run_case(case: Case, contenders: Sequence[Peer], turns: int) -> list[Row]:
    """Check that all contenders take the same step, then time them by turns."""
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape, np.float32).astype(case.dtype) for shape in case.shapes]
    grads = [rng.standard_normal(shape, np.float32).astype(case.dtype) for shape in case.shapes]
    runners = {peer.name: peer.start(case.rule, params, grads) for peer in contenders}
    for runner in runners.values():
        for _ in range(3):
            runner.step()
    ours = runners["schuss"].read()
    for name, runner in runners.items():
        for mine, theirs in zip(ours, runner.read(), strict=True):
            np.testing.assert_allclose(
                theirs, mine, rtol=1e-4, atol=1e-5, err_msg=f"{name}: not the same step"
            )
    steps: dict[str, Callable[[], object]] = {name: runner.step for name, runner in runners.items()}
    steps[STREAM] = _stream(case, params)
    with _quiet_collector():
        seconds = time_turns(steps, turns)
    mine = float(np.median(seconds["schuss"]))
    rows = []
    for name, times in seconds.items():
        median, low, high = (float(np.quantile(times, q)) for q in (0.5, 0.25, 0.75))
        rows.append(
            Row(
                case.name,
                case.rule,
                case.dtype,
                case.parameters,
                case.threads,
                name,
                median,
                low,
                high,
                case.bytes / median / 1e9,
                None if name == "schuss" else median / mine,
                len(times),
            )
        )
    return rows


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of ``schuss bench``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows as JSON")


def main(args: Namespace) -> int:
    """Run the benchmark and print its table."""
    return 0
