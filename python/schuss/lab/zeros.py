"""The benchmark of gradients full of zeros: steps whose averages have sunk below the normal range.

An element whose gradient is zero for long, a pixel that is always black, has a momentum that shrinks until it is
subnormal, after some 800 steps of Adam; many processors are slow on such numbers. Here a share of the elements has had
zero gradients for 1,000 steps; a step without any is what the others are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from . import peers
from .peers import MNIST
from .timing import free_memory, settled, time_text, time_turns

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)  # of the elements
STEPS = 1000


@dataclass(frozen=True)
class Row:
    """One contender's step, in seconds, where a share of the gradients is zero."""

    case: str
    share: float
    contender: str
    median: float
    over_ours: float
    over_ordinary: float  # its time over its own without zeros


def _started(contender: peers.Peer, shapes: Sequence[tuple[int, ...]], share: float) -> peers.Runner:
    """A contender after one ordinary step, and so many in which a share of the elements had none."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(1 << 16, np.float32)
    params, grads = ([np.resize(numbers * size, shape) for shape in shapes] for size in (1, 0.01))
    runner = contender.start("Adam", params, grads)
    runner.step()
    chosen = rng.random(1 << 16) < share
    for g in runner.grads:
        g[np.resize(chosen, g.shape)] = 0
    for _ in range(STEPS):
        runner.step()
    return runner


def run(contenders: Sequence[peers.Peer], n_threads: int, quick: bool, show: Callable[[str], None]) -> list[Row]:
    """Time Adam on the network's ten tensors and, unless quick, on 3e7 parameters."""
    rows: list[Row] = []
    cases: list[tuple[str, Sequence[tuple[int, ...]], tuple[float, ...], tuple[str, ...]]] = [
        ("MNIST tensors", MNIST, SHARES, ("schuss", "torch fused", "numpy"))
    ]
    if not quick:  # a thousand steps of NumPy would take ten minutes
        cases.append(("3e7", [(3 * 10**7,)], (0.0, 0.1, 0.5), ("schuss", "torch fused")))
    for case, shapes, shares, names in cases:
        parameters = sum(int(np.prod(shape)) for shape in shapes)
        if len(names) * 20 * parameters > 0.8 * free_memory():
            show(f"\n{case}: left out, too large for this machine's memory")
            continue
        ordinary: dict[str, float] = {}
        show(f"\nAdam, {case}, float32, {n_threads} thread(s); zero gradients for {STEPS:,} steps")
        show(f"  {'zeros':>6} {'':14} {'median':>9} {'its own without':>16} {'theirs / ours':>14}")
        for share in shares:
            with settled(n_threads):
                runners = {peer.name: _started(peer, shapes, share) for peer in contenders if peer.name in names}
                seconds = time_turns({name: runner.step for name, runner in runners.items()}, 1.0 if quick else 3.0)
            medians = {name: float(np.median(times)) for name, times in seconds.items()}
            ordinary = ordinary or medians
            for name, median in medians.items():
                row = Row(case, share, name, median, median / medians["schuss"], median / ordinary[name])
                rows.append(row)
                ours = "" if name == "schuss" else f"{row.over_ours:.2f}"
                show(f"  {share:>6.0%} {name:14} {time_text(median):>9} {row.over_ordinary:>15.2f}x {ours:>14}")
    return rows
