"""Words as vectors: skip-gram with negative sampling, trained by dense gradients, by rows, and by rows touched alone.

Mikolov et al., Distributed representations of words and phrases and their compositionality, 2013, arXiv:1310.4546;
"Deep Learning from Scratch 2", chapter 4. The text is that of Python's help topics, which each CPython has
(``pydoc_data``): some 60,000 words, of which 3,000 and more are different. It differs a little between versions.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..nn import Embedding
from ..rows import Rows
from ..specs import parse_optimizer
from . import plots
from .experiments import MOST_NUMBERS
from .setting import Setting

Array = NDArray[Any]

WAYS = ("dense", "rows, exact", "rows, touched")
WINDOW, NEGATIVES = 5, 5


HELP_TOPICS = f"help topics of Python {sys.version_info.major}.{sys.version_info.minor}"


def help_topics() -> str:
    """The text of that name."""
    from pydoc_data.topics import topics  # here, as it takes a megabyte

    return "\n".join(topics[name] for name in sorted(topics))


@dataclass
class Words:
    """A text as numbers of words, from the most frequent on."""

    vocabulary: list[str]
    numbers: NDArray[np.int64]

    @classmethod
    def of_python(cls) -> Words:
        """The help topics of this Python."""
        found = re.findall(r"[a-z_]+", help_topics().lower())
        vocabulary = [word for word, _ in sorted(Counter(found).items(), key=lambda pair: (-pair[1], pair[0]))]
        number = {word: i for i, word in enumerate(vocabulary)}
        return cls(vocabulary, np.array([number[word] for word in found], np.int64))

    def noise(self) -> NDArray[np.float64]:
        """The distribution of negative samples, cumulated: frequencies to the power of 3/4."""
        weights = np.bincount(self.numbers).astype(np.float64) ** 0.75
        return np.cumsum(weights / weights.sum())


class SkipGram:
    """Two tables of vectors, of words and of words beside them: their products tell who stands beside whom.

    The loss of a pair is ``-log s(v u) - sum log s(-v u_k)`` over the negative samples k, with the sigmoid s; the mean
    over the batch.
    """

    def __init__(self, words: int, dimensions: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first = rng.standard_normal((2, words, dimensions), np.float32) * np.float32(dimensions**-0.5)
        self.params = {"in": first[0].copy(), "out": first[1] * np.float32(0.1)}
        self.inner, self.outer = Embedding(self.params["in"]), Embedding(self.params["out"])

    def gradient(self, centers: Array, others: Array) -> tuple[float, dict[str, Rows]]:
        """The loss of a batch, and its gradient by rows.

        Parameters
        ----------
        centers : ndarray of int64, shape (b,)
        others : ndarray of int64, shape (b, 1 + negatives)
            First the word that stands beside the center, then those that were drawn.
        """
        v, u = self.inner.forward(centers), self.outer.forward(others)
        scores = np.einsum("bd,bkd->bk", v, u)
        scores[:, 0] *= -1
        loss = float(np.logaddexp(0, scores).sum(axis=1).mean())
        d = 1 / (1 + np.exp(-scores)) / np.float32(len(centers))
        d[:, 0] *= -1
        self.inner.backward(np.einsum("bk,bkd->bd", d, u))
        self.outer.backward(d[:, :, None] * v[:, None, :])
        return loss, {"in": self.inner.dW, "out": self.outer.dW}


@dataclass
class WordRun:
    """One way's training: a loss per iteration, times in nanoseconds, bytes of a step's gradient."""

    name: str
    losses: list[float] = field(default_factory=list)
    gradient_ns: list[int] = field(default_factory=list)  # forward, backward; and, in the dense way, zeros and sums
    update_ns: list[int] = field(default_factory=list)  # with what catches up
    gradient_bytes: int = 0
    seed: int = 0

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last 200 iterations."""
        return float(np.mean(self.losses[-200:]))


@dataclass
class WordRace:
    """The three ways, and whether the exact one came to the losses and parameters of the dense one, bit for bit.

    ``same_bits`` is None where one of the two was cut short.
    """

    runs: list[WordRun]
    setting: Setting
    same_bits: bool | None = None
    interrupted: bool = False

    def _repr_png_(self) -> bytes | None:
        return plots.shown_in_notebook(plots.words_figure, self)


def _pairs(words: Words, batch_size: int, seed: int) -> Callable[[], tuple[Array, Array]]:
    """Draws a center, a word up to so many places away, and negative samples; the same for every way."""
    rng, noise, text = np.random.default_rng(seed), words.noise(), words.numbers

    def draw() -> tuple[Array, Array]:
        at = rng.integers(WINDOW, len(text) - WINDOW, batch_size)
        away = rng.integers(1, WINDOW + 1, batch_size) * rng.choice((-1, 1), batch_size)
        drawn = np.searchsorted(noise, rng.random((batch_size, NEGATIVES)))
        return text[at], np.concatenate([text[at + away][:, None], np.minimum(drawn, len(noise) - 1)], axis=1)

    return draw


def embedding(
    words: Words,
    *,
    optimizer: str = "Adam(lr=0.003)",
    dimensions: int = 100,
    iterations: int = 6000,
    batch_size: int = 32,
    seed: int = 0,
    watch: Callable[[WordRun], object] = lambda run: None,
) -> WordRace:
    """Train the same vectors on the same pairs in three ways: dense, by rows, and by rows touched alone.

    Parameters
    ----------
    words : Words
    optimizer : str
        By name or with arguments; one of those that take gradients by rows.
    dimensions, iterations, batch_size, seed : int
        The seed gives the first vectors and the pairs.
    watch : callable
        Called with the run after each iteration.
    """
    spec = parse_optimizer(optimizer)
    try:
        spec.make().update({"in": np.zeros((1, 1))}, {"in": Rows(np.zeros(1, np.int64), np.ones((1, 1)))})
    except TypeError:
        raise ValueError(f"{spec.name} cannot take gradients by rows, as its step needs all of an array") from None
    if dimensions * max(2 * len(words.vocabulary), batch_size * (2 + NEGATIVES)) > MOST_NUMBERS:
        raise ValueError(
            f"vectors of {dimensions:,} dimensions, {len(words.vocabulary):,} words and batches of {batch_size:,} are "
            f"more than {MOST_NUMBERS:,} numbers; choose fewer dimensions or a smaller batch"
        )
    setting = Setting(
        data=HELP_TOPICS,
        counts={"words": len(words.numbers), "different": len(words.vocabulary)},
        model=f"skip-gram, {NEGATIVES} negative samples, {spec.text}",
        layers=(len(words.vocabulary), dimensions),
        iterations=iterations,
        batch_size=batch_size,
        seeds=(seed,),
    )
    race, ends = WordRace([], setting), []
    try:
        for way in WAYS:
            run = WordRun(way, seed=seed)
            race.runs.append(run)
            model, draw = SkipGram(len(words.vocabulary), dimensions, seed), _pairs(words, batch_size, seed)
            opt = spec.make()
            opt.sparse = "touched" if way == WAYS[2] else "exact"
            for _ in range(iterations):
                centers, others = draw()
                begin = perf_counter_ns()
                opt.catch_up(model.params, {"in": centers, "out": others})
                caught_up = perf_counter_ns()
                loss, rows = model.gradient(centers, others)
                grads: dict[str, Any] = dict(rows)
                if way == WAYS[0]:
                    grads = {name: each.dense(len(words.vocabulary)) for name, each in rows.items()}
                computed = perf_counter_ns()
                opt.update(model.params, grads)
                end = perf_counter_ns()
                run.gradient_ns.append(computed - caught_up)
                run.update_ns.append(end - computed + caught_up - begin)
                run.losses.append(loss)
                run.gradient_bytes = sum(
                    each.values.nbytes + each.indices.nbytes if isinstance(each, Rows) else each.nbytes
                    for each in grads.values()
                )
                watch(run)
            begin = perf_counter_ns()
            opt.catch_up(model.params)
            run.update_ns[-1] += perf_counter_ns() - begin
            ends.append({name: p.tobytes() for name, p in model.params.items()})
    except KeyboardInterrupt:
        race.interrupted = True
        race.runs[:] = [run for run in race.runs if run.losses]
    if len(ends) > 1:
        dense, exact = (np.array(run.losses).tobytes() for run in race.runs[:2])  # NaN is not equal to itself
        race.same_bits = dense == exact and ends[0] == ends[1]
    return race
