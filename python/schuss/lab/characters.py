"""A small transformer that learns to write on, character by character: PyTorch's step against ours.

Both have the same batches, by turns. The text is that of Python's help topics. The model: embedding, blocks of causal
attention and of two linear layers, each after a layer norm and added to what came in (Vaswani et al., Attention is all
you need, 2017, arXiv:1706.03762; the norms' place: Xiong et al., 2020, arXiv:2002.04745).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from .. import threads
from .._extras import need
from . import plots
from .setting import Setting
from .words import HELP_TOPICS, WordRun, help_topics

WAYS = ("torch.optim.AdamW", "schuss.torch.AdamW")
CLIP_NORM, LR, WEIGHT_DECAY = 1.0, 1e-3, 0.1


@dataclass
class CharacterRace:
    """Both ways, and the largest difference of their losses, relative to the loss."""

    runs: list[WordRun]
    setting: Setting
    difference: float | None = None
    interrupted: bool = False

    def _repr_png_(self) -> bytes | None:
        return plots.shown_in_notebook(plots.characters_figure, self)


def _model(characters: int, width: int, layers: int, context: int) -> Any:
    torch = need("torch", "schuss compare transformer", extra="torch")
    nn = torch.nn

    class Transformer(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.letters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
            block = nn.TransformerEncoderLayer(
                width, max(1, width // 32), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), enable_nested_tensor=False)
            self.out = nn.Linear(width, characters)
            self.mask = nn.Transformer.generate_square_subsequent_mask(context)

        def forward(self, x: Any) -> Any:
            return self.out(self.blocks(self.letters(x) + self.places.weight, mask=self.mask, is_causal=True))

    return Transformer()


def _optimizer(way: str, model: Any) -> Any:
    """Weight decay for matrices alone, as is usual: two groups."""
    import torch

    from ..torch import AdamW

    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    if way == WAYS[0]:
        return torch.optim.AdamW(groups, lr=LR, fused=True)
    return AdamW(groups, lr=LR, clip_norm=CLIP_NORM)


def transformer(
    *,
    width: int = 128,
    layers: int = 2,
    context: int = 64,
    iterations: int = 400,
    batch_size: int = 16,
    seed: int = 0,
    watch: Callable[[WordRun], object] = lambda run: None,
) -> CharacterRace:
    """Train the same model on the same batches with PyTorch's AdamW (fused, after ``clip_grad_norm_``) and with ours.

    Parameters
    ----------
    width, layers, context : int
        Of the model: numbers for a character, blocks, and characters that it sees.
    iterations, batch_size, seed : int
        The seed gives the first parameters and the batches.
    watch : callable
        Called with PyTorch's run when both have made an iteration.
    """
    torch = need("torch", "schuss compare transformer", extra="torch")
    text = help_topics()
    alphabet = sorted(set(text))
    numbers = torch.tensor(np.searchsorted(alphabet, list(text)))
    setting = Setting(
        data=HELP_TOPICS,
        counts={"characters": len(text), "different": len(alphabet)},
        model=f"transformer, {layers} blocks of width {width}, context {context}, AdamW, clip_norm {CLIP_NORM:g}",
        iterations=iterations,
        batch_size=batch_size,
        seeds=(seed,),
    )
    race = CharacterRace([], setting)
    before = torch.get_num_threads()
    torch.set_num_threads(threads.get_num_threads())
    runners = []
    for way in WAYS:
        torch.manual_seed(seed)
        model = _model(len(alphabet), width, layers, context)
        runners.append((WordRun(way, seed=seed), model, _optimizer(way, model), list(model.parameters())))
    race.runs += [run for run, *_ in runners]
    rng = np.random.default_rng(seed)
    try:
        for iteration in range(iterations):
            starts = torch.from_numpy(rng.integers(0, len(text) - context, batch_size))
            windows = numbers[starts[:, None] + torch.arange(context + 1)]
            for run, model, opt, params in runners[:: -1 if iteration % 2 else 1]:
                begin = perf_counter_ns()
                loss = torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
                loss.backward()
                computed = perf_counter_ns()
                if run.name == WAYS[0]:
                    torch.nn.utils.clip_grad_norm_(params, CLIP_NORM)
                opt.step()
                opt.zero_grad()
                end = perf_counter_ns()
                run.gradient_ns.append(computed - begin)
                run.update_ns.append(end - computed)
                run.losses.append(loss.item())
            watch(race.runs[0])
    except KeyboardInterrupt:
        race.interrupted = True
        race.runs[:] = [run for run in race.runs if run.losses]
    finally:
        torch.set_num_threads(before)
    if len(race.runs) == 2:
        both = min(len(run.losses) for run in race.runs)
        a, b = (np.array(run.losses[:both]) for run in race.runs)
        race.difference = float(np.max(np.abs(a - b) / a))
    return race
