"""The benchmark of gradients full of zeros: averages that have sunk below the normal range, and gradients by rows.

An element whose gradient is zero for long, a pixel that is always black, has a momentum that shrinks until it is
subnormal, after some 800 steps of Adam; many processors are slow on such numbers. In the first table a share of the
elements has had zero gradients for 1,000 steps; a step without any is what the others are compared with.

In the second, each step names some rows of a table, drawn by Zipf's law, as words are. Exact rows are caught up before
each step, as a forward pass would want it, and all of them at the end; their time is the mean, with that end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter_ns
from typing import Any

import numpy as np

from .. import optimizers, threads
from ..rows import Rows
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


ROW_STEPS = 400  # by rows; a dense step is timed a few times


@dataclass(frozen=True)
class RowsRow:
    """One way of a step on a table of which a batch names some rows, in seconds."""

    case: str
    rule: str
    way: str
    seconds: float
    dense_over_it: float  # the dense step's time over its own


def _zipf(n: int, k: int, seed: int) -> Callable[[], Any]:
    """Draws k rows of n: the i-th most frequent one, which lies anywhere, with a probability that goes with 1 / i."""
    rng = np.random.default_rng(seed)
    order, chances = rng.permutation(n), np.cumsum(1 / np.arange(1, n + 1))
    return lambda: order[np.searchsorted(chances, rng.random(k) * chances[-1])]


def _mean_time(
    step: Callable[[Any, Any], object], n: int, width: int, k: int, steps: int, end: Callable[[], object]
) -> float:
    draw, values = _zipf(n, k, 1), np.random.default_rng(0).standard_normal((k, width), np.float32)
    for _ in range(min(100, steps)):  # until the rows that come often have their memory
        step(draw(), values)
    spent = 0
    for _ in range(steps):
        indices = draw()
        begin = perf_counter_ns()
        step(indices, values)
        spent += perf_counter_ns() - begin
    begin = perf_counter_ns()
    end()
    return (spent + perf_counter_ns() - begin) / steps / 1e9


def _our_rows(rule: str, way: str, n: int, width: int, k: int, steps: int) -> float:
    params = {"E": np.random.default_rng(0).standard_normal((n, width), np.float32)}
    opt = optimizers.OPTIMIZERS[rule](lr=peers.LR, sparse="touched" if way == "touched" else "exact")
    dense = np.zeros((n, width), np.float32)

    def step(indices: Any, values: Any) -> None:
        if way == "dense":
            opt.update(params, {"E": dense})  # whose values do not matter, nor who made them
            return
        opt.catch_up(params, {"E": indices})
        opt.update(params, {"E": Rows(indices, values)})

    return _mean_time(step, n, width, k, steps, lambda: opt.catch_up(params))


def _torch_rows(rule: str, n: int, width: int, k: int, steps: int) -> float:
    import torch

    torch.set_num_threads(threads.get_num_threads())
    table = torch.nn.Parameter(torch.randn(n, width))
    opt: Any = {"Adam": torch.optim.SparseAdam, "AdaGrad": torch.optim.Adagrad}[rule]([table], lr=peers.LR)

    def step(indices: Any, values: Any) -> None:
        table.grad = torch.sparse_coo_tensor(torch.from_numpy(indices)[None], torch.from_numpy(values), (n, width))
        opt.step()

    with torch.sparse.check_sparse_tensor_invariants(False):  # which is how it is, but with a warning
        return _mean_time(step, n, width, k, steps, lambda: None)


def run_rows(n_threads: int, quick: bool, show: Callable[[str], None]) -> list[RowsRow]:
    """Time Adam and AdaGrad on a table of 1e6 rows of 64, or of 1e5 if quick, of which a step names 4,096."""
    n, width, k = (10**5 if quick else 10**6), 64, 4096
    rows: list[RowsRow] = []
    if 5 * 4 * n * width > 0.8 * free_memory():
        show("\ngradients by rows: left out, too large for this machine's memory")
        return rows
    with settled(n_threads):
        for rule in ("Adam", "AdaGrad"):
            case = f"{n:,} x {width}, {k:,} rows a step"
            show(f"\n{rule}, table of {case}, float32, {n_threads} thread(s)")
            show(f"  {'':18} {'a step':>9} {'dense / it':>11}")
            found = {"dense": _our_rows(rule, "dense", n, width, k, 20)}
            found |= {way: _our_rows(rule, way, n, width, k, ROW_STEPS) for way in ("exact", "touched")}
            if find_spec("torch"):
                found["torch, touched"] = _torch_rows(rule, n, width, k, min(ROW_STEPS, 50))
            for way, seconds in found.items():
                row = RowsRow(case, rule, way, seconds, found["dense"] / seconds)
                rows.append(row)
                show(f"  {way:18} {time_text(seconds):>9} {row.dense_over_it:>10.1f}x")
    return rows
