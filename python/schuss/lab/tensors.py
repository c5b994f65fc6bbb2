"""The benchmark of steps on tensors: schuss.torch beside PyTorch's own optimizers, and beside our step on arrays.

AdamW, float32, each on tensors of its own, by turns; ours also with state of bfloat16. Where gradients are clipped
PyTorch's ``clip_grad_norm_`` stands before its step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import optimizers
from .._extras import need
from .peers import MNIST
from .timing import free_memory, settled, time_text, time_turns

OURS = "schuss.torch"


@dataclass(frozen=True)
class Row:
    """One contender's step, in seconds."""

    case: str
    contender: str
    median: float
    over_ours: float


def _contenders(shapes: Sequence[tuple[int, ...]], clip_norm: float | None) -> dict[str, Callable[[], object]]:
    torch = need("torch", "schuss bench --torch", extra="torch")
    from ..torch import AdamW

    def tensors() -> list[Any]:
        params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        for p in params:
            p.grad = torch.full(p.shape, 0.01)
        return params

    def theirs(**how: Any) -> Callable[[], object]:
        params = tensors()
        opt = torch.optim.AdamW(params, **how)
        if clip_norm is None:
            step: Callable[[], object] = opt.step
            return step

        def clipped() -> None:
            torch.nn.utils.clip_grad_norm_(params, clip_norm)
            opt.step()

        return clipped

    arrays = [np.zeros(shape, np.float32) for shape in shapes]
    grads = [np.full(shape, 0.01, np.float32) for shape in shapes]
    on_arrays = optimizers.AdamW(clip_norm=clip_norm)
    return {
        OURS: AdamW(tensors(), clip_norm=clip_norm).step,
        f"{OURS}, bfloat16": AdamW(tensors(), clip_norm=clip_norm, state_dtype="bfloat16").step,
        "schuss, arrays": lambda: on_arrays.update(arrays, grads),
        "torch fused": theirs(fused=True),
        "torch foreach": theirs(foreach=True),
    }


def run(gpt2: Sequence[tuple[int, ...]], n_threads: int, quick: bool, show: Callable[[str], None]) -> list[Row]:
    """Time all cases, the large one only if not quick."""
    torch = need("torch", "schuss bench --torch", extra="torch")
    torch.set_num_threads(n_threads)
    cases: list[tuple[str, Sequence[tuple[int, ...]], float | None]] = [
        ("one tensor of 10", [(10,)], None),
        ("MNIST tensors", MNIST, None),
        ("1,000 x 1,000", [(1000,)] * 1000, None),
    ]
    if not quick:
        cases.append(("GPT-2 small, clip_norm", gpt2, 1.0))
    rows: list[Row] = []
    show(f"\nAdamW on tensors, float32, {n_threads} thread(s), torch {torch.__version__}")
    show(f"  {'':24} {'':22} {'median':>9} {'over ours':>10}")
    for case, shapes, clip_norm in cases:
        if 5 * 16 * sum(int(np.prod(shape)) for shape in shapes) > 0.8 * free_memory():
            show(f"  {case}: left out, too large for this machine's memory")
            continue
        with settled(n_threads):
            seconds = time_turns(_contenders(shapes, clip_norm), 1.0 if quick else 6.0)
        medians = {name: float(np.median(times)) for name, times in seconds.items()}
        for name, median in medians.items():
            rows.append(Row(case, name, median, median / medians[OURS]))
            show(f"  {case:24} {name:22} {time_text(median):>9} {rows[-1].over_ours:>10.2f}")
    return rows
