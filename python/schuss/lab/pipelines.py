"""The benchmark of spaCy's training: a text classifier and a tagger from nothing, by thinc's optimizer and by ours.

``spacy train``'s own loop, with the configs that ``spacy init config`` writes, in which one line differs. The text is
that of Python's help topics: the classifier tells which topic a paragraph is of, the tagger learns tags that follow
from a word's shape.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Any

from .._extras import need
from .words import HELP_TOPICS

OPTIMIZERS = {"thinc": "Adam.v1", "schuss": "schuss.Adam.v1"}
TOPICS = 8  # the longest ones, which a classifier tells apart
COMPONENTS = ("textcat", "tagger")


@dataclass(frozen=True)
class Row:
    """One training: seconds in all, and of them in the optimizer; and the score on paragraphs held out."""

    component: str
    contender: str
    steps: int
    total: float
    optimizer: float
    score: float


def _examples(nlp: Any) -> Iterator[Any]:
    """Paragraphs with their topic, and a tag for each word."""
    from pydoc_data.topics import topics

    names = sorted(topics, key=lambda name: -len(topics[name]))[:TOPICS]
    for name in names:
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = paragraph.split()
            if len(words) < 8:
                continue
            doc = nlp.make_doc(" ".join(words[:120]))
            doc.cats = {each: float(each == name) for each in names}
            for token in doc:
                token.tag_ = _tag(token)
            yield doc


def _tag(token: Any) -> str:
    if token.is_punct or not token.is_alpha:
        return "OTHER"
    if token.is_stop:
        return "FUNCTION"
    ending = next((ending for ending in ("ing", "ed", "ly", "s") if token.lower_.endswith(ending)), "")
    return f"{'NAME' if token.is_title else 'WORD'}-{ending}"


def write_paragraphs(directory: Path) -> None:
    """Write the paragraphs as spaCy reads them; every fifth is held out."""
    from spacy.tokens import DocBin

    docs = list(_examples(need("spacy", "schuss bench --spacy", extra="bench").blank("en")))
    held_out = docs[::5]
    del docs[::5]
    for name, part in (("train", docs), ("dev", held_out)):
        DocBin(attrs=["ORTH", "SPACY", "TAG"], docs=part).to_disk(directory / f"{name}.spacy")


@contextmanager
def _timed(cls: Any) -> Iterator[list[int]]:
    """Nanoseconds of each call of an optimizer of this class."""
    spent: list[int] = []
    call = cls.__call__

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = perf_counter_ns()
        result = call(*args, **kwargs)
        spent.append(perf_counter_ns() - begin)
        return result

    cls.__call__ = timed
    try:
        yield spent
    finally:
        cls.__call__ = call


def train(component: str, contender: str, directory: Path, steps: int) -> Row:
    """Train as ``spacy train`` does, with the seed of its config.

    Parameters
    ----------
    component : {"textcat", "tagger"}
        The pipeline's component, with what it needs before it.
    contender : {"thinc", "schuss"}
        Whose optimizer.
    directory : Path
        With ``train.spacy`` and ``dev.spacy``.
    steps : int
        Batches, after which it is scored once.
    """
    from spacy.cli.init_config import init_config
    from spacy.training import Corpus
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train as spacy_train
    from thinc.optimizers import Optimizer as Theirs

    from ..thinc import Optimizer as Ours

    config = init_config(lang="en", pipeline=[component], optimize="efficiency")
    config["paths"] = {**config["paths"], **{name: str(directory / f"{name}.spacy") for name in ("train", "dev")}}
    config["training"] |= {"max_steps": steps, "eval_frequency": steps, "patience": 0}
    config["training"]["optimizer"]["@optimizers"] = OPTIMIZERS[contender]
    nlp = init_nlp(config, use_gpu=-1)
    with _timed(Ours if contender == "schuss" else Theirs) as spent:
        begin = perf_counter_ns()
        spacy_train(nlp, None, use_gpu=-1, stdout=io.StringIO(), stderr=io.StringIO())
        total = perf_counter_ns() - begin
    scores = nlp.evaluate(list(Corpus(config["paths"]["dev"])(nlp)))
    score = scores["cats_score" if component == "textcat" else "tag_acc"]
    return Row(component, contender, steps, total / 1e9, sum(spent) / 1e9, score)


def run(quick: bool, show: Callable[[str], None]) -> list[Row]:
    """Time both trainings by turns, three times each; print the times and the scores."""
    spacy = need("spacy", "schuss bench --spacy", extra="bench")
    rows: list[Row] = []
    steps, turns = (20, 1) if quick else (200, 3)
    show(f"\nspaCy {spacy.__version__}: {steps} steps on the {HELP_TOPICS}, seconds of {turns} turn(s)")
    show(f"  {'':10} {'':10} {'in all':>9} {'optimizer':>10} {'over ours':>10} {'score':>7}")
    with TemporaryDirectory() as directory:
        write_paragraphs(Path(directory))
        for component in COMPONENTS:
            for turn in range(turns):
                names = list(OPTIMIZERS)[:: -1 if turn % 2 else 1]
                found = {name: train(component, name, Path(directory), steps) for name in names}
                for name, row in found.items():
                    rows.append(row)
                    over = row.optimizer / found["schuss"].optimizer
                    show(
                        f"  {component:10} {name:10} {row.total:>9.2f} {row.optimizer:>10.3f} {over:>10.2f} "
                        f"{row.score:>7.3f}"
                    )
    return rows
