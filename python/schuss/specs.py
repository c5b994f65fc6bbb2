"""Optimizers and schedules written as text, as the command line takes them: ``"Adam(lr=1e-3)"``.

The text is Python, but never run: a name of ours, called with literals and with schedules.

>>> from schuss.specs import parse_optimizer
>>> parse_optimizer("Lion(3e-4, weight_decay=0.1)").make()
Lion(lr=0.0003, beta1=0.9, beta2=0.99, weight_decay=0.1)
>>> parse_optimizer("SGD(lr=Cosine(0.1, steps=100))").make().lr
Cosine(lr=0.1, steps=100, end=0.0)
>>> parse_optimizer("Adam(lr=1e-3")
Traceback (most recent call last):
ValueError: 'Adam(lr=1e-3' cannot be read; write a name, as in Adam, or a call, as in Adam(lr=1e-3)
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings, simplefilter

from .checks import POSITIVE, number, shown
from .registry import OPTIMIZERS
from .schedules import SCHEDULES, Schedule, join

# What text may call: join() makes a Joined.
_CALLED: dict[str, Any] = {**{name: cls for name, cls in SCHEDULES.items() if name != "Joined"}, "join": join}

_LONGEST = 1000  # characters; without a limit some thousand brackets exhaust the parser
_MOST_DIGITS = 18  # of a whole number: what is larger fits no 64 bits, and its powers no memory


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer's name and arguments. The text is its label in tables and figures."""

    text: str
    name: str
    positional: tuple[Any, ...]
    named: Mapping[str, Any]

    def make(self, table: Mapping[str, type[Any]] = OPTIMIZERS, **defaults: Any) -> Any:
        """Make the optimizer; ``defaults`` stand for named arguments that the text does not give."""
        given = dict(zip(OPTIMIZERS[self.name]._arguments, self.positional, strict=False)) | dict(self.named)
        return table[self.name](**{**defaults, **given})


def parse_optimizer(text: str) -> OptimizerSpec:
    """Read an optimizer from text.

    Raises
    ------
    ValueError
        If the text cannot be read, or names no optimizer, or the optimizer does not take the arguments; the
        message says which.
    """
    name, positional, named = _call(text, OPTIMIZERS, "optimizer", "Adam(lr=1e-3)")
    spec = OptimizerSpec(text, name, positional, named)
    try:
        OPTIMIZERS[name](*positional, **named)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(text)}: {error}") from None
    return spec


def parse_schedule(text: str) -> Schedule:
    """Read a schedule from text, as in ``"WarmupCosine(1e-3, warmup=100, steps=2000)"``.

    Raises
    ------
    ValueError
        If the text cannot be read, or names no schedule, or the schedule does not take the arguments.
    """
    name, positional, named = _call(text, _CALLED, "schedule", "Cosine(0.1, steps=2000)")
    return _make_schedule(text, name, positional, named)


def _make_schedule(text: str, name: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Schedule:
    try:
        schedule: Schedule = _CALLED[name](*positional, **named)
        number("the rate of step 1", schedule(1), *POSITIVE)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{shown(text)}: {error}") from None
    return schedule


def _call(text: str, table: Mapping[str, Any], kind: str, example: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    if len(text) > _LONGEST:
        raise ValueError(f"{shown(text)} cannot be read: it has {len(text):,} characters, more than {_LONGEST:,}")
    try:
        with catch_warnings():
            simplefilter("ignore")  # the parser's, of strings with odd backslashes
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # of null bytes, and of what is nested too deeply
        node = None
    call = ast.Call(node, [], []) if isinstance(node, ast.Name) else node
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        name = example.split("(")[0]
        raise ValueError(f"{shown(text)} cannot be read; write a name, as in {name}, or a call, as in {example}")
    if call.func.id not in table:
        meant = [name for name in table if name.lower() == call.func.id.lower()]
        there = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(table)}"
        raise ValueError(f"no {kind} is called {shown(call.func.id)}; {there}")
    for each in ast.walk(call):
        if isinstance(each, ast.Constant) and isinstance(each.value, int) and each.value >= 10**_MOST_DIGITS:
            raise ValueError(
                f"{shown(text)}: expected whole numbers of at most {_MOST_DIGITS} digits; write a larger one as in 1e30"
            )
    try:
        return call.func.id, *_arguments(call, text)
    except RecursionError:
        raise ValueError(f"{shown(text)} cannot be read: it is nested too deeply") from None


def _arguments(call: ast.Call, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, each as it is written: none is dropped, none is taken for another."""
    names = [each.arg for each in call.keywords]
    if None in names or any(isinstance(each, ast.Starred) for each in call.args):
        raise ValueError(f"{shown(text)}: * and ** are not taken here; write each argument by itself, as in lr=0.1")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{shown(text)}: the argument {shown(name)} is given twice")
    positional = tuple(_value(each, text) for each in call.args)
    return positional, {str(each.arg): _value(each.value, text) for each in call.keywords}


def _value(node: ast.expr, text: str) -> Any:
    """A literal, a schedule, or a list of them."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLED:
        return _make_schedule(text, node.func.id, *_arguments(node, text))
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_value(each, text) for each in node.elts)
    try:
        return ast.literal_eval(node)
    except (TypeError, ValueError):  # TypeError: of a set of lists
        raise ValueError(f"{shown(text)}: {shown(ast.unparse(node))} is neither a number nor a schedule") from None
