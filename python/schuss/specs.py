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

from . import schedules
from .optimizers import OPTIMIZERS
from .schedules import Schedule

SCHEDULES: dict[str, Any] = {
    name: getattr(schedules, name) for name in schedules.__all__ if name not in ("Schedule", "Joined")
}


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
        raise ValueError(f"{text!r}: {error}") from None
    return spec


def parse_schedule(text: str) -> Schedule:
    """Read a schedule from text, as in ``"WarmupCosine(1e-3, warmup=100, steps=2000)"``.

    Raises
    ------
    ValueError
        If the text cannot be read, or names no schedule, or the schedule does not take the arguments.
    """
    name, positional, named = _call(text, SCHEDULES, "schedule", "Cosine(0.1, steps=2000)")
    return _make_schedule(text, name, positional, named)


def _make_schedule(text: str, name: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> Schedule:
    try:
        schedule: Schedule = SCHEDULES[name](*positional, **named)
        schedule(1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from None
    return schedule


def _call(text: str, table: Mapping[str, Any], kind: str, example: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        node = None
    call = ast.Call(node, [], []) if isinstance(node, ast.Name) else node
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        name = example.split("(")[0]
        raise ValueError(f"{text!r} cannot be read; write a name, as in {name}, or a call, as in {example}")
    if call.func.id not in table:
        raise ValueError(f"no {kind} is called {call.func.id!r}; there are {', '.join(table)}")
    positional = tuple(_value(each, text) for each in call.args)
    named = {each.arg: _value(each.value, text) for each in call.keywords if each.arg}
    return call.func.id, positional, named


def _value(node: ast.expr, text: str) -> Any:
    """A literal, a schedule, or a list of them."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SCHEDULES:
        return _make_schedule(
            text,
            node.func.id,
            tuple(_value(each, text) for each in node.args),
            {each.arg: _value(each.value, text) for each in node.keywords if each.arg},
        )
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_value(each, text) for each in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{text!r}: {ast.unparse(node)!r} is neither a number nor a schedule") from None
